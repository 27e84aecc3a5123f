#!/usr/bin/env bash
# Everything that only a machine with an NVIDIA GPU can tell, in one run, packed into one file to send back:
#   all tests on the GPU alone, reference cases, differences between the GPU and the virtual GPU for each kernel, the benchmark table,
#   videos of three sizes with reports and one profile.
#
#   tools/gpu_suite.sh                    on the GPU that ADACACHE_DEVICE names, without it on the first; about half an hour
#   tools/gpu_suite.sh --device cuda:1    on another one
#   tools/gpu_suite.sh --device vm        the same without a GPU, with small sizes: a test of this script, its times mean nothing
#
# Options: --out FOLDER (default gpu-suite-DATE), --no-tests (skip `cargo test`), --binary FILE (use this adacache, build nothing),
# --quick (small sizes on a GPU too: for a virtual driver).
# Needs Rust (unless --binary and --no-tests), bash, tar. Every part runs even when an earlier one failed; the exit status is 1
# if one did, and 2 if nothing could be run at all.
set -uo pipefail
cd "$(dirname "$0")/.."

device=${ADACACHE_DEVICE:-auto} out='' tests=yes binary='' quick=no
while [ $# -gt 0 ]; do
  case $1 in
    --device) device=${2:?--device needs a name}; shift 2 ;;
    --out) out=${2:?--out needs a folder}; shift 2 ;;
    --binary) binary=${2:?--binary needs a file}; shift 2 ;;
    --no-tests) tests=no; shift ;;
    --quick) quick=yes; shift ;;
    -h | --help) sed -n '2,/^set/s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) echo "gpu_suite.sh: unknown option $1 (see --help)" >&2; exit 2 ;;
  esac
done
out=${out:-gpu-suite-$(date +%Y%m%d-%H%M%S)}
case $device in
  auto) device=cuda ;;
  vm | vm:checked) quick=yes ;;
esac
# For every test and every program below.
export ADACACHE_DEVICE=$device

if [ -z "$binary" ]; then
  command -v cargo >/dev/null || { echo "gpu_suite.sh: cargo is missing: install Rust (https://rustup.rs)" >&2; exit 2; }
  cargo build --release --locked || exit 2
  binary=${CARGO_TARGET_DIR:-target}/release/adacache
fi
[ -x "$binary" ] || { echo "gpu_suite.sh: $binary is no program" >&2; exit 2; }

# A GPU has to answer before anything is written.
if [ "${device%:checked}" != vm ]; then
  id=$device
  [ "$id" = cuda ] && id=cuda:0
  found=$("$binary" devices | grep -E "^(cuda|$id) ")
  if ! "$binary" devices | grep -E "^$id " | grep -qv "not available"; then
    echo "gpu_suite.sh: no GPU $device: ${found:-$("$binary" devices)}" >&2
    echo "It needs an NVIDIA GPU since Ampere and a driver since 525. To try the script without one: --device vm" >&2
    exit 2
  fi
fi

mkdir -p "$out" || exit 2
failed=()
# part NAME COMMAND…: runs a command, keeps what it prints in NAME.log, remembers whether it failed.
part() {
  local name=$1 began=$SECONDS
  shift
  echo "== $name"
  if "$@" >"$out/$name.log" 2>&1; then
    echo "   ok, $((SECONDS - began)) s"
  else
    echo "   FAILED, $((SECONDS - began)) s: $(tail -n 1 "$out/$name.log")"
    failed+=("$name")
  fi
}
facts() {
  date
  git log -1 --format='%H %s' 2>/dev/null
  uname -a
  "$binary" --version
  "$binary" devices
  if command -v nvidia-smi >/dev/null; then nvidia-smi -q; else echo "no nvidia-smi"; fi
}
# run FILE ARGUMENT…: adacache's output to a file of its own.
run() {
  local file=$out/$1
  shift
  "$binary" "$@" >"$file"
}

part facts facts
[ $tests = no ] || part tests cargo test --workspace --release --locked --no-fail-fast

if [ $quick = yes ]; then
  cases=(tests/goldens/stdit3_a/forward_plain) dtypes=(bf16) bench=(--quick --shapes src/bench/example.toml)
  sizes=(64x64:16 64x128:8 128x128:8) steps=(--steps 3) reference=(--ops residual,norm,sampler)
else
  cases=(tests/goldens/*/) dtypes=(bf16 f16 f32) bench=() sizes=(64x64:16 256x256:32 512x512:64) steps=() reference=()
fi
for dtype in "${dtypes[@]}"; do
  part "check-$dtype" run "check-$dtype.jsonl" check "${cases[@]}" --dtype "$dtype" --json
  part "differences-$dtype" run "differences-$dtype.json" bench --compare vm --dtype "$dtype" --json "${reference[@]}"
done
for dtype in "${dtypes[@]/f32/}"; do
  [ -n "$dtype" ] || continue
  part "bench-$dtype" run "bench-$dtype.json" bench --dtype "$dtype" --json "${bench[@]}"
done
prompt="large red circle bouncing fast navy"
for size in "${sizes[@]}"; do
  part "generate-${size%:*}" "$binary" generate "$prompt" --size "${size%:*}" --frames "${size#*:}" "${steps[@]}" \
    --out "$out/${size%:*}.mp4" --report "$out/generate-${size%:*}.json"
done
part profile "$binary" generate "$prompt" "${steps[@]}" --out "$out/profile.mp4" --profile "$out/profile.json"

if [ ${#failed[@]} -gt 0 ]; then printf '%s\n' "${failed[@]}"; else echo "everything ran"; fi >"$out/summary.txt"
tar -czf "$out.tar.gz" -C "$(dirname "$out")" "$(basename "$out")" || exit 2
echo "== $(tr '\n' ' ' <"$out/summary.txt"); results in $out.tar.gz"
[ ${#failed[@]} -eq 0 ]
