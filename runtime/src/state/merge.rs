//! A stable merge of sorted sources, some in memory and some on disk.
//!
//! Sources are in the order of their rows' arrival, so that of equal keys the one of the earlier source comes
//! first. A source on disk holds one frame in memory, and is charged for it once, for as long as it lasts.

use std::collections::VecDeque;
use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::compute::interleave_record_batch;
use arrow::record_batch::RecordBatch;
use arrow::row::{RowConverter, Rows};
use parking_lot::Mutex;

use super::reserve_needed;
use crate::batch::{batch_bytes, compact};
use crate::error::Result;
use crate::io::Ticket;
use crate::memory::{Account, Reservation};
use crate::spill::{Fetch, Fetched, SpillFile, SpilledBatch};

/// Frames that are read to their end and kept until the next output batch is made of them.
pub(super) const MAX_RETIRED: usize = 2;

/// A file of many runs.
pub(super) type RunFile = Arc<Mutex<SpillFile>>;

/// Sorted rows on disk.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) file: RunFile,
    pub(super) frames: VecDeque<SpilledBatch>,
    /// Bytes in memory that reading it takes: its largest frame with its keys.
    pub(super) cost_bytes: usize,
}

/// A batch in memory and the order in which its rows are sorted.
#[derive(Debug)]
pub(super) struct Sorted {
    pub(super) batch: RecordBatch,
    pub(super) keys: Rows,
    pub(super) order: Vec<u32>,
    /// Rows that were given out already.
    pub(super) at: usize,
    /// Keys and order; the batch is claimed.
    pub(super) held: Reservation,
}

impl Sorted {
    /// Bytes of memory that go with it.
    pub(super) fn bytes(&self) -> usize {
        batch_bytes(&self.batch) + self.held.bytes()
    }
}

/// Which columns of a batch are the keys, and how they become rows.
#[derive(Debug)]
pub(super) struct Keys {
    pub(super) columns: Vec<usize>,
    pub(super) converter: RowConverter,
}

impl Keys {
    pub(super) fn rows(&self, batch: &RecordBatch) -> Result<Rows> {
        let columns: Vec<ArrayRef> = self.columns.iter().map(|at| Arc::clone(batch.column(*at))).collect();
        Ok(self.converter.convert_columns(&columns)?)
    }
}

#[derive(Debug)]
pub(super) enum Source {
    Memory(Sorted),
    Disk {
        run: Run,
        head: Option<Head>,
        fetch: Option<Fetch>,
        ahead: Option<Reservation>,
        held: Reservation,
    },
    /// Read to its end.
    Done,
}

/// The frame that a source on disk is at.
#[derive(Debug)]
pub(super) struct Head {
    batch: RecordBatch,
    keys: Rows,
    at: usize,
}

impl Source {
    fn key(&self) -> Option<&[u8]> {
        match self {
            Source::Memory(sorted) => {
                let row = *sorted.order.get(sorted.at)?;
                Some(sorted.keys.row(row as usize).data())
            }
            Source::Disk { head, .. } => {
                let head = head.as_ref().filter(|head| head.at < head.batch.num_rows())?;
                Some(head.keys.row(head.at).data())
            }
            Source::Done => None,
        }
    }
}

/// A batch that a merge gave out, and the bytes of its keys.
#[derive(Debug)]
pub(super) struct Merged {
    pub(super) batch: RecordBatch,
    pub(super) key_bytes: usize,
}

#[derive(Debug)]
pub(super) enum MergeStep {
    Batch(Merged),
    Blocked(Ticket),
    End,
}

/// How large output batches may be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    pub(super) rows: usize,
    pub(super) bytes: usize,
}

#[derive(Debug)]
pub(super) struct Merge {
    account: Account,
    /// Bytes that reading ahead leaves free, for the output.
    spare_bytes: usize,
    sources: Vec<Source>,
    /// Sources that have a row, the least first.
    heap: Vec<usize>,
    /// Sources whose next frame must come before anything else can.
    missing: Vec<usize>,
    /// Batches that `picks` refer to.
    slots: Vec<RecordBatch>,
    /// Bytes of an average row of each slot.
    row_bytes: Vec<usize>,
    /// The slot of each source's current batch.
    slot_of: Vec<Option<usize>>,
    picks: Vec<(usize, usize)>,
    picked_bytes: usize,
    key_bytes: usize,
    retired: usize,
}

impl Merge {
    /// A merge of `sources` that leaves `spare_bytes` of the account free when it reads ahead.
    pub(super) fn new(account: &Account, sources: Vec<Source>, spare_bytes: usize) -> Self {
        let mut merge = Self {
            account: account.clone(),
            spare_bytes,
            slot_of: Vec::new(),
            sources,
            heap: Vec::new(),
            missing: Vec::new(),
            slots: Vec::new(),
            row_bytes: Vec::new(),
            picks: Vec::new(),
            picked_bytes: 0,
            key_bytes: 0,
            retired: 0,
        };
        merge.rebuild();
        merge
    }

    /// A merge of `sources` after they were changed; nothing may be picked.
    fn rebuild(&mut self) {
        self.slots.clear();
        self.row_bytes.clear();
        self.slot_of = vec![None; self.sources.len()];
        self.retired = 0;
        self.heap.clear();
        self.missing.clear();
        for (index, source) in self.sources.iter().enumerate() {
            if source.key().is_some() {
                self.heap.push(index);
            } else if matches!(source, Source::Disk { run, fetch, .. } if fetch.is_some() || !run.frames.is_empty()) {
                self.missing.push(index);
            }
        }
        for at in (0..self.heap.len() / 2).rev() {
            self.sift_down(at);
        }
    }

    fn before(&self, a: usize, b: usize) -> bool {
        // Only sources that have a row are in the heap.
        (self.sources[a].key(), a) < (self.sources[b].key(), b)
    }

    fn sift_down(&mut self, mut at: usize) {
        loop {
            let mut least = at;
            for child in [2 * at + 1, 2 * at + 2] {
                if child < self.heap.len() && self.before(self.heap[child], self.heap[least]) {
                    least = child;
                }
            }
            if least == at {
                return;
            }
            self.heap.swap(at, least);
            at = least;
        }
    }

    fn sift_up(&mut self, mut at: usize) {
        while at > 0 && self.before(self.heap[at], self.heap[(at - 1) / 2]) {
            self.heap.swap(at, (at - 1) / 2);
            at = (at - 1) / 2;
        }
    }

    /// The next rows in order, at most `bounds` of them.
    pub(super) fn next(&mut self, keys: &Keys, bounds: Bounds) -> Result<MergeStep> {
        loop {
            while let Some(&index) = self.missing.last() {
                if let Some(ticket) = self.load(index, keys)? {
                    // The others may be read meanwhile.
                    for at in 0..self.missing.len() {
                        self.start(self.missing[at])?;
                    }
                    return Ok(MergeStep::Blocked(ticket));
                }
                self.missing.pop();
                if self.sources[index].key().is_some() {
                    self.heap.push(index);
                    self.sift_up(self.heap.len() - 1);
                }
            }
            let Some(&index) = self.heap.first() else {
                return Ok(if self.picks.is_empty() { MergeStep::End } else { MergeStep::Batch(self.flush()?) });
            };
            self.pick(index);
            if self.sources[index].key().is_some() {
                self.sift_down(0);
            } else {
                self.exhausted(index)?;
            }
            let full = self.picks.len() >= bounds.rows || self.picked_bytes >= bounds.bytes;
            if full || self.retired > MAX_RETIRED {
                return Ok(MergeStep::Batch(self.flush()?));
            }
        }
    }

    /// Takes the first row of the source at the top.
    fn pick(&mut self, index: usize) {
        let source = &mut self.sources[index];
        self.key_bytes += source.key().map_or(0, <[u8]>::len) + size_of::<usize>();
        let (batch, row) = match source {
            Source::Memory(sorted) => {
                let row = sorted.order[sorted.at] as usize;
                sorted.at += 1;
                (&sorted.batch, row)
            }
            Source::Disk { head: Some(head), .. } => {
                head.at += 1;
                (&head.batch, head.at - 1)
            }
            Source::Disk { head: None, .. } | Source::Done => return,
        };
        let slot = *self.slot_of[index].get_or_insert_with(|| {
            self.row_bytes.push(batch_bytes(batch) / batch.num_rows().max(1));
            self.slots.push(batch.clone());
            self.slots.len() - 1
        });
        self.picks.push((slot, row));
        self.picked_bytes += self.row_bytes[slot];
    }

    /// Moves on from a batch whose last row was picked.
    fn exhausted(&mut self, index: usize) -> Result<()> {
        self.heap.swap_remove(0);
        if !self.heap.is_empty() {
            self.sift_down(0);
        }
        self.slot_of[index] = None;
        match &mut self.sources[index] {
            // Its batch lives on in a slot until the rows picked from it are copied.
            Source::Memory(_) | Source::Done => self.sources[index] = Source::Done,
            Source::Disk { run, head, fetch, held, .. } => {
                *head = None;
                self.retired += 1;
                if fetch.is_some() || !run.frames.is_empty() {
                    self.missing.push(index);
                } else {
                    held.shrink(usize::MAX);
                    self.sources[index] = Source::Done;
                }
            }
        }
        if self.missing.last() == Some(&index) { self.start(index) } else { Ok(()) }
    }

    /// Starts to read the next frame of a source, unless that is under way.
    fn start(&mut self, index: usize) -> Result<()> {
        if let Source::Disk { run, fetch: fetch @ None, held, .. } = &mut self.sources[index]
            && let Some(frame) = run.frames.pop_front()
        {
            if held.bytes() == 0 {
                *held = reserve_needed(&self.account, run.cost_bytes)?;
            }
            *fetch = Some(run.file.lock().fetch(frame));
        }
        Ok(())
    }

    /// Makes the next frame of a source its head, or says what to wait for.
    fn load(&mut self, index: usize, keys: &Keys) -> Result<Option<Ticket>> {
        self.start(index)?;
        let Source::Disk { run, head, fetch, ahead, .. } = &mut self.sources[index] else { return Ok(None) };
        let Some(pending) = fetch else { return Ok(None) };
        let batch = match pending.poll()? {
            Fetched::Blocked(ticket) => return Ok(Some(ticket)),
            Fetched::Ready(batch) => batch,
        };
        *fetch = None;
        *ahead = None;
        if batch.num_rows() > 0 {
            *head = Some(Head { keys: keys.rows(&batch)?, batch, at: 0 });
        }
        // With room to spare, the frame after it is read while this one is merged.
        if let Some(&frame) = run.frames.front()
            && self.account.room() >= run.cost_bytes + self.spare_bytes
            && let Some(reservation) = self.account.try_reserve(run.cost_bytes)
        {
            *ahead = Some(reservation);
            *fetch = Some(run.file.lock().fetch(frame));
            run.frames.pop_front();
        }
        Ok(None)
    }

    /// The picked rows as a batch of their own.
    fn flush(&mut self) -> Result<Merged> {
        let slots: Vec<&RecordBatch> = self.slots.iter().collect();
        let batch = compact(interleave_record_batch(&slots, &self.picks)?);
        let key_bytes = std::mem::take(&mut self.key_bytes);
        self.picks.clear();
        self.picked_bytes = 0;
        self.retired = 0;
        self.slots.clear();
        self.row_bytes.clear();
        self.slot_of.fill(None);
        Ok(Merged { batch, key_bytes })
    }

    /// Rows that were picked for a batch that is not full yet.
    pub(super) fn take_picked(&mut self) -> Result<Option<Merged>> {
        if self.picks.is_empty() { Ok(None) } else { self.flush().map(Some) }
    }

    /// Takes neighbouring sources out of memory, of up to `bytes` together, for someone to write them as one
    /// run; returns where that run goes. Nothing may be picked.
    pub(super) fn take_memory(&mut self, bytes: usize) -> Option<(usize, Vec<Source>)> {
        let in_memory = |source: &Source| matches!(source, Source::Memory(sorted) if sorted.at < sorted.order.len());
        let first = self.sources.iter().position(in_memory)?;
        let (mut last, mut taken) = (first, 0);
        for source in &self.sources[first..] {
            match source {
                Source::Memory(sorted) if taken == 0 || taken + sorted.bytes() <= bytes => taken += sorted.bytes(),
                _ => break,
            }
            last += 1;
        }
        self.slots.clear();
        self.row_bytes.clear();
        Some((first, self.sources.drain(first..last).collect()))
    }

    /// Reserves what the sources on disk need to be read; `false` if that is not to be had now.
    pub(super) fn reserve_heads(&mut self) -> bool {
        self.sources.iter_mut().all(|source| match source {
            Source::Disk { run, held, .. } => held.bytes() > 0 || held.try_grow(run.cost_bytes),
            Source::Memory(_) | Source::Done => true,
        })
    }

    /// Puts `run` where [`Merge::take_memory`] has taken sources from.
    pub(super) fn put_run(&mut self, at: usize, run: Run) {
        self.sources.insert(at, disk_source(run, self.account.reservation()));
        self.rebuild();
    }
}

/// A run as a source; `held` is what was reserved for reading it, or empty.
pub(super) fn disk_source(run: Run, held: Reservation) -> Source {
    Source::Disk { run, head: None, fetch: None, ahead: None, held }
}
