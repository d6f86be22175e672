//! How a command ends when it does not go well: status, one message, and nothing left behind.

use std::io::{BufRead, BufReader, Read};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::{Ran, Shell, large_data, names};

/// The one message, with or without a hint.
fn assert_message(ran: &Ran, status: i32, parts: &[&str]) {
    assert_eq!(ran.status, status, "{}", ran.errors);
    assert!(ran.errors.starts_with("error: "), "{}", ran.errors);
    assert_eq!(ran.errors.matches("error: ").count(), 1, "{}", ran.errors);
    assert!(!ran.errors.contains("panicked") && !ran.errors.contains("backtrace"), "{}", ran.errors);
    for part in parts {
        assert!(ran.errors.contains(part), "{part} is not in: {}", ran.errors);
    }
}

#[test]
fn a_wrong_command_line_is_status_2() {
    let shell = Shell::new();
    shell.with_file("t.csv", "n\n1\n");
    for (arguments, parts) in [
        (&["sql", "--no-such-option", "select 1"][..], &["--no-such-option"][..]),
        (&["sql", "--table", "t.csv", "select 1"], &["NAME=PATH"]),
        (&["sql", "--memory-limit", "2 gigs", "select 1"], &["2 gigs", "2GB"]),
        (&["sql", "--workers", "0", "select 1"], &["--workers"]),
        (&["sql", "--format", "xlsx", "select 1"], &["parquet"]),
        (&["sql", "--file", "q.sql", "select 1"], &["--file"]),
        (&["sql"], &["empty"]),
    ] {
        assert_message(&shell.run(arguments), 2, parts);
    }
}

#[test]
fn a_wrong_query_is_status_3_and_says_where() {
    let shell = Shell::new();
    shell.with_file("t.csv", "n\n1\n");
    for (query, parts) in [
        ("select n frm 't.csv'", &["line 1"][..]),
        ("select m from 't.csv'", &["m"]),
        ("select * from nowhere", &["nowhere"]),
        ("select no_such_function(n) from 't.csv'", &["no_such_function"]),
    ] {
        assert_message(&shell.run(&["sql", query]), 3, parts);
        assert_message(&shell.run(&["explain", query]), 3, parts);
    }
}

#[test]
fn a_value_that_is_no_number_is_status_1_and_named_with_its_place() {
    let shell = Shell::new();
    let mut text = large_data(40_000);
    text.push_str("40000,cat_0,oops\n");
    shell.with_file("large_data.csv", &text);
    let ran = shell.run(&["sql", "-o", "out.csv", "select sum(value) from 'large_data.csv'"]);
    assert_message(&ran, 1, &["large_data.csv", "oops", "value", "40002"]);
    assert_eq!(shell.names(), ["large_data.csv"]);
}

#[test]
fn a_limit_that_is_too_small_is_status_4_and_the_hint_would_do() {
    let shell = Shell::new();
    shell.with_file("large_data.csv", &large_data(1_000));
    let query = "select category, sum(value) from 'large_data.csv' group by category";
    let ran = shell.run(&["sql", "--workers", "1", "--memory-limit", "100kB", query]);
    assert_message(&ran, 4, &["hint: --memory-limit "]);
    let hint = ran.errors.split("hint: --memory-limit ").nth(1).and_then(|text| text.split(' ').next());
    shell.ok(&["sql", "--workers", "1", "--memory-limit", hint.expect("a size"), query]);
}

#[test]
fn a_full_disk_is_status_1() {
    let shell = Shell::new();
    shell.with_file("large_data.csv", &large_data(10_000));
    for format in ["table", "csv", "json", "parquet", "arrow", "arrow-stream"] {
        let ran = shell.run(&["sql", "--format", format, "-o", "/dev/full", "select * from 'large_data.csv'"]);
        assert_message(&ran, 1, &["writing /dev/full", "No space left"]);
    }
    let ran = shell.run(&["sql", "-o", "no/such/folder.csv", "select * from 'large_data.csv'"]);
    assert_message(&ran, 1, &["no/such/folder.csv"]);
}

#[test]
fn a_reader_that_goes_away_ends_it_quietly() {
    let shell = Shell::new();
    shell.with_file("large_data.csv", &large_data(200_000));
    for format in ["table", "csv", "json", "parquet", "arrow", "arrow-stream"] {
        let arguments = ["sql", "--format", format, "select * from 'large_data.csv'"];
        let mut process = shell.command(&arguments).spawn().expect("the binary is there");
        let mut out = BufReader::new(process.stdout.take().expect("a pipe"));
        let mut first = Vec::new();
        out.by_ref().take(16).read_to_end(&mut first).expect("it writes");
        drop(out);
        let ran = Ran::from(process.wait_with_output().expect("it ends"));
        assert_eq!((ran.status, ran.errors.as_str()), (0, ""), "{format}");
    }
}

#[test]
fn an_interrupt_is_status_130_and_leaves_nothing_behind() {
    let shell = Shell::new();
    shell.with_file("large_data.csv", &large_data(2_000_000));
    std::fs::create_dir(shell.path("spill")).expect("a folder");
    for signal in ["INT", "TERM"] {
        let query = "select id, avg(value) from 'large_data.csv' group by id";
        let arguments = ["sql", "--memory-limit", "16MB", "--spill-dir", "spill", "-o", "out.csv", query];
        let process = shell.command(&arguments).spawn().expect("the binary is there");
        let begin = Instant::now();
        let part = format!(".out.csv.{}.part", process.id());
        while !shell.path(&part).exists() {
            assert!(begin.elapsed() < Duration::from_secs(60), "it does not begin: {:?}", shell.names());
            std::thread::yield_now();
        }
        let sent = Command::new("kill").args(["-s", signal, &process.id().to_string()]).status();
        assert!(sent.expect("there is a kill").success());
        let ran = Ran::from(process.wait_with_output().expect("it ends"));
        assert_message(&ran, 130, &["interrupted"]);
        assert_eq!(shell.names(), ["large_data.csv", "spill"]);
        assert_eq!(names(&shell.path("spill")), [""; 0]);
    }
}

#[test]
fn an_interrupt_ends_a_statement_that_writes_a_file() {
    let shell = Shell::new();
    shell.with_file("large_data.csv", &large_data(2_000_000));
    std::fs::create_dir(shell.path("spill")).expect("a folder");
    let query = "copy (select id, avg(value) from 'large_data.csv' group by id) to 'out.csv'";
    let arguments = ["sql", "--memory-limit", "16MB", "--spill-dir", "spill", query];
    let process = shell.command(&arguments).spawn().expect("the binary is there");
    let begin = Instant::now();
    // It spills: so it runs.
    while !names(&shell.path("spill"))
        .first()
        .is_some_and(|folder| shell.path("spill").join(folder).read_dir().is_ok_and(|mut files| files.any(|_| true)))
    {
        assert!(begin.elapsed() < Duration::from_secs(60), "it does not begin");
        std::thread::yield_now();
    }
    let sent = Command::new("kill").args(["-s", "INT", &process.id().to_string()]).status();
    assert!(sent.expect("there is a kill").success());
    let ran = Ran::from(process.wait_with_output().expect("it ends"));
    assert_message(&ran, 130, &["interrupted"]);
    assert_eq!(shell.names(), ["large_data.csv", "spill"]);
    assert_eq!(names(&shell.path("spill")), [""; 0]);
}

#[test]
fn help_says_what_the_statuses_mean() {
    let help = Shell::new().ok(&["sql", "--help"]);
    assert!(help.contains("--memory-limit") && help.contains("Exit status:"), "{help}");
    assert!(help.as_bytes().lines().count() > 20);
}

#[test]
fn what_went_wrong_is_logged_with_its_place_if_it_is_asked_for() {
    let shell = Shell::new();
    let mut text = large_data(40_000);
    text.push_str("40000,cat_0,oops\n");
    shell.with_file("large_data.csv", &text);
    let logged = |level: &str| -> Vec<serde_json::Value> {
        let mut command = shell.command(&["sql", "select sum(value) from 'large_data.csv'"]);
        let ran = command.env("AQUEDUCT_LOG", level).env("AQUEDUCT_LOG_FORMAT", "json").output().expect("it runs");
        let ran = Ran::from(ran);
        assert_eq!(ran.status, 1, "{}", ran.errors);
        let lines = ran.errors.lines().filter(|line| line.starts_with('{'));
        lines.map(|line| serde_json::from_str(line).expect("JSON")).collect()
    };
    let lines = logged("error,aqueduct_runtime=info");
    let failed: Vec<_> = lines.iter().filter(|line| line["level"] == "ERROR").collect();
    assert_eq!(failed.len(), 1, "{lines:?}");
    let fields = &failed[0]["fields"];
    assert_eq!(
        (&fields["message"], &fields["job"], &fields["node"]),
        (&"job failed".into(), &0.into(), &"large_data.csv".into())
    );
    assert!(
        fields["partition"].is_u64() && fields["error"].as_str().is_some_and(|error| error.contains("oops")),
        "{fields}"
    );
    assert_eq!((&failed[0]["span"]["name"], &failed[0]["span"]["job"]), (&"job".into(), &0.into()));
    assert!(logged("off").is_empty());
    assert!(logged("debug").len() > lines.len(), "the level is what the environment says");
}

#[test]
fn a_report_is_written_however_it_ends() {
    let shell = Shell::new();
    let mut text = large_data(40_000);
    shell.with_file("large_data.csv", &text);
    text.push_str("40000,cat_0,oops\n");
    shell.with_file("wrong.csv", &text);
    let report = |query: &str, status: i32| {
        let _ = std::fs::remove_file(shell.path("report.html"));
        let ran = shell.run(&["sql", "--report", "report.html", query]);
        assert_eq!(ran.status, status, "{}", ran.errors);
        std::fs::read_to_string(shell.path("report.html")).ok()
    };
    let page = report("select category, avg(value) from 'large_data.csv' group by category", 0).expect("a report");
    for part in [
        "large_data",
        "aggregate",
        "finished after",
        "logical plan",
        "Aggregate: groupBy",
        "actor graph",
        "Memory over time",
    ] {
        assert!(page.contains(part), "{part}");
    }
    let page = report("select sum(value) from 'wrong.csv'", 1).expect("a report");
    assert!(page.contains("class=\"callout failed\"") && page.contains("oops") && page.contains("failed after"));
    assert_eq!(report("select nothing from 'large_data.csv'", 3), None, "nothing ran");
    let ran = shell.run(&["sql", "--report", "no/such/folder.html", "select sum(value) from 'large_data.csv'"]);
    assert_message(&ran, 1, &["folder.html"]);
    let query = "copy (select category from 'large_data.csv' limit 3) to 'out.csv'";
    assert!(report(query, 0).expect("a report").contains("<title>2 jobs"), "one for the statement, one for its answer");
}
