//! Rows of which it is no longer said that some columns tell them apart.
//!
//! DataFusion's unnest hands on what its input says of itself: that the keys of a group, say, are there once. Of its own rows
//! that is wrong. Its rules would leave out keys of an order, and of a group, that decide. So every unnest whose input says
//! such a thing gets a node below that says nothing, and that columns, filters and limits pass through.

use std::cmp::Ordering;
use std::collections::HashSet;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use datafusion_common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion_common::{DFSchemaRef, FunctionalDependencies, Result as QueryResult};
use datafusion_expr::logical_plan::{Extension, Unnest};
use datafusion_expr::{Expr, LogicalPlan, UserDefinedLogicalNodeCore};

/// Rows as they are, without keys.
#[derive(Debug, Clone)]
pub(crate) struct Unkeyed {
    pub(super) input: Arc<LogicalPlan>,
    schema: DFSchemaRef,
}

impl Unkeyed {
    fn try_new(input: Arc<LogicalPlan>) -> QueryResult<Self> {
        let schema = input.schema().as_ref().clone();
        let schema = Arc::new(schema.with_functional_dependencies(FunctionalDependencies::empty())?);
        Ok(Self { input, schema })
    }
}

impl PartialEq for Unkeyed {
    fn eq(&self, other: &Self) -> bool {
        self.input == other.input
    }
}

impl Eq for Unkeyed {}

impl Hash for Unkeyed {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.input.hash(state);
    }
}

impl PartialOrd for Unkeyed {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        self.input.partial_cmp(&other.input)
    }
}

impl UserDefinedLogicalNodeCore for Unkeyed {
    fn name(&self) -> &str {
        "unkeyed"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.input]
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    fn expressions(&self) -> Vec<Expr> {
        Vec::new()
    }

    fn prevent_predicate_push_down_columns(&self) -> HashSet<String> {
        HashSet::new()
    }

    fn necessary_children_exprs(&self, columns: &[usize]) -> Option<Vec<Vec<usize>>> {
        Some(vec![columns.to_vec()])
    }

    fn supports_limit_pushdown(&self) -> bool {
        true
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Unkeyed")
    }

    fn with_exprs_and_inputs(&self, _exprs: Vec<Expr>, mut inputs: Vec<LogicalPlan>) -> QueryResult<Self> {
        Self::try_new(Arc::new(inputs.remove(0)))
    }
}

/// `plan`, where what is unnested says nothing of its rows.
pub(crate) fn unkeyed(plan: LogicalPlan) -> QueryResult<LogicalPlan> {
    let mut any = false;
    let changed = plan.transform_up_with_subqueries(|plan| match plan {
        LogicalPlan::Unnest(unnest) if says_keys(&unnest.input)? => {
            any = true;
            let node = Arc::new(Unkeyed::try_new(unnest.input)?);
            let input = Arc::new(LogicalPlan::Extension(Extension { node }));
            let unnest = Unnest::try_new(input, unnest.exec_columns, unnest.options)?;
            Ok(Transformed::yes(LogicalPlan::Unnest(unnest)))
        }
        // What stands above has said it, too.
        plan if any && !plan.inputs().is_empty() => Ok(Transformed::yes(plan.recompute_schema()?)),
        plan => Ok(Transformed::no(plan)),
    });
    Ok(changed?.data)
}

/// Whether `plan` says that columns tell its rows apart, or will say so once it is optimised, as distinct rows become groups,
/// and nothing in it waits for columns from outside: the rules that join those look through no node that is not DataFusion's.
fn says_keys(plan: &LogicalPlan) -> QueryResult<bool> {
    let groups = |part: &LogicalPlan| Ok(matches!(part, LogicalPlan::Distinct(_) | LogicalPlan::Aggregate(_)));
    if plan.schema().functional_dependencies().is_empty() && !plan.exists(groups)? {
        return Ok(false);
    }
    let mut outer = false;
    plan.apply_with_subqueries(|part| {
        outer |= part.contains_outer_reference();
        Ok(if outer { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    })?;
    Ok(!outer)
}
