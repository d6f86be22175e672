//! Each container at exactly its floor, at 16 MB and with plenty, against arrow's kernels and std's `HashMap`.

mod map;
mod sorter;

use std::path::Path;
use std::sync::Arc;

use arrow::array::*;
use arrow::compute::{
    SortColumn as ArrowSortColumn, SortOptions, concat_batches, lexsort_to_indices, take_record_batch,
};
use arrow::datatypes::{DataType, Field, Int64Type};
use arrow::record_batch::RecordBatch;

use self::map::{Places, key_fields};
use self::sorter::sort_columns;
use super::*;
use crate::batch::copied;
use crate::error::OperatorError;
use crate::io::Io;
use crate::memory::MemoryPool;
use crate::spill::SpillDir;

const BATCH_BYTES: usize = 16 << 10;

/// An account with a floor, in a pool of a given size; what waits to be written counts elsewhere.
struct Setup {
    pool: MemoryPool,
    account: Account,
    space: SpillSpace,
    _parent: tempfile::TempDir,
}

fn setup(limit_bytes: usize, floor_bytes: usize) -> Setup {
    let parent = tempfile::tempdir().expect("a folder");
    let pool = MemoryPool::new(limit_bytes);
    let account = pool.admit(floor_bytes).expect("the floor fits").account("state", floor_bytes);
    let dir = SpillDir::create(Some(parent.path()), None, false).expect("a folder");
    let (io, _) = Io::start("test", 2).expect("threads");
    let workspace = MemoryPool::new(1 << 30).admit(1 << 20).expect("fits").account("workspace", 1 << 20);
    Setup { pool, account, space: dir.space(io, workspace), _parent: parent }
}

impl Setup {
    /// What a task does after a step.
    fn after_step(&self) {
        self.space.check().expect("written");
        if let Some(backlog) = self.space.backlog() {
            backlog.wait();
        }
    }

    /// Nothing is held, no file is left, and the limit was kept.
    fn ends_clean(self) {
        self.space.flush_blocking();
        assert_eq!(self.account.held(), 0);
        assert_eq!(self.pool.overruns(), 0, "peak {} of {}", self.pool.peak(), self.pool.limit());
        assert_eq!(files_under(self.space.dir().path()), 0);
        assert_eq!(self.space.live_bytes(), 0);
        drop(self.account);
        assert_eq!(self.pool.charged(), 0);
    }
}

fn files_under(path: &Path) -> usize {
    let files = std::fs::read_dir(path).expect("there").flatten();
    files.filter(|file| file.file_name() != "lock").count()
}

/// Numbers that look random and are the same in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % end
    }
}

/// Batches of a number, two kinds of text and the row's place in the input, of `total_bytes` together.
fn input(total_bytes: usize, rows: u64, longest: u64, hot: bool) -> Vec<RecordBatch> {
    let mut random = Random(7);
    let (mut batches, mut bytes, mut at) = (Vec::new(), 0, 0_i64);
    while bytes < total_bytes {
        let count = match batches.len() % 9 {
            3 => 0,
            4 => 1,
            _ => rows,
        };
        let (mut number, mut utf8, mut view) = (Int64Builder::new(), StringBuilder::new(), StringViewBuilder::new());
        let seq = Int64Array::from_iter_values(at..at + count as i64);
        at += count as i64;
        for _ in 0..count {
            if hot && random.below(10) > 0 {
                number.append_value(42);
                utf8.append_value("hot");
                view.append_value("the hot one of all keys");
                continue;
            }
            number.append_option((random.below(11) > 0).then(|| random.below(5000) as i64));
            let text = format!("{:x}", random.below(1 << 40)).repeat(1 + random.below(longest) as usize);
            utf8.append_option((random.below(13) > 0).then_some(&text));
            view.append_option((random.below(17) > 0).then_some(&text[text.len() / 2..]));
        }
        let batch = RecordBatch::try_from_iter_with_nullable([
            ("number", Arc::new(number.finish()) as ArrayRef, true),
            ("utf8", Arc::new(utf8.finish()), true),
            ("view", Arc::new(view.finish()), true),
            ("seq", Arc::new(seq), true),
        ])
        .expect("equal lengths");
        bytes += batch_bytes(&batch);
        batches.push(batch);
    }
    batches
}

/// Inputs that are small, wide, skewed, empty, and one row.
fn inputs(total_bytes: usize) -> Vec<(&'static str, Vec<RecordBatch>)> {
    let plain = input(total_bytes, 100, 4, false);
    vec![
        ("wide rows", input(total_bytes, 3, 200, false)),
        ("a hot key", input(total_bytes / 2, 100, 4, true)),
        ("one row", vec![plain[4].clone()]),
        ("empty batches", vec![plain[3].clone(), plain[3].clone()]),
        ("nothing", vec![]),
        ("plain", plain),
    ]
}

fn read(setup: &Setup, mut next: impl FnMut() -> Result<Next>) -> Vec<RecordBatch> {
    let mut batches = Vec::new();
    loop {
        match next().expect("readable") {
            Next::Batch(batch) => batches.push(copied(&batch)),
            Next::Blocked(ticket) => ticket.wait(),
            Next::End => return batches,
        }
        setup.after_step();
    }
}

fn assert_same(name: &str, output: &[RecordBatch], expected: &RecordBatch) {
    let output = concat_batches(&expected.schema(), output).expect("one schema");
    assert_eq!(output.num_rows(), expected.num_rows(), "{name}");
    assert!(output == *expected, "{name}: other rows");
}

/// Pools: exactly the floor, 16 MB, and plenty.
fn pools(floor_bytes: usize) -> [usize; 3] {
    [floor_bytes, 16 << 20, 4 << 30]
}

#[test]
fn a_vector_gives_back_what_was_pushed_in_order_and_again() {
    let floor = SpillingVec::min_memory(BATCH_BYTES);
    for (name, input) in inputs(50 * floor) {
        let Some(schema) = input.first().map(RecordBatch::schema) else { continue };
        let expected = concat_batches(&schema, &input).expect("one schema");
        for limit in pools(floor) {
            let setup = setup(limit, floor);
            let mut vec = SpillingVec::new(&setup.account, &setup.space, Arc::clone(&schema));
            for (at, batch) in input.iter().enumerate() {
                vec.push(copied(batch)).expect("pushed");
                if at % 50 == 49 && limit < 1 << 30 {
                    vec.spill(10_000).expect("spilled");
                }
                setup.after_step();
            }
            assert_eq!(vec.rows(), expected.num_rows());
            let mut reader = vec.into_reader();
            for _ in 0..2 {
                let output = read(&setup, || reader.next());
                assert_same(name, &output, &expected);
                reader.rewind();
            }
            assert_eq!(setup.space.spilled_bytes() == 0, limit > 1 << 30 || expected.num_rows() < 50, "{name} {limit}");
            drop(reader);
            setup.ends_clean();
        }
    }
}

#[test]
fn a_drained_vector_lets_go_as_it_is_read_and_spills_between_reads() {
    let setup = setup(1 << 20, 256 << 10);
    let input = input(4 << 20, 100, 4, false);
    let schema = input[0].schema();
    let mut vec = SpillingVec::new(&setup.account, &setup.space, Arc::clone(&schema));
    input.iter().for_each(|batch| vec.push(copied(batch)).expect("pushed"));
    let mut reader = vec.drain();
    let mut reads = 0;
    let output = read(&setup, || {
        reads += 1;
        if reads % 7 == 3 {
            reader.spill(50_000)?;
        }
        reader.next()
    });
    assert_same("drained", &output, &concat_batches(&schema, &input).expect("one schema"));
    drop((reader, output));
    setup.ends_clean();
}

#[test]
fn containers_dropped_in_the_middle_leave_nothing() {
    let floor = ExternalSorter::min_memory(BATCH_BYTES);
    let input = input(10 * floor, 100, 4, false);
    let schema = input[0].schema();
    for reads in [0, 1, 5, 20] {
        let setup = setup(floor, floor);
        {
            let mut sorter = ExternalSorter::new(
                &setup.account,
                &setup.space,
                Arc::clone(&schema),
                &sort_columns(),
                1000,
                BATCH_BYTES,
            )
            .expect("sortable");
            input.iter().for_each(|batch| sorter.push(copied(batch)).expect("pushed"));
            for _ in 0..reads {
                if let Next::Blocked(ticket) = sorter.next().expect("readable") {
                    ticket.wait();
                }
            }
        }
        {
            let mut map = SpillingMap::new(&setup.account, &setup.space, &key_fields(), 500).expect("hashable");
            for batch in &input {
                let keys = [Arc::clone(batch.column(0)), Arc::clone(batch.column(2))];
                map.update_batch(&keys, |row, value: &mut Places| value.add(row as i64)).expect("updated");
            }
            let mut reader = map.drain();
            for _ in 0..reads {
                if let NextChunk::Blocked(ticket) = reader.next().expect("readable") {
                    ticket.wait();
                }
            }
        }
        {
            let mut vec = SpillingVec::new(&setup.account, &setup.space, Arc::clone(&schema));
            input.iter().for_each(|batch| vec.push(copied(batch)).expect("pushed"));
            let mut reader = vec.drain();
            for _ in 0..reads {
                reader.next().expect("readable");
            }
        }
        setup.ends_clean();
    }
}

#[test]
fn a_spill_limit_that_is_reached_is_a_typed_error_and_leaves_nothing() {
    let floor = ExternalSorter::min_memory(BATCH_BYTES);
    let input = input(10 * floor, 100, 4, false);
    let parent = tempfile::tempdir().expect("a folder");
    let dir = SpillDir::create(Some(parent.path()), Some(200_000), false).expect("a folder");
    let (io, _) = Io::start("test", 2).expect("threads");
    let pool = MemoryPool::new(floor);
    let account = pool.admit(floor).expect("fits").account("state", floor);
    let space = dir.space(io, MemoryPool::new(1 << 30).account("workspace"));
    let schema = input[0].schema();
    let limited = |error: OperatorError| assert!(matches!(error, OperatorError::SpillLimit { .. }), "{error}");
    {
        let mut vec = SpillingVec::new(&account, &space, Arc::clone(&schema));
        limited(input.iter().try_for_each(|batch| vec.push(copied(batch))).expect_err("full"));
    }
    {
        let columns = sort_columns();
        let sorter = ExternalSorter::new(&account, &space, schema, &columns, 1000, BATCH_BYTES);
        let mut sorter = sorter.expect("sortable");
        limited(input.iter().try_for_each(|batch| sorter.push(copied(batch))).expect_err("full"));
    }
    {
        let mut map = SpillingMap::new(&account, &space, &key_fields(), 500).expect("hashable");
        let filled = input.iter().try_for_each(|batch| {
            let keys = [Arc::clone(batch.column(0)), Arc::clone(batch.column(2))];
            map.update_batch(&keys, |row, value: &mut Places| value.add(row as i64))
        });
        limited(filled.expect_err("full"));
    }
    space.flush_blocking();
    assert_eq!((account.held(), space.live_bytes(), files_under(space.dir().path())), (0, 0, 0));
    drop(account);
    assert_eq!(pool.charged(), 0);
}

#[test]
fn containers_can_be_sent_to_another_thread() {
    fn is_send<T: Send>() {}
    is_send::<SpillingVec>();
    is_send::<SpillingVecReader>();
    is_send::<SpillingMap<Places>>();
    is_send::<MapReader<Places>>();
    is_send::<ExternalSorter>();
}

#[test]
fn what_was_spilled_comes_back_when_others_have_taken_all_that_floats() {
    let batch = RecordBatch::try_from_iter([("n", Arc::new(Int64Array::from_iter_values(0..1_000)) as ArrayRef)]);
    let batch = batch.expect("one column");
    let setup = setup(4 << 20, SpillingVec::min_memory(BATCH_BYTES));
    let mut vec = SpillingVec::new(&setup.account, &setup.space, batch.schema());
    for _ in 0..200 {
        vec.push(copied(&batch)).expect("pushed");
        setup.after_step();
    }
    while vec.spill(1 << 20).expect("spilled") > 0 {
        setup.after_step();
    }
    let others = setup.pool.account("others").try_reserve(setup.pool.available()).expect("what floats");
    let mut reader = vec.drain();
    let mut rows = 0;
    loop {
        match reader.next().expect("the floor is enough") {
            Next::Batch(batch) => rows += batch.num_rows(),
            Next::Blocked(ticket) => ticket.wait(),
            Next::End => break,
        }
    }
    assert_eq!(rows, 200_000);
    drop((reader, others));
    setup.ends_clean();
}
