#!/usr/bin/env bash
# Counts the instructions of the stages under valgrind's callgrind, in the profile of the product, and holds them against the baseline of
# this kind of processor and compiler in benches/baseline: a stage that takes more than 3 % more is status 1, counts of another kind are
# refused. --write makes the baseline anew. docs/performance.md says what a count says. Not part of CI: it needs valgrind (apt install
# valgrind) and a release build.
#
#   scripts/instructions.sh [--write]
set -euo pipefail
cd "$(dirname "$0")/.."

if ! command -v valgrind >/dev/null; then
    echo "valgrind is not installed; apt install valgrind" >&2
    exit 1
fi
# With the whole workspace, so that crates have the features that they have in the product.
cargo build --locked --release --quiet --workspace --bin creto-instructions
exec "${CARGO_TARGET_DIR:-target}/release/creto-instructions" "$@"
