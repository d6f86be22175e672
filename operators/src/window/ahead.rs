//! Functions that look ahead: they take in sorted rows as they come, and have a row's result later.
//!
//! Results come in the order of the rows. They wait on a tape until their rows leave.

use std::sync::Arc;

use aqueduct_runtime::Result;
use aqueduct_runtime::batch::compact;
use aqueduct_runtime::io::Ticket;
use arrow::array::{Array, ArrayRef, AsArray, UInt32Array, UInt64Array};
use arrow::compute::{concat, take};
use arrow::datatypes::{DataType, Field, FieldRef, Schema, UInt64Type};
use arrow::record_batch::RecordBatch;

use super::desk::Desk;
use super::marks::Marks;
use super::tape::{At, Tape};

/// Sorted rows on their way in.
pub(super) struct Arrival<'a> {
    /// Input columns, and behind them columns of the sort.
    pub(super) rows: &'a RecordBatch,
    pub(super) marks: &'a Marks,
    /// Position of the first row.
    pub(super) start: u64,
}

/// How far a function came with what has arrived.
pub(super) enum Progress {
    /// It needs more rows, or has none left.
    Idle,
    /// It goes on at the next turn.
    More,
    Blocked(Ticket),
}

/// A function whose results come after their rows.
pub(super) trait Ahead: Send {
    /// Takes in rows. Not called before all that had arrived was made use of.
    fn arrive(&mut self, arrival: &Arrival<'_>, desk: &mut Desk) -> Result<()>;

    /// There are no more rows.
    fn end(&mut self, desk: &mut Desk) -> Result<()>;

    /// Does one piece of work with the rows that have arrived.
    fn advance(&mut self, desk: &mut Desk) -> Result<Progress> {
        let _ = desk;
        Ok(Progress::Idle)
    }

    fn results(&mut self) -> &mut Results;

    /// Writes what need not be in memory, up to `bytes` of it; whether there was anything.
    fn spill(&mut self, bytes: usize, desk: &Desk) -> Result<bool> {
        self.results().spill(bytes, desk)
    }
}

/// The results of one function whose rows have not left yet.
pub(super) struct Results {
    tape: Tape,
    /// Whether each value is for a run of rows.
    runs: bool,
    data_type: DataType,
    /// Rows that have a result, gone ones included.
    resolved: u64,
    /// Rows of the run under the cursor that have left already.
    run_gone: u64,
    /// Pieces of the column that is being put together.
    pieces: Vec<ArrayRef>,
    pieced: usize,
}

impl Results {
    /// No results yet of a function that yields `field`: one for each row, or one for each run of rows.
    pub(super) fn new(desk: &Desk, field: &FieldRef, runs: bool) -> Self {
        let mut fields = vec![Arc::new(Field::new("value", field.data_type().clone(), true))];
        if runs {
            fields.push(Arc::new(Field::new("rows", DataType::UInt64, false)));
        }
        Self {
            tape: Tape::new(desk, Arc::new(Schema::new(fields)), 1),
            runs,
            data_type: field.data_type().clone(),
            resolved: 0,
            run_gone: 0,
            pieces: Vec::new(),
            pieced: 0,
        }
    }

    /// Rows that have a result, from the first row of all on.
    pub(super) fn resolved(&self) -> u64 {
        self.resolved
    }

    /// Adds the results of the next rows.
    pub(super) fn push(&mut self, values: ArrayRef, desk: &mut Desk) -> Result<()> {
        debug_assert!(!self.runs);
        self.resolved += values.len() as u64;
        self.push_columns(vec![self.typed(values)?], desk)
    }

    /// Adds the results of the next runs of rows.
    pub(super) fn push_runs(&mut self, values: ArrayRef, rows: Vec<u64>, desk: &mut Desk) -> Result<()> {
        debug_assert!(self.runs);
        self.resolved += rows.iter().sum::<u64>();
        self.push_columns(vec![self.typed(values)?, Arc::new(UInt64Array::from(rows))], desk)
    }

    fn typed(&self, values: ArrayRef) -> Result<ArrayRef> {
        if *values.data_type() == self.data_type {
            return Ok(values);
        }
        Ok(arrow::compute::cast(&values, &self.data_type)?)
    }

    fn push_columns(&mut self, columns: Vec<ArrayRef>, desk: &mut Desk) -> Result<()> {
        let batch = RecordBatch::try_new(Arc::clone(self.tape.schema()), columns)?;
        // Texts that were picked may keep many others in memory.
        let batch = if self.data_type.primitive_width().is_none() { compact(batch) } else { batch };
        desk.claim(&batch);
        self.tape.push(batch, desk)?;
        Ok(())
    }

    pub(super) fn spill(&mut self, bytes: usize, desk: &Desk) -> Result<bool> {
        self.tape.spill(bytes, desk)
    }

    /// Takes the results of the next `rows` rows, all of which are resolved; or what to wait for.
    pub(super) fn take(&mut self, rows: usize, desk: &mut Desk) -> Result<Result<ArrayRef, Ticket>> {
        while self.pieced < rows {
            let block = match self.tape.at(0, desk)? {
                At::Block(block) => block,
                At::Blocked(ticket) => return Ok(Err(ticket)),
                At::End => break,
            };
            let at = (self.tape.position(0) - block.start) as usize;
            let wanted = rows - self.pieced;
            let values = block.batch.column(0);
            let (piece, passed) = if self.runs {
                self.unrolled(values, block.batch.column(1).as_primitive::<UInt64Type>().values(), at, wanted)?
            } else {
                let taken = wanted.min(values.len() - at);
                (values.slice(at, taken), taken)
            };
            self.pieced += piece.len();
            self.pieces.push(piece);
            let position = self.tape.position(0) + passed as u64;
            drop(block);
            self.tape.seek(0, position);
        }
        self.pieced = 0;
        let pieces = std::mem::take(&mut self.pieces);
        Ok(Ok(match &pieces[..] {
            [one] => ArrayRef::clone(one),
            several => concat(&several.iter().map(AsRef::as_ref).collect::<Vec<&dyn Array>>())?,
        }))
    }

    /// Values of up to `wanted` rows from run `at` on, and the runs that were passed.
    fn unrolled(&mut self, values: &ArrayRef, runs: &[u64], at: usize, wanted: usize) -> Result<(ArrayRef, usize)> {
        let mut indices: Vec<u32> = Vec::with_capacity(wanted);
        let mut run = at;
        while indices.len() < wanted && run < runs.len() {
            let left = runs[run] - self.run_gone;
            let taken = left.min((wanted - indices.len()) as u64);
            indices.resize(indices.len() + taken as usize, run as u32);
            if taken == left {
                run += 1;
                self.run_gone = 0;
            } else {
                self.run_gone += taken;
            }
        }
        Ok((take(values, &UInt32Array::from(indices), None)?, run - at))
    }
}
