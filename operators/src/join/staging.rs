//! Rows that wait for more of them before they are spread over buckets, and the spreading.
//!
//! What a piece costs hardly depends on its rows, and what it takes in memory only in part: a small batch that is cut for
//! sixteen buckets would be mostly structure.

use aqueduct_runtime::Result;
use aqueduct_runtime::batch::batch_bytes;
use aqueduct_runtime::memory::Reservation;
use arrow::array::{ArrayRef, UInt32Array};
use arrow::compute::{concat_batches, take};
use arrow::record_batch::{RecordBatch, RecordBatchOptions};

use super::home::Home;

/// The plan's largest batches whose bytes are enough: an instance's floor has room to cut them.
const STAGED_BATCHES: usize = 2;

/// Batches that wait, each with what its structure takes.
#[derive(Default)]
pub(super) struct Staging {
    batches: Vec<(RecordBatch, Reservation)>,
    rows: usize,
    /// Bytes of the rows, and of what holds them as well.
    row_bytes: usize,
    bytes: usize,
}

impl Staging {
    /// Takes in `batch` if it has few rows and there is memory for it; else gives it back.
    pub(super) fn push(&mut self, home: &Home, batch: RecordBatch) -> Option<RecordBatch> {
        let is_small = batch.num_rows() <= home.slice_rows / 2 && batch_bytes(&batch) <= home.limits.bytes / 2;
        if !is_small || batch.num_columns() == 0 {
            return Some(batch);
        }
        let bytes = batch.get_array_memory_size();
        let Some(mut memory) = home.memory.try_reserve(bytes) else { return Some(batch) };
        home.memory.claim_from(&batch, &mut memory);
        self.rows += batch.num_rows();
        self.row_bytes += batch_bytes(&batch);
        self.bytes += bytes;
        self.batches.push((batch, memory));
        None
    }

    /// Whether there are enough: as many as are looked at together, or bytes.
    pub(super) fn is_full(&self, home: &Home) -> bool {
        self.rows >= home.slice_rows || self.row_bytes >= STAGED_BATCHES * home.limits.bytes
    }

    pub(super) fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    /// Gives out all of it: as one batch, where there is memory for that.
    pub(super) fn take(&mut self, home: &Home) -> Result<Vec<RecordBatch>> {
        let staged = std::mem::take(self);
        let (batches, structures): (Vec<_>, Vec<_>) = staged.batches.into_iter().unzip();
        drop(structures);
        if batches.len() > 1
            && let Some(mut memory) = home.memory.try_reserve(staged.bytes)
        {
            let whole = concat_batches(batches[0].schema_ref(), &batches)?;
            home.memory.claim_from(&whole, &mut memory);
            return Ok(vec![whole]);
        }
        Ok(batches)
    }
}

/// Calls `each` with every bucket that has rows and with those, in their order. `bucket_of` has a bucket below `buckets`
/// for each row of `batch`, or `buckets` where there is none.
pub(super) fn by_bucket(
    batch: &RecordBatch,
    bucket_of: &[u8],
    buckets: usize,
    mut each: impl FnMut(usize, RecordBatch) -> Result<()>,
) -> Result<()> {
    let rows = batch.num_rows();
    // A counting sort: where each bucket ends, then each row's place.
    let mut ends = vec![0u32; buckets + 1];
    bucket_of.iter().for_each(|bucket| ends[usize::from(*bucket)] += 1);
    let mut sum = 0;
    for end in &mut ends {
        sum += *end;
        *end = sum - *end;
    }
    let mut order = vec![0u32; rows];
    for (row, bucket) in bucket_of.iter().enumerate() {
        let end = &mut ends[usize::from(*bucket)];
        order[*end as usize] = row as u32;
        *end += 1;
    }
    let order = UInt32Array::from(order);
    let mut start = 0;
    for (bucket, end) in ends[..buckets].iter().enumerate() {
        let length = *end as usize - std::mem::replace(&mut start, *end as usize);
        if length == 0 {
            continue;
        }
        let piece = if length == rows {
            batch.clone()
        } else {
            let rows_of_bucket = order.slice(*end as usize - length, length);
            let columns: Vec<ArrayRef> =
                batch.columns().iter().map(|column| take(column, &rows_of_bucket, None)).collect::<Result<_, _>>()?;
            let options = RecordBatchOptions::new().with_row_count(Some(length));
            RecordBatch::try_new_with_options(batch.schema(), columns, &options)?
        };
        each(bucket, piece)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use aqueduct_runtime::testing::numbers;
    use arrow::array::AsArray;
    use arrow::datatypes::Int64Type;

    use super::*;

    #[test]
    fn rows_keep_their_order_in_a_bucket_and_those_of_none_are_left_out() {
        let spread = |bucket_of: &[u8]| {
            let mut found = Vec::new();
            by_bucket(&numbers(0..6), bucket_of, 4, |bucket, rows| {
                found.push((bucket, rows.column(0).as_primitive::<Int64Type>().values().to_vec()));
                Ok(())
            })
            .expect("spread");
            found
        };
        assert_eq!(spread(&[3, 0, 3, 4, 0, 1]), [(0, vec![1, 4]), (1, vec![5]), (3, vec![0, 2])]);
        assert_eq!(spread(&[2; 6]), [(2, vec![0, 1, 2, 3, 4, 5])]);
        assert_eq!(spread(&[4; 6]), []);
    }
}
