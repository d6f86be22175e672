//! Progress for people: a bar, or without a known end a spinner, drawn ten times a second.

use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use indicatif::{BinaryBytes, HumanCount, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{Look, Progress, goes_on};

const REDRAW_EVERY: Duration = Duration::from_millis(100);

/// Draws until the work is over, and leaves nothing behind.
pub(super) fn show(look: &mut Look, ended: &Receiver<()>) {
    // It has no colours, so there is nothing for `NO_COLOR` to take away.
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    bar.set_style(style("{spinner} {wide_msg}"));
    while goes_on(ended, Instant::now() + REDRAW_EVERY) {
        draw(&bar, &look.look());
    }
    bar.finish_and_clear();
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner())
}

fn draw(bar: &ProgressBar, now: &Progress) {
    if let Some(total) = now.metrics.source_bytes_total
        && bar.length() != Some(total)
    {
        bar.set_style(style("[{elapsed}] {bar:14} {percent:>3} %  {wide_msg}"));
        bar.set_length(total);
    }
    bar.set_position(now.bytes());
    bar.set_message(message(now));
}

/// What there is to say, the most important first: a narrow terminal cuts it off.
fn message(now: &Progress) -> String {
    let mut text = format!("{} rows", HumanCount(now.rows()));
    if now.bytes() > 0 {
        let total = now.metrics.source_bytes_total;
        let total = total.map(|total| format!(" of {}", BinaryBytes(total))).unwrap_or_default();
        let rate = BinaryBytes(now.bytes_per_second as u64);
        text += &format!(", {}{total}, {rate}/s", BinaryBytes(now.bytes()));
    } else {
        text += &format!(", {}/s", HumanCount(now.rows_per_second as u64));
    }
    if let Some(seconds) = now.seconds_left() {
        text += &format!(", {} left", time(seconds));
    }
    if let Some(found) = &now.bottleneck {
        text += &format!(", held up by {}", found.name);
    }
    text
}

fn time(seconds: f64) -> String {
    let seconds = seconds.ceil() as u64;
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds} s"),
        (0, minutes, seconds) => format!("{minutes} min {seconds} s"),
        (hours, minutes, _) => format!("{hours} h {minutes} min"),
    }
}

#[cfg(test)]
mod tests {
    use aqueduct_runtime::metrics::{Bottleneck, Cause, JobState};

    use super::*;
    use crate::progress::tests::progress;

    #[test]
    fn the_line_says_rows_bytes_rate_time_left_and_who_holds_it_up() {
        let mut now = progress();
        now.metrics.state = JobState::Running;
        now.metrics.elapsed = Duration::from_secs(3);
        (now.metrics.source_bytes_done, now.metrics.source_bytes_total) = (30 << 20, Some(60 << 20));
        (now.rows_per_second, now.bytes_per_second) = (5e5, (10 << 20) as f64);
        now.bottleneck = None;
        assert_eq!(message(&now), "1,000 rows, 30.00 MiB of 60.00 MiB, 10.00 MiB/s, 3 s left");
        let metrics = &mut now.metrics;
        (metrics.source_bytes_done, metrics.source_bytes_total) = (0, None);
        assert_eq!(message(&now), "1,000 rows, 500,000/s");
        let (name, sentence) = ("numbers".to_string(), String::new());
        now.bottleneck = Some(Bottleneck { node: 0, name, cause: Cause::Busy, share: 1.0, partition: None, sentence });
        assert_eq!(message(&now), "1,000 rows, 500,000/s, held up by numbers");
    }
}
