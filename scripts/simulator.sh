#!/usr/bin/env bash
# Runs the simulator over a million seeds, or those that are named, on every core: about 45 minutes on two.
#
#   scripts/simulator.sh [SEEDS=0..1000000] [--json] ...
set -euo pipefail
cd "$(dirname "$0")/.."

seeds=0..1000000
case "${1:-}" in
    '' | -*) ;;
    *) seeds=$1; shift ;;
esac
cargo build --locked --release --quiet --package creto-sim
exec "${CARGO_TARGET_DIR:-target}/release/creto-sim" --seeds "$seeds" --jobs "$(nproc)" "$@"
