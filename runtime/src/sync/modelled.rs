//! The checkers' locks and atomics, under the names and with the signatures of parking_lot and std.
//!
//! Two things are not taken from the checkers as they are:
//!
//! - loom plays an access that is `SeqCst` as if it were `AcqRel`, and takes only fences at their word. So each has a
//!   fence before and behind it. What relies on less than `SeqCst` is played as it is.
//! - Neither knows crossbeam's channel. A lane's queue is a deque behind the checker's lock: what it promises, that what
//!   was sent before is received, in order, is what crossbeam promises. Crossbeam itself is not searched.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

#[cfg(feature = "loom")]
use loom::sync as checked;
#[cfg(all(feature = "shuttle", not(feature = "loom")))]
use shuttle::sync as checked;

pub(crate) use checked::{Condvar, MutexGuard};

/// A lock that a panic does not poison, as parking_lot's.
#[derive(Default)]
pub(crate) struct Mutex<T>(checked::Mutex<T>);

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(checked::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl<T> fmt::Debug for Mutex<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Mutex")
    }
}

#[cfg(feature = "loom")]
fn fence(order: Ordering) {
    if order == Ordering::SeqCst {
        checked::atomic::fence(order);
    }
}

/// Shuttle plays every access as one that all threads agree on.
#[cfg(not(feature = "loom"))]
fn fence(_order: Ordering) {}

fn fenced<T>(order: Ordering, access: impl FnOnce() -> T) -> T {
    fence(order);
    let value = access();
    fence(order);
    value
}

macro_rules! atomic {
    ($name:ident, $value:ty) => {
        #[derive(Debug, Default)]
        pub(crate) struct $name(checked::atomic::$name);

        impl $name {
            pub(crate) fn new(value: $value) -> Self {
                Self(checked::atomic::$name::new(value))
            }

            pub(crate) fn load(&self, order: Ordering) -> $value {
                fenced(order, || self.0.load(order))
            }

            pub(crate) fn store(&self, value: $value, order: Ordering) {
                fenced(order, || self.0.store(value, order))
            }

            pub(crate) fn swap(&self, value: $value, order: Ordering) -> $value {
                fenced(order, || self.0.swap(value, order))
            }
        }

        impl From<$value> for $name {
            fn from(value: $value) -> Self {
                Self::new(value)
            }
        }
    };
}

atomic!(AtomicBool, bool);
atomic!(AtomicUsize, usize);

impl AtomicUsize {
    pub(crate) fn fetch_add(&self, value: usize, order: Ordering) -> usize {
        fenced(order, || self.0.fetch_add(value, order))
    }

    pub(crate) fn fetch_sub(&self, value: usize, order: Ordering) -> usize {
        fenced(order, || self.0.fetch_sub(value, order))
    }

    pub(crate) fn fetch_max(&self, value: usize, order: Ordering) -> usize {
        fenced(order, || self.0.fetch_max(value, order))
    }

    pub(crate) fn compare_exchange(
        &self,
        current: usize,
        new: usize,
        success: Ordering,
        failure: Ordering,
    ) -> Result<usize, usize> {
        fenced(success, || self.0.compare_exchange(current, new, success, failure))
    }

    pub(crate) fn fetch_update(
        &self,
        set: Ordering,
        fetch: Ordering,
        update: impl FnMut(usize) -> Option<usize>,
    ) -> Result<usize, usize> {
        fenced(set, || self.0.fetch_update(set, fetch, update))
    }
}

/// A queue without a bound, of which anybody may take.
pub(crate) fn unbounded<T>() -> (Sender<T>, Receiver<T>) {
    let queue = Arc::new(Mutex::new(VecDeque::new()));
    (Sender(Arc::clone(&queue)), Receiver(queue))
}

pub(crate) struct Sender<T>(Arc<Mutex<VecDeque<T>>>);

impl<T> Sender<T> {
    /// As crossbeam's, which fails where no receiver is left: a lane keeps one.
    #[expect(clippy::unnecessary_wraps, reason = "crossbeam's signature")]
    pub(crate) fn send(&self, value: T) -> Result<(), T> {
        self.0.lock().push_back(value);
        Ok(())
    }
}

pub(crate) struct Receiver<T>(Arc<Mutex<VecDeque<T>>>);

impl<T> Receiver<T> {
    pub(crate) fn try_iter(&self) -> impl Iterator<Item = T> + '_ {
        std::iter::from_fn(|| self.0.lock().pop_front())
    }
}
