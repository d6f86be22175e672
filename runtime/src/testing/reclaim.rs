//! Memory that is asked back without need, at moments that a seed draws: what spills only when memory is short, spills
//! then, and so does what is in the middle of something. No answer may depend on it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::cluster::Cluster;
use crate::memory::MemoryPool;

/// The longest and the shortest pause between two requests.
const PAUSE_US: (u64, u64) = (20, 3_000);
/// Most bytes of one request.
const MOST_BYTES: u64 = 4 << 20;

/// Asks tasks of a running cluster to free memory, one at a time, until it is dropped.
///
/// On the real runtime the threads decide what a moment finds: the same seed draws the same requests and pauses, and not
/// the same run.
#[derive(Debug)]
#[must_use = "it ends when it is dropped"]
pub struct ForcedReclaim {
    ends: Arc<AtomicBool>,
    requests: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl ForcedReclaim {
    /// Begins on all workers of `cluster`.
    ///
    /// # Panics
    ///
    /// If there is no thread to be had.
    pub fn start(cluster: &Cluster, seed: u64) -> Self {
        let pools = cluster.memory().to_vec();
        let (ends, requests) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let thread = std::thread::Builder::new().name("forced-reclaim".into()).spawn({
            let (ends, requests) = (Arc::clone(&ends), Arc::clone(&requests));
            move || ask(&pools, seed, &ends, &requests)
        });
        Self { ends, requests, thread: Some(thread.expect("a thread")) }
    }

    /// Requests so far.
    pub fn requests(&self) -> u64 {
        self.requests.load(Relaxed)
    }
}

impl Drop for ForcedReclaim {
    fn drop(&mut self) {
        self.ends.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // It has no reason to panic, and a test that ends with a panic already is not to end with two.
            let _ = thread.join();
        }
    }
}

fn ask(pools: &[MemoryPool], seed: u64, ends: &AtomicBool, requests: &AtomicU64) {
    let mut random = seed;
    let mut below = |end: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((u128::from(random) * u128::from(end)) >> 64) as u64
    };
    while !ends.load(Relaxed) && !pools.is_empty() {
        let pool = &pools[below(pools.len() as u64) as usize];
        // Small and large ones as often.
        let most = MOST_BYTES >> below(22);
        let bytes = 1 + below(1 + most);
        let place = below(1 << 20) as usize;
        requests.fetch_add(u64::from(pool.ask_one(place, bytes as usize)), Relaxed);
        // Until the next moment, or the end of it.
        std::thread::park_timeout(Duration::from_micros(PAUSE_US.0 + below(PAUSE_US.1 - PAUSE_US.0)));
    }
}
