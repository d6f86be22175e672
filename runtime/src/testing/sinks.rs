//! A sink that counts what it gets and what became of it; on request it waits at a gate, fails, or keeps the batches.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::record_batch::RecordBatch;
use parking_lot::{Condvar, Mutex};

use crate::batch::batch_bytes;
use crate::error::{OperatorError, Result};
use crate::io::Ticket;
use crate::memory::hand_out;
use crate::sink::{CloseStep, Receipt, Sink, SinkContext, SinkSpec, SinkStep};
use crate::testing::{Failure, Gate};

/// Counts rows; see [`Written`] for what it tells.
#[derive(Debug, Clone, Default)]
pub struct CountingSink {
    gate: Option<Gate>,
    failure: Option<(Failure, SinkMoment)>,
    keep: bool,
    written: Written,
}

/// When a sink goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SinkMoment {
    /// When this partition is opened. Cannot block.
    Open(usize),
    /// At this batch of a partition, counted from 0, in each partition.
    Write(u64),
    /// When its input has ended.
    Close,
    /// When the result is to exist.
    Commit,
}

impl CountingSink {
    /// A sink that takes everything.
    pub fn new() -> Self {
        Self::default()
    }

    /// Writes a batch only once it has passed at `gate`.
    #[must_use]
    pub fn gated(self, gate: &Gate) -> Self {
        Self { gate: Some(gate.clone()), ..self }
    }

    /// Goes wrong at `moment`.
    #[must_use]
    pub fn failing(self, failure: Failure, moment: SinkMoment) -> Self {
        Self { failure: Some((failure, moment)), ..self }
    }

    /// Keeps the batches, outside of all accounts.
    #[must_use]
    pub fn keeping(self) -> Self {
        Self { keep: true, ..self }
    }

    /// What was written, by all its jobs together.
    pub fn written(&self) -> Written {
        self.written.clone()
    }

    fn ticket_at(&self, moment: SinkMoment) -> Result<Option<Ticket>> {
        match &self.failure {
            Some((failure, at)) if *at == moment => failure.strike(),
            _ => Ok(None),
        }
    }

    fn strike_at_once(&self, moment: SinkMoment) -> Result<()> {
        match self.ticket_at(moment)? {
            None => Ok(()),
            Some(_) => Err(OperatorError::new("cannot block here")),
        }
    }
}

impl SinkSpec for CountingSink {
    fn name(&self) -> &str {
        "counting"
    }

    fn open(&self, context: SinkContext) -> Result<Box<dyn Sink>> {
        self.strike_at_once(SinkMoment::Open(context.partition))?;
        self.written.change(|state| state.opened += 1);
        Ok(Box::new(Counting { spec: self.clone(), held: None, batches: 0, rows: 0 }))
    }

    fn commit(&self, receipts: Vec<Receipt>) -> Result<()> {
        while let Some(ticket) = self.ticket_at(SinkMoment::Commit)? {
            // A commit has a thread of its own and may take its time.
            ticket.wait();
        }
        let rows: u64 = receipts.iter().map(|receipt| receipt.rows).sum();
        self.written.change(|state| {
            state.commits += 1;
            state.committed_rows += rows;
        });
        Ok(())
    }

    fn abort(&self) {
        self.written.change(|state| state.aborts += 1);
    }
}

struct Counting {
    spec: CountingSink,
    /// Taken, and not yet let through.
    held: Option<RecordBatch>,
    batches: u64,
    rows: u64,
}

impl Sink for Counting {
    fn write(&mut self, batch: RecordBatch) -> Result<SinkStep> {
        self.held = Some(batch);
        self.resume()
    }

    fn resume(&mut self) -> Result<SinkStep> {
        let Some(batch) = self.held.take() else { return Ok(SinkStep::Written) };
        let ticket = match self.spec.gate.as_ref().and_then(Gate::pass) {
            None => self.spec.ticket_at(SinkMoment::Write(self.batches))?,
            ticket => ticket,
        };
        if let Some(ticket) = ticket {
            self.held = Some(batch);
            return Ok(SinkStep::Blocked(ticket));
        }
        self.batches += 1;
        self.rows += batch.num_rows() as u64;
        self.spec.written.change(|state| {
            state.batches += 1;
            state.rows += batch.num_rows() as u64;
            state.bytes += batch_bytes(&batch) as u64;
            if self.spec.keep {
                hand_out(&batch);
                state.kept.push(batch);
            }
        });
        Ok(SinkStep::Written)
    }

    fn close(&mut self) -> Result<CloseStep> {
        if let Some(ticket) = self.spec.ticket_at(SinkMoment::Close)? {
            return Ok(CloseStep::Blocked(ticket));
        }
        self.spec.written.change(|state| state.closed += 1);
        Ok(CloseStep::Closed(Receipt { rows: self.rows, payload: None }))
    }
}

impl Drop for Counting {
    fn drop(&mut self) {
        self.spec.written.change(|state| state.opened -= 1);
    }
}

/// What a [`CountingSink`] has seen. Clones tell the same.
#[derive(Debug, Clone, Default)]
pub struct Written(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    rows: u64,
    batches: u64,
    bytes: u64,
    kept: Vec<RecordBatch>,
    opened: usize,
    closed: usize,
    commits: usize,
    committed_rows: u64,
    aborts: usize,
}

impl Written {
    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.0.state.lock());
        self.0.changed.notify_all();
    }

    /// Rows written.
    pub fn rows(&self) -> u64 {
        self.0.state.lock().rows
    }

    /// Batches written.
    pub fn batches(&self) -> u64 {
        self.0.state.lock().batches
    }

    /// Bytes written, by what the rows need on their own.
    pub fn bytes(&self) -> u64 {
        self.0.state.lock().bytes
    }

    /// The batches, if the sink keeps them, in the order in which they were written.
    pub fn kept(&self) -> Vec<RecordBatch> {
        self.0.state.lock().kept.clone()
    }

    /// Instances that exist now.
    pub fn instances(&self) -> usize {
        self.0.state.lock().opened
    }

    /// Instances that were closed.
    pub fn closed(&self) -> usize {
        self.0.state.lock().closed
    }

    /// How often a result was committed.
    pub fn commits(&self) -> usize {
        self.0.state.lock().commits
    }

    /// Rows in the receipts of all commits.
    pub fn committed_rows(&self) -> u64 {
        self.0.state.lock().committed_rows
    }

    /// How often a result was aborted.
    pub fn aborts(&self) -> usize {
        self.0.state.lock().aborts
    }

    /// Blocks this thread until `rows` are written; `false` if `limit` passes before.
    #[must_use]
    pub fn wait_for_rows(&self, rows: u64, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        let mut state = self.0.state.lock();
        while state.rows < rows {
            if self.0.changed.wait_until(&mut state, deadline).timed_out() {
                return state.rows >= rows;
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{context, drive_sink, number_schema, numbers};

    #[test]
    fn it_counts_keeps_and_tells_what_became_of_it() {
        let spec = CountingSink::new().keeping();
        let written = spec.written();
        let mut sink = spec.open(context().sink(number_schema())).expect("opens");
        assert_eq!(written.instances(), 1);
        let receipt = drive_sink(sink.as_mut(), [numbers(0..3), numbers(3..10)]).expect("writes");
        drop(sink);
        assert_eq!((written.rows(), written.batches(), written.bytes()), (10, 2, 80));
        assert_eq!((written.instances(), written.closed(), written.commits()), (0, 1, 0));
        assert_eq!(written.kept(), [numbers(0..3), numbers(3..10)]);
        spec.commit(vec![receipt]).expect("commits");
        assert_eq!((written.commits(), written.committed_rows(), written.aborts()), (1, 10, 0));
    }

    #[test]
    fn a_gated_sink_writes_nothing_while_its_gate_is_shut() {
        let gate = Gate::shut();
        let spec = CountingSink::new().gated(&gate);
        let written = spec.written();
        let mut sink = spec.open(context().sink(number_schema())).expect("opens");
        std::thread::scope(|scope| {
            let done = scope.spawn(|| drive_sink(sink.as_mut(), [numbers(0..3), numbers(3..10)]));
            assert!(gate.wait_until_refused(1, Duration::from_secs(10)));
            assert_eq!(written.rows(), 0);
            gate.let_through(1);
            assert!(gate.wait_until_refused(2, Duration::from_secs(10)));
            assert_eq!(written.rows(), 3);
            gate.open();
            assert_eq!(done.join().expect("no panic").expect("writes").rows, 10);
        });
    }

    #[test]
    fn a_failing_sink_fails_at_its_moment() {
        for moment in [SinkMoment::Open(0), SinkMoment::Write(1), SinkMoment::Close, SinkMoment::Commit] {
            let spec = CountingSink::new().failing(Failure::Error, moment);
            let run = || {
                let mut sink = spec.open(context().sink(number_schema()))?;
                spec.commit(vec![drive_sink(sink.as_mut(), [numbers(0..3), numbers(3..10)])?])
            };
            assert_eq!(run().expect_err("fails").to_string(), "failed as asked", "{moment:?}");
            assert_eq!(spec.written().commits(), 0);
        }
    }
}
