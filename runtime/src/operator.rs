//! The operator: a spec that travels, an instance that owns one partition's state, and what a step may answer.
//!
//! Operators are synchronous and know no actor, no thread and no mailbox. A task calls them one step at a
//! time; between steps it waits for memory, room, input and disk on their behalf.

use std::collections::VecDeque;
use std::fmt::{self, Debug};
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;

use crate::batch::batch_bytes;
use crate::error::Result;
use crate::io::{Io, Ticket};
use crate::memory::Account;
use crate::spill::SpillSpace;

/// An input of a node, counted from 0.
pub type Port = usize;

/// What an operator is, before it runs: immutable, shared by all its partitions.
pub trait OperatorSpec: Debug + Send + Sync + 'static {
    /// The kind of operator, such as `filter`, in plans, metrics and errors.
    fn name(&self) -> &str;

    /// Number of input ports.
    fn inputs(&self) -> usize {
        1
    }

    /// Number of output ports.
    fn outputs(&self) -> usize {
        1
    }

    /// The schema of output `output`, given the schema of each input.
    ///
    /// # Errors
    ///
    /// What is wrong with the inputs, as the user should read it.
    fn output_schema(&self, output: usize, inputs: &[SchemaRef]) -> Result<SchemaRef>;

    /// Makes the instance of one partition.
    ///
    /// # Errors
    ///
    /// Ends the job before it has started.
    fn instantiate(&self, context: OperatorContext) -> Result<Box<dyn Operator>>;

    /// Bytes that an instance needs at the least: to handle one batch of `batch_bytes` with all its state
    /// spilled. Its [`OperatorContext::memory`] has this floor. 0 for an operator without state.
    fn min_memory(&self, batch_bytes: usize) -> usize {
        let _ = batch_bytes;
        0
    }

    /// Bytes that an instance needs beside [`OperatorSpec::min_memory`] for each lane, where an input comes
    /// through [`Exchange::Lanes`](crate::Exchange::Lanes).
    fn lane_memory(&self, batch_bytes: usize) -> usize {
        let _ = batch_bytes;
        0
    }

    /// Whether nothing is emitted before every input has ended, as by a sort. Whatever is left unread behind
    /// such an operator holds nobody up above it, so nothing has to spool there.
    fn emits_after_input(&self) -> bool {
        false
    }

    /// Whether each input is read as it comes, whatever the others do. An operator that may leave a port
    /// unread while it reads another (a hash join that builds, an ordered merge) says `false`, and edges
    /// that could deadlock because of it spool.
    fn reads_all_ports(&self) -> bool {
        self.inputs() <= 1
    }

    /// Whether each input row yields its output rows at once and in order, so that source order survives.
    fn keeps_order(&self) -> bool {
        false
    }

    /// What `explain` shows behind the name, such as the predicate.
    fn detail(&self) -> String {
        String::new()
    }
}

/// One partition of an operator.
///
/// The task calls `process` for each batch, `finish` once per port after its last batch, and `resume`
/// after each [`Step::MoreOutput`] and each [`Step::Blocked`] whose ticket is done. The operator has ended
/// when all its ports are finished and the last call returned [`Step::NeedInput`], or with [`Step::Done`].
pub trait Operator: Send {
    /// Consumes one batch of `port`; emits at most a few batches to `out`.
    ///
    /// # Errors
    ///
    /// Any error ends the job; the operator is not called again.
    fn process(&mut self, port: Port, batch: RecordBatch, out: &mut Outbox) -> Result<Step>;

    /// Goes on after [`Step::MoreOutput`], once `out` has been taken, or after [`Step::Blocked`].
    ///
    /// # Errors
    ///
    /// As for [`Operator::process`].
    fn resume(&mut self, out: &mut Outbox) -> Result<Step> {
        let _ = out;
        Ok(Step::NeedInput)
    }

    /// Called once per port, after its last batch.
    ///
    /// # Errors
    ///
    /// As for [`Operator::process`].
    fn finish(&mut self, port: Port, out: &mut Outbox) -> Result<Step> {
        let _ = (port, out);
        Ok(Step::NeedInput)
    }

    /// The ports to read now: a hash join leaves its probe port out while it builds. Asked before every read.
    fn ready(&self) -> PortSet {
        PortSet::ALL
    }

    /// Frees up to `bytes` of state by writing it to disk, in one piece of at most 4 MiB, and returns what it
    /// freed. Called between steps when another task of the worker needs memory. 0 says that nothing is left.
    ///
    /// # Errors
    ///
    /// As for [`Operator::process`].
    fn spill(&mut self, bytes: usize) -> Result<usize> {
        let _ = bytes;
        Ok(0)
    }

    /// Bytes that `process` may allocate for `batch` beside its state, its output included. The task waits
    /// until they are reserved.
    fn step_bytes(&self, port: Port, batch: &RecordBatch) -> usize {
        let _ = port;
        2 * batch_bytes(batch)
    }
}

/// How a step ended.
#[derive(Debug)]
pub enum Step {
    /// Everything was consumed and emitted.
    NeedInput,
    /// More is to be emitted: call `resume` once the outbox has been taken.
    MoreOutput,
    /// Something outside the dataflow is waited for: call `resume` once the ticket is done.
    Blocked(Ticket),
    /// The operator needs no more input and emits no more: its inputs are stopped.
    Done,
}

/// A set of input ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortSet(u64);

impl PortSet {
    /// Every port.
    pub const ALL: PortSet = PortSet(u64::MAX);
    /// No port.
    pub const NONE: PortSet = PortSet(0);

    /// One port alone.
    pub fn only(port: Port) -> Self {
        Self(1 << port)
    }

    /// This set and `port`.
    #[must_use]
    pub fn with(self, port: Port) -> Self {
        Self(self.0 | 1 << port)
    }

    /// Whether `port` is in the set.
    pub fn contains(self, port: Port) -> bool {
        port < 64 && self.0 & (1 << port) != 0
    }
}

/// Where a step leaves its output.
#[derive(Debug, Default)]
pub struct Outbox {
    batches: VecDeque<(usize, RecordBatch)>,
    bytes: usize,
}

impl Outbox {
    /// An empty outbox, for calling an operator by hand.
    pub fn new() -> Self {
        Self::default()
    }

    /// Emits `batch` at output 0. Empty batches are dropped.
    pub fn push(&mut self, batch: RecordBatch) {
        self.push_to(0, batch);
    }

    /// Emits `batch` at `output`. Empty batches are dropped.
    pub fn push_to(&mut self, output: usize, batch: RecordBatch) {
        if batch.num_rows() > 0 {
            self.bytes += batch_bytes(&batch);
            self.batches.push_back((output, batch));
        }
    }

    /// Bytes of the batches inside.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether nothing was emitted.
    pub fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    /// Takes the oldest batch and the output it was emitted at.
    pub fn pop(&mut self) -> Option<(usize, RecordBatch)> {
        let (output, batch) = self.batches.pop_front()?;
        self.bytes -= batch_bytes(&batch);
        Some((output, batch))
    }
}

/// What an instance gets from its task.
#[derive(Clone, Debug)]
pub struct OperatorContext {
    /// Name of the node.
    pub node: Arc<str>,
    /// Index of this partition.
    pub partition: usize,
    /// Number of partitions of the node.
    pub partitions: usize,
    /// Schema of each input.
    pub inputs: Vec<SchemaRef>,
    /// Number of ports of each input: one, or one for each sending partition behind
    /// [`Exchange::Lanes`](crate::Exchange::Lanes). Ports are counted through all inputs.
    pub lanes: Vec<usize>,
    /// Largest batch, in bytes, that the plan counts on.
    pub batch_bytes: usize,
    /// Rows that an output batch should have at the most.
    pub batch_rows: usize,
    /// The account of this instance's state. Its floor is [`OperatorSpec::min_memory`].
    pub memory: Account,
    /// Where state is spilled to.
    pub spill: SpillSpace,
    /// The worker's I/O threads.
    pub io: Io,
}

/// A row-wise operator made of a closure from batch to batch.
pub struct Map<F> {
    name: String,
    schema: MapSchema,
    map: Arc<F>,
}

/// Schema of a [`Map`]'s output.
#[derive(Debug, Clone)]
enum MapSchema {
    AsInput,
    Fixed(SchemaRef),
}

impl<F> Map<F>
where
    F: Fn(RecordBatch) -> Result<RecordBatch> + Send + Sync + 'static,
{
    /// A closure that keeps the schema of its input.
    pub fn new(name: impl Into<String>, map: F) -> Self {
        Self { name: name.into(), schema: MapSchema::AsInput, map: Arc::new(map) }
    }

    /// A closure whose output has `schema`.
    pub fn with_schema(name: impl Into<String>, schema: SchemaRef, map: F) -> Self {
        Self { name: name.into(), schema: MapSchema::Fixed(schema), map: Arc::new(map) }
    }
}

impl<F> Debug for Map<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Map").field("name", &self.name).finish_non_exhaustive()
    }
}

impl<F> OperatorSpec for Map<F>
where
    F: Fn(RecordBatch) -> Result<RecordBatch> + Send + Sync + 'static,
{
    fn name(&self) -> &str {
        &self.name
    }

    fn output_schema(&self, _output: usize, inputs: &[SchemaRef]) -> Result<SchemaRef> {
        Ok(match &self.schema {
            MapSchema::AsInput => Arc::clone(&inputs[0]),
            MapSchema::Fixed(schema) => Arc::clone(schema),
        })
    }

    fn keeps_order(&self) -> bool {
        true
    }

    fn instantiate(&self, _context: OperatorContext) -> Result<Box<dyn Operator>> {
        Ok(Box::new(MapInstance { map: Arc::clone(&self.map) }))
    }
}

struct MapInstance<F> {
    map: Arc<F>,
}

impl<F> Operator for MapInstance<F>
where
    F: Fn(RecordBatch) -> Result<RecordBatch> + Send + Sync + 'static,
{
    fn process(&mut self, _port: Port, batch: RecordBatch, out: &mut Outbox) -> Result<Step> {
        out.push((self.map)(batch)?);
        Ok(Step::NeedInput)
    }
}
