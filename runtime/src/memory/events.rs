//! What was done about a lack of memory: who was asked for some and gave how much, who wrote state to disk, and who went
//! over the limit.
//!
//! Events that follow each other closely are one, and only the newest are kept, so the log is of one size however long
//! a worker lives. What is counted is counted for ever.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use serde::{Serialize, Serializer};

use crate::metrics::{seconds, text};

/// Events that a worker remembers.
pub const MEMORY_EVENTS: usize = 256;
/// What the same holder does again so soon is part of the same event.
const SAME: Duration = Duration::from_millis(500);
/// Events that are looked through for one to add to.
const RECENT: usize = 16;

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum MemoryEventKind {
    /// Somebody was short of memory, and the holder was asked to give some back.
    Reclaim,
    /// The holder wrote state, or batches of an edge, to disk.
    Spill,
    /// The holder went over the limit, because an estimate was too small.
    Overrun,
}

/// One thing that was done about a lack of memory, or several that followed each other closely.
#[derive(Debug, Clone, Serialize)]
pub struct MemoryEvent {
    /// When it began.
    #[serde(rename = "time_ms", serialize_with = "millis")]
    pub time: SystemTime,
    /// How long it went on.
    #[serde(rename = "length_seconds", serialize_with = "seconds")]
    pub length: Duration,
    /// What was done.
    pub kind: MemoryEventKind,
    /// Number of the holder's job; `None` if it is none's.
    pub job: Option<u64>,
    /// Who did it: a node, or a port, with its partition.
    #[serde(serialize_with = "text")]
    pub holder: Arc<str>,
    /// How often.
    pub count: u64,
    /// Bytes that were asked for; 0 if nobody asked.
    pub asked_bytes: u64,
    /// Bytes that were freed, or written, or were too many.
    pub bytes: u64,
}

fn millis<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    serializer.serialize_u64(since.as_millis() as u64)
}

/// What was counted on one worker, of all jobs so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct MemoryCounts {
    /// How often somebody was asked to give memory back.
    pub reclaims: u64,
    /// How often nothing came of it.
    pub vain_reclaims: u64,
    /// Bytes that were given back.
    pub reclaimed_bytes: u64,
    /// How often a piece was written to disk.
    pub spills: u64,
    /// Bytes that were written to disk.
    pub spilled_bytes: u64,
}

/// The events of one worker.
#[derive(Debug, Default)]
pub(crate) struct MemoryLog(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    counts: MemoryCounts,
    events: VecDeque<MemoryEvent>,
}

impl MemoryLog {
    /// `holder` was asked for `asked_bytes` and has freed `bytes`.
    pub(crate) fn reclaimed(&self, job: Option<u64>, holder: &Arc<str>, asked_bytes: u64, bytes: u64) {
        let mut state = self.0.lock();
        state.counts.reclaims += 1;
        state.counts.vain_reclaims += u64::from(bytes == 0);
        state.counts.reclaimed_bytes += bytes;
        state.add(SystemTime::now(), MemoryEventKind::Reclaim, job, holder, asked_bytes, bytes);
    }

    /// `holder` has `bytes` written to disk.
    pub(crate) fn spilled(&self, job: Option<u64>, holder: &Arc<str>, bytes: u64) {
        let mut state = self.0.lock();
        state.counts.spills += 1;
        state.counts.spilled_bytes += bytes;
        state.add(SystemTime::now(), MemoryEventKind::Spill, job, holder, 0, bytes);
    }

    /// `holder` is `bytes` over the limit.
    pub(crate) fn overran(&self, job: Option<u64>, holder: &Arc<str>, bytes: u64) {
        self.0.lock().add(SystemTime::now(), MemoryEventKind::Overrun, job, holder, 0, bytes);
    }

    pub(crate) fn counts(&self) -> MemoryCounts {
        self.0.lock().counts
    }

    /// The newest events, the oldest of them first.
    pub(crate) fn events(&self) -> Vec<MemoryEvent> {
        self.0.lock().events.iter().cloned().collect()
    }
}

impl State {
    fn add(
        &mut self,
        now: SystemTime,
        kind: MemoryEventKind,
        job: Option<u64>,
        holder: &Arc<str>,
        asked_bytes: u64,
        bytes: u64,
    ) {
        let soon = |event: &MemoryEvent| {
            now.duration_since(event.time).is_ok_and(|since| since.saturating_sub(event.length) < SAME)
        };
        let same = |event: &&mut MemoryEvent| (event.kind, event.job) == (kind, job) && event.holder == *holder;
        if let Some(event) = self.events.iter_mut().rev().take(RECENT).find(same).filter(|event| soon(event)) {
            event.length = now.duration_since(event.time).unwrap_or_default();
            event.count += 1;
            event.asked_bytes += asked_bytes;
            event.bytes += bytes;
            return;
        }
        if self.events.len() >= MEMORY_EVENTS {
            self.events.pop_front();
        }
        let holder = Arc::clone(holder);
        let event = MemoryEvent { time: now, length: Duration::ZERO, kind, job, holder, count: 1, asked_bytes, bytes };
        self.events.push_back(event);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_follows_closely_is_one_event_and_the_log_is_bounded() {
        let mut state = State::default();
        let (sort, join) = (Arc::<str>::from("sort [0]"), Arc::<str>::from("join [1]"));
        let at = |ms| SystemTime::UNIX_EPOCH + Duration::from_millis(ms);
        state.add(at(0), MemoryEventKind::Reclaim, Some(1), &sort, 100, 60);
        state.add(at(50), MemoryEventKind::Spill, Some(1), &sort, 0, 60);
        state.add(at(100), MemoryEventKind::Reclaim, Some(1), &join, 100, 0);
        // The end of the event counts, not its beginning.
        state.add(at(150), MemoryEventKind::Reclaim, Some(1), &sort, 100, 40);
        state.add(at(300), MemoryEventKind::Reclaim, Some(1), &sort, 7, 7);
        state.add(at(900), MemoryEventKind::Reclaim, Some(1), &sort, 1, 1);
        state.add(at(950), MemoryEventKind::Reclaim, Some(2), &sort, 1, 1);
        let seen: Vec<_> = state.events.iter().map(|e| (&*e.holder, e.count, e.asked_bytes, e.bytes)).collect();
        assert_eq!(
            seen,
            [
                ("sort [0]", 3, 207, 107),
                ("sort [0]", 1, 0, 60),
                ("join [1]", 1, 100, 0),
                ("sort [0]", 1, 1, 1),
                ("sort [0]", 1, 1, 1)
            ]
        );
        assert_eq!(state.events[0].length, Duration::from_millis(300));
        for index in 0..10 * MEMORY_EVENTS as u64 {
            state.add(at(10_000 + 1000 * index), MemoryEventKind::Spill, None, &join, 0, 1);
        }
        assert_eq!(state.events.len(), MEMORY_EVENTS);
    }
}
