//! Parquet files: a source that reads them page by page on all cores, and a sink that writes one.
//!
//! ```text
//! ParquetSource ── scan ──> splits: row groups, or ranges of rows of a large one, in order
//!    │                         │
//!  files, footers              ├─ group: which rows of it are read (prune: statistics, page index, bloom filters)
//!  sizes                       ├─ load: pages of the columns, on I/O threads (lane, header)
//!                              └─> rows: pages ──> predicate columns ──> mask (predicate) ──> the other columns ──> batch
//! ```

mod bounds;
mod error;
mod files;
mod group;
mod header;
mod instance;
mod lane;
mod load;
mod options;
mod pot;
mod predicate;
mod prune;
mod reading;
mod rows;
mod scan;
mod schema;
mod sink;
mod sizes;
mod source;
mod statistics;

pub use error::ParquetFileError;
pub use options::ParquetOptions;
pub use scan::ReadCounts;
pub use sink::{ParquetCompression, ParquetSink, ParquetSinkOptions};
pub use source::ParquetSource;
pub use statistics::{ColumnStatistics, TableStatistics};
