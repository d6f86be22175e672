//! Spans of a job, its tasks, their steps, and what goes to disk and back: as a subscriber sees them.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

use aqueduct::operators::range;
use aqueduct::prelude::*;
use parking_lot::Mutex;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;

/// A span or an event.
#[derive(Debug, Clone)]
struct Seen {
    name: String,
    level: Level,
    parent: Option<String>,
    fields: BTreeMap<String, String>,
}

#[derive(Clone, Default)]
struct Collector(Arc<Mutex<(Vec<Seen>, Vec<Seen>)>>);

struct Fields(BTreeMap<String, String>);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.insert(field.name().into(), format!("{value:?}").trim_matches('"').into());
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Collector {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut fields = Fields(BTreeMap::new());
        attributes.record(&mut fields);
        let parent = context.span(id).and_then(|span| span.parent()).map(|parent| parent.name().to_string());
        let (name, level) = (attributes.metadata().name().into(), *attributes.metadata().level());
        self.0.lock().0.push(Seen { name, level, parent, fields: fields.0 });
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields(BTreeMap::new());
        event.record(&mut fields);
        let parent = context.event_span(event).map(|span| span.name().to_string());
        let name = fields.0.get("message").cloned().unwrap_or_default();
        let seen = Seen { name, level: *event.metadata().level(), parent, fields: fields.0 };
        self.0.lock().1.push(seen);
    }
}

fn spans(seen: &[Seen], name: &str) -> Vec<Seen> {
    seen.iter().filter(|span| span.name == name).cloned().collect()
}

fn field<'a>(seen: &'a Seen, name: &str) -> &'a str {
    seen.fields.get(name).map_or("", String::as_str)
}

#[test]
fn job_task_step_spill_and_read_have_spans_and_an_error_says_where() {
    let collector = Collector::default();
    tracing::subscriber::set_global_default(tracing_subscriber::registry().with(collector.clone())).expect("the first");
    let cluster = LocalCluster::builder().workers(2).memory_limit("8MB").progress(false).without_dashboard();
    let cluster = cluster.start().expect("it starts");
    let numbers = cluster.from_source("numbers", range("n", Some(1_500_000))).expect("a source");
    let sorted = numbers.sort(desc("n"));
    let mut rows = sorted.stream().expect("it runs");
    let count: usize = rows.by_ref().map(|batch| batch.expect("rows").num_rows()).sum();
    assert_eq!(count, 1_500_000);
    let (id, metrics) = (rows.job().id().to_string(), rows.job().metrics());
    assert!(metrics.nodes.iter().any(|node| node.spilled_bytes > 0), "it spills");
    drop(rows);

    let (seen, _) = collector.0.lock().clone();
    let job = spans(&seen, "job");
    assert_eq!(job.len(), 1);
    assert_eq!((job[0].level, field(&job[0], "job"), &job[0].parent), (Level::INFO, &*id, &None));
    let tasks = spans(&seen, "task");
    assert_eq!(tasks.len(), metrics.tasks.len());
    for (span, task) in tasks.iter().zip(&metrics.tasks) {
        assert_eq!((span.level, span.parent.as_deref()), (Level::DEBUG, Some("job")));
        assert_eq!((field(span, "task"), field(span, "partition")), (&*task.name, &*task.partition.to_string()));
        assert_eq!(field(span, "worker"), task.worker.to_string());
    }
    let steps = spans(&seen, "step");
    let counted: u64 = metrics.tasks.iter().map(|task| task.steps).sum();
    assert!(steps.len() as u64 >= counted, "{} spans for {counted} steps", steps.len());
    assert!(steps.iter().all(|step| step.level == Level::TRACE && step.parent.as_deref() == Some("task")));
    for name in ["spill", "read"] {
        let disk = spans(&seen, name);
        assert!(!disk.is_empty(), "{name}");
        let written = |span: &Seen| field(span, "bytes").parse::<u64>().is_ok_and(|bytes| bytes > 0);
        assert!(disk.iter().all(|span| field(span, "job") == id && written(span)), "{disk:?}");
        assert!(disk.iter().any(|span| field(span, "holder").starts_with("sort")), "{disk:?}");
    }

    // An error's line: with a job of its own, whose one value is no number.
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("t.csv");
    let text: String =
        (0..50_000).map(|row| if row == 49_000 { "oops\n".into() } else { format!("{row}\n") }).collect();
    std::fs::write(&path, format!("n\n{text}")).expect("there is room");
    let error = cluster.read_csv(&path).and_then(|rows| rows.count()).expect_err("no number").to_string();
    let (_, events) = collector.0.lock().clone();
    let failed: Vec<_> = events.iter().filter(|event| event.level == Level::ERROR).collect();
    assert_eq!(failed.len(), 1, "{failed:?}");
    assert_eq!((&*failed[0].name, failed[0].parent.as_deref()), ("job failed", Some("job")));
    assert_eq!((field(failed[0], "job"), field(failed[0], "node")), ("1", "t"));
    assert!(field(failed[0], "partition").parse::<usize>().is_ok(), "{:?}", failed[0]);
    assert!(field(failed[0], "error").contains("oops") && error.contains("oops"), "{:?}", failed[0]);
}
