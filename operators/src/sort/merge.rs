//! The merge: one order out of sorted lanes, one for each partition of the node before it.
//!
//! Rows with equal keys come in the order of the lanes. It reads a lane only when it has used up what it has of
//! it, so the lanes that are ahead wait.

use aqueduct_runtime::state::{LaneMerge, LaneStep};
use aqueduct_runtime::{Operator, OperatorContext, OperatorSpec, Outbox, Port, PortSet, Result, Step};
use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;

use super::{SortColumn, check_input, check_keys, detail};

/// Merges sorted partitions; its input comes through [`Exchange::Lanes`](aqueduct_runtime::Exchange::Lanes).
#[derive(Debug, Clone)]
pub struct Merge {
    schema: SchemaRef,
    keys: Vec<SortColumn>,
    fetch: Option<usize>,
}

impl Merge {
    /// A merge of lanes of `schema` that are sorted by `keys`. With `fetch`, it ends after so many rows, and
    /// stops what sends to it.
    ///
    /// # Errors
    ///
    /// If a key is no column or has a type without an order.
    pub fn try_new(schema: SchemaRef, keys: Vec<SortColumn>, fetch: Option<usize>) -> Result<Self> {
        check_keys(&schema, &keys)?;
        Ok(Self { schema, keys, fetch })
    }
}

impl OperatorSpec for Merge {
    fn name(&self) -> &str {
        "merge"
    }

    fn output_schema(&self, _output: usize, inputs: &[SchemaRef]) -> Result<SchemaRef> {
        check_input(&self.schema, &inputs[0])?;
        Ok(SchemaRef::clone(&inputs[0]))
    }

    fn instantiate(&self, context: OperatorContext) -> Result<Box<dyn Operator>> {
        check_input(&self.schema, &context.inputs[0])?;
        let merge = LaneMerge::new(
            &context.memory,
            &context.inputs[0],
            &self.keys,
            context.lanes[0],
            context.batch_rows,
            context.batch_bytes,
        )?;
        Ok(Box::new(MergeInstance { merge: merge.with_fetch(self.fetch), fetch: self.fetch }))
    }

    fn min_memory(&self, batch_bytes: usize) -> usize {
        LaneMerge::min_memory(batch_bytes)
    }

    fn lane_memory(&self, batch_bytes: usize) -> usize {
        LaneMerge::lane_memory(batch_bytes)
    }

    fn detail(&self) -> String {
        detail(&self.schema, &self.keys, self.fetch)
    }
}

struct MergeInstance {
    merge: LaneMerge,
    fetch: Option<usize>,
}

impl Operator for MergeInstance {
    fn process(&mut self, port: Port, batch: RecordBatch, out: &mut Outbox) -> Result<Step> {
        self.merge.push(port, batch)?;
        self.resume(out)
    }

    fn resume(&mut self, out: &mut Outbox) -> Result<Step> {
        match self.merge.next()? {
            LaneStep::Batch(batch) => {
                out.push(batch);
                Ok(Step::MoreOutput)
            }
            LaneStep::NeedInput => Ok(Step::NeedInput),
            LaneStep::End if self.fetch.is_some() => Ok(Step::Done),
            LaneStep::End => Ok(Step::NeedInput),
        }
    }

    fn finish(&mut self, port: Port, out: &mut Outbox) -> Result<Step> {
        self.merge.end(port);
        self.resume(out)
    }

    fn ready(&self) -> PortSet {
        self.merge.wanted()
    }
}
