//! See `dashboard/tests/serving/bytes.rs`.
#![no_main]

#[path = "../../dashboard/tests/serving/bytes.rs"]
mod bytes;

libfuzzer_sys::fuzz_target!(|data: &[u8]| bytes::requests(data));
