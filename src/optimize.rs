//! A logical plan made ready to run: types coerced, then simplified, filters and projections pushed down.

use std::sync::{Arc, LazyLock};

use arrow::datatypes::DataType;
use chrono::{DateTime, Utc};
use datafusion_common::alias::AliasGenerator;
use datafusion_common::config::ConfigOptions;
use datafusion_common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion_common::{Column, DFSchema, Result as QueryResult};
use datafusion_expr::expr_rewriter::NamePreserver;
use datafusion_expr::logical_plan::Union;
use datafusion_expr::registry::{FunctionRegistry, MemoryFunctionRegistry};
use datafusion_expr::utils::merge_schema;
use datafusion_expr::{Aggregate, BinaryExpr, Expr, ExprSchemable, LogicalPlan, Operator, Projection, cast};
use datafusion_optimizer::optimize_projections::OptimizeProjections;
use datafusion_optimizer::{Analyzer, Optimizer, OptimizerConfig, OptimizerContext};

use crate::error::{Error, Result};
use crate::lengths;
use crate::planner;
use crate::stack::on_large_stack;

/// How many steps a plan may have before it is optimised.
pub(crate) const STEPS: usize = 10_000;

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
    on_large_stack(|| analyze_here(plan))
}

fn analyze_here(plan: LogicalPlan) -> Result<LogicalPlan> {
    static ANALYZER: LazyLock<Analyzer> = LazyLock::new(Analyzer::new);
    check_steps(&plan)?;
    let plan = with_quotients_of_floats(plan)?;
    Ok(ANALYZER.execute_and_check(plan, &options(), |_, _| {})?)
}

/// Analyses `plan`, then optimises it.
pub(crate) fn optimize(plan: LogicalPlan) -> Result<LogicalPlan> {
    on_large_stack(|| optimize_here(plan))
}

fn optimize_here(plan: LogicalPlan) -> Result<LogicalPlan> {
    static OPTIMIZER: LazyLock<Optimizer> = LazyLock::new(Optimizer::new);
    let context = Context(OptimizerContext::new_with_config_options(options()));
    let plan = planner::unkeyed(lengths::bounded(analyze_here(plan)?)?)?.transform_up(name_above)?.data;
    let plan = planner::sunk(OPTIMIZER.optimize(plan, &context, |_, _| {})?)?;
    let plan = plan.transform_data(planner::reordered)?;
    if !plan.transformed {
        return Ok(plan.data);
    }
    // Columns are left out as early as the new order allows.
    static PROJECTIONS: LazyLock<Optimizer> =
        LazyLock::new(|| Optimizer::with_rules(vec![Arc::new(OptimizeProjections::new())]));
    Ok(PROJECTIONS.optimize(plan.data, &context, |_, _| {})?)
}

/// Refuses a plan that is small as it is written and huge once it is spelled out: what is used twice is there twice.
pub(crate) fn check_steps(plan: &LogicalPlan) -> Result<()> {
    if steps(plan) > STEPS { Err(too_many_steps()) } else { Ok(()) }
}

/// The steps of a plan, those of subqueries included. Looks at no more than are allowed, and one.
pub(crate) fn steps(plan: &LogicalPlan) -> usize {
    let mut steps = 0;
    let counted = plan.apply_with_subqueries(|_| {
        steps += 1;
        Ok(if steps > STEPS { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    });
    counted.map_or(STEPS + 1, |_| steps)
}

/// What is said of a plan that has too many.
pub(crate) fn too_many_steps() -> Error {
    Error::unsupported(format!(
        "a query of more than {STEPS} steps, with those of each table, view and frame counted as often as it is used; \
         keep a result that is used often: `create table … as …`, or `cache` for a frame"
    ))
}

/// Has quotients of decimals computed as floats: DataFusion keeps four digits more than the dividend has, so 2.0 / 3 would
/// be 0.66667.
fn with_quotients_of_floats(plan: LogicalPlan) -> QueryResult<LogicalPlan> {
    let mut any = false;
    let changed = plan.transform_up_with_subqueries(|plan| {
        if matches!(plan, LogicalPlan::Values(_)) {
            return Ok(Transformed::no(plan));
        }
        let schema = merge_schema(&plan.inputs());
        let names = NamePreserver::new(&plan);
        let plan = plan.map_expressions(|expr| {
            let name = names.save(&expr);
            let changed = expr.transform_up(|expr| Ok(quotient_of_floats(expr, &schema)))?;
            any |= changed.transformed;
            Ok(changed.update_data(|expr| name.restore(expr)))
        })?;
        match plan.data {
            plan if !any => Ok(Transformed::no(plan)),
            // The types of all that stands above change, too.
            LogicalPlan::Union(union) => {
                Ok(Transformed::yes(LogicalPlan::Union(Union::try_new_with_loose_types(union.inputs)?)))
            }
            plan => Ok(Transformed::yes(plan.recompute_schema()?)),
        }
    });
    Ok(changed?.data)
}

fn quotient_of_floats(expr: Expr, schema: &DFSchema) -> Transformed<Expr> {
    let Expr::BinaryExpr(BinaryExpr { left, op: Operator::Divide, right }) = expr else { return Transformed::no(expr) };
    let kinds = [&left, &right].map(|side| side.get_type(schema).unwrap_or(DataType::Null));
    if !kinds.iter().all(DataType::is_numeric) || !kinds.iter().any(DataType::is_decimal) {
        return Transformed::no(Expr::BinaryExpr(BinaryExpr { left, op: Operator::Divide, right }));
    }
    let [left, right] = [left, right].map(|side| Box::new(cast(*side, DataType::Float64)));
    Transformed::yes(Expr::BinaryExpr(BinaryExpr::new(left, Operator::Divide, right)))
}

/// What the optimiser asks while it works. Some of its rules look functions up by name.
struct Context(OptimizerContext);

impl OptimizerConfig for Context {
    fn query_execution_start_time(&self) -> Option<DateTime<Utc>> {
        self.0.query_execution_start_time()
    }

    fn alias_generator(&self) -> &Arc<AliasGenerator> {
        self.0.alias_generator()
    }

    fn options(&self) -> Arc<ConfigOptions> {
        self.0.options()
    }

    fn function_registry(&self) -> Option<&dyn FunctionRegistry> {
        static REGISTRY: LazyLock<MemoryFunctionRegistry> = LazyLock::new(|| {
            let mut registry = MemoryFunctionRegistry::new();
            for function in datafusion_functions_aggregate::all_default_aggregate_functions() {
                registry.register_udaf(function).expect("a registry in memory takes every function");
            }
            registry
        });
        Some(&*REGISTRY)
    }
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
