//! A job that fails, is cancelled or dropped ends soon, with one error that names node and cause, and leaves
//! nothing behind.

use std::time::{Duration, Instant};

use aqueduct_runtime::testing::{
    CountingSink, EndlessSource, FailingOperator, Failure, Gate, Moment, NumbersSource, SinkMoment, SlowOperator,
    SourceMoment, StalledSource, assert_no_threads_left, eventually,
};
use aqueduct_runtime::{Cluster, ExecutionError, Graph, Partitions};

use crate::{MIB, assert_clean, cluster, within_a_minute};

fn failing(moment: Moment, failure: Failure, partitions: usize) -> (Graph, aqueduct_runtime::testing::Written) {
    let mut graph = Graph::new();
    let source = graph.source("endless", EndlessSource::new());
    let bad =
        graph.operator("bad", FailingOperator::new(failure, moment).at_partition(partitions - 1), source.round_robin());
    graph.set_partitions(bad, Partitions::Fixed(partitions));
    let sink = CountingSink::new();
    let written = sink.written();
    graph.sink("count", sink, bad.gather());
    (graph, written)
}

#[test]
fn an_error_or_a_panic_ends_the_job_with_node_partition_and_cause() {
    within_a_minute(|| {
        let cluster = cluster(2, 64 * MIB);
        for partitions in [1, 2, 8] {
            for moment in [Moment::Instantiate, Moment::Batch(0), Moment::Batch(7)] {
                for failure in [Failure::Error, Failure::Panic] {
                    let (graph, written) = failing(moment, failure.clone(), partitions);
                    let start = Instant::now();
                    let error = cluster.run(&graph).expect("it starts").wait().expect_err("it fails");
                    // Started and ended, beside other tests.
                    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
                    let text = error.to_string();
                    assert!(text.contains(&format!("node `bad`, partition {}", partitions - 1)), "{text}");
                    match (&failure, &error) {
                        (Failure::Panic, ExecutionError::Panic { message, .. }) => {
                            assert_eq!(message, "panicked as asked");
                        }
                        (Failure::Error, ExecutionError::Operator { cause, .. }) => {
                            assert_eq!(cause.to_string(), "failed as asked");
                        }
                        _ => panic!("{failure:?} gave {error:?}"),
                    }
                    assert_eq!((written.commits(), written.aborts()), (0, 1));
                    assert_clean(&cluster);
                }
            }
        }
    });
}

#[test]
fn a_failure_while_finishing_and_while_dropping_is_reported() {
    within_a_minute(|| {
        let cluster = cluster(2, 64 * MIB);
        for (moment, failure) in
            [(Moment::Finish, Failure::Error), (Moment::Finish, Failure::Panic), (Moment::Drop, Failure::Panic)]
        {
            let mut graph = Graph::new();
            let source = graph.source("numbers", NumbersSource::new(1000));
            let bad = graph.operator("bad", FailingOperator::new(failure, moment), source);
            let sink = CountingSink::new();
            let written = sink.written();
            graph.sink("count", sink, bad.gather());
            let error = cluster.run(&graph).expect("it starts").wait().expect_err("it fails");
            assert!(error.to_string().contains("bad"), "{error}");
            assert_eq!((written.commits(), written.aborts()), (0, 1), "{moment:?}");
            assert_clean(&cluster);
        }
    });
}

#[test]
fn failing_sources_and_sinks_are_named_and_nothing_is_committed() {
    within_a_minute(|| {
        let cluster = cluster(2, 64 * MIB);
        for failure in [Failure::Error, Failure::Panic] {
            for moment in [SourceMoment::Scan, SourceMoment::Open(0), SourceMoment::Split(3)] {
                let mut graph = Graph::new();
                let inner = NumbersSource::new(100_000).split_rows(100);
                let source = graph.source("bad source", StalledSource::failing(inner, failure.clone(), moment));
                let sink = CountingSink::new();
                let written = sink.written();
                graph.sink("count", sink, source.gather());
                let error = cluster.run(&graph).expect("it starts").wait().expect_err("it fails");
                assert!(error.to_string().contains("node `bad source`"), "{error}");
                assert_eq!(written.commits(), 0);
                assert_clean(&cluster);
            }
            for moment in [SinkMoment::Open(0), SinkMoment::Write(2), SinkMoment::Close, SinkMoment::Commit] {
                let mut graph = Graph::new();
                let source = graph.source("numbers", NumbersSource::new(100_000).split_rows(100));
                let good = CountingSink::new();
                let written = good.written();
                graph.sink("a good sink", good, source.gather());
                let sink = CountingSink::new().failing(failure.clone(), moment);
                graph.sink("bad sink", sink, source.gather());
                let error = cluster.run(&graph).expect("it starts").wait().expect_err("it fails");
                assert!(error.to_string().contains("node `bad sink`"), "{error}");
                assert_eq!(written.aborts(), 1, "{moment:?}");
                assert_clean(&cluster);
            }
        }
    });
}

fn endless_job(cluster: &Cluster) -> aqueduct_runtime::Job {
    let mut graph = Graph::new();
    let endless = EndlessSource::new();
    let produced = endless.produced();
    let source = graph.source("endless", endless);
    let spread = graph.map("spread", source.hash(["n"]), Ok);
    graph.sink("count", CountingSink::new(), spread.gather());
    let job = cluster.run(&graph).expect("it starts");
    eventually("it runs", || produced.batches() > 20);
    job
}

/// What takes effect at once is timed with the machine to itself.
mod alone {
    use super::*;

    /// What a job may take to end after the event (C7).
    const SOON: Duration = Duration::from_millis(100);

    #[test]
    fn a_cancelled_job_and_a_dropped_one_end_soon_and_free_every_reservation() {
        within_a_minute(|| {
            let cluster = cluster(2, 64 * MIB);
            let job = endless_job(&cluster);
            let start = Instant::now();
            job.cancel();
            let error = job.wait().expect_err("it was cancelled");
            assert!(matches!(error, ExecutionError::Cancelled), "{error}");
            assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
            assert_clean(&cluster);
            let job = endless_job(&cluster);
            let start = Instant::now();
            drop(job);
            eventually("it is gone", || cluster.memory().iter().all(|pool| pool.charged() == 0));
            assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
            assert_clean(&cluster);
        });
    }

    #[test]
    fn all_jobs_of_a_cluster_can_be_cancelled_and_it_goes_on() {
        within_a_minute(|| {
            let cluster = cluster(2, 64 * MIB);
            let jobs = [endless_job(&cluster), endless_job(&cluster)];
            let start = Instant::now();
            cluster.cancel_jobs();
            for job in jobs {
                let error = job.wait().expect_err("it was cancelled");
                assert!(matches!(error, ExecutionError::Cancelled), "{error}");
            }
            assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
            assert_clean(&cluster);
            let job = endless_job(&cluster);
            job.cancel();
            job.wait().expect_err("it was cancelled");
        });
    }

    #[test]
    fn a_cancel_in_a_long_step_takes_effect_when_the_step_ends() {
        within_a_minute(|| {
            let cluster = cluster(2, 64 * MIB);
            let step = Duration::from_millis(600);
            let mut graph = Graph::new();
            let source = graph.source("numbers", NumbersSource::new(1_000_000).split_rows(100));
            let slow = graph.operator("slow", SlowOperator::new(step), source);
            graph.sink("count", CountingSink::new(), slow.gather());
            let job = cluster.run(&graph).expect("it starts");
            eventually("a step runs", || job.metrics().nodes[0].rows_out > 0);
            let start = Instant::now();
            job.cancel();
            job.wait().expect_err("it was cancelled");
            assert!(start.elapsed() < step + SOON, "{:?}", start.elapsed());
            assert_clean(&cluster);
        });
    }

    #[test]
    fn a_cancel_reaches_a_job_that_waits_for_something_outside() {
        within_a_minute(|| {
            let cluster = cluster(2, 64 * MIB);
            let gate = Gate::shut();
            let mut graph = Graph::new();
            let source = graph.source("gated", StalledSource::gated(NumbersSource::new(100), &gate));
            let sink = CountingSink::new();
            graph.sink("count", sink, source.gather());
            let job = cluster.run(&graph).expect("it starts");
            assert!(gate.wait_until_refused(1, Duration::from_secs(10)));
            let start = Instant::now();
            job.cancel();
            job.wait().expect_err("it was cancelled");
            assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
            assert_clean(&cluster);
        });
    }
}

#[test]
fn other_jobs_go_on_when_one_fails() {
    within_a_minute(|| {
        let cluster = cluster(2, 128 * MIB);
        let good = endless_job(&cluster);
        let (graph, _) = failing(Moment::Batch(3), Failure::Panic, 2);
        cluster.run(&graph).expect("it starts").wait().expect_err("it fails");
        let before = good.metrics().nodes[0].rows_out;
        eventually("the other goes on", || good.metrics().nodes[0].rows_out > before);
        good.cancel();
        good.wait().expect_err("it was cancelled");
        assert_clean(&cluster);
    });
}

#[test]
fn a_closed_cluster_leaves_no_thread_and_no_folder_and_closes_fast() {
    within_a_minute(|| {
        let start = Instant::now();
        let cluster = cluster(4, 64 * MIB);
        assert!(start.elapsed() < Duration::from_millis(200), "start took {:?}", start.elapsed());
        let folder = cluster.spill_path();
        assert!(folder.exists());
        let job = endless_job(&cluster);
        let start = Instant::now();
        cluster.close();
        assert!(start.elapsed() < Duration::from_millis(500), "close took {:?}", start.elapsed());
        assert!(matches!(job.wait(), Err(ExecutionError::Closed)));
        assert!(!folder.exists());
        assert_no_threads_left();
    });
}
