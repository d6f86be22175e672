//! A plan as text, DOT and Mermaid.

use std::fmt;

use crate::config::format_bytes;
use crate::plan::Plan;

impl fmt::Display for Plan {
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
        let floor = self.floors.iter().copied().max().unwrap_or(0);
        writeln!(f, "needs at least {} on a worker", format_bytes(floor))?;
        for (index, stage) in self.stages.iter().enumerate() {
            writeln!(f, "stage {index}, {}", counted(stage.partitions, "task"))?;
            for &node in &stage.nodes {
                writeln!(f, "  {}", self.node_text(node))?;
            }
            for &edge in &stage.outputs {
                let edge = &self.edges[edge];
                let to = match edge.to_stage {
                    Some(stage) => format!("stage {stage} (`{}`)", self.nodes[edge.to].name),
                    None => format!("result `{}`", self.nodes[edge.to].name),
                };
                let spools = if edge.hazardous { ", spools" } else { "" };
                writeln!(f, "  => {} to {to}{spools}", edge.exchange)?;
            }
        }
        Ok(())
    }
}

fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

impl Plan {
    fn node_text(&self, node: usize) -> String {
        let node = &self.nodes[node];
        let detail = node.kind.detail();
        let separator = if detail.is_empty() { "" } else { ": " };
        if *node.name == *node.kind.name() {
            format!("{}{separator}{detail}", node.name)
        } else {
            format!("{} ({}){separator}{detail}", node.name, node.kind.name())
        }
    }

    /// The plan in the DOT language of Graphviz: nodes boxed by stage, edges with their exchange.
    pub fn to_dot(&self) -> String {
        let quoted = |text: &str| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
        let mut dot = String::from("digraph plan {\n  rankdir=LR;\n  node [shape=box];\n");
        for (index, stage) in self.stages.iter().enumerate() {
            let label = format!("stage {index} x {}", stage.partitions);
            dot += &format!("  subgraph cluster_{index} {{\n    label={};\n", quoted(&label));
            for &node in &stage.nodes {
                dot += &format!("    n{node} [label={}];\n", quoted(&self.node_text(node)));
            }
            dot += "  }\n";
            for pair in stage.nodes.windows(2) {
                dot += &format!("  n{} -> n{};\n", pair[0], pair[1]);
            }
        }
        for edge in &self.edges {
            if edge.to_stage.is_none() {
                let label = quoted(&self.node_text(edge.to));
                dot += &format!("  n{} [label={label}, shape=oval];\n", edge.to);
            }
            let style = if edge.hazardous { ", style=dashed" } else { "" };
            let label = quoted(&edge.exchange.to_string());
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
                chart += &format!("    n{node}[{}]\n", quoted(&self.node_text(node)));
            }
            chart += "  end\n";
            for pair in stage.nodes.windows(2) {
                chart += &format!("  n{} --> n{}\n", pair[0], pair[1]);
            }
        }
        for edge in &self.edges {
            if edge.to_stage.is_none() {
                chart += &format!("  n{}([{}])\n", edge.to, quoted(&self.node_text(edge.to)));
            }
            let arrow = if edge.hazardous { "-.->" } else { "-->" };
            let label = quoted(&edge.exchange.to_string());
            chart += &format!("  n{} {arrow}|{label}| n{}\n", edge.from, edge.to);
        }
        chart
    }
}
