//! Rows that are kept come back as they went in, wherever they are read, and leave nothing behind.

use aqueduct_runtime::metrics::JobMetrics;
use aqueduct_runtime::{Cluster, ClusterConfig, ExecutionError, Graph};
use arrow::array::{ArrayRef, AsArray, Int64Array, StringArray};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, Int64Type, Schema};
use arrow::record_batch::RecordBatch;

use super::*;
use crate::{MemorySink, MemorySource};

const LIMIT: usize = 48 << 20;

fn cluster() -> Cluster {
    let config = ClusterConfig { workers: 2, memory_limit_bytes: LIMIT, ..ClusterConfig::default() };
    Cluster::start(config).expect("a small cluster")
}

fn batch(from: i64, rows: i64) -> RecordBatch {
    let text = |row: i64| (row % 5 != 0).then(|| format!("{}{row}", "long ".repeat((row % 4) as usize)));
    let columns: [(&str, ArrayRef, bool); 2] = [
        ("n", Arc::new(Int64Array::from_iter_values(from..from + rows)), false),
        ("t", Arc::new((from..from + rows).map(text).collect::<StringArray>()), true),
    ];
    RecordBatch::try_from_iter_with_nullable(columns).expect("two columns")
}

fn batches() -> Vec<RecordBatch> {
    let mut batches: Vec<_> = (0..40).map(|index| batch(8000 * index, 8000)).collect();
    batches.insert(7, batch(0, 0));
    batches
}

/// Stores `batches`, spread over partitions or in order.
fn store(cluster: &Cluster, batches: Vec<RecordBatch>, ordered: bool) -> Result<Store, ExecutionError> {
    let schema = batch(0, 0).schema();
    let mut graph = Graph::new();
    let source = graph.source("rows", MemorySource::new(SchemaRef::clone(&schema), batches));
    let sink = StoreSink::try_new(schema, cluster.kept_spaces()).expect("the cluster is open");
    let input = if ordered { source.gather_in_order() } else { source.into() };
    graph.sink("keep", sink.clone(), input);
    cluster.run(&graph)?.wait()?;
    Ok(sink.take().expect("committed"))
}

fn read(cluster: &Cluster, source: StoreSource) -> (RecordBatch, JobMetrics) {
    let schema = aqueduct_runtime::SourceSpec::schema(&source);
    let mut graph = Graph::new();
    let node = graph.source("kept", source);
    let sink = MemorySink::new();
    graph.sink("collect", sink.clone(), node.gather_in_order());
    let summary = cluster.run(&graph).and_then(aqueduct_runtime::Job::wait).expect("runs");
    (concat_batches(&schema, &sink.take().expect("committed")).expect("one schema"), summary.metrics)
}

fn files(cluster: &Cluster) -> usize {
    let folder = std::fs::read_dir(cluster.spill_path()).expect("the spill folder");
    folder.filter(|file| file.as_ref().is_ok_and(|file| file.file_name() != "lock")).count()
}

#[test]
fn what_was_stored_is_read_in_its_order_any_number_of_times() {
    let cluster = cluster();
    let stored = Arc::new(store(&cluster, batches(), true).expect("stored"));
    assert_eq!((stored.rows(), files(&cluster)), (320_000, 1));
    let expected = concat_batches(&batch(0, 0).schema(), &batches()).expect("one schema");
    for _ in 0..2 {
        let (found, metrics) = read(&cluster, StoreSource::new(Arc::clone(&stored)));
        assert_eq!(found, expected);
        assert_eq!(metrics.source_bytes_done, stored.bytes());
    }
    let projected = StoreSource::new(Arc::clone(&stored)).with_projection(&[1]).expect("it is there");
    assert_eq!(read(&cluster, projected).0, expected.project(&[1]).expect("it is there"));
    // Nothing of it is in memory.
    assert!(cluster.memory().iter().all(|pool| pool.charged() == 0 && pool.overruns() == 0));
    drop(stored);
    assert_eq!(files(&cluster), 0);
}

#[test]
fn every_partition_writes_a_file_and_every_row_is_in_one() {
    let cluster = cluster();
    let stored = Arc::new(store(&cluster, batches(), false).expect("stored"));
    assert_eq!(stored.parts.len(), 2);
    let (found, _) = read(&cluster, StoreSource::new(Arc::clone(&stored)));
    let mut numbers: Vec<i64> = found.column(0).as_primitive::<Int64Type>().values().to_vec();
    numbers.sort_unstable();
    assert!(numbers.into_iter().eq(0..320_000));
    let more = stored.with(&store(&cluster, vec![batch(7, 1)], true).expect("stored")).expect("the same columns");
    drop(stored);
    assert_eq!((more.rows(), files(&cluster)), (320_001, 3));
    let empty = store(&cluster, Vec::new(), false).expect("stored");
    assert_eq!((empty.rows(), read(&cluster, StoreSource::new(Arc::new(empty))).0.num_rows()), (0, 0));
}

#[test]
fn a_job_that_fails_stores_nothing() {
    let cluster = cluster();
    let wrong = Schema::new(vec![Field::new("n", DataType::Int64, false), Field::new("t", DataType::Utf8, false)]);
    let mut graph = Graph::new();
    let source = graph.source("rows", MemorySource::new(batch(0, 0).schema(), batches()));
    let sink = StoreSink::try_new(Arc::new(wrong), cluster.kept_spaces()).expect("the cluster is open");
    graph.sink("keep", sink.clone(), source.gather_in_order());
    let error = cluster.run(&graph).and_then(aqueduct_runtime::Job::wait).expect_err("a null is there").to_string();
    assert!(error.contains("`keep`") && error.contains("non-nullable"), "{error}");
    assert!(sink.take().is_none());
    assert_eq!(files(&cluster), 0);
}

#[test]
fn a_row_larger_than_the_floor_is_stored_while_there_is_room_and_refused_otherwise() {
    let cluster = cluster();
    let row = |bytes: usize| {
        let columns: [(&str, ArrayRef, bool); 2] = [
            ("n", Arc::new(Int64Array::from(vec![1])), false),
            ("t", Arc::new(StringArray::from(vec!["x".repeat(bytes)])), true),
        ];
        RecordBatch::try_from_iter_with_nullable(columns).expect("two columns")
    };
    let stored = Arc::new(store(&cluster, vec![row(600_000)], true).expect("there is room"));
    assert_eq!(read(&cluster, StoreSource::new(stored)).0, row(600_000));
    let error = store(&cluster, vec![row(40 << 20)], true).expect_err("there is no room").to_string();
    assert!(error.contains("memory"), "{error}");
    assert_eq!(files(&cluster), 0);
}

#[test]
fn a_split_says_all_that_reading_it_takes() {
    let cluster = cluster();
    let stored = Arc::new(store(&cluster, batches(), false).expect("stored"));
    let source = StoreSource::new(stored);
    let context = aqueduct_runtime::ScanContext { batch_bytes: 1 << 16, partitions: 8 };
    let scan = aqueduct_runtime::SourceSpec::scan(&source, context).expect("a scan");
    let mut splits = 0;
    while let Some(split) = scan.next_split().expect("no error") {
        assert_eq!(split.index, splits);
        assert_eq!(source::StoreSplit::decode(&split, source.store()).expect("it is there").encode(), split.payload);
        splits += 1;
    }
    assert!(splits > 4, "{splits}");
    let nowhere = aqueduct_runtime::Split { index: 0, description: "batches".into(), bytes: 0, payload: vec![7; 24] };
    assert!(source::StoreSplit::decode(&nowhere, source.store()).is_err());
}

#[test]
fn a_store_that_was_cleared_says_so() {
    let cluster = cluster();
    let stored = Arc::new(store(&cluster, batches(), true).expect("stored"));
    stored.clear();
    assert_eq!(files(&cluster), 0);
    let mut graph = Graph::new();
    let node = graph.source("kept", StoreSource::new(stored));
    graph.sink("collect", MemorySink::new(), node.gather());
    let error = cluster.run(&graph).and_then(aqueduct_runtime::Job::wait).expect_err("they are gone").to_string();
    assert!(error.contains("`kept`") && error.contains("gone"), "{error}");
}
