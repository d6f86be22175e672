//! Build rows spread over buckets by some bits of their hash, in memory as far as they fit, and probe rows that
//! wait for the buckets that do not.
//!
//! ```text
//! build rows ─▶ unspread, while they are few ─▶ buckets ─▶ tables          ◀─ probe rows
//!                                                  └─────▶ disk, by bucket ◀─ probe rows of that bucket
//! ```
//!
//! A bucket that is on disk is joined later, by itself, with its bits spread further (see `instance`). A bucket can go
//! to disk at any moment: before its table is made, after, and while a batch of probe rows is on its way.

use std::sync::Arc;

use aqueduct_runtime::Result;
use aqueduct_runtime::batch::{batch_bytes, compact};
use aqueduct_runtime::memory::Reservation;
use aqueduct_runtime::state::{Next, SpillingVec};
use arrow::record_batch::RecordBatch;

use super::cursor::{Cursor, rows_of};
use super::home::Home;
use super::making::Making;
use super::staging::{Staging, by_bucket};
use super::table::{Held, Tables};

/// Bits of the hash that one level uses up.
const BITS: u32 = 4;
/// Hash bits beyond which spreading is of no use any more.
const MOST_BITS: u32 = 40;
/// Rows of which one step makes tables.
const SEALED_ROWS: usize = if cfg!(test) { 100 } else { 1 << 16 };
/// A bucket of fewer rows is not thought to be all of one key.
const FEW_ROWS: usize = 64;
/// How often rows that were not spread are loaded and must leave again.
const ATTEMPTS: usize = 3;

/// One level of buckets.
pub(super) struct Level {
    home: Home,
    pub(super) tables: Tables,
    buckets: Vec<Bucket>,
    /// Rows that are not spread yet, each with what its structure takes.
    unspread: Vec<(RecordBatch, Reservation)>,
    unspread_bytes: usize,
    /// Rows that go into buckets with those that come next: build rows, and probe rows of buckets that are elsewhere.
    staged_build: Staging,
    staged_probe: Staging,
    rows: usize,
    /// Buckets before this one are tables, or elsewhere.
    sealed: usize,
    /// The table of that one, and what the structures of its unspread rows take.
    making: Option<Box<Making>>,
    structures: Vec<Reservation>,
    /// Spreads rows that match nothing.
    turn: usize,
    attempts: usize,
}

#[derive(Default)]
struct Bucket {
    build: Option<SpillingVec>,
    probe: Option<SpillingVec>,
    rows: usize,
    /// The hash of a row, and whether another row has another.
    hash: Option<u64>,
    several: bool,
}

/// A bucket on disk, and the probe rows that it has to meet.
pub(super) struct Pair {
    pub(super) build: SpillingVec,
    pub(super) probe: Option<SpillingVec>,
    pub(super) used_bits: u32,
    /// Spreading it further would not part it.
    pub(super) one_key: bool,
    attempts: usize,
}

impl Level {
    /// A level that spreads by the bits behind the first `used_bits`.
    pub(super) fn new(home: Home, used_bits: u32, attempts: usize) -> Self {
        Self {
            home,
            tables: Tables::new(used_bits, 0),
            buckets: vec![Bucket::default()],
            unspread: Vec::new(),
            unspread_bytes: 0,
            staged_build: Staging::default(),
            staged_probe: Staging::default(),
            rows: 0,
            sealed: 0,
            making: None,
            structures: Vec::new(),
            turn: 0,
            attempts,
        }
    }

    /// The level that a pair is joined by.
    pub(super) fn below(home: Home, pair: &Pair) -> Self {
        Self::new(home, pair.used_bits, pair.attempts)
    }

    fn is_spread(&self) -> bool {
        self.tables.bits() > 0 || !self.home.encoder.has_keys()
    }

    /// Whether all rows are in one bucket.
    fn is_one(&self) -> bool {
        self.buckets.len() == 1
    }

    /// Takes in stored build rows.
    pub(super) fn insert(&mut self, batch: RecordBatch) -> Result<()> {
        self.rows += batch.num_rows();
        if !self.is_spread() {
            let batch = compact(batch);
            let bytes = batch_bytes(&batch);
            if self.unspread_bytes + bytes <= self.home.unspread_bytes
                && let Some(mut memory) = self.home.memory.try_reserve(batch.get_array_memory_size())
            {
                self.home.memory.claim_from(&batch, &mut memory);
                self.unspread_bytes += bytes;
                self.unspread.push((batch, memory));
                return Ok(());
            }
            self.spread()?;
            return self.insert_spread(batch);
        }
        if self.tables.bits() == 0 {
            return self.push_build(0, batch);
        }
        self.insert_spread(batch)
    }

    /// Starts to use buckets.
    fn spread(&mut self) -> Result<()> {
        self.tables = Tables::new(self.tables.used_bits(), BITS);
        self.buckets.resize_with(1 << BITS, Bucket::default);
        self.unspread_bytes = 0;
        for (batch, memory) in std::mem::take(&mut self.unspread) {
            drop(memory);
            self.insert_spread(batch)?;
        }
        Ok(())
    }

    /// Takes in rows for buckets, now or with those that come next.
    fn insert_spread(&mut self, batch: RecordBatch) -> Result<()> {
        if let Some(batch) = self.staged_build.push(&self.home, batch) {
            self.insert_sliced(&batch)?;
        }
        if self.staged_build.is_full(&self.home) { self.insert_staged() } else { Ok(()) }
    }

    fn insert_staged(&mut self) -> Result<()> {
        self.staged_build.take(&self.home)?.iter().try_for_each(|batch| self.insert_sliced(batch))
    }

    fn insert_sliced(&mut self, batch: &RecordBatch) -> Result<()> {
        for start in (0..batch.num_rows()).step_by(self.home.slice_rows) {
            let rows = self.home.slice_rows.min(batch.num_rows() - start);
            self.insert_slice(&batch.slice(start, rows))?;
        }
        Ok(())
    }

    fn insert_slice(&mut self, batch: &RecordBatch) -> Result<()> {
        let shape = Arc::clone(&self.home.shape);
        let rows = batch.num_rows();
        let key_columns: Vec<_> = shape.build_keys.iter().map(|&key| Arc::clone(batch.column(key))).collect();
        let keys = self.home.encoder.encode(&key_columns, rows)?;
        let mut hashes = Vec::new();
        keys.hash(&mut hashes);

        let absent = self.buckets.len();
        let bucket_of: Vec<u8> = (0..rows)
            .map(|row| {
                let bucket = if keys.is_valid(row) {
                    let bucket = self.tables.bucket(hashes[row]);
                    let seen = &mut self.buckets[bucket];
                    if !seen.several {
                        seen.several = *seen.hash.get_or_insert(hashes[row]) != hashes[row];
                    }
                    bucket
                } else if shape.keeps_unmatchable() {
                    self.turn = (self.turn + 1) % absent;
                    self.turn
                } else {
                    absent
                };
                bucket as u8
            })
            .collect();
        drop((keys, hashes));
        by_bucket(batch, &bucket_of, absent, |bucket, piece| self.push_build(bucket, piece))
    }

    fn push_build(&mut self, bucket: usize, batch: RecordBatch) -> Result<()> {
        let batch = compact(batch);
        self.make_room(kept_bytes(&batch), None)?;
        let home = &self.home;
        let bucket = &mut self.buckets[bucket];
        bucket.rows += batch.num_rows();
        bucket.build.get_or_insert_with(|| home.vec(&home.shape.stored_schema)).push(batch)
    }

    /// Spills until `bytes` are to be had, or nothing is left to spill.
    fn make_room(&mut self, bytes: usize, mut cursor: Option<&mut Cursor>) -> Result<()> {
        while !self.home.has_room(bytes) {
            if self.spill_some(usize::MAX, cursor.as_deref_mut())? == 0 {
                break;
            }
        }
        Ok(())
    }

    /// Makes a piece of the tables; `true` once all buckets have one that can have one.
    pub(super) fn seal(&mut self) -> Result<bool> {
        self.insert_staged()?;
        let mut rows = SEALED_ROWS;
        while rows > 0 {
            if self.sealed == self.tables.list.len() {
                return Ok(true);
            }
            if self.making.is_some() {
                self.go_on_making(&mut rows)?;
            } else if !self.begin_making()? {
                return Ok(false);
            }
        }
        Ok(self.sealed == self.tables.list.len())
    }

    fn go_on_making(&mut self, rows: &mut usize) -> Result<()> {
        if let Some(making) = &mut self.making
            && let Some(table) = making.step(rows)?
        {
            self.making = None;
            self.structures.clear();
            self.tables.list[self.sealed] = Held::Table(Box::new(table));
            self.sealed += 1;
        }
        Ok(())
    }

    /// Begins with the next table, or finds that its bucket can have none; `false` if room has to be made first.
    fn begin_making(&mut self) -> Result<bool> {
        if !self.is_spread() {
            if self.unspread.is_empty() {
                self.sealed = 1;
                return Ok(true);
            }
            let rows: usize = self.unspread.iter().map(|(batch, _)| batch.num_rows()).sum();
            let need = self.home.table_bytes(rows, self.unspread_bytes);
            let Some(memory) = self.home.memory.try_reserve(need) else {
                self.spread()?;
                return Ok(false);
            };
            let (pieces, structures): (Vec<_>, Vec<_>) = std::mem::take(&mut self.unspread).into_iter().unzip();
            self.structures = structures;
            self.making = Some(Box::new(Making::new(&self.home, pieces, self.is_one(), memory)));
            return Ok(true);
        }
        let bucket = &mut self.buckets[self.sealed];
        let Some(build) = &mut bucket.build else {
            self.sealed += 1;
            return Ok(true);
        };
        let bytes = build.memory_bytes();
        let need = self.home.table_bytes(bucket.rows, bytes);
        let may_fit = !build.is_spilled() && bucket.rows < 1 << 31;
        let memory = if may_fit { self.home.memory.try_reserve(need) } else { None };
        let Some(memory) = memory else {
            // What is left may be too little for a table, and need not be on disk.
            if !may_fit || self.spill_some(usize::MAX, None)? == 0 {
                self.tables.list[self.sealed] = Held::Elsewhere;
                self.sealed += 1;
            }
            return Ok(false);
        };
        let Some(build) = bucket.build.take() else { return Ok(true) };
        let mut reader = build.drain();
        let mut pieces = Vec::new();
        while let Next::Batch(batch) = reader.next()? {
            pieces.push(batch);
        }
        self.making = Some(Box::new(Making::new(&self.home, pieces, self.is_one(), memory)));
        Ok(true)
    }

    /// Looks up probe rows; those of buckets that are elsewhere go there.
    pub(super) fn probe(&mut self, batch: RecordBatch) -> Result<Cursor> {
        let (mut cursor, later) = Cursor::new(&self.home.shape, &self.home.encoder, &self.tables, batch)?;
        if !later.is_empty() {
            let rows = compact(rows_of(cursor.batch(), later)?);
            self.make_room(kept_bytes(&rows), Some(&mut cursor))?;
            if let Some(rows) = self.staged_probe.push(&self.home, rows) {
                self.put_off(&rows, Some(&mut cursor))?;
            }
            if self.staged_probe.is_full(&self.home) {
                self.put_off_staged(Some(&mut cursor))?;
            }
        }
        Ok(cursor)
    }

    fn put_off_staged(&mut self, mut cursor: Option<&mut Cursor>) -> Result<()> {
        let staged = self.staged_probe.take(&self.home)?;
        staged.iter().try_for_each(|batch| self.put_off(batch, cursor.as_deref_mut()))
    }

    /// Has probe rows wait for their buckets.
    fn put_off(&mut self, batch: &RecordBatch, mut cursor: Option<&mut Cursor>) -> Result<()> {
        let home = self.home.clone();
        for start in (0..batch.num_rows()).step_by(home.slice_rows) {
            let batch = batch.slice(start, home.slice_rows.min(batch.num_rows() - start));
            let rows = batch.num_rows();
            let key_columns: Vec<_> = home.shape.probe_keys.iter().map(|&key| Arc::clone(batch.column(key))).collect();
            let mut hashes = Vec::new();
            if home.encoder.has_keys() {
                home.encoder.encode(&key_columns, rows)?.hash(&mut hashes);
            }
            let bucket = |row| hashes.get(row).map_or(0, |hash| self.tables.bucket(*hash)) as u8;
            let bucket_of: Vec<u8> = (0..rows).map(bucket).collect();
            by_bucket(&batch, &bucket_of, self.buckets.len(), |bucket, piece| {
                let piece = compact(piece);
                self.make_room(kept_bytes(&piece), cursor.as_deref_mut())?;
                self.push_probe(bucket, piece)
            })?;
        }
        Ok(())
    }

    fn push_probe(&mut self, bucket: usize, rows: RecordBatch) -> Result<()> {
        let home = &self.home;
        self.buckets[bucket].probe.get_or_insert_with(|| home.vec(&home.shape.probe_schema)).push(rows)
    }

    /// Writes up to `bytes`, or a piece, to disk; what that freed. Rows that wait for a bucket that is elsewhere go
    /// first.
    pub(super) fn spill_some(&mut self, bytes: usize, mut cursor: Option<&mut Cursor>) -> Result<usize> {
        let forgotten = self.home.forget_filter();
        if forgotten > 0 {
            return Ok(forgotten);
        }
        // A table that is half made cannot leave.
        while self.making.is_some() {
            self.go_on_making(&mut { usize::MAX })?;
        }
        if !self.is_spread() && !self.unspread.is_empty() {
            self.spread()?;
        }
        #[derive(Clone, Copy)]
        enum What {
            Build,
            Probe,
            Table,
        }
        let mut best: Option<(usize, usize, What)> = None;
        let mut consider = |score: usize, bucket: usize, what: What| {
            if score > 0 && best.is_none_or(|(best, ..)| score > best) {
                best = Some((score, bucket, what));
            }
        };
        for (index, bucket) in self.buckets.iter().enumerate() {
            if let Some(build) = &bucket.build {
                consider(build.memory_bytes() * if build.is_spilled() { 8 } else { 1 }, index, What::Build);
            }
            if let Some(probe) = &bucket.probe {
                consider(probe.memory_bytes() * 8, index, What::Probe);
            }
            if let Held::Table(table) = &self.tables.list[index]
                && cursor.as_ref().is_none_or(|cursor| !cursor.needs(index))
            {
                consider(table.bytes, index, What::Table);
            }
        }
        let held = self.home.memory.held();
        let Some((_, index, what)) = best else {
            // Last, as rows that wait for others are few, and cost the more the fewer they are.
            if self.staged_build.is_empty() && self.staged_probe.is_empty() {
                return Ok(0);
            }
            self.insert_staged()?;
            self.put_off_staged(cursor.as_deref_mut())?;
            return Ok(held.saturating_sub(self.home.memory.held()).max(1));
        };
        let spilled = match what {
            What::Build => self.buckets[index].build.as_mut().map_or(Ok(0), |build| build.spill(bytes)),
            What::Probe => self.buckets[index].probe.as_mut().map_or(Ok(0), |probe| probe.spill(bytes)),
            What::Table => self.evict(index, bytes, cursor).map(|()| 1),
        }?;
        Ok(held.saturating_sub(self.home.memory.held()).max(spilled.min(1)))
    }

    /// As [`Level::spill_some`], once the tables up to `bucket`, and of that rows, have been emitted.
    pub(super) fn spill_beyond(&mut self, bucket: usize, row: usize, bytes: usize) -> Result<usize> {
        let begun = self.tables.list.get_mut(bucket).filter(|_| row > 0);
        let begun = begun.map(|held| std::mem::replace(held, Held::Elsewhere));
        let freed = self.spill_some(bytes, None);
        if let Some(begun) = begun {
            self.tables.list[bucket] = begun;
        }
        freed
    }

    /// Lets go of a table that is done with.
    pub(super) fn drop_table(&mut self, bucket: usize) {
        if matches!(self.tables.list[bucket], Held::Table(_)) {
            self.tables.list[bucket] = Held::Nothing;
        }
    }

    /// Gives up a table.
    fn evict(&mut self, index: usize, bytes: usize, cursor: Option<&mut Cursor>) -> Result<()> {
        let Held::Table(table) = std::mem::replace(&mut self.tables.list[index], Held::Elsewhere) else {
            return Ok(());
        };
        let home = &self.home;
        let mut build = home.vec(&home.shape.stored_schema);
        for rows in home.rows_of(*table)? {
            build.push(rows)?;
        }
        build.spill(bytes)?;
        self.buckets[index].rows = build.rows();
        self.buckets[index].build = Some(build);
        if let Some(cursor) = cursor {
            let rows = cursor.defer(index);
            if !rows.is_empty() {
                let rows = compact(rows_of(cursor.batch(), rows)?);
                self.push_probe(index, rows)?;
            }
        }
        Ok(())
    }

    /// What is still to be joined, once all probe rows have come and all tables are done with.
    pub(super) fn take_pairs(&mut self) -> Result<Vec<Pair>> {
        self.put_off_staged(None)?;
        let (bits, used_bits) = (self.tables.bits(), self.tables.used_bits());
        let (all, has_keys) = (self.rows, self.home.encoder.has_keys());
        let mut pairs = Vec::new();
        for bucket in &mut self.buckets {
            let (probe, Some(build)) = (bucket.probe.take(), bucket.build.take()) else { continue };
            let attempts = if bits == 0 { self.attempts + 1 } else { 0 };
            let most_of_all = bucket.rows > FEW_ROWS && bucket.rows / 7 > all / 8;
            let one_key = !has_keys
                || used_bits + bits + BITS > MOST_BITS
                || attempts >= ATTEMPTS
                || (bits > 0 && (!bucket.several || most_of_all));
            pairs.push(Pair { build, probe, used_bits: used_bits + bits, one_key, attempts });
        }
        Ok(pairs)
    }
}

/// Bytes that keeping `batch` takes, and a little for what holds it.
pub(super) fn kept_bytes(batch: &RecordBatch) -> usize {
    batch.get_array_memory_size() + 256
}
