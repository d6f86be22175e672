//! The groups of one partition, spread over hash tables by a hash of their own, so that any part of them can go
//! to disk alone.
//!
//! ```text
//! state rows ── hash bits ──▶ bucket 0   table, frames on disk
//!                             bucket 1   table, frames on disk
//!                             …
//! ```
//!
//! What is reserved is at every moment the sum of all tables, and beside it the largest of them once more:
//! writing or emitting a table copies it. Tables double one at a time, so the memory for a doubling is a
//! fraction of the whole.

use std::sync::Arc;

use aqueduct_runtime::batch::{compact, copied};
use aqueduct_runtime::memory::{Account, Reservation};
use aqueduct_runtime::spill::{SpillFile, SpillSpace, SpilledBatch};
use aqueduct_runtime::{OperatorError, Result};
use arrow::array::{ArrayRef, UInt32Array};
use arrow::compute::take;
use arrow::record_batch::RecordBatch;

use super::describe::Aggregate;
use super::keys::RowHash;
use super::table::{Emitted, Table};

/// Bits of the hash that one level of buckets uses up.
const BITS: u32 = 4;
/// Bits that large tables use, so that one bucket stays a small piece.
const WIDE_BITS: u32 = 8;
/// Groups in tables of more than this are spread over more buckets. Tests get there, too.
const WIDE_BYTES: usize = if cfg!(test) { 1 << 20 } else { 64 << 20 };
/// Fewer rows than this are not tried before something is spilled.
const FEW_ROWS: usize = 64;
/// How often a group is loaded that does not fit for what others hold.
const ATTEMPTS: usize = 8;

/// Where groups are kept and spilled, for all levels of one instance.
#[derive(Clone)]
pub(crate) struct Home {
    pub(crate) aggregate: Arc<Aggregate>,
    pub(crate) memory: Account,
    pub(crate) spill: SpillSpace,
    /// Bytes of rows in one frame on disk.
    pub(crate) frame_bytes: usize,
}

/// Groups in memory and on disk, at one level of hash bits.
pub(crate) struct Buckets {
    home: Home,
    /// Hash bits that the levels above have used.
    used_bits: u32,
    bits: u32,
    buckets: Vec<Bucket>,
    hasher: RowHash,
    file: Option<SpillFile>,
    /// Sum of the tables' bytes.
    total: usize,
    /// Bytes of the table that was taken to be emitted; part of the total.
    taken: usize,
    held: Reservation,
}

#[derive(Default)]
struct Bucket {
    table: Option<Table>,
    bytes: usize,
    frames: Vec<SpilledBatch>,
    seen: Seen,
}

/// The keys that a bucket has seen, as far as their hashes tell.
#[derive(Default, Clone, Copy, PartialEq)]
enum Seen {
    #[default]
    Nothing,
    One(u64),
    Several,
}

/// Groups on disk that no table holds any longer.
pub(crate) struct Spilled {
    pub(crate) file: Arc<SpillFile>,
    pub(crate) frames: Vec<SpilledBatch>,
    pub(crate) used_bits: u32,
    pub(crate) origin: Origin,
}

/// What is known of groups that had been on disk.
#[derive(Clone, Copy)]
pub(crate) struct Origin {
    /// Whether all rows are of one group.
    pub(crate) one_group: bool,
    /// How often it was loaded alone and did not fit.
    attempts: usize,
}

impl Buckets {
    /// Buckets by the bits of the hash behind the first `used_bits`.
    pub(crate) fn new(home: Home, used_bits: u32) -> Result<Self> {
        let hasher = RowHash::new(home.aggregate.key_types())?;
        // One group needs one bucket.
        let bits = if home.aggregate.key_types().is_empty() { 0 } else { BITS };
        let held = home.memory.reservation();
        Ok(Self {
            home,
            used_bits,
            bits,
            buckets: std::iter::repeat_with(Bucket::default).take(1 << bits).collect(),
            hasher,
            file: None,
            total: 0,
            taken: 0,
            held,
        })
    }

    /// Buckets for what `spilled` holds, which they are to be fed with.
    pub(crate) fn below(home: Home, spilled: &Spilled) -> Result<Self> {
        Self::new(home, spilled.used_bits)
    }

    /// Adds rows of keys and states, spilling what has to make room for them.
    pub(crate) fn merge(&mut self, batch: &RecordBatch) -> Result<()> {
        self.widen()?;
        let rows = batch.num_rows();
        let keys = self.home.aggregate.key_types().len();
        let mut hashes = Vec::new();
        self.hasher.hash(&batch.columns()[..keys], rows, &mut hashes)?;
        let (shift, mask) = (self.used_bits, (1u64 << self.bits) - 1);
        let bucket_of = |hash: u64| (mixed(hash) >> shift & mask) as usize;

        // A counting sort: where each bucket's rows end, then each row's place.
        let mut ends = vec![0u32; self.buckets.len()];
        for hash in &hashes {
            ends[bucket_of(*hash)] += 1;
        }
        let mut sum = 0;
        for end in &mut ends {
            sum += *end;
            *end = sum - *end;
        }
        let mut order = vec![0u32; rows];
        for (row, hash) in hashes.iter().enumerate() {
            let bucket = bucket_of(*hash);
            self.buckets[bucket].seen.add(*hash);
            order[ends[bucket] as usize] = row as u32;
            ends[bucket] += 1;
        }
        drop(hashes);

        let order = UInt32Array::from(order);
        let mut groups = Vec::new();
        let mut start = 0;
        for (bucket, end) in ends.into_iter().enumerate() {
            let (from, end) = (std::mem::replace(&mut start, end as usize), end as usize);
            if from == end {
                continue;
            }
            let rows_of_bucket = order.slice(from, end - from);
            // Copies, so that no bucket keeps the rows of all others in memory.
            let columns = batch
                .columns()
                .iter()
                .map(|column| take(column, &rows_of_bucket, None))
                .collect::<Result<Vec<_>, _>>()?;
            self.merge_bucket(bucket, &columns, end - from, &mut groups)?;
        }
        Ok(())
    }

    fn merge_bucket(&mut self, index: usize, columns: &[ArrayRef], rows: usize, groups: &mut Vec<usize>) -> Result<()> {
        let keys = self.home.aggregate.key_types().len();
        let mut start = 0;
        let mut most = rows;
        while start < rows {
            let mut length = most.min(rows - start);
            loop {
                let piece: Vec<_> = columns.iter().map(|column| column.slice(start, length)).collect();
                let (key_columns, state_columns) = piece.split_at(keys);
                let bucket = &mut self.buckets[index];
                let table = match &mut bucket.table {
                    Some(table) => table,
                    none => none.insert(Table::new(&self.home.aggregate, false)?),
                };
                let kept = table.kept_states(state_columns);
                let growth = table.growth(length, key_columns, kept);
                let copy = self.largest().max(self.buckets[index].bytes + growth);
                let needed = self.total + growth + copy;
                if self.held.try_set(needed) {
                    let bucket = &mut self.buckets[index];
                    let table = bucket.table.as_mut().expect("made above");
                    table.merge(key_columns, state_columns, groups)?;
                    let bytes = table.bytes();
                    self.total = self.total + bytes - bucket.bytes;
                    bucket.bytes = bytes;
                    self.settle();
                    break;
                }
                // Less at a time is cheaper than the disk; the disk is cheaper than a few rows at a time.
                if length > FEW_ROWS {
                    length = (length / 2).max(FEW_ROWS);
                } else if self.spill_largest()? == 0 {
                    if length == 1 {
                        return Err(self.too_large(needed));
                    }
                    length /= 2;
                }
            }
            most = length.max(FEW_ROWS);
            start += length;
        }
        Ok(())
    }

    /// Spreads large tables over more buckets, while nothing is on disk and there is room to do it.
    fn widen(&mut self) -> Result<()> {
        if self.bits != BITS || self.total < WIDE_BYTES || self.file.is_some() {
            return Ok(());
        }
        // One table at a time is there twice, and once more in its new places.
        if !self.held.try_set(self.total + 3 * self.largest()) {
            return Ok(());
        }
        let tables: Vec<_> = self.buckets.drain(..).filter_map(|bucket| bucket.table).collect();
        self.bits = WIDE_BITS;
        self.buckets.resize_with(1 << WIDE_BITS, Bucket::default);
        for table in tables {
            let bytes = table.bytes();
            let emitted = table.emit(false)?;
            let step = piece_rows(&emitted, self.home.frame_bytes.max(1 << 20));
            for start in (0..emitted.rows()).step_by(step) {
                let length = step.min(emitted.rows() - start);
                let batch = self.home.aggregate.state_batch(emitted.piece(start..start + length)?, length)?;
                self.merge(&batch)?;
            }
            self.total -= bytes;
        }
        self.settle();
        Ok(())
    }

    /// Writes the largest table to disk; the bytes it held.
    pub(crate) fn spill_largest(&mut self) -> Result<usize> {
        let bytes = |bucket: &Bucket| bucket.bytes;
        let largest = (0..self.buckets.len()).max_by_key(|index| bytes(&self.buckets[*index]));
        match largest {
            Some(index) if self.buckets[index].bytes > 0 => self.spill_bucket(index),
            _ => Ok(0),
        }
    }

    fn spill_bucket(&mut self, index: usize) -> Result<usize> {
        let Some(table) = self.buckets[index].table.take() else { return Ok(0) };
        let aggregate = Arc::clone(&self.home.aggregate);
        let emitted = table.emit(false)?;
        let step = piece_rows(&emitted, self.home.frame_bytes);
        let file =
            self.file.get_or_insert_with(|| self.home.spill.create("aggregate", self.home.aggregate.state_schema()));
        for start in (0..emitted.rows()).step_by(step) {
            let length = step.min(emitted.rows() - start);
            let batch = aggregate.state_batch(emitted.piece(start..start + length)?, length)?;
            let frame = file.append(&own(batch))?;
            self.buckets[index].frames.push(frame);
        }
        drop(emitted);
        let freed = std::mem::take(&mut self.buckets[index].bytes);
        self.total -= freed;
        self.settle();
        Ok(freed)
    }

    /// Takes a table that has nothing on disk, to be emitted. Its bytes and their copy stay reserved until
    /// [`Buckets::emitted`] is called.
    pub(crate) fn take_table(&mut self) -> Option<Table> {
        let whole = |bucket: &&mut Bucket| bucket.table.is_some() && bucket.frames.is_empty();
        let bucket = self.buckets.iter_mut().find(whole)?;
        let table = bucket.table.take()?;
        self.taken = std::mem::take(&mut bucket.bytes);
        Some(table)
    }

    /// The table that was taken is gone.
    pub(crate) fn emitted(&mut self) {
        self.total -= std::mem::take(&mut self.taken);
        self.settle();
    }

    /// Writes what is left of one bucket that is on disk in part; `false` if there is none.
    pub(crate) fn spill_rest(&mut self) -> Result<bool> {
        let part = |bucket: &Bucket| bucket.table.is_some() && !bucket.frames.is_empty();
        match self.buckets.iter().position(part) {
            Some(index) => self.spill_bucket(index).map(|_| true),
            None => Ok(false),
        }
    }

    /// Takes all that is on disk, bucket by bucket. `origin` is what these buckets were fed with.
    ///
    /// # Errors
    ///
    /// If a group that was alone in memory is larger than memory can be.
    pub(crate) fn take_spilled(&mut self, origin: Option<Origin>) -> Result<Vec<Spilled>> {
        let Some(file) = self.file.take().map(Arc::new) else { return Ok(Vec::new()) };
        let mut spilled = Vec::new();
        for bucket in &mut self.buckets {
            let frames = std::mem::take(&mut bucket.frames);
            if frames.is_empty() {
                continue;
            }
            let one_group = self.bits == 0 || matches!(bucket.seen, Seen::One(_));
            let mut used_bits = self.used_bits + self.bits;
            let mut attempts = 0;
            if let Some(origin) = origin.filter(|origin| one_group && origin.one_group) {
                // More bits would not part it. It had its memory for itself; others may have had the rest of
                // the worker's, so it is tried again, but not for ever.
                // The state, and its copy or the result beside it.
                let states: usize = frames.iter().map(|frame| frame.memory_bytes).sum();
                let needed = self.home.aggregate.row_floor(states).min(8 * states);
                attempts = origin.attempts + 1;
                used_bits = self.used_bits;
                if needed > self.home.memory.most() || attempts > ATTEMPTS {
                    return Err(self.home.memory.row_too_large(needed));
                }
            } else if used_bits + BITS > 60 {
                return Err(OperatorError::new("groups on disk cannot be parted any further"));
            }
            spilled.push(Spilled {
                file: Arc::clone(&file),
                frames,
                used_bits,
                origin: Origin { one_group, attempts },
            });
        }
        Ok(spilled)
    }

    /// Whether no row ever came.
    pub(crate) fn is_empty(&self) -> bool {
        self.file.is_none() && self.buckets.iter().all(|bucket| bucket.table.is_none())
    }

    fn largest(&self) -> usize {
        self.buckets.iter().map(|bucket| bucket.bytes).max().unwrap_or(0).max(self.taken)
    }

    /// Reserves what is there and the copy of a table, no more.
    fn settle(&mut self) {
        self.held.set(self.total + self.largest());
    }

    fn too_large(&self, needed: usize) -> OperatorError {
        self.home.memory.row_too_large(needed)
    }
}

impl Seen {
    fn add(&mut self, hash: u64) {
        match *self {
            Self::Nothing => *self = Self::One(hash),
            Self::One(one) if one != hash => *self = Self::Several,
            _ => {}
        }
    }
}

/// Spreads what a hash knows over all its bits: levels look at a few of them each.
fn mixed(hash: u64) -> u64 {
    let product = u128::from(hash ^ 0x9E37_79B9_7F4A_7C15) * 0xD6E8_FEB8_6659_FD93;
    (product >> 64) as u64 ^ product as u64
}

/// Rows of `emitted` that have about `bytes`.
pub(crate) fn piece_rows(emitted: &Emitted, bytes: usize) -> usize {
    let rows = emitted.rows().max(1);
    (rows / emitted.bytes().div_ceil(bytes.max(1)).max(1)).max(1)
}

/// A piece of what a table emitted, without the rest of it.
pub(crate) fn own(piece: RecordBatch) -> RecordBatch {
    // Slices of lists are not told from the whole by their size.
    if piece.schema().fields().iter().any(|field| field.data_type().is_nested()) {
        return copied(&piece);
    }
    compact(piece)
}
