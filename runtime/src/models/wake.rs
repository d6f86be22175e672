//! The wake flag: at most one message is on its way, and nothing that was there before a wake-up is overlooked.

use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::task::Waker;

use super::{Bell, finds, search, spawn};
use crate::actor::WakeFlag;
use crate::planted::Bug;
use crate::sync::{AtomicUsize, Mutex};

const WAKERS: usize = 2;

/// Two others leave work and wake an actor, which is to do all of it.
fn an_actor_and_two_that_wake_it() {
    let flag = Arc::new(WakeFlag::default());
    let waker = Waker::from(Arc::clone(&flag));
    // Relaxed, as what is passed on beside a wake-up has its own lock: here it is the actor's messages.
    let (bell, ring) = Bell::new();
    let messages = Arc::new(AtomicUsize::new(0));
    let work = Arc::new(Mutex::new(0));
    let others: Vec<_> = (0..WAKERS)
        .map(|_| {
            let (waker, work) = (waker.clone(), Arc::clone(&work));
            spawn(move || {
                *work.lock() += 1;
                waker.wake_by_ref();
            })
        })
        .collect();
    let outstanding = Arc::clone(&messages);
    flag.listen(move || {
        let before = outstanding.fetch_add(1, SeqCst);
        assert_eq!(before, 0, "a second message is on its way");
        ring.wake_by_ref();
    });
    let mut done = 0;
    while done < WAKERS {
        bell.wait();
        messages.fetch_sub(1, SeqCst);
        done += flag.answer(|| std::mem::take(&mut *work.lock()));
    }
    others.into_iter().for_each(super::Thread::join);
    assert!(messages.load(Relaxed) <= 1);
}

#[test]
fn an_actor_hears_every_wake_up_by_one_message_at_a_time() {
    search("wake flag", an_actor_and_two_that_wake_it);
}

#[test]
fn a_flag_that_is_lowered_too_late_is_found() {
    finds(Bug::FlagLoweredLate, an_actor_and_two_that_wake_it);
}
