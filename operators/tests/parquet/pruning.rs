//! A predicate leaves out what it rules out, and the rows are those that a filter over all rows keeps.

use std::path::Path;
use std::sync::Arc;

use aqueduct_operators::expression::evaluate_mask;
use aqueduct_operators::parquet::{ParquetOptions, ParquetSource, ReadCounts};
use aqueduct_operators::{Expression, HashJoin, RuntimeFilter};
use aqueduct_runtime::testing::context;
use aqueduct_runtime::{OperatorSpec, Outbox};
use arrow::array::{ArrayRef, AsArray, Float64Array, Int64Array, RecordBatch, StringArray};
use arrow::compute::filter_record_batch;
use arrow::datatypes::Int64Type;
use datafusion_common::{JoinType, NullEquality, ScalarValue};
use datafusion_expr::Operator;
use datafusion_physical_expr::expressions::{binary, col, in_list, is_null, like, lit, not};
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterPropertiesBuilder};

use crate::common::{mixed, plainly, rows, write};

/// 100 pages of 100 rows in ten row groups, in order of `n`.
fn ordered() -> RecordBatch {
    let n = || 0..10_000i64;
    let columns: [(&str, ArrayRef); 4] = [
        ("n", Arc::new(Int64Array::from_iter_values(n()))),
        ("x", Arc::new(Float64Array::from_iter_values(n().map(|n| (n * 7919 % 10_000) as f64)))),
        ("even", Arc::new(StringArray::from_iter_values(n().map(|n| format!("key {}", 2 * (n * 31 % 10_000)))))),
        ("part", Arc::new(StringArray::from_iter(n().map(|n| (n % 1000 >= 100).then(|| format!("{:05}", n)))))),
    ];
    RecordBatch::try_from_iter_with_nullable(columns.map(|(name, column)| (name, column, true))).expect("columns")
}

fn layout() -> WriterPropertiesBuilder {
    WriterProperties::builder()
        .set_max_row_group_row_count(Some(1000))
        .set_data_page_row_count_limit(100)
        .set_write_batch_size(100)
        .set_dictionary_enabled(false)
}

/// The rows that are true, by a filter over all that the plain reader reads.
fn expected(path: &Path, source: &ParquetSource, predicate: &Expression) -> RecordBatch {
    let all = plainly(path, &source.file_schema());
    let mask = evaluate_mask(predicate.as_ref(), &all).expect("evaluates");
    filter_record_batch(&all, &mask).expect("as long").project(source.projection()).expect("columns")
}

/// Compares with and without pruning, and gives what was read with it.
fn check(path: &Path, projection: &[usize], predicate: &Expression) -> ReadCounts {
    let open = |prune| {
        let source = ParquetSource::open(path, ParquetOptions { prune }).expect("a file");
        let source = source.with_projection(projection).expect("columns");
        source.with_predicate(Arc::clone(predicate)).expect("boolean")
    };
    let (pruned, whole) = (open(true), open(false));
    let expected = expected(path, &pruned, predicate);
    assert_eq!(rows(&pruned), expected, "{predicate} pruned");
    assert_eq!(rows(&whole), expected, "{predicate} not pruned");
    assert_eq!((whole.counts().row_groups_pruned, whole.counts().rows_pruned), (0, 0));
    pruned.counts()
}

fn compare(column: &str, operator: Operator, value: Expression) -> Expression {
    let schema = ParquetSchema::of(&ordered());
    binary(col(column, &schema).expect("a column"), operator, value, &schema).expect("comparable")
}

/// The schema as it is read: strings as views.
struct ParquetSchema;

impl ParquetSchema {
    fn of(batch: &RecordBatch) -> arrow::datatypes::Schema {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.parquet");
        write(&path, &[batch.slice(0, 1)], WriterProperties::builder().build());
        let source = ParquetSource::open(&path, ParquetOptions::default()).expect("a file");
        source.file_schema().as_ref().clone()
    }
}

fn text(value: &str) -> Expression {
    lit(ScalarValue::Utf8View(Some(value.to_string())))
}

#[test]
fn row_groups_are_ruled_out_by_statistics_and_pages_by_their_index() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("a.parquet");
    write(&path, &[ordered()], layout().build());
    let narrow = binary(
        compare("n", Operator::GtEq, lit(3150i64)),
        Operator::And,
        compare("n", Operator::Lt, lit(3250i64)),
        &ParquetSchema::of(&ordered()),
    )
    .expect("booleans");
    let counts = check(&path, &[0, 2], &narrow);
    assert_eq!((counts.row_groups, counts.row_groups_pruned), (1, 9));
    assert_eq!((counts.rows_pruned, counts.rows_decoded), (800, 200));
    // Two pages of each of two columns.
    assert_eq!(counts.pages_read, 4);
    let counts = check(&path, &[1], &compare("part", Operator::Eq, text("04207")));
    assert_eq!((counts.row_groups_pruned, counts.rows_pruned, counts.pages_read), (9, 900, 2));
    let counts = check(&path, &[3, 0], &compare("n", Operator::Gt, lit(20_000i64)));
    assert_eq!((counts.row_groups, counts.row_groups_pruned, counts.pages_read), (0, 10, 0));
    let part = || col("part", &ParquetSchema::of(&ordered())).expect("a column");
    let counts = check(&path, &[0], &is_null(part()).expect("a test"));
    assert_eq!((counts.row_groups_pruned, counts.rows_pruned), (0, 9000));
    let schema = ParquetSchema::of(&ordered());
    let counts = check(&path, &[0], &like(false, false, part(), text("0731%"), &schema).expect("a pattern"));
    assert_eq!((counts.row_groups_pruned, counts.rows_pruned), (9, 900));
}

#[test]
fn bloom_filters_rule_out_what_is_between_the_bounds() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("a.parquet");
    write(&path, &[ordered()], layout().set_bloom_filter_enabled(true).set_bloom_filter_fpp(0.001).build());
    let counts = check(&path, &[0], &compare("even", Operator::Eq, text("key 5001")));
    assert_eq!((counts.row_groups, counts.row_groups_bloomed, counts.pages_read), (10, 10, 0));
    let counts = check(&path, &[0], &compare("even", Operator::Eq, text("key 5000")));
    assert_eq!((counts.row_groups, counts.row_groups_bloomed), (10, 9));
    let schema = ParquetSchema::of(&ordered());
    let list = vec![text("key 7"), text("key 9"), text("key 8000")];
    let list = in_list(col("even", &schema).expect("a column"), list, &false, &schema).expect("a list");
    assert_eq!(check(&path, &[0], &list).row_groups_bloomed, 9);
    // What a filter cannot tell is read.
    assert_eq!(check(&path, &[0], &not(list).expect("a boolean")).row_groups_bloomed, 0);
}

#[test]
fn other_columns_are_decoded_only_near_rows_that_are_true() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("a.parquet");
    // Nothing but the rows themselves tells which are wanted.
    let blind = layout().set_statistics_enabled(EnabledStatistics::None).set_max_row_group_row_count(None);
    for blind in [blind.clone().build(), blind.set_offset_index_disabled(true).build()] {
        write(&path, &[ordered()], blind);
        let predicate = compare("part", Operator::Eq, text("09207"));
        let open = ParquetSource::open(&path, ParquetOptions::default()).expect("a file");
        let source = open.with_projection(&[0, 1, 2]).expect("columns").with_predicate(Arc::clone(&predicate));
        let source = source.expect("boolean");
        let drive = crate::common::Drive { batch_bytes: 16 << 10, ..Default::default() };
        let read = drive.read(&source).expect("readable");
        assert_eq!(read.batches, [expected(&path, &source, &predicate)]);
        let counts = source.counts();
        assert_eq!((counts.rows_decoded, counts.rows_pruned), (10_000, 0));
        assert!(counts.rows_late > 8500, "{counts:?}");
        // Of the other three columns only the pages near the one row, or what was loaded ahead of need.
        assert!(counts.pages_read < 100 + 3 * 30, "{counts:?}");
    }
}

#[test]
fn predicates_over_nulls_nan_and_lists_keep_what_a_filter_keeps() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("a.parquet");
    let batch = mixed(0, 3000);
    let small = WriterProperties::builder().set_data_page_row_count_limit(200).set_write_batch_size(50);
    for properties in [
        small.clone().build(),
        small.clone().set_offset_index_disabled(true).set_max_row_group_row_count(Some(500)).build(),
    ] {
        write(&path, std::slice::from_ref(&batch), properties);
        let source = ParquetSource::open(&path, ParquetOptions::default()).expect("a file");
        let schema = source.file_schema();
        let column = |name: &str| col(name, &schema).expect("a column");
        let compare = |name: &str, operator, value| binary(column(name), operator, value, &schema).expect("comparable");
        let and = |a, b| binary(a, Operator::And, b, &schema).expect("booleans");
        let predicates = [
            compare("value", Operator::Gt, lit(900.5)),
            compare("value", Operator::NotEq, lit(f64::NAN)),
            column("flag"),
            not(column("flag")).expect("a boolean"),
            is_null(column("text")).expect("a test"),
            compare("price", Operator::Lt, lit(ScalarValue::Decimal128(Some(5000), 20, 2))),
            compare("at", Operator::LtEq, lit(ScalarValue::TimestampMicrosecond(Some(77_000_003), Some("UTC".into())))),
            is_null(column("items")).expect("a test"),
            and(compare("id", Operator::GtEq, lit(1234i64)), compare("id", Operator::Lt, lit(1300i64))),
            and(
                compare("id", Operator::Gt, lit(2900i64)),
                not(is_null(column("items")).expect("a test")).expect("a test"),
            ),
            lit(true),
            lit(ScalarValue::Boolean(None)),
        ];
        for predicate in &predicates {
            for projection in [&[0, 8, 9][..], &[3], &[], &[8, 2, 1, 2]] {
                check(&path, projection, predicate);
            }
        }
    }
}

#[test]
fn statistics_are_told_where_all_row_groups_have_them() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("a.parquet");
    write(&path, &[ordered()], layout().build());
    let source = ParquetSource::open(&path, ParquetOptions::default()).expect("a file");
    let known = source.statistics();
    assert_eq!(known.rows, Some(10_000));
    assert!(known.bytes.is_some_and(|bytes| bytes > 10_000 * 20));
    let number = |n| Some(ScalarValue::Int64(Some(n)));
    assert_eq!((&known.columns[0].min, &known.columns[0].max), (&number(0), &number(9999)));
    assert_eq!((known.columns[0].null_count, known.columns[0].exact), (Some(0), true));
    assert_eq!((known.columns[3].null_count, known.columns[1].exact), (Some(1000), false));
    assert_eq!(known.columns[3].min, Some(ScalarValue::Utf8View(Some("00100".to_string()))));
    write(&path, &[ordered()], layout().set_statistics_enabled(EnabledStatistics::None).build());
    let known = ParquetSource::open(&path, ParquetOptions::default()).expect("a file").statistics();
    assert_eq!((known.rows, known.columns[0].min.clone(), known.columns[0].null_count), (Some(10_000), None, None));
}

/// A hash join says which keys it holds after the scan has begun: row groups that are opened later are ruled out.
#[test]
fn what_a_join_holds_rules_out_row_groups_pages_and_rows() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("a.parquet");
    write(&path, &[ordered()], layout().build());
    let held = RecordBatch::try_from_iter([(
        "k",
        Arc::new(Int64Array::from_iter_values((0..40).map(|n| 3150 + 3 * n))) as ArrayRef,
    )]);
    let held = held.expect("one column");
    let source = ParquetSource::open(&path, ParquetOptions::default()).expect("a file");
    let (schema, filter) = (source.file_schema(), RuntimeFilter::new());
    let on = vec![(0, 0)];
    let join =
        HashJoin::try_new(held.schema(), Arc::clone(&schema), on, JoinType::Inner, NullEquality::NullEqualsNothing);
    let join = join.expect("fits").with_runtime_filter(filter.clone(), vec![0], false);
    let mut instance = join.instantiate(context().operator(&[held.schema(), Arc::clone(&schema)])).expect("made");
    let wanted = filter.expression(vec![col("n", &schema).expect("a column")]);
    let wanted = binary(wanted, Operator::And, compare("x", Operator::GtEq, lit(0.0)), &schema).expect("booleans");
    let filtered = || {
        let source = source.with_projection(&[0, 2]).expect("columns");
        source.with_predicate(Arc::clone(&wanted)).expect("boolean")
    };
    assert_eq!(rows(&filtered()).num_rows(), 10_000, "nothing is known yet");
    let before = source.counts();
    let mut out = Outbox::new();
    instance.process(0, held, &mut out).expect("builds");
    assert_eq!(rows(&filtered()).num_rows(), 10_000, "not all is known yet");
    instance.finish(0, &mut out).expect("seals");
    let found = rows(&filtered());
    assert!((40..60).contains(&found.num_rows()), "{} rows", found.num_rows());
    let counts = source.counts();
    assert_eq!(counts.row_groups_pruned - before.row_groups_pruned, 9);
    // Three pages of 100 rows.
    assert_eq!(counts.rows_pruned - before.rows_pruned, 800);
    let numbers = found.column(0).as_primitive::<Int64Type>().values().to_vec();
    assert!((0..40).all(|n| numbers.contains(&(3150 + 3 * n))));
    drop(instance);
    assert_eq!(rows(&filtered()).num_rows(), 10_000, "the join is gone, and what it knew");
}
