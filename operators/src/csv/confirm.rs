//! Where splits really begin: each split's start is where its predecessor ended.
//!
//! ```text
//! split k          reads, guesses its start, proposes (start, end) ─┐
//! split k-1        ends at e ──> known start of k                   ├─ equal: k's end is known at once,
//!                                                                   │         and so is the start of k+1
//!                                                                   └─ not:   k's reader looks again from e
//! ```
//!
//! A split's end is known before any of its rows is emitted, so waits are short and only ever go back in
//! the file. A reader that goes away without it leaves the work to its successor.

use std::collections::HashMap;

use aqueduct_runtime::io::{Completion, Ticket};
use parking_lot::Mutex;

/// What is known of the splits that are being read. Splits are numbered over all files; the first of each
/// file knows its own start.
#[derive(Debug, Default)]
pub(crate) struct Confirmations(Mutex<HashMap<u64, Entry>>);

#[derive(Debug, Default)]
struct Entry {
    /// Where its first record begins, by its predecessor's end.
    start: Option<u64>,
    /// A guess that was made of the bytes alone: start, and end if the start is right.
    proposal: Option<(u64, u64)>,
    /// Where the first record behind it begins.
    end: Option<u64>,
    /// No split of the file follows.
    last: bool,
    /// Its reader is gone and has not told its end; the offset that its records begin before.
    abandoned: Option<u64>,
    /// Its reader has taken what it needs.
    taken: bool,
    waiting: Option<(Ticket, Completion)>,
}

/// What is known of one split's start.
#[derive(Debug)]
pub(crate) enum Start {
    /// Where it begins, and where it ends if that is known too.
    Known(u64, Option<u64>),
    /// Its predecessor has not told yet.
    Unknown(Ticket),
    /// `split`, before it, begins here and will never tell where it ends: find the first record start at or
    /// behind `bound` from there, and tell in its place.
    Abandoned { split: u64, from: u64, bound: u64 },
}

impl Confirmations {
    /// A split begins for certain at `start`: the first of its file.
    pub(crate) fn begin(&self, split: u64, start: u64) {
        let mut entries = self.0.lock();
        set_start(&mut entries, split, start);
    }

    /// A split's reader has a guess.
    pub(crate) fn propose(&self, split: u64, start: u64, end: u64, last: bool) {
        let mut entries = self.0.lock();
        let entry = entries.entry(split).or_default();
        entry.last = last;
        entry.proposal = Some((start, end));
        if let Some(start) = entry.start {
            set_start(&mut entries, split, start);
        }
    }

    /// A split's reader knows its end.
    pub(crate) fn publish(&self, split: u64, end: u64, last: bool) {
        let mut entries = self.0.lock();
        entries.entry(split).or_default().last = last;
        set_end(&mut entries, split, end);
    }

    /// What is known of a split's start.
    pub(crate) fn start(&self, split: u64) -> Start {
        let mut entries = self.0.lock();
        if let Some(start) = entries.get(&split).and_then(|entry| entry.start) {
            return Start::Known(start, entries[&split].end);
        }
        let mut before = split;
        while let Some(previous) = before.checked_sub(1)
            && let Some(Entry { start, abandoned: Some(bound), .. }) = entries.get(&previous)
        {
            if let Some(from) = *start {
                return Start::Abandoned { split: previous, from, bound: *bound };
            }
            before = previous;
        }
        let (ticket, _) =
            entries.entry(split).or_default().waiting.get_or_insert_with(|| Ticket::of_task("predecessor"));
        Start::Unknown(ticket.clone())
    }

    /// A split's reader needs nothing more: what nobody asks for any more is forgotten.
    pub(crate) fn release(&self, split: u64) {
        let mut entries = self.0.lock();
        if let Some(entry) = entries.get_mut(&split) {
            entry.taken = true;
            if entry.end.is_some() {
                entries.remove(&split);
            }
        }
    }

    /// A split's reader goes away. Its records begin before `bound`.
    pub(crate) fn abandon(&self, split: u64, bound: u64, last: bool) {
        let mut entries = self.0.lock();
        let entry = entries.entry(split).or_default();
        entry.taken = true;
        if entry.end.is_some() || last {
            entries.remove(&split);
            return;
        }
        entry.last = last;
        entry.abandoned = Some(bound);
        if entry.start.is_some() {
            wake(&mut entries, split + 1);
        }
    }

    /// Number of splits that something is known of.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn len(&self) -> usize {
        self.0.lock().len()
    }
}

type Entries = HashMap<u64, Entry>;

/// Wakes the first reader at or behind `split` that is still there.
fn wake(entries: &mut Entries, mut split: u64) {
    while let Some(entry) = entries.get_mut(&split) {
        if entry.abandoned.is_none() {
            // Dropping the completion wakes; the reader asks again.
            entry.waiting = None;
            return;
        }
        split += 1;
    }
}

fn set_start(entries: &mut Entries, split: u64, start: u64) {
    let entry = entries.entry(split).or_default();
    entry.start = Some(start);
    entry.waiting = None;
    match entry.proposal {
        Some((proposed, end)) if proposed == start => set_end(entries, split, end),
        _ if entry.abandoned.is_some() => wake(entries, split + 1),
        _ => {}
    }
}

/// Goes on to the successors whose guesses turn out right.
fn set_end(entries: &mut Entries, mut split: u64, mut end: u64) {
    loop {
        let Some(entry) = entries.get_mut(&split) else { return };
        if entry.end.is_some() {
            return;
        }
        entry.end = Some(end);
        let last = entry.last;
        if entry.taken {
            entries.remove(&split);
        }
        if last {
            return;
        }
        split += 1;
        let next = entries.entry(split).or_default();
        next.start = Some(end);
        next.waiting = None;
        match next.proposal {
            Some((proposed, its_end)) if proposed == end => end = its_end,
            _ if next.abandoned.is_some() => return wake(entries, split + 1),
            _ => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn right_guesses_are_confirmed_in_one_go_and_wrong_ones_stop_it() {
        let confirmations = Confirmations::default();
        confirmations.propose(3, 33, 44, true);
        confirmations.propose(1, 11, 22, false);
        confirmations.propose(2, 99, 98, false);
        let Start::Unknown(ticket) = confirmations.start(2) else { panic!("not yet") };
        confirmations.begin(0, 3);
        confirmations.propose(0, 3, 11, false);
        assert!(ticket.is_done());
        assert!(matches!(confirmations.start(0), Start::Known(3, Some(11))));
        assert!(matches!(confirmations.start(1), Start::Known(11, Some(22))));
        assert!(matches!(confirmations.start(2), Start::Known(22, None)));
        assert!(matches!(confirmations.start(3), Start::Unknown(_)));
        confirmations.publish(2, 33, false);
        assert!(matches!(confirmations.start(3), Start::Known(33, Some(44))));
        (0..4).for_each(|split| confirmations.release(split));
        assert_eq!(confirmations.len(), 0);
    }

    #[test]
    fn a_reader_that_went_away_leaves_its_work_to_its_successor() {
        let confirmations = Confirmations::default();
        let Start::Unknown(ticket) = confirmations.start(2) else { panic!("not yet") };
        confirmations.abandon(1, 20, false);
        assert!(matches!(confirmations.start(2), Start::Unknown(_)));
        confirmations.begin(0, 0);
        confirmations.publish(0, 12, false);
        confirmations.release(0);
        assert!(ticket.is_done());
        assert!(matches!(confirmations.start(2), Start::Abandoned { split: 1, from: 12, bound: 20 }));
        confirmations.publish(1, 21, false);
        assert!(matches!(confirmations.start(2), Start::Known(21, None)));
        confirmations.publish(2, 30, true);
        confirmations.release(2);
        assert_eq!(confirmations.len(), 0);
    }
}
