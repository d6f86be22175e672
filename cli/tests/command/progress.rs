//! What is said on standard error while a query runs: lines for programs, a bar on a terminal, else nothing.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::{Ran, Shell, large_data};

const QUERY: &str = "select category, avg(value) from 'large_data.csv' group by category";

/// The lines for programs among those on standard error, the others left out.
fn lines(ran: &Ran) -> Vec<Value> {
    let objects = ran.errors.lines().filter(|line| line.starts_with('{'));
    objects.map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

#[test]
fn lines_for_programs_come_at_a_steady_rate_and_the_last_says_how_it_ended() {
    let shell = Shell::new();
    let text = large_data(300_000);
    shell.with_file("large_data.csv", &text);
    let ran = shell.run(&["sql", "--progress", "json", "-o", "out.csv", QUERY]);
    assert_eq!(ran.status, 0, "{}", ran.errors);
    let lines = lines(&ran);
    assert_eq!(lines.len(), ran.errors.lines().count(), "nothing else is written: {}", ran.errors);
    let last = lines.last().expect("a line");
    assert_eq!((&last["state"], &last["rows"], &last["error"]), (&"finished".into(), &300_000.into(), &Value::Null));
    assert_eq!((&last["bytes"], &last["total_bytes"]), (&text.len().into(), &text.len().into()));
    assert!(last["seconds_left"].is_null() && last["bottleneck"]["sentence"].is_string(), "{last}");
    let times: Vec<f64> = lines.iter().map(|line| line["elapsed_seconds"].as_f64().expect("a number")).collect();
    assert!(times.is_sorted(), "{times:?}");
    // Twice a second, but for the last one, which comes when it is over.
    assert!(lines.len() as f64 <= times[times.len() - 1] / 0.5 + 2.0, "{times:?}");
    assert!(
        lines[..lines.len() - 1]
            .iter()
            .all(|line| ["waiting", "running"].contains(&line["state"].as_str().unwrap_or("")))
    );
}

#[test]
fn lines_for_programs_say_what_went_wrong() {
    let shell = Shell::new();
    let mut text = large_data(40_000);
    text.push_str("40000,cat_0,oops\n");
    shell.with_file("large_data.csv", &text);
    let ran = shell.run(&["sql", "--progress", "json", QUERY]);
    assert_eq!(ran.status, 1);
    let lines = lines(&ran);
    let last = lines.last().expect("a line");
    assert_eq!(last["state"], "failed");
    assert!(last["error"].as_str().is_some_and(|error| error.contains("oops")), "{last}");
    // What people read is there, too, and once.
    assert_eq!(ran.errors.matches("error: ").count(), 1, "{}", ran.errors);
}

#[test]
fn each_job_of_a_statement_has_lines_of_its_own() {
    let shell = Shell::new();
    shell.with_file("large_data.csv", &large_data(1000));
    let ran = shell.run(&["sql", "--progress", "json", &format!("copy ({QUERY}) to 'out.csv'")]);
    assert_eq!(ran.status, 0, "{}", ran.errors);
    let lines = lines(&ran);
    let ends: Vec<_> = lines.iter().filter(|line| line["state"] == "finished").map(|line| &line["job"]).collect();
    assert_eq!(ends, [&Value::from(0), &Value::from(1)], "{}", ran.errors);
}

#[test]
fn an_interrupt_is_the_last_line() {
    let shell = Shell::new();
    shell.with_file("large_data.csv", &large_data(2_000_000));
    std::fs::create_dir(shell.path("spill")).expect("a folder");
    let query = "select id, avg(value) from 'large_data.csv' group by id";
    let arguments =
        ["sql", "--progress", "json", "--memory-limit", "16MB", "--spill-dir", "spill", "-o", "out.csv", query];
    let process = shell.command(&arguments).spawn().expect("the binary is there");
    let part = format!(".out.csv.{}.part", process.id());
    let begin = Instant::now();
    while !shell.path(&part).exists() {
        assert!(begin.elapsed() < Duration::from_secs(60), "it does not begin: {:?}", shell.names());
        std::thread::yield_now();
    }
    let sent = Command::new("kill").args(["-s", "INT", &process.id().to_string()]).status();
    assert!(sent.expect("there is a kill").success());
    let ran = Ran::from(process.wait_with_output().expect("it ends"));
    assert_eq!(ran.status, 130, "{}", ran.errors);
    assert_eq!(lines(&ran).last().expect("a line")["state"], "cancelled", "{}", ran.errors);
}

#[test]
fn without_a_terminal_nothing_is_said() {
    let shell = Shell::new();
    shell.with_file("large_data.csv", &large_data(20_000));
    for options in [&["--progress", "bar"][..], &["--progress", "none"], &["--quiet"], &[]] {
        shell.ok(&[&["sql"], options, &[QUERY]].concat());
    }
}

/// What a terminal is shown while `arguments` run; `None` if there is no `script` to make one.
fn on_a_terminal(shell: &Shell, arguments: &str) -> Option<String> {
    let line = format!("{} {arguments}", env!("CARGO_BIN_EXE_aqueduct"));
    let mut script = Command::new("script");
    script.args(["-qec", &line, "/dev/null"]).current_dir(shell.path(".")).stdin(Stdio::null());
    script.env("TERM", "xterm-256color").env("NO_COLOR", "1");
    let Ok(output) = script.output() else {
        eprintln!("LEFT OUT: there is no `script`");
        return None;
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn a_terminal_has_a_bar_without_colours_unless_it_is_to_be_quiet() {
    let shell = Shell::new();
    shell.with_file("large_data.csv", &large_data(2_000_000));
    let query = "sql -o out.csv \"select id, avg(value) from 'large_data.csv' group by id\"";
    let Some(shown) = on_a_terminal(&shell, query) else { return };
    assert!(shown.contains(" rows, ") && shown.contains('%') && shown.contains("/s"), "{shown:?}");
    assert!(shown.contains("rows written to out.csv"), "{shown:?}");
    // `CSI … m` is a colour; the cursor may move.
    let colours = shown.split("\u{1b}[").skip(1).filter(|rest| {
        rest.find(|letter: char| letter.is_ascii_alphabetic()).is_some_and(|end| rest.as_bytes()[end] == b'm')
    });
    assert_eq!(colours.count(), 0, "{shown:?}");
    let quiet = on_a_terminal(&shell, &query.replace("sql", "sql --quiet")).unwrap_or_default();
    assert_eq!(quiet.trim(), "", "it is to be quiet");
}
