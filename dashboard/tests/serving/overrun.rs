//! An operator that holds more than it said, over the limit of its worker: who it was is told, to programs and on the page.

use std::sync::Arc;

use aqueduct_runtime::memory::Account;
use aqueduct_runtime::testing::{CountingSink, NumbersSource, eventually, numbers};
use aqueduct_runtime::{Cluster, Graph, Operator, OperatorContext, OperatorSpec, Outbox, Port, Result, Step};
use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;

use crate::browser::Browser;
use crate::{MIB, cluster, get, serve};

/// Forwards its input, and claims more than any worker here may hold meanwhile.
#[derive(Debug)]
struct Greedy;

struct Claiming(Account);

impl OperatorSpec for Greedy {
    fn name(&self) -> &str {
        "greedy"
    }

    fn output_schema(&self, _output: usize, inputs: &[SchemaRef]) -> Result<SchemaRef> {
        Ok(Arc::clone(&inputs[0]))
    }

    fn instantiate(&self, context: OperatorContext) -> Result<Box<dyn Operator>> {
        Ok(Box::new(Claiming(context.memory)))
    }
}

impl Operator for Claiming {
    fn process(&mut self, _port: Port, batch: RecordBatch, out: &mut Outbox) -> Result<Step> {
        self.0.claim(&numbers(0..(72 * MIB / 8) as i64));
        out.push(batch);
        Ok(Step::NeedInput)
    }
}

fn overrun(cluster: &Cluster) {
    let mut graph = Graph::new();
    let source = graph.source("read", NumbersSource::new(10));
    let greedy = graph.operator("greedy", Greedy, source.gather());
    graph.sink("write", CountingSink::new(), greedy);
    cluster.run(&graph).expect("it starts").wait().expect("it ends well");
}

#[test]
fn an_overrun_is_told_to_programs_with_who_it_was() {
    let cluster = cluster();
    overrun(&cluster);
    let dashboard = serve(&cluster);
    let document = get(&dashboard, "/openapi.json").json();
    let memory = get(&dashboard, "/api/memory").json();
    let schema = &document["paths"]["/api/memory"]["get"]["responses"]["200"]["content"]["application/json"]["schema"];
    crate::api::check(&document, schema, &memory, "memory").unwrap_or_else(|error| panic!("{error}"));
    let worker = &memory["workers"][0];
    assert_eq!(worker["overruns"], 1);
    let event = worker["events"].as_array().and_then(|events| events.last()).expect("an event");
    assert_eq!((&event["kind"], &event["holder"]), (&"overrun".into(), &"greedy [0]".into()), "{event}");
    assert!(event["bytes"].as_u64() > Some(8 * MIB as u64) && event["count"] == 1, "{event}");
    let report = get(&dashboard, "/api/jobs/0/report").body;
    assert!(report.contains("\"overrun\"") && report.contains("greedy [0]"));
    assert!(get(&dashboard, "/metrics").body.contains("aqueduct_worker_overruns_total{worker=\"0\"} 1\n"));
}

#[test]
fn an_overrun_is_read_on_the_memory_page() {
    let Some(browser) = Browser::open(1280) else { return };
    let cluster = cluster();
    overrun(&cluster);
    let dashboard = serve(&cluster);
    browser.go(&format!("{}#/memory", dashboard.link()));
    eventually("it is in the list", || browser.text(".events tbody").contains("went over the limit"));
    let line = browser.text(".events tbody tr");
    assert!(line.contains("greedy [0]"), "{line}");
    assert!(browser.text("main").contains("a worker went over its limit once"));
    browser.go(dashboard.link());
    eventually("it is on the worker's card", || browser.text(".worker .warning").contains("over its limit once"));
    browser.complains_of_nothing();
}
