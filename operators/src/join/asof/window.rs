//! The rows of one sorted input that are looked at: a piece of one batch, in its order.
//!
//! ```text
//! batch    |  done  | keys and times of these rows  |  later  |
//!                     ▲ passed ▲ at
//! ```
//!
//! Where the row before the next one may still be wanted it is kept, when the batch is used up in a copy of its own.

use std::sync::Arc;

use aqueduct_runtime::Result;
use aqueduct_runtime::batch::copied;
use aqueduct_runtime::memory::{Account, Reservation};
use arrow::array::{Array, BooleanArray};
use arrow::buffer::NullBuffer;
use arrow::compute::filter_record_batch;
use arrow::record_batch::RecordBatch;

use super::order::{Encoder, Order, Values};

/// One input.
pub(super) struct Window {
    encoder: Arc<Encoder>,
    keys: Vec<usize>,
    time: usize,
    memory: Account,
    keeps_last: bool,
    /// Rows with a null among keys and time are left out; else [`Window::is_valid`] tells which they are.
    drops_nulls: bool,
    rows: usize,
    bytes: usize,

    batch: Option<RecordBatch>,
    valid: Option<NullBuffer>,
    /// The last row of the batch before, if it is kept.
    last: Option<RecordBatch>,
    /// The rows of the batch that are in the window.
    from: usize,
    end: usize,
    /// Whether `last` is the row before them.
    has_last: bool,
    pub(super) order: Order,
    order_bytes: Reservation,
    /// The next row, counted from the window's first.
    pub(super) at: usize,
    pub(super) ended: bool,
}

impl Window {
    /// A window of at most `rows` rows, and `bytes` bytes of keys, over batches whose memory counts in `memory`.
    pub(super) fn new(
        encoder: &Arc<Encoder>,
        keys: Vec<usize>,
        time: usize,
        memory: &Account,
        (rows, bytes): (usize, usize),
    ) -> Self {
        Self {
            encoder: Arc::clone(encoder),
            keys,
            time,
            memory: memory.clone(),
            keeps_last: false,
            drops_nulls: false,
            rows,
            bytes,
            batch: None,
            valid: None,
            last: None,
            from: 0,
            end: 0,
            has_last: false,
            order: Order { keys: Values::None, times: Values::None },
            order_bytes: memory.reservation(),
            at: 0,
            ended: false,
        }
    }

    /// Keeps the row before the next one.
    pub(super) fn keeping_last(self, keeps_last: bool) -> Self {
        Self { keeps_last, ..self }
    }

    /// Leaves out rows that match nothing.
    pub(super) fn dropping_nulls(self, drops_nulls: bool) -> Self {
        Self { drops_nulls, ..self }
    }

    /// Goes on with the next batch; the one before it must be used up.
    pub(super) fn push(&mut self, batch: RecordBatch) -> Result<()> {
        let columns = self.keys.iter().chain([&self.time]);
        let nulls: Vec<_> = columns.map(|column| batch.column(*column).logical_nulls()).collect();
        let valid = nulls.iter().fold(None, |all, one| NullBuffer::union(all.as_ref(), one.as_ref()));
        let mut valid = valid.filter(|valid| valid.null_count() > 0);
        let batch = match valid.take_if(|_| self.drops_nulls) {
            Some(valid) => filter_record_batch(&batch, &BooleanArray::new(valid.into_inner(), None))?,
            None => batch,
        };
        if batch.num_rows() == 0 {
            return Ok(());
        }
        if let Some(before) = self.batch.take()
            && self.keeps_last
        {
            let last = copied(&before.slice(before.num_rows() - 1, 1));
            drop(before);
            self.claim(&last)?;
            self.last = Some(last);
        }
        self.claim(&batch)?;
        self.batch = Some(batch);
        self.valid = valid;
        self.forget_order();
        (self.from, self.end) = (0, 0);
        Ok(())
    }

    fn claim(&self, batch: &RecordBatch) -> Result<()> {
        let bytes = batch.get_array_memory_size();
        let Some(mut estimate) = self.memory.try_reserve(bytes) else {
            return Err(self.memory.row_too_large(bytes));
        };
        self.memory.claim_from(batch, &mut estimate);
        Ok(())
    }

    fn forget_order(&mut self) {
        self.order = Order { keys: Values::None, times: Values::None };
        self.order_bytes.set(0);
        self.at = 0;
        self.has_last = false;
    }

    /// Goes on with the next rows of the batch; `false` if there are none.
    pub(super) fn refill(&mut self) -> Result<bool> {
        let Some(batch) = self.batch.clone().filter(|batch| self.end < batch.num_rows()) else { return Ok(false) };
        self.forget_order();
        let row_bytes = self.encoder.row_bytes(&batch, &self.keys, self.time).max(1);
        let rows = (self.bytes / row_bytes).clamp(1, self.rows).min(batch.num_rows() - self.end);
        let keeps_last = self.keeps_last && self.end > 0;
        let from = self.end - usize::from(keeps_last);
        let next = batch.slice(from, rows + usize::from(keeps_last));
        let last = self.last.clone().filter(|_| self.end == 0);
        self.has_last = last.is_some();
        let parts: Vec<_> = last.into_iter().chain([next]).collect();
        self.order = self.encoder.encode(&parts, &self.keys, self.time)?;
        self.order_bytes.set(self.order.bytes());
        self.at = usize::from(self.has_last || keeps_last);
        (self.from, self.end) = (from, self.end + rows);
        Ok(true)
    }

    /// Rows that can be looked at, those before the next one included.
    pub(super) fn len(&self) -> usize {
        self.end - self.from + usize::from(self.has_last)
    }

    /// Whether no row follows those of the window.
    pub(super) fn is_last_window(&self) -> bool {
        self.ended && self.batch.as_ref().is_none_or(|batch| self.end >= batch.num_rows())
    }

    /// Whether a batch is wanted before there are more rows.
    pub(super) fn is_used_up(&self) -> bool {
        self.at >= self.len() && self.batch.as_ref().is_none_or(|batch| self.end >= batch.num_rows())
    }

    /// Whether row `at` can match.
    #[inline]
    pub(super) fn is_valid(&self, at: usize) -> bool {
        self.valid.as_ref().is_none_or(|valid| valid.is_valid(self.from + at))
    }

    /// Whether row `at` is the one of the batch before.
    #[inline]
    pub(super) fn is_last(&self, at: u32) -> bool {
        self.has_last && at == 0
    }

    /// The row of the last batch, or of the batch at hand, that row `at` is.
    #[inline]
    pub(super) fn row(&self, at: u32) -> u32 {
        (self.from as u32 + at).saturating_sub(u32::from(self.has_last))
    }

    pub(super) fn batch(&self) -> Option<&RecordBatch> {
        self.batch.as_ref()
    }

    pub(super) fn last(&self) -> Option<&RecordBatch> {
        self.last.as_ref()
    }

    /// Lets go of everything.
    pub(super) fn clear(&mut self) {
        (self.batch, self.last, self.valid) = (None, None, None);
        self.forget_order();
        (self.from, self.end) = (0, 0);
    }
}
