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
