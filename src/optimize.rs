//! A logical plan made ready to run: types coerced, then simplified, filters and projections pushed down.

use std::sync::{Arc, LazyLock};

use datafusion_common::config::ConfigOptions;
use datafusion_expr::LogicalPlan;
use datafusion_optimizer::{Analyzer, Optimizer, OptimizerContext};

use crate::error::Result;

/// Options for the optimiser and for functions, the same for every query.
pub(crate) fn options() -> Arc<ConfigOptions> {
    static OPTIONS: LazyLock<Arc<ConfigOptions>> = LazyLock::new(Arc::default);
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
    Ok(OPTIMIZER.optimize(analyze(plan)?, &context, |_, _| {})?)
}
