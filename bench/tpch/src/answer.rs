//! Answers of other software as files, and the comparison of ours with them, value by value.
//!
//! A file has the columns' names, DuckDB's types of them, and the rows. Text is in quotes; a value without quotes and
//! without characters is null. What DuckDB computed exactly (integers, decimals, dates, text) must be the same; what it
//! computed in floating point must agree to a part in 10⁹, or to the last place of a decimal.

use std::path::{Path, PathBuf};

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Schema};

/// How far floats may be apart, as a part of the larger.
const TOLERANCE: f64 = 1e-9;

/// What other software answered.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    names: Vec<String>,
    kinds: Vec<Kind>,
    rows: Vec<Row>,
}

type Row = Vec<Option<String>>;

/// How a column is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Integer,
    Decimal,
    Float,
}

/// What is wrong with an answer, or with the file that says what it should be.
#[derive(Debug, thiserror::Error)]
pub enum Difference {
    /// The file is not there, or cannot be read.
    #[error("reading {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file does not hold an answer.
    #[error("{path}: {reason}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The answers are not the same.
    #[error("{0}")]
    Differs(String),
}

impl Answer {
    /// Reads an answer from a file.
    ///
    /// # Errors
    ///
    /// If there is none, or it holds something else.
    pub fn read(path: &Path) -> Result<Self, Difference> {
        let text = std::fs::read_to_string(path).map_err(|source| Difference::Io { path: path.into(), source })?;
        Self::parse(&text).map_err(|reason| Difference::Malformed { path: path.into(), reason })
    }

    fn parse(text: &str) -> Result<Self, String> {
        let mut lines = text.lines().map(cells);
        let mut header = |what: &str| {
            let line: Option<Vec<String>> = lines.next().ok_or(format!("no line of {what}"))??.into_iter().collect();
            line.ok_or(format!("a null among the {what}"))
        };
        let names = header("names")?;
        let kinds = header("types")?.iter().map(|name| Kind::of(name)).collect::<Result<Vec<_>, _>>()?;
        let rows = lines.collect::<Result<Vec<Row>, _>>()?;
        let odd = kinds.len() != names.len() || rows.iter().any(|row| row.len() != names.len());
        if odd { Err("not all lines have the same number of values".into()) } else { Ok(Self { names, kinds, rows }) }
    }

    /// Number of rows.
    pub fn num_rows(&self) -> usize {
        self.rows.len()
    }

    /// Whether `batches` are this answer, and in its order where that is `ordered_by` columns, given by place.
    ///
    /// Rows that are equal in all of these may come in any order.
    ///
    /// # Errors
    ///
    /// The first difference.
    pub fn check(&self, schema: &Schema, batches: &[RecordBatch], ordered_by: &[usize]) -> Result<(), Difference> {
        self.compare(schema, batches, ordered_by).map_err(Difference::Differs)
    }

    fn compare(&self, schema: &Schema, batches: &[RecordBatch], ordered_by: &[usize]) -> Result<(), String> {
        if schema.fields().len() != self.names.len() {
            return Err(format!("{} columns in place of {}", schema.fields().len(), self.names.len()));
        }
        let mut scales = Vec::new();
        for (field, kind) in schema.fields().iter().zip(&self.kinds) {
            let known = kind.allows(field.data_type());
            scales.push(known.ok_or(format!("column `{}` is a {}, not {kind:?}", field.name(), field.data_type()))?);
        }
        let mut ours = Vec::new();
        for batch in batches {
            append_rows(batch, &mut ours)?;
        }
        if ours.len() != self.rows.len() {
            return Err(format!("{} rows in place of {}", ours.len(), self.rows.len()));
        }
        let same = |place: usize, ours: &Row, theirs: &Row| {
            self.kinds[place].same(ours[place].as_deref(), theirs[place].as_deref(), scales[place])
        };
        for (number, (ours, theirs)) in ours.iter().zip(&self.rows).enumerate() {
            if let Some(place) = ordered_by.iter().find(|place| !same(**place, ours, theirs)) {
                return Err(self.difference("in order, row", number, *place, ours, theirs));
            }
        }
        let mut theirs = self.rows.clone();
        for rows in [&mut ours, &mut theirs] {
            rows.sort_by_cached_key(|row| self.exact(row));
        }
        for (number, (ours, theirs)) in ours.iter().zip(&theirs).enumerate() {
            if let Some(place) = (0..self.kinds.len()).find(|place| !same(*place, ours, theirs)) {
                return Err(self.difference("sorted, row", number, place, ours, theirs));
            }
        }
        Ok(())
    }

    /// What a row is found by: the values that are the same whoever computed them.
    fn exact(&self, row: &Row) -> Row {
        let cells = row.iter().zip(&self.kinds).filter(|(_, kind)| **kind != Kind::Float);
        cells.map(|(cell, kind)| cell.as_deref().map(|text| kind.normal(text).to_owned())).collect()
    }

    fn difference(&self, how: &str, row: usize, place: usize, ours: &Row, theirs: &Row) -> String {
        let name = &self.names[place];
        format!("{how} {row}, column `{name}`: {:?} in place of {:?}; {ours:?}, {theirs:?}", ours[place], theirs[place])
    }
}

impl Kind {
    fn of(name: &str) -> Result<Self, String> {
        match name.split('(').next().unwrap_or_default() {
            "VARCHAR" | "DATE" | "BOOLEAN" => Ok(Self::Text),
            "TINYINT" | "SMALLINT" | "INTEGER" | "BIGINT" | "HUGEINT" => Ok(Self::Integer),
            "DECIMAL" => Ok(Self::Decimal),
            "FLOAT" | "DOUBLE" => Ok(Self::Float),
            _ => Err(format!("{name} is a type that answers do not have")),
        }
    }

    /// What the last place of a value of our type is worth; `None` if the type will not do for this column.
    fn allows(self, ours: &DataType) -> Option<f64> {
        let scale = match ours {
            DataType::Decimal128(_, scale) | DataType::Decimal256(_, scale) => Some(i32::from(*scale)),
            _ => None,
        };
        match self {
            Self::Text => (!ours.is_numeric()).then_some(0.0),
            Self::Integer => (ours.is_integer() || scale == Some(0)).then_some(0.0),
            Self::Decimal => scale.map(|_| 0.0),
            Self::Float => ours.is_floating().then_some(0.0).or_else(|| scale.map(|scale| 10_f64.powi(-scale))),
        }
    }

    fn same(self, ours: Option<&str>, theirs: Option<&str>, last_place: f64) -> bool {
        let (Some(ours), Some(theirs)) = (ours, theirs) else { return ours.is_none() && theirs.is_none() };
        if self != Self::Float {
            return self.normal(ours) == self.normal(theirs);
        }
        let (Ok(ours), Ok(theirs)) = (ours.parse::<f64>(), theirs.parse::<f64>()) else { return false };
        let apart = (ours - theirs).abs();
        ours == theirs
            || (ours.is_nan() && theirs.is_nan())
            || apart <= TOLERANCE * ours.abs().max(theirs.abs()) + last_place
    }

    /// A spelling that equal values share.
    fn normal(self, text: &str) -> &str {
        match self {
            Self::Decimal if text.contains('.') => text.trim_end_matches('0').trim_end_matches('.'),
            _ => text,
        }
    }
}

/// The values of a line. Those in quotes are text; of the others, those without characters are null.
fn cells(line: &str) -> Result<Row, String> {
    let mut cells = Vec::new();
    let mut rest = line;
    loop {
        let (cell, after) = match rest.strip_prefix('"') {
            Some(quoted) => quoted_cell(quoted).ok_or(format!("a quote is not closed: {line}"))?,
            None => {
                let end = rest.find(',').unwrap_or(rest.len());
                (rest[..end].to_owned(), &rest[end..])
            }
        };
        let null = cell.is_empty() && !rest.starts_with('"');
        cells.push((!null).then_some(cell));
        match after.strip_prefix(',') {
            Some(more) => rest = more,
            None if after.is_empty() => return Ok(cells),
            None => return Err(format!("no comma behind a quote: {line}")),
        }
    }
}

/// The text up to the closing quote, and what is behind that.
fn quoted_cell(text: &str) -> Option<(String, &str)> {
    let mut cell = String::new();
    let mut rest = text;
    loop {
        let end = rest.find('"')?;
        cell.push_str(&rest[..end]);
        rest = &rest[end + 1..];
        match rest.strip_prefix('"') {
            Some(more) => {
                cell.push('"');
                rest = more;
            }
            None => return Some((cell, rest)),
        }
    }
}

fn append_rows(batch: &RecordBatch, rows: &mut Vec<Row>) -> Result<(), String> {
    let text = |column: &ArrayRef| cast(column, &DataType::Utf8).map_err(|error| error.to_string());
    let columns = batch.columns().iter().map(text).collect::<Result<Vec<_>, _>>()?;
    let columns: Vec<&StringArray> = columns.iter().map(|column| column.as_string()).collect();
    let value = |column: &StringArray, row| column.is_valid(row).then(|| column.value(row).to_owned());
    rows.extend((0..batch.num_rows()).map(|row| columns.iter().map(|column| value(column, row)).collect()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Decimal128Array, Float64Array, Int64Array, StringViewArray};

    use super::*;

    const ANSWER: &str = "\"who\",\"n\",\"sum\",\"mean\"\n\"VARCHAR\",\"BIGINT\",\"DECIMAL(38,2)\",\"DOUBLE\"\n\
                          \"a, \"\"b\"\"\",1,10.50,0.333333333333\n\"\",2,-3.00,1e300\n,3,,\n";

    fn batch(who: [Option<&str>; 3], sum: [Option<i128>; 3], mean: [Option<f64>; 3]) -> RecordBatch {
        let decimals = Decimal128Array::from(sum.to_vec()).with_precision_and_scale(30, 3).expect("a decimal's type");
        let columns: [(&str, ArrayRef); 4] = [
            ("who", Arc::new(StringViewArray::from(who.to_vec()))),
            ("n", Arc::new(Int64Array::from(vec![1, 2, 3]))),
            ("sum", Arc::new(decimals)),
            ("mean", Arc::new(Float64Array::from(mean.to_vec()))),
        ];
        RecordBatch::try_from_iter(columns).expect("columns of one length")
    }

    fn right() -> RecordBatch {
        batch(
            [Some("a, \"b\""), Some(""), None],
            [Some(10_500), Some(-3_000), None],
            [Some(1. / 3.), Some(1e300), None],
        )
    }

    fn check(batches: &[RecordBatch], ordered_by: &[usize]) -> Result<(), String> {
        let answer = Answer::parse(ANSWER).expect("an answer");
        answer.check(&batches[0].schema(), batches, ordered_by).map_err(|difference| difference.to_string())
    }

    #[test]
    fn equal_rows_are_equal_however_they_are_cut_and_typed() {
        check(&[right()], &[1]).expect("the same");
        check(&[right().slice(0, 2), right().slice(2, 1)], &[1]).expect("the same");
        check(&[right().slice(2, 1), right().slice(0, 2)], &[]).expect("the same in another order");
    }

    #[test]
    fn each_difference_is_found() {
        let who = [Some("a, \"b\""), Some(""), None];
        let sum = [Some(10_500), Some(-3_000), None];
        let mean = [Some(1. / 3.), Some(1e300), None];
        let wrong = [
            batch([who[0], None, who[2]], sum, mean),
            batch(who, [Some(10_501), sum[1], sum[2]], mean),
            batch(who, [sum[0], sum[1], Some(0)], mean),
            batch(who, sum, [Some(0.333_333_4), mean[1], mean[2]]),
            batch(who, sum, [Some(f64::NAN), mean[1], mean[2]]),
            batch(who, sum, [mean[0], mean[1], Some(0.0)]),
        ];
        for (number, batch) in wrong.into_iter().enumerate() {
            let error = check(&[batch], &[]).expect_err(&format!("number {number} is wrong"));
            assert!(error.starts_with("sorted, row"), "{error}");
        }
        let error = check(&[right().slice(0, 2)], &[]).expect_err("a row is missing");
        assert_eq!(error, "2 rows in place of 3");
        let error = check(&[right().slice(2, 1), right().slice(0, 2)], &[1]).expect_err("the order is wrong");
        assert!(error.starts_with("in order, row 0, column `n`"), "{error}");
        let floats = right().project(&[0, 1, 3, 3]).expect("columns");
        let error = check(&[floats], &[]).expect_err("a float in place of a decimal");
        assert!(error.contains("not Decimal"), "{error}");
    }

    #[test]
    fn a_file_that_is_not_an_answer_is_refused() {
        for (text, reason) in [
            ("", "no line of names"),
            ("\"a\"\n\"BLOB\"\n", "BLOB"),
            ("\"a\"\n\"DATE\"\n1,2\n", "number of values"),
            ("\"a\n\"DATE\"\n", "not closed"),
        ] {
            let error = Answer::parse(text).expect_err("not an answer");
            assert!(error.contains(reason), "{error}");
        }
    }
}
