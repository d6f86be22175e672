//! What the specs of joins that hold one side have in common: which side, which columns, and how an instance is made.

use std::sync::Arc;

use aqueduct_runtime::{OperatorError, Result};
use arrow::datatypes::{FieldRef, SchemaRef};

use crate::expression::same_types;

/// Makes `$join`, a struct with a `definition`, a spec called `$name`.
macro_rules! join_spec {
    ($join:ty, $name:literal) => {
        impl $join {
            /// Holds this side, best the smaller one, and streams the other.
            #[must_use]
            pub fn with_build(mut self, side: datafusion_common::JoinSide) -> Self {
                self.definition.build = side;
                self
            }

            /// Emits only these of the output columns, in this order.
            #[must_use]
            pub fn with_output(mut self, columns: Vec<usize>) -> Self {
                self.definition.output = Some(columns);
                self
            }

            /// The columns that it emits.
            ///
            /// # Errors
            ///
            /// When filter, output columns or `not in` do not fit the join.
            pub fn schema(&self) -> aqueduct_runtime::Result<arrow::datatypes::SchemaRef> {
                Ok(self.definition.shape()?.output_schema)
            }
        }

        impl aqueduct_runtime::OperatorSpec for $join {
            fn name(&self) -> &str {
                $name
            }

            fn inputs(&self) -> usize {
                2
            }

            fn output_schema(
                &self,
                _output: usize,
                inputs: &[arrow::datatypes::SchemaRef],
            ) -> aqueduct_runtime::Result<arrow::datatypes::SchemaRef> {
                $crate::join::spec::check_inputs(&self.definition.inputs, inputs)?;
                self.schema()
            }

            fn instantiate(
                &self,
                context: aqueduct_runtime::OperatorContext,
            ) -> aqueduct_runtime::Result<Box<dyn aqueduct_runtime::Operator>> {
                let shape = self.definition.shape()?;
                Ok(Box::new($crate::join::instance::Instance::new(shape, context)?))
            }

            fn min_memory(&self, batch_bytes: usize) -> usize {
                $crate::join::instance::min_memory(batch_bytes)
            }

            fn detail(&self) -> String {
                self.definition.detail()
            }
        }
    };
}

pub(super) use join_spec;

/// Refuses inputs that are not those the join was made for.
pub(super) fn check_inputs(expected: &[SchemaRef; 2], found: &[SchemaRef]) -> Result<()> {
    let differs = |(expected, found): &(&SchemaRef, &SchemaRef)| !same_types(expected, found);
    match expected.iter().zip(found).find(differs) {
        Some((expected, found)) => Err(OperatorError::new(format!("an input has {found} instead of {expected}"))),
        None => Ok(()),
    }
}

/// Those of all output columns that `output` chooses: all if it does not say.
pub(super) fn chosen<T: Clone>(all: Vec<T>, output: Option<&[usize]>) -> Result<Vec<T>> {
    let Some(output) = output else { return Ok(all) };
    let column = |index: &usize| {
        let column = all.get(*index).cloned();
        column.ok_or_else(|| OperatorError::new(format!("the join has no output column {index}")))
    };
    output.iter().map(column).collect()
}

/// `field`, which a row without a match has as a null.
pub(super) fn nullable(field: &FieldRef) -> FieldRef {
    if field.is_nullable() {
        return Arc::clone(field);
    }
    Arc::new(field.as_ref().clone().with_nullable(true))
}
