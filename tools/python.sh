#!/usr/bin/env bash
# The Python package: builds the wheel, installs it into a fresh virtual environment beside torch and diffusers from PyPI, runs its tests and examples.
#
#   tools/python.sh [PYTEST ARGUMENT…]
#
# ADACACHE_PYTHON_ENV=FOLDER is an environment that has torch, diffusers, transformers, accelerate, maturin and pytest; without it one is made in
# target/python/env, which stays there, because torch is large. Where there is no Python, it says so and succeeds. Needs Rust.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
limit=$((12 * 1024 * 1024))

if ! python3 -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
  echo "== no Python since 3.10 with venv is here: the Python package is not built and not tested"
  exit 0
fi
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

env=${ADACACHE_PYTHON_ENV:-$target/python/env}
if [ -z "${ADACACHE_PYTHON_ENV-}" ] && [ ! -f "$env/whole" ]; then
  echo "== torch and diffusers from PyPI into $env"
  rm -rf "$env"
  python3 -m venv "$env"
  "$env/bin/pip" install --quiet --disable-pip-version-check --retries 0 --timeout 10 --index-url https://download.pytorch.org/whl/cpu torch numpy >/dev/null 2>&1 ||
    "$env/bin/pip" install --quiet --disable-pip-version-check torch numpy
  "$env/bin/pip" install --quiet --disable-pip-version-check 'diffusers>=0.35' transformers accelerate 'maturin>=1.9,<2' pytest
  touch "$env/whole"
fi

cd "$root/python"
"$env/bin/python" -m maturin build --quiet --release --locked --target-dir "$target" --out "$scratch/wheels"
wheel=$(echo "$scratch"/wheels/adacache-*-abi3-manylinux*.whl)
size=$(stat -c %s "$wheel")
echo "== $(basename "$wheel"): $size bytes"
[ "$size" -lt $limit ] || { echo "the wheel is larger than $limit bytes" >&2; exit 1; }

# Fresh, and without an index: installing it may fetch nothing. What is the user's own is seen through a path file.
"$env/bin/python" -m venv "$scratch/venv"
"$scratch/venv/bin/pip" install --quiet --disable-pip-version-check --no-index "$wheel"
"$env/bin/python" -c 'import sysconfig; print("import site; site.addsitedir(%r)" % sysconfig.get_path("purelib"))' >"$(echo "$scratch"/venv/lib/python3*/site-packages)/env.pth"
program=$target/release/adacache
[ -x "$program" ] && export ADACACHE_PROGRAM=$program
# From elsewhere, so that the package is the installed one.
cd "$scratch"
"$scratch/venv/bin/python" -c 'import adacache, sys; sys.exit(not adacache.__file__.startswith(sys.prefix))'
"$scratch/venv/bin/python" -m pytest -q -p no:cacheprovider "$root/python/tests" "$@"
for example in "$root"/python/examples/*.py; do
  echo "== $(basename "$example")"
  "$scratch/venv/bin/python" "$example"
done
