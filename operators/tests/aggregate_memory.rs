//! What an aggregation holds, as its account says and as the allocator counts: the account may not say less.

#[path = "../src/aggregate/tests/arguments.rs"]
mod arguments;

use std::sync::Arc;

use aqueduct_operators::{Aggregate, Expression, FinalAggregate, PartialAggregate};
use aqueduct_runtime::allocator::{CountingAllocator, allocated_bytes, peak_bytes, reset_peak};
use aqueduct_runtime::memory::MemoryPool;
use aqueduct_runtime::testing::{context, drive};
use aqueduct_runtime::{OperatorSpec, Outbox, Step};
use arrow::array::{ArrayRef, BooleanArray, Float64Array, Int64Array, StringArray, StringViewArray};
use arrow::record_batch::RecordBatch;
use datafusion_expr::AggregateUDF;
use datafusion_functions_aggregate::all_default_aggregate_functions;
use datafusion_physical_expr::aggregate::AggregateExprBuilder;
use datafusion_physical_expr::expressions::col;

use arguments::arguments;

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator::new();

/// Real bytes may exceed accounted ones by a tenth, and by what an empty operator has.
const SLACK_BYTES: usize = 96 << 10;

fn rows(range: std::ops::Range<i64>, groups: i64) -> RecordBatch {
    let each = || range.clone();
    RecordBatch::try_from_iter([
        ("k", Arc::new(Int64Array::from_iter_values(each().map(|i| i % groups))) as ArrayRef),
        ("t", Arc::new(StringViewArray::from_iter_values(each().map(|i| format!("key number {}", i % groups))))),
        ("i", Arc::new(Int64Array::from_iter_values(each().map(|i| i * 31)))),
        ("f", Arc::new(Float64Array::from_iter_values(each().map(|i| i as f64 / 3.0)))),
        ("g", Arc::new(Float64Array::from_iter_values(each().map(|i| 1.0 + (i % 7) as f64)))),
        ("w", Arc::new(Float64Array::from_iter_values(each().map(|i| 1.0 + (i % 5) as f64)))),
        ("b", Arc::new(BooleanArray::from_iter(each().map(|i| Some(i % 3 == 0))))),
        ("s", Arc::new(StringArray::from_iter_values(each().map(|i| format!("some text {i}"))))),
    ])
    .expect("columns of one length")
}

/// Feeds both halves and compares; what is wrong.
fn judge(
    name: &str,
    function: &Arc<AggregateUDF>,
    arguments: Vec<Expression>,
    key: &str,
    distinct: bool,
    groups: i64,
) -> Vec<String> {
    let schema = rows(0..1, groups).schema();
    let expression = AggregateExprBuilder::new(Arc::clone(function), arguments)
        .schema(Arc::clone(&schema))
        .alias("a")
        .with_distinct(distinct)
        .build()
        .expect("fits its arguments");
    let group = vec![(col(key, &schema).expect("a column"), key.to_string())];
    let aggregate = Aggregate::try_new(Arc::clone(&schema), group, vec![Arc::new(expression)]).expect(name);
    let aggregate = Arc::new(aggregate);
    let partial = PartialAggregate::new(Arc::clone(&aggregate));
    let second = FinalAggregate::new(Arc::clone(&aggregate));
    let pool = MemoryPool::new(1 << 30);
    let context = context().pool(&pool);

    let mut wrong = Vec::new();
    let mut check = |what: &str, real: usize, accounted: usize| {
        println!(
            "{name} by {key}, {groups} groups, distinct {distinct}, {what}: {real} bytes are there, {accounted} accounted"
        );
        if real > accounted + accounted / 10 + SLACK_BYTES {
            wrong.push(format!("{name} by {key}, {groups} groups, distinct {distinct}, {what}: {real} > {accounted}"));
        }
    };
    let mut first = partial.instantiate(context.operator(&[Arc::clone(&schema)])).expect("starts");
    let before = allocated_bytes();
    let charged = pool.charged();
    let mut out = Outbox::new();
    let mut states = Vec::new();
    for part in 0..4 {
        let batch = rows(part * 6000..(part + 1) * 6000, groups);
        let mut step = first.process(0, batch, &mut out).expect("takes rows");
        while matches!(step, Step::MoreOutput) {
            states.extend(std::iter::from_fn(|| out.pop().map(|(_, batch)| batch)));
            step = first.resume(&mut out).expect("goes on");
        }
    }
    if states.is_empty() {
        check("first half", allocated_bytes().saturating_sub(before), pool.charged() - charged);
    }
    drop(first);
    // The states of 24,000 rows in pieces, as several first halves would send them.
    let states: Vec<_> = (0..4)
        .flat_map(|part| {
            let mut first = partial.instantiate(context.operator(&[Arc::clone(&schema)])).expect("starts");
            drive(first.as_mut(), [vec![rows(part * 6000..(part + 1) * 6000, groups)]]).expect("runs")
        })
        .collect();
    let mut second = second.instantiate(context.operator(&[aggregate.state_schema()])).expect("starts");
    let charged = pool.charged();
    for batch in states {
        second.process(0, batch, &mut out).expect("takes states");
    }
    let accounted = pool.charged() - charged;
    // Emitting may need a table's copy, which is reserved, and one batch of output.
    reset_peak();
    let at_start = allocated_bytes();
    let mut step = second.finish(0, &mut out).expect("ends");
    while matches!(step, Step::MoreOutput) {
        while out.pop().is_some() {}
        step = second.resume(&mut out).expect("goes on");
    }
    let released = at_start.saturating_sub(allocated_bytes());
    check("second half", released, accounted);
    let peak = peak_bytes().saturating_sub(at_start) + released;
    check("second half while it emits", peak, accounted + 4 * (64 << 10));
    drop(second);
    wrong
}

#[test]
fn accounts_say_no_less_than_the_allocator_for_every_aggregate() {
    let schema = rows(0..1, 1).schema();
    let mut failures = Vec::new();
    for function in all_default_aggregate_functions() {
        let name = function.name().to_string();
        if name == "grouping" {
            continue;
        }
        failures.extend(judge(&name, &function, arguments(&name, &schema), "k", false, 3000));
        // Sketches grow with the rows of a group up to a bound.
        if name.starts_with("approx") {
            failures.extend(judge(&name, &function, arguments(&name, &schema), "k", false, 7));
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

#[test]
fn accounts_say_no_less_than_the_allocator_for_distinct_values_and_texts() {
    use datafusion_functions_aggregate::{array_agg, count, median, min_max, sum};
    let schema = rows(0..1, 1).schema();
    let mut failures = Vec::new();
    for (function, argument, distinct) in [
        (count::count_udaf(), "i", true),
        (count::count_udaf(), "s", true),
        (count::count_udaf(), "t", true),
        (sum::sum_udaf(), "f", true),
        (median::median_udaf(), "f", true),
        (array_agg::array_agg_udaf(), "s", false),
        (array_agg::array_agg_udaf(), "t", true),
        (min_max::max_udaf(), "s", false),
        (min_max::min_udaf(), "t", false),
    ] {
        let arguments = vec![col(argument, &schema).expect("a column")];
        let name = format!("{} of {argument}", function.name());
        failures.extend(judge(&name, &function, arguments, "t", distinct, 3000));
    }
    assert!(failures.is_empty(), "{failures:#?}");
}
