use std::fs;

use crate::prelude::{col, lit};
use crate::{Error, LocalCluster};

fn cluster() -> LocalCluster {
    LocalCluster::builder().workers(2).memory_limit("64MiB").progress(false).start().expect("a small cluster")
}

fn numbers() -> LocalCluster {
    let cluster = cluster();
    let numbers = cluster.from_source("numbers", aqueduct_operators::range("n", Some(100))).expect("a source");
    cluster.register_table("numbers", &numbers).expect("a table");
    cluster
}

fn i64s(cluster: &LocalCluster, query: &str, column: &str) -> Vec<i64> {
    let table = cluster.sql(query).and_then(|frame| frame.compute()).unwrap_or_else(|error| panic!("{query}: {error}"));
    let mut values: Vec<i64> = table.i64s(column).expect("numbers").into_iter().flatten().collect();
    values.sort_unstable();
    values
}

fn error(cluster: &LocalCluster, query: &str) -> String {
    match cluster.sql(query).and_then(|frame| frame.explain()) {
        Ok(plan) => panic!("{query}: {plan}"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn a_query_over_a_registered_frame_is_a_frame() {
    let cluster = numbers();
    let frame = cluster.sql("select n, n * n as square from numbers where n < 4").expect("a query");
    let table = frame.filter(col("square").gt(lit(1))).compute().expect("rows");
    assert_eq!(table.i64s("square").expect("numbers"), [Some(4), Some(9)]);
    assert_eq!(i64s(&cluster, "select count(*) as c, sum(n) as s from numbers where n % 2 = 0", "s"), [2450]);
}

#[test]
fn files_are_named_in_place() {
    let cluster = cluster();
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).display().to_string();
    fs::write(path("a.csv"), "k,v\nx,1\ny,2\n").expect("a file");
    fs::write(path("b.csv"), "k,v\nx,3\n").expect("a file");
    fs::write(path("c.tsv"), "k\tv\nx\t7\n").expect("a file");
    assert_eq!(i64s(&cluster, &format!("select v from '{}' where k = 'x'", path("a.csv")), "v"), [1]);
    assert_eq!(i64s(&cluster, &format!("select sum(v) as v from '{}' t group by t.k", path("*.csv")), "v"), [2, 4]);
    assert_eq!(i64s(&cluster, &format!("select v from \"{}\"", path("c.tsv")), "v"), [7]);

    let text = error(&cluster, &format!("select * from '{}'", path("none.csv")));
    assert!(text.contains("none.csv"), "{text}");
    let text = error(&cluster, &format!("select * from '{}'", path("a.xlsx")));
    assert!(text.contains("a.xlsx") && text.contains(".csv"), "{text}");
}

#[test]
fn columns_of_a_result_are_called_as_the_query_calls_them() {
    let cluster = numbers();
    let names = |query: &str| {
        let schema = cluster.sql(query).expect("a query").schema().expect("a schema");
        schema.fields().iter().map(|field| field.name().clone()).collect::<Vec<_>>()
    };
    assert_eq!(names("select avg(n), max(n) as most, count(*) from numbers"), ["avg(n)", "most", "count(*)"]);
    assert_eq!(names("select sum(a.n + b.n) from numbers a, numbers b"), ["sum(n + n)"]);
    // Short names that are the same stay long.
    assert_eq!(names("select sum(a.n), sum(b.n) from numbers a, numbers b"), ["sum(a.n)", "sum(b.n)"]);
}

#[test]
fn what_is_wrong_with_a_query_is_said_with_its_place() {
    let cluster = numbers();
    let Err(Error::Sql { message, place: Some(place) }) = cluster.sql("select n\nfro numbers where") else {
        panic!("not an error with a place")
    };
    assert!(message.starts_with("Expected: "), "{message}");
    assert_eq!((place.line, place.text.as_str()), (2, "fro numbers where"));
    assert!(place.to_string().ends_with('^'));

    let text = error(&cluster, "select m from numbers");
    assert!(text.contains("numbers.n") && text.contains("line 1, column 8\n"), "{text}");
    let text = error(&cluster, "select n from number");
    assert!(text.contains("did you mean `numbers`?"), "{text}");
    let text = error(&cluster, "select n from data.csv");
    assert!(text.contains("in quotes"), "{text}");
    let text = error(&cluster, "select averge(n) from numbers");
    assert!(text.contains("averge") && text.contains("Did you mean"), "{text}");
    assert!(error(&cluster, "").contains("no statement"));
    assert!(error(&cluster, "select 1; select 2").contains("only the last"));
    assert!(error(&cluster, &format!("select {}1{}", "(".repeat(10_000), ")".repeat(10_000))).contains("too deeply"));
    assert!(cluster.sql("select 'ö\u{0}', ? from \u{fffd}").is_err());
}

#[test]
fn views_are_tables_until_they_are_dropped() {
    let cluster = numbers();
    assert_eq!(
        i64s(&cluster, "create view small as select n from numbers where n < 3; select n from small", "n"),
        [0, 1, 2]
    );
    assert!(error(&cluster, "create view small as select 1").contains("create or replace"));
    assert_eq!(i64s(&cluster, "create or replace view small as select 7 as n; select n from SMALL", "n"), [7]);
    assert_eq!(cluster.tables(), ["numbers", "small"]);
    cluster.sql("drop view small").expect("dropped");
    cluster.sql("drop view if exists small").expect("nothing to drop");
    assert!(error(&cluster, "drop view small").contains("`small`"));
    assert_eq!(cluster.tables(), ["numbers"]);
}

/// Files in the spill folder.
fn files(cluster: &LocalCluster) -> usize {
    let folder = fs::read_dir(cluster.spill_path()).expect("the spill folder");
    folder.filter(|file| file.as_ref().is_ok_and(|file| file.file_name() != "lock")).count()
}

#[test]
fn tables_are_made_of_queries_and_take_rows_until_they_are_dropped() {
    let cluster = numbers();
    assert_eq!(i64s(&cluster, "create table t as select n, n * n as sq from numbers", "count"), [100]);
    assert_eq!(i64s(&cluster, "select sq from t where n in (3, 90)", "sq"), [9, 8100]);
    let before = cluster.sql("select count(*) as c from t").expect("a query");
    assert_eq!(i64s(&cluster, "insert into t select n + 100, 0 from t where n < 5", "count"), [5]);
    assert_eq!(i64s(&cluster, "insert into T (sq, n) values (1, 1000), (null, 1001)", "count"), [2]);
    assert_eq!(i64s(&cluster, "select count(*) as c, sum(n) as s from t where n >= 100", "s"), [510 + 2001]);
    // What was planned before goes on seeing what was there.
    assert_eq!(before.compute().and_then(|table| table.i64s("c")).expect("a count"), [Some(100)]);
    assert_eq!(i64s(&cluster, "insert overwrite t select 7, 8; select n from t", "n"), [7]);
    let tables = cluster.sql("show tables").and_then(|frame| frame.compute()).expect("rows");
    assert_eq!(tables.strings("table_name").expect("names"), ["numbers", "t"].map(|name| Some(name.to_string())));
    assert!(files(&cluster) > 0);
    cluster.sql("drop table t").expect("dropped");
    drop(before);
    assert_eq!(files(&cluster), 0);
    assert!(error(&cluster, "select * from t").contains("no table `t`"));
}

#[test]
fn a_table_of_given_columns_takes_what_fits_them() {
    let cluster = numbers();
    assert_eq!(i64s(&cluster, "create table t (a int not null, b text); select a from t", "a"), [0i64; 0]);
    assert_eq!(i64s(&cluster, "insert into t (a) values (1); select a from t where b is null", "a"), [1]);
    let text = error(&cluster, "insert into t values (null, 'x')");
    assert!(text.contains("null") && text.contains('a'), "{text}");
    assert!(error(&cluster, "create table t as select 1 as a").contains("create or replace table"));
    assert_eq!(i64s(&cluster, "create table if not exists t as select 2 as a; select a from t", "a"), [1]);
    assert_eq!(i64s(&cluster, "create or replace table t as select 3 as a; select a from t", "a"), [3]);
    assert!(error(&cluster, "insert into numbers values (1)").contains("takes no rows"));
    assert!(error(&cluster, "create view v as select 1 as a; insert into v values (1)").contains("takes no rows"));
    assert!(error(&cluster, "insert into nowhere values (1)").contains("nowhere"));
    let twice = error(&cluster, "create table u as select x.n, y.n from numbers x, numbers y");
    assert!(twice.contains("two columns `n`"), "{twice}");
    // What fails makes no table and leaves nothing.
    let kept = files(&cluster);
    assert!(error(&cluster, "create table u as select cast('x' || n as int) as a from numbers").contains("x0"));
    assert_eq!((cluster.tables().len(), files(&cluster)), (3, kept));
}

#[test]
fn explain_and_describe_are_rows() {
    let cluster = numbers();
    let plans =
        cluster.sql("explain select n from numbers where n > 3").and_then(|frame| frame.compute()).expect("rows");
    assert_eq!(plans.strings("plan_type").expect("text").len(), 3);
    assert!(plans.to_string().contains("stage 0"), "{plans}");
    let columns = cluster.sql("describe numbers").and_then(|frame| frame.compute()).expect("rows");
    assert_eq!(columns.strings("column_name").expect("text"), [Some("n".to_string())]);
}

#[test]
fn explain_analyze_runs_the_query_and_says_what_its_operators_did() {
    let cluster = numbers();
    let rows = cluster.sql("explain analyze select n % 3 as k, count(*) from numbers where n > 3 group by 1");
    let rows = rows.and_then(|frame| frame.compute()).expect("rows");
    let text = rows.strings("plan").expect("text").into_iter().flatten().collect::<Vec<_>>().join("\n");
    assert!(text.starts_with("finished after"), "{text}");
    let line = text.lines().find(|line| line.contains("filter")).unwrap_or_else(|| panic!("{text}"));
    assert!(text.contains("bottleneck") && line.split_whitespace().count() > 5, "{text}");
    let json = cluster.sql("explain analyze format pgjson select n from numbers where n > 3");
    let json = json.and_then(|frame| frame.compute()).expect("rows").strings("plan").expect("text");
    let [Some(json)] = &json[..] else { panic!("one row: {json:?}") };
    let json: serde_json::Value = serde_json::from_str(json).expect("JSON");
    assert_eq!(json["state"], "finished", "{json}");
    assert!(json["operators"].as_array().is_some_and(|operators| operators.len() > 1), "{json}");
    let error = error(&cluster, "explain analyze select 1 / n from numbers");
    assert!(error.contains("zero"), "{error}");
}

#[test]
fn a_query_is_copied_to_a_file() {
    let cluster = numbers();
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("out.csv");
    let query = format!("copy (select n, n + 1 as next from numbers where n < 2) to '{}'", path.display());
    assert_eq!(i64s(&cluster, &query, "count"), [2]);
    assert_eq!(fs::read_to_string(&path).expect("the file"), "n,next\n0,1\n1,2\n");

    let path = folder.path().join("out.parquet").display().to_string();
    let query = format!(
        "copy (select n, n * n as square from numbers) to '{path}'; select square from '{path}' where n in (5, 7)"
    );
    assert_eq!(i64s(&cluster, &query, "square"), [25, 49]);
}

#[test]
fn what_cannot_run_is_refused_by_name() {
    let cluster = numbers();
    for query in [
        "delete from numbers",
        "create table t (a int primary key)",
        "create table t (a int default 3)",
        "set a = 1",
        "create external table t stored as csv location 'x.csv'",
    ] {
        let text = error(&cluster, query);
        assert!(text.contains("not supported"), "{query}: {text}");
    }
}

#[test]
fn long_conditions_and_sums_run_or_are_refused() {
    let cluster = numbers();
    let row = |term: &dyn Fn(usize) -> String, by: &str, terms| (0..terms).map(term).collect::<Vec<_>>().join(by);
    let condition = row(&|term| format!("(n = {term} and n < {})", term + 1), " or ", 400);
    assert_eq!(i64s(&cluster, &format!("select count(*) as c from numbers where {condition}"), "c"), [100]);
    let sum = |terms| format!("select {} as s from numbers where n = 1", row(&|_| "n".into(), " + ", terms));
    assert_eq!(i64s(&cluster, &sum(240), "s"), [240]);
    assert!(error(&cluster, &sum(300)).contains("levels deep"));
    assert!(error(&cluster, &sum(100_000)).contains("levels deep"));
}

#[test]
fn decimals_are_exact() {
    let cluster = cluster();
    assert_eq!(i64s(&cluster, "select 1 as yes where 0.06 + 0.01 = 0.07", "yes"), [1]);
}

/// Each table is there once for each time that it is used: a query of two kilobytes would be a thousand million scans.
#[test]
fn a_query_that_is_huge_once_it_is_spelled_out_is_refused() {
    let cluster = numbers();
    let tables = |count: usize| {
        let tables = (1..=count).map(|i| format!(", t{i} as (select a.n from t{} a, t{} b)", i - 1, i - 1));
        format!("with t0 as (select n from numbers) {} select * from t{count}", tables.collect::<String>())
    };
    cluster.sql(tables(3)).and_then(|frame| frame.explain()).expect("eight scans");
    let text = error(&cluster, &tables(30));
    assert!(text.contains("10000 steps"), "{text}");
    let text = error(&cluster, &format!("select n from numbers where n in ({})", tables(30)));
    assert!(text.contains("10000 steps"), "{text}");

    let inner =
        "with t as (select n from numbers) select * from t where n in (with u as (select n from t) select n from u)";
    cluster.sql(inner).and_then(|frame| frame.explain()).expect("two scans");
    for view in 1..30 {
        let query = format!("create view v{view} as select a.n from v{} a, v{} b", view - 1, view - 1);
        match cluster.sql(query.replace("v0", "numbers")) {
            Ok(_) => assert!(view < 14, "{view}"),
            Err(error) => {
                assert!(view > 5 && error.to_string().contains("10000 steps"), "{view}: {error}");
                break;
            }
        }
    }

    let mut frame = cluster.sql("select n from numbers").expect("a frame");
    for _ in 0..30 {
        frame = frame.union(&frame);
    }
    let text = frame.explain().expect_err("too much").to_string();
    assert!(text.contains("10000 steps"), "{text}");
}
