//! `intersect all` and `except all`: a row that is there several times on both sides counts several times. DataFusion
//! plans both as joins that ask only whether a row is there at all; with the number of each row among its equals as one
//! more key the same joins are right.

use std::sync::Arc;

use datafusion_common::tree_node::Transformed;
use datafusion_common::{Column, JoinType, NullEquality, Result as QueryResult};
use datafusion_expr::logical_plan::Join;
use datafusion_expr::{Expr, ExprFunctionExt, LogicalPlan, LogicalPlanBuilder};
use datafusion_functions_window::expr_fn::row_number;

/// What the numbers of equal rows are called, on either side.
const NUMBERS: [&str; 2] = ["__number", "__other_number"];

/// `plan` with the joins that stand for `intersect all` and `except all` made to count.
pub(super) fn counted(plan: LogicalPlan) -> QueryResult<LogicalPlan> {
    let changed = plan.transform_up_with_subqueries(|plan| match plan {
        LogicalPlan::Join(join) if is_of_multisets(&join) => Ok(Transformed::yes(with_numbers(&join)?)),
        other => Ok(Transformed::no(other)),
    });
    Ok(changed?.data)
}

/// Whether a join that DataFusion's planner of SQL made is such a set operation: no other compares nulls as equal. Where
/// the left side is distinct, each row is there once, and nothing needs to be counted.
fn is_of_multisets(join: &Join) -> bool {
    matches!(join.join_type, JoinType::LeftSemi | JoinType::LeftAnti)
        && join.null_equality == NullEquality::NullEqualsNull
        && !matches!(join.left.as_ref(), LogicalPlan::Distinct(_))
}

fn with_numbers(join: &Join) -> QueryResult<LogicalPlan> {
    let numbered = |plan: &Arc<LogicalPlan>, name| {
        let columns: Vec<Expr> = plan.schema().columns().into_iter().map(Expr::Column).collect();
        let number = row_number().partition_by(columns).build()?.alias(name);
        LogicalPlanBuilder::new_from_arc(Arc::clone(plan)).window([number])?.build()
    };
    let (left, right) = (numbered(&join.left, NUMBERS[0])?, numbered(&join.right, NUMBERS[1])?);
    let [number, other] = NUMBERS.map(|name| Expr::Column(Column::new_unqualified(name)));
    let on = join.on.iter().cloned().chain([(number, other)]).collect();
    let joined = Join::try_new(
        Arc::new(left),
        Arc::new(right),
        on,
        join.filter.clone(),
        join.join_type,
        join.join_constraint,
        join.null_equality,
        join.null_aware,
    )?;
    let columns: Vec<Expr> = join.left.schema().columns().into_iter().map(Expr::Column).collect();
    LogicalPlanBuilder::from(LogicalPlan::Join(joined)).project(columns)?.build()
}
