//! The pool: what is charged is what is held, never more than the limit, and who waits for bytes that are given back
//! gets them.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use super::{Bell, Thread, finds, search, spawn};
use crate::memory::{Account, MemoryPool, Reservation};
use crate::planted::Bug;
use crate::sync::AtomicBool;

fn held(account: &Account, bytes: usize) -> Reservation {
    account.try_reserve(bytes).expect("there is room")
}

/// One account with a floor, from which one thread takes a little and asks for too much, while another gives back; and an account of
/// somebody else, which takes what floats.
fn an_account_of_two_threads_and_one_beside_it() {
    let pool = MemoryPool::new(12);
    let admission = pool.admit(4).expect("an empty pool");
    let shared = admission.account("shared", 4);
    let beside = pool.account("beside");
    let first = held(&shared, 8);
    let threads = [
        spawn({
            let (shared, pool) = (shared.clone(), pool.clone());
            move || {
                drop(shared.try_reserve(2));
                assert!(shared.try_reserve(16).is_none());
                assert!(pool.charged() <= pool.limit());
            }
        }),
        spawn(move || drop(first)),
        spawn({
            let pool = pool.clone();
            move || {
                // Four are the floor's, so no more than eight are ever to be had.
                let taken = beside.try_reserve(9);
                assert!(pool.charged() <= pool.limit(), "{} bytes charged", pool.charged());
                drop(taken);
            }
        }),
    ];
    threads.into_iter().for_each(Thread::join);
    assert_eq!((shared.held(), pool.charged(), pool.overruns()), (0, 4, 0));
    drop((shared, admission));
    assert_eq!(pool.charged(), 0);
}

/// Two want the same bytes, one after the other.
fn two_that_want_all_of_it() {
    let pool = MemoryPool::new(8);
    let want = |pool: MemoryPool| {
        let (bell, waker) = Bell::new();
        let account = pool.account("all");
        let all = loop {
            match account.try_reserve(8) {
                Some(all) => break all,
                None => {
                    pool.wait(8, &waker);
                    bell.wait();
                }
            }
        };
        pool.stop_waiting(&waker);
        drop(all);
    };
    let other = spawn({
        let pool = pool.clone();
        move || want(pool)
    });
    want(pool.clone());
    other.join();
    assert_eq!((pool.charged(), pool.overruns()), (0, 0));
}

/// A task that has `bytes`, and gives back a piece when it is asked, until all is over.
fn holder(pool: &MemoryPool, bytes: usize, over: &Arc<AtomicBool>) -> (Thread, Arc<Bell>) {
    let account = pool.account("holder");
    let mut state = held(&account, bytes);
    let (bell, waker) = Bell::new();
    let holder = pool.add_holder(waker, vec![account]);
    let (pool, over, door) = (pool.clone(), Arc::clone(over), Arc::clone(&bell));
    let thread = spawn(move || {
        while !over.load(SeqCst) {
            let asked = holder.requested();
            if asked > 0 {
                let freed = asked.min(state.bytes()).min(4);
                state.shrink(freed);
                pool.answered(&holder, freed);
            } else {
                door.wait();
            }
        }
        pool.retire(&holder);
    });
    (thread, bell)
}

/// A task that has `bytes`, and ends.
fn ends(pool: &MemoryPool, bytes: usize) -> Thread {
    let account = pool.account("ends");
    let state = held(&account, bytes);
    let (_, waker) = Bell::new();
    let holder = pool.add_holder(waker, vec![account]);
    let pool = pool.clone();
    spawn(move || {
        pool.retire(&holder);
        drop(holder);
        drop(state);
    })
}

/// Takes `bytes` as soon as they are to be had.
fn taken(pool: &MemoryPool, bytes: usize) -> Reservation {
    let (bell, waker) = Bell::new();
    let account = pool.account("asks");
    let taken = loop {
        match account.try_reserve(bytes) {
            Some(taken) => break taken,
            None => {
                pool.wait(bytes, &waker);
                bell.wait();
            }
        }
    };
    pool.stop_waiting(&waker);
    taken
}

/// Somebody asks for what two others have: the larger first, then, as that is not enough, the other.
fn one_asks_and_two_answer() {
    let pool = MemoryPool::new(8);
    let over = Arc::new(AtomicBool::new(false));
    let (first, first_bell) = holder(&pool, 5, &over);
    let (second, second_bell) = holder(&pool, 3, &over);
    drop(taken(&pool, 6));
    over.store(true, SeqCst);
    for bell in [first_bell, second_bell] {
        std::task::Wake::wake(bell);
    }
    first.join();
    second.join();
    assert_eq!((pool.charged(), pool.overruns()), (0, 0));
}

/// Two ask for what one has, and what it gives first may be enough for one of them.
fn two_ask_and_one_answers() {
    let pool = MemoryPool::new(16);
    let over = Arc::new(AtomicBool::new(false));
    let (state, bell) = holder(&pool, 15, &over);
    let other = spawn({
        let pool = pool.clone();
        move || drop(taken(&pool, 5))
    });
    drop(taken(&pool, 8));
    other.join();
    over.store(true, SeqCst);
    std::task::Wake::wake(bell);
    state.join();
    assert_eq!((pool.charged(), pool.overruns()), (0, 0));
}

/// As [`one_asks_and_two_answer`], but the larger ends, and may be asked as it does.
fn the_one_that_is_asked_ends() {
    let pool = MemoryPool::new(8);
    let over = Arc::new(AtomicBool::new(false));
    let first = ends(&pool, 5);
    let (second, second_bell) = holder(&pool, 3, &over);
    drop(taken(&pool, 6));
    over.store(true, SeqCst);
    std::task::Wake::wake(second_bell);
    first.join();
    second.join();
    assert_eq!((pool.charged(), pool.overruns()), (0, 0));
}

#[test]
fn what_is_charged_is_what_is_held_and_never_above_the_limit() {
    search("accounts", an_account_of_two_threads_and_one_beside_it);
}

#[test]
fn whoever_waits_for_bytes_gets_them() {
    search("waiting for bytes", two_that_want_all_of_it);
}

#[test]
fn holders_are_asked_until_it_is_enough() {
    search("reclaim", one_asks_and_two_answer);
}

#[test]
fn a_holder_is_asked_again_for_those_whom_its_answer_did_not_help() {
    search("two that ask", two_ask_and_one_answers);
}

#[test]
fn a_holder_that_ends_holds_up_no_request() {
    search("reclaim from one that ends", the_one_that_is_asked_ends);
}

#[test]
fn an_addition_that_keeps_what_it_paid_is_found() {
    finds(Bug::OvertakenPays, an_account_of_two_threads_and_one_beside_it);
}

#[test]
fn a_wait_for_bytes_without_a_second_look_is_found() {
    finds(Bug::NoSecondLook, two_that_want_all_of_it);
}

#[test]
fn a_request_without_an_answer_is_found() {
    finds(Bug::RequestUnanswered, the_one_that_is_asked_ends);
}
