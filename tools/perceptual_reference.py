#!/usr/bin/env python3
"""Prints the numbers that the tests of src/quality/perceptual.rs compare with, computed by the packages lpips and stlpips-pytorch.

    pip install torch torchvision numpy pillow scipy tqdm && pip install --no-deps lpips stlpips-pytorch
    python tools/perceptual_reference.py                        # the tests' videos, with small made-up weights and with ST-LPIPS's own
    python tools/perceptual_reference.py FOLDER FOLDER          # two folders of PNG frames, with ST-LPIPS's own weights
"""

import sys
import types
import warnings
from pathlib import Path

for name, attribute in (("IPython", "embed"), ("torchsummary", "summary")):  # stlpips-pytorch imports them for its authors' use
    module = sys.modules.setdefault(name, types.ModuleType(name))
    setattr(module, attribute, None)

warnings.filterwarnings("ignore")  # torchvision's, about how the packages ask for a network without weights

import lpips
import numpy as np
import torch
from PIL import Image
from stlpips_pytorch import stlpips
from stlpips_pytorch.models_lpf import Downsample

FRAMES, HEIGHT, WIDTH = 2, 34, 43
WIDTHS = [4, 6, 5, 3, 7]


class Numbers:
    """A 32-bit generator that the test in Rust has as well."""

    def __init__(self, seed):
        self.state = seed

    def next(self):
        self.state = (self.state * 1664525 + 1013904223) % 2**32
        return self.state >> 8

    def tensor(self, *shape):
        """From 0 to 1 in steps of 2⁻²⁴: exact in f32."""
        return torch.tensor([self.next() / 2**24 for _ in range(int(np.prod(shape)))]).reshape(shape)


def video(seed):
    numbers, values = Numbers(seed), np.zeros((FRAMES, HEIGHT, WIDTH, 3), np.uint8)
    for t in range(FRAMES):
        for y in range(HEIGHT):
            for x in range(WIDTH):
                for c in range(3):
                    noise = (numbers.next() >> 16) % (8 + 60 * t)
                    values[t, y, x, c] = (3 * x + 5 * y + 40 * c + 7 * t * (c + 1) + noise) % 256
    return values


def shrink(model):
    """The model with WIDTHS channels and made-up weights; everything else is the package's."""
    numbers, before, i = Numbers(7), 3, 0
    for piece in [model.net.slice1, model.net.slice2, model.net.slice3, model.net.slice4, model.net.slice5]:
        for name, layer in list(piece.named_children()):
            if isinstance(layer, Downsample):
                setattr(piece, name, Downsample(filt_size=3, stride=2, channels=before, pad_more=True))
            elif isinstance(layer, torch.nn.Conv2d):
                size = dict(kernel_size=layer.kernel_size, stride=layer.stride, padding=layer.padding)
                conv = torch.nn.Conv2d(before, WIDTHS[i], **size)
                conv.weight.data = (numbers.tensor(*conv.weight.shape) - 0.5) * 0.25
                conv.bias.data = (numbers.tensor(WIDTHS[i]) - 0.5) * 0.25
                setattr(piece, name, conv)
                before, i = WIDTHS[i], i + 1
    for lin, width in zip(model.lins, WIDTHS):
        lin.model[-1].weight.data = numbers.tensor(1, width, 1, 1)
    model.chns = WIDTHS
    return model.eval()


def distances(model, a, b):
    as_input = lambda v: torch.tensor(v.transpose(0, 3, 1, 2)) / 127.5 - 1
    with torch.no_grad():
        return [float(model(as_input(x[None]), as_input(y[None]))) for x, y in zip(a, b)]


def folder(path):
    return np.stack([np.array(Image.open(file).convert("RGB")) for file in sorted(Path(path).glob("*.png"))])


shift_tolerant = dict(net="alex", variant="shift_tolerant", verbose=False)
if len(sys.argv) == 3:
    values = distances(stlpips.LPIPS(**shift_tolerant), folder(sys.argv[1]), folder(sys.argv[2]))
    print("ST-LPIPS", sum(values) / len(values), values)
else:
    a, b = video(1), video(2)
    print("bytes            ", a.sum(), b.sum())
    print("LPIPS, small     ", distances(shrink(lpips.LPIPS(net="alex", pretrained=False, pnet_rand=True, verbose=False)), a, b))
    print("ST-LPIPS, small  ", distances(shrink(stlpips.LPIPS(pretrained=False, **shift_tolerant)), a, b))
    print("ST-LPIPS         ", distances(stlpips.LPIPS(**shift_tolerant), a, b))
