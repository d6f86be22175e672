//! Random rows, kinds of keys, kinds of joins, and spilling at random moments.

use arrow::array::{
    BooleanArray, Decimal128Array, DictionaryArray, Float32Array, Float64Array, Int32Array, LargeStringArray,
};
use arrow::datatypes::Int32Type;
use datafusion_common::ScalarValue;
use datafusion_expr::Operator as Binary;
use datafusion_physical_expr::expressions::{BinaryExpr, Column};
use proptest::prelude::*;

use super::oracle::lines;
use super::*;

pub(super) const KINDS: usize = 14;

/// Key columns of one kind whose values are told by small numbers.
fn keys(kind: usize, values: &[Option<u8>]) -> Vec<ArrayRef> {
    let some = || values.iter().copied();
    let text =
        |value: u8| if value.is_multiple_of(2) { format!("{value}") } else { format!("a long text, number {value}") };
    let texts = || some().map(|v| v.map(text)).collect::<Vec<_>>();
    let int64 = || Arc::new(some().map(|v| v.map(i64::from)).collect::<Int64Array>()) as ArrayRef;
    let int32 = |skip: u8| {
        Arc::new(some().map(|v| v.filter(|v| *v != skip).map(i32::from)).collect::<Int32Array>()) as ArrayRef
    };
    // Next to each other at either end of the range, and far apart.
    let ends = |v: u8| [-1, 0, -2, 1, i64::MAX, i64::MIN, i64::MAX - 1, 1 << 40][usize::from(v) % 8];
    let float = |v: u8| [0.0, -0.0, f64::NAN, -f64::NAN, 1.5, f64::INFINITY][usize::from(v) % 6];
    match kind {
        0 => vec![int64()],
        1 => vec![int32(200)],
        2 => vec![Arc::new(StringArray::from_iter(texts()))],
        3 => vec![Arc::new(StringViewArray::from_iter(texts()))],
        4 => vec![Arc::new(some().map(|v| v.map(float)).collect::<Float64Array>())],
        5 => vec![int64(), Arc::new(StringViewArray::from_iter(texts()))],
        6 => vec![int32(200), int32(3)],
        7 => vec![Arc::new(some().map(|v| v.map(i128::from)).collect::<Decimal128Array>())],
        8 => vec![Arc::new(some().map(|v| v.map(|v| v % 2 == 0)).collect::<BooleanArray>())],
        9 => vec![Arc::new(texts().iter().map(Option::as_deref).collect::<DictionaryArray<Int32Type>>())],
        10 => vec![Arc::new(LargeStringArray::from_iter(texts()))],
        11 => vec![int64(), Arc::new(some().map(|v| v.map(float)).collect::<Float64Array>())],
        12 => vec![Arc::new(some().map(|v| v.map(ends)).collect::<Int64Array>())],
        _ => vec![Arc::new(some().map(|v| v.map(|v| float(v) as f32)).collect::<Float32Array>())],
    }
}

pub(super) fn batch(kind: usize, values: &[Option<u8>], names: [&str; 2]) -> RecordBatch {
    let mut columns: Vec<(String, ArrayRef, bool)> = Vec::new();
    for (index, column) in keys(kind, values).into_iter().enumerate() {
        columns.push((format!("{}{index}", names[0]), column, true));
    }
    let numbers: Int64Array = (0..values.len()).map(|row| (row % 7 != 3).then_some(row as i64)).collect();
    let texts = (0..values.len()).map(|row| (row % 5 != 4).then(|| format!("{} {row}, and more of it", names[1])));
    columns.push((names[1].to_string(), Arc::new(numbers), true));
    columns.push((format!("{}_text", names[1]), Arc::new(StringViewArray::from_iter(texts)), true));
    RecordBatch::try_from_iter_with_nullable(columns).expect("columns of one length")
}

pub(super) fn values(rows: usize, keys: u8) -> impl Strategy<Value = Vec<Option<u8>>> {
    prop::collection::vec(prop::option::weighted(0.9, 0..keys), 0..rows)
}

#[derive(Debug, Clone)]
struct Case {
    left: Vec<Option<u8>>,
    right: Vec<Option<u8>>,
    kind: usize,
    join_type: usize,
    build_left: bool,
    nulls_equal: bool,
    filtered: bool,
    nested: bool,
    batch_rows: usize,
    output_rows: usize,
    spill_every: usize,
}

fn case() -> impl Strategy<Value = Case> {
    let sides = (1u8..20).prop_flat_map(|keys| (values(70, keys), values(70, keys)));
    let how = (0..KINDS, 0..10usize, any::<[bool; 3]>(), 0..8u8, 1..40usize, 1..200usize, 0..5usize);
    (sides, how).prop_map(|((left, right), (kind, join_type, flags, nested, batch_rows, output_rows, spill_every))| {
        Case {
            left,
            right,
            kind,
            join_type,
            build_left: flags[0],
            nulls_equal: flags[1],
            filtered: flags[2],
            nested: nested == 0,
            batch_rows,
            output_rows,
            spill_every,
        }
    })
}

fn check(case: &Case) {
    let (left, right) = (batch(case.kind, &case.left, ["k", "n"]), batch(case.kind, &case.right, ["j", "m"]));
    let keys = left.num_columns() - 2;
    let join_type = ALL_TYPES[case.join_type];
    let build = if case.build_left { JoinSide::Left } else { JoinSide::Right };
    let (n, m) = (keys, left.num_columns() + keys);
    let filter: Expression =
        Arc::new(BinaryExpr::new(Arc::new(Column::new("n", n)), Binary::Lt, Arc::new(Column::new("m", m))));
    let condition = |l: &[ScalarValue], r: &[ScalarValue]| !l[n].is_null() && !r[n].is_null() && l[n] < r[n];
    let spec: Box<dyn OperatorSpec> = if case.nested {
        let filter = case.filtered.then(|| Arc::clone(&filter));
        let join = NestedLoopJoin::try_new(left.schema(), right.schema(), join_type, filter).expect("fits");
        Box::new(join.with_build(build))
    } else {
        let nulls = if case.nulls_equal { NullEquality::NullEqualsNull } else { NullEquality::NullEqualsNothing };
        let join = hash_join(&left, &right, keys, join_type, build, nulls);
        Box::new(if case.filtered { join.with_filter(filter) } else { join })
    };
    let options = Run { batch_rows: case.output_rows, spill_every: case.spill_every, ..Run::default() };
    let pieces = |batch| pieces(batch, case.batch_rows);
    let outcome = run(spec.as_ref(), &pieces(&left), &pieces(&right), options).expect("runs");
    let oracle = Oracle {
        left: &left,
        right: &right,
        keys: if case.nested { 0 } else { keys },
        nulls_equal: case.nulls_equal,
        condition: case.filtered.then_some(&condition),
        null_aware: false,
    };
    assert_eq!(lines(&outcome.batches), oracle.answer(join_type), "{join_type}, holding the {build}");
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 2000, ..ProptestConfig::with_cases(300) })]

    #[test]
    fn joins_of_random_rows_agree_with_nested_loops(case in case()) {
        check(&case);
    }
}
