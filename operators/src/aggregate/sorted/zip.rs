//! The results of several lanes side by side. All have the same groups in the same order, cut into batches
//! differently.

use aqueduct_runtime::Result;
use aqueduct_runtime::io::Ticket;
use aqueduct_runtime::state::{Next, SpillingVec, SpillingVecReader};
use arrow::record_batch::RecordBatch;

use super::super::buckets::own;
use super::layout::lanes_disagree;

pub(super) struct Zip {
    lanes: Vec<(SpillingVecReader, Option<RecordBatch>)>,
    keys: usize,
}

pub(super) enum ZipStep {
    /// Of each lane the same groups.
    Batches(Vec<RecordBatch>),
    Blocked(Ticket),
    End,
}

impl Zip {
    pub(super) fn new(lanes: impl Iterator<Item = SpillingVec>, keys: usize) -> Self {
        Self { lanes: lanes.map(|lane| (lane.drain(), None)).collect(), keys }
    }

    pub(super) fn next(&mut self) -> Result<ZipStep> {
        let mut ended = 0;
        for (reader, rest) in &mut self.lanes {
            if rest.is_none() {
                match reader.next()? {
                    Next::Batch(batch) => *rest = Some(batch),
                    Next::Blocked(ticket) => return Ok(ZipStep::Blocked(ticket)),
                    Next::End => ended += 1,
                }
            }
        }
        let rows = self.lanes.iter().flat_map(|(_, rest)| rest).map(RecordBatch::num_rows).min();
        let Some(rows) = rows else { return Ok(ZipStep::End) };
        if ended > 0 {
            return Err(lanes_disagree());
        }
        let taken = self.lanes.iter_mut().filter_map(|(_, rest)| {
            let batch = rest.take()?;
            if batch.num_rows() > rows {
                *rest = Some(batch.slice(rows, batch.num_rows() - rows));
            }
            Some(own(batch.slice(0, rows)))
        });
        let taken: Vec<_> = taken.collect();
        debug_assert!(taken.iter().all(|batch| batch.columns()[..self.keys] == taken[0].columns()[..self.keys]));
        Ok(ZipStep::Batches(taken))
    }

    pub(super) fn spill(&mut self, bytes: usize) -> Result<usize> {
        for (reader, _) in &mut self.lanes {
            match reader.spill(bytes)? {
                0 => {}
                freed => return Ok(freed),
            }
        }
        Ok(0)
    }
}
