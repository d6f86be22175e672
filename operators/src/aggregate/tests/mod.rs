//! Both halves of an aggregation, called by hand, compared with DataFusion's own accumulators over each group's
//! rows at once, groups being told apart by a standard map over their printed keys.

mod arguments;
mod functions;
mod memory;
mod nested_order;
mod shapes;
mod sorted;

use std::collections::BTreeMap;
use std::sync::Arc;

use aqueduct_runtime::io::Io;
use aqueduct_runtime::memory::{Account, MemoryPool};
use aqueduct_runtime::spill::SpillSpace;
use aqueduct_runtime::{Operator, OperatorContext, OperatorSpec, Outbox, Step};
use arrow::array::{ArrayRef, AsArray, UInt64Array};
use arrow::compute::{concat_batches, filter_record_batch, take_record_batch};
use arrow::datatypes::{Float64Type, SchemaRef};
use arrow::record_batch::RecordBatch;
use datafusion_common::ScalarValue;
use datafusion_expr::AggregateUDF;
use datafusion_physical_expr::PhysicalSortExpr;
use datafusion_physical_expr::aggregate::{AggregateExprBuilder, AggregateFunctionExpr};
use datafusion_physical_expr::expressions::col;

use super::{Aggregate, FinalAggregate, PartialAggregate};
use crate::expression::{Expression, evaluate, evaluate_mask};

/// One aggregate to compute.
#[derive(Clone)]
struct Call {
    function: Arc<AggregateUDF>,
    arguments: Vec<Expression>,
    distinct: bool,
    order_by: Vec<PhysicalSortExpr>,
    filter: Option<Expression>,
}

impl Call {
    fn new(function: Arc<AggregateUDF>, arguments: Vec<Expression>) -> Self {
        Self { function, arguments, distinct: false, order_by: Vec::new(), filter: None }
    }

    fn build(&self, schema: &SchemaRef, name: &str) -> datafusion_common::Result<Arc<AggregateFunctionExpr>> {
        AggregateExprBuilder::new(Arc::clone(&self.function), self.arguments.clone())
            .schema(Arc::clone(schema))
            .alias(name)
            .with_distinct(self.distinct)
            .order_by(self.order_by.clone())
            .build()
            .map(Arc::new)
    }
}

fn describe(schema: &SchemaRef, group: &[&str], calls: &[Call]) -> aqueduct_runtime::Result<Arc<Aggregate>> {
    let group = group.iter().map(|name| (col(name, schema).expect("a column"), (*name).to_string())).collect();
    let aggregates = calls
        .iter()
        .enumerate()
        .map(|(index, call)| call.build(schema, &format!("a{index}")).expect("fits its arguments"))
        .collect();
    let filters = calls.iter().map(|call| call.filter.clone()).collect();
    Aggregate::try_new(Arc::clone(schema), group, aggregates)?.with_filters(filters).map(Arc::new)
}

/// How a test runs an aggregation.
#[derive(Clone, Copy)]
struct Run {
    partials: usize,
    finals: usize,
    batch_bytes: usize,
    batch_rows: usize,
    /// Bytes that the pool has beyond the floors.
    floating_bytes: usize,
    /// Whether the second half is told to spill after every batch.
    force_spill: bool,
}

impl Default for Run {
    fn default() -> Self {
        Run {
            partials: 2,
            finals: 3,
            batch_bytes: 64 << 10,
            batch_rows: 1000,
            floating_bytes: 1 << 30,
            force_spill: false,
        }
    }
}

struct Outcome {
    batches: Vec<RecordBatch>,
    spilled_bytes: u64,
    overruns: usize,
    /// Rows between the halves.
    state_rows: usize,
}

fn context(run: &Run, partition: usize, input: SchemaRef, memory: Account, spill: &SpillSpace) -> OperatorContext {
    let (io, _threads) = Io::start("test", 1).expect("a thread");
    OperatorContext {
        node: "aggregate".into(),
        partition,
        partitions: run.finals,
        inputs: vec![input],
        lanes: vec![1],
        batch_bytes: run.batch_bytes,
        batch_rows: run.batch_rows,
        memory,
        spill: spill.clone(),
        io,
    }
}

/// Goes on until the operator wants input or has ended.
fn drive(operator: &mut dyn Operator, mut step: Step, out: &mut Outbox, emitted: &mut Vec<RecordBatch>) {
    loop {
        emitted.extend(std::iter::from_fn(|| out.pop().map(|(_, batch)| batch)));
        step = match step {
            Step::NeedInput | Step::Done => return,
            Step::MoreOutput => operator.resume(out).expect("goes on"),
            Step::Blocked(ticket) => {
                ticket.wait();
                operator.resume(out).expect("goes on")
            }
        };
    }
}

/// Runs both halves over `input`, exchanged by a hash of the printed keys.
fn run(aggregate: &Arc<Aggregate>, input: &[RecordBatch], run: &Run) -> Outcome {
    let (first, second) = (PartialAggregate::new(Arc::clone(aggregate)), FinalAggregate::new(Arc::clone(aggregate)));
    let finals = if aggregate.group_column_names().is_empty() { 1 } else { run.finals };
    let (floor, partial_floor) = (second.min_memory(run.batch_bytes), first.min_memory(run.batch_bytes));
    let pool = MemoryPool::new(finals * floor + run.partials * partial_floor + run.floating_bytes);
    let admission = pool.admit(finals * floor + run.partials * partial_floor).expect("the pool has the floors");
    let spill = SpillSpace::temporary();
    let state_schema = first.output_schema(0, &[aggregate.input_schema()]).expect("its input");
    assert_eq!(second.output_schema(0, &[Arc::clone(&state_schema)]).expect("its input"), aggregate.output_schema());

    let mut seconds: Vec<_> = (0..finals)
        .map(|partition| {
            let memory = admission.account("final", floor);
            second.instantiate(context(run, partition, Arc::clone(&state_schema), memory, &spill)).expect("starts")
        })
        .collect();
    let mut outcome = Outcome { batches: Vec::new(), spilled_bytes: 0, overruns: 0, state_rows: 0 };
    let mut out = Outbox::new();
    for partial in 0..run.partials {
        let memory = admission.account("partial", partial_floor);
        let context = context(run, partial, aggregate.input_schema(), memory, &spill);
        let mut operator = first.instantiate(context).expect("starts");
        let mut states = Vec::new();
        for batch in input.iter().skip(partial).step_by(run.partials) {
            let step = operator.process(0, batch.clone(), &mut out).expect("takes rows");
            drive(operator.as_mut(), step, &mut out, &mut states);
        }
        let step = operator.finish(0, &mut out).expect("ends");
        drive(operator.as_mut(), step, &mut out, &mut states);
        for states in states {
            assert!(states.num_rows() <= run.batch_rows);
            outcome.state_rows += states.num_rows();
            let of = exchange(&states, aggregate.group_column_names().len(), finals);
            for (partition, second) in seconds.iter_mut().enumerate() {
                let mask = of.iter().map(|of| Some(*of == partition)).collect();
                let rows = filter_record_batch(&states, &mask).expect("a row each");
                if rows.num_rows() > 0 {
                    second.process(0, rows, &mut out).expect("takes states");
                    assert!(out.is_empty());
                    while run.force_spill && second.spill(1).expect("spills") > 0 {}
                }
            }
        }
    }
    for mut second in seconds {
        let step = second.finish(0, &mut out).expect("ends");
        drive(second.as_mut(), step, &mut out, &mut outcome.batches);
    }
    outcome.spilled_bytes = spill.spilled_bytes();
    outcome.overruns = pool.overruns();
    drop(admission);
    assert_eq!(pool.charged(), 0, "everything was given back");
    for batch in &outcome.batches {
        assert_eq!(batch.schema(), aggregate.output_schema());
    }
    outcome
}

fn exchange(batch: &RecordBatch, keys: usize, partitions: usize) -> Vec<usize> {
    let texts = printed(batch, keys);
    texts
        .iter()
        .map(|text| text.bytes().fold(7usize, |hash, byte| hash.wrapping_mul(31) ^ byte as usize) % partitions)
        .collect()
}

/// The first `columns` columns of each row, printed. -0 and NaN as SQL groups them.
fn printed(batch: &RecordBatch, columns: usize) -> Vec<String> {
    (0..batch.num_rows())
        .map(|row| {
            let one = |column: &ArrayRef| match ScalarValue::try_from_array(column, row).expect("a value") {
                ScalarValue::Float64(Some(0.0)) => "0".to_string(),
                ScalarValue::Dictionary(_, value) => value.to_string(),
                value => format!("{value}{}", if value.is_null() { "?" } else { "" }),
            };
            batch.columns()[..columns].iter().map(one).collect::<Vec<_>>().join("|")
        })
        .collect()
}

/// Results by printed key, as DataFusion's accumulators compute them from each group's rows at once.
fn expected(
    schema: &SchemaRef,
    group: &[&str],
    calls: &[Call],
    input: &[RecordBatch],
) -> BTreeMap<String, Vec<ScalarValue>> {
    let all = concat_batches(schema, input).expect("one schema");
    let keys: Vec<usize> = group.iter().map(|name| schema.index_of(name).expect("a column")).collect();
    let texts = printed(&all.project(&keys).expect("columns"), keys.len());
    let mut rows_of: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    if keys.is_empty() {
        rows_of.insert(String::new(), Vec::new());
    }
    for row in 0..all.num_rows() {
        rows_of.entry(texts.get(row).cloned().unwrap_or_default()).or_default().push(row as u64);
    }
    let functions: Vec<_> = calls.iter().map(|call| call.build(schema, "a").expect("fits")).collect();
    rows_of
        .into_iter()
        .map(|(key, rows)| {
            let rows = take_record_batch(&all, &UInt64Array::from(rows)).expect("in bounds");
            let results = calls.iter().zip(&functions).map(|(call, function)| {
                let rows = match &call.filter {
                    Some(filter) => {
                        let mask = evaluate_mask(filter.as_ref(), &rows).expect("a mask");
                        filter_record_batch(&rows, &mask).expect("filters")
                    }
                    None => rows.clone(),
                };
                let order = function.order_bys().iter().map(|order| Arc::clone(&order.expr));
                let arguments: Vec<_> = call.arguments.iter().cloned().chain(order).collect();
                let arguments: Vec<_> =
                    arguments.iter().map(|argument| evaluate(argument.as_ref(), &rows).expect("a column")).collect();
                let mut accumulator = function.create_accumulator().expect("exists");
                accumulator.update_batch(&arguments).expect("takes rows");
                accumulator.evaluate().expect("has a result")
            });
            (key, results.collect())
        })
        .collect()
}

fn assert_same(outcome: &Outcome, keys: usize, expected: &BTreeMap<String, Vec<ScalarValue>>, tolerance: f64) {
    let mut seen = 0;
    for batch in &outcome.batches {
        for (row, key) in printed(batch, keys).into_iter().enumerate() {
            let results = expected.get(&key).unwrap_or_else(|| panic!("no group `{key}`"));
            for (column, result) in batch.columns()[keys..].iter().zip(results) {
                let found = ScalarValue::try_from_array(column, row).expect("a value");
                assert!(close(&found, result, tolerance), "group `{key}`: {found:?} instead of {result:?}");
            }
            seen += 1;
        }
    }
    assert_eq!(seen, expected.len(), "every group once");
}

/// Whether two results are the same, but for what another order of additions does to a float.
fn close(found: &ScalarValue, expected: &ScalarValue, tolerance: f64) -> bool {
    match (found, expected) {
        (ScalarValue::Float64(Some(a)), ScalarValue::Float64(Some(b))) => {
            a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= tolerance * (1.0 + b.abs())
        }
        (ScalarValue::List(a), ScalarValue::List(b)) if a.value_type().is_floating() => {
            let values = |list: &ScalarValue| match list {
                ScalarValue::List(list) => list.values().as_primitive::<Float64Type>().values().to_vec(),
                _ => Vec::new(),
            };
            let (a, b) = (values(found), values(expected));
            a.len() == b.len() && a.iter().zip(&b).all(|(a, b)| a == b || (a.is_nan() && b.is_nan()))
        }
        _ => found == expected,
    }
}

/// Compares runs with plenty of memory, with forced spilling and with no more than the floors.
fn check(group: &[&str], calls: &[Call], input: &[RecordBatch], tolerance: f64) {
    let schema = input[0].schema();
    let aggregate = describe(&schema, group, calls).expect("can be computed");
    let expected = expected(&schema, group, calls, input);
    let plenty = run(&aggregate, input, &Run::default());
    assert_eq!((plenty.spilled_bytes, plenty.overruns), (0, 0), "memory was plenty");
    assert_same(&plenty, group.len(), &expected, tolerance);
    let spilled = run(&aggregate, input, &Run { force_spill: true, ..Run::default() });
    assert!(input.iter().all(|batch| batch.num_rows() == 0) || spilled.spilled_bytes > 0);
    assert_same(&spilled, group.len(), &expected, tolerance);
    let tight = run(&aggregate, input, &Run { floating_bytes: 0, ..Run::default() });
    assert_same(&tight, group.len(), &expected, tolerance);
}
