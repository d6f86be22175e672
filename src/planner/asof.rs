//! As-of joins: both sides sent to the partition of their keys and sorted there, or each put into one order where there
//! are no keys; then one walk along both.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use aqueduct_operators::{AsofDirection, AsofJoin, Sort};
use arrow::datatypes::{DataType, SchemaRef};
use datafusion_common::{DFSchema, DFSchemaRef, JoinType, Result as QueryResult, ScalarValue, plan_err};
use datafusion_expr::utils::conjunction;
use datafusion_expr::{Expr, LogicalPlan, LogicalPlanBuilder, UserDefinedLogicalNodeCore, cast, lit, when};

use super::columns::Extended;
use super::join::{Key, common_types, pairs};
use super::{Flow, Planner};
use crate::error::Result;

/// An as-of join as a step of a plan. The columns are those of the left input, then those of the right one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Asof {
    left: LogicalPlan,
    right: LogicalPlan,
    /// Of each side the keys, and the time behind them.
    left_keys: Vec<Expr>,
    right_keys: Vec<Expr>,
    direction: AsofDirection,
    strict: bool,
    join_type: JoinType,
    schema: DFSchemaRef,
}

/// How rows of an as-of join are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AsofRule {
    pub(crate) direction: AsofDirection,
    pub(crate) strict: bool,
    pub(crate) join_type: JoinType,
}

impl Asof {
    /// A join of `left` and `right`, whose keys are of one number, the time being the last of them.
    pub(crate) fn try_new(
        left: LogicalPlan,
        right: LogicalPlan,
        left_keys: Vec<Expr>,
        right_keys: Vec<Expr>,
        AsofRule { direction, strict, join_type }: AsofRule,
    ) -> QueryResult<Self> {
        if !matches!(join_type, JoinType::Inner | JoinType::Left) {
            return plan_err!("an as-of join is inner or left, and not {join_type}");
        }
        let nullable = join_type == JoinType::Left;
        let fields = |plan: &LogicalPlan| -> Vec<_> {
            plan.schema().iter().map(|(qualifier, field)| (qualifier.cloned(), Arc::clone(field))).collect()
        };
        let right_fields = fields(&right).into_iter().map(|(qualifier, field)| {
            let field = if nullable { Arc::new(field.as_ref().clone().with_nullable(true)) } else { field };
            (qualifier, field)
        });
        let all = fields(&left).into_iter().chain(right_fields).collect();
        let schema = Arc::new(DFSchema::new_with_metadata(all, left.schema().metadata().clone())?);
        Ok(Self { left, right, left_keys, right_keys, direction, strict, join_type, schema })
    }

    fn rule(&self) -> AsofRule {
        AsofRule { direction: self.direction, strict: self.strict, join_type: self.join_type }
    }
}

/// Rows of `plan` whose keys may match: a null matches nothing, and need not be sent anywhere.
pub(crate) fn without_nulls(plan: LogicalPlan, keys: &[Expr]) -> QueryResult<LogicalPlan> {
    match conjunction(keys.iter().map(|key| key.clone().is_not_null())) {
        Some(valid) => LogicalPlanBuilder::from(plan).filter(valid)?.build(),
        None => Ok(plan),
    }
}

impl PartialOrd for Asof {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        (self == other).then_some(Ordering::Equal)
    }
}

impl UserDefinedLogicalNodeCore for Asof {
    fn name(&self) -> &str {
        "AsofJoin"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.left, &self.right]
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    fn expressions(&self) -> Vec<Expr> {
        [self.left_keys.as_slice(), self.right_keys.as_slice()].concat()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pairs = self.left_keys.iter().zip(&self.right_keys).map(|(left, right)| format!("{left} ~ {right}"));
        write!(f, "AsofJoin: {}, {:?}, {}", self.join_type, self.direction, pairs.collect::<Vec<_>>().join(", "))
    }

    fn with_exprs_and_inputs(&self, mut keys: Vec<Expr>, mut inputs: Vec<LogicalPlan>) -> QueryResult<Self> {
        let (Some(right), Some(left), true) = (inputs.pop(), inputs.pop(), keys.len() == 2 * self.left_keys.len())
        else {
            return plan_err!("an as-of join has two inputs, and keys of both");
        };
        let right_keys = keys.split_off(self.left_keys.len());
        Self::try_new(left, right, keys, right_keys, self.rule())
    }

    fn necessary_children_exprs(&self, output: &[usize]) -> Option<Vec<Vec<usize>>> {
        let width = self.left.schema().fields().len();
        let (left, right): (Vec<_>, Vec<_>) = output.iter().partition(|column| **column < width);
        Some(vec![left, right.into_iter().map(|column| column - width).collect()])
    }
}

impl Planner {
    pub(super) fn asof(&mut self, asof: &Asof) -> Result<Flow> {
        let left = self.plan_for(&asof.left, false)?;
        let right = self.plan_for(&asof.right, false)?;
        let both = asof.left_keys.iter().zip(&asof.right_keys);
        let (left_keys, right_keys) = common_types(both, asof.left.schema(), asof.right.schema())?;
        let left = self.asof_keys(left, asof.left.schema(), &left_keys)?;
        let right = self.asof_keys(right, asof.right.schema(), &right_keys)?;
        let time = left.columns.len() - 1;
        let on = pairs(&left.columns[..time], &right.columns[..time]);
        let (left_schema, right_schema) = (SchemaRef::clone(&left.flow.schema), SchemaRef::clone(&right.flow.schema));
        let width = left_schema.fields().len();
        let right_columns = (0..asof.right.schema().fields().len()).map(|column| width + column);
        let output = (0..asof.left.schema().fields().len()).chain(right_columns).collect();
        let times = (left.columns[time], right.columns[time]);
        let spec = AsofJoin::try_new(left_schema, right_schema, on.clone(), times, asof.direction, asof.join_type)?;
        let spec = if asof.strict { spec.strict() } else { spec }.with_output(output);
        let left_order = spec.order(0);
        let right_order = spec.order(1);
        let (left, right) = if on.is_empty() {
            (self.in_order(left.flow, left_order, None)?, self.in_order(right.flow, right_order, None)?)
        } else {
            let (left_on, right_on): (Vec<_>, Vec<_>) = on.into_iter().unzip();
            let left_sort = Sort::try_new(SchemaRef::clone(&left.flow.schema), left_order, None)?;
            let right_sort = Sort::try_new(SchemaRef::clone(&right.flow.schema), right_order, None)?;
            (self.sorted_by_key(&left, &left_on, left_sort), self.sorted_by_key(&right, &right_on, right_sort))
        };
        let schema = spec.schema()?;
        let node = self.graph.operator_with("as-of join", spec, [left.node.into(), right.node.into()]);
        Ok(Flow { node, schema, ordered: false, single: left.single, hashed: None })
    }

    fn sorted_by_key(&mut self, side: &Extended, on: &[usize], sort: Sort) -> Flow {
        let node = self.graph.operator("sort", sort, side.flow.node.hash(side.names(on)));
        Flow { node, schema: SchemaRef::clone(&side.flow.schema), ordered: false, single: false, hashed: None }
    }

    /// Keys as columns. Floats that count as equal are made so: the sort tells them apart.
    fn asof_keys(&mut self, flow: Flow, input: &DFSchema, keys: &[Key]) -> Result<Extended> {
        use datafusion_expr::ExprSchemable;
        let keys = keys.iter().map(|(key, kind)| {
            let found = key.get_type(input)?;
            let kind = kind.clone().unwrap_or_else(|| found.clone());
            Ok(match kind {
                DataType::Float16 | DataType::Float32 | DataType::Float64 => {
                    let key = if found == kind { key.clone() } else { cast(key.clone(), kind.clone()) };
                    (one_zero_and_nan(key, &kind)?, None)
                }
                kind => (key.clone(), Some(kind)),
            })
        });
        let keys = keys.collect::<Result<Vec<_>>>()?;
        self.with_keys(flow, input, &keys)
    }
}

/// `key`, a float, with one zero and one NaN: comparisons are by total order, in which there are more.
fn one_zero_and_nan(key: Expr, kind: &DataType) -> QueryResult<Expr> {
    let number = |value: f64| Ok::<_, datafusion_common::DataFusionError>(lit(ScalarValue::from(value).cast_to(kind)?));
    let beyond = key.clone().gt(number(f64::INFINITY)?).or(key.clone().lt(number(f64::NEG_INFINITY)?));
    when(beyond, number(f64::NAN)?).otherwise(key + number(0.0)?)
}
