//! A plan as plain data: what people see of it, without the specs that it runs.
//!
//! A shape holds on to nothing of the graph, so it outlives its job. Its `Display` is the explain text.

use std::fmt;

use serde::Serialize;

use crate::config::format_bytes;
use crate::graph::NodeKind;
use crate::plan::Plan;

/// What a plan looks like.
#[derive(Debug, Clone, Serialize)]
pub struct PlanShape {
    /// Workers that it was made for.
    pub workers: usize,
    /// Threads of each worker.
    pub threads_per_worker: usize,
    /// Memory limit of each worker.
    pub limit_bytes: usize,
    /// Largest batch.
    pub batch_bytes: usize,
    /// Most rows of a batch.
    pub batch_rows: usize,
    /// Bytes that it takes on a worker before it starts, at the most.
    pub floor_bytes: usize,
    /// In the order of declaration.
    pub nodes: Vec<NodeShape>,
    /// Chains of fused nodes.
    pub stages: Vec<StageShape>,
    /// What connects stages; nodes of one stage follow each other without an edge.
    pub edges: Vec<EdgeShape>,
    /// What it was made of, such as a query before and after it was optimised.
    pub origins: Vec<OriginShape>,
}

/// Something that a plan was made of.
#[derive(Debug, Clone, Serialize)]
pub struct OriginShape {
    /// What it is, such as `logical plan`.
    pub title: String,
    /// The thing itself, as text.
    pub text: String,
}

/// A node of a [`PlanShape`].
#[derive(Debug, Clone, Serialize)]
pub struct NodeShape {
    /// Its name.
    pub name: String,
    /// Kind of operator.
    pub kind: String,
    /// What it does, in words of the operator.
    pub detail: String,
    /// Where in a graph it stands.
    pub role: NodeRole,
    /// Number of partitions.
    pub partitions: usize,
    /// Its stage; `None` if the caller reads it.
    pub stage: Option<usize>,
}

/// Where in a graph a node stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeRole {
    /// It reads.
    Source,
    /// It has input and output.
    #[default]
    Operator,
    /// It writes.
    Sink,
    /// The caller reads it.
    Result,
}

/// A chain of fused nodes.
#[derive(Debug, Clone, Serialize)]
pub struct StageShape {
    /// Its nodes, from first to last.
    pub nodes: Vec<usize>,
    /// Number of tasks.
    pub partitions: usize,
    /// Edges out of the last node.
    pub outputs: Vec<usize>,
}

/// An edge between stages, or to the caller.
#[derive(Debug, Clone, Serialize)]
pub struct EdgeShape {
    /// The sending node.
    pub from: usize,
    /// The receiving node.
    pub to: usize,
    /// Stage of the receiving node; `None` if the caller reads it.
    pub to_stage: Option<usize>,
    /// How rows are dealt out, such as `hash(id)`.
    pub exchange: String,
    /// Whether it spools rather than parks while it is left unread.
    pub spools: bool,
}

impl NodeRole {
    pub(crate) fn of(kind: &NodeKind) -> Self {
        match kind {
            NodeKind::Source(_) => Self::Source,
            NodeKind::Operator(_) => Self::Operator,
            NodeKind::Sink(_) => Self::Sink,
            NodeKind::Result => Self::Result,
        }
    }
}

impl Plan {
    /// What it looks like, as plain data.
    pub fn shape(&self) -> PlanShape {
        let stage_of = |node| self.stages.iter().position(|stage| stage.nodes.contains(&node));
        PlanShape {
            workers: self.workers,
            threads_per_worker: self.threads_per_worker,
            limit_bytes: self.limit_bytes,
            batch_bytes: self.batch_bytes,
            batch_rows: self.batch_rows,
            floor_bytes: self.floors.iter().copied().max().unwrap_or(0),
            nodes: self
                .nodes
                .iter()
                .enumerate()
                .map(|(index, node)| NodeShape {
                    name: node.name.to_string(),
                    kind: node.kind.name().to_string(),
                    detail: node.kind.detail(),
                    role: NodeRole::of(&node.kind),
                    partitions: node.partitions,
                    stage: stage_of(index),
                })
                .collect(),
            stages: self
                .stages
                .iter()
                .map(|stage| StageShape {
                    nodes: stage.nodes.clone(),
                    partitions: stage.partitions,
                    outputs: stage.outputs.clone(),
                })
                .collect(),
            edges: self
                .edges
                .iter()
                .map(|edge| EdgeShape {
                    from: edge.from,
                    to: edge.to,
                    to_stage: edge.to_stage,
                    exchange: edge.exchange.to_string(),
                    spools: edge.hazardous,
                })
                .collect(),
            origins: self
                .origins
                .iter()
                .map(|(title, text)| OriginShape { title: title.clone(), text: text.clone() })
                .collect(),
        }
    }
}

impl NodeShape {
    /// Name, kind and detail in one line.
    pub fn text(&self) -> String {
        let separator = if self.detail.is_empty() { "" } else { ": " };
        if self.name == self.kind {
            format!("{}{separator}{}", self.name, self.detail)
        } else {
            format!("{} ({}){separator}{}", self.name, self.kind, self.detail)
        }
    }
}

impl PlanShape {
    /// One line that tells jobs apart: what is read, and what becomes of it.
    pub fn title(&self) -> String {
        let of = |roles: &[NodeRole]| {
            let names: Vec<_> =
                self.nodes.iter().filter(|node| roles.contains(&node.role)).map(|node| node.name.as_str()).collect();
            match &names[..] {
                [] => "nothing".to_string(),
                names if names.len() <= 3 => names.join(", "),
                names => format!("{}, {} and {} more", names[0], names[1], names.len() - 2),
            }
        };
        format!("{} → {}", of(&[NodeRole::Source]), of(&[NodeRole::Sink, NodeRole::Result]))
    }

    /// Bytes that it takes in memory, about.
    pub(crate) fn size_bytes(&self) -> usize {
        let texts: usize = self.nodes.iter().map(|node| node.name.len() + node.kind.len() + node.detail.len()).sum();
        let exchanges: usize = self.edges.iter().map(|edge| edge.exchange.len()).sum();
        let origins: usize = self.origins.iter().map(|origin| origin.title.len() + origin.text.len()).sum();
        texts + exchanges + origins + 160 * (self.nodes.len() + self.edges.len() + self.stages.len())
    }

    /// Cuts details to `bytes` each, and what it was made of to ten times that: a history is to stay small.
    pub(crate) fn shorten_details(&mut self, bytes: usize) {
        let cut = |text: &mut String, bytes: usize| {
            if text.len() > bytes {
                text.truncate(text.floor_char_boundary(bytes));
                text.push('…');
            }
            text.shrink_to_fit();
        };
        self.nodes.iter_mut().for_each(|node| cut(&mut node.detail, bytes));
        self.origins.iter_mut().for_each(|origin| cut(&mut origin.text, 10 * bytes));
    }

    /// The plan in the DOT language of Graphviz: nodes boxed by stage, edges with their exchange.
    pub fn to_dot(&self) -> String {
        let quoted = |text: &str| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
        let mut dot = String::from("digraph plan {\n  rankdir=LR;\n  node [shape=box];\n");
        for (index, stage) in self.stages.iter().enumerate() {
            let label = format!("stage {index} x {}", stage.partitions);
            dot += &format!("  subgraph cluster_{index} {{\n    label={};\n", quoted(&label));
            for &node in &stage.nodes {
                dot += &format!("    n{node} [label={}];\n", quoted(&self.nodes[node].text()));
            }
            dot += "  }\n";
            for pair in stage.nodes.windows(2) {
                dot += &format!("  n{} -> n{};\n", pair[0], pair[1]);
            }
        }
        for edge in &self.edges {
            if edge.to_stage.is_none() {
                let label = quoted(&self.nodes[edge.to].text());
                dot += &format!("  n{} [label={label}, shape=oval];\n", edge.to);
            }
            let style = if edge.spools { ", style=dashed" } else { "" };
            let label = quoted(&edge.exchange);
            dot += &format!("  n{} -> n{} [label={label}{style}];\n", edge.from, edge.to);
        }
        dot + "}\n"
    }

    /// The plan as a Mermaid flowchart.
    pub fn to_mermaid(&self) -> String {
        let quoted = |text: &str| format!("\"{}\"", text.replace('"', "#quot;"));
        let mut chart = String::from("flowchart LR\n");
        for (index, stage) in self.stages.iter().enumerate() {
            chart += &format!("  subgraph s{index} [\"stage {index} x {}\"]\n", stage.partitions);
            for &node in &stage.nodes {
                chart += &format!("    n{node}[{}]\n", quoted(&self.nodes[node].text()));
            }
            chart += "  end\n";
            for pair in stage.nodes.windows(2) {
                chart += &format!("  n{} --> n{}\n", pair[0], pair[1]);
            }
        }
        for edge in &self.edges {
            if edge.to_stage.is_none() {
                chart += &format!("  n{}([{}])\n", edge.to, quoted(&self.nodes[edge.to].text()));
            }
            let arrow = if edge.spools { "-.->" } else { "-->" };
            chart += &format!("  n{} {arrow}|{}| n{}\n", edge.from, quoted(&edge.exchange), edge.to);
        }
        chart
    }
}

impl fmt::Display for PlanShape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} x {}, {} each; batches of up to {} and {} rows",
            counted(self.workers, "worker"),
            counted(self.threads_per_worker, "thread"),
            format_bytes(self.limit_bytes),
            format_bytes(self.batch_bytes),
            self.batch_rows
        )?;
        writeln!(f, "needs at least {} on a worker", format_bytes(self.floor_bytes))?;
        for (index, stage) in self.stages.iter().enumerate() {
            writeln!(f, "stage {index}, {}", counted(stage.partitions, "task"))?;
            for &node in &stage.nodes {
                writeln!(f, "  {}", self.nodes[node].text())?;
            }
            for &edge in &stage.outputs {
                let edge = &self.edges[edge];
                let to = match edge.to_stage {
                    Some(stage) => format!("stage {stage} (`{}`)", self.nodes[edge.to].name),
                    None => format!("result `{}`", self.nodes[edge.to].name),
                };
                let spools = if edge.spools { ", spools" } else { "" };
                writeln!(f, "  => {} to {to}{spools}", edge.exchange)?;
            }
        }
        Ok(())
    }
}

/// A number and what it counts: `1 task`, `2 tasks`.
pub(crate) fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}
