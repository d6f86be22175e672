//! Aggregates: reduced where the rows are, sent to the partition of their key, and finished there. Those that need
//! all values of a group are sent as they are, and sorted there. Grouping sets multiply the rows before all that.

use std::sync::Arc;

use aqueduct_operators::{Aggregate, Expression, FinalAggregate, GroupingSets, PartialAggregate, SortedAggregate};
use aqueduct_runtime::{Input, NodeId, OperatorSpec};
use arrow::datatypes::{DataType, FieldRef, SchemaRef};
use datafusion_common::DFSchema;
use datafusion_expr::Expr;
use datafusion_expr::expr::GroupingSet;
use datafusion_expr::logical_plan::Aggregate as AggregatePlan;
use datafusion_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion_physical_expr::aggregate::LoweredAggregateBuilder;
use datafusion_physical_expr::expressions::Column;

use super::expr::supported;
use super::hashed::Hashed;
use super::{Flow, Planner};
use crate::error::{Error, Result};

/// Each row is there once for each of their sets.
const MOST_CUBED_KEYS: usize = 12;

impl Planner {
    pub(super) fn aggregate(&mut self, plan: &AggregatePlan) -> Result<Flow> {
        let input = self.plan_for(&plan.input, false)?;
        let rows = plan.input.schema();
        let schema = plan.schema.inner();
        let (keys, results) = schema.fields().split_at(plan.group_expr_len()?.min(schema.fields().len()));
        plan.aggr_expr.iter().try_for_each(supported)?;
        let aggregates = plan.aggr_expr.iter().zip(results).map(|(expr, field)| {
            let context = PhysicalPlanningContext::default();
            let expr = ordered_once(expr);
            let lowered = LoweredAggregateBuilder::new(&expr, rows, &input.schema, &self.props, &context)
                .with_name(field.name())
                .build()?;
            Ok((lowered.aggregate, lowered.filter))
        });
        let (aggregates, filters): (Vec<_>, Vec<_>) = aggregates.collect::<Result<Vec<_>>>()?.into_iter().unzip();
        let (input, group, filters) = match plan.group_expr.as_slice() {
            [Expr::GroupingSet(sets)] => {
                let group = self.group(sets.distinct_expr(), keys, rows)?;
                let id_type = keys.last().map(|id| id.data_type().clone()).unwrap_or(DataType::UInt8);
                let sets = GroupingSets::try_new(SchemaRef::clone(&input.schema), group, keys_of(sets)?, id_type)?;
                let filters = filters.into_iter().map(|filter| sets.filter(filter)).collect();
                let (group, schema) = (sets.group(), sets.schema());
                let node = self.operator(sets, input.node);
                (Flow { node, schema, hashed: None, ..input }, group, filters)
            }
            exprs => {
                let group = self.group(exprs.iter(), keys, rows)?;
                (input, group, filters)
            }
        };
        // The columns that the keys are; of those that are computed none is.
        let columns: Vec<usize> =
            group.iter().map(|(key, _)| key.downcast_ref::<Column>().map_or(usize::MAX, Column::index)).collect();
        let in_place = self.is_spread(&input, &columns, &plan.input);
        let hashed = if in_place { input.hashed.as_ref() } else { None };
        let hashed = hashed.and_then(|hashed| hashed.selected(&columns));
        let aggregate = Aggregate::try_new(input.schema, group, aggregates)?;
        let aggregate = Arc::new(aggregate.with_filters(filters)?);
        let keys = aggregate.group_column_names();
        let single = keys.is_empty();
        let hashed = hashed.or_else(|| (!single).then(|| Hashed::by(&(0..keys.len()).collect::<Vec<_>>())));
        let by_key = |node: NodeId| match (single, in_place) {
            (true, _) => node.gather(),
            (false, true) => node.into(),
            (false, false) => node.hash(keys),
        };
        let node = match SortedAggregate::try_new(Arc::clone(&aggregate))? {
            Some(sorted) => {
                let arguments = self.operator(sorted.arguments(), input.node);
                self.operator(sorted, by_key(arguments))
            }
            None => {
                let partial = self.operator(PartialAggregate::new(Arc::clone(&aggregate)), input.node);
                self.operator(FinalAggregate::new(aggregate), by_key(partial))
            }
        };
        Ok(Flow { node, schema: SchemaRef::clone(schema), ordered: false, single, hashed })
    }

    /// A node that is called by what it does.
    fn operator(&mut self, spec: impl OperatorSpec, input: impl Into<Input>) -> NodeId {
        self.graph.operator(spec.name().to_string(), spec, input)
    }

    /// Keys over rows of `input` under the names of `fields`.
    fn group<'a>(
        &self,
        exprs: impl IntoIterator<Item = &'a Expr>,
        fields: &[FieldRef],
        input: &DFSchema,
    ) -> Result<Vec<(Expression, String)>> {
        let keys = exprs.into_iter().zip(fields);
        keys.map(|(expr, field)| Ok((self.expression(expr, input)?, field.name().clone()))).collect()
    }
}

/// An aggregate whose order names each key once: what a key has settled, it cannot settle again. DataFusion's accumulators
/// leave out the second one and go on counting on it.
fn ordered_once(expr: &Expr) -> Expr {
    let mut expr = expr.clone();
    let mut bare = &mut expr;
    while let Expr::Alias(alias) = bare {
        bare = &mut alias.expr;
    }
    if let Expr::AggregateFunction(function) = bare {
        let keys = std::mem::take(&mut function.params.order_by);
        for key in keys {
            if function.params.order_by.iter().all(|known| known.expr != key.expr) {
                function.params.order_by.push(key);
            }
        }
    }
    expr
}

/// For each set whether it has each of the keys.
fn keys_of(sets: &GroupingSet) -> Result<Vec<Vec<bool>>> {
    let keys = sets.distinct_expr();
    let numbers = 0..keys.len();
    Ok(match sets {
        GroupingSet::GroupingSets(sets) => {
            sets.iter().map(|set| keys.iter().map(|key| set.contains(key)).collect()).collect()
        }
        GroupingSet::Rollup(_) => {
            (0..=keys.len()).rev().map(|length| numbers.clone().map(|key| key < length).collect()).collect()
        }
        GroupingSet::Cube(_) if keys.len() > MOST_CUBED_KEYS => {
            return Err(Error::unsupported(format!("a cube of more than {MOST_CUBED_KEYS} keys")));
        }
        GroupingSet::Cube(_) => {
            let sets = (0..1usize << keys.len()).rev();
            sets.map(|set| numbers.clone().rev().map(|key| set >> key & 1 == 1).collect()).collect()
        }
    })
}

#[cfg(test)]
mod tests;
