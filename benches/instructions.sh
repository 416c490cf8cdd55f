#!/usr/bin/env bash
# Instructions per request under callgrind, net of the bare service, and as a ratio to two inserts by hand.
# Repeatable for the same binary, whatever else the machine is doing. Needs valgrind.
set -euo pipefail
cd "$(dirname "$0")/.."

binary=$(cargo bench --bench instructions --no-run --message-format=json 2>/dev/null |
  sed -n 's/.*"executable":"\([^"]*instructions-[^"]*\)".*/\1/p' | tail -n 1)

count() { # case contender times
  valgrind --tool=callgrind --callgrind-out-file=/dev/null "$binary" "$@" 2>&1 | sed -n 's/.*Collected : //p'
}

# The difference of two runs leaves out what happens once.
per_request() { # case contender
  echo $((($(count "$1" "$2" 1100) - $(count "$1" "$2" 100)) / 1000))
}

printf '%-16s %-34s %8s %8s %8s\n' case contender total net ratio
for case in no_headers eight_headers; do
  bare=$(per_request "$case" bare)
  hand=$(($(per_request "$case" by_hand) - bare))
  for contender in $("$binary" "$case"); do
    total=$(per_request "$case" "$contender")
    net=$((total - bare))
    printf '%-16s %-34s %8d %8d %8.2f\n' "$case" "$contender" "$total" "$net" "$(echo "$net / $hand" | bc -l)"
  done
done
