//! What goes wrong ends with one clear error, leaves nothing, and the cluster runs the next query.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use aqueduct::operators::range;
use aqueduct::prelude::*;
use aqueduct::runtime::ExecutionError;
use aqueduct::runtime::testing::{assert_no_threads_left, eventually};

use crate::{SMALL_BYTES, WORKERS, assert_clean, assert_says, cluster, folder, spill_files, within, write_lines};

/// What a job may take to end after the event. Above the promised 100 ms: machines that test are loaded.
const SOON: Duration = Duration::from_millis(1000);

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).expect("the folder");
    let mut names: Vec<_> =
        entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// A file system of one mebibyte, unmounted when dropped.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// `None`, and a line that says so, where none can be mounted.
    fn mount() -> Option<Self> {
        let folder = folder();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"]).arg(folder.path());
        match mount.output() {
            Ok(output) if output.status.success() => Some(Self(folder)),
            Ok(output) => {
                println!("SKIPPED: no tmpfs can be mounted here: {}", String::from_utf8_lossy(&output.stderr).trim());
                None
            }
            Err(error) => {
                println!("SKIPPED: no tmpfs can be mounted here: {error}");
                None
            }
        }
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

mod heavy {
    use super::*;

    const ROWS: usize = 1_000_000;
    /// The line that is broken, counted from 1, the header included.
    const BROKEN_LINE: usize = 900_000;

    fn broken(folder: &Path, name: &str, line: &'static str) -> PathBuf {
        let lines = (0..ROWS).map(|row| match row + 2 {
            BROKEN_LINE => line.to_string(),
            _ => format!("{row},cat_{},{}.5", row % 100, row % 1000),
        });
        write_lines(&folder.join(name), "id,category,value", lines)
    }

    fn fails_and_goes_on(name: &'static str, line: &'static str, says: &'static [&'static str]) {
        within(110, move || {
            let folder = folder();
            let path = broken(folder.path(), name, line);
            let out = folder.path().join("out.csv");
            std::fs::write(&out, "as it was\n").expect("a file");
            for workers in WORKERS {
                let cluster = cluster(workers, SMALL_BYTES);
                let frame = cluster.read_csv(&path).expect("the sample is good");
                let error = frame.group_by("category").mean("value").compute().expect_err("a broken line");
                let text = assert_says(&error, says);
                assert_says(&error, &[name, "line 900000", "node `"]);
                assert_eq!(text.matches("line 900000").count(), 1, "said twice: {text}");
                assert_clean(&cluster);
                // Rows before it are good, and so is a file written before.
                let error = frame.select(["id", "value"]).write_csv(&out).expect_err("a broken line");
                assert_says(&error, &[name, "line 900000"]);
                assert_eq!(std::fs::read_to_string(&out).expect("the file"), "as it was\n");
                assert_eq!(names(folder.path()).len(), 2, "{:?}", names(folder.path()));
                assert_eq!(frame.head(2).expect("two rows").num_rows(), 2);
                // A stream that is broken off there has an error as its last item.
                let mut rows = frame.select(["value"]).stream().expect("a stream");
                let last = rows.by_ref().last().expect("an item");
                assert_says(&last.map(drop).expect_err("the broken line"), &["line 900000"]);
                drop(rows);
                assert_clean(&cluster);
                cluster.close();
            }
            assert_no_threads_left();
        });
    }

    #[test]
    fn a_text_among_numbers_is_an_error_with_file_line_column_and_value() {
        fails_and_goes_on("texts.csv", "1,cat_1,twelve", &["column `value`", "`twelve`", "Float64", "schema"]);
    }

    #[test]
    fn a_line_with_too_few_fields_is_an_error_with_file_and_line() {
        fails_and_goes_on("short.csv", "1,cat_1", &["expected 3 fields", "found 2"]);
    }

    #[test]
    fn a_line_with_too_many_fields_is_an_error_with_file_and_line() {
        fails_and_goes_on("long.csv", "1,cat_1,2.5,more", &["expected 3 fields", "found 4"]);
    }

    #[test]
    fn a_full_disk_under_a_file_that_is_written_is_an_error_that_names_it() {
        within(60, || {
            let Some(disk) = SmallDisk::mount() else { return };
            let out = disk.path().join("out.csv");
            std::fs::write(&out, "as it was\n").expect("a file");
            let cluster = cluster(2, SMALL_BYTES);
            let numbers = cluster.from_source("numbers", range("n", Some(2_000_000))).expect("a frame");
            for frame in [numbers.clone(), numbers.with_column("m", col("n") % lit(100_000)).group_by("m").sum("n")] {
                let error = frame.write_csv(&out).expect_err("the disk is full");
                assert_says(&error, &["node `write`", "writing ", &out.display().to_string(), "o space left"]);
                assert_eq!(names(disk.path()), ["out.csv"]);
                assert_eq!(std::fs::read_to_string(&out).expect("the file"), "as it was\n");
                assert_clean(&cluster);
            }
            // What fits is written.
            assert_eq!(numbers.limit(1000).write_csv(&out).expect("there is room"), 1000);
            assert_eq!(names(disk.path()), ["out.csv"]);
        });
    }

    #[test]
    fn a_full_disk_under_the_spill_folder_is_an_error_that_says_so() {
        within(60, || {
            let Some(disk) = SmallDisk::mount() else { return };
            let builder = LocalCluster::builder().workers(2).memory_limit_bytes(SMALL_BYTES).progress(false);
            let cluster = builder.spill_dir(disk.path()).start().expect("a cluster");
            let numbers = cluster.from_source("numbers", range("n", Some(20_000_000))).expect("a frame");
            let error = numbers.group_by("n").size().count().expect_err("the disk is full");
            assert_says(&error, &["node `", &disk.path().display().to_string(), "o space left"]);
            assert_clean(&cluster);
            cluster.close();
            assert_eq!(names(disk.path()), [""; 0]);
        });
    }

    #[test]
    fn a_spill_limit_that_is_reached_is_an_error_that_names_it() {
        within(60, || {
            let builder = LocalCluster::builder().workers(2).memory_limit_bytes(SMALL_BYTES).progress(false);
            let cluster = builder.spill_limit("1MB").start().expect("a cluster");
            let numbers = cluster.from_source("numbers", range("n", Some(20_000_000))).expect("a frame");
            let error = numbers.group_by("n").size().count().expect_err("more than a megabyte is spilled");
            assert_says(&error, &["node `", "1000000", "spill_limit"]);
            assert_clean(&cluster);
        });
    }

    #[test]
    fn a_job_that_is_dropped_while_it_spills_leaves_nothing() {
        within(60, || {
            let cluster = cluster(2, SMALL_BYTES);
            let numbers = cluster.from_source("numbers", range("n", None)).expect("a frame");
            let spill_path = cluster.spill_path();
            let rows = numbers.group_by("n").size().stream().expect("a stream");
            eventually("it spills", || spill_files(&spill_path) > 0);
            let dropped = Instant::now();
            drop(rows);
            eventually("it ends", || cluster.memory().iter().all(|pool| pool.charged() == 0));
            assert!(dropped.elapsed() < SOON, "{:?}", dropped.elapsed());
            assert_clean(&cluster);
            cluster.close();
            assert!(!spill_path.exists());
            assert_no_threads_left();
        });
    }

    #[test]
    fn a_job_that_is_dropped_halfway_through_its_rows_leaves_nothing() {
        within(60, || {
            let folder = folder();
            let path = broken(folder.path(), "good.csv", "1,cat_1,2.5");
            for workers in WORKERS {
                let cluster = cluster(workers, SMALL_BYTES);
                let frame = cluster.read_csv(&path).expect("a CSV file");
                let mut rows = frame.stream().expect("a stream");
                let mut read = 0;
                while read < ROWS / 2 {
                    read += rows.next().expect("more rows").expect("no error").num_rows();
                }
                let dropped = Instant::now();
                drop(rows);
                eventually("it ends", || cluster.memory().iter().all(|pool| pool.charged() == 0));
                assert!(dropped.elapsed() < SOON, "{:?}", dropped.elapsed());
                assert_clean(&cluster);
                assert_eq!(frame.count().expect("a count"), ROWS as u64);
            }
        });
    }
}

#[test]
fn an_answer_that_nobody_waits_for_any_more_is_not_computed() {
    within(60, || {
        let cluster = cluster(2, SMALL_BYTES);
        let endless = cluster.from_source("numbers", range("n", None)).expect("a frame");
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_time().build().expect("a runtime");
        runtime.block_on(async {
            let sum = endless.aggregate(sum(col("n") % lit(2)));
            let waited = tokio::time::timeout(Duration::from_millis(100), sum.compute_async()).await;
            assert!(waited.is_err(), "numbers without end have no sum");
        });
        assert_clean(&cluster);
    });
}

#[test]
fn paths_without_a_file_are_errors_that_name_them() {
    within(60, || {
        let folder = folder();
        let file = write_lines(&folder.path().join("file.csv"), "a", ["1"]);
        let empty = folder.path().join("empty.csv");
        std::fs::write(&empty, "").expect("a file");
        let circle = folder.path().join("circle.csv");
        std::os::unix::fs::symlink(&circle, &circle).expect("a link");
        let cluster = cluster(1, SMALL_BYTES);
        let refused = |path: &Path, says: &[&str]| {
            let error = cluster.read_csv(path).map(drop).expect_err("nothing to read");
            assert_says(&error, &[&path.display().to_string()]);
            assert_says(&error, says);
        };
        refused(&folder.path().join("missing.csv"), &["No such file"]);
        refused(folder.path(), &["folder", "*.csv"]);
        refused(&folder.path().join("*.parquet"), &["no file"]);
        refused(&folder.path().join("[.csv"), &[]);
        // Root may read whatever has a file behind it: these cannot be opened by anybody.
        refused(&file.join("below.csv"), &["Not a directory"]);
        refused(&circle, &["symbolic links"]);
        refused(&empty, &["empty", "schema"]);
        assert_clean(&cluster);
    });
}

#[test]
fn a_file_that_may_not_be_read_is_an_error_that_names_it() {
    use std::os::unix::fs::PermissionsExt;
    within(60, || {
        let folder = folder();
        let path = write_lines(&folder.path().join("secret.csv"), "a", ["1"]);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o0)).expect("changed");
        if std::fs::File::open(&path).is_ok() {
            println!("SKIPPED: this user may read every file");
            return;
        }
        let cluster = cluster(1, SMALL_BYTES);
        let error = cluster.read_csv(&path).map(drop).expect_err("may not be read");
        assert_says(&error, &[&path.display().to_string(), "ermission denied"]);
    });
}

#[test]
fn a_file_that_is_gone_or_shorter_when_the_job_runs_is_an_error_that_names_it() {
    within(60, || {
        let folder = folder();
        let lines = (0..200_000).map(|row| format!("{row},{row}.5"));
        let path = write_lines(&folder.path().join("fleeting.csv"), "id,value", lines);
        let cluster = cluster(2, SMALL_BYTES);
        let frame = cluster.read_csv(&path).expect("a CSV file");
        let file = std::fs::File::options().write(true).open(&path).expect("the file");
        file.set_len(10_000).expect("shortened");
        assert_says(&frame.compute().expect_err("it is shorter"), &["fleeting.csv"]);
        assert_clean(&cluster);
        std::fs::remove_file(&path).expect("removed");
        assert_says(&frame.compute().expect_err("it is gone"), &["fleeting.csv", "No such file"]);
        assert_clean(&cluster);
    });
}

#[test]
fn places_that_cannot_be_written_are_errors_that_name_them() {
    within(60, || {
        let folder = folder();
        let cluster = cluster(2, SMALL_BYTES);
        let numbers = cluster.from_source("numbers", range("n", Some(100))).expect("a frame");
        for path in [folder.path().join("no/such/folder.csv"), folder.path().to_path_buf()] {
            let error = numbers.write_csv(&path).expect_err("cannot be written");
            assert_says(&error, &["node `write`", &path.display().to_string()]);
            assert_clean(&cluster);
        }
        assert_eq!(names(folder.path()), [""; 0]);
    });
}

#[test]
fn a_closed_cluster_answers_every_call_with_an_error() {
    within(60, || {
        let folder = folder();
        let path = write_lines(&folder.path().join("file.csv"), "a", ["1"]);
        let cluster = cluster(2, SMALL_BYTES);
        let frame = cluster.read_csv(&path).expect("a CSV file");
        assert_eq!(frame.count().expect("a count"), 1);
        cluster.close();
        let out = folder.path().join("out.csv");
        let errors = [
            frame.compute().map(drop),
            frame.count().map(drop),
            frame.head(1).map(drop),
            frame.stream().map(drop),
            frame.write_csv(&out).map(drop),
            frame.group_by("a").size().compute().map(drop),
        ];
        for error in errors {
            let error = error.expect_err("the cluster is closed");
            assert!(matches!(error, Error::Execution(ExecutionError::Closed)), "{error}");
            assert_eq!(error.to_string(), "the cluster is closed");
        }
        assert_eq!(names(folder.path()), ["file.csv"]);
    });
}

#[test]
fn a_cluster_that_is_closed_while_frames_compute_ends_them_with_an_error() {
    within(60, || {
        let folder = folder();
        let out = folder.path().join("out.csv");
        for workers in WORKERS {
            // Large enough for three jobs at once.
            let cluster = cluster(workers, 16 * SMALL_BYTES);
            let endless = cluster.from_source("numbers", range("n", None)).expect("a frame");
            let spill_path = cluster.spill_path();
            let mut unread = endless.stream().expect("a stream");
            unread.next().expect("a batch").expect("no error");
            std::thread::scope(|scope| {
                let counting = scope.spawn(|| endless.count());
                let writing = scope.spawn(|| endless.write_csv(&out));
                eventually("rows are written", || names(folder.path()).len() == 1);
                let closing = Instant::now();
                cluster.close();
                assert!(closing.elapsed() < 2 * SOON, "{workers} workers: {:?}", closing.elapsed());
                for error in [counting.join().expect("no panic"), writing.join().expect("no panic")] {
                    let error = error.expect_err("the cluster was closed");
                    assert!(matches!(error, Error::Execution(ExecutionError::Closed)), "{error}");
                }
            });
            let last = unread.by_ref().last().expect("an end");
            assert!(matches!(last, Err(Error::Execution(ExecutionError::Closed))), "{last:?}");
            drop(unread);
            assert_eq!(names(folder.path()), [""; 0], "a temporary file is left");
            assert!(!spill_path.exists());
            assert_no_threads_left();
        }
    });
}

#[test]
fn everything_may_be_called_from_inside_an_async_runtime() {
    within(60, || {
        let folder = folder();
        let lines = (0..50_000).map(|row| format!("{row},cat_{}", row % 100));
        let path = write_lines(&folder.path().join("data.csv"), "id,category", lines);
        let work = async |flavour: &str| {
            let out = folder.path().join(format!("{flavour}.csv"));
            let cluster = cluster(2, SMALL_BYTES);
            let frame = cluster.read_csv(&path).expect("a CSV file");
            let sums = frame.group_by("category").sum("id");
            assert_eq!(frame.count().expect("a count"), 50_000, "{flavour}");
            assert_eq!(sums.compute().expect("sums").num_rows(), 100, "{flavour}");
            assert_eq!(sums.compute_async().await.expect("sums").num_rows(), 100, "{flavour}");
            assert_eq!(frame.head(5).expect("rows").num_rows(), 5, "{flavour}");
            assert_eq!(sums.write_csv(&out).expect("a file"), 100, "{flavour}");
            let rows: usize = sums.stream().expect("a stream").map(|batch| batch.expect("rows").num_rows()).sum();
            assert_eq!(rows, 100, "{flavour}");
            assert_clean(&cluster);
            cluster.close();
        };
        let multi = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().expect("a runtime");
        multi.block_on(work("multi-thread"));
        let current = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        current.block_on(work("current-thread"));
        // On a thread of a runtime's own, too, where blocking is frowned upon and panics in tokio's own calls.
        let numbers = multi.block_on(async {
            let task = tokio::spawn(async {
                let cluster = cluster(1, SMALL_BYTES);
                let numbers = cluster.from_source("numbers", range("n", Some(1000))).expect("a frame");
                numbers.count().expect("a count")
            });
            task.await.expect("no panic")
        });
        assert_eq!(numbers, 1000);
    });
}

#[test]
fn rows_of_constants_leave_nothing_to_whoever_made_the_constants() {
    within(60, || {
        let cluster = cluster(2, SMALL_BYTES);
        let null = "arrow_cast(null, 'Dictionary(Int32, Utf8)')";
        let text = "arrow_cast('a text', 'Dictionary(Int32, Utf8)')";
        for constant in [null, text, "make_array(1, null)", "named_struct('a', 1)"] {
            let query = format!(
                "select {constant} as x, n from (select string_agg(c, '|' order by c) as n from (values ('a')) t(c)) order by x, n"
            );
            let rows = cluster.sql(&query).and_then(|frame| frame.compute()).expect("one row");
            eventually(constant, || cluster.memory().iter().all(|pool| pool.charged() == 0));
            drop(rows);
            assert_clean(&cluster);
        }
    });
}
