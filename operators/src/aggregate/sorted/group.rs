//! The group that is being read: accumulators, and the values of which some are picked by their rank.
//!
//! Values of a group that ends in the batch it began in are picked from there. Those of others are kept, on disk
//! if need be, because how many there are is known only at the end.

use aqueduct_runtime::batch::array_bytes;
use aqueduct_runtime::io::Ticket;
use aqueduct_runtime::memory::{Account, Reservation};
use aqueduct_runtime::spill::SpillSpace;
use aqueduct_runtime::state::{Next, SpillingVec, SpillingVecReader};
use aqueduct_runtime::{OperatorError, Result};
use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, make_comparator, new_null_array};
use arrow::buffer::BooleanBuffer;
use arrow::compute::{SortOptions, cast, concat, filter};
use arrow::datatypes::{DataType, Float64Type, SchemaRef};
use arrow::record_batch::RecordBatch;
use datafusion_common::ScalarValue;
use datafusion_expr::Accumulator;

use super::super::describe::Aggregate;
use super::layout::{Argument, Lane, LaneFunction, Way, of_type};
use super::nth::Nth;
use crate::expression::failed;

/// What `percentile_cont` of DataFusion rounds the weight of the upper value to.
const WEIGHTS: f64 = 1_000_000.0;

/// What a group counts in and spills to.
#[derive(Clone)]
pub(super) struct Home {
    pub(super) memory: Account,
    pub(super) spill: SpillSpace,
    /// The argument alone.
    pub(super) schema: SchemaRef,
    /// Bytes of the account that a group's values leave to the sort.
    pub(super) spare_bytes: usize,
}

/// One group on its way through the rows of a lane.
pub(super) struct Group {
    home: Home,
    accumulators: Vec<Option<Accumulating>>,
    /// Values that are picked from: all, and all that are distinct.
    values: [Option<Values>; 2],
    dedupes: bool,
    /// The last value, where equal ones count once.
    last: Option<ArrayRef>,
    /// Whether a null was given to functions of distinct values that take one.
    null_seen: bool,
    /// Whether a result has turned out too large: what it would need is still found out.
    given_up: bool,
    held: Reservation,
}

struct Accumulating {
    /// None if its result is too large.
    accumulator: Option<Box<dyn Accumulator>>,
    /// Bytes for each hundred of a state that may grow without end, its result included; none if it does not.
    growth: Option<usize>,
    /// What the accumulator said when last asked, and what it was given since and in all.
    measured: usize,
    since: usize,
    given: usize,
}

#[derive(Default)]
struct Values {
    rows: usize,
    here: Option<ArrayRef>,
    elsewhere: Option<SpillingVec>,
}

impl Group {
    pub(super) fn new(home: &Home, lane: &Lane, aggregate: &Aggregate) -> Result<Self> {
        let picks = |distinct| {
            let picks = |function: &LaneFunction| {
                function.distinct == distinct && !matches!(function.way, Way::Accumulate { .. })
            };
            lane.functions.iter().any(picks).then(Values::default)
        };
        let accumulators = lane.functions.iter().map(|function| match &function.way {
            Way::Accumulate { expression, .. } => {
                let described = &aggregate.functions()[function.index];
                let growth = match function {
                    // A text doubles as it grows, and its result is a copy. A list is of slices, which are claimed.
                    LaneFunction { lists: true, .. } if described.expression.fun().name() == "string_agg" => Some(300),
                    LaneFunction { lists: true, .. } => Some(150),
                    LaneFunction { nth: Some(_), .. } => None,
                    LaneFunction { distinct: false, .. } if described.grows() => {
                        Some(2 * described.unsaid_size().percent)
                    }
                    _ => None,
                };
                let accumulator: Box<dyn Accumulator> = match function.nth {
                    Some(place) => Box::new(Nth::new(place, expression.field().data_type())?),
                    None => expression.create_accumulator().map_err(failed)?,
                };
                Ok(Some(Accumulating { accumulator: Some(accumulator), growth, measured: 0, since: 0, given: 0 }))
            }
            Way::Median(_) | Way::Percentile(_) => Ok(None),
        });
        Ok(Self {
            accumulators: accumulators.collect::<Result<_>>()?,
            values: [picks(false), picks(true)],
            dedupes: lane.functions.iter().any(|function| function.distinct),
            last: None,
            null_seen: false,
            given_up: false,
            held: home.memory.reservation(),
            home: home.clone(),
        })
    }

    /// Takes in rows of the group; `open` says that more may follow. `keys` columns come before the argument.
    pub(super) fn feed(&mut self, lane: &Lane, rows: &RecordBatch, keys: usize, open: bool) -> Result<()> {
        let argument = rows.column(keys);
        let nulls = argument.logical_null_count();
        let values = argument.slice(if lane.nulls_first() { nulls } else { 0 }, argument.len() - nulls);
        let distinct = if self.dedupes { self.unseen(&values)? } else { values.slice(0, 0) };
        let null = if nulls > 0 && !std::mem::replace(&mut self.null_seen, true) {
            Some(new_null_array(argument.data_type(), 1))
        } else {
            None
        };
        for (function, accumulating) in lane.functions.iter().zip(&mut self.accumulators) {
            let (Way::Accumulate { arguments, mask, .. }, Some(accumulating)) = (&function.way, accumulating) else {
                continue;
            };
            if function.distinct {
                let null = null.as_ref().filter(|_| function.nulls);
                let (before, after) = if lane.nulls_first() { (null, None) } else { (None, null) };
                for values in before.into_iter().chain([&distinct]).chain(after) {
                    accumulating.update(std::slice::from_ref(values))?;
                }
                continue;
            }
            let mask = mask.map(|mask| rows.column(mask).as_boolean());
            let counted = mask.map_or(rows.num_rows(), BooleanArray::true_count);
            let arguments = arguments.iter().map(|argument| match (argument, mask) {
                (Argument::Constant(value), _) => value.to_array_of_size(counted).map_err(failed),
                (Argument::Column(column), Some(mask)) => Ok(filter(rows.column(*column), mask)?),
                (Argument::Column(column), None) => Ok(ArrayRef::clone(rows.column(*column))),
            });
            accumulating.update(&arguments.collect::<Result<Vec<_>>>()?)?;
        }
        for (kept, piece) in self.values.iter_mut().zip([values, distinct]) {
            if let Some(kept) = kept {
                kept.add(&self.home, piece, open)?;
            }
        }
        Ok(())
    }

    /// Those of sorted `values` that differ from the one before.
    fn unseen(&mut self, values: &ArrayRef) -> Result<ArrayRef> {
        let rows = values.len();
        if rows == 0 {
            return Ok(ArrayRef::clone(values));
        }
        let options = SortOptions::default();
        let within = make_comparator(values, values, options)?;
        let first = match &self.last {
            Some(last) => make_comparator(last, values, options)?(0, 0).is_ne(),
            None => true,
        };
        let mask = BooleanBuffer::collect_bool(rows, |row| if row == 0 { first } else { within(row - 1, row).is_ne() });
        self.last = Some(one_row(values, rows - 1)?);
        Ok(filter(values, &BooleanArray::new(mask, None))?)
    }

    /// Pays for accumulators that hold on to what they are given, and leaves the sort its room. What is missing, if
    /// that is not to be had.
    pub(super) fn settle(&mut self) -> Option<usize> {
        let needed = self.accumulators.iter().flatten().map(Accumulating::bytes).sum();
        if needed == 0 || self.given_up {
            return None;
        }
        if needed > self.held.bytes() && !self.held.try_set(needed) {
            return Some(needed - self.held.bytes());
        }
        let room = self.home.memory.room();
        (room < self.home.spare_bytes).then(|| self.home.spare_bytes - room)
    }

    /// Lets go of results that are too large. The rest of the group is only measured.
    pub(super) fn give_up(&mut self) {
        self.given_up = true;
        for one in self.accumulators.iter_mut().flatten().filter(|one| one.growth.is_some()) {
            one.accumulator = None;
        }
        self.held.shrink(usize::MAX);
    }

    /// The error of results that were too large.
    fn too_large(&self) -> OperatorError {
        let growing = self.accumulators.iter().flatten().filter(|one| one.growth.is_some());
        // What was given and what is made of it, each once more on its way on.
        let needed = growing.map(|one| 4 * one.given.max(one.measured)).sum::<usize>();
        let (memory, needed) = (&self.home.memory, needed + self.home.spare_bytes);
        let available = memory.most();
        // The copies of the value are counted. A plan leaves half of a limit to float, and its floors grow with it.
        let floors = memory.pool().limit().saturating_sub(available);
        OperatorError::RowTooLarge {
            needed_bytes: needed,
            available_bytes: available.min(needed.saturating_sub(1)),
            sufficient_limit_bytes: (memory.pool().limit() / 4 * 5).max(2 * (needed + floors) + needed / 2),
        }
    }

    pub(super) fn spill(&mut self, bytes: usize) -> Result<usize> {
        let mut freed = 0;
        for values in self.values.iter_mut().flatten().filter_map(|values| values.elsewhere.as_mut()) {
            freed += values.spill(bytes)?;
        }
        Ok(freed)
    }

    /// Ends the group: what is still to be picked, after which [`Picking::results`] has its results.
    ///
    /// # Errors
    ///
    /// If a result was given up.
    pub(super) fn end(mut self, lane: &Lane, data_type: &DataType) -> Result<Picking> {
        if self.given_up {
            return Err(self.too_large());
        }
        let picks = std::mem::take(&mut self.values).into_iter().enumerate().map(|(distinct, values)| {
            let values = values.unwrap_or_default();
            let functions = lane.functions.iter().filter(|function| function.distinct == (distinct == 1));
            let mut ranks: Vec<usize> = functions.flat_map(|function| ranks(&function.way, values.rows)).collect();
            ranks.sort_unstable();
            ranks.dedup();
            let mut picks = Picks { ranks, rows: values.rows, read: 0, picked: Vec::new(), from: None };
            match (values.elsewhere, values.here) {
                (Some(elsewhere), _) => picks.from = Some(elsewhere.drain()),
                (None, Some(here)) => picks.pick(&here)?,
                (None, None) => {}
            }
            Ok(picks)
        });
        let picks = picks.collect::<Result<Vec<_>>>()?;
        Ok(Picking { picks, group: self, data_type: data_type.clone() })
    }
}

impl Accumulating {
    fn update(&mut self, arguments: &[ArrayRef]) -> Result<()> {
        if let Some(accumulator) = &mut self.accumulator {
            accumulator.update_batch(arguments).map_err(failed)?;
        }
        if self.growth.is_some() {
            let bytes = arguments.iter().map(array_bytes).sum::<usize>();
            (self.since, self.given) = (self.since + bytes, self.given + bytes);
            if self.since > self.measured / 2
                && let Some(accumulator) = &self.accumulator
            {
                // May take time proportional to the state.
                (self.measured, self.since) = (accumulator.size(), 0);
            }
        }
        Ok(())
    }

    /// Its state, and the result once more beside it.
    fn bytes(&self) -> usize {
        self.growth.map_or(0, |percent| (self.measured + self.since).max(self.given) * percent / 100)
    }
}

impl Values {
    fn add(&mut self, home: &Home, piece: ArrayRef, open: bool) -> Result<()> {
        self.rows += piece.len();
        if self.elsewhere.is_none() && !open {
            self.here = Some(piece);
            return Ok(());
        }
        let create = || SpillingVec::new(&home.memory, &home.spill, SchemaRef::clone(&home.schema));
        let elsewhere = self.elsewhere.get_or_insert_with(create);
        if !piece.is_empty() {
            elsewhere.push(RecordBatch::try_new(SchemaRef::clone(&home.schema), vec![piece])?)?;
            while home.memory.room() < home.spare_bytes && elsewhere.spill(home.spare_bytes)? > 0 {}
        }
        Ok(())
    }
}

/// The ranks among `rows` values that a result is made of.
fn ranks(way: &Way, rows: usize) -> Vec<usize> {
    match way {
        _ if rows == 0 => Vec::new(),
        Way::Median(_) => vec![(rows - 1) / 2, rows / 2],
        Way::Percentile(fraction) => {
            let (lower, upper, _) = rank(*fraction, rows);
            vec![lower, upper]
        }
        Way::Accumulate { .. } => Vec::new(),
    }
}

/// The ranks around a fraction of `rows` values, and the weight of the upper one, as DataFusion has them.
fn rank(fraction: f64, rows: usize) -> (usize, usize, f64) {
    let index = fraction * (rows.saturating_sub(1)) as f64;
    let last = rows.saturating_sub(1);
    let (lower, upper) = ((index.floor() as usize).min(last), (index.ceil() as usize).min(last));
    let weight = ((index - lower as f64) * WEIGHTS) as usize as f64 / WEIGHTS;
    (lower, upper, weight)
}

/// A group that has ended, while its values are looked up.
pub(super) struct Picking {
    picks: Vec<Picks>,
    group: Group,
    data_type: DataType,
}

/// Values by their ranks, ascending.
struct Picks {
    ranks: Vec<usize>,
    /// Values that there are.
    rows: usize,
    read: usize,
    /// One value for each of the first ranks.
    picked: Vec<ArrayRef>,
    from: Option<SpillingVecReader>,
}

impl Picks {
    fn pick(&mut self, values: &ArrayRef) -> Result<()> {
        while let Some(rank) = self.ranks.get(self.picked.len())
            && *rank < self.read + values.len()
        {
            self.picked.push(one_row(values, rank - self.read)?);
        }
        self.read += values.len();
        Ok(())
    }

    /// Reads on; what to wait for, if anything.
    fn read(&mut self) -> Result<Option<Ticket>> {
        while let Some(from) = &mut self.from {
            if self.picked.len() == self.ranks.len() {
                self.from = None;
                break;
            }
            match from.next()? {
                Next::Batch(batch) => self.pick(batch.column(0))?,
                Next::Blocked(ticket) => return Ok(Some(ticket)),
                Next::End => self.from = None,
            }
        }
        Ok(None)
    }

    fn value(&self, rank: usize) -> Result<ArrayRef> {
        let place = self.ranks.binary_search(&rank).ok().and_then(|place| self.picked.get(place));
        place.cloned().ok_or_else(|| OperatorError::new(format!("value {rank} of {} is missing", self.rows)))
    }
}

impl Picking {
    /// What the accumulators hold, for their results.
    pub(super) fn take_held(&mut self) -> Reservation {
        std::mem::replace(&mut self.group.held, self.group.home.memory.reservation())
    }

    /// Whether values are still to be read from where they were kept.
    pub(super) fn reads(&self) -> bool {
        self.picks.iter().any(|picks| picks.from.is_some())
    }

    /// Reads on; what to wait for, if anything.
    pub(super) fn read(&mut self) -> Result<Option<Ticket>> {
        for picks in &mut self.picks {
            if let Some(ticket) = picks.read()? {
                return Ok(Some(ticket));
            }
        }
        Ok(None)
    }

    pub(super) fn spill(&mut self, bytes: usize) -> Result<usize> {
        let mut freed = 0;
        for from in self.picks.iter_mut().filter_map(|picks| picks.from.as_mut()) {
            freed += from.spill(bytes)?;
        }
        Ok(freed)
    }

    /// The result of each function of the lane.
    pub(super) fn results(&mut self, lane: &Lane) -> Result<Vec<ScalarValue>> {
        let functions = lane.functions.iter().zip(&mut self.group.accumulators);
        let results = functions.map(|(function, accumulating)| {
            let picks = &self.picks[usize::from(function.distinct)];
            match (&function.way, accumulating) {
                (Way::Accumulate { .. }, Some(Accumulating { accumulator: Some(accumulator), .. })) => {
                    accumulator.evaluate().map_err(failed)
                }
                (Way::Accumulate { expression, .. } | Way::Median(expression), _) => {
                    let mut accumulator = expression.create_accumulator().map_err(failed)?;
                    let middle = ranks(&function.way, picks.rows);
                    if let [low, high] = middle[..] {
                        let (low, high) = (picks.value(low)?, picks.value(high)?);
                        let values = if picks.rows % 2 == 1 { low } else { concat(&[&low, &high])? };
                        accumulator.update_batch(&[values]).map_err(failed)?;
                    }
                    accumulator.evaluate().map_err(failed)
                }
                (Way::Percentile(fraction), _) => {
                    if picks.rows == 0 {
                        return ScalarValue::try_from(&self.data_type).map_err(failed);
                    }
                    let (lower, upper, weight) = rank(*fraction, picks.rows);
                    let value = picks.value(lower)?;
                    if lower == upper {
                        return ScalarValue::try_from_array(&value, 0).map_err(failed);
                    }
                    let float = |value: ArrayRef| -> Result<f64> {
                        Ok(cast(&value, &DataType::Float64)?.as_primitive::<Float64Type>().value(0))
                    };
                    let (lower, upper) = (float(value)?, float(picks.value(upper)?)?);
                    of_type(ScalarValue::Float64(Some(lower + (upper - lower) * weight)), &self.data_type)
                }
            }
        });
        results.collect()
    }
}

/// A row of a column, without the rest of it.
pub(super) fn one_row(column: &ArrayRef, row: usize) -> Result<ArrayRef> {
    let index = arrow::array::UInt32Array::from(vec![row as u32]);
    Ok(arrow::compute::take(column, &index, None)?)
}
