//! Writes one Parquet file: a temporary one beside the target, which takes its name at commit.
//!
//! Rows are encoded in the step; a row group goes to the file on an I/O thread, as soon as it has enough bytes or
//! there is no memory for more of it. Its encoded pages are never more than what is reserved.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aqueduct_runtime::batch::batch_bytes;
use aqueduct_runtime::io::{Pending, Ticket};
use aqueduct_runtime::memory::Reservation;
use aqueduct_runtime::sink::{CloseStep, Receipt, SinkContext, SinkStep};
use aqueduct_runtime::{OperatorError, Result, Sink, SinkSpec};
use arrow::datatypes::Schema;
use arrow::record_batch::RecordBatch;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, GzipLevel, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::schema::types::ColumnPath;

use crate::csv::poll;
use crate::target::{Begun, Target};

/// Bytes that are set aside for a row group at the least, beside what a batch takes.
const MIN_GROUP_BYTES: usize = 1 << 20;

/// The smallest pages there are, where there is little memory.
const MIN_PAGE_BYTES: usize = 4 << 10;

/// Leaves that a floor is for where the schema is not known.
const USUAL_LEAVES: usize = 16;

/// Bytes that the encoder of a column takes before it has any values, about.
const COLUMN_BYTES: usize = 8 << 10;

/// Bytes of the footer for each column of a row group and its pages, about.
const FOOTER_COLUMN_BYTES: usize = 1 << 10;

/// Bytes of a bloom filter while a row group is filled: it is made for as many values as rows, and shrunk at the end.
const BLOOM_BYTES: usize = 2 << 20;

/// How pages are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ParquetCompression {
    /// Not at all.
    None,
    /// Snappy: fast, known to every reader.
    Snappy,
    /// LZ4: the fastest.
    Lz4,
    /// Zstandard with a level from 1 to 22.
    Zstd(i32),
    /// Gzip with a level from 0 to 9.
    Gzip(u32),
}

/// How a Parquet file is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParquetSinkOptions {
    /// How pages are compressed.
    pub compression: ParquetCompression,
    /// Bytes of a row group in memory at which it is written. Where there is less memory row groups are smaller.
    pub row_group_bytes: usize,
    /// Rows of a row group at the most.
    pub row_group_rows: usize,
    /// Bytes of a page before it is compressed, about. Where there is little memory pages are smaller.
    pub page_bytes: usize,
    /// Columns that get a bloom filter, by their names; of nested columns the path with dots.
    pub bloom_filters: Vec<String>,
}

impl Default for ParquetSinkOptions {
    fn default() -> Self {
        Self {
            compression: ParquetCompression::Zstd(1),
            row_group_bytes: 64 << 20,
            row_group_rows: 1 << 20,
            page_bytes: 1 << 20,
            bloom_filters: vec![],
        }
    }
}

impl ParquetSinkOptions {
    fn codec(&self) -> Result<Compression> {
        let wrong = |error: ParquetError| OperatorError::new(format!("Parquet compression: {error}"));
        Ok(match self.compression {
            ParquetCompression::None => Compression::UNCOMPRESSED,
            ParquetCompression::Snappy => Compression::SNAPPY,
            ParquetCompression::Lz4 => Compression::LZ4_RAW,
            ParquetCompression::Zstd(level) => Compression::ZSTD(ZstdLevel::try_new(level).map_err(wrong)?),
            ParquetCompression::Gzip(level) => Compression::GZIP(GzipLevel::try_new(level).map_err(wrong)?),
        })
    }

    /// Bytes of a page where a row group has `group_bytes` and `columns` leaves: a column holds a page and a
    /// dictionary while it is written.
    fn page_bytes_of(&self, group_bytes: usize, columns: usize) -> usize {
        (group_bytes / (4 * columns.max(1))).clamp(MIN_PAGE_BYTES, self.page_bytes.max(MIN_PAGE_BYTES))
    }

    /// Bytes that a leaf takes before it has any values: its encoder, and what compresses pages of `page_bytes`, which
    /// it has to itself.
    fn leaf_bytes(&self, page_bytes: usize) -> usize {
        let codec_bytes = match self.compression {
            ParquetCompression::None => 0,
            ParquetCompression::Snappy | ParquetCompression::Lz4 => 96 << 10,
            ParquetCompression::Gzip(_) => 384 << 10,
            // Measured against the allocator: tables grow with the page, and with the level.
            ParquetCompression::Zstd(level) => {
                let factor = match level {
                    ..=3 => 1,
                    4..=9 => 4,
                    _ => 16,
                };
                (256 << 10) + factor * page_bytes
            }
        };
        // Levels and the table of a dictionary come on top of what the writer counts.
        COLUMN_BYTES + codec_bytes + page_bytes / 2
    }

    /// For pages of `page_bytes`.
    fn properties(&self, page_bytes: usize) -> Result<WriterProperties> {
        let mut properties = WriterProperties::builder()
            .set_compression(self.codec()?)
            .set_data_page_size_limit(page_bytes)
            .set_dictionary_page_size_limit(page_bytes)
            // Row groups end where this sink says so, for only then they are written on an I/O thread.
            .set_max_row_group_row_count(None);
        for column in &self.bloom_filters {
            let path = ColumnPath::new(column.split('.').map(String::from).collect());
            properties = properties.set_column_bloom_filter_enabled(path, true);
        }
        Ok(properties.build())
    }
}

/// One Parquet file with statistics and page index, written in the order in which batches arrive.
///
/// An existing file is replaced at commit, by a rename, and until then it is as it was.
#[derive(Debug)]
pub struct ParquetSink {
    target: Target,
    options: ParquetSinkOptions,
    /// Columns without columns within them.
    leaves: usize,
}

impl ParquetSink {
    /// A sink that writes to `path`.
    pub fn new(path: impl Into<PathBuf>, options: ParquetSinkOptions) -> Self {
        Self { target: Target::new(path), options, leaves: USUAL_LEAVES }
    }

    /// The same sink with a floor for rows of `schema`. Without it the floor is for 16 columns; more take what floats,
    /// and are refused where there is none.
    #[must_use]
    pub fn with_schema(self, schema: &Schema) -> Self {
        Self { leaves: leaves(schema), ..self }
    }

    /// The file that will be there.
    pub fn path(&self) -> &Path {
        self.target.path()
    }

    /// Begins the temporary file.
    fn create(&self, context: SinkContext) -> Result<ParquetFile> {
        let begun = self.target.begin(context.partitions)?;
        let handle = begun.handle().map_err(|error| self.target.failed(error))?;
        self.create_in(context, begun, handle)
    }

    fn create_in(&self, context: SinkContext, begun: Begun, handle: File) -> Result<ParquetFile> {
        let columns = leaves(&context.schema);
        let mut reservation = context.memory.reservation();
        let group_bytes = context.memory.floor().max(MIN_GROUP_BYTES).min(self.options.row_group_bytes);
        let roomy_bytes = (context.memory.room() / 4).min(self.options.row_group_bytes).max(group_bytes);
        // What compresses counts too: smaller pages where it would take most of it.
        let mut page_bytes = self.options.page_bytes_of(roomy_bytes, columns);
        while page_bytes > MIN_PAGE_BYTES && columns * self.options.leaf_bytes(page_bytes) > context.memory.room() / 3 {
            page_bytes = (page_bytes / 2).max(MIN_PAGE_BYTES);
        }
        let base_bytes = columns * self.options.leaf_bytes(page_bytes) + self.options.bloom_filters.len() * BLOOM_BYTES;
        if !reservation.try_set(base_bytes) {
            return Err(context.memory.row_too_large(base_bytes));
        }
        let properties = self.options.properties(page_bytes)?;
        let written = |error: ParquetError| failed(self.path(), error);
        let writer = ArrowWriter::try_new(
            handle.try_clone().map_err(|error| self.target.failed(error))?,
            Arc::clone(&context.schema),
            Some(properties),
        );
        Ok(ParquetFile {
            path: self.path().to_path_buf(),
            options: self.options.clone(),
            begun: Some(begun),
            handle: Some(handle),
            writer: Some(writer.map_err(written)?),
            writing: None,
            closing: None,
            rest: None,
            reservation,
            columns,
            base_bytes,
            footer_bytes: 0,
            group_bytes: base_bytes + roomy_bytes,
            rows: 0,
            context,
        })
    }
}

/// Bytes of the row group being filled. The writer counts what its buffers hold, not what they have room for: measured
/// against the allocator, a quarter is missing.
fn group_held_bytes(writer: &Writer, base_bytes: usize) -> usize {
    let counted = writer.memory_size();
    base_bytes + counted + counted / 2
}

/// Columns of `schema` that have no columns within them.
fn leaves(schema: &Schema) -> usize {
    schema.flattened_fields().iter().filter(|field| !field.data_type().is_nested()).count().max(1)
}

/// The writer's error, as that of the file where it is one.
fn failed(path: &Path, error: ParquetError) -> OperatorError {
    match error {
        ParquetError::External(inner) => match inner.downcast::<std::io::Error>() {
            Ok(error) => OperatorError::io("writing", path, *error),
            Err(inner) => OperatorError::Other(inner),
        },
        other => OperatorError::new(format!("writing {}: {other}", path.display())),
    }
}

impl SinkSpec for ParquetSink {
    fn name(&self) -> &str {
        "parquet"
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
        // A row group that is being filled, and what encoding one batch more may add to it.
        let base_bytes = self.leaves * self.options.leaf_bytes(MIN_PAGE_BYTES);
        let blooms_bytes = self.options.bloom_filters.len() * BLOOM_BYTES;
        base_bytes + blooms_bytes + MIN_GROUP_BYTES.max(2 * batch_bytes) + 4 * batch_bytes
    }

    fn detail(&self) -> String {
        self.path().display().to_string()
    }
}

type Writer = ArrowWriter<File>;

/// The file as it is written.
struct ParquetFile {
    path: PathBuf,
    options: ParquetSinkOptions,
    context: SinkContext,
    /// Removed when dropped, unless committed.
    begun: Option<Begun>,
    handle: Option<File>,
    /// Not here while a row group is being written.
    writer: Option<Writer>,
    writing: Option<Pending<Result<Writer>>>,
    closing: Option<Pending<Result<()>>>,
    /// Rows that are not encoded yet.
    rest: Option<RecordBatch>,
    reservation: Reservation,
    columns: usize,
    /// Bytes of a row group without rows.
    base_bytes: usize,
    /// Bytes of what the footer will say.
    footer_bytes: usize,
    group_bytes: usize,
    rows: u64,
}

impl ParquetFile {
    /// Takes the writer back once its row group is written; the ticket of what is still being written.
    fn settle(&mut self) -> Result<Option<Ticket>> {
        let Some(pending) = self.writing.take() else { return Ok(None) };
        match poll(pending)? {
            Ok(writer) => {
                let writer = writer?;
                self.footer_bytes += self.columns * FOOTER_COLUMN_BYTES;
                let _ = self.reservation.try_set(self.footer_bytes + self.base_bytes);
                self.writer = Some(writer);
                Ok(None)
            }
            Err(pending) => {
                let ticket = pending.ticket().clone();
                self.writing = Some(pending);
                Ok(Some(ticket))
            }
        }
    }

    /// Hands the row group to an I/O thread.
    fn flush(&mut self) {
        let Some(mut writer) = self.writer.take() else { return };
        let path = self.path.clone();
        self.writing = Some(self.context.io.run("writing", move || {
            writer.flush().map_err(|error| failed(&path, error))?;
            Ok(writer)
        }));
    }

    /// Encodes the first rows of `batch`, as many as there is memory for. `None` if the row group has to be written
    /// first.
    fn encode(&mut self, batch: &RecordBatch) -> Result<Option<usize>> {
        let Some(writer) = &mut self.writer else { return Ok(None) };
        let held = group_held_bytes(writer, self.base_bytes);
        let room = self.options.row_group_rows.max(1).saturating_sub(writer.in_progress_rows());
        let mut rows = batch.num_rows().min(room);
        if rows == 0 || (writer.in_progress_rows() > 0 && held >= self.group_bytes) {
            return Ok(None);
        }
        loop {
            // What is encoded takes less than it did, but for a moment both may be there.
            let estimate = 3 * batch_bytes(&batch.slice(0, rows)) + 32 * rows;
            // The footer grows with the file whatever is done: it counts where there is room, and where there is none
            // row groups do not become smaller for it, which would only make it grow faster.
            let needed = held + estimate;
            if self.reservation.try_set(self.footer_bytes + needed) || self.reservation.try_set(needed) {
                break;
            }
            if writer.in_progress_rows() > 0 {
                return Ok(None);
            }
            if rows == 1 {
                return Err(self.context.memory.row_too_large(held + estimate));
            }
            rows = rows.div_ceil(2);
        }
        writer.write(&batch.slice(0, rows)).map_err(|error| failed(&self.path, error))?;
        // If it is more than was estimated, and that is not to be had, the row group is written before more is added.
        let held = group_held_bytes(writer, self.base_bytes);
        let _ = self.reservation.try_set(self.footer_bytes + held);
        Ok(Some(rows))
    }
}

impl Sink for ParquetFile {
    fn write(&mut self, batch: RecordBatch) -> Result<SinkStep> {
        self.rows += batch.num_rows() as u64;
        self.rest = Some(batch);
        self.resume()
    }

    fn resume(&mut self) -> Result<SinkStep> {
        loop {
            if let Some(ticket) = self.settle()? {
                return Ok(SinkStep::Blocked(ticket));
            }
            let Some(batch) = self.rest.take().filter(|batch| batch.num_rows() > 0) else {
                return Ok(SinkStep::Written);
            };
            match self.encode(&batch)? {
                Some(rows) if rows == batch.num_rows() => {}
                Some(rows) => self.rest = Some(batch.slice(rows, batch.num_rows() - rows)),
                None => {
                    self.rest = Some(batch);
                    self.flush();
                }
            }
        }
    }

    fn close(&mut self) -> Result<CloseStep> {
        if let Some(ticket) = self.settle()? {
            return Ok(CloseStep::Blocked(ticket));
        }
        let closed = || OperatorError::new("a Parquet sink was closed twice");
        if let Some(pending) = self.closing.take() {
            return match poll(pending)? {
                Ok(done) => {
                    done?;
                    let begun = self.begun.take().ok_or_else(closed)?;
                    self.reservation.set(0);
                    Ok(CloseStep::Closed(Receipt { rows: self.rows, payload: Some(Box::new(begun)) }))
                }
                Err(pending) => {
                    let ticket = pending.ticket().clone();
                    self.closing = Some(pending);
                    Ok(CloseStep::Blocked(ticket))
                }
            };
        }
        let mut writer = self.writer.take().ok_or_else(closed)?;
        let handle = self.handle.take().ok_or_else(closed)?;
        let path = self.path.clone();
        let pending = self.context.io.run("writing", move || {
            writer.finish().map_err(|error| failed(&path, error))?;
            handle.sync_all().map_err(|error| OperatorError::io("writing", &path, error))
        });
        let ticket = pending.ticket().clone();
        self.closing = Some(pending);
        Ok(CloseStep::Blocked(ticket))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use aqueduct_runtime::io::Io;
    use aqueduct_runtime::memory::MemoryPool;
    use arrow::array::{ArrayRef, Int64Array, StringViewArray};

    use super::*;

    #[test]
    fn a_full_disk_is_an_error_that_names_the_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let spec = ParquetSink::new(folder.path().join("out.parquet"), ParquetSinkOptions::default());
        let columns: [(&str, ArrayRef); 2] = [
            ("id", Arc::new(Int64Array::from_iter_values(0..10_000))),
            ("text", Arc::new(StringViewArray::from_iter_values((0..10_000).map(|i| format!("some text {i}"))))),
        ];
        let batch = RecordBatch::try_from_iter(columns).expect("columns");
        let pool = MemoryPool::new(1 << 24);
        let (io, _) = Io::start("parquet-test", 1).expect("a thread");
        let (node, memory, schema) = ("sink".into(), pool.account("sink"), batch.schema());
        let context = SinkContext { node, partition: 0, partitions: 1, schema, memory, io };
        let begun = spec.target.begin(1).expect("begun");
        let full = File::options().write(true).open("/dev/full").expect("a full disk");
        let mut sink = spec.create_in(context, begun, full).expect("opened");
        assert!(matches!(sink.write(batch).expect("encoded"), SinkStep::Written));
        let error = loop {
            match sink.close() {
                Ok(CloseStep::Blocked(ticket)) => ticket.wait(),
                Ok(CloseStep::Closed(_)) => panic!("the disk is full"),
                Err(error) => break error,
            }
        };
        assert!(
            matches!(&error, OperatorError::Io { action: "writing", path, source }
            if path == spec.path() && source.kind() == std::io::ErrorKind::StorageFull),
            "{error}"
        );
        drop(sink);
        assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 0);
        assert_eq!((pool.charged(), pool.overruns()), (0, 0));
    }
}
