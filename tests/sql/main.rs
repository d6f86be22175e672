//! SQL as a user sees it: the queries of `queries/`, on one and on four workers and on little memory, and DuckDB's answers
//! to them (`make.py` says how they were made).

mod bytes;
mod hostile;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use aqueduct::arrow::array::{Array, AsArray};
use aqueduct::arrow::compute::cast;
use aqueduct::arrow::datatypes::DataType;
use aqueduct::{LocalCluster, Table};

/// Workers, and the memory limit of each.
const CLUSTERS: [(usize, &str); 3] = [(1, "1GB"), (4, "1GB"), (2, "16MB")];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sql")
}

fn cluster(workers: usize, memory_limit: &str) -> LocalCluster {
    let builder = LocalCluster::builder().workers(workers).memory_limit(memory_limit).progress(false);
    let cluster = builder.start().expect("the cluster starts");
    for file in fs::read_dir(folder().join("data")).expect("the tables") {
        let path = file.expect("a file").path();
        let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
        let table = cluster.read_csv(&path).expect("a table");
        cluster.register_table(name, &table).expect("a good frame");
    }
    cluster
}

/// What stands behind each line `-- name` of a file.
fn sections(path: &Path) -> Vec<(String, String)> {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut sections: Vec<(String, String)> = Vec::new();
    for line in text.lines() {
        match (line.strip_prefix("-- "), sections.last_mut()) {
            (Some(name), _) => sections.push((name.into(), String::new())),
            (None, Some(_)) if line.starts_with("--duckdb ") => {}
            (None, Some((_, text))) => writeln!(text, "{line}").expect("a string takes what it is given"),
            (None, None) => panic!("{} begins without a name", path.display()),
        }
    }
    sections
}

/// One way to write a number, whatever its type: nine digits of it.
fn number(text: &str) -> String {
    let value: f64 = text.parse().unwrap_or_else(|_| panic!("`{text}` is not a number"));
    if value == 0.0 { "0".into() } else { format!("{value:.9e}") }
}

/// The rows of a table, each as one text.
fn rows(table: &Table) -> Vec<String> {
    let batch = table.to_batch().expect("one batch");
    let columns: Vec<Vec<String>> = batch
        .columns()
        .iter()
        .map(|column| {
            let texts = cast(column, &DataType::Utf8).expect("every type of these queries can be written");
            let texts = texts.as_string::<i32>();
            let written = |row| {
                let text = texts.value(row);
                match column.data_type() {
                    _ if column.is_null(row) || texts.is_null(row) => "NULL".to_string(),
                    DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => format!("\"{text}\""),
                    DataType::Timestamp(..) => text.replace('T', " "),
                    kind if kind.is_numeric() => number(text),
                    _ => text.to_string(),
                }
            };
            (0..column.len()).map(written).collect()
        })
        .collect();
    (0..batch.num_rows())
        .map(|row| columns.iter().map(|column| column[row].as_str()).collect::<Vec<_>>().join(","))
        .collect()
}

/// DuckDB's rows, written in the same way.
fn answers(text: &str) -> Vec<String> {
    let field = |field: &str| match field.parse::<f64>() {
        Ok(_) => number(field),
        Err(_) => field.to_string(),
    };
    let row = |line: &str| {
        // Commas in quotes divide nothing.
        let mut fields = vec![String::new()];
        let mut quoted = false;
        for c in line.chars() {
            quoted ^= c == '"';
            if c == ',' && !quoted {
                fields.push(String::new());
            } else {
                fields.last_mut().expect("one at least").push(c);
            }
        }
        fields.iter().map(|text| field(text)).collect::<Vec<_>>().join(",")
    };
    text.lines().map(row).collect()
}

/// Whether the query says in which order its rows come.
fn is_ordered(query: &str) -> bool {
    query.rsplit_once("order by").is_some_and(|(_, keys)| !keys.contains(['(', ')']) && !keys.contains(" over "))
}

fn check(cluster: &LocalCluster, query: &str, expected: &str) -> Result<(), String> {
    let table = cluster.sql(query).and_then(|frame| frame.compute()).map_err(|error| error.to_string())?;
    let (mut found, mut expected) = (rows(&table), answers(expected));
    if !is_ordered(query) {
        found.sort();
        expected.sort();
    }
    if found == expected {
        return Ok(());
    }
    let different = found.iter().zip(&expected).find(|(found, expected)| found != expected);
    Err(format!("{} rows, not {}; first difference {different:?}", found.len(), expected.len()))
}

/// Runs all queries of a file, each within a time limit, and compares their rows with the answers.
fn all_of(file: &str) {
    let queries = sections(&folder().join("queries").join(file).with_extension("sql"));
    let answers = sections(&folder().join("answers").join(file).with_extension("csv"));
    assert!(queries.iter().map(|(name, _)| name).eq(answers.iter().map(|(name, _)| name)), "make.py has to run again");
    let mut wrong = String::new();
    for (workers, memory_limit) in CLUSTERS {
        let cluster = std::sync::Arc::new(cluster(workers, memory_limit));
        for ((name, query), (_, expected)) in queries.iter().zip(&answers) {
            let (done, checked) = channel();
            let (shared, query, expected) = (std::sync::Arc::clone(&cluster), query.clone(), expected.clone());
            let body = move || drop(done.send(check(&shared, query.trim().trim_end_matches(';'), &expected)));
            std::thread::Builder::new().name("aq-test".into()).spawn(body).expect("a thread");
            let outcome = match checked.recv_timeout(Duration::from_secs(60)) {
                Ok(outcome) => outcome,
                Err(RecvTimeoutError::Timeout) => panic!("{name}: no end within a minute"),
                Err(RecvTimeoutError::Disconnected) => Err("a panic".into()),
            };
            if let Err(error) = outcome {
                writeln!(wrong, "{workers} x {memory_limit}, {name}: {error}")
                    .expect("a string takes what it is given");
            }
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

#[test]
fn expressions_filters_and_orders_answer_as_duckdb_does() {
    all_of("basics");
}

#[test]
fn joins_answer_as_duckdb_does() {
    all_of("joins");
}

#[test]
fn subqueries_answer_as_duckdb_does() {
    all_of("subqueries");
}

#[test]
fn windows_answer_as_duckdb_does() {
    all_of("windows");
}

#[test]
fn groups_answer_as_duckdb_does() {
    all_of("grouping");
}

#[test]
fn sets_answer_as_duckdb_does() {
    all_of("sets");
}

#[test]
fn lists_and_structs_answer_as_duckdb_does() {
    all_of("nested");
}

#[test]
fn recursive_queries_answer_as_duckdb_does() {
    all_of("recursive");
}

#[test]
fn rows_that_are_spread_already_answer_as_duckdb_does() {
    all_of("spread");
}
