//! One partition of a window operator: sorts, lets functions see the sorted rows, and lets rows leave with their
//! results.
//!
//! ```text
//! filling ──finish──▶ reading the sort ──▶ ending ──▶ ended
//! streaming ─────────────finish──────────────┘              (nothing to sort by)
//! ```
//!
//! Each turn does the first of these that can be done: the functions' work with what has arrived, letting a batch
//! leave, taking in the next sorted batch. So what has arrived is never more than one batch ahead of what can leave.

use std::collections::VecDeque;
use std::sync::Arc;

use aqueduct_runtime::batch::batch_bytes;
use aqueduct_runtime::io::Ticket;
use aqueduct_runtime::state::{ExternalSorter, Next};
use aqueduct_runtime::{Operator, OperatorContext, Outbox, Port, Result, Step};
use arrow::array::{ArrayRef, AsArray, BooleanArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Schema};
use arrow::record_batch::RecordBatch;

use super::Shared;
use super::aggregate::{Running, Runs, Sliding};
use super::ahead::{Ahead, Arrival, Progress};
use super::desk::Desk;
use super::function::Plan;
use super::held::Held;
use super::marks::{Boundaries, Marks};
use super::pick::Pick;
use super::rank::{PeerEnds, Ranking, Segment};
use super::tape::{At, Block, Tape};
use crate::aggregate::normalised;

/// Most bytes that one step writes.
const SPILL_BYTES: usize = 4 << 20;
/// Pieces of work of one step that emit nothing.
const TURNS: usize = 8;

/// One function at work.
enum Column {
    /// Computed as rows leave.
    Ranking(Ranking),
    Running(Running),
    /// Has its results before rows leave.
    Ahead(Box<dyn Ahead>),
    /// As before, and divided by the size of the partition.
    Fraction(Box<dyn Ahead>),
}

impl Column {
    fn new((plan, field): &(Plan, arrow::datatypes::FieldRef), desk: &Desk) -> Result<Self> {
        Ok(match plan {
            Plan::Place(place) => Column::Ranking(Ranking::new(*place)),
            Plan::CumeDist => Column::Fraction(Box::new(PeerEnds::new(desk))),
            Plan::Pick(picked) => Column::Ahead(Box::new(Pick::new(picked, field, desk))),
            Plan::Running(aggregated) => Column::Running(Running::new(aggregated, desk)?),
            Plan::Runs(aggregated, by_partition) => {
                Column::Ahead(Box::new(Runs::new(aggregated, *by_partition, field, desk)?))
            }
            Plan::Sliding(aggregated, shape) => Column::Ahead(Box::new(Sliding::new(aggregated, shape, field, desk)?)),
            Plan::Evaluate(evaluated) => Column::Ahead(Box::new(Held::new(evaluated, field, desk))),
        })
    }

    fn ahead(&mut self) -> Option<&mut dyn Ahead> {
        match self {
            Column::Ahead(ahead) | Column::Fraction(ahead) => Some(ahead.as_mut()),
            Column::Ranking(_) | Column::Running(_) => None,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Filling,
    /// Rows are taken as they come.
    Streaming,
    Reading,
    /// Everything has arrived.
    Ending,
    Ended,
}

pub(super) struct Instance {
    shared: Arc<Shared>,
    desk: Desk,
    phase: Phase,
    sorter: Option<ExternalSorter>,
    /// A batch that has come where nothing is sorted.
    coming: Option<RecordBatch>,
    boundaries: Boundaries,
    columns: Vec<Column>,
    /// Whether rows wait for the end of their partition, or for anything.
    needs_size: bool,
    waits: bool,
    /// Input columns, and behind them where peers begin.
    rows: Tape,
    /// Where partitions begin, from the one on that the next row to leave is in.
    starts: VecDeque<u64>,
    arrived: u64,
    ended: bool,
    leaving: Option<Leaving>,
}

/// A batch on its way out.
struct Leaving {
    block: Block,
    marks: Marks,
    segments: Vec<Segment>,
    columns: Vec<ArrayRef>,
}

impl Instance {
    pub(super) fn new(shared: Arc<Shared>, context: OperatorContext) -> Result<Self> {
        let mut desk = Desk::new(&context, shared.headroom_bytes(context.batch_bytes));
        desk.rows = Shared::rows(context.batch_bytes, desk.rows);
        let by = shared.sort_columns();
        let sorter = (!by.is_empty()).then(|| {
            let account = desk.account.part(ExternalSorter::min_memory(context.batch_bytes));
            let schema = Arc::clone(&shared.sorted);
            ExternalSorter::new(&account, &desk.spill, schema, &by, desk.rows, context.batch_bytes)
        });
        let mut fields = shared.input.fields().to_vec();
        fields.push(Arc::new(Field::new("peers", DataType::Boolean, false)));
        let mut columns = shared.plans.iter().map(|plan| Column::new(plan, &desk)).collect::<Result<Vec<_>>>()?;
        let needs_size = shared.plans.iter().any(|(plan, _)| plan.needs_size());
        let waits = needs_size || columns.iter_mut().any(|column| column.ahead().is_some());
        let order = shared.order_by.iter().map(|by| by.column).collect();
        Ok(Self {
            phase: if sorter.is_some() { Phase::Filling } else { Phase::Streaming },
            sorter: sorter.transpose()?,
            coming: None,
            boundaries: Boundaries::new(shared.partition_by.clone(), order),
            columns,
            needs_size,
            waits,
            rows: Tape::new(&desk, Arc::new(Schema::new(fields)), 1),
            starts: VecDeque::new(),
            arrived: 0,
            ended: false,
            leaving: None,
            shared,
            desk,
        })
    }

    fn turns(&mut self, out: &mut Outbox) -> Result<Step> {
        for _ in 0..TURNS {
            if self.phase == Phase::Filling || self.phase == Phase::Ended {
                return Ok(Step::NeedInput);
            }
            if !self.refill()? {
                return Ok(Step::Blocked(self.desk.turn()));
            }
            match self.turn(out)? {
                Some(step) => return Ok(step),
                None if out.is_empty() => {}
                None => return Ok(Step::MoreOutput),
            }
        }
        Ok(Step::MoreOutput)
    }

    /// Does one piece of work; the step that ends with it, if one does.
    fn turn(&mut self, out: &mut Outbox) -> Result<Option<Step>> {
        let mut blocked = None;
        let mut worked = false;
        for column in &mut self.columns {
            let Some(ahead) = column.ahead() else { continue };
            match ahead.advance(&mut self.desk)? {
                Progress::Idle => {}
                Progress::More => worked = true,
                Progress::Blocked(ticket) => blocked = Some(ticket),
            }
        }
        if let Some(ticket) = self.leave(out)? {
            blocked = Some(ticket);
        }
        if worked || !out.is_empty() {
            return Ok(None);
        }
        if let Some(ticket) = blocked {
            return Ok(Some(Step::Blocked(ticket)));
        }
        match self.phase {
            Phase::Streaming => match self.coming.take() {
                Some(batch) => self.arrive(batch, out)?,
                None => return Ok(Some(Step::NeedInput)),
            },
            Phase::Reading => {
                let next = self.sorter.as_mut().map_or(Ok(Next::End), ExternalSorter::next)?;
                match next {
                    Next::Batch(batch) => self.arrive(batch, out)?,
                    Next::Blocked(ticket) => return Ok(Some(Step::Blocked(ticket))),
                    Next::End => {
                        self.sorter = None;
                        self.end()?;
                    }
                }
            }
            Phase::Ending | Phase::Filling | Phase::Ended => {
                self.phase = Phase::Ended;
                return Ok(Some(Step::NeedInput));
            }
        }
        Ok(None)
    }

    /// Makes sure that a piece of work finds its memory; `false` if that is still to go on.
    fn refill(&mut self) -> Result<bool> {
        if self.desk.try_refill() {
            return Ok(true);
        }
        if self.make_room(SPILL_BYTES / 4)? {
            // Much of it may be done at once: only the disk is waited for.
            return Ok(self.desk.spill.backlog().is_none() && self.desk.try_refill());
        }
        self.desk.make_do()?;
        Ok(true)
    }

    /// Writes up to `bytes` of what waits; whether there was anything.
    fn make_room(&mut self, bytes: usize) -> Result<bool> {
        let held = self.desk.account.held_in_all();
        let freed = |desk: &Desk| held.saturating_sub(desk.account.held_in_all()) >= bytes;
        let mut any = self.rows.spill(bytes, &self.desk)?;
        for column in &mut self.columns {
            if freed(&self.desk) {
                return Ok(true);
            }
            if let Some(ahead) = column.ahead() {
                any |= ahead.spill(bytes, &self.desk)?;
            }
        }
        if !freed(&self.desk)
            && let Some(sorter) = &mut self.sorter
        {
            any |= sorter.spill(bytes)? > 0;
        }
        Ok(any)
    }

    /// Takes in the next sorted rows.
    fn arrive(&mut self, batch: RecordBatch, out: &mut Outbox) -> Result<()> {
        let rows = batch.num_rows();
        if rows == 0 {
            return Ok(());
        }
        let marks = self.boundaries.marks(&batch)?;
        let start = self.arrived;
        self.arrived += rows as u64;
        self.starts.extend(marks.partitions.iter().map(|row| start + u64::from(*row)));
        for column in &mut self.columns {
            if let Some(ahead) = column.ahead() {
                ahead.arrive(&Arrival { rows: &batch, marks: &marks, start }, &mut self.desk)?;
            }
        }
        let mut kept = batch.columns()[..self.shared.input.fields().len()].to_vec();
        let mut peers = vec![false; rows];
        marks.peers.iter().for_each(|row| peers[*row as usize] = true);
        kept.push(Arc::new(BooleanArray::from(peers)));
        let kept = RecordBatch::try_new(Arc::clone(self.rows.schema()), kept)?;
        self.desk.claim(&kept);
        if self.waits {
            self.rows.push(kept, &mut self.desk)?;
            return Ok(());
        }
        let block = Block { start, end: self.arrived, batch: kept };
        let segments = self.segments(&block);
        let mut leaving = Leaving { block, marks, segments, columns: Vec::new() };
        self.fill(&mut leaving)?;
        self.emit(leaving, out)
    }

    fn end(&mut self) -> Result<()> {
        self.ended = true;
        self.starts.push_back(self.arrived);
        for column in &mut self.columns {
            if let Some(ahead) = column.ahead() {
                ahead.end(&mut self.desk)?;
            }
        }
        self.phase = Phase::Ending;
        Ok(())
    }

    /// Lets the oldest batch leave if all of it can; what it waits for, if anything.
    fn leave(&mut self, out: &mut Outbox) -> Result<Option<Ticket>> {
        let mut leaving = match self.leaving.take() {
            Some(leaving) => leaving,
            None => {
                let position = self.rows.position(0);
                let mut resolved = match (self.needs_size && !self.ended, self.starts.back()) {
                    (true, Some(open)) => *open,
                    (true, None) => 0,
                    (false, _) => self.arrived,
                };
                for column in &mut self.columns {
                    if let Some(ahead) = column.ahead() {
                        resolved = resolved.min(ahead.results().resolved());
                    }
                }
                if resolved <= position {
                    return Ok(None);
                }
                let block = match self.rows.at(0, &mut self.desk)? {
                    At::Block(block) => block,
                    At::Blocked(ticket) => return Ok(Some(ticket)),
                    At::End => return Ok(None),
                };
                if block.end > resolved {
                    return Ok(None);
                }
                let segments = self.segments(&block);
                let peers = block.batch.column(self.shared.input.fields().len()).as_boolean().values();
                let marks = Marks {
                    partitions: segments.iter().filter(|one| one.begins).map(|one| one.from as u32).collect(),
                    peers: peers.set_indices().map(|row| row as u32).collect(),
                };
                Leaving { block, marks, segments, columns: Vec::new() }
            }
        };
        if let Some(ticket) = self.fill(&mut leaving)? {
            self.leaving = Some(leaving);
            return Ok(Some(ticket));
        }
        let end = leaving.block.end;
        self.emit(leaving, out)?;
        self.rows.seek(0, end);
        Ok(None)
    }

    /// The partitions of a block, which is the next to leave.
    fn segments(&mut self, block: &Block) -> Vec<Segment> {
        let mut segments = Vec::new();
        let mut at = block.start;
        while at < block.end {
            let first = self.starts.front().copied().unwrap_or(0);
            let next = self.starts.get(1).copied();
            let end = next.unwrap_or(block.end).min(block.end);
            let size = next.map_or(0, |next| next - first);
            let (from, to) = ((at - block.start) as usize, (end - block.start) as usize);
            segments.push(Segment { from, to, begins: first == at, size });
            at = end;
            if next == Some(end) {
                self.starts.pop_front();
            }
        }
        segments
    }

    /// Computes or fetches the columns that are still missing; what it waits for, if anything.
    fn fill(&mut self, leaving: &mut Leaving) -> Result<Option<Ticket>> {
        let Leaving { block, marks, segments, columns } = leaving;
        let rows = block.batch.num_rows();
        while let Some(column) = self.columns.get_mut(columns.len()) {
            let values = match column {
                Column::Ranking(ranking) => ranking.column(rows, marks, segments),
                Column::Running(running) => running.column(&block.batch, marks, &mut self.desk)?,
                Column::Ahead(ahead) => match ahead.results().take(rows, &mut self.desk)? {
                    Ok(values) => values,
                    Err(ticket) => return Ok(Some(ticket)),
                },
                Column::Fraction(ahead) => match ahead.results().take(rows, &mut self.desk)? {
                    Ok(ends) => PeerEnds::fractions(&ends, segments),
                    Err(ticket) => return Ok(Some(ticket)),
                },
            };
            columns.push(values);
        }
        Ok(None)
    }

    fn emit(&mut self, leaving: Leaving, out: &mut Outbox) -> Result<()> {
        let schema = &self.shared.output;
        let inputs = self.shared.input.fields().len();
        let mut columns = leaving.block.batch.columns()[..inputs].to_vec();
        for (values, field) in leaving.columns.into_iter().zip(&schema.fields()[inputs..]) {
            let same = values.data_type() == field.data_type();
            columns.push(if same { values } else { cast(&values, field.data_type())? });
        }
        let batch = RecordBatch::try_new(Arc::clone(schema), columns)?;
        out.push(batch);
        Ok(())
    }
}

impl Operator for Instance {
    fn process(&mut self, _port: Port, batch: RecordBatch, out: &mut Outbox) -> Result<Step> {
        let mut columns = batch.columns().to_vec();
        let keys = self.shared.normalised.iter().map(|column| normalised(ArrayRef::clone(batch.column(*column))));
        columns.extend(keys);
        let options = arrow::record_batch::RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        // A sorter keeps what nobody else has without a copy.
        drop(batch);
        let batch = RecordBatch::try_new_with_options(Arc::clone(&self.shared.sorted), columns, &options)?;
        match &mut self.sorter {
            Some(sorter) => {
                sorter.push(batch)?;
                Ok(Step::NeedInput)
            }
            None => {
                self.coming = Some(batch);
                self.turns(out)
            }
        }
    }

    fn resume(&mut self, out: &mut Outbox) -> Result<Step> {
        self.turns(out)
    }

    fn finish(&mut self, _port: Port, out: &mut Outbox) -> Result<Step> {
        if self.sorter.is_some() {
            self.phase = Phase::Reading;
        } else {
            self.end()?;
        }
        self.turns(out)
    }

    fn spill(&mut self, bytes: usize) -> Result<usize> {
        let held = self.desk.account.held_in_all();
        let bytes = bytes.min(SPILL_BYTES);
        while self.make_room(bytes)? {
            let freed = held.saturating_sub(self.desk.account.held_in_all());
            if freed > 0 {
                return Ok(freed);
            }
        }
        Ok(0)
    }

    fn step_bytes(&self, _port: Port, batch: &RecordBatch) -> usize {
        // Where in the order each row is; keys that are made equal; the rest is the sorter's to reserve.
        2 * batch_bytes(batch) + (16 + 8 * self.shared.normalised.len()) * batch.num_rows()
    }
}
