//! Aqueduct: dataflow over Arrow batches, through actors, within a memory limit.
//!
//! A cluster of workers runs in the program's own process. Tables are lazy frames: nothing is read until
//! rows are asked for, and then every core works on it, and no worker holds more than its limit.
//!
//! ```
//! use aqueduct::prelude::*;
//! # fn main() -> aqueduct::Result<()> {
//! # let folder = tempfile::tempdir().expect("a folder");
//! # let path = folder.path().join("trips.csv");
//! # std::fs::write(&path, "city,fare\nOslo,10\nRome,3\nOslo,20\n").expect("a file");
//! let cluster = LocalCluster::builder().workers(2).memory_limit("64MB").start()?;
//! let trips = cluster.read_csv(&path)?;
//! let dear = trips.group_by("city").mean("fare").filter(col("fare").gt(lit(5.0)));
//! println!("{}", dear.explain()?);
//! let answer = dear.compute()?;
//! assert_eq!(answer.strings("city")?, [Some("Oslo".to_string())]);
//! assert_eq!(answer.f64s("fare")?, [Some(15.0)]);
//! # Ok(())
//! # }
//! ```
//!
//! Where tables are not enough, a [`Graph`] of one's own operators runs on the same cluster: see
//! [`runtime`] for the traits and [`operators`] for those that are there.

mod cluster;
mod error;
mod expr;
mod frame;
mod lengths;
mod optimize;
mod planner;
mod progress;
mod recursive;
#[cfg(feature = "dashboard")]
mod report;
mod run;
mod sql;
mod stack;
mod table;
mod trace;
mod widen;

#[cfg(feature = "dashboard")]
pub use aqueduct_dashboard as dashboard;
pub use aqueduct_operators as operators;
pub use aqueduct_operators::csv::{CsvOptions, OnMismatch};
pub use aqueduct_operators::parquet::{ParquetCompression, ParquetOptions, ParquetSinkOptions};
pub use aqueduct_runtime as runtime;
pub use aqueduct_runtime::Graph;
pub use arrow;

pub use cluster::{LocalCluster, LocalClusterBuilder};
pub use datafusion_common::JoinType;
pub use error::{Error, Result};
pub use expr::{IntoExpr, IntoExprs, col, count_rows, cube, grouping_sets, mean, rollup};
pub use frame::{AsOf, Frame, GroupBy, IntoSortKey, IntoSortKeys, Over, asc, desc};
pub use progress::{JobProgress, ProgressFormat};
#[cfg(feature = "dashboard")]
pub use report::PerformanceReport;
pub use run::FrameStream;
pub use sql::Place;
pub use table::Table;
pub use trace::{LogFormat, init_tracing, init_tracing_as, init_tracing_without_job_errors};
pub use widen::Widening;

/// Functions of expressions: everything that DataFusion's libraries of scalar, nested, aggregate and window functions
/// offer.
pub mod functions {
    pub use datafusion_functions::expr_fn::*;
    pub use datafusion_functions_aggregate::expr_fn::*;
    pub use datafusion_functions_nested::expr_fn::*;
    pub use datafusion_functions_window::expr_fn::{
        cume_dist, dense_rank, lag, lead, ntile, percent_rank, rank, row_number,
    };
}

/// What most programs need: `use aqueduct::prelude::*`.
pub mod prelude {
    pub use datafusion_expr::{Expr, ExprFunctionExt, case, cast, in_list, lit, not, try_cast, when};
    pub use datafusion_functions_aggregate::expr_fn::{
        avg, count, count_distinct, first_value, last_value, max, median, min, stddev, sum, var_sample,
    };

    pub use crate::{
        AsOf, CsvOptions, Error, Frame, FrameStream, Graph, GroupBy, JoinType, LocalCluster, OnMismatch, Over, Table,
        asc, col, count_rows, desc, mean,
    };
}
