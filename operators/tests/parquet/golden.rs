//! Files that other software wrote, by `tests/golden/parquet.py`, hold the rows that it was given.

use std::path::{Path, PathBuf};

use aqueduct_operators::parquet::{ParquetFileError, ParquetOptions, ParquetSource};
use aqueduct_runtime::{OperatorError, ScanContext, SourceSpec};
use arrow::array::RecordBatch;
use arrow::datatypes::DataType;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion_expr::Operator;
use datafusion_physical_expr::expressions::{binary, col, lit};

use crate::common::{Drive, rows};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/parquet").join(name)
}

const FILES: [&str; 7] = [
    "pyarrow-1.parquet",
    "pyarrow-2.parquet",
    "pyarrow-index.parquet",
    "pyarrow-delta.parquet",
    "pyarrow-dictionary.parquet",
    "polars.parquet",
    "duckdb.parquet",
];

/// One line for each row, as the script writes them.
fn lines(batch: &RecordBatch) -> Vec<String> {
    let options = FormatOptions::default().with_null("null");
    let columns = batch.columns().iter().map(|column| ArrayFormatter::try_new(column, &options).expect("printable"));
    let columns: Vec<_> = columns.collect();
    let line = |row: usize| columns.iter().map(|column| column.value(row).to_string()).collect::<Vec<_>>().join("|");
    (0..batch.num_rows()).map(line).collect()
}

fn expected() -> Vec<String> {
    let text = std::fs::read_to_string(golden("rows.txt")).expect("the rows");
    text.lines().map(str::to_string).collect()
}

#[test]
fn files_of_other_writers_hold_the_rows_they_were_given() {
    let expected = expected();
    for name in FILES {
        let source = ParquetSource::open(golden(name), ParquetOptions::default()).expect(name);
        assert_eq!(lines(&rows(&source)), expected, "{name}");
        // One row after the other, and with each of the columns alone.
        for batch_rows in [1, 7, 50] {
            let drive = Drive { batch_rows, ..Drive::default() };
            let read = drive.read(&source).expect(name);
            let found: Vec<String> = read.batches.iter().flat_map(lines).collect();
            assert_eq!(found, expected, "{name} in batches of {batch_rows}");
        }
        for column in 0..10 {
            let found = lines(&rows(&source.with_projection(&[column]).expect("a column")));
            let expected: Vec<&str> =
                expected.iter().map(|line| line.split('|').nth(column).expect("ten columns")).collect();
            assert_eq!(found, expected, "{name}, column {column}");
        }
    }
}

#[test]
fn files_of_other_writers_are_filtered() {
    let expected = expected();
    for name in FILES {
        let source = ParquetSource::open(golden(name), ParquetOptions::default()).expect(name);
        let schema = source.file_schema();
        for bound in [-1_000_000i64, 17_000_000, 150_000_000, 300_000_000] {
            let predicate = binary(col("i", &schema).expect("a column"), Operator::GtEq, lit(bound), &schema);
            let found = lines(&rows(&source.with_predicate(predicate.expect("comparable")).expect("boolean")));
            let first = |line: &str| line.split('|').next().and_then(|i| i.parse::<i64>().ok());
            let expected = expected.iter().filter(|line| first(line).is_some_and(|i| i >= bound));
            assert_eq!(found, expected.cloned().collect::<Vec<_>>(), "{name} from {bound}");
        }
    }
}

#[test]
fn dictionaries_stay_dictionaries() {
    let source = ParquetSource::open(golden("pyarrow-dictionary.parquet"), ParquetOptions::default()).expect("a file");
    assert!(matches!(source.schema().field(7).data_type(), DataType::Dictionary(_, _)));
}

#[test]
fn a_compression_that_is_not_supported_is_named_and_other_columns_are_read() {
    let source = ParquetSource::open(golden("pyarrow-brotli.parquet"), ParquetOptions::default()).expect("a file");
    let error = source.scan(ScanContext { batch_bytes: 1 << 16, partitions: 1 }).map(|_| ()).expect_err("brotli");
    let OperatorError::Other(inner) = &error else { panic!("{error}") };
    assert!(
        matches!(inner.downcast_ref(), Some(ParquetFileError::Compression { column, .. }) if column == "s"),
        "{error}"
    );
    assert!(error.to_string().contains("BROTLI"), "{error}");
    assert_eq!(rows(&source.with_projection(&[0]).expect("a column")).num_rows(), 240);
}
