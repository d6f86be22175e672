//! The sort: puts the rows of its partition in order, through the disk where memory is short.
//!
//! Nothing is emitted before the input has ended. Rows with equal keys keep their order.

use aqueduct_runtime::batch::batch_bytes;
use aqueduct_runtime::state::{ExternalSorter, Next};
use aqueduct_runtime::{Operator, OperatorContext, OperatorSpec, Outbox, Port, Result, Step};
use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;

use super::{SortColumn, check_input, check_keys, detail};

/// Sorts each partition; with a `fetch`, keeps its first rows alone.
#[derive(Debug, Clone)]
pub struct Sort {
    schema: SchemaRef,
    keys: Vec<SortColumn>,
    fetch: Option<usize>,
}

impl Sort {
    /// A sort of rows of `schema` by `keys`, the first one first. With `fetch`, the first so many rows of each
    /// partition are left: a few are kept in memory, and many go through the disk as all rows would.
    ///
    /// # Errors
    ///
    /// If a key is no column or has a type without an order.
    pub fn try_new(schema: SchemaRef, keys: Vec<SortColumn>, fetch: Option<usize>) -> Result<Self> {
        check_keys(&schema, &keys)?;
        Ok(Self { schema, keys, fetch })
    }
}

impl OperatorSpec for Sort {
    fn name(&self) -> &str {
        "sort"
    }

    fn output_schema(&self, _output: usize, inputs: &[SchemaRef]) -> Result<SchemaRef> {
        check_input(&self.schema, &inputs[0])?;
        Ok(SchemaRef::clone(&inputs[0]))
    }

    fn instantiate(&self, context: OperatorContext) -> Result<Box<dyn Operator>> {
        check_input(&self.schema, &context.inputs[0])?;
        let sorter = context.sorter(SchemaRef::clone(&context.inputs[0]), &self.keys)?.with_fetch(self.fetch);
        Ok(Box::new(SortInstance { sorter, keys: self.keys.len(), finished: false }))
    }

    fn min_memory(&self, batch_bytes: usize) -> usize {
        ExternalSorter::min_memory(batch_bytes)
    }

    fn emits_after_input(&self) -> bool {
        true
    }

    fn detail(&self) -> String {
        detail(&self.schema, &self.keys, self.fetch)
    }
}

struct SortInstance {
    sorter: ExternalSorter,
    keys: usize,
    finished: bool,
}

impl SortInstance {
    fn settle(&mut self) -> Result<Step> {
        Ok(self.sorter.settle()?.map_or(Step::NeedInput, Step::Blocked))
    }

    fn emit(&mut self, out: &mut Outbox) -> Result<Step> {
        match self.sorter.next()? {
            Next::Batch(batch) => {
                out.push(batch);
                Ok(Step::MoreOutput)
            }
            Next::Blocked(ticket) => Ok(Step::Blocked(ticket)),
            Next::End => Ok(Step::NeedInput),
        }
    }
}

impl Operator for SortInstance {
    fn process(&mut self, _port: Port, batch: RecordBatch, _out: &mut Outbox) -> Result<Step> {
        self.sorter.push(batch)?;
        self.settle()
    }

    fn resume(&mut self, out: &mut Outbox) -> Result<Step> {
        if self.finished { self.emit(out) } else { self.settle() }
    }

    fn finish(&mut self, _port: Port, out: &mut Outbox) -> Result<Step> {
        self.finished = true;
        self.emit(out)
    }

    fn spill(&mut self, bytes: usize) -> Result<usize> {
        self.sorter.spill(bytes)
    }

    fn step_bytes(&self, _port: Port, batch: &RecordBatch) -> usize {
        // Its keys before they are charged, and what is left of it if it is cut.
        2 * batch_bytes(batch) + (24 + 33 * self.keys) * batch.num_rows()
    }
}
