//! Runs one workload on a local cluster, once, and prints one JSON line with what it took.
//!
//! ```text
//! bench_query WORKLOAD FILE [--workers 2] [--threads-per-worker 1] [--memory-limit 2GB] [--spill-dir DIR] [--output FILE]
//! ```
//!
//! | workload | what it does |
//! |---|---|
//! | `category_means` | means of `value` by `category`, those above 500 |
//! | `distinct_keys` | means of `value` by `name`, then their number and sum |
//! | `distinct_stream` | the same means, streamed to this program, which drops them |
//! | `distinct_write` | the same means, written to `--output` |
//!
//! `seconds` is from opening the file to the last row, the cluster's start and close left out. `check` is the sum of
//! the last column. `peak_bytes` is the counting allocator's, `rss_bytes` the system's, and `rss_file_bytes` the part of
//! it that is pages of files, this program's own code above all.

use std::error::Error;
use std::time::Instant;

use aqueduct::prelude::*;
use aqueduct::runtime::allocator::{self, CountingAllocator};
use arrow::array::AsArray;
use arrow::compute::kernels::{aggregate, cast::cast};
use arrow::datatypes::{DataType, Float64Type};
use arrow::record_batch::RecordBatch;

#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: CountingAllocator<mimalloc::MiMalloc> = CountingAllocator::over(mimalloc::MiMalloc);

#[cfg(all(feature = "jemalloc", not(feature = "mimalloc")))]
#[global_allocator]
static ALLOCATOR: CountingAllocator<tikv_jemallocator::Jemalloc> = CountingAllocator::over(tikv_jemallocator::Jemalloc);

#[cfg(not(any(feature = "mimalloc", feature = "jemalloc")))]
#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator::new();

const USAGE: &str = "usage: bench_query category_means|distinct_keys|distinct_stream|distinct_write FILE \
    [--workers N] [--threads-per-worker N] [--memory-limit SIZE] [--spill-dir DIR] [--output FILE]";

struct Options {
    workload: String,
    file: String,
    workers: usize,
    threads_per_worker: usize,
    memory_limit: String,
    spill_dir: Option<String>,
    output: Option<String>,
}

impl Options {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self, Box<dyn Error>> {
        let mut next = || arguments.next().ok_or(USAGE);
        let mut options = Self {
            workload: next()?,
            file: next()?,
            workers: 2,
            threads_per_worker: 1,
            memory_limit: "2GB".into(),
            spill_dir: None,
            output: None,
        };
        while let Ok(option) = next() {
            match option.as_str() {
                "--workers" => options.workers = next()?.parse()?,
                "--threads-per-worker" => options.threads_per_worker = next()?.parse()?,
                "--memory-limit" => options.memory_limit = next()?,
                "--spill-dir" => options.spill_dir = Some(next()?),
                "--output" => options.output = Some(next()?),
                _ => return Err(USAGE.into()),
            }
        }
        Ok(options)
    }
}

/// What came out.
#[derive(Default)]
struct Outcome {
    rows: u64,
    check: f64,
    /// Bytes that went through the disk: spilled state, and batches of spooling edges.
    spilled_bytes: u64,
}

fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::parse(std::env::args().skip(1))?;
    let begin = Instant::now();
    let mut builder = LocalCluster::builder()
        .workers(options.workers)
        .threads_per_worker(options.threads_per_worker)
        .memory_limit(&options.memory_limit)
        .progress(false);
    if let Some(folder) = &options.spill_dir {
        builder = builder.spill_dir(folder);
    }
    let cluster = builder.start()?;
    let start_seconds = begin.elapsed().as_secs_f64();
    let idle_rss_bytes = status_bytes("VmRSS:");
    allocator::reset_peak();

    let begin = Instant::now();
    let outcome = run(&cluster, &options)?;
    let seconds = begin.elapsed().as_secs_f64();
    let peak_bytes = allocator::peak_bytes();

    let begin = Instant::now();
    cluster.close();
    let close_seconds = begin.elapsed().as_secs_f64();
    let Outcome { rows, check, spilled_bytes } = outcome;
    let rss_bytes = status_bytes("VmHWM:");
    let rss_file_bytes = status_bytes("RssFile:");
    println!(
        "{{\"engine\": \"aqueduct\", \"workload\": \"{}\", \"seconds\": {seconds:.4}, \"rows\": {rows}, \"check\": {check}, \
         \"peak_bytes\": {peak_bytes}, \"spilled_bytes\": {spilled_bytes}, \"idle_rss_bytes\": {idle_rss_bytes}, \
         \"rss_bytes\": {rss_bytes}, \"rss_file_bytes\": {rss_file_bytes}, \"start_seconds\": {start_seconds:.4}, \"close_seconds\": {close_seconds:.4}}}",
        options.workload
    );
    Ok(())
}

fn run(cluster: &LocalCluster, options: &Options) -> Result<Outcome, Box<dyn Error>> {
    let table = cluster.read_csv(&options.file)?;
    let by_name = |table: &Frame| table.group_by("name").mean("value");
    match options.workload.as_str() {
        "category_means" => {
            read(table.group_by("category").mean("value").filter(col("value").gt(lit(500.0))).stream()?)
        }
        "distinct_keys" => read(by_name(&table).aggregate([count_rows(), sum(col("value"))]).stream()?),
        "distinct_stream" => read(by_name(&table).stream()?),
        "distinct_write" => {
            let output = options.output.as_ref().ok_or("distinct_write needs --output")?;
            Ok(Outcome { rows: by_name(&table).write_csv(output)?, ..Outcome::default() })
        }
        _ => Err(USAGE.into()),
    }
}

/// Reads all rows and drops them.
fn read(mut rows: FrameStream) -> Result<Outcome, Box<dyn Error>> {
    let mut outcome = Outcome::default();
    for batch in &mut rows {
        let batch = batch?;
        outcome.rows += batch.num_rows() as u64;
        outcome.check += sum_of_last_column(&batch)?;
    }
    outcome.spilled_bytes = rows.job().metrics().workers.iter().map(|worker| worker.spilled_bytes).sum();
    Ok(outcome)
}

fn sum_of_last_column(batch: &RecordBatch) -> Result<f64, Box<dyn Error>> {
    let last = batch.columns().last().ok_or("a result without columns")?;
    Ok(aggregate::sum(cast(last, &DataType::Float64)?.as_primitive::<Float64Type>()).unwrap_or(0.0))
}

/// A size from this process's status; 0 where the system does not tell.
fn status_bytes(field: &str) -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kilobytes =
        status.lines().find_map(|line| line.strip_prefix(field)?.split_whitespace().next()?.parse::<usize>().ok());
    kilobytes.unwrap_or(0) * 1024
}
