//! The projection: computes the columns of its output from those of its input, row by row.

use std::sync::Arc;

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
        Ok(Box::new(ProjectInstance { expressions: Arc::clone(&self.expressions), schema }))
    }

    fn keeps_order(&self) -> bool {
        true
    }

    fn detail(&self) -> String {
        named_text(&self.expressions)
    }
}

struct ProjectInstance {
    expressions: Arc<[(Expression, String)]>,
    schema: SchemaRef,
}

impl Operator for ProjectInstance {
    fn process(&mut self, _port: Port, batch: RecordBatch, out: &mut Outbox) -> Result<Step> {
        let columns = self
            .expressions
            .iter()
            .map(|(expression, _)| evaluate(expression.as_ref(), &batch))
            .collect::<Result<Vec<_>>>()?;
        // A projection to no columns, as below `count(*)`, still has rows.
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        out.push(RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)?);
        Ok(Step::NeedInput)
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, Int64Array};
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
        let mut instance = ProjectInstance { expressions: Arc::clone(&project.expressions), schema };
        let mut out = Outbox::new();
        instance.process(0, input, &mut out).expect("projects");
        out.pop().expect("one batch").1
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
