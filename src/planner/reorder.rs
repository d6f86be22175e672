//! The order of inner joins: a query names its tables in any order, and joining them in that order may make rows that
//! the next join throws away. Here the two parts are joined first that yield the fewest rows, and so on. Where that is not
//! better by the estimates, the order of the query stays.

use std::collections::HashSet;
use std::sync::Arc;

use datafusion_common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion_common::{Column, JoinType, NullEquality, Result as QueryResult};
use datafusion_expr::logical_plan::{Join, Projection};
use datafusion_expr::utils::{conjunction, split_conjunction_owned};
use datafusion_expr::{Expr, JoinConstraint, LogicalPlan};

use super::estimate::estimate;

/// Tables of one block of joins at the most: each step looks at all pairs.
const MOST_TABLES: usize = 16;
/// How much fewer rows the steps of another order must have in all to be taken.
const BETTER: f64 = 0.9;

/// `plan` with its inner joins in a better order; whether there was one.
pub(crate) fn reordered(plan: LogicalPlan) -> QueryResult<Transformed<LogicalPlan>> {
    plan.transform_down(|plan| {
        if !is_inner(&plan) {
            return Ok(Transformed::no(plan));
        }
        let Some(better) = better_order(&plan)? else {
            return Ok(Transformed::no(plan));
        };
        // What is below the block of joins is looked at, the joins themselves are not again.
        Ok(Transformed::new(better, true, TreeNodeRecursion::Jump))
    })
}

/// A condition between tables.
#[derive(Debug, Clone)]
enum Condition {
    Equal(Expr, Expr),
    Other(Expr),
}

/// A block of inner joins, taken apart.
#[derive(Debug, Default)]
struct Block {
    tables: Vec<LogicalPlan>,
    conditions: Vec<Condition>,
    /// Rows of all joins but the last one, in the order of the query.
    rows: f64,
}

fn is_inner(plan: &LogicalPlan) -> bool {
    matches!(plan, LogicalPlan::Join(join)
        if join.join_type == JoinType::Inner && join.null_equality == NullEquality::NullEqualsNothing)
}

impl Block {
    fn take_apart(&mut self, plan: &LogicalPlan) {
        match plan {
            LogicalPlan::Join(join) if is_inner(plan) => {
                self.rows += estimate(plan).rows;
                self.take_apart(&join.left);
                self.take_apart(&join.right);
                self.conditions.extend(join.on.iter().cloned().map(|(left, right)| Condition::Equal(left, right)));
                let others = join.filter.iter().cloned().flat_map(split_conjunction_owned);
                self.conditions.extend(others.map(Condition::Other));
            }
            // A projection that only leaves columns out is done anew later.
            LogicalPlan::Projection(projection)
                if is_inner(&projection.input)
                    && projection.expr.iter().all(|expr| matches!(expr, Expr::Column(_))) =>
            {
                self.take_apart(&projection.input);
            }
            other => self.tables.push(other.clone()),
        }
    }

    /// Whether each column is that of one table alone, whatever is left out between the joins.
    fn has_unique_columns(&self) -> bool {
        let mut seen = HashSet::new();
        self.tables.iter().flat_map(|table| table.schema().columns()).all(|column| seen.insert(column))
    }
}

fn better_order(plan: &LogicalPlan) -> QueryResult<Option<LogicalPlan>> {
    let mut block = Block::default();
    block.take_apart(plan);
    if !(3..=MOST_TABLES).contains(&block.tables.len()) || !block.has_unique_columns() {
        return Ok(None);
    }
    let last = estimate(plan).rows;
    let written_rows = block.rows - last;
    let mut parts = Vec::with_capacity(block.tables.len());
    for table in block.tables {
        parts.push(reordered(table)?.data);
    }
    let mut conditions = block.conditions;
    let mut rows = 0.0;
    while parts.len() > 1 {
        let (left, right, joined) = cheapest(&parts, &conditions)?;
        conditions.retain(|condition| !is_about(condition, &joined));
        if parts.len() > 2 {
            rows += estimate(&joined).rows;
        }
        parts.remove(right);
        parts[left] = joined;
    }
    if rows > BETTER * written_rows {
        return Ok(None);
    }
    let columns = plan.schema().columns().into_iter().map(Expr::Column).collect();
    let joined = Arc::new(parts.remove(0));
    Ok(Some(LogicalPlan::Projection(Projection::try_new(columns, joined)?)))
}

/// The two parts whose join yields the fewest rows, and the join; parts without a condition only if there are no others.
fn cheapest(parts: &[LogicalPlan], conditions: &[Condition]) -> QueryResult<(usize, usize, LogicalPlan)> {
    let mut best: Option<(bool, f64, (usize, usize, LogicalPlan))> = None;
    for right in 1..parts.len() {
        for left in 0..right {
            let joined = joined(&parts[left], &parts[right], conditions)?;
            let cross = matches!(&joined, LogicalPlan::Join(join) if join.on.is_empty());
            let rows = estimate(&joined).rows;
            if best.as_ref().is_none_or(|(best_cross, best_rows, _)| (cross, rows) < (*best_cross, *best_rows)) {
                best = Some((cross, rows, (left, right, joined)));
            }
        }
    }
    Ok(best.expect("there are two parts at least").2)
}

/// Both parts, joined by the conditions that are about them.
fn joined(left: &LogicalPlan, right: &LogicalPlan, conditions: &[Condition]) -> QueryResult<LogicalPlan> {
    let mut on = Vec::new();
    let mut others = Vec::new();
    for condition in conditions {
        match condition {
            Condition::Equal(one, other) if is_over(one, left) && is_over(other, right) => {
                on.push((one.clone(), other.clone()))
            }
            Condition::Equal(one, other) if is_over(other, left) && is_over(one, right) => {
                on.push((other.clone(), one.clone()))
            }
            Condition::Equal(one, other) => others.push(one.clone().eq(other.clone())),
            Condition::Other(other) => others.push(other.clone()),
        }
    }
    others.retain(|other| other.column_refs().into_iter().all(|column| has(left, column) || has(right, column)));
    let (left, right) = (Arc::new(left.clone()), Arc::new(right.clone()));
    let equality = NullEquality::NullEqualsNothing;
    let filter = conjunction(others);
    Join::try_new(left, right, on, filter, JoinType::Inner, JoinConstraint::On, equality, false).map(LogicalPlan::Join)
}

fn has(plan: &LogicalPlan, column: &Column) -> bool {
    plan.schema().has_column(column)
}

fn is_over(expr: &Expr, plan: &LogicalPlan) -> bool {
    expr.column_refs().into_iter().all(|column| has(plan, column))
}

/// Whether `joined` has all columns of a condition, and so has tested it.
fn is_about(condition: &Condition, joined: &LogicalPlan) -> bool {
    match condition {
        Condition::Equal(one, other) => is_over(one, joined) && is_over(other, joined),
        Condition::Other(other) => is_over(other, joined),
    }
}
