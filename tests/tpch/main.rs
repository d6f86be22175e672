//! The 22 queries of TPC-H at scale factor 0.01, against DuckDB's answers, value by value: without a limit, at two
//! workers of 128 MB, and at the smallest limit that admission accepts, there with memory asked back at random moments, too:
//! `AQUEDUCT_SEEDS` says for how many seeds.
//!
//! `bench/src/bin/tpch.rs` does the same at scale factor 1 and above, and prints what it takes.

use std::path::{Path, PathBuf};

use aqueduct::prelude::*;
use aqueduct::runtime::PlanError;
use aqueduct::runtime::allocator::{self, CountingAllocator};
use aqueduct::runtime::metrics::JobMetrics;
use aqueduct::runtime::testing::ForcedReclaim;
use aqueduct_tpch::{Answer, QUERIES, Query, Table};
use arrow::array::RecordBatch;

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator::new();

const SCALE: &str = "0.01";

/// The folder with the tables. Tests are processes of their own: whoever is first makes a file, and all others find it.
fn data() -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("tpch-0.01");
    aqueduct_tpch::write_parquet(&folder, SCALE.parse().expect("a number")).expect("there is room");
    folder
}

fn cluster(limit_bytes: Option<usize>) -> LocalCluster {
    let cluster = LocalCluster::builder().workers(2).threads_per_worker(1).progress(false);
    let cluster = match limit_bytes {
        Some(limit_bytes) => cluster.memory_limit_bytes(limit_bytes),
        None => cluster.memory_limit("4GiB"),
    };
    let cluster = cluster.start().expect("a cluster");
    let folder = data();
    for table in Table::ALL {
        let frame = cluster.read_parquet(table.file(&folder)).expect("it was written");
        cluster.register_table(table.name(), &frame).expect("a table");
    }
    cluster
}

/// Runs a query, compares its rows with the answer, and gives what the job has counted.
fn run(query: &Query, limit_bytes: Option<usize>) -> aqueduct::Result<JobMetrics> {
    run_on(&cluster(limit_bytes), query)
}

fn run_on(cluster: &LocalCluster, query: &Query) -> aqueduct::Result<JobMetrics> {
    let mut rows = cluster.sql(query.sql)?.stream()?;
    allocator::reset_peak();
    let batches = rows.by_ref().collect::<aqueduct::Result<Vec<RecordBatch>>>()?;
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tpch").join(SCALE);
    let answer = Answer::read(&golden.join(format!("q{}.csv", query.number))).expect("DuckDB answered");
    answer.check(rows.schema(), &batches, query.ordered_by).expect("as DuckDB answered");
    let metrics = rows.job().metrics();
    for worker in &metrics.workers {
        assert!(worker.peak_bytes <= worker.limit_bytes, "{} of {} bytes", worker.peak_bytes, worker.limit_bytes);
        assert_eq!(worker.overruns, 0);
    }
    assert_eq!(metrics.deadlocks, [""; 0]);
    Ok(metrics)
}

/// The smallest limit of each worker that admission accepts.
fn smallest_limit(query: &Query) -> usize {
    let mut limit_bytes = 1 << 20;
    loop {
        let refused = cluster(Some(limit_bytes)).sql(query.sql).and_then(|frame| frame.explain());
        match refused {
            Ok(_) => return limit_bytes,
            Err(Error::Plan(error)) => match *error {
                PlanError::LimitTooSmall { needed_bytes, .. } if needed_bytes > limit_bytes => {
                    limit_bytes = needed_bytes;
                }
                ref other => panic!("{other}"),
            },
            Err(error) => panic!("{error}"),
        }
    }
}

fn without_a_limit(query: &Query) {
    let metrics = run(query, None).expect("it runs");
    assert_eq!(metrics.nodes.iter().map(|node| node.spilled_bytes).sum::<u64>(), 0, "there was room");
    assert_eq!(metrics.edges.iter().map(|edge| edge.spooled_bytes).sum::<u64>(), 0, "there was room");
}

fn at_two_times_128_mb(query: &Query) {
    run(query, Some(128_000_000)).expect("it runs");
}

fn at_the_smallest_limit(query: &Query) {
    let limit_bytes = smallest_limit(query);
    // Whoever has made the tables holds what they were made of.
    let before = allocator::allocated_bytes();
    assert!(limit_bytes <= 64_000_000, "it needs {limit_bytes} bytes on each worker");
    run(query, Some(limit_bytes)).expect("what is admitted runs");
    // What the plan and the program itself take, beside what the workers hold.
    let bound = 2 * limit_bytes + 2 * limit_bytes / 10;
    let peak = allocator::peak_bytes().saturating_sub(before);
    assert!(peak <= bound, "{peak} bytes at two times {limit_bytes}");
}

/// At the smallest limit, with memory asked back all the time.
fn with_memory_asked_back_at_random(query: &Query) {
    let seeds = std::env::var("AQUEDUCT_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(1);
    let limit_bytes = smallest_limit(query);
    for seed in 0..seeds {
        let cluster = cluster(Some(limit_bytes));
        let forced = ForcedReclaim::start(&cluster, seed);
        run_on(&cluster, query).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        assert!(forced.requests() > 0, "nobody was asked");
    }
}

macro_rules! queries {
    ($($name:ident: $number:literal),*) => {
        $(mod $name {
            #[test]
            fn answers_as_duckdb_without_a_limit() {
                super::without_a_limit(&super::QUERIES[$number - 1]);
            }

            #[test]
            fn answers_as_duckdb_at_two_times_128_mb() {
                super::at_two_times_128_mb(&super::QUERIES[$number - 1]);
            }

            #[test]
            fn answers_as_duckdb_at_the_smallest_limit_that_is_admitted() {
                super::at_the_smallest_limit(&super::QUERIES[$number - 1]);
            }

            #[test]
            fn answers_as_duckdb_with_memory_asked_back_at_random() {
                super::with_memory_asked_back_at_random(&super::QUERIES[$number - 1]);
            }
        })*
    };
}

queries! {
    query_01: 1, query_02: 2, query_03: 3, query_04: 4, query_05: 5, query_06: 6, query_07: 7, query_08: 8,
    query_09: 9, query_10: 10, query_11: 11, query_12: 12, query_13: 13, query_14: 14, query_15: 15, query_16: 16,
    query_17: 17, query_18: 18, query_19: 19, query_20: 20, query_21: 21, query_22: 22
}
