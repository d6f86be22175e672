//! The jobs of a cluster: weak handles to those that are there, plain data of those that have ended.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use serde::Serialize;

use crate::error::ExecutionError;
use crate::job::JobCore;
use crate::metrics::{JobMetrics, JobState, seconds};
use crate::observe::{JobLife, ObservedJob};
use crate::plan::PlanShape;

/// Jobs that a history has at the most.
pub const HISTORY_JOBS: usize = 200;
/// Bytes that a history takes at the most, about. The newest job is kept whatever its size.
pub const HISTORY_BYTES: usize = 16 << 20;
/// Bytes of an operator's description that a history keeps.
const DETAIL_BYTES: usize = 2000;
/// Bytes of an error that a history keeps.
const ERROR_BYTES: usize = 10_000;

/// What all jobs of a cluster have counted so far, those that are forgotten included.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Totals {
    /// Jobs that ended well.
    pub finished: u64,
    /// Jobs that ended with an error.
    pub failed: u64,
    /// Jobs that were cancelled.
    pub cancelled: u64,
    /// Rows that sources have emitted.
    pub source_rows: u64,
    /// Bytes that sources have read.
    pub source_bytes: u64,
    /// Bytes of state written to disk.
    pub spilled_bytes: u64,
    /// Bytes of edges written to disk.
    pub spooled_bytes: u64,
    /// Time that tasks ran.
    #[serde(rename = "running_seconds", serialize_with = "seconds")]
    pub running: Duration,
}

impl Totals {
    fn add(&mut self, metrics: &JobMetrics) {
        match metrics.state {
            JobState::Finished => self.finished += 1,
            JobState::Failed => self.failed += 1,
            JobState::Cancelled => self.cancelled += 1,
            JobState::Waiting | JobState::Running => {}
        }
        self.source_rows += metrics.source_rows();
        self.source_bytes += metrics.source_bytes_done;
        self.spilled_bytes += metrics.nodes.iter().map(|node| node.spilled_bytes).sum::<u64>();
        self.spooled_bytes += metrics.edges.iter().map(|edge| edge.spooled_bytes).sum::<u64>();
        self.running += metrics.tasks.iter().map(|task| task.running).sum::<Duration>();
    }
}

/// What is left of a job that has ended.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) id: u64,
    pub(crate) submitted: SystemTime,
    pub(crate) ended: SystemTime,
    pub(crate) shape: Arc<PlanShape>,
    pub(crate) metrics: Arc<JobMetrics>,
    pub(crate) error: Option<String>,
    pub(crate) life: Arc<JobLife>,
    bytes: usize,
}

/// The jobs of a cluster.
#[derive(Default)]
pub(crate) struct JobLog(Mutex<State>);

#[derive(Default)]
struct State {
    live: Vec<Weak<JobCore>>,
    records: VecDeque<Arc<Record>>,
    bytes: usize,
    totals: Totals,
}

impl Record {
    fn of(core: &JobCore, metrics: Arc<JobMetrics>, error: Option<&ExecutionError>) -> Self {
        let mut shape = core.plan.shape();
        shape.shorten_details(DETAIL_BYTES);
        let error = error.map(|error| {
            let mut text = error.to_string();
            text.truncate(text.floor_char_boundary(ERROR_BYTES));
            text
        });
        let life = Arc::new(core.life());
        let bytes = size_of::<Self>() + shape.size_bytes() + size_of_metrics(&metrics) + life.size_bytes();
        let bytes = bytes + error.as_ref().map_or(0, String::len);
        let (id, submitted) = (core.id, core.submitted);
        Self { id, submitted, ended: SystemTime::now(), shape: Arc::new(shape), metrics, error, life, bytes }
    }

    /// Whether it ended well, and else how.
    pub(crate) fn state(&self) -> JobState {
        self.metrics.state
    }
}

/// Bytes that a snapshot takes, about.
fn size_of_metrics(metrics: &JobMetrics) -> usize {
    let nodes: usize = metrics.nodes.iter().map(|node| size_of_val(node) + node.name.len() + node.kind.len()).sum();
    let edges = metrics.edges.iter();
    let edges: usize =
        edges.map(|edge| size_of_val(edge) + edge.from.len() + edge.to.len() + edge.exchange.len()).sum();
    let tasks = metrics.tasks.iter();
    let tasks: usize = tasks.map(|task| size_of_val(task) + task.name.len() + size_of_val(&task.nodes[..])).sum();
    let cycles: usize = metrics.deadlocks.iter().map(String::len).sum();
    size_of_val(metrics) + nodes + edges + tasks + size_of_val(&metrics.workers[..]) + cycles
}

impl JobLog {
    pub(crate) fn add(&self, core: &Arc<JobCore>) {
        let mut state = self.0.lock();
        state.live.retain(|job| job.strong_count() > 0);
        state.live.push(Arc::downgrade(core));
    }

    /// Turns a job into a record. Called before anybody is told that it has ended.
    pub(crate) fn end(&self, core: &JobCore, metrics: Arc<JobMetrics>, error: Option<&ExecutionError>) {
        let record = Record::of(core, metrics, error);
        let mut forgotten = Vec::new();
        let mut state = self.0.lock();
        state.live.retain(|job| !std::ptr::eq(job.as_ptr(), core));
        state.totals.add(&record.metrics);
        state.bytes += record.bytes;
        state.records.push_back(Arc::new(record));
        while state.records.len() > HISTORY_JOBS || (state.bytes > HISTORY_BYTES && state.records.len() > 1) {
            let Some(oldest) = state.records.pop_front() else { break };
            state.bytes -= oldest.bytes;
            forgotten.push(oldest);
        }
        // What is forgotten is freed without the lock.
        drop(state);
        drop(forgotten);
    }

    pub(crate) fn jobs(&self) -> Vec<ObservedJob> {
        let state = self.0.lock();
        let live = state.live.iter().filter_map(Weak::upgrade).map(ObservedJob::live);
        let mut jobs: Vec<_> =
            state.records.iter().map(|job| ObservedJob::ended(Arc::clone(job))).chain(live).collect();
        drop(state);
        jobs.sort_by_key(ObservedJob::id);
        jobs
    }

    pub(crate) fn job(&self, id: u64) -> Option<ObservedJob> {
        self.jobs().into_iter().find(|job| job.id() == id)
    }

    pub(crate) fn totals(&self) -> Totals {
        // Both under one lock: a job counts as one that has ended or as one that has not.
        let (mut totals, live) = {
            let state = self.0.lock();
            (state.totals, state.live.iter().filter_map(Weak::upgrade).collect::<Vec<_>>())
        };
        for job in live {
            // Whether it has ended well is known once it is a record.
            totals.add(&JobMetrics { state: JobState::Running, ..job.metrics() });
        }
        totals
    }

    /// Jobs that wait or run, by id: the order in which they wait.
    pub(crate) fn running(&self) -> Vec<Arc<JobCore>> {
        let mut jobs: Vec<_> = self.0.lock().live.iter().filter_map(Weak::upgrade).collect();
        jobs.sort_by_key(|job| job.id);
        jobs
    }

    pub(crate) fn cancel(&self, id: u64) -> bool {
        let job = self.running().into_iter().find(|job| job.id == id);
        if let Some(job) = &job {
            job.fail(ExecutionError::Cancelled);
        }
        job.is_some()
    }

    #[cfg(test)]
    pub(crate) fn bytes(&self) -> usize {
        self.0.lock().bytes
    }
}
