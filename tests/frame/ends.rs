//! Frames that end before their time: dropped, cancelled or failed in the middle of joins, sorts, windows and groups. Nothing
//! of them is left, and an error names the node it came up in.

use aqueduct::functions::{lag, row_number};
use aqueduct::runtime::testing::{assert_no_threads_left, eventually};

use super::kept::assert_clean;
use super::*;

const ROWS: u64 = 3_000_000;

fn small(workers: usize) -> LocalCluster {
    let builder = LocalCluster::builder().workers(workers).memory_limit("24MB").progress(false);
    builder.start().expect("a small cluster")
}

/// Rows (n, k, t): `k` in a mixed order, `t` a text.
fn mixed(cluster: &LocalCluster, rows: u64) -> Frame {
    let numbers = cluster.from_source("numbers", range("n", Some(rows))).expect("a source");
    let key = (col("n") * lit(7919_i64)) % lit(rows as i64);
    let text = concat(vec![lit("a text of some length, number "), cast(col("n"), DataType::Utf8)]);
    numbers.with_column("k", key).with_column("t", text)
}

/// What a frame is called, and the frame: each needs more memory than there is.
fn frames(cluster: &LocalCluster) -> Vec<(&'static str, Frame)> {
    let (one, other) = (mixed(cluster, ROWS), mixed(cluster, ROWS).rename("t", "u").select(["k", "u"]));
    vec![
        ("join", one.join(&other, "k", JoinType::Full)),
        ("sort", one.sort(["t", "k"])),
        ("window", one.with_column("before", lag(col("t"), Some(1), None).over_sorted(col("k") % lit(100_i64), "k"))),
        ("one window", one.with_column("place", row_number().over_sorted(Vec::<Expr>::new(), "t"))),
        ("group", one.group_by("t").agg([max(col("k"))])),
        ("join, then group, then sort", one.join(&other, "k", JoinType::Left).group_by("k").max("u").sort("u")),
    ]
}

fn spills(rows: &FrameStream) -> bool {
    rows.job().metrics().workers.iter().any(|worker| worker.spilled_bytes > 0)
}

#[test]
fn a_frame_that_is_dropped_while_it_spills_leaves_nothing() {
    timed(|| {
        for workers in [1, 2] {
            let cluster = small(workers);
            for (name, frame) in frames(&cluster) {
                let rows = frame.stream().expect("a job");
                eventually(&format!("{name} spills"), || spills(&rows));
                drop(rows);
                assert_clean(&cluster);
            }
        }
    });
    assert_no_threads_left();
}

#[test]
fn a_frame_that_is_cancelled_while_it_spills_says_so_and_leaves_nothing() {
    timed(|| {
        let cluster = small(2);
        for (name, frame) in frames(&cluster) {
            let mut rows = frame.stream().expect("a job");
            eventually(&format!("{name} spills"), || spills(&rows));
            rows.job().cancel();
            let end = rows.find_map(Result::err);
            assert!(matches!(end, Some(Error::Execution(ExecutionError::Cancelled))), "{name}: {end:?}");
            drop(rows);
            assert_clean(&cluster);
        }
    });
    assert_no_threads_left();
}

#[test]
fn a_frame_that_is_dropped_in_the_middle_of_its_rows_leaves_nothing() {
    timed(|| {
        let cluster = small(2);
        let one = mixed(&cluster, 300_000);
        let other = mixed(&cluster, 300_000).rename("t", "u").select(["k", "u"]);
        let frames = [
            one.join(&other, "k", JoinType::Inner),
            one.sort("t"),
            one.with_column("place", row_number().over_sorted("k", "n")),
        ];
        for frame in frames {
            let mut rows = frame.stream().expect("a job");
            let first = rows.next().expect("rows").expect("a batch");
            assert!(first.num_rows() > 0);
            drop((rows, first));
            assert_clean(&cluster);
        }
    });
    assert_no_threads_left();
}

#[test]
fn an_error_below_a_join_a_sort_or_a_window_names_its_node_and_value() {
    timed(|| {
        let cluster = cluster(2);
        let all = cluster.from_source("all", range("id", Some(1_000_000))).expect("a source");
        let text = cast(col("id"), DataType::Utf8);
        let text = when(col("id").eq(lit(900_000_i64)), lit("x900000")).otherwise(text).expect("a case");
        let values = all.with_column("v", cast(text, DataType::Int64));
        let numbers = cluster.from_source("numbers", range("id", Some(500_000))).expect("a source");
        let frames = [
            values.join(&numbers, "id", JoinType::Left).group_by("v").max("id"),
            values.join(&numbers, "id", JoinType::LeftAnti).sort(desc("v")),
            values.with_column("before", lag(col("v"), Some(1), None).over_sorted("id", "v")),
        ];
        for frame in frames {
            let error = frame.stream().expect("a job").find_map(Result::err).expect("a text is no number");
            let said = error.to_string();
            assert!(said.contains("x900000") && said.contains("`project"), "{said}");
            let Error::Execution(ExecutionError::Operator { at, .. }) = &error else { panic!("{error:?}") };
            assert!(at.node.starts_with("project"), "{at:?}");
            assert_clean(&cluster);
        }
    });
    assert_no_threads_left();
}
