//! The frame of each row: where it starts and where it ends, found for many rows at once.
//!
//! ```text
//! ROWS -k, +k            arithmetic, and the borders of the partition
//! GROUPS, CURRENT ROW    counting where peers begin          ┐ along the order of the rows,
//! RANGE -x, +x           comparing keys with a moved key     ┘ forward only, spilled in between
//! UNBOUNDED              the borders of the partition
//! ```

mod bound;
mod order;
mod parts;

use std::sync::Arc;

use aqueduct_runtime::io::Ticket;
use aqueduct_runtime::state::SortColumn;
use aqueduct_runtime::{OperatorError, Result};
use arrow::array::{ArrayRef, BooleanArray};
use arrow::datatypes::{DataType, Field, Schema};
use arrow::record_batch::RecordBatch;
use datafusion_common::ScalarValue;
use datafusion_expr::{WindowFrame, WindowFrameBound, WindowFrameUnits};

use self::bound::{Bound, Counter, PEERS, Reach};
use self::order::{KEY_TYPE, OrderKey, Shift};
use self::parts::Parts;
use super::ahead::Arrival;
use super::desk::Desk;
use super::tape::Tape;

/// One end of frames.
#[derive(Debug, Clone)]
pub(super) enum End {
    Unbounded,
    Rows(i64),
    Groups(i64),
    Range(Shift),
}

/// What frames go by, for all partitions.
#[derive(Debug, Clone)]
pub(super) struct Shape {
    pub(super) start: End,
    pub(super) end: End,
    /// The order column of ends by RANGE.
    key: Option<OrderKey>,
}

impl Shape {
    /// Frames between two numbers of rows from the row.
    pub(super) fn rows(start: End, end: End) -> Self {
        Self { start, end, key: None }
    }

    /// The shape of `frame` over rows sorted by `order_by`, columns of `schema`.
    pub(super) fn of(frame: &WindowFrame, order_by: &[SortColumn], schema: &Schema) -> Result<Self> {
        let key = match order_by {
            [one] => Some(OrderKey::new(one.column, one.options)),
            _ => None,
        };
        let end = |bound: &WindowFrameBound| -> Result<End> {
            let (offset, preceding) = match bound {
                WindowFrameBound::CurrentRow => {
                    return Ok(if frame.units == WindowFrameUnits::Rows { End::Rows(0) } else { End::Groups(0) });
                }
                WindowFrameBound::Preceding(offset) => (offset, true),
                WindowFrameBound::Following(offset) => (offset, false),
            };
            if offset.is_null() {
                return Ok(End::Unbounded);
            }
            if frame.units == WindowFrameUnits::Range {
                let (Some(key), [one]) = (&key, order_by) else {
                    let order = "a RANGE frame with an offset needs exactly one order column";
                    return Err(OperatorError::new(order));
                };
                let data_type = schema.field(one.column).data_type();
                return Ok(End::Range(key.shift(offset, preceding, data_type)?));
            }
            let count = offset.cast_to(&DataType::UInt64).ok().filter(|count| !count.is_null());
            let Some(ScalarValue::UInt64(Some(count))) = count else {
                return Err(OperatorError::new(format!("the offset {offset} of a frame is not a number of rows")));
            };
            // More rows than there can be.
            let count = i64::try_from(count).unwrap_or(i64::MAX / 2).min(i64::MAX / 2);
            let count = if preceding { -count } else { count };
            Ok(if frame.units == WindowFrameUnits::Rows { End::Rows(count) } else { End::Groups(count) })
        };
        let wrong = match (&frame.start_bound, &frame.end_bound) {
            (WindowFrameBound::Following(start), _) if start.is_null() => Some("start"),
            (_, WindowFrameBound::Preceding(end)) if end.is_null() => Some("end"),
            _ => None,
        };
        if let Some(wrong) = wrong {
            return Err(OperatorError::new(format!("the {wrong} of the frame {frame} is at the wrong end")));
        }
        Ok(Self { start: end(&frame.start_bound)?, end: end(&frame.end_bound)?, key })
    }

    /// Most batches that finding the frames has in memory at once.
    pub(super) fn blocks(&self) -> usize {
        let reads = |end: &End| matches!(end, End::Groups(_) | End::Range(_));
        2 * (usize::from(reads(&self.start)) + usize::from(reads(&self.end)))
    }
}

/// The frames of consecutive rows.
#[derive(Debug, Default)]
pub(super) struct Frames {
    /// Where each starts, and the position after its last row: at least where it starts.
    pub(super) lows: Vec<u64>,
    pub(super) highs: Vec<u64>,
    /// Rows of these that partitions begin with, and where their frames may start at the earliest.
    pub(super) fresh: Vec<(usize, u64)>,
}

/// Finds frames of rows as they arrive.
pub(super) struct Finder {
    parts: Parts,
    key: Option<OrderKey>,
    shifts: Vec<Shift>,
    tape: Option<Tape>,
    lower: Bound,
    upper: Bound,
    lows: Vec<u64>,
    highs: Vec<u64>,
    /// Counts of rows at both ends, where frames are over those rows only that a column marks.
    counted: Option<Counted>,
    /// The next row to be given a frame, and its partition.
    row: u64,
    part: u64,
}

struct Counted {
    lower: Counter,
    upper: Counter,
    lows: Vec<u64>,
    highs: Vec<u64>,
}

impl Finder {
    /// A finder of frames like `shape`; in positions among the marked rows only, if `counts`.
    pub(super) fn new(shape: &Shape, counts: bool, desk: &Desk) -> Self {
        let mut fields = vec![Field::new("peers", DataType::Boolean, false)];
        let keyed = matches!(shape.start, End::Range(_)) || matches!(shape.end, End::Range(_));
        if keyed {
            fields.push(Field::new("key", KEY_TYPE, false));
        }
        let mut shifts = Vec::new();
        let mut cursors = 0;
        let mut bound = |end: &End, starts: bool, fields: &mut Vec<Field>| {
            let reach = match end {
                End::Unbounded => Reach::Unbounded,
                End::Rows(offset) => Reach::Rows(*offset),
                End::Groups(offset) => Reach::Groups(*offset),
                End::Range(shift) => {
                    shifts.push(shift.clone());
                    fields.push(Field::new("moved", KEY_TYPE, false));
                    Reach::Range { keys: PEERS + 1, target: fields.len() - 1 }
                }
            };
            let places = reach.reads().then_some((cursors, cursors + 1));
            cursors += if places.is_some() { 2 } else { 0 };
            Bound::new(reach, starts, places)
        };
        let lower = bound(&shape.start, true, &mut fields);
        let upper = bound(&shape.end, false, &mut fields);
        let counted = counts.then(|| {
            fields.push(Field::new("counts", DataType::Boolean, false));
            let counter = |cursor| Counter::new(fields.len() - 1, cursor);
            let (lower, upper) = (counter(cursors), counter(cursors + 1));
            cursors += 2;
            Counted { lower, upper, lows: Vec::new(), highs: Vec::new() }
        });
        Self {
            parts: Parts::default(),
            key: shape.key.clone().filter(|_| keyed),
            shifts,
            tape: (cursors > 0).then(|| Tape::new(desk, Arc::new(Schema::new(fields)), cursors)),
            lower,
            upper,
            lows: Vec::new(),
            highs: Vec::new(),
            counted,
            row: 0,
            part: 0,
        }
    }

    /// Takes in rows; `counts` marks those that frames are over.
    pub(super) fn arrive(
        &mut self,
        arrival: &Arrival<'_>,
        counts: Option<BooleanArray>,
        desk: &mut Desk,
    ) -> Result<()> {
        let rows = arrival.rows.num_rows();
        self.parts.arrive(arrival.start, rows, &arrival.marks.partitions);
        let Some(tape) = &mut self.tape else { return Ok(()) };
        let mut peers = vec![false; rows];
        arrival.marks.peers.iter().for_each(|row| peers[*row as usize] = true);
        let mut columns: Vec<ArrayRef> = vec![Arc::new(BooleanArray::from(peers))];
        if let Some(key) = &self.key {
            let shifts: Vec<_> = std::iter::once(None).chain(self.shifts.iter().map(Some)).collect();
            columns.extend(key.keys(arrival.rows.column(key.column), &shifts)?);
        }
        if let Some(counts) = counts {
            columns.push(Arc::new(counts));
        }
        let batch = RecordBatch::try_new(Arc::clone(tape.schema()), columns)?;
        desk.claim(&batch);
        tape.push(batch, desk)?;
        Ok(())
    }

    /// There are no more rows.
    pub(super) fn end(&mut self) {
        self.parts.end();
    }

    /// The frames of the next rows, if any are known; or what to wait for.
    pub(super) fn next(&mut self, desk: &mut Desk) -> Result<Result<Option<Frames>, Ticket>> {
        let until = self.row + desk.rows as u64;
        let low = self.lower.extend(&self.parts, self.tape.as_mut(), until, &mut self.lows, desk)?;
        let high = self.upper.extend(&self.parts, self.tape.as_mut(), until, &mut self.highs, desk)?;
        let mut known = self.lows.len().min(self.highs.len());
        for (low, high) in self.lows[..known].iter_mut().zip(&self.highs[..known]) {
            *low = (*low).min(*high);
        }
        let mut waits = low.or(high);
        if let (Some(counted), Some(tape)) = (&mut self.counted, &mut self.tape) {
            let Counted { lower, upper, lows, highs } = counted;
            let low = lower.extend(tape, &self.lows[lows.len().min(known)..known], lows, desk)?;
            let high = upper.extend(tape, &self.highs[highs.len().min(known)..known], highs, desk)?;
            waits = waits.or(low).or(high);
            known = lows.len().min(highs.len());
        }
        if known == 0 {
            return Ok(waits.map_or(Ok(None), Err));
        }
        let (mut lows, mut highs) = (take_front(&mut self.lows, known), take_front(&mut self.highs, known));
        let mut frames = Frames::default();
        let end = self.row + known as u64;
        while let Some(next) = self.parts.start(self.part + 1).filter(|next| *next < end) {
            self.part += 1;
            frames.fresh.push(((next - self.row) as usize, next));
        }
        if let Some(counted) = &mut self.counted {
            (lows, highs) = (take_front(&mut counted.lows, known), take_front(&mut counted.highs, known));
        }
        (frames.lows, frames.highs) = (lows, highs);
        self.row = end;
        self.parts.release(self.part.min(self.lower.part()).min(self.upper.part()));
        Ok(Ok(Some(frames)))
    }

    pub(super) fn spill(&mut self, bytes: usize, desk: &Desk) -> Result<bool> {
        self.tape.as_mut().map_or(Ok(false), |tape| tape.spill(bytes, desk))
    }
}

fn take_front(values: &mut Vec<u64>, count: usize) -> Vec<u64> {
    let rest = values.split_off(count);
    std::mem::replace(values, rest)
}
