//! What a hash join knows of the keys of its held side, told to where the other side's rows come from.
//!
//! ```text
//! held side ─▶ join [0] ─╲ keys                                       rows whose keys are not held go no further
//! held side ─▶ join [1] ──▶ RuntimeFilter ─▶ RuntimeFilterExpression ─▶ Parquet source, or a filter behind another
//! held side ─▶ join [2] ─╱ until all have told
//! ```
//!
//! It is an optimisation that changes no result: until every partition has told all of its keys, and when anything
//! goes wrong or memory is short, every row passes. A filter serves one job: a second job over the same graph switches
//! it off. On a cluster there is none.

mod awaited;
mod bloom;
mod expression;
mod known;

use std::sync::Arc;

use aqueduct_runtime::Result;
use aqueduct_runtime::io::{Completion, Ticket};
use aqueduct_runtime::memory::{Account, Reservation};
use arrow::array::ArrayRef;
use arrow::datatypes::DataType;
use arrow::record_batch::RecordBatch;
use parking_lot::Mutex;

pub use self::awaited::AwaitFilters;
use self::expression::RuntimeFilterExpression;
use self::known::{Bound, Known};
use super::keys::KeyEncoder;
use crate::expression::Expression;

/// Keys that are remembered at the most, in all partitions: for more, bounds are all there is.
const MOST_KEYS: usize = 1 << 20;
/// What must be free beside what is remembered, for each of its bytes: a join needs its memory for rows.
const SPARE: usize = 8;

/// The keys of the held side of one hash join: see [`HashJoin::with_runtime_filter`](super::HashJoin::with_runtime_filter).
#[derive(Debug, Clone, Default)]
pub struct RuntimeFilter {
    slot: Arc<Slot>,
}

impl RuntimeFilter {
    /// A filter that lets everything pass, until a join has told its keys.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether the values of `columns`, in the order of the join's keys, are those of a held row. Anything may be, as
    /// long as not all held rows are known.
    pub fn expression(&self, columns: Vec<Expression>) -> Expression {
        Arc::new(RuntimeFilterExpression::new(Arc::clone(&self.slot), columns))
    }

    pub(super) fn slot(&self) -> &Arc<Slot> {
        &self.slot
    }

    /// Whether all held rows are known now.
    pub fn is_known(&self) -> bool {
        self.slot.known().is_some()
    }
}

/// What the partitions of a join and the readers of its filter share.
#[derive(Debug, Default)]
pub(super) struct Slot {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Of each partition that is to tell its keys.
    stages: Vec<Stage>,
    parts: Vec<Part>,
    known: Option<Arc<Known>>,
    /// Instances of the join whose streamed side has not ended.
    members: usize,
    /// It is of no use any more.
    off: bool,
    /// For those who wait until it is known or off.
    waited_for: Option<(Ticket, Completion)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// There is no instance yet.
    Absent,
    Telling,
    Told,
}

/// What one partition has told.
#[derive(Debug, Default)]
struct Part {
    rows: usize,
    bounds: Vec<Bound>,
    /// Of each key, and their memory; nothing if they are too many.
    hashes: Option<(Vec<u64>, Reservation)>,
}

impl Slot {
    /// What is known, once it is all.
    fn known(&self) -> Option<Arc<Known>> {
        self.state.lock().known.clone()
    }

    /// What to wait for until it is known or will never be; nothing, if that is so.
    pub(super) fn pending(&self) -> Option<Ticket> {
        let mut state = self.state.lock();
        if state.off || state.known.is_some() {
            return None;
        }
        let (ticket, _) = state.waited_for.get_or_insert_with(|| Ticket::of_task("runtime filter"));
        Some(ticket.clone())
    }

    /// Gives up what takes memory; the bytes that this frees.
    pub(super) fn forget_keys(&self) -> usize {
        let mut state = self.state.lock();
        let of_parts = state.parts.iter_mut().filter_map(|part| part.hashes.take()).map(|(_, held)| held.bytes());
        let bytes: usize = of_parts.sum();
        bytes + state.known.as_ref().map_or(0, |known| known.forget_keys())
    }
}

impl State {
    fn switch_off(&mut self) {
        self.off = true;
        self.known = None;
        self.parts.clear();
        self.waited_for = None;
    }
}

/// One partition of the join, for as long as it takes in rows: tells its keys.
pub(super) struct Teller {
    slot: Arc<Slot>,
    partition: usize,
    memory: Account,
    encoder: Arc<KeyEncoder>,
    /// Columns of the held rows.
    columns: Vec<usize>,
    /// Keys of this partition: twice its share, for shares differ.
    most_keys: usize,
    /// Its rows are all held rows, and another partition tells them.
    silent: bool,
}

impl Teller {
    /// Tells the keys in `columns`, of these types, of one of `partitions` partitions.
    pub(super) fn new(
        slot: &Arc<Slot>,
        (partition, partitions): (usize, usize),
        each_has_all: bool,
        memory: &Account,
        (columns, types): (Vec<usize>, Vec<DataType>),
        nulls_equal: bool,
    ) -> Result<Self> {
        let encoder = Arc::new(KeyEncoder::of_types(&types, nulls_equal)?);
        let tellers = if each_has_all { 1 } else { partitions };
        let silent = partition >= tellers;
        let mut state = slot.state.lock();
        state.members += 1;
        if state.stages.is_empty() {
            state.stages = vec![Stage::Absent; tellers];
            state.parts.resize_with(tellers, Part::default);
        }
        match state.stages.get_mut(partition) {
            Some(stage @ Stage::Absent) => *stage = Stage::Telling,
            // Another job runs over the same graph, and its rows may differ.
            Some(_) => state.switch_off(),
            None => {}
        }
        if let Some(part) = state.parts.get_mut(partition) {
            part.bounds = types.iter().map(|kind| Bound::new(kind, nulls_equal)).collect();
            part.hashes = Some((Vec::new(), memory.reservation()));
        }
        drop(state);
        let (slot, memory) = (Arc::clone(slot), memory.clone());
        let most_keys = (2 * MOST_KEYS / tellers.max(1)).min(MOST_KEYS);
        Ok(Self { slot, partition, memory, encoder, columns, most_keys, silent })
    }

    /// Takes in rows of the held side.
    pub(super) fn tell(&mut self, batch: &RecordBatch) -> Result<()> {
        if self.silent || batch.num_rows() == 0 {
            return Ok(());
        }
        let columns: Vec<ArrayRef> = self.columns.iter().map(|column| Arc::clone(batch.column(*column))).collect();
        let mut state = self.slot.state.lock();
        let Some(part) = state.parts.get_mut(self.partition) else { return Ok(()) };
        part.rows += batch.num_rows();
        for (bound, column) in part.bounds.iter_mut().zip(&columns) {
            bound.update(column);
        }
        let Some((hashes, held)) = &mut part.hashes else { return Ok(()) };
        let more = if hashes.capacity() - hashes.len() >= batch.num_rows() {
            0
        } else {
            8 * batch.num_rows().max(hashes.len())
        };
        let bytes = held.bytes() + more;
        let spare = self.memory.room() >= self.memory.floor() + SPARE * bytes;
        if hashes.len() + batch.num_rows() > self.most_keys || !spare || !held.try_grow(more) {
            part.hashes = None;
            return Ok(());
        }
        hashes.reserve_exact(more / 8);
        let keys = self.encoder.encode(&columns, batch.num_rows())?;
        let mut new = Vec::new();
        keys.hash(&mut new);
        match &keys.valid {
            None => hashes.append(&mut new),
            Some(valid) => hashes.extend(valid.valid_indices().map(|row| new[row])),
        }
        Ok(())
    }

    /// Says that all rows have been told.
    pub(super) fn finish(&mut self) {
        if self.silent {
            return;
        }
        let mut state = self.slot.state.lock();
        if let Some(stage) = state.stages.get_mut(self.partition) {
            *stage = Stage::Told;
        }
        if !state.off && state.known.is_none() && state.stages.iter().all(|stage| *stage == Stage::Told) {
            let parts = std::mem::take(&mut state.parts);
            state.known = Some(Arc::new(Known::new(parts, Arc::clone(&self.encoder), &self.memory)));
            state.waited_for = None;
        }
    }
}

/// Nobody looks for rows of this partition any more.
impl Drop for Teller {
    fn drop(&mut self) {
        let mut state = self.slot.state.lock();
        state.members -= 1;
        // One that ends before it has told all of its keys will not tell them any more.
        let untold = state.stages.get(self.partition).is_some_and(|stage| *stage != Stage::Told);
        if state.members == 0 || (untold && !self.silent) {
            state.switch_off();
        }
    }
}
