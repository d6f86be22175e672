"""Aqueduct and other engines on the same work, in turn, round by round, each run in a process of its own.

usage: compare.py DIR [--workloads category_means,distinct_keys] [--engines aqueduct,duckdb,polars,datafusion,dask]
                  [--rounds 5] [--threads 2] [--memory-limit BYTES] [--cgroup BYTES] [--python PYTHON]

Makes DIR with its data, and a virtual environment with the engines unless --python names one that has them. Prints, for
each workload, the median seconds of each engine, Aqueduct's median divided by it, megabytes of input per second and core,
and the largest resident set (of Dask, those of its workers together). --memory-limit is for all threads of an engine
together; --cgroup runs each in a memory cgroup of that size. Figures hold beside others of the same run on a quiet machine
only.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
PEERS = ["duckdb==2.0.0", "polars==2.1.0", "datafusion==55.0.0", "dask[complete]==2026.8.0", "pyarrow", "numpy"]
WORKLOADS = {"category_means": "rows", "distinct_keys": "keys"}


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


def build(features):
    """Our binary, built for release."""
    command = ["cargo", "build", "--release", "-p", "aqueduct-bench", "--bin", "bench_query"]
    if features:
        command += ["--features", features]
    subprocess.run(command, cwd=ROOT, check=True)
    target = os.environ.get("CARGO_TARGET_DIR", os.path.join(ROOT, "target"))
    return os.path.join(target, "release", "bench_query")


def run(command, limit_seconds):
    """One run: what it printed, and its largest resident set."""
    start = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            out, err = process.communicate(timeout=limit_seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            return {"error": f"took more than {limit_seconds} s"}
    lines = [line for line in out.splitlines() if line.startswith("{")]
    if process.returncode != 0 or not lines:
        said = (err.strip().splitlines() or [""])[-1]
        return {"error": f"exit status {process.returncode} after {time.monotonic() - start:.0f} s: {said[-160:]}"}
    return json.loads(lines[-1])


def measured(command):
    """`command` in a process that adds the largest resident set of all that it waited for, where the command tells less."""
    report = (
        "import json, os, resource, subprocess, sys\n"
        "done = subprocess.run(sys.argv[1:], stdout=subprocess.PIPE, text=True)\n"
        "lines = [l for l in done.stdout.splitlines() if l.startswith('{')]\n"
        "if done.returncode or not lines: sys.exit(done.returncode or 1)\n"
        "peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024\n"
        "line = json.loads(lines[-1])\n"
        "print(json.dumps({**line, 'rss_bytes': max(peak, line.get('rss_bytes', 0))}))\n"
    )
    return [sys.executable, "-c", report, *command]


def command(engine, workload, path, options):
    if engine == "aqueduct":
        base = [options.binary, workload, path, "--workers", str(options.threads)]
        # Ours is a limit of each worker.
        limit = options.memory_limit and options.memory_limit // options.threads
    else:
        base = [options.python, os.path.join(HERE, "peers.py"), engine, workload, path, "--threads", str(options.threads)]
        limit = options.memory_limit
    base += ["--memory-limit", str(limit)] if limit else []
    if options.cgroup:
        base = [os.path.join(HERE, "cgroup.sh"), str(options.cgroup), *base]
    return measured(base)


def table(workload, path, runs, options):
    size = os.path.getsize(path)
    good = {engine: [r for r in results if "seconds" in r] for engine, results in runs.items()}
    medians = {engine: statistics.median(r["seconds"] for r in results) for engine, results in good.items() if results}
    ours = medians.get("aqueduct")
    print(f"\n{workload}: {size / 1e6:.0f} MB, {options.rounds} rounds in turn, {options.threads} threads")
    print(f"{'engine':12}{'median s':>10}{'fastest s':>11}{'ratio':>8}{'MB/s/core':>11}{'RSS MB':>8}  result")
    checks = set()
    for engine, results in runs.items():
        errors = [r["error"] for r in results if "error" in r]
        if engine not in medians:
            print(f"{engine:12}  FAILED: {errors[0]}")
            continue
        last, median = good[engine][-1], medians[engine]
        checks.add((last["rows"], f"{last['check']:.6g}"))
        ratio = f"{ours / median:.2f}" if ours else "-"
        fastest = min(r["seconds"] for r in good[engine])
        rss = max(r["rss_bytes"] for r in good[engine]) / 1e6
        speed = size / 1e6 / median / options.threads
        more = f", allocator's peak {last['peak_bytes'] / 1e6:.0f} MB" if "peak_bytes" in last else ""
        more += f", spilled {last['spilled_bytes'] / 1e6:.0f} MB" if "spilled_bytes" in last else ""
        more += f", {len(errors)} FAILED: {errors[0]}" if errors else ""
        print(f"{engine:12}{median:10.3f}{fastest:11.3f}{ratio:>8}{speed:11.0f}{rss:8.0f}  "
              f"{last['rows']} rows, sum {last['check']:.6g}{more}")
    if len(checks) > 1:
        print("THE ANSWERS DIFFER")
    return len(checks) <= 1 and len(medians) == len(runs)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dir")
    parser.add_argument("--workloads", default=",".join(WORKLOADS))
    parser.add_argument("--engines", default="aqueduct,duckdb,polars,datafusion,dask")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rows", type=int, default=50_000_000)
    parser.add_argument("--keys", type=int, default=6_000_000)
    parser.add_argument("--memory-limit", type=int)
    parser.add_argument("--cgroup", type=int)
    parser.add_argument("--timeout", type=int, default=300)
    parser.add_argument("--python")
    parser.add_argument("--features", help="allocator of our binary: mimalloc or jemalloc")
    options = parser.parse_args()
    os.makedirs(options.dir, exist_ok=True)
    engines = options.engines.split(",")
    options.python = options.python or environment(options.dir)
    options.binary = build(options.features) if "aqueduct" in engines else None
    subprocess.run([options.python, os.path.join(HERE, "make_data.py"), options.dir,
                    "--rows", str(options.rows), "--keys", str(options.keys)], check=True)
    well = True
    for workload in options.workloads.split(","):
        count = options.rows if WORKLOADS[workload] == "rows" else options.keys
        path = os.path.join(options.dir, f"{WORKLOADS[workload]}_{count}.csv")
        with open(path, "rb") as file:
            # Every engine finds the file in memory.
            while file.read(1 << 24):
                pass
        runs = {engine: [] for engine in engines}
        for number in range(options.rounds):
            # Each goes first once in a while.
            turn = number % len(engines)
            for engine in engines[turn:] + engines[:turn]:
                runs[engine].append(run(command(engine, workload, path, options), options.timeout))
        well &= table(workload, path, runs, options)
    sys.exit(0 if well else 1)


if __name__ == "__main__":
    main()
