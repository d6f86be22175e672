//! Frames as a user sees them: whole jobs on a local cluster, each within a time limit, over 1, 2 and 8 partitions.

mod ends;
mod kept;
mod nested;
mod relations;
mod widen;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Duration;

use aqueduct::arrow::array::{ArrayRef, AsArray, Float64Array, Int64Array, RecordBatch, StringArray};
use aqueduct::arrow::datatypes::{DataType, Float64Type, Int64Type};
use aqueduct::functions::{array_agg, concat, median, percentile_cont, round, stddev, upper};
use aqueduct::operators::range;
use aqueduct::prelude::*;
use aqueduct::runtime::ExecutionError;

const WORKERS: [usize; 3] = [1, 2, 8];

/// Runs a test in a thread of its own, and fails it if it takes longer than a minute.
fn timed<T: Send + 'static>(test: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, ended) = mpsc::channel();
    let running = thread::Builder::new().name("aq-test".into()).spawn(move || {
        let answer = test();
        let _ = done.send(());
        answer
    });
    let running = running.expect("a thread");
    match ended.recv_timeout(Duration::from_secs(60)) {
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("the test has not ended within a minute"),
        Ok(()) | Err(mpsc::RecvTimeoutError::Disconnected) => match running.join() {
            Ok(answer) => answer,
            Err(panic) => std::panic::resume_unwind(panic),
        },
    }
}

fn cluster(workers: usize) -> LocalCluster {
    LocalCluster::builder().workers(workers).memory_limit("64MiB").progress(false).start().expect("a small cluster")
}

/// A folder with `large_data.csv`: `id`, `category` `cat_{id % 100}`, `value` `id % 1000`.
fn large_data(rows: usize) -> (tempfile::TempDir, PathBuf) {
    let mut text = String::from("id,category,value\n");
    for row in 0..rows {
        writeln!(text, "{row},cat_{},{}.0", row % 100, row % 1000).expect("a string takes what it is given");
    }
    file("large_data.csv", &text)
}

fn file(name: &str, text: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join(name);
    fs::write(&path, text).expect("a file");
    (folder, path)
}

fn ids(table: &Table) -> Vec<i64> {
    table.i64s("id").expect("the ids").into_iter().map(|id| id.expect("no nulls")).collect()
}

/// Two columns of a table as pairs, in the order of the first.
fn pairs(table: &Table, key: &str, value: &str) -> Vec<(String, f64)> {
    let keys = table.strings(key).expect("the keys").into_iter().map(|key| key.unwrap_or_else(|| "null".into()));
    let values = table.f64s(value).expect("the values").into_iter().map(|value| value.unwrap_or(f64::NAN));
    let mut pairs: Vec<_> = keys.zip(values).collect();
    pairs.sort_by(|one, other| one.0.cmp(&other.0));
    pairs
}

#[test]
fn means_of_categories_are_those_of_a_calculator() {
    timed(|| {
        let (_folder, path) = large_data(100_000);
        // Category k has the values k, k + 100, .. k + 900, equally often: their mean is k + 450.
        let mut expected: Vec<_> = (51..100).map(|k| (format!("cat_{k}"), f64::from(k) + 450.0)).collect();
        expected.sort_by(|one, other| one.0.cmp(&other.0));
        for workers in WORKERS {
            let cluster = cluster(workers);
            let frame = cluster.read_csv(&path).expect("a CSV file");
            let means = frame.group_by(["category"]).mean("value").filter(col("value").gt(lit(500.0)));
            let answer = means.compute().expect("the means");
            assert_eq!(pairs(&answer, "category", "value"), expected, "{workers} workers");
            // A frame may be run again.
            assert_eq!(means.count().expect("a count"), 49);
            cluster.close();
        }
    });
}

#[test]
fn rows_keep_the_order_of_the_file_until_something_regroups_them() {
    timed(|| {
        let (_folder, path) = large_data(200_000);
        for workers in WORKERS {
            let cluster = cluster(workers);
            let frame = cluster.read_csv(&path).expect("a CSV file");
            let odd = frame.filter((col("id") % lit(2)).eq(lit(1))).select(["id"]).compute().expect("the odd rows");
            assert_eq!(ids(&odd), (0..200_000).filter(|id| id % 2 == 1).collect::<Vec<_>>(), "{workers} workers");
        }
    });
}

#[test]
fn head_gives_the_first_rows_that_there_are() {
    timed(|| {
        let (_folder, path) = large_data(200_000);
        for workers in WORKERS {
            let cluster = cluster(workers);
            let frame = cluster.read_csv(&path).expect("a CSV file");
            assert_eq!(ids(&frame.head(5).expect("five rows")), [0, 1, 2, 3, 4]);
            let late = frame.filter(col("id").gt(lit(199_000))).head(3).expect("three rows");
            assert_eq!(ids(&late), [199_001, 199_002, 199_003], "{workers} workers");
            let few = frame.filter(col("id").lt(lit(2))).head(10).expect("two rows");
            assert_eq!(ids(&few), [0, 1]);
            assert_eq!(frame.head(0).expect("no rows").num_rows(), 0);
            assert_eq!(frame.limit(100).filter(col("id").gt(lit(97))).count().expect("a count"), 2);
        }
    });
}

#[test]
fn what_is_written_is_what_was_computed_in_order() {
    timed(|| {
        let (folder, path) = large_data(50_000);
        for workers in WORKERS {
            let cluster = cluster(workers);
            let out = folder.path().join(format!("out-{workers}.csv"));
            let frame = cluster.read_csv(&path).expect("a CSV file");
            let written = frame.filter(col("value").lt(lit(10.0))).select(["category", "id"]).write_csv(&out);
            assert_eq!(written.expect("a file"), 500);
            let mut expected = String::from("category,id\n");
            for id in (0..50_000).filter(|id| id % 1000 < 10) {
                writeln!(expected, "cat_{},{id}", id % 100).expect("a string takes what it is given");
            }
            assert_eq!(fs::read_to_string(&out).expect("the file"), expected, "{workers} workers");
        }
        assert_eq!(fs::read_dir(folder.path()).expect("the folder").count(), 1 + WORKERS.len());
    });
}

#[test]
fn counts_distinct_rows_and_unions_add_up() {
    timed(|| {
        let (_folder, path) = large_data(20_000);
        for workers in WORKERS {
            let cluster = cluster(workers);
            let frame = cluster.read_csv(&path).expect("a CSV file");
            assert_eq!(frame.count().expect("a count"), 20_000);
            assert_eq!(frame.select(["category"]).distinct().count().expect("a count"), 100);
            let other = frame.select(["value", "id", "category"]).filter(col("id").lt(lit(5)));
            assert_eq!(frame.union(&other).count().expect("a count"), 20_005);
            let sizes = frame.union(&other).group_by("category").size().compute().expect("the sizes");
            let sizes = sizes.i64s("count").expect("counts");
            assert_eq!(sizes.len(), 100);
            assert_eq!(sizes.into_iter().flatten().sum::<i64>(), 20_005);
            assert_eq!(frame.filter(lit(false)).compute().expect("nothing").num_rows(), 0);
        }
    });
}

#[test]
fn all_kinds_of_aggregates_agree_with_a_calculator() {
    timed(|| {
        let cluster = cluster(2);
        let keys: ArrayRef = Arc::new(StringArray::from(vec![Some("a"), Some("b"), Some("a"), None, Some("a")]));
        let values: ArrayRef = Arc::new(Float64Array::from(vec![Some(1.0), Some(5.0), Some(2.0), Some(7.0), None]));
        let batch = RecordBatch::try_from_iter([("k", keys), ("v", values)]).expect("two columns");
        let parts = (0..5).map(|row| batch.slice(row, 1)).collect();
        let frame = cluster.from_batches(batch.schema(), parts).expect("a frame");
        let v = || col("v");
        let answer = frame
            .group_by("k")
            .agg([
                sum(v()),
                mean(v()).alias("mean"),
                count(v()),
                count_rows().alias("rows"),
                min(v()),
                max(v()),
                median(v()),
                round(vec![stddev(v()) * stddev(v()), lit(6)]).alias("sd"),
                (max(v()) - min(v())).alias("span"),
                count_distinct(v()).alias("values"),
            ])
            .compute()
            .expect("the aggregates");
        assert_eq!(answer.num_rows(), 3);
        let of = |column: &str| pairs(&answer, "k", column).into_iter().map(|(_, value)| value).collect::<Vec<_>>();
        assert_eq!(of("sum(v)"), [3.0, 5.0, 7.0]);
        assert_eq!(of("mean"), [1.5, 5.0, 7.0]);
        assert_eq!(of("count(v)"), [2.0, 1.0, 1.0]);
        assert_eq!(of("rows"), [3.0, 1.0, 1.0]);
        assert_eq!(of("min(v)"), [1.0, 5.0, 7.0]);
        assert_eq!(of("max(v)"), [2.0, 5.0, 7.0]);
        assert_eq!(of("median(v)"), [1.5, 5.0, 7.0]);
        assert_eq!(of("sd")[0], 0.5);
        assert_eq!(of("span"), [1.0, 0.0, 0.0]);
        assert_eq!(of("values"), [2.0, 1.0, 1.0]);

        let ordered = |ascending| array_agg(v()).order_by(vec![v().sort(ascending, false)]).build().expect("an order");
        let lists = frame.filter(v().is_not_null()).aggregate([
            ordered(true).alias("up"),
            ordered(false).alias("down"),
            first_value(col("k"), vec![v().sort(true, false)]).alias("first"),
            last_value(col("k"), vec![v().sort(true, true)]).alias("last"),
            sum(v()).filter(v().gt(lit(1.5))).build().expect("a filter").alias("above"),
        ]);
        let lists = lists.compute().expect("a row");
        let list = |name: &str| {
            let list = lists.column(name).expect("the list").as_list::<i32>().value(0);
            list.as_primitive::<Float64Type>().values().to_vec()
        };
        assert_eq!(list("up"), [1.0, 2.0, 5.0, 7.0]);
        assert_eq!(list("down"), [7.0, 5.0, 2.0, 1.0]);
        assert_eq!(lists.strings("first").expect("k"), [Some("a".to_string())]);
        assert_eq!(lists.strings("last").expect("k"), [None]);
        assert_eq!(lists.f64s("above").expect("a sum"), [Some(14.0)]);
    });
}

#[test]
fn aggregates_of_no_rows_are_one_row() {
    timed(|| {
        let cluster = cluster(2);
        let batch = RecordBatch::try_from_iter([("n", Arc::new(Int64Array::from(vec![1, 2])) as ArrayRef)]);
        let batch = batch.expect("one column");
        let none = cluster.from_batches(batch.schema(), vec![batch]).expect("a frame").filter(col("n").gt(lit(9)));
        let answer = none.aggregate([count(col("n")).alias("c"), sum(col("n")).alias("s")]).compute().expect("a row");
        assert_eq!(answer.i64s("c").expect("the count"), [Some(0)]);
        assert_eq!(answer.i64s("s").expect("the sum"), [None]);
        assert_eq!(none.count().expect("a count"), 0);
        assert_eq!(none.group_by("n").size().compute().expect("no groups").num_rows(), 0);
    });
}

#[test]
fn names_may_be_anything_and_their_case_counts() {
    timed(|| {
        let (_folder, path) =
            file("Odd names.v2.csv", "Id,id,Unit Price,a.b,\"quo\"\"ted\",Größe\n1,10,2.5,x,y,3\n2,20,3.5,x,z,4\n");
        let cluster = cluster(2);
        let frame = cluster.read_csv(&path).expect("a CSV file");
        let by =
            frame.group_by(["a.b", "Id"]).agg([sum(col("Unit Price")).alias("Sum"), max(col("Größe")).alias("sum")]);
        let answer = by.filter(col("Id").gt(lit(1)).and(col("Sum").gt(lit(3)))).compute().expect("one group");
        assert_eq!(answer.i64s("Id").expect("the key"), [Some(2)]);
        assert_eq!(answer.f64s("Sum").expect("the sum"), [Some(3.5)]);
        assert_eq!(answer.i64s("sum").expect("the largest"), [Some(4)]);
        let both = frame.filter(col("id").eq(lit(10))).select(["Id", "id", "quo\"ted"]).compute().expect("a row");
        assert_eq!((both.i64s("Id").expect("Id"), both.i64s("id").expect("id")), (vec![Some(1)], vec![Some(10)]));
        assert_eq!(both.strings("quo\"ted").expect("text"), [Some("y".to_string())]);
    });
}

#[test]
fn columns_are_computed_from_columns() {
    timed(|| {
        let (_folder, path) = file("people.csv", "name,age\nada,36\ngrace,85\n");
        let cluster = cluster(2);
        let frame = cluster.read_csv(&path).expect("a CSV file");
        let answer = frame
            .with_column("name", upper(col("name")))
            .with_column("age_in_months", col("age") * lit(12))
            .rename("age", "years")
            .compute()
            .expect("two rows");
        assert_eq!(answer.strings("name").expect("names"), ["ADA", "GRACE"].map(|name| Some(name.to_string())));
        assert_eq!(answer.i64s("age_in_months").expect("months"), [Some(432), Some(1020)]);
        let names: Vec<_> = answer.schema().fields().iter().map(|field| field.name().as_str()).collect();
        assert_eq!(names, ["name", "years", "age_in_months"]);
    });
}

#[test]
fn a_source_of_ones_own_is_a_frame() {
    timed(|| {
        for workers in WORKERS {
            let cluster = cluster(workers);
            let numbers = cluster.from_source("numbers", range("n", Some(3_000_000))).expect("a frame");
            let total = numbers.filter((col("n") % lit(3)).eq(lit(0))).aggregate(sum(col("n")).alias("total"));
            let total = total.compute().expect("a sum");
            let expected: i64 = (0..3_000_000).filter(|n| n % 3 == 0).sum();
            assert_eq!(total.i64s("total").expect("the sum"), [Some(expected)]);
            assert_eq!(total.schema().field(0).data_type(), &DataType::Int64);
        }
    });
}

#[test]
fn a_stream_that_is_dropped_ends_its_job_and_the_next_one_runs() {
    timed(|| {
        let cluster = cluster(2);
        let endless = cluster.from_source("numbers", range("n", None)).expect("a frame");
        let mut rows = endless.stream().expect("a stream");
        let first = rows.next().expect("rows without end").expect("no error");
        assert_eq!(first.column(0).as_primitive::<Int64Type>().value(0), 0);
        drop(rows);
        assert_eq!(endless.head(3).expect("three rows").i64s("n").expect("n"), [Some(0), Some(1), Some(2)]);
        cluster.close();
    });
}

#[test]
fn a_value_that_does_not_fit_is_an_error_that_says_where() {
    timed(|| {
        let mut text = String::from("id,value\n");
        for row in 0..50_000 {
            let value = if row == 40_000 { "broken".to_string() } else { row.to_string() };
            writeln!(text, "{row},{value}").expect("a string takes what it is given");
        }
        let (_folder, path) = file("broken.csv", &text);
        let cluster = cluster(2);
        let frame = cluster.read_csv(&path).expect("a CSV file");
        let error = frame.aggregate(sum(col("value"))).compute().expect_err("a broken value").to_string();
        for part in ["broken.csv", "40002", "value", "broken"] {
            assert!(error.contains(part), "{part} is missing in: {error}");
        }
        assert_eq!(frame.count().expect("the value is not needed to count"), 50_000);
    });
}

#[test]
fn a_file_that_is_not_there_is_an_error_that_names_it() {
    let error = cluster(1).read_csv("no/such/file.csv").expect_err("no file").to_string();
    assert!(error.contains("no/such/file.csv"), "{error}");
}

#[test]
fn a_frame_outlives_its_cluster_and_says_so() {
    timed(|| {
        let cluster = cluster(1);
        let frame = cluster.from_source("numbers", range("n", Some(10))).expect("a frame");
        cluster.close();
        let error = frame.compute().expect_err("a closed cluster");
        assert!(matches!(error, aqueduct::Error::Execution(ExecutionError::Closed)), "{error}");
    });
}

#[test]
fn a_frame_that_cannot_run_says_so_before_it_runs() {
    timed(|| {
        let (_folder, path) = large_data(10);
        let cluster = cluster(1);
        let frame = cluster.read_csv(&path).expect("a CSV file");
        let error = frame.group_by("categorie").mean("value").compute().expect_err("no such column").to_string();
        assert!(error.contains("categorie") && error.contains("category"), "{error}");
    });
}

#[test]
fn blocking_calls_work_inside_an_async_runtime() {
    timed(|| {
        let (_folder, path) = large_data(10_000);
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(async move {
            let cluster = cluster(2);
            let frame = cluster.read_csv(&path).expect("a CSV file");
            assert_eq!(frame.count().expect("a count"), 10_000);
            assert_eq!(frame.group_by("category").sum("value").compute_async().await.expect("sums").num_rows(), 100);
            cluster.close();
        });
    });
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

#[test]
fn waiting_for_an_answer_needs_no_particular_async_runtime() {
    timed(|| {
        let (_folder, path) = large_data(30_000);
        let cluster = cluster(2);
        let frame = cluster.read_csv(&path).expect("a CSV file");
        let mut answer = std::pin::pin!(frame.select(["id"]).compute_async());
        let waker = Waker::from(Arc::new(Unpark(thread::current())));
        let table = loop {
            match answer.as_mut().poll(&mut Context::from_waker(&waker)) {
                Poll::Ready(table) => break table.expect("the rows"),
                Poll::Pending => thread::park(),
            }
        };
        assert_eq!(ids(&table), (0..30_000).collect::<Vec<_>>());
    });
}

#[test]
fn explain_shows_the_plan_as_written_as_optimised_and_as_actors() {
    timed(|| {
        let (_folder, path) = large_data(1000);
        let cluster = cluster(4);
        let frame = cluster.read_csv(&path).expect("a CSV file");
        let means = frame.group_by("category").mean("value").filter(col("value").gt(lit(500)));
        let text = means.explain().expect("a plan");
        for part in ["Filter: value > Int32(500)", "projection=[category, value]", "hash(category)", "4 workers"] {
            assert!(text.contains(part), "`{part}` is missing in:\n{text}");
        }
        assert!(means.explain_dot().expect("a plan").starts_with("digraph"));
        assert!(means.explain_mermaid().expect("a plan").starts_with("flowchart"));
        assert!(frame.npartitions().expect("a plan") >= 1);
    });
}

#[test]
fn sums_that_do_not_fit_in_memory_are_right_all_the_same() {
    timed(|| {
        let cluster =
            LocalCluster::builder().workers(2).memory_limit("16MB").progress(false).start().expect("a cluster");
        let numbers = cluster.from_source("numbers", range("n", Some(400_000))).expect("a frame");
        let keyed = numbers.with_column("key", cast(col("n"), DataType::Utf8View)).group_by("key").sum("n");
        let mut rows = keyed.stream().expect("a stream");
        let (mut groups, mut total) = (0, 0);
        for batch in rows.by_ref() {
            let batch = batch.expect("groups");
            groups += batch.num_rows();
            total += batch.column(1).as_primitive::<Int64Type>().values().iter().sum::<i64>();
        }
        assert_eq!((groups, total), (400_000, (0..400_000).sum()));
    });
}

#[test]
fn nothing_is_left_in_the_folder_for_spilling() {
    timed(|| {
        let folder = tempfile::tempdir().expect("a folder");
        let cluster = LocalCluster::builder().workers(2).memory_limit("16MB").spill_dir(folder.path()).progress(false);
        let cluster = cluster.start().expect("a cluster");
        let numbers = cluster.from_source("numbers", range("n", Some(200_000))).expect("a frame");
        assert_eq!(numbers.group_by("n").size().count().expect("a count"), 200_000);
        cluster.close();
        assert_eq!(entries(folder.path()), 0);
    });
}

fn entries(folder: &Path) -> usize {
    fs::read_dir(folder).expect("the folder").count()
}

/// Two workers of 16 MB each, and what the rows of `frame` were and spilled there.
fn computed_and_spilled(frame: &Frame) -> (Vec<RecordBatch>, u64) {
    let mut rows = frame.stream().expect("a stream");
    let batches = rows.by_ref().collect::<Result<Vec<_>, _>>().expect("the rows");
    let metrics = rows.job().metrics();
    (batches, metrics.workers.iter().map(|worker| worker.spilled_bytes).sum())
}

/// 0, 7919, 15838, … modulo `rows`: every number below it once, in no particular order.
fn shuffled(cluster: &LocalCluster, rows: i64) -> Frame {
    let numbers = cluster.from_source("numbers", range("n", Some(rows.unsigned_abs()))).expect("a frame");
    let n = || col("n");
    numbers.with_column("v", n() * lit(7919_i64) % lit(rows)).with_column("one", n() - n())
}

#[test]
fn distinct_values_of_one_group_do_not_have_to_fit_in_memory() {
    timed(|| {
        let cluster =
            LocalCluster::builder().workers(2).memory_limit("16MB").progress(false).start().expect("a cluster");
        let rows = 200_000;
        let text = concat(vec![lit("a text that is longer than that "), cast(col("v"), DataType::Utf8View)]);
        let frame = shuffled(&cluster, rows).with_column("t", text);
        let int = |batches: &[RecordBatch], column: usize| {
            assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), 1);
            batches[0].column(column).as_primitive::<Int64Type>().value(0)
        };

        let (answer, _) = computed_and_spilled(&frame.group_by("one").agg([count_distinct(col("t"))]));
        assert_eq!(int(&answer, 1), rows);

        // Together with others of any kind.
        let mixed = [count_distinct(col("v")), count_rows(), sum(col("v")), count_distinct(col("v") % lit(1000_i64))];
        for (frame, keys) in [(frame.group_by("one").agg(mixed.clone()), 1), (frame.aggregate(mixed), 0)] {
            let (answer, _) = computed_and_spilled(&frame);
            let found = [0, 1, 2, 3].map(|column| int(&answer, keys + column));
            assert_eq!(found, [rows, rows, rows * (rows - 1) / 2, 1000]);
        }
    });
}

#[test]
fn medians_of_one_group_do_not_have_to_fit_in_memory() {
    timed(|| {
        let cluster =
            LocalCluster::builder().workers(2).memory_limit("16MB").progress(false).start().expect("a cluster");
        let rows = 1_000_000;
        let frame = shuffled(&cluster, rows);
        let tenth = percentile_cont(cast(col("v"), DataType::Float64).sort(true, false), lit(0.1));
        let of = [median(col("v")).alias("median"), tenth.alias("tenth"), max(col("v")).alias("max")];
        for (frame, keys) in [(frame.group_by("one").agg(of.clone()), 1), (frame.aggregate(of), 0)] {
            let (answer, spilled) = computed_and_spilled(&frame);
            assert_eq!(answer.iter().map(RecordBatch::num_rows).sum::<usize>(), 1);
            let column = |column: usize| answer[0].column(keys + column);
            assert_eq!(column(0).as_primitive::<Float64Type>().value(0), 499_999.5);
            // 0.1 * 999,999 is the rank and the value.
            assert!((column(1).as_primitive::<Float64Type>().value(0) - 99_999.9).abs() < 1e-6);
            assert_eq!(column(2).as_primitive::<Int64Type>().value(0), 999_999);
            assert!(spilled > 0);
        }
    });
}
