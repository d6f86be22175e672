//! One partition of a scan: takes the row groups of a split one by one.
//!
//! ```text
//! start ──> Idle ──> Opening ──> Reading ──> Idle ... ──> Done
//! ```
//!
//! Files are read on I/O threads, by at most one piece of work at a time; pages are decoded in the step. Every read
//! yields about one batch.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use aqueduct_runtime::batch::batch_bytes;
use aqueduct_runtime::io::{Pending, Ticket};
use aqueduct_runtime::{OperatorError, Outbox, Result, Source, SourceContext, SourceStep, Split};
use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{BinaryViewType, ByteViewType, DataType, StringViewType};
use arrow::record_batch::{RecordBatch, RecordBatchOptions};

use super::group::{Opened, open};
use super::pot::Pot;
use super::reading::{Reading, Turn};
use super::scan::{Shared, SplitRange};
use crate::csv::poll;

/// One partition.
pub(crate) struct Instance {
    shared: Arc<Shared>,
    context: SourceContext,
    /// Row groups of the split that are still to be read.
    queue: VecDeque<(usize, usize, Range<u64>)>,
    state: State,
    /// The row group that comes next, where there is memory for its first pages.
    next: State,
    /// What is left of a batch that was too large to be emitted whole.
    rest: Option<RecordBatch>,
    failed: bool,
}

enum State {
    Idle,
    Opening(Opening),
    Reading(Box<Reading>),
}

/// A row group that an I/O thread looks at.
struct Opening {
    file: usize,
    group: usize,
    rows: Range<u64>,
    /// Its pages have a pot of their own, so that what is ahead takes nothing from what is at hand.
    pot: Pot,
    pending: Pending<Result<Opened>>,
}

impl Instance {
    pub(crate) fn new(shared: Arc<Shared>, context: SourceContext) -> Self {
        let (state, next) = (State::Idle, State::Idle);
        Self { shared, context, queue: VecDeque::new(), state, next, rest: None, failed: false }
    }

    /// Begins to open the next row group of the split, if there is one.
    fn open_next(&mut self) -> State {
        let Some((file, group, rows)) = self.queue.pop_front() else { return State::Idle };
        let pot = Pot::new(&self.context.memory);
        let (shared, own, wanted) = (Arc::clone(&self.shared), pot.clone(), rows.clone());
        let pending = self.context.io.run("reading", move || {
            let handle = shared.handles.get(&shared.table.files, file)?;
            let opened = open(&shared, file, group, wanted, &handle, &own);
            // What was left out was left out by what the file says of itself.
            shared.table.files[file].check(&handle)?;
            Ok(opened)
        });
        State::Opening(Opening { file, group, rows, pot, pending })
    }

    /// Goes on from opening to reading; the ticket of what is still being opened.
    fn opened(&self, opening: Opening) -> Result<std::result::Result<State, (Opening, Ticket)>> {
        let Opening { file, group, rows, pot, pending } = opening;
        match poll(pending)? {
            Ok(opened) => {
                let opened = opened?;
                if opened.ranges.is_empty() {
                    return Ok(Ok(State::Idle));
                }
                let (shared, context) = (Arc::clone(&self.shared), self.context.clone());
                let reading = Reading::new(shared, context, pot, (file, group, rows), opened)?;
                Ok(Ok(State::Reading(Box::new(reading))))
            }
            Err(pending) => {
                let ticket = pending.ticket().clone();
                Ok(Err((Opening { file, group, rows, pot, pending }, ticket)))
            }
        }
    }

    /// Begins with the next row group while the last pages of this one are decoded.
    fn look_ahead(&mut self, loaded: bool) -> Result<()> {
        self.next = match std::mem::replace(&mut self.next, State::Idle) {
            State::Idle if loaded => self.open_next(),
            State::Idle => State::Idle,
            State::Opening(opening) => match self.opened(opening)? {
                Ok(State::Reading(mut reading)) => {
                    reading.load_ahead();
                    State::Reading(reading)
                }
                Ok(state) => state,
                Err((opening, _)) => State::Opening(opening),
            },
            reading @ State::Reading(_) => reading,
        };
        Ok(())
    }

    /// Lets go of what is ahead: the row group at hand is short of memory.
    fn put_back(&mut self) {
        let rest = match std::mem::replace(&mut self.next, State::Idle) {
            State::Idle => return,
            State::Opening(opening) => (opening.file, opening.group, opening.rows),
            State::Reading(reading) => reading.whole(),
        };
        self.queue.push_front(rest);
    }

    /// Emits `batch`, or its first rows if it has more than `budget_bytes`.
    fn emit(&mut self, batch: RecordBatch, fits: bool, budget_bytes: usize, out: &mut Outbox) {
        let rows = if fits { batch.num_rows() } else { fitting_rows(&batch, budget_bytes) };
        if rows < batch.num_rows() {
            self.rest = Some(batch.slice(rows, batch.num_rows() - rows));
            out.push(let_go(batch.slice(0, rows)));
        } else {
            out.push(let_go(batch));
        }
    }

    fn turn(&mut self, budget_bytes: usize, out: &mut Outbox) -> Result<SourceStep> {
        if let Some(batch) = self.rest.take() {
            self.emit(batch, false, budget_bytes, out);
            return Ok(SourceStep::More);
        }
        loop {
            match std::mem::replace(&mut self.state, State::Idle) {
                State::Idle => {
                    self.state = match std::mem::replace(&mut self.next, State::Idle) {
                        State::Idle => self.open_next(),
                        next => next,
                    };
                    if matches!(self.state, State::Idle) {
                        return Ok(SourceStep::Done);
                    }
                }
                State::Opening(opening) => match self.opened(opening)? {
                    Ok(state) => self.state = state,
                    Err((opening, ticket)) => {
                        self.state = State::Opening(opening);
                        return Ok(SourceStep::Blocked(ticket));
                    }
                },
                State::Reading(mut reading) => {
                    let turn = reading.turn(budget_bytes)?;
                    if matches!(turn, Turn::End) {
                        continue;
                    }
                    let (loaded, short) = (reading.is_loaded(), reading.is_short());
                    self.state = State::Reading(reading);
                    if short {
                        self.put_back();
                    } else {
                        self.look_ahead(loaded)?;
                    }
                    match turn {
                        Turn::Batch(batch, fits) => {
                            self.emit(batch, fits, budget_bytes, out);
                            return Ok(SourceStep::More);
                        }
                        Turn::Wait(ticket) => return Ok(SourceStep::Blocked(ticket)),
                        _ => return Ok(SourceStep::More),
                    }
                }
            }
        }
    }
}

impl Source for Instance {
    fn start(&mut self, split: &Split) -> Result<()> {
        let range = SplitRange::decode(split, &self.shared.table)?;
        let metadata = &self.shared.table.files[range.file].metadata;
        self.queue = range
            .groups
            .clone()
            .map(|group| {
                let all = 0..metadata.row_group(group).num_rows() as u64;
                (range.file, group, if range.rows.is_empty() { all } else { range.rows.clone() })
            })
            .collect();
        Ok(())
    }

    fn read(&mut self, budget_bytes: usize, out: &mut Outbox) -> Result<SourceStep> {
        if self.failed {
            return Err(OperatorError::new("a Parquet source was read after it had failed"));
        }
        let step = self.turn(budget_bytes, out);
        self.failed = step.is_err();
        step
    }
}

/// First rows of `batch` that have no more than `budget_bytes`: one at the least.
fn fitting_rows(batch: &RecordBatch, budget_bytes: usize) -> usize {
    let mut rows = batch.num_rows();
    loop {
        let bytes = batch_bytes(&batch.slice(0, rows));
        if bytes <= budget_bytes || rows <= 1 {
            return rows;
        }
        // Rows may differ in length: halves, where a share by the average does not do.
        rows = (budget_bytes as u128 * rows as u128 / bytes as u128).clamp(1, rows as u128 / 2) as usize;
    }
}

/// `batch` without the pages of which it has only a few values, and without the rest of what it was cut from.
fn let_go(batch: RecordBatch) -> RecordBatch {
    let columns = batch.columns().iter().map(let_go_array).collect();
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(batch.schema(), columns, &options).unwrap_or(batch)
}

fn let_go_array(array: &ArrayRef) -> ArrayRef {
    match array.data_type() {
        DataType::Utf8View => let_go_views::<StringViewType>(array),
        DataType::BinaryView => let_go_views::<BinaryViewType>(array),
        _ => Arc::clone(array),
    }
}

fn let_go_views<T: ByteViewType>(array: &ArrayRef) -> ArrayRef {
    let views = array.as_byte_view::<T>();
    if views.data_buffers().is_empty() {
        return Arc::clone(array);
    }
    let pinned: usize = views.data_buffers().iter().map(|buffer| buffer.len()).sum();
    let used = views.total_buffer_bytes_used();
    // Where all values are in their views, whoever counts bytes later need not look at each of them.
    if used == 0 || pinned > 1024 + 16 * views.len() + 2 * used {
        return Arc::new(views.gc());
    }
    Arc::clone(array)
}
