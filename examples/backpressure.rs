//! Backpressure: a source without end feeds a sink that takes its time, and memory stays where it is.
//!
//! Run it with `cargo run --example backpressure`. Ten times it prints how many bytes are on their way between the
//! actors and how many may be; then where each actor spent its time: the source parked, the sink blocked.

#![expect(
    clippy::disallowed_methods,
    reason = "this example looks at a job as time goes by, and has a sink that takes time"
)]

use std::thread::sleep;
use std::time::Duration;

use aqueduct::arrow::array::RecordBatch;
use aqueduct::operators::range;
use aqueduct::prelude::*;
use aqueduct::runtime::io::{Io, Pending};
use aqueduct::runtime::{CloseStep, Receipt, Sink, SinkContext, SinkSpec, SinkStep};

#[global_allocator]
static ALLOCATOR: aqueduct::runtime::allocator::CountingAllocator =
    aqueduct::runtime::allocator::CountingAllocator::new();

fn main() -> aqueduct::Result<()> {
    let cluster = LocalCluster::builder().workers(2).memory_limit("64MB").start()?;

    let mut graph = Graph::new();
    let numbers = graph.source("fast source", range("n", None));
    graph.sink("slow sink", SlowSink { per_batch: Duration::from_millis(20) }, numbers.round_robin());
    println!("{}", cluster.plan(&graph)?);

    let job = cluster.run(&graph)?;
    println!(
        "Five times a second: bytes on their way between actors, how many may be, the memory limit of all workers."
    );
    println!("{:>12} {:>12} {:>14} {:>14}", "on their way", "at the most", "memory limit", "rows written");
    for _ in 0..10 {
        sleep(Duration::from_millis(200));
        let now = job.metrics();
        let queued: usize = now.edges.iter().map(|edge| edge.queued_bytes).sum();
        let capacity: usize = now.edges.iter().map(|edge| edge.capacity_bytes).sum();
        let written: u64 = now.nodes.iter().filter(|node| node.name == "slow sink").map(|node| node.rows_in).sum();
        let limit: usize = now.workers.iter().map(|worker| worker.limit_bytes).sum();
        let mib = |bytes: usize| format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20));
        println!("{:>12} {:>12} {:>14} {written:>14}", mib(queued), mib(capacity), mib(limit));
    }

    println!(
        "\nWhere each actor's time went: parked is waiting for room at the receiver, blocked is waiting for the disk."
    );
    println!("{:<16} {:>8} {:>8} {:>8} {:>8}", "actor", "busy", "idle", "parked", "blocked");
    for task in job.metrics().tasks {
        let times =
            [task.busy, task.idle, task.parked, task.blocked].map(|time| format!("{:.2} s", time.as_secs_f64()));
        let actor = format!("{} {}", task.name, task.partition);
        println!("{actor:<16} {:>8} {:>8} {:>8} {:>8}", times[0], times[1], times[2], times[3]);
    }
    job.cancel();
    Ok(())
}

/// A sink that writes nowhere, slowly.
#[derive(Debug)]
struct SlowSink {
    per_batch: Duration,
}

impl SinkSpec for SlowSink {
    fn name(&self) -> &str {
        "slow"
    }

    fn open(&self, context: SinkContext) -> aqueduct::runtime::Result<Box<dyn Sink>> {
        Ok(Box::new(SlowWriter { per_batch: self.per_batch, io: context.io, writing: None, rows: 0 }))
    }
}

struct SlowWriter {
    per_batch: Duration,
    io: Io,
    writing: Option<Pending<()>>,
    rows: u64,
}

impl Sink for SlowWriter {
    fn write(&mut self, batch: RecordBatch) -> aqueduct::runtime::Result<SinkStep> {
        self.rows += batch.num_rows() as u64;
        let time = self.per_batch;
        // On a thread for slow things, so that this one is free for other actors.
        let writing = self.io.run("a slow disk", move || sleep(time));
        let ticket = writing.ticket().clone();
        self.writing = Some(writing);
        Ok(SinkStep::Blocked(ticket))
    }

    fn close(&mut self) -> aqueduct::runtime::Result<CloseStep> {
        Ok(CloseStep::Closed(Receipt { rows: self.rows, payload: None }))
    }
}
