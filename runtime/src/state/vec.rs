//! A sequence of batches that keeps its order across memory and disk.
//!
//! What comes while memory is short goes to disk at once; what is in memory already stays there until another
//! task needs the room. So the oldest batches are read from memory, while the first ones on disk are fetched.

use std::collections::VecDeque;

use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;
use arrow::record_batch::{RecordBatch, RecordBatchOptions};

use super::{Next, PIECE_BYTES, budget_bytes, for_each_piece, kept_bytes, reserve_needed};
use crate::batch::batch_bytes;
use crate::error::Result;
use crate::memory::{Account, Reservation};
use crate::spill::{Fetch, Fetched, SpillFile, SpillSpace, SpilledBatch};

/// Small batches are written together, so that what is remembered of each does not add up.
const COALESCED_BYTES: usize = 256 << 10;
/// Batches that are read before they are asked for, if there is room for them.
const READ_AHEAD: usize = 2;

/// A vector of batches that spills.
#[derive(Debug)]
pub struct SpillingVec {
    account: Account,
    space: SpillSpace,
    schema: SchemaRef,
    piece_bytes: usize,
    places: Vec<Place>,
    /// No place from here on is in memory.
    memory_end: usize,
    file: Option<SpillFile>,
    rows: usize,
    /// Bytes of the batches in memory.
    memory_bytes: usize,
    /// Arrays' own structures, and the places.
    overhead: Reservation,
    /// Bytes of places that could not be paid for yet: a few for each frame, which cannot make room for themselves.
    owed_bytes: usize,
}

#[derive(Debug)]
enum Place {
    Memory { batch: RecordBatch, overhead_bytes: usize },
    Disk(SpilledBatch),
    Taken,
}

impl SpillingVec {
    /// An empty vector whose batches count in `account`.
    pub fn new(account: &Account, space: &SpillSpace, schema: SchemaRef) -> Self {
        Self {
            account: account.clone(),
            space: space.clone(),
            schema,
            piece_bytes: (budget_bytes(account) / 4).min(PIECE_BYTES),
            places: Vec::new(),
            memory_end: 0,
            file: None,
            rows: 0,
            memory_bytes: 0,
            overhead: account.reservation(),
            owed_bytes: 0,
        }
    }

    /// Writes no pieces larger than `bytes`, but for single rows: what reading one of them takes is then known.
    #[must_use]
    pub fn with_piece_bytes(self, bytes: usize) -> Self {
        Self { piece_bytes: bytes.clamp(1, PIECE_BYTES), ..self }
    }

    /// Bytes that it takes to work with all batches spilled: one that is read and one that was given out.
    pub fn min_memory(batch_bytes: usize) -> usize {
        4 * batch_bytes + (64 << 10)
    }

    /// Adds `batch` at the end. Its memory counts here from now on.
    ///
    /// # Errors
    ///
    /// What writing to disk says.
    pub fn push(&mut self, batch: RecordBatch) -> Result<()> {
        for_each_piece(batch, self.piece_bytes, &mut |piece| {
            self.rows += piece.num_rows();
            let place_bytes = size_of::<Place>();
            loop {
                if let Some(estimate) = self.account.try_reserve(kept_bytes(&piece) + place_bytes) {
                    self.keep(piece, estimate);
                    return Ok(());
                }
                if self.write_newest(0, COALESCED_BYTES)? == 0 {
                    break;
                }
            }
            let place = self.write(&piece)?;
            self.owed_bytes += place_bytes;
            if self.overhead.try_grow(self.owed_bytes) {
                self.owed_bytes = 0;
            }
            self.places.push(Place::Disk(place));
            Ok(())
        })
    }

    /// Keeps `batch` in memory, for which `estimate` was reserved.
    fn keep(&mut self, batch: RecordBatch, mut estimate: Reservation) {
        self.account.claim_from(&batch, &mut estimate);
        self.memory_bytes += batch_bytes(&batch);
        // What the buffers have left of it is for what holds them.
        let overhead_bytes = estimate.bytes().saturating_sub(size_of::<Place>());
        self.overhead.take_over(&mut estimate, overhead_bytes + size_of::<Place>());
        self.places.push(Place::Memory { batch, overhead_bytes });
        self.memory_end = self.places.len();
    }

    /// Rows pushed so far.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Whether nothing was pushed.
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// Bytes of the rows that are in memory.
    pub fn memory_bytes(&self) -> usize {
        self.memory_bytes
    }

    /// Whether any of it is or was on disk.
    pub fn is_spilled(&self) -> bool {
        self.file.is_some()
    }

    /// Schema of the batches.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// A reader that can be rewound, and keeps everything until it is dropped.
    pub fn into_reader(self) -> SpillingVecReader {
        SpillingVecReader { vec: self, at: 0, keeps: true, ahead: READ_AHEAD, reading: VecDeque::new(), next_read: 0 }
    }

    /// A reader that lets go of each batch as it gives it out.
    pub fn drain(self) -> SpillingVecReader {
        SpillingVecReader { keeps: false, ..self.into_reader() }
    }

    /// Writes up to `bytes` to disk, at most 4 MiB, the newest batches first; returns the bytes that it freed.
    ///
    /// # Errors
    ///
    /// What writing to disk says.
    pub fn spill(&mut self, bytes: usize) -> Result<usize> {
        self.spill_around(0, bytes)
    }

    /// Spills; places before and after `barrier` do not become one.
    fn spill_around(&mut self, barrier: usize, bytes: usize) -> Result<usize> {
        let held = self.account.held();
        let mut written = 0;
        while held.saturating_sub(self.account.held()) < bytes && written < PIECE_BYTES {
            match self.write_newest(barrier, COALESCED_BYTES)? {
                0 => break,
                bytes => written += bytes,
            }
        }
        Ok(held.saturating_sub(self.account.held()))
    }

    /// Writes the newest neighbours in memory as one frame, of up to `bytes` if they are several.
    fn write_newest(&mut self, barrier: usize, bytes: usize) -> Result<usize> {
        let memory = |place: &Place| matches!(place, Place::Memory { .. });
        let Some(last) = self.places[..self.memory_end].iter().rposition(memory) else {
            self.memory_end = 0;
            return Ok(0);
        };
        let bytes = bytes.min(self.piece_bytes);
        let (mut first, mut taken) = (last + 1, 0);
        while let Some(at) = first.checked_sub(1)
            && let Place::Memory { batch, .. } = &self.places[at]
            && (taken == 0 || (taken + batch_bytes(batch) <= bytes && first != barrier))
        {
            taken += batch_bytes(batch);
            first = at;
        }
        self.memory_end = first;
        let mut batches = Vec::new();
        for place in &mut self.places[first..=last] {
            if let Place::Memory { batch, overhead_bytes } = std::mem::replace(place, Place::Taken) {
                self.overhead.shrink(overhead_bytes);
                self.memory_bytes = self.memory_bytes.saturating_sub(batch_bytes(&batch));
                batches.push(batch);
            }
        }
        let whole = match batches.as_slice() {
            [one] => one.clone(),
            several => joined(&self.schema, several)?,
        };
        drop(batches);
        let written = self.write(&whole)?;
        self.places[first] = Place::Disk(written);
        if last + 1 == self.places.len() {
            self.places.truncate(first + 1);
            let gone = (last - first) * size_of::<Place>();
            let owed = gone.min(self.owed_bytes);
            self.owed_bytes -= owed;
            self.overhead.shrink(gone - owed);
        }
        Ok(written.memory_bytes.max(1))
    }

    fn write(&mut self, batch: &RecordBatch) -> Result<SpilledBatch> {
        let create = || self.space.create("vec", SchemaRef::clone(&self.schema));
        self.file.get_or_insert_with(create).append(batch)
    }
}

/// `batches` as one. `concat_batches` does not take rows without columns.
fn joined(schema: &SchemaRef, batches: &[RecordBatch]) -> Result<RecordBatch> {
    if schema.fields().is_empty() {
        let rows = batches.iter().map(RecordBatch::num_rows).sum();
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        return Ok(RecordBatch::try_new_with_options(SchemaRef::clone(schema), Vec::new(), &options)?);
    }
    Ok(concat_batches(schema, batches)?)
}

/// Reads a [`SpillingVec`] from its first batch to its last.
#[derive(Debug)]
pub struct SpillingVecReader {
    vec: SpillingVec,
    at: usize,
    keeps: bool,
    /// Batches that are read before they are asked for.
    ahead: usize,
    /// Reads under way, in order.
    reading: VecDeque<(Fetch, Reservation)>,
    /// The place after the last one that was read or is being read.
    next_read: usize,
}

impl SpillingVecReader {
    /// The next batch in the order they were pushed.
    ///
    /// # Errors
    ///
    /// What reading from disk says.
    #[expect(clippy::should_implement_trait, reason = "an iterator could not say that it waits")]
    pub fn next(&mut self) -> Result<Next> {
        while let Some(Place::Taken) = self.vec.places.get(self.at) {
            self.at += 1;
        }
        let Some(place) = self.vec.places.get_mut(self.at) else { return Ok(Next::End) };
        match place {
            Place::Memory { batch, .. } if self.keeps => {
                let batch = batch.clone();
                self.at += 1;
                self.read_ahead(false)?;
                Ok(Next::Batch(batch))
            }
            Place::Memory { .. } => {
                let Place::Memory { batch, overhead_bytes } = std::mem::replace(place, Place::Taken) else {
                    return Ok(Next::End);
                };
                self.vec.overhead.shrink(overhead_bytes);
                self.vec.memory_bytes = self.vec.memory_bytes.saturating_sub(batch_bytes(&batch));
                self.at += 1;
                self.read_ahead(false)?;
                Ok(Next::Batch(batch))
            }
            Place::Disk(_) => {
                self.read_ahead(true)?;
                // `read_ahead` starts with the place at hand, whatever it takes.
                let Some((fetch, _)) = self.reading.front_mut() else { return Ok(Next::End) };
                match fetch.poll()? {
                    Fetched::Blocked(ticket) => Ok(Next::Blocked(ticket)),
                    Fetched::Ready(batch) => {
                        if let Some((_, mut estimate)) = self.reading.pop_front() {
                            self.vec.account.claim_from(&batch, &mut estimate);
                        }
                        self.at += 1;
                        Ok(Next::Batch(batch))
                    }
                }
            }
            Place::Taken => Ok(Next::End),
        }
    }

    /// Reads nothing before it is asked for, where the memory that it took would be missing elsewhere.
    #[must_use]
    pub fn without_read_ahead(self) -> Self {
        Self { ahead: 0, ..self }
    }

    /// Whether the next batch is being read, and has its memory.
    pub fn is_reading(&self) -> bool {
        !self.reading.is_empty()
    }

    /// Starts again from the first batch.
    ///
    /// # Panics
    ///
    /// If the reader is one that lets go of what it has given out.
    pub fn rewind(&mut self) {
        assert!(self.keeps, "a drained vector cannot be read again");
        self.reading.clear();
        (self.at, self.next_read) = (0, 0);
    }

    /// Rows of the vector.
    pub fn rows(&self) -> usize {
        self.vec.rows
    }

    /// Bytes of the rows that are in memory, those given out by a reader that keeps them included.
    pub fn memory_bytes(&self) -> usize {
        self.vec.memory_bytes
    }

    /// As [`SpillingVec::spill`].
    ///
    /// # Errors
    ///
    /// What writing to disk says.
    pub fn spill(&mut self, bytes: usize) -> Result<usize> {
        let freed = self.vec.spill_around(self.at, bytes)?;
        // Places before the next read may be on disk now; those at hand are read when they are reached.
        if self.reading.is_empty() {
            self.next_read = self.at;
        } else if freed > 0 {
            self.reading.clear();
            self.next_read = self.at;
        }
        Ok(freed)
    }

    /// Starts to read what comes next as far as there is room; the batch at hand whatever it takes, if it is needed now.
    fn read_ahead(&mut self, needed: bool) -> Result<()> {
        self.next_read = self.next_read.max(self.at);
        while self.reading.len() <= self.ahead
            && let Some(place) = self.vec.places.get(self.next_read)
        {
            if let (Place::Disk(place), Some(file)) = (place, &self.vec.file) {
                let (place, bytes) = (*place, file.fetch_bytes(*place));
                let reservation = match self.vec.account.try_reserve(bytes) {
                    Some(reservation) => reservation,
                    None if !needed || self.next_read > self.at => break,
                    // The batch at hand is needed now: what comes later makes room for it.
                    None if self.vec.spill_around(self.at, bytes)? > 0 => continue,
                    None => reserve_needed(&self.vec.account, bytes)?,
                };
                if let Some(file) = &self.vec.file {
                    self.reading.push_back((file.fetch(place), reservation));
                }
            }
            self.next_read += 1;
        }
        Ok(())
    }
}
