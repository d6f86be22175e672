//! The graph that a program declares: nodes, and edges that say how rows get from one to the next.
//!
//! Declaring checks nothing and runs nothing; [`Plan`](crate::Plan) checks the graph as a whole.

use std::fmt;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;

use crate::error::Result;
use crate::operator::{Map, OperatorSpec};
use crate::sink::SinkSpec;
use crate::source::SourceSpec;

/// A dataflow as declared: sources, operators, sinks and results, and the edges between them.
#[derive(Debug, Clone, Default)]
pub struct Graph {
    pub(crate) nodes: Vec<Node>,
    /// Where it comes from: titles and texts.
    pub(crate) origins: Vec<(String, String)>,
}

/// A node of a [`Graph`]. As an input it means its output 0 over a forward edge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub(crate) usize);

/// A result that the caller reads: a stream of batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ResultId(pub(crate) NodeId);

#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) name: Arc<str>,
    pub(crate) kind: NodeKind,
    pub(crate) inputs: Vec<Input>,
    pub(crate) partitions: Option<Partitions>,
}

#[derive(Debug, Clone)]
pub(crate) enum NodeKind {
    Source(Arc<dyn SourceSpec>),
    Operator(Arc<dyn OperatorSpec>),
    Sink(Arc<dyn SinkSpec>),
    Result,
}

impl NodeKind {
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Source(spec) => spec.name(),
            Self::Operator(spec) => spec.name(),
            Self::Sink(spec) => spec.name(),
            Self::Result => "result",
        }
    }

    pub(crate) fn detail(&self) -> String {
        match self {
            Self::Source(spec) => spec.detail(),
            Self::Operator(spec) => spec.detail(),
            Self::Sink(spec) => spec.detail(),
            Self::Result => String::new(),
        }
    }
}

/// How many partitions a node has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Partitions {
    /// As many as the cluster has arbiters.
    PerArbiter,
    /// Several per arbiter, so that skew evens out: what hash-partitioned nodes have unless told otherwise.
    /// A small memory limit lowers it.
    Many,
    /// This many, whatever the limit.
    Fixed(usize),
}

/// How the rows of an edge are spread over the partitions of the receiving node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exchange {
    /// Partition *i* to partition *i*.
    Forward,
    /// Rows with equal values in these columns go to the same partition.
    Hash(Vec<String>),
    /// Batches in turn.
    RoundRobin,
    /// Every batch to every partition.
    Broadcast,
    /// Everything to one partition.
    Gather {
        /// Whether the rows arrive in the order of the source, or, behind an exchange, of the partitions.
        ordered: bool,
    },
    /// Everything to one partition, which sees each sending partition as a port of its own: what a merge of
    /// sorted inputs reads. The instance finds its ports in [`OperatorContext::lanes`](crate::OperatorContext).
    /// The sending node has at most 64 partitions.
    Lanes,
}

impl fmt::Display for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Forward => f.write_str("forward"),
            Self::Hash(columns) => write!(f, "hash({})", columns.join(", ")),
            Self::RoundRobin => f.write_str("round-robin"),
            Self::Broadcast => f.write_str("broadcast"),
            Self::Gather { ordered: false } => f.write_str("gather"),
            Self::Gather { ordered: true } => f.write_str("gather in order"),
            Self::Lanes => f.write_str("lanes"),
        }
    }
}

/// One input of a node: an output of another, and the exchange between them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Input {
    pub(crate) from: NodeId,
    pub(crate) output: usize,
    pub(crate) exchange: Exchange,
}

impl From<NodeId> for Input {
    fn from(from: NodeId) -> Self {
        Input { from, output: 0, exchange: Exchange::Forward }
    }
}

impl NodeId {
    /// Output number `output` of a node with several.
    pub fn output(self, output: usize) -> Input {
        Input { from: self, output, exchange: Exchange::Forward }
    }

    /// Output 0, hashed by `columns`.
    pub fn hash<S: Into<String>>(self, columns: impl IntoIterator<Item = S>) -> Input {
        Input::from(self).hash(columns)
    }

    /// Output 0, batches in turn.
    pub fn round_robin(self) -> Input {
        Input::from(self).round_robin()
    }

    /// Output 0, to every partition.
    pub fn broadcast(self) -> Input {
        Input::from(self).broadcast()
    }

    /// Output 0, to one partition, in any order.
    pub fn gather(self) -> Input {
        Input::from(self).gather()
    }

    /// Output 0, to one partition, in order.
    pub fn gather_in_order(self) -> Input {
        Input::from(self).gather_in_order()
    }

    /// Output 0, to one partition, each sending partition as a port of its own.
    pub fn lanes(self) -> Input {
        Input::from(self).lanes()
    }
}

impl Input {
    /// Hashed by `columns`.
    #[must_use]
    pub fn hash<S: Into<String>>(self, columns: impl IntoIterator<Item = S>) -> Self {
        self.through(Exchange::Hash(columns.into_iter().map(Into::into).collect()))
    }

    /// Batches in turn.
    #[must_use]
    pub fn round_robin(self) -> Self {
        self.through(Exchange::RoundRobin)
    }

    /// To every partition.
    #[must_use]
    pub fn broadcast(self) -> Self {
        self.through(Exchange::Broadcast)
    }

    /// To one partition, in any order.
    #[must_use]
    pub fn gather(self) -> Self {
        self.through(Exchange::Gather { ordered: false })
    }

    /// To one partition, in order.
    #[must_use]
    pub fn gather_in_order(self) -> Self {
        self.through(Exchange::Gather { ordered: true })
    }

    /// To one partition, each sending partition as a port of its own.
    #[must_use]
    pub fn lanes(self) -> Self {
        self.through(Exchange::Lanes)
    }

    /// Through `exchange`.
    #[must_use]
    pub fn through(self, exchange: Exchange) -> Self {
        Self { exchange, ..self }
    }
}

impl Graph {
    /// An empty graph.
    pub fn new() -> Self {
        Self::default()
    }

    /// Says where the graph comes from, such as the query that it was made of: `text` is shown under `title` beside the
    /// job's plan, as it is, and before what was described earlier.
    pub fn describe(&mut self, title: impl Into<String>, text: impl Into<String>) {
        self.origins.insert(0, (title.into(), text.into()));
    }

    /// Adds a source.
    pub fn source(&mut self, name: impl Into<String>, spec: impl SourceSpec) -> NodeId {
        self.add(name, NodeKind::Source(Arc::new(spec)), Vec::new())
    }

    /// Adds an operator with one input.
    pub fn operator(&mut self, name: impl Into<String>, spec: impl OperatorSpec, input: impl Into<Input>) -> NodeId {
        self.operator_with(name, spec, [input.into()])
    }

    /// Adds an operator with any number of inputs, one for each of its ports.
    pub fn operator_with(
        &mut self,
        name: impl Into<String>,
        spec: impl OperatorSpec,
        inputs: impl IntoIterator<Item = Input>,
    ) -> NodeId {
        self.add(name, NodeKind::Operator(Arc::new(spec)), inputs.into_iter().collect())
    }

    /// Adds a closure from batch to batch of the same schema.
    pub fn map<F>(&mut self, name: impl Into<String>, input: impl Into<Input>, map: F) -> NodeId
    where
        F: Fn(RecordBatch) -> Result<RecordBatch> + Send + Sync + 'static,
    {
        self.operator(name, Map::new("map", map), input)
    }

    /// Adds a closure from batch to batch of `schema`.
    pub fn map_to<F>(&mut self, name: impl Into<String>, schema: SchemaRef, input: impl Into<Input>, map: F) -> NodeId
    where
        F: Fn(RecordBatch) -> Result<RecordBatch> + Send + Sync + 'static,
    {
        self.operator(name, Map::with_schema("map", schema, map), input)
    }

    /// Adds a sink.
    pub fn sink(&mut self, name: impl Into<String>, spec: impl SinkSpec, input: impl Into<Input>) -> NodeId {
        self.add(name, NodeKind::Sink(Arc::new(spec)), vec![input.into()])
    }

    /// Adds a result that the caller reads from the running job. A forward edge becomes a gather.
    pub fn result(&mut self, name: impl Into<String>, input: impl Into<Input>) -> ResultId {
        let mut input = input.into();
        if input.exchange == Exchange::Forward {
            input = input.gather();
        }
        ResultId(self.add(name, NodeKind::Result, vec![input]))
    }

    /// Sets how many partitions `node` has. Unset, a node behind a forward edge has as many as its input, a
    /// gather makes one, and all others one per arbiter, hash-partitioned ones several.
    pub fn set_partitions(&mut self, node: NodeId, partitions: Partitions) {
        self.nodes[node.0].partitions = Some(partitions);
    }

    fn add(&mut self, name: impl Into<String>, kind: NodeKind, inputs: Vec<Input>) -> NodeId {
        self.nodes.push(Node { name: name.into().into(), kind, inputs, partitions: None });
        NodeId(self.nodes.len() - 1)
    }
}
