//! See `csv::beside_arrow::hostile` in `operators/src`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| aqueduct_fuzz::csv(data));
