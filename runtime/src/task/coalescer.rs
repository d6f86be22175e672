//! Small batches that wait to be one before a hash spreads their rows.
//!
//! A selective filter or join leaves a few rows of each batch, and an exchange cuts them into as many pieces as there are
//! partitions. What each piece costs at both ends does not depend on its rows.

use arrow::compute::concat_batches;
use arrow::record_batch::RecordBatch;

use crate::batch::{batch_bytes, compact};
use crate::error::Result;
use crate::mailbox::{Origin, permit_bytes};
use crate::memory::{Account, Reservation};

/// Batches of one output and one origin, less than the plan's largest batch in all.
#[derive(Default)]
pub(super) struct Coalescer {
    batches: Vec<RecordBatch>,
    output: usize,
    origin: Origin,
    rows: usize,
    bytes: usize,
}

impl Coalescer {
    pub(super) fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    /// The output and the origin that all of it is of.
    pub(super) fn of(&self) -> (usize, Origin) {
        (self.output, self.origin)
    }

    /// Takes in a batch that is small beside `rows` and `bytes`, and of what is there already; gives any other back.
    /// Bytes of `estimate` pay for a copy.
    pub(super) fn push(
        &mut self,
        of: (usize, Origin),
        batch: RecordBatch,
        (rows, bytes): (usize, usize),
        estimate: &mut Reservation,
    ) -> Option<RecordBatch> {
        let is_small = batch.num_rows() <= rows / 2 && batch_bytes(&batch) <= bytes / 4;
        if !is_small || (!self.is_empty() && of != self.of()) {
            return Some(batch);
        }
        let account = estimate.account().clone();
        let batch = compact(batch);
        account.claim_from(&batch, estimate);
        (self.output, self.origin) = of;
        self.rows += batch.num_rows();
        self.bytes += permit_bytes(&batch);
        self.batches.push(batch);
        None
    }

    /// Whether there is enough of it.
    pub(super) fn is_full(&self, (rows, bytes): (usize, usize)) -> bool {
        self.rows >= rows / 2 || self.bytes >= bytes / 2
    }

    /// Gives all of it out, as one batch where there is memory for it, and a reservation for pieces of it.
    pub(super) fn take(&mut self, account: &Account) -> Result<(Vec<RecordBatch>, Reservation)> {
        let (mut batches, bytes) = (std::mem::take(&mut self.batches), std::mem::take(&mut self.bytes));
        self.rows = 0;
        // The copy, and the pieces that it is cut into.
        let Some(mut estimate) = account.try_reserve(2 * bytes) else { return Ok((batches, account.reservation())) };
        if batches.len() > 1 {
            let whole = concat_batches(batches[0].schema_ref(), &batches)?;
            account.claim_from(&whole, &mut estimate);
            batches = vec![whole];
        }
        Ok((batches, estimate))
    }
}
