//! A port without actors: its sender and its receiver on one thread, to measure what a permit costs.

use std::sync::Arc;
use std::task::Waker;

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;

use crate::error::{OperatorError, Result};
use crate::mailbox::{Port, PortConfig, PortReceiver, PortSender, Received, Sent};
use crate::memory::MemoryPool;
use crate::metrics::EdgeCounters;
use crate::spill::SpillSpace;

/// One lane from one sender to one receiver.
pub struct LonePort {
    sender: PortSender,
    receiver: PortReceiver,
}

impl LonePort {
    /// A port that holds `capacity_bytes`.
    pub fn new(schema: SchemaRef, capacity_bytes: usize) -> Self {
        let port = Port::new(PortConfig {
            senders: 1,
            ordered: false,
            hazardous: false,
            capacity: capacity_bytes,
            schema,
            accounts: vec![MemoryPool::new(usize::MAX).account("port")],
            hands: Some(MemoryPool::new(usize::MAX).account("batches")),
            spill: SpillSpace::temporary(),
            receiver: Waker::noop().clone(),
            counters: Arc::new(EdgeCounters::default()),
        });
        Self { sender: port.sender(0, Waker::noop().clone()), receiver: port.receiver() }
    }

    /// Takes a permit, sends `batch`, receives it and gives the permit back.
    ///
    /// # Errors
    ///
    /// If it does not come out again.
    pub fn pass(&mut self, batch: RecordBatch) -> Result<RecordBatch> {
        match (self.sender.try_send(batch, 0)?, self.receiver.receive()?) {
            (Sent::Yes, Received::Batch(batch, _)) => Ok(batch),
            _ => Err(OperatorError::new("the batch did not come out again")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{number_schema, numbers};

    #[test]
    fn a_batch_passes_however_often_and_large() {
        let mut port = LonePort::new(number_schema(), 1000);
        for rows in [1, 10, 100_000, 1] {
            assert_eq!(port.pass(numbers(0..rows)).expect("passes"), numbers(0..rows));
        }
    }
}
