//! Spill files (to be replaced).

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;

use crate::error::Result;
use crate::io::Ticket;

/// Where one job spills on one worker: a folder of its own, the cluster's spill limit, counters, and the
/// worker's I/O threads, which do the writing. Clones are the same space.
#[derive(Clone, Debug)]
pub struct SpillSpace {}

impl SpillSpace {
    /// A new spill file for batches of `schema`; it appears on disk with the first append and vanishes
    /// when dropped.
    pub fn create(&self, label: &str, schema: SchemaRef) -> SpillFile {
        let _ = (label, schema);
        todo!()
    }

    /// Bytes written so far by this job on this worker.
    pub fn spilled_bytes(&self) -> u64 {
        todo!()
    }

    /// A ticket to wait for if more frames are queued for writing than the workspace has room for. The task
    /// asks after every step, so operators need not.
    pub fn backlog(&self) -> Option<Ticket> {
        todo!()
    }

    /// A space in a temporary folder with I/O threads of its own, for calling operators by hand.
    #[cfg(any(test, feature = "testing"))]
    pub fn temporary() -> Self {
        todo!()
    }
}

/// Batches on disk, written in order, read in any order.
#[derive(Debug)]
pub struct SpillFile {}

/// Where one batch is in its [`SpillFile`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpilledBatch {
    /// Offset of its frame in the file.
    pub offset: u64,
    /// Bytes of its frame on disk.
    pub length: u64,
    /// Rows in it.
    pub rows: usize,
    /// Bytes that its rows need in memory (`batch_bytes`).
    pub memory_bytes: usize,
}

impl SpillFile {
    /// Encodes `batch` now and hands the frame to an I/O thread. A failed write is reported by the next
    /// call on this file or by the task.
    pub fn append(&mut self, batch: &RecordBatch) -> Result<SpilledBatch> {
        let _ = batch;
        todo!()
    }

    /// Starts to read one batch back. Not accounted: reserve `memory_bytes` (and the frame) first.
    pub fn fetch(&self, batch: SpilledBatch) -> Fetch {
        let _ = batch;
        todo!()
    }

    /// Bytes in the file.
    pub fn bytes(&self) -> u64 {
        todo!()
    }
}

/// A batch on its way back from disk.
#[derive(Debug)]
pub struct Fetch {}

/// What a [`Fetch`] has.
#[derive(Debug)]
pub enum Fetched {
    /// The batch.
    Ready(RecordBatch),
    /// It is being read: return `Step::Blocked` with this ticket and poll again.
    Blocked(Ticket),
}

impl Fetch {
    /// The batch, or what to wait for. Not to be called again after [`Fetched::Ready`].
    pub fn poll(&mut self) -> Result<Fetched> {
        todo!()
    }
}
