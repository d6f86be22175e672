//! The first rows of each group, before they are sent to where a window numbers them: most rows are not worth sending.
//!
//! ```text
//! rows ─▶ TopPerGroup ─▶ few rows ─▶ exchange ─▶ Window ─▶ number ─▶ Filter: number <= n
//!           best codes of each group,
//!           rows that may be among them
//! ```
//!
//! It leaves out rows of which it is sure, and no others: the window and the filter behind it decide. So it may forget what
//! it knows whenever memory is short, and never has to spill.

mod best;
mod instance;
mod kept;
mod order;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use aqueduct_runtime::state::SortColumn;
use aqueduct_runtime::{Operator, OperatorContext, OperatorError, OperatorSpec, Result};
use arrow::datatypes::SchemaRef;

use self::instance::Instance;
use self::order::Order;
use crate::expression::same_types;

/// What numbers the rows of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TopKind {
    /// `row_number`: peers are numbered one after the other, in any order.
    RowNumber,
    /// `rank`: peers share the number of the first of them.
    Rank,
    /// `dense_rank`: peers share a number, and the next ones have the next.
    DenseRank,
}

/// Leaves out rows that are not among the first of their groups, as far as one partition can tell.
///
/// What it emits are rows of its input, among them all that are numbered from 1 to [`TopPerGroup::MOST_ROWS`] or less,
/// as asked for: where several sets of rows would do, because of peers, all of one set. They come in no order.
#[derive(Debug, Clone)]
pub struct TopPerGroup {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    schema: SchemaRef,
    partition_by: Vec<usize>,
    order_by: Vec<SortColumn>,
    order: Order,
    kind: TopKind,
    rows: usize,
}

impl TopPerGroup {
    /// Of more rows no partition keeps track.
    pub const MOST_ROWS: usize = 64;

    /// The rows of `schema` that `kind` numbers up to `rows` in the order of `order_by`, among those with equal
    /// `partition_by` columns. `None` if there is no use in it: for many rows, for none, without an order where all
    /// peers are wanted, and for an order by values that cannot be compared fast.
    pub fn try_new(
        schema: SchemaRef,
        partition_by: Vec<usize>,
        order_by: Vec<SortColumn>,
        kind: TopKind,
        rows: usize,
    ) -> Option<Self> {
        let order = Order::try_new(&schema, &order_by)?;
        let all = order_by.is_empty() && kind != TopKind::RowNumber;
        if all || !(1..=Self::MOST_ROWS).contains(&rows) {
            return None;
        }
        Some(Self { shared: Arc::new(Shared { schema, partition_by, order_by, order, kind, rows }) })
    }

    fn check(&self, found: &SchemaRef) -> Result<()> {
        if same_types(&self.shared.schema, found) {
            return Ok(());
        }
        let expected = &self.shared.schema;
        Err(OperatorError::new(format!("the first rows were planned over {expected} and the input has {found}")))
    }
}

impl OperatorSpec for TopPerGroup {
    fn name(&self) -> &str {
        "top per group"
    }

    fn output_schema(&self, _output: usize, inputs: &[SchemaRef]) -> Result<SchemaRef> {
        self.check(&inputs[0])?;
        Ok(Arc::clone(&inputs[0]))
    }

    fn instantiate(&self, context: OperatorContext) -> Result<Box<dyn Operator>> {
        self.check(&context.inputs[0])?;
        let shared = Arc::clone(&self.shared);
        Ok(if shared.order.is_narrow() {
            Box::new(Instance::<u64>::new(shared, context)?)
        } else {
            Box::new(Instance::<u128>::new(shared, context)?)
        })
    }

    fn min_memory(&self, batch_bytes: usize) -> usize {
        // A table of some hundred groups, and their rows.
        (96 << 10) + 2 * batch_bytes
    }

    fn detail(&self) -> String {
        let Shared { schema, partition_by, order_by, kind, rows, .. } = &*self.shared;
        let kind = match kind {
            TopKind::RowNumber => "row_number",
            TopKind::Rank => "rank",
            TopKind::DenseRank => "dense_rank",
        };
        let mut detail = format!("{kind} <= {rows}");
        if !partition_by.is_empty() {
            let names: Vec<_> = partition_by.iter().map(|column| schema.field(*column).name().as_str()).collect();
            detail += &format!(" by {}", names.join(", "));
        }
        if !order_by.is_empty() {
            detail += &format!(" in order of {}", crate::sort::detail(schema, order_by, None));
        }
        detail
    }
}
