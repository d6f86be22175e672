//! Resident memory at small limits: what is freed goes back to the system.
#![cfg(target_env = "gnu")]

use aqueduct_runtime::allocator::CountingAllocator;
use aqueduct_runtime::{Cluster, ClusterConfig};

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

#[test]
fn blocks_freed_between_others_leave_the_process_at_small_limits() {
    let config = ClusterConfig { workers: 1, memory_limit_bytes: 16 << 20, ..ClusterConfig::default() };
    let cluster = Cluster::start(config).expect("starts");
    let before = resident_bytes();
    let between = allocate_and_free();
    let kept = resident_bytes().saturating_sub(before);
    assert!(kept < BLOCKS * BLOCK_BYTES / 10, "{kept} bytes stay resident of {} freed", BLOCKS * BLOCK_BYTES);
    drop(between);
    cluster.close();
}
