//! Forks whose branches meet at a node that leaves a port unread: they spool, and never hang (C4).

use std::sync::Arc;

use aqueduct_runtime::metrics::JobMetrics;
use aqueduct_runtime::testing::{BuildThenProbe, NumbersSource, eventually};
use aqueduct_runtime::{Cluster, ExecutionError, Graph, Partitions, PlanError, ResultId};
use arrow::array::{ArrayRef, AsArray, FixedSizeBinaryArray, Int64Array};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;

use crate::{MIB, assert_clean, cluster, values, within_a_minute};

/// Bytes of a row of [`wide`].
const ROW_BYTES: usize = 8 + 1000;

fn wide_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("n", DataType::Int64, false),
        Field::new("ballast", DataType::FixedSizeBinary(1000), false),
    ]))
}

/// Numbers with a kilobyte beside each.
fn wide(graph: &mut Graph, rows: u64) -> aqueduct_runtime::NodeId {
    // A row of the source has 8 bytes: small splits keep the widened batches small.
    let source = graph.source("numbers", NumbersSource::new(rows).split_rows(60));
    let schema = wide_schema();
    graph.map_to("wide", Arc::clone(&schema), source, move |batch| {
        let ballast = FixedSizeBinaryArray::try_from_iter(
            batch.column(0).as_primitive::<Int64Type>().values().iter().map(|n| [(n % 251) as u8; 1000]),
        )?;
        let columns = vec![ArrayRef::clone(batch.column(0)), Arc::new(ballast)];
        Ok(RecordBatch::try_new(Arc::clone(&schema), columns)?)
    })
}

fn diamond(rows: u64) -> (Graph, ResultId) {
    let mut graph = Graph::new();
    let source = wide(&mut graph, rows);
    let joined = graph.operator_with("join", BuildThenProbe, [source.hash(["n"]), source.hash(["n"])]);
    let total = graph.result("total", joined);
    (graph, total)
}

fn run(cluster: &Cluster, graph: &Graph, result: ResultId, rows: i64) -> JobMetrics {
    let mut job = cluster.run(graph).expect("it starts");
    let stream = job.take_result(result).expect("the result");
    let mut totals = [0; 4];
    for batch in stream {
        let batch = batch.expect("no error");
        for (total, column) in totals.iter_mut().zip(batch.columns()) {
            *total += column.as_primitive::<Int64Type>().values().iter().sum::<i64>();
        }
    }
    let sum = rows * (rows - 1) / 2;
    assert_eq!(totals, [rows, sum, rows, sum]);
    job.wait().expect("it ends well").metrics
}

fn spooled(metrics: &JobMetrics) -> u64 {
    metrics.edges.iter().map(|edge| edge.spooled_bytes).sum()
}

#[test]
fn a_diamond_of_twenty_times_the_limit_spools_and_ends_right() {
    within_a_minute(|| {
        for workers in [1, 2] {
            let limit = 8 * MIB;
            let cluster = cluster(workers, limit);
            let rows = (20 * workers * limit).div_ceil(ROW_BYTES) as i64;
            let (graph, result) = diamond(rows as u64);
            let metrics = run(&cluster, &graph, result, rows);
            assert!(spooled(&metrics) > 0, "nothing was spooled");
            assert_clean(&cluster);
        }
    });
}

#[test]
fn a_diamond_with_a_generous_limit_writes_nothing_to_disk() {
    within_a_minute(|| {
        let cluster = cluster(2, 512 * MIB);
        let (graph, result) = diamond(20_000);
        let metrics = run(&cluster, &graph, result, 20_000);
        assert_eq!(spooled(&metrics), 0);
        assert_eq!(metrics.workers.iter().map(|worker| worker.spilled_bytes).sum::<u64>(), 0);
        assert_clean(&cluster);
    });
}

/// Rows that all but a few go to one partition, merged in the order of partitions.
fn skewed_merge(rows: u64, hot: i64) -> (Graph, ResultId) {
    let mut graph = Graph::new();
    let source = wide(&mut graph, rows);
    let schema = wide_schema();
    let skewed = graph.map_to("skew", Arc::clone(&schema), source, move |batch| {
        let n = batch.column(0).as_primitive::<Int64Type>();
        let skewed: Int64Array = n.unary(|n| if n % 10 == 0 { n } else { hot });
        Ok(RecordBatch::try_new(Arc::clone(&schema), vec![Arc::new(skewed), ArrayRef::clone(batch.column(1))])?)
    });
    let spread = graph.map("spread", skewed.hash(["n"]), Ok);
    graph.set_partitions(spread, Partitions::Fixed(4));
    let result = graph.result("merged", spread.gather_in_order());
    (graph, result)
}

#[test]
fn a_skewed_exchange_into_an_ordered_merge_ends_right() {
    within_a_minute(|| {
        let limit = 8 * MIB;
        let cluster = cluster(2, limit);
        let rows = (2 * 2 * limit).div_ceil(ROW_BYTES) as i64;
        let mut bytes = 0;
        // Where the hot key's partition is the first to be merged, the others wait in little memory.
        for hot in [1, 2, 3, 4, 5] {
            let (graph, result) = skewed_merge(rows as u64, hot);
            let mut job = cluster.run(&graph).expect("it starts");
            let stream = job.take_result(result).expect("the result");
            let mut all = values(stream).expect("it ends well");
            assert_eq!(all.len(), rows as usize);
            assert_eq!(all.iter().filter(|n| **n == hot).count() as i64, rows - (rows + 9) / 10);
            all.sort_unstable();
            all.dedup();
            assert_eq!(all.len() as i64, (rows + 9) / 10 + 1);
            bytes += spooled(&job.wait().expect("it ends well").metrics);
        }
        assert!(bytes > 0, "nothing was spooled");
        assert_clean(&cluster);
    });
}

#[test]
fn without_its_hazard_mark_the_watchdog_names_the_cycle_and_the_diamond_still_ends() {
    within_a_minute(|| {
        let cluster = cluster(1, 8 * MIB);
        let rows = 20_000;
        let (graph, result) = diamond(rows);
        let plan = cluster.plan(&graph).expect("it plans").without_hazard_marks();
        let mut job = cluster.run_plan(plan).expect("it starts");
        let monitor = job.monitor();
        let stream = job.take_result(result).expect("the result");
        let totals: Vec<_> = stream.map(|batch| batch.expect("no error")).collect();
        let seen: i64 =
            totals.iter().map(|b| b.column(2).as_primitive::<Int64Type>().values().iter().sum::<i64>()).sum();
        assert_eq!(seen, rows as i64);
        let metrics = job.wait().expect("it ends well").metrics;
        assert!(spooled(&metrics) > 0);
        let cycle = monitor.metrics().deadlocks;
        assert!(!cycle.is_empty() && cycle[0].contains("join") && cycle[0].contains("waits for room"), "{cycle:?}");
        assert_clean(&cluster);
    });
}

#[test]
fn two_results_of_one_source_may_be_read_one_after_the_other() {
    within_a_minute(|| {
        let cluster = cluster(2, 8 * MIB);
        let mut graph = Graph::new();
        let source = wide(&mut graph, 40_000);
        let first = graph.result("first", source);
        let second = graph.result("second", source);
        let mut job = cluster.run(&graph).expect("it starts");
        let (first, second) = (job.take_result(first).expect("one"), job.take_result(second).expect("two"));
        assert_eq!(values(first).expect("it ends well").len(), 40_000);
        assert_eq!(values(second).expect("it ends well").len(), 40_000);
        job.wait().expect("it ends well");
        assert_clean(&cluster);
    });
}

#[test]
fn results_that_spool_stay_within_the_smallest_limit() {
    within_a_minute(|| {
        let mut graph = Graph::new();
        let source = wide(&mut graph, 8_000);
        let first = graph.result("first", source);
        let second = graph.result("second", source);
        let PlanError::LimitTooSmall { needed_bytes, .. } = cluster(1, MIB).plan(&graph).expect_err("it is too small")
        else {
            panic!("it must be refused for its limit");
        };
        let cluster = cluster(1, needed_bytes);
        let mut job = cluster.run(&graph).expect("it starts");
        let (first, second) = (job.take_result(first).expect("one"), job.take_result(second).expect("two"));
        assert_eq!(values(first).expect("it ends well").len(), 8_000);
        assert_eq!(values(second).expect("it ends well").len(), 8_000);
        assert!(spooled(&job.wait().expect("it ends well").metrics) > 0);
        assert_clean(&cluster);
    });
}

#[test]
fn a_full_spill_limit_ends_a_spooling_job_with_its_own_error() {
    within_a_minute(|| {
        let cluster = crate::cluster_with(aqueduct_runtime::ClusterConfig {
            workers: 1,
            memory_limit_bytes: 8 * MIB,
            spill_limit_bytes: Some(4 * MIB as u64),
            ..Default::default()
        });
        let (graph, result) = diamond(60_000);
        let mut job = cluster.run(&graph).expect("it starts");
        let stream = job.take_result(result).expect("the result");
        let error = stream.filter_map(Result::err).next().expect("the disk is full");
        job.wait().expect_err("the disk is full");
        let ExecutionError::Operator { cause, .. } = &error else { panic!("{error}") };
        assert!(cause.to_string().contains("spill limit"), "{error}");
        eventually("it is clean", || cluster.memory()[0].charged() == 0);
        assert_clean(&cluster);
    });
}
