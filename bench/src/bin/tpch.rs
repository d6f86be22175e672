//! Runs the 22 queries of TPC-H, compares each result with DuckDB's answer, and prints what it took.
//!
//! ```text
//! cargo run --release -p aqueduct-bench --bin tpch -- DIR [-s SCALE] [--memory-limit SIZE|floor] [--queries 1,9,18]
//!     [--rounds N] [--workers 2] [--threads-per-worker 1] [--reclaim-seeds N]
//! ```
//!
//! With `--memory-limit floor --reclaim-seeds 50` each query runs 50 times at its smallest limit, and all the time some
//! task is asked to free memory, at moments that the seed draws.
//!
//! The tables are made in DIR if they are not there. Answers are in `tests/golden/tpch`, for scale factors 0.01 and 1, and
//! `bench/tpch_answers.py SCALE` makes others; without any a result is not compared, and its rows are counted. Each query
//! has a cluster of its own.
//!
//! | column | what it says |
//! |---|---|
//! | `floor` | the smallest limit of a worker that admission accepts for the plan at no limit, in 10⁶ bytes |
//! | `limit` | the limit of a worker |
//! | `seconds` | from opening the files to the last row, the median of the rounds |
//! | `peak` | most bytes that the counting allocator saw at once |
//! | `rss` | largest resident set since the query began |
//! | `spilled`, `spooled` | bytes that went to disk |
//! | `overruns` | how often a worker was over its limit for a moment, which is as wrong as another result |

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use aqueduct::prelude::*;
use aqueduct::runtime::allocator::{self, CountingAllocator};
use aqueduct::runtime::metrics::JobMetrics;
use aqueduct::runtime::testing::{ForcedReclaim, over_limit};
use aqueduct::runtime::{PlanError, parse_bytes};
use aqueduct_tpch::{Answer, QUERIES, Query, Table, write_parquet};
use arrow::array::RecordBatch;
use clap::Parser;

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator::new();

/// Runs the 22 queries of TPC-H, compares the results with DuckDB's, and prints what it took
#[derive(Parser)]
struct Options {
    /// The folder with the tables, which are made if they are not there
    dir: PathBuf,
    /// Scale factor of the tables
    #[arg(short, long, default_value = "1")]
    scale: String,
    /// Memory limit of each worker; `floor` for the smallest that is admitted
    #[arg(long, value_name = "SIZE|floor", default_value = "8GB")]
    memory_limit: String,
    /// Which of the queries; all unless given
    #[arg(long, value_delimiter = ',')]
    queries: Vec<usize>,
    /// How often each runs
    #[arg(long, default_value_t = 1)]
    rounds: usize,
    /// Runs each as often, with memory asked back at moments that the number of the run draws
    #[arg(long, value_name = "N")]
    reclaim_seeds: Option<usize>,
    /// Workers
    #[arg(long, default_value_t = 2)]
    workers: usize,
    /// Threads of each worker
    #[arg(long, default_value_t = 1)]
    threads_per_worker: usize,
}

/// What one run took, and gave.
struct Run {
    seconds: f64,
    peak_bytes: usize,
    rss_bytes: usize,
    rows: usize,
    metrics: JobMetrics,
    /// Why the run is wrong, its result or what it held; `None` if it is right, or cannot be told.
    wrong: Option<String>,
}

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let options = Options::parse();
    write_parquet(&options.dir, options.scale.parse()?)?;
    println!(
        "{:>5} {:>8} {:>8} {:>9} {:>8} {:>8} {:>9} {:>9} {:>8} {:>8}  result",
        "query", "floor MB", "limit MB", "seconds", "peak MB", "rss MB", "spilled", "spooled", "overruns", "rows"
    );
    let (mut failed, mut total_seconds) = (0, 0.0);
    let wanted = |query: &&Query| options.queries.is_empty() || options.queries.contains(&query.number);
    for query in QUERIES.iter().filter(wanted) {
        match report(query, &options) {
            Ok((seconds, right)) => {
                total_seconds += seconds;
                failed += usize::from(!right);
            }
            Err(error) => {
                println!("{:>5}  FAILED: {error}", query.number);
                failed += 1;
            }
        }
    }
    println!("{total_seconds:.3} seconds in all; {failed} went wrong");
    if let Some(seeds) = options.reclaim_seeds {
        let queries = QUERIES.iter().filter(wanted).count();
        println!("{} of {queries} queries right over {seeds} seeds of forced reclaim", queries - failed);
    }
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs a query and prints its line: the median of its seconds, and whether it is right.
fn report(query: &Query, options: &Options) -> Result<(f64, bool), Box<dyn Error>> {
    let floor_bytes = floor_bytes(query, options)?;
    let limit_bytes = match options.memory_limit.as_str() {
        "floor" => floor_bytes,
        size => parse_bytes(size)?,
    };
    let rounds = options.reclaim_seeds.unwrap_or(options.rounds).max(1);
    let runs =
        (0..rounds).map(|round| run(query, options, limit_bytes, round as u64)).collect::<Result<Vec<_>, _>>()?;
    let mut seconds: Vec<f64> = runs.iter().map(|run| run.seconds).collect();
    seconds.sort_by(f64::total_cmp);
    let seconds = seconds[seconds.len() / 2];
    let wrong = runs.iter().find_map(|run| run.wrong.as_deref());
    let Some(last) = runs.last() else { return Err("there was no run".into()) };
    let most = |figure: fn(&Run) -> usize| runs.iter().map(figure).max().unwrap_or(0) as f64 / 1e6;
    let spilled: u64 = last.metrics.nodes.iter().map(|node| node.spilled_bytes).sum();
    let spooled: u64 = last.metrics.edges.iter().map(|edge| edge.spooled_bytes).sum();
    println!(
        "{:>5} {:>8.1} {:>8.1} {seconds:>9.3} {:>8.1} {:>8.1} {:>9.1} {:>9.1} {:>8} {:>8}  {}",
        query.number,
        floor_bytes as f64 / 1e6,
        limit_bytes as f64 / 1e6,
        most(|run| run.peak_bytes),
        most(|run| run.rss_bytes),
        spilled as f64 / 1e6,
        spooled as f64 / 1e6,
        runs.iter().flat_map(|run| &run.metrics.workers).map(|worker| worker.overruns).sum::<usize>(),
        last.rows,
        wrong.unwrap_or(if answers(options).is_dir() { "right" } else { "not compared" }),
    );
    Ok((seconds, wrong.is_none()))
}

fn cluster(options: &Options, limit_bytes: usize) -> aqueduct::Result<LocalCluster> {
    let builder = LocalCluster::builder().workers(options.workers).threads_per_worker(options.threads_per_worker);
    builder.memory_limit_bytes(limit_bytes).progress(false).start()
}

/// Where DuckDB's answers are, if there are any for this scale factor.
fn answers(options: &Options) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/tpch").join(&options.scale)
}

/// The query as a frame; opens the files.
fn frame(cluster: &LocalCluster, query: &Query, options: &Options) -> aqueduct::Result<Frame> {
    for table in Table::ALL {
        cluster.register_table(table.name(), &cluster.read_parquet(table.file(&options.dir))?)?;
    }
    cluster.sql(query.sql)
}

/// The smallest limit that admission accepts.
fn floor_bytes(query: &Query, options: &Options) -> aqueduct::Result<usize> {
    let mut limit_bytes = 1 << 20;
    loop {
        let cluster = cluster(options, limit_bytes)?;
        match frame(&cluster, query, options).and_then(|frame| frame.explain()) {
            Ok(_) => return Ok(limit_bytes),
            Err(aqueduct::Error::Plan(error)) => match *error {
                PlanError::LimitTooSmall { needed_bytes, .. } if needed_bytes > limit_bytes => {
                    limit_bytes = needed_bytes;
                }
                _ => return Err(aqueduct::Error::Plan(error)),
            },
            Err(error) => return Err(error),
        }
    }
}

fn run(query: &Query, options: &Options, limit_bytes: usize, seed: u64) -> Result<Run, Box<dyn Error>> {
    let cluster = cluster(options, limit_bytes)?;
    let _forced = options.reclaim_seeds.map(|_| ForcedReclaim::start(&cluster, seed));
    // Writing 5 begins a new peak of the resident set, where the system lets us.
    let _ = std::fs::write("/proc/self/clear_refs", "5");
    allocator::reset_peak();
    let begin = Instant::now();
    let mut rows = frame(&cluster, query, options)?.stream()?;
    let batches = rows.by_ref().collect::<aqueduct::Result<Vec<RecordBatch>>>()?;
    let seconds = begin.elapsed().as_secs_f64();
    let peak_bytes = allocator::peak_bytes();
    let rss_bytes = peak_rss_bytes();
    let answers = answers(options);
    let wrong = if answers.is_dir() {
        let answer = Answer::read(&answers.join(format!("q{}.csv", query.number)))?;
        answer.check(rows.schema(), &batches, query.ordered_by).err().map(|error| format!("WRONG: {error}"))
    } else {
        None
    };
    let over: Vec<String> = cluster.memory().iter().filter_map(over_limit).collect();
    let wrong = wrong.or_else(|| (!over.is_empty()).then(|| format!("OVER THE LIMIT: {}", over.join("; "))));
    let rows_in_all = batches.iter().map(RecordBatch::num_rows).sum();
    Ok(Run { seconds, peak_bytes, rss_bytes, rows: rows_in_all, metrics: rows.job().metrics(), wrong })
}

/// The largest resident set since it was last begun anew; 0 where the system does not tell.
fn peak_rss_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.split_whitespace().next());
    line.and_then(|kilobytes| kilobytes.parse::<usize>().ok()).unwrap_or(0) * 1024
}
