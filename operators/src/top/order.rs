//! The order of rows as numbers, so that two rows are compared by one comparison.
//!
//! Where the code of a row is smaller than that of another, the row comes before it. Rows with the same code come in
//! any order, unless the code is exact: then they are peers.

use std::sync::Arc;

use aqueduct_runtime::Result;
use aqueduct_runtime::state::SortColumn;
use arrow::array::{Array, ArrayAccessor, ArrayRef, AsArray};
use arrow::buffer::NullBuffer;
use arrow::compute::cast;
use arrow::datatypes::{
    BinaryType, BinaryViewType, DataType, Decimal128Type, Int64Type, IntervalUnit, LargeBinaryType, LargeUtf8Type,
    Schema, StringViewType, Utf8Type,
};
use arrow::record_batch::RecordBatch;

use crate::aggregate::{WithKeys, with_keys};

/// Bits of a wide code: no code of a row is [`Code::END`].
const WIDE_BITS: u32 = u128::BITS - 1;
/// Bits of a text that a wide code may have.
const TEXT_BITS: u32 = 120;

/// What narrow codes have at their ends. A value at an end may stand for another one.
const NULL_FIRST: u64 = 0;
const LOWEST: u64 = 1;
const HIGHEST: u64 = u64::MAX - 2;
const NULL_LAST: u64 = u64::MAX - 1;

/// The number that stands for a row's place in the order.
pub(super) trait Code: Copy + Ord + Send + 'static {
    /// Behind every row.
    const END: Self;

    /// Replaces `codes` by those of the rows of `batch`.
    fn of(order: &Order, batch: &RecordBatch, codes: &mut Vec<Self>) -> Result<()>;

    /// Whether all rows with this code are peers.
    fn is_exact(self, order: &Order) -> bool;
}

/// The columns of an order, and how their values become codes.
#[derive(Debug)]
pub(super) struct Order {
    columns: Vec<OrderColumn>,
    /// Whether it has all columns: what comes behind one that has no codes has none either.
    whole: bool,
    /// Whether wide codes are exact.
    exact: bool,
}

#[derive(Debug)]
struct OrderColumn {
    by: SortColumn,
    kind: Kind,
    /// The highest so many bits of a value are in a wide code.
    bits: u32,
}

/// How a value becomes a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Of so many bits.
    Signed(u32),
    Unsigned(u32),
    Float32,
    Float64,
    /// Of 128 bits, of which those that do not fit in 64 are all the same.
    Decimal,
    /// The first bytes.
    Text,
}

impl Kind {
    fn of(data_type: &DataType) -> Option<Self> {
        use DataType::*;
        Some(match data_type {
            Boolean | UInt8 => Kind::Unsigned(8),
            UInt16 => Kind::Unsigned(16),
            UInt32 => Kind::Unsigned(32),
            UInt64 => Kind::Unsigned(64),
            Int8 => Kind::Signed(8),
            Int16 => Kind::Signed(16),
            Int32 | Date32 | Time32(_) | Decimal32(..) | Interval(IntervalUnit::YearMonth) => Kind::Signed(32),
            Int64 | Date64 | Time64(_) | Timestamp(..) | Duration(_) | Decimal64(..) => Kind::Signed(64),
            Float16 | Float32 => Kind::Float32,
            Float64 => Kind::Float64,
            Decimal128(..) => Kind::Decimal,
            Utf8 | LargeUtf8 | Utf8View | Binary | LargeBinary | BinaryView => Kind::Text,
            _ => return None,
        })
    }

    fn bits(self) -> u32 {
        match self {
            Kind::Signed(bits) | Kind::Unsigned(bits) => bits,
            Kind::Float32 => 32,
            Kind::Float64 | Kind::Decimal => 64,
            Kind::Text => TEXT_BITS,
        }
    }
}

impl Order {
    /// The order of rows of `schema` by `columns`; `None` if the first of them has values that have no codes.
    pub(super) fn try_new(schema: &Schema, columns: &[SortColumn]) -> Option<Self> {
        let mut order = Self { columns: Vec::with_capacity(columns.len()), whole: true, exact: true };
        let mut left = WIDE_BITS;
        for &by in columns {
            let kind = Kind::of(schema.field(by.column).data_type());
            let Some(kind) = kind.filter(|_| left > 8) else {
                (order.whole, order.exact) = (false, false);
                break;
            };
            // One bit says whether it is null.
            let bits = kind.bits().min(left - 1);
            left -= bits + 1;
            order.exact &= bits == kind.bits() && !matches!(kind, Kind::Decimal | Kind::Text);
            order.columns.push(OrderColumn { by, kind, bits });
        }
        (columns.is_empty() || !order.columns.is_empty()).then_some(order)
    }

    /// Whether codes of 64 bits do.
    pub(super) fn is_narrow(&self) -> bool {
        match &self.columns[..] {
            [] => true,
            [one] => self.whole && one.kind != Kind::Text,
            _ => false,
        }
    }
}

impl Code for u64 {
    const END: Self = u64::MAX;

    fn of(order: &Order, batch: &RecordBatch, codes: &mut Vec<Self>) -> Result<()> {
        let Some(column) = order.columns.first() else {
            // Without an order all rows are peers.
            codes.clear();
            codes.resize(batch.num_rows(), NULL_FIRST);
            return Ok(());
        };
        let nulls = column.numbers(batch, codes)?;
        if column.kind.bits() < 64 {
            codes.iter_mut().for_each(|code| *code += LOWEST + 1);
        } else {
            codes.iter_mut().for_each(|code| *code = (*code).clamp(LOWEST, HIGHEST));
        }
        if let Some(nulls) = nulls {
            let null = if column.by.options.nulls_first { NULL_FIRST } else { NULL_LAST };
            (!nulls.inner()).set_indices().for_each(|row| codes[row] = null);
        }
        Ok(())
    }

    fn is_exact(self, _order: &Order) -> bool {
        self != LOWEST && self != HIGHEST
    }
}

impl Code for u128 {
    const END: Self = u128::MAX;

    fn of(order: &Order, batch: &RecordBatch, codes: &mut Vec<Self>) -> Result<()> {
        codes.clear();
        codes.resize(batch.num_rows(), 0);
        let mut numbers = Vec::new();
        for column in &order.columns {
            let values = batch.column(column.by.column);
            match values.data_type() {
                DataType::Utf8 => column.append_texts(values.as_bytes::<Utf8Type>(), codes),
                DataType::LargeUtf8 => column.append_texts(values.as_bytes::<LargeUtf8Type>(), codes),
                DataType::Binary => column.append_texts(values.as_bytes::<BinaryType>(), codes),
                DataType::LargeBinary => column.append_texts(values.as_bytes::<LargeBinaryType>(), codes),
                DataType::Utf8View => column.append_texts(values.as_byte_view::<StringViewType>(), codes),
                DataType::BinaryView => column.append_texts(values.as_byte_view::<BinaryViewType>(), codes),
                _ => {
                    let nulls = column.numbers(batch, &mut numbers)?;
                    let cut = column.kind.bits() - column.bits;
                    column.append(numbers.iter().map(|number| u128::from(number >> cut)), nulls.as_ref(), codes);
                }
            }
        }
        Ok(())
    }

    fn is_exact(self, order: &Order) -> bool {
        order.exact
    }
}

impl OrderColumn {
    /// Replaces `numbers` by those of the rows of `batch`, in the direction of the order, whatever they are where there
    /// is no value; where there is one.
    fn numbers(&self, batch: &RecordBatch, numbers: &mut Vec<u64>) -> Result<Option<NullBuffer>> {
        numbers.clear();
        let mut values = ArrayRef::clone(batch.column(self.by.column));
        match values.data_type() {
            DataType::Boolean => values = cast(&values, &DataType::UInt8)?,
            DataType::Float16 => values = cast(&values, &DataType::Float32)?,
            DataType::Decimal128(..) => {
                let within = |value: i128| value.clamp(i64::MIN.into(), i64::MAX.into()) as i64;
                values = Arc::new(values.as_primitive::<Decimal128Type>().unary::<_, Int64Type>(within));
            }
            _ => {}
        }
        let bits = self.kind.bits();
        let flip = if self.by.options.descending { u64::MAX >> (64 - bits) } else { 0 };
        with_keys(&values, Numbers { kind: self.kind, flip, numbers });
        Ok(values.logical_nulls().filter(|nulls| nulls.null_count() > 0))
    }

    /// Puts values of `self.bits` bits behind `codes`.
    fn append(&self, values: impl Iterator<Item = u128>, nulls: Option<&NullBuffer>, codes: &mut [u128]) {
        let valid = u128::from(self.by.options.nulls_first) << self.bits;
        let null = u128::from(!self.by.options.nulls_first) << self.bits;
        for (row, (code, value)) in codes.iter_mut().zip(values).enumerate() {
            let value = if nulls.is_some_and(|nulls| nulls.is_null(row)) { null } else { valid | value };
            *code = *code << (self.bits + 1) | value;
        }
    }

    fn append_texts<'a, A>(&self, values: &'a A, codes: &mut [u128])
    where
        A: Array,
        &'a A: ArrayAccessor<Item: AsRef<[u8]>>,
    {
        let all = u128::MAX >> (u128::BITS - TEXT_BITS);
        let flip = if self.by.options.descending { all } else { 0 };
        let numbers = (0..values.len()).map(|row| {
            let text = values.value(row);
            let text = text.as_ref();
            let mut word = [0; 16];
            let length = text.len().min(TEXT_BITS as usize / 8);
            word[..length].copy_from_slice(&text[..length]);
            let number = u128::from_be_bytes(word) >> (u128::BITS - TEXT_BITS);
            (number ^ flip) >> (TEXT_BITS - self.bits)
        });
        self.append(numbers, values.logical_nulls().as_ref(), codes);
    }
}

/// Values as numbers in their order, or in the other one.
struct Numbers<'a> {
    kind: Kind,
    flip: u64,
    numbers: &'a mut Vec<u64>,
}

impl WithKeys for Numbers<'_> {
    fn call(self, keys: impl Iterator<Item = u64>, _nulls: Option<&NullBuffer>) {
        const SIGN: u64 = 1 << 63;
        let flip = self.flip;
        match self.kind {
            Kind::Signed(_) | Kind::Unsigned(_) | Kind::Decimal | Kind::Text => {
                let sign = match self.kind {
                    Kind::Signed(bits) => 1 << (bits - 1),
                    Kind::Decimal => SIGN,
                    _ => 0,
                };
                self.numbers.extend(keys.map(|key| key ^ sign ^ flip));
            }
            // 0 is -0, and every NaN is every other, behind all numbers.
            Kind::Float32 => self.numbers.extend(keys.map(|key| {
                let value = f32::from_bits(key as u32);
                let bits = if value.is_nan() { f32::NAN.to_bits() } else { (value + 0.0).to_bits() };
                u64::from(bits ^ ((bits as i32 >> 31) as u32 | 1 << 31)) ^ flip
            })),
            Kind::Float64 => self.numbers.extend(keys.map(|key| {
                let value = f64::from_bits(key);
                let bits = if value.is_nan() { f64::NAN.to_bits() } else { (value + 0.0).to_bits() };
                bits ^ ((bits as i64 >> 63) as u64 | SIGN) ^ flip
            })),
        }
    }
}
