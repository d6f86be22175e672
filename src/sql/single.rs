//! A subquery that stands for one value: where it could yield several rows, it is made to fail if it does. The optimiser
//! turns it into a join, which would take each of the rows.

use std::sync::{Arc, LazyLock};

use arrow::array::AsArray;
use arrow::datatypes::{DataType, Int64Type};
use datafusion_common::tree_node::{Transformed, TreeNode};
use datafusion_common::{Column, Result as QueryResult, exec_err};
use datafusion_expr::logical_plan::Subquery;
use datafusion_expr::{
    ColumnarValue, Expr, LogicalPlan, LogicalPlanBuilder, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
    Volatility,
};
use datafusion_functions_aggregate::count::count_all;
use datafusion_functions_aggregate::first_last::first_value;

/// `plan` with every subquery that stands for one value, and does not look at rows around it, held to one row.
pub(super) fn at_most_one_row(plan: LogicalPlan) -> QueryResult<LogicalPlan> {
    let changed = plan.transform_down_with_subqueries(|plan| {
        plan.map_expressions(|expr| {
            expr.transform_down(|expr| match expr {
                Expr::ScalarSubquery(subquery) if may_yield_several(&subquery) => {
                    let held = held_to_one(&subquery.subquery)?;
                    Ok(Transformed::yes(Expr::ScalarSubquery(subquery.with_plan(Arc::new(held)))))
                }
                other => Ok(Transformed::no(other)),
            })
        })
    });
    Ok(changed?.data)
}

fn may_yield_several(subquery: &Subquery) -> bool {
    subquery.outer_ref_columns.is_empty() && subquery.subquery.max_rows().is_none_or(|rows| rows > 1)
}

/// The only row of `plan`, null if there is none, an error if there are several.
fn held_to_one(plan: &Arc<LogicalPlan>) -> QueryResult<LogicalPlan> {
    static ONE_VALUE: LazyLock<Arc<ScalarUDF>> = LazyLock::new(|| {
        let signature = Signature::any(2, Volatility::Immutable);
        Arc::new(ScalarUDF::new_from_impl(OneValue { signature }))
    });
    let (qualifier, field) = plan.schema().qualified_field(0);
    let value = Expr::Column(Column::from((qualifier, field)));
    let column = |name: &str| Expr::Column(Column::new_unqualified(name));
    let aggregates = [count_all().alias("__rows"), first_value(value, Vec::new()).alias("__value")];
    LogicalPlanBuilder::new_from_arc(Arc::clone(plan))
        .aggregate(Vec::<Expr>::new(), aggregates)?
        .project([ONE_VALUE.call(vec![column("__rows"), column("__value")]).alias(field.name())])?
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
