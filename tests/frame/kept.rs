//! Rows that are kept: caches of frames, tables that statements make, and what is left when they are gone.

use aqueduct::runtime::testing::{assert_no_threads_left, assert_within_limit, eventually};

use super::*;

/// Spill files that are there now.
pub(crate) fn spill_files(cluster: &LocalCluster) -> usize {
    let files = fs::read_dir(cluster.spill_path()).expect("the spill folder").flatten();
    files.filter(|file| file.path().extension().is_some_and(|extension| extension == "arrows")).count()
}

/// Nothing of a job is left, and no claim went over a limit.
#[track_caller]
pub(crate) fn assert_clean(cluster: &LocalCluster) {
    eventually("every reservation is given back", || cluster.memory().iter().all(|pool| pool.charged() == 0));
    assert_within_limit(cluster.memory());
    eventually("every spill file is gone", || spill_files(cluster) == 0);
}

/// Numbers, and how often a row of them was made.
fn counted(cluster: &LocalCluster, rows: u64) -> (Frame, Arc<std::sync::atomic::AtomicU64>) {
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
    let made = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&made);
    let numbers = cluster.from_source("numbers", range("n", Some(rows))).expect("a source");
    let counting = aqueduct::runtime::operator::Map::new("count", move |batch: RecordBatch| {
        count.fetch_add(batch.num_rows() as u64, Relaxed);
        Ok(batch)
    });
    (numbers.apply("count", counting), made)
}

#[test]
fn a_cached_frame_is_computed_once_and_read_from_disk() {
    timed(|| {
        for workers in WORKERS {
            let cluster = cluster(workers);
            let (numbers, made) = counted(&cluster, 200_000);
            let squares = numbers.with_column("square", col("n") * col("n")).cache().expect("cached");
            let computed = || made.load(std::sync::atomic::Ordering::Relaxed);
            assert_eq!(computed(), 200_000);
            assert!(spill_files(&cluster) > 0);
            // Nothing of it is in memory.
            assert!(cluster.memory().iter().all(|pool| pool.charged() == 0));
            assert_eq!(squares.count().expect("a count"), 200_000);
            assert_eq!(squares.head(3).expect("rows").i64s("square").expect("numbers"), [0, 1, 4].map(Some));
            let again = squares.filter(col("n").gt_eq(lit(199_999_i64))).compute().expect("a row");
            assert_eq!(again.i64s("square").expect("numbers"), [Some(199_999 * 199_999)]);
            let joined =
                squares.join(&squares.group_by(col("n") % lit(7_i64)).max("square"), "square", JoinType::Inner);
            assert_eq!(joined.count().expect("a count"), 7);
            assert_eq!(computed(), 200_000, "{workers} workers");
            // The rows are in the order that they were computed in.
            let rows = squares.compute().expect("rows").i64s("n").expect("numbers");
            assert!(rows.into_iter().eq((0..200_000).map(Some)));
            assert!(squares.explain().expect("a plan").contains("cached (store): n, square; 200000 rows"));
            let twice = squares.with_column("one", lit(1)).cache().expect("cached");
            drop((squares, joined));
            assert_eq!(twice.count().expect("a count"), 200_000);
            drop(twice);
            assert_clean(&cluster);
        }
    });
}

#[test]
fn what_was_regrouped_is_cached_by_all_partitions() {
    timed(|| {
        for workers in WORKERS {
            let cluster = cluster(workers);
            let numbers = cluster.from_source("numbers", range("n", Some(100_000))).expect("a source");
            let groups = numbers.group_by((col("n") % lit(1000_i64)).alias("k")).sum("n").cache().expect("cached");
            let table = groups.sort("k").compute().expect("rows");
            assert_eq!(table.num_rows(), 1000);
            assert_eq!(table.i64s("n").expect("sums")[0], Some((0..100).map(|i| 1000 * i).sum::<i64>()));
            let empty = numbers.filter(col("n").lt(lit(0_i64))).cache().expect("cached");
            assert_eq!((empty.count().expect("a count"), empty.schema().expect("a schema").fields().len()), (0, 1));
            drop((groups, empty));
            assert_clean(&cluster);
        }
    });
}

#[test]
fn a_cache_that_fails_leaves_nothing() {
    timed(|| {
        let cluster = cluster(2);
        let numbers = cluster.from_source("numbers", range("n", Some(1_000_000))).expect("a source");
        let text = case(col("n")).when(lit(900_000_i64), lit("nine")).otherwise(cast(col("n"), DataType::Utf8));
        let wrong = numbers.with_column("t", cast(text.expect("a case"), DataType::Int64));
        let error = wrong.cache().expect_err("a value that is no number").to_string();
        assert!(error.contains("nine") && error.contains("project"), "{error}");
        assert_clean(&cluster);
        let limited = LocalCluster::builder().workers(2).memory_limit("64MiB").spill_limit("1MB").progress(false);
        let limited = limited.start().expect("a cluster");
        let numbers = limited.from_source("numbers", range("n", Some(1_000_000))).expect("a source");
        let error = numbers.cache().expect_err("eight megabytes").to_string();
        assert!(error.contains("spill"), "{error}");
        assert_clean(&limited);
    });
}

#[test]
fn a_cluster_that_closes_takes_what_frames_still_keep() {
    timed(|| {
        let cluster = cluster(2);
        let numbers = cluster.from_source("numbers", range("n", Some(100_000))).expect("a source");
        let cached = numbers.cache().expect("cached");
        cluster.sql("create table t as select 1 as a").expect("a table");
        let folder = cluster.spill_path();
        assert_eq!(spill_files(&cluster), 2);
        cluster.close();
        assert!(!folder.exists(), "the spill folder is still there");
        let error = cached.count().expect_err("closed").to_string();
        assert!(error.contains("closed"), "{error}");
    });
    assert_no_threads_left();
}

#[test]
fn tables_and_inserts_keep_to_a_small_limit() {
    timed(|| {
        let cluster = LocalCluster::builder().workers(2).memory_limit("16MB").progress(false).start().expect("starts");
        let numbers = cluster.from_source("numbers", range("n", Some(1_000_000))).expect("a source");
        cluster.register_table("numbers", &numbers).expect("a table");
        let made = cluster.sql("create table t as select n, 'text of row ' || n as t, n % 10 as k from numbers");
        assert_eq!(
            made.and_then(|made| made.compute()).and_then(|made| made.i64s("count")).expect("a count"),
            [Some(1_000_000)]
        );
        assert!(cluster.memory().iter().all(|pool| pool.charged() == 0 && pool.overruns() == 0));
        // More inserts than there may be files.
        for round in 0..100 {
            cluster.sql(format!("insert into t values ({round}, 'x', 77)")).expect("inserted");
        }
        assert!(spill_files(&cluster) <= 70, "{}", spill_files(&cluster));
        let counts = cluster.sql("select k, count(*) as c, sum(n) as s from t group by k order by k");
        let counts = counts.and_then(|counts| counts.compute()).expect("rows");
        assert_eq!(counts.i64s("c").expect("counts").last(), Some(&Some(100)));
        assert_eq!(counts.i64s("s").expect("sums").last(), Some(&Some(4950)));
        assert_eq!(counts.i64s("c").expect("counts")[3], Some(100_000));
        cluster.sql("drop table t").expect("dropped");
        assert_clean(&cluster);
    });
}
