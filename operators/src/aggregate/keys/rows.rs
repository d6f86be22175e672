//! Keys of any columns, in Arrow's row format: equal rows are equal bytes.

use std::hash::BuildHasher;
use std::ops::Range;

use aqueduct_runtime::batch::array_bytes;
use aqueduct_runtime::{OperatorError, Result};
use arrow::array::{Array, ArrayRef, AsArray, OffsetSizeTrait};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::DataType;
use arrow::row::{RowConverter, Rows, SortField};
use hashbrown::HashTable;

use super::{KeyHash, doubling, table_bytes};

/// A group and the hash of its row, which costs too much to be computed again when the table grows.
type Entry = (u64, u32);

pub(crate) struct RowKeys {
    converter: RowConverter,
    hash: KeyHash,
    table: HashTable<Entry>,
    groups: Rows,
    /// Rows of the batch at hand. Kept for its allocation.
    batch: Rows,
}

impl RowKeys {
    pub(super) fn new(types: &[DataType]) -> Result<Self> {
        let fields: Vec<_> = types.iter().cloned().map(SortField::new).collect();
        if !RowConverter::supports_fields(&fields) {
            let list = types.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            return Err(OperatorError::new(format!("rows cannot be grouped by values of type {list}")));
        }
        let converter = RowConverter::new(fields)?;
        let (groups, batch) = (converter.empty_rows(0, 0), converter.empty_rows(0, 0));
        Ok(Self { converter, hash: KeyHash::new(), table: HashTable::new(), groups, batch })
    }

    pub(super) fn len(&self) -> usize {
        self.groups.num_rows()
    }

    pub(super) fn intern(&mut self, columns: &[ArrayRef], groups: &mut [usize]) -> Result<()> {
        self.batch.clear();
        self.converter.append(&mut self.batch, columns)?;
        for (group, row) in groups.iter_mut().zip(self.batch.iter()) {
            let hash = self.hash.long.hash_one(row.as_ref());
            let known = &self.groups;
            let same = |entry: &Entry| entry.0 == hash && known.row(entry.1 as usize) == row;
            *group = match self.table.find(hash, same) {
                Some(entry) => entry.1 as usize,
                None => {
                    let new = self.groups.num_rows();
                    self.groups.push(row);
                    self.table.insert_unique(hash, (hash, new as u32), |entry| entry.0);
                    new
                }
            };
        }
        // A batch of uncommonly large rows must not be paid for to the end.
        if self.batch.size() > 1 << 20 {
            self.batch = self.converter.empty_rows(0, 0);
        }
        Ok(())
    }

    pub(super) fn hash(&mut self, hash: &KeyHash, columns: &[ArrayRef], hashes: &mut [u64]) -> Result<()> {
        let rows = self.converter.convert_columns(columns)?;
        for (hash_of_row, row) in hashes.iter_mut().zip(rows.iter()) {
            *hash_of_row = hash.long.hash_one(row.as_ref());
        }
        Ok(())
    }

    pub(super) fn emit(&self, range: Range<usize>) -> Result<Vec<ArrayRef>> {
        Ok(self.converter.convert_rows(range.map(|group| self.groups.row(group)))?)
    }

    pub(super) fn bytes(&self) -> usize {
        self.table.allocation_size() + self.groups.size() + self.batch.size()
    }

    pub(super) fn growth(&self, rows: usize, columns: &[ArrayRef]) -> usize {
        let encoded = columns.iter().map(encoded_bytes).sum::<usize>() + rows * size_of::<usize>();
        let groups = self.groups.size();
        let per_group = groups.div_ceil(self.len().max(1));
        encoded
            + doubling(groups, per_group * self.len() + encoded)
            + doubling(self.table.allocation_size(), table_bytes::<Entry>(self.len() + rows))
    }

    pub(super) fn seal(&mut self) {
        self.table = HashTable::new();
        self.batch = self.converter.empty_rows(0, 0);
    }
}

/// Bytes that the values of `array` take in row format at the most.
fn encoded_bytes(array: &ArrayRef) -> usize {
    let rows = array.len();
    match array.data_type() {
        // A byte tells nulls apart, and truth has a byte, too.
        kind if kind.is_primitive() || *kind == DataType::Boolean => array_bytes(array) + 2 * rows,
        DataType::Struct(_) => rows + array.as_struct().columns().iter().map(encoded_bytes).sum::<usize>(),
        DataType::List(_) => {
            let list = array.as_list::<i32>();
            2 * rows + in_blocks(list.values(), list.offsets())
        }
        DataType::LargeList(_) => {
            let list = array.as_list::<i64>();
            2 * rows + in_blocks(list.values(), list.offsets())
        }
        DataType::FixedSizeList(..) => {
            let values = array.as_fixed_size_list().values();
            2 * rows + blocks_bytes(values.len(), encoded_bytes(values))
        }
        DataType::Map(..) => {
            let map = array.as_map();
            let entries: ArrayRef = std::sync::Arc::new(map.entries().clone());
            2 * rows + in_blocks(&entries, map.offsets())
        }
        _ => blocks_bytes(rows, array_bytes(array)),
    }
}

/// Bytes of the elements of lists, each of which is a row of its own.
fn in_blocks<O: OffsetSizeTrait>(values: &ArrayRef, offsets: &OffsetBuffer<O>) -> usize {
    let (from, to) = (offsets[0].as_usize(), offsets[offsets.len() - 1].as_usize());
    let values = values.slice(from, to - from);
    blocks_bytes(values.len(), encoded_bytes(&values))
}

/// Bytes of `values` values of `bytes` in all where each has blocks of its own: up to four of 9 bytes for 8, then of 33 bytes
/// for 32.
fn blocks_bytes(values: usize, bytes: usize) -> usize {
    2 * bytes + 11 * values
}
