//! A job, or several, as one HTML file that needs nothing else: what happened, for those who were not there.
//!
//! Whatever comes from a query, a file or an error is text: escaped in the page, and in its data, which no browser takes
//! for markup. A policy in the file lets no other script run, and nothing be loaded.

use std::fmt::Write;
use std::time::SystemTime;

use aqueduct_runtime::Observer;
use aqueduct_runtime::config::format_bytes;
use aqueduct_runtime::metrics::{JobState, grouped};
use aqueduct_runtime::observe::{JobLife, ObservedJob};
use aqueduct_runtime::plan::PlanShape;
use serde::Serialize;

use crate::secret::Secret;
use crate::view::{JobFrame, millis};

const PAGE: &str = include_str!("../assets/report.html");
const STYLE: &str = include_str!("../assets/app.css");
/// In the order in which they use each other.
const SCRIPTS: [&str; 4] = [
    include_str!("../assets/format.js"),
    include_str!("../assets/graph.js"),
    include_str!("../assets/pages.js"),
    include_str!("../assets/report.js"),
];

/// What the pictures are drawn from.
#[derive(Serialize)]
struct Data<'a> {
    made_ms: u64,
    version: &'static str,
    jobs: &'a [JobData],
}

#[derive(Serialize)]
struct JobData {
    id: u64,
    shape: PlanShape,
    frame: JobFrame,
    life: JobLife,
}

/// What `observer` knows of `jobs`, as one HTML file: graph, timeline, memory over time, figures, plan, explain analyze,
/// and errors.
pub fn report(observer: &Observer, jobs: &[ObservedJob]) -> String {
    let data: Vec<_> = jobs
        .iter()
        .map(|job| {
            let metrics = job.metrics();
            JobData {
                id: job.id(),
                shape: PlanShape::clone(&job.shape()),
                frame: JobFrame::of(observer, job, &metrics, &metrics),
                life: JobLife::clone(&job.life()),
            }
        })
        .collect();
    let mut texts = String::new();
    for (job, data) in jobs.iter().zip(&data) {
        section(&mut texts, job, data);
    }
    if jobs.is_empty() {
        texts.push_str("<p class=\"empty\">No job has run.</p>\n");
    }
    let title = match &data[..] {
        [job] => format!("Job {}: {}", job.id, job.frame.summary.title),
        jobs => format!("{} jobs", jobs.len()),
    };
    let made = SystemTime::now();
    let json = Data { made_ms: millis(made), version: env!("CARGO_PKG_VERSION"), jobs: &data };
    let json = serde_json::to_string(&json).unwrap_or_else(|_| "{\"jobs\":[]}".into());
    // A name that nobody can know beforehand: no other script in the file would run.
    let nonce = Secret::random().map(|secret| secret.text().to_string()).unwrap_or_default();
    fill(&[
        ("nonce", &nonce),
        ("title", &escaped(&title)),
        ("style", STYLE),
        ("made", &format!("report, Aqueduct {}", env!("CARGO_PKG_VERSION"))),
        ("jobs", &texts),
        // In JSON it can only be part of a text, where it may be written like that. No tag ends the data early.
        ("data", &json.replace('<', "\\u003c")),
        ("script", &script()),
    ])
}

/// The page with its places filled in. What is filled in is not looked at again.
fn fill(places: &[(&str, &str)]) -> String {
    let mut page = String::new();
    let mut rest = PAGE;
    while let Some((before, after)) = rest.split_once("{{") {
        page.push_str(before);
        let (name, after) = after.split_once("}}").unwrap_or((after, ""));
        page.push_str(places.iter().find(|(place, _)| *place == name).map_or("", |(_, text)| text));
        rest = after;
    }
    page + rest
}

/// The modules of the pages as one script: one file has no others to import.
fn script() -> String {
    let lines = SCRIPTS.iter().flat_map(|script| script.lines()).filter(|line| !line.starts_with("import "));
    let lines: Vec<_> = lines.map(|line| line.strip_prefix("export ").unwrap_or(line)).collect();
    // Names of their own, and those of one script at most once.
    format!("(() => {{\n\"use strict\";\n{}\n}})();", lines.join("\n"))
}

/// The part of a report that is there without a script.
fn section(page: &mut String, job: &ObservedJob, data: &JobData) {
    let (summary, id) = (&data.frame.summary, data.id);
    let state = summary.state.name();
    let _ = writeln!(
        page,
        "<section class=\"job\" id=\"job-{id}\">\n<div class=\"title\"><h1><span class=\"quiet\">Job {id}  </span>{}</h1>\
         <span class=\"pill {state}\">{state}</span></div>",
        escaped(&summary.title)
    );
    let mut facts = vec![
        ("Time", format!("{:.3} s", summary.elapsed_seconds)),
        ("Rows read", grouped(summary.rows)),
        ("Read", format_bytes(summary.bytes as usize)),
        ("Spilled", format_bytes(summary.spilled_bytes as usize)),
        ("Spooled", format_bytes(summary.spooled_bytes as usize)),
        ("Workers", format!("{} × {} threads", data.shape.workers, data.shape.threads_per_worker)),
        ("Memory limit", format!("{} each", format_bytes(data.shape.limit_bytes))),
    ];
    let peak = job.metrics().workers.iter().map(|worker| worker.peak_bytes).max().unwrap_or(0);
    facts.push(("Charged at most", format_bytes(peak)));
    page.push_str("<dl class=\"facts\">");
    for (name, value) in facts {
        let _ = write!(page, "<div><dt>{name}</dt><dd>{}</dd></div>", escaped(&value));
    }
    page.push_str("</dl>\n");
    let mut callout = |kind: &str, lead: &str, text: &str| {
        let _ = writeln!(page, "<p class=\"callout {kind}\"><b>{lead}</b> {}</p>", sentence(text));
    };
    if let Some(error) = &summary.error {
        let lead = if summary.state == JobState::Cancelled { "Cancelled." } else { "It ended with an error." };
        callout(state, lead, error);
    }
    if let Some(wait) = &summary.waits_for {
        callout("", "Waits for memory.", &wait.sentence);
    }
    if let Some(found) = &summary.bottleneck {
        callout("bottleneck", "Bottleneck.", &found.sentence);
    }
    for cycle in &data.frame.deadlocks {
        callout("", "A cycle of waits was resolved.", cycle);
    }
    let without = "<noscript><p class=\"empty\">The picture needs JavaScript.</p></noscript>";
    for (title, name) in [("Graph", "graph"), ("What ran when", "timeline"), ("Memory over time", "memory")] {
        let _ = writeln!(page, "<h2 class=\"heading\">{title}</h2>\n<div class=\"picture-{name}\">{without}</div>");
    }
    let mut text = |title: &str, text: &str| {
        let _ = writeln!(
            page,
            "<h2 class=\"heading\">{}</h2>\n<pre class=\"text\">{}</pre>",
            escaped(title),
            escaped(text)
        );
    };
    text("Explain analyze", &job.analysis().to_string());
    for origin in &data.shape.origins {
        text(&origin.title, &origin.text);
    }
    text("actor graph", &data.shape.to_string());
    page.push_str("</section>\n");
}

/// A sentence whose names stand between backticks.
fn sentence(text: &str) -> String {
    let part = |(index, part): (usize, &str)| {
        if index % 2 == 1 { format!("<code>{}</code>", escaped(part)) } else { escaped(part) }
    };
    text.split('`').enumerate().map(part).collect()
}

/// `text` as text of a page: nothing in it is taken for markup, in an attribute neither.
fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            letter => safe.push(letter),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_taken_for_markup() {
        assert_eq!(sentence("`a<b` is busy"), "<code>a&lt;b</code> is busy");
        assert_eq!(escaped("<a href=\"x\">'&'</a>"), "&lt;a href=&quot;x&quot;&gt;&#39;&amp;&#39;&lt;/a&gt;");
    }

    #[test]
    fn what_is_filled_in_is_not_looked_at_again() {
        let page = fill(&[("title", "{{data}}"), ("data", "DATA"), ("jobs", "{{nonce}}"), ("nonce", "NONCE")]);
        assert!(page.contains("<title>{{data}} ") && page.contains("{{nonce}}</main>"), "{page}");
        assert!(!page.contains("{{style}}") && page.ends_with("</html>\n"));
    }

    #[test]
    fn the_script_imports_nothing_and_ends_no_tag() {
        let script = script();
        assert!(!script.lines().any(|line| line.starts_with("import ") || line.starts_with("export ")));
        assert!(!script.contains("</script") && !STYLE.contains("</style"));
    }
}
