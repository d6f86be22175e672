//! Build rows in memory and the hash table over their keys.
//!
//! A slot holds 32 bits of a hash, or the key itself if it is one word, and the first row of a chain; a chain links the
//! rows of one key in their order. So the keys of a chain are compared once, and a chain is walked without looking at keys.
//!
//! ```text
//! id = bucket << 32 | row          row of a bucket = chunk << shift | row of a chunk
//! ```

use std::hint::black_box;

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

/// The end of a chain.
pub(super) const END: u32 = u32::MAX;

/// Of memory, as the system hands it out; where its pages are larger, each is written more than once.
const PAGE_BYTES: usize = 4096;

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
    /// Of each chunk, unless they are in the slots.
    keys: Vec<Values>,
    slots: Slots,
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

/// Where chains begin. There are as many as a power of two, and some are empty.
pub(super) enum Slots {
    None,
    /// Some bits of a hash, and the first row and one; 0 if it is empty.
    Tagged(Vec<u64>),
    /// The key, and the first row and one: 0 if it is empty.
    Words(Vec<[u64; 2]>),
}

pub(super) enum Chain {
    /// No key has several rows.
    Single,
    Linked(Vec<u32>),
    /// Every row follows the one before it.
    All,
}

impl Table {
    /// Bytes that a table over `rows` rows takes beside the rows.
    pub(super) fn bytes(encoder: &KeyEncoder, rows: usize, key_bytes: usize, flags: bool) -> usize {
        let slot_bytes = if encoder.is_word() { 16 } else { 8 };
        let index = if encoder.has_keys() { slot_bytes * Slots::count(rows) + 4 * rows } else { 0 };
        // Hashes are there while it is made.
        index + encoder.bytes(rows, key_bytes) + 8 * rows + if flags { rows / 8 + 8 } else { 0 } + 1024
    }

    /// A table over chunks, of which all but the last have `1 << shift` of the `rows` rows. `memory` holds what
    /// [`Table::bytes`] says, and is made to hold what it took.
    pub(super) fn new(
        shape: &Shape,
        (chunks, shift, rows): (Vec<RecordBatch>, u32, usize),
        keys: Vec<Values>,
        (slots, chain): (Slots, Chain),
        matched: Flags,
        memory: Reservation,
    ) -> Self {
        let most = chunks.iter().map(|chunk| RowBytes::new(chunk, &shape.build_read).most()).max();
        let most_row_bytes = most.unwrap_or(0);
        let bytes = chunks.iter().map(batch_bytes).sum();
        let mut table = Self { chunks, shift, rows, keys, slots, chain, matched, most_row_bytes, bytes, memory };
        table.memory.set(table.index_bytes());
        table
    }

    fn index_bytes(&self) -> usize {
        let chain = match &self.chain {
            Chain::Linked(next) => 4 * next.capacity(),
            Chain::Single | Chain::All => 0,
        };
        let keys: usize = self.keys.iter().map(Values::bytes).sum();
        self.slots.bytes() + chain + keys + self.matched.bytes() + 256 * self.chunks.len()
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

    /// The first row of the chain with `hash` for whose key `same` holds. `slot` is what the first of `slots` has.
    #[inline]
    fn find(&self, slots: &[u64], hash: u64, mut slot: u64, same: impl Fn(&Values, usize) -> bool) -> Option<u32> {
        let (tag, mask) = (hash >> 32, slots.len() - 1);
        let mut at = hash as usize & mask;
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
            at = (at + 1) & mask;
            slot = slots[at];
        }
    }
}

impl Slots {
    /// So many that three quarters are full at the most.
    pub(super) fn count(rows: usize) -> usize {
        (rows + rows / 3 + 1).next_power_of_two().max(4)
    }

    fn bytes(&self) -> usize {
        match self {
            Slots::None => 0,
            Slots::Tagged(slots) => 8 * slots.capacity(),
            Slots::Words(slots) => 16 * slots.capacity(),
        }
    }

    /// Writes to page `page` of empty slots, if there is one. A page that is read before it is written is mapped twice, and the
    /// second time all threads of the process are interrupted.
    pub(super) fn write_page(&mut self, page: usize) -> bool {
        fn write<T: Default>(slots: &mut [T], page: usize) -> bool {
            let slot = slots.get_mut(page * (PAGE_BYTES / size_of::<T>()));
            slot.map(|slot| *slot = black_box(T::default())).is_some()
        }
        match self {
            Slots::None => false,
            Slots::Tagged(slots) => write(slots, page),
            Slots::Words(slots) => write(slots, page),
        }
    }

    /// Reads the slots of these hashes, so that they are near when they are needed.
    pub(super) fn touch(&self, hashes: &[u64]) {
        let mut seen = 0;
        match self {
            Slots::None => {}
            Slots::Tagged(slots) => hashes.iter().for_each(|hash| seen ^= slots[*hash as usize & (slots.len() - 1)]),
            Slots::Words(slots) => hashes.iter().for_each(|hash| seen ^= slots[*hash as usize & (slots.len() - 1)][1]),
        }
        black_box(seen);
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

impl Held {
    /// The slots of words, and what is found where none of them has a key.
    fn words(&self) -> (&[[u64; 2]], Id) {
        // What a bucket without a table has: one slot, which is empty.
        const EMPTY: &[[u64; 2]] = &[[0; 2]];
        match self {
            Held::Table(table) => match &table.slots {
                Slots::Words(slots) => (slots, NO_ROW),
                Slots::None | Slots::Tagged(_) => (EMPTY, NO_ROW),
            },
            Held::Nothing => (EMPTY, NO_ROW),
            Held::Elsewhere => (EMPTY, LATER),
        }
    }
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
            Values::Word(words) => self.find_words(keys, words, hashes),
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

    fn find_words(&self, keys: &Keys, words: &[u64], hashes: &[u64]) -> Vec<Id> {
        let buckets: Vec<(&[[u64; 2]], Id)> = self.list.iter().map(Held::words).collect();
        // All first slots are read before any is looked at: so the processor waits for many of them at once.
        let first = |hash: &u64| {
            let slots = buckets[self.bucket(*hash)].0;
            slots[*hash as usize & (slots.len() - 1)]
        };
        let firsts: Vec<[u64; 2]> = hashes.iter().map(first).collect();
        let one = |row: usize| -> Id {
            let (word, [mut key, mut found]) = (words[row], firsts[row]);
            let bucket = self.bucket(hashes[row]);
            let (slots, absent) = buckets[bucket];
            let mut at = hashes[row] as usize;
            while found != 0 && key != word {
                at += 1;
                [key, found] = slots[at & (slots.len() - 1)];
            }
            if found == 0 { absent } else { id(bucket, found as u32 - 1) }
        };
        found(keys, one)
    }

    fn find_by(&self, keys: &Keys, hashes: &[u64], same: impl Fn(usize, &Values, usize) -> bool) -> Vec<Id> {
        let slots_of = |bucket: usize| match self.table(bucket).map(|table| &table.slots) {
            Some(Slots::Tagged(slots)) => slots.as_slice(),
            _ => &[0],
        };
        let buckets: Vec<&[u64]> = (0..self.list.len()).map(slots_of).collect();
        let first = |hash: &u64| {
            let slots = buckets[self.bucket(*hash)];
            slots[*hash as usize & (slots.len() - 1)]
        };
        let slots: Vec<u64> = hashes.iter().map(first).collect();
        let one = |row: usize| -> Id {
            let hash = hashes[row];
            let bucket = self.bucket(hash);
            match &self.list[bucket] {
                Held::Nothing => NO_ROW,
                Held::Elsewhere => LATER,
                Held::Table(table) => {
                    let found = table.find(buckets[bucket], hash, slots[row], |built, at| same(row, built, at));
                    found.map_or(NO_ROW, |found| id(bucket, found))
                }
            }
        };
        found(keys, one)
    }
}

/// What `one` finds for each row that can match.
fn found(keys: &Keys, one: impl Fn(usize) -> Id) -> Vec<Id> {
    match &keys.valid {
        None => (0..keys.rows).map(one).collect(),
        Some(valid) => (0..keys.rows).map(|row| if valid.is_valid(row) { one(row) } else { NO_ROW }).collect(),
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

impl Values {
    /// The key of `row` as bytes, where it has some.
    #[inline]
    pub(super) fn value(&self, row: usize) -> &[u8] {
        match self {
            Values::Bytes32(array) => array.value(row),
            Values::Bytes64(array) => array.value(row),
            Values::Views(array) => array.value(row),
            Values::Rows(rows) => rows.row(row).data(),
            Values::All | Values::Word(_) | Values::Wide(_) => &[],
        }
    }
}
