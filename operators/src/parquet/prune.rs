//! Whether a predicate can be true for any of some rows, by what is known of them: bounds, nulls, absent values.
//!
//! The answer errs on one side only: "no" is certain, and what is not understood may be true. Order is that of arrow's
//! comparisons, in which NaN lies beyond all numbers; writers leave it out of the bounds, so bounds of floats say
//! nothing of order.

use std::cmp::Ordering;

use datafusion_common::ScalarValue;
use datafusion_expr::Operator;
use datafusion_physical_expr::expressions::{
    BinaryExpr, Column, InListExpr, IsNotNullExpr, IsNullExpr, LikeExpr, Literal, NotExpr,
};

use crate::expression::Expression;

/// What is known of a column's values in some rows.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Bounds {
    /// No value but null is less.
    pub(crate) min: Option<ScalarValue>,
    /// No value but null is greater.
    pub(crate) max: Option<ScalarValue>,
    /// Number of nulls.
    pub(crate) nulls: Option<u64>,
    /// Number of rows.
    pub(crate) rows: u64,
}

/// What is known of some rows.
pub(crate) trait Known {
    /// Of one of the columns that the predicate is over.
    fn bounds(&self, column: usize) -> Option<&Bounds>;

    /// Certain that the column does not have this value, which is of the type of its bounds.
    fn lacks(&self, column: usize, value: &ScalarValue) -> bool {
        let _ = (column, value);
        false
    }
}

/// Whether a boolean may be true, and whether it may be false, for any row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Chance {
    yes: bool,
    no: bool,
}

impl Chance {
    const ANY: Chance = Chance { yes: true, no: true };
    /// Null for every row.
    const NEITHER: Chance = Chance { yes: false, no: false };

    fn not(self) -> Self {
        Self { yes: self.no, no: self.yes }
    }

    fn always(yes: bool) -> Self {
        Self { yes, no: !yes }
    }
}

/// Whether `predicate` may be true for any of the rows.
pub(crate) fn may_be_true(predicate: &Expression, known: &dyn Known) -> bool {
    chance(predicate, known).yes
}

fn chance(expression: &Expression, known: &dyn Known) -> Chance {
    if let Some(binary) = expression.downcast_ref::<BinaryExpr>() {
        return match binary.op() {
            Operator::And => {
                let (left, right) = (chance(binary.left(), known), chance(binary.right(), known));
                Chance { yes: left.yes && right.yes, no: left.no || right.no }
            }
            Operator::Or => {
                let (left, right) = (chance(binary.left(), known), chance(binary.right(), known));
                Chance { yes: left.yes || right.yes, no: left.no && right.no }
            }
            operator => comparison(binary.left(), *operator, binary.right(), known),
        };
    }
    if let Some(not) = expression.downcast_ref::<NotExpr>() {
        return chance(not.arg(), known).not();
    }
    if let Some(is_null) = expression.downcast_ref::<IsNullExpr>() {
        return nullness(is_null.arg(), known);
    }
    if let Some(is_not_null) = expression.downcast_ref::<IsNotNullExpr>() {
        return nullness(is_not_null.arg(), known).not();
    }
    if let Some(list) = expression.downcast_ref::<InListExpr>() {
        let mut any = false;
        for value in list.list() {
            any |= comparison(list.expr(), Operator::Eq, value, known).yes;
        }
        // What NOT IN can be depends on all values at once.
        return if list.negated() { Chance::ANY } else { Chance { yes: any, no: true } };
    }
    if let Some(like) = expression.downcast_ref::<LikeExpr>() {
        return Chance { yes: like.negated() || like.case_insensitive() || prefixed(like, known), no: true };
    }
    if let Some(literal) = expression.downcast_ref::<Literal>() {
        return match literal.value() {
            ScalarValue::Boolean(Some(value)) => Chance::always(*value),
            value if value.is_null() => Chance::NEITHER,
            _ => Chance::ANY,
        };
    }
    if let Some(bounds) = bounds(expression, known) {
        let is = |bound: &Option<ScalarValue>, value| *bound == Some(ScalarValue::Boolean(Some(value)));
        return Chance { yes: !is(&bounds.max, false), no: !is(&bounds.min, true) };
    }
    Chance::ANY
}

fn bounds<'a>(expression: &Expression, known: &'a dyn Known) -> Option<&'a Bounds> {
    expression.downcast_ref::<Column>().and_then(|column| known.bounds(column.index()))
}

/// Whether a column may be null, and whether it may not be.
fn nullness(expression: &Expression, known: &dyn Known) -> Chance {
    match bounds(expression, known) {
        Some(Bounds { nulls: Some(nulls), rows, .. }) => Chance { yes: *nulls > 0, no: nulls < rows },
        _ => Chance::ANY,
    }
}

/// A comparison of a column with a value, whichever comes first.
fn comparison(left: &Expression, operator: Operator, right: &Expression, known: &dyn Known) -> Chance {
    let (column, operator, literal) = match (left.downcast_ref::<Literal>(), right.downcast_ref::<Literal>()) {
        (None, Some(literal)) => (left, operator, literal),
        (Some(literal), None) => match operator.swap() {
            Some(swapped) => (right, swapped, literal),
            None => return Chance::ANY,
        },
        _ => return Chance::ANY,
    };
    let Some(bounds) = bounds(column, known) else { return Chance::ANY };
    let index = column.downcast_ref::<Column>().map_or(usize::MAX, Column::index);
    let value = literal.value();
    match operator {
        Operator::IsDistinctFrom => return comparison(left, Operator::IsNotDistinctFrom, right, known).not(),
        Operator::IsNotDistinctFrom if value.is_null() => return nullness(column, known),
        Operator::IsNotDistinctFrom => {
            return Chance { yes: comparison(left, Operator::Eq, right, known).yes, no: true };
        }
        Operator::Eq | Operator::NotEq | Operator::Lt | Operator::LtEq | Operator::Gt | Operator::GtEq => {}
        _ => return Chance::ANY,
    }
    if value.is_null() || bounds.nulls == Some(bounds.rows) {
        return Chance::NEITHER;
    }
    let (Some(min), Some(max)) = (&bounds.min, &bounds.max) else {
        let typed =
            bounds.min.as_ref().or(bounds.max.as_ref()).map_or_else(|| Some(value.clone()), |of| like(value, of));
        let lacking = typed.is_some_and(|value| known.lacks(index, &value));
        return match operator {
            Operator::Eq => Chance { yes: !lacking, no: true },
            Operator::NotEq => Chance { yes: true, no: !lacking },
            _ => Chance::ANY,
        };
    };
    let Some(value) = like(value, min) else { return Chance::ANY };
    let (Some(least), Some(greatest)) = (compare(min, &value), compare(max, &value)) else { return Chance::ANY };
    let float = float(&value).is_some();
    if float && !matches!(operator, Operator::Eq | Operator::NotEq) {
        return Chance::ANY;
    }
    match operator {
        Operator::Eq | Operator::NotEq => {
            let within = least != Ordering::Greater && greatest != Ordering::Less;
            let yes = within && !known.lacks(index, &value);
            // Beside bounds that meet there may be NaN.
            let no = float || least != Ordering::Equal || greatest != Ordering::Equal;
            let equal = Chance { yes, no };
            if operator == Operator::Eq { equal } else { equal.not() }
        }
        Operator::Lt => Chance { yes: least == Ordering::Less, no: greatest != Ordering::Less },
        Operator::GtEq => Chance { yes: greatest != Ordering::Less, no: least == Ordering::Less },
        Operator::LtEq => Chance { yes: least != Ordering::Greater, no: greatest == Ordering::Greater },
        _ => Chance { yes: greatest == Ordering::Greater, no: least != Ordering::Greater },
    }
}

/// `value` as the type of `of`, if it is the same value then.
fn like(value: &ScalarValue, of: &ScalarValue) -> Option<ScalarValue> {
    let (own, wanted) = (value.data_type(), of.data_type());
    if own == wanted {
        return Some(value.clone());
    }
    let cast = value.cast_to(&wanted).ok()?;
    (cast.cast_to(&own).ok()? == *value).then_some(cast)
}

/// The number that a float is.
fn float(value: &ScalarValue) -> Option<f64> {
    match value {
        ScalarValue::Float16(Some(value)) => Some(value.to_f64()),
        ScalarValue::Float32(Some(value)) => Some(f64::from(*value)),
        ScalarValue::Float64(Some(value)) => Some(*value),
        _ => None,
    }
}

/// Compares two values of one type; both zeros are one, for writers do not agree on which is less.
fn compare(a: &ScalarValue, b: &ScalarValue) -> Option<Ordering> {
    match (float(a), float(b)) {
        (Some(a), Some(b)) => a.partial_cmp(&b),
        _ => a.partial_cmp(b),
    }
}

/// Whether a text may begin as the pattern does.
fn prefixed(like: &LikeExpr, known: &dyn Known) -> bool {
    let Some(bounds) = bounds(like.expr(), known) else { return true };
    if bounds.nulls == Some(bounds.rows) {
        return false;
    }
    let text = |value: &ScalarValue| value.try_as_str().flatten().map(str::to_string);
    let pattern = like.pattern().downcast_ref::<Literal>().and_then(|literal| text(literal.value()));
    let ends = (bounds.min.as_ref().and_then(text), bounds.max.as_ref().and_then(text));
    let (Some(pattern), (Some(min), Some(max))) = (pattern, ends) else { return true };
    let prefix = pattern.split(['%', '_', '\\']).next().unwrap_or_default();
    // Of a bound as much as the prefix has is compared: whatever follows does not matter.
    let head = |bound: &str| bound.as_bytes()[..bound.len().min(prefix.len())].to_vec();
    head(&min).as_slice() <= prefix.as_bytes() && head(&max).as_slice() >= prefix.as_bytes()
}

/// The columns that the predicate compares for equality, each with nothing but values: what a bloom filter is for.
pub(crate) fn equalities(expression: &Expression, columns: &mut Vec<usize>) {
    let mut add = |expression: &Expression| {
        if let Some(column) = expression.downcast_ref::<Column>()
            && !columns.contains(&column.index())
        {
            columns.push(column.index());
        }
    };
    if let Some(list) = expression.downcast_ref::<InListExpr>() {
        add(list.expr());
    } else if let Some(binary) = expression.downcast_ref::<BinaryExpr>() {
        match binary.op() {
            Operator::Eq => {
                add(binary.left());
                add(binary.right());
            }
            Operator::And | Operator::Or => {
                equalities(binary.left(), columns);
                equalities(binary.right(), columns);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Float64Array, Int64Array, StringViewArray};
    use arrow::compute::{max, max_string_view, min, min_string_view};
    use arrow::datatypes::{DataType, Field, Schema};
    use arrow::record_batch::RecordBatch;
    use datafusion_physical_expr::expressions::{binary, col, in_list, is_not_null, is_null, like, lit, not};
    use proptest::prelude::*;

    use super::*;
    use crate::expression::evaluate_mask;

    struct All(Vec<Bounds>);

    impl Known for All {
        fn bounds(&self, column: usize) -> Option<&Bounds> {
            self.0.get(column)
        }
    }

    fn schema() -> Schema {
        Schema::new(vec![
            Field::new("n", DataType::Int64, true),
            Field::new("x", DataType::Float64, true),
            Field::new("s", DataType::Utf8View, true),
        ])
    }

    fn known(batch: &RecordBatch) -> All {
        use arrow::array::{Array, AsArray};
        use arrow::datatypes::{Float64Type, Int64Type};
        let n = batch.column(0).as_primitive::<Int64Type>();
        // As writers do it: without NaN.
        let x: Float64Array =
            batch.column(1).as_primitive::<Float64Type>().iter().map(|x| x.filter(|x| !x.is_nan())).collect();
        let s = batch.column(2).as_string_view();
        let text = |s: Option<&str>| s.map(|s| ScalarValue::Utf8View(Some(s.to_string())));
        let of = |index: usize, min: Option<ScalarValue>, max: Option<ScalarValue>| Bounds {
            min,
            max,
            nulls: Some(batch.column(index).null_count() as u64),
            rows: batch.num_rows() as u64,
        };
        let number = |n: Option<i64>| n.map(|n| ScalarValue::Int64(Some(n)));
        let float = |x: Option<f64>| x.map(|x| ScalarValue::Float64(Some(x)));
        All(vec![
            of(0, number(min(n)), number(max(n))),
            of(1, float(min(&x)), float(max(&x))),
            of(2, text(min_string_view(s)), text(max_string_view(s))),
        ])
    }

    fn leaf() -> impl Strategy<Value = Expression> {
        let operators = || {
            prop::sample::select(vec![
                Operator::Eq,
                Operator::NotEq,
                Operator::Lt,
                Operator::LtEq,
                Operator::Gt,
                Operator::GtEq,
                Operator::IsDistinctFrom,
                Operator::IsNotDistinctFrom,
            ])
        };
        let texts = || prop::sample::select(vec!["", "a", "ab", "abc", "b", "ba", "é", "zz"]);
        let patterns = prop::sample::select(vec!["a%", "ab_", "%b", "b", "z\\%%", "é%", "a_c%"]);
        let floats = prop::sample::select(vec![0.0, -0.0, 1.5, -1.5, f64::NAN, -f64::NAN, f64::INFINITY]);
        let compare = |column: &'static str, operator, value: Expression, turned: bool| {
            let column = col(column, &schema()).expect("a column");
            let (a, b) = if turned { (value, column) } else { (column, value) };
            binary(a, operator, b, &schema()).expect("comparable")
        };
        prop_oneof![
            (operators(), prop::option::of(-3..4i64), any::<bool>()).prop_map(move |(op, n, turned)| compare(
                "n",
                op,
                lit(ScalarValue::Int64(n)),
                turned
            )),
            (operators(), floats, any::<bool>()).prop_map(move |(op, x, turned)| compare("x", op, lit(x), turned)),
            (operators(), texts(), any::<bool>()).prop_map(move |(op, s, turned)| {
                compare("s", op, lit(ScalarValue::Utf8View(Some(s.to_string()))), turned)
            }),
            (prop::sample::select(vec!["n", "x", "s"]), any::<bool>()).prop_map(|(name, null)| {
                let column = col(name, &schema()).expect("a column");
                if null { is_null(column) } else { is_not_null(column) }.expect("a test")
            }),
            (prop::collection::vec(-3..4i64, 1..3), any::<bool>()).prop_map(|(values, negated)| {
                let values = values.into_iter().map(lit).collect();
                in_list(col("n", &schema()).expect("a column"), values, &negated, &schema()).expect("a list")
            }),
            (patterns, any::<bool>()).prop_map(|(pattern, negated)| {
                let pattern = lit(ScalarValue::Utf8View(Some(pattern.to_string())));
                like(negated, false, col("s", &schema()).expect("a column"), pattern, &schema()).expect("a pattern")
            }),
            prop::option::of(any::<bool>()).prop_map(|value| lit(ScalarValue::Boolean(value))),
        ]
    }

    fn predicate() -> impl Strategy<Value = Expression> {
        leaf().prop_recursive(3, 12, 2, |inner| {
            prop_oneof![
                (inner.clone(), inner.clone(), any::<bool>()).prop_map(|(a, b, and)| {
                    let operator = if and { Operator::And } else { Operator::Or };
                    binary(a, operator, b, &schema()).expect("booleans")
                }),
                inner.prop_map(|a| not(a).expect("a boolean")),
            ]
        })
    }

    fn batch() -> impl Strategy<Value = RecordBatch> {
        let floats = prop::sample::select(vec![0.0, -0.0, 1.5, -1.5, 7.0, f64::NAN, -f64::NAN, f64::NEG_INFINITY]);
        let texts = prop::sample::select(vec!["", "a", "ab", "abc", "abz", "b", "ba", "é", "z%"]);
        let row = (prop::option::of(-3..4i64), prop::option::of(floats), prop::option::of(texts));
        prop::collection::vec(row, 1..5).prop_map(|rows| {
            let columns: Vec<ArrayRef> = vec![
                Arc::new(Int64Array::from_iter(rows.iter().map(|row| row.0))),
                Arc::new(Float64Array::from_iter(rows.iter().map(|row| row.1))),
                Arc::new(StringViewArray::from_iter(rows.iter().map(|row| row.2))),
            ];
            RecordBatch::try_new(Arc::new(schema()), columns).expect("columns")
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]
        #[test]
        fn rows_that_a_predicate_is_true_for_are_never_ruled_out(predicate in predicate(), batch in batch()) {
            let mask = evaluate_mask(predicate.as_ref(), &batch).expect("evaluates");
            let may = may_be_true(&predicate, &known(&batch));
            prop_assert!(may || mask.true_count() == 0, "{} over {:?}", predicate, batch);
        }
    }

    #[test]
    fn what_bounds_rule_out_is_ruled_out() {
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from(vec![Some(3), None, Some(9)])),
            Arc::new(Float64Array::from(vec![1.0, 2.0, 3.0])),
            Arc::new(StringViewArray::from(vec!["bat", "car", "cat"])),
        ];
        let known = known(&RecordBatch::try_new(Arc::new(schema()), columns).expect("columns"));
        let schema = schema();
        let n = || col("n", &schema).expect("a column");
        let s = || col("s", &schema).expect("a column");
        let compare = |a, operator, b| binary(a, operator, b, &schema).expect("comparable");
        let text = |s: &str| lit(ScalarValue::Utf8View(Some(s.to_string())));
        let out = [
            compare(n(), Operator::Gt, lit(9i64)),
            compare(n(), Operator::Lt, lit(3i64)),
            compare(lit(10i64), Operator::LtEq, n()),
            compare(n(), Operator::Eq, lit(2i64)),
            compare(n(), Operator::Eq, lit(ScalarValue::Int64(None))),
            not(compare(n(), Operator::Lt, lit(10i64))).expect("a boolean"),
            in_list(n(), vec![lit(1i64), lit(11i64)], &false, &schema).expect("a list"),
            compare(compare(n(), Operator::Gt, lit(1i64)), Operator::And, compare(s(), Operator::Gt, text("d"))),
            compare(col("x", &schema).expect("a column"), Operator::Eq, lit(4.0)),
            is_null(s()).expect("a test"),
            like(false, false, s(), text("a%"), &schema).expect("a pattern"),
            like(false, false, s(), text("d_%"), &schema).expect("a pattern"),
        ];
        for predicate in out {
            assert!(!may_be_true(&predicate, &known), "{predicate}");
        }
        assert!(may_be_true(&like(false, false, s(), text("c%"), &schema).expect("a pattern"), &known));
    }
}
