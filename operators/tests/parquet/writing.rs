//! What the sink writes, other readers read; what was not committed is not there.

use std::path::Path;
use std::sync::Arc;

use aqueduct_operators::parquet::{ParquetCompression, ParquetOptions, ParquetSink, ParquetSinkOptions, ParquetSource};
use aqueduct_runtime::io::Io;
use aqueduct_runtime::memory::MemoryPool;
use aqueduct_runtime::sink::{CloseStep, Receipt, SinkContext, SinkStep};
use aqueduct_runtime::{Result, Sink, SinkSpec};
use arrow::array::*;
use arrow::compute::concat_batches;
use arrow::datatypes::*;
use parquet::file::reader::{FileReader, SerializedFileReader};

use crate::common::{mixed, plainly, rows};

fn context(pool: &MemoryPool, floor: usize, schema: SchemaRef) -> SinkContext {
    let (io, _) = Io::start("parquet-test", 1).expect("a thread");
    let memory = pool.admit(floor).expect("fits").account("sink", floor);
    SinkContext { node: "sink".into(), partition: 0, partitions: 1, schema, memory, io }
}

fn write_all(sink: &mut dyn Sink, batches: &[RecordBatch]) -> Result<Receipt> {
    for batch in batches {
        let mut step = sink.write(batch.clone())?;
        while let SinkStep::Blocked(ticket) = step {
            ticket.wait();
            step = sink.resume()?;
        }
    }
    loop {
        match sink.close()? {
            CloseStep::Closed(receipt) => return Ok(receipt),
            CloseStep::Blocked(ticket) => ticket.wait(),
        }
    }
}

/// Writes `batches` within the floor and nothing beside it; gives how much was held at the most, and the floor.
fn write_within_floor(
    path: &Path,
    options: ParquetSinkOptions,
    batches: &[RecordBatch],
    batch_bytes: usize,
) -> (usize, usize) {
    let spec = ParquetSink::new(path, options).with_schema(&batches[0].schema());
    let floor = spec.min_memory(batch_bytes);
    let pool = MemoryPool::new(floor);
    let context = context(&pool, floor, batches[0].schema());
    let memory = context.memory.clone();
    let mut sink = spec.open(context).expect("opened");
    let receipt = write_all(&mut *sink, batches).expect("written");
    assert_eq!(receipt.rows, batches.iter().map(|batch| batch.num_rows() as u64).sum::<u64>());
    drop(sink);
    spec.commit(vec![receipt]).expect("committed");
    assert_eq!((memory.held(), pool.overruns()), (0, 0));
    (memory.peak(), floor)
}

#[test]
fn what_is_written_is_read_back_whatever_the_compression() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("out.parquet");
    let batches = [mixed(0, 100), mixed(100, 0), mixed(100, 2000), mixed(2100, 1)];
    let all = concat_batches(&batches[0].schema(), &batches).expect("one schema");
    for compression in [
        ParquetCompression::None,
        ParquetCompression::Snappy,
        ParquetCompression::Lz4,
        ParquetCompression::Zstd(3),
        ParquetCompression::Gzip(6),
    ] {
        let options = ParquetSinkOptions { compression, ..ParquetSinkOptions::default() };
        write_within_floor(&path, options, &batches, 256 << 10);
        assert_eq!(plainly(&path, &all.schema()), all, "{compression:?}");
        let source = ParquetSource::open(&path, ParquetOptions::default()).expect("a file");
        assert_eq!(rows(&source), plainly(&path, &source.file_schema()), "{compression:?}");
    }
}

#[test]
fn a_small_floor_makes_small_row_groups() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("out.parquet");
    let batches: Vec<RecordBatch> = (0..100).map(|i| mixed(i * 500, 500)).collect();
    let (peak, floor) = write_within_floor(&path, ParquetSinkOptions::default(), &batches, 64 << 10);
    assert!(peak <= floor, "{peak} of {floor}");
    let groups = |path: &Path| {
        let file = std::fs::File::open(path).expect("there");
        SerializedFileReader::new(file).expect("a file").metadata().num_row_groups()
    };
    assert!(groups(&path) > 1, "{} row groups, {peak} of {floor}", groups(&path));
    let all = concat_batches(&batches[0].schema(), &batches).expect("one schema");
    assert_eq!(plainly(&path, &all.schema()), all);
    let options = ParquetSinkOptions { row_group_rows: 777, ..ParquetSinkOptions::default() };
    write_within_floor(&path, options, &batches[..3], 1 << 20);
    assert_eq!(groups(&path), 2);
}

#[test]
fn statistics_page_index_and_bloom_filters_are_written() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("out.parquet");
    let options = ParquetSinkOptions { bloom_filters: vec!["text".to_string()], ..ParquetSinkOptions::default() };
    write_within_floor(&path, options, &[mixed(0, 1000)], 256 << 10);
    let file = SerializedFileReader::new(std::fs::File::open(&path).expect("there")).expect("a file");
    let group = file.metadata().row_group(0);
    assert!(group.columns().iter().all(|column| column.offset_index_offset().is_some()));
    assert!(group.column(0).column_index_offset().is_some() && group.column(0).statistics().is_some());
    assert!(group.column(3).bloom_filter_offset().is_some() && group.column(0).bloom_filter_offset().is_none());
}

#[test]
fn a_file_that_is_not_committed_is_not_there() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("out.parquet");
    let files = || std::fs::read_dir(folder.path()).expect("a folder").count();
    let spec = ParquetSink::new(&path, ParquetSinkOptions::default());
    let pool = MemoryPool::new(1 << 26);
    let schema = mixed(0, 0).schema();
    let mut sink = spec.open(context(&pool, 8 << 20, Arc::clone(&schema))).expect("opened");
    let _ = sink.write(mixed(0, 1000)).expect("begun");
    assert_eq!(files(), 1);
    drop(sink);
    spec.abort();
    assert_eq!(files(), 0);
    std::fs::write(&path, "old").expect("written");
    let mut sink = spec.open(context(&pool, 8 << 20, schema)).expect("opened");
    let receipt = write_all(&mut *sink, &[]).expect("written");
    drop(sink);
    assert_eq!(std::fs::read_to_string(&path).expect("there"), "old");
    spec.commit(vec![receipt]).expect("committed");
    assert_eq!(files(), 1);
    let source = ParquetSource::open(&path, ParquetOptions::default()).expect("a file without rows");
    assert_eq!(rows(&source).num_rows(), 0);
    assert_eq!(source.statistics().rows, Some(0));
    assert_eq!((pool.charged(), pool.overruns()), (0, 0));
}

#[test]
fn a_long_row_is_written_or_the_error_says_what_would_do() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("out.parquet");
    let text = "long ".repeat(1 << 20);
    let batch =
        RecordBatch::try_from_iter([("text", Arc::new(StringViewArray::from(vec!["a", &text, "b"])) as ArrayRef)]);
    let batch = batch.expect("a column");
    let spec = ParquetSink::new(&path, ParquetSinkOptions::default());
    let floor = spec.min_memory(64 << 10);
    let pool = MemoryPool::new(floor);
    let mut sink = spec.open(context(&pool, floor, batch.schema())).expect("opened");
    let error = write_all(&mut *sink, std::slice::from_ref(&batch)).map(|_| ()).expect_err("too long");
    assert!(error.to_string().contains("one row or value needs"), "{error}");
    drop(sink);
    let pool = MemoryPool::new(64 << 20);
    let mut sink = spec.open(context(&pool, floor, batch.schema())).expect("opened");
    let receipt = write_all(&mut *sink, std::slice::from_ref(&batch)).expect("fits");
    drop(sink);
    spec.commit(vec![receipt]).expect("committed");
    assert_eq!(plainly(&path, &batch.schema()), batch);
    assert_eq!(pool.overruns(), 0);
}

/// One column of each type that the `parquet` crate can write.
fn every_type() -> Vec<ArrayRef> {
    let numbers = Int64Array::from(vec![Some(1), None, Some(3), Some(0), None, Some(100)]);
    let cast = |kind: DataType| arrow::compute::cast(&numbers, &kind).expect("a number");
    let mut columns: Vec<ArrayRef> = [
        DataType::Int8,
        DataType::Int16,
        DataType::Int32,
        DataType::Int64,
        DataType::UInt8,
        DataType::UInt16,
        DataType::UInt32,
        DataType::UInt64,
        DataType::Float16,
        DataType::Float32,
        DataType::Float64,
        DataType::Boolean,
        DataType::Decimal128(5, 1),
        DataType::Decimal128(38, 10),
        DataType::Decimal256(50, 2),
        DataType::Utf8,
        DataType::LargeUtf8,
        DataType::Utf8View,
        DataType::Timestamp(TimeUnit::Second, None),
        DataType::Timestamp(TimeUnit::Millisecond, Some("+02:00".into())),
        DataType::Timestamp(TimeUnit::Microsecond, None),
        DataType::Timestamp(TimeUnit::Nanosecond, Some("UTC".into())),
        DataType::Date64,
        DataType::Time64(TimeUnit::Microsecond),
        DataType::Time64(TimeUnit::Nanosecond),
        DataType::Duration(TimeUnit::Second),
        DataType::Duration(TimeUnit::Nanosecond),
        DataType::Dictionary(Box::new(DataType::Int8), Box::new(DataType::Utf8)),
        DataType::Dictionary(Box::new(DataType::UInt32), Box::new(DataType::Int64)),
    ]
    .map(cast)
    .to_vec();
    let small = arrow::compute::cast(&numbers, &DataType::Int32).expect("small");
    for kind in [DataType::Date32, DataType::Time32(TimeUnit::Second), DataType::Time32(TimeUnit::Millisecond)] {
        columns.push(arrow::compute::cast(&small, &kind).expect("a number"));
    }
    let bytes = vec![Some(&b"a"[..]), None, Some(b"\xff\0"), Some(b""), None, Some(b"more than twelve bytes")];
    columns.push(Arc::new(BinaryArray::from(bytes.clone())));
    columns.push(Arc::new(LargeBinaryArray::from(bytes.clone())));
    columns.push(Arc::new(BinaryViewArray::from_iter(bytes)));
    let fixed = [Some([1u8; 5]), None, Some([2; 5]), Some([0; 5]), None, Some([255; 5])];
    columns.push(Arc::new(FixedSizeBinaryArray::try_from_sparse_iter_with_size(fixed.into_iter(), 5).expect("five")));
    columns.push(Arc::new(IntervalYearMonthArray::from(vec![Some(1), None, Some(-3), Some(0), None, Some(7)])));
    columns.push(Arc::new(NullArray::new(6)));
    let mut lists = LargeListBuilder::new(Int32Builder::new());
    for row in 0..6 {
        (0..row).for_each(|i| lists.values().append_option((i != 2).then_some(i)));
        lists.append(row != 3);
    }
    columns.push(Arc::new(lists.finish()));
    let mut fixed = FixedSizeListBuilder::new(StringBuilder::new(), 2);
    for row in 0..6 {
        fixed.values().append_value(format!("value number {row}"));
        fixed.values().append_option((row % 2 == 0).then_some("b"));
        fixed.append(row != 4);
    }
    columns.push(Arc::new(fixed.finish()));
    let mut maps = MapBuilder::new(None, StringBuilder::new(), Int64Builder::new());
    for row in 0..6 {
        for i in 0..row {
            maps.keys().append_value(format!("key {i}"));
            maps.values().append_option((i != 1).then_some(i));
        }
        maps.append(row != 2).expect("as many keys as values");
    }
    columns.push(Arc::new(maps.finish()));
    let mut deep = ListBuilder::new(ListBuilder::new(Int64Builder::new()));
    for row in 0..6 {
        for i in 0..row % 4 {
            (0..i).for_each(|k| deep.values().values().append_value(k));
            deep.values().append(i != 2);
        }
        deep.append(row != 5);
    }
    columns.push(Arc::new(deep.finish()));
    columns
}

#[test]
fn every_type_goes_there_and_back() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("out.parquet");
    for column in every_type() {
        let kind = column.data_type().clone();
        let batch = RecordBatch::try_from_iter_with_nullable([("c", Arc::clone(&column), true)]).expect("a column");
        write_within_floor(&path, ParquetSinkOptions::default(), &[batch.clone(), batch.slice(1, 4)], 64 << 10);
        let both = concat_batches(&batch.schema(), &[batch.clone(), batch.slice(1, 4)]).expect("one schema");
        assert_eq!(plainly(&path, &batch.schema()), both, "{kind}");
        let source = ParquetSource::open(&path, ParquetOptions::default()).expect("a file");
        assert_eq!(rows(&source), plainly(&path, &source.file_schema()), "{kind}");
        let read = source.file_schema().field(0).data_type().clone();
        let same = match &kind {
            DataType::Utf8 | DataType::LargeUtf8 => read == DataType::Utf8View,
            DataType::Binary | DataType::LargeBinary => read == DataType::BinaryView,
            DataType::FixedSizeList(..) | DataType::Map(..) => true,
            kind => read == *kind,
        };
        assert!(same, "{kind} was read as {read}");
    }
}
