//! Operators of the user's own in a frame, and rows spread over partitions as the user says.

use std::sync::Arc;

use aqueduct_runtime::OperatorSpec;
use datafusion_common::plan_err;
use datafusion_expr::expr_rewriter::normalize_cols;
use datafusion_expr::logical_plan::Extension;
use datafusion_expr::{LogicalPlan, LogicalPlanBuilder, Partitioning};

use super::Frame;
use crate::expr::IntoExprs;
use crate::planner::Applied;

impl Frame {
    /// The rows that an operator makes of those of this frame, partition by partition: `name` is what plans and metrics
    /// call it. It has one input and one output.
    ///
    /// ```
    /// # use aqueduct::prelude::*;
    /// # fn main() -> aqueduct::Result<()> {
    /// use aqueduct::runtime::operator::Map;
    ///
    /// # let cluster = LocalCluster::builder().workers(2).memory_limit("64MB").progress(false).start()?;
    /// let numbers = cluster.from_source("numbers", aqueduct::operators::range("n", Some(100)))?;
    /// let firsts = numbers.apply("first of each batch", Map::new("first", |batch| Ok(batch.slice(0, 1))));
    /// assert!(firsts.count()? < 100);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn apply(&self, name: impl Into<String>, spec: impl OperatorSpec) -> Frame {
        self.applied("apply", name.into(), Arc::new(spec), Vec::new())
    }

    /// As [`Frame::apply`], where all rows with the same values in `keys`, columns of this frame, come to one partition.
    #[must_use]
    pub fn apply_by(&self, name: impl Into<String>, keys: impl IntoExprs, spec: impl OperatorSpec) -> Frame {
        let keys = keys.into_exprs();
        self.applied("apply_by", name.into(), Arc::new(spec), keys)
    }

    fn applied(
        &self,
        step: &'static str,
        name: String,
        spec: Arc<dyn OperatorSpec>,
        keys: Vec<datafusion_expr::Expr>,
    ) -> Frame {
        self.step(step, |plan| {
            let input = plan.build()?;
            let keys = normalize_cols(keys, &input)?;
            let node = Arc::new(Applied::try_new(name, spec, keys, input)?);
            Ok(LogicalPlanBuilder::from(LogicalPlan::Extension(Extension { node })))
        })
    }

    /// The same rows in so many partitions, batches in turn. Their order is not kept.
    ///
    /// ```
    /// # use aqueduct::prelude::*;
    /// # fn main() -> aqueduct::Result<()> {
    /// # let cluster = LocalCluster::builder().workers(2).memory_limit("64MB").progress(false).start()?;
    /// let numbers = cluster.from_source("numbers", aqueduct::operators::range("n", Some(100)))?;
    /// assert_eq!(numbers.repartition(5).npartitions()?, 5);
    /// assert_eq!(numbers.repartition(5).count()?, 100);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn repartition(&self, partitions: usize) -> Frame {
        self.step("repartition", |plan| match partitions {
            0 => plan_err!("there is one partition at the least"),
            _ => plan.repartition(Partitioning::RoundRobinBatch(partitions)),
        })
    }

    /// The same rows in so many partitions, those with the same values in `keys` in one of them.
    #[must_use]
    pub fn repartition_by(&self, keys: impl IntoExprs, partitions: usize) -> Frame {
        let keys = keys.into_exprs();
        self.step("repartition_by", |plan| match partitions {
            0 => plan_err!("there is one partition at the least"),
            _ => {
                let keys = normalize_cols(keys, plan.plan())?;
                plan.repartition(Partitioning::Hash(keys, partitions))
            }
        })
    }
}
