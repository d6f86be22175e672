//! What operators share about expressions: evaluating them, the fields they yield, the text `explain` shows.
//!
//! An evaluated expression is always an array as long as its batch, of the type its field declares.

use std::sync::Arc;

use aqueduct_runtime::batch::copied_array;
use aqueduct_runtime::{OperatorError, Result};
use arrow::array::{Array, ArrayRef, AsArray, BooleanArray};
use arrow::datatypes::{DataType, Field, FieldRef, Schema};
use arrow::record_batch::RecordBatch;
use datafusion_common::{DataFusionError, ScalarValue};
use datafusion_expr::ColumnarValue;
use datafusion_physical_expr::PhysicalExpr;
use datafusion_physical_expr::expressions::Column;

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
    match expression.evaluate(batch).map_err(failed)? {
        ColumnarValue::Scalar(value) => own_array(&value, batch.num_rows()),
        ColumnarValue::Array(array) if expression.is::<Column>() => Ok(array),
        // A function that had a constant to give has made an array of it.
        ColumnarValue::Array(array) => Ok(match array.as_any_dictionary_opt() {
            Some(dictionary) if dictionary.keys().to_data().buffers()[0].strong_count() > 2 => copied_array(&array),
            _ => array,
        }),
    }
}

/// `rows` times `value`, in buffers that nobody else holds: a constant list is the plan's own, and DataFusion keeps the keys
/// that it has made of a constant of a dictionary for the next. Whoever claims them would pay for them from then on.
pub(crate) fn own_array(value: &ScalarValue, rows: usize) -> Result<ArrayRef> {
    let array = value.to_array_of_size(rows).map_err(failed)?;
    let kind = array.data_type();
    Ok(if kind.is_nested() || matches!(kind, DataType::Dictionary(..)) { copied_array(&array) } else { array })
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

#[cfg(test)]
mod tests {
    use arrow::record_batch::RecordBatchOptions;
    use datafusion_physical_expr::expressions::lit;

    use super::*;

    #[test]
    fn a_constant_is_in_buffers_that_nobody_else_holds() {
        let row = RecordBatchOptions::new().with_row_count(Some(1));
        let row = RecordBatch::try_new_with_options(Arc::new(Schema::empty()), Vec::new(), &row).expect("one row");
        let text = Box::new(ScalarValue::from("a text"));
        let dictionary = |text| ScalarValue::Dictionary(Box::new(DataType::Int32), text);
        let list = ScalarValue::List(ScalarValue::new_list_nullable(&[ScalarValue::from(1i64)], &DataType::Int64));
        for value in [dictionary(text), dictionary(Box::new(ScalarValue::Utf8(None))), list] {
            let constant = lit(value);
            let [one, other] = [0, 1].map(|_| evaluate(constant.as_ref(), &row).expect("a constant").to_data());
            let buffers = |data: &arrow::array::ArrayData| {
                let children = data.child_data().iter().flat_map(|child| child.buffers().to_vec());
                let all = children.chain(data.buffers().to_vec()).filter(|buffer| !buffer.is_empty());
                all.map(|buffer| buffer.as_ptr()).collect::<Vec<_>>()
            };
            let (one, other) = (buffers(&one), buffers(&other));
            assert!(one.iter().zip(&other).all(|(one, other)| one != other), "{constant}: {one:?} and {other:?}");
        }
    }
}
