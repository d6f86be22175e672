//! Benchmarks of Aqueduct: `benches/overhead.rs` measures it alone, `compare.py` beside other engines.
//!
//! `bench_query` is the binary that the comparison runs. `cgroup.sh` runs any command within a memory cgroup.
