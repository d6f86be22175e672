//! Waiting for something outside the dataflow: [`Ticket`]s, and the worker's I/O threads that complete them.
//!
//! A step never waits for a disk. It starts the work on an I/O thread, returns the ticket, and is run
//! again once the ticket is done. A ticket is always completed: dropping its [`Completion`] does it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Waker;
use std::thread::JoinHandle;

use crossbeam_channel::{Sender, unbounded};

use crate::observe::{DiskRecorder, DiskUser};
use crate::planted::{Bug, is_planted};
use crate::sync::{AtomicBool, Mutex};

use crate::error::{OperatorError, panic_message};
use crate::failpoint::{self, Point};

/// Something that a task waits for and that no task of the job has to bring about.
#[derive(Clone, Debug)]
pub struct Ticket(Arc<TicketInner>);

#[derive(Debug)]
struct TicketInner {
    what: &'static str,
    done: AtomicBool,
    wakers: Mutex<Vec<Waker>>,
    kind: Kind,
}

/// Who brings a ticket about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Outside,
    /// Another task of the same job.
    Task,
    /// Whoever gives memory back: so many bytes, of what floats on the worker.
    Memory(usize),
}

impl Ticket {
    /// A ticket and the handle that completes it. `what` is shown in metrics, such as `reading`.
    pub fn new(what: &'static str) -> (Ticket, Completion) {
        Self::of(what, Kind::Outside)
    }

    /// As [`Ticket::new`], for what another task of the same job will do. The watchdog sees to it that tasks do not
    /// wait for each other in a circle.
    pub fn of_task(what: &'static str) -> (Ticket, Completion) {
        Self::of(what, Kind::Task)
    }

    fn of(what: &'static str, kind: Kind) -> (Ticket, Completion) {
        let (done, wakers) = (AtomicBool::new(false), Mutex::default());
        let inner = Arc::new(TicketInner { what, done, wakers, kind });
        (Ticket(Arc::clone(&inner)), Completion(inner))
    }

    /// Asks the task to call again once `bytes` float on its worker. For all others it is done.
    pub(crate) fn for_memory(bytes: usize) -> Ticket {
        Self::of("memory", Kind::Memory(bytes)).0
    }

    /// Bytes that are waited for, if it is memory.
    pub(crate) fn memory_bytes(&self) -> Option<usize> {
        match self.0.kind {
            Kind::Memory(bytes) => Some(bytes),
            Kind::Outside | Kind::Task => None,
        }
    }

    /// Whether another task of the same job is waited for.
    pub(crate) fn is_of_task(&self) -> bool {
        self.0.kind == Kind::Task
    }

    /// What is waited for.
    pub fn what(&self) -> &'static str {
        self.0.what
    }

    /// Whether the wait is over.
    pub fn is_done(&self) -> bool {
        self.0.done.load(Ordering::Acquire)
    }

    /// Wakes `waker` once the ticket is done; `false` if it is done already, and `waker` was not kept.
    pub fn register(&self, waker: &Waker) -> bool {
        let mut wakers = self.0.wakers.lock();
        if self.is_done() && !is_planted(Bug::NoSecondLook) {
            return false;
        }
        if !wakers.iter().any(|w| w.will_wake(waker)) {
            wakers.push(waker.clone());
        }
        true
    }

    /// Blocks this thread until the ticket is done. Never call it in a step.
    pub fn wait(&self) {
        struct Unpark(std::thread::Thread);
        impl std::task::Wake for Unpark {
            fn wake(self: Arc<Self>) {
                self.0.unpark();
            }
        }
        let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
        while self.register(&waker) {
            std::thread::park();
        }
    }
}

/// Completes a [`Ticket`] when dropped, so that a failing I/O thread leaves nobody waiting.
#[derive(Debug)]
pub struct Completion(Arc<TicketInner>);

impl Drop for Completion {
    fn drop(&mut self) {
        let wakers = {
            let mut wakers = self.0.wakers.lock();
            self.0.done.store(true, Ordering::Release);
            std::mem::take(&mut *wakers)
        };
        wakers.into_iter().for_each(Waker::wake);
    }
}

enum Work {
    Run(Box<dyn FnOnce() + Send>),
    /// The thread that takes it ends.
    Stop,
}

/// The I/O threads of one worker. Work is started in the order of submission.
#[derive(Clone, Debug)]
pub struct Io {
    queue: Sender<Work>,
    threads: usize,
    stopped: Arc<AtomicBool>,
    /// Where [`Io::run`] records its work, and as whose.
    recorder: Option<Arc<(DiskRecorder, DiskUser)>>,
}

impl Io {
    /// Starts `threads` I/O threads named `{name}-io`. They end with [`Io::stop`], or once every clone of the
    /// [`Io`] is dropped; joining the handles before that waits for ever.
    ///
    /// # Errors
    ///
    /// The system's error if a thread cannot be started.
    pub fn start(name: &str, threads: usize) -> std::io::Result<(Io, Vec<JoinHandle<()>>)> {
        let (sender, receiver) = unbounded::<Work>();
        let handles = (0..threads)
            .map(|_| {
                let receiver = receiver.clone();
                std::thread::Builder::new().name(format!("{name}-io")).stack_size(512 * 1024).spawn(move || {
                    while let Ok(Work::Run(work)) = receiver.recv() {
                        // A panic in one piece of work must not take the thread from the others; its
                        // ticket is completed as it unwinds, and its slot is found empty.
                        let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
                    }
                })
            })
            .collect::<std::io::Result<Vec<_>>>()?;
        Ok((Io { queue: sender, threads, stopped: Arc::default(), recorder: None }, handles))
    }

    /// Without threads: what is submitted waits until whoever holds the [`ByHand`] runs it.
    #[cfg(any(test, feature = "testing"))]
    pub fn by_hand() -> (Io, ByHand) {
        let (queue, receiver) = unbounded();
        (Io { queue, threads: 0, stopped: Arc::default(), recorder: None }, ByHand(receiver))
    }

    /// The same threads; what [`Io::run`] does from here is recorded as the work of `user`.
    pub(crate) fn recorded(mut self, recorder: DiskRecorder, user: DiskUser) -> Io {
        self.recorder = Some(Arc::new((recorder, user)));
        self
    }

    /// Ends the threads once all that was submitted before is done. What is submitted later is dropped, its
    /// tickets completed.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
        for _ in 0..self.threads {
            let _ = self.queue.send(Work::Stop);
        }
    }

    /// Whether it was stopped: what is submitted from now on is not done.
    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }

    /// Runs `work` on an I/O thread.
    pub fn submit(&self, work: impl FnOnce() + Send + 'static) {
        // Without threads the work is dropped, which completes its ticket.
        let _ = self.queue.send(Work::Run(Box::new(work)));
    }

    /// Runs `work` on an I/O thread; its result is taken from the returned [`Pending`].
    pub fn run<T: Send + 'static>(&self, what: &'static str, work: impl FnOnce() -> T + Send + 'static) -> Pending<T> {
        let (ticket, completion) = Ticket::new(what);
        let slot = Arc::new(Mutex::new(None));
        let result = Arc::clone(&slot);
        let recorder = self.recorder.clone();
        self.submit(move || {
            let work = || {
                failpoint::trips(Point::Work);
                work()
            };
            let value = catch_unwind(AssertUnwindSafe(|| match recorder.as_deref() {
                Some((recorder, user)) => recorder.record(|| user.clone(), None, work),
                None => work(),
            }));
            *result.lock() = Some(value.map_err(|panic| panic_message(&*panic)));
            drop(completion);
        });
        Pending { ticket, slot }
    }
}

/// The work of an [`Io`] without threads.
#[cfg(any(test, feature = "testing"))]
#[derive(Debug)]
pub struct ByHand(crossbeam_channel::Receiver<Work>);

#[cfg(any(test, feature = "testing"))]
impl ByHand {
    /// The piece of work that was submitted first.
    pub fn take(&self) -> Option<Box<dyn FnOnce() + Send>> {
        match self.0.try_recv() {
            Ok(Work::Run(work)) => Some(work),
            Ok(Work::Stop) | Err(_) => None,
        }
    }
}

/// The result of work on an I/O thread, once it is there.
#[derive(Debug)]
pub struct Pending<T> {
    ticket: Ticket,
    slot: Arc<Mutex<Option<Result<T, String>>>>,
}

impl<T> Pending<T> {
    /// Done once [`Pending::take`] has something to give.
    pub fn ticket(&self) -> &Ticket {
        &self.ticket
    }

    /// The result. `None` before the ticket is done, after it was taken, and when the work panicked.
    pub fn take(&mut self) -> Option<T> {
        self.slot.lock().take_if(|result| result.is_ok())?.ok()
    }

    /// What to report once the ticket is done and [`Pending::take`] has nothing: the message of the work's panic.
    pub fn panicked(&self) -> OperatorError {
        match &*self.slot.lock() {
            Some(Err(message)) => OperatorError::new(format!("an I/O thread panicked: {message}")),
            _ => OperatorError::new("the work of an I/O thread was dropped"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_panic_of_a_piece_of_work_is_told_to_who_waits_for_it_and_the_thread_goes_on() {
        let (io, _) = Io::start("aq-io", 1).expect("a thread");
        let mut broken = io.run("work", || -> u32 { panic!("no such luck") });
        broken.ticket().wait();
        assert_eq!(broken.take(), None);
        assert_eq!(broken.panicked().to_string(), "an I/O thread panicked: no such luck");
        let mut good = io.run("work", || 7);
        good.ticket().wait();
        assert_eq!(good.take(), Some(7));
    }
}
