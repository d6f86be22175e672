//! TPC-H: the 22 queries that databases are measured by, in SQL, over Parquet files.
//!
//! Run it with `cargo run --release --example tpch`. It makes the tables at scale factor 0.1 in the system's temporary
//! folder if they are not there. `-- DIR` names another folder, and `-- DIR 1` makes the tables there at scale factor 1,
//! which is a gigabyte of data as text. Add a memory limit for each of the two workers: `-- DIR 1 64MB`.
//!
//! It prints, for each query, its rows and its seconds, the most memory that the two workers held, and the bytes that
//! went to disk; then the first rows of the last query.

use std::error::Error;
use std::path::PathBuf;
use std::time::Instant;

use aqueduct::prelude::*;
use aqueduct::runtime::allocator::{self, CountingAllocator};
use aqueduct_tpch::{QUERIES, Table};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator::new();

fn main() -> Result<(), Box<dyn Error>> {
    let mut words = std::env::args().skip(1);
    let folder = words.next().map_or_else(|| std::env::temp_dir().join("aqueduct-tpch-0.1"), PathBuf::from);
    let scale: f64 = words.next().as_deref().unwrap_or("0.1").parse()?;
    let limit = words.next().unwrap_or_else(|| "1GB".into());
    aqueduct_tpch::write_parquet(&folder, scale)?;

    let cluster = LocalCluster::builder().workers(2).memory_limit(&limit).start()?;
    for table in Table::ALL {
        cluster.register_table(table.name(), &cluster.read_parquet(table.file(&folder))?)?;
    }
    println!("{} at 2 workers of {limit}\n", folder.display());
    println!("query     rows  seconds  peak MB  to disk MB");
    let all = Instant::now();
    for query in &QUERIES {
        allocator::reset_peak();
        let begin = Instant::now();
        let mut batches = cluster.sql(query.sql)?.stream()?;
        let mut rows = 0;
        for batch in batches.by_ref() {
            rows += batch?.num_rows();
        }
        let seconds = begin.elapsed().as_secs_f64();
        let to_disk: u64 = batches.job().metrics().workers.iter().map(|worker| worker.spilled_bytes).sum();
        let peak = allocator::peak_bytes();
        println!(
            "{:>5} {rows:>8} {seconds:>8.2} {:>8.1} {:>11.1}",
            query.number,
            peak as f64 / 1e6,
            to_disk as f64 / 1e6
        );
    }
    println!("all 22 in {:.2} s\n", all.elapsed().as_secs_f64());
    println!("{}", cluster.sql(QUERIES[21].sql)?.head(7)?);
    Ok(())
}
