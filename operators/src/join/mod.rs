//! Joins: [`HashJoin`] by equal keys, [`NestedLoopJoin`] by any condition. Either holds one of its inputs, the build
//! side, and streams the other, the probe side, past it. [`AsofJoin`] by the nearest time holds neither: both are sorted.
//!
//! ```text
//! build side ─▶ buckets by hash ─▶ tables in memory ◀─ probe side ─▶ pairs ─▶ filter ─▶ output
//!                     │                                    │
//!                     └─▶ disk ◀── rows of those buckets ──┘   joined afterwards, spread further or block by block
//! ```
//!
//! Memory is bounded whatever the keys are: a bucket that one key fills is joined in blocks of as many rows as fit.

mod asof;
mod blocks;
mod build_rows;
mod cursor;
mod flags;
mod gather;
mod hash_join;
mod home;
mod instance;
mod keys;
mod level;
mod making;
mod nested_loop_join;
mod runtime_filter;
mod shape;
mod spec;
mod staging;
mod table;
#[cfg(test)]
mod tests;

pub use asof::{AsofDirection, AsofJoin};
pub use hash_join::HashJoin;
pub use nested_loop_join::NestedLoopJoin;
pub use runtime_filter::{AwaitFilters, RuntimeFilter};
