//! What can be asked for is what `openapi.json` says, and is what the cluster does.

use std::collections::BTreeSet;

use aqueduct_runtime::metrics::JobState;
use aqueduct_runtime::testing::{Gate, eventually};
use serde_json::Value;

use crate::{Events, ask, cluster, get, held_up, serve, short};

/// Whether `value` is what `schema` says: types, enumerations, properties, items, references.
pub(crate) fn check(document: &Value, schema: &Value, value: &Value, at: &str) -> Result<(), String> {
    if let Some(path) = schema["$ref"].as_str() {
        let schema = document.pointer(path.trim_start_matches('#')).ok_or(format!("{at}: no schema {path}"))?;
        return check(document, schema, value, at);
    }
    if let Some(choices) = schema["anyOf"].as_array() {
        let tried: Vec<_> = choices.iter().map(|choice| check(document, choice, value, at)).collect();
        return if tried.iter().any(Result::is_ok) { Ok(()) } else { tried.into_iter().collect() };
    }
    let fits = match schema["type"].as_str() {
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("integer") => value.is_u64() || value.is_i64(),
        Some("number") => value.is_number(),
        Some("boolean") => value.is_boolean(),
        Some("null") => value.is_null(),
        other => return Err(format!("{at}: the schema has the type {other:?}")),
    };
    if !fits {
        return Err(format!("{at}: {value} is not of the type {}", schema["type"]));
    }
    if let Some(known) = schema["enum"].as_array()
        && !known.contains(value)
    {
        return Err(format!("{at}: {value} is none of {known:?}"));
    }
    if let Some(object) = value.as_object() {
        for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            if !object.contains_key(name) {
                return Err(format!("{at}: `{name}` is missing"));
            }
        }
        for (name, value) in object {
            match schema["properties"].get(name) {
                Some(schema) => check(document, schema, value, &format!("{at}.{name}"))?,
                None if schema["additionalProperties"] == false => return Err(format!("{at}: `{name}` is not known")),
                None => {}
            }
        }
    }
    for (index, item) in value.as_array().into_iter().flatten().enumerate() {
        let schema = schema["prefixItems"].get(index).unwrap_or(&schema["items"]);
        check(document, schema, item, &format!("{at}[{index}]"))?;
    }
    Ok(())
}

#[test]
fn every_answer_is_what_the_document_says() {
    let cluster = cluster();
    let dashboard = serve(&cluster);
    let gate = Gate::shut();
    short(&cluster);
    let job = held_up(&cluster, &gate);
    // What is recorded is there the second time.
    get(&dashboard, "/api/timeline");
    gate.let_through(5);
    let document = get(&dashboard, "/openapi.json").json();
    let mut asked = BTreeSet::new();
    for (path, methods) in document["paths"].as_object().expect("paths") {
        for (method, operation) in methods.as_object().expect("methods") {
            if method == "post" || path == "/events" {
                continue;
            }
            for id in ["0", "1"] {
                let real = path.replace("{id}", id).replace("{node}", "1");
                let answer = get(&dashboard, &real);
                assert_eq!(answer.status, 200, "{real}: {}", answer.body);
                let (kind, content) = operation["responses"]["200"]["content"]
                    .as_object()
                    .expect("content")
                    .iter()
                    .next()
                    .expect("a kind");
                let is = answer.header("content-type").expect("a content type");
                assert!(is.split(';').next() == Some(kind), "{real}: {is}");
                if kind == "application/json" {
                    check(&document, &content["schema"], &answer.json(), &real)
                        .unwrap_or_else(|error| panic!("{error}"));
                }
            }
            if operation["responses"]["404"].is_object() {
                let answer = get(&dashboard, &path.replace("{id}", "99").replace("{node}", "1"));
                assert_eq!(answer.status, 404, "{path}");
                check(&document, &document["components"]["schemas"]["Error"], &answer.json(), path).expect("an error");
            }
            asked.insert(path.clone());
        }
    }
    assert!(asked.len() >= 15, "{asked:?}");
    let events = |name: &str, schema: &str| {
        let event = Events::open(dashboard.address(), "/events?job=1").next(name);
        let schema = &document["components"]["schemas"][schema];
        let schema =
            if event.is_array() { serde_json::json!({ "type": "array", "items": schema }) } else { schema.clone() };
        check(&document, &schema, &event, name).unwrap_or_else(|error| panic!("{error}"));
    };
    events("overview", "Overview");
    events("job", "Frame");
    events("history", "Sample");
    // All that is served is in the document; what the pages are made of is not for programs.
    let source = include_str!("../../src/routes.rs");
    let served = source.split("at(\"").skip(1).filter_map(|rest| rest.split('"').next());
    for path in served.filter(|path| !path.starts_with("/assets")) {
        assert!(document["paths"].get(path).is_some(), "{path} is not in the document");
    }
    drop(job);
}

#[test]
fn pages_are_whole_and_load_nothing_from_elsewhere() {
    let cluster = cluster();
    let dashboard = serve(&cluster);
    let page = get(&dashboard, "/");
    assert_eq!(page.status, 200);
    assert!(page.header("content-security-policy").is_some_and(|policy| policy.starts_with("default-src 'none'")));
    let mut open = vec![page.body];
    let mut seen = BTreeSet::new();
    while let Some(text) = open.pop() {
        // Names of namespaces are no places.
        let places = text.replace("http://www.w3.org/", "");
        let places = places.replace("\"http://\"", "");
        assert!(!places.contains("http://") && !places.contains("https://"), "{text}");
        assert!(!text.contains("{{") && !text.contains("innerHTML"), "{text}");
        let assets = text.match_indices("/assets/").map(|(at, _)| &text[at..]);
        let assets = assets.map(|rest| rest.split(['"', '\'']).next().unwrap_or_default().to_string());
        let modules = text.match_indices("from \"./").map(|(at, found)| &text[at + found.len()..]);
        let modules = modules.map(|rest| format!("/assets/{}", rest.split('"').next().unwrap_or_default()));
        for path in assets.chain(modules).collect::<Vec<_>>() {
            if seen.insert(path.clone()) {
                let answer = get(&dashboard, &path);
                assert_eq!(answer.status, 200, "{path}");
                assert!(!answer.body.is_empty(), "{path}");
                open.push(answer.body);
            }
        }
    }
    assert_eq!(seen.len(), 7, "{seen:?}");
}

#[test]
fn a_job_is_cancelled_by_a_page_of_ours_and_by_no_other() {
    let cluster = cluster();
    let dashboard = serve(&cluster);
    let gate = Gate::shut();
    let job = held_up(&cluster, &gate);
    let session = get(&dashboard, "/api/session").json();
    let csrf = session["csrf"].as_str().expect("text").to_string();
    assert!(get(&dashboard, "/").body.contains(&csrf), "the page knows it");
    let port = dashboard.address().port();
    let (ours, theirs) = (format!("http://127.0.0.1:{port}"), format!("http://evil.example:{port}"));
    let post = |headers: &[(&str, &str)]| ask(dashboard.address(), "POST", "/api/jobs/0/cancel", headers);
    let wrong = csrf.replace(|c: char| c.is_ascii_digit(), "a");
    let key = "x-aqueduct-csrf";
    for headers in [
        &[][..],
        &[(key, "")],
        &[(key, &*wrong)],
        &[(key, &*csrf), ("origin", &*theirs)],
        &[(key, &*csrf), ("origin", "null")],
        &[(key, &*csrf), ("origin", &*ours), ("sec-fetch-site", "cross-site")],
        &[(key, &*csrf), (key, &*csrf)],
    ] {
        assert_eq!(post(headers).status, 403, "{headers:?}");
    }
    assert_eq!(get(&dashboard, "/api/jobs/0/cancel").status, 405);
    assert_eq!(job.state(), JobState::Running);
    let headers = [(key, &*csrf), ("origin", &*ours), ("sec-fetch-site", "same-origin")];
    let answer = post(&headers);
    assert_eq!((answer.status, &answer.json()["cancelled"]), (202, &Value::from(0)), "{}", answer.body);
    eventually("it has ended", || job.state() == JobState::Cancelled);
    assert_eq!(post(&headers).status, 409);
    assert_eq!(ask(dashboard.address(), "POST", "/api/jobs/7/cancel", &headers).status, 404);
    let shown = get(&dashboard, "/api/jobs?state=cancelled").json();
    assert_eq!((&shown[0]["state"], &shown[0]["error"]), (&"cancelled".into(), &"the job was cancelled".into()));
    assert_eq!(get(&dashboard, "/api/jobs?state=running").json(), Value::Array(Vec::new()));
}

#[test]
fn the_graph_moves_while_the_job_runs_and_says_how_it_ended() {
    let cluster = cluster();
    let dashboard = serve(&cluster);
    let gate = Gate::shut();
    let job = held_up(&cluster, &gate);
    let mut events = Events::open(dashboard.address(), "/events?job=0");
    let rows = |frame: &Value| frame["nodes"][2]["rows_in"].as_u64().expect("a number");
    let first = events.next("job");
    assert_eq!(first["summary"]["state"], "running");
    gate.let_through(50);
    let mut later = events.next("job");
    while rows(&later) == rows(&first) {
        later = events.next("job");
    }
    assert!(later["edges"][0]["queued_bytes"].as_u64() > Some(0));
    assert_eq!(later["nodes"].as_array().map(Vec::len), Some(3));
    // The page is open while the job ends, and hears of it.
    job.cancel();
    while events.next("job")["summary"]["state"] == "running" {}
    let over = events.next("job");
    assert_eq!(over["summary"]["state"], "cancelled");
    assert!(events.next("overview")["jobs"][0]["ended_ms"].is_u64());
    // It is forgotten while the page is still open: there is nothing new of it, and the rest goes on.
    for _ in 0..aqueduct_runtime::observe::HISTORY_JOBS {
        short(&cluster);
    }
    assert_eq!(get(&dashboard, "/api/jobs/0").status, 404);
    while events.next("overview")["totals"]["finished"].as_u64() < Some(200) {}
}

#[test]
fn nobody_looks_while_nobody_watches() {
    let cluster = cluster();
    let dashboard = serve(&cluster);
    let looks = || get(&dashboard, "/api/session").json()["looks"].as_u64().expect("a number");
    assert_eq!(looks(), 0);
    let mut one = Events::open(dashboard.address(), "/events");
    let mut other = Events::open(dashboard.address(), "/events");
    for _ in 0..5 {
        one.next("overview");
        other.next("overview");
    }
    // Once for both, and the few that came between.
    assert!((5..15).contains(&looks()), "{}", looks());
    drop((one, other));
    let mut last = 0;
    eventually("it stops", || {
        let now = looks();
        std::thread::park_timeout(std::time::Duration::from_millis(60));
        std::mem::replace(&mut last, now) == now
    });
    let mut again = Events::open(dashboard.address(), "/events");
    assert!(!again.next("history").as_array().expect("samples").is_empty(), "what was seen is remembered");
    again.next("overview");
    assert!(looks() > last);
}
