"""Writes the Parquet files of tests/parquet/golden.rs, each by other software, and the rows that they hold.

Run as `python parquet.py FOLDER` with pyarrow, polars and duckdb installed. `rows.txt` holds one line per row as
arrow's formatter prints it; it is made of the values themselves, not of the files.
"""

import datetime
import decimal
import sys

import duckdb
import polars
import pyarrow as pa
import pyarrow.parquet as pq

folder = sys.argv[1]
ROWS = 240


def maybe(i, step, value):
    return None if i % step == 1 else value


rows = [
    {
        "i": maybe(i, 7, i * 1_000_003 - 500),
        "f": maybe(i, 11, i * 0.25),
        "s": maybe(i, 5, "text " + "x" * (i % 30) + str(i)),
        "d": maybe(i, 13, datetime.date(2000, 1, 1) + datetime.timedelta(days=i * 17)),
        "t": maybe(i, 6, datetime.datetime(1969, 12, 31) + datetime.timedelta(seconds=i * 86_399)),
        "p": maybe(i, 8, decimal.Decimal(i * 12_345 - 99_999).scaleb(-2)),
        "b": maybe(i, 9, i % 3 == 0),
        "k": maybe(i, 10, ["red", "green", "blue"][i % 3]),
        "l": maybe(i, 4, [None if k == 2 else i + k for k in range(i % 6)]),
        "r": {"x": maybe(i, 3, i), "y": f"y{i}"},
    }
    for i in range(ROWS)
]

schema = pa.schema([
    ("i", pa.int64()),
    ("f", pa.float64()),
    ("s", pa.string()),
    ("d", pa.date32()),
    ("t", pa.timestamp("us")),
    ("p", pa.decimal128(12, 2)),
    ("b", pa.bool_()),
    ("k", pa.string()),
    ("l", pa.list_(pa.int64())),
    ("r", pa.struct([("x", pa.int64()), ("y", pa.string())])),
])
data = pa.Table.from_pylist(rows, schema)


def text(value):
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return "[" + ", ".join(map(text, value)) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {text(part)}" for name, part in value.items()) + "}"
    if isinstance(value, (datetime.date, datetime.datetime)):
        return value.isoformat()
    return str(value)


with open(f"{folder}/rows.txt", "w") as out:
    for row in rows:
        out.write("|".join(text(row[name]) for name in schema.names) + "\n")

small = {"data_page_size": 256, "write_batch_size": 16, "row_group_size": 100}
pq.write_table(data, f"{folder}/pyarrow-1.parquet", data_page_version="1.0", compression="snappy", **small)
pq.write_table(data, f"{folder}/pyarrow-2.parquet", data_page_version="2.0", compression="zstd", **small)
pq.write_table(
    data, f"{folder}/pyarrow-index.parquet", write_page_index=True, use_dictionary=False, compression="gzip", **small
)
pq.write_table(
    data,
    f"{folder}/pyarrow-delta.parquet",
    use_dictionary=False,
    column_encoding={
        "i": "DELTA_BINARY_PACKED",
        "f": "BYTE_STREAM_SPLIT",
        "s": "DELTA_BYTE_ARRAY",
        "k": "DELTA_LENGTH_BYTE_ARRAY",
        "p": "PLAIN",
    },
    compression="lz4",
    **small,
)
categories = data.set_column(7, "k", data["k"].dictionary_encode())
pq.write_table(categories, f"{folder}/pyarrow-dictionary.parquet", compression="none", **small)
pq.write_table(data.select(["i", "s"]), f"{folder}/pyarrow-brotli.parquet", compression={"i": "snappy", "s": "brotli"})
polars.from_arrow(data).write_parquet(f"{folder}/polars.parquet", row_group_size=100, data_page_size=512)
duckdb.sql("copy (select * from data) to '{}/duckdb.parquet' (row_group_size 2048)".format(folder))
