//! A bucket that does not fit in memory and that spreading does not part, because it is all of one key, or because the
//! join has no keys: joined block by block.
//!
//! ```text
//! build rows ─▶ as many as fit ─▶ table ◀─ all probe rows, again for each block
//!                                           └─▶ which of them have had a match so far, from pass to pass
//! ```
//!
//! A block can be given up while probe rows pass it: its rows go back behind the others, with a note of how many
//! probe rows they have met.

use std::collections::VecDeque;

use aqueduct_runtime::batch::batch_bytes;
use aqueduct_runtime::io::Ticket;
use aqueduct_runtime::memory::Reservation;
use aqueduct_runtime::state::{Next, SpillingVec, SpillingVecReader};
use aqueduct_runtime::{Outbox, Result};
use arrow::record_batch::RecordBatch;

use super::build_rows::give_build_rows;
use super::cursor::Cursor;
use super::flags::{FlagReader, FlagWriter, Flags};
use super::home::{CUSHION_BYTES, Home};
use super::level::Pair;
use super::shape::Rows;
use super::table::{Held, Tables};

/// Rows of a block that are loaded whatever it takes.
const FEW_ROWS: usize = 256;

/// Joins one pair block by block.
pub(super) struct Blocks {
    home: Home,
    /// Build rows that are still to be loaded.
    segments: VecDeque<Segment>,
    /// The block.
    tables: Tables,
    probe: Option<SpillingVecReader>,
    /// Which probe rows have had a match: as the pass before left it, and as this one does.
    before: Option<FlagReader>,
    now: Option<FlagWriter>,
    /// For reading probe rows, while a block is loaded.
    slack: Reservation,
    state: State,
    cursor: Option<Cursor>,
    /// A batch of probe rows, and where its next slice starts.
    current: Option<(RecordBatch, usize)>,
    /// Probe rows of this pass that the block has met.
    met: usize,
    /// Probe rows that the block met before this pass.
    skip: usize,
    /// Bytes of rows that a block may have.
    most_bytes: usize,
    /// The probe side had rows, here or elsewhere.
    has_probe_rows: bool,
}

struct Segment {
    rows: SpillingVecReader,
    /// Read, but not loaded.
    rest: Option<RecordBatch>,
    /// Probe rows that they have met.
    met: usize,
}

enum State {
    Loading(Option<Loading>),
    Passing,
    /// Build rows from this one on are emitted for themselves.
    BuildRows(usize),
    /// Probe rows are.
    ProbeRows,
    Done,
}

struct Loading {
    pieces: Vec<RecordBatch>,
    rows: usize,
    bytes: usize,
    memory: Reservation,
}

/// What came of loading more of a segment.
enum Loaded {
    Some,
    Blocked(Ticket),
    /// No more fits.
    Full,
    /// The segment has ended.
    All,
}

/// How a step ended.
pub(super) enum Progress {
    More,
    Blocked(Ticket),
    Done,
}

impl Blocks {
    pub(super) fn new(home: Home, pair: Pair, has_probe_rows: bool) -> Self {
        let slack = home.memory.reservation();
        let probe = pair.probe.filter(|probe| !probe.is_empty()).map(SpillingVec::into_reader);
        let segments = [Segment { rows: pair.build.drain().without_read_ahead(), rest: None, met: 0 }].into();
        Self {
            home,
            segments,
            tables: Tables::new(0, 0),
            probe,
            before: None,
            now: None,
            slack,
            state: State::Loading(None),
            cursor: None,
            current: None,
            met: 0,
            skip: 0,
            most_bytes: usize::MAX,
            has_probe_rows,
        }
    }

    /// Whether it has to be known from pass to pass which probe rows have had a match.
    fn records(&self) -> bool {
        self.home.shape.probe_rows != Rows::None
    }

    /// Does a piece of work. `spill_others` frees what somebody else of this instance holds.
    pub(super) fn step(
        &mut self,
        out: &mut Outbox,
        spill_others: &mut dyn FnMut() -> Result<usize>,
    ) -> Result<Progress> {
        match self.state {
            State::Loading(_) => self.load(spill_others),
            State::Passing => self.pass(out, spill_others),
            State::BuildRows(ref mut at) => {
                let home = &self.home;
                if give_build_rows(&home.shape, &self.tables, 0, at, home.limits, self.has_probe_rows, out)? {
                    self.next_block();
                }
                Ok(Progress::More)
            }
            State::ProbeRows => self.probe_rows(out, spill_others),
            State::Done => Ok(Progress::Done),
        }
    }

    fn next_block(&mut self) {
        self.tables = Tables::new(0, 0);
        self.state = State::Loading(None);
    }

    fn load(&mut self, spill_others: &mut dyn FnMut() -> Result<usize>) -> Result<Progress> {
        if let State::Loading(none @ None) = &mut self.state {
            // What a read of probe rows takes must be free whenever a block is whole.
            let read = if self.probe.is_some() { self.home.fetch_bytes() } else { 0 };
            while !self.slack.try_set(read + CUSHION_BYTES) {
                let freed = match spill_others()? {
                    0 => free_rows(&mut self.probe, &mut self.segments, &mut self.now, usize::MAX)?,
                    freed => freed,
                };
                if freed == 0 {
                    self.slack.set(read + CUSHION_BYTES);
                }
            }
            let memory = self.home.memory.reservation();
            *none = Some(Loading { pieces: Vec::new(), rows: 0, bytes: 0, memory });
        }
        let Some(mut segment) = self.segments.pop_front() else {
            self.slack.set(0);
            if self.records() && self.probe.is_some() {
                self.rewind();
                self.state = State::ProbeRows;
            } else {
                self.state = State::Done;
            }
            return Ok(Progress::More);
        };
        let met = segment.met;
        let loaded = self.load_more(&mut segment, spill_others)?;
        if !matches!(loaded, Loaded::All) {
            self.segments.push_front(segment);
        }
        match loaded {
            Loaded::Some => Ok(Progress::More),
            Loaded::Blocked(ticket) => Ok(Progress::Blocked(ticket)),
            Loaded::Full | Loaded::All => {
                self.skip = met;
                self.make_block()
            }
        }
    }

    fn load_more(&mut self, segment: &mut Segment, spill_others: &mut dyn FnMut() -> Result<usize>) -> Result<Loaded> {
        let State::Loading(Some(loading)) = &mut self.state else { return Ok(Loaded::Full) };
        let home = &self.home;
        let (probe, segments, flags) = (&mut self.probe, &mut self.segments, &mut self.now);
        let mut free = |own: &mut SpillingVecReader| -> Result<usize> {
            let freed = match spill_others()? {
                0 => free_rows(probe, segments, flags, usize::MAX)?,
                freed => freed,
            };
            if freed > 0 { Ok(freed) } else { own.spill(usize::MAX) }
        };
        let batch = match segment.rest.take() {
            Some(rest) => rest,
            None => {
                // A block is full when there is no room to read more of it; what others hold makes room for its first rows.
                if !segment.rows.is_reading() && !home.has_room(home.fetch_bytes()) {
                    if free(&mut segment.rows)? > 0 {
                        return Ok(Loaded::Some);
                    }
                    if loading.rows > 0 {
                        return Ok(Loaded::Full);
                    }
                }
                match segment.rows.next()? {
                    Next::Batch(batch) => batch,
                    Next::Blocked(ticket) => return Ok(Loaded::Blocked(ticket)),
                    Next::End => return Ok(Loaded::All),
                }
            }
        };
        let need =
            |loading: &Loading, rows: usize, bytes: usize| home.table_bytes(loading.rows + rows, loading.bytes + bytes);
        let (mut rows, bytes) = (batch.num_rows(), batch_bytes(&batch));
        let mut fits = loading.bytes < self.most_bytes && loading.memory.try_set(need(loading, rows, bytes));
        while !fits && loading.bytes < self.most_bytes && free(&mut segment.rows)? > 0 {
            fits = loading.memory.try_set(need(loading, rows, bytes));
        }
        if !fits && loading.rows > 0 {
            segment.rest = Some(batch);
            return Ok(Loaded::Full);
        }
        while !fits && rows > FEW_ROWS {
            rows /= 2;
            fits = loading.memory.try_set(need(loading, rows, bytes * rows / batch.num_rows()));
        }
        if rows < batch.num_rows() {
            segment.rest = Some(batch.slice(rows, batch.num_rows() - rows));
        }
        let piece = batch.slice(0, rows);
        drop(batch);
        let bytes = batch_bytes(&piece);
        // So few rows have their place in the floor.
        loading.memory.set(need(loading, rows, bytes));
        loading.rows += rows;
        loading.bytes += bytes;
        loading.pieces.push(piece);
        Ok(Loaded::Some)
    }

    fn make_block(&mut self) -> Result<Progress> {
        let State::Loading(Some(loading)) = std::mem::replace(&mut self.state, State::Loading(None)) else {
            return Ok(Progress::More);
        };
        if loading.rows == 0 {
            return Ok(Progress::More);
        }
        self.tables.list[0] = Held::Table(Box::new(self.home.table(loading.pieces, loading.memory)?));
        self.slack.set(0);
        self.state = State::Passing;
        if self.probe.is_none() {
            self.end_of_pass();
        } else {
            self.rewind();
        }
        Ok(Progress::More)
    }

    /// Starts to read probe rows from the first.
    fn rewind(&mut self) {
        if let Some(probe) = &mut self.probe {
            probe.rewind();
        }
        self.met = 0;
        self.before = self.now.take().map(FlagWriter::into_reader);
    }

    fn end_of_pass(&mut self) {
        if self.home.shape.flags() && self.tables.table(0).is_some() {
            self.state = State::BuildRows(0);
        } else {
            self.next_block();
        }
    }

    /// The next slice of probe rows, or what else there is to say.
    fn next_slice(&mut self, spill_others: &mut dyn FnMut() -> Result<usize>) -> Result<Option<Next>> {
        let slice_rows = self.home.slice_rows;
        if let Some((batch, start)) = &mut self.current {
            let rows = slice_rows.min(batch.num_rows() - *start);
            let slice = batch.slice(*start, rows);
            *start += rows;
            if *start == batch.num_rows() {
                self.current = None;
            }
            return Ok(Some(Next::Batch(slice)));
        }
        let Some(probe) = &mut self.probe else { return Ok(Some(Next::End)) };
        while !probe.is_reading() && !self.home.has_room(self.home.fetch_bytes()) {
            let freed = match spill_others()? {
                0 => free_rows(&mut None, &mut self.segments, &mut self.now, usize::MAX)?,
                freed => freed,
            };
            if freed == 0 {
                break;
            }
        }
        match probe.next()? {
            Next::Batch(batch) if batch.num_rows() > 0 => {
                self.current = Some((batch, 0));
                Ok(None)
            }
            Next::Batch(_) => Ok(None),
            other => Ok(Some(other)),
        }
    }

    fn pass(&mut self, out: &mut Outbox, spill_others: &mut dyn FnMut() -> Result<usize>) -> Result<Progress> {
        let shape = &self.home.shape;
        if let Some(cursor) = &mut self.cursor {
            cursor.step(shape, &mut self.tables, self.home.limits, true, out)?;
            if cursor.is_done() {
                let matched = self.cursor.take().and_then(Cursor::into_matched);
                if let (Some(now), Some(matched)) = (&mut self.now, matched) {
                    now.push(&matched)?;
                }
            }
            return Ok(Progress::More);
        }
        if self.records() {
            // Its flags are read first: that may have to wait, and a slice is taken once.
            if let Some(before) = &mut self.before
                && let Some(ticket) = before.fill(self.home.slice_rows)?
            {
                return Ok(Progress::Blocked(ticket));
            }
            if self.now.is_none() {
                self.now = Some(FlagWriter::new(&self.home));
            }
        }
        let slice = match self.next_slice(spill_others)? {
            None => return Ok(Progress::More),
            Some(Next::Blocked(ticket)) => return Ok(Progress::Blocked(ticket)),
            Some(Next::End) => {
                self.end_of_pass();
                return Ok(Progress::More);
            }
            Some(Next::Batch(slice)) => slice,
        };
        let rows = slice.num_rows();
        let skipped = self.skip.saturating_sub(self.met).min(rows);
        self.met += rows;
        let matched = if self.records() {
            self.before.as_mut().map_or_else(|| Flags::new(rows), |before| before.take(rows))
        } else {
            Flags::new(rows)
        };
        if skipped == rows || self.tables.table(0).is_none() {
            if let Some(now) = &mut self.now {
                now.push(&matched)?;
            }
            return Ok(Progress::More);
        }
        let home = &self.home;
        let cursor = Cursor::recorded(&home.shape, &home.encoder, &self.tables, slice, matched, skipped)?;
        self.cursor = Some(cursor);
        Ok(Progress::More)
    }

    /// After the last block: the probe rows that are emitted for themselves.
    fn probe_rows(&mut self, out: &mut Outbox, spill_others: &mut dyn FnMut() -> Result<usize>) -> Result<Progress> {
        if let Some(before) = &mut self.before
            && let Some(ticket) = before.fill(self.home.slice_rows)?
        {
            return Ok(Progress::Blocked(ticket));
        }
        match self.next_slice(spill_others)? {
            None => {}
            Some(Next::Blocked(ticket)) => return Ok(Progress::Blocked(ticket)),
            Some(Next::End) => self.state = State::Done,
            Some(Next::Batch(slice)) => {
                let rows = slice.num_rows();
                let matched = self.before.as_mut().map_or_else(|| Flags::new(rows), |before| before.take(rows));
                let home = &self.home;
                let mut cursor = Cursor::by_matched(slice, matched);
                cursor.step(&home.shape, &mut self.tables, home.limits, true, out)?;
            }
        }
        Ok(Progress::More)
    }

    /// Writes up to `bytes` to disk; what that freed.
    pub(super) fn spill(&mut self, bytes: usize) -> Result<usize> {
        match free_rows(&mut self.probe, &mut self.segments, &mut self.now, bytes)? {
            0 => self.give_up(bytes),
            freed => Ok(freed),
        }
    }

    /// Gives up the block, so that its memory can be had.
    fn give_up(&mut self, bytes: usize) -> Result<usize> {
        // A pass that has not come further is not worth what it took to load the block.
        if !matches!(self.state, State::Passing) || self.cursor.is_some() || self.met <= self.skip {
            return Ok(0);
        }
        let Held::Table(table) = std::mem::replace(&mut self.tables.list[0], Held::Nothing) else { return Ok(0) };
        let held = self.home.memory.held();
        // The next block is smaller, or the two would change places for ever.
        self.most_bytes = (table.bytes / 2).max(self.home.frame_bytes);
        let mut rows = self.home.vec(&self.home.shape.stored_schema);
        for batch in self.home.rows_of(*table)? {
            rows.push(batch)?;
        }
        rows.spill(bytes)?;
        self.segments.push_back(Segment {
            rows: rows.drain().without_read_ahead(),
            rest: None,
            met: self.met.max(self.skip),
        });
        if !self.records() {
            self.current = None;
            self.end_of_pass();
        }
        Ok(held.saturating_sub(self.home.memory.held()).max(1))
    }
}

/// Writes to disk what waits in memory: all but the block.
fn free_rows(
    probe: &mut Option<SpillingVecReader>,
    segments: &mut VecDeque<Segment>,
    flags: &mut Option<FlagWriter>,
    bytes: usize,
) -> Result<usize> {
    let readers = probe.iter_mut().chain(segments.iter_mut().rev().map(|segment| &mut segment.rows));
    for reader in readers {
        let freed = reader.spill(bytes)?;
        if freed > 0 {
            return Ok(freed);
        }
    }
    flags.as_mut().map_or(Ok(0), |flags| flags.rows.spill(bytes))
}
