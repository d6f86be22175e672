//! A sequence of batches that is written at its end and read by several cursors, each of which only goes forward.
//!
//! ```text
//!    trailing cursor        current cursor                 newest batch
//!          ▼                      ▼                              ▼
//! ┄┄┄│ memory │ disk │ disk │ memory │ disk │ disk │ disk │ memory │
//! ```
//!
//! Batches that every cursor has passed are dropped. A batch that a cursor is in stays in memory; every other one
//! can be on disk. So reading takes a batch for each cursor, however far apart they are.

mod fold;

use std::collections::VecDeque;
use std::sync::Arc;

use aqueduct_runtime::Result;
use aqueduct_runtime::io::Ticket;
use aqueduct_runtime::memory::Reservation;
use aqueduct_runtime::spill::{Fetch, Fetched, SpillFile, SpilledBatch};
use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use parking_lot::Mutex;

use self::fold::Folded;
use super::desk::Desk;

/// A file that is longer than this is followed by another one, so that what was read leaves the disk.
const FILE_BYTES: u64 = 64 << 20;

/// Entries that become one, and how many a cursor is kept away from that.
const FOLDED: usize = 32;
const NEAR: u64 = 8;

/// A batch on disk.
type Written = (Arc<Mutex<SpillFile>>, SpilledBatch);

/// Batches between the last cursor and the newest row.
pub(super) struct Tape {
    schema: SchemaRef,
    entries: VecDeque<Entry>,
    cursors: Vec<u64>,
    end: u64,
    file: Option<Arc<Mutex<SpillFile>>>,
    /// Where it is written down where batches are.
    index: Option<Arc<Mutex<SpillFile>>>,
    /// Number of entries from which on some are folded.
    fold_at: usize,
    /// Entries, whose number is bounded only by the disk.
    held: Reservation,
}

struct Entry {
    start: u64,
    rows: u64,
    /// In memory, if it is.
    batch: Option<RecordBatch>,
    disk: Option<Written>,
    /// Many entries, of which only where they are written down is remembered.
    folded: Option<Box<Folded>>,
    fetch: Option<Box<(Fetch, Reservation)>>,
}

impl Entry {
    fn end(&self) -> u64 {
        self.start + self.rows
    }
}

/// What a cursor stands on.
pub(super) enum At {
    /// A row of this batch.
    Block(Block),
    /// A row on disk, which is on its way.
    Blocked(Ticket),
    /// The row after the newest one.
    End,
}

/// A batch of a tape.
#[derive(Clone)]
pub(super) struct Block {
    /// Position of its first row.
    pub(super) start: u64,
    /// Position after its last row.
    pub(super) end: u64,
    pub(super) batch: RecordBatch,
}

impl Block {
    pub(super) fn has(&self, position: u64) -> bool {
        self.start <= position && position < self.end
    }
}

impl Tape {
    /// An empty tape with `cursors` cursors at its start.
    pub(super) fn new(desk: &Desk, schema: SchemaRef, cursors: usize) -> Self {
        Self {
            schema,
            entries: VecDeque::new(),
            cursors: vec![0; cursors],
            end: 0,
            file: None,
            index: None,
            fold_at: 2 * FOLDED,
            held: desk.account.reservation(),
        }
    }

    pub(super) fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The position after the newest row.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// Adds a batch that is counted already.
    pub(super) fn push(&mut self, batch: RecordBatch, desk: &mut Desk) -> Result<()> {
        let rows = batch.num_rows() as u64;
        if rows == 0 {
            return Ok(());
        }
        self.entries.push_back(Entry {
            start: self.end,
            rows,
            batch: Some(batch),
            disk: None,
            folded: None,
            fetch: None,
        });
        self.end += rows;
        if self.entries.len() >= self.fold_at {
            self.fold(desk)?;
        }
        let bytes = self.remembered_bytes();
        desk.remember(&mut self.held, bytes);
        self.drop_passed();
        Ok(())
    }

    pub(super) fn position(&self, cursor: usize) -> u64 {
        self.cursors[cursor]
    }

    fn index(&self, position: u64) -> usize {
        // Most cursors are in the first batches or in the last.
        match self.entries.front() {
            Some(first) if position < first.end() => 0,
            _ => self.entries.partition_point(|entry| entry.end() <= position),
        }
    }

    fn occupied(&self, index: usize) -> bool {
        let entry = &self.entries[index];
        self.cursors.iter().any(|cursor| entry.start <= *cursor && *cursor < entry.end())
    }

    /// Moves a cursor forward.
    pub(super) fn seek(&mut self, cursor: usize, position: u64) {
        let from = self.cursors[cursor];
        debug_assert!(from <= position, "cursors only go forward");
        if from == position {
            return;
        }
        let left = self.index(from);
        self.cursors[cursor] = position;
        if let Some(entry) = self.entries.get(left)
            && position >= entry.end()
        {
            if entry.disk.is_some() && !self.occupied(left) {
                self.entries[left].batch = None;
            }
            self.drop_passed();
        }
    }

    fn drop_passed(&mut self) {
        let least = self.cursors.iter().copied().min().unwrap_or(self.end);
        while self.entries.pop_front_if(|entry| entry.end() <= least).is_some() {}
        if self.entries.capacity() > 64 && self.entries.capacity() > 4 * self.entries.len() {
            self.entries.shrink_to(2 * self.entries.len());
            self.held.shrink(self.held.bytes().saturating_sub(self.remembered_bytes()));
        }
    }

    /// The batch that a cursor is in.
    pub(super) fn at(&mut self, cursor: usize, desk: &mut Desk) -> Result<At> {
        let position = self.cursors[cursor];
        if position >= self.end {
            return Ok(At::End);
        }
        let index = self.index(position);
        if let Some(ticket) = self.load(index, desk)? {
            return Ok(At::Blocked(ticket));
        }
        let (batch, was_on_disk) = match &self.entries[index] {
            Entry { batch: Some(batch), disk, start, rows, .. } => {
                (Block { start: *start, end: start + rows, batch: batch.clone() }, disk.is_some())
            }
            Entry { batch: None, .. } => return Ok(At::Blocked(desk.turn())),
        };
        if was_on_disk {
            self.read_ahead(index + 1, desk);
        }
        Ok(At::Block(batch))
    }

    /// Brings an entry into memory; what to wait for, if it is not there yet.
    fn load(&mut self, index: usize, desk: &mut Desk) -> Result<Option<Ticket>> {
        let entry = &mut self.entries[index];
        if entry.batch.is_some() {
            return Ok(None);
        }
        if entry.folded.is_some() {
            return self.unfold(index, desk);
        }
        if entry.fetch.is_none()
            && let Some((file, place)) = &entry.disk
        {
            let file = file.lock();
            let Some(memory) = desk.take(file.fetch_bytes(*place))? else { return Ok(Some(desk.turn())) };
            entry.fetch = Some(Box::new((file.fetch(*place), memory)));
        }
        let Some(reading) = &mut entry.fetch else { return Ok(None) };
        let (fetch, memory) = reading.as_mut();
        match fetch.poll()? {
            Fetched::Blocked(ticket) => Ok(Some(ticket)),
            Fetched::Ready(batch) => {
                desk.account.claim_from(&batch, memory);
                entry.batch = Some(batch);
                entry.fetch = None;
                Ok(None)
            }
        }
    }

    /// Starts to read an entry for which there is room.
    fn read_ahead(&mut self, index: usize, desk: &mut Desk) {
        if let Some(entry) = self.entries.get_mut(index)
            && entry.batch.is_none()
            && entry.fetch.is_none()
            && let Some((file, place)) = &entry.disk
        {
            let file = file.lock();
            if let Some(memory) = desk.take_spare(file.fetch_bytes(*place)) {
                entry.fetch = Some(Box::new((file.fetch(*place), memory)));
            }
        }
    }

    /// Writes the newest batches that no cursor is in, of `bytes` together; whether there were any.
    pub(super) fn spill(&mut self, bytes: usize, desk: &Desk) -> Result<bool> {
        let held = desk.account.held();
        let mut any = false;
        for index in (0..self.entries.len()).rev() {
            if held.saturating_sub(desk.account.held()) >= bytes {
                break;
            }
            let idle = self.entries[index].batch.is_none() && self.entries[index].fetch.is_none();
            if idle || self.occupied(index) {
                continue;
            }
            if let Entry { batch: Some(batch), disk: None, .. } = &self.entries[index] {
                let batch = batch.clone();
                let written = self.write(&batch, desk)?;
                self.entries[index].disk = Some(written);
            }
            self.entries[index].batch = None;
            self.entries[index].fetch = None;
            any = true;
        }
        Ok(any)
    }

    fn remembered_bytes(&self) -> usize {
        self.entries.capacity() * size_of::<Entry>()
    }

    /// Writes down where neighbouring batches on disk are, and forgets it.
    fn fold(&mut self, desk: &mut Desk) -> Result<()> {
        let mut kept = VecDeque::new();
        let mut run = Vec::new();
        let cursors = self.cursors.clone();
        for entry in std::mem::take(&mut self.entries) {
            let soon = entry.start.saturating_sub(NEAR * entry.rows);
            let near = |cursor: &u64| soon <= *cursor && *cursor < entry.end();
            let idle = entry.batch.is_none() && entry.fetch.is_none() && entry.disk.is_some();
            if idle && !cursors.iter().any(near) {
                run.push(entry);
            } else {
                kept.extend(run.drain(..));
                kept.push_back(entry);
            }
            if run.len() == FOLDED {
                kept.push_back(fold::folded(std::mem::take(&mut run), &mut self.index, desk)?);
            }
        }
        kept.extend(run);
        self.fold_at = kept.len() + FOLDED;
        self.entries = kept;
        Ok(())
    }

    /// Remembers again where batches are; what to wait for, unless this is done.
    fn unfold(&mut self, index: usize, desk: &mut Desk) -> Result<Option<Ticket>> {
        let entry = &mut self.entries[index];
        let Some(folded) = &entry.folded else { return Ok(None) };
        if entry.fetch.is_none() {
            let Some(memory) = desk.take(folded.bytes())? else { return Ok(Some(desk.turn())) };
            entry.fetch = Some(Box::new((folded.fetch(), memory)));
        }
        let Some(reading) = &mut entry.fetch else { return Ok(None) };
        match reading.0.poll()? {
            Fetched::Blocked(ticket) => Ok(Some(ticket)),
            Fetched::Ready(batch) => {
                let entries = folded.entries(entry.start, &batch);
                let rest = self.entries.split_off(index + 1);
                self.entries.pop_back();
                self.entries.extend(entries);
                self.entries.extend(rest);
                let bytes = self.remembered_bytes();
                desk.remember(&mut self.held, bytes);
                // The cursor may be in any of these.
                Ok(Some(desk.turn()))
            }
        }
    }

    fn write(&mut self, batch: &RecordBatch, desk: &Desk) -> Result<Written> {
        let file = match &self.file {
            Some(file) if file.lock().bytes() < FILE_BYTES => Arc::clone(file),
            _ => {
                let file = desk.spill.create("window", SchemaRef::clone(&self.schema));
                Arc::clone(self.file.insert(Arc::new(Mutex::new(file))))
            }
        };
        let place = file.lock().append(batch)?;
        Ok((file, place))
    }
}
