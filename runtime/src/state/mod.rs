//! Containers for an operator's own state that keep to the memory limit by spilling: a vector of batches, a
//! hash map keyed by rows, and a sorter.
//!
//! ```text
//! try_reserve(estimate) ── granted ──> compact, claim to the operator's account, give the estimate back
//!          └─ refused ──> spill a piece of own state, or write the new piece to disk at once
//! ```
//!
//! An operator that keeps its state in these never has to think of memory, except for one line: its
//! [`Operator::spill`](crate::Operator::spill) calls the container's `spill`. Reading never waits for the
//! disk either: `next` answers [`Next::Blocked`], which becomes [`Step::Blocked`](crate::Step::Blocked).
//!
//! Each container says with `min_memory` what it needs when everything else is spilled; an operator's
//! `min_memory` is the sum over its containers.

mod map;
mod sorter;
mod table;
#[cfg(test)]
mod tests;
mod vec;

use arrow::datatypes::{FieldRef, SchemaRef};
use arrow::record_batch::RecordBatch;
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use map::{Chunk, MapReader, NextChunk, SpillingMap};
pub use sorter::{ExternalSorter, LaneMerge, LaneStep, SortColumn};
pub use vec::{SpillingVec, SpillingVecReader};

use crate::batch::{batch_bytes, compact};
use crate::error::Result;
use crate::io::Ticket;
use crate::memory::{Account, Reservation};
use crate::operator::OperatorContext;
use crate::spill::SpillSpace;

/// Largest piece that is written in one step.
const PIECE_BYTES: usize = 4 << 20;

/// What reading from a container has.
#[derive(Debug)]
pub enum Next {
    /// The next batch, which counts in the operator's account until the next one is asked for.
    Batch(RecordBatch),
    /// The disk is waited for, or a long computation was cut: return `Step::Blocked` and call again.
    Blocked(Ticket),
    /// Everything was read.
    End,
}

/// A value of a [`SpillingMap`]: written to disk and back through serde, and merged with what came later.
pub trait StateValue: Default + Serialize + DeserializeOwned + Send + 'static {
    /// Bytes that this value holds outside itself, such as a vector's capacity. 0 if there are none.
    fn memory_bytes(&self) -> usize {
        0
    }

    /// Takes in `later`, which was made from rows that came after all rows of `self`.
    ///
    /// A key that is seen again after its value was spilled starts anew from `Default`, so for any cut of a
    /// key's rows into two, merging the two values must give the value of all rows.
    fn merge(&mut self, later: Self);
}

impl OperatorContext {
    /// A vector of batches with `schema`.
    pub fn spilling_vec(&self, schema: SchemaRef) -> SpillingVec {
        SpillingVec::new(&self.memory, &self.spill, schema)
    }

    /// A hash map from rows of `keys` to values.
    ///
    /// # Errors
    ///
    /// If a key has a type that cannot be compared.
    pub fn spilling_map<V: StateValue>(&self, keys: &[FieldRef]) -> Result<SpillingMap<V>> {
        SpillingMap::new(&self.memory, &self.spill, keys, self.batch_rows)
    }

    /// A sorter of batches with `schema` by `columns`, the first one first, with [`ExternalSorter::min_memory`] of this
    /// operator's floor for itself.
    ///
    /// # Errors
    ///
    /// If a column is not there or has a type that cannot be compared.
    pub fn sorter(&self, schema: SchemaRef, columns: &[SortColumn]) -> Result<ExternalSorter> {
        let account = self.memory.part(ExternalSorter::min_memory(self.batch_bytes));
        ExternalSorter::new(&account, &self.spill, schema, columns, self.batch_rows, self.batch_bytes)
    }
}

/// Bytes that a container may count on: the account's floor, or what is free in an account without one. What
/// floats beside a floor may be gone when a frame that was sized by it is to be read.
fn budget_bytes(account: &Account) -> usize {
    let budget = if account.floor() > 0 { account.floor() } else { account.room().min(1 << 20) };
    budget.max(64 << 10)
}

/// Reserves `bytes` that are needed to go on at all: within the floor they are always to be had, even where
/// the caller still holds the batch it was given last.
fn reserve_needed(account: &Account, bytes: usize) -> Result<Reservation> {
    if let Some(reservation) = account.try_reserve(bytes) {
        return Ok(reservation);
    }
    if bytes > account.floor() {
        return Err(account.row_too_large(bytes));
    }
    let mut reservation = account.reservation();
    reservation.set(bytes);
    Ok(reservation)
}

/// Bytes that keeping `batch` takes: its buffers, each array's own structure included.
fn kept_bytes(batch: &RecordBatch) -> usize {
    batch.get_array_memory_size()
}

/// Calls `each` with `batch` in order, in compact pieces of at most `bytes`, or of one row.
fn for_each_piece(batch: RecordBatch, bytes: usize, each: &mut dyn FnMut(RecordBatch) -> Result<()>) -> Result<()> {
    let rows = batch.num_rows();
    if rows == 0 {
        return Ok(());
    }
    if rows == 1 || batch_bytes(&batch) <= bytes {
        return each(compact(batch));
    }
    for_each_piece(batch.slice(0, rows / 2), bytes, each)?;
    for_each_piece(batch.slice(rows / 2, rows - rows / 2), bytes, each)
}

/// What to wait for after a piece of work that is not the last: the queue of writes if it is too long, else
/// nothing, so that the task's neighbours get their turn.
fn pause(space: &SpillSpace) -> Ticket {
    space.backlog().unwrap_or_else(|| Ticket::new("working").0)
}
