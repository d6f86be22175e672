//! The keys and times of some rows in a form that is compared fast.
//!
//! The order is that of the sort that the rows went through: ascending, floats in total order.

use std::cmp::Ordering;
use std::sync::Arc;

use aqueduct_runtime::{OperatorError, Result};
use arrow::array::ArrayRef;
use arrow::datatypes::{DataType, Schema};
use arrow::record_batch::RecordBatch;
use arrow::row::{RowConverter, Rows, SortField};

use super::super::keys::{width, words};

/// Turns the keys and times of rows into [`Order`]s, the same for both sides.
pub(super) struct Encoder {
    keys: Kind,
    times: Kind,
}

enum Kind {
    /// No columns: all rows are equal.
    None,
    /// Columns of up to 64 bits together.
    Words,
    Rows(RowConverter),
}

/// Keys and times of some rows.
pub(super) struct Order {
    pub(super) keys: Values,
    pub(super) times: Values,
}

pub(super) enum Values {
    None,
    Words(Vec<u64>),
    Rows(Rows),
}

impl Encoder {
    /// An encoder of keys and times of these columns.
    pub(super) fn try_new(schema: &Schema, keys: &[usize], time: usize) -> Result<Self> {
        let kind = |columns: &[usize]| {
            let types: Vec<_> = columns.iter().map(|&column| schema.field(column).data_type().clone()).collect();
            Kind::try_new(&types)
        };
        Ok(Self { keys: kind(keys)?, times: kind(&[time])? })
    }

    /// About the bytes that keys and time of a row of `batch` take.
    pub(super) fn row_bytes(&self, batch: &RecordBatch, keys: &[usize], time: usize) -> usize {
        self.keys.row_bytes(batch, keys) + self.times.row_bytes(batch, &[time])
    }

    pub(super) fn encode(&self, rows: &[RecordBatch], keys: &[usize], time: usize) -> Result<Order> {
        Ok(Order { keys: self.keys.encode(rows, keys)?, times: self.times.encode(rows, &[time])? })
    }
}

impl Kind {
    fn try_new(types: &[DataType]) -> Result<Self> {
        if types.is_empty() {
            return Ok(Kind::None);
        }
        let widths = types.iter().map(|kind| Some(width(kind)?).filter(|_| is_ordered_by_bits(kind)));
        if widths.sum::<Option<usize>>().is_some_and(|bytes| bytes <= 8) {
            return Ok(Kind::Words);
        }
        let fields: Vec<_> = types.iter().cloned().map(SortField::new).collect();
        if !RowConverter::supports_fields(&fields) {
            let list = types.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            return Err(OperatorError::new(format!("values of type {list} have no order to join by")));
        }
        Ok(Kind::Rows(RowConverter::new(fields)?))
    }

    fn row_bytes(&self, batch: &RecordBatch, columns: &[usize]) -> usize {
        match self {
            Kind::None => 0,
            Kind::Words => 8,
            Kind::Rows(_) => {
                let values = columns.iter().map(|at| aqueduct_runtime::batch::array_bytes(batch.column(*at)));
                // Texts are padded to blocks.
                8 + 34 * columns.len() + 2 * values.sum::<usize>() / batch.num_rows().max(1)
            }
        }
    }

    fn encode(&self, rows: &[RecordBatch], columns: &[usize]) -> Result<Values> {
        match self {
            Kind::None => Ok(Values::None),
            Kind::Words => {
                let mut all = Vec::with_capacity(rows.iter().map(RecordBatch::num_rows).sum());
                for batch in rows {
                    let start = all.len();
                    all.resize(start + batch.num_rows(), 0);
                    columns.iter().for_each(|column| append_bits(batch.column(*column), &mut all[start..]));
                }
                Ok(Values::Words(all))
            }
            Kind::Rows(converter) => {
                let count = rows.iter().map(RecordBatch::num_rows).sum();
                let mut all = converter.empty_rows(count, 0);
                for batch in rows {
                    let columns: Vec<ArrayRef> = columns.iter().map(|at| Arc::clone(batch.column(*at))).collect();
                    converter.append(&mut all, &columns)?;
                }
                Ok(Values::Rows(all))
            }
        }
    }
}

impl Order {
    pub(super) fn bytes(&self) -> usize {
        self.keys.bytes() + self.times.bytes()
    }
}

impl Values {
    fn bytes(&self) -> usize {
        match self {
            Values::None => 0,
            Values::Words(words) => 8 * words.capacity(),
            Values::Rows(rows) => rows.size(),
        }
    }

    /// Row `at` beside row `other_at` of `other`.
    #[inline]
    pub(super) fn compare(&self, at: usize, other: &Self, other_at: usize) -> Ordering {
        match (self, other) {
            (Values::Words(words), Values::Words(others)) => words[at].cmp(&others[other_at]),
            (Values::Rows(rows), Values::Rows(others)) => rows.row(at).cmp(&others.row(other_at)),
            _ => Ordering::Equal,
        }
    }
}

/// Whether the bits of a value of this type, a sign aside, are in its order.
fn is_ordered_by_bits(kind: &DataType) -> bool {
    !matches!(kind, DataType::Interval(_))
}

/// Appends the values of `column`, as numbers of its width in their order, to the words before them.
fn append_bits(column: &ArrayRef, all: &mut [u64]) {
    let bits = 8 * column.data_type().primitive_width().unwrap_or(8) as u32;
    let sign = 1u64 << (bits - 1);
    let words = words(column);
    match column.data_type() {
        DataType::UInt8 | DataType::UInt16 | DataType::UInt32 | DataType::UInt64 => append(all, &words, bits, |w| w),
        DataType::Float16 | DataType::Float32 | DataType::Float64 => {
            append(all, &words, bits, |word| if word & sign != 0 { !word & (sign | (sign - 1)) } else { word | sign })
        }
        _ => append(all, &words, bits, |word| word ^ sign),
    }
}

#[inline]
fn append(all: &mut [u64], words: &[u64], bits: u32, ordered: impl Fn(u64) -> u64) {
    // There is nothing before a value of 64 bits.
    let shift = bits % 64;
    all.iter_mut().zip(words).for_each(|(all, word)| *all = *all << shift | ordered(*word));
}
