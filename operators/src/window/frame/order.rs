//! Order columns as numbers that ascend in the order of the sort, for frames of RANGE with an offset.
//!
//! Integers, decimals, dates, times and floats all become 128-bit integers. Nulls become a number beyond all others
//! at the end where the sort puts them, so they are peers of each other and of nothing else. A descending order is
//! turned around. So one comparison serves every type and every order.

use std::sync::Arc;

use aqueduct_runtime::{OperatorError, Result};
use arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, AsArray, Decimal128Array, Float64Array, PrimitiveArray, Scalar,
};
use arrow::compute::kernels::numeric::{add, sub};
use arrow::compute::{SortOptions, cast};
use arrow::datatypes::*;
use datafusion_common::ScalarValue;

use crate::expression::failed;

/// The type that such numbers are kept in.
pub(super) const KEY_TYPE: DataType = DataType::Decimal128(38, 0);

const FIRST: i128 = i128::MIN;
const LAST: i128 = i128::MAX;

/// What is added to an order column to find the end of a frame.
#[derive(Debug, Clone)]
pub(in super::super) enum Shift {
    Number(i128),
    Float(f64),
    /// An interval, with one value; and whether it is added or taken off.
    Interval(ArrayRef, bool),
}

/// An order column, how it is sorted, and how it is read.
#[derive(Debug, Clone)]
pub(super) struct OrderKey {
    /// Column of the sorted rows.
    pub(super) column: usize,
    options: SortOptions,
}

impl OrderKey {
    pub(super) fn new(column: usize, options: SortOptions) -> Self {
        Self { column, options }
    }

    /// `offset` PRECEDING or FOLLOWING a value of `data_type`.
    pub(super) fn shift(&self, offset: &ScalarValue, preceding: bool, data_type: &DataType) -> Result<Shift> {
        let data_type = unpacked(data_type);
        // What precedes is less, but greater where the order descends.
        let less = preceding != self.options.descending;
        let wrong = || {
            let column = data_type;
            OperatorError::new(format!("a RANGE frame with the offset {offset} over an order of {column}"))
        };
        if matches!(offset.data_type(), DataType::Interval(_)) {
            if !matches!(data_type, DataType::Date32 | DataType::Date64 | DataType::Timestamp(_, _)) {
                return Err(wrong());
            }
            let interval = offset.cast_to(&DataType::Interval(IntervalUnit::MonthDayNano)).map_err(failed)?;
            if let ScalarValue::IntervalMonthDayNano(Some(interval)) = &interval
                && (interval.months < 0 || interval.days < 0 || interval.nanoseconds < 0)
            {
                return Err(OperatorError::new(format!("the offset {offset} of a RANGE frame is negative")));
            }
            return Ok(Shift::Interval(interval.to_array().map_err(failed)?, !less));
        }
        let offset_as_key = offset.cast_to(data_type).map_err(|_| wrong())?;
        if offset_as_key.is_null() {
            return Err(wrong());
        }
        let array = offset_as_key.to_array().map_err(failed)?;
        if data_type.is_floating() {
            let float = cast(&array, &DataType::Float64)?.as_primitive::<Float64Type>().value(0);
            if float < 0.0 || float.is_nan() {
                return Err(OperatorError::new(format!("the offset {offset} of a RANGE frame is not 0 or more")));
            }
            return Ok(Shift::Float(if less { -float } else { float }));
        }
        let number = numbers(&array)?[0];
        if number < 0 {
            return Err(OperatorError::new(format!("the offset {offset} of a RANGE frame is negative")));
        }
        Ok(Shift::Number(if less { -number } else { number }))
    }

    /// The column's values as keys, moved by each of `shifts`.
    pub(super) fn keys(&self, column: &ArrayRef, shifts: &[Option<&Shift>]) -> Result<Vec<ArrayRef>> {
        let plain = unpacked(column.data_type());
        let column = if plain == column.data_type() { ArrayRef::clone(column) } else { cast(column, plain)? };
        let moved = shifts.iter().map(|shift| match shift {
            None => numbers(&column),
            Some(Shift::Number(by)) => {
                let mut moved = numbers(&column)?;
                moved.iter_mut().for_each(|value| *value = value.saturating_add(*by));
                Ok(moved)
            }
            Some(Shift::Float(by)) => {
                let floats = cast(&column, &DataType::Float64)?;
                let floats: Float64Array = floats.as_primitive::<Float64Type>().unary(|value| value + by);
                numbers(&(Arc::new(floats) as ArrayRef))
            }
            Some(Shift::Interval(interval, added)) => {
                let interval = Scalar::new(ArrayRef::clone(interval));
                numbers(&if *added { add(&column, &interval)? } else { sub(&column, &interval)? })
            }
        });
        moved.map(|moved| Ok(self.ordered(moved?, &column))).collect()
    }

    fn ordered(&self, mut values: Vec<i128>, column: &ArrayRef) -> ArrayRef {
        for value in &mut values {
            let ascending = if self.options.descending { !*value } else { *value };
            *value = ascending.clamp(FIRST + 1, LAST - 1);
        }
        if let Some(nulls) = column.logical_nulls() {
            let null = if self.options.nulls_first { FIRST } else { LAST };
            for (row, value) in values.iter_mut().enumerate() {
                if nulls.is_null(row) {
                    *value = null;
                }
            }
        }
        Arc::new(Decimal128Array::from(values).with_data_type(KEY_TYPE))
    }
}

fn unpacked(data_type: &DataType) -> &DataType {
    match data_type {
        DataType::Dictionary(_, values) => unpacked(values),
        DataType::RunEndEncoded(_, values) => unpacked(values.data_type()),
        other => other,
    }
}

/// Values as integers in the same order. Of nulls there is any value.
fn numbers(column: &ArrayRef) -> Result<Vec<i128>> {
    fn of<T: ArrowPrimitiveType>(column: &ArrayRef) -> Vec<i128>
    where
        T::Native: Into<i128>,
    {
        let array: &PrimitiveArray<T> = column.as_primitive();
        array.values().iter().map(|value| (*value).into()).collect()
    }
    Ok(match column.data_type() {
        DataType::Int8 => of::<Int8Type>(column),
        DataType::Int16 => of::<Int16Type>(column),
        DataType::Int32 => of::<Int32Type>(column),
        DataType::Int64 => of::<Int64Type>(column),
        DataType::UInt8 => of::<UInt8Type>(column),
        DataType::UInt16 => of::<UInt16Type>(column),
        DataType::UInt32 => of::<UInt32Type>(column),
        DataType::UInt64 => of::<UInt64Type>(column),
        DataType::Decimal32(_, _) => of::<Decimal32Type>(column),
        DataType::Decimal64(_, _) => of::<Decimal64Type>(column),
        DataType::Decimal128(_, _) => of::<Decimal128Type>(column),
        DataType::Float16 | DataType::Float32 => numbers(&cast(column, &DataType::Float64)?)?,
        DataType::Float64 => column.as_primitive::<Float64Type>().values().iter().map(|value| place(*value)).collect(),
        DataType::Date32 | DataType::Time32(_) => of::<Int32Type>(&cast(column, &DataType::Int32)?),
        DataType::Date64 | DataType::Time64(_) | DataType::Timestamp(_, _) | DataType::Duration(_) => {
            of::<Int64Type>(&cast(column, &DataType::Int64)?)
        }
        DataType::Null => vec![0; column.len()],
        other => return Err(OperatorError::new(format!("a RANGE frame with an offset over an order of {other}"))),
    })
}

/// Where a float is among all floats: 0 with -0, every NaN behind all numbers.
fn place(value: f64) -> i128 {
    let value = if value.is_nan() { f64::NAN } else { value + 0.0 };
    let bits = value.to_bits() as i64;
    i128::from(bits ^ (((bits >> 63) as u64) >> 1) as i64)
}
