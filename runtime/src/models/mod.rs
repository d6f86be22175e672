//! Models: a few threads at the real ports, ledger, pool, tickets and wake flag, under every schedule that a checker
//! knows. `just models` runs them.
//!
//! | | loom | shuttle |
//! |---|---|---|
//! | schedules | all with so many preemptions | so many at random, half of them by PCT |
//! | memory | what the orderings of the accesses allow | every access seen by all at once |
//! | models | of two or three threads | the same, and some of more threads |
//!
//! A model that waits for ever is a deadlock, which both see. Bugs are planted one at a time, which a model has to find:
//! one that cannot fail shows nothing.

mod pool;
mod port;
mod ticket;
mod wake;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Wake, Waker};

use crate::planted::{Bug, plant};
use crate::sync::{Condvar, Mutex};

/// Runs a model under many schedules.
///
/// # Panics
///
/// If one of them breaks an assertion, or leaves a thread waiting.
fn search(name: &str, model: fn()) {
    let schedules = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&schedules);
    schedule(move || {
        counter.fetch_add(1, Relaxed);
        model();
    });
    println!("{name}: {} schedules", schedules.load(Relaxed));
}

/// Runs a model with `bug` planted, which it has to find. In a process of its own: what a broken schedule leaves behind
/// cannot be dropped outside of it.
fn finds(bug: Bug, model: fn()) {
    if std::env::var_os(PLANTED).is_some() {
        plant(Some(bug));
        search("planted", model);
        return;
    }
    let thread = std::thread::current();
    let name = thread.name().expect("the name of a test");
    let run = std::process::Command::new(std::env::current_exe().expect("a test runs"))
        .args([name, "--exact", "--nocapture"])
        .env(PLANTED, "1")
        .env("RUST_BACKTRACE", "0")
        .output()
        .expect("a test can be run");
    let said = format!("{}{}", String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    assert!(!run.status.success() && said.contains("panicked at"), "{bug:?} was not found: {said}");
}

/// Set where a bug is to be planted.
const PLANTED: &str = "AQUEDUCT_PLANTED";

/// A number that the environment may set.
fn number(variable: &str, default: usize) -> usize {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[cfg(feature = "loom")]
fn schedule(model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    // Every bug that was found so far takes two.
    builder.preemption_bound = Some(number("LOOM_MAX_PREEMPTIONS", 2));
    builder.max_branches = 100_000;
    let model = Arc::new(model);
    builder.check(move || {
        let model = Arc::clone(&model);
        // The first thread has a small stack.
        spawn(move || model()).join();
    });
}

#[cfg(not(feature = "loom"))]
fn schedule(model: impl Fn() + Send + Sync + 'static) {
    use shuttle::scheduler::{PctScheduler, RandomScheduler};
    let schedules = number("AQUEDUCT_SCHEDULES", 2_000);
    let model = Arc::new(model);
    let mut config = shuttle::Config::new();
    config.stack_size = STACK_BYTES;
    let run = Arc::clone(&model);
    shuttle::Runner::new(RandomScheduler::new(schedules / 2), config.clone()).run(move || run());
    shuttle::Runner::new(PctScheduler::new(3, schedules / 2), config).run(move || model());
}

/// Batches are made and decoded on it.
const STACK_BYTES: usize = 256 * 1024;

/// A thread of the model.
fn spawn(run: impl FnOnce() + Send + 'static) -> Thread {
    #[cfg(feature = "loom")]
    let builder = loom::thread::Builder::new().stack_size(STACK_BYTES / size_of::<usize>());
    #[cfg(not(feature = "loom"))]
    let builder = shuttle::thread::Builder::new();
    Thread(builder.spawn(run).expect("a thread of a model"))
}

#[cfg(feature = "loom")]
struct Thread(loom::thread::JoinHandle<()>);
#[cfg(not(feature = "loom"))]
struct Thread(shuttle::thread::JoinHandle<()>);

impl Thread {
    fn join(self) {
        self.0.join().expect("no panic");
    }
}

/// What a task waits at: whoever rings once, before or after, lets it go on once.
#[derive(Default)]
struct Bell {
    rung: Mutex<bool>,
    ringing: Condvar,
}

impl Bell {
    fn new() -> (Arc<Bell>, Waker) {
        let bell = Arc::new(Bell::default());
        (Arc::clone(&bell), Waker::from(bell))
    }

    fn wait(&self) {
        let mut rung = self.rung.lock();
        while !std::mem::take(&mut *rung) {
            rung = self.ringing.wait(rung).expect("no panic");
        }
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        *self.rung.lock() = true;
        self.ringing.notify_one();
    }
}
