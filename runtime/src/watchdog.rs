//! Finds cycles of waits in which every task waits for another task (C4).
//!
//! A wait for something outside (a disk, a gate, the caller, another job) is never a deadlock, however
//! long. Tasks that wait are stuck if all they wait for are stuck: the largest such set is found by taking
//! away, again and again, every task that somebody outside the set could wake.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use crate::error::ExecutionError;
use crate::job::{JobCore, Running};
use crate::memory::{MemoryPool, row_too_large};
use crate::plan::Plan;
use crate::task::Waiting;

/// What the watchdog remembers of a job between two looks.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    /// The stuck tasks of the last look, with their step counts.
    last: Vec<(usize, u64)>,
    /// Holders that had nothing to free were asked again since tasks are stuck.
    asked: bool,
}

impl Watch {
    /// Looks at a job once. Two looks in a row that find the same tasks stuck are a deadlock.
    pub(crate) fn look(&mut self, core: &JobCore, jobs: usize, pools: &[MemoryPool]) {
        let Some(Some(found)) = core.with_running(|running| self.check(&core.plan, running, jobs)) else { return };
        match found {
            Found::ShortOfMemory => pools.iter().for_each(MemoryPool::ask_again),
            Found::Spooling(cycle) => {
                tracing::warn!(job = core.id, %cycle, "deadlock: an edge spools from now on");
                core.add_deadlock(cycle);
            }
            Found::Deadlock(cycle) => core.fail(ExecutionError::Deadlock(cycle)),
            Found::LargeRow { task, bytes } => {
                let place = core.with_running(|running| (running.tasks[task].place(), running.tasks[task].worker));
                let Some((at, worker)) = place else { return };
                let pool = &pools[worker];
                let cause = row_too_large(pool, core.plan.half_limit_bytes, bytes, pool.available());
                core.fail(ExecutionError::Operator { at, cause: Arc::new(cause) });
            }
        }
    }

    fn check(&mut self, plan: &Plan, running: &Running, jobs: usize) -> Option<Found> {
        let stuck = stuck_tasks(plan, running);
        let seen: Vec<_> = stuck.iter().map(|&task| (task, running.tasks[task].counters.steps.load(Relaxed))).collect();
        let short = stuck.iter().any(|&task| matches!(running.tasks[task].waiting(), Waiting::Memory(_)));
        let same = !seen.is_empty() && seen == self.last;
        self.asked &= !seen.is_empty();
        self.last = seen;
        if !same {
            return None;
        }
        self.last.clear();
        if short && jobs > 1 {
            // Another job may give memory back: that is no deadlock, but whoever holds it is asked again.
            return Some(Found::ShortOfMemory);
        }
        let cycle = describe(plan, running, &stuck);
        // One parked edge after the other spools; when all do and it is still stuck, the job fails.
        for &task in &stuck {
            if let Waiting::Room(receivers) = running.tasks[task].waiting() {
                for (edge, port) in receivers {
                    if plan.edges[edge].to_stage.is_some() && running.edges[edge].1[port].spool_always() {
                        return Some(Found::Spooling(cycle));
                    }
                }
            }
        }
        if short && !self.asked {
            // Being asked takes a step: only a look that finds nobody stuck starts anew.
            self.asked = true;
            return Some(Found::ShortOfMemory);
        }
        // A row far larger than batches are is what one cannot wait for.
        let large = stuck.iter().find_map(|&task| match running.tasks[task].waiting() {
            Waiting::Memory(bytes) if bytes > plan.hands_floor(&plan.stages[running.tasks[task].stage]) => {
                Some(Found::LargeRow { task, bytes })
            }
            _ => None,
        });
        Some(large.unwrap_or(Found::Deadlock(cycle)))
    }
}

enum Found {
    ShortOfMemory,
    Spooling(String),
    Deadlock(String),
    LargeRow { task: usize, bytes: usize },
}

/// The largest set of tasks of which each waits for members only.
fn stuck_tasks(plan: &Plan, running: &Running) -> Vec<usize> {
    let index: BTreeMap<(usize, usize), usize> =
        running.tasks.iter().enumerate().map(|(i, task)| ((task.stage, task.partition), i)).collect();
    let waits: Vec<Waiting> = running.tasks.iter().map(|task| task.waiting()).collect();
    let mut stuck: Vec<bool> = waits
        .iter()
        .map(|wait| match wait {
            Waiting::Input(_) | Waiting::Memory(_) | Waiting::Task => true,
            // The caller is outside.
            Waiting::Room(receivers) => receivers.iter().all(|(edge, _)| plan.edges[*edge].to_stage.is_some()),
            Waiting::Running | Waiting::Outside(_) | Waiting::Ended => false,
        })
        .collect();
    loop {
        let mut changed = false;
        for task in 0..stuck.len() {
            if !stuck[task] {
                continue;
            }
            let keeps = match &waits[task] {
                Waiting::Input(edges) => edges.iter().all(|&edge| {
                    senders(plan, edge, running.tasks[task].partition)
                        .all(|sender| index.get(&sender).is_none_or(|&s| stuck[s] || waits[s] == Waiting::Ended))
                }),
                // Any receiver that moves on makes room.
                Waiting::Room(receivers) => receivers.iter().all(|&(edge, port)| {
                    let edge = &plan.edges[edge];
                    let receiver = (edge.to_stage.unwrap_or_default(), edge.receiver_of(port));
                    index.get(&receiver).is_some_and(|&receiver| stuck[receiver])
                }),
                // Whoever else runs may give memory back, or be the one that is waited for.
                Waiting::Memory(_) | Waiting::Task => {
                    (0..stuck.len()).all(|other| stuck[other] || waits[other] == Waiting::Ended)
                }
                _ => false,
            };
            if !keeps {
                stuck[task] = false;
                changed = true;
            }
        }
        if !changed {
            return (0..stuck.len()).filter(|&task| stuck[task]).collect();
        }
    }
}

/// The tasks that send to a port.
fn senders(plan: &Plan, edge: usize, partition: usize) -> impl Iterator<Item = (usize, usize)> {
    let edge = &plan.edges[edge];
    let forward = edge.exchange == crate::graph::Exchange::Forward;
    let partitions = if forward { partition..partition + 1 } else { 0..edge.senders };
    partitions.map(move |partition| (edge.from_stage, partition))
}

/// Walks from one stuck task to the next until one comes again.
fn describe(plan: &Plan, running: &Running, stuck: &[usize]) -> String {
    let mut path: Vec<(usize, String)> = Vec::new();
    let mut current = stuck[0];
    loop {
        let task = &running.tasks[current];
        let (why, next) = match task.waiting() {
            Waiting::Input(edges) => {
                let next = edges.iter().flat_map(|&edge| senders(plan, edge, task.partition)).next();
                ("waits for input from", next)
            }
            Waiting::Room(receivers) => {
                let next = receivers.first().and_then(|&(edge, port)| {
                    let edge = &plan.edges[edge];
                    edge.to_stage.map(|stage| (stage, edge.receiver_of(port)))
                });
                ("waits for room at", next)
            }
            Waiting::Memory(bytes) => {
                path.push((current, format!("`{}` [{}] waits for {bytes} bytes", task.name(), task.partition)));
                return join(&path);
            }
            Waiting::Task => {
                path.push((current, format!("`{}` [{}] waits for another task", task.name(), task.partition)));
                return join(&path);
            }
            _ => return join(&path),
        };
        path.push((current, format!("`{}` [{}] {why}", task.name(), task.partition)));
        let found = next.and_then(|next| {
            stuck.iter().copied().find(|&s| (running.tasks[s].stage, running.tasks[s].partition) == next)
        });
        match found {
            Some(next) => {
                if let Some(start) = path.iter().position(|(task, _)| *task == next) {
                    let task = &running.tasks[next];
                    return format!("{} `{}` [{}]", join(&path[start..]), task.name(), task.partition);
                }
                current = next;
            }
            None => return join(&path),
        }
    }
}

fn join(path: &[(usize, String)]) -> String {
    path.iter().map(|(_, text)| text.as_str()).collect::<Vec<_>>().join(" ")
}
