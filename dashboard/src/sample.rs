//! Looks at the cluster once, compares with the look before, and remembers the memory of the last minutes.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use aqueduct_runtime::Observer;
use aqueduct_runtime::metrics::{JobMetrics, JobState};
use aqueduct_runtime::observe::ObservedJob;
use serde::Serialize;

use crate::view::{JobFrame, JobSummary, Kinds, Overview, WorkerView, millis, short};

/// Looks that are remembered.
const HISTORY: usize = 600;
/// Jobs that wait or run and are shown in an overview.
const LIVE_JOBS: usize = 100;
/// Jobs that have ended and are shown in an overview.
const ENDED_JOBS: usize = 20;
/// A look that long ago is of no use for a rate.
const STALE: Duration = Duration::from_secs(10);

/// Looks at a cluster again and again.
pub(crate) struct Sampler {
    observer: Observer,
    before: BTreeMap<u64, Arc<JobMetrics>>,
    looked: Option<Instant>,
    history: VecDeque<Sample>,
}

/// What each worker holds at one moment.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Sample {
    pub(crate) time_ms: u64,
    pub(crate) workers: Vec<Kinds>,
    pub(crate) charged_bytes: Vec<usize>,
}

/// Jobs of one look, with what was counted since the look before.
struct Look {
    job: ObservedJob,
    metrics: Arc<JobMetrics>,
    window: Arc<JobMetrics>,
}

impl Sampler {
    pub(crate) fn new(observer: Observer) -> Self {
        Self { observer, before: BTreeMap::new(), looked: None, history: VecDeque::new() }
    }

    pub(crate) fn history(&self) -> impl Iterator<Item = &Sample> {
        self.history.iter()
    }

    /// The cluster, and those of its jobs that are in `wanted` with their graphs.
    pub(crate) fn look(&mut self, wanted: &[u64]) -> (Overview, Vec<(u64, JobFrame)>) {
        let now = Instant::now();
        if self.looked.is_some_and(|looked| now - looked > STALE) {
            self.before.clear();
            self.looked = None;
        }
        let mut ended = 0;
        let mut live = 0;
        let mut looks = Vec::new();
        for job in self.observer.jobs().into_iter().rev() {
            let over = job.ended_at().is_some();
            let (count, limit) = if over { (&mut ended, ENDED_JOBS) } else { (&mut live, LIVE_JOBS) };
            *count += 1;
            if *count <= limit || wanted.contains(&job.id()) {
                let metrics = job.metrics();
                // Of a job that has ended all of it is of interest.
                let before = self.before.get(&job.id()).filter(|_| !over);
                let window = before.map_or_else(|| Arc::clone(&metrics), |before| Arc::new(metrics.since(before)));
                looks.push(Look { job, metrics, window });
            }
        }
        let threads = self.threads(&looks, now);
        let workers = WorkerView::all(&self.observer, |worker| threads.get(worker).cloned().unwrap_or_default());
        let time_ms = millis(SystemTime::now());
        self.history.push_back(Sample {
            time_ms,
            workers: workers.iter().map(|worker| worker.held).collect(),
            charged_bytes: workers.iter().map(|worker| worker.charged_bytes).collect(),
        });
        if self.history.len() > HISTORY {
            self.history.pop_front();
        }
        let summaries = looks.iter().map(|look| JobSummary::of(&self.observer, &look.job, &look.metrics, &look.window));
        let overview = Overview {
            time_ms,
            started_ms: millis(self.observer.started()),
            closed: self.observer.is_closed(),
            workers,
            totals: self.observer.totals(),
            jobs: summaries.collect(),
        };
        let frames = looks.iter().filter(|look| wanted.contains(&look.job.id()));
        let frames =
            frames.map(|look| (look.job.id(), JobFrame::of(&self.observer, &look.job, &look.metrics, &look.window)));
        let frames = frames.collect();
        self.before = looks
            .into_iter()
            .filter(|look| look.job.ended_at().is_none())
            .map(|look| (look.job.id(), look.metrics))
            .collect();
        self.looked = Some(now);
        (overview, frames)
    }

    /// By worker and thread: share of the time since the look before in which it ran tasks.
    fn threads(&self, looks: &[Look], now: Instant) -> Vec<Vec<f64>> {
        let Some(looked) = self.looked else { return Vec::new() };
        let config = self.observer.config();
        let elapsed = (now - looked).as_secs_f64().max(1e-9);
        let mut threads = vec![vec![0.0; config.threads_per_worker]; config.workers];
        for look in looks.iter().filter(|look| look.metrics.state == JobState::Running) {
            for task in &look.window.tasks {
                if let Some(share) = threads.get_mut(task.worker).and_then(|worker| worker.get_mut(task.thread)) {
                    *share += task.running.as_secs_f64() / elapsed;
                }
            }
        }
        threads.iter_mut().flatten().for_each(|share| *share = short(share.min(1.0)));
        threads
    }
}
