//! Far more rows than memory: buckets on disk, hot keys, and blocks.

use std::collections::BTreeMap;

use aqueduct_runtime::testing::assert_within_limit;
use arrow::array::{AsArray, BooleanArray};
use arrow::compute::filter_record_batch;
use arrow::datatypes::Int64Type;
use datafusion_expr::Operator as Binary;
use datafusion_physical_expr::expressions::{BinaryExpr, Column, lit};

use super::*;

/// Rows of about a kilobyte: key and row number of each.
fn wide(names: [&str; 3], rows: usize, key: impl Fn(usize) -> i64) -> RecordBatch {
    table(names, (0..rows).map(|row| Some(key(row))).collect(), |row| format!("{row:09}").repeat(110))
}

fn number(batch: &RecordBatch, name: &str) -> Vec<Option<i64>> {
    batch.column_by_name(name).expect("a column").as_primitive::<Int64Type>().iter().collect()
}

/// How often each pair of row numbers came.
fn pairs(batches: &[RecordBatch]) -> BTreeMap<(Option<i64>, Option<i64>), usize> {
    let mut pairs = BTreeMap::new();
    for batch in batches {
        let (n, m) = (number(batch, "n"), number(batch, "m"));
        n.into_iter().zip(m).for_each(|pair| *pairs.entry(pair).or_default() += 1);
    }
    pairs
}

#[test]
fn sides_of_many_times_the_memory_go_through_the_disk() {
    let left = wide(["k", "n", "t"], 8000, |row| row as i64 * 31 % 9001);
    let right = wide(["j", "m", "u"], 8000, |row| row as i64 * 17 % 9001);
    let by_key: BTreeMap<i64, i64> = (0..8000).map(|row| (row * 17 % 9001, row)).collect();
    for build in [JoinSide::Left, JoinSide::Right] {
        let join = hash_join(&left, &right, 1, JoinType::Full, build, NullEquality::NullEqualsNothing);
        let floors = Run { floating_bytes: Some(0), ..Run::default() };
        assert!(join.min_memory(floors.batch_bytes) < 1200 << 10);
        let outcome = run(&join, &pieces(&left, 60), &pieces(&right, 60), floors).expect("runs");
        println!("spilled {}, overruns {}", outcome.spilled_bytes, outcome.overruns);
        assert_eq!(outcome.overruns, 0);
        assert!(outcome.spilled_bytes > 12 << 20);
        let mut expected = BTreeMap::new();
        let mut met = vec![false; 8000];
        for row in 0..8000i64 {
            let other = by_key.get(&(row * 31 % 9001)).copied();
            other.into_iter().for_each(|m| met[m as usize] = true);
            expected.insert((Some(row), other), 1);
        }
        (0..8000).filter(|m| !met[*m]).for_each(|m| {
            expected.insert((None, Some(m as i64)), 1);
        });
        assert!(pairs(&outcome.batches) == expected, "{build}");
    }
}

#[test]
fn some_buckets_stay_when_memory_is_short_but_not_that_short() {
    let left = wide(["k", "n", "t"], 6000, |row| row as i64);
    let right = wide(["j", "m", "u"], 6000, |row| row as i64 * 2);
    let join = hash_join(&left, &right, 1, JoinType::Inner, JoinSide::Left, NullEquality::NullEqualsNothing);
    let some = Run { floating_bytes: Some(4 << 20), ..Run::default() };
    let outcome = run(&join, &pieces(&left, 60), &pieces(&right, 60), some).expect("runs");
    println!("spilled {}, overruns {}", outcome.spilled_bytes, outcome.overruns);
    assert_eq!((outcome.rows(), outcome.overruns), (3000, 0));
    assert!(outcome.spilled_bytes > 0 && outcome.spilled_bytes < 10 << 20);
    let plenty = Run { floating_bytes: Some(1 << 30), ..Run::default() };
    let outcome = run(&join, &pieces(&left, 60), &pieces(&right, 60), plenty).expect("runs");
    assert_eq!((outcome.rows(), outcome.spilled_bytes, outcome.overruns), (3000, 0, 0));
}

#[test]
fn one_hot_key_on_both_sides_is_joined_within_the_floor() {
    // Nine rows of ten have the key 7, and both sides are larger than the memory.
    let key = |row: usize| if row % 10 == 9 { row as i64 + 100 } else { 7 };
    let left = wide(["k", "n", "t"], 1400, key);
    let right = wide(["j", "m", "u"], 1400, key);
    // n % 100 = 3 and n + 1 = m: few pairs of the hot key, and none of the others'.
    let column = |name: &str, index| Arc::new(Column::new(name, index)) as Expression;
    let n = || column("n", 1);
    let rest: Expression = Arc::new(BinaryExpr::new(n(), Binary::Modulo, lit(100i64)));
    let third: Expression = Arc::new(BinaryExpr::new(rest, Binary::Eq, lit(3i64)));
    let next: Expression = Arc::new(BinaryExpr::new(n(), Binary::Plus, lit(1i64)));
    let next: Expression = Arc::new(BinaryExpr::new(next, Binary::Eq, column("m", 4)));
    let filter: Expression = Arc::new(BinaryExpr::new(third, Binary::And, next));
    let matches = (0..1400).filter(|n| n % 100 == 3).count();
    for (join_type, rows) in [
        (JoinType::Inner, matches),
        (JoinType::Left, 1400),
        (JoinType::Right, 1400),
        (JoinType::Full, 2800 - matches),
        (JoinType::LeftSemi, matches),
        (JoinType::LeftAnti, 1400 - matches),
        (JoinType::LeftMark, 1400),
    ] {
        for build in [JoinSide::Left, JoinSide::Right] {
            let join = hash_join(&left, &right, 1, join_type, build, NullEquality::NullEqualsNothing);
            let floors = Run { floating_bytes: Some(0), ..Run::default() };
            let join = join.with_filter(Arc::clone(&filter));
            let outcome = run(&join, &pieces(&left, 60), &pieces(&right, 60), floors).expect("runs");
            println!("{join_type}, holding the {build}: spilled {}", outcome.spilled_bytes);
            assert_eq!((outcome.rows(), outcome.overruns), (rows, 0), "{join_type} {build}");
            // Columns that nothing reads are not held.
            assert!(!matches!(join_type, JoinType::Inner | JoinType::Full) || outcome.spilled_bytes > 2 << 20);
            if matches!(join_type, JoinType::Left | JoinType::Full) {
                let expected = |n: i64| (n % 100 == 3).then_some(n + 1);
                let found = pairs(&outcome.batches);
                assert!((0..1400).all(|n| found.get(&(Some(n), expected(n))) == Some(&1)), "{join_type} {build}");
            }
            if join_type == JoinType::LeftMark {
                for batch in &outcome.batches {
                    let marks = batch.column(3).as_boolean();
                    let right = number(batch, "n").into_iter().enumerate();
                    assert!(
                        right.flat_map(|(row, n)| Some((row, n?))).all(|(row, n)| marks.value(row) == (n % 100 == 3))
                    );
                }
            }
        }
    }
}

#[test]
fn a_nested_loop_over_more_rows_than_memory_goes_block_by_block() {
    let left = wide(["k", "n", "t"], 1500, |row| row as i64);
    let right = wide(["j", "m", "u"], 1500, |row| row as i64 + 1495);
    let filter: Expression =
        Arc::new(BinaryExpr::new(Arc::new(Column::new("k", 0)), Binary::GtEq, Arc::new(Column::new("j", 3))));
    for (join_type, rows) in [(JoinType::Inner, 15), (JoinType::Full, 3005), (JoinType::LeftAnti, 1495)] {
        for (build, spill_every) in [(JoinSide::Left, 0), (JoinSide::Right, 0), (JoinSide::Left, 3)] {
            let join = NestedLoopJoin::try_new(left.schema(), right.schema(), join_type, Some(Arc::clone(&filter)));
            let join = join.expect("fits").with_build(build);
            let floors =
                Run { floating_bytes: Some(if spill_every > 0 { 1 << 20 } else { 0 }), spill_every, ..Run::default() };
            let outcome = run(&join, &pieces(&left, 60), &pieces(&right, 60), floors).expect("runs");
            println!("{join_type}, holding the {build}: spilled {}", outcome.spilled_bytes);
            assert_eq!((outcome.rows(), outcome.overruns), (rows, 0), "{join_type} {build}");
            assert!(join_type != JoinType::Full || outcome.spilled_bytes > 2 << 20);
        }
    }
}

#[test]
fn rows_as_large_as_a_batch_are_joined_within_the_floor() {
    let left = table(["k", "n", "t"], (0..60).map(Some).collect(), |row| "l".repeat(60_000 - row));
    let right = table(["j", "m", "u"], (0..60).map(Some).collect(), |row| "r".repeat(60_000 - row));
    let join = hash_join(&left, &right, 1, JoinType::Inner, JoinSide::Left, NullEquality::NullEqualsNothing);
    let floors = Run { floating_bytes: Some(0), ..Run::default() };
    let outcome = run(&join, &pieces(&left, 1), &pieces(&right, 1), floors).expect("runs");
    assert_eq!((outcome.rows(), outcome.overruns), (60, 0));
    assert!(outcome.spilled_bytes > 3 << 20);
}

/// Rows that share the texts of others pin more than they need, which a table over them gives free at first.
#[test]
fn a_table_is_paid_for_while_others_take_all_that_floats() {
    let whole = table(["k", "n", "t"], (0..800).map(Some).collect(), |row| format!("{row:09}").repeat(45));
    let sixty_of_a_hundred = BooleanArray::from_iter((0..100).map(|row| Some(row % 5 > 1)));
    let right = right_table(vec![Some(1)]);
    let join = hash_join(&whole, &right, 1, JoinType::Inner, JoinSide::Left, NullEquality::NullEqualsNothing);
    let pool = MemoryPool::new(8 << 20);
    let context = context().pool(&pool).operator(&[whole.schema(), right.schema()]);
    let mut operator = join.instantiate(context).expect("an instance");
    let mut out = Outbox::new();
    for piece in pieces(&whole, 100) {
        let shared = filter_record_batch(&copied(&piece), &sixty_of_a_hundred).expect("filtered");
        let (pinned, own) = (shared.get_array_memory_size(), batch_bytes(&shared));
        assert!(pinned > own + own / 4, "{pinned} bytes for {own}");
        operator.process(0, shared, &mut out).expect("taken in");
    }
    let mut step = operator.finish(0, &mut out).expect("sealing has begun");
    let other = pool.account("other");
    while matches!(step, Step::MoreOutput) {
        let _all = other.try_reserve(other.room()).expect("all that floats");
        step = operator.resume(&mut out).expect("sealing goes on");
    }
    assert_eq!(pool.overruns(), 0);
    assert_within_limit([&pool]);
}
