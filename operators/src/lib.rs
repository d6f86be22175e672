//! Sources, transforms and sinks for `aqueduct-runtime`. They know no actor.

pub mod aggregate;
pub mod csv;
pub mod expression;
pub mod filter;
pub mod generate;
pub mod join;
pub mod limit;
pub mod memory;
pub mod parquet;
mod paths;
pub mod project;
pub mod sample;
pub mod sort;
mod stamp;
pub mod store;
mod target;
pub mod union;
pub mod unnest;
pub mod window;

pub use aggregate::{Aggregate, AggregateArguments, FinalAggregate, GroupingSets, PartialAggregate, SortedAggregate};
pub use expression::Expression;
pub use filter::Filter;
pub use generate::{Generator, range};
pub use join::{AsofDirection, AsofJoin, AwaitFilters, HashJoin, NestedLoopJoin, RuntimeFilter};
pub use limit::Limit;
pub use memory::{MemorySink, MemorySource};
pub use parquet::{ParquetOptions, ParquetSource};
pub use project::Project;
pub use sample::Sample;
pub use sort::{Merge, Sort, SortColumn};
pub use store::{Store, StoreSink, StoreSource};
pub use union::Union;
pub use unnest::Unnest;
pub use window::{LoweredWindowFunction, Window, WindowFunction};
