//! See `dashboard/tests/serving/bytes.rs`.
#![no_main]

#[path = "../../dashboard/tests/serving/bytes.rs"]
mod bytes;

libfuzzer_sys::fuzz_target!(|data: &[u8]| bytes::requests(data));

/// The names of a route's parameters stay for ever, and say so where they are made: once for a page that is served.
#[unsafe(no_mangle)]
pub extern "C" fn __lsan_default_suppressions() -> *const std::ffi::c_char {
    c"leak:actix_router::resource::ResourceDef".as_ptr()
}
