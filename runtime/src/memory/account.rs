//! What one holder holds: accounts, reservations, and the Arrow buffers that were claimed.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{Ordering::Relaxed, Ordering::SeqCst};

use arrow::record_batch::RecordBatch;

use super::{Admission, MemoryPool, row_too_large};
use crate::error::{OperatorError, Result};
use crate::failpoint::{self, Point};
use crate::io::Ticket;
use crate::planted::{Bug, is_planted};
use crate::sync::{AtomicUsize, Mutex};

/// What one holder holds of a worker's memory. Clones are the same account.
#[derive(Clone)]
pub struct Account(pub(super) Arc<AccountInner>);

pub(super) struct AccountInner {
    pool: MemoryPool,
    name: Arc<str>,
    floor: AtomicUsize,
    held: AtomicUsize,
    peak: AtomicUsize,
    admission: Option<Arc<Admission>>,
    parts: Mutex<Vec<Account>>,
}

impl Account {
    pub(super) fn new(pool: &MemoryPool, name: String, floor: usize, admission: Option<Arc<Admission>>) -> Self {
        let account = Self(Arc::new(AccountInner {
            pool: pool.clone(),
            name: name.into(),
            floor: floor.into(),
            held: AtomicUsize::new(0),
            peak: AtomicUsize::new(0),
            admission,
            parts: Mutex::default(),
        }));
        #[cfg(any(test, feature = "testing"))]
        {
            let accounts = &mut pool.0.state.lock().accounts;
            if accounts.len() == accounts.capacity() {
                accounts.retain(|account| account.strong_count() > 0);
            }
            accounts.push(Arc::downgrade(&account.0));
        }
        account
    }

    /// An account of `floor_bytes` of this one's floor, or of what is left of it. What is given back there is for
    /// nobody else here: two holders that each rely on bytes of a floor need a part each.
    ///
    /// To be called before anything is held here.
    #[must_use]
    pub fn part(&self, floor_bytes: usize) -> Account {
        debug_assert_eq!(self.held(), 0);
        let floor = floor_bytes.min(self.floor());
        self.0.floor.fetch_sub(floor, SeqCst);
        let part = Self::new(self.pool(), self.0.name.to_string(), floor, self.0.admission.clone());
        self.0.parts.lock().push(part.clone());
        part
    }

    /// Who holds.
    pub fn name(&self) -> &Arc<str> {
        &self.0.name
    }

    /// Number of the job that holds; `None` if it is no job's.
    pub fn job(&self) -> Option<u64> {
        self.0.admission.as_ref().and_then(|admission| admission.job)
    }

    /// Bytes held now, those of its parts left out.
    pub fn held(&self) -> usize {
        self.0.held.load(SeqCst)
    }

    /// Bytes held now, here and in its parts.
    pub fn held_in_all(&self) -> usize {
        self.held() + self.0.parts.lock().iter().map(Account::held).sum::<usize>()
    }

    /// Most bytes held so far, here and in its parts, which need not have been at the same time.
    pub fn peak(&self) -> usize {
        self.0.peak.load(Relaxed) + self.0.parts.lock().iter().map(Account::peak).sum::<usize>()
    }

    /// Bytes that this account may always hold, those of its parts left out.
    pub fn floor(&self) -> usize {
        self.0.floor.load(SeqCst)
    }

    /// Bytes held beyond the floor, here and in its parts.
    pub fn excess(&self) -> usize {
        self.beyond(self.held()) + self.0.parts.lock().iter().map(Account::excess).sum::<usize>()
    }

    /// Bytes charged, here and in its parts: what is held, or the floor where that is more.
    pub fn charged(&self) -> usize {
        self.held().max(self.floor()) + self.0.parts.lock().iter().map(Account::charged).sum::<usize>()
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
        let floors = self.0.admission.as_ref().map_or(0, |admission| admission.job_bytes());
        self.floor() + self.pool().limit().saturating_sub(floors)
    }

    /// Asks whoever holds most beyond its floor to give `bytes` back at its next step. Waits for nothing.
    pub fn ask(&self, bytes: usize) {
        self.pool().reclaim(bytes);
    }

    /// What to wait for between steps, after `bytes` more than is held were refused and nothing of one's own is left
    /// to spill: a ticket for a step to return. Others are asked to free memory meanwhile.
    ///
    /// # Errors
    ///
    /// [`OperatorError::RowTooLarge`] if waiting is of no use.
    pub fn wait_for(&self, bytes: usize) -> Result<Ticket> {
        let needed = self.held() + bytes;
        if needed > self.most() {
            return Err(self.row_too_large(needed));
        }
        Ok(Ticket::for_memory(self.beyond(needed) - self.beyond(self.held())))
    }

    /// The error for a row or value that needs `needed_bytes` here at once, which are not to be had.
    pub fn row_too_large(&self, needed_bytes: usize) -> OperatorError {
        let most = if needed_bytes > self.most() { self.most() } else { self.held() + self.room() };
        row_too_large(self.pool(), self.half_limit(), needed_bytes, most)
    }

    /// From this limit on floors take half of a worker's memory at the most.
    fn half_limit(&self) -> usize {
        self.0.admission.as_ref().map_or(0, |admission| admission.half_limit)
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

    /// Claims every buffer of `batch` with bytes of `estimate`, a reservation of this account or of another one of the
    /// same worker, for as long as they last: what was estimated is not counted a second time.
    pub fn claim_from(&self, batch: &RecordBatch, estimate: &mut Reservation) {
        batch.claim(&Prepaid { account: self, estimate: Mutex::new(estimate) });
    }

    fn try_add(&self, bytes: usize) -> bool {
        if bytes == 0 {
            return true;
        }
        failpoint::trips(Point::Reserve);
        loop {
            let before = self.0.held.load(SeqCst);
            let Some(after) = before.checked_add(bytes) else { return false };
            let due = self.beyond(after) - self.beyond(before);
            // Paid before it is held, and paid back if somebody else was faster: whoever gives back meanwhile never
            // gives the pool bytes that were not charged.
            let refused = due > 0 && failpoint::trips(Point::Grow);
            if refused || !self.0.pool.0.try_charge(due) {
                return false;
            }
            if self.0.held.compare_exchange(before, after, SeqCst, SeqCst).is_ok() {
                self.0.peak.fetch_max(after, Relaxed);
                return true;
            }
            if !is_planted(Bug::OvertakenPays) {
                self.0.pool.0.release(due);
            }
        }
    }

    fn add(&self, bytes: usize) {
        if bytes == 0 {
            return;
        }
        let before = self.0.held.fetch_add(bytes, SeqCst);
        self.0.peak.fetch_max(before + bytes, Relaxed);
        self.charge(self.beyond(before + bytes) - self.beyond(before));
    }

    fn charge(&self, bytes: usize) {
        let pool = &self.0.pool.0;
        if let Some(over) = pool.charge(bytes) {
            pool.log.overran(self.job(), self.name(), over as u64);
        }
    }

    /// Holds `bytes` that `other` held, which never count as free in between.
    fn take_over(&self, other: &Account, bytes: usize) {
        if bytes == 0 || Arc::ptr_eq(&self.0, &other.0) {
            return;
        }
        let before = self.0.held.fetch_add(bytes, SeqCst);
        self.0.peak.fetch_max(before + bytes, Relaxed);
        let due = self.beyond(before + bytes) - self.beyond(before);
        let others = other.0.held.fetch_sub(bytes, SeqCst);
        let paid = other.beyond(others) - other.beyond(others - bytes);
        self.charge(due.saturating_sub(paid));
        self.0.pool.0.release(paid.saturating_sub(due));
    }

    fn subtract(&self, bytes: usize) {
        let before = self.0.held.fetch_sub(bytes, SeqCst);
        self.0.pool.0.release(self.beyond(before) - self.beyond(before - bytes));
    }

    fn beyond(&self, held: usize) -> usize {
        held.saturating_sub(self.floor())
    }
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Account")
            .field("name", &self.0.name)
            .field("floor", &self.floor())
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

/// Hands out bytes of an estimate, and then of the account.
#[derive(Debug)]
struct Prepaid<'a> {
    account: &'a Account,
    estimate: Mutex<&'a mut Reservation>,
}

impl arrow_buffer::MemoryPool for Prepaid<'_> {
    fn reserve(&self, size: usize) -> Box<dyn arrow_buffer::MemoryReservation> {
        let mut estimate = self.estimate.lock();
        let covered = size.min(estimate.bytes);
        estimate.bytes -= covered;
        self.account.take_over(&estimate.account, covered);
        self.account.add(size - covered);
        Box::new(Reservation { account: self.account.clone(), bytes: size })
    }

    fn available(&self) -> isize {
        self.account.room() as isize
    }

    fn used(&self) -> usize {
        self.account.held()
    }

    fn capacity(&self) -> usize {
        self.account.pool().limit()
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

    /// Takes `bytes` over from `other`, a reservation of the same account, and at most all of them.
    pub fn take_over(&mut self, other: &mut Reservation, bytes: usize) {
        debug_assert!(Arc::ptr_eq(&self.account.0, &other.account.0));
        let bytes = bytes.min(other.bytes);
        other.bytes -= bytes;
        self.bytes += bytes;
    }

    /// Takes `bytes` out into a reservation of their own, at most all of them. What is held stays the same.
    #[must_use]
    pub fn split(&mut self, bytes: usize) -> Reservation {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        Reservation { account: self.account.clone(), bytes }
    }

    /// Holds what `other`, of the same account, holds as well.
    pub fn absorb(&mut self, mut other: Reservation) {
        self.bytes += std::mem::take(&mut other.bytes);
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
