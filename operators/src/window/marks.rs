//! Where partitions and peers begin in sorted rows: found for whole batches, across their borders too.
//!
//! Peers are rows of a partition that are equal in all order columns. Without order columns all rows of a
//! partition are peers.

use aqueduct_runtime::Result;
use arrow::array::{Array, ArrayRef, UInt32Array, make_comparator};
use arrow::buffer::BooleanBuffer;
use arrow::compute::{SortOptions, partition, take};
use arrow::record_batch::RecordBatch;

/// Rows of a batch at which partitions and peers begin, ascending. A partition begins with a peer.
#[derive(Debug, Default, Clone)]
pub(super) struct Marks {
    pub(super) partitions: Vec<u32>,
    pub(super) peers: Vec<u32>,
}

/// Finds the marks of one batch after the other.
pub(super) struct Boundaries {
    partition_by: Vec<usize>,
    order_by: Vec<usize>,
    /// The keys of the row before: of the partition, and of the order.
    last: Option<(Vec<ArrayRef>, Vec<ArrayRef>)>,
}

impl Boundaries {
    pub(super) fn new(partition_by: Vec<usize>, order_by: Vec<usize>) -> Self {
        Self { partition_by, order_by, last: None }
    }

    pub(super) fn marks(&mut self, batch: &RecordBatch) -> Result<Marks> {
        let rows = batch.num_rows();
        if rows == 0 {
            return Ok(Marks::default());
        }
        let columns = |indices: &[usize]| -> Vec<ArrayRef> {
            indices.iter().map(|index| ArrayRef::clone(batch.column(*index))).collect()
        };
        let (by, order) = (columns(&self.partition_by), columns(&self.order_by));
        let (mut new_partition, mut new_peer) = (true, true);
        if let Some((last_by, last_order)) = &self.last {
            new_partition = differ(last_by, &by)?;
            new_peer = new_partition || differ(last_order, &order)?;
        }
        let partitions = starts(&by)?;
        let peers = match (&partitions, starts(&order)?) {
            (Some(partitions), Some(peers)) => Some(partitions | &peers),
            (Some(one), None) => Some(one.clone()),
            (None, other) => other,
        };
        let last = UInt32Array::from(vec![rows as u32 - 1]);
        let of = |columns: &[ArrayRef]| -> Result<Vec<ArrayRef>> {
            columns.iter().map(|column| Ok(take(column, &last, None)?)).collect()
        };
        self.last = Some((of(&by)?, of(&order)?));
        Ok(Marks { partitions: listed(new_partition, partitions), peers: listed(new_peer, peers) })
    }
}

fn listed(first: bool, inner: Option<BooleanBuffer>) -> Vec<u32> {
    let mut rows = Vec::with_capacity(1 + inner.as_ref().map_or(0, BooleanBuffer::count_set_bits));
    rows.extend(first.then_some(0));
    rows.extend(inner.iter().flat_map(|bits| bits.set_indices()).map(|row| row as u32 + 1));
    rows
}

/// For each row but the first whether it differs from the one before; none if there are no columns.
fn starts(columns: &[ArrayRef]) -> Result<Option<BooleanBuffer>> {
    let Some(first) = columns.first() else { return Ok(None) };
    let rows = first.len();
    let mut bits = vec![false; rows - 1];
    for range in partition(columns)?.ranges() {
        if range.start > 0 {
            bits[range.start - 1] = true;
        }
    }
    Ok(Some(BooleanBuffer::from(bits)))
}

/// Whether the only row of `last` differs from the first row of `columns`.
fn differ(last: &[ArrayRef], columns: &[ArrayRef]) -> Result<bool> {
    for (last, column) in last.iter().zip(columns) {
        if make_comparator(last, column, SortOptions::default())?(0, 0).is_ne() {
            return Ok(true);
        }
    }
    Ok(false)
}
