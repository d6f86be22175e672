//! What the library promises, seen from outside: whole jobs over CSV files, their answers, memory and remains.
//!
//! Every test has a time limit. Those that look at the allocator or at what the process has read need a process of
//! their own, which `cargo nextest` gives them.

mod bound;
mod failure;
mod limits;
mod skew;

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use aqueduct::arrow::array::{Array, AsArray};
use aqueduct::arrow::datatypes::DataType;
use aqueduct::operators::range;
use aqueduct::prelude::*;
use aqueduct::runtime::allocator::CountingAllocator;
use aqueduct::runtime::testing::{assert_within_limit, eventually};
use aqueduct::runtime::{ExecutionError, PlanError};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator::new();

/// Numbers of workers that answers must not depend on.
const WORKERS: [usize; 3] = [1, 2, 8];

/// The small limit of each worker in these tests.
const SMALL_BYTES: usize = 16_000_000;

/// Runs `test` on a thread of its own and fails if it takes longer than `seconds`: a hang is a failure.
fn within<T: Send + 'static>(seconds: u64, test: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, result) = channel();
    let thread = std::thread::Builder::new().name("test-body".into());
    let thread = thread.spawn(move || drop(done.send(test()))).expect("a thread");
    match result.recv_timeout(Duration::from_secs(seconds)) {
        Ok(value) => value,
        Err(RecvTimeoutError::Timeout) => panic!("it hangs: no end within {seconds} seconds"),
        Err(RecvTimeoutError::Disconnected) => match thread.join() {
            Err(panic) => std::panic::resume_unwind(panic),
            Ok(()) => unreachable!("the thread ended without a result"),
        },
    }
}

fn cluster(workers: usize, memory_limit_bytes: usize) -> LocalCluster {
    let builder = LocalCluster::builder().workers(workers).memory_limit_bytes(memory_limit_bytes);
    builder.progress(false).start().expect("the cluster starts")
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

/// Writes a file of `header` and `lines`, each given its line end, without holding it in memory.
fn write_lines<T: std::fmt::Display>(path: &Path, header: &str, lines: impl IntoIterator<Item = T>) -> PathBuf {
    let mut file = BufWriter::new(File::create(path).expect("a file"));
    writeln!(file, "{header}").expect("written");
    for line in lines {
        writeln!(file, "{line}").expect("written");
    }
    file.flush().expect("written");
    path.to_path_buf()
}

/// `0..count` in an order without pattern, the same each time.
fn shuffled(count: usize) -> Vec<u32> {
    let mut order: Vec<u32> = (0..u32::try_from(count).expect("a small count")).collect();
    let mut random = Random(1);
    for last in (1..count).rev() {
        order.swap(last, random.below(last + 1));
    }
    order
}

/// Numbers without pattern, the same each time (splitmix64).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((mixed ^ (mixed >> 31)) % bound as u64) as usize
    }
}

/// Calls `take` with each text of a column of strings, whatever its layout, and copies none.
fn for_each_text(column: &dyn Array, mut take: impl FnMut(usize, Option<&str>)) {
    match column.data_type() {
        DataType::Utf8 => column.as_string::<i32>().iter().enumerate().for_each(|(row, text)| take(row, text)),
        DataType::LargeUtf8 => column.as_string::<i64>().iter().enumerate().for_each(|(row, text)| take(row, text)),
        DataType::Utf8View => column.as_string_view().iter().enumerate().for_each(|(row, text)| take(row, text)),
        other => panic!("{other} is not a type of strings"),
    }
}

/// Spill files that are there now.
fn spill_files(spill_path: &Path) -> usize {
    let files = fs::read_dir(spill_path).expect("the spill folder").flatten();
    files.filter(|file| file.path().extension().is_some_and(|extension| extension == "arrows")).count()
}

/// Nothing of a job is left, no claim went over a limit, and the next job runs.
fn assert_clean(cluster: &LocalCluster) {
    assert_empty(cluster);
    let numbers = cluster.from_source("numbers", range("n", Some(10_000))).expect("a frame");
    assert_eq!(numbers.count().expect("the next job runs"), 10_000);
}

/// Nothing of a job is left, and no claim went over a limit.
fn assert_empty(cluster: &LocalCluster) {
    eventually("every reservation is given back", || cluster.memory().iter().all(|pool| pool.charged() == 0));
    assert_within_limit(cluster.memory());
    eventually("every spill file is gone", || spill_files(&cluster.spill_path()) == 0);
}

/// The limit per worker that a refusal names as enough.
fn sufficient_limit(error: &Error) -> usize {
    let plan = match error {
        Error::Plan(plan) | Error::Execution(ExecutionError::Plan(plan)) => plan,
        other => panic!("not a refusal: {other}"),
    };
    match **plan {
        PlanError::LimitTooSmall { needed_bytes, .. } => needed_bytes,
        ref other => panic!("not a refusal for want of memory: {other}"),
    }
}

/// Asserts that each of `parts` is in the text of `error`, which is returned.
#[track_caller]
fn assert_says(error: &Error, parts: &[&str]) -> String {
    let text = error.to_string();
    for part in parts {
        assert!(text.contains(part), "`{part}` is missing in: {text}");
    }
    text
}
