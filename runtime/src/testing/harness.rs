//! Contexts and drivers to call operators, sources and sinks by hand: what a task does, on this thread, without limits
//! on output.

use std::collections::VecDeque;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;

use crate::error::{OperatorError, Result};
use crate::io::Io;
use crate::memory::{Account, MemoryPool};
use crate::operator::{Operator, OperatorContext, Outbox, Step};
use crate::sink::{CloseStep, Receipt, Sink, SinkContext, SinkStep};
use crate::source::{ScanContext, SourceContext, SourceSpec, SourceStep};
use crate::spill::SpillSpace;

/// Makes contexts for calling instances by hand: one partition, 64 MiB, batches of 64 KiB and 8,192 rows.
pub fn context() -> Context {
    Context {
        node: "test".into(),
        pool: MemoryPool::new(64 << 20),
        floor_bytes: 0,
        partition: 0,
        partitions: 1,
        lanes: 1,
        batch_bytes: 64 << 10,
        batch_rows: 8192,
    }
}

/// What the contexts of instances are made from. See [`context`].
#[derive(Debug, Clone)]
pub struct Context {
    node: Arc<str>,
    pool: MemoryPool,
    floor_bytes: usize,
    partition: usize,
    partitions: usize,
    lanes: usize,
    batch_bytes: usize,
    batch_rows: usize,
}

impl Context {
    /// Sets the name of the node.
    #[must_use]
    pub fn node(self, node: &str) -> Self {
        Self { node: node.into(), ..self }
    }

    /// Takes memory from `pool`.
    #[must_use]
    pub fn pool(self, pool: &MemoryPool) -> Self {
        Self { pool: pool.clone(), ..self }
    }

    /// Takes memory from a new pool of `limit_bytes`.
    #[must_use]
    pub fn memory_limit(self, limit_bytes: usize) -> Self {
        Self { pool: MemoryPool::new(limit_bytes), ..self }
    }

    /// Sets the floor of the instance's account, as a spec's `min_memory` would.
    #[must_use]
    pub fn floor(self, floor_bytes: usize) -> Self {
        Self { floor_bytes, ..self }
    }

    /// Sets which partition of how many it is.
    #[must_use]
    pub fn partition(self, partition: usize, partitions: usize) -> Self {
        Self { partition, partitions, ..self }
    }

    /// Sets the number of ports that each input has.
    #[must_use]
    pub fn lanes(self, lanes: usize) -> Self {
        Self { lanes, ..self }
    }

    /// Sets the bytes of the largest batch.
    #[must_use]
    pub fn batch_bytes(self, batch_bytes: usize) -> Self {
        Self { batch_bytes, ..self }
    }

    /// Sets the most rows of an output batch.
    #[must_use]
    pub fn batch_rows(self, batch_rows: usize) -> Self {
        Self { batch_rows, ..self }
    }

    /// The pool that accounts are made in.
    pub fn memory_pool(&self) -> &MemoryPool {
        &self.pool
    }

    /// A context for [`crate::OperatorSpec::instantiate`], with a spill space in a temporary folder.
    ///
    /// # Panics
    ///
    /// If the floor does not fit in the pool, or a thread cannot be started.
    pub fn operator(&self, inputs: &[SchemaRef]) -> OperatorContext {
        OperatorContext {
            node: Arc::clone(&self.node),
            partition: self.partition,
            partitions: self.partitions,
            inputs: inputs.to_vec(),
            lanes: vec![self.lanes; inputs.len()],
            batch_bytes: self.batch_bytes,
            batch_rows: self.batch_rows,
            memory: self.account(),
            spill: SpillSpace::temporary(),
            io: io(),
        }
    }

    /// A context for [`crate::Scan::open`].
    ///
    /// # Panics
    ///
    /// As for [`Context::operator`].
    pub fn source(&self) -> SourceContext {
        SourceContext {
            node: Arc::clone(&self.node),
            partition: self.partition,
            batch_bytes: self.batch_bytes,
            batch_rows: self.batch_rows,
            memory: self.account(),
            io: io(),
        }
    }

    /// A context for [`crate::SinkSpec::open`].
    ///
    /// # Panics
    ///
    /// As for [`Context::operator`].
    pub fn sink(&self, schema: SchemaRef) -> SinkContext {
        SinkContext {
            node: Arc::clone(&self.node),
            partition: self.partition,
            partitions: self.partitions,
            schema,
            memory: self.account(),
            io: io(),
        }
    }

    fn account(&self) -> Account {
        let admission = self.pool.admit(self.floor_bytes).expect("the floor fits in the pool");
        admission.account(&*self.node, self.floor_bytes)
    }
}

/// One I/O thread, which ends with the context's last clone.
fn io() -> Io {
    Io::start("aq-test", 1).expect("a thread can be started").0
}

/// Feeds `inputs`, one list of batches for each port, to `operator` and returns what it emitted at output 0.
///
/// Ports that are ready are read in turn. Everything is called as a task would: `ready` before every read, `resume` after
/// [`Step::MoreOutput`] and after waiting for a ticket, `spill` where it waits for memory, `finish` once for each port, nothing after [`Step::Done`].
///
/// # Errors
///
/// The operator's own, and an error when it is ready for none of the ports that are left, or emits at an output
/// other than 0.
pub fn drive(
    operator: &mut dyn Operator,
    inputs: impl IntoIterator<Item = Vec<RecordBatch>>,
) -> Result<Vec<RecordBatch>> {
    let outputs = drive_outputs(operator, inputs)?;
    outputs
        .into_iter()
        .map(|(output, batch)| match output {
            0 => Ok(batch),
            _ => Err(OperatorError::new(format!("a batch was emitted at output {output}"))),
        })
        .collect()
}

/// As [`drive`], for operators with several outputs: each batch comes with the output it was emitted at.
///
/// # Errors
///
/// As for [`drive`].
pub fn drive_outputs(
    operator: &mut dyn Operator,
    inputs: impl IntoIterator<Item = Vec<RecordBatch>>,
) -> Result<Vec<(usize, RecordBatch)>> {
    let mut ports: Vec<Option<VecDeque<RecordBatch>>> = inputs.into_iter().map(|input| Some(input.into())).collect();
    let mut emitted = Vec::new();
    let mut out = Outbox::new();
    let mut next = 0;
    while ports.iter().any(Option::is_some) {
        let ready = operator.ready();
        let port = (0..ports.len())
            .map(|offset| (next + offset) % ports.len())
            .find(|port| ports[*port].is_some() && ready.contains(*port))
            .ok_or_else(|| OperatorError::new("the operator is ready for none of the ports that are left"))?;
        next = port + 1;
        let step = match ports[port].as_mut().and_then(VecDeque::pop_front) {
            Some(batch) => operator.process(port, batch, &mut out)?,
            None => {
                ports[port] = None;
                operator.finish(port, &mut out)?
            }
        };
        if settle(operator, step, &mut out, &mut emitted)? {
            break;
        }
    }
    Ok(emitted)
}

/// Runs a step to where it needs input; whether the operator is done.
fn settle(
    operator: &mut dyn Operator,
    mut step: Step,
    out: &mut Outbox,
    emitted: &mut Vec<(usize, RecordBatch)>,
) -> Result<bool> {
    loop {
        emitted.extend(std::iter::from_fn(|| out.pop()));
        match step {
            Step::NeedInput => return Ok(false),
            Step::Done => return Ok(true),
            Step::MoreOutput => {}
            Step::Blocked(ticket) => match ticket.memory_bytes() {
                None => ticket.wait(),
                // There is no other task: what there is to be had is the operator's own.
                Some(bytes) if operator.spill(bytes)? > 0 => {}
                Some(bytes) => {
                    return Err(OperatorError::new(format!("it waits for {bytes} bytes, which nobody can give back")));
                }
            },
        }
        step = operator.resume(out)?;
    }
}

/// Reads all splits of a scan of `spec`, in order, through one instance.
///
/// # Errors
///
/// The source's own.
pub fn drive_source(spec: &dyn SourceSpec, context: &Context) -> Result<Vec<RecordBatch>> {
    let scan = spec.scan(ScanContext { batch_bytes: context.batch_bytes, partitions: context.partitions })?;
    let mut source = scan.open(context.source())?;
    let mut batches = Vec::new();
    let mut out = Outbox::new();
    while let Some(split) = scan.next_split()? {
        source.start(&split)?;
        loop {
            let step = source.read(context.batch_bytes, &mut out)?;
            batches.extend(std::iter::from_fn(|| out.pop()).map(|(_, batch)| batch));
            match step {
                SourceStep::More => {}
                SourceStep::Blocked(ticket) => ticket.wait(),
                SourceStep::Done => break,
            }
        }
    }
    Ok(batches)
}

/// Writes `batches` to `sink` and closes it. The result is not committed: give the receipt to the spec.
///
/// # Errors
///
/// The sink's own.
pub fn drive_sink(sink: &mut dyn Sink, batches: impl IntoIterator<Item = RecordBatch>) -> Result<Receipt> {
    for batch in batches {
        let mut step = sink.write(batch)?;
        while let SinkStep::Blocked(ticket) = step {
            ticket.wait();
            step = sink.resume()?;
        }
    }
    loop {
        match sink.close()? {
            CloseStep::Closed(receipt) => return Ok(receipt),
            CloseStep::Blocked(ticket) => ticket.wait(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operator::{Port, PortSet};
    use crate::testing::{number_schema, numbers};

    /// Emits each batch row by row, waits for the I/O thread between them, and is done after `limit` rows.
    struct RowByRow {
        context: OperatorContext,
        rest: VecDeque<RecordBatch>,
        limit: usize,
        finished: bool,
    }

    impl Operator for RowByRow {
        fn process(&mut self, _port: Port, batch: RecordBatch, out: &mut Outbox) -> Result<Step> {
            self.rest.extend((0..batch.num_rows()).map(|row| batch.slice(row, 1)));
            self.resume(out)
        }

        fn resume(&mut self, out: &mut Outbox) -> Result<Step> {
            let Some(row) = self.rest.pop_front() else { return Ok(Step::NeedInput) };
            out.push(row);
            self.limit -= 1;
            Ok(match self.limit {
                0 => Step::Done,
                even if even % 2 == 0 => Step::Blocked(self.context.io.run("nothing", || ()).ticket().clone()),
                _ => Step::MoreOutput,
            })
        }

        fn finish(&mut self, _port: Port, _out: &mut Outbox) -> Result<Step> {
            self.finished = true;
            Ok(Step::NeedInput)
        }

        fn ready(&self) -> PortSet {
            PortSet::only(0)
        }
    }

    fn row_by_row(limit: usize) -> RowByRow {
        RowByRow { context: context().operator(&[number_schema()]), rest: VecDeque::new(), limit, finished: false }
    }

    #[test]
    fn all_output_is_taken_whatever_the_operator_waits_for() {
        let mut operator = row_by_row(usize::MAX);
        let output = drive(&mut operator, [vec![numbers(0..5), numbers(5..7)]]).expect("runs");
        assert_eq!(output, (0..7).map(|n| numbers(n..n + 1)).collect::<Vec<_>>());
        assert!(operator.finished);
    }

    #[test]
    fn an_operator_that_is_done_is_not_called_again() {
        let mut operator = row_by_row(3);
        assert_eq!(drive(&mut operator, [vec![numbers(0..5), numbers(5..7)]]).expect("runs").len(), 3);
        assert!(!operator.finished);
    }

    #[test]
    fn an_operator_that_never_reads_a_port_is_an_error() {
        assert!(drive(&mut row_by_row(100), [vec![numbers(0..1)], vec![numbers(0..1)]]).is_err());
    }

    #[test]
    fn the_account_has_its_floor_and_its_pool() {
        let pool = MemoryPool::new(1000);
        let account = context().pool(&pool).floor(400).source().memory;
        assert_eq!((account.floor(), pool.charged()), (400, 400));
        drop(account);
        assert_eq!(pool.charged(), 0);
    }
}
