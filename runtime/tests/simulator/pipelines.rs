//! One graph for each shape that a plan may have.

use aqueduct_runtime::testing::{BuildThenProbe, Concatenate, CountingSink, EvenOdd, NumbersSource, Report, simulate};
use aqueduct_runtime::{Graph, NodeId, Partitions};
use arrow::array::AsArray;
use arrow::datatypes::Int64Type;

use crate::operators::{Hold, Limit, Means, Merge, Sort, Union};

/// Seeds that are tried where nobody asks for more.
const SEEDS: std::ops::Range<u64> = 0..120;

/// Numbers in rows of half a kilobyte, a megabyte in all.
fn wide(graph: &mut Graph, name: &str, rows: u64) -> NodeId {
    graph.source(name, NumbersSource::new(rows).split_rows(100).row_bytes(512))
}

/// Says what was tried, for whoever looks at a passing test.
fn told(report: &Report) {
    println!("{report}");
    assert!(report.finished > report.failed, "{report}");
}

/// A chain with a hash exchange that keeps nothing.
#[test]
fn a_chain_with_a_hash_exchange() {
    let report = simulate(|| {
        let mut graph = Graph::new();
        let source = wide(&mut graph, "numbers", 2_000);
        let spread = graph.map("spread", source.hash(["n"]), Ok);
        let again = graph.map("again", spread.round_robin(), Ok);
        graph.result("all", again);
        graph
    })
    .seeds(SEEDS)
    .check(|run| {
        if let Some(rows) = run.result("all") {
            let sum: i64 = rows.column(0).as_primitive::<Int64Type>().values().iter().sum();
            assert_eq!(sum, 2_000 * 1_999 / 2);
        }
    });
    told(&report);
}

/// Rows in the order of the source, behind operators that keep it.
#[test]
fn rows_in_the_order_of_their_source() {
    let report = simulate(|| {
        let mut graph = Graph::new();
        let source = wide(&mut graph, "numbers", 2_000);
        graph.set_partitions(source, Partitions::Fixed(4));
        let same = graph.map("same", source, Ok);
        graph.result("all", same.gather_in_order());
        graph
    })
    .seeds(SEEDS)
    .check(|run| {
        if let Some(rows) = run.result("all") {
            assert!(rows.column(0).as_primitive::<Int64Type>().values().iter().copied().eq(0..2_000));
        }
    });
    told(&report);
}

/// A fork whose branches meet at a node that leaves one of them unread.
#[test]
fn a_diamond_that_builds_before_it_probes() {
    let report = simulate(|| {
        let mut graph = Graph::new();
        let source = wide(&mut graph, "numbers", 2_000);
        let halves = graph.operator("halves", EvenOdd, source);
        let even = graph.map("even", halves, Ok);
        let odd = graph.map("odd", halves.output(1), Ok);
        let join = graph.operator_with("join", BuildThenProbe, [even.hash(["n"]), odd.hash(["n"])]);
        graph.result("totals", join);
        let both = graph.operator_with("both", Concatenate, [even.gather(), odd.gather()]);
        graph.sink("count", CountingSink::new(), both);
        graph
    })
    .seeds(SEEDS)
    .check(|_| ());
    assert!(report.spooled_bytes > 0, "{report}");
    told(&report);
}

/// Sorted partitions that are merged lane by lane.
#[test]
fn a_sort_whose_lanes_are_merged() {
    let report = simulate(|| {
        let mut graph = Graph::new();
        let source = wide(&mut graph, "numbers", 2_000);
        let sorted = graph.operator("sort", Sort, source.hash(["n"]));
        let merged = graph.operator("merge", Merge, sorted.lanes());
        graph.result("all", merged);
        graph
    })
    .seeds(SEEDS)
    .check(|run| {
        if let Some(rows) = run.result("all") {
            assert!(rows.column(0).as_primitive::<Int64Type>().values().iter().copied().eq((0..2_000).rev()));
        }
    });
    assert!(report.disk_bytes > 0, "{report}");
    told(&report);
}

/// Sources of different sizes, one of them empty.
#[test]
fn a_union_of_several_sources() {
    let report = simulate(|| {
        let mut graph = Graph::new();
        let sources = [("one", 1_000), ("none", 0), ("some", 300), ("single", 1)];
        let inputs = sources.map(|(name, rows)| wide(&mut graph, name, rows).round_robin());
        let union = graph.operator_with("union", Union(4), inputs);
        let held = graph.operator("hold", Hold, union.gather());
        graph.result("all", held);
        graph
    })
    .seeds(SEEDS)
    .check(|_| ());
    told(&report);
}

/// State in a map, by the groups of a hash exchange.
#[test]
fn a_group_by_with_many_groups() {
    let report = simulate(|| {
        let mut graph = Graph::new();
        let source = graph.source("numbers", NumbersSource::new(6_000).split_rows(500));
        let groups = graph.map("groups", source, Ok);
        let means = graph.operator("means", Means(4_001), groups.gather());
        graph.result("means", means);
        graph
    })
    .seeds(SEEDS)
    .check(|run| {
        if let Some(rows) = run.result("means") {
            assert_eq!(rows.num_rows(), 4_001);
        }
    });
    assert!(report.disk_bytes > 0, "{report}");
    told(&report);
}

/// State in a vector, and batches that come back from disk.
#[test]
fn rows_held_until_all_have_come() {
    let report = simulate(|| {
        let mut graph = Graph::new();
        let source = wide(&mut graph, "numbers", 2_000);
        let held = graph.operator("hold", Hold, source.hash(["n"]));
        graph.result("all", held);
        graph
    })
    .seeds(SEEDS)
    .check(|_| ());
    assert!(report.disk_bytes > 0, "{report}");
    told(&report);
}

/// A node that wants no more long before its source has ended, and its neighbour that wants all.
#[test]
fn a_limit_that_stops_its_source() {
    let report = simulate(|| {
        let mut graph = Graph::new();
        let source = wide(&mut graph, "numbers", 2_000);
        let spread = graph.map("spread", source.hash(["n"]), Ok);
        let few = graph.operator("limit", Limit(150), spread.gather());
        graph.result("few", few);
        graph
    })
    .seeds(SEEDS)
    .any_rows()
    .check(|run| {
        if let Some(rows) = run.result("few") {
            assert_eq!(rows.num_rows(), 150);
        }
    });
    told(&report);
}

/// One source, several sinks and results, of which one stops early.
#[test]
fn several_sinks_and_results() {
    let report = simulate(|| {
        let mut graph = Graph::new();
        let source = wide(&mut graph, "numbers", 1_500);
        let halves = graph.operator("halves", EvenOdd, source);
        graph.sink("even", CountingSink::new(), halves.output(0));
        graph.sink("odd", CountingSink::new(), halves.output(1).hash(["n"]));
        let means = graph.operator("means", Means(100), source.gather());
        graph.result("means", means);
        graph.result("all", source);
        graph
    })
    .seeds(SEEDS)
    .check(|_| ());
    told(&report);
}

/// Every batch to every partition, of which some are slower than others, and a merge behind them.
#[test]
fn a_broadcast_whose_copies_are_merged() {
    let report = simulate(|| {
        let mut graph = Graph::new();
        // Splits of several batches, so that batches are as large as they may be.
        let source = graph.source("numbers", NumbersSource::new(300).split_rows(300).row_bytes(1024));
        let copies = graph.map("copies", source.broadcast(), Ok);
        graph.set_partitions(copies, Partitions::Fixed(3));
        let sorted = graph.operator("sort", Sort, copies);
        let merged = graph.operator("merge", Merge, sorted.lanes());
        graph.result("all", merged);
        let held = graph.operator("hold", Hold, source.broadcast());
        graph.set_partitions(held, Partitions::Fixed(2));
        graph.sink("count", CountingSink::new(), held);
        graph
    })
    .seeds(SEEDS)
    .check(|run| {
        if let Some(rows) = run.result("all") {
            assert_eq!(rows.num_rows(), 900);
        }
    });
    told(&report);
}

/// Without its hazard marks a diamond is what the watchdog is there for.
#[test]
fn a_diamond_without_hazard_marks_is_resolved_by_the_watchdog() {
    let report = simulate(|| {
        let mut graph = Graph::new();
        let source = wide(&mut graph, "numbers", 2_000);
        let join = graph.operator_with("join", BuildThenProbe, [source.hash(["n"]), source.hash(["n"])]);
        graph.result("totals", join);
        graph
    })
    .seeds(SEEDS)
    .without_hazard_marks()
    .check(|_| ());
    assert!(report.deadlocks > 0, "{report}");
    told(&report);
}
