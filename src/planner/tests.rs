use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringViewArray};
use datafusion_expr::LogicalPlanBuilder;

use super::*;
use crate::functions::{count_distinct, median, sum};
use crate::prelude::{col, count_rows, lit};
use crate::{Frame, JoinType, LocalCluster, Over};

fn cluster() -> LocalCluster {
    LocalCluster::builder().workers(2).memory_limit("64MiB").progress(false).start().expect("a small cluster")
}

fn sales(cluster: &LocalCluster) -> Frame {
    let batch = |start: i64| {
        let categories = StringViewArray::from(vec!["a", "b", "a"]);
        RecordBatch::try_from_iter([
            ("id", Arc::new(Int64Array::from_iter_values(start..start + 3)) as ArrayRef),
            ("category", Arc::new(categories) as ArrayRef),
            ("value", Arc::new(Float64Array::from(vec![1.0, 2.0, 3.0])) as ArrayRef),
        ])
        .expect("columns of one length")
    };
    cluster.from_batches(batch(0).schema(), (0..10).map(|index| batch(3 * index)).collect()).expect("a frame")
}

/// The lines of the actor graph: stages, the nodes in them, the edges out of them.
fn lines(frame: &Frame) -> Vec<String> {
    let planned = frame.planned().expect("a plan");
    let plan = crate::run::plan(frame, &planned.graph).expect("a graph").to_string();
    plan.lines().skip_while(|line| !line.starts_with("stage")).map(|line| line.trim().to_string()).collect()
}

fn starts_with(lines: &[String], expected: &[&str]) {
    assert_eq!(lines.len(), expected.len(), "{lines:#?}");
    for (line, expected) in lines.iter().zip(expected) {
        assert!(line.starts_with(expected), "`{line}` is not `{expected}`: {lines:#?}");
    }
}

fn refusal(plan: LogicalPlan) -> String {
    let plan = optimize::optimize(plan).expect("a good query");
    let settings = Settings { workers: 2, threads_per_worker: 1, memory_limit_bytes: 64 << 20 };
    match to_result(&plan, settings).expect_err("no operator yet") {
        Error::Unsupported { what } => what,
        other => panic!("{other}"),
    }
}

#[test]
fn row_wise_steps_fuse_with_their_scan_and_stay_in_order() {
    let cluster = cluster();
    let frame = sales(&cluster).filter(col("id").gt(lit(3))).with_column("twice", col("value") * lit(2.0));
    starts_with(
        &lines(&frame),
        &["stage 0, 2 tasks", "batches (memory)", "filter: id@0 > 3", "project: id", "=> gather in order to result"],
    );
}

#[test]
fn a_group_by_reduces_rows_before_it_sends_them() {
    let cluster = cluster();
    let frame = sales(&cluster).group_by("category").mean("value").filter(col("value").gt(lit(500.0)));
    starts_with(
        &lines(&frame),
        &[
            "stage 0, 2 tasks",
            "batches (memory)",
            "partial aggregate",
            "=> hash(category) to stage 1",
            "stage 1, ",
            "final aggregate",
            "filter: value@1 > 500",
            "=> gather to result",
        ],
    );
}

#[test]
fn an_aggregate_of_all_rows_is_gathered() {
    let cluster = cluster();
    let lines = lines(&sales(&cluster).aggregate([sum(col("value")), count_rows()]));
    assert!(lines.iter().any(|line| line.starts_with("=> gather to stage 1")), "{lines:#?}");
    assert!(lines.contains(&"stage 1, 1 task".to_string()), "{lines:#?}");
}

#[test]
fn a_distinct_aggregate_alone_becomes_two_group_bys() {
    let cluster = cluster();
    let distinct = [count_distinct(col("id")), sum(col("value"))];
    let lines = lines(&sales(&cluster).group_by("category").agg(distinct));
    assert_eq!(lines.iter().filter(|line| line.starts_with("partial aggregate")).count(), 2, "{lines:#?}");
}

#[test]
fn aggregates_that_need_all_values_of_a_group_are_computed_of_sorted_rows() {
    let cluster = cluster();
    for aggregates in [vec![median(col("id"))], vec![count_distinct(col("id")), count_rows()]] {
        let lines = lines(&sales(&cluster).group_by("category").agg(aggregates));
        let of = |start: &str| lines.iter().any(|line| line.starts_with(start));
        assert!(of("aggregate arguments") && of("sorted aggregate"), "{lines:#?}");
        assert!(of("=> hash(category)") && !of("partial aggregate"), "{lines:#?}");
    }
}

#[test]
fn a_limit_below_a_filter_stops_every_partition_and_then_the_whole() {
    let cluster = cluster();
    let frame = sales(&cluster).filter(col("id").gt(lit(3))).limit(7);
    starts_with(
        &lines(&frame),
        &[
            "stage 0, 2 tasks",
            "batches (memory)",
            "filter",
            "limit (partial) (limit): 7 rows",
            "=> gather in order to stage 1",
            "stage 1, 1 task",
            "limit: 7 rows",
            "=> gather to result",
        ],
    );
}

#[test]
fn the_first_rows_of_a_table_are_read_by_one_partition() {
    let cluster = cluster();
    starts_with(
        &lines(&sales(&cluster).select(["id"]).limit(5)),
        &["stage 0, 1 task", "batches (memory)", "limit: 5 rows", "=> gather to result"],
    );
}

#[test]
fn a_union_takes_its_inputs_in_turn_however_many() {
    let cluster = cluster();
    let frame = sales(&cluster);
    let two = lines(&frame.union(&frame.filter(col("id").gt(lit(1)))));
    assert_eq!(two.iter().filter(|line| line.starts_with("=> round-robin")).count(), 2, "{two:#?}");
    let many = (0..70).fold(frame.clone(), |all, _| all.union(&frame));
    assert_eq!(lines(&many).iter().filter(|line| line.starts_with("union")).count(), 3);
}

#[test]
fn rows_that_are_only_counted_are_told_apart_by_one_column() {
    let cluster = cluster();
    let counted = sales(&cluster).aggregate(count_rows());
    assert!(counted.optimized().expect("a plan").display_indent().to_string().contains("projection=[]"));
    lines(&counted);
    lines(&sales(&cluster).union(&sales(&cluster)).aggregate(count_rows()));
}

#[test]
fn constants_and_nothing_are_tables_too() {
    let cluster = cluster();
    let values = LogicalPlanBuilder::values(vec![vec![lit(1), lit("x")], vec![lit(2) + lit(3), lit("y")]]);
    let values = values.and_then(LogicalPlanBuilder::build).expect("two rows");
    assert!(lines(&cluster.frame(values))[1].starts_with("values (memory): 2 rows"));
    let nothing = sales(&cluster).filter(lit(false));
    assert!(lines(&nothing)[1].starts_with("empty (memory): 0 rows"));
    let one_row = LogicalPlanBuilder::empty(true).project([lit(7).alias("seven")]);
    let one_row = one_row.and_then(LogicalPlanBuilder::build).expect("one row");
    assert!(lines(&cluster.frame(one_row))[1].starts_with("empty (memory): 1 rows"));
}

#[test]
fn what_has_no_operator_yet_is_named() {
    let cluster = cluster();
    let frame = sales(&cluster);
    let plan = || LogicalPlanBuilder::from(frame.logical_plan().expect("a plan"));
    let built = |builder: datafusion_common::Result<LogicalPlanBuilder>| {
        builder.and_then(LogicalPlanBuilder::build).expect("a good query")
    };
    assert!(refusal(built(plan().explain(false, true))).starts_with("EXPLAIN"));
}

#[test]
fn the_error_for_a_missing_operator_reads_like_a_sentence() {
    assert_eq!(Error::unsupported("sort (ORDER BY)").to_string(), "sort (ORDER BY) is not supported yet");
}

#[test]
fn small_sides_go_to_everybody_and_large_ones_to_the_partition_of_their_keys() {
    let cluster = cluster();
    let rows =
        |name: &str, rows| cluster.from_source(name, aqueduct_operators::range("n", Some(rows))).expect("a source");
    let many = rows("many", 1_000_000);
    let batch = RecordBatch::try_from_iter([("n", Arc::new(Int64Array::from(vec![1, 2, 3])) as ArrayRef)]);
    let batch = batch.expect("one column");
    let few = cluster.from_batches(batch.schema(), vec![batch]).expect("a frame");
    let edges = |frame: &Frame| {
        let lines = lines(frame);
        let edges =
            lines.iter().filter_map(|line| line.strip_prefix("=> ")).filter_map(|edge| edge.split(" to ").next());
        let mut edges: Vec<String> = edges.filter(|edge| *edge != "forward").map(String::from).collect();
        edges.sort();
        edges
    };
    assert_eq!(edges(&many.join(&few, "n", JoinType::Inner)), ["broadcast", "gather"]);
    assert_eq!(edges(&few.join(&many, "n", JoinType::Inner)), ["broadcast", "gather"]);
    assert_eq!(edges(&many.join(&few, "n", JoinType::Left)), ["broadcast", "gather"]);
    // Rows of the small side that match nowhere are to be told once.
    assert_eq!(edges(&many.join(&few, "n", JoinType::Right)), ["gather", "hash(n)", "hash(n)"]);
    assert_eq!(edges(&many.join(&rows("others", 1_000_000), "n", JoinType::Inner)), ["gather", "hash(n)", "hash(n)"]);
}

#[test]
fn what_is_used_twice_is_computed_once() {
    let cluster = cluster();
    cluster.register_table("sales", &sales(&cluster)).expect("a table");
    let query = "with t as (select category, sum(value) as total from sales group by category) \
                 select a.category, b.total from t a join t b on a.category = b.category and a.total <= b.total";
    let lines = lines(&cluster.sql(query).expect("a query"));
    assert_eq!(lines.iter().filter(|line| line.starts_with("batches")).count(), 1, "{lines:#?}");
    assert_eq!(lines.iter().filter(|line| line.starts_with("final aggregate")).count(), 1, "{lines:#?}");
    // Two draws are two draws.
    let drawn = "with t as (select id from sales where random() < 0.1) select a.id from t a join t b on a.id = b.id";
    let drawn = self::lines(&cluster.sql(drawn).expect("a query"));
    assert_eq!(drawn.iter().filter(|line| line.starts_with("batches")).count(), 2, "{drawn:#?}");
}

#[test]
fn an_order_is_one_of_each_partition_and_then_of_all() {
    let cluster = cluster();
    starts_with(
        &lines(&sales(&cluster).sort(crate::desc("value")).limit(3)),
        &[
            "stage 0, 2 tasks",
            "batches (memory)",
            "sort: value desc nulls last, first 3 rows",
            "=> lanes to stage 1",
            "stage 1, 1 task",
            "merge: value desc nulls last, first 3 rows",
            "=> gather to result",
        ],
    );
}

#[test]
fn a_scan_is_filtered_by_the_join_that_drops_what_it_does_not_match() {
    let cluster = cluster();
    let rows =
        |name: &str, rows| cluster.from_source(name, aqueduct_operators::range("n", Some(rows))).expect("a source");
    let filtered = |frame: &Frame| lines(frame).iter().any(|line| line.starts_with("runtime filter"));
    let (many, few) = (rows("many", 1_000_000), rows("few", 1000).filter(crate::col("n").gt(datafusion_expr::lit(3))));
    assert!(filtered(&many.join(&few, "n", JoinType::Inner)));
    assert!(filtered(&few.join(&many, "n", JoinType::Left)));
    assert!(!filtered(&many.join(&few, "n", JoinType::Left)));
    assert!(filtered(&many.join(&rows("others", 1_000_000), "n", JoinType::Left).join(&few, "n", JoinType::Inner)));
}

/// Numbers `n`, and `k`, which each of them has 10 of.
fn many(cluster: &LocalCluster, rows: i64) -> Frame {
    let numbers = Int64Array::from_iter_values(0..rows);
    let keys = Int64Array::from_iter_values((0..rows).map(|n| n / 10));
    let columns = [("n", Arc::new(numbers) as ArrayRef), ("k", Arc::new(keys) as ArrayRef)];
    let batch = RecordBatch::try_from_iter(columns).expect("two columns");
    cluster.from_batches(batch.schema(), (0..4).map(|_| batch.clone()).collect()).expect("a frame")
}

/// The keys of the exchanges by hash.
fn exchanges(frame: &Frame) -> Vec<String> {
    let lines = lines(frame);
    let keys = lines.iter().filter_map(|line| line.strip_prefix("=> hash(")?.split_once(')'));
    keys.map(|(keys, _)| keys.to_string()).collect()
}

#[test]
fn rows_that_are_spread_by_their_keys_stay_where_they_are() {
    let cluster = cluster();
    let (one, other) = (many(&cluster, 5000), many(&cluster, 5000).rename("k", "j"));
    let joined = one.join(&other, "n", JoinType::Inner);
    assert_eq!(exchanges(&joined), ["n", "n"]);
    assert_eq!(exchanges(&joined.group_by("n").agg(count_rows())), ["n", "n"]);
    assert_eq!(exchanges(&joined.join(&one.rename("k", "i"), "n", JoinType::Left)), ["n", "n", "n"]);
    assert_eq!(exchanges(&joined.with_column("c", count_rows().over("n"))), ["n", "n"]);
    // Different enough to be all that is needed.
    assert_eq!(exchanges(&joined.group_by(["k", "n"]).agg(count_rows())), ["n", "n"]);
    let groups = one.group_by("n").agg(count_rows());
    assert_eq!(exchanges(&groups), ["n"]);
    assert_eq!(exchanges(&groups.join(&other.group_by("n").agg(count_rows()), "n", JoinType::Full)), ["n", "n"]);
    assert_eq!(exchanges(&groups.join(&other, "n", JoinType::Left)), ["n", "n"]);
    assert_eq!(exchanges(&one.repartition_by("n", 3).group_by("n").agg(count_rows())), ["n"]);
    assert_eq!(exchanges(&one.unique(["n", "k"]).rename("n", "m").unique(["k", "m"])), ["n, k"]);
}

#[test]
fn rows_that_are_spread_by_other_keys_or_have_lost_them_are_spread_anew() {
    let cluster = cluster();
    let (one, other) = (many(&cluster, 5000), many(&cluster, 5000).rename("k", "j"));
    let joined = one.join(&other, "n", JoinType::Inner);
    assert_eq!(exchanges(&joined.group_by("k").agg(count_rows())).len(), 3);
    assert_eq!(exchanges(&joined.group_by(col("n") % lit(2_i64)).agg(count_rows())).len(), 3);
    // Nulls of rows without a match are in every partition.
    let left = one.join_on(&other.rename("n", "m"), "n", "m", JoinType::Left);
    assert_eq!(exchanges(&left.group_by("m").agg(count_rows())).len(), 3);
    assert_eq!(exchanges(&left.group_by("n").agg(count_rows())).len(), 2);
    // A few keys leave most partitions without work.
    let few = sales(&cluster).join(&sales(&cluster).rename("value", "other"), ["id", "category"], JoinType::Inner);
    let few = few.group_by("category").agg(count_rows()).join(&sales(&cluster), "category", JoinType::Inner);
    assert!(exchanges(&few.group_by(["category", "id"]).agg(count_rows())).len() > exchanges(&few).len());
    let both = one.union(&many(&cluster, 5000)).group_by("n").agg(count_rows());
    assert_eq!(exchanges(&both.union(&both).group_by("n").agg(count_rows())).last().map(String::as_str), Some("n"));
    assert_eq!(
        exchanges(&one.repartition_by("n", 3).join(&other.repartition_by("n", 5), "n", JoinType::Inner)).len(),
        3
    );
}

#[test]
fn a_not_in_of_many_rows_is_hashed() {
    let cluster = cluster();
    for name in ["l", "r"] {
        let rows = cluster.from_source("numbers", aqueduct_operators::range("x", None)).expect("a source");
        cluster.register_table(name, &rows).expect("a table");
    }
    let frame = cluster.sql("select x from l where x not in (select nullif(x, 7) from r)").expect("a query");
    let lines = lines(&frame);
    let of = |start: &str| lines.iter().filter(|line| line.starts_with(start)).count();
    assert_eq!((of("=> hash("), of("=> broadcast"), of("hash join: leftanti")), (2, 1, 1), "{lines:#?}");
}

#[test]
fn the_first_rows_of_a_window_are_looked_for_before_the_rows_are_sent() {
    let cluster = cluster();
    let place = || crate::functions::row_number().over_sorted("category", crate::desc("value"));
    let ranked = || sales(&cluster).with_column("place", place());
    let first = ranked().filter(col("place").lt_eq(lit(2)));
    starts_with(
        &lines(&first),
        &[
            "stage 0, 2 tasks",
            "batches (memory)",
            "top per group: row_number <= 2 by category in order of value desc nulls last",
            "=> hash",
            "stage 1",
            "window",
            "filter",
            "project",
            "=> gather to result",
        ],
    );
    let has = |frame: &Frame| lines(frame).iter().any(|line| line.starts_with("top per group"));
    assert!(has(&first.select(["id"])));
    assert!(has(&ranked().filter(col("place").eq(lit(1)).and(col("value").gt(lit(1.0))))));
    assert!(has(&ranked().filter(lit(3).gt(col("place")))));
    // Others would miss rows, or all are wanted.
    assert!(!has(&ranked()));
    assert!(!has(&ranked().filter(col("place").gt(lit(2)))));
    assert!(!has(&ranked().filter(col("place").lt_eq(lit(2)).or(col("value").gt(lit(1.0))))));
    assert!(!has(&ranked().filter(col("place").lt_eq(lit(1000)))));
    let total = sum(col("value")).over_sorted("category", crate::desc("value"));
    assert!(!has(&ranked().with_column("total", total).filter(col("place").lt_eq(lit(2)))));
    let other = sum(col("value")).over("id");
    assert!(!has(&ranked().with_column("total", other).filter(col("place").lt_eq(lit(2)))));
}
