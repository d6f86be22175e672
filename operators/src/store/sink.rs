//! The sink of a store: each partition writes a spill file, which outlives the job once the job has ended well.

use std::sync::Arc;

use aqueduct_runtime::batch::batch_bytes;
use aqueduct_runtime::memory::Account;
use aqueduct_runtime::spill::{SpillFile, SpillSpace, SpilledBatch};
use aqueduct_runtime::{CloseStep, OperatorError, Receipt, Result, Sink, SinkContext, SinkSpec, SinkStep};
use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use parking_lot::Mutex;

use super::{Part, Store};

/// Bytes of a batch in a store: whoever reads it must have room for one.
const BATCH_BYTES: usize = 256 << 10;
/// Frames that the memory of a sink is for: three quarters of it may wait for the disk.
const FRAMES: usize = 8;
/// What a frame has beside the rows of its batch.
const FRAME_BYTES: usize = 8 << 10;

/// Writes rows to spill files, for [`StoreSource`](super::StoreSource) to read. One file for each partition.
#[derive(Debug, Clone)]
pub struct StoreSink {
    schema: SchemaRef,
    /// Where files are that outlive their job, for each worker.
    spaces: Vec<SpillSpace>,
    stored: Arc<Mutex<Option<Store>>>,
}

impl StoreSink {
    /// A sink for rows of `schema`. The files are kept in `spaces`, which belong to no job.
    ///
    /// # Errors
    ///
    /// If there is no space.
    pub fn try_new(schema: SchemaRef, spaces: Vec<SpillSpace>) -> Result<Self> {
        if spaces.is_empty() {
            return Err(OperatorError::new("there is no space to keep rows in"));
        }
        Ok(Self { schema, spaces, stored: Arc::default() })
    }

    /// Takes what was stored. `None` before the commit and once it was taken.
    pub fn take(&self) -> Option<Store> {
        self.stored.lock().take()
    }
}

impl SinkSpec for StoreSink {
    fn name(&self) -> &str {
        "store"
    }

    fn open(&self, context: SinkContext) -> Result<Box<dyn Sink>> {
        let types =
            |schema: &SchemaRef| schema.fields().iter().map(|field| field.data_type().clone()).collect::<Vec<_>>();
        // The names, and what may be null, are those that were asked for.
        let schema = if types(&self.schema) == types(&context.schema) { &self.schema } else { &context.schema };
        let space = self.spaces[0].dir().space(context.io, context.memory.clone());
        let file = space.create("kept", SchemaRef::clone(schema));
        Ok(Box::new(Writer { memory: context.memory, space, file: Some(file), batches: Vec::new(), rest: None }))
    }

    fn commit(&self, receipts: Vec<Receipt>) -> Result<()> {
        let mut parts = Vec::with_capacity(receipts.len());
        for (receipt, kept) in receipts.into_iter().zip(self.spaces.iter().cycle()) {
            let written = receipt.payload.and_then(|payload| payload.downcast::<Written>().ok());
            let Written { space, file, batches } =
                *written.ok_or_else(|| OperatorError::new("a receipt is not that of a store"))?;
            // No step waits here: the job's steps are over.
            space.flush_blocking();
            space.check()?;
            if batches.is_empty() {
                continue;
            }
            parts.push(Arc::new(Part::new(file.moved_to(kept)?, batches)));
        }
        *self.stored.lock() = Some(Store { schema: SchemaRef::clone(&self.schema), parts });
        Ok(())
    }

    fn min_memory(&self, batch_bytes: usize) -> usize {
        FRAMES * (batch_bytes.min(BATCH_BYTES) + FRAME_BYTES + 512 * self.schema.flattened_fields().len())
    }
}

/// What a partition has written.
struct Written {
    space: SpillSpace,
    file: SpillFile,
    batches: Vec<SpilledBatch>,
}

struct Writer {
    memory: Account,
    space: SpillSpace,
    file: Option<SpillFile>,
    batches: Vec<SpilledBatch>,
    /// What is left to write of the batch at hand.
    rest: Option<RecordBatch>,
}

impl Writer {
    /// Writes what is at hand, in pieces, until too much waits for the disk.
    fn write_rest(&mut self) -> Result<SinkStep> {
        self.space.check()?;
        while let Some(batch) = self.rest.take() {
            if let Some(ticket) = self.space.backlog() {
                self.rest = Some(batch);
                return Ok(SinkStep::Blocked(ticket));
            }
            let rows = rows_within(&batch, BATCH_BYTES.min(self.memory.floor() / FRAMES));
            self.append(&batch.slice(0, rows))?;
            if rows < batch.num_rows() {
                self.rest = Some(batch.slice(rows, batch.num_rows() - rows));
            }
        }
        Ok(SinkStep::Written)
    }

    fn append(&mut self, batch: &RecordBatch) -> Result<()> {
        let bytes = batch_bytes(batch) + FRAME_BYTES;
        // A row that alone is larger than what the floor is for takes what floats, or is refused.
        if bytes > self.memory.floor() / 4 && self.memory.try_reserve(bytes).is_none() {
            return Err(self.memory.row_too_large(bytes));
        }
        let file = self.file.as_mut().ok_or_else(|| OperatorError::new("a store was written after it was closed"))?;
        self.batches.push(file.append(batch)?);
        Ok(())
    }
}

impl Sink for Writer {
    fn write(&mut self, batch: RecordBatch) -> Result<SinkStep> {
        if batch.num_rows() > 0 {
            self.rest = Some(batch);
        }
        self.write_rest()
    }

    fn resume(&mut self) -> Result<SinkStep> {
        self.write_rest()
    }

    fn close(&mut self) -> Result<CloseStep> {
        self.space.check()?;
        let Some(file) = self.file.take() else {
            return Err(OperatorError::new("a store was closed twice"));
        };
        let batches = std::mem::take(&mut self.batches);
        let rows = batches.iter().map(|batch| batch.rows as u64).sum();
        let written = Written { space: self.space.clone(), file, batches };
        Ok(CloseStep::Closed(Receipt { rows, payload: Some(Box::new(written)) }))
    }
}

/// First rows of `batch` that take `bytes` at the most: one at the least.
pub(super) fn rows_within(batch: &RecordBatch, bytes: usize) -> usize {
    let mut rows = batch.num_rows();
    loop {
        let taken = batch_bytes(&batch.slice(0, rows));
        if taken <= bytes || rows <= 1 {
            return rows;
        }
        // Rows may differ in length: halves, where a share by the average does not do.
        rows = (bytes as u128 * rows as u128 / taken as u128).clamp(1, rows as u128 / 2) as usize;
    }
}
