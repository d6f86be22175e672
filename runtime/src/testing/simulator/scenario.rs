//! What one seed decides: sizes, limits, pace of everything outside, and what goes wrong.
//!
//! A scenario is data, made of nothing but its seed, so that a seed replays exactly; each simplification of it has a
//! name, so that a shrunk one replays as well.

use std::fmt;

use super::random::Random;

/// One way to run a graph.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Scenario {
    /// Decides who is next, and all other chances of the run.
    pub(super) schedule: u64,
    /// Jobs of the same graph that share the workers.
    pub(super) jobs: usize,
    pub(super) workers: usize,
    pub(super) threads: usize,
    /// Hash partitions per arbiter.
    pub(super) per_arbiter: usize,
    pub(super) batch_bytes: usize,
    pub(super) batch_rows: usize,
    pub(super) lane_batches: usize,
    /// What each worker has beyond the floors of all jobs, in percent of them.
    pub(super) extra_percent: usize,
    pub(super) compression: bool,
    pub(super) policy: Policy,
    /// Pieces of work after which a step is over, on average.
    pub(super) pieces: u64,
    /// How often outside things get their turn, beside 16 for the tasks.
    pub(super) disk_pace: u64,
    pub(super) caller_pace: u64,
    /// Pieces of I/O that are under way at once, and end in any order.
    pub(super) disk_window: usize,
    /// Once in so many events; 0 for never.
    pub(super) reclaim: u64,
    pub(super) hog: u64,
    pub(super) spurious: u64,
    pub(super) look: u64,
    /// Once in so many calls a source or a sink waits for something outside.
    pub(super) stall: u64,
    /// The caller reads one result to its end before the next.
    pub(super) in_turn: bool,
    pub(super) faults: Vec<Fault>,
}

/// Which of the tasks that can run is run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Policy {
    /// Any.
    Random,
    /// Whoever has waited longest.
    Fair,
    /// The one with the highest priority; priorities are drawn anew once in so many events.
    Priorities(u64),
}

/// Something that goes wrong, or that the caller does, once. Counted from 0, over all instances.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Fault {
    /// A call of an instance returns an error.
    Error {
        call: u64,
    },
    /// A call of an instance panics.
    Panic {
        call: u64,
    },
    /// An instance panics as it is dropped.
    PanicInDrop {
        drop: u64,
    },
    /// The disk has no room for more than this.
    Full {
        bytes: u64,
    },
    /// Spill files take no more than this.
    SpillLimit {
        bytes: u64,
    },
    /// A file cannot be created.
    CreateError {
        create: u64,
    },
    WriteError {
        write: u64,
    },
    ReadError {
        read: u64,
    },
    /// A file ends too early.
    ShortRead {
        read: u64,
    },
    /// A bit is not what was written.
    Damage {
        read: u64,
    },
    Cancel {
        event: u64,
    },
    DropJob {
        event: u64,
    },
    /// The stream of a result is dropped after so many batches.
    DropResult {
        batches: u64,
    },
    /// The caller reads no more after so many batches, until nothing else goes on.
    StopReading {
        batches: u64,
    },
}

impl Fault {
    pub(super) fn name(self) -> &'static str {
        match self {
            Fault::Error { .. } => "error",
            Fault::Panic { .. } => "panic",
            Fault::PanicInDrop { .. } => "panic in drop",
            Fault::Full { .. } => "disk full",
            Fault::SpillLimit { .. } => "spill limit",
            Fault::CreateError { .. } => "create error",
            Fault::WriteError { .. } => "write error",
            Fault::ReadError { .. } => "read error",
            Fault::ShortRead { .. } => "short read",
            Fault::Damage { .. } => "damaged read",
            Fault::Cancel { .. } => "cancel",
            Fault::DropJob { .. } => "dropped job",
            Fault::DropResult { .. } => "dropped result",
            Fault::StopReading { .. } => "stopped reading",
        }
    }

    fn draw(random: &mut Random) -> Fault {
        let at = random.magnitude(12);
        // The disk is used less often than operators are called.
        let disk = random.magnitude(7);
        match random.below(18) {
            0..=2 => Fault::Error { call: at },
            3 | 4 => Fault::Panic { call: at },
            5 => Fault::PanicInDrop { drop: random.magnitude(5) },
            6 => Fault::Full { bytes: 64 * at },
            7 => Fault::SpillLimit { bytes: 64 * at },
            8 => Fault::CreateError { create: random.magnitude(4) },
            9 => Fault::WriteError { write: disk },
            10 => Fault::ReadError { read: disk },
            11 => Fault::ShortRead { read: disk },
            12 => Fault::Damage { read: disk },
            13 => Fault::Cancel { event: 4 * at },
            14 => Fault::DropJob { event: 4 * at },
            15 => Fault::DropResult { batches: random.magnitude(5) },
            _ => Fault::StopReading { batches: random.magnitude(5) },
        }
    }
}

impl Scenario {
    /// What `seed` decides.
    pub(super) fn of(seed: u64, faults: bool) -> Scenario {
        let mut random = Random::new(seed);
        let schedule = random.next();
        let batch_bytes = random.pick(&[8, 16, 16, 32, 64]) << 10;
        let once_in = |random: &mut Random, choices: &[u64]| random.pick(choices);
        let mut scenario = Scenario {
            schedule,
            jobs: random.pick(&[1, 1, 1, 2]),
            workers: random.pick(&[1, 1, 2, 3]),
            threads: random.pick(&[1, 1, 2]),
            per_arbiter: random.pick(&[1, 2, 4]),
            batch_bytes,
            batch_rows: random.pick(&[64, 1024, 8192]),
            lane_batches: random.pick(&[1, 1, 2, 8]),
            extra_percent: random.pick(&[0, 0, 1, 5, 20, 100, 400]),
            compression: random.once_in(4),
            policy: match random.below(5) {
                0 => Policy::Fair,
                1 => Policy::Priorities(20),
                2 => Policy::Priorities(1000),
                _ => Policy::Random,
            },
            pieces: random.pick(&[1, 1, 4, 64]),
            disk_pace: random.pick(&[1, 4, 16, 256]),
            caller_pace: random.pick(&[1, 4, 16, 256]),
            disk_window: random.pick(&[1, 1, 2, 4]),
            reclaim: once_in(&mut random, &[0, 0, 20, 200]),
            hog: once_in(&mut random, &[0, 0, 0, 100]),
            spurious: once_in(&mut random, &[0, 0, 0, 50]),
            look: once_in(&mut random, &[0, 5, 100]),
            stall: once_in(&mut random, &[0, 0, 4, 30]),
            in_turn: random.once_in(2),
            faults: Vec::new(),
        };
        // Half of all runs have no fault at all: what goes wrong there is nobody's fault but ours.
        let count = if faults { random.pick(&[0, 0, 0, 1, 1, 2]) } else { 0 };
        scenario.faults = (0..count).map(|_| Fault::draw(&mut random)).collect();
        scenario
    }

    /// As many partitions, all the memory there is, nothing that goes wrong, everybody in turn.
    pub(super) fn reference(&self) -> Scenario {
        Scenario {
            schedule: 0,
            jobs: 1,
            batch_bytes: 64 << 10,
            batch_rows: 8192,
            lane_batches: 8,
            extra_percent: 100_000,
            compression: false,
            policy: Policy::Fair,
            pieces: 64,
            disk_pace: 16,
            caller_pace: 16,
            disk_window: 1,
            reclaim: 0,
            hog: 0,
            spurious: 0,
            look: 0,
            stall: 0,
            in_turn: false,
            faults: Vec::new(),
            ..*self
        }
    }

    /// Applies a simplification; `false` if there is none of that name, or it changes nothing.
    pub(super) fn simplify(&mut self, name: &str) -> bool {
        let before = self.clone();
        let calm = self.reference();
        match name {
            "no-fault-0" if !self.faults.is_empty() => drop(self.faults.remove(0)),
            "no-fault-1" if self.faults.len() > 1 => drop(self.faults.remove(1)),
            "one-job" => self.jobs = 1,
            "one-worker" => self.workers = 1,
            "one-thread" => self.threads = 1,
            "few-partitions" => self.per_arbiter = 1,
            "no-reclaim" => self.reclaim = 0,
            "no-hog" => self.hog = 0,
            "no-spurious" => self.spurious = 0,
            "no-looks" => self.look = 0,
            "no-stalls" => self.stall = 0,
            "ample-memory" => self.extra_percent = self.extra_percent.max(400),
            "large-batches" => (self.batch_bytes, self.batch_rows) = (calm.batch_bytes, calm.batch_rows),
            "wide-lanes" => self.lane_batches = calm.lane_batches,
            "no-compression" => self.compression = false,
            "fair" => self.policy = calm.policy,
            "long-steps" => self.pieces = calm.pieces,
            "fast-disk" => (self.disk_pace, self.disk_window) = (256, 1),
            "fast-caller" => (self.caller_pace, self.in_turn) = (256, false),
            _ => {
                let Some(number) = name.strip_prefix("again-").and_then(|n| n.parse::<u64>().ok()) else {
                    return false;
                };
                self.schedule = self.schedule.wrapping_add(number);
            }
        }
        *self != before
    }
}

/// From those that help most to those that help least.
pub(super) const SIMPLIFICATIONS: [&str; 19] = [
    "no-fault-1",
    "no-fault-0",
    "one-job",
    "one-worker",
    "one-thread",
    "few-partitions",
    "no-hog",
    "no-reclaim",
    "no-spurious",
    "no-looks",
    "no-stalls",
    "no-compression",
    "fast-disk",
    "fast-caller",
    "long-steps",
    "fair",
    "wide-lanes",
    "large-batches",
    "ample-memory",
];

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let often = |times: u64| if times == 0 { "never".to_string() } else { format!("once in {times}") };
        writeln!(
            f,
            "  {} job(s) on {} worker(s) of {} thread(s), {} hash partition(s) per thread",
            self.jobs, self.workers, self.threads, self.per_arbiter
        )?;
        writeln!(
            f,
            "  batches of {} bytes and {} rows, {} in a lane, floors + {} % of memory",
            self.batch_bytes, self.batch_rows, self.lane_batches, self.extra_percent
        )?;
        writeln!(
            f,
            "  schedule {:?}, steps of {} piece(s); pace of the disk {} ({} at once{}), of the caller {}{}",
            self.policy,
            self.pieces,
            self.disk_pace,
            self.disk_window,
            if self.compression { ", compressed" } else { "" },
            self.caller_pace,
            if self.in_turn { ", one result after the other" } else { "" }
        )?;
        writeln!(
            f,
            "  reclaim {}, hog {}, wake-ups for nothing {}, watchdog {}, stalls {}",
            often(self.reclaim),
            often(self.hog),
            often(self.spurious),
            often(self.look),
            often(self.stall)
        )?;
        match self.faults.as_slice() {
            [] => write!(f, "  no fault"),
            faults => write!(f, "  faults: {faults:?}"),
        }
    }
}
