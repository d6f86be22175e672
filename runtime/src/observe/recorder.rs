//! Records what threads do while somebody asks for it.
//!
//! Each thread has a ring of its newest steps, written by that thread alone, so its lock is free but while a reader
//! copies it. Off, a step costs one look at a flag. A recording that begins forgets the one before.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::Mutex;

use super::timeline::{DiskSpan, DiskWork, Span, SpanEnd, Timeline, Waits, gaps, task_of};
use crate::config::ClusterConfig;
use crate::job::JobCore;
use crate::task::{Clock, TaskShared, Waiting};

/// Steps that are kept for each thread, and pieces of work for the I/O threads of each worker.
const SPANS: usize = 4096;

/// Records steps while it is asked to.
pub(crate) struct Recorder {
    clock: Arc<dyn Clock>,
    /// Nanoseconds on the cluster's clock until when steps are recorded; 0 if none are.
    until_ns: AtomicU64,
    /// When the recording began.
    since_ns: AtomicU64,
    threads: Vec<Mutex<VecDeque<Span>>>,
    /// By worker.
    disks: Vec<Mutex<VecDeque<DiskSpan>>>,
}

fn push<T>(ring: &mut VecDeque<T>, span: T) {
    if ring.len() >= SPANS {
        ring.pop_front();
    }
    ring.push_back(span);
}

fn ns(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

impl Recorder {
    pub(crate) fn new(workers: usize, threads: usize, clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            until_ns: AtomicU64::new(0),
            since_ns: AtomicU64::new(0),
            threads: (0..threads).map(|_| Mutex::default()).collect(),
            disks: (0..workers).map(|_| Mutex::default()).collect(),
        }
    }

    /// Records for so long, or longer if somebody else has asked for that.
    pub(crate) fn record_for(&self, time: Duration) {
        let now = self.clock.now();
        if self.until_ns.load(Relaxed) < ns(now) {
            self.threads.iter().for_each(|ring| ring.lock().clear());
            self.disks.iter().for_each(|ring| ring.lock().clear());
            self.since_ns.store(ns(now), Relaxed);
        }
        self.until_ns.fetch_max(ns(now.saturating_add(time)).max(1), Relaxed);
    }

    /// Whether to call [`Recorder::add`].
    pub(crate) fn is_on(&self) -> bool {
        self.until_ns.load(Relaxed) > 0
    }

    pub(crate) fn add(&self, job: u64, task: &TaskShared, thread: usize, span: (Duration, Duration), end: SpanEnd) {
        let (start, finish) = span;
        if let (Some(ring), true) = (self.threads.get(thread), self.is_wanted(finish)) {
            push(&mut ring.lock(), step(job, task, (start, finish), end));
        }
    }

    fn add_disk(&self, worker: usize, span: DiskSpan) {
        if let (Some(ring), true) = (self.disks.get(worker), self.is_wanted(span.start + span.length)) {
            push(&mut ring.lock(), span);
        }
    }

    /// Whether what ended at `finish` is to be recorded.
    fn is_wanted(&self, finish: Duration) -> bool {
        let until_ns = self.until_ns.load(Relaxed);
        let wanted = ns(finish) <= until_ns;
        if !wanted {
            // Unless somebody has just asked for more.
            let _ = self.until_ns.compare_exchange(until_ns, 0, Relaxed, Relaxed);
        }
        wanted
    }

    /// What was recorded. `jobs` are those that run: what their tasks do now is part of it.
    pub(crate) fn timeline(&self, config: &ClusterConfig, jobs: &[Arc<JobCore>]) -> Timeline {
        let mut threads: Vec<Vec<Span>> =
            self.threads.iter().map(|ring| ring.lock().iter().cloned().collect()).collect();
        let disks = self.disks.iter().enumerate().map(|(worker, ring)| (worker, ring.lock().iter().cloned().collect()));
        let disks = disks.collect();
        let now = self.clock.now();
        let mut waits: Vec<Vec<Waits>> = threads.iter().map(|_| Vec::new()).collect();
        if self.is_on() {
            let since = Duration::from_nanos(self.since_ns.load(Relaxed));
            self.add_present(config, jobs, (since, now), &mut threads, &mut waits);
        }
        let place = |index: usize| (index / config.threads_per_worker, index % config.threads_per_worker);
        let gaps = threads.iter().zip(waits).enumerate().map(|(index, (steps, waits))| {
            // Where nothing is recorded any more, nothing is known after the last step.
            let end = if self.is_on() { now } else { steps.last().map_or(now, |step| step.start + step.length) };
            (place(index).0, place(index).1, gaps(steps, waits, end))
        });
        let gaps = gaps.collect();
        let threads = threads.into_iter().enumerate().map(|(index, steps)| (place(index).0, place(index).1, steps));
        Timeline { now, threads: threads.collect(), gaps, disks }
    }

    /// Adds steps that are in progress to `threads`, and to `waits` what tasks wait for.
    fn add_present(
        &self,
        config: &ClusterConfig,
        jobs: &[Arc<JobCore>],
        (since, now): (Duration, Duration),
        threads: &mut [Vec<Span>],
        waits: &mut [Vec<Waits>],
    ) {
        let mut running: Vec<Option<Span>> = threads.iter().map(|_| None).collect();
        let mut look = |job: u64, thread: usize, task: &TaskShared| {
            let (waiting, began) = task.current();
            let (Some(running), Some(steps)) = (running.get_mut(thread), threads.get(thread)) else { return };
            let why = match waiting {
                Waiting::Running => {
                    // One that could run is not the one that does: of those the last to begin is.
                    let newest = running.as_ref().or(steps.last()).map_or(Duration::ZERO, |step| step.start);
                    if began > newest && began < now {
                        *running = Some(step(job, task, (began, now), SpanEnd::Running));
                    }
                    return;
                }
                Waiting::Input(_) => SpanEnd::Idle,
                Waiting::Room(_) => SpanEnd::Parked,
                Waiting::Memory(_) => SpanEnd::Memory,
                Waiting::Task | Waiting::Outside(_) => SpanEnd::Blocked,
                Waiting::Ended => return,
            };
            waits[thread].push((began.max(since), task_of(&task.label()), why));
        };
        for core in jobs {
            core.with_running(|running| {
                for task in &running.tasks {
                    let (worker, thread) = core.plan.arbiter(task.partition);
                    look(core.id, worker * config.threads_per_worker + thread, task);
                }
            });
        }
        for (steps, running) in threads.iter_mut().zip(running) {
            steps.extend(running);
        }
    }
}

fn step(job: u64, task: &TaskShared, (start, finish): (Duration, Duration), end: SpanEnd) -> Span {
    Span {
        job,
        name: task.label(),
        partition: task.partition,
        node: Arc::clone(&task.nodes[task.at()].0),
        start,
        length: finish.saturating_sub(start),
        end,
    }
}

/// Where the work of a worker's I/O threads is recorded on request.
#[derive(Clone)]
pub(crate) struct DiskRecorder {
    pub(crate) recorder: Arc<Recorder>,
    pub(crate) worker: usize,
}

/// Whose work it is, and of which kind.
#[derive(Debug, Clone)]
pub(crate) struct DiskUser {
    pub(crate) job: Option<u64>,
    pub(crate) holder: Arc<str>,
    pub(crate) work: DiskWork,
}

impl DiskRecorder {
    /// Does `io`, and records it if that is asked for.
    pub(crate) fn record<T>(&self, user: impl FnOnce() -> DiskUser, bytes: Option<u64>, io: impl FnOnce() -> T) -> T {
        if !self.recorder.is_on() {
            return io();
        }
        let start = self.recorder.clock.now();
        let done = io();
        let length = self.recorder.clock.now().saturating_sub(start);
        let DiskUser { job, holder, work } = user();
        self.recorder.add_disk(self.worker, DiskSpan { job, holder, work, bytes, start, length });
        done
    }
}

impl std::fmt::Debug for DiskRecorder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DiskRecorder").field("worker", &self.worker).finish_non_exhaustive()
    }
}
