//! The bundled pipelines, run as a newcomer runs them, and what they print.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The binary of an example. Cargo builds the examples of a package before its tests.
fn example(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("this test is a file");
    let profile = test.ancestors().nth(2).expect("tests are in target/PROFILE/deps");
    profile.join("examples").join(name)
}

fn run(name: &str, folder: &Path) -> String {
    let output = Command::new(example(name)).current_dir(folder).output().expect("`cargo build --examples` has run");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name}: {}\n{errors}", output.status);
    String::from_utf8(output.stdout).expect("text")
}

/// The rows of a printed table with two columns, a text and a number; others are left out.
fn printed_rows(text: &str) -> BTreeMap<String, f64> {
    let cells = text.lines().filter_map(|line| line.strip_prefix('|')?.strip_suffix('|')?.split_once('|'));
    cells.filter_map(|(key, value)| Some((key.trim().to_owned(), value.trim().parse().ok()?))).collect()
}

#[test]
fn the_main_job_prints_what_duckdb_computed_and_leaves_nothing_behind() {
    let folder = tempfile::tempdir().expect("a folder");
    let text = run("category_means", folder.path());
    let expected: BTreeMap<String, f64> = include_str!("golden/category_means.csv")
        .lines()
        .skip(1)
        .map(|line| line.split_once(',').expect("two columns"))
        .map(|(category, value)| (category.to_owned(), value.parse().expect("a number")))
        .collect();
    assert_eq!(expected.len(), 49);
    assert_eq!(printed_rows(&text), expected);
    let left: Vec<_> = folder.path().read_dir().expect("the folder is there").collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn the_best_days_are_those_that_duckdb_found() {
    let folder = tempfile::tempdir().expect("a folder");
    let text = run("best_days", folder.path());
    let cells = |line: &str, by: char| line.split(by).map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
    let printed =
        text.lines().filter_map(|line| line.strip_prefix("| ")?.strip_suffix('|')).map(|line| cells(line, '|'));
    let printed: Vec<_> = printed.filter(|row| row[1].parse::<u64>().is_ok()).collect();
    let expected: Vec<_> = include_str!("golden/best_days.csv").lines().skip(1).map(|line| cells(line, ',')).collect();
    assert_eq!(expected.len(), 15);
    assert_eq!(printed.len(), expected.len(), "{text}");
    for (printed, expected) in printed.iter().zip(&expected) {
        assert_eq!(printed[..3], expected[..3]);
        let number = |cell: &String| cell.parse::<f64>().expect("a number");
        for place in [3, 4] {
            assert!((number(&printed[place]) - number(&expected[place])).abs() < 1e-6, "{printed:?} for {expected:?}");
        }
    }
}

#[test]
fn the_queries_of_tpch_run_on_tables_that_the_example_makes() {
    let folder = tempfile::tempdir().expect("a folder");
    let binary = example("tpch");
    let output = Command::new(binary).args([folder.path().to_str().expect("text"), "0.01", "64MB"]).output();
    let output = output.expect("`cargo build --examples` has run");
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    let rows = |line: &str| {
        let mut words = line.split_whitespace().map(str::parse::<f64>);
        Some((words.next()?.ok()? as usize, words.next()?.ok()? as usize)).filter(|_| words.count() == 3)
    };
    let rows: Vec<_> = text.lines().filter_map(rows).collect();
    assert_eq!(rows.len(), 22, "{text}");
    for (number, rows) in rows {
        // The names of the columns and their types are lines, too.
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/tpch/0.01/q{number}.csv"));
        let golden = std::fs::read_to_string(golden).expect("DuckDB answered");
        assert_eq!(rows, golden.lines().count() - 2, "query {number}");
    }
}
