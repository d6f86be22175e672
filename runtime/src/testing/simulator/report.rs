//! What a simulation tells: what a run gave, what all runs came to, and a seed that breaks a rule.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;

use arrow::record_batch::RecordBatch;

use super::compare::Rows;
use super::scenario::Scenario;
use crate::error::ExecutionError;
use crate::metrics::JobMetrics;

/// How one job of one run ended: what [`Simulation::check`](super::Simulation::check) is given.
#[derive(Debug)]
pub struct Run {
    pub(super) error: Option<ExecutionError>,
    pub(super) metrics: JobMetrics,
    /// By node, with the node's name.
    pub(super) results: BTreeMap<usize, (String, Rows)>,
    pub(super) sinks: BTreeMap<usize, (String, Rows)>,
}

impl Run {
    /// The job's error; `None` if it ended well. With faults, some runs are to fail: the simulator has checked that it
    /// is the error that was to come.
    pub fn error(&self) -> Option<&ExecutionError> {
        self.error.as_ref()
    }

    /// All rows of the result called `name`, in the order in which they came. `None` if the job failed, or the
    /// caller dropped the stream.
    pub fn result(&self, name: &str) -> Option<&RecordBatch> {
        self.results.values().find(|(node, _)| node == name).map(|(_, rows)| &rows.batch)
    }

    /// All rows that were written to the sink called `name`. `None` if the job failed.
    pub fn written(&self, name: &str) -> Option<&RecordBatch> {
        self.sinks.values().find(|(node, _)| node == name).map(|(_, rows)| &rows.batch)
    }

    /// What the job has counted.
    pub fn metrics(&self) -> &JobMetrics {
        &self.metrics
    }
}

/// What runs came to together.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Report {
    /// Seeds that were tried.
    pub runs: u64,
    /// Jobs that ended well.
    pub finished: u64,
    /// Jobs that ended with an error, as they were to.
    pub failed: u64,
    /// Jobs that were cancelled.
    pub cancelled: u64,
    /// Events: steps, pieces of I/O, reads of the caller.
    pub events: u64,
    /// Steps of tasks.
    pub steps: u64,
    /// Pieces of I/O.
    pub io: u64,
    /// Times that memory was asked back without need.
    pub reclaims: u64,
    /// Times that nothing went on, but for something outside.
    pub quiet: u64,
    /// Bytes written to the simulated disk.
    pub disk_bytes: u64,
    /// Bytes of queued batches that were written to it.
    pub spooled_bytes: u64,
    /// Cycles that the watchdog has resolved. 0 but for runs without hazard marks.
    pub deadlocks: u64,
    /// Faults that have struck, by kind.
    pub faults: BTreeMap<&'static str, u64>,
}

pub(super) type Facts = Report;

impl Report {
    pub(super) fn add(&mut self, run: &Report) {
        self.runs += 1;
        self.finished += run.finished;
        self.failed += run.failed;
        self.cancelled += run.cancelled;
        self.events += run.events;
        self.steps += run.steps;
        self.io += run.io;
        self.reclaims += run.reclaims;
        self.quiet += run.quiet;
        self.disk_bytes += run.disk_bytes;
        self.spooled_bytes += run.spooled_bytes;
        self.deadlocks += run.deadlocks;
        for (fault, times) in &run.faults {
            *self.faults.entry(fault).or_default() += times;
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} seeds: {} jobs ended well, {} failed as they were to, {} were cancelled; {} steps, {} pieces of I/O, {} \
             quiet moments, {} bytes to disk, {} of them spooled; {} cycles resolved; faults: {:?}",
            self.runs,
            self.finished,
            self.failed,
            self.cancelled,
            self.steps,
            self.io,
            self.quiet,
            self.disk_bytes,
            self.spooled_bytes,
            self.deadlocks,
            self.faults
        )
    }
}

/// What every run has to keep to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rule {
    Plan,
    Panic,
    Endless,
    Parked,
    Watchdog,
    Overrun,
    Leak,
    Permit,
    FileLeft,
    EdgeRows,
    WrongRows,
    UnexpectedError,
    MissingError,
    Errors,
    Commit,
    Contract,
    Check,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Rule::Plan => "the graph can be planned",
            Rule::Panic => "nothing panics but what is told to",
            Rule::Endless => "every run ends",
            Rule::Parked => "no task is parked for ever",
            Rule::Watchdog => "no cycle of waits comes about",
            Rule::Overrun => "no worker is charged more than its limit",
            Rule::Leak => "all memory is given back",
            Rule::Permit => "every permit is given back, once",
            Rule::FileLeft => "no spill file is left",
            Rule::EdgeRows => "rows out of each edge are the rows in",
            Rule::WrongRows => "results are those of a run without limits and faults",
            Rule::UnexpectedError => "a job fails of what went wrong, and of nothing else",
            Rule::MissingError => "what goes wrong ends the job with an error",
            Rule::Errors => "everybody hears of the same one error",
            Rule::Commit => "sinks are committed once if all went well, and else aborted",
            Rule::Contract => "instances are called as their traits say",
            Rule::Check => "the check of the test",
        })
    }
}

/// A rule that was broken, and how.
#[derive(Debug, Clone)]
pub(super) struct Violation {
    pub(super) rule: Rule,
    pub(super) detail: String,
}

impl Violation {
    pub(super) fn new(rule: Rule, detail: String) -> Self {
        Self { rule, detail }
    }
}

/// The last events of a run in words, kept where somebody wants to read them.
#[derive(Debug, Default)]
pub(super) struct Trace {
    /// How many are kept; `None` if none but the last.
    pub(super) keep: Option<usize>,
    /// What happened, and how often in a row.
    events: VecDeque<(String, usize)>,
    count: u64,
    /// Distinguishes runs that are not the same.
    pub(super) digest: u64,
}

impl Trace {
    pub(super) fn kept(keep: usize) -> Self {
        Self { keep: Some(keep), ..Self::default() }
    }

    pub(super) fn add(&mut self, event: impl FnOnce() -> String) {
        let Some(keep) = self.keep else { return };
        let event = event();
        self.count += 1;
        let bytes = event
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        self.digest = self.digest.rotate_left(5) ^ bytes;
        match self.events.back_mut() {
            Some((last, times)) if *last == event => *times += 1,
            _ => {
                if self.events.len() >= keep {
                    self.events.pop_front();
                }
                self.events.push_back((event, 1));
            }
        }
    }

    pub(super) fn events_seen(&self) -> u64 {
        self.count
    }

    pub(super) fn last(&self) -> &str {
        self.events.back().map_or("", |(event, _)| event)
    }

    pub(super) fn into_events(self) -> Vec<String> {
        let told = |(event, times)| if times == 1 { event } else { format!("{event} ({times} times)") };
        self.events.into_iter().map(told).collect()
    }
}

/// A seed that breaks a rule, made as simple as it gets. Its `Display` says what happened and how to see it again.
#[derive(Debug, Clone)]
pub struct Counterexample {
    pub(super) seed: u64,
    /// Names of simplifications, in order.
    pub(super) simplified: Vec<String>,
    pub(super) scenario: Scenario,
    pub(super) violation: Violation,
    pub(super) events: u64,
    pub(super) trace: Vec<String>,
}

impl Counterexample {
    /// The seed.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// What `AQUEDUCT_SEED` replays it: the seed, and the names of what was simplified.
    pub fn replay(&self) -> String {
        match self.simplified.as_slice() {
            [] => self.seed.to_string(),
            names => format!("{}:{}", self.seed, names.join("+")),
        }
    }

    /// What was broken, in words.
    pub fn what(&self) -> String {
        format!("{}: {}", self.violation.rule, self.violation.detail)
    }
}

impl fmt::Display for Counterexample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {} breaks a rule: {}", self.seed, self.violation.rule)?;
        writeln!(f, "  {}", self.violation.detail)?;
        writeln!(f, "the simplest run that breaks it, {} events:", self.events)?;
        writeln!(f, "{}", self.scenario)?;
        if !self.trace.is_empty() {
            writeln!(f, "its last events:")?;
            for event in &self.trace {
                writeln!(f, "    {event}")?;
            }
        }
        write!(f, "to see it again, run this test alone with AQUEDUCT_SEED={}", self.replay())
    }
}
