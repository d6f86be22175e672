//! Joins: both sides sent to the partition of their keys, or a small one to everybody. Keys that are computed become
//! columns first, and go again behind the join. Without equal keys, each row of one side meets all of the other.

use std::sync::Arc;

use aqueduct_operators::{Expression, HashJoin, NestedLoopJoin};
use aqueduct_runtime::Input;
use arrow::datatypes::{DataType, SchemaRef};
use datafusion_common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion_common::{Column as ColumnName, DFSchema, JoinSide, JoinType};
use datafusion_expr::logical_plan::Join;
use datafusion_expr::type_coercion::binary::comparison_coercion;
use datafusion_expr::{Expr, ExprSchemable, LogicalPlanBuilder, lit};
use datafusion_functions_aggregate::count::count_all;
use datafusion_functions_aggregate::expr_fn::count;
use datafusion_physical_expr::PhysicalExpr;
use datafusion_physical_expr::expressions::Column;

use super::estimate::{Estimate, estimate};
use super::hashed::Hashed;
use super::runtime_filter::JoinFilter;
use super::{Flow, Planner};
use crate::error::{Error, Result};

/// A key of either side, and the type that both are compared in.
pub(super) type Key = (Expr, Option<DataType>);

/// What a broadcast must save: rows of the other side for each row that is sent to one more partition.
const PROBE_ROWS_PER_COPY: f64 = 4.0;
/// The share of a worker's memory that a side may take to be sent to everybody.
const BROADCAST_SHARE: f64 = 1.0 / 32.0;
/// And never more bytes than these.
const MOST_BROADCAST_BYTES: f64 = 32e6;
/// What it costs to give a row its place in a table, as bytes that are copied in that time.
const PLACE_BYTES: f64 = 64.0;

impl Planner {
    /// Plans a join. Of its columns only those in `needed` are emitted, all if `None`, in their order.
    pub(super) fn join(&mut self, join: &Join, needed: Option<&[usize]>) -> Result<Flow> {
        if join.null_aware && (join.on.len() > 1 || join.filter.is_some()) {
            return self.join(&not_in_of_some(join)?, needed);
        }
        let sizes = (estimate(&join.left), estimate(&join.right));
        if join.null_aware && !self.broadcasts(join, JoinSide::Right, sizes.0, sizes.1) {
            self.repeated.share(&join.right);
            return self.join(&not_in_of_many(join)?, needed);
        }
        if join.on.is_empty() {
            let left = self.plan_for(&join.left, false)?;
            let right = self.plan_for(&join.right, false)?;
            return self.nested_loop_join(join, left, right, sizes, needed);
        }
        let build = match join.null_aware {
            // One null among these keys decides over all rows of the other side.
            true => JoinSide::Right,
            false => smaller(sizes.0, sizes.1),
        };
        let (held, probed) = if build == JoinSide::Left { sizes } else { (sizes.1, sizes.0) };
        let filter = self.runtime_filter(join, build, (held, probed));
        // What is streamed first: the joins in it may have filters for what is held.
        let before = self.ask_for_filters(join, build);
        let (left, right) = if build == JoinSide::Left {
            let right = self.plan_for(&join.right, false)?;
            self.forget_filters(before);
            (self.plan_for(&join.left, false)?, right)
        } else {
            let left = self.plan_for(&join.left, false)?;
            self.forget_filters(before);
            (left, self.plan_for(&join.right, false)?)
        };
        self.hash_join(join, build, (left, right), sizes, filter, needed)
    }

    fn hash_join(
        &mut self,
        join: &Join,
        build: JoinSide,
        (left, right): (Flow, Flow),
        (left_size, right_size): (Estimate, Estimate),
        filter: Option<JoinFilter>,
        needed: Option<&[usize]>,
    ) -> Result<Flow> {
        let on = join.on.iter().map(|(left, right)| (left, right));
        let (left_keys, right_keys) = common_types(on, join.left.schema(), join.right.schema())?;
        let left = self.with_keys(left, join.left.schema(), &left_keys)?;
        let right = self.with_keys(right, join.right.schema(), &right_keys)?;
        let (width, on) = (left.flow.schema.fields().len(), pairs(&left.columns, &right.columns));
        let output = output(join, width, right.flow.schema.fields().len(), needed);
        let (left_schema, right_schema) = (SchemaRef::clone(&left.flow.schema), SchemaRef::clone(&right.flow.schema));
        let mut spec = HashJoin::try_new(left_schema, right_schema, on.clone(), join.join_type, join.null_equality)?
            .with_build(build)
            .with_output(output.clone());
        if let Some(filter) = self.join_filter(join, width)? {
            spec = spec.with_filter(filter);
        }
        if join.null_aware {
            spec = spec.null_aware();
        }
        // Rows that are spread by the keys already stay where they are, and each of the others goes to one place only.
        let in_place = match build {
            JoinSide::Left => {
                let keys: Vec<usize> = on.iter().map(|(_, right)| *right).collect();
                self.is_spread(&right.flow, &keys, &join.right)
            }
            _ => {
                let keys: Vec<usize> = on.iter().map(|(left, _)| *left).collect();
                self.is_spread(&left.flow, &keys, &join.left)
            }
        };
        let broadcasts = (join.null_aware || !in_place) && self.broadcasts(join, build, left_size, right_size);
        if let Some(JoinFilter { filter, keys }) = filter {
            // Where keys were said twice, each is there once.
            let pair = |key: &usize| (left.columns[*key], right.columns[*key]);
            let place = |key: &usize| on.iter().position(|known| *known == pair(key));
            let keys = keys.iter().map(place).map(|key| key.expect("each pair of keys is among them")).collect();
            spec = spec.with_runtime_filter(filter, keys, broadcasts);
        }
        let (inputs, single, hashed) = if broadcasts {
            let (inputs, single) = broadcast(&left.flow, &right.flow, build);
            let hashed = streamed(&left.flow, &right.flow, build);
            let equal: Vec<_> = on.iter().map(|&(left, right)| (left, width + right)).collect();
            let inner = join.join_type == JoinType::Inner;
            (inputs, single, hashed.map(|hashed| if inner { hashed.with_equal(&equal) } else { hashed }))
        } else {
            let sides = ((&left.flow, join.left.as_ref()), (&right.flow, join.right.as_ref()));
            let meeting = self.meeting(sides.0, sides.1, &on, left_size.bytes() >= right_size.bytes());
            let hashed = meeting.hashed(&on, width, whole_sides(join.join_type));
            (meeting.inputs, false, hashed)
        };
        let hashed = hashed.and_then(|hashed| hashed.selected(&places(join.join_type, width, &output)));
        let schema = spec.schema()?;
        let node = self.graph.operator_with("hash join", spec, inputs);
        Ok(Flow { node, schema, ordered: false, single, hashed })
    }

    /// Whether the side that is held is so small that sending it to everybody is cheaper than sending the other one.
    fn broadcasts(&self, join: &Join, build: JoinSide, left: Estimate, right: Estimate) -> bool {
        let (held, probed) = if build == JoinSide::Left { (left, right) } else { (right, left) };
        let copies = self.settings.arbiters() as f64;
        let room = (self.settings.memory_limit_bytes as f64 * BROADCAST_SHARE
            / self.settings.threads_per_worker as f64)
            .min(MOST_BROADCAST_BYTES);
        HashJoin::allows_broadcast(join.join_type, build)
            && held.bytes() <= room
            && (join.null_aware || held.rows * (copies - 1.0).max(1.0) * PROBE_ROWS_PER_COPY <= probed.rows)
    }

    fn nested_loop_join(
        &mut self,
        join: &Join,
        left: Flow,
        right: Flow,
        (left_size, right_size): (Estimate, Estimate),
        needed: Option<&[usize]>,
    ) -> Result<Flow> {
        let filter = self.join_filter(join, left.schema.fields().len())?;
        let (left_schema, right_schema) = (SchemaRef::clone(&left.schema), SchemaRef::clone(&right.schema));
        let mut spec = NestedLoopJoin::try_new(left_schema, right_schema, join.join_type, filter)?;
        if let Some(needed) = needed {
            spec = spec.with_output(needed.to_vec());
        }
        let allowed = |side: &JoinSide| HashJoin::allows_broadcast(join.join_type, *side);
        let small = smaller(left_size, right_size);
        let (width, right_width) = (left.schema.fields().len(), right.schema.fields().len());
        let (inputs, single, hashed) = match [small, small.negate()].into_iter().find(allowed) {
            Some(build) => {
                spec = spec.with_build(build);
                let (inputs, single) = broadcast(&left, &right, build);
                (inputs, single, streamed(&left, &right, build))
            }
            None => ([left.node.gather(), right.node.gather()], true, None),
        };
        let output = output(join, width, right_width, needed);
        let hashed = hashed.and_then(|hashed| hashed.selected(&places(join.join_type, width, &output)));
        let schema = spec.schema()?;
        let node = self.graph.operator_with("nested loop join", spec, inputs);
        Ok(Flow { node, schema, ordered: false, single, hashed })
    }

    /// The condition beside the keys, over the columns of the left side and then those of the right one, which begin at
    /// `width`.
    fn join_filter(&self, join: &Join, width: usize) -> Result<Option<Expression>> {
        let Some(filter) = &join.filter else { return Ok(None) };
        // Of all columns those that are used alone: others may have the same name on both sides.
        let mut fields = Vec::new();
        let mut places = Vec::new();
        for column in filter.column_refs() {
            let (place, schema, index) = match join.left.schema().maybe_index_of_column(column) {
                Some(index) => (index, join.left.schema(), index),
                None => {
                    let index = join.right.schema().index_of_column(column)?;
                    (width + index, join.right.schema(), index)
                }
            };
            let (_, field) = schema.qualified_field(index);
            fields.push((column.relation.clone(), Arc::clone(field)));
            places.push(place);
        }
        let used = DFSchema::new_with_metadata(fields, Default::default())?;
        let filter = self.expression(filter, &used)?;
        Ok(Some(filter.transform(|part| at_places(part, &places)).data()?))
    }
}

/// A `not in` with further conditions as an anti join that knows nothing of nulls: it drops a row if among those that meet
/// the other conditions is one whose key is equal, or may be.
fn not_in_of_some(join: &Join) -> Result<Join> {
    // What the subquery selects is its first column.
    let selected: ColumnName = join.right.schema().qualified_field(0).into();
    let is_selected = |expr: &Expr| matches!(expr, Expr::Column(column) if *column == selected);
    let Some(index) = join.on.iter().position(|(_, right)| is_selected(right)) else {
        return Err(Error::unsupported("NOT IN of a constant and a correlated subquery"));
    };
    let mut join = join.clone();
    let (left, right) = join.on.remove(index);
    let equal = Expr::IsNotFalse(Box::new(left.eq(right)));
    join.filter = Some(match join.filter.take() {
        Some(filter) => filter.and(equal),
        None => equal,
    });
    join.null_aware = false;
    Ok(join)
}

/// A `not in` whose right side is not held whole by anybody, as an anti join that knows nothing of nulls. What it must know
/// of all rows of that side is counted before: a null among its keys leaves no row, and without any rows all stay.
fn not_in_of_many(join: &Join) -> Result<Join> {
    let Some((left_key, right_key)) = join.on.first() else {
        return Err(Error::unsupported("NOT IN without keys"));
    };
    let column = |name: &str| Expr::Column(ColumnName::new(Some(COUNTED), name));
    let counts = [count_all().alias("rows"), count(right_key.clone()).alias("keys")];
    let counted = LogicalPlanBuilder::new_from_arc(Arc::clone(&join.right)).aggregate(Vec::<Expr>::new(), counts)?;
    let counted = counted.alias(COUNTED)?.build()?;
    let comparable = column("rows").eq(column("keys")).and(left_key.clone().is_not_null());
    let may_stay = column("rows").eq(lit(0_i64)).or(comparable);
    let columns: Vec<Expr> = join.left.schema().columns().into_iter().map(Expr::Column).collect();
    let left = LogicalPlanBuilder::new_from_arc(Arc::clone(&join.left));
    let left = left.join_on(counted, JoinType::Inner, [may_stay])?.project(columns)?.build()?;
    Ok(Join { left: Arc::new(left), null_aware: false, ..join.clone() })
}

/// What the counts of a `not in` are called in its plan.
const COUNTED: &str = "__not_in";

/// The side that is cheaper to hold: many narrow rows take more places in a table than few wide ones.
fn smaller(left: Estimate, right: Estimate) -> JoinSide {
    let cost = |side: Estimate| side.bytes() + PLACE_BYTES * side.rows;
    if cost(left) < cost(right) { JoinSide::Left } else { JoinSide::Right }
}

/// The inputs of a join of which one goes to every partition of the other, and whether there is one of these.
fn broadcast(left: &Flow, right: &Flow, build: JoinSide) -> ([Input; 2], bool) {
    match build {
        JoinSide::Left => ([left.node.broadcast(), right.node.into()], right.single),
        _ => ([left.node.into(), right.node.broadcast()], left.single),
    }
}

/// A column of the schema that a filter was made for, as that of the join.
fn at_places(part: Expression, places: &[usize]) -> datafusion_common::Result<Transformed<Expression>> {
    Ok(match part.downcast_ref::<Column>() {
        Some(column) => {
            let moved: Arc<dyn PhysicalExpr> = Arc::new(Column::new(column.name(), places[column.index()]));
            Transformed::yes(moved)
        }
        None => Transformed::no(part),
    })
}

/// The keys of both sides, and the type to cast them to where they differ.
pub(super) fn common_types<'a>(
    on: impl Iterator<Item = (&'a Expr, &'a Expr)>,
    left_schema: &DFSchema,
    right_schema: &DFSchema,
) -> Result<(Vec<Key>, Vec<Key>)> {
    let both = on.map(|(left, right)| {
        let (left_type, right_type) = (left.get_type(left_schema)?, right.get_type(right_schema)?);
        if left_type == right_type {
            return Ok(((left.clone(), None), (right.clone(), None)));
        }
        let Some(common) = comparison_coercion(&left_type, &right_type) else {
            return Err(Error::sql(format!(
                "`{left}` is {left_type} and `{right}` is {right_type}: they cannot be equal"
            )));
        };
        Ok(((left.clone(), Some(common.clone())), (right.clone(), Some(common))))
    });
    Ok(both.collect::<Result<Vec<_>>>()?.into_iter().unzip())
}

/// Each pair of columns once.
pub(super) fn pairs(left: &[usize], right: &[usize]) -> Vec<(usize, usize)> {
    let mut pairs = Vec::with_capacity(left.len());
    for pair in left.iter().copied().zip(right.iter().copied()) {
        if !pairs.contains(&pair) {
            pairs.push(pair);
        }
    }
    pairs
}

/// How the rows of the side that is not broadcast are spread, by columns of the left side and, behind them, the right one.
fn streamed(left: &Flow, right: &Flow, build: JoinSide) -> Option<Hashed> {
    let width = left.schema.fields().len();
    match build {
        JoinSide::Left => right.hashed.as_ref()?.moved(|column| vec![width + column]),
        _ => left.hashed.clone(),
    }
}

/// Whether all that comes out of a hashed join has the left side's keys, and the right one's, in its rows: a null in place
/// of a key that has no match may be in any partition.
fn whole_sides(join_type: JoinType) -> [bool; 2] {
    match join_type {
        JoinType::Inner => [true, true],
        JoinType::Left | JoinType::LeftSemi | JoinType::LeftAnti | JoinType::LeftMark => [true, false],
        JoinType::Right | JoinType::RightSemi | JoinType::RightAnti | JoinType::RightMark => [false, true],
        JoinType::Full => [false, false],
    }
}

/// Where the output columns of a join come from: columns of the left side and, behind `width` of them, the right one.
fn places(join_type: JoinType, width: usize, output: &[usize]) -> Vec<usize> {
    match join_type {
        JoinType::RightSemi | JoinType::RightAnti | JoinType::RightMark => {
            output.iter().map(|column| width + column).collect()
        }
        // The mark comes from neither.
        JoinType::LeftMark => output.iter().map(|&column| if column < width { column } else { usize::MAX }).collect(),
        _ => output.to_vec(),
    }
}

/// Which of the columns of a join over extended sides are its own: not the keys that were computed.
fn output(join: &Join, left_width: usize, right_width: usize, needed: Option<&[usize]>) -> Vec<usize> {
    let (left, right) = (join.left.schema().fields().len(), join.right.schema().fields().len());
    let all: Vec<usize> = match join.join_type {
        JoinType::Inner | JoinType::Left | JoinType::Right | JoinType::Full => {
            (0..left).chain(left_width..left_width + right).collect()
        }
        JoinType::LeftSemi | JoinType::LeftAnti => (0..left).collect(),
        JoinType::RightSemi | JoinType::RightAnti => (0..right).collect(),
        JoinType::LeftMark => (0..left).chain([left_width]).collect(),
        JoinType::RightMark => (0..right).chain([right_width]).collect(),
    };
    match needed {
        Some(needed) => needed.iter().map(|&column| all[column]).collect(),
        None => all,
    }
}
