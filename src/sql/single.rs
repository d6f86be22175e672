//! Subqueries that stand for one value, made ready for the optimiser, which turns them into joins. One that could yield
//! several rows is made to fail if it does: a join would take them all. Each yields a column of a name of its own: that of
//! the subquery may be one of the rows around it.

use std::sync::{Arc, LazyLock};

use arrow::array::AsArray;
use arrow::datatypes::{DataType, Int64Type};
use datafusion_common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion_common::{Column, Result as QueryResult, exec_err};
use datafusion_expr::expr_rewriter::NamePreserver;
use datafusion_expr::logical_plan::Subquery;
use datafusion_expr::{
    ColumnarValue, Expr, LogicalPlan, LogicalPlanBuilder, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
    Volatility, lit,
};
use datafusion_functions_aggregate::count::count_all;
use datafusion_functions_aggregate::first_last::first_value;

/// `plan` with every subquery that stands for one value, and does not look at rows around it, held to one row.
pub(super) fn at_most_one_row(plan: LogicalPlan) -> QueryResult<LogicalPlan> {
    let mut seen = 0;
    let changed = plan.transform_down_with_subqueries(|plan| {
        let names = NamePreserver::new(&plan);
        let selects = matches!(plan, LogicalPlan::Projection(_));
        plan.map_expressions(|expr| {
            let name = names.save(&expr);
            let changed = expr.transform_down(|expr| match expr {
                Expr::ScalarSubquery(subquery) if subquery.outer_ref_columns.is_empty() && !is_held(&subquery) => {
                    seen += 1;
                    let held = held_to_one(&subquery.subquery, &format!("{HELD}{seen}"))?;
                    Ok(Transformed::new(
                        Expr::ScalarSubquery(subquery.with_plan(Arc::new(held))),
                        true,
                        TreeNodeRecursion::Jump,
                    ))
                }
                Expr::Exists(exists) if selects => {
                    let found =
                        Expr::ScalarSubquery(exists.subquery.with_plan(Arc::new(any_row(&exists.subquery.subquery)?)));
                    let found = if exists.negated { Expr::Not(Box::new(found)) } else { found };
                    Ok(Transformed::new(found, true, TreeNodeRecursion::Jump))
                }
                other => Ok(Transformed::no(other)),
            })?;
            Ok(changed.update_data(|expr| name.restore(expr)))
        })
    });
    Ok(changed?.data)
}

/// What the columns of subqueries are called, and a number.
const HELD: &str = "__value_";

fn is_held(subquery: &Subquery) -> bool {
    subquery.subquery.schema().fields().first().is_some_and(|field| field.name().starts_with(HELD))
}

/// The only row of `plan`, null if there is none, an error if there are several; its column is called `name`.
fn held_to_one(plan: &Arc<LogicalPlan>, name: &str) -> QueryResult<LogicalPlan> {
    static ONE_VALUE: LazyLock<Arc<ScalarUDF>> = LazyLock::new(|| {
        let signature = Signature::any(2, Volatility::Immutable);
        Arc::new(ScalarUDF::new_from_impl(OneValue { signature }))
    });
    let (qualifier, field) = plan.schema().qualified_field(0);
    let value = Expr::Column(Column::from((qualifier, field)));
    let plan = LogicalPlanBuilder::new_from_arc(Arc::clone(plan));
    if plan.plan().max_rows().is_some_and(|rows| rows <= 1) {
        return plan.project([value.alias(name)])?.build();
    }
    let column = |name: &str| Expr::Column(Column::new_unqualified(name));
    let aggregates = [count_all().alias("__rows"), first_value(value, Vec::new()).alias("__value")];
    plan.aggregate(Vec::<Expr>::new(), aggregates)?
        .project([ONE_VALUE.call(vec![column("__rows"), column("__value")]).alias(name)])?
        .build()
}

/// Whether `plan` has rows: `exists` for where it is a value that is selected, which the optimiser knows in filters alone.
fn any_row(plan: &Arc<LogicalPlan>) -> QueryResult<LogicalPlan> {
    LogicalPlanBuilder::new_from_arc(Arc::clone(plan))
        .aggregate(Vec::<Expr>::new(), [count_all().alias("__rows")])?
        .project([Expr::Column(Column::new_unqualified("__rows")).gt(lit(0i64))])?
        .build()
}

/// `one_value(rows, value)`: the value, if it is that of one row at the most.
#[derive(Debug, PartialEq, Eq, Hash)]
struct OneValue {
    signature: Signature,
}

impl ScalarUDFImpl for OneValue {
    fn name(&self) -> &str {
        "one_value"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[DataType]) -> QueryResult<DataType> {
        Ok(arguments[1].clone())
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> QueryResult<ColumnarValue> {
        let rows = arguments.args[0].to_array(arguments.number_rows)?;
        match rows.as_primitive::<Int64Type>().iter().flatten().max() {
            Some(rows) if rows > 1 => exec_err!("a subquery that stands for one value yields {rows} rows"),
            _ => Ok(arguments.args[1].clone()),
        }
    }
}
