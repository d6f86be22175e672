//! What the searches of this crate share: time limits, what a process holds, what rows come to, and numbers without
//! pattern.
//!
//! Nothing here steers a cluster: it is looked at from outside.

mod figures;
mod rows;

use std::path::Path;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use aqueduct::LocalCluster;
use aqueduct::runtime::testing::{assert_within_limit, eventually};

pub use figures::{Figures, slope};
pub use rows::Digest;

/// Runs `work` on a thread of its own.
///
/// # Errors
///
/// What it panicked with.
///
/// # Panics
///
/// If it takes longer than `seconds`: `what` hangs.
pub fn within<T: Send + 'static>(
    seconds: u64,
    what: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> std::thread::Result<T> {
    let (done, result) = channel();
    let thread = std::thread::Builder::new().name("test-body".into());
    let thread = thread.spawn(move || drop(done.send(work()))).expect("a thread");
    match result.recv_timeout(Duration::from_secs(seconds)) {
        Ok(value) => Ok(value),
        Err(RecvTimeoutError::Timeout) => panic!("{what} hangs: no end within {seconds} seconds"),
        Err(RecvTimeoutError::Disconnected) => Err(thread.join().expect_err("it ended without a result")),
    }
}

/// Spill files in the folder of a cluster.
pub fn spill_files(folder: &Path) -> usize {
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    files.filter(|file| file.path().extension().is_some_and(|extension| extension == "arrows")).count()
}

/// Nothing of a job is left, and no claim went over a limit.
///
/// # Panics
///
/// If something is left after some seconds; `what` says of what.
#[track_caller]
pub fn assert_clean(what: &str, cluster: &LocalCluster) {
    eventually(&format!("{what}: every reservation is given back"), || {
        cluster.memory().iter().all(|pool| pool.charged() == 0)
    });
    assert_within_limit(cluster.memory());
    let folder = cluster.spill_path();
    eventually(&format!("{what}: every spill file is gone"), || spill_files(&folder) == 0);
}

/// Numbers without pattern, the same for the same seed (splitmix64).
#[derive(Debug, Clone)]
pub struct Random(pub u64);

impl Random {
    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % bound
    }
}

/// A number from the environment, such as how many cases to try.
pub fn number_from(variable: &str, unless_set: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(unless_set)
}
