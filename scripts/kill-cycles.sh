#!/usr/bin/env bash
# Kills a node under load with SIGKILL, over and over, and checks that nothing acknowledged was lost or came twice.
#
#   scripts/kill-cycles.sh [CYCLES=200] [--seed NUMBER] [--json] ...
set -euo pipefail
cd "$(dirname "$0")/.."

cycles=200
case "${1:-}" in
    '' | -*) ;;
    *) cycles=$1; shift ;;
esac
cargo build --locked --release --quiet --package creto-cli
exec "${CARGO_TARGET_DIR:-target}/release/creto" kill-cycles --cycles "$cycles" "$@"
