//! The memory of one instance's pages, shared with the I/O threads that fill them.
//!
//! What is held never exceeds what was reserved. What was once set aside for a retry stays until it is given back.

use std::sync::Arc;
use std::task::{Wake, Waker};

use aqueduct_runtime::io::{Completion, Ticket};
use aqueduct_runtime::memory::{Account, Reservation};
use parking_lot::Mutex;

/// Bytes for pages. Clones are the same pot.
#[derive(Debug, Clone)]
pub(crate) struct Pot(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    reservation: Reservation,
    used: usize,
    /// Stays reserved even if it is not used.
    set_aside: usize,
}

impl Pot {
    pub(crate) fn new(account: &Account) -> Self {
        Self(Arc::new(Mutex::new(Inner { reservation: account.reservation(), used: 0, set_aside: 0 })))
    }

    /// Takes `bytes`, or nothing if they are not to be had now.
    pub(crate) fn take(&self, bytes: usize) -> Option<Held> {
        let mut inner = self.0.lock();
        let used = inner.used.checked_add(bytes)?;
        if used > inner.reservation.bytes() && !inner.reservation.try_set(used) {
            return None;
        }
        inner.used = used;
        Some(Held { pot: self.clone(), bytes })
    }

    /// Takes `bytes` only if that leaves others room to grow.
    pub(crate) fn take_ahead(&self, bytes: usize) -> Option<Held> {
        let (account, free) = {
            let inner = self.0.lock();
            (inner.reservation.account().clone(), inner.reservation.bytes().saturating_sub(inner.used))
        };
        let beyond_floor = account.held().saturating_add(bytes.saturating_sub(free)) > account.floor();
        if beyond_floor && account.pool().available() < 8 * bytes {
            return None;
        }
        self.take(bytes)
    }

    /// Sets `bytes` aside at once; `false`, and nothing changes, if they are not to be had now.
    pub(crate) fn set_aside(&self, bytes: usize) -> bool {
        let mut inner = self.0.lock();
        let target = bytes.max(inner.used);
        if !inner.reservation.try_set(target) {
            return false;
        }
        inner.set_aside = bytes;
        true
    }

    /// Gives back what was set aside and is not used.
    pub(crate) fn give_back(&self) {
        let mut inner = self.0.lock();
        inner.set_aside = 0;
        let used = inner.used;
        inner.reservation.set(used);
    }

    /// Bytes in use.
    pub(crate) fn used(&self) -> usize {
        self.0.lock().used
    }
}

/// Bytes of a pot, given back when dropped.
#[derive(Debug)]
pub(crate) struct Held {
    pot: Pot,
    bytes: usize,
}

impl Held {
    /// Holds what `other` does as well.
    pub(crate) fn join(&mut self, mut other: Held) {
        self.bytes += std::mem::take(&mut other.bytes);
    }

    /// Gives back `bytes`.
    pub(crate) fn release(&mut self, bytes: usize) {
        self.shrink_to(self.bytes.saturating_sub(bytes));
    }

    /// Gives back all but `bytes`.
    pub(crate) fn shrink_to(&mut self, bytes: usize) {
        let less = self.bytes.saturating_sub(bytes);
        self.bytes -= less;
        let mut inner = self.pot.0.lock();
        inner.used -= less;
        let keep = inner.used.max(inner.set_aside);
        inner.reservation.set(keep);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.shrink_to(0);
    }
}

/// A wait for memory of the worker's pool; given up when dropped.
#[derive(Debug)]
pub(crate) struct MemoryWait {
    account: Account,
    ticket: Ticket,
    waker: Waker,
}

impl MemoryWait {
    /// Waits until `bytes` may be had.
    pub(crate) fn new(account: &Account, bytes: usize) -> Self {
        struct Complete(Mutex<Option<Completion>>);
        impl Wake for Complete {
            fn wake(self: Arc<Self>) {
                drop(self.0.lock().take());
            }
        }
        let (ticket, completion) = Ticket::new("waiting for memory");
        let waker = Waker::from(Arc::new(Complete(Mutex::new(Some(completion)))));
        account.pool().wait(bytes, &waker);
        Self { account: account.clone(), ticket, waker }
    }

    /// Done once the bytes may be had.
    pub(crate) fn ticket(&self) -> Ticket {
        self.ticket.clone()
    }
}

impl Drop for MemoryWait {
    fn drop(&mut self) {
        self.account.pool().stop_waiting(&self.waker);
    }
}
