//! Checks a graph as a whole, and derives schemas and numbers of partitions.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;

use crate::error::PlanError;
use crate::graph::{Exchange, Graph, Input, Node, NodeKind, Partitions};
use crate::plan::PlanNode;

/// Ports fit in a [`PortSet`](crate::PortSet).
const MAX_PORTS: usize = 64;
/// Far above any use; keeps a slip of the keyboard from taking the machine down.
const MAX_PARTITIONS: usize = 4096;

/// Derives every node, in the order of declaration, which is an order of the dataflow.
pub(super) fn nodes(graph: &Graph, arbiters: usize, per_arbiter: usize) -> Result<Vec<PlanNode>, PlanError> {
    if graph.nodes.is_empty() {
        return Err(PlanError::Graph("the graph has no nodes".into()));
    }
    let mut nodes: Vec<PlanNode> = Vec::with_capacity(graph.nodes.len());
    let mut used = vec![Vec::new(); graph.nodes.len()];
    let most = most_partitions(graph);
    for (index, node) in graph.nodes.iter().enumerate() {
        let wrong = |reason: String| PlanError::Node { node: node.name.to_string(), reason };
        for input in &node.inputs {
            let from = nodes
                .get(input.from.0)
                .ok_or_else(|| wrong(format!("input {} is no node of this graph declared before it", input.from.0)))?;
            if input.output >= from.outputs.len() || matches!(from.kind, NodeKind::Sink(_) | NodeKind::Result) {
                return Err(wrong(format!("`{}` has no output {}", from.name, input.output)));
            }
            used[input.from.0].push(input.output);
        }
        let inputs: Vec<SchemaRef> =
            node.inputs.iter().map(|input| Arc::clone(&nodes[input.from.0].outputs[input.output])).collect();
        check_inputs(node, &inputs).map_err(wrong)?;
        let outputs = match &node.kind {
            NodeKind::Source(spec) => vec![spec.schema()],
            NodeKind::Operator(spec) => (0..spec.outputs())
                .map(|output| spec.output_schema(output, &inputs).map_err(|e| wrong(e.to_string())))
                .collect::<Result<_, _>>()?,
            NodeKind::Sink(_) | NodeKind::Result => inputs.clone(),
        };
        let partitions = partitions(node, &nodes, arbiters, per_arbiter, most[index]).map_err(wrong)?;
        let name = unique(&node.name, index, nodes.iter().map(|node| &node.name));
        nodes.push(PlanNode { name, kind: node.kind.clone(), inputs, outputs, partitions });
    }
    for (node, used) in nodes.iter().zip(&used) {
        let ends = matches!(node.kind, NodeKind::Sink(_) | NodeKind::Result);
        if let Some(output) = (0..node.outputs.len()).find(|output| !ends && !used.contains(output)) {
            return Err(PlanError::Node {
                node: node.name.to_string(),
                reason: format!("output {output} goes nowhere: give it to a sink or a result"),
            });
        }
    }
    Ok(nodes)
}

fn check_inputs(node: &Node, schemas: &[SchemaRef]) -> Result<(), String> {
    let expected = match &node.kind {
        NodeKind::Source(_) => 0,
        NodeKind::Operator(spec) => spec.inputs(),
        NodeKind::Sink(_) | NodeKind::Result => 1,
    };
    if node.inputs.len() != expected {
        return Err(format!("it takes {expected} inputs and got {}", node.inputs.len()));
    }
    if expected > MAX_PORTS {
        return Err(format!("a node has at most {MAX_PORTS} inputs"));
    }
    let lanes = node.inputs.iter().any(|input| input.exchange == Exchange::Lanes);
    if lanes && !matches!(node.kind, NodeKind::Operator(_)) {
        return Err("only an operator reads lanes: gather them instead".into());
    }
    if let NodeKind::Operator(spec) = &node.kind
        && (spec.outputs() == 0 || expected == 0)
    {
        return Err("an operator has at least one input and one output: else it is a source or a sink".into());
    }
    for (input, schema) in node.inputs.iter().zip(schemas) {
        if let Exchange::Hash(columns) = &input.exchange {
            if columns.is_empty() {
                return Err("a hash exchange needs at least one column".into());
            }
            for column in columns {
                let count = schema.fields().iter().filter(|field| field.name() == column).count();
                if count != 1 {
                    let names: Vec<_> = schema.fields().iter().map(|field| field.name().as_str()).collect();
                    return Err(format!(
                        "it hashes by column `{column}`, which its input has {count} times (columns: {})",
                        names.join(", ")
                    ));
                }
            }
        }
    }
    Ok(())
}

/// The most partitions that each node may have, for the ports of those who read it by lanes.
fn most_partitions(graph: &Graph) -> Vec<usize> {
    let mut most = vec![MAX_PARTITIONS; graph.nodes.len()];
    for (index, node) in graph.nodes.iter().enumerate().rev() {
        let lanes = node.inputs.iter().filter(|input| input.exchange == Exchange::Lanes).count();
        for input in &node.inputs {
            let here = match input.exchange {
                Exchange::Lanes => (MAX_PORTS.saturating_sub(node.inputs.len() - lanes) / lanes).max(1),
                Exchange::Forward => most[index],
                _ => continue,
            };
            if let Some(from) = most.get_mut(input.from.0) {
                *from = here.min(*from);
            }
        }
    }
    most
}

fn partitions(
    node: &Node,
    nodes: &[PlanNode],
    arbiters: usize,
    per_arbiter: usize,
    most: usize,
) -> Result<usize, String> {
    let wanted = node.partitions.map(|partitions| match partitions {
        Partitions::PerArbiter => arbiters.min(most),
        Partitions::Many => (arbiters * per_arbiter).min(most),
        Partitions::Fixed(count) => count,
    });
    if wanted.is_some_and(|count| count == 0 || count > MAX_PARTITIONS) {
        return Err(format!("a node has 1 to {MAX_PARTITIONS} partitions"));
    }
    if let Some(count) = wanted.filter(|count| *count > most) {
        return Err(format!("it is read by lanes, one for each of its partitions: at most {most}, and not {count}"));
    }
    if matches!(node.kind, NodeKind::Result) {
        let single = |input: &Input| matches!(input.exchange, Exchange::Gather { .. });
        return if node.inputs.iter().all(single) { Ok(1) } else { Err("a result is gathered".into()) };
    }
    if let NodeKind::Source(spec) = &node.kind {
        let most = spec.max_partitions().unwrap_or(usize::MAX).clamp(1, most);
        return Ok(wanted.unwrap_or(arbiters).min(most));
    }
    let mut forced: Option<(usize, String)> = None;
    for input in &node.inputs {
        let from = &nodes[input.from.0];
        let (count, why) = match input.exchange {
            Exchange::Forward => (from.partitions, format!("a forward edge from `{}`", from.name)),
            Exchange::Gather { .. } => (1, format!("a gather from `{}`", from.name)),
            Exchange::Lanes => (1, format!("the lanes of `{}`", from.name)),
            _ => continue,
        };
        match &forced {
            Some((other, because)) if *other != count => {
                return Err(format!("{because} gives it {other} partitions and {why} gives it {count}"));
            }
            _ => forced = Some((count, why)),
        }
    }
    match (forced, wanted) {
        (Some((count, why)), Some(wanted)) if count != wanted => {
            Err(format!("{why} gives it {count} partitions and it was set to {wanted}: use another exchange"))
        }
        (Some((count, _)), _) => Ok(count),
        (None, Some(wanted)) => Ok(wanted),
        (None, None) => {
            let hashed = node.inputs.iter().any(|input| matches!(input.exchange, Exchange::Hash(_)));
            Ok(if hashed { arbiters * per_arbiter } else { arbiters }.min(most))
        }
    }
}

/// Names are unique in plans, metrics and errors: a second `filter` becomes `filter 2`.
pub(crate) fn unique<'a>(name: &Arc<str>, index: usize, names: impl Iterator<Item = &'a Arc<str>> + Clone) -> Arc<str> {
    let name: Arc<str> = if name.is_empty() { format!("node {index}").into() } else { Arc::clone(name) };
    let taken = |candidate: &str| names.clone().any(|name| &**name == candidate);
    if !taken(&name) {
        return name;
    }
    (2..).map(|n| format!("{name} {n}")).find(|candidate| !taken(candidate)).map_or(name, Into::into)
}
