//! The generator: rows computed from their position, as many as wanted or without end.
//!
//! A row depends on its position alone, so every run, whatever its partitions, yields the same rows.

use std::fmt::{self, Debug};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use aqueduct_runtime::batch::batch_bytes;
use aqueduct_runtime::{
    OperatorError, Outbox, Result, Scan, ScanContext, Source, SourceContext, SourceSpec, SourceStep, Split,
};
use arrow::array::{ArrayRef, Int64Array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;

use crate::expression::same_types;

/// Rows of one split, unless told otherwise.
const SPLIT_ROWS: u64 = 1 << 20;

/// A source of rows computed by a closure.
pub struct Generator<F> {
    name: String,
    schema: SchemaRef,
    rows: Option<u64>,
    split_rows: u64,
    generate: Arc<F>,
}

impl<F> Generator<F>
where
    F: Fn(u64, usize) -> Result<RecordBatch> + Send + Sync + 'static,
{
    /// A source of `rows` rows, endless if `None`. `generate(offset, rows)` yields the rows
    /// `offset..offset + rows`: exactly that many.
    pub fn new(schema: SchemaRef, rows: Option<u64>, generate: F) -> Self {
        Self { name: "generate".into(), schema, rows, split_rows: SPLIT_ROWS, generate: Arc::new(generate) }
    }

    /// Sets how many rows a split has (1 Mi unless set).
    #[must_use]
    pub fn with_split_rows(self, split_rows: u64) -> Self {
        Self { split_rows: split_rows.max(1), ..self }
    }
}

/// A source of the numbers `0..rows`, in a column named `name`; without end if `rows` is `None`.
pub fn range(
    name: &str,
    rows: Option<u64>,
) -> Generator<impl Fn(u64, usize) -> Result<RecordBatch> + Send + Sync + 'static> {
    let schema = Arc::new(Schema::new(vec![Field::new(name, DataType::Int64, false)]));
    let batch_schema = Arc::clone(&schema);
    let numbers = move |offset: u64, rows: usize| {
        let start = i64::try_from(offset).map_err(|_| OperatorError::new("the range is longer than Int64 holds"))?;
        let column: ArrayRef = Arc::new(Int64Array::from_iter_values(start..start.saturating_add(rows as i64)));
        Ok(RecordBatch::try_new(Arc::clone(&batch_schema), vec![column])?)
    };
    Generator { name: "range".into(), ..Generator::new(schema, rows, numbers) }
}

impl<F> Debug for Generator<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Generator").field("name", &self.name).field("rows", &self.rows).finish_non_exhaustive()
    }
}

impl<F> SourceSpec for Generator<F>
where
    F: Fn(u64, usize) -> Result<RecordBatch> + Send + Sync + 'static,
{
    fn name(&self) -> &str {
        &self.name
    }

    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn scan(&self, _context: ScanContext) -> Result<Arc<dyn Scan>> {
        Ok(Arc::new(GeneratorScan {
            schema: Arc::clone(&self.schema),
            rows: self.rows,
            split_rows: self.split_rows,
            generate: Arc::clone(&self.generate),
            next: AtomicU64::new(0),
        }))
    }

    fn max_partitions(&self) -> Option<usize> {
        self.rows.map(|rows| usize::try_from(rows.div_ceil(self.split_rows)).unwrap_or(usize::MAX).max(1))
    }

    fn detail(&self) -> String {
        self.rows.map_or_else(|| "without end".into(), |rows| format!("{rows} rows"))
    }
}

struct GeneratorScan<F> {
    schema: SchemaRef,
    rows: Option<u64>,
    split_rows: u64,
    generate: Arc<F>,
    next: AtomicU64,
}

impl<F> Scan for GeneratorScan<F>
where
    F: Fn(u64, usize) -> Result<RecordBatch> + Send + Sync + 'static,
{
    fn next_split(&self) -> Result<Option<Split>> {
        let index = self.next.fetch_add(1, Relaxed);
        let end = self.rows.unwrap_or(u64::MAX);
        let start = index.saturating_mul(self.split_rows);
        if start >= end {
            return Ok(None);
        }
        let end = end.min(start.saturating_add(self.split_rows));
        let payload = [start.to_le_bytes(), end.to_le_bytes()].concat();
        Ok(Some(Split { index, description: format!("rows {start}..{end}"), bytes: 0, payload }))
    }

    fn open(&self, context: SourceContext) -> Result<Box<dyn Source>> {
        Ok(Box::new(GeneratorReader {
            schema: Arc::clone(&self.schema),
            generate: Arc::clone(&self.generate),
            batch_rows: context.batch_rows.max(1),
            row_bytes: None,
            left: 0..0,
        }))
    }
}

struct GeneratorReader<F> {
    schema: SchemaRef,
    generate: Arc<F>,
    batch_rows: usize,
    /// Bytes of a row, as the batches so far had it.
    row_bytes: Option<usize>,
    left: std::ops::Range<u64>,
}

/// Rows of the first batch, which tells how large a row is.
const FIRST_ROWS: usize = 64;

impl<F> Source for GeneratorReader<F>
where
    F: Fn(u64, usize) -> Result<RecordBatch> + Send + Sync + 'static,
{
    fn start(&mut self, split: &Split) -> Result<()> {
        let bounds = <[u8; 16]>::try_from(split.payload.as_slice())
            .map_err(|_| OperatorError::new(format!("{} is no range of rows", split.description)))?;
        let bound = |bytes: &[u8]| bytes.try_into().map(u64::from_le_bytes).unwrap_or_default();
        self.left = bound(&bounds[..8])..bound(&bounds[8..]);
        Ok(())
    }

    fn read(&mut self, budget_bytes: usize, out: &mut Outbox) -> Result<SourceStep> {
        let fit = self.row_bytes.map_or(FIRST_ROWS, |bytes| (budget_bytes / bytes.max(1)).max(1));
        let left = usize::try_from(self.left.end - self.left.start).unwrap_or(usize::MAX);
        let rows = fit.min(self.batch_rows).min(left);
        if rows > 0 {
            let batch = (self.generate)(self.left.start, rows)?;
            if batch.num_rows() != rows || !same_types(&self.schema, &batch.schema()) {
                return Err(OperatorError::new(format!(
                    "{rows} rows of {} were to be generated, and {} of {} were",
                    self.schema,
                    batch.num_rows(),
                    batch.schema()
                )));
            }
            self.row_bytes = Some(batch_bytes(&batch).div_ceil(rows));
            self.left.start += rows as u64;
            out.push(batch);
        }
        Ok(if self.left.is_empty() { SourceStep::Done } else { SourceStep::More })
    }
}

#[cfg(test)]
mod tests {
    use aqueduct_runtime::io::Io;
    use aqueduct_runtime::memory::MemoryPool;
    use arrow::array::AsArray;
    use arrow::datatypes::Int64Type;

    use super::*;

    fn reader(scan: &dyn Scan) -> Box<dyn Source> {
        let (io, _threads) = Io::start("test", 1).expect("one thread");
        let memory = MemoryPool::new(1 << 20).account("source");
        let node = "numbers".into();
        let context = SourceContext { node, partition: 0, batch_bytes: 1 << 16, batch_rows: 100, memory, io };
        scan.open(context).expect("opens")
    }

    #[test]
    fn the_rows_of_all_splits_are_the_range() {
        let source = range("n", Some(1050)).with_split_rows(300);
        assert_eq!(source.max_partitions(), Some(4));
        let scan = source.scan(ScanContext { batch_bytes: 1 << 16, partitions: 2 }).expect("scans");
        let mut readers = [reader(scan.as_ref()), reader(scan.as_ref())];
        let mut numbers = Vec::new();
        for turn in 0.. {
            let Some(split) = scan.next_split().expect("no error") else { break };
            let mut out = Outbox::new();
            readers[turn % 2].start(&split).expect("a range");
            while matches!(readers[turn % 2].read(usize::MAX, &mut out).expect("reads"), SourceStep::More) {}
            while let Some((_, batch)) = out.pop() {
                assert!(batch.num_rows() <= 100);
                numbers.extend_from_slice(batch.column(0).as_primitive::<Int64Type>().values());
            }
        }
        assert_eq!(numbers, (0..1050).collect::<Vec<i64>>());
    }

    #[test]
    fn a_source_without_end_hands_out_splits_for_ever() {
        let scan = range("n", None).scan(ScanContext { batch_bytes: 1 << 16, partitions: 1 }).expect("scans");
        for index in 0..10_000 {
            let split = scan.next_split().expect("no error").expect("without end");
            assert_eq!(split.index, index);
        }
    }

    #[test]
    fn a_closure_that_yields_other_rows_than_asked_for_is_refused() {
        let source = Generator::new(range("n", None).schema(), Some(10), |_, _| {
            let column: ArrayRef = Arc::new(Int64Array::from(vec![1]));
            Ok(RecordBatch::try_from_iter([("n", column)])?)
        });
        let scan = source.scan(ScanContext { batch_bytes: 1 << 16, partitions: 1 }).expect("scans");
        let mut reader = reader(scan.as_ref());
        reader.start(&scan.next_split().expect("no error").expect("ten rows")).expect("a range");
        let error = reader.read(1 << 16, &mut Outbox::new()).expect_err("one row is not ten");
        assert!(error.to_string().contains("10 rows"), "{error}");
    }
}
