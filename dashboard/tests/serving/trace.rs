//! The trace file: what Chrome and Perfetto ask of its format, and that it has all that the timeline has.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use aqueduct_runtime::io::Pending;
use aqueduct_runtime::state::{Next, SpillingVec, SpillingVecReader};
use aqueduct_runtime::testing::{CountingSink, NumbersSource, SlowOperator, eventually};
use aqueduct_runtime::{
    Cluster, ClusterConfig, Graph, Operator, OperatorContext, OperatorSpec, Outbox, Port, Result, Step,
};
use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use serde_json::Value;

use crate::{MIB, cluster, get, serve};

/// Holds all rows until its input has ended, asks for work on the I/O threads once, and gives them out.
#[derive(Debug)]
struct Hold;

struct Holding {
    context: OperatorContext,
    coming: Option<SpillingVec>,
    going: Option<SpillingVecReader>,
    asked: Option<Pending<()>>,
}

impl OperatorSpec for Hold {
    fn name(&self) -> &str {
        "hold"
    }

    fn output_schema(&self, _output: usize, inputs: &[SchemaRef]) -> Result<SchemaRef> {
        Ok(Arc::clone(&inputs[0]))
    }

    fn instantiate(&self, context: OperatorContext) -> Result<Box<dyn Operator>> {
        let coming = Some(context.spilling_vec(Arc::clone(&context.inputs[0])));
        Ok(Box::new(Holding { context, coming, going: None, asked: None }))
    }

    fn min_memory(&self, batch_bytes: usize) -> usize {
        SpillingVec::min_memory(batch_bytes)
    }

    fn emits_after_input(&self) -> bool {
        true
    }
}

impl Operator for Holding {
    fn process(&mut self, _port: Port, batch: RecordBatch, _out: &mut Outbox) -> Result<Step> {
        self.coming.as_mut().map_or(Ok(()), |rows| rows.push(batch))?;
        Ok(Step::NeedInput)
    }

    fn finish(&mut self, _port: Port, _out: &mut Outbox) -> Result<Step> {
        self.going = self.coming.take().map(SpillingVec::drain);
        let asked = self.asked.insert(self.context.io.run("asking", || ()));
        Ok(Step::Blocked(asked.ticket().clone()))
    }

    fn resume(&mut self, out: &mut Outbox) -> Result<Step> {
        let Some(rows) = &mut self.going else { return Ok(Step::NeedInput) };
        Ok(match rows.next()? {
            Next::Batch(batch) => {
                out.push(batch);
                Step::MoreOutput
            }
            Next::Blocked(ticket) => Step::Blocked(ticket),
            Next::End => Step::NeedInput,
        })
    }

    fn spill(&mut self, bytes: usize) -> Result<usize> {
        match (&mut self.coming, &mut self.going) {
            (Some(rows), _) => rows.spill(bytes),
            (None, Some(rows)) => rows.spill(bytes),
            (None, None) => Ok(0),
        }
    }
}

/// What a track has: start, duration and category, in microseconds.
type Track = Vec<(f64, f64, String)>;

/// Checks each event as the format wants it; the complete ones, by process and thread.
fn tracks(trace: &Value) -> BTreeMap<(u64, u64), Track> {
    assert_eq!(trace["displayTimeUnit"], "ms");
    let mut tracks: BTreeMap<(u64, u64), Track> = BTreeMap::new();
    let mut named = BTreeSet::new();
    for event in trace["traceEvents"].as_array().expect("a list") {
        assert!(event["name"].as_str().is_some_and(|name| !name.is_empty()), "{event}");
        let place = (event["pid"].as_u64().expect("a process"), event["tid"].as_u64().expect("a thread"));
        assert!(place.0 > 0, "that is the system's: {event}");
        match event["ph"].as_str().expect("a phase") {
            "M" => {
                named.insert((place, event["name"].as_str().expect("text").to_string()));
            }
            "X" => {
                let (start, length) = (event["ts"].as_f64().expect("a time"), event["dur"].as_f64().expect("a time"));
                assert!(start >= 0.0 && length >= 0.0, "{event}");
                let category = event["cat"].as_str().expect("a category").to_string();
                tracks.entry(place).or_default().push((start, length, category));
            }
            other => panic!("{other} is not used here"),
        }
    }
    let threads: BTreeSet<u64> = tracks.keys().map(|(_, thread)| *thread).collect();
    assert!(threads.len() == tracks.len() && !threads.contains(&0), "a thread's number is its own: {threads:?}");
    for (place, track) in &mut tracks {
        assert!(named.contains(&(*place, "thread_name".into())), "{place:?}");
        assert!(named.contains(&((place.0, 0), "process_name".into())), "{place:?}");
        track.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)));
        for pair in track.windows(2) {
            assert!(pair[0].0 + pair[0].1 <= pair[1].0 + 1e-3, "{place:?}: {pair:?} overlap");
        }
    }
    tracks
}

/// Microseconds of all events of a category.
fn sum(tracks: &BTreeMap<(u64, u64), Track>, category: &str) -> f64 {
    tracks.values().flatten().filter(|event| event.2 == category).map(|event| event.1).sum()
}

#[test]
fn the_trace_has_what_the_timeline_has_and_its_durations_add_up() {
    let config = ClusterConfig { workers: 2, memory_limit_bytes: 8 * MIB, ..ClusterConfig::default() };
    let cluster = Cluster::start(config).expect("the cluster starts");
    let dashboard = serve(&cluster);
    cluster.observer().record_timeline(Duration::from_secs(600));
    let mut graph = Graph::new();
    let read = graph.source("read", NumbersSource::new(60_000).row_bytes(400));
    let hold = graph.operator("hold", Hold, read.hash(["n"]));
    let slow = graph.operator("slow", SlowOperator::new(Duration::from_micros(300)), hold.gather());
    graph.sink("write", CountingSink::new(), slow);
    let summary = cluster.run(&graph).expect("it starts").wait().expect("it ends well");
    assert!(summary.metrics.nodes[1].spilled_bytes > 0, "it spills");

    let answer = get(&dashboard, "/api/timeline/trace");
    assert!(answer.header("content-disposition").is_some_and(|value| value.contains("aqueduct-trace.json")));
    let tracks = tracks(&answer.json());
    let kinds: BTreeSet<&str> = tracks.values().flatten().map(|event| event.2.as_str()).collect();
    assert_eq!(kinds.into_iter().collect::<Vec<_>>(), ["operator", "read", "spill", "step", "wait"]);
    let names = |category: &str| -> BTreeSet<String> {
        let events = answer.json()["traceEvents"].as_array().expect("a list").clone();
        let of = events.into_iter().filter(|event| event["cat"] == category);
        of.map(|event| event["name"].as_str().expect("text").to_string()).collect()
    };
    assert!(names("step").contains("hold") && names("step").contains("slow -> write"), "{:?}", names("step"));
    assert!(names("spill").contains("spill: hold [0]"), "{:?}", names("spill"));
    assert!(names("wait").contains("parked") && names("wait").contains("blocked"), "{:?}", names("wait"));

    // What was booked elsewhere, step by step.
    let life = cluster.observer().job(0).expect("it is remembered").life();
    let slots = life.threads.iter().flat_map(|thread| &thread.slots);
    let booked: u64 = slots.map(|slot| slot.other_ns + slot.busy_ns.iter().map(|(_, ns)| ns).sum::<u64>()).sum();
    let steps = sum(&tracks, "step");
    assert!((steps - booked as f64 / 1000.0).abs() < 1.0, "{steps} us of steps, {booked} ns booked");
    // The same as programs are told.
    let timeline = get(&dashboard, "/api/timeline").json();
    let told = |list: &Value, place: usize, of: &dyn Fn(&Value) -> bool| -> f64 {
        let spans = list.as_array().expect("a list").iter().flat_map(|row| row[place].as_array().expect("spans"));
        spans.filter(|span| of(span)).map(|span| span["length_seconds"].as_f64().expect("a time") * 1e6).sum()
    };
    let is_over = |span: &Value| span["end"] != "running";
    // There, times are whole microseconds.
    let events = tracks.values().map(Vec::len).sum::<usize>() as f64;
    assert!((told(&timeline["threads"], 2, &is_over) - steps).abs() < events);
    for kind in ["spill", "read", "operator"] {
        let told = told(&timeline["disks"], 1, &|span| span["work"] == kind);
        assert!((told - sum(&tracks, kind)).abs() < events, "{kind}: {told}");
    }
    // Steps and gaps fill the time of a thread, but for what was between a wake-up and its step.
    for ((worker, thread), track) in tracks.iter().filter(|((_, thread), _)| *thread < 100_000) {
        let (first, last) = (track.first().expect("events"), track.last().expect("events"));
        let (whole, filled) = (last.0 + last.1 - first.0, track.iter().map(|event| event.1).sum::<f64>());
        assert!(filled <= whole + 1.0 && filled > 0.9 * whole, "worker {worker}, thread {thread}: {filled} of {whole}");
    }
}

#[test]
fn a_trace_of_so_many_seconds_is_recorded_for_whoever_asks() {
    let cluster = cluster();
    let dashboard = serve(&cluster);
    // Nothing was recorded: the file is a valid one all the same.
    assert!(tracks(&get(&dashboard, "/api/timeline/trace").json()).is_empty());
    let mut graph = Graph::new();
    let read = graph.source("read", aqueduct_runtime::testing::EndlessSource::new());
    graph.sink("write", CountingSink::new(), read);
    let job = cluster.run(&graph).expect("it starts");
    eventually("it runs", || job.metrics().source_rows() > 0);
    let tracks = tracks(&get(&dashboard, "/api/timeline/trace?seconds=1").json());
    assert!(sum(&tracks, "step") > 0.0);
    for (query, status) in [("61", 400), ("300", 400), ("-1", 400), ("x", 400)] {
        let answer = get(&dashboard, &format!("/api/timeline/trace?seconds={query}"));
        assert_eq!(answer.status, status, "{query}: {}", answer.body);
        assert!(!answer.error().is_empty());
    }
}
