//! What is read is what the plain reader reads, however the file is laid out and whatever the memory.

use aqueduct_operators::parquet::{ParquetOptions, ParquetSource};
use aqueduct_runtime::SourceSpec;
use arrow::compute::concat_batches;
use arrow::datatypes::DataType;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterPropertiesBuilder, WriterVersion};

use crate::common::{Drive, mixed, plainly, rows, write};

fn open(path: &std::path::Path) -> ParquetSource {
    ParquetSource::open(path, ParquetOptions::default()).expect("a Parquet file")
}

fn small_pages() -> WriterPropertiesBuilder {
    WriterProperties::builder().set_data_page_row_count_limit(300).set_write_batch_size(100)
}

/// Layouts that differ in all that matters to a reader.
fn layouts() -> Vec<(&'static str, WriterProperties)> {
    let zstd = Compression::ZSTD(ZstdLevel::default());
    vec![
        ("plain", WriterProperties::builder().build()),
        (
            "no page index",
            small_pages().set_offset_index_disabled(true).set_statistics_enabled(EnabledStatistics::Chunk).build(),
        ),
        ("small pages", small_pages().set_compression(Compression::SNAPPY).build()),
        ("small row groups", small_pages().set_max_row_group_row_count(Some(700)).set_compression(zstd).build()),
        ("version 2", small_pages().set_writer_version(WriterVersion::PARQUET_2_0).set_compression(zstd).build()),
        (
            "version 2, no page index",
            small_pages()
                .set_writer_version(WriterVersion::PARQUET_2_0)
                .set_offset_index_disabled(true)
                .set_statistics_enabled(EnabledStatistics::None)
                .set_compression(Compression::LZ4_RAW)
                .build(),
        ),
        (
            "no dictionaries",
            small_pages().set_dictionary_enabled(false).set_compression(Compression::GZIP(Default::default())).build(),
        ),
        ("full dictionaries", small_pages().set_dictionary_page_size_limit(500).build()),
    ]
}

#[test]
fn every_layout_reads_as_the_plain_reader_reads_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let batches = [mixed(0, 3000), mixed(3000, 1), mixed(3001, 2500)];
    for (name, properties) in layouts() {
        let path = folder.path().join("a.parquet");
        write(&path, &batches, properties);
        let source = open(&path);
        let expected = plainly(&path, &source.file_schema());
        assert_eq!(source.file_schema().field(3).data_type(), &DataType::Utf8View);
        for (batch_bytes, batch_rows) in [(64 << 10, 8192), (1 << 20, 65_536), (4 << 10, 100), (300, 7)] {
            let drive = Drive { batch_bytes, batch_rows, ..Drive::default() };
            let read = drive.read(&source).unwrap_or_else(|error| panic!("{name}: {error}"));
            let all = concat_batches(&source.schema(), &read.batches).expect("one schema");
            assert_eq!(all, expected, "{name} in batches of {batch_bytes} bytes");
        }
    }
}

#[test]
fn columns_are_read_alone_and_in_any_order() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("a.parquet");
    for (name, properties) in layouts() {
        write(&path, &[mixed(0, 2000)], properties);
        let source = open(&path);
        let expected = plainly(&path, &source.file_schema());
        for columns in [&[3][..], &[8, 0], &[9, 9, 5], &[7, 6, 5, 4, 3, 2, 1, 0], &[]] {
            let source = source.with_projection(columns).expect("columns");
            let found = rows(&source);
            assert_eq!(found, expected.project(columns).expect("columns"), "{name} {columns:?}");
        }
    }
}

#[test]
fn files_of_a_pattern_follow_each_other() {
    let folder = tempfile::tempdir().expect("a folder");
    let first = mixed(0, 500);
    write(&folder.path().join("a.parquet"), std::slice::from_ref(&first), small_pages().build());
    // The same columns the other way round.
    let turned: Vec<usize> = (0..10).rev().collect();
    let second = mixed(500, 700).project(&turned).expect("columns");
    write(&folder.path().join("b.parquet"), &[second], small_pages().build());
    write(&folder.path().join("c.parquet"), &[mixed(0, 0)], small_pages().build());
    let source = open(&folder.path().join("*.parquet"));
    let found = rows(&source);
    write(&folder.path().join("all"), &[mixed(0, 1200)], small_pages().build());
    assert_eq!(found, plainly(&folder.path().join("all"), &source.file_schema()));
    assert_eq!(source.paths().count(), 3);
    // The last file has no rows, and makes no split.
    assert_eq!(Drive::default().read(&source).expect("readable").splits, 2);
}

#[test]
fn files_that_do_not_fit_together_are_an_error_that_names_both() {
    let folder = tempfile::tempdir().expect("a folder");
    let all = mixed(0, 10);
    write(&folder.path().join("a.parquet"), &[all.project(&[0, 1]).expect("columns")], small_pages().build());
    write(&folder.path().join("b.parquet"), &[all.project(&[0, 1, 2]).expect("columns")], small_pages().build());
    write(&folder.path().join("c.parquet"), &[all.project(&[0]).expect("columns")], small_pages().build());
    let wrong = all.project(&[0, 3]).expect("columns").rename_columns(["id", "value"]);
    write(&folder.path().join("d.parquet"), &[wrong], small_pages().build());
    let error = |other: &str| {
        let paths = ["a.parquet", other].map(|name| folder.path().join(name));
        ParquetSource::open_all(paths, ParquetOptions::default()).expect_err("they differ").to_string()
    };
    for (other, column) in [("b.parquet", "flag"), ("c.parquet", "value"), ("d.parquet", "value")] {
        let error = error(other);
        assert!(["a.parquet", other, column].iter().all(|part| error.contains(part)), "{error}");
    }
}

trait Rename {
    fn rename_columns(&self, names: [&str; 2]) -> Self;
}

impl Rename for arrow::record_batch::RecordBatch {
    fn rename_columns(&self, names: [&str; 2]) -> Self {
        Self::try_from_iter_with_nullable(
            names.into_iter().zip(self.columns()).map(|(n, c)| (n, std::sync::Arc::clone(c), true)),
        )
        .expect("columns")
    }
}
