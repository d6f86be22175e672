//! A table: the whole answer of a query, in memory. It belongs to the caller and counts toward no limit.

use std::fmt;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::{cast, concat, concat_batches};
use arrow::datatypes::{DataType, Float64Type, Int64Type, SchemaRef};
use arrow::util::pretty::pretty_format_batches;

use crate::error::{Result, no_such_column};

/// Rows that [`Table`]'s `Display` shows at the most.
const SHOWN_ROWS: usize = 100;

/// The batches of one result, and their schema. `Display` draws it, the first 100 rows of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Table {
    schema: SchemaRef,
    batches: Vec<RecordBatch>,
}

impl Table {
    /// A table of `batches`, all of `schema`.
    ///
    /// # Errors
    ///
    /// If the columns of a batch do not have the types of `schema`.
    pub fn try_new(schema: SchemaRef, batches: Vec<RecordBatch>) -> Result<Self> {
        let batches = batches.into_iter().map(|batch| with_schema(batch, &schema)).collect::<Result<_>>()?;
        Ok(Self { schema, batches })
    }

    /// Names and types of the columns.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Number of rows.
    pub fn num_rows(&self) -> usize {
        self.batches.iter().map(RecordBatch::num_rows).sum()
    }

    /// Number of columns.
    pub fn num_columns(&self) -> usize {
        self.schema.fields().len()
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.num_rows() == 0
    }

    /// The batches, as they came.
    pub fn batches(&self) -> &[RecordBatch] {
        &self.batches
    }

    /// The batches, taken out.
    pub fn into_batches(self) -> Vec<RecordBatch> {
        self.batches
    }

    /// All rows in one batch; copies them unless there is one batch already.
    ///
    /// # Errors
    ///
    /// If a column of strings would have more than 2 GiB of offsets.
    pub fn to_batch(&self) -> Result<RecordBatch> {
        match self.batches.as_slice() {
            [only] => Ok(only.clone()),
            batches => Ok(concat_batches(&self.schema, batches)?),
        }
    }

    /// The column called `name`, all of it in one array.
    ///
    /// # Errors
    ///
    /// If there is no such column.
    pub fn column(&self, name: &str) -> Result<ArrayRef> {
        let Some((index, field)) = self.schema.column_with_name(name) else {
            let known = self.schema.fields().iter().map(|field| field.name().as_str());
            return Err(no_such_column(name, known).into());
        };
        match self.batches.as_slice() {
            [] => Ok(arrow::array::new_empty_array(field.data_type())),
            [only] => Ok(ArrayRef::clone(only.column(index))),
            batches => {
                let parts: Vec<&dyn Array> = batches.iter().map(|batch| batch.column(index).as_ref()).collect();
                Ok(concat(&parts)?)
            }
        }
    }

    /// The column called `name` as numbers, cast to `f64` if it is of another type.
    ///
    /// # Errors
    ///
    /// If there is no such column, or its type has no cast to `f64`.
    pub fn f64s(&self, name: &str) -> Result<Vec<Option<f64>>> {
        let column = cast(&self.column(name)?, &DataType::Float64)?;
        Ok(column.as_primitive::<Float64Type>().iter().collect())
    }

    /// The column called `name` as whole numbers, cast to `i64` if it is of another type.
    ///
    /// # Errors
    ///
    /// If there is no such column, or its type has no cast to `i64`.
    pub fn i64s(&self, name: &str) -> Result<Vec<Option<i64>>> {
        let column = cast(&self.column(name)?, &DataType::Int64)?;
        Ok(column.as_primitive::<Int64Type>().iter().collect())
    }

    /// The column called `name` as strings; values of another type are written out.
    ///
    /// # Errors
    ///
    /// If there is no such column, or its type has no cast to strings.
    pub fn strings(&self, name: &str) -> Result<Vec<Option<String>>> {
        let column = cast(&self.column(name)?, &DataType::Utf8View)?;
        Ok(column.as_string_view().iter().map(|value| value.map(String::from)).collect())
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut left = SHOWN_ROWS;
        let mut shown = Vec::new();
        for batch in &self.batches {
            let rows = batch.num_rows().min(left);
            left -= rows;
            shown.push(batch.slice(0, rows));
        }
        if shown.is_empty() {
            shown.push(RecordBatch::new_empty(SchemaRef::clone(&self.schema)));
        }
        let text = pretty_format_batches(&shown).map_err(|_| fmt::Error)?;
        write!(f, "{text}")?;
        match self.num_rows() {
            rows if rows > SHOWN_ROWS => write!(f, "\n… and {} more rows", rows - SHOWN_ROWS),
            _ => Ok(()),
        }
    }
}

/// The same columns under `schema`: operators may know less about nullability than the query does.
pub(crate) fn with_schema(batch: RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    if batch.schema_ref() == schema {
        return Ok(batch);
    }
    let rows = arrow::array::RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    Ok(RecordBatch::try_new_with_options(SchemaRef::clone(schema), batch.columns().to_vec(), &rows)?)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Int32Array, StringViewArray};
    use arrow::datatypes::{Field, Schema};

    use super::*;

    fn table(rows: i32) -> Table {
        let schema = Arc::new(Schema::new(vec![
            Field::new("n", DataType::Int32, true),
            Field::new("Name", DataType::Utf8View, true),
        ]));
        let batch = |range: std::ops::Range<i32>| {
            let names: StringViewArray = range.clone().map(|n| Some(format!("row {n}"))).collect();
            RecordBatch::try_new(
                SchemaRef::clone(&schema),
                vec![Arc::new(Int32Array::from_iter_values(range)), Arc::new(names)],
            )
            .expect("columns fit the schema")
        };
        let batches = vec![batch(0..rows / 2), batch(rows / 2..rows)];
        Table::try_new(schema, batches).expect("batches fit the schema")
    }

    #[test]
    fn columns_of_several_batches_come_as_one() {
        let table = table(4);
        assert_eq!(table.num_rows(), 4);
        assert_eq!(table.to_batch().expect("one batch").num_rows(), 4);
        assert_eq!(table.f64s("n").expect("numbers"), [0., 1., 2., 3.].map(Some));
        assert_eq!(table.i64s("n").expect("numbers"), [0, 1, 2, 3].map(Some));
        assert_eq!(table.strings("Name").expect("strings")[3].as_deref(), Some("row 3"));
        assert_eq!(table.strings("n").expect("strings")[3].as_deref(), Some("3"));
    }

    #[test]
    fn a_column_that_is_not_there_is_an_error_that_lists_those_that_are() {
        let error = table(2).column("name").expect_err("case counts").to_string();
        assert!(error.contains("name") && error.contains("Name"), "{error}");
    }

    #[test]
    fn a_long_table_is_shown_in_part() {
        assert!(table(400).to_string().ends_with("… and 300 more rows"));
        assert!(!table(10).to_string().contains("more rows"));
        assert!(Table::try_new(Arc::clone(table(1).schema()), Vec::new()).expect("empty").to_string().contains("Name"));
    }
}
