//! The union: passes the rows of several inputs on as they come.

use aqueduct_runtime::{Operator, OperatorContext, OperatorError, OperatorSpec, Outbox, Port, Result, Step};
use arrow::datatypes::{Schema, SchemaRef};
use arrow::record_batch::RecordBatch;

use crate::expression::same_types;

/// Passes on the rows of all inputs, in no particular order. Their types must agree; the names are the
/// first input's.
#[derive(Debug, Clone)]
pub struct Union {
    inputs: usize,
}

impl Union {
    /// A union of `inputs` inputs.
    pub fn new(inputs: usize) -> Self {
        Self { inputs }
    }
}

fn union_schema(inputs: &[SchemaRef]) -> Result<SchemaRef> {
    let first = inputs.first().ok_or_else(|| OperatorError::new("a union of no inputs has no schema"))?;
    if let Some((index, other)) = inputs.iter().enumerate().find(|(_, schema)| !same_types(first, schema)) {
        return Err(OperatorError::new(format!(
            "all inputs of a union need the same types; input 0 has {first} and input {index} has {other}"
        )));
    }
    let nullable = |column: usize| inputs.iter().any(|schema| schema.field(column).is_nullable());
    let fields: Vec<_> = first
        .fields()
        .iter()
        .enumerate()
        .map(|(column, field)| field.as_ref().clone().with_nullable(nullable(column)))
        .collect();
    Ok(SchemaRef::new(Schema::new_with_metadata(fields, first.metadata().clone())))
}

impl OperatorSpec for Union {
    fn name(&self) -> &str {
        "union"
    }

    fn inputs(&self) -> usize {
        self.inputs
    }

    fn output_schema(&self, _output: usize, inputs: &[SchemaRef]) -> Result<SchemaRef> {
        union_schema(inputs)
    }

    fn instantiate(&self, context: OperatorContext) -> Result<Box<dyn Operator>> {
        Ok(Box::new(UnionInstance { schema: union_schema(&context.inputs)? }))
    }

    fn reads_all_ports(&self) -> bool {
        true
    }
}

struct UnionInstance {
    schema: SchemaRef,
}

impl Operator for UnionInstance {
    fn process(&mut self, _port: Port, batch: RecordBatch, out: &mut Outbox) -> Result<Step> {
        out.push(renamed(&self.schema, &batch)?);
        Ok(Step::NeedInput)
    }

    fn step_bytes(&self, _port: Port, _batch: &RecordBatch) -> usize {
        // The buffers are passed on as they are.
        0
    }
}

/// `with_schema` of the batch would insist on equal names.
fn renamed(schema: &SchemaRef, batch: &RecordBatch) -> Result<RecordBatch> {
    let options = arrow::record_batch::RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    Ok(RecordBatch::try_new_with_options(SchemaRef::clone(schema), batch.columns().to_vec(), &options)?)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array, StringArray};

    use super::*;

    #[test]
    fn names_are_the_first_inputs_and_types_must_agree() {
        let numbers = |name: &str, nullable| {
            let column = Arc::new(Int64Array::from(vec![1, 2])) as ArrayRef;
            RecordBatch::try_from_iter_with_nullable([(name, column, nullable)]).expect("one column")
        };
        let (a, b) = (numbers("a", false), numbers("b", true));
        let schema = union_schema(&[a.schema(), b.schema()]).expect("same types");
        assert_eq!((schema.field(0).name().as_str(), schema.field(0).is_nullable()), ("a", true));
        let mut instance = UnionInstance { schema: Arc::clone(&schema) };
        let mut out = Outbox::new();
        for (port, batch) in [a.clone(), b].into_iter().enumerate() {
            instance.process(port, batch, &mut out).expect("passes");
        }
        for _ in 0..2 {
            let (_, batch) = out.pop().expect("two batches");
            assert_eq!((batch.schema(), batch.column(0)), (Arc::clone(&schema), a.column(0)));
        }
        let text = RecordBatch::try_from_iter([("a", Arc::new(StringArray::from(vec!["x"])) as ArrayRef)]);
        let error = union_schema(&[a.schema(), text.expect("one column").schema()]).expect_err("types differ");
        assert!(error.to_string().contains("input 1"), "{error}");
    }
}
