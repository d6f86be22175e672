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

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, Weak};
use std::task::Waker;

use arrow::record_batch::RecordBatch;
use parking_lot::Mutex;

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
}

#[derive(Default)]
struct PoolState {
    waiters: VecDeque<Waiter>,
    holders: Vec<Weak<Holder>>,
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
        self.0.try_charge(bytes).then(|| Arc::new(Admission { pool: self.clone(), bytes: bytes.into() }))
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
        self.0.wake_waiters();
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
        let mut state = self.0.state.lock();
        state.holders.retain(|h| h.strong_count() > 0);
        let holders: Vec<_> = state.holders.iter().filter_map(Weak::upgrade).collect();
        drop(state);
        if holders.iter().any(|h| h.request.load(SeqCst) > 0) {
            return;
        }
        let largest = holders
            .into_iter()
            .filter(|h| !h.exhausted.load(SeqCst))
            .map(|h| (h.excess(), h))
            .filter(|(excess, _)| *excess > 0)
            .max_by_key(|(excess, _)| *excess);
        if let Some((_, holder)) = largest {
            holder.request.store(bytes, SeqCst);
            holder.waker.wake_by_ref();
        }
    }

    /// Asks again those that had nothing to free when they were asked: what they share may be free by now.
    pub(crate) fn ask_again(&self) {
        let (holders, wanted) = {
            let state = self.0.state.lock();
            let holders: Vec<_> = state.holders.iter().filter_map(Weak::upgrade).collect();
            (holders, state.waiters.front().map(|waiter| waiter.bytes))
        };
        holders.iter().for_each(|holder| holder.exhausted.store(false, SeqCst));
        if let Some(bytes) = wanted {
            self.reclaim(bytes);
        }
    }

    /// Adds a task that can be asked to free memory. It is forgotten when the returned [`Arc`] is dropped.
    pub fn add_holder(&self, waker: Waker, accounts: Vec<Account>) -> Arc<Holder> {
        let holder =
            Arc::new(Holder { waker, accounts, request: AtomicUsize::new(0), exhausted: AtomicBool::new(false) });
        self.0.state.lock().holders.push(Arc::downgrade(&holder));
        holder
    }

    /// Called by a holder that has answered a request.
    pub(crate) fn answered(&self, holder: &Holder, freed_bytes: usize) {
        holder.exhausted.store(freed_bytes == 0, SeqCst);
        holder.request.store(0, SeqCst);
        let wanted = self.0.state.lock().waiters.front().map(|w| w.bytes);
        if let Some(bytes) = wanted {
            self.0.wake_waiters();
            if self.available() < bytes {
                self.reclaim(bytes);
            }
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

    fn charge(&self, bytes: usize) {
        if bytes > 0 {
            let now = self.charged.fetch_add(bytes, SeqCst) + bytes;
            self.peak.fetch_max(now, Relaxed);
            if now > self.limit {
                self.overruns.fetch_add(1, Relaxed);
            }
        }
    }

    fn release(&self, bytes: usize) {
        if bytes > 0 {
            self.charged.fetch_sub(bytes, SeqCst);
            if self.waiting.load(SeqCst) > 0 {
                self.wake_waiters();
            }
        }
    }

    /// Wakes waiters in order for as long as their bytes fit together in what is free.
    fn wake_waiters(&self) {
        let mut woken = Vec::new();
        {
            let mut state = self.state.lock();
            let mut free = self.limit.saturating_sub(self.charged.load(SeqCst));
            while let Some(waiter) = state.waiters.front().filter(|w| w.bytes <= free) {
                free -= waiter.bytes;
                woken.extend(state.waiters.pop_front());
            }
            self.waiting.store(state.waiters.len(), SeqCst);
        }
        woken.into_iter().for_each(|w| w.waker.wake());
    }
}

/// The floors of one job on one worker. Given back when the last account of it is gone.
#[derive(Debug)]
pub struct Admission {
    pool: MemoryPool,
    bytes: AtomicUsize,
}

impl Admission {
    /// Bytes of floors that were taken.
    pub fn bytes(&self) -> usize {
        self.bytes.load(SeqCst)
    }

    /// Makes `bytes` of it an admission of their own, given back on their own.
    pub fn split(&self, bytes: usize) -> Arc<Admission> {
        let taken = self.bytes.fetch_update(SeqCst, SeqCst, |all| all.checked_sub(bytes)).map_or(0, |_| bytes);
        Arc::new(Admission { pool: self.pool.clone(), bytes: taken.into() })
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

/// What one holder holds of a worker's memory. Clones are the same account.
#[derive(Clone)]
pub struct Account(Arc<AccountInner>);

struct AccountInner {
    pool: MemoryPool,
    name: String,
    floor: usize,
    held: AtomicUsize,
    peak: AtomicUsize,
    admission: Option<Arc<Admission>>,
}

impl Account {
    fn new(pool: &MemoryPool, name: String, floor: usize, admission: Option<Arc<Admission>>) -> Self {
        Self(Arc::new(AccountInner {
            pool: pool.clone(),
            name,
            floor,
            held: AtomicUsize::new(0),
            peak: AtomicUsize::new(0),
            admission,
        }))
    }

    /// Who holds.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Bytes held now.
    pub fn held(&self) -> usize {
        self.0.held.load(SeqCst)
    }

    /// Most bytes held so far.
    pub fn peak(&self) -> usize {
        self.0.peak.load(Relaxed)
    }

    /// Bytes that this account may always hold.
    pub fn floor(&self) -> usize {
        self.0.floor
    }

    /// Bytes held beyond the floor.
    pub fn excess(&self) -> usize {
        self.held().saturating_sub(self.floor())
    }

    /// The worker's pool.
    pub fn pool(&self) -> &MemoryPool {
        &self.0.pool
    }

    /// Bytes that this account could grow by: the rest of its floor and all that floats.
    pub fn room(&self) -> usize {
        self.floor().saturating_sub(self.held()) + self.pool().available()
    }

    /// Bytes that it could hold if no other job held any, and no account of its own job more than its floor.
    pub fn most(&self) -> usize {
        let floors = self.0.admission.as_ref().map_or(0, |admission| admission.bytes());
        self.floor() + self.pool().limit().saturating_sub(floors)
    }

    /// An empty reservation to grow later.
    pub fn reservation(&self) -> Reservation {
        Reservation { account: self.clone(), bytes: 0 }
    }

    /// Reserves `bytes`, or nothing if they are not to be had now. Never waits.
    pub fn try_reserve(&self, bytes: usize) -> Option<Reservation> {
        self.try_add(bytes).then(|| Reservation { account: self.clone(), bytes })
    }

    /// Claims every buffer of `batch`: it counts here from now on and no longer where it did.
    ///
    /// Infallible, so reserve an estimate first. For a moment a re-claimed buffer counts twice.
    pub fn claim(&self, batch: &RecordBatch) {
        batch.claim(self);
    }

    /// Claims every buffer of `batch` with bytes of `estimate`, a reservation of this account, for as long as
    /// they last: what was estimated is not counted a second time.
    pub fn claim_from(&self, batch: &RecordBatch, estimate: &mut Reservation) {
        batch.claim(&Prepaid(Mutex::new(estimate)));
    }

    fn try_add(&self, bytes: usize) -> bool {
        if bytes == 0 {
            return true;
        }
        let before = self.0.held.fetch_add(bytes, SeqCst);
        if self.0.pool.0.try_charge(self.beyond(before + bytes) - self.beyond(before)) {
            self.0.peak.fetch_max(before + bytes, Relaxed);
            return true;
        }
        // Others may have moved `held` meanwhile: each move pays or gets back its own difference.
        let now = self.0.held.fetch_sub(bytes, SeqCst);
        let charged_by_add = self.beyond(before + bytes) - self.beyond(before);
        let given_back = self.beyond(now) - self.beyond(now - bytes);
        // The charge of the addition was never made, so only the difference is due.
        if given_back > charged_by_add {
            self.0.pool.0.release(given_back - charged_by_add);
        } else {
            self.0.pool.0.charge(charged_by_add - given_back);
        }
        false
    }

    fn add(&self, bytes: usize) {
        if bytes == 0 {
            return;
        }
        let before = self.0.held.fetch_add(bytes, SeqCst);
        self.0.peak.fetch_max(before + bytes, Relaxed);
        self.0.pool.0.charge(self.beyond(before + bytes) - self.beyond(before));
    }

    fn subtract(&self, bytes: usize) {
        let before = self.0.held.fetch_sub(bytes, SeqCst);
        self.0.pool.0.release(self.beyond(before) - self.beyond(before - bytes));
    }

    fn beyond(&self, held: usize) -> usize {
        held.saturating_sub(self.0.floor)
    }
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Account")
            .field("name", &self.0.name)
            .field("floor", &self.0.floor)
            .field("held", &self.held())
            .finish()
    }
}

impl arrow_buffer::MemoryPool for Account {
    fn reserve(&self, size: usize) -> Box<dyn arrow_buffer::MemoryReservation> {
        self.add(size);
        Box::new(Reservation { account: self.clone(), bytes: size })
    }

    fn available(&self) -> isize {
        self.room() as isize
    }

    fn used(&self) -> usize {
        self.held()
    }

    fn capacity(&self) -> usize {
        self.pool().limit()
    }
}

/// Hands out bytes of a reservation, and then of its account.
#[derive(Debug)]
struct Prepaid<'a>(Mutex<&'a mut Reservation>);

impl arrow_buffer::MemoryPool for Prepaid<'_> {
    fn reserve(&self, size: usize) -> Box<dyn arrow_buffer::MemoryReservation> {
        let mut estimate = self.0.lock();
        let covered = size.min(estimate.bytes);
        estimate.bytes -= covered;
        let account = estimate.account.clone();
        account.add(size - covered);
        Box::new(Reservation { account, bytes: size })
    }

    fn available(&self) -> isize {
        self.0.lock().account.room() as isize
    }

    fn used(&self) -> usize {
        self.0.lock().account.held()
    }

    fn capacity(&self) -> usize {
        self.0.lock().account.pool().limit()
    }
}

impl arrow_buffer::MemoryReservation for Reservation {
    fn size(&self) -> usize {
        self.bytes
    }

    fn resize(&mut self, new_size: usize) {
        self.set(new_size);
    }
}

/// Bytes held from an [`Account`]; dropping it gives them back.
#[derive(Debug)]
pub struct Reservation {
    account: Account,
    bytes: usize,
}

impl Reservation {
    /// Bytes held by this reservation.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds `bytes` if they are to be had; `false`, and nothing changes, if not. Never waits.
    #[must_use]
    pub fn try_grow(&mut self, bytes: usize) -> bool {
        let grown = self.account.try_add(bytes);
        if grown {
            self.bytes += bytes;
        }
        grown
    }

    /// Makes the reservation `bytes` large; `false`, and nothing changes, if it would have to grow and cannot.
    #[must_use]
    pub fn try_set(&mut self, bytes: usize) -> bool {
        if bytes > self.bytes {
            self.try_grow(bytes - self.bytes)
        } else {
            self.shrink(self.bytes - bytes);
            true
        }
    }

    /// Makes the reservation `bytes` large, whether they fit or not: for memory that is there already.
    pub fn set(&mut self, bytes: usize) {
        if bytes > self.bytes {
            self.account.add(bytes - self.bytes);
            self.bytes = bytes;
        } else {
            self.shrink(self.bytes - bytes);
        }
    }

    /// Gives `bytes` back, at most all of them.
    pub fn shrink(&mut self, bytes: usize) {
        let bytes = bytes.min(self.bytes);
        self.account.subtract(bytes);
        self.bytes -= bytes;
    }

    /// The account it holds from.
    pub fn account(&self) -> &Account {
        &self.account
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.shrink(self.bytes);
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

    /// After new input there may be something to free again.
    pub(crate) fn has_new_state(&self) {
        if self.exhausted.load(Relaxed) {
            self.exhausted.store(false, SeqCst);
        }
    }
}

/// Takes every buffer of `batch` out of all accounts: from now on it is the caller's.
pub fn hand_out(batch: &RecordBatch) {
    #[derive(Debug)]
    struct Outside;
    #[derive(Debug)]
    struct Uncounted(usize);
    impl arrow_buffer::MemoryReservation for Uncounted {
        fn size(&self) -> usize {
            self.0
        }
        fn resize(&mut self, new_size: usize) {
            self.0 = new_size;
        }
    }
    impl arrow_buffer::MemoryPool for Outside {
        fn reserve(&self, size: usize) -> Box<dyn arrow_buffer::MemoryReservation> {
            Box::new(Uncounted(size))
        }
        fn available(&self) -> isize {
            isize::MAX
        }
        fn used(&self) -> usize {
            0
        }
        fn capacity(&self) -> usize {
            usize::MAX
        }
    }
    batch.claim(&Outside);
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array};
    use arrow::record_batch::RecordBatch;

    use super::*;

    fn batch(rows: i64) -> RecordBatch {
        RecordBatch::try_from_iter([("n", Arc::new(Int64Array::from_iter_values(0..rows)) as ArrayRef)])
            .expect("one column")
    }

    #[test]
    fn an_account_always_grows_to_its_floor_and_then_floats() {
        let pool = MemoryPool::new(1000);
        let admission = pool.admit(400).expect("fits");
        let account = admission.account("state", 400);
        let rest = pool.account("other").try_reserve(600).expect("the floating part");
        let mut own = account.try_reserve(400).expect("the floor");
        assert_eq!(pool.charged(), 1000);
        assert!(!own.try_grow(1));
        drop(rest);
        assert!(own.try_grow(100));
        assert_eq!(pool.charged(), 500);
        drop((own, account));
        assert_eq!(pool.charged(), 400);
        drop(admission);
        assert_eq!(pool.charged(), 0);
    }

    #[test]
    fn floors_that_do_not_fit_are_refused_whole() {
        let pool = MemoryPool::new(1000);
        let first = pool.admit(600).expect("fits");
        assert!(pool.admit(401).is_none());
        assert_eq!(pool.charged(), 600);
        drop(first);
        assert!(pool.admit(1000).is_some());
    }

    #[test]
    fn a_buffer_counts_once_whoever_shares_it_and_moves_with_a_claim() {
        let pool = MemoryPool::new(1 << 20);
        let (first, second) = (pool.account("a"), pool.account("b"));
        let batch = batch(1000);
        first.claim(&batch);
        let held = first.held();
        assert!(held >= 8000);
        let slice = batch.slice(10, 5);
        first.claim(&slice);
        assert_eq!(first.held(), held);
        second.claim(&slice);
        assert_eq!((first.held(), second.held()), (0, held));
        drop(batch);
        assert_eq!(second.held(), held);
        hand_out(&slice);
        assert_eq!(pool.charged(), 0);
    }

    #[test]
    fn the_largest_holder_is_asked_and_a_waiter_is_woken_when_it_gives_back() {
        struct Count(AtomicUsize);
        impl std::task::Wake for Count {
            fn wake(self: Arc<Self>) {
                self.0.fetch_add(1, SeqCst);
            }
        }
        let waker = || {
            let count = Arc::new(Count(AtomicUsize::new(0)));
            (Arc::clone(&count), Waker::from(count))
        };
        let pool = MemoryPool::new(1000);
        let (small, large) = (pool.account("small"), pool.account("large"));
        let (asked_small, small_waker) = waker();
        let (asked_large, large_waker) = waker();
        let _small_holder = pool.add_holder(small_waker, vec![small.clone()]);
        let large_holder = pool.add_holder(large_waker, vec![large.clone()]);
        let _a = small.try_reserve(300).expect("fits");
        let b = large.try_reserve(700).expect("fits");
        let (woken, waiter) = waker();
        pool.wait(500, &waiter);
        assert_eq!((asked_small.0.load(SeqCst), asked_large.0.load(SeqCst), woken.0.load(SeqCst)), (0, 1, 0));
        assert_eq!(large_holder.requested(), 500);
        drop(b);
        pool.answered(&large_holder, 700);
        assert_eq!(woken.0.load(SeqCst), 1);
        assert_eq!(large_holder.requested(), 0);
    }

    #[test]
    fn concurrent_growth_and_release_leave_nothing_charged() {
        let pool = MemoryPool::new(10_000);
        let admission = pool.admit(500).expect("fits");
        let account = admission.account("shared", 500);
        std::thread::scope(|scope| {
            for t in 0..4 {
                let account = account.clone();
                scope.spawn(move || {
                    for i in 0..10_000_usize {
                        let held = account.try_reserve((i * 7 + t * 131) % 4000);
                        drop(held);
                    }
                });
            }
        });
        assert_eq!((account.held(), pool.charged()), (0, 500));
        assert!(pool.peak() <= 10_000 + 16_000);
    }
}
