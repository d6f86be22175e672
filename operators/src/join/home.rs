//! What the parts of one instance share, and how stored rows become a table and a table stored rows.

use std::sync::Arc;

use aqueduct_runtime::Result;
use aqueduct_runtime::memory::{Account, Reservation};
use aqueduct_runtime::spill::SpillSpace;
use aqueduct_runtime::state::SpillingVec;
use arrow::array::BooleanArray;
use arrow::buffer::BooleanBuffer;
use arrow::datatypes::SchemaRef;
use arrow::record_batch::{RecordBatch, RecordBatchOptions};

use super::cursor::Limits;
use super::keys::KeyEncoder;
use super::making::Making;
use super::runtime_filter::Slot;
use super::shape::Shape;
use super::table::Table;

/// Build rows of more than this are spread over buckets, or of more than [`UNSPREAD_SHARE`] of the memory that the join can
/// have, and at the most of [`MOST_UNSPREAD_BYTES`]. Tests get there, too.
const UNSPREAD_BYTES: usize = if cfg!(test) { 256 << 10 } else { 8 << 20 };
const MOST_UNSPREAD_BYTES: usize = if cfg!(test) { UNSPREAD_BYTES } else { 128 << 20 };
const UNSPREAD_SHARE: usize = 16;
/// Bytes that are left free beside what is asked for: lists of what is on disk grow without asking.
pub(super) const CUSHION_BYTES: usize = 16 << 10;

/// What all parts of one instance share.
#[derive(Clone)]
pub(super) struct Home {
    pub(super) shape: Arc<Shape>,
    pub(super) encoder: Arc<KeyEncoder>,
    pub(super) memory: Account,
    pub(super) spill: SpillSpace,
    pub(super) limits: Limits,
    /// Rows that are looked at together.
    pub(super) slice_rows: usize,
    /// Bytes of build rows that are in one bucket; more are spread.
    pub(super) unspread_bytes: usize,
    /// Bytes of a frame on disk.
    pub(super) frame_bytes: usize,
    /// What others know of the held side.
    pub(super) filter: Option<Arc<Slot>>,
}

/// Bytes of build rows that are held in one bucket where `memory` is what the join has: what is in buckets can go to disk
/// by shares, but has been copied, and is found by hashes alone.
pub(super) fn unspread_bytes(memory: &Account) -> usize {
    (memory.most() / UNSPREAD_SHARE).clamp(UNSPREAD_BYTES, MOST_UNSPREAD_BYTES)
}

impl Home {
    pub(super) fn vec(&self, schema: &SchemaRef) -> SpillingVec {
        SpillingVec::new(&self.memory, &self.spill, Arc::clone(schema)).with_piece_bytes(self.frame_bytes)
    }

    /// Bytes that reading one frame takes: it may be on disk compressed, be decompressed, and be decoded.
    pub(super) fn fetch_bytes(&self) -> usize {
        3 * self.frame_bytes.max(self.limits.bytes) + (4 << 10)
    }

    /// Build rows as they are stored: with a flag that says whether they have had a match, if that matters.
    pub(super) fn stored(&self, batch: &RecordBatch, matched: Option<BooleanArray>) -> Result<RecordBatch> {
        let rows = batch.num_rows();
        let mut columns = batch.columns().to_vec();
        if self.shape.flags() {
            let none = || BooleanArray::new(BooleanBuffer::new_unset(rows), None);
            columns.push(Arc::new(matched.unwrap_or_else(none)));
        }
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        Ok(RecordBatch::try_new_with_options(Arc::clone(&self.shape.stored_schema), columns, &options)?)
    }

    /// Bytes that a table over stored rows takes beside them: a copy of them, and what finds them.
    pub(super) fn table_bytes(&self, rows: usize, bytes: usize) -> usize {
        let structures = 512 * self.shape.stored_schema.fields().len();
        Self::copy_bytes(bytes) + structures + Table::bytes(&self.encoder, rows, bytes, self.shape.flags())
    }

    /// Bytes that a copy of rows of `bytes` takes: buffers are rounded up.
    pub(super) fn copy_bytes(bytes: usize) -> usize {
        bytes + bytes / 32
    }

    /// Gives up what only helps others; the bytes that this frees.
    pub(super) fn forget_filter(&self) -> usize {
        self.filter.as_ref().map_or(0, |filter| filter.forget_keys())
    }

    /// Whether `bytes` could be had now.
    pub(super) fn has_room(&self, bytes: usize) -> bool {
        self.memory.try_reserve(bytes + CUSHION_BYTES).is_some()
    }

    /// The only table of a level, of `pieces`, stored rows that are claimed. `memory` is for [`Home::table_bytes`].
    pub(super) fn table(&self, pieces: Vec<RecordBatch>, memory: Reservation) -> Result<Table> {
        Making::new(self, pieces, true, memory).finish()
    }

    /// The rows of a table as they are stored.
    pub(super) fn rows_of(&self, table: Table) -> Result<Vec<RecordBatch>> {
        let (chunks, matched) = table.into_rows();
        let mut from = 0;
        chunks
            .into_iter()
            .map(|chunk| {
                let flags = self.shape.flags().then(|| matched.slice(from, chunk.num_rows()));
                from += chunk.num_rows();
                self.stored(&chunk, flags)
            })
            .collect()
    }
}
