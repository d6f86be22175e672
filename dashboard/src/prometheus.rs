//! The figures of a cluster in the text format of Prometheus.
//!
//! Counters of the cluster go on for ever; those of single jobs are there while the job is, and only of so many jobs
//! and nodes that a scrape stays small.

use std::fmt::Write;
use std::sync::Arc;

use aqueduct_runtime::Observer;
use aqueduct_runtime::metrics::{EdgeMetrics, JobMetrics, JobState, NodeMetrics};
use aqueduct_runtime::observe::{MemoryCounts, WorkerMemory};

use crate::view::Kinds;

/// Jobs whose nodes and edges are shown.
const JOBS: usize = 20;
/// Nodes and edges that are shown of a job.
const NODES: usize = 200;

/// A family of samples: its head is written once, and its samples follow each other.
struct Family<'a> {
    text: &'a mut String,
    name: &'static str,
}

impl<'a> Family<'a> {
    fn new(text: &'a mut String, name: &'static str, kind: &str, help: &str) -> Self {
        let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
        Self { text, name }
    }

    fn sample(&mut self, labels: &[(&str, &str)], value: f64) -> &mut Self {
        self.text.push_str(self.name);
        for (index, (label, text)) in labels.iter().enumerate() {
            self.text.push(if index == 0 { '{' } else { ',' });
            let text = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let _ = write!(self.text, "{label}=\"{text}\"");
        }
        if !labels.is_empty() {
            self.text.push('}');
        }
        let _ = writeln!(self.text, " {value}");
        self
    }
}

/// What `observer` sees, as Prometheus reads it.
pub fn text(observer: &Observer) -> String {
    let mut text = String::new();
    cluster(&mut text, observer);
    workers(&mut text, observer);
    let jobs = observer.jobs();
    let live: Vec<_> = jobs.iter().filter(|job| job.ended_at().is_none()).collect();
    let mut family = Family::new(&mut text, "aqueduct_jobs", "gauge", "Jobs that wait in line and that run.");
    for (name, state) in [("waiting", JobState::Waiting), ("running", JobState::Running)] {
        family.sample(&[("state", name)], live.iter().filter(|job| job.state() == state).count() as f64);
    }
    let shown: Vec<_> = live.iter().take(JOBS).map(|job| (job.id().to_string(), job.metrics())).collect();
    nodes(&mut text, &shown);
    edges(&mut text, &shown);
    text
}

fn cluster(text: &mut String, observer: &Observer) {
    let totals = observer.totals();
    Family::new(text, "aqueduct_info", "gauge", "The version that runs.")
        .sample(&[("version", env!("CARGO_PKG_VERSION"))], 1.0);
    Family::new(text, "aqueduct_jobs_ended_total", "counter", "Jobs that have ended.")
        .sample(&[("state", "finished")], totals.finished as f64)
        .sample(&[("state", "failed")], totals.failed as f64)
        .sample(&[("state", "cancelled")], totals.cancelled as f64);
    let mut counter = |name, help: &str, value: f64| {
        Family::new(text, name, "counter", help).sample(&[], value);
    };
    counter("aqueduct_source_rows_total", "Rows that sources have emitted.", totals.source_rows as f64);
    counter("aqueduct_source_bytes_total", "Bytes that sources have read.", totals.source_bytes as f64);
    counter("aqueduct_spilled_bytes_total", "Bytes of state written to disk.", totals.spilled_bytes as f64);
    counter("aqueduct_spooled_bytes_total", "Bytes of edges written to disk.", totals.spooled_bytes as f64);
    counter("aqueduct_running_seconds_total", "Time that tasks ran.", totals.running.as_secs_f64());
}

fn workers(text: &mut String, observer: &Observer) {
    let workers: Vec<_> =
        observer.memory().into_iter().enumerate().map(|(i, worker)| (i.to_string(), worker)).collect();
    let mut family = |name, kind, help, value: &dyn Fn(&WorkerMemory) -> usize| {
        let mut family = Family::new(text, name, kind, help);
        for (index, worker) in &workers {
            family.sample(&[("worker", index)], value(worker) as f64);
        }
    };
    family("aqueduct_worker_limit_bytes", "gauge", "Memory limit of a worker.", &|worker| worker.limit_bytes);
    family("aqueduct_worker_charged_bytes", "gauge", "Memory charged on a worker.", &|worker| worker.charged_bytes);
    family("aqueduct_worker_peak_bytes", "gauge", "Most memory charged so far.", &|worker| worker.peak_bytes);
    let help = "How often a wrong estimate took a worker over its limit.";
    family("aqueduct_worker_overruns_total", "counter", help, &|worker| worker.overruns);
    let mut counter = |name, help, value: &dyn Fn(&MemoryCounts) -> u64| {
        let mut family = Family::new(text, name, "counter", help);
        for (index, worker) in &workers {
            family.sample(&[("worker", index)], value(&worker.counts) as f64);
        }
    };
    counter("aqueduct_worker_reclaims_total", "How often a holder was asked for memory.", &|counts| counts.reclaims);
    counter("aqueduct_worker_vain_reclaims_total", "How often it had none to give.", &|counts| counts.vain_reclaims);
    counter("aqueduct_worker_reclaimed_bytes_total", "Memory given back.", &|counts| counts.reclaimed_bytes);
    counter("aqueduct_worker_spills_total", "Pieces written to disk.", &|counts| counts.spills);
    counter("aqueduct_worker_spilled_bytes_total", "Bytes written to disk.", &|counts| counts.spilled_bytes);
    by_kind(text, "aqueduct_worker_kind_charged_bytes", "Memory charged, by what for.", &workers, Kinds::charged);
    by_kind(text, "aqueduct_worker_kind_held_bytes", "Memory held, by what for.", &workers, Kinds::held);
}

fn by_kind(
    text: &mut String,
    name: &'static str,
    help: &str,
    workers: &[(String, WorkerMemory)],
    kinds: fn(&WorkerMemory) -> Kinds,
) {
    let mut family = Family::new(text, name, "gauge", help);
    for (index, worker) in workers {
        let kinds = kinds(worker);
        for (kind, bytes) in [
            ("mailboxes", kinds.mailboxes),
            ("state", kinds.state),
            ("tasks", kinds.tasks),
            ("io", kinds.io),
            ("spill_buffers", kinds.spill_buffers),
            ("other", kinds.other),
        ] {
            family.sample(&[("worker", index), ("kind", kind)], bytes as f64);
        }
    }
}

type Jobs = [(String, Arc<JobMetrics>)];

fn nodes(text: &mut String, jobs: &Jobs) {
    let mut family = |name, kind, help, value: &dyn Fn(&NodeMetrics) -> f64| {
        let mut family = Family::new(text, name, kind, help);
        for (job, metrics) in jobs {
            for (index, node) in metrics.nodes.iter().enumerate().take(NODES) {
                family.sample(&[("job", job), ("index", &index.to_string()), ("node", &node.name)], value(node));
            }
        }
    };
    family("aqueduct_node_rows_in_total", "counter", "Rows taken in.", &|node| node.rows_in as f64);
    family("aqueduct_node_rows_out_total", "counter", "Rows emitted.", &|node| node.rows_out as f64);
    family("aqueduct_node_busy_seconds_total", "counter", "Time in the node's code.", &|node| node.busy.as_secs_f64());
    family("aqueduct_node_state_bytes", "gauge", "State held.", &|node| node.state_bytes as f64);
    family("aqueduct_node_spilled_bytes_total", "counter", "State written to disk.", &|node| node.spilled_bytes as f64);
}

fn edges(text: &mut String, jobs: &Jobs) {
    let mut family = |name, kind, help, value: &dyn Fn(&EdgeMetrics) -> f64| {
        let mut family = Family::new(text, name, kind, help);
        for (job, metrics) in jobs {
            for (index, edge) in metrics.edges.iter().enumerate().take(NODES) {
                let index = index.to_string();
                family.sample(&[("job", job), ("index", &index), ("from", &edge.from), ("to", &edge.to)], value(edge));
            }
        }
    };
    family("aqueduct_edge_rows_total", "counter", "Rows sent.", &|edge| edge.rows as f64);
    family("aqueduct_edge_queued_bytes", "gauge", "Bytes that wait.", &|edge| edge.queued_bytes as f64);
    family("aqueduct_edge_capacity_bytes", "gauge", "Bytes that may wait.", &|edge| edge.capacity_bytes as f64);
    let help = "Time that senders were parked.";
    family("aqueduct_edge_parked_seconds_total", "counter", help, &|edge| edge.parked.as_secs_f64());
    family("aqueduct_edge_spooled_bytes_total", "counter", "Bytes written to disk.", &|edge| edge.spooled_bytes as f64);
}
