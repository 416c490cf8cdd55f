#!/usr/bin/env bash
# Instructions per request under callgrind, net of the bare service, against what a fleet has many of.
# Fails if a curve is not flat. Repeatable for the same binary, whatever else the machine is doing. Needs valgrind.
set -euo pipefail
cd "$(dirname "$0")/.."

binary=$(cargo bench --bench growth --no-run --message-format=json-render-diagnostics |
  sed -n 's/.*"executable":"\([^"]*growth-[^"]*\)".*/\1/p' | tail -n 1)
export binary

# Counts inside of the function `counted` only: set-up is left out.
count() { # case x part
  local counted
  counted=$(valgrind --tool=callgrind --callgrind-out-file=/dev/null --toggle-collect='*::counted*' \
    "$binary" --count "$@" 2>&1 | sed -n 's/.*Collected : //p')
  echo "$* $counted"
}
export -f count

"$binary" --list | xargs -P "$(nproc)" -L 1 bash -euo pipefail -c 'count "$@"' count | "$binary" --table
