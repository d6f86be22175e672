//! The projection: computes the columns of its output from those of its input, row by row.
//!
//! Texts that are made of numbers take more than these: where a batch would become much larger than the plan counts on, it
//! is computed in pieces.

use std::sync::Arc;

use aqueduct_runtime::batch::batch_bytes;
use aqueduct_runtime::{Operator, OperatorContext, OperatorError, OperatorSpec, Outbox, Port, Result, Step};
use arrow::datatypes::{Schema, SchemaRef};
use arrow::record_batch::{RecordBatch, RecordBatchOptions};

use crate::expression::{Expression, evaluate, field, named_text};

/// Computes named expressions for each row.
#[derive(Debug, Clone)]
pub struct Project {
    expressions: Arc<[(Expression, String)]>,
    schema: Option<SchemaRef>,
}

impl Project {
    /// A projection whose schema follows from its expressions.
    pub fn new(expressions: Vec<(Expression, String)>) -> Self {
        Self { expressions: expressions.into(), schema: None }
    }

    /// A projection whose output is promised to have `schema`, which may allow more nulls than needed.
    pub fn with_schema(expressions: Vec<(Expression, String)>, schema: SchemaRef) -> Self {
        Self { expressions: expressions.into(), schema: Some(schema) }
    }
}

impl OperatorSpec for Project {
    fn name(&self) -> &str {
        "project"
    }

    fn output_schema(&self, _output: usize, inputs: &[SchemaRef]) -> Result<SchemaRef> {
        let input = &inputs[0];
        let fields = self
            .expressions
            .iter()
            .map(|(expression, name)| field(expression.as_ref(), name, input))
            .collect::<Result<Vec<_>>>()?;
        let derived = Schema::new_with_metadata(fields, input.metadata().clone());
        let Some(promised) = &self.schema else { return Ok(Arc::new(derived)) };
        let fits = promised.fields().len() == derived.fields().len()
            && promised.fields().iter().zip(derived.fields()).all(|(promised, derived)| {
                promised.data_type() == derived.data_type() && (promised.is_nullable() || !derived.is_nullable())
            });
        if fits {
            Ok(Arc::clone(promised))
        } else {
            Err(OperatorError::new(format!("the expressions yield {derived} and {promised} was promised")))
        }
    }

    fn instantiate(&self, context: OperatorContext) -> Result<Box<dyn Operator>> {
        let schema = self.output_schema(0, &context.inputs)?;
        // What a text takes is known once there was one.
        let guess = |field: &arrow::datatypes::FieldRef| field.data_type().primitive_width().unwrap_or(TEXT_BYTES);
        let row_bytes = schema.fields().iter().map(guess).sum();
        let most_bytes = context.batch_bytes + context.batch_bytes / 2;
        let expressions = Arc::clone(&self.expressions);
        Ok(Box::new(ProjectInstance { expressions, schema, row_bytes, most_bytes, rest: None }))
    }

    fn keeps_order(&self) -> bool {
        true
    }

    fn detail(&self) -> String {
        named_text(&self.expressions)
    }
}

/// What a value of no fixed size is likely to take.
const TEXT_BYTES: usize = 48;

struct ProjectInstance {
    expressions: Arc<[(Expression, String)]>,
    schema: SchemaRef,
    /// Bytes that a row of the output takes.
    row_bytes: usize,
    /// Bytes that may be emitted in a step.
    most_bytes: usize,
    /// Rows that are still to be computed.
    rest: Option<RecordBatch>,
}

impl ProjectInstance {
    /// Computes as many rows of `batch` as are sure to be within bounds.
    fn advance(&mut self, batch: RecordBatch, out: &mut Outbox) -> Result<Step> {
        let rows = batch.num_rows();
        let most = self.most_bytes / self.row_bytes.max(1);
        if rows <= most.max(1) {
            self.compute(&batch, out)?;
            return Ok(Step::NeedInput);
        }
        self.compute(&batch.slice(0, most.max(1)), out)?;
        self.rest = Some(batch.slice(most.max(1), rows - most.max(1)));
        Ok(Step::MoreOutput)
    }

    fn compute(&mut self, batch: &RecordBatch, out: &mut Outbox) -> Result<()> {
        let columns = self
            .expressions
            .iter()
            .map(|(expression, _)| evaluate(expression.as_ref(), batch))
            .collect::<Result<Vec<_>>>()?;
        // A projection to no columns, as below `count(*)`, still has rows.
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        let output = RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)?;
        if output.num_rows() > 0 {
            let row_bytes = batch_bytes(&output).div_ceil(output.num_rows());
            // One long text among short ones is soon forgotten.
            self.row_bytes = row_bytes.max(self.row_bytes / 2);
        }
        out.push(output);
        Ok(())
    }
}

impl Operator for ProjectInstance {
    fn process(&mut self, _port: Port, batch: RecordBatch, out: &mut Outbox) -> Result<Step> {
        self.advance(batch, out)
    }

    fn resume(&mut self, out: &mut Outbox) -> Result<Step> {
        match self.rest.take() {
            Some(batch) => self.advance(batch, out),
            None => Ok(Step::NeedInput),
        }
    }

    fn step_bytes(&self, _port: Port, batch: &RecordBatch) -> usize {
        let output = (self.row_bytes * batch.num_rows()).min(self.most_bytes);
        2 * batch_bytes(batch).max(output)
    }
}

#[cfg(test)]
mod tests {
    use aqueduct_runtime::testing::{context, drive};
    use arrow::array::{ArrayRef, Int64Array};
    use arrow::compute::concat_batches;
    use arrow::compute::kernels::numeric;
    use datafusion_expr::Operator as Binary;
    use datafusion_physical_expr::expressions::{binary, col, lit};

    use super::*;

    fn input() -> RecordBatch {
        let numbers = Arc::new(Int64Array::from(vec![Some(1), None, Some(3)])) as ArrayRef;
        RecordBatch::try_from_iter_with_nullable([("n", numbers, true)]).expect("one column")
    }

    fn run(project: &Project, input: RecordBatch) -> RecordBatch {
        let schema = project.output_schema(0, &[input.schema()]).expect("fits");
        let mut instance = project.instantiate(context().operator(&[input.schema()])).expect("starts");
        let output = drive(instance.as_mut(), [vec![input]]).expect("projects");
        assert_eq!(output[0].schema(), schema);
        concat_batches(&schema, &output).expect("one schema")
    }

    #[test]
    fn rows_that_grow_are_computed_in_pieces() {
        let numbers = Arc::new(Int64Array::from_iter_values(0..8192)) as ArrayRef;
        let input = RecordBatch::try_from_iter([("n", numbers)]).expect("one column");
        let n = col("n", &input.schema()).expect("n");
        let long = lit("a text of about forty bytes for each row");
        let project = Project::new(vec![(n, "n".into()), (long, "t".into())]);
        let context = context().batch_bytes(64 << 10).operator(&[input.schema()]);
        let mut instance = project.instantiate(context).expect("starts");
        let output = drive(instance.as_mut(), [vec![input.clone(), input.clone()]]).expect("projects");
        assert!(output.iter().all(|batch| batch_bytes(batch) <= 2 * (64 << 10)), "{}", output.len());
        assert_eq!(output.iter().map(RecordBatch::num_rows).sum::<usize>(), 2 * 8192);
        let whole = concat_batches(&output[0].schema(), &output).expect("one schema");
        assert_eq!(whole.column(0).slice(8192, 8192).as_ref(), input.column(0).as_ref());
    }

    #[test]
    fn columns_are_computed_and_named() {
        let input = input();
        let schema = input.schema();
        let n = col("n", &schema).expect("n");
        let plus = binary(Arc::clone(&n), Binary::Plus, lit(1i64), &schema).expect("a sum");
        let project = Project::new(vec![(plus, "next".into()), (n, "n".into()), (lit("x"), "x".into())]);
        let output = run(&project, input.clone());
        assert_eq!(output.schema().field(0).name(), "next");
        let expected = numeric::add(input.column(0), &Int64Array::new_scalar(1)).expect("adds");
        assert_eq!(output.column(0), &expected);
        assert_eq!(output.column(1), input.column(0));
        assert_eq!(output.column(2).len(), 3);
        assert_eq!(project.detail(), "n@0 + 1 as next, n, x");
    }

    #[test]
    fn a_projection_to_no_columns_keeps_its_rows() {
        assert_eq!(run(&Project::new(vec![]), input()).num_rows(), 3);
    }

    #[test]
    fn a_schema_that_was_promised_must_fit() {
        let schema = input().schema();
        let text =
            Arc::new(Schema::new(vec![arrow::datatypes::Field::new("n", arrow::datatypes::DataType::Utf8, true)]));
        let project = Project::with_schema(vec![(col("n", &schema).expect("n"), "n".into())], text);
        assert!(project.output_schema(0, &[schema]).is_err());
    }
}
