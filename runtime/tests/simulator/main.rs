//! Graphs in the simulator: every seed must end right, whatever the schedule, the limits and the faults.
//!
//! `AQUEDUCT_SEEDS=10000 cargo nextest run -p aqueduct-runtime --test simulator` tries more of them, and
//! `AQUEDUCT_SEED=17` with the name of a test replays one.

mod operators;
mod pipelines;
mod random_graphs;
