//! Room for what calls itself: queries and expressions are trees, and whatever walks them needs stack for each level.

use std::cell::Cell;
use std::thread;

/// Address space of a stack that deep trees are walked on. Only what is used of it takes memory.
const STACK_BYTES: usize = 512 << 20;

thread_local! {
    static LARGE: Cell<bool> = const { Cell::new(false) };
}

/// Runs `walk` where the stack is large, whatever thread this is.
pub(crate) fn on_large_stack<T: Send>(walk: impl FnOnce() -> T + Send) -> T {
    if LARGE.get() {
        return walk();
    }
    thread::scope(|scope| {
        let large = thread::Builder::new().name("aq-plan".into()).stack_size(STACK_BYTES);
        let walk = move || {
            LARGE.set(true);
            walk()
        };
        match large.spawn_scoped(scope, walk).map(|running| running.join()) {
            Ok(Ok(done)) => done,
            Ok(Err(panic)) => std::panic::resume_unwind(panic),
            Err(error) => panic!("there is no thread to be had to plan a query on: {error}"),
        }
    })
}

/// Whether a query is planned here, rather than run.
pub(crate) fn is_on_large_stack() -> bool {
    LARGE.get()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Levels of calls, each with a kilobyte.
    fn deep(levels: usize) -> usize {
        let room = std::hint::black_box([levels as u8; 1024]);
        if levels == 0 { 0 } else { deep(levels - 1) + usize::from(room[7] == levels as u8) }
    }

    #[test]
    fn calls_may_go_deeper_than_on_other_threads() {
        assert_eq!(on_large_stack(|| on_large_stack(|| deep(50_000))), 50_000);
    }

    #[test]
    #[should_panic(expected = "on its way")]
    fn a_panic_comes_through() {
        on_large_stack(|| panic!("on its way"));
    }
}
