//! Limits as users write them, and reading no more than a few rows need.

use std::path::{Path, PathBuf};

use aqueduct::arrow::array::AsArray;
use aqueduct::arrow::datatypes::Int64Type;
use aqueduct::operators::range;
use aqueduct::prelude::*;
use aqueduct::runtime::{ExecutionError, OperatorError};

use crate::{
    SMALL_BYTES, WORKERS, assert_clean, assert_empty, assert_says, cluster, folder, sufficient_limit, within,
    write_lines,
};

#[test]
fn memory_limits_are_read_in_their_usual_spellings() {
    within(60, || {
        for (text, bytes) in [
            ("16MB", 16_000_000),
            ("16 MB", 16_000_000),
            ("16mb", 16_000_000),
            ("16M", 16_000_000),
            ("16MiB", 16 << 20),
            ("16 mib", 16 << 20),
            ("0.5GB", 500_000_000),
            ("2GB", 2_000_000_000),
            ("1GiB", 1 << 30),
            ("20000k", 20_000_000),
            ("16000000", 16_000_000),
            ("16_000_000 B", 16_000_000),
        ] {
            let cluster = LocalCluster::builder().workers(1).memory_limit(text).progress(false).start().expect(text);
            assert_eq!(cluster.config().memory_limit_bytes, bytes, "{text}");
            assert_eq!(cluster.memory()[0].limit(), bytes, "{text}");
        }
    });
}

#[test]
fn memory_limits_that_are_none_are_errors_that_repeat_them() {
    for text in ["", "lots", "2XB", "-1GB", "0", "0MB", "1..5GB", "1e99GB", "GB", "nan"] {
        let error = LocalCluster::builder().workers(1).memory_limit(text).start().map(drop).expect_err(text);
        assert_says(&error, &[text, "2GB"]);
    }
    let error = LocalCluster::builder().workers(0).start().map(drop).expect_err("no workers");
    assert_says(&error, &["worker"]);
}

#[test]
fn a_limit_that_is_too_small_is_refused_with_one_that_is_enough() {
    within(60, || {
        let folder = folder();
        let lines = (0..50_000).map(|row| format!("{row},cat_{},{}.0", row % 100, row % 1000));
        let path = write_lines(&folder.path().join("data.csv"), "id,category,value", lines);
        for workers in WORKERS {
            let tiny = cluster(workers, 1000);
            let plans: [fn(&Frame) -> Frame; 3] = [
                |frame| frame.filter(col("id").lt(lit(10))),
                |frame| frame.group_by("category").mean("value"),
                |frame| frame.distinct(),
            ];
            for (plan, rows) in plans.into_iter().zip([10, 100, 50_000]) {
                let error = plan(&tiny.read_csv(&path).expect("opening needs none")).compute().expect_err("too small");
                let needed = sufficient_limit(&error);
                assert_says(&error, &["memory_limit", "1000", &needed.to_string()]);
                let enough = cluster(workers, needed);
                let answer = plan(&enough.read_csv(&path).expect("a CSV file")).compute();
                let answer = answer.unwrap_or_else(|error| panic!("{workers} workers of {needed} bytes: {error}"));
                assert_eq!(answer.num_rows(), rows, "{workers} workers of {needed} bytes");
                assert_empty(&enough);
            }
            // A refusal costs nothing.
            assert!(tiny.memory().iter().all(|pool| pool.peak() == 0));
        }
    });
}

#[test]
fn a_row_that_is_too_large_is_refused_with_a_limit_that_is_enough() {
    const LONG_BYTES: usize = 3_000_000;
    within(60, || {
        let folder = folder();
        let long = "x".repeat(LONG_BYTES);
        let lines = (0..2000).map(|row| format!("{row},{}", if row == 1500 { long.as_str() } else { "short" }));
        let path = write_lines(&folder.path().join("long.csv"), "id,text", lines);
        let out = folder.path().join("out.csv");
        type Run = fn(&Frame, &Path) -> aqueduct::Result<u64>;
        let jobs: [(&str, Run); 3] = [
            ("filter", |frame, _| {
                frame.filter(col("id").gt(lit(-1))).stream()?.map(|rows| Ok(rows?.num_rows() as u64)).sum()
            }),
            ("write", |frame, out| frame.write_csv(out)),
            ("group", |frame, _| {
                let groups = frame.group_by("text").size().stream()?;
                let rows =
                    groups.map(|groups| Ok(groups?.column(1).as_primitive::<Int64Type>().values().iter().sum::<i64>()));
                rows.sum::<aqueduct::Result<i64>>().map(|rows| rows as u64)
            }),
        ];
        let starts = [4_000_000, 8_000_000, 16_000_000, 32_000_000];
        for ((what, job), start) in jobs.into_iter().flat_map(|job| starts.map(|start| (job, start))) {
            if what == "group" && start == 4_000_000 {
                // What is too large there is no row, but the first table of a partial aggregate.
                continue;
            }
            let mut limit = start;
            let mut refusals = 0;
            loop {
                let cluster = cluster(2, limit);
                let answer = job(&cluster.read_csv(&path).expect("opening needs none"), &out);
                assert_clean(&cluster);
                match answer {
                    Ok(found) => {
                        println!("{what}: enough at {limit} after {refusals} refusals");
                        assert_eq!(found, 2000, "{what} at {limit}");
                        break;
                    }
                    Err(Error::Execution(ExecutionError::Operator { ref at, ref cause })) => match **cause {
                        OperatorError::RowTooLarge { needed_bytes, available_bytes, sufficient_limit_bytes } => {
                            println!("{what} at {limit}: node `{}`: {cause}", at.node);
                            assert!(sufficient_limit_bytes > limit, "{what} at {limit}: {cause}");
                            assert!(needed_bytes > available_bytes, "{what} at {limit}: {cause}");
                            limit = sufficient_limit_bytes;
                            refusals += 1;
                        }
                        ref other => panic!("{what} at {limit}: {other}"),
                    },
                    Err(other) => panic!("{what} at {limit}: {other}"),
                }
                assert!(refusals < 2, "{what}: the limit that the refusal named is not enough");
            }
            assert!(limit < 60 * LONG_BYTES, "{what}: a row of {LONG_BYTES} bytes needs {limit}");
        }
    });
}

#[test]
fn jobs_that_do_not_fit_together_wait_for_each_other() {
    within(60, || {
        let cluster = cluster(2, SMALL_BYTES);
        let numbers = cluster.from_source("numbers", range("n", Some(50_000))).expect("a frame");
        std::thread::scope(|scope| {
            let jobs: Vec<_> = (0..8)
                .map(|job| {
                    let frame = numbers.with_column("key", col("n") % lit(1000 + job)).group_by("key").sum("n");
                    (job, scope.spawn(move || frame.compute()))
                })
                .collect();
            for (job, answer) in jobs {
                let answer = answer.join().expect("no panic").expect("sums");
                assert_eq!(answer.num_rows() as i64, 1000 + job);
                let sums = answer.i64s("n").expect("sums");
                assert_eq!(sums.into_iter().flatten().sum::<i64>(), 50_000 * 49_999 / 2);
            }
        });
        assert_clean(&cluster);
    });
}

/// Bytes that this process has read by system calls, files in the page cache included; `None` where the system does
/// not tell.
fn read_bytes() -> Option<u64> {
    let counters = std::fs::read_to_string("/proc/self/io").ok()?;
    counters.lines().find_map(|line| line.strip_prefix("rchar: ")?.trim().parse().ok())
}

/// What `work` reads, and its answer. `None` stands for a system that does not tell.
fn reading<T>(work: impl FnOnce() -> T) -> (T, Option<u64>) {
    let before = read_bytes();
    let answer = work();
    let read = before.zip(read_bytes()).map(|(before, after)| after - before);
    if read.is_none() {
        println!("SKIPPED: /proc/self/io does not tell here how much is read");
    }
    (answer, read)
}

/// 60 MB: `id,text`, `id` from 0.
fn large_file(folder: &Path) -> PathBuf {
    const ROWS: usize = 600_000;
    let padding = "x".repeat(92);
    let lines = (0..ROWS).map(|row| format!("{row},{padding}"));
    let path = write_lines(&folder.join("large.csv"), "id,text", lines);
    assert!(std::fs::metadata(&path).expect("the file").len() > 59_000_000);
    path
}

/// What is read of a process's own, such as libraries and `/proc`, and the largest piece that a scan reads at once.
const HEAD_BYTES: u64 = 1 << 20;

mod alone {
    use super::*;

    #[test]
    fn head_reads_kilobytes_of_a_large_file() {
        within(60, || {
            let folder = folder();
            let path = large_file(folder.path());
            for workers in WORKERS {
                let cluster = cluster(workers, SMALL_BYTES);
                let (frame, opened) = reading(|| cluster.read_csv(&path).expect("a CSV file"));
                let (table, read) = reading(|| frame.head(5).expect("five rows"));
                assert_eq!(table.i64s("id").expect("ids"), [0, 1, 2, 3, 4].map(Some));
                println!("{workers} workers: opening reads {opened:?}, head {read:?}");
                assert!(opened.unwrap_or(0) <= 2 * HEAD_BYTES, "opening read {opened:?} bytes");
                assert!(read.unwrap_or(0) <= HEAD_BYTES, "head read {read:?} bytes");
                assert_clean(&cluster);
            }
        });
    }

    #[test]
    fn head_of_a_filter_stops_once_it_has_its_rows() {
        within(60, || {
            let folder = folder();
            let path = large_file(folder.path());
            let file_bytes = std::fs::metadata(&path).expect("the file").len();
            for workers in WORKERS {
                let cluster = cluster(workers, SMALL_BYTES);
                let frame = cluster.read_csv(&path).expect("a CSV file");
                let found = frame.filter((col("id") % lit(1000)).eq(lit(7)));
                let (table, read) = reading(|| found.head(20).expect("twenty rows"));
                let expected: Vec<_> = (0..20).map(|k| Some(k * 1000 + 7)).collect();
                assert_eq!(table.i64s("id").expect("ids"), expected, "{workers} workers");
                println!("{workers} workers: the filter's head reads {read:?} of {file_bytes}");
                // They are in the first thirtieth of the file; each worker may be ahead by what its limit lets it hold.
                let allowed = file_bytes / 4 + workers as u64 * HEAD_BYTES;
                assert!(read.unwrap_or(0) <= allowed, "{workers} workers: read {read:?} of {file_bytes} bytes");
                // Where there are fewer rows, all of the file is read, and those there are come.
                let last = frame.filter(col("id").gt_eq(lit(599_998))).head(20).expect("two rows");
                assert_eq!(last.i64s("id").expect("ids"), [Some(599_998), Some(599_999)]);
                assert_clean(&cluster);
            }
        });
    }

    #[test]
    fn a_limit_before_a_stream_reads_kilobytes_too() {
        within(60, || {
            let folder = folder();
            let path = large_file(folder.path());
            let cluster = cluster(2, SMALL_BYTES);
            let frame = cluster.read_csv(&path).expect("a CSV file").limit(1000).select(["id"]);
            let (ids, read) = reading(|| {
                let mut ids = Vec::new();
                for batch in frame.stream().expect("a stream") {
                    ids.extend_from_slice(batch.expect("rows").column(0).as_primitive::<Int64Type>().values());
                }
                ids
            });
            assert_eq!(ids, (0..1000).collect::<Vec<i64>>());
            assert!(read.unwrap_or(0) <= HEAD_BYTES, "read {read:?} bytes");
            assert_clean(&cluster);
        });
    }
}
