//! Window functions: columns computed from the rows around each row, in an order within a partition.
//!
//! ```text
//! rows ─▶ sort by (partition, order) ─▶ marks of partitions and peers ─┬▶ functions that look ahead ─▶ results ─┐
//!                                                                      └▶ rows, waiting ────────────────────────┴▶ out
//! ```
//!
//! Sorted rows wait until every function has a result for them. All that waits is on tapes, which spill: the rows,
//! arguments at both ends of a frame, results that are early. So a partition may be larger than memory, whatever its
//! frames are. What has to be in memory is the state of an aggregate itself:
//!
//! | held whole, and a typed error if it does not fit | |
//! |---|---|
//! | aggregates whose state grows (`array_agg`, `string_agg`, `median`, percentiles, distinct ones) | their state |
//! | `min`, `max` over frames that slide | values of the frame that no later one beats |
//! | aggregates that cannot take rows out, over frames that slide | arguments of one frame |
//! | window functions that are not DataFusion's own | arguments of one partition |

mod aggregate;
mod ahead;
mod desk;
mod fold;
mod frame;
mod function;
mod held;
mod instance;
mod marks;
mod pick;
mod rank;
mod tape;
#[cfg(test)]
pub(crate) mod tests;

use std::sync::Arc;

use aqueduct_runtime::state::{ExternalSorter, SortColumn};
use aqueduct_runtime::{Operator, OperatorContext, OperatorError, OperatorSpec, Result};
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};

use self::function::Plan;
pub use self::function::{LoweredWindowFunction, WindowFunction};
use self::instance::Instance;
use self::rank::Place;
use crate::expression::same_types;
use crate::top::{TopKind, TopPerGroup};

/// Computes functions over windows that have one partitioning and one order in common.
///
/// Its input is hashed by the partition columns, or gathered where there are none. Its output is the columns of the
/// input and, behind them, one column for each function, sorted by partition and order.
#[derive(Debug, Clone)]
pub struct Window {
    shared: Arc<Shared>,
}

/// What all partitions have in common.
#[derive(Debug)]
struct Shared {
    input: SchemaRef,
    output: SchemaRef,
    /// Input columns, and behind them keys that are made equal where they count as equal.
    sorted: SchemaRef,
    /// Input columns that such keys are made of.
    normalised: Vec<usize>,
    /// Columns of the sorted rows.
    partition_by: Vec<usize>,
    order_by: Vec<SortColumn>,
    functions: Vec<WindowFunction>,
    plans: Vec<(Plan, FieldRef)>,
}

impl Window {
    /// Functions over rows of `schema`, within partitions of equal `partition_by` columns, in the order of `order_by`.
    ///
    /// # Errors
    ///
    /// If a column is not there or cannot be sorted, or a function does not fit its arguments or its frame.
    pub fn try_new(
        schema: SchemaRef,
        partition_by: Vec<usize>,
        order_by: Vec<SortColumn>,
        functions: Vec<WindowFunction>,
    ) -> Result<Self> {
        let mut fields: Vec<FieldRef> = schema.fields().to_vec();
        let mut normalised = Vec::new();
        let mut key = |column: usize| -> Result<usize> {
            let Some(field) = schema.fields().get(column) else {
                return Err(OperatorError::new(format!("there is no column {column} to partition or order by")));
            };
            if !matches!(field.data_type(), DataType::Float16 | DataType::Float32 | DataType::Float64) {
                return Ok(column);
            }
            // 0 is -0, and every NaN is every other.
            if let Some(made) = normalised.iter().position(|made| *made == column) {
                return Ok(schema.fields().len() + made);
            }
            normalised.push(column);
            fields.push(Arc::new(Field::new(format!("{} (key)", field.name()), field.data_type().clone(), true)));
            Ok(fields.len() - 1)
        };
        let partition_by = partition_by.into_iter().map(&mut key).collect::<Result<Vec<_>>>()?;
        let order_by = order_by.into_iter().map(|by| Ok(SortColumn { column: key(by.column)?, options: by.options }));
        let order_by = order_by.collect::<Result<Vec<_>>>()?;
        let sorted = Arc::new(Schema::new(fields));
        let plans = functions.iter().map(|function| function.plan(&sorted, &order_by)).collect::<Result<Vec<_>>>()?;
        let results = plans
            .iter()
            .zip(&functions)
            .map(|((_, field), function)| Arc::new(field.as_ref().clone().with_name(&function.name)));
        let output = schema.fields().iter().map(Arc::clone).chain(results).collect::<Vec<_>>();
        let output = Arc::new(Schema::new_with_metadata(output, schema.metadata().clone()));
        let shared = Shared { input: schema, output, sorted, normalised, partition_by, order_by, functions, plans };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// What may stand before the exchange where only rows are wanted whose `function` is at most `rows`: an operator that
    /// leaves out others. `None` if the function does not number rows, if another one sees what would be left out, or if
    /// it is not worth its while.
    pub fn top(&self, function: usize, rows: usize) -> Option<TopPerGroup> {
        let kind = |(plan, _): &(Plan, FieldRef)| match plan {
            Plan::Place(Place::RowNumber) => Some(TopKind::RowNumber),
            Plan::Place(Place::Rank) => Some(TopKind::Rank),
            Plan::Place(Place::DenseRank) => Some(TopKind::DenseRank),
            _ => None,
        };
        let Shared { input, normalised, partition_by, plans, .. } = &*self.shared;
        // A number depends on no row that is behind.
        let kinds = plans.iter().map(kind).collect::<Option<Vec<_>>>()?;
        let given = |column: usize| column.checked_sub(input.fields().len()).map_or(column, |made| normalised[made]);
        let mut order_by = self.shared.sort_columns();
        order_by.retain(|by| !partition_by.contains(&by.column));
        let order_by = order_by.into_iter().map(|by| SortColumn { column: given(by.column), ..by }).collect();
        let partition_by = partition_by.iter().map(|column| given(*column)).collect();
        TopPerGroup::try_new(Arc::clone(input), partition_by, order_by, *kinds.get(function)?, rows)
    }
}

impl Shared {
    /// Columns to sort by; none if the rows are taken as they come.
    fn sort_columns(&self) -> Vec<SortColumn> {
        let partition = self.partition_by.iter().map(|column| SortColumn {
            column: *column,
            options: arrow::compute::SortOptions { descending: false, nulls_first: true },
        });
        let mut columns: Vec<SortColumn> = Vec::new();
        for by in partition.chain(self.order_by.iter().copied()) {
            if !columns.iter().any(|before| before.column == by.column) {
                columns.push(by);
            }
        }
        columns
    }

    /// Rows of a batch that is worked on at once.
    fn rows(batch_bytes: usize, batch_rows: usize) -> usize {
        batch_rows.min((batch_bytes / 32).max(64)).max(1)
    }

    /// Bytes that it works with beside the sorter.
    fn headroom_bytes(&self, batch_bytes: usize) -> usize {
        let rows = Self::rows(batch_bytes, 8192);
        let functions = self.plans.iter().map(|(plan, field)| plan.floor_bytes(field, rows)).sum::<usize>();
        4 * batch_bytes + (32 << 10) + functions
    }
}

impl OperatorSpec for Window {
    fn name(&self) -> &str {
        "window"
    }

    fn output_schema(&self, _output: usize, inputs: &[SchemaRef]) -> Result<SchemaRef> {
        self.check(&inputs[0])?;
        Ok(Arc::clone(&self.shared.output))
    }

    fn instantiate(&self, context: OperatorContext) -> Result<Box<dyn Operator>> {
        self.check(&context.inputs[0])?;
        Ok(Box::new(Instance::new(Arc::clone(&self.shared), context)?))
    }

    fn min_memory(&self, batch_bytes: usize) -> usize {
        self.shared.headroom_bytes(batch_bytes) + ExternalSorter::min_memory(batch_bytes)
    }

    fn detail(&self) -> String {
        let name = |column: &usize| self.shared.sorted.field(*column).name().trim_end_matches(" (key)").to_string();
        let functions: Vec<_> = self.shared.functions.iter().map(WindowFunction::text).collect();
        let mut detail = functions.join(", ");
        let partition: Vec<_> = self.shared.partition_by.iter().map(name).collect();
        if !partition.is_empty() {
            detail += &format!(" by {}", partition.join(", "));
        }
        let order: Vec<_> = self
            .shared
            .order_by
            .iter()
            .map(|by| {
                let down = if by.options.descending { " desc" } else { "" };
                let nulls = if by.options.nulls_first { " nulls first" } else { "" };
                format!("{}{down}{nulls}", name(&by.column))
            })
            .collect();
        if !order.is_empty() {
            detail += &format!(" in order of {}", order.join(", "));
        }
        detail
    }
}

impl Window {
    fn check(&self, found: &Schema) -> Result<()> {
        if same_types(&self.shared.input, found) {
            return Ok(());
        }
        let expected = &self.shared.input;
        Err(OperatorError::new(format!("the window was planned over {expected} and its input has {found}")))
    }
}
