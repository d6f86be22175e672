//! The second half of an aggregation: merges the states of each group, spilling them when memory is short, and
//! emits the results.
//!
//! ```text
//! reading ──finish──▶ emitting tables ──▶ loading a spilled bucket ──▶ emitting tables ──▶ … ──▶ ended
//! ```

use std::sync::Arc;

use aqueduct_runtime::batch::batch_bytes;
use aqueduct_runtime::memory::Reservation;
use aqueduct_runtime::spill::{Fetch, Fetched};
use aqueduct_runtime::{Operator, OperatorContext, OperatorSpec, Outbox, Port, Result, Step};
use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;

use super::buckets::{Buckets, Home, Origin, Spilled, own, piece_rows};
use super::describe::{Aggregate, Function};
use super::table::Emitted;

/// Largest frame on disk; smaller where batches are.
const FRAME_BYTES: usize = 128 << 10;
/// Most bytes that one call of `spill` writes, give or take a table.
const SPILL_BYTES: usize = 4 << 20;

/// Merges what [`PartialAggregate`](super::PartialAggregate) emits, behind an exchange by
/// [`Aggregate::group_column_names`] or, without groups, a gather.
#[derive(Debug, Clone)]
pub struct FinalAggregate {
    aggregate: Arc<Aggregate>,
}

impl FinalAggregate {
    /// The second half of `aggregate`.
    pub fn new(aggregate: Arc<Aggregate>) -> Self {
        Self { aggregate }
    }
}

impl OperatorSpec for FinalAggregate {
    fn name(&self) -> &str {
        "final aggregate"
    }

    fn output_schema(&self, _output: usize, inputs: &[SchemaRef]) -> Result<SchemaRef> {
        self.aggregate.check_unordered()?;
        self.aggregate.check_input(&inputs[0], false)?;
        Ok(self.aggregate.output_schema())
    }

    fn instantiate(&self, context: OperatorContext) -> Result<Box<dyn Operator>> {
        self.aggregate.check_input(&context.inputs[0], false)?;
        Ok(Box::new(FinalInstance::new(Arc::clone(&self.aggregate), context)?))
    }

    fn min_memory(&self, batch_bytes: usize) -> usize {
        // A table for each bucket with a few groups, one of them twice; a row as large as a batch in its
        // frame, in the table and in the table's copy.
        let row = self.aggregate.row_floor(batch_bytes);
        (192 << 10) + self.aggregate.small_table_bytes() + 2 * frame_bytes(batch_bytes) + row
    }

    fn emits_after_input(&self) -> bool {
        true
    }

    fn detail(&self) -> String {
        self.aggregate.detail()
    }
}

fn frame_bytes(batch_bytes: usize) -> usize {
    batch_bytes.clamp(4 << 10, FRAME_BYTES)
}

struct FinalInstance {
    home: Home,
    batch_bytes: usize,
    batch_rows: usize,
    buckets: Buckets,
    phase: Phase,
    /// What the buckets were loaded from, if they were.
    origin: Option<Origin>,
    /// Buckets on disk that are still to be emitted; the last one is next.
    spilled: Vec<Spilled>,
}

enum Phase {
    Reading,
    /// Tables are taken, and one of them is being emitted.
    Emitting(Option<Emission>),
    Loading(Loading),
    Ended,
}

struct Emission {
    emitted: Emitted,
    next: usize,
    step: usize,
}

/// A spilled bucket on its way back.
struct Loading {
    spilled: Spilled,
    next: usize,
    fetch: Option<(Fetch, Reservation)>,
}

impl FinalInstance {
    fn new(aggregate: Arc<Aggregate>, context: OperatorContext) -> Result<Self> {
        let home = Home {
            aggregate,
            memory: context.memory,
            spill: context.spill,
            frame_bytes: frame_bytes(context.batch_bytes),
        };
        Ok(Self {
            buckets: Buckets::new(home.clone(), 0)?,
            home,
            batch_bytes: context.batch_bytes,
            batch_rows: context.batch_rows.max(1),
            phase: Phase::Reading,
            origin: None,
            spilled: Vec::new(),
        })
    }

    /// Goes on with what follows the end of input, for one piece of work.
    fn advance(&mut self, out: &mut Outbox) -> Result<Step> {
        match &mut self.phase {
            Phase::Reading | Phase::Ended => Ok(Step::NeedInput),
            Phase::Emitting(Some(emission)) => {
                let rows = emission.emitted.rows();
                let end = rows.min(emission.next + emission.step);
                let columns = emission.emitted.piece(emission.next..end)?;
                let batch = self.home.aggregate.output_batch(columns, end - emission.next)?;
                emission.next = end;
                let whole = emission.step >= rows;
                out.push(if whole { batch } else { own(batch) });
                if end == rows {
                    self.phase = Phase::Emitting(None);
                    self.buckets.emitted();
                }
                Ok(Step::MoreOutput)
            }
            Phase::Emitting(none) => {
                if let Some(table) = self.buckets.take_table() {
                    let emitted = table.emit(true)?;
                    if emitted.rows() == 0 {
                        self.buckets.emitted();
                        return Ok(Step::MoreOutput);
                    }
                    let step = piece_rows(&emitted, self.batch_bytes).min(self.batch_rows);
                    *none = Some(Emission { emitted, next: 0, step });
                    return Ok(Step::MoreOutput);
                }
                if self.buckets.spill_rest()? {
                    return Ok(Step::MoreOutput);
                }
                self.spilled.extend(self.buckets.take_spilled(self.origin)?);
                self.load_next()
            }
            Phase::Loading(loading) => {
                let Some((fetch, _memory)) = &mut loading.fetch else { return self.fetch_next() };
                match fetch.poll()? {
                    Fetched::Blocked(ticket) => Ok(Step::Blocked(ticket)),
                    Fetched::Ready(batch) => {
                        let fetched = loading.fetch.take();
                        self.buckets.merge(&batch)?;
                        drop((batch, fetched));
                        Ok(Step::MoreOutput)
                    }
                }
            }
        }
    }

    fn load_next(&mut self) -> Result<Step> {
        let Some(spilled) = self.spilled.pop() else {
            self.phase = Phase::Ended;
            return Ok(Step::NeedInput);
        };
        self.buckets = Buckets::below(self.home.clone(), &spilled)?;
        self.origin = Some(spilled.origin);
        self.phase = Phase::Loading(Loading { spilled, next: 0, fetch: None });
        Ok(Step::MoreOutput)
    }

    /// Starts to read the next frame, or goes over to emitting after the last.
    fn fetch_next(&mut self) -> Result<Step> {
        let Phase::Loading(loading) = &mut self.phase else { return Ok(Step::NeedInput) };
        let Some(frame) = loading.spilled.frames.get(loading.next).copied() else {
            self.phase = Phase::Emitting(None);
            return Ok(Step::MoreOutput);
        };
        // The batch is there once more, by buckets, while it is merged.
        let needed = loading.spilled.file.fetch_bytes(frame) + frame.memory_bytes / 4;
        let memory = loop {
            if let Some(memory) = self.home.memory.try_reserve(needed) {
                break memory;
            }
            if self.buckets.spill_largest()? == 0 {
                // The floor covers frames; one that is larger holds a single row.
                let mut memory = self.home.memory.reservation();
                memory.set(needed);
                break memory;
            }
        };
        loading.fetch = Some((loading.spilled.file.fetch(frame), memory));
        loading.next += 1;
        Ok(Step::MoreOutput)
    }
}

impl Operator for FinalInstance {
    fn process(&mut self, _port: Port, batch: RecordBatch, _out: &mut Outbox) -> Result<Step> {
        self.buckets.merge(&batch)?;
        Ok(Step::NeedInput)
    }

    fn resume(&mut self, out: &mut Outbox) -> Result<Step> {
        self.advance(out)
    }

    fn finish(&mut self, _port: Port, out: &mut Outbox) -> Result<Step> {
        if self.home.aggregate.key_types().is_empty() && self.buckets.is_empty() {
            // Without keys there is one group, even of no rows. An accumulator of many groups takes a group
            // that never saw a row for one that has values.
            let functions = self.home.aggregate.functions().iter();
            let columns = functions.map(Function::of_nothing).collect::<Result<Vec<_>>>()?;
            out.push(self.home.aggregate.output_batch(columns, 1)?);
        }
        self.phase = Phase::Emitting(None);
        self.advance(out)
    }

    fn spill(&mut self, bytes: usize) -> Result<usize> {
        // One group that is being loaded alone would only be loaded again.
        if matches!(self.phase, Phase::Loading(_)) && self.origin.is_some_and(|origin| origin.one_group) {
            return Ok(0);
        }
        let mut freed = 0;
        while freed < bytes.min(SPILL_BYTES) {
            match self.buckets.spill_largest()? {
                0 => break,
                more => freed += more,
            }
        }
        Ok(freed)
    }

    fn step_bytes(&self, _port: Port, batch: &RecordBatch) -> usize {
        // Hashes, order and groups of its rows; the copy of a bucket's rows, at worst of all.
        batch_bytes(batch) + 32 * batch.num_rows() + (4 << 10)
    }
}
