//! The life of one job as pictures of one size: what each thread ran, and what each worker held, from its start to its end.
//!
//! Time is cut into slots. Where there are too many, each two neighbours become one, so a job of days takes no more room
//! than one of a second, and a job that has ended can be looked at though nobody watched it.

use std::sync::OnceLock;
use std::time::Duration;

use parking_lot::Mutex;
use serde::Serialize;

use super::memory::KINDS;
use crate::memory::MemoryEvent;
use crate::metrics::seconds;

/// Slots that a picture has at the most.
pub const LIFE_SLOTS: usize = 256;
/// Chains of operators that are told apart within a slot.
const STAGES: usize = 6;
/// How long a slot is at first.
const FIRST_SLOT: Duration = Duration::from_millis(1);
/// A look at all holders may take this part of the time between two of them.
const LOOK_SHARE: u32 = 500;

/// What a job did from its start to its end.
#[derive(Debug, Clone, Default, Serialize)]
pub struct JobLife {
    /// How long a slot is.
    #[serde(rename = "slot_seconds", serialize_with = "seconds")]
    pub slot: Duration,
    /// What each thread ran of this job.
    pub threads: Vec<ThreadLife>,
    /// What the job held on each worker, from time to time.
    pub memory: Vec<JobMemory>,
    /// What was done about a lack of memory: the newest events of this job.
    pub events: Vec<(usize, MemoryEvent)>,
}

/// What a thread ran of one job.
#[derive(Debug, Clone, Default, Serialize)]
pub struct ThreadLife {
    /// Its worker.
    pub worker: usize,
    /// The thread, among those of the worker.
    pub thread: usize,
    /// From the start of the job on, each as long as the others.
    pub slots: Vec<Slot>,
}

/// What a thread did in a slot of time.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Slot {
    /// Nanoseconds for each chain of operators, by the index of its stage.
    pub busy_ns: Vec<(usize, u64)>,
    /// Nanoseconds for chains that are not told apart.
    pub other_ns: u64,
    /// Most bytes charged on the thread's worker, by all jobs.
    pub charged_bytes: usize,
}

/// What a job held at one moment.
#[derive(Debug, Clone, Serialize)]
pub struct JobMemory {
    /// Since its start.
    #[serde(rename = "at_seconds", serialize_with = "seconds")]
    pub at: Duration,
    /// Bytes held on each worker for each kind of holder: mailboxes, state, tasks, I/O, spill buffers.
    pub held_bytes: Vec<[usize; KINDS.len()]>,
}

/// Draws the pictures while the job runs.
#[derive(Debug, Default)]
pub(crate) struct LifeRecorder {
    started: OnceLock<Duration>,
    /// Each is written by its thread alone, so its lock is free but while somebody looks.
    threads: Vec<Mutex<Lane>>,
    memory: Mutex<MemoryLooks>,
}

#[derive(Debug)]
struct Lane {
    slot_ns: u64,
    slots: Vec<Slot>,
}

#[derive(Debug, Default)]
struct MemoryLooks {
    looks: Vec<JobMemory>,
    /// The time between two of them.
    gap: Duration,
}

impl Default for Lane {
    fn default() -> Self {
        Self { slot_ns: FIRST_SLOT.as_nanos() as u64, slots: Vec::new() }
    }
}

impl Slot {
    fn add(&mut self, stage: usize, ns: u64) {
        if let Some((_, busy)) = self.busy_ns.iter_mut().find(|(known, _)| *known == stage) {
            *busy += ns;
        } else if self.busy_ns.len() < STAGES {
            self.busy_ns.push((stage, ns));
        } else {
            self.other_ns += ns;
        }
    }

    fn add_all(&mut self, other: &Slot) {
        other.busy_ns.iter().for_each(|&(stage, ns)| self.add(stage, ns));
        self.other_ns += other.other_ns;
        self.charged_bytes = self.charged_bytes.max(other.charged_bytes);
    }
}

impl Lane {
    /// Books the time from `start` to `end`, nanoseconds since the job began, on `stage`.
    fn add(&mut self, stage: usize, start: u64, end: u64, charged_bytes: usize) {
        while end / self.slot_ns >= LIFE_SLOTS as u64 {
            self.widen();
        }
        let (first, last) = ((start / self.slot_ns) as usize, (end / self.slot_ns) as usize);
        if self.slots.len() <= last {
            self.slots.resize_with(last + 1, Slot::default);
        }
        for (index, slot) in (first as u64..).zip(&mut self.slots[first..=last]) {
            let from = start.max(index * self.slot_ns);
            let to = end.min((index + 1) * self.slot_ns);
            slot.add(stage, to.saturating_sub(from));
            slot.charged_bytes = slot.charged_bytes.max(charged_bytes);
        }
    }

    /// Makes one of each two neighbours.
    fn widen(&mut self) {
        let pairs = self.slots.chunks(2).map(|pair| {
            let mut slot = pair[0].clone();
            pair.iter().skip(1).for_each(|other| slot.add_all(other));
            slot
        });
        self.slots = pairs.collect();
        self.slot_ns *= 2;
    }
}

impl LifeRecorder {
    pub(crate) fn new(threads: usize) -> Self {
        Self { threads: (0..threads).map(|_| Mutex::default()).collect(), ..Self::default() }
    }

    /// The job's tasks are about to be started.
    pub(crate) fn begin(&self, now: Duration) {
        let _ = self.started.set(now);
    }

    /// A thread has run a step of `stage`.
    pub(crate) fn add_step(&self, thread: usize, stage: usize, step: (Duration, Duration), charged_bytes: usize) {
        let (Some(lane), Some(started)) = (self.threads.get(thread), self.started.get()) else { return };
        let [start, end] = [step.0, step.1].map(|time| time.saturating_sub(*started).as_nanos() as u64);
        lane.lock().add(stage, start, end.max(start), charged_bytes);
    }

    /// Remembers what `look` sees, unless the last look was a short while ago. `clock` tells the time.
    pub(crate) fn look_at_memory(
        &self,
        clock: impl Fn() -> Duration,
        look: impl FnOnce() -> Vec<[usize; KINDS.len()]>,
    ) {
        let Some(started) = self.started.get() else { return };
        let mut memory = self.memory.lock();
        let begin = clock();
        let at = begin.saturating_sub(*started);
        if memory.looks.last().is_some_and(|last| at < last.at + memory.gap) {
            return;
        }
        let held_bytes = look();
        memory.looks.push(JobMemory { at, held_bytes });
        memory.gap = memory.gap.max(clock().saturating_sub(begin) * LOOK_SHARE);
        if memory.looks.len() >= LIFE_SLOTS {
            let mut index = 0;
            memory.looks.retain(|_| {
                index += 1;
                index % 2 == 1
            });
            memory.gap = memory.gap.max(at / (LIFE_SLOTS as u32 / 2));
        }
    }

    /// The pictures so far, all lanes with slots of one length.
    pub(crate) fn life(&self, threads_per_worker: usize, events: Vec<(usize, MemoryEvent)>) -> JobLife {
        let lanes = self.threads.iter().map(|lane| {
            let lane = lane.lock();
            Lane { slot_ns: lane.slot_ns, slots: lane.slots.clone() }
        });
        let mut lanes: Vec<Lane> = lanes.collect();
        let slot_ns = lanes.iter().map(|lane| lane.slot_ns).max().unwrap_or(1);
        for lane in &mut lanes {
            while lane.slot_ns < slot_ns {
                lane.widen();
            }
        }
        let threads = lanes.into_iter().enumerate().map(|(index, lane)| ThreadLife {
            worker: index / threads_per_worker.max(1),
            thread: index % threads_per_worker.max(1),
            slots: lane.slots,
        });
        JobLife {
            slot: Duration::from_nanos(slot_ns),
            threads: threads.collect(),
            memory: self.memory.lock().looks.clone(),
            events,
        }
    }
}

impl JobLife {
    /// Bytes that it takes, about.
    pub(crate) fn size_bytes(&self) -> usize {
        let slots = self.threads.iter().flat_map(|thread| &thread.slots);
        let slots: usize = slots.map(|slot| size_of_val(slot) + size_of_val(&slot.busy_ns[..])).sum();
        let memory = self.memory.iter().map(|look| size_of_val(look) + size_of_val(&look.held_bytes[..]));
        size_of_val(self) + slots + memory.sum::<usize>() + size_of_val(&self.events[..])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_long_life_has_as_few_slots_as_a_short_one_and_no_time_is_lost() {
        let recorder = LifeRecorder::new(2);
        recorder.begin(ms(1000));
        let mut booked = Duration::ZERO;
        for step in 0..20_000_u64 {
            let start = ms(1000 + 7 * step);
            recorder.add_step(0, (step % 9) as usize, (start, start + ms(3)), step as usize);
            booked += ms(3);
        }
        recorder.add_step(1, 4, (ms(1002), ms(1005)), 77);
        let life = recorder.life(1, Vec::new());
        let slots = &life.threads[0].slots;
        assert!((LIFE_SLOTS / 2..=LIFE_SLOTS).contains(&slots.len()), "{}", slots.len());
        let of = |slot: &Slot| slot.other_ns + slot.busy_ns.iter().map(|(_, ns)| ns).sum::<u64>();
        assert_eq!(slots.iter().map(of).sum::<u64>(), booked.as_nanos() as u64);
        assert!(slots.iter().all(|slot| slot.busy_ns.len() <= STAGES && of(slot) <= life.slot.as_nanos() as u64));
        assert!(slots.is_sorted_by_key(|slot| slot.charged_bytes));
        let other = &life.threads[1];
        assert_eq!((other.worker, other.thread, other.slots.len()), (1, 0, 1), "slots of all are of one length");
        assert_eq!((other.slots[0].busy_ns[..].to_vec(), other.slots[0].charged_bytes), (vec![(4, 3_000_000)], 77));
        assert!(life.size_bytes() < 100_000, "{}", life.size_bytes());
    }

    #[test]
    fn a_step_longer_than_a_slot_is_shared_by_all_that_it_touches() {
        let recorder = LifeRecorder::new(1);
        recorder.begin(Duration::ZERO);
        recorder.add_step(0, 0, (Duration::from_micros(500), Duration::from_micros(2500)), 1);
        let life = recorder.life(1, Vec::new());
        let busy: Vec<_> = life.threads[0].slots.iter().map(|slot| slot.busy_ns[0].1 / 1000).collect();
        assert_eq!(busy, [500, 1000, 500]);
        recorder.add_step(0, 0, (ms(3), Duration::from_secs(86_400)), 1);
        assert!(recorder.life(1, Vec::new()).threads[0].slots.len() <= LIFE_SLOTS);
    }

    #[test]
    fn looks_at_memory_become_rarer_and_dear_ones_rarer_still() {
        let recorder = LifeRecorder::new(1);
        recorder.look_at_memory(|| unreachable!("it has not begun"), || unreachable!("it has not begun"));
        recorder.begin(Duration::ZERO);
        let looked = |at: u64| {
            let mut looked = false;
            let look = || {
                looked = true;
                vec![[at as usize; 5]]
            };
            recorder.look_at_memory(|| ms(at), look);
            looked
        };
        let looks = (0..10_000).filter(|second| looked(second * 100)).count();
        assert!(looks < 1500, "{looks}");
        let memory = recorder.life(1, Vec::new()).memory;
        assert!((LIFE_SLOTS / 4..LIFE_SLOTS).contains(&memory.len()), "{}", memory.len());
        assert!(memory.is_sorted_by_key(|look| look.at) && memory[0].at == Duration::ZERO);
        // A look that takes 10 ms is not made again before 5 s are over.
        let dear = LifeRecorder::new(1);
        dear.begin(Duration::ZERO);
        let now = std::cell::Cell::new(0);
        let look = || {
            now.set(now.get() + 10);
            Vec::new()
        };
        dear.look_at_memory(|| ms(now.get()), look);
        now.set(4000);
        dear.look_at_memory(|| ms(now.get()), || unreachable!("too soon"));
        now.set(5010);
        dear.look_at_memory(|| ms(now.get()), Vec::new);
        assert_eq!(dear.life(1, Vec::new()).memory.len(), 2);
    }
}
