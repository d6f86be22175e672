//! Random queries in the simulator: every schedule, limit and fault that a seed thinks of.
//!
//! `AQUEDUCT_SEEDS` and `AQUEDUCT_SEED` are for the runs of each query.

use aqueduct_oracle::search::search;
use aqueduct_oracle::simulated;

#[test]
fn random_queries_in_the_simulator_have_datafusions_answers() {
    let tally = search(25, simulated::check);
    println!("{tally}");
    assert!(tally.agreed < 20 || tally.skipped() * 5 < tally.agreed, "{tally}");
}
