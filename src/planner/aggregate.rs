//! Aggregates: reduced where the rows are, sent to the partition of their key, and finished there. Those that need
//! all values of a group are sent as they are, and sorted there.

use std::sync::Arc;

use aqueduct_operators::{Aggregate, Expression, FinalAggregate, PartialAggregate, SortedAggregate};
use aqueduct_runtime::NodeId;
use arrow::datatypes::SchemaRef;
use datafusion_expr::logical_plan::Aggregate as AggregatePlan;
use datafusion_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion_physical_expr::aggregate::LoweredAggregateBuilder;

use super::expr::supported;
use super::{Flow, Planner};
use crate::error::Result;

impl Planner {
    pub(super) fn aggregate(&mut self, plan: &AggregatePlan) -> Result<Flow> {
        let input = self.plan_for(&plan.input, false)?;
        let rows = plan.input.schema();
        let schema = plan.schema.inner();
        let (keys, results) = schema.fields().split_at(plan.group_expr.len().min(schema.fields().len()));
        plan.group_expr.iter().chain(&plan.aggr_expr).try_for_each(supported)?;
        let group = plan
            .group_expr
            .iter()
            .zip(keys)
            .map(|(expr, field)| Ok((self.expression(expr, rows)?, field.name().clone())));
        let group = group.collect::<Result<Vec<(Expression, String)>>>()?;
        let aggregates = plan.aggr_expr.iter().zip(results).map(|(expr, field)| {
            let context = PhysicalPlanningContext::default();
            let lowered = LoweredAggregateBuilder::new(expr, rows, &input.schema, &self.props, &context)
                .with_name(field.name())
                .build()?;
            Ok((lowered.aggregate, lowered.filter))
        });
        let (aggregates, filters): (Vec<_>, Vec<_>) = aggregates.collect::<Result<Vec<_>>>()?.into_iter().unzip();
        let aggregate = Aggregate::try_new(SchemaRef::clone(&input.schema), group, aggregates)?;
        let aggregate = Arc::new(aggregate.with_filters(filters)?);
        let keys = aggregate.group_column_names();
        let single = keys.is_empty();
        let by_key = |node: NodeId| if single { node.gather() } else { node.hash(keys) };
        let node = match SortedAggregate::try_new(Arc::clone(&aggregate))? {
            Some(sorted) => {
                let arguments = self.graph.operator("aggregate (arguments)", sorted.arguments(), input.node);
                self.graph.operator("aggregate", sorted, by_key(arguments))
            }
            None => {
                let partial = PartialAggregate::new(Arc::clone(&aggregate));
                let partial = self.graph.operator("aggregate (partial)", partial, input.node);
                self.graph.operator("aggregate", FinalAggregate::new(aggregate), by_key(partial))
            }
        };
        Ok(Flow { node, schema: SchemaRef::clone(schema), ordered: false, single })
    }
}
