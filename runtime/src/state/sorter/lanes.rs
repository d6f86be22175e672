//! A stable merge of sorted lanes that come batch by batch, such as the partitions of a sorted node.
//!
//! A lane holds one batch, and the keys of as many of its rows as have room. A batch that was read to its end
//! stays until the rows picked from it are copied.

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;

use super::SortColumn;
use super::chunk::Chunk;
use super::keys::{Keys, MAX_PLACES};
use super::picker::{Bounds, Picked, Picker};
use crate::error::Result;
use crate::memory::{Account, Reservation};
use crate::operator::PortSet;
use crate::state::{kept_bytes, reserve_needed};

/// Bytes of batches read to their end, in batches of the plan's size, that wait to be copied.
const RETIRED_BATCHES: usize = 4;

/// Merges sorted lanes. Of equal rows those of the lane with the smaller number come first.
#[derive(Debug)]
pub struct LaneMerge {
    account: Account,
    keys: Keys,
    picker: Picker,
    lanes: Vec<Lane>,
    output: Bounds,
    retired_bytes: usize,
    /// Rows that are still to be given out.
    left: usize,
}

#[derive(Debug)]
struct Lane {
    /// Rows of the current batch whose keys are still to be made.
    rest: Option<RecordBatch>,
    batch_bytes: usize,
    keys: Reservation,
    ended: bool,
}

/// What a merge of lanes has.
#[derive(Debug)]
pub enum LaneStep {
    /// The next rows.
    Batch(RecordBatch),
    /// The lanes that [`LaneMerge::wanted`] names must be read first.
    NeedInput,
    /// All lanes were read to their end, or as many rows were given out as were wanted.
    End,
}

impl LaneMerge {
    /// A merge of `lanes` lanes, each sorted by `columns`, into batches of at most `batch_rows` rows and about
    /// `batch_bytes` bytes. What it holds counts in `account`.
    ///
    /// # Errors
    ///
    /// If a column is not there or has a type that cannot be compared.
    pub fn new(
        account: &Account,
        schema: &SchemaRef,
        columns: &[SortColumn],
        lanes: usize,
        batch_rows: usize,
        batch_bytes: usize,
    ) -> Result<Self> {
        let lane = || Lane { rest: None, batch_bytes: 0, keys: account.reservation(), ended: false };
        Ok(Self {
            account: account.clone(),
            keys: Keys::try_new(schema, columns)?,
            picker: Picker::new((0..lanes).map(|_| None).collect()),
            lanes: (0..lanes).map(|_| lane()).collect(),
            output: Bounds { rows: batch_rows.max(1), bytes: batch_bytes.max(1) },
            retired_bytes: 0,
            left: usize::MAX,
        })
    }

    /// Gives out the first `fetch` rows alone, all of them if `None`.
    #[must_use]
    pub fn with_fetch(self, fetch: Option<usize>) -> Self {
        Self { left: fetch.unwrap_or(usize::MAX), ..self }
    }

    /// Bytes that it takes beside the lanes: batches that wait to be copied.
    pub fn min_memory(batch_bytes: usize) -> usize {
        (2 * RETIRED_BATCHES + 2) * batch_bytes + (16 << 10)
    }

    /// Bytes that each lane takes: a batch, which may pin twice its bytes, and keys.
    pub fn lane_memory(batch_bytes: usize) -> usize {
        3 * batch_bytes + (8 << 10)
    }

    /// The lanes to be read before more rows can be given out.
    pub fn wanted(&self) -> PortSet {
        let wanted = (0..self.lanes.len()).filter(|lane| self.wants(*lane));
        wanted.fold(PortSet::NONE, PortSet::with)
    }

    fn wants(&self, lane: usize) -> bool {
        !self.lanes[lane].ended && self.picker.chunk(lane).is_none()
    }

    /// Adds the next batch of a lane, one that is wanted. Its memory counts here from now on.
    ///
    /// # Errors
    ///
    /// [`OperatorError::RowTooLarge`](crate::OperatorError::RowTooLarge) for a row that the floor has no room for.
    pub fn push(&mut self, lane: usize, batch: RecordBatch) -> Result<()> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        let bytes = kept_bytes(&batch);
        self.account.claim_from(&batch, &mut reserve_needed(&self.account, bytes)?);
        self.lanes[lane].batch_bytes = bytes;
        self.lanes[lane].rest = Some(batch);
        self.make_keys(lane)
    }

    /// Says that no batch of `lane` follows.
    pub fn end(&mut self, lane: usize) {
        self.lanes[lane].ended = true;
        if self.picker.chunk(lane).is_none() {
            self.picker.end(lane);
        }
    }

    /// Makes the keys of the next rows of a lane's batch, of as many as there is room for.
    fn make_keys(&mut self, lane: usize) -> Result<()> {
        let state = &mut self.lanes[lane];
        let Some(batch) = state.rest.take() else { return Ok(()) };
        let rows = (self.output.bytes / self.keys.row_bytes(&batch)).clamp(1, MAX_PLACES);
        let chunk = if rows < batch.num_rows() {
            state.rest = Some(batch.slice(rows, batch.num_rows() - rows));
            Chunk::sorted(batch.slice(0, rows), &self.keys, &self.account)?
        } else {
            Chunk::sorted(batch, &self.keys, &self.account)?
        };
        state.keys.set(chunk.keys_bytes());
        self.picker.set(lane, chunk);
        Ok(())
    }

    /// The next rows in order.
    ///
    /// # Errors
    ///
    /// What arrow says when it copies rows.
    #[expect(clippy::should_implement_trait, reason = "an iterator could not say that it waits")]
    pub fn next(&mut self) -> Result<LaneStep> {
        if self.left == 0 {
            self.picker = Picker::default();
            self.lanes.clear();
            return Ok(LaneStep::End);
        }
        loop {
            if (0..self.lanes.len()).any(|lane| self.wants(lane)) {
                return Ok(LaneStep::NeedInput);
            }
            match self.picker.pick(self.output.at_most(self.left)) {
                Picked::Exhausted(lane) => {
                    let state = &mut self.lanes[lane];
                    if state.rest.is_some() {
                        self.make_keys(lane)?;
                        continue;
                    }
                    state.keys.set(0);
                    self.retired_bytes += std::mem::take(&mut state.batch_bytes);
                    if state.ended {
                        self.picker.end(lane);
                    }
                    if self.retired_bytes <= RETIRED_BATCHES * 2 * self.output.bytes {
                        continue;
                    }
                }
                Picked::End if self.picker.picked_rows() == 0 => return Ok(LaneStep::End),
                Picked::Full | Picked::End => {}
            }
            self.retired_bytes = 0;
            let batch = self.picker.flush()?.batch;
            self.left -= batch.num_rows();
            return Ok(LaneStep::Batch(batch));
        }
    }
}
