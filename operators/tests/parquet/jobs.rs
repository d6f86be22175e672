//! Whole jobs from a Parquet file to another, over 1, 2 and 8 partitions, each within a time limit.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use aqueduct_operators::parquet::{ParquetOptions, ParquetSink, ParquetSinkOptions, ParquetSource};
use aqueduct_runtime::testing::{CountingSink, Gate, assert_within_limit, eventually};
use aqueduct_runtime::{Cluster, ClusterConfig, ExecutionError, Graph, JobSummary, Partitions};
use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray};
use datafusion_expr::Operator;
use datafusion_physical_expr::expressions::{binary, col, lit};
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::{WriterProperties, WriterPropertiesBuilder};

use crate::common::{mixed, plainly, write};

/// Runs `test` on a thread of its own and fails if it takes longer than two minutes: a hang is a failure. A run by
/// hand over more bytes may take longer.
fn in_time(test: impl FnOnce() + Send + 'static) {
    let (done, result) = channel();
    let thread = std::thread::Builder::new().name("test".into()).spawn(move || {
        test();
        let _ = done.send(());
    });
    let thread = thread.expect("a thread");
    let seconds = if std::env::var(GROUP_BYTES_VARIABLE).is_ok() { 1200 } else { 120 };
    let ended = result.recv_timeout(Duration::from_secs(seconds));
    assert!(ended.is_ok() || thread.is_finished(), "it hangs: no end within {seconds} seconds");
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn cluster(workers: usize, memory_limit_bytes: usize) -> Cluster {
    let config = ClusterConfig { workers, memory_limit_bytes, ..ClusterConfig::default() };
    Cluster::start(config).expect("the cluster starts")
}

fn assert_clean(cluster: &Cluster) {
    eventually("every reservation is given back", || cluster.memory().iter().all(|pool| pool.charged() == 0));
    assert_within_limit(cluster.memory());
}

/// Copies `source` to a file through a job.
fn copy(cluster: &Cluster, source: ParquetSource, partitions: usize, to: &Path) -> Result<JobSummary, ExecutionError> {
    let mut graph = Graph::new();
    let read = graph.source("read", source);
    graph.set_partitions(read, Partitions::Fixed(partitions));
    graph.sink("write", ParquetSink::new(to, ParquetSinkOptions::default()), read.gather_in_order());
    cluster.run(&graph)?.wait()
}

fn files(folder: &Path) -> usize {
    std::fs::read_dir(folder).expect("a folder").count()
}

fn small_pages() -> WriterPropertiesBuilder {
    WriterProperties::builder().set_data_page_row_count_limit(500).set_write_batch_size(100)
}

#[test]
fn a_copy_has_the_rows_in_order_over_any_number_of_partitions() {
    in_time(|| {
        let folder = tempfile::tempdir().expect("a folder");
        let (from, to) = (folder.path().join("from.parquet"), folder.path().join("to.parquet"));
        let many = small_pages().set_max_row_group_row_count(Some(600)).build();
        write(&from, &[mixed(0, 20_000)], many);
        let source = ParquetSource::open(&from, ParquetOptions::default()).expect("a file");
        let schema = source.file_schema();
        let expected = plainly(&from, &schema);
        for partitions in [1, 2, 8] {
            let cluster = cluster(2, 32 << 20);
            copy(&cluster, source.clone(), partitions, &to).expect("it ends well");
            assert_eq!(plainly(&to, &schema), expected, "{partitions} partitions");
            let predicate = binary(col("id", &schema).expect("a column"), Operator::Gt, lit(12_345i64), &schema);
            let filtered = source.with_predicate(predicate.expect("comparable")).expect("boolean");
            copy(&cluster, filtered, partitions, &to).expect("it ends well");
            assert_eq!(plainly(&to, &schema), expected.slice(12_346, 20_000 - 12_346), "{partitions} partitions");
            assert_clean(&cluster);
        }
    });
}

#[test]
fn no_rows_and_one_row_are_copied() {
    in_time(|| {
        let folder = tempfile::tempdir().expect("a folder");
        let (from, to) = (folder.path().join("from.parquet"), folder.path().join("to.parquet"));
        for rows in [0, 1] {
            write(&from, &[mixed(7, rows)], small_pages().build());
            let source = ParquetSource::open(&from, ParquetOptions::default()).expect("a file");
            let schema = source.file_schema();
            let cluster = cluster(2, 32 << 20);
            copy(&cluster, source, 2, &to).expect("it ends well");
            assert_eq!(plainly(&to, &schema), plainly(&from, &schema));
            assert_clean(&cluster);
        }
    });
}

#[test]
fn a_job_that_is_cancelled_or_fails_leaves_nothing() {
    in_time(|| {
        let folder = tempfile::tempdir().expect("a folder");
        let from = folder.path().join("from.parquet");
        let properties = small_pages().set_compression(Compression::ZSTD(ZstdLevel::default()));
        write(&from, &[mixed(0, 50_000)], properties.set_max_row_group_row_count(Some(5000)).build());
        let source = ParquetSource::open(&from, ParquetOptions::default()).expect("a file");
        let cluster = cluster(2, 64 << 20);
        // Cancelled while another sink of the job holds it up, so that it cannot be over before.
        let gate = Gate::shut();
        let mut graph = Graph::new();
        let read = graph.source("read", source.clone());
        graph.sink("held up", CountingSink::new().gated(&gate), read.gather());
        let written = folder.path().join("written.parquet");
        graph.sink("write", ParquetSink::new(&written, ParquetSinkOptions::default()), read.gather_in_order());
        let job = cluster.run(&graph).expect("it starts");
        assert!(gate.wait_until_refused(1, Duration::from_secs(60)));
        job.cancel();
        assert!(matches!(job.wait(), Err(ExecutionError::Cancelled)));
        assert_clean(&cluster);
        eventually("the file is gone", || files(folder.path()) == 1);
        // Damaged in the middle, all that is stored there: what was written before is gone as well.
        let mut bytes = std::fs::read(&from).expect("there");
        let middle = bytes.len() / 2;
        bytes[middle..middle + 100_000].fill(0xff);
        std::fs::write(&from, bytes).expect("written");
        let source = ParquetSource::open(&from, ParquetOptions::default()).expect("the footer is as it was");
        let error = copy(&cluster, source, 2, &written).map(|_| ()).expect_err("damaged").to_string();
        assert!(error.contains("from.parquet") && error.contains("row group"), "{error}");
        assert_clean(&cluster);
        eventually("the file is gone", || files(folder.path()) == 1);
    });
}

#[test]
fn two_workers_of_sixteen_megabytes_copy_a_file_larger_than_both() {
    in_time(|| {
        let folder = tempfile::tempdir().expect("a folder");
        let (from, to) = (folder.path().join("from.parquet"), folder.path().join("to.parquet"));
        let schema = large(&from, 40 << 20, small_pages());
        let source = ParquetSource::open(&from, ParquetOptions::default()).expect("a file");
        let cluster = cluster(2, 16 << 20);
        copy(&cluster, source, 2, &to).expect("it ends well");
        assert_clean(&cluster);
        assert!(cluster.memory().iter().all(|pool| pool.peak() <= 16 << 20));
        assert_eq!(plainly(&to, &schema), plainly(&from, &schema));
    });
}

/// Writes one row group of about `bytes`, without a pattern that compresses; gives the schema that it is read as.
fn large(path: &Path, bytes: usize, properties: WriterPropertiesBuilder) -> arrow::datatypes::SchemaRef {
    let mut state = 1u64;
    let mut random = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state >> 11
    };
    let file = std::fs::File::create(path).expect("a file");
    let mut writer: Option<parquet::arrow::ArrowWriter<std::fs::File>> = None;
    let properties = properties
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_max_row_group_row_count(None)
        .set_dictionary_enabled(false)
        .build();
    let rows = 20_000;
    for _ in 0..bytes.div_ceil(rows * 72) {
        let columns: [(&str, ArrayRef); 3] = [
            ("n", Arc::new(Int64Array::from_iter_values((0..rows).map(|_| random() as i64)))),
            ("x", Arc::new(Float64Array::from_iter_values((0..rows).map(|_| random() as f64)))),
            (
                "s",
                Arc::new(StringArray::from_iter_values(
                    (0..rows).map(|_| format!("{:020} {:019}", random(), random())),
                )),
            ),
        ];
        let batch = RecordBatch::try_from_iter(columns).expect("columns");
        let writer = writer.get_or_insert_with(|| {
            let file = file.try_clone().expect("a handle");
            parquet::arrow::ArrowWriter::try_new(file, batch.schema(), Some(properties.clone())).expect("a writer")
        });
        writer.write(&batch).expect("written");
    }
    writer.expect("some rows").close().expect("closed");
    ParquetSource::open(path, ParquetOptions::default()).expect("a file").file_schema()
}

/// Bytes of the row group in [`one_large_row_group_is_read_within_the_limit`], for another run by hand.
const GROUP_BYTES_VARIABLE: &str = "AQUEDUCT_TEST_ROW_GROUP_BYTES";

#[test]
fn one_large_row_group_is_read_within_the_limit() {
    in_time(|| {
        let bytes = std::env::var(GROUP_BYTES_VARIABLE).ok().and_then(|bytes| bytes.parse().ok()).unwrap_or(200 << 20);
        let folder = tempfile::tempdir().expect("a folder");
        let path: PathBuf = folder.path().join("large.parquet");
        for indexed in [true, false] {
            large(&path, bytes, WriterProperties::builder().set_offset_index_disabled(!indexed));
            let source = ParquetSource::open(&path, ParquetOptions::default()).expect("a file");
            let known = source.statistics();
            let cluster = cluster(2, 64 << 20);
            let mut graph = Graph::new();
            let read = graph.source("read", source);
            let sink = CountingSink::new();
            let written = sink.written();
            graph.sink("count", sink, read);
            cluster.run(&graph).expect("it starts").wait().expect("it ends well");
            assert_eq!(Some(written.rows()), known.rows);
            assert_clean(&cluster);
            let peak = cluster.memory().iter().map(|pool| pool.peak()).max().unwrap_or(0);
            println!("{} bytes decompressed, {peak} bytes held by a worker", known.bytes.unwrap_or(0));
            assert!(peak <= 64 << 20, "{peak}");
        }
    });
}
