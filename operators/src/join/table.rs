//! Build rows in memory and the hash table over their keys.
//!
//! A slot holds 32 bits of a hash and the first row of a chain; a chain links the rows of one key in their order.
//! So the keys of a chain are compared once, and a chain is walked without looking at keys.
//!
//! ```text
//! id = bucket << 32 | row          row of a bucket = chunk << shift | row of a chunk
//! ```

use std::sync::Arc;

use aqueduct_runtime::Result;
use aqueduct_runtime::batch::batch_bytes;
use aqueduct_runtime::memory::Reservation;
use arrow::array::BinaryViewArray;
use arrow::record_batch::RecordBatch;

use super::flags::Flags;
use super::gather::RowBytes;
use super::keys::{KeyEncoder, Keys, Values};
use super::shape::Shape;

/// A row of a table: its bucket in the upper half, its row in the lower one.
pub(super) type Id = u64;
/// No row.
pub(super) const NO_ROW: Id = u64::MAX;
/// The row that would match is on disk: it is joined later.
pub(super) const LATER: Id = u64::MAX - 1;

const END: u32 = u32::MAX;

pub(super) fn id(bucket: usize, row: u32) -> Id {
    (bucket as u64) << 32 | u64::from(row)
}

pub(super) fn bucket_of(id: Id) -> usize {
    (id >> 32) as usize
}

/// The rows of one bucket.
pub(super) struct Table {
    /// All but the last have `1 << shift` rows.
    pub(super) chunks: Vec<RecordBatch>,
    pub(super) shift: u32,
    pub(super) rows: usize,
    keys: Vec<Values>,
    slots: Vec<u64>,
    mask: usize,
    chain: Chain,
    /// The rows that have had a match.
    pub(super) matched: Flags,
    /// Bytes of the columns that are read that no row exceeds.
    pub(super) most_row_bytes: usize,
    /// Bytes of the chunks.
    pub(super) bytes: usize,
    /// Everything but the chunks.
    memory: Reservation,
}

enum Chain {
    /// No key has several rows.
    Single,
    Linked(Vec<u32>),
    /// Every row follows the one before it.
    All,
}

impl Table {
    /// Bytes that a table over `rows` rows takes beside the rows.
    pub(super) fn bytes(encoder: &KeyEncoder, rows: usize, key_bytes: usize, flags: bool) -> usize {
        let index = if encoder.has_keys() { 8 * slots_for(rows) + 4 * rows } else { 0 };
        // Hashes are there while it is made.
        index + encoder.bytes(rows, key_bytes) + 8 * rows + if flags { rows / 8 + 8 } else { 0 } + 1024
    }

    /// A table over `chunks`, of which all but the last have `1 << shift` rows. `memory` holds what
    /// [`Table::bytes`] says, and is made to hold what it took.
    pub(super) fn new(
        chunks: Vec<RecordBatch>,
        shift: u32,
        shape: &Shape,
        encoder: &KeyEncoder,
        matched: Flags,
        memory: Reservation,
    ) -> Result<Self> {
        let rows = chunks.iter().map(RecordBatch::num_rows).sum();
        let keys = chunks
            .iter()
            .map(|chunk| {
                let columns: Vec<_> = shape.build_keys.iter().map(|&key| Arc::clone(chunk.column(key))).collect();
                encoder.encode(&columns, chunk.num_rows())
            })
            .collect::<Result<Vec<_>>>()?;
        let (mut slots, mut mask, mut chain) = (Vec::new(), 0, Chain::All);
        if encoder.has_keys() {
            let mut linker = Linker::new(rows, shift);
            match keys.first().map(|keys| &keys.values) {
                None | Some(Values::All) => {}
                Some(Values::Word(_)) => linker.link(&keys, |values, row| match values {
                    Values::Word(words) => words[row],
                    _ => 0,
                }),
                Some(Values::Wide(_)) => linker.link(&keys, |values, row| match values {
                    Values::Wide(wide) => wide[row],
                    _ => 0,
                }),
                Some(_) => linker.link(&keys, |values, row| values.value(row)),
            }
            mask = linker.slots.len() - 1;
            slots = linker.slots;
            chain = if linker.several { Chain::Linked(linker.next) } else { Chain::Single };
        }
        let keys: Vec<_> = keys.into_iter().map(|keys| keys.values).collect();
        let most = chunks.iter().map(|chunk| RowBytes::new(chunk, &shape.build_read).most()).max();
        let most_row_bytes = most.unwrap_or(0);
        let bytes = chunks.iter().map(batch_bytes).sum();
        let mut table = Self { chunks, shift, rows, keys, slots, mask, chain, matched, most_row_bytes, bytes, memory };
        table.memory.set(table.index_bytes());
        Ok(table)
    }

    fn index_bytes(&self) -> usize {
        let chain = match &self.chain {
            Chain::Linked(next) => 4 * next.capacity(),
            Chain::Single | Chain::All => 0,
        };
        let keys: usize = self.keys.iter().map(Values::bytes).sum();
        8 * self.slots.capacity() + chain + keys + self.matched.bytes() + 256 * self.chunks.len()
    }

    /// The rows alone; what finds them is freed.
    pub(super) fn into_rows(self) -> (Vec<RecordBatch>, Flags) {
        (self.chunks, self.matched)
    }

    /// The row behind `row` of the same key.
    #[inline]
    pub(super) fn next(&self, row: u32) -> Option<u32> {
        match &self.chain {
            Chain::Single => None,
            Chain::Linked(next) => Some(next[row as usize]).filter(|next| *next != END),
            Chain::All => Some(row + 1).filter(|next| (*next as usize) < self.rows),
        }
    }

    /// Whether every key has one row.
    pub(super) fn is_single(&self) -> bool {
        matches!(self.chain, Chain::Single)
    }

    /// The first row of the chain with `hash` for whose key `same` holds. `slot` is what the first slot has.
    #[inline]
    fn find(&self, hash: u64, mut slot: u64, same: impl Fn(&Values, usize) -> bool) -> Option<u32> {
        let tag = hash >> 32;
        let mut at = hash as usize & self.mask;
        loop {
            if slot == 0 {
                return None;
            }
            if slot >> 32 == tag {
                let row = slot as u32 - 1;
                let (chunk, row_of_chunk) = (row as usize >> self.shift, row as usize & ((1 << self.shift) - 1));
                if same(&self.keys[chunk], row_of_chunk) {
                    return Some(row);
                }
            }
            at = (at + 1) & self.mask;
            slot = self.slots[at];
        }
    }
}

/// What a bucket has in memory.
pub(super) enum Held {
    /// No rows at all.
    Nothing,
    Table(Box<Table>),
    /// Its rows are on disk, or on their way there.
    Elsewhere,
}

/// The tables of all buckets.
pub(super) struct Tables {
    pub(super) list: Vec<Held>,
    /// Hash bits, from the top, that the levels above have used.
    used_bits: u32,
    bits: u32,
}

impl Tables {
    /// Tables for the buckets that the `bits` bits behind the first `used_bits` choose.
    pub(super) fn new(used_bits: u32, bits: u32) -> Self {
        Self { list: (0..1usize << bits).map(|_| Held::Nothing).collect(), used_bits, bits }
    }

    pub(super) fn bits(&self) -> u32 {
        self.bits
    }

    pub(super) fn used_bits(&self) -> u32 {
        self.used_bits
    }

    /// The bucket of a row.
    #[inline]
    pub(super) fn bucket(&self, hash: u64) -> usize {
        if self.bits == 0 { 0 } else { (hash << self.used_bits >> (64 - self.bits)) as usize }
    }

    pub(super) fn table(&self, bucket: usize) -> Option<&Table> {
        match &self.list[bucket] {
            Held::Table(table) => Some(table),
            Held::Nothing | Held::Elsewhere => None,
        }
    }

    pub(super) fn table_mut(&mut self, bucket: usize) -> Option<&mut Table> {
        match &mut self.list[bucket] {
            Held::Table(table) => Some(table),
            Held::Nothing | Held::Elsewhere => None,
        }
    }

    /// For each row of `keys` the first build row of its key, [`NO_ROW`] or [`LATER`].
    pub(super) fn find(&self, keys: &Keys, hashes: &[u64]) -> Vec<Id> {
        match &keys.values {
            Values::All => {
                let first = match &self.list[0] {
                    Held::Nothing => NO_ROW,
                    Held::Table(_) => id(0, 0),
                    Held::Elsewhere => LATER,
                };
                vec![first; keys.rows]
            }
            Values::Word(words) => self.find_by(keys, hashes, |row, built, at| match built {
                Values::Word(built) => built[at] == words[row],
                _ => false,
            }),
            Values::Wide(wide) => self.find_by(keys, hashes, |row, built, at| match built {
                Values::Wide(built) => built[at] == wide[row],
                _ => false,
            }),
            Values::Views(views) => self.find_by(keys, hashes, |row, built, at| match built {
                Values::Views(built) => same_view(built, at, views, row),
                _ => false,
            }),
            Values::Bytes32(array) => self.find_by(keys, hashes, |row, built, at| match built {
                Values::Bytes32(built) => built.value(at) == array.value(row),
                _ => false,
            }),
            other => self.find_by(keys, hashes, |row, built, at| built.value(at) == other.value(row)),
        }
    }

    fn find_by(&self, keys: &Keys, hashes: &[u64], same: impl Fn(usize, &Values, usize) -> bool) -> Vec<Id> {
        // All first slots are read before any is looked at: so the processor waits for many of them at once.
        let first = |hash: &u64| match &self.list[self.bucket(*hash)] {
            Held::Table(table) => table.slots[*hash as usize & table.mask],
            Held::Nothing | Held::Elsewhere => 0,
        };
        let slots: Vec<u64> = hashes.iter().map(first).collect();
        let one = |row: usize| -> Id {
            let hash = hashes[row];
            let bucket = self.bucket(hash);
            match &self.list[bucket] {
                Held::Nothing => NO_ROW,
                Held::Elsewhere => LATER,
                Held::Table(table) => {
                    let found = table.find(hash, slots[row], |built, at| same(row, built, at));
                    found.map_or(NO_ROW, |found| id(bucket, found))
                }
            }
        };
        match &keys.valid {
            None => (0..keys.rows).map(one).collect(),
            Some(valid) => (0..keys.rows).map(|row| if valid.is_valid(row) { one(row) } else { NO_ROW }).collect(),
        }
    }
}

#[inline]
fn same_view(a: &BinaryViewArray, at: usize, b: &BinaryViewArray, row: usize) -> bool {
    let (left, right) = (a.views()[at], b.views()[row]);
    // Length and the first four bytes.
    if left as u64 != right as u64 {
        return false;
    }
    if left as u32 <= 12 { left == right } else { a.value(at) == b.value(row) }
}

/// Fills the slots and chains.
struct Linker {
    slots: Vec<u64>,
    next: Vec<u32>,
    several: bool,
    shift: u32,
}

impl Linker {
    fn new(rows: usize, shift: u32) -> Self {
        Self { slots: vec![0; slots_for(rows)], next: vec![END; rows], several: false, shift }
    }

    /// From the last row to the first, so that chains are in order.
    fn link<'a, T: PartialEq + 'a>(&mut self, keys: &'a [Keys], value: impl Fn(&'a Values, usize) -> T) {
        let mask = self.slots.len() - 1;
        let mut hashes = Vec::new();
        let chunk_mask = (1usize << self.shift) - 1;
        for (chunk, keys_of_chunk) in keys.iter().enumerate().rev() {
            keys_of_chunk.hash(&mut hashes);
            for row_of_chunk in (0..keys_of_chunk.rows).rev() {
                if !keys_of_chunk.is_valid(row_of_chunk) {
                    continue;
                }
                let (hash, row) = (hashes[row_of_chunk], (chunk << self.shift) + row_of_chunk);
                let tag = hash >> 32;
                let new = tag << 32 | (row as u64 + 1);
                let mut at = hash as usize & mask;
                loop {
                    let slot = self.slots[at];
                    if slot == 0 {
                        self.slots[at] = new;
                        break;
                    }
                    if slot >> 32 == tag {
                        let first = slot as u32 as usize - 1;
                        let other = value(&keys[first >> self.shift].values, first & chunk_mask);
                        if other == value(&keys_of_chunk.values, row_of_chunk) {
                            self.next[row] = first as u32;
                            self.slots[at] = new;
                            self.several = true;
                            break;
                        }
                    }
                    at = (at + 1) & mask;
                }
            }
        }
    }
}

impl Values {
    /// The key of `row` as bytes, where it has some.
    #[inline]
    fn value(&self, row: usize) -> &[u8] {
        match self {
            Values::Bytes32(array) => array.value(row),
            Values::Bytes64(array) => array.value(row),
            Values::Views(array) => array.value(row),
            Values::Rows(rows) => rows.row(row).data(),
            Values::All | Values::Word(_) | Values::Wide(_) => &[],
        }
    }
}

/// At most three quarters full.
fn slots_for(rows: usize) -> usize {
    (rows + rows / 3 + 1).next_power_of_two().max(4)
}
