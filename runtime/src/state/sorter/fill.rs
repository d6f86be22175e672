//! The filling of a sorter: batches become chunks, chunks become runs where memory is short, and rows that cannot
//! be among the first are left out.

use arrow::array::UInt32Array;
use arrow::compute::take_record_batch;
use arrow::record_batch::RecordBatch;

use super::chunk::{Chunk, Encoded};
use super::keys::Key;
use super::merge::{Merge, MergeStep, Source};
use super::picker::Merged;
use super::{ExternalSorter, MOST_FIRST_ROWS, NewRun};
use crate::batch::{batch_bytes, compact, copied, is_shared};
use crate::error::Result;
use crate::io::Ticket;
use crate::state::{PIECE_BYTES, kept_bytes, pause};

impl ExternalSorter {
    pub(super) fn push_piece(&mut self, mut batch: RecordBatch) -> Result<()> {
        if let Some(bound) = &self.bound {
            let rows = self.keys.rows_before(&batch, bound)?;
            if rows.is_empty() {
                return Ok(());
            }
            if rows.len() < batch.num_rows() {
                batch = compact(take_record_batch(&batch, &UInt32Array::from(rows))?);
            }
        }
        let batch = unshared(batch);
        let keys = Encoded::of(&batch, &self.keys)?;
        let bytes = kept_bytes(&batch);
        // What it grows by depends on which chunk takes it.
        if !self.open.takes(batch.num_rows(), bytes, self.step_bytes) {
            self.close_chunk()?;
        }
        let mut needed;
        let mut paid = loop {
            needed = bytes + self.open.growth_bytes(&keys);
            if let Some(paid) = self.account.try_reserve(needed) {
                break Some(paid);
            }
            // As much at once as may be, so that runs are long.
            let piece = needed.max((self.buffered_bytes + self.open.bytes()) / 2).min(PIECE_BYTES);
            if self.write_oldest(piece)? == 0 {
                break None;
            }
        };
        self.buffered_rows += batch.num_rows();
        match &mut paid {
            Some(paid) => {
                self.account.claim_from(&batch, paid);
                self.open.push(batch, keys, std::mem::replace(paid, self.account.reservation()));
            }
            // A row that is larger than the floor counts where it did until it is written, which is at once.
            None => {
                self.open.push_unpaid(batch, keys);
                self.write_oldest(needed)?;
            }
        }
        match self.fetch {
            Some(fetch) if self.holds_needless(fetch) => self.keep_first(fetch),
            _ => Ok(()),
        }
    }

    /// Whether it is worth its time to find the first `fetch` rows of those in memory.
    fn holds_needless(&self, fetch: usize) -> bool {
        let rows = self.buffered_rows;
        // Where memory is small, rows are dropped before others have to be spilled.
        let many = rows >= fetch + self.output.rows || self.buffered_bytes + self.open.bytes() >= 2 * self.piece_bytes;
        fetch <= MOST_FIRST_ROWS && rows >= 2 * fetch && many
    }

    /// To be called after each batch, again and again until there is nothing to wait for: writes what is in
    /// memory to disk, a little at a time, when that is short. Who does not call it gets shorter runs.
    ///
    /// # Errors
    ///
    /// What writing to disk says.
    pub fn settle(&mut self) -> Result<Option<Ticket>> {
        if self.writing.is_none() {
            // Room for the next batch and its keys, and for a frame of the run.
            let enough = self.account.room() >= 2 * self.step_bytes || self.buffered_rows == 0;
            if enough || self.buffered_bytes + self.open.bytes() < 2 * self.step_bytes {
                return Ok(None);
            }
            self.write_all()?;
        }
        self.go_on_writing(self.step_bytes)?;
        Ok(Some(pause(&self.space)))
    }

    /// Begins to write all that is in memory as one run.
    pub(super) fn write_all(&mut self) -> Result<()> {
        self.close_chunk()?;
        let sources = self.take_buffered();
        self.writing = Some((Merge::new(sources, self.account.reservation()), NewRun::default()));
        Ok(())
    }

    /// Writes about `bytes` of the run under way; returns how many.
    pub(super) fn go_on_writing(&mut self, bytes: usize) -> Result<usize> {
        let Some((mut merge, mut run)) = self.writing.take() else { return Ok(0) };
        let mut written = 0;
        while written < bytes {
            // Sources in memory never block.
            let step = if self.wants_more(&run) { merge.next(&self.keys, self.frame)? } else { MergeStep::End };
            let MergeStep::Batch(merged) = step else {
                drop(merge);
                let run = self.finished(run);
                self.runs.push_back(run);
                return Ok(written);
            };
            written += batch_bytes(&merged.batch);
            self.append(&mut run, &merged)?;
        }
        self.writing = Some((merge, run));
        Ok(written)
    }

    /// Sorts what is in the open chunk.
    pub(super) fn close_chunk(&mut self) -> Result<()> {
        let mut chunk = std::mem::replace(&mut self.open, Chunk::new(&self.account));
        if chunk.left() > 0 {
            chunk.sort();
            // Where there is room: a merge reads every chunk from its beginning to its end, and not all over.
            if let Some(room) = self.account.try_reserve(chunk.gather_bytes()) {
                chunk.gather(&self.keys, room)?;
            }
            self.buffered_bytes += chunk.bytes();
            self.buffered.push_back(chunk);
        }
        Ok(())
    }

    /// Lets go of all rows in memory but the first `fetch`, if there is room to copy those.
    fn keep_first(&mut self, fetch: usize) -> Result<()> {
        self.close_chunk()?;
        let rows = self.buffered_rows.max(1);
        let Some(mut copy) = self.account.try_reserve(self.buffered_bytes / rows * fetch + self.output.bytes) else {
            return Ok(());
        };
        let sources = self.take_buffered();
        let mut merge = Merge::new(sources, self.account.reservation());
        let mut first = Vec::new();
        let mut left = fetch;
        // Sources in memory never block.
        while left > 0
            && let MergeStep::Batch(Merged { batch, .. }) = merge.next(&self.keys, self.output.at_most(left))?
        {
            left -= batch.num_rows();
            first.push(batch);
        }
        drop(merge);
        for batch in first {
            if !self.open.takes(batch.num_rows(), kept_bytes(&batch), self.step_bytes) {
                self.close_chunk()?;
            }
            let keys = Encoded::of(&batch, &self.keys)?;
            self.account.claim_from(&batch, &mut copy);
            self.buffered_rows += batch.num_rows();
            self.bound = Key::last(&batch, &self.keys)?;
            let for_keys = copy.split(self.open.growth_bytes(&keys));
            self.open.push(batch, keys, for_keys);
        }
        Ok(())
    }

    pub(super) fn take_buffered(&mut self) -> Vec<Source> {
        self.buffered_bytes = 0;
        self.buffered_rows = 0;
        self.buffered.drain(..).map(Source::Memory).collect()
    }
}

/// `batch`, copied if another one uses its buffers: what is charged here must be free once it is written to disk,
/// whatever the other partitions that got a part of the same rows do with theirs.
fn unshared(batch: RecordBatch) -> RecordBatch {
    if is_shared(&batch) { copied(&batch) } else { batch }
}
