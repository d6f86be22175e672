//! A query on real clusters: over 1, 2 and 8 partitions, each at the smallest limit that it is admitted with.

use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use aqueduct::prelude::*;
use aqueduct::runtime::testing::{ForcedReclaim, over_limit};
use aqueduct::runtime::{ExecutionError, OperatorError, PlanError};

use crate::answer::Rows;
use crate::data::Table;
use crate::query::Query;
use crate::search::{Failure, Outcome};

/// Workers, and threads of each.
const CLUSTERS: [(usize, usize); 3] = [(1, 1), (2, 1), (2, 4)];
/// What nobody should need.
const PATIENCE: Duration = Duration::from_secs(60);

enum Ran {
    Rows(Rows),
    Skipped(String),
}

fn cluster((workers, threads): (usize, usize), limit_bytes: usize) -> LocalCluster {
    let builder = LocalCluster::builder().workers(workers).threads_per_worker(threads).memory_limit_bytes(limit_bytes);
    builder.progress(false).without_dashboard().start().expect("a cluster")
}

pub(crate) fn frame(cluster: &LocalCluster, query: &Query) -> aqueduct::Result<Frame> {
    for Table { name, schema, batches, .. } in &query.tables {
        cluster.register_table(name.as_str(), &cluster.from_batches(Arc::clone(schema), batches.clone())?)?;
    }
    cluster.sql(&query.sql)
}

fn run(shape: (usize, usize), query: &Query) -> Result<Ran, Failure> {
    let mut limit_bytes = 1 << 20;
    loop {
        let cluster = cluster(shape, limit_bytes);
        // One of them is asked for memory all the time.
        let _forced = (shape == CLUSTERS[1]).then(|| ForcedReclaim::start(&cluster, limit_bytes as u64));
        let answer = frame(&cluster, query).and_then(|frame| frame.compute());
        match answer {
            Ok(table) => {
                let over: Vec<String> = cluster.memory().iter().filter_map(over_limit).collect();
                if !over.is_empty() {
                    let detail = format!("{shape:?} at {limit_bytes}: {}", over.join("; "));
                    return Err(Failure::new("over the limit", detail));
                }
                let rows = Rows::new(table.schema(), table.batches(), &query.exact);
                return rows.map(Ran::Rows).map_err(|error| Failure::new("columns", error));
            }
            Err(Error::Plan(error) | Error::Execution(ExecutionError::Plan(error))) if matches!(&*error, PlanError::LimitTooSmall { needed_bytes, .. } if *needed_bytes > limit_bytes) => {
                if let PlanError::LimitTooSmall { needed_bytes, .. } = &*error {
                    limit_bytes = *needed_bytes;
                }
            }
            Err(Error::Execution(ExecutionError::Operator { cause, .. }))
                if matches!(&*cause, OperatorError::RowTooLarge { .. }) =>
            {
                return Ok(Ran::Skipped("a row is larger than the floor".into()));
            }
            Err(Error::Unsupported { what }) => return Ok(Ran::Skipped(format!("unsupported: {what}"))),
            Err(error) => {
                let text = error.to_string();
                let kind: String = text.chars().filter(|c| c.is_alphabetic() || *c == ' ').take(60).collect();
                return Err(Failure::new(format!("error {kind}"), format!("{shape:?} at {limit_bytes}: {text}")));
            }
        }
    }
}

fn checked(query: &Query, expected: &Rows) -> Result<Outcome, Failure> {
    for shape in CLUSTERS {
        match run(shape, query)? {
            Ran::Skipped(why) => return Ok(Outcome::Skipped(why)),
            Ran::Rows(rows) => {
                if let Some(difference) = rows.differ(expected, query.ordered) {
                    return Err(Failure::new("wrong rows", format!("{shape:?}: {difference}")));
                }
            }
        }
    }
    Ok(Outcome::Agreed)
}

/// Runs `query` on clusters of several shapes, and compares with `expected`.
///
/// # Errors
///
/// The first that gives other rows, fails, or does not end.
pub fn check(query: &Query, expected: &Rows) -> Result<Outcome, Failure> {
    std::thread::scope(|scope| {
        let (done, result) = channel();
        scope.spawn(move || drop(done.send(checked(query, expected))));
        // A hang keeps the thread, and so the test: that it says so first is what matters.
        result.recv_timeout(PATIENCE).unwrap_or_else(|_| {
            eprintln!("{query}\nit hangs");
            Err(Failure::new("hang", format!("no end within {PATIENCE:?}")))
        })
    })
}
