#!/bin/sh
# Compiles kernels/*.cu to ptx/sm_80/*.ptx and writes ptx/manifest.json. Needs only Python 3.9 and PyPI: no GPU, no CUDA toolkit.
#
#   tools/compile_ptx.sh             compile what changed, ask ptxas about every GPU generation, write ptx/
#   tools/compile_ptx.sh --check     compile everything into a temporary folder and compare with ptx/
#   tools/compile_ptx.sh --help      the other options
#
# The compilers live in a virtual environment: $ADACACHE_VENV, or .venv in the project.
set -eu
root=$(CDPATH= cd -- "$(dirname -- "$0")/.." && pwd)
venv=${ADACACHE_VENV:-$root/.venv}
pins=$root/tools/ptx-requirements.txt
stamp=$venv/adacache-ptx-requirements.txt

if ! [ -x "$venv/bin/python" ]; then
  echo "making a virtual environment in $venv" >&2
  "${PYTHON:-python3}" -m venv "$venv"
fi
if ! cmp -s "$pins" "$stamp"; then
  echo "installing the compiler wheels of tools/ptx-requirements.txt (about 80 MB)" >&2
  # --no-deps: ptxas and NVRTC stand alone; their declared dependencies would bring a whole host toolchain.
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps -r "$pins"
  cp "$pins" "$stamp"
fi
exec "$venv/bin/python" "$root/tools/compile_ptx.py" "$@"
