//! The CSV module of the operators by itself, for the fuzzer and for Miri: the rest of that crate needs DataFusion, which
//! neither has to see.
#![allow(dead_code, unreachable_pub, missing_docs, reason = "modules of other crates, of which a part is used here")]

#[path = "../../operators/src/csv/mod.rs"]
mod csv_files;
#[path = "../../operators/src/paths.rs"]
mod paths;
#[path = "../../operators/src/stamp.rs"]
mod stamp;
#[path = "../../operators/src/target.rs"]
mod target;

/// Any bytes as a CSV file.
#[cfg(fuzzing)]
pub fn csv(data: &[u8]) {
    csv_files::beside_arrow::hostile(data);
}
