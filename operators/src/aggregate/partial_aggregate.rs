//! The first half of an aggregation: turns rows into states before they are sent, one for many rows where keys
//! repeat.
//!
//! Its table is small and never spills: full, or refused more memory, it is emitted and started afresh. Where
//! keys hardly repeat, rows are turned into states one by one, without a table, for a while.

use std::ops::Range;
use std::sync::Arc;

use aqueduct_runtime::batch::batch_bytes;
use aqueduct_runtime::io::Ticket;
use aqueduct_runtime::memory::{Account, Reservation};
use aqueduct_runtime::{Operator, OperatorContext, OperatorSpec, Outbox, Port, Result, Step};
use arrow::array::{Array, ArrayRef};
use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use datafusion_expr::GroupsAccumulator;

use super::buckets::{own, piece_rows};
use super::describe::Aggregate;
use super::table::{Arguments, Emitted, Table, bytes_of};
use crate::expression::failed;

/// A table of more bytes is emitted: it would no longer fit in the caches of a core.
const TABLE_BYTES: usize = 24 << 20;
/// After so many rows it is known whether keys repeat.
const SAMPLE_ROWS: usize = 100_000;
/// With more groups per row than this, the table is not worth its while.
const WORTHLESS: f64 = 0.8;
/// Rows without a table until the next sample.
const BYPASSED_ROWS: usize = 4_000_000;
/// States of more bytes than this are too large to have one for every row.
const CONVERTED_BYTES: usize = 256;

/// Aggregates the rows of each partition of the input, before the exchange.
#[derive(Debug, Clone)]
pub struct PartialAggregate {
    aggregate: Arc<Aggregate>,
}

impl PartialAggregate {
    /// The first half of `aggregate`.
    pub fn new(aggregate: Arc<Aggregate>) -> Self {
        Self { aggregate }
    }
}

impl OperatorSpec for PartialAggregate {
    fn name(&self) -> &str {
        "partial aggregate"
    }

    fn output_schema(&self, _output: usize, inputs: &[SchemaRef]) -> Result<SchemaRef> {
        self.aggregate.check_unordered()?;
        self.aggregate.check_input(&inputs[0], true)?;
        Ok(self.aggregate.state_schema())
    }

    fn instantiate(&self, context: OperatorContext) -> Result<Box<dyn Operator>> {
        self.aggregate.check_input(&context.inputs[0], true)?;
        Ok(Box::new(PartialInstance::new(Arc::clone(&self.aggregate), context)?))
    }

    fn min_memory(&self, batch_bytes: usize) -> usize {
        // A table of some hundred groups and its copy; keys of one batch.
        (128 << 10) + 2 * self.aggregate.small_table_bytes() + self.aggregate.row_floor(batch_bytes / 2)
    }

    fn detail(&self) -> String {
        self.aggregate.detail()
    }
}

struct PartialInstance {
    aggregate: Arc<Aggregate>,
    batch_bytes: usize,
    batch_rows: usize,
    memory: Account,
    table: Table,
    /// Bytes of a table that is full.
    table_bytes: usize,
    /// Rows that the table has taken.
    table_rows: usize,
    /// Holds the table and its copy.
    held: Reservation,
    groups: Vec<usize>,
    input: Option<Input>,
    /// What to wait for before it is tried again.
    short: Option<Ticket>,
    emission: Option<Emission>,
    finishing: bool,
    sample: Sample,
    converters: Option<Vec<Box<dyn GroupsAccumulator>>>,
}

/// A batch that is being taken in.
struct Input {
    keys: Vec<ArrayRef>,
    arguments: Vec<Arguments>,
    rows: usize,
    next: usize,
    /// Rows to try to take at once.
    step: usize,
}

struct Emission {
    emitted: Emitted,
    next: usize,
    step: usize,
}

/// Whether keys repeat, as the rows so far have shown.
#[derive(Default)]
struct Sample {
    rows: usize,
    /// Groups that they began, of tables that were emitted.
    groups: usize,
    /// Groups that the table had before these rows.
    known: usize,
    /// Rows that still go without a table.
    bypass: usize,
}

impl PartialInstance {
    fn new(aggregate: Arc<Aggregate>, context: OperatorContext) -> Result<Self> {
        let functions = aggregate.functions();
        let converts = !aggregate.key_types().is_empty()
            && aggregate.group_bytes() <= CONVERTED_BYTES
            && functions.iter().all(|function| function.converts);
        let converters = if converts {
            Some(functions.iter().map(|function| function.accumulator()).collect::<Result<_>>()?)
        } else {
            None
        };
        // What this half takes the other cannot have, and it is the other that has to spill for want of it.
        let table_bytes = TABLE_BYTES.min((context.memory.floor() + context.memory.pool().limit() / 32) / 2);
        // Lists do not become smaller here, and one of them goes on as one row.
        let one_row = context.batch_bytes.max(aggregate.small_table_bytes());
        Ok(Self {
            table: Table::new(&aggregate, true)?,
            table_bytes: if aggregate.has_lists() { table_bytes.min(one_row) } else { table_bytes },
            table_rows: 0,
            held: context.memory.reservation(),
            memory: context.memory,
            aggregate,
            batch_bytes: context.batch_bytes,
            batch_rows: context.batch_rows.max(1),
            groups: Vec::new(),
            input: None,
            short: None,
            emission: None,
            finishing: false,
            sample: Sample::default(),
            converters,
        })
    }

    fn advance(&mut self, out: &mut Outbox) -> Result<Step> {
        loop {
            if self.emission.is_some() {
                self.emit_piece(out)?;
                return Ok(Step::MoreOutput);
            }
            if let Some(input) = self.input.take() {
                let (left, emitted) =
                    if self.sample.bypass > 0 { self.convert(input, out)? } else { (self.take_in(input)?, false) };
                self.input = left;
                if let Some(ticket) = self.short.take() {
                    return Ok(Step::Blocked(ticket));
                }
                if emitted && self.input.is_some() {
                    return Ok(Step::MoreOutput);
                }
                if emitted {
                    return Ok(Step::NeedInput);
                }
                continue;
            }
            if self.finishing && self.table_rows > 0 {
                self.flush()?;
                continue;
            }
            return Ok(Step::NeedInput);
        }
    }

    /// Adds rows to the table, as many as there is memory for; what is left of the input.
    fn take_in(&mut self, mut input: Input) -> Result<Option<Input>> {
        let length = input.step.min(input.rows - input.next);
        let piece = input.piece(length);
        let growth = self.table.growth(length, &piece.keys, self.table.kept_arguments(&piece.arguments));
        let grown = self.table.bytes() + growth;
        if !self.held.try_set(2 * grown + self.scratch_bytes(length)) {
            if length > 256 || (self.table_rows == 0 && length > 1) {
                input.step = length / 2;
            } else if self.table_rows > 0 {
                self.flush()?;
            } else {
                // Others may give back what one row needs.
                let needed = 2 * grown + self.scratch_bytes(length);
                self.short = Some(self.memory.wait_for(needed.saturating_sub(self.held.bytes()))?);
            }
            return Ok(Some(input));
        }
        self.table.update(&piece.keys, &piece.arguments, length, &mut self.groups)?;
        self.table_rows += length;
        self.sample.rows += length;
        input.next += length;
        let bytes = self.table.bytes();
        self.held.set(2 * bytes + self.scratch_bytes(0));
        if self.sample.rows >= SAMPLE_ROWS {
            let groups = self.sample.groups + self.table.groups() - self.sample.known;
            let worthless = groups as f64 > WORTHLESS * self.sample.rows as f64;
            self.sample = Sample { known: self.table.groups(), ..Sample::default() };
            if worthless && self.converters.is_some() {
                self.sample.bypass = BYPASSED_ROWS;
                self.flush()?;
            }
        }
        if bytes > self.table_bytes && self.emission.is_none() {
            self.flush()?;
        }
        Ok((input.next < input.rows).then_some(input))
    }

    /// Bytes of the numbers of the groups of `rows` rows.
    fn scratch_bytes(&self, rows: usize) -> usize {
        8 * self.groups.capacity().max(rows)
    }

    /// Turns the table into batches to emit, and starts afresh.
    fn flush(&mut self) -> Result<()> {
        let table = std::mem::replace(&mut self.table, Table::new(&self.aggregate, true)?);
        self.sample.groups += table.groups() - std::mem::take(&mut self.sample.known);
        self.table_rows = 0;
        let emitted = table.emit(false)?;
        let step = piece_rows(&emitted, self.batch_bytes).min(self.batch_rows);
        self.emission = Some(Emission { emitted, next: 0, step });
        Ok(())
    }

    fn emit_piece(&mut self, out: &mut Outbox) -> Result<()> {
        let Some(emission) = &mut self.emission else { return Ok(()) };
        let rows = emission.emitted.rows();
        let end = rows.min(emission.next + emission.step);
        let columns = emission.emitted.piece(emission.next..end)?;
        let batch = self.aggregate.state_batch(columns, end - emission.next)?;
        out.push(if emission.step >= rows { batch } else { own(batch) });
        emission.next = end;
        if end == rows {
            self.emission = None;
            self.held.set(2 * self.table.bytes() + self.scratch_bytes(0));
        }
        Ok(())
    }

    /// Turns rows into states one by one; what is left of the input, and that something was emitted.
    fn convert(&mut self, mut input: Input, out: &mut Outbox) -> Result<(Option<Input>, bool)> {
        let row_bytes = self.aggregate.group_bytes() + bytes_of(&input.keys) / input.rows.max(1) + 1;
        let fit = (self.batch_bytes / row_bytes).clamp(1, self.batch_rows);
        let length = fit.min(input.rows - input.next);
        let piece = input.piece(length);
        let mut columns = piece.keys;
        for (converter, (values, filter)) in self.converters.iter().flatten().zip(&piece.arguments) {
            columns.extend(converter.convert_to_state(values, filter.as_ref()).map_err(failed)?);
        }
        out.push(self.aggregate.state_batch(columns, length)?);
        input.next += length;
        self.sample.bypass = self.sample.bypass.saturating_sub(length);
        Ok(((input.next < input.rows).then_some(input), true))
    }
}

impl Input {
    /// Its next `length` rows.
    fn piece(&self, length: usize) -> Piece {
        let range = self.next..self.next + length;
        if length == self.rows {
            return Piece { keys: self.keys.clone(), arguments: self.arguments.clone() };
        }
        let slice = |columns: &[ArrayRef], range: &Range<usize>| {
            columns.iter().map(|column| column.slice(range.start, range.len())).collect::<Vec<_>>()
        };
        let arguments = self
            .arguments
            .iter()
            .map(|(values, filter)| {
                let filter = filter.as_ref().map(|filter| filter.slice(range.start, range.len()));
                (slice(values, &range), filter)
            })
            .collect();
        Piece { keys: slice(&self.keys, &range), arguments }
    }
}

struct Piece {
    keys: Vec<ArrayRef>,
    arguments: Vec<Arguments>,
}

impl Operator for PartialInstance {
    fn process(&mut self, _port: Port, batch: RecordBatch, out: &mut Outbox) -> Result<Step> {
        let rows = batch.num_rows();
        if rows == 0 {
            return Ok(Step::NeedInput);
        }
        let keys = self.aggregate.keys(&batch)?;
        let functions = self.aggregate.functions().iter();
        let arguments = functions.map(|function| function.evaluate(&batch)).collect::<Result<Vec<_>>>()?;
        self.input = Some(Input { keys, arguments, rows, next: 0, step: rows });
        self.advance(out)
    }

    fn resume(&mut self, out: &mut Outbox) -> Result<Step> {
        self.advance(out)
    }

    fn finish(&mut self, _port: Port, out: &mut Outbox) -> Result<Step> {
        self.finishing = true;
        self.advance(out)
    }

    fn step_bytes(&self, _port: Port, batch: &RecordBatch) -> usize {
        // Evaluated expressions, the number of each row's group, and a batch of output.
        2 * batch_bytes(batch) + 16 * batch.num_rows() + self.batch_bytes
    }
}
