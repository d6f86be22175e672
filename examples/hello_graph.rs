//! The smallest graph: a source of numbers, a closure over batches, a result that the program reads.
//!
//! Run it with `cargo run --example hello_graph`. It prints how the graph will run and then
//! `the squares below 1,000,000² add up to 333332833333500000`.

use aqueduct::arrow::array::{AsArray, RecordBatch};
use aqueduct::arrow::compute::{kernels::numeric::mul, sum};
use aqueduct::arrow::datatypes::Int64Type;
use aqueduct::operators::range;
use aqueduct::prelude::*;

#[global_allocator]
static ALLOCATOR: aqueduct::runtime::allocator::CountingAllocator =
    aqueduct::runtime::allocator::CountingAllocator::new();

fn main() -> aqueduct::Result<()> {
    let cluster = LocalCluster::builder().workers(2).memory_limit("64MB").start()?;

    let mut graph = Graph::new();
    let numbers = graph.source("numbers", range("n", Some(1_000_000)));
    let squares = graph.map("squares", numbers, |batch| {
        let squares = mul(batch.column(0), batch.column(0))?;
        Ok(RecordBatch::try_new(batch.schema(), vec![squares])?)
    });
    let result = graph.result("result", squares);
    println!("How the graph will run:\n{}", cluster.plan(&graph)?);

    let mut job = cluster.run(&graph)?;
    let mut total = 0;
    for batch in job.take_result(result).into_iter().flatten() {
        total += sum(batch?.column(0).as_primitive::<Int64Type>()).unwrap_or(0);
    }
    job.wait()?;
    println!("the squares below 1,000,000² add up to {total}");
    Ok(())
}
