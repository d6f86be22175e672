//! Scalar expressions: from the logical to the physical ones that operators evaluate.

use aqueduct_operators::Expression;
use datafusion_common::DFSchema;
use datafusion_common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion_expr::Expr;
use datafusion_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion_physical_expr::create_physical_expr;

use super::{Planner, unsupported_expression};
use crate::error::{Error, Result};

impl Planner {
    /// `expr` over rows of `input`.
    pub(super) fn expression(&self, expr: &Expr, input: &DFSchema) -> Result<Expression> {
        supported(expr)?;
        Ok(create_physical_expr(expr, input, &self.props, &PhysicalPlanningContext::default())?)
    }
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
