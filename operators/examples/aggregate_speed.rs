//! What a row costs in an aggregation.
//!
//! `cargo run --release -p aqueduct-operators --example aggregate_speed [million rows]` prints nanoseconds per row
//! on one core, of the mean of a float by a short string: for 100 keys, through the first half alone, and for
//! 6,000,000 distinct keys, through each half.
//!
//! `… --example aggregate_speed questions [million rows] [name …]` prints the seconds that the group-by questions of
//! the db-benchmark take on rows in memory and two workers of one thread; `sorted` is a median and a distinct
//! count by three keys.

#[path = "aggregate_speed/questions.rs"]
mod questions;

use std::sync::Arc;
use std::time::{Duration, Instant};

use aqueduct_operators::{Aggregate, FinalAggregate, PartialAggregate};
use aqueduct_runtime::io::Io;
use aqueduct_runtime::memory::MemoryPool;
use aqueduct_runtime::spill::SpillDir;
use aqueduct_runtime::{Operator, OperatorContext, OperatorSpec, Outbox, Result, Step};
use arrow::array::{ArrayRef, Float64Array, StringViewArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use datafusion_functions_aggregate::average::avg_udaf;
use datafusion_physical_expr::aggregate::AggregateExprBuilder;
use datafusion_physical_expr::expressions::col;

const BATCH_ROWS: usize = 16_384;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|first| first == "questions") {
        return questions::run(&arguments[1..]);
    }
    let millions = arguments.first().map_or(Ok(50), |text| text.parse::<usize>())?;
    let schema: SchemaRef = Arc::new(Schema::new(vec![
        Field::new("category", DataType::Utf8View, false),
        Field::new("value", DataType::Float64, false),
    ]));
    let mean = AggregateExprBuilder::new(avg_udaf(), vec![col("value", &schema)?])
        .schema(Arc::clone(&schema))
        .alias("mean")
        .build()?;
    let group = vec![(col("category", &schema)?, "category".to_string())];
    let aggregate = Arc::new(Aggregate::try_new(Arc::clone(&schema), group, vec![Arc::new(mean)])?);

    // 100 keys: as many different batches as keep the caches honest, again and again.
    let batches = batches(&schema, 64 * BATCH_ROWS, |row| format!("cat_{}", row % 100))?;
    let mut first = start(&PartialAggregate::new(Arc::clone(&aggregate)), Arc::clone(&schema))?;
    let rounds = millions * 1_000_000 / (64 * BATCH_ROWS);
    let begin = Instant::now();
    let mut groups = 0;
    for _ in 0..rounds.max(1) {
        for batch in &batches {
            groups += feed(first.as_mut(), batch)?.len();
        }
    }
    groups += finish(first.as_mut())?.iter().map(RecordBatch::num_rows).sum::<usize>();
    report("100 keys, first half", begin.elapsed(), rounds.max(1) * 64 * BATCH_ROWS, groups);

    let rows = 6_000_000;
    let distinct = self::batches(&schema, rows, |row| format!("k{}", row as u64 * 7_919 % 6_000_000))?;
    let mut first = start(&PartialAggregate::new(Arc::clone(&aggregate)), Arc::clone(&schema))?;
    let begin = Instant::now();
    let mut states = Vec::new();
    for batch in &distinct {
        states.extend(feed(first.as_mut(), batch)?);
    }
    states.extend(finish(first.as_mut())?);
    let state_rows = states.iter().map(RecordBatch::num_rows).sum();
    report("6,000,000 keys, first half", begin.elapsed(), rows, state_rows);

    let mut second = start(&FinalAggregate::new(Arc::clone(&aggregate)), aggregate.state_schema())?;
    let begin = Instant::now();
    for batch in &states {
        feed(second.as_mut(), batch)?;
    }
    report("6,000,000 keys, second half, merging", begin.elapsed(), state_rows, 0);
    let begin = Instant::now();
    let groups = finish(second.as_mut())?.iter().map(RecordBatch::num_rows).sum();
    report("6,000,000 keys, second half, emitting", begin.elapsed(), groups, groups);
    Ok(())
}

fn batches(schema: &SchemaRef, rows: usize, key: impl Fn(usize) -> String) -> Result<Vec<RecordBatch>> {
    (0..rows)
        .step_by(BATCH_ROWS)
        .map(|start| {
            let range = start..rows.min(start + BATCH_ROWS);
            let keys: ArrayRef = Arc::new(StringViewArray::from_iter_values(range.clone().map(&key)));
            let values: ArrayRef = Arc::new(Float64Array::from_iter_values(range.map(|row| (row % 1000) as f64)));
            Ok(RecordBatch::try_new(Arc::clone(schema), vec![keys, values])?)
        })
        .collect()
}

fn start(spec: &dyn OperatorSpec, input: SchemaRef) -> Result<Box<dyn Operator>, Box<dyn std::error::Error>> {
    let pool = MemoryPool::new(4 << 30);
    let (io, _threads) = Io::start("speed", 1)?;
    let spill = SpillDir::create(None, None, false)?.space(io.clone(), pool.account("workspace"));
    Ok(spec.instantiate(OperatorContext {
        node: "aggregate".into(),
        partition: 0,
        partitions: 1,
        inputs: vec![input],
        lanes: vec![1],
        batch_bytes: 1 << 20,
        batch_rows: BATCH_ROWS,
        memory: pool.account("state"),
        spill,
        io,
    })?)
}

fn feed(operator: &mut dyn Operator, batch: &RecordBatch) -> Result<Vec<RecordBatch>> {
    let mut out = Outbox::new();
    let step = operator.process(0, batch.clone(), &mut out)?;
    drive(operator, step, out)
}

fn finish(operator: &mut dyn Operator) -> Result<Vec<RecordBatch>> {
    let mut out = Outbox::new();
    let step = operator.finish(0, &mut out)?;
    drive(operator, step, out)
}

fn drive(operator: &mut dyn Operator, mut step: Step, mut out: Outbox) -> Result<Vec<RecordBatch>> {
    let mut batches = Vec::new();
    loop {
        batches.extend(std::iter::from_fn(|| out.pop().map(|(_, batch)| batch)));
        match step {
            Step::MoreOutput => step = operator.resume(&mut out)?,
            Step::Blocked(ticket) => {
                ticket.wait();
                step = operator.resume(&mut out)?;
            }
            Step::NeedInput | Step::Done => return Ok(batches),
        }
    }
}

fn report(what: &str, time: Duration, rows: usize, emitted: usize) {
    let nanoseconds = time.as_secs_f64() * 1e9 / rows.max(1) as f64;
    println!("{what}: {nanoseconds:.2} ns per row, {rows} rows in {time:.2?}, {emitted} emitted");
}
