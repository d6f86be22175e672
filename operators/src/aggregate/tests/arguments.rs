//! What every aggregate of the library is given in tests: columns of one input, by name.

use arrow::datatypes::SchemaRef;
use datafusion_physical_expr::expressions::{col, lit};

/// The arguments of the aggregate `name`. Columns: `b` booleans, `i` integers, `f` and `g` floats, `w` weights, `s`
/// texts.
pub(crate) fn arguments(
    name: &str,
    schema: &SchemaRef,
) -> Vec<std::sync::Arc<dyn datafusion_physical_expr::PhysicalExpr>> {
    let column = |name: &str| col(name, schema).expect("a column");
    match name {
        "bool_and" | "bool_or" => vec![column("b")],
        "bit_and" | "bit_or" | "bit_xor" => vec![column("i")],
        "string_agg" => vec![column("s"), lit(",")],
        "approx_percentile_cont" | "percentile_cont" => vec![column("f"), lit(0.25)],
        "approx_percentile_cont_with_weight" => vec![column("f"), column("w"), lit(0.25)],
        "nth_value" => vec![column("i"), lit(2i64)],
        "approx_distinct" => vec![column("s")],
        "corr" | "covar_samp" | "covar_pop" => vec![column("f"), column("g")],
        regression if regression.starts_with("regr_") => vec![column("f"), column("g")],
        _ => vec![column("f")],
    }
}
