//! Rows that may be among the best of their groups, until it is known or there is no room to wait for it.

use aqueduct_runtime::Result;
use aqueduct_runtime::memory::{Account, Reservation};
use arrow::array::UInt32Array;
use arrow::compute::{concat_batches, take_record_batch};
use arrow::record_batch::RecordBatch;

use super::best::Best;
use super::order::Code;
use crate::aggregate::own;

/// Parts are looked through when there are so many more of them: each may have few rows.
const PARTS: usize = 64;
/// Bytes of a part beside its rows.
const PART_BYTES: usize = 256;

/// Rows of one batch, or of several small ones.
pub(super) struct Part<C> {
    pub(super) batch: RecordBatch,
    groups: Vec<u32>,
    codes: Vec<C>,
    /// Holds what is not claimed.
    paid: Option<Reservation>,
}

impl<C: Code> Part<C> {
    pub(super) fn new(batch: RecordBatch, groups: Vec<u32>, codes: Vec<C>) -> Self {
        Self { batch, groups, codes, paid: None }
    }

    fn bytes(&self) -> usize {
        let row_bytes = size_of::<u32>() + size_of::<C>();
        self.batch.get_array_memory_size() + row_bytes * self.groups.len() + PART_BYTES
    }

    /// Counts it in `memory`; gives it back if there is no room.
    fn pay(self, memory: &Account) -> Result<Self, Self> {
        match memory.try_reserve(self.bytes()) {
            Some(room) => Ok(settled(self, room, memory)),
            None => Err(self),
        }
    }
}

/// The rows that wait.
pub(super) struct Kept<C> {
    memory: Account,
    batch_bytes: usize,
    batch_rows: usize,
    parts: Vec<Part<C>>,
    bytes: usize,
    /// Parts that there were after they had been looked through.
    tidy: usize,
}

impl<C: Code> Kept<C> {
    pub(super) fn new(memory: &Account, batch_bytes: usize, batch_rows: usize) -> Self {
        Self { memory: memory.clone(), batch_bytes, batch_rows, parts: Vec::new(), bytes: 0, tidy: 0 }
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// Keeps `part`; gives it back if there is no room.
    pub(super) fn push(&mut self, part: Part<C>) -> Result<(), Part<C>> {
        let part = part.pay(&self.memory)?;
        self.bytes += part.bytes();
        self.parts.push(part);
        Ok(())
    }

    /// Whether there are so many parts that it is worth while to look through them.
    pub(super) fn is_scattered(&self) -> bool {
        self.parts.len() >= 2 * self.tidy + PARTS
    }

    /// Leaves out the rows that are not wanted any more, and makes one part of small ones. What there is no room to copy
    /// stays as it is.
    pub(super) fn tidy(&mut self, best: &Best<C>) -> Result<()> {
        let mut pile: Vec<Part<C>> = Vec::new();
        let (mut pile_bytes, mut pile_rows) = (0, 0);
        for part in std::mem::take(&mut self.parts) {
            let Some(part) = self.wanted(part, best)? else { continue };
            let (bytes, rows) = (part.bytes(), part.batch.num_rows());
            if pile_bytes + bytes > self.batch_bytes || pile_rows + rows > self.batch_rows {
                self.join(std::mem::take(&mut pile))?;
                (pile_bytes, pile_rows) = (0, 0);
            }
            pile_bytes += bytes;
            pile_rows += rows;
            pile.push(part);
        }
        self.join(pile)?;
        self.bytes = self.parts.iter().map(Part::bytes).sum();
        self.tidy = self.parts.len();
        Ok(())
    }

    /// The rows of `part` that are still wanted.
    fn wanted(&self, part: Part<C>, best: &Best<C>) -> Result<Option<Part<C>>> {
        let rows = part.groups.iter().zip(&part.codes).zip(0..);
        let rows: Vec<u32> =
            rows.filter(|((group, code), _)| best.wants(**group, **code)).map(|(_, row)| row).collect();
        if rows.is_empty() {
            return Ok(None);
        }
        if rows.len() == part.groups.len() {
            return Ok(Some(part));
        }
        let groups = rows.iter().map(|row| part.groups[*row as usize]).collect();
        let codes = rows.iter().map(|row| part.codes[*row as usize]).collect();
        // A copy is no larger than the whole.
        let Some(room) = self.memory.try_reserve(part.bytes()) else { return Ok(Some(part)) };
        let fewer = own(take_record_batch(&part.batch, &UInt32Array::from(rows))?);
        let fewer = Part::new(fewer, groups, codes);
        Ok(Some(settled(fewer, room, &self.memory)))
    }

    /// Keeps `pile` as one part.
    fn join(&mut self, mut pile: Vec<Part<C>>) -> Result<()> {
        if pile.len() < 2 {
            self.parts.append(&mut pile);
            return Ok(());
        }
        let bytes = pile.iter().map(Part::bytes).sum::<usize>();
        let Some(room) = self.memory.try_reserve(bytes) else {
            self.parts.append(&mut pile);
            return Ok(());
        };
        let batch = concat_batches(&pile[0].batch.schema(), pile.iter().map(|part| &part.batch))?;
        let groups = pile.iter().flat_map(|part| part.groups.iter().copied()).collect();
        let codes = pile.iter().flat_map(|part| part.codes.iter().copied()).collect();
        self.parts.push(settled(Part::new(batch, groups, codes), room, &self.memory));
        Ok(())
    }

    /// All parts, which are no longer here.
    pub(super) fn take(&mut self) -> impl Iterator<Item = Part<C>> + use<'_, C> {
        (self.bytes, self.tidy) = (0, 0);
        self.parts.drain(..)
    }
}

/// `part`, counted in `memory` by bytes of `room`, of which the rest is given back.
fn settled<C: Code>(mut part: Part<C>, mut room: Reservation, memory: &Account) -> Part<C> {
    let bytes = part.bytes();
    room.shrink(room.bytes().saturating_sub(bytes));
    memory.claim_from(&part.batch, &mut room);
    part.paid = Some(room);
    part
}
