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
tracers=()
trap 'for tracer in "${tracers[@]}"; do kill "$tracer" 2>/dev/null || true; done; rm -rf "$folder"' EXIT
cd "$folder"
export CRETO__WAL__SEGMENT_BYTES="8 MiB" CRETO__WAL__WAL_BYTES_MAX="256 MiB" CRETO__METRICS__LISTEN=127.0.0.1:0

# Starts a process under strace in a folder of its own, and waits until it says one of the words: traced FOLDER WORDS ARGUMENTS...
traced() {
    local name=$1 words=$2
    shift 2
    (cd "$name" && exec strace --follow-forks --quiet=all --output "../$name.trace" "$creto" "$@" --json --with-parent >out 2>log) &
    tracers+=($!)
    until grep -qE "\"($words)\"" "$name/out"; do
        kill -0 "${tracers[-1]}" || { cat "$name/log" >&2; exit 1; }
        sleep 0.2
    done
}
said() { sed -n "s/.*\"$2\":\"\{0,1\}\([^,}\"]*\).*/\1/p" "$1/out" | head -n 1; }
stopped() {
    kill -TERM "$(said "$1" pid)"
    until grep -q '"stopped"' "$1/out"; do sleep 0.2; done
}

for name in node control linked; do
    mkdir "$name"
    (cd "$name" && "$creto" init --listen 127.0.0.1:0 >&2 && touch out)
done

# A node, and everything that is asked of one.
traced node ready serve
(
    cd node
    at=(--node "$(said . address)")
    "$creto" agent create acme/one
    "$creto" agent create acme/two
    "$creto" send acme/one acme/two hello "${at[@]}"
    "$creto" recv acme/two --count 1 "${at[@]}"
    "$creto" channel create acme/alerts --owner acme/one
    "$creto" pub acme/one acme/alerts hello "${at[@]}"
    "$creto" status
    "$creto" top --once --interval 200ms
    "$creto" backup backup
    kill -HUP "$(said . pid)"
    "$creto" doctor || true
) >&2
stopped node

# A control service, and a node that has its own there.
traced control ready control --listen 127.0.0.1:0
traced linked 'waiting|ready' serve --control "$(said control address)" --control-certificate ../control/data/node.crt
(cd control && "$creto" control admit linked ../linked/data/node.crt) >&2
until grep -q '"ready"' linked/out; do sleep 0.2; done
stopped linked
stopped control

sed -nE 's/^[0-9]+ +([a-z_0-9]+)\(.*/\1/p' ./*.trace | sort -u
