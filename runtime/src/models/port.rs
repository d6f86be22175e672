//! A port from both ends: every row that is sent arrives, every permit is given back, no end waits for ever.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;

use super::{Bell, Thread, finds, search, spawn};
use crate::error::Result;
use crate::io::{ByHand, Io};
use crate::mailbox::{Origin, Port, PortConfig, PortReceiver, PortSender, Received, Sent, permit_bytes};
use crate::memory::MemoryPool;
use crate::planted::Bug;
use crate::spill::{Disk, DiskFile, SpillDir};
use crate::testing::{number_schema, numbers};

/// A port with room for one batch, and its worker.
struct Setup {
    pool: MemoryPool,
    port: Arc<Port>,
    receiver: Receiver,
    senders: Vec<Sender>,
}

struct Sender {
    end: PortSender,
    bell: Arc<Bell>,
    disk: Arc<ByHand>,
}

struct Receiver {
    end: PortReceiver,
    bell: Arc<Bell>,
    disk: Arc<ByHand>,
}

fn setup(senders: usize, ordered: bool, hazardous: bool) -> Setup {
    let permit = permit_bytes(&numbers(0..1));
    // Memory for one batch in the port and one in hands: what is more goes to disk, where it may.
    let pool = MemoryPool::new(if hazardous { 2 * permit } else { usize::MAX });
    let (io, disk) = Io::by_hand();
    let disk = Arc::new(disk);
    let workspace = MemoryPool::new(usize::MAX).account("workspace");
    let lanes = if ordered { senders } else { 1 };
    let (bell, waker) = Bell::new();
    let port = Port::new(PortConfig {
        senders,
        ordered,
        hazardous,
        capacity: permit,
        accounts: (0..lanes).map(|_| pool.account("lane")).collect(),
        hands: Some(pool.account("hands")),
        schema: number_schema(),
        spill: SpillDir::nowhere(Arc::new(Memory::default()), None, false).space(io, workspace),
        receiver: waker,
        counters: Arc::default(),
    });
    let senders = (0..senders).map(|index| {
        let (bell, waker) = Bell::new();
        Sender { end: port.sender(index, waker), bell, disk: Arc::clone(&disk) }
    });
    Setup {
        senders: senders.collect(),
        receiver: Receiver { end: port.receiver(), bell, disk: Arc::clone(&disk) },
        pool,
        port,
    }
}

fn play(disk: &ByHand) {
    while let Some(work) = disk.take() {
        work();
    }
}

impl Sender {
    /// Sends one row, and says whether it was taken.
    fn send(&mut self, number: i64, origin: Origin) -> bool {
        let mut batch = numbers(number..number + 1);
        loop {
            batch = match self.end.try_send(batch, origin).expect("no error") {
                Sent::Yes => return true,
                Sent::Stopped => return false,
                Sent::Blocked(back, _) => {
                    play(&self.disk);
                    back
                }
                Sent::NoRoom(back) | Sent::NoMemory(back, _) => {
                    self.bell.wait();
                    back
                }
            };
        }
    }

    /// Sends a row for each number, and the end.
    fn send_all(mut self, rows: std::ops::Range<i64>) {
        for number in rows {
            self.send(number, 0);
        }
        self.end.end();
    }
}

impl Receiver {
    /// The next row.
    fn next(&mut self) -> Result<Option<i64>> {
        loop {
            match self.end.receive()? {
                Received::Batch(batch, _) => return Ok(Some(batch.column(0).as_primitive::<Int64Type>().value(0))),
                Received::Ended => return Ok(None),
                Received::SplitDone(_) => {}
                Received::Blocked(_) => play(&self.disk),
                Received::Empty => self.bell.wait(),
            }
        }
    }

    fn all(mut self) -> Vec<i64> {
        std::iter::from_fn(|| self.next().expect("no error")).collect()
    }
}

/// To be called once both ends are gone.
fn check_left_over(pool: &MemoryPool, port: &Port) {
    assert_eq!(port.left_over(), None);
    assert_eq!((pool.charged(), pool.overruns()), (0, 0));
}

/// `senders` send so many rows each through room for one.
fn senders_and_a_receiver(each: &[i64]) {
    let Setup { pool, port, receiver, senders } = setup(each.len(), false, false);
    let mut start = 0;
    let threads: Vec<_> = std::iter::zip(senders, each)
        .map(|(sender, rows)| {
            let rows = start..start + rows;
            start = rows.end;
            spawn(move || sender.send_all(rows))
        })
        .collect();
    let mut rows = receiver.all();
    threads.into_iter().for_each(Thread::join);
    rows.sort_unstable();
    assert!(rows.into_iter().eq(0..start));
    check_left_over(&pool, &port);
}

fn one_sender() {
    senders_and_a_receiver(&[2]);
}

fn two_senders() {
    senders_and_a_receiver(&[2, 1]);
}

/// Splits arrive in order, whoever sends first.
fn ordered_lanes() {
    let Setup { pool, port, receiver, senders } = setup(2, true, false);
    let threads: Vec<_> = std::iter::zip(senders, 0..)
        .map(|(mut sender, index)| {
            spawn(move || {
                sender.send(index, index as Origin);
                sender.end.split_done(index as Origin);
                sender.end.end();
            })
        })
        .collect();
    assert_eq!(receiver.all(), [0, 1]);
    threads.into_iter().for_each(Thread::join);
    check_left_over(&pool, &port);
}

/// The receiver has enough after one row, and goes.
fn a_receiver_that_stops() {
    let Setup { pool, port, mut receiver, senders } = setup(1, false, false);
    let threads: Vec<_> = senders.into_iter().map(|sender| spawn(move || sender.send_all(0..2))).collect();
    assert_eq!(receiver.next().expect("no error"), Some(0));
    drop(receiver);
    threads.into_iter().for_each(Thread::join);
    check_left_over(&pool, &port);
}

/// A sender goes without a word. That is never an end.
fn a_sender_that_vanishes() {
    let Setup { mut receiver, senders, .. } = setup(1, false, false);
    let threads: Vec<_> = senders
        .into_iter()
        .map(|mut sender| {
            spawn(move || {
                sender.send(0, 0);
            })
        })
        .collect();
    assert_eq!(receiver.next().expect("what was sent arrives"), Some(0));
    receiver.next().expect_err("the sender has vanished");
    threads.into_iter().for_each(Thread::join);
}

/// The receiver leaves the port unread for a while, and what is queued is asked for: nobody parks, and the order stays.
fn a_port_that_spools() {
    let Setup { pool, port, mut receiver, senders } = setup(1, false, true);
    let threads: Vec<_> = senders.into_iter().map(|sender| spawn(move || sender.send_all(0..3))).collect();
    receiver.end.leave_unread();
    receiver.end.spool(usize::MAX).expect("no error");
    play(&receiver.disk);
    assert_eq!(receiver.all(), [0, 1, 2]);
    threads.into_iter().for_each(Thread::join);
    check_left_over(&pool, &port);
}

#[test]
fn a_port_with_one_sender_loses_nothing() {
    search("one sender", one_sender);
}

#[test]
fn a_port_with_two_senders_loses_nothing() {
    search("two senders", two_senders);
}

#[test]
fn lanes_are_merged_in_order() {
    search("ordered lanes", ordered_lanes);
}

#[test]
fn a_receiver_that_stops_leaves_nothing_behind() {
    search("a receiver that stops", a_receiver_that_stops);
}

#[test]
fn a_sender_that_vanishes_is_an_error() {
    search("a sender that vanishes", a_sender_that_vanishes);
}

#[test]
fn a_port_that_is_left_unread_spools() {
    search("a port that spools", a_port_that_spools);
}

#[test]
fn a_lost_wake_up_is_found() {
    finds(Bug::LostWakeUp, two_senders);
}

#[test]
fn a_sender_that_parks_without_a_second_look_is_found() {
    finds(Bug::NoSecondLook, one_sender);
}

#[test]
fn a_batch_that_nobody_takes_any_more_is_found() {
    finds(Bug::NoSecondLook, a_receiver_that_stops);
}

#[test]
fn an_end_that_is_taken_for_all_is_found() {
    finds(Bug::EndTooEarly, two_senders);
}

#[test]
fn a_permit_that_is_given_back_twice_is_found() {
    finds(Bug::PermitTwice, a_port_that_spools);
}

/// More threads than loom can do.
#[cfg(not(feature = "loom"))]
mod larger {
    use super::*;

    #[test]
    fn a_port_with_six_senders_loses_nothing() {
        search("six senders", || senders_and_a_receiver(&[3, 1, 2, 0, 4, 2]));
    }
}

/// A disk that is a map. It is the real lock's: no thread of a model stops while it has it.
#[derive(Debug, Default)]
struct Memory(parking_lot::Mutex<HashMap<PathBuf, Arc<MemoryFile>>>);

#[derive(Debug, Default)]
struct MemoryFile(parking_lot::Mutex<Vec<u8>>);

impl Disk for Memory {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let file = Arc::<MemoryFile>::default();
        self.0.lock().insert(path.into(), Arc::clone(&file));
        Ok(file)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.0.lock().remove(path).map(drop).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl DiskFile for MemoryFile {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut file = self.0.lock();
        let (start, end) = (offset as usize, offset as usize + bytes.len());
        let length = file.len().max(end);
        file.resize(length, 0);
        file[start..end].copy_from_slice(bytes);
        Ok(())
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        let file = self.0.lock();
        let found = file.get(offset as usize..offset as usize + bytes.len());
        bytes.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}
