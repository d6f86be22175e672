//! What a row costs in a hash join, on one core: 10,000,000 rows with 10,000,000 by a whole number, both sides in random
//! order, as one of eight partitions would see them.
//!
//! `cargo run --release -p aqueduct-operators --example join_speed [million rows]` prints seconds, and nanoseconds per row of
//! either side.

use std::sync::Arc;
use std::time::{Duration, Instant};

use aqueduct_operators::HashJoin;
use aqueduct_runtime::io::Io;
use aqueduct_runtime::memory::MemoryPool;
use aqueduct_runtime::spill::SpillDir;
use aqueduct_runtime::{Operator, OperatorContext, OperatorSpec, Outbox, Result, Step};
use arrow::array::{ArrayRef, Float64Array, Int64Array, StringViewArray};
use arrow::record_batch::RecordBatch;
use datafusion_common::{JoinType, NullEquality};

const BATCH_ROWS: usize = 8192;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let millions = std::env::args().nth(1).map_or(Ok(10), |text| text.parse::<usize>())?;
    // An eighth of the rows: each partition holds so many.
    let rows = millions * 1_000_000 / 8;
    let left = batches(["k", "t", "v"], rows, 7_919)?;
    let right = batches(["j", "u", "w"], rows, 104_729)?;
    for (name, join_type) in [("inner", JoinType::Inner), ("full", JoinType::Full), ("semi", JoinType::RightSemi)] {
        let keys = vec![(0, 0)];
        let join =
            HashJoin::try_new(left[0].schema(), right[0].schema(), keys, join_type, NullEquality::NullEqualsNothing)?;
        let mut operator = start(&join, &left[0], &right[0])?;
        let mut out = Outbox::new();
        let begin = Instant::now();
        let mut rows_out = 0;
        for batch in &left {
            let step = operator.process(0, batch.clone(), &mut out)?;
            rows_out += settle(operator.as_mut(), step, &mut out)?;
        }
        let step = operator.finish(0, &mut out)?;
        rows_out += settle(operator.as_mut(), step, &mut out)?;
        report(&format!("{name}, build"), begin.elapsed(), rows, rows_out);
        let begin = Instant::now();
        for batch in &right {
            let step = operator.process(1, batch.clone(), &mut out)?;
            rows_out += settle(operator.as_mut(), step, &mut out)?;
        }
        let step = operator.finish(1, &mut out)?;
        rows_out += settle(operator.as_mut(), step, &mut out)?;
        report(&format!("{name}, probe"), begin.elapsed(), rows, rows_out);
    }
    Ok(())
}

/// Rows whose keys are spread over `0..rows * 10 / 9`, so that one of ten finds nothing.
fn batches(names: [&str; 3], rows: usize, step: usize) -> Result<Vec<RecordBatch>, Box<dyn std::error::Error>> {
    let keys = rows * 10 / 9 + 1;
    let batch = |start: usize| {
        let range = start..rows.min(start + BATCH_ROWS);
        let key = |row: usize| (row * step % keys) as i64;
        let columns: [(&str, ArrayRef); 3] = [
            (names[0], Arc::new(Int64Array::from_iter_values(range.clone().map(key)))),
            (names[1], Arc::new(StringViewArray::from_iter_values(range.clone().map(|row| format!("id{}", key(row)))))),
            (names[2], Arc::new(Float64Array::from_iter_values(range.map(|row| row as f64 / 3.0)))),
        ];
        Ok(RecordBatch::try_from_iter(columns)?)
    };
    (0..rows).step_by(BATCH_ROWS).map(batch).collect()
}

fn start(join: &HashJoin, left: &RecordBatch, right: &RecordBatch) -> Result<Box<dyn Operator>> {
    let (io, _) = Io::start("speed", 1).map_err(aqueduct_runtime::OperatorError::other)?;
    let pool = MemoryPool::new(8 << 30);
    let spill = SpillDir::create(None, None, false).map_err(aqueduct_runtime::OperatorError::other)?;
    join.instantiate(OperatorContext {
        node: "join".into(),
        partition: 0,
        partitions: 1,
        inputs: vec![left.schema(), right.schema()],
        lanes: vec![1, 1],
        batch_bytes: 1 << 20,
        batch_rows: BATCH_ROWS,
        memory: pool.account("join"),
        spill: spill.space(io.clone(), MemoryPool::new(1 << 30).account("workspace")),
        io,
    })
}

/// Runs a step to where it needs input; the rows that came.
fn settle(operator: &mut dyn Operator, mut step: Step, out: &mut Outbox) -> Result<usize> {
    let mut rows = 0;
    loop {
        while let Some((_, batch)) = out.pop() {
            rows += batch.num_rows();
        }
        match step {
            Step::NeedInput | Step::Done => return Ok(rows),
            Step::MoreOutput => {}
            Step::Blocked(ticket) => ticket.wait(),
        }
        step = operator.resume(out)?;
    }
}

fn report(name: &str, time: Duration, rows: usize, rows_out: usize) {
    let (seconds, nanoseconds) = (time.as_secs_f64(), time.as_nanos() as f64 / rows as f64);
    println!("{name}: {seconds:.3} s, {nanoseconds:.1} ns a row, {rows_out} rows out so far");
}
