//! See `tests/sql/bytes.rs`.
#![no_main]

#[path = "../../tests/sql/bytes.rs"]
mod bytes;

libfuzzer_sys::fuzz_target!(|data: &[u8]| bytes::sql(data));
