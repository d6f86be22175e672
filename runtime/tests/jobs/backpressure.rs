//! A reader that does not read stops the source, and nothing else: no memory grows, nobody is alarmed.

use std::time::{Duration, Instant};

use aqueduct_runtime::testing::{CountingSink, EndlessSource, Gate, NumbersSource, StalledSource, eventually};
use aqueduct_runtime::{Exchange, Graph, Input, Job, NodeId};

use crate::{MIB, assert_clean, cluster, within_a_minute};

/// Ten times the watchdog's period.
const LONG: Duration = Duration::from_millis(1000);

/// Waits until nothing moves, and watches that it stays so for ten times the watchdog's period: queues within
/// their capacity, memory within the limit, the job running.
fn assert_stalled(job: &Job, produced: impl Fn() -> u64) {
    let mut last = (u64::MAX, Instant::now());
    eventually("the source is parked", || {
        let now = produced();
        if now != last.0 {
            last = (now, Instant::now());
        }
        last.1.elapsed() > Duration::from_millis(300)
    });
    let before = produced();
    let start = Instant::now();
    while start.elapsed() < LONG {
        let metrics = job.metrics();
        assert_eq!(metrics.state, aqueduct_runtime::metrics::JobState::Running);
        for edge in &metrics.edges {
            assert!(edge.queued_bytes <= edge.capacity_bytes, "{edge:?}");
            assert_eq!(edge.spooled_bytes, 0);
        }
        for worker in &metrics.workers {
            assert!(worker.charged_bytes <= worker.limit_bytes, "{worker:?}");
        }
        std::thread::park_timeout(Duration::from_millis(10));
    }
    assert_eq!(produced(), before, "the source went on");
}

/// An endless source through `build` into a gated sink.
fn gated(build: impl Fn(&mut Graph, NodeId) -> Input + Send + 'static) {
    within_a_minute(move || {
        let cluster = cluster(2, 32 * MIB);
        let gate = Gate::shut();
        let endless = EndlessSource::new();
        let produced = endless.produced();
        let sink = CountingSink::new().gated(&gate);
        let written = sink.written();
        let mut graph = Graph::new();
        let source = graph.source("endless", endless);
        let last = build(&mut graph, source);
        graph.sink("gated", sink, last);
        let job = cluster.run(&graph).expect("it starts");
        assert_stalled(&job, || produced.batches());
        let at_gate = produced.rows();
        assert!(written.rows() < at_gate);
        gate.open();
        assert!(written.wait_for_rows(at_gate * 2, Duration::from_secs(30)), "the open gate drains all");
        job.cancel();
        job.wait().expect_err("it was cancelled");
        assert_clean(&cluster);
    });
}

#[test]
fn a_shut_gate_parks_the_source_within_the_capacity_of_the_edges() {
    gated(|_, source| source.gather());
}

#[test]
fn a_shut_gate_parks_the_source_behind_ten_stages() {
    gated(|graph, source| {
        let mut last = source;
        for stage in 0..10 {
            last = graph.map(format!("stage {stage}"), last.round_robin(), Ok);
        }
        last.gather()
    });
}

#[test]
fn a_shut_gate_parks_the_source_of_a_fork() {
    gated(|graph, source| {
        graph.sink("open", CountingSink::new(), source.gather());
        source.gather()
    });
}

#[test]
fn a_caller_that_does_not_read_parks_the_source() {
    within_a_minute(|| {
        let cluster = cluster(2, 32 * MIB);
        let endless = EndlessSource::new();
        let produced = endless.produced();
        let mut graph = Graph::new();
        let source = graph.source("endless", endless);
        let result = graph.result("all", source);
        let mut job = cluster.run(&graph).expect("it starts");
        let mut stream = job.take_result(result).expect("the result");
        assert_stalled(&job, || produced.batches());
        let before = produced.rows();
        let mut read = 0;
        while read <= before {
            read += stream.next().expect("no end").expect("no error").num_rows() as u64;
        }
        drop(stream);
        job.wait().expect("a reader that stops is no error");
        assert_clean(&cluster);
    });
}

#[test]
fn a_slow_sink_gets_every_row_of_a_fast_source() {
    within_a_minute(|| {
        let cluster = cluster(2, 16 * MIB);
        let mut graph = Graph::new();
        let source = graph.source("numbers", NumbersSource::new(200_000));
        let gate = Gate::shut();
        let sink = CountingSink::new().gated(&gate);
        let written = sink.written();
        graph.sink("gated", sink, source.gather());
        let job = cluster.run(&graph).expect("it starts");
        let passes = crate::spawn({
            let gate = gate.clone();
            move || {
                for pass in 0.. {
                    if !gate.wait_until_refused(pass, Duration::from_secs(1)) {
                        break;
                    }
                    gate.let_through(1);
                }
                gate.open();
            }
        });
        job.wait().expect("it ends well");
        passes.join().expect("no panic");
        assert_eq!(written.committed_rows(), 200_000);
        assert_clean(&cluster);
    });
}

/// Small batches wait for others before a hash spreads them: not for such as may never come.
#[test]
fn a_few_rows_arrive_while_their_source_is_held_up() {
    within_a_minute(|| {
        let cluster = cluster(2, 32 * MIB);
        let gate = Gate::shut();
        let sink = CountingSink::new();
        let written = sink.written();
        let mut graph = Graph::new();
        let numbers = NumbersSource::new(1000).split_rows(10).batch_rows(10);
        let source = graph.source("numbers", StalledSource::gated(numbers, &gate));
        graph.sink("written", sink, Input::from(source).through(Exchange::Hash(vec!["n".into()])));
        let job = cluster.run(&graph).expect("it starts");
        for reads in 1..=3 {
            gate.let_through(1);
            assert!(written.wait_for_rows(10 * reads, Duration::from_secs(30)), "what was read is written");
        }
        gate.open();
        job.wait().expect("it ends well");
        assert_eq!(written.rows(), 1000);
        assert_clean(&cluster);
    });
}
