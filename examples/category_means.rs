//! The main job, step by step: from one CSV file to an answer, on a local cluster, within its memory limit.
//!
//! Run it with `cargo run --release --example category_means`, with `-- --rows 50000000` for more rows, or with
//! `-- --input FILE` for a file of your own that has the columns `category` and `value`.
//!
//! It prints the schema of the file, its first rows, the number of partitions, the plan, and the categories whose
//! mean value is above 500: 49 of them for the file it makes.

use std::fmt;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use aqueduct::prelude::*;

#[global_allocator]
static ALLOCATOR: aqueduct::runtime::allocator::CountingAllocator =
    aqueduct::runtime::allocator::CountingAllocator::new();

fn main() -> ExitCode {
    aqueduct::init_tracing();
    match Arguments::parse().and_then(|arguments| run(&arguments)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), Box<dyn std::error::Error>> {
    println!("1. Start a cluster in this process");
    let cluster = LocalCluster::builder().workers(4).threads_per_worker(1).memory_limit("2GB").start()?;
    println!("   4 workers, 1 thread and 2 GB each");
    match cluster.dashboard_link() {
        Some(link) => println!("   to watch it: open {link} in a browser"),
        None => println!("   to watch it: no port is free for the dashboard"),
    }
    println!("   a progress bar shows the job on a terminal, AQUEDUCT_LOG=info logs what it does\n");

    println!("2. Find the data");
    let data = Data::find_or_make(arguments)?;
    println!("   {data}\n");

    println!("3. Read it, lazily");
    let frame = cluster.read_csv(&data.path)?;
    println!("   schema:");
    for field in frame.schema()?.fields() {
        println!("     {}: {}", field.name(), field.data_type());
    }
    println!("   first rows:\n{}", frame.head(5)?);
    println!("   partitions: {}\n", frame.npartitions()?);

    println!("4. Say what is wanted: the mean value of each category, where it is above 500");
    let means = frame.group_by(["category"]).mean("value").filter(col("value").gt(lit(500.0)));
    println!("{}\n", means.explain()?);

    println!("5. Compute it");
    let start = Instant::now();
    let answer = means.compute()?;
    println!("{answer}");
    println!("   {} categories in {:.2} s\n", answer.num_rows(), start.elapsed().as_secs_f64());

    println!("6. Close the cluster");
    let start = Instant::now();
    cluster.close();
    println!("   closed in {} ms", start.elapsed().as_millis());
    Ok(())
}

/// What was asked for on the command line.
struct Arguments {
    rows: u64,
    input: Option<PathBuf>,
}

impl Arguments {
    fn parse() -> Result<Self, Box<dyn std::error::Error>> {
        let mut arguments = Self { rows: 1_000_000, input: None };
        let mut words = std::env::args_os().skip(1);
        while let Some(word) = words.next() {
            let value = words.next().ok_or("usage: category_means [--rows N] [--input FILE]")?;
            match word.to_str() {
                Some("--rows") => {
                    let rows = value.to_string_lossy().replace('_', "");
                    arguments.rows = rows.parse().map_err(|_| format!("--rows takes a number, not `{rows}`"))?;
                }
                Some("--input") => arguments.input = Some(value.into()),
                _ => return Err(format!("unknown option {}", word.to_string_lossy()).into()),
            }
        }
        Ok(arguments)
    }
}

/// The file to read. One that was made here is removed in the end, one that was there is not.
struct Data {
    path: PathBuf,
    made: bool,
}

impl Data {
    fn find_or_make(arguments: &Arguments) -> io::Result<Self> {
        let path = match &arguments.input {
            Some(path) => return Ok(Self { path: path.clone(), made: false }),
            None => PathBuf::from("large_data.csv"),
        };
        if path.exists() {
            return Ok(Self { path, made: false });
        }
        let data = Self { path, made: true };
        write_rows(&data.path, arguments.rows)?;
        Ok(data)
    }
}

impl fmt::Display for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())?;
        // A pattern such as `logs/*.csv` is not a file; whether it matches any is found out when it is read.
        if let Ok(file) = std::fs::metadata(&self.path) {
            write!(f, ", {:.1} MB", file.len() as f64 / 1e6)?;
        }
        f.write_str(if self.made { ", made for this run and removed in the end" } else { "" })
    }
}

impl Drop for Data {
    fn drop(&mut self) {
        if self.made {
            // Nothing more can be done about a file that does not go.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn write_rows(path: &Path, rows: u64) -> io::Result<()> {
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
    writeln!(file, "id,category,value")?;
    for row in 0..rows {
        writeln!(file, "{row},cat_{},{}.0", row % 100, row % 1000)?;
    }
    file.flush()
}
