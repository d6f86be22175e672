//! What an observer sees of jobs that wait, run, and have ended.

use std::time::Duration;

use super::*;
use crate::cluster::Cluster;
use crate::graph::Graph;
use crate::job::Job;
use crate::metrics::{JobState, TaskState};
use crate::testing::{CountingSink, EndlessSource, Failure, Gate, NumbersSource, SinkMoment, eventually};

const MIB: usize = 1 << 20;

fn cluster(memory_limit_bytes: usize) -> Cluster {
    Cluster::start(ClusterConfig { workers: 2, memory_limit_bytes, ..ClusterConfig::default() }).expect("it starts")
}

/// A job whose sink waits at `gate`.
fn gated(cluster: &Cluster, gate: &Gate) -> Job {
    let mut graph = Graph::new();
    let source = graph.source("endless", EndlessSource::new());
    let spread = graph.map("spread", source.hash(["n"]), Ok);
    graph.sink("gated", CountingSink::new().gated(gate), spread);
    cluster.run(&graph).expect("it starts")
}

fn short(cluster: &Cluster) -> Job {
    let mut graph = Graph::new();
    let source = graph.source("numbers", NumbersSource::new(1000));
    graph.sink("counted", CountingSink::new(), source);
    cluster.run(&graph).expect("it starts")
}

#[test]
fn a_job_is_seen_from_its_start_to_its_end_and_after() {
    let cluster = cluster(64 * MIB);
    let observer = cluster.observer();
    assert!(observer.jobs().is_empty());
    let gate = Gate::shut();
    let job = gated(&cluster, &gate);
    eventually("it runs and is held up", || {
        observer.job(0).is_some_and(|job| job.state() == JobState::Running && job.metrics().edges[0].queued_bytes > 0)
    });
    let seen = observer.job(0).expect("it is there");
    assert_eq!((seen.id(), seen.ended_at(), seen.error()), (0, None, None));
    assert_eq!(seen.shape().title(), "endless → gated");
    job.cancel();
    eventually("it is in the history", || observer.job(0).is_some_and(|job| job.ended_at().is_some()));
    let seen = observer.job(0).expect("it is there");
    assert_eq!((seen.state(), seen.error()), (JobState::Cancelled, Some("the job was cancelled".into())));
    assert!(seen.metrics().nodes[0].rows_out > 0);
    assert_eq!(seen.shape().to_string(), job.plan().to_string());
    assert!(seen.analysis().to_string().starts_with("cancelled after"));
}

#[test]
fn the_history_is_there_once_a_waiter_knows_of_the_end() {
    let cluster = cluster(64 * MIB);
    let observer = cluster.observer();
    short(&cluster).wait().expect("it ends well");
    let seen = observer.job(0).expect("it is there");
    assert_eq!((seen.state(), seen.metrics().nodes[1].rows_in), (JobState::Finished, 1000));
    assert!(seen.ended_at() >= Some(seen.submitted()));
    let mut graph = Graph::new();
    let source = graph.source("numbers", NumbersSource::new(1000));
    graph.sink("fails", CountingSink::new().failing(Failure::Error, SinkMoment::Close), source);
    let error = cluster.run(&graph).expect("it starts").wait().expect_err("it fails").to_string();
    let seen = observer.job(1).expect("it is there");
    assert_eq!((seen.state(), seen.error()), (JobState::Failed, Some(error)));
    let totals = observer.totals();
    assert_eq!((totals.finished, totals.failed, totals.cancelled, totals.source_rows), (1, 1, 0, 2000));
    assert!(totals.running > Duration::ZERO);
}

#[test]
fn who_holds_the_memory_adds_up_to_what_is_charged() {
    let cluster = cluster(64 * MIB);
    let observer = cluster.observer();
    let gate = Gate::shut();
    let job = gated(&cluster, &gate);
    let mut last = 0;
    eventually("nothing moves", || {
        let steps: u64 = job.metrics().tasks.iter().map(|task| task.steps).sum();
        let held_up = job.metrics().tasks.iter().all(|task| task.state != crate::metrics::TaskState::Busy);
        held_up && steps > 0 && std::mem::replace(&mut last, steps) == steps
    });
    for worker in observer.memory() {
        let known: usize = worker.kinds.iter().map(|(_, bytes)| bytes).sum();
        assert!(worker.other_bytes < MIB, "{} of {}", worker.other_bytes, worker.charged_bytes);
        assert_eq!(known + worker.other_bytes, worker.charged_bytes);
        assert!(worker.charged_bytes <= worker.limit_bytes);
        let of = |kind| worker.kinds.iter().find(|(k, _)| *k == kind).map_or(0, |(_, bytes)| *bytes);
        assert!(of(HolderKind::Mailboxes) > 0 && of(HolderKind::Tasks) > 0);
        assert!(worker.holders.is_sorted_by_key(|holder| std::cmp::Reverse(holder.charged_bytes)));
        assert!(worker.holders.iter().any(|holder| holder.name.starts_with("port of spread [")));
    }
    drop(job);
    eventually("all is given back", || observer.memory().iter().all(|worker| worker.charged_bytes == 0));
    assert!(observer.memory().iter().all(|worker| worker.holders.is_empty()));
}

#[test]
fn a_job_in_line_says_whom_it_waits_for() {
    let cluster = cluster(16 * MIB);
    let observer = cluster.observer();
    let gate = Gate::shut();
    let first = gated(&cluster, &gate);
    eventually("it runs", || observer.job(0).is_some_and(|job| !job.metrics().tasks.is_empty()));
    // As many as fit beside each other run; the others wait.
    let jobs: Vec<_> = (0..8).map(|_| gated(&cluster, &gate)).collect();
    // One that has only just come may be looked at before it was let in.
    let is_short = |job: &Job| observer.waits_for(job.id()).is_some_and(|wait| wait.needed_bytes > wait.free_bytes);
    eventually("two wait", || jobs.iter().filter(|job| is_short(job)).count() >= 2);
    let mut waiting = jobs.iter().filter(|job| job.state() == JobState::Waiting);
    let (one, two) = (waiting.next().expect("one waits"), waiting.next().expect("another one"));
    let wait = observer.waits_for(one.id()).expect("it waits");
    assert!(wait.behind.is_empty());
    assert!(wait.needed_bytes > wait.free_bytes, "{wait:?}");
    assert!(wait.held_by.iter().any(|holder| holder.job == Some(first.id()) && holder.bytes > 0), "{wait:?}");
    assert!(wait.sentence.contains("job 0 holds"), "{}", wait.sentence);
    let wait = observer.waits_for(two.id()).expect("it waits");
    assert_eq!(wait.behind, [one.id()]);
    assert!(wait.sentence.ends_with(&format!("behind job {} in line", one.id())), "{}", wait.sentence);
    assert!(observer.waits_for(first.id()).is_none() && observer.waits_for(99).is_none());
    let (one, two) = (one.id(), two.id());
    assert!(observer.cancel(one), "a job in line can be cancelled");
    eventually("it has ended", || observer.job(one).is_some_and(|job| job.state() == JobState::Cancelled));
    assert!(!observer.cancel(one), "once");
    assert!(observer.waits_for(two).expect("it still waits").behind.is_empty());
}

#[test]
fn a_history_is_bounded_in_jobs_and_in_bytes() {
    let cluster = cluster(64 * MIB);
    let observer = cluster.observer();
    let jobs = HISTORY_JOBS as u64 + 50;
    for _ in 0..jobs {
        short(&cluster).wait().expect("it ends well");
    }
    let seen = observer.jobs();
    assert_eq!((seen.len(), observer.totals().finished), (HISTORY_JOBS, jobs));
    assert_eq!(observer.totals().source_rows, 1000 * jobs, "what is forgotten is counted");
    assert_eq!((seen[0].id(), seen[HISTORY_JOBS - 1].id()), (50, jobs - 1));
    let each = observer.0.log.bytes() / HISTORY_JOBS;
    assert!((1000..10_000).contains(&each), "{each} bytes for a small job");
    // A description of a megabyte is cut.
    let mut graph = Graph::new();
    let source = graph.source("numbers", NumbersSource::new(10));
    let last = (0..100).fold(source, |input, index| graph.map("long ".repeat(20_000) + &index.to_string(), input, Ok));
    graph.sink("counted", CountingSink::new(), last);
    for _ in 0..4 {
        cluster.run(&graph).expect("it starts").wait().expect("it ends well");
    }
    assert!(observer.0.log.bytes() <= 2 * HISTORY_BYTES, "{}", observer.0.log.bytes());
    assert!(observer.jobs().len() < 10, "large ones push out small ones");
}

#[test]
fn an_observer_outlives_its_cluster_and_keeps_nothing_alive() {
    let cluster = cluster(64 * MIB);
    let observer = cluster.observer();
    let gate = Gate::shut();
    let job = gated(&cluster, &gate);
    eventually("it runs", || job.state() == JobState::Running);
    cluster.close();
    assert!(observer.is_closed());
    drop(job);
    assert_eq!(observer.job(0).map(|job| job.state()), Some(JobState::Failed));
    assert!(observer.memory().iter().all(|worker| worker.charged_bytes == 0));
    assert!(!observer.cancel(0));
}

#[test]
fn steps_are_recorded_only_while_they_are_asked_for() {
    let cluster = cluster(64 * MIB);
    let observer = cluster.observer();
    let spans = || observer.timeline().threads.iter().map(|(.., spans)| spans.len()).sum::<usize>();
    short(&cluster).wait().expect("it ends well");
    assert_eq!(spans(), 0);
    observer.record_timeline(Duration::from_secs(60));
    short(&cluster).wait().expect("it ends well");
    let timeline = observer.timeline();
    assert_eq!(
        timeline.threads.iter().map(|(worker, thread, _)| (*worker, *thread)).collect::<Vec<_>>(),
        [(0, 0), (1, 0)]
    );
    for (.., spans) in &timeline.threads {
        assert!(spans.is_sorted_by_key(|span| span.start));
        assert!(spans.iter().all(|span| span.job == 1 && &*span.name == "numbers -> counted"));
        assert!(spans.last().is_none_or(|span| span.end == SpanEnd::Ended));
    }
    assert_eq!(
        timeline.disks.iter().map(|(worker, spans)| (*worker, spans.len())).collect::<Vec<_>>(),
        [(0, 0), (1, 0)]
    );
    assert!(spans() > 0);
    // A shorter wish takes nothing from a longer one.
    observer.record_timeline(Duration::from_nanos(1));
    let before = spans();
    short(&cluster).wait().expect("it ends well");
    assert!(spans() > before);
}

#[test]
fn a_recording_ends_and_the_next_one_forgets_it() {
    let cluster = cluster(64 * MIB);
    let observer = cluster.observer();
    let jobs = || -> Vec<u64> {
        observer.timeline().threads.iter().flat_map(|(.., spans)| spans.iter().map(|span| span.job)).collect()
    };
    observer.record_timeline(Duration::from_nanos(1));
    short(&cluster).wait().expect("it ends well");
    assert!(jobs().is_empty(), "it was over before the first step");
    observer.record_timeline(Duration::from_millis(200));
    eventually("a job is recorded", || {
        short(&cluster).wait().expect("it ends well");
        observer.record_timeline(Duration::from_millis(200));
        !jobs().is_empty()
    });
    eventually("nothing is recorded any more", || {
        let id = short(&cluster).wait().map(|_| observer.jobs().len() as u64 - 1).expect("it ends well");
        !jobs().contains(&id)
    });
    observer.record_timeline(Duration::from_secs(60));
    assert!(jobs().is_empty());
}

#[test]
fn what_tasks_wait_for_is_seen_though_none_of_them_takes_a_step() {
    let cluster = cluster(64 * MIB);
    let observer = cluster.observer();
    let gate = Gate::shut();
    let job = gated(&cluster, &gate);
    eventually("all is held up", || {
        let tasks = job.metrics().tasks;
        !tasks.is_empty()
            && tasks.iter().all(|task| task.state == TaskState::Parked || task.state == TaskState::Blocked)
    });
    observer.record_timeline(Duration::from_secs(60));
    let gaps = || observer.timeline().gaps;
    eventually("it is seen", || gaps().iter().all(|(.., gaps)| !gaps.is_empty()));
    for (worker, thread, gaps) in gaps() {
        assert_eq!((gaps.len(), gaps[0].why, thread), (1, SpanEnd::Parked, 0), "worker {worker}: {gaps:?}");
    }
    gate.let_through(3);
    eventually("steps", || observer.timeline().threads.iter().any(|(.., spans)| !spans.is_empty()));
    let timeline = observer.timeline();
    for ((.., spans), (.., gaps)) in timeline.threads.iter().zip(&timeline.gaps) {
        let steps = spans.iter().map(|span| (span.start, span.length));
        let mut all: Vec<_> = steps.chain(gaps.iter().map(|gap| (gap.start, gap.length))).collect();
        all.sort_unstable();
        assert!(all.windows(2).all(|pair| pair[0].0 + pair[0].1 <= pair[1].0), "they overlap: {all:?}");
        assert!(all.last().is_none_or(|&(start, length)| start + length <= timeline.now));
    }
    // What has been cancelled waits for nothing.
    drop(job);
    eventually("it has ended", || observer.jobs()[0].ended_at().is_some());
    let timeline = observer.timeline();
    for ((.., spans), (.., gaps)) in timeline.threads.iter().zip(&timeline.gaps) {
        let ended = spans.iter().map(|span| span.start + span.length).max().unwrap_or_default();
        assert!(gaps.iter().all(|gap| gap.start + gap.length <= ended), "{gaps:?}");
    }
}

#[test]
fn a_step_in_progress_is_seen_before_it_ends() {
    let cluster = cluster(64 * MIB);
    let observer = cluster.observer();
    observer.record_timeline(Duration::from_secs(60));
    let gate = Gate::shut();
    let mut graph = Graph::new();
    let source = graph.source("numbers", NumbersSource::new(10));
    let held = gate.clone();
    let slow = graph.map("slow", source.gather(), move |batch| {
        held.pass().into_iter().for_each(|ticket| ticket.wait());
        Ok(batch)
    });
    graph.sink("counted", CountingSink::new(), slow);
    let job = cluster.run(&graph).expect("it starts");
    assert!(gate.wait_until_refused(1, Duration::from_secs(10)), "it runs");
    let timeline = observer.timeline();
    let last: Vec<_> = timeline.threads.iter().filter_map(|(.., spans)| spans.last()).collect();
    let running: Vec<_> = last.into_iter().filter(|span| span.end == SpanEnd::Running).collect();
    assert_eq!(running.iter().map(|span| &*span.node).collect::<Vec<_>>(), ["slow"], "{timeline:?}");
    assert_eq!(running[0].start + running[0].length, timeline.now);
    gate.open();
    job.wait().expect("it ends well");
    let timeline = observer.timeline();
    assert!(timeline.threads.iter().flat_map(|(.., spans)| spans).all(|span| span.end != SpanEnd::Running));
}
