//! Tracing on standard error, as `AQUEDUCT_LOG` and `AQUEDUCT_LOG_FORMAT` ask for it.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// A line a person reads.
    #[default]
    Text,
    /// One JSON object a line, with the spans that it is part of.
    Json,
}

impl LogFormat {
    /// What `AQUEDUCT_LOG_FORMAT` asks for: text, unless it is `json`.
    fn of_environment() -> Self {
        let format = std::env::var("AQUEDUCT_LOG_FORMAT").unwrap_or_default();
        if format.trim().eq_ignore_ascii_case("json") { Self::Json } else { Self::Text }
    }
}

/// Writes log lines to standard error; `AQUEDUCT_LOG` says which (`info`, `aqueduct_runtime=debug`), warnings and errors
/// unless set, and `AQUEDUCT_LOG_FORMAT=json` has them as JSON.
///
/// Does nothing if the program has installed a subscriber of its own.
///
/// There are spans for each job (at level `info`), each of its tasks (`debug`), and each step, spill and read (`trace`). The
/// line of an error that ended a job carries the job, the node and the partition.
pub fn init_tracing() {
    init_tracing_as(LogFormat::of_environment());
}

/// As [`init_tracing`], in a format of choice.
pub fn init_tracing_as(format: LogFormat) {
    init_tracing_with(format, "warn");
}

/// As [`init_tracing`], for programs that show a job's error on their own: nothing but warnings unless `AQUEDUCT_LOG` is
/// set.
pub fn init_tracing_without_job_errors() {
    init_tracing_with(LogFormat::of_environment(), "warn,aqueduct_runtime::job=off");
}

fn init_tracing_with(format: LogFormat, otherwise: &str) {
    let filter = std::env::var("AQUEDUCT_LOG").ok().filter(|filter| !filter.trim().is_empty());
    let filter = EnvFilter::builder().parse_lossy(filter.unwrap_or_else(|| otherwise.into()));
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    // An error says that a subscriber is there already, which is what the caller wants then.
    let _ = match format {
        LogFormat::Text => lines.with_ansi(!plain && std::io::stderr().is_terminal()).try_init(),
        LogFormat::Json => lines.json().try_init(),
    };
}
