//! Reads one row group: pages are loaded, predicate columns decoded first, the others only where a row is wanted.
//!
//! Rows are taken in runs of as many as make one batch. A run is done with before the next begins, so that memory is
//! for the pages of one run, and what can be had beside it for those ahead.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use aqueduct_runtime::batch::batch_bytes;
use aqueduct_runtime::io::{Pending, Ticket};
use aqueduct_runtime::{OperatorError, Result, SourceContext};
use arrow::array::{Array, ArrayRef, AsArray, BooleanArray};
use arrow::compute::{cast, filter_record_batch};
use arrow::datatypes::{Field, Schema, SchemaRef};
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use parquet::column::page::Page;

use super::error::{ParquetFileError, guarded};
use super::group::Opened;
use super::lane::SharedLane;
use super::load::{Loaded, Loader, Stop, Walker};
use super::pot::{Held, MemoryWait, Pot};
use super::predicate::{Predicate, dictionary_type};
use super::rows::Rows;
use super::scan::{Counts, Shared};
use super::sizes::row_bytes;
use crate::csv::poll;

/// Runs of rows whose pages are loaded before they are wanted.
const RUNS_AHEAD: u64 = 3;

/// A row group as it is read.
pub(crate) struct Reading {
    shared: Arc<Shared>,
    context: SourceContext,
    pot: Pot,
    file: usize,
    row_group: usize,
    /// The rows of it that were asked for.
    whole: Range<u64>,
    ranges: VecDeque<Range<u64>>,
    at: u64,
    /// Columns of the predicate, or all of them if there is none.
    first: Rows,
    /// The other columns, if there are any.
    rest: Option<Rows>,
    predicate: Option<Predicate>,
    /// Of a batch before keys of dictionaries are texts again.
    schema: SchemaRef,
    /// What was found of the run at hand: the first columns, and which of the rows are wanted.
    found: Option<(RecordBatch, Option<BooleanArray>)>,
    /// Rows of a run.
    run_rows: usize,
    /// The last run had a row that is wanted.
    hit: bool,
    loading: Option<Pending<Vec<Filled>>>,
    waiting: Option<MemoryWait>,
    /// Bytes that were waited for.
    wanted_bytes: usize,
}

/// What one turn came to.
pub(crate) enum Turn {
    /// Rows that are wanted, and whether they have no more bytes than there should be.
    Batch(RecordBatch, bool),
    /// Rows were looked at, and none was wanted.
    Nothing,
    Wait(Ticket),
    /// The row group is read.
    End,
}

/// A lane to be filled up to a row.
struct Fill {
    lane: SharedLane,
    walker: Walker,
    from: u64,
    to: u64,
}

/// What became of that.
struct Filled {
    lane: SharedLane,
    walker: Walker,
    dictionary: Option<(Page, Held)>,
    pages: Vec<Loaded>,
    stop: Option<Stop>,
}

impl Reading {
    pub(crate) fn new(
        shared: Arc<Shared>,
        context: SourceContext,
        pot: Pot,
        whole: (usize, usize, Range<u64>),
        opened: Opened,
    ) -> Result<Self> {
        let (file, row_group) = (whole.0, whole.1);
        let about = &shared.table.files[file];
        let chunk = |leaf: usize| {
            let chunk = opened.chunks.iter().find(|(index, _)| *index == leaf);
            Arc::clone(&chunk.expect("every leaf that is read was opened").1)
        };
        let make = |columns: &[usize]| {
            guarded(|| Rows::new(about, row_group, columns, chunk)).map_err(|reason| ParquetFileError::Damaged {
                file: about.path.clone(),
                row_group,
                column: None,
                reason,
            })
        };
        let (first, rest) = match &shared.filter {
            None => (make(&shared.projection_once())?, None),
            Some(filter) => {
                let mut others = shared.projection_once();
                others.retain(|column| !filter.columns.contains(column));
                (make(&filter.columns)?, if others.is_empty() { None } else { Some(make(&others)?) })
            }
        };
        let predicate = shared.filter.as_ref().map(|filter| Predicate::new(filter, &first.dictionaries)).transpose()?;
        let schema = packed(&shared, &first.dictionaries);
        let rows = about.metadata.row_group(row_group).num_rows() as u64;
        let row_bytes: usize = opened.chunks.iter().map(|(_, chunk)| row_bytes(&chunk.meta, rows)).sum();
        let run_rows = (context.batch_bytes / row_bytes.max(1)).clamp(1, context.batch_rows.max(1));
        let ranges: VecDeque<_> = opened.ranges.into_iter().filter(|range| !range.is_empty()).collect();
        let at = ranges.front().map_or(0, |range| range.start);
        Ok(Self {
            shared,
            context,
            pot,
            file,
            row_group,
            whole: whole.2,
            ranges,
            at,
            first,
            rest,
            predicate,
            schema,
            found: None,
            run_rows,
            hit: true,
            loading: None,
            waiting: None,
            wanted_bytes: 0,
        })
    }

    /// Goes on by one run of rows, or says what is waited for.
    pub(crate) fn turn(&mut self, budget_bytes: usize) -> Result<Turn> {
        if let Some(waiting) = &self.waiting {
            if !waiting.ticket().is_done() {
                return Ok(Turn::Wait(waiting.ticket()));
            }
            self.waiting = None;
            if !self.pot.set_aside(self.wanted_bytes) {
                return Ok(self.wait());
            }
        }
        let (to, end) = loop {
            match self.ranges.front() {
                None => {
                    if let Some(ticket) = self.settle_loading()? {
                        return Ok(Turn::Wait(ticket));
                    }
                    self.pot.give_back();
                    return Ok(Turn::End);
                }
                Some(range) if self.at < range.end => {
                    break ((self.at + self.run_rows as u64).min(range.end), range.end);
                }
                Some(_) => {
                    self.ranges.pop_front();
                    self.at = self.ranges.front().map_or(self.at, |range| range.start);
                }
            }
        };
        if self.found.is_none() {
            if let Some(wait) = self.ensure(false, to)? {
                return Ok(wait);
            }
            let batch = self.decode(false, end)?;
            Counts::add(&self.shared.counts.rows_decoded, batch.num_rows() as u64);
            let mask = match &mut self.predicate {
                None => None,
                Some(predicate) => {
                    let columns = predicate.columns.iter().map(|column| self.first.array(&batch, *column));
                    let columns = columns.collect::<Result<Vec<_>>>()?;
                    let mask = predicate.mask(&columns, batch.num_rows())?;
                    if mask.true_count() == 0 {
                        self.hit = false;
                        if self.rest.is_some() {
                            Counts::add(&self.shared.counts.rows_late, batch.num_rows() as u64);
                        }
                        self.at = to;
                        self.first.settle();
                        return Ok(Turn::Nothing);
                    }
                    (mask.true_count() < mask.len()).then_some(mask)
                }
            };
            self.hit = true;
            self.found = Some((batch, mask));
        }
        let mut late = None;
        if self.rest.is_some() {
            if let Some(wait) = self.ensure(true, to)? {
                return Ok(wait);
            }
            late = Some(self.decode(true, end)?);
        }
        let (batch, mask) = self.found.take().ok_or_else(|| OperatorError::new("a run of rows is missing"))?;
        let columns = self.shared.projection.iter().map(|column| match (&self.rest, &late) {
            (Some(rest), Some(late)) if rest.columns.contains(column) => rest.array(late, *column),
            _ => self.first.array(&batch, *column),
        });
        let rows = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        let schema = Arc::clone(&self.schema);
        let all = RecordBatch::try_new_with_options(schema, columns.collect::<Result<_>>()?, &rows)?;
        self.at = to;
        let fits = self.adapt(&all, budget_bytes);
        let wanted = match mask {
            Some(mask) => filter_record_batch(&all, &mask)?,
            None => all,
        };
        let wanted = self.unpacked(wanted)?;
        self.first.settle();
        self.rest.iter().for_each(Rows::settle);
        self.load_ahead();
        Ok(Turn::Batch(wanted, fits))
    }

    /// `batch` with texts in the place of keys of dictionaries.
    fn unpacked(&self, batch: RecordBatch) -> Result<RecordBatch> {
        let schema = &self.shared.schema;
        if Arc::ptr_eq(schema, &self.schema) {
            return Ok(batch);
        }
        let columns = batch.columns().iter().zip(schema.fields());
        let columns = columns.map(|(column, field)| match column.data_type() == field.data_type() {
            true => Ok(Arc::clone(column)),
            false => cast(column, field.data_type()),
        });
        Ok(RecordBatch::try_new(Arc::clone(schema), columns.collect::<std::result::Result<_, _>>()?)?)
    }

    /// Decodes the run at hand, whose pages are loaded.
    fn decode(&mut self, late: bool, end: u64) -> Result<RecordBatch> {
        let rows = match &mut self.rest {
            Some(rest) if late => rest,
            _ => &mut self.first,
        };
        let run_rows = (end - self.at).min(self.run_rows as u64) as usize;
        if rows.lanes.is_empty() {
            let options = RecordBatchOptions::new().with_row_count(Some(run_rows));
            let schema = Arc::new(arrow::datatypes::Schema::empty());
            return Ok(RecordBatch::try_new_with_options(schema, vec![], &options)?);
        }
        guarded(|| rows.read(self.at, self.run_rows, end)).map_err(|reason| self.damaged(reason))
    }

    fn damaged(&self, reason: String) -> OperatorError {
        let file = self.shared.table.files[self.file].path.clone();
        ParquetFileError::Damaged { file, row_group: self.row_group, column: None, reason }.into()
    }

    /// Changes the number of rows of a run where rows are much longer or shorter than was thought; says whether this
    /// run was short enough.
    fn adapt(&mut self, batch: &RecordBatch, budget_bytes: usize) -> bool {
        // A key of four bytes becomes a view of sixteen.
        let keys = batch.columns().iter().filter(|column| column.as_any_dictionary_opt().is_some()).count();
        let packed = if Arc::ptr_eq(&self.schema, &self.shared.schema) { 0 } else { keys };
        let bytes = batch_bytes(batch) + 12 * packed * batch.num_rows();
        let row_bytes = (bytes / batch.num_rows().max(1)).max(1);
        let fitting = (budget_bytes / row_bytes).clamp(1, self.context.batch_rows.max(1));
        if fitting < self.run_rows * 4 / 5 || fitting >= self.run_rows * 2 {
            self.run_rows = fitting;
        }
        bytes <= budget_bytes
    }

    /// All that is left to read is loaded, or being loaded.
    pub(crate) fn is_loaded(&self) -> bool {
        let end = self.ranges.back().map_or(self.at, |range| range.end);
        self.loading.is_none() && self.ranges.len() <= 1 && !self.first.wants_ahead(end)
    }

    /// What was asked for: file, row group, rows.
    pub(crate) fn whole(&self) -> (usize, usize, Range<u64>) {
        (self.file, self.row_group, self.whole.clone())
    }

    /// Memory is waited for.
    pub(crate) fn is_short(&self) -> bool {
        self.waiting.is_some()
    }

    /// Sees to it that the pages of the run are loaded; says what is waited for.
    fn ensure(&mut self, late: bool, to: u64) -> Result<Option<Turn>> {
        loop {
            let (at, until) = (self.at, self.ahead(to));
            let rows = match &mut self.rest {
                Some(rest) if late => rest,
                _ => &mut self.first,
            };
            if rows.covers(to) {
                return Ok(None);
            }
            if let Some(ticket) = self.settle_loading()? {
                return Ok(Some(Turn::Wait(ticket)));
            }
            if self.waiting.is_some() {
                return Ok(Some(self.wait()));
            }
            let rows = match &mut self.rest {
                Some(rest) if late => rest,
                _ => &mut self.first,
            };
            if rows.covers(to) {
                return Ok(None);
            }
            rows.pass(at);
            let needed = fills(rows, at, to);
            let ahead = fills(rows, at, until);
            self.load(needed, ahead)?;
        }
    }

    /// Loads what will be wanted soon, if nothing is being loaded.
    pub(crate) fn load_ahead(&mut self) {
        if self.loading.is_some() || self.waiting.is_some() || self.ranges.is_empty() {
            return;
        }
        let until = self.ahead(self.at);
        let near = (self.at + 2 * self.run_rows as u64).min(until);
        let late = self.rest.as_ref().filter(|_| self.hit);
        if !self.first.wants_ahead(near) && !late.is_some_and(|rest| rest.wants_ahead(near)) {
            return;
        }
        let mut ahead = fills(&self.first, self.at, until);
        ahead.extend(late.iter().flat_map(|rest| fills(rest, self.at, until)));
        // A file that cannot be opened is an error once its pages are wanted.
        let _ = self.load(vec![], ahead);
    }

    /// The last row that is worth loading while the run ends at `to`.
    fn ahead(&self, to: u64) -> u64 {
        let end = self.ranges.front().map_or(to, |range| range.end);
        to.saturating_add(RUNS_AHEAD * self.run_rows as u64).min(end).max(to)
    }

    fn load(&mut self, needed: Vec<Fill>, ahead: Vec<Fill>) -> Result<()> {
        let files = &self.shared.table.files;
        let loader = Loader {
            handle: self.shared.handles.get(files, self.file)?,
            table: Arc::clone(&self.shared.table),
            index: self.file,
            pot: self.pot.clone(),
            counts: Arc::clone(&self.shared.counts),
        };
        self.loading = Some(self.context.io.run("reading", move || fill_all(&loader, needed, ahead)));
        Ok(())
    }

    /// Takes in what was loaded; the ticket of what is still being loaded.
    fn settle_loading(&mut self) -> Result<Option<Ticket>> {
        let Some(pending) = self.loading.take() else { return Ok(None) };
        let filled = match poll(pending)? {
            Ok(filled) => filled,
            Err(pending) => {
                let ticket = pending.ticket().clone();
                self.loading = Some(pending);
                return Ok(Some(ticket));
            }
        };
        let mut short = None;
        for filled in filled {
            let mut lane = filled.lane.lock();
            lane.walker = filled.walker;
            if filled.dictionary.is_some() {
                lane.dictionary = filled.dictionary;
            }
            lane.pages.extend(filled.pages);
            match filled.stop {
                None => {}
                Some(Stop::Failed(error)) => return Err(error),
                Some(Stop::Memory { bytes, column }) => short = Some((bytes, column)),
            }
        }
        if let Some((bytes, column)) = short {
            self.run_short(bytes, column)?;
        }
        Ok(None)
    }

    /// A page does not fit: all is let go of, and what it takes together is waited for.
    fn run_short(&mut self, bytes: usize, column: String) -> Result<()> {
        let memory = &self.context.memory;
        let needed_bytes = self.pot.used().saturating_add(bytes).max(self.wanted_bytes.saturating_add(1));
        if needed_bytes > memory.most() {
            let others_bytes = memory.pool().charged().saturating_sub(memory.held());
            return Err(ParquetFileError::PageTooLarge {
                file: self.shared.table.files[self.file].path.clone(),
                row_group: self.row_group,
                column,
                needed_bytes,
                available_bytes: memory.most(),
                // A plan for a larger limit sets aside more in floors, up to half of it.
                sufficient_limit_bytes: 2 * (others_bytes + needed_bytes),
            }
            .into());
        }
        self.first.clear();
        self.rest.iter_mut().for_each(Rows::clear);
        self.predicate.iter_mut().for_each(Predicate::forget);
        self.wanted_bytes = needed_bytes;
        if !self.pot.set_aside(needed_bytes) {
            self.wait();
        }
        Ok(())
    }

    fn wait(&mut self) -> Turn {
        let memory = &self.context.memory;
        let missing = self.wanted_bytes.saturating_sub(memory.held().max(memory.floor()));
        let waiting = self.waiting.insert(MemoryWait::new(memory, missing.max(1)));
        Turn::Wait(waiting.ticket())
    }
}

impl Rows {
    /// The table's `column` of a batch that was read.
    fn array(&self, batch: &RecordBatch, column: usize) -> Result<ArrayRef> {
        let index = self.columns.iter().position(|own| *own == column);
        let array = index.and_then(|index| batch.columns().get(index));
        array.map(Arc::clone).ok_or_else(|| OperatorError::new(format!("column {column} was not read")))
    }
}

/// The schema that is emitted, with keys of dictionaries where the table's columns `dictionaries` are.
fn packed(shared: &Shared, dictionaries: &[usize]) -> SchemaRef {
    if !shared.projection.iter().any(|column| dictionaries.contains(column)) {
        return Arc::clone(&shared.schema);
    }
    let fields = shared.projection.iter().zip(shared.schema.fields()).map(|(column, field)| {
        if dictionaries.contains(column) {
            Arc::new(Field::clone(field).with_data_type(dictionary_type()))
        } else {
            Arc::clone(field)
        }
    });
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// What the lanes lack of the rows before `to`.
fn fills(rows: &Rows, from: u64, to: u64) -> Vec<Fill> {
    let lacking = rows.lanes.iter().filter(|(_, lane)| !lane.lock().covers(to));
    lacking.map(|(_, lane)| Fill { lane: Arc::clone(lane), walker: lane.lock().walker.clone(), from, to }).collect()
}

/// Loads what is needed, and then what may be, where there is memory to spare.
fn fill_all(loader: &Loader, needed: Vec<Fill>, ahead: Vec<Fill>) -> Vec<Filled> {
    let mut all: Vec<Filled> = vec![];
    for fill in needed {
        let mut filled = Filled::begin(fill.lane, fill.walker);
        filled.stop = filled.fill(loader, fill.from, fill.to, false).err();
        let stopped = filled.stop.is_some();
        all.push(filled);
        if stopped {
            return all;
        }
    }
    for fill in ahead {
        let at = all.iter().position(|filled| Arc::ptr_eq(&filled.lane, &fill.lane));
        let at = at.unwrap_or_else(|| {
            all.push(Filled::begin(fill.lane, fill.walker));
            all.len() - 1
        });
        // What goes wrong here goes wrong again once it is needed.
        let _ = all[at].fill(loader, fill.from, fill.to, true);
    }
    all
}

impl Filled {
    fn begin(lane: SharedLane, walker: Walker) -> Self {
        Self { lane, walker, dictionary: None, pages: vec![], stop: None }
    }

    /// All that the rows before `row` need is there, as [`super::lane::Lane::covers`] has it.
    fn covers(&self, row: u64) -> bool {
        let walker = &self.walker;
        let ends_row = walker.chunk.aligned() || self.pages.last().is_some_and(|page| page.ends_row);
        walker.row > row || (walker.row == row && ends_row)
    }

    fn fill(&mut self, loader: &Loader, from: u64, to: u64, ahead: bool) -> std::result::Result<(), Stop> {
        if !self.walker.opened {
            self.dictionary = self.walker.open(loader)?;
        }
        if self.pages.is_empty() {
            self.walker.skip_to(loader, from)?;
        }
        while !self.covers(to) {
            match self.walker.next(loader, ahead)? {
                // A row that ends before the first one wanted is of no use; its page is let go of at once.
                Some(page) if page.row + page.rows <= from && page.rows > 0 && page.ends_row => {}
                Some(page) => self.pages.push(page),
                None if self.walker.row >= to => break,
                None => {
                    let reason =
                        format!("the column ends after {} of {} rows", self.walker.row, self.walker.chunk.rows);
                    return Err(loader.damaged(&self.walker.chunk, reason));
                }
            }
        }
        Ok(())
    }
}
