//! Parts of a plan that are there more than once and worth computing once: a table expression that is used twice, for
//! one. The first planning of such a part is remembered, and its rows go to all who ask for them.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use datafusion_common::Result as QueryResult;
use datafusion_common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion_expr::{LogicalPlan, TableSource};

use super::Flow;
use super::estimate::estimate;

/// The share of a table's rows that a filter must leave for the scan to be worth sharing at the most.
const SHARED_SCAN: f64 = 0.5;

/// The repeated parts of one plan.
#[derive(Debug, Default)]
pub(super) struct Repeated {
    parts: HashMap<u64, Vec<(LogicalPlan, Option<Flow>)>>,
}

impl Repeated {
    /// The parts of `plan` that occur twice or more.
    pub(super) fn of(plan: &LogicalPlan) -> QueryResult<Self> {
        let mut seen: HashMap<u64, Vec<&LogicalPlan>> = HashMap::new();
        let mut repeated = Self::default();
        plan.apply(|part| {
            if is_worth_sharing(part) {
                let twins = seen.entry(hash(part)).or_default();
                if twins.iter().any(|twin| is_same(twin, part)) {
                    repeated.add(part);
                } else {
                    twins.push(part);
                }
            }
            Ok(TreeNodeRecursion::Continue)
        })?;
        Ok(repeated)
    }

    /// Has `plan` computed once, if that is worth it: the planner itself will ask for it twice.
    pub(super) fn share(&mut self, plan: &LogicalPlan) {
        if is_worth_sharing(plan) {
            self.add(plan);
        }
    }

    fn add(&mut self, part: &LogicalPlan) {
        let parts = self.parts.entry(hash(part)).or_default();
        if parts.iter().all(|(known, _)| !is_same(known, part)) {
            parts.push((part.clone(), None));
        }
    }

    /// Where the rows of `plan` come out: `Some(None)` if it is repeated and has not been planned.
    pub(super) fn get(&mut self, plan: &LogicalPlan) -> Option<&mut Option<Flow>> {
        if self.parts.is_empty() || !is_worth_sharing(plan) {
            return None;
        }
        let parts = self.parts.get_mut(&hash(plan))?;
        parts.iter_mut().find(|(known, _)| is_same(known, plan)).map(|(_, flow)| flow)
    }
}

fn hash(plan: &LogicalPlan) -> u64 {
    let mut hasher = DefaultHasher::new();
    plan.hash(&mut hasher);
    hasher.finish()
}

/// Whether both are the same steps on the same tables, which a plan's own equality tells by name alone.
fn is_same(one: &LogicalPlan, other: &LogicalPlan) -> bool {
    let same_table = |(one, other): (&Arc<dyn TableSource>, &Arc<dyn TableSource>)| {
        std::ptr::addr_eq(Arc::as_ptr(one), Arc::as_ptr(other))
    };
    one == other && tables(one).into_iter().zip(tables(other)).all(same_table)
}

fn tables(plan: &LogicalPlan) -> Vec<&Arc<dyn TableSource>> {
    let mut tables = Vec::new();
    let walked = plan.apply(|part| {
        if let LogicalPlan::TableScan(scan) = part {
            tables.push(&scan.source);
        }
        Ok(TreeNodeRecursion::Continue)
    });
    walked.expect("nothing here fails");
    tables
}

/// Whether computing `plan` twice costs more than handing its rows to two.
fn is_worth_sharing(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::Aggregate(_) | LogicalPlan::Join(_) | LogicalPlan::Window(_) | LogicalPlan::Sort(_) => {
            !is_volatile(plan)
        }
        LogicalPlan::Filter(filter) => {
            let rows = estimate(plan).rows;
            rows <= SHARED_SCAN * estimate(&filter.input).rows && !is_volatile(plan)
        }
        LogicalPlan::Projection(projection) => is_worth_sharing(&projection.input) && !is_volatile(plan),
        LogicalPlan::TableScan(scan) => !scan.filters.is_empty() && !is_volatile(plan),
        _ => false,
    }
}

/// Whether two computations may differ: each row of `random()` is drawn anew.
fn is_volatile(plan: &LogicalPlan) -> bool {
    let mut volatile = false;
    let walked = plan.apply(|part| {
        part.apply_expressions(|expr| {
            volatile |= expr.is_volatile();
            Ok(TreeNodeRecursion::Continue)
        })?;
        Ok(if volatile { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    });
    walked.expect("nothing here fails");
    volatile
}
