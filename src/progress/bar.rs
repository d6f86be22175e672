//! The progress bar: a thread that looks at a job's counters ten times a second. It never touches the data.

use std::io::IsTerminal;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use indicatif::{BinaryBytes, HumanCount, ProgressBar, ProgressDrawTarget, ProgressStyle};

const REDRAW_EVERY: Duration = Duration::from_millis(100);

/// How far a job is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    /// Rows that sources have read.
    pub(crate) rows: u64,
    /// Bytes that sources have read.
    pub(crate) bytes: u64,
    /// Bytes there are to read, if that is known.
    pub(crate) total_bytes: Option<u64>,
}

/// A bar on standard error that shows how far a job is, until it is dropped.
#[derive(Debug)]
#[must_use = "it vanishes when it is dropped"]
pub struct JobProgress {
    /// Dropped first, which wakes the thread at once.
    working: Option<mpsc::Sender<()>>,
    drawn: Option<JoinHandle<()>>,
}

impl JobProgress {
    /// Draws what `look` sees, if standard error is a terminal.
    pub(crate) fn start(look: impl Fn() -> Progress + Send + 'static) -> Option<Self> {
        if !std::io::stderr().is_terminal() {
            return None;
        }
        let (working, ended) = mpsc::channel::<()>();
        let drawn = std::thread::Builder::new().name("aq-progress".into()).spawn(move || {
            let bar = bar(ProgressDrawTarget::stderr());
            while ended.recv_timeout(REDRAW_EVERY) == Err(mpsc::RecvTimeoutError::Timeout) {
                draw(&bar, look());
            }
            bar.finish_and_clear();
        });
        // No thread, no bar: the job matters more.
        Some(Self { working: Some(working), drawn: drawn.ok() })
    }
}

impl Drop for JobProgress {
    fn drop(&mut self) {
        drop(self.working.take());
        if let Some(drawn) = self.drawn.take() {
            // A bar that could not be drawn is no reason to fail.
            let _ = drawn.join();
        }
    }
}

/// Runs `work`, and meanwhile draws what `look` sees on standard error, if that is a terminal.
pub(crate) fn watch<T>(shown: bool, look: impl Fn() -> Progress + Send + 'static, work: impl FnOnce() -> T) -> T {
    let _bar = shown.then(|| JobProgress::start(look));
    work()
}

fn bar(target: ProgressDrawTarget) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, target);
    let style = ProgressStyle::with_template("{spinner} {msg}").unwrap_or_else(|_| ProgressStyle::default_spinner());
    bar.set_style(style);
    bar
}

fn draw(bar: &ProgressBar, now: Progress) {
    let known = ProgressStyle::with_template("[{elapsed}] {bar:30} {percent:>3} %  {msg}");
    if let (Some(total), None, Ok(style)) = (now.total_bytes, bar.length(), known) {
        bar.set_style(style);
        bar.set_length(total);
    }
    bar.set_position(now.bytes);
    bar.set_message(message(now, bar.elapsed()));
}

fn message(now: Progress, elapsed: Duration) -> String {
    let rate = (now.bytes as f64 / elapsed.as_secs_f64().max(1e-3)) as u64;
    let total = now.total_bytes.map(|total| format!(" of {}", BinaryBytes(total))).unwrap_or_default();
    format!("{} rows, {}{total}, {}/s", HumanCount(now.rows), BinaryBytes(now.bytes), BinaryBytes(rate))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_says_rows_bytes_and_rate() {
        let now = Progress { rows: 1_500_000, bytes: 30 << 20, total_bytes: Some(60 << 20) };
        assert_eq!(message(now, Duration::from_secs(3)), "1,500,000 rows, 30.00 MiB of 60.00 MiB, 10.00 MiB/s");
    }

    #[test]
    fn without_a_terminal_the_work_is_all_there_is() {
        assert_eq!(watch(false, || unreachable!("nothing to draw on"), || 7), 7);
    }
}
