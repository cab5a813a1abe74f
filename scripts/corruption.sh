#!/usr/bin/env bash
# Damages a log of segments and digests in a real folder at random places, 100,000 of them unless told otherwise, and holds
# what the store says of each against what was written: found and placed, cut, or harmless; never served, never gone.
#
#   scripts/corruption.sh                     seed 1, 100,000 places in 128 segments of 1 MiB
#   CRETO_SEED=7 CRETO_PLACES=1000000 scripts/corruption.sh
set -euo pipefail
cd "$(dirname "$0")/.."
export CRETO_SEED="${CRETO_SEED:-1}" CRETO_PLACES="${CRETO_PLACES:-100000}" CRETO_SEGMENTS="${CRETO_SEGMENTS:-128}"
exec cargo test --release -p creto-store --test corruption -- --ignored --nocapture random_places_of_a_large_log
