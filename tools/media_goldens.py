"""Makes tests/goldens/media: small videos and pictures of other programs, and what these programs read from them.

    python tools/media_goldens.py tests/goldens/media

Beside each FILE lies FILE.png, its frames one below the other. Needs ffmpeg with libx264 on the path (or IMAGEIO_FFMPEG_EXE), numpy, Pillow.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

FFMPEG = os.environ.get("IMAGEIO_FFMPEG_EXE", "ffmpeg")
WIDTH, HEIGHT, FRAMES = 56, 40, 12


def clip():
    """A disc over stripes that move the other way; neither side is a multiple of a macroblock."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH].astype(float)
    frames = []
    for t in range(FRAMES):
        stripes = 110 + 60 * np.sin((x + 2 * t) / 5) + y
        frame = np.stack([stripes, 200 - y * 2, 90 + x], -1)
        frame[np.hypot(x - 10 - 3 * t, y - 18) < 9] = (220, 50, 40)
        frames.append(frame.clip(0, 255).astype(np.uint8))
    return np.stack(frames)


def ffmpeg(*args, data=None):
    return subprocess.run([FFMPEG, "-v", "error", "-y", *args], input=data, check=True, capture_output=True).stdout


def filled(picture, height, width):
    """As the published pipeline reads pictures: resized until they fill the size, centre-cropped."""
    w, h = picture.size
    if height / h > width / w:
        size = (round(w * (height / h)), height)
    else:
        size = (width, round(h * (width / w)))
    left, top = (int(round((side - target) / 2)) for side, target in zip(size, (width, height)))
    return picture.resize(size, Image.BICUBIC).crop((left, top, left + width, top + height))


def main(folder):
    folder.mkdir(parents=True, exist_ok=True)
    frames = clip()
    source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{WIDTH}x{HEIGHT}", "-r", "24", "-i", "-"]
    x264 = ["-c:v", "libx264", "-pix_fmt", "yuv420p", "-crf", "20", "-bitexact"]
    bt709 = ["-vf", "scale=out_color_matrix=bt709", "-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709"]
    videos = {
        "main.mp4": [*x264, *bt709, "-profile:v", "main", "-bf", "3"],
        "high.mp4": [*x264, "-profile:v", "high", "-bf", "2", "-movflags", "+faststart"],
        "baseline.mov": [*x264, "-profile:v", "baseline", "-color_range", "pc", "-vf", "scale=out_range=pc"],
        "mpeg4.mp4": ["-c:v", "mpeg4", "-frames:v", "1", "-bitexact"],
    }
    for name, options in videos.items():
        ffmpeg(*source, *options, str(folder / name), data=frames.tobytes())
        if name != "mpeg4.mp4":
            flags = ["-sws_flags", "neighbor+accurate_rnd+full_chroma_int"]
            raw = ffmpeg("-i", str(folder / name), *flags, "-f", "rawvideo", "-pix_fmt", "rgb24", "-")
            Image.fromarray(np.frombuffer(raw, np.uint8).reshape(-1, WIDTH, 3)).save(folder / f"{name}.png", optimize=True)
    ffmpeg("-display_rotation", "90", "-i", str(folder / "high.mp4"), "-c", "copy", "-frames:v", "1", "-bitexact", str(folder / "sideways.mp4"))
    picture = Image.fromarray(frames[3])
    for name, options in {"photo.jpg": {"quality": 90, "progressive": True}, "photo.webp": {"quality": 90}}.items():
        picture.save(folder / name, **options)
        Image.open(folder / name).convert("RGB").save(folder / f"{name}.png", optimize=True)
    for height, width in [(24, 64), (64, 24), (17, 13), (120, 168)]:
        picture = filled(Image.open(folder / "photo.jpg.png"), height, width)
        picture.save(folder / f"fit_{height}x{width}.png", optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
