//! Any aggregate, through its accumulator.
//!
//! Where frames slide and the accumulator cannot take rows out, the arguments of a frame's rows are kept, and each
//! result is computed from them anew.

use std::collections::VecDeque;
use std::sync::Arc;

use aqueduct_runtime::Result;
use aqueduct_runtime::batch::copied_array;
use arrow::array::{Array, ArrayRef, new_empty_array};
use arrow::compute::filter;
use datafusion_common::ScalarValue;
use datafusion_expr::Accumulator;
use datafusion_physical_expr::aggregate::AggregateFunctionExpr;

use super::{Arguments, Motion, State};
use crate::expression::failed;

/// Rows that are kept in one piece.
const PIECE_ROWS: usize = 1024;

pub(super) struct Accumulate {
    expression: Arc<AggregateFunctionExpr>,
    way: Way,
    accumulator: Box<dyn Accumulator>,
    lead: Arguments,
    trail: Arguments,
    output: Vec<ScalarValue>,
    /// Whether the state may grow with its rows.
    grows: bool,
    /// Rows that count, for an accumulator that does not know when it has none left.
    present: Option<usize>,
}

enum Way {
    Grow,
    Retract,
    Recompute(Kept),
}

/// Arguments of the rows of a frame.
#[derive(Default)]
struct Kept {
    pieces: VecDeque<Piece>,
    bytes: usize,
    /// Whether the accumulator has been given these rows and no other.
    fresh: bool,
}

/// Rows added together; those before `gone` were taken out.
struct Piece {
    arguments: Arguments,
    rows: usize,
    gone: usize,
    bytes: usize,
}

impl Accumulate {
    pub(super) fn try_new(expression: Arc<AggregateFunctionExpr>, motion: Motion) -> Result<Self> {
        let states = expression.state_fields().map_err(failed)?;
        let grows = states.iter().any(|state| {
            let state = state.data_type();
            state.primitive_width().is_none() && *state != arrow::datatypes::DataType::Boolean
        });
        let way = match motion {
            Motion::Grows => Way::Grow,
            Motion::Slides if expression.create_sliding_accumulator().is_ok() => Way::Retract,
            Motion::Slides => Way::Recompute(Kept::default()),
        };
        let accumulator = create(&expression, &way)?;
        let (lead, trail) = (Arguments::default(), Arguments::default());
        // Its value of nothing is null, and 0 once all rows were taken out.
        let forgets = matches!(way, Way::Retract) && expression.fun().name() == "bit_xor";
        let present = forgets.then_some(0);
        Ok(Self { expression, way, accumulator, lead, trail, output: Vec::new(), grows, present })
    }
}

fn create(expression: &AggregateFunctionExpr, way: &Way) -> Result<Box<dyn Accumulator>> {
    match way {
        Way::Retract => expression.create_sliding_accumulator().map_err(failed),
        Way::Grow | Way::Recompute(_) => expression.create_accumulator().map_err(failed),
    }
}

/// The rows `from..to` that count.
fn rows(arguments: &Arguments, from: usize, to: usize) -> Result<Vec<ArrayRef>> {
    let slices = arguments.columns.iter().map(|column| column.slice(from, to - from));
    match &arguments.mask {
        None => Ok(slices.collect()),
        Some(mask) => {
            let mask = mask.slice(from, to - from);
            slices.map(|slice| Ok(filter(&slice, &mask)?)).collect()
        }
    }
}

/// Rows whose only argument is not null.
fn counting(rows: &[ArrayRef]) -> usize {
    rows.iter().map(|argument| argument.len() - argument.logical_null_count()).sum()
}

impl State for Accumulate {
    fn reset(&mut self) -> Result<()> {
        self.accumulator = create(&self.expression, &self.way)?;
        self.present = self.present.map(|_| 0);
        if let Way::Recompute(kept) = &mut self.way {
            *kept = Kept::default();
        }
        Ok(())
    }

    fn lead(&mut self, arguments: &Arguments) -> Result<()> {
        self.lead = arguments.clone();
        Ok(())
    }

    fn trail(&mut self, arguments: &Arguments) -> Result<()> {
        self.trail = arguments.clone();
        Ok(())
    }

    fn add(&mut self, from: usize, to: usize) -> Result<()> {
        if from == to {
            return Ok(());
        }
        let Way::Recompute(kept) = &mut self.way else {
            let rows = rows(&self.lead, from, to)?;
            if let Some(present) = &mut self.present {
                *present += counting(&rows);
            }
            return self.accumulator.update_batch(&rows).map_err(failed);
        };
        kept.fresh = false;
        for start in (from..to).step_by(PIECE_ROWS) {
            let rows = PIECE_ROWS.min(to - start);
            // Copies: a slice would keep the whole batch in memory.
            let columns = self.lead.columns.iter().map(|column| copied_array(&column.slice(start, rows)));
            let columns: Vec<_> = columns.collect();
            let bytes = columns.iter().map(|column| column.get_array_memory_size()).sum::<usize>() + rows / 8 + 64;
            let mask = self.lead.mask.as_ref().map(|mask| mask.slice(start, rows));
            kept.bytes += bytes;
            kept.pieces.push_back(Piece { arguments: Arguments { columns, mask }, rows, gone: 0, bytes });
        }
        Ok(())
    }

    fn retract(&mut self, from: usize, to: usize) -> Result<()> {
        let Way::Recompute(kept) = &mut self.way else {
            let rows = rows(&self.trail, from, to)?;
            if let Some(present) = &mut self.present {
                *present -= counting(&rows);
                if *present == 0 {
                    self.accumulator = create(&self.expression, &self.way)?;
                    return Ok(());
                }
            }
            return self.accumulator.retract_batch(&rows).map_err(failed);
        };
        kept.fresh = false;
        let mut gone = to - from;
        while let Some(first) = kept.pieces.front_mut()
            && gone > 0
        {
            let taken = gone.min(first.rows - first.gone);
            first.gone += taken;
            gone -= taken;
            if first.gone == first.rows {
                kept.bytes -= first.bytes;
                kept.pieces.pop_front();
            }
        }
        Ok(())
    }

    fn push(&mut self) -> Result<()> {
        if let Way::Recompute(kept) = &mut self.way
            && !kept.fresh
        {
            let mut accumulator = self.expression.create_accumulator().map_err(failed)?;
            for piece in &kept.pieces {
                accumulator.update_batch(&rows(&piece.arguments, piece.gone, piece.rows)?).map_err(failed)?;
            }
            self.accumulator = accumulator;
            kept.fresh = true;
        }
        self.output.push(self.accumulator.evaluate().map_err(failed)?);
        Ok(())
    }

    fn output(&mut self) -> Result<ArrayRef> {
        let values = std::mem::take(&mut self.output);
        if values.is_empty() {
            return Ok(new_empty_array(self.expression.field().data_type()));
        }
        ScalarValue::iter_to_array(values).map_err(failed)
    }

    fn trails(&self) -> bool {
        matches!(self.way, Way::Retract)
    }

    fn bytes(&self) -> usize {
        let state = if self.grows { self.accumulator.size() * 3 / 2 } else { 0 };
        let kept = if let Way::Recompute(kept) = &self.way { kept.bytes } else { 0 };
        state + kept
    }
}
