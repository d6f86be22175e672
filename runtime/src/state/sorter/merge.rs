//! A stable merge of sorted sources, some in memory and some on disk.
//!
//! A source on disk holds one frame in memory, and is charged for it once, for as long as it lasts. Output batches
//! are paid for in the same way: none of them is claimed.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;

use super::chunk::Chunk;
use super::keys::Keys;
use super::picker::{Bounds, Merged, Picked, Picker};
use crate::error::Result;
use crate::io::Ticket;
use crate::memory::Reservation;
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

/// Where rows come from.
#[derive(Debug)]
pub(super) enum Source {
    Memory(Chunk),
    Disk(DiskSource),
}

/// A run that is being read.
#[derive(Debug)]
pub(super) struct DiskSource {
    run: Run,
    /// The frame that is being read.
    fetch: Option<(SpilledBatch, Fetch)>,
    ahead: Option<Reservation>,
    /// What was reserved for reading it; empty until then.
    held: Reservation,
}

impl DiskSource {
    pub(super) fn new(run: Run, held: Reservation) -> Self {
        Self { run, fetch: None, ahead: None, held }
    }

    fn is_read(&self) -> bool {
        self.fetch.is_none() && self.run.frames.is_empty()
    }
}

#[derive(Debug)]
pub(super) enum MergeStep {
    Batch(Merged),
    Blocked(Ticket),
    End,
}

#[derive(Debug)]
pub(super) struct Merge {
    /// For what is read to its end, and for the output.
    beside: Reservation,
    /// Whether frames are read before they are needed.
    reads_ahead: bool,
    picker: Picker,
    /// The rest of each source that is on disk.
    disks: Vec<Option<DiskSource>>,
    /// Sources whose next frame must come before anything else can.
    missing: Vec<usize>,
    retired: usize,
}

impl Merge {
    /// A merge of `sources`, whose output `beside` pays for.
    pub(super) fn new(sources: Vec<Source>, beside: Reservation) -> Self {
        let mut merge = Self {
            beside,
            reads_ahead: true,
            picker: Picker::default(),
            disks: Vec::new(),
            missing: Vec::new(),
            retired: 0,
        };
        let mut chunks = Vec::new();
        for source in sources {
            let (chunk, disk) = match source {
                Source::Memory(chunk) => (Some(chunk), None),
                Source::Disk(disk) => (None, Some(disk)),
            };
            chunks.push(chunk);
            merge.disks.push(disk);
        }
        merge.restart(chunks);
        merge
    }

    /// Whether it may take what floats to read frames before they are needed.
    pub(super) fn reading_ahead(self, reads_ahead: bool) -> Self {
        Self { reads_ahead, ..self }
    }

    /// Goes on with sources that were changed; nothing may be picked.
    fn restart(&mut self, chunks: Vec<Option<Chunk>>) {
        let absent = |source: &usize| {
            chunks[*source].is_none() && self.disks[*source].as_ref().is_some_and(|disk| !disk.is_read())
        };
        self.missing = (0..chunks.len()).filter(absent).collect();
        self.retired = 0;
        self.picker.replace(chunks);
    }

    /// The next rows in order, at most `bounds` of them.
    pub(super) fn next(&mut self, keys: &Keys, bounds: Bounds) -> Result<MergeStep> {
        loop {
            while let Some(&source) = self.missing.last() {
                if let Some(ticket) = self.load(source, keys)? {
                    // The others may be read meanwhile.
                    for at in 0..self.missing.len() {
                        self.start(self.missing[at]);
                    }
                    return Ok(MergeStep::Blocked(ticket));
                }
                self.missing.pop();
            }
            match self.picker.pick(bounds) {
                Picked::Full => return Ok(MergeStep::Batch(self.flush()?)),
                Picked::End if self.picker.picked_rows() == 0 => return Ok(MergeStep::End),
                Picked::End => return Ok(MergeStep::Batch(self.flush()?)),
                Picked::Exhausted(source) => self.exhausted(source),
            }
            if self.retired > MAX_RETIRED {
                return Ok(MergeStep::Batch(self.flush()?));
            }
        }
    }

    /// Moves on from a chunk whose last row was picked.
    fn exhausted(&mut self, source: usize) {
        match &mut self.disks[source] {
            Some(disk) if !disk.is_read() => {
                self.retired += 1;
                self.missing.push(source);
                self.start(source);
            }
            read => {
                self.retired += usize::from(read.is_some());
                *read = None;
                self.picker.end(source);
            }
        }
    }

    /// Starts to read the next frame of a source, unless that is under way.
    fn start(&mut self, source: usize) {
        if let Some(DiskSource { run, fetch: fetch @ None, held, .. }) = &mut self.disks[source]
            && let Some(frame) = run.frames.pop_front()
        {
            debug_assert!(held.bytes() > 0, "a frame is paid for before it is read");
            *fetch = Some((frame, run.file.lock().fetch(frame)));
        }
    }

    /// Gives a source its next frame, or says what to wait for.
    fn load(&mut self, source: usize, keys: &Keys) -> Result<Option<Ticket>> {
        loop {
            self.start(source);
            let Some(DiskSource { run, fetch, ahead, held }) = &mut self.disks[source] else { return Ok(None) };
            let Some((_, pending)) = fetch else {
                // It has no rows left.
                self.picker.end(source);
                return Ok(None);
            };
            let batch = match pending.poll()? {
                Fetched::Blocked(ticket) => return Ok(Some(ticket)),
                Fetched::Ready(batch) => batch,
            };
            *fetch = None;
            *ahead = None;
            let account = held.account();
            let chunk = Chunk::sorted(batch, keys, account)?;
            // With room to spare, the frame after it is read while this one is merged.
            if self.reads_ahead
                && let Some(&frame) = run.frames.front()
                && let Some(reservation) = account.try_reserve(run.cost_bytes)
            {
                *ahead = Some(reservation);
                *fetch = Some((frame, run.file.lock().fetch(frame)));
                run.frames.pop_front();
            }
            if chunk.left() > 0 {
                self.picker.set(source, chunk);
                return Ok(None);
            }
        }
    }

    /// The picked rows as a batch of their own.
    fn flush(&mut self) -> Result<Merged> {
        self.retired = 0;
        self.picker.flush()
    }

    /// Rows that were picked for a batch that is not full yet.
    pub(super) fn take_picked(&mut self) -> Result<Option<Merged>> {
        if self.is_picking() { self.flush().map(Some) } else { Ok(None) }
    }

    /// Takes neighbouring chunks out of memory, of up to `bytes` together, for someone to write them as one
    /// run; returns where that run goes. Nothing may be picked.
    pub(super) fn take_memory(&mut self, bytes: usize) -> Option<(usize, Vec<Source>)> {
        let mut chunks = self.picker.take();
        let in_memory = |source: &usize| self.disks[*source].is_none() && chunks[*source].is_some();
        let Some(first) = (0..chunks.len()).find(in_memory) else {
            self.restart(chunks);
            return None;
        };
        let (mut last, mut taken) = (first, 0);
        while let (Some(Some(chunk)), Some(None)) = (chunks.get(last), self.disks.get(last))
            && (taken == 0 || taken + chunk.bytes() <= bytes)
        {
            taken += chunk.bytes();
            last += 1;
        }
        let sources = chunks.drain(first..last).flatten().map(Source::Memory).collect();
        self.disks.drain(first..last);
        self.restart(chunks);
        Some((first, sources))
    }

    /// Reserves `beside_bytes` for the output, and what the sources on disk need to be read; `false` if that is
    /// not to be had now.
    pub(super) fn is_paid(&mut self, beside_bytes: usize) -> bool {
        (self.beside.bytes() >= beside_bytes || self.beside.try_set(beside_bytes))
            && self
                .disks
                .iter_mut()
                .flatten()
                .all(|disk| disk.held.bytes() > 0 || disk.held.try_grow(disk.run.cost_bytes))
    }

    /// Whether rows are picked for a batch that is not full yet.
    pub(super) fn is_picking(&self) -> bool {
        self.picker.picked_rows() > 0
    }

    /// Whether rows of it are in memory that could go to disk.
    pub(super) fn holds_memory(&self) -> bool {
        (0..self.disks.len()).any(|source| self.disks[source].is_none() && self.picker.chunk(source).is_some())
    }

    /// The rows that are left as runs, for a merge of fewer of them. None may be in memory only, or be picked.
    pub(super) fn into_runs(mut self) -> Result<VecDeque<Run>> {
        let mut runs = VecDeque::new();
        for (chunk, disk) in self.picker.take().into_iter().zip(self.disks) {
            let Some(DiskSource { mut run, fetch, .. }) = disk else { continue };
            if let Some((frame, _)) = fetch {
                run.frames.push_front(frame);
            }
            if let Some(chunk) = chunk {
                let rest = run.file.lock().append(&chunk.rest()?)?;
                run.frames.push_front(rest);
            }
            if !run.frames.is_empty() {
                runs.push_back(run);
            }
        }
        Ok(runs)
    }

    /// Puts `run` where [`Merge::take_memory`] has taken sources from.
    pub(super) fn put_run(&mut self, at: usize, run: Run) {
        let mut chunks = self.picker.take();
        chunks.insert(at, None);
        self.disks.insert(at, Some(DiskSource::new(run, self.beside.account().reservation())));
        self.restart(chunks);
    }
}
