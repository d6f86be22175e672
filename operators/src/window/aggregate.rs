//! Aggregates as window functions, by how their frames move.
//!
//! ```text
//! the partition up to the row            Running   as rows leave
//! the partition up to the row's peers    Runs      a result for each group of peers
//! the whole partition                    Runs      a result for each partition
//! anything else                          Sliding   rows go in at one end and out at the other
//! ```

use std::sync::Arc;

use aqueduct_runtime::io::Ticket;
use aqueduct_runtime::memory::Reservation;
use aqueduct_runtime::{OperatorError, Result};
use arrow::array::{ArrayRef, AsArray};
use arrow::datatypes::{DataType, Field, FieldRef, Schema};
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use datafusion_physical_expr::aggregate::AggregateFunctionExpr;

use super::ahead::{Ahead, Arrival, Progress, Results};
use super::desk::Desk;
use super::fold::{Arguments, Fold, Motion, Window, fold};
use super::frame::{End, Finder, Frames, Shape};
use super::marks::Marks;
use super::tape::{At, Block, Tape};
use crate::expression::{Expression, evaluate, evaluate_mask};

/// An aggregate and what it is given.
#[derive(Debug, Clone)]
pub(super) struct Aggregated {
    pub(super) expression: Arc<AggregateFunctionExpr>,
    pub(super) arguments: Vec<Expression>,
    pub(super) types: Vec<DataType>,
    pub(super) filter: Option<Expression>,
}

impl Aggregated {
    fn evaluate(&self, rows: &RecordBatch) -> Result<Arguments> {
        let columns = self.arguments.iter().map(|argument| evaluate(argument.as_ref(), rows));
        let columns = columns.collect::<Result<Vec<_>>>()?;
        let mask = self.filter.as_ref().map(|filter| evaluate_mask(filter.as_ref(), rows)).transpose()?;
        Ok(Arguments { columns, mask })
    }

    fn fold(&self, motion: Motion) -> Result<Box<dyn Fold>> {
        fold(&self.expression, &self.types, motion)
    }
}

/// The partition up to the row: computed as rows leave.
pub(super) struct Running {
    aggregated: Aggregated,
    fold: Box<dyn Fold>,
    held: Reservation,
}

impl Running {
    pub(super) fn new(aggregated: &Aggregated, desk: &Desk) -> Result<Self> {
        let fold = aggregated.fold(Motion::Grows)?;
        Ok(Self { aggregated: aggregated.clone(), fold, held: desk.account.reservation() })
    }

    pub(super) fn column(&mut self, rows: &RecordBatch, marks: &Marks, desk: &mut Desk) -> Result<ArrayRef> {
        let arguments = self.aggregated.evaluate(rows)?;
        let ends: Vec<u32> = (1..=rows.num_rows() as u32).collect();
        self.fold.scan(&arguments, rows.num_rows(), &marks.partitions, &ends)?;
        desk.hold(&mut self.held, self.fold.bytes());
        self.fold.output()
    }
}

/// One result for each partition, or for each group of peers: of all rows of the partition up to its end.
pub(super) struct Runs {
    aggregated: Aggregated,
    fold: Box<dyn Fold>,
    by_partition: bool,
    /// Rows since the last result.
    open: u64,
    results: Results,
    held: Reservation,
}

impl Runs {
    pub(super) fn new(aggregated: &Aggregated, by_partition: bool, field: &FieldRef, desk: &Desk) -> Result<Self> {
        Ok(Self {
            fold: aggregated.fold(Motion::Grows)?,
            aggregated: aggregated.clone(),
            by_partition,
            open: 0,
            results: Results::new(desk, field, true),
            held: desk.account.reservation(),
        })
    }
}

impl Ahead for Runs {
    fn arrive(&mut self, arrival: &Arrival<'_>, desk: &mut Desk) -> Result<()> {
        let arguments = self.aggregated.evaluate(arrival.rows)?;
        let marks = arrival.marks;
        let begins = if self.by_partition { &marks.partitions } else { &marks.peers };
        // The first run of all has none before it to end.
        let first = usize::from(self.open == 0 && begins.first() == Some(&0));
        let ends = &begins[first..];
        let rows = arrival.rows.num_rows();
        self.fold.scan(&arguments, rows, &marks.partitions, ends)?;
        desk.hold(&mut self.held, self.fold.bytes());
        let mut at = 0;
        let mut lengths = Vec::with_capacity(ends.len());
        for end in ends {
            lengths.push(std::mem::take(&mut self.open) + u64::from(*end - at));
            at = *end;
        }
        self.open += (rows - at as usize) as u64;
        if lengths.is_empty() {
            return Ok(());
        }
        let values = self.fold.output()?;
        self.results.push_runs(values, lengths, desk)
    }

    fn end(&mut self, desk: &mut Desk) -> Result<()> {
        if self.open == 0 {
            return Ok(());
        }
        self.fold.push()?;
        let values = self.fold.output()?;
        self.results.push_runs(values, vec![std::mem::take(&mut self.open)], desk)
    }

    fn results(&mut self) -> &mut Results {
        &mut self.results
    }
}

const LEAD: usize = 0;
const TRAIL: usize = 1;

/// Frames whose rows come and go.
pub(super) struct Sliding {
    aggregated: Aggregated,
    fold: Box<dyn Fold>,
    finder: Finder,
    /// Arguments, and behind them what counts if there is a filter.
    values: Tape,
    results: Results,
    window: Window,
    lead: Option<Block>,
    trail: Option<Block>,
    frames: Option<Frames>,
    done: usize,
    /// Whether rows that leave a frame have to be read once more.
    trails: bool,
    held: Reservation,
}

impl Sliding {
    pub(super) fn new(aggregated: &Aggregated, shape: &Shape, field: &FieldRef, desk: &Desk) -> Result<Self> {
        let grows = matches!(shape.start, End::Unbounded);
        let types = aggregated.types.iter().map(|data_type| Field::new("argument", data_type.clone(), true));
        let mask = aggregated.filter.is_some().then(|| Field::new("counts", DataType::Boolean, true));
        let fold = aggregated.fold(if grows { Motion::Grows } else { Motion::Slides })?;
        Ok(Self {
            trails: !grows && fold.trails(),
            fold,
            aggregated: aggregated.clone(),
            finder: Finder::new(shape, false, desk),
            values: Tape::new(desk, Arc::new(Schema::new(types.chain(mask).collect::<Vec<_>>())), 2),
            results: Results::new(desk, field, false),
            window: Window::default(),
            lead: None,
            trail: None,
            frames: None,
            done: 0,
            held: desk.account.reservation(),
        })
    }

    fn arguments(&self, batch: &RecordBatch) -> Arguments {
        let count = self.aggregated.types.len();
        let mask = self.aggregated.filter.as_ref().map(|_| batch.column(count).as_boolean().clone());
        Arguments { columns: batch.columns()[..count].to_vec(), mask }
    }

    /// Moves one cursor to `position`, and makes its batch the present one of that side.
    fn load(&mut self, side: usize, position: u64, desk: &mut Desk) -> Result<Option<Ticket>> {
        let present = if side == LEAD { &mut self.lead } else { &mut self.trail };
        if present.as_ref().is_some_and(|block| block.has(position)) {
            return Ok(None);
        }
        *present = None;
        self.values.seek(side, position.max(self.values.position(side)));
        let block = match self.values.at(side, desk)? {
            At::Block(block) => block,
            At::Blocked(ticket) => return Ok(Some(ticket)),
            At::End => return Ok(None),
        };
        let arguments = self.arguments(&block.batch);
        if side == LEAD {
            self.fold.lead(&arguments)?;
            self.window.lead_start = block.start;
            self.lead = Some(block);
        } else {
            self.fold.trail(&arguments)?;
            self.window.trail_start = block.start;
            self.trail = Some(block);
        }
        Ok(None)
    }

    /// Adds and takes out rows up to where the frame at hand is within one batch at each end.
    fn approach(&mut self, low: u64, high: u64, desk: &mut Desk) -> Result<Option<Ticket>> {
        while self.window.lead < high {
            if let Some(ticket) = self.load(LEAD, self.window.lead, desk)? {
                return Ok(Some(ticket));
            }
            let Some(block) = &self.lead else { break };
            if high <= block.end {
                break;
            }
            self.fold.add((self.window.lead - block.start) as usize, (block.end - block.start) as usize)?;
            self.window.lead = block.end;
            self.settle(desk);
        }
        while self.trails && self.window.trail < low {
            if let Some(ticket) = self.load(TRAIL, self.window.trail, desk)? {
                return Ok(Some(ticket));
            }
            let Some(block) = &self.trail else { break };
            if low <= block.end {
                break;
            }
            self.fold.retract((self.window.trail - block.start) as usize, (block.end - block.start) as usize)?;
            self.window.trail = block.end;
        }
        Ok(None)
    }

    fn settle(&mut self, desk: &mut Desk) {
        desk.hold(&mut self.held, self.fold.bytes());
    }

    /// Results of frames that end and begin in the present batches.
    fn slide(&mut self, frames: &Frames, desk: &mut Desk) -> Result<Option<Ticket>> {
        let total = frames.lows.len();
        while self.done < total {
            let fresh = frames.fresh.partition_point(|(row, _)| *row < self.done);
            let mut end = total;
            if let Some((row, start)) = frames.fresh.get(fresh) {
                if *row > self.done {
                    end = *row;
                } else {
                    if self.window.lead < *start || self.window.trail < *start {
                        self.fold.reset()?;
                        (self.window.lead, self.window.trail) = (*start, *start);
                    } else if self.window.lead == *start {
                        self.fold.reset()?;
                        self.window.trail = *start;
                    }
                    end = frames.fresh.get(fresh + 1).map_or(total, |(row, _)| *row);
                }
            }
            if let Some(ticket) = self.approach(frames.lows[self.done], frames.highs[self.done], desk)? {
                return Ok(Some(ticket));
            }
            let lead_end = self.lead.as_ref().map_or(0, |block| block.end).max(self.window.lead);
            let trail_end = if self.trails {
                self.trail.as_ref().map_or(0, |block| block.end).max(self.window.trail)
            } else {
                self.window.trail_start = self.window.trail;
                u64::MAX
            };
            let fits = |at: &usize| frames.highs[*at] <= lead_end && frames.lows[*at] <= trail_end;
            let until = (self.done..end).find(|at| !fits(at)).unwrap_or(end);
            if until == self.done {
                return Err(OperatorError::new("a frame of a window reaches beyond the rows of its partition"));
            }
            let (lows, highs) = (&frames.lows[self.done..until], &frames.highs[self.done..until]);
            self.fold.slide(&mut self.window, lows, highs)?;
            self.done = until;
        }
        Ok(None)
    }
}

impl Ahead for Sliding {
    fn arrive(&mut self, arrival: &Arrival<'_>, desk: &mut Desk) -> Result<()> {
        let Arguments { mut columns, mask } = self.aggregated.evaluate(arrival.rows)?;
        columns.extend(mask.map(|mask| Arc::new(mask) as ArrayRef));
        let options = RecordBatchOptions::new().with_row_count(Some(arrival.rows.num_rows()));
        let batch = RecordBatch::try_new_with_options(Arc::clone(self.values.schema()), columns, &options)?;
        desk.claim(&batch);
        self.values.push(batch, desk)?;
        self.finder.arrive(arrival, None, desk)
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
        let before = self.done;
        let waits = self.slide(&frames, desk)?;
        self.settle(desk);
        if self.done > before {
            let values = self.fold.output()?;
            self.results.push(values, desk)?;
        }
        if self.done < frames.lows.len() {
            self.frames = Some(frames);
        }
        // Rows that were passed need not stay.
        let lead = self.window.lead.min(self.values.end());
        self.values.seek(LEAD, lead.max(self.values.position(LEAD)));
        let trail = if self.trails && self.window.trail < lead { self.window.trail } else { lead };
        self.values.seek(TRAIL, trail.max(self.values.position(TRAIL)));
        for (cursor, block) in [(LEAD, &mut self.lead), (TRAIL, &mut self.trail)] {
            if block.as_ref().is_some_and(|block| !block.has(self.values.position(cursor))) {
                *block = None;
            }
        }
        Ok(waits.map_or(Progress::More, Progress::Blocked))
    }

    fn results(&mut self) -> &mut Results {
        &mut self.results
    }

    fn spill(&mut self, bytes: usize, desk: &Desk) -> Result<bool> {
        Ok(self.results.spill(bytes, desk)? | self.values.spill(bytes, desk)? | self.finder.spill(bytes, desk)?)
    }
}
