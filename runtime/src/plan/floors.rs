//! How large batches and ports are, and what a plan needs at the least (C2).
//!
//! Per task: its ports, and [`STEP_BATCHES`] batches for the input it holds, what a step allocates and what
//! waits to be sent; per operator, source and sink its own `min_memory`; per worker a workspace for spill
//! frames. Where that does not fit, first batches become smaller, then partitions fewer.

use crate::config::ClusterConfig;
use crate::error::PlanError;
use crate::graph::{Exchange, NodeKind};
use crate::plan::{Edge, Plan, Stage};

const SMALLEST_BATCH_BYTES: usize = 64 << 10;
const LARGEST_BATCH_BYTES: usize = 1 << 20;
/// Batches of its own that a task may hold: one as input, two for a step's temporaries, one as output, each
/// of which may pin twice its bytes.
pub(crate) const STEP_BATCHES: usize = 8;
/// Batches that may wait for the disk on one worker, beside three for each of its threads: half of all before
/// its tasks are held up, and half for those that are under way.
pub(crate) const WORKSPACE_BATCHES: usize = 5;
/// Hash partitions per arbiter, from the best to the least.
const PER_ARBITER: [usize; 3] = [4, 2, 1];
/// Batches that a lane may hold.
const LANE_BATCHES: [usize; 4] = [8, 4, 2, 1];

/// Finds the largest batches, and the most partitions, that fit.
pub(super) fn fit(
    config: &ClusterConfig,
    expand: impl Fn(usize) -> Result<Plan, PlanError>,
) -> Result<Plan, PlanError> {
    let limit = config.memory_limit_bytes;
    let mut smallest = None;
    let mut half_limit_bytes = 0;
    for per_arbiter in PER_ARBITER {
        let mut plan = expand(per_arbiter)?;
        if half_limit_bytes == 0 {
            // The most partitions and the smallest batches: a larger limit has larger ones only where half is left.
            set(&mut plan, SMALLEST_BATCH_BYTES, smallest_port_bytes(SMALLEST_BATCH_BYTES));
            half_limit_bytes = 2 * plan.floors.iter().copied().max().unwrap_or(0);
        }
        plan.half_limit_bytes = half_limit_bytes;
        let mut batch_bytes = LARGEST_BATCH_BYTES;
        while batch_bytes >= SMALLEST_BATCH_BYTES {
            for lane_batches in LANE_BATCHES {
                set_sizes(&mut plan, batch_bytes, lane_batches);
                let floor = plan.floors.iter().copied().max().unwrap_or(0);
                let mailboxes = mailbox_bytes(&plan);
                // Half of the limit is left to float, but for the smallest batches.
                let share = if batch_bytes == SMALLEST_BATCH_BYTES && lane_batches == 1 { limit } else { limit / 2 };
                if floor <= share && (mailboxes <= limit / 4 || lane_batches == 1) && floor <= limit {
                    return Ok(plan);
                }
            }
            batch_bytes /= 2;
        }
        smallest = Some(plan);
    }
    let plan = smallest.ok_or_else(|| PlanError::Config("no partitions per arbiter to try".into()))?;
    Err(PlanError::LimitTooSmall {
        needed_bytes: plan.floors.iter().copied().max().unwrap_or(0),
        limit_bytes: limit,
        largest: largest_holder(&plan),
    })
}

/// A batch may pin twice its bytes, and a little for what holds it.
fn smallest_port_bytes(batch_bytes: usize) -> usize {
    2 * batch_bytes + 8192
}

/// Sets batches of `batch_bytes`, and lanes that hold so many of them.
pub(super) fn set_sizes(plan: &mut Plan, batch_bytes: usize, lane_batches: usize) {
    set(plan, batch_bytes, (lane_batches * batch_bytes).max(smallest_port_bytes(batch_bytes)));
}

fn set(plan: &mut Plan, batch_bytes: usize, port_bytes: usize) {
    plan.batch_bytes = batch_bytes;
    plan.port_bytes = port_bytes;
    let mut floors = vec![plan.workspace_floor(); plan.workers];
    for stage in &plan.stages {
        let floor = plan.task_floor(stage) + plan.instance_floors(stage);
        for partition in 0..stage.partitions {
            floors[plan.arbiter(partition).0] += floor;
        }
    }
    // Results wait for the caller on the first worker.
    let results = plan.edges.iter().filter(|e| e.to_stage.is_none());
    floors[0] += results.map(|e| e.lanes_per_receiver() * port_bytes + plan.result_workspace_floor(e)).sum::<usize>();
    plan.floors = floors;
}

impl Plan {
    /// Bytes of a task's ports.
    pub(crate) fn ports_floor(&self, stage: &Stage) -> usize {
        stage.inputs.iter().map(|&edge| self.edges[edge].lanes_per_receiver()).sum::<usize>() * self.port_bytes
    }

    /// Bytes of the batches in a task's hands: each exchange by hash beside the first makes rows of its own of a batch.
    pub(crate) fn hands_floor(&self, stage: &Stage) -> usize {
        let hashes = |&&edge: &&usize| matches!(self.edges[edge].exchange, Exchange::Hash(_));
        let most = stage.outputs.iter().filter(hashes).count();
        (STEP_BATCHES + most.saturating_sub(1)) * self.batch_bytes
    }

    fn task_floor(&self, stage: &Stage) -> usize {
        self.ports_floor(stage) + self.hands_floor(stage)
    }

    /// Bytes of each worker's workspace for spill frames.
    pub(crate) fn workspace_floor(&self) -> usize {
        (WORKSPACE_BATCHES + 3 * self.threads_per_worker) * self.batch_bytes
    }

    /// Bytes of the workspace for spill frames of a result that spools.
    pub(crate) fn result_workspace_floor(&self, edge: &Edge) -> usize {
        if edge.hazardous { WORKSPACE_BATCHES * self.batch_bytes } else { 0 }
    }

    /// Bytes of the accounts of a stage's operators, source and sink at one partition.
    fn instance_floors(&self, stage: &Stage) -> usize {
        stage.nodes.iter().map(|&node| self.instance_floor(node)).sum()
    }

    /// Bytes of the account of one instance.
    pub(crate) fn instance_floor(&self, node: usize) -> usize {
        match &self.nodes[node].kind {
            NodeKind::Source(spec) => spec.min_memory(self.batch_bytes),
            NodeKind::Operator(spec) => {
                let edges = self.edges.iter().filter(|edge| edge.to == node && edge.exchange == Exchange::Lanes);
                let lanes: usize = edges.map(|edge| edge.senders).sum();
                spec.min_memory(self.batch_bytes) + lanes * spec.lane_memory(self.batch_bytes)
            }
            NodeKind::Sink(spec) => spec.min_memory(self.batch_bytes),
            NodeKind::Result => 0,
        }
    }
}

/// Bytes of ports on the worker that has the most.
fn mailbox_bytes(plan: &Plan) -> usize {
    let mut bytes = vec![0; plan.workers];
    for stage in &plan.stages {
        let ports = plan.ports_floor(stage);
        for partition in 0..stage.partitions {
            bytes[plan.arbiter(partition).0] += ports;
        }
    }
    bytes.into_iter().max().unwrap_or(0)
}

fn largest_holder(plan: &Plan) -> String {
    let largest = (0..plan.stages.len()).max_by_key(|&stage| {
        let stage = &plan.stages[stage];
        stage.partitions.div_ceil(plan.workers) * (plan.task_floor(stage) + plan.instance_floors(stage))
    });
    largest.map_or_else(String::new, |stage| format!("`{}`", plan.stage_name(stage)))
}
