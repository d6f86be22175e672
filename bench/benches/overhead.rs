//! What the machinery costs beside the work: a hop, a permit, a graph of 1,000 nodes, a cluster's start.
//!
//! `hop` runs the same rows through one fused task and through two, on one arbiter and on two; each figure is
//! a job of [`BATCHES`] batches, so a hop costs the difference to `fused` divided by [`BATCHES`]. Over two arbiters the
//! batches go in turn to the sender's own and to the other.

use std::hint::black_box;

use aqueduct_runtime::memory::MemoryPool;
use aqueduct_runtime::testing::{
    CountingSink, LonePort, NumbersSource, assert_no_threads_left, number_schema, numbers,
};
use aqueduct_runtime::{Cluster, ClusterConfig, Graph, Partitions};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

/// Batches of one job.
const BATCHES: u64 = 10_000;

fn cluster(workers: usize, memory_limit_bytes: usize) -> Cluster {
    let config = ClusterConfig { workers, threads_per_worker: 1, memory_limit_bytes, ..ClusterConfig::default() };
    Cluster::start(config).expect("the cluster starts")
}

fn run(cluster: &Cluster, graph: &Graph) {
    cluster.run(graph).expect("the graph is planned").wait().expect("the job ends well");
}

/// One source, and a sink fused to it or behind an exchange.
fn two_nodes(batch_rows: usize, receivers: Option<usize>) -> Graph {
    let mut graph = Graph::new();
    let rows = BATCHES * batch_rows as u64;
    let source = graph.source("numbers", NumbersSource::new(rows).split_rows(rows).batch_rows(batch_rows));
    graph.set_partitions(source, Partitions::Fixed(1));
    match receivers {
        None => {
            graph.sink("count", CountingSink::new(), source);
        }
        Some(receivers) => {
            let sink = graph.sink("count", CountingSink::new(), source.round_robin());
            graph.set_partitions(sink, Partitions::Fixed(receivers));
        }
    }
    graph
}

fn hop(criterion: &mut Criterion) {
    let one = cluster(1, 1 << 30);
    let two = cluster(2, 1 << 30);
    let mut group = criterion.benchmark_group("hop");
    group.throughput(Throughput::Elements(BATCHES)).sample_size(20);
    for batch_rows in [1, 8192] {
        for (name, cluster, receivers) in
            [("fused", &one, None), ("same arbiter", &one, Some(1)), ("two arbiters", &two, Some(2))]
        {
            let graph = two_nodes(batch_rows, receivers);
            group.bench_function(BenchmarkId::new(name, batch_rows), |bencher| bencher.iter(|| run(cluster, &graph)));
        }
    }
}

fn permit(criterion: &mut Criterion) {
    let mut port = LonePort::new(number_schema(), 1 << 20);
    let mut batch = Some(numbers(0..8192));
    criterion.bench_function("permit: send and receive", |bencher| {
        bencher.iter(|| batch = batch.take().map(|batch| port.pass(batch).expect("it passes")));
    });
    let account = MemoryPool::new(1 << 30).account("bench");
    criterion.bench_function("reservation: take and return", |bencher| {
        bencher.iter(|| drop(black_box(account.try_reserve(black_box(65_536)))));
    });
}

/// A source without rows, and 999 nodes behind it.
fn thousand_nodes(fused: bool) -> Graph {
    let mut graph = Graph::new();
    let mut last = graph.source("numbers", NumbersSource::new(0));
    for index in 0..998 {
        let name = format!("map {index}");
        last = if fused { graph.map(name, last, Ok) } else { graph.map(name, last.round_robin(), Ok) };
    }
    graph.sink("count", CountingSink::new(), last);
    graph
}

fn empty_graph(criterion: &mut Criterion) {
    let cluster = cluster(2, 4 << 30);
    let mut group = criterion.benchmark_group("1,000 nodes without rows");
    group.sample_size(20);
    for (name, fused) in [("one chain", true), ("an exchange before each", false)] {
        let graph = thousand_nodes(fused);
        group.bench_function(BenchmarkId::new(name, "plan"), |bencher| {
            bencher.iter(|| cluster.plan(&graph).expect("the graph is planned"));
        });
        group.bench_function(BenchmarkId::new(name, "run"), |bencher| bencher.iter(|| run(&cluster, &graph)));
    }
}

fn start(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("cluster");
    group.sample_size(20);
    for workers in [2, 4] {
        group.bench_function(BenchmarkId::new("start and close", workers), |bencher| {
            bencher.iter(|| cluster(workers, 1 << 30).close());
        });
    }
    group.finish();
    assert_no_threads_left();
}

criterion_group!(benches, hop, permit, empty_graph, start);
criterion_main!(benches);
