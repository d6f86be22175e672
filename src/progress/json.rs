//! Progress for programs: one JSON object a line, at a steady rate. The last line says how the job ended.

use std::io::Write;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use aqueduct_runtime::metrics::{Bottleneck, JobState};
use serde::Serialize;

use super::{Look, Progress, goes_on};

/// The time between two lines.
const EVERY: Duration = Duration::from_millis(500);

/// One line.
#[derive(Serialize)]
struct Line<'a> {
    job: u64,
    state: JobState,
    elapsed_seconds: f64,
    rows: u64,
    rows_per_second: f64,
    bytes: u64,
    bytes_per_second: f64,
    total_bytes: Option<u64>,
    seconds_left: Option<f64>,
    spilled_bytes: u64,
    spooled_bytes: u64,
    bottleneck: Option<&'a Bottleneck>,
    error: Option<&'a str>,
}

/// Writes lines to `out` until the work is over.
pub(super) fn show(look: &mut Look, ended: &Receiver<()>, out: &mut impl Write) {
    let begun = Instant::now();
    let mut lines = 0;
    let mut goes_on = || {
        lines += 1;
        goes_on(ended, begun + lines * EVERY)
    };
    loop {
        let over = !goes_on();
        // Nobody reads them: the job matters more.
        if out.write_all(line(&look.look()).as_bytes()).is_err() || over {
            return;
        }
    }
}

fn short(number: f64) -> f64 {
    (number * 1000.0).round() / 1000.0
}

fn line(now: &Progress) -> String {
    let metrics = &now.metrics;
    let line = Line {
        job: now.job,
        state: metrics.state,
        elapsed_seconds: short(metrics.elapsed.as_secs_f64()),
        rows: now.rows(),
        rows_per_second: short(now.rows_per_second),
        bytes: now.bytes(),
        bytes_per_second: short(now.bytes_per_second),
        total_bytes: metrics.source_bytes_total,
        seconds_left: now.seconds_left().map(short),
        spilled_bytes: metrics.nodes.iter().map(|node| node.spilled_bytes).sum(),
        spooled_bytes: metrics.edges.iter().map(|edge| edge.spooled_bytes).sum(),
        bottleneck: now.bottleneck.as_ref(),
        error: now.error.as_deref(),
    };
    serde_json::to_string(&line).expect("plain data with keys that are text") + "\n"
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;
    use crate::progress::tests::{ended, progress};

    #[test]
    fn a_line_is_one_object_and_says_how_it_ended() {
        let mut now = progress();
        let text = line(&now);
        assert!(text.ends_with("}\n") && text.matches('\n').count() == 1, "{text}");
        let line: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!((&line["state"], &line["rows"], &line["error"]), (&"finished".into(), &1000.into(), &().into()));
        assert!(line["elapsed_seconds"].is_number() && line["seconds_left"].is_null());
        now.error = Some("a \"quoted\"\nerror".into());
        let line: serde_json::Value = serde_json::from_str(&super::line(&now)).expect("JSON");
        assert_eq!(line["error"], "a \"quoted\"\nerror");
    }

    #[test]
    fn there_is_a_line_even_if_all_was_over_at_once() {
        let (working, over) = channel();
        drop(working);
        let mut out = Vec::new();
        show(&mut Look::new(ended()), &over, &mut out);
        let text = String::from_utf8(out).expect("text");
        assert!(text.contains("\"state\":\"finished\"") && text.matches('\n').count() == 1, "{text}");
    }

    #[test]
    fn who_does_not_read_ends_it() {
        let (_working, over) = channel();
        // Full at once.
        let mut out: &mut [u8] = &mut [0; 10];
        show(&mut Look::new(ended()), &over, &mut out);
    }
}
