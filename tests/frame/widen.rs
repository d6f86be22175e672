//! Values that are not of the type that was inferred for their column: failing, and widening.

use aqueduct::arrow::datatypes::{Field, Schema};
use aqueduct::{Error, Widening};

use super::*;

const ROWS: usize = 600_000;
/// Far beyond the sample that types are inferred from.
const ODD_ROW: usize = 500_000;

/// A file with `id` and `value`, both the number of the row, save the value of the odd row.
fn odd(value: &str) -> (tempfile::TempDir, PathBuf) {
    odd_rows(&[(ODD_ROW, value)])
}

fn odd_rows(odd: &[(usize, &str)]) -> (tempfile::TempDir, PathBuf) {
    let mut text = String::from("id,value\n");
    for row in 0..ROWS {
        let known = odd.iter().find(|(at, _)| *at == row);
        let value = known.map_or_else(|| row.to_string(), |(_, value)| value.to_string());
        writeln!(text, "{row},{value}").expect("a string takes what it is given");
    }
    file("odd.csv", &text)
}

fn read(cluster: &LocalCluster, path: &Path, on_mismatch: OnMismatch) -> Frame {
    cluster.read_csv_with(path, CsvOptions { on_mismatch, ..Default::default() }).expect("a CSV file")
}

fn kind(table: &Table, column: &str) -> DataType {
    table.schema().field_with_name(column).expect("the column").data_type().clone()
}

fn has(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "`{part}` is missing in: {text}");
    }
}

/// The sum of all values, with `odd` in place of the odd row's: exact, as all are whole numbers or halves.
fn total(odd: f64) -> f64 {
    (0..ROWS).filter(|row| *row != ODD_ROW).map(|row| row as f64).sum::<f64>() + odd
}

#[test]
fn a_column_that_turns_float_or_text_fails_the_job_unless_told_otherwise() {
    timed(|| {
        for (value, wider) in [("0.5", "Float64"), ("n/a", "Utf8View")] {
            let (folder, path) = odd(value);
            let cluster = cluster(2);
            let frame = cluster.read_csv(&path).expect("a CSV file");
            let out = folder.path().join("out.csv");
            let errors = [
                frame.aggregate(sum(col("value"))).compute().expect_err("no Int64"),
                frame.filter(col("value").lt(lit(0))).head(1).expect_err("no Int64"),
                frame.write_csv(&out).expect_err("no Int64"),
                read(&cluster, &path, OnMismatch::Fail).distinct().count().expect_err("no Int64"),
            ];
            for error in errors {
                assert!(matches!(error, Error::Execution(ExecutionError::Operator { .. })), "{error:?}");
                has(&error.to_string(), &["odd.csv line 500002", "`value`", value, "Int64", wider]);
            }
            assert_eq!(entries(folder.path()), 1, "the CSV file alone");
        }
    });
}

#[test]
fn a_column_that_turns_float_is_read_as_float() {
    timed(|| {
        let (folder, path) = odd("0.5");
        for workers in WORKERS {
            let cluster = cluster(workers);
            let frame = read(&cluster, &path, OnMismatch::Widen);
            let answer = frame.aggregate(sum(col("value")).alias("sum")).compute().expect("a sum");
            assert_eq!(answer.f64s("sum").expect("a float"), [Some(total(0.5))], "{workers} workers");
            assert_eq!(kind(&answer, "sum"), DataType::Float64);
            assert_eq!(frame.schema().expect("a schema").field(1).data_type(), &DataType::Int64, "as inferred");
        }
        let cluster = cluster(2);
        let frame = read(&cluster, &path, OnMismatch::Widen);
        // The first rows are as inferred: nobody reads as far as the odd one.
        assert_eq!(kind(&frame.head(3).expect("three rows"), "value"), DataType::Int64);
        let late = frame.filter(col("id").gt_eq(lit(499_999))).head(2).expect("two rows");
        assert_eq!(late.f64s("value").expect("floats"), [Some(499_999.0), Some(0.5)]);
        assert_eq!(frame.filter(col("value").lt(lit(1))).count().expect("a count"), 2);
        assert_eq!(frame.union(&frame).aggregate(max(col("value"))).compute().expect("one row").num_rows(), 1);
        // A union with a table that keeps its type has the type that takes both.
        let ints: ArrayRef = Arc::new(Int64Array::from(vec![1, 2]));
        let ints = RecordBatch::try_from_iter([("id", Arc::clone(&ints)), ("value", ints)]).expect("two columns");
        let ints = cluster.from_batches(ints.schema(), vec![ints]).expect("a frame");
        for both in [frame.union(&ints), ints.union(&frame)] {
            let both = both.aggregate(sum(col("value")).alias("sum")).compute().expect("a sum");
            assert_eq!(both.f64s("sum").expect("a float"), [Some(total(3.5))]);
        }

        let out = folder.path().join("out.csv");
        assert_eq!(frame.write_csv(&out).expect("a file"), ROWS as u64);
        let written = fs::read_to_string(&out).expect("the file");
        assert_eq!(written.lines().nth(ODD_ROW + 1), Some("500000,0.5"));
        assert_eq!(written.lines().count(), ROWS + 1);
    });
}

#[test]
fn a_column_that_turns_text_is_read_as_text() {
    timed(|| {
        let (_folder, path) = odd("n/a");
        for workers in WORKERS {
            let cluster = cluster(workers);
            let frame = read(&cluster, &path, OnMismatch::Widen);
            let answer = frame.select(["value"]).compute().expect("all rows");
            let values = answer.strings("value").expect("text");
            assert_eq!(values.len(), ROWS, "{workers} workers: each row once");
            for (row, value) in values.iter().enumerate() {
                let expected = if row == ODD_ROW { "n/a".to_string() } else { row.to_string() };
                assert_eq!(value.as_deref(), Some(expected.as_str()));
            }
        }
        let cluster = cluster(2);
        let frame = read(&cluster, &path, OnMismatch::Widen);
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let distinct = frame.select(["value"]).distinct();
        let awaited = runtime.block_on(distinct.compute_async()).expect("all values");
        assert_eq!((awaited.num_rows(), kind(&awaited, "value")), (ROWS, DataType::Utf8View));
        assert_eq!(frame.select(["value"]).union(&frame.select(["value"])).count().expect("a count"), 2 * ROWS as u64);
    });
}

#[test]
fn a_frame_that_makes_no_sense_with_the_wider_column_says_why_it_was_widened() {
    timed(|| {
        let (_folder, path) = odd("n/a");
        let cluster = cluster(2);
        let frame = read(&cluster, &path, OnMismatch::Widen);
        let error = frame.aggregate(sum(col("value"))).compute().expect_err("no sum of text");
        has(
            &error.to_string(),
            &["sum", "`value` was read as Utf8View instead of Int64", "`n/a`", "odd.csv line 500002"],
        );
        // Numbers are still compared as numbers, never as text.
        let compared = frame.filter(col("value").gt(lit(599_000))).count().expect_err("`n/a` is no number");
        has(&compared.to_string(), &["`value` was read as Utf8View instead of Int64", "`n/a`", "odd.csv line 500002"]);
        let Error::Widened { widened, .. } = error else { panic!("{error:?}") };
        let [Widening { line, column, value, .. }] = widened.as_slice() else { panic!("{widened:?}") };
        assert_eq!((*line, column.as_str(), value.as_str()), (500_002, "value", "n/a"));
    });
}

#[test]
fn a_column_may_turn_float_and_then_text() {
    timed(|| {
        let (_folder, path) = odd_rows(&[(300_000, "0.5"), (ODD_ROW, "n/a")]);
        let cluster = cluster(1);
        let frame = read(&cluster, &path, OnMismatch::Widen);
        let answer = frame.compute().expect("all rows");
        let values = answer.strings("value").expect("text");
        assert_eq!(values.len(), ROWS);
        let at = |row: usize| values[row].as_deref().expect("a value");
        assert_eq!([at(0), at(300_000), at(ODD_ROW)], ["0", "0.5", "n/a"]);
    });
}

#[test]
fn a_stream_widens_until_it_has_delivered_rows() {
    timed(|| {
        let (_folder, path) = odd("0.5");
        let cluster = cluster(2);
        let frame = read(&cluster, &path, OnMismatch::Widen);
        let mut largest = frame.aggregate(sum(col("value")).alias("sum")).stream().expect("a stream");
        assert_eq!(largest.schema().field(0).data_type(), &DataType::Int64);
        let batches: Vec<_> = largest.by_ref().collect::<Result<_, _>>().expect("one row");
        assert_eq!(largest.schema().field(0).data_type(), &DataType::Float64);
        assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), 1);
        let row = batches.iter().find(|batch| batch.num_rows() > 0).expect("a row");
        assert_eq!(row.column(0).as_primitive::<Float64Type>().value(0), total(0.5));

        let mut rows = frame.stream().expect("a stream");
        assert_eq!(rows.next().expect("rows").expect("the first").column(1).data_type(), &DataType::Int64);
        let error = rows.find_map(Result::err).expect("too late");
        has(&error.to_string(), &["odd.csv line 500002", "`0.5`"]);
        assert!(rows.next().is_none());
    });
}

#[test]
fn only_the_tables_that_were_opened_for_it_are_widened() {
    timed(|| {
        let (_folder, path) = odd("0.5");
        let cluster = cluster(2);
        let (widens, fails) = (read(&cluster, &path, OnMismatch::Widen), read(&cluster, &path, OnMismatch::Fail));
        let error = widens.union(&fails).distinct().count().expect_err("one of them fails");
        has(&error.to_string(), &["odd.csv line 500002", "is not a value of type Int64"]);

        let fields = ["id", "value"].map(|name| Field::new(name, DataType::Int64, true));
        let schema = Some(Arc::new(Schema::new(fields.to_vec())));
        let options = CsvOptions { schema, on_mismatch: OnMismatch::Widen, ..Default::default() };
        let given = cluster.read_csv_with(&path, options).expect("a CSV file");
        let error = given.distinct().count().expect_err("the schema was given");
        assert!(matches!(error, Error::Execution(_)), "{error:?}");
    });
}
