//! Windows as whole jobs, over 1, 2 and 8 partitions: skew, no rows, one row, little memory, a job that is dropped.

use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use aqueduct_operators::{Expression, Filter, MemorySource, TopPerGroup, Window, WindowFunction};
use aqueduct_runtime::allocator::CountingAllocator;
use aqueduct_runtime::state::SortColumn;
use aqueduct_runtime::testing::{assert_within_limit, eventually};
use aqueduct_runtime::{Cluster, ClusterConfig, Graph, Partitions};
use arrow::array::{Array, ArrayRef, AsArray, Int64Array, StringViewArray};
use arrow::compute::SortOptions;
use arrow::datatypes::{Int64Type, SchemaRef, UInt64Type};
use arrow::record_batch::RecordBatch;
use datafusion_expr::{Operator, WindowFrame, WindowFunctionDefinition};
use datafusion_functions_aggregate::sum::sum_udaf;
use datafusion_functions_window::lead_lag::lag_udwf;
use datafusion_functions_window::rank::{percent_rank_udwf, rank_udwf};
use datafusion_functions_window::row_number::row_number_udwf;
use datafusion_physical_expr::expressions::{binary, col, lit};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator::new();

const MIB: usize = 1 << 20;

fn cluster(workers: usize, memory_limit_bytes: usize) -> Cluster {
    let config = ClusterConfig { workers, memory_limit_bytes, ..ClusterConfig::default() };
    Cluster::start(config).expect("the cluster starts")
}

fn within_two_minutes<T: Send + 'static>(test: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, result) = channel();
    let work = move || {
        let _ = done.send(test());
    };
    let thread = std::thread::Builder::new().name("a test".into()).spawn(work).expect("a thread");
    match result.recv_timeout(Duration::from_secs(120)) {
        Ok(value) => value,
        Err(RecvTimeoutError::Timeout) => panic!("it hangs: no end within two minutes"),
        Err(RecvTimeoutError::Disconnected) => match thread.join() {
            Err(panic) => std::panic::resume_unwind(panic),
            Ok(()) => unreachable!("the thread ended without a result"),
        },
    }
}

/// Rows (k, o, t): nine of ten in partition 0, `o` in a mixed order and all different.
fn rows(count: i64) -> Vec<RecordBatch> {
    let key = |i: i64| if i % 10 < 9 { 0 } else { 1 + i % 97 };
    let order = |i: i64| (i * 7919) % count.max(1);
    (0..count.max(1))
        .step_by(1000)
        .map(|start| {
            let each = || start..count.min(start + 1000);
            RecordBatch::try_from_iter([
                ("k", Arc::new(Int64Array::from_iter_values(each().map(key))) as ArrayRef),
                ("o", Arc::new(Int64Array::from_iter_values(each().map(order)))),
                ("t", Arc::new(StringViewArray::from_iter_values(each().map(|i| format!("text number {i}"))))),
            ])
            .expect("three columns")
        })
        .collect()
}

fn window(schema: &SchemaRef, partitioned: bool) -> Window {
    let column = |name: &str| -> Expression { col(name, schema).expect("a column") };
    let function = |definition: WindowFunctionDefinition, arguments: &[&str], frame: WindowFrame, name: &str| {
        WindowFunction::new(definition, arguments.iter().map(|name| column(name)).collect(), frame, name)
    };
    let whole = || WindowFrame::new(None);
    let functions = vec![
        function(WindowFunctionDefinition::WindowUDF(row_number_udwf()), &[], whole(), "number"),
        function(WindowFunctionDefinition::WindowUDF(percent_rank_udwf()), &[], whole(), "rank"),
        function(WindowFunctionDefinition::WindowUDF(lag_udwf()), &["o"], whole(), "before"),
        function(WindowFunctionDefinition::AggregateUDF(sum_udaf()), &["o"], whole(), "total"),
        function(WindowFunctionDefinition::AggregateUDF(sum_udaf()), &["o"], WindowFrame::new(Some(false)), "running"),
    ];
    let options = SortOptions { descending: false, nulls_first: false };
    let order = vec![SortColumn { column: 1, options }];
    Window::try_new(Arc::clone(schema), if partitioned { vec![0] } else { vec![] }, order, functions).expect("a window")
}

fn graph(input: Vec<RecordBatch>, partitions: Partitions, partitioned: bool) -> (Graph, aqueduct_runtime::ResultId) {
    let schema = input[0].schema();
    let mut graph = Graph::new();
    let source = graph.source("rows", MemorySource::new(Arc::clone(&schema), input));
    let exchange = if partitioned { source.hash(["k"]) } else { source.gather() };
    let node = graph.operator("window", window(&schema, partitioned), exchange);
    if partitioned {
        graph.set_partitions(node, partitions);
    }
    let result = graph.result("result", node.gather());
    (graph, result)
}

/// Checks a whole result: within each partition, order by `o`, and what each function has to say.
fn check(batches: &[RecordBatch], count: i64) {
    let mut found: Vec<(i64, i64, u64, Option<i64>, i64, i64)> = Vec::new();
    for batch in batches {
        let ints = |column: usize| batch.column(column).as_primitive::<Int64Type>();
        let number = batch.column(3).as_primitive::<UInt64Type>();
        for row in 0..batch.num_rows() {
            let before = ints(5).is_valid(row).then(|| ints(5).value(row));
            let (key, order) = (ints(0).value(row), ints(1).value(row));
            found.push((key, order, number.value(row), before, ints(6).value(row), ints(7).value(row)));
        }
    }
    assert_eq!(found.len() as i64, count);
    found.sort_unstable();
    for partition in found.chunk_by(|a, b| a.0 == b.0) {
        let total: i64 = partition.iter().map(|row| row.1).sum();
        let (mut running, mut before) = (0, None);
        for (row, number) in partition.iter().zip(1..) {
            running += row.1;
            assert_eq!(*row, (row.0, row.1, number, before, total, running));
            before = Some(row.1);
        }
    }
}

fn collect(cluster: &Cluster, graph: &Graph, result: aqueduct_runtime::ResultId) -> Vec<RecordBatch> {
    let mut job = cluster.run(graph).expect("it is admitted");
    let batches = job.take_result(result).expect("taken once").map(|batch| batch.expect("it runs")).collect();
    job.wait().expect("it ends well");
    batches
}

fn assert_clean(cluster: &Cluster) {
    eventually("every reservation is given back", || cluster.memory().iter().all(|pool| pool.charged() == 0));
    assert_within_limit(cluster.memory());
}

#[test]
fn skewed_windows_are_right_over_1_2_and_8_partitions() {
    within_two_minutes(|| {
        for (workers, partitions) in [(1, 1), (2, 2), (2, 8)] {
            let cluster = cluster(workers, 256 * MIB);
            for count in [0, 1, 30_000] {
                let (graph, result) = graph(rows(count), Partitions::Fixed(partitions), true);
                check(&collect(&cluster, &graph, result), count);
            }
            assert_clean(&cluster);
        }
    });
}

#[test]
fn one_window_over_everything_is_gathered() {
    within_two_minutes(|| {
        let cluster = cluster(2, 256 * MIB);
        let (graph, result) = graph(rows(20_000), Partitions::Fixed(1), false);
        let batches = collect(&cluster, &graph, result);
        let numbers = batches.iter().flat_map(|batch| batch.column(3).as_primitive::<UInt64Type>().values().to_vec());
        assert!(numbers.eq(1..=20_000));
        assert_clean(&cluster);
    });
}

#[test]
fn a_window_over_more_than_memory_is_admitted_at_16_mb_a_worker() {
    within_two_minutes(|| {
        let cluster = cluster(2, 16 * MIB);
        let count = 400_000;
        let (graph, result) = graph(rows(count), Partitions::Many, true);
        let mut job = cluster.run(&graph).expect("it is admitted");
        // The result is read as it comes: beside the limit there is the test's own copy of four numbers a row.
        let mut batches = Vec::new();
        for batch in job.take_result(result).expect("taken once") {
            batches.push(batch.expect("it runs"));
        }
        let peak = cluster.memory().iter().map(|pool| pool.peak()).max();
        job.wait().expect("it ends well");
        assert!(peak.is_some_and(|peak| peak <= 16 * MIB));
        check(&batches, count);
        assert_clean(&cluster);
    });
}

#[test]
fn a_window_that_is_dropped_leaves_nothing_behind() {
    within_two_minutes(|| {
        let cluster = cluster(2, 32 * MIB);
        let (graph, result) = graph(rows(300_000), Partitions::Many, true);
        let mut job = cluster.run(&graph).expect("it is admitted");
        let mut stream = job.take_result(result).expect("taken once");
        stream.next().expect("a batch").expect("it runs");
        drop((stream, job));
        assert_clean(&cluster);
    });
}

/// The first two rows of each partition, or of all by `rank`, where those that cannot be among them are not sent.
fn first_rows(input: Vec<RecordBatch>, partitions: usize, partitioned: bool) -> (Graph, aqueduct_runtime::ResultId) {
    let schema = input[0].schema();
    let definition = WindowFunctionDefinition::WindowUDF(if partitioned { row_number_udwf() } else { rank_udwf() });
    let function = WindowFunction::new(definition, vec![], WindowFrame::new(None), "number");
    let order = vec![SortColumn { column: 1, options: SortOptions { descending: true, nulls_first: false } }];
    let partition_by = if partitioned { vec![0] } else { vec![] };
    let window = Window::try_new(Arc::clone(&schema), partition_by, order, vec![function]).expect("a window");
    let top: TopPerGroup = window.top(0, 2).expect("of use");
    let output = aqueduct_runtime::OperatorSpec::output_schema(&window, 0, &[Arc::clone(&schema)]).expect("a schema");
    let mut graph = Graph::new();
    let source = graph.source("rows", MemorySource::new(Arc::clone(&schema), input));
    graph.set_partitions(source, Partitions::Fixed(partitions));
    let top = graph.operator("top per group", top, source);
    let exchange = if partitioned { top.hash(["k"]) } else { top.gather() };
    let node = graph.operator("window", window, exchange);
    if partitioned {
        graph.set_partitions(node, Partitions::Fixed(partitions));
    }
    let number = col("number", &output).expect("a column");
    let first = binary(number, Operator::LtEq, lit(2u64), &output).expect("compares");
    let filter = graph.operator("filter", Filter::new(first), node);
    let result = graph.result("result", filter.gather());
    (graph, result)
}

#[test]
fn the_first_rows_of_skewed_windows_are_right_over_1_2_and_8_partitions() {
    within_two_minutes(|| {
        for (workers, partitions, limit) in [(1, 1, 256 * MIB), (2, 2, 16 * MIB), (2, 8, 64 * MIB)] {
            let cluster = cluster(workers, limit);
            for (count, partitioned) in [(0, true), (1, true), (30_000, true), (30_000, false)] {
                let input = rows(count);
                let mut all: Vec<(i64, i64)> = Vec::new();
                for batch in &input {
                    let ints = |column: usize| batch.column(column).as_primitive::<Int64Type>().values().to_vec();
                    let keys = if partitioned { ints(0) } else { vec![0; batch.num_rows()] };
                    all.extend(keys.into_iter().zip(ints(1)));
                }
                all.sort_unstable_by_key(|(key, order)| (*key, -order));
                let groups = all.chunk_by(|one, other| one.0 == other.0);
                let mut expected: Vec<_> = groups.flat_map(|group| group[..group.len().min(2)].to_vec()).collect();
                let (graph, result) = first_rows(input, partitions, partitioned);
                let mut found: Vec<(i64, i64)> = Vec::new();
                for batch in collect(&cluster, &graph, result) {
                    let ints = |column: usize| batch.column(column).as_primitive::<Int64Type>().values().to_vec();
                    let keys = if partitioned { ints(0) } else { vec![0; batch.num_rows()] };
                    found.extend(keys.into_iter().zip(ints(1)));
                }
                found.sort_unstable();
                expected.sort_unstable();
                assert_eq!(found, expected, "{count} rows over {partitions} partitions");
            }
            assert_clean(&cluster);
        }
    });
}

#[test]
fn first_rows_that_are_dropped_leave_nothing_behind() {
    within_two_minutes(|| {
        let cluster = cluster(2, 32 * MIB);
        let (graph, result) = first_rows(rows(200_000), 2, true);
        let mut job = cluster.run(&graph).expect("it is admitted");
        drop(job.take_result(result).expect("taken once"));
        drop(job);
        assert_clean(&cluster);
    });
}
