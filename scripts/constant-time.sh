#!/usr/bin/env bash
# Shows that nothing of ours branches on a secret or looks a table up by one: runs it on secrets that valgrind's memcheck
# believes undefined, so that it reports each such place. What is run, and what is not, stands in
# crypto-accel/examples/constant_time.rs. Not part of CI: it needs valgrind (apt install valgrind) and x86-64.
#
#   scripts/constant-time.sh
set -euo pipefail
cd "$(dirname "$0")/.."

if ! command -v valgrind >/dev/null; then
    echo "valgrind is not installed; apt install valgrind" >&2
    exit 1
fi
cargo build --locked --release --quiet --package creto-crypto-accel --example constant_time
program="${CARGO_TARGET_DIR:-target}/release/examples/constant_time"
found=99
check() { valgrind --quiet --error-exitcode=$found --leak-check=no "$program" "$@"; }

echo "== on secrets: nothing may be reported"
check
for leak in branch table; do
    echo "== a $leak on purpose: must be reported"
    status=0
    report=$(check "--leak-$leak" 2>&1) || status=$?
    if [ "$status" -ne "$found" ]; then
        echo "it was not reported: this check proves nothing here" >&2
        exit 1
    fi
    printf '%s\n' "$report" | sed -n 's/^==[0-9]*== \(Conditional jump.*\|Use of uninit.*\)/\1/p' | sort -u
done
echo "good: what leaks is found, and nothing of ours does"
