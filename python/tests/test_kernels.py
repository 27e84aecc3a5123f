"""The kernels on raw pointers, in a context that is not ours, on the virtual driver: the sums are those that torch computes on CPU tensors.

Needs the virtual driver's library (`cargo build --release -p vcuda -p vnvml`); without it the test is skipped.
"""
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))

SCRIPT = '''
import ctypes, struct, sys
import torch
from adacache import _native
from adacache.measure import Kept, measure

cuda = ctypes.CDLL("libcuda.so.1")

def call(name, *arguments):
    code = getattr(cuda, name)(*arguments)
    assert code == 0, (name, code)

def refused(body, word):
    try:
        body()
    except RuntimeError as error:
        assert word in str(error), error
    else:
        raise AssertionError(word)

call("cuInit", 0)
refused(_native.Kernels, "no CUDA context")
context, stream = ctypes.c_void_p(), ctypes.c_void_p()
call("cuDevicePrimaryCtxRetain", ctypes.byref(context), 0)
call("cuCtxSetCurrent", context)
# Ordered with the copies, which are on the default stream.
call("cuStreamCreate", ctypes.byref(stream), 0)
kernels = _native.Kernels()

def device(tensor):
    pointer, data = ctypes.c_uint64(), tensor.contiguous()
    bytes_ = data.numel() * data.element_size()
    call("cuMemAlloc_v2", ctypes.byref(pointer), ctypes.c_size_t(bytes_))
    call("cuMemcpyHtoD_v2", pointer, ctypes.c_void_p(data.data_ptr()), ctypes.c_size_t(bytes_))
    return pointer.value

def host(pointer, shape, dtype):
    out = torch.empty(shape, dtype=dtype)
    call("cuStreamSynchronize", stream)
    call("cuMemcpyDtoH_v2", ctypes.c_void_p(out.data_ptr()), ctypes.c_uint64(pointer), ctypes.c_size_t(out.numel() * out.element_size()))
    return out

torch.manual_seed(0)
for of, dtype in enumerate((torch.bfloat16, torch.float16, torch.float32)):
    for shape, strides in (((2, 5, 48), [1, 2]), ((1, 1, 37), []), ((2, 3, 21), [1, 7])):
        old, new = torch.randn(shape).to(dtype), torch.randn(shape).to(dtype)
        kept, expected = measure(new, measure(old, None, shape[1], "block", strides)[0], shape[1], "block", strides)
        batch, count = shape[0], 6 + 3 * len(strides)
        fresh, memory = device(new), device(old)
        scratch = device(torch.empty(_native.Kernels.scratch_bytes(batch, len(strides)) // 4))
        sums = device(torch.zeros(batch, count, dtype=torch.float64))
        kernels.probe(stream.value, of, fresh, memory, False, shape, strides, scratch, sums)
        got = host(sums, (batch, count), torch.float64).sum(0)
        assert torch.allclose(got, torch.tensor(expected.read(), dtype=torch.float64), rtol=1e-5, atol=1e-5), (dtype, shape, got, expected.read())
        assert torch.equal(host(memory, shape, dtype), new)

        a, b, out = device(new), device(old), device(torch.zeros(shape, dtype=dtype))
        kernels.add(stream.value, of, a, b, out, new.numel(), True)
        assert torch.equal(host(out, shape, dtype), new - old)
        kernels.add(stream.value, of, a, b, out, new.numel(), False)
        assert torch.equal(host(out, shape, dtype), new + old)

        from adacache.measure import extrapolated
        folds = [old, torch.randn(shape).to(dtype), torch.randn(shape).to(dtype)]
        words = device(torch.tensor([9, 6, 2, 11], dtype=torch.int32))
        kernels.extrapolate(stream.value, of, a, out, [device(fold) for fold in folds], words, words + 12, 0.75, new.numel())
        by_torch = extrapolated(new, folds, [9, 6, 2], 11, 2, 0.75)
        assert torch.allclose(host(out, shape, dtype).float(), by_torch.float(), rtol=2e-2 if of < 2 else 1e-5, atol=1e-5)

refused(lambda: kernels.add(stream.value, 2, 0, a, out, 4, True), "null pointer")
refused(lambda: kernels.add(stream.value, 2, a + 2, a, out, 4, True), "aligned")
refused(lambda: kernels.probe(stream.value, 2, a, a, False, (1, 1, 4), [], scratch, sums), "same memory")
print("fine")
'''


#: What stands for CUDA tensors of torch: CPU tensors in page-locked memory, which kernels reach by the same addresses.
TENSORS = '''
import contextlib, ctypes, types
import torch
from adacache import _native, kernels, measure

cuda = ctypes.CDLL("libcuda.so.1")

def call(name, *arguments):
    code = getattr(cuda, name)(*arguments)
    assert code == 0, (name, code)

call("cuInit", 0)
context, stream = ctypes.c_void_p(), ctypes.c_void_p()
call("cuDevicePrimaryCtxRetain", ctypes.byref(context), 0)
call("cuCtxSetCurrent", context)
call("cuStreamCreate", ctypes.byref(stream), 0)

def locked(shape, dtype=torch.float32):
    count = torch.Size(shape).numel()
    size = max(count, 1) * torch.empty((), dtype=dtype).element_size()
    pointer = ctypes.c_void_p()
    call("cuMemHostAlloc", ctypes.byref(pointer), ctypes.c_size_t(size), 0)
    return torch.frombuffer((ctypes.c_byte * size).from_address(pointer.value), dtype=dtype)[:count].reshape(shape)

def device(tensor):
    out = locked(tensor.shape, tensor.dtype)
    out.copy_(tensor)
    return out

def wait():
    call("cuStreamSynchronize", stream)

class Torch:
    """torch, as kernels.py uses it, with page-locked memory for the device's."""

    def __getattr__(self, name):
        return getattr(torch, name)

    def empty(self, *shape, dtype=torch.float32, device=None, pin_memory=False):
        return locked(shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape, dtype)

    def empty_like(self, tensor):
        return locked(tensor.shape, tensor.dtype)

    def tensor(self, values, dtype, pin_memory):
        assert pin_memory
        return device(torch.tensor(values, dtype=dtype))

    cuda = types.SimpleNamespace(device=lambda _: contextlib.nullcontext())

kernels.torch = Torch()
loaded = _native.Kernels()
kernels._kernels = lambda device: loaded
kernels._stream = lambda tensor: stream.value
kernels.takes = lambda *tensors: all(t.dtype in kernels._DTYPES and t.is_contiguous() for t in tensors)
measure._reading = lambda values: values
measure.torch = types.SimpleNamespace(**{**vars(torch), "empty_like": kernels.torch.empty_like})
torch.manual_seed(0)
original = measure.measure

def by_torch(fresh, kept, frames, strides):
    takes, kernels.takes = kernels.takes, lambda *_: False
    try:
        kept, sums = original(fresh, kept, frames, "block", strides)
        return kept, sums
    finally:
        kernels.takes = takes

for dtype in (torch.float32, torch.bfloat16):
    kept = ours = None
    for step in range(3):
        fresh = torch.randn(2, 12, 16).to(dtype)
        kept, expected = by_torch(fresh.clone(), kept, 4, [1, 2])
        ours, sums = original(device(fresh), ours, 4, "block", [1, 2])
        wait()
        assert torch.equal(ours.tensor, fresh) and (sums is None) == (expected is None) == (step == 0)
    a, b, c = (device(torch.randn(2, 12, 16).to(dtype)) for _ in range(3))
    out = measure.add(a, b)
    wait()
    assert torch.equal(out, a + b)
    out = measure.subtract(a, b)
    wait()
    assert torch.equal(out, a - b)
    out = measure.extrapolated(a, [b, c], [5, 3], 6, 2, 1.0)
    wait()
    close = dict(rtol=2e-2, atol=2e-2) if dtype == torch.bfloat16 else dict(rtol=1e-5, atol=1e-5)
    assert torch.allclose(out.float(), a.float() + b.float() + 0.5 * (b.float() - c.float()), **close)

# The sums themselves: on a GPU they are added up behind the kernels on the stream, here on the host once they are there.
fresh, old = (torch.randn(2, 12, 16) for _ in range(2))
memory = device(old)
sums = locked((2, 12), torch.float64)
scratch = locked((_native.Kernels.scratch_bytes(2, 2) // 4,))
empty, kernels.torch.empty = kernels.torch.empty, lambda *shape, dtype=None, device=None: sums if dtype == torch.float64 else scratch
kernels.probe(device(fresh), memory, False, (2, 4, 48), [1, 2])
wait()
_, expected = by_torch(fresh, by_torch(old, None, 4, [1, 2])[0], 4, [1, 2])
assert torch.allclose(sums.sum(0), expected, rtol=1e-5), (sums.sum(0), expected)
print("fine")
'''


@pytest.mark.parametrize("script", [SCRIPT, TENSORS], ids=["pointers", "tensors"])
@pytest.mark.parametrize("schedule", ["eager", "late"])
def test_kernels_on_the_virtual_driver(schedule, script):
    library = TARGET / "release" / "libvcuda.so"
    if not library.exists():
        pytest.skip(f"{library} is not there: cargo build --release -p vcuda -p vnvml")
    environment = {**os.environ, "VCUDA_BUILD": "no", "VCUDA_SCHEDULE": schedule, "VCUDA_CHECKED": "1"}
    import adacache

    path = str(Path(adacache.__file__).parents[1])
    environment["PYTHONPATH"] = os.pathsep.join([path, environment.get("PYTHONPATH", "")])
    done = subprocess.run([ROOT / "tools/vcuda", sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "fine" in done.stdout, done.stdout + done.stderr
