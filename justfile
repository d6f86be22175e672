# The recipes of this repository. `just check` is what CI runs.

export CARGO_TARGET_DIR := env("CARGO_TARGET_DIR", justfile_directory() / "target")

# Shows the recipes.
default:
    @just --list

# Everything that must pass before a change goes in.
check:
    .ci/run

# One step of the check: fmt, clippy, docs, doctests, deny, models or tests.
step +names:
    .ci/run {{ names }}

# The tests whose name matches, such as `just test mailbox`.
test *filter:
    cargo nextest run --workspace {{ filter }}

# What threads share, under every schedule that loom and shuttle know: runtime/src/models.
models *filter:
    cargo nextest run -p aqueduct-runtime --lib --features loom models:: {{ filter }}
    cargo nextest run -p aqueduct-runtime --lib --features shuttle models:: {{ filter }}

# A fuzz target for so many seconds: fuzz/README.md.
fuzz target seconds="300":
    cargo +nightly fuzz run {{ target }} --features "{{ if target =~ "^(sql|requests)$" { target } else { "" } }}" -- -max_total_time={{ seconds }} -max_len=4096 -timeout=30

# What is unsafe, in Miri, which is a component of a nightly compiler: rustup component add miri rust-src --toolchain nightly
miri:
    fuzz/miri

# Formats all code.
fmt:
    cargo fmt --all

# All that cargo-deny checks, security advisories over the network included.
advisories:
    cargo deny check

# The book and the API, in a browser.
book:
    cargo doc --workspace --no-deps --open

# Costs of a hop, a permit, an empty graph, a cluster's start.
bench *filter:
    cargo bench -p aqueduct-bench -- {{ filter }}

# The main query beside DuckDB, Polars, DataFusion and Dask: `just compare /tmp/data`.
compare dir *options:
    python3 bench/compare.py {{ dir }} {{ options }}

# A pipeline of the `examples` folder.
example name *arguments:
    cargo run --release --example {{ name }} -- {{ arguments }}
