//! Aggregates over frames: states that rows are added to, and taken out of again where frames slide.
//!
//! A state sees whole batches of arguments and ranges of their rows. The usual aggregates of numbers have states of
//! their own; all others go through their accumulators.

mod accumulate;
mod extreme;
mod number;

use std::sync::Arc;

use aqueduct_runtime::Result;
use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, downcast_primitive};
use arrow::buffer::{BooleanBuffer, NullBuffer, ScalarBuffer};
use arrow::datatypes::{ArrowPrimitiveType, DataType, Decimal128Type, FieldRef, Int64Type, UInt64Type};
use datafusion_functions_aggregate::average::Avg;
use datafusion_functions_aggregate::count::Count;
use datafusion_functions_aggregate::min_max::{Max, Min};
use datafusion_functions_aggregate::sum::Sum;
use datafusion_physical_expr::aggregate::AggregateFunctionExpr;

use self::accumulate::Accumulate;
use self::extreme::{Extreme, SlidingExtreme};
use self::number::{Counting, FloatSum, IntegerSum};

/// How frames follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Motion {
    /// Rows are only added until the state is reset.
    Grows,
    /// Rows are taken out again, in the order in which they were added.
    Slides,
}

/// Arguments of consecutive rows, and which of the rows count.
#[derive(Clone, Default)]
pub(super) struct Arguments {
    pub(super) columns: Vec<ArrayRef>,
    pub(super) mask: Option<BooleanArray>,
}

/// An aggregate of the rows that were added and not taken out.
pub(super) trait State: Send {
    /// Takes out all rows.
    fn reset(&mut self) -> Result<()>;

    /// From now on rows of `arguments` are added.
    fn lead(&mut self, arguments: &Arguments) -> Result<()>;

    /// From now on rows of `arguments` are taken out. Only called if the state [`State::trails`].
    fn trail(&mut self, arguments: &Arguments) -> Result<()> {
        let _ = arguments;
        Ok(())
    }

    fn add(&mut self, from: usize, to: usize) -> Result<()>;

    fn retract(&mut self, from: usize, to: usize) -> Result<()>;

    /// Appends the result of the present rows to the output.
    fn push(&mut self) -> Result<()>;

    /// Takes the output.
    fn output(&mut self) -> Result<ArrayRef>;

    /// Whether it must see rows again to take them out.
    fn trails(&self) -> bool {
        true
    }

    /// Bytes of a state that may grow with its rows.
    fn bytes(&self) -> usize {
        0
    }
}

/// Where in the arguments a sliding frame is.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Window {
    /// Position of the first row of the leading arguments, and of the trailing ones.
    pub(super) lead_start: u64,
    pub(super) trail_start: u64,
    /// Position after the last row that was added, and of the first row that is still in.
    pub(super) lead: u64,
    pub(super) trail: u64,
}

/// A [`State`] behind loops over many frames.
pub(super) trait Fold: State {
    /// Adds the `rows` rows of `arguments`, resets before each of `resets`, and has a result after each of `ends`
    /// rows.
    fn scan(&mut self, arguments: &Arguments, rows: usize, resets: &[u32], ends: &[u32]) -> Result<()>;

    /// Has a result for each frame, all of which end in the arguments that lead and begin in those that trail.
    fn slide(&mut self, window: &mut Window, lows: &[u64], highs: &[u64]) -> Result<()>;
}

impl<S: State> Fold for S {
    fn scan(&mut self, arguments: &Arguments, rows: usize, resets: &[u32], ends: &[u32]) -> Result<()> {
        self.lead(arguments)?;
        let mut resets = resets.iter().map(|row| *row as usize).peekable();
        let mut at = 0;
        for end in ends {
            let end = *end as usize;
            while let Some(row) = resets.next_if(|row| *row < end) {
                if at < row {
                    self.add(at, row)?;
                }
                self.reset()?;
                at = row;
            }
            self.add(at, end)?;
            at = end;
            self.push()?;
        }
        for row in resets {
            if at < row {
                self.add(at, row)?;
            }
            self.reset()?;
            at = row;
        }
        if at < rows { self.add(at, rows) } else { Ok(()) }
    }

    fn slide(&mut self, window: &mut Window, lows: &[u64], highs: &[u64]) -> Result<()> {
        let Window { lead_start, trail_start, mut lead, mut trail } = *window;
        for (low, high) in lows.iter().zip(highs) {
            if *high > lead {
                self.add((lead - lead_start) as usize, (*high - lead_start) as usize)?;
                lead = *high;
            }
            if *low > trail {
                self.retract((trail - trail_start) as usize, (*low - trail_start) as usize)?;
                trail = *low;
            }
            self.push()?;
        }
        (window.lead, window.trail) = (lead, trail);
        Ok(())
    }
}

/// The state of an aggregate over frames that move like `motion`, and whether its size may grow with the rows.
pub(super) fn fold(
    expression: &Arc<AggregateFunctionExpr>,
    types: &[DataType],
    motion: Motion,
) -> Result<Box<dyn Fold>> {
    let field = expression.field();
    if let Some(fold) = typed(expression, types, &field, motion) {
        return Ok(fold);
    }
    Ok(Box::new(Accumulate::try_new(Arc::clone(expression), motion)?))
}

fn typed(
    expression: &AggregateFunctionExpr,
    types: &[DataType],
    field: &FieldRef,
    motion: Motion,
) -> Option<Box<dyn Fold>> {
    if expression.is_distinct() {
        return None;
    }
    let function = expression.fun().inner();
    if function.is::<Count>() {
        return Some(Box::new(Counting::default()));
    }
    let [argument] = types else { return None };
    let result = field.data_type();
    if function.is::<Sum>() {
        return match (argument, result) {
            (DataType::Int64, DataType::Int64) => Some(Box::new(IntegerSum::<Int64Type>::new(result))),
            (DataType::UInt64, DataType::UInt64) => Some(Box::new(IntegerSum::<UInt64Type>::new(result))),
            (DataType::Decimal128(_, scale), DataType::Decimal128(_, of)) if scale == of => {
                Some(Box::new(IntegerSum::<Decimal128Type>::new(result)))
            }
            (DataType::Float64, DataType::Float64) => Some(float_sum(motion, false)),
            _ => None,
        };
    }
    if function.is::<Avg>() {
        let floats = *argument == DataType::Float64 && *result == DataType::Float64;
        return floats.then(|| float_sum(motion, true));
    }
    let max = function.is::<Max>();
    if (!max && !function.is::<Min>()) || argument != result {
        return None;
    }
    macro_rules! extreme {
        ($t:ty) => {
            Some(match (motion, max) {
                (Motion::Grows, true) => Box::new(Extreme::<$t, true>::new(result)) as Box<dyn Fold>,
                (Motion::Grows, false) => Box::new(Extreme::<$t, false>::new(result)),
                (Motion::Slides, true) => Box::new(SlidingExtreme::<$t, true>::new(result)),
                (Motion::Slides, false) => Box::new(SlidingExtreme::<$t, false>::new(result)),
            })
        };
    }
    downcast_primitive! {
        argument => (extreme),
        _ => None,
    }
}

fn float_sum(motion: Motion, mean: bool) -> Box<dyn Fold> {
    match motion {
        Motion::Grows => Box::new(FloatSum::<false>::new(mean)),
        Motion::Slides => Box::new(FloatSum::<true>::new(mean)),
    }
}

/// Values of one argument, and which of them count.
struct Column<T: ArrowPrimitiveType> {
    values: ScalarBuffer<T::Native>,
    counts: Option<BooleanBuffer>,
}

impl<T: ArrowPrimitiveType> Default for Column<T> {
    fn default() -> Self {
        Self { values: ScalarBuffer::from(Vec::new()), counts: None }
    }
}

impl<T: ArrowPrimitiveType> Column<T> {
    fn of(arguments: &Arguments) -> Self {
        let array = arguments.columns[0].as_primitive::<T>();
        Self { values: array.values().clone(), counts: counting_rows(arguments) }
    }

    /// Calls `each` with the values of `from..to` that count.
    #[inline]
    fn each(&self, from: usize, to: usize, mut each: impl FnMut(T::Native)) {
        match &self.counts {
            None => self.values[from..to].iter().for_each(|value| each(*value)),
            Some(counts) => {
                for row in from..to {
                    if counts.value(row) {
                        each(self.values[row]);
                    }
                }
            }
        }
    }
}

/// The rows that no argument is null in and the mask has.
fn counting_rows(arguments: &Arguments) -> Option<BooleanBuffer> {
    let nulls = arguments.columns.iter().map(|column| column.logical_nulls());
    let nulls = nulls.fold(None, |all, one| NullBuffer::union(all.as_ref(), one.as_ref()));
    let nulls = nulls.filter(|nulls| nulls.null_count() > 0).map(|nulls| nulls.inner().clone());
    let mask = arguments.mask.as_ref().map(|mask| match mask.nulls() {
        Some(valid) => mask.values() & valid.inner(),
        None => mask.values().clone(),
    });
    match (nulls, mask) {
        (Some(nulls), Some(mask)) => Some(&nulls & &mask),
        (one, other) => one.or(other),
    }
}
