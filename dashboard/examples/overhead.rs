//! What it costs to be watched: the CPU time of the dashboard's thread and of counting beside that of a job, and what
//! spans add to it.
//!
//! Run it with `cargo run --release -p aqueduct-dashboard --example overhead`, or with `-- SECONDS` for longer runs. A job of
//! many small steps runs again and again: alone, with ten clients that watch its graph live, one of which looks at the
//! timeline, and with spans of all levels written as text to nowhere. Linux only: it reads `/proc`.
//!
//! On two cores: dashboard and control 0.22 % of the job's CPU time, counting 0.25 %, together 0.47 %; spans add 0.72 %.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use aqueduct_dashboard::{Dashboard, DashboardConfig};
use aqueduct_runtime::metrics::JobMetrics;
use aqueduct_runtime::testing::{CountingSink, NumbersSource, counting_cost};
use aqueduct_runtime::{Cluster, ClusterConfig, Graph};
use arrow::array::{ArrayRef, AsArray, Int64Array};
use arrow::datatypes::Int64Type;
use arrow::record_batch::RecordBatch;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::{EnvFilter, reload};

const CLIENTS: usize = 10;
const ROUNDS: usize = 5;

type Failed = Box<dyn std::error::Error>;

/// CPU time of each of our threads, by name, so far.
fn cpu() -> BTreeMap<String, Duration> {
    let mut times = BTreeMap::new();
    for task in std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten() {
        let read = |name: &str| std::fs::read_to_string(task.path().join(name)).unwrap_or_default();
        let ns = read("schedstat").split(' ').next().and_then(|ns| ns.parse().ok()).unwrap_or(0);
        *times.entry(read("comm").trim().to_string()).or_default() += Duration::from_nanos(ns);
    }
    times
}

/// Rows through two exchanges, with arithmetic on the way.
fn graph(rows: u64) -> Graph {
    let mixed = |batch: RecordBatch| {
        let numbers = batch.column(0).as_primitive::<Int64Type>();
        let mixed =
            numbers.values().iter().map(|n| (0..8).fold(*n, |n, round| n.wrapping_mul(0x9E37) ^ (n >> (round + 7))));
        let column = Arc::new(Int64Array::from_iter_values(mixed)) as ArrayRef;
        Ok(RecordBatch::try_new(batch.schema(), vec![column])?)
    };
    let mut graph = Graph::new();
    let read = graph.source("read", NumbersSource::new(rows));
    let first = graph.map("first", read.hash(["n"]), mixed);
    let second = graph.map("second", first.hash(["n"]), mixed);
    graph.sink("count", CountingSink::new(), second);
    graph
}

/// What one job took.
struct Run {
    job: Duration,
    watching: Duration,
    elapsed: Duration,
    metrics: JobMetrics,
}

fn run(cluster: &Cluster, rows: u64) -> Result<Run, Failed> {
    let before = cpu();
    let summary = cluster.run(&graph(rows))?.wait()?;
    let after = cpu();
    let spent = |is: &dyn Fn(&str) -> bool| -> Duration {
        let of =
            |times: &BTreeMap<String, Duration>| times.iter().filter(|(name, _)| is(name)).map(|(_, time)| *time).sum();
        let (now, then): (Duration, Duration) = (of(&after), of(&before));
        now.saturating_sub(then)
    };
    Ok(Run {
        job: spent(&|name| !["aq-dashboard", "client", "overhead", "aq-control"].contains(&name)),
        watching: spent(&|name| ["aq-dashboard", "aq-control"].contains(&name)),
        elapsed: summary.elapsed,
        metrics: summary.metrics,
    })
}

fn open(address: SocketAddr, path: &str) -> std::io::Result<TcpStream> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_millis(200)))?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
    Ok(stream)
}

/// Watches a job from its start on, as its page does, and asks for the timeline each second if that page is open, too; the
/// bytes that came.
fn client(address: SocketAddr, job: u64, timeline: bool, stopped: &AtomicBool) -> std::io::Result<u64> {
    let mut buffer = vec![0; 1 << 16];
    let (mut bytes, mut events, mut asked) = (0, None, Instant::now());
    while !stopped.load(Relaxed) {
        let stream: &mut TcpStream = match &mut events {
            Some(stream) => stream,
            None => events.insert(open(address, &format!("/events?job={job}"))?),
        };
        match stream.read(&mut buffer) {
            Ok(read) if read > 0 && !buffer.starts_with(b"HTTP/1.1 404") => bytes += read as u64,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            // The job is not there yet.
            _ => {
                events = None;
                std::thread::park_timeout(Duration::from_millis(10));
            }
        }
        if timeline && asked.elapsed() > Duration::from_secs(1) {
            asked = Instant::now();
            let _ = open(address, "/api/timeline")?.read_to_end(&mut Vec::new());
        }
    }
    Ok(bytes)
}

/// A job with clients that watch it; the bytes that each was sent, on average.
fn run_watched(cluster: &Cluster, address: SocketAddr, rows: u64) -> Result<(Run, u64), Failed> {
    let job = cluster.observer().jobs().last().map_or(0, |job| job.id() + 1);
    let stopped = Arc::new(AtomicBool::new(false));
    let watch = |index: usize| {
        let stopped = Arc::clone(&stopped);
        std::thread::Builder::new().name("client".into()).spawn(move || client(address, job, index == 0, &stopped))
    };
    let clients = (0..CLIENTS).map(watch).collect::<Result<Vec<_>, _>>()?;
    let run = run(cluster, rows);
    stopped.store(true, Relaxed);
    let mut bytes = 0;
    for client in clients {
        bytes += client.join().map_err(|_| "a client panicked")??;
    }
    Ok((run?, bytes / CLIENTS as u64))
}

fn median(mut runs: Vec<Run>) -> Run {
    runs.sort_by_key(|run| run.job);
    runs.swap_remove(runs.len() / 2)
}

fn share(part: Duration, whole: Duration) -> f64 {
    100.0 * part.as_secs_f64() / whole.as_secs_f64().max(1e-9)
}

fn main() -> Result<(), Failed> {
    let seconds: f64 = std::env::args().nth(1).map_or(Ok(4.0), |text| text.parse())?;
    let (filter, level) = reload::Layer::new(EnvFilter::new("off"));
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::sink);
    tracing::subscriber::set_global_default(tracing_subscriber::registry().with(filter).with(lines))?;

    let cluster =
        Cluster::start(ClusterConfig { workers: 2, memory_limit_bytes: 256 << 20, ..ClusterConfig::default() })?;
    let dashboard = Dashboard::start(cluster.observer(), DashboardConfig::default().port(0))?;
    // As many rows as take so long.
    let probe = run(&cluster, 2_000_000)?;
    let rows = (2e6 * seconds / probe.elapsed.as_secs_f64()) as u64;
    println!("{rows} rows in each job, {ROUNDS} jobs of each kind in turn");

    let (mut alone, mut watched, mut traced) = (Vec::new(), Vec::new(), Vec::new());
    let mut sent = 0;
    for _ in 0..ROUNDS {
        alone.push(run(&cluster, rows)?);
        let (run_watched, bytes) = run_watched(&cluster, dashboard.address(), rows)?;
        watched.push(run_watched);
        sent += bytes / ROUNDS as u64;
        level.reload(EnvFilter::new("trace"))?;
        traced.push(run(&cluster, rows)?);
        level.reload(EnvFilter::new("off"))?;
    }
    let [alone, watched, traced] = [alone, watched, traced].map(median);
    let steps: u64 = watched.metrics.tasks.iter().map(|task| task.steps).sum();
    let batches: u64 = watched.metrics.nodes.iter().map(|node| node.batches_in).sum();
    let (step, batch) = counting_cost(1_000_000);
    let counting = step.mul_f64(steps as f64) + batch.mul_f64(batches as f64);
    let line = |name: &str, run: &Run| {
        let (job, watching) = (run.job.as_secs_f64(), run.watching.as_secs_f64());
        println!("{name:<18} {:>8.2} s  {job:>8.3} s of CPU  {watching:>8.4} s to watch", run.elapsed.as_secs_f64());
    };
    line("alone", &alone);
    line("ten clients", &watched);
    line("spans, all levels", &traced);
    println!("{steps} steps at {step:?} and {batches} batches at {batch:?} to count: {:.4} s", counting.as_secs_f64());
    println!("each client was sent {} KiB", sent >> 10);
    let (watching, counted) = (share(watched.watching, watched.job), share(counting, watched.job));
    println!(
        "dashboard and control {watching:.2} %, counting {counted:.2} %: {:.2} % (wanted: 1 %)",
        watching + counted
    );
    println!("spans {:+.2} % (wanted: 3 %)", share(traced.job, alone.job) - 100.0);
    println!("ten clients change the job's own CPU time by {:+.2} %", share(watched.job, alone.job) - 100.0);
    Ok(())
}
