//! The group that is being read: accumulators, and the values of which some are picked by their rank.
//!
//! Values of a group that ends in the batch it began in are picked from there. Those of others are kept, on disk
//! if need be, because how many there are is known only at the end. Rows that become a list are kept, too: at the end
//! of the group its size is known, and paid for at once, so that nobody waits with half a list in its hands.

use aqueduct_runtime::batch::{array_bytes, copied};
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
use crate::expression::failed;

/// What `percentile_cont` of DataFusion rounds the weight of the upper value to.
const WEIGHTS: f64 = 1_000_000.0;

/// What a group counts in and spills to.
#[derive(Clone)]
pub(super) struct Home {
    pub(super) memory: Account,
    /// Where values that are kept count, with a floor of its own.
    pub(super) reading: Account,
    pub(super) spill: SpillSpace,
    /// The argument alone.
    pub(super) schema: SchemaRef,
    /// Rows of the lane.
    pub(super) rows: SchemaRef,
    /// Bytes of values that are written and read together.
    pub(super) piece_bytes: usize,
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
    /// Rows that wait for the end of the group, if lists are made of them.
    kept: Option<SpillingVec>,
    /// For lists, and for what else has grown.
    paid: Reservation,
    grown: Reservation,
}

struct Accumulating {
    accumulator: Box<dyn Accumulator>,
    growth: Growth,
}

/// How the state of an accumulator grows.
enum Growth {
    /// A few numbers.
    None,
    /// A list of all that it is given: `percent` bytes for each hundred of those, the result included.
    Listed { percent: usize, given: usize },
    /// By its own account, at the last look, and what it was given since.
    Said { percent: usize, said: usize, since: usize },
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
                    // A text doubles as it grows, and its result is a copy. A list is of slices, and its result is one, too.
                    LaneFunction { lists: true, .. } if described.expression.fun().name() == "string_agg" => {
                        Growth::Listed { percent: 300, given: 0 }
                    }
                    LaneFunction { lists: true, .. } => Growth::Listed { percent: 220, given: 0 },
                    LaneFunction { distinct: false, .. } if described.grows() => {
                        Growth::Said { percent: 2 * described.unsaid_size().percent, said: 0, since: 0 }
                    }
                    _ => Growth::None,
                };
                let accumulator = expression.create_accumulator().map_err(failed)?;
                Ok(Some(Accumulating { accumulator, growth }))
            }
            Way::Median(_) | Way::Percentile(_) => Ok(None),
        });
        Ok(Self {
            accumulators: accumulators.collect::<Result<_>>()?,
            values: [picks(false), picks(true)],
            dedupes: lane.functions.iter().any(|function| function.distinct),
            last: None,
            null_seen: false,
            kept: None,
            paid: home.memory.reservation(),
            grown: home.memory.reservation(),
            home: home.clone(),
        })
    }

    /// Takes in rows of the group, or keeps them for its end; `open` says that more may follow. `keys` columns come
    /// before the argument.
    pub(super) fn take_in(&mut self, lane: &Lane, rows: &RecordBatch, keys: usize, open: bool) -> Result<()> {
        let lists = self.accumulators.iter().flatten().any(|one| matches!(one.growth, Growth::Listed { .. }));
        if lists && (open || self.kept.is_some()) {
            self.keep(lane, rows, keys)
        } else {
            self.feed(lane, rows, keys, open)
        }
    }

    fn keep(&mut self, lane: &Lane, rows: &RecordBatch, keys: usize) -> Result<()> {
        let distinct = if self.dedupes { Some(self.unseen(&lane.values(rows, keys))?) } else { None };
        for (function, accumulating) in lane.functions.iter().zip(&mut self.accumulators) {
            let (Way::Accumulate { arguments, mask, .. }, Some(accumulating)) = (&function.way, accumulating) else {
                continue;
            };
            let Growth::Listed { given, .. } = &mut accumulating.growth else { continue };
            *given += match (&distinct, mask) {
                (Some(distinct), _) if function.distinct => array_bytes(distinct),
                (_, mask) => {
                    let bytes = arguments.iter().map(|argument| match argument {
                        Argument::Column(column) => array_bytes(rows.column(*column)),
                        Argument::Constant(value) => value.size(),
                    });
                    let counted = mask.map_or(rows.num_rows(), |mask| rows.column(mask).as_boolean().true_count());
                    bytes.sum::<usize>() * counted / rows.num_rows().max(1)
                }
            };
        }
        let home = &self.home;
        self.kept.get_or_insert_with(|| home.vec(&home.rows)).push(rows.clone())
    }

    /// Bytes that are still missing for the lists of a group that has ended.
    ///
    /// # Errors
    ///
    /// If they are more than are ever to be had.
    pub(super) fn pay(&mut self) -> Result<Option<usize>> {
        let lists = || self.accumulators.iter().flatten();
        let needed = lists().map(Accumulating::listed_bytes).sum::<usize>();
        if needed <= self.paid.bytes() || self.paid.try_set(needed) {
            return Ok(None);
        }
        let missing = needed - self.paid.bytes();
        let memory = &self.home.memory;
        if memory.held() + missing <= memory.most() {
            return Ok(Some(missing));
        }
        // What was given and what is made of it, each once more on its way on.
        let needed = 4 * lists().map(Accumulating::given_bytes).sum::<usize>();
        let available = memory.most();
        // The copies of the value are counted. A plan leaves half of a limit to float, and its floors grow with it.
        let floors = memory.pool().limit().saturating_sub(available);
        Err(OperatorError::RowTooLarge {
            needed_bytes: needed,
            available_bytes: available.min(needed.saturating_sub(1)),
            sufficient_limit_bytes: (memory.pool().limit() / 4 * 5).max(2 * (needed + floors) + needed / 2),
        })
    }

    /// Whether rows were kept for its end.
    pub(super) fn keeps(&self) -> bool {
        self.kept.is_some()
    }

    /// The rows that were kept, to be fed once they are paid for.
    pub(super) fn take_kept(&mut self) -> Option<SpillingVecReader> {
        self.last = None;
        self.kept.take().map(SpillingVec::drain)
    }

    /// Takes in rows that were kept. What lists hold on to must not pin the rest.
    pub(super) fn feed_kept(&mut self, lane: &Lane, rows: &RecordBatch, keys: usize) -> Result<()> {
        self.feed(lane, &copied(rows), keys, true)
    }

    fn feed(&mut self, lane: &Lane, rows: &RecordBatch, keys: usize, open: bool) -> Result<()> {
        let argument = rows.column(keys);
        let nulls = argument.logical_null_count();
        let values = lane.values(rows, keys);
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

    /// Pays for states that have grown. What is missing, if that is not to be had.
    pub(super) fn settle(&mut self) -> Option<usize> {
        let needed = self.accumulators.iter().flatten().map(Accumulating::said_bytes).sum();
        let refused = needed > self.grown.bytes() && !self.grown.try_set(needed);
        refused.then(|| needed - self.grown.bytes())
    }

    pub(super) fn spill(&mut self, bytes: usize) -> Result<usize> {
        let mut freed = 0;
        let values = self.values.iter_mut().flatten().filter_map(|values| values.elsewhere.as_mut());
        for kept in values.chain(&mut self.kept) {
            freed += kept.spill(bytes)?;
        }
        Ok(freed)
    }

    /// Ends the group: what is still to be picked, after which [`Picking::results`] has its results.
    pub(super) fn end(mut self, lane: &Lane, data_type: &DataType) -> Result<Picking> {
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
        self.accumulator.update_batch(arguments).map_err(failed)?;
        if let Growth::Said { said, since, .. } = &mut self.growth {
            *since += arguments.iter().map(array_bytes).sum::<usize>();
            if *since > *said / 2 {
                // May take time proportional to the state.
                (*said, *since) = (self.accumulator.size(), 0);
            }
        }
        Ok(())
    }

    /// Bytes of values that a list is made of.
    fn given_bytes(&self) -> usize {
        if let Growth::Listed { given, .. } = self.growth { given } else { 0 }
    }

    /// Bytes of a list, and of the result beside it.
    fn listed_bytes(&self) -> usize {
        if let Growth::Listed { percent, given } = self.growth { given * percent / 100 } else { 0 }
    }

    /// Bytes of a state that is not a list, and of the result beside it.
    fn said_bytes(&self) -> usize {
        if let Growth::Said { percent, said, since } = self.growth { (said + since) * percent / 100 } else { 0 }
    }
}

impl Home {
    fn vec(&self, schema: &SchemaRef) -> SpillingVec {
        SpillingVec::new(&self.reading, &self.spill, SchemaRef::clone(schema)).with_piece_bytes(self.piece_bytes)
    }
}

impl Values {
    fn add(&mut self, home: &Home, piece: ArrayRef, open: bool) -> Result<()> {
        self.rows += piece.len();
        if self.elsewhere.is_none() && !open {
            self.here = Some(piece);
            return Ok(());
        }
        let elsewhere = self.elsewhere.get_or_insert_with(|| home.vec(&home.schema));
        if !piece.is_empty() {
            elsewhere.push(RecordBatch::try_new(SchemaRef::clone(&home.schema), vec![piece])?)?;
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
        let none = || self.group.home.memory.reservation();
        let mut held = std::mem::replace(&mut self.group.paid, none());
        held.absorb(std::mem::replace(&mut self.group.grown, none()));
        held
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
                (Way::Accumulate { .. }, Some(accumulating)) => accumulating.accumulator.evaluate().map_err(failed),
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
