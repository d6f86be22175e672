//! Whole jobs that aggregate: one group may hold nearly all rows, and no claim goes over a worker's limit.

mod distinct;
mod values;

use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use aqueduct_operators::{Aggregate, Expression, FinalAggregate, Generator, PartialAggregate, SortedAggregate};
use aqueduct_runtime::testing::{assert_within_limit, eventually};
use aqueduct_runtime::{Cluster, ClusterConfig, ExecutionError, Graph, NodeId};
use arrow::array::{ArrayRef, Int64Array, StringViewArray};
use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use datafusion_expr::AggregateUDF;
use datafusion_physical_expr::PhysicalSortExpr;
use datafusion_physical_expr::aggregate::AggregateExprBuilder;
use datafusion_physical_expr::expressions::col;

/// The limit of each worker at which a group by is admitted.
const SMALL_BYTES: usize = 16 << 20;

/// Fails if `test` does not end in time.
fn within(seconds: u64, test: impl FnOnce() + Send + 'static) {
    let (done, ended) = mpsc::channel();
    let thread = thread::Builder::new().name("test".into()).spawn(move || {
        test();
        let _ = done.send(());
    });
    let thread = thread.expect("a thread");
    if ended.recv_timeout(Duration::from_secs(seconds)) == Err(mpsc::RecvTimeoutError::Timeout) {
        panic!("not done after {seconds} s");
    }
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn cluster(workers: usize, limit_bytes: usize) -> Cluster {
    let config = ClusterConfig { workers, memory_limit_bytes: limit_bytes, ..ClusterConfig::default() };
    Cluster::start(config).expect("a cluster")
}

/// `rows` rows, of which nine of ten are of the key 0. `v` and `t` have every value once, in no particular order.
fn skewed(
    rows: u64,
    keys: u64,
    text_bytes: usize,
) -> Generator<impl Fn(u64, usize) -> aqueduct_runtime::Result<RecordBatch> + Send + Sync + 'static> {
    let generate = move |offset: u64, count: usize| {
        let numbers = || offset..offset + count as u64;
        let value = |row: u64| (row * 7919 % rows) as i64;
        let key = |row: u64| if row.is_multiple_of(10) { (row / 10 % keys) as i64 } else { 0 };
        let columns: [(&str, ArrayRef); 3] = [
            ("k", Arc::new(Int64Array::from_iter_values(numbers().map(key)))),
            ("v", Arc::new(Int64Array::from_iter_values(numbers().map(value)))),
            ("t", Arc::new(StringViewArray::from_iter_values(numbers().map(|row| text(value(row), text_bytes))))),
        ];
        Ok(RecordBatch::try_from_iter(columns)?)
    };
    let schema = generate(0, 0).expect("columns of one length").schema();
    Generator::new(schema, Some(rows), generate).with_split_rows(50_000)
}

/// A text of `bytes` bytes that differs late.
fn text(value: i64, bytes: usize) -> String {
    format!("{value:a>bytes$}")
}

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

    fn distinct(function: Arc<AggregateUDF>, arguments: Vec<Expression>) -> Self {
        Self { distinct: true, ..Self::new(function, arguments) }
    }
}

/// Adds the nodes of an aggregation, as a planner would.
fn aggregate(graph: &mut Graph, input: NodeId, schema: &SchemaRef, group: &[&str], calls: &[Call]) -> NodeId {
    let keys = group.iter().map(|name| (col(name, schema).expect("a column"), (*name).to_string())).collect();
    let functions = calls.iter().enumerate().map(|(index, call)| {
        let builder = AggregateExprBuilder::new(Arc::clone(&call.function), call.arguments.clone())
            .schema(Arc::clone(schema))
            .alias(format!("a{index}"))
            .with_distinct(call.distinct)
            .order_by(call.order_by.clone());
        Arc::new(builder.build().expect("fits its arguments"))
    });
    let aggregate = Aggregate::try_new(Arc::clone(schema), keys, functions.collect()).expect("can be computed");
    let filters = calls.iter().map(|call| call.filter.clone()).collect();
    let aggregate = Arc::new(aggregate.with_filters(filters).expect("filters"));
    let by_key = |node: NodeId| match aggregate.group_column_names() {
        keys if keys.is_empty() => node.gather(),
        keys => node.hash(keys),
    };
    match SortedAggregate::try_new(Arc::clone(&aggregate)).expect("fits its input") {
        Some(sorted) => {
            let arguments = graph.operator("arguments", sorted.arguments(), input);
            graph.operator("aggregate", sorted, by_key(arguments))
        }
        None => {
            let partial = graph.operator("partial", PartialAggregate::new(Arc::clone(&aggregate)), input);
            graph.operator("aggregate", FinalAggregate::new(Arc::clone(&aggregate)), by_key(partial))
        }
    }
}

/// Rows of a job and what it spilled.
#[derive(Debug)]
struct Outcome {
    batches: Vec<RecordBatch>,
    spilled_bytes: u64,
}

/// Runs `graph` to its end; nothing is left of it and no claim has gone over a limit.
fn run(cluster: &Cluster, mut graph: Graph, rows: NodeId) -> Result<Outcome, ExecutionError> {
    let result = graph.result("result", rows.gather());
    let mut job = cluster.run(&graph)?;
    println!("{}", job.plan());
    let start = std::time::Instant::now();
    let stream = job.take_result(result).expect("a result of the graph");
    let batches = stream.collect::<Result<Vec<_>, _>>();
    let ended = job.wait();
    println!("{:.1?}, ok: {}", start.elapsed(), batches.is_ok());
    eventually("every reservation is given back", || cluster.memory().iter().all(|pool| pool.charged() == 0));
    assert_within_limit(cluster.memory());
    let spilled_bytes = ended?.metrics.workers.iter().map(|worker| worker.spilled_bytes).sum();
    println!("spilled {spilled_bytes}");
    Ok(Outcome { batches: batches?, spilled_bytes })
}
