#!/bin/sh
# Makes src/ops/params.rs from kernels/params.h with bindgen.
#
#   tools/bindgen.sh           writes it
#   tools/bindgen.sh --check   makes it afresh and compares (CI); exit 1 when they differ
#
# libclang comes from LIBCLANG_PATH when that is set, else from PyPI's `libclang` wheel in a Python venv (ADACACHE_VENV, or
# target/bindgen-venv). A normal build needs neither: its output is checked in.
set -eu
cd "$(dirname "$0")/.."

if [ -z "${LIBCLANG_PATH:-}" ]; then
  venv=${ADACACHE_VENV:-target/bindgen-venv}
  [ -x "$venv/bin/python" ] || python3 -m venv "$venv"
  "$venv/bin/python" -c 'import clang' 2>/dev/null || "$venv/bin/pip" install --quiet libclang==18.1.1
  LIBCLANG_PATH=$("$venv/bin/python" -c 'import clang, os; print(os.path.join(os.path.dirname(clang.__file__), "native"))')
  export LIBCLANG_PATH
fi

made=$(mktemp)
trap 'rm -f "$made"' EXIT
# The build script writes the file; stale PTX is no reason to stop here, and compiling the crate against old structs could fail.
ADACACHE_STALE_PTX=warn ADACACHE_BINDGEN="$made" cargo check --quiet --features bindgen --lib || [ -s "$made" ]
[ -s "$made" ] || { echo "bindgen.sh: nothing was made" >&2; exit 1; }
if command -v rustfmt >/dev/null; then rustfmt --edition 2024 --config-path rustfmt.toml "$made"; fi

if [ "${1:-}" = --check ]; then
  if ! diff -u src/ops/params.rs "$made"; then
    echo "bindgen.sh: src/ops/params.rs does not match kernels/params.h: run tools/bindgen.sh and commit the result" >&2
    exit 1
  fi
else
  cat "$made" > src/ops/params.rs
fi
