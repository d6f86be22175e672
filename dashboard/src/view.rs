//! What pages and programs are shown: plain data, made of what an observer sees. Times are seconds or, of a clock,
//! milliseconds since 1970.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use aqueduct_runtime::Observer;
use aqueduct_runtime::metrics::{Bottleneck, JobMetrics, JobState, TaskMetrics, TaskState, bottleneck};
use aqueduct_runtime::observe::{
    HolderKind, MemoryCounts, MemoryEvent, MemoryHolder, MemoryWait, ObservedJob, WorkerMemory,
};
use aqueduct_runtime::plan::{NodeRole, PlanShape};
use serde::Serialize;

/// Holders that are shown of each worker, and events of its memory.
const HOLDERS: usize = 12;
/// Partitions of a node that are shown beside each other; more are put together.
const STRIP: usize = 64;

/// The whole cluster.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Overview {
    pub(crate) time_ms: u64,
    pub(crate) started_ms: u64,
    pub(crate) closed: bool,
    pub(crate) workers: Vec<WorkerView>,
    pub(crate) totals: aqueduct_runtime::observe::Totals,
    /// Those that wait and run, and the last that ended; the newest first.
    pub(crate) jobs: Vec<JobSummary>,
}

/// A worker and who holds its memory.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct WorkerView {
    pub(crate) limit_bytes: usize,
    pub(crate) charged_bytes: usize,
    pub(crate) peak_bytes: usize,
    pub(crate) overruns: usize,
    /// Bytes that are charged.
    pub(crate) charged: Kinds,
    /// Bytes of it that are held: the rest is promised.
    pub(crate) held: Kinds,
    /// Share of the time in which each thread ran tasks; empty where there is nothing to compare with.
    pub(crate) threads: Vec<f64>,
    pub(crate) holders: Vec<MemoryHolder>,
    pub(crate) counts: MemoryCounts,
    pub(crate) events: Vec<MemoryEvent>,
}

/// Bytes for each kind of holder.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(crate) struct Kinds {
    pub(crate) mailboxes: usize,
    pub(crate) state: usize,
    pub(crate) tasks: usize,
    pub(crate) io: usize,
    pub(crate) spill_buffers: usize,
    pub(crate) other: usize,
}

/// A job in a list.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct JobSummary {
    pub(crate) id: u64,
    pub(crate) title: String,
    pub(crate) state: JobState,
    pub(crate) submitted_ms: u64,
    pub(crate) ended_ms: Option<u64>,
    pub(crate) elapsed_seconds: f64,
    pub(crate) rows: u64,
    pub(crate) bytes: u64,
    pub(crate) total_bytes: Option<u64>,
    pub(crate) rows_per_second: f64,
    pub(crate) bytes_per_second: f64,
    pub(crate) spilled_bytes: u64,
    pub(crate) spooled_bytes: u64,
    pub(crate) bottleneck: Option<Bottleneck>,
    pub(crate) waits_for: Option<MemoryWait>,
    pub(crate) error: Option<String>,
}

/// A job with its graph, as it moves.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct JobFrame {
    pub(crate) time_ms: u64,
    pub(crate) summary: JobSummary,
    pub(crate) nodes: Vec<NodeView>,
    pub(crate) edges: Vec<EdgeView>,
    pub(crate) stages: Vec<StageView>,
    pub(crate) deadlocks: Vec<String>,
}

/// A job with its plan.
#[derive(Debug, Serialize)]
pub(crate) struct JobDetail<'a> {
    pub(crate) shape: &'a PlanShape,
    pub(crate) explain: String,
    pub(crate) frame: JobFrame,
}

/// A node. Shares are those of the time since the frame before.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct NodeView {
    pub(crate) rows_in: u64,
    pub(crate) rows_out: u64,
    pub(crate) bytes_out: u64,
    pub(crate) rows_per_second: f64,
    /// Of the time of the threads that its partitions are on.
    pub(crate) busy: f64,
    pub(crate) busy_seconds: f64,
    pub(crate) state_bytes: usize,
    pub(crate) peak_state_bytes: usize,
    pub(crate) spilled_bytes: u64,
    /// Share of the time that each partition is busy.
    pub(crate) partitions: Vec<f64>,
}

/// An edge. Rates and shares are those since the frame before.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct EdgeView {
    pub(crate) rows: u64,
    pub(crate) batches: u64,
    pub(crate) bytes: u64,
    pub(crate) queued_bytes: usize,
    pub(crate) capacity_bytes: usize,
    /// How full the fullest of its ports is.
    pub(crate) fullest: f64,
    pub(crate) rows_per_second: f64,
    pub(crate) batches_per_second: f64,
    pub(crate) bytes_per_second: f64,
    pub(crate) parked: f64,
    pub(crate) spooled_bytes: u64,
}

/// What the tasks of a stage do, as shares of their time.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct StageView {
    pub(crate) busy: f64,
    pub(crate) idle: f64,
    pub(crate) parked: f64,
    pub(crate) memory: f64,
    pub(crate) blocked: f64,
    pub(crate) ended: usize,
}

/// A node at one partition.
#[derive(Debug, Serialize)]
pub(crate) struct PartitionView {
    pub(crate) partition: usize,
    pub(crate) worker: usize,
    pub(crate) thread: usize,
    pub(crate) state: TaskState,
    pub(crate) blocked_on: Option<&'static str>,
    pub(crate) rows_in: u64,
    pub(crate) rows_out: u64,
    pub(crate) busy_seconds: f64,
    pub(crate) state_bytes: usize,
    pub(crate) spilled_bytes: u64,
}

/// Milliseconds since 1970.
pub(crate) fn millis(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// A number with as many digits as anybody reads.
pub(crate) fn short(number: f64) -> f64 {
    (number * 1000.0).round() / 1000.0
}

fn per_second(count: u64, time: Duration) -> f64 {
    if time.is_zero() { 0.0 } else { short(count as f64 / time.as_secs_f64()) }
}

impl Kinds {
    /// What is charged.
    pub(crate) fn charged(worker: &WorkerMemory) -> Self {
        Self::of(worker, |holder| holder.charged_bytes)
    }

    /// What is held.
    pub(crate) fn held(worker: &WorkerMemory) -> Self {
        Self::of(worker, |holder| holder.held_bytes)
    }

    fn of(worker: &WorkerMemory, bytes: impl Fn(&MemoryHolder) -> usize) -> Self {
        let bytes = |kind| worker.holders.iter().filter(|holder| holder.kind == kind).map(&bytes).sum();
        Self {
            mailboxes: bytes(HolderKind::Mailboxes),
            state: bytes(HolderKind::State),
            tasks: bytes(HolderKind::Tasks),
            io: bytes(HolderKind::Io),
            spill_buffers: bytes(HolderKind::SpillBuffers),
            other: worker.other_bytes,
        }
    }
}

impl WorkerView {
    /// With so many of those who hold most, and so many of the newest events.
    pub(crate) fn of(memory: WorkerMemory, threads: Vec<f64>, most: usize) -> Self {
        let (charged, held) = (Kinds::charged(&memory), Kinds::held(&memory));
        let old = memory.events.len().saturating_sub(most);
        Self {
            limit_bytes: memory.limit_bytes,
            charged_bytes: memory.charged_bytes,
            peak_bytes: memory.peak_bytes,
            overruns: memory.overruns,
            charged,
            held,
            threads,
            holders: memory.holders.into_iter().take(most).collect(),
            counts: memory.counts,
            events: memory.events.into_iter().skip(old).collect(),
        }
    }

    /// Each worker with those who hold most of it.
    pub(crate) fn all(observer: &Observer, mut threads: impl FnMut(usize) -> Vec<f64>) -> Vec<Self> {
        let workers = observer.memory().into_iter().enumerate();
        workers.map(|(index, memory)| Self::of(memory, threads(index), HOLDERS)).collect()
    }
}

impl JobSummary {
    /// `window` is what was counted since the frame before, or since the start.
    pub(crate) fn of(observer: &Observer, job: &ObservedJob, metrics: &JobMetrics, window: &JobMetrics) -> Self {
        let state = metrics.state;
        Self {
            id: job.id(),
            title: job.shape().title(),
            state,
            submitted_ms: millis(job.submitted()),
            ended_ms: job.ended_at().map(millis),
            elapsed_seconds: short(metrics.elapsed.as_secs_f64()),
            rows: metrics.source_rows(),
            bytes: metrics.source_bytes_done,
            total_bytes: metrics.source_bytes_total,
            rows_per_second: per_second(window.source_rows(), window.elapsed),
            bytes_per_second: per_second(window.source_bytes_done, window.elapsed),
            spilled_bytes: metrics.nodes.iter().map(|node| node.spilled_bytes).sum(),
            spooled_bytes: metrics.edges.iter().map(|edge| edge.spooled_bytes).sum(),
            bottleneck: bottleneck(window),
            waits_for: (state == JobState::Waiting).then(|| observer.waits_for(job.id())).flatten(),
            error: job.error(),
        }
    }
}

impl JobFrame {
    pub(crate) fn of(observer: &Observer, job: &ObservedJob, metrics: &JobMetrics, window: &JobMetrics) -> Self {
        let shape = job.shape();
        let elapsed = window.elapsed;
        let busy = busy(window);
        let nodes = metrics.nodes.iter().zip(&window.nodes).enumerate().map(|(index, (node, recent))| {
            let result = node.role == NodeRole::Result;
            let arrived = |metrics: &JobMetrics| -> u64 {
                metrics.edges.iter().filter(|edge| edge.to_node == index).map(|edge| edge.rows).sum()
            };
            let (rows_in, recent_rows) = if result {
                (arrived(metrics), arrived(window))
            } else {
                (node.rows_in, recent.rows_in.max(recent.rows_out))
            };
            let (busy, partitions) = &busy[index];
            NodeView {
                rows_in,
                rows_out: node.rows_out,
                bytes_out: node.bytes_out,
                rows_per_second: per_second(recent_rows, elapsed),
                busy: short(*busy),
                busy_seconds: short(node.busy.as_secs_f64()),
                state_bytes: node.state_bytes,
                peak_state_bytes: node.peak_state_bytes,
                spilled_bytes: node.spilled_bytes,
                partitions: strip(partitions),
            }
        });
        let edges = metrics.edges.iter().zip(&window.edges).map(|(edge, recent)| EdgeView {
            rows: edge.rows,
            batches: edge.batches,
            bytes: edge.bytes,
            queued_bytes: edge.queued_bytes,
            capacity_bytes: edge.capacity_bytes,
            fullest: short(edge.fullest),
            rows_per_second: per_second(recent.rows, elapsed),
            batches_per_second: per_second(recent.batches, elapsed),
            bytes_per_second: per_second(recent.bytes, elapsed),
            parked: short((recent.parked.as_secs_f64() / senders(&shape, edge.from_node) / seconds(elapsed)).min(1.0)),
            spooled_bytes: edge.spooled_bytes,
        });
        Self {
            time_ms: millis(SystemTime::now()),
            summary: JobSummary::of(observer, job, metrics, window),
            nodes: nodes.collect(),
            edges: edges.collect(),
            stages: StageView::all(&shape, window),
            deadlocks: metrics.deadlocks.clone(),
        }
    }
}

fn seconds(time: Duration) -> f64 {
    time.as_secs_f64().max(1e-9)
}

fn senders(shape: &PlanShape, node: usize) -> f64 {
    shape.nodes.get(node).map_or(1.0, |node| node.partitions.max(1) as f64)
}

/// For each node the share of the time of its threads that it is busy, and of the time for each partition.
fn busy(window: &JobMetrics) -> Vec<(f64, Vec<f64>)> {
    // In one pass: a graph may have thousands of tasks.
    #[derive(Default)]
    struct Node {
        threads: BTreeSet<(usize, usize)>,
        shares: Vec<f64>,
    }
    let mut nodes: Vec<_> = window.nodes.iter().map(|_| Node::default()).collect();
    for task in &window.tasks {
        for share in &task.nodes {
            let Some(node) = nodes.get_mut(share.node) else { continue };
            node.threads.insert((task.worker, task.thread));
            node.shares.push(share.busy.as_secs_f64() / seconds(window.elapsed));
        }
    }
    let share = |node: Node| (node.shares.iter().sum::<f64>() / node.threads.len().max(1) as f64, node.shares);
    nodes.into_iter().map(share).collect()
}

/// At most so many shares as can be seen, of neighbours the largest.
fn strip(shares: &[f64]) -> Vec<f64> {
    let width = shares.len().div_ceil(STRIP).max(1);
    shares.chunks(width).map(|chunk| short(chunk.iter().copied().fold(0.0, f64::max).min(1.0))).collect()
}

impl StageView {
    fn all(shape: &PlanShape, window: &JobMetrics) -> Vec<Self> {
        let mut stages = vec![Self::default(); shape.stages.len()];
        let mut lives = vec![0.0; shape.stages.len()];
        for task in &window.tasks {
            let Some(stage) = stages.get_mut(task.stage) else { continue };
            let times = [task.busy, task.idle, task.parked, task.waiting_for_memory, task.blocked];
            lives[task.stage] += times.iter().map(Duration::as_secs_f64).sum::<f64>();
            stage.add(task, times);
        }
        for (stage, life) in stages.iter_mut().zip(lives) {
            for share in [&mut stage.busy, &mut stage.idle, &mut stage.parked, &mut stage.memory, &mut stage.blocked] {
                *share = if life > 0.0 { short(*share / life) } else { 0.0 };
            }
        }
        stages
    }

    fn add(&mut self, task: &TaskMetrics, times: [Duration; 5]) {
        let [busy, idle, parked, memory, blocked] = times.map(|time| time.as_secs_f64());
        self.busy += busy;
        self.idle += idle;
        self.parked += parked;
        self.memory += memory;
        self.blocked += blocked;
        self.ended += usize::from(task.state == TaskState::Ended);
    }
}

/// The partitions of a node; `None` if there is no such node.
pub(crate) fn partitions(metrics: &JobMetrics, node: usize) -> Option<Vec<PartitionView>> {
    metrics.nodes.get(node)?;
    let of_task = |task: &TaskMetrics| {
        let share = task.nodes.iter().find(|share| share.node == node)?;
        Some(PartitionView {
            partition: task.partition,
            worker: task.worker,
            thread: task.thread,
            state: task.state,
            blocked_on: task.blocked_on,
            rows_in: share.rows_in,
            rows_out: share.rows_out,
            busy_seconds: short(share.busy.as_secs_f64()),
            state_bytes: share.state_bytes,
            spilled_bytes: share.spilled_bytes,
        })
    };
    Some(metrics.tasks.iter().filter_map(of_task).collect())
}
