//! Hash aggregation in two halves: [`PartialAggregate`] before an exchange by the group columns, [`FinalAggregate`]
//! behind it. Both are made from one [`Aggregate`]. Functions that hold all values of a group, such as a median,
//! are computed of sorted rows instead, by [`SortedAggregate`].
//!
//! ```text
//! rows ─▶ PartialAggregate ─▶ keys and states ─▶ exchange ─▶ FinalAggregate ─▶ keys and results
//!           small table,                                        tables in buckets,
//!           never spills                                        spilled by bucket
//! ```

mod buckets;
mod describe;
mod final_aggregate;
mod grouping_sets;
mod keys;
mod order_key;
mod partial_aggregate;
mod per_group;
mod sorted;
mod table;
#[cfg(test)]
mod tests;

pub(crate) use buckets::own;
pub use describe::Aggregate;
pub(crate) use describe::normalised;
pub use final_aggregate::FinalAggregate;
pub use grouping_sets::GroupingSets;
pub(crate) use keys::{GroupKeys, WithKeys, doubling, with_keys};
pub use partial_aggregate::PartialAggregate;
pub use sorted::{AggregateArguments, SortedAggregate};
