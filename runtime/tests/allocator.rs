//! The counting allocator, installed: its figures are what was allocated, whoever frees it.

use std::sync::Barrier;

use aqueduct_runtime::allocator::{self, BATCH_BYTES, CountingAllocator, allocated_bytes, peak_bytes, reset_peak};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator::new();

/// A little of one for Miri, which takes its time for each byte.
const MIB: usize = if cfg!(miri) { 1 << 14 } else { 1 << 20 };

/// What the harness's own threads may have pending or allocate meanwhile.
const NOISE_BYTES: usize = 4 * BATCH_BYTES;

fn assert_close(actual: usize, expected: usize, what: &str) {
    assert!(actual.abs_diff(expected) <= NOISE_BYTES, "{what}: {actual} bytes, expected {expected}");
}

// One test: the figures are the process's, and tests of one binary may share a process.
#[test]
fn live_bytes_and_peak_follow_every_thread() {
    assert!(allocator::is_installed());
    let start = allocated_bytes();

    let mut large = vec![0_u8; 8 * MIB];
    assert_close(allocated_bytes() - start, 8 * MIB, "a large allocation");
    large.resize(24 * MIB, 1);
    assert_close(allocated_bytes() - start, large.capacity(), "grown");
    let peak = peak_bytes();
    drop(large);
    assert_close(allocated_bytes(), start, "freed");
    assert_eq!(peak_bytes(), peak);
    assert!(peak + NOISE_BYTES >= start + 24 * MIB);

    reset_peak();
    assert_close(peak_bytes(), start, "a new peak");
    let count = if cfg!(miri) { 2_000 } else { 100_000 };
    let small: Vec<Box<[u8; 100]>> = (0..count).map(|_| Box::new([7; 100])).collect();
    let expected = count * 100 + small.capacity() * size_of::<Box<[u8; 100]>>();
    assert_close(allocated_bytes() - start, expected, "many small allocations");
    drop(small);
    assert_close(allocated_bytes(), start, "many small ones freed");

    // Freed on another thread than the one that allocated, each less than what a thread passes on at once.
    let threads = if cfg!(miri) { 8 } else { 64 };
    let barrier = Barrier::new(threads);
    let pieces: Vec<Vec<u8>> = std::thread::scope(|scope| {
        let handles: Vec<_> = (0..threads)
            .map(|_| {
                scope.spawn(|| {
                    barrier.wait();
                    vec![1_u8; BATCH_BYTES - 1]
                })
            })
            .collect();
        handles.into_iter().map(|handle| handle.join().expect("no panic")).collect()
    });
    assert_close(allocated_bytes() - start, threads * BATCH_BYTES, "what ended threads had pending");
    drop(pieces);
    assert_close(allocated_bytes(), start, "freed by another thread");
}
