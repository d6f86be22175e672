//! The filter: keeps the rows for which a predicate is true, in their order.

use std::sync::Arc;

use aqueduct_runtime::{Operator, OperatorContext, OperatorError, OperatorSpec, Outbox, Port, Result, Step};
use arrow::array::Array;
use arrow::compute::filter_record_batch;
use arrow::datatypes::{DataType, SchemaRef};
use arrow::record_batch::RecordBatch;

use crate::expression::{Expression, evaluate_mask, failed};

/// Keeps the rows for which a predicate is true; false and null are dropped.
#[derive(Debug, Clone)]
pub struct Filter {
    predicate: Expression,
}

impl Filter {
    /// A filter by `predicate`.
    pub fn new(predicate: Expression) -> Self {
        Self { predicate }
    }
}

impl OperatorSpec for Filter {
    fn name(&self) -> &str {
        "filter"
    }

    fn output_schema(&self, _output: usize, inputs: &[SchemaRef]) -> Result<SchemaRef> {
        match self.predicate.data_type(&inputs[0]).map_err(failed)? {
            DataType::Boolean | DataType::Null => Ok(Arc::clone(&inputs[0])),
            other => {
                Err(OperatorError::new(format!("the predicate {} yields {other} instead of Boolean", self.predicate)))
            }
        }
    }

    fn instantiate(&self, _context: OperatorContext) -> Result<Box<dyn Operator>> {
        Ok(Box::new(FilterInstance { predicate: Arc::clone(&self.predicate) }))
    }

    fn keeps_order(&self) -> bool {
        true
    }

    fn detail(&self) -> String {
        self.predicate.to_string()
    }
}

struct FilterInstance {
    predicate: Expression,
}

impl Operator for FilterInstance {
    fn process(&mut self, _port: Port, batch: RecordBatch, out: &mut Outbox) -> Result<Step> {
        let mask = evaluate_mask(self.predicate.as_ref(), &batch)?;
        if mask.null_count() == 0 && mask.true_count() == mask.len() {
            out.push(batch);
        } else {
            out.push(filter_record_batch(&batch, &mask)?);
        }
        Ok(Step::NeedInput)
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, Int64Array};
    use datafusion_expr::Operator as Binary;
    use datafusion_physical_expr::expressions::{binary, col, lit};

    use super::*;

    fn batch(values: Vec<Option<i64>>) -> RecordBatch {
        RecordBatch::try_from_iter_with_nullable([("n", Arc::new(Int64Array::from(values)) as ArrayRef, true)])
            .expect("one column")
    }

    fn run(predicate: Expression, input: RecordBatch) -> Vec<RecordBatch> {
        let mut instance = FilterInstance { predicate };
        let mut out = Outbox::new();
        instance.process(0, input, &mut out).expect("filters");
        std::iter::from_fn(|| out.pop().map(|(_, batch)| batch)).collect()
    }

    #[test]
    fn only_rows_that_are_true_stay() {
        let input = batch(vec![Some(1), None, Some(7), Some(5), Some(9)]);
        let schema = input.schema();
        let predicate = binary(col("n", &schema).expect("n"), Binary::Gt, lit(5i64), &schema).expect("a comparison");
        assert_eq!(run(Arc::clone(&predicate), input), [batch(vec![Some(7), Some(9)])]);
        assert!(run(Arc::clone(&predicate), batch(vec![Some(1), None])).is_empty());
        let all = batch(vec![Some(6), Some(8)]);
        assert_eq!(run(predicate, all.clone()), [all]);
    }

    #[test]
    fn a_predicate_that_is_no_truth_value_is_refused_before_it_runs() {
        let schema = batch(vec![]).schema();
        let filter = Filter::new(col("n", &schema).expect("n"));
        let error = filter.output_schema(0, &[schema]).expect_err("n is a number");
        assert!(error.to_string().contains("Int64 instead of Boolean"), "{error}");
    }
}
