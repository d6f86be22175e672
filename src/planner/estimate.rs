//! How many rows a part of a plan yields, guessed from what its tables know of themselves: what decides which side of a
//! join is held, whether it is sent to everybody, and in which order tables are joined. Nothing that is wrong here makes
//! an answer wrong.

use arrow::datatypes::{DataType, Schema};
use datafusion_common::{Column, ScalarValue};
use datafusion_expr::logical_plan::Join;
use datafusion_expr::utils::split_conjunction;
use datafusion_expr::{BinaryExpr, Expr, FetchType, JoinType, LogicalPlan, Operator, SkipType};

use super::ScanTable;

/// Rows of a table that says nothing about itself.
const UNKNOWN_ROWS: f64 = 1e6;
/// Elements of a list, on average.
const LIST_ELEMENTS: f64 = 4.0;

/// What is known of the rows of a part of a plan.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Estimate {
    pub(super) rows: f64,
    /// Bytes of a row in memory.
    row_bytes: f64,
    /// Rows of the largest table below, before filters: how many different keys there may be.
    base_rows: f64,
}

impl Estimate {
    pub(super) fn bytes(self) -> f64 {
        self.rows * self.row_bytes
    }

    /// The rows and their columns as they are told by others.
    pub(super) fn of_table(rows: Option<f64>, schema: &Schema) -> Self {
        let rows = rows.unwrap_or(UNKNOWN_ROWS);
        Self { rows, row_bytes: row_bytes(schema), base_rows: rows.max(1.0) }
    }

    fn with_rows(self, rows: f64) -> Self {
        Self { rows, ..self }
    }
}

/// What `plan` is likely to yield.
pub(super) fn estimate(plan: &LogicalPlan) -> Estimate {
    let yields = match plan {
        LogicalPlan::TableScan(scan) => {
            let rows = scan.source.downcast_ref::<ScanTable>().and_then(ScanTable::rows);
            let table = Estimate::of_table(rows, scan.projected_schema.inner());
            let rows =
                table.rows * scan.filters.iter().cloned().reduce(Expr::and).map_or(1.0, |all| selectivity(&all, plan));
            table.with_rows(scan.fetch.map_or(rows, |fetch| rows.min(fetch as f64)))
        }
        LogicalPlan::EmptyRelation(empty) => {
            Estimate::of_table(Some(if empty.produce_one_row { 1.0 } else { 0.0 }), empty.schema.inner())
        }
        LogicalPlan::Values(values) => Estimate::of_table(Some(values.values.len() as f64), values.schema.inner()),
        LogicalPlan::Filter(filter) => {
            let input = estimate(&filter.input);
            input.with_rows(input.rows * selectivity(&filter.predicate, &filter.input))
        }
        LogicalPlan::Aggregate(aggregate) => {
            let input = estimate(&aggregate.input);
            let keys = aggregate.group_expr.iter().map(|key| distinct(key, &aggregate.input)).product::<f64>();
            input.with_rows(if aggregate.group_expr.is_empty() { 1.0 } else { keys.min(groups(input.rows)) })
        }
        LogicalPlan::Distinct(_) => {
            let input = plan.inputs().first().map(|input| estimate(input)).unwrap_or(UNKNOWN);
            input.with_rows(groups(input.rows))
        }
        LogicalPlan::Sort(sort) => {
            let input = estimate(&sort.input);
            input.with_rows(sort.fetch.map_or(input.rows, |fetch| input.rows.min(fetch as f64)))
        }
        LogicalPlan::Limit(limit) => {
            let input = estimate(&limit.input);
            let (skip, fetch) = match (limit.get_skip_type(), limit.get_fetch_type()) {
                (Ok(SkipType::Literal(skip)), Ok(FetchType::Literal(fetch))) => (skip, fetch),
                _ => (0, None),
            };
            let rows = (input.rows - skip as f64).max(0.0);
            input.with_rows(fetch.map_or(rows, |fetch| rows.min(fetch as f64)))
        }
        LogicalPlan::Union(union) => {
            let inputs: Vec<Estimate> = union.inputs.iter().map(|input| estimate(input)).collect();
            Estimate {
                rows: inputs.iter().map(|input| input.rows).sum(),
                base_rows: inputs.iter().map(|input| input.base_rows).sum(),
                ..UNKNOWN
            }
        }
        LogicalPlan::Join(join) => {
            let (left, right) = (estimate(&join.left), estimate(&join.right));
            let residual = join.filter.as_ref().map_or(1.0, |filter| selectivity(filter, plan));
            let keys = keys(join, left, right);
            let pairs = left.rows * right.rows / keys * residual;
            let share = |by: Estimate| (by.rows / keys).min(1.0) * residual;
            let rows = match join.join_type {
                JoinType::Inner => pairs,
                JoinType::Left => pairs.max(left.rows),
                JoinType::Right => pairs.max(right.rows),
                JoinType::Full => pairs.max(left.rows + right.rows),
                JoinType::LeftMark => left.rows,
                JoinType::RightMark => right.rows,
                JoinType::LeftSemi => left.rows * share(right),
                JoinType::RightSemi => right.rows * share(left),
                JoinType::LeftAnti => left.rows * (1.0 - share(right)).max(0.1),
                JoinType::RightAnti => right.rows * (1.0 - share(left)).max(0.1),
            };
            Estimate { rows, base_rows: left.base_rows.max(right.base_rows), ..UNKNOWN }
        }
        LogicalPlan::Unnest(unnest) => {
            let input = estimate(&unnest.input);
            input.with_rows(input.rows * LIST_ELEMENTS)
        }
        other => other.inputs().first().map(|input| estimate(input)).unwrap_or(UNKNOWN),
    };
    Estimate { row_bytes: row_bytes(plan.schema().inner()), ..yields }
}

const UNKNOWN: Estimate = Estimate { rows: UNKNOWN_ROWS, row_bytes: 1.0, base_rows: UNKNOWN_ROWS };

/// How many different keys are likely among so many rows.
fn groups(rows: f64) -> f64 {
    rows.max(1.0).powf(0.85)
}

/// How many different keys both sides of a join have: as many as the side with fewer, as if it were a key of its table.
fn keys(join: &Join, left: Estimate, right: Estimate) -> f64 {
    let of = |side: &LogicalPlan, exprs: &mut dyn Iterator<Item = &Expr>, most: f64| {
        exprs.map(|expr| distinct(expr, side)).product::<f64>().min(most)
    };
    let left_keys = of(&join.left, &mut join.on.iter().map(|(left, _)| left), left.base_rows);
    let right_keys = of(&join.right, &mut join.on.iter().map(|(_, right)| right), right.base_rows);
    left_keys.min(right_keys).max(1.0)
}

/// How many different values `expr` is likely to have over all rows of the tables of `input`.
pub(super) fn distinct(expr: &Expr, input: &LogicalPlan) -> f64 {
    facts_of(expr, input).map_or_else(|| estimate(input).base_rows, |facts| facts.distinct)
}

fn facts_of(expr: &Expr, input: &LogicalPlan) -> Option<Facts> {
    match expr {
        Expr::Column(column) => facts(input, input.schema().maybe_index_of_column(column)?),
        Expr::Alias(alias) => facts_of(&alias.expr, input),
        Expr::Cast(cast) => facts_of(&cast.expr, input),
        _ => None,
    }
}

/// What is known of the column `index` of `plan`: of the table's column that it comes from.
fn facts(plan: &LogicalPlan, index: usize) -> Option<Facts> {
    match plan {
        LogicalPlan::TableScan(scan) => {
            let column = scan.projection.as_ref().map_or(Some(index), |projection| projection.get(index).copied())?;
            scan.source.downcast_ref::<ScanTable>()?.facts(column)
        }
        LogicalPlan::Projection(projection) => facts_of(projection.expr.get(index)?, &projection.input),
        LogicalPlan::Aggregate(aggregate) => facts_of(aggregate.group_expr.get(index)?, &aggregate.input),
        LogicalPlan::Join(join) => {
            let left = join.left.schema().fields().len();
            match join.join_type {
                JoinType::RightSemi | JoinType::RightAnti | JoinType::RightMark => facts(&join.right, index),
                _ if index < left => facts(&join.left, index),
                JoinType::Inner | JoinType::Left | JoinType::Right | JoinType::Full => facts(&join.right, index - left),
                _ => None,
            }
        }
        LogicalPlan::Filter(_) | LogicalPlan::Sort(_) | LogicalPlan::Limit(_) | LogicalPlan::SubqueryAlias(_) => {
            facts(plan.inputs().first()?, index)
        }
        _ => None,
    }
}

/// What is known of a column of a table.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Facts {
    pub(super) distinct: f64,
    /// The least and the largest value, as numbers.
    pub(super) range: Option<(f64, f64)>,
}

/// The share of rows of `input` for which `predicate` is likely to be true.
fn selectivity(predicate: &Expr, input: &LogicalPlan) -> f64 {
    // Bounds of one column belong together: of `a <= x and x < b` neither says anything alone.
    let mut bounds: Vec<(&Column, Facts, f64, f64)> = Vec::new();
    let mut share = 1.0;
    for part in split_conjunction(predicate) {
        match bound(part, input) {
            Some((column, facts, low, high)) => match bounds.iter_mut().find(|(known, ..)| *known == column) {
                Some((_, _, least, most)) => (*least, *most) = (least.max(low), most.min(high)),
                None => bounds.push((column, facts, low, high)),
            },
            None => share *= one_of(part, input),
        }
    }
    let within = bounds.into_iter().map(|(_, facts, low, high)| {
        // One value of those that there are, at the least.
        (high - low).max(0.0).max(1.0 / facts.distinct.max(1.0)).min(1.0)
    });
    share * within.product::<f64>()
}

/// For a comparison of a column with a value: the column, and where in its range the values lie that pass, from 0 to 1.
fn bound<'a>(predicate: &'a Expr, input: &LogicalPlan) -> Option<(&'a Column, Facts, f64, f64)> {
    let Expr::BinaryExpr(BinaryExpr { left, op, right }) = predicate else { return None };
    let (column, op, value) = match (left.as_ref(), right.as_ref()) {
        (Expr::Column(column), Expr::Literal(value, _)) => (column, *op, value),
        (Expr::Literal(value, _), Expr::Column(column)) => (column, op.swap()?, value),
        _ => return None,
    };
    let facts = facts_of(&Expr::Column(column.clone()), input)?;
    let (least, most) = facts.range?;
    let at = ((number(value)? - least) / (most - least).max(f64::MIN_POSITIVE)).clamp(0.0, 1.0);
    let (low, high) = match op {
        Operator::Lt | Operator::LtEq => (0.0, at),
        Operator::Gt | Operator::GtEq => (at, 1.0),
        Operator::Eq => (at, at),
        _ => return None,
    };
    Some((column, facts, low, high))
}

/// A value as a number, where values of its type lie on a line.
pub(super) fn number(value: &ScalarValue) -> Option<f64> {
    let kind = value.data_type();
    let value = match kind {
        DataType::Date32 => value.cast_to(&DataType::Int32).ok()?,
        DataType::Date64 | DataType::Timestamp(..) => value.cast_to(&DataType::Int64).ok()?,
        kind if kind.is_numeric() => value.clone(),
        _ => return None,
    };
    match value.cast_to(&DataType::Float64).ok()? {
        ScalarValue::Float64(number) => number.filter(|number| number.is_finite()),
        _ => None,
    }
}

/// The share of rows for which one condition is likely to be true.
fn one_of(predicate: &Expr, input: &LogicalPlan) -> f64 {
    match predicate {
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => match op {
            Operator::And => selectivity(predicate, input),
            Operator::Or => (selectivity(left, input) + selectivity(right, input)).min(1.0),
            Operator::Eq | Operator::IsNotDistinctFrom => match (left.as_ref(), right.as_ref()) {
                (column @ Expr::Column(_), Expr::Literal(..)) | (Expr::Literal(..), column @ Expr::Column(_)) => {
                    facts_of(column, input)
                        .filter(|facts| facts.range.is_some())
                        .map_or(0.1, |facts| 1.0 / facts.distinct.max(1.0))
                }
                _ => 0.1,
            },
            Operator::NotEq | Operator::IsDistinctFrom => 0.9,
            Operator::Lt | Operator::LtEq | Operator::Gt | Operator::GtEq => 0.4,
            _ => 0.3,
        },
        Expr::Not(inner) => 1.0 - selectivity(inner, input),
        Expr::IsNull(_) => 0.1,
        Expr::IsNotNull(_) => 0.9,
        Expr::InList(list) => {
            let one = facts_of(&list.expr, input).filter(|facts| facts.range.is_some());
            let one = one.map_or(0.1, |facts| 1.0 / facts.distinct.max(1.0));
            let share = (one * list.list.len() as f64).min(0.7);
            if list.negated { 1.0 - share } else { share }
        }
        Expr::Between(between) => {
            if between.negated {
                0.75
            } else {
                0.25
            }
        }
        Expr::Like(like) => {
            if like.negated {
                0.9
            } else {
                0.1
            }
        }
        Expr::Literal(ScalarValue::Boolean(Some(true)), _) => 1.0,
        Expr::Literal(..) => 0.0,
        Expr::Alias(alias) => selectivity(&alias.expr, input),
        _ => 0.3,
    }
}

/// Bytes of a row with these columns.
pub(super) fn row_bytes(schema: &Schema) -> f64 {
    schema.fields().iter().map(|field| value_bytes(field.data_type())).sum::<f64>().max(1.0)
}

/// Bytes of a value of this type in memory.
pub(super) fn value_bytes(kind: &DataType) -> f64 {
    match kind {
        DataType::Null => 0.0,
        DataType::Boolean => 0.125,
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Binary | DataType::LargeBinary => 24.0,
        DataType::Utf8View | DataType::BinaryView => 32.0,
        DataType::Dictionary(key, _) => value_bytes(key),
        DataType::Struct(fields) => fields.iter().map(|field| value_bytes(field.data_type())).sum(),
        DataType::List(element) | DataType::LargeList(element) => {
            4.0 + LIST_ELEMENTS * value_bytes(element.data_type())
        }
        DataType::FixedSizeBinary(bytes) => f64::from(*bytes),
        other => other.primitive_width().map_or(32.0, |bytes| bytes as f64),
    }
}

/// Characters that a value of this type takes in a text file, with the delimiter.
pub(super) fn text_bytes(kind: &DataType) -> f64 {
    match kind {
        DataType::Boolean => 6.0,
        DataType::Int64 => 6.0,
        DataType::Date32 => 11.0,
        DataType::Timestamp(..) => 20.0,
        DataType::Utf8 | DataType::Utf8View => 14.0,
        _ => 9.0,
    }
}
