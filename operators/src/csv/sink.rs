//! Writes one CSV file: a temporary one beside the target, which takes its name at commit.
//!
//! Until the commit the target is as it was; after an abort nothing is left. Rows are encoded in the step,
//! one buffer at a time, while an I/O thread writes the buffer before it.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aqueduct_runtime::batch::batch_bytes;
use aqueduct_runtime::io::{Pending, Ticket};
use aqueduct_runtime::memory::Reservation;
use aqueduct_runtime::sink::{CloseStep, Receipt, SinkContext, SinkStep};
use aqueduct_runtime::{OperatorError, Result, Sink, SinkSpec};
use arrow::record_batch::RecordBatch;
use arrow_csv::WriterBuilder;

use super::reader::poll;
use crate::target::{Begun, Target};

/// Bytes of text that are written at once, about.
const BUFFER_BYTES: usize = 128 * 1024;

/// Bytes that a value beside its text may take in CSV: the longest numbers, times and quotes.
const VALUE_BYTES: usize = 40;

/// One CSV file with a header, written in the order in which batches arrive.
///
/// An existing file is replaced at commit, by a rename, and until then it is as it was.
#[derive(Debug)]
pub struct CsvSink {
    target: Target,
    header: bool,
    delimiter: u8,
}

impl CsvSink {
    /// A sink that writes to `path`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { target: Target::new(path), header: true, delimiter: b',' }
    }

    /// Whether the first line names the columns; it does unless this says otherwise.
    #[must_use]
    pub fn with_header(self, header: bool) -> Self {
        Self { header, ..self }
    }

    /// The byte between two fields, `,` unless this says otherwise.
    #[must_use]
    pub fn with_delimiter(self, delimiter: u8) -> Self {
        Self { delimiter, ..self }
    }

    /// The file that will be there.
    pub fn path(&self) -> &Path {
        self.target.path()
    }

    /// Begins the temporary file.
    fn create(&self, context: SinkContext) -> Result<CsvFile> {
        let file = self.target.begin(context.partitions)?;
        let handle = Arc::new(file.handle().map_err(|error| self.target.failed(error))?);
        let mut reservation = context.memory.reservation();
        if !reservation.try_grow(2 * BUFFER_BYTES) {
            return Err(context.memory.row_too_large(2 * BUFFER_BYTES));
        }
        Ok(CsvFile {
            path: self.path().to_path_buf(),
            header: self.header,
            delimiter: self.delimiter,
            context,
            file: Some(file),
            handle,
            buffer: Vec::with_capacity(BUFFER_BYTES),
            spare: Some(Vec::with_capacity(BUFFER_BYTES)),
            reservation,
            rest: None,
            writing: None,
            writing_bytes: 0,
            rows: 0,
            closing: Closing::Open,
        })
    }
}

impl SinkSpec for CsvSink {
    fn name(&self) -> &str {
        "csv"
    }

    fn open(&self, context: SinkContext) -> Result<Box<dyn Sink>> {
        Ok(Box::new(self.create(context)?))
    }

    fn commit(&self, receipts: Vec<Receipt>) -> Result<()> {
        self.target.commit(receipts)
    }

    fn abort(&self) {
        self.target.abort();
    }

    fn min_memory(&self, batch_bytes: usize) -> usize {
        // A batch may be one row: its text, quotes doubled, and the buffer that is being written.
        2 * BUFFER_BYTES + 2 * batch_bytes
    }

    fn detail(&self) -> String {
        self.path().display().to_string()
    }
}

/// The file as it is written.
struct CsvFile {
    path: PathBuf,
    /// The header is still to be written.
    header: bool,
    delimiter: u8,
    context: SinkContext,
    /// Removed when dropped, unless committed.
    file: Option<Begun>,
    handle: Arc<File>,
    /// Text that is not written yet.
    buffer: Vec<u8>,
    /// The other buffer, unless it is being written.
    spare: Option<Vec<u8>>,
    reservation: Reservation,
    /// Rows that are not encoded yet.
    rest: Option<RecordBatch>,
    writing: Option<Pending<std::io::Result<Vec<u8>>>>,
    /// Bytes of the buffer that is being written, if one is.
    writing_bytes: usize,
    rows: u64,
    closing: Closing,
}

enum Closing {
    Open,
    Syncing(Pending<std::io::Result<()>>),
}

impl CsvFile {
    /// Encodes rows behind what is in the buffer, which they fit in unless they are one row and it is empty; or says
    /// what to wait for before that.
    fn encode(&mut self, batch: &RecordBatch) -> Result<Option<Ticket>> {
        let needed = self.buffer.len() + Self::text_bytes(batch);
        if needed > self.buffer.capacity() {
            if self.buffer.is_empty() {
                // Nothing is moved: the old buffer goes before there is a new one.
                self.buffer = Vec::new();
            }
            let both = self.buffer.capacity() + needed + self.other_bytes();
            if !self.reservation.try_set(both) {
                return self.context.memory.wait_for(both - self.reservation.bytes()).map(Some);
            }
            self.buffer.reserve_exact(needed - self.buffer.len());
        }
        let builder = WriterBuilder::new().with_header(self.header).with_delimiter(self.delimiter);
        let mut writer = builder.build(std::mem::take(&mut self.buffer));
        writer.write(batch)?;
        self.buffer = writer.into_inner();
        self.header = false;
        // Text longer than the estimate is there already.
        self.reservation.set((self.buffer.capacity() + self.other_bytes()).max(2 * BUFFER_BYTES));
        Ok(None)
    }

    /// Bytes of the buffer that is not being filled.
    fn other_bytes(&self) -> usize {
        self.spare.as_ref().map_or(self.writing_bytes, Vec::capacity)
    }

    /// Hands the buffer to an I/O thread, once that has written the one before. `true` if it did.
    fn flush(&mut self) -> Result<bool> {
        if let Some(writing) = self.writing.take() {
            match poll(writing)? {
                Ok(written) => {
                    let mut buffer = written.map_err(|error| OperatorError::io("writing", &self.path, error))?;
                    buffer.clear();
                    // What one large row needed is given back.
                    buffer.shrink_to(BUFFER_BYTES);
                    self.spare = Some(buffer);
                }
                Err(writing) => {
                    self.writing = Some(writing);
                    return Ok(false);
                }
            }
        }
        if !self.buffer.is_empty() {
            let buffer = std::mem::replace(&mut self.buffer, self.spare.take().unwrap_or_default());
            self.writing_bytes = buffer.capacity();
            let handle = Arc::clone(&self.handle);
            let write = move || (&*handle).write_all(&buffer).map(|()| buffer);
            self.writing = Some(self.context.io.run("writing", write));
        }
        Ok(true)
    }

    fn blocked(&self) -> Option<Ticket> {
        self.writing.as_ref().map(|writing| writing.ticket().clone())
    }

    /// Bytes that the text of `batch` may take.
    fn text_bytes(batch: &RecordBatch) -> usize {
        2 * batch_bytes(batch) + batch.num_rows() * VALUE_BYTES * batch.num_columns()
    }

    /// First rows of `batch` that the buffer has room for: one row at the least if it is empty. `None` if it has to
    /// be written first.
    fn fitting_rows(&self, batch: &RecordBatch) -> Option<usize> {
        let room = self.buffer.capacity() - self.buffer.len();
        let mut rows = batch.num_rows();
        loop {
            let text_bytes = Self::text_bytes(&batch.slice(0, rows));
            if text_bytes <= room {
                return Some(rows);
            }
            if rows <= 1 {
                return self.buffer.is_empty().then_some(rows);
            }
            // Rows may differ in length: halves, where a share by the average does not do.
            rows = (room as u128 * rows as u128 / text_bytes as u128).clamp(1, rows as u128 / 2) as usize;
        }
    }
}

impl Sink for CsvFile {
    fn write(&mut self, batch: RecordBatch) -> Result<SinkStep> {
        self.rows += batch.num_rows() as u64;
        self.rest = Some(batch);
        self.resume()
    }

    fn resume(&mut self) -> Result<SinkStep> {
        loop {
            let fitting = self.rest.as_ref().map(|batch| self.fitting_rows(batch));
            // A full buffer goes first: there is never more than it and the one being written.
            if (self.buffer.len() >= BUFFER_BYTES / 2 || fitting == Some(None)) && !self.flush()? {
                match self.blocked() {
                    Some(ticket) => return Ok(SinkStep::Blocked(ticket)),
                    None => continue,
                }
            }
            let Some(batch) = self.rest.take() else { return Ok(SinkStep::Written) };
            // The buffer may have been written since.
            let Some(rows) = self.fitting_rows(&batch) else {
                self.rest = Some(batch);
                continue;
            };
            if let Some(ticket) = self.encode(&batch.slice(0, rows))? {
                self.rest = Some(batch);
                return Ok(SinkStep::Blocked(ticket));
            }
            if rows < batch.num_rows() {
                self.rest = Some(batch.slice(rows, batch.num_rows() - rows));
            }
        }
    }

    fn close(&mut self) -> Result<CloseStep> {
        if let Closing::Syncing(pending) = std::mem::replace(&mut self.closing, Closing::Open) {
            return match poll(pending)? {
                Ok(synced) => {
                    synced.map_err(|error| OperatorError::io("writing", &self.path, error))?;
                    let file = self.file.take().ok_or_else(|| OperatorError::new("a CSV sink was closed twice"))?;
                    Ok(CloseStep::Closed(Receipt { rows: self.rows, payload: Some(Box::new(file)) }))
                }
                Err(pending) => {
                    let ticket = pending.ticket().clone();
                    self.closing = Closing::Syncing(pending);
                    Ok(CloseStep::Blocked(ticket))
                }
            };
        }
        if self.header {
            // No batch came; the columns are told all the same.
            let empty = RecordBatch::new_empty(Arc::clone(&self.context.schema));
            if let Some(ticket) = self.encode(&empty)? {
                return Ok(CloseStep::Blocked(ticket));
            }
        }
        // Twice: once for what is in the buffer, once to know that it was written.
        while !self.buffer.is_empty() || self.writing.is_some() {
            if !self.flush()?
                && let Some(ticket) = self.blocked()
            {
                return Ok(CloseStep::Blocked(ticket));
            }
        }
        let handle = Arc::clone(&self.handle);
        let pending = self.context.io.run("writing", move || handle.sync_all());
        let ticket = pending.ticket().clone();
        self.closing = Closing::Syncing(pending);
        Ok(CloseStep::Blocked(ticket))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use aqueduct_runtime::io::Io;
    use aqueduct_runtime::memory::MemoryPool;
    use arrow::array::{ArrayRef, Float64Array, Int64Array, StringViewArray};

    use super::*;

    fn batch(rows: std::ops::Range<i64>) -> RecordBatch {
        let text = rows.clone().map(|i| match i % 4 {
            0 => None,
            1 => Some(format!("say \"{i}\", twice\n")),
            _ => Some("x".repeat((i % 50) as usize)),
        });
        let columns: [(&str, ArrayRef); 3] = [
            ("id", Arc::new(Int64Array::from_iter_values(rows.clone()))),
            ("value", Arc::new(Float64Array::from_iter_values(rows.map(|i| i as f64 / 7.0)))),
            ("text", Arc::new(StringViewArray::from_iter(text))),
        ];
        RecordBatch::try_from_iter(columns).expect("columns of one length")
    }

    fn context(pool: &MemoryPool, partitions: usize) -> SinkContext {
        let (io, _) = Io::start("csv-test", 1).expect("a thread");
        let (node, memory, schema) = ("sink".into(), pool.account("sink"), batch(0..0).schema());
        SinkContext { node, partition: 0, partitions, schema, memory, io }
    }

    fn write(sink: &mut dyn Sink, batches: impl IntoIterator<Item = RecordBatch>) -> Result<Receipt> {
        for batch in batches {
            let mut step = sink.write(batch)?;
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

    fn files(folder: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(folder).expect("a folder");
        entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn a_commit_replaces_the_file_by_what_arrow_writes() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("out.csv");
        std::fs::write(&path, "old").expect("written");
        let pool = MemoryPool::new(1 << 20);
        let spec = CsvSink::new(&path);
        let mut sink = spec.open(context(&pool, 1)).expect("opened");
        let receipt = write(&mut *sink, (0..10).map(|i| batch(i * 10_000..(i + 1) * 10_000))).expect("written");
        drop(sink);
        assert_eq!(std::fs::read_to_string(&path).expect("there"), "old");
        assert_eq!(receipt.rows, 100_000);
        spec.commit(vec![receipt]).expect("committed");
        let mut expected = arrow_csv::Writer::new(vec![]);
        expected.write(&batch(0..100_000)).expect("written");
        assert!(std::fs::read(&path).expect("there") == expected.into_inner());
        assert_eq!(files(folder.path()), ["out.csv"]);
        assert_eq!((pool.charged(), pool.overruns()), (0, 0));
        let mode = std::fs::metadata(&path).expect("there").permissions().mode();
        assert_eq!(mode & 0o400, 0o400);
    }

    #[test]
    fn an_abort_leaves_nothing_whatever_became_of_the_instance() {
        let folder = tempfile::tempdir().expect("a folder");
        let pool = MemoryPool::new(1 << 20);
        let spec = CsvSink::new(folder.path().join("out.csv"));
        let mut sink = spec.open(context(&pool, 1)).expect("opened");
        let _ = sink.write(batch(0..10_000)).expect("begun");
        assert_eq!(files(folder.path()).len(), 1);
        drop(sink);
        assert_eq!(files(folder.path()).len(), 0);
        // A second job through the same spec keeps its file when the first is aborted late.
        let other = spec.open(context(&pool, 1)).expect("opened");
        spec.abort();
        assert_eq!(files(folder.path()).len(), 1);
        drop(other);
        assert_eq!(files(folder.path()).len(), 0);
    }

    #[test]
    fn no_rows_are_a_header_and_a_large_row_is_written() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("out.csv");
        let pool = MemoryPool::new(1 << 25);
        let spec = CsvSink::new(&path).with_delimiter(b'|');
        let mut sink = spec.open(context(&pool, 1)).expect("opened");
        let receipt = write(&mut *sink, []).expect("written");
        spec.commit(vec![receipt]).expect("committed");
        assert_eq!(std::fs::read_to_string(&path).expect("there"), "id|value|text\n");
        let large = "\"".repeat(2 << 20);
        let columns: [(&str, ArrayRef); 1] = [("text", Arc::new(StringViewArray::from(vec!["a", &large, "b"])))];
        let spec = CsvSink::new(&path).with_header(false);
        let mut sink = spec.open(context(&pool, 1)).expect("opened");
        let receipt = write(&mut *sink, [RecordBatch::try_from_iter(columns).expect("a column")]).expect("written");
        spec.commit(vec![receipt]).expect("committed");
        assert_eq!(std::fs::metadata(&path).expect("there").len(), 2 * (2 << 20) + 2 + 5);
        assert_eq!(pool.overruns(), 0);
    }

    #[test]
    fn batches_of_the_size_that_its_memory_is_for_are_written_within_it() {
        const BATCH_BYTES: usize = 64 << 10;
        let folder = tempfile::tempdir().expect("a folder");
        let spec = CsvSink::new(folder.path().join("out.csv")).with_header(false);
        let pool = MemoryPool::new(spec.min_memory(BATCH_BYTES));
        let rows = (BATCH_BYTES / 16) as i64;
        let numbers: [(&str, ArrayRef); 2] = [
            ("a", Arc::new(Int64Array::from_iter_values(0..rows))),
            ("b", Arc::new(Float64Array::from_iter_values((0..rows).map(|i| i as f64 / 3.0)))),
        ];
        let long = "\"".repeat(BATCH_BYTES - 64);
        let texts: [(&str, ArrayRef); 2] = [
            ("a", Arc::new(Int64Array::from_iter_values(0..1))),
            ("b", Arc::new(StringViewArray::from(vec![long.as_str()]))),
        ];
        let mixed: [(&str, ArrayRef); 2] = [
            ("a", Arc::new(Int64Array::from_iter_values(0..101))),
            (
                "b",
                Arc::new(StringViewArray::from_iter_values(
                    (0..101).map(|i| &long[..if i == 50 { 40_000 } else { 9 }]),
                )),
            ),
        ];
        let columns = [numbers, texts, mixed];
        let batches = columns.map(|columns| RecordBatch::try_from_iter(columns).expect("two columns"));
        assert!(batches.iter().all(|batch| batch_bytes(batch) <= BATCH_BYTES));
        let order = [0, 0, 1, 1, 2, 1, 0, 2, 2, 0, 0, 0, 1, 2].map(|index| batches[index].clone());
        let mut sink = spec.open(context(&pool, 1)).expect("opened");
        let receipt = write(&mut *sink, order.clone()).expect("written");
        spec.commit(vec![receipt]).expect("committed");
        let mut expected = arrow_csv::WriterBuilder::new().with_header(false).build(vec![]);
        order.iter().for_each(|batch| expected.write(batch).expect("written"));
        assert!(std::fs::read(spec.path()).expect("there") == expected.into_inner());
        drop(sink);
        assert_eq!((pool.charged(), pool.overruns()), (0, 0));
    }

    #[test]
    fn a_full_disk_and_a_missing_folder_are_errors_that_name_the_file() {
        let pool = MemoryPool::new(1 << 20);
        let error = CsvSink::new("/nonexistent/out.csv").open(context(&pool, 1)).map(|_| ()).expect_err("no folder");
        assert!(error.to_string().starts_with("writing /nonexistent/out.csv: "), "{error}");
        let folder = tempfile::tempdir().expect("a folder");
        let spec = CsvSink::new(folder.path().join("out.csv"));
        let mut sink = spec.create(context(&pool, 1)).expect("opened");
        sink.handle = Arc::new(File::options().write(true).open("/dev/full").expect("a full disk"));
        let error = write(&mut sink, [batch(0..10_000)]).expect_err("full");
        assert!(
            matches!(&error, OperatorError::Io { action: "writing", path, source }
            if *path == folder.path().join("out.csv") && source.kind() == std::io::ErrorKind::StorageFull),
            "{error}"
        );
        drop(sink);
        assert_eq!(files(folder.path()).len(), 0);
    }

    #[test]
    fn several_partitions_are_refused() {
        let pool = MemoryPool::new(1 << 20);
        let folder = tempfile::tempdir().expect("a folder");
        let error = CsvSink::new(folder.path().join("o.csv")).open(context(&pool, 3)).map(|_| ()).expect_err("refused");
        assert!(error.to_string().contains("gather"), "{error}");
    }
}
