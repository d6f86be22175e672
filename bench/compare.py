"""Aqueduct and other engines on the same questions, in turn, round by round, each run in a process of its own.

usage: compare.py DIR [--workloads category_means,distinct_keys] [--engines aqueduct,duckdb,polars,datafusion,dask]
                  [--rounds 5] [--threads 2] [--memory-limit BYTES | --tenth] [--cgroup BYTES] [--scale 1]
                  [--answers FILE] [--save-answers FILE] [--python PYTHON] [--binary AQUEDUCT]

Questions are named in workloads.py, or by group: groupby, join, tpch, all. Makes DIR with its data, and a virtual
environment with the engines unless --python names one that has them. Prints, for each question, the median seconds of each
engine, Aqueduct's median divided by it, megabytes of input per second and core, and the largest resident set (of Dask,
those of its workers together); then a line for each with the ratios to the fastest and to DataFusion.

--memory-limit is for all threads of an engine together. --tenth asks each question at a tenth of the memory that Aqueduct
took without a limit, or at its floor where that is more. --cgroup runs each in a memory cgroup of that size.
--answers compares rows and checks with a file that --save-answers wrote, of the engine named first; DuckDB's of the
db-benchmark's tables are in tests/golden/db_benchmark_10000000.json. --binary takes a command line that is built already.
Figures hold beside
others of the same run on a quiet machine only.
"""
import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time

import workloads

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
PEERS = ["duckdb==2.0.0", "polars==2.1.0", "datafusion==55.0.0", "dask[complete]==2026.8.0", "pyarrow", "numpy==2.4.6"]
WITHOUT_SQL = {"dask": ("category_means", "distinct_keys")}
# How far checks may be apart, as a part of the larger: engines add floats in different orders, and means of decimals
# have different numbers of places.
TOLERANCE = 1e-6


def environment(directory):
    """The interpreter of a virtual environment that has the engines."""
    folder = os.path.join(directory, "peers")
    python = os.path.join(folder, "bin", "python")
    done = os.path.join(folder, "installed")
    wanted = "\n".join(PEERS)
    if not os.path.exists(done) or open(done).read() != wanted:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *PEERS], check=True)
        with open(done, "w") as file:
            file.write(wanted)
    return python


def built(package, binary):
    """A binary of ours, built for release."""
    subprocess.run(["cargo", "build", "--release", "-p", package, "--bin", binary], cwd=ROOT, check=True)
    target = os.environ.get("CARGO_TARGET_DIR", os.path.join(ROOT, "target"))
    return os.path.join(target, "release", binary)


def make_data(names, options):
    """The files that the questions read."""
    wanted = {"--rows": "", "--keys": "", "--bench": ""}
    for name in names:
        kind = {"category_means": "--rows", "distinct_keys": "--keys"}.get(name, "--bench")
        if name[0] != "q":
            wanted[kind] = str({"--rows": options.rows, "--keys": options.keys, "--bench": options.bench_rows}[kind])
    arguments = [word for option, count in wanted.items() for word in (option, count)]
    subprocess.run([options.python, os.path.join(HERE, "make_data.py"), options.dir, *arguments], check=True)
    if any(name[0] == "q" for name in names):
        folder = os.path.join(options.dir, f"tpch{options.scale}")
        if not os.path.exists(os.path.join(folder, "lineitem.parquet")):
            subprocess.run([built("aqueduct-bench", "tpch_data"), "-s", options.scale, folder], check=True)


def run(engine, name, memory_limit, options):
    """One run: what it printed."""
    command = [options.python, os.path.join(HERE, "peers.py"), engine, name, options.dir, "--threads", str(options.threads),
               "--rows", str(options.rows), "--keys", str(options.keys), "--bench-rows", str(options.bench_rows),
               "--scale", options.scale]
    command += ["--aqueduct", options.binary] if options.binary else []
    command += ["--memory-limit", str(memory_limit)] if memory_limit else []
    if options.cgroup:
        command = [os.path.join(HERE, "cgroup.sh"), str(options.cgroup), *command]
    start = time.monotonic()
    # A group of its own, so that the engine goes with the process that started it.
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        try:
            out, err = process.communicate(timeout=options.timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            process.communicate()
            return {"error": f"took more than {options.timeout} s"}
    lines = [line for line in out.splitlines() if line.startswith("{")]
    if process.returncode != 0 or not lines:
        said = (err.strip().splitlines() or [""])[-1]
        return {"error": f"exit status {process.returncode} after {time.monotonic() - start:.0f} s: {said[-160:]}"}
    line = json.loads(lines[-1])
    if "floor_bytes" in line:
        line["error"] = f"needs {line['floor_bytes'] / 1e6:.0f} MB"
    elif not line["in_order"]:
        line["error"] = "THE ROWS ARE NOT IN ORDER"
    return line


def same(one, other):
    """Whether two results have the same rows, as far as their checks tell."""
    def near(a, b, places):
        # The mean of decimals is a decimal here and a float there: then each row may be off by its last place.
        known = [scale for scale in places if scale is not None]
        slack = one["rows"] * 10.0 ** -known[0] if len(known) == 1 else 1e-9
        return math.isclose(a, b, rel_tol=TOLERANCE, abs_tol=slack) or (math.isnan(a) and math.isnan(b))
    if one["rows"] != other["rows"] or len(one["checks"]) != len(other["checks"]):
        return False
    return all(map(near, one["checks"], other["checks"], zip(one["places"], other["places"])))


def tenth(name, options):
    """A tenth of what we take without a limit, or our floor where that is more; and what it is a tenth of."""
    free = run("aqueduct", name, None, options)
    if "error" in free:
        return None, free["error"]
    limit = free["peak_bytes"] // 10
    tight = run("aqueduct", name, limit, options)
    floor = tight.get("floor_bytes")
    what = f"without a limit {free['peak_bytes'] / 1e6:.0f} MB and {free['seconds']:.3f} s; "
    return (floor, what + "the floor") if floor else (limit, what + "a tenth of it")


def table(name, runs, answer, size, options):
    """Prints what the engines did, and gives their medians; `None` if something is wrong."""
    good = {engine: [r for r in results if "error" not in r] for engine, results in runs.items()}
    medians = {engine: statistics.median(r["seconds"] for r in results) for engine, results in good.items() if results}
    ours = medians.get("aqueduct")
    well = True
    print(f"{'engine':12}{'median s':>10}{'fastest s':>11}{'ratio':>8}{'MB/s/core':>11}{'RSS MB':>8}  result")
    for engine, results in runs.items():
        errors = [r["error"] for r in results if "error" in r]
        if engine not in medians:
            # That another engine fails is its own affair.
            well &= engine != "aqueduct"
            print(f"{engine:12}  FAILED: {errors[0]}")
            continue
        last, median = good[engine][-1], medians[engine]
        answer = answer or last
        right = all(same(answer, r) for r in good[engine])
        well &= right and (engine != "aqueduct" or not errors)
        more = f", allocator's peak {last['peak_bytes'] / 1e6:.0f} MB" if "peak_bytes" in last else ""
        more += f", spilled {last['spilled_bytes'] / 1e6:.0f} MB" if "spilled_bytes" in last else ""
        more += f", {len(errors)} FAILED: {errors[0]}" if errors else ""
        more += "" if right else f", THE ANSWER DIFFERS: {last['rows']} rows {last['checks']} for {answer['rows']} rows {answer['checks']}"
        ratio = f"{ours / median:.2f}" if ours else "-"
        fastest = min(r["seconds"] for r in good[engine])
        rss = max(r["rss_bytes"] for r in good[engine]) / 1e6
        speed = size / 1e6 / median / options.threads
        print(f"{engine:12}{median:10.3f}{fastest:11.3f}{ratio:>8}{speed:11.0f}{rss:8.0f}  "
              f"{last['rows']} rows, check {last['checks'][-1]:.6g}{more}", flush=True)
    return medians, well


def summary(medians):
    """A line for each question: ours, the fastest other, and the ratios."""
    print(f"\n{'question':16}{'ours s':>9}{'fastest s':>11}  {'which':12}{'ratio':>7}{'to DataFusion':>15}")
    for name, seconds in medians.items():
        others = {engine: s for engine, s in seconds.items() if engine != "aqueduct"}
        if "aqueduct" not in seconds or not others:
            print(f"{name:16}  nothing to compare")
            continue
        ours, best = seconds["aqueduct"], min(others, key=others.get)
        datafusion = f"{ours / others['datafusion']:.2f}" if "datafusion" in others else "-"
        print(f"{name:16}{ours:9.3f}{others[best]:11.3f}  {best:12}{ours / others[best]:7.2f}{datafusion:>15}")
    for engine in {engine for seconds in medians.values() for engine in seconds}:
        if len(medians) > 1 and all(engine in seconds for seconds in medians.values()):
            print(f"all on {engine}: {sum(seconds[engine] for seconds in medians.values()):.2f} s")


def warm(paths):
    """Every engine finds the files in memory; how large they are."""
    for path in paths:
        with open(path, "rb") as file:
            while file.read(1 << 24):
                pass
    return sum(os.path.getsize(path) for path in paths)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dir")
    parser.add_argument("--workloads", default="category_means,distinct_keys")
    parser.add_argument("--engines", default="aqueduct,duckdb,polars,datafusion,dask")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rows", type=int, default=50_000_000)
    parser.add_argument("--keys", type=int, default=6_000_000)
    parser.add_argument("--bench-rows", type=int, default=10_000_000)
    parser.add_argument("--scale", default="1")
    limits = parser.add_mutually_exclusive_group()
    limits.add_argument("--memory-limit", type=int)
    limits.add_argument("--tenth", action="store_true")
    parser.add_argument("--cgroup", type=int)
    parser.add_argument("--timeout", type=int, default=300)
    parser.add_argument("--python")
    parser.add_argument("--binary")
    parser.add_argument("--answers")
    parser.add_argument("--save-answers")
    options = parser.parse_args()
    names = workloads.names(options.workloads)
    os.makedirs(options.dir, exist_ok=True)
    engines = options.engines.split(",")
    options.python = options.python or environment(options.dir)
    if not options.binary and ("aqueduct" in engines or options.tenth):
        options.binary = built("aqueduct-cli", "aqueduct")
    make_data(names, options)
    answers = json.load(open(options.answers)) if options.answers else {}
    well, medians, saved = True, {}, {}
    for name in names:
        able = [engine for engine in engines if name in WITHOUT_SQL.get(engine, [name])]
        files = workloads.files(name, options.dir, options.rows, options.keys, options.bench_rows, options.scale)
        size = warm(files.values())
        limit, what = options.memory_limit, ""
        if options.tenth:
            limit, what = tenth(name, options)
        told = f", limit {limit / 1e6:.0f} MB in all" if limit else ""
        told += f" ({what})" if what else ""
        print(f"\n{name}: {size / 1e6:.0f} MB, {options.rounds} rounds in turn, {options.threads} threads{told}", flush=True)
        runs = {engine: [] for engine in able}
        for number in range(options.rounds):
            # Each goes first once in a while; one that has failed would fail again.
            turn = number % len(able)
            for engine in able[turn:] + able[:turn]:
                if not any("error" in result for result in runs[engine]):
                    runs[engine].append(run(engine, name, limit, options))
        medians[name], fine = table(name, runs, answers.get(name), size, options)
        well &= fine
        first = next((r for r in runs[able[0]] if "error" not in r), None)
        if first:
            saved[name] = {key: first[key] for key in ("rows", "checks", "places")}
    summary(medians)
    if options.save_answers:
        with open(options.save_answers, "w") as file:
            lines = ",\n".join(f" {json.dumps(name)}: {json.dumps(answer)}" for name, answer in saved.items())
            file.write("{\n" + lines + "\n}\n")
    sys.exit(0 if well else 1)


if __name__ == "__main__":
    main()
