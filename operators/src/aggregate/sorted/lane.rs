//! One lane at its end: sorted rows become groups one after the other, and groups become batches of results.

use std::collections::VecDeque;
use std::sync::Arc;

use aqueduct_runtime::Result;
use aqueduct_runtime::batch::{array_bytes, batch_bytes};
use aqueduct_runtime::io::Ticket;
use aqueduct_runtime::memory::Reservation;
use aqueduct_runtime::state::{ExternalSorter, Next, SpillingVecReader};
use arrow::array::{Array, ArrayRef, DynComparator, UInt32Array, make_comparator};
use arrow::compute::{SortOptions, cast, concat, take};
use arrow::datatypes::{DataType, SchemaRef};
use arrow::record_batch::RecordBatch;
use datafusion_common::ScalarValue;

use super::super::buckets::own;
use super::super::describe::{Aggregate, shaped};
use super::group::{Group, Home, Picking, one_row};
use super::layout::{Lane, Layout};
use crate::expression::failed;

/// Results that are kept as single values before they become an array.
const SINGLE_VALUES: usize = 256;

/// What a lane answers.
pub(super) enum LaneStep {
    Batch(RecordBatch),
    Blocked(Ticket),
    /// There is more to do, but not in this step.
    Pause,
    End,
}

/// Reads the groups of one lane.
pub(super) struct Reader {
    aggregate: Arc<Aggregate>,
    layout: Arc<Layout>,
    lane: usize,
    keys: usize,
    home: Home,
    sorter: ExternalSorter,
    /// Sorted rows that wait until the group before them is done with.
    pending: Option<RecordBatch>,
    group: Option<Group>,
    /// The group that has ended last, until its results are there.
    ending: Option<Ending>,
    /// The keys of the row before.
    last_key: Vec<ArrayRef>,
    output: Output,
    ended: bool,
}

/// How far a group is that has ended.
enum Ending {
    /// Its lists are to be paid for.
    Paying(Group),
    /// Rows that were kept become lists.
    Feeding(Group, SpillingVecReader),
    Picking(Picking),
}

/// Groups that are done with, and the keys of one that is not, perhaps.
struct Output {
    schema: SchemaRef,
    keys: Vec<Vec<ArrayRef>>,
    values: Vec<Vec<ScalarValue>>,
    results: Vec<Vec<ArrayRef>>,
    types: Vec<DataType>,
    groups: usize,
    bytes: usize,
    /// What large results are paid with until they are emitted.
    held: Vec<Reservation>,
    most_rows: usize,
    most_bytes: usize,
    ready: VecDeque<RecordBatch>,
}

impl Reader {
    /// A reader of what `sorter` has, as batches of `schema`: the keys and the results of the lane.
    pub(super) fn new(
        (aggregate, layout, lane): (Arc<Aggregate>, Arc<Layout>, usize),
        home: Home,
        sorter: ExternalSorter,
        schema: SchemaRef,
        (most_rows, most_bytes): (usize, usize),
    ) -> Self {
        let keys = aggregate.key_types().len();
        let functions = layout.lanes[lane].functions.len();
        let types = schema.fields()[keys..].iter().map(|field| field.data_type().clone()).collect();
        let output = Output {
            schema,
            keys: vec![Vec::new(); keys],
            values: vec![Vec::new(); functions],
            results: vec![Vec::new(); functions],
            types,
            groups: 0,
            bytes: 0,
            held: Vec::new(),
            most_rows,
            most_bytes,
            ready: VecDeque::new(),
        };
        Self {
            aggregate,
            layout,
            lane,
            keys,
            home,
            sorter,
            pending: None,
            group: None,
            ending: None,
            last_key: Vec::new(),
            output,
            ended: false,
        }
    }

    pub(super) fn next(&mut self) -> Result<LaneStep> {
        loop {
            if let Some(batch) = self.output.ready.pop_front() {
                return Ok(LaneStep::Batch(batch));
            }
            if let Some(ending) = self.ending.take() {
                if let Some(wait) = self.go_on_ending(ending)? {
                    return Ok(wait);
                }
                continue;
            }
            if let Some(missing) = self.group.as_mut().and_then(Group::settle) {
                return Ok(LaneStep::Blocked(self.home.memory.wait_for(missing)?));
            }
            if let Some(batch) = self.pending.take() {
                self.take_in(batch)?;
                return Ok(LaneStep::Pause);
            }
            if self.ended {
                if self.output.groups == 0 {
                    return Ok(LaneStep::End);
                }
                self.output.flush()?;
                continue;
            }
            match self.sorter.next()? {
                Next::Batch(batch) => self.pending = Some(batch),
                Next::Blocked(ticket) => return Ok(LaneStep::Blocked(ticket)),
                Next::End => {
                    self.ended = true;
                    if self.group.is_some() {
                        self.end_group()?;
                    }
                }
            }
        }
    }

    /// Brings a group that has ended nearer to its results; what the step ends with, if it does.
    fn go_on_ending(&mut self, ending: Ending) -> Result<Option<LaneStep>> {
        let lane = &self.layout.lanes[self.lane];
        let (ending, step) = match ending {
            Ending::Paying(mut group) => match group.pay()? {
                Some(missing) => {
                    let ticket = self.home.memory.wait_for(missing)?;
                    (Ending::Paying(group), Some(LaneStep::Blocked(ticket)))
                }
                None => match group.take_kept() {
                    Some(kept) => (Ending::Feeding(group, kept), None),
                    None => (self.picking(group)?, None),
                },
            },
            Ending::Feeding(mut group, mut kept) => match group.settle() {
                Some(missing) => {
                    let ticket = self.home.memory.wait_for(missing)?;
                    (Ending::Feeding(group, kept), Some(LaneStep::Blocked(ticket)))
                }
                None => match kept.next()? {
                    Next::Batch(batch) => {
                        group.feed_kept(lane, &batch, self.keys)?;
                        (Ending::Feeding(group, kept), Some(LaneStep::Pause))
                    }
                    Next::Blocked(ticket) => (Ending::Feeding(group, kept), Some(LaneStep::Blocked(ticket))),
                    Next::End => (self.picking(group)?, None),
                },
            },
            Ending::Picking(mut picking) => match picking.read()? {
                Some(ticket) => (Ending::Picking(picking), Some(LaneStep::Blocked(ticket))),
                None => {
                    let results = picking.results(lane)?;
                    let held = picking.take_held();
                    drop(picking);
                    self.output.add(results, held)?;
                    return Ok(None);
                }
            },
        };
        self.ending = Some(ending);
        Ok(step)
    }

    fn picking(&self, group: Group) -> Result<Ending> {
        let data_type = self.lane().schema.field(self.keys).data_type();
        Ok(Ending::Picking(group.end(self.lane(), data_type)?))
    }

    fn lane(&self) -> &Lane {
        &self.layout.lanes[self.lane]
    }

    /// Takes in sorted rows, up to the end of a group whose values have to be read back first.
    fn take_in(&mut self, batch: RecordBatch) -> Result<()> {
        let rows = batch.num_rows();
        let columns = &batch.columns()[..self.keys];
        let options = SortOptions::default();
        let within = columns.iter().map(|column| make_comparator(column, column, options));
        let within = within.collect::<Result<Vec<_>, _>>()?;
        let mut start = 0;
        if let Some(group) = &mut self.group {
            let same = self.last_key.iter().zip(columns).map(|(last, column)| {
                let compare = make_comparator(last, column, options)?;
                Ok(compare(0, 0).is_eq())
            });
            let same = same.collect::<Result<Vec<bool>>>()?.into_iter().all(|same| same);
            start = if same { run_end(&within, 0, rows) } else { 0 };
            if start > 0 {
                group.take_in(&self.layout.lanes[self.lane], &batch.slice(0, start), self.keys, true)?;
            }
            if start == rows {
                return Ok(());
            }
            self.end_group()?;
            if self.ending.is_some() {
                self.pending = Some(batch.slice(start, rows - start));
                return Ok(());
            }
        }
        let mut starts = Vec::new();
        while start < rows {
            let end = run_end(&within, start, rows);
            let mut group = Group::new(&self.home, self.lane(), &self.aggregate)?;
            starts.push(start as u32);
            group.take_in(self.lane(), &batch.slice(start, end - start), self.keys, end == rows)?;
            self.group = Some(group);
            if end < rows {
                self.end_group()?;
            }
            start = end;
        }
        self.last_key = columns.iter().map(|column| one_row(column, rows - 1)).collect::<Result<_>>()?;
        self.output.add_keys(columns, starts)
    }

    /// Ends the group; its results are there at once unless something has to be read or paid for.
    fn end_group(&mut self) -> Result<()> {
        let Some(group) = self.group.take() else { return Ok(()) };
        self.ending = Some(if group.keeps() { Ending::Paying(group) } else { self.picking(group)? });
        if let Some(Ending::Picking(picking)) = &self.ending
            && !picking.reads()
            && let Some(ending) = self.ending.take()
        {
            self.go_on_ending(ending)?;
        }
        Ok(())
    }

    pub(super) fn spill(&mut self, bytes: usize) -> Result<usize> {
        let mut freed = match (&mut self.ending, &mut self.group) {
            (Some(Ending::Paying(group)), _) | (None, Some(group)) => group.spill(bytes)?,
            (Some(Ending::Feeding(group, kept)), _) => group.spill(bytes)? + kept.spill(bytes)?,
            (Some(Ending::Picking(picking)), _) => picking.spill(bytes)?,
            (None, None) => 0,
        };
        if freed == 0 {
            freed = self.sorter.spill(bytes)?;
        }
        Ok(freed)
    }
}

/// The end of the rows whose keys are those of row `start`.
fn run_end(within: &[DynComparator], start: usize, rows: usize) -> usize {
    let same = |row: usize| within.iter().all(|compare| compare(start, row).is_eq());
    // Twice as far each time, then in between.
    let (mut known, mut step) = (start, 1);
    while known + step < rows && same(known + step) {
        known += step;
        step *= 2;
    }
    let mut end = rows.min(known + step);
    while known + 1 < end {
        let middle = known + (end - known) / 2;
        if same(middle) {
            known = middle;
        } else {
            end = middle;
        }
    }
    known + 1
}

impl Output {
    fn add_keys(&mut self, columns: &[ArrayRef], starts: Vec<u32>) -> Result<()> {
        let starts = UInt32Array::from(starts);
        for (pieces, column) in self.keys.iter_mut().zip(columns) {
            if !starts.is_empty() {
                let piece = take(column, &starts, None)?;
                self.bytes += array_bytes(&piece);
                pieces.push(piece);
            }
        }
        if self.groups >= self.most_rows || self.bytes >= self.most_bytes / 2 {
            self.flush()?;
        }
        Ok(())
    }

    fn add(&mut self, results: Vec<ScalarValue>, held: Reservation) -> Result<()> {
        self.groups += 1;
        if held.bytes() > self.most_bytes / 4 {
            self.bytes += held.bytes();
            self.held.push(held);
        }
        for (values, result) in self.values.iter_mut().zip(results) {
            values.push(result);
        }
        if self.values.first().is_some_and(|values| values.len() >= SINGLE_VALUES) { self.pack() } else { Ok(()) }
    }

    /// Turns single values into arrays.
    fn pack(&mut self) -> Result<()> {
        for ((values, pieces), data_type) in self.values.iter_mut().zip(&mut self.results).zip(&self.types) {
            if values.is_empty() {
                continue;
            }
            let array = ScalarValue::iter_to_array(std::mem::take(values)).map_err(failed)?;
            // A column of nulls alone does not know its type.
            let array = if array.data_type() == data_type { array } else { cast(&array, data_type)? };
            self.bytes += array_bytes(&array);
            pieces.push(array);
        }
        Ok(())
    }

    /// Makes batches of the groups that are done with.
    fn flush(&mut self) -> Result<()> {
        self.pack()?;
        let rows = std::mem::take(&mut self.groups);
        if rows == 0 {
            return Ok(());
        }
        self.bytes = 0;
        let mut columns = Vec::with_capacity(self.keys.len() + self.results.len());
        for pieces in &mut self.keys {
            let all = joined(&std::mem::take(pieces))?;
            if all.len() > rows {
                pieces.push(one_row(&all, rows)?);
            }
            columns.push(all.slice(0, rows));
        }
        for pieces in &mut self.results {
            columns.push(joined(&std::mem::take(pieces))?);
        }
        let batch = shaped(&self.schema, columns, rows)?;
        let most = (rows / batch_bytes(&batch).div_ceil(self.most_bytes.max(1)).max(1)).clamp(1, self.most_rows);
        for start in (0..rows).step_by(most) {
            let piece = batch.slice(start, most.min(rows - start));
            self.ready.push_back(if most == rows { piece } else { own(piece) });
        }
        self.held.clear();
        Ok(())
    }
}

fn joined(pieces: &[ArrayRef]) -> Result<ArrayRef> {
    match pieces {
        [one] => Ok(Arc::clone(one)),
        many => Ok(concat(&many.iter().map(AsRef::as_ref).collect::<Vec<_>>())?),
    }
}
