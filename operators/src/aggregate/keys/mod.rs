//! Group keys: gives each distinct combination of group values a number, counted from 0 as they come.
//!
//! Nulls are equal to each other. Floats are normalised before they get here
//! ([`normalised`](super::describe::normalised)), so equal bits mean equal keys.

mod bytes;
mod columns;
mod number;
mod rows;

use std::hash::BuildHasher;
use std::ops::Range;
use std::sync::LazyLock;

use aqueduct_runtime::batch::array_bytes;
use aqueduct_runtime::{OperatorError, Result};
use arrow::array::ArrayRef;
use arrow::datatypes::DataType;
use foldhash::fast::RandomState;

use bytes::BytesKeys;
use columns::ColumnKeys;
use number::NumberKeys;
pub(crate) use number::{WithKeys, with_keys};
use rows::RowKeys;

/// Numbers for distinct keys, by the fastest way that the types of the key columns allow.
pub(crate) enum GroupKeys {
    /// No key columns: every row is of the one group, which is always there.
    Single,
    Number(NumberKeys),
    Bytes(BytesKeys),
    Columns(Box<ColumnKeys>),
    Rows(Box<RowKeys>),
}

impl GroupKeys {
    /// Keys over columns of `types`. A cache of recent keys pays where keys repeat within a batch.
    pub(crate) fn new(types: &[DataType], cached: bool) -> Result<Self> {
        Ok(match types {
            [] => Self::Single,
            [one] if number::width(one).is_some() => Self::Number(NumberKeys::new(one.clone(), cached)),
            [one] if bytes::supports(one) => Self::Bytes(BytesKeys::new(one.clone(), cached)),
            many if columns::supports(many) => Self::Columns(Box::new(ColumnKeys::new(many))),
            many => Self::Rows(Box::new(RowKeys::new(many)?)),
        })
    }

    /// Number of distinct keys so far.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Single => 1,
            Self::Number(keys) => keys.len(),
            Self::Bytes(keys) => keys.len(),
            Self::Columns(keys) => keys.len(),
            Self::Rows(keys) => keys.len(),
        }
    }

    /// Replaces `groups` by the number of each row's key; new keys get new numbers.
    pub(crate) fn intern(&mut self, columns: &[ArrayRef], rows: usize, groups: &mut Vec<usize>) -> Result<()> {
        // Numbers are kept in 32 bits; a table is split or spilled long before.
        if self.len() + rows > u32::MAX as usize {
            return Err(OperatorError::new("a hash table cannot hold more than 4 Gi groups"));
        }
        groups.clear();
        groups.resize(rows, 0);
        match self {
            Self::Single => Ok(()),
            Self::Number(keys) => {
                keys.intern(&columns[0], groups);
                Ok(())
            }
            Self::Bytes(keys) => {
                keys.intern(&columns[0], groups);
                Ok(())
            }
            Self::Columns(keys) => {
                keys.intern(columns, groups);
                Ok(())
            }
            Self::Rows(keys) => keys.intern(columns, groups),
        }
    }

    /// The key columns of groups `range`, newly allocated.
    pub(crate) fn emit(&self, range: Range<usize>) -> Result<Vec<ArrayRef>> {
        Ok(match self {
            Self::Single => Vec::new(),
            Self::Number(keys) => vec![keys.emit(range)?],
            Self::Bytes(keys) => vec![keys.emit(range)?],
            Self::Columns(keys) => keys.emit(range)?,
            Self::Rows(keys) => keys.emit(range)?,
        })
    }

    /// Bytes allocated.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Single => 0,
            Self::Number(keys) => keys.bytes(),
            Self::Bytes(keys) => keys.bytes(),
            Self::Columns(keys) => keys.bytes(),
            Self::Rows(keys) => keys.bytes(),
        }
    }

    /// Bytes that interning `rows` new keys, those in `columns`, may need at once on top of
    /// [`GroupKeys::bytes`]: while a table or a vector grows, its old and its new half are both there.
    pub(crate) fn growth(&self, rows: usize, columns: &[ArrayRef]) -> usize {
        let key_bytes = || columns.iter().map(array_bytes).sum();
        match self {
            Self::Single => 0,
            Self::Number(keys) => keys.growth(rows),
            Self::Bytes(keys) => keys.growth(rows, key_bytes()),
            Self::Columns(keys) => keys.growth(rows, key_bytes()),
            Self::Rows(keys) => keys.growth(rows, columns),
        }
    }

    /// Frees the hash table, which emitting does not need. Nothing can be interned afterwards.
    pub(crate) fn seal(&mut self) {
        match self {
            Self::Single => {}
            Self::Number(keys) => keys.seal(),
            Self::Bytes(keys) => keys.seal(),
            Self::Columns(keys) => keys.seal(),
            Self::Rows(keys) => keys.seal(),
        }
    }
}

/// Seeds of this process: keys that collide in one run do not in the next, whoever chose them.
static SEEDS: LazyLock<[u64; 2]> = LazyLock::new(|| {
    let state = RandomState::default();
    [state.hash_one(1u64) | 1, state.hash_one(2u64) | 1]
});

/// Hash of numbers and short byte strings, and of longer byte strings.
#[derive(Clone)]
pub(crate) struct KeyHash {
    seeds: [u64; 2],
    long: RandomState,
}

impl KeyHash {
    pub(crate) fn new() -> Self {
        Self { seeds: *SEEDS, long: RandomState::default() }
    }

    #[inline]
    fn number(&self, key: u64) -> u64 {
        folded(key ^ self.seeds[0], 0x9E37_79B9_7F4A_7C15 ^ self.seeds[1])
    }

    /// Hash of a view of at most 12 bytes.
    #[inline]
    fn short(&self, view: u128) -> u64 {
        folded(view as u64 ^ self.seeds[0], (view >> 64) as u64 ^ self.seeds[1])
    }

    #[inline]
    fn long(&self, bytes: &[u8]) -> u64 {
        self.long.hash_one(bytes)
    }
}

/// Both halves of the product, folded into one: a good mix of two words at the price of one multiplication.
#[inline]
fn folded(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product as u64) ^ (product >> 64) as u64
}

/// Bytes that a [`hashbrown::HashTable`] of `T` allocates for `entries`, as its growth policy has it.
pub(crate) fn table_bytes<T>(entries: usize) -> usize {
    if entries == 0 {
        return 0;
    }
    let buckets = (entries * 8 / 7 + 1).next_power_of_two().max(4);
    buckets * (size_of::<T>() + 1) + 16
}

/// Bytes that must be there while a vector or table that has `have` bytes grows so that it can take `need`.
pub(crate) fn doubling(have: usize, need: usize) -> usize {
    // The old half is freed once the new one is filled.
    if need > have { need.next_power_of_two().max(2 * have).max(64) } else { 0 }
}

/// Hashes rows for the spreading of groups over buckets: independent of the tables' own hashes and of the
/// exchange's, or rows of one partition would all fall into the same few buckets.
pub(crate) struct RowHash {
    keys: KeyHash,
    rows: Option<Box<RowKeys>>,
    kind: Kind,
}

enum Kind {
    Single,
    Number,
    Bytes,
    Columns,
    Rows,
}

impl RowHash {
    /// Hashes of rows with key columns of `types`.
    pub(crate) fn new(types: &[DataType]) -> Result<Self> {
        let state = RandomState::default();
        let keys = KeyHash { seeds: [state.hash_one(3u64), state.hash_one(4u64)], long: RandomState::default() };
        let (kind, rows) = match types {
            [] => (Kind::Single, None),
            [one] if number::width(one).is_some() => (Kind::Number, None),
            [one] if bytes::supports(one) => (Kind::Bytes, None),
            many if columns::supports(many) => (Kind::Columns, None),
            many => (Kind::Rows, Some(Box::new(RowKeys::new(many)?))),
        };
        Ok(Self { keys, rows, kind })
    }

    /// Replaces `hashes` by those of each row.
    pub(crate) fn hash(&mut self, columns: &[ArrayRef], rows: usize, hashes: &mut Vec<u64>) -> Result<()> {
        hashes.clear();
        hashes.resize(rows, 0);
        match self.kind {
            Kind::Single => {}
            Kind::Number => number::hash(&self.keys, &columns[0], hashes),
            Kind::Bytes => bytes::hash(&self.keys, &columns[0], hashes),
            Kind::Columns => columns::hash(&self.keys, columns, hashes),
            Kind::Rows => {
                let rows = self.rows.as_mut().expect("made together with the kind");
                rows.hash(&self.keys, columns, hashes)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
