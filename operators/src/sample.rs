//! The sample: each row stays with the same probability, whatever the others do.

use aqueduct_runtime::{Operator, OperatorContext, OperatorError, OperatorSpec, Outbox, Port, Result, Step};
use arrow::array::BooleanArray;
use arrow::buffer::BooleanBuffer;
use arrow::compute::filter_record_batch;
use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;

/// Keeps each row with a probability.
///
/// The same seed keeps the same places of a partition's rows: in one partition, or behind an exchange that deals
/// rows out by their values in order, that is the same sample each time.
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

impl OperatorSpec for Sample {
    fn name(&self) -> &str {
        "sample"
    }

    fn output_schema(&self, _output: usize, inputs: &[SchemaRef]) -> Result<SchemaRef> {
        Ok(SchemaRef::clone(&inputs[0]))
    }

    fn instantiate(&self, context: OperatorContext) -> Result<Box<dyn Operator>> {
        // Above all 53-bit numbers for a fraction of one.
        let below = (self.fraction * (1_u64 << 53) as f64) as u64;
        let state = mixed(self.seed).wrapping_add(mixed(context.partition as u64 ^ 0x5a5a));
        Ok(Box::new(SampleInstance { state, below }))
    }

    fn keeps_order(&self) -> bool {
        true
    }

    fn detail(&self) -> String {
        format!("{} of the rows, seed {}", self.fraction, self.seed)
    }
}

struct SampleInstance {
    state: u64,
    below: u64,
}

/// The output function of SplitMix64 (Steele, Lea and Flood, 2014).
fn mixed(state: u64) -> u64 {
    let z = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Operator for SampleInstance {
    fn process(&mut self, _port: Port, batch: RecordBatch, out: &mut Outbox) -> Result<Step> {
        let kept = BooleanBuffer::collect_bool(batch.num_rows(), |_| {
            self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            mixed(self.state) >> 11 < self.below
        });
        out.push(filter_record_batch(&batch, &BooleanArray::new(kept, None))?);
        Ok(Step::NeedInput)
    }
}

#[cfg(test)]
mod tests {
    use aqueduct_runtime::testing::{context, drive, number_schema, numbers};

    use super::*;

    fn sample(fraction: f64, seed: u64, partition: usize) -> Vec<RecordBatch> {
        let spec = Sample::try_new(fraction, seed).expect("a probability");
        let context = context().partition(partition, 2).operator(&[number_schema()]);
        let mut sample = spec.instantiate(context).expect("starts");
        drive(sample.as_mut(), [(0..10).map(|i| numbers(10_000 * i..10_000 * (i + 1))).collect()]).expect("runs")
    }

    fn rows(batches: &[RecordBatch]) -> usize {
        batches.iter().map(RecordBatch::num_rows).sum()
    }

    #[test]
    fn about_the_fraction_of_the_rows_is_kept_and_the_seed_says_which() {
        assert_eq!((rows(&sample(0.0, 1, 0)), rows(&sample(1.0, 1, 0))), (0, 100_000));
        let tenth = sample(0.1, 1, 0);
        // Five standard deviations of a binomial distribution are 475.
        assert!(rows(&tenth).abs_diff(10_000) < 475, "{}", rows(&tenth));
        assert_eq!(tenth, sample(0.1, 1, 0));
        assert_ne!(tenth, sample(0.1, 2, 0));
        assert_ne!(tenth, sample(0.1, 1, 1));
        assert!([-0.1, 1.1, f64::NAN].iter().all(|fraction| Sample::try_new(*fraction, 1).is_err()));
    }
}
