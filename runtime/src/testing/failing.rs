//! Operators that go wrong, or take long, at a chosen moment of a chosen partition. Until then they forward rows.

use std::time::{Duration, Instant};

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;

use crate::error::{OperatorError, Result};
use crate::io::Ticket;
use crate::operator::{Operator, OperatorContext, OperatorSpec, Outbox, Port, Step};
use crate::testing::Gate;

/// How something goes wrong.
#[derive(Debug, Clone)]
pub enum Failure {
    /// It returns an error with the message `failed as asked`.
    Error,
    /// It panics with the message `panicked as asked`.
    Panic,
    /// It is blocked for as long as the gate is shut, and well after that.
    Block(Gate),
}

impl Failure {
    /// Fails, or says what to wait for, or, when the gate is open, lets through.
    pub(crate) fn strike(&self) -> Result<Option<Ticket>> {
        match self {
            Self::Error => Err(OperatorError::new("failed as asked")),
            Self::Panic => panic!("panicked as asked"),
            Self::Block(gate) => Ok(gate.pass()),
        }
    }

    /// As [`Failure::strike`], where waiting is not possible.
    pub(crate) fn strike_at_once(&self) -> Result<()> {
        match self.strike()? {
            None => Ok(()),
            Some(_) => Err(OperatorError::new("cannot block here")),
        }
    }
}

/// When an operator goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// When the instance is made. Cannot block.
    Instantiate,
    /// At this batch of the partition, counted from 0.
    Batch(u64),
    /// When its input has ended.
    Finish,
    /// When the instance is dropped, unless a panic drops it. Can only panic.
    Drop,
}

/// Forwards its input until it goes wrong.
#[derive(Debug, Clone)]
pub struct FailingOperator {
    failure: Failure,
    moment: Moment,
    partition: Option<usize>,
}

impl FailingOperator {
    /// Goes wrong in every partition.
    pub fn new(failure: Failure, moment: Moment) -> Self {
        Self { failure, moment, partition: None }
    }

    /// Goes wrong in this partition alone.
    #[must_use]
    pub fn at_partition(self, partition: usize) -> Self {
        Self { partition: Some(partition), ..self }
    }
}

impl OperatorSpec for FailingOperator {
    fn name(&self) -> &str {
        "failing"
    }

    fn output_schema(&self, _output: usize, inputs: &[SchemaRef]) -> Result<SchemaRef> {
        only_input(inputs)
    }

    fn instantiate(&self, context: OperatorContext) -> Result<Box<dyn Operator>> {
        let here = self.partition.is_none_or(|partition| partition == context.partition);
        if here && self.moment == Moment::Instantiate {
            self.failure.strike_at_once()?;
        }
        Ok(Box::new(Failing {
            failure: here.then(|| self.failure.clone()),
            moment: self.moment,
            batches: 0,
            held: None,
        }))
    }

    fn keeps_order(&self) -> bool {
        true
    }

    fn detail(&self) -> String {
        format!("{:?}", self.moment)
    }
}

struct Failing {
    /// `None` in the other partitions.
    failure: Option<Failure>,
    moment: Moment,
    batches: u64,
    /// The batch that came when it was blocked.
    held: Option<RecordBatch>,
}

impl Failing {
    fn ticket_at(&self, moment: Moment) -> Result<Option<Ticket>> {
        match &self.failure {
            Some(failure) if self.moment == moment => failure.strike(),
            _ => Ok(None),
        }
    }
}

impl Operator for Failing {
    fn process(&mut self, _port: Port, batch: RecordBatch, out: &mut Outbox) -> Result<Step> {
        let ticket = self.ticket_at(Moment::Batch(self.batches))?;
        self.batches += 1;
        Ok(match ticket {
            Some(ticket) => {
                self.held = Some(batch);
                Step::Blocked(ticket)
            }
            None => {
                out.push(batch);
                Step::NeedInput
            }
        })
    }

    fn resume(&mut self, out: &mut Outbox) -> Result<Step> {
        // Only a block leads here: the failure is asked again, at the moment it is set to.
        if let Some(ticket) = self.ticket_at(self.moment)? {
            return Ok(Step::Blocked(ticket));
        }
        self.held.take().into_iter().for_each(|batch| out.push(batch));
        Ok(Step::NeedInput)
    }

    fn finish(&mut self, _port: Port, _out: &mut Outbox) -> Result<Step> {
        Ok(self.ticket_at(Moment::Finish)?.map_or(Step::NeedInput, Step::Blocked))
    }
}

impl Drop for Failing {
    fn drop(&mut self) {
        // A second panic while the first unwinds would end the process.
        if !std::thread::panicking() && self.moment == Moment::Drop && matches!(self.failure, Some(Failure::Panic)) {
            panic!("panicked as asked");
        }
    }
}

/// Forwards its input, and keeps a core busy for a while in the step of each batch.
#[derive(Debug, Clone)]
pub struct SlowOperator {
    per_batch: Duration,
    partition: Option<usize>,
}

impl SlowOperator {
    /// Burns `per_batch` of a core for each batch, by the clock.
    pub fn new(per_batch: Duration) -> Self {
        Self { per_batch, partition: None }
    }

    /// Slow in this partition alone.
    #[must_use]
    pub fn at_partition(self, partition: usize) -> Self {
        Self { partition: Some(partition), ..self }
    }
}

impl OperatorSpec for SlowOperator {
    fn name(&self) -> &str {
        "slow"
    }

    fn output_schema(&self, _output: usize, inputs: &[SchemaRef]) -> Result<SchemaRef> {
        only_input(inputs)
    }

    fn instantiate(&self, context: OperatorContext) -> Result<Box<dyn Operator>> {
        let here = self.partition.is_none_or(|partition| partition == context.partition);
        Ok(Box::new(Slow { per_batch: if here { self.per_batch } else { Duration::ZERO } }))
    }

    fn keeps_order(&self) -> bool {
        true
    }

    fn detail(&self) -> String {
        format!("{:?} a batch", self.per_batch)
    }
}

struct Slow {
    per_batch: Duration,
}

impl Operator for Slow {
    fn process(&mut self, _port: Port, batch: RecordBatch, out: &mut Outbox) -> Result<Step> {
        let start = Instant::now();
        while start.elapsed() < self.per_batch {
            std::hint::spin_loop();
        }
        out.push(batch);
        Ok(Step::NeedInput)
    }
}

/// The schema of an operator's first input.
pub(crate) fn only_input(inputs: &[SchemaRef]) -> Result<SchemaRef> {
    inputs.first().cloned().ok_or_else(|| OperatorError::new("needs an input"))
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;
    use crate::testing::{context, drive, number_schema, numbers};

    fn run(spec: &FailingOperator, partition: usize) -> Result<Vec<RecordBatch>> {
        let mut operator = spec.instantiate(context().partition(partition, 2).operator(&[number_schema()]))?;
        drive(operator.as_mut(), [vec![numbers(0..3), numbers(3..6)]])
    }

    #[test]
    fn it_fails_at_its_moment_and_partition_alone() {
        for moment in [Moment::Instantiate, Moment::Batch(1), Moment::Finish] {
            let spec = FailingOperator::new(Failure::Error, moment).at_partition(1);
            assert_eq!(run(&spec, 0).expect("another partition"), [numbers(0..3), numbers(3..6)]);
            assert_eq!(run(&spec, 1).expect_err("its partition").to_string(), "failed as asked");
        }
        let spec = FailingOperator::new(Failure::Error, Moment::Batch(2));
        assert!(run(&spec, 0).is_ok(), "there is no third batch");
    }

    #[test]
    fn it_panics_at_its_moment() {
        for moment in [Moment::Instantiate, Moment::Batch(0), Moment::Finish, Moment::Drop] {
            let spec = FailingOperator::new(Failure::Panic, moment);
            assert!(catch_unwind(AssertUnwindSafe(|| run(&spec, 0))).is_err(), "{moment:?}");
        }
    }

    #[test]
    fn what_is_blocked_goes_on_once_its_gate_opens() {
        for moment in [Moment::Batch(1), Moment::Finish] {
            let gate = Gate::shut();
            let spec = FailingOperator::new(Failure::Block(gate.clone()), moment);
            std::thread::scope(|scope| {
                let done = scope.spawn(|| run(&spec, 0));
                assert!(gate.wait_until_refused(1, Duration::from_secs(10)), "{moment:?}");
                assert!(!done.is_finished());
                gate.open();
                let output = done.join().expect("no panic").expect("no error");
                assert_eq!(output, [numbers(0..3), numbers(3..6)]);
            });
        }
    }
}
