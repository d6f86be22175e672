//! What `explain analyze` shows: the plan with what each of its operators did. Text by `Display`, JSON by `to_json`.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use super::seconds;
use crate::config::format_bytes;
use crate::metrics::bottleneck::percent;
use crate::metrics::{Bottleneck, EdgeMetrics, JobMetrics, JobState, TaskMetrics, WorkerMetrics, bottleneck};
use crate::plan::{NodeRole, PlanShape, counted};

/// A plan and what became of it.
#[derive(Debug, Clone, Serialize)]
pub struct Analysis {
    /// Where the job stood.
    pub state: JobState,
    /// Since its start.
    #[serde(rename = "elapsed_seconds", serialize_with = "seconds")]
    pub elapsed: Duration,
    /// What held it up, if something did.
    pub bottleneck: Option<Bottleneck>,
    /// Its chains of operators, each with what its tasks did.
    pub stages: Vec<StageAnalysis>,
    /// One for each node, in the order of declaration.
    pub operators: Vec<OperatorAnalysis>,
    /// What went between stages.
    pub edges: Vec<EdgeMetrics>,
    /// What was held and spilled where.
    pub workers: Vec<WorkerMetrics>,
    /// Bytes that sources have read.
    pub source_bytes: u64,
    /// Cycles of waits that were found and resolved.
    pub deadlocks: Vec<String>,
    /// How the plan is set up, in words.
    pub setup: String,
}

/// What the tasks of a stage did with their time, as shares from 0 to 1 that add up to 1.
#[derive(Debug, Clone, Default, Serialize)]
pub struct StageAnalysis {
    /// Its nodes, from first to last.
    pub nodes: Vec<usize>,
    /// Number of tasks.
    pub tasks: usize,
    /// Edges out of it.
    pub outputs: Vec<usize>,
    /// They ran, or waited for their turn on their thread.
    pub busy: f64,
    /// They waited for input.
    pub idle: f64,
    /// They waited for room at a receiver.
    pub parked: f64,
    /// They waited for memory.
    pub waiting_for_memory: f64,
    /// They waited for a disk or something else outside.
    pub blocked: f64,
}

/// What an operator did, all partitions together.
#[derive(Debug, Clone, Serialize)]
pub struct OperatorAnalysis {
    /// Its name.
    pub name: String,
    /// Kind of operator.
    pub kind: String,
    /// What it does, in its own words.
    pub detail: String,
    /// Where in the graph it stands.
    pub role: NodeRole,
    /// Its stage; `None` if the caller reads it.
    pub stage: Option<usize>,
    /// Number of partitions.
    pub partitions: usize,
    /// Rows taken in.
    pub rows_in: u64,
    /// Rows emitted.
    pub rows_out: u64,
    /// Bytes emitted.
    pub bytes_out: u64,
    /// Rows out for each row in; `None` if it takes none in.
    pub selectivity: Option<f64>,
    /// Time spent in its code, summed over partitions.
    #[serde(rename = "busy_seconds", serialize_with = "seconds")]
    pub busy: Duration,
    /// Time of the partition that took the longest.
    #[serde(rename = "longest_busy_seconds", serialize_with = "seconds")]
    pub longest_busy: Duration,
    /// Time that its tasks waited there for something outside or for spilled state.
    #[serde(rename = "waited_seconds", serialize_with = "seconds")]
    pub waited: Duration,
    /// Most bytes of state held, summed over partitions.
    pub peak_state_bytes: usize,
    /// Bytes of state written to disk.
    pub spilled_bytes: u64,
}

impl Analysis {
    /// Puts a plan and what a job of it has counted together.
    pub fn new(shape: &PlanShape, metrics: &JobMetrics) -> Self {
        let stages = shape.stages.iter().enumerate().map(|(index, stage)| {
            let tasks: Vec<_> = metrics.tasks.iter().filter(|task| task.stage == index).collect();
            let analysis = StageAnalysis::of(&tasks);
            let (nodes, outputs) = (stage.nodes.clone(), stage.outputs.clone());
            StageAnalysis { nodes, outputs, tasks: stage.partitions, ..analysis }
        });
        let mut longest = vec![Duration::ZERO; shape.nodes.len()];
        for share in metrics.tasks.iter().flat_map(|task| &task.nodes) {
            longest[share.node] = longest[share.node].max(share.busy);
        }
        let operators = shape.nodes.iter().zip(&metrics.nodes).enumerate().map(|(index, (node, counted))| {
            // What arrives at the caller is counted on its edges.
            let arrived = metrics.edges.iter().filter(|edge| edge.to_node == index).map(|edge| edge.rows).sum();
            OperatorAnalysis {
                name: node.name.clone(),
                kind: node.kind.clone(),
                detail: node.detail.clone(),
                role: node.role,
                stage: node.stage,
                partitions: node.partitions,
                rows_in: if node.role == NodeRole::Result { arrived } else { counted.rows_in },
                rows_out: counted.rows_out,
                bytes_out: counted.bytes_out,
                selectivity: (node.role == NodeRole::Operator && counted.rows_in > 0)
                    .then(|| counted.rows_out as f64 / counted.rows_in as f64),
                busy: counted.busy,
                longest_busy: longest[index],
                waited: counted.outside + counted.disk,
                peak_state_bytes: counted.peak_state_bytes,
                spilled_bytes: counted.spilled_bytes,
            }
        });
        let text = shape.to_string();
        Self {
            state: metrics.state,
            elapsed: metrics.elapsed,
            bottleneck: bottleneck(metrics),
            stages: stages.collect(),
            operators: operators.collect(),
            edges: metrics.edges.clone(),
            workers: metrics.workers.clone(),
            source_bytes: metrics.source_bytes_done,
            deadlocks: metrics.deadlocks.clone(),
            setup: text.lines().next().unwrap_or_default().to_string(),
        }
    }

    /// All of it as one JSON object; times are seconds.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("plain data with keys that are text")
    }

    fn rows_of_text(&self, stage: &StageAnalysis) -> Vec<[String; 8]> {
        let row = |&node: &usize| {
            let node = &self.operators[node];
            let or_dash = |shown: bool, text: String| if shown { text } else { "-".to_string() };
            let label =
                if node.name == node.kind { node.name.clone() } else { format!("{} ({})", node.name, node.kind) };
            [
                format!("  {label}"),
                or_dash(node.role != NodeRole::Source, grouped(node.rows_in)),
                or_dash(node.role != NodeRole::Sink, grouped(node.rows_out)),
                node.selectivity.map_or("-".into(), |share| format!("{:.1} %", share * 100.0)),
                or_dash(node.role != NodeRole::Sink, format_bytes(node.bytes_out as usize)),
                format!("{} (most {})", short(node.busy), short(node.longest_busy)),
                or_dash(node.peak_state_bytes > 0, format_bytes(node.peak_state_bytes)),
                or_dash(node.spilled_bytes > 0, format_bytes(node.spilled_bytes as usize)),
            ]
        };
        stage.nodes.iter().map(row).collect()
    }
}

impl StageAnalysis {
    fn of(tasks: &[&TaskMetrics]) -> Self {
        let sum = |time: fn(&TaskMetrics) -> Duration| tasks.iter().map(|task| time(task).as_secs_f64()).sum::<f64>();
        let all = sum(TaskMetrics::lifetime).max(f64::MIN_POSITIVE);
        Self {
            busy: sum(|task| task.busy) / all,
            idle: sum(|task| task.idle) / all,
            parked: sum(|task| task.parked) / all,
            waiting_for_memory: sum(|task| task.waiting_for_memory) / all,
            blocked: sum(|task| task.blocked) / all,
            ..Self::default()
        }
    }
}

const TITLES: [&str; 8] = ["operator", "rows in", "rows out", "kept", "bytes out", "busy", "peak state", "spilled"];

impl fmt::Display for Analysis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state.name();
        let peak = self.workers.iter().map(|worker| worker.peak_bytes).max().unwrap_or(0);
        let spilled: u64 = self.operators.iter().map(|operator| operator.spilled_bytes).sum();
        let spooled: u64 = self.edges.iter().map(|edge| edge.spooled_bytes).sum();
        write!(f, "{state} after {}", short(self.elapsed))?;
        // Not every source counts bytes.
        match self.source_bytes {
            0 => writeln!(f)?,
            bytes => writeln!(f, "; {} read", format_bytes(bytes as usize))?,
        }
        writeln!(f, "{}", self.setup)?;
        writeln!(
            f,
            "at most {} charged on a worker so far, {} spilled, {} spooled",
            format_bytes(peak),
            format_bytes(spilled as usize),
            format_bytes(spooled as usize)
        )?;
        match &self.bottleneck {
            Some(bottleneck) => writeln!(f, "bottleneck: {}", bottleneck.sentence)?,
            None => writeln!(f, "bottleneck: none to be seen")?,
        }
        for cycle in &self.deadlocks {
            writeln!(f, "resolved a cycle of waits: {cycle}")?;
        }
        let rows: Vec<_> = self.stages.iter().map(|stage| self.rows_of_text(stage)).collect();
        let mut widths = TITLES.map(|title| title.chars().count());
        widths[0] += 2;
        for (width, cell) in rows.iter().flatten().flat_map(widths_of) {
            widths[width] = widths[width].max(cell);
        }
        let mut titles = TITLES.map(String::from);
        titles[0] = format!("  {}", titles[0]);
        writeln!(f)?;
        line(f, &titles, &widths)?;
        for (index, (stage, rows)) in self.stages.iter().zip(&rows).enumerate() {
            writeln!(f, "stage {index}, {}: {}", counted(stage.tasks, "task"), stage.shares())?;
            for (&node, row) in stage.nodes.iter().zip(rows) {
                line(f, row, &widths)?;
                let detail = &self.operators[node].detail;
                if !detail.is_empty() {
                    writeln!(f, "      {detail}")?;
                }
            }
            for edge in stage.outputs.iter().filter_map(|&edge| self.edges.get(edge)) {
                write!(
                    f,
                    "  => {} to `{}`: {} rows, {}",
                    edge.exchange,
                    edge.to,
                    grouped(edge.rows),
                    format_bytes(edge.bytes as usize)
                )?;
                if edge.spooled_bytes > 0 {
                    write!(f, ", {} spooled", format_bytes(edge.spooled_bytes as usize))?;
                }
                if edge.parked.as_secs_f64() * 100.0 >= self.elapsed.as_secs_f64() {
                    write!(f, ", senders parked {}", short(edge.parked))?;
                }
                writeln!(f)?;
            }
        }
        Ok(())
    }
}

impl StageAnalysis {
    fn shares(&self) -> String {
        let shares = [
            ("busy", self.busy),
            ("idle", self.idle),
            ("parked", self.parked),
            ("short of memory", self.waiting_for_memory),
            ("blocked", self.blocked),
        ];
        let shown = shares.iter().filter(|(_, share)| *share >= 0.005);
        let texts: Vec<_> = shown.map(|(name, share)| format!("{name} {}", percent(*share))).collect();
        if texts.is_empty() { "nothing done".into() } else { texts.join(", ") }
    }
}

fn widths_of(row: &[String; 8]) -> impl Iterator<Item = (usize, usize)> {
    row.iter().map(|cell| cell.chars().count()).enumerate()
}

/// The first cell to the left, all others to the right.
fn line(f: &mut fmt::Formatter<'_>, cells: &[String; 8], widths: &[usize; 8]) -> fmt::Result {
    let mut text = format!("{:<width$}", cells[0], width = widths[0]);
    for (cell, &width) in cells.iter().zip(widths).skip(1) {
        text += &format!("  {cell:>width$}");
    }
    writeln!(f, "{}", text.trim_end())
}

/// A number with its thousands set apart.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A time in the unit that fits.
fn short(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    match seconds {
        s if s >= 100.0 => format!("{s:.0} s"),
        s if s >= 1.0 => format!("{s:.2} s"),
        s if s >= 0.001 => format!("{:.1} ms", s * 1e3),
        s if s > 0.0 => format!("{:.0} µs", s * 1e6),
        _ => "0 s".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ClusterConfig;
    use crate::graph::Graph;
    use crate::plan::Plan;
    use crate::testing::{CountingSink, NumbersSource};

    fn analysis() -> Analysis {
        let mut graph = Graph::new();
        let read = graph.source("read", NumbersSource::new(1_000_000));
        let work = graph.map("work", read.hash(["n"]), Ok);
        graph.sink("write", CountingSink::new(), work.gather());
        let plan = Plan::new(&graph, &ClusterConfig { workers: 2, ..ClusterConfig::default() }).expect("it plans");
        let mut metrics = crate::metrics::bottleneck::tests::pipeline(2, 10.0);
        metrics.state = JobState::Finished;
        (metrics.nodes[1].rows_in, metrics.nodes[1].rows_out) = (1_000_000, 250_000);
        metrics.nodes[1].spilled_bytes = 3 << 20;
        for task in metrics.tasks.iter_mut().filter(|task| task.stage == 1) {
            task.busy = Duration::from_secs(9);
            task.running = task.busy;
            task.nodes[0].busy = task.busy;
            task.idle = Duration::from_secs(1);
        }
        Analysis::new(&plan.shape(), &metrics)
    }

    #[test]
    fn the_text_has_a_line_for_each_operator_and_the_bottleneck() {
        let text = analysis().to_string();
        let line = text.lines().find(|line| line.trim_start().starts_with("work")).expect("a line");
        for cell in ["1,000,000", "250,000", "25.0 %", "3.0 MiB"] {
            assert!(line.contains(cell), "{cell}: {text}");
        }
        assert!(text.contains("bottleneck: `work` is busy 90 %"), "{text}");
        assert!(text.contains("stage 1, 8 tasks: busy 90 %, idle 10 %"), "{text}");
        assert!(text.starts_with("finished after 10.00 s"), "{text}");
    }

    #[test]
    fn the_json_has_the_same_figures() {
        let json: serde_json::Value = serde_json::from_str(&analysis().to_json()).expect("JSON");
        assert_eq!(json["state"], "finished");
        assert_eq!(json["operators"][1]["selectivity"], 0.25);
        assert_eq!(json["operators"][1]["longest_busy_seconds"], 0.0 + 9.0);
        assert_eq!(json["bottleneck"]["name"], "work");
        assert_eq!(json["bottleneck"]["cause"], "busy");
        assert_eq!(json["stages"][1]["idle"], 0.1);
    }

    #[test]
    fn numbers_and_times_are_short() {
        assert_eq!(
            ["0", "999", "1,000", "12,345,678"],
            [0, 999, 1000, 12_345_678].map(grouped).each_ref().map(|s| &**s)
        );
        let times = [0, 40, 1500, 2_500_000, 250_000_000].map(|micros| short(Duration::from_micros(micros)));
        assert_eq!(times, ["0 s", "40 µs", "1.5 ms", "2.50 s", "250 s"]);
    }
}
