//! Mixed jobs on one cluster for as long as you like: what the process holds must not grow.
//!
//! `cargo run -p aqueduct-chaos --bin soak -- --minutes 30` prints resident memory, threads, descriptors, bytes on disk and
//! accounted bytes over time, and their slopes by least squares; it fails if one of them grows, or an answer is wrong.

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use aqueduct::arrow::array::AsArray;
use aqueduct::arrow::datatypes::Int64Type;
use aqueduct::operators::range;
use aqueduct::prelude::*;
use aqueduct::runtime::ExecutionError;
use aqueduct::runtime::testing::over_limit;
use aqueduct_chaos::{Figures, Random, slope, spill_files};
use clap::Parser;
use parking_lot::RwLock;

/// Jobs that run at once.
const THREADS: u64 = 3;
const ROWS: u64 = 20_000;
/// Spill files that the table has at the most, one of each worker.
const TABLE_FILES: usize = 2;

#[derive(Parser)]
struct Arguments {
    /// How long.
    #[arg(long, default_value_t = 30.0)]
    minutes: f64,
    /// How long, in seconds; in place of minutes.
    #[arg(long)]
    seconds: Option<f64>,
    /// Rows of the table that is printed.
    #[arg(long, default_value_t = 30)]
    lines: usize,
    /// What jobs are chosen by.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// What is looked at: its name, its unit, and by how much it may grow over a whole run: noise of the allocator and of
/// the moment, no more.
const WATCHED: [(&str, &str, f64); 5] = [
    ("resident", "MB", 40.0),
    ("threads", "", 0.9),
    ("descriptors", "", 0.9),
    ("on disk", "MB", 0.5),
    ("accounted", "MB", 0.5),
];

/// How jobs ended.
#[derive(Default)]
struct Ends {
    right: AtomicU64,
    failed: AtomicU64,
    cancelled: AtomicU64,
    dropped: AtomicU64,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let length = Duration::from_secs_f64(arguments.seconds.unwrap_or(arguments.minutes * 60.0));
    match run(&arguments, length) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("soak: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments, length: Duration) -> aqueduct::Result<bool> {
    let folder = tempfile::tempdir().expect("a folder");
    let builder = LocalCluster::builder().workers(2).memory_limit("24MB").progress(false).spill_dir(folder.path());
    let cluster = builder.start()?;
    cluster.register_table("numbers", &cluster.from_source("numbers", range("n", Some(ROWS)))?)?;
    let text = "concat('a text of some length, number ', cast(n % 997 as varchar))";
    cluster.sql(format!("create table rows as select n as id, n % 211 as k, {text} as t from numbers"))?;
    let (ends, over, pause) = (Ends::default(), AtomicBool::new(false), RwLock::new(()));
    // The first sixth fills caches and the allocator's arenas.
    let warm = length / 6;
    let start = Instant::now();
    let mut samples: Vec<(f64, [f64; 5])> = Vec::new();
    let broken = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..THREADS)
            .map(|thread| {
                let (cluster, ends, over, pause, folder) = (&cluster, &ends, &over, &pause, folder.path());
                let random = Random(arguments.seed.wrapping_mul(THREADS).wrapping_add(thread));
                scope.spawn(move || work(cluster, ends, over, pause, &folder.join(format!("{thread}.csv")), random))
            })
            .collect();
        println!(
            "{:>8} {:>12} {:>8} {:>11} {:>9} {:>11} {:>8} {:>7} {:>9} {:>8}",
            "seconds",
            "resident MB",
            "threads",
            "descriptors",
            "disk MB",
            "accounted",
            "right",
            "failed",
            "cancelled",
            "dropped"
        );
        let lines = arguments.lines.max(1);
        for line in 1..=lines * 4 {
            let until = length.mul_f64(line as f64 / (lines * 4) as f64);
            while start.elapsed() < until && !workers.iter().any(|worker| worker.is_finished()) {
                std::thread::park_timeout((until - start.elapsed().min(until)).min(Duration::from_millis(50)));
            }
            // Between jobs: what runs goes up and down, what is left must not.
            let turn = pause.write();
            if let Err(held) = at_rest(&cluster) {
                over.store(true, Relaxed);
                return Some(held);
            }
            let sample = look(&cluster, folder.path());
            drop(turn);
            let seconds = start.elapsed().as_secs_f64();
            if start.elapsed() >= warm {
                samples.push((seconds, sample));
            }
            if line % 4 == 0 {
                let [resident, threads, descriptors, disk, accounted] = sample;
                println!(
                    "{seconds:>8.0} {resident:>12.1} {threads:>8} {descriptors:>11} {disk:>9.2} {accounted:>11.2} {:>8} {:>7} {:>9} {:>8}",
                    ends.right.load(Relaxed),
                    ends.failed.load(Relaxed),
                    ends.cancelled.load(Relaxed),
                    ends.dropped.load(Relaxed)
                );
            }
        }
        over.store(true, Relaxed);
        workers.into_iter().find_map(|worker| worker.join().unwrap_or_else(|_| Some("a job panicked".into())))
    });
    if let Some(broken) = broken {
        println!("WRONG: {broken}");
        return Ok(false);
    }
    Ok(verdict(&samples))
}

/// All that is watched, in its unit.
fn look(cluster: &LocalCluster, folder: &std::path::Path) -> [f64; 5] {
    const MB: f64 = 1e6;
    let figures = Figures::now();
    let size = |path: std::path::PathBuf| std::fs::metadata(path).map_or(0, |about| about.len());
    let files = |path: &std::path::Path| std::fs::read_dir(path).into_iter().flatten().flatten();
    let spilled: u64 =
        files(folder).flat_map(|folder| files(&folder.path()).map(|file| size(file.path())).collect::<Vec<_>>()).sum();
    let charged: usize = cluster.memory().iter().map(|pool| pool.charged()).sum();
    [
        figures.resident_bytes as f64 / MB,
        figures.threads as f64,
        figures.descriptors as f64,
        spilled as f64 / MB,
        charged as f64 / MB,
    ]
}

/// Whether nothing grows.
fn verdict(samples: &[(f64, [f64; 5])]) -> bool {
    let Some(((first, _), (last, _))) = samples.first().zip(samples.last()) else { return false };
    let mut good = true;
    for (index, (name, unit, allowed)) in WATCHED.into_iter().enumerate() {
        let points: Vec<_> = samples.iter().map(|(seconds, sample)| (*seconds, sample[index])).collect();
        let slope = slope(&points);
        let (hour, growth) = (slope * 3600.0, slope * (last - first));
        let grows = growth > allowed;
        good &= !grows;
        let verdict = if grows { ", which is TOO MUCH" } else { "" };
        println!("{name:>12}: {hour:+.3} {unit} an hour, {growth:+.3} {unit} over the run{verdict}");
    }
    good
}

/// Waits until nothing of a job is held. Says what is.
fn at_rest(cluster: &LocalCluster) -> Result<(), String> {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let charged: usize = cluster.memory().iter().map(|pool| pool.charged()).sum();
        let over: Vec<String> = cluster.memory().iter().filter_map(over_limit).collect();
        let files = spill_files(&cluster.spill_path());
        match (charged, over.is_empty(), files) {
            (0, true, files) if files <= TABLE_FILES => return Ok(()),
            _ if Instant::now() > deadline => {
                let over = over.join("; ");
                return Err(format!(
                    "nothing runs, and {charged} bytes are held in {files} spill files; over the limit: [{over}]"
                ));
            }
            _ => std::thread::park_timeout(Duration::from_millis(5)),
        }
    }
}

/// Runs jobs until it is over; says what was wrong.
fn work(
    cluster: &LocalCluster,
    ends: &Ends,
    over: &AtomicBool,
    pause: &RwLock<()>,
    path: &std::path::Path,
    mut random: Random,
) -> Option<String> {
    while !over.load(Relaxed) {
        let _turn = pause.read();
        if let Err(wrong) = one(cluster, ends, path, &mut random) {
            return Some(wrong);
        }
    }
    None
}

/// A query, and the sum of the first column of its rows.
fn queries() -> [(&'static str, i64); 8] {
    let rows = ROWS as i64;
    let sum = rows * (rows - 1) / 2;
    let last = |from: i64| (from..rows).sum::<i64>();
    [
        ("select sum(id) as s, k from rows group by k", sum),
        ("select sum(id) as s, t, k from rows group by t, k", sum),
        ("select id, t from rows order by t, id", sum),
        ("select a.id, b.t from rows a join rows b on a.id = b.id", sum),
        ("select a.id from rows a where exists (select 1 from rows b where b.k = a.id)", (0..211).sum()),
        ("select id, row_number() over (partition by k order by id) as n from rows", sum),
        ("select count(distinct t) as d, sum(id) as s from rows", 997),
        ("select id, t from rows order by id desc limit 100", last(rows - 100)),
    ]
}

fn one(cluster: &LocalCluster, ends: &Ends, path: &std::path::Path, random: &mut Random) -> Result<(), String> {
    let queries = queries();
    let (query, expected) = queries[random.below(queries.len() as u64) as usize];
    let said = |error: Error| format!("{query}: {error}");
    let frame = cluster.sql(query).map_err(said)?;
    match random.below(10) {
        // In the middle of its rows, or before.
        0 => {
            let mut rows = frame.stream().map_err(said)?;
            if random.below(2) == 0 {
                rows.next().transpose().map_err(said)?;
            }
            drop(rows);
            ends.dropped.fetch_add(1, Relaxed);
        }
        1 => {
            let mut rows = frame.stream().map_err(said)?;
            rows.job().cancel();
            match rows.find_map(Result::err) {
                None | Some(Error::Execution(ExecutionError::Cancelled)) => {}
                Some(other) => return Err(said(other)),
            }
            ends.cancelled.fetch_add(1, Relaxed);
        }
        2 => {
            let failing = cluster.sql("select cast(t as bigint) + id as x from rows").map_err(said)?;
            match failing.stream().map_err(said)?.find_map(Result::err) {
                Some(Error::Execution(ExecutionError::Operator { .. })) => {}
                other => return Err(format!("a text is no number, and it said {other:?}")),
            }
            ends.failed.fetch_add(1, Relaxed);
        }
        3 => {
            let written = frame.write_csv(path).map_err(said)?;
            let read = cluster.read_csv(path).and_then(|rows| rows.count()).map_err(said)?;
            if written != read {
                return Err(format!("{query}: {written} rows were written and {read} read"));
            }
            ends.right.fetch_add(1, Relaxed);
        }
        4 => {
            let kept =
                cluster.from_source("numbers", range("n", Some(50_000))).and_then(|rows| rows.cache()).map_err(said)?;
            let count = kept.count().map_err(said)?;
            if count != 50_000 {
                return Err(format!("{count} rows were kept of 50000"));
            }
            ends.right.fetch_add(1, Relaxed);
        }
        _ => {
            let mut sum = 0;
            for batch in frame.stream().map_err(said)? {
                let batch = batch.map_err(said)?;
                sum += batch.column(0).as_primitive::<Int64Type>().values().iter().sum::<i64>();
            }
            if sum != expected {
                return Err(format!("{query}: {sum} in place of {expected}"));
            }
            ends.right.fetch_add(1, Relaxed);
        }
    }
    Ok(())
}
