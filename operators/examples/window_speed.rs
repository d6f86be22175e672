//! What the first rows of each group cost, the rows being in memory already: the db-benchmark's question 8.
//!
//! Run with `cargo run --release -p aqueduct-operators --example window_speed -- [rows in millions] [thousand groups]
//! [rows wanted]`. For a float in a mixed order, one that grows and one that falls, it prints the seconds that two
//! workers of one thread take to number all rows and filter, and to leave out what they can before; how many rows are
//! sent; and what that costs alone. `… -- alone [rows in millions] [thousand groups] [rows wanted]` runs no more than the
//! last, in a mixed order, for a profiler.

use std::sync::Arc;
use std::time::Instant;

use aqueduct_operators::{Filter, MemorySource, TopPerGroup, Window, WindowFunction};
use aqueduct_runtime::testing::context;
use aqueduct_runtime::{Cluster, ClusterConfig, Graph, OperatorSpec, Outbox, Step};
use arrow::array::{ArrayRef, Float64Array, Int64Array};
use arrow::compute::SortOptions;
use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use datafusion_expr::{Operator, WindowFrame, WindowFunctionDefinition};
use datafusion_functions_window::row_number::row_number_udwf;
use datafusion_physical_expr::expressions::{binary, col, lit};

type Error = Box<dyn std::error::Error + Send + Sync>;

const BATCH_ROWS: u64 = 16_384;

fn main() -> Result<(), Error> {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let alone = arguments.first().is_some_and(|first| first == "alone");
    arguments.drain(..usize::from(alone));
    let mut numbers = arguments.iter().map(|text| text.parse::<u64>());
    let mut number = |default: u64| numbers.next().unwrap_or(Ok(default));
    let (rows, groups, wanted) = (number(10)? * 1_000_000, number(100)? * 1000, number(2)?);
    let mixed = |row: u64| mixed(row) as f64;
    if alone {
        return drop_rows(&batches(rows, groups, mixed)?, wanted as usize);
    }
    let orders: [(&str, &dyn Fn(u64) -> f64); 3] =
        [("mixed", &mixed), ("growing", &|row| row as f64), ("falling", &|row| -(row as f64))];
    for (name, value) in orders {
        println!("{name}, the largest {wanted} of {groups} groups of {rows} rows");
        let batches = batches(rows, groups, value)?;
        drop_rows(&batches, wanted as usize)?;
        for _ in 0..3 {
            number_rows(&batches, wanted, false)?;
            number_rows(&batches, wanted, true)?;
        }
    }
    Ok(())
}

/// A number that looks random.
fn mixed(row: u64) -> u64 {
    let product = u128::from(row ^ 0x9E37_79B9_7F4A_7C15) * 0xD6E8_FEB8_6659_FD93_1234_5678_9ABC_DEF1;
    ((product >> 64) as u64 ^ product as u64) >> 11
}

fn batches(rows: u64, groups: u64, value: impl Fn(u64) -> f64) -> Result<Vec<RecordBatch>, Error> {
    (0..rows)
        .step_by(BATCH_ROWS as usize)
        .map(|start| {
            let each = || start..rows.min(start + BATCH_ROWS);
            let keys = Int64Array::from_iter_values(each().map(|row| (mixed(row + rows) % groups) as i64));
            let values = Float64Array::from_iter_values(each().map(&value));
            Ok(RecordBatch::try_from_iter([("k", Arc::new(keys) as ArrayRef), ("v", Arc::new(values))])?)
        })
        .collect()
}

fn window(schema: &SchemaRef) -> Result<Window, Error> {
    let definition = WindowFunctionDefinition::WindowUDF(row_number_udwf());
    let function = WindowFunction::new(definition, vec![], WindowFrame::new(None), "number");
    let options = SortOptions { descending: true, nulls_first: false };
    let order = vec![aqueduct_operators::SortColumn { column: 1, options }];
    Ok(Window::try_new(Arc::clone(schema), vec![0], order, vec![function])?)
}

fn top(schema: &SchemaRef, wanted: usize) -> Result<TopPerGroup, Error> {
    Ok(window(schema)?.top(0, wanted).ok_or("it would be of no use")?)
}

/// One partition of the operator alone.
fn drop_rows(batches: &[RecordBatch], wanted: usize) -> Result<(), Error> {
    let schema = batches[0].schema();
    let spec = top(&schema, wanted)?;
    let context = context().memory_limit(4 << 30).floor(spec.min_memory(1 << 20)).batch_bytes(1 << 20);
    let mut operator = spec.instantiate(context.operator(&[schema]))?;
    let mut out = Outbox::new();
    let begin = Instant::now();
    let mut sent = 0;
    for batch in batches.iter().map(Some).chain([None]) {
        let mut step = match batch {
            Some(batch) => operator.process(0, batch.clone(), &mut out)?,
            None => operator.finish(0, &mut out)?,
        };
        loop {
            sent += std::iter::from_fn(|| out.pop()).map(|(_, batch)| batch.num_rows()).sum::<usize>();
            if !matches!(step, Step::MoreOutput) {
                break;
            }
            step = operator.resume(&mut out)?;
        }
    }
    let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
    let nanoseconds = begin.elapsed().as_secs_f64() * 1e9 / rows as f64;
    println!("  leaving rows out: {nanoseconds:.1} ns per row on one core, {sent} of {rows} are sent");
    Ok(())
}

/// The whole question.
fn number_rows(batches: &[RecordBatch], wanted: u64, first: bool) -> Result<(), Error> {
    let schema = batches[0].schema();
    let config = ClusterConfig { workers: 2, memory_limit_bytes: 8 << 30, ..ClusterConfig::default() };
    let cluster = Cluster::start(config)?;
    let window = window(&schema)?;
    let output = window.output_schema(0, &[Arc::clone(&schema)])?;
    let mut graph = Graph::new();
    let mut rows = graph.source("rows", MemorySource::new(Arc::clone(&schema), batches.to_vec()));
    if first {
        rows = graph.operator("top per group", top(&schema, wanted as usize)?, rows);
    }
    let numbered = graph.operator("window", window, rows.hash(["k"]));
    let chosen = binary(col("number", &output)?, Operator::LtEq, lit(wanted), &output)?;
    let filtered = graph.operator("filter", Filter::new(chosen), numbered);
    let result = graph.result("result", filtered.gather());
    let begin = Instant::now();
    let mut job = cluster.run(&graph)?;
    let mut found = 0;
    for batch in job.take_result(result).ok_or("the result was not taken before")? {
        found += batch?.num_rows();
    }
    let seconds = begin.elapsed().as_secs_f64();
    job.wait()?;
    let how = if first { "rows left out before" } else { "all rows numbered" };
    println!("  {how}: {seconds:.2} s, {found} rows");
    Ok(())
}
