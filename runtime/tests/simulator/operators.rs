//! Operators as a user would write them, with state in each of the containers.

use std::sync::Arc;

use aqueduct_runtime::state::{
    ExternalSorter, LaneMerge, LaneStep, MapReader, Next, NextChunk, SortColumn, SpillingMap, SpillingVec,
    SpillingVecReader, StateValue,
};
use aqueduct_runtime::{Operator, OperatorContext, OperatorError, OperatorSpec, Outbox, Port, PortSet, Result, Step};
use arrow::array::{ArrayRef, AsArray, Float64Array, Int64Array};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use serde::{Deserialize, Serialize};

fn same_columns(inputs: &[SchemaRef]) -> Result<SchemaRef> {
    inputs.first().cloned().ok_or_else(|| OperatorError::new("needs an input"))
}

fn numbers(batch: &RecordBatch) -> &Int64Array {
    batch.column(0).as_primitive::<Int64Type>()
}

/// Forwards all of its inputs as they come.
#[derive(Debug)]
pub(crate) struct Union(pub(crate) usize);

impl OperatorSpec for Union {
    fn name(&self) -> &str {
        "union"
    }

    fn inputs(&self) -> usize {
        self.0
    }

    fn reads_all_ports(&self) -> bool {
        true
    }

    fn output_schema(&self, _output: usize, inputs: &[SchemaRef]) -> Result<SchemaRef> {
        same_columns(inputs)
    }

    fn instantiate(&self, _context: OperatorContext) -> Result<Box<dyn Operator>> {
        Ok(Box::new(Forward { left: usize::MAX }))
    }
}

/// Forwards so many rows, and needs no more.
#[derive(Debug)]
pub(crate) struct Limit(pub(crate) usize);

impl OperatorSpec for Limit {
    fn name(&self) -> &str {
        "limit"
    }

    fn output_schema(&self, _output: usize, inputs: &[SchemaRef]) -> Result<SchemaRef> {
        same_columns(inputs)
    }

    fn instantiate(&self, _context: OperatorContext) -> Result<Box<dyn Operator>> {
        Ok(Box::new(Forward { left: self.0 }))
    }

    fn keeps_order(&self) -> bool {
        true
    }
}

struct Forward {
    left: usize,
}

impl Operator for Forward {
    fn process(&mut self, _port: Port, batch: RecordBatch, out: &mut Outbox) -> Result<Step> {
        let rows = batch.num_rows().min(self.left);
        self.left -= rows;
        out.push(batch.slice(0, rows));
        Ok(if self.left == 0 { Step::Done } else { Step::NeedInput })
    }
}

/// Holds all rows in a vector until its input has ended, then gives them out.
#[derive(Debug)]
pub(crate) struct Hold;

impl OperatorSpec for Hold {
    fn name(&self) -> &str {
        "hold"
    }

    fn output_schema(&self, _output: usize, inputs: &[SchemaRef]) -> Result<SchemaRef> {
        same_columns(inputs)
    }

    fn instantiate(&self, context: OperatorContext) -> Result<Box<dyn Operator>> {
        Ok(Box::new(Held::Coming(context.spilling_vec(Arc::clone(&context.inputs[0])))))
    }

    fn min_memory(&self, batch_bytes: usize) -> usize {
        SpillingVec::min_memory(batch_bytes)
    }

    fn emits_after_input(&self) -> bool {
        true
    }
}

enum Held {
    Coming(SpillingVec),
    Going(SpillingVecReader),
    Nothing,
}

impl Operator for Held {
    fn process(&mut self, _port: Port, batch: RecordBatch, _out: &mut Outbox) -> Result<Step> {
        if let Held::Coming(rows) = self {
            rows.push(batch)?;
        }
        Ok(Step::NeedInput)
    }

    fn finish(&mut self, _port: Port, out: &mut Outbox) -> Result<Step> {
        if let Held::Coming(rows) = std::mem::replace(self, Held::Nothing) {
            *self = Held::Going(rows.drain());
        }
        self.resume(out)
    }

    fn resume(&mut self, out: &mut Outbox) -> Result<Step> {
        let Held::Going(rows) = self else { return Ok(Step::NeedInput) };
        Ok(match rows.next()? {
            Next::Batch(batch) => {
                out.push(batch);
                Step::MoreOutput
            }
            Next::Blocked(ticket) => Step::Blocked(ticket),
            Next::End => Step::NeedInput,
        })
    }

    fn spill(&mut self, bytes: usize) -> Result<usize> {
        match self {
            Held::Coming(rows) => rows.spill(bytes),
            Held::Going(rows) => rows.spill(bytes),
            Held::Nothing => Ok(0),
        }
    }
}

/// Sorts by the first column, downwards.
#[derive(Debug)]
pub(crate) struct Sort;

fn downwards() -> [SortColumn; 1] {
    [SortColumn { column: 0, options: arrow::compute::SortOptions { descending: true, nulls_first: false } }]
}

impl OperatorSpec for Sort {
    fn name(&self) -> &str {
        "sort"
    }

    fn output_schema(&self, _output: usize, inputs: &[SchemaRef]) -> Result<SchemaRef> {
        same_columns(inputs)
    }

    fn instantiate(&self, context: OperatorContext) -> Result<Box<dyn Operator>> {
        Ok(Box::new(Sorting { sorter: context.sorter(Arc::clone(&context.inputs[0]), &downwards())?, ended: false }))
    }

    fn min_memory(&self, batch_bytes: usize) -> usize {
        ExternalSorter::min_memory(batch_bytes)
    }

    fn emits_after_input(&self) -> bool {
        true
    }
}

struct Sorting {
    sorter: ExternalSorter,
    ended: bool,
}

impl Operator for Sorting {
    fn process(&mut self, _port: Port, batch: RecordBatch, _out: &mut Outbox) -> Result<Step> {
        self.sorter.push(batch)?;
        self.settle()
    }

    fn finish(&mut self, _port: Port, out: &mut Outbox) -> Result<Step> {
        self.ended = true;
        self.resume(out)
    }

    fn resume(&mut self, out: &mut Outbox) -> Result<Step> {
        if !self.ended {
            return self.settle();
        }
        Ok(match self.sorter.next()? {
            Next::Batch(batch) => {
                out.push(batch);
                Step::MoreOutput
            }
            Next::Blocked(ticket) => Step::Blocked(ticket),
            Next::End => Step::NeedInput,
        })
    }

    fn spill(&mut self, bytes: usize) -> Result<usize> {
        self.sorter.spill(bytes)
    }
}

impl Sorting {
    fn settle(&mut self) -> Result<Step> {
        Ok(self.sorter.settle()?.map_or(Step::NeedInput, Step::Blocked))
    }
}

/// Merges lanes that are sorted as [`Sort`] does.
#[derive(Debug)]
pub(crate) struct Merge;

impl OperatorSpec for Merge {
    fn name(&self) -> &str {
        "merge"
    }

    fn output_schema(&self, _output: usize, inputs: &[SchemaRef]) -> Result<SchemaRef> {
        same_columns(inputs)
    }

    fn instantiate(&self, context: OperatorContext) -> Result<Box<dyn Operator>> {
        let lanes: usize = context.lanes.iter().sum();
        let (schema, rows, bytes) = (Arc::clone(&context.inputs[0]), context.batch_rows, context.batch_bytes);
        let merge = LaneMerge::new(&context.memory, &schema, &downwards(), lanes, rows, bytes)?;
        Ok(Box::new(Merging(merge)))
    }

    fn min_memory(&self, batch_bytes: usize) -> usize {
        LaneMerge::min_memory(batch_bytes)
    }

    fn lane_memory(&self, batch_bytes: usize) -> usize {
        LaneMerge::lane_memory(batch_bytes)
    }

    fn reads_all_ports(&self) -> bool {
        false
    }
}

struct Merging(LaneMerge);

impl Operator for Merging {
    fn process(&mut self, port: Port, batch: RecordBatch, out: &mut Outbox) -> Result<Step> {
        self.0.push(port, batch)?;
        self.resume(out)
    }

    fn finish(&mut self, port: Port, out: &mut Outbox) -> Result<Step> {
        self.0.end(port);
        self.resume(out)
    }

    fn resume(&mut self, out: &mut Outbox) -> Result<Step> {
        Ok(match self.0.next()? {
            LaneStep::Batch(batch) => {
                out.push(batch);
                Step::MoreOutput
            }
            LaneStep::NeedInput => Step::NeedInput,
            LaneStep::End => Step::Done,
        })
    }

    fn ready(&self) -> PortSet {
        self.0.wanted()
    }
}

/// Counts and sums rows by the first column modulo a number of groups, and gives a mean.
#[derive(Debug)]
pub(crate) struct Means(pub(crate) i64);

#[derive(Debug, Default, Serialize, Deserialize)]
struct Group {
    count: i64,
    sum: f64,
}

impl StateValue for Group {
    fn merge(&mut self, later: Self) {
        self.count += later.count;
        self.sum += later.sum;
    }
}

impl OperatorSpec for Means {
    fn name(&self) -> &str {
        "means"
    }

    fn output_schema(&self, _output: usize, _inputs: &[SchemaRef]) -> Result<SchemaRef> {
        Ok(Arc::new(Schema::new(vec![
            Field::new("group", DataType::Int64, false),
            Field::new("count", DataType::Int64, false),
            Field::new("mean", DataType::Float64, false),
        ])))
    }

    fn instantiate(&self, context: OperatorContext) -> Result<Box<dyn Operator>> {
        let schema = self.output_schema(0, &[])?;
        let map = context.spilling_map(&[Arc::new(schema.field(0).clone())])?;
        Ok(Box::new(Grouping { schema, groups: self.0, state: Groups::Coming(map) }))
    }

    fn min_memory(&self, batch_bytes: usize) -> usize {
        SpillingMap::<Group>::min_memory(batch_bytes)
    }

    fn emits_after_input(&self) -> bool {
        true
    }
}

struct Grouping {
    schema: SchemaRef,
    groups: i64,
    state: Groups,
}

enum Groups {
    Coming(SpillingMap<Group>),
    Going(MapReader<Group>),
    Nothing,
}

impl Operator for Grouping {
    fn process(&mut self, _port: Port, batch: RecordBatch, _out: &mut Outbox) -> Result<Step> {
        let keys: ArrayRef = Arc::new(numbers(&batch).unary::<_, Int64Type>(|n| n % self.groups));
        if let Groups::Coming(map) = &mut self.state {
            map.update_batch(&[keys], |row, group| {
                group.count += 1;
                group.sum += numbers(&batch).value(row) as f64 * 0.1;
            })?;
        }
        Ok(Step::NeedInput)
    }

    fn finish(&mut self, _port: Port, out: &mut Outbox) -> Result<Step> {
        if let Groups::Coming(map) = std::mem::replace(&mut self.state, Groups::Nothing) {
            self.state = Groups::Going(map.drain());
        }
        self.resume(out)
    }

    fn resume(&mut self, out: &mut Outbox) -> Result<Step> {
        let Groups::Going(reader) = &mut self.state else { return Ok(Step::NeedInput) };
        Ok(match reader.next()? {
            NextChunk::Chunk(chunk) => {
                let counts = Int64Array::from_iter_values(chunk.values.iter().map(|group| group.count));
                let means =
                    Float64Array::from_iter_values(chunk.values.iter().map(|group| group.sum / group.count as f64));
                let columns: Vec<ArrayRef> = vec![Arc::clone(&chunk.keys[0]), Arc::new(counts), Arc::new(means)];
                out.push(RecordBatch::try_new(Arc::clone(&self.schema), columns)?);
                Step::MoreOutput
            }
            NextChunk::Blocked(ticket) => Step::Blocked(ticket),
            NextChunk::End => Step::NeedInput,
        })
    }

    fn spill(&mut self, bytes: usize) -> Result<usize> {
        match &mut self.state {
            Groups::Coming(map) => map.spill(bytes),
            Groups::Going(reader) => reader.spill(bytes),
            Groups::Nothing => Ok(0),
        }
    }
}
