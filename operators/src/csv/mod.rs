//! CSV files: a source that reads them on all cores, and a sink that writes one.
//!
//! ```text
//! CsvSource ── scan ──> splits: byte ranges of files, in order
//!    │                     │
//!  options, infer          ├─ plain: read a range, agree on where its records begin (confirm, records)
//!  files                   ├─ stream: decode a .gz or .zst piece by piece
//!                          └─> index ─> column, number, text ─> batch
//!                                └── simd ──┘
//! ```

mod batch;
#[cfg(any(test, fuzzing))]
pub(crate) mod beside_arrow;
mod column;
mod confirm;
mod error;
mod files;
mod index;
mod infer;
mod number;
mod options;
mod plain;
mod reader;
mod records;
mod scan;
mod simd;
mod sink;
mod source;
mod stream;
mod text;

#[cfg(test)]
mod tests;

pub use error::CsvError;
pub use options::{CsvOptions, OnMismatch};
pub use sink::CsvSink;
pub use source::CsvSource;

pub(crate) use reader::poll;
