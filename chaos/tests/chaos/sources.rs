//! Files that are changed while they are read: a clear error, or the rows that were there when the file was opened.
//!
//! The caller holds a job in the middle of its file by not reading on: a file has more rows than fit in memory.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aqueduct::arrow::array::{ArrayRef, AsArray, Int64Array, StringArray};
use aqueduct::arrow::datatypes::Int64Type;
use aqueduct::arrow::record_batch::RecordBatch;
use aqueduct::prelude::*;
use aqueduct_chaos::{Random, assert_clean, within};

const ROWS: i64 = 50_000;
const TEXT_BYTES: usize = 400;

fn cluster() -> LocalCluster {
    let builder = LocalCluster::builder().workers(1).memory_limit("10MB").progress(false).without_dashboard();
    builder.start().expect("a cluster")
}

/// Row `n` has `factor * n` beside it: a row of another file shows. The texts cannot be compressed by much.
fn batch(count: i64, factor: i64) -> RecordBatch {
    let mut random = Random(7);
    let pool: String = (0..1 << 20).map(|_| char::from(b"0123456789abcdef"[random.below(16) as usize])).collect();
    let texts = (0..count).map(|_| {
        let at = random.below((pool.len() - TEXT_BYTES) as u64) as usize;
        &pool[at..at + TEXT_BYTES]
    });
    let columns: [(&str, ArrayRef); 3] = [
        ("n", Arc::new(Int64Array::from_iter_values(0..count))),
        ("m", Arc::new(Int64Array::from_iter_values((0..count).map(|n| n * factor)))),
        ("t", Arc::new(StringArray::from_iter_values(texts))),
    ];
    RecordBatch::try_from_iter(columns).expect("columns of one length")
}

fn write(path: &Path, rows: RecordBatch) {
    let cluster = LocalCluster::builder().workers(1).memory_limit("256MB").progress(false).without_dashboard();
    let cluster = cluster.start().expect("a cluster");
    let frame = cluster.from_batches(rows.schema(), vec![rows]).expect("a table");
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("parquet") => frame.write_parquet(path).map(drop).expect("written"),
        Some("gz") => {
            let plain = path.with_extension("plain");
            frame.write_csv(&plain).expect("written");
            let file = fs::File::create(path).expect("a file");
            let mut gzip = flate2::write::GzEncoder::new(file, flate2::Compression::fast());
            gzip.write_all(&fs::read(plain).expect("text")).expect("written");
            gzip.finish().expect("written");
        }
        _ => frame.write_csv(path).map(drop).expect("written"),
    }
}

fn read(cluster: &LocalCluster, path: &Path) -> aqueduct::Result<Frame> {
    if path.extension().is_some_and(|extension| extension == "parquet") {
        cluster.read_parquet(path)
    } else {
        cluster.read_csv(path)
    }
}

/// What is done to the file, once as a job reads it and once before it starts.
struct Change {
    name: &'static str,
    /// Given the file and another one with as many rows, and one with more.
    make: fn(&Path, &Path, &Path),
    /// Whether all rows that were there may be read, and whether an error may come.
    ends: Ends,
}

#[derive(PartialEq)]
enum Ends {
    Rows,
    Error,
    Either,
}

fn write_over(path: &Path, other: &Path, truncate: bool) {
    let mut file = fs::File::options().write(true).truncate(truncate).open(path).expect("the file");
    file.write_all(&fs::read(other).expect("a file")).expect("written");
}

const CHANGES: [Change; 7] = [
    Change {
        name: "cut in half",
        make: |path, _, _| {
            let file = fs::File::options().write(true).open(path).expect("the file");
            file.set_len(file.metadata().expect("a size").len() / 2).expect("cut");
        },
        ends: Ends::Error,
    },
    Change { name: "emptied", make: |path, _, _| drop(fs::File::create(path).expect("emptied")), ends: Ends::Error },
    Change {
        name: "appended to",
        make: |path, other, _| {
            let more = fs::read(other).expect("a file");
            fs::File::options().append(true).open(path).expect("the file").write_all(&more).expect("written");
        },
        // The footer of a Parquet file is at its end: it is none any more.
        ends: Ends::Rows,
    },
    Change { name: "written over", make: |path, other, _| write_over(path, other, false), ends: Ends::Error },
    Change { name: "written anew", make: |path, _, longer| write_over(path, longer, true), ends: Ends::Error },
    Change {
        name: "replaced",
        make: |path, other, _| {
            let beside = path.with_extension("beside");
            fs::copy(other, &beside).expect("a copy");
            fs::rename(beside, path).expect("renamed");
        },
        ends: Ends::Either,
    },
    Change { name: "removed", make: |path, _, _| fs::remove_file(path).expect("removed"), ends: Ends::Either },
];

struct Files {
    folder: PathBuf,
    format: &'static str,
}

impl Files {
    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.{}", self.format))
    }

    /// Reads the file, which is changed after its first batch, or before that.
    fn check(&self, cluster: &LocalCluster, change: &Change, before: bool) -> &'static str {
        let what =
            format!("{} {} {} its first rows", self.format, change.name, if before { "before" } else { "after" });
        let path = self.path("data");
        let _ = fs::remove_file(&path);
        fs::copy(self.path("good"), &path).expect("a copy");
        let frame = read(cluster, &path).expect("a good file");
        let make = || (change.make)(&path, &self.path("other"), &self.path("longer"));
        if before {
            make();
        }
        let mut rows = frame.stream().expect("a job");
        let (mut next, mut error) = (0, None);
        let mut made = before;
        for batch in rows.by_ref() {
            match batch {
                Ok(batch) => {
                    let (n, m) =
                        (batch.column(0).as_primitive::<Int64Type>(), batch.column(1).as_primitive::<Int64Type>());
                    for (n, m) in n.values().iter().zip(m.values()) {
                        assert_eq!((*n, *m), (next, 3 * next), "{what}: a row of another file");
                        next += 1;
                    }
                }
                Err(failed) => error = Some(failed),
            }
            if !std::mem::replace(&mut made, true) {
                assert!(next < ROWS / 2, "{what}: all is read already");
                make();
            }
        }
        drop(rows);
        assert_clean(&what, cluster);
        let Some(error) = error else {
            assert_eq!(next, ROWS, "{what}");
            assert!(change.ends != Ends::Error, "{what}: it went unseen");
            return "rows";
        };
        let said = error.to_string();
        assert_eq!(said.matches(&path.display().to_string()).count(), 1, "{what}: {said}");
        assert!(said.starts_with("node `data"), "{what}: {said}");
        let known = ["was changed", "No such file"].into_iter().find(|words| said.contains(words));
        assert!(change.ends != Ends::Rows || self.format == "parquet", "{what}: {said}");
        known.unwrap_or_else(|| panic!("{what}: {said}"))
    }
}

fn check(format: &'static str) {
    let body = move || {
        let folder = tempfile::tempdir().expect("a folder");
        let files = Files { folder: folder.path().to_path_buf(), format };
        write(&files.path("good"), batch(ROWS, 3));
        write(&files.path("other"), batch(ROWS, 4));
        write(&files.path("longer"), batch(ROWS + ROWS / 4, 5));
        let cluster = cluster();
        for change in &CHANGES {
            for before in [true, false] {
                let end = files.check(&cluster, change, before);
                println!("{format:<8} {:<14} {:<7} {end}", change.name, if before { "before" } else { "after" });
            }
        }
        fs::copy(files.path("good"), files.path("data")).expect("a copy");
        let count = read(&cluster, &files.path("data")).and_then(|frame| frame.count()).expect("the next job");
        assert_eq!(count, ROWS as u64);
    };
    within(120, format, body).unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

#[test]
fn a_csv_file_that_is_changed_under_a_job_is_an_error_or_read_as_it_was() {
    check("csv");
}

#[test]
fn a_compressed_csv_file_that_is_changed_under_a_job_is_an_error_or_read_as_it_was() {
    check("csv.gz");
}

#[test]
fn a_parquet_file_that_is_changed_under_a_job_is_an_error_or_read_as_it_was() {
    check("parquet");
}
