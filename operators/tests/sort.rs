//! Whole jobs that sort: every partition by itself, then all of them into one order.

use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use aqueduct_operators::csv::CsvSink;
use aqueduct_operators::{Generator, Limit, Merge, Sort, SortColumn};
use aqueduct_runtime::allocator::CountingAllocator;
use aqueduct_runtime::metrics::JobMetrics;
use aqueduct_runtime::{Cluster, ClusterConfig, Graph, Input, NodeId, Partitions, Result};
use arrow::array::{ArrayRef, Float64Array, Int64Array, StringViewArray};
use arrow::compute::{SortOptions, concat_batches, lexsort_to_indices, take_record_batch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator::new();

const MIB: usize = 1 << 20;

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("key", DataType::Int64, true),
        Field::new("value", DataType::Float64, true),
        Field::new("text", DataType::Utf8View, true),
        Field::new("place", DataType::Int64, false),
    ]))
}

/// Rows `offset..offset + rows`; what a row holds depends on its place alone.
fn rows(kind: Kind, offset: u64, rows: usize) -> Result<RecordBatch> {
    let places = offset as i64..offset as i64 + rows as i64;
    let mixed = |place: i64| (place as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
    let key = |place: i64| match kind {
        Kind::Random | Kind::Wide => (place % 11 > 0).then(|| mixed(place) as i64 % 1_000_000),
        Kind::Constant => Some(7),
        Kind::Sorted => Some(place),
        Kind::Reversed => Some(-place),
    };
    let value = |place: i64| match mixed(place) % 13 {
        0 => None,
        1 => Some(f64::NAN),
        2 => Some(-0.0),
        other => Some(other as f64 - 5.0),
    };
    let text = |place: i64| {
        let text = format!("a text of some length {}", mixed(place));
        if kind == Kind::Wide { text.repeat(10) } else { text }
    };
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_iter(places.clone().map(key))),
        Arc::new(Float64Array::from_iter(places.clone().map(value))),
        Arc::new(StringViewArray::from_iter_values(places.clone().map(text))),
        Arc::new(Int64Array::from_iter_values(places)),
    ];
    Ok(RecordBatch::try_new(schema(), columns)?)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Random,
    Constant,
    Sorted,
    Reversed,
    /// As random, with texts of some hundred bytes.
    Wide,
}

fn source(graph: &mut Graph, kind: Kind, count: u64) -> NodeId {
    let generator = Generator::new(schema(), Some(count), move |offset, count| rows(kind, offset, count));
    graph.source("rows", generator.with_split_rows(10_000))
}

fn keys(columns: &[(usize, bool)]) -> Vec<SortColumn> {
    let by =
        |&(column, descending)| SortColumn { column, options: SortOptions { descending, nulls_first: descending } };
    columns.iter().map(by).collect()
}

/// A sort in `partitions` partitions, what `between` adds to each, and the merge of them all.
fn sorted(
    graph: &mut Graph,
    input: impl Into<Input>,
    keys: &[SortColumn],
    partitions: usize,
    fetch: Option<usize>,
    between: impl FnOnce(&mut Graph, NodeId) -> NodeId,
) -> NodeId {
    let sort = Sort::try_new(schema(), keys.to_vec(), fetch).expect("sortable");
    let sort = graph.operator("sort", sort, input);
    graph.set_partitions(sort, Partitions::Fixed(partitions));
    let last = between(graph, sort);
    let merge = Merge::try_new(schema(), keys.to_vec(), fetch).expect("sortable");
    graph.operator("merge", merge, last.lanes())
}

/// What arrow sorts the rows to.
fn expected(kind: Kind, count: u64, keys: &[SortColumn]) -> RecordBatch {
    let whole = rows(kind, 0, count as usize).expect("rows");
    let mut columns: Vec<_> = keys
        .iter()
        .map(|key| arrow::compute::SortColumn {
            values: Arc::clone(whole.column(key.column)),
            options: Some(key.options),
        })
        .collect();
    columns.push(arrow::compute::SortColumn { values: Arc::clone(whole.column(3)), options: None });
    take_record_batch(&whole, &lexsort_to_indices(&columns, None).expect("sortable")).expect("places")
}

/// Runs `graph` with one result within two minutes: the rows in the order of arrival, and what was counted.
fn run(
    workers: usize,
    limit: usize,
    build: impl FnOnce(&mut Graph) -> NodeId + Send + 'static,
) -> (RecordBatch, JobMetrics, String) {
    let (done, result) = channel();
    let thread = std::thread::Builder::new().name("a test".into()).spawn(move || {
        let config = ClusterConfig { workers, memory_limit_bytes: limit, ..ClusterConfig::default() };
        let cluster = Cluster::start(config).expect("starts");
        let mut graph = Graph::new();
        let last = build(&mut graph);
        let result = graph.result("result", last);
        let mut job = cluster.run(&graph).expect("is admitted");
        let plan = job.plan().to_string();
        let stream = job.take_result(result).expect("a result");
        let batches: Vec<_> = stream.collect::<Result<_, _>>().expect("runs");
        let metrics = job.wait().expect("ends well").metrics;
        aqueduct_runtime::testing::assert_within_limit(cluster.memory());
        let _ = done.send((concat_batches(&schema(), &batches).expect("one schema"), metrics, plan));
    });
    let thread = thread.expect("a thread");
    match result.recv_timeout(Duration::from_secs(120)) {
        Ok(result) => result,
        Err(std::sync::mpsc::RecvTimeoutError::Timeout) => panic!("it hangs"),
        Err(_) => std::panic::resume_unwind(thread.join().expect_err("it failed")),
    }
}

fn spooled(metrics: &JobMetrics) -> u64 {
    metrics.edges.iter().map(|edge| edge.spooled_bytes).sum()
}

/// Rows with equal keys come from any partition, so what has no key is compared as a set.
fn assert_same(found: &RecordBatch, expected: &RecordBatch, what: &str) {
    assert_eq!(found.num_rows(), expected.num_rows(), "{what}");
    for column in 0..found.num_columns() {
        assert!(found.column(column) == expected.column(column), "{what}: column {column} differs");
    }
}

#[test]
fn all_partitions_come_out_in_one_order() {
    for partitions in [1, 2, 8] {
        for kind in [Kind::Random, Kind::Sorted, Kind::Reversed, Kind::Constant] {
            for count in [0, 1, 70_000] {
                // The place is the last key, so that there is one right order.
                let keys = keys(&[(0, false), (1, true), (3, true)]);
                let by = keys.clone();
                let (found, _, _) = run(2, 256 * MIB, move |graph| {
                    let input = source(graph, kind, count).round_robin();
                    sorted(graph, input, &by, partitions, None, |_, sort| sort)
                });
                assert_same(&found, &expected(kind, count, &keys), &format!("{partitions} {kind:?} {count}"));
            }
        }
    }
}

#[test]
fn twenty_times_the_limit_neither_hangs_nor_spools_whatever_is_between_sort_and_merge() {
    // 75 bytes a row, and 370: 20 times the limit of the one worker in the last case.
    for (workers, limit, partitions, hashed, between, kind, count) in [
        (2, 5 * MIB, 1, true, false, Kind::Random, 250_000),
        (2, 12 * MIB, 8, true, true, Kind::Random, 500_000),
        (2, 5 * MIB, 2, false, false, Kind::Random, 250_000),
        (1, 6 * MIB, 2, true, true, Kind::Wide, 340_000),
    ] {
        let keys = keys(&[(0, false), (3, false)]);
        let by = keys.clone();
        let (found, metrics, plan) = run(workers, limit, move |graph| {
            let input = source(graph, kind, count);
            let input = if hashed { input.hash(["place"]) } else { input.round_robin() };
            sorted(graph, input, &by, partitions, None, |graph, sort| match between {
                true => graph.map("between", sort, Ok),
                false => sort,
            })
        });
        assert!(!plan.contains("spools"), "{plan}");
        assert_same(&found, &expected(kind, count, &keys), &format!("{partitions} {hashed}"));
        assert_eq!(spooled(&metrics), 0, "{partitions}");
        assert!(metrics.deadlocks.is_empty(), "{:?}", metrics.deadlocks);
        let spilled: u64 = metrics.workers.iter().map(|worker| worker.spilled_bytes).sum();
        assert!(spilled > if kind == Kind::Wide { 100 << 20 } else { 10 << 20 }, "{spilled}");
    }
}

#[test]
fn lanes_of_what_is_not_sorted_anew_spool_rather_than_hang() {
    // Sorted already, dealt out by hash: nothing takes its input in before it emits.
    let keys = keys(&[(0, false)]);
    let by = keys.clone();
    let (found, _, plan) = run(2, 16 * MIB, move |graph| {
        let input = source(graph, Kind::Sorted, 300_000);
        graph.set_partitions(input, Partitions::Fixed(1));
        let dealt = graph.map("dealt", input.hash(["place"]), Ok);
        graph.operator("merge", Merge::try_new(schema(), by, None).expect("sortable"), dealt.lanes())
    });
    assert!(plan.contains("spools"), "{plan}");
    assert_same(&found, &expected(Kind::Sorted, 300_000, &keys), "dealt out");
}

#[test]
fn the_first_rows_are_found_without_the_disk_and_an_offset_leaves_some_out() {
    for partitions in [1, 2, 8] {
        for (skip, fetch) in [(0, 10), (1000, 50), (0, 0), (69_990, 100), (80_000, 5)] {
            let keys = keys(&[(1, true), (0, false), (3, true)]);
            let by = keys.clone();
            let (found, metrics, _) = run(2, 64 * MIB, move |graph| {
                let input = source(graph, Kind::Random, 70_000).round_robin();
                let sorted = sorted(graph, input, &by, partitions, Some(skip + fetch), |_, sort| sort);
                graph.operator("limit", Limit::new(skip, Some(fetch)), sorted)
            });
            let all = expected(Kind::Random, 70_000, &keys);
            let skip = skip.min(all.num_rows());
            let expected = all.slice(skip, fetch.min(all.num_rows() - skip));
            assert_same(&found, &expected, &format!("{partitions} {skip} {fetch}"));
            assert_eq!(metrics.workers.iter().map(|worker| worker.spilled_bytes).sum::<u64>(), 0);
        }
    }
}

#[test]
fn a_sorted_table_is_written_as_a_sorted_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("sorted.csv");
    let cluster =
        Cluster::start(ClusterConfig { workers: 2, memory_limit_bytes: 16 * MIB, ..ClusterConfig::default() });
    let cluster = cluster.expect("starts");
    let keys = keys(&[(0, false), (3, false)]);
    let mut graph = Graph::new();
    let input = source(&mut graph, Kind::Random, 200_000).round_robin();
    let merged = sorted(&mut graph, input, &keys, 4, None, |_, sort| sort);
    graph.sink("write", CsvSink::new(&path), merged);
    cluster.run(&graph).expect("is admitted").wait().expect("ends well");
    let text = std::fs::read_to_string(&path).expect("the file");
    let places: Vec<i64> = text
        .lines()
        .skip(1)
        .map(|line| line.rsplit(',').next().expect("a column").parse().expect("a number"))
        .collect();
    let expected = expected(Kind::Random, 200_000, &keys);
    let expected: &Int64Array = expected.column(3).as_any().downcast_ref().expect("numbers");
    assert_eq!(places, expected.values().to_vec());
}

#[test]
fn more_partitions_than_a_merge_has_ports_are_refused_or_lowered() {
    let plan = |partitions| {
        let cluster =
            Cluster::start(ClusterConfig { workers: 1, memory_limit_bytes: 4096 * MIB, ..ClusterConfig::default() });
        let mut graph = Graph::new();
        let input = source(&mut graph, Kind::Random, 10).round_robin();
        let keys = keys(&[(0, false)]);
        let sort = graph.operator("sort", Sort::try_new(schema(), keys.clone(), None).expect("sortable"), input);
        graph.set_partitions(sort, partitions);
        let merge = graph.operator("merge", Merge::try_new(schema(), keys, None).expect("sortable"), sort.lanes());
        graph.result("result", merge);
        cluster.expect("starts").plan(&graph).map(|plan| plan.partitions(sort))
    };
    assert_eq!(plan(Partitions::Fixed(64)).expect("plans"), Some(64));
    let error = plan(Partitions::Fixed(65)).expect_err("too many").to_string();
    assert!(error.contains("at most 64"), "{error}");
}

#[test]
fn a_sort_that_is_cancelled_leaves_nothing() {
    let cluster =
        Cluster::start(ClusterConfig { workers: 2, memory_limit_bytes: 16 * MIB, ..ClusterConfig::default() });
    let cluster = cluster.expect("starts");
    for taken in [0, 3] {
        let mut graph = Graph::new();
        let input = source(&mut graph, Kind::Random, if taken > 0 { 300_000 } else { u64::MAX / 4 }).round_robin();
        let merged = sorted(&mut graph, input, &keys(&[(2, false)]), 4, None, |_, sort| sort);
        let result = graph.result("result", merged);
        let mut job = cluster.run(&graph).expect("is admitted");
        let stream = job.take_result(result).expect("a result");
        if taken > 0 {
            assert_eq!(stream.take(taken).filter(|batch| batch.is_ok()).count(), taken);
        } else {
            aqueduct_runtime::testing::eventually("the sort spills", || {
                job.metrics().workers.iter().any(|worker| worker.spilled_bytes > 0)
            });
            drop(stream);
        }
        drop(job);
        aqueduct_runtime::testing::eventually("every reservation is given back", || {
            cluster.memory().iter().all(|pool| pool.charged() == 0)
        });
        aqueduct_runtime::testing::eventually("every spill file is gone", || {
            let files = std::fs::read_dir(cluster.spill_path()).expect("the spill folder").flatten();
            files.filter(|file| file.path().extension().is_some_and(|e| e == "arrows")).count() == 0
        });
    }
}

#[test]
fn what_a_sort_takes_in_whatever_happens_below_does_not_spool() {
    let cluster =
        Cluster::start(ClusterConfig { workers: 2, memory_limit_bytes: 64 * MIB, ..ClusterConfig::default() });
    let mut graph = Graph::new();
    let input = source(&mut graph, Kind::Random, 10);
    let sort = Sort::try_new(schema(), keys(&[(0, false)]), None).expect("sortable");
    let sort = graph.operator("sort", sort, input.hash(["key"]));
    let between = graph.map("between", sort, Ok);
    let join =
        graph.operator_with("join", aqueduct_runtime::testing::BuildThenProbe, [between.into(), input.hash(["key"])]);
    graph.result("result", join);
    let plan = cluster.expect("starts").plan(&graph).expect("plans").to_string();
    let spools: Vec<_> = plan.lines().filter(|line| line.contains("spools")).collect();
    // The source parks on what the join leaves unread of it; what the sort emits holds up nobody.
    assert_eq!(spools.len(), 1, "{plan}");
    assert!(spools[0].contains("hash(key)"), "{plan}");
}
