//! Ctrl-C and the signals that ask a process to end: the first one ends the job and cleans up, the second one ends
//! everything at once.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};

use aqueduct::FrameStream;
use aqueduct::arrow::array::RecordBatch;
use futures_core::Stream;

use crate::failure::Failure;

/// Exit status of a process that was interrupted, as shells have it.
const INTERRUPTED: i32 = 130;

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
