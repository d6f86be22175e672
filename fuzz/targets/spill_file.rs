//! See `aqueduct_runtime::testing::hostile::spill_file`.
#![no_main]

use aqueduct_runtime::testing::hostile;

libfuzzer_sys::fuzz_target!(|data: &[u8]| hostile::spill_file(data));
