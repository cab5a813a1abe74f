#!/usr/bin/env bash
# Claims prekeys of several agents for several askers, kills the service with SIGKILL again and again meanwhile, and checks
# that no prekey was handed out twice.
#
#   scripts/prekeys.sh [CLAIMS=10000000]        CRETO_SEED=7 takes the seed of an earlier run
set -euo pipefail
cd "$(dirname "$0")/.."

CRETO_PREKEY_CLAIMS=${1:-10000000} exec cargo test --locked --release --quiet --package creto-service --test prekeys -- \
    --exact no_prekey_is_handed_out_twice_by_a_process_that_is_killed --nocapture
