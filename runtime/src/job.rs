//! A running graph: start, first error, cancel, results, end.
//!
//! A job ends when its last task has ended. Only then are its sinks committed, or aborted, and only after
//! that is its outcome known. The first error is the one reported.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, OnceLock};
use std::task::Waker;
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;

use crate::error::{ExecutionError, Place, panic_message};
use crate::graph::{NodeKind, ResultId};
use crate::io::{Completion, Io, Ticket};
use crate::mailbox::Port;
use crate::memory::{Account, MemoryPool};
use crate::metrics::{Analysis, EdgeCounters, EdgeMetrics, JobMetrics, JobState, NodeMetrics, WorkerMetrics};
use crate::observe::{JobLife, JobLog, LifeRecorder, Recorder, held_bytes};
use crate::plan::{Plan, PlanShape};
use crate::result::{CallerWake, ResultStream};
use crate::sink::Receipt;
use crate::source::Scan;
use crate::spill::SpillSpace;
use crate::task::{Clock, TaskShared};

/// A job of a cluster. Dropping it cancels it, unless every row was handed out: then it ends well, and at once.
pub struct Job {
    core: Arc<JobCore>,
    results: BTreeMap<usize, ResultStream>,
}

/// How a job went, once it has ended well.
#[derive(Debug, Clone)]
pub struct JobSummary {
    /// From its start, waiting in line not included, to the commit of its sinks.
    pub elapsed: Duration,
    /// What it counted.
    pub metrics: JobMetrics,
}

impl Job {
    pub(crate) fn new(core: Arc<JobCore>) -> Self {
        let results = core.plan.result_nodes().map(|node| (node, ResultStream::new(Arc::clone(&core), node))).collect();
        Self { core, results }
    }

    /// The stream of a result. `None` if it was taken before, or is a result of another graph.
    ///
    /// Batches wait for the reader within the job's memory: a caller that does not read stops the job's
    /// sources, and no more. Dropping the stream tells its producers to stop.
    pub fn take_result(&mut self, result: ResultId) -> Option<ResultStream> {
        self.results.remove(&result.0.0)
    }

    /// Waits until the job has ended. Results that were not taken are dropped: nobody could read them.
    ///
    /// # Errors
    ///
    /// The job's first error.
    pub fn wait(mut self) -> Result<JobSummary, ExecutionError> {
        self.results.clear();
        self.core.ended.wait();
        self.core.outcome()?;
        Ok(JobSummary { elapsed: self.core.elapsed(), metrics: self.core.metrics() })
    }

    /// Ends the job soon: each task stops after the step in progress. Returns at once.
    pub fn cancel(&self) {
        self.core.fail(ExecutionError::Cancelled);
    }

    /// Where the job stands.
    pub fn state(&self) -> JobState {
        self.core.state()
    }

    /// What the job has counted so far.
    pub fn metrics(&self) -> JobMetrics {
        self.core.metrics()
    }

    /// A handle that shows the job's metrics while another thread waits for it.
    pub fn monitor(&self) -> JobMonitor {
        JobMonitor(Arc::clone(&self.core))
    }

    /// The plan that it runs.
    pub fn plan(&self) -> &Plan {
        &self.core.plan
    }

    /// Its number, as in logs and on the dashboard.
    pub fn id(&self) -> u64 {
        self.core.id
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        self.core.leave();
    }
}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Job").field("id", &self.core.id).field("state", &self.state()).finish_non_exhaustive()
    }
}

/// Shows a job's metrics; neither keeps it running nor cancels it.
#[derive(Clone)]
pub struct JobMonitor(Arc<JobCore>);

impl JobMonitor {
    /// What the job has counted so far.
    pub fn metrics(&self) -> JobMetrics {
        self.0.metrics()
    }

    /// Where the job stands.
    pub fn state(&self) -> JobState {
        self.0.state()
    }

    /// The number of the job.
    pub fn id(&self) -> u64 {
        self.0.id
    }

    /// The job's first error, in words.
    pub fn error(&self) -> Option<String> {
        self.0.error().map(ToString::to_string)
    }

    /// Blocks until the job has ended, well or not.
    pub fn wait(&self) {
        self.0.ended.wait();
    }

    /// Its plan with what its operators have done so far: what `explain analyze` shows.
    pub fn analysis(&self) -> Analysis {
        Analysis::new(&self.0.shape(), &self.metrics())
    }
}

impl std::fmt::Debug for JobMonitor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JobMonitor").field("id", &self.0.id).field("state", &self.state()).finish()
    }
}

/// What the parts of a job share.
pub(crate) struct JobCore {
    pub(crate) id: u64,
    pub(crate) plan: Arc<Plan>,
    /// When it was handed to the cluster.
    pub(crate) submitted: SystemTime,
    /// Made when somebody looks.
    shape: OnceLock<Arc<PlanShape>>,
    /// Where it is shown, and where its steps are recorded on request.
    observed: OnceLock<(Arc<JobLog>, Arc<Recorder>)>,
    /// What its threads run and what it holds, for whoever looks later.
    life: LifeRecorder,
    /// What all that is logged of it is part of.
    span: tracing::Span,
    cancelled: AtomicBool,
    error: OnceLock<ExecutionError>,
    /// Of all tasks and result streams: woken by an error and by a cancel.
    wakers: Mutex<Vec<Waker>>,
    /// Set before the first commit, and once all of it was handed out: from then on only a commit can fail the job.
    sealed: Mutex<bool>,
    /// Tasks that have not ended, and one for the start.
    remaining: AtomicUsize,
    receipts: Mutex<BTreeMap<(usize, usize), Receipt>>,
    /// What the watchdog found.
    deadlocks: Mutex<Vec<String>>,
    started: OnceLock<Instant>,
    elapsed: OnceLock<Duration>,
    running: Mutex<Option<Running>>,
    last_metrics: OnceLock<Arc<JobMetrics>>,
    ended: Ticket,
    completion: Mutex<Option<Completion>>,
    /// One for each result node.
    callers: BTreeMap<usize, Arc<CallerWake>>,
    /// Runs the commit, off the arbiters.
    io: Io,
    pools: Vec<MemoryPool>,
}

/// What a job holds on to while it runs.
pub(crate) struct Running {
    pub(crate) tasks: Vec<Arc<TaskShared>>,
    /// Counters and ports of each edge of the plan.
    pub(crate) edges: Vec<(Arc<EdgeCounters>, Vec<Arc<Port>>)>,
    /// Accounts of each node's instances.
    pub(crate) accounts: Vec<Vec<Account>>,
    /// Accounts of each stage's tasks.
    pub(crate) hands: Vec<Vec<Account>>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) scans: Vec<Arc<dyn Scan>>,
    pub(crate) spaces: Vec<SpillSpace>,
}

impl JobCore {
    pub(crate) fn new(id: u64, plan: Arc<Plan>, io: Io, pools: Vec<MemoryPool>) -> Arc<Self> {
        let (ended, completion) = Ticket::new("the end of the job");
        let callers: BTreeMap<_, _> = plan.result_nodes().map(|node| (node, Arc::default())).collect();
        let wakers = callers.values().map(|caller: &Arc<CallerWake>| Waker::from(Arc::clone(caller))).collect();
        let threads = plan.workers * plan.threads_per_worker;
        Arc::new(Self {
            id,
            life: LifeRecorder::new(threads),
            span: tracing::info_span!("job", job = id),
            plan,
            submitted: SystemTime::now(),
            shape: OnceLock::new(),
            observed: OnceLock::new(),
            callers,
            cancelled: AtomicBool::new(false),
            error: OnceLock::new(),
            wakers: Mutex::new(wakers),
            sealed: Mutex::new(false),
            remaining: AtomicUsize::new(1),
            receipts: Mutex::default(),
            deadlocks: Mutex::default(),
            started: OnceLock::new(),
            elapsed: OnceLock::new(),
            running: Mutex::new(None),
            last_metrics: OnceLock::new(),
            ended,
            completion: Mutex::new(Some(completion)),
            io,
            pools,
        })
    }

    /// From now on it is shown in `log`, and its steps are recorded on request.
    pub(crate) fn observe(&self, log: &Arc<JobLog>, recorder: &Arc<Recorder>) {
        let _ = self.observed.set((Arc::clone(log), Arc::clone(recorder)));
    }

    /// Records steps on request, if the job is shown anywhere.
    pub(crate) fn recorder(&self) -> Option<&Arc<Recorder>> {
        self.observed.get().map(|(_, recorder)| recorder)
    }

    /// Records steps and memory in pictures of one size.
    pub(crate) fn life_recorder(&self) -> &LifeRecorder {
        &self.life
    }

    /// Those pictures so far.
    pub(crate) fn life(&self) -> JobLife {
        let events = self.pools.iter().enumerate().flat_map(|(worker, pool)| {
            let own = pool.log().events().into_iter().filter(|event| event.job == Some(self.id));
            own.map(move |event| (worker, event))
        });
        self.life.life(self.plan.threads_per_worker, events.collect())
    }

    /// Looks at what it holds, unless it has just done so.
    pub(crate) fn look_at_memory(&self) {
        let Some(clock) = self.with_running(|running| Arc::clone(&running.clock)) else { return };
        self.life.look_at_memory(|| clock.now(), || held_bytes(self, self.pools.len()));
    }

    /// Bytes charged on a worker, by all jobs.
    pub(crate) fn charged_on(&self, worker: usize) -> usize {
        self.pools.get(worker).map_or(0, MemoryPool::charged)
    }

    /// What all that is logged of it is part of.
    pub(crate) fn span(&self) -> &tracing::Span {
        &self.span
    }

    /// Its graph as plain data.
    pub(crate) fn shape(&self) -> Arc<PlanShape> {
        Arc::clone(self.shape.get_or_init(|| Arc::new(self.plan.shape())))
    }

    /// The caller's end of a result.
    pub(crate) fn caller_wake(&self, node: usize) -> Arc<CallerWake> {
        self.callers.get(&node).map_or_else(Arc::default, Arc::clone)
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.cancelled.load(Relaxed)
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.ended.is_done()
    }

    /// Whether the cluster is closed.
    pub(crate) fn is_closed(&self) -> bool {
        self.io.is_stopped()
    }

    /// Done once the job has ended.
    pub(crate) fn end_ticket(&self) -> &Ticket {
        &self.ended
    }

    /// Ends the job with `error`, unless it has one already or its sinks are being committed.
    pub(crate) fn fail(&self, error: ExecutionError) {
        let sealed = self.sealed.lock();
        if !*sealed {
            self.set_error(error);
        }
    }

    /// Nobody waits for the job any more. It is cancelled, unless all that it is for was done: it has no sinks, and every
    /// row of its results was handed out. Then its tasks are stopped all the same, and it ends well.
    fn leave(&self) {
        {
            let mut sealed = self.sealed.lock();
            if *sealed {
                return;
            }
            let has_sinks = self.plan.nodes.iter().any(|node| matches!(node.kind, NodeKind::Sink(_)));
            let delivered = !self.callers.is_empty() && self.callers.values().all(|caller| caller.is_delivered());
            if has_sinks || !delivered || self.error.get().is_some() {
                self.set_error(ExecutionError::Cancelled);
                return;
            }
            // What tasks that are stopped say of each other is no error.
            *sealed = true;
        }
        self.stop_tasks();
    }

    fn set_error(&self, error: ExecutionError) {
        if self.error.set(error).is_ok() {
            self.log_error();
            self.stop_tasks();
        }
    }

    /// Ends each task after the step in progress.
    fn stop_tasks(&self) {
        self.cancelled.store(true, SeqCst);
        let wakers = self.wakers.lock().clone();
        wakers.iter().for_each(Waker::wake_by_ref);
    }

    /// Says where it went wrong. A cancel and the end of the cluster are what somebody asked for.
    fn log_error(&self) {
        let (at, error) = match self.error.get() {
            None | Some(ExecutionError::Cancelled | ExecutionError::Closed) => return,
            Some(ExecutionError::Operator { at, cause }) => (Some(at), cause.to_string()),
            Some(ExecutionError::Panic { at, message }) => (Some(at), format!("panicked: {message}")),
            Some(error) => (None, error.to_string()),
        };
        let (node, partition) = (at.map(|at| at.node.as_str()), at.map(|at| at.partition));
        let split = at.and_then(|at| at.split.as_deref());
        tracing::error!(parent: &self.span, job = self.id, node, partition, split, %error, "job failed");
    }

    /// The error, as far as there is one yet.
    pub(crate) fn error(&self) -> Option<&ExecutionError> {
        self.error.get()
    }

    /// Adds one to be woken when the job fails.
    pub(crate) fn add_waker(&self, waker: Waker) {
        self.wakers.lock().push(waker.clone());
        if self.is_cancelled() {
            waker.wake();
        }
    }

    /// The tasks are about to be started.
    pub(crate) fn start(&self, running: Running) {
        self.remaining.fetch_add(running.tasks.len(), SeqCst);
        self.life.begin(running.clock.now());
        *self.running.lock() = Some(running);
    }

    /// The job has been admitted.
    pub(crate) fn admitted(&self) {
        let _ = self.started.set(Instant::now());
    }

    pub(crate) fn add_receipt(&self, task: &TaskShared, receipt: Receipt) {
        let node = self.plan.stages[task.stage].nodes.last().copied().unwrap_or_default();
        self.receipts.lock().insert((node, task.partition), receipt);
    }

    /// Calls [`JobCore::task_ended`] when dropped.
    pub(crate) fn ended_guard(self: &Arc<Self>) -> impl Drop + Send + use<> {
        struct Guard(Arc<JobCore>);
        impl Drop for Guard {
            fn drop(&mut self) {
                self.0.task_ended();
            }
        }
        Guard(Arc::clone(self))
    }

    /// Called for each task that has ended, and once by whoever started them.
    pub(crate) fn task_ended(self: &Arc<Self>) {
        if self.remaining.fetch_sub(1, SeqCst) == 1 {
            let core = Arc::clone(self);
            self.io.submit(move || core.finish());
        }
    }

    /// Commits or aborts the sinks, then tells everybody that the job has ended.
    fn finish(&self) {
        // Dropped last, whatever happens here: nobody waits for ever.
        let completion = self.completion.lock().take();
        *self.sealed.lock() = true;
        let receipts = std::mem::take(&mut *self.receipts.lock());
        let sinks: Vec<_> = self
            .plan
            .nodes
            .iter()
            .enumerate()
            .filter_map(|(index, node)| match &node.kind {
                NodeKind::Sink(spec) => Some((index, Arc::clone(&node.name), Arc::clone(spec))),
                _ => None,
            })
            .collect();
        let mut receipts: Vec<Vec<Receipt>> = {
            let mut by_node: BTreeMap<usize, Vec<Receipt>> = BTreeMap::new();
            for ((node, _), receipt) in receipts {
                by_node.entry(node).or_default().push(receipt);
            }
            sinks.iter().map(|(node, ..)| by_node.remove(node).unwrap_or_default()).collect()
        };
        for ((_, name, spec), receipts) in sinks.iter().zip(&mut receipts) {
            if self.is_cancelled() {
                break;
            }
            let at = Place { node: name.to_string(), partition: 0, split: None };
            let receipts = std::mem::take(receipts);
            match catch_unwind(AssertUnwindSafe(|| spec.commit(receipts))) {
                Ok(Ok(())) => {}
                Ok(Err(cause)) => self.set_error(ExecutionError::Operator { at, cause: Arc::new(cause) }),
                Err(panic) => self.set_error(ExecutionError::Panic { at, message: panic_message(&*panic) }),
            }
        }
        drop(receipts);
        if self.is_cancelled() {
            for (.., spec) in &sinks {
                let _ = catch_unwind(AssertUnwindSafe(|| spec.abort()));
            }
        }
        self.look_at_memory();
        let _ = self.elapsed.set(self.started.get().map_or(Duration::ZERO, Instant::elapsed));
        let state = self.final_state();
        let metrics = Arc::new(JobMetrics { state, ..self.snapshot() });
        let _ = self.last_metrics.set(Arc::clone(&metrics));
        if let Some((log, _)) = self.observed.get() {
            log.end(self, metrics, self.error.get());
        }
        let running = self.running.lock().take();
        drop(running);
        self.wakers.lock().clear();
        if let Some(error) = self.error.get() {
            tracing::debug!(parent: &self.span, job = self.id, %error, "job ended");
        } else {
            tracing::debug!(parent: &self.span, job = self.id, elapsed = ?self.elapsed(), "job finished");
        }
        drop(completion);
    }

    fn outcome(&self) -> Result<(), ExecutionError> {
        match self.error.get() {
            Some(error) => Err(error.clone()),
            None => Ok(()),
        }
    }

    fn elapsed(&self) -> Duration {
        match self.elapsed.get() {
            Some(elapsed) => *elapsed,
            None => self.started.get().map_or(Duration::ZERO, Instant::elapsed),
        }
    }

    fn final_state(&self) -> JobState {
        match self.error.get() {
            None => JobState::Finished,
            Some(ExecutionError::Cancelled) => JobState::Cancelled,
            Some(_) => JobState::Failed,
        }
    }

    pub(crate) fn state(&self) -> JobState {
        if self.has_ended() {
            self.final_state()
        } else if self.started.get().is_some() {
            JobState::Running
        } else {
            JobState::Waiting
        }
    }

    pub(crate) fn metrics(&self) -> JobMetrics {
        match self.last_metrics.get() {
            Some(metrics) => JobMetrics::clone(metrics),
            None => JobMetrics { state: self.state(), ..self.snapshot() },
        }
    }

    /// Remembers a cycle that the watchdog has resolved.
    pub(crate) fn add_deadlock(&self, cycle: String) {
        self.deadlocks.lock().push(cycle);
    }

    /// Whether the watchdog has resolved any.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn has_deadlocks(&self) -> bool {
        !self.deadlocks.lock().is_empty()
    }

    /// Runs `look` over what the job holds, while it runs.
    pub(crate) fn with_running<T>(&self, look: impl FnOnce(&Running) -> T) -> Option<T> {
        self.running.lock().as_ref().map(look)
    }

    fn snapshot(&self) -> JobMetrics {
        let running = self.running.lock();
        let mut metrics = JobMetrics {
            state: JobState::Waiting,
            elapsed: self.elapsed(),
            nodes: self.plan.nodes.iter().map(NodeMetrics::of).collect(),
            edges: self.plan.edges.iter().map(|edge| EdgeMetrics::of(&self.plan, edge)).collect(),
            tasks: Vec::new(),
            workers: self.pools.iter().map(WorkerMetrics::of).collect(),
            deadlocks: self.deadlocks.lock().clone(),
            source_bytes_done: 0,
            source_bytes_total: None,
        };
        if let Some(running) = &*running {
            metrics.add_running(&self.plan, running);
        }
        metrics
    }
}
