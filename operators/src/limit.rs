//! The limit: leaves out the first rows, passes a number of them on, then stops its input.
//!
//! It counts the rows of its own partition. Behind a gather that is the limit of the whole; before one,
//! with `skip` 0 and `fetch` as large as skip and fetch of the whole, it keeps needless rows from being sent.

use aqueduct_runtime::{Operator, OperatorContext, OperatorSpec, Outbox, Port, Result, Step};
use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;

/// Leaves out `skip` rows and passes on at most `fetch`.
#[derive(Debug, Clone)]
pub struct Limit {
    skip: usize,
    fetch: Option<usize>,
}

impl Limit {
    /// Leaves out the first `skip` rows, and everything after the next `fetch`, if it is given.
    pub fn new(skip: usize, fetch: Option<usize>) -> Self {
        Self { skip, fetch }
    }
}

impl OperatorSpec for Limit {
    fn name(&self) -> &str {
        "limit"
    }

    fn output_schema(&self, _output: usize, inputs: &[SchemaRef]) -> Result<SchemaRef> {
        Ok(SchemaRef::clone(&inputs[0]))
    }

    fn instantiate(&self, _context: OperatorContext) -> Result<Box<dyn Operator>> {
        Ok(Box::new(LimitInstance { skip: self.skip, fetch: self.fetch }))
    }

    fn keeps_order(&self) -> bool {
        true
    }

    fn detail(&self) -> String {
        match (self.skip, self.fetch) {
            (0, Some(fetch)) => format!("{fetch} rows"),
            (skip, Some(fetch)) => format!("{fetch} rows after {skip}"),
            (skip, None) => format!("all after {skip} rows"),
        }
    }
}

/// What is left to skip and to fetch.
struct LimitInstance {
    skip: usize,
    fetch: Option<usize>,
}

impl Operator for LimitInstance {
    fn process(&mut self, _port: Port, batch: RecordBatch, out: &mut Outbox) -> Result<Step> {
        let skipped = self.skip.min(batch.num_rows());
        self.skip -= skipped;
        let rows = (batch.num_rows() - skipped).min(self.fetch.unwrap_or(usize::MAX));
        if rows == batch.num_rows() {
            out.push(batch);
        } else if rows > 0 {
            out.push(batch.slice(skipped, rows));
        }
        match &mut self.fetch {
            Some(fetch) => {
                *fetch -= rows;
                Ok(if *fetch == 0 { Step::Done } else { Step::NeedInput })
            }
            None => Ok(Step::NeedInput),
        }
    }

    fn step_bytes(&self, _port: Port, _batch: &RecordBatch) -> usize {
        // Slices share the buffers of their batch.
        0
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array};
    use arrow::compute::concat_batches;

    use super::*;

    /// Rows 0..30 in batches of 10; how many batches were read, and what came out.
    fn run(skip: usize, fetch: Option<usize>) -> (usize, Vec<i64>) {
        let mut instance = LimitInstance { skip, fetch };
        let mut out = Outbox::new();
        let mut read = 0;
        let mut schema = None;
        for start in [0, 10, 20] {
            let numbers = Arc::new(Int64Array::from_iter_values(start..start + 10)) as ArrayRef;
            let batch = RecordBatch::try_from_iter([("n", numbers)]).expect("one column");
            schema = Some(batch.schema());
            read += 1;
            if matches!(instance.process(0, batch, &mut out).expect("limits"), Step::Done) {
                break;
            }
        }
        let batches: Vec<_> = std::iter::from_fn(|| out.pop().map(|(_, batch)| batch)).collect();
        let all = concat_batches(&schema.expect("a batch was made"), &batches).expect("same schema");
        let numbers = all.column(0).as_any().downcast_ref::<Int64Array>().expect("numbers").values().to_vec();
        (read, numbers)
    }

    #[test]
    fn rows_are_skipped_and_fetched_across_batches_and_the_input_stops() {
        for skip in [0, 3, 10, 15, 29, 30, 31] {
            for fetch in [Some(0), Some(1), Some(7), Some(10), Some(12), Some(40), None] {
                let (read, rows) = run(skip, fetch);
                let expected: Vec<i64> = (0..30).skip(skip).take(fetch.unwrap_or(usize::MAX)).collect();
                assert_eq!(rows, expected, "{skip} {fetch:?}");
                let needed = fetch.map_or(3, |fetch| (skip + fetch).div_ceil(10).clamp(1, 3));
                assert_eq!(read, if fetch == Some(0) { 1 } else { needed }, "{skip} {fetch:?}");
            }
        }
    }
}
