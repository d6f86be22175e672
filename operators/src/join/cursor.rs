//! One batch of probe rows on its way through the tables: finds their first matches at once, and emits the pairs
//! in pieces of bounded size.
//!
//! ```text
//! keys ─▶ first match of each row ─▶ pairs, a piece at a time ─▶ filter ─▶ output
//!                                                                   └────▶ which rows had a match ─▶ output
//! ```

use std::sync::Arc;

use aqueduct_runtime::{Outbox, Result};
use arrow::array::{Array, BooleanArray, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::record_batch::RecordBatch;

use super::flags::Flags;
use super::gather::{Pairs, ProbeRows, RowBytes, columns};
use super::keys::KeyEncoder;
use super::shape::{Rows, Shape};
use super::table::{Id, LATER, NO_ROW, Tables, bucket_of};
use crate::expression::evaluate_mask;

/// How large a piece of output may be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) rows: usize,
    pub(super) bytes: usize,
}

/// Some probe rows, and how far they are.
pub(super) struct Cursor {
    batch: RecordBatch,
    /// The first build row of each row's key.
    first: Vec<Id>,
    /// The row whose chain is being walked, and where in it.
    at: usize,
    within: Id,
    /// Pairs that were found; those before `given` are done with.
    ids: Vec<Id>,
    rows: Vec<u32>,
    given: usize,
    /// Probe rows that have had a match, where that has to be remembered.
    matched: Option<Flags>,
    /// What becomes of probe rows by themselves is for somebody else to say.
    recorded: bool,
    stage: Stage,
    /// Bytes that no row of the batch exceeds.
    most_row_bytes: Option<usize>,
}

#[derive(Clone, Copy, PartialEq)]
enum Stage {
    Pairs,
    /// The rows that are emitted for themselves.
    Rows,
    Done,
}

impl Cursor {
    /// Looks up all rows of `batch`; says which of them have to wait for a bucket that is elsewhere.
    pub(super) fn new(
        shape: &Shape,
        encoder: &KeyEncoder,
        tables: &Tables,
        batch: RecordBatch,
    ) -> Result<(Self, Vec<u32>)> {
        let rows = batch.num_rows();
        let key_columns: Vec<_> = shape.probe_keys.iter().map(|&key| Arc::clone(batch.column(key))).collect();
        let keys = encoder.encode(&key_columns, rows)?;
        let mut hashes = Vec::new();
        if encoder.has_keys() && tables.needs_hashes() {
            keys.hash(&mut hashes);
        }
        let first = tables.find(&keys, &hashes);
        let mut later = Vec::new();
        if tables.is_partial() {
            later.extend(first.iter().enumerate().filter(|(_, first)| **first == LATER).map(|(row, _)| row as u32));
        }
        let by_first = shape.filter.is_none();
        let remembers = shape.probe_rows != Rows::None && !by_first;
        let stage = if shape.pairs || !by_first || shape.flags() { Stage::Pairs } else { Stage::Rows };
        let cursor = Self {
            batch,
            first,
            at: 0,
            within: NO_ROW,
            ids: Vec::new(),
            rows: Vec::new(),
            given: 0,
            matched: remembers.then(|| Flags::new(rows)),
            recorded: false,
            stage,
            most_row_bytes: None,
        };
        Ok((cursor, later))
    }

    /// As [`Cursor::new`], but leaves it to the caller what becomes of rows by themselves: `matched` says which
    /// have had a match before, and [`Cursor::into_matched`] which have one now. The first `skipped` rows have met
    /// these tables already.
    pub(super) fn recorded(
        shape: &Shape,
        encoder: &KeyEncoder,
        tables: &Tables,
        batch: RecordBatch,
        matched: Flags,
        skipped: usize,
    ) -> Result<Self> {
        let (mut cursor, _) = Self::new(shape, encoder, tables, batch)?;
        cursor.first[..skipped].fill(NO_ROW);
        cursor.recorded = true;
        let mut matched = matched;
        if shape.probe_rows != Rows::None && shape.filter.is_none() {
            let found = cursor.first.iter().enumerate().filter(|(_, first)| **first < LATER);
            found.for_each(|(row, _)| matched.set(row));
        }
        cursor.matched = Some(matched);
        if cursor.stage == Stage::Rows {
            cursor.stage = Stage::Done;
        }
        Ok(cursor)
    }

    /// Only emits rows by themselves, by what is known of them.
    pub(super) fn by_matched(batch: RecordBatch, matched: Flags) -> Self {
        Self {
            first: vec![NO_ROW; batch.num_rows()],
            batch,
            at: 0,
            within: NO_ROW,
            ids: Vec::new(),
            rows: Vec::new(),
            given: 0,
            matched: Some(matched),
            recorded: false,
            stage: Stage::Rows,
            most_row_bytes: None,
        }
    }

    pub(super) fn is_done(&self) -> bool {
        self.stage == Stage::Done
    }

    pub(super) fn into_matched(self) -> Option<Flags> {
        self.matched
    }

    pub(super) fn batch(&self) -> &RecordBatch {
        &self.batch
    }

    /// Whether a row of `bucket` is needed for what has begun.
    pub(super) fn needs(&self, bucket: usize) -> bool {
        let begun = self.within != NO_ROW && bucket_of(self.within) == bucket;
        begun || self.ids[self.given..].iter().any(|id| *id < LATER && bucket_of(*id) == bucket)
    }

    /// Has the rows that have not begun, and have their match in `bucket`, wait for it; returns them.
    pub(super) fn defer(&mut self, bucket: usize) -> Vec<u32> {
        let from = if self.stage == Stage::Pairs { self.at } else { self.first.len() };
        let begun = usize::from(self.within != NO_ROW);
        let mut deferred = Vec::new();
        for row in from + begun..self.first.len() {
            if self.first[row] < LATER && bucket_of(self.first[row]) == bucket {
                self.first[row] = LATER;
                deferred.push(row as u32);
            }
        }
        deferred
    }

    /// Emits a piece, or finds that there is none left.
    pub(super) fn step(
        &mut self,
        shape: &Shape,
        tables: &mut Tables,
        limits: Limits,
        only_rows: bool,
        out: &mut Outbox,
    ) -> Result<()> {
        match self.stage {
            Stage::Pairs if !shape.pairs && shape.filter.is_none() => {
                self.mark_build(tables);
                self.stage = Stage::Done;
            }
            Stage::Pairs => {
                if self.given == self.ids.len() {
                    self.expand(shape, tables, limits.rows);
                }
                if self.given < self.ids.len() {
                    return self.give(shape, tables, limits, out);
                }
                let rest = shape.probe_rows != Rows::None && shape.filter.is_some() && !self.recorded;
                self.stage = if rest { Stage::Rows } else { Stage::Done };
            }
            Stage::Rows => {
                self.give_rows(shape, only_rows, out)?;
                self.stage = Stage::Done;
            }
            Stage::Done => {}
        }
        Ok(())
    }

    /// Every build row with the key of a probe row has a match.
    fn mark_build(&mut self, tables: &mut Tables) {
        for first in self.first.iter().filter(|first| **first < LATER) {
            let Some(table) = tables.table_mut(bucket_of(*first)) else { continue };
            let mut next = Some(*first as u32);
            // Rows of one key are marked together.
            while let Some(row) = next.filter(|row| !table.matched.get(*row as usize)) {
                table.matched.set(row as usize);
                next = table.next(row);
            }
        }
    }

    /// Finds up to `limit` pairs.
    fn expand(&mut self, shape: &Shape, tables: &Tables, limit: usize) {
        self.ids.clear();
        self.rows.clear();
        self.given = 0;
        let lonely = shape.pairs && shape.probe_rows == Rows::Unmatched && shape.filter.is_none() && !self.recorded;
        let rows = self.first.len();
        let single = (0..tables.list.len()).all(|bucket| tables.table(bucket).is_none_or(|table| table.is_single()));
        if single {
            while self.at < rows && self.ids.len() < limit {
                let end = rows.min(self.at + (limit - self.ids.len()));
                let mut found = self.ids.len();
                self.ids.resize(found + end - self.at, NO_ROW);
                self.rows.resize(found + end - self.at, 0);
                // Written whether it is wanted or not, as a branch that nobody foresees costs more.
                for row in self.at..end {
                    let first = self.first[row];
                    (self.ids[found], self.rows[found]) = (first, row as u32);
                    found += usize::from(first < LATER || (lonely && first == NO_ROW));
                }
                self.ids.truncate(found);
                self.rows.truncate(found);
                self.at = end;
            }
            return;
        }
        // Once it is known that a row has a match, nothing more of it is asked.
        let once = !shape.pairs && shape.probe_rows != Rows::None;
        while self.at < rows && self.ids.len() < limit {
            if self.within == NO_ROW {
                let first = self.first[self.at];
                if first >= LATER {
                    if lonely && first == NO_ROW {
                        self.ids.push(NO_ROW);
                        self.rows.push(self.at as u32);
                    }
                    self.at += 1;
                    continue;
                }
                self.within = first;
            }
            let known = once && self.matched.as_ref().is_some_and(|matched| matched.get(self.at));
            let Some(table) = tables.table(bucket_of(self.within)).filter(|_| !known) else {
                self.within = NO_ROW;
                self.at += 1;
                continue;
            };
            let bucket = self.within & !u64::from(u32::MAX);
            let mut row = self.within as u32;
            loop {
                self.ids.push(bucket | u64::from(row));
                self.rows.push(self.at as u32);
                match table.next(row) {
                    Some(next) if self.ids.len() < limit => row = next,
                    Some(next) => {
                        self.within = bucket | u64::from(next);
                        break;
                    }
                    None => {
                        self.within = NO_ROW;
                        self.at += 1;
                        break;
                    }
                }
            }
        }
    }

    /// Emits as many of the pairs as a batch may have.
    fn give(&mut self, shape: &Shape, tables: &mut Tables, limits: Limits, out: &mut Outbox) -> Result<()> {
        let end = self.given + self.fitting(shape, tables, limits.bytes);
        let range = self.given..end;
        self.given = end;
        let Some(filter) = &shape.filter else {
            if shape.flags() {
                mark(tables, &self.ids[range.clone()]);
            }
            return self.emit(shape, tables, &self.ids[range.clone()], &self.rows[range], out);
        };
        let (ids, rows) = (&self.ids[range.clone()], &self.rows[range]);
        let mask = {
            let (mut build, mut probe) = (Pairs::new(tables, ids), ProbeRows::new(&self.batch, rows));
            let judged = columns(&filter.schema, &filter.columns, Some(&mut build), Some(&mut probe), None, ids.len())?;
            evaluate_mask(filter.expression.as_ref(), &judged)?
        };
        let passed: Vec<usize> = match mask.nulls() {
            Some(nulls) => (mask.values() & nulls.inner()).set_indices().collect(),
            None => mask.values().set_indices().collect(),
        };
        let all = passed.len() == ids.len();
        let (ids, rows): (Vec<Id>, Vec<u32>) =
            if all { (ids.to_vec(), rows.to_vec()) } else { passed.iter().map(|&at| (ids[at], rows[at])).unzip() };
        if let Some(matched) = &mut self.matched {
            rows.iter().for_each(|row| matched.set(*row as usize));
        }
        if shape.flags() {
            mark(tables, &ids);
        }
        if shape.pairs { self.emit(shape, tables, &ids, &rows, out) } else { Ok(()) }
    }

    fn emit(&self, shape: &Shape, tables: &Tables, ids: &[Id], rows: &[u32], out: &mut Outbox) -> Result<()> {
        if ids.is_empty() {
            return Ok(());
        }
        let (mut build, mut probe) = (Pairs::new(tables, ids), ProbeRows::new(&self.batch, rows));
        let (schema, origins) = (&shape.output_schema, &shape.output);
        out.push(columns(schema, origins, Some(&mut build), Some(&mut probe), None, ids.len())?);
        Ok(())
    }

    /// How many of the pairs that are left have no more than `limit` bytes: one at the least.
    fn fitting(&mut self, shape: &Shape, tables: &Tables, limit: usize) -> usize {
        let left = self.ids.len() - self.given;
        let probe = RowBytes::new(&self.batch, &shape.probe_read);
        let probe_most = *self.most_row_bytes.get_or_insert_with(|| probe.most());
        let build_most =
            (0..tables.list.len()).filter_map(|bucket| tables.table(bucket)).map(|t| t.most_row_bytes).max();
        let most = probe_most + build_most.unwrap_or(0);
        if left * most <= limit {
            return left;
        }
        let build: Vec<Vec<RowBytes<'_>>> = (0..tables.list.len())
            .map(|bucket| {
                let chunks = tables.table(bucket).map_or(&[][..], |table| &table.chunks);
                chunks.iter().map(|chunk| RowBytes::new(chunk, &shape.build_read)).collect()
            })
            .collect();
        let mut bytes = 0;
        for (at, (id, row)) in self.ids[self.given..].iter().zip(&self.rows[self.given..]).enumerate() {
            bytes += probe.of(*row as usize);
            if *id < LATER {
                let table = tables.table(bucket_of(*id));
                let (shift, row) = (table.map_or(0, |table| table.shift), *id as u32 as usize);
                bytes += build[bucket_of(*id)][row >> shift].of(row & ((1 << shift) - 1));
            }
            if bytes > limit && at > 0 {
                return at;
            }
        }
        left
    }

    /// Emits rows by themselves, at once: they are no more than have come.
    fn give_rows(&self, shape: &Shape, other_side_has_rows: bool, out: &mut Outbox) -> Result<()> {
        let has_match = |row: usize| match &self.matched {
            Some(matched) => matched.get(row),
            None => self.first[row] < LATER,
        };
        let not_in = shape.null_aware && other_side_has_rows;
        let key = not_in.then(|| self.batch.column(shape.probe_keys[0]).logical_nulls()).flatten();
        let wanted = |row: &usize| {
            let row = *row;
            if self.first[row] == LATER {
                return false;
            }
            match shape.probe_rows {
                Rows::None => false,
                Rows::Mark => true,
                Rows::Matched => has_match(row),
                Rows::Unmatched => !has_match(row) && key.as_ref().is_none_or(|key| key.is_valid(row)),
            }
        };
        let rows: Vec<u32> = (0..self.first.len()).filter(wanted).map(|row| row as u32).collect();
        if rows.is_empty() {
            return Ok(());
        }
        let mark: Option<BooleanArray> =
            (shape.probe_rows == Rows::Mark).then(|| rows.iter().map(|row| Some(has_match(*row as usize))).collect());
        let mut probe = ProbeRows::new(&self.batch, &rows);
        let (schema, origins) = (&shape.output_schema, &shape.output);
        out.push(columns(schema, origins, None, Some(&mut probe), mark.as_ref(), rows.len())?);
        Ok(())
    }
}

fn mark(tables: &mut Tables, ids: &[Id]) {
    for id in ids.iter().filter(|id| **id < LATER) {
        if let Some(table) = tables.table_mut(bucket_of(*id)) {
            table.matched.set(*id as u32 as usize);
        }
    }
}

/// The rows `rows` of `batch`.
pub(super) fn rows_of(batch: &RecordBatch, rows: Vec<u32>) -> Result<RecordBatch> {
    Ok(take_record_batch(batch, &UInt32Array::from(rows))?)
}
