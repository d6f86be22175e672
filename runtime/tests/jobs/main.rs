//! Whole jobs from the outside, over 1, 2 and 8 partitions, each within a time limit.

mod backpressure;
mod bottleneck;
mod diamond;
mod failure;
mod flow;
mod order;
mod outcome;
mod short_of_memory;

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use aqueduct_runtime::allocator::CountingAllocator;
use aqueduct_runtime::{Cluster, ClusterConfig, ExecutionError, ResultStream};
use arrow::array::AsArray;
use arrow::datatypes::Int64Type;

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator::new();

const MIB: usize = 1 << 20;

/// A cluster of workers with one thread each.
fn cluster(workers: usize, memory_limit_bytes: usize) -> Cluster {
    cluster_with(ClusterConfig { workers, memory_limit_bytes, ..ClusterConfig::default() })
}

fn cluster_with(config: ClusterConfig) -> Cluster {
    Cluster::start(config).expect("the cluster starts")
}

/// Runs `test` on a thread of its own and fails if it takes longer than a minute: a hang is a failure.
fn within_a_minute<T: Send + 'static>(test: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, result) = channel();
    let thread = spawn(move || {
        let _ = done.send(test());
    });
    match result.recv_timeout(Duration::from_secs(60)) {
        Ok(value) => value,
        Err(RecvTimeoutError::Timeout) => panic!("it hangs: no end within a minute"),
        Err(RecvTimeoutError::Disconnected) => match thread.join() {
            Err(panic) => std::panic::resume_unwind(panic),
            Ok(()) => unreachable!("the thread ended without a result"),
        },
    }
}

/// A thread of the test's own, which no search for leaks takes for one of ours.
fn spawn(work: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
    std::thread::Builder::new().name("a test".into()).spawn(work).expect("a thread")
}

/// All values of the first column, in the order of arrival.
fn values(stream: ResultStream) -> Result<Vec<i64>, ExecutionError> {
    let mut all = Vec::new();
    for batch in stream {
        all.extend_from_slice(batch?.column(0).as_primitive::<Int64Type>().values());
    }
    Ok(all)
}

/// Nothing of a job is left: no reservation, no spill file, and the next job runs.
fn assert_clean(cluster: &Cluster) {
    aqueduct_runtime::testing::eventually("every reservation is given back", || {
        cluster.memory().iter().all(|pool| pool.charged() == 0)
    });
    aqueduct_runtime::testing::assert_within_limit(cluster.memory());
    aqueduct_runtime::testing::eventually("every spill file is gone", || {
        let files = std::fs::read_dir(cluster.spill_path()).expect("the spill folder").flatten();
        files.filter(|file| file.path().extension().is_some_and(|e| e == "arrows")).count() == 0
    });
    assert_eq!(flow::sum_of_numbers(cluster, 10_000), 10_000 * 9_999 / 2);
}
