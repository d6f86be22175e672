//! The tail of a task: exchanges into the ports of others, or a sink.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use arrow::record_batch::RecordBatch;

use crate::batch::{batch_bytes, compact, share_buffers};
use crate::error::Result;
use crate::exchange::Router;
use crate::io::Ticket;
use crate::mailbox::{Origin, PortSender, Sent};
use crate::memory::{Account, Reservation};
use crate::metrics::{NodeCounters, add};
use crate::sink::{CloseStep, Receipt, Sink, SinkStep};
use crate::task::coalescer::Coalescer;
use crate::task::{Wait, pieces};

/// Where a task's output goes.
pub(crate) enum Tail {
    Outputs(Outputs),
    Sink(SinkTail),
}

impl Tail {
    /// Takes a batch that output `output` of the last node emitted.
    pub(crate) fn push(
        &mut self,
        output: usize,
        batch: RecordBatch,
        origin: Origin,
        estimate: &mut Reservation,
    ) -> Result<()> {
        match self {
            Tail::Outputs(outputs) => outputs.push(output, batch, origin, estimate),
            Tail::Sink(sink) => {
                sink.pending.push_back(batch);
                Ok(())
            }
        }
    }

    /// Hands on as much as there is room for; says what it waits for if something is left.
    pub(crate) fn flush(&mut self) -> Result<Option<Wait>> {
        match self {
            Tail::Outputs(outputs) => outputs.flush(),
            Tail::Sink(sink) => sink.flush(),
        }
    }

    pub(crate) fn is_sink(&self) -> bool {
        matches!(self, Tail::Sink(_))
    }

    /// Whether it is a sink that has something to do.
    pub(crate) fn is_writing(&self) -> bool {
        matches!(self, Tail::Sink(sink) if sink.resume || !sink.pending.is_empty())
    }

    /// Whether small batches wait for more of them.
    pub(crate) fn is_holding_back(&self) -> bool {
        matches!(self, Tail::Outputs(outputs) if !outputs.small.is_empty())
    }

    /// Has no batch wait for others any longer: the next flush hands on all of them.
    pub(crate) fn let_go(&mut self, account: &Account) -> Result<()> {
        match self {
            Tail::Outputs(outputs) => outputs.let_go(account),
            Tail::Sink(_) => Ok(()),
        }
    }

    /// All rows of a split have been pushed.
    pub(crate) fn split_done(&mut self, origin: Origin, account: &Account) -> Result<()> {
        self.let_go(account)?;
        if let Tail::Outputs(outputs) = self {
            outputs.split_done(origin);
        }
        Ok(())
    }

    /// Books time that the task was parked on the receivers that had no room.
    pub(crate) fn add_parked(&self, time: Duration) {
        if let Tail::Outputs(outputs) = self {
            let mut booked = Vec::new();
            for Delivery { edge, sender, .. } in &outputs.pending {
                if !booked.contains(edge) {
                    booked.push(*edge);
                    outputs.edges[*edge].senders[*sender].1.add_parked(time);
                }
            }
        }
    }

    /// Whether nobody wants more.
    pub(crate) fn is_stopped(&self) -> bool {
        match self {
            Tail::Outputs(outputs) => outputs.is_stopped(),
            Tail::Sink(_) => false,
        }
    }

    /// Ends the output. Called again after a wait.
    pub(crate) fn finish(&mut self) -> Result<Option<Wait>> {
        match self {
            Tail::Outputs(outputs) => outputs.finish(),
            Tail::Sink(sink) => sink.finish(),
        }
    }
}

/// The edges out of a task.
pub(crate) struct Outputs {
    edges: Vec<OutputEdge>,
    /// Of an output whose rows are spread by a hash.
    small: Coalescer,
    pending: VecDeque<Delivery>,
    batch_rows: usize,
    batch_bytes: usize,
}

/// One edge out of a task, with a sender for each receiving partition.
pub(crate) struct OutputEdge {
    /// Its index in the plan.
    pub(crate) edge: usize,
    /// The output of the last node that it takes.
    pub(crate) output: usize,
    pub(crate) ordered: bool,
    pub(crate) router: Router,
    /// The port of each sender: all, or where each partition sends to its own, one.
    pub(crate) senders: Vec<(usize, PortSender)>,
    /// Whether [`Router`] numbers ports of which only one has a sender here.
    pub(crate) forward: bool,
}

struct Delivery {
    edge: usize,
    sender: usize,
    what: What,
}

enum What {
    Batch(RecordBatch, Origin, Option<Shared>),
    SplitDone(Origin),
}

/// Held by all deliveries of the same buffers: to several receivers, or of pieces of a batch larger than the plan's.
///
/// A buffer counts with whoever claimed it last. Were it with several receivers, one that is done with it would go on to
/// pay for it until the slowest is done as well, beyond its floor. So whoever is sent to takes a copy, all but the last.
#[derive(Default, Clone)]
struct Shared(Arc<()>);

impl Shared {
    fn is_last(&self) -> bool {
        Arc::strong_count(&self.0) == 1
    }
}

impl Outputs {
    pub(crate) fn new(edges: Vec<OutputEdge>, batch_rows: usize, batch_bytes: usize) -> Self {
        Self { edges, small: Coalescer::default(), pending: VecDeque::new(), batch_rows, batch_bytes }
    }

    fn push(&mut self, output: usize, batch: RecordBatch, origin: Origin, estimate: &mut Reservation) -> Result<()> {
        let is_spread = |edge: &OutputEdge| edge.output == output && matches!(edge.router, Router::Hash(_));
        if !self.edges.iter().any(is_spread) {
            return self.route(output, &batch, origin, estimate);
        }
        let account = estimate.account().clone();
        let (of, most) = ((output, origin), (self.batch_rows, self.batch_bytes));
        if let Some(batch) = self.small.push(of, batch, most, estimate) {
            // What came before it goes before it.
            self.let_go(&account)?;
            if let Some(batch) = self.small.push(of, batch, most, estimate) {
                return self.route(output, &batch, origin, estimate);
            }
        }
        if self.small.is_full(most) { self.let_go(&account) } else { Ok(()) }
    }

    fn let_go(&mut self, account: &Account) -> Result<()> {
        if self.small.is_empty() {
            return Ok(());
        }
        let (output, origin) = self.small.of();
        let (batches, mut estimate) = self.small.take(account)?;
        batches.iter().try_for_each(|batch| self.route(output, batch, origin, &mut estimate))
    }

    /// Makes deliveries of `batch`.
    fn route(&mut self, output: usize, batch: &RecordBatch, origin: Origin, estimate: &mut Reservation) -> Result<()> {
        let account = estimate.account().clone();
        let receivers = self.edges.iter().filter(|edge| edge.output == output).map(|edge| edge.router.receivers());
        let several = receivers.sum::<usize>() > 1 || batch_bytes(batch) > self.batch_bytes;
        let shared = Shared::default();
        for (index, edge) in self.edges.iter_mut().enumerate().filter(|(_, edge)| edge.output == output) {
            for piece in pieces(batch, self.batch_bytes) {
                let (forward, pending) = (edge.forward, &mut self.pending);
                edge.router.route(piece, |target, part| {
                    let part = compact(part);
                    account.claim_from(&part, estimate);
                    let sender = if forward { 0 } else { target };
                    let shared = (several && share_buffers(&part, batch)).then(|| Shared::clone(&shared));
                    pending.push_back(Delivery { edge: index, sender, what: What::Batch(part, origin, shared) });
                })?;
            }
        }
        Ok(())
    }

    fn split_done(&mut self, origin: Origin) {
        for (index, edge) in self.edges.iter().enumerate().filter(|(_, edge)| edge.ordered) {
            for sender in 0..edge.senders.len() {
                self.pending.push_back(Delivery { edge: index, sender, what: What::SplitDone(origin) });
            }
        }
    }

    fn flush(&mut self) -> Result<Option<Wait>> {
        if self.pending.is_empty() {
            return Ok(None);
        }
        // What follows a batch that found no room must wait behind it, at this receiver only.
        let mut full: Vec<(usize, usize)> = Vec::new();
        let mut blocked = None;
        let mut short = None;
        for _ in 0..self.pending.len() {
            let Some(Delivery { edge, sender, what }) = self.pending.pop_front() else { break };
            if full.contains(&(edge, sender)) {
                self.pending.push_back(Delivery { edge, sender, what });
                continue;
            }
            let port = &mut self.edges[edge].senders[sender].1;
            match what {
                What::SplitDone(origin) => port.split_done(origin),
                What::Batch(batch, origin, shared) => {
                    let copies = shared.as_ref().is_some_and(|shared| !shared.is_last());
                    let batch = match port.try_send_copy(batch, origin, copies)? {
                        Sent::Yes | Sent::Stopped => continue,
                        Sent::NoRoom(batch) => batch,
                        Sent::NoMemory(batch, bytes) => {
                            short = Some(bytes);
                            batch
                        }
                        Sent::Blocked(batch, ticket) => {
                            blocked = Some(ticket);
                            batch
                        }
                    };
                    full.push((edge, sender));
                    self.pending.push_back(Delivery { edge, sender, what: What::Batch(batch, origin, shared) });
                }
            }
        }
        if full.is_empty() {
            return Ok(None);
        }
        if let Some(ticket) = blocked {
            return Ok(Some(Wait::Outside(ticket)));
        }
        if let Some(bytes) = short {
            return Ok(Some(Wait::Memory(bytes)));
        }
        let waits = full.into_iter().map(|(edge, sender)| {
            let edge = &self.edges[edge];
            (edge.edge, edge.senders[sender].0)
        });
        Ok(Some(Wait::Room(waits.collect())))
    }

    fn is_stopped(&self) -> bool {
        self.edges.iter().all(|edge| edge.senders.iter().all(|(_, sender)| sender.is_stopped()))
    }

    fn finish(&mut self) -> Result<Option<Wait>> {
        if let Some(wait) = self.flush()? {
            return Ok(Some(wait));
        }
        for (_, sender) in self.edges.iter_mut().flat_map(|edge| &mut edge.senders) {
            sender.end();
        }
        Ok(None)
    }
}

/// A sink and what waits to be written.
pub(crate) struct SinkTail {
    sink: Box<dyn Sink>,
    pending: VecDeque<RecordBatch>,
    blocked: Option<Ticket>,
    /// A write was blocked and is to be resumed.
    resume: bool,
    receipt: Option<Receipt>,
    closed: bool,
    counters: Arc<NodeCounters>,
}

impl SinkTail {
    pub(crate) fn new(sink: Box<dyn Sink>, counters: Arc<NodeCounters>) -> Self {
        Self { sink, pending: VecDeque::new(), blocked: None, resume: false, receipt: None, closed: false, counters }
    }

    pub(crate) fn take_receipt(&mut self) -> Option<Receipt> {
        self.receipt.take()
    }

    fn flush(&mut self) -> Result<Option<Wait>> {
        loop {
            if let Some(ticket) = &self.blocked {
                if !ticket.is_done() {
                    return Ok(Some(Wait::Outside(ticket.clone())));
                }
                self.blocked = None;
            }
            let step = if self.resume {
                self.sink.resume()?
            } else if let Some(batch) = self.pending.pop_front() {
                add(&self.counters.rows_in, batch.num_rows() as u64);
                add(&self.counters.batches_in, 1);
                self.sink.write(batch)?
            } else {
                return Ok(None);
            };
            match step {
                SinkStep::Written => self.resume = false,
                SinkStep::Blocked(ticket) => {
                    self.resume = true;
                    if ticket.memory_bytes().is_some() {
                        return Ok(Some(Wait::Outside(ticket)));
                    }
                    self.blocked = Some(ticket);
                }
            }
        }
    }

    fn finish(&mut self) -> Result<Option<Wait>> {
        if let Some(wait) = self.flush()? {
            return Ok(Some(wait));
        }
        while !self.closed {
            match self.sink.close()? {
                CloseStep::Closed(receipt) => {
                    self.receipt = Some(receipt);
                    self.closed = true;
                }
                CloseStep::Blocked(ticket) if ticket.is_done() && ticket.memory_bytes().is_none() => {}
                CloseStep::Blocked(ticket) => return Ok(Some(Wait::Outside(ticket))),
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use arrow::array::{ArrayRef, AsArray, StringViewArray};
    use arrow::datatypes::{Int64Type, SchemaRef};

    use super::*;
    use crate::graph::Exchange;
    use crate::mailbox::{Port, PortConfig, Received};
    use crate::memory::{Account, MemoryPool};
    use crate::spill::SpillSpace;
    use crate::testing::{number_schema, numbers};

    fn port(pool: &MemoryPool, hands: &Account) -> Arc<Port> {
        port_of(pool, hands, number_schema())
    }

    fn port_of(pool: &MemoryPool, hands: &Account, schema: SchemaRef) -> Arc<Port> {
        Port::new(PortConfig {
            senders: 1,
            ordered: false,
            hazardous: false,
            capacity: 1 << 20,
            schema,
            accounts: vec![pool.account("lane")],
            hands: Some(hands.clone()),
            spill: SpillSpace::temporary(),
            receiver: Waker::noop().clone(),
            counters: Arc::default(),
        })
    }

    /// Sends ten batches through `outputs`; what each of the receivers is charged for once all but the last are done.
    fn check(mut outputs: Outputs, pool: &MemoryPool, ports: &[Arc<Port>], hands: &[Account]) {
        for _ in 0..10 {
            outputs.push(0, numbers(0..1000), 0, &mut pool.account("sender").reservation()).expect("pushed");
        }
        assert!(outputs.flush().expect("no error").is_none());
        for (port, hands) in ports.iter().zip(hands).rev().skip(1) {
            let mut receiver = port.receiver();
            for _ in 0..10 {
                let Ok(Received::Batch(batch, _)) = receiver.receive() else { panic!("a batch waits") };
                assert_eq!(batch, numbers(0..1000));
            }
            assert_eq!(hands.held(), 0, "{hands:?}");
        }
        assert!(pool.charged() >= 10 * 8000, "what waits at the last is charged");
    }

    fn edge(edge: usize, exchange: &Exchange, senders: &[Arc<Port>]) -> OutputEdge {
        let senders = senders.iter().enumerate();
        OutputEdge {
            edge,
            output: 0,
            ordered: false,
            router: Router::new(exchange, &number_schema(), 0, senders.len()).expect("a router"),
            senders: senders.map(|(index, port)| (index, port.sender(0, Waker::noop().clone()))).collect(),
            forward: *exchange == Exchange::Forward,
        }
    }

    #[test]
    fn a_receiver_does_not_pay_for_what_waits_at_another() {
        let pool = MemoryPool::new(1 << 20);
        let hands: Vec<Account> = (0..3).map(|n| pool.account(format!("hands {n}"))).collect();
        let ports: Vec<Arc<Port>> = hands.iter().map(|hands| port(&pool, hands)).collect();

        let forked = (0..3).map(|index| edge(index, &Exchange::Forward, &ports[index..=index]));
        check(Outputs::new(forked.collect(), 1000, 1 << 16), &pool, &ports, &hands);

        let ports: Vec<Arc<Port>> = hands.iter().map(|hands| port(&pool, hands)).collect();
        let broadcast = edge(0, &Exchange::Broadcast, &ports);
        check(Outputs::new(vec![broadcast], 1000, 1 << 16), &pool, &ports, &hands);
    }

    #[test]
    fn small_batches_are_spread_together_in_their_order() {
        let pool = MemoryPool::new(1 << 20);
        let hands: Vec<Account> = (0..4).map(|n| pool.account(format!("hands {n}"))).collect();
        let ports: Vec<Arc<Port>> = hands.iter().map(|hands| port(&pool, hands)).collect();
        let spread = edge(0, &Exchange::Hash(vec!["n".into()]), &ports);
        let mut outputs = Outputs::new(vec![spread], 1000, 1 << 16);
        let account = pool.account("sender");
        let batches = (0..100).map(|at| numbers(10 * at..10 * at + 10));
        // One that is not small goes behind those before it, and not behind any later.
        for batch in batches.clone().chain([numbers(1000..2000)]).chain(batches) {
            outputs.push(0, batch, 0, &mut account.reservation()).expect("pushed");
        }
        outputs.let_go(&account).expect("let go");
        assert!(outputs.flush().expect("no error").is_none());
        let mut received = Vec::new();
        for port in &ports {
            let mut receiver = port.receiver();
            let (mut values, mut pieces) = (Vec::new(), 0);
            while let Ok(Received::Batch(batch, _)) = receiver.receive() {
                values.extend(batch.column(0).as_primitive::<Int64Type>().values().to_vec());
                pieces += 1;
            }
            assert!(pieces <= 10, "{pieces} pieces of 201 batches");
            let turns = values.windows(2).filter(|pair| pair[0] > pair[1]).count();
            assert_eq!(turns, 1, "in the order in which they came: {values:?}");
            received.extend(values);
        }
        received.sort_unstable();
        let expected: Vec<i64> = (0..1000).flat_map(|n| [n, n]).chain(1000..2000).collect();
        assert_eq!(received, expected);
        drop((outputs, ports));
        assert_eq!(pool.charged(), 0);
    }

    /// Picking rows copies views and leaves the texts where they are: for two receivers that is no waste.
    #[test]
    fn texts_that_rows_by_hash_share_are_paid_for_by_who_holds_them() {
        let texts = StringViewArray::from_iter_values((0..1000).map(|n| format!("a text of some length, number {n}")));
        let batch = RecordBatch::try_from_iter([("t", Arc::new(texts) as ArrayRef)]).expect("a column");
        let pool = MemoryPool::new(1 << 20);
        let hands: Vec<Account> = (0..2).map(|n| pool.account(format!("hands {n}"))).collect();
        let ports: Vec<Arc<Port>> = hands.iter().map(|hands| port_of(&pool, hands, batch.schema())).collect();
        let senders = ports.iter().enumerate().map(|(index, port)| (index, port.sender(0, Waker::noop().clone())));
        let router = Router::new(&Exchange::Hash(vec!["t".into()]), &batch.schema(), 0, 2).expect("a router");
        let edge =
            OutputEdge { edge: 0, output: 0, ordered: false, router, senders: senders.collect(), forward: false };
        let mut outputs = Outputs::new(vec![edge], 1000, 1 << 16);
        outputs.push(0, batch.clone(), 0, &mut pool.account("sender").reservation()).expect("pushed");
        drop(batch);
        assert!(outputs.flush().expect("no error").is_none());
        let mut held = ports.iter().map(|port| match port.receiver().receive() {
            Ok(Received::Batch(batch, _)) => batch,
            other => panic!("{other:?} is no batch"),
        });
        let (one, other) = (held.next().expect("two"), held.next().expect("two"));
        let needed = |batch| batch_bytes(batch);
        assert!(hands[0].held() >= needed(&one) && hands[1].held() >= needed(&other), "{hands:?}");
        drop(other);
        assert_eq!(hands[1].held(), 0, "what the other holds is not its own");
        drop(one);
        assert_eq!(pool.charged(), 0);
    }
}
