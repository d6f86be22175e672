//! Keys of several columns of numbers and byte strings: each is a few words, which are compared as they are.
//!
//! ```text
//! | which are null | number | view of a short string        | …
//!                           | mark, which of the long ones  |
//! ```

use std::ops::Range;

use aqueduct_runtime::Result;
use arrow::array::{Array, ArrayRef};
use arrow::buffer::{BooleanBuffer, NullBuffer};
use arrow::datatypes::DataType;
use hashbrown::HashTable;

use super::bytes::{self, BytesKeys, WithValues, with_values};
use super::number::{self, WithKeys, numbers_array, with_keys};
use super::{KeyHash, doubling, folded, table_bytes};

/// Rows whose words are made at once.
const ROWS: usize = 256;
/// Each column has a bit of the first word.
const MOST_COLUMNS: usize = 64;
/// Stands where the length of a short string would.
const LONG: u64 = u64::MAX;

pub(super) fn supports(types: &[DataType]) -> bool {
    let one = |data_type: &DataType| number::width(data_type).is_some() || bytes::supports(data_type);
    types.len() <= MOST_COLUMNS && types.iter().all(one)
}

pub(crate) struct ColumnKeys {
    hash: KeyHash,
    table: HashTable<u32>,
    columns: Vec<Part>,
    /// Words of a key.
    width: usize,
    words: Vec<u64>,
    /// Words of the rows at hand.
    batch: Vec<u64>,
}

struct Part {
    /// The first of its words.
    at: usize,
    kind: Kind,
}

enum Kind {
    Number(DataType),
    /// Strings, of which it has the long ones.
    Bytes(Box<BytesKeys>),
}

impl ColumnKeys {
    pub(super) fn new(types: &[DataType]) -> Self {
        let mut width = 1;
        let part = |data_type: &DataType| {
            let (words, kind) = match number::width(data_type) {
                Some(_) => (1, Kind::Number(data_type.clone())),
                None => (2, Kind::Bytes(Box::new(BytesKeys::new(data_type.clone(), false)))),
            };
            width += words;
            Part { at: width - words, kind }
        };
        let columns = types.iter().map(part).collect();
        let (words, batch) = (Vec::new(), Vec::new());
        Self { hash: KeyHash::new(), table: HashTable::new(), columns, width, words, batch }
    }

    pub(super) fn len(&self) -> usize {
        self.words.len() / self.width
    }

    pub(super) fn intern(&mut self, columns: &[ArrayRef], groups: &mut [usize]) {
        for (index, groups) in groups.chunks_mut(ROWS).enumerate() {
            let (start, rows, width) = (index * ROWS, groups.len(), self.width);
            self.batch.clear();
            self.batch.resize(rows * width, 0);
            for (bit, (part, column)) in self.columns.iter_mut().zip(columns).enumerate() {
                let column = column.slice(start, rows);
                let words = Words { batch: &mut self.batch, width, at: part.at, bit };
                match &mut part.kind {
                    Kind::Number(_) => with_keys(&column, words),
                    Kind::Bytes(keys) => with_values(&column, Strings { words, keys }),
                }
            }
            for (group, key) in groups.iter_mut().zip(self.batch.chunks_exact(width)) {
                let hash = hash_of(&self.hash, key);
                let (words, hashes) = (&mut self.words, &self.hash);
                // Few words: a loop is faster than a call.
                let known = |group: &u32| words[*group as usize * width..][..width].iter();
                let same = |group: &u32| known(group).zip(key).all(|(known, word)| known == word);
                *group = match self.table.find(hash, same) {
                    Some(group) => *group as usize,
                    None => {
                        let new = (words.len() / width) as u32;
                        words.extend_from_slice(key);
                        let rehash = |group: &u32| hash_of(hashes, &words[*group as usize * width..][..width]);
                        self.table.insert_unique(hash, new, rehash);
                        new as usize
                    }
                };
            }
        }
    }

    pub(super) fn emit(&self, range: Range<usize>) -> Result<Vec<ArrayRef>> {
        let keys = || self.words[range.start * self.width..range.end * self.width].chunks_exact(self.width);
        let column = |(bit, part): (usize, &Part)| {
            let valid = BooleanBuffer::from_iter(keys().map(|key| key[0] >> bit & 1 == 0));
            let nulls = Some(NullBuffer::new(valid)).filter(|nulls| nulls.null_count() > 0);
            match &part.kind {
                Kind::Number(data_type) => numbers_array(data_type, keys().map(|key| key[part.at]), nulls),
                Kind::Bytes(long) => {
                    let view = |key: &[u64]| match key[part.at] {
                        LONG => long.view(key[part.at + 1] as u32),
                        head => u128::from(head) | u128::from(key[part.at + 1]) << 64,
                    };
                    long.emit_keys(&keys().map(view).collect::<Vec<_>>(), nulls)
                }
            }
        };
        self.columns.iter().enumerate().map(column).collect()
    }

    fn strings(&self) -> impl Iterator<Item = &BytesKeys> {
        self.columns.iter().filter_map(|part| match &part.kind {
            Kind::Number(_) => None,
            Kind::Bytes(keys) => Some(&**keys),
        })
    }

    pub(super) fn bytes(&self) -> usize {
        self.table.allocation_size()
            + 8 * (self.words.capacity() + self.batch.capacity())
            + self.strings().map(BytesKeys::bytes).sum::<usize>()
    }

    pub(super) fn growth(&self, rows: usize, key_bytes: usize) -> usize {
        // Only long strings are kept apart, and all columns share these bytes.
        let long = |keys: &BytesKeys| keys.may_be_long(key_bytes, rows);
        let strings = self.strings().filter(|keys| long(keys)).map(|keys| keys.growth_beside(rows, key_bytes));
        let strings: usize = strings.sum();
        doubling(8 * self.words.capacity(), 8 * self.width * (self.len() + rows))
            + doubling(self.table.allocation_size(), table_bytes::<u32>(self.len() + rows))
            + doubling(8 * self.batch.capacity(), 8 * self.width * rows.min(ROWS))
            + if strings > 0 { strings + 2 * key_bytes } else { 0 }
    }

    pub(super) fn seal(&mut self) {
        self.table = HashTable::new();
        self.batch = Vec::new();
        for part in &mut self.columns {
            if let Kind::Bytes(keys) = &mut part.kind {
                keys.seal();
            }
        }
    }
}

#[inline]
fn hash_of(hash: &KeyHash, key: &[u64]) -> u64 {
    key.iter().fold(hash.seeds[0], |sum, word| folded(sum ^ word, 0x9E37_79B9_7F4A_7C15 ^ hash.seeds[1]))
}

/// Hashes of the rows of `columns`, of types that are supported here.
pub(super) fn hash(hash: &KeyHash, columns: &[ArrayRef], hashes: &mut [u64]) {
    let mut one = vec![0; hashes.len()];
    for (at, column) in columns.iter().enumerate() {
        match number::width(column.data_type()) {
            Some(_) => number::hash(hash, column, &mut one),
            None => bytes::hash(hash, column, &mut one),
        }
        if at == 0 {
            hashes.copy_from_slice(&one);
            continue;
        }
        for (sum, one) in hashes.iter_mut().zip(&one) {
            *sum = folded(*sum ^ hash.seeds[0], one ^ 0xD6E8_FEB8_6659_FD93);
        }
    }
}

/// Where the values of a column go.
struct Words<'a> {
    batch: &'a mut [u64],
    width: usize,
    /// The column's first word.
    at: usize,
    /// Its bit among the nulls.
    bit: usize,
}

impl WithKeys for Words<'_> {
    fn call(self, keys: impl Iterator<Item = u64>, nulls: Option<&NullBuffer>) {
        for (row, (words, key)) in self.batch.chunks_exact_mut(self.width).zip(keys).enumerate() {
            // What lies under a null is nobody's business.
            if nulls.is_some_and(|nulls| nulls.is_null(row)) {
                words[0] |= 1 << self.bit;
            } else {
                words[self.at] = key;
            }
        }
    }
}

struct Strings<'a> {
    words: Words<'a>,
    keys: &'a mut BytesKeys,
}

impl Strings<'_> {
    #[inline]
    fn set(&mut self, row: usize, head: u64, rest: u64) {
        let at = row * self.words.width + self.words.at;
        self.words.batch[at] = head;
        self.words.batch[at + 1] = rest;
    }
}

impl WithValues for Strings<'_> {
    #[inline]
    fn short(&mut self, row: usize, view: u128) {
        self.set(row, view as u64, (view >> 64) as u64);
    }

    fn long(&mut self, row: usize, bytes: &[u8]) {
        let group = self.keys.long(bytes);
        self.set(row, LONG, u64::from(group));
    }

    fn null(&mut self, row: usize) {
        self.words.batch[row * self.words.width] |= 1 << self.words.bit;
    }
}
