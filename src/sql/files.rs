//! Files that a statement names by their paths, to be read or written. The ending of the name says what is in them.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use aqueduct_operators::csv::{CsvOptions, CsvSource};
use aqueduct_operators::parquet::{ParquetOptions, ParquetSource};
use datafusion_common::file_options::file_type::{FileType, GetExt};
use datafusion_common::{DataFusionError, Result as QueryResult};
use datafusion_expr::TableSource;

use crate::planner::ScanTable;

/// What is in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Csv,
    /// CSV with tabs in place of commas.
    Tsv,
    Parquet,
}

impl Format {
    /// What an ending without its dot stands for.
    pub(super) fn of_extension(extension: &str) -> Option<Self> {
        match extension.to_lowercase().as_str() {
            "csv" => Some(Self::Csv),
            "tsv" => Some(Self::Tsv),
            "parquet" | "pq" => Some(Self::Parquet),
            _ => None,
        }
    }

    /// What a path stands for, whether compressed or not.
    fn of_path(path: &str) -> Option<Self> {
        let (stem, extension) = path.rsplit_once('.')?;
        match extension.to_lowercase().as_str() {
            "gz" | "gzip" | "zst" | "zstd" => Self::of_extension(stem.rsplit_once('.')?.1),
            other => Self::of_extension(other),
        }
    }

    /// The formats there are, as part of an error.
    pub(super) fn known() -> &'static str {
        "the endings that are known are .parquet, .csv and .tsv, and for reading .csv.gz and .csv.zst"
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Csv => "csv",
            Self::Tsv => "tsv",
            Self::Parquet => "parquet",
        })
    }
}

impl GetExt for Format {
    fn get_ext(&self) -> String {
        format!(".{self}")
    }
}

impl FileType for Format {
    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// The table in the files at `path`; `None` if that is no path at all.
pub(super) fn open(path: &str) -> QueryResult<Option<Arc<dyn TableSource>>> {
    let Some(format) = Format::of_path(path) else {
        if path.contains(['/', '\\', '*']) || std::path::Path::new(path).is_file() {
            let text = format!("what is in `{path}` cannot be told from its name: {}", Format::known());
            return Err(DataFusionError::Plan(text));
        }
        return Ok(None);
    };
    let table = match format {
        Format::Parquet => ParquetSource::open(path, ParquetOptions::default()).map(ScanTable::parquet),
        Format::Csv | Format::Tsv => {
            let delimiter = if format == Format::Tsv { b'\t' } else { b',' };
            CsvSource::open(path, CsvOptions { delimiter, ..CsvOptions::default() }).map(ScanTable::csv)
        }
    };
    Ok(Some(Arc::new(table.map_err(|error| DataFusionError::External(error.to_string().into()))?)))
}
