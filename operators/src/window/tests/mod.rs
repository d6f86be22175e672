//! Windows called by hand, compared with answers of DuckDB and with sums that are told by hand.

mod golden;
mod memory;
mod shapes;

use std::sync::Arc;

use aqueduct_runtime::batch::copied;
use aqueduct_runtime::memory::{MemoryPool, hand_out};
use aqueduct_runtime::state::SortColumn;
use aqueduct_runtime::testing::context;
use aqueduct_runtime::{Operator, OperatorSpec, Outbox, Result, Step};
use arrow::compute::{SortOptions, concat_batches};
use arrow::datatypes::{DataType, SchemaRef};
use arrow::record_batch::RecordBatch;
use datafusion_common::ScalarValue;
use datafusion_expr::{
    AggregateUDF, Operator as Op, WindowFrame, WindowFrameBound, WindowFrameUnits, WindowFunctionDefinition, WindowUDF,
};
use datafusion_functions_aggregate::all_default_aggregate_functions;
use datafusion_functions_window::all_default_window_functions;
use datafusion_physical_expr::expressions::{binary, cast, col, lit};

use super::{Window, WindowFunction};
use crate::expression::Expression;

fn aggregate(name: &str) -> Arc<AggregateUDF> {
    all_default_aggregate_functions().into_iter().find(|function| function.name() == name).expect("an aggregate")
}

pub(crate) fn window(name: &str) -> Arc<WindowUDF> {
    all_default_window_functions().into_iter().find(|function| function.name() == name).expect("a window function")
}

fn ascending(column: usize) -> SortColumn {
    SortColumn { column, options: SortOptions { descending: false, nulls_first: false } }
}

/// `rows_3p_2f`: units, and two ends of `unb`, `cur` or a number with `p` or `f`. Offsets have the type of `zero`.
fn frame(name: &str, offset: &dyn Fn(&str) -> ScalarValue) -> WindowFrame {
    let parts: Vec<_> = name.split('_').collect();
    let [units, low, high] = parts[..] else { panic!("{name} is no frame") };
    let units = match units {
        "rows" => WindowFrameUnits::Rows,
        "range" => WindowFrameUnits::Range,
        _ => WindowFrameUnits::Groups,
    };
    let end = |text: &str, starts: bool| match text {
        "cur" => WindowFrameBound::CurrentRow,
        "unb" if starts => WindowFrameBound::Preceding(ScalarValue::UInt64(None)),
        "unb" => WindowFrameBound::Following(ScalarValue::UInt64(None)),
        _ => {
            let (count, side) = text.split_at(text.len() - 1);
            if side == "p" {
                WindowFrameBound::Preceding(offset(count))
            } else {
                WindowFrameBound::Following(offset(count))
            }
        }
    };
    WindowFrame::new_bounds(units, end(low, true), end(high, false))
}

pub(crate) fn rows_frame(name: &str) -> WindowFrame {
    frame(name, &|count| ScalarValue::UInt64(Some(count.parse().expect("a number"))))
}

fn column(name: &str, schema: &SchemaRef) -> Expression {
    col(name, schema).expect("a column")
}

pub(crate) fn function(
    definition: impl Into<WindowFunctionDefinition>,
    arguments: Vec<Expression>,
    frame: WindowFrame,
) -> WindowFunction {
    WindowFunction::new(definition, arguments, frame, "w")
}

/// How a test runs a window.
#[derive(Clone, Copy)]
struct Run {
    batch_bytes: usize,
    batch_rows: usize,
    /// Bytes that the pool has beyond the floor.
    floating_bytes: usize,
    /// Whether it is told to spill after every step.
    force_spill: bool,
}

impl Default for Run {
    fn default() -> Self {
        Self { batch_bytes: 64 << 10, batch_rows: 8192, floating_bytes: 1 << 30, force_spill: false }
    }
}

struct Outcome {
    batches: Vec<RecordBatch>,
    spilled_bytes: u64,
    overruns: usize,
    floor_bytes: usize,
}

impl Outcome {
    fn rows(&self, window: &Window) -> RecordBatch {
        concat_batches(&window.shared.output, &self.batches).expect("one schema")
    }
}

fn run(window: &Window, input: &[RecordBatch], options: &Run) -> Result<Outcome> {
    let floor_bytes = window.min_memory(options.batch_bytes);
    let pool = MemoryPool::new(floor_bytes + options.floating_bytes);
    let context = context().pool(&pool).floor(floor_bytes);
    let context = context.batch_bytes(options.batch_bytes).batch_rows(options.batch_rows);
    let context = context.operator(&[Arc::clone(&window.shared.input)]);
    let spill = context.spill.clone();
    let mut operator = window.instantiate(context)?;
    let batches = drive(operator.as_mut(), input, options.force_spill)?;
    drop(operator);
    assert_eq!(pool.charged(), 0, "something is left");
    let spilled_bytes = spill.spilled_bytes();
    Ok(Outcome { batches, spilled_bytes, overruns: pool.overruns(), floor_bytes })
}

/// As a task does: what was given is nobody else's, what was emitted no longer the operator's.
pub(crate) fn drive(operator: &mut dyn Operator, input: &[RecordBatch], force_spill: bool) -> Result<Vec<RecordBatch>> {
    let mut out = Outbox::new();
    let mut emitted = Vec::new();
    let mut settle = |operator: &mut dyn Operator, mut step: Step, out: &mut Outbox| -> Result<()> {
        loop {
            while let Some((_, batch)) = out.pop() {
                hand_out(&batch);
                emitted.push(batch);
            }
            if force_spill {
                operator.spill(usize::MAX)?;
            }
            match step {
                Step::NeedInput | Step::Done => return Ok(()),
                Step::MoreOutput => {}
                Step::Blocked(ticket) => ticket.wait(),
            }
            step = operator.resume(out)?;
        }
    };
    for batch in input {
        let step = operator.process(0, copied(batch), &mut out)?;
        settle(operator, step, &mut out)?;
    }
    let step = operator.finish(0, &mut out)?;
    settle(operator, step, &mut out)?;
    Ok(emitted)
}
