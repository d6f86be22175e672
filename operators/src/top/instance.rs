//! One partition: drops the rows that others of their group are before, and holds the rest back as long as it can.
//!
//! Groups have numbers as long as the table lives; rows that are held know the number of theirs. So these leave before the
//! table is given up. Where memory is refused, rows leave, then the table is given up, then rows pass by.

use std::collections::VecDeque;
use std::sync::Arc;

use aqueduct_runtime::batch::batch_bytes;
use aqueduct_runtime::memory::Reservation;
use aqueduct_runtime::{Operator, OperatorContext, Outbox, Port, Result, Step};
use arrow::array::{ArrayRef, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::DataType;
use arrow::record_batch::RecordBatch;

use super::Shared;
use super::best::Best;
use super::kept::{Kept, Part};
use super::order::Code;
use crate::aggregate::{normalised, own};

/// A table of more bytes is given up: it would no longer fit in the caches of a core.
const TABLE_BYTES: usize = 24 << 20;
/// Rows of more bytes than this leave.
const KEPT_BYTES: usize = 16 << 20;
/// After so many rows it is known whether keys repeat at all.
const SAMPLE_ROWS: usize = 100_000;
/// With more groups per row than this, they do not.
const DISTINCT: f64 = 0.95;
/// With more rows than this that leave for each that came, it is not worth its while.
const WORTHLESS: f64 = 0.8;
/// Rows for each row that a table has room for after which it is known how many leave.
const TRIED: usize = 4;
/// Rows that pass by until the next table.
const BYPASSED_ROWS: usize = 4_000_000;
/// Pieces of fewer rows are not tried.
const FEW_ROWS: usize = 256;

pub(super) struct Instance<C> {
    shared: Arc<Shared>,
    best: Best<C>,
    /// Bytes of a table, and of rows, that are too many.
    table_bytes: usize,
    kept_bytes: usize,
    /// Holds the table and the scratch.
    held: Reservation,
    groups: Vec<usize>,
    codes: Vec<C>,
    rows: Vec<u32>,
    kept: Kept<C>,
    input: Option<Input>,
    leaving: VecDeque<Part<C>>,
    /// Rows that the table has seen, and of these, those that have left.
    seen: usize,
    left: usize,
    /// Rows that still pass by.
    bypass: usize,
    finishing: bool,
}

/// A batch that is being taken in.
struct Input {
    batch: RecordBatch,
    next: usize,
    /// Rows to try at once.
    step: usize,
}

impl<C: Code> Instance<C> {
    pub(super) fn new(shared: Arc<Shared>, context: OperatorContext) -> Result<Self> {
        let memory = context.memory;
        // What this takes the window cannot have, and it is the window that has to spill for want of it.
        let share = (memory.floor() + memory.pool().limit() / 32) / 2;
        let best = Self::table(&shared)?;
        let mut held = memory.reservation();
        held.set(best.bytes());
        Ok(Self {
            best,
            table_bytes: TABLE_BYTES.min(share),
            kept_bytes: KEPT_BYTES.min(share),
            held,
            groups: Vec::new(),
            codes: Vec::new(),
            rows: Vec::new(),
            kept: Kept::new(&memory, context.batch_bytes, context.batch_rows.max(1)),
            shared,
            input: None,
            leaving: VecDeque::new(),
            seen: 0,
            left: 0,
            bypass: 0,
            finishing: false,
        })
    }

    fn table(shared: &Shared) -> Result<Best<C>> {
        let types = shared.partition_by.iter().map(|column| shared.schema.field(*column).data_type().clone());
        Best::new(&types.collect::<Vec<DataType>>(), shared.kind, shared.rows)
    }

    fn advance(&mut self, out: &mut Outbox) -> Result<Step> {
        loop {
            if let Some(part) = self.leaving.pop_front() {
                out.push(part.batch);
                return Ok(Step::MoreOutput);
            }
            if let Some(input) = self.input.take() {
                if self.bypass > 0 {
                    self.bypass = self.bypass.saturating_sub(input.left());
                    out.push(input.rest());
                    return Ok(Step::NeedInput);
                }
                self.input = self.take_in(input, out)?;
                if !out.is_empty() {
                    return Ok(Step::MoreOutput);
                }
            } else if self.finishing && !self.kept.is_empty() {
                self.flush()?;
            } else {
                return Ok(Step::NeedInput);
            }
        }
    }

    /// Takes in a piece of `input`, as large as there is memory for; what is left of it.
    fn take_in(&mut self, mut input: Input, out: &mut Outbox) -> Result<Option<Input>> {
        let length = input.step.min(input.left());
        let piece = input.batch.slice(input.next, length);
        let keys = self.shared.partition_by.iter().map(|column| normalised(ArrayRef::clone(piece.column(*column))));
        let keys: Vec<ArrayRef> = keys.collect();
        let growth = self.best.growth(length, &keys);
        if !self.held.try_set(self.best.bytes() + growth + self.scratch_bytes(length)) {
            if length > FEW_ROWS {
                input.step = length / 2;
            } else if !self.kept.is_empty() {
                self.flush()?;
            } else if self.best.groups() > 0 {
                self.give_up()?;
            } else {
                out.push(input.rest());
                return Ok(None);
            }
            return Ok(Some(input));
        }
        C::of(&self.shared.order, &piece, &mut self.codes)?;
        self.best.take_in(&keys, &self.codes, &self.shared.order, &mut self.groups, &mut self.rows)?;
        self.seen += length;
        self.keep(piece, out)?;
        let bytes = self.best.bytes();
        self.held.set(bytes + self.scratch_bytes(0));
        if bytes > self.table_bytes {
            self.flush()?;
            self.give_up()?;
        } else if self.seen >= SAMPLE_ROWS
            && self.seen < SAMPLE_ROWS + length
            && self.best.groups() as f64 > DISTINCT * self.seen as f64
        {
            self.flush()?;
            self.give_up()?;
            self.bypass = BYPASSED_ROWS;
        } else if self.kept.bytes() > self.kept_bytes || self.kept.is_scattered() {
            self.kept.tidy(&self.best)?;
            if self.kept.bytes() > self.kept_bytes / 2 {
                self.flush()?;
                let tried = self.seen > TRIED * self.shared.rows * self.best.groups();
                if tried && self.is_worthless() {
                    self.give_up()?;
                }
            }
        }
        Ok(input.after(length))
    }

    /// Holds the rows of `piece` back that may be among the best.
    fn keep(&mut self, piece: RecordBatch, out: &mut Outbox) -> Result<()> {
        if self.rows.is_empty() {
            return Ok(());
        }
        let groups = self.rows.iter().map(|row| self.groups[*row as usize] as u32).collect();
        let codes = self.rows.iter().map(|row| self.codes[*row as usize]).collect();
        let all = self.rows.len() == piece.num_rows();
        let rows = if all { piece } else { take_record_batch(&piece, &UInt32Array::from(self.rows.clone()))? };
        if let Err(part) = self.kept.push(Part::new(own(rows), groups, codes)) {
            self.flush()?;
            self.left += part.batch.num_rows();
            out.push(part.batch);
        }
        Ok(())
    }

    /// Lets go of all rows that are held.
    fn flush(&mut self) -> Result<()> {
        self.kept.tidy(&self.best)?;
        for part in self.kept.take() {
            self.left += part.batch.num_rows();
            self.leaving.push_back(part);
        }
        Ok(())
    }

    /// Forgets what is known of all groups, whose rows have left.
    fn give_up(&mut self) -> Result<()> {
        if self.seen >= FEW_ROWS && self.is_worthless() {
            self.bypass = BYPASSED_ROWS;
        }
        self.best = Self::table(&self.shared)?;
        (self.seen, self.left) = (0, 0);
        self.held.set(self.best.bytes() + self.scratch_bytes(0));
        Ok(())
    }

    fn is_worthless(&self) -> bool {
        self.left as f64 > WORTHLESS * self.seen as f64
    }

    /// Bytes of what is made of `rows` rows on the way.
    fn scratch_bytes(&self, rows: usize) -> usize {
        size_of::<usize>() * self.groups.capacity().max(rows)
            + 2 * size_of::<C>() * self.codes.capacity().max(rows)
            + 2 * size_of::<u32>() * self.rows.capacity().max(rows)
    }
}

impl Input {
    fn left(&self) -> usize {
        self.batch.num_rows() - self.next
    }

    fn rest(self) -> RecordBatch {
        self.batch.slice(self.next, self.left())
    }

    /// What is left behind the next `length` rows.
    fn after(mut self, length: usize) -> Option<Self> {
        self.next += length;
        (self.left() > 0).then_some(self)
    }
}

impl<C: Code> Operator for Instance<C> {
    fn process(&mut self, _port: Port, batch: RecordBatch, out: &mut Outbox) -> Result<Step> {
        if batch.num_rows() > 0 {
            self.input = Some(Input { step: batch.num_rows(), batch, next: 0 });
        }
        self.advance(out)
    }

    fn resume(&mut self, out: &mut Outbox) -> Result<Step> {
        self.advance(out)
    }

    fn finish(&mut self, _port: Port, out: &mut Outbox) -> Result<Step> {
        self.finishing = true;
        self.advance(out)
    }

    fn step_bytes(&self, _port: Port, batch: &RecordBatch) -> usize {
        // Keys that are made equal, and the rows that are held.
        2 * batch_bytes(batch) + (8 + size_of::<C>()) * batch.num_rows()
    }
}
