//! The simulator: runs a graph on one thread, under a schedule that a seed decides, and looks for what breaks a promise.
//!
//! ```text
//! seed ─▶ scenario: sizes, limits, pace, faults
//!           └▶ run: real plan, tasks, ports, pools, spill files
//!                   played: who is next, the clock, the I/O threads, the disk, the caller
//!                 └▶ invariants after every event and at the end ─▶ broken: shrink, report, replay
//! ```
//!
//! Everything that a run does is decided by its seed, so a seed that breaks a rule breaks it again. For that, instances
//! must be deterministic: they wait for work that they give to their context's [`Io`](crate::io::Io), and for nothing
//! else outside; they ask no clock and start no thread.

mod compare;
mod disk;
mod invariants;
mod job;
mod queue;
mod random;
mod report;
mod run;
mod scenario;
#[cfg(test)]
mod tests;
mod watched;

use std::collections::BTreeMap;
use std::ops::Range;

pub(super) use random::Random;
pub use report::{Counterexample, Report, Run};

use crate::graph::Graph;
use report::{Trace, Violation};
use run::{Setup, run};
use scenario::{SIMPLIFICATIONS, Scenario};

/// Events that a report shows.
const SHOWN_EVENTS: usize = 40;
/// Other schedules that are tried for each simplification.
const SCHEDULES: u64 = 3;

/// Simulates the graph that `graph` makes: once for each job of each run.
///
/// # Examples
///
/// ```
/// use aqueduct_runtime::testing::{NumbersSource, simulate};
/// use aqueduct_runtime::{Graph, Partitions};
///
/// let report = simulate(|| {
///     let mut graph = Graph::new();
///     let numbers = graph.source("numbers", NumbersSource::new(1_000).split_rows(100));
///     let same = graph.map("same", numbers.hash(["n"]), Ok);
///     graph.set_partitions(same, Partitions::Fixed(3));
///     graph.result("all", same);
///     graph
/// })
/// .seeds(0..20)
/// .check(|run| {
///     if let Some(rows) = run.result("all") {
///         assert_eq!(rows.num_rows(), 1_000);
///     }
/// });
/// assert_eq!(report.runs, 20);
/// ```
pub fn simulate(graph: impl Fn() -> Graph + 'static) -> Simulation {
    let setup = Setup { graph: Box::new(graph), hazard_marks: true, any_rows: false, check: Box::new(|_| ()) };
    Simulation { setup, seeds: 0..100, faults: true, smallest_batch_bytes: 0 }
}

/// Runs of one graph, to be tried for many seeds. Made by [`simulate`].
pub struct Simulation {
    setup: Setup,
    seeds: Range<u64>,
    faults: bool,
    smallest_batch_bytes: usize,
}

impl Simulation {
    /// Sets the seeds to try: 0 to 100 if not told otherwise.
    ///
    /// The environment variable `AQUEDUCT_SEEDS` sets another number of seeds, from the same first one on, and
    /// `AQUEDUCT_SEED` the only one to try, as a report names it.
    #[must_use]
    pub fn seeds(self, seeds: Range<u64>) -> Self {
        Self { seeds, ..self }
    }

    /// Says that results depend on who comes first, as behind a limit: they are not compared with those of the
    /// reference run.
    #[must_use]
    pub fn any_rows(mut self) -> Self {
        self.setup.any_rows = true;
        self
    }

    /// Takes the hazard marks off the plan, so that only the watchdog is left; its resolutions are no violations then.
    #[must_use]
    pub fn without_hazard_marks(mut self) -> Self {
        self.setup.hazard_marks = false;
        self
    }

    /// Draws no batches smaller than this. A real plan's have 64 KiB at the least: a `min_memory` that counts on that has
    /// no room for what an operator needs beside its batches where they are smaller.
    #[must_use]
    pub fn smallest_batch_bytes(self, smallest_batch_bytes: usize) -> Self {
        Self { smallest_batch_bytes, ..self }
    }

    /// Lets nothing go wrong but schedules, sizes and paces.
    #[must_use]
    pub fn without_faults(self) -> Self {
        Self { faults: false, ..self }
    }

    /// Has `check` called for each job of each run that ended, well or not. If it panics, a rule is broken.
    #[must_use]
    pub fn with_check(mut self, check: impl Fn(&Run) + 'static) -> Self {
        self.setup.check = Box::new(check);
        self
    }

    /// Tries all seeds, and calls `check` for each job of each run that ended, well or not.
    ///
    /// # Panics
    ///
    /// At the first seed that breaks a rule or at which `check` panics, with its [`Counterexample`].
    #[track_caller]
    pub fn check(self, check: impl Fn(&Run) + 'static) -> Report {
        match self.with_check(check).find() {
            Ok(report) => report,
            Err(counterexample) => panic!("{counterexample}"),
        }
    }

    /// Tries all seeds.
    ///
    /// # Errors
    ///
    /// The first that breaks a rule, shrunk.
    pub fn find(&self) -> Result<Report, Box<Counterexample>> {
        let mut references = References::default();
        let mut report = Report::default();
        if let Some((seed, simplified)) = replayed() {
            let mut scenario = self.scenario(seed);
            simplified.iter().for_each(|name| {
                scenario.simplify(name);
            });
            let facts = self.try_one(&scenario, &mut references, &mut Trace::kept(SHOWN_EVENTS));
            let facts =
                facts.map_err(|violation| self.explain(seed, simplified, scenario, violation, &mut references))?;
            report.add(&facts);
            return Ok(report);
        }
        let count = std::env::var("AQUEDUCT_SEEDS").ok().and_then(|count| count.parse::<u64>().ok());
        let seeds = count.map_or(self.seeds.clone(), |count| self.seeds.start..self.seeds.start.saturating_add(count));
        for seed in seeds {
            let scenario = self.scenario(seed);
            match self.try_one(&scenario, &mut references, &mut Trace::default()) {
                Ok(facts) => report.add(&facts),
                Err(violation) => return Err(self.shrink(seed, scenario, violation, &mut references)),
            }
        }
        Ok(report)
    }

    fn scenario(&self, seed: u64) -> Scenario {
        let scenario = Scenario::of(seed, self.faults);
        Scenario { batch_bytes: scenario.batch_bytes.max(self.smallest_batch_bytes), ..scenario }
    }

    fn try_one(
        &self,
        scenario: &Scenario,
        references: &mut References,
        trace: &mut Trace,
    ) -> Result<Report, Violation> {
        let reference = references.of(&self.setup, scenario)?;
        run(&self.setup, scenario, Some(reference), trace).map(|(facts, _)| facts)
    }

    /// Leaves out of `scenario` whatever is not needed to break the same rule.
    fn shrink(
        &self,
        seed: u64,
        mut scenario: Scenario,
        mut violation: Violation,
        references: &mut References,
    ) -> Box<Counterexample> {
        let mut simplified: Vec<String> = Vec::new();
        let mut again = true;
        while std::mem::take(&mut again) {
            for name in SIMPLIFICATIONS {
                let mut simpler = scenario.clone();
                if !simpler.simplify(name) {
                    continue;
                }
                // What is left out changes who is next, too: a few other schedules are tried.
                for schedule in 0..=SCHEDULES {
                    let (mut other, mut names) = (simpler.clone(), vec![name.to_string()]);
                    if schedule > 0 {
                        names.push(format!("again-{schedule}"));
                        other.simplify(&names[1]);
                    }
                    match self.try_one(&other, references, &mut Trace::default()) {
                        Err(found) if found.rule == violation.rule => {
                            (scenario, violation, again) = (other, found, true);
                            simplified.append(&mut names);
                            break;
                        }
                        _ => {}
                    }
                }
            }
        }
        self.explain(seed, simplified, scenario, violation, references)
    }

    /// Runs a scenario that breaks a rule once more, and keeps what happens.
    fn explain(
        &self,
        seed: u64,
        simplified: Vec<String>,
        scenario: Scenario,
        violation: Violation,
        references: &mut References,
    ) -> Box<Counterexample> {
        let mut trace = Trace::kept(SHOWN_EVENTS);
        // The same in more words, unless the code under test is not deterministic.
        let again = self.try_one(&scenario, references, &mut trace).err();
        let violation = again.unwrap_or_else(|| Violation {
            detail: format!("{} (it did not happen again: something is not deterministic)", violation.detail),
            ..violation
        });
        let events = trace.events_seen();
        Box::new(Counterexample { seed, simplified, scenario, violation, events, trace: trace.into_events() })
    }
}

impl std::fmt::Debug for Simulation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Simulation").field("seeds", &self.seeds).field("faults", &self.faults).finish_non_exhaustive()
    }
}

/// The seed that `AQUEDUCT_SEED` asks for, and the simplifications behind it.
fn replayed() -> Option<(u64, Vec<String>)> {
    let text = std::env::var("AQUEDUCT_SEED").ok()?;
    let (seed, names) = text.split_once(':').unwrap_or((&text, ""));
    let seed = seed.trim().parse().unwrap_or_else(|_| panic!("AQUEDUCT_SEED is `{text}`, and not a seed"));
    Some((seed, names.split('+').filter(|name| !name.is_empty()).map(ToString::to_string).collect()))
}

/// Runs without limits and faults, by workers, threads and partitions per thread: what an operator emits once per
/// partition depends on how many there are.
#[derive(Default)]
struct References(BTreeMap<(usize, usize, usize), Run>);

impl References {
    fn of(&mut self, setup: &Setup, scenario: &Scenario) -> Result<&Run, Violation> {
        let key = (scenario.workers, scenario.threads, scenario.per_arbiter);
        match self.0.entry(key) {
            std::collections::btree_map::Entry::Occupied(found) => Ok(found.into_mut()),
            std::collections::btree_map::Entry::Vacant(missing) => {
                let (_, mut runs) = run(setup, &scenario.reference(), None, &mut Trace::default())
                    .map_err(|v| Violation { detail: format!("in the reference run: {}", v.detail), ..v })?;
                Ok(missing.insert(runs.swap_remove(0)))
            }
        }
    }
}
