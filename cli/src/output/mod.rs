//! The rows of a result on their way out: a format, and where it goes. Rows are written as they come; what is held is
//! bounded in every format.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use aqueduct::arrow::array::RecordBatch;
use aqueduct::arrow::datatypes::SchemaRef;
use clap::ValueEnum;

use crate::failure::Failure;
use crate::output::encode::{ArrowFile, ArrowStream, Csv, Json, Parquet};
use crate::output::place::Place;
use crate::output::table::TableText;

mod encode;
mod grid;
mod place;
mod table;

/// Rows that a table shows on a terminal unless told otherwise.
const TERMINAL_ROWS: usize = 40;

/// How rows are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// A drawn table, for people
    Table,
    /// Comma-separated values with a header
    Csv,
    /// One JSON object a line
    Json,
    /// Apache Parquet
    Parquet,
    /// Arrow's IPC file format
    Arrow,
    /// Arrow's IPC stream format, for pipes
    ArrowStream,
}

impl Format {
    /// The format that a file's extension stands for.
    fn of(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()?.to_ascii_lowercase().as_str() {
            "csv" => Some(Self::Csv),
            "json" | "jsonl" | "ndjson" => Some(Self::Json),
            "parquet" => Some(Self::Parquet),
            "arrow" | "feather" | "ipc" => Some(Self::Arrow),
            "arrows" => Some(Self::ArrowStream),
            "txt" => Some(Self::Table),
            _ => None,
        }
    }

    fn is_text(self) -> bool {
        matches!(self, Self::Table | Self::Csv | Self::Json)
    }
}

/// Writes one result.
pub(crate) trait Encode {
    /// Writes some rows.
    fn write(&mut self, batch: &RecordBatch) -> Result<(), EncodeError>;

    /// Writes what belongs behind the last row.
    fn finish(&mut self) -> Result<(), EncodeError>;
}

/// What an encoder says; the reason it failed may be the place it writes to.
pub(crate) type EncodeError = Box<dyn std::error::Error + Send + Sync>;

/// What was asked for, found to make sense before anything is read.
#[derive(Debug)]
pub(crate) struct Target {
    format: Format,
    path: Option<PathBuf>,
    shown_rows: Option<usize>,
    memory_bytes: Option<usize>,
}

impl Target {
    /// # Errors
    ///
    /// If the options do not go together.
    pub(crate) fn new(format: Option<Format>, path: Option<&Path>, rows: Option<usize>) -> Result<Self, Failure> {
        let format = match (format, path) {
            (Some(format), _) => format,
            (None, Some(path)) => Format::of(path).ok_or_else(|| {
                Failure::usage(format!("the name {} does not say what format is wanted", path.display()))
                    .with_hint("--format table, csv, json, parquet, arrow or arrow-stream")
            })?,
            (None, None) => Format::Table,
        };
        let terminal = path.is_none() && std::io::stdout().is_terminal();
        if terminal && !format.is_text() {
            return Err(Failure::usage("this format is not for terminals")
                .with_hint("--output FILE writes to a file, and `>` or `|` send it elsewhere"));
        }
        let shown_rows = match rows {
            Some(0) => None,
            None if terminal => Some(TERMINAL_ROWS),
            rows => rows,
        };
        Ok(Self { format, path: path.map(Path::to_owned), shown_rows, memory_bytes: None })
    }

    /// What the encoder may hold, where a memory limit says so.
    pub(crate) fn with_memory(self, memory_bytes: Option<usize>) -> Self {
        Self { memory_bytes, ..self }
    }

    /// The file that will be there, if it is to be a file.
    pub(crate) fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// Whether rows appear on the terminal while more are to come.
    pub(crate) fn shows_rows_early(&self) -> bool {
        self.path.is_none() && std::io::stdout().is_terminal() && self.format != Format::Table
    }

    /// Opens the place, which begins to be written with the first rows.
    pub(crate) fn open(self) -> Result<Rows, Failure> {
        let place = Place::open(self.path.as_deref())?;
        Ok(Rows { target: self, place, encoder: None, rows: 0 })
    }
}

/// A result that is being written. Dropped before its end, it leaves no file.
pub(crate) struct Rows {
    target: Target,
    place: Place,
    /// Made when the schema is settled.
    encoder: Option<Box<dyn Encode>>,
    rows: u64,
}

impl Rows {
    /// Writes some rows. The first ones settle the columns.
    pub(crate) fn write(&mut self, batch: &RecordBatch) -> Result<(), Failure> {
        self.rows += batch.num_rows() as u64;
        self.encode(&batch.schema(), |encoder| encoder.write(batch))
    }

    /// Writes the end, and puts the file in its place; how many rows there were.
    pub(crate) fn finish(mut self, schema: &SchemaRef) -> Result<u64, Failure> {
        self.encode(schema, |encoder| encoder.finish())?;
        // It holds the place open.
        self.encoder = None;
        self.place.commit()?;
        Ok(self.rows)
    }

    fn encode(
        &mut self,
        schema: &SchemaRef,
        work: impl FnOnce(&mut dyn Encode) -> Result<(), EncodeError>,
    ) -> Result<(), Failure> {
        if self.encoder.is_none() {
            let made = self.encoder(schema).map_err(|error| self.place.failure(error))?;
            self.encoder = Some(made);
        }
        let encoder = self.encoder.as_deref_mut().expect("it was made above");
        work(encoder).map_err(|error| self.place.failure(error))
    }

    fn encoder(&self, schema: &SchemaRef) -> Result<Box<dyn Encode>, EncodeError> {
        let out = self.place.writer();
        Ok(match self.target.format {
            Format::Table => Box::new(TableText::new(out, schema, self.target.shown_rows, self.place.width())),
            Format::Csv => Box::new(Csv::try_new(out, schema)?),
            Format::Json => Box::new(Json::new(out)),
            Format::Parquet => Box::new(Parquet::try_new(out, schema, self.target.memory_bytes)?),
            Format::Arrow => Box::new(ArrowFile::try_new(out, schema)?),
            Format::ArrowStream => Box::new(ArrowStream::try_new(out, schema)?),
        })
    }
}
