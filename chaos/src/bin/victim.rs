//! A process to which things are done: it is killed while it writes, or has no descriptors left.
//!
//! `victim write FOLDER csv|parquet` writes `FOLDER/out` again and again, more than it has memory for, and says before each
//! time which. `victim descriptors FOLDER` takes all descriptors that its limit allows and runs jobs with the few that it
//! lets go of; to be started with a small limit.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use aqueduct::operators::range;
use aqueduct::prelude::*;
use aqueduct_chaos::{Digest, assert_clean, within};

/// Rows of each file that is written.
const ROWS: u64 = 60_000;
/// Descriptors that a job is left with.
const SPARE: [usize; 7] = [0, 1, 2, 3, 5, 8, 12];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match arguments[..] {
        ["write", folder, format] => write(Path::new(folder), format),
        ["descriptors", folder] => descriptors(Path::new(folder)),
        _ => {
            eprintln!("usage: victim write FOLDER csv|parquet, or victim descriptors FOLDER");
            return ExitCode::FAILURE;
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("victim: {error}");
            ExitCode::FAILURE
        }
    }
}

fn start(folder: &Path) -> aqueduct::Result<LocalCluster> {
    let builder = LocalCluster::builder().workers(2).memory_limit("7MB").progress(false).without_dashboard();
    builder.spill_dir(folder.join("spill")).start()
}

/// Rows (n, round, t) in an order that takes a sort on disk.
fn rows(cluster: &LocalCluster, round: i64) -> aqueduct::Result<Frame> {
    let numbers = cluster.from_source("numbers", range("n", Some(ROWS)))?;
    let text = aqueduct::functions::concat(vec![
        lit("a text that is long enough to need a disk when there are many of it, number "),
        cast(col("n") % lit(991_i64), aqueduct::arrow::datatypes::DataType::Utf8),
    ]);
    Ok(numbers.with_column("round", lit(round)).with_column("t", text).sort(["t", "n"]))
}

fn write(folder: &Path, format: &str) -> aqueduct::Result<()> {
    let cluster = start(folder)?;
    for round in 0.. {
        let rows = rows(&cluster, round)?;
        println!("round {round}");
        let written = match format {
            "csv" => rows.write_csv(folder.join("out"))?,
            _ => rows.write_parquet(folder.join("out"))?,
        };
        assert_eq!(written, ROWS);
    }
    Ok(())
}

/// All descriptors but `spare`.
fn take_all(spare: usize) -> Vec<File> {
    let mut taken: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    taken.truncate(taken.len().saturating_sub(spare));
    taken
}

fn digest(frame: &Frame) -> aqueduct::Result<Digest> {
    let mut digest = Digest::new(false);
    for batch in frame.stream()? {
        digest.add(&batch?);
    }
    Ok(digest)
}

type Run = fn(&LocalCluster, &Path) -> aqueduct::Result<Digest>;

const JOBS: [(&str, Run); 5] = [
    ("sort", |cluster, _| digest(&rows(cluster, 0)?)),
    ("group", |cluster, _| digest(&rows(cluster, 0)?.group_by("t").agg([count(col("n"))]))),
    ("read csv", |cluster, folder| digest(&cluster.read_csv(folder.join("in.csv"))?)),
    ("read parquet", |cluster, folder| digest(&cluster.read_parquet(folder.join("in.parquet"))?)),
    ("write csv", |cluster, folder| {
        let written = rows(cluster, 0)?.write_csv(folder.join("out"))?;
        let mut digest = Digest::default();
        digest.rows = written;
        Ok(digest)
    }),
];

fn descriptors(folder: &Path) -> aqueduct::Result<()> {
    let cluster = start(folder)?;
    let input = rows(&cluster, 0)?;
    input.write_csv(folder.join("in.csv"))?;
    input.write_parquet(folder.join("in.parquet"))?;
    let (mut refused, mut right) = (0, 0);
    for (name, run) in JOBS {
        let expected = run(&cluster, folder)?;
        for spare in SPARE {
            let what = format!("{name} with {spare} descriptors");
            let taken = take_all(spare);
            let outcome = std::thread::scope(|scope| scope.spawn(|| run(&cluster, folder)).join());
            drop(taken);
            match outcome {
                Ok(Ok(found)) => {
                    assert_eq!(found, expected, "{what}");
                    right += 1;
                }
                Ok(Err(error)) => {
                    let said = error.to_string();
                    assert_eq!(said.matches("oo many open files").count(), 1, "{what}: {said}");
                    refused += 1;
                }
                Err(_) => panic!("{what}: the caller's thread panicked"),
            }
            assert_clean(&what, &cluster);
            assert_eq!(run(&cluster, folder)?, expected, "the job after {what}");
        }
    }
    println!("{refused} jobs ended with an error and {right} with the right rows");
    drop(cluster);
    let (mut refused, mut right) = (0, 0);
    for spare in 0..=30 {
        let folder = folder.to_path_buf();
        let taken = take_all(spare);
        let started = within(20, "the start of a cluster", move || start(&folder).map(drop));
        drop(taken);
        match started {
            Ok(Ok(())) => right += 1,
            Ok(Err(error)) => {
                assert!(error.to_string().contains("cannot"), "{spare} descriptors: {error}");
                refused += 1;
            }
            Err(_) => panic!("{spare} descriptors: the start of a cluster panicked"),
        }
    }
    println!("{refused} clusters were refused and {right} started");
    std::io::stdout().flush().expect("somebody listens");
    Ok(())
}
