//! The sending end of a port: permits, parking, spooling. A batch that finds no room is given back.

use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::task::Waker;
use std::time::Duration;

use arrow::record_batch::RecordBatch;

use super::{MAX_QUEUED, Message, Origin, Port, copy_permit_bytes, permit_bytes};
use crate::batch::copied;
use crate::error::{OperatorError, Result};
use crate::failpoint;
use crate::io::Ticket;
use crate::metrics::add_time;
use crate::planted::{Bug, is_planted};

impl Port {
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
}

/// What became of a batch that was to be sent.
#[derive(Debug)]
pub(crate) enum Sent {
    /// It is in the lane.
    Yes,
    /// There is no room: the batch is given back, and the waker will be woken.
    NoRoom(RecordBatch),
    /// The batch is larger than the port, and the receiver's worker has not so many bytes to spare: the batch
    /// is given back, and the waker will be woken.
    NoMemory(RecordBatch, usize),
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
    pub(super) rows: u64,
    ended: bool,
}

impl PortSender {
    /// Takes a permit and sends, or gives the batch back: the sender will be woken when there is room.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn try_send(&mut self, batch: RecordBatch, origin: Origin) -> Result<Sent> {
        self.try_send_copy(batch, origin, false)
    }

    /// Takes a permit and sends, or gives the batch back: the sender will be woken when there is room. What is queued
    /// in memory is a copy if it `copies`, for a batch whose buffers go elsewhere as well.
    pub(crate) fn try_send_copy(&mut self, batch: RecordBatch, origin: Origin, copies: bool) -> Result<Sent> {
        let own = |batch: RecordBatch| if copies { copied(&batch) } else { batch };
        let waker = self.waker.clone();
        let waker = &waker;
        let port = &*self.port;
        let lane = &port.lanes[self.lane];
        if port.is_stopped() {
            return Ok(Sent::Stopped);
        }
        if failpoint::trips(failpoint::Point::Send) {
            return Err(OperatorError::new("failpoint Send"));
        }
        let permit = if copies { copy_permit_bytes(&batch) } else { permit_bytes(&batch) };
        // One row larger than the port was planned for: it goes alone, and is paid for by what floats, twice for the
        // moment in which the receiver takes it over.
        let extra = permit.saturating_sub(port.capacity);
        let mut paid = lane.account.reservation();
        if extra > 0 && 2 * permit > lane.account.most() {
            return Err(lane.account.row_too_large(2 * permit));
        }
        if extra > 0 && !paid.try_grow(2 * permit) && !self.may_spool() {
            let floating = permit + extra;
            lane.account.pool().wait(floating, waker);
            return Ok(Sent::NoMemory(batch, floating));
        }
        let granted = (extra == 0 || paid.bytes() > 0) && {
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
            let batch = own(batch);
            lane.account.claim_from(&batch, &mut paid);
            let spare = (paid.bytes() > 0).then_some(paid);
            self.put(Message::Batch { batch, origin, permit, spare });
        } else if self.may_spool() {
            drop(paid);
            // It waits for no permit any more.
            lane.ledger.lock().waiters.retain(|(index, _)| *index != self.index);
            // Grow for as long as the worker has memory to spare, then go on to disk. Nobody could ask the
            // caller to give memory back, so results leave half of it alone.
            let pool = lane.account.pool();
            let free = port.hands.is_some() || pool.available() > pool.limit() / 2 + permit;
            let needed = if extra > 0 { 2 * permit } else { permit };
            let estimate = if free { lane.account.try_reserve(needed) } else { None };
            if let Some(mut estimate) = estimate {
                {
                    let mut ledger = lane.ledger.lock();
                    ledger.bytes += permit;
                    ledger.batches += 1;
                }
                let batch = own(batch);
                lane.account.claim_from(&batch, &mut estimate);
                let spare = (extra > 0).then_some(estimate);
                self.put(Message::Batch { batch, origin, permit, spare });
            } else if let Some(ticket) = port.spill.backlog() {
                return Ok(Sent::Blocked(batch, ticket));
            } else {
                let place = port.spool_batch(&batch)?;
                self.put(Message::Spooled { place, origin });
            }
        } else {
            drop(paid);
            let mut ledger = lane.ledger.lock();
            match ledger.waiters.iter_mut().find(|(index, _)| *index == self.index) {
                Some((_, kept)) => kept.clone_from(waker),
                None => ledger.waiters.push_back((self.index, waker.clone())),
            }
            // The receiver may have emptied the lane, stopped, or stopped reading it, between the look above
            // and now: then nobody would wake us.
            let front = ledger.waiters.front().is_some_and(|(index, _)| *index == self.index);
            let missed = port.is_stopped()
                || (front
                    && (ledger.batches == 0
                        || (ledger.batches < MAX_QUEUED && ledger.bytes + permit <= port.capacity)))
                || self.may_spool();
            drop(ledger);
            if missed && !is_planted(Bug::NoSecondLook) {
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
        // The receiver may have stopped since the look above, and emptied the lane before this batch was in it.
        if port.is_stopped() && !is_planted(Bug::NoSecondLook) {
            port.drain(self.lane);
            return Ok(Sent::Stopped);
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
        self.port.lanes[self.lane].account.pool().stop_waiting(&self.waker);
        if !self.ended {
            self.forget_wait();
            let lane = &self.port.lanes[self.lane];
            lane.lost.store(true, SeqCst);
            self.port.receiver.wake_by_ref();
        }
    }
}
