#!/bin/sh
# Makes docs/sprites.gif, the picture in the README: real videos, every step computed (above) and with AdaCache (below).
#
#   tools/readme_picture.sh [adacache options, as --device vm]
#
# Needs ffmpeg (with drawtext and the font DejaVu Sans) and an adacache binary (ADACACHE, else target/release/adacache).
set -eu
cd "$(dirname "$0")/.."
adacache=${ADACACHE:-target/release/adacache}
seed=1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cat > "$work/prompts" <<'PROMPTS'
large green square right slowly black
large cyan circle orbiting slowly striped
large white ring still slowly gradient
large yellow triangle growing fast navy
PROMPTS

inputs=
for cache in none adacache-fast; do
  "$adacache" generate --prompts "$work/prompts" --seed $seed --cache $cache --out "$work/$cache/{}/" "$@"
  for video in "$work/$cache"/*/; do
    inputs="$inputs -framerate 8 -i ${video}frame_%04d.png"
  done
done

# Two rows of four with their labels, pixels doubled, one small palette for all frames.
# shellcheck disable=SC2086 # the inputs are many words on purpose
ffmpeg -v error -y $inputs -filter_complex "
  [0][1][2][3]hstack=inputs=4[computed]; [4][5][6][7]hstack=inputs=4[cached];
  [computed]pad=iw:ih+4:0:0:white[top]; [top][cached]vstack,scale=iw*2:ih*2:flags=neighbor,pad=iw+104:ih:104:0:white,
  drawtext=text='every step':font=DejaVu Sans:fontsize=16:x=6:y=56,
  drawtext=text='AdaCache':font=DejaVu Sans:fontsize=16:x=6:y=192,split[a][b];
  [a]palettegen=max_colors=64:stats_mode=full[palette]; [b][palette]paletteuse=dither=none" docs/sprites.gif
ls -l docs/sprites.gif
