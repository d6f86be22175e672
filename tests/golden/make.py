"""Makes the answers in this folder, with DuckDB: what tests compare ours with.

usage: python -m venv V && V/bin/pip install duckdb==2.0.0 && V/bin/python tests/golden/make.py

category_means.csv: of 1,000,000 rows (id 0.., category cat_{id % 100}, value float id % 1000), the mean value of each
category, where it is above 500, by category.
"""
import os

import duckdb

HERE = os.path.dirname(os.path.abspath(__file__))

ANSWERS = {
    "category_means.csv": """
        with large_data as (
            select range as id, 'cat_' || range % 100 as category, (range % 1000)::double as value from range(1_000_000)
        )
        select category, avg(value) as value from large_data group by category having avg(value) > 500 order by category
    """,
}

for name, query in ANSWERS.items():
    duckdb.sql(query).write_csv(os.path.join(HERE, name))
