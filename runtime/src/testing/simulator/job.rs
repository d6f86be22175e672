//! One job of a simulation: its tasks, and the caller who reads its results.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::task::{Context, Poll, Wake, Waker};

use arrow::record_batch::RecordBatch;
use futures_core::Stream;

use super::scenario::Fault;
use super::watched::Records;
use crate::actor::{TaskActor, WakeFlag};
use crate::error::ExecutionError;
use crate::graph::ResultId;
use crate::job::{Job, JobCore};
use crate::mailbox::Port;
use crate::plan::Plan;
use crate::result::ResultStream;
use crate::task::TaskShared;
use crate::watchdog::Watch;

/// A job that runs.
pub(super) struct SimulatedJob {
    pub(super) core: Arc<JobCore>,
    /// `None` once the caller has dropped it.
    pub(super) job: Option<Job>,
    /// The caller dropped it after the last row and before the last step: its tasks stopped where they were.
    pub(super) is_left: bool,
    pub(super) tasks: Vec<SimulatedTask>,
    /// By edge.
    pub(super) ports: Vec<Vec<Arc<Port>>>,
    pub(super) watch: Watch,
    pub(super) readers: Vec<Reader>,
    pub(super) records: Records,
    /// Edges whose receiver wanted no more before their senders had ended.
    pub(super) stopped_edges: BTreeSet<usize>,
}

/// A task, and how it is woken.
pub(super) struct SimulatedTask {
    pub(super) actor: TaskActor,
    pub(super) flag: Arc<WakeFlag>,
    pub(super) shared: Arc<TaskShared>,
    /// Under a policy of priorities.
    pub(super) priority: u64,
    /// The event at which it was last found unable to run.
    pub(super) ready_since: u64,
}

impl SimulatedTask {
    pub(super) fn can_run(&self) -> bool {
        !self.actor.has_ended() && self.flag.is_scheduled()
    }
}

/// Whether the caller is to look again.
#[derive(Default)]
pub(super) struct CallerFlag(AtomicBool);

impl Wake for CallerFlag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, SeqCst);
    }
}

/// The caller, as far as one result is concerned.
pub(super) struct Reader {
    /// The result's node.
    pub(super) node: usize,
    pub(super) stream: Option<ResultStream>,
    flag: Arc<CallerFlag>,
    pub(super) batches: Vec<RecordBatch>,
    pub(super) state: Reading,
    /// Errors that the stream gave.
    pub(super) errors: Vec<ExecutionError>,
    /// After so many batches the caller reads no more for a while.
    pub(super) stop_after: Option<u64>,
    /// After so many batches the caller drops the stream.
    pub(super) drop_after: Option<u64>,
}

/// What the caller does with a result.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Reading {
    Reads,
    /// Not until nothing else goes on.
    Stopped,
    Dropped,
    /// The stream gave an error.
    Failed,
    Ended,
}

impl Reader {
    pub(super) fn all_of(job: &mut Job, plan: &Plan, faults: &[Fault]) -> Vec<Reader> {
        let nodes: Vec<usize> = plan.result_nodes().collect();
        let first = |find: &dyn Fn(&Fault) -> Option<u64>| faults.iter().find_map(find);
        let stop_after = first(&|fault| match fault {
            Fault::StopReading { batches } => Some(*batches),
            _ => None,
        });
        let drop_after = first(&|fault| match fault {
            Fault::DropResult { batches } => Some(*batches),
            _ => None,
        });
        let readers = nodes.into_iter().map(|node| Reader {
            node,
            stream: job.take_result(ResultId(crate::graph::NodeId(node))),
            flag: Arc::new(CallerFlag(AtomicBool::new(true))),
            batches: Vec::new(),
            state: Reading::Reads,
            errors: Vec::new(),
            stop_after,
            drop_after,
        });
        readers.collect()
    }

    pub(super) fn is_over(&self) -> bool {
        matches!(self.state, Reading::Dropped | Reading::Failed | Reading::Ended)
    }

    pub(super) fn wants_to_read(&self) -> bool {
        self.state == Reading::Reads && self.flag.0.load(SeqCst)
    }

    /// Goes on after it had stopped.
    pub(super) fn go_on(&mut self) {
        if self.state == Reading::Stopped {
            self.state = Reading::Reads;
            self.stop_after = None;
            self.flag.0.store(true, SeqCst);
        }
    }

    /// Asks for the next batch, once. Says what the caller did beside that.
    pub(super) fn read(&mut self) -> Option<Fault> {
        let count = self.batches.len() as u64;
        if self.drop_after.is_some_and(|after| count >= after) {
            self.state = Reading::Dropped;
            self.stream = None;
            return Some(Fault::DropResult { batches: count });
        }
        if self.stop_after.is_some_and(|after| count >= after) {
            self.state = Reading::Stopped;
            return Some(Fault::StopReading { batches: count });
        }
        let Some(stream) = &mut self.stream else { return None };
        self.flag.0.store(false, SeqCst);
        let waker = Waker::from(Arc::clone(&self.flag));
        match Pin::new(&mut *stream).poll_next(&mut Context::from_waker(&waker)) {
            Poll::Ready(Some(Ok(batch))) => {
                self.batches.push(batch);
                self.flag.0.store(true, SeqCst);
            }
            Poll::Ready(Some(Err(error))) => {
                self.errors.push(error);
                // It is kept: one that has ended must hold nothing.
                self.state = if stream.next().is_none() { Reading::Failed } else { Reading::Reads };
            }
            Poll::Ready(None) => self.state = Reading::Ended,
            Poll::Pending => {}
        }
        None
    }
}

impl SimulatedJob {
    pub(super) fn has_ended(&self) -> bool {
        self.core.has_ended()
    }

    /// Finds edges that were stopped while a sender was still there. Looked at after every step of task `at`.
    pub(super) fn note_stops(&mut self, at: usize) {
        let (stage, partition) = (self.tasks[at].shared.stage, self.tasks[at].shared.partition);
        let plan = Arc::clone(&self.core.plan);
        for &edge in &plan.stages[stage].inputs {
            let count = plan.edges[edge].ports_per_receiver();
            let stopped = self.ports[edge][partition * count..(partition + 1) * count].iter().any(|p| p.is_stopped());
            if stopped {
                self.note_stop(&plan, edge, partition);
            }
        }
    }

    /// The same, where the caller has dropped the stream of `node`.
    pub(super) fn note_dropped_result(&mut self, node: usize) {
        let plan = Arc::clone(&self.core.plan);
        let edges = plan.edges.iter().enumerate().filter(|(_, edge)| edge.to == node);
        edges.for_each(|(edge, _)| self.note_stop(&plan, edge, 0));
    }

    fn note_stop(&mut self, plan: &Plan, edge: usize, partition: usize) {
        let spec = &plan.edges[edge];
        let forward = spec.exchange == crate::graph::Exchange::Forward;
        let sends = |task: &SimulatedTask| {
            task.shared.stage == spec.from_stage && (!forward || task.shared.partition == partition)
        };
        if self.tasks.iter().any(|task| sends(task) && !task.actor.has_ended()) {
            self.stopped_edges.insert(edge);
        }
    }

    /// Who waits for what, for a report.
    pub(super) fn waits(&self) -> String {
        let plan = &self.core.plan;
        let edge = |edge: usize| {
            let edge = &plan.edges[edge];
            format!("{} => {}", plan.nodes[edge.from].name, plan.nodes[edge.to].name)
        };
        let mut lines = Vec::new();
        for task in self.tasks.iter().filter(|task| !task.actor.has_ended()) {
            use crate::task::Waiting;
            let waits = match task.shared.waiting() {
                Waiting::Input(edges) => {
                    format!("input from {}", edges.into_iter().map(edge).collect::<Vec<_>>().join(", "))
                }
                Waiting::Room(ports) => {
                    let ports = ports.into_iter().map(|(index, port)| format!("{} [{port}]", edge(index)));
                    format!("room at {}", ports.collect::<Vec<_>>().join(", "))
                }
                Waiting::Memory(bytes) => format!("{bytes} bytes of memory"),
                Waiting::Task => "another task".into(),
                Waiting::Outside(what) => format!("{what}, from outside"),
                Waiting::Running => "its turn".into(),
                Waiting::Ended => continue,
            };
            let (stage, partition) = (task.shared.stage, task.shared.partition);
            let held = self.core.with_running(|running| {
                let accounts =
                    plan.stages[stage].nodes.iter().filter_map(|&node| running.accounts[node].get(partition));
                let held = accounts.map(|account| format!("{} (floor {})", account.held(), account.floor()));
                held.collect::<Vec<_>>().join(", ")
            });
            let (name, held) = (task.shared.name(), held.unwrap_or_default());
            lines.push(format!("    `{name}` [{partition}] waits for {waits}; its nodes hold {held} bytes"));
        }
        for reader in self.readers.iter().filter(|reader| !reader.is_over()) {
            lines.push(format!("    the caller waits for `{}`", plan.nodes[reader.node].name));
        }
        lines.join("\n")
    }
}
