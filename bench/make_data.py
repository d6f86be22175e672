"""Makes the CSV files that the comparison reads, where they are not there yet.

usage: make_data.py DIR [--rows 1000000,50000000] [--keys 6000000]

rows_N.csv: id 0.., category cat_{i % 100}, value float i % 1000 (50,000,000 rows: 1.08 GB)
keys_N.csv: name_{i} and a value, each key once, in random order (6,000,000 keys: 106 MB)
"""
import argparse
import os

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as csv

PLAIN = {"quoting_style": "none"}


def rows(out, count):
    categories = pa.array([f"cat_{i}" for i in range(100)])
    for start in range(0, count, 5_000_000):
        i = np.arange(start, min(start + 5_000_000, count))
        # Floats as pandas writes them, 12.0 and not 12.
        value = pc.binary_join_element_wise(pc.cast(pa.array(i % 1000), pa.string()), "0", ".")
        table = pa.table({"id": i, "category": categories.take(pa.array(i % 100)), "value": value})
        csv.write_csv(table, out, csv.WriteOptions(include_header=start == 0, **PLAIN))


def keys(out, count):
    i = np.random.default_rng(1).permutation(count)
    names = pc.binary_join_element_wise("name", pc.cast(pa.array(i), pa.string()), "_")
    csv.write_csv(pa.table({"name": names, "value": i % 1000 / 2}), out, csv.WriteOptions(**PLAIN))


def make(path, write, count):
    if os.path.exists(path):
        return
    # A file that is there is whole.
    with open(path + ".part", "wb") as out:
        write(out, count)
    os.rename(path + ".part", path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dir")
    parser.add_argument("--rows", default="1000000,50000000")
    parser.add_argument("--keys", default="6000000")
    options = parser.parse_args()
    os.makedirs(options.dir, exist_ok=True)
    for name, write, counts in (("rows", rows, options.rows), ("keys", keys, options.keys)):
        for count in filter(None, counts.split(",")):
            make(os.path.join(options.dir, f"{name}_{int(count)}.csv"), write, int(count))


if __name__ == "__main__":
    main()
