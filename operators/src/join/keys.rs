//! The keys of a batch in a form that is hashed and compared fast, and the same for both sides.
//!
//! Nulls equal nothing unless the join says that they equal each other; NaNs equal each other, and `-0.0` equals
//! `0.0`, as at the exchange.

use std::hash::BuildHasher;
use std::sync::{Arc, LazyLock};

use aqueduct_runtime::{OperatorError, Result};
use arrow::array::{Array, ArrayRef, AsArray, BinaryArray, BinaryViewArray, LargeBinaryArray};
use arrow::buffer::{NullBuffer, ScalarBuffer};
use arrow::datatypes::{ArrowNativeType, DataType, IntervalUnit, Schema};
use arrow::row::{RowConverter, Rows, SortField};
use foldhash::fast::RandomState;

use super::table::{Id, NO_ROW};
use crate::aggregate::normalised;

/// Turns key columns into [`Keys`].
#[derive(Debug)]
pub(super) struct KeyEncoder {
    kind: Kind,
    nulls_equal: bool,
}

#[derive(Debug)]
enum Kind {
    /// No keys: every row may match every row.
    All,
    /// One column of up to 64 bits.
    Word,
    /// Columns of up to 128 bits together.
    Wide,
    /// One column of strings or bytes.
    Bytes,
    Rows(RowConverter),
}

/// The keys of some rows.
pub(super) struct Keys {
    pub(super) values: Values,
    /// The rows that can match; all, if there is none.
    pub(super) valid: Option<NullBuffer>,
    pub(super) rows: usize,
}

pub(super) enum Values {
    All,
    Word(ScalarBuffer<u64>),
    Wide(Vec<u128>),
    Bytes32(BinaryArray),
    Bytes64(LargeBinaryArray),
    Views(BinaryViewArray),
    Rows(Rows),
}

/// Seeds of this process: keys that collide in one run do not in the next, whoever chose them.
static SEEDS: LazyLock<([u64; 2], RandomState)> = LazyLock::new(|| {
    let state = RandomState::default();
    ([state.hash_one(1u64) | 1, state.hash_one(2u64) | 1], state)
});

impl KeyEncoder {
    /// An encoder of the columns `keys` of `schema`.
    pub(super) fn new(schema: &Schema, keys: &[usize], nulls_equal: bool) -> Result<Self> {
        let types: Vec<_> = keys.iter().map(|&key| schema.field(key).data_type().clone()).collect();
        Self::of_types(&types, nulls_equal)
    }

    /// An encoder of columns of these types.
    pub(super) fn of_types(types: &[DataType], nulls_equal: bool) -> Result<Self> {
        use DataType::{Binary, BinaryView, LargeBinary, LargeUtf8, Utf8, Utf8View};
        let widths: Option<Vec<_>> = types.iter().map(width).collect();
        let kind = match (types, widths) {
            ([], _) => Kind::All,
            // Nulls that equal each other need a value.
            _ if nulls_equal => Self::by_rows(types)?,
            ([_], Some(widths)) if widths[0] <= 8 => Kind::Word,
            (_, Some(widths)) if widths.iter().sum::<usize>() <= 16 => Kind::Wide,
            ([Utf8 | LargeUtf8 | Utf8View | Binary | LargeBinary | BinaryView], _) => Kind::Bytes,
            _ => Self::by_rows(types)?,
        };
        Ok(Self { kind, nulls_equal })
    }

    fn by_rows(types: &[DataType]) -> Result<Kind> {
        let fields: Vec<_> = types.iter().cloned().map(SortField::new).collect();
        if !RowConverter::supports_fields(&fields) {
            let list = types.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            return Err(OperatorError::new(format!("rows cannot be joined by values of type {list}")));
        }
        Ok(Kind::Rows(RowConverter::new(fields)?))
    }

    /// Whether there are keys at all.
    pub(super) fn has_keys(&self) -> bool {
        !matches!(self.kind, Kind::All)
    }

    /// Whether a key is one word.
    pub(super) fn is_word(&self) -> bool {
        matches!(self.kind, Kind::Word)
    }

    /// Bytes that the keys of `rows` rows, whose key columns have `column_bytes`, take beside the columns.
    pub(super) fn bytes(&self, rows: usize, column_bytes: usize) -> usize {
        match self.kind {
            Kind::All => 0,
            Kind::Word => 8 * rows,
            Kind::Wide => 16 * rows,
            Kind::Bytes => 0,
            // Validity, 33 bytes for every 32 of a string, padding, offsets.
            Kind::Rows(_) => column_bytes + column_bytes / 8 + 24 * rows,
        }
    }

    /// The keys of `rows` rows of `columns`.
    pub(super) fn encode(&self, columns: &[ArrayRef], rows: usize) -> Result<Keys> {
        let valid = if self.nulls_equal {
            None
        } else {
            let nulls: Vec<_> = columns.iter().map(|column| column.logical_nulls()).collect();
            nulls.iter().fold(None, |all, one| NullBuffer::union(all.as_ref(), one.as_ref()))
        };
        let values = match &self.kind {
            Kind::All => Values::All,
            Kind::Word => Values::Word(words(&normalised(Arc::clone(&columns[0])))),
            Kind::Wide => {
                let mut values = vec![0u128; rows];
                let mut shift = 0;
                for column in columns {
                    let bytes = width(column.data_type()).expect("the encoder was made for columns of fixed width");
                    add_wide(&normalised(Arc::clone(column)), bytes, shift, &mut values);
                    shift += 8 * bytes as u32;
                }
                Values::Wide(values)
            }
            Kind::Bytes => bytes(&columns[0]),
            Kind::Rows(converter) => {
                let columns: Vec<_> = columns.iter().map(|column| normalised(Arc::clone(column))).collect();
                Values::Rows(converter.convert_columns(&columns)?)
            }
        };
        Ok(Keys { values, valid: valid.filter(|valid| valid.null_count() > 0), rows })
    }
}

impl Keys {
    /// Replaces `hashes` by one for each row. What a row that can match nothing gets is of no use.
    pub(super) fn hash(&self, hashes: &mut Vec<u64>) {
        let (seeds, state) = &*SEEDS;
        hashes.clear();
        hashes.reserve(self.rows);
        match &self.values {
            Values::All => hashes.resize(self.rows, 0),
            Values::Word(words) => hashes.extend(words.iter().map(|word| word_hash(seeds, *word))),
            Values::Wide(wide) => hashes.extend(wide.iter().map(|wide| wide_hash(seeds, *wide))),
            Values::Bytes32(array) => hashes.extend((0..self.rows).map(|row| state.hash_one(array.value(row)))),
            Values::Bytes64(array) => hashes.extend((0..self.rows).map(|row| state.hash_one(array.value(row)))),
            Values::Views(array) => {
                hashes.extend((0..self.rows).map(|row| match array.views()[row] {
                    // A short value is all in its view.
                    view if view as u32 <= 12 => wide_hash(seeds, view),
                    _ => state.hash_one(array.value(row)),
                }));
            }
            Values::Rows(rows) => hashes.extend(rows.iter().map(|row| state.hash_one(row.as_ref()))),
        }
    }

    /// What was found for each row, but nothing for those that can match nothing.
    pub(super) fn without_nulls(&self, mut found: Vec<Id>) -> Vec<Id> {
        if let Some(valid) = &self.valid {
            (!valid.inner()).set_indices().for_each(|row| found[row] = NO_ROW);
        }
        found
    }

    pub(super) fn is_valid(&self, row: usize) -> bool {
        self.valid.as_ref().is_none_or(|valid| valid.is_valid(row))
    }
}

impl Values {
    /// Bytes held beside the columns that they were made from.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Values::All => 0,
            // They may share the column's buffer, which costs nothing.
            Values::Word(words) => 8 * words.len(),
            Values::Wide(wide) => 16 * wide.capacity(),
            Values::Bytes32(_) | Values::Bytes64(_) | Values::Views(_) => 0,
            Values::Rows(rows) => rows.size(),
        }
    }
}

#[inline]
fn word_hash(seeds: &[u64; 2], word: u64) -> u64 {
    folded(folded(word ^ seeds[0], 0x9E37_79B9_7F4A_7C15 ^ seeds[1]), MIXER)
}

#[inline]
fn wide_hash(seeds: &[u64; 2], wide: u128) -> u64 {
    folded(folded(wide as u64 ^ seeds[0], (wide >> 64) as u64 ^ seeds[1]), MIXER)
}

/// Keys at equal distances have products at equal distances, which by some seeds pile up in a few slots: a second product
/// parts them.
const MIXER: u64 = 0xD6E8_FEB8_6659_FD93;

/// Both halves of the product, folded into one.
#[inline]
fn folded(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product as u64) ^ (product >> 64) as u64
}

/// Bytes of a value, if it is compared by its bits.
pub(super) fn width(data_type: &DataType) -> Option<usize> {
    use DataType::*;
    match data_type {
        Interval(IntervalUnit::DayTime | IntervalUnit::MonthDayNano) | Decimal256(..) => None,
        Int8 | UInt8 | Int16 | UInt16 | Int32 | UInt32 | Int64 | UInt64 | Float16 | Float32 | Float64 | Date32
        | Date64 | Time32(_) | Time64(_) | Timestamp(..) | Duration(_) | Interval(_) | Decimal32(..)
        | Decimal64(..) | Decimal128(..) => data_type.primitive_width(),
        _ => None,
    }
}

/// The values of a column of up to 64 bits; those of 64 bits are not copied.
pub(super) fn words(column: &ArrayRef) -> ScalarBuffer<u64> {
    let data = column.to_data();
    let (offset, rows) = (data.offset(), data.len());
    let buffer = &data.buffers()[0];
    fn widened<T: ArrowNativeType>(values: &[T], word: impl Fn(T) -> u64) -> ScalarBuffer<u64> {
        values.iter().map(|value| word(*value)).collect::<Vec<_>>().into()
    }
    match width(column.data_type()) {
        Some(1) => widened(&buffer.typed_data::<u8>()[offset..offset + rows], u64::from),
        Some(2) => widened(&buffer.typed_data::<u16>()[offset..offset + rows], u64::from),
        Some(4) => widened(&buffer.typed_data::<u32>()[offset..offset + rows], u64::from),
        _ => ScalarBuffer::new(buffer.clone(), offset, rows),
    }
}

fn add_wide(column: &ArrayRef, bytes: usize, shift: u32, values: &mut [u128]) {
    if bytes == 16 {
        let data = column.to_data();
        let wide = &data.buffers()[0].typed_data::<i128>()[data.offset()..];
        values.iter_mut().zip(wide).for_each(|(value, column)| *value = *column as u128);
    } else {
        let words = words(column);
        values.iter_mut().zip(&words).for_each(|(value, word)| *value |= u128::from(*word) << shift);
    }
}

fn bytes(column: &ArrayRef) -> Values {
    match column.data_type() {
        DataType::Utf8 => Values::Bytes32(BinaryArray::from(column.as_string::<i32>().clone())),
        DataType::LargeUtf8 => Values::Bytes64(LargeBinaryArray::from(column.as_string::<i64>().clone())),
        DataType::Utf8View => Values::Views(column.as_string_view().clone().to_binary_view()),
        DataType::Binary => Values::Bytes32(column.as_binary::<i32>().clone()),
        DataType::LargeBinary => Values::Bytes64(column.as_binary::<i64>().clone()),
        _ => Values::Views(column.as_binary_view().clone()),
    }
}
