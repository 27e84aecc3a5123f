#!/usr/bin/env bash
# Pictures of a comparison's page as a wide screen and a phone show it, by headless Chromium: FOLDER/index.html → OUT/wide.png, OUT/phone.png
#
#   adacache compare --prompts FILE --out FOLDER && tools/page_pictures.sh FOLDER OUT
#
# Without Chromium (Debian: apt-get install chromium) it says so and ends with status 0.
set -euo pipefail
folder=${1:?usage: tools/page_pictures.sh FOLDER OUT} out=${2:?usage: tools/page_pictures.sh FOLDER OUT}

for browser in chromium chromium-browser google-chrome none; do
    if command -v "$browser" >/dev/null; then break; fi
done
if [ "$browser" = none ]; then
    echo "no Chromium here: no pictures"
    exit 0
fi
page=$(realpath "$folder/index.html")
mkdir -p "$out"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

picture() { # NAME WIDTH HEIGHT
    # Windows narrower than 500 pixels are not to be had: the page goes into a frame of the width asked for.
    printf '<body style="margin:0"><iframe src="file://%s" style="border:0;width:%spx;height:%spx"></iframe>' "$page" "$2" "$3" >"$work/$1.html"
    "$browser" --headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking \
        --disable-component-update --disable-sync --user-data-dir="$work/$1" --hide-scrollbars --virtual-time-budget=3000 \
        --window-size="$(($2 > 500 ? $2 : 500)),$3" --screenshot="$out/$1.png" "file://$work/$1.html" 2>"$work/messages" ||
        { cat "$work/messages" >&2; exit 1; }
    echo "$out/$1.png"
}
picture wide 1280 "${WIDE_HEIGHT:-3200}"
picture phone 390 "${PHONE_HEIGHT:-5200}"
