//! The planner: turns an optimised logical plan into a graph of our operators.
//!
//! ```text
//! TableScan   -> source                      Limit     -> limit per partition, gather (in order), limit
//! Filter      -> filter                      Union     -> round-robin from each input, union
//! Projection  -> project                     Aggregate -> partial, hash by the keys (or gather), final
//! ```
//!
//! What it cannot plan is an error that names it; nothing is planned wrongly or in part. Rows stay in the
//! order of the source until an operator gives that up: [`Flow`] keeps track of it.

mod aggregate;
mod apply;
mod asof;
mod columns;
mod estimate;
mod expr;
mod hashed;
mod join;
mod passed_on;
mod reorder;
mod repeated;
mod runtime_filter;
mod scan;
mod semi;
mod sort;
#[cfg(test)]
mod tests;
mod top;
mod unkeyed;
mod unnest;
mod window;

use std::sync::Arc;

use aqueduct_operators::{Expression, Filter, Limit, Project, Union};
use aqueduct_runtime::{Graph, Input, NodeId, OperatorSpec, ResultId, SinkSpec};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion_common::{DFSchema, DFSchemaRef};
use datafusion_expr::execution_props::ExecutionProps;
use datafusion_expr::{Expr, FetchType, LogicalPlan, SkipType};

use datafusion_physical_expr::expressions::lit;

pub(crate) use apply::Applied;
pub(crate) use asof::{Asof, AsofRule, without_nulls};
pub(crate) use reorder::reordered;
pub(crate) use scan::ScanTable;
pub(crate) use semi::sunk;
pub(crate) use unkeyed::{Unkeyed, unkeyed};

use crate::error::{Error, Result};
use crate::optimize;
use crate::stack::on_large_stack;
use hashed::Hashed;
use repeated::Repeated;
use runtime_filter::RuntimeFilters;
use top::Wanted;

/// Ports that a node may have.
const MOST_PORTS: usize = 64;

/// A frame as a graph, and the result that yields its rows.
#[derive(Debug)]
pub(crate) struct Planned {
    pub(crate) graph: Graph,
    pub(crate) result: ResultId,
    /// The node that computes the rows.
    pub(crate) rows: NodeId,
    pub(crate) schema: SchemaRef,
}

/// What a plan depends on beside the query: the cluster it is for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Settings {
    pub(crate) workers: usize,
    pub(crate) threads_per_worker: usize,
    pub(crate) memory_limit_bytes: usize,
}

impl Settings {
    fn arbiters(self) -> usize {
        self.workers * self.threads_per_worker
    }
}

/// The graph of an optimised plan whose rows the caller reads.
pub(crate) fn to_result(plan: &LogicalPlan, settings: Settings) -> Result<Planned> {
    let (mut planner, flow) = planned(plan, settings)?;
    let result = planner.graph.result("result", flow.gathered());
    Ok(Planned { graph: planner.graph, result, rows: flow.node, schema: SchemaRef::clone(plan.schema().inner()) })
}

/// The graph of an optimised plan whose rows go to a sink.
pub(crate) fn to_sink(plan: &LogicalPlan, settings: Settings, name: &str, sink: impl SinkSpec) -> Result<Graph> {
    let (mut planner, flow) = planned(plan, settings)?;
    let flow = planner.first_columns(flow, plan.schema().inner())?;
    planner.graph.sink(name, sink, flow.gathered());
    Ok(planner.graph)
}

/// The graph of an optimised plan whose rows go to a sink in every partition, or in order to one.
pub(crate) fn to_sinks(plan: &LogicalPlan, settings: Settings, name: &str, sink: impl SinkSpec) -> Result<Graph> {
    let (mut planner, flow) = planned(plan, settings)?;
    let flow = planner.first_columns(flow, plan.schema().inner())?;
    let input = if flow.ordered { flow.gathered() } else { flow.node.into() };
    planner.graph.sink(name, sink, input);
    Ok(planner.graph)
}

fn planned(plan: &LogicalPlan, settings: Settings) -> Result<(Planner, Flow)> {
    on_large_stack(|| {
        let mut planner = Planner::new(plan, settings)?;
        planner.graph.describe("optimised plan", plan.display_indent().to_string());
        let flow = planner.plan(plan)?;
        Ok((planner, flow))
    })
}

/// Where the rows of a part of the plan come out, and what is known of them.
#[derive(Debug, Clone)]
struct Flow {
    node: NodeId,
    /// Types of the batches: the columns of the logical schema, in its order. Where that has none, a scan
    /// may yield one all the same.
    schema: SchemaRef,
    /// Whether the rows are in the order of the source.
    ordered: bool,
    /// Whether one partition has them all.
    single: bool,
    /// By which columns they are spread over partitions, if by any.
    hashed: Option<Hashed>,
}

impl Flow {
    /// Everything in one partition, in order if there is one.
    fn gathered(&self) -> Input {
        match (self.single, self.ordered) {
            (false, true) => self.node.gather_in_order(),
            (true, _) | (false, false) => self.node.gather(),
        }
    }
}

/// The graph so far.
struct Planner {
    graph: Graph,
    props: ExecutionProps,
    settings: Settings,
    /// Whether what is being planned feeds a limit, row by row.
    stops_early: bool,
    /// Which rows of the next window anybody wants to see.
    wanted: Option<Wanted>,
    /// What the plan says more than once.
    repeated: Repeated,
    /// What joins ask of scans that are still to be planned.
    runtime_filters: RuntimeFilters,
    /// Names that were made up.
    names: usize,
}

impl Planner {
    fn new(plan: &LogicalPlan, settings: Settings) -> Result<Self> {
        let mut props = ExecutionProps::new();
        props.mark_start_execution(optimize::options());
        let repeated = Repeated::of(plan)?;
        Ok(Self {
            graph: Graph::new(),
            props,
            settings,
            stops_early: false,
            wanted: None,
            repeated,
            runtime_filters: RuntimeFilters::of(plan)?,
            names: 0,
        })
    }

    fn plan(&mut self, plan: &LogicalPlan) -> Result<Flow> {
        if self.repeated.get(plan).is_none() {
            return self.plan_once(plan);
        }
        if let Some(Some(flow)) = self.repeated.get(plan) {
            return Ok(flow.clone());
        }
        // Others may want all of its rows.
        let before = std::mem::replace(&mut self.stops_early, false);
        let flow = self.plan_once(plan);
        self.stops_early = before;
        if let (Ok(flow), Some(planned)) = (&flow, self.repeated.get(plan)) {
            *planned = Some(flow.clone());
        }
        flow
    }

    fn plan_once(&mut self, plan: &LogicalPlan) -> Result<Flow> {
        match plan {
            LogicalPlan::TableScan(scan) => self.scan(scan),
            LogicalPlan::EmptyRelation(empty) => Ok(self.empty(empty)),
            LogicalPlan::Values(values) => self.values(values),
            LogicalPlan::SubqueryAlias(alias) => self.plan(&alias.input),
            LogicalPlan::Filter(filter) => {
                self.wanted = self.wanted_by(filter);
                let input = self.plan(&filter.input)?;
                let predicate = self.expression(&filter.predicate, filter.input.schema())?;
                Ok(self.row_wise("filter", Filter::new(predicate), input))
            }
            LogicalPlan::Projection(projection) => {
                let (input, rows) = self.plan_used(&projection.input, &projection.expr)?;
                let schema = projection.schema.inner();
                let columns = projection.expr.iter().zip(schema.fields());
                let columns = columns.map(|(expr, field)| Ok((self.expression(expr, &rows)?, field.name().clone())));
                let flow = self.project(columns.collect::<Result<_>>()?, input)?;
                Ok(Flow { schema: SchemaRef::clone(schema), ..flow })
            }
            LogicalPlan::Limit(limit) => {
                let (skip, fetch) = match (limit.get_skip_type()?, limit.get_fetch_type()?) {
                    (SkipType::Literal(skip), FetchType::Literal(fetch)) => (skip, fetch),
                    _ => return Err(Error::unsupported("a limit that is not a number")),
                };
                let input = self.plan_for(&limit.input, fetch.is_some())?;
                Ok(self.limit(skip, fetch, input))
            }
            LogicalPlan::Union(union) => {
                let inputs = union.inputs.iter().map(|input| self.plan(input)).collect::<Result<Vec<_>>>()?;
                if inputs.is_empty() {
                    return Err(Error::unsupported("a union of nothing"));
                }
                Ok(self.union(inputs, union.schema.inner()))
            }
            LogicalPlan::Aggregate(aggregate) => self.aggregate(aggregate),
            LogicalPlan::Join(join) => self.join(join, None),
            LogicalPlan::Sort(sort) => self.sort(sort),
            LogicalPlan::Window(window) => self.window(window),
            LogicalPlan::Unnest(unnest) => self.unnest(unnest),
            LogicalPlan::Repartition(repartition) => self.repartition(repartition),
            LogicalPlan::Extension(extension) => {
                let node = extension.node.as_any();
                if let Some(applied) = node.downcast_ref::<Applied>() {
                    self.applied(applied)
                } else if let Some(asof) = node.downcast_ref::<Asof>() {
                    self.asof(asof)
                } else if let Some(unkeyed) = node.downcast_ref::<Unkeyed>() {
                    self.plan(&unkeyed.input)
                } else {
                    Err(Error::unsupported(kind(plan)))
                }
            }
            other => Err(Error::unsupported(kind(other))),
        }
    }

    /// Plans an input that may stop early, or that will be read to its end.
    fn plan_for(&mut self, input: &LogicalPlan, stops_early: bool) -> Result<Flow> {
        let before = std::mem::replace(&mut self.stops_early, stops_early);
        let flow = self.plan(input);
        self.stops_early = before;
        flow
    }

    /// Plans an input of which only the columns in `exprs` are used; which columns it yields.
    fn plan_used(&mut self, input: &LogicalPlan, exprs: &[Expr]) -> Result<(Flow, DFSchemaRef)> {
        let schema = input.schema();
        let LogicalPlan::Join(join) = input else { return Ok((self.plan(input)?, Arc::clone(schema))) };
        let mut used = exprs
            .iter()
            .flat_map(Expr::column_refs)
            .map(|column| schema.index_of_column(column))
            .collect::<Result<Vec<_>, _>>()?;
        used.sort_unstable();
        used.dedup();
        if used.is_empty() && !schema.fields().is_empty() {
            // Rows that are only counted are told apart by a column.
            used.push(0);
        }
        if used.len() == schema.fields().len() || self.repeated.get(input).is_some() {
            return Ok((self.plan(input)?, Arc::clone(schema)));
        }
        let fields = used.iter().map(|&index| {
            let (qualifier, field) = schema.qualified_field(index);
            (qualifier.cloned(), Arc::clone(field))
        });
        let kept = DFSchema::new_with_metadata(fields.collect(), schema.metadata().clone())?;
        Ok((self.join(join, Some(&used))?, Arc::new(kept)))
    }

    /// An operator that handles each row where it is, and leaves columns at their places.
    fn row_wise(&mut self, name: &str, spec: impl OperatorSpec, input: Flow) -> Flow {
        let node = self.graph.operator(name, spec, input.node);
        Flow { node, ..input }
    }

    fn limit(&mut self, skip: usize, fetch: Option<usize>, input: Flow) -> Flow {
        let enough = fetch.and_then(|fetch| fetch.checked_add(skip));
        let input = match enough.filter(|_| !input.single) {
            // No partition need send more than the whole may keep.
            Some(enough) => self.row_wise("limit (partial)", Limit::new(0, Some(enough)), input),
            None => input,
        };
        let all = if input.single { input.node.into() } else { input.gathered() };
        let node = self.graph.operator("limit", Limit::new(skip, fetch), all);
        Flow { node, single: true, hashed: None, ..input }
    }

    fn union(&mut self, mut inputs: Vec<Flow>, schema: &SchemaRef) -> Flow {
        let mut schema = SchemaRef::clone(schema);
        if schema.fields().is_empty() {
            // Rows without columns are told apart by a column that nobody reads.
            schema = SchemaRef::new(Schema::new(vec![Field::new("row", DataType::Boolean, false)]));
            let row = || -> Expression { lit(true) };
            let project = || Project::new(vec![(row(), "row".into())]);
            inputs = inputs.into_iter().map(|input| self.row_wise("project", project(), input)).collect();
        }
        let mut nodes: Vec<NodeId> = inputs.iter().map(|input| input.node).collect();
        // A node has a limited number of ports: many inputs become a tree.
        while nodes.len() > 1 {
            nodes = nodes.chunks(MOST_PORTS).map(|inputs| self.union_of(inputs)).collect();
        }
        Flow { node: nodes[0], schema, ordered: false, single: false, hashed: None }
    }

    fn union_of(&mut self, inputs: &[NodeId]) -> NodeId {
        match inputs {
            [only] => *only,
            // The inputs may have different numbers of partitions.
            inputs => {
                let ports = inputs.iter().map(|input| input.round_robin());
                self.graph.operator_with("union", Union::new(inputs.len()), ports)
            }
        }
    }
}

/// What a user calls the kinds of plan that have no operators yet.
fn kind(plan: &LogicalPlan) -> String {
    match plan {
        LogicalPlan::Subquery(_) => "subquery".into(),
        LogicalPlan::Distinct(_) => "distinct on (DISTINCT ON)".into(),
        LogicalPlan::RecursiveQuery(_) => "recursive query (WITH RECURSIVE)".into(),
        LogicalPlan::Extension(extension) => format!("extension node {}", extension.node.name()),
        LogicalPlan::Copy(_) => "COPY".into(),
        LogicalPlan::Explain(_) | LogicalPlan::Analyze(_) => "EXPLAIN (use `Frame::explain`)".into(),
        LogicalPlan::Statement(_) | LogicalPlan::Dml(_) | LogicalPlan::Ddl(_) | LogicalPlan::DescribeTable(_) => {
            format!("the statement {}", plan.display())
        }
        other => other.display().to_string(),
    }
}

/// What a user calls the kinds of expression that have no operators yet.
fn unsupported_expression(expr: &Expr) -> Option<&'static str> {
    match expr {
        Expr::WindowFunction(_) => Some("a window function (OVER)"),
        Expr::ScalarSubquery(_) | Expr::Exists(_) | Expr::InSubquery(_) | Expr::SetComparison(_) => {
            Some("a subquery in an expression")
        }
        Expr::OuterReferenceColumn(..) => Some("a correlated subquery"),
        Expr::Placeholder(_) => Some("a placeholder in an expression"),
        Expr::Unnest(_) => Some("unnest"),
        _ => None,
    }
}
