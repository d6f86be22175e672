"""Makes the answers to the 22 queries of TPC-H, with DuckDB: what tests compare ours with.

usage: python -m venv V && V/bin/pip install duckdb==2.0.0 tpchgen-cli==4.0.0 && V/bin/python bench/tpch_answers.py [SCALE]...

For each scale factor (0.01 and 1 unless given) it makes the tables in a temporary folder, and writes
tests/golden/tpch/SCALE/qN.csv: names of the columns, DuckDB's types of them, then all rows of the answer. Text is in
quotes, so that a null, which is not, differs from an empty text. The tables are those of the `tpchgen` crates, which
tests use: the tool and the crates are one project, and bench/tpch_same.py shows that their rows are the same.
"""
import os
import subprocess
import sys
import tempfile

import duckdb

HERE = os.path.dirname(os.path.abspath(__file__))
GOLDEN = os.path.join(os.path.dirname(HERE), "tests", "golden", "tpch")
TABLES = "region nation supplier customer part partsupp orders lineitem".split()


def cell(value):
    """A value as tests read it: text in quotes, floats so that they round-trip."""
    if value is None:
        return ""
    if isinstance(value, str):
        return '"' + value.replace('"', '""') + '"'
    return repr(value) if isinstance(value, float) else str(value)


def answer(connection, query, path):
    result = connection.sql(query)
    rows = result.fetchall()
    with open(path, "w") as out:
        out.write(",".join(cell(name) for name in result.columns) + "\n")
        out.write(",".join(cell(str(kind)) for kind in result.types) + "\n")
        out.writelines(",".join(map(cell, row)) + "\n" for row in rows)
    return len(rows)


def main():
    for scale in sys.argv[1:] or ["0.01", "1"]:
        folder = os.path.join(GOLDEN, scale)
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryDirectory() as data:
            tool = os.path.join(os.path.dirname(sys.executable), "tpchgen-cli")
            subprocess.run([tool, "parquet", "-s", scale, "--output-dir", data], check=True)
            connection = duckdb.connect()
            for table in TABLES:
                connection.sql(f"create view {table} as select * from '{data}/{table}.parquet'")
            for number in range(1, 23):
                query = open(os.path.join(HERE, "tpch", "queries", f"q{number}.sql")).read()
                rows = answer(connection, query, os.path.join(folder, f"q{number}.csv"))
                print(f"scale {scale}, query {number}: {rows} rows")


if __name__ == "__main__":
    main()
