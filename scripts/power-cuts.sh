#!/usr/bin/env bash
# Cuts the power of the disk under a loaded node, over and over, and checks that nothing acknowledged was lost or came
# twice; then does the same to nodes that do not sync or do not wait for it, which must lose something. Needs root, /dev/fuse, loop devices.
#
#   scripts/power-cuts.sh [CUTS=200] [--seed NUMBER] [--keep any|nothing|first|writes|sectors] [--size BYTES]
set -euo pipefail
cd "$(dirname "$0")/.."

cuts=200
case "${1:-}" in
    '' | -*) ;;
    *) cuts=$1; shift ;;
esac
target=${CARGO_TARGET_DIR:-target}
cargo build --locked --release --quiet --package creto-cli --package creto-powercut
"$target/release/creto-powercut" run --creto "$target/release/creto" --cuts "$cuts" "$@"

# In a folder of its own: no binary with planted bugs lies where a product is looked for.
cargo build --locked --quiet --package creto-cli --features planted-bugs --target-dir "$target/planted"
for bug in skip-sync sync-not-awaited; do
    "$target/release/creto-powercut" run --creto "$target/planted/debug/creto" \
        --cuts 6 --keep nothing --planted "$bug" > /dev/null
    echo "a node with the planted bug $bug was found"
done
