//! Test doubles: sources, operators and sinks that stall, fail or count on request, and a harness that calls
//! them without actors.
//!
//! Nothing here sleeps. What has to wait waits for a [`Gate`] that the test opens, or for a condition with a
//! deadline ([`eventually`]).
//!
//! ```
//! use aqueduct_runtime::testing::{EvenOdd, context, drive_outputs, numbers};
//! use aqueduct_runtime::OperatorSpec;
//!
//! # fn main() -> aqueduct_runtime::Result<()> {
//! let input = numbers(0..10);
//! let mut operator = EvenOdd.instantiate(context().operator(&[input.schema()]))?;
//! let outputs = drive_outputs(operator.as_mut(), [vec![input]])?;
//! assert_eq!(outputs.iter().map(|(output, batch)| (*output, batch.num_rows())).collect::<Vec<_>>(), [(0, 5), (1, 5)]);
//! # Ok(())
//! # }
//! ```

mod counting;
mod failing;
mod fork;
mod gate;
mod harness;
pub mod hostile;
mod leaks;
mod lone_port;
mod reclaim;
mod simulator;
mod sinks;
mod sources;
mod stalled;
mod two_inputs;

pub use counting::counting_cost;
pub use failing::{FailingOperator, Failure, Moment, SlowOperator};
pub use fork::EvenOdd;
pub use gate::Gate;
pub use harness::{Context, context, drive, drive_outputs, drive_sink, drive_source};
pub use leaks::{assert_no_threads_left, assert_within_limit, eventually, our_threads, over_limit};
pub use lone_port::LonePort;
pub use reclaim::ForcedReclaim;
pub use simulator::{Counterexample, Report, Run, Simulation, simulate};
pub use sinks::{CountingSink, SinkMoment, Written};
pub use sources::{EndlessSource, NumbersSource, Produced, number_schema, numbers};
pub use stalled::{SourceMoment, StalledSource};
pub use two_inputs::{BuildThenProbe, Concatenate};
