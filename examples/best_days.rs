//! A join and windows over Parquet: the best days of each city, from the sales of its shops, within 2 x 32 MB.
//!
//! Run it with `cargo run --release --example best_days`, with `-- 50000000` for more sales than 2,000,000.
//!
//! It writes two tables as Parquet files, joins them, adds the sales up by city and day, ranks the days of each city and
//! takes the mean of the seven days up to each, and keeps the three best. It prints the plan, the answer, and what was
//! held in memory and went to disk. The files it made are removed in the end.

use std::error::Error;
use std::path::Path;
use std::sync::Arc;

use aqueduct::arrow::array::{ArrayRef, Date32Array, Int64Array, RecordBatch, StringViewArray};
use aqueduct::arrow::datatypes::{DataType, Field, Schema};
use aqueduct::operators::Generator;
use aqueduct::prelude::*;

#[global_allocator]
static ALLOCATOR: aqueduct::runtime::allocator::CountingAllocator =
    aqueduct::runtime::allocator::CountingAllocator::new();

const CITIES: [&str; 5] = ["Bergen", "Oslo", "Stavanger", "Tromsø", "Trondheim"];
const SHOPS: u64 = 500;

/// 1 January 2026, in days since 1970.
const FIRST_DAY: u64 = 20_454;

const BEST_DAYS: &str = "
    with daily as (
        select city, day, sum(cents) as cents from sales join shops on sales.shop = shops.number group by city, day
    ), ranked as (
        select city, day, cents / 100.0 as sales,
            rank() over (partition by city order by cents desc) as place,
            avg(cents) over (partition by city order by day rows between 6 preceding and current row) / 100 as week
        from daily
    )
    select city, place, day, sales, round(week, 2) as week from ranked where place <= 3 order by city, place, day";

fn main() -> Result<(), Box<dyn Error>> {
    let rows = match std::env::args().nth(1) {
        Some(number) => number.replace('_', "").parse().map_err(|_| format!("a number of sales, not `{number}`"))?,
        None => 2_000_000,
    };
    let folder = std::env::temp_dir().join(format!("aqueduct-best-days-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let done = run(&folder, rows);
    std::fs::remove_dir_all(&folder)?;
    done
}

fn run(folder: &Path, rows: u64) -> Result<(), Box<dyn Error>> {
    let cluster = LocalCluster::builder().workers(2).memory_limit("32MB").start()?;

    let (sales, shops) = (folder.join("sales.parquet"), folder.join("shops.parquet"));
    let written = cluster.from_source("sales", sales_table(rows))?.write_parquet(&sales)?;
    cluster.from_source("shops", shops_table())?.write_parquet(&shops)?;
    println!("{written} sales of {SHOPS} shops, {:.1} MB of Parquet\n", std::fs::metadata(&sales)?.len() as f64 / 1e6);

    cluster.register_table("sales", &cluster.read_parquet(&sales)?)?;
    cluster.register_table("shops", &cluster.read_parquet(&shops)?)?;
    let best = cluster.sql(BEST_DAYS)?;
    println!("{}\n", best.explain()?);
    println!("{}\n", best.compute()?);

    for (index, pool) in cluster.memory().iter().enumerate() {
        println!("worker {index} held {:.1} MB at the most; its limit is 32 MB", pool.peak() as f64 / 1e6);
    }
    Ok(())
}

/// Every sale: its day, its shop, and its amount.
fn sales_table(rows: u64) -> impl aqueduct::runtime::SourceSpec {
    let fields = [("day", DataType::Date32), ("shop", DataType::Int64), ("cents", DataType::Int64)];
    table(fields, rows, |row| {
        [
            Arc::new(Date32Array::from_iter_values(row.clone().map(|n| (FIRST_DAY + n * 31 % 365) as i32))),
            Arc::new(Int64Array::from_iter_values(row.clone().map(|n| (n * 7919 % SHOPS) as i64))),
            Arc::new(Int64Array::from_iter_values(row.map(|n| (n * 104_729 % 9973 + 27) as i64))),
        ]
    })
}

/// Every shop: its number, and its city.
fn shops_table() -> impl aqueduct::runtime::SourceSpec {
    table([("number", DataType::Int64), ("city", DataType::Utf8View)], SHOPS, |row| {
        let city = |n: u64| CITIES[((n * 3 + n / 7) % 5) as usize];
        [
            Arc::new(Int64Array::from_iter_values(row.clone().map(|n| n as i64))),
            Arc::new(StringViewArray::from_iter_values(row.map(city))),
        ]
    })
}

/// A source of `rows` rows, whose columns `make` makes for a range of them.
fn table<const N: usize>(
    fields: [(&str, DataType); N],
    rows: u64,
    make: impl Fn(std::ops::Range<u64>) -> [ArrayRef; N] + Send + Sync + 'static,
) -> impl aqueduct::runtime::SourceSpec {
    let field = |(name, kind): (&str, DataType)| Field::new(name, kind, false);
    let schema = Arc::new(Schema::new(fields.map(field).to_vec()));
    let batch_schema = Arc::clone(&schema);
    Generator::new(schema, Some(rows), move |offset, rows| {
        let columns = make(offset..offset + rows as u64);
        Ok(RecordBatch::try_new(Arc::clone(&batch_schema), columns.to_vec())?)
    })
}
