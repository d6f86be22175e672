//! Rows get from source to result, each exactly once, whatever is between.

use std::collections::BTreeMap;
use std::sync::Arc;

use aqueduct_runtime::metrics::JobState;
use aqueduct_runtime::testing::{CountingSink, EvenOdd, NumbersSource, number_schema, numbers};
use aqueduct_runtime::{Cluster, Exchange, ExecutionError, Graph, Input, NodeId, OperatorError, Partitions, PlanError};
use arrow::array::{ArrayRef, AsArray, Int64Array};
use arrow::datatypes::{DataType, Field, Int64Type, Schema};
use arrow::record_batch::RecordBatch;

use crate::{MIB, assert_clean, cluster, values, within_a_minute};

pub(crate) fn sum_of_numbers(cluster: &Cluster, rows: u64) -> i64 {
    let mut graph = Graph::new();
    let source = graph.source("numbers", NumbersSource::new(rows));
    let result = graph.result("all", source);
    let mut job = cluster.run(&graph).expect("it starts");
    let stream = job.take_result(result).expect("the result");
    let sum = values(stream).expect("it ends well").iter().sum();
    job.wait().expect("it ends well");
    sum
}

fn in_order(rows: u64, split_rows: u64, partitions: usize, workers: usize) {
    within_a_minute(move || {
        let cluster = cluster(workers, 64 * MIB);
        let mut graph = Graph::new();
        let source = graph.source("numbers", NumbersSource::new(rows).split_rows(split_rows));
        graph.set_partitions(source, Partitions::Fixed(partitions));
        let kept = graph.map("thirds", source, |batch| {
            let n = batch.column(0).as_primitive::<Int64Type>();
            let kept = Int64Array::from_iter_values(n.values().iter().copied().filter(|n| n % 3 == 0));
            Ok(RecordBatch::try_new(batch.schema(), vec![Arc::new(kept) as ArrayRef])?)
        });
        let result = graph.result("all", kept.gather_in_order());
        let mut job = cluster.run(&graph).expect("it starts");
        let stream = job.take_result(result).expect("the result");
        let expected: Vec<i64> = (0..rows as i64).filter(|n| n % 3 == 0).collect();
        assert_eq!(values(stream).expect("it ends well"), expected);
        job.wait().expect("it ends well");
        assert_clean(&cluster);
    });
}

#[test]
fn a_row_wise_job_keeps_source_order_over_any_number_of_partitions() {
    for partitions in [1, 2, 8] {
        in_order(100_000, 777, partitions, 2);
    }
}

#[test]
fn empty_input_and_one_row_arrive() {
    for rows in [0, 1] {
        in_order(rows, 10, 2, 2);
    }
}

fn through(exchange: impl Fn(NodeId) -> Input, partitions: Option<usize>, copies: i64) {
    let cluster = cluster(2, 64 * MIB);
    let mut graph = Graph::new();
    let source = graph.source("numbers", NumbersSource::new(50_000).split_rows(1000));
    let middle = graph.map("middle", exchange(source), Ok);
    if let Some(partitions) = partitions {
        graph.set_partitions(middle, Partitions::Fixed(partitions));
    }
    let result = graph.result("all", middle);
    let mut job = cluster.run(&graph).expect("it starts");
    let stream = job.take_result(result).expect("the result");
    let mut counts: BTreeMap<i64, i64> = BTreeMap::new();
    for value in values(stream).expect("it ends well") {
        *counts.entry(value).or_default() += 1;
    }
    assert_eq!(counts.len(), 50_000);
    assert!(counts.values().all(|count| *count == copies));
    let summary = job.wait().expect("it ends well");
    assert_eq!(summary.metrics.edges[0].rows, 50_000 * copies as u64);
    assert_clean(&cluster);
}

#[test]
fn every_exchange_delivers_each_row_to_where_it_belongs() {
    within_a_minute(|| {
        for partitions in [1, 2, 8] {
            through(|node| node.hash(["n"]), Some(partitions), 1);
            through(|node| node.round_robin(), Some(partitions), 1);
            through(|node| node.broadcast(), Some(partitions), partitions as i64);
        }
        through(|node| node.gather(), None, 1);
        through(Input::from, None, 1);
    });
}

#[test]
fn equal_keys_meet_in_one_partition() {
    within_a_minute(|| {
        let cluster = cluster(2, 64 * MIB);
        let schema = Arc::new(Schema::new(vec![Field::new("key", DataType::Int64, false)]));
        let mut graph = Graph::new();
        let source = graph.source("numbers", NumbersSource::new(40_000).split_rows(1000));
        let keyed = graph.map_to("key", Arc::clone(&schema), source, move |batch| {
            let n = batch.column(0).as_primitive::<Int64Type>();
            let keys: Int64Array = n.unary(|n| n % 100);
            Ok(RecordBatch::try_new(Arc::clone(&schema), vec![Arc::new(keys)])?)
        });
        let sink = CountingSink::new().keeping();
        let written = sink.written();
        graph.sink("keep", sink, keyed.hash(["key"]));
        cluster.run(&graph).expect("it starts").wait().expect("it ends well");
        assert_eq!(written.committed_rows(), 40_000);
        assert_eq!(written.commits(), 1);
        assert_eq!(written.closed(), 8);
        assert_clean(&cluster);
    });
}

#[test]
fn a_fork_and_several_outputs_feed_several_sinks() {
    within_a_minute(|| {
        let cluster = cluster(2, 64 * MIB);
        let mut graph = Graph::new();
        let source = graph.source("numbers", NumbersSource::new(30_000).split_rows(500));
        let split = graph.operator("even_odd", EvenOdd, source);
        let (all, even, odd) = (CountingSink::new(), CountingSink::new(), CountingSink::new());
        let written = [all.written(), even.written(), odd.written()];
        let both =
            graph.operator_with("both", aqueduct_runtime::testing::Concatenate, [split.output(0), split.output(1)]);
        graph.sink("all", all, both);
        graph.sink("even", even, split.output(0).gather());
        graph.sink("odd", odd, split.output(1).round_robin());
        cluster.run(&graph).expect("it starts").wait().expect("it ends well");
        assert_eq!(written.each_ref().map(|w| w.committed_rows()), [30_000, 15_000, 15_000]);
        assert_clean(&cluster);
    });
}

#[test]
fn a_result_that_is_dropped_early_stops_the_job_well() {
    within_a_minute(|| {
        let cluster = cluster(2, 64 * MIB);
        let mut graph = Graph::new();
        let endless = aqueduct_runtime::testing::EndlessSource::new();
        let source = graph.source("endless", endless);
        let mapped = graph.map("middle", source.round_robin(), Ok);
        let result = graph.result("all", mapped);
        let mut job = cluster.run(&graph).expect("it starts");
        let mut stream = job.take_result(result).expect("the result");
        stream.next().expect("a batch").expect("no error");
        drop(stream);
        job.wait().expect("it ends well");
        assert_clean(&cluster);
    });
}

#[test]
fn wide_rows_and_long_strings_pass_at_a_small_limit() {
    within_a_minute(|| {
        let cluster = cluster(2, 16 * MIB);
        let schema = Arc::new(Schema::new(vec![
            Field::new("n", DataType::Int64, false),
            Field::new("text", DataType::Utf8, true),
        ]));
        let mut graph = Graph::new();
        let source = graph.source("numbers", NumbersSource::new(2_000).split_rows(10));
        let wide = graph.map_to("widen", Arc::clone(&schema), source, move |batch| {
            let n = batch.column(0).as_primitive::<Int64Type>();
            let text = arrow::array::StringArray::from_iter(
                n.values().iter().map(|n| (n % 5 != 0).then(|| format!("{n:>width$}", width = (n % 30_000) as usize))),
            );
            Ok(RecordBatch::try_new(Arc::clone(&schema), vec![Arc::clone(batch.column(0)), Arc::new(text)])?)
        });
        let sink = CountingSink::new();
        let written = sink.written();
        let spread = graph.map("spread", wide.hash(["n"]), Ok);
        graph.sink("count", sink, spread.gather());
        cluster.run(&graph).expect("it starts").wait().expect("it ends well");
        assert_eq!(written.committed_rows(), 2_000);
        assert_clean(&cluster);
    });
}

#[test]
fn many_jobs_run_at_once_and_wait_in_line_when_memory_is_short() {
    within_a_minute(|| {
        let cluster = cluster(2, 16 * MIB);
        std::thread::scope(|scope| {
            let sums: Vec<_> = (0..8).map(|_| scope.spawn(|| sum_of_numbers(&cluster, 20_000))).collect();
            for sum in sums {
                assert_eq!(sum.join().expect("no panic"), 20_000 * 19_999 / 2);
            }
        });
        assert_clean(&cluster);
    });
}

#[test]
fn a_limit_that_is_too_small_is_refused_with_the_one_that_would_do() {
    let cluster = cluster(2, 100_000);
    let mut graph = Graph::new();
    let source = graph.source("numbers", NumbersSource::new(10));
    let mapped = graph.map("middle", source.hash(["n"]), Ok);
    graph.result("all", mapped);
    let Err(PlanError::LimitTooSmall { needed_bytes, limit_bytes, .. }) = cluster.plan(&graph) else {
        panic!("it must be refused");
    };
    assert_eq!(limit_bytes, 100_000);
    drop(cluster);
    let enough = crate::cluster(2, needed_bytes);
    enough.plan(&graph).expect("the limit that it named");
}

#[test]
fn graphs_that_are_no_dataflow_are_refused_by_name() {
    let cluster = cluster(1, 64 * MIB);
    let refused = |build: &dyn Fn(&mut Graph)| {
        let mut graph = Graph::new();
        build(&mut graph);
        cluster.plan(&graph).expect_err("it must be refused").to_string()
    };
    assert!(refused(&|_| {}).contains("no nodes"));
    assert!(
        refused(&|graph| {
            graph.source("lonely", NumbersSource::new(1));
        })
        .contains("node `lonely`: output 0 goes nowhere")
    );
    let by_missing = refused(&|graph| {
        let source = graph.source("numbers", NumbersSource::new(1));
        graph.sink("count", CountingSink::new(), source.hash(["nope"]));
    });
    assert!(by_missing.contains("`nope`") && by_missing.contains("columns: n"), "{by_missing}");
    let twice = refused(&|graph| {
        let a = graph.source("a", NumbersSource::new(100).split_rows(1));
        let b = graph.source("b", NumbersSource::new(100).split_rows(1));
        graph.set_partitions(a, Partitions::Fixed(2));
        graph.set_partitions(b, Partitions::Fixed(3));
        let both = graph.operator_with("both", aqueduct_runtime::testing::Concatenate, [a.into(), b.into()]);
        graph.result("all", both);
    });
    assert!(twice.contains("2 partitions") && twice.contains("3"), "{twice}");
    let ungathered = refused(&|graph| {
        let a = graph.source("a", NumbersSource::new(1));
        graph.result("all", Input::from(a).through(Exchange::RoundRobin));
    });
    assert!(ungathered.contains("gathered"), "{ungathered}");
    assert_eq!(numbers(0..1).schema(), number_schema());
}

#[test]
fn a_job_in_line_is_seen_to_wait_and_can_be_cancelled() {
    within_a_minute(|| {
        let gate = aqueduct_runtime::testing::Gate::shut();
        let graph = |gate: &aqueduct_runtime::testing::Gate| {
            let mut graph = Graph::new();
            let source = graph.source("numbers", NumbersSource::new(10_000));
            graph.sink("gated", CountingSink::new().gated(gate), source.gather());
            graph
        };
        let Err(PlanError::LimitTooSmall { needed_bytes: needed, .. }) = cluster(2, 1000).plan(&graph(&gate)) else {
            panic!("it must be refused");
        };
        // Room for one such job, not for two.
        let cluster = cluster(2, needed * 3 / 2);
        let first = cluster.run(&graph(&gate)).expect("it starts");
        aqueduct_runtime::testing::eventually("it is admitted", || first.state() == JobState::Running);
        let second = cluster.run(&graph(&gate)).expect("it waits");
        let third = cluster.run(&graph(&gate)).expect("it waits");
        std::thread::park_timeout(std::time::Duration::from_millis(50));
        assert_eq!((second.state(), third.state()), (JobState::Waiting, JobState::Waiting));
        second.cancel();
        assert!(matches!(second.wait(), Err(ExecutionError::Cancelled)));
        assert_eq!(third.state(), JobState::Waiting);
        gate.open();
        first.wait().expect("it ends well");
        third.wait().expect("it had its turn");
        assert_clean(&cluster);
    });
}

#[test]
fn a_row_larger_than_the_limit_is_an_error_with_the_limit_that_would_do() {
    within_a_minute(|| {
        let cluster = cluster(2, 16 * MIB);
        let schema = Arc::new(Schema::new(vec![Field::new("text", DataType::Utf8, false)]));
        let run = |bytes: usize| {
            let mut graph = Graph::new();
            let source = graph.source("numbers", NumbersSource::new(3).split_rows(1));
            let to = Arc::clone(&schema);
            let huge = graph.map_to("widen", Arc::clone(&schema), source, move |_| {
                let text = arrow::array::StringArray::from_iter_values(["x".repeat(bytes)]);
                Ok(RecordBatch::try_new(Arc::clone(&to), vec![Arc::new(text)])?)
            });
            let sink = CountingSink::new();
            graph.sink("count", sink, huge.gather());
            cluster.run(&graph).expect("it starts").wait()
        };
        run(2 * MIB).expect("larger than a batch, smaller than what floats");
        let error = run(40 * MIB).expect_err("larger than the limit");
        let ExecutionError::Operator { at, cause } = &error else { panic!("{error}") };
        assert_eq!(at.node, "widen");
        assert!(matches!(**cause, OperatorError::RowTooLarge { .. }), "{cause}");
    });
}
