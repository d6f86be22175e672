//! Picks rows of sorted chunks in order, and makes batches of them.
//!
//! Sources are in the order of their rows' arrival, so that of equal keys the one of the earlier source comes
//! first. A chunk that was read to its end lets its source go; its batches stay until the rows picked from them
//! are copied.

use arrow::compute::interleave_record_batch;
use arrow::record_batch::RecordBatch;

use super::chunk::Chunk;
use super::keys::NO_KEY;
use super::tree::LoserTree;
use crate::batch::{batch_bytes, compact};
use crate::error::Result;

const NO_SLOT: u32 = u32::MAX;

/// How large output batches may be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    pub(super) rows: usize,
    pub(super) bytes: usize,
}

impl Bounds {
    /// These, and no more than `rows` rows.
    pub(super) fn at_most(self, rows: usize) -> Self {
        Self { rows: self.rows.min(rows), ..self }
    }
}

/// A batch that was made of picked rows, and the bytes of its keys.
#[derive(Debug)]
pub(super) struct Merged {
    pub(super) batch: RecordBatch,
    pub(super) key_bytes: usize,
}

/// Why picking has stopped.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Picked {
    /// The bounds are reached.
    Full,
    /// The last row of this source's chunk was picked.
    Exhausted(usize),
    /// No source has a row.
    End,
}

/// Chunks, one for each source, and the rows that were picked from them.
#[derive(Debug, Default)]
pub(super) struct Picker {
    chunks: Vec<Option<Chunk>>,
    /// The number of each chunk's next key.
    prefixes: Vec<u128>,
    tree: Option<LoserTree>,
    /// Batches that `picks` refer to.
    slots: Vec<RecordBatch>,
    /// Bytes of an average row of each slot.
    row_bytes: Vec<usize>,
    /// The slot of each batch of each source's chunk.
    slot_of: Vec<Vec<u32>>,
    /// Batches that have a slot: source and number.
    used: Vec<(usize, usize)>,
    picks: Vec<(usize, usize)>,
    picked_bytes: usize,
    key_bytes: usize,
}

impl Picker {
    pub(super) fn new(chunks: Vec<Option<Chunk>>) -> Self {
        let mut picker = Self::default();
        picker.replace(chunks);
        picker
    }

    /// Goes on with other sources. Nothing may be picked.
    pub(super) fn replace(&mut self, chunks: Vec<Option<Chunk>>) {
        self.prefixes = chunks.iter().map(|chunk| chunk.as_ref().map_or(NO_KEY, Chunk::prefix)).collect();
        let slots = |chunk: &Option<Chunk>| vec![NO_SLOT; chunk.as_ref().map_or(0, Chunk::batches)];
        self.slot_of = chunks.iter().map(slots).collect();
        self.chunks = chunks;
        self.tree = None;
        self.slots.clear();
        self.row_bytes.clear();
        self.used.clear();
    }

    /// Takes all chunks. Nothing may be picked.
    pub(super) fn take(&mut self) -> Vec<Option<Chunk>> {
        let chunks = std::mem::take(&mut self.chunks);
        self.replace(Vec::new());
        chunks
    }

    pub(super) fn chunk(&self, source: usize) -> Option<&Chunk> {
        self.chunks[source].as_ref()
    }

    /// Gives a source that has none its chunk.
    pub(super) fn set(&mut self, source: usize, chunk: Chunk) {
        self.prefixes[source] = chunk.prefix();
        self.slot_of[source] = vec![NO_SLOT; chunk.batches()];
        let is_winner = self.tree.as_ref().is_some_and(|tree| tree.winner() == source);
        self.chunks[source] = Some(chunk);
        // Whoever is not the winner has lost to it with the key it had.
        if is_winner { self.replay() } else { self.tree = None }
    }

    /// Lets go of a source whose chunk was read to its end: it has no more.
    pub(super) fn end(&mut self, source: usize) {
        debug_assert!(self.chunks[source].is_none());
        if self.tree.as_ref().is_some_and(|tree| tree.winner() == source) {
            self.replay();
        }
    }

    /// Picks rows in order. After [`Picked::Exhausted`], [`Picker::set`] or [`Picker::end`] is to be called.
    pub(super) fn pick(&mut self, bounds: Bounds) -> Picked {
        if self.chunks.is_empty() {
            return Picked::End;
        }
        if self.tree.is_none() {
            let (prefixes, chunks) = (&self.prefixes, &self.chunks);
            self.tree = Some(LoserTree::new(chunks.len(), |a, b| beats(prefixes, chunks, a, b)));
        }
        let Some(tree) = &mut self.tree else { return Picked::End };
        loop {
            if self.picks.len() >= bounds.rows || self.picked_bytes >= bounds.bytes {
                return Picked::Full;
            }
            let source = tree.winner();
            let Some(chunk) = &mut self.chunks[source] else { return Picked::End };
            self.key_bytes += chunk.key_bytes();
            let (number, row) = chunk.advance();
            let mut slot = self.slot_of[source][number];
            if slot == NO_SLOT {
                let batch = chunk.batch(number);
                slot = self.slots.len() as u32;
                self.row_bytes.push(batch_bytes(batch) / batch.num_rows().max(1));
                self.slots.push(batch.clone());
                self.slot_of[source][number] = slot;
                self.used.push((source, number));
            }
            self.picks.push((slot as usize, row));
            self.picked_bytes += self.row_bytes[slot as usize];
            self.prefixes[source] = chunk.prefix();
            if chunk.left() == 0 {
                self.chunks[source] = None;
                return Picked::Exhausted(source);
            }
            let (prefixes, chunks) = (&self.prefixes, &self.chunks);
            tree.replay(|a, b| beats(prefixes, chunks, a, b));
        }
    }

    fn replay(&mut self) {
        let (prefixes, chunks) = (&self.prefixes, &self.chunks);
        if let Some(tree) = &mut self.tree {
            tree.replay(|a, b| beats(prefixes, chunks, a, b));
        }
    }

    /// Rows picked so far.
    pub(super) fn picked_rows(&self) -> usize {
        self.picks.len()
    }

    /// The picked rows as a batch of their own.
    pub(super) fn flush(&mut self) -> Result<Merged> {
        let slots: Vec<&RecordBatch> = self.slots.iter().collect();
        let batch = compact(interleave_record_batch(&slots, &self.picks)?);
        self.picks.clear();
        self.picked_bytes = 0;
        self.slots.clear();
        self.row_bytes.clear();
        for (source, number) in self.used.drain(..) {
            // A chunk that came after the one that was used has slots of its own.
            if let Some(slot) = self.slot_of[source].get_mut(number) {
                *slot = NO_SLOT;
            }
        }
        Ok(Merged { batch, key_bytes: std::mem::take(&mut self.key_bytes) })
    }
}

/// Whether the next row of source `a` comes before that of `b`.
#[inline]
fn beats(prefixes: &[u128], chunks: &[Option<Chunk>], a: usize, b: usize) -> bool {
    let (first, second) = (prefixes[a], prefixes[b]);
    if first != second {
        return first < second;
    }
    match (&chunks[a], &chunks[b]) {
        (Some(first), Some(second)) => (first.whole(), a) < (second.whole(), b),
        _ => a < b,
    }
}
