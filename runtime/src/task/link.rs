//! One operator of a task's chain, with the batches that wait for it.

use std::collections::VecDeque;

use arrow::record_batch::RecordBatch;

use crate::operator::{Operator, Port, PortSet, Step};

/// One operator of a chain.
pub(crate) struct Link {
    pub(crate) operator: Box<dyn Operator>,
    /// Batches to process: what the link before emitted in one step, or one batch of a port.
    pub(crate) pending: VecDeque<(Port, RecordBatch)>,
    /// How its last step ended.
    pub(crate) state: Step,
    /// Ports whose `finish` was called.
    pub(crate) finished: PortSet,
    ports: usize,
}

impl Link {
    pub(crate) fn new(operator: Box<dyn Operator>, ports: usize) -> Self {
        Self { operator, pending: VecDeque::new(), state: Step::NeedInput, finished: PortSet::NONE, ports }
    }

    /// It will emit nothing more.
    pub(crate) fn has_ended(&self) -> bool {
        match self.state {
            Step::Done => true,
            Step::NeedInput => self.pending.is_empty() && (0..self.ports).all(|port| self.finished.contains(port)),
            Step::MoreOutput | Step::Blocked(_) => false,
        }
    }
}
