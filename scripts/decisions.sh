#!/usr/bin/env bash
# Holds decisions that shards keep against decisions made afresh and against a model that knows no Rego, while policies, roles,
# states, keys and the clock change: ten million of them unless told otherwise. Nothing may differ.
#
#   scripts/decisions.sh [DECISIONS=10000000] [--seed NUMBER] [--json]
set -euo pipefail
cd "$(dirname "$0")/.."

decisions=10000000 seed=1 json=
while [ $# -gt 0 ]; do
    case $1 in
        --json) json=1 ;;
        --seed) seed=${2:?--seed takes a number}; shift ;;
        *) decisions=$1 ;;
    esac
    shift
done
[ -n "$json" ] || echo "$decisions decisions from seed $seed on"
out=$(CRETO_DECISIONS=$decisions CRETO_SEED=$seed cargo test --locked --release --quiet -p creto-service --test decisions -- \
    --nocapture what_a_shard_keeps) || { printf '%s\n' "$out" >&2; exit 1; }
result=$(printf '%s\n' "$out" | grep -o '{"decisions".*}')
if [ -n "$json" ]; then
    printf '%s\n' "$result"
else
    printf '%s\n' "$result" | tr -d '{}"' | tr ',' '\n' | sed 's/^ *//'
    echo "good: nothing differs, and nothing was allowed without a grant"
fi
