//! Memory truth: what the allocator saw beside what the accounts say, for every bundled operator.
//!
//! Drift is the allocator's peak above what was there before, over the most that the workers were charged. It is small
//! where an account pays for more than is there, as for floors that nobody fills, and above 1 where memory is used that
//! nobody pays for. `AQUEDUCT_ROWS=2000000` makes it a measurement:
//!
//! ```text
//! AQUEDUCT_ROWS=2000000 cargo nextest run --release --test drift --no-capture --run-ignored all
//! ```

use std::path::Path;

use aqueduct::operators::range;
use aqueduct::prelude::*;
use aqueduct::runtime::PlanError;
use aqueduct::runtime::allocator::{self, CountingAllocator};
use aqueduct::runtime::testing::assert_within_limit;

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator::new();

const ROWS: u64 = 60_000;
/// What a job takes beside its rows, whatever its limit: threads, plans, expressions, caches of libraries.
const SLACK_BYTES: usize = 2_500_000;

/// What is run, by name.
const QUERIES: [(&str, &str); 19] = [
    ("filter", "select * from t where n % 3 = 0"),
    ("project", "select n + 1 as m, concat(s, s) as ss, f * 2 as g from t"),
    ("limit", "select * from t limit 20000"),
    ("union", "select * from t union all select * from t"),
    ("unnest", "select s, unnest([n, n + 1, n + 2]) as m from t"),
    ("sort", "select * from t order by s, n"),
    ("first of a sort", "select * from t order by f desc, n limit 5000"),
    ("hash aggregate", "select n, count(*) as c, sum(f) as f, max(s) as s from t group by n"),
    ("distinct", "select distinct s, k from t"),
    ("grouping sets", "select k, s, count(*) as c, grouping(k) as g from t group by rollup(k, s)"),
    ("lists", "select n % 5000 as g, array_agg(n) as l from t group by n % 5000"),
    ("texts", "select n % 5000 as g, string_agg(s, ',' order by n) as l from t group by n % 5000"),
    ("sorted aggregate", "select k, median(f) as m, count(distinct s) as c from t group by k"),
    ("first of a group", "select k, first_value(s order by f) as s, last_value(f order by n) as f from t group by k"),
    ("hash join", "select a.n, a.s, b.f from t a join t b on a.n = b.n"),
    ("full join", "select a.n, b.s from t a full join t b on a.n = b.n + 1000"),
    ("nested loop join", "select count(*) as c from t a join (select * from t where n < 300) b on a.n < b.n"),
    ("window", "select n, s, sum(f) over (partition by k order by n) as f, rank() over (order by n) as r from t"),
    ("except all", "select n, s from t except all select n, s from t where n % 2 = 0"),
];

/// What is not a query.
const WORKS: [&str; 6] = ["as-of join", "csv sink", "csv source", "parquet sink", "parquet source", "cache"];

fn table(cluster: &LocalCluster, rows: u64) -> aqueduct::Result<Frame> {
    cluster.register_table("numbers", &cluster.from_source("numbers", range("n", Some(rows)))?)?;
    cluster.sql(
        "select n, n % 997 as k, concat('a text of some length ', cast(n % 7919 as varchar)) as s, cast(n as double) / 7 as f
         from numbers",
    )
}

fn drained(frame: &Frame) -> aqueduct::Result<()> {
    frame.stream()?.try_for_each(|batch| batch.map(drop))
}

fn work(cluster: &LocalCluster, name: &str, rows: u64, folder: &Path) -> aqueduct::Result<()> {
    let t = table(cluster, rows)?;
    if let Some((_, sql)) = QUERIES.iter().find(|(known, _)| *known == name) {
        cluster.register_table("t", &t)?;
        return drained(&cluster.sql(sql)?);
    }
    let (csv, parquet) = (folder.join("t.csv"), folder.join("t.parquet"));
    match name {
        "as-of join" => {
            let other = t.select([col("n"), col("f").alias("g")]).filter(col("n").gt(lit(10)));
            drained(&t.join_asof(&other, AsOf::backward("n"), JoinType::Left))
        }
        "csv sink" => t.write_csv(&csv).map(drop),
        "csv source" => drained(&cluster.read_csv(&csv)?),
        "parquet sink" => t.write_parquet(&parquet).map(drop),
        "parquet source" => drained(&cluster.read_parquet(&parquet)?),
        _ => drained(&t.cache()?),
    }
}

fn cluster(limit_bytes: usize) -> LocalCluster {
    let builder = LocalCluster::builder().workers(2).memory_limit_bytes(limit_bytes).progress(false);
    builder.without_dashboard().start().expect("a cluster")
}

/// Most bytes that were charged, and most that the allocator saw beyond what was there.
fn measured(name: &str, rows: u64, folder: &Path, limit_bytes: usize) -> aqueduct::Result<(usize, usize)> {
    let before = allocator::allocated_bytes();
    let cluster = cluster(limit_bytes);
    allocator::reset_peak();
    work(&cluster, name, rows, folder)?;
    let charged = cluster.memory().iter().map(|pool| pool.peak()).sum();
    assert_within_limit(cluster.memory());
    Ok((charged, allocator::peak_bytes().saturating_sub(before)))
}

/// The smallest limit that admission accepts.
fn smallest_limit(name: &str, folder: &Path) -> usize {
    let mut limit_bytes = 1 << 20;
    loop {
        match measured(name, 0, folder, limit_bytes) {
            Ok(_) => return limit_bytes,
            Err(Error::Plan(error) | Error::Execution(aqueduct::runtime::ExecutionError::Plan(error))) => {
                match *error {
                    PlanError::LimitTooSmall { needed_bytes, .. } if needed_bytes > limit_bytes => {
                        limit_bytes = needed_bytes
                    }
                    ref other => panic!("{name}: {other}"),
                }
            }
            Err(error) => panic!("{name}: {error}"),
        }
    }
}

#[test]
fn no_operator_takes_a_tenth_more_than_it_is_charged() {
    let rows = std::env::var("AQUEDUCT_ROWS").ok().and_then(|rows| rows.parse().ok()).unwrap_or(ROWS);
    let folder = tempfile::tempdir().expect("a folder");
    // Expressions and functions are made once for all.
    work(&cluster(1 << 30), "filter", 10, folder.path()).expect("it runs");
    println!("{:>18} {:>10} {:>12} {:>10} {:>6}", "operator", "limit MB", "charged MB", "real MB", "drift");
    let mut too_much = Vec::new();
    for name in QUERIES.iter().map(|(name, _)| *name).chain(WORKS) {
        let floor = smallest_limit(name, folder.path());
        for limit_bytes in [floor, 2 * floor, 8 * floor] {
            let (charged, real) = measured(name, rows, folder.path(), limit_bytes).expect(name);
            let drift = real as f64 / charged as f64;
            let [limit_mb, charged_mb, real_mb] = [2 * limit_bytes, charged, real].map(|bytes| bytes as f64 / 1e6);
            println!("{name:>18} {limit_mb:>10.1} {charged_mb:>12.1} {real_mb:>10.1} {drift:>6.2}");
            if real > charged + charged / 10 + SLACK_BYTES {
                too_much.push(format!("{name}: {real} bytes, {charged} charged"));
            }
        }
    }
    assert!(too_much.is_empty(), "{too_much:#?}");
}
