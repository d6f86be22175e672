//! A process that is killed while it writes: whatever the moment, its target is whole, and the next start sweeps.
//!
//! `AQUEDUCT_KILLS` sets how often; 10 unless set.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use aqueduct::prelude::*;
use aqueduct_chaos::{Random, number_from};

/// Rows of what the victim writes.
const ROWS: u64 = 60_000;
/// How long its first round may take.
const LIMIT: Duration = Duration::from_secs(60);

/// A victim, and the rounds that it says it begins.
fn start(folder: &Path, format: &str) -> (Child, Receiver<i64>) {
    let mut victim = Command::new(env!("CARGO_BIN_EXE_victim"));
    victim.args(["write", &folder.display().to_string(), format]).stdout(Stdio::piped());
    let mut victim = victim.spawn().expect("it starts");
    let output = BufReader::new(victim.stdout.take().expect("a pipe"));
    let (sender, rounds) = channel();
    let reader = std::thread::Builder::new().name("aq-victim-output".into());
    let read = move || {
        for line in output.lines().map_while(Result::ok) {
            let round = line.strip_prefix("round ").and_then(|round| round.parse().ok());
            if round.is_some_and(|round| sender.send(round).is_err()) {
                return;
            }
        }
    };
    reader.spawn(read).expect("a thread");
    (victim, rounds)
}

/// The round of the file that the victim leaves, `None` if it has not finished one. All of its rows are of that round.
fn round_of(cluster: &LocalCluster, path: &Path, format: &str) -> Option<i64> {
    if !path.exists() {
        return None;
    }
    let read = match format {
        "csv" => cluster.read_csv(path),
        _ => cluster.read_parquet(path),
    };
    let summary = read.expect("a whole file").aggregate([
        min(col("round")).alias("least"),
        max(col("round")).alias("most"),
        sum(col("n")).alias("sum"),
        count_rows().alias("rows"),
    ]);
    let summary = summary.compute().expect("a whole file");
    let number = |name: &str| summary.i64s(name).expect("numbers")[0].expect("a number");
    assert_eq!((number("rows"), number("sum")), (ROWS as i64, (0..ROWS as i64).sum::<i64>()));
    assert_eq!(number("least"), number("most"), "rows of two rounds");
    Some(number("least"))
}

fn spill_folders(folder: &Path) -> usize {
    std::fs::read_dir(folder.join("spill")).map_or(0, |entries| entries.flatten().count())
}

fn kill_again_and_again(format: &str, kills: u64) {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("out");
    let cluster = LocalCluster::builder().workers(1).memory_limit("64MB").progress(false).without_dashboard();
    let cluster = cluster.start().expect("a cluster");
    let mut random = Random(kills + format.len() as u64);
    // How long a round takes, by the last one that was seen to its end.
    let mut whole = Duration::from_millis(300);
    let (mut files, mut swept) = (0, 0);
    for kill in 0..kills {
        let before = round_of(&cluster, &out, format);
        let (mut victim, rounds) = start(folder.path(), format);
        // Every third lives through a round, so that there is something to replace.
        let first = Instant::now();
        rounds.recv_timeout(LIMIT).expect("it begins to write");
        // The spill folder of the one before it is gone by now.
        assert_eq!(spill_folders(folder.path()), 1, "after kill {kill}");
        let mut last = 0;
        if kill % 3 == 0 {
            let began = Instant::now();
            last = rounds.recv_timeout(LIMIT).expect("it goes on");
            whole = began.elapsed().min(first.elapsed());
        }
        // At any moment of a round: whatever comes, this is when it is killed.
        let wait = Duration::from_micros(random.below(whole.as_micros() as u64 + 1));
        let _ = rounds.recv_timeout(wait);
        victim.kill().expect("it is there");
        victim.wait().expect("it ends");
        swept += spill_folders(folder.path());
        let after = round_of(&cluster, &out, format);
        // It is the old file or a new one: the rounds of each victim begin at 0.
        assert!(after.is_some() || (before.is_none() && last == 0), "a file is gone");
        assert!(after >= (last > 0).then_some(last - 1).min(before), "{before:?}, then {after:?} after round {last}");
        files += usize::from(after.is_some());
    }
    // Beside the file there may be what the last one has begun, under another name, hidden; it has removed what was there.
    let names = std::fs::read_dir(folder.path()).expect("the folder").flatten().map(|entry| entry.file_name());
    let left = names.filter(|name| name.to_string_lossy().starts_with(".out.tmp-")).count();
    println!(
        "{format}: {kills} kills, {files} times a whole file, {swept} spill folders left and swept, {left} begun files left"
    );
    assert!(left <= 1, "{left} begun files");
    let next = LocalCluster::builder().workers(1).memory_limit("64MB").progress(false).without_dashboard();
    let next = next.spill_dir(folder.path().join("spill")).start().expect("the next start");
    assert_eq!(spill_folders(folder.path()), 1);
    next.close();
    assert_eq!(spill_folders(folder.path()), 0);
}

#[test]
fn a_killed_writer_of_csv_leaves_a_whole_file_and_the_next_start_sweeps() {
    kill_again_and_again("csv", number_from("AQUEDUCT_KILLS", 10) / 2);
}

#[test]
fn a_killed_writer_of_parquet_leaves_a_whole_file_and_the_next_start_sweeps() {
    kill_again_and_again("parquet", number_from("AQUEDUCT_KILLS", 10).div_ceil(2));
}
