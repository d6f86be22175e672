//! The sink: where a dataflow ends. What it wrote exists only once it was committed.

use std::any::Any;
use std::fmt::Debug;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;

use crate::error::Result;
use crate::io::{Io, Ticket};
use crate::memory::Account;

/// What a sink is, before it runs, and what makes its result exist or vanish after it ran.
pub trait SinkSpec: Debug + Send + Sync + 'static {
    /// The kind of sink, such as `csv`.
    fn name(&self) -> &str;

    /// Makes the instance of one partition.
    ///
    /// # Errors
    ///
    /// Ends the job before it has started.
    fn open(&self, context: SinkContext) -> Result<Box<dyn Sink>>;

    /// Makes the result exist. Called once, on an I/O thread, after every instance has closed and every other
    /// task of the job has ended well. `receipts` are in the order of partitions.
    ///
    /// # Errors
    ///
    /// Ends the job with this error; [`SinkSpec::abort`] follows.
    fn commit(&self, receipts: Vec<Receipt>) -> Result<()> {
        let _ = receipts;
        Ok(())
    }

    /// Removes what was written. Called once when the job failed or was cancelled, after every instance has
    /// been dropped.
    fn abort(&self) {}

    /// Bytes that one instance needs: buffers, encoders. The floor of [`SinkContext::memory`].
    fn min_memory(&self, batch_bytes: usize) -> usize {
        let _ = batch_bytes;
        0
    }

    /// What `explain` shows behind the name, such as the path.
    fn detail(&self) -> String {
        String::new()
    }
}

/// One partition of a sink.
pub trait Sink: Send {
    /// Writes one batch. After [`SinkStep::Blocked`] the batch counts as taken, and `resume` is called once
    /// the ticket is done.
    ///
    /// # Errors
    ///
    /// Any error ends the job; the sink is not called again.
    fn write(&mut self, batch: RecordBatch) -> Result<SinkStep>;

    /// Goes on after [`SinkStep::Blocked`].
    ///
    /// # Errors
    ///
    /// As for [`Sink::write`].
    fn resume(&mut self) -> Result<SinkStep> {
        Ok(SinkStep::Written)
    }

    /// Ends the input. Called again after [`CloseStep::Blocked`], once the ticket is done.
    ///
    /// # Errors
    ///
    /// As for [`Sink::write`].
    fn close(&mut self) -> Result<CloseStep>;
}

/// How a write ended.
#[derive(Debug)]
pub enum SinkStep {
    /// The next batch may come.
    Written,
    /// Something outside is waited for.
    Blocked(Ticket),
}

/// How a close ended.
#[derive(Debug)]
pub enum CloseStep {
    /// All is written; this is what to commit.
    Closed(Receipt),
    /// Something outside is waited for.
    Blocked(Ticket),
}

/// What one partition of a sink wrote.
#[derive(Debug, Default)]
pub struct Receipt {
    /// Rows written.
    pub rows: u64,
    /// What the spec's `commit` needs, such as the name of a temporary file.
    pub payload: Option<Box<dyn Any + Send>>,
}

/// What a sink instance gets from its task.
#[derive(Clone, Debug)]
pub struct SinkContext {
    /// Name of the node.
    pub node: Arc<str>,
    /// Index of this partition.
    pub partition: usize,
    /// Number of partitions of the node.
    pub partitions: usize,
    /// Schema of the input.
    pub schema: SchemaRef,
    /// The account of buffers and encoders. Its floor is [`SinkSpec::min_memory`].
    pub memory: Account,
    /// The worker's I/O threads.
    pub io: Io,
}
