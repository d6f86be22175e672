//! The functions that SQL knows: all of DataFusion's libraries of scalar, nested, aggregate and window functions, under
//! all their names.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use datafusion_expr::planner::ExprPlanner;
use datafusion_expr::{AggregateUDF, HigherOrderUDF, ScalarUDF, WindowUDF};

/// Functions by name.
pub(super) struct Functions {
    pub(super) scalar: BTreeMap<String, Arc<ScalarUDF>>,
    pub(super) higher_order: BTreeMap<String, Arc<HigherOrderUDF>>,
    pub(super) aggregate: BTreeMap<String, Arc<AggregateUDF>>,
    pub(super) window: BTreeMap<String, Arc<WindowUDF>>,
    /// What operators and special forms such as `extract(year from t)` mean.
    pub(super) planners: Vec<Arc<dyn ExprPlanner>>,
}

macro_rules! by_name {
    ($functions:expr) => {{
        let mut by_name = BTreeMap::new();
        for function in $functions {
            for alias in function.aliases() {
                by_name.insert(alias.clone(), Arc::clone(&function));
            }
            by_name.insert(function.name().to_string(), function);
        }
        by_name
    }};
}

/// All functions.
pub(super) fn functions() -> &'static Functions {
    static FUNCTIONS: LazyLock<Functions> = LazyLock::new(|| Functions {
        scalar: by_name!(
            datafusion_functions::all_default_functions()
                .into_iter()
                .chain(datafusion_functions_nested::all_default_nested_functions())
        ),
        higher_order: by_name!(datafusion_functions_nested::all_default_higher_order_functions()),
        aggregate: by_name!(datafusion_functions_aggregate::all_default_aggregate_functions()),
        window: by_name!(datafusion_functions_window::all_default_window_functions()),
        planners: vec![
            Arc::new(datafusion_functions::core::planner::CoreFunctionPlanner::default()),
            Arc::new(datafusion_functions::unicode::planner::UnicodeFunctionPlanner),
            Arc::new(datafusion_functions::datetime::planner::DatetimeFunctionPlanner),
            Arc::new(datafusion_functions_nested::planner::NestedFunctionPlanner),
            Arc::new(datafusion_functions_nested::planner::FieldAccessPlanner),
            Arc::new(datafusion_functions_aggregate::planner::AggregateFunctionPlanner),
            Arc::new(datafusion_functions_window::planner::WindowFunctionPlanner),
        ],
    });
    &FUNCTIONS
}
