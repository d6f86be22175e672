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

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed, Ordering::SeqCst};
use std::task::Waker;
use std::time::Duration;

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use crossbeam_channel::{Receiver, Sender, unbounded};
use parking_lot::Mutex;

use crate::error::{OperatorError, Result};
use crate::io::Ticket;
use crate::memory::Account;
use crate::metrics::{EdgeCounters, add_time};
use crate::spill::{Fetch, Fetched, SpillFile, SpillSpace, SpilledBatch};

/// Batches that may wait in a lane, whatever their size.
const MAX_QUEUED: usize = 1024;
/// What a batch costs beside its buffers: arrays, schema, queue slot.
const BATCH_OVERHEAD_BYTES: usize = 512;

/// Position of a batch in its source: a split, or the partition that made it.
pub(crate) type Origin = u64;

/// Bytes of permit that `batch` needs: all that its buffers pin.
pub(crate) fn permit_bytes(batch: &RecordBatch) -> usize {
    batch.get_array_memory_size() + BATCH_OVERHEAD_BYTES
}

enum Message {
    Batch { batch: RecordBatch, origin: Origin, permit: usize },
    Spooled { place: SpilledBatch, origin: Origin },
    SplitDone(Origin),
    End { batches: u64, rows: u64 },
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

    /// The handle of sender number `index`. To be made once each.
    pub(crate) fn sender(self: &Arc<Self>, index: usize, waker: Waker) -> PortSender {
        self.senders.lock().push(waker.clone());
        PortSender {
            waker,
            port: Arc::clone(self),
            lane: if self.ordered { index } else { 0 },
            index,
            batches: 0,
            rows: 0,
            ended: false,
        }
    }

    /// The receiving end. To be made once.
    pub(crate) fn receiver(self: &Arc<Self>) -> PortReceiver {
        PortReceiver {
            lanes: self.lanes.iter().map(|_| LaneReader::default()).collect(),
            port: Arc::clone(self),
            expected: 0,
            ended: false,
        }
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

    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped.load(SeqCst)
    }

    pub(crate) fn queued_bytes(&self) -> usize {
        self.lanes.iter().map(|lane| lane.ledger.lock().bytes).sum()
    }

    pub(crate) fn capacity(&self) -> usize {
        self.capacity * self.lanes.len()
    }

    fn release(&self, lane: usize, permit: usize) {
        let next = {
            let mut ledger = self.lanes[lane].ledger.lock();
            ledger.bytes -= permit;
            ledger.batches -= 1;
            ledger.waiters.front().map(|(_, waker)| waker.clone())
        };
        if let Some(waker) = next {
            waker.wake();
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

/// What became of a batch that was to be sent.
#[derive(Debug)]
pub(crate) enum Sent {
    /// It is in the lane.
    Yes,
    /// There is no room: the batch is given back, and the waker will be woken.
    NoRoom(RecordBatch),
    /// The disk is behind: the batch is given back.
    Blocked(RecordBatch, Ticket),
    /// The receiver wants no more; the batch was dropped.
    Stopped,
}

/// The sending end of one task at one port. Dropping it before [`PortSender::end`] is a failure that the
/// receiver sees.
pub(crate) struct PortSender {
    port: Arc<Port>,
    waker: Waker,
    lane: usize,
    index: usize,
    batches: u64,
    rows: u64,
    ended: bool,
}

impl PortSender {
    /// Takes a permit and sends, or gives the batch back: the sender will be woken when there is room.
    pub(crate) fn try_send(&mut self, batch: RecordBatch, origin: Origin) -> Result<Sent> {
        let waker = self.waker.clone();
        let waker = &waker;
        let port = &*self.port;
        let lane = &port.lanes[self.lane];
        if port.is_stopped() {
            return Ok(Sent::Stopped);
        }
        let permit = permit_bytes(&batch);
        // One row larger than the port was planned for: it goes alone, and is paid for by what floats.
        let extra = permit.saturating_sub(port.capacity);
        if extra > 0 && lane.account.room() < permit {
            if permit > lane.account.most() {
                return Err(OperatorError::RowTooLarge {
                    needed_bytes: permit,
                    available_bytes: lane.account.most(),
                    sufficient_limit_bytes: lane.account.pool().limit() + (permit - lane.account.most()),
                });
            }
            lane.account.pool().wait(extra, waker);
            return Ok(Sent::NoRoom(batch));
        }
        let granted = {
            let mut ledger = lane.ledger.lock();
            let first = ledger.waiters.front().is_none_or(|(index, _)| *index == self.index);
            let room = ledger.batches < MAX_QUEUED && ledger.bytes + permit <= port.capacity;
            if first && (room || ledger.batches == 0) {
                ledger.waiters.pop_front();
                ledger.bytes += permit;
                ledger.batches += 1;
                true
            } else {
                false
            }
        };
        let rows = batch.num_rows() as u64;
        if granted {
            lane.account.claim(&batch);
            self.put(Message::Batch { batch, origin, permit });
        } else if self.may_spool() {
            // Grow for as long as the worker has memory to spare, then go on to disk.
            if let Some(mut estimate) = lane.account.try_reserve(permit) {
                {
                    let mut ledger = lane.ledger.lock();
                    ledger.bytes += permit;
                    ledger.batches += 1;
                }
                lane.account.claim_from(&batch, &mut estimate);
                drop(estimate);
                self.put(Message::Batch { batch, origin, permit });
            } else if let Some(ticket) = port.spill.backlog() {
                return Ok(Sent::Blocked(batch, ticket));
            } else {
                let place = port.spool_batch(&batch)?;
                self.put(Message::Spooled { place, origin });
            }
        } else {
            let mut ledger = lane.ledger.lock();
            match ledger.waiters.iter_mut().find(|(index, _)| *index == self.index) {
                Some((_, kept)) => kept.clone_from(waker),
                None => ledger.waiters.push_back((self.index, waker.clone())),
            }
            // The receiver may have emptied the lane, stopped, or stopped reading it, between the look above
            // and now: then nobody would wake us.
            let front = ledger.waiters.front().is_some_and(|(index, _)| *index == self.index);
            let missed = port.is_stopped()
                || (front && (ledger.batches == 0 || ledger.bytes + permit <= port.capacity))
                || self.may_spool();
            drop(ledger);
            if missed {
                waker.wake_by_ref();
            }
            return Ok(Sent::NoRoom(batch));
        }
        self.batches += 1;
        self.rows += rows;
        port.counters.batches.fetch_add(1, Relaxed);
        port.counters.rows.fetch_add(rows, Relaxed);
        port.counters.bytes.fetch_add(permit as u64, Relaxed);
        // Whoever is next in line may fit as well.
        let next = lane.ledger.lock().waiters.front().map(|(_, waker)| waker.clone());
        if let Some(next) = next.filter(|next| !next.will_wake(waker)) {
            next.wake();
        }
        Ok(Sent::Yes)
    }

    /// Says that no more batches of split `origin` follow.
    pub(crate) fn split_done(&mut self, origin: Origin) {
        if self.port.ordered && !self.port.is_stopped() {
            self.put(Message::SplitDone(origin));
        }
    }

    /// Ends the input of this sender: the receiver checks that it got every row.
    pub(crate) fn end(&mut self) {
        if !self.ended {
            self.ended = true;
            self.forget_wait();
            self.put(Message::End { batches: self.batches, rows: self.rows });
        }
    }

    /// Whether the receiver wants no more.
    pub(crate) fn is_stopped(&self) -> bool {
        self.port.is_stopped()
    }

    /// Books time that the sender was parked here.
    pub(crate) fn add_parked(&self, time: Duration) {
        add_time(&self.port.counters.parked_ns, time);
    }

    fn may_spool(&self) -> bool {
        let port = &*self.port;
        port.hazardous.load(SeqCst) && (port.spool_always.load(SeqCst) || !port.lanes[self.lane].read.load(SeqCst))
    }

    fn put(&self, message: Message) {
        let lane = &self.port.lanes[self.lane];
        // Both ends of the channel live in the port, so it is never disconnected.
        let _ = lane.sender.send(message);
        self.port.receiver.wake_by_ref();
    }

    fn forget_wait(&self) {
        let lane = &self.port.lanes[self.lane];
        let next = {
            let mut ledger = lane.ledger.lock();
            ledger.waiters.retain(|(index, _)| *index != self.index);
            ledger.waiters.front().map(|(_, waker)| waker.clone())
        };
        if let Some(waker) = next {
            waker.wake();
        }
    }
}

impl Drop for PortSender {
    fn drop(&mut self) {
        if !self.ended {
            self.forget_wait();
            let lane = &self.port.lanes[self.lane];
            lane.lost.store(true, SeqCst);
            self.port.receiver.wake_by_ref();
        }
    }
}

/// What a port has for its receiver.
#[derive(Debug)]
pub(crate) enum Received {
    /// The next batch; its permit has been given back.
    Batch(RecordBatch, Origin),
    /// No more batches of this split follow. Only from ordered ports.
    SplitDone(Origin),
    /// Nothing yet: the receiver will be woken.
    Empty,
    /// The next batch is on its way back from disk.
    Blocked(Ticket),
    /// All senders have ended, and every row has arrived.
    Ended,
}

/// The receiving end of a port.
pub(crate) struct PortReceiver {
    port: Arc<Port>,
    lanes: Vec<LaneReader>,
    /// The split to read next, on an ordered port.
    expected: Origin,
    ended: bool,
}

/// What a look at a lane found.
enum Lately {
    Nothing,
    Head(Origin),
    Ended,
}

#[derive(Default)]
struct LaneReader {
    /// Taken out of the channel, oldest first.
    taken: VecDeque<Message>,
    fetch: Option<Fetch>,
    batches: u64,
    rows: u64,
    ends: usize,
    sent_batches: u64,
    sent_rows: u64,
}

impl PortReceiver {
    /// The next thing in the port, in order if it is an ordered one.
    ///
    /// # Errors
    ///
    /// A sender vanished, rows are missing, or the spool cannot be read.
    pub(crate) fn receive(&mut self) -> Result<Received> {
        if self.ended {
            return Ok(Received::Ended);
        }
        if !self.port.ordered {
            self.set_read(0, true);
            return match self.settle(0)? {
                Lately::Nothing => Ok(Received::Empty),
                Lately::Head(_) => self.pop(0),
                Lately::Ended => {
                    self.ended = true;
                    Ok(Received::Ended)
                }
            };
        }
        let mut open = false;
        for lane in 0..self.lanes.len() {
            match self.settle(lane)? {
                Lately::Head(origin) if origin == self.expected || self.lanes.len() == 1 => {
                    self.set_read(lane, true);
                    let received = self.pop(lane)?;
                    if let Received::SplitDone(origin) = received {
                        self.expected = origin + 1;
                    }
                    return Ok(received);
                }
                // Its turn will come: until then nobody reads this lane.
                Lately::Head(_) => {
                    open = true;
                    self.set_read(lane, false);
                }
                Lately::Nothing => {
                    open = true;
                    self.set_read(lane, true);
                }
                Lately::Ended => {}
            }
        }
        self.ended = !open;
        Ok(if open { Received::Empty } else { Received::Ended })
    }

    /// Says that this port is not read at present, so that a hazardous edge spools rather than parks.
    pub(crate) fn leave_unread(&mut self) {
        for lane in 0..self.lanes.len() {
            self.set_read(lane, false);
        }
    }

    /// Tells the senders to stop and drops what is queued.
    pub(crate) fn stop(&mut self) {
        self.ended = true;
        self.port.stopped.store(true, SeqCst);
        for lane in 0..self.lanes.len() {
            self.fill(lane);
            self.lanes[lane].fetch = None;
            for message in std::mem::take(&mut self.lanes[lane].taken) {
                if let Message::Batch { permit, .. } = message {
                    self.port.release(lane, permit);
                }
            }
            self.port.lanes[lane].wake_all();
        }
        let senders = std::mem::take(&mut *self.port.senders.lock());
        senders.into_iter().for_each(Waker::wake);
    }

    /// Takes more batches of an unordered port, while they are in memory and fit in `rows` and `bytes`.
    pub(crate) fn receive_more(&mut self, mut rows: usize, mut bytes: usize, into: &mut Vec<RecordBatch>) {
        if self.port.ordered || self.ended {
            return;
        }
        while let Some(Message::Batch { batch, permit, .. }) = self.lanes[0].taken.front() {
            if batch.num_rows() > rows || *permit > bytes {
                return;
            }
            rows -= batch.num_rows();
            bytes -= *permit;
            if let Ok(Received::Batch(batch, _)) = self.pop(0) {
                into.push(batch);
            }
        }
    }

    /// Writes queued batches of a hazardous edge to disk, the last to be read first, until about `bytes`
    /// are free. Returns what it freed.
    pub(crate) fn spool(&mut self, bytes: usize) -> Result<usize> {
        if !self.port.hazardous.load(SeqCst) || self.ended {
            return Ok(0);
        }
        let mut freed = 0;
        for lane in (0..self.lanes.len()).rev() {
            self.fill(lane);
            for message in self.lanes[lane].taken.iter_mut().skip(1).rev() {
                if freed >= bytes {
                    return Ok(freed);
                }
                if let Message::Batch { batch, origin, permit } = message {
                    let place = self.port.spool_batch(batch)?;
                    let (origin, permit) = (*origin, *permit);
                    *message = Message::Spooled { place, origin };
                    self.port.release(lane, permit);
                    freed += permit;
                }
            }
        }
        Ok(freed)
    }

    /// Whether it is read to its end or stopped.
    pub(crate) fn is_ended(&self) -> bool {
        self.ended
    }

    /// Moves what is in the channel to the reader's side.
    fn fill(&mut self, lane: usize) {
        let taken = &mut self.lanes[lane].taken;
        taken.extend(self.port.lanes[lane].receiver.try_iter());
    }

    /// Looks at the next batch of a lane, and counts the ends before it.
    fn settle(&mut self, index: usize) -> Result<Lately> {
        let lane = &self.port.lanes[index];
        // Read before the channel: what was sent before the sender vanished is in the channel by then.
        let lost = lane.lost.load(SeqCst);
        let reader = &mut self.lanes[index];
        reader.taken.extend(lane.receiver.try_iter());
        loop {
            match reader.taken.front() {
                Some(Message::End { batches, rows }) => {
                    reader.ends += 1;
                    reader.sent_batches += batches;
                    reader.sent_rows += rows;
                    reader.taken.pop_front();
                }
                Some(Message::Batch { origin, .. } | Message::Spooled { origin, .. } | Message::SplitDone(origin)) => {
                    return Ok(Lately::Head(*origin));
                }
                None if lost => return Err(OperatorError::new("a producer vanished before the end of its input")),
                None if reader.ends < lane.senders => return Ok(Lately::Nothing),
                None if (reader.batches, reader.rows) == (reader.sent_batches, reader.sent_rows) => {
                    return Ok(Lately::Ended);
                }
                None => {
                    return Err(OperatorError::new(format!(
                        "{} rows in {} batches were sent and {} rows in {} batches have arrived",
                        reader.sent_rows, reader.sent_batches, reader.rows, reader.batches
                    )));
                }
            }
        }
    }

    /// Takes the batch that [`PortReceiver::settle`] saw.
    fn pop(&mut self, index: usize) -> Result<Received> {
        let reader = &mut self.lanes[index];
        if let Some(Message::Spooled { place, .. }) = reader.taken.front() {
            if reader.fetch.is_none() {
                let spool = self.port.spool.lock();
                let file = spool.as_ref().ok_or_else(|| OperatorError::new("the spool is gone"))?;
                reader.fetch = Some(file.fetch(*place));
            }
            let Some(fetch) = &mut reader.fetch else { return Ok(Received::Empty) };
            let batch = match fetch.poll()? {
                Fetched::Blocked(ticket) => return Ok(Received::Blocked(ticket)),
                Fetched::Ready(batch) => batch,
            };
            reader.fetch = None;
            if let Some(hands) = &self.port.hands {
                hands.claim(&batch);
            }
            let origin = reader.taken.pop_front().and_then(|message| message.origin()).unwrap_or_default();
            reader.count(&batch);
            return Ok(Received::Batch(batch, origin));
        }
        match reader.taken.pop_front() {
            Some(Message::Batch { batch, origin, permit }) => {
                reader.count(&batch);
                // Before the permit is given back: a sender must not pay with bytes that are still held.
                if let Some(hands) = &self.port.hands {
                    hands.claim(&batch);
                }
                self.port.release(index, permit);
                Ok(Received::Batch(batch, origin))
            }
            Some(Message::SplitDone(origin)) => Ok(Received::SplitDone(origin)),
            Some(Message::Spooled { .. } | Message::End { .. }) | None => Ok(Received::Empty),
        }
    }

    fn set_read(&self, lane: usize, read: bool) {
        let lane = &self.port.lanes[lane];
        if lane.read.load(Relaxed) != read {
            lane.read.store(read, SeqCst);
            if !read && self.port.hazardous.load(SeqCst) {
                lane.wake_all();
            }
        }
    }
}

impl LaneReader {
    fn count(&mut self, batch: &RecordBatch) {
        self.batches += 1;
        self.rows += batch.num_rows() as u64;
    }
}

impl Drop for PortReceiver {
    fn drop(&mut self) {
        self.stop();
    }
}

#[cfg(test)]
mod tests;
