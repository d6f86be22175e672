//! How a CSV file is written: header, delimiter, quote, null spellings, and the schema if it is given.
//!
//! Delimiter and quote are ASCII and never a line end, so that fields of valid UTF-8 are valid UTF-8.

use std::sync::Arc;

use aqueduct_runtime::{OperatorError, Result};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// How CSV files are written and read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CsvOptions {
    /// Whether the first record of each file names the columns.
    pub header: bool,
    /// The byte between two fields.
    pub delimiter: u8,
    /// The byte around a field that holds delimiters, quotes or line ends; `None` if no byte is special.
    pub quote: Option<u8>,
    /// Unquoted fields with one of these spellings are null. In columns that are not strings an empty field
    /// is null whatever this says.
    pub nulls: Vec<String>,
    /// All columns of the file, in order. Inferred from the head of the first file if `None`.
    #[serde(serialize_with = "write_schema", deserialize_with = "read_schema")]
    pub schema: Option<SchemaRef>,
    /// Rows that inference looks at.
    pub sample_rows: usize,
    /// Bytes that inference looks at.
    pub sample_bytes: usize,
    /// What a value does that is not of its column's inferred type.
    pub on_mismatch: OnMismatch,
}

/// What follows from a value that is not of the type that was inferred for its column. A schema that was given
/// is never changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum OnMismatch {
    /// The job fails, with file, line, column and value.
    #[default]
    Fail,
    /// A frame is run again with the next wider type for that column, if none of its rows have been delivered:
    /// Float64 in place of an integer where the value is a number, else strings. The result may have other types
    /// than the frame said, and the start of the file is read twice. A graph that reads the source fails all the
    /// same.
    Widen,
}

impl Default for CsvOptions {
    fn default() -> Self {
        Self {
            header: true,
            delimiter: b',',
            quote: Some(b'"'),
            nulls: vec![String::new()],
            schema: None,
            sample_rows: 10_000,
            sample_bytes: 1 << 20,
            on_mismatch: OnMismatch::Fail,
        }
    }
}

impl CsvOptions {
    /// Refuses what cannot be parsed.
    pub(crate) fn check(&self) -> Result<Dialect> {
        let usable = |byte: u8| byte.is_ascii() && byte != b'\n' && byte != b'\r';
        if !usable(self.delimiter) {
            return Err(OperatorError::new("the CSV delimiter must be an ASCII character other than a line end"));
        }
        if let Some(quote) = self.quote
            && (!usable(quote) || quote == self.delimiter)
        {
            return Err(OperatorError::new(
                "the CSV quote must be an ASCII character other than a line end and the delimiter",
            ));
        }
        if self.sample_bytes == 0 || self.sample_rows == 0 {
            return Err(OperatorError::new("the CSV sample must be at least one row and one byte"));
        }
        Ok(Dialect { delimiter: self.delimiter, quote: self.quote })
    }
}

/// The bytes that structure a file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Dialect {
    pub(crate) delimiter: u8,
    pub(crate) quote: Option<u8>,
}

type Column = (String, String, bool);

fn write_schema<S: Serializer>(schema: &Option<SchemaRef>, serializer: S) -> Result<S::Ok, S::Error> {
    let columns: Option<Vec<Column>> = schema.as_ref().map(|schema| {
        schema.fields().iter().map(|f| (f.name().clone(), f.data_type().to_string(), f.is_nullable())).collect()
    });
    columns.serialize(serializer)
}

fn read_schema<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SchemaRef>, D::Error> {
    let columns = Option::<Vec<Column>>::deserialize(deserializer)?;
    columns
        .map(|columns| {
            let fields = columns
                .into_iter()
                .map(|(name, kind, nullable)| Ok(Field::new(name, kind.parse::<DataType>()?, nullable)))
                .collect::<Result<Vec<_>, arrow::error::ArrowError>>();
            Ok(Arc::new(Schema::new(fields.map_err(serde::de::Error::custom)?)))
        })
        .transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_would_make_a_file_ambiguous_are_refused() {
        let refused = [
            CsvOptions { delimiter: b'\n', ..Default::default() },
            CsvOptions { delimiter: 0xC3, ..Default::default() },
            CsvOptions { delimiter: b'"', ..Default::default() },
            CsvOptions { quote: Some(b'\r'), ..Default::default() },
        ];
        for options in refused {
            assert!(options.check().is_err(), "{options:?}");
        }
        assert!(CsvOptions { delimiter: b'|', quote: None, ..Default::default() }.check().is_ok());
    }
}
