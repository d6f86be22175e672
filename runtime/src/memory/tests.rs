//! The pool, its accounts, claims and reclaim.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array};
use arrow::record_batch::RecordBatch;

use super::*;

fn batch(rows: i64) -> RecordBatch {
    RecordBatch::try_from_iter([("n", Arc::new(Int64Array::from_iter_values(0..rows)) as ArrayRef)])
        .expect("one column")
}

#[test]
fn an_account_always_grows_to_its_floor_and_then_floats() {
    let pool = MemoryPool::new(1000);
    let admission = pool.admit(400).expect("fits");
    let account = admission.account("state", 400);
    let rest = pool.account("other").try_reserve(600).expect("the floating part");
    let mut own = account.try_reserve(400).expect("the floor");
    assert_eq!(pool.charged(), 1000);
    assert!(!own.try_grow(1));
    drop(rest);
    assert!(own.try_grow(100));
    assert_eq!(pool.charged(), 500);
    drop((own, account));
    assert_eq!(pool.charged(), 400);
    drop(admission);
    assert_eq!(pool.charged(), 0);
}

#[test]
fn nobody_waits_for_floors_that_were_split_off() {
    let pool = MemoryPool::new(1000);
    let admission = pool.admit(900).expect("fits");
    let account = admission.account("state", 400);
    let results = admission.split(300);
    assert_eq!((account.most(), results.bytes()), (500, 300));
    let held = account.try_reserve(500).expect("the floor and all that floats");
    assert!(matches!(account.wait_for(1), Err(OperatorError::RowTooLarge { needed_bytes: 501, .. })));
    drop(held);
}

#[test]
fn a_part_of_an_account_keeps_its_floor_whatever_the_others_hold() {
    let pool = MemoryPool::new(1000);
    let admission = pool.admit(400).expect("fits");
    let whole = admission.account("state", 400);
    let part = whole.part(150);
    assert_eq!((whole.floor(), part.floor(), pool.charged()), (250, 150, 400));
    let rest = whole.try_reserve(850).expect("its floor and all that floats");
    assert!(whole.try_reserve(1).is_none());
    let own = part.try_reserve(150).expect("its own floor");
    assert!(part.try_reserve(1).is_none());
    assert_eq!((whole.held_in_all(), whole.excess(), pool.charged()), (1000, 600, 1000));
    drop(own);
    // What is given back is for nobody else.
    assert!(whole.try_reserve(1).is_none());
    drop(rest);
    let beyond = part.try_reserve(350).expect("what floats");
    assert_eq!((whole.excess(), whole.peak(), pool.charged()), (200, 850 + 350, 600));
    drop(beyond);
    assert_eq!((pool.charged(), pool.overruns()), (400, 0));
    assert_eq!(whole.part(1000).floor(), 250);
}

#[test]
fn floors_that_do_not_fit_are_refused_whole() {
    let pool = MemoryPool::new(1000);
    let first = pool.admit(600).expect("fits");
    assert!(pool.admit(401).is_none());
    assert_eq!(pool.charged(), 600);
    drop(first);
    assert!(pool.admit(1000).is_some());
}

#[test]
fn a_buffer_counts_once_whoever_shares_it_and_moves_with_a_claim() {
    let pool = MemoryPool::new(1 << 20);
    let (first, second) = (pool.account("a"), pool.account("b"));
    let batch = batch(1000);
    first.claim(&batch);
    let held = first.held();
    assert!(held >= 8000);
    let slice = batch.slice(10, 5);
    first.claim(&slice);
    assert_eq!(first.held(), held);
    second.claim(&slice);
    assert_eq!((first.held(), second.held()), (0, held));
    drop(batch);
    assert_eq!(second.held(), held);
    hand_out(&slice);
    assert_eq!(pool.charged(), 0);
}

#[test]
fn what_one_account_reserved_pays_for_what_another_claims() {
    let batch = batch(1000);
    let bytes = batch.get_array_memory_size();
    let pool = MemoryPool::new(2 * bytes);
    let admission = pool.admit(bytes / 2).expect("fits");
    let (lane, hands) = (pool.account("lane"), admission.account("hands", bytes / 2));
    let mut spare = lane.try_reserve(pool.available()).expect("all that floats");
    hands.claim_from(&batch, &mut spare);
    assert_eq!((pool.charged(), pool.overruns()), (2 * bytes - bytes / 2, 0), "its floor paid for half of it");
    assert_eq!(lane.held(), spare.bytes());
    drop(spare);
    assert_eq!((hands.held(), pool.charged()), (hands.peak(), hands.held()));
    drop(batch);
    assert_eq!(pool.charged(), bytes / 2);
}

/// Counts how often it was woken.
struct Count(AtomicUsize);

impl std::task::Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, SeqCst);
    }
}

fn waker() -> (Arc<Count>, Waker) {
    let count = Arc::new(Count(AtomicUsize::new(0)));
    (Arc::clone(&count), Waker::from(count))
}

#[test]
fn a_waiter_whose_bytes_do_not_fit_holds_up_none_whose_bytes_do() {
    let pool = MemoryPool::new(1000);
    let account = pool.account("holder");
    let (rest, piece) = (account.try_reserve(800).expect("fits"), account.try_reserve(200).expect("fits"));
    let [large, small, behind] = [waker(), waker(), waker()];
    pool.wait(500, &large.1);
    pool.wait(150, &small.1);
    pool.wait(100, &behind.1);
    let woken = || [&large, &small, &behind].map(|(count, _)| count.0.load(SeqCst));
    assert_eq!(woken(), [0, 0, 0]);
    drop(piece);
    // 200 are free: enough for the second, and not for the third as well.
    assert_eq!(woken(), [0, 1, 0]);
    drop(rest);
    assert_eq!(woken(), [1, 1, 1]);
}

#[test]
fn the_largest_holder_is_asked_and_a_waiter_is_woken_when_it_gives_back() {
    let pool = MemoryPool::new(1000);
    let (small, large) = (pool.account("small"), pool.account("large"));
    let (asked_small, small_waker) = waker();
    let (asked_large, large_waker) = waker();
    let _small_holder = pool.add_holder(small_waker, vec![small.clone()]);
    let large_holder = pool.add_holder(large_waker, vec![large.clone()]);
    let _a = small.try_reserve(300).expect("fits");
    let b = large.try_reserve(700).expect("fits");
    let (woken, waiter) = waker();
    pool.wait(500, &waiter);
    assert_eq!((asked_small.0.load(SeqCst), asked_large.0.load(SeqCst), woken.0.load(SeqCst)), (0, 1, 0));
    assert_eq!(large_holder.requested(), 500);
    drop(b);
    pool.answered(&large_holder, 700);
    assert_eq!(woken.0.load(SeqCst), 1);
    assert_eq!(large_holder.requested(), 0);
    let events = pool.log().events();
    assert_eq!((events.len(), &*events[0].holder, events[0].asked_bytes, events[0].bytes), (1, "large", 500, 700));
    let counts = MemoryCounts { reclaims: 1, reclaimed_bytes: 700, ..MemoryCounts::default() };
    assert_eq!(pool.log().counts(), counts);
    // One that is gone was not asked, whatever it says.
    pool.answered(&large_holder, 700);
    assert_eq!(pool.log().counts(), counts);
}

#[test]
fn concurrent_growth_and_release_leave_nothing_charged() {
    let pool = MemoryPool::new(10_000);
    let admission = pool.admit(500).expect("fits");
    let account = admission.account("shared", 500);
    std::thread::scope(|scope| {
        for t in 0..4 {
            let account = account.clone();
            scope.spawn(move || {
                for i in 0..10_000_usize {
                    let held = account.try_reserve((i * 7 + t * 131) % 4000);
                    drop(held);
                }
            });
        }
    });
    assert_eq!((account.held(), pool.charged()), (0, 500));
    assert!(pool.peak() <= 10_000 + 16_000);
}
