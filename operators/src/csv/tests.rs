//! Whole scans, driven without actors, beside what arrow-csv reads.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aqueduct_runtime::testing::hostile::replay;
use aqueduct_runtime::{OperatorError, Outbox, Result, Scan, ScanContext, SourceSpec, SourceStep};
use arrow::array::AsArray;
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use arrow::record_batch::RecordBatch;
use proptest::prelude::*;
use tempfile::TempDir;

use super::beside_arrow::{Bench, by_arrow, compare_at_every_split, hostile, read, schema};
use super::{CsvError, CsvOptions, CsvSource};

/// Reads all of `source` in the usual way.
fn read_all(source: &CsvSource) -> Result<RecordBatch> {
    let bench = Bench::new(1 << 30);
    let scan = source.scan(ScanContext { batch_bytes: bench.batch_bytes, partitions: 2 })?;
    let batches = bench.drive(&*scan, 2, source.min_memory(bench.batch_bytes))?;
    Ok(concat_batches(&source.schema(), &batches).expect("one schema"))
}

fn write(folder: &TempDir, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
    let path = folder.path().join(name);
    std::fs::write(&path, text).expect("written");
    path
}

fn folder() -> TempDir {
    tempfile::tempdir().expect("a folder")
}

#[test]
fn the_corpus_of_the_fuzz_target_is_read_as_arrow_reads_it() {
    replay("csv", hostile);
}

#[test]
fn quoted_newlines_are_read_right_wherever_a_split_begins() {
    use DataType::{Int64, Utf8View};
    compare_at_every_split(b"1,\"a\nb\"\n2,\"\n\n\"\n3,\"x\"\"\n,\"\"\n\"\n4,plain\n5,\"\"\"\"\n", &[Int64, Utf8View]);
    compare_at_every_split(b"\"1,\n2,\n3,\n4,\n5,\n6\",a\n\"7,\n\",b\r\n8,\"\r\n\"", &[Utf8View, Utf8View]);
    compare_at_every_split(b"a\"b,\"c\"d\"\n\"\"x,\"y\"\n", &[Utf8View, DataType::Utf8]);
    compare_at_every_split(b"\n\r\n1\n\n\r\n2\r\n\n", &[Int64]);
    compare_at_every_split(
        b"a longer string that no view holds,\"and \"\"another\"\" one of\nthem\"\nb,c",
        &[Utf8View, Utf8View],
    );
}

fn hostile_text() -> impl Strategy<Value = String> {
    let token = prop_oneof![
        4 => Just("\""), 3 => Just(","), 3 => Just("\n"), 1 => Just("\r\n"), 2 => Just("a"), 1 => Just("7"),
        1 => Just("\u{e9}"), 1 => Just("more than twelve bytes"), 1 => Just("\"\""), 1 => Just("\",\""), 1 => Just("\"\n\""),
    ];
    prop::collection::vec(token, 0..24).prop_map(|tokens| tokens.concat())
}

fn regular_text(columns: usize) -> impl Strategy<Value = String> {
    let field = prop_oneof![
        "[a-c]{0,3}".prop_map(|text| text),
        "[a\"\n,\r\u{e9} ]{0,6}".prop_map(|text| format!("\"{}\"", text.replace('"', "\"\""))),
        Just("a text of more than twelve bytes".to_string()),
    ];
    let end = prop_oneof![3 => Just("\n"), 1 => Just("\r\n"), 1 => Just("\n\n")];
    let row = (prop::collection::vec(field, columns), end).prop_map(|(fields, end)| fields.join(",") + end);
    (prop::collection::vec(row, 0..8), any::<bool>()).prop_map(|(rows, trim)| {
        let text = rows.concat();
        if trim { text.trim_end_matches(['\n', '\r']).to_string() } else { text }
    })
}

fn value(kind: &DataType) -> BoxedStrategy<String> {
    match kind {
        DataType::Boolean => "(true|false|TRUE|False|)".boxed(),
        DataType::Int64 | DataType::UInt8 => "(-?[0-9]{1,3}|[0-9]{9,18}|)".boxed(),
        DataType::Float64 | DataType::Float32 => "(-?[0-9]{1,9}(\\.[0-9]{0,9})?(e-?[0-9]{1,2})?|inf|NaN|)".boxed(),
        DataType::Decimal128(..) => "(-?[0-9]{1,9}(\\.[0-9]{0,2})?|)".boxed(),
        DataType::Date32 => "(19|20)[0-9]{2}-(0[1-9]|1[0-2])-(0[1-9]|2[0-8])".boxed(),
        DataType::Time64(_) | DataType::Time32(_) => "([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\\.[0-9]{1,6})?".boxed(),
        DataType::Timestamp(..) => {
            "20[0-9]{2}-0[1-9]-1[0-9][T ]([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\\.[0-9]{1,9})?Z?".boxed()
        }
        _ => "[a-z]{0,14}".boxed(),
    }
}

fn typed_text() -> impl Strategy<Value = (Vec<DataType>, String)> {
    let kinds = vec![
        DataType::Boolean,
        DataType::Int64,
        DataType::UInt8,
        DataType::Float64,
        DataType::Float32,
        DataType::Decimal128(20, 2),
        DataType::Date32,
        DataType::Time32(TimeUnit::Second),
        DataType::Time64(TimeUnit::Microsecond),
        DataType::Timestamp(TimeUnit::Second, None),
        DataType::Timestamp(TimeUnit::Nanosecond, None),
        DataType::Utf8,
        DataType::LargeUtf8,
        DataType::Utf8View,
    ];
    prop::collection::vec(prop::sample::select(kinds), 1..5).prop_flat_map(|kinds| {
        let row = kinds.iter().map(value).collect::<Vec<_>>();
        // A lone empty field is a blank line.
        let lone = kinds.len() == 1;
        let row = row.prop_map(move |fields| fields.join(",")).prop_filter("a row", move |r| !lone || !r.is_empty());
        (Just(kinds), prop::collection::vec(row, 0..40).prop_map(|rows| rows.join("\n")))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn hostile_text_is_read_as_arrow_reads_it(text in hostile_text(), columns in 1_usize..4) {
        compare_at_every_split(text.as_bytes(), &vec![DataType::Utf8View; columns]);
    }

    #[test]
    fn regular_text_is_read_as_arrow_reads_it((columns, text) in (1_usize..4).prop_flat_map(|c| (Just(c), regular_text(c)))) {
        // A lone `\r` outside of quotes ends a line for csv-core, and is text here: none is generated.
        compare_at_every_split(text.as_bytes(), &vec![DataType::Utf8View; columns]);
    }

    #[test]
    fn typed_values_are_those_of_arrow((kinds, text) in typed_text(), split_bytes in 1_usize..300, budget in 1_usize..500) {
        let folder = folder();
        let path = write(&folder, "data.csv", &text);
        let schema = schema(&kinds);
        let expected = by_arrow(text.as_bytes(), Arc::clone(&schema), false);
        let options = CsvOptions { header: false, schema: Some(schema), ..Default::default() };
        let source = CsvSource::open(&path, options).expect("opened");
        let mut bench = Bench::new(1 << 30);
        bench.batch_bytes = budget;
        let found = read(&source, &bench, &source.csv_scan(split_bytes, 16, 2), 2);
        match (found, expected) {
            (Ok(found), Ok(expected)) => {
                prop_assert_eq!(found.num_rows(), expected.num_rows());
                for (found, expected) in found.columns().iter().zip(expected.columns()) {
                    prop_assert_eq!(found, expected, "{}", text);
                }
            }
            (Err(_), Err(_)) => {}
            (found, expected) => prop_assert!(false, "{}: {:?} and {:?}", text, found, expected),
        }
    }
}

#[test]
fn files_without_rows_newlines_or_plain_line_ends_are_read() {
    let folder = folder();
    let options = || CsvOptions { schema: Some(schema(&[DataType::Int64, DataType::Utf8View])), ..Default::default() };
    for (text, count) in [
        ("", 0),
        ("c0,c1", 0),
        ("c0,c1\n", 0),
        ("c0,c1\r\n1,a\r\n2,b", 2),
        ("\u{FEFF}c0,c1\n1,a\n", 1),
        ("\u{FEFF}\"c0\",c1\n1,\"a\"\n", 1),
        ("\nc0,c1\n\n1,a\n\n", 1),
    ] {
        for name in ["a.csv", "a.csv.gz", "a.csv.zst"] {
            let path = write(&folder, name, compressed(name, text.as_bytes()));
            let source = CsvSource::open(&path, options()).expect("opened");
            let batch = read_all(&source).expect("read");
            assert_eq!(batch.num_rows(), count, "{name}: {text:?}");
            let bench = Bench::new(1 << 30);
            for split_bytes in 1..=text.len() {
                let batch = read(&source, &bench, &source.csv_scan(split_bytes, 1, 2), 2).expect("read");
                assert_eq!(batch.num_rows(), count, "{name}: {text:?} split at {split_bytes}");
            }
        }
    }
}

fn compressed(name: &str, text: &[u8]) -> Vec<u8> {
    match name.rsplit('.').next() {
        Some("gz") => {
            let mut encoder = flate2::write::GzEncoder::new(vec![], flate2::Compression::fast());
            encoder.write_all(text).expect("written");
            encoder.finish().expect("finished")
        }
        Some("zst") => zstd::encode_all(text, 1).expect("encoded"),
        _ => text.to_vec(),
    }
}

fn numbered(rows: std::ops::Range<usize>) -> String {
    let row = |i| format!("{i},\"line\n{i}\",{i}.5,{}\n", "long text ".repeat(i % 7));
    "id,name,value,text\n".to_string() + &rows.map(row).collect::<String>()
}

#[test]
fn many_files_of_all_kinds_are_one_table_in_order() {
    let folder = folder();
    for (i, name) in ["a.csv", "b.csv.gz", "c.csv.zst", "d.csv", "e.csv.gz"].into_iter().enumerate() {
        write(&folder, name, compressed(name, numbered(i * 20_000..(i + 1) * 20_000).as_bytes()));
    }
    write(&folder, "c0.csv", "");
    let source = CsvSource::open(folder.path().join("*.csv*"), CsvOptions::default()).expect("opened");
    assert_eq!(source.paths().count(), 6);
    let projected = source.with_projection(&[3, 0]).expect("columns");
    let batch = read_all(&projected).expect("read");
    assert_eq!(batch.num_rows(), 100_000);
    let ids = batch.column(1).as_primitive::<arrow::datatypes::Int64Type>();
    assert!(ids.values().iter().enumerate().all(|(i, id)| i as i64 == *id));
    let text = batch.column(0).as_string_view();
    let expected = |i: usize| "long text ".repeat(i % 7);
    assert!(
        (0..100_000).all(|i| (if arrow::array::Array::is_null(text, i) { "" } else { text.value(i) }) == expected(i))
    );
    let counted = read_all(&source.with_projection(&[]).expect("no columns")).expect("read");
    assert_eq!((counted.num_rows(), counted.num_columns()), (100_000, 0));
}

#[test]
fn files_with_other_headers_are_refused_by_name() {
    let folder = folder();
    write(&folder, "a.csv", "x,y\n1,2\n");
    write(&folder, "b.csv", "x,z\n1,2\n");
    let source = CsvSource::open(folder.path().join("*.csv"), CsvOptions::default()).expect("opened");
    let error = read_all(&source).expect_err("headers differ").to_string();
    assert!(error.contains("b.csv") && error.contains("\"z\"") && error.contains("a.csv"), "{error}");
}

fn csv_error(source: &CsvSource) -> (CsvError, String) {
    let error = read_all(source).expect_err("broken");
    let text = error.to_string();
    match error {
        OperatorError::Other(error) => (*error.downcast::<CsvError>().expect("a CSV error"), text),
        other => panic!("{other}"),
    }
}

#[test]
fn a_broken_line_is_named_with_file_line_column_and_value() {
    let folder = folder();
    let rows = |broken: &str| {
        let row = |i| if i == 89_998 { format!("{broken}\n") } else { format!("{i},cat_{},{}.0\n", i % 100, i % 1000) };
        "id,category,value\n".to_string() + &(0..100_000).map(row).collect::<String>()
    };
    for name in ["large_data.csv", "large_data.csv.gz"] {
        let open = |broken: &str| {
            let path = write(&folder, name, compressed(name, rows(broken).as_bytes()));
            CsvSource::open(path, CsvOptions::default()).expect("opened")
        };
        let (error, text) = csv_error(&open("1,2"));
        assert!(matches!(error, CsvError::Fields { line: 90_000, expected: 3, found: 2, .. }), "{text}");
        assert!(text.contains(&format!("{name} line 90000: expected 3 fields, found 2")), "{text}");
        let (error, text) = csv_error(&open("1.5,cat_1,1.0"));
        assert!(
            matches!(&error, CsvError::Value { line: 90_000, column, value, .. } if column == "id" && value == "1.5")
        );
        assert!(text.contains("give a schema with Float64 for this column"), "{text}");
        let (error, text) = csv_error(&open("1,cat_1,\"oh, no\""));
        assert!(
            matches!(&error, CsvError::Value { column, value, .. } if column == "value" && value == "oh, no"),
            "{text}"
        );
        let (error, _) = csv_error(&open("1,\"cat_1,1.0"));
        assert!(matches!(error, CsvError::Unclosed { line: 90_000, .. }), "{error}");
        // A column that nobody reads may hold what it likes.
        let unread = open("x,cat_1,1.0").with_projection(&[1, 2]).expect("columns");
        assert_eq!(read_all(&unread).expect("read").num_rows(), 100_000);
    }
}

#[test]
fn a_wider_type_reads_what_the_inferred_one_could_not() {
    let folder = folder();
    let text = "a,b\n".to_string() + &"1,2020-01-01\n".repeat(20_000) + "1.5,soon\n";
    let source = CsvSource::open(write(&folder, "a.csv", text), CsvOptions::default()).expect("opened");
    assert_eq!(source.schema().field(0).data_type(), &DataType::Int64);
    let wider = source.widen("a").expect("a column").expect("wider").widen("b").expect("a column").expect("wider");
    assert_eq!(read_all(&wider).expect("read").num_rows(), 20_001);
    assert_eq!(wider.schema().field(1).data_type(), &DataType::Utf8View);
    assert!(wider.widen("b").expect("a column").is_none());
    assert!(source.widen("c").is_err());
}

#[test]
fn bytes_that_are_no_text_are_an_error_only_where_text_is_wanted() {
    let folder = folder();
    let path = write(&folder, "a.csv", b"a,b\n1,good\n2,b\xFFd\n".as_slice());
    let source = CsvSource::open(&path, CsvOptions::default()).expect("opened");
    let (error, _) = csv_error(&source);
    assert!(matches!(error, CsvError::Utf8 { line: 3, .. }), "{error}");
    assert_eq!(read_all(&source.with_projection(&[0]).expect("a column")).expect("read").num_rows(), 2);
}

#[test]
fn nulls_are_what_the_options_say() {
    let folder = folder();
    let path = write(&folder, "a.csv", "n,t\n1,x\nNA,NA\n3,\n4,\"\"\n5,\"NA\"\n");
    let nulls = |spellings: &[&str]| {
        let nulls = spellings.iter().map(ToString::to_string).collect();
        let options = CsvOptions { nulls, ..Default::default() };
        let batch = read_all(&CsvSource::open(&path, options).expect("opened")).expect("read");
        let null = |column: usize| (0..5).map(|row| batch.column(column).is_null(row)).collect::<Vec<_>>();
        (batch.schema().field(0).data_type().clone(), null(0), null(1))
    };
    let (kind, n, t) = nulls(&["NA"]);
    assert_eq!(kind, DataType::Int64);
    assert_eq!(n, [false, true, false, false, false]);
    assert_eq!(t, [false, true, false, false, false]);
    let (kind, _, t) = nulls(&[""]);
    assert_eq!(kind, DataType::Utf8View);
    assert_eq!(t, [false, false, true, false, false]);
}

#[test]
fn a_never_null_column_refuses_an_empty_field() {
    let folder = folder();
    let path = write(&folder, "a.csv", "a,b\n1,2\n3,\n");
    let fields = vec![Field::new("a", DataType::Int64, false), Field::new("b", DataType::Int64, false)];
    let options = CsvOptions { schema: Some(Arc::new(Schema::new(fields))), ..Default::default() };
    let (error, _) = csv_error(&CsvSource::open(path, options).expect("opened"));
    assert!(matches!(&error, CsvError::Null { line: 3, column, .. } if column == "b"), "{error}");
}

#[test]
fn a_reader_that_stops_early_does_not_hold_up_the_others() {
    let folder = folder();
    // Every line looks like a record, and is the inside of one long quoted field.
    let text = "a,b\n0,\"".to_string() + &"1,2\n".repeat(5_000) + "\"\n" + &"3,4\n".repeat(5_000);
    let path = write(&folder, "a.csv", &text);
    let source = CsvSource::open(&path, CsvOptions::default()).expect("opened");
    let bench = Bench::new(1 << 30);
    let scan = source.csv_scan(1000, 10, 2);
    let floor = source.min_memory(bench.batch_bytes);
    let mut leaving: Vec<_> =
        (0..3).map(|_| bench.open(&scan, &bench.pool.admit(floor).expect("the floor fits"), floor)).collect();
    for source in &mut leaving {
        let split = scan.next_split().expect("no error").expect("a split");
        source.start(&split).expect("started");
        let _ = source.read(1, &mut Outbox::new()).expect("no error");
    }
    let mut staying = bench.open(&scan, &bench.pool.admit(floor).expect("the floor fits"), floor);
    let split = scan.next_split().expect("no error").expect("a split");
    staying.start(&split).expect("started");
    leaving.clear();
    let mut out = Outbox::new();
    loop {
        match staying.read(1 << 20, &mut out).expect("read") {
            SourceStep::Done => break,
            SourceStep::More => {}
            SourceStep::Blocked(ticket) => ticket.wait(),
        }
    }
    drop(staying);
    let rest = bench.drive(&scan, 2, floor).expect("read");
    assert_eq!(rest.iter().map(RecordBatch::num_rows).sum::<usize>(), 5_000);
}

#[test]
fn memory_stays_within_the_floor_and_a_row_beyond_it_is_a_typed_error() {
    let folder = folder();
    for name in ["a.csv", "a.csv.gz", "a.csv.zst"] {
        let mut text = numbered(0..100_000);
        let path = write(&folder, name, compressed(name, text.as_bytes()));
        let source = CsvSource::open(&path, CsvOptions::default()).expect("opened");
        let batch_bytes = 64 * 1024;
        let floor = source.min_memory(batch_bytes);
        if name == "a.csv" {
            assert!(floor <= 1 << 20, "{floor}");
        }
        let scan = |source: &CsvSource| source.scan(ScanContext { batch_bytes, partitions: 2 }).expect("a scan");
        let bench = Bench::new(2 * floor);
        let batches = bench.drive(&*scan(&source), 2, floor).expect("read");
        assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), 100_000);
        assert!(batches.iter().all(|batch| batch.get_array_memory_size() <= 2 * batch_bytes), "{name}");
        assert_eq!((bench.pool.charged(), bench.pool.overruns()), (0, 0), "{name}");
        assert_eq!(bench.pool.peak(), 2 * floor, "{name}");
        text.push_str(&format!("1,{},1.5,\n", "x".repeat(4 << 20)));
        let path = write(&folder, name, compressed(name, text.as_bytes()));
        let source = CsvSource::open(&path, CsvOptions::default()).expect("opened");
        let floor = source.min_memory(batch_bytes);
        let bench = Bench::new(2 * floor);
        let error = bench.drive(&*scan(&source), 2, floor).expect_err("too large");
        assert!(matches!(error, OperatorError::RowTooLarge { .. }), "{name}: {error}");
        let bench = Bench::new(1 << 28);
        let batches = bench.drive(&*scan(&source), 2, floor).expect("read");
        assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), 100_001, "{name}");
        assert_eq!((bench.pool.charged(), bench.pool.overruns()), (0, 0), "{name}");
    }
}

#[test]
fn a_small_read_covers_kilobytes_and_partitions_are_the_splits() {
    let folder = folder();
    let path = write(&folder, "a.csv", numbered(0..100_000));
    let source = CsvSource::open(&path, CsvOptions::default()).expect("opened");
    let splits = |source: &CsvSource| {
        let scan = source.scan(ScanContext { batch_bytes: 1 << 20, partitions: 1 }).expect("a scan");
        let mut splits = vec![];
        while let Some(split) = scan.next_split().expect("no error") {
            splits.push(split);
        }
        assert_eq!(splits.iter().map(|split| split.bytes).sum::<u64>(), scan.total_bytes().expect("known"));
        splits
    };
    let usual = splits(&source);
    assert_eq!(usual.len(), source.partitions(1 << 20));
    assert_eq!(usual[1].description, "a.csv bytes 1048576..2097152");
    let small = splits(&source.with_small_reads());
    assert_eq!(small.iter().take(4).map(|split| split.bytes >> 10).collect::<Vec<_>>(), [64, 128, 256, 512]);
    let head = source.with_small_reads();
    assert_eq!(read_all(&head).expect("read").num_rows(), 100_000);
}

#[test]
fn options_survive_serialisation() {
    let options = CsvOptions {
        delimiter: b'|',
        schema: Some(schema(&[DataType::Utf8View, DataType::Timestamp(TimeUnit::Microsecond, None)])),
        ..Default::default()
    };
    let value = bincode_like(&options);
    assert_eq!(value, options);
}

/// Through serde's own value tree: no format is needed to see that nothing is lost.
fn bincode_like(options: &CsvOptions) -> CsvOptions {
    let config = bincode::config::standard();
    let bytes = bincode::serde::encode_to_vec(options, config).expect("encoded");
    bincode::serde::decode_from_slice(&bytes, config).expect("decoded").0
}

#[test]
fn a_file_that_shrinks_is_an_error() {
    let folder = folder();
    let path: &Path = &write(&folder, "a.csv", numbered(0..50_000));
    let source = CsvSource::open(path, CsvOptions::default()).expect("opened");
    std::fs::write(path, "id,name,value,text\n").expect("written");
    let (error, _) = csv_error(&source);
    assert!(matches!(error, CsvError::Shrunk { .. }), "{error}");
}
