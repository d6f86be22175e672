//! What a cluster does, for those who look at it: jobs that wait, run and have ended, and who holds its memory.
//!
//! An [`Observer`] keeps nothing running and never steers the data; all it can do is cancel a job. Of a job that has
//! ended only plain data is kept, as much as [`HISTORY_JOBS`] and [`HISTORY_BYTES`] allow.

mod job;
mod life;
mod log;
mod memory;
mod recorder;
#[cfg(test)]
mod tests;
mod timeline;
mod waiting;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, SystemTime};

pub use job::ObservedJob;
pub(crate) use life::LifeRecorder;
pub use life::{JobLife, JobMemory, LIFE_SLOTS, Slot, ThreadLife};
pub(crate) use log::JobLog;
pub use log::{HISTORY_BYTES, HISTORY_JOBS, Totals};
pub(crate) use memory::held as held_bytes;
pub use memory::{HolderKind, MemoryHolder, WorkerMemory};
pub(crate) use recorder::{DiskRecorder, DiskUser, Recorder};
pub use timeline::{DiskSpan, DiskWork, Gap, Span, SpanEnd, Timeline};
pub use waiting::{MemoryWait, WaitHolder};

use crate::config::ClusterConfig;
use crate::job::JobCore;
use crate::memory::MemoryPool;
pub use crate::memory::{MEMORY_EVENTS, MemoryCounts, MemoryEvent, MemoryEventKind};
use crate::task::Clock;

/// Looks at a cluster from any thread. Clones look at the same one; it outlives the cluster, and sees no more then.
#[derive(Clone)]
pub struct Observer(Arc<Observed>);

/// What a cluster shows of itself.
pub(crate) struct Observed {
    config: ClusterConfig,
    pools: Vec<MemoryPool>,
    log: Arc<JobLog>,
    recorder: Arc<Recorder>,
    started: SystemTime,
    closed: AtomicBool,
}

impl Observed {
    pub(crate) fn new(config: ClusterConfig, pools: Vec<MemoryPool>, clock: Arc<dyn Clock>) -> Arc<Self> {
        let workers = config.workers;
        let threads = workers * config.threads_per_worker;
        Arc::new(Self {
            config,
            pools,
            log: Arc::default(),
            recorder: Arc::new(Recorder::new(workers, threads, clock)),
            started: SystemTime::now(),
            closed: AtomicBool::new(false),
        })
    }

    /// A job is about to be run.
    pub(crate) fn add(&self, core: &Arc<JobCore>) {
        core.observe(&self.log, &self.recorder);
        self.log.add(core);
    }

    pub(crate) fn close(&self) {
        self.closed.store(true, SeqCst);
    }
}

impl Observer {
    pub(crate) fn new(observed: Arc<Observed>) -> Self {
        Self(observed)
    }

    /// What the cluster was started with.
    pub fn config(&self) -> &ClusterConfig {
        &self.0.config
    }

    /// When the cluster was started.
    pub fn started(&self) -> SystemTime {
        self.0.started
    }

    /// Whether the cluster is closed: nothing will change any more.
    pub fn is_closed(&self) -> bool {
        self.0.closed.load(SeqCst)
    }

    /// All jobs that wait or run, and the last that have ended, by id.
    pub fn jobs(&self) -> Vec<ObservedJob> {
        self.0.log.jobs()
    }

    /// The job of this id, unless it ended so long ago that it is forgotten.
    pub fn job(&self, id: u64) -> Option<ObservedJob> {
        self.0.log.job(id)
    }

    /// What all jobs have counted so far, those that are forgotten included.
    pub fn totals(&self) -> Totals {
        self.0.log.totals()
    }

    /// The memory of each worker, and who holds it.
    pub fn memory(&self) -> Vec<WorkerMemory> {
        memory::of(&self.0.pools, &self.0.log.running())
    }

    /// What a job that waits in line waits for; `None` if it does not.
    pub fn waits_for(&self, id: u64) -> Option<MemoryWait> {
        waiting::of(id, &self.0.pools, &self.0.log.running())
    }

    /// Cancels a job; `false` if there is none of this id that waits or runs. Returns at once.
    pub fn cancel(&self, id: u64) -> bool {
        self.0.log.cancel(id)
    }

    /// Records what each thread runs from now on for so long, or longer if that was asked for before: a ring for each, so
    /// that the newest steps are kept. What an earlier recording has seen is forgotten.
    pub fn record_timeline(&self, time: Duration) {
        self.0.recorder.record_for(time);
    }

    /// What was recorded, by thread: steps and what is in progress, why a thread ran nothing, and the work of I/O threads.
    pub fn timeline(&self) -> Timeline {
        self.0.recorder.timeline(&self.0.config, &self.0.log.running())
    }
}

impl std::fmt::Debug for Observer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Observer").field("config", &self.0.config).finish_non_exhaustive()
    }
}
