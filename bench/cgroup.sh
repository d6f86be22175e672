#!/usr/bin/env bash
# Runs a command in a memory cgroup, which kills what needs more.  usage: cgroup.sh BYTES COMMAND [ARGUMENT]...
#
# Ends with the command's status (137: killed) and says on standard error what the cgroup's peak was. Where no memory cgroup
# can be had (no root, a read-only hierarchy) it says so, does not run the command, and ends with 0.
set -euo pipefail
[ $# -ge 2 ] || { echo "usage: cgroup.sh BYTES COMMAND [ARGUMENT]..." >&2; exit 2; }
bytes=$1
shift

skip() {
    echo "cgroup: SKIPPED, no memory cgroup can be had here: $1" >&2
    exit 0
}

# A folder of our own: cgroup v1 beside our own group, v2 below a group that hands the memory controller down.
group=""
if [ -e /sys/fs/cgroup/memory/memory.limit_in_bytes ]; then
    own=$(awk -F: '$2 == "memory" { print $3 }' /proc/self/cgroup)
    for parent in "/sys/fs/cgroup/memory${own%/}" /sys/fs/cgroup/memory; do
        if mkdir "$parent/aqueduct.$$" 2>/dev/null; then group="$parent/aqueduct.$$"; break; fi
    done
    limit=memory.limit_in_bytes swap=memory.memsw.limit_in_bytes no_swap=$bytes
    peak=memory.max_usage_in_bytes events=memory.oom_control
elif [ -e /sys/fs/cgroup/cgroup.controllers ]; then
    own=$(awk -F: '$1 == "0" { print $3 }' /proc/self/cgroup)
    # Where processes live, no controller can be handed down: go up until one can.
    parent="/sys/fs/cgroup${own%/}"
    while :; do
        if grep -qw memory "$parent/cgroup.subtree_control" 2>/dev/null || echo +memory 2>/dev/null >"$parent/cgroup.subtree_control"; then
            if mkdir "$parent/aqueduct.$$" 2>/dev/null; then group="$parent/aqueduct.$$"; fi
            break
        fi
        [ "$parent" != /sys/fs/cgroup ] || break
        parent=$(dirname "$parent")
    done
    limit=memory.max swap=memory.swap.max no_swap=0 peak=memory.peak events=memory.events
else
    skip "no cgroup file system is mounted"
fi
[ -n "$group" ] || skip "a group cannot be made"
# The group goes once its last process has: a killed command's children may take a moment.
cleanup() { for _ in 1 2 3 4 5 6 7 8 9 10; do rmdir "$group" 2>/dev/null && return; sleep 0.1; done; }
trap cleanup EXIT

{ echo "$bytes" >"$group/$limit"; } 2>/dev/null || skip "the limit cannot be set"
[ ! -e "$group/$swap" ] || { echo "$no_swap" >"$group/$swap"; } 2>/dev/null || true

status=0
(
    { echo "$BASHPID" >"$group/cgroup.procs"; } 2>/dev/null || exit 125
    exec "$@"
) || status=$?
[ "$status" -ne 125 ] || skip "a process cannot enter the group"
[ ! -e "$group/$peak" ] || reached=$(cat "$group/$peak")
killed=$(awk '$1 == "oom_kill" { print $2 }' "$group/$events")
echo "cgroup: limit $bytes bytes, peak ${reached:-unknown} bytes, killed ${killed:-0} times, status $status" >&2
exit "$status"
