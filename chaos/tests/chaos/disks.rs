//! Disks that fill up and spill folders that somebody removes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use aqueduct::arrow::array::AsArray;
use aqueduct::arrow::datatypes::Int64Type;
use aqueduct::operators::range;
use aqueduct::prelude::*;
use aqueduct::runtime::testing::{assert_no_threads_left, eventually};
use aqueduct_chaos::{assert_clean, within};

/// What says in the environment that this process may mount.
const INSIDE: &str = "AQUEDUCT_DISKS_INSIDE";

/// Runs the test of this name once more in a process that may mount, as it has a namespace of its own; `false` if this is
/// that process. Says so where there are no namespaces to be had.
fn elsewhere(name: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return false;
    }
    let mut probe = Command::new("unshare");
    probe.args(["--user", "--map-root-user", "--mount", "sh", "-c", "mount -t tmpfs none /mnt"]);
    match probe.output() {
        Ok(output) if output.status.success() => {}
        Ok(output) => {
            println!("SKIPPED: no tmpfs can be mounted here: {}", String::from_utf8_lossy(&output.stderr).trim());
            return true;
        }
        Err(error) => {
            println!("SKIPPED: no tmpfs can be mounted here: {error}");
            return true;
        }
    }
    let mut again = Command::new("unshare");
    again.args(["--user", "--map-root-user", "--mount"]).arg(std::env::current_exe().expect("this program"));
    let output = again.args(["--exact", name, "--nocapture"]).env(INSIDE, "1").output().expect("it runs");
    let (out, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    println!("{out}{error}");
    assert!(output.status.success() && out.contains("1 passed"), "it failed there");
    true
}

/// A file system of `kilobytes` at `path`.
fn mount(path: &Path, kilobytes: u32) {
    fs::create_dir_all(path).expect("a folder");
    let mut mount = Command::new("mount");
    mount.args(["-t", "tmpfs", "-o", &format!("size={kilobytes}k"), "tmpfs"]).arg(path);
    assert!(mount.status().expect("a command").success());
}

fn cluster(spill: &Path) -> LocalCluster {
    let builder = LocalCluster::builder().workers(2).memory_limit("8MB").progress(false).without_dashboard();
    builder.spill_dir(spill).start().expect("a cluster")
}

fn numbers(cluster: &LocalCluster, rows: u64) -> Frame {
    let numbers = cluster.from_source("numbers", range("n", Some(rows))).expect("a source");
    numbers.with_column("m", (col("n") * lit(7919_i64)) % lit(rows as i64))
}

fn assert_full(error: &Error, path: &Path) {
    let said = error.to_string();
    for part in ["node `", "o space left", &path.display().to_string()] {
        assert_eq!(said.matches(part).count(), 1, "`{part}`: {said}");
    }
}

fn names(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).expect("the folder").flatten();
    names.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// Sinks on a disk of any size that is too small: the target is as it was and nothing is left beside it.
#[test]
fn a_disk_that_fills_up_at_any_place_of_a_sink_leaves_the_file_as_it_was() {
    if elsewhere("disks::a_disk_that_fills_up_at_any_place_of_a_sink_leaves_the_file_as_it_was") {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let cluster = cluster(&folder.path().join("spill"));
    let rows = numbers(&cluster, 150_000);
    for kilobytes in [8, 16, 64, 200, 400, 600] {
        let disk = folder.path().join(format!("disk{kilobytes}"));
        mount(&disk, kilobytes);
        for name in ["out.csv", "out.parquet"] {
            let path = disk.join(name);
            fs::write(&path, "as it was").expect("room for that");
            let write = || if name == "out.csv" { rows.write_csv(&path) } else { rows.write_parquet(&path) };
            let error = write().expect_err("the disk is too small");
            assert_full(&error, &path);
            assert_eq!(fs::read(&path).expect("the file"), b"as it was");
            assert_eq!(names(&disk), [name]);
            assert_clean(name, &cluster);
            fs::remove_file(path).expect("removed");
        }
        let path = disk.join("few.parquet");
        assert_eq!(rows.limit(10).write_parquet(&path).expect("the next job has room"), 10);
    }
}

/// Spilling to a disk of any size that is too small.
#[test]
fn a_disk_that_fills_up_at_any_place_of_a_spill_ends_the_job_and_the_next_runs() {
    if elsewhere("disks::a_disk_that_fills_up_at_any_place_of_a_spill_ends_the_job_and_the_next_runs") {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    for kilobytes in [16, 64, 256, 1024, 2048, 3072] {
        let disk = folder.path().join(format!("disk{kilobytes}"));
        mount(&disk, kilobytes);
        let cluster = cluster(&disk);
        let rows = numbers(&cluster, 500_000);
        let frames = [
            rows.sort("m"),
            rows.group_by("m").agg([sum(col("n"))]),
            rows.join(&numbers(&cluster, 500_000).rename("n", "o"), "m", JoinType::Inner),
            rows.group_by(col("m") % lit(3_i64)).agg([median(col("n"))]),
        ];
        for frame in frames {
            let error = frame.stream().expect("a job").find_map(Result::err).expect("the disk is too small");
            assert_full(&error, &cluster.spill_path());
            assert_clean("a full disk", &cluster);
            assert_eq!(numbers(&cluster, 1000).sort("m").compute().expect("the next job").num_rows(), 1000);
        }
        let kept = rows.cache();
        assert_full(&kept.map(drop).expect_err("the disk is too small"), &cluster.spill_path());
        assert_clean("a full disk", &cluster);
        drop(cluster);
        assert_eq!(names(&disk), [""; 0]);
        assert_no_threads_left();
    }
}

/// What becomes of a sort whose spill folder is removed by `remove`, once it spills.
fn sort_without_folder(remove: fn(&Path)) {
    let body = move || {
        let folder = tempfile::tempdir().expect("a folder");
        let cluster = cluster(folder.path());
        let spill: PathBuf = cluster.spill_path();
        let rows = numbers(&cluster, 600_000).sort("m");
        for _ in 0..2 {
            let stream = rows.stream().expect("a job");
            eventually("it spills", || aqueduct_chaos::spill_files(&spill) > 0);
            remove(&spill);
            let mut next = 0;
            for batch in stream {
                let batch = batch.expect("files that are open stay, and the folder is made anew");
                for value in batch.column(1).as_primitive::<Int64Type>().values() {
                    assert_eq!(*value, next);
                    next += 1;
                }
            }
            assert_eq!(next, 600_000);
            assert_clean("a removed folder", &cluster);
        }
        // What was open needed no folder: the next one does.
        assert_eq!(rows.stream().expect("a job").map(|batch| batch.expect("rows").num_rows()).sum::<usize>(), 600_000);
        assert!(spill.join("lock").exists(), "it is locked again, so nobody sweeps it");
        drop(cluster);
        assert_eq!(names(folder.path()), [""; 0]);
        assert_no_threads_left();
    };
    within(60, "a sort", body).unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

#[test]
fn a_spill_folder_that_is_removed_under_a_job_is_made_anew() {
    sort_without_folder(|spill| fs::remove_dir_all(spill).expect("removed"));
}

#[test]
fn a_spill_folder_that_is_replaced_by_a_file_is_an_error_that_names_it() {
    let body = || {
        let folder = tempfile::tempdir().expect("a folder");
        let cluster = cluster(folder.path());
        let spill = cluster.spill_path();
        fs::remove_dir_all(&spill).expect("removed");
        fs::write(&spill, "in the way").expect("written");
        let error = numbers(&cluster, 600_000).sort("m").stream().expect("a job").find_map(Result::err);
        let said = error.expect("it cannot spill").to_string();
        assert!(said.contains("node `sort") && said.contains(&spill.display().to_string()), "{said}");
        assert_clean("no folder", &cluster);
        assert_eq!(numbers(&cluster, 1000).sort("m").compute().expect("the next job").num_rows(), 1000);
        drop(cluster);
        assert_eq!(fs::read(&spill).expect("not ours to remove"), b"in the way");
    };
    within(60, "a sort", body).unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}
