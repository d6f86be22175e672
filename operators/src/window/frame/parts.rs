//! Where the partitions begin that functions are still at work on.

use std::collections::VecDeque;

/// Starts of partitions by number, the oldest of which are forgotten. The start of the next one is the end of a
/// partition; the end of the input is the start of one that never comes.
#[derive(Debug, Default)]
pub(super) struct Parts {
    starts: VecDeque<u64>,
    /// Number of the first one.
    first: u64,
    arrived: u64,
}

impl Parts {
    /// Rows from `start` on have come, with partitions that begin at rows of them.
    pub(super) fn arrive(&mut self, start: u64, rows: usize, partitions: &[u32]) {
        self.starts.extend(partitions.iter().map(|row| start + u64::from(*row)));
        self.arrived = start + rows as u64;
    }

    pub(super) fn end(&mut self) {
        self.starts.push_back(self.arrived);
    }

    /// Rows that have come.
    pub(super) fn arrived(&self) -> u64 {
        self.arrived
    }

    /// Where partition `number` begins, if that is known.
    pub(super) fn start(&self, number: u64) -> Option<u64> {
        self.starts.get(number.checked_sub(self.first)? as usize).copied()
    }

    /// Forgets the partitions before `number`.
    pub(super) fn release(&mut self, number: u64) {
        while self.first < number && self.starts.pop_front().is_some() {
            self.first += 1;
        }
    }
}
