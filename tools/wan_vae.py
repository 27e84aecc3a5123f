#!/usr/bin/env python3
"""Wan's autoencoders a second time, in f64 and on whole videos, and small reference cases made with them.

    pip install numpy safetensors
    tools/wan_vae.py check CASE_DIR…      how far this is from cases of the published code (`kind` autoencoder, official names)
    tools/wan_vae.py write                tests/goldens/wan_vae_21 and wan_vae_22, with random weights

The published code goes chunk by chunk and keeps frames; this does not, so that agreement says something about the chunks too.
"""
import json
import re
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

GOLDENS = Path(__file__).resolve().parent.parent / "tests/goldens"


# ---- layers: activations [channels, frames, height, width] ----------------------------------------------------------------------

def conv(w, name, x, stride=1, pad=(0, 0, 0, 0, 0)):
    """Taps over (frames, rows, columns); pad: frames in front, then rows above, below, columns left, right."""
    weight, bias = w[f"{name}.weight"], w[f"{name}.bias"]
    if weight.ndim == 4:
        weight = weight[:, :, None]
    x = np.pad(x, ((0, 0), (pad[0], 0), pad[1:3], pad[3:5]))
    kt, kh, kw = weight.shape[2:]
    frames, rows, columns = x.shape[1] - kt + 1, (x.shape[2] - kh) // stride + 1, (x.shape[3] - kw) // stride + 1
    out = np.zeros((weight.shape[0], frames, rows, columns))
    for a in range(kt):
        for b in range(kh):
            for c in range(kw):
                part = x[:, a:a + frames, b:b + rows * stride:stride, c:c + columns * stride:stride][:, :, :rows, :columns]
                out += np.einsum("oi,ithw->othw", weight[:, :, a, b, c], part)
    return out + bias[:, None, None, None]


def causal(w, name, x):
    kt, kh = w[f"{name}.weight"].shape[2:4]
    return conv(w, name, x, pad=(kt - 1,) + (kh // 2,) * 4)


def norm(w, name, x):
    gamma = w[f"{name}.gamma"].reshape(-1, 1, 1, 1)
    return x / np.maximum(np.sqrt((x * x).sum(0, keepdims=True)), 1e-12) * np.sqrt(x.shape[0]) * gamma


def silu(x):
    return x / (1 + np.exp(-x))


def block(w, name, x):
    y = causal(w, f"{name}.residual.2", silu(norm(w, f"{name}.residual.0", x)))
    y = causal(w, f"{name}.residual.6", silu(norm(w, f"{name}.residual.3", y)))
    return y + (causal(w, f"{name}.shortcut", x) if f"{name}.shortcut.weight" in w else x)


def attention(w, name, x):
    c, t, h, n = x.shape
    q, k, v = conv(w, f"{name}.to_qkv", norm(w, f"{name}.norm", x)).reshape(3, c, t, h * n)
    scores = np.einsum("cti,ctj->tij", q, k) / np.sqrt(c)
    shares = np.exp(scores - scores.max(-1, keepdims=True))
    mixed = np.einsum("tij,ctj->cti", shares / shares.sum(-1, keepdims=True), v)
    return x + conv(w, f"{name}.proj", mixed.reshape(x.shape))


def up(w, name, x):
    if f"{name}.time_conv.weight" in w:
        first, rest = x[:, :1], x[:, 1:]
        if rest.shape[1]:
            pairs = conv(w, f"{name}.time_conv", rest, pad=(2, 0, 0, 0, 0)).reshape(2, -1, *rest.shape[1:])
            rest = pairs.transpose(1, 2, 0, 3, 4).reshape(rest.shape[0], -1, *rest.shape[2:])
        x = np.concatenate([first, rest], 1)
    return conv(w, f"{name}.resample.1", x.repeat(2, 2).repeat(2, 3), pad=(0, 1, 1, 1, 1))


def down(w, name, x):
    x = conv(w, f"{name}.resample.1", x, stride=2, pad=(0, 0, 1, 0, 1))
    if f"{name}.time_conv.weight" in w and x.shape[1] > 1:
        x = np.concatenate([x[:, :1], conv(w, f"{name}.time_conv", x)[:, ::2]], 1)
    return x


def dup_up(x, out, ft):
    c, t, h, n = x.shape
    x = x.repeat(out * ft * 4 // c, 0).reshape(out, ft, 2, 2, t, h, n).transpose(0, 4, 1, 5, 2, 6, 3)
    return x.reshape(out, t * ft, 2 * h, 2 * n)[:, ft - 1:]


def avg_down(x, out, ft, fs):
    x = np.pad(x, ((0, 0), (-x.shape[1] % ft, 0), (0, 0), (0, 0)))
    c, t, h, n = x.shape
    x = x.reshape(c, t // ft, ft, h // fs, fs, n // fs, fs).transpose(0, 2, 4, 6, 1, 3, 5)
    return x.reshape(out, -1, t // ft, h // fs, n // fs).mean(1)


# ---- networks -------------------------------------------------------------------------------------------------------------------

def scales(w, x, folder, inner, change):
    if f"{folder}.0.{inner}.0.residual.0.gamma" not in w:  # 2.1: one list
        n = 0
        while any(key.startswith(f"{folder}.{n}.") for key in w):
            name = f"{folder}.{n}"
            x = change(w, name, x) if f"{name}.resample.1.weight" in w else block(w, name, x)
            n += 1
        return x
    scale = 0
    while any(key.startswith(f"{folder}.{scale}.") for key in w):
        before, n, ft, fs = x, 0, 1, 1
        while any(key.startswith(f"{folder}.{scale}.{inner}.{n}.") for key in w):
            name = f"{folder}.{scale}.{inner}.{n}"
            if f"{name}.resample.1.weight" in w:
                x, fs, ft = change(w, name, x), 2, 1 + (f"{name}.time_conv.weight" in w)
            else:
                x = block(w, name, x)
            n += 1
        if change is down:
            x = x + avg_down(before, x.shape[0], ft, fs)
        elif fs == 2:
            x = x + dup_up(before, x.shape[0], ft)
        scale += 1
    return x


def middle(w, side, x):
    return block(w, f"{side}.middle.2", attention(w, f"{side}.middle.1", block(w, f"{side}.middle.0", x)))


def head(w, side, x):
    return causal(w, f"{side}.head.2", silu(norm(w, f"{side}.head.0", x)))


def encode(w, case, pixels):
    if w["encoder.conv1.weight"].shape[1] == 12:
        c, t, h, n = pixels.shape
        pixels = pixels.reshape(c, t, h // 2, 2, n // 2, 2).transpose(0, 5, 3, 1, 2, 4).reshape(12, t, h // 2, n // 2)
    x = scales(w, causal(w, "encoder.conv1", pixels), "encoder.downsamples", "downsamples", down)
    z = causal(w, "conv1", head(w, "encoder", middle(w, "encoder", x)))
    mean, std = (np.array(case[name])[:, None, None, None] for name in ("latents_mean", "latents_std"))
    return (z[:len(z) // 2] - mean) / std


def decode(w, case, latent):
    mean, std = (np.array(case[name])[:, None, None, None] for name in ("latents_mean", "latents_std"))
    x = middle(w, "decoder", causal(w, "decoder.conv1", causal(w, "conv2", latent * std + mean)))
    x = head(w, "decoder", scales(w, x, "decoder.upsamples", "upsamples", up))
    if len(x) == 12:
        _, t, h, n = x.shape
        x = x.reshape(3, 2, 2, t, h, n).transpose(0, 3, 4, 2, 5, 1).reshape(3, t, 2 * h, 2 * n)
    return x.clip(-1, 1)


# ---- check ----------------------------------------------------------------------------------------------------------------------

def tensors(path):
    """A safetensors file in f64; NumPy has no bf16."""
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    found = {}
    for name, info in json.loads(raw[8:8 + length]).items():
        if name != "__metadata__":
            start, end = info["data_offsets"]
            data = raw[8 + length + start:8 + length + end]
            if info["dtype"] == "BF16":
                values = (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
            else:
                values = np.frombuffer(data, "<f4")
            found[name] = values.astype(np.float64).reshape(info["shape"])
    return found


def check(folder):
    case = json.loads((folder / "case.json").read_text())
    w, io = tensors(folder / case["model"]), tensors(folder / "io.safetensors")
    for name, ours in [("encoded", encode(w, case, io["pixels"][0])), ("decoded", decode(w, case, io["latent"][0]))]:
        print(f"{folder.name} {name}: {np.linalg.norm(ours - io[name][0]) / np.linalg.norm(io[name]):.2e}")


# ---- small cases ----------------------------------------------------------------------------------------------------------------

def rounded(x):
    """To the nearest bf16, in f64."""
    bits = np.asarray(x, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).view(np.float32).astype(np.float64)


def weights(config, shortcuts, random):
    w = {}

    def add(name, *shape):
        w[f"{name}.weight"] = rounded(random.normal(size=shape) * 1.2 / np.sqrt(np.prod(shape[1:])))
        w[f"{name}.bias"] = rounded(random.normal(size=shape[0]) * 0.1)

    def gamma(name, channels, axes=3):
        w[f"{name}.gamma"] = rounded(1 + 0.2 * random.normal(size=(channels,) + (1,) * axes))

    def res(name, channels, n):
        gamma(f"{name}.residual.0", channels)
        add(f"{name}.residual.2", n, channels, 3, 3, 3)
        gamma(f"{name}.residual.3", n)
        add(f"{name}.residual.6", n, n, 3, 3, 3)
        if channels != n:
            add(f"{name}.shortcut", n, channels, 1, 1, 1)

    def half(side, base, ends):
        encoder = side == "encoder"
        multiples = config["dim_mult"] if encoder else config["dim_mult"][::-1]
        time = config["temperal_downsample"] if encoder else config["temperal_downsample"][::-1]
        folder, inner = ("encoder.downsamples", "downsamples") if encoder else ("decoder.upsamples", "upsamples")
        channels = base * (1 if encoder else multiples[0])
        add(f"{side}.conv1", channels, ends[0], 3, 3, 3)
        width, flat = base * config["dim_mult"][-1], 0
        for part in ("middle.0", "middle.2"):
            res(f"{side}.{part}", width, width)
        gamma(f"{side}.middle.1.norm", width, 2)
        add(f"{side}.middle.1.to_qkv", 3 * width, width, 1, 1)
        add(f"{side}.middle.1.proj", width, width, 1, 1)
        for i, multiple in enumerate(multiples):
            n = base * multiple
            for j in range(config["num_res_blocks"] + (not encoder)):
                res(f"{folder}.{i}.{inner}.{j}" if shortcuts else f"{folder}.{flat}", channels, n)
                channels, flat = n, flat + 1
            if i + 1 < len(multiples):
                name = f"{folder}.{i}.{inner}.{j + 1}" if shortcuts else f"{folder}.{flat}"
                made = n if encoder or shortcuts else n // 2
                add(f"{name}.resample.1", made, n, 3, 3)
                if time[i]:
                    add(f"{name}.time_conv", n if encoder else 2 * n, n, 3, 1, 1)
                channels, flat = made, flat + 1
        gamma(f"{side}.head.0", channels)
        add(f"{side}.head.2", ends[1], channels, 3, 3, 3)

    z, pixels = config["z_dim"], 12 if shortcuts else 3
    half("encoder", config["dim"], (pixels, 2 * z))
    half("decoder", config.get("dec_dim", config["dim"]), (z, pixels))
    add("conv1", 2 * z, 2 * z, 1, 1, 1)
    add("conv2", z, z, 1, 1, 1)
    return w


# Of diffusers' names, those of a model with shortcuts.
DIFFUSERS = [
    (r"^conv1\.", "quant_conv."), (r"^conv2\.", "post_quant_conv."), (r"coder\.conv1\.", "coder.conv_in."),
    (r"head\.0\.", "norm_out."), (r"head\.2\.", "conv_out."), (r"middle\.0\.", "mid_block.resnets.0."),
    (r"middle\.1\.", "mid_block.attentions.0."), (r"middle\.2\.", "mid_block.resnets.1."), (r"residual\.0\.", "norm1."),
    (r"residual\.2\.", "conv1."), (r"residual\.3\.", "norm2."), (r"residual\.6\.", "conv2."), (r"\.shortcut\.", ".conv_shortcut."),
    (r"downsamples\.(\d)\.downsamples\.\d\.(resample|time_conv)", r"down_blocks.\1.downsampler.\2"),
    (r"upsamples\.(\d)\.upsamples\.\d\.(resample|time_conv)", r"up_blocks.\1.upsampler.\2"),
    (r"downsamples\.(\d)\.downsamples", r"down_blocks.\1.resnets"), (r"upsamples\.(\d)\.upsamples", r"up_blocks.\1.resnets"),
]


def write(name, config, shortcuts, diffusers, frames, sides):
    random = np.random.default_rng(21)
    folder = GOLDENS / name
    folder.mkdir(exist_ok=True)
    w = weights(config, shortcuts, random)
    z = config["z_dim"]
    case = {
        "kind": "autoencoder", "model_family": "wan2.2" if shortcuts else "wan2.1", "model": "model.safetensors", "config": config,
        "latents_mean": [round(float(v), 4) for v in random.normal(size=z) * 0.5],
        "latents_std": [round(float(v), 4) for v in random.uniform(0.5, 2, size=z)], "frames": frames,
    }
    pixels = np.float32(random.uniform(-1, 1, size=(3, frames, *sides)))
    factor = 2 ** len(config["temperal_downsample"]) * (2 if shortcuts else 1)
    latent = np.float32(random.normal(size=(z, 1 + (frames - 1) // 2 ** sum(config["temperal_downsample"]), *(s // factor for s in sides))))
    io = {"pixels": pixels, "latent": latent, "encoded": encode(w, case, pixels.astype(np.float64)), "decoded": decode(w, case, latent.astype(np.float64))}
    save_file({key: np.float32(value)[None] for key, value in io.items()}, folder / "io.safetensors")
    names = {}
    for key in w:
        new = key
        for pattern, to in DIFFUSERS if diffusers else []:
            new = re.sub(pattern, to, new)
        names[key] = new
    assert len(set(names.values())) == len(w)
    # By hand: NumPy has no bf16.
    header, data = {}, b""
    for key, value in sorted(w.items()):
        part = (np.float32(value).view(np.uint32) >> 16).astype("<u2").tobytes()
        header[names[key]] = {"dtype": "BF16", "shape": list(value.shape), "data_offsets": [len(data), len(data) + len(part)]}
        data += part
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)
    (folder / "case.json").write_text(json.dumps(case, indent=1) + "\n")
    print(folder, sum(f.stat().st_size for f in folder.iterdir()), "bytes, clamped:", np.mean(np.abs(io["decoded"]) == 1))


if __name__ == "__main__":
    if sys.argv[1:2] == ["check"]:
        for folder in sys.argv[2:]:
            check(Path(folder))
    elif sys.argv[1:] == ["write"]:
        three = {"num_res_blocks": 1, "attn_scales": []}
        write("wan_vae_21", {"dim": 6, "z_dim": 16, "dim_mult": [1, 2, 2, 2], **three, "temperal_downsample": [False, True, True]}, False, False, 13, (24, 40))
        write("wan_vae_22", {"dim": 4, "dec_dim": 6, "z_dim": 12, "dim_mult": [1, 2, 2], **three, "temperal_downsample": [True, True]}, True, True, 9, (24, 32))
    else:
        sys.exit(__doc__)
