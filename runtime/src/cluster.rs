//! Workers in this process: arbiters, I/O threads, memory, and the control thread that admits jobs.
//!
//! ```text
//! control thread   actix system · jobs in line · watchdog
//! worker 0         pool · I/O thread · arbiter 0 · arbiter 1 …
//! worker 1         pool · I/O thread · arbiter 0 · arbiter 1 …
//! ```

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::task::{Wake, Waker};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use actix::prelude::*;
use parking_lot::Mutex;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::actor::{SystemClock, TaskActor};
use crate::build::{WorkerParts, build};
use crate::config::ClusterConfig;
use crate::error::{ExecutionError, Place, PlanError, panic_message};
use crate::graph::Graph;
use crate::io::Io;
use crate::job::{Job, JobCore};
use crate::memory::MemoryPool;
use crate::observe::{Observed, Observer};
use crate::plan::Plan;
use crate::resident;
use crate::spill::{SpillDir, SpillSpace};
use crate::task::Clock;
use crate::watchdog::Watch;

/// How often the watchdog looks.
const WATCHDOG_PERIOD: Duration = Duration::from_millis(100);
/// I/O threads of each worker.
const IO_THREADS: usize = 1;
/// Threads that start and finish jobs.
const JOB_THREADS: usize = 2;

/// Workers in this process. Dropping it closes it.
pub struct Cluster {
    shared: Arc<Shared>,
    control: Option<JoinHandle<()>>,
    io_threads: Vec<JoinHandle<()>>,
    arbiters: Vec<Arbiter>,
    next_job: AtomicU64,
}

/// What the control thread and the jobs see of a cluster.
struct Shared {
    config: ClusterConfig,
    workers: Mutex<Option<Vec<Worker>>>,
    pools: Vec<MemoryPool>,
    spill: Mutex<Option<SpillDir>>,
    /// Starts jobs and commits their sinks: user code that may take its time, off all other threads.
    jobs: Mutex<Option<Io>>,
    commands: UnboundedSender<Command>,
    clock: Arc<dyn Clock>,
    observed: Arc<Observed>,
    closed: AtomicBool,
}

struct Worker {
    io: Io,
    arbiters: Vec<ArbiterHandle>,
}

enum Command {
    Run(Arc<JobCore>),
    /// Memory was given back, or a job has ended.
    Look,
    CancelJobs,
    Close,
}

impl Cluster {
    /// Starts the workers.
    ///
    /// # Errors
    ///
    /// [`ExecutionError::Plan`] if the configuration makes no sense, [`ExecutionError::Resource`] if a thread
    /// or the spill folder cannot be had.
    pub fn start(config: ClusterConfig) -> Result<Cluster, ExecutionError> {
        if config.workers == 0 || config.threads_per_worker == 0 {
            let reason = "a cluster has at least one worker with at least one thread";
            return Err(PlanError::Config(reason.into()).into());
        }
        let failed = |error: std::io::Error| ExecutionError::Resource(format!("cannot start a thread: {error}"));
        resident::tell_allocator(&config);
        let spill = SpillDir::create(config.spill_dir.as_deref(), config.spill_limit_bytes, config.spill_compression)?;
        let (commands, receiver) = unbounded_channel();
        let (handles, arbiters) = std::sync::mpsc::channel();
        let total = config.workers * config.threads_per_worker;
        let pools: Vec<_> = (0..config.workers).map(|_| MemoryPool::new(config.memory_limit_bytes)).collect();
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let shared = Arc::new(Shared {
            workers: Mutex::new(None),
            observed: Observed::new(config.clone(), pools.clone(), Arc::clone(&clock)),
            pools,
            spill: Mutex::new(Some(spill)),
            jobs: Mutex::new(None),
            commands,
            clock,
            closed: AtomicBool::new(false),
            config,
        });
        let control = {
            let shared = Arc::clone(&shared);
            std::thread::Builder::new()
                .name("aq-control".into())
                .spawn(move || {
                    // `System::new` would panic where descriptors are short.
                    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                        Ok(runtime) => runtime,
                        Err(error) => return drop(handles.send(Err(error))),
                    };
                    System::with_tokio_rt(|| runtime).block_on(async move {
                        for _ in 0..total {
                            let _ = handles.send(Arbiter::try_new());
                        }
                        drop(handles);
                        Control::new(shared).run(receiver).await;
                    });
                })
                .map_err(failed)?
        };
        let (arbiters, errors): (Vec<_>, Vec<_>) = arbiters.into_iter().partition(Result::is_ok);
        let arbiters = arbiters.into_iter().flatten().collect();
        let mut cluster =
            Cluster { shared, control: Some(control), io_threads: Vec::new(), arbiters, next_job: AtomicU64::new(0) };
        if let Some(error) = errors.into_iter().find_map(Result::err) {
            return Err(failed(error));
        }
        if cluster.arbiters.len() < total {
            return Err(ExecutionError::Resource("cannot start the threads of the workers".into()));
        }
        let mut workers = Vec::new();
        for (index, threads) in cluster.arbiters.chunks(cluster.shared.config.threads_per_worker).enumerate() {
            let (io, handles) = Io::start(&format!("aq-{index}"), IO_THREADS).map_err(failed)?;
            cluster.io_threads.extend(handles);
            workers.push(Worker { io, arbiters: threads.iter().map(Arbiter::handle).collect() });
        }
        let (jobs, handles) = Io::start("aq-jobs", JOB_THREADS).map_err(failed)?;
        cluster.io_threads.extend(handles);
        *cluster.shared.jobs.lock() = Some(jobs);
        *cluster.shared.workers.lock() = Some(workers);
        Ok(cluster)
    }

    /// What the cluster was started with.
    pub fn config(&self) -> &ClusterConfig {
        &self.shared.config
    }

    /// The memory of each worker.
    pub fn memory(&self) -> &[MemoryPool] {
        &self.shared.pools
    }

    /// A handle that shows the cluster's jobs and who holds its memory. It keeps nothing running.
    pub fn observer(&self) -> Observer {
        Observer::new(Arc::clone(&self.shared.observed))
    }

    /// The folder of this cluster's spill files; empty if the cluster is closed.
    pub fn spill_path(&self) -> PathBuf {
        self.shared.spill.lock().as_ref().map_or_else(PathBuf::new, |dir| dir.path().to_path_buf())
    }

    /// A place on each worker for spill files that outlive the jobs that wrote them, and are charged to none; no place if
    /// the cluster is closed. Who holds such a file holds the folder of the cluster.
    pub fn kept_spaces(&self) -> Vec<SpillSpace> {
        let Some(dir) = self.shared.spill.lock().clone() else { return Vec::new() };
        let workers = self.shared.workers.lock();
        let spaces = workers.iter().flatten().zip(&self.shared.pools);
        spaces.map(|(worker, pool)| dir.space(worker.io.clone(), pool.account("kept files"))).collect()
    }

    /// Plans `graph` for this cluster, and runs nothing.
    ///
    /// # Errors
    ///
    /// As for [`Plan::new`].
    pub fn plan(&self, graph: &Graph) -> Result<Plan, PlanError> {
        Plan::new(graph, &self.shared.config)
    }

    /// Runs `graph`. Returns at once: the job starts when its memory floors are to be had.
    ///
    /// # Errors
    ///
    /// As for [`Plan::new`], and [`ExecutionError::Closed`]. What goes wrong later is reported by the job.
    pub fn run(&self, graph: &Graph) -> Result<Job, ExecutionError> {
        self.run_plan(self.plan(graph)?)
    }

    /// Runs a plan that was made for this cluster.
    ///
    /// # Errors
    ///
    /// [`ExecutionError::Closed`], and [`ExecutionError::Plan`] if it was made for another cluster. What goes
    /// wrong later is reported by the job.
    pub fn run_plan(&self, plan: Plan) -> Result<Job, ExecutionError> {
        let config = &self.shared.config;
        if (plan.workers, plan.threads_per_worker) != (config.workers, config.threads_per_worker)
            || plan.floors.iter().any(|floor| *floor > config.memory_limit_bytes)
        {
            let reason = "the plan was made for a cluster of other workers, threads or limits";
            return Err(PlanError::Config(reason.into()).into());
        }
        let io = self.shared.jobs.lock().clone().ok_or(ExecutionError::Closed)?;
        if resident::is_scarce(config) {
            resident::release_planning();
        }
        let id = self.next_job.fetch_add(1, Relaxed);
        let core = JobCore::new(id, Arc::new(plan), io, self.shared.pools.clone());
        self.shared.observed.add(&core);
        self.shared.commands.send(Command::Run(Arc::clone(&core))).map_err(|_| ExecutionError::Closed)?;
        Ok(Job::new(core))
    }

    /// Cancels all jobs that run or wait in line, whoever waits for them. Returns at once; the cluster goes on.
    pub fn cancel_jobs(&self) {
        // Nobody listens any more: then there are no jobs.
        let _ = self.shared.commands.send(Command::CancelJobs);
    }

    /// Cancels what still runs, stops all threads and removes the spill folder. Silent, and waits only for
    /// steps in progress.
    pub fn close(mut self) {
        self.shut_down();
    }

    fn shut_down(&mut self) {
        let Some(control) = self.control.take() else { return };
        self.shared.closed.store(true, SeqCst);
        self.shared.observed.close();
        let _ = self.shared.commands.send(Command::Close);
        // The control thread ends once all jobs have: a panic there has been reported on its own.
        let _ = control.join();
        for arbiter in std::mem::take(&mut self.arbiters) {
            arbiter.stop();
            let _ = arbiter.join();
        }
        // Whoever still holds a result may hold handles to the I/O queues: the threads end all the same.
        // Those of the jobs first: by them a reader knows why nothing is read for it any more.
        if let Some(jobs) = self.shared.jobs.lock().take() {
            jobs.stop();
        }
        let workers = self.shared.workers.lock().take();
        workers.iter().flatten().for_each(|worker| worker.io.stop());
        drop(self.shared.spill.lock().take());
        for thread in std::mem::take(&mut self.io_threads) {
            let _ = thread.join();
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.shut_down();
    }
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster").field("config", &self.shared.config).finish_non_exhaustive()
    }
}

/// The control thread: admits jobs in order, starts them, and watches them.
struct Control {
    shared: Arc<Shared>,
    waiting: std::collections::VecDeque<Arc<JobCore>>,
    running: Vec<(Arc<JobCore>, Watch)>,
    waker: Waker,
}

/// Makes the control thread look again.
struct Look(UnboundedSender<Command>);

impl Wake for Look {
    fn wake(self: Arc<Self>) {
        let _ = self.0.send(Command::Look);
    }
}

impl Control {
    fn new(shared: Arc<Shared>) -> Self {
        let waker = Waker::from(Arc::new(Look(shared.commands.clone())));
        Self { shared, waiting: std::collections::VecDeque::new(), running: Vec::new(), waker }
    }

    async fn run(mut self, mut commands: UnboundedReceiver<Command>) {
        let mut closing = false;
        let mut watched = Instant::now();
        loop {
            let command = if self.running.is_empty() {
                commands.recv().await
            } else {
                match tokio::time::timeout(WATCHDOG_PERIOD, commands.recv()).await {
                    Ok(command) => command,
                    Err(_) => Some(Command::Look),
                }
            };
            if watched.elapsed() >= WATCHDOG_PERIOD {
                watched = Instant::now();
                self.watch();
            }
            let cancelled = matches!(command, Some(Command::CancelJobs));
            match command {
                Some(Command::Run(core)) => {
                    // A cancel must be heard while the job waits in line.
                    core.add_waker(self.waker.clone());
                    self.waiting.push_back(core);
                }
                Some(Command::Look | Command::CancelJobs) => {}
                Some(Command::Close) | None => closing = true,
            }
            self.running.retain(|(core, _)| !core.has_ended());
            if closing || cancelled {
                let cores = self.waiting.iter().chain(self.running.iter().map(|(core, _)| core));
                let reason = if closing { ExecutionError::Closed } else { ExecutionError::Cancelled };
                cores.for_each(|core| core.fail(reason.clone()));
            }
            self.admit();
            if closing && self.running.is_empty() && self.waiting.is_empty() {
                return;
            }
        }
    }

    /// Starts jobs for as long as the first in line can have its floors.
    fn admit(&mut self) {
        // Whoever is first in line now waits anew.
        self.shared.pools.iter().for_each(|pool| pool.stop_waiting(&self.waker));
        // A job that was cancelled in line ends where it is.
        let (cancelled, waiting) = std::mem::take(&mut self.waiting).into_iter().partition(|core| core.is_cancelled());
        self.waiting = waiting;
        for core in Vec::from(cancelled) {
            let _ = core.end_ticket().register(&self.waker);
            core.task_ended();
            self.running.push((core, Watch::default()));
        }
        while let Some(core) = self.waiting.front() {
            let mut admissions = Vec::new();
            for (pool, &bytes) in self.shared.pools.iter().zip(core.plan.floor_bytes()) {
                match pool.admit_job(Some(core.id), bytes, core.plan.half_limit_bytes) {
                    Some(admission) => admissions.push(admission),
                    None => {
                        drop(admissions);
                        pool.wait(bytes, &self.waker);
                        return;
                    }
                }
            }
            if let Some(core) = self.waiting.pop_front() {
                self.start(core, admissions);
            }
        }
    }

    fn start(&mut self, core: Arc<JobCore>, admissions: Vec<Arc<crate::memory::Admission>>) {
        core.admitted();
        let _ = core.end_ticket().register(&self.waker);
        self.running.push((Arc::clone(&core), Watch::default()));
        let (parts, arbiters): (Vec<_>, Vec<_>) = {
            let workers = self.shared.workers.lock();
            let parts = workers.iter().flatten().zip(admissions);
            parts
                .map(|(worker, admission)| (WorkerParts { admission, io: worker.io.clone() }, worker.arbiters.clone()))
                .unzip()
        };
        let Some(dir) = self.shared.spill.lock().clone() else { return };
        let Some(jobs) = self.shared.jobs.lock().clone() else { return };
        let clock = Arc::clone(&self.shared.clock);
        // Making sources and operators runs user code, which may take its time.
        jobs.submit(move || {
            // The job is told of the end of its start even if user code panics where nothing else catches it.
            let ended = core.ended_guard();
            let _span = tracing::debug_span!(parent: core.span(), "start").entered();
            let built = catch_unwind(AssertUnwindSafe(|| build(&core, &parts, &dir, &clock)));
            match built {
                Ok(Ok((running, placed))) => {
                    core.start(running);
                    for placed in placed {
                        let job = Arc::clone(&core);
                        let clock = Arc::clone(&clock);
                        let actor = TaskActor::new(placed.task, placed.flag, job, clock);
                        // A refused actor is dropped, which fails the job.
                        arbiters[placed.arbiter.0][placed.arbiter.1].spawn_fn(move || {
                            actor.start();
                        });
                    }
                }
                Ok(Err(error)) => core.fail(error),
                Err(panic) => core.fail(ExecutionError::Panic {
                    at: Place { node: "the start of the job".into(), partition: 0, split: None },
                    message: panic_message(&*panic),
                }),
            }
            drop((parts, dir));
            drop(ended);
        });
    }

    fn watch(&mut self) {
        let jobs = self.running.len();
        for (core, watch) in &mut self.running {
            watch.look(core, jobs, &self.shared.pools);
            core.look_at_memory();
        }
    }
}
