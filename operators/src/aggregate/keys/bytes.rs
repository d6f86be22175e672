//! Keys of one column of strings or bytes: views, so that up to 12 bytes are compared as one number.
//!
//! Each key is a view as Arrow has it: its length, then either the bytes themselves or the first four of them
//! and where the whole lies in the blocks.

use std::ops::Range;
use std::sync::Arc;

use aqueduct_runtime::Result;
use arrow::array::{Array, ArrayRef, AsArray, BinaryViewArray, ByteView, GenericByteArray, StringViewArray};
use arrow::buffer::{Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{
    ArrowNativeType, BinaryType, ByteArrayType, DataType, LargeBinaryType, LargeUtf8Type, Utf8Type,
};
use arrow::error::ArrowError;
use hashbrown::HashTable;

use super::number::null_at;
use super::{KeyHash, doubling, table_bytes};

/// Bytes of a key that a view holds itself.
const SHORT: u32 = 12;
const CACHE_BITS: u32 = 9;
/// No view of a short key looks like this.
const NO_VIEW: u128 = u128::MAX;
const FIRST_BLOCK_BYTES: usize = 4 << 10;
const LAST_BLOCK_BYTES: usize = 1 << 20;

pub(super) fn supports(data_type: &DataType) -> bool {
    use DataType::*;
    matches!(data_type, Utf8 | LargeUtf8 | Utf8View | Binary | LargeBinary | BinaryView)
}

/// A recent short key and its group, found by the key's hash.
#[derive(Clone, Copy)]
struct Recent {
    view: u128,
    group: u32,
}

pub(crate) struct BytesKeys {
    data_type: DataType,
    hash: KeyHash,
    table: HashTable<u32>,
    views: Vec<u128>,
    /// Bytes of the keys that are not short. A block never moves and never grows beyond its capacity.
    blocks: Vec<Vec<u8>>,
    block_bytes: usize,
    null_group: Option<u32>,
    /// Empty, or 2^CACHE_BITS entries.
    recent: Vec<Recent>,
}

impl BytesKeys {
    pub(super) fn new(data_type: DataType, cached: bool) -> Self {
        let recent = if cached { vec![Recent { view: NO_VIEW, group: 0 }; 1 << CACHE_BITS] } else { Vec::new() };
        Self {
            data_type,
            hash: KeyHash::new(),
            table: HashTable::new(),
            views: Vec::new(),
            blocks: Vec::new(),
            block_bytes: 0,
            null_group: None,
            recent,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.views.len()
    }

    pub(super) fn intern(&mut self, column: &ArrayRef, groups: &mut [usize]) {
        with_values(column, Intern { keys: self, groups });
    }

    /// The group of a key of at most 12 bytes.
    #[inline]
    fn short(&mut self, view: u128) -> u32 {
        let hash = self.hash.short(view);
        let slot = (hash >> (64 - CACHE_BITS)) as usize;
        if let Some(recent) = self.recent.get(slot)
            && recent.view == view
        {
            return recent.group;
        }
        let group = self.short_in_table(view, hash);
        if let Some(recent) = self.recent.get_mut(slot) {
            *recent = Recent { view, group };
        }
        group
    }

    fn short_in_table(&mut self, view: u128, hash: u64) -> u32 {
        if let Some(group) = self.table.find(hash, |group| self.views[*group as usize] == view) {
            return *group;
        }
        self.insert(view, hash)
    }

    /// The group of a longer key.
    pub(super) fn long(&mut self, bytes: &[u8]) -> u32 {
        let hash = self.hash.long(bytes);
        let head = u64::from(long_head(bytes));
        let head = head << 32 | bytes.len() as u64;
        let same = |group: &u32| {
            let view = self.views[*group as usize];
            view as u64 == head && in_blocks(&self.blocks, view) == bytes
        };
        if let Some(group) = self.table.find(hash, same) {
            return *group;
        }
        let (block, offset) = self.store(bytes);
        self.insert(u128::from(head) | u128::from(block) << 64 | u128::from(offset) << 96, hash)
    }

    fn insert(&mut self, view: u128, hash: u64) -> u32 {
        let group = self.views.len() as u32;
        self.views.push(view);
        let (views, blocks, hashes) = (&self.views, &self.blocks, &self.hash);
        self.table.insert_unique(hash, group, |group| {
            let view = views[*group as usize];
            if view as u32 <= SHORT { hashes.short(view) } else { hashes.long(in_blocks(blocks, view)) }
        });
        group
    }

    /// Copies `bytes` to the blocks; where they are.
    fn store(&mut self, bytes: &[u8]) -> (u32, u32) {
        let fits = self.blocks.last().is_some_and(|block| block.capacity() - block.len() >= bytes.len());
        if !fits {
            let block = Vec::with_capacity(next_block(self.block_bytes).max(bytes.len()));
            self.block_bytes += block.capacity();
            self.blocks.push(block);
        }
        let index = self.blocks.len() - 1;
        let block = &mut self.blocks[index];
        let offset = block.len();
        block.extend_from_slice(bytes);
        (index as u32, offset as u32)
    }

    #[cold]
    fn null_group(&mut self) -> u32 {
        *self.null_group.get_or_insert_with(|| {
            self.views.push(0);
            self.views.len() as u32 - 1
        })
    }

    pub(super) fn emit(&self, range: Range<usize>) -> Result<ArrayRef> {
        let nulls = null_at(self.null_group, range.clone());
        self.emit_keys(&self.views[range], nulls)
    }

    /// The view of a group's key, for [`BytesKeys::emit_keys`].
    pub(super) fn view(&self, group: u32) -> u128 {
        self.views[group as usize]
    }

    /// An array of keys: of short ones, and of these groups'.
    pub(super) fn emit_keys(&self, views: &[u128], nulls: Option<NullBuffer>) -> Result<ArrayRef> {
        Ok(match &self.data_type {
            DataType::Utf8 => self.emit_offsets::<Utf8Type>(views, nulls)?,
            DataType::LargeUtf8 => self.emit_offsets::<LargeUtf8Type>(views, nulls)?,
            DataType::Binary => self.emit_offsets::<BinaryType>(views, nulls)?,
            DataType::LargeBinary => self.emit_offsets::<LargeBinaryType>(views, nulls)?,
            DataType::BinaryView => {
                let (views, buffers) = self.emit_views(views);
                Arc::new(BinaryViewArray::try_new(views, buffers, nulls)?)
            }
            _ => {
                let (views, buffers) = self.emit_views(views);
                Arc::new(StringViewArray::try_new(views, buffers, nulls)?)
            }
        })
    }

    fn emit_offsets<T: ByteArrayType>(&self, views: &[u128], nulls: Option<NullBuffer>) -> Result<ArrayRef> {
        let total: usize = views.iter().map(|view| (*view as u32) as usize).sum();
        let mut offsets: Vec<T::Offset> = Vec::with_capacity(views.len() + 1);
        let mut values = Vec::with_capacity(total);
        offsets.push(T::Offset::default());
        for view in views {
            let length = *view as u32;
            if length <= SHORT {
                values.extend_from_slice(&view.to_le_bytes()[4..4 + length as usize]);
            } else {
                values.extend_from_slice(in_blocks(&self.blocks, *view));
            }
            let end = T::Offset::from_usize(values.len()).ok_or(ArrowError::OffsetOverflowError(values.len()))?;
            offsets.push(end);
        }
        let offsets = OffsetBuffer::new(ScalarBuffer::from(offsets));
        Ok(Arc::new(GenericByteArray::<T>::try_new(offsets, Buffer::from_vec(values), nulls)?))
    }

    /// Views into a buffer of their own, which holds their bytes and no others'.
    fn emit_views(&self, views: &[u128]) -> (ScalarBuffer<u128>, Vec<Buffer>) {
        let mut emitted = views.to_vec();
        let mut buffers = Vec::new();
        let mut values = Vec::new();
        for view in &mut emitted {
            let length = *view as u32;
            if length > SHORT {
                let bytes = in_blocks(&self.blocks, *view);
                // An offset has 31 bits.
                if values.len() + bytes.len() > i32::MAX as usize {
                    buffers.push(Buffer::from_vec(std::mem::take(&mut values)));
                }
                let place =
                    ByteView::from(*view).with_buffer_index(buffers.len() as u32).with_offset(values.len() as u32);
                values.extend_from_slice(bytes);
                *view = place.into();
            }
        }
        if !values.is_empty() {
            buffers.push(Buffer::from_vec(values));
        }
        (ScalarBuffer::from(emitted), buffers)
    }

    pub(super) fn bytes(&self) -> usize {
        self.table.allocation_size()
            + 16 * self.views.capacity()
            + self.block_bytes
            + size_of::<Vec<u8>>() * self.blocks.capacity()
            + size_of::<Recent>() * self.recent.capacity()
    }

    pub(super) fn growth(&self, rows: usize, key_bytes: usize) -> usize {
        let keys = if self.takes_block(rows, key_bytes) { 2 * key_bytes } else { 0 };
        keys + self.growth_beside(rows, key_bytes)
    }

    fn takes_block(&self, rows: usize, key_bytes: usize) -> bool {
        let free = self.blocks.last().map_or(0, |block| block.capacity() - block.len());
        key_bytes > free && self.may_be_long(key_bytes, rows)
    }

    /// As [`BytesKeys::growth`], without the bytes of the keys themselves.
    pub(super) fn growth_beside(&self, rows: usize, key_bytes: usize) -> usize {
        // Views count 16 bytes of their own, offsets 4: what is left are at least the long keys' bytes.
        // The tail of a block is lost to a key that does not fit in it, and the last block may be all but empty.
        let blocks = if self.takes_block(rows, key_bytes) { next_block(self.block_bytes + 2 * key_bytes) } else { 0 };
        doubling(16 * self.views.capacity(), 16 * (self.len() + rows))
            + doubling(self.table.allocation_size(), table_bytes::<u32>(self.len() + rows))
            + blocks
    }

    /// Whether keys of `key_bytes` in their column can hold one that is not short.
    pub(super) fn may_be_long(&self, key_bytes: usize, rows: usize) -> bool {
        let fixed = match self.data_type {
            DataType::Utf8View | DataType::BinaryView => 16 * rows + rows.div_ceil(8),
            _ => 0,
        };
        key_bytes > fixed + SHORT as usize
    }

    pub(super) fn seal(&mut self) {
        self.table = HashTable::new();
        self.recent = Vec::new();
    }
}

/// Size of the next block, given that of all before.
fn next_block(block_bytes: usize) -> usize {
    (block_bytes / 4).clamp(FIRST_BLOCK_BYTES, LAST_BLOCK_BYTES)
}

fn in_blocks(blocks: &[Vec<u8>], view: u128) -> &[u8] {
    let (length, block, offset) = (view as u32 as usize, (view >> 64) as u32 as usize, (view >> 96) as u32 as usize);
    &blocks[block][offset..offset + length]
}

/// The view of a key of at most 12 bytes.
#[inline]
fn short_view(bytes: &[u8]) -> u128 {
    let mut view = [0; 16];
    view[0] = bytes.len() as u8;
    view[4..4 + bytes.len()].copy_from_slice(bytes);
    u128::from_le_bytes(view)
}

/// The first four bytes of a longer key.
fn long_head(bytes: &[u8]) -> u32 {
    bytes.first_chunk().map_or(0, |head| u32::from_le_bytes(*head))
}

/// Hashes of the rows of `column`.
pub(super) fn hash(hash: &KeyHash, column: &ArrayRef, hashes: &mut [u64]) {
    with_values(column, Hash { hash, hashes });
}

/// What is done with each value of a column. A key comes as a short one exactly if it has at most 12 bytes.
pub(super) trait WithValues {
    fn short(&mut self, row: usize, view: u128);
    fn long(&mut self, row: usize, bytes: &[u8]);
    fn null(&mut self, row: usize);
}

struct Intern<'a> {
    keys: &'a mut BytesKeys,
    groups: &'a mut [usize],
}

impl WithValues for Intern<'_> {
    #[inline]
    fn short(&mut self, row: usize, view: u128) {
        self.groups[row] = self.keys.short(view) as usize;
    }

    fn long(&mut self, row: usize, bytes: &[u8]) {
        self.groups[row] = self.keys.long(bytes) as usize;
    }

    fn null(&mut self, row: usize) {
        self.groups[row] = self.keys.null_group() as usize;
    }
}

struct Hash<'a> {
    hash: &'a KeyHash,
    hashes: &'a mut [u64],
}

impl WithValues for Hash<'_> {
    #[inline]
    fn short(&mut self, row: usize, view: u128) {
        self.hashes[row] = self.hash.short(view);
    }

    fn long(&mut self, row: usize, bytes: &[u8]) {
        self.hashes[row] = self.hash.long(bytes);
    }

    fn null(&mut self, row: usize) {
        self.hashes[row] = 0;
    }
}

pub(super) fn with_values(column: &ArrayRef, action: impl WithValues) {
    match column.data_type() {
        DataType::Utf8 => with_offsets::<Utf8Type>(column, action),
        DataType::LargeUtf8 => with_offsets::<LargeUtf8Type>(column, action),
        DataType::Binary => with_offsets::<BinaryType>(column, action),
        DataType::LargeBinary => with_offsets::<LargeBinaryType>(column, action),
        DataType::BinaryView => {
            let array = column.as_binary_view();
            with_views(array.views(), array.data_buffers(), array.nulls(), action);
        }
        _ => {
            let array = column.as_string_view();
            with_views(array.views(), array.data_buffers(), array.nulls(), action);
        }
    }
}

fn with_views(views: &[u128], buffers: &[Buffer], nulls: Option<&NullBuffer>, mut action: impl WithValues) {
    let nulls = nulls.filter(|nulls| nulls.null_count() > 0);
    if nulls.is_none() && buffers.is_empty() {
        for (row, view) in views.iter().enumerate() {
            action.short(row, *view);
        }
        return;
    }
    for (row, view) in views.iter().enumerate() {
        if nulls.is_some_and(|nulls| nulls.is_null(row)) {
            action.null(row);
        } else if *view as u32 <= SHORT {
            action.short(row, *view);
        } else {
            let place = ByteView::from(*view);
            let start = place.offset as usize;
            action.long(row, &buffers[place.buffer_index as usize][start..start + place.length as usize]);
        }
    }
}

fn with_offsets<T: ByteArrayType>(column: &ArrayRef, mut action: impl WithValues) {
    let array = column.as_bytes::<T>();
    let nulls = array.nulls().filter(|nulls| nulls.null_count() > 0);
    let values = array.value_data();
    for (row, ends) in array.value_offsets().windows(2).enumerate() {
        let bytes = &values[ends[0].as_usize()..ends[1].as_usize()];
        if nulls.is_some_and(|nulls| nulls.is_null(row)) {
            action.null(row);
        } else if bytes.len() <= SHORT as usize {
            action.short(row, short_view(bytes));
        } else {
            action.long(row, bytes);
        }
    }
}
