//! What threads share of a worker's ledger, its ports and its wake-ups: locks, atomics, the queue of a lane.
//!
//! Outside of this crate's models it is parking_lot, std and crossbeam. Built with the feature `loom` or `shuttle`, the
//! unit tests of this crate have that checker's in their place, with the same names (`crate::models`). What is written
//! over this module can be searched; what takes its locks from elsewhere is invisible to a search.

#[cfg(not(all(test, any(feature = "loom", feature = "shuttle"))))]
mod real {
    pub(crate) use std::sync::atomic::{AtomicBool, AtomicUsize};

    pub(crate) use crossbeam_channel::{Receiver, Sender, unbounded};
    pub(crate) use parking_lot::Mutex;
}

#[cfg(not(all(test, any(feature = "loom", feature = "shuttle"))))]
pub(crate) use real::*;

#[cfg(all(test, any(feature = "loom", feature = "shuttle")))]
mod modelled;
#[cfg(all(test, any(feature = "loom", feature = "shuttle")))]
pub(crate) use modelled::*;
