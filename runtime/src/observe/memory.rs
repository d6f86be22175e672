//! Who holds a worker's memory.
//!
//! What is charged for a holder is the larger of its floor and what it holds. Together that is what the pool says,
//! but for what moved between two looks, and for results that wait for a reader after their job has ended.

use std::sync::Arc;

use serde::Serialize;

use crate::job::JobCore;
use crate::memory::{Account, MemoryCounts, MemoryEvent, MemoryPool};
use crate::plan::NodeRole;

/// What a worker's memory is held for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HolderKind {
    /// Batches in ports, between two tasks.
    Mailboxes,
    /// State of operators.
    State,
    /// Batches in the hands of tasks, and what a step takes for a moment.
    Tasks,
    /// Buffers of sources and sinks.
    Io,
    /// Frames that wait to be written to spill files.
    SpillBuffers,
}

/// One that holds memory.
#[derive(Debug, Clone, Serialize)]
pub struct MemoryHolder {
    /// Number of its job.
    pub job: u64,
    /// What for.
    pub kind: HolderKind,
    /// Its name: a node, a port, a chain of nodes, with its partition.
    pub name: String,
    /// Bytes held.
    pub held_bytes: usize,
    /// Bytes charged: what is held, or what was promised where that is more.
    pub charged_bytes: usize,
    /// Most bytes held so far.
    pub peak_bytes: usize,
}

/// The memory of one worker.
#[derive(Debug, Clone, Serialize)]
pub struct WorkerMemory {
    /// Its limit.
    pub limit_bytes: usize,
    /// Bytes charged now.
    pub charged_bytes: usize,
    /// Most bytes charged so far.
    pub peak_bytes: usize,
    /// How often a wrong estimate took it over its limit for a moment.
    pub overruns: usize,
    /// Bytes charged for each kind of holder.
    pub kinds: Vec<(HolderKind, usize)>,
    /// Bytes charged that are none of these: jobs that are about to start, and results that nobody has read yet.
    pub other_bytes: usize,
    /// Who holds them, those with the most first.
    pub holders: Vec<MemoryHolder>,
    /// What was done about a lack of memory, in all.
    pub counts: MemoryCounts,
    /// The newest of it, the oldest first.
    pub events: Vec<MemoryEvent>,
}

pub(super) const KINDS: [HolderKind; 5] =
    [HolderKind::Mailboxes, HolderKind::State, HolderKind::Tasks, HolderKind::Io, HolderKind::SpillBuffers];

pub(super) fn of(pools: &[MemoryPool], jobs: &[Arc<JobCore>]) -> Vec<WorkerMemory> {
    let mut holders: Vec<Vec<MemoryHolder>> = pools.iter().map(|_| Vec::new()).collect();
    for job in jobs {
        for (worker, holder) in of_job(job) {
            if let Some(holders) = holders.get_mut(worker) {
                holders.push(holder);
            }
        }
    }
    pools.iter().zip(holders).map(|(pool, holders)| WorkerMemory::of(pool, holders)).collect()
}

/// What a job holds, each with its worker.
fn of_job(core: &JobCore) -> Vec<(usize, MemoryHolder)> {
    let mut found = Vec::new();
    each(core, |worker, kind, held| {
        found.push((
            worker,
            MemoryHolder {
                job: core.id,
                kind,
                name: held.name.to_string(),
                held_bytes: held.bytes,
                charged_bytes: held.charged_bytes,
                peak_bytes: held.peak_bytes,
            },
        ));
    });
    found
}

/// Bytes charged for a job on one worker.
pub(super) fn charged(core: &JobCore, on: usize) -> usize {
    let mut bytes = 0;
    each(core, |worker, _, held| bytes += if worker == on { held.charged_bytes } else { 0 });
    bytes
}

/// Bytes that a job holds on each worker, for each of [`KINDS`].
pub(crate) fn held(core: &JobCore, workers: usize) -> Vec<[usize; KINDS.len()]> {
    let mut held_bytes = vec![[0; KINDS.len()]; workers];
    each(core, |worker, kind, held| {
        if let (Some(worker), Some(index)) = (held_bytes.get_mut(worker), KINDS.iter().position(|known| *known == kind))
        {
            worker[index] += held.bytes;
        }
    });
    held_bytes
}

/// What one holder holds.
struct Held<'a> {
    name: &'a str,
    bytes: usize,
    charged_bytes: usize,
    peak_bytes: usize,
}

impl<'a> Held<'a> {
    fn by(account: &'a Account) -> Self {
        let (bytes, charged_bytes) = (account.held_in_all(), account.charged());
        Self { name: account.name(), bytes, charged_bytes, peak_bytes: account.peak() }
    }
}

/// Shows `look` all that a job holds: on which worker, what for.
fn each(core: &JobCore, mut look: impl FnMut(usize, HolderKind, Held<'_>)) {
    let plan = &core.plan;
    core.with_running(|running| {
        let worker = |partition: usize| plan.arbiter(partition).0;
        for (node, accounts) in plan.nodes.iter().zip(&running.accounts) {
            let kind = match NodeRole::of(&node.kind) {
                NodeRole::Source | NodeRole::Sink => HolderKind::Io,
                NodeRole::Operator | NodeRole::Result => HolderKind::State,
            };
            accounts.iter().enumerate().for_each(|(p, account)| look(worker(p), kind, Held::by(account)));
        }
        for (partition, account) in running.hands.iter().flat_map(|accounts| accounts.iter().enumerate()) {
            look(worker(partition), HolderKind::Tasks, Held::by(account));
        }
        for (edge, (_, ports)) in plan.edges.iter().zip(&running.edges) {
            for (index, port) in ports.iter().enumerate() {
                // The caller's port is on the first worker.
                let on = if edge.to_stage.is_some() { worker(edge.receiver_of(index)) } else { 0 };
                port.accounts().for_each(|account| look(on, HolderKind::Mailboxes, Held::by(account)));
            }
        }
        for (on, space) in running.spaces.iter().enumerate() {
            let (bytes, floor_bytes) = space.workspace();
            let charged_bytes = bytes.max(floor_bytes);
            let held = Held { name: "spill buffers", bytes, charged_bytes, peak_bytes: bytes };
            look(on, HolderKind::SpillBuffers, held);
        }
    });
}

impl WorkerMemory {
    fn of(pool: &MemoryPool, mut holders: Vec<MemoryHolder>) -> Self {
        let charged_bytes = pool.charged();
        let of_kind = |kind| holders.iter().filter(|h| h.kind == kind).map(|h| h.charged_bytes).sum();
        let kinds: Vec<(HolderKind, usize)> = KINDS.iter().map(|&kind| (kind, of_kind(kind))).collect();
        let known: usize = kinds.iter().map(|(_, bytes)| bytes).sum();
        holders.sort_by_key(|holder| std::cmp::Reverse(holder.charged_bytes));
        Self {
            limit_bytes: pool.limit(),
            charged_bytes,
            peak_bytes: pool.peak(),
            overruns: pool.overruns(),
            kinds,
            other_bytes: charged_bytes.saturating_sub(known),
            holders,
            counts: pool.log().counts(),
            events: pool.log().events(),
        }
    }
}
