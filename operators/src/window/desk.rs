//! The memory that one window operator works with beside its sorter.
//!
//! At the start of each step the headroom holds its full size. What a step makes is taken from it, and before the
//! next step it is filled up again, for which rows that nobody reads at the moment go to disk. So a step always
//! finds the memory that it needs, and all that is kept for longer can be spilled.

use aqueduct_runtime::io::Ticket;
use aqueduct_runtime::memory::{Account, Reservation};
use aqueduct_runtime::spill::SpillSpace;
use aqueduct_runtime::{OperatorContext, Result};
use arrow::record_batch::RecordBatch;

/// Accounts for what is made and loaded.
pub(super) struct Desk {
    pub(super) account: Account,
    pub(super) spill: SpillSpace,
    /// Rows that one piece of work covers.
    pub(super) rows: usize,
    headroom: Reservation,
    full_bytes: usize,
    /// Bytes that were asked for and not to be had: the next refill makes room for them.
    wanted_bytes: usize,
    /// Bytes by which states have outgrown what was to be had.
    owed_bytes: usize,
    /// Whether there was nothing left to make room with.
    last_resort: bool,
}

impl Desk {
    /// A desk with an empty headroom, which is `full_bytes` once it has been filled.
    pub(super) fn new(context: &OperatorContext, full_bytes: usize) -> Self {
        Self {
            account: context.memory.clone(),
            spill: context.spill.clone(),
            rows: context.batch_rows.max(1),
            headroom: context.memory.reservation(),
            full_bytes,
            wanted_bytes: 0,
            owed_bytes: 0,
            last_resort: false,
        }
    }

    /// Counts a batch that was just made.
    pub(super) fn claim(&mut self, batch: &RecordBatch) {
        self.account.claim_from(batch, &mut self.headroom);
    }

    /// Bytes for something that is to be loaded; none if somebody has to make room first.
    ///
    /// # Errors
    ///
    /// If they are more than this operator may ever hold.
    pub(super) fn take(&mut self, bytes: usize) -> Result<Option<Reservation>> {
        if self.headroom.bytes() >= bytes {
            return Ok(Some(self.headroom.split(bytes)));
        }
        if let Some(taken) = self.account.try_reserve(bytes) {
            return Ok(Some(taken));
        }
        if !self.last_resort {
            self.wanted_bytes = bytes;
            return Ok(None);
        }
        if bytes > self.account.most() {
            return Err(self.account.row_too_large(bytes));
        }
        self.last_resort = false;
        let mut taken = self.account.reservation();
        taken.set(bytes);
        Ok(Some(taken))
    }

    /// Makes `held` as large as what is remembered of batches.
    pub(super) fn remember(&mut self, held: &mut Reservation, bytes: usize) {
        if !held.try_set(bytes) {
            self.headroom.shrink(bytes.saturating_sub(held.bytes()));
            held.set(bytes);
        }
    }

    /// Bytes for something that may as well not be: where they are short, it would be dropped at the next turn.
    pub(super) fn take_spare(&mut self, bytes: usize) -> Option<Reservation> {
        if self.account.room() < bytes + 2 * self.full_bytes {
            return None;
        }
        self.account.try_reserve(bytes)
    }

    /// Makes `held` as large as a state that cannot go to disk; if that cannot be now, the next refill makes room
    /// for it or fails. Called again with every batch.
    pub(super) fn hold(&mut self, held: &mut Reservation, bytes: usize) {
        if bytes <= held.bytes() || held.try_set(bytes) {
            if bytes < held.bytes() / 2 {
                held.shrink(held.bytes() - bytes);
            }
            return;
        }
        let more = bytes - held.bytes();
        if more <= self.headroom.bytes() {
            self.headroom.shrink(more);
            held.set(bytes);
        } else {
            self.owed_bytes = self.owed_bytes.max(more);
        }
    }

    /// Whether the headroom is full.
    pub(super) fn try_refill(&mut self) -> bool {
        let full = self.headroom.bytes() >= self.full_bytes || self.headroom.try_set(self.full_bytes);
        let free = full && self.account.room() >= self.wanted_bytes + self.owed_bytes;
        if free {
            (self.wanted_bytes, self.owed_bytes) = (0, 0);
        }
        free
    }

    /// Goes on with less than a full headroom: what is missing is in the batches that cursors are in, and there is
    /// nothing left to spill.
    ///
    /// # Errors
    ///
    /// If states that cannot be spilled have taken it all.
    pub(super) fn make_do(&mut self) -> Result<()> {
        let missing = self.full_bytes.saturating_sub(self.headroom.bytes());
        let room = self.account.room();
        let most = (self.headroom.bytes() + room).min(self.full_bytes);
        if most > self.headroom.bytes() {
            // If others were quicker, it is asked for again at the next turn.
            let _ = self.headroom.try_set(most);
        } else {
            self.headroom.shrink(self.headroom.bytes() - most);
        }
        if self.owed_bytes > 0 || self.headroom.bytes() < self.full_bytes / 16 {
            return Err(self.account.row_too_large(self.account.held() + missing.max(self.owed_bytes)));
        }
        self.wanted_bytes = 0;
        self.last_resort = true;
        Ok(())
    }

    /// A ticket that is done: what there is to wait for is the next turn.
    pub(super) fn turn(&self) -> Ticket {
        self.spill.backlog().unwrap_or_else(|| Ticket::new("working").0)
    }
}
