//! Where in a query something is wrong, and what, in words for whoever wrote the query.

use std::fmt;

use datafusion_common::DataFusionError;
use datafusion_sql::sqlparser::parser::ParserError;

use crate::error::Error;

/// A place in a query: lines and columns count from 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Line of the query.
    pub line: u64,
    /// Character of the line.
    pub column: u64,
    /// The line itself.
    pub text: String,
}

impl Place {
    fn new(query: &str, line: u64, column: u64) -> Option<Self> {
        let text = query.lines().nth(usize::try_from(line).ok()?.checked_sub(1)?)?;
        Some(Self { line, column, text: text.into() })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { line, column, text } = self;
        let before = usize::try_from(column.saturating_sub(1)).unwrap_or(0).min(text.chars().count());
        // A tab stays one, so that the mark is below its character whatever a tab's width.
        let indent: String = text.chars().take(before).map(|c| if c == '\t' { c } else { ' ' }).collect();
        write!(f, "line {line}, column {column}\n  {text}\n  {indent}^")
    }
}

/// What is wrong with `query`, and where, if the error says.
pub(super) fn located(error: DataFusionError, query: &str) -> Error {
    let span =
        error.diagnostic().and_then(|diagnostic| diagnostic.span).map(|span| (span.start.line, span.start.column));
    let message = message(error);
    let (message, place) = match message.rsplit_once(" at Line: ") {
        Some((what, place)) => match place.split_once(", Column: ") {
            Some((line, column)) => (what.to_string(), line.parse().ok().zip(column.trim().parse().ok())),
            None => (message, None),
        },
        None => (message, span),
    };
    Error::Sql { message, place: place.and_then(|(line, column)| Place::new(query, line, column)) }
}

/// The error's own words, without the names of DataFusion's stages.
fn message(error: DataFusionError) -> String {
    match error {
        DataFusionError::SQL(error, _) => match *error {
            ParserError::TokenizerError(text) | ParserError::ParserError(text) => text,
            ParserError::RecursionLimitExceeded => "the query is nested too deeply".into(),
        },
        DataFusionError::Context(_, inner) | DataFusionError::Diagnostic(_, inner) => message(*inner),
        DataFusionError::Plan(text) | DataFusionError::Configuration(text) => text,
        DataFusionError::NotImplemented(text) => format!("not supported: {text}"),
        DataFusionError::SchemaError(error, _) => error.to_string(),
        DataFusionError::External(error) => error.to_string(),
        DataFusionError::Collection(errors) => errors.into_iter().map(message).collect::<Vec<_>>().join("; "),
        other => other.strip_backtrace(),
    }
}
