//! Tickets: who waits for one is woken once it is done, and what was done is there.

use super::{Bell, finds, search, spawn};
use crate::io::{Io, Ticket};
use crate::planted::Bug;

/// One waits, as a task does; another completes.
fn one_waits_and_one_completes() {
    let (ticket, completion) = Ticket::new("a model");
    let other = spawn(move || drop(completion));
    let (bell, waker) = Bell::new();
    while ticket.register(&waker) {
        bell.wait();
    }
    assert!(ticket.is_done());
    other.join();
}

/// An I/O thread does something for which two wait.
fn work_on_an_io_thread() {
    let (io, by_hand) = Io::by_hand();
    let mut pending = io.run("a model", || 7);
    let (bell, waker) = Bell::new();
    let ticket = pending.ticket().clone();
    let disk = spawn(move || by_hand.take().expect("the work was submitted")());
    let beside = spawn(move || {
        let (bell, waker) = Bell::new();
        while ticket.register(&waker) {
            bell.wait();
        }
    });
    while pending.ticket().register(&waker) {
        bell.wait();
    }
    assert_eq!(pending.take(), Some(7), "a ticket is done once its result is there");
    disk.join();
    beside.join();
}

#[test]
fn whoever_waits_for_a_ticket_is_woken() {
    search("ticket", one_waits_and_one_completes);
}

#[test]
fn a_result_is_there_once_its_ticket_is_done() {
    search("work on an I/O thread", work_on_an_io_thread);
}

#[test]
fn a_ticket_that_is_waited_for_without_a_second_look_is_found() {
    finds(Bug::NoSecondLook, one_waits_and_one_completes);
}
