//! A graph expanded to stages, partitions and workers, with the memory floors that admission asks for.
//!
//! ```text
//! nodes   read ── filter ── partial ══hash══ final ── having ══gather══ result
//! stages  └────── 0 ──────────────┘          └─── 1 ────────┘           (caller)
//! tasks   one per stage and partition, each on one arbiter
//! ```
//!
//! A stage is a chain of nodes joined by forward edges with nothing between them. Its `Display` is the
//! explain text.

mod check;
#[cfg(any(test, feature = "testing"))]
pub(crate) use check::unique;
mod explain;
mod floors;
mod hazards;
mod shape;

use std::sync::Arc;

use arrow::datatypes::SchemaRef;

use crate::config::ClusterConfig;
use crate::error::PlanError;
use crate::graph::{Exchange, Graph, NodeId, NodeKind};

pub(crate) use shape::counted;
pub use shape::{EdgeShape, NodeRole, NodeShape, OriginShape, PlanShape, StageShape};

/// Rows that a batch has at the most, unless a user's operator makes larger ones.
const BATCH_ROWS: usize = 8192;

/// A graph expanded to partitions and workers.
#[derive(Debug, Clone)]
pub struct Plan {
    pub(crate) nodes: Vec<PlanNode>,
    pub(crate) stages: Vec<Stage>,
    pub(crate) edges: Vec<Edge>,
    /// What the graph says of where it comes from.
    pub(crate) origins: Vec<(String, String)>,
    /// Largest batch, in bytes, that floors count on.
    pub(crate) batch_bytes: usize,
    pub(crate) batch_rows: usize,
    /// Bytes that each lane of a port may hold.
    pub(crate) port_bytes: usize,
    /// Bytes of floors on each worker.
    pub(crate) floors: Vec<usize>,
    /// From this limit on floors take half of a worker's memory at the most.
    pub(crate) half_limit_bytes: usize,
    pub(crate) workers: usize,
    pub(crate) threads_per_worker: usize,
    pub(crate) limit_bytes: usize,
}

/// A node with what was derived for it.
#[derive(Debug, Clone)]
pub(crate) struct PlanNode {
    pub(crate) name: Arc<str>,
    pub(crate) kind: NodeKind,
    pub(crate) inputs: Vec<SchemaRef>,
    /// Schema of each output; for sinks and results that of the input.
    pub(crate) outputs: Vec<SchemaRef>,
    pub(crate) partitions: usize,
}

/// A chain of fused nodes.
#[derive(Debug, Clone)]
pub(crate) struct Stage {
    pub(crate) nodes: Vec<usize>,
    pub(crate) partitions: usize,
    /// Edges into the first node, by port.
    pub(crate) inputs: Vec<usize>,
    /// Edges out of the last node.
    pub(crate) outputs: Vec<usize>,
    pub(crate) order: Order,
}

/// What the origins of a stage's batches mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// The split that the rows were read from.
    Source,
    /// Whatever came in with the input.
    Relay,
    /// The partition that made them.
    Partition,
}

/// An edge between stages, or to the caller.
#[derive(Debug, Clone)]
pub(crate) struct Edge {
    pub(crate) from: usize,
    pub(crate) output: usize,
    pub(crate) to: usize,
    pub(crate) exchange: Exchange,
    pub(crate) from_stage: usize,
    /// `None` if the caller reads it.
    pub(crate) to_stage: Option<usize>,
    pub(crate) senders: usize,
    pub(crate) receivers: usize,
    /// One lane per sender, and marks where splits end.
    pub(crate) ordered: bool,
    /// It spools rather than parks while it is left unread.
    pub(crate) hazardous: bool,
    pub(crate) schema: SchemaRef,
}

impl Edge {
    /// Ports that it has at each receiving partition.
    pub(crate) fn ports_per_receiver(&self) -> usize {
        if self.exchange == Exchange::Lanes { self.senders } else { 1 }
    }

    /// The receiving partition of a port.
    pub(crate) fn receiver_of(&self, port: usize) -> usize {
        port / self.ports_per_receiver()
    }

    /// Lanes of each of its ports.
    pub(crate) fn lanes(&self) -> usize {
        if self.ordered { self.senders_per_port() } else { 1 }
    }

    /// Lanes of all its ports at one receiving partition.
    pub(crate) fn lanes_per_receiver(&self) -> usize {
        self.ports_per_receiver() * self.lanes()
    }

    /// Senders at each of its ports.
    pub(crate) fn senders_per_port(&self) -> usize {
        if self.sends_to_one() { 1 } else { self.senders }
    }

    /// Whether partition *i* sends to port *i* alone.
    pub(crate) fn sends_to_one(&self) -> bool {
        matches!(self.exchange, Exchange::Forward | Exchange::Lanes)
    }
}

impl Plan {
    /// Plans `graph` for a cluster.
    ///
    /// # Errors
    ///
    /// What is wrong with the graph, and [`PlanError::LimitTooSmall`] if not even the smallest plan fits.
    pub fn new(graph: &Graph, config: &ClusterConfig) -> Result<Plan, PlanError> {
        if config.workers == 0 || config.threads_per_worker == 0 {
            return Err(PlanError::Config("a cluster has at least one worker with one thread".into()));
        }
        floors::fit(config, |per_arbiter| Self::expand(graph, config, per_arbiter))
    }

    /// Plans `graph` with sizes that somebody else chose, and whatever limit they need. For tests: smaller batches than
    /// a plan of its own would have make a small input a large one.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn with_sizes(
        graph: &Graph,
        config: &ClusterConfig,
        per_arbiter: usize,
        batch: (usize, usize),
        lane_batches: usize,
    ) -> Result<Plan, PlanError> {
        let mut plan = Self::expand(graph, config, per_arbiter)?;
        let (batch_bytes, batch_rows) = batch;
        plan.batch_rows = batch_rows;
        floors::set_sizes(&mut plan, batch_bytes, lane_batches);
        plan.half_limit_bytes = 2 * plan.floors.iter().copied().max().unwrap_or(0);
        Ok(plan)
    }

    /// Expands with so many hash partitions per arbiter; floors are filled in by the caller.
    fn expand(graph: &Graph, config: &ClusterConfig, per_arbiter: usize) -> Result<Plan, PlanError> {
        let nodes = check::nodes(graph, config.workers * config.threads_per_worker, per_arbiter)?;
        let (stages, edges) = fuse(graph, &nodes);
        let mut plan = Plan {
            nodes,
            stages,
            edges,
            origins: graph.origins.clone(),
            batch_bytes: 0,
            batch_rows: BATCH_ROWS,
            port_bytes: 0,
            floors: Vec::new(),
            half_limit_bytes: 0,
            workers: config.workers,
            threads_per_worker: config.threads_per_worker,
            limit_bytes: config.memory_limit_bytes,
        };
        hazards::mark(graph, &mut plan);
        Ok(plan)
    }

    /// Number of partitions of `node`; `None` if it is a node of another graph.
    pub fn partitions(&self, node: NodeId) -> Option<usize> {
        self.nodes.get(node.0).map(|node| node.partitions)
    }

    /// Bytes that the plan takes on each worker before it starts.
    pub fn floor_bytes(&self) -> &[usize] {
        &self.floors
    }

    /// Takes the hazard mark off every edge, so that only the watchdog is left. For tests.
    #[cfg(any(test, feature = "testing"))]
    #[must_use]
    pub fn without_hazard_marks(mut self) -> Self {
        self.edges.iter_mut().for_each(|edge| edge.hazardous = false);
        self
    }

    /// The arbiter of a partition: consecutive partitions go to different workers.
    pub(crate) fn arbiter(&self, partition: usize) -> (usize, usize) {
        (partition % self.workers, partition / self.workers % self.threads_per_worker)
    }

    /// Number of ports of each input of a node.
    pub(crate) fn lanes(&self, node: usize) -> Vec<usize> {
        let stage = self.stages.iter().find(|stage| stage.nodes.first() == Some(&node));
        match stage {
            Some(stage) if !stage.inputs.is_empty() => {
                stage.inputs.iter().map(|&edge| self.edges[edge].ports_per_receiver()).collect()
            }
            // Fused behind another node.
            _ => vec![1; self.nodes[node].inputs.len()],
        }
    }

    /// The nodes whose rows the caller reads.
    pub(crate) fn result_nodes(&self) -> impl Iterator<Item = usize> {
        self.nodes.iter().enumerate().filter(|(_, n)| matches!(n.kind, NodeKind::Result)).map(|(index, _)| index)
    }

    /// The name of a stage: those of its nodes.
    pub(crate) fn stage_name(&self, stage: usize) -> String {
        let names: Vec<_> = self.stages[stage].nodes.iter().map(|&n| &*self.nodes[n].name).collect();
        names.join(" -> ")
    }
}

/// Joins nodes to stages and makes the edges between them.
fn fuse(graph: &Graph, nodes: &[PlanNode]) -> (Vec<Stage>, Vec<Edge>) {
    let mut consumers = vec![0_usize; nodes.len()];
    for node in &graph.nodes {
        for input in &node.inputs {
            consumers[input.from.0] += 1;
        }
    }
    let mut stages: Vec<Stage> = Vec::new();
    let mut stage_of = vec![usize::MAX; nodes.len()];
    let mut edges = Vec::new();
    for (index, node) in graph.nodes.iter().enumerate() {
        let fused = match &node.inputs[..] {
            [only]
                if only.exchange == Exchange::Forward
                    && consumers[only.from.0] == 1
                    && nodes[only.from.0].outputs.len() == 1
                    && !matches!(node.kind, NodeKind::Result) =>
            {
                Some(stage_of[only.from.0])
            }
            _ => None,
        };
        if let Some(stage) = fused {
            stage_of[index] = stage;
            stages[stage].nodes.push(index);
            if !keeps_order(&node.kind) {
                stages[stage].order = Order::Partition;
            }
            continue;
        }
        let to_stage = (!matches!(node.kind, NodeKind::Result)).then_some(stages.len());
        let mut inputs = Vec::new();
        for input in &node.inputs {
            let from = input.from.0;
            let from_stage = stage_of[from];
            let edge = Edge {
                from,
                output: input.output,
                to: index,
                exchange: input.exchange.clone(),
                from_stage,
                to_stage,
                senders: nodes[from].partitions,
                receivers: nodes[index].partitions,
                ordered: match input.exchange {
                    Exchange::Gather { ordered } => ordered,
                    Exchange::Forward => stages[from_stage].order != Order::Partition,
                    _ => false,
                },
                hazardous: false,
                schema: Arc::clone(&nodes[from].outputs[input.output]),
            };
            stages[from_stage].outputs.push(edges.len());
            inputs.push(edges.len());
            edges.push(edge);
        }
        if to_stage.is_none() {
            continue;
        }
        let order = match (&node.kind, &inputs[..]) {
            (NodeKind::Source(_), _) => Order::Source,
            (kind, [only]) if keeps_order(kind) && edges[*only].ordered => Order::Relay,
            _ => Order::Partition,
        };
        stage_of[index] = stages.len();
        stages.push(Stage {
            nodes: vec![index],
            partitions: nodes[index].partitions,
            inputs,
            outputs: Vec::new(),
            order,
        });
    }
    (stages, edges)
}

fn keeps_order(kind: &NodeKind) -> bool {
    match kind {
        NodeKind::Operator(spec) => spec.keeps_order(),
        NodeKind::Sink(_) | NodeKind::Result => true,
        NodeKind::Source(_) => false,
    }
}

#[cfg(test)]
mod tests;
