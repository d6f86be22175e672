#!/usr/bin/env bash
# The bound, shown on a large group-by: means of 6,000,000 distinct string keys, streamed and dropped, and written to a
# file, on 2 workers of 128 MB and on 2 of 16 MB.  usage: showings.sh DATA_DIR
#
# Makes keys_6000000.csv in DATA_DIR if it is not there (make_data.py: numpy and pyarrow; PYTHON names an interpreter that
# has them). Each run is a process of its own, and is done twice: as it is, and inside a memory cgroup of its bound. For
# each it prints
#
#   peak   most bytes that the counting allocator saw at once; at most the sum of the limits
#   rss    largest resident set; at most (sum of the limits + resident set of the idle cluster) + 10 %
#
# and checks the number of groups and the sum of their means. Ends with 1 if anything does not hold. Where no memory cgroup
# can be had it says so, and that half is left out.
set -euo pipefail
[ $# -eq 1 ] || { echo "usage: showings.sh DATA_DIR" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
root=$(dirname "$here")
mkdir -p "$1"
data=$(cd "$1" && pwd)

keys=6000000
file=$data/keys_$keys.csv
# Each value is (i % 1000) / 2, and each key has one.
sum=$((keys / 1000 * 499500 / 2))

[ -e "$file" ] || "${PYTHON:-python3}" "$here/make_data.py" "$data" --rows "" --keys $keys
(cd "$root" && cargo build --release -p aqueduct-bench --bin bench_query)
query=${CARGO_TARGET_DIR:-$root/target}/release/bench_query

work=$(mktemp -d "$data/showings.XXXXXX")
trap 'rm -rf "$work"' EXIT
failed=0
cgroups=yes

# A number of the JSON line on standard input.
field() { sed -n "s/.*\"$1\": \\([0-9.eE+-]*\\)[,}].*/\\1/p"; }

# check WHAT ACTUAL AT_MOST
check() {
    local verdict="ok"
    # No figure is a failure too.
    if ! [ "${2:-none}" -le "$3" ] 2>/dev/null; then verdict="OVER" failed=1; fi
    printf '  %-6s %13s  of at most %13s bytes (%3d %%)  %s\n' "$1" "$2" "$3" $((100 * ${2:-0} / $3)) "$verdict"
}

# equal WHAT ACTUAL EXPECTED
equal() {
    if ! awk -v a="$2" -v b="$3" 'BEGIN { exit !(a != "" && a == b + 0) }'; then
        echo "  $1: ${2:-nothing}, expected $3  WRONG"
        failed=1
    fi
}

# judge JSON WORKLOAD LIMITS BOUND
judge() {
    equal groups "$(field rows <<<"$1")" "$keys"
    if [ "$2" = distinct_write ]; then
        # The sum of the file's last column; the header is no number, and one more line.
        local lines written
        read -r lines written < <(awk -F, '{ s += $NF } END { printf "%d %.1f\n", NR, s }' "$work/out.csv")
        equal lines "$lines" $((keys + 1))
        equal sum "$written" "$sum"
        rm -f "$work/out.csv"
    else
        equal sum "$(field check <<<"$1")" "$sum"
        echo "  spilled $(field spilled_bytes <<<"$1") bytes"
    fi
    check peak "$(field peak_bytes <<<"$1")" "$3"
    check rss "$(field rss_bytes <<<"$1")" "$4"
    echo "  seconds $(field seconds <<<"$1"), idle rss $(field idle_rss_bytes <<<"$1") bytes, of it pages of files $(field rss_file_bytes <<<"$1")"
    local left
    left=$(ls -A "$work/spill")
    [ -z "$left" ] || { echo "  left in the spill folder: $left  WRONG"; failed=1; }
}

# show WORKLOAD LIMIT_MB
show() {
    local limits=$((2 * $2 * 1000 * 1000)) json idle bound status=0
    local command=("$query" "$1" "$file" --workers 2 --memory-limit "$2MB" --spill-dir "$work/spill" --output "$work/out.csv")
    mkdir -p "$work/spill"
    echo "$1 on 2 workers of $2 MB:"
    json=$("${command[@]}") || status=$?
    if [ "$status" -ne 0 ]; then
        echo "  ended with status $status  WRONG"
        failed=1
        return
    fi
    idle=$(field idle_rss_bytes <<<"$json")
    bound=$(((limits + idle) * 11 / 10))
    judge "$json" "$1" "$limits" "$bound"

    [ "$cgroups" = yes ] || return 0
    echo "$1 on 2 workers of $2 MB, in a memory cgroup of $bound bytes:"
    json=$("$here/cgroup.sh" "$bound" "${command[@]}" 2>"$work/cgroup.txt") || status=$?
    sed 's/^/  /' "$work/cgroup.txt"
    if [ "$status" -ne 0 ]; then
        echo "  ended with status $status (137: killed)  WRONG"
        failed=1
    elif [ -z "$json" ]; then
        # Said once: it will be no different for the others.
        cgroups=no
    else
        judge "$json" "$1" "$limits" "$bound"
    fi
}

for limit in 128 16; do
    for workload in distinct_stream distinct_write; do
        show $workload $limit
    done
done
[ "$cgroups" = yes ] || echo "The runs inside a memory cgroup were LEFT OUT: none can be had here."
if [ "$failed" -ne 0 ]; then echo "NOT within the bounds."; exit 1; fi
echo "All within their bounds."
