//! Running a frame again with a wider column: what follows, by choice, from a value that is not of the type
//! that was inferred for its column.
//!
//! Every time, one column of one table gets a type that takes more: Float64 for integers, or strings. So there
//! are at most two runs more for each column, and the rows of a run that failed are never seen.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Weak};

use aqueduct_operators::csv::CsvError;
use aqueduct_runtime::{ExecutionError, OperatorError};
use arrow::datatypes::DataType;
use datafusion_common::tree_node::{Transformed, TreeNode};
use datafusion_common::{DataFusionError, Result as QueryResult};
use datafusion_expr::LogicalPlan;
use datafusion_expr::logical_plan::{TableScan, TableScanBuilder, Union};

use crate::error::{Error, Result};
use crate::frame::Frame;
use crate::planner::ScanTable;

/// A column that was read as a wider type than the one that was inferred, and the value it was widened for.
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Widening {
    /// The file with the value.
    pub file: PathBuf,
    /// Line in which the value's record begins, from 1.
    pub line: u64,
    /// Name of the column in the file.
    pub column: String,
    /// The value, cut after 80 bytes.
    pub value: String,
    /// The type that did not do.
    pub from: DataType,
    /// The type in its place.
    pub to: DataType,
}

impl fmt::Display for Widening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, line, column, value, from, to } = self;
        write!(
            f,
            "column `{column}` was read as {to} instead of {from} because of `{value}` in {} line {line}",
            file.display()
        )
    }
}

/// Runs `frame` by `run`, and again with wider columns for as long as that is what the error asks for.
pub(crate) fn retried<T>(frame: &Frame, run: impl Fn(&Frame) -> Result<T>) -> Result<T> {
    let mut attempt = Attempt::new(frame);
    loop {
        match run(attempt.frame()) {
            Err(error) => attempt.widen_for(error)?,
            answer => return answer,
        }
    }
}

/// A frame as it is run this time.
#[derive(Debug)]
pub(crate) struct Attempt {
    frame: Frame,
    widened: Vec<Widening>,
}

impl Attempt {
    pub(crate) fn new(frame: &Frame) -> Self {
        Self { frame: frame.clone(), widened: Vec::new() }
    }

    pub(crate) fn frame(&self) -> &Frame {
        &self.frame
    }

    /// Gives the frame the wider column that `error` asks for.
    ///
    /// # Errors
    ///
    /// What is to be reported, if it asks for none, or the frame makes no sense with it.
    pub(crate) fn widen_for(&mut self, error: Error) -> Result<()> {
        match self.widened(&error) {
            Ok(Some(frame)) => {
                self.frame = frame;
                Ok(())
            }
            Ok(None) => Err(self.explained(error)),
            Err(other) => Err(self.explained(other)),
        }
    }

    /// `error`, and which columns were widened before it came up.
    pub(crate) fn explained(&self, error: Error) -> Error {
        match error {
            Error::Execution(ExecutionError::Cancelled | ExecutionError::Closed) => error,
            cause if self.widened.is_empty() => cause,
            cause => Error::Widened { widened: self.widened.clone(), cause: Box::new(cause) },
        }
    }

    /// The frame with the wider column that `error` asks for, if it does and the table lets it.
    fn widened(&mut self, error: &Error) -> Result<Option<Frame>> {
        let Some((node, mismatch)) = mismatch(error) else { return Ok(None) };
        let CsvError::Value { file, line, column, value, expected, wider } = mismatch else { return Ok(None) };
        // Noted first: where the new types do not go together, this is what explains it.
        let noted = self.widened.len();
        self.widened.push(Widening {
            file: file.clone(),
            line: *line,
            column: column.clone(),
            value: value.clone(),
            from: expected.clone(),
            to: wider.clone(),
        });
        let widened = self.frame.logical_plan()?.transform_up(|node_plan| match node_plan {
            LogicalPlan::TableScan(scan) if is_scan_of(node, scan.table_name.table()) => rescanned(scan, mismatch),
            // The types of all that is not a scan are worked out anew; a union does not do that by itself.
            LogicalPlan::Union(union) => {
                Union::try_new_with_loose_types(union.inputs).map(|union| Transformed::no(LogicalPlan::Union(union)))
            }
            other => other.recompute_schema().map(Transformed::no),
        })?;
        if !widened.transformed {
            self.widened.truncate(noted);
            return Ok(None);
        }
        tracing::info!(table = node, %column, from = %expected, to = %wider, file = %file.display(), line, value,
            "a value is not of its column's type: running again with a wider one");
        Ok(Some(Frame::new(Weak::clone(&self.frame.session), widened.data)))
    }
}

/// Whether `node` reads `table`: a second scan of one table is called `table 2`.
fn is_scan_of(node: &str, table: &str) -> bool {
    let Some(rest) = node.strip_prefix(table) else { return false };
    rest.is_empty() || rest.strip_prefix(' ').is_some_and(|number| number.parse::<usize>().is_ok())
}

/// The node that met a value of the wrong type, and that value.
fn mismatch(error: &Error) -> Option<(&str, &CsvError)> {
    let Error::Execution(ExecutionError::Operator { at, cause }) = error else { return None };
    let OperatorError::Other(cause) = cause.as_ref() else { return None };
    let cause = cause.downcast_ref::<CsvError>()?;
    matches!(cause, CsvError::Value { .. }).then_some((at.node.as_str(), cause))
}

/// The scan of the table with the wider column; as it was if the table does not let it.
fn rescanned(scan: TableScan, mismatch: &CsvError) -> QueryResult<Transformed<LogicalPlan>> {
    let table = scan.source.downcast_ref::<ScanTable>().map(|table| table.widened(mismatch));
    let Some(table) = table.transpose().map_err(|error| DataFusionError::External(Box::new(error)))?.flatten() else {
        return Ok(Transformed::no(LogicalPlan::TableScan(scan)));
    };
    let scan = TableScanBuilder::new(scan.table_name, Arc::new(table))
        .with_projection(scan.projection)
        .with_filters(scan.filters)
        .with_fetch(scan.fetch)
        .build()?;
    Ok(Transformed::yes(LogicalPlan::TableScan(scan)))
}
