//! Graphs of operators as actors that pass Arrow batches through bounded mailboxes.

pub mod batch;
pub mod codec;
pub mod config;
pub mod error;
pub mod graph;
pub mod io;
pub mod memory;
pub mod operator;
pub mod sink;
pub mod source;
pub mod spill;
pub mod state;

pub use config::{ClusterConfig, parse_bytes};
pub use error::{ExecutionError, OperatorError, Place, PlanError, Result};
pub use graph::{Exchange, Graph, Input, NodeId, Partitions, ResultId};
pub use operator::{Map, Operator, OperatorContext, OperatorSpec, Outbox, Port, PortSet, Step};
pub use sink::{CloseStep, Receipt, Sink, SinkContext, SinkSpec, SinkStep};
pub use source::{Scan, ScanContext, Source, SourceContext, SourceSpec, SourceStep, Split};
