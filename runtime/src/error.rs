//! What can go wrong, as fields: [`PlanError`] when a graph is wrong, [`OperatorError`] when an operator
//! gives up, [`ExecutionError`] when a running job ended badly.
//!
//! Operators return [`OperatorError`] and never name themselves: node, partition and split are added
//! once, where a step's result leaves the task.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use arrow::error::ArrowError;

/// The result of operator, source and sink code.
pub type Result<T, E = OperatorError> = std::result::Result<T, E>;

/// Why an operator, a source or a sink could not go on.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum OperatorError {
    /// The operator's own words.
    #[error("{0}")]
    Message(String),
    /// An Arrow kernel refused its input.
    #[error(transparent)]
    Arrow(#[from] ArrowError),
    /// A file could not be read or written.
    #[error("{action} {path}: {source}")]
    Io {
        /// What was tried, such as `reading`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The spill folder has reached its `spill_limit`.
    #[error(
        "spilling {needed_bytes} bytes would exceed the spill limit: {used_bytes} of {limit_bytes} bytes are in use; \
         raise `spill_limit` or free the disk"
    )]
    SpillLimit {
        /// Bytes of the write that was refused.
        needed_bytes: u64,
        /// Bytes on disk already.
        used_bytes: u64,
        /// The limit that was set.
        limit_bytes: u64,
    },
    /// One row or value is larger than what the plan set aside for one step.
    #[error(
        "one row or value needs {needed_bytes} bytes and {available_bytes} are to be had; \
         a memory limit of {sufficient_limit_bytes} bytes a worker would do"
    )]
    RowTooLarge {
        /// Bytes needed at once.
        needed_bytes: usize,
        /// Bytes that could be had at the most.
        available_bytes: usize,
        /// A limit per worker that is enough for such a row in all the places it goes through, and half of it for
        /// floors.
        sufficient_limit_bytes: usize,
    },
    /// A spill file does not hold what was written to it.
    #[error("spill file {path} is damaged: {reason}")]
    SpillDamaged {
        /// The file.
        path: PathBuf,
        /// What did not match.
        reason: String,
    },
    /// Any other error, kept whole.
    #[error(transparent)]
    Other(Box<dyn std::error::Error + Send + Sync>),
}

impl OperatorError {
    /// An error in the operator's own words.
    pub fn new(message: impl fmt::Display) -> Self {
        Self::Message(message.to_string())
    }

    /// Keeps another crate's error whole.
    pub fn other(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Other(error.into())
    }

    /// A failed file operation.
    pub fn io(action: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        Self::Io { action, path: path.into(), source }
    }
}

/// Why a graph cannot be planned: the graph or the configuration is wrong.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// The graph as a whole is not a dataflow.
    #[error("{0}")]
    Graph(String),
    /// One node is wrong.
    #[error("node `{node}`: {reason}")]
    Node {
        /// Name of the node.
        node: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The smallest plan does not fit in the limit.
    #[error(
        "the job needs at least {needed_bytes} bytes on each worker and the memory limit is {limit_bytes}; \
         set `memory_limit` to {needed_bytes} or more (largest part: {largest})"
    )]
    LimitTooSmall {
        /// Bytes per worker that the smallest plan needs.
        needed_bytes: usize,
        /// The limit that was set.
        limit_bytes: usize,
        /// Who needs the most.
        largest: String,
    },
    /// A configuration value makes no sense.
    #[error("{0}")]
    Config(String),
}

/// How a job ended, when it did not end well. Cheap to clone: all waiters get the same error.
#[non_exhaustive]
#[derive(Debug, Clone, thiserror::Error)]
pub enum ExecutionError {
    /// An operator, a source or a sink failed.
    #[error("{at}: {cause}")]
    Operator {
        /// Where.
        at: Place,
        /// Its own error.
        cause: Arc<OperatorError>,
    },
    /// The code of an operator, a source or a sink panicked. It was not run again.
    #[error("{at} panicked: {message}")]
    Panic {
        /// Where.
        at: Place,
        /// The panic's message.
        message: String,
    },
    /// Every task of a cycle waited for another one, and spooling an edge did not help.
    #[error("deadlock: {0}")]
    Deadlock(String),
    /// The job was cancelled or dropped.
    #[error("the job was cancelled")]
    Cancelled,
    /// The cluster is closed or closed while the job ran.
    #[error("the cluster is closed")]
    Closed,
    /// A thread, a folder or another resource could not be had.
    #[error("{0}")]
    Resource(String),
    /// The graph could not be planned.
    #[error(transparent)]
    Plan(Arc<PlanError>),
}

impl From<PlanError> for ExecutionError {
    fn from(error: PlanError) -> Self {
        Self::Plan(Arc::new(error))
    }
}

/// Where in a running job: node, partition, and the split being read, if one was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Name of the node.
    pub node: String,
    /// Index of the partition.
    pub partition: usize,
    /// Description of the source split, such as `data.csv bytes 0..65536`.
    pub split: Option<String>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node `{}`, partition {}", self.node, self.partition)?;
        match &self.split {
            Some(split) => write!(f, ", {split}"),
            None => Ok(()),
        }
    }
}

/// The message of a panic, as far as it has one.
pub(crate) fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    if let Some(text) = panic.downcast_ref::<&str>() {
        (*text).to_string()
    } else if let Some(text) = panic.downcast_ref::<String>() {
        text.clone()
    } else {
        "a panic without a message".to_string()
    }
}
