//! Filters that keep the first rows of a window alone: what they say is passed on to the window, which need not see the
//! others.
//!
//! Between the two are only steps that rename columns or leave some out, so that nobody else sees the rows either.

use datafusion_common::ScalarValue;
use datafusion_expr::logical_plan::Filter as FilterPlan;
use datafusion_expr::utils::split_conjunction;
use datafusion_expr::{BinaryExpr, Expr, LogicalPlan, Operator};

use super::Planner;

/// Rows of a window that are wanted: those that one of its functions numbers up to `rows`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) function: usize,
    pub(super) rows: usize,
}

impl Planner {
    /// Which rows of a window under `filter` pass it at the most.
    pub(super) fn wanted_by(&mut self, filter: &FilterPlan) -> Option<Wanted> {
        let conditions = split_conjunction(&filter.predicate);
        conditions.into_iter().find_map(|condition| {
            let columns = condition.column_refs();
            let column = columns.iter().next().filter(|_| columns.len() == 1)?;
            let rows = most(condition)?;
            let function = self.function(&filter.input, filter.input.schema().index_of_column(column).ok()?)?;
            Some(Wanted { function, rows })
        })
    }

    /// Which function of a window the column `index` of `plan` is, if nobody else reads that window.
    fn function(&mut self, plan: &LogicalPlan, index: usize) -> Option<usize> {
        if self.repeated.get(plan).is_some() {
            return None;
        }
        match plan {
            LogicalPlan::SubqueryAlias(alias) => self.function(&alias.input, index),
            LogicalPlan::Projection(projection) => match unnamed(projection.expr.get(index)?) {
                Expr::Column(column) => {
                    let index = projection.input.schema().index_of_column(column).ok()?;
                    self.function(&projection.input, index)
                }
                _ => None,
            },
            LogicalPlan::Window(window) => index.checked_sub(window.input.schema().fields().len()),
            _ => None,
        }
    }
}

/// The largest value that the column of `condition`, which has no other, may have where it is true.
fn most(condition: &Expr) -> Option<usize> {
    match condition {
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::And, right }) => match (most(left), most(right)) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        },
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Or, right }) => Some(most(left)?.max(most(right)?)),
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => match (unnamed(left), unnamed(right)) {
            (Expr::Column(_), Expr::Literal(number, _)) => bound(*op, number),
            (Expr::Literal(number, _), Expr::Column(_)) => bound(op.swap()?, number),
            _ => None,
        },
        Expr::Between(between) if !between.negated => match (&*between.expr, &*between.high) {
            (Expr::Column(_), Expr::Literal(number, _)) => bound(Operator::LtEq, number),
            _ => None,
        },
        Expr::InList(list) if !list.negated && matches!(&*list.expr, Expr::Column(_)) => {
            let numbers = list.list.iter().map(|item| match item {
                Expr::Literal(number, _) => bound(Operator::Eq, number),
                _ => None,
            });
            numbers.collect::<Option<Vec<_>>>()?.into_iter().max()
        }
        _ => None,
    }
}

/// The largest whole number `x` for which `x op number` is true.
fn bound(op: Operator, number: &ScalarValue) -> Option<usize> {
    let kind = number.data_type();
    let number: usize = number.to_string().parse().ok().filter(|_| kind.is_integer())?;
    match op {
        Operator::Eq | Operator::LtEq => Some(number),
        Operator::Lt => number.checked_sub(1),
        _ => None,
    }
}

fn unnamed(expr: &Expr) -> &Expr {
    match expr {
        Expr::Alias(alias) => unnamed(&alias.expr),
        other => other,
    }
}
