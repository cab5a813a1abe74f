#!/usr/bin/env bash
# The system calls that a node makes: starts one under strace (apt-get install strace), sends, receives, publishes, backs up, reloads and stops,
# and prints the name of each call. packaging/system-calls.txt is what this printed, all runs together; a test holds the filters of
# packaging/ against it.
#
#   scripts/system-calls.sh >new.txt; comm -13 packaging/system-calls.txt new.txt     # what is new
set -euo pipefail
cd "$(dirname "$0")/.."

cargo build --locked --workspace --bins --quiet
creto=$PWD/${CARGO_TARGET_DIR:-target}/debug/creto
folder=$(mktemp -d)
tracer=
trap '[ -z "$tracer" ] || kill "$tracer" 2>/dev/null || true; rm -rf "$folder"' EXIT
cd "$folder"
export CRETO__WAL__SEGMENT_BYTES="8 MiB" CRETO__WAL__WAL_BYTES_MAX="256 MiB" CRETO__METRICS__LISTEN=127.0.0.1:0

"$creto" init --listen 127.0.0.1:0 >&2
strace --follow-forks --quiet=all --output trace "$creto" serve --json >out 2>log &
tracer=$!
until grep -q '"ready"' out; do
    kill -0 "$tracer" || { cat log >&2; exit 1; }
    sleep 0.2
done
address=$(sed -n 's/.*"address":"\([^"]*\)".*/\1/p' out | head -n 1)
node=$(sed -n 's/.*"pid":\([0-9]*\).*/\1/p' out | head -n 1)
"$creto" agent create acme/one >&2
"$creto" agent create acme/two >&2
"$creto" send acme/one acme/two hello --node "$address" >&2
"$creto" recv acme/two --count 1 --node "$address" >&2
"$creto" channel create acme/alerts --owner acme/one >&2
"$creto" pub acme/one acme/alerts hello --node "$address" >&2
"$creto" status >&2
"$creto" top --once --interval 200ms >&2
"$creto" backup backup >&2
kill -HUP "$node"
"$creto" doctor >&2 || true
kill -TERM "$node"
wait "$tracer"
tracer=
grep -oE '^[0-9]+ +[a-z_0-9]+\(' trace | sed 's/^[0-9]* *//; s/($//' | sort -u
