//! As-of joins behind exchanges and sorts.

use std::sync::Arc;

use aqueduct_operators::{AsofDirection, AsofJoin, Sort};
use aqueduct_runtime::{OperatorSpec, Partitions};
use arrow::array::{ArrayRef, StringArray};
use arrow::record_batch::RecordBatch;
use datafusion_common::JoinType;

use crate::common::{Answer, Setting, golden, names, numbers, run_job, source};

use AsofDirection::{Backward, Forward};

type Numbers<'a> = &'a dyn Fn(i64) -> Option<i64>;

/// Keys, times and row numbers, and a long text if the rows are to take memory.
fn timed(columns: [&str; 3], rows: i64, key: Numbers<'_>, time: Numbers<'_>, is_long: bool) -> RecordBatch {
    let text = |i: i64| if is_long { format!("{i:030}") } else { String::new() };
    RecordBatch::try_from_iter_with_nullable([
        (columns[0], numbers((0..rows).map(key)), true),
        (columns[1], numbers((0..rows).map(time)), true),
        (columns[2], numbers((0..rows).map(Some)), true),
        ("text", Arc::new(StringArray::from_iter_values((0..rows).map(text))) as ArrayRef, true),
    ])
    .expect("columns of one length")
}

fn trades() -> RecordBatch {
    let key = |i| (i % 13 != 0).then_some(i * 7 % 61);
    let time = |i| (i % 17 != 0).then_some(i * [6101, 7919][i as usize % 2] % 20_011);
    timed(["k", "t", "n"], 2000, &key, &time, false)
}

fn quotes() -> RecordBatch {
    let key = |i| (i % 19 != 0).then_some(i * 7 % 61);
    timed(["j", "u", "m"], 3000, &key, &|i| (i % 23 != 0).then_some(i * 6101 % 20_011), false)
}

fn asof(left: &RecordBatch, right: &RecordBatch, keys: bool, direction: AsofDirection, how: JoinType) -> AsofJoin {
    let on = if keys { vec![(0, 0)] } else { vec![] };
    AsofJoin::try_new(left.schema(), right.schema(), on, (1, 1), direction, how).expect("fits")
}

fn run(spec: AsofJoin, left: &RecordBatch, right: &RecordBatch, keys: bool, setting: &Setting) -> Answer {
    let (left, right, partitions) = (left.clone(), right.clone(), setting.partitions);
    run_job(setting, move |graph| {
        let sides = [(0, "left", left), (1, "right", right)].map(|(port, name, batch)| {
            let rows = source(graph, name, &batch);
            let sort = Sort::try_new(batch.schema(), spec.order(port), None).expect("columns with an order");
            let input = if keys { rows.hash(names(&batch, [0])) } else { rows.gather() };
            let sorted = graph.operator("sort", sort, input);
            if keys {
                graph.set_partitions(sorted, Partitions::Fixed(partitions));
            }
            sorted.into()
        });
        graph.operator_with("as-of join", spec, sides)
    })
}

#[test]
fn as_of_joins_give_duckdb_s_answers_over_any_number_of_partitions() {
    let (golden, left, right) = (golden(), trades(), quotes());
    let cases = [
        ("asof last left", Backward, false, JoinType::Left, true),
        ("asof last inner", Backward, false, JoinType::Inner, true),
        ("asof before left", Backward, true, JoinType::Left, true),
        ("asof next left", Forward, false, JoinType::Left, true),
        ("asof next inner", Forward, false, JoinType::Inner, true),
        ("asof behind inner", Forward, true, JoinType::Inner, true),
        ("asof last without keys", Backward, false, JoinType::Left, false),
        ("asof behind without keys", Forward, true, JoinType::Inner, false),
    ];
    for (name, direction, strict, how, keys) in cases {
        for partitions in [1, 2, 8] {
            let join = asof(&left, &right, keys, direction, how);
            let join = if strict { join.strict() } else { join };
            let setting = Setting { workers: 2, memory_limit_bytes: 64 << 20, partitions };
            assert_eq!(run(join, &left, &right, keys, &setting), golden[name], "{name}, {partitions} partitions");
        }
    }
}

#[test]
fn sides_without_rows_and_with_one_row_are_joined() {
    let setting = Setting { workers: 2, memory_limit_bytes: 64 << 20, partitions: 8 };
    let (left, right) = (trades(), quotes());
    let (none, one) = (right.slice(0, 0), right.slice(1, 1));
    let outer =
        |right: &RecordBatch| run(asof(&left, right, true, Backward, JoinType::Left), &left, right, true, &setting);
    assert_eq!(outer(&none)[..3], [2000, 2000, 0]);
    assert_eq!(outer(&one)[..2], [2000, 2000]);
    let join = asof(&none, &right, true, Backward, JoinType::Left).with_output(vec![2, 6]);
    assert_eq!(run(join, &none, &right, true, &setting), [0; 6]);
}

/// Nine rows of ten have one key; a worker has room for a fifth of the rows of either side.
#[test]
fn a_hot_key_gives_duckdb_s_answer_in_little_memory() {
    let key = |i: i64| Some(if i % 10 == 0 { i % 1000 } else { 7 });
    let left = timed(["k", "t", "n"], 300_000, &key, &|i| Some(i * 7919 % 1_000_003), true);
    let right = timed(["j", "u", "m"], 300_000, &key, &|i| Some(i * 6101 % 1_000_003), true);
    for (partitions, memory_limit_bytes) in [(1, 8 << 20), (2, 8 << 20), (8, 20 << 20)] {
        let join = asof(&left, &right, true, Backward, JoinType::Left);
        assert!(join.min_memory(64 << 10) < 1 << 20);
        let setting = Setting { workers: 2, memory_limit_bytes, partitions };
        assert_eq!(run(join, &left, &right, true, &setting), golden()["asof hot"], "{partitions} partitions");
    }
}
