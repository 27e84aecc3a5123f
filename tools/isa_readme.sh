#!/bin/sh
# Writes what `ptx-vm isa` lists into crates/ptx-vm/README.md.
#
#   tools/isa_readme.sh           writes it
#   tools/isa_readme.sh --check   exit 1 when the README is out of date (CI)
set -eu
cd "$(dirname "$0")/.."
readme=crates/ptx-vm/README.md
made=$(mktemp)
trap 'rm -f "$made"' EXIT
# The whole workspace: building one package alone would choose other features and compile everything again.
cargo build --quiet --release --workspace --bins
list=$("${CARGO_TARGET_DIR:-target}/release/ptx-vm" isa | sed 's/ *$//')
LIST=$list awk '
  /^<!-- isa -->$/   { print; print "```text"; print ENVIRON["LIST"]; print "```"; skip = 1 }
  /^<!-- \/isa -->$/ { skip = 0 }
  !skip              { print }
' "$readme" > "$made"
if [ "${1:-}" = --check ]; then
  diff -u "$readme" "$made" || { echo "isa_readme.sh: run tools/isa_readme.sh and commit $readme" >&2; exit 1; }
else
  cat "$made" > "$readme"
fi
