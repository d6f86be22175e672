//! Ctrl-C and the signals that ask a process to end: the first one ends the job and cleans up, the second one ends
//! everything at once.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Duration;

use aqueduct::arrow::array::RecordBatch;
use aqueduct::{FrameStream, LocalCluster};
use futures_core::Stream;

use crate::failure::Failure;

/// Exit status of a process that was interrupted, as shells have it.
const INTERRUPTED: i32 = 130;

/// How soon an interrupt is heard by one who waits for a thread.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// Whether an end was asked for, and who is to be woken by that.
#[derive(Debug)]
pub(crate) struct Interrupt {
    raised: Arc<AtomicBool>,
}

impl Interrupt {
    /// Listens from now on. The calling thread is the one that is woken.
    pub(crate) fn install() -> Self {
        let raised = Arc::new(AtomicBool::new(false));
        let (heard, main) = (Arc::clone(&raised), thread::current());
        let listening = ctrlc::set_handler(move || {
            if heard.swap(true, SeqCst) {
                // The first one was not enough: something does not end. What is left on disk is swept by the next start.
                std::process::exit(INTERRUPTED);
            }
            main.unpark();
        });
        if let Err(error) = listening {
            // Then a signal ends the process as it always does.
            eprintln!("warning: signals are not handled: {error}");
        }
        Self { raised }
    }

    /// Fails if an end was asked for.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        if self.raised.load(SeqCst) { Err(Failure::interrupted()) } else { Ok(()) }
    }

    /// What `work` gives, which may take its time: it runs jobs of its own on `cluster`, and waits for them. An
    /// interrupt cancels them.
    pub(crate) fn cancelling<T: Send>(
        &self,
        cluster: &LocalCluster,
        work: impl FnOnce() -> Result<T, Failure> + Send,
    ) -> Result<T, Failure> {
        let (send, done) = mpsc::sync_channel(1);
        thread::scope(|scope| {
            let worker = thread::Builder::new().name("aq-query".into()).spawn_scoped(scope, move || {
                // The other end is there for as long as this thread is.
                let _ = send.send(work());
            });
            let worker = worker.map_err(|error| Failure::thread(&error))?;
            loop {
                match done.recv_timeout(LOOK_AGAIN) {
                    Ok(outcome) => return outcome,
                    // Once is not enough: it may begin another job.
                    Err(RecvTimeoutError::Timeout) if self.check().is_err() => cluster.cancel_jobs(),
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => break,
                }
            }
            match worker.join() {
                Ok(()) => unreachable!("it has sent what came out"),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// The next rows, or `None` after the last. Waits for them, and for nothing longer than the interrupt.
    pub(crate) fn next(&self, rows: &mut FrameStream) -> Result<Option<RecordBatch>, Failure> {
        let waker = Waker::from(Arc::new(Unpark(thread::current())));
        let mut context = Context::from_waker(&waker);
        loop {
            self.check()?;
            match Pin::new(&mut *rows).poll_next(&mut context) {
                Poll::Ready(batch) => return Ok(batch.transpose()?),
                // Woken without reason now and then: the loop asks again.
                Poll::Pending => thread::park(),
            }
        }
    }
}

/// Wakes a parked thread.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}
