//! How Parquet files are read.

/// How Parquet files are read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParquetOptions {
    /// Whether statistics, page index and bloom filters are used to leave out what a predicate rules out. The rows
    /// are the same either way.
    pub prune: bool,
}

impl Default for ParquetOptions {
    fn default() -> Self {
        Self { prune: true }
    }
}
