//! Whole clusters to which everything happens that can: failures at every point, kills, full disks, no descriptors,
//! folders and files that change under a job.
//!
//! Whatever happens, a job ends in time, with the right rows or with one clear error, leaves nothing, and the next runs.

mod descriptors;
mod disks;
mod failpoints;
mod killed;
mod soak;
mod sources;
