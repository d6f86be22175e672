//! Windows: rows go to the partition of their keys, or all to one where there are none, and are sorted there. Functions
//! over the same window are computed together.

use aqueduct_operators::{Window, WindowFunction};
use arrow::datatypes::SchemaRef;
use datafusion_common::Result as QueryResult;
use datafusion_expr::Expr;
use datafusion_expr::expr::WindowFunctionParams;
use datafusion_expr::logical_plan::Window as WindowPlan;

use super::hashed::Hashed;
use super::sort::sort_columns;
use super::{Flow, Planner};
use crate::error::{Error, Result};

impl Planner {
    pub(super) fn window(&mut self, plan: &WindowPlan) -> Result<Flow> {
        let wanted = self.wanted.take();
        let input = self.plan_for(&plan.input, false)?;
        let rows = plan.input.schema();
        let mut keys: Vec<Expr> = Vec::new();
        let first = params(plan.window_expr.first())?;
        let same = |expr: &Expr| {
            let other = params(Some(expr))?;
            Ok(other.partition_by == first.partition_by && other.order_by == first.order_by)
        };
        // DataFusion makes one node of each window; what came another way is refused rather than computed wrongly.
        if !plan.window_expr.iter().map(same).collect::<Result<Vec<bool>>>()?.into_iter().all(|same| same) {
            return Err(Error::unsupported("several windows in one step"));
        }
        keys.extend(first.partition_by.iter().cloned());
        keys.extend(first.order_by.iter().map(|key| key.expr.clone()));
        let keys: Vec<_> = keys.into_iter().map(|key| (key, None)).collect();
        let mut keyed = self.with_keys(input, rows, &keys)?;
        let (partition_by, order_by) = keyed.columns.split_at(first.partition_by.len());
        let order_by = sort_columns(&first.order_by, order_by);
        let schema = SchemaRef::clone(&keyed.flow.schema);
        let functions =
            plan.window_expr.iter().map(|expr| Ok(WindowFunction::lower(expr, rows, &schema, &self.props)?.function));
        let functions = functions.collect::<QueryResult<Vec<_>>>()?;
        let mut partitions = partition_by.to_vec();
        partitions.sort_unstable();
        partitions.dedup();
        let spec = Window::try_new(SchemaRef::clone(&schema), partitions.clone(), order_by, functions)?;
        // Rows that nobody will see need not be sent.
        if let Some(top) = wanted.and_then(|wanted| spec.top(wanted.function, wanted.rows)) {
            keyed.flow = self.row_wise("top per group", top, keyed.flow);
        }
        let node = keyed.flow.node;
        let by_key = if partitions.is_empty() {
            node.gather()
        } else if self.is_spread(&keyed.flow, &partitions, &plan.input) {
            node.into()
        } else {
            keyed.flow.hashed = Some(Hashed::by(&partitions));
            node.hash(keyed.names(&partitions))
        };
        let output = aqueduct_runtime::OperatorSpec::output_schema(&spec, 0, &[SchemaRef::clone(&schema)])?;
        let node = self.graph.operator("window", spec, by_key);
        // Results stand behind the columns of the input.
        let hashed = keyed.flow.hashed.filter(|_| !partitions.is_empty());
        let flow = Flow { node, schema: output, ordered: false, single: partitions.is_empty(), hashed };
        // The computed keys stand between the columns and the results.
        let (width, all) = (rows.fields().len(), schema.fields().len());
        if width == all {
            return Ok(flow);
        }
        let columns = (0..width).chain(all..flow.schema.fields().len()).zip(plan.schema.fields());
        let columns = columns.map(|(index, field)| (Self::column(&flow.schema, index), field.name().clone())).collect();
        self.project(columns, flow)
    }
}

fn params(expr: Option<&Expr>) -> Result<&WindowFunctionParams> {
    match expr {
        Some(Expr::WindowFunction(function)) => Ok(&function.params),
        Some(Expr::Alias(alias)) => params(Some(&alias.expr)),
        _ => Err(Error::unsupported("a window without a function")),
    }
}
