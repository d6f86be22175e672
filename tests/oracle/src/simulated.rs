//! A query in the simulator. What DataFusion answers is what each run is compared with.

use aqueduct::prelude::*;
use aqueduct::runtime::testing::simulate;

use crate::answer::Rows;
use crate::clusters::frame;
use crate::query::Query;
use crate::search::{Failure, Outcome};

/// The smallest batches of a real plan, which floors count on.
const PLAN_BATCH_BYTES: usize = 64 << 10;

/// Runs `query` in the simulator, under the seed `number`, and compares each run with `expected`.
///
/// # Errors
///
/// If it cannot be planned, or a run breaks a rule.
pub fn check(number: u64, query: &Query, expected: &Rows) -> Result<Outcome, Failure> {
    // What the planner makes of a query depends on the size of the cluster: on whether a side of a join is sent to all.
    let workers = 1 + (number % 3) as usize * 2;
    let builder = LocalCluster::builder().workers(workers).memory_limit_bytes(64 << 20).progress(false);
    let cluster = builder.without_dashboard().start().expect("a cluster");
    let frame = frame(&cluster, query).map_err(|error| Failure::new("error in planning", error.to_string()))?;
    match frame.graph() {
        Ok(_) => {}
        Err(Error::Unsupported { what }) => return Ok(Outcome::Skipped(format!("unsupported: {what}"))),
        Err(error) => return Err(Failure::new("error in planning", error.to_string())),
    }
    let (exact, expected, ordered) = (query.exact.clone(), expected.clone(), query.ordered);
    let simulation = simulate(move || frame.graph().expect("it was planned before"));
    // The oracle's rows are what each run is compared with.
    let simulation = simulation.seeds(number..number + 1).smallest_batch_bytes(PLAN_BATCH_BYTES).any_rows();
    let simulation = simulation.with_check(move |run| {
        let Some(found) = run.result("result") else { return };
        let rows = Rows::new(&found.schema(), std::slice::from_ref(found), &exact).expect("the query's columns");
        if let Some(difference) = rows.differ(&expected, ordered) {
            panic!("{difference}");
        }
    });
    match simulation.find() {
        Ok(_) => Ok(Outcome::Agreed),
        Err(found) => {
            let text = found.to_string();
            if text.contains("one row or value needs") {
                return Ok(Outcome::Skipped("a row is larger than the floor".into()));
            }
            let rule = text.lines().next().unwrap_or("").split(": ").nth(1).unwrap_or("").to_string();
            Err(Failure::new(rule, text))
        }
    }
}
