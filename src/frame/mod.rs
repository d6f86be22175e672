//! The lazy frame: what is to be done with a table. Nothing is read until a method asks for rows.
//!
//! A frame is a DataFusion `LogicalPlan` and the cluster that will run it. A step that makes no sense is
//! remembered and reported by the first method that returns a `Result`, so that steps chain without `?`.

mod apply;
mod asof;
mod explain;
mod group;
mod join;
mod nested;
mod order;
mod rows;
mod summary;
#[cfg(test)]
mod tests;
mod window;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, Weak};

use aqueduct_runtime::Graph;
use arrow::datatypes::{DataType, SchemaRef};
use datafusion_common::{Column, DataFusionError, Result as QueryResult, ScalarValue, plan_err};
use datafusion_expr::{Expr, LogicalPlan, LogicalPlanBuilder};

pub use asof::AsOf;
pub use group::GroupBy;
pub use order::{IntoSortKey, IntoSortKeys, asc, desc};
pub use window::Over;

use crate::cluster::Session;
use crate::error::{Error, Result, no_such_column, without_context};
use crate::expr::{IntoExpr, IntoExprs, named};
use crate::optimize;
use crate::recursive;
use crate::stack::on_large_stack;

/// A table that is described and not yet computed.
///
/// Steps such as [`filter`](Frame::filter) and [`group_by`](Frame::group_by) take and return frames, and cost
/// nothing. [`head`](Frame::head), [`count`](Frame::count), [`compute`](Frame::compute),
/// [`stream`](Frame::stream) and [`write_csv`](Frame::write_csv) run a job on the cluster and block until it
/// has ended; [`compute_async`](Frame::compute_async) waits without blocking. A frame may be run any number of
/// times, and several steps may start from the same one.
///
/// The names of columns are taken as they are: `"Value"` and `"value"` are two columns.
///
/// # Errors
///
/// A wrong step (a column that does not exist) is reported by the first method that returns a `Result`, and
/// named there.
#[derive(Clone)]
pub struct Frame {
    pub(crate) session: Weak<Session>,
    plan: Result<Arc<LogicalPlan>>,
}

impl Frame {
    pub(crate) fn new(session: Weak<Session>, plan: LogicalPlan) -> Self {
        Self { session, plan: Ok(Arc::new(plan)) }
    }

    /// Names and types of the columns. Those of a file's columns are as inferred: where they may widen
    /// ([`OnMismatch::Widen`](crate::OnMismatch::Widen)), a result says which types they had.
    ///
    /// # Errors
    ///
    /// The first step that was wrong.
    pub fn schema(&self) -> Result<SchemaRef> {
        let plan = self.plan()?;
        on_large_stack(|| Ok(SchemaRef::clone(optimize::analyze(plan.as_ref().clone())?.schema().inner())))
    }

    /// What is to be done, as DataFusion's plan, before the optimiser.
    ///
    /// # Errors
    ///
    /// The first step that was wrong.
    pub fn logical_plan(&self) -> Result<LogicalPlan> {
        Ok(self.plan()?.as_ref().clone())
    }

    /// The graph that a job would run for this frame's rows, planned for its cluster. They are its one result, called
    /// `result`. Recursive queries are computed first, in jobs of their own.
    ///
    /// It may be given to [`Cluster::run`](aqueduct_runtime::Cluster::run), or to the simulator.
    ///
    /// # Errors
    ///
    /// The first step that was wrong, or what the planner cannot do.
    pub fn graph(&self) -> Result<Graph> {
        Ok(recursive::settled(self)?.planned()?.graph)
    }

    /// The plan after the optimiser: what is turned into a graph.
    pub(crate) fn optimized(&self) -> Result<LogicalPlan> {
        on_large_stack(|| optimize::optimize(self.logical_plan()?))
    }

    /// Keeps the rows for which `predicate` is true.
    #[must_use]
    pub fn filter(&self, predicate: Expr) -> Frame {
        self.step("filter", |plan| {
            row_wise(&predicate)?;
            plan.filter(predicate)
        })
    }

    /// These columns, in this order: names, or expressions, which [`alias`](Expr::alias) names.
    #[must_use]
    pub fn select(&self, columns: impl IntoExprs) -> Frame {
        self.step("select", |plan| {
            let columns = columns.into_exprs();
            columns.iter().try_for_each(row_wise)?;
            window::project(plan, columns.into_iter().map(named).collect())
        })
    }

    /// All columns and one more called `name`, or with that one replaced.
    #[must_use]
    pub fn with_column(&self, name: impl Into<String>, value: impl IntoExpr) -> Frame {
        let (name, value) = (name.into(), value.into_expr());
        self.step("with_column", |plan| {
            row_wise(&value)?;
            let value = value.alias(&name);
            let mut columns = columns(&plan);
            match columns.iter_mut().find(|(known, _)| *known == name) {
                Some(replaced) => replaced.1 = value,
                None => columns.push((name, value)),
            }
            window::project(plan, columns.into_iter().map(|(_, column)| column).collect())
        })
    }

    /// The column `old` under the name `new`.
    #[must_use]
    pub fn rename(&self, old: &str, new: impl Into<String>) -> Frame {
        self.step("rename", |plan| {
            let mut columns = columns(&plan);
            let renamed = columns.iter_mut().find(|(known, _)| known == old).ok_or_else(|| missing(&plan, old))?;
            renamed.1 = renamed.1.clone().alias(new);
            plan.project(columns.into_iter().map(|(_, column)| column))
        })
    }

    /// All columns but these.
    #[must_use]
    pub fn drop_columns<S: AsRef<str>>(&self, names: impl IntoIterator<Item = S>) -> Frame {
        self.step("drop_columns", |plan| {
            let mut columns = columns(&plan);
            for name in names {
                let name = name.as_ref();
                let place = columns.iter().position(|(known, _)| known == name).ok_or_else(|| missing(&plan, name))?;
                columns.remove(place);
            }
            plan.project(columns.into_iter().map(|(_, column)| column))
        })
    }

    /// Groups the rows with equal values in `keys`, to be aggregated.
    #[must_use]
    pub fn group_by(&self, keys: impl IntoExprs) -> GroupBy {
        GroupBy::new(self.clone(), keys.into_exprs())
    }

    /// Aggregates all rows into one.
    ///
    /// ```no_run
    /// # use aqueduct::prelude::*;
    /// # fn main() -> aqueduct::Result<()> {
    /// # let cluster = LocalCluster::builder().start()?;
    /// let trips = cluster.read_csv("trips.csv")?;
    /// println!("{}", trips.aggregate([mean(col("fare")), max(col("distance"))]).compute()?);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn aggregate(&self, aggregates: impl IntoExprs) -> Frame {
        group::aggregate("aggregate", self, Vec::new(), aggregates.into_exprs())
    }

    /// Each row once.
    #[must_use]
    pub fn distinct(&self) -> Frame {
        self.step("distinct", LogicalPlanBuilder::distinct)
    }

    /// The first `rows` rows.
    ///
    /// They are the first of the file where nothing regroups the rows, and any rows after a group-by or a union.
    #[must_use]
    pub fn limit(&self, rows: usize) -> Frame {
        self.step("limit", |plan| plan.limit(0, Some(rows)))
    }

    /// The rows of both, in no particular order. The columns of `other` are found by name.
    #[must_use]
    pub fn union(&self, other: &Frame) -> Frame {
        self.with_other("union", other, |plan, other| {
            let (plan, other) = (LogicalPlanBuilder::from(plan), LogicalPlanBuilder::from(other));
            let (ours, theirs) = (columns(&plan), columns(&other));
            if let Some((extra, _)) = theirs.iter().find(|(name, _)| ours.iter().all(|(known, _)| known != name)) {
                return Err(missing(&plan, extra));
            }
            let in_our_order: Vec<Expr> = ours
                .iter()
                .map(|(name, _)| theirs.iter().find(|(known, _)| known == name).map(|(_, column)| column.clone()))
                .zip(&ours)
                .map(|(found, (name, _))| found.ok_or_else(|| missing(&other, name)))
                .collect::<QueryResult<_>>()?;
            let other = if theirs.iter().map(|(name, _)| name).eq(ours.iter().map(|(name, _)| name)) {
                other
            } else {
                other.project(in_our_order)?
            };
            plan.union(other.build()?)
        })
    }

    /// The rows of both, in no particular order. A column that only one of them has is null in the rows of the other.
    ///
    /// ```
    /// # use aqueduct::prelude::*;
    /// # fn main() -> aqueduct::Result<()> {
    /// # let cluster = LocalCluster::builder().workers(1).memory_limit("64MB").progress(false).start()?;
    /// let one = cluster.sql("select 1 as id, 'Oslo' as city")?;
    /// let other = cluster.sql("select 7 as fare, 2 as id")?;
    /// let both = one.union_by_name(&other).sort("id").compute()?;
    /// assert_eq!(both.strings("city")?, [Some("Oslo".to_string()), None]);
    /// assert_eq!(both.i64s("fare")?, [None, Some(7)]);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn union_by_name(&self, other: &Frame) -> Frame {
        self.with_other("union_by_name", other, |plan, other| {
            let (plan, other) = (LogicalPlanBuilder::from(plan), LogicalPlanBuilder::from(other));
            let names = columns(&plan).into_iter().chain(columns(&other)).map(|(name, _)| name);
            let mut seen = HashSet::new();
            let names: Vec<String> = names.filter(|name| seen.insert(name.clone())).collect();
            let kinds = types(&plan).into_iter().chain(types(&other)).rev().collect::<HashMap<_, _>>();
            let filled = |plan: LogicalPlanBuilder| {
                let own: HashMap<String, Expr> = columns(&plan).into_iter().collect();
                let all = names.iter().map(|name| match own.get(name) {
                    Some(column) => Ok(column.clone()),
                    None => Ok(Expr::Literal(ScalarValue::try_from(&kinds[name])?, None).alias(name)),
                });
                plan.project(all.collect::<QueryResult<Vec<_>>>()?)
            };
            filled(plan)?.union(filled(other)?.build()?)
        })
    }

    /// The rows of all `frames`, as [`Frame::union`] puts two together.
    ///
    /// ```
    /// # use aqueduct::prelude::*;
    /// # fn main() -> aqueduct::Result<()> {
    /// # let cluster = LocalCluster::builder().workers(1).memory_limit("64MB").progress(false).start()?;
    /// let days = [1, 2, 3].map(|day| cluster.sql(format!("select {day} as day")));
    /// let days = days.into_iter().collect::<aqueduct::Result<Vec<_>>>()?;
    /// assert_eq!(Frame::concat(&days).count()?, 3);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn concat<'a>(frames: impl IntoIterator<Item = &'a Frame>) -> Frame {
        let mut frames = frames.into_iter();
        let Some(first) = frames.next() else {
            let cause = Arc::new(DataFusionError::Plan("there are no frames".into()));
            return Frame { session: Weak::new(), plan: Err(Error::Frame { step: "concat", cause }) };
        };
        frames.fold(first.clone(), |all, frame| all.union(frame))
    }

    pub(crate) fn plan(&self) -> Result<&Arc<LogicalPlan>> {
        self.plan.as_ref().map_err(Error::clone)
    }

    /// The frame after `change`, which takes the plans of both, or the first error so far.
    fn with_other(
        &self,
        step: &'static str,
        other: &Frame,
        change: impl FnOnce(LogicalPlan, LogicalPlan) -> QueryResult<LogicalPlanBuilder>,
    ) -> Frame {
        match other.plan() {
            // Here, as a frame with itself, again and again, is more than anything could walk.
            Ok(other) => self.step(step, |plan| match plan.build()? {
                plan if optimize::steps(&plan) + optimize::steps(other) > optimize::STEPS => {
                    plan_err!("{}", optimize::too_many_steps())
                }
                plan => change(plan, other.as_ref().clone()),
            }),
            Err(error) => Frame { session: Weak::clone(&self.session), plan: Err(error) },
        }
    }

    /// The frame after `change`, or the first error so far.
    fn step(
        &self,
        step: &'static str,
        change: impl FnOnce(LogicalPlanBuilder) -> QueryResult<LogicalPlanBuilder>,
    ) -> Frame {
        let plan = self.plan().and_then(|plan| {
            change(LogicalPlanBuilder::new_from_arc(Arc::clone(plan)))
                .and_then(LogicalPlanBuilder::build)
                .and_then(names_are_unique)
                .map(Arc::new)
                .map_err(|cause| Error::Frame { step, cause: Arc::new(without_context(cause)) })
        });
        Frame { session: Weak::clone(&self.session), plan }
    }
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.plan {
            Ok(plan) => write!(f, "Frame\n{}", plan.display_indent()),
            Err(error) => write!(f, "Frame({error})"),
        }
    }
}

/// Name and expression of each column, in order.
fn columns(plan: &LogicalPlanBuilder) -> Vec<(String, Expr)> {
    let fields = plan.schema().iter();
    fields.map(|(qualifier, field)| (field.name().clone(), Expr::Column(Column::from((qualifier, field))))).collect()
}

/// Name and type of each column, in order.
fn types(plan: &LogicalPlanBuilder) -> Vec<(String, DataType)> {
    plan.schema().fields().iter().map(|field| (field.name().clone(), field.data_type().clone())).collect()
}

fn missing(plan: &LogicalPlanBuilder, name: &str) -> DataFusionError {
    no_such_column(name, plan.schema().fields().iter().map(|field| field.name().as_str()))
}

/// Refuses aggregates where each row must have a value of its own.
fn row_wise(expr: &Expr) -> QueryResult<()> {
    match datafusion_expr::utils::find_aggregate_exprs([expr]).first() {
        Some(aggregate) => {
            plan_err!("{aggregate} has no value for a single row: use `aggregate`, or `group_by(..).agg(..)`")
        }
        None => Ok(()),
    }
}

/// A user's frame has one namespace, whatever table a column came from.
fn names_are_unique(plan: LogicalPlan) -> QueryResult<LogicalPlan> {
    let mut seen = HashSet::new();
    match plan.schema().fields().iter().find(|field| !seen.insert(field.name().as_str())) {
        Some(twice) => plan_err!("there would be two columns `{}`: give one of them an alias", twice.name()),
        None => Ok(plan),
    }
}
