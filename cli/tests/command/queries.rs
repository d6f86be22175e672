//! Where queries and tables come from, and what the rows are.

use std::io::Write;
use std::process::Stdio;

use crate::{Ran, Shell, large_data};

const TRIPS: &str = "city,fare\nOslo,10\nRome,3\nOslo,20\n";

fn sorted_lines(text: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    lines
}

#[test]
fn the_first_query_of_a_newcomer_gives_what_duckdb_gave() {
    let shell = Shell::new();
    shell.with_file("large_data.csv", &large_data(1_000_000));
    let query = "select category, avg(value) from 'large_data.csv' group by category having avg(value) > 500";
    let expected = include_str!("../../../tests/golden/category_means.csv");

    let rows = shell.ok(&["sql", "--format", "csv", query]);
    assert_eq!(rows.lines().next(), Some("category,avg(value)"));
    assert_eq!(sorted_lines(&rows)[..49], sorted_lines(expected)[..49]);

    let table = shell.ok(&["sql", query]);
    assert!(table.starts_with("+----------+------------+\n| category | avg(value) |\n"), "{table}");
    assert!(table.ends_with("(49 rows)\n"), "{table}");
}

#[test]
fn a_query_is_an_argument_a_file_or_standard_input() {
    let shell = Shell::new();
    shell.with_file("trips.csv", TRIPS);
    let query = "select count(*) as n, sum(fare) as fare from 'trips.csv'";
    shell.with_file("query.sql", &format!("-- how many\n{query};\n"));
    let expected = "n,fare\n3,33\n";

    assert_eq!(shell.ok(&["sql", "--format", "csv", query]), expected);
    assert_eq!(shell.ok(&["sql", "--format", "csv", "--file", "query.sql"]), expected);
    for arguments in [&["sql", "--format", "csv"][..], &["sql", "--format", "csv", "-"]] {
        let mut process = shell.command(arguments).stdin(Stdio::piped()).spawn().expect("the binary is there");
        let mut input = process.stdin.take().expect("a pipe");
        input.write_all(query.as_bytes()).expect("it listens");
        drop(input);
        let ran = Ran::from(process.wait_with_output().expect("it ends"));
        assert_eq!((ran.status, ran.out.as_str(), ran.errors.as_str()), (0, expected, ""));
    }
}

#[test]
fn tables_have_the_names_that_they_are_given() {
    let shell = Shell::new();
    shell.with_file("trips.csv", TRIPS);
    shell.with_file("it's.csv", "n\n1\n2\n");
    let query = "select city from trips where fare > 15 union all select city from again where fare < 5";
    let rows = shell.ok(&["sql", "--format", "csv", "-t", "trips=trips.csv", "--table", "again=trips.csv", query]);
    assert_eq!(sorted_lines(&rows), ["Oslo", "Rome", "city"]);
    let rows = shell.ok(&["sql", "--format", "csv", "-t", "odd=it's.csv", "select sum(n) as n from odd"]);
    assert_eq!(rows, "n\n3\n");
}

#[test]
fn what_was_written_is_read_again_in_parquet_and_csv() {
    let shell = Shell::new();
    shell.with_file("large_data.csv", &large_data(50_000));
    let query = "select category, count(*) as n, sum(value) as value from '{}' group by category order by category";
    let expected = shell.ok(&["sql", "--format", "csv", &query.replace("{}", "large_data.csv")]);
    assert_eq!(expected.lines().count(), 101);
    for copy in ["copy.parquet", "copy.csv"] {
        shell.ok(&["sql", "--quiet", "--output", copy, "select * from 'large_data.csv'"]);
        assert_eq!(shell.ok(&["sql", "--format", "csv", &query.replace("{}", copy)]), expected);
    }
    let statement = "copy (select * from 'copy.parquet' where id < 10) to 'few.parquet'";
    assert!(shell.ok(&["sql", statement]).contains("10"));
    assert_eq!(shell.ok(&["sql", "--format", "csv", "select count(*) as n from '*.parquet'"]), "n\n50010\n");
    assert!(shell.ok(&["schema", "few.parquet"]).starts_with("id"));
    assert!(shell.ok(&["head", "few.parquet", "-n", "1", "--format", "csv"]).ends_with("\n0,cat_0,0.0\n"));
}

#[test]
fn head_and_schema_look_at_a_file() {
    let shell = Shell::new();
    shell.with_file("large_data.csv", &large_data(20_000));
    let head = shell.ok(&["head", "large_data.csv", "-n", "3", "--format", "csv"]);
    assert_eq!(head, "id,category,value\n0,cat_0,0.0\n1,cat_1,1.0\n2,cat_2,2.0\n");
    let head = shell.ok(&["head", "large_data.csv"]);
    assert!(head.ends_with("|  9 | cat_9    |   9.0 |\n+----+----------+-------+\n(10 rows)\n"), "{head}");
    let schema = shell.ok(&["schema", "large_data.csv"]);
    let words: Vec<Vec<&str>> = schema.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(words, [["id", "Int64"], ["category", "Utf8View"], ["value", "Float64"]]);
}

#[test]
fn explain_shows_the_actors_and_reads_nothing() {
    let shell = Shell::new();
    shell.with_file("trips.csv", TRIPS);
    let text = shell.ok(&["explain", "select city, max(fare) from 'trips.csv' group by city"]);
    assert!(text.contains("== actor graph ==") && text.contains("hash(city)"), "{text}");
}

#[test]
fn a_small_limit_spills_and_the_figures_say_so() {
    let shell = Shell::new();
    shell.with_file("large_data.csv", &large_data(600_000));
    let query = "select count(*) as n, sum(value) as value from \
                 (select id, avg(value) as value from 'large_data.csv' group by id)";
    std::fs::create_dir(shell.path("spill")).expect("a folder");
    let arguments = [
        "sql",
        "--workers",
        "2",
        "--threads-per-worker",
        "1",
        "--memory-limit",
        "8MB",
        "--spill-dir",
        "spill",
        "--stats",
        "stats.json",
        "--format",
        "csv",
        query,
    ];
    assert_eq!(shell.ok(&arguments), "n,value\n600000,299700000.0\n");

    let stats = std::fs::read_to_string(shell.path("stats.json")).expect("it was written");
    let stats: serde_json::Value = serde_json::from_str(&stats).expect("one JSON object");
    let figure = |name: &str| stats[name].as_f64().unwrap_or_else(|| panic!("{name} is a number: {stats}"));
    assert_eq!(figure("rows"), 1.0);
    assert!(figure("seconds") > 0.0 && figure("write_seconds") <= figure("seconds"));
    assert!(figure("spilled_bytes") > 1e6, "{stats}");
    assert!(figure("peak_bytes") > 1e6 && figure("peak_bytes") <= 16e6, "{stats}");
    assert!(figure("peak_rss_bytes") >= 1e6);
    assert_eq!(figure("spooled_bytes"), 0.0);
    let operators = stats["operators"].as_array().expect("a list");
    let scan = operators.iter().find(|node| node["kind"] == "csv").expect("it reads a file");
    assert_eq!(scan["rows_out"], 600_000);
    assert_eq!(stats["workers"][1]["limit_bytes"], 8_000_000);
    assert_eq!(crate::names(&shell.path("spill")), [""; 0]);
}

#[test]
fn statements_may_make_tables_before_the_query() {
    let shell = Shell::new();
    shell.with_file("trips.csv", TRIPS);
    let query = "create table t as select city, fare from 'trips.csv' where fare > 5; insert into t values ('Lima', 7); \
                 copy (select * from t) to 'out.parquet'; select count(*) as n, sum(fare) as fare from 'out.parquet'";
    assert_eq!(shell.ok(&["sql", "--format", "csv", query]), "n,fare\n3,37\n");
    assert_eq!(
        shell.ok(&["sql", "--format", "csv", "create table t as select 1 as a; show tables"]),
        "table_name\nt\n"
    );
}
