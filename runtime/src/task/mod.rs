//! One task: a stage's fused nodes at one partition, as a state machine that is stepped from outside.
//!
//! ```text
//! head                links                        tail
//! source, or ports ─▶ operator ─▶ operator ─▶ … ─▶ exchanges, or a sink
//! ```
//!
//! A step works from the tail to the head: what is furthest along goes first, and the head is read only
//! when nothing is left in between. So a task holds a few batches at most, and a task whose output finds
//! no room takes no further input. The task knows no actor, no thread and no clock of its own.

mod coalescer;
mod head;
mod link;
mod shared;
mod tail;

use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use arrow::record_batch::RecordBatch;

pub(crate) use head::{Head, Ports, SourceHead};
pub(crate) use link::Link;
pub(crate) use shared::{TaskShared, Waiting, is_spilling};
pub(crate) use tail::{OutputEdge, Outputs, SinkTail, Tail};

use crate::batch::batch_bytes;
use crate::error::{OperatorError, Result};
use crate::io::Ticket;
use crate::mailbox::{Origin, Received};
use crate::memory::{Account, Holder, Reservation};
use crate::metrics::{add, add_time};
use crate::operator::{Outbox, Step};
use crate::plan::Order;
use crate::planted::{Bug, is_planted};
use crate::sink::Receipt;
use crate::source::SourceStep;
use crate::spill::SpillSpace;

/// A step ends after this time, once the operator that runs has returned.
const STEP_TIME: Duration = Duration::from_millis(2);
/// Turns that small batches wait for more of them, once there is nothing else to do: where neighbours work, as long as
/// they take, and where none does, next to nothing.
const LINGERING_TURNS: usize = 8;
/// Largest piece that is spilled in one go.
const SPILL_PIECE_BYTES: usize = 4 << 20;

/// Where a task gets the time from. The simulator has its own.
pub(crate) trait Clock: Send + Sync {
    /// Time since some fixed point.
    fn now(&self) -> Duration;
}

/// How a step ended.
#[derive(Debug)]
pub(crate) enum Progress {
    /// There is more to do at once.
    Again,
    /// There is nothing to do until the task is woken.
    Wait(Wait),
    /// The task has ended well. Never to be stepped again.
    Finished,
}

/// What a task waits for.
#[derive(Debug)]
pub(crate) enum Wait {
    /// Input at one of these edges.
    Input(Vec<usize>),
    /// Room at these ports: edge and number of the port.
    Room(Vec<(usize, usize)>),
    /// Memory of the worker.
    Memory(usize),
    /// Something outside the dataflow.
    Outside(Ticket),
}

/// What a task is made of.
pub(crate) struct TaskParts {
    pub(crate) shared: Arc<TaskShared>,
    pub(crate) head: Head,
    pub(crate) links: Vec<Link>,
    pub(crate) tail: Tail,
    pub(crate) order: Order,
    /// Batches in the task's hands.
    pub(crate) account: Account,
    pub(crate) holder: Arc<Holder>,
    pub(crate) spill: SpillSpace,
    pub(crate) batch_bytes: usize,
    pub(crate) batch_rows: usize,
    pub(crate) waker: Waker,
    pub(crate) clock: Arc<dyn Clock>,
}

/// A stage's fused nodes at one partition.
pub(crate) struct Task {
    parts: TaskParts,
    /// Origin of what is in the links.
    origin: Origin,
    /// Head and links have ended: only the tail is left.
    ended: bool,
    /// Since when it has been parked.
    parked: Option<Duration>,
    /// Turns in which it found nothing to do, and has let others run before it hands on the small batches that it has.
    lingered: usize,
}

/// What one piece of work came to.
enum Did {
    Work,
    Wait(Wait),
    /// Head and links have ended.
    Ended,
}

enum Action {
    Process(usize, RecordBatch),
    Resume,
    Finish(usize),
}

impl Task {
    pub(crate) fn new(parts: TaskParts) -> Self {
        Self { origin: parts.shared.partition as Origin, parts, ended: false, parked: None, lingered: 0 }
    }

    pub(crate) fn shared(&self) -> &Arc<TaskShared> {
        &self.parts.shared
    }

    /// Runs until there is nothing to do or the time of a step is over.
    ///
    /// # Errors
    ///
    /// What the node that [`TaskShared::place`] names said. The task is not to be stepped again.
    pub(crate) fn step(&mut self) -> Result<Progress> {
        add(&self.parts.shared.counters.steps, 1);
        let start = self.parts.clock.now();
        if let Some(since) = self.parked.take() {
            self.parts.tail.add_parked(start.saturating_sub(since));
        }
        loop {
            if self.parts.holder.requested() > 0 {
                self.answer_reclaim()?;
            }
            self.parts.spill.check()?;
            if let Some(ticket) = self.parts.spill.backlog() {
                return Ok(Progress::Wait(Wait::Outside(ticket)));
            }
            self.parts.shared.enter_tail();
            if let Some(wait) = self.timed_tail(self.parts.tail.is_writing(), Tail::flush)? {
                self.parked = matches!(wait, Wait::Room(_)).then(|| self.parts.clock.now());
                return self.wait(wait);
            }
            if self.parts.tail.is_stopped() {
                self.stop_before(self.parts.links.len());
            }
            match self.advance()? {
                Did::Work => {
                    self.lingered = 0;
                    if self.parts.clock.now() - start >= STEP_TIME {
                        return Ok(Progress::Again);
                    }
                }
                Did::Wait(wait) if self.parts.tail.is_holding_back() => {
                    if self.lingered < LINGERING_TURNS {
                        self.lingered += 1;
                        self.parts.waker.wake_by_ref();
                        return self.wait(wait);
                    }
                    self.parts.tail.let_go(&self.parts.account)?;
                }
                Did::Wait(wait) => return self.wait(wait),
                Did::Ended => {
                    self.parts.shared.enter_tail();
                    self.parts.tail.let_go(&self.parts.account)?;
                    if self.parts.order == Order::Partition && !std::mem::replace(&mut self.ended, true) {
                        self.parts.tail.split_done(self.parts.shared.partition as Origin, &self.parts.account)?;
                    }
                    return match self.timed_tail(self.parts.tail.is_sink(), Tail::finish)? {
                        Some(wait) => self.wait(wait),
                        None => Ok(Progress::Finished),
                    };
                }
            }
        }
    }

    /// Runs a part of the tail; the time that a sink takes for it is the sink's.
    fn timed_tail(
        &mut self,
        is_sinks: bool,
        run: impl FnOnce(&mut Tail) -> Result<Option<Wait>>,
    ) -> Result<Option<Wait>> {
        if !is_sinks {
            return run(&mut self.parts.tail);
        }
        let before = self.parts.clock.now();
        let outcome = run(&mut self.parts.tail);
        let node = self.parts.shared.nodes.len() - 1;
        add_time(&self.parts.shared.node(node).busy_ns, self.parts.clock.now() - before);
        outcome
    }

    /// Where memory is what is waited for outside, others are asked for it once there is nothing of one's own.
    fn wait(&mut self, wait: Wait) -> Result<Progress> {
        let bytes = match &wait {
            Wait::Outside(ticket) => ticket.memory_bytes(),
            _ => None,
        };
        let Some(bytes) = bytes else { return Ok(Progress::Wait(wait)) };
        if self.free(bytes)? > 0 {
            return Ok(Progress::Again);
        }
        self.parts.account.pool().wait(bytes, &self.parts.waker);
        Ok(Progress::Wait(Wait::Memory(bytes)))
    }

    /// What the sink of a finished task wrote.
    pub(crate) fn take_receipt(&mut self) -> Option<Receipt> {
        match &mut self.parts.tail {
            Tail::Sink(sink) => sink.take_receipt(),
            Tail::Outputs(_) => None,
        }
    }

    /// Does one piece of work, as near to the tail as there is one.
    fn advance(&mut self) -> Result<Did> {
        for index in (0..self.parts.links.len()).rev() {
            let upstream_ended = index > 0 && self.parts.links[index - 1].has_ended();
            let link = &mut self.parts.links[index];
            if link.has_ended() {
                // What follows it has ended before: else it would have had something to do.
                return Ok(Did::Ended);
            }
            match &link.state {
                Step::Blocked(ticket) if !ticket.is_done() => return Ok(Did::Wait(Wait::Outside(ticket.clone()))),
                Step::MoreOutput | Step::Blocked(_) => return self.run(index, Action::Resume),
                Step::NeedInput | Step::Done => {}
            }
            if let Some((port, batch)) = link.pending.pop_front() {
                return self.run(index, Action::Process(port, batch));
            }
            if upstream_ended && !link.finished.contains(0) {
                return self.run(index, Action::Finish(0));
            }
        }
        self.read_head()
    }

    fn read_head(&mut self) -> Result<Did> {
        match &mut self.parts.head {
            Head::Source(_) => self.read_source(),
            Head::Ports(_) => self.read_ports(),
        }
    }

    fn read_source(&mut self) -> Result<Did> {
        let Head::Source(head) = &mut self.parts.head else { return Ok(Did::Ended) };
        self.parts.shared.enter(0);
        if head.split_ended {
            // All rows of the split are through the links by now.
            head.split_ended = false;
            if let Some(split) = head.split.take() {
                add(&self.parts.shared.counters.source_bytes, split.bytes);
                if self.parts.order == Order::Source {
                    self.parts.tail.split_done(split.index, &self.parts.account)?;
                }
                self.parts.shared.set_split(None);
                return Ok(Did::Work);
            }
        }
        if head.split.is_none() && !head.ended {
            match head.scan.next_split()? {
                Some(split) => {
                    self.parts.shared.set_split(Some(split.description.clone()));
                    head.source.start(&split)?;
                    if self.parts.order == Order::Source {
                        self.origin = split.index;
                    }
                    head.split = Some(split);
                }
                None => head.ended = true,
            }
        }
        if head.ended {
            return match self.parts.links.first() {
                Some(link) if !link.finished.contains(0) => self.run(0, Action::Finish(0)),
                _ => Ok(Did::Ended),
            };
        }
        let bytes = head.source.step_bytes(self.parts.batch_bytes);
        let Some(estimate) = self.parts.account.try_reserve(bytes) else {
            // What is made of a row is half of what a step needs for it: the text is the source's own.
            return self.wait_for_memory(2 * bytes);
        };
        let Head::Source(head) = &mut self.parts.head else { return Ok(Did::Ended) };
        let mut out = Outbox::new();
        let before = self.parts.clock.now();
        let step = head.source.read(self.parts.batch_bytes, &mut out);
        add_time(&self.parts.shared.node(0).busy_ns, self.parts.clock.now() - before);
        let blocked = match step? {
            SourceStep::More => None,
            SourceStep::Done => {
                head.split_ended = true;
                None
            }
            SourceStep::Blocked(ticket) => Some(ticket),
        };
        let emitted = !out.is_empty();
        self.take_output(0, out, estimate)?;
        Ok(match blocked {
            Some(ticket) if !emitted => Did::Wait(Wait::Outside(ticket)),
            _ => Did::Work,
        })
    }

    fn read_ports(&mut self) -> Result<Did> {
        self.parts.shared.enter(0);
        let ready = self.parts.links.first().map(|link| link.operator.ready());
        let Head::Ports(ports) = &mut self.parts.head else { return Ok(Did::Ended) };
        let mut outside = None;
        let mut waiting = Vec::new();
        let count = ports.receivers.len();
        for turn in 0..count {
            let port = (ports.next + turn) % count;
            if ready.is_some_and(|ready| !ready.contains(port)) {
                if !ports.receivers[port].is_ended() {
                    ports.receivers[port].leave_unread();
                }
                continue;
            }
            if self.parts.links.first().is_some_and(|link| link.finished.contains(port)) {
                continue;
            }
            match ports.receivers[port].receive()? {
                Received::Batch(batch, origin) => {
                    ports.next = port + 1;
                    let batch = ports.coalesce(
                        port,
                        batch,
                        self.parts.batch_rows,
                        self.parts.batch_bytes,
                        &self.parts.account,
                    )?;
                    if self.parts.order == Order::Relay {
                        self.origin = origin;
                    }
                    match self.parts.links.first_mut() {
                        Some(link) => link.pending.push_back((port, batch)),
                        None => {
                            self.parts.tail.push(0, batch, self.origin, &mut self.parts.account.reservation())?;
                        }
                    }
                    return Ok(Did::Work);
                }
                Received::SplitDone(origin) => {
                    if self.parts.order == Order::Relay {
                        self.parts.tail.split_done(origin, &self.parts.account)?;
                    }
                    return Ok(Did::Work);
                }
                Received::Empty => waiting.push(ports.edges[port]),
                // What comes from the disk has its memory, and may be what another port waits for.
                Received::Blocked(ticket) if outside.is_some() && ticket.memory_bytes().is_some() => {}
                Received::Blocked(ticket) => outside = Some(ticket),
                Received::Ended if self.parts.links.is_empty() => {}
                Received::Ended => return self.run(0, Action::Finish(port)),
            }
        }
        if let Some(ticket) = outside {
            return Ok(Did::Wait(Wait::Outside(ticket)));
        }
        if waiting.is_empty() {
            if self.parts.links.is_empty() {
                return Ok(Did::Ended);
            }
            return Err(OperatorError::new(
                "the operator is ready for no port that is still open, and has not said that it is done",
            ));
        }
        Ok(Did::Wait(Wait::Input(waiting)))
    }

    /// Calls one operator once.
    fn run(&mut self, index: usize, action: Action) -> Result<Did> {
        let place = self.parts.head.nodes() + index;
        self.parts.shared.enter(place);
        let bytes = match &action {
            Action::Process(port, batch) => self.parts.links[index].operator.step_bytes(*port, batch),
            Action::Resume | Action::Finish(_) => 2 * self.parts.batch_bytes,
        };
        let Some(estimate) = self.parts.account.try_reserve(bytes) else {
            if let Action::Process(port, batch) = action {
                self.parts.links[index].pending.push_front((port, batch));
            }
            return self.wait_for_memory(bytes);
        };
        let mut out = Outbox::new();
        let before = self.parts.clock.now();
        if let Action::Process(_, batch) = &action {
            self.count_input(place, batch);
        }
        let link = &mut self.parts.links[index];
        let step = match action {
            Action::Process(port, batch) => {
                self.parts.holder.has_new_state();
                link.operator.process(port, batch, &mut out)
            }
            Action::Resume => link.operator.resume(&mut out),
            Action::Finish(port) => {
                link.finished = link.finished.with(port);
                link.operator.finish(port, &mut out)
            }
        };
        add_time(&self.parts.shared.node(place).busy_ns, self.parts.clock.now() - before);
        if step.is_err() && is_planted(Bug::LeakOnError) {
            std::mem::forget(estimate);
            return step.map(|_| Did::Work);
        }
        link.state = step?;
        let done = matches!(link.state, Step::Done);
        let memory = match &link.state {
            Step::Blocked(ticket) => ticket.memory_bytes().map(|_| ticket.clone()),
            _ => None,
        };
        let emitted = !out.is_empty();
        self.take_output(place, out, estimate)?;
        if done {
            self.stop_before(index);
        }
        Ok(match memory {
            // What it has emitted may be what it waits for.
            Some(ticket) if !emitted => Did::Wait(Wait::Outside(ticket)),
            _ => Did::Work,
        })
    }

    /// Claims what a node emitted and hands it to the next link or to the tail.
    fn take_output(&mut self, place: usize, mut out: Outbox, mut estimate: Reservation) -> Result<()> {
        let next = place + 1 - self.parts.head.nodes();
        while let Some((output, batch)) = out.pop() {
            self.parts.account.claim_from(&batch, &mut estimate);
            let counters = self.parts.shared.node(place);
            add(&counters.rows_out, batch.num_rows() as u64);
            add(&counters.batches_out, 1);
            add(&counters.bytes_out, batch.get_array_memory_size() as u64);
            match self.parts.links.get_mut(next) {
                // What a step of the next operator may need is bounded by pieces of the plan's size.
                Some(link) => link.pending.extend(pieces(&batch, self.parts.batch_bytes).map(|piece| (0, piece))),
                None => self.parts.tail.push(output, batch, self.origin, &mut estimate)?,
            }
        }
        drop(estimate);
        Ok(())
    }

    fn count_input(&self, place: usize, batch: &RecordBatch) {
        let counters = self.parts.shared.node(place);
        add(&counters.rows_in, batch.num_rows() as u64);
        add(&counters.batches_in, 1);
    }

    /// Link `index` needs no more input: everything before it stops.
    fn stop_before(&mut self, index: usize) {
        for link in self.parts.links.iter_mut().take(index) {
            link.pending.clear();
            link.state = Step::Done;
        }
        if let Some(link) = self.parts.links.get_mut(index) {
            link.pending.clear();
        }
        self.parts.head.stop();
    }

    /// Frees own state first, and waits for others only when there is none.
    fn wait_for_memory(&mut self, bytes: usize) -> Result<Did> {
        if self.parts.tail.is_holding_back() {
            self.parts.tail.let_go(&self.parts.account)?;
            return Ok(Did::Work);
        }
        if self.free(bytes)? > 0 {
            return Ok(Did::Work);
        }
        // What the task holds it holds for as long as it waits.
        let account = &self.parts.account;
        let needed = account.held() + bytes;
        if needed > account.most() {
            return Err(account.row_too_large(needed));
        }
        let floating = bytes.saturating_sub(account.floor().saturating_sub(account.held()));
        account.pool().wait(floating, &self.parts.waker);
        Ok(Did::Wait(Wait::Memory(bytes)))
    }

    fn answer_reclaim(&mut self) -> Result<()> {
        let freed = self.free(self.parts.holder.requested())?;
        self.parts.account.pool().answered(&self.parts.holder, freed);
        Ok(())
    }

    /// Writes up to `bytes` of own state, or of what hazardous edges have queued, to disk.
    fn free(&mut self, bytes: usize) -> Result<usize> {
        // What is spilled waits for the disk in the workspace: a piece must fit there.
        let bytes = bytes.min(SPILL_PIECE_BYTES).min(2 * self.parts.batch_bytes);
        let mut freed = 0;
        for index in 0..self.parts.links.len() {
            if freed < bytes && !matches!(self.parts.links[index].state, Step::Done) {
                let place = self.parts.head.nodes() + index;
                self.parts.shared.enter(place);
                let before = self.parts.clock.now();
                freed += self.parts.links[index].operator.spill(bytes - freed)?;
                add_time(&self.parts.shared.node(place).busy_ns, self.parts.clock.now() - before);
            }
        }
        if let Head::Ports(ports) = &mut self.parts.head {
            self.parts.shared.enter(0);
            for receiver in &mut ports.receivers {
                if freed < bytes {
                    freed += receiver.spool(bytes - freed)?;
                }
            }
        }
        Ok(freed)
    }
}

/// `batch` cut into slices of about `bytes` each, and never less than a row.
pub(super) fn pieces(batch: &RecordBatch, bytes: usize) -> impl Iterator<Item = RecordBatch> + use<> {
    let rows = batch.num_rows();
    let count = batch_bytes(batch).div_ceil(bytes).clamp(1, rows.max(1));
    let rows_each = rows.div_ceil(count).max(1);
    let batch = batch.clone();
    (0..rows.div_ceil(rows_each)).map(move |piece| {
        let start = piece * rows_each;
        batch.slice(start, rows_each.min(rows - start))
    })
}

impl Drop for Task {
    fn drop(&mut self) {
        self.parts.account.pool().stop_waiting(&self.parts.waker);
        self.parts.account.pool().retire(&self.parts.holder);
    }
}
