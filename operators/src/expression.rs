//! What operators share about expressions: evaluating them, the fields they yield, the text `explain` shows.
//!
//! An evaluated expression is always an array as long as its batch, of the type its field declares.

use std::sync::Arc;

use aqueduct_runtime::{OperatorError, Result};
use arrow::array::{Array, ArrayRef, AsArray, BooleanArray};
use arrow::datatypes::{DataType, Field, FieldRef, Schema};
use arrow::record_batch::RecordBatch;
use datafusion_common::DataFusionError;
use datafusion_physical_expr::PhysicalExpr;

/// An expression, shared by all partitions.
pub type Expression = Arc<dyn PhysicalExpr>;

/// Keeps DataFusion's error whole.
pub(crate) fn failed(error: DataFusionError) -> OperatorError {
    OperatorError::other(error)
}

/// Evaluates `expression` to an array with a value for each row of `batch`.
///
/// # Errors
///
/// What the expression itself reports, such as a division by zero or a failed cast.
pub fn evaluate(expression: &dyn PhysicalExpr, batch: &RecordBatch) -> Result<ArrayRef> {
    expression.evaluate(batch).and_then(|value| value.into_array(batch.num_rows())).map_err(failed)
}

/// Evaluates `predicate` to a mask for each row of `batch`. A null means "not true".
///
/// # Errors
///
/// As for [`evaluate`], and when the predicate is not boolean.
pub fn evaluate_mask(predicate: &dyn PhysicalExpr, batch: &RecordBatch) -> Result<BooleanArray> {
    let mask = evaluate(predicate, batch)?;
    match mask.data_type() {
        DataType::Boolean => Ok(mask.as_boolean().clone()),
        DataType::Null => Ok(BooleanArray::new_null(mask.len())),
        other => Err(OperatorError::new(format!("the predicate {predicate} yields {other} instead of Boolean"))),
    }
}

/// The field that `expression` yields over rows of `input`, called `name`.
///
/// # Errors
///
/// When the expression does not fit the schema.
pub fn field(expression: &dyn PhysicalExpr, name: &str, input: &Schema) -> Result<FieldRef> {
    let returned = expression.return_field(input).map_err(failed)?;
    let field = Field::new(name, returned.data_type().clone(), returned.is_nullable());
    Ok(Arc::new(field.with_metadata(returned.metadata().clone())))
}

/// The text of named expressions: `a + 1 as b, c`.
pub fn named_text(expressions: &[(Expression, String)]) -> String {
    let one = |(expression, name): &(Expression, String)| {
        let text = expression.to_string();
        // A physical column prints as `name@index`.
        if text.rsplit_once('@').is_some_and(|(column, _)| column == name) || text == *name {
            name.clone()
        } else {
            format!("{text} as {name}")
        }
    };
    expressions.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// Refuses rows of another shape than the plan promised: types and number of columns must agree.
pub(crate) fn same_types(expected: &Schema, found: &Schema) -> bool {
    expected.fields().len() == found.fields().len()
        && expected.fields().iter().zip(found.fields()).all(|(a, b)| a.data_type() == b.data_type())
}
