//! Steps that say where rows are: operators of the user's own in a frame, and rows spread anew.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use aqueduct_operators::{Expression, Project};
use aqueduct_runtime::{Operator, OperatorContext, OperatorSpec, Partitions};
use arrow::datatypes::SchemaRef;
use datafusion_common::{DFSchema, DFSchemaRef, DataFusionError, Result as QueryResult, plan_err};
use datafusion_expr::logical_plan::Repartition;
use datafusion_expr::{Expr, LogicalPlan, Partitioning, UserDefinedLogicalNodeCore};

use super::hashed::Hashed;
use super::{Flow, Planner};
use crate::error::{Error, Result};

/// An operator of the user's own as a step of a plan.
#[derive(Clone)]
pub(crate) struct Applied {
    pub(crate) name: String,
    spec: Arc<dyn OperatorSpec>,
    /// Rows with equal keys meet in one partition; each partition has any rows if there are no keys.
    keys: Vec<Expr>,
    input: LogicalPlan,
    schema: DFSchemaRef,
}

impl Applied {
    pub(crate) fn try_new(
        name: String,
        spec: Arc<dyn OperatorSpec>,
        keys: Vec<Expr>,
        input: LogicalPlan,
    ) -> QueryResult<Self> {
        if (spec.inputs(), spec.outputs()) != (1, 1) {
            return plan_err!(
                "{} has {} inputs and {} outputs: a step of a frame has one of each",
                spec.name(),
                spec.inputs(),
                spec.outputs()
            );
        }
        let schema = spec.output_schema(0, &[SchemaRef::clone(input.schema().inner())]);
        let schema = schema.map_err(|error| DataFusionError::Plan(error.to_string()))?;
        let schema = Arc::new(DFSchema::try_from(schema.as_ref().clone())?);
        Ok(Self { name, spec, keys, input, schema })
    }

    fn identity(&self) -> (&str, usize, &[Expr], &LogicalPlan) {
        (&self.name, Arc::as_ptr(&self.spec).cast::<()>() as usize, &self.keys, &self.input)
    }
}

impl fmt::Debug for Applied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Applied").field("name", &self.name).field("spec", &self.spec).finish_non_exhaustive()
    }
}

impl PartialEq for Applied {
    fn eq(&self, other: &Self) -> bool {
        self.identity() == other.identity()
    }
}

impl Eq for Applied {}

impl Hash for Applied {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.identity().hash(state);
    }
}

impl PartialOrd for Applied {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        (self == other).then_some(Ordering::Equal)
    }
}

impl UserDefinedLogicalNodeCore for Applied {
    fn name(&self) -> &str {
        &self.name
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.input]
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    fn expressions(&self) -> Vec<Expr> {
        self.keys.clone()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, self.spec.name())?;
        match self.keys.as_slice() {
            [] => Ok(()),
            keys => write!(f, " by {}", keys.iter().map(Expr::to_string).collect::<Vec<_>>().join(", ")),
        }
    }

    fn with_exprs_and_inputs(&self, keys: Vec<Expr>, mut inputs: Vec<LogicalPlan>) -> QueryResult<Self> {
        Self::try_new(self.name.clone(), Arc::clone(&self.spec), keys, inputs.remove(0))
    }
}

impl Planner {
    pub(super) fn applied(&mut self, applied: &Applied) -> Result<Flow> {
        let input = self.plan_for(&applied.input, false)?;
        let schema = SchemaRef::clone(applied.schema.inner());
        // The operator sees the columns of the frame under their names, and no others.
        let input = self.first_columns(input, applied.input.schema().inner())?;
        let spec = Shared(Arc::clone(&applied.spec));
        let (keeps_order, name) = (applied.spec.keeps_order(), applied.name.clone());
        if applied.keys.is_empty() {
            let node = self.graph.operator(name, spec, input.node);
            return Ok(Flow {
                node,
                schema,
                ordered: input.ordered && keeps_order,
                single: input.single,
                hashed: None,
            });
        }
        let keys: Vec<_> = applied.keys.iter().map(|key| (key.clone(), None)).collect();
        let keyed = self.with_keys(input.clone(), applied.input.schema(), &keys)?;
        if keyed.flow.schema.fields().len() > input.schema.fields().len() {
            return Err(Error::sql(
                "the keys of an operator are columns of the frame: compute others with `with_column`",
            ));
        }
        let by_key = if self.is_spread(&keyed.flow, &keyed.columns, &applied.input) {
            keyed.flow.node.into()
        } else {
            keyed.flow.node.hash(keyed.names(&keyed.columns))
        };
        let node = self.graph.operator(name, spec, by_key);
        // What it emits, nobody knows.
        Ok(Flow { node, schema, ordered: false, single: false, hashed: None })
    }

    pub(super) fn repartition(&mut self, plan: &Repartition) -> Result<Flow> {
        let input = self.plan(&plan.input)?;
        let (keyed, partitions) = match &plan.partitioning_scheme {
            Partitioning::RoundRobinBatch(partitions) => (None, Some(*partitions)),
            Partitioning::Hash(keys, partitions) => (Some(keys), Some(*partitions)),
            Partitioning::DistributeBy(keys) => (Some(keys), None),
            Partitioning::Range(_) => return Err(Error::unsupported("repartition by ranges")),
        };
        let (flow, edge, hashed) = match keyed {
            None => (input.clone(), input.node.round_robin(), None),
            Some(keys) => {
                let keys: Vec<_> = keys.iter().map(|key| (key.clone(), None)).collect();
                let keyed = self.with_keys(input, plan.input.schema(), &keys)?;
                let edge = keyed.flow.node.hash(keyed.names(&keyed.columns));
                (keyed.flow, edge, Some(Hashed::by(&keyed.columns).with_partitions(partitions)))
            }
        };
        let schema = SchemaRef::clone(plan.input.schema().inner());
        let same = |index: usize| -> (Expression, String) {
            (Self::column(&flow.schema, index), schema.field(index).name().clone())
        };
        let columns = (0..schema.fields().len()).map(same).collect();
        let node = self.graph.operator("repartition", Project::new(columns), edge);
        if let Some(partitions) = partitions {
            self.graph.set_partitions(node, Partitions::Fixed(partitions));
        }
        let width = schema.fields().len();
        let hashed = hashed.and_then(|hashed| hashed.selected(&(0..width).collect::<Vec<_>>()));
        Ok(Flow { node, schema, ordered: false, single: partitions == Some(1), hashed })
    }
}

/// A spec that several plans use.
#[derive(Debug)]
struct Shared(Arc<dyn OperatorSpec>);

impl OperatorSpec for Shared {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn output_schema(&self, output: usize, inputs: &[SchemaRef]) -> aqueduct_runtime::Result<SchemaRef> {
        self.0.output_schema(output, inputs)
    }

    fn instantiate(&self, context: OperatorContext) -> aqueduct_runtime::Result<Box<dyn Operator>> {
        self.0.instantiate(context)
    }

    fn min_memory(&self, batch_bytes: usize) -> usize {
        self.0.min_memory(batch_bytes)
    }

    fn lane_memory(&self, batch_bytes: usize) -> usize {
        self.0.lane_memory(batch_bytes)
    }

    fn emits_after_input(&self) -> bool {
        self.0.emits_after_input()
    }

    fn reads_all_ports(&self) -> bool {
        self.0.reads_all_ports()
    }

    fn keeps_order(&self) -> bool {
        self.0.keeps_order()
    }

    fn detail(&self) -> String {
        self.0.detail()
    }
}
