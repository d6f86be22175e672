//! Output columns of pairs: build rows by their ids, probe rows by their indices.
//!
//! A column that was gathered shares no buffer with the build rows, so that output pins none of them.

use std::sync::Arc;

use aqueduct_runtime::Result;
use aqueduct_runtime::batch::array_bytes;
use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, UInt32Array, new_null_array};
use arrow::compute::{interleave, take};
use arrow::datatypes::{DataType, SchemaRef};
use arrow::record_batch::{RecordBatch, RecordBatchOptions};

use super::shape::Origin;
use super::table::{Id, LATER, Tables, bucket_of};

/// Some pairs: a build row, or none, for each probe row.
pub(super) struct Pairs<'a> {
    tables: &'a Tables,
    ids: &'a [Id],
    /// Whether some have no build row.
    absent: bool,
    /// Rows of the one chunk that there is.
    single: Option<UInt32Array>,
    /// Where the chunks of each bucket begin among all chunks.
    starts: Vec<usize>,
    /// Chunk and row of each pair; chunk 0 is a null.
    places: Vec<(usize, usize)>,
}

impl<'a> Pairs<'a> {
    pub(super) fn new(tables: &'a Tables, ids: &'a [Id]) -> Self {
        let absent = ids.iter().any(|id| *id >= LATER);
        let one_chunk = tables.list.len() == 1 && tables.table(0).is_some_and(|table| table.chunks.len() == 1);
        let mut pairs = Self { tables, ids, absent, single: None, starts: Vec::new(), places: Vec::new() };
        if one_chunk {
            let rows: Vec<u32> = ids.iter().map(|id| if *id < LATER { *id as u32 } else { 0 }).collect();
            let nulls = absent.then(|| ids.iter().map(|id| *id < LATER).collect());
            pairs.single = Some(UInt32Array::new(rows.into(), nulls));
        }
        pairs
    }

    /// The build column `column`, whose type is `data_type`.
    pub(super) fn column(&mut self, column: usize, data_type: &DataType) -> Result<ArrayRef> {
        let gathered = self.gather(column, data_type)?;
        // Views still refer to the build rows' buffers, unless all of them are short.
        Ok(match data_type {
            DataType::Utf8View if !gathered.as_string_view().data_buffers().is_empty() => {
                Arc::new(gathered.as_string_view().gc())
            }
            DataType::BinaryView if !gathered.as_binary_view().data_buffers().is_empty() => {
                Arc::new(gathered.as_binary_view().gc())
            }
            _ => gathered,
        })
    }

    fn gather(&mut self, column: usize, data_type: &DataType) -> Result<ArrayRef> {
        if let (Some(rows), Some(table)) = (&self.single, self.tables.table(0)) {
            return Ok(take(table.chunks[0].column(column), rows, None)?);
        }
        self.locate();
        let null = new_null_array(data_type, 1);
        let mut arrays: Vec<&dyn Array> = vec![null.as_ref()];
        for bucket in 0..self.tables.list.len() {
            if let Some(table) = self.tables.table(bucket) {
                arrays.extend(table.chunks.iter().map(|chunk| chunk.column(column).as_ref()));
            }
        }
        if arrays.len() == 1 {
            return Ok(new_null_array(data_type, self.ids.len()));
        }
        if !self.absent {
            // The null would have every value looked at.
            arrays[0] = arrays[1];
        }
        Ok(interleave(&arrays, &self.places)?)
    }

    fn locate(&mut self) {
        if !self.starts.is_empty() {
            return;
        }
        let mut shifts = Vec::new();
        let mut start = 1;
        for bucket in 0..self.tables.list.len() {
            self.starts.push(start);
            shifts.push(self.tables.table(bucket).map_or(0, |table| table.shift));
            start += self.tables.table(bucket).map_or(0, |table| table.chunks.len());
        }
        self.places.reserve(self.ids.len());
        self.places.extend(self.ids.iter().map(|id| {
            if *id >= LATER {
                return (0, 0);
            }
            let (bucket, row) = (bucket_of(*id), *id as u32 as usize);
            let shift = shifts[bucket];
            (self.starts[bucket] + (row >> shift), row & ((1 << shift) - 1))
        }));
    }
}

/// Rows of a probe batch, in their order.
pub(super) struct ProbeRows<'a> {
    batch: &'a RecordBatch,
    rows: &'a [u32],
    indices: Option<UInt32Array>,
    /// They follow each other without a gap.
    dense: bool,
}

impl<'a> ProbeRows<'a> {
    pub(super) fn new(batch: &'a RecordBatch, rows: &'a [u32]) -> Self {
        let first = rows.first().copied().unwrap_or(0);
        let dense = rows.iter().enumerate().all(|(at, row)| *row == first + at as u32);
        Self { batch, rows, indices: None, dense }
    }

    pub(super) fn column(&mut self, column: usize) -> Result<ArrayRef> {
        let column = self.batch.column(column);
        if self.dense {
            let first = self.rows.first().copied().unwrap_or(0) as usize;
            return Ok(column.slice(first, self.rows.len()));
        }
        let rows = self.rows;
        let indices = self.indices.get_or_insert_with(|| UInt32Array::from(rows.to_vec()));
        Ok(take(column, indices, None)?)
    }
}

/// Columns in the order of `origins`. `probe` is none where there are no probe rows, and their columns are null.
pub(super) fn columns(
    schema: &SchemaRef,
    origins: &[Origin],
    mut build: Option<&mut Pairs<'_>>,
    mut probe: Option<&mut ProbeRows<'_>>,
    mark: Option<&BooleanArray>,
    rows: usize,
) -> Result<RecordBatch> {
    let columns = origins.iter().zip(schema.fields()).map(|(origin, field)| {
        let data_type = field.data_type();
        match (origin, &mut build, &mut probe, mark) {
            (Origin::Build(column), Some(build), _, _) => build.column(*column, data_type),
            (Origin::Probe(column), _, Some(probe), _) => probe.column(*column),
            (Origin::Mark, _, _, Some(mark)) => Ok(Arc::new(mark.clone()) as ArrayRef),
            _ => Ok(new_null_array(data_type, rows)),
        }
    });
    let columns = columns.collect::<Result<Vec<_>>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    Ok(RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)?)
}

/// Bytes of rows: what all have, and for the columns whose values differ in size, what each has.
pub(super) struct RowBytes<'a> {
    fixed: usize,
    varying: Vec<&'a dyn Array>,
}

impl<'a> RowBytes<'a> {
    /// Of the columns `columns` of `batch`.
    pub(super) fn new(batch: &'a RecordBatch, columns: &[usize]) -> Self {
        let rows = batch.num_rows().max(1);
        let (mut fixed, mut varying) = (0, Vec::new());
        for column in columns {
            let array = batch.column(*column);
            match array.data_type().primitive_width() {
                Some(width) => fixed += width,
                None if varies(array.data_type()) => varying.push(array.as_ref()),
                None => fixed += array_bytes(array).div_ceil(rows),
            }
        }
        Self { fixed, varying }
    }

    /// Bytes that no row exceeds.
    pub(super) fn most(&self) -> usize {
        self.fixed + self.varying.iter().map(|array| most_bytes(*array)).sum::<usize>()
    }

    pub(super) fn of(&self, row: usize) -> usize {
        self.fixed + self.varying.iter().map(|array| value_bytes(*array, row)).sum::<usize>()
    }
}

fn varies(data_type: &DataType) -> bool {
    use DataType::{Binary, BinaryView, LargeBinary, LargeUtf8, Utf8, Utf8View};
    matches!(data_type, Utf8 | LargeUtf8 | Utf8View | Binary | LargeBinary | BinaryView)
}

/// Bytes of the longest value of a column of strings or bytes.
fn most_bytes(array: &dyn Array) -> usize {
    let offsets32 = |offsets: &[i32]| offsets.windows(2).map(|pair| (pair[1] - pair[0]) as usize).max();
    let offsets64 = |offsets: &[i64]| offsets.windows(2).map(|pair| (pair[1] - pair[0]) as usize).max();
    let views = |views: &[u128]| views.iter().map(|view| *view as u32 as usize).max();
    let most = match array.data_type() {
        DataType::Utf8 => offsets32(array.as_string::<i32>().value_offsets()),
        DataType::Binary => offsets32(array.as_binary::<i32>().value_offsets()),
        DataType::LargeUtf8 => offsets64(array.as_string::<i64>().value_offsets()),
        DataType::LargeBinary => offsets64(array.as_binary::<i64>().value_offsets()),
        DataType::Utf8View => views(array.as_string_view().views()),
        DataType::BinaryView => views(array.as_binary_view().views()),
        _ => None,
    };
    most.unwrap_or(0) + 16
}

fn value_bytes(array: &dyn Array, row: usize) -> usize {
    16 + match array.data_type() {
        DataType::Utf8 => array.as_string::<i32>().value_length(row) as usize,
        DataType::Binary => array.as_binary::<i32>().value_length(row) as usize,
        DataType::LargeUtf8 => array.as_string::<i64>().value_length(row) as usize,
        DataType::LargeBinary => array.as_binary::<i64>().value_length(row) as usize,
        DataType::Utf8View => array.as_string_view().views()[row] as u32 as usize,
        DataType::BinaryView => array.as_binary_view().views()[row] as u32 as usize,
        _ => 0,
    }
}
