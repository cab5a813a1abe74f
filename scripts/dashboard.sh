#!/usr/bin/env bash
# Opens the dashboard of a real node under load in headless Chromium: numbers must move, proofs must hold, proofs and checkpoints that
# were changed on the way must not, and a node that is away must be seen to be. By hand: CI has no browser.
#
#   scripts/dashboard.sh [FOLDER]        keeps pictures there; docs/pictures has those of the documentation, made
#                                        smaller by pngquant
#
# Needs node, npm (for playwright-core, into a temporary folder) and Chromium: apt-get install chromium. CHROMIUM names it where it is
# not /usr/bin/chromium, CRETO a binary that is built already.
set -euo pipefail
cd "$(dirname "$0")/.."

if [[ -z ${CRETO:-} ]]; then
    cargo build --locked --release --quiet
    CRETO=$PWD/target/release/creto
fi
node scripts/proofs.mjs

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
if [[ -z ${PLAYWRIGHT:-} ]]; then
    npm install --silent --no-save --prefix "$folder" playwright-core@1.65.1
    PLAYWRIGHT=$folder
fi
export CRETO PLAYWRIGHT CHROMIUM=${CHROMIUM:-/usr/bin/chromium} PICTURES=${1:-}
node scripts/dashboard.mjs "$folder/node"
