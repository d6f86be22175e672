//! Scans without actors, beside what arrow-csv makes of the same bytes: for tests, and for the fuzz target `csv`.

use std::ops::RangeInclusive;
use std::sync::Arc;

use aqueduct_runtime::io::{ByHand, Io};
use aqueduct_runtime::memory::{Admission, MemoryPool};
use aqueduct_runtime::{Outbox, Result, Scan, Source, SourceContext, SourceSpec, SourceStep};
use arrow::array::AsArray;
use arrow::compute::{cast, concat_batches};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;

use super::scan::CsvScan;
use super::{CsvOptions, CsvSource};

/// I/O threads, or what they would do, and a pool for instances without a job.
pub(super) struct Bench {
    io: Io,
    by_hand: Option<ByHand>,
    pub(super) pool: MemoryPool,
    pub(super) batch_bytes: usize,
    pub(super) batch_rows: usize,
}

impl Bench {
    pub(super) fn new(limit_bytes: usize) -> Self {
        let (io, _) = Io::start("csv-test", 1).expect("a thread");
        Self { io, by_hand: None, pool: MemoryPool::new(limit_bytes), batch_bytes: 64 * 1024, batch_rows: 65_536 }
    }

    /// Without a thread, for [`Bench::drive`]: a change of threads takes longer than reading a line.
    fn by_hand(limit_bytes: usize) -> Self {
        let (io, by_hand) = Io::by_hand();
        let by_hand = Some(by_hand);
        Self { io, by_hand, pool: MemoryPool::new(limit_bytes), batch_bytes: 64 * 1024, batch_rows: 65_536 }
    }

    pub(super) fn open(&self, scan: &dyn Scan, admission: &Arc<Admission>, floor_bytes: usize) -> Box<dyn Source> {
        let context = SourceContext {
            node: "csv".into(),
            partition: 0,
            batch_bytes: self.batch_bytes,
            batch_rows: self.batch_rows,
            memory: admission.account("csv", floor_bytes),
            io: self.io.clone(),
        };
        scan.open(context).expect("opened")
    }

    /// Drives `scan` with `instances` instances round-robin, one step each: every batch in source order.
    pub(super) fn drive(&self, scan: &dyn Scan, instances: usize, floor_bytes: usize) -> Result<Vec<RecordBatch>> {
        let admission = self.pool.admit(instances * floor_bytes).expect("the floors fit");
        let mut sources: Vec<_> = (0..instances).map(|_| (self.open(scan, &admission, floor_bytes), None)).collect();
        let mut batches = vec![];
        let mut ended = false;
        while !ended || sources.iter().any(|(_, split)| split.is_some()) {
            for (source, current) in &mut sources {
                let index = match *current {
                    Some(index) => index,
                    None => {
                        let Some(split) = scan.next_split()? else {
                            ended = true;
                            continue;
                        };
                        source.start(&split)?;
                        *current.insert(split.index)
                    }
                };
                let mut out = Outbox::new();
                match source.read(self.batch_bytes, &mut out)? {
                    SourceStep::More => {}
                    SourceStep::Blocked(_) => match self.by_hand.as_ref().map(ByHand::take) {
                        Some(Some(work)) => work(),
                        // Another instance may be the one to go on.
                        Some(None) | None => std::thread::yield_now(),
                    },
                    SourceStep::Done => *current = None,
                }
                while let Some((_, batch)) = out.pop() {
                    batches.push((index, batch));
                }
            }
        }
        batches.sort_by_key(|(index, _)| *index);
        Ok(batches.into_iter().map(|(_, batch)| batch).collect())
    }
}

pub(super) fn read(source: &CsvSource, bench: &Bench, scan: &CsvScan, instances: usize) -> Result<RecordBatch> {
    let batches = bench.drive(scan, instances, source.min_memory(bench.batch_bytes))?;
    assert_eq!(scan.shared().confirmations.len(), 0, "what splits told each other is forgotten");
    Ok(concat_batches(&source.schema(), &batches).expect("one schema"))
}

pub(super) fn schema(kinds: &[DataType]) -> SchemaRef {
    let fields = kinds.iter().enumerate().map(|(i, kind)| Field::new(format!("c{i}"), kind.clone(), true));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// What arrow-csv reads, or its error.
pub(super) fn by_arrow(text: &[u8], schema: SchemaRef, header: bool) -> std::result::Result<RecordBatch, String> {
    // arrow-csv looks at all fields of a batch as one text, and takes a character that is cut in two by a line's end.
    std::str::from_utf8(text).map_err(|error| error.to_string())?;
    // It does not read this one.
    let known = |kind: &DataType| if kind == &DataType::LargeUtf8 { DataType::Utf8 } else { kind.clone() };
    let fields = schema.fields().iter().map(|field| Field::clone(field).with_data_type(known(field.data_type())));
    let readable = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    let reader = arrow_csv::ReaderBuilder::new(Arc::clone(&readable)).with_header(header).build(text);
    let batches: std::result::Result<Vec<_>, _> = reader.map_err(|e| e.to_string())?.collect();
    let batch = concat_batches(&readable, &batches.map_err(|e| e.to_string())?).map_err(|e| e.to_string())?;
    let columns = batch.columns().iter().zip(schema.fields());
    let columns = columns.map(|(column, field)| cast(column, field.data_type()).expect("strings")).collect();
    Ok(RecordBatch::try_new(schema, columns).expect("the same columns"))
}

/// The rows as text, null as the empty string: arrow-csv cannot tell one from the other.
pub(super) fn rows(batch: &RecordBatch) -> Vec<Vec<String>> {
    let columns: Vec<_> = batch.columns().iter().map(|column| cast(column, &DataType::Utf8).expect("shown")).collect();
    let value = |column: &arrow::array::ArrayRef, row| {
        let column = column.as_string::<i32>();
        if arrow::array::Array::is_null(column, row) { String::new() } else { column.value(row).to_string() }
    };
    (0..batch.num_rows()).map(|row| columns.iter().map(|column| value(column, row)).collect()).collect()
}

/// Reads `text` at every split size and with one to three instances, and compares with arrow-csv.
pub(super) fn compare_at_every_split(text: &[u8], kinds: &[DataType]) {
    compare(text, kinds, 1..=text.len().max(1) + 1, 1..=3);
}

/// Reads `text` at these split sizes and with so many instances, and compares with arrow-csv.
fn compare(text: &[u8], kinds: &[DataType], splits: RangeInclusive<usize>, instances: RangeInclusive<usize>) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("data.csv");
    std::fs::write(&path, text).expect("written");
    let schema = schema(kinds);
    let options = CsvOptions { header: false, schema: Some(Arc::clone(&schema)), ..Default::default() };
    let expected = by_arrow(text, schema, false);
    let source = match CsvSource::open(&path, options) {
        Ok(source) => source,
        Err(error) => return assert!(expected.is_err() || text.contains(&b'"'), "{error}"),
    };
    let bench = Bench::by_hand(1 << 30);
    for split_bytes in splits {
        for instances in instances.clone() {
            let scan = source.csv_scan(split_bytes, 1, 2);
            let found = read(&source, &bench, &scan, instances);
            let shown = String::from_utf8_lossy(text);
            match (&found, &expected) {
                (Ok(found), Ok(expected)) => {
                    assert_eq!(rows(found), rows(expected), "{shown:?} split at {split_bytes}, {instances} instances");
                }
                (Err(_), Err(_)) => {}
                // arrow-csv takes the rest of the file for the text of a quote that is never closed.
                (Err(error), Ok(_)) if error.to_string().contains("never closed") => {}
                // Whose other columns arrow-csv also reads.
                (found, expected) => panic!("{shown:?} split at {split_bytes}: {found:?} and {expected:?}"),
            }
        }
    }
}

/// Any bytes as a file: read as arrow-csv reads them, at a size of splits and with a number of instances that they say.
pub(crate) fn hostile(data: &[u8]) {
    let [columns, split, instances, text @ ..] = data else { return };
    // A `\r` alone ends a line for csv-core, and is text here.
    let lone = |i: &usize| text[*i] == b'\r' && text.get(i + 1) != Some(&b'\n');
    if (0..text.len()).any(|i| lone(&i)) {
        return;
    }
    let kinds = [DataType::Utf8View, DataType::Utf8, DataType::Utf8View];
    let (columns, split) = (1 + usize::from(columns % 3), 1 + usize::from(*split));
    let instances = 1 + usize::from(instances % 3);
    compare(text, &kinds[..columns], split..=split, instances..=instances);
}
