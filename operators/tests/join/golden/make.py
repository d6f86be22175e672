"""Makes answers.csv, with DuckDB: what the whole jobs of ../main.rs compare ours with.

usage: python -m venv V && V/bin/pip install duckdb==2.0.0 && V/bin/python operators/tests/join/golden/make.py

Each line is a join, and of its pairs of row numbers n (left) and m (right): how many, how many of either are not null,
their sums, and a sum that tells which n met which m. A mark counts as m.
"""
import os

import duckdb

HERE = os.path.dirname(os.path.abspath(__file__))

duckdb.sql("""
    create table l as select
        case when i % 13 = 0 then null else (i * 7) % 61 end as k,
        case when i % 11 = 0 then null else [0.0, -0.0, 'nan'::double, 1.5, 2.5][i % 5 + 1] end as f,
        i as n
    from range(400) t(i);
    create table r as select
        case when i % 17 = 0 then null else (i * 11) % 83 end as j,
        [-0.0, 'nan'::double, 1.5, 7.0][i % 4 + 1] as g,
        i as m
    from range(300) t(i);
    create table big_l as select (i * 7) % 250007 as k, i as n from range(300000) t(i);
    create table big_r as select (i * 11) % 260003 as j, i as m from range(300000) t(i);
    create table hot_l as select case when i % 10 = 0 then i else 7 end as k, i as n from range(40000) t(i);
    create table hot_r as select case when i % 1000 = 1 then 7 else i end as j, i as m from range(40000) t(i);
    create table trades as select
        case when i % 13 = 0 then null else (i * 7) % 61 end as k,
        case when i % 17 = 0 then null else i * [6101, 7919][i % 2 + 1] % 20011 end as t,
        i as n from range(2000) t(i);
    create table quotes as select
        case when i % 19 = 0 then null else (i * 7) % 61 end as j,
        case when i % 23 = 0 then null else i * 6101 % 20011 end as u, i as m from range(3000) t(i);
    create table hot_trades as select
        case when i % 10 = 0 then i % 1000 else 7 end as k, i * 7919 % 1000003 as t, i as n from range(300000) t(i);
    create table hot_quotes as select
        case when i % 10 = 0 then i % 1000 else 7 end as j, i * 6101 % 1000003 as u, i as m from range(300000) t(i);
""")

JOINS = {
    "inner": "select n, m from l join r on k = j",
    "left": "select n, m from l left join r on k = j",
    "right": "select n, m from l right join r on k = j",
    "full": "select n, m from l full join r on k = j",
    "left semi": "select n, null::bigint as m from l where exists (select 1 from r where k = j)",
    "left anti": "select n, null::bigint as m from l where not exists (select 1 from r where k = j)",
    "right semi": "select null::bigint as n, m from r where exists (select 1 from l where k = j)",
    "right anti": "select null::bigint as n, m from r where not exists (select 1 from l where k = j)",
    "left mark": "select n, exists (select 1 from r where k = j)::bigint as m from l",
    "right mark": "select exists (select 1 from l where k = j)::bigint as n, m from r",
    "not in": "select n, null::bigint as m from l where k not in (select j from r where j > 30)",
    "not in with null": "select n, null::bigint as m from l where k not in (select j from r)",
    "inner nulls equal": "select n, m from l join r on k is not distinct from j",
    "full nulls equal": "select n, m from l full join r on k is not distinct from j",
    "inner floats": "select n, m from l join r on f = g",
    "full floats": "select n, m from l full join r on f = g",
    "inner two keys": "select n, m from l join r on k = j and f = g",
    "left filtered": "select n, m from l left join r on k = j and n < m",
    "full filtered": "select n, m from l full join r on k = j and n < m",
    "left semi filtered": "select n, null::bigint as m from l where exists (select 1 from r where k = j and n < m)",
    "left anti filtered": "select n, null::bigint as m from l where not exists (select 1 from r where k = j and n < m)",
    "full less": "select n, m from l full join r on k < j",
    "cross": "select n, m from l, r",
    "big inner": "select n, m from big_l join big_r on k = j",
    "big full": "select n, m from big_l full join big_r on k = j",
    "hot full": "select n, m from hot_l full join hot_r on k = j",
    # No two right rows have one key and time: which of them would be taken is not defined.
    "asof last left": "select n, m from trades asof left join quotes on k = j and t >= u",
    "asof last inner": "select n, m from trades asof join quotes on k = j and t >= u",
    "asof before left": "select n, m from trades asof left join quotes on k = j and t > u",
    "asof next left": "select n, m from trades asof left join quotes on k = j and t <= u",
    "asof next inner": "select n, m from trades asof join quotes on k = j and t <= u",
    "asof behind inner": "select n, m from trades asof join quotes on k = j and t < u",
    "asof last without keys": "select n, m from trades asof left join quotes on t >= u",
    "asof behind without keys": "select n, m from trades asof join quotes on t < u",
    "asof hot": "select n, m from hot_trades asof left join hot_quotes on k = j and t >= u",
}

with open(os.path.join(HERE, "answers.csv"), "w") as file:
    print("name,rows,ns,ms,sum_n,sum_m,pairs", file=file)
    for name, query in JOINS.items():
        row = duckdb.sql(f"""
            select count(*), count(n), count(m), coalesce(sum(n), 0)::bigint, coalesce(sum(m), 0)::bigint,
                coalesce(sum((coalesce(n, -1) + 2) * 31 % 10007 * ((coalesce(m, -1) + 2) * 17 % 9973)), 0)::bigint
            from ({query})
        """).fetchall()[0]
        print(name, *row, sep=",", file=file)
