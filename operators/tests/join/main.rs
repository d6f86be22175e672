//! Whole jobs with joins, over 1, 2 and 8 partitions and in little memory, compared with DuckDB's answers
//! (`golden/make.py`).

mod asof;
mod common;
mod equal;
