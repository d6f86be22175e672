//! Orders: each partition sorts its rows, and one partition merges them. With a limit, no partition sends more rows than
//! the whole may keep.

use aqueduct_operators::{Merge, Sort, SortColumn};
use arrow::compute::SortOptions;
use arrow::datatypes::SchemaRef;
use datafusion_expr::SortExpr;
use datafusion_expr::logical_plan::Sort as SortPlan;

use super::{Flow, Planner};
use crate::error::Result;

impl Planner {
    pub(super) fn sort(&mut self, plan: &SortPlan) -> Result<Flow> {
        let input = self.plan_for(&plan.input, false)?;
        let exprs: Vec<_> = plan.expr.iter().map(|key| (key.expr.clone(), None)).collect();
        let keyed = self.with_columns(input, plan.input.schema(), &exprs)?;
        let keys = sort_columns(&plan.expr, &keyed.columns);
        let sorted = self.in_order(keyed.flow, keys, plan.fetch)?;
        self.first_columns(sorted, plan.input.schema().inner())
    }

    /// All rows in one partition and one order.
    pub(super) fn in_order(&mut self, input: Flow, keys: Vec<SortColumn>, fetch: Option<usize>) -> Result<Flow> {
        let schema = SchemaRef::clone(&input.schema);
        let sort = Sort::try_new(SchemaRef::clone(&schema), keys.clone(), fetch)?;
        let sorted = self.row_wise("sort", sort, input);
        if sorted.single {
            return Ok(Flow { ordered: true, ..sorted });
        }
        let merge = Merge::try_new(schema, keys, fetch)?;
        let node = self.graph.operator("merge", merge, sorted.node.lanes());
        Ok(Flow { node, ordered: true, single: true, hashed: None, ..sorted })
    }
}

/// The keys of an order, which are in these columns; each column once.
pub(super) fn sort_columns(keys: &[SortExpr], columns: &[usize]) -> Vec<SortColumn> {
    let mut sort: Vec<SortColumn> = Vec::with_capacity(keys.len());
    for (key, &column) in keys.iter().zip(columns) {
        if sort.iter().all(|known| known.column != column) {
            let options = SortOptions { descending: !key.asc, nulls_first: key.nulls_first };
            sort.push(SortColumn { column, options });
        }
    }
    sort
}
