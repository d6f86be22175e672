//! A group-by far larger than the limits: the answer is right, and no byte goes over.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use aqueduct::arrow::array::{Array, AsArray, Float64Array, Int64Array, RecordBatch};
use aqueduct::arrow::datatypes::{DataType, Field, Float64Type, Schema};
use aqueduct::prelude::*;
use aqueduct::runtime::allocator::{BATCH_BYTES, allocated_bytes, peak_bytes, reset_peak};
use aqueduct::runtime::metrics::JobMetrics;
use aqueduct::runtime::testing::assert_no_threads_left;

use crate::{
    SMALL_BYTES, WORKERS, assert_clean, cluster, folder, for_each_text, shuffled, spill_files, sufficient_limit,
    within, write_lines,
};

/// Distinct keys; each has two rows, which are far apart in the file.
const KEYS: usize = 300_000;

/// What an idle cluster of two workers has allocated, and planning: thread stacks are not counted, names, queues and
/// three tokio runtimes are. None of it grows with the data, and none of it is a worker's.
const IDLE_BYTES: usize = 256 << 10;

/// What the threads of a cluster of two workers may have counted and not yet passed on: two arbiters, two for input
/// and output, control, timer, the caller and the harness.
const UNCOUNTED_BYTES: usize = 8 * BATCH_BYTES;

fn key(number: usize) -> String {
    format!("customer_{number:07}")
}

/// The two values of a key: halves, so that their mean and the sum of all means are exact.
fn values(number: usize) -> [f64; 2] {
    let first = (number % 1000) as f64;
    [first, first + (number % 7) as f64]
}

fn mean_of(number: usize) -> f64 {
    let [first, second] = values(number);
    (first + second) / 2.0
}

/// `name,value`, the rows in an order without pattern.
fn distinct_keys(folder: &Path) -> PathBuf {
    let lines = shuffled(2 * KEYS).into_iter().map(|row| {
        let (number, which) = (row as usize / 2, row as usize % 2);
        format!("{},{:?}", key(number), values(number)[which])
    });
    write_lines(&folder.join("distinct.csv"), "name,value", lines)
}

fn means(cluster: &LocalCluster, path: &Path) -> Frame {
    cluster.read_csv(path).expect("a CSV file").group_by("name").mean("value")
}

/// Checks means one by one, each key once, in whatever order they come.
struct Means {
    seen: Vec<bool>,
    groups: usize,
    sum: f64,
}

impl Means {
    fn new() -> Self {
        Self { seen: vec![false; KEYS], groups: 0, sum: 0.0 }
    }

    fn take(&mut self, batch: &RecordBatch) {
        let means = batch.column(1).as_primitive::<Float64Type>();
        for_each_text(batch.column(0), |row, name| {
            let name = name.expect("no key is null");
            let number: usize = name.strip_prefix("customer_").expect(name).parse().expect(name);
            assert!(!std::mem::replace(&mut self.seen[number], true), "{name} came twice");
            assert!(means.is_valid(row), "{name} has no mean");
            assert_eq!(means.value(row), mean_of(number), "{name}");
            self.groups += 1;
            self.sum += means.value(row);
        });
    }

    fn check(&self) {
        assert_eq!(self.groups, KEYS);
        assert_eq!(self.sum, (0..KEYS).map(mean_of).sum::<f64>());
    }
}

fn spilled_bytes(metrics: &JobMetrics) -> u64 {
    metrics.workers.iter().map(|worker| worker.spilled_bytes).sum()
}

/// Streams the means, drops each batch once it is checked, and returns the job's last metrics.
fn stream_and_check(frame: &Frame, means: &mut Means) -> JobMetrics {
    let mut rows = frame.stream().expect("a stream");
    for batch in rows.by_ref() {
        means.take(&batch.expect("means"));
    }
    means.check();
    rows.job().metrics()
}

/// The peak of what `job` has allocated stays under the sum of the limits.
fn assert_bound(cluster: LocalCluster, before: usize, what: &str) {
    let peak = peak_bytes() - before;
    let limits: usize = cluster.memory().iter().map(|pool| pool.limit()).sum();
    let charged: usize = cluster.memory().iter().map(|pool| pool.peak()).sum();
    println!("{what}: peak {peak} bytes allocated, {charged} charged, limits {limits}");
    assert!(
        peak <= limits + IDLE_BYTES + UNCOUNTED_BYTES,
        "{what}: {peak} bytes were allocated, {charged} charged, and the limits are {limits}"
    );
    assert!(cluster.memory().iter().all(|pool| pool.peak() <= pool.limit()), "{what}: charged beyond the limit");
    assert_clean(&cluster);
    let spill = cluster.spill_path();
    cluster.close();
    assert!(!spill.exists(), "{} is left", spill.display());
    assert_no_threads_left();
}

/// A limit far too small is refused, and the refusal names one that is enough.
fn smallest_limit(workers: usize, plan: impl Fn(&LocalCluster) -> Frame) -> usize {
    let tiny = cluster(workers, 64 << 10);
    let error = plan(&tiny).stream().map(drop).expect_err("64 KiB are too small");
    let needed = sufficient_limit(&error);
    assert!(error.to_string().contains(&needed.to_string()), "{error}");
    needed
}

/// Looks at the spill folder for as long as `work` takes: whether there was ever a file with something in it.
fn saw_spilling<T>(spill_path: &Path, work: impl FnOnce() -> T) -> (T, bool) {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let look = scope.spawn(|| {
            let mut seen = false;
            while !seen && !over.load(Relaxed) {
                seen = spill_files(spill_path) > 0;
                std::thread::park_timeout(std::time::Duration::from_millis(2));
            }
            seen
        });
        let answer = work();
        over.store(true, Relaxed);
        (answer, look.join().expect("no panic"))
    })
}

mod heavy {
    use super::*;

    fn streamed(limit: impl FnOnce(&Path) -> usize + Send + 'static) {
        within(110, move || {
            let folder = folder();
            let path = distinct_keys(folder.path());
            let limit = limit(&path);
            let mut checked = Means::new();
            reset_peak();
            let before = allocated_bytes();
            let cluster = cluster(2, limit);
            let metrics = stream_and_check(&means(&cluster, &path), &mut checked);
            assert!(spilled_bytes(&metrics) > 0, "all of it fitted in {limit} bytes");
            assert_eq!(metrics.deadlocks, [""; 0]);
            assert_bound(cluster, before, &format!("streamed at 2 x {limit}"));
        });
    }

    #[test]
    fn means_of_many_keys_are_streamed_within_two_small_limits() {
        streamed(|_| SMALL_BYTES);
    }

    #[test]
    fn means_of_many_keys_are_streamed_within_the_least_limit_that_is_accepted() {
        streamed(|path| smallest_limit(2, |cluster| means(cluster, path)));
    }

    fn written(limit: impl FnOnce(&Path) -> usize + Send + 'static) {
        within(110, move || {
            let folder = folder();
            let path = distinct_keys(folder.path());
            let out = folder.path().join("means.csv");
            let limit = limit(&path);
            let mut checked = Means::new();
            reset_peak();
            let before = allocated_bytes();
            let cluster = cluster(2, limit);
            let frame = means(&cluster, &path);
            let (rows, spilled) = saw_spilling(&cluster.spill_path(), || frame.write_csv(&out));
            assert_eq!(rows.expect("written"), KEYS as u64);
            assert!(spilled, "all of it fitted in {limit} bytes");
            assert_bound(cluster, before, &format!("written at 2 x {limit}"));
            let schema = Schema::new(vec![
                Field::new("name", DataType::Utf8, true),
                Field::new("value", DataType::Float64, true),
            ]);
            let file = std::fs::File::open(&out).expect("the file");
            let reader = arrow_csv::ReaderBuilder::new(Arc::new(schema)).with_header(true).build(file);
            for batch in reader.expect("a reader") {
                checked.take(&batch.expect("what was written is CSV"));
            }
            checked.check();
            let left = std::fs::read_dir(folder.path()).expect("the folder").count();
            assert_eq!(left, 2, "a temporary file is left");
        });
    }

    #[test]
    fn means_of_many_keys_are_written_within_two_small_limits() {
        written(|_| SMALL_BYTES);
    }

    #[test]
    fn means_of_many_keys_are_written_within_a_limit_that_is_refused_by_one_byte_less() {
        // A refused write must not have touched the file.
        written(|path| {
            let refused = |limit| {
                let cluster = cluster(2, limit);
                let out = path.with_extension("refused");
                let error = means(&cluster, path).write_csv(&out).expect_err("too small");
                assert!(!out.exists());
                sufficient_limit(&error)
            };
            let needed = refused(64 << 10);
            assert_eq!(refused(needed - 1), needed, "the refusals of two limits differ");
            needed
        });
    }

    #[test]
    fn a_generous_limit_spills_and_spools_nothing() {
        within(110, || {
            let folder = folder();
            let path = distinct_keys(folder.path());
            let cluster = cluster(2, 1 << 30);
            let metrics = stream_and_check(&means(&cluster, &path), &mut Means::new());
            assert_eq!(spilled_bytes(&metrics), 0);
            assert_eq!(metrics.nodes.iter().map(|node| node.spilled_bytes).sum::<u64>(), 0);
            assert_eq!(metrics.edges.iter().map(|edge| edge.spooled_bytes).sum::<u64>(), 0);
            assert_clean(&cluster);
        });
    }

    /// Batches of 8 MB each, 72 MB together: `key`, and `value`, which is as often any number as another.
    fn large_batches(groups: i64) -> (Arc<Schema>, Vec<RecordBatch>) {
        let schema = Arc::new(Schema::new(vec![
            Field::new("key", DataType::Int64, false),
            Field::new("value", DataType::Float64, false),
        ]));
        let batches = (0..9).map(|batch| {
            let rows = batch * LARGE_ROWS..(batch + 1) * LARGE_ROWS;
            let keys = Int64Array::from_iter_values(rows.clone().map(|row| row % groups));
            let values = Float64Array::from_iter_values(rows.map(|row| (row / groups) as f64));
            RecordBatch::try_new(Arc::clone(&schema), vec![Arc::new(keys), Arc::new(values)]).expect("two columns")
        });
        let batches = batches.collect();
        (schema, batches)
    }

    /// Rows of a large batch.
    const LARGE_ROWS: i64 = 500_000;

    fn medians_of_large_batches(groups: i64) {
        within(110, move || {
            let (schema, batches) = large_batches(groups);
            assert!(batches.iter().map(RecordBatch::get_array_memory_size).sum::<usize>() > 64 << 20);
            reset_peak();
            let before = allocated_bytes();
            let cluster = cluster(2, SMALL_BYTES);
            let frame = cluster.from_batches(schema, batches).expect("a frame");
            let mut rows = frame.group_by("key").agg(median(col("value"))).stream().expect("a stream");
            let expected = (9 * LARGE_ROWS / groups - 1) as f64 / 2.0;
            let mut found = 0;
            for batch in rows.by_ref() {
                let batch = batch.expect("medians");
                let medians = batch.column(1).as_primitive::<Float64Type>();
                assert!(medians.values().iter().all(|median| *median == expected), "{medians:?}");
                found += batch.num_rows() as i64;
            }
            assert_eq!(found, groups);
            assert!(spilled_bytes(&rows.job().metrics()) > 0);
            drop(rows);
            assert_bound(cluster, before, &format!("medians of {groups} groups of large batches"));
        });
    }

    #[test]
    fn medians_of_large_batches_in_memory_keep_to_small_limits() {
        medians_of_large_batches(4);
    }

    #[test]
    fn medians_of_many_groups_of_large_batches_keep_to_small_limits() {
        medians_of_large_batches(1000);
    }

    /// Keys of 2 to 20 KB, each twice: the length and the letters follow from the number.
    fn long_key(number: usize) -> String {
        let length = 2_000 + number * 7_919 % 18_000;
        let letter = char::from(b'a' + (number % 26) as u8);
        let mut key = letter.to_string().repeat(length);
        key.push_str(&format!("_{number}"));
        key
    }

    #[test]
    fn long_keys_are_grouped_within_small_limits() {
        const LONG_KEYS: usize = 2_000;
        within(110, || {
            let folder = folder();
            let lines = shuffled(2 * LONG_KEYS).into_iter().map(|row| {
                let number = row as usize / 2;
                format!("{row},{},{}.5", long_key(number), number)
            });
            let path = write_lines(&folder.path().join("long.csv"), "id,name,value", lines);
            for workers in WORKERS {
                let mut seen = vec![false; LONG_KEYS];
                reset_peak();
                let before = allocated_bytes();
                let cluster = cluster(workers, SMALL_BYTES);
                let mut rows = means(&cluster, &path).stream().expect("a stream");
                for batch in rows.by_ref() {
                    let batch = batch.expect("means");
                    let means = batch.column(1).as_primitive::<Float64Type>();
                    for_each_text(batch.column(0), |row, key| {
                        let key = key.expect("no key is null");
                        let number: usize = key.rsplit('_').next().and_then(|n| n.parse().ok()).expect("a number");
                        assert!(key == long_key(number), "the key of {number} is not what it was");
                        assert!(!std::mem::replace(&mut seen[number], true), "{number} came twice");
                        assert_eq!(means.value(row), number as f64 + 0.5);
                    });
                }
                assert!(seen.iter().all(|seen| *seen), "{workers} workers: a key is missing");
                drop(rows);
                let peak = peak_bytes() - before;
                println!("long keys, {workers} workers: peak {peak} bytes");
                assert!(peak <= workers * SMALL_BYTES + workers * IDLE_BYTES + UNCOUNTED_BYTES, "{workers}: {peak}");
                assert_clean(&cluster);
            }
        });
    }
}

#[test]
fn nulls_are_a_group_of_their_own_and_count_in_no_mean() {
    const ROWS: usize = 20_000;
    within(60, || {
        let folder = folder();
        // Key k % 11, null for 0; the value is null where k % 3 is 0, and always for key 5.
        let parts = |k: usize| {
            let key = (!k.is_multiple_of(11)).then(|| format!("key {}", k % 11));
            let value = (!k.is_multiple_of(3) && k % 11 != 5).then_some(k as f64);
            (key, value)
        };
        let lines = (0..ROWS).map(|k| {
            let (key, value) = parts(k);
            format!("{},{}", key.unwrap_or_default(), value.map(|value| format!("{value:?}")).unwrap_or_default())
        });
        let path = write_lines(&folder.path().join("nulls.csv"), "name,value", lines);
        let mut expected: std::collections::BTreeMap<Option<String>, (f64, i64)> = Default::default();
        for (key, value) in (0..ROWS).map(parts) {
            let entry = expected.entry(key).or_default();
            if let Some(value) = value {
                *entry = (entry.0 + value, entry.1 + 1);
            }
        }
        for workers in WORKERS {
            let cluster = cluster(workers, SMALL_BYTES);
            let frame = cluster.read_csv(&path).expect("a CSV file");
            let answer = frame.group_by("name").agg([mean(col("value")).alias("m"), count(col("value")).alias("n")]);
            let answer = answer.compute().expect("an answer");
            let columns = answer.strings("name").expect("keys").into_iter();
            let columns = columns.zip(answer.f64s("m").expect("means")).zip(answer.i64s("n").expect("counts"));
            let found: std::collections::BTreeMap<_, _> = columns.map(|((key, mean), n)| (key, (mean, n))).collect();
            assert_eq!(answer.num_rows(), 11, "{workers} workers");
            for (key, (sum, n)) in &expected {
                let mean = (*n > 0).then(|| sum / *n as f64);
                assert_eq!(found[key], (mean, Some(*n)), "{workers} workers, {key:?}");
            }
            assert_clean(&cluster);
        }
    });
}

#[test]
fn one_row_is_one_group_and_a_header_alone_is_none() {
    within(60, || {
        let folder = folder();
        let one = write_lines(&folder.path().join("one.csv"), "name,value", ["only,2.5"]);
        let none = write_lines(&folder.path().join("none.csv"), "name,value", [""; 0]);
        let schema = Schema::new(vec![
            Field::new("name", DataType::Utf8View, true),
            Field::new("value", DataType::Float64, true),
        ]);
        let options = CsvOptions { schema: Some(Arc::new(schema)), ..CsvOptions::default() };
        for workers in WORKERS {
            let cluster = cluster(workers, SMALL_BYTES);
            let answer = means(&cluster, &one).compute().expect("one group");
            assert_eq!(answer.strings("name").expect("the key"), [Some("only".to_string())]);
            assert_eq!(answer.f64s("value").expect("the mean"), [Some(2.5)]);
            let typed = cluster.read_csv_with(&none, options.clone()).expect("a CSV file");
            assert_eq!(typed.group_by("name").mean("value").compute().expect("no groups").num_rows(), 0);
            assert_eq!(typed.count().expect("a count"), 0);
            let out = folder.path().join("out.csv");
            assert_eq!(typed.group_by("name").mean("value").write_csv(&out).expect("a header"), 0);
            assert_eq!(std::fs::read_to_string(&out).expect("the file"), "name,value\n");
            // Without a schema the columns are known all the same.
            let untyped = cluster.read_csv(&none).expect("a header is enough");
            assert_eq!(untyped.count().expect("a count"), 0);
            assert_eq!(untyped.head(3).expect("no rows").num_columns(), 2);
            assert_eq!(untyped.group_by("name").size().compute().expect("no groups").num_rows(), 0);
            assert_clean(&cluster);
        }
    });
}

#[test]
fn a_stream_that_was_read_to_its_end_holds_no_memory_while_it_is_kept() {
    within(60, || {
        let cluster = cluster(2, SMALL_BYTES);
        let numbers = cluster.from_source("numbers", aqueduct::operators::range("n", Some(100_000))).expect("a frame");
        let mut rows = numbers.stream().expect("a stream");
        assert_eq!(rows.by_ref().map(|batch| batch.expect("rows").num_rows()).sum::<usize>(), 100_000);
        assert_clean(&cluster);
        assert!(rows.next().is_none());
        drop(rows);
    });
}
