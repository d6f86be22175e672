//! Keys of one column of fixed width, up to 64 bits: compared as bits.

use std::ops::Range;

use aqueduct_runtime::Result;
use arrow::array::{Array, ArrayData, ArrayRef, make_array};
use arrow::buffer::{BooleanBuffer, Buffer, NullBuffer};
use arrow::datatypes::{ArrowNativeType, DataType, IntervalUnit};
use hashbrown::HashTable;

use super::{KeyHash, doubling, table_bytes};

/// Bytes of a value, if the type is handled here.
pub(super) fn width(data_type: &DataType) -> Option<usize> {
    use DataType::*;
    match data_type {
        Interval(IntervalUnit::MonthDayNano) | Decimal128(..) | Decimal256(..) | Float16 => None,
        Int8 | UInt8 | Int16 | UInt16 | Int32 | UInt32 | Int64 | UInt64 | Float32 | Float64 | Date32 | Date64
        | Time32(_) | Time64(_) | Timestamp(..) | Duration(_) | Interval(_) | Decimal32(..) | Decimal64(..) => {
            data_type.primitive_width()
        }
        _ => None,
    }
}

/// A recent key and its group, found by the key's hash.
#[derive(Clone, Copy)]
struct Recent {
    key: u64,
    group: u32,
}

const NO_GROUP: u32 = u32::MAX;
const CACHE_BITS: u32 = 9;

pub(crate) struct NumberKeys {
    data_type: DataType,
    hash: KeyHash,
    table: HashTable<u32>,
    keys: Vec<u64>,
    null_group: Option<u32>,
    /// Empty, or 2^CACHE_BITS entries.
    recent: Vec<Recent>,
}

impl NumberKeys {
    pub(super) fn new(data_type: DataType, cached: bool) -> Self {
        let recent = if cached { vec![Recent { key: 0, group: NO_GROUP }; 1 << CACHE_BITS] } else { Vec::new() };
        Self { data_type, hash: KeyHash::new(), table: HashTable::new(), keys: Vec::new(), null_group: None, recent }
    }

    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }

    pub(super) fn intern(&mut self, column: &ArrayRef, groups: &mut [usize]) {
        with_keys(column, Intern { keys: self, groups });
    }

    fn intern_keys(&mut self, keys: impl Iterator<Item = u64>, nulls: Option<&NullBuffer>, groups: &mut [usize]) {
        for (row, (group, key)) in groups.iter_mut().zip(keys).enumerate() {
            if nulls.is_some_and(|nulls| nulls.is_null(row)) {
                *group = self.null_group() as usize;
                continue;
            }
            let hash = self.hash.number(key);
            let slot = (hash >> (64 - CACHE_BITS)) as usize;
            if let Some(recent) = self.recent.get(slot)
                && recent.key == key
                && recent.group != NO_GROUP
            {
                *group = recent.group as usize;
                continue;
            }
            let found = self.lookup(key, hash);
            *group = found as usize;
            if let Some(recent) = self.recent.get_mut(slot) {
                *recent = Recent { key, group: found };
            }
        }
    }

    #[inline]
    fn lookup(&mut self, key: u64, hash: u64) -> u32 {
        let (keys, hashes) = (&mut self.keys, &self.hash);
        // The group of nulls has a key, too, but is never in the table.
        if let Some(group) = self.table.find(hash, |group| keys[*group as usize] == key) {
            return *group;
        }
        let group = keys.len() as u32;
        keys.push(key);
        self.table.insert_unique(hash, group, |group| hashes.number(keys[*group as usize]));
        group
    }

    #[cold]
    fn null_group(&mut self) -> u32 {
        *self.null_group.get_or_insert_with(|| {
            self.keys.push(0);
            self.keys.len() as u32 - 1
        })
    }

    pub(super) fn emit(&self, range: Range<usize>) -> Result<ArrayRef> {
        let nulls = null_at(self.null_group, range.clone());
        numbers_array(&self.data_type, self.keys[range].iter().copied(), nulls)
    }

    pub(super) fn bytes(&self) -> usize {
        self.table.allocation_size() + 8 * self.keys.capacity() + size_of::<Recent>() * self.recent.capacity()
    }

    pub(super) fn growth(&self, rows: usize) -> usize {
        doubling(8 * self.keys.capacity(), 8 * (self.len() + rows))
            + doubling(self.table.allocation_size(), table_bytes::<u32>(self.len() + rows))
    }

    pub(super) fn seal(&mut self) {
        self.table = HashTable::new();
        self.recent = Vec::new();
    }
}

/// Numbers of `data_type`, of which keys are the bits.
pub(super) fn numbers_array(
    data_type: &DataType,
    keys: impl ExactSizeIterator<Item = u64>,
    nulls: Option<NullBuffer>,
) -> Result<ArrayRef> {
    let rows = keys.len();
    let buffer = match width(data_type) {
        Some(1) => Buffer::from_vec(keys.map(|key| key as u8).collect::<Vec<_>>()),
        Some(2) => Buffer::from_vec(keys.map(|key| key as u16).collect::<Vec<_>>()),
        Some(4) => Buffer::from_vec(keys.map(|key| key as u32).collect::<Vec<_>>()),
        _ => Buffer::from_vec(keys.collect::<Vec<_>>()),
    };
    let data = ArrayData::builder(data_type.clone()).len(rows).add_buffer(buffer).nulls(nulls).build()?;
    Ok(make_array(data))
}

/// Validity of groups `range`, of which at most `null_group` is null.
pub(super) fn null_at(null_group: Option<u32>, range: Range<usize>) -> Option<NullBuffer> {
    let null = null_group.map(|group| group as usize).filter(|group| range.contains(group))?;
    Some(NullBuffer::new(BooleanBuffer::collect_bool(range.len(), |row| range.start + row != null)))
}

/// Hashes of the rows of `column`.
pub(super) fn hash(hash: &KeyHash, column: &ArrayRef, hashes: &mut [u64]) {
    with_keys(column, Hash { hash, hashes });
}

/// What is done with the values of a column, once their width is known.
pub(crate) trait WithKeys {
    fn call(self, keys: impl Iterator<Item = u64>, nulls: Option<&NullBuffer>);
}

struct Intern<'a> {
    keys: &'a mut NumberKeys,
    groups: &'a mut [usize],
}

impl WithKeys for Intern<'_> {
    fn call(self, keys: impl Iterator<Item = u64>, nulls: Option<&NullBuffer>) {
        self.keys.intern_keys(keys, nulls, self.groups);
    }
}

struct Hash<'a> {
    hash: &'a KeyHash,
    hashes: &'a mut [u64],
}

impl WithKeys for Hash<'_> {
    fn call(self, keys: impl Iterator<Item = u64>, nulls: Option<&NullBuffer>) {
        for (row, (hash, key)) in self.hashes.iter_mut().zip(keys).enumerate() {
            // Every null hashes to the same, whatever bits lie under it.
            *hash = if nulls.is_some_and(|nulls| nulls.is_null(row)) { 0 } else { self.hash.number(key) };
        }
    }
}

pub(crate) fn with_keys(column: &ArrayRef, action: impl WithKeys) {
    fn typed<T: ArrowNativeType>(data: &ArrayData) -> &[T] {
        &data.buffers()[0].typed_data::<T>()[data.offset()..data.offset() + data.len()]
    }
    let data = column.to_data();
    let nulls = column.logical_nulls();
    let nulls = nulls.as_ref().filter(|nulls| nulls.null_count() > 0);
    match width(column.data_type()) {
        Some(1) => action.call(typed::<u8>(&data).iter().map(|key| u64::from(*key)), nulls),
        Some(2) => action.call(typed::<u16>(&data).iter().map(|key| u64::from(*key)), nulls),
        Some(4) => action.call(typed::<u32>(&data).iter().map(|key| u64::from(*key)), nulls),
        _ => action.call(typed::<u64>(&data).iter().copied(), nulls),
    }
}
