//! One partition of a join.
//!
//! ```text
//! building ─▶ sealing ─▶ probing ─▶ build rows ─┬─▶ the next pair: the same again, fed from disk ─┐
//!    ▲                                          ├─▶ the next pair: block by block ────────────────┤
//!    │                                          └─▶ ended                                         │
//!    └────────────────────────────────────────────────────────────────────────────────────────────┘
//! ```

use std::sync::Arc;

use aqueduct_runtime::batch::batch_bytes;
use aqueduct_runtime::memory::Reservation;
use aqueduct_runtime::state::{Next, SpillingVec, SpillingVecReader};
use aqueduct_runtime::{Operator, OperatorContext, OperatorError, Outbox, Port, PortSet, Result, Step};
use arrow::record_batch::RecordBatch;

use super::blocks::{Blocks, Progress};
use super::build_rows::give_build_rows;
use super::cursor::{Cursor, Limits};
use super::home::{Home, unspread_bytes};
use super::keys::KeyEncoder;
use super::level::{Level, Pair};
use super::runtime_filter::Teller;
use super::shape::Shape;

/// Bytes beside rows that an instance counts on: arrays' and files' own structures.
const STRUCTURE_BYTES: usize = 136 << 10;
/// Largest frame on disk; smaller where batches are.
const FRAME_BYTES: usize = 128 << 10;
/// Most bytes that one call of `spill` writes.
const SPILL_BYTES: usize = 4 << 20;

/// Rows that are looked at together: what is kept for each of them is part of the floor.
fn slice_rows(batch_bytes: usize) -> usize {
    (batch_bytes / 16).clamp(1024, 8192)
}

/// Bytes that hashes, first matches, pairs and keys take.
fn work_bytes(batch_bytes: usize) -> usize {
    64 * slice_rows(batch_bytes) + 2 * batch_bytes
}

/// What an instance needs with everything on disk: to look at some rows, to read a frame of either side, and a table
/// of a few rows.
pub(super) fn min_memory(batch_bytes: usize) -> usize {
    // A row may be as large as a batch.
    work_bytes(batch_bytes) + 2 * (3 * batch_bytes + (4 << 10)) + 2 * batch_bytes + STRUCTURE_BYTES
}

pub(super) struct Instance {
    home: Home,
    build_port: Port,
    phase: Phase,
    level: Level,
    /// Where rows come from: from the ports, or from disk.
    feed: Option<Feed>,
    cursor: Option<Cursor>,
    /// A batch of probe rows, and where its next slice starts.
    current: Option<(RecordBatch, usize)>,
    /// Pairs that wait; the last one is next.
    pairs: Vec<Pair>,
    build_rows: usize,
    probe_rows: usize,
    /// A null was among the keys of the side that is not emitted.
    has_null: bool,
    /// Tells others what the held side has.
    teller: Option<Teller>,
    /// For [`work_bytes`].
    _work: Reservation,
}

enum Phase {
    Building,
    Sealing,
    Probing,
    /// Of a bucket, from a row on.
    BuildRows(usize, usize),
    Pairs,
    Blocks(Box<Blocks>),
    Ended,
}

struct Feed {
    build: SpillingVecReader,
    probe: Option<SpillingVecReader>,
}

impl Instance {
    pub(super) fn new(shape: Shape, context: OperatorContext) -> Result<Self> {
        let encoder = KeyEncoder::new(&shape.build_schema, &shape.build_keys, shape.nulls_equal)?;
        let build_port = shape.build_port;
        let teller = shape.filter_keys.as_ref().map(|filter| {
            let types = filter.columns.iter().map(|&key| shape.build_schema.field(key).data_type().clone()).collect();
            let place = (context.partition, context.partitions);
            let keys = (filter.columns.clone(), types);
            Teller::new(filter.filter.slot(), place, filter.each_has_all, &context.memory, keys, shape.nulls_equal)
        });
        let teller = teller.transpose()?;
        let filter = shape.filter_keys.as_ref().map(|filter| Arc::clone(filter.filter.slot()));
        let slice_rows = slice_rows(context.batch_bytes).min(context.batch_rows).max(1);
        let home = Home {
            shape: Arc::new(shape),
            encoder: Arc::new(encoder),
            limits: Limits { rows: slice_rows, bytes: context.batch_bytes },
            slice_rows,
            unspread_bytes: unspread_bytes(&context.memory),
            frame_bytes: context.batch_bytes.clamp(4 << 10, FRAME_BYTES),
            memory: context.memory,
            spill: context.spill,
            filter,
        };
        let mut work = home.memory.reservation();
        work.set(work_bytes(context.batch_bytes).min(home.memory.room()));
        Ok(Self {
            level: Level::new(home.clone(), 0, 0),
            build_port,
            phase: Phase::Building,
            feed: None,
            cursor: None,
            current: None,
            pairs: Vec::new(),
            build_rows: 0,
            probe_rows: 0,
            has_null: false,
            teller,
            _work: work,
            home,
        })
    }

    /// Whether a null key of the other side leaves nothing of a `not in`.
    fn is_decided(&mut self, keys: &[usize], batch: &RecordBatch, emitted: bool) -> bool {
        if self.home.shape.null_aware && !emitted {
            self.has_null |= batch.column(keys[0]).logical_null_count() > 0;
        }
        self.has_null
    }

    /// Does a piece of work that needs no input.
    fn advance(&mut self, out: &mut Outbox) -> Result<Step> {
        match self.phase {
            Phase::Building => self.build_from_disk(),
            Phase::Sealing => {
                if self.level.seal()? {
                    if self.build_rows == 0 && self.home.shape.empty_without_build() {
                        return Ok(self.done());
                    }
                    self.phase = Phase::Probing;
                    return Ok(if self.feed.is_some() { Step::MoreOutput } else { Step::NeedInput });
                }
                Ok(Step::MoreOutput)
            }
            Phase::Probing => self.probe(out),
            Phase::BuildRows(bucket, ref mut at) => {
                let not_in = self.probe_rows > 0;
                let (shape, limits) = (&self.home.shape, self.home.limits);
                let given =
                    shape.flags().then(|| give_build_rows(shape, &self.level.tables, bucket, at, limits, not_in, out));
                if given.transpose()?.unwrap_or(true) {
                    self.level.drop_table(bucket);
                    self.phase = Phase::BuildRows(bucket + 1, 0);
                    if bucket + 1 >= self.level.tables.list.len() {
                        self.pairs.extend(self.level.take_pairs()?);
                        self.phase = Phase::Pairs;
                    }
                }
                Ok(Step::MoreOutput)
            }
            Phase::Pairs => {
                self.next_pair();
                Ok(if matches!(self.phase, Phase::Ended) { Step::NeedInput } else { Step::MoreOutput })
            }
            Phase::Blocks(ref mut blocks) => {
                let pairs = &mut self.pairs;
                let spilling = &mut || spill_pairs(pairs, usize::MAX);
                Ok(match blocks.step(out, spilling)? {
                    Progress::More => Step::MoreOutput,
                    Progress::Blocked(ticket) => Step::Blocked(ticket),
                    Progress::Done => {
                        self.phase = Phase::Pairs;
                        Step::MoreOutput
                    }
                })
            }
            Phase::Ended => Ok(Step::NeedInput),
        }
    }

    /// Lets go of everything.
    fn done(&mut self) -> Step {
        self.phase = Phase::Ended;
        self.level = Level::new(self.home.clone(), 0, 0);
        self.pairs.clear();
        (self.feed, self.cursor, self.current) = (None, None, None);
        Step::Done
    }

    fn next_pair(&mut self) {
        self.feed = None;
        let Some(pair) = self.pairs.pop() else {
            self.phase = Phase::Ended;
            return;
        };
        let shape = &self.home.shape;
        if pair.probe.is_none() && !shape.flags() {
            return;
        }
        if pair.one_key {
            self.phase = Phase::Blocks(Box::new(Blocks::new(self.home.clone(), pair, self.probe_rows > 0)));
            return;
        }
        self.level = Level::below(self.home.clone(), &pair);
        self.feed = Some(Feed { build: pair.build.drain(), probe: pair.probe.map(SpillingVec::drain) });
        self.phase = Phase::Building;
    }

    /// Frees what a read of a frame takes, as far as there is something to free.
    fn make_room_to_read(&mut self) -> Result<()> {
        let bytes = self.home.fetch_bytes();
        while !self.home.has_room(bytes) && self.spill_some(usize::MAX)? > 0 {}
        Ok(())
    }

    fn build_from_disk(&mut self) -> Result<Step> {
        if !self.feed.as_ref().is_some_and(|feed| feed.build.is_reading()) {
            self.make_room_to_read()?;
        }
        let Some(feed) = &mut self.feed else { return Ok(Step::NeedInput) };
        match feed.build.next()? {
            Next::Batch(batch) => self.level.insert(batch)?,
            Next::Blocked(ticket) => return Ok(Step::Blocked(ticket)),
            Next::End => self.phase = Phase::Sealing,
        }
        Ok(Step::MoreOutput)
    }

    /// Goes on with the probe rows at hand, or reads more from disk.
    fn probe(&mut self, out: &mut Outbox) -> Result<Step> {
        if self.cursor.is_none() {
            let Some((batch, start)) = &mut self.current else {
                return self.read_probe_rows();
            };
            let rows = self.home.slice_rows.min(batch.num_rows() - *start);
            let slice = batch.slice(*start, rows);
            *start += rows;
            if *start >= batch.num_rows() {
                self.current = None;
            }
            self.cursor = Some(self.level.probe(slice)?);
        }
        if let Some(cursor) = &mut self.cursor {
            let (shape, limits) = (&self.home.shape, self.home.limits);
            cursor.step(shape, &mut self.level.tables, limits, self.build_rows > 0, out)?;
            if cursor.is_done() {
                self.cursor = None;
            }
        }
        let idle = self.cursor.is_none() && self.current.is_none() && self.feed.is_none();
        Ok(if idle { Step::NeedInput } else { Step::MoreOutput })
    }

    fn read_probe_rows(&mut self) -> Result<Step> {
        if self.feed.is_none() {
            return Ok(Step::NeedInput);
        }
        let probe = self.feed.as_ref().and_then(|feed| feed.probe.as_ref());
        if !probe.is_some_and(SpillingVecReader::is_reading) {
            self.make_room_to_read()?;
        }
        let next = match self.feed.as_mut().and_then(|feed| feed.probe.as_mut()) {
            Some(probe) => probe.next()?,
            None => Next::End,
        };
        match next {
            Next::Batch(batch) if batch.num_rows() > 0 => self.current = Some((batch, 0)),
            Next::Batch(_) => {}
            Next::Blocked(ticket) => return Ok(Step::Blocked(ticket)),
            Next::End => self.phase = Phase::BuildRows(0, 0),
        }
        Ok(Step::MoreOutput)
    }

    /// Frees a piece of what is held: what waits longest first.
    fn spill_some(&mut self, bytes: usize) -> Result<usize> {
        let forgotten = self.home.forget_filter();
        if forgotten > 0 {
            return Ok(forgotten);
        }
        let freed = spill_pairs(&mut self.pairs, bytes)?;
        if freed > 0 {
            return Ok(freed);
        }
        if let Some(feed) = &mut self.feed {
            for reader in [Some(&mut feed.build), feed.probe.as_mut()].into_iter().flatten() {
                let freed = reader.spill(bytes)?;
                if freed > 0 {
                    return Ok(freed);
                }
            }
        }
        match &mut self.phase {
            Phase::Building | Phase::Sealing | Phase::Probing => self.level.spill_some(bytes, self.cursor.as_mut()),
            Phase::BuildRows(bucket, at) => self.level.spill_beyond(*bucket, *at, bytes),
            Phase::Blocks(blocks) => blocks.spill(bytes),
            Phase::Pairs | Phase::Ended => Ok(0),
        }
    }
}

/// Writes to disk what pairs that wait have in memory.
fn spill_pairs(pairs: &mut [Pair], bytes: usize) -> Result<usize> {
    for pair in pairs {
        for rows in [Some(&mut pair.build), pair.probe.as_mut()].into_iter().flatten() {
            let before = rows.memory_bytes();
            let freed = rows.spill(bytes)?;
            // What is on its way to disk has gone, and is freed a little later.
            if freed > 0 || rows.memory_bytes() < before {
                return Ok(freed.max(1));
            }
        }
    }
    Ok(0)
}

impl Operator for Instance {
    fn process(&mut self, port: Port, batch: RecordBatch, out: &mut Outbox) -> Result<Step> {
        let shape = Arc::clone(&self.home.shape);
        if port == self.build_port {
            let batch = batch.project(&shape.build_columns)?;
            self.build_rows += batch.num_rows();
            if self.is_decided(&shape.build_keys, &batch, shape.flags()) {
                return Ok(self.done());
            }
            if let Some(teller) = &mut self.teller {
                teller.tell(&batch)?;
            }
            self.level.insert(self.home.stored(&batch, None)?)?;
            return Ok(Step::NeedInput);
        }
        if !matches!(self.phase, Phase::Probing) {
            return Err(OperatorError::new("a join was given probe rows before it had read its build side"));
        }
        let batch = batch.project(&shape.probe_columns)?;
        self.probe_rows += batch.num_rows();
        if self.is_decided(&shape.probe_keys, &batch, !shape.flags()) {
            return Ok(self.done());
        }
        if batch.num_rows() == 0 {
            return Ok(Step::NeedInput);
        }
        self.current = Some((batch, 0));
        self.probe(out)
    }

    fn resume(&mut self, out: &mut Outbox) -> Result<Step> {
        self.advance(out)
    }

    fn finish(&mut self, port: Port, out: &mut Outbox) -> Result<Step> {
        if port == self.build_port {
            if let Some(teller) = &mut self.teller {
                teller.finish();
            }
            self.phase = Phase::Sealing;
        } else {
            self.teller = None;
            self.phase = Phase::BuildRows(0, 0);
        }
        self.advance(out)
    }

    fn ready(&self) -> PortSet {
        match self.phase {
            Phase::Building => PortSet::only(self.build_port),
            _ => PortSet::only(1 - self.build_port),
        }
    }

    fn spill(&mut self, bytes: usize) -> Result<usize> {
        let mut freed = 0;
        // What is held within the floor is of no use to anybody else.
        while freed < bytes.min(SPILL_BYTES) && self.home.memory.excess() > 0 {
            match self.spill_some(bytes - freed)? {
                0 => break,
                more => freed += more,
            }
        }
        Ok(freed)
    }

    fn step_bytes(&self, port: Port, batch: &RecordBatch) -> usize {
        // A copy by buckets, or output beside rows that wait; what is kept per row is in the floor.
        let output = if port == self.build_port { 0 } else { self.home.limits.bytes };
        2 * batch_bytes(batch) + output + (4 << 10)
    }
}
