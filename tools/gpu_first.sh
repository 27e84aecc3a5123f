#!/usr/bin/env bash
# What only a GPU can tell, from a machine that is there for minutes and has neither network nor Rust.
#
#   tools/gpu_first.sh prepare              here: builds, packs program, tests and references into out/gpu_first (60 MiB at most)
#   tools/gpu_first.sh run                  there: runs everything within 8 minutes, results in out/gpu_first/results.tar.gz
#   tools/gpu_first.sh report RESULTS       anywhere: one table of it, measured beside modelled, as Markdown
#
# out/gpu_first has a copy of this script and all that it needs: the folder is enough, the repository need not go along.
#
# prepare  --out FOLDER (out/gpu_first)  --gpu NAME (h200: whose figures are modelled; `adacache plan --help` lists them)
#          --binary FILE (this adacache, not a new one)  --no-tests (without the test programs)
#          --quick (references of few steps, and less time for packing: to try the script)
# run      --device NAME ($ADACACHE_DEVICE, or cuda)  --minutes N (8)  --out FOLDER (beside the archive)  --archive FILE  --only PART,…
#          --quick (small sizes and few tests: to try the script, with --device vm, which implies it, or on a virtual driver)
# report   RESULTS is results.tar.gz or the folder that it holds
#
# Parts of a run, the most valuable first: facts jit sprites goldens tests bench compare full ncu sanitizer drills extras. Each has its own
# limit of time and the results are packed again after each, so that whatever ends early is kept. A part that fails, or lacks its tool, says
# so and the next goes on. The exit status is 1 if something failed, and 2 if nothing could be run at all.
# shellcheck disable=SC2317 # functions that are called by name
set -uo pipefail
export LC_ALL=C

self=$(readlink -f "$0")
here=$(dirname "$self")
die() {
  echo "gpu_first.sh: $*" >&2
  exit 2
}
usage() { sed -n '2,/^set/s/^# \{0,1\}//p' "$self"; }

prompt="large red circle bouncing fast navy"
# The runs that are compared between devices, bit for bit or within a bound.
reference=(generate "$prompt" --seed 7 --cache adacache-fast --quiet --steps)
test_programs=(device ops kernels streaming parity)
parts=(facts jit sprites goldens tests bench compare full ncu sanitizer drills extras)

# ---- prepare ---------------------------------------------------------------------------------------------------------

prepare() {
  local out=$here/../out/gpu_first tests=yes binary='' gpu=h200 steps=30 packing=("--lzma2=preset=6,dict=192MiB") stage name path dtype sums
  while [ $# -gt 0 ]; do
    case $1 in
      --out) out=$(readlink -m "${2:?--out needs a folder}"); shift 2 ;;
      --gpu) gpu=${2:?--gpu needs a name}; shift 2 ;;
      --binary) binary=$(readlink -f "${2:?--binary needs a file}"); shift 2 ;;
      --no-tests) tests=no; shift ;;
      --quick) steps=4 packing=(-0); shift ;;
      *) die "prepare: unknown option $1 (see --help)" ;;
    esac
  done
  [ -f "$here/../Cargo.toml" ] || die "prepare needs the repository around this script"
  cd "$here/.." || exit 2
  for name in xz strip python3; do
    command -v "$name" >/dev/null || die "$name is missing"
  done
  if [ -z "$binary" ] || [ "$tests" = yes ]; then
    command -v cargo >/dev/null || die "cargo is missing: install Rust (https://rustup.rs)"
  fi
  if [ -z "$binary" ]; then
    cargo build --release --locked || exit 2
    binary=${CARGO_TARGET_DIR:-target}/release/adacache
  fi
  stage=$(mktemp -d) || exit 2
  # shellcheck disable=SC2064 # the folder of now
  trap "rm -rf '$stage'" EXIT
  mkdir -p "$out" "$stage"/{bin,reference,modelled,tools,shapes}
  strip -o "$stage/bin/adacache" "$binary" || exit 2
  if [ "$tests" = yes ]; then
    # shellcheck disable=SC2046 # options without blanks
    cargo test --release --locked --no-run --message-format=json $(printf -- '--test %s ' "${test_programs[@]}") >"$stage/messages" || exit 2
    python3 -B tools/gpu_first.py programs <"$stage/messages" >"$stage/programs" || exit 2
    while read -r name path; do
      strip -o "$stage/bin/test-$name" "$path" || exit 2
    done <"$stage/programs"
    rm "$stage/messages" "$stage/programs"
    for name in "${test_programs[@]}"; do
      [ -x "$stage/bin/test-$name" ] || die "cargo built no test program $name"
    done
  fi

  # What the programs read when they run: kernels and the sprites model are inside them.
  cp tools/{gpu_first.sh,gpu_first.py,gpu_compare.py,compare_triton.py,compile_ptx.py,sass.py,tiny_opensora.py} "$stage/tools"
  cp src/bench/example.toml "$stage/shapes/small.toml"
  cp src/bench/wan.toml "$stage/shapes/wan.toml"
  git ls-files -z tests/goldens/{stdit3_a,opensora_vae_a,opensora_tiny/OpenSora-STDiT-v3} | xargs -0 cp --parents -t "$stage" || exit 2

  echo "$steps" >"$stage/reference/steps"
  for dtype in f32 bf16; do
    echo "== reference: sprites in $dtype on the virtual GPU"
    "$binary" "${reference[@]}" "$steps" --dtype "$dtype" --device vm --out "$stage/reference/sprites-$dtype.safetensors" \
      --report "$stage/reference/sprites-$dtype.json" || exit 2
  done
  echo "== modelled figures"
  modelled() { "$binary" "$@" --json >"$stage/modelled/$name.json" || exit 2; }
  name=plan-none modelled plan --model opensora-v1.2 --gpu "$gpu" --resolution 720p --frames 51 --steps 4 --cache none
  name=plan-interval modelled plan --model opensora-v1.2 --gpu "$gpu" --resolution 720p --frames 51 --steps 4 --cache interval-2
  name=kernels modelled kernels --arch "$gpu" --no-counters

  {
    echo "revision $(git rev-parse HEAD)$([ -z "$(git status --porcelain)" ] || echo ', and changes that are not committed')"
    echo "prepared $(date -u +%Y-%m-%dT%H:%MZ)"
    echo "program $("$binary" --version)"
    cargo --version 2>/dev/null
    ldd --version | head -n 1
  } >"$stage/prepared.txt"
  sums=$(cd "$stage" && find . -type f -print0 | sort -z | xargs -0 sha256sum) || exit 2
  echo "$sums" >"$stage/sums"
  # The programs are alike, and so are goldens and models: a dictionary that reaches back over all of them.
  tar --sort=name --owner=0 --group=0 -C "$stage" -cf - . | xz -T1 "${packing[@]}" >"$out/first.tar.xz.tmp" || exit 2
  mv "$out/first.tar.xz.tmp" "$out/first.tar.xz"
  cp tools/gpu_first.{sh,py} "$out"

  local packed tree
  packed=$(stat -c %s "$out/first.tar.xz")
  tree=$(git ls-files -z --cached --others --exclude-standard --deduplicate | xargs -0 -r stat -c %s 2>/dev/null | awk '{ n += $1 } END { print n + 0 }')
  size() { awk -v n="$1" 'BEGIN { printf "%.1f MiB", n / 1048576 }'; }
  echo "== $out/first.tar.xz: $(size "$packed"), unpacked $(size "$(du -sb "$stage" | cut -f1)"); this checkout is $(size "$tree")"
  [ "$packed" -le $((60 << 20)) ] || die "the archive is above 60 MiB"
  if [ $((packed + tree)) -gt $((60 << 20)) ]; then
    echo "   Together they are $(size $((packed + tree))). Where the checkout travels too, make it small before and whole afterwards:"
    echo "   git sparse-checkout set --no-cone /tools/gpu_first.sh /.gitignore    …    git sparse-checkout disable"
  fi
}

# ---- run -------------------------------------------------------------------------------------------------------------

run() {
  local out='' archive='' only='' minutes=8 name failed
  export device=${ADACACHE_DEVICE:-cuda} quick=no made='' sampler='' running=''
  [ "$device" != auto ] || device=cuda
  while [ $# -gt 0 ]; do
    case $1 in
      --device) device=${2:?--device needs a name}; shift 2 ;;
      --minutes) minutes=${2:?--minutes needs a number}; shift 2 ;;
      --out) out=${2:?--out needs a folder}; shift 2 ;;
      --archive) archive=${2:?--archive needs a file}; shift 2 ;;
      --only) only=${2:?--only needs parts}; shift 2 ;;
      --quick) quick=yes; shift ;;
      *) die "run: unknown option $1 (see --help)" ;;
    esac
  done
  [[ $minutes =~ ^[0-9]+$ ]] || die "--minutes takes a whole number"
  case $device in vm*) quick=yes ;; esac
  for name in ${only//,/ }; do
    [[ " ${parts[*]} " == *" $name "* ]] || die "no part $name: there are ${parts[*]}"
  done
  # Beside this script, or where prepare puts it in a checkout.
  for name in "$here/first.tar.xz" "$here/../out/gpu_first/first.tar.xz"; do
    [ -n "$archive" ] || [ ! -f "$name" ] || archive=$(readlink -f "$name")
  done
  [ -f "$archive" ] || die "no archive ${archive:-first.tar.xz}: tools/gpu_first.sh prepare makes it"
  out=${out:-$(dirname "$archive")}
  deadline=$(($(date +%s) + 60 * minutes))
  work=$(mktemp -d) || exit 2
  cleanup() {
    local process
    for process in $running $made $sampler; do kill "$process" 2>/dev/null; done
    wait
    rm -rf "$work"
  }
  trap cleanup EXIT
  trap 'exit 130' INT TERM
  export deadline work results=$work/results bin=$work/bin/adacache
  # What the driver compiles from PTX is kept for the run: the first program to need a module pays for it, part jit.
  export CUDA_CACHE_PATH=$work/cache ADACACHE_DEVICE=$device PYTHONDONTWRITEBYTECODE=1
  mkdir -p "$results/logs"
  tar -xJf "$archive" -C "$work" 2>/dev/null || python3 -m tarfile -e "$archive" "$work" || die "cannot unpack $archive: it takes xz, or Python"
  (cd "$work" && sha256sum --quiet -c sums) || die "$archive is damaged"
  cp -r "$work/modelled" "$work/prepared.txt" "$results"
  echo "device $device, quick $quick, $minutes minutes" >"$results/run.txt"

  # A GPU has to answer before anything else.
  case $device in
    vm*) ;;
    *)
      name=$device
      [ "$name" = cuda ] && name=cuda:0
      timeout -k 5 60 "$bin" devices >"$results/devices.txt" 2>&1
      if ! grep -E "^$name " "$results/devices.txt" | grep -qv "not available"; then
        die "no GPU $device:"$'\n'"$(cat "$results/devices.txt")"$'\n'"It needs an NVIDIA GPU since Ampere and a driver since 525. To try the script without one: --device vm"
      fi
      ;;
  esac

  mkdir -p "$out" || exit 2
  out=$(readlink -f "$out")
  wanted() { [ -z "$only" ] || [[ ",$only," == *",$1,"* ]]; }
  if wanted full && [ "$quick" = no ]; then
    # 2.4 GB, made on a core of its own while the first parts run.
    mkdir -p "$work/full"
    python3 "$work/tools/tiny_opensora.py" "$work/full" --full >"$results/logs/make-full.log" 2>&1 &
    made=$!
  fi
  if command -v nvidia-smi >/dev/null; then
    nvidia-smi --query-gpu=timestamp,clocks.sm,clocks.mem,power.draw,temperature.gpu,memory.used,utilization.gpu --format=csv,nounits -lms 500 \
      >"$results/smi.csv" 2>/dev/null &
    sampler=$!
  fi
  for name in "${parts[@]}"; do
    if wanted "$name"; then
      run_part "$name"
      pack "$out"
    fi
  done
  failed=$(awk -F '\t' '$2 != "ok" && $2 != "skipped" { print $1 }' "$results/parts.tsv" | tr '\n' ' ')
  echo "== ${failed:+NOT ok: }${failed:-everything that could run is ok}; results in $out/results.tar.gz"
  [ -z "$failed" ]
}

# Seconds until the end of the run.
left() { echo $((deadline - $(date +%s))); }

# Seconds that a part may take at most, whatever is left.
limit() {
  case $1 in
    facts) echo 30 ;; jit) echo 90 ;; sprites) echo 60 ;; goldens) echo 60 ;; tests) echo 120 ;; bench) echo 90 ;; compare) echo 75 ;;
    full) echo 100 ;; ncu) echo 90 ;; sanitizer) echo 90 ;; drills) echo 60 ;; extras) echo 60 ;;
  esac
}

# run_part NAME: in a process of its own, so that its limit ends whatever it started.
run_part() {
  local name=$1 began=$EPOCHREALTIME most rest verdict status seconds
  most=$(limit "$name") rest=$(($(left) - 5))
  # Where a virtual GPU stands in, everything takes longer.
  [ "$quick" = no ] || most=$((4 * most))
  [ "$most" -lt "$rest" ] || most=$rest
  if [ "$rest" -lt 5 ]; then
    verdict="not run: no time left"
  else
    echo "== $name (at most $most s)"
    # In the background, so that a signal to this script is heard at once; bash has such a process ignore SIGINT, which a part needs.
    part=$name end=$(($(date +%s) + most)) env --default-signal=INT timeout -k 5 "$most" bash "$self" part "$name" >"$results/logs/$name.log" 2>&1 </dev/null &
    running=$!
    wait "$running"
    status=$? running=''
    if [ "$status" -eq 124 ] || [ "$status" -eq 137 ]; then
      verdict="ended after its $most s"
    elif [ "$status" -ne 0 ] || grep -q "^$name"$'\t[^\t]*\tFAILED' "$results/checks.tsv" 2>/dev/null; then
      verdict=FAILED
    elif ! grep -q "^$name"$'\t[^\t]*\tok' "$results/checks.tsv" 2>/dev/null; then
      verdict=skipped
    else
      verdict=ok
    fi
    [ ! -f "$results/checks.tsv" ] || awk -F '\t' -v part="$name" '$1 == part { printf "   %-8s %s: %s\n", $3, $2, $4 }' "$results/checks.tsv"
  fi
  seconds=$(awk -v a="$began" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.1f", b - a }')
  printf '%s\t%s\t%s\n' "$name" "$verdict" "$seconds" >>"$results/parts.tsv"
  echo "   $name: $verdict, $seconds s, $(left) s left"
}

# pack FOLDER: all results so far; a file beyond 6 MB is left out by name.
pack() {
  (
    cd "$work" || exit
    find results -type f -size +6M -printf '%p is left out: %s bytes\n' >left-out.txt
    mv left-out.txt results/left-out.txt
    # 1: a file grew meanwhile, as smi.csv does.
    find results -type f ! -size +6M -print0 | tar --null -T - -czf "$1/results.tar.gz.tmp" || [ $? -eq 1 ]
  ) && mv "$1/results.tar.gz.tmp" "$1/results.tar.gz"
}

# The part that runs in this process, and when it has to end.
part=${part:-} end=${end:-}

# verdict CHECK ok|FAILED|skipped DETAIL: a line of the results.
verdict() {
  local detail=${3//[$'\t\n']/ }
  printf '%s\t%s\t%s\t%s\n' "$part" "$1" "$2" "${detail:0:400}" >>"$results/checks.tsv"
}

# check NAME COMMAND…: by the exit status; what the command prints goes to a file of its own, its last line and the seconds into the results.
check() {
  local name=$1 log="$results/logs/$part-$1.log" began=$EPOCHREALTIME status seconds
  shift
  "$@" >"$log" 2>&1
  status=$?
  seconds=$(awk -v a="$began" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.2f s", b - a }')
  if [ "$status" -eq 0 ]; then
    verdict "$name" ok "$seconds"
  else
    verdict "$name" FAILED "exit status $status after $seconds: $(grep -v '^ *$' "$log" | tail -n 1)"
  fi
  return "$status"
}

# lacks TOOL: says that a part cannot run without it.
lacks() {
  command -v "$1" >/dev/null && return 1
  verdict "$1" skipped "$1 is not there"
}

first() { python3 "$work/tools/gpu_first.py" "$@"; }
# inner SECONDS COMMAND…: a limit within a part's; --foreground leaves the command in the part's group, so that the part's end reaches it.
inner() { timeout --foreground -k 5 "$@"; }

part_facts() {
  local tool
  date
  uname -a
  nproc
  free -g
  df -h "$work"
  "$bin" --version
  check devices "$bin" devices
  cat "$results/logs/facts-devices.log"
  for tool in nvidia-smi nvcc ncu compute-sanitizer cuobjdump python3; do
    if command -v "$tool" >/dev/null; then
      $tool --version
      verdict "$tool" ok "$($tool --version 2>&1 | grep -oiE '(version|release)[^,]*|Python .*' | tail -n 1)"
    else
      verdict "$tool" skipped "$tool is not there"
    fi
  done
  ! command -v nvidia-smi >/dev/null || nvidia-smi -q >"$results/nvidia-smi.txt" 2>&1
  first packages torch triton numpy nvidia-cublas nvidia-cudnn-cu13
}

# Those of `adacache bench`, which says what it knows when it is asked for something else.
operations() { "$bin" bench --ops '?' 2>&1 | sed -n 's/.*known: //p' | tr -d ,; }

# The driver compiles each module when a program first needs it. Modules at the same time, as only the first program waits in practice.
part_jit() {
  local op began=$EPOCHREALTIME pids=() pid
  for op in $(operations); do
    (check "first-$op" "$bin" bench --ops "$op" --shapes "$work/shapes/small.toml" --quick --json) &
    pids+=($!)
  done
  (check first-generate "$bin" generate "$prompt" --steps 2 --quiet --out "$work/jit.safetensors") &
  pids+=($!)
  for pid in "${pids[@]}"; do wait "$pid"; done
  check again-generate "$bin" generate "$prompt" --steps 2 --quiet --out "$work/jit.safetensors"
  verdict all ok "$(awk -v a="$began" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.1f s", b - a }')"
  [ ! -d "$CUDA_CACHE_PATH" ] || verdict cache ok "$(du -sh "$CUDA_CACHE_PATH" | cut -f1) of machine code kept"
}

# same NAME A B: bit for bit.
same() {
  if cmp "$2" "$3"; then
    verdict "$1" ok "the same bytes"
  else
    verdict "$1" FAILED "$(first latents "$2" "$3")"
  fi
}

part_sprites() {
  local dtype folder=$work/sprites budget steps one
  steps=$(cat "$work/reference/steps")
  mkdir -p "$folder" "$results/sprites"
  # sprites NAME OPTION…: the first of a dtype that runs is held against the virtual GPU's latents, all others against that one.
  sprites() {
    local name=$dtype-$1 bound=0.1 detail word=ok
    shift
    check "$name" inner 60 "$bin" "${reference[@]}" "$steps" --dtype "$dtype" --out "$folder/$name.safetensors" --report "$results/sprites/$name.json" "$@" || return
    if [ -n "$one" ]; then
      same "$name=$one" "$folder/$one.safetensors" "$folder/$name.safetensors"
      return
    fi
    one=$name
    [ "$dtype" != f32 ] || bound=1e-4
    detail=$(first latents "$work/reference/sprites-$dtype.safetensors" "$folder/$name.safetensors" --bound "$bound" \
      --reports "$work/reference/sprites-$dtype.json" "$results/sprites/$name.json" 2>&1) || word=FAILED
    verdict "$name=vm" "$word" "$detail"
  }
  for dtype in bf16 f32; do
    one=''
    sprites graphs
    sprites again
    sprites plain --no-graphs
    # Between what is needed at the least and what all weights take, as the program itself counts it.
    budget=$("$bin" "${reference[@]}" "$steps" --dtype "$dtype" --out "$folder/none.safetensors" --vram-budget 1MiB 2>&1 | first budget)
    if [ -z "$budget" ]; then
      verdict "$dtype-streamed" FAILED "an impossible --vram-budget does not tell what is needed"
    else
      sprites streamed --vram-budget "$budget"
      streams "$dtype-streams" "$results/sprites/$dtype-streamed.json"
    fi
  done
}

# streams NAME REPORT: that weights were streamed at all.
streams() {
  local bytes
  bytes=$(first field "$2" streamed_weight_bytes 2>/dev/null)
  if [ "${bytes:-0}" -gt 0 ]; then verdict "$1" ok "$bytes bytes of weights streamed"; else verdict "$1" FAILED "no weights were streamed"; fi
}

part_goldens() {
  local dtype status cases=("$work"/tests/goldens/{stdit3_a,opensora_vae_a})
  [ "$quick" = no ] || cases=("$work/tests/goldens/stdit3_a/forward_plain")
  for dtype in bf16 f32 f16; do
    inner 40 "$bin" check "${cases[@]}" --dtype "$dtype" --json >"$results/check-$dtype.jsonl"
    status=$?
    # 1: a case failed, 2: one could not be read; its line says so.
    [ "$status" -le 2 ] || verdict "$dtype" FAILED "exit status $status: not all cases ran"
    while IFS=$'\t' read -r name word detail; do
      verdict "$dtype $name" "$word" "$detail"
    done < <(first cases "$results/check-$dtype.jsonl")
  done
}

# Every test by itself: one that hangs or spoils the device's context costs no other.
part_tests() {
  local program list=$work/tests.txt most=25 every=1
  if [ ! -x "$work/bin/test-${test_programs[0]}" ]; then
    verdict programs skipped "prepared with --no-tests"
    return
  fi
  [ "$quick" = no ] || most=60 every=16
  for program in "${test_programs[@]}"; do
    "$work/bin/test-$program" --list --format terse | sed -n "s/^\(.*\): test\$/$program \1/p" | awk -v every="$every" 'NR % every == 1 % every'
  done >"$list"
  export most
  # Few at a time: they share one GPU.
  xargs -a "$list" -L 1 -P "$(($(nproc) > 8 ? 6 : 2))" bash "$self" one-test
  while IFS=$'\t' read -r name word detail; do
    verdict "$name" "$word" "$detail"
  done < <(first tests "$list" "$results/tests.tsv")
}

# one_test PROGRAM NAME
one_test() {
  local log began=$EPOCHREALTIME status word seconds rest=$((end - $(date +%s) - 5))
  # What is not run is told of, which takes a moment.
  [ "$rest" -ge 1 ] || return 0
  [ "$rest" -ge "$most" ] || most=$rest
  log=$(mktemp -p "$work")
  # Tests find their files from the root of the repository, as under cargo.
  (cd "$work" && inner "$most" "bin/test-$1" --exact "$2" --test-threads 1) >"$log" 2>&1
  status=$?
  seconds=$(awk -v a="$began" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.2f", b - a }')
  word=ok
  if [ $status -ne 0 ]; then
    word=FAILED
    { echo "==== $1 $2: exit status $status"; tail -n 60 "$log"; } >>"$results/failed-tests.log"
  elif ! grep -q '^test result: ok. 1 passed' "$log"; then
    word=ignored
  fi
  printf '%s\t%s\t%s\t%s\t%s\n' "$1" "$2" "$word" "$status" "$seconds" >>"$results/tests.tsv"
  rm -f "$log"
}

part_bench() {
  local op='' options=()
  [ "$quick" = no ] || options=(--quick --shapes "$work/shapes/small.toml")
  for op in $(operations); do
    # One at a time, so that those that are done are kept.
    bench_one() { inner 60 "$bin" bench --ops "$op" --dtype bf16 --json "${options[@]}" >"$results/bench-$op.json"; }
    check "$op" bench_one
  done
  wan_one() { inner 60 "$bin" bench --ops linear,attention --dtype bf16 --json --shapes "$work/shapes/wan.toml" "${@:2}" >"$results/bench-wan$1.json"; }
  [ "$quick" = yes ] || check wan wan_one ''
  # A Hopper has kernels of its own: those of all GPUs beside them.
  local gpu=${device/%cuda/cuda:0}
  if "$bin" devices | grep -q "^$gpu .*compute capability 9.0"; then
    for op in linear attention; do
      all_gpus() { ADACACHE_DEVICE=$gpu:sm_80 inner 60 "$bin" bench --ops "$op" --dtype bf16 --json "${options[@]}" >"$results/bench-$op-sm_80.json"; }
      check "$op-sm_80" all_gpus
    done
    # And its products of 8 bits.
    in_fp8() { inner 60 "$bin" bench --ops linear --dtype bf16 --json --fp8-weights "${options[@]}" >"$results/bench-linear-fp8.json"; }
    check linear-fp8 in_fp8
    [ "$quick" = yes ] || ADACACHE_DEVICE=$gpu:sm_80 check wan-sm_80 wan_one -sm_80
    [ "$quick" = yes ] || check wan-fp8 wan_one -fp8 --fp8-weights
  fi
  [ -n "$op" ] || verdict operations FAILED "adacache bench does not tell its operations"
}

part_compare() {
  local options=()
  case $(python3 -c 'import torch; print(torch.cuda.is_available())' 2>/dev/null)$quick in
    True*) ;;
    Falseyes) options=(--device cpu) ;;
    Falseno) verdict PyTorch skipped "PyTorch sees no GPU"; return ;;
    *) verdict PyTorch skipped "PyTorch is not there"; return ;;
  esac
  [ "$quick" = no ] || options+=(--quick --frames 8 --tokens 32 --channels 128 --heads 2 --text 6)
  compared() { python3 "$work/tools/gpu_compare.py" "${options[@]}" >"$results/compare.jsonl"; }
  check others compared
}

part_full() {
  local transformer=$work/full/OpenSora-STDiT-v3 channels=4096 budget common size=(--resolution 720p --aspect "9:16" --frames 51)
  mkdir -p "$results/full" "$work/model"
  if [ "$quick" = yes ]; then
    transformer=$work/tests/goldens/opensora_tiny/OpenSora-STDiT-v3 channels=32 size=(--size 64x64 --frames 17)
  fi
  while [ ! -f "$transformer/model.safetensors" ]; do
    if ! kill -0 "$made" 2>/dev/null; then
      verdict checkpoint FAILED "the checkpoint was not made: $(tail -n 1 "$results/logs/make-full.log")"
      return
    fi
    sleep 0.5
  done
  ln -sfn "$transformer" "$work/model/transformer"
  first embedding "$work/embedding.safetensors" 300 "$channels" || return
  common=(generate "a random checkpoint" --model "$work/model" --embeddings "$work/embedding.safetensors" "${size[@]}" --steps 4 --seed 7 --quiet)
  full() {
    local name=$1
    shift
    check "$name" inner 60 "$bin" "${common[@]}" --out "$work/full-$name.safetensors" --report "$results/full/$name.json" "$@"
  }
  # (Its own status would read as the end of the part.)
  full resident --cache none || return 1
  budget=$("$bin" "${common[@]}" --cache none --out "$work/none.safetensors" --vram-budget 1MiB 2>&1 | first budget)
  if [ "$quick" = yes ]; then
    verdict streamed skipped "the small checkpoint fits into any budget"
  elif [ -z "$budget" ]; then
    verdict streamed FAILED "an impossible --vram-budget does not tell what is needed"
  elif full streamed --cache none --vram-budget "$budget"; then
    same resident=streamed "$work/full-resident.safetensors" "$work/full-streamed.safetensors"
    streams streams "$results/full/streamed.json"
  fi
  full interval --cache interval-2
}

# One shape an operation, as Open-Sora has it at 720p: [name, regular expression of the kernel, shape].
profiled=(
  "product-qkv|linear|[[linear]] m=108000 n=3456 k=1152 modulate=true"
  "product-mlp|linear|[[linear]] m=108000 n=1152 k=4608 epilogue='residual'"
  "attention-spatial|attention|[[attention]] kind='spatial' batch=2 frames=15 tokens=3600 heads=16 head_dim=72"
  "attention-temporal|attention|[[attention]] kind='temporal' batch=2 frames=15 tokens=3600 heads=16 head_dim=72"
  "attention-cross|attention|[[attention]] kind='cross' batch=2 frames=15 tokens=3600 heads=16 head_dim=72"
  "probe|residual|[[residual]] kind='probe' batch=2 frames=15 tokens=3600 channels=1152 strides=1"
)

part_ncu() {
  local entry name kernel shape section sections=()
  lacks ncu && return
  mkdir -p "$results/ncu"
  for section in SpeedOfLight LaunchStats Occupancy SchedulerStats WarpStateStats MemoryWorkloadAnalysis ComputeWorkloadAnalysis; do
    sections+=(--section "$section")
  done
  for entry in "${profiled[@]}"; do
    IFS='|' read -r name kernel shape <<<"$entry"
    [ "$quick" = no ] || shape=${shape//108000/512} shape=${shape//3600/64}
    tr ' ' '\n' <<<"$shape" >"$work/shapes/$name.toml"
    # The second launch; the clocks as they are.
    if check "$name" inner 40 ncu --clock-control none --kernel-name "regex:$kernel" --launch-skip 1 --launch-count 1 "${sections[@]}" \
      --force-overwrite --export "$work/$name" "$bin" bench --quick --dtype bf16 --shapes "$work/shapes/$name.toml" && [ -f "$work/$name.ncu-rep" ]; then
      ncu --import "$work/$name.ncu-rep" --page raw --csv >"$results/ncu/$name.csv"
      ncu --import "$work/$name.ncu-rep" --page details --csv >"$results/ncu/$name-details.csv"
    fi
  done
}

part_sanitizer() {
  local tool
  lacks compute-sanitizer && return
  # sanitized NAME COMMAND…
  sanitized() {
    local name=$1
    shift
    check "$name" inner 60 compute-sanitizer --tool "$tool" --error-exitcode 99 --print-limit 20 "$@"
  }
  for tool in memcheck racecheck initcheck synccheck; do
    sanitized "$tool-forward" "$bin" check "$work/tests/goldens/stdit3_a/forward_plain" --dtype bf16
    sanitized "$tool-generate" "$bin" generate "$prompt" --steps 3 --quiet --out "$work/sanitized.safetensors"
  done
  # Odd sizes and places are in the tests of the kernels.
  tool=memcheck
  [ ! -x "$work/bin/test-kernels" ] || sanitized memcheck-tests "$work/bin/test-kernels" norm:: residual:: softmax:: pack:: sampler::
}

# refused NAME WORD COMMAND…: fails with a message that has the word, without a panic, and writes nothing.
refused() {
  local name=$1 word=$2 log="$results/logs/$part-$1.log" status
  shift 2
  mkdir -p "$work/refused"
  "$@" --out "$work/refused/video.safetensors" >"$log" 2>&1
  status=$?
  if [ "$status" -eq 0 ]; then
    verdict "$name" FAILED "it was not refused"
  elif [ "$status" -ge 100 ] || grep -q panicked "$log"; then
    verdict "$name" FAILED "exit status $status: $(tail -n 1 "$log")"
  elif ! grep -qi -- "$word" "$log"; then
    verdict "$name" FAILED "the message does not say $word: $(tail -n 1 "$log")"
  elif [ -n "$(ls -A "$work/refused")" ]; then
    verdict "$name" FAILED "it left $(ls -A "$work/refused")"
  else
    verdict "$name" ok "exit status $status: $(tail -n 1 "$log")"
  fi
}

# interrupted SIGNAL SECONDS COMMAND…: the signal comes after these seconds; the run ends soon, as a shell expects it, and writes nothing.
interrupted() {
  local signal=$1 after=$2 log="$results/logs/$part-$1.log" began=$EPOCHREALTIME status more
  shift 2
  mkdir -p "$work/interrupted"
  timeout --foreground --preserve-status -s "$signal" -k 20 "$after" "$@" --out "$work/interrupted/video.safetensors" \
    --report "$work/interrupted/report.json" >"$log" 2>&1
  status=$?
  more=$(awk -v a="$began" -v b="$EPOCHREALTIME" -v after="$after" 'BEGIN { printf "%.2f", b - a - after }')
  if [ "$status" -ne 130 ]; then
    verdict "SIG$signal" FAILED "exit status $status $more s after the signal: $(tail -n 1 "$log")"
  elif [ -n "$(ls -A "$work/interrupted")" ]; then
    verdict "SIG$signal" FAILED "it left $(ls -A "$work/interrupted")"
  elif [ "${more%.*}" -ge 5 ]; then
    verdict "SIG$signal" FAILED "it took $more s to end"
  else
    verdict "SIG$signal" ok "ended $more s after the signal"
  fi
}

part_drills() {
  local size memory need long after=3 large=("$bin" generate "$prompt" --quiet --dtype f32)
  refused budget-too-small vram-budget inner 60 "${large[@]}" --vram-budget 1MiB
  if [ "$quick" = no ]; then
    # Large GPUs hold all that the kernels can index, so another program takes most of it. A context and the model fit into the rest.
    size="2048x2048 16"
    large=(python3 "$work/tools/gpu_first.py" crowded "$device" 1500 "${large[@]}")
  else
    # The smallest of these that the device cannot hold.
    memory=$("$bin" devices | grep "^${device%%:*}" | grep -v "not available" | sed -n 's/.* \([0-9.]*\) GiB.*/\1/p' | head -n 1)
    for size in "1024x1024 16" "2048x2048 16" "4096x4096 16" "8192x8192 16" "8192x8192 63" none; do
      need=$("${large[@]}" --size "${size% *}" --frames "${size#* }" --vram-budget 1MiB --out "$work/drill.safetensors" 2>&1 | first least)
      awk -v need="$need" -v memory="${memory:-0}" 'BEGIN { exit !(need / 1024 > memory) }' && break
    done
  fi
  large+=(--size "${size% *}" --frames "${size#* }")
  if [ "$size" = none ]; then
    verdict memory-runs-out skipped "no size is too large for $memory GiB"
  else
    case $device in
      vm*) verdict size-does-not-fit skipped "the virtual GPU has no budget of its own" ;;
      *) refused size-does-not-fit vram-budget inner 60 "${large[@]}" ;;
    esac
    # Within a budget that is not there, the device itself has to refuse.
    refused memory-runs-out memory inner 60 "${large[@]}" --vram-budget 100000GiB
  fi
  long=(generate "$prompt" --size 1024x1024 --steps 1000 --cache none --quiet)
  [ "$quick" = no ] || long=(generate "$prompt" --size 128x128 --steps 1000 --cache none --quiet)
  if [ "$quick" = no ] && [ -f "$work/embedding.safetensors" ]; then
    long=(generate "a random checkpoint" --model "$work/model" --embeddings "$work/embedding.safetensors" --resolution 720p --steps 100
      --cache none --quiet) after=8
  fi
  interrupted INT "$after" "$bin" "${long[@]}"
  interrupted TERM "$after" "$bin" "${long[@]}"
  check works-afterwards inner 60 "$bin" generate "$prompt" --steps 3 --quiet --out "$work/afterwards.safetensors"
}

part_extras() {
  local options=()
  [ "$quick" = no ] || options=(--ops "residual,norm,sampler")
  differences() { inner 60 "$bin" bench --compare vm --dtype bf16 --json "${options[@]}" >"$results/differences.json"; }
  check differences-to-the-vm differences
  check profile "$bin" generate "$prompt" --steps 3 --quiet --out "$work/profile.mp4" --profile "$results/profile.json"
}

# ---- which -----------------------------------------------------------------------------------------------------------

# Every way ends with exit: what is changed in this file meanwhile does not matter.
case ${1:-} in
  prepare | run) "$@"; exit ;;
  report) python3 -B "$here/gpu_first.py" "$@"; exit ;;
  # How a run starts its parts and tests, each in a process of its own.
  part) "part_$2"; exit ;;
  one-test) one_test "$2" "$3"; exit ;;
  -h | --help) usage; exit ;;
  *) usage >&2; exit 2 ;;
esac
