//! What the footers say of a table, for a planner to choose by.

use datafusion_common::ScalarValue;

use super::bounds::{bounds_are_of_all, group_bounds};
use super::files::Table;
use super::scan::leaves;

/// What is known of a table before it is read.
#[derive(Debug, Clone, PartialEq)]
pub struct TableStatistics {
    /// Number of rows.
    pub rows: Option<u64>,
    /// Bytes of the columns once decompressed.
    pub bytes: Option<u64>,
    /// What is known of each column.
    pub columns: Vec<ColumnStatistics>,
}

/// What is known of one column.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ColumnStatistics {
    /// No value is less, NaN and null aside. `None` unless all row groups tell.
    pub min: Option<ScalarValue>,
    /// No value is greater, NaN and null aside. `None` unless all row groups tell.
    pub max: Option<ScalarValue>,
    /// Number of nulls. `None` unless all row groups tell.
    pub null_count: Option<u64>,
    /// Bounds are values that the column has, not such that were shortened, and hold for NaN too.
    pub exact: bool,
}

/// What the footers say of `columns` of a table.
pub(crate) fn statistics(table: &Table, columns: &[usize]) -> TableStatistics {
    let groups = || table.files.iter().flat_map(|file| file.metadata.row_groups());
    let rows = groups().map(|group| group.num_rows().max(0) as u64).sum();
    let bytes = table.files.iter().flat_map(|file| {
        let groups = file.metadata.row_groups().iter();
        groups.flat_map(move |group| leaves(file, columns).map(move |leaf| group.column(leaf).uncompressed_size()))
    });
    let bytes = bytes.map(|bytes| bytes.max(0) as u64).sum();
    let columns = columns.iter().map(|column| column_statistics(table, *column)).collect();
    TableStatistics { rows: Some(rows), bytes: Some(bytes), columns }
}

fn column_statistics(table: &Table, column: usize) -> ColumnStatistics {
    let field = table.schema.field(column);
    let only = [column];
    let mut ends: Option<(Option<ScalarValue>, Option<ScalarValue>)> = None;
    let (mut nulls, mut exact) = (Some(0), bounds_are_of_all(field.data_type()));
    for file in &table.files {
        for group in 0..file.metadata.num_row_groups() {
            let metadata = file.metadata.row_group(group);
            if metadata.num_rows() == 0 {
                continue;
            }
            let Some(bounds) = group_bounds(file, field, column, group) else { return ColumnStatistics::default() };
            nulls = nulls.zip(bounds.nulls).map(|(all, own)| all + own);
            // A row group of nulls has no bounds, and takes none away.
            if bounds.nulls == Some(bounds.rows) {
                continue;
            }
            exact &= leaves(file, &only).all(|leaf| {
                metadata.column(leaf).statistics().is_some_and(|known| known.min_is_exact() && known.max_is_exact())
            });
            ends = Some(match ends {
                None => (bounds.min, bounds.max),
                Some((min, max)) => (lesser(min, bounds.min, false), lesser(max, bounds.max, true)),
            });
        }
    }
    let (min, max) = ends.unwrap_or_default();
    let exact = exact && min.is_some() && max.is_some();
    ColumnStatistics { min, max, null_count: nulls, exact }
}

/// The lesser of two values, or the greater; `None` if one is not known.
fn lesser(a: Option<ScalarValue>, b: Option<ScalarValue>, greatest: bool) -> Option<ScalarValue> {
    let (a, b) = (a?, b?);
    let first = a.partial_cmp(&b)?.is_le() != greatest;
    Some(if first { a } else { b })
}
