//! Sources, transforms and sinks for aqueduct-runtime.

pub mod csv;
