//! One job as an observer sees it, whether it runs or has ended.

use std::sync::Arc;
use std::time::SystemTime;

use super::log::Record;
use crate::job::JobCore;
use crate::metrics::{Analysis, JobMetrics, JobState};
use crate::observe::JobLife;
use crate::plan::PlanShape;

/// A job of a cluster, to be looked at. It neither keeps the job running nor cancels it.
#[derive(Clone)]
pub struct ObservedJob(Inner);

#[derive(Clone)]
enum Inner {
    Live(Arc<JobCore>),
    Ended(Arc<Record>),
}

impl ObservedJob {
    pub(crate) fn live(core: Arc<JobCore>) -> Self {
        Self(Inner::Live(core))
    }

    pub(crate) fn ended(record: Arc<Record>) -> Self {
        Self(Inner::Ended(record))
    }

    /// Its number: 0 for the first job of a cluster.
    pub fn id(&self) -> u64 {
        match &self.0 {
            Inner::Live(core) => core.id,
            Inner::Ended(record) => record.id,
        }
    }

    /// When it was handed to the cluster.
    pub fn submitted(&self) -> SystemTime {
        match &self.0 {
            Inner::Live(core) => core.submitted,
            Inner::Ended(record) => record.submitted,
        }
    }

    /// When it ended, if it has.
    pub fn ended_at(&self) -> Option<SystemTime> {
        match &self.0 {
            Inner::Live(_) => None,
            Inner::Ended(record) => Some(record.ended),
        }
    }

    /// Where it stands.
    pub fn state(&self) -> JobState {
        match &self.0 {
            Inner::Live(core) => core.state(),
            Inner::Ended(record) => record.state(),
        }
    }

    /// What it has counted so far.
    pub fn metrics(&self) -> Arc<JobMetrics> {
        match &self.0 {
            Inner::Live(core) => Arc::new(core.metrics()),
            Inner::Ended(record) => Arc::clone(&record.metrics),
        }
    }

    /// Its graph.
    pub fn shape(&self) -> Arc<PlanShape> {
        match &self.0 {
            Inner::Live(core) => core.shape(),
            Inner::Ended(record) => Arc::clone(&record.shape),
        }
    }

    /// Its first error, in words.
    pub fn error(&self) -> Option<String> {
        match &self.0 {
            Inner::Live(core) => core.error().map(ToString::to_string),
            Inner::Ended(record) => record.error.clone(),
        }
    }

    /// What its threads ran and what it held, from its start on: recorded always, in pictures of one size.
    pub fn life(&self) -> Arc<JobLife> {
        match &self.0 {
            Inner::Live(core) => Arc::new(core.life()),
            Inner::Ended(record) => Arc::clone(&record.life),
        }
    }

    /// Its plan with what its operators have done so far.
    pub fn analysis(&self) -> Analysis {
        Analysis::new(&self.shape(), &self.metrics())
    }
}

impl std::fmt::Debug for ObservedJob {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ObservedJob").field("id", &self.id()).field("state", &self.state()).finish_non_exhaustive()
    }
}
