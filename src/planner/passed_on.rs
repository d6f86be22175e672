//! Filters that are passed on: what a join holds rules out rows of the held side of a join above it, too.
//!
//! ```text
//!             join on b = c                 c = b = a, so of table C only rows are of use whose c is among the a:
//!            ╱             ╲                its scan is given the lower join's filter, and may wait for it
//!  join on a = b            C (held)
//!  ╱           ╲
//! A (held)      B
//! ```

use datafusion_common::JoinSide;
use datafusion_expr::logical_plan::Join;
use datafusion_expr::{Distinct, Expr, ExprSchemable, JoinType, LogicalPlan};

use super::Planner;
use super::estimate::distinct;
use super::runtime_filter::within;

/// A scan that would have the filter of a join.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    /// Which join, by where it is in memory, and which of its conditions the filter has to be by, alone.
    pub(super) join: usize,
    pub(super) key: usize,
    /// Which scan, likewise, and which column of its table.
    pub(super) scan: usize,
    pub(super) column: usize,
    /// Values of that column.
    pub(super) different: f64,
}

impl Planner {
    /// Asks joins in the streamed side of `join` for filters of the side that is held; how many have been asked for
    /// before. They are to be forgotten as soon as that side is planned, while all of `join` is where it is.
    pub(super) fn ask_for_filters(&mut self, join: &Join, build: JoinSide) -> usize {
        let before = self.runtime_filters.wanted.len();
        // A held row without a match must not be in the answer.
        if join.join_type != JoinType::Inner {
            return before;
        }
        for (left, right) in &join.on {
            let types = (left.get_type(join.left.schema()), right.get_type(join.right.schema()));
            let (Expr::Column(left_name), Expr::Column(right_name), (Ok(left_type), Ok(right_type))) =
                (left, right, types)
            else {
                continue;
            };
            let sides = ((&join.left, left, left_name), (&join.right, right, right_name));
            let (held, streamed) = if build == JoinSide::Left { sides } else { (sides.1, sides.0) };
            let (Some(of_held), Some(of_streamed)) = (
                held.0.schema().maybe_index_of_column(held.2),
                streamed.0.schema().maybe_index_of_column(streamed.2).filter(|_| left_type == right_type),
            ) else {
                continue;
            };
            let mut joins = Vec::new();
            joins_by(streamed.0, of_streamed, &mut joins);
            if joins.is_empty() {
                continue;
            }
            if let Some((scan, column)) = self.origin(held.0, of_held) {
                let different = distinct(held.1, held.0);
                let wanted = joins.into_iter().map(|(join, key)| Wanted { join, key, scan, column, different });
                self.runtime_filters.wanted.extend(wanted);
            }
        }
        before
    }

    /// Forgets what was asked for after the first `before`.
    pub(super) fn forget_filters(&mut self, before: usize) {
        self.runtime_filters.wanted.truncate(before);
    }
}

/// The joins in `plan`, each with one of its conditions, of whose two columns all values of column `index` are.
fn joins_by(plan: &LogicalPlan, index: usize, found: &mut Vec<(usize, usize)>) {
    let mut through = |expr: &Expr, input: &LogicalPlan| {
        if let Some(index) = within(expr, input) {
            joins_by(input, index, found);
        }
    };
    match plan {
        LogicalPlan::SubqueryAlias(alias) => joins_by(&alias.input, index, found),
        LogicalPlan::Filter(filter) => joins_by(&filter.input, index, found),
        LogicalPlan::Distinct(Distinct::All(input)) => joins_by(input, index, found),
        LogicalPlan::Sort(sort) => joins_by(&sort.input, index, found),
        LogicalPlan::Projection(projection) => {
            projection.expr.get(index).into_iter().for_each(|expr| through(expr, &projection.input))
        }
        LogicalPlan::Join(join) => {
            let width = join.left.schema().fields().len();
            let (left, right) = match join.join_type {
                JoinType::Inner => ((index < width).then_some(index), index.checked_sub(width)),
                JoinType::LeftSemi => (Some(index), None),
                JoinType::RightSemi => (None, Some(index)),
                _ => return,
            };
            let (mut in_left, mut in_right) = (left, right);
            for (key, on) in join.on.iter().enumerate() {
                let (of_left, of_right) = (within(&on.0, &join.left), within(&on.1, &join.right));
                let types = (on.0.get_type(join.left.schema()), on.1.get_type(join.right.schema()));
                if !matches!(types, (Ok(left), Ok(right)) if left == right) {
                    continue;
                }
                if (left.is_some() && of_left == left) || (right.is_some() && of_right == right) {
                    found.push((join_place(join), key));
                    (in_left, in_right) = (in_left.or(of_left), in_right.or(of_right));
                }
            }
            in_left.into_iter().for_each(|index| joins_by(&join.left, index, found));
            in_right.into_iter().for_each(|index| joins_by(&join.right, index, found));
        }
        _ => {}
    }
}

/// Which join it is, while the plan is where it is.
pub(super) fn join_place(join: &Join) -> usize {
    std::ptr::from_ref(join).addr()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array, RecordBatch};

    use crate::LocalCluster;

    #[test]
    fn what_is_held_below_rules_out_rows_that_are_held_above() {
        let cluster = LocalCluster::builder().workers(2).memory_limit("64MB").progress(false).start().expect("starts");
        // Of each number so many rows.
        for (name, numbers, copies) in [("few", 100, 1), ("held", 20_000, 2), ("streamed", 20_000, 6)] {
            let numbers = Int64Array::from_iter_values((0..numbers * copies).map(|row| row % numbers));
            let numbers = Arc::new(numbers) as ArrayRef;
            let batch = RecordBatch::try_from_iter([("k", Arc::clone(&numbers)), ("v", numbers)]).expect("two columns");
            let table = cluster.from_batches(batch.schema(), vec![batch]).expect("a frame");
            cluster.register_table(name, &table).expect("a table");
        }
        let awaits = |query: &str| {
            let frame = cluster.sql(query).expect("a query");
            let lines = frame.explain().expect("a plan");
            (lines.matches("until the join holds").count(), frame.compute().expect("computed").num_rows())
        };
        let below = "(select s.k, s.v from streamed s join few on s.k = few.k)";
        assert_eq!(awaits(&format!("select * from held join {below} b on held.k = b.k")), (2, 1_200));
        assert_eq!(awaits(&format!("select * from held join {below} b on held.k = b.v")), (1, 1_200), "another column");
        // All rows of the held side are in the answer, or it is the other way about.
        assert_eq!(awaits(&format!("select * from held left join {below} b on held.k = b.k")), (1, 39_800 + 1_200));
        let semi = "(select * from streamed where k in (select k from few))";
        assert_eq!(awaits(&format!("select * from held join {semi} b on held.k = b.k")), (2, 1_200));
        let anti = "(select * from streamed where k not in (select k from few where k is not null))";
        assert_eq!(awaits(&format!("select count(*) from held join {anti} b on held.k = b.k")).1, 1);
    }
}
