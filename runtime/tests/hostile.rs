//! What the fuzz targets of this crate began with, what they have found since, and what chance makes of it.

use aqueduct_runtime::testing::hostile::{self, replay};

#[test]
fn damaged_spill_files_are_errors() {
    replay("spill_file", hostile::spill_file);
}

#[test]
fn what_is_decoded_can_be_encoded() {
    replay("encoded", hostile::encoded);
}

#[test]
fn sizes_are_positive_or_errors() {
    replay("sizes", hostile::sizes);
}
