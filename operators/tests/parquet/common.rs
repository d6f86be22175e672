//! Files to read, a source driven by hand, and the plain reader of the `parquet` crate as the judge.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use aqueduct_operators::parquet::ParquetSource;
use aqueduct_runtime::batch::batch_bytes;
use aqueduct_runtime::io::Io;
use aqueduct_runtime::memory::MemoryPool;
use aqueduct_runtime::testing::assert_within_limit;
use aqueduct_runtime::{OperatorError, Outbox, ScanContext, SourceContext, SourceSpec, SourceStep};
use arrow::array::{
    ArrayRef, BooleanArray, Decimal128Array, DictionaryArray, Float64Array, Int32Array, Int64Array, ListBuilder,
    StringArray, StringBuilder, StringViewArray, StructArray, TimestampMicrosecondArray,
};
use arrow::compute::{cast, concat_batches};
use arrow::datatypes::{DataType, Field, Int32Type, SchemaRef};
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::file::properties::WriterProperties;

/// How a source is driven.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Drive {
    pub(crate) limit_bytes: usize,
    pub(crate) batch_bytes: usize,
    pub(crate) batch_rows: usize,
}

impl Default for Drive {
    fn default() -> Self {
        Self { limit_bytes: 1 << 30, batch_bytes: 64 << 10, batch_rows: 8192 }
    }
}

/// What a source yields, and what it held at the most.
#[derive(Debug)]
pub(crate) struct Read {
    pub(crate) batches: Vec<RecordBatch>,
    pub(crate) peak_bytes: usize,
    pub(crate) splits: u64,
}

impl Drive {
    /// Reads all splits with one instance, whose account has the floor that the source asks for.
    pub(crate) fn read(self, source: &ParquetSource) -> Result<Read, OperatorError> {
        let pool = MemoryPool::new(self.limit_bytes);
        let floor = source.min_memory(self.batch_bytes);
        let admission = pool.admit(floor).unwrap_or_else(|| panic!("a floor of {floor} does not fit"));
        let memory = admission.account("scan", floor);
        let (io, threads) = Io::start("parquet-test", 1).expect("a thread");
        let scan = source.scan(ScanContext { batch_bytes: self.batch_bytes, partitions: 1 })?;
        let context = SourceContext {
            node: "scan".into(),
            partition: 0,
            batch_bytes: self.batch_bytes,
            batch_rows: self.batch_rows,
            memory: memory.clone(),
            io: io.clone(),
        };
        let mut reader = scan.open(context)?;
        let mut batches = vec![];
        let mut splits = 0;
        let mut result = Ok(());
        'splits: while let Some(split) = scan.next_split()? {
            assert_eq!(split.index, splits);
            splits += 1;
            if let Err(error) = reader.start(&split) {
                result = Err(error);
                break;
            }
            loop {
                let mut out = Outbox::new();
                let step = reader.read(self.batch_bytes, &mut out);
                while let Some((_, batch)) = out.pop() {
                    assert_eq!(batch.schema(), source.schema());
                    assert!(batch.num_rows() <= self.batch_rows);
                    assert!(
                        batch.num_rows() == 1 || batch_bytes(&batch) <= self.batch_bytes,
                        "{}",
                        batch_bytes(&batch)
                    );
                    batches.push(batch);
                }
                match step {
                    Ok(SourceStep::More) => {}
                    Ok(SourceStep::Blocked(ticket)) => ticket.wait(),
                    Ok(SourceStep::Done) => break,
                    Err(error) => {
                        result = Err(error);
                        break 'splits;
                    }
                }
            }
        }
        let peak_bytes = memory.peak();
        drop(reader);
        // What was being loaded when it ended badly is let go of by the thread that loads it.
        io.stop();
        threads.into_iter().for_each(|thread| thread.join().expect("it ends"));
        assert_eq!(memory.held(), 0, "all is given back");
        assert_within_limit([&pool]);
        result.map(|()| Read { batches, peak_bytes, splits })
    }
}

/// All rows of a source in one batch.
pub(crate) fn rows(source: &ParquetSource) -> RecordBatch {
    let read = Drive::default().read(source).expect("readable");
    concat_batches(&source.schema(), &read.batches).expect("one schema")
}

/// What the plain reader makes of a file, cast to `schema`.
pub(crate) fn plainly(path: &Path, schema: &SchemaRef) -> RecordBatch {
    let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(path).expect("there")).expect("a file");
    let own = Arc::clone(reader.schema());
    let batches: Vec<RecordBatch> =
        reader.with_batch_size(1000).build().expect("readable").collect::<Result<_, _>>().expect("readable");
    let all = concat_batches(&own, &batches).expect("one schema");
    let columns = schema.fields().iter().map(|field| {
        let column = all.column_by_name(field.name()).expect("the same columns");
        cast(column, field.data_type()).expect("the same values")
    });
    let options = RecordBatchOptions::new().with_row_count(Some(all.num_rows()));
    RecordBatch::try_new_with_options(Arc::clone(schema), columns.collect(), &options).expect("the same rows")
}

/// Writes `batches` as a file.
pub(crate) fn write(path: &Path, batches: &[RecordBatch], properties: WriterProperties) {
    let file = File::create(path).expect("a file");
    let mut writer = ArrowWriter::try_new(file, batches[0].schema(), Some(properties)).expect("a writer");
    for batch in batches {
        writer.write(batch).expect("written");
    }
    writer.close().expect("closed");
}

/// Rows of many types, some of them null, with some texts long.
pub(crate) fn mixed(from: i64, count: i64) -> RecordBatch {
    let each = || from..from + count;
    let some = |i: i64| i % 7 != 3;
    let text = |i: i64| some(i).then(|| format!("text {}", "x".repeat((i % 40) as usize) + &i.to_string()));
    let mut lists = ListBuilder::new(StringBuilder::new());
    for i in each() {
        for k in 0..i % 4 {
            lists.values().append_option((k != 1).then(|| format!("item {i} {k}")));
        }
        lists.append(i % 5 != 0);
    }
    let pair = StructArray::from(vec![
        (
            Arc::new(Field::new("x", DataType::Int32, true)),
            Arc::new(Int32Array::from_iter(each().map(|i| some(i).then_some(i as i32)))) as ArrayRef,
        ),
        (
            Arc::new(Field::new("y", DataType::Utf8, false)),
            Arc::new(StringArray::from_iter_values(each().map(|i| format!("y{i}")))),
        ),
    ]);
    let columns: [(&str, ArrayRef); 10] = [
        ("id", Arc::new(Int64Array::from_iter_values(each()))),
        ("value", Arc::new(Float64Array::from_iter(each().map(|i| some(i + 1).then_some(i as f64 / 3.0))))),
        ("flag", Arc::new(BooleanArray::from_iter(each().map(|i| some(i + 2).then_some(i % 3 == 0))))),
        ("text", Arc::new(StringArray::from_iter(each().map(text)))),
        ("view", Arc::new(StringViewArray::from_iter(each().map(|i| text(i + 5))))),
        (
            "kind",
            Arc::new(
                each().map(|i| ["red", "green", "blue"][(i % 3) as usize]).collect::<DictionaryArray<Int32Type>>(),
            ),
        ),
        (
            "price",
            Arc::new(
                Decimal128Array::from_iter(each().map(|i| some(i).then_some(i128::from(i) * 101)))
                    .with_precision_and_scale(20, 2)
                    .expect("fits"),
            ),
        ),
        (
            "at",
            Arc::new(TimestampMicrosecondArray::from_iter_values(each().map(|i| i * 1_000_003)).with_timezone("UTC")),
        ),
        ("items", Arc::new(lists.finish())),
        ("pair", Arc::new(pair)),
    ];
    RecordBatch::try_from_iter_with_nullable(columns.map(|(name, column)| (name, column, true))).expect("columns")
}
