//! Joins of frames by the nearest time.

use std::sync::Arc;

use aqueduct_operators::AsofDirection;
use datafusion_common::{JoinType, plan_err};
use datafusion_expr::logical_plan::Extension;
use datafusion_expr::{Expr, LogicalPlan, LogicalPlanBuilder};

use super::Frame;
use super::join::{keys, names, side, twins};
use crate::expr::{IntoExpr, IntoExprs};
use crate::planner::{Asof, AsofRule, without_nulls};

/// Which row of another frame [`Frame::join_asof`] takes: the nearest by a time, or by any other value with an order.
#[derive(Debug, Clone)]
pub struct AsOf {
    times: [Expr; 2],
    by: [Vec<Expr>; 2],
    direction: AsofDirection,
    strict: bool,
}

impl AsOf {
    /// The last row whose `time` is not later.
    pub fn backward(time: impl IntoExpr) -> Self {
        Self::new(time.into_expr(), AsofDirection::Backward)
    }

    /// The first row whose `time` is not earlier.
    pub fn forward(time: impl IntoExpr) -> Self {
        Self::new(time.into_expr(), AsofDirection::Forward)
    }

    fn new(time: Expr, direction: AsofDirection) -> Self {
        Self { times: [time.clone(), time], by: [Vec::new(), Vec::new()], direction, strict: false }
    }

    /// The time of the other frame, where it has another name there.
    #[must_use]
    pub fn right_time(mut self, time: impl IntoExpr) -> Self {
        self.times[1] = time.into_expr();
        self
    }

    /// Of the rows alone whose columns `keys` are equal.
    #[must_use]
    pub fn by(self, keys: impl IntoExprs) -> Self {
        let keys = keys.into_exprs();
        self.by_on(keys.clone(), keys)
    }

    /// As [`AsOf::by`], where the keys of the other frame are `right`, in the order of `left`.
    #[must_use]
    pub fn by_on(mut self, left: impl IntoExprs, right: impl IntoExprs) -> Self {
        self.by = [left.into_exprs(), right.into_exprs()];
        self
    }

    /// A row of the very same time does not count.
    #[must_use]
    pub fn strict(mut self) -> Self {
        self.strict = true;
        self
    }
}

impl Frame {
    /// Each row of this frame with the one row of `other` that is nearest in time, as `as_of` says: a trade with the
    /// last quote before it. With [`JoinType::Left`] a row without one stays, and the columns of `other` are null; with
    /// [`JoinType::Inner`] it goes.
    ///
    /// A null among keys and times is nearest to nothing. Of several rows of `other` with equal keys and the nearest
    /// time it is one. Columns are called as by [`Frame::join`], and the time of `other` is kept. The order of rows is
    /// not.
    ///
    /// ```
    /// # use aqueduct::prelude::*;
    /// # fn main() -> aqueduct::Result<()> {
    /// # let cluster = LocalCluster::builder().workers(1).memory_limit("64MB").progress(false).start()?;
    /// let trades = "select * from (values ('A', 3, 10), ('A', 7, 20), ('B', 1, 30)) as t(stock, tick, size)";
    /// let quotes = "select * from (values ('A', 1, 1.5), ('A', 6, 1.6), ('B', 2, 9.0)) as t(stock, tick, bid)";
    /// let (trades, quotes) = (cluster.sql(trades)?, cluster.sql(quotes)?);
    /// let last = trades.join_asof(&quotes, AsOf::backward("tick").by("stock"), JoinType::Left);
    /// assert_eq!(last.sort("size").compute()?.i64s("tick_right")?, [Some(1), Some(6), None]);
    /// let next = trades.join_asof(&quotes, AsOf::forward("tick").by("stock"), JoinType::Inner);
    /// assert_eq!(next.sort("size").compute()?.i64s("tick_right")?, [Some(6), Some(2)]);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn join_asof(&self, other: &Frame, as_of: AsOf, how: JoinType) -> Frame {
        self.with_other("join_asof", other, |left, right| {
            let AsOf { times: [left_time, right_time], by: [left_by, right_by], direction, strict } = as_of;
            if left_by.len() != right_by.len() {
                return plan_err!(
                    "there must be as many keys on either side: {} and {}",
                    left_by.len(),
                    right_by.len()
                );
            }
            let (left, right) = (side(left, 0)?, side(right, 1)?);
            let mut left_keys = keys(left_by, &left)?;
            let mut right_keys = keys(right_by, &right)?;
            let twins = twins(&left_keys, &right_keys);
            left_keys.extend(keys(vec![left_time], &left)?);
            right_keys.extend(keys(vec![right_time], &right)?);
            let columns = names(&left, &right, &twins, how)?;
            let right = without_nulls(right, &right_keys)?;
            let left = if how == JoinType::Inner { without_nulls(left, &left_keys)? } else { left };
            let rule = AsofRule { direction, strict, join_type: how };
            let node = Arc::new(Asof::try_new(left, right, left_keys, right_keys, rule)?);
            LogicalPlanBuilder::from(LogicalPlan::Extension(Extension { node })).project(columns)
        })
    }
}
