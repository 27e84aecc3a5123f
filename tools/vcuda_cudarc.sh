#!/usr/bin/env bash
# cudarc's own driver tests on the virtual driver: the unit tests of its driver module, and its examples that use the driver.
#
#   tools/vcuda_cudarc.sh [FOLDER]                             FOLDER: where to build (default: target/clients/cudarc)
#   SCHEDULES="eager late random:7" tools/vcuda_cudarc.sh      one run each (default: VCUDA_SCHEDULE, else eager)
#
# The crate's sources come from the registry; NVRTC and CUDA's headers, with which the tests compile kernels to PTX, from PyPI. Prints a line for each
# test that fails, and `N passed, M failed, K skipped` at the end of each run; exit status 1 if something fails that is not among the known failures.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
work=$(realpath -m "${1:-${CARGO_TARGET_DIR:-$root/target}/clients/cudarc}")
version=0.19.10
features=std,driver,nvrtc,f16,dynamic-loading,cuda-12080
packages=(nvidia-cuda-nvrtc-cu12==12.8.93 nvidia-cuda-runtime-cu12==12.8.90)
examples='01-allocate 02-copy 03-launch-kernel 04-streams 05-device-repr 06-threading 09-constant-memory 10-function-attributes 12-context-config 13-copy-multi-gpu matmul-kernel'

# Tests that do not apply: name and reason.
skipped='
driver::safe::core::tests::test_pinned_copy_is_faster measures the speed of the link to a GPU
driver::safe::core::tests::test_default_pinned_host_reads_are_faster_than_write_combined measures the speed of host memory
driver::safe::launch::tests::test_par_launch measures that two kernels at once take half the time
driver::safe::launch::tests::test_multi_stream_concurrent_reads measures that two kernels run at the same time; here one operation runs at a time
'
# Tests that may fail: name and reason.
known='
driver::safe::launch::tests::test_device_side_assert expects no call before the wait to report the fault; where kernels run at once, the event behind the launch does
'

# The same where streams run by themselves (late, random). cudarc hands out the Vec of `clone_dtoh` without a wait: it counts on a copy to pageable
# memory being done when the call returns, of which the documentation says only that it "might be synchronous".
early='
driver::result::tests::peer_transfer_contexts reads a copy to pageable memory without a wait
driver::result::tests::peer_transfer_self reads a copy to pageable memory without a wait
driver::result::tests::re_associate_context_for_memory_op reads a copy to pageable memory without a wait
driver::safe::core::tests::test_copy_uses_correct_context reads a copy to pageable memory without a wait
driver::safe::core::tests::test_ctx_copy_to_views reads a copy to pageable memory without a wait
driver::safe::core::tests::test_from_raw_context_bind_to_thread reads a copy to pageable memory without a wait
driver::safe::core::tests::test_htod_copy_pinned reads a copy to pageable memory without a wait
driver::safe::core::tests::test_htod_copy_pinned_with_default_flags reads a copy to pageable memory without a wait
driver::safe::core::tests::test_leak_and_upgrade reads a copy to pageable memory without a wait
driver::safe::core::tests::test_new_non_primary_cross_thread reads a copy to pageable memory without a wait
driver::safe::core::tests::test_new_non_primary_htod_dtoh reads a copy to pageable memory without a wait
driver::safe::graph::tests::test_end_capture_flags reads a copy to pageable memory without a wait
driver::safe::launch::tests::test_large_launches reads a copy to pageable memory without a wait
driver::safe::launch::tests::test_launch_with_mut_and_ref_cudarc reads a copy to pageable memory without a wait
driver::safe::launch::tests::test_launch_with_views reads a copy to pageable memory without a wait
driver::safe::launch::tests::test_peer_memcpy_waits_for_src_stream reads a copy to pageable memory without a wait
driver::safe::unified_memory::tests::test_unified_memory_global reads a copy to pageable memory without a wait
driver::safe::unified_memory::tests::test_unified_memory_host reads a copy to pageable memory without a wait
driver::safe::unified_memory::tests::test_unified_memory_single_stream reads a copy to pageable memory without a wait
driver::safe::unified_memory::tests::test_unified_slice_copy_to_views reads a copy to pageable memory without a wait
driver::safe::unified_memory::tests::test_unified_slice_split_at reads a copy to pageable memory without a wait
driver::safe::unified_memory::tests::test_unified_slice_views_respect_stream_attachment reads a copy to pageable memory without a wait
example 02-copy reads a copy to pageable memory without a wait
example 03-launch-kernel reads a copy to pageable memory without a wait
example 04-streams reads a copy to pageable memory without a wait
example 09-constant-memory reads a copy to pageable memory without a wait
'

# Sources, in a workspace of their own.
if [ ! -f "$work/cudarc-$version/Cargo.toml" ]; then
  mkdir -p "$work/fetch/src"
  printf '[package]\nname = "fetch"\nversion = "0.0.0"\nedition = "2021"\n[workspace]\n[dependencies]\ncudarc = { version = "=%s", default-features = false, features = ["driver", "cuda-12080", "dynamic-loading", "std"] }\n' $version >"$work/fetch/Cargo.toml"
  : >"$work/fetch/src/lib.rs"
  source=$(cd "$work/fetch" && cargo metadata --format-version 1 | python3 -c '
import json, os, sys
print(next(os.path.dirname(p["manifest_path"]) for p in json.load(sys.stdin)["packages"] if p["name"] == "cudarc"))')
  cp -r "$source" "$work/cudarc-$version.part"
  printf '\n[workspace]\n' >>"$work/cudarc-$version.part/Cargo.toml"
  mv "$work/cudarc-$version.part" "$work/cudarc-$version"
fi
venv=$work/venv
if [ "$(cat "$venv/packages.txt" 2>/dev/null)" != "${packages[*]}" ]; then
  python3 -m venv --clear "$venv"
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "${packages[@]}"
  echo "${packages[*]}" >"$venv/packages.txt"
fi
nvidia=$(echo "$venv"/lib/python3*/site-packages/nvidia)
# One test looks for cuda_fp16.h in the folder of a system-wide toolkit.
sed -i "s|\"/usr/include\".into()|\"$nvidia/cuda_runtime/include\".into()|" "$work/cudarc-$version/src/driver/safe/launch.rs"

cd "$work/cudarc-$version"
flags=()
for example in $examples; do flags+=(--example "$example"); done
CARGO_TARGET_DIR=$work/target cargo build --quiet "${flags[@]}" --no-default-features --features $features
binary=$(CARGO_TARGET_DIR=$work/target cargo test --quiet --no-run --lib --no-default-features --features $features --message-format json |
  python3 -c 'import json, sys; print([m["executable"] for m in map(json.loads, sys.stdin) if m.get("executable")][-1])')

# On machines with several devices some more tests apply.
export VCUDA_DEVICES=${VCUDA_DEVICES:-sm_80,sm_80}
path=$("$root/tools/vcuda" --path)
export LD_LIBRARY_PATH=$path:$nvidia/cuda_nvrtc/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}

reason() { # LIST NAME: the reason that the list has for it, or nothing
  sed -n "s|^$2 ||p" <<<"$1"
}

worst=0
for schedule in ${SCHEDULES:-${VCUDA_SCHEDULE:-eager}}; do
  export VCUDA_SCHEDULE=$schedule
  began=$SECONDS passed=0 failed=0 unexpected=0 skips=0
  judge() { # NAME COMMAND…: runs one test by itself
    local name=$1 why log
    shift
    why=$(reason "$skipped" "$name")
    if [ -n "$why" ]; then
      skips=$((skips + 1))
      echo "skip $name: $why"
    elif log=$(timeout 300 "$@" 2>&1); then
      passed=$((passed + 1))
    else
      failed=$((failed + 1))
      why=$(reason "$known" "$name")
      if [ -z "$why" ] && [ "$schedule" != eager ]; then why=$(reason "$early" "$name"); fi
      [ -n "$why" ] || unexpected=$((unexpected + 1))
      echo "FAIL $name: $(grep -aE -A1 'panicked at|^Error|vcuda:' <<<"$log" | tr '\n' ' ' | cut -c1-400)${why:+ (known: $why)}"
    fi
  }
  # Ignored tests are those that want several devices, or a process of their own: each has one.
  for name in $("$binary" --list --format terse 'driver::' 2>/dev/null | sed -n 's/: test$//p'); do
    judge "$name" "$binary" --exact "$name" --include-ignored --nocapture
  done
  for example in $examples; do
    judge "example $example" "$work/target/debug/examples/$example"
  done
  if [ $unexpected -gt 0 ] || [ $passed = 0 ]; then worst=1; fi
  echo "$schedule, $((SECONDS - began)) s: $passed passed, $failed failed, $skips skipped"
done
exit $worst
