#!/usr/bin/env python3
"""Prints the numbers that src/quality's tests compare with, computed by scikit-image.

    pip install numpy scikit-image && python tools/quality_reference.py
"""

import numpy as np
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

FRAMES, HEIGHT, WIDTH = 5, 24, 31


def video(seed):
    """Integers alone, so that the test in Rust makes the same bytes: slopes that move, and a noise of a 32-bit generator."""
    state, values = seed, np.zeros((FRAMES, HEIGHT, WIDTH, 3), np.uint8)
    for t in range(FRAMES):
        for y in range(HEIGHT):
            for x in range(WIDTH):
                for c in range(3):
                    state = (state * 1664525 + 1013904223) % 2**32
                    noise = (state >> 24) % (8 + 4 * t)
                    values[t, y, x, c] = (3 * x + 5 * y + 40 * c + 7 * t * (c + 1) + noise) % 256
    return values


def ssim(a, b):
    return structural_similarity(
        a, b, data_range=255, channel_axis=-1, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )


a, b = video(1), video(2)
print("bytes  ", a.sum(), b.sum())
print("psnr   ", [float(peak_signal_noise_ratio(x, y, data_range=255)) for x, y in zip(a, b)])
print("whole  ", float(peak_signal_noise_ratio(a, b, data_range=255)))
print("ssim   ", [float(ssim(x, y)) for x, y in zip(a, b)])
steps = np.abs(np.diff(a.astype(float), axis=0)).mean(axis=(1, 2, 3))
print("flicker", float((255 - steps.mean()) / 255))
between = np.abs((a[0:-2:2].astype(float) + a[2::2]) / 2 - a[1:-1:2]).mean(axis=(1, 2, 3))
print("smooth ", float((255 - between.mean()) / 255))
