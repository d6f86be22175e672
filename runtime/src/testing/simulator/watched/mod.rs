//! A graph whose sources, operators and sinks are watched: calls are counted, faults strike, and what a task may not
//! do to an instance is noticed.

mod operator;
mod sink;
mod source;

use std::collections::{BTreeMap, BTreeSet};
use std::panic::resume_unwind;
use std::sync::Arc;

use arrow::record_batch::RecordBatch;
use parking_lot::Mutex;

use super::random::Random;
use super::scenario::Fault;
use crate::error::{OperatorError, Result};
use crate::graph::{Graph, NodeKind};
use crate::io::{Io, Ticket};
use crate::plan::unique;

/// What the instances of a run share: faults to strike, and what has happened.
#[derive(Debug)]
pub(in crate::testing::simulator) struct World {
    pub(in crate::testing::simulator) faults: Vec<Fault>,
    stall: u64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    calls: u64,
    drops: u64,
    random: Random,
    happened: Vec<Happened>,
    /// What a task should not have done.
    broken: Option<String>,
    /// Jobs that have an error, or have ended.
    over: Vec<bool>,
    /// Nodes of each job of which an instance has said that it is done.
    done: BTreeSet<(usize, usize)>,
}

/// A fault that has struck.
#[derive(Debug, Clone)]
pub(in crate::testing::simulator) struct Happened {
    pub(in crate::testing::simulator) fault: Fault,
    /// `None` if it may be any.
    pub(in crate::testing::simulator) job: Option<usize>,
    /// Where: node and, if it is known, partition.
    pub(in crate::testing::simulator) place: Option<(String, Option<usize>)>,
}

impl World {
    pub(in crate::testing::simulator) fn new(faults: &[Fault], stall: u64, jobs: usize, random: Random) -> Arc<Self> {
        let over = vec![false; jobs];
        let state =
            State { calls: 0, drops: 0, random, happened: Vec::new(), broken: None, over, done: BTreeSet::new() };
        Arc::new(Self { faults: faults.to_vec(), stall, state: Mutex::new(state) })
    }

    pub(in crate::testing::simulator) fn happened(&self) -> Vec<Happened> {
        self.state.lock().happened.clone()
    }

    pub(in crate::testing::simulator) fn broken(&self) -> Option<String> {
        self.state.lock().broken.clone()
    }

    pub(in crate::testing::simulator) fn calls(&self) -> u64 {
        self.state.lock().calls
    }

    /// From now on no instance of `job` is to be called.
    pub(in crate::testing::simulator) fn set_over(&self, job: usize) {
        self.state.lock().over[job] = true;
    }

    /// Notes a fault of the disk, the first time that it strikes.
    pub(in crate::testing::simulator) fn disk_fault(&self, fault: Fault) {
        let mut state = self.state.lock();
        if !state.happened.iter().any(|happened| happened.fault == fault) {
            state.happened.push(Happened { fault, job: None, place: None });
        }
    }

    /// Notes what the caller did.
    pub(in crate::testing::simulator) fn caller_did(&self, fault: Fault, job: usize) {
        self.state.lock().happened.push(Happened { fault, job: Some(job), place: None });
    }

    /// Nodes of `job` that wanted no more input before it had ended.
    pub(in crate::testing::simulator) fn done_nodes(&self, job: usize) -> Vec<usize> {
        self.state.lock().done.iter().filter(|(of, _)| *of == job).map(|(_, node)| *node).collect()
    }

    fn break_rule(&self, what: String) {
        self.state.lock().broken.get_or_insert(what);
    }
}

/// A node of one job, as its instances report from it.
#[derive(Debug, Clone)]
struct Site {
    world: Arc<World>,
    job: usize,
    index: usize,
    node: Arc<str>,
    partition: Option<usize>,
}

impl Site {
    fn at(&self, partition: usize) -> Site {
        Site { partition: Some(partition), ..self.clone() }
    }

    /// Called before each call of an instance: fails if it is the turn of a fault.
    fn enter(&self, call: &str) -> Result<()> {
        let mut state = self.world.state.lock();
        let number = state.calls;
        state.calls += 1;
        if state.over[self.job] {
            let broken = format!("`{}` was called ({call}) after its job had failed or ended", self.node);
            state.broken.get_or_insert(broken);
        }
        let fault = self
            .world
            .faults
            .iter()
            .copied()
            .find(|fault| matches!(fault, Fault::Error { call } | Fault::Panic { call } if *call == number));
        let Some(fault) = fault else { return Ok(()) };
        let place = Some((self.node.to_string(), self.partition));
        state.happened.push(Happened { fault, job: Some(self.job), place });
        drop(state);
        match fault {
            Fault::Panic { .. } => panic_quietly(number),
            _ => Err(OperatorError::new(injected(number))),
        }
    }

    /// Notes that an instance wants no more input.
    fn note_done(&self) {
        self.world.state.lock().done.insert((self.job, self.index));
    }

    /// Called as an instance is dropped.
    fn leave(&self) {
        let mut state = self.world.state.lock();
        let number = state.drops;
        state.drops += 1;
        let fault = self.world.faults.iter().copied().find(|fault| *fault == Fault::PanicInDrop { drop: number });
        // A second panic while the first unwinds would end the process.
        if let Some(fault) = fault.filter(|_| !std::thread::panicking()) {
            let place = Some((self.node.to_string(), self.partition));
            state.happened.push(Happened { fault, job: Some(self.job), place });
            drop(state);
            panic_quietly(number);
        }
    }

    /// Sometimes something outside to wait for: it comes about when the simulated I/O thread gets to it.
    fn stall(&self, io: &Io) -> Option<Ticket> {
        let stalls = self.world.state.lock().random.once_in(self.world.stall);
        stalls.then(|| {
            let (ticket, completion) = Ticket::new("a stall");
            io.submit(move || drop(completion));
            ticket
        })
    }
}

/// The message of an injected error or panic.
pub(in crate::testing::simulator) fn injected(number: u64) -> String {
    format!("injected by the simulator, number {number}")
}

/// Unwinds as a panic does, but prints nothing.
fn panic_quietly(number: u64) -> ! {
    resume_unwind(Box::new(injected(number)))
}

/// What the sinks of one job were given, by node.
pub(in crate::testing::simulator) type Records = Arc<Mutex<BTreeMap<usize, Record>>>;

/// What became of one sink.
#[derive(Debug, Default)]
pub(in crate::testing::simulator) struct Record {
    pub(in crate::testing::simulator) batches: Vec<RecordBatch>,
    pub(in crate::testing::simulator) commits: usize,
    pub(in crate::testing::simulator) aborts: usize,
}

/// `graph`, watched, as job number `job`.
pub(in crate::testing::simulator) fn watch(mut graph: Graph, world: &Arc<World>, job: usize) -> (Graph, Records) {
    let records = Records::default();
    let mut names: Vec<Arc<str>> = Vec::new();
    for (index, node) in graph.nodes.iter_mut().enumerate() {
        // As errors will name it: several nodes may have been given the same name.
        node.name = unique(&node.name, index, names.iter());
        names.push(Arc::clone(&node.name));
        let site = Site { world: Arc::clone(world), job, index, node: Arc::clone(&node.name), partition: None };
        node.kind = match &node.kind {
            NodeKind::Source(spec) => NodeKind::Source(Arc::new(source::Watched::new(Arc::clone(spec), site))),
            NodeKind::Operator(spec) => NodeKind::Operator(Arc::new(operator::Watched::new(Arc::clone(spec), site))),
            NodeKind::Sink(spec) => {
                records.lock().insert(index, Record::default());
                NodeKind::Sink(Arc::new(sink::Watched::new(Arc::clone(spec), site, index, &records)))
            }
            NodeKind::Result => NodeKind::Result,
        };
    }
    (graph, records)
}
