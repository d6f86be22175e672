//! The source of a store: a split is a few batches of one file, and the next batch is read while the last one is emitted.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use aqueduct_runtime::batch::copied;
use aqueduct_runtime::memory::Reservation;
use aqueduct_runtime::spill::{Fetch, Fetched};
use aqueduct_runtime::{
    OperatorError, Outbox, Result, Scan, ScanContext, Source, SourceContext, SourceSpec, SourceStep, Split,
};
use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;

use super::sink::rows_within;
use super::{Part, Store};

/// Bytes of rows in a split.
const SPLIT_BYTES: usize = 1 << 20;
/// Batches that are read at a time.
const AHEAD: usize = 2;

/// Reads the rows of a [`Store`], in the order of its files.
#[derive(Debug, Clone)]
pub struct StoreSource {
    store: Arc<Store>,
    columns: Option<Vec<usize>>,
    schema: SchemaRef,
}

impl StoreSource {
    /// All rows of `store`.
    pub fn new(store: Arc<Store>) -> Self {
        let schema = SchemaRef::clone(store.schema());
        Self { store, columns: None, schema }
    }

    /// Only these columns of the store, in this order.
    ///
    /// # Errors
    ///
    /// If one is not there.
    pub fn with_projection(&self, columns: &[usize]) -> Result<Self> {
        let schema = Arc::new(self.store.schema().project(columns)?);
        Ok(Self { store: Arc::clone(&self.store), columns: Some(columns.to_vec()), schema })
    }

    /// What it reads.
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    fn splits(&self) -> Vec<StoreSplit> {
        let mut splits = Vec::new();
        for (file, part) in self.store.parts.iter().enumerate() {
            let mut first = 0;
            let mut bytes = 0;
            for (index, batch) in part.batches.iter().enumerate() {
                bytes += batch.memory_bytes;
                if bytes >= SPLIT_BYTES || index + 1 == part.batches.len() {
                    splits.push(StoreSplit { file, batches: first..index + 1 });
                    (first, bytes) = (index + 1, 0);
                }
            }
        }
        splits
    }
}

/// Batches of one file: what the payload of a split says.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct StoreSplit {
    file: usize,
    batches: Range<usize>,
}

impl StoreSplit {
    pub(super) fn encode(&self) -> Vec<u8> {
        [self.file, self.batches.start, self.batches.end].iter().flat_map(|part| (*part as u64).to_le_bytes()).collect()
    }

    pub(super) fn decode(split: &Split, store: &Store) -> Result<Self> {
        let mut parts = split.payload.chunks_exact(8).map(|bytes| {
            <[u8; 8]>::try_from(bytes).ok().and_then(|bytes| usize::try_from(u64::from_le_bytes(bytes)).ok())
        });
        let mut part = || parts.next().flatten();
        let decoded = part().zip(part()).zip(part()).map(|((file, from), to)| Self { file, batches: from..to });
        let fits = |split: &Self| {
            store.parts.get(split.file).is_some_and(|part| part.batches.get(split.batches.clone()).is_some())
        };
        decoded.filter(fits).ok_or_else(|| OperatorError::new(format!("there is no {}", split.description)))
    }
}

impl SourceSpec for StoreSource {
    fn name(&self) -> &str {
        "store"
    }

    fn schema(&self) -> SchemaRef {
        SchemaRef::clone(&self.schema)
    }

    fn scan(&self, _context: ScanContext) -> Result<Arc<dyn Scan>> {
        let splits = self.splits();
        Ok(Arc::new(StoreScan { source: self.clone(), splits, next: AtomicUsize::new(0) }))
    }

    fn min_memory(&self, _batch_bytes: usize) -> usize {
        // One batch that is being emitted, and the next one.
        2 * self.store.parts.iter().map(|part| part.fetch_bytes).max().unwrap_or(0)
    }

    fn max_partitions(&self) -> Option<usize> {
        Some(self.splits().len().max(1))
    }

    fn detail(&self) -> String {
        let columns = self.schema.fields().iter().map(|field| field.name().as_str()).collect::<Vec<_>>().join(", ");
        format!("{columns}; {} rows in {} files", self.store.rows(), self.store.parts.len())
    }
}

struct StoreScan {
    source: StoreSource,
    splits: Vec<StoreSplit>,
    next: AtomicUsize,
}

impl Scan for StoreScan {
    fn next_split(&self) -> Result<Option<Split>> {
        let index = self.next.fetch_add(1, Relaxed);
        let Some(split) = self.splits.get(index) else { return Ok(None) };
        let batches = &self.source.store.parts[split.file].batches[split.batches.clone()];
        Ok(Some(Split {
            index: index as u64,
            description: format!("batches {}..{} of file {}", split.batches.start, split.batches.end, split.file),
            bytes: batches.iter().map(|batch| batch.length).sum(),
            payload: split.encode(),
        }))
    }

    fn open(&self, context: SourceContext) -> Result<Box<dyn Source>> {
        let source = self.source.clone();
        Ok(Box::new(Reader { source, context, part: None, left: 0..0, ahead: VecDeque::new(), rest: None }))
    }

    fn total_bytes(&self) -> Option<u64> {
        Some(self.source.store.bytes())
    }
}

struct Reader {
    source: StoreSource,
    context: SourceContext,
    part: Option<Arc<Part>>,
    /// Batches of the split that are still to be read.
    left: Range<usize>,
    /// Batches on their way, with what they will take.
    ahead: VecDeque<(Fetch, Reservation)>,
    /// What is left to emit of the last batch.
    rest: Option<RecordBatch>,
}

impl Reader {
    /// Begins to read, as far ahead as there is room.
    fn read_ahead(&mut self) -> Result<()> {
        let Some(part) = &self.part else { return Ok(()) };
        while self.ahead.len() < AHEAD && !self.left.is_empty() {
            let batch = part.batches[self.left.start];
            let bytes = part.fetch_bytes(batch)?;
            match self.context.memory.try_reserve(bytes) {
                Some(reservation) => self.ahead.push_back((part.fetch(batch)?, reservation)),
                None if self.ahead.is_empty() && self.rest.is_none() => {
                    return Err(self.context.memory.row_too_large(bytes));
                }
                None => break,
            }
            self.left.start += 1;
        }
        Ok(())
    }

    /// Emits `batch`, or its first rows if it has more than `budget_bytes`.
    fn emit(&mut self, batch: RecordBatch, budget_bytes: usize, out: &mut Outbox) {
        let rows = rows_within(&batch, budget_bytes);
        if rows == batch.num_rows() {
            out.push(batch);
        } else {
            out.push(copied(&batch.slice(0, rows)));
            self.rest = Some(batch.slice(rows, batch.num_rows() - rows));
        }
    }
}

impl Source for Reader {
    fn start(&mut self, split: &Split) -> Result<()> {
        let StoreSplit { file, batches } = StoreSplit::decode(split, &self.source.store)?;
        self.part = Some(Arc::clone(&self.source.store.parts[file]));
        self.left = batches;
        Ok(())
    }

    fn read(&mut self, budget_bytes: usize, out: &mut Outbox) -> Result<SourceStep> {
        self.read_ahead()?;
        if let Some(rest) = self.rest.take() {
            self.emit(rest, budget_bytes, out);
        } else if let Some((fetch, reservation)) = self.ahead.front_mut() {
            let batch = match fetch.poll()? {
                Fetched::Blocked(ticket) => return Ok(SourceStep::Blocked(ticket)),
                Fetched::Ready(batch) => batch,
            };
            self.context.memory.claim_from(&batch, reservation);
            self.ahead.pop_front();
            let batch = match &self.source.columns {
                Some(columns) => batch.project(columns)?,
                None => batch,
            };
            self.emit(batch, budget_bytes, out);
        }
        match self.rest.is_none() && self.ahead.is_empty() && self.left.is_empty() {
            true => Ok(SourceStep::Done),
            false => Ok(SourceStep::More),
        }
    }
}
