#!/usr/bin/env bash
# The C library: builds libadacache.so with versioned symbols, checks adacache.h, and builds and runs the example in C on the virtual driver.
#
#   tools/capi.sh [FOLDER]     FOLDER (default: target/capi) gets lib/libadacache.so and include/adacache.h
#
# Needs Rust and a C compiler.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
folder=${1:-$target/capi}
cd "$root/python"

cargo run --quiet --release --locked --target-dir "$target" -p adacache-header -- --check
cargo build --quiet --release --locked --target-dir "$target" -p adacache-python -p adacache-capi
mkdir -p "$folder/lib" "$folder/include"
cp include/adacache.h "$folder/include/"
# rustc gives a library one anonymous version: the linker gives it the named ones.
cc -shared -o "$folder/lib/libadacache.so.0" -Wl,--whole-archive "$target/release/libadacache_c.a" -Wl,--no-whole-archive \
  -Wl,--version-script=capi/adacache.map -Wl,-soname,libadacache.so.0 -Wl,--gc-sections -Wl,--no-undefined -s -lpthread -ldl -lm -lgcc_s -lc
ln -sf libadacache.so.0 "$folder/lib/libadacache.so"
if nm -D --defined-only "$folder/lib/libadacache.so" | grep -v ' adacache_[a-z_]*@@ADACACHE_0.2$' | grep -qv ' A ADACACHE_0.2'; then
  echo "libadacache.so shows symbols without a version" >&2
  exit 1
fi
cc -std=c11 -O1 -Wall -Wextra -Werror -D_GNU_SOURCE -I "$folder/include" capi/example/generate.c -L "$folder/lib" -ladacache -ldl -lm -o "$folder/generate"
export LD_LIBRARY_PATH=$folder/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
for schedule in eager late random:7; do
  echo "== the example in C on the virtual driver, $schedule"
  VCUDA_SCHEDULE=$schedule VCUDA_CHECKED=1 VCUDA_REPORT="$folder/report.json" "$root/tools/vcuda" "$folder/generate"
done
# The library waits for nothing: there are the example's own waits, one for the output of each of 30 steps, and for decisions that were on their way.
python3 - "$folder/report.json" <<'END'
import json, sys
report = json.load(open(sys.argv[1]))
waits = {name: count for name, count in report["calls_by_function"].items() if "Synchronize" in name}
wrong = [waits.pop("cuStreamSynchronize") != 30, waits.pop("cuEventSynchronize") >= 30, bool(waits), report["leaked"], report["faults"]]
sys.exit(f"waits, leaks or faults: {report}" if any(wrong) else 0)
END
