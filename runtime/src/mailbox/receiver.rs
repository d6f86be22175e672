//! The receiving end of a port: in order where order matters, from memory and from disk. Every row that was
//! sent arrives, or the job hears of it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::task::Waker;

use arrow::record_batch::RecordBatch;

use super::{Message, Origin, Port};
use crate::error::{OperatorError, Result};
use crate::io::Ticket;
use crate::memory::Reservation;
use crate::planted::{Bug, is_planted};
use crate::spill::{Fetch, Fetched};

impl Port {
    /// The receiving end. To be made once.
    pub(crate) fn receiver(self: &Arc<Self>) -> PortReceiver {
        PortReceiver {
            lanes: self.lanes.iter().map(|_| LaneReader::default()).collect(),
            port: Arc::clone(self),
            expected: 0,
            ended: false,
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
    fetch: Option<(Fetch, Option<Reservation>)>,
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
        let mut least = None;
        let mut quiet = false;
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
                Lately::Head(origin) => {
                    least = Some(least.map_or(origin, |least: Origin| least.min(origin)));
                    self.set_read(lane, false);
                }
                Lately::Nothing => {
                    quiet = true;
                    self.set_read(lane, true);
                }
                Lately::Ended => {}
            }
        }
        match least {
            _ if quiet => Ok(Received::Empty),
            // A sender that stopped early has left its split without an end: nothing smaller can come.
            Some(origin) => {
                self.expected = origin;
                self.receive()
            }
            None => {
                self.ended = true;
                Ok(Received::Ended)
            }
        }
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
                if let Message::Batch { batch, origin, permit, .. } = message {
                    let place = self.port.spool_batch(batch)?;
                    let (origin, permit) = (*origin, *permit);
                    *message = Message::Spooled { place, origin };
                    self.port.release(lane, permit);
                    if is_planted(Bug::PermitTwice) {
                        self.port.release(lane, permit);
                    }
                    freed += permit;
                }
            }
        }
        Ok(freed)
    }

    /// Whether all that was sent has been received and nothing more will come. Takes no batch.
    pub(crate) fn is_drained(&mut self) -> bool {
        (0..self.lanes.len()).all(|lane| {
            loop {
                match self.settle(lane) {
                    Ok(Lately::Ended) => return true,
                    Ok(Lately::Head(_)) if matches!(self.lanes[lane].taken.front(), Some(Message::SplitDone(_))) => {
                        self.lanes[lane].taken.pop_front();
                    }
                    Ok(Lately::Head(_) | Lately::Nothing) | Err(_) => return false,
                }
            }
        })
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
                None if reader.ends < lane.senders && !(reader.ends > 0 && is_planted(Bug::EndTooEarly)) => {
                    return Ok(Lately::Nothing);
                }
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
                // Frame and batch are there at once. A task's hands have room for both, unless one row is larger than a port.
                let bytes = file.fetch_bytes(*place);
                let estimate = match &self.port.hands {
                    Some(hands) => match hands.try_reserve(bytes) {
                        None => return Ok(Received::Blocked(hands.wait_for(bytes)?)),
                        estimate => estimate,
                    },
                    None => None,
                };
                reader.fetch = Some((file.fetch(*place), estimate));
            }
            let Some((fetch, _)) = &mut reader.fetch else { return Ok(Received::Empty) };
            let batch = match fetch.poll()? {
                Fetched::Blocked(ticket) => return Ok(Received::Blocked(ticket)),
                Fetched::Ready(batch) => batch,
            };
            let estimate = reader.fetch.take().and_then(|(_, estimate)| estimate);
            self.port.take_over(&batch, estimate);
            let origin = reader.taken.pop_front().and_then(|message| message.origin()).unwrap_or_default();
            reader.count(&batch);
            return Ok(Received::Batch(batch, origin));
        }
        match reader.taken.pop_front() {
            Some(Message::Batch { batch, origin, permit, spare }) => {
                reader.count(&batch);
                // Before the permit is given back: a sender must not pay with bytes that are still held.
                self.port.take_over(&batch, spare);
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
