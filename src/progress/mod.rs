//! How far a job is, on standard error: a bar for people, or lines for programs. A thread looks at the job's counters now
//! and then; it never touches the data.

mod bar;
mod json;

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use aqueduct_runtime::JobMonitor;
use aqueduct_runtime::metrics::{Bottleneck, JobMetrics, bottleneck};
use parking_lot::Mutex;

/// What was counted in so long a time says who holds a job up, and how fast it is.
const WINDOW: Duration = Duration::from_secs(1);

/// How the progress of jobs is shown on standard error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ProgressFormat {
    /// Not at all.
    Hidden,
    /// A bar, if standard error is a terminal; else not at all.
    #[default]
    Bar,
    /// One JSON object a line, twice a second, for programs. The last one says how the job ended.
    Json,
}

impl From<bool> for ProgressFormat {
    /// A bar, or nothing.
    fn from(shown: bool) -> Self {
        if shown { Self::Bar } else { Self::Hidden }
    }
}

/// The job that is looked at: another one after columns were widened.
pub(crate) type Watched = Arc<Mutex<JobMonitor>>;

/// Shows on standard error how far a job is, until it is dropped.
#[derive(Debug)]
#[must_use = "it vanishes when it is dropped"]
pub struct JobProgress {
    watched: Watched,
    /// Dropped first, which wakes the thread at once.
    working: Option<Sender<()>>,
    shown: Option<JoinHandle<()>>,
}

impl JobProgress {
    /// Shows `watched` in `format`; `None` if there is nothing to show it on.
    pub(crate) fn start(format: ProgressFormat, watched: Watched) -> Option<Self> {
        let (working, ended) = channel();
        let mut look = Look::new(Arc::clone(&watched));
        let show: Box<dyn FnOnce() + Send> = match format {
            ProgressFormat::Bar if std::io::stderr().is_terminal() => Box::new(move || bar::show(&mut look, &ended)),
            ProgressFormat::Bar | ProgressFormat::Hidden => return None,
            ProgressFormat::Json => Box::new(move || json::show(&mut look, &ended, &mut std::io::stderr())),
        };
        let shown = std::thread::Builder::new().name("aq-progress".into()).spawn(show);
        // No thread, no progress: the job matters more.
        Some(Self { watched, working: Some(working), shown: shown.ok() })
    }

    /// Goes on until the job has ended, so that what is shown last is how. Drop the rows first, or read all of them: a
    /// job whose rows are not read does not end.
    pub fn finish(self) {
        let monitor = self.watched.lock().clone();
        monitor.wait();
    }
}

impl Drop for JobProgress {
    fn drop(&mut self) {
        drop(self.working.take());
        if let Some(shown) = self.shown.take() {
            // What could not be shown is no reason to fail.
            let _ = shown.join();
        }
    }
}

/// Runs `work` on a job, and meanwhile shows how far it is.
pub(crate) fn watch<T>(format: ProgressFormat, monitor: &JobMonitor, work: impl FnOnce() -> T) -> T {
    let _shown = JobProgress::start(format, Arc::new(Mutex::new(monitor.clone())));
    work()
}

/// Whether there is time for another look: `false` once the work is over.
fn goes_on(ended: &Receiver<()>, until: Instant) -> bool {
    ended.recv_timeout(until.saturating_duration_since(Instant::now())) == Err(RecvTimeoutError::Timeout)
}

/// Looks at a job again and again.
struct Look {
    watched: Watched,
    /// The job's number, and what was counted about a [`WINDOW`] ago and half of one ago.
    job: Option<u64>,
    before: Option<JobMetrics>,
    next: Option<JobMetrics>,
}

/// How far a job is.
#[derive(Debug, Clone)]
struct Progress {
    metrics: JobMetrics,
    job: u64,
    error: Option<String>,
    rows_per_second: f64,
    bytes_per_second: f64,
    bottleneck: Option<Bottleneck>,
}

impl Look {
    fn new(watched: Watched) -> Self {
        Self { watched, job: None, before: None, next: None }
    }

    fn look(&mut self) -> Progress {
        let monitor = self.watched.lock().clone();
        if self.job != Some(monitor.id()) {
            (self.job, self.before, self.next) = (Some(monitor.id()), None, None);
        }
        let metrics = monitor.metrics();
        // Of a job that has ended all of it is of interest.
        let before = self.before.as_ref().filter(|_| !metrics.state.is_over());
        let window = before.map_or_else(|| metrics.clone(), |before| metrics.since(before));
        let half_past = |before: &JobMetrics| metrics.elapsed >= before.elapsed + WINDOW / 2;
        if self.next.as_ref().is_none_or(half_past) {
            self.before = self.next.replace(metrics.clone());
        }
        let seconds = window.elapsed.as_secs_f64();
        let per_second = |count: u64| if seconds > 0.0 { count as f64 / seconds } else { 0.0 };
        Progress {
            job: monitor.id(),
            error: monitor.error(),
            rows_per_second: per_second(window.source_rows()),
            bytes_per_second: per_second(window.source_bytes_done),
            bottleneck: bottleneck(&window),
            metrics,
        }
    }
}

impl Progress {
    fn rows(&self) -> u64 {
        self.metrics.source_rows()
    }

    fn bytes(&self) -> u64 {
        self.metrics.source_bytes_done
    }

    /// Seconds until all is read, if the sources know how much that is and as fast as until now.
    fn seconds_left(&self) -> Option<f64> {
        let (total, read) = (self.metrics.source_bytes_total?, self.bytes());
        let known = read > 0 && !self.metrics.state.is_over();
        known.then(|| self.metrics.elapsed.as_secs_f64() * total.saturating_sub(read) as f64 / read as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::LocalCluster;

    /// A job of numbers that has ended.
    pub(super) fn ended() -> Watched {
        let cluster = LocalCluster::builder().workers(1).memory_limit("64MiB").progress(false).start();
        let cluster = cluster.expect("it starts");
        let numbers = aqueduct_operators::range("n", Some(1000));
        let mut rows = cluster.from_source("numbers", numbers).and_then(|rows| rows.stream()).expect("it runs");
        rows.by_ref().for_each(drop);
        let watched = Arc::new(Mutex::new(rows.job().monitor()));
        watched.lock().wait();
        watched
    }

    pub(super) fn progress() -> Progress {
        Look::new(ended()).look()
    }

    #[test]
    fn without_a_terminal_there_is_no_bar() {
        // The runner of the tests captures what is written.
        assert!(std::io::stderr().is_terminal() || JobProgress::start(ProgressFormat::Bar, ended()).is_none());
        assert!(JobProgress::start(ProgressFormat::Hidden, ended()).is_none());
        assert_eq!([true, false].map(ProgressFormat::from), [ProgressFormat::Bar, ProgressFormat::Hidden]);
    }

    #[test]
    fn the_time_left_is_known_where_the_size_is() {
        let mut now = progress();
        now.metrics.elapsed = Duration::from_secs(3);
        (now.metrics.source_bytes_done, now.metrics.source_bytes_total) = (30, Some(90));
        assert_eq!(now.seconds_left(), None, "it has ended");
        now.metrics.state = aqueduct_runtime::metrics::JobState::Running;
        assert_eq!(now.seconds_left(), Some(6.0));
        now.metrics.source_bytes_total = None;
        assert_eq!(now.seconds_left(), None);
        (now.metrics.source_bytes_done, now.metrics.source_bytes_total) = (0, Some(90));
        assert_eq!(now.seconds_left(), None);
    }
}
