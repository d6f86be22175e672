//! Filters that a join makes while it runs, for the scan that the rows of its streamed side come from; others ask for them,
//! too (`passed_on`).
//!
//! A row that no held row has the key of is dropped where it is read, if between there and the join nothing looks at
//! more than the row itself, or at rows with the same value in the key alone, and nobody else wants it. Where that is
//! likely to be most of the rows, the scan waits until the keys are known.

use std::collections::HashSet;
use std::sync::Arc;

use aqueduct_operators::{AwaitFilters, Expression, HashJoin, RuntimeFilter};
use datafusion_common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion_common::{JoinSide, Result as QueryResult};
use datafusion_expr::logical_plan::{Join, TableScan};
use datafusion_expr::{Distinct, Expr, ExprSchemable, JoinType, LogicalPlan, Operator};
use datafusion_physical_expr::expressions::{BinaryExpr, Column};

use super::estimate::{Estimate, distinct};
use super::passed_on::{Wanted, join_place};
use super::{Flow, Planner};

/// Rows of a table below which a filter is not worth its making.
const FEW_ROWS: f64 = 5_000.0;
/// The share of keys that must be held at the most, as far as that can be guessed.
const MOST_HELD: f64 = 0.75;
/// The same for a scan that waits for it.
const MOST_HELD_AWAITED: f64 = 0.5;

/// The filters of one plan.
#[derive(Debug, Default)]
pub(super) struct RuntimeFilters {
    planned: Vec<Planned>,
    /// Scans that are in the plan more than once, as both sides of a join of a frame with itself may be.
    shared: HashSet<usize>,
    /// Who else would have a filter of a join that is still to be planned.
    pub(super) wanted: Vec<Wanted>,
    /// Which scan waits for which others to end.
    waits: Vec<(usize, Vec<usize>)>,
}

/// A filter on its way from a join to a scan.
#[derive(Debug)]
struct Planned {
    filter: RuntimeFilter,
    /// Which scan, by where it is in memory: the plan is not changed while it is planned.
    scan: usize,
    /// Columns of the table.
    columns: Vec<usize>,
    /// The scan waits for it: what is read before it is there is read in vain for the most part.
    is_awaited: bool,
}

impl RuntimeFilters {
    /// None yet, for `plan`.
    pub(super) fn of(plan: &LogicalPlan) -> QueryResult<Self> {
        let (mut seen, mut shared) = (HashSet::new(), HashSet::new());
        plan.apply(|part| {
            if let LogicalPlan::TableScan(scan) = part
                && !seen.insert(place(scan))
            {
                shared.insert(place(scan));
            }
            Ok(TreeNodeRecursion::Continue)
        })?;
        Ok(Self { shared, ..Self::default() })
    }

    /// Has `scan` wait for `others`, unless one of them waits for it, at whatever remove.
    fn wait(&mut self, scan: usize, others: Vec<usize>) -> bool {
        let (mut reached, mut open) = (HashSet::new(), others.clone());
        while let Some(other) = open.pop() {
            if other == scan {
                return false;
            }
            if reached.insert(other) {
                open.extend(self.waits.iter().filter(|(waits, _)| *waits == other).flat_map(|(_, for_whom)| for_whom));
            }
        }
        self.waits.push((scan, others));
        true
    }
}

/// A filter of a join, and which of its conditions it is by.
pub(super) struct JoinFilter {
    pub(super) filter: RuntimeFilter,
    pub(super) keys: Vec<usize>,
}

impl Planner {
    /// A filter for the side of `join` that streams past `build`, which has so many rows; before that is planned.
    pub(super) fn runtime_filter(
        &mut self,
        join: &Join,
        build: JoinSide,
        (held, probed): (Estimate, Estimate),
    ) -> Option<JoinFilter> {
        if join.null_aware || !HashJoin::allows_runtime_filter(join.join_type, build) || probed.base_rows < FEW_ROWS {
            return None;
        }
        let probe = if build == JoinSide::Left { &join.right } else { &join.left };
        let mut found: Vec<(usize, usize, usize)> = Vec::new();
        let mut different = 1.0;
        for (at, (left, right)) in join.on.iter().enumerate() {
            let key = if build == JoinSide::Left { right } else { left };
            let kinds = (left.get_type(join.left.schema()).ok()?, right.get_type(join.right.schema()).ok()?);
            let Expr::Column(column) = key else { continue };
            let Some(index) = probe.schema().maybe_index_of_column(column).filter(|_| kinds.0 == kinds.1) else {
                continue;
            };
            if let Some((scan, column)) = self.origin(probe, index) {
                different *= distinct(key, probe);
                found.push((at, scan, column));
            }
        }
        // The scan of most keys.
        let of = |scan: usize| found.iter().filter(move |(_, other, _)| *other == scan);
        let scan = found.iter().map(|(_, scan, _)| *scan).max_by_key(|scan| of(*scan).count())?;
        if held.rows > MOST_HELD * different {
            return None;
        }
        let filter = RuntimeFilter::new();
        let (keys, columns): (Vec<_>, _) = of(scan).map(|(at, _, column)| (*at, *column)).unzip();
        let held_side = if build == JoinSide::Left { &join.left } else { &join.right };
        let held_scans = if self.shares(held_side)? { None } else { Some(scans(held_side)) };
        let others = self.runtime_filters.wanted.iter().filter(|wanted| {
            wanted.join == join_place(join) && keys == [wanted.key] && held.rows <= MOST_HELD * wanted.different
        });
        let others = others.map(|wanted| (wanted.scan, vec![wanted.column], wanted.different));
        let all: Vec<_> = std::iter::once((scan, columns, different)).chain(others).collect();
        for (scan, columns, different) in all {
            let is_worth_it = held.rows <= MOST_HELD_AWAITED * different;
            let for_whom = held_scans.clone().filter(|_| is_worth_it);
            let is_awaited = for_whom.is_some_and(|held| self.runtime_filters.wait(scan, held));
            self.runtime_filters.planned.push(Planned { filter: filter.clone(), scan, columns, is_awaited });
        }
        Some(JoinFilter { filter, keys })
    }

    /// Whether rows of a part of `plan` go elsewhere as well: who waits for `plan` might hold up those who take them there,
    /// and so `plan`. `None` if it cannot be told.
    fn shares(&mut self, plan: &LogicalPlan) -> Option<bool> {
        plan.exists(|part| Ok(self.repeated.get(part).is_some())).ok()
    }

    /// The scan, and the column of its table, that column `index` of `plan` comes from unchanged.
    pub(super) fn origin(&mut self, plan: &LogicalPlan, index: usize) -> Option<(usize, usize)> {
        if self.repeated.get(plan).is_some() {
            return None;
        }
        match plan {
            LogicalPlan::TableScan(scan) if scan.fetch.is_none() => {
                let column = scan.projection.as_ref().map_or(Some(index), |columns| columns.get(index).copied())?;
                Some((place(scan), column)).filter(|(scan, _)| !self.runtime_filters.shared.contains(scan))
            }
            LogicalPlan::SubqueryAlias(alias) => self.origin(&alias.input, index),
            LogicalPlan::Filter(filter) => self.origin(&filter.input, index),
            LogicalPlan::Distinct(Distinct::All(input)) => self.origin(input, index),
            LogicalPlan::Sort(sort) if sort.fetch.is_none() => self.origin(&sort.input, index),
            LogicalPlan::Projection(projection) => {
                let index = within(projection.expr.get(index)?, &projection.input)?;
                self.origin(&projection.input, index)
            }
            LogicalPlan::Aggregate(aggregate) => {
                let key = aggregate.group_expr.get(index)?;
                if aggregate.group_expr.iter().any(|key| matches!(key, Expr::GroupingSet(_))) {
                    return None;
                }
                let index = within(key, &aggregate.input)?;
                self.origin(&aggregate.input, index)
            }
            LogicalPlan::Join(join) => {
                let width = join.left.schema().fields().len();
                match join.join_type {
                    JoinType::Inner if index >= width => self.origin(&join.right, index - width),
                    JoinType::Inner => self.origin(&join.left, index),
                    JoinType::Left | JoinType::LeftSemi | JoinType::LeftAnti | JoinType::LeftMark if index < width => {
                        self.origin(&join.left, index)
                    }
                    JoinType::Right if index >= width => self.origin(&join.right, index - width),
                    JoinType::RightSemi | JoinType::RightAnti => self.origin(&join.right, index),
                    _ => None,
                }
            }
            _ => None,
        }
    }

    /// What joins ask of the rows of `scan`, as a predicate; `column` says what a column of the table is.
    pub(super) fn asked_of(&self, scan: &TableScan, column: impl Fn(usize) -> Option<Column>) -> Option<Expression> {
        let filters = self.runtime_filters.planned.iter().filter(|planned| planned.scan == place(scan));
        let predicates = filters.filter_map(|planned| {
            let columns = planned.columns.iter().map(|index| Some(Arc::new(column(*index)?) as Expression));
            Some(planned.filter.expression(columns.collect::<Option<_>>()?))
        });
        predicates.reduce(and)
    }

    /// `flow`, the rows of `scan`, held up until those joins have told what they ask that wait is worth it for.
    pub(super) fn awaited(&mut self, scan: &TableScan, flow: Flow) -> Flow {
        let filters = self.runtime_filters.planned.iter();
        let filters = filters.filter(|planned| planned.scan == place(scan) && planned.is_awaited);
        let filters: Vec<_> = filters.map(|planned| planned.filter.clone()).collect();
        if filters.is_empty() { flow } else { self.row_wise("await filter", AwaitFilters::new(filters), flow) }
    }
}

pub(super) fn and(left: Expression, right: Expression) -> Expression {
    Arc::new(BinaryExpr::new(left, Operator::And, right))
}

/// The column of `input` that `expr` is.
pub(super) fn within(expr: &Expr, input: &LogicalPlan) -> Option<usize> {
    match expr {
        Expr::Column(column) => input.schema().maybe_index_of_column(column),
        Expr::Alias(alias) => match alias.expr.as_ref() {
            Expr::Column(column) => input.schema().maybe_index_of_column(column),
            _ => None,
        },
        _ => None,
    }
}

fn place(scan: &TableScan) -> usize {
    std::ptr::from_ref(scan).addr()
}

/// All scans of `plan`.
fn scans(plan: &LogicalPlan) -> Vec<usize> {
    let mut scans = Vec::new();
    let _ = plan.apply_with_subqueries(|part| {
        if let LogicalPlan::TableScan(scan) = part {
            scans.push(place(scan));
        }
        Ok(TreeNodeRecursion::Continue)
    });
    scans
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, Int64Array, RecordBatch};
    use datafusion_expr::logical_plan::Union;

    use super::*;
    use crate::LocalCluster;

    #[test]
    fn a_scan_awaits_a_filter_that_drops_most_of_it_unless_that_may_wait_for_the_scan() {
        let cluster = LocalCluster::builder().workers(2).memory_limit("64MB").progress(false).start().expect("starts");
        for (name, rows) in [("few", 10), ("many", 20_000)] {
            let numbers = Arc::new(Int64Array::from_iter_values(0..rows)) as ArrayRef;
            let batch = RecordBatch::try_from_iter([("k", Arc::clone(&numbers)), ("v", numbers)]).expect("two columns");
            let table = cluster.from_batches(batch.schema(), vec![batch]).expect("a frame");
            cluster.register_table(name, &table).expect("a table");
        }
        let awaits = |query: &str| {
            let frame = cluster.sql(query).expect("a query");
            let lines = frame.explain().expect("a plan");
            (lines.matches("await filter").count(), frame.compute().expect("computed").num_rows())
        };
        let sums = "(select k, sum(v) as s from many group by k)";
        assert_eq!(awaits("select * from few join many on few.k = many.k"), (1, 10));
        assert_eq!(awaits("select * from many a join many b on a.k = b.v"), (0, 20_000), "nothing is dropped");
        assert_eq!(awaits(&format!("select * from few join {sums} t on few.k = t.k")), (1, 10));
        assert_eq!(awaits(&format!("select * from {sums} t where k in (select v from few)")), (1, 10));
        let shared = format!(
            "with t as {sums} select * from (select k, count(*) from many group by k) a \
             join (select k from t where s < 7) b on a.k = b.k join t on t.k = a.k"
        );
        assert_eq!(awaits(&shared).1, 7);
    }

    #[test]
    fn no_scan_waits_for_itself_at_any_remove() {
        let mut filters = RuntimeFilters::default();
        let asked =
            [(1, vec![2]), (2, vec![3, 4]), (4, vec![1]), (4, vec![5]), (5, vec![5]), (3, vec![4]), (5, vec![3])];
        let waits: Vec<bool> = asked.into_iter().map(|(scan, others)| filters.wait(scan, others)).collect();
        assert_eq!(waits, [true, true, false, true, false, true, false]);
    }

    #[test]
    fn a_scan_that_two_steps_read_is_known_to_be_shared() {
        let cluster = LocalCluster::builder().workers(1).memory_limit("64MB").progress(false).start().expect("starts");
        let rows = cluster.from_source("rows", aqueduct_operators::range("n", Some(9))).expect("a frame");
        let scan = Arc::new(rows.optimized().expect("a plan"));
        assert!(matches!(scan.as_ref(), LogicalPlan::TableScan(_)));
        let union = |inputs| LogicalPlan::Union(Union { inputs, schema: Arc::clone(scan.schema()) });
        let shared = |plan| RuntimeFilters::of(&plan).expect("walked").shared.len();
        assert_eq!(shared(union(vec![Arc::clone(&scan), Arc::clone(&scan)])), 1);
        assert_eq!(shared(union(vec![Arc::clone(&scan), Arc::new(scan.as_ref().clone())])), 0);
    }
}
