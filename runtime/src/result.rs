//! A result as its caller reads it: a stream of batches that holds the job back when it is not read.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use futures_core::Stream;
use parking_lot::{Condvar, Mutex};

use crate::batch::{copied, is_shared};
use crate::error::{ExecutionError, Place};
use crate::job::JobCore;
use crate::mailbox::{PortReceiver, Received};

/// The batches of one result. An iterator that blocks, and a [`Stream`] that does not.
///
/// Ends after the last batch, or with the job's first error. A batch that was handed out no longer counts
/// as the job's memory. Dropping it tells the producers to stop. Rows may be read after the job has ended; those
/// that wait on disk until the cluster is closed, and end with [`ExecutionError::Closed`] then.
///
/// # Cancel safety
///
/// Dropping a future that waits for the next batch loses nothing.
pub struct ResultStream {
    job: Arc<JobCore>,
    node: usize,
    schema: SchemaRef,
    wake: Arc<CallerWake>,
    ended: bool,
}

/// Wakes the caller, who blocks or polls, and keeps the port that the job makes when it starts.
#[derive(Default)]
pub(crate) struct CallerWake {
    state: Mutex<CallerState>,
    changed: Condvar,
}

#[derive(Default)]
struct CallerState {
    woken: bool,
    port: Option<PortReceiver>,
    /// The stream is gone or has ended: a port that comes now is stopped at once.
    over: bool,
    /// All that there was has been handed out.
    delivered: bool,
    poller: Option<Waker>,
}

impl Wake for CallerWake {
    fn wake(self: Arc<Self>) {
        let poller = {
            let mut state = self.state.lock();
            state.woken = true;
            state.poller.take()
        };
        self.changed.notify_all();
        if let Some(poller) = poller {
            poller.wake();
        }
    }
}

impl CallerWake {
    /// Hands the port to the caller.
    pub(crate) fn connect(self: &Arc<Self>, port: PortReceiver) {
        let refused = {
            let mut state = self.state.lock();
            if state.over {
                Some(port)
            } else {
                state.port = Some(port);
                None
            }
        };
        // Stopping wakes its senders: not under the lock.
        drop(refused);
        Arc::clone(self).wake();
    }

    /// Whether the caller has had every batch.
    pub(crate) fn is_delivered(&self) -> bool {
        self.state.lock().delivered
    }
}

impl ResultStream {
    pub(crate) fn new(job: Arc<JobCore>, node: usize) -> Self {
        let wake = job.caller_wake(node);
        let schema = Arc::clone(&job.plan.nodes[node].inputs[0]);
        Self { job, node, schema, wake, ended: false }
    }

    /// The schema of every batch.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The next batch, the end, or nothing yet.
    fn try_next(&mut self) -> Poll<Option<Result<RecordBatch, ExecutionError>>> {
        loop {
            if self.ended {
                return Poll::Ready(None);
            }
            if let Some(error) = self.job.error() {
                let error = error.clone();
                self.end();
                return Poll::Ready(Some(Err(error)));
            }
            let received = {
                let mut state = self.wake.state.lock();
                state.woken = false;
                match &mut state.port {
                    None => Ok(Received::Empty),
                    Some(port) => {
                        let received = port.receive();
                        if !matches!(received, Ok(Received::Empty | Received::Blocked(_))) {
                            // While the caller works on a batch, or reads another result, nobody reads this one.
                            port.leave_unread();
                        }
                        received
                    }
                }
            };
            return match received {
                Ok(Received::Batch(batch, _)) => {
                    // An operator that holds on to the same buffers may claim them later: its account would be charged,
                    // and the job's floors with it, for as long as the caller keeps the batch.
                    let batch = if is_shared(&batch) { copied(&batch) } else { batch };
                    Poll::Ready(Some(Ok(batch)))
                }
                Ok(Received::SplitDone(_)) => continue,
                // An error that came since the look above has woken nobody.
                Ok(Received::Empty) if self.job.error().is_some() => continue,
                Ok(Received::Empty) => Poll::Pending,
                Ok(Received::Blocked(ticket)) => {
                    if !ticket.register(&Waker::from(Arc::clone(&self.wake))) {
                        continue;
                    }
                    Poll::Pending
                }
                Ok(Received::Ended) => {
                    self.wake.state.lock().delivered = true;
                    self.end();
                    Poll::Ready(None)
                }
                Err(cause) => {
                    let node = self.job.plan.nodes[self.node].name.to_string();
                    let at = Place { node, partition: 0, split: None };
                    // What went to disk went with the cluster, whatever reading it said.
                    let error = if self.job.is_closed() {
                        ExecutionError::Closed
                    } else {
                        ExecutionError::Operator { at, cause: Arc::new(cause) }
                    };
                    self.job.fail(error.clone());
                    // The job may have ended well before its last rows could not be read.
                    let error = self.job.error().cloned().unwrap_or(error);
                    self.end();
                    Poll::Ready(Some(Err(error)))
                }
            };
        }
    }

    /// Gives the port back: a stream that has ended may be kept, and holds no memory of the job's.
    fn end(&mut self) {
        self.ended = true;
        let port = {
            let mut state = self.wake.state.lock();
            state.over = true;
            state.port.take()
        };
        // Stopping wakes its senders: not under the lock.
        drop(port);
    }
}

impl Iterator for ResultStream {
    type Item = Result<RecordBatch, ExecutionError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Poll::Ready(next) = self.try_next() {
                return next;
            }
            let mut state = self.wake.state.lock();
            while !state.woken {
                self.wake.changed.wait(&mut state);
            }
        }
    }
}

impl Stream for ResultStream {
    type Item = Result<RecordBatch, ExecutionError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Poll::Ready(next) = self.try_next() {
                return Poll::Ready(next);
            }
            let mut state = self.wake.state.lock();
            if !state.woken {
                state.poller = Some(context.waker().clone());
                return Poll::Pending;
            }
        }
    }
}

impl Drop for ResultStream {
    fn drop(&mut self) {
        if !self.ended && self.job.error().is_none() {
            // Who has had the last batch need not ask for more to know that.
            let mut state = self.wake.state.lock();
            let drained = state.port.as_mut().is_some_and(PortReceiver::is_drained);
            state.delivered = drained;
        }
        self.end();
    }
}

impl std::fmt::Debug for ResultStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ResultStream").field("node", &self.node).field("ended", &self.ended).finish_non_exhaustive()
    }
}
