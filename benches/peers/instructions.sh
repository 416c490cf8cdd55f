#!/usr/bin/env bash
# Instructions per request under callgrind, of every contender: net of the bare inner service, and as a multiple of
# two inserts by hand. The same for the same binary, whatever else the machine is doing. Needs valgrind.
# With `--features all`, the layer has all its features.
set -euo pipefail
cd "$(dirname "$0")/../.."

command="bash benches/peers/instructions.sh${*:+ $*}"
binary=$(cargo bench --manifest-path benches/peers/Cargo.toml "$@" --no-run --message-format=json |
  sed -n 's/.*"executable":"\([^"]*peers-[^"]*\)".*/\1/p' | tail -n 1)
figures=${CARGO_TARGET_DIR:-target}/figures/instructions.jsonl
mkdir -p "$(dirname "$figures")"
"$binary" --about overhead "$command" >"$figures"

count() { # case contender times
  valgrind --tool=callgrind --callgrind-out-file=/dev/null "$binary" --count "$@" 2>&1 |
    sed -n 's/.*Collected : //p'
}

# The difference of two runs leaves out what happens once.
per_request() { # case contender
  echo $((($(count "$1" "$2" 1100) - $(count "$1" "$2" 100)) / 1000))
}

record() { # case contender metric value
  printf '{"suite":"overhead","case":"%s","contender":"%s","x":null,"metric":"%s","value":%s}\n' "$@" >>"$figures"
}

printf '%-16s %-26s %8s %8s %8s\n' case contender total net ratio
for case in no_headers eight_headers; do
  bare=$(per_request "$case" bare)
  hand=$(($(per_request "$case" by_hand) - bare))
  "$binary" --contenders | while read -r contender baseline; do
    case $contender in
      bare) total=$bare ;;
      *) total=$(per_request "$case" "$contender") ;;
    esac
    case $baseline in
      bare) net=$((total - bare)) ;;
      *) net=$((total - $(per_request "$case" "$baseline"))) ;;
    esac
    ratio=$(awk -v net="$net" -v hand="$hand" 'BEGIN { printf "%.3f", net / hand }')
    printf '%-16s %-26s %8d %8d %8.2f\n' "$case" "$contender" "$total" "$net" "$ratio"
    if [ "$contender" != bare ]; then
      record "$case" "$contender" instructions_net "$net"
      record "$case" "$contender" instructions_over_by_hand "$ratio"
    fi
  done
done
