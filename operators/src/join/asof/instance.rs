//! One partition of an as-of join: a walk along two sorted inputs.
//!
//! Pairs become a piece of output before either of the batches that they are made of is let go. Small pieces wait for
//! others to make a batch.

use std::cmp::Ordering;
use std::sync::Arc;

use aqueduct_runtime::batch::{batch_bytes, compact};
use aqueduct_runtime::memory::Account;
use aqueduct_runtime::{Operator, OperatorContext, Outbox, Port, PortSet, Result, Step};
use arrow::array::{ArrayRef, UInt32Array, new_null_array};
use arrow::compute::{concat_batches, take};
use arrow::record_batch::{RecordBatch, RecordBatchOptions};

use super::order::Values;
use super::window::Window;
use super::{AsofDirection, Shape};
use crate::join::gather::{ProbeRows, RowBytes};

/// Bytes beside rows: arrays' own structures.
const STRUCTURE_BYTES: usize = 32 << 10;
/// No right row.
const NONE: u32 = u32::MAX;

/// Rows that are looked at together.
fn window_rows(batch_bytes: usize) -> usize {
    (batch_bytes / 16).clamp(1024, 8192)
}

/// A batch of each side, which may pin twice its bytes, and its keys; the last right row; output that waits.
pub(super) fn min_memory(batch_bytes: usize) -> usize {
    2 * (3 * batch_bytes + (8 << 10)) + batch_bytes + 2 * batch_bytes + 24 * window_rows(batch_bytes) + STRUCTURE_BYTES
}

pub(super) struct Instance {
    shape: Shape,
    /// Of an output batch.
    rows: usize,
    bytes: usize,
    memory: Account,
    left: Window,
    right: Window,
    pairs: Pairs,
    /// Output that is too little for a batch.
    waiting: Vec<RecordBatch>,
    waiting_rows: usize,
    waiting_bytes: usize,
    phase: Phase,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Walking,
    /// All pairs are found.
    Ending,
    Ended,
}

/// Left rows and their right rows, in order, counted as those of the windows.
#[derive(Default)]
struct Pairs {
    left: Vec<u32>,
    right: Vec<u32>,
    /// Those before are in the output.
    given: usize,
}

impl Pairs {
    fn push(&mut self, left: usize, right: u32) {
        self.left.push(left as u32);
        self.right.push(right);
    }
}

/// Which right rows the walk passes, and which one is the match.
#[derive(Clone, Copy)]
struct Rule {
    /// Rows of the same keys and time are passed.
    passes_equal: bool,
    /// The match is the last row that was passed, and not the next one.
    backward: bool,
    keeps_left: bool,
    most_pairs: usize,
}

impl Instance {
    pub(super) fn new(shape: Shape, context: &OperatorContext) -> Self {
        let rows = window_rows(context.batch_bytes).min(context.batch_rows).max(1);
        let bounds = (rows, context.batch_bytes.max(1));
        let [left_keys, right_keys] = shape.keys.clone();
        let window = |keys, time| Window::new(&shape.encoder, keys, time, &context.memory, bounds);
        let left = window(left_keys, shape.times[0]).dropping_nulls(!shape.keeps_left);
        let right = window(right_keys, shape.times[1]);
        let right = right.dropping_nulls(true).keeping_last(shape.direction == AsofDirection::Backward);
        Self {
            shape,
            rows,
            bytes: context.batch_bytes.max(1),
            memory: context.memory.clone(),
            left,
            right,
            pairs: Pairs::default(),
            waiting: Vec::new(),
            waiting_rows: 0,
            waiting_bytes: 0,
            phase: Phase::Walking,
        }
    }

    /// Goes on until there is output, or a batch is missing.
    fn advance(&mut self, out: &mut Outbox) -> Result<Step> {
        loop {
            if self.pairs.given < self.pairs.left.len() {
                self.give(out)?;
                if !out.is_empty() {
                    return Ok(Step::MoreOutput);
                }
                continue;
            }
            match self.phase {
                Phase::Walking => {}
                Phase::Ending => {
                    self.flush(out)?;
                    self.left.clear();
                    self.right.clear();
                    self.phase = Phase::Ended;
                    return Ok(Step::Done);
                }
                Phase::Ended => return Ok(Step::Done),
            }
            if self.left.at >= self.left.len() && !self.left.refill()? {
                if self.left.ended {
                    self.phase = Phase::Ending;
                    continue;
                }
                return Ok(Step::NeedInput);
            }
            if self.right.at >= self.right.len() && !self.right.refill()? {
                if !self.right.ended {
                    return Ok(Step::NeedInput);
                }
                // No left row that comes now has a match.
                let is_last_wanted = self.shape.direction == AsofDirection::Backward && self.right.len() > 0;
                if !self.shape.keeps_left && !is_last_wanted {
                    self.phase = Phase::Ending;
                    continue;
                }
            }
            self.walk();
        }
    }

    fn walk(&mut self) {
        let backward = self.shape.direction == AsofDirection::Backward;
        let rule = Rule {
            passes_equal: backward != self.shape.strict,
            backward,
            keeps_left: self.shape.keeps_left,
            most_pairs: self.rows,
        };
        self.pairs.left.clear();
        self.pairs.right.clear();
        self.pairs.given = 0;
        let (left, right, pairs) = (&mut self.left, &mut self.right, &mut self.pairs);
        let mut at = (left.at, right.at);
        let (l, r) = (&left.order, &right.order);
        match (&l.keys, &r.keys, &l.times, &r.times) {
            (Values::None, _, Values::Words(times), Values::Words(others)) => {
                find(left, right, &mut at, rule, pairs, |l, r| others[r].cmp(&times[l]), |_, _| true);
            }
            (Values::Words(keys), Values::Words(other_keys), Values::Words(times), Values::Words(others)) => {
                let order = |l: usize, r: usize| (other_keys[r], others[r]).cmp(&(keys[l], times[l]));
                find(left, right, &mut at, rule, pairs, order, |l, r| keys[l] == other_keys[r]);
            }
            (keys, other_keys, times, others) => {
                let order = |l, r| other_keys.compare(r, keys, l).then_with(|| others.compare(r, times, l));
                let same_keys = |l, r| other_keys.compare(r, keys, l) == Ordering::Equal;
                find(left, right, &mut at, rule, pairs, order, same_keys);
            }
        }
        (left.at, right.at) = at;
    }

    /// Makes output of as many of the pairs as go into the next batch.
    fn give(&mut self, out: &mut Outbox) -> Result<()> {
        let Some(left) = self.left.batch() else { return Ok(()) };
        let (lefts, rights) = (&self.pairs.left[self.pairs.given..], &self.pairs.right[self.pairs.given..]);
        // Pairs with the last row of the batch before come first.
        let is_last = |right: &u32| *right != NONE && self.right.is_last(*right);
        let of_last = rights.iter().rposition(is_last).map_or(0, |at| at + 1);
        let (from, count) = match self.right.last() {
            Some(last) if of_last > 0 => (Some(last), of_last),
            _ => (self.right.batch(), rights.len()),
        };
        let count = count.min(self.rows.saturating_sub(self.waiting_rows).max(1));
        let (lefts, rights) = (&lefts[..count], &rights[..count]);
        let left_rows: Vec<u32> = lefts.iter().map(|at| self.left.row(*at)).collect();
        let right_row = |at: &u32| match *at {
            NONE => None,
            at if of_last > 0 && self.right.is_last(at) => Some(0),
            at => Some(self.right.row(at)),
        };
        let right_rows: Vec<Option<u32>> = rights.iter().map(right_row).collect();
        let mut found = Found { left, right: from, left_rows: &left_rows, right_rows: &right_rows };
        let count = found.fitting(&self.shape, self.bytes.saturating_sub(self.waiting_bytes));
        (found.left_rows, found.right_rows) = (&left_rows[..count], &right_rows[..count]);
        let piece = found.output(&self.shape)?;
        self.pairs.given += count;
        let (rows, bytes) = (piece.num_rows(), batch_bytes(&piece));
        if self.waiting.is_empty() && (2 * rows >= self.rows || 2 * bytes >= self.bytes) {
            out.push(piece);
            return Ok(());
        }
        let piece = compact(piece);
        self.memory.claim(&piece);
        self.waiting_rows += rows;
        self.waiting_bytes += bytes;
        self.waiting.push(piece);
        if 2 * self.waiting_rows >= self.rows || 2 * self.waiting_bytes >= self.bytes {
            self.flush(out)?;
        }
        Ok(())
    }

    /// Emits the output that waits.
    fn flush(&mut self, out: &mut Outbox) -> Result<()> {
        (self.waiting_rows, self.waiting_bytes) = (0, 0);
        let waiting = std::mem::take(&mut self.waiting);
        match waiting.as_slice() {
            [] => {}
            [one] => out.push(one.clone()),
            several if self.shape.output.is_empty() => several.iter().for_each(|piece| out.push(piece.clone())),
            several => out.push(concat_batches(&self.shape.schema, several)?),
        }
        Ok(())
    }
}

/// Rows of two batches that were found to be pairs.
struct Found<'a> {
    left: &'a RecordBatch,
    right: Option<&'a RecordBatch>,
    left_rows: &'a [u32],
    right_rows: &'a [Option<u32>],
}

impl Found<'_> {
    /// How many of the pairs have no more than `limit` bytes: one at the least.
    fn fitting(&self, shape: &Shape, limit: usize) -> usize {
        let columns = |port: Port| -> Vec<usize> {
            shape.output.iter().filter(|(of, _)| *of == port).map(|(_, column)| *column).collect()
        };
        let left = RowBytes::new(self.left, &columns(0));
        let right = self.right.map(|right| RowBytes::new(right, &columns(1)));
        let most = left.most() + right.as_ref().map_or(0, RowBytes::most);
        if self.left_rows.len() * most <= limit {
            return self.left_rows.len();
        }
        let mut bytes = 0;
        for (at, (left_row, right_row)) in self.left_rows.iter().zip(self.right_rows).enumerate() {
            bytes += left.of(*left_row as usize);
            if let (Some(right), Some(row)) = (&right, right_row) {
                bytes += right.of(*row as usize);
            }
            if bytes > limit && at > 0 {
                return at;
            }
        }
        self.left_rows.len()
    }

    fn output(&self, shape: &Shape) -> Result<RecordBatch> {
        let mut lefts = ProbeRows::new(self.left, self.left_rows);
        let rights = UInt32Array::from_iter(self.right_rows.iter().copied());
        let columns = shape.output.iter().zip(shape.schema.fields());
        let columns = columns.map(|((port, column), field)| -> Result<ArrayRef> {
            match (port, self.right) {
                (0, _) => lefts.column(*column),
                (_, Some(right)) => Ok(take(right.column(*column), &rights, None)?),
                (_, None) => Ok(new_null_array(field.data_type(), self.left_rows.len())),
            }
        });
        let columns = columns.collect::<Result<Vec<_>>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(self.left_rows.len()));
        Ok(RecordBatch::try_new_with_options(Arc::clone(&shape.schema), columns, &options)?)
    }
}

/// Walks along both windows from the rows `at` until one is used up, or there are enough pairs.
///
/// `order` says where a right row is beside a left one.
#[inline]
fn find(
    left: &Window,
    right: &Window,
    at: &mut (usize, usize),
    rule: Rule,
    pairs: &mut Pairs,
    order: impl Fn(usize, usize) -> Ordering,
    same_keys: impl Fn(usize, usize) -> bool,
) {
    let (left_rows, right_rows) = (left.len(), right.len());
    let (mut l, mut r) = *at;
    while l < left_rows && pairs.left.len() < rule.most_pairs {
        if !left.is_valid(l) {
            pairs.push(l, NONE);
            l += 1;
            continue;
        }
        while r < right_rows {
            match order(l, r) {
                Ordering::Less => {}
                Ordering::Equal if rule.passes_equal => {}
                _ => break,
            }
            r += 1;
        }
        if r == right_rows && !right.is_last_window() {
            break;
        }
        let nearest = if rule.backward { r.checked_sub(1) } else { Some(r).filter(|r| *r < right_rows) };
        match nearest.filter(|nearest| same_keys(l, *nearest)) {
            Some(nearest) => pairs.push(l, nearest as u32),
            None if rule.keeps_left => pairs.push(l, NONE),
            None => {}
        }
        l += 1;
    }
    *at = (l, r);
}

impl Operator for Instance {
    fn process(&mut self, port: Port, batch: RecordBatch, out: &mut Outbox) -> Result<Step> {
        let window = if port == 0 { &mut self.left } else { &mut self.right };
        window.push(batch)?;
        self.advance(out)
    }

    fn resume(&mut self, out: &mut Outbox) -> Result<Step> {
        self.advance(out)
    }

    fn finish(&mut self, port: Port, out: &mut Outbox) -> Result<Step> {
        let window = if port == 0 { &mut self.left } else { &mut self.right };
        window.ended = true;
        self.advance(out)
    }

    /// Each side whose rows are used up: so both are read ahead by one batch.
    fn ready(&self) -> PortSet {
        let wanted = [&self.left, &self.right].into_iter().enumerate().filter(|(_, window)| window.is_used_up());
        wanted.fold(PortSet::NONE, |ports, (port, _)| ports.with(port))
    }

    fn step_bytes(&self, _port: Port, batch: &RecordBatch) -> usize {
        // A copy without nulls, and output.
        2 * batch_bytes(batch) + 2 * self.bytes + 12 * self.rows
    }
}
