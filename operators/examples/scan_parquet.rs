//! How fast Parquet is scanned: reads a file with some instances and prints seconds and rows.
//!
//! `cargo run --release -p aqueduct-operators --example scan_parquet -- FILE [COLUMN,COLUMN...|all] [INSTANCES]
//! [COLUMN<NUMBER]`

use std::time::Instant;

use aqueduct_operators::parquet::{ParquetOptions, ParquetSource};
use aqueduct_runtime::io::Io;
use aqueduct_runtime::memory::MemoryPool;
use aqueduct_runtime::{Outbox, Scan, ScanContext, SourceContext, SourceSpec, SourceStep};
use arrow::datatypes::DataType;
use datafusion_common::ScalarValue;
use datafusion_expr::Operator;
use datafusion_physical_expr::expressions::{binary, col, lit};

const BATCH_BYTES: usize = 1 << 20;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let file = arguments.next().ok_or("usage: scan_parquet FILE [COLUMN,...|all] [INSTANCES] [COLUMN<NUMBER]")?;
    let mut source = ParquetSource::open(&file, ParquetOptions::default())?;
    let schema = source.file_schema();
    if let Some(columns) = arguments.next().filter(|columns| columns != "all") {
        let columns = columns.split(',').map(|name| schema.index_of(name)).collect::<Result<Vec<_>, _>>()?;
        source = source.with_projection(&columns)?;
    }
    let instances: usize = arguments.next().map_or(Ok(1), |n| n.parse())?;
    if let Some(predicate) = arguments.next() {
        let (name, number) = predicate.split_once('<').ok_or("a predicate is COLUMN<NUMBER")?;
        let kind: &DataType = schema.field_with_name(name)?.data_type();
        let value = ScalarValue::try_from_string(number.to_string(), kind)?;
        source = source.with_predicate(binary(col(name, &schema)?, Operator::Lt, lit(value), &schema)?)?;
    }
    println!("{}, floor {} bytes", source.detail(), source.min_memory(BATCH_BYTES));

    let pool = MemoryPool::new(1 << 30);
    let (io, threads) = Io::start("scan", 2)?;
    for _ in 0..5 {
        let begin = Instant::now();
        let scan = source.scan(ScanContext { batch_bytes: BATCH_BYTES, partitions: instances })?;
        let rows = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..instances)
                .map(|partition| {
                    let (scan, pool, io) = (&*scan, &pool, io.clone());
                    scope.spawn(move || read(scan, pool, io, partition))
                })
                .collect();
            threads.into_iter().map(|t| t.join().expect("a reader panicked")).sum::<Result<u64, _>>()
        })?;
        println!("{rows} rows in {:.3} s", begin.elapsed().as_secs_f64());
    }
    println!("{:?}", source.counts());
    println!("peak memory accounted: {} bytes", pool.peak());
    io.stop();
    threads.into_iter().for_each(|thread| thread.join().expect("an I/O thread panicked"));
    Ok(())
}

/// Reads splits until there are none, and counts their rows.
fn read(scan: &dyn Scan, pool: &MemoryPool, io: Io, partition: usize) -> aqueduct_runtime::Result<u64> {
    let memory = pool.account("scan");
    let node = "scan".into();
    let mut source =
        scan.open(SourceContext { node, partition, batch_bytes: BATCH_BYTES, batch_rows: 65_536, memory, io })?;
    let mut rows = 0;
    while let Some(split) = scan.next_split()? {
        source.start(&split)?;
        loop {
            let mut out = Outbox::new();
            let step = source.read(BATCH_BYTES, &mut out)?;
            while let Some((_, batch)) = out.pop() {
                rows += batch.num_rows() as u64;
            }
            match step {
                SourceStep::More => {}
                SourceStep::Blocked(ticket) => ticket.wait(),
                SourceStep::Done => break,
            }
        }
    }
    Ok(rows)
}
