//! The command line of Aqueduct.

fn main() {}
