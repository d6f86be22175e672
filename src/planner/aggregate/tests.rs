//! Grouping sets, rollups and cubes, against what DuckDB says of the same rows.

use std::sync::{Arc, Weak};

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringViewArray};
use datafusion_expr::{LogicalPlanBuilder, cast, cube, grouping_set, rollup};
use datafusion_functions_aggregate::grouping::grouping_udaf;

use super::*;
use crate::functions::{count_distinct, median, sum};
use crate::prelude::{col, count_rows};
use crate::{Frame, LocalCluster};

const GOLDEN: &str = include_str!("../../../tests/golden/grouping_sets.csv");

fn cluster() -> LocalCluster {
    LocalCluster::builder().workers(2).memory_limit("32MiB").progress(false).start().expect("a small cluster")
}

/// The rows that the answers were made of, in batches of `batch_rows`.
fn rows(cluster: &LocalCluster, rows: i64, batch_rows: usize) -> Frame {
    let batch = |start: i64| {
        let each = || start..rows.min(start + batch_rows as i64);
        let columns: [(&str, ArrayRef, bool); 3] = [
            ("a", Arc::new(Int64Array::from_iter(each().map(|row| (row % 11 != 0).then_some(row % 3)))), true),
            ("b", Arc::new(StringViewArray::from_iter_values(each().map(|row| format!("b{}", row % 2)))), false),
            ("v", Arc::new(Int64Array::from_iter_values(each().map(|row| row * 7919 % 1000))), false),
        ];
        RecordBatch::try_from_iter_with_nullable(columns).expect("columns of one length")
    };
    let batches = (0..rows.max(1)).step_by(batch_rows).map(batch).collect();
    cluster.from_batches(batch(0).schema(), batches).expect("a frame")
}

/// The groups of `frame` by `sets`, as lines of text in order. `sorted`: with aggregates that need sorted rows.
fn lines(frame: &Frame, sets: Expr, sorted: bool) -> Vec<String> {
    let keys = vec![col("a"), col("b")];
    let mut aggregates =
        vec![grouping_udaf().call(keys).alias("left_out"), sum(col("v")).alias("s"), count_rows().alias("n")];
    if sorted {
        aggregates
            .extend([count_distinct(col("v") % datafusion_expr::lit(7i64)).alias("d"), median(col("v")).alias("m")]);
    }
    aggregates.push(sum(col("a")).alias("sa"));
    let mut names = vec!["a", "b", "left_out", "s", "n"];
    names.extend(if sorted { &["d", "m", "sa"][..] } else { &["sa"] });
    let plan = LogicalPlanBuilder::from(frame.logical_plan().expect("a plan"));
    let plan = plan.aggregate([sets], aggregates).and_then(|plan| plan.project(names.iter().map(|name| col(*name))));
    let plan = plan.and_then(LogicalPlanBuilder::build).expect("a good query");
    let table = Frame::new(Weak::clone(&frame.session), plan).compute().expect("runs");
    let columns: Vec<_> = names.iter().map(|name| table.strings(name).expect("texts")).collect();
    let line = |row: usize| {
        let texts = columns.iter().map(|column| column[row].clone().unwrap_or_default());
        texts.collect::<Vec<_>>().join(",")
    };
    let mut lines: Vec<_> = (0..table.num_rows()).map(line).collect();
    lines.sort();
    lines
}

/// The lines of the golden file for `sets`.
fn golden(sets: &str, sorted: bool) -> Vec<String> {
    let lines = GOLDEN.lines().skip(1).filter_map(|line| line.strip_prefix(sets)?.strip_prefix(','));
    let fitting = lines.map(|line| {
        let fields: Vec<_> = line.split(',').collect();
        if sorted { line.to_string() } else { [&fields[..5], &fields[7..]].concat().join(",") }
    });
    let mut lines: Vec<_> = fitting.collect();
    lines.sort();
    lines
}

fn sets() -> [(&'static str, Expr); 3] {
    let (a, b) = (|| col("a"), || col("b"));
    [
        ("rollup", rollup(vec![a(), b()])),
        ("cube", cube(vec![a(), b()])),
        ("sets", grouping_set(vec![vec![a()], vec![b()], vec![a()], vec![]])),
    ]
}

#[test]
fn grouping_sets_are_those_of_duckdb() {
    let cluster = cluster();
    for batch_rows in [1000, 37] {
        let frame = rows(&cluster, 1000, batch_rows);
        for (name, sets) in sets() {
            for sorted in [false, true] {
                assert_eq!(lines(&frame, sets.clone(), sorted), golden(name, sorted), "{name}, sorted {sorted}");
            }
        }
    }
}

#[test]
fn an_empty_set_has_a_group_where_there_are_no_rows_and_no_other_has() {
    let cluster = cluster();
    let frame = rows(&cluster, 0, 10);
    for sorted in [false, true] {
        let none = if sorted { ",,3,,0,0,," } else { ",,3,,0," };
        for (name, sets) in sets() {
            assert_eq!(lines(&frame, sets, sorted), [none], "{name}");
        }
        let twice = grouping_set(vec![vec![], vec![col("a"), col("b")], vec![]]);
        assert_eq!(lines(&frame, twice, sorted), [none, none]);
        let never = grouping_set(vec![vec![col("a")], vec![col("b")]]);
        assert_eq!(lines(&frame, never, sorted), Vec::<String>::new());
    }
}

#[test]
fn one_row_is_one_group_of_each_set() {
    let cluster = cluster();
    let frame = rows(&cluster, 1, 10);
    assert_eq!(
        lines(&frame, cube(vec![col("a"), col("b")]), false),
        [",,1,0,1,", ",,3,0,1,", ",b0,0,0,1,", ",b0,2,0,1,"]
    );
}

#[test]
fn keys_may_be_computed_and_aggregated_too() {
    let cluster = cluster();
    let frame = rows(&cluster, 1000, 100);
    let key = cast(col("v"), DataType::Int64) % datafusion_expr::lit(2i64);
    let plan = LogicalPlanBuilder::from(frame.logical_plan().expect("a plan"));
    let plan = plan.aggregate([rollup(vec![key.alias("k")])], [sum(col("v")).alias("s")]);
    let plan = plan.and_then(LogicalPlanBuilder::build).expect("a good query");
    let table = Frame::new(Weak::clone(&frame.session), plan).compute().expect("runs");
    let mut sums = table.i64s("s").expect("sums");
    sums.sort();
    // The even, the odd, all numbers below 1,000.
    assert_eq!(sums, [Some(249_500), Some(250_000), Some(499_500)]);
}

#[test]
fn a_cube_of_too_many_keys_is_refused_by_name() {
    let cluster = cluster();
    let frame = rows(&cluster, 10, 10);
    let keys = (0..13).map(|number| col("v") + datafusion_expr::lit(i64::from(number))).collect();
    let plan = LogicalPlanBuilder::from(frame.logical_plan().expect("a plan"));
    let plan = plan.aggregate([cube(keys)], [count_rows()]).and_then(LogicalPlanBuilder::build).expect("a good query");
    let error = Frame::new(Weak::clone(&frame.session), plan).compute().expect_err("4096 times each row");
    assert!(error.to_string().contains("cube"), "{error}");
}
