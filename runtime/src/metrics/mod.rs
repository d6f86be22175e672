//! What a running job counts, and the snapshot of it that people and programs read.
//!
//! Counters are written by one task each, so relaxed atomics do; a snapshot may be torn by one step. What is
//! derived from snapshots ([`bottleneck`], [`Analysis`]) is a function of them alone.

mod analysis;
mod bottleneck;
mod snapshot;
mod window;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use serde::{Serialize, Serializer};

pub use analysis::{Analysis, OperatorAnalysis, StageAnalysis, grouped};
pub use bottleneck::{Bottleneck, Cause, bottleneck};

use crate::memory::MemoryPool;
use crate::plan::{Edge, NodeRole, Plan, PlanNode};

/// Counters of one edge, shared by its ports.
#[derive(Debug, Default)]
pub(crate) struct EdgeCounters {
    pub(crate) rows: AtomicU64,
    pub(crate) batches: AtomicU64,
    pub(crate) bytes: AtomicU64,
    pub(crate) spooled_bytes: AtomicU64,
    /// Nanoseconds that its senders were parked on it.
    pub(crate) parked_ns: AtomicU64,
}

/// Counters of one node at one partition.
#[derive(Debug, Default)]
pub(crate) struct NodeCounters {
    pub(crate) rows_in: AtomicU64,
    pub(crate) batches_in: AtomicU64,
    pub(crate) rows_out: AtomicU64,
    pub(crate) batches_out: AtomicU64,
    pub(crate) bytes_out: AtomicU64,
    pub(crate) busy_ns: AtomicU64,
    /// Time that its task waited there for something outside, spilled state apart.
    pub(crate) outside_ns: AtomicU64,
    /// Time that its task waited there for spilled state to be written or read.
    pub(crate) disk_ns: AtomicU64,
    /// Counted by the instance's spill space.
    pub(crate) spilled_bytes: Arc<AtomicU64>,
}

/// Counters of one task.
#[derive(Debug, Default)]
pub(crate) struct TaskCounters {
    pub(crate) steps: AtomicU64,
    pub(crate) running_ns: AtomicU64,
    pub(crate) busy_ns: AtomicU64,
    pub(crate) idle_ns: AtomicU64,
    pub(crate) parked_ns: AtomicU64,
    pub(crate) memory_ns: AtomicU64,
    pub(crate) blocked_ns: AtomicU64,
    /// Bytes of source splits read to their end.
    pub(crate) source_bytes: AtomicU64,
}

pub(crate) fn add(counter: &AtomicU64, value: u64) {
    counter.fetch_add(value, Relaxed);
}

pub(crate) fn add_time(counter: &AtomicU64, time: Duration) {
    counter.fetch_add(time.as_nanos() as u64, Relaxed);
}

/// Times are seconds in what programs read.
pub(crate) fn seconds<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(time.as_micros() as f64 / 1e6)
}

/// A shared text is a text like any other.
pub(crate) fn text<S: Serializer>(text: &Arc<str>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(text)
}

pub(crate) fn time(counter: &AtomicU64) -> Duration {
    Duration::from_nanos(counter.load(Relaxed))
}

/// Where a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// It waits for memory that other jobs hold.
    Waiting,
    /// Its tasks run.
    Running,
    /// It ended well, and its sinks are committed.
    Finished,
    /// It ended with an error.
    Failed,
    /// It was cancelled.
    Cancelled,
}

impl JobState {
    /// Its name, as in what programs read.
    pub fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Running => "running",
            Self::Finished => "finished",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether it has ended, well or not.
    pub fn is_over(self) -> bool {
        matches!(self, Self::Finished | Self::Failed | Self::Cancelled)
    }
}

/// A snapshot of a job.
#[derive(Debug, Clone, Serialize)]
pub struct JobMetrics {
    /// Where the job stands.
    pub state: JobState,
    /// Since its start.
    #[serde(rename = "elapsed_seconds", serialize_with = "seconds")]
    pub elapsed: Duration,
    /// One entry per node, in the order of declaration; sums over partitions.
    pub nodes: Vec<NodeMetrics>,
    /// One entry per edge.
    pub edges: Vec<EdgeMetrics>,
    /// One entry per task: a chain of fused nodes at one partition.
    pub tasks: Vec<TaskMetrics>,
    /// One entry per worker.
    pub workers: Vec<WorkerMetrics>,
    /// Cycles of waits that the watchdog has found and resolved, in words. Empty unless a plan is wrong.
    pub deadlocks: Vec<String>,
    /// Bytes of source splits read so far.
    pub source_bytes_done: u64,
    /// Bytes that the sources will read, if all of them know.
    pub source_bytes_total: Option<u64>,
}

/// A snapshot of a node, summed over its partitions.
#[derive(Debug, Clone, Default, Serialize)]
pub struct NodeMetrics {
    /// Name of the node.
    pub name: String,
    /// Kind of operator.
    pub kind: String,
    /// Number of partitions.
    pub partitions: usize,
    /// Rows taken in.
    pub rows_in: u64,
    /// Batches taken in.
    pub batches_in: u64,
    /// Rows emitted.
    pub rows_out: u64,
    /// Batches emitted.
    pub batches_out: u64,
    /// Bytes emitted.
    pub bytes_out: u64,
    /// Where in the graph it stands.
    pub role: NodeRole,
    /// Its stage; `None` if the caller reads it.
    pub stage: Option<usize>,
    /// Time spent in the node's code, summed over partitions.
    #[serde(rename = "busy_seconds", serialize_with = "seconds")]
    pub busy: Duration,
    /// Time that its tasks waited there for something outside, such as a read, spilled state apart.
    #[serde(rename = "outside_seconds", serialize_with = "seconds")]
    pub outside: Duration,
    /// Time that its tasks waited there for spilled state to be written or read back.
    #[serde(rename = "disk_seconds", serialize_with = "seconds")]
    pub disk: Duration,
    /// Bytes of state held now.
    pub state_bytes: usize,
    /// Most bytes of state held, summed over partitions.
    pub peak_state_bytes: usize,
    /// Bytes of state that were written to disk.
    pub spilled_bytes: u64,
}

/// A snapshot of an edge.
#[derive(Debug, Clone, Default, Serialize)]
pub struct EdgeMetrics {
    /// Index of the sending node.
    pub from_node: usize,
    /// Index of the receiving node.
    pub to_node: usize,
    /// Name of the sending node.
    pub from: String,
    /// Name of the receiving node.
    pub to: String,
    /// The exchange, as in `explain`.
    pub exchange: String,
    /// Rows sent.
    pub rows: u64,
    /// Batches sent.
    pub batches: u64,
    /// Bytes sent.
    pub bytes: u64,
    /// Bytes that wait in its ports.
    pub queued_bytes: usize,
    /// Bytes that its ports may hold.
    pub capacity_bytes: usize,
    /// How full the fullest of its ports is, as a share: one that is full holds senders up, however empty others are.
    pub fullest: f64,
    /// Time that its senders were parked on it, summed over senders.
    #[serde(rename = "parked_seconds", serialize_with = "seconds")]
    pub parked: Duration,
    /// Bytes that went through the disk.
    pub spooled_bytes: u64,
}

/// A snapshot of a task.
#[derive(Debug, Clone, Serialize)]
pub struct TaskMetrics {
    /// Names of its nodes, from first to last.
    pub name: String,
    /// Its stage.
    pub stage: usize,
    /// Its partition.
    pub partition: usize,
    /// Its worker.
    pub worker: usize,
    /// Its thread, among those of the worker.
    pub thread: usize,
    /// Steps run.
    pub steps: u64,
    /// What it does now.
    pub state: TaskState,
    /// What it waits for outside the dataflow, if it does.
    pub blocked_on: Option<&'static str>,
    /// Time that it ran.
    #[serde(rename = "running_seconds", serialize_with = "seconds")]
    pub running: Duration,
    /// Time that it ran, or could have: the wait for its turn on its thread is part of it.
    #[serde(rename = "busy_seconds", serialize_with = "seconds")]
    pub busy: Duration,
    /// Time spent waiting for input.
    #[serde(rename = "idle_seconds", serialize_with = "seconds")]
    pub idle: Duration,
    /// Time spent parked: waiting for room at a receiver.
    #[serde(rename = "parked_seconds", serialize_with = "seconds")]
    pub parked: Duration,
    /// Time spent waiting for memory.
    #[serde(rename = "waiting_for_memory_seconds", serialize_with = "seconds")]
    pub waiting_for_memory: Duration,
    /// Time spent waiting for a disk, a gate, or another thing outside.
    #[serde(rename = "blocked_seconds", serialize_with = "seconds")]
    pub blocked: Duration,
    /// Its share of each of its nodes.
    pub nodes: Vec<TaskNodeMetrics>,
}

/// A snapshot of a node at one partition.
#[derive(Debug, Clone, Default, Serialize)]
pub struct TaskNodeMetrics {
    /// Index of the node.
    pub node: usize,
    /// Rows taken in.
    pub rows_in: u64,
    /// Rows emitted.
    pub rows_out: u64,
    /// Time spent in the node's code.
    #[serde(rename = "busy_seconds", serialize_with = "seconds")]
    pub busy: Duration,
    /// Time waited there for something outside, spilled state apart.
    #[serde(rename = "outside_seconds", serialize_with = "seconds")]
    pub outside: Duration,
    /// Time waited there for spilled state.
    #[serde(rename = "disk_seconds", serialize_with = "seconds")]
    pub disk: Duration,
    /// Bytes of state held now.
    pub state_bytes: usize,
    /// Bytes of state written to disk.
    pub spilled_bytes: u64,
}

/// What a task does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskState {
    /// It runs or is about to.
    Busy,
    /// It waits for input.
    Idle,
    /// It waits for room at a receiver.
    Parked,
    /// It waits for memory.
    WaitingForMemory,
    /// It waits for something outside the dataflow.
    Blocked,
    /// It has ended.
    Ended,
}

/// A snapshot of a worker.
#[derive(Debug, Clone, Serialize)]
pub struct WorkerMetrics {
    /// The limit.
    pub limit_bytes: usize,
    /// Bytes charged now, by all jobs.
    pub charged_bytes: usize,
    /// Most bytes charged so far.
    pub peak_bytes: usize,
    /// How often a wrong estimate took the worker over its limit for a moment.
    pub overruns: usize,
    /// Bytes that this job has spilled and spooled here.
    pub spilled_bytes: u64,
}

impl NodeMetrics {
    pub(crate) fn of(node: &PlanNode) -> Self {
        Self {
            name: node.name.to_string(),
            kind: node.kind.name().to_string(),
            partitions: node.partitions,
            role: NodeRole::of(&node.kind),
            ..Self::default()
        }
    }

    pub(crate) fn add(&mut self, counters: &NodeCounters) {
        self.rows_in += counters.rows_in.load(Relaxed);
        self.batches_in += counters.batches_in.load(Relaxed);
        self.rows_out += counters.rows_out.load(Relaxed);
        self.batches_out += counters.batches_out.load(Relaxed);
        self.bytes_out += counters.bytes_out.load(Relaxed);
        self.busy += time(&counters.busy_ns);
        self.outside += time(&counters.outside_ns);
        self.disk += time(&counters.disk_ns);
        self.spilled_bytes += counters.spilled_bytes.load(Relaxed);
    }
}

impl EdgeMetrics {
    pub(crate) fn of(plan: &Plan, edge: &Edge) -> Self {
        Self {
            from_node: edge.from,
            to_node: edge.to,
            from: plan.nodes[edge.from].name.to_string(),
            to: plan.nodes[edge.to].name.to_string(),
            exchange: edge.exchange.to_string(),
            ..Self::default()
        }
    }
}

impl WorkerMetrics {
    pub(crate) fn of(pool: &MemoryPool) -> Self {
        Self {
            limit_bytes: pool.limit(),
            charged_bytes: pool.charged(),
            peak_bytes: pool.peak(),
            overruns: pool.overruns(),
            spilled_bytes: 0,
        }
    }
}
