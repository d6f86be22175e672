//! Window functions that only their own evaluator can compute: all arguments of a partition are held in memory.
//!
//! None of DataFusion's own functions is among them.

use std::ops::Range;
use std::sync::Arc;

use aqueduct_runtime::Result;
use aqueduct_runtime::batch::copied_array;
use aqueduct_runtime::memory::Reservation;
use aqueduct_runtime::state::SortColumn;
use arrow::array::{Array, ArrayRef};
use arrow::compute::concat;
use arrow::datatypes::FieldRef;
use datafusion_common::ScalarValue;
use datafusion_expr::function::PartitionEvaluatorArgs;
use datafusion_expr::window_state::WindowFrameContext;
use datafusion_expr::{PartitionEvaluator, WindowFrame, WindowUDF};

use super::ahead::{Ahead, Arrival, Results};
use super::desk::Desk;
use crate::expression::{Expression, evaluate, failed};

/// A function with an evaluator of its own.
#[derive(Debug, Clone)]
pub(super) struct Evaluated {
    pub(super) function: Arc<WindowUDF>,
    /// As the query has them, for the evaluator's making.
    pub(super) given: Vec<Expression>,
    pub(super) fields: Vec<FieldRef>,
    /// What the evaluator is called with.
    pub(super) arguments: Vec<Expression>,
    pub(super) frame: Arc<WindowFrame>,
    pub(super) order_by: Vec<SortColumn>,
    pub(super) ignore_nulls: bool,
}

impl Evaluated {
    pub(super) fn evaluator(&self) -> Result<Box<dyn PartitionEvaluator>> {
        let args = PartitionEvaluatorArgs::new(&self.given, &self.fields, false, self.ignore_nulls);
        self.function.partition_evaluator_factory(args).map_err(failed)
    }
}

pub(super) struct Held {
    evaluated: Evaluated,
    /// Of each batch of the open partition its arguments, and behind them its order columns.
    pieces: Vec<Vec<ArrayRef>>,
    /// Rows of the open partition, and where its peers begin.
    rows: usize,
    peers: Vec<usize>,
    bytes: usize,
    results: Results,
    held: Reservation,
}

impl Held {
    pub(super) fn new(evaluated: &Evaluated, field: &FieldRef, desk: &Desk) -> Self {
        Self {
            evaluated: evaluated.clone(),
            pieces: Vec::new(),
            rows: 0,
            peers: Vec::new(),
            bytes: 0,
            results: Results::new(desk, field, false),
            held: desk.account.reservation(),
        }
    }

    fn keep(&mut self, columns: &[ArrayRef], from: usize, to: usize, peers: &[u32], desk: &mut Desk) -> Result<()> {
        if from == to {
            return Ok(());
        }
        let columns: Vec<_> = columns.iter().map(|column| copied_array(&column.slice(from, to - from))).collect();
        self.bytes += columns.iter().map(|column| column.get_array_memory_size()).sum::<usize>();
        // The pieces, what they are put together to, and the results.
        desk.hold(&mut self.held, 3 * self.bytes + 8 * self.peers.len());
        self.pieces.push(columns);
        let begins = peers.iter().map(|row| *row as usize).filter(|row| (from..to).contains(row));
        self.peers.extend(begins.map(|row| row - from + self.rows));
        self.rows += to - from;
        Ok(())
    }

    fn close(&mut self, desk: &mut Desk) -> Result<()> {
        if self.rows == 0 {
            return Ok(());
        }
        let (rows, peers) = (std::mem::take(&mut self.rows), std::mem::take(&mut self.peers));
        let pieces = std::mem::take(&mut self.pieces);
        let columns = (0..pieces[0].len()).map(|column| {
            let parts: Vec<&dyn Array> = pieces.iter().map(|piece| piece[column].as_ref()).collect();
            Ok(concat(&parts)?)
        });
        let mut columns = columns.collect::<Result<Vec<_>>>()?;
        drop(pieces);
        let order = columns.split_off(self.evaluated.arguments.len());
        let values = self.evaluate(&columns, &order, rows, &peers)?;
        self.results.push(values, desk)?;
        self.bytes = 0;
        desk.hold(&mut self.held, 0);
        Ok(())
    }

    fn evaluate(&self, columns: &[ArrayRef], order: &[ArrayRef], rows: usize, peers: &[usize]) -> Result<ArrayRef> {
        let mut evaluator = self.evaluated.evaluator()?;
        if evaluator.uses_window_frame() {
            let options = self.evaluated.order_by.iter().map(|by| by.options).collect();
            let mut context = WindowFrameContext::new(Arc::clone(&self.evaluated.frame), options);
            let mut last = 0..0;
            let values = (0..rows).map(|row| {
                let range = context.calculate_range(order, &last, rows, row)?;
                last = range.clone();
                evaluator.evaluate(columns, &range)
            });
            let values = values.collect::<datafusion_common::Result<Vec<_>>>().map_err(failed)?;
            return ScalarValue::iter_to_array(values).map_err(failed);
        }
        if evaluator.include_rank() {
            let ends = peers.iter().skip(1).copied().chain([rows]);
            let ranges: Vec<Range<usize>> = peers.iter().zip(ends).map(|(start, end)| *start..end).collect();
            return evaluator.evaluate_all_with_rank(rows, &ranges).map_err(failed);
        }
        evaluator.evaluate_all(columns, rows).map_err(failed)
    }
}

impl Ahead for Held {
    fn arrive(&mut self, arrival: &Arrival<'_>, desk: &mut Desk) -> Result<()> {
        let arguments = self.evaluated.arguments.iter().map(|argument| evaluate(argument.as_ref(), arrival.rows));
        let mut columns = arguments.collect::<Result<Vec<_>>>()?;
        columns.extend(self.evaluated.order_by.iter().map(|by| ArrayRef::clone(arrival.rows.column(by.column))));
        let mut at = 0;
        for row in &arrival.marks.partitions {
            self.keep(&columns, at, *row as usize, &arrival.marks.peers, desk)?;
            self.close(desk)?;
            at = *row as usize;
        }
        self.keep(&columns, at, arrival.rows.num_rows(), &arrival.marks.peers, desk)
    }

    fn end(&mut self, desk: &mut Desk) -> Result<()> {
        self.close(desk)
    }

    fn results(&mut self) -> &mut Results {
        &mut self.results
    }
}
