//! The book of Aqueduct: every block of code in it compiles and runs as a test.
//!
//! 1. [`first_graph`]: declare a graph, run it, read its result
//! 2. [`memory`]: what keeps a worker within its limit, and what does not count toward it
//! 3. [`operator`]: write an operator, with state that spills by itself, and test it
//! 4. [`source_and_sink`]: read from and write to something new
//! 5. [`failure`]: what happens when something goes wrong, in the words that you will see
//! 6. [`tables`]: frames, for those who come from Dask
//! 7. [`how_a_graph_runs`]: plan, stages, tasks, ports, wake-ups, order, hazards
//! 8. [`sql`]: queries, Parquet, the command line
//! 9. [`bounds`]: what each operator holds, what it spills, its floor
//! 10. [`simulator`]: testing an operator under every schedule, limit and fault that a seed can think of
//! 11. [`dashboard`]: the page, whose fault it is that a job is slow, `explain analyze`, Prometheus
//! 12. [`promises`]: what is promised, and the tests that guard it
//!
//! The chapters are the files beside this one, and can be read there as well.

#[doc = include_str!("first_graph.md")]
pub mod first_graph {}
#[doc = include_str!("memory.md")]
pub mod memory {}
#[doc = include_str!("operator.md")]
pub mod operator {}
#[doc = include_str!("source_and_sink.md")]
pub mod source_and_sink {}
#[doc = include_str!("failure.md")]
pub mod failure {}
#[doc = include_str!("tables.md")]
pub mod tables {}
#[doc = include_str!("how_a_graph_runs.md")]
pub mod how_a_graph_runs {}
#[doc = include_str!("sql.md")]
pub mod sql {}
#[doc = include_str!("bounds.md")]
pub mod bounds {}
#[doc = include_str!("simulator.md")]
pub mod simulator {}
#[doc = include_str!("dashboard.md")]
pub mod dashboard {}
#[doc = include_str!("promises.md")]
pub mod promises {}

/// The program in the README compiles too.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
pub mod readme {}
