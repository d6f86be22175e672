//! What a task shows to the outside while it runs: where it is, what it waits for, what it counts.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;

use crate::error::Place;
use crate::metrics::{NodeCounters, TaskCounters, TaskState, add_time};
use crate::spill;
use crate::sync::AtomicBool;
use crate::task::Wait;

/// The public side of a task.
pub(crate) struct TaskShared {
    pub(crate) stage: usize,
    pub(crate) partition: usize,
    pub(crate) worker: usize,
    /// Name and counters of each node of the chain, the sink included.
    pub(crate) nodes: Vec<(Arc<str>, Arc<NodeCounters>)>,
    pub(crate) counters: TaskCounters,
    /// The node whose code runs.
    at: AtomicUsize,
    split: Mutex<Option<String>>,
    waiting: Mutex<(Waiting, Duration)>,
    /// Whether a wake-up is on its way: the task is about to run, however long its arbiter is busy with others.
    woken: OnceLock<Arc<AtomicBool>>,
    /// Its name, once it was asked for.
    label: OnceLock<Arc<str>>,
}

/// What a task waits for, as the watchdog sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Waiting {
    /// For nothing: it runs or is about to.
    Running,
    Input(Vec<usize>),
    Room(Vec<(usize, usize)>),
    Memory(usize),
    /// For another task, by a way of its operator's own.
    Task,
    /// For something outside the dataflow: what.
    Outside(&'static str),
    Ended,
}

impl TaskShared {
    pub(crate) fn new(
        stage: usize,
        partition: usize,
        worker: usize,
        nodes: Vec<(Arc<str>, Arc<NodeCounters>)>,
    ) -> Self {
        Self {
            stage,
            partition,
            worker,
            nodes,
            counters: TaskCounters::default(),
            at: AtomicUsize::new(0),
            split: Mutex::new(None),
            waiting: Mutex::new((Waiting::Running, Duration::ZERO)),
            woken: OnceLock::new(),
            label: OnceLock::new(),
        }
    }

    /// The node whose code is about to run, counted along the chain.
    pub(crate) fn enter(&self, node: usize) {
        self.at.store(node.min(self.nodes.len() - 1), Relaxed);
    }

    pub(crate) fn enter_tail(&self) {
        self.at.store(self.nodes.len() - 1, Relaxed);
    }

    pub(crate) fn node(&self, node: usize) -> &NodeCounters {
        &self.nodes[node.min(self.nodes.len() - 1)].1
    }

    pub(crate) fn set_split(&self, split: Option<String>) {
        *self.split.lock() = split;
    }

    /// The node whose code ran last.
    pub(crate) fn place(&self) -> Place {
        Place {
            node: self.nodes[self.at.load(Relaxed)].0.to_string(),
            partition: self.partition,
            split: self.split.lock().clone(),
        }
    }

    /// Its name in messages, such as `read -> filter [3]`.
    pub(crate) fn name(&self) -> String {
        let names: Vec<_> = self.nodes.iter().map(|(name, _)| &**name).collect();
        names.join(" -> ")
    }

    /// Its name, shared.
    pub(crate) fn label(&self) -> Arc<str> {
        Arc::clone(self.label.get_or_init(|| self.name().into()))
    }

    /// Tells it where to see that a wake-up is on its way.
    pub(crate) fn set_woken(&self, woken: Arc<AtomicBool>) {
        let _ = self.woken.set(woken);
    }

    /// What it waits for. A task that has been woken waits for nothing but its turn.
    pub(crate) fn waiting(&self) -> Waiting {
        let waiting = self.waiting.lock().0.clone();
        let woken = self.woken.get().is_some_and(|woken| woken.load(SeqCst));
        if woken && waiting != Waiting::Ended { Waiting::Running } else { waiting }
    }

    /// Changes what the task does, and books the time of what it did until `now`.
    pub(crate) fn set_waiting(&self, waiting: Waiting, now: Duration) {
        let mut current = self.waiting.lock();
        let time = now.saturating_sub(current.1);
        let counter = match current.0 {
            Waiting::Running => &self.counters.busy_ns,
            Waiting::Input(_) => &self.counters.idle_ns,
            Waiting::Room(_) => &self.counters.parked_ns,
            Waiting::Memory(_) => &self.counters.memory_ns,
            Waiting::Outside(_) | Waiting::Task => &self.counters.blocked_ns,
            Waiting::Ended => return,
        };
        // Time in the queue of the arbiter counts as busy: the task could run.
        if current.1 > Duration::ZERO {
            add_time(counter, time);
            if let Waiting::Outside(what) = current.0 {
                // It waits where it was when it began to wait.
                let node = self.node(self.at.load(Relaxed));
                add_time(if is_spilling(what) { &node.disk_ns } else { &node.outside_ns }, time);
            }
        }
        *current = (waiting, now);
    }

    pub(crate) fn state(&self) -> TaskState {
        match self.waiting.lock().0 {
            Waiting::Running => TaskState::Busy,
            Waiting::Input(_) => TaskState::Idle,
            Waiting::Room(_) => TaskState::Parked,
            Waiting::Memory(_) => TaskState::WaitingForMemory,
            Waiting::Outside(_) | Waiting::Task => TaskState::Blocked,
            Waiting::Ended => TaskState::Ended,
        }
    }

    /// What it waits for, and since when; the time since then is booked nowhere yet.
    pub(crate) fn current(&self) -> (Waiting, Duration) {
        self.waiting.lock().clone()
    }

    /// The node whose code ran last, counted along the chain.
    pub(crate) fn at(&self) -> usize {
        self.at.load(Relaxed)
    }
}

/// Whether a wait is one for spilled state.
pub(crate) fn is_spilling(what: &str) -> bool {
    what == spill::WRITING || what == spill::READING
}

impl From<&Wait> for Waiting {
    fn from(wait: &Wait) -> Self {
        match wait {
            Wait::Input(edges) => Waiting::Input(edges.clone()),
            Wait::Room(receivers) => Waiting::Room(receivers.clone()),
            Wait::Memory(bytes) => Waiting::Memory(*bytes),
            Wait::Outside(ticket) if ticket.is_of_task() => Waiting::Task,
            Wait::Outside(ticket) => Waiting::Outside(ticket.what()),
        }
    }
}
