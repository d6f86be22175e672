//! Group-by: the keys, then the aggregates. Keys come first in the result, aggregates as they were listed.

use datafusion_common::tree_node::{Transformed, TreeNode};
use datafusion_common::{Column, Result as QueryResult, plan_err};
use datafusion_expr::utils::find_aggregate_exprs;
use datafusion_expr::{Aggregate, Expr, LogicalPlanBuilder};
use datafusion_functions_aggregate::expr_fn;

use super::Frame;
use crate::expr::{IntoExprs, column_name, count_rows, is_grouping_set, named};

/// Rows grouped by keys: what [`Frame::group_by`] returns. The aggregates turn it into a frame again.
///
/// The short forms keep the names of the columns, as in Dask: `group_by("category").mean("value")` has the
/// columns `category` and `value`. A group-by promises no order.
#[derive(Debug, Clone)]
pub struct GroupBy {
    frame: Frame,
    keys: Vec<Expr>,
}

impl GroupBy {
    pub(super) fn new(frame: Frame, keys: Vec<Expr>) -> Self {
        Self { frame, keys }
    }

    /// One row per group: the keys and these aggregates, which [`alias`](Expr::alias) names.
    ///
    /// An aggregate may be part of an expression, as in `sum(col("a")) / sum(col("b"))`.
    #[must_use]
    pub fn agg(&self, aggregates: impl IntoExprs) -> Frame {
        aggregate("agg", &self.frame, self.keys.clone(), aggregates.into_exprs())
    }

    /// The mean of each of these columns, nulls left out.
    #[must_use]
    pub fn mean(&self, columns: impl IntoExprs) -> Frame {
        self.each("mean", columns, expr_fn::avg)
    }

    /// The sum of each of these columns, nulls left out.
    #[must_use]
    pub fn sum(&self, columns: impl IntoExprs) -> Frame {
        self.each("sum", columns, expr_fn::sum)
    }

    /// The smallest value of each of these columns.
    #[must_use]
    pub fn min(&self, columns: impl IntoExprs) -> Frame {
        self.each("min", columns, expr_fn::min)
    }

    /// The largest value of each of these columns.
    #[must_use]
    pub fn max(&self, columns: impl IntoExprs) -> Frame {
        self.each("max", columns, expr_fn::max)
    }

    /// The number of values of each of these columns, nulls left out.
    #[must_use]
    pub fn count(&self, columns: impl IntoExprs) -> Frame {
        self.each("count", columns, expr_fn::count)
    }

    /// The number of rows of each group, in a column `count`.
    #[must_use]
    pub fn size(&self) -> Frame {
        aggregate("size", &self.frame, self.keys.clone(), vec![count_rows()])
    }

    fn each(&self, step: &'static str, columns: impl IntoExprs, function: impl Fn(Expr) -> Expr) -> Frame {
        let aggregates = columns.into_exprs().into_iter().map(|column| {
            let name = column_name(&column);
            function(column.unalias()).alias(name)
        });
        aggregate(step, &self.frame, self.keys.clone(), aggregates.collect())
    }
}

/// The aggregates of `frame` by `keys`; of all rows if there are no keys.
pub(super) fn aggregate(step: &'static str, frame: &Frame, keys: Vec<Expr>, aggregates: Vec<Expr>) -> Frame {
    frame.step(step, |plan| {
        let sets = keys.iter().any(is_grouping_set);
        let keys: Vec<Expr> = keys.into_iter().map(named).collect();
        let aggregates: Vec<Expr> = aggregates.into_iter().map(named).collect();
        for aggregate in &aggregates {
            if find_aggregate_exprs([aggregate]).is_empty() {
                return plan_err!("{aggregate} is not an aggregate: write `sum(..)`, `avg(..)` or the like");
            }
        }
        if aggregates.iter().all(|aggregate| matches!(aggregate.clone().unalias(), Expr::AggregateFunction(_))) {
            let plan = plan.aggregate(keys, aggregates)?;
            if !sets {
                return Ok(plan);
            }
            let columns: Vec<Expr> = columns_of(&plan).collect();
            plan.project(columns)
        } else {
            aggregate_then_compute(plan, keys, aggregates)
        }
    })
}

/// For expressions around aggregates: first the aggregates, then the expressions on their results.
fn aggregate_then_compute(
    plan: LogicalPlanBuilder,
    keys: Vec<Expr>,
    aggregates: Vec<Expr>,
) -> QueryResult<LogicalPlanBuilder> {
    let parts = find_aggregate_exprs(&aggregates);
    let part_name = |index: usize| format!("__part_{index}");
    let named_parts = parts.iter().enumerate().map(|(index, part)| part.clone().alias(part_name(index)));
    let plan = plan.aggregate(keys, named_parts.collect::<Vec<_>>())?;
    let mut keys: Vec<Expr> = columns_of(&plan).collect();
    keys.truncate(keys.len() - parts.len());
    let computed = aggregates.into_iter().map(|aggregate| {
        let replaced = aggregate.transform_down(|expr| {
            Ok(match parts.iter().position(|part| *part == expr) {
                Some(index) => Transformed::yes(Expr::Column(Column::new_unqualified(part_name(index)))),
                None => Transformed::no(expr),
            })
        });
        replaced.map(|replaced| replaced.data)
    });
    let columns = keys.into_iter().map(Ok).chain(computed).collect::<QueryResult<Vec<_>>>()?;
    plan.project(columns)
}

/// The columns of an aggregate, without the number of the grouping set.
fn columns_of(plan: &LogicalPlanBuilder) -> impl Iterator<Item = Expr> {
    let columns = plan.schema().iter().filter(|(_, field)| field.name() != Aggregate::INTERNAL_GROUPING_ID);
    columns.map(|(qualifier, field)| Expr::Column(Column::from((qualifier, field))))
}
