//! What a join is, said as slowly as can be.

use arrow::record_batch::RecordBatch;
use datafusion_common::{JoinType, ScalarValue};

/// Decides, for rows of left and right, whether a condition holds.
pub(super) type Condition<'a> = &'a dyn Fn(&[ScalarValue], &[ScalarValue]) -> bool;

pub(super) struct Oracle<'a> {
    pub(super) left: &'a RecordBatch,
    pub(super) right: &'a RecordBatch,
    /// As many of the first columns of either side.
    pub(super) keys: usize,
    pub(super) nulls_equal: bool,
    pub(super) condition: Option<Condition<'a>>,
    pub(super) null_aware: bool,
}

impl Oracle<'_> {
    /// The rows of the answer as text, sorted.
    pub(super) fn answer(&self, join_type: JoinType) -> Vec<String> {
        let (left, right) = (scalars(self.left), scalars(self.right));
        let matches: Vec<Vec<usize>> =
            left.iter().map(|l| (0..right.len()).filter(|r| self.matches(l, &right[*r])).collect()).collect();
        let left_has = |row: usize| !matches[row].is_empty();
        let right_has = |row: usize| matches.iter().any(|matches| matches.contains(&row));
        let nulls = |batch: &RecordBatch| -> Vec<ScalarValue> {
            let fields = batch.schema();
            fields.fields().iter().map(|f| ScalarValue::try_from(f.data_type()).expect("a null")).collect()
        };
        let mut rows: Vec<Vec<ScalarValue>> = Vec::new();
        let pairs = || {
            let of = |l: usize| matches[l].iter().map(move |r| (l, *r));
            (0..left.len()).flat_map(of).map(|(l, r)| [left[l].clone(), right[r].clone()].concat()).collect::<Vec<_>>()
        };
        let mark = |row: &[ScalarValue], has| [row, &[ScalarValue::Boolean(Some(has))]].concat();
        match join_type {
            JoinType::Inner | JoinType::Left | JoinType::Right | JoinType::Full => {
                rows.extend(pairs());
                if matches!(join_type, JoinType::Left | JoinType::Full) {
                    let alone = (0..left.len()).filter(|l| !left_has(*l));
                    rows.extend(alone.map(|l| [left[l].clone(), nulls(self.right)].concat()));
                }
                if matches!(join_type, JoinType::Right | JoinType::Full) {
                    let alone = (0..right.len()).filter(|r| !right_has(*r));
                    rows.extend(alone.map(|r| [nulls(self.left), right[r].clone()].concat()));
                }
            }
            JoinType::LeftSemi => rows.extend((0..left.len()).filter(|l| left_has(*l)).map(|l| left[l].clone())),
            JoinType::RightSemi => rows.extend((0..right.len()).filter(|r| right_has(*r)).map(|r| right[r].clone())),
            JoinType::LeftAnti => {
                let wanted = |l: &usize| !left_has(*l) && self.not_in(&left[*l], &right);
                rows.extend((0..left.len()).filter(wanted).map(|l| left[l].clone()));
            }
            JoinType::RightAnti => {
                let wanted = |r: &usize| !right_has(*r) && self.not_in(&right[*r], &left);
                rows.extend((0..right.len()).filter(wanted).map(|r| right[r].clone()));
            }
            JoinType::LeftMark => rows.extend((0..left.len()).map(|l| mark(&left[l], left_has(l)))),
            JoinType::RightMark => rows.extend((0..right.len()).map(|r| mark(&right[r], right_has(r)))),
        }
        sorted(rows)
    }

    fn matches(&self, left: &[ScalarValue], right: &[ScalarValue]) -> bool {
        (0..self.keys).all(|key| same(&left[key], &right[key], self.nulls_equal))
            && self.condition.is_none_or(|condition| condition(left, right))
    }

    /// SQL's `key not in (others)`, for a row that equals none of them.
    fn not_in(&self, row: &[ScalarValue], others: &[Vec<ScalarValue>]) -> bool {
        !self.null_aware || others.is_empty() || !(row[0].is_null() || others.iter().any(|other| other[0].is_null()))
    }
}

fn same(a: &ScalarValue, b: &ScalarValue, nulls_equal: bool) -> bool {
    if a.is_null() || b.is_null() {
        return nulls_equal && a.is_null() && b.is_null();
    }
    match (a, b) {
        (ScalarValue::Float64(Some(a)), ScalarValue::Float64(Some(b))) => a == b || (a.is_nan() && b.is_nan()),
        (ScalarValue::Float32(Some(a)), ScalarValue::Float32(Some(b))) => a == b || (a.is_nan() && b.is_nan()),
        _ => a == b,
    }
}

pub(super) fn scalars(batch: &RecordBatch) -> Vec<Vec<ScalarValue>> {
    let value = |row, column| ScalarValue::try_from_array(batch.column(column), row).expect("a value");
    (0..batch.num_rows()).map(|row| (0..batch.num_columns()).map(|column| value(row, column)).collect()).collect()
}

pub(super) fn sorted(rows: Vec<Vec<ScalarValue>>) -> Vec<String> {
    let text = |value: &ScalarValue| if value.is_null() { "NULL".to_string() } else { value.to_string() };
    let mut lines: Vec<String> = rows.iter().map(|row| row.iter().map(text).collect::<Vec<_>>().join(" | ")).collect();
    lines.sort();
    lines
}

/// The rows of `batches` as text, sorted.
pub(super) fn lines(batches: &[RecordBatch]) -> Vec<String> {
    sorted(batches.iter().flat_map(scalars).collect())
}
