//! A worker's memory: the pool, what each holder was promised, what it holds beyond that, and reclaim.
//!
//! ```text
//! limit ┌──────────────────────────────┐
//!       │ floating                     │  any account may grow into it, and gives it back on request
//!       ├──────────────────────────────┤
//!       │ floors of job 2              │  taken at once at admission (C2)
//!       │ floors of job 1              │
//!     0 └──────────────────────────────┘
//! ```
//!
//! An [`Account`] is charged `max(floor, held)`: up to its floor it can always grow. What it holds is the
//! sum of its [`Reservation`]s and of the Arrow buffers it has claimed, each buffer once however many
//! slices share it. Claiming is infallible, so the order is: reserve an estimate, allocate, claim, give
//! the estimate back.

mod account;
mod events;

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, Weak};
use std::task::Waker;

use crate::error::OperatorError;
use crate::planted::{Bug, is_planted};
use crate::sync::{AtomicBool, AtomicUsize, Mutex};

pub use account::{Account, Reservation, hand_out};
pub(crate) use events::MemoryLog;
pub use events::{MEMORY_EVENTS, MemoryCounts, MemoryEvent, MemoryEventKind};

/// The memory of one worker. Clones are the same pool.
#[derive(Clone)]
pub struct MemoryPool(Arc<PoolInner>);

struct PoolInner {
    limit: usize,
    charged: AtomicUsize,
    peak: AtomicUsize,
    /// How often a claim went over the limit: an estimate was too small.
    overruns: AtomicUsize,
    /// Number of waiters, read without the lock on every release.
    waiting: AtomicUsize,
    state: Mutex<PoolState>,
    log: MemoryLog,
}

#[derive(Default)]
struct PoolState {
    waiters: VecDeque<Waiter>,
    holders: Vec<Weak<Holder>>,
    /// All accounts, for whoever asks who holds what.
    #[cfg(any(test, feature = "testing"))]
    accounts: Vec<Weak<account::AccountInner>>,
}

struct Waiter {
    bytes: usize,
    waker: Waker,
}

impl MemoryPool {
    /// A pool of `limit_bytes`.
    pub fn new(limit_bytes: usize) -> Self {
        Self(Arc::new(PoolInner {
            limit: limit_bytes,
            charged: AtomicUsize::new(0),
            peak: AtomicUsize::new(0),
            overruns: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            state: Mutex::default(),
            log: MemoryLog::default(),
        }))
    }

    /// The limit in bytes.
    pub fn limit(&self) -> usize {
        self.0.limit
    }

    /// Bytes charged: all floors, and what accounts hold beyond them.
    pub fn charged(&self) -> usize {
        self.0.charged.load(SeqCst)
    }

    /// Largest value of [`MemoryPool::charged`] so far.
    pub fn peak(&self) -> usize {
        self.0.peak.load(Relaxed)
    }

    /// Bytes that an account could still grow by.
    pub fn available(&self) -> usize {
        self.0.limit.saturating_sub(self.charged())
    }

    /// How often a claim took the pool over its limit. Anything but zero is a wrong estimate.
    pub fn overruns(&self) -> usize {
        self.0.overruns.load(Relaxed)
    }

    /// Takes `bytes` of floors at once, or nothing.
    pub fn admit(&self, bytes: usize) -> Option<Arc<Admission>> {
        self.admit_job(None, bytes, 2 * bytes)
    }

    /// As [`MemoryPool::admit`], for the job of this number whose floors are at most half of every limit from `half_limit` on.
    pub(crate) fn admit_job(&self, job: Option<u64>, bytes: usize, half_limit: usize) -> Option<Arc<Admission>> {
        let admission =
            || Arc::new(Admission { pool: self.clone(), job, bytes: bytes.into(), job_bytes: bytes, half_limit });
        self.0.try_charge(bytes).then(admission)
    }

    /// An account without a floor and without a job, such as a test's.
    pub fn account(&self, name: impl Into<String>) -> Account {
        Account::new(self, name.into(), 0, None)
    }

    /// Wakes `waker` once `bytes` may be had, and asks the largest holder for them.
    ///
    /// The bytes are not set aside: whoever is woken tries again, and waits again if it lost.
    pub fn wait(&self, bytes: usize, waker: &Waker) {
        {
            let mut state = self.0.state.lock();
            if let Some(waiter) = state.waiters.iter_mut().find(|w| w.waker.will_wake(waker)) {
                waiter.bytes = bytes;
            } else {
                state.waiters.push_back(Waiter { bytes, waker: waker.clone() });
            }
            self.0.waiting.store(state.waiters.len(), SeqCst);
        }
        // A release between the refusal and the line above has seen no waiter.
        if !is_planted(Bug::NoSecondLook) {
            self.0.wake_waiters();
        }
        if self.available() < bytes {
            self.reclaim(bytes);
        }
    }

    /// Forgets a waiter.
    pub fn stop_waiting(&self, waker: &Waker) {
        if self.0.waiting.load(SeqCst) > 0 {
            let mut state = self.0.state.lock();
            state.waiters.retain(|w| !w.waker.will_wake(waker));
            self.0.waiting.store(state.waiters.len(), SeqCst);
        }
    }

    /// Asks the holder that could free the most to free `bytes`. Nobody is asked twice for the same.
    pub(crate) fn reclaim(&self, bytes: usize) {
        // Dropped after the lock: the last to drop a holder may free memory, which takes it.
        let holders: Vec<_>;
        let asked = {
            let mut state = self.0.state.lock();
            state.holders.retain(|h| h.strong_count() > 0);
            holders = state.holders.iter().filter_map(Weak::upgrade).collect();
            if holders.iter().any(|h| h.request.load(SeqCst) > 0) {
                return;
            }
            let largest = holders
                .iter()
                .filter(|h| !h.exhausted.load(SeqCst))
                .map(|h| (h.excess(), h))
                .filter(|(excess, _)| *excess > 0)
                .max_by_key(|(excess, _)| *excess);
            // Asked under the lock: one that ends is either no longer in the list, or sees that it was asked.
            largest.inspect(|(_, holder)| {
                *holder.asked.lock() = holder.largest();
                holder.request.store(bytes, SeqCst);
            })
        };
        if let Some((_, holder)) = asked {
            holder.waker.wake_by_ref();
        }
    }

    /// What was done about a lack of memory here.
    pub(crate) fn log(&self) -> &MemoryLog {
        &self.0.log
    }

    /// Asks the holder at `place` among all of them, counted round, to free `bytes`, whether it holds more than its floor or
    /// not; nobody, if somebody is asked already.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn ask_one(&self, place: usize, bytes: usize) -> bool {
        // Dropped after the lock, and asked under it, as in `reclaim`.
        let holders: Vec<_>;
        let asked = {
            let state = self.0.state.lock();
            holders = state.holders.iter().filter_map(Weak::upgrade).collect();
            if holders.is_empty() || holders.iter().any(|holder| holder.request.load(SeqCst) > 0) {
                return false;
            }
            let holder = &holders[place % holders.len()];
            *holder.asked.lock() = holder.largest();
            holder.request.store(bytes.max(1), SeqCst);
            holder
        };
        asked.waker.wake_by_ref();
        true
    }

    /// Asks again those that had nothing to free when they were asked: what they share may be free by now.
    pub(crate) fn ask_again(&self) {
        let (holders, wanted) = {
            let state = self.0.state.lock();
            let holders: Vec<_> = state.holders.iter().filter_map(Weak::upgrade).collect();
            (holders, state.waiters.iter().map(|waiter| waiter.bytes).min())
        };
        holders.iter().for_each(|holder| holder.exhausted.store(false, SeqCst));
        if let Some(bytes) = wanted {
            self.reclaim(bytes);
        }
    }

    /// The accounts that hold anything, with the most beyond its floor first: name, bytes held, floor.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn accounts(&self) -> Vec<(String, usize, usize)> {
        let accounts: Vec<_> = self.0.state.lock().accounts.iter().filter_map(Weak::upgrade).map(Account).collect();
        let mut held: Vec<_> = accounts.iter().map(|a| (a.name().to_string(), a.held(), a.floor())).collect();
        held.retain(|(_, held, _)| *held > 0);
        held.sort_by_key(|(_, held, floor)| std::cmp::Reverse(*held as i64 - *floor as i64));
        held
    }

    /// Adds a task that can be asked to free memory. It is forgotten when the returned [`Arc`] is dropped.
    pub fn add_holder(&self, waker: Waker, accounts: Vec<Account>) -> Arc<Holder> {
        let (request, exhausted) = (AtomicUsize::new(0), AtomicBool::new(false));
        let holder = Arc::new(Holder { waker, accounts, request, asked: parking_lot::Mutex::new(None), exhausted });
        let mut state = self.0.state.lock();
        if state.holders.len() == state.holders.capacity() {
            state.holders.retain(|holder| holder.strong_count() > 0);
        }
        state.holders.push(Arc::downgrade(&holder));
        drop(state);
        holder
    }

    /// Says that the task of `holder` ends, which frees all that it holds: nobody asks it any more, and whoever has
    /// does not wait for an answer that never comes.
    pub(crate) fn retire(&self, holder: &Holder) {
        self.0.state.lock().holders.retain(|other| !std::ptr::eq(other.as_ptr(), holder));
        if holder.requested() > 0 && !is_planted(Bug::RequestUnanswered) {
            self.answered(holder, 0);
        }
    }

    /// Called by a holder that has answered a request.
    pub(crate) fn answered(&self, holder: &Holder, freed_bytes: usize) {
        holder.exhausted.store(freed_bytes == 0, SeqCst);
        let asked_bytes = holder.request.swap(0, SeqCst);
        let asked = holder.asked.lock().take();
        if let Some(asked) = asked {
            self.0.log.reclaimed(asked.job(), asked.name(), asked_bytes as u64, freed_bytes as u64);
        }
        self.0.wake_waiters();
        // Whoever is left does not fit in what the others leave: what was freed is theirs.
        let wanted = self.0.state.lock().waiters.iter().map(|w| w.bytes).min();
        if let Some(bytes) = wanted {
            self.reclaim(bytes);
        }
    }
}

impl fmt::Debug for MemoryPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryPool").field("limit", &self.limit()).field("charged", &self.charged()).finish()
    }
}

impl PoolInner {
    fn try_charge(&self, bytes: usize) -> bool {
        let charged = self.charged.fetch_update(SeqCst, SeqCst, |charged| {
            charged.checked_add(bytes).filter(|sum| bytes == 0 || *sum <= self.limit)
        });
        if let Ok(before) = charged {
            self.peak.fetch_max(before + bytes, Relaxed);
        }
        charged.is_ok()
    }

    /// Charges `bytes`, whether they fit or not; returns by how many the limit is passed, if it is.
    fn charge(&self, bytes: usize) -> Option<usize> {
        if bytes == 0 {
            return None;
        }
        let now = self.charged.fetch_add(bytes, SeqCst) + bytes;
        self.peak.fetch_max(now, Relaxed);
        let over = now.checked_sub(self.limit).filter(|over| *over > 0);
        if over.is_some() {
            self.overruns.fetch_add(1, Relaxed);
        }
        over
    }

    fn release(&self, bytes: usize) {
        if bytes > 0 {
            self.charged.fetch_sub(bytes, SeqCst);
            if self.waiting.load(SeqCst) > 0 {
                self.wake_waiters();
            }
        }
    }

    /// Wakes, in order, the waiters whose bytes fit together in what is free.
    fn wake_waiters(&self) {
        let mut woken = Vec::new();
        {
            let mut state = self.state.lock();
            let mut free = self.limit.saturating_sub(self.charged.load(SeqCst));
            // One that does not fit yet holds up nobody behind it.
            state.waiters.retain(|waiter| {
                let fits = waiter.bytes <= free;
                if fits {
                    free -= waiter.bytes;
                    woken.push(waiter.waker.clone());
                }
                !fits
            });
            self.waiting.store(state.waiters.len(), SeqCst);
        }
        woken.into_iter().for_each(Waker::wake);
    }
}

/// The floors of one job on one worker. Given back when the last account of it is gone.
#[derive(Debug)]
pub struct Admission {
    pool: MemoryPool,
    /// Whose they are.
    job: Option<u64>,
    bytes: AtomicUsize,
    /// All floors of the job, those that were split off included.
    job_bytes: usize,
    /// Of a limit from here on floors take half at the most.
    half_limit: usize,
}

impl Admission {
    /// Bytes of floors that were taken.
    pub fn bytes(&self) -> usize {
        self.bytes.load(SeqCst)
    }

    /// Bytes of all floors of its job: what was split off is as little to be had as the rest.
    fn job_bytes(&self) -> usize {
        self.job_bytes
    }

    /// Makes `bytes` of it an admission of their own, given back on their own.
    pub fn split(&self, bytes: usize) -> Arc<Admission> {
        let taken = self.bytes.fetch_update(SeqCst, SeqCst, |all| all.checked_sub(bytes)).map_or(0, |_| bytes);
        let (pool, job, job_bytes, half_limit) = (self.pool.clone(), self.job, self.job_bytes, self.half_limit);
        Arc::new(Admission { pool, job, bytes: taken.into(), job_bytes, half_limit })
    }

    /// An account whose floor is part of this admission.
    pub fn account(self: &Arc<Self>, name: impl Into<String>, floor_bytes: usize) -> Account {
        Account::new(&self.pool, name.into(), floor_bytes, Some(Arc::clone(self)))
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.pool.0.release(self.bytes());
    }
}

/// A task that can be asked to free memory: the flag that its next step looks at.
#[derive(Debug)]
pub struct Holder {
    waker: Waker,
    /// The accounts whose excess the task could free.
    accounts: Vec<Account>,
    /// Bytes asked for; 0 when nothing is.
    request: AtomicUsize,
    /// The account that had the most to give when it was asked. For the log alone, so no model looks at its lock.
    asked: parking_lot::Mutex<Option<Account>>,
    /// It was asked and could free nothing; cleared when it grows again.
    exhausted: AtomicBool,
}

impl Holder {
    /// Bytes asked for, 0 when nothing is.
    pub fn requested(&self) -> usize {
        self.request.load(Relaxed)
    }

    /// Bytes that could be freed at the most.
    pub fn excess(&self) -> usize {
        self.accounts.iter().map(Account::excess).sum()
    }

    /// The account that could be given most of.
    fn largest(&self) -> Option<Account> {
        self.accounts.iter().max_by_key(|account| account.excess()).cloned()
    }

    /// After new input there may be something to free again.
    pub(crate) fn has_new_state(&self) {
        if self.exhausted.load(Relaxed) {
            self.exhausted.store(false, SeqCst);
        }
    }
}

/// Times that a large row is in memory at once, in a job that parses it, groups by it and writes it: as the text that
/// it is read from, in the hands of tasks, in state and its copy, on its way to the next task and to disk.
const ROW_COPIES: usize = 12;
/// The least that any place but a source needs of a row at once: what there was and what is made of it.
const COPIES_IN_PLACE: usize = 2;

/// The error for a row that needs `needed_bytes` where `most_bytes` are to be had, with a limit that is enough: half
/// of it floats, which is enough for the row in all the places that it goes through.
pub(crate) fn row_too_large(
    pool: &MemoryPool,
    half_limit: usize,
    needed_bytes: usize,
    most_bytes: usize,
) -> OperatorError {
    let floating = needed_bytes.saturating_mul(ROW_COPIES / COPIES_IN_PLACE);
    let enough = half_limit.max(floating.saturating_mul(2)).max(pool.limit().saturating_add(needed_bytes));
    OperatorError::RowTooLarge {
        needed_bytes,
        available_bytes: most_bytes.min(needed_bytes.saturating_sub(1)),
        sufficient_limit_bytes: enough,
    }
}

#[cfg(test)]
mod tests;
