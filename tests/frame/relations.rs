//! Joins, orders, windows and summaries of frames, over 1, 2 and 8 partitions.

use aqueduct::functions::{lag, rank};
use aqueduct::runtime::operator::Map;

use super::*;

fn sales(cluster: &LocalCluster) -> Frame {
    let rows = "(1, 'a', 10), (2, 'b', null), (3, 'a', 30), (4, null, 40), (5, 'c', 10)";
    cluster.sql(format!("select * from (values {rows}) as t(id, k, v)")).expect("a frame")
}

fn labels(cluster: &LocalCluster) -> Frame {
    cluster.sql("select * from (values ('a', 'one', 1), ('b', 'two', 2), ('d', 'four', 4), (null, 'none', 0)) as t(k, label, id)").expect("a frame")
}

fn names(frame: &Frame) -> Vec<String> {
    frame.schema().expect("a good frame").fields().iter().map(|field| field.name().clone()).collect()
}

fn texts(table: &Table, column: &str) -> Vec<String> {
    let values = table.strings(column).expect("texts").into_iter();
    values.map(|value| value.unwrap_or_else(|| "null".into())).collect()
}

#[test]
fn a_join_has_each_key_once_and_no_two_columns_of_one_name() {
    timed(|| {
        for workers in WORKERS {
            let cluster = cluster(workers);
            let (sales, labels) = (sales(&cluster), labels(&cluster));
            let of = |how| sales.join(&labels, "k", how).sort(["id", "k"]);
            assert_eq!(names(&of(JoinType::Inner)), ["id", "k", "v", "label", "id_right"]);
            assert_eq!(ids(&of(JoinType::Inner).compute().expect("rows")), [1, 2, 3]);
            let left = of(JoinType::Left).compute().expect("rows");
            assert_eq!(texts(&left, "label"), ["one", "two", "one", "null", "null"], "{workers} workers");
            let full = of(JoinType::Full).compute().expect("rows");
            assert_eq!(texts(&full, "k"), ["a", "b", "a", "null", "c", "d", "null"]);
            let right = of(JoinType::Right).compute().expect("rows");
            assert_eq!(texts(&right, "k"), ["a", "b", "a", "d", "null"]);
            assert_eq!(ids(&of(JoinType::LeftSemi).compute().expect("rows")), [1, 2, 3]);
            assert_eq!(ids(&of(JoinType::LeftAnti).compute().expect("rows")), [4, 5]);
            assert_eq!(names(&of(JoinType::LeftAnti)), ["id", "k", "v"]);
            assert_eq!(sales.cross_join(&labels).count().expect("a count"), 20);
            let by_number = sales.join_on(&labels, col("id") + lit(1), "id", JoinType::Inner);
            assert_eq!(by_number.count().expect("a count"), 2);
            assert_eq!(sales.join(&sales, "id", JoinType::Inner).count().expect("a count"), 5);
        }
    });
}

#[test]
fn a_join_that_makes_no_sense_is_named() {
    let cluster = cluster(1);
    let (sales, labels) = (sales(&cluster), labels(&cluster));
    let error = |frame: Frame| frame.schema().expect_err("a wrong step").to_string();
    let text = error(sales.join(&labels, "v", JoinType::Inner));
    assert!(text.starts_with("join: ") && text.contains("`v`") && text.contains("`label`"), "{text}");
    assert!(error(sales.join_on(&labels, ["k", "v"], "k", JoinType::Inner)).contains("2 and 1"));
    assert!(error(sales.join(&labels, "k", JoinType::LeftMark)).contains("mark"));
}

#[test]
fn rows_are_sorted_whatever_the_memory() {
    timed(|| {
        let (folder, path) = large_data(200_000);
        for workers in WORKERS {
            let cluster = LocalCluster::builder().workers(workers).memory_limit("24MB").progress(false).start();
            let cluster = cluster.expect("a small cluster");
            let frame = cluster.read_csv(&path).expect("a CSV file");
            let sorted = frame.sort([asc("value"), desc("id")]).compute().expect("rows");
            let mut expected: Vec<i64> = (0..200_000).collect();
            expected.sort_by_key(|id| (id % 1000, -id));
            assert_eq!(ids(&sorted), expected, "{workers} workers");
            assert_eq!(ids(&frame.nlargest(3, ["value", "id"]).compute().expect("rows")), [199_999, 198_999, 197_999]);
            assert_eq!(ids(&frame.tail(2).expect("rows")), [199_998, 199_999]);
            // What is written after a sort is in its order, and so is what is read back.
            let written = folder.path().join(format!("sorted-{workers}.parquet"));
            frame.sort(desc("id")).limit(1000).write_parquet(&written).expect("a file");
            let back = cluster.read_parquet(&written).expect("a Parquet file");
            assert_eq!(ids(&back.compute().expect("rows")), (199_000..200_000).rev().collect::<Vec<_>>());
            let few = back.filter(col("id").gt(lit(199_990))).select("id");
            assert!(few.explain().expect("a plan").contains("where id"), "the filter is not in the scan");
            assert_eq!(few.count().expect("a count"), 9);
        }
    });
}

#[test]
fn windows_are_columns_among_others() {
    timed(|| {
        for workers in WORKERS {
            let cluster = cluster(workers);
            let sales = sales(&cluster);
            let with = sales
                .with_column("total", sum(col("v")).over("k"))
                .with_column("place", rank().over_sorted([] as [&str; 0], desc("v")))
                .with_column("before", lag(col("id"), Some(1), None).over_sorted("k", "id"))
                .select([
                    col("id"),
                    col("total"),
                    col("place"),
                    col("before"),
                    (col("v") - avg(col("v")).over("k")).alias("off"),
                ]);
            let table = with.sort("id").compute().expect("rows");
            assert_eq!(table.i64s("total").expect("numbers"), [Some(40), None, Some(40), Some(40), Some(10)]);
            assert_eq!(table.i64s("place").expect("numbers"), [3, 5, 2, 1, 3].map(Some), "{workers} workers");
            assert_eq!(table.i64s("before").expect("numbers"), [None, None, Some(1), None, None]);
            assert_eq!(table.f64s("off").expect("numbers"), [Some(-10.0), None, Some(10.0), Some(0.0), Some(0.0)]);
        }
    });
}

#[test]
fn summaries_are_those_of_a_calculator() {
    timed(|| {
        let (_folder, path) = large_data(10_000);
        for workers in WORKERS {
            let cluster = cluster(workers);
            let frame = cluster.read_csv(&path).expect("a CSV file");
            let described = frame.describe().compute().expect("statistics");
            assert_eq!(texts(&described, "statistic"), ["count", "mean", "std", "min", "25%", "50%", "75%", "max"]);
            let ids = described.f64s("id").expect("numbers");
            let of = |row: usize| ids[row].expect("no nulls");
            assert_eq!((of(0), of(1), of(3), of(5), of(7)), (10_000.0, 4999.5, 0.0, 4999.5, 9999.0));
            let counts = frame.value_counts("category").compute().expect("counts");
            assert!(counts.i64s("count").expect("numbers").into_iter().all(|count| count == Some(100)));
            assert_eq!(texts(&counts, "category")[1], "cat_1");
            assert_eq!(frame.nunique("value").expect("a count"), 1000);
            assert_eq!(frame.drop_duplicates("category").count().expect("a count"), 100);
            assert_eq!(sales(&cluster).drop_nulls(["k", "v"]).count().expect("a count"), 3);
        }
    });
}

#[test]
fn operators_of_ones_own_see_the_rows_of_a_key_together() {
    timed(|| {
        let (_folder, path) = large_data(10_000);
        for workers in WORKERS {
            let cluster = cluster(workers);
            let frame = cluster.read_csv(&path).expect("a CSV file");
            let kept = frame.apply_by("as it is", "category", Map::new("same", Ok));
            assert_eq!(kept.group_by("category").size().count().expect("a count"), 100);
            assert_eq!(kept.filter(col("id").lt(lit(10))).count().expect("a count"), 10);
            assert_eq!(frame.repartition_by("category", 3).npartitions().expect("a number"), 3);
            assert_eq!(frame.repartition_by("category", 3).count().expect("a count"), 10_000);
            let wrong = frame.apply_by("wrong", col("id") % lit(2), Map::new("same", Ok)).count();
            assert!(wrong.expect_err("no column").to_string().contains("with_column"));
        }
    });
}

#[test]
fn a_join_by_the_nearest_time_takes_one_row_of_the_other_frame() {
    timed(|| {
        for workers in WORKERS {
            let cluster = cluster(workers);
            let trades = "(1, 'a', 10), (2, 'a', 20), (3, 'b', 5), (4, null, 10), (5, 'a', null)";
            let trades = cluster.sql(format!("select * from (values {trades}) as t(id, k, t)")).expect("a frame");
            let quotes = "(1, 'a', 10), (2, 'a', 15), (3, 'b', 7), (4, 'a', 25), (5, null, 1), (6, 'a', null)";
            let quotes = cluster.sql(format!("select * from (values {quotes}) as t(id, k, t)")).expect("a frame");
            let of = |as_of, how| trades.join_asof(&quotes, as_of, how).sort("id").compute().expect("rows");
            let last = of(AsOf::backward("t").by("k"), JoinType::Left);
            let names: Vec<_> = last.schema().fields().iter().map(|field| field.name().clone()).collect();
            assert_eq!(names, ["id", "k", "t", "id_right", "t_right"]);
            let right = |table: &Table| table.i64s("id_right").expect("numbers");
            assert_eq!(right(&last), [Some(1), Some(2), None, None, None], "{workers} workers");
            let before = of(AsOf::backward("t").by("k").strict(), JoinType::Inner);
            assert_eq!((ids(&before), right(&before)), (vec![2], vec![Some(2)]));
            let next = of(AsOf::forward("t").by("k"), JoinType::Inner);
            assert_eq!((ids(&next), right(&next)), (vec![1, 2, 3], vec![Some(1), Some(4), Some(3)]));
            // Without keys, and with times and keys that are expressions of other types and names.
            let any = of(AsOf::backward("t"), JoinType::Inner);
            assert_eq!((ids(&any), right(&any)), (vec![1, 2, 3, 4], vec![Some(1), Some(2), Some(5), Some(1)]));
            let other = quotes.select([col("id"), upper(col("k")).alias("stock"), (col("t") * lit(1.0)).alias("at")]);
            let as_of = AsOf::backward(col("t") + lit(1)).right_time("at").by_on(upper(col("k")), "stock");
            let shifted = trades.join_asof(&other, as_of, JoinType::Inner).sort("id").compute().expect("rows");
            assert_eq!((ids(&shifted), right(&shifted)), (vec![1, 2], vec![Some(1), Some(2)]));
            assert_eq!(shifted.num_columns(), 6);
            // Columns that nobody asks for are left behind.
            let few = trades.join_asof(&quotes, AsOf::forward("t").by("k"), JoinType::Left).select("id_right");
            assert_eq!(few.count().expect("a count"), 5);
            assert_eq!(
                few.sort("id_right").compute().expect("rows").i64s("id_right").expect("numbers")[..2],
                [Some(1), Some(3)]
            );
        }
    });
}

/// As DuckDB says: there is one zero, and every NaN is the same and larger than all numbers.
#[test]
fn a_join_by_the_nearest_float_knows_one_zero_and_one_nan() {
    timed(|| {
        let cluster = cluster(2);
        let frame = |keys: &[f64], times: &[f64]| {
            let batch = RecordBatch::try_from_iter([
                ("id", Arc::new(Int64Array::from_iter_values(1..=keys.len() as i64)) as ArrayRef),
                ("k", Arc::new(Float64Array::from(keys.to_vec()))),
                ("t", Arc::new(Float64Array::from(times.to_vec()))),
            ])
            .expect("columns of one length");
            cluster.from_batches(batch.schema(), vec![batch]).expect("a frame")
        };
        let right = |left: &Frame, right: &Frame, as_of| {
            let joined = left.join_asof(right, as_of, JoinType::Left).sort("id").compute().expect("rows");
            joined.i64s("id_right").expect("numbers")
        };
        let nan = f64::NAN;
        let (left, other) = (frame(&[0.0, -0.0, nan], &[1.0, 2.0, 3.0]), frame(&[-0.0, 0.0, -nan], &[1.0, 0.0, 1.0]));
        assert_eq!(right(&left, &other, AsOf::backward("t").by("k")), [Some(1), Some(1), Some(3)]);
        let left = frame(&[1.0; 5], &[0.0, -0.0, nan, 1.0, f64::INFINITY]);
        let other = frame(&[1.0; 4], &[-0.0, 0.5, -nan, f64::INFINITY]);
        for (as_of, expected) in [
            (AsOf::backward("t"), [Some(1), Some(1), Some(3), Some(2), Some(4)]),
            (AsOf::backward("t").strict(), [None, None, Some(4), Some(2), Some(2)]),
            (AsOf::forward("t"), [Some(1), Some(1), Some(3), Some(4), Some(4)]),
            (AsOf::forward("t").strict(), [Some(2), Some(2), None, Some(4), Some(3)]),
        ] {
            assert_eq!(right(&left, &other, as_of.clone()), expected, "{as_of:?}");
            assert_eq!(right(&left, &other, as_of.by("k")), expected);
        }
    });
}

#[test]
fn a_join_by_the_nearest_time_that_makes_no_sense_is_named() {
    let cluster = cluster(1);
    let (sales, labels) = (sales(&cluster), labels(&cluster));
    let error = |frame: Frame| frame.schema().expect_err("a wrong step").to_string();
    let text = error(sales.join_asof(&labels, AsOf::backward("v"), JoinType::Left));
    assert!(text.starts_with("join_asof: ") && text.contains("`v`") && text.contains("`label`"), "{text}");
    assert!(
        error(sales.join_asof(&labels, AsOf::backward("id").by_on(["k", "v"], "k"), JoinType::Left))
            .contains("2 and 1")
    );
    assert!(error(sales.join_asof(&labels, AsOf::backward("id").by("k"), JoinType::Full)).contains("inner or left"));
}

/// Rows of the larger side whose key the smaller one does not have are left out where they are read: no answer changes.
#[test]
fn what_a_join_holds_filters_the_other_side_s_scan_and_changes_nothing() {
    timed(|| {
        let folder = tempfile::tempdir().expect("a folder");
        let (few, many) = (folder.path().join("few.csv"), folder.path().join("many.csv"));
        let rows = |rows: usize, key: &dyn Fn(usize) -> String| -> String {
            std::iter::once("k,n\n".to_string()).chain((0..rows).map(|row| format!("{},{row}\n", key(row)))).collect()
        };
        fs::write(&few, rows(300, &|row| if row % 50 == 9 { String::new() } else { (row * 100).to_string() }))
            .expect("a file");
        fs::write(&many, rows(40_000, &|row| if row % 7 == 6 { String::new() } else { (row % 20_000).to_string() }))
            .expect("a file");
        for workers in WORKERS {
            let cluster = cluster(workers);
            let read = |path: &Path| cluster.read_csv(path).expect("a CSV file");
            let parquet = folder.path().join("many.parquet");
            read(&many).write_parquet(&parquet).expect("written");
            for many in [read(&many), cluster.read_parquet(&parquet).expect("a Parquet file")] {
                let few = read(&few);
                let explained = |frame: &Frame| frame.explain().expect("a plan").to_string();
                // Of the 200 keys up to 20,000 one in 50 is null; each other one is twice among the many, null sometimes.
                let held: Vec<usize> = (0..200).filter(|row| row % 50 != 9).map(|row| row * 100).collect();
                let twice = |key: usize| [key, key + 20_000].into_iter().filter(|row| row % 7 != 6).count();
                let pairs: usize = held.iter().map(|key| twice(*key)).sum();
                let without: usize = held.iter().filter(|key| twice(**key) == 0).count();
                let inner = many.join(&few, "k", JoinType::Inner);
                assert!(explained(&inner).contains("held by the join"), "{}", explained(&inner));
                for _ in 0..2 {
                    assert_eq!(inner.count().expect("a count"), pairs as u64);
                }
                assert_eq!(few.join(&many, "k", JoinType::Inner).count().expect("a count"), pairs as u64);
                let left = few.join(&many, "k", JoinType::Left);
                assert!(explained(&left).contains("held by the join"));
                assert_eq!(left.count().expect("a count"), (pairs + without + 104) as u64);
                assert_eq!(many.join(&few, "k", JoinType::LeftSemi).count().expect("a count"), pairs as u64);
                let anti = many.join(&few, "k", JoinType::LeftAnti);
                assert!(!explained(&anti).contains("held by the join"));
                assert_eq!(anti.count().expect("a count"), 40_000 - pairs as u64);
                let full = many.join(&few, "k", JoinType::Full);
                assert!(!explained(&full).contains("held by the join"));
                // Through other steps, but not where others see the rows, too.
                let sums = many.filter(col("n").gt_eq(lit(0))).group_by("k").agg([sum(col("n")).alias("s")]);
                let joined = sums.join(&few, "k", JoinType::Inner);
                assert!(explained(&joined).contains("held by the join"));
                let keys = held.iter().filter(|key| twice(**key) > 0).count();
                assert_eq!(joined.count().expect("a count"), keys as u64);
                let first = many.sort("n").limit(10_000).join(&few, "k", JoinType::Inner);
                assert!(!explained(&first).contains("held by the join"), "{}", explained(&first));
                let itself = many.join(&many.filter(col("n").lt(lit(5))), "n", JoinType::Inner);
                assert_eq!(itself.count().expect("a count"), 5);
                assert_eq!(many.join(&many, "n", JoinType::Inner).count().expect("a count"), 40_000);
            }
        }
    });
}
