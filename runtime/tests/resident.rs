//! Resident memory at small limits: what is freed goes back to the system.
#![cfg(target_env = "gnu")]
#![expect(unsafe_code, reason = "the allocator's figures are told by a call of libc")]

use aqueduct_runtime::allocator::CountingAllocator;
use aqueduct_runtime::{Cluster, ClusterConfig};
use parking_lot::Mutex;

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator::new();

/// Less than what the system's allocator maps by itself.
const BLOCK_BYTES: usize = 100 * 1024;
const BLOCKS: usize = 500;

fn resident_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/statm").expect("there is /proc");
    let pages = status.split(' ').nth(1).and_then(|field| field.parse::<usize>().ok()).expect("a number of pages");
    pages * 4096
}

// A small block after each large one keeps the heap from shrinking at its end.
fn allocate_and_free() -> Vec<Vec<u8>> {
    let (large, small): (Vec<_>, Vec<_>) = (0..BLOCKS).map(|_| (vec![1_u8; BLOCK_BYTES], vec![1_u8; 64])).unzip();
    drop(large);
    small
}

/// Blocks of memory that the system's allocator has mapped one by one, while `BLOCKS` of them are held.
fn mapped_blocks() -> usize {
    let held: Vec<Vec<u8>> = (0..BLOCKS).map(|_| vec![1_u8; BLOCK_BYTES]).collect();
    // SAFETY: it has no argument, and counts.
    let mapped = unsafe { nix::libc::mallinfo2() }.hblks;
    drop(held);
    mapped
}

/// What is told to the allocator holds for the whole process.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn cluster(memory_limit_bytes: usize) -> Cluster {
    let config = ClusterConfig { workers: 1, memory_limit_bytes, ..ClusterConfig::default() };
    Cluster::start(config).expect("starts")
}

#[test]
fn a_large_cluster_after_a_small_one_keeps_the_blocks_that_it_frees() {
    let _alone = ONE_AT_A_TIME.lock();
    cluster(16 << 20).close();
    assert!(mapped_blocks() >= BLOCKS, "what is freed goes back");
    let large = cluster(1 << 30);
    assert!(mapped_blocks() < BLOCKS / 10, "a page fault for each page of each block");
    large.close();
}

#[test]
fn blocks_freed_between_others_leave_the_process_at_small_limits() {
    let _alone = ONE_AT_A_TIME.lock();
    let cluster = cluster(16 << 20);
    let before = resident_bytes();
    let between = allocate_and_free();
    let kept = resident_bytes().saturating_sub(before);
    assert!(kept < BLOCKS * BLOCK_BYTES / 10, "{kept} bytes stay resident of {} freed", BLOCKS * BLOCK_BYTES);
    drop(between);
    cluster.close();
}
