//! The value of one row of a group, counted from the first one: `nth_value` over rows that come in order. It holds that one
//! value.

use aqueduct_runtime::Result;
use arrow::array::{Array, ArrayRef};
use arrow::datatypes::DataType;
use datafusion_common::{Result as QueryResult, ScalarValue, internal_err};
use datafusion_expr::Accumulator;

use crate::expression::failed;

#[derive(Debug)]
pub(super) struct Nth {
    /// Rows that are still to come before it, it included; 0 once it was there.
    left: u64,
    value: ScalarValue,
}

impl Nth {
    /// The value of row `place`, from 1; a null of `data_type` while there are fewer rows.
    pub(super) fn new(place: u64, data_type: &DataType) -> Result<Self> {
        Ok(Self { left: place, value: ScalarValue::try_from(data_type).map_err(failed)? })
    }
}

impl Accumulator for Nth {
    fn update_batch(&mut self, arguments: &[ArrayRef]) -> QueryResult<()> {
        let values = &arguments[0];
        let rows = values.len() as u64;
        if (1..=rows).contains(&self.left) {
            let value = ScalarValue::try_from_array(values, (self.left - 1) as usize)?;
            // It may be a slice of all there is.
            self.value = value.cast_to(&self.value.data_type())?;
            self.value.compact();
        }
        self.left = self.left.saturating_sub(rows);
        Ok(())
    }

    fn evaluate(&mut self) -> QueryResult<ScalarValue> {
        Ok(self.value.clone())
    }

    fn size(&self) -> usize {
        self.value.size()
    }

    fn state(&mut self) -> QueryResult<Vec<ScalarValue>> {
        internal_err!("the value of a row is taken of all rows at once")
    }

    fn merge_batch(&mut self, _states: &[ArrayRef]) -> QueryResult<()> {
        internal_err!("the value of a row is taken of all rows at once")
    }
}
