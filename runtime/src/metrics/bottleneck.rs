//! Which node holds the others up, and why: a pure function of what a job has counted.
//!
//! Each node is given the share of the time in which it is what the rows wait for: the largest share of a thread
//! that its code takes, or the share in which it waits for something outside, for disk, for memory or for its reader.
//! A wait counts only as far as the thread had nothing else to do: on a busy thread a task that was woken waits for
//! its turn, and that is the doing of whoever runs.

mod sentence;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::BTreeMap;

pub(crate) use sentence::percent;
use serde::Serialize;

use crate::metrics::{JobMetrics, TaskMetrics};
use crate::plan::NodeRole;

/// Below this share nothing holds a job up.
const LEAST_SHARE: f64 = 0.15;
/// A partition is skewed that is busy so many times longer than its siblings.
const SKEW: f64 = 3.0;
/// Of a thread's time, what the busiest one has over the average before partitions are called skewed.
const SKEW_OF_THREADS: f64 = 0.6;
/// Share of its time that a task is parked or idle to count as held up.
pub(crate) const HELD_UP: f64 = 0.5;
/// What waits on others is named only where it is clearly more than what works.
const WAIT_WEIGHT: f64 = 0.8;

/// What holds a job up.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Bottleneck {
    /// Index of the node.
    pub node: usize,
    /// Name of the node.
    pub name: String,
    /// What about it.
    pub cause: Cause,
    /// The share of the time that says so, from 0 to 1.
    pub share: f64,
    /// The partition, if it is one alone.
    pub partition: Option<usize>,
    /// All of it in words.
    pub sentence: String,
}

/// Why a node holds others up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// Its code takes the time.
    Busy,
    /// One of its partitions has most of the work.
    Skew,
    /// It waits for something outside the dataflow: what it reads from, or writes to.
    Outside,
    /// It waits for what is spilled to be written and read back.
    Disk,
    /// It holds the memory that others wait for.
    Memory,
    /// The program that reads this result is slow.
    Reader,
}

/// What one node does to the others.
struct Hold {
    node: usize,
    cause: Cause,
    share: f64,
    partition: Option<usize>,
}

/// The node that holds the job up in the time that `metrics` covers: since the start, or, of
/// [`JobMetrics::since`], between two snapshots. `None` if the job has not run for long enough to say, or nothing
/// holds it up.
pub fn bottleneck(metrics: &JobMetrics) -> Option<Bottleneck> {
    let view = View::of(metrics)?;
    let cpu = (0..metrics.nodes.len()).map(|node| view.busy(node));
    let waits = (0..metrics.nodes.len()).map(|node| view.outside(node));
    let others = [view.disk(), view.memory()].into_iter().flatten();
    let holds = cpu.chain(waits).chain(others).chain(view.readers());
    let weight = |hold: &Hold| match hold.cause {
        Cause::Busy | Cause::Skew => hold.share,
        Cause::Outside | Cause::Disk | Cause::Memory | Cause::Reader => hold.share * WAIT_WEIGHT,
    };
    let found = holds.max_by(|a, b| weight(a).total_cmp(&weight(b)))?;
    if found.share < LEAST_SHARE {
        return None;
    }
    Some(Bottleneck {
        node: found.node,
        name: metrics.nodes[found.node].name.clone(),
        cause: found.cause,
        share: found.share.min(1.0),
        partition: found.partition,
        sentence: sentence::of(&view, &found),
    })
}

/// A thread of a worker.
type Thread = (usize, usize);

/// Metrics with what is asked of them again and again.
struct View<'a> {
    metrics: &'a JobMetrics,
    elapsed: f64,
    /// Share of the time in which each thread ran tasks of this job.
    threads: BTreeMap<Thread, f64>,
    /// By node: its tasks, each with the node's place in it.
    tasks: Vec<Vec<(&'a TaskMetrics, usize)>>,
}

impl<'a> View<'a> {
    fn of(metrics: &'a JobMetrics) -> Option<Self> {
        let elapsed = metrics.elapsed.as_secs_f64();
        if elapsed <= 0.0 || metrics.tasks.is_empty() {
            return None;
        }
        let mut threads = BTreeMap::new();
        let mut tasks = vec![Vec::new(); metrics.nodes.len()];
        for task in &metrics.tasks {
            *threads.entry((task.worker, task.thread)).or_insert(0.0) += task.running.as_secs_f64() / elapsed;
            for (place, share) in task.nodes.iter().enumerate() {
                tasks.get_mut(share.node)?.push((task, place));
            }
        }
        Some(Self { metrics, elapsed, threads, tasks })
    }

    /// Time in which the thread of `task` had nothing of this job to run, as a share.
    fn free(&self, task: &TaskMetrics) -> f64 {
        (1.0 - self.threads.get(&(task.worker, task.thread)).copied().unwrap_or(0.0)).max(0.0)
    }

    /// The largest share of a thread that the code of `node` takes, and whether one partition is to blame.
    fn busy(&self, node: usize) -> Hold {
        let mut by_thread: BTreeMap<Thread, f64> = BTreeMap::new();
        let mut most = (None, 0.0);
        for &(task, place) in &self.tasks[node] {
            let share = task.nodes[place].busy.as_secs_f64() / self.elapsed;
            *by_thread.entry((task.worker, task.thread)).or_default() += share;
            if share > most.1 {
                most = (Some(task.partition), share);
            }
        }
        let largest = by_thread.values().copied().fold(0.0, f64::max);
        let average = by_thread.values().sum::<f64>() / by_thread.len().max(1) as f64;
        let siblings = self.siblings(node, most.0);
        let skewed = by_thread.len() > 1
            && average < SKEW_OF_THREADS * largest
            && most.1 > SKEW * siblings
            && most.1 > largest / 2.0;
        let (cause, partition) = if skewed { (Cause::Skew, most.0) } else { (Cause::Busy, None) };
        Hold { node, cause, share: if skewed { most.1 } else { largest }, partition }
    }

    /// Share in which the partitions of `node` but one are busy, on average.
    fn siblings(&self, node: usize, but: Option<usize>) -> f64 {
        let others = self.tasks[node].iter().filter(|(task, _)| Some(task.partition) != but);
        let times: Vec<f64> = others.map(|(task, place)| task.nodes[*place].busy.as_secs_f64()).collect();
        times.iter().sum::<f64>() / times.len().max(1) as f64 / self.elapsed
    }

    /// Average over the tasks of `node`, by how long each was there, of a share; as a share of all the time.
    fn average(&self, node: usize, time: impl Fn(&TaskMetrics, usize) -> f64) -> f64 {
        let mut sum = (0.0, 0.0);
        let mut longest: f64 = 0.0;
        for &(task, place) in &self.tasks[node] {
            let lifetime = task.lifetime().as_secs_f64();
            sum.0 += time(task, place).min(self.free(task) * self.elapsed);
            sum.1 += lifetime;
            longest = longest.max(lifetime);
        }
        if sum.1 > 0.0 { sum.0 / sum.1 * (longest / self.elapsed).min(1.0) } else { 0.0 }
    }

    fn outside(&self, node: usize) -> Hold {
        let share = self.average(node, |task, place| task.nodes[place].outside.as_secs_f64());
        Hold { node, cause: Cause::Outside, share, partition: None }
    }

    /// A disk that is behind holds up every task of its worker, whoever it is that spills.
    fn disk(&self) -> Option<Hold> {
        let nodes = 0..self.metrics.nodes.len();
        let share = |node: usize| self.average(node, |task, place| task.nodes[place].disk.as_secs_f64());
        let (waiting, share) = nodes.map(|node| (node, share(node))).max_by(|a, b| a.1.total_cmp(&b.1))?;
        let spilling = self.metrics.nodes.iter().enumerate().map(|(node, metrics)| (metrics.spilled_bytes, node));
        let spooling = self.metrics.edges.iter().map(|edge| (edge.spooled_bytes, edge.to_node));
        let most = spilling.chain(spooling).max().filter(|(bytes, _)| *bytes > 0);
        Some(Hold { node: most.map_or(waiting, |(_, node)| node), cause: Cause::Disk, share, partition: None })
    }

    fn memory(&self) -> Option<Hold> {
        let nodes = 0..self.metrics.nodes.len();
        let share = |node: usize| self.average(node, |task, _| task.waiting_for_memory.as_secs_f64());
        let (waiting, share) = nodes.map(|node| (node, share(node))).max_by(|a, b| a.1.total_cmp(&b.1))?;
        let holds = |node: usize| {
            let metrics = &self.metrics.nodes[node];
            (metrics.state_bytes, metrics.peak_state_bytes)
        };
        let operators = (0..self.metrics.nodes.len()).filter(|&n| self.metrics.nodes[n].role == NodeRole::Operator);
        let holder = operators.max_by_key(|&node| holds(node)).unwrap_or(waiting);
        Some(Hold { node: holder, cause: Cause::Memory, share, partition: None })
    }

    /// Results whose senders are all parked: an ordered one has some parked while it waits for another's rows.
    fn readers(&self) -> impl Iterator<Item = Hold> {
        let results = self
            .metrics
            .edges
            .iter()
            .filter(|edge| self.metrics.nodes.get(edge.to_node).is_some_and(|node| node.role == NodeRole::Result));
        results.map(|edge| {
            let outputs = self.metrics.edges.iter().filter(|other| other.from_node == edge.from_node).count();
            let senders = &self.tasks[edge.from_node];
            let parked = |task: &TaskMetrics| {
                let own = if outputs == 1 { task.parked } else { edge.parked / senders.len().max(1) as u32 };
                own.as_secs_f64().min(self.free(task) * self.elapsed) / self.elapsed
            };
            let least = senders.iter().map(|(task, _)| parked(task)).reduce(f64::min).unwrap_or(0.0);
            Hold { node: edge.to_node, cause: Cause::Reader, share: least, partition: None }
        })
    }

    /// Nodes from which `node` can be reached, those of its own stage left out, if `before`; else those reached from it.
    fn relatives(&self, node: usize, before: bool) -> Vec<usize> {
        let stage = |node: usize| self.metrics.nodes[node].stage;
        let mut found: Vec<usize> = Vec::new();
        let mut open = self.stage_of(node);
        while let Some(next) = open.pop() {
            for edge in &self.metrics.edges {
                let (near, far) = if before { (edge.to_node, edge.from_node) } else { (edge.from_node, edge.to_node) };
                if near != next || found.contains(&far) || stage(far) == stage(node) {
                    continue;
                }
                let relatives = self.stage_of(far);
                found.extend(&relatives);
                open.extend(relatives);
            }
        }
        found
    }

    /// The nodes that are fused with `node`, and itself.
    fn stage_of(&self, node: usize) -> Vec<usize> {
        match self.metrics.nodes[node].stage {
            Some(stage) => {
                (0..self.metrics.nodes.len()).filter(|&n| self.metrics.nodes[n].stage == Some(stage)).collect()
            }
            None => vec![node],
        }
    }

    /// Share of the lives of its tasks that `node` spent so.
    fn share_of_life(&self, node: usize, time: impl Fn(&TaskMetrics) -> f64) -> f64 {
        let lives: f64 = self.tasks[node].iter().map(|(task, _)| task.lifetime().as_secs_f64()).sum();
        let spent: f64 = self.tasks[node].iter().map(|(task, _)| time(task)).sum();
        if lives > 0.0 { spent / lives } else { 0.0 }
    }
}
