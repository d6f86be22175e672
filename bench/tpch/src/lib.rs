//! TPC-H for tests, examples and benchmarks: the tables, the queries, and the answers that DuckDB gave.
//!
//! The tables come from the `tpchgen` crates, whose rows are those of the official generator. The queries are the
//! TPC's own text with its validation parameters. Nothing here runs a query.

pub mod answer;
mod queries;
mod tables;

pub use answer::Answer;
pub use queries::{QUERIES, Query};
pub use tables::{MakeError, Table, write_parquet};
