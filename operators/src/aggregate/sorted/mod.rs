//! Aggregation of sorted rows, for functions that would have to hold all values of a group: medians, percentiles
//! and distinct aggregates. A group may be larger than memory.
//!
//! ```text
//! rows ─▶ AggregateArguments ─▶ keys and arguments ─▶ exchange ─▶ SortedAggregate ─▶ keys and results
//!                                                                   a sort by keys and argument for each
//!                                                                   argument that needs one: a lane
//! ```
//!
//! Lanes are read one after the other, each with all the memory that there is. The results of several lanes
//! are put side by side at the end. Where memory is plenty, nothing is sorted: see `direct`.

mod direct;
mod group;
mod lane;
mod layout;
mod nth;
mod zip;

use std::collections::VecDeque;
use std::sync::Arc;

use aqueduct_runtime::batch::batch_bytes;
use aqueduct_runtime::io::Ticket;
use aqueduct_runtime::memory::{Account, Reservation};
use aqueduct_runtime::state::{ExternalSorter, SpillingVec};
use aqueduct_runtime::{Operator, OperatorContext, OperatorError, OperatorSpec, Outbox, Port, Result, Step};
use arrow::datatypes::{Schema, SchemaRef};
use arrow::record_batch::RecordBatch;

use self::direct::{Direct, Hashed};
use self::group::Home;
use self::lane::{LaneStep, Reader};
use self::layout::Layout;
use self::zip::{Zip, ZipStep};
use super::buckets::{own, piece_rows};
use super::describe::{Aggregate, Function, shaped};
use super::table::Emitted;
use crate::expression::same_types;

/// Most bytes of a frame that small batches are written in together.
const FRAME_BYTES: usize = 256 << 10;
/// Most bytes that one step writes.
const SPILL_BYTES: usize = 4 << 20;

/// Computes the keys and arguments of rows that are to be sorted: goes before the exchange to a
/// [`SortedAggregate`], by [`Aggregate::group_column_names`].
#[derive(Debug, Clone)]
pub struct AggregateArguments {
    aggregate: Arc<Aggregate>,
    layout: Arc<Layout>,
}

/// Aggregates rows of [`AggregateArguments`] whose groups may each be larger than memory.
#[derive(Debug, Clone)]
pub struct SortedAggregate {
    aggregate: Arc<Aggregate>,
    layout: Arc<Layout>,
}

impl SortedAggregate {
    /// An aggregation by sorting; `None` if no function of `aggregate` has to hold all values of a group, or if
    /// the rows cannot be sorted.
    ///
    /// # Errors
    ///
    /// If an expression does not fit the input.
    pub fn try_new(aggregate: Arc<Aggregate>) -> Result<Option<Self>> {
        let layout = Layout::of(&aggregate)?;
        Ok(layout.map(|layout| Self { aggregate, layout: Arc::new(layout) }))
    }

    /// What its input has to go through.
    pub fn arguments(&self) -> AggregateArguments {
        AggregateArguments { aggregate: Arc::clone(&self.aggregate), layout: Arc::clone(&self.layout) }
    }
}

impl OperatorSpec for AggregateArguments {
    fn name(&self) -> &str {
        "aggregate arguments"
    }

    fn output_schema(&self, _output: usize, inputs: &[SchemaRef]) -> Result<SchemaRef> {
        self.aggregate.check_input(&inputs[0], true)?;
        Ok(Arc::clone(&self.layout.schema))
    }

    fn instantiate(&self, context: OperatorContext) -> Result<Box<dyn Operator>> {
        self.aggregate.check_input(&context.inputs[0], true)?;
        Ok(Box::new(self.clone()))
    }

    fn keeps_order(&self) -> bool {
        true
    }
}

impl Operator for AggregateArguments {
    fn process(&mut self, _port: Port, batch: RecordBatch, out: &mut Outbox) -> Result<Step> {
        let mut columns = self.aggregate.keys(&batch)?;
        columns.extend(self.layout.evaluate(&batch)?);
        out.push(shaped(&self.layout.schema, columns, batch.num_rows())?);
        Ok(Step::NeedInput)
    }

    fn step_bytes(&self, _port: Port, batch: &RecordBatch) -> usize {
        batch_bytes(batch) + 16 * self.layout.schema.fields().len() * batch.num_rows()
    }
}

impl OperatorSpec for SortedAggregate {
    fn name(&self) -> &str {
        "sorted aggregate"
    }

    fn output_schema(&self, _output: usize, inputs: &[SchemaRef]) -> Result<SchemaRef> {
        self.check_input(&inputs[0])?;
        Ok(self.aggregate.output_schema())
    }

    fn instantiate(&self, context: OperatorContext) -> Result<Box<dyn Operator>> {
        self.check_input(&context.inputs[0])?;
        Ok(Box::new(SortedInstance::new(self, context)?))
    }

    fn min_memory(&self, batch_bytes: usize) -> usize {
        let lanes = self.layout.lanes.len();
        let zipped = if lanes > 1 { lanes * vec_bytes(batch_bytes) } else { 0 };
        ExternalSorter::min_memory(batch_bytes)
            + self.output_bytes(batch_bytes)
            + vec_bytes(batch_bytes)
            + self.aggregate.group_bytes()
            + zipped
            + self.list_bytes(batch_bytes)
    }

    fn detail(&self) -> String {
        self.aggregate.detail()
    }
}

impl SortedAggregate {
    fn check_input(&self, found: &Schema) -> Result<()> {
        if same_types(&self.layout.schema, found) {
            return Ok(());
        }
        let expected = &self.layout.schema;
        Err(OperatorError::new(format!("the aggregation was planned over {expected} and its input has {found}")))
    }

    /// Bytes of lists that are paid for before they are made: of values that any other operator would take at its floor.
    fn list_bytes(&self, batch_bytes: usize) -> usize {
        let lists = self.layout.lanes.iter().flat_map(|lane| &lane.functions).any(|function| function.lists);
        if lists { 2 * batch_bytes } else { 0 }
    }

    /// Bytes of results before they are emitted.
    fn output_bytes(&self, batch_bytes: usize) -> usize {
        // Keys, results and their batch; single values before they are packed.
        3 * batch_bytes + (32 << 10) * self.aggregate.functions().len() + (32 << 10)
    }
}

/// Bytes of a frame of a vector.
fn frame_bytes(batch_bytes: usize) -> usize {
    FRAME_BYTES.min(2 * batch_bytes)
}

/// Bytes that it takes to read from a vector on disk.
fn vec_bytes(batch_bytes: usize) -> usize {
    SpillingVec::min_memory(frame_bytes(batch_bytes))
}

struct SortedInstance {
    spec: SortedAggregate,
    context: OperatorContext,
    phase: Phase,
    /// Rows that need no sort as long as memory is plenty.
    direct: Option<Direct>,
    /// Sorters of lanes that are still to be read.
    sorters: VecDeque<ExternalSorter>,
    rows: usize,
    /// For the sorters together: one lane is read at a time, and the others are on disk by then.
    sorting: Account,
    /// For the values of a group that are read back.
    reading: Account,
    /// Results of lanes that were read, if there are several.
    done: Vec<SpillingVec>,
    /// What results will need.
    output: Reservation,
}

enum Phase {
    Filling,
    /// A table is made of the rows that were kept.
    Hashing,
    /// The results of that table.
    Emitting {
        emitted: Emitted,
        next: usize,
        step: usize,
    },
    /// Rows that were kept go to the sort.
    Handing,
    /// Lanes but one go to disk, so that the one has the memory.
    Clearing,
    Reading(Box<Reader>),
    Zipping(Zip),
    Ended,
}

impl SortedInstance {
    fn new(spec: &SortedAggregate, context: OperatorContext) -> Result<Self> {
        let keys = spec.aggregate.key_types().len();
        let sorting = context.memory.part(ExternalSorter::min_memory(context.batch_bytes));
        let reading = context.memory.part(vec_bytes(context.batch_bytes));
        let sorters = spec.layout.lanes.iter().map(|lane| {
            let (schema, columns) = (Arc::clone(&lane.schema), lane.sort_columns(keys));
            let (rows, bytes) = (context.batch_rows, context.batch_bytes);
            ExternalSorter::new(&sorting, &context.spill, schema, &columns, rows, bytes)
        });
        Ok(Self {
            sorters: sorters.collect::<Result<_>>()?,
            spec: spec.clone(),
            phase: Phase::Filling,
            direct: Direct::new(&spec.aggregate, &spec.layout, &context.memory),
            rows: 0,
            sorting,
            reading,
            done: Vec::new(),
            output: context.memory.reservation(),
            context,
        })
    }

    /// Fields of what lane `lane` yields: the keys, and the results of its functions.
    fn lane_schema(&self, lane: usize) -> SchemaRef {
        let aggregate = &self.spec.aggregate;
        let keys = aggregate.key_types().len();
        let functions = &self.spec.layout.lanes[lane].functions;
        let mut fields = self.spec.layout.schema.fields()[..keys].to_vec();
        let results = aggregate.output_schema();
        fields.extend(functions.iter().map(|function| Arc::clone(&results.fields()[keys + function.index])));
        Arc::new(Schema::new(fields))
    }

    fn advance(&mut self, out: &mut Outbox) -> Result<Step> {
        let several = self.spec.layout.lanes.len() > 1;
        match &mut self.phase {
            Phase::Filling | Phase::Ended => Ok(Step::NeedInput),
            Phase::Hashing => {
                self.phase = match self.direct.as_mut().map(Direct::hash).transpose()? {
                    Some(Hashed::More) => Phase::Hashing,
                    Some(Hashed::Refused) => Phase::Handing,
                    Some(Hashed::Done(emitted)) => {
                        let step = piece_rows(&emitted, self.context.batch_bytes).min(self.context.batch_rows.max(1));
                        Phase::Emitting { emitted, next: 0, step }
                    }
                    None => Phase::Clearing,
                };
                Ok(Step::MoreOutput)
            }
            Phase::Emitting { emitted, next, step } => {
                let (rows, start) = (emitted.rows(), *next);
                let end = rows.min(start + *step);
                if start < rows {
                    let batch = self.spec.aggregate.output_batch(emitted.piece(start..end)?, end - start)?;
                    out.push(if end - start == rows { batch } else { own(batch) });
                    *next = end;
                }
                if end == rows {
                    self.phase = Phase::Ended;
                    self.direct = None;
                    return Ok(Step::NeedInput);
                }
                Ok(Step::MoreOutput)
            }
            Phase::Handing => {
                if !self.hand_over()? {
                    self.direct = None;
                    self.phase = Phase::Clearing;
                }
                Ok(Step::MoreOutput)
            }
            Phase::Clearing => {
                if several {
                    for sorter in self.sorters.iter_mut().skip(usize::from(self.done.is_empty())) {
                        if sorter.spill(SPILL_BYTES)? > 0 {
                            return Ok(self.pause());
                        }
                    }
                }
                // It is within the floor.
                self.output.set(self.spec.output_bytes(self.context.batch_bytes));
                self.next_lane()
            }
            Phase::Reading(reader) => match reader.next()? {
                LaneStep::Batch(batch) if !several => {
                    // One lane has the functions in an order of its own.
                    out.push(self.in_order(&[batch])?);
                    Ok(Step::MoreOutput)
                }
                LaneStep::Batch(batch) => {
                    let Some(done) = self.done.last_mut() else { return Ok(Step::MoreOutput) };
                    done.push(batch)?;
                    Ok(self.pause())
                }
                LaneStep::Blocked(ticket) => Ok(Step::Blocked(ticket)),
                LaneStep::Pause => Ok(Step::MoreOutput),
                LaneStep::End => self.next_lane(),
            },
            Phase::Zipping(zip) => match zip.next()? {
                ZipStep::Batches(batches) => {
                    out.push(self.in_order(&batches)?);
                    Ok(Step::MoreOutput)
                }
                ZipStep::Blocked(ticket) => Ok(Step::Blocked(ticket)),
                ZipStep::End => {
                    self.phase = Phase::Ended;
                    Ok(Step::NeedInput)
                }
            },
        }
    }

    /// Gives one of the batches that were kept to the sort; `false` if there is none.
    fn hand_over(&mut self) -> Result<bool> {
        let Some(direct) = self.direct.as_mut() else { return Ok(false) };
        direct.close();
        let Some(batch) = direct.pop() else { return Ok(false) };
        self.sort(&batch)?;
        Ok(true)
    }

    /// Adds rows to the lanes.
    fn sort(&mut self, batch: &RecordBatch) -> Result<()> {
        for lane in 0..self.sorters.len() {
            let rows = batch.project(&self.spec.layout.lanes[lane].columns)?;
            if self.sorters.len() > 1 {
                self.make_room(lane, 4 * batch_bytes(&rows).min(self.sorting.floor() / 16))?;
            }
            self.sorters[lane].push(rows)?;
        }
        Ok(())
    }

    fn pause(&self) -> Step {
        self.context.spill.backlog().map_or_else(|| Step::Blocked(Ticket::new("working").0), Step::Blocked)
    }

    fn next_lane(&mut self) -> Result<Step> {
        let lanes = self.spec.layout.lanes.len();
        let memory = self.context.memory.clone();
        // The reader before gives back what it has.
        self.phase = Phase::Ended;
        let Some(sorter) = self.sorters.pop_front() else {
            if lanes > 1 {
                self.output.shrink(self.output.bytes() / 2);
                self.phase = Phase::Zipping(Zip::new(self.done.drain(..), self.spec.aggregate.key_types().len()));
                return Ok(Step::MoreOutput);
            }
            return Ok(Step::NeedInput);
        };
        let lane = lanes - 1 - self.sorters.len();
        let schema = self.lane_schema(lane);
        if lanes > 1 {
            self.done.push(
                self.context.spilling_vec(Arc::clone(&schema)).with_piece_bytes(frame_bytes(self.context.batch_bytes)),
            );
        }
        let keys = self.spec.aggregate.key_types().len();
        let home = Home {
            memory,
            reading: self.reading.clone(),
            spill: self.context.spill.clone(),
            schema: Arc::new(self.spec.layout.lanes[lane].schema.project(&[keys])?),
            rows: Arc::clone(&self.spec.layout.lanes[lane].schema),
            piece_bytes: frame_bytes(self.context.batch_bytes),
        };
        let most = (self.context.batch_rows.max(1), self.context.batch_bytes);
        let of = (Arc::clone(&self.spec.aggregate), Arc::clone(&self.spec.layout), lane);
        self.phase = Phase::Reading(Box::new(Reader::new(of, home, sorter, schema, most)));
        Ok(Step::MoreOutput)
    }

    /// A batch of output of one batch of each lane, whose groups are the same.
    fn in_order(&self, lanes: &[RecordBatch]) -> Result<RecordBatch> {
        let aggregate = &self.spec.aggregate;
        let keys = aggregate.key_types().len();
        let rows = lanes.first().map_or(0, RecordBatch::num_rows);
        let mut columns: Vec<_> = lanes.iter().take(1).flat_map(|batch| &batch.columns()[..keys]).cloned().collect();
        for index in 0..aggregate.functions().len() {
            for (lane, batch) in self.spec.layout.lanes.iter().zip(lanes) {
                let place = lane.functions.iter().position(|function| function.index == index);
                columns.extend(place.map(|place| Arc::clone(batch.column(keys + place))));
            }
        }
        aggregate.output_batch(columns, rows)
    }

    /// Makes the other lanes leave room for `bytes` of lane `lane`.
    fn make_room(&mut self, lane: usize, bytes: usize) -> Result<()> {
        while self.sorting.room() < bytes {
            let others = self.sorters.iter_mut().enumerate().filter(|(other, _)| *other != lane);
            let mut freed = 0;
            for (_, sorter) in others {
                freed += sorter.spill(bytes.max(SPILL_BYTES / 4))?;
            }
            if freed == 0 {
                break;
            }
        }
        Ok(())
    }
}

impl Operator for SortedInstance {
    fn process(&mut self, _port: Port, batch: RecordBatch, _out: &mut Outbox) -> Result<Step> {
        self.rows += batch.num_rows();
        let rest = match &mut self.direct {
            Some(direct) => direct.keep(batch),
            None => Some(batch),
        };
        if let Some(batch) = rest {
            self.sort(&batch)?;
            // What was kept follows bit by bit.
            self.hand_over()?;
        }
        Ok(Step::NeedInput)
    }

    fn resume(&mut self, out: &mut Outbox) -> Result<Step> {
        self.advance(out)
    }

    fn finish(&mut self, _port: Port, out: &mut Outbox) -> Result<Step> {
        if self.rows == 0 {
            self.phase = Phase::Ended;
            if self.spec.aggregate.key_types().is_empty() {
                let functions = self.spec.aggregate.functions().iter();
                let columns = functions.map(Function::of_nothing).collect::<Result<Vec<_>>>()?;
                out.push(self.spec.aggregate.output_batch(columns, 1)?);
            }
            return Ok(Step::NeedInput);
        }
        self.phase = match &self.direct {
            Some(direct) if !direct.is_closed() => Phase::Hashing,
            Some(_) => Phase::Handing,
            None => Phase::Clearing,
        };
        self.advance(out)
    }

    fn spill(&mut self, bytes: usize) -> Result<usize> {
        let freed = match &mut self.phase {
            Phase::Reading(reader) => reader.spill(bytes)?,
            Phase::Zipping(zip) => return zip.spill(bytes),
            Phase::Hashing => {
                self.phase = Phase::Handing;
                0
            }
            // The table is on its way out.
            Phase::Emitting { .. } => return Ok(0),
            Phase::Filling | Phase::Handing | Phase::Clearing | Phase::Ended => 0,
        };
        if freed > 0 {
            return Ok(freed);
        }
        if self.direct.is_some() {
            let before = self.context.memory.excess();
            let freed = |this: &Self| before.saturating_sub(this.context.memory.excess());
            while freed(self) < bytes.min(SPILL_BYTES) && self.hand_over()? {
                for sorter in &mut self.sorters {
                    sorter.spill(SPILL_BYTES)?;
                }
            }
            if freed(self) > 0 {
                return Ok(freed(self));
            }
        }
        for sorter in self.sorters.iter_mut().rev() {
            match sorter.spill(bytes)? {
                0 => {}
                freed => return Ok(freed),
            }
        }
        for done in &mut self.done {
            match done.spill(bytes)? {
                0 => {}
                freed => return Ok(freed),
            }
        }
        Ok(0)
    }

    fn step_bytes(&self, _port: Port, batch: &RecordBatch) -> usize {
        // The copy of one lane at a time, and where in the order each row is; the rest is the sorter's to reserve.
        batch_bytes(batch) + 16 * batch.num_rows()
    }
}
