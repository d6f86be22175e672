//! The least and the greatest of primitive values. Every NaN is greater than every number.

use std::collections::VecDeque;
use std::sync::Arc;

use aqueduct_runtime::Result;
use arrow::array::{ArrayRef, ArrowNativeTypeOp, PrimitiveBuilder};
use arrow::datatypes::{ArrowPrimitiveType, DataType};

use super::{Arguments, Column, State};

fn beats<N: ArrowNativeTypeOp, const MAX: bool>(value: N, best: N) -> bool {
    if MAX { value.is_gt(best) } else { value.is_lt(best) }
}

/// Of frames that only grow.
pub(super) struct Extreme<T: ArrowPrimitiveType, const MAX: bool> {
    lead: Column<T>,
    best: Option<T::Native>,
    output: PrimitiveBuilder<T>,
    data_type: DataType,
}

impl<T: ArrowPrimitiveType, const MAX: bool> Extreme<T, MAX> {
    pub(super) fn new(data_type: &DataType) -> Self {
        let output = PrimitiveBuilder::new().with_data_type(data_type.clone());
        Self { lead: Column::default(), best: None, output, data_type: data_type.clone() }
    }
}

impl<T: ArrowPrimitiveType, const MAX: bool> State for Extreme<T, MAX>
where
    T::Native: ArrowNativeTypeOp,
{
    fn reset(&mut self) -> Result<()> {
        self.best = None;
        Ok(())
    }

    fn lead(&mut self, arguments: &Arguments) -> Result<()> {
        self.lead = Column::of(arguments);
        Ok(())
    }

    fn add(&mut self, from: usize, to: usize) -> Result<()> {
        let mut best = self.best;
        self.lead.each(from, to, |value| {
            if best.is_none_or(|best| beats::<_, MAX>(value, best)) {
                best = Some(value);
            }
        });
        self.best = best;
        Ok(())
    }

    fn retract(&mut self, _from: usize, _to: usize) -> Result<()> {
        Ok(())
    }

    fn push(&mut self) -> Result<()> {
        self.output.append_option(self.best);
        Ok(())
    }

    fn output(&mut self) -> Result<ArrayRef> {
        let empty = PrimitiveBuilder::new().with_data_type(self.data_type.clone());
        Ok(Arc::new(std::mem::replace(&mut self.output, empty).finish()))
    }

    fn trails(&self) -> bool {
        false
    }
}

/// Of frames that slide: keeps the values that no later one beats, which may be all of a frame.
pub(super) struct SlidingExtreme<T: ArrowPrimitiveType, const MAX: bool> {
    lead: Column<T>,
    /// Values and the number of the row they came with; the best is first.
    candidates: VecDeque<(u64, T::Native)>,
    added: u64,
    retracted: u64,
    output: PrimitiveBuilder<T>,
    data_type: DataType,
}

impl<T: ArrowPrimitiveType, const MAX: bool> SlidingExtreme<T, MAX> {
    pub(super) fn new(data_type: &DataType) -> Self {
        let output = PrimitiveBuilder::new().with_data_type(data_type.clone());
        Self {
            lead: Column::default(),
            candidates: VecDeque::new(),
            added: 0,
            retracted: 0,
            output,
            data_type: data_type.clone(),
        }
    }
}

impl<T: ArrowPrimitiveType, const MAX: bool> State for SlidingExtreme<T, MAX>
where
    T::Native: ArrowNativeTypeOp,
{
    fn reset(&mut self) -> Result<()> {
        self.candidates.clear();
        (self.added, self.retracted) = (0, 0);
        Ok(())
    }

    fn lead(&mut self, arguments: &Arguments) -> Result<()> {
        self.lead = Column::of(arguments);
        Ok(())
    }

    fn add(&mut self, from: usize, to: usize) -> Result<()> {
        for row in from..to {
            let number = self.added;
            self.added += 1;
            if self.lead.counts.as_ref().is_some_and(|counts| !counts.value(row)) {
                continue;
            }
            let value = self.lead.values[row];
            while self.candidates.pop_back_if(|(_, last)| !beats::<_, MAX>(*last, value)).is_some() {}
            self.candidates.push_back((number, value));
        }
        Ok(())
    }

    fn retract(&mut self, from: usize, to: usize) -> Result<()> {
        self.retracted += (to - from) as u64;
        while self.candidates.pop_front_if(|(number, _)| *number < self.retracted).is_some() {}
        Ok(())
    }

    fn push(&mut self) -> Result<()> {
        self.output.append_option(self.candidates.front().map(|(_, value)| *value));
        Ok(())
    }

    fn output(&mut self) -> Result<ArrayRef> {
        let empty = PrimitiveBuilder::new().with_data_type(self.data_type.clone());
        Ok(Arc::new(std::mem::replace(&mut self.output, empty).finish()))
    }

    fn trails(&self) -> bool {
        false
    }

    fn bytes(&self) -> usize {
        let bytes = self.candidates.capacity() * size_of::<(u64, T::Native)>();
        if bytes > 4096 { bytes } else { 0 }
    }
}
