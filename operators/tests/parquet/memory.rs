//! What a source holds stays within its floor, or the error says what would do.

use std::sync::Arc;

use aqueduct_operators::parquet::{ParquetFileError, ParquetOptions, ParquetSource};
use aqueduct_runtime::{OperatorError, SourceSpec};
use arrow::array::{ArrayRef, Int64Array, StringArray};
use arrow::record_batch::RecordBatch;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;

use crate::common::{Drive, mixed, write};

#[test]
fn a_scan_keeps_to_its_floor_where_nothing_else_is_to_be_had() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("a.parquet");
    let compressions = [Compression::UNCOMPRESSED, Compression::ZSTD(ZstdLevel::default())];
    for (compression, indexed) in
        compressions.into_iter().flat_map(|compression| [(compression, true), (compression, false)])
    {
        let properties = WriterProperties::builder()
            .set_compression(compression)
            .set_data_page_row_count_limit(500)
            .set_offset_index_disabled(!indexed)
            .set_write_batch_size(100);
        write(&path, &(0..20).map(|i| mixed(i * 1000, 1000)).collect::<Vec<_>>(), properties.build());
        let source = ParquetSource::open(&path, ParquetOptions::default()).expect("a file");
        let batch_bytes = 16 << 10;
        let floor = source.min_memory(batch_bytes);
        let read = Drive { limit_bytes: floor, batch_bytes, ..Drive::default() }.read(&source).expect("readable");
        assert_eq!(read.batches.iter().map(RecordBatch::num_rows).sum::<usize>(), 20_000);
        assert!(read.peak_bytes <= floor, "{} of {floor}", read.peak_bytes);
        assert!(read.peak_bytes > floor / 8, "{} of {floor}", read.peak_bytes);
    }
}

#[test]
fn a_page_that_does_not_fit_is_an_error_that_names_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("a.parquet");
    // The first pages are small, so that the floor does not foresee the last.
    let texts = (0..100).map(|i| "x".repeat(if i == 99 { 4 << 20 } else { 1000 }));
    let columns: [(&str, ArrayRef); 2] = [
        ("id", Arc::new(Int64Array::from_iter_values(0..100))),
        ("long text", Arc::new(StringArray::from_iter_values(texts))),
    ];
    let batch = RecordBatch::try_from_iter(columns).expect("columns");
    let properties = WriterProperties::builder().set_data_page_row_count_limit(10).set_write_batch_size(10);
    write(&path, &[batch], properties.set_dictionary_enabled(false).build());
    let source = ParquetSource::open(&path, ParquetOptions::default()).expect("a file");
    let floor = source.min_memory(16 << 10);
    assert!(floor < 1 << 20, "{floor}");
    let drive = Drive { limit_bytes: 2 << 20, batch_bytes: 16 << 10, ..Drive::default() };
    let error = drive.read(&source).expect_err("too large");
    let OperatorError::Other(inner) = &error else { panic!("{error}") };
    let Some(ParquetFileError::PageTooLarge { row_group: 0, column, needed_bytes, sufficient_limit_bytes, .. }) =
        inner.downcast_ref()
    else {
        panic!("{error}")
    };
    assert_eq!(column, "long text");
    assert!(*needed_bytes > 4 << 20 && *needed_bytes < 5 << 20, "{needed_bytes}");
    assert!(error.to_string().contains("a.parquet"), "{error}");
    let enough = Drive { limit_bytes: *sufficient_limit_bytes, ..drive };
    assert_eq!(enough.read(&source).expect("fits").batches.iter().map(RecordBatch::num_rows).sum::<usize>(), 100);
}
