//! Guesses the columns' types from the first rows of a file.
//!
//! A column is what all of its values in the sample are: Boolean, Int64, Float64, Date32, Timestamp, or
//! strings. Int64 and Float64 together are Float64, dates and timestamps are timestamps.

use std::io::Read;
use std::sync::Arc;

use aqueduct_runtime::{OperatorError, Result};
use arrow::compute::kernels::cast_utils::Parser;
use arrow::datatypes::{
    DataType, Date32Type, Field, Schema, SchemaRef, TimeUnit, TimestampMicrosecondType, TimestampNanosecondType,
};

use super::batch::{Broken, Layout, What, read_record};
use super::column::Nulls;
use super::error::locate;
use super::files::{File, read_full};
use super::index::{Filled, Index, PADDING_BYTES};
use super::number::Number;
use super::options::CsvOptions;
use super::reader::MAX_RECORD_BYTES;

/// What the first file says.
#[derive(Debug)]
pub(crate) struct Inferred {
    /// The header as it is written, if there is one.
    pub(crate) header: Option<Vec<String>>,
    /// All columns, all nullable.
    pub(crate) schema: SchemaRef,
}

/// Looks at the first bytes of the files, up to the first that has any.
pub(crate) fn infer(files: &[File], options: &CsvOptions) -> Result<Inferred> {
    let mut header = None;
    for file in files {
        let inferred = infer_file(file, options)?;
        let Some((inferred, rows)) = inferred else { continue };
        if rows > 0 || options.schema.is_some() {
            return Ok(inferred);
        }
        // Only a header: another file may have rows.
        header.get_or_insert(inferred);
    }
    if let Some(inferred) = header {
        return Ok(inferred);
    }
    let header = options.header.then(Vec::new);
    let schema = options.schema.clone();
    match schema {
        Some(schema) => Ok(Inferred { header, schema }),
        None => Err(OperatorError::new(format!(
            "{} is empty: give a schema, as there is nothing to infer one from",
            files.first().map(|file| file.path.display().to_string()).unwrap_or_default()
        ))),
    }
}

/// What one file says, and the number of rows that were looked at; `None` if it is empty.
fn infer_file(file: &File, options: &CsvOptions) -> Result<Option<(Inferred, usize)>> {
    let dialect = options.check()?;
    let mut text = file.text(None)?;
    let mut sample = Sample { bytes: vec![], filled: 0, eof: false };
    sample.extend(file, &mut *text, options.sample_bytes)?;
    let start = if sample.bytes.starts_with(b"\xEF\xBB\xBF") { 3 } else { 0 };
    let nulls = Nulls::new(&options.nulls);
    // A first record longer than the sample makes the sample longer.
    let (first, next) = loop {
        match read_record(dialect, &sample.bytes, start, sample.filled, sample.eof) {
            Ok(Some(found)) => break found,
            Ok(None) if sample.filled < MAX_RECORD_BYTES => {
                let more = sample.filled.max(1);
                sample.extend(file, &mut *text, more)?;
            }
            failed => {
                let long = Broken { record: start, what: What::Long };
                let broken = failed.err().unwrap_or(long);
                let empty = Arc::new(Schema::empty());
                let layout =
                    Layout { dialect, nulls, file_schema: Arc::clone(&empty), projection: vec![], schema: empty };
                return Err(locate(file, &Arc::new(layout), broken.record as u64, broken));
            }
        }
    };
    if first.is_empty() {
        return Ok(None);
    }
    let columns = first.len();
    let header = options.header.then(|| first.clone());
    if let Some(schema) = &options.schema {
        if schema.fields().len() != columns {
            return Err(OperatorError::new(format!(
                "{} has {columns} columns, the given schema {}",
                file.path.display(),
                schema.fields().len()
            )));
        }
        return Ok(Some((Inferred { header, schema: Arc::clone(schema) }, 0)));
    }
    let mut kinds = vec![Kinds::default(); columns];
    let mut from = if options.header { next } else { start };
    let mut rows = 0;
    while rows < options.sample_rows {
        match next_rows(&sample, dialect, columns, from) {
            Ok(Some((records, next))) => {
                for record in records {
                    for (kinds, (text, quoted)) in kinds.iter_mut().zip(record) {
                        if text.is_empty() || (!quoted && nulls.contains(text.as_bytes())) {
                            continue;
                        }
                        kinds.add(&text);
                    }
                    rows += 1;
                }
                from = next;
            }
            Ok(None) => break,
            Err((record, found)) => {
                let fields = vec![Field::new("", DataType::Null, true); columns];
                let file_schema = Arc::new(Schema::new(fields));
                let schema = Arc::new(Schema::empty());
                let layout = Layout { dialect, nulls, file_schema, projection: vec![], schema };
                let broken = super::batch::Broken { record, what: What::Fields { found } };
                return Err(locate(file, &Arc::new(layout), record as u64, broken));
            }
        }
    }
    let names = unique_names(if options.header { &first } else { &[] }, columns);
    let fields = names.into_iter().zip(&kinds).map(|(name, kinds)| Field::new(name, kinds.data_type(), true));
    let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    Ok(Some((Inferred { header, schema }, rows)))
}

struct Sample {
    /// Padded.
    bytes: Vec<u8>,
    filled: usize,
    eof: bool,
}

impl Sample {
    fn extend(&mut self, file: &File, text: &mut dyn Read, more: usize) -> Result<()> {
        self.bytes.resize(self.filled + more + PADDING_BYTES, 0);
        let into = &mut self.bytes[self.filled..self.filled + more];
        let length = read_full(text, into).map_err(|error| OperatorError::io("reading", &file.path, error))?;
        self.filled += length;
        self.eof = length < more;
        Ok(())
    }
}

type Records = Vec<Vec<(String, bool)>>;

/// The fields of the next rows with whether they were quoted, and what follows; the error is a ragged
/// record and its number of fields.
fn next_rows(
    sample: &Sample,
    dialect: super::options::Dialect,
    columns: usize,
    from: usize,
) -> Result<Option<(Records, usize)>, (usize, usize)> {
    let mut index = Index::new(dialect, columns);
    let next = match index.fill(&sample.bytes, from, sample.filled, sample.eof, 1024) {
        Filled::Rows { next } => next,
        Filled::Fields { record, found } => return Err((record, found)),
        // An unclosed quote is told by the scan, which knows that the file ends there.
        Filled::Nothing | Filled::Incomplete | Filled::Unclosed { .. } => return Ok(None),
    };
    let nulls = Nulls { empty: false, words: vec![] };
    let chunk =
        super::column::Chunk { bytes: &sample.bytes, index: &index, dialect, nulls: &nulls, utf8: false, columns };
    let mut scratch = vec![];
    let mut field = |row, column| {
        use super::column::Field::{Plain, Quoted, Unescaped};
        let (text, quoted) = match chunk.field(row, column, &mut scratch) {
            Plain(start, end) => (&sample.bytes[start..end], false),
            Quoted(start, end) => (&sample.bytes[start..end], true),
            Unescaped(text, length) => (&text[..length], true),
        };
        (String::from_utf8_lossy(text).into_owned(), quoted)
    };
    let records = (0..index.rows()).map(|row| (0..columns).map(|column| field(row, column)).collect()).collect();
    Ok(Some((records, next)))
}

/// Names for `columns` columns: a missing name is made up, a repeated one is numbered.
fn unique_names(header: &[String], columns: usize) -> Vec<String> {
    let mut names: Vec<String> = vec![];
    for column in 0..columns {
        let given = header.get(column).map(String::as_str).unwrap_or_default();
        let name = if given.is_empty() { format!("column_{}", column + 1) } else { given.to_string() };
        let mut unique = name.clone();
        let mut number = 0;
        while names.contains(&unique) || (number > 0 && header.contains(&unique)) {
            number += 1;
            unique = format!("{name}.{number}");
        }
        names.push(unique);
    }
    names
}

/// What kinds of values a column has.
#[derive(Debug, Clone, Copy, Default)]
struct Kinds {
    boolean: bool,
    integer: bool,
    float: bool,
    date: bool,
    timestamp: bool,
    nanoseconds: bool,
    text: bool,
}

impl Kinds {
    fn add(&mut self, text: &str) {
        if self.text {
            return;
        }
        let bytes = text.as_bytes();
        let numeric = matches!(bytes[0], b'0'..=b'9' | b'-' | b'.' | b'+');
        let day = |bytes: &[u8]| bytes.len() >= 10 && bytes[4] == b'-' && bytes[7] == b'-' && bytes[0].is_ascii_digit();
        let digits = bytes.strip_prefix(b"-").unwrap_or(bytes);
        if digits.iter().all(u8::is_ascii_digit) && text.parse::<i64>().is_ok() {
            self.integer = true;
        } else if numeric && bytes.iter().any(|b| matches!(b, b'.' | b'e' | b'E')) && text.parse::<f64>().is_ok() {
            self.float = true;
        } else if text.eq_ignore_ascii_case("true") || text.eq_ignore_ascii_case("false") {
            self.boolean = true;
        } else if bytes.len() == 10 && day(bytes) && Date32Type::parse(text).is_some() {
            self.date = true;
        } else if bytes.len() >= 19 && day(bytes) && matches!(bytes[10], b' ' | b'T') && is_timestamp(text) {
            self.timestamp = true;
            let fraction = text[19..].strip_prefix('.').unwrap_or_default();
            self.nanoseconds |= fraction.bytes().take_while(u8::is_ascii_digit).count() > 6;
        } else {
            self.text = true;
        }
    }

    fn data_type(self) -> DataType {
        let numbers = self.integer || self.float;
        let days = self.date || self.timestamp;
        match (self.text, self.boolean, numbers, days) {
            (false, true, false, false) => DataType::Boolean,
            (false, false, true, false) if !self.float => DataType::Int64,
            (false, false, true, false) => DataType::Float64,
            (false, false, false, true) if !self.timestamp => DataType::Date32,
            (false, false, false, true) if self.nanoseconds => DataType::Timestamp(TimeUnit::Nanosecond, None),
            (false, false, false, true) => DataType::Timestamp(TimeUnit::Microsecond, None),
            _ => DataType::Utf8View,
        }
    }
}

fn is_timestamp(text: &str) -> bool {
    let mut bytes = text.as_bytes().to_vec();
    bytes.resize(text.len() + 8, 0);
    TimestampMicrosecondType::parse_field(&bytes, 0, text.len()).is_some()
        || TimestampNanosecondType::parse_field(&bytes, 0, text.len()).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn types(text: &str, options: CsvOptions) -> Result<Vec<(String, DataType)>> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.csv");
        std::fs::write(&path, text).expect("written");
        let files = super::super::files::find(&[path]).expect("there");
        let schema = infer(&files, &options)?.schema;
        Ok(schema.fields().iter().map(|f| (f.name().clone(), f.data_type().clone())).collect())
    }

    #[test]
    fn a_column_is_what_all_its_values_are() {
        use DataType::*;
        let text = "i,f,m,b,d,t,n,s,e,x\n\
                    1,1.5,2,true,2020-01-02,2020-01-02 03:04:05,2020-01-02T03:04:05.123456789Z,abc,,1\n\
                    -7,2e3,2.5,False,1999-12-31,2020-01-02,2020-01-02T03:04:05,1,,a\n";
        let kinds: Vec<_> = types(text, CsvOptions::default()).expect("inferred").into_iter().map(|(_, k)| k).collect();
        let micro = Timestamp(TimeUnit::Microsecond, None);
        let nano = Timestamp(TimeUnit::Nanosecond, None);
        assert_eq!(kinds, [Int64, Float64, Float64, Boolean, Date32, micro, nano, Utf8View, Utf8View, Utf8View]);
    }

    #[test]
    fn names_are_unique_and_made_up_where_missing() {
        let names = |text, header| {
            let options = CsvOptions { header, ..Default::default() };
            types(text, options).expect("inferred").into_iter().map(|(name, _)| name).collect::<Vec<_>>()
        };
        assert_eq!(names("\u{FEFF}a,a,,a.1,\"b\nc\"\n1,2,3,4,5\n", true), ["a", "a.2", "column_3", "a.1", "b\nc"]);
        assert_eq!(names("1,2\n", false), ["column_1", "column_2"]);
    }

    #[test]
    fn what_cannot_be_inferred_is_said() {
        let error = types("", CsvOptions::default()).expect_err("nothing there").to_string();
        assert!(error.contains("is empty"), "{error}");
        let error = types("a,b\n1,2\n3\n", CsvOptions::default()).expect_err("ragged").to_string();
        assert!(error.contains("a.csv line 3: expected 2 fields, found 1"), "{error}");
    }
}
