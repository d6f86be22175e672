//! A gate that a test opens and shuts: whoever finds it shut gets a ticket that is done once it opens.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::io::{Completion, Ticket};

/// Lets through, or holds up, what asks at it. Clones are the same gate.
#[derive(Clone, Debug)]
pub struct Gate(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    /// How many may pass before the gate is shut; `None` for all.
    passes: Option<usize>,
    refused: u64,
    /// What those who were refused wait for, until the gate opens.
    ticket: Option<(Ticket, Completion)>,
}

impl Gate {
    /// A gate that is shut.
    pub fn shut() -> Self {
        Self::with_passes(Some(0))
    }

    /// A gate that is open.
    pub fn opened() -> Self {
        Self::with_passes(None)
    }

    fn with_passes(passes: Option<usize>) -> Self {
        let state = State { passes, refused: 0, ticket: None };
        Self(Arc::new(Inner { state: Mutex::new(state), changed: Condvar::new() }))
    }

    /// Opens the gate for all.
    pub fn open(&self) {
        self.change(|_| None);
    }

    /// Shuts the gate.
    pub fn close(&self) {
        self.change(|_| Some(0));
    }

    /// Lets `passes` more through and is shut then. Changes nothing while the gate is open.
    pub fn let_through(&self, passes: usize) {
        self.change(|before| before.map(|before| before + passes));
    }

    fn change(&self, change: impl FnOnce(Option<usize>) -> Option<usize>) {
        let completion = {
            let mut state = self.0.state.lock();
            state.passes = change(state.passes);
            if state.passes == Some(0) { None } else { state.ticket.take() }
        };
        // Outside the lock: completing wakes tasks, which may ask at once.
        drop(completion);
    }

    /// Asks to pass: `None` lets through; else ask again once the ticket is done.
    pub fn pass(&self) -> Option<Ticket> {
        let mut state = self.0.state.lock();
        match &mut state.passes {
            None => None,
            Some(passes @ 1..) => {
                *passes -= 1;
                None
            }
            Some(0) => {
                state.refused += 1;
                let (ticket, _) = state.ticket.get_or_insert_with(|| Ticket::new("gate"));
                let ticket = ticket.clone();
                drop(state);
                self.0.changed.notify_all();
                Some(ticket)
            }
        }
    }

    /// How often somebody was held up so far.
    pub fn refused(&self) -> u64 {
        self.0.state.lock().refused
    }

    /// Blocks this thread until somebody has been held up `times` times; `false` if `limit` passes before.
    #[must_use]
    pub fn wait_until_refused(&self, times: u64, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        let mut state = self.0.state.lock();
        while state.refused < times {
            if self.0.changed.wait_until(&mut state, deadline).timed_out() {
                return state.refused >= times;
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shut_gate_gives_a_ticket_that_is_done_once_it_opens() {
        let gate = Gate::shut();
        let ticket = gate.pass().expect("shut");
        assert!(!ticket.is_done());
        assert_eq!(gate.refused(), 1);
        gate.open();
        ticket.wait();
        assert!(gate.pass().is_none());
        gate.close();
        assert!(!gate.pass().expect("shut again").is_done());
    }

    #[test]
    fn as_many_pass_as_are_let_through() {
        let gate = Gate::shut();
        gate.let_through(2);
        assert!(gate.pass().is_none());
        assert!(gate.pass().is_none());
        let ticket = gate.pass().expect("the third is held up");
        gate.let_through(1);
        ticket.wait();
        assert!(gate.pass().is_none());
        assert!(gate.pass().is_some());
    }
}
