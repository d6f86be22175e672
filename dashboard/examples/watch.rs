//! Something to look at: a few jobs that never end, one of which is held up by an operator that is known.
//!
//! Run it with `cargo run -p aqueduct-dashboard --example watch`, or with `-- SECONDS` to have it end by itself. It
//! prints a link; open it in a browser.

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use aqueduct_dashboard::{Dashboard, DashboardConfig};
use aqueduct_runtime::testing::{
    CountingSink, EndlessSource, FailingOperator, Failure, Moment, NumbersSource, SlowOperator,
};
use aqueduct_runtime::{Cluster, ClusterConfig, Graph, Job, Partitions};

const MIB: usize = 1 << 20;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let seconds: Option<u64> = std::env::args().nth(1).map(|text| text.parse()).transpose()?;
    let config = ClusterConfig { workers: 2, memory_limit_bytes: 96 * MIB, ..ClusterConfig::default() };
    let cluster = Cluster::start(config)?;
    let dashboard = Dashboard::start(cluster.observer(), DashboardConfig::default())?;
    println!("watch it at {}", dashboard.link());

    let (done, ended) = channel::<()>();
    // What has happened before: a job that ended well, and one that failed.
    short(&cluster)?.wait()?;
    let failed = failing(&cluster)?.wait();
    println!("as asked: {}", failed.expect_err("it fails"));
    let _held_up = held_up(&cluster)?;
    let _skewed = skewed(&cluster)?;
    let waited = ended.recv_timeout(seconds.map_or(Duration::MAX, Duration::from_secs));
    assert_eq!(waited, Err(RecvTimeoutError::Timeout), "nobody sends anything");
    drop(done);
    Ok(())
}

fn short(cluster: &Cluster) -> Result<Job, Box<dyn std::error::Error>> {
    let mut graph = Graph::new();
    let numbers = graph.source("numbers", NumbersSource::new(5_000_000));
    let clean = graph.map("clean", numbers, Ok);
    let regroup = graph.map("regroup", clean.hash(["n"]), Ok);
    graph.sink("write", CountingSink::new(), regroup.gather());
    Ok(cluster.run(&graph)?)
}

fn failing(cluster: &Cluster) -> Result<Job, Box<dyn std::error::Error>> {
    let mut graph = Graph::new();
    let numbers = graph.source("trips.csv", NumbersSource::new(1_000_000));
    let parse = graph.operator("parse", FailingOperator::new(Failure::Error, Moment::Batch(3)), numbers);
    graph.sink("write", CountingSink::new(), parse);
    Ok(cluster.run(&graph)?)
}

/// `aggregate` takes longest.
fn held_up(cluster: &Cluster) -> Result<Job, Box<dyn std::error::Error>> {
    let mut graph = Graph::new();
    let trips = graph.source("trips.csv", EndlessSource::new().batch_rows(4000));
    let zones = graph.source("zones.parquet", EndlessSource::new().batch_rows(2000));
    let clean = graph.map("clean", trips, Ok);
    let known = graph.map("known zones", zones, Ok);
    let join =
        graph.operator_with("join", aqueduct_runtime::testing::Concatenate, [clean.hash(["n"]), known.hash(["n"])]);
    let aggregate = graph.operator("aggregate", SlowOperator::new(Duration::from_millis(12)), join.hash(["n"]));
    let having = graph.map("having", aggregate, Ok);
    let best = graph.map("best of each day", having.round_robin(), Ok);
    graph.sink("write means.parquet", CountingSink::new(), best.gather());
    graph.sink("write all.csv", CountingSink::new(), having);
    Ok(cluster.run(&graph)?)
}

/// One partition of `sessions` has most of the work.
fn skewed(cluster: &Cluster) -> Result<Job, Box<dyn std::error::Error>> {
    let mut graph = Graph::new();
    let clicks = graph.source("clicks", EndlessSource::new().batch_rows(500));
    let sessions = SlowOperator::new(Duration::from_millis(8)).at_partition(2);
    let sessions = graph.operator("sessions", sessions, clicks.round_robin());
    graph.set_partitions(sessions, Partitions::Fixed(8));
    graph.sink("write", CountingSink::new(), sessions);
    Ok(cluster.run(&graph)?)
}
