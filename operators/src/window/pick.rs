//! Functions that pick the value of one row of the frame: `first_value`, `last_value`, `nth_value`, `lag`, `lead`.
//!
//! `lag` and `lead` are the last and the first value of frames that lie before and after the row. Where nulls are
//! ignored, only other values are kept, and frames are counted in these.

use std::sync::Arc;

use aqueduct_runtime::{OperatorError, Result};
use arrow::array::{Array, ArrayRef, BooleanArray, UInt32Array};
use arrow::buffer::NullBuffer;
use arrow::compute::{filter, interleave, take};
use arrow::datatypes::{Field, FieldRef, Schema};
use arrow::record_batch::RecordBatch;

use super::ahead::{Ahead, Arrival, Progress, Results};
use super::desk::Desk;
use super::frame::{Finder, Frames, Shape};
use super::tape::{At, Block, Tape};
use crate::expression::{Expression, evaluate};

/// Which value of which frame.
#[derive(Debug, Clone)]
pub(super) struct Picked {
    pub(super) argument: Expression,
    pub(super) shape: Shape,
    /// From 1 on from the start of the frame, from -1 on from its end.
    pub(super) nth: i64,
    pub(super) ignore_nulls: bool,
    /// One value for frames that are too short; none is null.
    pub(super) default: Option<ArrayRef>,
}

pub(super) struct Pick {
    picked: Picked,
    finder: Finder,
    values: Tape,
    results: Results,
    frames: Option<Frames>,
    /// Frames that have their value.
    done: usize,
}

impl Pick {
    pub(super) fn new(picked: &Picked, field: &FieldRef, desk: &Desk) -> Self {
        let schema = Schema::new(vec![Field::new("value", field.data_type().clone(), true)]);
        Self {
            finder: Finder::new(&picked.shape, picked.ignore_nulls, desk),
            values: Tape::new(desk, Arc::new(schema), 1),
            results: Results::new(desk, field, false),
            picked: picked.clone(),
            frames: None,
            done: 0,
        }
    }

    /// Position of the value of a frame.
    fn position(&self, low: u64, high: u64) -> Option<u64> {
        let nth = self.picked.nth;
        let distance = nth.unsigned_abs();
        if distance == 0 || high.saturating_sub(low) < distance {
            return None;
        }
        Some(if nth > 0 { low + distance - 1 } else { high - distance })
    }

    /// Looks up values of frames that lie in one batch; `false` if there are no frames left.
    fn pick(&mut self, frames: &Frames, desk: &mut Desk) -> Result<Progress> {
        let total = frames.lows.len();
        let mut block: Option<Block> = None;
        let mut indices: Vec<Option<u32>> = Vec::with_capacity(total - self.done);
        let mut blocked = None;
        for at in self.done..total {
            let Some(position) = self.position(frames.lows[at], frames.highs[at]) else {
                indices.push(None);
                continue;
            };
            if !block.as_ref().is_some_and(|block| block.has(position)) {
                if block.is_some() {
                    // Goes on in the next batch at the next turn.
                    blocked = Some(Progress::More);
                    break;
                }
                self.values.seek(0, position.max(self.values.position(0)));
                match self.values.at(0, desk)? {
                    At::Block(there) => block = Some(there),
                    At::Blocked(ticket) => {
                        blocked = Some(Progress::Blocked(ticket));
                        break;
                    }
                    At::End => {
                        return Err(OperatorError::new("a frame of a window reaches beyond the rows that are kept"));
                    }
                }
            }
            let start = block.as_ref().map_or(0, |block| block.start);
            indices.push(Some((position - start) as u32));
        }
        let found = indices.len();
        if found > 0 {
            let values = self.gathered(block.as_ref(), &indices)?;
            self.results.push(values, desk)?;
            self.done += found;
        }
        if self.done == total {
            // Nothing before the last frame is picked any more.
            let passed = frames.lows[total - 1].min(self.values.end());
            drop(block);
            self.values.seek(0, passed.max(self.values.position(0)));
        }
        Ok(blocked.unwrap_or(Progress::More))
    }

    fn gathered(&self, block: Option<&Block>, indices: &[Option<u32>]) -> Result<ArrayRef> {
        let none = RecordBatch::new_empty(Arc::clone(self.values.schema()));
        let values = block.map_or(none.column(0), |block| block.batch.column(0));
        let whole = indices.len() == values.len();
        if whole && indices.iter().zip(0..).all(|(index, row)| *index == Some(row)) {
            return Ok(ArrayRef::clone(values));
        }
        match &self.picked.default {
            Some(default) if indices.iter().any(Option::is_none) => {
                let places: Vec<_> =
                    indices.iter().map(|index| index.map_or((1, 0), |index| (0, index as usize))).collect();
                Ok(interleave(&[values, default], &places)?)
            }
            _ => {
                let present = NullBuffer::from_iter(indices.iter().map(Option::is_some));
                let places = indices.iter().map(|index| index.unwrap_or(0)).collect::<Vec<_>>();
                if block.is_none() {
                    return Ok(arrow::array::new_null_array(values.data_type(), indices.len()));
                }
                let present = Some(present).filter(|present| present.null_count() > 0);
                Ok(take(values, &UInt32Array::new(places.into(), present), None)?)
            }
        }
    }
}

impl Ahead for Pick {
    fn arrive(&mut self, arrival: &Arrival<'_>, desk: &mut Desk) -> Result<()> {
        let values = evaluate(self.picked.argument.as_ref(), arrival.rows)?;
        let mut kept = match values.data_type() == self.values.schema().field(0).data_type() {
            true => values,
            false => arrow::compute::cast(&values, self.values.schema().field(0).data_type())?,
        };
        let mut counts = None;
        if self.picked.ignore_nulls {
            let valid = match kept.logical_nulls() {
                Some(nulls) => BooleanArray::new(nulls.into_inner(), None),
                None => BooleanArray::from(vec![true; kept.len()]),
            };
            kept = filter(&kept, &valid)?;
            counts = Some(valid);
        }
        let batch = RecordBatch::try_new(Arc::clone(self.values.schema()), vec![kept])?;
        desk.claim(&batch);
        self.values.push(batch, desk)?;
        self.finder.arrive(arrival, counts, desk)
    }

    fn end(&mut self, _desk: &mut Desk) -> Result<()> {
        self.finder.end();
        Ok(())
    }

    fn advance(&mut self, desk: &mut Desk) -> Result<Progress> {
        if self.frames.is_none() {
            self.done = 0;
            match self.finder.next(desk)? {
                Ok(frames) => self.frames = frames,
                Err(ticket) => return Ok(Progress::Blocked(ticket)),
            }
        }
        let Some(frames) = self.frames.take() else { return Ok(Progress::Idle) };
        let progress = self.pick(&frames, desk)?;
        if self.done < frames.lows.len() {
            self.frames = Some(frames);
        }
        Ok(progress)
    }

    fn results(&mut self) -> &mut Results {
        &mut self.results
    }

    fn spill(&mut self, bytes: usize, desk: &Desk) -> Result<bool> {
        Ok(self.results.spill(bytes, desk)? | self.values.spill(bytes, desk)? | self.finder.spill(bytes, desk)?)
    }
}
