//! What is wrong with a Parquet file: which file, which row group, which column, and what to do about it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

use aqueduct_runtime::OperatorError;
use arrow::datatypes::DataType;

/// A Parquet file that cannot be read as it stands. Found inside [`OperatorError::Other`].
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum ParquetFileError {
    /// The file has no footer that can be read.
    #[error("{}: this is no Parquet file that can be read: {reason}", .file.display())]
    Footer {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// What the file holds is not what its footer promises.
    #[error(
        "{}, row group {row_group}{}: the file is damaged: {reason}",
        .file.display(),
        .column.as_ref().map(|column| format!(", column `{column}`")).unwrap_or_default()
    )]
    Damaged {
        /// The file.
        file: PathBuf,
        /// Index of the row group.
        row_group: usize,
        /// The column, if it is known.
        column: Option<String>,
        /// What does not fit.
        reason: String,
    },
    /// The file is another one than when the source was opened.
    #[error("{}: the file was changed after it was opened; open it again", .file.display())]
    Changed {
        /// The file.
        file: PathBuf,
    },
    /// A page is too large for the memory that there is.
    #[error(
        "{}, row group {row_group}, column `{column}`: a page needs {needed_bytes} bytes and {available_bytes} are to \
         be had; a memory limit of {sufficient_limit_bytes} bytes a worker would do, or write the file with smaller \
         pages",
        .file.display()
    )]
    PageTooLarge {
        /// The file.
        file: PathBuf,
        /// Index of the row group.
        row_group: usize,
        /// The column.
        column: String,
        /// Bytes that the page takes, as it is in the file and decompressed, with what is read beside it.
        needed_bytes: usize,
        /// Bytes that could be had at the most.
        available_bytes: usize,
        /// The smallest limit per worker that would be enough.
        sufficient_limit_bytes: usize,
    },
    /// A column is compressed in a way that is not supported.
    #[error(
        "{}, column `{column}`: the compression {codec} is not supported; write the file with zstd, snappy, lz4 or \
         gzip, or leave the column out",
        .file.display()
    )]
    Compression {
        /// The file.
        file: PathBuf,
        /// The column.
        column: String,
        /// Name of the compression.
        codec: String,
    },
    /// Two files of one source have columns of different types.
    #[error(
        "column `{column}` is {found} in {} but {expected} in {}; read the files apart, or cast them to one type",
        .file.display(), .first.display()
    )]
    ColumnType {
        /// Name of the column.
        column: String,
        /// The first file of the source.
        first: PathBuf,
        /// Its type there.
        expected: DataType,
        /// The other file.
        file: PathBuf,
        /// Its type there.
        found: DataType,
    },
    /// Two files of one source have different columns.
    #[error(
        "column `{column}` is in {} but not in {}; all files of a source have the same columns",
        .present.display(), .missing.display()
    )]
    Columns {
        /// Name of the column.
        column: String,
        /// A file that has it.
        present: PathBuf,
        /// A file that has not.
        missing: PathBuf,
    },
}

impl From<ParquetFileError> for OperatorError {
    fn from(error: ParquetFileError) -> Self {
        OperatorError::other(error)
    }
}

/// Runs `decode`, which reads bytes that nobody has checked: the decoders of the `parquet` crate may panic on those.
pub(crate) fn guarded<T, E: ToString>(decode: impl FnOnce() -> Result<T, E>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(decode)) {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(panic) => {
            let text = panic.downcast_ref::<&str>().map(|text| (*text).to_string());
            let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
            Err(format!("it cannot be decoded: {}", text.unwrap_or_else(|| "unknown reason".to_string())))
        }
    }
}
