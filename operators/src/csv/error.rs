//! What is wrong with a CSV file, with file, line and column, and what to do about it.
//!
//! The line is counted by a second pass over the file, made only once something is wrong.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aqueduct_runtime::{OperatorError, Result};
use arrow::datatypes::DataType;

use super::batch::{Broken, Layout, What};
use super::column::Reason;
use super::files::File;
use super::reader::MAX_RECORD_BYTES;

/// A CSV file that cannot be read as it stands. Found inside [`OperatorError::Other`].
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum CsvError {
    /// A record has more or fewer fields than there are columns.
    #[error("{} line {line}: expected {expected} fields, found {found}{}", name(.file), hint_fields(.found, .expected))]
    Fields {
        /// The file.
        file: PathBuf,
        /// Line in which the record begins, from 1.
        line: u64,
        /// Number of columns.
        expected: usize,
        /// Number of fields.
        found: usize,
    },
    /// A field is no value of its column's type.
    #[error(
        "{} line {line}, column `{column}`: `{value}` is not a value of type {expected}; give a schema with {wider} for \
         this column, a null spelling if it stands for nothing, or raise the sample that types are inferred from",
        name(.file)
    )]
    Value {
        /// The file.
        file: PathBuf,
        /// Line in which the record begins, from 1.
        line: u64,
        /// Name of the column.
        column: String,
        /// The field, cut after 80 bytes.
        value: String,
        /// The column's type.
        expected: DataType,
        /// A type that would do, perhaps.
        wider: DataType,
    },
    /// A field of a column that is declared never to be null is.
    #[error("{} line {line}, column `{column}`: no value, but the schema says that there always is one", name(.file))]
    Null {
        /// The file.
        file: PathBuf,
        /// Line in which the record begins, from 1.
        line: u64,
        /// Name of the column.
        column: String,
    },
    /// A field is not UTF-8.
    #[error(
        "{} line {line}, column `{column}`: `{value}` is not UTF-8; convert the file (`iconv -t UTF-8`) or leave the \
         column out",
        name(.file)
    )]
    Utf8 {
        /// The file.
        file: PathBuf,
        /// Line in which the record begins, from 1.
        line: u64,
        /// Name of the column.
        column: String,
        /// The field as far as it can be shown.
        value: String,
    },
    /// The file ends within a quoted field.
    #[error(
        "{} line {line}: a quoted field of this record is never closed; close it, or read the file without a quote \
         character",
        name(.file)
    )]
    Unclosed {
        /// The file.
        file: PathBuf,
        /// Line in which the record begins, from 1.
        line: u64,
    },
    /// A record is longer than any may be.
    #[error(
        "{} line {line}: this record has more than {} MiB; is a quoted field of it never closed?",
        name(.file),
        MAX_RECORD_BYTES >> 20
    )]
    Long {
        /// The file.
        file: PathBuf,
        /// Line in which the record begins, from 1.
        line: u64,
    },
    /// Two files of one source have different headers.
    #[error("{}: the columns are {found:?}, but those of {} are {expected:?}", name(.file), name(.first))]
    Header {
        /// The file.
        file: PathBuf,
        /// The first file of the source.
        first: PathBuf,
        /// Columns of the first file.
        expected: Vec<String>,
        /// Columns of the file.
        found: Vec<String>,
    },
    /// A file is shorter than it was when the job began.
    #[error("{}: the file was changed while it was read: it ends at byte {at}, not at {expected}", name(.file))]
    Shrunk {
        /// The file.
        file: PathBuf,
        /// Where it ends.
        at: u64,
        /// Where it ended.
        expected: u64,
    },
    /// A file is another one than when the source was opened, or was written to otherwise than at its end.
    #[error("{}: the file was changed after it was opened; open it again", name(.file))]
    Changed {
        /// The file.
        file: PathBuf,
    },
}

impl From<CsvError> for OperatorError {
    fn from(error: CsvError) -> Self {
        OperatorError::other(error)
    }
}

fn name(file: &Path) -> std::path::Display<'_> {
    file.display()
}

fn hint_fields(found: &usize, expected: &usize) -> &'static str {
    if found > expected {
        "; quote fields that hold the delimiter"
    } else {
        "; is a delimiter missing, or the delimiter another one?"
    }
}

/// The next type that takes more than `kind` does.
pub(crate) fn wider(kind: &DataType) -> Option<DataType> {
    match kind {
        kind if kind.is_integer() => Some(DataType::Float64),
        DataType::Utf8View | DataType::Utf8 | DataType::LargeUtf8 => None,
        _ => Some(DataType::Utf8View),
    }
}

/// The error for what is broken in `file`, whose record begins `offset` bytes into its (decoded) text.
/// Reads the file up to there: call it on an I/O thread.
pub(crate) fn locate(file: &File, layout: &Arc<Layout>, offset: u64, broken: Broken) -> OperatorError {
    let line = match line_of(file, offset) {
        Ok(line) => line,
        Err(error) => return error,
    };
    let file = file.path.clone();
    let column = |column: usize| layout.file_schema.field(column).clone();
    match broken.what {
        What::Fields { found } => CsvError::Fields { file, line, expected: layout.columns(), found }.into(),
        What::Unclosed => CsvError::Unclosed { file, line }.into(),
        What::Long => CsvError::Long { file, line }.into(),
        What::Value { column: at, value, reason } => {
            let (expected, column) = (column(at).data_type().clone(), column(at).name().clone());
            match reason {
                Reason::Value => {
                    // What is no number at all does not become one by a wider number.
                    let wider = wider(&expected)
                        .filter(|kind| *kind != DataType::Float64 || fast_float2::parse::<f64, _>(&value).is_ok())
                        .unwrap_or(DataType::Utf8View);
                    CsvError::Value { file, line, column, value, expected, wider }.into()
                }
                Reason::Utf8 => CsvError::Utf8 { file, line, column, value }.into(),
                Reason::Null => CsvError::Null { file, line, column }.into(),
            }
        }
        What::Arrow(error) => error.into(),
    }
}

/// The line, from 1, that begins at or before `offset`.
fn line_of(file: &File, offset: u64) -> Result<u64> {
    let reading = |error| OperatorError::io("reading", &file.path, error);
    let mut text = file.text(None)?.take(offset);
    let mut buffer = vec![0; 64 * 1024];
    let mut line = 1;
    loop {
        match text.read(&mut buffer) {
            Ok(0) => return Ok(line),
            Ok(length) => line += memchr::memchr_iter(b'\n', &buffer[..length]).count() as u64,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(reading(error)),
        }
    }
}
