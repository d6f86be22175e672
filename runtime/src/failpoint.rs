//! Places at which a test makes the runtime fail, for the feature `failpoints`; without it they are empty functions.
//!
//! A [`Point`] counts how often it is passed. While a [`Scenario`] lives, one of them fails at the passes that it names,
//! by an error or a panic. Points belong to the process, so scenarios come one after the other. (The bugs of `planted`
//! are something else: wrong code that the simulator must find, chosen by thread. What fails here must be got over.)

#![cfg_attr(not(feature = "failpoints"), allow(unreachable_pub, reason = "public with the feature alone"))]

/// Somewhere that can fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Point {
    /// Bytes are asked for, from a floor or beyond it. It can only panic: nobody is refused what is left of a floor.
    Reserve,
    /// Bytes are asked for that float. They are refused.
    Grow,
    /// A spill file is created.
    SpillCreate,
    /// A frame is written to a spill file.
    SpillWrite,
    /// A frame is read from a spill file.
    SpillRead,
    /// A batch is sent to a port.
    Send,
    /// An I/O thread begins a piece of work that somebody waits for. It can only panic: what goes wrong in reading or
    /// writing a file is between the operator and its file.
    Work,
}

#[cfg(feature = "failpoints")]
pub(crate) use armed::trips;
#[cfg(feature = "failpoints")]
pub use armed::{Failing, Passes, Scenario};

/// Whether to fail now: never.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub(crate) const fn trips(_point: Point) -> bool {
    false
}

/// The error of a file operation that fails here.
pub(crate) fn io_error(point: Point) -> std::io::Error {
    std::io::Error::other(format!("failpoint {point:?}"))
}

/// As [`trips`], for a file operation.
#[inline(always)]
pub(crate) fn check(point: Point) -> std::io::Result<()> {
    if trips(point) { Err(io_error(point)) } else { Ok(()) }
}

#[cfg(feature = "failpoints")]
mod armed {
    use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};

    use parking_lot::{Mutex, MutexGuard};

    use super::Point;

    impl Point {
        /// All of them.
        pub const ALL: [Point; 7] =
            [Self::Reserve, Self::Grow, Self::SpillCreate, Self::SpillWrite, Self::SpillRead, Self::Send, Self::Work];

        /// How it can fail.
        pub fn failures(self) -> &'static [Failing] {
            match self {
                Self::Reserve | Self::Work => &[Failing::Panic],
                Self::Grow => &[Failing::Error],
                _ => &[Failing::Error, Failing::Panic],
            }
        }
    }

    /// What happens at a point.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum Failing {
        /// What is asked for there fails, or is refused.
        Error,
        /// The thread panics.
        Panic,
    }

    /// The passes that fail, counted from 1.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum Passes {
        /// One of them.
        Nth(u64),
        /// Every so many.
        Every(u64),
    }

    impl Passes {
        fn include(self, pass: u64) -> bool {
            match self {
                Self::Nth(nth) => pass == nth,
                Self::Every(period) => pass.is_multiple_of(period),
            }
        }
    }

    /// One scenario at a time.
    static TURN: Mutex<()> = Mutex::new(());
    static ACTIVE: AtomicBool = AtomicBool::new(false);
    static PASSED: [AtomicU64; Point::ALL.len()] = [const { AtomicU64::new(0) }; Point::ALL.len()];
    static TRIPPED: AtomicUsize = AtomicUsize::new(0);
    static PLAN: Mutex<Option<(Point, Failing, Passes)>> = Mutex::new(None);

    /// Points are counted while it lives, and one of them may fail.
    #[derive(Debug)]
    pub struct Scenario {
        _turn: MutexGuard<'static, ()>,
    }

    impl Scenario {
        /// Counts, and nothing fails.
        pub fn counting() -> Self {
            Self::start(None)
        }

        /// Counts, and `point` fails as `failing` says at `passes`.
        pub fn failing(point: Point, failing: Failing, passes: Passes) -> Self {
            Self::start(Some((point, failing, passes)))
        }

        fn start(plan: Option<(Point, Failing, Passes)>) -> Self {
            let turn = TURN.lock();
            PASSED.iter().for_each(|passed| passed.store(0, SeqCst));
            TRIPPED.store(0, SeqCst);
            *PLAN.lock() = plan;
            ACTIVE.store(true, SeqCst);
            Self { _turn: turn }
        }

        /// How often `point` was passed so far.
        pub fn passed(&self, point: Point) -> u64 {
            PASSED[point as usize].load(SeqCst)
        }

        /// How often something failed so far.
        pub fn tripped(&self) -> usize {
            TRIPPED.load(SeqCst)
        }
    }

    impl Drop for Scenario {
        fn drop(&mut self) {
            ACTIVE.store(false, SeqCst);
            *PLAN.lock() = None;
        }
    }

    /// Whether to fail now. Panics if that is how.
    pub(crate) fn trips(point: Point) -> bool {
        if !ACTIVE.load(SeqCst) {
            return false;
        }
        let pass = PASSED[point as usize].fetch_add(1, SeqCst) + 1;
        let plan = *PLAN.lock();
        match plan {
            Some((at, failing, passes)) if at == point && passes.include(pass) => {
                TRIPPED.fetch_add(1, SeqCst);
                assert!(failing == Failing::Error, "failpoint {point:?}");
                true
            }
            _ => false,
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn a_point_fails_at_the_passes_that_a_scenario_names_and_at_no_other() {
            let fails = |passes| {
                let scenario = Scenario::failing(Point::Send, Failing::Error, passes);
                let failed = (1..=6).filter(|_| trips(Point::Send)).count();
                assert!(!trips(Point::Grow));
                assert_eq!((scenario.passed(Point::Send), scenario.tripped()), (6, failed));
                failed
            };
            assert_eq!((fails(Passes::Nth(3)), fails(Passes::Nth(7)), fails(Passes::Every(2))), (1, 0, 3));
            let scenario = Scenario::counting();
            assert!(!trips(Point::Send));
            assert_eq!(scenario.passed(Point::Send), 1);
        }

        #[test]
        fn outside_a_scenario_nothing_fails() {
            drop(Scenario::failing(Point::SpillRead, Failing::Panic, Passes::Every(1)));
            let _turn = TURN.lock();
            assert!(!trips(Point::SpillRead));
        }
    }
}
