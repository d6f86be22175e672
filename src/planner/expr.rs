//! Scalar expressions: from the logical to the physical ones that operators evaluate.

use aqueduct_operators::Expression;
use datafusion_common::DFSchema;
use datafusion_common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion_expr::utils::{split_binary, split_binary_owned};
use datafusion_expr::{BinaryExpr, Expr, Operator};
use datafusion_physical_expr::create_physical_expr;

use super::{Planner, unsupported_expression};
use crate::error::{Error, Result};

impl Planner {
    /// `expr` over rows of `input`.
    pub(super) fn expression(&self, expr: &Expr, input: &DFSchema) -> Result<Expression> {
        supported(expr)?;
        let expr = balanced(expr.clone());
        let levels = levels(&expr)?;
        if levels > MOST_LEVELS {
            return Err(Error::sql(format!(
                "an expression is nested {levels} levels deep, and {MOST_LEVELS} is the most: compute parts of it first"
            )));
        }
        Ok(create_physical_expr(&expr, input, &self.props, &PhysicalPlanningContext::default())?)
    }
}

/// How deep expressions may be nested that are evaluated: what surely fits on a worker's stack.
const MOST_LEVELS: usize = 250;
/// Conditions in one row that are left as they are.
const SHORT: usize = 16;

/// `expr` where long rows of conditions, which are as deep as they are long, have become flat trees.
fn balanced(expr: Expr) -> Expr {
    let changed = expr.transform_down(|part| {
        let op = match &part {
            Expr::BinaryExpr(BinaryExpr { op: op @ (Operator::And | Operator::Or), .. }) => *op,
            _ => return Ok(Transformed::no(part)),
        };
        if split_binary(&part, op).len() <= SHORT {
            return Ok(Transformed::no(part));
        }
        let parts = split_binary_owned(part, op).into_iter().map(balanced).collect();
        Ok(Transformed::new(tree(parts, op), true, TreeNodeRecursion::Jump))
    });
    changed.expect("nothing here fails").data
}

fn tree(mut parts: Vec<Expr>, op: Operator) -> Expr {
    while parts.len() > 1 {
        let mut left = parts.into_iter();
        let mut pairs = Vec::new();
        while let Some(one) = left.next() {
            pairs.push(match left.next() {
                Some(other) => Expr::BinaryExpr(BinaryExpr::new(Box::new(one), op, Box::new(other))),
                None => one,
            });
        }
        parts = pairs;
    }
    parts.remove(0)
}

fn levels(expr: &Expr) -> Result<usize> {
    let mut below = 0;
    expr.apply_children(|child| {
        below = below.max(levels(child).unwrap_or(usize::MAX - 1));
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(below + 1)
}

/// Refuses what no operator of ours can evaluate, by name.
pub(super) fn supported(expr: &Expr) -> Result<()> {
    let mut found = None;
    expr.apply(|part| {
        found = unsupported_expression(part);
        Ok(if found.is_some() { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    })?;
    found.map_or(Ok(()), |what| Err(Error::unsupported(format!("{what}, as in `{expr}`,"))))
}
