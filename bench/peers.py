"""Runs one question on one engine, once.

usage: peers.py ENGINE WORKLOAD DIR [--threads 2] [--memory-limit BYTES] [--scale 1] [--aqueduct BINARY]

Prints one JSON line: seconds from opening the files to the collected result (imports and a cluster's start are left out),
rows, checks (a number for each column: sums of numbers and dates, lengths of texts), the places of decimals, whether the
rows are in order where that matters, the largest resident set, and what else the engine reports. An engine is a generator: set up, yield, run, yield
an Arrow table and its report. Aqueduct is its command line, a process of its own, whose result is a file of Arrow batches.
"""
import argparse
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time

import workloads


def aqueduct(options, files, sql):
    folder = tempfile.TemporaryDirectory()
    out, stats = os.path.join(folder.name, "out.arrow"), os.path.join(folder.name, "stats.json")
    command = [options.aqueduct, "sql", "--quiet", "--workers", str(options.threads), "--threads-per-worker", "1",
               "--output", out, "--stats", stats]
    # Ours is a limit of each worker.
    command += ["--memory-limit", str(options.memory_limit // options.threads)] if options.memory_limit else []
    for name, path in files.items():
        command += ["--table", f"{name}={path}"]
    yield
    done = subprocess.run([*command, sql], stderr=subprocess.PIPE, text=True)
    if done.returncode:
        floor = re.search(r"hint: --memory-limit (\d+)MB", done.stderr)
        if done.returncode == 4 and floor:
            raise TooLittle(int(floor[1]) * 1_000_000 * options.threads)
        raise RuntimeError(f"exit status {done.returncode}: {done.stderr.strip()[-300:]}")
    with open(stats) as file:
        report = json.load(file)
    kept = ("seconds", "write_seconds", "peak_bytes", "spilled_bytes", "spooled_bytes")
    import pyarrow

    # Not read before the memory of the process that wrote it is measured.
    with pyarrow.memory_map(out) as mapped:
        # What is mapped stays until it is closed; who is killed, or leaves in a hurry, leaves no file behind.
        folder.cleanup()
        yield pyarrow.ipc.open_file(mapped).read_all(), {name: report[name] for name in kept}


class TooLittle(Exception):
    """The limit is below what the plan needs; the argument is what would do, for all threads together."""


def duckdb(options, files, sql):
    import duckdb

    config = {"threads": options.threads, "temp_directory": tempfile.gettempdir() + "/duckdb_spill"}
    if options.memory_limit:
        config["memory_limit"] = f"{options.memory_limit}B"
    connection = duckdb.connect(config=config)
    yield
    for name, path in files.items():
        connection.sql(f"create view {name} as select * from '{path}'")
    yield connection.sql(sql).to_arrow_table(), {}


def polars(options, files, sql):
    os.environ["POLARS_MAX_THREADS"] = str(options.threads)
    import polars

    yield
    scan = {name: (polars.scan_csv if path.endswith(".csv") else polars.scan_parquet)(path) for name, path in files.items()}
    yield polars.SQLContext(scan).execute(sql).collect(engine="streaming").to_arrow(), {}


def datafusion(options, files, sql):
    import datafusion
    import pyarrow

    runtime = datafusion.RuntimeEnvBuilder().with_disk_manager_os()
    if options.memory_limit:
        runtime = runtime.with_fair_spill_pool(options.memory_limit)
    config = datafusion.SessionConfig().with_target_partitions(options.threads)
    context = datafusion.SessionContext(config, runtime)
    yield
    for name, path in files.items():
        (context.register_csv if path.endswith(".csv") else context.register_parquet)(name, path)
    yield pyarrow.table(context.sql(sql)), {}


def dask(options, files, sql):
    import dask.dataframe
    import pandas
    import pyarrow
    from dask.distributed import Client

    limit = {"memory_limit": options.memory_limit // options.threads} if options.memory_limit else {}
    client = Client(n_workers=options.threads, threads_per_worker=1, dashboard_address=None, **limit)
    client.run(lambda: __import__("dask.dataframe"))
    yield
    table = dask.dataframe.read_csv(files["t"])
    if options.workload == "category_means":
        means = table.groupby("category")["value"].mean()
        result = means[means > 500].compute().reset_index()
    else:
        means = table.groupby("name")["value"].mean(split_out=8).persist()
        result = pandas.DataFrame({"n": [means.count().compute()], "s": [means.sum().compute()]})
    peaks = client.run(lambda: __import__("resource").getrusage(0).ru_maxrss * 1024)
    yield pyarrow.Table.from_pandas(result), {"rss_bytes": sum(peaks.values())}


ENGINES = {"aqueduct": aqueduct, "duckdb": duckdb, "polars": polars, "datafusion": datafusion, "dask": dask}


def check(column):
    """A number that two columns share if they hold the same values, in whatever order and type."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = column.type
    if pa.types.is_dictionary(kind):
        column, kind = column.cast(kind.value_type), kind.value_type
    if pa.types.is_date(kind) or pa.types.is_timestamp(kind):
        column = column.cast(pa.timestamp("s")).cast(pa.int64())
    elif pa.types.is_string_view(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind):
        column = pc.utf8_length(column.cast(pa.large_string()))
    elif pa.types.is_null(kind):
        return 0.0
    return float(pc.sum(column.cast(pa.float64())).as_py() or 0)


def in_order(table, keys):
    """Whether each row is not before its predecessor in `keys`."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if table.num_rows < 2:
        return True
    tied, wrong = True, False
    for key in keys:
        column = table.column(key)
        if pa.types.is_string_view(column.type):
            # It has no kernels that compare.
            column = column.cast(pa.large_string())
        before, after = column.slice(0, len(column) - 1), column.slice(1)
        wrong = pc.or_(wrong, pc.and_(tied, pc.greater(before, after)))
        tied = pc.and_(tied, pc.equal(before, after))
    return not pc.any(wrong).as_py()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engine", choices=ENGINES)
    parser.add_argument("workload")
    parser.add_argument("dir")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--memory-limit", type=int)
    parser.add_argument("--rows", type=int, default=50_000_000)
    parser.add_argument("--keys", type=int, default=6_000_000)
    parser.add_argument("--bench-rows", type=int, default=10_000_000)
    parser.add_argument("--scale", default="1")
    parser.add_argument("--aqueduct", default="target/release/aqueduct")
    options = parser.parse_args()
    name = options.workload
    files = workloads.files(name, options.dir, options.rows, options.keys, options.bench_rows, options.scale)
    run = ENGINES[options.engine](options, files, workloads.sql(name))
    next(run)
    start = time.perf_counter()
    try:
        result, report = next(run)
    except TooLittle as floor:
        print(json.dumps({"floor_bytes": floor.args[0]}), flush=True)
        os._exit(0)
    except Exception as error:
        # The last line of standard error is what the comparison shows.
        print(" ".join(f"{type(error).__name__}: {error}".split()), file=sys.stderr, flush=True)
        os._exit(1)
    seconds = time.perf_counter() - start
    # Of ours it is the process that was waited for; checking the result is nobody's.
    whose = resource.RUSAGE_CHILDREN if options.engine == "aqueduct" else resource.RUSAGE_SELF
    line = {
        "seconds": seconds,
        "rss_bytes": resource.getrusage(whose).ru_maxrss * 1024,
        "rows": result.num_rows,
        "checks": [check(column) for column in result.columns],
        "places": [getattr(column.type, "scale", None) or None for column in result.columns],
        "in_order": in_order(result, workloads.ORDER.get(name, [])),
        **report,
    }
    print(json.dumps(line), flush=True)
    # A cluster that is being closed prints, and takes a while.
    os._exit(0)


if __name__ == "__main__":
    main()
