//! A global allocator that counts live bytes and their peak: the judge of what memory accounting claims.
//!
//! A binary installs it; the library works without. Each thread adds up its own changes and passes them
//! on once they reach [`BATCH_BYTES`], when a figure is asked for on that thread, and when the thread ends. So
//! figures are off by at most [`BATCH_BYTES`] for each *other* running thread, and large allocations count at once.
//!
//! ```
//! use aqueduct_runtime::allocator::{self, CountingAllocator};
//!
//! #[global_allocator]
//! static ALLOCATOR: CountingAllocator = CountingAllocator::new();
//!
//! let before = allocator::allocated_bytes();
//! let held = vec![0_u8; 1 << 20];
//! assert!(allocator::is_installed());
//! assert!(allocator::allocated_bytes() >= before + held.len());
//! ```

#![expect(
    unsafe_code,
    reason = "a global allocator is an unsafe impl: it forwards pointers and layouts untouched to the inner one"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicIsize, Ordering::Relaxed};

/// What a thread adds up, at the most, before it passes it on.
pub const BATCH_BYTES: usize = 16 * 1024;

// Relaxed throughout: these are figures; no other memory is published through them.
static LIVE_BYTES: AtomicIsize = AtomicIsize::new(0);
static PEAK_BYTES: AtomicIsize = AtomicIsize::new(0);
static INSTALLED: AtomicBool = AtomicBool::new(false);

thread_local! {
    static PENDING: Pending = const { Pending(Cell::new(0)) };
}

/// Bytes that this thread has allocated less those it has freed, since it last passed them on.
struct Pending(Cell<isize>);

impl Drop for Pending {
    fn drop(&mut self) {
        publish(self.0.replace(0));
    }
}

/// Counts what passes through to the allocator `A`, by requested size. All instances share one count.
#[derive(Debug)]
pub struct CountingAllocator<A = System> {
    inner: A,
}

impl CountingAllocator {
    /// Counts over the system's allocator.
    pub const fn new() -> Self {
        Self::over(System)
    }
}

impl Default for CountingAllocator {
    fn default() -> Self {
        Self::new()
    }
}

impl<A> CountingAllocator<A> {
    /// Counts over `inner`.
    pub const fn over(inner: A) -> Self {
        Self { inner }
    }
}

// SAFETY: every call goes to `inner` with its arguments untouched, and its answer is returned untouched. Counting neither
// allocates through this allocator nor unwinds: atomics and a thread-local without lazy initialiser.
unsafe impl<A: GlobalAlloc> GlobalAlloc for CountingAllocator<A> {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's contract is the inner allocator's.
        let pointer = unsafe { self.inner.alloc(layout) };
        if !pointer.is_null() {
            count(layout.size() as isize);
        }
        pointer
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's contract is the inner allocator's.
        let pointer = unsafe { self.inner.alloc_zeroed(layout) };
        if !pointer.is_null() {
            count(layout.size() as isize);
        }
        pointer
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's contract is the inner allocator's.
        unsafe { self.inner.dealloc(pointer, layout) };
        count(-(layout.size() as isize));
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: the caller's contract is the inner allocator's.
        let moved = unsafe { self.inner.realloc(pointer, layout, new_size) };
        if !moved.is_null() {
            count(new_size as isize - layout.size() as isize);
        }
        moved
    }
}

#[inline]
fn count(bytes: isize) {
    let counted = PENDING.try_with(|pending| {
        let sum = pending.0.get() + bytes;
        if sum.unsigned_abs() < BATCH_BYTES {
            pending.0.set(sum);
        } else {
            pending.0.set(0);
            publish(sum);
        }
    });
    if counted.is_err() {
        // The thread is ending and its own count is gone.
        publish(bytes);
    }
}

fn publish(bytes: isize) {
    let live = LIVE_BYTES.fetch_add(bytes, Relaxed) + bytes;
    if bytes > 0 && live > PEAK_BYTES.load(Relaxed) {
        PEAK_BYTES.fetch_max(live, Relaxed);
    }
    if !INSTALLED.load(Relaxed) {
        INSTALLED.store(true, Relaxed);
    }
}

fn publish_own() {
    if INSTALLED.load(Relaxed) {
        let _ = PENDING.try_with(|pending| publish(pending.0.replace(0)));
    }
}

/// Bytes allocated and not yet freed, 0 without a [`CountingAllocator`].
pub fn allocated_bytes() -> usize {
    publish_own();
    // Another thread may have freed, and passed on, what its owner has not yet passed on as allocated.
    LIVE_BYTES.load(Relaxed).max(0) as usize
}

/// Most bytes that were allocated at once since the start or the last [`reset_peak`].
pub fn peak_bytes() -> usize {
    publish_own();
    PEAK_BYTES.load(Relaxed).max(0) as usize
}

/// Begins a new peak at what is allocated now.
pub fn reset_peak() {
    publish_own();
    PEAK_BYTES.store(LIVE_BYTES.load(Relaxed), Relaxed);
}

/// Whether this binary's global allocator is a [`CountingAllocator`].
pub fn is_installed() -> bool {
    // As large as two batches, so that it is passed on at once, however much this thread has freed of what others allocated.
    INSTALLED.load(Relaxed) || {
        std::hint::black_box(Vec::<u8>::with_capacity(2 * BATCH_BYTES));
        INSTALLED.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // The tests of this crate's library run without it; `tests/allocator.rs` installs it.
    #[test]
    fn without_it_all_figures_are_zero() {
        let held = vec![1_u8; 1 << 20];
        assert!(!is_installed());
        assert_eq!((allocated_bytes(), peak_bytes()), (0, 0));
        drop(held);
    }
}
