//! The CSV source: files, how they are written, and which of their columns are read.
//!
//! It is immutable. A projection, a wider type or smaller reads make another source of the same files.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use aqueduct_runtime::{OperatorError, Result, Scan, ScanContext, SourceSpec};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use super::batch::Layout;
use super::column::{Nulls, column};
use super::error::wider;
use super::files::{Compression, File, find, short_name};
use super::index::{PADDING_BYTES, index_bytes};
use super::infer::infer;
use super::options::CsvOptions;
use super::plain::TAIL_BYTES;
use super::scan::{CsvScan, Shared, split_bytes};
use super::stream::stream_bytes;

/// CSV files as one table.
///
/// Files are read in the order in which they were given, a pattern's in the order of their names. Plain
/// files are split by bytes, so that all cores work on one file; a `.gz` or `.zst` is one split.
#[derive(Debug, Clone)]
pub struct CsvSource {
    files: Arc<Vec<File>>,
    options: CsvOptions,
    header: Option<Arc<Vec<String>>>,
    layout: Arc<Layout>,
    small_reads: bool,
}

impl CsvSource {
    /// The file at `path`, or all files that it matches as a pattern such as `data/*.csv`. Reads the head
    /// of the first file: its header, and the sample that types are inferred from.
    ///
    /// # Errors
    ///
    /// No such file, or its head is no CSV.
    pub fn open(path: impl AsRef<Path>, options: CsvOptions) -> Result<Self> {
        Self::open_all([path], options)
    }

    /// As [`CsvSource::open`], for several paths and patterns.
    ///
    /// # Errors
    ///
    /// As for [`CsvSource::open`].
    pub fn open_all<P: AsRef<Path>>(paths: impl IntoIterator<Item = P>, options: CsvOptions) -> Result<Self> {
        let dialect = options.check()?;
        let paths: Vec<PathBuf> = paths.into_iter().map(|path| path.as_ref().to_path_buf()).collect();
        let files = find(&paths)?;
        let inferred = infer(&files, &options)?;
        for field in inferred.schema.fields() {
            column(field)?;
        }
        let layout = Layout {
            dialect,
            nulls: Nulls::new(&options.nulls),
            projection: (0..inferred.schema.fields().len()).collect(),
            schema: Arc::clone(&inferred.schema),
            file_schema: inferred.schema,
        };
        let header = inferred.header.map(Arc::new);
        Ok(Self { files: Arc::new(files), options, header, layout: Arc::new(layout), small_reads: false })
    }

    /// The same files, of which only `columns` (indices in [`CsvSource::file_schema`]) are read, in that order.
    ///
    /// # Errors
    ///
    /// There is no such column.
    pub fn with_projection(&self, columns: &[usize]) -> Result<Self> {
        let layout = Layout {
            projection: columns.to_vec(),
            schema: Arc::new(self.layout.file_schema.project(columns)?),
            ..Layout::clone(&self.layout)
        };
        Ok(Self { layout: Arc::new(layout), ..self.clone() })
    }

    /// The same files, read in small splits at first that double up to the usual ones, for all readers together: for
    /// whoever is likely to stop early, such as `head`.
    #[must_use]
    pub fn with_small_reads(&self) -> Self {
        Self { small_reads: true, ..self.clone() }
    }

    /// The same files with the next wider type for the column named `name` (integers become Float64, all
    /// else strings); `None` if it is as wide as can be.
    ///
    /// # Errors
    ///
    /// There is no such column.
    pub fn widen(&self, name: &str) -> Result<Option<Self>> {
        let index = self.layout.file_schema.index_of(name)?;
        let kind = self.layout.file_schema.field(index).data_type();
        wider(kind).map(|wider| self.with_type(index, wider)).transpose()
    }

    /// The same files with another type for the column at `index` in [`CsvSource::file_schema`].
    ///
    /// # Errors
    ///
    /// There is no such column, or a CSV field cannot be read as `kind`.
    pub fn with_type(&self, index: usize, kind: DataType) -> Result<Self> {
        let mut fields: Vec<_> = self.layout.file_schema.fields().iter().cloned().collect();
        let Some(field) = fields.get_mut(index) else {
            return Err(OperatorError::new(format!("there is no column {index} of {}", fields.len())));
        };
        *field = Arc::new(Field::clone(field).with_data_type(kind));
        column(field)?;
        let file_schema = Arc::new(Schema::new(fields));
        let schema = Arc::new(file_schema.project(&self.layout.projection)?);
        let layout = Layout { file_schema, schema, ..Layout::clone(&self.layout) };
        Ok(Self { layout: Arc::new(layout), ..self.clone() })
    }

    /// All columns of the files, whatever is projected.
    pub fn file_schema(&self) -> SchemaRef {
        Arc::clone(&self.layout.file_schema)
    }

    /// Indices in [`CsvSource::file_schema`] of the columns that are read.
    pub fn projection(&self) -> &[usize] {
        &self.layout.projection
    }

    /// How the files are written.
    pub fn options(&self) -> &CsvOptions {
        &self.options
    }

    /// The files, in the order in which they are read.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(|file| file.path.as_path())
    }

    /// Number of splits that a job with batches of `batch_bytes` makes of the files.
    pub fn partitions(&self, batch_bytes: usize) -> usize {
        let length = split_bytes(batch_bytes) as u64;
        let splits = self.files.iter().map(|file| match file.compression {
            Compression::None => file.size.div_ceil(length),
            _ => file.size.min(1),
        });
        usize::try_from(splits.sum::<u64>()).unwrap_or(usize::MAX)
    }
}

impl SourceSpec for CsvSource {
    fn name(&self) -> &str {
        "csv"
    }

    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.layout.schema)
    }

    fn scan(&self, context: ScanContext) -> Result<Arc<dyn Scan>> {
        Ok(Arc::new(self.csv_scan(split_bytes(context.batch_bytes), TAIL_BYTES, context.partitions)))
    }

    fn min_memory(&self, batch_bytes: usize) -> usize {
        let split = split_bytes(batch_bytes);
        // A record of one batch's size may follow a split; growing to it holds the old buffer and the new.
        let plain = 2 * (split + TAIL_BYTES + PADDING_BYTES + 1) + batch_bytes;
        let decoder = self.files.iter().map(File::decoder_bytes).max().unwrap_or(0);
        let stream = if decoder > 0 { stream_bytes(split) + decoder } else { 0 };
        index_bytes(self.layout.columns()) + plain.max(stream)
    }

    fn max_partitions(&self) -> Option<usize> {
        // By the smallest split that any plan makes: more than that are never of use.
        let splits = self.partitions(0).max(1);
        (splits <= 64).then_some(splits)
    }

    fn detail(&self) -> String {
        let mut detail = match self.files.as_slice() {
            [file] => short_name(&file.path),
            [first, .., last] => {
                format!("{} files, {} to {}", self.files.len(), short_name(&first.path), short_name(&last.path))
            }
            [] => String::new(),
        };
        let columns = self.layout.columns();
        if self.layout.projection.len() < columns {
            let names: Vec<_> = self.layout.schema.fields().iter().map(|field| field.name().as_str()).collect();
            detail.push_str(&format!(", columns [{}] of {columns}", names.join(", ")));
        }
        detail
    }
}

impl CsvSource {
    /// A scan whose splits have `split_bytes` and are read with `tail_bytes` behind them.
    pub(crate) fn csv_scan(&self, split_bytes: usize, tail_bytes: usize, readers: usize) -> CsvScan {
        let (files, layout) = (Arc::clone(&self.files), Arc::clone(&self.layout));
        let shared = Shared::new(files, layout, self.header.clone(), split_bytes, tail_bytes);
        CsvScan::new(shared, self.small_reads.then_some(readers))
    }
}
