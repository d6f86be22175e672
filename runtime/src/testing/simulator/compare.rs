//! Whether two runs gave the same rows: in the same order where the plan promises one, else as multisets.
//!
//! Floats may differ by 1e-9, relative: sums depend on the order of their rows.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Float64Array, UInt32Array};
use arrow::compute::{cast, concat_batches, take_record_batch};
use arrow::datatypes::{DataType, Float64Type, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use arrow::row::{RowConverter, SortField};

const TOLERANCE: f64 = 1e-9;

/// The rows of one result or sink.
#[derive(Debug, Clone)]
pub(super) struct Rows {
    /// In the order of arrival.
    pub(super) batch: RecordBatch,
    sorted: RecordBatch,
}

impl Rows {
    /// All rows of `batches`; the error says why they cannot be compared.
    pub(super) fn of(schema: &SchemaRef, batches: &[RecordBatch]) -> Result<Rows, String> {
        let say = |error: arrow::error::ArrowError| format!("rows that cannot be compared: {error}");
        // Names and metadata may differ between batches, types may not.
        let schema = batches.first().map_or_else(|| Arc::clone(schema), RecordBatch::schema);
        if schema.fields().is_empty() {
            let rows = batches.iter().map(RecordBatch::num_rows).sum();
            let options = arrow::record_batch::RecordBatchOptions::new().with_row_count(Some(rows));
            let batch = RecordBatch::try_new_with_options(schema, Vec::new(), &options).map_err(say)?;
            return Ok(Rows { sorted: batch.clone(), batch });
        }
        let batch = concat_batches(&schema, batches).map_err(say)?;
        let sorted = sorted(&batch).map_err(say)?;
        Ok(Rows { batch, sorted })
    }

    /// How these rows differ from `expected`, if they do.
    pub(super) fn differ(&self, expected: &Rows, ordered: bool) -> Option<String> {
        let (found_rows, expected_rows) = (self.batch.num_rows(), expected.batch.num_rows());
        if found_rows != expected_rows {
            return Some(format!("{found_rows} rows instead of {expected_rows}"));
        }
        let (found, expected) = if ordered { (&self.batch, &expected.batch) } else { (&self.sorted, &expected.sorted) };
        found.columns().iter().zip(expected.columns()).enumerate().find_map(|(index, (found, expected))| {
            let row = first_difference(found, expected)?;
            let value = |array: &ArrayRef| {
                arrow::util::display::array_value_to_string(array, row).unwrap_or_else(|error| error.to_string())
            };
            let (name, order) = (self.batch.schema_ref().field(index).name(), if ordered { "" } else { ", sorted" });
            let (found, expected) = (shortened(value(found)), shortened(value(expected)));
            Some(format!("row {row}{order}, column `{name}`: `{found}` instead of `{expected}`"))
        })
    }
}

fn shortened(text: String) -> String {
    if text.chars().count() > 60 { text.chars().take(60).chain("…".chars()).collect() } else { text }
}

fn is_float(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Float16 | DataType::Float32 | DataType::Float64)
}

/// `batch` in the order of its columns, floats last, so that what differs by little changes no place.
fn sorted(batch: &RecordBatch) -> Result<RecordBatch, arrow::error::ArrowError> {
    let schema: &Schema = batch.schema_ref();
    let floats_last = |floats: bool| {
        (0..schema.fields().len()).filter(move |&column| is_float(schema.field(column).data_type()) == floats)
    };
    let columns: Vec<usize> = floats_last(false).chain(floats_last(true)).collect();
    let fields = columns.iter().map(|&column| SortField::new(schema.field(column).data_type().clone()));
    let keys: Vec<ArrayRef> = columns.iter().map(|&column| Arc::clone(batch.column(column))).collect();
    let rows = RowConverter::new(fields.collect())?.convert_columns(&keys)?;
    let mut order: Vec<u32> = (0..batch.num_rows() as u32).collect();
    order.sort_by(|&a, &b| rows.row(a as usize).cmp(&rows.row(b as usize)));
    take_record_batch(batch, &UInt32Array::from(order))
}

fn first_difference(found: &ArrayRef, expected: &ArrayRef) -> Option<usize> {
    if found.data_type() != expected.data_type() {
        return Some(0);
    }
    if is_float(found.data_type()) {
        let as_f64 = |array: &ArrayRef| cast(array, &DataType::Float64);
        let (Ok(found), Ok(expected)) = (as_f64(found), as_f64(expected)) else { return Some(0) };
        let (found, expected) = (found.as_primitive::<Float64Type>(), expected.as_primitive::<Float64Type>());
        return (0..found.len()).find(|&row| !close(value(found, row), value(expected, row)));
    }
    if found == expected {
        return None;
    }
    (0..found.len()).find(|&row| found.slice(row, 1) != expected.slice(row, 1))
}

fn value(array: &Float64Array, row: usize) -> Option<f64> {
    array.is_valid(row).then(|| array.value(row))
}

fn close(found: Option<f64>, expected: Option<f64>) -> bool {
    match (found, expected) {
        (Some(found), Some(expected)) => {
            found == expected
                || found.is_nan() && expected.is_nan()
                || (found - expected).abs() <= TOLERANCE * found.abs().max(expected.abs())
        }
        (None, None) => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::Int64Array;
    use arrow::datatypes::Field;

    use super::*;

    fn rows(values: &[(i64, Option<f64>)]) -> Rows {
        let fields = vec![Field::new("f", DataType::Float64, true), Field::new("n", DataType::Int64, false)];
        let columns: Vec<ArrayRef> = vec![
            Arc::new(values.iter().map(|(_, f)| *f).collect::<Float64Array>()),
            Arc::new(values.iter().map(|(n, _)| *n).collect::<Int64Array>()),
        ];
        let schema: SchemaRef = Arc::new(Schema::new(fields));
        let batch = RecordBatch::try_new(Arc::clone(&schema), columns).expect("as the schema says");
        let (first, second) =
            (batch.slice(0, values.len() / 2), batch.slice(values.len() / 2, values.len().div_ceil(2)));
        Rows::of(&schema, &[first, second]).expect("comparable")
    }

    #[test]
    fn rows_are_the_same_in_any_order_and_within_the_tolerance() {
        let expected = rows(&[(1, Some(0.1)), (2, None), (3, Some(f64::NAN)), (3, Some(7.0))]);
        let other = rows(&[(3, Some(7.0)), (1, Some(0.1 + 1e-12)), (3, Some(f64::NAN)), (2, None)]);
        assert_eq!(other.differ(&expected, false), None);
        assert!(other.differ(&expected, true).is_some());
        assert_eq!(expected.differ(&expected, true), None);
        for wrong in [
            [(1, Some(0.1)), (2, None), (3, Some(f64::NAN)), (3, Some(7.1))],
            [(1, Some(0.1)), (2, Some(0.0)), (3, Some(f64::NAN)), (3, Some(7.0))],
            [(1, Some(0.1)), (2, None), (2, Some(f64::NAN)), (3, Some(7.0))],
        ] {
            assert!(rows(&wrong).differ(&expected, false).is_some(), "{wrong:?}");
        }
        assert!(rows(&[(1, None)]).differ(&expected, false).is_some());
    }
}
