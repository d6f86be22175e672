//! Small inputs: each kind of join, ends, errors.

use datafusion_expr::Operator as Binary;
use datafusion_physical_expr::expressions::{BinaryExpr, Column};

use super::oracle::lines;
use super::*;

fn some_left() -> RecordBatch {
    left_table(vec![Some(1), Some(2), None, Some(2), Some(5), Some(7), None])
}

fn some_right() -> RecordBatch {
    right_table(vec![Some(2), Some(2), Some(7), None, Some(9)])
}

fn oracle<'a>(left: &'a RecordBatch, right: &'a RecordBatch) -> Oracle<'a> {
    Oracle { left, right, keys: 1, nulls_equal: false, condition: None, null_aware: false }
}

fn check_all_types(left: &RecordBatch, right: &RecordBatch) {
    for join_type in ALL_TYPES {
        for build in [JoinSide::Left, JoinSide::Right] {
            let join = hash_join(left, right, 1, join_type, build, NullEquality::NullEqualsNothing);
            let outcome = run(&join, &pieces(left, 3), &pieces(right, 2), Run::default()).expect("runs");
            assert_eq!(lines(&outcome.batches), oracle(left, right).answer(join_type), "{join_type} {build}");
        }
    }
}

#[test]
fn every_join_type_agrees_with_nested_loops_whichever_side_is_held() {
    check_all_types(&some_left(), &some_right());
}

#[test]
fn sides_without_rows_agree_too() {
    let (left, right) = (some_left(), some_right());
    check_all_types(&left.slice(0, 0), &right);
    check_all_types(&left, &right.slice(0, 0));
    check_all_types(&left.slice(0, 0), &right.slice(0, 0));
}

#[test]
fn an_inner_join_without_build_rows_reads_no_probe_row() {
    let (left, right) = (some_left(), some_right());
    for (join_type, stops) in [(JoinType::Inner, true), (JoinType::RightSemi, true), (JoinType::Right, false)] {
        let join = hash_join(&left, &right, 1, join_type, JoinSide::Left, NullEquality::NullEqualsNothing);
        let outcome = run(&join, &[left.slice(0, 0)], &pieces(&right, 2), Run::default()).expect("runs");
        assert_eq!((outcome.done, outcome.read[1] == 0), (stops, stops), "{join_type}");
    }
}

#[test]
fn not_in_is_decided_by_nulls() {
    let with_null = right_table(vec![Some(2), None]);
    let without = right_table(vec![Some(2), Some(9)]);
    let left = some_left();
    for right in [&with_null, &without, &without.slice(0, 0)] {
        for build in [JoinSide::Left, JoinSide::Right] {
            let join = hash_join(&left, right, 1, JoinType::LeftAnti, build, NullEquality::NullEqualsNothing);
            let outcome = run(&join.null_aware(), &pieces(&left, 2), &pieces(right, 1), Run::default()).expect("runs");
            let oracle = Oracle { null_aware: true, ..oracle(&left, right) };
            assert_eq!(lines(&outcome.batches), oracle.answer(JoinType::LeftAnti), "{build}");
        }
    }
    let join = hash_join(&left, &with_null, 1, JoinType::RightAnti, JoinSide::Left, NullEquality::NullEqualsNothing);
    let outcome = run(&join.null_aware(), &pieces(&left, 2), &pieces(&with_null, 1), Run::default()).expect("runs");
    assert_eq!(outcome.rows(), 0);
}

#[test]
fn chosen_output_columns_come_in_their_order() {
    let (left, right) = (some_left(), some_right());
    let join = hash_join(&left, &right, 1, JoinType::Left, JoinSide::Right, NullEquality::NullEqualsNothing);
    let outcome =
        run(&join.with_output(vec![5, 1]), std::slice::from_ref(&left), std::slice::from_ref(&right), Run::default())
            .expect("runs");
    let mut expected: Vec<_> = oracle(&left, &right)
        .answer(JoinType::Left)
        .iter()
        .map(|line| line.split(" | ").collect::<Vec<_>>())
        .map(|columns| format!("{} | {}", columns[5], columns[1]))
        .collect();
    expected.sort();
    assert_eq!(lines(&outcome.batches), expected);
    // A count needs rows and no columns.
    let join = hash_join(&left, &right, 1, JoinType::Inner, JoinSide::Right, NullEquality::NullEqualsNothing);
    assert_eq!(run(&join.with_output(vec![]), &[left], &[right], Run::default()).expect("runs").rows(), 5);
}

#[test]
fn conditions_that_are_no_equality_agree_with_nested_loops() {
    let (left, right) = (some_left(), some_right());
    let condition = |l: &[datafusion_common::ScalarValue], r: &[datafusion_common::ScalarValue]| {
        !l[0].is_null() && !r[0].is_null() && l[0] < r[0]
    };
    let filter: Expression =
        Arc::new(BinaryExpr::new(Arc::new(Column::new("k", 0)), Binary::Lt, Arc::new(Column::new("j", 3))));
    for (filter, condition) in [(Some(filter), Some(&condition as oracle::Condition<'_>)), (None, None)] {
        for join_type in ALL_TYPES {
            for build in [JoinSide::Left, JoinSide::Right] {
                for (left, right) in [
                    (left.clone(), right.clone()),
                    (left.slice(0, 0), right.clone()),
                    (left.clone(), right.slice(0, 0)),
                ] {
                    let join = NestedLoopJoin::try_new(left.schema(), right.schema(), join_type, filter.clone());
                    let join = join.expect("fits").with_build(build);
                    let outcome = run(&join, &pieces(&left, 3), &pieces(&right, 2), Run::default()).expect("runs");
                    let oracle = Oracle { keys: 0, condition, ..oracle(&left, &right) };
                    assert_eq!(lines(&outcome.batches), oracle.answer(join_type), "{join_type} {build}");
                }
            }
        }
    }
}

#[test]
fn keys_of_two_types_and_columns_that_are_not_there_are_refused() {
    let (left, right) = (some_left(), some_right());
    let new = |on| HashJoin::try_new(left.schema(), right.schema(), on, JoinType::Inner, NullEquality::NullEqualsNull);
    let error = new(vec![(0, 2)]).expect_err("a number and a text").to_string();
    assert!(error.contains("`k` is Int64 and `u` is Utf8"), "{error}");
    assert!(new(vec![(7, 0)]).is_err());
    assert!(new(vec![]).is_err());
    let join = new(vec![(0, 0)]).expect("fits");
    assert!(join.clone().with_output(vec![6]).schema().is_err());
    assert!(join.clone().null_aware().schema().is_err());
    assert!(join.clone().with_filter(Arc::new(Column::new("x", 6))).schema().is_err());
    let error = join.with_filter(Arc::new(Column::new("n", 1))).schema().expect_err("a number");
    assert!(error.to_string().contains("Int64 instead of Boolean"), "{error}");
}

#[test]
fn an_output_that_explodes_comes_in_bounded_batches() {
    let left = left_table(vec![Some(1); 700]);
    let right = right_table(vec![Some(1); 900]);
    for build in [JoinSide::Left, JoinSide::Right] {
        let join = hash_join(&left, &right, 1, JoinType::Inner, build, NullEquality::NullEqualsNothing);
        let small = Run { batch_bytes: 16 << 10, batch_rows: 500, ..Run::default() };
        let outcome = run(&join, std::slice::from_ref(&left), std::slice::from_ref(&right), small).expect("runs");
        assert_eq!(outcome.rows(), 630_000);
        assert_nothing_is_pinned(&outcome.batches);
    }
}

#[test]
fn one_long_text_does_not_make_a_batch_too_large() {
    let left = table(["k", "n", "t"], vec![Some(1); 50], |row| "x".repeat(if row == 3 { 10_000 } else { 3 }));
    let right = right_table(vec![Some(1); 100]);
    for build in [JoinSide::Left, JoinSide::Right] {
        let join = hash_join(&left, &right, 1, JoinType::Inner, build, NullEquality::NullEqualsNothing);
        let small = Run { batch_bytes: 16 << 10, batch_rows: 1000, ..Run::default() };
        let outcome = run(&join, std::slice::from_ref(&left), std::slice::from_ref(&right), small).expect("runs");
        assert_eq!(outcome.rows(), 5000);
    }
}
