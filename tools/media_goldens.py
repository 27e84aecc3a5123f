"""Makes tests/goldens/media: small videos and pictures of other programs, and what these programs read from them.

    python tools/media_goldens.py tests/goldens/media

Beside each FILE lies FILE.png, its frames one below the other; files without are refused. Files that are there already are left alone. Needs
ffmpeg with libx264 on the path (or IMAGEIO_FFMPEG_EXE), numpy, Pillow.
"""

import io
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, ImageSequence

FFMPEG = os.environ.get("IMAGEIO_FFMPEG_EXE", "ffmpeg")
WIDTH, HEIGHT, FRAMES = 56, 40, 12
REFUSED = ["mpeg4.mp4", "422.mp4", "444.mp4", "10bit.mp4", "interlaced.mp4"]


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


def videos(folder, frames):
    source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{WIDTH}x{HEIGHT}", "-r", "24", "-i", "-"]
    x264 = ["-c:v", "libx264", "-pix_fmt", "yuv420p", "-crf", "20", "-bitexact"]
    bt709 = ["-vf", "scale=out_color_matrix=bt709", "-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709"]
    high = str(folder / "high.mp4")
    short = [*x264, *bt709, "-frames:v", "3"]
    return {
        "main.mp4": [*source, *x264, *bt709, "-profile:v", "main", "-bf", "3"],
        "high.mp4": [*source, *x264, "-profile:v", "high", "-bf", "2", "-movflags", "+faststart"],
        "baseline.mov": [*source, *x264, "-profile:v", "baseline", "-color_range", "pc", "-vf", "scale=out_range=pc"],
        "mpeg4.mp4": [*source, "-c:v", "mpeg4", "-frames:v", "1", "-bitexact"],
        "sideways.mp4": ["-display_rotation", "90", "-i", high, "-c", "copy", "-frames:v", "1", "-bitexact"],
        # An edit list that begins within the group of pictures, one that waits first, frames of 1/24 and 3/24 s.
        "edited.mp4": ["-ss", "0.25", "-i", high, "-c", "copy", "-bitexact"],
        "delayed.mp4": ["-itsoffset", "0.5", "-i", high, "-c", "copy", "-frames:v", "4", "-bitexact"],
        "varying.mp4": [*source, *short, "-vf", "setpts=PTS*(1+eq(N\\,2))", "-fps_mode", "vfr"],
        "wide_pixels.mp4": [*source, *short, "-aspect", "2"],
        # Cut on every side, by the stream.
        "cropped.mp4": [*source, *short, "-bsf:v", "h264_metadata=crop_left=4:crop_right=6:crop_top=2:crop_bottom=8"],
        "full709.mp4": [*source, *short, "-color_range", "pc", "-vf", "scale=out_color_matrix=bt709:out_range=pc"],
        "bt601.mp4": [*source, *short, "-vf", "scale=out_color_matrix=bt601", "-colorspace", "smpte170m"],
        "422.mp4": [*source, *short, "-frames:v", "1", "-pix_fmt", "yuv422p"],
        "444.mp4": [*source, *short, "-frames:v", "1", "-pix_fmt", "yuv444p"],
        "10bit.mp4": [*source, *short, "-frames:v", "1", "-pix_fmt", "yuv420p10le"],
        "interlaced.mp4": [*source, *short, "-frames:v", "2", "-x264-params", "interlaced=1"],
    }


def adam7(pixels):
    """An interlaced PNG of [height, width, channels]."""
    height, width, channels = pixels.shape
    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    lines = b"".join(b"\0" + line.tobytes() for y, x, down, across in passes for line in pixels[y::down, x::across])
    chunk = lambda kind, data: struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    header = struct.pack(">IIBBBBB", width, height, 8, {1: 0, 3: 2}[channels], 0, 0, 1)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


def ycck(picture):
    """A JPEG of inks that are stored as YCC and K, which Pillow does not write: its inks, with Adobe's mark for the other form."""
    c, m, y, k = np.moveaxis(np.asarray(picture.convert("CMYK")), -1, 0)
    ycc = np.asarray(Image.merge("RGB", [Image.fromarray(ink) for ink in (c, m, y)]).convert("YCbCr"))
    inks = Image.merge("CMYK", [*(Image.fromarray(np.ascontiguousarray(ycc[..., i])) for i in range(3)), Image.fromarray(k)])
    file = io.BytesIO()
    # Pillow inverts inks when it writes and reads them, as Adobe does.
    inks = Image.merge("CMYK", [ImageOps.invert(band) for band in inks.split()[:3]] + [inks.split()[3]])
    inks.save(file, "JPEG", quality=95, subsampling=0)
    bytes = bytearray(file.getvalue())
    at = bytes.find(b"Adobe")
    assert at > 0 and bytes[at + 11] == 0
    bytes[at + 11] = 2
    return bytes


def pictures(frames):
    """Name: bytes, or picture and options to save it."""
    picture = Image.fromarray(frames[3])
    gray = picture.convert("L")
    ramp = np.linspace(0, 255, WIDTH).astype(np.uint8)[None].repeat(HEIGHT, 0)
    clear = picture.copy()
    clear.putalpha(Image.fromarray(ramp))
    gray_clear = Image.merge("LA", [gray, Image.fromarray(ramp)])
    palette = picture.quantize(16)
    deep = (frames[3].astype(np.uint16) << 8) + 77
    exif = Image.Exif()
    exif[0x0112] = 6
    moving = [Image.fromarray(frame) for frame in frames[::4]]
    cut_out = []
    for i, frame in enumerate(moving):
        frame = frame.convert("RGBA")
        frame.putalpha(Image.fromarray(np.where(np.hypot(*np.mgrid[-20:20, -28 + 9 * i:28 + 9 * i]) < 25, 255, 0).astype(np.uint8)))
        cut_out.append(frame)
    rgb48 = ffmpeg("-f", "rawvideo", "-pix_fmt", "rgb48le", "-s", f"{WIDTH}x{HEIGHT}", "-i", "-", "-f", "image2pipe", "-c:v", "png", "-bitexact", "-", data=deep.tobytes())
    several = dict(save_all=True, duration=[40, 120, 40])
    return {
        "photo.jpg": (picture, dict(quality=90, progressive=True)),
        "photo.webp": (picture, dict(quality=90)),
        "turned.jpg": (picture, dict(quality=95, exif=exif)),
        "turned.png": (palette, dict(exif=exif)),
        "turned.webp": (picture, dict(lossless=True, exif=exif)),
        "gray.jpg": (gray, dict(quality=95)),
        "cmyk.jpg": (picture.convert("CMYK"), dict(quality=95)),
        "ycck.jpg": ycck(picture),
        "deep.png": rgb48,
        "gray_deep.png": (Image.fromarray(deep[..., 0]), {}),
        "clear.png": (clear, {}),
        "gray_clear.png": (gray_clear, {}),
        "palette_clear.png": (palette, dict(transparency=bytes(range(0, 256, 16)))),
        "gray_key.png": (gray.point(lambda v: v & 0xF0), dict(transparency=0x80)),
        "one_bit.png": (gray.point(lambda v: 255 * (v > 128)).convert("1"), {}),
        "interlaced.png": adam7(frames[3]),
        "clear.webp": (clear, dict(quality=90)),
        "moving.png": (cut_out[0], dict(append_images=cut_out[1:], disposal=1, blend=1, **several)),
        "moving_kept.png": (cut_out[0], dict(append_images=cut_out[1:], disposal=0, blend=1, **several)),
        "moving.webp": (cut_out[0], dict(append_images=cut_out[1:], lossless=True, **several)),
        "moving.gif": (cut_out[0], dict(append_images=cut_out[1:], disposal=2, **several)),
    }


def seen(file):
    """What Pillow reads: turned, over white, frames one below the other."""
    frames = []
    for frame in ImageSequence.Iterator(Image.open(file)):
        frame = ImageOps.exif_transpose(frame)
        if frame.mode == "I;16":
            frame = Image.fromarray((np.asarray(frame) >> 8).astype(np.uint8))
        if frame.mode != "CMYK":
            frame = frame.convert("RGBA")
            frame = Image.alpha_composite(Image.new("RGBA", frame.size, "white"), frame)
        frames.append(np.asarray(frame.convert("RGB")))
    return Image.fromarray(np.concatenate(frames))


def main(folder):
    folder.mkdir(parents=True, exist_ok=True)
    frames = clip()
    for name, options in videos(folder, frames).items():
        if not (folder / name).exists():
            ffmpeg(*options, str(folder / name), data=frames.tobytes())
        if name not in REFUSED and not (folder / f"{name}.png").exists():
            flags = ["-sws_flags", "neighbor+accurate_rnd+full_chroma_int", "-fps_mode", "passthrough"]
            # Portable pixmaps one after the other: P6, width, height, 255, pixels.
            raw = ffmpeg("-i", str(folder / name), *flags, "-f", "image2pipe", "-c:v", "ppm", "-")
            header = b"\n".join(raw.split(b"\n", 3)[:3]) + b"\n"
            width, height = map(int, header.split()[1:3])
            frame = len(header) + 3 * width * height
            read = [np.frombuffer(raw[at + len(header):at + frame], np.uint8) for at in range(0, len(raw), frame)]
            Image.fromarray(np.concatenate(read).reshape(-1, width, 3)).save(folder / f"{name}.png", optimize=True)
    for name, content in pictures(frames).items():
        if (folder / name).exists():
            continue
        if isinstance(content, tuple):
            content[0].save(folder / name, **content[1])
        else:
            (folder / name).write_bytes(content)
        seen(folder / name).save(folder / f"{name}.png", optimize=True)
    for height, width in [(24, 64), (64, 24), (17, 13), (120, 168)]:
        if not (folder / f"fit_{height}x{width}.png").exists():
            picture = filled(Image.open(folder / "photo.jpg.png"), height, width)
            picture.save(folder / f"fit_{height}x{width}.png", optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
