//! Sorting: each partition by itself, within its memory, and then all of them into one order.
//!
//! ```text
//! Sort [0] ══╗
//! Sort [1] ══╬══ lanes ══ Merge ── one partition, in order
//! Sort [2] ══╝
//! ```

mod merge;
mod partition;
#[cfg(test)]
mod tests;

pub use aqueduct_runtime::state::SortColumn;
pub use merge::Merge;
pub use partition::Sort;

use aqueduct_runtime::{OperatorError, Result};
use arrow::datatypes::SchemaRef;
use arrow::row::{RowConverter, SortField};

use crate::expression::same_types;

/// Checks that `keys` are columns of `schema` that can be compared.
fn check_keys(schema: &SchemaRef, keys: &[SortColumn]) -> Result<()> {
    for key in keys {
        let Some(field) = schema.fields().get(key.column) else {
            return Err(OperatorError::new(format!("it sorts by column {}, of {}", key.column, schema.fields().len())));
        };
        if !RowConverter::supports_fields(&[SortField::new(field.data_type().clone())]) {
            let (name, data_type) = (field.name(), field.data_type());
            return Err(OperatorError::new(format!("`{name}` cannot be sorted by: {data_type} has no order")));
        }
    }
    Ok(())
}

/// The input of an instance must be what was planned for.
fn check_input(planned: &SchemaRef, input: &SchemaRef) -> Result<()> {
    if same_types(planned, input) {
        return Ok(());
    }
    let types = |schema: &SchemaRef| schema.fields().iter().map(|f| f.data_type().clone()).collect::<Vec<_>>();
    Err(OperatorError::new(format!("it was made for columns {:?} and gets {:?}", types(planned), types(input))))
}

/// Keys as `explain` shows them.
pub(crate) fn detail(schema: &SchemaRef, keys: &[SortColumn], fetch: Option<usize>) -> String {
    let keys = keys.iter().map(|key| {
        let descending = if key.options.descending { " desc" } else { "" };
        // Nulls come last where values ascend and first where they descend, unless it is said otherwise.
        let nulls = match (key.options.descending, key.options.nulls_first) {
            (false, true) => " nulls first",
            (true, false) => " nulls last",
            _ => "",
        };
        format!("{}{descending}{nulls}", schema.field(key.column).name())
    });
    let keys = keys.collect::<Vec<_>>().join(", ");
    fetch.map_or(keys.clone(), |fetch| format!("{keys}, first {fetch} rows"))
}
