//! As-of joins called by hand, compared with a search through all right rows of each left one.

use std::cmp::Ordering;

use arrow::array::{
    AsArray, Date32Array, Decimal128Array, DictionaryArray, Float64Array, Int32Array, TimestampMicrosecondArray,
    UInt8Array,
};
use arrow::compute::{SortColumn, lexsort_to_indices, take_record_batch};
use arrow::datatypes::{Int32Type, Int64Type};
use datafusion_common::ScalarValue;
use proptest::prelude::*;

use super::oracle::{lines, scalars, sorted};
use super::*;
use crate::join::{AsofDirection, AsofJoin};

use AsofDirection::{Backward, Forward};

/// The rows of `batch` in the order that a join wants of its input `port`.
fn in_order(join: &AsofJoin, port: usize, batch: &RecordBatch) -> RecordBatch {
    let columns = join.order(port).into_iter();
    let columns: Vec<_> = columns
        .map(|by| SortColumn { values: Arc::clone(batch.column(by.column)), options: Some(by.options) })
        .chain([SortColumn {
            values: Arc::new(Int64Array::from_iter_values(0..batch.num_rows() as i64)),
            options: None,
        }])
        .collect();
    take_record_batch(batch, &lexsort_to_indices(&columns, None).expect("sorted")).expect("taken")
}

/// The answer, found row by row: both inputs are in order, with their keys first and the time behind them.
fn answer(
    left: &RecordBatch,
    right: &RecordBatch,
    keys: usize,
    (direction, strict): (AsofDirection, bool),
    how: JoinType,
) -> Vec<String> {
    let rights = scalars(right);
    let is_before = |a: &ScalarValue, b: &ScalarValue| match a.partial_cmp(b) {
        Some(Ordering::Less) => true,
        Some(Ordering::Equal) => !strict,
        _ => false,
    };
    let nothing: Vec<ScalarValue> =
        right.schema().fields().iter().map(|f| ScalarValue::try_from(f.data_type()).expect("a null")).collect();
    let mut rows = Vec::new();
    for row in scalars(left) {
        let matches = |other: &&Vec<ScalarValue>| {
            (0..=keys).all(|key| !row[key].is_null() && !other[key].is_null())
                && (0..keys).all(|key| row[key] == other[key])
                && match direction {
                    Backward => is_before(&other[keys], &row[keys]),
                    Forward => is_before(&row[keys], &other[keys]),
                }
        };
        let mut matching = rights.iter().filter(matches);
        let found = if direction == Backward { matching.next_back() } else { matching.next() };
        match found {
            Some(found) => rows.push([row, found.clone()].concat()),
            None if how == JoinType::Left => rows.push([row, nothing.clone()].concat()),
            None => {}
        }
    }
    sorted(rows)
}

fn asof(
    left: &RecordBatch,
    right: &RecordBatch,
    keys: usize,
    (direction, strict): (AsofDirection, bool),
    how: JoinType,
) -> AsofJoin {
    let on = (0..keys).map(|key| (key, key)).collect();
    let join = AsofJoin::try_new(left.schema(), right.schema(), on, (keys, keys), direction, how).expect("fits");
    if strict { join.strict() } else { join }
}

const WAYS: [(AsofDirection, bool); 4] = [(Backward, false), (Backward, true), (Forward, false), (Forward, true)];

fn timed(names: [&str; 3], rows: &[(Option<i64>, Option<i64>)]) -> RecordBatch {
    let column = |values: Vec<Option<i64>>| Arc::new(Int64Array::from(values)) as ArrayRef;
    RecordBatch::try_from_iter_with_nullable([
        (names[0], column(rows.iter().map(|row| row.0).collect()), true),
        (names[1], column(rows.iter().map(|row| row.1).collect()), true),
        (names[2], column((1..=rows.len() as i64).map(Some).collect()), true),
    ])
    .expect("columns of one length")
}

/// The row numbers of the right rows, in the order of those of the left rows.
fn matches(outcome: &Outcome) -> Vec<(i64, Option<i64>)> {
    let numbers = |batch: &RecordBatch, name: &str| -> Vec<Option<i64>> {
        batch.column_by_name(name).expect("a column").as_primitive::<Int64Type>().iter().collect()
    };
    let pairs = outcome.batches.iter().flat_map(|batch| numbers(batch, "n").into_iter().zip(numbers(batch, "m")));
    let mut pairs: Vec<_> = pairs.map(|(n, m)| (n.expect("a left row"), m)).collect();
    pairs.sort_unstable();
    pairs
}

/// DuckDB's `asof` gives these answers, too, but for which one of equal rows it takes, which it leaves open.
#[test]
fn the_nearest_row_in_each_direction() {
    let some = |key, time| (Some(key), Some(time));
    let left = timed(["k", "t", "n"], &[some(1, 10), some(1, 20), some(2, 5), (None, Some(10)), (Some(1), None)]);
    let mut rights = vec![some(1, 10), some(1, 10), some(1, 15), some(1, 15), some(2, 7), some(1, 25), some(1, 25)];
    rights.extend([(None, Some(1)), (Some(1), None), some(1, 20), some(1, 20)]);
    let right = timed(["j", "u", "m"], &rights);
    let expected = [
        [Some(2), Some(11), None, None, None],
        [None, Some(4), None, None, None],
        [Some(1), Some(10), Some(5), None, None],
        [Some(3), Some(6), Some(5), None, None],
    ];
    for (way, expected) in WAYS.into_iter().zip(expected) {
        for rows in [1, 2, 100] {
            let join = asof(&left, &right, 1, way, JoinType::Left);
            let (left, right) = (in_order(&join, 0, &left), in_order(&join, 1, &right));
            let outcome = run(&join, &pieces(&left, rows), &pieces(&right, rows), Run::default()).expect("runs");
            let all: Vec<_> = (1..).zip(expected).collect();
            assert_eq!(matches(&outcome), all, "{way:?}");
            let join = asof(&left, &right, 1, way, JoinType::Inner);
            let outcome = run(&join, &pieces(&left, rows), &pieces(&right, rows), Run::default()).expect("runs");
            let found: Vec<_> = all.into_iter().filter(|(_, m)| m.is_some()).collect();
            assert_eq!(matches(&outcome), found, "{way:?}");
        }
    }
}

#[test]
fn no_more_is_read_than_decides_the_answer() {
    let left = timed(["k", "t", "n"], &[(Some(1), Some(1))]);
    let rights: Vec<_> = (0..100).map(|row| (Some(2), Some(row))).collect();
    let right = timed(["j", "u", "m"], &rights);
    for how in [JoinType::Inner, JoinType::Left] {
        let join = asof(&left, &right, 1, (Backward, false), how);
        let outcome = run(&join, &pieces(&left, 1), &pieces(&right, 1), Run::default()).expect("runs");
        assert!(outcome.done && outcome.read[1] <= 2, "{:?}", outcome.read);
        let join = asof(&right, &left, 1, (Forward, false), how);
        let outcome = run(&join, &pieces(&right, 1), &pieces(&left, 1), Run::default()).expect("runs");
        assert_eq!((outcome.done, outcome.rows()), (true, if how == JoinType::Left { 100 } else { 0 }));
        assert!(how == JoinType::Left || outcome.read[0] <= 2, "{:?}", outcome.read);
    }
}

#[test]
fn columns_are_chosen_and_what_does_not_fit_is_refused() {
    let left = timed(["k", "t", "n"], &[(Some(1), Some(1))]);
    let right = timed(["j", "u", "m"], &[(Some(1), Some(1))]);
    let join = asof(&left, &right, 1, (Backward, false), JoinType::Left).with_output(vec![5, 0]);
    let outcome = run(&join, &pieces(&left, 1), &pieces(&right, 1), Run::default()).expect("runs");
    assert_eq!(lines(&outcome.batches), ["1 | 1"]);
    assert_eq!(join.detail(), "left, on k = j, t >= u");
    let schema = left.schema();
    let refused = |time, how| {
        let join = AsofJoin::try_new(Arc::clone(&schema), right.schema(), vec![], time, Backward, how);
        join.expect_err("does not fit").to_string()
    };
    assert!(refused((0, 9), JoinType::Left).contains("no columns 0 and 9"));
    assert!(refused((0, 0), JoinType::Full).contains("inner or left"));
}

/// One hot key, rows of a kilobyte on both sides, and a hundred times as many of them as the floor has room for.
#[test]
fn one_key_of_any_size_is_joined_within_the_floor() {
    let rows = 40_000i64;
    let wide = |names: [&str; 3], time: &dyn Fn(i64) -> i64| {
        let texts: ArrayRef = Arc::new(StringViewArray::from_iter_values((0..rows).map(|row| format!("{row:0900}"))));
        RecordBatch::try_from_iter_with_nullable([
            (names[0], Arc::new(Int64Array::from_iter_values((0..rows).map(|_| 7))) as ArrayRef, true),
            (names[1], Arc::new(Int64Array::from_iter_values((0..rows).map(time))), true),
            (names[2], Arc::new(Int64Array::from_iter_values(0..rows)), true),
            (if names[2] == "n" { "l" } else { "r" }, texts, true),
        ])
        .expect("columns of one length")
    };
    let left = wide(["k", "t", "n"], &|row| 10 * row);
    // Each is the match of two left rows, and the last of as many as no left row has.
    let right = wide(["j", "u", "m"], &|row| 20 * row - 5);
    let floors = Run { floating_bytes: Some(0), ..Run::default() };
    for (way, how) in [((Backward, false), JoinType::Left), ((Forward, true), JoinType::Inner)] {
        let join = asof(&left, &right, 1, way, how);
        assert!(join.min_memory(floors.batch_bytes) < 1 << 20);
        let outcome = run(&join, &pieces(&left, 60), &pieces(&right, 70), floors).expect("runs");
        assert_eq!((outcome.rows(), outcome.overruns), (40_000, 0));
        let expected =
            (0..rows).map(|n| (n, Some(if way.0 == Backward { (10 * n + 5) / 20 } else { (10 * n + 25) / 20 })));
        assert!(matches(&outcome).into_iter().eq(expected), "{way:?}");
        assert_nothing_is_pinned(&outcome.batches);
    }
}

#[test]
fn one_right_row_as_large_as_a_batch_meets_many_left_rows_within_the_floor() {
    let left = left_table((0..2000).map(Some).collect());
    let right = table(["j", "m", "u"], vec![Some(0), Some(1999)], |_| "r".repeat(60_000));
    for how in [JoinType::Inner, JoinType::Left] {
        let join = AsofJoin::try_new(left.schema(), right.schema(), vec![], (0, 0), Backward, how).expect("fits");
        let floors = Run { floating_bytes: Some(0), ..Run::default() };
        let outcome = run(&join, &pieces(&left, 500), &pieces(&right, 1), floors).expect("runs");
        assert_eq!((outcome.rows(), outcome.overruns), (2000, 0));
    }
}

/// Key columns of one kind, whose values are told by small numbers.
fn key_columns(kind: usize, values: &[Option<u8>]) -> Vec<ArrayRef> {
    let some = || values.iter().copied();
    let texts = || some().map(|v| v.map(|v| format!("a text that is long, {v}"))).collect::<Vec<_>>();
    let int32 = |skip: u8| Arc::new(some().map(|v| v.filter(|v| *v != skip).map(i32::from)).collect::<Int32Array>());
    match kind {
        0 => vec![],
        1 => vec![Arc::new(some().map(|v| v.map(|v| i64::from(v) - 3)).collect::<Int64Array>())],
        2 => vec![int32(200), int32(3)],
        3 => vec![Arc::new(StringViewArray::from_iter(texts()))],
        4 => vec![Arc::new(texts().iter().map(Option::as_deref).collect::<DictionaryArray<Int32Type>>())],
        _ => vec![int32(200), Arc::new(StringArray::from_iter(texts()))],
    }
}

fn time_column(kind: usize, values: &[Option<i8>]) -> ArrayRef {
    let some = || values.iter().copied();
    match kind {
        0 => Arc::new(some().map(|v| v.map(i64::from)).collect::<Int64Array>()),
        1 => Arc::new(some().map(|v| v.map(|v| i64::from(v) << 40)).collect::<TimestampMicrosecondArray>()),
        2 => Arc::new(some().map(|v| v.map(i32::from)).collect::<Date32Array>()),
        3 => Arc::new(some().map(|v| v.map(|v| f64::from(v) / 4.0 + 0.1)).collect::<Float64Array>()),
        4 => Arc::new(some().map(|v| v.map(|v| i128::from(v) << 70)).collect::<Decimal128Array>()),
        5 => Arc::new(some().map(|v| v.map(|v| v.unsigned_abs())).collect::<UInt8Array>()),
        _ => Arc::new(StringArray::from_iter(some().map(|v| v.map(|v| format!("{v}"))))),
    }
}

type Side = Vec<(Option<u8>, Option<i8>)>;

fn random(kinds: (usize, usize), rows: &Side, name: &str) -> RecordBatch {
    let mut columns = key_columns(kinds.0, &rows.iter().map(|row| row.0).collect::<Vec<_>>());
    columns.push(time_column(kinds.1, &rows.iter().map(|row| row.1).collect::<Vec<_>>()));
    columns
        .push(Arc::new(StringViewArray::from_iter_values((0..rows.len()).map(|row| format!("{name}, row {row:020}")))));
    let columns = columns.into_iter().enumerate().map(|(at, column)| (format!("{name}{at}"), column, true));
    RecordBatch::try_from_iter_with_nullable(columns).expect("columns of one length")
}

fn side() -> impl Strategy<Value = Side> {
    let row = (prop::option::weighted(0.95, 0u8..6), prop::option::weighted(0.95, -40i8..40));
    prop::collection::vec(row, 0..80)
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 2000, ..ProptestConfig::with_cases(300) })]

    #[test]
    fn random_rows_meet_what_a_search_finds(
        left in side(), right in side(), kinds in (0..6usize, 0..7usize), way in 0..4usize, inner in any::<bool>(),
        rows in (1..40usize, 1..40usize), output_rows in 1..100usize,
    ) {
        let (left, right) = (random(kinds, &left, "l"), random(kinds, &right, "r"));
        let keys = left.num_columns() - 2;
        let how = if inner { JoinType::Inner } else { JoinType::Left };
        let join = asof(&left, &right, keys, WAYS[way], how);
        let (left, right) = (in_order(&join, 0, &left), in_order(&join, 1, &right));
        let options = Run { batch_rows: output_rows, ..Run::default() };
        let outcome = run(&join, &pieces(&left, rows.0), &pieces(&right, rows.1), options).expect("runs");
        prop_assert_eq!(lines(&outcome.batches), answer(&left, &right, keys, WAYS[way], how));
    }
}
