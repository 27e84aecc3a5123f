"""How far a tensor has moved from that of an earlier step: the sums of the Rust library's probe, in its order.

Torch computes them here, on whatever device the tensor is. On CUDA the kernels of `adacache.kernels` do, where they take the tensor, and the sums
travel to the host while the step goes on.
"""
from __future__ import annotations

from typing import List, Optional, Sequence

import torch

from . import _native, kernels

Tensor = torch.Tensor


class Kept:
    """A tensor kept from one step to the next, with what is known of it."""

    __slots__ = ("tensor", "abs", "sq")

    def __init__(self, tensor: Tensor):
        self.tensor = tensor.detach().contiguous()
        self.abs: Optional[Tensor] = None
        self.sq: Optional[Tensor] = None

    @property
    def bytes(self) -> int:
        return self.tensor.numel() * self.tensor.element_size()

    def fits(self, other: Tensor) -> bool:
        """Whether `other` can be compared with it."""
        return (self.tensor.shape, self.tensor.dtype, self.tensor.device) == (other.shape, other.dtype, other.device)


class Sums:
    """Sums on the host."""

    def __init__(self, values: Tensor):
        self._values = values

    def read(self) -> List[float]:
        return self._values.tolist()


def _reading(values: Tensor):
    return kernels.Reading(values) if values.is_cuda else Sums(values)


def _sum(x: Tensor) -> Tensor:
    return x.sum(dtype=torch.float64)


def framed(x: Tensor, frames: int, span: str) -> Tensor:
    """`x` as `[batch, frames, inner]`.

    Raises `ValueError` where the tokens are not those of so many frames.
    """
    if span == "spatial":
        batch, rest = divmod(x.shape[0], frames)
        if rest == 0:
            return x.reshape(batch, frames, -1)
    elif x.shape[1] % frames == 0:
        return x.reshape(x.shape[0], frames, -1)
    raise ValueError(
        f"motion is measured between frames, and tokens of shape {tuple(x.shape)} are not those of {frames} frames: "
        "leave out moreg, or give an Anatomy whose frames(…) fits"
    )


def measure(fresh: Tensor, kept: Optional[Kept], frames: int, span: str, strides: Sequence[int]):
    """The sums of `fresh` against `kept`, and `fresh` to be kept in its place.

    `sum|new-kept|, sum|kept|, sum(new-kept)^2, sum kept^2, sum new*kept, sum new^2`, then for each stride k
    `sum|r[t+k]-r[t]|, sum|r[t+k]|, sum|r[t]|`. None if there is nothing to compare with.
    """
    fresh = fresh.detach().contiguous()
    if kept is not None and not kept.fits(fresh):
        kept = None
    if kernels.takes(fresh):
        # The kernel overwrites what was kept.
        now = Kept(torch.empty_like(fresh)) if kept is None else kept
        shape = framed(fresh, frames, span).shape if strides else (1, 1, fresh.numel())
        sums = kernels.probe(fresh, now.tensor, kept is None, shape, strides)
        return now, None if kept is None else _reading(sums)
    now = Kept(fresh)
    x = now.tensor.reshape(-1).float()
    now.abs, now.sq = _sum(x.abs()), _sum(x * x)
    if kept is None:
        return now, None
    old = kept.tensor.reshape(-1).float()
    change = x - old
    sums = [_sum(change.abs()), kept.abs, _sum(change * change), kept.sq, _sum(x * old), now.sq]
    if strides:
        r = framed(x.reshape(now.tensor.shape), frames, span)
        for stride in strides:
            if stride >= frames:
                sums += [torch.zeros((), dtype=torch.float64, device=x.device)] * 3
                continue
            later, earlier = r[:, stride:], r[:, :-stride]
            sums += [_sum((later - earlier).abs()), _sum(later.abs()), _sum(earlier.abs())]
    return now, _reading(torch.stack(sums))


def filtered(x: Tensor, grid: Sequence[int], noise: float) -> Tensor:
    """`x`, tokens on a grid of (time, height, width), filtered by frequencies for a noise level, as SeaCache does: a circular product along each axis."""
    tokens = x.reshape(-1, *grid, x.shape[-1])
    for axis, length in enumerate(grid, 1):
        weights = torch.tensor(_native.seacache_filter(length, noise), dtype=torch.float32)
        steps = torch.arange(length)
        circle = weights[(steps[:, None] - steps[None, :]) % length].to(x.device)
        tokens = torch.tensordot(tokens.float(), circle, dims=([axis], [1])).movedim(-1, axis)
    return tokens.reshape(x.shape).to(x.dtype)


def add(a: Tensor, b: Tensor) -> Tensor:
    """`a + b`, rounded once."""
    return kernels.fold(a, b, +1) if a.shape == b.shape and kernels.takes(a, b) else a + b


def subtract(a: Tensor, b: Tensor) -> Tensor:
    """`a - b`, rounded once."""
    return kernels.fold(a, b, -1) if a.shape == b.shape and kernels.takes(a, b) else a - b


def extrapolated(x: Tensor, folds: Sequence[Tensor], steps: Sequence[int], step: int, order: int, damping: float) -> Tensor:
    """`x +` the fold expected at `step`: a Taylor polynomial through `folds`, newest first, of the computed `steps`.

    `F0 + x*D + x^2/2 * (D - (F1 - F2)/d2)/d1` with `D = (F0 - F1)/d1`; of lower order while there are fewer folds.
    """
    order = min(order, len(folds) - 1)
    if order == 0:
        return add(x, folds[0])
    folds, steps = folds[: order + 1], steps[: order + 1]
    if all(fold.shape == x.shape for fold in folds) and kernels.takes(x, *folds):
        return kernels.extrapolate(x, folds, steps, step, damping)
    fold = folds[0].float()
    slope = damping * (step - steps[0]) / (steps[0] - steps[1])
    change = fold - folds[1].float()
    fold = fold + slope * change
    if order > 1:
        spacing = (steps[0] - steps[1]) / (steps[1] - steps[2])
        fold = fold + 0.5 * slope * slope * (change - spacing * (folds[1].float() - folds[2].float()))
    return (x.float() + fold).to(x.dtype)
