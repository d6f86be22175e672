//! A hash map from rows of any Arrow types to values of the user's, larger than memory.
//!
//! Keys are split by their hash into partitions. When memory is short the largest partition goes to disk, and
//! its keys start anew; on reading, the values of a key are merged in the order in which they were spilled. A
//! partition that does not fit is split further, by the next bits of the hash.

use std::collections::VecDeque;
use std::fmt;
use std::hash::{BuildHasher, Hasher};

use arrow::array::{ArrayRef, AsArray};
use arrow::datatypes::FieldRef;
use arrow::row::{RowConverter, SortField};

use super::table::{Entry, Table};
use super::{StateValue, budget_bytes, pause, reserve_needed};
use crate::codec;
use crate::error::Result;
use crate::io::Ticket;
use crate::memory::{Account, Reservation};
use crate::spill::{Fetch, Fetched, SpillSpace, SpilledBatch};

/// A hash map that spills.
///
/// # Examples
///
/// Sessions per user with a time gap, over input that is ordered by time. A value is exact for any run of a
/// user's rows, and two such runs are joined by [`StateValue::merge`], so the result is the same whatever was
/// spilled in between:
///
/// ```
/// use serde::{Deserialize, Serialize};
/// use aqueduct_runtime::state::StateValue;
///
/// const GAP: i64 = 1800;
///
/// #[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
/// struct Sessions {
///     count: u64,
///     first: i64,
///     last: i64,
/// }
///
/// impl Sessions {
///     fn event(&mut self, time: i64) {
///         self.merge(Sessions { count: 1, first: time, last: time });
///     }
/// }
///
/// impl StateValue for Sessions {
///     fn merge(&mut self, later: Self) {
///         if self.count == 0 {
///             *self = later;
///         } else if later.count > 0 {
///             // The session that was open at the cut goes on, if the gap is small.
///             let joined = u64::from(later.first - self.last <= GAP);
///             self.count += later.count - joined;
///             self.last = later.last;
///         }
///     }
/// }
///
/// // In an operator: `map.update_batch(&[users], |row, sessions| sessions.event(times.value(row)))`.
/// let (mut whole, mut before, mut after) = (Sessions::default(), Sessions::default(), Sessions::default());
/// for time in [0, 100, 5000, 5100, 9000] {
///     whole.event(time);
///     if time < 5050 { before.event(time) } else { after.event(time) }
/// }
/// before.merge(after);
/// assert_eq!(before, whole);
/// assert_eq!(whole.count, 3);
/// ```
pub struct SpillingMap<V> {
    account: Account,
    space: SpillSpace,
    converter: RowConverter,
    table: Table<V>,
    chunk_rows: usize,
    chunk_bytes: usize,
}

impl<V: StateValue> SpillingMap<V> {
    /// An empty map whose entries count in `account`; it is read in chunks of at most `chunk_rows` keys.
    ///
    /// # Errors
    ///
    /// If a key has a type that cannot be compared.
    pub fn new(account: &Account, space: &SpillSpace, keys: &[FieldRef], chunk_rows: usize) -> Result<Self> {
        let converter = RowConverter::new(keys.iter().map(|key| SortField::new(key.data_type().clone())).collect())?;
        let budget = budget_bytes(account);
        let frame_bytes = (budget / 32).clamp(2 << 10, 1 << 20);
        Ok(Self {
            account: account.clone(),
            space: space.clone(),
            converter,
            table: Table::new(account, space, 0, frame_bytes),
            chunk_rows: chunk_rows.max(1),
            chunk_bytes: (budget / 16).min(1 << 20),
        })
    }

    /// Bytes that it takes to work with nearly all entries spilled; `batch_bytes` is what one key and its value
    /// may take, beside the frames.
    pub fn min_memory(batch_bytes: usize) -> usize {
        2 * batch_bytes + (256 << 10)
    }

    /// Calls `update` with each row's index and the value of its key, in the order of the rows.
    ///
    /// A key that is new, or whose value was spilled, has `V::default()`.
    ///
    /// # Errors
    ///
    /// If `keys` are not of the types that the map was made for; what writing to disk says;
    /// [`OperatorError::RowTooLarge`](crate::OperatorError::RowTooLarge) if one value is larger than the floor
    /// and the memory is not to be had.
    pub fn update_batch(&mut self, keys: &[ArrayRef], mut update: impl FnMut(usize, &mut V)) -> Result<()> {
        let rows = self.converter.convert_columns(keys)?;
        for (index, row) in rows.iter().enumerate() {
            let key = row.data();
            self.table.update(hash(key), key, |value| update(index, value))?;
        }
        Ok(())
    }

    /// Writes entries of up to `bytes` to disk, at most 4 MiB; returns the bytes that it freed.
    ///
    /// # Errors
    ///
    /// What writing to disk says.
    pub fn spill(&mut self, bytes: usize) -> Result<usize> {
        self.table.spill(bytes)
    }

    /// All keys with their values, each key once, in no order.
    pub fn drain(self) -> MapReader<V> {
        MapReader {
            account: self.account,
            space: self.space,
            converter: self.converter,
            levels: vec![Level { table: self.table, log: VecDeque::new(), reading: VecDeque::new() }],
            chunk_rows: self.chunk_rows,
            chunk_bytes: self.chunk_bytes,
        }
    }
}

impl<V> fmt::Debug for SpillingMap<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SpillingMap").field("account", &self.account).finish_non_exhaustive()
    }
}

/// The same in every process and run: an operator is deterministic.
fn hash(key: &[u8]) -> u64 {
    let mut hasher = foldhash::quality::FixedState::with_seed(0x5711).build_hasher();
    hasher.write(key);
    hasher.finish()
}

/// Some keys of a map with their values.
#[derive(Debug)]
pub struct Chunk<V> {
    /// The key columns.
    pub keys: Vec<ArrayRef>,
    /// The value of each key.
    pub values: Vec<V>,
    /// Keys and values, for as long as the chunk is there.
    _held: Reservation,
}

/// What reading from a map has.
#[derive(Debug)]
pub enum NextChunk<V> {
    /// Keys that were not given out before.
    Chunk(Chunk<V>),
    /// The disk is waited for, or a long computation was cut: return `Step::Blocked` and call again.
    Blocked(Ticket),
    /// Every key was read.
    End,
}

/// Reads a [`SpillingMap`] to its end.
pub struct MapReader<V> {
    account: Account,
    space: SpillSpace,
    converter: RowConverter,
    /// A partition on disk is read into a table of its own, on top of the one it is from.
    levels: Vec<Level<V>>,
    chunk_rows: usize,
    chunk_bytes: usize,
}

struct Level<V> {
    table: Table<V>,
    /// The rest of the partition that goes into the level above.
    log: VecDeque<SpilledBatch>,
    reading: VecDeque<(Fetch, Reservation)>,
}

impl<V: StateValue> MapReader<V> {
    /// The next keys, or what to wait for.
    ///
    /// # Errors
    ///
    /// What reading and writing say.
    #[expect(clippy::should_implement_trait, reason = "an iterator could not say that it waits")]
    pub fn next(&mut self) -> Result<NextChunk<V>> {
        loop {
            if let [.., from, to] = self.levels.as_mut_slice()
                && !(from.log.is_empty() && from.reading.is_empty())
            {
                return Ok(NextChunk::Blocked(read_frame(&self.account, &self.space, from, to)?));
            }
            let Some(top) = self.levels.last_mut() else { return Ok(NextChunk::End) };
            // Entries take more room in a chunk and in the table they leave than in the table alone.
            let room = self.account.try_reserve(2 * self.chunk_bytes);
            if room.is_none() && top.table.bytes() > 4 * self.chunk_bytes && top.table.spill(2 * self.chunk_bytes)? > 0
            {
                return Ok(NextChunk::Blocked(pause(&self.space)));
            }
            drop(room);
            if let Some((entries, held)) = top.table.take_whole(self.chunk_rows, self.chunk_bytes)? {
                return self.chunk(entries, held).map(NextChunk::Chunk);
            }
            if top.table.seal_one()? {
                return Ok(NextChunk::Blocked(pause(&self.space)));
            }
            match top.table.take_log() {
                Some(log) => {
                    top.log = log.into();
                    let table = top.table.inner();
                    self.levels.push(Level { table, log: VecDeque::new(), reading: VecDeque::new() });
                }
                None => {
                    self.levels.pop();
                }
            }
        }
    }

    /// As [`SpillingMap::spill`].
    ///
    /// # Errors
    ///
    /// What writing to disk says.
    pub fn spill(&mut self, bytes: usize) -> Result<usize> {
        // Below the top nothing is in memory.
        self.levels.last_mut().map_or(Ok(0), |top| top.table.spill(bytes))
    }

    fn chunk(&self, entries: Vec<Entry<V>>, held: Reservation) -> Result<Chunk<V>> {
        let parser = self.converter.parser();
        let keys = self.converter.convert_rows(entries.iter().map(|entry| parser.parse(&entry.key)))?;
        Ok(Chunk { keys, values: entries.into_iter().map(|entry| entry.value).collect(), _held: held })
    }
}

impl<V> fmt::Debug for MapReader<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MapReader").field("depth", &self.levels.len()).finish_non_exhaustive()
    }
}

/// Merges one frame of the partition under way into the table above it.
fn read_frame<V: StateValue>(
    account: &Account,
    space: &SpillSpace,
    from: &mut Level<V>,
    to: &mut Level<V>,
) -> Result<Ticket> {
    while from.reading.len() < 2
        && let (Some(&frame), Some(file)) = (from.log.front(), from.table.file())
    {
        let bytes = file.fetch_bytes(frame);
        let reservation = match account.try_reserve(bytes) {
            Some(reservation) => reservation,
            None if !from.reading.is_empty() => break,
            // Entries that are here already make room for the next ones.
            None if to.table.spill(bytes)? > 0 => return Ok(pause(space)),
            None => reserve_needed(account, bytes)?,
        };
        from.reading.push_back((file.fetch(frame), reservation));
        from.log.pop_front();
    }
    let Some((fetch, _)) = from.reading.front_mut() else { return Ok(pause(space)) };
    let batch = match fetch.poll()? {
        Fetched::Blocked(ticket) => return Ok(ticket),
        Fetched::Ready(batch) => batch,
    };
    let (keys, values) = (batch.column(0).as_binary::<i32>(), batch.column(1).as_binary::<i32>());
    for row in 0..batch.num_rows() {
        let key = keys.value(row);
        to.table.merge(Entry { hash: hash(key), key: key.into(), value: codec::decode_exact(values.value(row))? })?;
    }
    drop(batch);
    from.reading.pop_front();
    Ok(pause(space))
}
