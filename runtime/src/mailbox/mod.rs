//! The input ports of one actor: bounded queues of batches, counted in bytes.
//!
//! ```text
//! sender 0 ─┐ permit?            ┌─ lane ─┐
//! sender 1 ─┼───────────────────▶│ batches│──▶ receiver
//! sender 2 ─┘   no: park         └────────┘
//! ```
//!
//! A port has one lane that all its senders share, or, where order matters, one lane per sender. A sender
//! takes a permit for a batch's bytes before the batch enters a lane; the permit is given back when the
//! receiver takes the batch out. An empty lane grants any one batch. Permits are granted in order.
//!
//! A lane of a hazardous edge (C4) that its receiver does not read at present grows from the worker's
//! floating memory instead of parking its senders, and goes on to disk when that is short: it spools.
//! Spooled batches keep their place in the queue.

mod receiver;
mod sender;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{Ordering::Relaxed, Ordering::SeqCst};
use std::task::Waker;

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;

pub(crate) use receiver::{PortReceiver, Received};
pub(crate) use sender::{PortSender, Sent};

use crate::batch::batch_bytes;
use crate::error::Result;
use crate::memory::{Account, Reservation, hand_out};
use crate::metrics::EdgeCounters;
use crate::planted::{Bug, is_planted};
use crate::spill::{SpillFile, SpillSpace, SpilledBatch};
use crate::sync::{AtomicBool, Mutex, Receiver, Sender, unbounded};

/// Batches that may wait in a lane, whatever their size.
const MAX_QUEUED: usize = 1024;
/// What a batch costs beside its buffers: arrays, schema, queue slot.
const BATCH_OVERHEAD_BYTES: usize = 512;

/// By how much a copied column may be larger than its values: the array, and buffers that are rounded up.
const COPY_SLACK_BYTES: usize = 384;

/// Position of a batch in its source: a split, or the partition that made it.
pub(crate) type Origin = u64;

/// Bytes of permit that `batch` needs: all that its buffers pin.
pub(crate) fn permit_bytes(batch: &RecordBatch) -> usize {
    batch.get_array_memory_size() + BATCH_OVERHEAD_BYTES
}

/// Bytes of permit that a copy of `batch` needs. It may be the larger of the two: views that share one text have a text
/// each in a copy.
pub(crate) fn copy_permit_bytes(batch: &RecordBatch) -> usize {
    let columns = batch.schema_ref().flattened_fields().len();
    permit_bytes(batch).max(batch_bytes(batch) + columns * COPY_SLACK_BYTES + BATCH_OVERHEAD_BYTES)
}

enum Message {
    /// `spare` is for the moment in which a batch larger than the port counts with both ends.
    Batch {
        batch: RecordBatch,
        origin: Origin,
        permit: usize,
        spare: Option<Reservation>,
    },
    Spooled {
        place: SpilledBatch,
        origin: Origin,
    },
    SplitDone(Origin),
    End {
        batches: u64,
        rows: u64,
    },
}

impl Message {
    fn origin(&self) -> Option<Origin> {
        match self {
            Message::Batch { origin, .. } | Message::Spooled { origin, .. } | Message::SplitDone(origin) => {
                Some(*origin)
            }
            Message::End { .. } => None,
        }
    }
}

/// What a port is made with.
pub(crate) struct PortConfig {
    /// Senders, one lane each if `ordered`.
    pub(crate) senders: usize,
    pub(crate) ordered: bool,
    pub(crate) hazardous: bool,
    /// Bytes per lane.
    pub(crate) capacity: usize,
    pub(crate) schema: SchemaRef,
    /// What is queued in a lane is charged to its account, of the receiver's worker. Its floor is `capacity`.
    pub(crate) accounts: Vec<Account>,
    /// What was received is charged to this account; the caller's results are charged to none.
    pub(crate) hands: Option<Account>,
    pub(crate) spill: SpillSpace,
    pub(crate) receiver: Waker,
    pub(crate) counters: Arc<EdgeCounters>,
}

/// One input port: what its senders and its receiver share.
pub(crate) struct Port {
    lanes: Vec<Lane>,
    ordered: bool,
    hazardous: AtomicBool,
    /// Set by the watchdog: spool whether the receiver reads the lane or not.
    spool_always: AtomicBool,
    /// The receiver wants no more.
    stopped: AtomicBool,
    capacity: usize,
    schema: SchemaRef,
    hands: Option<Account>,
    spill: SpillSpace,
    spool: Mutex<Option<SpillFile>>,
    receiver: Waker,
    /// Every sender, parked or not: woken when the receiver stops.
    senders: Mutex<Vec<Waker>>,
    counters: Arc<EdgeCounters>,
}

struct Lane {
    sender: Sender<Message>,
    receiver: Receiver<Message>,
    ledger: Mutex<Ledger>,
    /// Each lane has its own, so that one that grows does not live on another's floor.
    account: Account,
    /// Whether the receiver reads this lane at present.
    read: AtomicBool,
    senders: usize,
    /// A sender vanished without saying that its input had ended.
    lost: AtomicBool,
}

#[derive(Default)]
struct Ledger {
    bytes: usize,
    batches: usize,
    waiters: VecDeque<(usize, Waker)>,
}

impl Port {
    pub(crate) fn new(config: PortConfig) -> Arc<Port> {
        let lane_senders = if config.ordered { 1 } else { config.senders };
        let lanes = config.accounts.into_iter();
        let lanes = lanes
            .map(|account| {
                // The ledger is the bound, of bytes and of batches; ends and places on disk go beside it.
                let (sender, receiver) = unbounded();
                Lane {
                    sender,
                    receiver,
                    ledger: Mutex::default(),
                    account,
                    read: AtomicBool::new(true),
                    senders: lane_senders,
                    lost: AtomicBool::new(false),
                }
            })
            .collect();
        Arc::new(Port {
            lanes,
            ordered: config.ordered,
            hazardous: AtomicBool::new(config.hazardous),
            spool_always: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            capacity: config.capacity,
            schema: config.schema,
            hands: config.hands,
            spill: config.spill,
            spool: Mutex::new(None),
            receiver: config.receiver,
            senders: Mutex::default(),
            counters: config.counters,
        })
    }

    /// From now on senders spool rather than park. For the watchdog; `false` if they do already.
    pub(crate) fn spool_always(&self) -> bool {
        let changed = !self.spool_always.swap(true, SeqCst);
        if changed {
            self.hazardous.store(true, SeqCst);
            self.lanes.iter().for_each(Lane::wake_all);
        }
        changed
    }

    /// Makes `batch` count with whoever reads it, paid for by `spare` first: the receiver's task, or nobody where that is
    /// the caller.
    fn take_over(&self, batch: &RecordBatch, spare: Option<Reservation>) {
        match (&self.hands, spare) {
            (Some(hands), Some(mut spare)) => hands.claim_from(batch, &mut spare),
            (Some(hands), None) => hands.claim(batch),
            (None, _) => hand_out(batch),
        }
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped.load(SeqCst)
    }

    pub(crate) fn queued_bytes(&self) -> usize {
        self.lanes.iter().map(|lane| lane.ledger.lock().bytes).sum()
    }

    pub(crate) fn capacity(&self) -> usize {
        self.capacity * self.lanes.len()
    }

    /// What is wrong with a port that nobody sends to or receives from any more: permits that were not given back.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn left_over(&self) -> Option<String> {
        self.lanes.iter().enumerate().find_map(|(index, lane)| {
            let ledger = lane.ledger.lock();
            let left = ledger.bytes > 0 || ledger.batches > 0 || !ledger.waiters.is_empty();
            left.then(|| {
                let (bytes, batches, waiters) = (ledger.bytes, ledger.batches, ledger.waiters.len());
                format!("lane {index} has permits of {bytes} bytes in {batches} batches out and {waiters} waiters")
            })
        })
    }

    /// What its lanes are charged to.
    pub(crate) fn accounts(&self) -> impl Iterator<Item = &Account> {
        self.lanes.iter().map(|lane| &lane.account)
    }

    fn release(&self, lane: usize, permit: usize) {
        let next = {
            let mut ledger = self.lanes[lane].ledger.lock();
            ledger.bytes -= permit;
            ledger.batches -= 1;
            let forgets = is_planted(Bug::LostWakeUp) && ledger.waiters.len() > 1;
            ledger.waiters.front().filter(|_| !forgets).map(|(_, waker)| waker.clone())
        };
        if let Some(waker) = next {
            waker.wake();
        }
    }

    /// Drops what is queued in a lane that nobody reads any more.
    fn drain(&self, lane: usize) {
        for message in self.lanes[lane].receiver.try_iter() {
            if let Message::Batch { permit, .. } = message {
                self.release(lane, permit);
            }
        }
    }

    /// Writes `batch` to the spool of this port.
    fn spool_batch(&self, batch: &RecordBatch) -> Result<SpilledBatch> {
        let mut spool = self.spool.lock();
        let file = spool.get_or_insert_with(|| self.spill.create("spool", Arc::clone(&self.schema)));
        let place = file.append(batch)?;
        self.counters.spooled_bytes.fetch_add(place.length, Relaxed);
        Ok(place)
    }
}

impl Lane {
    fn wake_all(&self) {
        let waiters = std::mem::take(&mut self.ledger.lock().waiters);
        waiters.into_iter().for_each(|(_, waker)| waker.wake());
    }
}

#[cfg(test)]
mod tests;
