#!/usr/bin/env bash
# The Debian package, with what is made by the binary itself: its manual and completions. Needs cargo-deb (cargo install --locked cargo-deb).
# The package lies in target/debian.
#
#   scripts/package-deb.sh [PROFILE=release]
set -euo pipefail
cd "$(dirname "$0")/.."

profile=${1:-release}
folder=$profile
if [ "$profile" = dev ]; then folder=debug; fi
cargo build --locked --profile "$profile" --package creto-cli --bin creto

binary=${CARGO_TARGET_DIR:-target}/$folder/creto
made=packaging/made
rm -rf "$made"
mkdir -p "$made/completions"
"$binary" man --out "$made/man" >/dev/null
"$binary" completions bash >"$made/completions/creto"
"$binary" completions zsh >"$made/completions/_creto"
"$binary" completions fish >"$made/completions/creto.fish"

cargo deb --package creto-cli --no-build --profile "$profile"
