"""Makes the tables in data/ and the answers in answers/, with DuckDB: what the tests of SQL compare ours with.

usage: python -m venv V && V/bin/pip install duckdb==2.0.0 && V/bin/python tests/sql/make.py

Each file of queries/ holds queries, each behind a line `-- name` and ended by `;`. Where DuckDB spells one in another
way, a line `--duckdb QUERY` stands before it. The file of answers/ of the same name
has for each of them the line `-- name`, and its rows as CSV: nulls as NULL, text in quotes. Rows are in order where the
query ends in an order by, and sorted as text otherwise.
"""
import datetime
import decimal
import os
import random
import re

import duckdb

HERE = os.path.dirname(os.path.abspath(__file__))
random.seed(1)


def write(name, header, rows):
    with open(os.path.join(HERE, "data", name + ".csv"), "w") as file:
        file.write(header + "\n")
        for row in rows:
            file.write(",".join("" if value is None else str(value) for value in row) + "\n")


def tables():
    day = datetime.date(2020, 1, 1)
    employees = []
    for i in range(1, 41):
        dept = random.choice([1, 1, 1, 2, 2, 3, 4, 5, 9, None])
        salary = random.choice([None] + [round(random.uniform(1000, 8000), 2) for _ in range(9)])
        manager = None if i <= 3 else random.randint(1, min(i - 1, 12))
        employees.append((i, f"emp_{i}_{random.choice('abcde')}", dept, salary, day + datetime.timedelta(random.randint(0, 1000)), manager))
    write("employees", "id,name,dept_id,salary,hired,manager_id", employees)
    cities = ["Oslo", "Rome", None, "Oslo", "Lima", "Rome", "Cork"]
    write("departments", "id,name,city,budget", [(i + 1, f"dept {chr(65 + i)}", cities[i], random.randint(1, 10) * 100) for i in range(7)])
    products = ["apple", "pear", "fig", "quince"]
    sales = []
    start = datetime.datetime(2023, 1, 1)
    for i in range(1, 501):
        sold = start + datetime.timedelta(minutes=random.randint(0, 600_000))
        sales.append((i, random.randint(1, 45), random.choice(products), round(random.uniform(1, 100), 2), random.randint(1, 10), sold, random.choice(["north", "south", "east", None])))
    write("sales", "id,emp_id,product,amount,quantity,sold,region", sales)
    write("fruits", "product,color", [("apple", "red"), ("apple", "green"), ("pear", "green"), ("plum", "blue")])
    number = lambda: random.choice([None, 1, 2, 3, 4, 5, 6])
    write("pairs", "a,b", [(number(), number()) for _ in range(20)])
    write("others", "a,c", [(random.choice([None, 2, 2, 3, 5, 7, 8]), number()) for _ in range(15)])
    write("bands", "low,high,label", [(0, 25, "low"), (25, 50, "mid"), (50, 75, "high"), (60, 80, "odd")])


def text(value):
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, (int, decimal.Decimal)):
        return str(value)
    if isinstance(value, datetime.datetime):
        return value.strftime("%Y-%m-%d %H:%M:%S")
    return '"' + str(value).replace('"', '""') + '"' if isinstance(value, str) else str(value)


def queries(path):
    name, lines = None, []
    for line in open(path):
        if line.startswith("-- "):
            name, lines = line[3:].strip(), []
        elif line.startswith("--duckdb "):
            lines = [line[len("--duckdb "):]]
            yield name, lines[0]
            name = None
        else:
            lines.append(line)
            if name and line.rstrip().endswith(";"):
                yield name, "".join(lines).strip().rstrip(";")


def main():
    os.makedirs(os.path.join(HERE, "data"), exist_ok=True)
    os.makedirs(os.path.join(HERE, "answers"), exist_ok=True)
    tables()
    database = duckdb.connect()
    # As PostgreSQL and ours: nulls are the largest values.
    database.execute("set default_null_order = 'nulls_last_on_asc_first_on_desc'")
    for file in sorted(os.listdir(os.path.join(HERE, "data"))):
        database.execute(f"create table {file[:-4]} as from read_csv('{os.path.join(HERE, 'data', file)}')")
    for file in sorted(os.listdir(os.path.join(HERE, "queries"))):
        with open(os.path.join(HERE, "answers", file.replace(".sql", ".csv")), "w") as out:
            for name, query in queries(os.path.join(HERE, "queries", file)):
                try:
                    rows = [",".join(text(value) for value in row) for row in database.execute(query).fetchall()]
                except duckdb.Error as error:
                    raise SystemExit(f"{file}, {name}: {error}")
                ordered = re.search(r"order by [^()]*$", query) and " over " not in query.rsplit("order by", 1)[1]
                out.write(f"-- {name}\n" + "".join(row + "\n" for row in (rows if ordered else sorted(rows))))


main()
