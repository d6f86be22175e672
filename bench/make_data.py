"""Makes the files that the comparison reads, where they are not there yet. (Those of TPC-H: the binary `tpch_data`.)

usage: make_data.py DIR [--rows 1000000,50000000] [--keys 6000000] [--bench 10000000]

rows_N.csv: id 0.., category cat_{i % 100}, value float i % 1000 (50,000,000 rows: 1.08 GB)
keys_N.csv: name_{i} and a value, each key once, in random order (6,000,000 keys: 106 MB)
group_N.parquet, join_N/*.parquet: the tables of the db-benchmark, with 100 keys a column of few (10,000,000: 500 MB)
"""
import argparse
import os

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as csv
import pyarrow.parquet as pq

PLAIN = {"quoting_style": "none"}
SEED = 108


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


def group(out, count):
    """Three text keys and three integer keys, of few, few and many values each, and three values."""
    random, few = np.random.default_rng(SEED), 100
    many = count // few

    def text(values, spelling):
        return pa.array([spelling % value for value in range(1, values + 1)]).take(pa.array(random.integers(0, values, count)))

    pq.write_table(pa.table({
        "id1": text(few, "id%03d"), "id2": text(few, "id%03d"), "id3": text(many, "id%010d"),
        "id4": random.integers(1, few + 1, count), "id5": random.integers(1, few + 1, count),
        "id6": random.integers(1, many + 1, count), "v1": random.integers(1, 6, count), "v2": random.integers(1, 16, count),
        "v3": np.round(random.uniform(0, 100, count), 6),
    }), out, row_group_size=1_000_000)


def join(folder, count):
    """A table of `count` rows, and three that it is joined with: in each, a tenth of the keys has no partner."""
    random = np.random.default_rng(SEED)

    def split(keys):
        all_keys = random.permutation(int(keys * 1.1)) + 1
        return all_keys[:keys], np.concatenate([all_keys[: int(keys * 0.9)], all_keys[keys:]])

    def text(values):
        return pa.array(np.char.add("id", values.astype(str)))

    def value(keys):
        return np.round(random.uniform(0, 100, keys), 6)

    (few, few_right), (some, some_right), (many, many_right) = map(split, (max(count // 1_000_000, 10), count // 1000, count))
    left = {"id1": random.choice(few, count), "id2": random.choice(some, count), "id3": random.permutation(many)}
    tables = {"x": {**left, "id4": text(left["id1"]), "id5": text(left["id2"]), "id6": text(left["id3"]), "v1": value(count)}}
    for name, ids, keys in (("small", few_right, 1), ("medium", some_right, 2), ("big", many_right, 3)):
        right = {f"id{n}": random.choice(other, len(ids)) for n, other in ((1, few_right), (2, some_right)) if n < keys}
        right[f"id{keys}"] = ids
        right.update({f"id{n + 3}": text(right[f"id{n}"]) for n in range(1, keys + 1)})
        tables[name] = {**right, "v2": value(len(ids))}
    os.makedirs(folder)
    for name, columns in tables.items():
        pq.write_table(pa.table(columns), os.path.join(folder, f"{name}.parquet"), row_group_size=1_000_000)


def to_file(write):
    def written(path, count):
        with open(path, "wb") as out:
            write(out, count)
    return written


def make(path, write, count):
    if os.path.exists(path):
        return
    # What is there is whole.
    write(path + ".part", count)
    os.rename(path + ".part", path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dir")
    parser.add_argument("--rows", default="1000000,50000000")
    parser.add_argument("--keys", default="6000000")
    parser.add_argument("--bench", default="", help="rows of the db-benchmark's tables; none unless given")
    options = parser.parse_args()
    os.makedirs(options.dir, exist_ok=True)
    made = (
        ("rows_{}.csv", to_file(rows), options.rows),
        ("keys_{}.csv", to_file(keys), options.keys),
        ("group_{}.parquet", to_file(group), options.bench),
        ("join_{}", join, options.bench),
    )
    for name, write, counts in made:
        for count in filter(None, counts.split(",")):
            make(os.path.join(options.dir, name.format(int(count))), write, int(count))


if __name__ == "__main__":
    main()
