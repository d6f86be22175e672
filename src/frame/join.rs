//! Joins of frames. A frame has one namespace: where both sides have a column of one name, the right one's gets a suffix.

use std::collections::HashSet;

use datafusion_common::{Column, JoinType, Result as QueryResult, TableReference, plan_err};
use datafusion_expr::expr_rewriter::normalize_col;
use datafusion_expr::{Expr, LogicalPlan, LogicalPlanBuilder};
use datafusion_functions::expr_fn::coalesce;

use super::{Frame, missing};
use crate::expr::IntoExprs;

/// What is added to the name of a column of the right side that the left side has, too.
const SUFFIX: &str = "_right";
/// What the sides are called in plans.
const SIDES: [&str; 2] = ["left", "right"];

impl Frame {
    /// The rows of both whose columns `on` are equal, put together. A null is equal to nothing.
    ///
    /// The columns are those of this frame, then those of `other` without the keys; where a name is taken, it gets the
    /// suffix `_right`. What becomes of rows without a match, `how` says: with [`JoinType::Left`], `Right` and `Full` the
    /// rows of that side, or of both, stay, and the other side's columns are null. [`JoinType::LeftSemi`] and `LeftAnti`
    /// keep the rows of this frame that have a match, or none, as they are. The order of rows is not kept.
    ///
    /// ```
    /// # use aqueduct::prelude::*;
    /// # fn main() -> aqueduct::Result<()> {
    /// # let cluster = LocalCluster::builder().workers(1).memory_limit("64MB").progress(false).start()?;
    /// let trips = cluster.sql("select * from (values (1, 'Oslo'), (2, 'Rome'), (3, 'Oslo')) as t(id, city)")?;
    /// let fares = cluster.sql("select * from (values ('Oslo', 10), ('Lima', 7)) as t(city, fare)")?;
    /// let joined = trips.join(&fares, "city", JoinType::Inner).sort("id").compute()?;
    /// assert_eq!(joined.i64s("id")?, [Some(1), Some(3)]);
    /// assert_eq!(joined.i64s("fare")?, [Some(10), Some(10)]);
    /// assert_eq!(trips.join(&fares, "city", JoinType::LeftAnti).count()?, 1);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn join(&self, other: &Frame, on: impl IntoExprs, how: JoinType) -> Frame {
        let on = on.into_exprs();
        self.joined("join", other, on.clone(), on, how)
    }

    /// As [`Frame::join`], where the keys of this frame are `left_on` and those of `other`, in the same order,
    /// `right_on`: columns of different names, or expressions. Columns of different names are all kept.
    ///
    /// ```
    /// # use aqueduct::prelude::*;
    /// # fn main() -> aqueduct::Result<()> {
    /// # let cluster = LocalCluster::builder().workers(1).memory_limit("64MB").progress(false).start()?;
    /// let people = cluster.sql("select * from (values ('Ada', 2), ('Bob', null), ('Eve', 1)) as t(name, boss)")?;
    /// let bosses = cluster.sql("select * from (values (1, 'Zoe'), (2, 'Max')) as t(id, name)")?;
    /// let joined = people.join_on(&bosses, "boss", "id", JoinType::Left).sort("name").compute()?;
    /// assert_eq!(joined.strings("name_right")?, [Some("Max".to_string()), None, Some("Zoe".to_string())]);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn join_on(&self, other: &Frame, left_on: impl IntoExprs, right_on: impl IntoExprs, how: JoinType) -> Frame {
        self.joined("join_on", other, left_on.into_exprs(), right_on.into_exprs(), how)
    }

    /// Each row of this frame with each row of `other`. Columns are called as by [`Frame::join`].
    ///
    /// ```
    /// # use aqueduct::prelude::*;
    /// # fn main() -> aqueduct::Result<()> {
    /// # let cluster = LocalCluster::builder().workers(1).memory_limit("64MB").progress(false).start()?;
    /// let digits = cluster.from_source("digits", aqueduct::operators::range("n", Some(10)))?;
    /// let pairs = digits.cross_join(&digits).filter(col("n").lt(col("n_right")));
    /// assert_eq!(pairs.count()?, 45);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn cross_join(&self, other: &Frame) -> Frame {
        self.with_other("cross_join", other, |left, right| {
            let (left, right) = (side(left, 0)?, side(right, 1)?);
            let names = names(&left, &right, &[], JoinType::Inner);
            LogicalPlanBuilder::from(left).cross_join(right)?.project(names?)
        })
    }

    fn joined(
        &self,
        step: &'static str,
        other: &Frame,
        left_on: Vec<Expr>,
        right_on: Vec<Expr>,
        how: JoinType,
    ) -> Frame {
        self.with_other(step, other, |left, right| {
            if left_on.is_empty() || left_on.len() != right_on.len() {
                let (left, right) = (left_on.len(), right_on.len());
                return plan_err!("there must be as many keys on either side, and one at least: {left} and {right}");
            }
            let (left, right) = (side(left, 0)?, side(right, 1)?);
            let left_keys = keys(left_on, &left)?;
            let right_keys = keys(right_on, &right)?;
            let twins = twins(&left_keys, &right_keys);
            let columns = names(&left, &right, &twins, how)?;
            LogicalPlanBuilder::from(left)
                .join_with_expr_keys(right, how, (left_keys, right_keys), None)?
                .project(columns)
        })
    }
}

/// A side of a join, whose columns are told from the other's by its name.
pub(super) fn side(plan: LogicalPlan, index: usize) -> QueryResult<LogicalPlan> {
    // Names are unique in a frame, whatever table a column came from.
    LogicalPlanBuilder::from(plan).alias(TableReference::bare(SIDES[index]))?.build()
}

pub(super) fn keys(exprs: Vec<Expr>, plan: &LogicalPlan) -> QueryResult<Vec<Expr>> {
    let keys = exprs.into_iter().map(|expr| {
        for column in expr.column_refs() {
            if plan.schema().iter().all(|(_, field)| *field.name() != column.name) {
                return Err(missing(&LogicalPlanBuilder::from(plan.clone()), &column.name));
            }
        }
        normalize_col(expr, plan)
    });
    keys.collect()
}

/// The keys that are columns of one name on both sides.
pub(super) fn twins(left: &[Expr], right: &[Expr]) -> Vec<(Column, Column)> {
    let twins = left.iter().zip(right).filter_map(|(left, right)| match (left, right) {
        (Expr::Column(left), Expr::Column(right)) if left.name == right.name => Some((left.clone(), right.clone())),
        _ => None,
    });
    twins.collect()
}

/// The columns of a join under names of their own. Of keys that have one name on both sides there is one.
pub(super) fn names(
    left: &LogicalPlan,
    right: &LogicalPlan,
    twins: &[(Column, Column)],
    how: JoinType,
) -> QueryResult<Vec<Expr>> {
    let columns = |plan: &LogicalPlan| plan.schema().columns();
    let (left, right) = (columns(left), columns(right));
    let one_side =
        |columns: Vec<Column>| Ok(columns.into_iter().map(|column| named_as(&column.name, column.clone())).collect());
    match how {
        JoinType::LeftSemi | JoinType::LeftAnti => return one_side(left),
        JoinType::RightSemi | JoinType::RightAnti => return one_side(right),
        JoinType::LeftMark | JoinType::RightMark => return plan_err!("a mark join is no join of frames: use LeftSemi"),
        JoinType::Inner | JoinType::Left | JoinType::Right | JoinType::Full => {}
    }
    let twin =
        |column: &Column| twins.iter().find(|(key, _)| key == column).map(|(_, twin)| Expr::Column(twin.clone()));
    let mut taken: HashSet<String> = left.iter().map(|column| column.name.clone()).collect();
    let mut names: Vec<Expr> = left
        .into_iter()
        .map(|column| {
            let name = column.name.clone();
            let value = match (how, twin(&column)) {
                (JoinType::Right, Some(twin)) => twin,
                (JoinType::Full, Some(twin)) => coalesce(vec![Expr::Column(column), twin]),
                _ => Expr::Column(column),
            };
            value.alias(name)
        })
        .collect();
    for column in right.into_iter().filter(|column| twins.iter().all(|(_, twin)| twin != column)) {
        let mut name = column.name.clone();
        while !taken.insert(name.clone()) {
            name.push_str(SUFFIX);
        }
        names.push(named_as(&name, column));
    }
    Ok(names)
}

fn named_as(name: &str, column: Column) -> Expr {
    Expr::Column(column).alias(name)
}
