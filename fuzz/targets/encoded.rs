//! See `aqueduct_runtime::testing::hostile::encoded`.
#![no_main]

use aqueduct_runtime::testing::hostile;

libfuzzer_sys::fuzz_target!(|data: &[u8]| hostile::encoded(data));
