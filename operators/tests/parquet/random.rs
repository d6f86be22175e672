//! Random rows in random layouts are read as the plain reader reads them, and filtered as arrow filters them.

use std::sync::Arc;

use aqueduct_operators::expression::{Expression, evaluate_mask};
use aqueduct_operators::parquet::{ParquetOptions, ParquetSource};
use aqueduct_runtime::SourceSpec;
use arrow::array::{
    ArrayRef, BinaryArray, Float64Array, Int32Array, Int64Array, Int64Builder, ListBuilder, RecordBatch, StringArray,
    StructArray,
};
use arrow::compute::{concat_batches, filter_record_batch};
use arrow::datatypes::{DataType, Field};
use datafusion_common::ScalarValue;
use datafusion_expr::Operator;
use datafusion_physical_expr::expressions::{binary, col, is_null, lit};
use parquet::basic::Compression;
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterVersion};
use proptest::prelude::*;

use crate::common::{Drive, plainly, write};

type Row = (Option<i64>, Option<f64>, Option<String>, Option<Vec<Option<i64>>>, Option<Option<i32>>, Option<Vec<u8>>);

fn row() -> impl Strategy<Value = Row> {
    let float = prop_oneof![8 => (-20..20i32).prop_map(f64::from), 1 => Just(f64::NAN), 1 => Just(-0.0)];
    (
        prop::option::weighted(0.9, -50..50i64),
        prop::option::weighted(0.8, float),
        prop::option::weighted(0.8, "[a-d]{0,3}|[a-z]{10,40}"),
        prop::option::weighted(0.9, prop::collection::vec(prop::option::weighted(0.8, 0..9i64), 0..6)),
        prop::option::weighted(0.8, prop::option::weighted(0.7, 0..100i32)),
        prop::option::weighted(0.8, prop::collection::vec(any::<u8>(), 0..20)),
    )
}

fn batch(rows: &[Row]) -> RecordBatch {
    let mut lists = ListBuilder::new(Int64Builder::new());
    for row in rows {
        row.3.iter().flatten().for_each(|value| lists.values().append_option(*value));
        lists.append(row.3.is_some());
    }
    let inner = Int32Array::from_iter(rows.iter().map(|row| row.4.flatten()));
    let present: Vec<bool> = rows.iter().map(|row| row.4.is_some()).collect();
    let pair = StructArray::new(
        vec![Field::new("x", DataType::Int32, true)].into(),
        vec![Arc::new(inner)],
        Some(present.into()),
    );
    let columns: [(&str, ArrayRef); 6] = [
        ("n", Arc::new(Int64Array::from_iter(rows.iter().map(|row| row.0)))),
        ("x", Arc::new(Float64Array::from_iter(rows.iter().map(|row| row.1)))),
        ("s", Arc::new(StringArray::from_iter(rows.iter().map(|row| row.2.as_deref())))),
        ("l", Arc::new(lists.finish())),
        ("r", Arc::new(pair)),
        ("b", Arc::new(BinaryArray::from_iter(rows.iter().map(|row| row.5.as_deref())))),
    ];
    RecordBatch::try_from_iter_with_nullable(columns.map(|(name, column)| (name, column, true))).expect("columns")
}

#[derive(Debug, Clone)]
struct Layout {
    page_rows: usize,
    group_rows: usize,
    dictionary: bool,
    index: bool,
    version_2: bool,
    compressed: bool,
    bloom: bool,
}

impl Layout {
    fn properties(&self) -> WriterProperties {
        WriterProperties::builder()
            .set_data_page_row_count_limit(self.page_rows)
            .set_write_batch_size(self.page_rows.min(8))
            .set_max_row_group_row_count(Some(self.group_rows))
            .set_dictionary_enabled(self.dictionary)
            .set_offset_index_disabled(!self.index)
            .set_statistics_enabled(if self.index { EnabledStatistics::Page } else { EnabledStatistics::Chunk })
            .set_writer_version(if self.version_2 { WriterVersion::PARQUET_2_0 } else { WriterVersion::PARQUET_1_0 })
            .set_compression(if self.compressed { Compression::SNAPPY } else { Compression::UNCOMPRESSED })
            .set_bloom_filter_enabled(self.bloom)
            .build()
    }
}

fn layout() -> impl Strategy<Value = Layout> {
    let flags = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    (1..40usize, 1..200usize, flags).prop_map(|(page_rows, group_rows, flags)| Layout {
        page_rows,
        group_rows,
        dictionary: flags.0,
        index: flags.1,
        version_2: flags.2,
        compressed: flags.3,
        bloom: flags.4,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]
    #[test]
    fn random_files_are_read_and_filtered_as_the_judges_do(
        rows in prop::collection::vec(row(), 0..300),
        layout in layout(),
        batch_rows in 1..100usize,
        batch_bytes in 200..20_000usize,
        bound in -60..60i64,
        text in "[a-d]{0,2}",
        ordered in any::<bool>(),
    ) {
        let mut rows = rows;
        if ordered {
            rows.sort_by_key(|row| row.0);
        }
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.parquet");
        write(&path, &[batch(&rows)], layout.properties());
        let drive = Drive { batch_rows, batch_bytes, ..Drive::default() };
        let source = ParquetSource::open(&path, ParquetOptions::default()).expect("a file");
        let schema = source.file_schema();
        let all = plainly(&path, &schema);
        let read = drive.read(&source).expect("readable");
        prop_assert_eq!(&concat_batches(&schema, &read.batches).expect("one schema"), &all);
        let column = |name| col(name, &schema).expect("a column");
        let text = lit(ScalarValue::Utf8View(Some(text)));
        let compare = |name, operator, value: &Expression| {
            binary(column(name), operator, Arc::clone(value), &schema).expect("comparable")
        };
        let both = |one, operator, other| binary(one, operator, other, &schema);
        let number = lit(bound);
        let missing = is_null(column("s")).expect("a predicate");
        let predicates = [
            // Of texts alone, of texts and numbers apart, and of both in one.
            both(compare("s", Operator::GtEq, &text), Operator::And, compare("n", Operator::Lt, &number)),
            both(missing, Operator::Or, compare("s", Operator::NotEq, &text)),
            both(compare("s", Operator::Eq, &text), Operator::Or, compare("n", Operator::Gt, &number)),
            binary(column("n"), Operator::LtEq, lit(bound), &schema),
            binary(column("n"), Operator::Eq, lit(bound), &schema),
            binary(column("x"), Operator::Gt, lit(bound as f64), &schema),
            binary(column("s"), Operator::Eq, Arc::clone(&text), &schema),
            binary(column("s"), Operator::Lt, text, &schema),
        ];
        for predicate in predicates {
            let predicate = predicate.expect("comparable");
            let mask = evaluate_mask(predicate.as_ref(), &all).expect("evaluates");
            let expected = filter_record_batch(&all, &mask).expect("as long").project(&[3, 0, 2, 4, 5]).expect("columns");
            let source = source.with_projection(&[3, 0, 2, 4, 5]).expect("columns").with_predicate(predicate);
            let source = source.expect("boolean");
            let read = drive.read(&source).expect("readable");
            prop_assert_eq!(concat_batches(&source.schema(), &read.batches).expect("one schema"), expected);
        }
    }
}
