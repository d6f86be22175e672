//! The page of promises names tests: each of them is there.

use std::collections::BTreeMap;
use std::path::Path;

const PAGE: &str = include_str!("../src/promises.md");

/// What stands between backticks: a file, and then the tests in it.
fn named() -> Vec<(&'static str, &'static str)> {
    let mut file = None;
    let mut named = Vec::new();
    for (number, code) in PAGE.split('`').enumerate() {
        let is_test = code.matches('_').count() >= 2
            && code.bytes().all(|b| b.is_ascii_lowercase() || b"_0123456789".contains(&b));
        match file {
            _ if number % 2 == 0 => {}
            _ if code.ends_with(".rs") => file = Some(code),
            Some(file) if is_test => named.push((file, code)),
            _ => {}
        }
    }
    named
}

#[test]
fn every_test_that_the_page_of_promises_names_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut files = BTreeMap::new();
    let mut missing = Vec::new();
    for (file, test) in named() {
        let text = files.entry(file).or_insert_with(|| std::fs::read_to_string(root.join(file)).unwrap_or_default());
        // As a function with `#[test]`, or by a macro that makes one of the name.
        if !text.contains(&format!("fn {test}(")) {
            missing.push(format!("{file}: {test}"));
        }
    }
    assert!(missing.is_empty(), "not there: {missing:#?}");
    assert!(named().len() > 80, "{}", named().len());
}

#[test]
fn every_promise_has_a_heading_and_tests() {
    for contract in 1..=12 {
        let heading =
            PAGE.lines().position(|line| line.starts_with("## ") && line.ends_with(&format!("(C{contract})")));
        let heading = heading.unwrap_or_else(|| panic!("C{contract} has no heading"));
        let section = PAGE.lines().skip(heading + 1).take_while(|line| !line.starts_with("## "));
        assert!(section.filter(|line| line.contains(".rs`:")).count() > 0, "C{contract} has no test");
    }
}
