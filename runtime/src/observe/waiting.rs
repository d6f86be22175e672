//! What a job that waits in line waits for: the jobs before it, and those whose memory it needs.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;

use super::memory;
use crate::config::format_bytes;
use crate::job::JobCore;
use crate::memory::MemoryPool;
use crate::metrics::JobState;

/// What a job in line waits for.
#[derive(Debug, Clone, Serialize)]
pub struct MemoryWait {
    /// Jobs that are before it in line.
    pub behind: Vec<u64>,
    /// The worker that has least of what it needs.
    pub worker: usize,
    /// Bytes that it needs there.
    pub needed_bytes: usize,
    /// Bytes that are free there.
    pub free_bytes: usize,
    /// Who holds the others, with the most first.
    pub held_by: Vec<WaitHolder>,
    /// All of it in words.
    pub sentence: String,
}

/// One that a job in line waits for.
#[derive(Debug, Clone, Serialize)]
pub struct WaitHolder {
    /// The job; `None` for results of jobs that have ended, which wait for their reader.
    pub job: Option<u64>,
    /// Bytes that it holds on that worker.
    pub bytes: usize,
}

/// `jobs` are those that wait and run, in order of their ids.
pub(super) fn of(id: u64, pools: &[MemoryPool], jobs: &[Arc<JobCore>]) -> Option<MemoryWait> {
    let job = jobs.iter().find(|job| job.id == id && job.state() == JobState::Waiting)?;
    let short = |(pool, needed): &(&MemoryPool, usize)| needed.saturating_sub(pool.available());
    let needs = pools.iter().zip(job.plan.floor_bytes().iter().copied()).enumerate();
    let (worker, (pool, needed_bytes)) =
        needs.max_by_key(|(worker, need)| (short(need), std::cmp::Reverse(*worker)))?;
    let waiting = |job: &&Arc<JobCore>| job.state() == JobState::Waiting;
    let behind: Vec<u64> = jobs.iter().filter(waiting).map(|job| job.id).take_while(|other| *other != id).collect();
    let mut by_job: BTreeMap<u64, usize> = BTreeMap::new();
    for job in jobs.iter().filter(|job| !waiting(job)) {
        let bytes = memory::charged(job, worker);
        // One that is about to start has taken its floors.
        by_job.insert(job.id, if bytes > 0 { bytes } else { job.plan.floor_bytes()[worker] });
    }
    let unread = pool.charged().saturating_sub(by_job.values().sum());
    let mut held_by: Vec<_> = by_job.into_iter().map(|(job, bytes)| WaitHolder { job: Some(job), bytes }).collect();
    if unread > 0 {
        held_by.push(WaitHolder { job: None, bytes: unread });
    }
    held_by.sort_by_key(|holder| std::cmp::Reverse(holder.bytes));
    let free_bytes = pool.available();
    let holders: Vec<_> = held_by.iter().map(WaitHolder::text).collect();
    let mut sentence =
        format!("needs {} on worker {worker}, where {} are free", format_bytes(needed_bytes), format_bytes(free_bytes));
    if !holders.is_empty() {
        sentence += &format!("; {}", holders.join(", "));
    }
    if !behind.is_empty() {
        let before: Vec<_> = behind.iter().map(|job| format!("job {job}")).collect();
        sentence += &format!("; behind {} in line", before.join(", "));
    }
    Some(MemoryWait { behind, worker, needed_bytes, free_bytes, held_by, sentence })
}

impl WaitHolder {
    fn text(&self) -> String {
        match self.job {
            Some(job) => format!("job {job} holds {}", format_bytes(self.bytes)),
            None => format!("results that wait to be read hold {}", format_bytes(self.bytes)),
        }
    }
}
