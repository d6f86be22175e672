//! A logical plan made ready to run: types coerced, then simplified, filters and projections pushed down.

use std::sync::{Arc, LazyLock};

use datafusion_common::config::ConfigOptions;
use datafusion_common::tree_node::{Transformed, TreeNode};
use datafusion_common::{Column, Result as QueryResult};
use datafusion_expr::{Aggregate, Expr, LogicalPlan, Projection};
use datafusion_optimizer::{Analyzer, Optimizer, OptimizerContext};

use crate::error::Result;

/// Options for SQL, the optimiser and functions, the same for every query.
pub(crate) fn options() -> Arc<ConfigOptions> {
    static OPTIONS: LazyLock<Arc<ConfigOptions>> = LazyLock::new(|| {
        let mut options = ConfigOptions::new();
        // No operator of ours evaluates a subquery before the others run: all become joins.
        options.optimizer.enable_physical_uncorrelated_scalar_subquery = false;
        // 0.06 + 0.01 is 0.07, as in other databases.
        options.sql_parser.parse_float_as_decimal = true;
        // So that an error can say where.
        options.sql_parser.collect_spans = true;
        Arc::new(options)
    });
    Arc::clone(&OPTIONS)
}

/// Makes every expression's types explicit; fails for what cannot be typed.
pub(crate) fn analyze(plan: LogicalPlan) -> Result<LogicalPlan> {
    static ANALYZER: LazyLock<Analyzer> = LazyLock::new(Analyzer::new);
    Ok(ANALYZER.execute_and_check(plan, &options(), |_, _| {})?)
}

/// Analyses `plan`, then optimises it.
pub(crate) fn optimize(plan: LogicalPlan) -> Result<LogicalPlan> {
    static OPTIMIZER: LazyLock<Optimizer> = LazyLock::new(Optimizer::new);
    let context = OptimizerContext::new_with_config_options(options());
    let plan = analyze(plan)?.transform_up(name_above)?.data;
    Ok(OPTIMIZER.optimize(plan, &context, |_, _| {})?)
}

/// Gives distinct aggregates their names in a projection above: the rule that turns them into two group-bys, which
/// spill, looks for aggregates without a name.
fn name_above(plan: LogicalPlan) -> QueryResult<Transformed<LogicalPlan>> {
    let LogicalPlan::Aggregate(aggregate) = &plan else { return Ok(Transformed::no(plan)) };
    let bare: Vec<Expr> = aggregate.aggr_expr.iter().map(|expr| expr.clone().unalias()).collect();
    let distinct = |expr: &Expr| matches!(expr, Expr::AggregateFunction(function) if function.params.distinct);
    let twins = bare.iter().enumerate().any(|(index, expr)| bare[..index].contains(expr));
    if twins || bare == aggregate.aggr_expr || !bare.iter().any(distinct) {
        return Ok(Transformed::no(plan));
    }
    let inner = Aggregate::try_new(Arc::clone(&aggregate.input), aggregate.group_expr.clone(), bare)?;
    let columns = inner.schema.iter().zip(aggregate.schema.iter()).map(|(inner, (qualifier, field))| {
        let column = Expr::Column(Column::from(inner));
        if inner == (qualifier, field) { column } else { column.alias_qualified(qualifier.cloned(), field.name()) }
    });
    let columns = columns.collect();
    let inner = LogicalPlan::Aggregate(inner);
    Ok(Transformed::yes(LogicalPlan::Projection(Projection::try_new(columns, Arc::new(inner))?)))
}
