//! Six bugs, planted one at a time in the runtime: each is found within a thousand seeds.

use crate::graph::Graph;
use crate::planted::{Bug, plant};
use crate::testing::simulator::report::{Counterexample, Rule};
use crate::testing::simulator::simulate;
use crate::testing::{BuildThenProbe, EvenOdd, NumbersSource};

/// A chain, a diamond that spools, and state on disk: something for each bug.
fn graph() -> Graph {
    let mut graph = Graph::new();
    let source = graph.source("numbers", NumbersSource::new(1_000).split_rows(50).row_bytes(512));
    let spread = graph.map("spread", source.hash(["n"]), Ok);
    let halves = graph.operator("halves", EvenOdd, spread);
    let join = graph.operator_with("join", BuildThenProbe, [halves.hash(["n"]), halves.output(1).hash(["n"])]);
    graph.result("totals", join);
    graph
}

fn search(bug: Bug, expected: &[Rule]) -> Box<Counterexample> {
    assert!(simulate(graph).seeds(0..30).find().is_ok(), "without a bug none is found");
    plant(Some(bug));
    let found = simulate(graph).seeds(0..1_000).find();
    plant(None);
    let found = match found {
        Ok(report) => panic!("{bug:?} was not found: {report}"),
        Err(found) => found,
    };
    println!("{bug:?} was found by seed {}: {}", found.seed(), found.what());
    println!("{found}");
    assert!(expected.contains(&found.violation.rule), "{found}");
    found
}

#[test]
fn a_lost_wake_up_is_found() {
    search(Bug::LostWakeUp, &[Rule::Watchdog, Rule::Parked]);
}

#[test]
fn a_permit_that_is_given_back_twice_is_found() {
    search(Bug::PermitTwice, &[Rule::UnexpectedError, Rule::Permit, Rule::Panic]);
}

#[test]
fn an_end_of_input_that_is_sent_too_early_is_found() {
    search(Bug::EndTooEarly, &[Rule::EdgeRows, Rule::WrongRows, Rule::UnexpectedError]);
}

#[test]
fn a_spill_file_that_is_read_short_is_found() {
    search(Bug::ShortRead, &[Rule::UnexpectedError, Rule::WrongRows]);
}

#[test]
fn a_missing_hazard_mark_is_found() {
    search(Bug::NoHazardMark, &[Rule::Watchdog, Rule::Parked]);
}

#[test]
fn a_reservation_that_is_leaked_on_an_error_is_found() {
    search(Bug::LeakOnError, &[Rule::Leak]);
}
