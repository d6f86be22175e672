use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringViewArray};
use arrow::datatypes::{DataType, Schema};

use super::*;
use crate::LocalCluster;
use crate::functions::{avg, count, max, min, sum, upper};
use crate::prelude::{col, count_rows, lit};

fn cluster() -> LocalCluster {
    LocalCluster::builder().workers(1).memory_limit("64MiB").progress(false).start().expect("a small cluster")
}

fn sales(cluster: &LocalCluster) -> Frame {
    let batch = RecordBatch::try_from_iter_with_nullable([
        ("id", Arc::new(Int64Array::from(vec![0, 1, 2])) as ArrayRef, false),
        ("category", Arc::new(StringViewArray::from(vec!["a", "b", "a"])) as ArrayRef, true),
        ("value", Arc::new(Float64Array::from(vec![1.0, 2.0, 3.0])) as ArrayRef, true),
        ("Value", Arc::new(Int64Array::from(vec![10, 20, 30])) as ArrayRef, true),
    ]);
    let batch = batch.expect("columns of one length");
    cluster.from_batches(batch.schema(), vec![batch]).expect("a frame")
}

fn names(frame: &Frame) -> Vec<String> {
    names_of(&frame.schema().expect("a good frame"))
}

fn names_of(schema: &Schema) -> Vec<String> {
    schema.fields().iter().map(|field| field.name().clone()).collect()
}

fn error(frame: &Frame) -> String {
    frame.schema().expect_err("a wrong step").to_string()
}

#[test]
fn names_are_taken_as_they_are() {
    let cluster = cluster();
    let frame = sales(&cluster);
    let both = frame.select(["value", "Value"]).schema().expect("two columns");
    assert_eq!(both.field(0).data_type(), &DataType::Float64);
    assert_eq!(both.field(1).data_type(), &DataType::Int64);
    let dotted = frame.with_column("Price.EUR", col("Value") * lit(2)).filter(col("Price.EUR").gt(lit(3)));
    assert_eq!(names(&dotted), ["id", "category", "value", "Value", "Price.EUR"]);
    dotted.optimized().expect("a plan");
}

#[test]
fn columns_are_replaced_renamed_and_dropped_in_place() {
    let cluster = cluster();
    let frame = sales(&cluster);
    let changed = frame.with_column("category", upper(col("category"))).rename("id", "row").drop_columns(["Value"]);
    assert_eq!(names(&changed), ["row", "category", "value"]);
}

#[test]
fn a_wrong_step_is_named_by_whatever_runs_the_frame() {
    let cluster = cluster();
    let frame = sales(&cluster);
    let wrong = frame.filter(col("valu").gt(lit(1))).group_by("category").mean("value").limit(3);
    let text = error(&wrong);
    assert!(text.starts_with("filter: ") && text.contains("valu") && text.contains("category"), "{text}");
    assert_eq!(wrong.compute().expect_err("the same error").to_string(), text);
    for (frame, step) in [
        (frame.rename("none", "x"), "rename"),
        (frame.drop_columns(["none"]), "drop_columns"),
        (frame.select("none"), "select"),
        (frame.with_column("x", col("none")), "with_column"),
        (frame.group_by("none").sum("value"), "sum"),
        (frame.filter(col("id") + lit(1)), "filter"),
    ] {
        assert!(error(&frame).starts_with(&format!("{step}: ")), "{}", error(&frame));
    }
}

#[test]
fn the_short_forms_of_group_by_keep_the_names_of_columns() {
    let cluster = cluster();
    let frame = sales(&cluster);
    let by = frame.group_by(["category"]);
    for short in [by.mean("value"), by.sum("value"), by.min("value"), by.max("value"), by.count("value")] {
        assert_eq!(names(&short), ["category", "value"]);
        short.filter(col("value").gt(lit(500))).optimized().expect("a plan");
    }
    assert_eq!(names(&by.mean(["value", "Value"])), ["category", "value", "Value"]);
    assert_eq!(names(&by.size()), ["category", "count"]);
    assert_eq!(by.mean("Value").schema().expect("a mean").field(1).data_type(), &DataType::Float64);
}

#[test]
fn aggregates_are_called_as_they_were_written() {
    let cluster = cluster();
    let frame = sales(&cluster);
    let aggregates = frame.group_by("category").agg([avg(col("value")), max(col("Value")).alias("most")]);
    assert_eq!(names(&aggregates), ["category", "avg(value)", "most"]);
    assert_eq!(names(&frame.aggregate([count(col("value")), count_rows()])), ["count(value)", "count"]);
}

#[test]
fn an_aggregate_may_be_part_of_an_expression() {
    let cluster = cluster();
    let frame = sales(&cluster);
    let range = (max(col("value")) - min(col("value"))).alias("range");
    let computed = frame.group_by("category").agg([range, sum(col("value")) / count(col("value"))]);
    assert_eq!(names(&computed), ["category", "range", "sum(value) / count(value)"]);
    computed.optimized().expect("a plan");
}

#[test]
fn an_aggregate_of_a_single_row_is_refused_with_advice() {
    let cluster = cluster();
    let frame = sales(&cluster);
    for wrong in [frame.filter(sum(col("value")).gt(lit(1))), frame.with_column("mean", avg(col("value")))] {
        assert!(error(&wrong).contains("group_by"), "{}", error(&wrong));
    }
    assert!(error(&frame.aggregate(col("value"))).contains("not an aggregate"));
}

#[test]
fn a_frame_has_no_two_columns_of_one_name() {
    let cluster = cluster();
    let frame = sales(&cluster);
    assert!(error(&frame.rename("id", "value")).contains("value"));
    assert!(error(&frame.group_by("value").mean("value")).contains("value"));
}

#[test]
fn a_union_finds_columns_by_name() {
    let cluster = cluster();
    let frame = sales(&cluster);
    let other = frame.select(["Value", "value", "category", "id"]);
    assert_eq!(names(&frame.union(&other)), names(&frame));
    assert!(error(&frame.union(&frame.drop_columns(["id"]))).contains("`id`"));
    assert!(error(&frame.drop_columns(["id"]).union(&frame)).contains("`id`"));
    frame.union(&other).optimized().expect("a plan");
}

#[test]
fn only_the_columns_that_are_needed_are_read() {
    let cluster = cluster();
    let means = sales(&cluster).group_by("category").mean("value").filter(col("value").gt(lit(500)));
    let plan = means.optimized().expect("a plan").display_indent().to_string();
    assert!(plan.contains("projection=[category, value]"), "{plan}");
    let first = sales(&cluster).filter(col("id").gt(lit(0))).select("category").filter(col("category").eq(lit("a")));
    let plan = first.optimized().expect("a plan").display_indent().to_string();
    assert!(plan.contains("projection=[id, category]"), "{plan}");
    assert_eq!(plan.matches("Filter").count(), 1, "{plan}");
}

#[test]
fn two_reads_of_the_same_table_are_two_tables() {
    let cluster = cluster();
    let (one, other) = (sales(&cluster), sales(&cluster));
    let plan = one.union(&other).optimized().expect("a plan").display_indent().to_string();
    assert!(plan.contains("TableScan: batches\n") || plan.contains("TableScan: batches "), "{plan}");
    assert!(plan.contains("batches#2"), "{plan}");
}
