"""Makes the answers in this folder, with DuckDB: what the tests of window functions compare ours with.

usage: python -m venv V && V/bin/pip install duckdb==2.0.0 && V/bin/python operators/tests/golden/window/make.py

rows.csv: 140 rows of partitions of several sizes, with ties, nulls, NaN and infinities.
answers.csv: for each row, by its id, one column for each case. The name of a case says what it is, as in
`sum_v__rows_3p_2f__o_desc`: function, frame, order.
"""
import os
import random

import duckdb

HERE = os.path.dirname(os.path.abspath(__file__))

random.seed(7)


def row(id):
    part = random.choice(["a", "a", "a", "b", "b", None]) if id > 2 else ["one", "two", "two"][id]
    maybe = lambda value, odds: None if random.random() < odds else value
    return (
        id,
        part,
        maybe(random.randrange(0, 12), 0.12),
        (id * 37) % 140 * 3,
        maybe(random.randrange(-20, 40), 0.2),
        maybe(random.choice(["nan", "inf", "-inf"]) if random.random() < 0.08 else str(random.randrange(-400, 400) / 8), 0.15),
        maybe(str(random.choice([0.5, 1.25, 2.0, 2.5, 3.0, 3.5, 7.75, "nan", "-inf"])), 0.1),
        maybe(f"{random.randrange(0, 900) / 100:.2f}", 0.1),
        maybe(f"2024-0{random.randrange(1, 4)}-{random.randrange(1, 29):02}", 0.1),
        maybe(f"2024-01-01 {random.randrange(0, 24):02}:{random.choice([0, 20, 40]):02}:00", 0.1),
        maybe(random.choice(["x", "yy", "a longer text than twelve", ""]) + str(random.randrange(9)), 0.2),
    )


rows = [row(id) for id in range(140)]
duckdb.sql(
    "create table t(id bigint, p varchar, o bigint, u bigint, v bigint, f double, of double, od decimal(10, 2),"
    " oda date, ots timestamp, s varchar)"
)
duckdb.executemany("insert into t values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)

ORDERS = {
    "asc": "asc nulls last",
    "desc": "desc nulls first",
    "ascnf": "asc nulls first",
    "descnl": "desc nulls last",
}
ENDS = {"unb": "unbounded", "cur": "current row"}


def end(text, unbounded):
    if text == "unb":
        return f"unbounded {unbounded}"
    if text == "cur":
        return "current row"
    return f"{text[:-1]} {'preceding' if text[-1] == 'p' else 'following'}"


def frame(name):
    units, low, high = name.split("_")
    return f"{units} between {end(low, 'preceding')} and {end(high, 'following')}"


FUNCTIONS = {
    "count_v": "count(v)",
    "count_all": "count(*)",
    "sum_v": "sum(v)",
    "avg_f": "avg(f)",
    "sum_f": "sum(f)",
    "min_v": "min(v)",
    "max_f": "max(f)",
    "min_s": "min(s)",
    "sum_od": "sum(od)",
    "stddev_v": "stddev_samp(v)",
    "distinct_v": "count(distinct v)",
    "filter_v": "sum(v) filter (where v > 5)",
    "median_v": "median(v::double)",
    "bitxor_v": "bit_xor(v)",
    "booland_v": "bool_and(v > 0)",
    "row_number": "row_number()",
    "rank": "rank()",
    "dense_rank": "dense_rank()",
    "percent_rank": "percent_rank()",
    "cume_dist": "cume_dist()",
    "ntile_4": "ntile(4)",
    "lag_1": "lag(v)",
    "lag_3": "lag(s, 3)",
    "lead_2": "lead(v, 2, -1)",
    "lead_m1": "lead(v, -1)",
    "lag_0": "lag(v, 0)",
    "lag_ign": "lag(v, 2, -7 ignore nulls)",
    "lead_ign": "lead(s, 1 ignore nulls)",
    "first_v": "first_value(v)",
    "last_s": "last_value(s)",
    "nth_v": "nth_value(v, 3)",
    "first_ign": "first_value(v ignore nulls)",
    "last_ign": "last_value(s ignore nulls)",
    "nth_ign": "nth_value(v, 2 ignore nulls)",
}
AGGREGATES = list(FUNCTIONS)[:15]
PICKS = list(FUNCTIONS)[-6:]
BY_ROW = ["row_number", "ntile_4", "lag_1", "lag_3", "lead_2", "lead_m1", "lag_0", "lag_ign", "lead_ign"]
BY_PEERS = ["rank", "dense_rank", "percent_rank", "cume_dist"]

ROWS = ["rows_unb_unb", "rows_unb_cur", "rows_3p_2f", "rows_5p_2p", "rows_1f_4f", "rows_cur_unb", "rows_unb_2f"]
RANGE = ["range_unb_cur", "range_2p_1f", "range_cur_cur", "range_cur_unb", "range_3p_1p", "range_1f_3f"]
GROUPS = ["groups_1p_1f", "groups_2p_1p", "groups_1f_2f", "groups_unb_1f", "groups_cur_cur", "groups_1p_unb"]
U_RANGE = ["range_unb_cur", "range_20p_9f", "range_30p_10p", "range_4f_40f"]

cases = []
for function in AGGREGATES:
    cases += [(function, frame, f"{order}") for frame in ROWS for order in ["oid_asc"]]
    cases += [(function, frame, f"o_{order}") for frame in RANGE + GROUPS for order in ["asc", "desc"]]
for function in ["sum_v", "max_f", "filter_v"]:
    cases += [(function, frame, f"oid_{order}") for frame in ROWS for order in ["desc", "ascnf"]]
    cases += [(function, frame, f"o_{order}") for frame in RANGE + GROUPS for order in ["ascnf", "descnl"]]
    cases += [(function, "rows_unb_unb", "none"), (function, "range_unb_cur", "none")]
for function in PICKS:
    cases += [(function, frame, "oid_asc") for frame in ROWS]
    cases += [(function, frame, "oid_desc") for frame in ROWS[2:5]]
    cases += [(function, frame, f"u_{order}") for frame in U_RANGE for order in ["asc", "desc"]]
for order in ORDERS:
    cases += [(function, "rows_unb_unb", f"oid_{order}") for function in BY_ROW]
    cases += [(function, "rows_unb_unb", f"o_{order}") for function in BY_PEERS]
for order in ["of", "od"]:
    cases += [("sum_v", f, f"{order}_{d}") for f in ["range_1p_1f", "range_2p_cur", "range_1f_2f"] for d in ORDERS]
for f in ["range_10d_5d", "range_1m_cur"]:
    cases += [("sum_v", f, f"oda_{d}") for d in ORDERS]
for f in ["range_2h_1h", "range_30min_cur"]:
    cases += [("sum_v", f, f"ots_{d}") for d in ORDERS]

INTERVALS = {
    "range_10d_5d": "range between interval 10 days preceding and interval 5 days following",
    "range_1m_cur": "range between interval 1 month preceding and current row",
    "range_2h_1h": "range between interval 2 hours preceding and interval 1 hour following",
    "range_30min_cur": "range between interval 30 minutes preceding and current row",
}


def order_by(name):
    if name == "none":
        return ""
    column, direction = name.rsplit("_", 1)
    if column == "oid":
        return f"order by o {ORDERS[direction]}, id"
    return f"order by {column} {ORDERS[direction]}"


def over(case):
    function, frame_name, order = case
    framed = function in AGGREGATES + PICKS
    clause = INTERVALS.get(frame_name) or frame(frame_name)
    return f"over (partition by p {order_by(order)} {clause if framed else ''})"


columns = [f"({FUNCTIONS[case[0]]} {over(case)}) as {'__'.join(case)}" for case in cases]
duckdb.sql("select * from t order by id").write_csv(os.path.join(HERE, "rows.csv"), na_rep="NULL")
duckdb.sql(f"select id, {', '.join(columns)} from t order by id").write_csv(
    os.path.join(HERE, "answers.csv"), na_rep="NULL"
)
print(len(cases))
