//! What each thread ran when and why it ran nothing, and what went to disk and back: plain data.
//!
//! Steps and gaps of a thread never overlap. What a thread ran nothing for is worked out from how steps ended, so that
//! waiting costs nothing while it lasts.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use crate::metrics::{seconds, text};

/// Why a thread runs nothing, the worst first.
const REASONS: [SpanEnd; 4] = [SpanEnd::Parked, SpanEnd::Memory, SpanEnd::Blocked, SpanEnd::Idle];

/// How a step ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SpanEnd {
    /// There was more to do.
    Again,
    /// It waits for input.
    Idle,
    /// It waits for room at a receiver.
    Parked,
    /// It waits for memory.
    Memory,
    /// It waits for something outside.
    Blocked,
    /// The task has ended.
    Ended,
    /// It has not: the step is in progress.
    Running,
}

/// One step of a task.
#[derive(Debug, Clone, Serialize)]
pub struct Span {
    /// Number of the job.
    pub job: u64,
    /// The task's nodes, from first to last.
    #[serde(serialize_with = "text")]
    pub name: Arc<str>,
    /// Its partition.
    pub partition: usize,
    /// The node whose code ran last.
    #[serde(serialize_with = "text")]
    pub node: Arc<str>,
    /// When it began, on the cluster's clock.
    #[serde(rename = "start_seconds", serialize_with = "seconds")]
    pub start: Duration,
    /// How long it took.
    #[serde(rename = "length_seconds", serialize_with = "seconds")]
    pub length: Duration,
    /// How it ended.
    pub end: SpanEnd,
}

/// A time in which a thread ran nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Gap {
    /// What the tasks on the thread waited for; of several reasons the worst: room, memory, something outside, input.
    pub why: SpanEnd,
    /// When it began, on the cluster's clock.
    #[serde(rename = "start_seconds", serialize_with = "seconds")]
    pub start: Duration,
    /// How long it took.
    #[serde(rename = "length_seconds", serialize_with = "seconds")]
    pub length: Duration,
}

/// What an I/O thread did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DiskWork {
    /// It wrote a frame of spilled state.
    Spill,
    /// It read such a frame and decoded it.
    Read,
    /// It did what a source asked for: it read, or decoded, its input.
    Source,
    /// It did what a sink asked for: it wrote its output.
    Sink,
    /// It did what another operator asked for.
    Operator,
}

/// One piece of work of an I/O thread, such as a frame on its way to disk or back.
#[derive(Debug, Clone, Serialize)]
pub struct DiskSpan {
    /// Number of the job; `None` for rows that outlive theirs.
    pub job: Option<u64>,
    /// Who asked for it.
    #[serde(serialize_with = "text")]
    pub holder: Arc<str>,
    /// Of which kind it is.
    pub work: DiskWork,
    /// Bytes of the frame; `None` where only who asked knows.
    pub bytes: Option<u64>,
    /// When it began, on the cluster's clock.
    #[serde(rename = "start_seconds", serialize_with = "seconds")]
    pub start: Duration,
    /// How long it took.
    #[serde(rename = "length_seconds", serialize_with = "seconds")]
    pub length: Duration,
}

/// What was recorded: by worker and thread, each in order of time.
#[derive(Debug, Clone, Serialize)]
pub struct Timeline {
    /// When it was looked at, on the cluster's clock.
    #[serde(rename = "now_seconds", serialize_with = "seconds")]
    pub now: Duration,
    /// Worker, thread and steps of each. A step in progress is the last.
    pub threads: Vec<(usize, usize, Vec<Span>)>,
    /// Worker, thread, and when it ran nothing.
    pub gaps: Vec<(usize, usize, Vec<Gap>)>,
    /// Worker and what its I/O threads did, several of them at a time.
    pub disks: Vec<(usize, Vec<DiskSpan>)>,
}

impl Timeline {
    /// Forgets all but the newest steps of each thread, and the gaps before those.
    pub fn keep_newest(&mut self, steps: usize) {
        for ((.., spans), (.., gaps)) in self.threads.iter_mut().zip(&mut self.gaps) {
            let old = spans.len().saturating_sub(steps);
            if old > 0 {
                spans.drain(..old);
                let first = spans.first().map_or(self.now, |span| span.start);
                gaps.retain(|gap| gap.start >= first);
            }
        }
    }
}

/// A task, by its name: each has its own, and whoever recorded it keeps it.
pub(super) fn task_of(name: &Arc<str>) -> *const u8 {
    Arc::as_ptr(name).cast()
}

/// Since when a task waits, and what for.
pub(super) type Waits = (Duration, *const u8, SpanEnd);

/// When a thread ran none of `steps`, which are in order of time, and why. `waits` is what its tasks wait for now: those
/// that have waited all the time have no step.
pub(super) fn gaps(steps: &[Span], waits: Vec<Waits>, now: Duration) -> Vec<Gap> {
    let stepped: HashSet<_> = steps.iter().map(|step| task_of(&step.name)).collect();
    let steps = steps.iter().map(|step| (step.start, step.start + step.length, task_of(&step.name), step.end));
    let waits = waits.into_iter().filter(|(_, task, _)| !stepped.contains(task));
    let mut points: Vec<_> = steps.chain(waits.map(|(since, task, why)| (since, since, task, why))).collect();
    points.sort_by_key(|(start, ..)| *start);
    let mut gaps: Vec<Gap> = Vec::new();
    let mut reasons: HashMap<*const u8, SpanEnd> = HashMap::new();
    let mut counts = [0_usize; REASONS.len()];
    let mut from = Duration::ZERO;
    for (index, &(_, end, task, why)) in points.iter().enumerate() {
        let place = |why: SpanEnd| REASONS.iter().position(|reason| *reason == why);
        if let Some(before) = reasons.insert(task, why).and_then(place) {
            counts[before] -= 1;
        }
        if let Some(now) = place(why) {
            counts[now] += 1;
        }
        from = from.max(end);
        let to = points.get(index + 1).map_or(now, |(start, ..)| *start);
        let Some(worst) = counts.iter().position(|count| *count > 0).filter(|_| to > from) else { continue };
        let why = REASONS[worst];
        match gaps.last_mut().filter(|gap| gap.why == why && gap.start + gap.length == from) {
            Some(gap) => gap.length = to - gap.start,
            None => gaps.push(Gap { why, start: from, length: to - from }),
        }
        from = to;
    }
    gaps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_has_the_worst_of_the_reasons_and_ends_with_the_next_step() {
        let ms = Duration::from_millis;
        let (read, join, sort) = (Arc::<str>::from("read"), Arc::<str>::from("join"), Arc::<str>::from("sort"));
        let step = |name: &Arc<str>, start: u64, length: u64, end| Span {
            job: 0,
            name: Arc::clone(name),
            partition: 0,
            node: Arc::clone(name),
            start: ms(start),
            length: ms(length),
            end,
        };
        let steps = [
            step(&read, 10, 5, SpanEnd::Again),
            step(&join, 15, 5, SpanEnd::Idle),
            step(&read, 20, 5, SpanEnd::Parked),
            step(&join, 30, 1, SpanEnd::Idle),
            step(&read, 35, 1, SpanEnd::Idle),
            step(&join, 40, 5, SpanEnd::Ended),
            step(&read, 50, 5, SpanEnd::Ended),
        ];
        let gap = |why, start, end| Gap { why, start: ms(start), length: ms(end - start) };
        let seen = [
            gap(SpanEnd::Parked, 25, 30),
            gap(SpanEnd::Parked, 31, 35),
            gap(SpanEnd::Idle, 36, 40),
            gap(SpanEnd::Idle, 45, 50),
        ];
        // What has ended waits for nothing.
        assert_eq!(gaps(&steps, Vec::new(), ms(99)), seen);
        // One that never ran has waited from before; what is known of the others is in their steps.
        let waits = vec![(ms(2), task_of(&sort), SpanEnd::Blocked), (ms(36), task_of(&join), SpanEnd::Memory)];
        let all = gaps(&steps, waits.clone(), ms(99));
        assert_eq!(all[0], gap(SpanEnd::Blocked, 2, 10));
        assert_eq!(all[1..3], seen[..2]);
        assert_eq!(
            all[3..],
            [36, 45, 55].map(|from| gap(
                SpanEnd::Blocked,
                from,
                from + if from == 36 {
                    4
                } else if from == 45 {
                    5
                } else {
                    44
                }
            ))
        );
        assert_eq!(gaps(&[], waits[..1].to_vec(), ms(99)), [gap(SpanEnd::Blocked, 2, 99)]);
        assert_eq!(gaps(&[], Vec::new(), ms(99)), []);
    }
}
