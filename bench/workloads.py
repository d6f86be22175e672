"""The questions that engines are compared on: their tables, their SQL, and what the order of their rows must be.

category_means, distinct_keys   the main query of the project, and a group-by with as many groups as rows, over CSV
g1 .. g10                       the group-by questions of the db-benchmark, over 10,000,000 rows in Parquet
j1 .. j5                        its join questions, 10,000,000 rows with small, medium and big tables
sort                            its group-by table in order of two columns, all nine of them returned
q1 .. q22                       TPC-H
groupby, join, tpch, all        several of these
"""
import os

HERE = os.path.dirname(os.path.abspath(__file__))
TPCH_TABLES = "region nation supplier customer part partsupp orders lineitem".split()
JOIN = "select count(*) n, sum(x.v1) a, sum(s.v2) b from x {} s on {}"

SQL = {
    "category_means": "select category, avg(value) m from t group by category having avg(value) > 500",
    "distinct_keys": "select count(*) n, sum(m) s from (select name, avg(value) m from t group by name) g",
    "g1": "select id1, sum(v1) v1 from g group by id1",
    "g2": "select id1, id2, sum(v1) v1 from g group by id1, id2",
    "g3": "select id3, sum(v1) v1, avg(v3) v3 from g group by id3",
    "g4": "select id4, avg(v1) v1, avg(v2) v2, avg(v3) v3 from g group by id4",
    "g5": "select id6, sum(v1) v1, sum(v2) v2, sum(v3) v3 from g group by id6",
    "g6": "select id4, id5, median(v3) m, stddev(v3) s from g group by id4, id5",
    "g7": "select id3, max(v1) - min(v2) r from g group by id3",
    "g8": "select id6, v3 from (select id6, v3, row_number() over (partition by id6 order by v3 desc) as place from g) t"
          " where place <= 2",
    "g9": "select id2, id4, corr(v1, v2) * corr(v1, v2) r2 from g group by id2, id4",
    "g10": "select id1, id2, id3, id4, id5, id6, sum(v3) v3, count(*) n from g group by id1, id2, id3, id4, id5, id6",
    "j1": JOIN.format("join small", "x.id1 = s.id1"),
    "j2": JOIN.format("join medium", "x.id2 = s.id2"),
    "j3": JOIN.format("left join medium", "x.id2 = s.id2"),
    "j4": JOIN.format("join medium", "x.id5 = s.id5"),
    "j5": JOIN.format("join big", "x.id3 = s.id3"),
    "sort": "select * from g order by id3, v3",
}

GROUPS = {
    "groupby": [f"g{n}" for n in range(1, 11)],
    "join": [f"j{n}" for n in range(1, 6)],
    "tpch": [f"q{n}" for n in range(1, 23)],
}
GROUPS["all"] = ["category_means", "distinct_keys", *GROUPS["groupby"], *GROUPS["join"], "sort", *GROUPS["tpch"]]

# Columns that the rows must be in order of. That of TPC-H is checked by the binary `tpch`, with its answers.
ORDER = {"sort": ["id3", "v3"]}


def names(text):
    """The questions that a list of names and groups stands for."""
    found = [name for word in text.split(",") for name in GROUPS.get(word, [word])]
    unknown = [name for name in found if name not in GROUPS["all"]]
    if unknown:
        raise SystemExit(f"no workload {unknown[0]}: {', '.join(GROUPS['all'])}, or {', '.join(GROUPS)}")
    return found


def sql(name):
    if name[0] == "q":
        with open(os.path.join(HERE, "tpch", "queries", f"{name}.sql")) as file:
            return file.read()
    return SQL[name]


def files(name, directory, rows=50_000_000, keys=6_000_000, bench_rows=10_000_000, scale="1"):
    """The files of a question's tables, by their names in the query."""
    if name == "category_means":
        paths = {"t": f"rows_{rows}.csv"}
    elif name == "distinct_keys":
        paths = {"t": f"keys_{keys}.csv"}
    elif name[0] == "g" or name == "sort":
        paths = {"g": f"group_{bench_rows}.parquet"}
    elif name[0] == "j":
        wanted = {"j1": "small", "j5": "big"}.get(name, "medium")
        paths = {"x": f"join_{bench_rows}/x.parquet", wanted: f"join_{bench_rows}/{wanted}.parquet"}
    else:
        # As a person would: all tables are registered, whichever the query reads.
        paths = {table: f"tpch{scale}/{table}.parquet" for table in TPCH_TABLES}
    return {table: os.path.join(directory, path) for table, path in paths.items()}
