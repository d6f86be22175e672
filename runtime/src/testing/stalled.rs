//! Any source, held up or failing before chosen reads. What it reads is the inner source's.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use arrow::datatypes::SchemaRef;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};

use crate::error::{OperatorError, Result};
use crate::io::{Completion, Ticket};
use crate::operator::Outbox;
use crate::source::{Scan, ScanContext, Source, SourceContext, SourceSpec, SourceStep, Split};
use crate::testing::{Failure, Gate};

/// A source that is held up: by a gate, by a timer, or for good by a failure.
#[derive(Debug, Clone)]
pub struct StalledSource<S> {
    inner: S,
    stall: Stall,
}

#[derive(Debug, Clone)]
enum Stall {
    Gate(Gate),
    Interval(Duration),
    Failure { failure: Failure, moment: SourceMoment },
}

/// When a source goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourceMoment {
    /// When a scan begins. Cannot block.
    Scan,
    /// When this partition is opened. Cannot block.
    Open(usize),
    /// When this split is begun. Cannot block.
    Split(u64),
    /// Before this read of a partition, counted from 0, in each partition.
    Read(u64),
}

impl<S: SourceSpec> StalledSource<S> {
    /// Each read passes at `gate`.
    pub fn gated(inner: S, gate: &Gate) -> Self {
        Self { inner, stall: Stall::Gate(gate.clone()) }
    }

    /// Each read of a partition comes `interval` after the one before was asked for.
    pub fn slow(inner: S, interval: Duration) -> Self {
        Self { inner, stall: Stall::Interval(interval) }
    }

    /// Goes wrong at `moment`.
    pub fn failing(inner: S, failure: Failure, moment: SourceMoment) -> Self {
        Self { inner, stall: Stall::Failure { failure, moment } }
    }
}

impl Stall {
    fn strike(&self, at: SourceMoment) -> Result<()> {
        match self {
            Self::Failure { failure, moment } if *moment == at => failure.strike_at_once(),
            _ => Ok(()),
        }
    }
}

impl<S: SourceSpec> SourceSpec for StalledSource<S> {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn schema(&self) -> SchemaRef {
        self.inner.schema()
    }

    fn scan(&self, context: ScanContext) -> Result<Arc<dyn Scan>> {
        self.stall.strike(SourceMoment::Scan)?;
        let timer = match self.stall {
            Stall::Interval(_) => Some(Arc::new(Timer::start()?)),
            _ => None,
        };
        Ok(Arc::new(StalledScan { inner: self.inner.scan(context)?, stall: self.stall.clone(), timer }))
    }

    fn min_memory(&self, batch_bytes: usize) -> usize {
        self.inner.min_memory(batch_bytes)
    }

    fn max_partitions(&self) -> Option<usize> {
        self.inner.max_partitions()
    }

    fn detail(&self) -> String {
        self.inner.detail()
    }
}

struct StalledScan {
    inner: Arc<dyn Scan>,
    stall: Stall,
    timer: Option<Arc<Timer>>,
}

impl Scan for StalledScan {
    fn next_split(&self) -> Result<Option<Split>> {
        self.inner.next_split()
    }

    fn open(&self, context: SourceContext) -> Result<Box<dyn Source>> {
        self.stall.strike(SourceMoment::Open(context.partition))?;
        Ok(Box::new(Stalled {
            inner: self.inner.open(context)?,
            stall: self.stall.clone(),
            timer: self.timer.clone(),
            reads: 0,
            waiting: None,
        }))
    }

    fn total_bytes(&self) -> Option<u64> {
        self.inner.total_bytes()
    }
}

struct Stalled {
    inner: Box<dyn Source>,
    stall: Stall,
    timer: Option<Arc<Timer>>,
    reads: u64,
    /// The ticket of the interval that has begun.
    waiting: Option<Ticket>,
}

impl Stalled {
    fn ticket(&mut self) -> Result<Option<Ticket>> {
        match &self.stall {
            Stall::Gate(gate) => Ok(gate.pass()),
            Stall::Failure { failure, moment } if *moment == SourceMoment::Read(self.reads) => failure.strike(),
            Stall::Failure { .. } => Ok(None),
            Stall::Interval(interval) => {
                let timer = self.timer.as_ref().ok_or_else(|| OperatorError::new("the scan has started no timer"))?;
                let ticket = self.waiting.take().unwrap_or_else(|| timer.after(*interval));
                if ticket.is_done() {
                    return Ok(None);
                }
                self.waiting = Some(ticket.clone());
                Ok(Some(ticket))
            }
        }
    }
}

impl Source for Stalled {
    fn start(&mut self, split: &Split) -> Result<()> {
        self.stall.strike(SourceMoment::Split(split.index))?;
        self.inner.start(split)
    }

    fn read(&mut self, budget_bytes: usize, out: &mut Outbox) -> Result<SourceStep> {
        if let Some(ticket) = self.ticket()? {
            return Ok(SourceStep::Blocked(ticket));
        }
        let step = self.inner.read(budget_bytes, out)?;
        // A read that the inner source could not do yet is the same read when it comes again.
        if !matches!(step, SourceStep::Blocked(_)) {
            self.reads += 1;
        }
        Ok(step)
    }
}

/// A thread that completes tickets when their time has come. It ends with the timer, and completes the rest then.
#[derive(Debug)]
struct Timer {
    sender: Option<Sender<(Instant, Completion)>>,
    thread: Option<JoinHandle<()>>,
}

impl Timer {
    fn start() -> Result<Self> {
        let (sender, receiver) = unbounded();
        let thread = std::thread::Builder::new()
            .name("aq-timer".into())
            .spawn(move || run_timer(&receiver))
            .map_err(OperatorError::other)?;
        Ok(Self { sender: Some(sender), thread: Some(thread) })
    }

    /// A ticket that is done `interval` from now.
    fn after(&self, interval: Duration) -> Ticket {
        let (ticket, completion) = Ticket::new("timer");
        if let Some(sender) = &self.sender {
            // Refused only once the thread has gone, and then the ticket is completed by the drop.
            let _ = sender.send((Instant::now() + interval, completion));
        }
        ticket
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.sender = None;
        if let Some(thread) = self.thread.take() {
            // The thread only waits; it has no panic to pass on.
            let _ = thread.join();
        }
    }
}

fn run_timer(receiver: &Receiver<(Instant, Completion)>) {
    let mut due = BinaryHeap::new();
    let mut completions = std::collections::HashMap::new();
    for number in 0_u64.. {
        let received = match due.peek() {
            None => receiver.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(Reverse((instant, _))) => receiver.recv_deadline(*instant),
        };
        match received {
            Ok((instant, completion)) => {
                due.push(Reverse((instant, number)));
                completions.insert(number, completion);
            }
            Err(RecvTimeoutError::Timeout) => {
                if let Some(Reverse((_, number))) = due.pop() {
                    completions.remove(&number);
                }
            }
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use arrow::compute::concat_batches;

    use super::*;
    use crate::testing::{NumbersSource, context, drive_source, eventually, number_schema, numbers, our_threads};

    #[test]
    fn a_gated_source_reads_as_often_as_it_is_let() {
        let gate = Gate::shut();
        let spec = StalledSource::gated(NumbersSource::new(100).split_rows(10), &gate);
        std::thread::scope(|scope| {
            let read = scope.spawn(|| drive_source(&spec, &context()));
            gate.let_through(4);
            assert!(gate.wait_until_refused(1, Duration::from_secs(10)));
            assert!(!read.is_finished());
            gate.open();
            let batches = read.join().expect("no panic").expect("no error");
            assert_eq!(concat_batches(&number_schema(), &batches).expect("one schema"), numbers(0..100));
        });
    }

    #[test]
    fn a_slow_source_takes_its_interval_for_each_read_and_leaves_no_thread() {
        let interval = Duration::from_millis(5);
        let spec = StalledSource::slow(NumbersSource::new(40).split_rows(10), interval);
        let start = Instant::now();
        assert_eq!(drive_source(&spec, &context()).expect("reads").len(), 4);
        assert!(start.elapsed() >= 4 * interval);
        eventually("the timer has ended", || !our_threads().contains(&"aq-timer".to_owned()));
    }

    #[test]
    fn a_failing_source_fails_at_its_moment() {
        let numbers = NumbersSource::new(30).split_rows(10);
        for moment in [SourceMoment::Scan, SourceMoment::Open(0), SourceMoment::Split(2), SourceMoment::Read(1)] {
            let spec = StalledSource::failing(numbers.clone(), Failure::Error, moment);
            assert_eq!(drive_source(&spec, &context()).expect_err("fails").to_string(), "failed as asked");
        }
        for moment in [SourceMoment::Open(1), SourceMoment::Split(3), SourceMoment::Read(3)] {
            let spec = StalledSource::failing(numbers.clone(), Failure::Error, moment);
            assert_eq!(drive_source(&spec, &context()).expect("never comes").len(), 3);
        }
    }
}
