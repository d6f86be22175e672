//! What a test looks at when all should be over: threads of ours, and any condition that must come true soon.

use std::time::{Duration, Instant};

use crate::memory::{MemoryEventKind, MemoryPool};

/// How long [`eventually`] waits. Generous, as a machine under load may stall a thread for seconds.
const LIMIT: Duration = Duration::from_secs(10);

/// What the names of our threads start with: our own, and actix's.
const PREFIXES: [&str; 2] = ["aq-", "actix-"];

/// Names of the running threads of this process that are ours: control, arbiters, I/O, timers. The system keeps
/// 15 characters of each.
pub fn our_threads() -> Vec<String> {
    let Ok(tasks) = std::fs::read_dir("/proc/self/task") else { return Vec::new() };
    // A thread that ends while the folder is read has no name left.
    let names = tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok());
    names
        .map(|name| name.trim_end().to_owned())
        .filter(|name| PREFIXES.iter().any(|prefix| name.starts_with(prefix)))
        .collect()
}

/// Waits a moment for threads of ours to end.
///
/// # Panics
///
/// If one is still there after 10 seconds. Threads are the process's: a test that calls this has its process
/// to itself under `cargo nextest`, and shares it with others under `cargo test`.
#[track_caller]
pub fn assert_no_threads_left() {
    if !holds_soon(|| our_threads().is_empty()) {
        panic!("threads left after {LIMIT:?}: {}", our_threads().join(", "));
    }
}

/// Looks whether any claim went over the limit of one of `pools`.
///
/// # Panics
///
/// If one did; the message says who, how often, and by how many bytes.
#[track_caller]
pub fn assert_within_limit<'a>(pools: impl IntoIterator<Item = &'a MemoryPool>) {
    let over: Vec<String> = pools.into_iter().filter_map(over_limit).collect();
    assert!(over.is_empty(), "claims went over the limit: {}", over.join("; "));
}

/// Who went over the limit of `pool`, how often, and by how many bytes; `None` if nobody did.
pub fn over_limit(pool: &MemoryPool) -> Option<String> {
    let events = pool.log().events().into_iter().filter(|event| event.kind == MemoryEventKind::Overrun);
    let whose = events.map(|event| format!("{}: {} times, {} bytes", event.holder, event.count, event.bytes));
    (pool.overruns() > 0).then(|| whose.collect::<Vec<_>>().join(", "))
}

/// Waits until `condition` holds, for at most 10 seconds.
///
/// # Panics
///
/// If it does not; `what` says what was waited for.
#[track_caller]
pub fn eventually(what: &str, condition: impl FnMut() -> bool) {
    assert!(holds_soon(condition), "not within {LIMIT:?}: {what}");
}

fn holds_soon(mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + LIMIT;
    while !condition() {
        if Instant::now() > deadline {
            return false;
        }
        std::thread::park_timeout(Duration::from_millis(1));
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::Io;

    #[test]
    fn a_thread_of_ours_is_seen_until_it_has_ended() {
        let (io, handles) = Io::start("aq-leaks", 1).expect("a thread");
        eventually("the thread has its name", || our_threads().iter().any(|name| name == "aq-leaks-io"));
        drop(io);
        handles.into_iter().for_each(|handle| handle.join().expect("no panic"));
        assert!(!our_threads().iter().any(|name| name == "aq-leaks-io"));
    }
}
