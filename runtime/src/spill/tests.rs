//! Spill files against what was put in, over all kinds of columns, with disks that fail and bytes that rot.

use std::path::Path;
use std::sync::atomic::AtomicU64;

use arrow::array::*;
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, Int8Type, Int32Type, Schema};
use arrow::record_batch::{RecordBatch, RecordBatchOptions};

use super::*;
use crate::memory::MemoryPool;

fn text(row: i64) -> Option<String> {
    (row % 7 != 0).then(|| format!("text {row} {}", "x".repeat((row % 40) as usize)))
}

/// One column of every kind that is written in its own way, nulls included.
fn all_kinds(rows: std::ops::Range<i64>) -> RecordBatch {
    let n = || rows.clone();
    let mut lists = ListBuilder::new(StringViewBuilder::new());
    for row in n() {
        for i in 0..row % 4 {
            lists.values().append_option(text(row + i));
        }
        lists.append(row % 5 != 0);
    }
    let dictionary: DictionaryArray<Int32Type> = n().map(|r| ["red", "green", "blue"][(r % 3) as usize]).collect();
    let small: DictionaryArray<Int8Type> = n().map(|r| (r % 2 == 0).then_some("even")).collect();
    let inner = Fields2::of(n());
    RecordBatch::try_from_iter_with_nullable([
        ("int", Arc::new(Int64Array::from_iter(n().map(|r| (r % 3 != 0).then_some(r)))) as ArrayRef, true),
        ("float", Arc::new(Float64Array::from_iter_values(n().map(|r| r as f64 / 3.0))), true),
        ("bool", Arc::new(BooleanArray::from_iter(n().map(|r| (r % 5 != 1).then_some(r % 2 == 0)))), true),
        ("utf8", Arc::new(StringArray::from_iter(n().map(text))), true),
        ("view", Arc::new(StringViewArray::from_iter(n().map(text))), true),
        ("binary", Arc::new(BinaryArray::from_iter_values(n().map(|r| r.to_le_bytes()))), true),
        ("null", Arc::new(NullArray::new(n().count())), true),
        ("lists", Arc::new(lists.finish()), true),
        ("colour", Arc::new(dictionary), true),
        ("even", Arc::new(small), true),
        ("struct", inner, true),
    ])
    .expect("equal lengths")
}

struct Fields2;

impl Fields2 {
    fn of(rows: std::ops::Range<i64>) -> ArrayRef {
        let number: ArrayRef = Arc::new(Int32Array::from_iter_values(rows.clone().map(|r| r as i32)));
        let view: ArrayRef = Arc::new(StringViewArray::from_iter(rows.map(text)));
        Arc::new(StructArray::from(vec![
            (Arc::new(Field::new("number", DataType::Int32, true)), number),
            (Arc::new(Field::new("view", DataType::Utf8View, true)), view),
        ]))
    }
}

struct Setup {
    pool: MemoryPool,
    parent: tempfile::TempDir,
    space: SpillSpace,
}

fn setup_on(disk: Arc<dyn Disk>, limit_bytes: Option<u64>, compression: bool) -> Setup {
    let parent = tempfile::tempdir().expect("a folder");
    let pool = MemoryPool::new(1 << 30);
    let dir = SpillDir::create_on(disk, Some(parent.path()), limit_bytes, compression).expect("a folder");
    let (io, _) = Io::start("test", 3).expect("threads");
    let space = dir.space(io, pool.account("workspace"));
    Setup { pool, parent, space }
}

fn setup(compression: bool) -> Setup {
    setup_on(Arc::new(FileDisk), None, compression)
}

fn files_under(path: &Path) -> usize {
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    entries.map(|e| if e.path().is_dir() { files_under(&e.path()) } else { usize::from(e.file_name() != "lock") }).sum()
}

#[test]
fn batches_of_every_kind_come_back_in_any_order_while_they_are_written_and_after() {
    for compression in [false, true] {
        let Setup { pool, parent, space } = setup(compression);
        let batches: Vec<_> = (0..40).map(|i| all_kinds(i * 100..i * 100 + [1, 0, 57, 1000][i as usize % 4])).collect();
        let mut file = space.create("all kinds/of ../things", batches[0].schema());
        let places: Vec<_> = batches.iter().map(|b| file.append(b).expect("appended")).collect();
        for _ in 0..2 {
            for (batch, place) in batches.iter().zip(&places).rev() {
                let back = file.fetch_blocking(*place).expect("readable");
                assert_eq!(back, *batch);
                assert!(Arc::ptr_eq(&back.schema(), file.schema()));
                let account = pool.account("reader");
                account.claim(&back);
                assert!(
                    account.held() <= place.memory_bytes * 3 / 2 + 128 * 40,
                    "{} of {}",
                    account.held(),
                    place.memory_bytes
                );
            }
            space.flush_blocking();
        }
        assert_eq!(file.bytes(), std::fs::metadata(file.path()).expect("on disk").len());
        assert_eq!((space.live_bytes(), space.spilled_bytes()), (file.bytes(), file.bytes()));
        assert_eq!(files_under(parent.path()), 1);
        drop(file);
        assert_eq!((files_under(parent.path()), space.live_bytes(), space.dir().used_bytes()), (0, 0, 0));
        assert_eq!(pool.charged(), 0);
        drop(space);
    }
}

#[test]
fn a_slice_is_written_without_what_it_does_not_use() {
    let Setup { space, parent: _parent, .. } = setup(false);
    let large = all_kinds(0..20_000);
    let mut file = space.create("slice", large.schema());
    let slice = large.slice(10_000, 10);
    let place = file.append(&slice).expect("appended");
    assert!(place.length < 12_000, "{}", place.length);
    assert_eq!(file.fetch_blocking(place).expect("readable"), slice);
    let many: DictionaryArray<Int32Type> =
        (0..20_000).map(|i| format!("value {i}")).collect::<Vec<_>>().iter().map(|s| s.as_str()).collect();
    let many = RecordBatch::try_from_iter([("d", Arc::new(many) as ArrayRef)]).expect("one column");
    let mut file = space.create("dictionary", many.schema());
    let slice = many.slice(7_000, 10);
    let place = file.append(&slice).expect("appended");
    assert!(place.length < 4_000, "{}", place.length);
    let back = file.fetch_blocking(place).expect("readable");
    let plain = |b: &RecordBatch| arrow::compute::cast(b.column(0), &DataType::Utf8).expect("text");
    assert_eq!(&plain(&back), &plain(&slice));
}

#[test]
fn rows_without_columns_are_counted() {
    let Setup { space, parent: _parent, .. } = setup(false);
    let schema = Arc::new(Schema::empty());
    let options = RecordBatchOptions::new().with_row_count(Some(17));
    let batch = RecordBatch::try_new_with_options(Arc::clone(&schema), vec![], &options).expect("no columns");
    let mut file = space.create("empty", schema);
    let place = file.append(&batch).expect("appended");
    assert_eq!(file.fetch_blocking(place).expect("readable").num_rows(), 17);
}

#[test]
fn a_batch_of_another_schema_is_refused() {
    let Setup { space, parent: _parent, .. } = setup(false);
    let numbers = RecordBatch::try_from_iter([("n", Arc::new(Int64Array::from(vec![1])) as ArrayRef)]).expect("ok");
    let mut file = space.create("numbers", numbers.schema());
    assert!(file.append(&all_kinds(0..3)).is_err());
    let nulls: ArrayRef = Arc::new(Int64Array::from(vec![None]));
    let nulls = RecordBatch::try_from_iter_with_nullable([("other", nulls, true)]).expect("ok");
    assert!(file.append(&nulls).is_err());
    assert!(file.append(&numbers).is_ok());
}

#[test]
fn any_damaged_byte_and_any_cut_is_found() {
    for compression in [false, true] {
        let Setup { space, parent: _parent, .. } = setup(compression);
        let batch = all_kinds(0..60);
        let mut file = space.create("damaged", batch.schema());
        let first = file.append(&batch).expect("appended");
        let second = file.append(&batch).expect("appended");
        space.flush_blocking();
        let whole = std::fs::read(file.path()).expect("on disk");
        // The file is written in place: a new one would not be what the open handle reads.
        let put = |bytes: &[u8]| {
            let disk = std::fs::OpenOptions::new().write(true).open(file.path()).expect("there");
            disk.set_len(bytes.len() as u64).expect("resized");
            std::os::unix::fs::FileExt::write_all_at(&disk, bytes, 0).expect("written");
        };
        let step = if compression { 13 } else { 29 };
        for at in (0..first.length as usize).filter(|at| *at < 70 || at % step == 0) {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x20;
            put(&bytes);
            let error = file.fetch_blocking(first).expect_err("damaged");
            assert!(matches!(error, OperatorError::SpillDamaged { .. }), "{at}: {error}");
            assert_eq!(file.fetch_blocking(second).expect("this one is whole"), batch);
        }
        for length in [0, 10, 64, first.length as usize + 63, whole.len() - 1] {
            put(&whole[..length]);
            let error = file.fetch_blocking(second).expect_err("cut short");
            assert!(matches!(error, OperatorError::SpillDamaged { .. }), "{length}: {error}");
        }
        // A frame in the place of another one.
        let mut swapped = whole.clone();
        swapped.truncate(first.length as usize);
        let mut other = space.create("other", batch.schema());
        let shorter = other.append(&batch.slice(0, 59)).expect("appended");
        space.flush_blocking();
        put(&std::fs::read(other.path()).expect("on disk"));
        let error = file.fetch_blocking(SpilledBatch { rows: 60, ..shorter }).expect_err("another batch");
        assert!(matches!(error, OperatorError::SpillDamaged { .. }), "{error}");
    }
}

/// A disk that is full after some bytes.
#[derive(Debug)]
struct SmallDisk {
    left: Arc<AtomicU64>,
}

#[derive(Debug)]
struct SmallFile {
    file: Arc<dyn DiskFile>,
    left: Arc<AtomicU64>,
}

impl Disk for SmallDisk {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(SmallFile { file: FileDisk.create(path)?, left: Arc::clone(&self.left) }))
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        FileDisk.remove(path)
    }
}

impl DiskFile for SmallFile {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let fits = |left: u64| left.checked_sub(bytes.len() as u64);
        match self.left.fetch_update(Relaxed, Relaxed, fits) {
            Ok(_) => self.file.write_at(bytes, offset),
            Err(_) => Err(io::ErrorKind::StorageFull.into()),
        }
    }
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_at(bytes, offset)
    }
}

#[test]
fn a_full_disk_is_reported_by_every_later_call_and_leaves_nothing() {
    let disk = SmallDisk { left: Arc::new(AtomicU64::new(300_000)) };
    let Setup { pool, parent, space } = setup_on(Arc::new(disk), None, false);
    let batch = all_kinds(0..500);
    let mut file = space.create("full", batch.schema());
    let first = file.append(&batch).expect("fits");
    while file.append(&batch).is_ok() {
        space.flush_blocking();
    }
    let full = |error: OperatorError| match error {
        OperatorError::Io { source, action: "writing", .. } => assert_eq!(source.kind(), io::ErrorKind::StorageFull),
        other => panic!("{other}"),
    };
    full(file.append(&batch).expect_err("full"));
    full(file.fetch_blocking(first).expect_err("full"));
    full(file.check().expect_err("full"));
    full(space.check().expect_err("full"));
    drop(file);
    assert_eq!((files_under(parent.path()), space.live_bytes(), pool.charged()), (0, 0, 0));
}

#[test]
fn the_spill_limit_refuses_a_batch_and_counts_no_byte_of_it() {
    let Setup { space, parent: _parent, .. } = setup_on(Arc::new(FileDisk), Some(100_000), false);
    let batch = all_kinds(0..100);
    let mut file = space.create("limited", batch.schema());
    let mut places = vec![];
    let error = loop {
        match file.append(&batch) {
            Ok(place) => places.push(place),
            Err(error) => break error,
        }
    };
    assert!(!places.is_empty());
    let OperatorError::SpillLimit { used_bytes, limit_bytes: 100_000, needed_bytes } = error else { panic!("{error}") };
    assert_eq!((used_bytes, used_bytes), (file.bytes(), space.dir().used_bytes()));
    assert!(used_bytes + needed_bytes > 100_000);
    // What was written before is still good, and a file that goes makes room.
    assert_eq!(file.fetch_blocking(places[0]).expect("readable"), batch);
    drop(file);
    assert!(space.create("again", batch.schema()).append(&batch).is_ok());
}

#[test]
fn a_backlog_begins_at_half_of_the_workspace_and_lasts_until_a_quarter() {
    let parent = tempfile::tempdir().expect("a folder");
    let pool = MemoryPool::new(1 << 30);
    let workspace = pool.admit(100_000).expect("fits").account("workspace", 100_000);
    let dir = SpillDir::create(Some(parent.path()), None, false).expect("a folder");
    let (io, _) = Io::start("test", 1).expect("threads");
    let (gate, opened) = crossbeam_channel::bounded::<()>(0);
    io.submit(move || assert!(opened.recv().is_err(), "nothing is sent"));
    let space = dir.space(io, workspace.clone());
    let batch = all_kinds(0..200);
    let mut file = space.create("queued", batch.schema());
    while space.workspace().0 <= 50_000 {
        assert!(space.backlog().is_none());
        file.append(&batch).expect("queued");
    }
    let ticket = space.backlog().expect("more than half of the floor");
    assert!(!ticket.is_done());
    assert!(!std::fs::exists(file.path()).expect("known"));
    drop(gate);
    ticket.wait();
    assert!(space.workspace().0 <= 25_000);
    space.flush_blocking();
    assert!(space.backlog().is_none());
    drop((file, space, workspace));
}

#[test]
fn a_frame_that_its_maker_writes_has_its_part_of_the_workspace_whatever_floats() {
    let pool = MemoryPool::new(300_000);
    let workspace = pool.admit(100_000).expect("fits").account("workspace", 100_000);
    let parent = tempfile::tempdir().expect("a folder");
    let dir = SpillDir::create(Some(parent.path()), None, false).expect("a folder");
    let (io, _) = Io::start("test", 1).expect("threads");
    let (gate, opened) = crossbeam_channel::bounded::<()>(0);
    io.submit(move || assert!(opened.recv().is_err(), "nothing is sent"));
    let space = dir.space(io, workspace.clone());
    let batch = all_kinds(0..50);
    let mut file = space.create("queued", batch.schema());
    // What waits for a disk that is behind takes of what floats.
    while pool.charged() <= 150_000 {
        file.append(&batch).expect("queued");
    }
    let others = pool.account("others").try_reserve(pool.available()).expect("there");
    let queued = space.workspace().0;
    let place = file.append(&batch).expect("written");
    assert_eq!((pool.overruns(), space.workspace().0), (0, queued), "a frame has {} bytes", place.length);
    drop(gate);
    space.flush_blocking();
    assert_eq!(file.fetch_blocking(place).expect("readable"), batch);
    assert_eq!(workspace.held(), 0);
    drop((file, space, others));
}

#[test]
fn a_folder_that_cannot_be_made_anew_is_an_error_and_no_panic() {
    let Setup { space, parent, .. } = setup(false);
    let batch = all_kinds(0..10);
    let mut open = space.create("open", batch.schema());
    let place = open.append(&batch).expect("queued");
    space.flush_blocking();
    std::fs::remove_dir_all(parent.path()).expect("removed");
    std::fs::write(parent.path(), "in the way").expect("written");
    // An open file lives on; a new one cannot be made.
    assert_eq!(open.fetch_blocking(place).expect("readable"), batch);
    let mut file = space.create("late", batch.schema());
    let place = file.append(&batch).expect("queued");
    space.flush_blocking();
    for error in [file.append(&batch).expect_err("gone"), file.fetch_blocking(place).expect_err("gone")] {
        assert!(matches!(error, OperatorError::Io { action: "creating", .. }), "{error}");
    }
    std::fs::remove_file(parent.path()).expect("removed");
}

#[test]
fn unlocked_folders_are_swept_and_nothing_else_is_touched() {
    let parent = tempfile::tempdir().expect("a folder");
    let at = |name: &str| parent.path().join(name);
    let held = SpillDir::create(Some(parent.path()), None, false).expect("a folder");
    for folder in ["aqueduct-spill-dead", "aqueduct-spill-empty", "aqueduct-spill-foreign", "other"] {
        std::fs::create_dir(at(folder)).expect("made");
    }
    for file in
        ["aqueduct-spill-dead/lock", "aqueduct-spill-dead/1-x.arrows", "aqueduct-spill-foreign/data", "other/lock"]
    {
        std::fs::write(at(file), "x").expect("written");
    }
    std::fs::write(at("aqueduct-spill-file"), "x").expect("written");
    std::os::unix::fs::symlink(at("other"), at("aqueduct-spill-link")).expect("linked");
    let own = SpillDir::create(Some(parent.path()), None, false).expect("a folder");
    for gone in ["aqueduct-spill-dead", "aqueduct-spill-empty"] {
        assert!(!at(gone).exists(), "{gone}");
    }
    for kept in ["aqueduct-spill-foreign/data", "other/lock", "aqueduct-spill-file", "aqueduct-spill-link"] {
        assert!(at(kept).exists(), "{kept}");
    }
    assert!(held.path().exists() && own.path().exists());
    let (held_path, own_path) = (held.path().to_owned(), own.path().to_owned());
    drop((held, own));
    assert!(!held_path.exists() && !own_path.exists());
}

#[test]
fn many_starts_at_once_keep_each_other_alive() {
    let parent = tempfile::tempdir().expect("a folder");
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..30 {
                    let dir = SpillDir::create(Some(parent.path()), None, false).expect("a folder");
                    assert!(dir.path().join("lock").exists());
                    std::fs::write(dir.path().join("file"), "x").expect("still there");
                }
            });
        }
    });
    assert_eq!(std::fs::read_dir(parent.path()).expect("there").count(), 0);
}

#[test]
fn many_files_written_and_read_by_many_threads_keep_their_rows() {
    let Setup { space, pool, parent } = setup(false);
    std::thread::scope(|scope| {
        for t in 0..4_i64 {
            let space = space.clone();
            scope.spawn(move || {
                let mut file = space.create("mine", all_kinds(0..0).schema());
                let mut places = vec![];
                for i in 0..60 {
                    let rows = t * 10_000 + i * 10..t * 10_000 + i * 10 + 10;
                    places.push((rows.clone(), file.append(&all_kinds(rows)).expect("appended")));
                    let (rows, place) = places[(i * 7 % (i + 1)) as usize].clone();
                    assert_eq!(file.fetch_blocking(place).expect("readable"), all_kinds(rows));
                }
                let all: Vec<_> = places.iter().map(|(_, p)| file.fetch_blocking(*p).expect("readable")).collect();
                let all = concat_batches(&all[0].schema(), &all).expect("one schema");
                assert_eq!(all.num_rows(), 600);
            });
        }
    });
    space.flush_blocking();
    assert_eq!((pool.charged(), files_under(parent.path())), (0, 0));
}

/// A disk whose writes panic.
#[derive(Debug)]
struct PanickingDisk;

impl Disk for PanickingDisk {
    fn create(&self, _path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        panic!("no disk at all")
    }

    fn remove(&self, _path: &Path) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_write_that_panics_is_an_error_and_nobody_waits_for_its_frame() {
    let Setup { pool, parent: _parent, space } = setup_on(Arc::new(PanickingDisk), None, false);
    let batch = all_kinds(0..100);
    let mut file = space.create("panics", batch.schema());
    file.append(&batch).expect("queued");
    space.flush_blocking();
    for error in [space.check(), file.check()] {
        let said = error.expect_err("it is not written").to_string();
        assert!(said.contains("an I/O thread panicked: no disk at all"), "{said}");
    }
    drop(file);
    assert_eq!(pool.charged(), 0);
}

#[test]
fn a_folder_that_somebody_removed_is_made_anew_and_locked() {
    let Setup { pool: _pool, parent, space } = setup(false);
    let batch = all_kinds(0..100);
    std::fs::remove_dir_all(space.dir().path()).expect("removed");
    let mut file = space.create("again", batch.schema());
    let place = file.append(&batch).expect("queued");
    space.flush_blocking();
    assert_eq!(file.fetch_blocking(place).expect("written"), batch);
    // Whoever starts next finds it in use.
    let other = SpillDir::create(Some(parent.path()), None, false).expect("a folder");
    assert!(space.dir().path().join("lock").exists());
    let path = space.dir().path().to_path_buf();
    drop((file, space, other));
    assert!(!path.exists());
}
