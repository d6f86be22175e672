//! An operator with two outputs: rows with an even number, rows with an odd one.

use arrow::array::{BooleanArray, Int64Array};
use arrow::compute::{filter_record_batch, not};
use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;

use crate::error::{OperatorError, Result};
use crate::operator::{Operator, OperatorContext, OperatorSpec, Outbox, Port, Step};
use crate::testing::failing::only_input;

/// Sends rows whose first column, integers, is even to output 0 and the others to output 1.
#[derive(Debug, Clone, Copy)]
pub struct EvenOdd;

impl OperatorSpec for EvenOdd {
    fn name(&self) -> &str {
        "even_odd"
    }

    fn outputs(&self) -> usize {
        2
    }

    fn output_schema(&self, _output: usize, inputs: &[SchemaRef]) -> Result<SchemaRef> {
        only_input(inputs)
    }

    fn instantiate(&self, _context: OperatorContext) -> Result<Box<dyn Operator>> {
        Ok(Box::new(Instance))
    }

    fn keeps_order(&self) -> bool {
        true
    }
}

struct Instance;

impl Operator for Instance {
    fn process(&mut self, _port: Port, batch: RecordBatch, out: &mut Outbox) -> Result<Step> {
        let even: BooleanArray = first_numbers(&batch)?.iter().map(|n| n.map(|n| n % 2 == 0)).collect();
        out.push_to(0, filter_record_batch(&batch, &even)?);
        out.push_to(1, filter_record_batch(&batch, &not(&even)?)?);
        Ok(Step::NeedInput)
    }
}

/// The first column of a batch, which has to be integers.
pub(crate) fn first_numbers(batch: &RecordBatch) -> Result<&Int64Array> {
    batch
        .columns()
        .first()
        .and_then(|column| column.as_any().downcast_ref())
        .ok_or_else(|| OperatorError::new("the first column has to be of type Int64"))
}
