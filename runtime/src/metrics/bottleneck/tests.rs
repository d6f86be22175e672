//! Figures of made-up jobs, and what they say of them. Real jobs are in `tests/jobs/bottleneck.rs`.

use std::time::Duration;

use super::*;
use crate::metrics::{EdgeMetrics, JobState, NodeMetrics, TaskNodeMetrics, TaskState, WorkerMetrics};

fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

/// `read`, `work` and `write`, each a stage of its own with so many partitions, each on a thread of its own, that did
/// nothing for so long.
pub(crate) fn pipeline(partitions: usize, elapsed: f64) -> JobMetrics {
    let roles = [NodeRole::Source, NodeRole::Operator, NodeRole::Sink];
    let names = ["read", "work", "write"];
    let node = |stage: usize| NodeMetrics {
        name: names[stage].into(),
        partitions,
        role: roles[stage],
        stage: Some(stage),
        ..NodeMetrics::default()
    };
    let edge = |from: usize| EdgeMetrics { from_node: from, to_node: from + 1, ..EdgeMetrics::default() };
    let task = |stage: usize, partition: usize| TaskMetrics {
        name: names[stage].into(),
        stage,
        partition,
        worker: stage,
        thread: partition,
        steps: 1,
        state: TaskState::Busy,
        blocked_on: None,
        running: Duration::ZERO,
        busy: Duration::ZERO,
        idle: Duration::ZERO,
        parked: Duration::ZERO,
        waiting_for_memory: Duration::ZERO,
        blocked: Duration::ZERO,
        nodes: vec![TaskNodeMetrics { node: stage, ..TaskNodeMetrics::default() }],
    };
    JobMetrics {
        state: JobState::Running,
        elapsed: seconds(elapsed),
        nodes: (0..3).map(node).collect(),
        edges: (0..2).map(edge).collect(),
        tasks: (0..3).flat_map(|stage| (0..partitions).map(move |partition| task(stage, partition))).collect(),
        workers: vec![WorkerMetrics {
            limit_bytes: 1 << 30,
            charged_bytes: 0,
            peak_bytes: 0,
            overruns: 0,
            spilled_bytes: 0,
        }],
        deadlocks: Vec::new(),
        source_bytes_done: 0,
        source_bytes_total: None,
    }
}

/// Fills in what each task of a stage did, in seconds.
fn of_stage(metrics: &mut JobMetrics, stage: usize, change: impl Fn(&mut TaskMetrics)) {
    metrics.tasks.iter_mut().filter(|task| task.stage == stage).for_each(change);
}

fn works(time: f64) -> impl Fn(&mut TaskMetrics) {
    move |task| {
        (task.busy, task.running) = (seconds(time), seconds(time));
        task.nodes[0].busy = seconds(time);
    }
}

#[test]
fn the_busy_operator_is_named_with_those_that_it_holds_up() {
    let mut metrics = pipeline(1, 10.0);
    of_stage(&mut metrics, 0, |task| task.parked = seconds(9.0));
    of_stage(&mut metrics, 1, works(9.7));
    of_stage(&mut metrics, 2, |task| task.idle = seconds(9.9));
    let found = bottleneck(&metrics).expect("one");
    assert_eq!((found.node, found.cause, found.partition), (1, Cause::Busy, None));
    assert_eq!(
        found.sentence,
        "`work` is busy 97 %; one operator upstream is parked on it; one operator downstream waits for it"
    );
}

#[test]
fn the_partition_with_most_of_the_rows_is_named() {
    let mut metrics = pipeline(8, 10.0);
    of_stage(&mut metrics, 1, works(0.4));
    let slow = metrics.tasks.iter_mut().find(|task| task.stage == 1 && task.partition == 3).expect("a task");
    works(9.6)(slow);
    for task in metrics.tasks.iter_mut().filter(|task| task.stage == 1) {
        task.nodes[0].rows_in = if task.partition == 3 { 930 } else { 10 };
    }
    let found = bottleneck(&metrics).expect("one");
    assert_eq!((found.node, found.cause, found.partition), (1, Cause::Skew, Some(3)));
    assert_eq!(
        found.sentence,
        "partition 3 of `work` is busy 96 %, its 7 others 4 % on average; it has 93 % of the rows"
    );
}

#[test]
fn a_wait_on_a_busy_thread_is_a_wait_for_ones_turn() {
    let mut metrics = pipeline(1, 10.0);
    metrics.tasks.iter_mut().for_each(|task| task.worker = 0);
    of_stage(&mut metrics, 0, |task| {
        task.blocked = seconds(9.5);
        task.nodes[0].outside = seconds(9.5);
    });
    of_stage(&mut metrics, 1, works(8.0));
    of_stage(&mut metrics, 2, works(1.5));
    assert_eq!(bottleneck(&metrics).expect("one").name, "work");
    // On a thread of its own it waits for what it reads.
    of_stage(&mut metrics, 0, |task| task.worker = 1);
    of_stage(&mut metrics, 1, works(0.8));
    let found = bottleneck(&metrics).expect("one");
    assert_eq!((&*found.name, found.cause), ("read", Cause::Outside));
    assert!(found.sentence.starts_with("`read` waits 95 % of its time for what it reads"), "{}", found.sentence);
}

#[test]
fn who_spills_is_named_whoever_waits_for_the_disk() {
    let mut metrics = pipeline(2, 10.0);
    metrics.nodes[1].spilled_bytes = 3 << 30;
    of_stage(&mut metrics, 0, |task| {
        task.blocked = seconds(9.0);
        task.nodes[0].disk = seconds(9.0);
    });
    let found = bottleneck(&metrics).expect("one");
    assert_eq!((&*found.name, found.cause), ("work", Cause::Disk));
    assert_eq!(
        found.sentence,
        "`work` spills more than the disk takes in: tasks wait 90 % of their time for it; it has spilled 3.0 GiB"
    );
}

#[test]
fn who_holds_the_memory_is_named_whoever_waits_for_it() {
    let mut metrics = pipeline(2, 10.0);
    metrics.nodes[1].state_bytes = 12 << 20;
    of_stage(&mut metrics, 0, |task| task.waiting_for_memory = seconds(9.0));
    let found = bottleneck(&metrics).expect("one");
    assert_eq!((&*found.name, found.cause), ("work", Cause::Memory));
    assert!(found.sentence.contains("90 %") && found.sentence.contains("12.0 MiB"), "{}", found.sentence);
}

#[test]
fn a_reader_is_slow_only_if_all_senders_wait_for_it() {
    let mut metrics = pipeline(2, 10.0);
    metrics.nodes[2].role = NodeRole::Result;
    metrics.nodes[2].stage = None;
    metrics.tasks.retain(|task| task.stage < 2);
    of_stage(&mut metrics, 1, |task| task.parked = seconds(9.0));
    let found = bottleneck(&metrics).expect("one");
    assert_eq!((&*found.name, found.cause), ("write", Cause::Reader));
    // In order: one waits for its turn while the other works.
    let first = metrics.tasks.iter_mut().find(|task| task.stage == 1).expect("a task");
    first.parked = Duration::ZERO;
    works(5.0)(first);
    assert_eq!(bottleneck(&metrics).expect("one").name, "work");
}

#[test]
fn nothing_is_named_where_nothing_was_done() {
    assert_eq!(bottleneck(&pipeline(1, 0.0)), None);
    assert_eq!(bottleneck(&pipeline(4, 10.0)), None);
    let mut waiting = pipeline(1, 10.0);
    waiting.tasks.clear();
    assert_eq!(bottleneck(&waiting), None);
}
