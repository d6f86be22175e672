//! Build rows in memory and the hash table over their keys.
//!
//! A slot holds 32 bits of a hash, or the key itself if it is one word, and the first row of a chain; a chain links the
//! rows of one key in their order. So the keys of a chain are compared once, and a chain is walked without looking at keys.
//! Where keys are words that lie close together, as numbers of customers do, a key is the place of its slot.
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
    Direct(Direct),
}

/// A slot for each word from the least key to the largest: no hash is needed, none collides, and keys that follow each
/// other find theirs in one cache line.
pub(super) struct Direct {
    pub(super) least: u64,
    /// The first row and one, 0 if no row has that key.
    pub(super) firsts: Vec<u32>,
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

    /// The first row of the chain with `hash` for whose key `same` holds, looked for from slot `at` on.
    #[inline]
    fn find(&self, slots: &[u64], hash: u64, mut at: usize, same: impl Fn(&Values, usize) -> bool) -> Option<u32> {
        loop {
            let slot = slots[at & (slots.len() - 1)];
            if slot == 0 {
                return None;
            }
            if slot >> 32 == hash >> 32 && self.has(slot as u32 - 1, &same) {
                return Some(slot as u32 - 1);
            }
            at += 1;
        }
    }

    /// Whether `same` holds for the key of `row`.
    #[inline]
    fn has(&self, row: u32, same: impl Fn(&Values, usize) -> bool) -> bool {
        let row = row as usize;
        same(&self.keys[row >> self.shift], row & ((1 << self.shift) - 1))
    }
}

impl Direct {
    /// For the keys of `rows` rows, unless they are so far apart that it would take more memory than [`Slots::Words`].
    pub(super) fn new(rows: usize, keys: &[Keys]) -> Option<Self> {
        let (mut least, mut most) = (u64::MAX, 0);
        for keys in keys {
            let Values::Word(words) = &keys.values else { return None };
            let mut look = |word: u64| (least, most) = (least.min(word), most.max(word));
            match &keys.valid {
                None => words.iter().for_each(|word| look(*word)),
                Some(valid) => valid.valid_indices().for_each(|row| look(words[row])),
            }
        }
        let places = (size_of::<[u64; 2]>() / size_of::<u32>() * Slots::count(rows)) as u64;
        let range = most.checked_sub(least).map_or(0, |distance| distance.saturating_add(1));
        (range <= places).then(|| Self { least, firsts: vec![0; range as usize] })
    }

    /// The first row of the key `word`, and one; 0 if there is none.
    #[inline]
    fn first(&self, word: u64) -> u32 {
        self.firsts.get(word.wrapping_sub(self.least) as usize).copied().unwrap_or(0)
    }

    fn find(&self, keys: &Keys, words: &[u64]) -> Vec<Id> {
        const { assert!(NO_ROW == 0u64.wrapping_sub(1), "what has no row is no row") };
        keys.without_nulls(words.iter().map(|word| u64::from(self.first(*word)).wrapping_sub(1)).collect())
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
            Slots::Direct(direct) => 4 * direct.firsts.capacity(),
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
            Slots::Direct(direct) => write(&mut direct.firsts, page),
        }
    }

    /// Reads the slots of these hashes, so that they are near when they are needed.
    pub(super) fn touch(&self, hashes: &[u64]) {
        let mut seen = 0;
        match self {
            Slots::None | Slots::Direct(_) => {}
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
        const EMPTY: &[[u64; 2]] = &[[0; 2]];
        match self {
            Held::Table(table) => match &table.slots {
                Slots::Words(slots) => (slots, NO_ROW),
                Slots::None | Slots::Tagged(_) | Slots::Direct(_) => (EMPTY, NO_ROW),
            },
            Held::Nothing => (EMPTY, NO_ROW),
            Held::Elsewhere => (EMPTY, LATER),
        }
    }

    /// As [`Held::words`], of other keys.
    fn tagged(&self) -> (&[u64], Id) {
        const EMPTY: &[u64] = &[0];
        match self {
            Held::Table(table) => match &table.slots {
                Slots::Tagged(slots) => (slots, NO_ROW),
                Slots::None | Slots::Words(_) | Slots::Direct(_) => (EMPTY, NO_ROW),
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

    /// What finds words without their hashes: of a table that is alone.
    fn direct(&self) -> Option<&Direct> {
        match self.list.as_slice() {
            [Held::Table(table)] => match &table.slots {
                Slots::Direct(direct) => Some(direct),
                _ => None,
            },
            _ => None,
        }
    }

    /// Whether [`Tables::find`] looks at hashes.
    pub(super) fn needs_hashes(&self) -> bool {
        self.direct().is_none()
    }

    /// Whether rows of some bucket are on disk, or on their way there.
    pub(super) fn is_partial(&self) -> bool {
        self.list.iter().any(|held| matches!(held, Held::Elsewhere))
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

    /// For each row of `keys` the first build row of its key, [`NO_ROW`] or [`LATER`]. `hashes` may be empty where
    /// [`Tables::needs_hashes`] says so.
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
            Values::Word(words) => match self.direct() {
                Some(direct) => direct.find(keys, words),
                None => self.find_words(keys, words, hashes),
            },
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

    // The first slots of all rows are looked at without a branch that depends on them, so that the processor waits for
    // many of them at once and nothing has to be foreseen. Few rows are left whose first slot has another key.
    fn find_words(&self, keys: &Keys, words: &[u64], hashes: &[u64]) -> Vec<Id> {
        let buckets: Vec<(&[[u64; 2]], Id)> = self.list.iter().map(Held::words).collect();
        let mut ids = vec![NO_ROW; keys.rows];
        let mut others = Picked::new(keys.rows);
        for (row, ((word, hash), id_of_row)) in words.iter().zip(hashes).zip(&mut ids).enumerate() {
            let bucket = self.bucket(*hash);
            let (slots, absent) = buckets[bucket];
            let [key, found] = slots[*hash as usize & (slots.len() - 1)];
            let (some, same) = (found != 0, key == *word);
            *id_of_row = either(some & same, id(bucket, (found as u32).wrapping_sub(1)), absent);
            others.pick(row, some & !same);
        }
        for row in others.rows() {
            let (word, mut at) = (words[row], hashes[row] as usize);
            let bucket = self.bucket(hashes[row]);
            let (slots, absent) = buckets[bucket];
            ids[row] = loop {
                at += 1;
                match slots[at & (slots.len() - 1)] {
                    [_, 0] => break absent,
                    [key, found] if key == word => break id(bucket, found as u32 - 1),
                    _ => {}
                }
            };
        }
        keys.without_nulls(ids)
    }

    // As `find_words`; then the keys of rows whose first slot has their tag are compared, nearly always for nothing.
    fn find_by(&self, keys: &Keys, hashes: &[u64], same: impl Fn(usize, &Values, usize) -> bool) -> Vec<Id> {
        let buckets: Vec<(&[u64], Id)> = self.list.iter().map(Held::tagged).collect();
        let mut ids = vec![NO_ROW; keys.rows];
        let (mut alike, mut others) = (Picked::new(keys.rows), Picked::new(keys.rows));
        for (row, (hash, id_of_row)) in hashes.iter().zip(&mut ids).enumerate() {
            let bucket = self.bucket(*hash);
            let (slots, absent) = buckets[bucket];
            let slot = slots[*hash as usize & (slots.len() - 1)];
            let (some, same) = (slot != 0, slot >> 32 == hash >> 32);
            *id_of_row = either(some & same, id(bucket, (slot as u32).wrapping_sub(1)), absent);
            alike.pick(row, some & same);
            others.pick(row, some & !same);
        }
        let from = |row: usize, at: usize| {
            let bucket = self.bucket(hashes[row]);
            let table = self.table(bucket)?;
            table
                .find(buckets[bucket].0, hashes[row], at, |built, at| same(row, built, at))
                .map(|found| id(bucket, found))
        };
        for row in alike.rows() {
            let found = ids[row];
            let table = self.table(bucket_of(found));
            let has = |table: &Table| table.has(found as u32, |built, at| same(row, built, at));
            if !table.is_some_and(has) {
                ids[row] = from(row, hashes[row] as usize + 1).unwrap_or(NO_ROW);
            }
        }
        for row in others.rows() {
            ids[row] = from(row, hashes[row] as usize + 1).unwrap_or(NO_ROW);
        }
        keys.without_nulls(ids)
    }
}

/// `yes` or `no`, without a branch.
#[inline]
fn either(is_yes: bool, yes: Id, no: Id) -> Id {
    let mask = u64::from(is_yes).wrapping_neg();
    (yes & mask) | (no & !mask)
}

/// Rows that were picked, in their order.
struct Picked {
    rows: Vec<u32>,
    count: usize,
}

impl Picked {
    /// None yet, and no more than `most` to come.
    fn new(most: usize) -> Self {
        Self { rows: vec![0; most], count: 0 }
    }

    /// Writes `row` down in any case, and keeps it if it `is_picked`: without a branch.
    #[inline]
    fn pick(&mut self, row: usize, is_picked: bool) {
        self.rows[self.count] = row as u32;
        self.count += usize::from(is_picked);
    }

    fn rows(&self) -> impl Iterator<Item = usize> {
        self.rows[..self.count].iter().map(|row| *row as usize)
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
