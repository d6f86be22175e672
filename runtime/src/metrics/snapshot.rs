//! How the counters of a running job become a snapshot.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use crate::job::Running;
use crate::memory::Account;
use crate::metrics::{JobMetrics, TaskMetrics, TaskNodeMetrics, time};
use crate::plan::Plan;
use crate::task::{TaskShared, Waiting, is_spilling};

impl JobMetrics {
    /// Adds what the tasks, ports and accounts of a running job count.
    pub(crate) fn add_running(&mut self, plan: &Plan, running: &Running) {
        let now = running.clock.now();
        for task in &running.tasks {
            self.source_bytes_done += task.counters.source_bytes.load(Relaxed);
            let snapshot = TaskMetrics::of(plan, running, task, now);
            for ((_, counters), share) in task.nodes.iter().zip(&snapshot.nodes) {
                let node = &mut self.nodes[share.node];
                node.stage = Some(task.stage);
                node.add(counters);
            }
            self.tasks.push(snapshot);
        }
        for (node, accounts) in self.nodes.iter_mut().zip(&running.accounts) {
            node.state_bytes = accounts.iter().map(Account::held_in_all).sum();
            node.peak_state_bytes = accounts.iter().map(Account::peak).sum();
        }
        for (edge, (counters, ports)) in self.edges.iter_mut().zip(&running.edges) {
            edge.rows = counters.rows.load(Relaxed);
            edge.batches = counters.batches.load(Relaxed);
            edge.bytes = counters.bytes.load(Relaxed);
            edge.parked = time(&counters.parked_ns);
            edge.spooled_bytes = counters.spooled_bytes.load(Relaxed);
            for port in ports {
                let (queued, capacity) = (port.queued_bytes(), port.capacity());
                edge.queued_bytes += queued;
                edge.capacity_bytes += capacity;
                edge.fullest = edge.fullest.max(queued as f64 / capacity.max(1) as f64);
            }
        }
        for (worker, space) in self.workers.iter_mut().zip(&running.spaces) {
            worker.spilled_bytes = space.spilled_bytes();
        }
        self.source_bytes_total = running.scans.iter().map(|scan| scan.total_bytes()).sum();
    }
}

impl TaskMetrics {
    fn of(plan: &Plan, running: &Running, task: &TaskShared, now: Duration) -> Self {
        let counters = &task.counters;
        let nodes = plan.stages[task.stage].nodes.iter().zip(&task.nodes).map(|(&node, (_, counters))| {
            let account = running.accounts[node].get(task.partition);
            TaskNodeMetrics {
                node,
                rows_in: counters.rows_in.load(Relaxed),
                rows_out: counters.rows_out.load(Relaxed),
                busy: time(&counters.busy_ns),
                outside: time(&counters.outside_ns),
                disk: time(&counters.disk_ns),
                state_bytes: account.map_or(0, Account::held_in_all),
                spilled_bytes: counters.spilled_bytes.load(Relaxed),
            }
        });
        let mut snapshot = Self {
            name: task.name(),
            stage: task.stage,
            partition: task.partition,
            worker: task.worker,
            thread: plan.arbiter(task.partition).1,
            steps: counters.steps.load(Relaxed),
            state: task.state(),
            blocked_on: None,
            running: time(&counters.running_ns),
            busy: time(&counters.busy_ns),
            idle: time(&counters.idle_ns),
            parked: time(&counters.parked_ns),
            waiting_for_memory: time(&counters.memory_ns),
            blocked: time(&counters.blocked_ns),
            nodes: nodes.collect(),
        };
        snapshot.add_current(task, now);
        snapshot
    }

    /// Adds the time since the task began to do what it does now, which is booked only once it does something else.
    fn add_current(&mut self, task: &TaskShared, now: Duration) {
        let (waiting, since) = task.current();
        if since == Duration::ZERO {
            return;
        }
        let time = now.saturating_sub(since);
        match waiting {
            Waiting::Running => self.busy += time,
            Waiting::Input(_) => self.idle += time,
            Waiting::Room(_) => self.parked += time,
            Waiting::Memory(_) => self.waiting_for_memory += time,
            Waiting::Task => self.blocked += time,
            Waiting::Outside(what) => {
                self.blocked += time;
                self.blocked_on = Some(what);
                if let Some(node) = self.nodes.get_mut(task.at()) {
                    *(if is_spilling(what) { &mut node.disk } else { &mut node.outside }) += time;
                }
            }
            Waiting::Ended => {}
        }
    }
}
