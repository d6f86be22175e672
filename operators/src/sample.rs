//! The sample: each row stays or goes by a hash of its values and the seed, so that the same rows stay whatever the number of
//! partitions, however often a job is begun again, and in whichever order rows come.

use aqueduct_runtime::batch::batch_bytes;
use aqueduct_runtime::{Operator, OperatorContext, OperatorError, OperatorSpec, Outbox, Port, Result, Step};
use arrow::array::BooleanArray;
use arrow::buffer::BooleanBuffer;
use arrow::compute::filter_record_batch;
use arrow::datatypes::{Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use arrow::row::{RowConverter, SortField};
use foldhash::quality::FixedState;
use std::hash::BuildHasher;

/// Keeps each row with a probability. Rows that are equal in all columns stay or go together.
#[derive(Debug, Clone)]
pub struct Sample {
    fraction: f64,
    seed: u64,
}

impl Sample {
    /// Keeps `fraction` of the rows, from 0 to 1.
    ///
    /// # Errors
    ///
    /// If the fraction is no probability.
    pub fn try_new(fraction: f64, seed: u64) -> Result<Self> {
        if (0.0..=1.0).contains(&fraction) {
            return Ok(Self { fraction, seed });
        }
        Err(OperatorError::new(format!("a sample keeps from 0 to 1 of the rows, and not {fraction}")))
    }
}

fn converter(schema: &Schema) -> Result<RowConverter> {
    if schema.fields().is_empty() {
        return Err(OperatorError::new("rows without columns are all the same: there is nothing to sample them by"));
    }
    let fields = schema.fields().iter().map(|field| SortField::new(field.data_type().clone()));
    Ok(RowConverter::new(fields.collect())?)
}

impl OperatorSpec for Sample {
    fn name(&self) -> &str {
        "sample"
    }

    fn output_schema(&self, _output: usize, inputs: &[SchemaRef]) -> Result<SchemaRef> {
        // Refuses values that have no hash, before anything runs.
        converter(&inputs[0])?;
        Ok(SchemaRef::clone(&inputs[0]))
    }

    fn instantiate(&self, context: OperatorContext) -> Result<Box<dyn Operator>> {
        // Above all 53-bit numbers for a fraction of one.
        let below = (self.fraction * (1_u64 << 53) as f64) as u64;
        let (converter, state) = (converter(&context.inputs[0])?, FixedState::with_seed(self.seed));
        Ok(Box::new(SampleInstance { converter, state, below }))
    }

    fn keeps_order(&self) -> bool {
        true
    }

    fn detail(&self) -> String {
        format!("{} of the rows, seed {}", self.fraction, self.seed)
    }
}

struct SampleInstance {
    converter: RowConverter,
    state: FixedState,
    below: u64,
}

impl Operator for SampleInstance {
    fn process(&mut self, _port: Port, batch: RecordBatch, out: &mut Outbox) -> Result<Step> {
        let rows = self.converter.convert_columns(batch.columns())?;
        let stays = |row: usize| self.state.hash_one(rows.row(row).as_ref()) >> 11 < self.below;
        let kept = BooleanBuffer::collect_bool(batch.num_rows(), stays);
        drop(rows);
        out.push(filter_record_batch(&batch, &BooleanArray::new(kept, None))?);
        Ok(Step::NeedInput)
    }

    fn step_bytes(&self, _port: Port, batch: &RecordBatch) -> usize {
        // The rows, which are a little larger than their columns, and the output.
        3 * batch_bytes(batch) + 16 * batch.num_rows()
    }
}

#[cfg(test)]
mod tests {
    use aqueduct_runtime::testing::{context, drive, number_schema, numbers};
    use arrow::compute::concat_batches;

    use super::*;

    /// The sample of the numbers from 0 to 100,000, in batches of so many.
    fn sample(fraction: f64, seed: u64, rows: i64) -> RecordBatch {
        let spec = Sample::try_new(fraction, seed).expect("a probability");
        let mut sample = spec.instantiate(context().operator(&[number_schema()])).expect("starts");
        let input = (0..100_000 / rows).map(|i| numbers(rows * i..rows * (i + 1)));
        let output = drive(sample.as_mut(), [input.collect()]).expect("runs");
        concat_batches(&number_schema(), &output).expect("one schema")
    }

    #[test]
    fn about_the_fraction_of_the_rows_is_kept_and_the_seed_says_which() {
        assert_eq!((sample(0.0, 1, 10_000).num_rows(), sample(1.0, 1, 10_000).num_rows()), (0, 100_000));
        let tenth = sample(0.1, 1, 10_000);
        // Five standard deviations of a binomial distribution are 475.
        assert!(tenth.num_rows().abs_diff(10_000) < 475, "{}", tenth.num_rows());
        assert_ne!(tenth, sample(0.1, 2, 10_000));
        assert!([-0.1, 1.1, f64::NAN].iter().all(|fraction| Sample::try_new(*fraction, 1).is_err()));
    }

    #[test]
    fn the_same_rows_are_kept_however_they_come_in_batches() {
        assert_eq!(sample(0.1, 1, 10_000), sample(0.1, 1, 50));
    }
}
