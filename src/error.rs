//! What can go wrong when a frame is built, planned or run. Cheap to clone: a frame keeps its first error.

use std::sync::Arc;

use aqueduct_runtime::{ExecutionError, OperatorError, PlanError};
use arrow::error::ArrowError;
use datafusion_common::DataFusionError;

use crate::sql::Place;
use crate::widen::Widening;

/// The result of everything in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a frame or a graph could not be built, planned or run.
#[non_exhaustive]
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// A step of a frame makes no sense: a column that does not exist, types that do not go together.
    #[error("{step}: {cause}")]
    Frame {
        /// The method of [`Frame`](crate::Frame) that was called.
        step: &'static str,
        /// What is wrong.
        cause: Arc<DataFusionError>,
    },
    /// An expression or a query could not be analysed, optimised or turned into operators.
    #[error(transparent)]
    Query(Arc<DataFusionError>),
    /// A query in SQL cannot be parsed, or names what is not there.
    #[error("{message}{}", shown(.place))]
    Sql {
        /// What is wrong.
        message: String,
        /// Where, if that is known.
        place: Option<Place>,
    },
    /// The query is right, and this version cannot run it yet.
    #[error("{what} is not supported yet")]
    Unsupported {
        /// What it would take, such as `sort (ORDER BY)`.
        what: String,
    },
    /// A source could not be opened, or its schema not be read.
    #[error(transparent)]
    Source(Arc<OperatorError>),
    /// The graph or the configuration is wrong, or needs more memory than the limit.
    #[error(transparent)]
    Plan(Arc<PlanError>),
    /// The job ended badly.
    #[error(transparent)]
    Execution(#[from] ExecutionError),
    /// The frame was run again with wider columns, as [`OnMismatch::Widen`](crate::OnMismatch::Widen) says, and
    /// that failed: it makes no sense with them, or the new job ended badly.
    #[error("{cause}; {}", list(.widened))]
    Widened {
        /// The columns, in the order in which they were widened.
        widened: Vec<Widening>,
        /// What is wrong.
        cause: Box<Error>,
    },
}

impl Error {
    /// What is wrong with a query, wherever.
    pub(crate) fn sql(message: impl Into<String>) -> Self {
        Self::Sql { message: message.into(), place: None }
    }

    /// What this version cannot do.
    pub(crate) fn unsupported(what: impl Into<String>) -> Self {
        Self::Unsupported { what: what.into() }
    }
}

impl From<DataFusionError> for Error {
    fn from(error: DataFusionError) -> Self {
        Self::Query(Arc::new(without_context(error)))
    }
}

impl From<PlanError> for Error {
    fn from(error: PlanError) -> Self {
        Self::Plan(Arc::new(error))
    }
}

impl From<OperatorError> for Error {
    fn from(error: OperatorError) -> Self {
        Self::Source(Arc::new(error))
    }
}

impl From<ArrowError> for Error {
    fn from(error: ArrowError) -> Self {
        Self::Query(Arc::new(error.into()))
    }
}

fn shown(place: &Option<Place>) -> String {
    place.as_ref().map(|place| format!("\n{place}")).unwrap_or_default()
}

fn list(widened: &[Widening]) -> String {
    widened.iter().map(Widening::to_string).collect::<Vec<_>>().join("; ")
}

/// The error for a name that no column has.
pub(crate) fn no_such_column<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> DataFusionError {
    let known: Vec<String> = known.map(|name| format!("`{name}`")).collect();
    DataFusionError::Plan(format!("there is no column `{name}`; the columns are {}", known.join(", ")))
}

/// Drops notes on DataFusion's inner workings that help nobody who writes a frame.
pub(crate) fn without_context(error: DataFusionError) -> DataFusionError {
    match error {
        DataFusionError::Context(_, inner) | DataFusionError::Diagnostic(_, inner) => without_context(*inner),
        other => other,
    }
}
