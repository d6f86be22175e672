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
use aqueduct_runtime::io::Pending;
use aqueduct_runtime::{OperatorError, Outbox, Result, Source, SourceContext, SourceStep, Split};
use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::DataType;
use arrow::record_batch::{RecordBatch, RecordBatchOptions};

use super::group::{Opened, open};
use super::pot::Pot;
use super::reading::{Reading, Turn};
use super::scan::{Shared, SplitRange};
use crate::csv::{blocked, poll};

/// One partition.
pub(crate) struct Instance {
    shared: Arc<Shared>,
    context: SourceContext,
    pot: Pot,
    /// Row groups of the split that are still to be read.
    queue: VecDeque<(usize, usize, Range<u64>)>,
    state: State,
    /// What is left of a batch that was too large to be emitted whole.
    rest: Option<RecordBatch>,
    failed: bool,
}

enum State {
    Idle,
    Opening(usize, usize, Pending<Result<Opened>>),
    Reading(Box<Reading>),
}

impl Instance {
    pub(crate) fn new(shared: Arc<Shared>, context: SourceContext) -> Self {
        let pot = Pot::new(&context.memory);
        Self { shared, context, pot, queue: VecDeque::new(), state: State::Idle, rest: None, failed: false }
    }

    fn open(&self, file: usize, group: usize, rows: Range<u64>) -> Pending<Result<Opened>> {
        let (shared, pot) = (Arc::clone(&self.shared), self.pot.clone());
        self.context.io.run("reading", move || {
            let handle = shared.handles.get(&shared.table.files, file)?;
            Ok(open(&shared, file, group, rows, &handle, &pot))
        })
    }

    /// Emits `batch`, or its first rows if it has more than `budget_bytes`.
    fn emit(&mut self, batch: RecordBatch, budget_bytes: usize, out: &mut Outbox) {
        let rows = fitting_rows(&batch, budget_bytes);
        if rows < batch.num_rows() {
            self.rest = Some(batch.slice(rows, batch.num_rows() - rows));
            out.push(let_go(batch.slice(0, rows)));
        } else {
            out.push(let_go(batch));
        }
    }

    fn turn(&mut self, budget_bytes: usize, out: &mut Outbox) -> Result<SourceStep> {
        if let Some(batch) = self.rest.take() {
            self.emit(batch, budget_bytes, out);
            return Ok(SourceStep::More);
        }
        loop {
            match std::mem::replace(&mut self.state, State::Idle) {
                State::Idle => match self.queue.pop_front() {
                    None => return Ok(SourceStep::Done),
                    Some((file, group, rows)) => {
                        self.state = State::Opening(file, group, self.open(file, group, rows));
                    }
                },
                State::Opening(file, group, pending) => match poll(pending)? {
                    Ok(opened) => {
                        let opened = opened?;
                        if opened.ranges.is_empty() {
                            continue;
                        }
                        let (shared, context) = (Arc::clone(&self.shared), self.context.clone());
                        let reading = Reading::new(shared, context, self.pot.clone(), file, group, opened)?;
                        self.state = State::Reading(Box::new(reading));
                    }
                    Err(pending) => {
                        let step = blocked(&pending);
                        self.state = State::Opening(file, group, pending);
                        return Ok(step);
                    }
                },
                State::Reading(mut reading) => {
                    let turn = reading.turn(budget_bytes)?;
                    if !matches!(turn, Turn::End) {
                        self.state = State::Reading(reading);
                    }
                    match turn {
                        Turn::End => {}
                        Turn::Batch(batch) => {
                            self.emit(batch, budget_bytes, out);
                            return Ok(SourceStep::More);
                        }
                        Turn::Nothing => return Ok(SourceStep::More),
                        Turn::Wait(ticket) => return Ok(SourceStep::Blocked(ticket)),
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
    let used = |bytes: usize| 2 * bytes + 1024;
    match array.data_type() {
        DataType::Utf8View => {
            let views = array.as_string_view();
            let pinned: usize = views.data_buffers().iter().map(|buffer| buffer.len()).sum();
            if pinned > used(views.total_buffer_bytes_used()) + 16 * views.len() {
                return Arc::new(views.gc());
            }
        }
        DataType::BinaryView => {
            let views = array.as_binary_view();
            let pinned: usize = views.data_buffers().iter().map(|buffer| buffer.len()).sum();
            if pinned > used(views.total_buffer_bytes_used()) + 16 * views.len() {
                return Arc::new(views.gc());
            }
        }
        _ => {}
    }
    Arc::clone(array)
}
