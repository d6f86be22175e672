//! Spilling: a group-by whose groups are many times larger than the memory that its workers may use.
//!
//! Run it with `cargo run --release --example spill`, with `-- 20000000` for more groups. Every row is a group of its
//! own, so nothing can be reduced: the state goes to disk and comes back, in pieces. It prints the number of groups,
//! the bytes that went to disk, and the most that the workers and the whole process held.

use std::error::Error;
use std::sync::Arc;

use aqueduct::arrow::array::{ArrayRef, Float64Array, RecordBatch, StringViewArray};
use aqueduct::arrow::datatypes::{DataType, Field, Schema};
use aqueduct::operators::Generator;
use aqueduct::prelude::*;
use aqueduct::runtime::allocator;

#[global_allocator]
static ALLOCATOR: allocator::CountingAllocator = allocator::CountingAllocator::new();

fn main() -> Result<(), Box<dyn Error>> {
    let groups = match std::env::args().nth(1) {
        Some(number) => number.replace('_', "").parse().map_err(|_| format!("a number of groups, not `{number}`"))?,
        None => 3_000_000,
    };
    let cluster = LocalCluster::builder().workers(2).memory_limit("16MB").start()?;

    let means = cluster.from_source("visits", visits(groups))?.group_by("visitor").mean("seconds");
    println!("{}\n", means.explain()?);

    let mut rows = means.stream()?;
    let mut counted = 0;
    for batch in rows.by_ref() {
        counted += batch?.num_rows();
    }
    let metrics = rows.job().metrics();
    let spilled: u64 = metrics.workers.iter().map(|worker| worker.spilled_bytes).sum();
    println!("{groups} rows make {counted} groups");
    println!("{:.1} MB of groups went to disk and came back", spilled as f64 / 1e6);
    for (index, worker) in metrics.workers.iter().enumerate() {
        let (peak, limit) = (worker.peak_bytes as f64 / 1e6, worker.limit_bytes as f64 / 1e6);
        println!("worker {index} held {peak:.1} MB at the most; its limit is {limit:.1} MB");
    }
    println!("all that the process had allocated was {:.1} MB at the most", allocator::peak_bytes() as f64 / 1e6);
    Ok(())
}

/// One visit of each visitor, in an order that no one could sort by.
fn visits(rows: u64) -> impl aqueduct::runtime::SourceSpec {
    let schema = Arc::new(Schema::new(vec![
        Field::new("visitor", DataType::Utf8View, false),
        Field::new("seconds", DataType::Float64, false),
    ]));
    let batch_schema = Arc::clone(&schema);
    Generator::new(schema, Some(rows), move |offset, rows| {
        let range = offset..offset + rows as u64;
        // An odd factor permutes the numbers, so that no two visitors have the same name.
        let names = range.clone().map(|row| format!("visitor {:016x}", row.wrapping_mul(0x9E37_79B9_7F4A_7C15)));
        let visitors: ArrayRef = Arc::new(StringViewArray::from_iter_values(names));
        let seconds: ArrayRef = Arc::new(Float64Array::from_iter_values(range.map(|row| (row % 1000) as f64)));
        Ok(RecordBatch::try_new(Arc::clone(&batch_schema), vec![visitors, seconds])?)
    })
}
