//! `from t, unnest(t.list)`: what stands behind the comma looks at each row before it, and where it only unnests and
//! computes, it is done to those rows as they pass. DataFusion plans it as a join with a subquery that it cannot take apart.

use datafusion_common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion_common::{NullHandling, Result as QueryResult, ScalarValue};
use datafusion_expr::logical_plan::{Filter, Join, Projection, Unnest};
use datafusion_expr::{Expr, JoinType, LogicalPlan};
use std::sync::Arc;

/// `plan` with each such join as steps on its left side.
pub(super) fn row_by_row(plan: LogicalPlan) -> QueryResult<LogicalPlan> {
    let changed = plan.transform_up_with_subqueries(|plan| {
        let LogicalPlan::Join(join) = &plan else { return Ok(Transformed::no(plan)) };
        Ok(match passed(join)? {
            Some(steps) => Transformed::yes(steps),
            None => Transformed::no(plan),
        })
    });
    Ok(changed?.data)
}

/// The rows of a join whose right side is made of the left one's rows; `None` if this is none, or does more.
fn passed(join: &Join) -> QueryResult<Option<LogicalPlan>> {
    let subquery = match join.right.as_ref() {
        LogicalPlan::SubqueryAlias(alias) => alias.input.as_ref(),
        other => other,
    };
    let (true, LogicalPlan::Subquery(subquery)) = (join.on.is_empty(), subquery) else { return Ok(None) };
    let always = matches!(join.filter, None | Some(Expr::Literal(ScalarValue::Boolean(Some(true)), _)));
    let keeps = match join.join_type {
        JoinType::Inner => false,
        JoinType::Left if always => true,
        _ => return Ok(None),
    };
    let mut steps = Steps { left: &join.left, keeps, width: join.left.schema().fields().len() };
    let Some(plan) = steps.over(&subquery.subquery)? else { return Ok(None) };
    // The right side's columns under the names it goes by.
    let fields = plan.schema().columns().into_iter().zip(join.schema.iter());
    let columns = fields.map(|(column, (qualifier, field))| named(Expr::Column(column), qualifier, field.name()));
    let columns = columns.collect();
    let plan = LogicalPlan::Projection(Projection::try_new(columns, Arc::new(plan))?);
    Ok(Some(match &join.filter {
        Some(filter) if !always => LogicalPlan::Filter(Filter::try_new(filter.clone(), Arc::new(plan))?),
        _ => plan,
    }))
}

struct Steps<'a> {
    left: &'a Arc<LogicalPlan>,
    /// Whether a row stays for which there is none on the right side.
    keeps: bool,
    /// Columns of the left side.
    width: usize,
}

impl Steps<'_> {
    /// The left side's columns, and behind them those of `plan` for the same row.
    fn over(&mut self, plan: &LogicalPlan) -> QueryResult<Option<LogicalPlan>> {
        Ok(match plan {
            LogicalPlan::EmptyRelation(empty) if empty.produce_one_row && empty.schema.fields().is_empty() => {
                Some(self.left.as_ref().clone())
            }
            LogicalPlan::Projection(projection) => {
                // A row that stays has nulls on the right side, whatever is computed there.
                if self.keeps && unnests(&projection.input) && !projection.expr.iter().all(is_column) {
                    return Ok(None);
                }
                let Some(input) = self.over(&projection.input)? else { return Ok(None) };
                let exprs = projection.expr.iter().zip(projection.schema.iter());
                let exprs = exprs
                    .map(|(expr, (qualifier, field))| Ok(named(own_columns(expr.clone())?, qualifier, field.name())));
                Some(self.project(input, exprs.collect::<QueryResult<_>>()?)?)
            }
            LogicalPlan::Subquery(subquery) => self.over(&subquery.subquery)?,
            LogicalPlan::SubqueryAlias(alias) => {
                let Some(input) = self.over(&alias.input)? else { return Ok(None) };
                let columns = input.schema().columns().into_iter().skip(self.width).zip(alias.schema.iter());
                let columns =
                    columns.map(|(column, (qualifier, field))| named(Expr::Column(column), qualifier, field.name()));
                let columns = columns.collect();
                Some(self.project(input, columns)?)
            }
            LogicalPlan::Unnest(unnest) => {
                let mut options = unnest.options.clone();
                if self.keeps {
                    if unnests(&unnest.input) || unnest.list_type_columns.iter().any(|(_, list)| list.depth > 1) {
                        return Ok(None);
                    }
                    options = options.with_null_handling(NullHandling::PreserveAndExpandEmpty);
                }
                let Some(input) = self.over(&unnest.input)? else { return Ok(None) };
                let columns = unnest.exec_columns.clone();
                Some(LogicalPlan::Unnest(Unnest::try_new(Arc::new(input), columns, options)?))
            }
            LogicalPlan::Filter(filter) if !self.keeps => {
                let Some(input) = self.over(&filter.input)? else { return Ok(None) };
                let predicate = own_columns(filter.predicate.clone())?;
                Some(LogicalPlan::Filter(Filter::try_new(predicate, Arc::new(input))?))
            }
            _ => None,
        })
    }

    /// The left side's columns of `input`, and `exprs`.
    fn project(&self, input: LogicalPlan, exprs: Vec<Expr>) -> QueryResult<LogicalPlan> {
        let left = input.schema().columns().into_iter().take(self.width).map(Expr::Column);
        let columns = left.chain(exprs).collect();
        Ok(LogicalPlan::Projection(Projection::try_new(columns, Arc::new(input))?))
    }
}

/// `expr` under this name; as it is if that is its own.
fn named(expr: Expr, qualifier: Option<&datafusion_common::TableReference>, name: &str) -> Expr {
    match &expr {
        Expr::Column(column) if column.relation.as_ref() == qualifier && column.name == name => expr,
        _ => expr.alias_qualified(qualifier.cloned(), name),
    }
}

/// `expr` with the columns of the rows around as columns of the row itself.
fn own_columns(expr: Expr) -> QueryResult<Expr> {
    let changed = expr.transform(|part| {
        Ok(match part {
            Expr::OuterReferenceColumn(_, column) => Transformed::yes(Expr::Column(column)),
            other => Transformed::no(other),
        })
    });
    Ok(changed?.data)
}

fn is_column(expr: &Expr) -> bool {
    match expr {
        Expr::Column(_) => true,
        Expr::Alias(alias) => is_column(&alias.expr),
        _ => false,
    }
}

fn unnests(plan: &LogicalPlan) -> bool {
    let mut found = false;
    let walked = plan.apply(|part| {
        found |= matches!(part, LogicalPlan::Unnest(_));
        Ok(if found { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    });
    walked.expect("nothing here fails");
    found
}
