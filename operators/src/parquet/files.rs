//! The files of a source: their footers, and handles to read them by.
//!
//! A file must be the one whose footer was read: size and time of change are compared whenever it is opened, and after
//! whatever is read of it.

use std::fs::File as Handle;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aqueduct_runtime::{OperatorError, Result};
use arrow::datatypes::{Schema, SchemaRef};
use parking_lot::Mutex;
use parquet::file::metadata::{ColumnChunkMetaData, PageIndexPolicy, ParquetMetaData, ParquetMetaDataReader};

use super::error::{ParquetFileError, guarded};
use super::schema::{Described, Mapping, file_schema, unify};
use crate::stamp::Stamp;

/// One file.
#[derive(Debug, Clone)]
pub(crate) struct File {
    pub(crate) path: PathBuf,
    pub(crate) metadata: Arc<ParquetMetaData>,
    pub(crate) mapping: Mapping,
    stamp: Stamp,
}

impl File {
    /// Checks that `handle` is still of the file whose footer was read.
    ///
    /// # Errors
    ///
    /// [`ParquetFileError::Changed`].
    pub(crate) fn check(&self, handle: &Handle) -> Result<()> {
        let about = handle.metadata().map_err(|error| OperatorError::io("reading", &self.path, error))?;
        if Stamp::of(&about) != self.stamp {
            return Err(ParquetFileError::Changed { file: self.path.clone() }.into());
        }
        Ok(())
    }
}

/// Files as one table.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) files: Vec<File>,
    /// The columns of all files, in the order of the first.
    pub(crate) schema: SchemaRef,
}

impl Table {
    /// Reads the footers of the files at `paths`.
    pub(crate) fn open(paths: Vec<PathBuf>) -> Result<Self> {
        let mut read = Vec::with_capacity(paths.len());
        for path in paths {
            let (stamp, metadata) = read_footer(&path)?;
            let schema = file_schema(&path, &metadata)?;
            read.push((path, stamp, metadata, schema));
        }
        let described: Vec<Described<'_>> =
            read.iter().map(|(path, _, metadata, schema): &Read| (path.as_path(), &**metadata, schema)).collect();
        let (schema, mappings) = unify(&described)?;
        let files = read.into_iter().zip(mappings);
        let files =
            files.map(|((path, stamp, metadata, _), mapping)| File { path, metadata, mapping, stamp }).collect();
        Ok(Self { files, schema })
    }
}

type Read = (PathBuf, Stamp, Arc<ParquetMetaData>, Schema);

/// Reads and checks the footer of one file.
fn read_footer(path: &Path) -> Result<(Stamp, Arc<ParquetMetaData>)> {
    let failed = |error| OperatorError::io("reading", path, error);
    let handle = Handle::open(path).map_err(failed)?;
    let about = handle.metadata().map_err(failed)?;
    if about.is_dir() {
        return Err(OperatorError::new(format!(
            "{} is a folder; name its files with a pattern such as {}",
            path.display(),
            path.join("*.parquet").display()
        )));
    }
    let footer = |reason: String| ParquetFileError::Footer { file: path.to_path_buf(), reason };
    let reader = ParquetMetaDataReader::new().with_page_index_policy(PageIndexPolicy::Skip);
    let metadata = guarded(|| reader.parse_and_finish(&handle)).map_err(footer)?;
    check(&metadata, about.len()).map_err(footer)?;
    Ok((Stamp::of(&about), Arc::new(metadata)))
}

/// Checks what later code relies on: chunks lie within the file, and no count is negative.
fn check(metadata: &ParquetMetaData, size: u64) -> std::result::Result<(), String> {
    let columns = metadata.file_metadata().schema_descr().num_columns();
    for (index, group) in metadata.row_groups().iter().enumerate() {
        if group.num_rows() < 0 {
            return Err(format!("row group {index} has {} rows", group.num_rows()));
        }
        if group.num_columns() != columns {
            return Err(format!("row group {index} has {} columns of {columns}", group.num_columns()));
        }
        for column in group.columns() {
            let name = column.column_path().string();
            let Some((start, end)) = chunk_range(column) else {
                return Err(format!("row group {index}, column `{name}` has no place in the file"));
            };
            if end > size {
                return Err(format!(
                    "row group {index}, column `{name}` is said to be at bytes {start}..{end} of {size}; was the file \
                     cut off?"
                ));
            }
            if column.num_values() < 0 || column.uncompressed_size() < 0 {
                return Err(format!("row group {index}, column `{name}` has a negative size"));
            }
        }
    }
    Ok(())
}

/// Where a chunk begins and ends; `None` if the footer makes no sense.
pub(crate) fn chunk_range(column: &ColumnChunkMetaData) -> Option<(u64, u64)> {
    let data = u64::try_from(column.data_page_offset()).ok()?;
    let start = match column.dictionary_page_offset() {
        // Some writers say 0 where there is none.
        Some(offset) if offset > 0 => data.min(u64::try_from(offset).ok()?),
        _ => data,
    };
    let end = start.checked_add(u64::try_from(column.compressed_size()).ok()?)?;
    Some((start, end))
}

/// The handle that was opened last: consecutive reads through one handle are read ahead by the system.
#[derive(Debug, Default)]
pub(crate) struct Handles(Mutex<Option<(usize, Arc<Handle>)>>);

impl Handles {
    /// A handle of the file at `index`.
    pub(crate) fn get(&self, files: &[File], index: usize) -> Result<Arc<Handle>> {
        let mut last = self.0.lock();
        if let Some((_, handle)) = last.as_ref().filter(|(at, _)| *at == index) {
            return Ok(Arc::clone(handle));
        }
        let file = &files[index];
        let failed = |error| OperatorError::io("reading", &file.path, error);
        let handle = Handle::open(&file.path).map_err(failed)?;
        file.check(&handle)?;
        let handle = Arc::new(handle);
        *last = Some((index, Arc::clone(&handle)));
        Ok(handle)
    }
}

/// Fills `buffer` from `offset` of a file that was checked to reach so far.
pub(crate) fn read_at(handle: &Handle, path: &Path, offset: u64, buffer: &mut [u8]) -> Result<()> {
    handle.read_exact_at(buffer, offset).map_err(|error| match error.kind() {
        std::io::ErrorKind::UnexpectedEof => ParquetFileError::Changed { file: path.to_path_buf() }.into(),
        _ => OperatorError::io("reading", path, error),
    })
}

/// The name that errors and splits use.
pub(crate) fn short_name(path: &Path) -> String {
    path.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned())
}
