"""The Rust library's residual kernels on CUDA tensors: in torch's own context, on its current stream, on the tensors' own memory.

Nothing here waits for the device: kernels are queued, and the sums are copied to page-locked memory behind them. Tensors that the kernels do not
take (other types, GPUs before Ampere) are left to torch; `adacache.measure` asks `takes`.
"""
from __future__ import annotations

import warnings
from typing import Dict, List, Optional, Sequence

import torch

from . import _native

Tensor = torch.Tensor

#: By the numbers of the C interface.
_DTYPES = {torch.bfloat16: 0, torch.float16: 1, torch.float32: 2}

#: Of each device its kernels; None where they cannot be loaded.
_loaded: Dict[int, Optional[_native.Kernels]] = {}


def _kernels(device: torch.device) -> Optional[_native.Kernels]:
    index = torch.cuda.current_device() if device.index is None else device.index
    if index not in _loaded:
        with torch.cuda.device(index):
            # The first call of the runtime makes its context current.
            torch.cuda.current_stream().query()
            try:
                _loaded[index] = _native.Kernels()
            except RuntimeError as error:
                warnings.warn(f"adacache measures with torch on {torch.cuda.get_device_name(index)}: {error}", stacklevel=2)
                _loaded[index] = None
    return _loaded[index]


def takes(*tensors: Tensor) -> bool:
    """Whether the kernels take these tensors: on one CUDA device, of one type they know, contiguous."""
    first = tensors[0]
    if not first.is_cuda or first.dtype not in _DTYPES:
        return False
    alike = all(t.device == first.device and t.dtype == first.dtype and t.is_contiguous() for t in tensors)
    return alike and _kernels(first.device) is not None


def _stream(tensor: Tensor) -> int:
    return torch.cuda.current_stream(tensor.device).cuda_stream


def probe(fresh: Tensor, kept: Tensor, first: bool, shape: Sequence[int], strides: Sequence[int]) -> Tensor:
    """The sums of `fresh` against `kept`, on the device, over the batch; `kept` becomes equal to `fresh`."""
    batch, frames, inner = shape
    with torch.cuda.device(fresh.device):
        sums = torch.empty(batch, 6 + 3 * len(strides), dtype=torch.float64, device=fresh.device)
        scratch = torch.empty(_native.Kernels.scratch_bytes(batch, len(strides)) // 4, dtype=torch.float32, device=fresh.device)
        _kernels(fresh.device).probe(_stream(fresh), _DTYPES[fresh.dtype], fresh.data_ptr(), kept.data_ptr(), first, (batch, frames, inner),
                                     list(strides), scratch.data_ptr(), sums.data_ptr())
    return sums.sum(0)


def fold(a: Tensor, b: Tensor, sign: int) -> Tensor:
    """`a + b`, or `a - b` if `sign` is negative."""
    out = torch.empty_like(a)
    with torch.cuda.device(a.device):
        _kernels(a.device).add(_stream(a), _DTYPES[a.dtype], a.data_ptr(), b.data_ptr(), out.data_ptr(), a.numel(), sign < 0)
    return out


def extrapolate(x: Tensor, folds: Sequence[Tensor], steps: Sequence[int], step: int, damping: float) -> Tensor:
    """`x +` the fold that a Taylor polynomial through `folds` gives for `step`."""
    out = torch.empty_like(x)
    # Page-locked, so that the copy is queued and nothing waits.
    words = torch.tensor([*steps, *[0] * (3 - len(steps)), step], dtype=torch.int32, pin_memory=True).to(x.device, non_blocking=True)
    with torch.cuda.device(x.device):
        _kernels(x.device).extrapolate(_stream(x), _DTYPES[x.dtype], x.data_ptr(), out.data_ptr(), [fold.data_ptr() for fold in folds],
                                       words.data_ptr(), words.data_ptr() + 12, damping, x.numel())
    return out


class Reading:
    """Sums on their way to the host: the copy is behind the kernels on the stream, and `read` waits for it alone."""

    def __init__(self, values: Tensor):
        self._host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
        self._host.copy_(values, non_blocking=True)
        self._done = torch.cuda.Event()
        self._done.record(torch.cuda.current_stream(values.device))

    def read(self) -> List[float]:
        if not self._done.query():
            self._done.synchronize()
        return self._host.tolist()
