//! Sources of numbers: a counted range, and one without end. What a split holds depends on its index alone.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use arrow::array::{ArrayRef, FixedSizeBinaryArray, Int64Array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use arrow_buffer::MutableBuffer;

use crate::error::{OperatorError, Result};
use crate::operator::Outbox;
use crate::source::{Scan, ScanContext, Source, SourceContext, SourceSpec, SourceStep, Split};

/// The schema of [`numbers`]: one column `n` of integers.
pub fn number_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, false)]))
}

/// Numbers in rows of `row_bytes`, 8 at the least.
fn padded_schema(row_bytes: usize) -> SchemaRef {
    match row_bytes - 8 {
        0 => number_schema(),
        padding => {
            let width = i32::try_from(padding).unwrap_or(i32::MAX);
            Arc::new(Schema::new(vec![
                Field::new("n", DataType::Int64, false),
                Field::new("padding", DataType::FixedSizeBinary(width), false),
            ]))
        }
    }
}

/// A batch with the column `n` that holds `range`.
pub fn numbers(range: Range<i64>) -> RecordBatch {
    RecordBatch::try_new(number_schema(), vec![Arc::new(Int64Array::from_iter_values(range))])
        .expect("the column is what the schema says")
}

/// The numbers from 0 to `rows`, in a column `n`, with a column `padding` where rows are to be larger.
#[derive(Debug, Clone)]
pub struct NumbersSource {
    rows: u64,
    split_rows: u64,
    row_bytes: usize,
    batch_rows: Option<usize>,
}

impl NumbersSource {
    /// The numbers from 0 to `rows`, in splits of 65,536.
    pub fn new(rows: u64) -> Self {
        Self { rows, split_rows: 65_536, row_bytes: 8, batch_rows: None }
    }

    /// Sets the rows of a split.
    ///
    /// # Panics
    ///
    /// If `split_rows` is 0.
    #[must_use]
    pub fn split_rows(self, split_rows: u64) -> Self {
        assert!(split_rows > 0, "a split has at least one row");
        Self { split_rows, ..self }
    }

    /// Sets the bytes of a row, 8 at the least.
    #[must_use]
    pub fn row_bytes(self, row_bytes: usize) -> Self {
        Self { row_bytes: row_bytes.max(8), ..self }
    }

    /// Sets the most rows of a batch; the plan's budget in bytes still holds.
    #[must_use]
    pub fn batch_rows(self, batch_rows: usize) -> Self {
        Self { batch_rows: Some(batch_rows.max(1)), ..self }
    }
}

impl SourceSpec for NumbersSource {
    fn name(&self) -> &str {
        "numbers"
    }

    fn schema(&self) -> SchemaRef {
        padded_schema(self.row_bytes)
    }

    fn scan(&self, _context: ScanContext) -> Result<Arc<dyn Scan>> {
        Ok(Arc::new(NumberScan {
            rows: Some(self.rows),
            split_rows: self.split_rows,
            layout: Layout { schema: self.schema(), padding_bytes: self.row_bytes - 8, batch_rows: self.batch_rows },
            next: AtomicU64::new(0),
            produced: Produced::default(),
        }))
    }

    fn max_partitions(&self) -> Option<usize> {
        usize::try_from(self.rows.div_ceil(self.split_rows).max(1)).ok()
    }

    fn detail(&self) -> String {
        format!("0..{}", self.rows)
    }
}

/// Numbers from 0 without end, in a column `n`, with a column `padding` where rows are to be larger.
#[derive(Debug, Clone)]
pub struct EndlessSource {
    split_rows: u64,
    row_bytes: usize,
    batch_rows: Option<usize>,
    produced: Produced,
}

impl EndlessSource {
    /// Rows of 8 bytes, in batches as large as the plan allows and splits of 65,536 rows.
    pub fn new() -> Self {
        Self { split_rows: 65_536, row_bytes: 8, batch_rows: None, produced: Produced::default() }
    }

    /// Sets the rows of a split.
    ///
    /// # Panics
    ///
    /// If `split_rows` is 0.
    #[must_use]
    pub fn split_rows(self, split_rows: u64) -> Self {
        assert!(split_rows > 0, "a split has at least one row");
        Self { split_rows, ..self }
    }

    /// Sets the bytes of a row, 8 at the least.
    #[must_use]
    pub fn row_bytes(self, row_bytes: usize) -> Self {
        Self { row_bytes: row_bytes.max(8), ..self }
    }

    /// Sets the most rows of a batch; the plan's budget in bytes still holds.
    #[must_use]
    pub fn batch_rows(self, batch_rows: usize) -> Self {
        Self { batch_rows: Some(batch_rows.max(1)), ..self }
    }

    /// What it has produced so far, all scans together.
    pub fn produced(&self) -> Produced {
        self.produced.clone()
    }
}

impl Default for EndlessSource {
    fn default() -> Self {
        Self::new()
    }
}

impl SourceSpec for EndlessSource {
    fn name(&self) -> &str {
        "endless"
    }

    fn schema(&self) -> SchemaRef {
        padded_schema(self.row_bytes)
    }

    fn scan(&self, _context: ScanContext) -> Result<Arc<dyn Scan>> {
        Ok(Arc::new(NumberScan {
            rows: None,
            split_rows: self.split_rows,
            layout: Layout { schema: self.schema(), padding_bytes: self.row_bytes - 8, batch_rows: self.batch_rows },
            next: AtomicU64::new(0),
            produced: self.produced.clone(),
        }))
    }
}

/// What a source has produced so far. Clones count together.
#[derive(Clone, Debug, Default)]
pub struct Produced(Arc<ProducedInner>);

#[derive(Debug, Default)]
struct ProducedInner {
    batches: AtomicU64,
    rows: AtomicU64,
}

impl Produced {
    /// Batches emitted.
    pub fn batches(&self) -> u64 {
        self.0.batches.load(Relaxed)
    }

    /// Rows emitted.
    pub fn rows(&self) -> u64 {
        self.0.rows.load(Relaxed)
    }
}

#[derive(Debug, Clone)]
struct Layout {
    schema: SchemaRef,
    padding_bytes: usize,
    batch_rows: Option<usize>,
}

impl Layout {
    fn batch(&self, range: Range<u64>) -> Result<RecordBatch> {
        let rows = (range.end - range.start) as usize;
        let mut columns: Vec<ArrayRef> = vec![Arc::new(Int64Array::from_iter_values(range.map(|n| n as i64)))];
        if self.padding_bytes > 0 {
            let width = i32::try_from(self.padding_bytes).map_err(OperatorError::other)?;
            let zeros = MutableBuffer::from_len_zeroed(rows * self.padding_bytes);
            columns.push(Arc::new(FixedSizeBinaryArray::try_new(width, zeros.into(), None)?));
        }
        Ok(RecordBatch::try_new(Arc::clone(&self.schema), columns)?)
    }
}

struct NumberScan {
    /// `None` for no end.
    rows: Option<u64>,
    split_rows: u64,
    layout: Layout,
    next: AtomicU64,
    produced: Produced,
}

impl Scan for NumberScan {
    fn next_split(&self) -> Result<Option<Split>> {
        let index = self.next.fetch_add(1, Relaxed);
        let start = index.saturating_mul(self.split_rows);
        let end = start.saturating_add(self.split_rows).min(self.rows.unwrap_or(u64::MAX));
        Ok((start < end).then(|| Split {
            index,
            description: format!("rows {start}..{end}"),
            bytes: 0,
            payload: [start.to_le_bytes(), end.to_le_bytes()].concat(),
        }))
    }

    fn open(&self, context: SourceContext) -> Result<Box<dyn Source>> {
        let batch_rows = self.layout.batch_rows.unwrap_or(context.batch_rows).max(1);
        Ok(Box::new(Numbers { layout: self.layout.clone(), batch_rows, range: 0..0, produced: self.produced.clone() }))
    }
}

struct Numbers {
    layout: Layout,
    batch_rows: usize,
    range: Range<u64>,
    produced: Produced,
}

impl Source for Numbers {
    fn start(&mut self, split: &Split) -> Result<()> {
        let (start, end) =
            split.payload.split_at_checked(8).ok_or_else(|| OperatorError::new("not a split of mine"))?;
        let number =
            |bytes: &[u8]| Ok::<_, OperatorError>(u64::from_le_bytes(bytes.try_into().map_err(OperatorError::other)?));
        let (start, end) = (number(start)?, number(end)?);
        self.range = start..end.max(start);
        Ok(())
    }

    fn read(&mut self, budget_bytes: usize, out: &mut Outbox) -> Result<SourceStep> {
        let rows = (budget_bytes / (8 + self.layout.padding_bytes)).clamp(1, self.batch_rows) as u64;
        let end = self.range.end.min(self.range.start + rows);
        let range = self.range.start..end;
        self.produced.0.batches.fetch_add(u64::from(!range.is_empty()), Relaxed);
        self.produced.0.rows.fetch_add(end - self.range.start, Relaxed);
        self.range.start = end;
        out.push(self.layout.batch(range)?);
        Ok(if self.range.is_empty() { SourceStep::Done } else { SourceStep::More })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::batch_bytes;
    use crate::testing::{context, drive_source};

    #[test]
    fn every_number_comes_once_and_in_order() {
        let source = NumbersSource::new(1000).split_rows(300);
        assert_eq!(source.max_partitions(), Some(4));
        let batches = drive_source(&source, &context().batch_rows(64)).expect("reads");
        assert!(batches.iter().all(|batch| batch.num_rows() <= 64));
        let all = arrow::compute::concat_batches(&number_schema(), &batches).expect("one schema");
        assert_eq!(all, numbers(0..1000));
        assert!(drive_source(&NumbersSource::new(0), &context()).expect("reads").is_empty());
    }

    #[test]
    fn an_endless_source_keeps_to_its_budget_and_counts() {
        let spec = EndlessSource::new().row_bytes(108).batch_rows(50);
        let scan = spec.scan(ScanContext { batch_bytes: 1 << 16, partitions: 1 }).expect("scans");
        let mut source = scan.open(context().source()).expect("opens");
        source.start(&scan.next_split().expect("no error").expect("no end")).expect("starts");
        let mut out = Outbox::new();
        for budget_bytes in [1 << 20, 1080, 1] {
            assert!(matches!(source.read(budget_bytes, &mut out), Ok(SourceStep::More)));
        }
        let batches: Vec<_> = std::iter::from_fn(|| out.pop()).map(|(_, batch)| batch).collect();
        assert_eq!(batches.iter().map(RecordBatch::num_rows).collect::<Vec<_>>(), [50, 10, 1]);
        assert_eq!(batch_bytes(&batches[0]), 50 * 108);
        assert_eq!((spec.produced().batches(), spec.produced().rows()), (3, 61));
    }
}
