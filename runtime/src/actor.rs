//! The thin actix shell that turns wake-ups into steps of a task.
//!
//! An actor's actix mailbox holds at most one message: the wake-up that its flag says is outstanding.
//! After every step the actor yields to its arbiter, so that neighbours, wake-ups and cancels get their turn.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, OnceLock};
use std::task::{Wake as StdWake, Waker};
use std::time::{Duration, Instant};

use actix::prelude::*;

use crate::error::ExecutionError;
use crate::job::JobCore;
use crate::metrics::add_time;
use crate::observe::SpanEnd;
use crate::planted::{Bug, is_planted};
use crate::sync::AtomicBool;
use crate::task::{Clock, Progress, Task, TaskShared, Wait, Waiting};

/// Says that there may be something to do.
struct Wake;

impl Message for Wake {
    type Result = ();
}

/// The one outstanding wake-up of an actor. As a [`Waker`] it can be called from any thread, at any time.
pub(crate) struct WakeFlag {
    /// Up from the beginning: the first message is sent when the actor starts.
    scheduled: Arc<AtomicBool>,
    /// Sends the actor a message.
    send: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

impl Default for WakeFlag {
    fn default() -> Self {
        Self { scheduled: Arc::new(AtomicBool::new(true)), send: OnceLock::new() }
    }
}

impl StdWake for WakeFlag {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.scheduled.swap(true, SeqCst)
            && let Some(send) = self.send.get()
        {
            send();
        }
    }
}

impl WakeFlag {
    /// From now on a wake-up is a call of `send`. The first is made here, for all that came before.
    pub(crate) fn listen(&self, send: impl Fn() + Send + Sync + 'static) {
        self.send.get_or_init(|| Box::new(send))();
    }

    /// Answers one wake-up. What comes during `step` is another one: it may be about what `step` has not seen.
    pub(crate) fn answer<T>(&self, step: impl FnOnce() -> T) -> T {
        // A swap, no store: what was done before a wake-up that this takes back is seen by `step`.
        let lower = || self.scheduled.swap(false, SeqCst);
        let late = is_planted(Bug::FlagLoweredLate);
        if !late {
            lower();
        }
        let answer = step();
        if late {
            lower();
        }
        answer
    }

    /// Whether a wake-up is on its way. Where no actor listens, whoever steps the tasks looks here.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn is_scheduled(&self) -> bool {
        self.scheduled.load(SeqCst)
    }
}

/// The bound of an actix mailbox does not matter here: the flag lets one message in at a time.
#[expect(clippy::disallowed_methods, reason = "this is the shell that the ban points to")]
fn send(address: &Recipient<Wake>) {
    address.do_send(Wake);
}

/// The monotonic clock of this process.
pub(crate) struct SystemClock(Instant);

impl SystemClock {
    pub(crate) fn new() -> Self {
        Self(Instant::now())
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Duration {
        self.0.elapsed()
    }
}

/// How a step ended, as a timeline shows it.
fn span_end<E, P>(result: &Result<Result<Progress, E>, P>) -> SpanEnd {
    match result {
        Ok(Ok(Progress::Again)) => SpanEnd::Again,
        Ok(Ok(Progress::Wait(Wait::Input(_)))) => SpanEnd::Idle,
        Ok(Ok(Progress::Wait(Wait::Room(_)))) => SpanEnd::Parked,
        Ok(Ok(Progress::Wait(Wait::Memory(_)))) => SpanEnd::Memory,
        Ok(Ok(Progress::Wait(Wait::Outside(_)))) => SpanEnd::Blocked,
        Ok(Ok(Progress::Finished)) | Ok(Err(_)) | Err(_) => SpanEnd::Ended,
    }
}

/// Shows a step to whoever asked for it.
fn record(job: &JobCore, task: &TaskShared, thread: usize, step: (Duration, Duration), end: SpanEnd) {
    if let Some(recorder) = job.recorder().filter(|recorder| recorder.is_on()) {
        recorder.add(job.id, task, thread, step, end);
    }
}

/// The actor of one task.
pub(crate) struct TaskActor {
    task: Option<Task>,
    shared: Arc<TaskShared>,
    flag: Arc<WakeFlag>,
    waker: Waker,
    job: Arc<JobCore>,
    clock: Arc<dyn Clock>,
    /// The thread, among all of the cluster.
    thread: usize,
    /// Part of the job's, and what its steps are part of.
    span: tracing::Span,
}

impl TaskActor {
    pub(crate) fn new(task: Task, flag: Arc<WakeFlag>, job: Arc<JobCore>, clock: Arc<dyn Clock>) -> Self {
        let waker = Waker::from(Arc::clone(&flag));
        task.shared().set_woken(Arc::clone(&flag.scheduled));
        let (worker, thread) = job.plan.arbiter(task.shared().partition);
        let thread = worker * job.plan.threads_per_worker + thread;
        let shared = Arc::clone(task.shared());
        let (label, partition) = (shared.label(), shared.partition);
        let span = tracing::debug_span!(parent: job.span(), "task", task = &*label, partition, worker);
        Self { shared, task: Some(task), flag, waker, job, clock, thread, span }
    }

    /// Answers one wake-up: steps the task, and sees to it that what it waits for outside wakes it.
    pub(crate) fn turn(&mut self) {
        let flag = Arc::clone(&self.flag);
        if let Some(Wait::Outside(ticket)) = flag.answer(|| self.step())
            && !ticket.register(&self.waker)
        {
            self.waker.wake_by_ref();
        }
    }

    /// Whether its task is gone.
    pub(crate) fn has_ended(&self) -> bool {
        self.task.is_none()
    }

    fn step(&mut self) -> Option<Wait> {
        let Some(task) = &mut self.task else { return None };
        let start = self.clock.now();
        if self.job.is_cancelled() {
            // So that nobody takes it for one that still waits.
            record(&self.job, &self.shared, self.thread, (start, start), SpanEnd::Ended);
            self.end();
            return None;
        }
        self.shared.set_waiting(Waiting::Running, start);
        let _span = tracing::trace_span!(parent: &self.span, "step").entered();
        // The operator is not called again after a panic: its state may be anything.
        let result = catch_unwind(AssertUnwindSafe(|| task.step()));
        let end = self.clock.now();
        add_time(&self.shared.counters.running_ns, end.saturating_sub(start));
        let charged_bytes = self.job.charged_on(self.shared.worker);
        self.job.life_recorder().add_step(self.thread, self.shared.stage, (start, end), charged_bytes);
        record(&self.job, &self.shared, self.thread, (start, end), span_end(&result));
        let error = match result {
            Ok(Ok(Progress::Again)) => {
                self.waker.wake_by_ref();
                return None;
            }
            Ok(Ok(Progress::Wait(wait))) => {
                self.shared.set_waiting(Waiting::from(&wait), end);
                return Some(wait);
            }
            Ok(Ok(Progress::Finished)) => {
                if let Some(receipt) = task.take_receipt() {
                    self.job.add_receipt(&self.shared, receipt);
                }
                self.end();
                return None;
            }
            Ok(Err(cause)) => ExecutionError::Operator { at: self.shared.place(), cause: Arc::new(cause) },
            Err(panic) => {
                ExecutionError::Panic { at: self.shared.place(), message: crate::error::panic_message(&*panic) }
            }
        };
        // Before the task is dropped: its receivers would report a vanished producer.
        self.job.fail(error);
        self.end();
        None
    }

    /// Drops the task and says so to the job.
    fn end(&mut self) {
        self.shared.set_waiting(Waiting::Ended, self.clock.now());
        let task = self.task.take();
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| drop(task))) {
            let message = crate::error::panic_message(&*panic);
            self.job.fail(ExecutionError::Panic { at: self.shared.place(), message });
        }
        self.job.task_ended();
    }
}

impl Actor for TaskActor {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Context<Self>) {
        let address = context.address().recipient();
        self.flag.listen(move || send(&address));
    }
}

impl Handler<Wake> for TaskActor {
    type Result = ();

    fn handle(&mut self, _: Wake, context: &mut Context<Self>) {
        self.turn();
        if self.has_ended() {
            context.stop();
        } else {
            // Without this a busy actor would be polled on and on, and its neighbours starve.
            context.wait(tokio::task::yield_now().into_actor(self));
        }
    }
}

impl Drop for TaskActor {
    /// An actor that goes down with its arbiter fails the job: no task ends unnoticed.
    fn drop(&mut self) {
        if self.task.is_some() {
            self.job.fail(ExecutionError::Closed);
            self.end();
        }
    }
}
