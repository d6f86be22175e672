//! What each thread ran when: steps of tasks, recorded only while somebody asks for them.
//!
//! Each thread has a ring of its newest steps, written by that thread alone, so its lock is free but while a reader
//! copies it. Off, a step costs one look at a flag.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::Mutex;
use serde::Serialize;

use crate::config::ClusterConfig;
use crate::metrics::{seconds, text};
use crate::task::TaskShared;

/// Steps that are kept for each thread.
const SPANS: usize = 4096;

/// How a step ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SpanEnd {
    /// There was more to do.
    Again,
    /// It waits for input.
    Idle,
    /// It waits for room at a receiver.
    Parked,
    /// It waits for memory.
    Memory,
    /// It waits for something outside.
    Blocked,
    /// The task has ended.
    Ended,
}

/// One step of a task.
#[derive(Debug, Clone, Serialize)]
pub struct Span {
    /// Number of the job.
    pub job: u64,
    /// The task's nodes, from first to last.
    #[serde(serialize_with = "text")]
    pub name: Arc<str>,
    /// Its partition.
    pub partition: usize,
    /// The node whose code ran last.
    #[serde(serialize_with = "text")]
    pub node: Arc<str>,
    /// When it began, on the cluster's clock.
    #[serde(rename = "start_seconds", serialize_with = "seconds")]
    pub start: Duration,
    /// How long it took.
    #[serde(rename = "length_seconds", serialize_with = "seconds")]
    pub length: Duration,
    /// How it ended.
    pub end: SpanEnd,
}

/// What an I/O thread did for spilled state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DiskWork {
    /// It wrote a frame.
    Spill,
    /// It read a frame and decoded it.
    Read,
}

/// One frame on its way to disk or back.
#[derive(Debug, Clone, Serialize)]
pub struct DiskSpan {
    /// Number of the job; `None` for rows that outlive theirs.
    pub job: Option<u64>,
    /// Whose state it is.
    #[serde(serialize_with = "text")]
    pub holder: Arc<str>,
    /// Which way it goes.
    pub work: DiskWork,
    /// Bytes of the frame.
    pub bytes: u64,
    /// When it began, on the cluster's clock.
    #[serde(rename = "start_seconds", serialize_with = "seconds")]
    pub start: Duration,
    /// How long it took.
    #[serde(rename = "length_seconds", serialize_with = "seconds")]
    pub length: Duration,
}

/// What was recorded: by worker and thread, each in order of time.
#[derive(Debug, Clone, Serialize)]
pub struct Timeline {
    /// Worker, thread and steps of each.
    pub threads: Vec<(usize, usize, Vec<Span>)>,
    /// Worker and what its I/O threads did for spilled state, several of them at a time.
    pub disks: Vec<(usize, Vec<DiskSpan>)>,
}

fn push<T>(ring: &mut VecDeque<T>, span: T) {
    if ring.len() >= SPANS {
        ring.pop_front();
    }
    ring.push_back(span);
}

/// Records steps while it is asked to.
pub(crate) struct Recorder {
    /// Nanoseconds on the clusters' clock until when steps are recorded; 0 if none are.
    until_ns: AtomicU64,
    /// Asked for, and to begin with the next step that comes.
    wanted_ns: AtomicU64,
    threads: Vec<Mutex<VecDeque<Span>>>,
    /// By worker.
    disks: Vec<Mutex<VecDeque<DiskSpan>>>,
}

impl Recorder {
    pub(crate) fn new(workers: usize, threads: usize) -> Self {
        let (until_ns, wanted_ns) = (AtomicU64::new(0), AtomicU64::new(0));
        let threads = (0..threads).map(|_| Mutex::default()).collect();
        Self { until_ns, wanted_ns, threads, disks: (0..workers).map(|_| Mutex::default()).collect() }
    }

    pub(crate) fn record_for(&self, time: Duration) {
        self.wanted_ns.store(time.as_nanos() as u64, Relaxed);
        self.until_ns.store(u64::MAX, Relaxed);
    }

    /// Whether to call [`Recorder::add`].
    pub(crate) fn is_on(&self) -> bool {
        self.until_ns.load(Relaxed) > 0
    }

    pub(crate) fn add(&self, job: u64, task: &TaskShared, thread: usize, span: (Duration, Duration), end: SpanEnd) {
        let (start, finish) = span;
        if !self.is_wanted(finish) {
            return;
        }
        let Some(ring) = self.threads.get(thread) else { return };
        let span = Span {
            job,
            name: task.label(),
            partition: task.partition,
            node: Arc::clone(&task.nodes[task.at()].0),
            start,
            length: finish.saturating_sub(start),
            end,
        };
        push(&mut ring.lock(), span);
    }

    pub(crate) fn add_disk(&self, worker: usize, span: DiskSpan) {
        if let (Some(ring), true) = (self.disks.get(worker), self.is_wanted(span.start + span.length)) {
            push(&mut ring.lock(), span);
        }
    }

    /// Whether what ended at `finish` is to be recorded. The time that was asked for begins with the first that comes.
    fn is_wanted(&self, finish: Duration) -> bool {
        let wanted_ns = self.wanted_ns.swap(0, Relaxed);
        if wanted_ns > 0 {
            self.until_ns.store(finish.as_nanos() as u64 + wanted_ns, Relaxed);
        } else if finish.as_nanos() as u64 > self.until_ns.load(Relaxed) {
            self.until_ns.store(0, Relaxed);
            return false;
        }
        true
    }

    pub(crate) fn timeline(&self, config: &ClusterConfig) -> Timeline {
        let spans = self.threads.iter().enumerate().map(|(index, ring)| {
            let place = (index / config.threads_per_worker, index % config.threads_per_worker);
            (place.0, place.1, ring.lock().iter().cloned().collect())
        });
        let disks = self.disks.iter().enumerate().map(|(worker, ring)| (worker, ring.lock().iter().cloned().collect()));
        Timeline { threads: spans.collect(), disks: disks.collect() }
    }
}
