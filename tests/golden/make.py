"""Makes the answers in this folder, with DuckDB: what tests compare ours with.

usage: python -m venv V && V/bin/pip install duckdb==2.0.0 && V/bin/python tests/golden/make.py

category_means.csv: of 1,000,000 rows (id 0.., category cat_{id % 100}, value float id % 1000), the mean value of each
category, where it is above 500, by category.

grouping_sets.csv: of 1,000 rows (a: id % 3 or null, b: text, v), aggregates by a rollup, a cube, and sets of which one
comes twice and one is empty.
"""
import os

import duckdb

HERE = os.path.dirname(os.path.abspath(__file__))

GROUPED = """
    select '{name}' as sets, a, b, grouping(a, b) as left_out, sum(v) as s, count(*) as n, count(distinct v % 7) as d,
        median(v) as m, sum(a) as sa
    from rows group by {sets}
"""
SETS = {"rollup": "rollup(a, b)", "cube": "cube(a, b)", "sets": "grouping sets ((a), (b), (a), ())"}

ANSWERS = {
    "category_means.csv": """
        with large_data as (
            select range as id, 'cat_' || range % 100 as category, (range % 1000)::double as value from range(1_000_000)
        )
        select category, avg(value) as value from large_data group by category having avg(value) > 500 order by category
    """,
    "best_days.csv": """
        with sales as (
            select date '2026-01-01' + (range * 31 % 365)::integer as day, range * 7919 % 500 as shop,
                range * 104729 % 9973 + 27 as cents
            from range(2_000_000)
        ), shops as (
            select range as number,
                ['Bergen', 'Oslo', 'Stavanger', 'Tromsø', 'Trondheim'][(range * 3 + range // 7) % 5 + 1] as city
            from range(500)
        ), daily as (
            select city, day, sum(cents) as cents from sales join shops on sales.shop = shops.number group by city, day
        ), ranked as (
            select city, day, cents / 100.0 as sales, rank() over (partition by city order by cents desc) as place,
                avg(cents) over (partition by city order by day rows between 6 preceding and current row) / 100 as week
            from daily
        )
        select city, place, day, sales, round(week, 2) as week from ranked where place <= 3 order by city, place, day
    """,
    "grouping_sets.csv": """
        with rows as (
            select case when range % 11 = 0 then null else range % 3 end as a, 'b' || range % 2 as b, range * 7919 % 1000 as v
            from range(1000)
        )
    """
    + " union all ".join(GROUPED.format(name=name, sets=sets) for name, sets in SETS.items())
    + " order by all",
}

for name, query in ANSWERS.items():
    duckdb.sql(query).write_csv(os.path.join(HERE, name))
