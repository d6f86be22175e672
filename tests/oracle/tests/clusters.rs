//! Random queries on real clusters at the smallest limit that they are admitted with.

use aqueduct_oracle::clusters;
use aqueduct_oracle::search::search;

#[test]
fn random_queries_at_the_smallest_limit_have_datafusions_answers() {
    let tally = search(25, |_, query, expected| clusters::check(query, expected));
    println!("{tally}");
    assert!(tally.agreed < 20 || tally.skipped() * 5 < tally.agreed, "{tally}");
}
