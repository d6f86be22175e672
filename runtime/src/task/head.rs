//! The head of a task: a source that reads splits, or ports that batches arrive at.

use std::sync::Arc;

use arrow::compute::concat_batches;
use arrow::record_batch::RecordBatch;

use crate::error::Result;
use crate::mailbox::{PortReceiver, permit_bytes};
use crate::memory::Account;
use crate::source::{Scan, Source, Split};

/// Where a task's input comes from.
pub(crate) enum Head {
    Source(Box<SourceHead>),
    Ports(Ports),
}

/// A source instance and the queue of splits that it shares with the others.
pub(crate) struct SourceHead {
    pub(crate) source: Box<dyn Source>,
    pub(crate) scan: Arc<dyn Scan>,
    pub(crate) split: Option<Split>,
    /// The split is read, but its rows may still be in the links.
    pub(crate) split_ended: bool,
    /// No split is left.
    pub(crate) ended: bool,
}

/// The input ports, in the order of the first node's inputs.
pub(crate) struct Ports {
    pub(crate) receivers: Vec<PortReceiver>,
    /// The edge of each.
    pub(crate) edges: Vec<usize>,
    /// The port to look at first, so that none is starved.
    pub(crate) next: usize,
}

impl Head {
    /// Nodes that the head itself is: a source counts, ports belong to the first operator.
    pub(crate) fn nodes(&self) -> usize {
        match self {
            Head::Source(_) => 1,
            Head::Ports(_) => 0,
        }
    }

    /// No more input is wanted.
    pub(crate) fn stop(&mut self) {
        match self {
            Head::Source(head) => {
                head.ended = true;
                head.split = None;
                head.split_ended = false;
            }
            Head::Ports(ports) => ports.receivers.iter_mut().filter(|r| !r.is_ended()).for_each(PortReceiver::stop),
        }
    }
}

impl Ports {
    /// Joins a small batch with what else is queued: an exchange cuts batches into small pieces.
    pub(crate) fn coalesce(
        &mut self,
        port: usize,
        batch: RecordBatch,
        rows: usize,
        bytes: usize,
        account: &Account,
    ) -> Result<RecordBatch> {
        let first = permit_bytes(&batch);
        if batch.num_rows() > rows / 2 || first > bytes / 2 {
            return Ok(batch);
        }
        // Pieces and their copy are there at once.
        let Some(mut estimate) = account.try_reserve(bytes) else { return Ok(batch) };
        let mut pieces = vec![batch];
        self.receivers[port].receive_more(rows - pieces[0].num_rows(), bytes - first, &mut pieces);
        if pieces.len() == 1 {
            return Ok(pieces.remove(0));
        }
        let joined = concat_batches(pieces[0].schema_ref(), &pieces)?;
        account.claim_from(&joined, &mut estimate);
        Ok(joined)
    }
}
