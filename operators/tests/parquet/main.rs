//! Parquet files read and written, compared with what the `parquet` crate's own reader and other software make of them.

mod common;
mod damage;
mod golden;
mod jobs;
mod memory;
mod pruning;
mod random;
mod reading;
mod writing;
