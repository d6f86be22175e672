//! How fast one core scans CSV: reads a file with one instance and prints megabytes per second.
//!
//! `cargo run --release -p aqueduct-operators --example scan_csv -- FILE [COLUMN,COLUMN...] [INSTANCES]`

use std::time::Instant;

use aqueduct_operators::csv::{CsvOptions, CsvSource};
use aqueduct_runtime::io::Io;
use aqueduct_runtime::memory::MemoryPool;
use aqueduct_runtime::{Outbox, Scan, ScanContext, SourceContext, SourceSpec, SourceStep};

const BATCH_BYTES: usize = 1 << 20;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let file = arguments.next().ok_or("usage: scan_csv FILE [COLUMN,COLUMN...] [INSTANCES]")?;
    let mut source = CsvSource::open(&file, CsvOptions::default())?;
    if let Some(columns) = arguments.next().filter(|columns| columns != "all") {
        let schema = source.file_schema();
        let columns = columns.split(',').map(|name| schema.index_of(name)).collect::<Result<Vec<_>, _>>()?;
        source = source.with_projection(&columns)?;
    }
    let instances: usize = arguments.next().map_or(Ok(1), |n| n.parse())?;
    println!("{}: {:?}", source.detail(), source.schema().fields().iter().map(|f| f.data_type()).collect::<Vec<_>>());

    let pool = MemoryPool::new(1 << 30);
    let (io, threads) = Io::start("scan", 2)?;
    for _ in 0..3 {
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
        let seconds = begin.elapsed().as_secs_f64();
        let bytes = scan.total_bytes().unwrap_or_default() as f64;
        println!("{rows} rows in {seconds:.3} s: {:.0} MB/s per instance", bytes / 1e6 / seconds / instances as f64);
    }
    println!("peak memory accounted: {} bytes", pool.peak());
    drop(io);
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
