//! The timeline as a file for `chrome://tracing` and Perfetto: the same steps, gaps and work of I/O threads as on the page.
//!
//! A worker is a process. Each of its threads is a track of steps, with why it ran nothing between them; what its I/O
//! threads did is on as many tracks more as there was at a time. Nothing on a track overlaps. Processes and threads are
//! numbered from 1 on, and no two threads alike: readers take 0 for the system's, and some take a thread's number alone.

use aqueduct_runtime::observe::{DiskSpan, DiskWork, Gap, Span, SpanEnd, Timeline};
use serde::Serialize;
use serde_json::{Value, json};
use std::time::Duration;

/// Where the tracks of the I/O threads of a process begin, after those of all threads.
const IO_TRACKS: usize = 100_000;

/// One event of the format: complete (`X`), or about a track (`M`).
#[derive(Serialize)]
struct Event<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    cat: &'a str,
    ph: &'a str,
    pid: usize,
    tid: usize,
    /// Microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    ts: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dur: Option<f64>,
    args: Value,
}

fn micros(time: Duration) -> f64 {
    time.as_nanos() as f64 / 1000.0
}

/// A file of events, written one by one: there may be many.
struct File(String);

impl File {
    fn add(&mut self, event: &Event<'_>) {
        let event = serde_json::to_string(event).expect("an event is plain data");
        if !self.0.ends_with('[') {
            self.0 += ",\n";
        }
        self.0 += &event;
    }

    fn name(&mut self, (pid, tid): (usize, usize), what: &str, args: Value) {
        self.add(&Event { name: what, cat: "", ph: "M", pid, tid, ts: None, dur: None, args });
    }

    /// Names a track and puts it in its place.
    fn track(&mut self, place: (usize, usize), name: &str) {
        self.name(place, "thread_name", json!({ "name": name }));
        self.name(place, "thread_sort_index", json!({ "sort_index": place.1 }));
    }

    fn complete(
        &mut self,
        (pid, tid): (usize, usize),
        (name, cat): (&str, &str),
        (start, length): (Duration, Duration),
        args: Value,
    ) {
        self.add(&Event { name, cat, ph: "X", pid, tid, ts: Some(micros(start)), dur: Some(micros(length)), args });
    }

    fn step(&mut self, place: (usize, usize), span: &Span) {
        let args = json!({ "job": span.job, "partition": span.partition, "node": &*span.node, "end": span.end });
        self.complete(place, (&span.name, "step"), (span.start, span.length), args);
    }

    fn gap(&mut self, place: (usize, usize), gap: &Gap) {
        self.complete(place, (reason(gap.why), "wait"), (gap.start, gap.length), json!({}));
    }

    fn disk(&mut self, place: (usize, usize), span: &DiskSpan) {
        let what = match span.work {
            DiskWork::Spill => "spill",
            DiskWork::Read => "read",
            DiskWork::Source => "source",
            DiskWork::Sink => "sink",
            DiskWork::Operator => "operator",
        };
        let args = json!({ "job": span.job, "bytes": span.bytes });
        self.complete(place, (&format!("{what}: {}", span.holder), what), (span.start, span.length), args);
    }
}

/// What a gap is called.
fn reason(why: SpanEnd) -> &'static str {
    match why {
        SpanEnd::Parked => "parked",
        SpanEnd::Memory => "memory",
        SpanEnd::Blocked => "blocked",
        SpanEnd::Idle => "idle",
        SpanEnd::Again | SpanEnd::Ended | SpanEnd::Running => "ready",
    }
}

/// For each piece of work a track where nothing else is at the time.
fn tracks(work: &[DiskSpan]) -> Vec<(usize, &DiskSpan)> {
    let mut sorted: Vec<_> = work.iter().collect();
    sorted.sort_by_key(|span| span.start);
    let mut ends: Vec<Duration> = Vec::new();
    let mut placed = Vec::with_capacity(sorted.len());
    for span in sorted {
        let track = ends.iter().position(|end| *end <= span.start).unwrap_or(ends.len());
        if track == ends.len() {
            ends.push(Duration::ZERO);
        }
        ends[track] = span.start + span.length;
        placed.push((track, span));
    }
    placed
}

/// The whole file.
pub(crate) fn text(timeline: &Timeline) -> String {
    let mut file = File(r#"{"displayTimeUnit":"ms","traceEvents":["#.into());
    for (worker, work) in &timeline.disks {
        let process = worker + 1;
        file.name((process, 0), "process_name", json!({ "name": format!("worker {worker}") }));
        file.name((process, 0), "process_sort_index", json!({ "sort_index": worker }));
        let work = tracks(work);
        let place = |track: usize| (process, process * IO_TRACKS + track);
        for track in 0..work.iter().map(|(track, _)| track + 1).max().unwrap_or(0) {
            file.track(place(track), &format!("I/O {track}"));
        }
        work.into_iter().for_each(|(track, span)| file.disk(place(track), span));
    }
    for (index, ((worker, thread, spans), (.., gaps))) in timeline.threads.iter().zip(&timeline.gaps).enumerate() {
        let place = (worker + 1, index + 1);
        file.track(place, &format!("thread {thread}"));
        spans.iter().for_each(|span| file.step(place, span));
        gaps.iter().for_each(|gap| file.gap(place, gap));
    }
    file.0 + "]}\n"
}
