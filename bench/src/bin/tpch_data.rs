//! Makes the tables of TPC-H as Parquet files.
//!
//! ```text
//! cargo run --release -p aqueduct-bench --bin tpch_data -- [-s SCALE] DIR
//! ```
//!
//! Scale factor 1 takes 10 seconds on two cores, and 350 MB. Files that are there stay as they are.

use std::path::PathBuf;
use std::time::Instant;

use aqueduct_tpch::{MakeError, Table, write_parquet};
use clap::Parser;

/// Makes the tables of TPC-H as Parquet files
#[derive(Parser)]
struct Options {
    /// Scale factor: 1 is 8,660,000 rows, 10 is ten times as many
    #[arg(short, long, default_value_t = 1.0)]
    scale: f64,
    /// Where the files go
    dir: PathBuf,
}

fn main() -> Result<(), MakeError> {
    let options = Options::parse();
    let begin = Instant::now();
    write_parquet(&options.dir, options.scale)?;
    let size = |table: &Table| std::fs::metadata(table.file(&options.dir)).map_or(0, |file| file.len());
    let bytes: u64 = Table::ALL.iter().map(size).sum();
    let seconds = begin.elapsed().as_secs_f64();
    println!("{} files in {}, {:.1} MB, {seconds:.1} s", Table::ALL.len(), options.dir.display(), bytes as f64 / 1e6);
    Ok(())
}
