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


@pytest.mark.parametrize("schedule", ["eager", "late"])
def test_kernels_on_the_virtual_driver(schedule):
    library = TARGET / "release" / "libvcuda.so"
    if not library.exists():
        pytest.skip(f"{library} is not there: cargo build --release -p vcuda -p vnvml")
    environment = {**os.environ, "VCUDA_BUILD": "no", "VCUDA_SCHEDULE": schedule, "VCUDA_CHECKED": "1"}
    import adacache

    path = str(Path(adacache.__file__).parents[1])
    environment["PYTHONPATH"] = os.pathsep.join([path, environment.get("PYTHONPATH", "")])
    done = subprocess.run([ROOT / "tools/vcuda", sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "fine" in done.stdout, done.stdout + done.stderr
