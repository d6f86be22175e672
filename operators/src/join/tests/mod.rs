//! Joins called by hand, compared with nested loops over scalar values.

mod asof;
mod filtered;
mod memory;
mod oracle;
mod random;
mod small;

use std::collections::VecDeque;
use std::sync::Arc;

use aqueduct_runtime::batch::{batch_bytes, copied};
use aqueduct_runtime::memory::{MemoryPool, hand_out};
use aqueduct_runtime::testing::context;
use aqueduct_runtime::{OperatorSpec, Outbox, Result, Step};
use arrow::array::{ArrayRef, Int64Array, StringArray, StringViewArray};
use arrow::datatypes::DataType;
use arrow::record_batch::RecordBatch;
use datafusion_common::{JoinSide, JoinType, NullEquality};

use super::{HashJoin, NestedLoopJoin};
use crate::expression::Expression;
use oracle::Oracle;

const ALL_TYPES: [JoinType; 10] = [
    JoinType::Inner,
    JoinType::Left,
    JoinType::Right,
    JoinType::Full,
    JoinType::LeftSemi,
    JoinType::LeftAnti,
    JoinType::LeftMark,
    JoinType::RightSemi,
    JoinType::RightAnti,
    JoinType::RightMark,
];

/// How a test runs a join.
#[derive(Debug, Clone, Copy)]
struct Run {
    batch_bytes: usize,
    batch_rows: usize,
    /// Bytes that the pool has beyond the floor; without, there is no floor, and plenty.
    floating_bytes: Option<usize>,
    /// Of how many steps one is followed by a call of `spill`; 0 for none.
    spill_every: usize,
}

impl Default for Run {
    fn default() -> Self {
        Run { batch_bytes: 64 << 10, batch_rows: 1000, floating_bytes: None, spill_every: 0 }
    }
}

struct Outcome {
    batches: Vec<RecordBatch>,
    spilled_bytes: u64,
    overruns: usize,
    /// Batches of each port that were read.
    read: [usize; 2],
    done: bool,
}

impl Outcome {
    fn rows(&self) -> usize {
        self.batches.iter().map(RecordBatch::num_rows).sum()
    }
}

/// Feeds a join as a task would.
fn run(spec: &dyn OperatorSpec, left: &[RecordBatch], right: &[RecordBatch], run: Run) -> Result<Outcome> {
    let schemas = [left[0].schema(), right[0].schema()];
    let (floor, limit) = match run.floating_bytes {
        Some(floating) => (spec.min_memory(run.batch_bytes), spec.min_memory(run.batch_bytes) + floating),
        None => (0, 1 << 30),
    };
    let pool = MemoryPool::new(limit);
    let context =
        context().pool(&pool).floor(floor).batch_bytes(run.batch_bytes).batch_rows(run.batch_rows).operator(&schemas);
    let spill = context.spill.clone();
    let output_schema = spec.output_schema(0, &schemas)?;
    let mut operator = spec.instantiate(context)?;
    let mut ports: [Option<VecDeque<RecordBatch>>; 2] =
        [left, right].map(|batches| Some(batches.iter().filter(|batch| batch.num_rows() > 0).cloned().collect()));
    let mut outcome = Outcome { batches: Vec::new(), spilled_bytes: 0, overruns: 0, read: [0; 2], done: false };
    let mut out = Outbox::new();
    let mut steps = 0;
    'input: while ports.iter().any(Option::is_some) {
        let ready = operator.ready();
        let port = (0..2).find(|port| ports[*port].is_some() && ready.contains(*port)).expect("a port that is ready");
        let mut step = match ports[port].as_mut().and_then(VecDeque::pop_front) {
            Some(batch) => {
                outcome.read[port] += 1;
                operator.process(port, copied(&batch), &mut out)?
            }
            None => {
                ports[port] = None;
                operator.finish(port, &mut out)?
            }
        };
        loop {
            while let Some((_, batch)) = out.pop() {
                assert_eq!(batch.schema(), output_schema);
                assert!(batch.num_rows() <= run.batch_rows.max(1), "{} rows in a batch", batch.num_rows());
                let bytes = batch_bytes(&batch);
                assert!(bytes <= 2 * run.batch_bytes || batch.num_rows() == 1, "{bytes} bytes in a batch");
                hand_out(&batch);
                outcome.batches.push(batch);
            }
            steps += 1;
            if run.spill_every > 0 && steps % run.spill_every == 0 {
                operator.spill(1 + steps * 7919 % 100_000)?;
            }
            match step {
                Step::NeedInput => break,
                Step::MoreOutput => {}
                Step::Blocked(ticket) => ticket.wait(),
                Step::Done => {
                    outcome.done = true;
                    break 'input;
                }
            }
            step = operator.resume(&mut out)?;
        }
    }
    drop(operator);
    // Probe rows that went to disk may share their texts with rows that were emitted.
    outcome.batches.iter().for_each(hand_out);
    outcome.spilled_bytes = spill.spilled_bytes();
    outcome.overruns = pool.overruns();
    // The values of a dictionary are shared by all that was copied from it.
    let shares =
        schemas.iter().any(|schema| schema.fields().iter().any(|f| matches!(f.data_type(), DataType::Dictionary(..))));
    assert!(shares || pool.charged() <= floor, "something is still reserved");
    Ok(outcome)
}

/// `batch` in pieces of `rows` rows; one that is empty if there are none.
fn pieces(batch: &RecordBatch, rows: usize) -> Vec<RecordBatch> {
    if batch.num_rows() == 0 {
        return vec![batch.clone()];
    }
    (0..batch.num_rows()).step_by(rows).map(|at| batch.slice(at, rows.min(batch.num_rows() - at))).collect()
}

fn hash_join(
    left: &RecordBatch,
    right: &RecordBatch,
    keys: usize,
    join_type: JoinType,
    build: JoinSide,
    nulls: NullEquality,
) -> HashJoin {
    let on = (0..keys).map(|key| (key, key)).collect();
    HashJoin::try_new(left.schema(), right.schema(), on, join_type, nulls).expect("fits").with_build(build)
}

/// Columns `k`, `n` and a text of either side.
fn table(names: [&str; 3], keys: Vec<Option<i64>>, text: impl Fn(usize) -> String) -> RecordBatch {
    let rows = keys.len();
    let numbers = Int64Array::from_iter_values(0..rows as i64);
    let texts: ArrayRef = if names[2] == "t" {
        Arc::new(StringViewArray::from_iter_values((0..rows).map(&text)))
    } else {
        Arc::new(StringArray::from_iter_values((0..rows).map(&text)))
    };
    RecordBatch::try_from_iter_with_nullable([
        (names[0], Arc::new(Int64Array::from(keys)) as ArrayRef, true),
        (names[1], Arc::new(numbers), true),
        (names[2], texts, true),
    ])
    .expect("columns of one length")
}

fn left_table(keys: Vec<Option<i64>>) -> RecordBatch {
    table(["k", "n", "t"], keys, |row| format!("the text of row {row}"))
}

fn right_table(keys: Vec<Option<i64>>) -> RecordBatch {
    table(["j", "m", "u"], keys, |row| format!("u{row}"))
}

fn assert_nothing_is_pinned(batches: &[RecordBatch]) {
    for batch in batches {
        let (pinned, own) = (batch.get_array_memory_size(), batch_bytes(batch));
        assert!(pinned <= 2 * own + 16_384 || batch.num_rows() < 100, "{pinned} bytes for {own}");
    }
}
