//! Tracing on standard error, as `AQUEDUCT_LOG` asks for it.

use tracing_subscriber::EnvFilter;

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// A line a person reads.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Writes log lines to standard error; `AQUEDUCT_LOG` says which (`info`, `aqueduct_runtime=debug`), warnings
/// unless set.
///
/// Does nothing if the program has installed a subscriber of its own.
pub fn init_tracing() {
    init_tracing_as(LogFormat::Text);
}

/// As [`init_tracing`], in a format of choice.
pub fn init_tracing_as(format: LogFormat) {
    let filter = std::env::var("AQUEDUCT_LOG").ok().filter(|filter| !filter.trim().is_empty());
    let filter = EnvFilter::builder().parse_lossy(filter.unwrap_or_else(|| "warn".into()));
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // An error says that a subscriber is there already, which is what the caller wants then.
    let _ = match format {
        LogFormat::Text => lines.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).try_init(),
        LogFormat::Json => lines.json().try_init(),
    };
}
