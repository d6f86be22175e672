//! The I/O threads of a worker, as the scheduler plays them: work is begun in order and ends in any.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::random::Random;
use crate::io::{ByHand, Io};

/// Work that was submitted to an [`Io`] and is not done.
pub(super) struct Queue {
    source: ByHand,
    pending: VecDeque<Box<dyn FnOnce() + Send>>,
}

impl Queue {
    pub(super) fn new() -> (Io, Queue) {
        let (io, source) = Io::by_hand();
        (io, Queue { source, pending: VecDeque::new() })
    }

    pub(super) fn is_empty(&mut self) -> bool {
        while let Some(work) = self.source.take() {
            self.pending.push_back(work);
        }
        self.pending.is_empty()
    }

    /// Does one of the first `window` pieces of work.
    pub(super) fn run_one(&mut self, window: usize, random: &mut Random) {
        if self.is_empty() {
            return;
        }
        let index = random.index(window.min(self.pending.len()));
        if let Some(work) = self.pending.remove(index) {
            // As on an I/O thread: a panic in one piece of work leaves the others alone.
            let _ = catch_unwind(AssertUnwindSafe(work));
        }
    }
}
