//! How a command fails: one message, a hint where there is one, and an exit status by kind.

use std::fmt::Display;
use std::io;
use std::path::Path;
use std::process::ExitCode;

use aqueduct::Error;
use aqueduct::runtime::{ExecutionError, OperatorError, PlanError, format_bytes};

/// Why a command ended early.
#[derive(Debug)]
pub(crate) struct Failure {
    kind: Kind,
    message: String,
    hint: Option<String>,
}

/// What the exit status tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Who reads the output has had enough, which is no failure.
    OutputClosed,
    /// The query failed as it ran, or a file could not be read or written.
    Run,
    /// The command line is wrong.
    Usage,
    /// The query is wrong.
    Query,
    /// The memory limit is too small.
    Memory,
    /// The user or the system ended it.
    Interrupted,
}

impl Kind {
    fn exit_status(self) -> u8 {
        match self {
            Self::OutputClosed => 0,
            Self::Run => 1,
            Self::Usage => 2,
            Self::Query => 3,
            Self::Memory => 4,
            Self::Interrupted => 130,
        }
    }
}

impl Failure {
    fn new(kind: Kind, message: impl Display) -> Self {
        Self { kind, message: message.to_string(), hint: None }
    }

    /// The command line is wrong.
    pub(crate) fn usage(message: impl Display) -> Self {
        Self::new(Kind::Usage, message)
    }

    /// Ctrl-C, or a signal that asks to end.
    pub(crate) fn interrupted() -> Self {
        Self::new(Kind::Interrupted, "interrupted")
    }

    /// A file, or standard input or output, failed.
    pub(crate) fn io(action: &str, path: &Path, error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::new(Kind::OutputClosed, "the output was closed"),
            _ => Self::new(Kind::Run, format!("{action} {}: {error}", path.display())),
        }
    }

    /// A thread could not be had.
    pub(crate) fn thread(error: &io::Error) -> Self {
        Self::new(Kind::Run, format!("cannot start a thread: {error}"))
    }

    /// Rows could not be written in the format that was asked for.
    pub(crate) fn format(path: &Path, error: impl Display) -> Self {
        Self::new(Kind::Run, format!("writing {}: {error}", path.display()))
    }

    /// Says how to go on.
    pub(crate) fn with_hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    /// Tells the user, and gives the status to end with.
    pub(crate) fn report(&self) -> ExitCode {
        if self.kind != Kind::OutputClosed {
            eprintln!("error: {}", self.message);
            if let Some(hint) = &self.hint {
                eprintln!("hint: {hint}");
            }
        }
        ExitCode::from(self.kind.exit_status())
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let (kind, hint) = judge(&error);
        Self { kind, message: error.to_string(), hint }
    }
}

/// The kind of an error, and what the user can do about it.
fn judge(error: &Error) -> (Kind, Option<String>) {
    match error {
        Error::Frame { .. } | Error::Query(_) | Error::Sql { .. } | Error::Unsupported { .. } => (Kind::Query, None),
        Error::Plan(plan) | Error::Execution(ExecutionError::Plan(plan)) => of_plan(plan),
        Error::Execution(ExecutionError::Operator { cause, .. }) | Error::Source(cause) => of_operator(cause),
        Error::Execution(ExecutionError::Panic { .. } | ExecutionError::Deadlock(_)) => {
            (Kind::Run, Some("this is a mistake in aqueduct, not in the query: please report it".into()))
        }
        Error::Widened { cause, .. } => judge(cause),
        _ => (Kind::Run, None),
    }
}

fn of_plan(error: &PlanError) -> (Kind, Option<String>) {
    match error {
        PlanError::LimitTooSmall { needed_bytes, .. } => (Kind::Memory, Some(limit_that_would_do(*needed_bytes))),
        PlanError::Config(_) => (Kind::Usage, None),
        _ => (Kind::Query, None),
    }
}

fn of_operator(error: &OperatorError) -> (Kind, Option<String>) {
    match error {
        OperatorError::RowTooLarge { sufficient_limit_bytes, .. } => {
            (Kind::Memory, Some(limit_that_would_do(*sufficient_limit_bytes)))
        }
        OperatorError::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
            (Kind::Run, Some("--spill-dir names a folder on another disk".into()))
        }
        _ => (Kind::Run, None),
    }
}

/// The option that would do, rounded up so that it is short.
fn limit_that_would_do(bytes: usize) -> String {
    const MEGABYTE: usize = 1_000_000;
    format!("--memory-limit {}MB would do ({} for each worker)", bytes.div_ceil(MEGABYTE), format_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn a_limit_that_is_too_small_is_a_kind_of_its_own_and_names_one_that_would_do() {
        let plan = PlanError::LimitTooSmall { needed_bytes: 2_000_001, limit_bytes: 1, largest: "join".into() };
        let failure = Failure::from(Error::Plan(Arc::new(plan)));
        assert_eq!(failure.kind.exit_status(), 4);
        assert!(failure.hint.expect("a hint").starts_with("--memory-limit 3MB "));
    }

    #[test]
    fn a_pipe_that_was_closed_is_no_failure() {
        let closed = io::Error::from(io::ErrorKind::BrokenPipe);
        assert_eq!(Failure::io("writing", Path::new("out"), &closed).kind.exit_status(), 0);
        let full = io::Error::from(io::ErrorKind::StorageFull);
        assert_eq!(Failure::io("writing", Path::new("out"), &full).kind.exit_status(), 1);
    }
}
