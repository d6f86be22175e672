//! The source: a spec, the scan that one job makes of it, and the instances that read splits.
//!
//! A scan hands out splits in order from one queue shared by all partitions: whoever is free takes the
//! next. What a split covers never depends on who reads it.

use std::fmt::Debug;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::io::{Io, Ticket};
use crate::memory::Account;
use crate::operator::Outbox;

/// What a source is, before it runs.
pub trait SourceSpec: Debug + Send + Sync + 'static {
    /// The kind of source, such as `csv`.
    fn name(&self) -> &str;

    /// Schema of every batch.
    fn schema(&self) -> SchemaRef;

    /// Begins a scan: called once per job.
    ///
    /// # Errors
    ///
    /// Ends the job before it has started.
    fn scan(&self, context: ScanContext) -> Result<Arc<dyn Scan>>;

    /// Bytes that one instance needs beside its output: read buffers, decoders. The floor of
    /// [`SourceContext::memory`].
    fn min_memory(&self, batch_bytes: usize) -> usize {
        let _ = batch_bytes;
        0
    }

    /// Number of splits, if it is known and small: no more partitions than that are made.
    fn max_partitions(&self) -> Option<usize> {
        None
    }

    /// What `explain` shows behind the name, such as files and projected columns.
    fn detail(&self) -> String {
        String::new()
    }
}

/// What a scan is told of its job.
#[derive(Debug, Clone)]
pub struct ScanContext {
    /// Largest batch, in bytes, that the plan counts on.
    pub batch_bytes: usize,
    /// Instances that will read.
    pub partitions: usize,
}

/// One job's pass over a source, shared by its instances.
pub trait Scan: Send + Sync {
    /// Hands out the next split, in order; `None` after the last. Must not wait for anything.
    ///
    /// # Errors
    ///
    /// Ends the job.
    fn next_split(&self) -> Result<Option<Split>>;

    /// Makes the instance of one partition.
    ///
    /// # Errors
    ///
    /// Ends the job before it has started.
    fn open(&self, context: SourceContext) -> Result<Box<dyn Source>>;

    /// Bytes of the whole scan, if known, for progress.
    fn total_bytes(&self) -> Option<u64> {
        None
    }
}

/// A unit of source work: a byte range of a file, a row group, a range of numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Split {
    /// Position in source order, from 0, without gaps.
    pub index: u64,
    /// What errors and metrics call it, such as `data.csv bytes 0..65536`.
    pub description: String,
    /// Bytes that reading it covers, for progress; 0 if unknown.
    pub bytes: u64,
    /// What the source needs to find it again.
    pub payload: Vec<u8>,
}

/// One partition of a source.
pub trait Source: Send {
    /// Begins `split`. Called when there is none or after [`SourceStep::Done`].
    ///
    /// # Errors
    ///
    /// Any error ends the job; the source is not called again.
    fn start(&mut self, split: &Split) -> Result<()>;

    /// Bytes that the next `read` may allocate for what it emits. The task waits until they are reserved.
    fn step_bytes(&self, budget_bytes: usize) -> usize {
        2 * budget_bytes
    }

    /// Emits about `budget_bytes` of the split's rows to `out`, or says what it waits for.
    ///
    /// # Errors
    ///
    /// As for [`Source::start`].
    fn read(&mut self, budget_bytes: usize, out: &mut Outbox) -> Result<SourceStep>;
}

/// How a read ended.
#[derive(Debug)]
pub enum SourceStep {
    /// There is more in this split.
    More,
    /// Something outside is waited for: read again once the ticket is done.
    Blocked(Ticket),
    /// The split is read; what was emitted are its last rows.
    Done,
}

/// What a source instance gets from its task.
#[derive(Clone, Debug)]
pub struct SourceContext {
    /// Name of the node.
    pub node: Arc<str>,
    /// Index of this partition.
    pub partition: usize,
    /// Largest batch, in bytes, that the plan counts on.
    pub batch_bytes: usize,
    /// Rows that an output batch should have at the most.
    pub batch_rows: usize,
    /// The account of buffers and decoders. Its floor is [`SourceSpec::min_memory`].
    pub memory: Account,
    /// The worker's I/O threads.
    pub io: Io,
}
