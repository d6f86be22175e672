//! The fast way, while memory is plenty: rows are kept as they come, and in the end a hash table computes of them
//! what the sort would have.
//!
//! Rows are kept with what floats alone. The floor stays free for the sort, which takes the rows over, in any
//! order, as soon as memory is short.

use std::sync::Arc;

use aqueduct_runtime::Result;
use aqueduct_runtime::batch::compact;
use aqueduct_runtime::memory::{Account, Reservation};
use arrow::array::{Array, ArrayRef, AsArray};
use arrow::record_batch::RecordBatch;

use super::super::describe::Aggregate;
use super::super::table::{Arguments, Emitted, Table};
use super::layout::{Argument, DirectFunction, Layout};
use crate::expression::own_array;

pub(super) struct Direct {
    aggregate: Arc<Aggregate>,
    layout: Arc<Layout>,
    memory: Account,
    rows: Vec<RecordBatch>,
    /// Arrays' own structures.
    overhead: Reservation,
    /// The floor, for the sort.
    sort_room: Reservation,
    /// Rows are no longer kept.
    closed: bool,
    /// The next batch for the table.
    next: usize,
    table: Option<Table>,
    /// Holds the table and its copy.
    held: Reservation,
    groups: Vec<usize>,
}

/// How far the table is.
pub(super) enum Hashed {
    More,
    /// All results. Their memory stays reserved until the table is dropped.
    Done(Emitted),
    /// Memory is short: the rows are to be sorted.
    Refused,
}

impl Direct {
    /// `None` if only sorted rows will do.
    pub(super) fn new(aggregate: &Arc<Aggregate>, layout: &Arc<Layout>, memory: &Account) -> Option<Self> {
        layout.direct.as_ref()?;
        let mut sort_room = memory.reservation();
        if !sort_room.try_set(memory.floor()) {
            return None;
        }
        Some(Self {
            aggregate: Arc::clone(aggregate),
            layout: Arc::clone(layout),
            rows: Vec::new(),
            overhead: memory.reservation(),
            sort_room,
            closed: false,
            next: 0,
            table: None,
            held: memory.reservation(),
            groups: Vec::new(),
            memory: memory.clone(),
        })
    }

    /// Keeps rows, or gives them back for the sort.
    pub(super) fn keep(&mut self, batch: RecordBatch) -> Option<RecordBatch> {
        if self.closed {
            return Some(batch);
        }
        let batch = compact(batch);
        let needed = batch.get_array_memory_size() + size_of::<RecordBatch>();
        let Some(mut estimate) = self.memory.try_reserve(needed) else {
            self.close();
            return Some(batch);
        };
        self.memory.claim_from(&batch, &mut estimate);
        self.overhead.absorb(estimate);
        self.rows.push(batch);
        None
    }

    /// Leaves the rest to the sort.
    pub(super) fn close(&mut self) {
        self.closed = true;
        self.table = None;
        self.held.shrink(usize::MAX);
        self.sort_room.shrink(usize::MAX);
    }

    /// Whether rows are for the sort.
    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    /// A batch for the sort.
    pub(super) fn pop(&mut self) -> Option<RecordBatch> {
        let batch = self.rows.pop();
        if self.rows.is_empty() {
            self.overhead.shrink(usize::MAX);
        }
        batch
    }

    /// Adds one batch to the table.
    pub(super) fn hash(&mut self) -> Result<Hashed> {
        let Some(functions) = &self.layout.direct else { return Ok(Hashed::Refused) };
        let table = match &mut self.table {
            Some(table) => table,
            none => none.insert(Table::new(&self.aggregate, true)?),
        };
        let Some(batch) = self.rows.get(self.next) else {
            self.rows.clear();
            self.overhead.shrink(usize::MAX);
            let Some(table) = self.table.take() else { return Ok(Hashed::Refused) };
            return Ok(Hashed::Done(table.emit(true)?));
        };
        self.next += 1;
        let rows = batch.num_rows();
        let keys = &batch.columns()[..self.aggregate.key_types().len()];
        let arguments = functions.iter().map(|function| arguments(function, batch)).collect::<Result<Vec<_>>>()?;
        let growth = table.growth(rows, keys, table.kept_arguments(&arguments));
        if !self.held.try_set(2 * (table.bytes() + growth) + 8 * rows) {
            self.close();
            return Ok(Hashed::Refused);
        }
        table.update(keys, &arguments, rows, &mut self.groups)?;
        Ok(Hashed::More)
    }
}

fn arguments(function: &DirectFunction, batch: &RecordBatch) -> Result<Arguments> {
    let values = function.arguments.iter().map(|argument| match argument {
        Argument::Constant(value) => own_array(value, batch.num_rows()),
        Argument::Column(column) => Ok(ArrayRef::clone(batch.column(*column))),
    });
    let mask = function.mask.map(|mask| batch.column(mask).as_boolean().clone());
    Ok((values.collect::<Result<_>>()?, mask.filter(|mask| mask.has_false() || mask.null_count() > 0)))
}
