//! Figures of a run, as one JSON object.

use std::path::Path;
use std::time::Duration;

use aqueduct::runtime::allocator;
use aqueduct::runtime::metrics::{EdgeMetrics, JobMetrics, NodeMetrics, WorkerMetrics};
use serde_json::{Value, json};

use crate::failure::Failure;

/// What was measured beside the job's own figures.
pub(crate) struct Measured {
    /// From opening the files to the last batch of the result.
    pub(crate) elapsed: Duration,
    /// The part of it that went into writing the result.
    pub(crate) writing: Duration,
    pub(crate) rows: u64,
}

/// Writes the figures to `path`.
pub(crate) fn write(path: &Path, measured: &Measured, metrics: &JobMetrics) -> Result<(), Failure> {
    let text = format!("{:#}\n", figures(measured, metrics));
    std::fs::write(path, text).map_err(|error| Failure::io("writing", path, &error))
}

fn figures(measured: &Measured, metrics: &JobMetrics) -> Value {
    json!({
        "seconds": measured.elapsed.as_secs_f64(),
        "write_seconds": measured.writing.as_secs_f64(),
        "rows": measured.rows,
        "peak_bytes": allocator::peak_bytes(),
        "peak_rss_bytes": peak_rss_bytes(),
        "spilled_bytes": metrics.nodes.iter().map(|node| node.spilled_bytes).sum::<u64>(),
        "spooled_bytes": metrics.edges.iter().map(|edge| edge.spooled_bytes).sum::<u64>(),
        "source_bytes": metrics.source_bytes_done,
        "operators": metrics.nodes.iter().map(operator).collect::<Vec<_>>(),
        "edges": metrics.edges.iter().map(edge).collect::<Vec<_>>(),
        "workers": metrics.workers.iter().map(worker).collect::<Vec<_>>(),
    })
}

fn operator(node: &NodeMetrics) -> Value {
    json!({
        "name": node.name,
        "kind": node.kind,
        "partitions": node.partitions,
        "rows_in": node.rows_in,
        "rows_out": node.rows_out,
        "batches_in": node.batches_in,
        "batches_out": node.batches_out,
        "bytes_out": node.bytes_out,
        "busy_seconds": node.busy.as_secs_f64(),
        "peak_state_bytes": node.peak_state_bytes,
        "spilled_bytes": node.spilled_bytes,
    })
}

fn edge(edge: &EdgeMetrics) -> Value {
    json!({
        "from": edge.from,
        "to": edge.to,
        "exchange": edge.exchange,
        "rows": edge.rows,
        "batches": edge.batches,
        "bytes": edge.bytes,
        "parked_seconds": edge.parked.as_secs_f64(),
        "spooled_bytes": edge.spooled_bytes,
    })
}

fn worker(worker: &WorkerMetrics) -> Value {
    json!({
        "limit_bytes": worker.limit_bytes,
        "peak_bytes": worker.peak_bytes,
        "overruns": worker.overruns,
    })
}

/// The largest resident set so far; 0 where the system does not tell.
fn peak_rss_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.split_whitespace().next());
    line.and_then(|kilobytes| kilobytes.parse::<u64>().ok()).unwrap_or(0) * 1024
}
