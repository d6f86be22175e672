//! Graphs of operators as actors that pass Arrow batches through bounded mailboxes.
//!
//! Reading order: [`graph`] (what is declared), [`operator`], [`source`], [`sink`] (what users implement),
//! [`plan`] (the graph expanded to partitions), `task` (one fused chain as a state machine), `mailbox` and
//! `exchange` (how batches travel), [`memory`] and [`spill`] (how they stay within the limit), [`state`]
//! (containers that spill by themselves), `actor`, [`cluster`] and [`job`] (how it runs), [`metrics`] and [`observe`]
//! (what it shows of itself).

pub mod allocator;
pub mod batch;
pub mod cluster;
pub mod codec;
pub mod config;
pub mod error;
pub mod graph;
pub mod io;
pub mod job;
pub mod memory;
pub mod metrics;
pub mod observe;
pub mod operator;
pub mod plan;
pub mod result;
pub mod sink;
pub mod source;
pub mod spill;
pub mod state;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

mod actor;
mod build;
mod exchange;
#[cfg(feature = "failpoints")]
pub mod failpoint;
#[cfg(not(feature = "failpoints"))]
mod failpoint;
mod mailbox;
#[cfg(all(test, any(feature = "loom", feature = "shuttle")))]
mod models;
mod planted;
mod resident;
mod sync;
mod task;
mod watchdog;

pub use cluster::Cluster;
pub use config::{ClusterConfig, format_bytes, parse_bytes};
pub use error::{ExecutionError, OperatorError, Place, PlanError, Result};
pub use graph::{Exchange, Graph, Input, NodeId, Partitions, ResultId};
pub use job::{Job, JobMonitor, JobSummary};
pub use observe::Observer;
pub use operator::{Map, Operator, OperatorContext, OperatorSpec, Outbox, Port, PortSet, Step};
pub use plan::Plan;
pub use result::ResultStream;
pub use sink::{CloseStep, Receipt, Sink, SinkContext, SinkSpec, SinkStep};
pub use source::{Scan, ScanContext, Source, SourceContext, SourceSpec, SourceStep, Split};
