//! Ports from both ends, without tasks.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::task::{Wake, Waker};

use arrow::array::{ArrayRef, DictionaryArray, Int32Array, StringArray, UInt32Array};
use arrow::compute::{cast, take};
use arrow::datatypes::DataType;
use arrow::record_batch::RecordBatch;

use super::*;
use crate::batch::copied;
use crate::memory::MemoryPool;
use crate::testing::{eventually, number_schema, numbers};

#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, SeqCst);
    }
}

impl Woken {
    fn times(&self) -> usize {
        self.0.load(SeqCst)
    }
}

struct Setup {
    pool: MemoryPool,
    port: Arc<Port>,
    receiver: PortReceiver,
    senders: Vec<(PortSender, Arc<Woken>)>,
}

/// A port of two batches' capacity.
fn setup(senders: usize, ordered: bool, hazardous: bool, limit: usize) -> Setup {
    let pool = MemoryPool::new(limit);
    let hands = pool.account("hands");
    setup_for(Some(hands), pool, senders, ordered, hazardous)
}

/// As [`setup`], for a task, or for the caller.
fn setup_for(hands: Option<Account>, pool: MemoryPool, senders: usize, ordered: bool, hazardous: bool) -> Setup {
    let lanes = if ordered { senders } else { 1 };
    let port = Port::new(PortConfig {
        senders,
        ordered,
        hazardous,
        capacity: 2 * permit_bytes(&batch(0)),
        accounts: (0..lanes).map(|lane| pool.account(format!("lane {lane}"))).collect(),
        hands,
        schema: number_schema(),
        spill: SpillSpace::temporary(),
        receiver: Waker::noop().clone(),
        counters: Arc::default(),
    });
    let senders = (0..senders)
        .map(|index| {
            let woken = Arc::new(Woken::default());
            (port.sender(index, Waker::from(Arc::clone(&woken))), woken)
        })
        .collect();
    Setup { pool, receiver: port.receiver(), port, senders }
}

/// A thousand numbers from `start`.
fn batch(start: i64) -> RecordBatch {
    numbers(start..start + 1000)
}

fn sent(sender: &mut PortSender, start: i64, origin: Origin) -> bool {
    loop {
        match sender.try_send(batch(start), origin).expect("no error") {
            Sent::Yes => return true,
            Sent::NoRoom(back) => {
                assert_eq!(back, batch(start), "a refused batch is given back");
                return false;
            }
            Sent::Blocked(back, ticket) => {
                assert_eq!(back, batch(start), "a batch that the disk is not ready for is given back");
                ticket.wait();
            }
            Sent::Stopped | Sent::NoMemory(..) => panic!("the receiver has stopped"),
        }
    }
}

/// The first number of the next batch.
fn received(receiver: &mut PortReceiver) -> Option<i64> {
    loop {
        match receiver.receive().expect("no error") {
            Received::Batch(batch, _) => {
                use arrow::array::AsArray;
                return Some(batch.column(0).as_primitive::<arrow::datatypes::Int64Type>().value(0));
            }
            Received::Blocked(ticket) => ticket.wait(),
            Received::SplitDone(_) => {}
            Received::Empty | Received::Ended => return None,
        }
    }
}

#[test]
fn a_copy_is_paid_for_by_its_permit_even_where_it_is_larger() {
    let text = StringArray::from(vec!["a text that all of them share"]);
    let keys = UInt32Array::from(vec![0; 200]);
    let views = cast(&text, &DataType::Utf8View).and_then(|text| take(&text, &keys, None)).expect("views");
    let batch = RecordBatch::try_from_iter([("text", views)]).expect("one column");
    assert!(copied(&batch).get_array_memory_size() > batch.get_array_memory_size() + 3000);
    let pool = MemoryPool::new(1 << 20);
    let hands = Some(pool.account("hands"));
    let Setup { port, mut senders, mut receiver, .. } = setup_for(hands, pool, 1, false, true);
    receiver.leave_unread();
    // More than the port has room for: the rest is paid for by memory that floats.
    for sent in 1..=6 {
        assert!(matches!(senders[0].0.try_send_copy(batch.clone(), 0, true), Ok(Sent::Yes)));
        let held: usize = port.accounts().map(Account::held).sum();
        assert!(held > 0 && held <= port.queued_bytes(), "{held} of {} after {sent}", port.queued_bytes());
    }
    assert!(port.queued_bytes() > port.capacity());
}

#[test]
fn a_copy_of_few_rows_with_a_dictionary_takes_no_more_than_its_permit() {
    for (values, length, rows) in [(30, 8000, 6), (30, 12, 6), (301, 20, 100), (2, 5000, 1), (5, 0, 3), (3, 9, 400)] {
        let texts = StringArray::from_iter_values((0..values).map(|value| format!("{value:length$}")));
        let keys = Int32Array::from_iter_values((0..rows).map(|row| row % values));
        let dictionary: ArrayRef = Arc::new(DictionaryArray::new(keys, Arc::new(texts)));
        for kind in [DataType::Utf8, DataType::Utf8View] {
            let kind = DataType::Dictionary(Box::new(DataType::Int32), Box::new(kind));
            let batch = RecordBatch::try_from_iter([("text", cast(&dictionary, &kind).expect("a dictionary"))]);
            let batch = batch.expect("one column");
            let (copy, permit) = (permit_bytes(&copied(&batch)), copy_permit_bytes(&batch));
            assert!(copy <= permit, "{copy} of {permit} bytes: {rows} rows of {values} values of {length} bytes");
        }
    }
}

#[test]
fn a_full_port_gives_the_batch_back_and_wakes_its_sender_when_there_is_room() {
    let Setup { mut receiver, mut senders, pool, .. } = setup(1, false, false, usize::MAX);
    let (sender, woken) = &mut senders[0];
    assert!(sent(sender, 0, 0) && sent(sender, 1, 0) && !sent(sender, 2, 0));
    let before = woken.times();
    assert_eq!(received(&mut receiver), Some(0));
    assert!(woken.times() > before);
    assert!(sent(sender, 2, 0));
    sender.end();
    assert_eq!((received(&mut receiver), received(&mut receiver)), (Some(1), Some(2)));
    assert!(matches!(receiver.receive(), Ok(Received::Ended)));
    assert_eq!(pool.charged(), 0);
}

#[test]
fn what_the_caller_receives_is_paid_for_by_nobody_before_its_permit_is_given_back() {
    let Setup { mut receiver, mut senders, pool, .. } = setup_for(None, MemoryPool::new(1 << 20), 1, false, false);
    assert!(sent(&mut senders[0].0, 0, 0));
    assert!(pool.charged() > 0);
    let Ok(Received::Batch(batch, _)) = receiver.receive() else { panic!("a batch") };
    assert_eq!(pool.charged(), 0);
    drop(batch);
}

#[test]
fn an_empty_port_takes_any_one_batch() {
    let Setup { mut receiver, mut senders, .. } = setup(1, false, false, usize::MAX);
    let (sender, _) = &mut senders[0];
    let large = numbers(0..100_000);
    assert!(matches!(sender.try_send(large, 0), Ok(Sent::Yes)));
    assert!(!sent(sender, 1, 0));
    assert_eq!(received(&mut receiver), Some(0));
    assert!(sent(sender, 1, 0));
}

#[test]
fn permits_are_granted_in_the_order_of_asking() {
    let Setup { mut receiver, mut senders, .. } = setup(3, false, false, usize::MAX);
    assert!(sent(&mut senders[0].0, 0, 0) && sent(&mut senders[0].0, 1, 0));
    assert!(!sent(&mut senders[1].0, 10, 0));
    assert!(!sent(&mut senders[2].0, 20, 0));
    received(&mut receiver);
    assert!(!sent(&mut senders[2].0, 20, 0), "it must not overtake");
    assert!(sent(&mut senders[1].0, 10, 0));
    received(&mut receiver);
    assert!(sent(&mut senders[2].0, 20, 0));
}

#[test]
fn a_sender_that_leaves_the_line_does_not_hold_up_the_others() {
    let Setup { mut receiver, mut senders, .. } = setup(2, false, false, usize::MAX);
    assert!(sent(&mut senders[0].0, 0, 0) && sent(&mut senders[0].0, 1, 0));
    assert!(!sent(&mut senders[0].0, 2, 0));
    assert!(!sent(&mut senders[1].0, 10, 0));
    received(&mut receiver);
    let (mut gone, _) = senders.remove(0);
    let before = senders[0].1.times();
    gone.end();
    assert!(senders[0].1.times() > before, "the next in line is woken");
    assert!(sent(&mut senders[0].0, 10, 0));
}

#[test]
fn a_producer_that_vanishes_is_an_error_and_never_an_end() {
    let Setup { mut receiver, mut senders, .. } = setup(2, false, false, usize::MAX);
    assert!(sent(&mut senders[0].0, 0, 0));
    senders[1].0.end();
    drop(senders);
    assert_eq!(received(&mut receiver), Some(0));
    let error = receiver.receive().expect_err("a sender vanished").to_string();
    assert!(error.contains("vanished"), "{error}");
}

#[test]
fn missing_rows_are_an_error() {
    let Setup { mut receiver, mut senders, .. } = setup(1, false, false, usize::MAX);
    let (sender, _) = &mut senders[0];
    assert!(sent(sender, 0, 0));
    sender.rows += 1;
    sender.end();
    assert_eq!(received(&mut receiver), Some(0));
    assert!(receiver.receive().expect_err("a row is missing").to_string().contains("1001 rows"));
}

#[test]
fn a_receiver_that_stops_wakes_every_sender_and_takes_no_more() {
    let Setup { mut receiver, mut senders, pool, port } = setup(2, false, false, usize::MAX);
    assert!(sent(&mut senders[0].0, 0, 0));
    receiver.stop();
    assert!(senders.iter().all(|(_, woken)| woken.times() > 0));
    assert!(matches!(senders[0].0.try_send(batch(1), 0), Ok(Sent::Stopped)));
    assert!(port.is_stopped());
    assert_eq!((pool.charged(), port.queued_bytes()), (0, 0));
}

#[test]
fn lanes_are_merged_by_origin_over_empty_splits() {
    let Setup { mut receiver, mut senders, .. } = setup(2, true, false, usize::MAX);
    assert!(sent(&mut senders[1].0, 10, 1));
    senders[1].0.split_done(1);
    assert!(sent(&mut senders[1].0, 30, 3));
    assert_eq!(received(&mut receiver), None, "split 0 comes first");
    assert!(sent(&mut senders[0].0, 0, 0));
    senders[0].0.split_done(0);
    // Split 2 has no rows.
    senders[0].0.split_done(2);
    senders[0].0.end();
    senders[1].0.split_done(3);
    senders[1].0.end();
    let order: Vec<_> = std::iter::from_fn(|| received(&mut receiver)).collect();
    assert_eq!(order, [0, 10, 30]);
    assert!(matches!(receiver.receive(), Ok(Received::Ended)));
}

#[test]
fn an_unread_lane_of_a_hazardous_edge_grows_then_spools_and_keeps_its_order() {
    let three = 3 * permit_bytes(&batch(0));
    let Setup { mut receiver, mut senders, pool, port } = setup(1, false, true, three);
    let (sender, _) = &mut senders[0];
    receiver.leave_unread();
    for start in 0..10 {
        assert!(sent(sender, start, 0), "it must not park");
    }
    assert!(port.counters.spooled_bytes.load(Relaxed) > 0);
    assert!(pool.charged() <= three);
    // What waits in memory can be asked for, and keeps its place.
    assert!(receiver.spool(usize::MAX).expect("written") > 0);
    sender.end();
    let order: Vec<_> = std::iter::from_fn(|| received(&mut receiver)).collect();
    assert_eq!(order, (0..10).collect::<Vec<_>>());
    drop(receiver);
    drop(senders);
    eventually("everything is given back", || pool.charged() == 0);
}

#[test]
fn a_lane_that_is_read_parks_even_on_a_hazardous_edge() {
    let Setup { mut receiver, mut senders, .. } = setup(1, false, true, usize::MAX);
    let (sender, woken) = &mut senders[0];
    assert!(matches!(receiver.receive(), Ok(Received::Empty)));
    assert!(sent(sender, 0, 0) && sent(sender, 1, 0) && !sent(sender, 2, 0));
    let before = woken.times();
    receiver.leave_unread();
    assert!(woken.times() > before, "it may spool now");
    assert!(sent(sender, 2, 0));
}

#[test]
fn a_batch_larger_than_its_port_that_need_not_park_goes_within_the_limit() {
    let large = || numbers(0..6000);
    let permit = permit_bytes(&large());
    // What others leave, from nothing up to more than its bytes twice, which it takes for the moment in which it is received.
    for left in (0..3 * permit).step_by(permit / 4) {
        let Setup { mut receiver, mut senders, pool, port } = setup(1, false, true, 4 * permit);
        let mut others = pool.account("others").try_reserve(4 * permit - left);
        receiver.leave_unread();
        let (sender, _) = &mut senders[0];
        while let Sent::Blocked(_, ticket) = sender.try_send(large(), 0).expect("it fits") {
            ticket.wait();
        }
        sender.end();
        let mut rows = 0;
        loop {
            match receiver.receive().expect("no error") {
                Received::Batch(batch, _) => rows += batch.num_rows(),
                Received::Blocked(ticket) if ticket.memory_bytes().is_some() => {
                    drop(others.take().expect("in its way"))
                }
                Received::Blocked(ticket) => ticket.wait(),
                Received::Ended => break,
                other => panic!("{other:?}"),
            }
        }
        let spooled = port.counters.spooled_bytes.load(Relaxed);
        assert_eq!((rows, pool.overruns()), (6000, 0), "{left} of {permit} bytes are left, {spooled} are spooled");
    }
}
