//! Batches in memory: a source of batches that the program has, and a sink that collects them for it.
//!
//! What a [`MemorySink`] collected can be read only once the job has committed it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use aqueduct_runtime::batch::{batch_bytes, copied};
use aqueduct_runtime::memory::{Account, hand_out};
use aqueduct_runtime::{
    CloseStep, OperatorError, Outbox, Receipt, Result, Scan, ScanContext, Sink, SinkContext, SinkSpec, SinkStep,
    Source, SourceContext, SourceSpec, SourceStep, Split,
};
use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use parking_lot::Mutex;

use crate::expression::same_types;

/// A source of given batches, each a split of its own.
#[derive(Debug, Clone)]
pub struct MemorySource {
    schema: SchemaRef,
    batches: Arc<[RecordBatch]>,
}

impl MemorySource {
    /// The rows of `batches`, all of `schema`.
    pub fn new(schema: SchemaRef, batches: Vec<RecordBatch>) -> Self {
        Self { schema, batches: batches.into() }
    }
}

impl SourceSpec for MemorySource {
    fn name(&self) -> &str {
        "memory"
    }

    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn scan(&self, _context: ScanContext) -> Result<Arc<dyn Scan>> {
        if let Some(wrong) = self.batches.iter().find(|batch| !same_types(&self.schema, &batch.schema())) {
            return Err(OperatorError::new(format!("a batch has {} instead of {}", wrong.schema(), self.schema)));
        }
        Ok(Arc::new(MemoryScan { source: self.clone(), next: AtomicUsize::new(0) }))
    }

    fn max_partitions(&self) -> Option<usize> {
        Some(self.batches.len().max(1))
    }

    fn detail(&self) -> String {
        let rows: usize = self.batches.iter().map(RecordBatch::num_rows).sum();
        format!("{rows} rows in {} batches", self.batches.len())
    }
}

struct MemoryScan {
    source: MemorySource,
    next: AtomicUsize,
}

impl Scan for MemoryScan {
    fn next_split(&self) -> Result<Option<Split>> {
        let index = self.next.fetch_add(1, Relaxed);
        Ok(self.source.batches.get(index).map(|batch| Split {
            index: index as u64,
            description: format!("batch {index}"),
            bytes: batch_bytes(batch) as u64,
            payload: (index as u64).to_le_bytes().to_vec(),
        }))
    }

    fn open(&self, _context: SourceContext) -> Result<Box<dyn Source>> {
        Ok(Box::new(MemoryReader { source: self.source.clone(), batch: None }))
    }

    fn total_bytes(&self) -> Option<u64> {
        Some(self.source.batches.iter().map(|batch| batch_bytes(batch) as u64).sum())
    }
}

/// What is left of the batch being read.
struct MemoryReader {
    source: MemorySource,
    batch: Option<RecordBatch>,
}

impl Source for MemoryReader {
    fn start(&mut self, split: &Split) -> Result<()> {
        let index = <[u8; 8]>::try_from(split.payload.as_slice()).map(u64::from_le_bytes).ok();
        let batch = index.and_then(|index| self.source.batches.get(usize::try_from(index).ok()?));
        let batch = batch.ok_or_else(|| OperatorError::new(format!("there is no {}", split.description)))?;
        self.batch = Some(batch.clone());
        Ok(())
    }

    /// Emits copies: a job that claimed the program's own buffers would be charged for them until the program
    /// lets go of them, which may be never.
    fn read(&mut self, budget_bytes: usize, out: &mut Outbox) -> Result<SourceStep> {
        let Some(batch) = self.batch.take() else { return Ok(SourceStep::Done) };
        let rows = batch.num_rows();
        let fit = rows.checked_div(batch_bytes(&batch).div_ceil(budget_bytes.max(1))).unwrap_or(rows).max(1);
        if fit >= rows {
            out.push(copied(&batch));
            return Ok(SourceStep::Done);
        }
        out.push(copied(&batch.slice(0, fit)));
        self.batch = Some(batch.slice(fit, rows - fit));
        Ok(SourceStep::More)
    }
}

/// A sink that collects batches for the program.
///
/// While the job runs they count against the worker's limit; once committed they are the program's.
#[derive(Debug, Clone, Default)]
pub struct MemorySink {
    collected: Arc<Mutex<Option<Vec<RecordBatch>>>>,
}

impl MemorySink {
    /// A sink that has collected nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes what was collected, in the order of partitions. `None` before the commit and once it was taken.
    pub fn take(&self) -> Option<Vec<RecordBatch>> {
        self.collected.lock().take()
    }
}

impl SinkSpec for MemorySink {
    fn name(&self) -> &str {
        "memory"
    }

    fn open(&self, context: SinkContext) -> Result<Box<dyn Sink>> {
        Ok(Box::new(MemoryWriter { memory: context.memory, batches: Vec::new(), rows: 0 }))
    }

    fn commit(&self, receipts: Vec<Receipt>) -> Result<()> {
        let mut all = Vec::new();
        for receipt in receipts {
            let batches = receipt.payload.and_then(|payload| payload.downcast::<Vec<RecordBatch>>().ok());
            all.extend(*batches.ok_or_else(|| OperatorError::new("a receipt is not from a memory sink"))?);
        }
        all.iter().for_each(hand_out);
        *self.collected.lock() = Some(all);
        Ok(())
    }

    fn min_memory(&self, batch_bytes: usize) -> usize {
        batch_bytes
    }
}

struct MemoryWriter {
    memory: Account,
    batches: Vec<RecordBatch>,
    rows: u64,
}

impl Sink for MemoryWriter {
    fn write(&mut self, batch: RecordBatch) -> Result<SinkStep> {
        let batch = aqueduct_runtime::batch::compact(batch);
        let estimate = self.memory.try_reserve(batch.get_array_memory_size()).ok_or_else(|| {
            OperatorError::new(format!(
                "the rows collected in memory do not fit in the limit of {} bytes; write them to a file, read \
                 them as a stream, or raise `memory_limit`",
                self.memory.pool().limit()
            ))
        })?;
        drop(estimate);
        self.memory.claim(&batch);
        self.rows += batch.num_rows() as u64;
        self.batches.push(batch);
        Ok(SinkStep::Written)
    }

    fn close(&mut self) -> Result<CloseStep> {
        let payload = Some(Box::new(std::mem::take(&mut self.batches)) as _);
        Ok(CloseStep::Closed(Receipt { rows: self.rows, payload }))
    }
}

#[cfg(test)]
mod tests {
    use aqueduct_runtime::io::Io;
    use aqueduct_runtime::memory::MemoryPool;
    use arrow::array::{ArrayRef, Int64Array};
    use arrow::compute::concat_batches;

    use super::*;

    fn numbers(range: std::ops::Range<i64>) -> RecordBatch {
        let column = Arc::new(Int64Array::from_iter_values(range)) as ArrayRef;
        RecordBatch::try_from_iter([("n", column)]).expect("one column")
    }

    #[test]
    fn every_batch_is_a_split_and_large_ones_are_read_in_pieces() {
        let batches = vec![numbers(0..10), numbers(10..10), numbers(10..1000)];
        let source = MemorySource::new(batches[0].schema(), batches.clone());
        let scan = source.scan(ScanContext { batch_bytes: 1 << 16, partitions: 2 }).expect("same schema");
        let pool = MemoryPool::new(1 << 20);
        let (io, _threads) = Io::start("test", 1).expect("one thread");
        let context = SourceContext {
            node: "numbers".into(),
            partition: 0,
            batch_bytes: 1 << 16,
            batch_rows: 8192,
            memory: pool.account("source"),
            io,
        };
        let mut reader = scan.open(context).expect("opens");
        let mut out = Outbox::new();
        let mut splits = 0;
        while let Some(split) = scan.next_split().expect("no error") {
            assert_eq!(split.index, splits);
            splits += 1;
            reader.start(&split).expect("exists");
            while matches!(reader.read(800, &mut out).expect("reads"), SourceStep::More) {}
        }
        let read: Vec<_> = std::iter::from_fn(|| out.pop().map(|(_, batch)| batch)).collect();
        assert_eq!(splits, 3);
        assert!(read.iter().all(|batch| batch.num_rows() <= 100), "pieces of about 800 bytes");
        assert_eq!(concat_batches(&source.schema(), &read).expect("same schema"), numbers(0..1000));
    }

    #[test]
    fn what_was_collected_is_there_after_the_commit_and_counts_until_then() {
        let pool = MemoryPool::new(1 << 20);
        let (io, _threads) = Io::start("test", 1).expect("one thread");
        let sink = MemorySink::new();
        let receipts: Vec<Receipt> = (0..2)
            .map(|partition| {
                let context = SinkContext {
                    node: "collect".into(),
                    partition,
                    partitions: 2,
                    schema: numbers(0..1).schema(),
                    memory: pool.account("sink"),
                    io: io.clone(),
                };
                let mut writer = sink.open(context).expect("opens");
                let start = partition as i64 * 1000;
                writer.write(numbers(start..start + 1000)).expect("fits");
                match writer.close().expect("closes") {
                    CloseStep::Closed(receipt) => receipt,
                    CloseStep::Blocked(_) => panic!("nothing to wait for"),
                }
            })
            .collect();
        assert!(sink.take().is_none());
        assert!(pool.charged() >= 16_000);
        sink.commit(receipts).expect("its own receipts");
        let batches = sink.take().expect("committed");
        assert_eq!(pool.charged(), 0);
        assert_eq!(batches, [numbers(0..1000), numbers(1000..2000)]);
    }

    #[test]
    fn more_than_the_limit_is_a_clear_error() {
        let pool = MemoryPool::new(10_000);
        let mut writer = MemoryWriter { memory: pool.account("sink"), batches: Vec::new(), rows: 0 };
        writer.write(numbers(0..1000)).expect("fits");
        let error = writer.write(numbers(0..1000)).expect_err("does not fit");
        assert!(error.to_string().contains("10000 bytes"), "{error}");
        drop(writer);
        assert_eq!((pool.charged(), pool.overruns()), (0, 0));
    }
}
