//! Files that are cut off, overwritten or changed are an error that names them: no panic, no hang, no wrong memory.

use std::path::Path;

use aqueduct_operators::parquet::{ParquetOptions, ParquetSource};
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::{WriterProperties, WriterVersion};

use crate::common::{Drive, mixed, write};

fn read(path: &Path) -> Result<usize, String> {
    let source = ParquetSource::open(path, ParquetOptions::default()).map_err(|error| error.to_string())?;
    // A damaged size may ask for more than this. That is an error too.
    let floor = aqueduct_runtime::SourceSpec::min_memory(&source, 16 << 10);
    if floor > 64 << 20 {
        return Err(format!("a.parquet needs {floor} bytes"));
    }
    let drive = Drive { limit_bytes: 64 << 20, batch_bytes: 16 << 10, ..Drive::default() };
    let read = drive.read(&source).map_err(|error| error.to_string())?;
    Ok(read.batches.iter().map(|batch| batch.num_rows()).sum())
}

#[test]
fn a_file_with_any_byte_changed_is_read_or_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("a.parquet");
    let small = || WriterProperties::builder().set_data_page_row_count_limit(40).set_write_batch_size(20);
    let layouts = [
        small().set_max_row_group_row_count(Some(120)).set_bloom_filter_enabled(false).build(),
        small().set_writer_version(WriterVersion::PARQUET_2_0).set_compression(Compression::SNAPPY).build(),
        small().set_offset_index_disabled(true).set_compression(Compression::ZSTD(ZstdLevel::default())).build(),
    ];
    for properties in layouts {
        write(&path, &[mixed(0, 200)], properties);
        let whole = std::fs::read(&path).expect("written");
        let (mut refused, mut tried) = (0, 0);
        // Each place in turn gets another change; the footer, at the end, is looked at more closely.
        let places = (0..whole.len()).filter(|at| at % 29 == 0 || (whole.len() - at < 6000 && at % 11 == 0));
        for at in places {
            let mut bytes = whole.clone();
            bytes[at] = match at % 3 {
                0 => bytes[at] ^ 1 << (at / 3 % 8),
                1 => 0xff,
                _ => 0,
            };
            std::fs::write(&path, bytes).expect("written");
            tried += 1;
            if let Err(error) = read(&path) {
                refused += 1;
                assert!(error.contains("a.parquet"), "byte {at}: {error}");
            }
        }
        assert!(refused * 10 > tried, "{refused} of {tried}");
    }
}

#[test]
fn a_file_that_is_cut_off_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("a.parquet");
    write(&path, &[mixed(0, 200)], WriterProperties::builder().build());
    let whole = std::fs::read(&path).expect("written");
    for length in (0..whole.len()).step_by(97).chain([4, 8, 11, 12, whole.len() - 1]) {
        std::fs::write(&path, &whole[..length]).expect("written");
        let error = read(&path).expect_err("cut off");
        assert!(error.contains("a.parquet"), "{length}: {error}");
    }
    std::fs::write(&path, "n,x\n1,2\n").expect("written");
    assert!(read(&path).expect_err("no Parquet").contains("no Parquet file"));
    assert!(read(&folder.path().join("none.parquet")).expect_err("missing").contains("none.parquet"));
    assert!(read(folder.path()).expect_err("a folder").contains("is a folder"));
}

#[test]
fn a_file_that_changes_after_it_was_opened_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("a.parquet");
    write(&path, &[mixed(0, 200)], WriterProperties::builder().build());
    let source = ParquetSource::open(&path, ParquetOptions::default()).expect("a file");
    write(&path, &[mixed(0, 300)], WriterProperties::builder().build());
    let error = Drive::default().read(&source).expect_err("changed").to_string();
    assert!(error.contains("a.parquet") && error.contains("changed"), "{error}");
}
