//! Window expressions: functions that look at other rows than their own, and yield a value for each.

use datafusion_common::tree_node::{Transformed, TreeNode};
use datafusion_common::{Column, Result as QueryResult};
use datafusion_expr::expr::WindowFunction;
use datafusion_expr::expr_rewriter::normalize_cols;
use datafusion_expr::utils::find_window_exprs;
use datafusion_expr::{Expr, LogicalPlanBuilder, WindowFrame, WindowFunctionDefinition};

use super::order::IntoSortKeys;
use crate::expr::IntoExprs;

/// Makes a window expression of an aggregate or of a window function such as
/// [`row_number`](crate::functions::row_number).
pub trait Over {
    /// The function over all rows with the same values in `keys`; over all rows if there are no keys.
    ///
    /// ```
    /// # use aqueduct::prelude::*;
    /// # fn main() -> aqueduct::Result<()> {
    /// # let cluster = LocalCluster::builder().workers(1).memory_limit("64MB").progress(false).start()?;
    /// let rows = cluster.sql("select * from (values ('a', 1), ('b', 5), ('a', 3)) as t(k, v)")?;
    /// let shares = rows.with_column("total", sum(col("v")).over("k")).sort("v").compute()?;
    /// assert_eq!(shares.i64s("total")?, [Some(4), Some(4), Some(5)]);
    /// # Ok(())
    /// # }
    /// ```
    fn over(self, keys: impl IntoExprs) -> Expr;

    /// The function over the rows with the same values in `keys`, in the order of `order`: a rank is one in it, and an
    /// aggregate takes the rows up to the current one and those equal to it.
    /// [`ExprFunctionExt`](datafusion_expr::ExprFunctionExt) makes windows with other frames.
    ///
    /// ```
    /// # use aqueduct::prelude::*;
    /// # fn main() -> aqueduct::Result<()> {
    /// # let cluster = LocalCluster::builder().workers(1).memory_limit("64MB").progress(false).start()?;
    /// use aqueduct::functions::row_number;
    ///
    /// let rows = cluster.sql("select * from (values ('a', 1), ('b', 5), ('a', 3)) as t(k, v)")?;
    /// let ranked = rows.with_column("place", row_number().over_sorted("k", desc("v")));
    /// let best = ranked.filter(col("place").eq(lit(1))).sort("k").compute()?;
    /// assert_eq!(best.i64s("v")?, [Some(3), Some(5)]);
    /// # Ok(())
    /// # }
    /// ```
    fn over_sorted(self, keys: impl IntoExprs, order: impl IntoSortKeys) -> Expr;
}

impl Over for Expr {
    fn over(self, keys: impl IntoExprs) -> Expr {
        over(self, keys.into_exprs(), None::<[Expr; 0]>)
    }

    fn over_sorted(self, keys: impl IntoExprs, order: impl IntoSortKeys) -> Expr {
        over(self, keys.into_exprs(), Some(order))
    }
}

/// What is no function is left as it is: it has the same value over any window.
fn over(function: Expr, keys: Vec<Expr>, order: Option<impl IntoSortKeys>) -> Expr {
    let order = order.map(IntoSortKeys::into_sort_keys);
    let changed = function.transform_down(|part| {
        let mut window = match part {
            Expr::AggregateFunction(aggregate) => {
                let params = aggregate.params;
                let mut window =
                    WindowFunction::new(WindowFunctionDefinition::AggregateUDF(aggregate.func), params.args);
                window.params.filter = params.filter;
                window.params.distinct = params.distinct;
                window.params.null_treatment = params.null_treatment;
                window
            }
            Expr::WindowFunction(window) => *window,
            other => return Ok(Transformed::no(other)),
        };
        window.params.partition_by = keys.clone();
        window.params.window_frame = WindowFrame::new(order.as_ref().map(|_| false));
        window.params.order_by = order.clone().unwrap_or_default();
        Ok(Transformed::new(Expr::from(window), true, datafusion_common::tree_node::TreeNodeRecursion::Jump))
    });
    changed.expect("nothing here fails").data
}

/// Projects `exprs`, whose window functions are computed before.
pub(super) fn project(plan: LogicalPlanBuilder, exprs: Vec<Expr>) -> QueryResult<LogicalPlanBuilder> {
    let exprs = normalize_cols(exprs, plan.plan())?;
    let windows = find_window_exprs(&exprs);
    if windows.is_empty() {
        return plan.project(exprs);
    }
    let plan = LogicalPlanBuilder::from(LogicalPlanBuilder::window_plan(plan.build()?, windows.clone())?);
    let exprs = exprs.into_iter().map(|expr| {
        let replaced = expr.transform_down(|part| {
            Ok(match windows.contains(&part) {
                true => Transformed::yes(Expr::Column(Column::new_unqualified(part.schema_name().to_string()))),
                false => Transformed::no(part),
            })
        });
        replaced.map(|replaced| replaced.data)
    });
    let exprs = exprs.collect::<QueryResult<Vec<_>>>()?;
    plan.project(exprs)
}
