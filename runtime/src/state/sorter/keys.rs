//! Sort keys as numbers: the first twelve bytes of a row's key and the place of the row, in one `u128`.
//!
//! ```text
//! | 96 bits: the key in arrow's row format, zeros behind it | 16 bits: batch | 16 bits: row |
//! ```
//!
//! Comparing two such numbers compares the keys as far as they reach, and then the order of arrival. Only where
//! keys are longer than that are ties looked up in the rows.

use std::cmp::Ordering;
use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::datatypes::{DataType, SchemaRef};
use arrow::record_batch::RecordBatch;
use arrow::row::{RowConverter, Rows, SortField};

use super::SortColumn;
use crate::batch::array_bytes;
use crate::error::{OperatorError, Result};

/// Bytes of a key that are part of the number.
const PREFIX_BYTES: usize = 12;
/// Rows that one batch of a chunk may have, and batches that a chunk may have.
pub(super) const MAX_PLACES: usize = 1 << 16;
/// Above every prefix.
pub(super) const NO_KEY: u128 = u128::MAX;

/// Which columns of a batch are the keys, and how they become numbers.
#[derive(Debug)]
pub(super) struct Keys {
    columns: Vec<usize>,
    converter: RowConverter,
    /// Every key fits in the number.
    complete: bool,
}

/// A row in its number, and the other way round.
pub(super) fn place(entry: u128) -> (usize, usize) {
    ((entry as u32 >> 16) as usize, usize::from(entry as u16))
}

pub(super) fn prefix(entry: u128) -> u128 {
    entry >> 32
}

fn entry(key: &[u8], batch: usize, row: usize) -> u128 {
    let prefix = match key.first_chunk::<16>() {
        Some(bytes) => u128::from_be_bytes(*bytes) >> 32,
        None => {
            let mut bytes = [0; 16];
            let length = key.len().min(PREFIX_BYTES);
            bytes[4..4 + length].copy_from_slice(&key[..length]);
            u128::from_be_bytes(bytes)
        }
    };
    prefix << 32 | (batch << 16 | row) as u128
}

/// Bytes of a key of this type, if all have the same.
fn width(data_type: &DataType) -> Option<usize> {
    match data_type {
        DataType::Boolean => Some(2),
        DataType::FixedSizeBinary(bytes) => Some(1 + *bytes as usize),
        other => other.primitive_width().map(|bytes| 1 + bytes),
    }
}

impl Keys {
    pub(super) fn try_new(schema: &SchemaRef, columns: &[SortColumn]) -> Result<Self> {
        let fields = columns.iter().map(|by| {
            let field = schema.fields().get(by.column);
            let field = field.ok_or_else(|| OperatorError::new(format!("there is no column {}", by.column)))?;
            Ok(SortField::new_with_options(field.data_type().clone(), by.options))
        });
        let converter = RowConverter::new(fields.collect::<Result<Vec<_>>>()?)?;
        let widths = columns.iter().map(|by| width(schema.field(by.column).data_type()));
        let complete = widths.sum::<Option<usize>>().is_some_and(|bytes| bytes <= PREFIX_BYTES);
        Ok(Self { columns: columns.iter().map(|by| by.column).collect(), converter, complete })
    }

    /// About the bytes that the key of a row of `batch` takes.
    pub(super) fn row_bytes(&self, batch: &RecordBatch) -> usize {
        if self.complete {
            return size_of::<u128>();
        }
        let values: usize = self.columns.iter().map(|at| array_bytes(batch.column(*at))).sum();
        // Texts are padded to blocks.
        size_of::<u128>() + size_of::<usize>() + 34 * self.columns.len() + 2 * values / batch.num_rows().max(1)
    }

    /// Appends the numbers of a batch's rows, as batch number `number`; the whole keys, where they are longer.
    pub(super) fn append(&self, batch: &RecordBatch, number: usize, order: &mut Vec<u128>) -> Result<Option<Rows>> {
        order.reserve_exact(batch.num_rows());
        if self.columns.is_empty() {
            order.extend((0..batch.num_rows()).map(|row| entry(&[], number, row)));
            return Ok(None);
        }
        let rows = self.rows(batch)?;
        order.extend(rows.iter().enumerate().map(|(row, key)| entry(key.data(), number, row)));
        Ok((!self.complete).then_some(rows))
    }

    fn rows(&self, batch: &RecordBatch) -> Result<Rows> {
        let columns: Vec<ArrayRef> = self.columns.iter().map(|at| Arc::clone(batch.column(*at))).collect();
        Ok(self.converter.convert_columns(&columns)?)
    }

    /// Those rows of `batch` that come before `bound`.
    pub(super) fn rows_before(&self, batch: &RecordBatch, bound: &Key) -> Result<Vec<u32>> {
        if self.columns.is_empty() {
            return Ok(Vec::new());
        }
        let rows = self.rows(batch)?;
        let before = |row: &usize| bound.compare_to(rows.row(*row).data(), self.complete) == Ordering::Greater;
        Ok((0..batch.num_rows()).filter(before).map(|row| row as u32).collect())
    }
}

/// One key by itself.
#[derive(Debug)]
pub(super) struct Key {
    prefix: u128,
    whole: Vec<u8>,
}

impl Key {
    /// The key of the last row of `batch`.
    pub(super) fn last(batch: &RecordBatch, keys: &Keys) -> Result<Option<Self>> {
        if batch.num_rows() == 0 || keys.columns.is_empty() {
            return Ok((batch.num_rows() > 0).then(|| Self { prefix: 0, whole: Vec::new() }));
        }
        let rows = keys.rows(&batch.slice(batch.num_rows() - 1, 1))?;
        let whole = rows.row(0).data();
        Ok(Some(Self { prefix: prefix(entry(whole, 0, 0)), whole: whole.to_vec() }))
    }

    /// This key beside `other`, a row's.
    fn compare_to(&self, other: &[u8], complete: bool) -> Ordering {
        let by_prefix = self.prefix.cmp(&prefix(entry(other, 0, 0)));
        if complete { by_prefix } else { by_prefix.then_with(|| self.whole.as_slice().cmp(other)) }
    }
}
