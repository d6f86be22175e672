//! Sources, transforms and sinks for `aqueduct-runtime`. They know no actor.

pub mod aggregate;
pub mod csv;
pub mod expression;
pub mod filter;
pub mod generate;
pub mod limit;
pub mod memory;
pub mod project;
pub mod sample;
pub mod sort;
pub mod union;
pub mod unnest;

pub use aggregate::{Aggregate, AggregateArguments, FinalAggregate, PartialAggregate, SortedAggregate};
pub use expression::Expression;
pub use filter::Filter;
pub use generate::{Generator, range};
pub use limit::Limit;
pub use memory::{MemorySink, MemorySource};
pub use project::Project;
pub use sample::Sample;
pub use sort::{Merge, Sort, SortColumn};
pub use union::Union;
pub use unnest::Unnest;
