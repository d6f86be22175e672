//! Random queries over random tables, whose answers DataFusion's own executor gives, too.
//!
//! ```text
//! number ─▶ Case: tables and steps, a tree that proptest shrinks
//!             └▶ Query: SQL of common table expressions, so any dataflow without cycles
//!                  ├▶ our planner ─▶ simulator, or clusters at the smallest limit ─┐
//!                  └▶ DataFusion in memory, without limits ───────────────────────┴▶ the same rows?
//! ```
//!
//! A query never asks for what SQL leaves open: rows at a limit are ordered by all of their columns, and a column whose
//! values depend on the order of its input, such as a sum of floats, is nobody's key.

pub mod answer;
pub mod case;
pub mod clusters;
pub mod data;
mod draws;
pub mod query;
pub mod search;
pub mod simulated;

pub use answer::{Oracle, Unanswered};
pub use case::Case;
pub use data::Table;
pub use query::Query;
