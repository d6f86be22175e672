//! Graphs and the plans that they become.

use crate::config::ClusterConfig;
use crate::graph::{Graph, NodeId, Partitions};
use crate::plan::{Order, Plan};
use crate::testing::{BuildThenProbe, Concatenate, CountingSink, EvenOdd, NumbersSource};

const MIB: usize = 1 << 20;

fn config(workers: usize, memory_limit_bytes: usize) -> ClusterConfig {
    ClusterConfig { workers, memory_limit_bytes, ..ClusterConfig::default() }
}

fn plan(graph: &Graph) -> Plan {
    Plan::new(graph, &config(2, 64 * MIB)).expect("it plans")
}

fn numbers(graph: &mut Graph) -> NodeId {
    graph.source("numbers", NumbersSource::new(1_000_000))
}

#[test]
fn neighbours_on_a_forward_edge_fuse_and_exchanges_and_forks_part_them() {
    let mut graph = Graph::new();
    let source = numbers(&mut graph);
    let first = graph.map("first", source, Ok);
    let second = graph.map("second", first, Ok);
    let spread = graph.map("spread", second.hash(["n"]), Ok);
    let forked = graph.map("forked", spread, Ok);
    graph.sink("one", CountingSink::new(), forked);
    graph.sink("two", CountingSink::new(), forked.gather());
    let plan = plan(&graph);
    let stages: Vec<_> = (0..plan.stages.len()).map(|stage| plan.stage_name(stage)).collect();
    assert_eq!(stages, ["numbers -> first -> second", "spread -> forked", "one", "two"]);
    let partitions: Vec<_> = plan.stages.iter().map(|stage| stage.partitions).collect();
    assert_eq!(partitions, [2, 8, 8, 1]);
    assert_eq!(plan.edges.iter().filter(|edge| edge.hazardous).count(), 0);
}

#[test]
fn order_survives_row_wise_stages_and_ends_at_an_exchange() {
    let mut graph = Graph::new();
    let source = numbers(&mut graph);
    let spread = graph.map("spread", source.round_robin(), Ok);
    graph.sink("ordered", CountingSink::new(), source.gather_in_order());
    graph.sink("merged", CountingSink::new(), spread.gather_in_order());
    let plan = plan(&graph);
    let orders: Vec<_> = plan.stages.iter().map(|stage| stage.order).collect();
    // A map from batch to batch keeps the rows of its batch together, but an exchange deals batches out.
    assert_eq!(orders, [Order::Source, Order::Partition, Order::Relay, Order::Relay]);
}

#[test]
fn only_edges_that_could_deadlock_are_marked_to_spool() {
    let hazards = |build: &dyn Fn(&mut Graph)| {
        let mut graph = Graph::new();
        build(&mut graph);
        let plan = plan(&graph);
        let marked = plan.edges.iter().filter(|edge| edge.hazardous);
        marked.map(|e| format!("{} to {}", plan.nodes[e.from].name, plan.nodes[e.to].name)).collect::<Vec<_>>()
    };
    let diamond = hazards(&|graph| {
        let source = numbers(graph);
        let left = graph.map("left", source.hash(["n"]), Ok);
        let join = graph.operator_with("join", BuildThenProbe, [left.into(), source.hash(["n"])]);
        graph.result("result", join);
    });
    assert_eq!(diamond, ["left to join", "numbers to join"]);
    let two_sources = hazards(&|graph| {
        let (a, b) = (numbers(graph), numbers(graph));
        let join = graph.operator_with("join", BuildThenProbe, [a.hash(["n"]), b.hash(["n"])]);
        graph.result("result", join);
    });
    assert_eq!(two_sources, [""; 0]);
    let outputs_of_one = hazards(&|graph| {
        let source = numbers(graph);
        let split = graph.operator("split", EvenOdd, source);
        let both = graph.operator_with("both", Concatenate, [split.output(0), split.output(1)]);
        graph.result("result", both);
    });
    assert_eq!(outputs_of_one, ["split to both", "split to both"]);
    let ordered_scan = hazards(&|graph| {
        let source = numbers(graph);
        graph.result("result", source.gather_in_order());
    });
    assert_eq!(ordered_scan, [""; 0]);
    let ordered_exchange = hazards(&|graph| {
        let source = numbers(graph);
        let spread = graph.map("spread", source.hash(["n"]), Ok);
        graph.result("result", spread.gather_in_order());
    });
    assert_eq!(ordered_exchange, ["spread to result"]);
}

#[test]
fn a_small_limit_makes_batches_smaller_and_then_partitions_fewer() {
    let mut graph = Graph::new();
    let source = numbers(&mut graph);
    let spread = graph.map("spread", source.hash(["n"]), Ok);
    graph.result("result", spread);
    let at = |limit| Plan::new(&graph, &config(2, limit));
    let (large, small) = (at(1 << 30).expect("it plans"), at(16 * MIB).expect("it plans"));
    assert!(large.batch_bytes > small.batch_bytes);
    assert_eq!((large.stages[1].partitions, small.stages[1].partitions), (8, 8));
    let error = at(1000).expect_err("nothing fits").to_string();
    let smallest: usize = error
        .split("set `memory_limit` to ")
        .nth(1)
        .and_then(|rest| rest.split(' ').next())
        .and_then(|bytes| bytes.parse().ok())
        .expect("the limit that would do");
    let fewest = at(smallest).expect("the limit that the error names");
    assert_eq!(fewest.stages[1].partitions, 2);
    assert!(at(smallest - 1).is_err());
    for plan in [large, small, fewest] {
        assert!(plan.floors.iter().all(|floor| *floor <= plan.limit_bytes), "{plan}");
    }
}

#[test]
fn partitions_are_what_the_user_set_and_what_edges_force() {
    let mut graph = Graph::new();
    let source = numbers(&mut graph);
    graph.set_partitions(source, Partitions::Fixed(3));
    let mapped = graph.map("mapped", source, Ok);
    graph.set_partitions(mapped, Partitions::Fixed(4));
    graph.result("result", mapped);
    let error = Plan::new(&graph, &config(2, 64 * MIB)).expect_err("3 is not 4").to_string();
    assert!(error.contains("3 partitions") && error.contains("set to 4"), "{error}");
}

#[test]
fn the_plan_is_shown_as_text_dot_and_mermaid() {
    let mut graph = Graph::new();
    let source = numbers(&mut graph);
    let spread = graph.map("a \"quoted\" name", source.hash(["n"]), Ok);
    graph.result("result", spread.gather_in_order());
    let plan = plan(&graph);
    let text = plan.to_string();
    assert!(text.contains("2 workers x 1 thread, 64.0 MiB each"), "{text}");
    assert!(text.contains("=> hash(n) to stage 1") && text.contains("gather in order to result `result`"), "{text}");
    assert!(text.contains(", spools"), "{text}");
    let dot = plan.to_dot();
    assert!(dot.starts_with("digraph") && dot.contains("a \\\"quoted\\\" name") && dot.contains("style=dashed"));
    assert_eq!(dot.matches('{').count(), dot.matches('}').count());
    let mermaid = plan.to_mermaid();
    assert!(mermaid.starts_with("flowchart LR") && mermaid.contains("a #quot;quoted#quot; name"), "{mermaid}");
    assert!(mermaid.contains("n0 -->|\"hash(n)\"| n1"), "{mermaid}");
}

/// Edges into `to` that spool.
fn spooling_inputs(plan: &Plan, to: &str) -> usize {
    plan.edges.iter().filter(|edge| &*plan.nodes[edge.to].name == to && edge.hazardous).count()
}

#[test]
fn joins_that_wait_for_each_other_in_a_circle_are_a_hazard() {
    let mut graph = Graph::new();
    let (a, b) = (numbers(&mut graph), numbers(&mut graph));
    let one = graph.operator_with("one", BuildThenProbe, [a.hash(["n"]), b.hash(["n"])]);
    let two = graph.operator_with("two", BuildThenProbe, [b.hash(["n"]), a.hash(["n"])]);
    graph.sink("sink one", CountingSink::new(), one);
    graph.sink("sink two", CountingSink::new(), two);
    let plan = plan(&graph);
    assert!(spooling_inputs(&plan, "one") > 0 && spooling_inputs(&plan, "two") > 0);
}

#[test]
fn joins_of_different_sources_are_none_in_whatever_shape() {
    let mut graph = Graph::new();
    let sources: Vec<NodeId> = (0..6).map(|_| numbers(&mut graph)).collect();
    let mut join = |name: &str, one: NodeId, other: NodeId| {
        graph.operator_with(name, Concatenate, [one.hash(["n"]), other.hash(["n"])])
    };
    let (left, right) = (join("left", sources[0], sources[1]), join("right", sources[2], sources[3]));
    let both = join("both", left, right);
    let deep = join("deep", both, sources[4]);
    let last = join("last", sources[5], deep);
    graph.sink("sink", CountingSink::new(), last);
    assert_eq!(plan(&graph).edges.iter().filter(|edge| edge.hazardous).count(), 0);
}
