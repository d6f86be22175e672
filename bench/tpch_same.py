"""Shows that the tables of `tpch_data` have the rows of tpchgen-cli's.

usage: tpch_same.py OURS THEIRS    two folders with the eight Parquet files at one scale factor
"""
import sys

import duckdb

ours, theirs = sys.argv[1:]
same = True
for table in "region nation supplier customer part partsupp orders lineitem".split():
    counts = [duckdb.sql(f"select count(*) from '{folder}/{table}.parquet'").fetchall()[0][0] for folder in (ours, theirs)]
    # As bags: a row that is there twice counts twice.
    apart = duckdb.sql(f"select count(*) from (select * from '{ours}/{table}.parquet' except all "
                       f"select * from '{theirs}/{table}.parquet')").fetchall()[0][0]
    same &= counts[0] == counts[1] and apart == 0
    print(f"{table}: {counts[0]} and {counts[1]} rows, {apart} differ")
sys.exit(0 if same else 1)
