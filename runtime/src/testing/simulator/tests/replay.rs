//! A seed gives the same run again, and what breaks a rule is made simple.

use std::collections::BTreeSet;

use crate::error::OperatorError;
use crate::graph::Graph;
use crate::testing::simulator::report::{Rule, Trace};
use crate::testing::simulator::run::run;
use crate::testing::simulator::scenario::{SIMPLIFICATIONS, Scenario};
use crate::testing::simulator::{References, simulate};
use crate::testing::{BuildThenProbe, NumbersSource};

fn diamond() -> Graph {
    let mut graph = Graph::new();
    let source = graph.source("numbers", NumbersSource::new(500).split_rows(50).row_bytes(512));
    let join = graph.operator_with("join", BuildThenProbe, [source.hash(["n"]), source.hash(["n"])]);
    graph.result("totals", join);
    graph
}

#[test]
fn a_seed_decides_every_event_of_a_run() {
    let simulation = simulate(diamond);
    let mut references = References::default();
    let mut digests = BTreeSet::new();
    for seed in 0..30 {
        let scenario = Scenario::of(seed, true);
        let reference = references.of(&simulation.setup, &scenario).expect("the reference run ends well");
        let digest = || {
            let mut trace = Trace::kept(1);
            let facts = run(&simulation.setup, &scenario, Some(reference), &mut trace).expect("no rule is broken").0;
            (trace.digest, facts.to_string())
        };
        let first = digest();
        assert_eq!(first, digest(), "seed {seed}");
        digests.insert(first.0);
    }
    assert!(digests.len() >= 28, "runs of different seeds are the same");
}

#[test]
fn what_breaks_a_rule_is_shrunk_and_replays_by_its_name() {
    // It fails wherever more than one partition is at work.
    let graph = || {
        let mut graph = Graph::new();
        let source = graph.source("numbers", NumbersSource::new(300).split_rows(10));
        let wrong = graph.map("wrong", source.hash(["n"]), |batch| {
            if batch.num_rows() < 5 { Err(OperatorError::new("a bug of the user's")) } else { Ok(batch) }
        });
        graph.result("all", wrong);
        graph
    };
    // The reference run of some configurations fails, too: that is reported as well.
    let found = simulate(graph).seeds(0..50).find().expect_err("a bug is found");
    assert_eq!(found.violation.rule, Rule::UnexpectedError);
    assert!(found.what().contains("a bug of the user's"), "{found}");
    assert!(found.scenario.faults.is_empty() && found.scenario.jobs == 1, "{found}");
    assert!(found.to_string().contains(&format!("AQUEDUCT_SEED={}", found.replay())), "{found}");

    let mut again = Scenario::of(found.seed(), true);
    found.simplified.iter().for_each(|name| assert!(again.simplify(name) || again == found.scenario, "{name}"));
    assert_eq!(again, found.scenario);
}

#[test]
fn every_simplification_changes_some_scenario() {
    let scenarios: Vec<Scenario> = (0..500).map(|seed| Scenario::of(seed, true)).collect();
    for name in SIMPLIFICATIONS {
        assert!(scenarios.iter().any(|scenario| scenario.clone().simplify(name)), "{name}");
    }
    assert!(!scenarios[0].clone().simplify("no such thing"));
}

#[test]
fn a_check_that_fails_is_a_rule_that_is_broken() {
    let mut simulation = simulate(diamond).seeds(0..3);
    simulation.setup.check = Box::new(|run| assert!(run.error().is_some(), "it ended well"));
    let found = simulation.find().expect_err("most runs end well");
    assert_eq!(found.violation.rule, Rule::Check);
    assert!(found.what().contains("it ended well"), "{found}");
}
