//! Counts, sums and means of numbers.

use std::sync::Arc;

use aqueduct_runtime::Result;
use arrow::array::{ArrayRef, ArrowNativeTypeOp, Float64Builder, Int64Array, PrimitiveBuilder};
use arrow::buffer::BooleanBuffer;
use arrow::datatypes::{ArrowPrimitiveType, DataType, Float64Type};

use super::{Arguments, Column, State, counting_rows};

/// Fewer rows than this are counted one by one.
const FEW_ROWS: usize = 8;

/// Counts rows without nulls.
#[derive(Default)]
pub(super) struct Counting {
    lead: Option<BooleanBuffer>,
    trail: Option<BooleanBuffer>,
    count: i64,
    output: Vec<i64>,
}

fn count(rows: Option<&BooleanBuffer>, from: usize, to: usize) -> i64 {
    let counted = match rows {
        None => to - from,
        Some(rows) if to - from < FEW_ROWS => (from..to).filter(|row| rows.value(*row)).count(),
        Some(rows) => rows.slice(from, to - from).count_set_bits(),
    };
    counted as i64
}

impl State for Counting {
    fn reset(&mut self) -> Result<()> {
        self.count = 0;
        Ok(())
    }

    fn lead(&mut self, arguments: &Arguments) -> Result<()> {
        self.lead = counting_rows(arguments);
        Ok(())
    }

    fn trail(&mut self, arguments: &Arguments) -> Result<()> {
        self.trail = counting_rows(arguments);
        Ok(())
    }

    fn add(&mut self, from: usize, to: usize) -> Result<()> {
        self.count += count(self.lead.as_ref(), from, to);
        Ok(())
    }

    fn retract(&mut self, from: usize, to: usize) -> Result<()> {
        self.count -= count(self.trail.as_ref(), from, to);
        Ok(())
    }

    fn push(&mut self) -> Result<()> {
        self.output.push(self.count);
        Ok(())
    }

    fn output(&mut self) -> Result<ArrayRef> {
        Ok(Arc::new(Int64Array::from(std::mem::take(&mut self.output))))
    }
}

/// Sums integers and decimals, around the end of their range as accumulators do: so what was added can always be
/// taken out again.
pub(super) struct IntegerSum<T: ArrowPrimitiveType> {
    lead: Column<T>,
    trail: Column<T>,
    sum: T::Native,
    count: u64,
    output: PrimitiveBuilder<T>,
    data_type: DataType,
}

impl<T: ArrowPrimitiveType> IntegerSum<T> {
    pub(super) fn new(data_type: &DataType) -> Self {
        Self {
            lead: Column::default(),
            trail: Column::default(),
            sum: T::default_value(),
            count: 0,
            output: PrimitiveBuilder::new().with_data_type(data_type.clone()),
            data_type: data_type.clone(),
        }
    }
}

impl<T: ArrowPrimitiveType> State for IntegerSum<T>
where
    T::Native: ArrowNativeTypeOp,
{
    fn reset(&mut self) -> Result<()> {
        (self.sum, self.count) = (T::default_value(), 0);
        Ok(())
    }

    fn lead(&mut self, arguments: &Arguments) -> Result<()> {
        self.lead = Column::of(arguments);
        Ok(())
    }

    fn trail(&mut self, arguments: &Arguments) -> Result<()> {
        self.trail = Column::of(arguments);
        Ok(())
    }

    fn add(&mut self, from: usize, to: usize) -> Result<()> {
        self.lead.each(from, to, |value| {
            self.sum = self.sum.add_wrapping(value);
            self.count += 1;
        });
        Ok(())
    }

    fn retract(&mut self, from: usize, to: usize) -> Result<()> {
        self.trail.each(from, to, |value| {
            self.sum = self.sum.sub_wrapping(value);
            self.count -= 1;
        });
        Ok(())
    }

    fn push(&mut self) -> Result<()> {
        self.output.append_option((self.count > 0).then_some(self.sum));
        Ok(())
    }

    fn output(&mut self) -> Result<ArrayRef> {
        let empty = PrimitiveBuilder::new().with_data_type(self.data_type.clone());
        Ok(Arc::new(std::mem::replace(&mut self.output, empty).finish()))
    }
}

/// The sum or the mean of floats.
///
/// Where rows are taken out again (`SLIDES`), what is not finite is counted apart, or it would never leave; and the
/// sum carries its rounding error along, so that a large value leaves nothing behind.
pub(super) struct FloatSum<const SLIDES: bool> {
    mean: bool,
    lead: Column<Float64Type>,
    trail: Column<Float64Type>,
    sum: f64,
    error: f64,
    count: u64,
    infinite: u64,
    negative_infinite: u64,
    not_numbers: u64,
    output: Float64Builder,
}

impl<const SLIDES: bool> FloatSum<SLIDES> {
    pub(super) fn new(mean: bool) -> Self {
        Self {
            mean,
            lead: Column::default(),
            trail: Column::default(),
            sum: 0.0,
            error: 0.0,
            count: 0,
            infinite: 0,
            negative_infinite: 0,
            not_numbers: 0,
            output: Float64Builder::new(),
        }
    }

    fn odd(&mut self, value: f64) -> &mut u64 {
        if value.is_nan() {
            &mut self.not_numbers
        } else if value > 0.0 {
            &mut self.infinite
        } else {
            &mut self.negative_infinite
        }
    }

    /// Adds a finite value: the sum and its error as two floats (Knuth's two-sum).
    #[inline]
    fn take_in(&mut self, value: f64) {
        let sum = self.sum + value;
        let part = sum - self.sum;
        self.error += (self.sum - (sum - part)) + (value - part);
        self.sum = sum;
    }

    fn result(&self) -> f64 {
        if !SLIDES {
            self.sum
        } else if self.not_numbers > 0 || (self.infinite > 0 && self.negative_infinite > 0) {
            f64::NAN
        } else if self.infinite > 0 {
            f64::INFINITY
        } else if self.negative_infinite > 0 {
            f64::NEG_INFINITY
        } else {
            self.sum + self.error
        }
    }
}

impl<const SLIDES: bool> State for FloatSum<SLIDES> {
    fn reset(&mut self) -> Result<()> {
        (self.sum, self.error, self.count) = (0.0, 0.0, 0);
        (self.infinite, self.negative_infinite, self.not_numbers) = (0, 0, 0);
        Ok(())
    }

    fn lead(&mut self, arguments: &Arguments) -> Result<()> {
        self.lead = Column::of(arguments);
        Ok(())
    }

    fn trail(&mut self, arguments: &Arguments) -> Result<()> {
        self.trail = Column::of(arguments);
        Ok(())
    }

    fn add(&mut self, from: usize, to: usize) -> Result<()> {
        let lead = std::mem::take(&mut self.lead);
        lead.each(from, to, |value| {
            self.count += 1;
            if !SLIDES {
                self.sum += value;
            } else if value.is_finite() {
                self.take_in(value);
            } else {
                *self.odd(value) += 1;
            }
        });
        self.lead = lead;
        Ok(())
    }

    fn retract(&mut self, from: usize, to: usize) -> Result<()> {
        let trail = std::mem::take(&mut self.trail);
        trail.each(from, to, |value| {
            self.count -= 1;
            if value.is_finite() {
                self.take_in(-value);
            } else {
                *self.odd(value) -= 1;
            }
        });
        self.trail = trail;
        if self.count == 0 {
            (self.sum, self.error) = (0.0, 0.0);
        }
        Ok(())
    }

    fn push(&mut self) -> Result<()> {
        let result = if self.mean { self.result() / self.count as f64 } else { self.result() };
        self.output.append_option((self.count > 0).then_some(result));
        Ok(())
    }

    fn output(&mut self) -> Result<ArrayRef> {
        Ok(Arc::new(self.output.finish()))
    }
}
