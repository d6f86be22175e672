//! What reading and writing Parquet holds, as accounts say and as the allocator counts: accounts may not say less.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use aqueduct_operators::parquet::{ParquetCompression, ParquetOptions, ParquetSink, ParquetSinkOptions, ParquetSource};
use aqueduct_runtime::allocator::{CountingAllocator, allocated_bytes, peak_bytes, reset_peak};
use aqueduct_runtime::io::Io;
use aqueduct_runtime::memory::MemoryPool;
use aqueduct_runtime::{
    CloseStep, Outbox, ScanContext, SinkContext, SinkSpec, SinkStep, SourceContext, SourceSpec, SourceStep,
};
use arrow::array::{ArrayRef, Float64Array, Int64Array, ListBuilder, RecordBatch, StringBuilder, StringViewArray};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::{WriterProperties, WriterVersion};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator::new();

/// Real bytes may exceed accounted ones by a tenth, and by what readers and writers without rows have.
const SLACK_BYTES: usize = 512 << 10;

const BATCH_BYTES: usize = 64 << 10;

fn rows(from: i64, count: i64) -> RecordBatch {
    let each = || from..from + count;
    let scattered = |i: i64| i.wrapping_mul(6_364_136_223_846_793_005) >> 20;
    let mut lists = ListBuilder::new(StringBuilder::new());
    for i in each() {
        (0..i % 5).for_each(|k| lists.values().append_value(format!("item {} {k}", scattered(i))));
        lists.append(true);
    }
    let columns: [(&str, ArrayRef); 5] = [
        ("id", Arc::new(Int64Array::from_iter_values(each()))),
        ("value", Arc::new(Float64Array::from_iter(each().map(|i| (i % 9 != 0).then_some(scattered(i) as f64))))),
        ("few", Arc::new(StringViewArray::from_iter_values(each().map(|i| format!("one of a few {}", i % 100))))),
        (
            "text",
            Arc::new(StringViewArray::from_iter_values(each().map(|i| format!("a longer text {}", scattered(i))))),
        ),
        ("items", Arc::new(lists.finish())),
    ];
    RecordBatch::try_from_iter(columns).expect("columns of one length")
}

/// Reads a file, and compares at every step.
fn read(path: &Path, name: &str) {
    let source = ParquetSource::open(path, ParquetOptions::default()).expect("a file");
    let pool = MemoryPool::new(1 << 30);
    let floor = source.min_memory(BATCH_BYTES);
    let memory = pool.admit(floor).expect("fits").account("scan", floor);
    let (io, threads) = Io::start("parquet-test", 1).expect("a thread");
    let before = allocated_bytes();
    reset_peak();
    let scan = source.scan(ScanContext { batch_bytes: BATCH_BYTES, partitions: 1 }).expect("begins");
    let context = SourceContext {
        node: "scan".into(),
        partition: 0,
        batch_bytes: BATCH_BYTES,
        batch_rows: 8192,
        memory: memory.clone(),
        io: io.clone(),
    };
    let mut reader = scan.open(context).expect("opens");
    let mut count = 0;
    while let Some(split) = scan.next_split().expect("a split") {
        reader.start(&split).expect("begins");
        loop {
            let mut out = Outbox::new();
            let step = reader.read(BATCH_BYTES, &mut out).expect("readable");
            while let Some((_, batch)) = out.pop() {
                count += batch.num_rows();
            }
            match step {
                SourceStep::More => {}
                SourceStep::Blocked(ticket) => ticket.wait(),
                SourceStep::Done => break,
            }
            let (real, accounted) = (allocated_bytes().saturating_sub(before), memory.held());
            assert!(
                real <= accounted + accounted / 10 + SLACK_BYTES,
                "{name}: {real} are there, {accounted} accounted"
            );
        }
    }
    // Between steps a batch and what it is made of are there too, which the task's own estimate is for.
    let (real, accounted) = (peak_bytes().saturating_sub(before), memory.peak() + 6 * BATCH_BYTES);
    println!("{name}: {real} bytes were there at the most, {accounted} accounted, floor {floor}, {count} rows");
    assert!(real <= accounted + accounted / 10 + SLACK_BYTES, "{name}: {real} were there, {accounted} accounted");
    assert!(memory.peak() > 0);
    drop(reader);
    io.stop();
    threads.into_iter().for_each(|thread| thread.join().expect("it ends"));
    assert_eq!((memory.held(), pool.overruns()), (0, 0));
}

/// Writes a file, and compares at every step.
fn write(path: &Path, compression: ParquetCompression, roomy: bool) {
    let spec = ParquetSink::new(path, ParquetSinkOptions { compression, ..ParquetSinkOptions::default() });
    let spec = spec.with_schema(&rows(0, 0).schema());
    let floor = spec.min_memory(BATCH_BYTES);
    let pool = MemoryPool::new(if roomy { 1 << 30 } else { floor });
    let memory = pool.admit(floor).expect("fits").account("sink", floor);
    let (io, threads) = Io::start("parquet-test", 1).expect("a thread");
    let schema = rows(0, 0).schema();
    let before = allocated_bytes();
    let context = SinkContext {
        node: "sink".into(),
        partition: 0,
        partitions: 1,
        schema,
        memory: memory.clone(),
        io: io.clone(),
    };
    let mut sink = spec.open(context).expect("opened");
    for at in 0..if roomy { 600 } else { 150 } {
        let batch = rows(at * 400, 400);
        reset_peak();
        let mut step = sink.write(batch).expect("written");
        while let SinkStep::Blocked(ticket) = step {
            ticket.wait();
            step = sink.resume().expect("written");
        }
        let real = allocated_bytes().saturating_sub(before);
        let accounted = memory.held();
        assert!(
            real <= accounted + accounted / 10 + SLACK_BYTES,
            "{compression:?}: {real} are there, {accounted} accounted"
        );
        // While a batch is encoded buffers grow, and are there twice for a moment.
        let (real, accounted) = (peak_bytes().saturating_sub(before), memory.peak() + 6 * BATCH_BYTES);
        assert!(
            real <= accounted + accounted / 10 + SLACK_BYTES,
            "{compression:?}: {real} were there, {accounted} accounted"
        );
    }
    let receipt = loop {
        match sink.close().expect("written") {
            CloseStep::Closed(receipt) => break receipt,
            CloseStep::Blocked(ticket) => ticket.wait(),
        }
    };
    drop(sink);
    spec.commit(vec![receipt]).expect("committed");
    io.stop();
    threads.into_iter().for_each(|thread| thread.join().expect("it ends"));
    println!("{compression:?}: {} accounted at the most, floor {floor}", memory.peak());
    assert_eq!((memory.held(), pool.overruns()), (0, 0));
}

#[test]
fn what_is_held_is_accounted() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("a.parquet");
    for roomy in [true, false] {
        write(&path, ParquetCompression::None, roomy);
        write(&path, ParquetCompression::Snappy, roomy);
        write(&path, ParquetCompression::Lz4, roomy);
        write(&path, ParquetCompression::Zstd(1), roomy);
        write(&path, ParquetCompression::Zstd(9), roomy);
        write(&path, ParquetCompression::Gzip(6), roomy);
    }
    read(&path, "our own");
    let base = || WriterProperties::builder().set_max_row_group_row_count(Some(100_000));
    let zstd = Compression::ZSTD(ZstdLevel::default());
    let layouts = [
        ("uncompressed", base().build()),
        ("zstd", base().set_compression(zstd).build()),
        ("no dictionaries", base().set_compression(Compression::SNAPPY).set_dictionary_enabled(false).build()),
        ("no page index", base().set_compression(zstd).set_offset_index_disabled(true).build()),
        ("version 2", base().set_compression(zstd).set_writer_version(WriterVersion::PARQUET_2_0).build()),
    ];
    for (name, properties) in layouts {
        let mut writer =
            ArrowWriter::try_new(File::create(&path).expect("a file"), rows(0, 0).schema(), Some(properties))
                .expect("a writer");
        (0..25).for_each(|at| writer.write(&rows(at * 10_000, 10_000)).expect("written"));
        writer.close().expect("closed");
        read(&path, name);
    }
}
