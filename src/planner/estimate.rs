//! How many rows a part of a plan yields, guessed from what its tables know of themselves: what decides which side of a
//! join is held, whether it is sent to everybody, and in which order tables are joined. Nothing that is wrong here makes
//! an answer wrong.

use arrow::datatypes::{DataType, Schema};
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

    /// Rows of the pairs with equal keys: the keys of the smaller table are taken to be different ones.
    pub(super) fn joined(self, other: Self) -> f64 {
        self.rows * other.rows / self.base_rows.min(other.base_rows).max(1.0)
    }
}

/// What `plan` is likely to yield.
pub(super) fn estimate(plan: &LogicalPlan) -> Estimate {
    let yields = match plan {
        LogicalPlan::TableScan(scan) => {
            let rows = scan.source.downcast_ref::<ScanTable>().and_then(ScanTable::rows);
            let table = Estimate::of_table(rows, scan.projected_schema.inner());
            let rows = table.rows * all_of(&scan.filters);
            table.with_rows(scan.fetch.map_or(rows, |fetch| rows.min(fetch as f64)))
        }
        LogicalPlan::EmptyRelation(empty) => {
            Estimate::of_table(Some(if empty.produce_one_row { 1.0 } else { 0.0 }), empty.schema.inner())
        }
        LogicalPlan::Values(values) => Estimate::of_table(Some(values.values.len() as f64), values.schema.inner()),
        LogicalPlan::Filter(filter) => {
            let input = estimate(&filter.input);
            input.with_rows(input.rows * selectivity(&filter.predicate))
        }
        LogicalPlan::Aggregate(aggregate) => {
            let input = estimate(&aggregate.input);
            input.with_rows(if aggregate.group_expr.is_empty() { 1.0 } else { groups(input.rows) })
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
            let residual = join.filter.as_ref().map_or(1.0, selectivity);
            let pairs = if join.on.is_empty() { left.rows * right.rows } else { left.joined(right) } * residual;
            let share = |of: Estimate, by: Estimate| {
                let of_keys = of.base_rows.min(by.base_rows).max(1.0);
                (by.rows / of_keys).min(1.0) * residual
            };
            let rows = match join.join_type {
                JoinType::Inner => pairs,
                JoinType::Left => pairs.max(left.rows),
                JoinType::Right => pairs.max(right.rows),
                JoinType::Full => pairs.max(left.rows + right.rows),
                JoinType::LeftMark => left.rows,
                JoinType::RightMark => right.rows,
                JoinType::LeftSemi => left.rows * share(left, right),
                JoinType::RightSemi => right.rows * share(right, left),
                JoinType::LeftAnti => left.rows * (1.0 - share(left, right)).max(0.1),
                JoinType::RightAnti => right.rows * (1.0 - share(right, left)).max(0.1),
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

fn all_of(predicates: &[Expr]) -> f64 {
    predicates.iter().map(selectivity).product()
}

/// The share of rows for which `predicate` is likely to be true.
fn selectivity(predicate: &Expr) -> f64 {
    match predicate {
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => match op {
            Operator::And => selectivity(left) * selectivity(right),
            Operator::Or => (selectivity(left) + selectivity(right)).min(1.0),
            Operator::Eq | Operator::IsNotDistinctFrom => 0.1,
            Operator::NotEq | Operator::IsDistinctFrom => 0.9,
            Operator::Lt | Operator::LtEq | Operator::Gt | Operator::GtEq => 0.4,
            _ => 0.3,
        },
        Expr::Not(inner) => 1.0 - selectivity(inner),
        Expr::IsNull(_) => 0.1,
        Expr::IsNotNull(_) => 0.9,
        Expr::InList(list) => {
            let share = (0.1 * list.list.len() as f64).min(0.7);
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
        Expr::Literal(value, _) => match value {
            datafusion_common::ScalarValue::Boolean(Some(true)) => 1.0,
            _ => 0.0,
        },
        Expr::Alias(alias) => selectivity(&alias.expr),
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
