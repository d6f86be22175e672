//! The part of a map that is in memory: entries by hash partition, and the log on disk of each partition.
//!
//! A key is in memory at most once. Each time its partition is spilled, its value goes to the end of the
//! partition's log, so a log holds the values of one key in the order of their rows.

use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryBuilder};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use hashbrown::HashTable;

use super::{PIECE_BYTES, StateValue};
use crate::codec;
use crate::error::Result;
use crate::memory::{Account, Reservation};
use crate::spill::{SpillFile, SpillSpace, SpilledBatch};

const PARTITION_BITS: u32 = 5;
const PARTITIONS: usize = 1 << PARTITION_BITS;
/// At this level nearly all bits of the hash are used up: what is left together is one key, or hostile.
const MAX_LEVEL: u32 = 64 / PARTITION_BITS - 1;
/// What an allocator adds to a key on the heap, at most.
const ALLOCATION_BYTES: usize = 24;

/// A key as row bytes, and its value.
#[derive(Debug)]
pub(super) struct Entry<V> {
    pub(super) hash: u64,
    pub(super) key: Box<[u8]>,
    pub(super) value: V,
}

impl<V: StateValue> Entry<V> {
    fn is(&self, hash: u64, key: &[u8]) -> bool {
        self.hash == hash && *self.key == *key
    }

    /// Bytes that it holds outside of the table.
    pub(super) fn heap_bytes(&self) -> usize {
        self.key.len() + ALLOCATION_BYTES + self.value.memory_bytes()
    }
}

#[derive(Debug)]
struct Partition<V> {
    table: HashTable<Entry<V>>,
    /// Bytes that the entries hold outside of the table.
    heap_bytes: usize,
    /// Spilled frames, in the order in which they were spilled.
    log: Vec<SpilledBatch>,
}

impl<V> Partition<V> {
    fn bytes(&self) -> usize {
        self.heap_bytes + self.table.allocation_size()
    }
}

/// The partitions of a map at one level of recursion.
#[derive(Debug)]
pub(super) struct Table<V> {
    account: Account,
    space: SpillSpace,
    level: u32,
    frame_bytes: usize,
    partitions: Vec<Partition<V>>,
    file: Option<SpillFile>,
    /// Bytes of all partitions in memory; never more than `held`, but for the moment of a growth.
    bytes: usize,
    held: Reservation,
    /// The partition that is being spilled, until nothing of it is in memory.
    victim: usize,
}

impl<V: StateValue> Table<V> {
    pub(super) fn new(account: &Account, space: &SpillSpace, level: u32, frame_bytes: usize) -> Self {
        let partition = || Partition { table: HashTable::new(), heap_bytes: 0, log: Vec::new() };
        Self {
            account: account.clone(),
            space: space.clone(),
            level,
            frame_bytes,
            partitions: (0..PARTITIONS).map(|_| partition()).collect(),
            file: None,
            bytes: 0,
            held: account.reservation(),
            victim: 0,
        }
    }

    /// An empty table that splits one partition of this one further.
    pub(super) fn inner(&self) -> Self {
        Self::new(&self.account, &self.space, self.level + 1, self.frame_bytes)
    }

    fn partition_of(&self, hash: u64) -> usize {
        // The table inside uses the hash's own bits: those of the product are others.
        let mixed = hash.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        (mixed >> (64 - PARTITION_BITS * (self.level + 1))) as usize % PARTITIONS
    }

    /// Calls `change` with the value of `key`, `V::default()` if there is none in memory.
    pub(super) fn update(&mut self, hash: u64, key: &[u8], change: impl FnOnce(&mut V)) -> Result<()> {
        let at = self.partition_of(hash);
        let partition = &mut self.partitions[at];
        if let Some(entry) = partition.table.find_mut(hash, |entry| entry.is(hash, key)) {
            let before = entry.value.memory_bytes();
            change(&mut entry.value);
            let after = entry.value.memory_bytes();
            partition.heap_bytes = (partition.heap_bytes + after).saturating_sub(before);
            self.bytes = (self.bytes + after).saturating_sub(before);
            self.make_room(0)
        } else {
            let mut value = V::default();
            change(&mut value);
            self.insert(Entry { hash, key: key.into(), value })
        }
    }

    /// Merges `entry`, which is later than what is here.
    pub(super) fn merge(&mut self, entry: Entry<V>) -> Result<()> {
        let at = self.partition_of(entry.hash);
        let found = self.partitions[at].table.find(entry.hash, |other| other.is(entry.hash, &entry.key)).is_some();
        if found {
            let Entry { hash, key, value } = entry;
            self.update(hash, &key, |earlier| earlier.merge(value))
        } else {
            self.insert(entry)
        }
    }

    fn insert(&mut self, entry: Entry<V>) -> Result<()> {
        let at = self.partition_of(entry.hash);
        let table = &self.partitions[at].table;
        let growth = if table.len() == table.capacity() {
            // Twice as large, and the old one is there until the entries have moved.
            (2 * table.allocation_size()).max(8 * size_of::<Entry<V>>() + 64)
        } else {
            0
        };
        let heap_bytes = entry.heap_bytes();
        self.make_room(heap_bytes + growth)?;
        // It may have been spilled to make room.
        let partition = &mut self.partitions[at];
        let before = partition.bytes();
        partition.heap_bytes += heap_bytes;
        partition.table.insert_unique(entry.hash, entry, |entry| entry.hash);
        self.bytes = self.bytes + partition.bytes() - before;
        self.make_room(0)
    }

    /// Reserves `extra` bytes beside what is in memory, spilling until they are to be had.
    fn make_room(&mut self, extra: usize) -> Result<()> {
        loop {
            let wanted = self.bytes + extra;
            // A little ahead, so that not every key asks the pool.
            if wanted <= self.held.bytes() || self.held.try_set(wanted + wanted / 16) || self.held.try_set(wanted) {
                return Ok(());
            }
            let missing = wanted - self.held.bytes();
            if self.spill(missing.max(self.frame_bytes))? == 0 {
                if self.level < MAX_LEVEL && wanted > self.account.floor() {
                    return Err(self.account.row_too_large(wanted));
                }
                self.held.set(wanted);
                return Ok(());
            }
        }
    }

    /// Writes entries of up to `bytes`, the largest partition first; returns the bytes that it freed.
    pub(super) fn spill(&mut self, bytes: usize) -> Result<usize> {
        let before = self.bytes;
        let mut written = 0;
        while self.level < MAX_LEVEL && before - self.bytes < bytes && written < PIECE_BYTES {
            if self.partitions[self.victim].table.is_empty() {
                let sizes = self.partitions.iter().map(Partition::bytes).enumerate();
                self.victim = sizes.max_by_key(|(_, bytes)| *bytes).map_or(0, |(at, _)| at);
            }
            match self.spill_frame(self.victim)? {
                0 => break,
                bytes => written += bytes,
            }
        }
        if before == self.bytes {
            return Ok(0);
        }
        let held = self.held.bytes();
        self.held.set(self.bytes);
        Ok(held.saturating_sub(self.bytes))
    }

    /// Writes one frame of a partition's entries to its log; returns its bytes.
    fn spill_frame(&mut self, at: usize) -> Result<usize> {
        let (mut keys, mut values, mut encoded) = (BinaryBuilder::new(), BinaryBuilder::new(), Vec::new());
        let mut written = 0;
        let frame_bytes = self.frame_bytes;
        self.take(at, |entry| {
            encoded.clear();
            codec::encode_into(&entry.value, &mut encoded)?;
            keys.append_value(&entry.key);
            values.append_value(&encoded);
            written += entry.key.len() + encoded.len() + 8;
            Ok(written < frame_bytes)
        })?;
        if written > 0 {
            let columns: Vec<ArrayRef> = vec![Arc::new(keys.finish()), Arc::new(values.finish())];
            let batch = RecordBatch::try_new(entry_schema(), columns)?;
            let create = || self.space.create("map", entry_schema());
            let frame = self.file.get_or_insert_with(create).append(&batch)?;
            self.partitions[at].log.push(frame);
        }
        Ok(written)
    }

    /// Takes entries out of a partition for as long as `each` says that it wants more.
    fn take(&mut self, at: usize, mut each: impl FnMut(Entry<V>) -> Result<bool>) -> Result<()> {
        let partition = &mut self.partitions[at];
        let before = partition.bytes();
        for entry in partition.table.extract_if(|_| true) {
            partition.heap_bytes = partition.heap_bytes.saturating_sub(entry.heap_bytes());
            if !each(entry)? {
                break;
            }
        }
        if partition.table.is_empty() {
            partition.table = HashTable::new();
            partition.heap_bytes = 0;
        } else if partition.table.len() < partition.table.capacity() / 4 {
            partition.table.shrink_to_fit(|entry| entry.hash);
        }
        self.bytes = (self.bytes + partition.bytes()).saturating_sub(before);
        Ok(())
    }

    /// Bytes of the entries in memory.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes entries that are in memory alone, of at most `rows` and about `bytes`. Their bytes are handed
    /// over as a reservation.
    pub(super) fn take_whole(&mut self, rows: usize, bytes: usize) -> Result<Option<(Vec<Entry<V>>, Reservation)>> {
        let whole = |partition: &Partition<V>| partition.log.is_empty() && !partition.table.is_empty();
        let Some(at) = self.partitions.iter().position(whole) else { return Ok(None) };
        let (mut entries, mut taken) = (Vec::new(), 0);
        self.take(at, |entry| {
            taken += entry.heap_bytes() + size_of::<Entry<V>>();
            entries.push(entry);
            Ok(entries.len() < rows && taken < bytes)
        })?;
        // Nobody else gets them in between.
        let mut reservation = self.held.split(taken);
        reservation.set(taken);
        self.held.set(self.bytes);
        Ok(Some((entries, reservation)))
    }

    /// Writes what is in memory of a partition that is partly on disk; `false` if there is none.
    pub(super) fn seal_one(&mut self) -> Result<bool> {
        let split = |partition: &Partition<V>| !partition.log.is_empty() && !partition.table.is_empty();
        let Some(at) = self.partitions.iter().position(split) else { return Ok(false) };
        self.spill_frame(at)?;
        self.held.set(self.bytes);
        Ok(true)
    }

    /// The frames of a partition on disk, taken out of it.
    pub(super) fn take_log(&mut self) -> Option<Vec<SpilledBatch>> {
        let log = self.partitions.iter_mut().map(|partition| &mut partition.log).find(|log| !log.is_empty())?;
        Some(std::mem::take(log))
    }

    pub(super) fn file(&self) -> Option<&SpillFile> {
        self.file.as_ref()
    }
}

fn entry_schema() -> SchemaRef {
    static SCHEMA: std::sync::LazyLock<SchemaRef> = std::sync::LazyLock::new(|| {
        let field = |name| Field::new(name, DataType::Binary, false);
        Arc::new(Schema::new(vec![field("key"), field("value")]))
    });
    Arc::clone(&SCHEMA)
}
