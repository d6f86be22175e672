//! One run: real plan, tasks, ports, pools and spill files on this thread, and a scheduler that a seed decides.
//!
//! In each event one thing happens: a task steps, a piece of I/O ends, or the caller reads. What is always to hold is
//! looked at after every event, the rest once all is over.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::Wake;
use std::time::Duration;

use parking_lot::Mutex;

use super::disk::{Handle, SimulatedDisk};
use super::invariants;
use super::job::{Reader, Reading, SimulatedJob, SimulatedTask};
use super::queue::Queue;
use super::random::Random;
use super::report::{Facts, Rule, Run, Trace, Violation};
use super::scenario::{Fault, Policy, Scenario};
use super::watched::{World, watch};
use crate::actor::TaskActor;
use crate::build::{WorkerParts, build};
use crate::config::ClusterConfig;
use crate::error::{ExecutionError, Place, panic_message};
use crate::graph::Graph;
use crate::io::Io;
use crate::job::{Job, JobCore};
use crate::memory::{MemoryPool, Reservation};
use crate::plan::Plan;
use crate::spill::SpillDir;
use crate::task::Clock;
use crate::testing::leaks::over_limit;

/// Looks of the watchdog at a quiet system before something outside goes on.
const QUIET_LOOKS: usize = 3;
/// Looks without any effect after which a system is given up.
const LAST_LOOKS: usize = 12;
/// Events after which a run is given up, and as many for each call of a watched instance.
const EVENTS: u64 = 200_000;

/// What all runs of a simulation have in common.
pub(super) struct Setup {
    pub(super) graph: Box<dyn Fn() -> Graph>,
    pub(super) hazard_marks: bool,
    /// Results and sinks may have any rows.
    pub(super) any_rows: bool,
    pub(super) check: Box<dyn Fn(&Run)>,
}

/// Time as the tasks see it: each look at the clock takes some, and now and then more than a step has.
struct SimulatedClock(Mutex<(Duration, Random, u64)>);

impl Clock for SimulatedClock {
    fn now(&self) -> Duration {
        let mut state = self.0.lock();
        let (now, random, pieces) = &mut *state;
        *now += if random.once_in(*pieces) { Duration::from_millis(3) } else { Duration::from_micros(1) };
        *now
    }
}

pub(super) struct Simulator<'a> {
    setup: &'a Setup,
    pub(super) scenario: &'a Scenario,
    random: Random,
    pub(super) world: Arc<World>,
    pub(super) disk: Arc<SimulatedDisk>,
    pub(super) pools: Vec<MemoryPool>,
    /// One for each worker, and one for starts and commits.
    queues: Vec<Queue>,
    pub(super) jobs: Vec<SimulatedJob>,
    /// Memory that somebody else has taken for a while, by worker.
    hogs: Vec<Reservation>,
    dir: Option<SpillDir>,
    events: u64,
    quiet_looks: usize,
    pub(super) facts: Facts,
    trace: Trace,
}

/// Runs `setup`'s graph once as `scenario` says, and compares with `reference` where there is one.
///
/// # Errors
///
/// The first rule that was broken.
pub(super) fn run(
    setup: &Setup,
    scenario: &Scenario,
    reference: Option<&Run>,
    trace: &mut Trace,
) -> Result<(Facts, Vec<Run>), Violation> {
    let mut simulator = Simulator::new(setup, scenario, std::mem::take(trace))?;
    let result = catch_unwind(AssertUnwindSafe(|| simulator.go(reference))).unwrap_or_else(|panic| {
        Err(Violation::new(
            Rule::Panic,
            format!("the simulated code panicked outside of a task: {}", panic_message(&*panic)),
        ))
    });
    *trace = std::mem::take(&mut simulator.trace);
    simulator.facts.events = simulator.events;
    let facts = std::mem::take(&mut simulator.facts);
    if result.is_err() {
        // What is broken may not come apart in order either.
        let _ = catch_unwind(AssertUnwindSafe(move || drop(simulator)));
    }
    result.map(|runs| (facts, runs))
}

impl<'a> Simulator<'a> {
    fn new(setup: &'a Setup, scenario: &'a Scenario, trace: Trace) -> Result<Self, Violation> {
        let mut random = Random::new(scenario.schedule);
        let world = World::new(&scenario.faults, scenario.stall, scenario.jobs, random.fork());
        let clock: Arc<dyn Clock> =
            Arc::new(SimulatedClock(Mutex::new((Duration::from_millis(1), random.fork(), scenario.pieces))));
        let disk = SimulatedDisk::new(&world);
        let (ios, queues): (Vec<Io>, Vec<Queue>) = (0..=scenario.workers).map(|_| Queue::new()).unzip();
        let mut simulator = Self {
            setup,
            scenario,
            random,
            world,
            disk,
            pools: Vec::new(),
            queues,
            jobs: Vec::new(),
            hogs: Vec::new(),
            dir: None,
            events: 0,
            quiet_looks: 0,
            facts: Facts::default(),
            trace,
        };
        simulator.start(&ios, &clock)?;
        Ok(simulator)
    }

    /// Plans and admits all jobs, and makes their tasks: what the control thread of a cluster does.
    fn start(&mut self, ios: &[Io], clock: &Arc<dyn Clock>) -> Result<(), Violation> {
        let scenario = self.scenario;
        let mut planned = Vec::new();
        for index in 0..scenario.jobs {
            let (graph, records) = watch((self.setup.graph)(), &self.world, index);
            planned.push((self.plan(&graph)?, records));
        }
        let floors: Vec<usize> = (0..scenario.workers)
            .map(|worker| planned.iter().map(|(plan, _)| plan.floor_bytes()[worker]).sum())
            .collect();
        let floor = floors.iter().copied().max().unwrap_or(0);
        let limit = floor + floor / 100 * scenario.extra_percent;
        self.pools = (0..scenario.workers).map(|_| MemoryPool::new(limit)).collect();
        self.hogs = self.pools.iter().map(|pool| pool.account("another job").reservation()).collect();
        let spill_limit = scenario.faults.iter().find_map(|fault| match fault {
            Fault::SpillLimit { bytes } => Some(*bytes),
            _ => None,
        });
        let dir = SpillDir::nowhere(Arc::new(Handle(Arc::clone(&self.disk))), spill_limit, scenario.compression);
        self.dir = Some(dir.clone());
        let jobs_io = &ios[scenario.workers];
        for (index, (mut plan, records)) in planned.into_iter().enumerate() {
            plan.limit_bytes = limit;
            let half_limit = plan.half_limit_bytes;
            let plan = Arc::new(plan);
            let core = JobCore::new(index as u64, Arc::clone(&plan), jobs_io.clone(), self.pools.clone());
            let mut job = Job::new(Arc::clone(&core));
            let readers = Reader::all_of(&mut job, &plan, &scenario.faults);
            let mut parts = Vec::new();
            for ((pool, io), &bytes) in self.pools.iter().zip(ios).zip(plan.floor_bytes()) {
                let admission = pool.admit_job(Some(index as u64), bytes, half_limit);
                let admission =
                    admission.ok_or_else(|| Violation::new(Rule::Panic, "the floors were refused".into()))?;
                parts.push(WorkerParts { admission, io: io.clone() });
            }
            core.admitted();
            let ended = core.ended_guard();
            let mut simulated = SimulatedJob {
                core: Arc::clone(&core),
                job: Some(job),
                is_left: false,
                tasks: Vec::new(),
                ports: Vec::new(),
                watch: Default::default(),
                readers,
                records,
                stopped_edges: Default::default(),
            };
            match catch_unwind(AssertUnwindSafe(|| build(&core, &parts, &dir, clock))) {
                Ok(Ok((running, placed))) => {
                    simulated.ports = running.edges.iter().map(|(_, ports)| ports.clone()).collect();
                    core.start(running);
                    for placed in placed {
                        let (flag, shared) = (placed.flag, Arc::clone(placed.task.shared()));
                        let actor =
                            TaskActor::new(placed.task, Arc::clone(&flag), Arc::clone(&core), Arc::clone(clock));
                        flag.wake_by_ref();
                        let priority = self.random.next();
                        simulated.tasks.push(SimulatedTask { actor, flag, shared, priority, ready_since: 0 });
                    }
                }
                Ok(Err(error)) => core.fail(error),
                Err(panic) => core.fail(ExecutionError::Panic {
                    at: Place { node: "the start of the job".into(), partition: 0, split: None },
                    message: panic_message(&*panic),
                }),
            }
            drop(ended);
            self.jobs.push(simulated);
        }
        Ok(())
    }

    fn plan(&self, graph: &Graph) -> Result<Plan, Violation> {
        let scenario = self.scenario;
        let config = ClusterConfig {
            workers: scenario.workers,
            threads_per_worker: scenario.threads,
            memory_limit_bytes: usize::MAX,
            spill_dir: None,
            spill_limit_bytes: None,
            spill_compression: scenario.compression,
        };
        let sizes = (scenario.batch_bytes, scenario.batch_rows);
        let plan = Plan::with_sizes(graph, &config, scenario.per_arbiter, sizes, scenario.lane_batches);
        let plan = plan.map_err(|error| Violation::new(Rule::Plan, error.to_string()))?;
        Ok(if self.setup.hazard_marks { plan } else { plan.without_hazard_marks() })
    }

    fn go(&mut self, reference: Option<&Run>) -> Result<Vec<Run>, Violation> {
        loop {
            self.events += 1;
            if self.events > EVENTS + 4 * self.world.calls() {
                let waits: Vec<_> = self.jobs.iter().map(SimulatedJob::waits).collect();
                let detail = format!("no end after {} events\n{}", self.events, waits.join("\n"));
                return Err(Violation::new(Rule::Endless, detail));
            }
            self.strike();
            self.disturb();
            if self.act() {
                self.quiet_looks = 0;
            } else if self.is_over() {
                break;
            } else {
                self.nudge()?;
            }
            self.check_event()?;
        }
        self.hogs.clear();
        let runs = invariants::check_ended(self, reference, self.setup.any_rows)?;
        for run in &runs {
            let checked = catch_unwind(AssertUnwindSafe(|| (self.setup.check)(run)));
            checked.map_err(|panic| Violation::new(Rule::Check, panic_message(&*panic)))?;
        }
        invariants::check_clean(self)?;
        Ok(runs)
    }

    fn is_over(&mut self) -> bool {
        self.jobs.iter().all(|job| job.has_ended() && job.readers.iter().all(Reader::is_over))
    }

    /// What the caller does at a certain event.
    fn strike(&mut self) {
        for &fault in &self.scenario.faults {
            let at = match fault {
                Fault::Cancel { event } | Fault::DropJob { event } => event,
                _ => continue,
            };
            let job = &mut self.jobs[0];
            if self.events != at + 1 || job.core.error().is_some() {
                continue;
            }
            self.trace.add(|| format!("the caller: {fault:?}"));
            match fault {
                Fault::DropJob { .. } => {
                    drop(job.job.take());
                    job.is_left = !job.has_ended();
                }
                _ => job.job.as_ref().into_iter().for_each(Job::cancel),
            }
            // Once the commit has begun it is too late.
            if job.core.error().is_some() {
                self.world.caller_did(fault, 0);
                self.world.set_over(0);
            }
        }
    }

    /// What may happen at any time and must change nothing.
    fn disturb(&mut self) {
        if self.random.once_in(self.scenario.reclaim) {
            let pool = self.random.index(self.pools.len());
            let bytes = 1 + self.random.below(4 * self.scenario.batch_bytes as u64) as usize;
            self.trace.add(|| format!("reclaim of {bytes} bytes on worker {pool}"));
            self.pools[pool].reclaim(bytes);
            self.facts.reclaims += 1;
        }
        if self.random.once_in(self.scenario.hog) {
            let worker = self.random.index(self.pools.len());
            let (hog, pool) = (&mut self.hogs[worker], &self.pools[worker]);
            let bytes = self.random.below(pool.available() as u64 + 1) as usize;
            let bytes = if hog.bytes() > 0 { 0 } else { bytes };
            self.trace.add(|| format!("somebody else holds {bytes} bytes on worker {worker}"));
            // What is not to be had is not taken.
            let _ = hog.try_set(bytes);
        }
        if self.random.once_in(self.scenario.spurious) {
            let job = self.random.index(self.jobs.len());
            let tasks = &self.jobs[job].tasks;
            if !tasks.is_empty() {
                tasks[self.random.index(tasks.len())].flag.wake_by_ref();
            }
        }
        if self.random.once_in(self.scenario.look) {
            self.look();
        }
    }

    /// Lets the watchdog look.
    fn look(&mut self) {
        let others = self.hogs.iter().filter(|hog| hog.bytes() > 0).count();
        let jobs = self.jobs.iter().filter(|job| !job.has_ended()).count() + others;
        for job in self.jobs.iter_mut().filter(|job| !job.core.has_ended()) {
            let core = Arc::clone(&job.core);
            job.watch.look(&core, jobs, &self.pools);
        }
    }

    /// Lets one thing happen, if anything can.
    fn act(&mut self) -> bool {
        let scenario = self.scenario;
        let mut runnable = Vec::new();
        for (number, job) in self.jobs.iter_mut().enumerate() {
            for (index, task) in job.tasks.iter_mut().enumerate() {
                if task.can_run() {
                    runnable.push((number, index));
                } else {
                    task.ready_since = self.events;
                }
            }
        }
        let queues: Vec<usize> = self
            .queues
            .iter_mut()
            .enumerate()
            .filter_map(|(index, queue)| (!queue.is_empty()).then_some(index))
            .collect();
        let mut readers = Vec::new();
        for (number, job) in self.jobs.iter().enumerate() {
            let waiting = job.readers.iter().enumerate().filter(|(_, reader)| !reader.is_over());
            let considered = if scenario.in_turn { 1 } else { usize::MAX };
            let wanting = waiting.take(considered).filter(|(_, reader)| reader.wants_to_read());
            readers.extend(wanting.map(|(index, _)| (number, index)));
        }
        let weight = |some: bool, weight: u64| if some { weight } else { 0 };
        let step = weight(!runnable.is_empty(), 16);
        let disk = weight(!queues.is_empty(), scenario.disk_pace);
        let read = weight(!readers.is_empty(), scenario.caller_pace);
        if step + disk + read == 0 {
            return false;
        }
        let turn = self.random.below(step + disk + read);
        if turn < step {
            self.step(&runnable);
        } else if turn < step + disk {
            let queue = self.random.pick(&queues);
            self.trace.add(|| format!("I/O of queue {queue}"));
            self.queues[queue].run_one(scenario.disk_window, &mut self.random);
            self.facts.io += 1;
        } else {
            let (job, reader) = self.random.pick(&readers);
            self.trace.add(|| format!("the caller reads result {reader} of job {job}"));
            if let Some(did) = self.jobs[job].readers[reader].read() {
                self.trace.add(|| format!("the caller: {did:?}"));
                self.world.caller_did(did, job);
                if self.jobs[job].readers[reader].state == Reading::Dropped {
                    let node = self.jobs[job].readers[reader].node;
                    self.jobs[job].note_dropped_result(node);
                }
            }
        }
        true
    }

    fn step(&mut self, runnable: &[(usize, usize)]) {
        if let Policy::Priorities(times) = self.scenario.policy
            && self.random.once_in(times)
        {
            for task in self.jobs.iter_mut().flat_map(|job| &mut job.tasks) {
                task.priority = self.random.next();
            }
        }
        let jobs = &self.jobs;
        let task = |&(job, task): &(usize, usize)| &jobs[job].tasks[task];
        let chosen = match self.scenario.policy {
            Policy::Random => None,
            Policy::Fair => runnable.iter().min_by_key(|at| task(at).ready_since),
            Policy::Priorities(_) => runnable.iter().max_by_key(|at| task(at).priority),
        };
        let (job, index) = match chosen {
            Some(&chosen) => chosen,
            None => self.random.pick(runnable),
        };
        let job = &mut self.jobs[job];
        job.tasks[index].actor.turn();
        job.tasks[index].ready_since = self.events;
        job.note_stops(index);
        self.facts.steps += 1;
        let task = &job.tasks[index];
        self.trace.add(|| {
            let then = if task.actor.has_ended() { "ended".into() } else { format!("{:?}", task.shared.waiting()) };
            format!("step of `{}` [{}] of job {}: {then}", task.shared.name(), task.shared.partition, job.core.id)
        });
    }

    /// Nothing goes on by itself: the watchdog looks, then whoever is outside goes on.
    fn nudge(&mut self) -> Result<(), Violation> {
        self.quiet_looks += 1;
        self.facts.quiet += 1;
        self.trace.add(|| "nothing goes on: the watchdog looks".to_string());
        self.look();
        if self.quiet_looks < QUIET_LOOKS {
            return Ok(());
        }
        let mut outside = false;
        for reader in self.jobs.iter_mut().flat_map(|job| &mut job.readers) {
            outside |= reader.state == Reading::Stopped;
            reader.go_on();
        }
        if !outside {
            for hog in &mut self.hogs {
                outside |= hog.bytes() > 0;
                hog.shrink(usize::MAX);
            }
        }
        if outside {
            self.quiet_looks = 0;
        } else if self.quiet_looks > LAST_LOOKS {
            let waits: Vec<_> = self.jobs.iter().map(SimulatedJob::waits).collect();
            let detail = format!("nothing can run, no I/O is pending, and this is what is left:\n{}", waits.join("\n"));
            return Err(Violation::new(Rule::Parked, detail));
        }
        Ok(())
    }

    /// What holds at all times.
    fn check_event(&mut self) -> Result<(), Violation> {
        for (worker, pool) in self.pools.iter().enumerate() {
            if let Some(over) = over_limit(pool) {
                let (peak, limit) = (pool.peak(), pool.limit());
                let last = self.trace.last();
                let mut detail = format!("worker {worker} was charged {peak} bytes of {limit}\n    {last}\n    {over}");
                for (name, held, floor) in pool.accounts().iter().filter(|(_, held, floor)| held > floor) {
                    detail += &format!("\n    `{name}` holds {held} bytes, its floor is {floor}");
                }
                return Err(Violation::new(Rule::Overrun, detail));
            }
        }
        if let Some(broken) = self.world.broken() {
            return Err(Violation::new(Rule::Contract, broken));
        }
        for (index, job) in self.jobs.iter().enumerate() {
            if job.core.error().is_some() || job.has_ended() {
                self.world.set_over(index);
            }
            if self.setup.hazard_marks && job.core.has_deadlocks() {
                let cycle = job.core.metrics().deadlocks.join("\n    ");
                let detail = format!("the watchdog resolved: {cycle}\n{}", job.waits());
                return Err(Violation::new(Rule::Watchdog, detail));
            }
        }
        Ok(())
    }

    /// Bytes that spill files take.
    pub(super) fn dir_bytes(&self) -> u64 {
        self.dir.as_ref().map_or(0, SpillDir::used_bytes)
    }

    /// Does what I/O is left.
    pub(super) fn drain_queues(&mut self) {
        while let Some(queue) = self.queues.iter_mut().find_map(|queue| (!queue.is_empty()).then_some(queue)) {
            queue.run_one(1, &mut self.random);
        }
    }
}
