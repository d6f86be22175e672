//! `/metrics` is what Prometheus reads: checked against the grammar of its text format, rule by rule, and by the parser of
//! the Prometheus project's Python client, where there is one.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::process::{Command, Stdio};

use aqueduct_runtime::testing::Gate;

use crate::{cluster, get, held_up, serve, short};

/// Values by name and labels.
type Samples = BTreeMap<(String, String), f64>;

/// Samples of a text that keeps to all rules.
fn parse(text: &str) -> Result<Samples, String> {
    let is_name = |name: &str| {
        name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == ':')
            && name.chars().next().is_some_and(|c| !c.is_ascii_digit())
    };
    if !text.ends_with('\n') {
        return Err("the last line has no end".into());
    }
    let mut samples = BTreeMap::new();
    let mut families: BTreeSet<String> = BTreeSet::new();
    let mut family = String::new();
    let mut kind = String::new();
    for line in text.lines() {
        let wrong = |what: &str| Err(format!("{what}: {line}"));
        if let Some(comment) = line.strip_prefix("# ") {
            let mut words = comment.splitn(3, ' ');
            match (words.next(), words.next(), words.next()) {
                (Some("HELP"), Some(name), Some(help)) if is_name(name) && !help.is_empty() => {
                    if !families.insert(name.into()) {
                        return wrong("a family is in two places");
                    }
                    family = name.into();
                    kind.clear();
                }
                (Some("TYPE"), Some(name), Some(of)) if name == family && ["counter", "gauge"].contains(&of) => {
                    if !kind.is_empty() {
                        return wrong("two types");
                    }
                    kind = of.into();
                    if (of == "counter") != name.ends_with("_total") {
                        return wrong("a counter's name ends with _total, and no other");
                    }
                }
                _ => return wrong("not a comment that is known"),
            }
            continue;
        }
        let (series, value) = line.rsplit_once(' ').ok_or(format!("no value: {line}"))?;
        let (name, labels) = match series.split_once('{') {
            Some((name, labels)) => (name, labels.strip_suffix('}').ok_or(format!("no end of labels: {line}"))?),
            None => (series, ""),
        };
        if name != family || kind.is_empty() {
            return wrong("a sample outside of its family");
        }
        check_labels(labels, &is_name).map_err(|error| format!("{error}: {line}"))?;
        let value: f64 = value.parse().map_err(|_| format!("not a number: {line}"))?;
        if kind == "counter" && (value < 0.0 || !value.is_finite()) {
            return wrong("not a count");
        }
        if samples.insert((name.to_string(), labels.to_string()), value).is_some() {
            return wrong("twice the same");
        }
    }
    Ok(samples)
}

fn check_labels(mut labels: &str, is_name: &dyn Fn(&str) -> bool) -> Result<(), String> {
    let mut seen = BTreeSet::new();
    while !labels.is_empty() {
        let (name, rest) = labels.split_once("=\"").ok_or("a label without a value")?;
        if !is_name(name) || name.contains(':') || !seen.insert(name) {
            return Err(format!("the label {name}"));
        }
        let mut end = None;
        let mut chars = rest.char_indices();
        while let Some((at, c)) = chars.next() {
            match c {
                '\\' => match chars.next() {
                    Some((_, '\\' | '"' | 'n')) => {}
                    other => return Err(format!("the escape {other:?}")),
                },
                '"' => {
                    end = Some(at);
                    break;
                }
                _ => {}
            }
        }
        let end = end.ok_or("a value without an end")?;
        labels = match &rest[end + 1..] {
            "" => "",
            more => more.strip_prefix(',').filter(|more| !more.is_empty()).ok_or("no comma between labels")?,
        };
    }
    Ok(())
}

/// Name, labels, and value.
type ReadSample = (String, Vec<(String, String)>, f64);

/// Reads the text from standard input, and writes name, labels and value of each sample as JSON.
const CLIENT: &str = r#"
import json, sys
from prometheus_client.parser import text_string_to_metric_families
families = text_string_to_metric_families(sys.stdin.read())
json.dump([[s.name, list(s.labels.items()), s.value] for family in families for s in family.samples], sys.stdout)
"#;

/// What the Prometheus project's own client for Python reads; `None` where there is none.
fn parsed_by_the_client(text: &str) -> Option<Samples> {
    let has_client = |python: &&&str| {
        let mut command = Command::new(python);
        command.args(["-c", "import prometheus_client"]).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    // The second is Debian's, for which its packages are.
    let python = ["python3", "/usr/bin/python3"].iter().find(has_client)?;
    let mut command = Command::new(python);
    command.args(["-c", CLIENT]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut client = command.spawn().expect("it was there a moment ago");
    client.stdin.take().expect("piped").write_all(text.as_bytes()).expect("read by the client");
    let output = client.wait_with_output().expect("its output");
    assert!(output.status.success(), "{text}");
    let samples: Vec<ReadSample> = serde_json::from_slice(&output.stdout).expect("samples");
    let escaped = |value: &str| value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    let label = |(name, value): &(String, String)| format!("{name}=\"{}\"", escaped(value));
    let labels = |labels: &[(String, String)]| labels.iter().map(label).collect::<Vec<_>>().join(",");
    Some(samples.iter().map(|(name, of, value)| ((name.clone(), labels(of)), *value)).collect())
}

#[test]
fn the_text_keeps_to_the_grammar_and_the_figures_are_those_of_the_cluster() {
    let cluster = cluster();
    let dashboard = serve(&cluster);
    short(&cluster);
    let gate = Gate::shut();
    let job = held_up(&cluster, &gate);
    let answer = get(&dashboard, "/metrics");
    assert_eq!(answer.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    let samples = parse(&answer.body).unwrap_or_else(|error| panic!("{error}"));
    match parsed_by_the_client(&answer.body) {
        Some(same) => assert_eq!(samples, same),
        None => eprintln!("LEFT OUT: there is no client: apt-get install python3-prometheus-client"),
    }
    let value = |name: &str, labels: &str| {
        let found = samples.get(&(name.to_string(), labels.to_string()));
        *found.unwrap_or_else(|| panic!("{name}{{{labels}}}\n{}", answer.body))
    };
    assert_eq!(value("aqueduct_jobs_ended_total", "state=\"finished\""), 1.0);
    assert_eq!(value("aqueduct_jobs", "state=\"running\""), 1.0);
    assert_eq!(value("aqueduct_worker_limit_bytes", "worker=\"1\""), (64 << 20) as f64);
    assert!(value("aqueduct_source_rows_total", "") > 1000.0);
    let quoted = "job=\"1\",index=\"0\",node=\"a \\\"quoted\\\"\\\\ name\"";
    assert!(value("aqueduct_node_rows_out_total", quoted) > 0.0);
    let charged = value("aqueduct_worker_charged_bytes", "worker=\"0\"");
    let kinds = ["mailboxes", "state", "tasks", "io", "spill_buffers", "other"];
    let of_kinds: f64 = kinds
        .iter()
        .map(|kind| value("aqueduct_worker_kind_charged_bytes", &format!("worker=\"0\",kind=\"{kind}\"")))
        .sum();
    assert!((charged - of_kinds).abs() < 1e6, "{charged} {of_kinds}");
    drop(job);
}

#[test]
fn the_check_finds_what_is_wrong() {
    let good = "# HELP a_total Some.\n# TYPE a_total counter\na_total{x=\"1\"} 1\na_total{x=\"2\"} 2\n";
    assert_eq!(parse(good).expect("good").len(), 2);
    for (from, to) in [
        ("a_total{x=\"2\"} 2\n", "a_total{x=\"2\"} 2"),
        ("a_total{x=\"2\"}", "b_total{x=\"2\"}"),
        ("x=\"2\"", "x=\"1\""),
        ("x=\"2\"", "2x=\"2\""),
        ("x=\"2\"", "x=\"2\",x=\"3\""),
        ("x=\"2\"", "x=\"\\2\""),
        ("x=\"2\"", "x=\"2\","),
        (" 2\n", " two\n"),
        (" 2\n", " -2\n"),
        ("# TYPE a_total counter\n", ""),
        ("a_total", "a"),
    ] {
        let bad = good.replace(from, to);
        assert!(bad != good && parse(&bad).is_err(), "{bad}");
    }
}
