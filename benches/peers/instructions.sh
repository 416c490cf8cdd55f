#!/usr/bin/env bash
# Counts instructions with callgrind: one line for each case, way and contender, with the total of one call, the total
# net of the bare service, and the ratio of that over by_hand. Unlike times, the figures of one binary are repeatable.
#   --short    only what shows that this script works, without the contender that takes minutes to compile
#   --growth   the cost against the number of organizations, credentials and so on; fails if a row is not flat
set -euo pipefail
cd "$(dirname "$0")/../.."

features=(--features cf-gears)
[ "${1:-}" != --short ] || features=()
binary=$(cargo bench -p peers "${features[@]}" --bench peers --no-run --message-format=json-render-diagnostics |
  sed -n 's/.*"executable":"\([^"]*peers-[^"]*\)".*/\1/p' | tail -n 1)
export binary

callgrind() { # the arguments of one run
  valgrind --tool=callgrind --callgrind-out-file=/dev/null --toggle-collect='*::counted*' "$binary" "$@" 2>&1 |
    sed -n 's/.*Collected : //p'
}
# Subtracting a shorter run leaves out what happens only once.
count() { # mode and three names
  echo "${*:2} $((($(callgrind "$@" 1100) - $(callgrind "$@" 100)) / 1000))"
}
export -f callgrind count
count_all() { xargs -P "$(nproc)" -L 1 bash -euo pipefail -c 'count "$@"' count; }

if [ "${1:-}" = --growth ]; then
  "$binary" --list-growth | count_all | sort -k1,1 -k2,2n | awk '
    $3 == "bare" { bare = $4; next }
    $1 != row { verdict(); row = $1; least = most = $4 - bare; printf "%-18s", row }
    { net = $4 - bare; if (net < least) least = net; if (net > most) most = net; printf "%8d: %5d", $2, net }
    function verdict() { if (row == "") return; flat = least > 0 && most <= least * 1.05; failed += !flat; print flat ? "  flat" : "  NOT FLAT" }
    END { verdict(); exit !(row != "" && !failed) }'
else
  printf '%-6s %-8s %-14s %7s %7s %7s\n' case way contender total net ratio
  "$binary" --list | grep -E "$([ "${1:-}" = --short ] && echo '(clone|h8 held|host8 held) (bare|by_hand|anyreach)' || echo .)" |
    count_all | awk '
    { total[$1, $2, $3] = $4 }
    END {
      for (key in total) {
        split(key, part, SUBSEP)
        bare = total[part[1], part[2], "bare"]
        hand = total[part[1], part[2], "by_hand"] - bare
        net = total[key] - bare
        printf "%-6s %-8s %-14s %7d %7d %7.2f\n", part[1], part[2], part[3], total[key], net, net / hand
      }
    }' | sort -k1,1 -k2,2 -k5,5n
fi
