"""Runs one workload on another engine, once, in this process.

usage: peers.py ENGINE WORKLOAD FILE [--threads 2] [--memory-limit BYTES]

Prints one JSON line: seconds from opening the file to the collected result (imports and a cluster's start are left
out), its rows, the sum of its last column, and, of an engine in several processes, their largest resident sets together.
An engine is a generator: set up, yield, run, yield an Arrow table and whatever else it reports.
"""
import argparse
import json
import os
import tempfile
import time

SQL = {
    "category_means": "select category, avg(value) m from t group by category having avg(value) > 500",
    "distinct_keys": "select count(*) n, sum(m) s from (select name, avg(value) m from t group by name) g",
}


def duckdb(options):
    import duckdb

    config = {"threads": options.threads, "temp_directory": tempfile.gettempdir() + "/duckdb_spill"}
    if options.memory_limit:
        config["memory_limit"] = f"{options.memory_limit}B"
    connection = duckdb.connect(config=config)
    yield
    connection.sql(f"create view t as select * from read_csv('{options.file}')")
    yield connection.sql(SQL[options.workload]).to_arrow_table(), {}


def polars(options):
    os.environ["POLARS_MAX_THREADS"] = str(options.threads)
    import polars

    yield
    context = polars.SQLContext({"t": polars.scan_csv(options.file)})
    yield context.execute(SQL[options.workload]).collect(engine="streaming").to_arrow(), {}


def datafusion(options):
    import datafusion
    import pyarrow

    runtime = datafusion.RuntimeEnvBuilder().with_disk_manager_os()
    if options.memory_limit:
        runtime = runtime.with_fair_spill_pool(options.memory_limit)
    config = datafusion.SessionConfig().with_target_partitions(options.threads)
    context = datafusion.SessionContext(config, runtime)
    yield
    context.register_csv("t", options.file)
    yield pyarrow.table(context.sql(SQL[options.workload])), {}


def dask(options):
    import dask.dataframe
    import pandas
    import pyarrow
    from dask.distributed import Client

    limit = {"memory_limit": options.memory_limit // options.threads} if options.memory_limit else {}
    client = Client(n_workers=options.threads, threads_per_worker=1, dashboard_address=None, **limit)
    client.run(lambda: __import__("dask.dataframe"))
    yield
    table = dask.dataframe.read_csv(options.file)
    if options.workload == "category_means":
        means = table.groupby("category")["value"].mean()
        result = means[means > 500].compute().reset_index()
    else:
        means = table.groupby("name")["value"].mean(split_out=8).persist()
        result = pandas.DataFrame({"n": [means.count().compute()], "s": [means.sum().compute()]})
    peaks = client.run(lambda: __import__("resource").getrusage(0).ru_maxrss * 1024)
    yield pyarrow.Table.from_pandas(result), {"rss_bytes": sum(peaks.values())}


ENGINES = {"duckdb": duckdb, "polars": polars, "datafusion": datafusion, "dask": dask}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engine", choices=ENGINES)
    parser.add_argument("workload", choices=SQL)
    parser.add_argument("file")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--memory-limit", type=int)
    options = parser.parse_args()
    run = ENGINES[options.engine](options)
    next(run)
    start = time.perf_counter()
    result, more = next(run)
    seconds = time.perf_counter() - start
    check = sum(result.column(result.num_columns - 1).to_pylist())
    print(json.dumps({"seconds": seconds, "rows": result.num_rows, "check": check, **more}), flush=True)
    # A cluster that is being closed prints, and takes a while.
    os._exit(0)


if __name__ == "__main__":
    main()
