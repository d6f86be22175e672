//! Lists and structs, groupings of groupings, unions by name, samples, and `not in` of many rows: by hand, over 1, 2 and 8 partitions.

use aqueduct::{cube, grouping_sets, rollup};

use super::*;

fn lists(cluster: &LocalCluster) -> Frame {
    let rows = "(1, [10, 20, null], ['a']), (2, null, null), (3, [], ['b', 'c']), (4, [30], null)";
    cluster.sql(format!("select * from (values {rows}) as t(id, l, m)")).expect("a frame")
}

#[test]
fn exploded_lists_are_rows_and_no_row_is_lost() {
    timed(|| {
        for workers in WORKERS {
            let cluster = cluster(workers);
            let frame = lists(&cluster).repartition(workers);
            let one = frame.explode("l").sort(["id", "l"]).compute().expect("rows");
            assert_eq!(ids(&one), [1, 1, 1, 2, 3, 4]);
            assert_eq!(one.i64s("l").expect("numbers"), [Some(10), Some(20), None, None, None, Some(30)]);
            let both = frame.explode(["l", "m"]).sort(["id", "l", "m"]).compute().expect("rows");
            assert_eq!(ids(&both), [1, 1, 1, 2, 3, 3, 4]);
            let texts =
                both.strings("m").expect("texts").into_iter().map(Option::unwrap_or_default).collect::<Vec<_>>();
            assert_eq!(texts, ["a", "", "", "", "b", "c", ""]);
            let kept = frame.explode("l").drop_nulls("l");
            assert_eq!(kept.count().expect("a count"), 3);
            let many = cluster.from_source("numbers", range("n", Some(1000))).expect("a source");
            let many = many.with_column("l", aqueduct::functions::range(lit(0_i64), col("n"), lit(1_i64))).explode("l");
            // Each n has n rows, and 0 has one for its empty list.
            assert_eq!(many.count().expect("a count"), 999 * 1000 / 2 + 1);
        }
    });
}

#[test]
fn structs_become_columns_and_what_is_none_is_refused() {
    timed(|| {
        let cluster = cluster(2);
        let rows = cluster.sql("select n, named_struct('x', n, 'y', 'v' || n) as s from (values (1), (2)) as t(n)");
        let fields = rows.expect("a frame").unnest("s");
        let names: Vec<_> =
            fields.schema().expect("columns").fields().iter().map(|field| field.name().clone()).collect();
        assert_eq!(names, ["n", "s.x", "s.y"]);
        assert_eq!(fields.sort("n").compute().expect("rows").i64s("s.x").expect("numbers"), [Some(1), Some(2)]);
        let lists = lists(&cluster);
        let error = |frame: Frame| frame.schema().expect_err("a wrong step").to_string();
        assert!(
            error(lists.explode("id")).contains("explode: ") && error(lists.explode("id")).contains("`id` is no list")
        );
        assert!(error(lists.unnest("l")).contains("no struct"));
        assert!(error(lists.explode("z")).contains("no column `z`"));
        assert!(error(lists.explode(col("id") + lit(1))).contains("no column"));
    });
}

#[test]
fn groupings_of_groupings_are_those_of_a_calculator() {
    timed(|| {
        for workers in WORKERS {
            let cluster = cluster(workers);
            let rows = "('x', 'p', 1), ('x', 'q', 2), ('y', 'p', 4), ('y', 'p', 8)";
            let frame = cluster.sql(format!("select * from (values {rows}) as t(a, b, v)")).expect("a frame");
            let sums = |frame: Frame| {
                let table = frame.sort(["a", "b"]).compute().expect("rows");
                let text =
                    |column: &str| table.strings(column).expect("texts").into_iter().map(Option::unwrap_or_default);
                let (a, b): (Vec<String>, Vec<String>) = (text("a").collect(), text("b").collect());
                let sums = table.i64s("v").expect("sums").into_iter().flatten();
                a.into_iter().zip(b).zip(sums).map(|((a, b), v)| format!("{a}{b}{v}")).collect::<Vec<_>>()
            };
            let by = |key: Expr| frame.group_by(key).sum("v");
            assert_eq!(sums(by(rollup(["a", "b"]))), ["xp1", "xq2", "x3", "yp12", "y12", "15"]);
            assert_eq!(sums(by(cube(["a", "b"]))), ["xp1", "xq2", "x3", "yp12", "y12", "p13", "q2", "15"]);
            assert_eq!(sums(by(grouping_sets([vec!["a"], vec!["b"]]))), ["x3", "y12", "p13", "q2"]);
            let mixed = frame.group_by([col("a"), rollup("b")]).agg([(sum(col("v")) * lit(2_i64)).alias("v")]);
            assert_eq!(sums(mixed), ["xp2", "xq4", "x6", "yp24", "y24"]);
            let schema = by(rollup(["a", "b"])).schema().expect("columns");
            assert_eq!(schema.fields().len(), 3);
        }
    });
}

#[test]
fn unions_by_name_fill_what_a_side_does_not_have() {
    timed(|| {
        for workers in WORKERS {
            let cluster = cluster(workers);
            let one = cluster.sql("select * from (values (1, 'a'), (2, 'b')) as t(id, k)").expect("a frame");
            let other = cluster.sql("select * from (values (1.5, 3)) as t(v, id)").expect("a frame");
            let both = one.union_by_name(&other).sort("id").compute().expect("rows");
            assert_eq!(ids(&both), [1, 2, 3]);
            assert_eq!(both.strings("k").expect("texts"), [Some("a".to_string()), Some("b".to_string()), None]);
            assert_eq!(both.f64s("v").expect("numbers"), [None, None, Some(1.5)]);
            let all: Vec<Frame> = (0..70).map(|_| one.clone()).collect();
            assert_eq!(Frame::concat(&all).count().expect("a count"), 140);
            assert!(Frame::concat(&[]).count().expect_err("nothing").to_string().contains("no frames"));
        }
    });
}

#[test]
fn a_sample_with_a_seed_is_the_same_on_any_cluster() {
    timed(|| {
        let mut samples = Vec::new();
        for workers in WORKERS {
            let cluster = cluster(workers);
            let numbers = cluster.from_source("numbers", range("n", Some(50_000))).expect("a source");
            let rows = numbers.with_column("t", concat(vec![lit("row "), cast(col("n"), DataType::Utf8)]));
            let sample = |frame: &Frame, seed| frame.sample_with_seed(0.2, seed).sort("n").compute().expect("rows");
            let one = sample(&rows, 7).i64s("n").expect("numbers");
            assert_eq!(one, sample(&rows.repartition(5), 7).i64s("n").expect("numbers"));
            assert_ne!(one, sample(&rows, 8).i64s("n").expect("numbers"));
            samples.push(one);
        }
        assert!((9_400..10_600).contains(&samples[0].len()), "{}", samples[0].len());
        assert!(samples.iter().all(|sample| *sample == samples[0]));
    });
}

/// What SQL says of `x not in (…)`, for sides that are too large to be sent to everybody.
#[test]
fn not_in_of_many_rows_minds_nulls_and_emptiness() {
    timed(|| {
        for workers in WORKERS {
            let builder = LocalCluster::builder().workers(workers).memory_limit("16MB").progress(false);
            let cluster = builder.start().expect("a small cluster");
            for name in ["few", "many"] {
                let rows = if name == "few" { 1000 } else { 300_000 };
                let numbers = cluster.from_source(name, range("n", Some(rows))).expect("a source");
                cluster.register_table(name, &numbers).expect("a table");
            }
            let count = |left: &str, right: &str| {
                let query = format!("select count(*) as c, count(x) as d from ({left}) l where x not in ({right})");
                let frame = cluster.sql(&query).expect("a query");
                let plan = frame.explain().expect("a plan");
                assert!(plan.contains("leftanti") && plan.contains("=> hash("), "{plan}");
                let table = frame.compute().expect("rows");
                (table.i64s("c").expect("a count")[0], table.i64s("d").expect("a count")[0])
            };
            let with_nulls = "select case when n % 10 = 3 then null else n end as x from few";
            let plain = "select n as x from few";
            let counts = |rows, known| (Some(rows), Some(known));
            let even = "select case when n % 2 = 0 then nullif(n, -1) else 0 end from many";
            assert_eq!(count(plain, even), counts(500, 500));
            assert_eq!(count(with_nulls, even), counts(400, 400));
            assert_eq!(count(plain, "select nullif(n, 7) from many"), counts(0, 0));
            assert_eq!(count(with_nulls, "select nullif(n, 7) from many where n < 0"), counts(1000, 900));
            assert_eq!(count(plain, "select nullif(n, -1) + 1000 from many"), counts(1000, 1000));
            assert_eq!(count("select n as x from few where n < 0", "select nullif(n, 7) from many"), counts(0, 0));
        }
    });
}
