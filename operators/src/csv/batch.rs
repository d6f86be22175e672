//! From the bytes of a block to batches: index a chunk, then parse it column by column.
//!
//! A chunk's fields are found and parsed while its bytes are in the first-level cache. Only projected
//! columns are parsed; of the others nothing but their number is looked at.

use std::sync::Arc;

use aqueduct_runtime::Result;
use arrow::array::RecordBatchOptions;
use arrow::datatypes::{DataType, SchemaRef};
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;

use super::column::{Chunk, Column, Field, Nulls, Reason, column, row_bytes};
use super::index::{Filled, Index};
use super::options::Dialect;

/// What a scan makes of a file's columns.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    pub(crate) dialect: Dialect,
    pub(crate) nulls: Nulls,
    /// All columns of the file.
    pub(crate) file_schema: SchemaRef,
    /// Those that are read, in the order of the batches.
    pub(crate) projection: Vec<usize>,
    /// Schema of the batches.
    pub(crate) schema: SchemaRef,
}

impl Layout {
    pub(crate) fn columns(&self) -> usize {
        self.file_schema.fields().len()
    }
}

/// Where a block is broken, and how.
#[derive(Debug)]
pub(crate) struct Broken {
    /// Where its record begins in the block.
    pub(crate) record: usize,
    pub(crate) what: What,
}

/// What is wrong with a record.
#[derive(Debug)]
pub(crate) enum What {
    Fields {
        found: usize,
    },
    Unclosed,
    /// It is longer than any may be.
    Long,
    Value {
        column: usize,
        value: String,
        reason: Reason,
    },
    /// Arrow refused the finished columns.
    Arrow(ArrowError),
}

/// What was made of a block so far.
#[derive(Debug)]
pub(crate) struct Parsed {
    /// The rows, if there are any.
    pub(crate) batch: Option<RecordBatch>,
    /// Where the first record that is not in it begins.
    pub(crate) next: usize,
    pub(crate) rest: Rest,
}

/// What is left of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rest {
    /// More records.
    More,
    /// More records, of which the first needs so many bytes alone.
    Large(usize),
    /// The beginning of a record, or the first half of a line end.
    Incomplete,
    /// Nothing.
    Nothing,
}

/// How large a batch may become.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Room {
    /// About so many bytes.
    pub(crate) budget_bytes: usize,
    /// Not more than so many, for which there is memory.
    pub(crate) most_bytes: usize,
    pub(crate) rows: usize,
}

/// Makes batches of records.
pub(crate) struct BatchParser {
    layout: Arc<Layout>,
    index: Index,
    columns: Vec<Box<dyn Column>>,
    fixed_row_bytes: usize,
    /// Some column needs text, or could.
    checks_utf8: bool,
}

impl BatchParser {
    pub(crate) fn new(layout: Arc<Layout>) -> Result<Self> {
        let fields = layout.schema.fields();
        let columns = fields.iter().map(|field| column(field)).collect::<Result<Vec<_>, _>>()?;
        let fixed_row_bytes = fields.iter().map(|field| row_bytes(field.data_type())).sum::<usize>().max(1);
        let checks_utf8 =
            fields.iter().any(|field| !field.data_type().is_numeric() && field.data_type() != &DataType::Boolean);
        let index = Index::new(layout.dialect, layout.columns());
        Ok(Self { layout, index, columns, fixed_row_bytes, checks_utf8 })
    }

    /// Makes one batch of the records in `bytes[from..limit]`, or none if there is no room for the first.
    /// `eof` says that nothing follows `limit`.
    pub(crate) fn parse(
        &mut self,
        bytes: &[u8],
        from: usize,
        limit: usize,
        eof: bool,
        to: Room,
    ) -> Result<Parsed, Broken> {
        let Room { budget_bytes, most_bytes, rows: max_rows } = to;
        let mut rows = 0;
        let mut at = from;
        let rest = loop {
            let used = rows * self.fixed_row_bytes + self.long_bytes();
            let per_row = used.checked_div(rows).unwrap_or(self.fixed_row_bytes);
            let mut room = (budget_bytes.saturating_sub(used) / per_row.max(1)).min(max_rows.saturating_sub(rows));
            if room == 0 {
                if rows > 0 {
                    break Rest::More;
                }
                room = 1;
            }
            match self.index.fill(bytes, at, limit, eof, room) {
                Filled::Rows { next } => {
                    let chunk_bytes = self.index.rows() * self.fixed_row_bytes + (next - at);
                    if used + chunk_bytes > most_bytes && rows > 0 {
                        break Rest::More;
                    }
                    if used + chunk_bytes > most_bytes {
                        break Rest::Large(chunk_bytes);
                    }
                    self.push_chunk(bytes, at, next)?;
                    if rows == 0 {
                        self.reserve(room, next - at, limit - next, budget_bytes);
                    }
                    rows += self.index.rows();
                    at = next;
                }
                Filled::Nothing => {
                    at = limit;
                    break Rest::Nothing;
                }
                Filled::Incomplete => break Rest::Incomplete,
                _ if rows > 0 => break Rest::More,
                Filled::Fields { record, found } => return Err(Broken { record, what: What::Fields { found } }),
                Filled::Unclosed { record } => return Err(Broken { record, what: What::Unclosed }),
            }
        };
        let batch = if rows > 0 {
            let batch = self.finish(rows).map_err(|error| Broken { record: from, what: What::Arrow(error) })?;
            Some(batch)
        } else {
            None
        };
        Ok(Parsed { batch, next: at, rest })
    }

    /// Adds the indexed rows to every column. The earliest row that is wrong is the one reported.
    fn push_chunk(&mut self, bytes: &[u8], from: usize, next: usize) -> Result<(), Broken> {
        let utf8 = !self.checks_utf8 || simdutf8::basic::from_utf8(&bytes[from..next.min(bytes.len())]).is_ok();
        let columns = self.layout.columns();
        let Self { index, layout, columns: builders, .. } = self;
        let index = &*index;
        let chunk = Chunk { bytes, index, dialect: layout.dialect, nulls: &layout.nulls, utf8, columns };
        let mut rows = index.rows();
        let mut first = None;
        for (builder, file_column) in builders.iter_mut().zip(&layout.projection) {
            if let Err(wrong) = builder.push(&chunk, *file_column, rows) {
                rows = wrong.row;
                first = Some((wrong, *file_column));
            }
        }
        let Some((wrong, column)) = first else { return Ok(()) };
        let mut scratch = vec![];
        let value = match chunk.field(wrong.row, column, &mut scratch) {
            Field::Plain(start, end) | Field::Quoted(start, end) => &bytes[start..end],
            Field::Unescaped(text, length) => &text[..length],
        };
        let value = String::from_utf8_lossy(&value[..value.len().min(80)]).into_owned();
        Err(Broken { record: index.record(wrong.row), what: What::Value { column, value, reason: wrong.reason } })
    }

    /// Makes room for the rest of the batch, judged by its first chunk, so that columns grow once.
    fn reserve(&mut self, room: usize, chunk_bytes: usize, rest_bytes: usize, budget_bytes: usize) {
        let rows = self.index.rows();
        let ahead = (rest_bytes as f64 / chunk_bytes as f64 * rows as f64 * 1.02) as usize + 16;
        let by_budget = budget_bytes * rows / (rows * self.fixed_row_bytes + self.long_bytes()).max(1);
        let more = ahead.min(room.saturating_sub(rows)).min(by_budget.saturating_sub(rows));
        for column in &mut self.columns {
            let long = column.long_bytes() * more / rows;
            column.reserve(more, long);
        }
    }

    fn long_bytes(&self) -> usize {
        self.columns.iter().map(|column| column.long_bytes()).sum()
    }

    fn finish(&mut self, rows: usize) -> Result<RecordBatch, ArrowError> {
        let columns = self.columns.iter_mut().map(|column| column.finish()).collect::<Result<Vec<_>, _>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        RecordBatch::try_new_with_options(Arc::clone(&self.layout.schema), columns, &options)
    }
}

/// The fields of the first record at or behind `from`, and where the next one begins; `None` if it is not
/// complete. No fields at all if nothing but blank lines is left.
pub(crate) fn read_record(
    dialect: Dialect,
    bytes: &[u8],
    from: usize,
    limit: usize,
    eof: bool,
) -> Result<Option<(Vec<String>, usize)>, Broken> {
    let mut columns = 1;
    loop {
        let mut index = Index::new(dialect, columns);
        let next = match index.fill(bytes, from, limit, eof, 1) {
            Filled::Rows { next } => next,
            // What it says is how many there are.
            Filled::Fields { found, .. } => {
                columns = found;
                continue;
            }
            Filled::Nothing if eof => return Ok(Some((vec![], limit))),
            Filled::Nothing | Filled::Incomplete => return Ok(None),
            Filled::Unclosed { record } => return Err(Broken { record, what: What::Unclosed }),
        };
        let nulls = Nulls { empty: false, words: vec![] };
        let chunk = Chunk { bytes, index: &index, dialect, nulls: &nulls, utf8: false, columns };
        let mut scratch = vec![];
        let text = |column| {
            let text = match chunk.field(0, column, &mut scratch) {
                Field::Plain(start, end) | Field::Quoted(start, end) => &bytes[start..end],
                Field::Unescaped(text, length) => &text[..length],
            };
            String::from_utf8_lossy(text).into_owned()
        };
        return Ok(Some(((0..columns).map(text).collect(), next)));
    }
}
