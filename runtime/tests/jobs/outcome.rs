//! What a job says of itself is what became of it: commits, plans of others, results read late, starts that fail.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use aqueduct_runtime::memory::Account;
use aqueduct_runtime::metrics::JobState;
use aqueduct_runtime::testing::{CountingSink, Failure, Gate, NumbersSource, SinkMoment, StalledSource, eventually};
use aqueduct_runtime::{
    ClusterConfig, ExecutionError, Graph, Job, Operator, OperatorContext, OperatorSpec, Outbox, PlanError, Port,
    Result, Step,
};
use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;

use crate::{MIB, assert_clean, cluster, cluster_with, values, within_a_minute};

/// Numbers into two sinks.
fn two_sinks(first: &CountingSink, second: &CountingSink) -> Graph {
    let mut graph = Graph::new();
    let source = graph.source("numbers", NumbersSource::new(1000).split_rows(100));
    graph.sink("first", first.clone(), source.gather());
    graph.sink("second", second.clone(), source.gather());
    graph
}

#[test]
fn a_cancel_that_comes_during_the_commit_changes_nothing() {
    within_a_minute(|| {
        let cluster = cluster(2, 64 * MIB);
        let gate = Gate::shut();
        let first = CountingSink::new().failing(Failure::Block(gate.clone()), SinkMoment::Commit);
        let second = CountingSink::new();
        let job = cluster.run(&two_sinks(&first, &second)).expect("it starts");
        assert!(gate.wait_until_refused(1, Duration::from_secs(10)), "it commits");
        job.cancel();
        let monitor = job.monitor();
        assert_eq!(monitor.state(), JobState::Running);
        gate.open();
        job.wait().expect("it was being committed");
        assert_eq!(monitor.state(), JobState::Finished);
        for written in [first.written(), second.written()] {
            assert_eq!((written.commits(), written.committed_rows(), written.aborts()), (1, 1000, 0));
        }
        assert_clean(&cluster);
    });
}

#[test]
fn a_cancel_at_any_moment_commits_all_or_nothing_and_the_job_says_which() {
    within_a_minute(|| {
        let cluster = cluster(2, 64 * MIB);
        let mut outcomes = [0, 0];
        let mut pause = 0;
        for _ in 0..300 {
            let (first, second) = (CountingSink::new(), CountingSink::new());
            let job = cluster.run(&two_sinks(&first, &second)).expect("it starts");
            for _ in 0..pause {
                std::thread::yield_now();
            }
            job.cancel();
            let finished = match job.wait() {
                Ok(_) => true,
                Err(ExecutionError::Cancelled) => false,
                Err(other) => panic!("{other}"),
            };
            for written in [first.written(), second.written()] {
                let expected = if finished { (1, 0) } else { (0, 1) };
                assert_eq!((written.commits(), written.aborts()), expected, "finished: {finished}");
            }
            outcomes[usize::from(finished)] += 1;
            // Near the end of the job, where the two meet.
            pause = if finished { pause * 9 / 10 } else { pause + pause / 8 + 1 };
        }
        assert!(outcomes.iter().all(|count| *count > 0), "{outcomes:?}");
        assert_clean(&cluster);
    });
}

#[test]
fn a_plan_of_another_cluster_is_refused() {
    within_a_minute(|| {
        let config = ClusterConfig { workers: 2, memory_limit_bytes: 32 * MIB, ..ClusterConfig::default() };
        let own = cluster_with(config.clone());
        let sink = CountingSink::new();
        let graph = two_sinks(&sink, &sink);
        let others = [
            ClusterConfig { workers: 1, ..config.clone() },
            ClusterConfig { workers: 3, ..config.clone() },
            ClusterConfig { threads_per_worker: 2, ..config.clone() },
            ClusterConfig { memory_limit_bytes: 1 << 30, ..config.clone() },
        ];
        for other in others {
            let foreign = cluster_with(other.clone()).plan(&graph).expect("it plans");
            let error = own.run_plan(foreign).expect_err("it was made for another cluster");
            let ExecutionError::Plan(plan) = &error else { panic!("{error}") };
            assert!(
                matches!(**plan, PlanError::Config(_))
                    && error.to_string().contains("other workers, threads or limits"),
                "{error}"
            );
        }
        assert!(own.memory().iter().all(|pool| pool.peak() == 0), "a refusal costs nothing");
        let same = cluster_with(config).plan(&graph).expect("it plans");
        own.run_plan(same).expect("a cluster like this one").wait().expect("it ends well");
        assert_clean(&own);
    });
}

/// Two results of 3 MB each at a limit that lets neither wait in memory while the other is read.
fn late(
    job_ends: impl FnOnce(Job, aqueduct_runtime::ResultStream, aqueduct_runtime::Cluster, Vec<i64>) + Send + 'static,
) {
    within_a_minute(|| {
        let cluster = cluster(2, 4 * MIB);
        let mut graph = Graph::new();
        let source = graph.source("numbers", NumbersSource::new(400_000).split_rows(1000));
        let first = graph.result("first", source);
        let second = graph.result("second", source);
        let mut job = cluster.run(&graph).expect("it starts");
        let (first, second) = (job.take_result(first).expect("one"), job.take_result(second).expect("two"));
        let mut all = values(first).expect("it ends well");
        all.sort_unstable();
        assert_eq!(all, (0..400_000).collect::<Vec<i64>>());
        eventually("the job has ended", || job.state() == JobState::Finished);
        assert!(job.metrics().edges[1].spooled_bytes > 0, "nothing went to disk");
        job_ends(job, second, cluster, all);
    });
}

#[test]
fn a_spooled_result_is_read_after_its_job_has_ended() {
    late(|job, second, cluster, all| {
        job.wait().expect("it ended well");
        let mut found = values(second).expect("all of it is there");
        found.sort_unstable();
        assert_eq!(found, all);
        assert_clean(&cluster);
    });
}

#[test]
fn a_spooled_result_ends_with_an_error_that_says_so_once_the_cluster_is_closed() {
    late(|job, mut second, cluster, _| {
        let folder = cluster.spill_path();
        cluster.close();
        let last = second.by_ref().last().expect("an item");
        assert!(matches!(last, Err(ExecutionError::Closed)), "{last:?}");
        assert!(second.next().is_none());
        drop(second);
        assert!(!folder.exists());
        job.wait().expect("the job itself had ended well");
        aqueduct_runtime::testing::assert_no_threads_left();
    });
}

/// Says what memory it needs, or panics, where nobody expects user code to do anything.
#[derive(Debug, Clone)]
struct Touchy(Arc<AtomicBool>);

impl OperatorSpec for Touchy {
    fn name(&self) -> &str {
        "touchy"
    }

    fn output_schema(&self, _output: usize, inputs: &[SchemaRef]) -> Result<SchemaRef> {
        Ok(SchemaRef::clone(&inputs[0]))
    }

    fn instantiate(&self, _context: OperatorContext) -> Result<Box<dyn Operator>> {
        panic!("it is not asked: its memory comes first")
    }

    fn min_memory(&self, _batch_bytes: usize) -> usize {
        assert!(!self.0.load(SeqCst), "touched");
        0
    }
}

#[test]
fn a_start_that_panics_outside_of_any_node_ends_the_job_with_one_error() {
    within_a_minute(|| {
        let cluster = cluster(2, 64 * MIB);
        let armed = Arc::new(AtomicBool::new(false));
        let mut graph = Graph::new();
        let source = graph.source("numbers", NumbersSource::new(1000));
        let touchy = graph.operator("touchy", Touchy(Arc::clone(&armed)), source.round_robin());
        let sink = CountingSink::new();
        let written = sink.written();
        graph.sink("count", sink, touchy.gather());
        let plan = cluster.plan(&graph).expect("it plans");
        armed.store(true, SeqCst);
        let error = cluster.run_plan(plan).expect("it starts").wait().expect_err("it panics");
        let ExecutionError::Panic { message, .. } = &error else { panic!("{error}") };
        assert!(message.contains("touched"), "{error}");
        assert_eq!((written.commits(), written.aborts()), (0, 1));
        assert_clean(&cluster);
    });
}

/// Emits what it goes on to hold, and claims all of that with each batch.
#[derive(Debug)]
struct Keeper;

impl OperatorSpec for Keeper {
    fn name(&self) -> &str {
        "keeper"
    }

    fn output_schema(&self, _output: usize, inputs: &[SchemaRef]) -> Result<SchemaRef> {
        Ok(SchemaRef::clone(&inputs[0]))
    }

    fn instantiate(&self, context: OperatorContext) -> Result<Box<dyn Operator>> {
        Ok(Box::new(Keeping { memory: context.memory, kept: Vec::new() }))
    }
}

struct Keeping {
    memory: Account,
    kept: Vec<RecordBatch>,
}

impl Operator for Keeping {
    fn process(&mut self, _port: Port, batch: RecordBatch, out: &mut Outbox) -> Result<Step> {
        self.kept.push(batch.clone());
        self.kept.iter().for_each(|kept| self.memory.claim(kept));
        out.push(batch);
        Ok(Step::NeedInput)
    }
}

#[test]
fn batches_that_the_caller_keeps_hold_no_memory_of_a_job_that_held_them_too() {
    within_a_minute(|| {
        let cluster = cluster(1, 64 * MIB);
        let gate = Gate::shut();
        let mut graph = Graph::new();
        let source = graph.source("numbers", StalledSource::gated(NumbersSource::new(200).split_rows(100), &gate));
        let keeper = graph.operator("keeper", Keeper, source);
        let result = graph.result("all", keeper);
        let mut job = cluster.run(&graph).expect("it starts");
        let mut stream = job.take_result(result).expect("the result");
        gate.let_through(1);
        let first = stream.next().expect("a batch").expect("no error");
        // The second makes the operator claim the first once more.
        gate.open();
        let second = stream.next().expect("a batch").expect("no error");
        assert!(stream.next().is_none());
        job.wait().expect("it ends well");
        assert_clean(&cluster);
        assert_eq!(first.num_rows() + second.num_rows(), 200);
    });
}

/// Forwards its input; its instances are gone once the gate is open, and not before.
#[derive(Debug)]
struct Lingering(Gate);

impl OperatorSpec for Lingering {
    fn name(&self) -> &str {
        "lingering"
    }

    fn output_schema(&self, _output: usize, inputs: &[SchemaRef]) -> Result<SchemaRef> {
        Ok(Arc::clone(&inputs[0]))
    }

    fn instantiate(&self, _context: OperatorContext) -> Result<Box<dyn Operator>> {
        Ok(Box::new(Lingering(self.0.clone())))
    }
}

impl Operator for Lingering {
    fn process(&mut self, _port: Port, batch: RecordBatch, out: &mut Outbox) -> Result<Step> {
        out.push(batch);
        Ok(Step::NeedInput)
    }
}

impl Drop for Lingering {
    fn drop(&mut self) {
        self.0.pass().into_iter().for_each(|ticket| ticket.wait());
    }
}

/// One batch of numbers, made by tasks that end well after the result has.
fn lingering(gate: &Gate) -> (Graph, aqueduct_runtime::ResultId) {
    let mut graph = Graph::new();
    let source = graph.source("numbers", NumbersSource::new(100));
    let lingers = graph.operator("lingers", Lingering(gate.clone()), source.gather());
    let result = graph.result("all", lingers);
    (graph, result)
}

#[test]
fn a_job_that_is_dropped_once_all_was_handed_out_is_finished() {
    within_a_minute(|| {
        // Asked for more after the last batch, or not.
        for asked in [true, false] {
            let cluster = cluster(2, 64 * MIB);
            let gate = Gate::shut();
            let (graph, result) = lingering(&gate);
            let mut job = cluster.run(&graph).expect("it starts");
            let monitor = job.monitor();
            let mut stream = job.take_result(result).expect("the result");
            let batch = stream.next().expect("a batch").expect("no error");
            assert_eq!(batch.num_rows(), 100);
            assert!(gate.wait_until_refused(1, Duration::from_secs(10)), "it was told that no more comes, and lingers");
            if asked {
                assert!(stream.next().is_none());
            }
            drop(stream);
            drop(job);
            assert_eq!(monitor.state(), JobState::Running);
            gate.open();
            monitor.wait();
            assert_eq!((monitor.state(), monitor.error()), (JobState::Finished, None), "asked: {asked}");
            let totals = cluster.observer().totals();
            assert_eq!((totals.finished, totals.cancelled), (1, 0));
            assert_clean(&cluster);
        }
    });
}

#[test]
fn a_job_that_is_dropped_with_rows_unread_or_a_sink_that_has_not_committed_is_cancelled() {
    within_a_minute(|| {
        let cluster = cluster(2, 64 * MIB);
        let gate = Gate::shut();
        let (graph, result) = lingering(&gate);
        let mut job = cluster.run(&graph).expect("it starts");
        let monitor = job.monitor();
        let stream = job.take_result(result).expect("the result");
        assert!(gate.wait_until_refused(1, Duration::from_secs(10)), "all of it is there");
        drop((stream, job));
        gate.open();
        monitor.wait();
        assert_eq!(monitor.state(), JobState::Cancelled);

        let gate = Gate::shut();
        let (mut graph, result) = lingering(&gate);
        let numbers = graph.source("more", NumbersSource::new(100));
        let sink = CountingSink::new();
        graph.sink("write", sink.clone(), numbers);
        let mut job = cluster.run(&graph).expect("it starts");
        let monitor = job.monitor();
        let mut stream = job.take_result(result).expect("the result");
        assert!(stream.next().is_some() && stream.next().is_none());
        drop((stream, job));
        gate.open();
        monitor.wait();
        assert_eq!((monitor.state(), sink.written().commits()), (JobState::Cancelled, 0));
        assert_clean(&cluster);
    });
}

#[test]
fn what_goes_on_behind_a_result_that_is_complete_is_stopped_when_the_job_is_dropped() {
    within_a_minute(|| {
        let cluster = cluster(2, 64 * MIB);
        let mut graph = Graph::new();
        // Its source waits for ever for something outside.
        let never = Gate::shut();
        never.let_through(1);
        let source = graph.source("stalls", StalledSource::gated(NumbersSource::new(200).split_rows(100), &never));
        let first = graph.operator("first", OneBatch, source.gather());
        let result = graph.result("one", first);
        let mut job = cluster.run(&graph).expect("it starts");
        let monitor = job.monitor();
        let mut stream = job.take_result(result).expect("the result");
        assert!(stream.next().is_some() && stream.next().is_none());
        drop((stream, job));
        monitor.wait();
        assert_eq!((monitor.state(), monitor.error()), (JobState::Finished, None));
        assert_clean(&cluster);
    });
}

/// Forwards one batch, and needs no more.
#[derive(Debug)]
struct OneBatch;

impl OperatorSpec for OneBatch {
    fn name(&self) -> &str {
        "one batch"
    }

    fn output_schema(&self, _output: usize, inputs: &[SchemaRef]) -> Result<SchemaRef> {
        Ok(Arc::clone(&inputs[0]))
    }

    fn instantiate(&self, _context: OperatorContext) -> Result<Box<dyn Operator>> {
        Ok(Box::new(OneBatch))
    }
}

impl Operator for OneBatch {
    fn process(&mut self, _port: Port, batch: RecordBatch, out: &mut Outbox) -> Result<Step> {
        out.push(batch);
        Ok(Step::Done)
    }
}
