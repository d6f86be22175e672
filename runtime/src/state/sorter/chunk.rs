//! Some batches and the order in which their rows are sorted: by themselves, and beside others.

use arrow::compute::interleave_record_batch;
use arrow::record_batch::RecordBatch;
use arrow::row::Rows;

use super::keys::{Keys, MAX_PLACES, NO_KEY, place, prefix};
use crate::batch::{batch_bytes, compact};
use crate::error::Result;
use crate::memory::{Account, Reservation};
use crate::state::kept_bytes;

/// Rows after which a chunk is full: few enough to be sorted in one step.
const CHUNK_ROWS: usize = 1 << 16;

/// Batches of which each row has its place in an order.
#[derive(Debug)]
pub(super) struct Chunk {
    batches: Vec<RecordBatch>,
    /// Whole keys of each batch, if the numbers are not enough.
    rows: Vec<Rows>,
    /// Keys and places of the rows; see [`keys`](super::keys).
    order: Vec<u128>,
    /// Rows that were given out already.
    at: usize,
    /// Keys and order; the batches are claimed.
    held: Reservation,
    batches_bytes: usize,
    rows_bytes: usize,
}

/// Keys of one batch that may go into a chunk.
#[derive(Debug)]
pub(super) struct Encoded {
    pub(super) order: Vec<u128>,
    rows: Option<Rows>,
}

impl Encoded {
    pub(super) fn of(batch: &RecordBatch, keys: &Keys) -> Result<Self> {
        let mut order = Vec::new();
        let rows = keys.append(batch, 0, &mut order)?;
        Ok(Self { order, rows })
    }

    fn rows_bytes(&self) -> usize {
        self.rows.as_ref().map_or(0, |rows| rows.size() + size_of::<Rows>())
    }
}

/// By how much the capacity of `list` is to grow for `more` items: seldom where few come at a time.
fn growth<T>(list: &Vec<T>, more: usize) -> usize {
    if list.capacity() - list.len() >= more { 0 } else { more.max(list.len() / 4) }
}

impl Chunk {
    /// An empty one, whose keys count in `account`.
    pub(super) fn new(account: &Account) -> Self {
        Self {
            batches: Vec::new(),
            rows: Vec::new(),
            order: Vec::new(),
            at: 0,
            held: account.reservation(),
            batches_bytes: 0,
            rows_bytes: 0,
        }
    }

    /// A batch that is sorted already. Its memory and its keys count elsewhere.
    pub(super) fn sorted(batch: RecordBatch, keys: &Keys, account: &Account) -> Result<Self> {
        let Encoded { order, rows } = Encoded::of(&batch, keys)?;
        let rows = rows.into_iter().collect();
        let held = account.reservation();
        Ok(Self { batches: vec![batch], rows, order, at: 0, held, batches_bytes: 0, rows_bytes: 0 })
    }

    /// Whether a batch of so many rows and bytes still goes in.
    pub(super) fn takes(&self, rows: usize, bytes: usize, most_bytes: usize) -> bool {
        self.order.is_empty()
            || (self.order.len() + rows <= CHUNK_ROWS
                && self.batches.len() < MAX_PLACES
                && self.batches_bytes + bytes <= most_bytes)
    }

    /// Bytes that it grows by when a batch with these keys is added, the batch's own buffers left out.
    pub(super) fn growth_bytes(&self, keys: &Encoded) -> usize {
        size_of::<u128>() * growth(&self.order, keys.order.len())
            + size_of::<RecordBatch>() * growth(&self.batches, 1)
            + keys.rows_bytes()
    }

    /// Adds a batch with its keys, which are charged whether they fit or not: `reserved` is for them.
    pub(super) fn push(&mut self, batch: RecordBatch, keys: Encoded, reserved: Reservation) {
        self.held.absorb(reserved);
        self.push_unpaid(batch, keys);
        self.held.set(
            self.order.capacity() * size_of::<u128>()
                + self.batches.capacity() * size_of::<RecordBatch>()
                + self.rows_bytes,
        );
    }

    /// Adds a batch whose keys are not charged: it is to be written at once.
    pub(super) fn push_unpaid(&mut self, batch: RecordBatch, keys: Encoded) {
        let number = (self.batches.len() << 16) as u128;
        self.rows_bytes += keys.rows_bytes();
        self.order.reserve_exact(growth(&self.order, keys.order.len()));
        self.order.extend(keys.order.into_iter().map(|entry| entry | number));
        self.rows.extend(keys.rows);
        self.batches_bytes += kept_bytes(&batch);
        self.batches.reserve_exact(growth(&self.batches, 1));
        self.batches.push(batch);
    }

    /// Sorts the rows, those with equal keys in the order in which they were added.
    pub(super) fn sort(&mut self) {
        self.order.sort_unstable();
        if self.rows.is_empty() {
            return;
        }
        let rows = &self.rows;
        let whole = |entry: &u128| {
            let (batch, row) = place(*entry);
            rows[batch].row(row)
        };
        for ties in self.order.chunk_by_mut(|a, b| prefix(*a) == prefix(*b)) {
            if ties.len() > 1 {
                ties.sort_unstable_by(|a, b| whole(a).cmp(&whole(b)).then_with(|| a.cmp(b)));
            }
        }
    }

    /// Bytes of keys and order.
    pub(super) fn keys_bytes(&self) -> usize {
        self.order.capacity() * size_of::<u128>() + self.rows.iter().map(Rows::size).sum::<usize>()
    }

    /// Puts the rows of a chunk that is sorted in this order in memory, too: from now on they are read one after
    /// the other. `room` is for having them twice for a moment.
    pub(super) fn gather(&mut self, keys: &Keys, mut room: Reservation) -> Result<()> {
        let batch = self.rest()?;
        let account = self.held.account().clone();
        account.claim_from(&batch, &mut room);
        *self = Self::new(&account);
        let keys = Encoded::of(&batch, keys)?;
        self.push(batch, keys, room);
        Ok(())
    }

    /// The rows that are left, in order, as a batch of their own.
    pub(super) fn rest(&self) -> Result<RecordBatch> {
        let batches: Vec<&RecordBatch> = self.batches.iter().collect();
        let picks: Vec<_> = self.order[self.at..].iter().map(|entry| place(*entry)).collect();
        Ok(compact(interleave_record_batch(&batches, &picks)?))
    }

    /// Bytes that [`Chunk::gather`] needs for a moment.
    pub(super) fn gather_bytes(&self) -> usize {
        2 * self.batches_bytes + self.held.bytes() + self.order.len() * size_of::<(usize, usize)>()
    }

    /// Rows that are left.
    pub(super) fn left(&self) -> usize {
        self.order.len() - self.at
    }

    /// Bytes of memory that go with it.
    pub(super) fn bytes(&self) -> usize {
        self.batches.iter().map(batch_bytes).sum::<usize>() + self.held.bytes()
    }

    /// The number of the next row's key.
    pub(super) fn prefix(&self) -> u128 {
        self.order.get(self.at).map_or(NO_KEY, |entry| prefix(*entry))
    }

    /// The whole key of the next row; nothing, if the number is all there is.
    pub(super) fn whole(&self) -> &[u8] {
        match self.order.get(self.at) {
            Some(entry) if !self.rows.is_empty() => {
                let (batch, row) = place(*entry);
                self.rows[batch].row(row).data()
            }
            _ => &[],
        }
    }

    /// Bytes that the next row's key takes in memory.
    pub(super) fn key_bytes(&self) -> usize {
        let whole = if self.rows.is_empty() { 0 } else { self.whole().len() + size_of::<usize>() };
        size_of::<u128>() + whole
    }

    /// Goes on to the row after the next; returns where the next is.
    pub(super) fn advance(&mut self) -> (usize, usize) {
        self.at += 1;
        place(self.order[self.at - 1])
    }

    pub(super) fn batch(&self, number: usize) -> &RecordBatch {
        &self.batches[number]
    }

    pub(super) fn batches(&self) -> usize {
        self.batches.len()
    }
}
