//! The Parquet source: files, which of their columns are read, and which of their rows are wanted.
//!
//! It is immutable. A projection or a predicate makes another source of the same files.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use aqueduct_runtime::{OperatorError, Result, Scan, ScanContext, SourceSpec};
use arrow::datatypes::{DataType, SchemaRef};
use datafusion_physical_expr::utils::collect_columns;
use parquet::basic::Compression;

use super::bounds::group_may_match;
use super::error::ParquetFileError;
use super::files::{Handles, Table, short_name};
use super::options::ParquetOptions;
use super::predicate::over;
use super::scan::{Counts, Filter, ParquetScan, ReadCounts, Shared, cut, leaves};
use super::sizes::column_bytes;
use super::statistics::{TableStatistics, statistics};
use crate::expression::{Expression, failed};
use crate::paths::find;

/// Bytes that an instance needs beside pages and batches.
const FIXED_BYTES: usize = 64 << 10;

/// Parquet files as one table.
///
/// Files are read in the order in which they were given, a pattern's in the order of their names; their rows keep
/// the order that they have in the files. All files have the same columns, in any order.
#[derive(Debug, Clone)]
pub struct ParquetSource {
    table: Arc<Table>,
    options: ParquetOptions,
    projection: Vec<usize>,
    schema: SchemaRef,
    filter: Option<Filter>,
    /// Bytes that each of the table's columns needs while it is read.
    column_bytes: Arc<Vec<usize>>,
    counts: Arc<Counts>,
}

impl ParquetSource {
    /// The file at `path`, or all files that it matches as a pattern such as `data/*.parquet`. Reads the footers of
    /// all of them, and the first page header of each column.
    ///
    /// # Errors
    ///
    /// No such file, one is no Parquet file, or their columns are not the same.
    pub fn open(path: impl AsRef<Path>, options: ParquetOptions) -> Result<Self> {
        Self::open_all([path], options)
    }

    /// As [`ParquetSource::open`], for several paths and patterns.
    ///
    /// # Errors
    ///
    /// As for [`ParquetSource::open`].
    pub fn open_all<P: AsRef<Path>>(paths: impl IntoIterator<Item = P>, options: ParquetOptions) -> Result<Self> {
        let paths: Vec<PathBuf> = paths.into_iter().map(|path| path.as_ref().to_path_buf()).collect();
        let table = Table::open(find(&paths)?)?;
        let column_bytes = Arc::new(column_bytes(&table));
        let schema = Arc::clone(&table.schema);
        let projection = (0..schema.fields().len()).collect();
        let (table, counts) = (Arc::new(table), Arc::default());
        Ok(Self { table, options, projection, schema, filter: None, column_bytes, counts })
    }

    /// The same files, of which only `columns` (indices in [`ParquetSource::file_schema`]) are emitted, in that order.
    ///
    /// # Errors
    ///
    /// There is no such column.
    pub fn with_projection(&self, columns: &[usize]) -> Result<Self> {
        let schema = Arc::new(self.table.schema.project(columns)?);
        Ok(Self { projection: columns.to_vec(), schema, ..self.clone() })
    }

    /// The same files, of which only the rows are emitted for which `predicate` is true. Its columns are those of
    /// [`ParquetSource::file_schema`], whatever is projected. It replaces an earlier predicate.
    ///
    /// # Errors
    ///
    /// The predicate does not fit the columns, or is not boolean.
    pub fn with_predicate(&self, predicate: Expression) -> Result<Self> {
        let table = &self.table.schema;
        match predicate.data_type(table).map_err(failed)? {
            DataType::Boolean | DataType::Null => {}
            other => {
                return Err(OperatorError::new(format!("the predicate {predicate} yields {other} instead of Boolean")));
            }
        }
        let mut columns: Vec<usize> = collect_columns(&predicate).iter().map(|column| column.index()).collect();
        columns.sort_unstable();
        columns.dedup();
        let schema = Arc::new(table.project(&columns)?);
        let over_columns = over(&predicate, &columns)?;
        let filter = Some(Filter { predicate, over_columns, columns, schema });
        Ok(Self { filter, ..self.clone() })
    }

    /// All columns of the files, whatever is projected.
    pub fn file_schema(&self) -> SchemaRef {
        Arc::clone(&self.table.schema)
    }

    /// Indices in [`ParquetSource::file_schema`] of the columns that are emitted.
    pub fn projection(&self) -> &[usize] {
        &self.projection
    }

    /// What rows have to be.
    pub fn predicate(&self) -> Option<&Expression> {
        self.filter.as_ref().map(|filter| &filter.predicate)
    }

    /// The files, in the order in which they are read.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.table.files.iter().map(|file| file.path.as_path())
    }

    /// What the footers say of the columns that are emitted, of all rows, whatever the predicate.
    pub fn statistics(&self) -> TableStatistics {
        statistics(&self.table, &self.projection)
    }

    /// What was read of these files so far, by all jobs over this source and over those made of it.
    pub fn counts(&self) -> ReadCounts {
        self.counts.read()
    }

    fn shared(&self) -> Shared {
        Shared {
            table: Arc::clone(&self.table),
            schema: Arc::clone(&self.schema),
            projection: self.projection.clone(),
            filter: self.filter.clone(),
            prune: self.options.prune,
            counts: Arc::clone(&self.counts),
            handles: Handles::default(),
        }
    }

    /// Refuses what cannot be decompressed before anything is read.
    fn check_compression(&self, columns: &[usize]) -> Result<()> {
        for file in &self.table.files {
            for group in file.metadata.row_groups() {
                for leaf in leaves(file, columns) {
                    let chunk = group.column(leaf);
                    if let Compression::BROTLI(_) | Compression::LZO = chunk.compression() {
                        return Err(ParquetFileError::Compression {
                            file: file.path.clone(),
                            column: chunk.column_path().string(),
                            codec: chunk.compression().to_string(),
                        }
                        .into());
                    }
                }
            }
        }
        Ok(())
    }
}

impl SourceSpec for ParquetSource {
    fn name(&self) -> &str {
        "parquet"
    }

    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn scan(&self, _context: ScanContext) -> Result<Arc<dyn Scan>> {
        let shared = self.shared();
        let columns = shared.columns();
        self.check_compression(&columns)?;
        let filter = self.filter.as_ref().filter(|_| self.options.prune);
        let splits = cut(&self.table, &columns, |file, group| {
            let may = filter.is_none_or(|filter| group_may_match(&self.table.files[file], filter, group));
            Counts::add(&self.counts.row_groups_pruned, u64::from(!may));
            may
        });
        Ok(Arc::new(ParquetScan::new(shared, splits)))
    }

    fn min_memory(&self, batch_bytes: usize) -> usize {
        let pages: usize = self.shared().columns().iter().map(|column| self.column_bytes[*column]).sum();
        pages + 2 * batch_bytes + FIXED_BYTES
    }

    fn max_partitions(&self) -> Option<usize> {
        let splits = cut(&self.table, &self.shared().columns(), |_, _| true).len().max(1);
        (splits <= 64).then_some(splits)
    }

    fn detail(&self) -> String {
        let files = &self.table.files;
        let mut detail = match files.as_slice() {
            [file] => short_name(&file.path),
            [first, .., last] => {
                format!("{} files, {} to {}", files.len(), short_name(&first.path), short_name(&last.path))
            }
            [] => String::new(),
        };
        let columns = self.table.schema.fields().len();
        if self.projection.len() < columns {
            let names: Vec<_> = self.schema.fields().iter().map(|field| field.name().as_str()).collect();
            detail.push_str(&format!(", columns [{}] of {columns}", names.join(", ")));
        }
        if let Some(filter) = &self.filter {
            detail.push_str(&format!(", where {}", filter.predicate));
        }
        detail
    }
}
