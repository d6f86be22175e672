//! Semi and anti joins below inner joins: what they leave out of one table need not be joined with the others first.
//!
//! A subquery of a condition (`in`, `exists`) becomes a semi join above all tables of the query. It is about the rows of
//! one table alone where all its columns are from there, and then it may as well be done to that table.

use std::sync::Arc;

use datafusion_common::tree_node::{Transformed, TreeNode};
use datafusion_common::{Column, JoinType, NullEquality, Result as QueryResult};
use datafusion_expr::logical_plan::{Join, Projection};
use datafusion_expr::{Expr, LogicalPlan};

use super::estimate::estimate;

/// `plan` with semi and anti joins where they see the fewest rows; whether any has moved.
pub(crate) fn sunk(plan: LogicalPlan) -> QueryResult<Transformed<LogicalPlan>> {
    plan.transform_up(|plan| {
        let LogicalPlan::Join(join) = &plan else { return Ok(Transformed::no(plan)) };
        if !chooses(join) {
            return Ok(Transformed::no(plan));
        }
        let lower = Chooser::new(join).below(&join.left)?;
        Ok(lower.map_or_else(|| Transformed::no(plan), Transformed::yes))
    })
}

/// Whether `join` yields some of the rows of its left side as they are.
fn chooses(join: &Join) -> bool {
    matches!(join.join_type, JoinType::LeftSemi | JoinType::LeftAnti)
}

/// A semi or anti join that looks for its place.
struct Chooser<'a> {
    join: &'a Join,
    /// The columns of the left side that it looks at.
    columns: Vec<&'a Column>,
}

impl<'a> Chooser<'a> {
    fn new(join: &'a Join) -> Self {
        let keys = join.on.iter().flat_map(|(left, _)| left.column_refs());
        let tested = join.filter.iter().flat_map(Expr::column_refs);
        let columns = keys.chain(tested).filter(|column| join.left.schema().has_column(column)).collect();
        Self { join, columns }
    }

    /// `plan`, the left side or a part of it, with the join at a place in it where it sees no more rows than above it.
    fn below(&self, plan: &LogicalPlan) -> QueryResult<Option<LogicalPlan>> {
        match plan {
            LogicalPlan::Projection(projection)
                if projection.expr.iter().all(|expr| matches!(expr, Expr::Column(_))) =>
            {
                let input = self.below(&projection.input)?;
                let above = |input| Projection::try_new(projection.expr.clone(), Arc::new(input));
                input.map(above).transpose().map(|plan| plan.map(LogicalPlan::Projection))
            }
            LogicalPlan::Join(join) if chooses(join) => {
                let left = self.below(&join.left)?;
                Ok(left.map(|left| LogicalPlan::Join(Join { left: Arc::new(left), ..join.clone() })))
            }
            LogicalPlan::Join(join)
                if join.join_type == JoinType::Inner && join.null_equality == NullEquality::NullEqualsNothing =>
            {
                let rows = estimate(plan).rows;
                let fits = |side: &LogicalPlan| {
                    !self.columns.is_empty()
                        && self.columns.iter().all(|column| side.schema().has_column(column))
                        && estimate(side).rows <= rows
                };
                let join = if fits(&join.left) {
                    Join { left: Arc::new(self.at(&join.left)?), ..join.clone() }
                } else if fits(&join.right) {
                    Join { right: Arc::new(self.at(&join.right)?), ..join.clone() }
                } else {
                    return Ok(None);
                };
                Ok(Some(LogicalPlan::Join(join)))
            }
            _ => Ok(None),
        }
    }

    /// `side` with the join in it or above it.
    fn at(&self, side: &Arc<LogicalPlan>) -> QueryResult<LogicalPlan> {
        if let Some(lower) = self.below(side)? {
            return Ok(lower);
        }
        let Join { right, on, filter, join_type, join_constraint, null_equality, null_aware, .. } = self.join.clone();
        let left = Arc::clone(side);
        let join = Join::try_new(left, right, on, filter, join_type, join_constraint, null_equality, null_aware)?;
        Ok(LogicalPlan::Join(join))
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, Int64Array, RecordBatch};

    use super::*;
    use crate::LocalCluster;

    fn cluster() -> LocalCluster {
        let cluster = LocalCluster::builder().workers(2).memory_limit("64MB").progress(false).start().expect("starts");
        for (name, rows, keys) in [("few", 5_000, 5_000), ("many", 20_000, 5_000), ("wanted", 10, 10)] {
            let numbers =
                |of: &dyn Fn(i64) -> i64| Arc::new(Int64Array::from_iter_values((0..rows).map(of))) as ArrayRef;
            let batch = RecordBatch::try_from_iter([("k", numbers(&|i| i % keys)), ("v", numbers(&|i| i % 100))]);
            let batch = batch.expect("columns of one length");
            let table = cluster.from_batches(batch.schema(), vec![batch]).expect("a frame");
            cluster.register_table(name, &table).expect("a table");
        }
        cluster
    }

    /// The joins of the plan from the top down, with their inputs' names, and the number of rows of the answer.
    fn joins(cluster: &LocalCluster, condition: &str) -> (Vec<String>, i64) {
        let query = format!("select few.v from few join many on few.k = many.k where {condition}");
        let plan = cluster.sql(&query).and_then(|frame| frame.optimized()).expect("a plan");
        let mut joins = Vec::new();
        plan.apply(|part| {
            if let LogicalPlan::Join(join) = part {
                let tables = join.left.schema().iter().filter_map(|(table, _)| table.map(ToString::to_string));
                let mut tables: Vec<_> = tables.collect();
                tables.dedup();
                joins.push(format!("{} of {}", join.join_type, tables.join(" and ")));
            }
            Ok(datafusion_common::tree_node::TreeNodeRecursion::Continue)
        })
        .expect("walked");
        let rows = cluster.sql(&query).and_then(|frame| frame.compute()).expect("computed").num_rows();
        (joins, rows as i64)
    }

    #[test]
    fn what_a_condition_says_of_one_table_is_done_to_that_table() {
        let cluster = cluster();
        let lower = |how: &str, table: &str| vec!["Inner of few".to_string(), format!("{how} of {table}")];
        let joins = |condition: &str| joins(&cluster, condition);
        assert_eq!(joins("few.k in (select k from wanted)"), (lower("LeftSemi", "few"), 40));
        assert_eq!(joins("not exists (select 1 from wanted where k = few.k)"), (lower("LeftAnti", "few"), 19_960));
        assert_eq!(
            joins("exists (select 1 from wanted where wanted.k = few.k and v < few.v)"),
            (vec!["Inner of few".into(), "LeftSemi of few".into()], 0)
        );
        let (plan, rows) = joins("many.v in (select k from wanted)");
        assert_eq!((plan[1].as_str(), rows), ("LeftSemi of many", 2_000));
    }

    #[test]
    fn what_a_condition_says_of_two_tables_stays_above_them() {
        let (plan, rows) = joins(&cluster(), "exists (select 1 from wanted where k = few.v and v <= many.v)");
        assert_eq!(plan[0], "LeftSemi of few and many");
        assert_eq!(rows, 2_000);
    }
}
