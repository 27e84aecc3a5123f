#!/usr/bin/env python3
"""numba-cuda and cuda-python on the virtual driver: kernels compiled by numba's compiler and by NVRTC, every result checked with numpy.

    tools/vcuda_python.py [--schedules eager,late,random:7] [--only REGEX] [--venv FOLDER]

Both hand PTX to the driver: numba because nvJitLink, which would make machine code of it, is not installed, so that it links with the driver
(cuLink…); cuda.core because NVRTC is asked for PTX. Prints a line for each test that fails, and `N passed, M failed, K skipped` at the end; exit status 1
if something fails that is not in KNOWN.
"""

import ctypes
import sys
import threading
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import vcuda_client as client

PACKAGES = ["numba==0.68.1", "numba-cuda==0.30.4", "cuda-bindings==12.9.10", "cuda-core==1.2.2", "numpy==2.4.6", "nvidia-cuda-nvrtc-cu12==12.8.93",
            "nvidia-cuda-nvcc-cu12==12.8.93", "nvidia-cuda-runtime-cu12==12.8.90", "nvidia-cuda-cccl-cu12==12.8.90"]

# Name of a test (regular expression, whole), and why it fails.
KNOWN = [
    ("numba stream callback", "numba-cuda 0.30.4 asks the stream's handle for a `value` that it does not have"),
    ("numba cooperative groups", "numba's grid synchronisation is in libcudadevrt.a, which holds machine code alone"),
]


def variables(folder):
    return {"NUMBA_CACHE_DIR": str(folder / "numba"), "CUDA_PYTHON_CUDA_PER_THREAD_DEFAULT_STREAM": "0"}


if not client.is_inside():
    client.outside(__file__, "python", PACKAGES, variables, __doc__)

import numpy as np

warnings.filterwarnings("ignore")
import math

from cuda.bindings import driver as cu
from cuda.core import Device, EventOptions, LaunchConfig, Program, ProgramOptions, launch
from numba import cuda, float32, int32, types, vectorize
from numba.cuda.random import create_xoroshiro128p_states, xoroshiro128p_uniform_float32

rng = np.random.default_rng(13)
TESTS = []


def test(function):
    TESTS.append((function.__name__.replace("_", " "), function))
    return function


def close(got, want, tolerance=1e-5):
    np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance)


def f32(*shape):
    return rng.uniform(-2, 2, shape).astype(np.float32)


# ---- numba ------------------------------------------------------------------------------------------------------------------------------------------

@test
def numba_elementwise():
    @cuda.jit
    def saxpy(a, x, y):
        i = cuda.grid(1)
        if i < x.size:
            y[i] += a * x[i]

    x, y = f32(1000), f32(1000)
    want = y + np.float32(3) * x
    saxpy[8, 128](np.float32(3), x, y)
    close(y, want)


@test
def numba_grid_stride_and_math():
    @cuda.jit
    def kernel(x, y):
        for i in range(cuda.grid(1), x.size, cuda.gridsize(1)):
            y[i] = math.sqrt(abs(x[i])) + math.exp(x[i]) * math.sin(x[i]) + math.pow(abs(x[i]), 1.5) + math.atan2(x[i], 2.0)

    x, y = rng.uniform(-2, 2, 700), np.zeros(700)
    kernel[2, 64](x, y)
    close(y, np.sqrt(abs(x)) + np.exp(x) * np.sin(x) + abs(x) ** 1.5 + np.arctan2(x, 2), 1e-12)


@test
def numba_integers():
    @cuda.jit
    def kernel(x, y):
        i = cuda.grid(1)
        if i < x.size:
            y[i] = (x[i] // 7) * 3 + (x[i] % 5) ^ (x[i] << 2) + cuda.popc(x[i]) + cuda.clz(x[i])

    x, y = rng.integers(1, 1 << 20, 500), np.zeros(500, np.int64)
    kernel[4, 128](x, y)
    for a, b in zip(x.tolist(), y.tolist()):
        assert b == (a // 7) * 3 + (a % 5) ^ (a << 2) + a.bit_count() + (64 - a.bit_length()), (a, b)


@test
def numba_two_dimensions_and_strides():
    @cuda.jit
    def kernel(x, y):
        i, j = cuda.grid(2)
        if i < x.shape[0] and j < x.shape[1]:
            y[j, i] = x[i, j] * 2

    x = f32(40, 60)[::2, ::3]
    y = cuda.device_array((20, 20), np.float32)
    kernel[(2, 3), (16, 8)](cuda.to_device(np.ascontiguousarray(x)), y)
    close(y.copy_to_host(), x.T * 2)
    fortran = np.asfortranarray(x)
    kernel[(2, 3), (16, 8)](fortran, y)
    close(y.copy_to_host(), x.T * 2)


@test
def numba_shared_memory_reduction():
    @cuda.jit
    def kernel(x, out):
        part = cuda.shared.array(128, float32)
        t = cuda.threadIdx.x
        i = cuda.grid(1)
        part[t] = x[i] if i < x.size else 0
        cuda.syncthreads()
        step = 64
        while step:
            if t < step:
                part[t] += part[t + step]
            cuda.syncthreads()
            step //= 2
        if t == 0:
            cuda.atomic.add(out, 0, part[0])

    x, out = f32(3000), np.zeros(1, np.float32)
    kernel[24, 128](x, out)
    close(out[0], x.sum(dtype=np.float64), 1e-3)


@test
def numba_dynamic_shared_memory():
    @cuda.jit
    def kernel(x, y):
        part = cuda.shared.array(0, float32)
        t = cuda.threadIdx.x
        part[t] = x[t]
        cuda.syncthreads()
        y[t] = part[cuda.blockDim.x - 1 - t]

    x, y = f32(256), np.zeros(256, np.float32)
    kernel[1, 256, 0, 1024](x, y)
    close(y, x[::-1])


@test
def numba_matmul_tiles():
    tile = 16

    @cuda.jit
    def kernel(a, b, c):
        x = cuda.shared.array((tile, tile), float32)
        y = cuda.shared.array((tile, tile), float32)
        i, j = cuda.grid(2)
        ti, tj = cuda.threadIdx.x, cuda.threadIdx.y
        total = float32(0)
        for k in range((a.shape[1] + tile - 1) // tile):
            x[ti, tj] = a[i, k * tile + tj] if i < a.shape[0] and k * tile + tj < a.shape[1] else 0
            y[ti, tj] = b[k * tile + ti, j] if k * tile + ti < b.shape[0] and j < b.shape[1] else 0
            cuda.syncthreads()
            for n in range(tile):
                total += x[ti, n] * y[n, tj]
            cuda.syncthreads()
        if i < c.shape[0] and j < c.shape[1]:
            c[i, j] = total

    a, b, c = f32(45, 50), f32(50, 37), np.zeros((45, 37), np.float32)
    kernel[(3, 3), (tile, tile)](a, b, c)
    close(c, a @ b, 1e-4)


@test
def numba_atomics():
    @cuda.jit
    def kernel(x, bins, extremes, swaps):
        i = cuda.grid(1)
        if i < x.size:
            cuda.atomic.add(bins, x[i] % 16, 1)
            cuda.atomic.max(extremes, 0, x[i])
            cuda.atomic.min(extremes, 1, x[i])
            cuda.atomic.or_(extremes, 2, x[i])
            cuda.atomic.exch(swaps, 0, x[i])
            cuda.atomic.cas(swaps, 1, 0, 77)

    x = rng.integers(1, 1000, 900).astype(np.int32)
    bins, extremes, swaps = np.zeros(16, np.int32), np.array([0, 9999, 0], np.int32), np.zeros(2, np.int32)
    kernel[8, 128](x, bins, extremes, swaps)
    assert (bins == np.bincount(x % 16, minlength=16)).all()
    assert extremes.tolist() == [x.max(), x.min(), np.bitwise_or.reduce(x)] and swaps[0] in x and swaps[1] == 77


@test
def numba_float_atomics():
    @cuda.jit
    def kernel(x, out):
        i = cuda.grid(1)
        if i < x.size:
            cuda.atomic.add(out, 0, x[i])
            cuda.atomic.max(out, 1, x[i])

    for dtype in (np.float32, np.float64):
        x, out = f32(500).astype(dtype), np.zeros(2, dtype)
        kernel[4, 128](x, out)
        close(out, [x.sum(dtype=np.float64), x.max()], 1e-4)


@test
def numba_warp_functions():
    @cuda.jit
    def kernel(x, out):
        i = cuda.grid(1)
        value = x[i]
        for step in (16, 8, 4, 2, 1):
            value += cuda.shfl_down_sync(0xFFFFFFFF, value, step)
        if cuda.laneid == 0:
            out[i // 32] = value
        ballot = cuda.ballot_sync(0xFFFFFFFF, x[i] > 50)
        if i == 0:
            out[8] = cuda.popc(ballot)

    x = rng.integers(0, 100, 256).astype(np.int32)
    out = np.zeros(9, np.int32)
    kernel[2, 128](x, out)
    assert (out[:8] == x.reshape(8, 32).sum(1)).all() and out[8] == (x[:32] > 50).sum()


@test
def numba_device_functions_and_local_arrays():
    @cuda.jit(device=True, inline="never")
    def polynomial(c, x):
        result = float32(0)
        for k in range(4):
            result = result * x + c[k]
        return result

    @cuda.jit
    def kernel(x, y):
        c = cuda.local.array(4, float32)
        for k in range(4):
            c[k] = k + 1
        i = cuda.grid(1)
        if i < x.size:
            y[i] = polynomial(c, x[i])

    x, y = f32(300), np.zeros(300, np.float32)
    kernel[3, 128](x, y)
    close(y, np.polyval([1, 2, 3, 4], x))


@test
def numba_constant_memory():
    table = f32(32)

    @cuda.jit
    def kernel(y):
        values = cuda.const.array_like(table)
        i = cuda.grid(1)
        y[i] = values[i % 32] * i

    y = np.zeros(128, np.float32)
    kernel[1, 128](y)
    close(y, np.tile(table, 4) * np.arange(128))


@test
def numba_half():
    @cuda.jit
    def kernel(x, y):
        i = cuda.grid(1)
        if i < x.size:
            y[i] = x[i] * x[i] + types.float16(1)

    x, y = f32(200).astype(np.float16), np.zeros(200, np.float16)
    kernel[2, 128](x, y)
    close(y.astype(np.float32), (x * x + np.float16(1)).astype(np.float32), 2e-3)


@test
def numba_complex_and_records():
    record = np.dtype([("a", np.float32), ("b", np.int32), ("c", np.complex64)])

    @cuda.jit
    def kernel(x, y):
        i = cuda.grid(1)
        if i < x.size:
            y[i] = x[i].c * (x[i].a + 1j * x[i].b)

    x = np.zeros(100, record)
    x["a"], x["b"], x["c"] = f32(100), np.arange(100), f32(100) + 1j * f32(100)
    y = np.zeros(100, np.complex64)
    kernel[1, 128](x, y)
    close(y, x["c"] * (x["a"] + 1j * x["b"]), 1e-4)


@test
def numba_vectorize():
    @vectorize(["float32(float32, float32)"], target="cuda")
    def function(x, y):
        return x * y + math.sqrt(abs(x))

    x, y = f32(500), f32(500)
    close(function(x, y), x * y + np.sqrt(abs(x)))


@test
def numba_reduce_decorator():
    total = cuda.reduce(lambda a, b: a + b)
    x = rng.uniform(0, 1, 5000)
    close(total(x), x.sum(), 1e-12)


@test
def numba_random_numbers():
    @cuda.jit
    def kernel(states, out):
        i = cuda.grid(1)
        if i < out.size:
            out[i] = xoroshiro128p_uniform_float32(states, i)

    out = np.zeros(256, np.float32)
    kernel[2, 128](create_xoroshiro128p_states(256, seed=5), out)
    again = np.zeros(256, np.float32)
    kernel[2, 128](create_xoroshiro128p_states(256, seed=5), again)
    assert (out == again).all() and 0.4 < out.mean() < 0.6 and len(set(out.tolist())) > 250


@test
def numba_streams_events_pinned_memory():
    @cuda.jit
    def kernel(x, factor):
        i = cuda.grid(1)
        if i < x.size:
            x[i] *= factor

    first, second = cuda.stream(), cuda.stream()
    host = cuda.pinned_array(1000, np.float32)
    host[:] = np.arange(1000)
    device = cuda.to_device(host, stream=first)
    kernel[8, 128, first](device, 2)
    ready, start, stop = cuda.event(), cuda.event(), cuda.event()
    ready.record(first)
    ready.wait(second)
    start.record(second)
    kernel[8, 128, second](device, 5)
    stop.record(second)
    result = cuda.pinned_array(1000, np.float32)
    device.copy_to_host(result, stream=second)
    second.synchronize()
    assert stop.query() and start.elapsed_time(stop) >= 0
    close(result, np.arange(1000) * 10)


@test
def numba_mapped_and_managed_memory():
    @cuda.jit
    def kernel(x):
        i = cuda.grid(1)
        if i < x.size:
            x[i] += i

    for make in (cuda.mapped_array, cuda.managed_array):
        x = make(300, np.float32)
        x[:] = 7
        kernel[3, 128](x)
        cuda.synchronize()
        close(np.asarray(x), np.arange(300) + 7)


@test
def numba_stream_callback():
    seen = threading.Event()
    stream = cuda.stream()
    stream.add_callback(lambda stream, status, arg: seen.set())
    stream.synchronize()
    assert seen.wait(10)


@test
def numba_slices_and_copies_between_arrays():
    x = cuda.to_device(np.arange(100, dtype=np.float32))
    x[10:20].copy_to_device(x[50:60])
    got = x.copy_to_host()
    want = np.arange(100)
    want[10:20] = want[50:60]
    close(got, want)


@test
def numba_cooperative_groups():
    @cuda.jit
    def kernel(x):
        group = cuda.cg.this_grid()
        i = cuda.grid(1)
        for row in range(1, x.shape[0]):
            opposite = x.shape[1] - i - 1
            x[row, i] = x[row - 1, opposite] + 1
            group.sync()

    x = np.zeros((20, 256), np.int32)
    kernel[4, 64](x)
    assert (x == np.arange(20)[:, None]).all()


@test
def numba_attributes_and_occupancy():
    @cuda.jit
    def kernel(x):
        part = cuda.shared.array(64, float32)
        part[cuda.threadIdx.x] = x[cuda.threadIdx.x]
        cuda.syncthreads()
        x[cuda.threadIdx.x] = part[63 - cuda.threadIdx.x]

    x = f32(64)
    want = x[::-1].copy()
    kernel[1, 64](x)
    close(x, want)
    compiled, = kernel.overloads.values()
    assert compiled.shared_mem_per_block == 256 and compiled.max_threads_per_block >= 64 and compiled.regs_per_thread > 0
    assert compiled.max_cooperative_grid_blocks(64) > 0


@test
def numba_bounds_checked_by_the_driver_as_a_sticky_fault():
    # In a process of its own: afterwards the context is lost.
    import subprocess
    program = """if True:
        from numba import cuda
        import numpy as np
        @cuda.jit
        def kernel(x): x[1 << 30] = 1
        x = cuda.to_device(np.zeros(8, np.float32))
        for _ in range(2):
            try:
                kernel[1, 1](x)
                cuda.synchronize()
            except Exception as error:
                print("ILLEGAL_ADDRESS" in str(error) or "700" in str(error))
    """
    said = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True)
    assert said.stdout.split() == ["True", "True"], said.stdout + said.stderr[-300:]


@test
def numba_print_in_a_kernel():
    import subprocess
    program = """if True:
        from numba import cuda
        @cuda.jit
        def kernel(): print("thread", cuda.threadIdx.x, 0.5)
        kernel[1, 3]()
        cuda.synchronize()
    """
    said = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True)
    assert sorted(said.stdout.split("\n"))[1:] == [f"thread {i} 0.500000" for i in range(3)], said.stdout + said.stderr[-300:]


# ---- cuda.core and cuda.bindings, with NVRTC --------------------------------------------------------------------------------------------------------

SOURCE = r"""
extern "C" __global__ void scale(float *x, float a, size_t n) {
    for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < n; i += (size_t)gridDim.x * blockDim.x) x[i] *= a;
}
extern "C" __global__ void __launch_bounds__(256) reduce(const float *x, float *out, int n) {
    __shared__ float part[256];
    float sum = 0;
    for (int i = blockIdx.x * 256 + threadIdx.x; i < n; i += gridDim.x * 256) sum += x[i];
    part[threadIdx.x] = sum;
    for (int step = 128; step; step /= 2) {
        __syncthreads();
        if (threadIdx.x < step) part[threadIdx.x] += part[threadIdx.x + step];
    }
    if (threadIdx.x == 0) atomicAdd(out, part[0]);
}
__constant__ float table[4];
__device__ int counter;
extern "C" __global__ void polynomial(float *x) {
    float v = x[threadIdx.x];
    x[threadIdx.x] = ((table[3] * v + table[2]) * v + table[1]) * v + table[0];
    atomicAdd(&counter, 1);
}
template <typename T> __global__ void add(const T *x, const T *y, T *z, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) z[i] = x[i] + y[i];
}
extern "C" __global__ void dynamic(float *x, int n) {
    extern __shared__ float part[];
    for (int i = threadIdx.x; i < n; i += blockDim.x) part[i] = x[i];
    __syncthreads();
    for (int i = threadIdx.x; i < n; i += blockDim.x) x[i] = part[n - 1 - i];
}
struct Big { double a[3]; int b; };
extern "C" __global__ void by_value(Big big, double *out) { out[threadIdx.x] = big.a[threadIdx.x] * big.b; }
"""


class Core:
    """The device, a stream and the kernels, made once."""
    made = None

    def __init__(self):
        self.device = Device(0)
        self.device.set_current()
        self.stream = self.device.create_stream()
        options = ProgramOptions(std="c++17", arch=f"sm_{self.device.arch}")
        self.code = Program(SOURCE, "c++", options=options).compile("ptx", name_expressions=("add<float>", "add<long long>"))
        self.keep = []

    @classmethod
    def get(cls):
        cls.made = cls.made or Core()
        cls.made.device.set_current()
        return cls.made

    def buffer(self, array):
        """A device buffer with the array's bytes."""
        array = np.ascontiguousarray(array)
        buffer = self.device.allocate(array.nbytes, stream=self.stream)
        check(cu.cuMemcpyHtoDAsync(int(buffer.handle), array.ctypes.data, array.nbytes, int(self.stream.handle)))
        self.stream.sync()
        return buffer

    def read(self, buffer, like):
        out = np.empty_like(like)
        check(cu.cuMemcpyDtoHAsync(out.ctypes.data, int(buffer.handle), out.nbytes, int(self.stream.handle)))
        self.stream.sync()
        return out


def check(result):
    code, *values = result
    assert code == cu.CUresult.CUDA_SUCCESS, code
    return values[0] if len(values) == 1 else values


@test
def core_launch():
    c = Core.get()
    x = f32(1000)
    buffer = c.buffer(x)
    launch(c.stream, LaunchConfig(grid=3, block=128), c.code.get_kernel("scale"), buffer, np.float32(2.5), np.uint64(x.size))
    close(c.read(buffer, x), x * np.float32(2.5))


@test
def core_reduction():
    c = Core.get()
    x = f32(5000)
    source, out = c.buffer(x), c.buffer(np.zeros(1, np.float32))
    launch(c.stream, LaunchConfig(grid=6, block=256), c.code.get_kernel("reduce"), source, out, np.int32(x.size))
    close(c.read(out, np.zeros(1, np.float32))[0], x.sum(dtype=np.float64), 1e-3)


@test
def core_templates():
    c = Core.get()
    for name, dtype in (("add<float>", np.float32), ("add<long long>", np.int64)):
        x, y = (rng.integers(0, 1000, 300).astype(dtype) for _ in range(2))
        a, b, out = c.buffer(x), c.buffer(y), c.buffer(x)
        launch(c.stream, LaunchConfig(grid=3, block=128), c.code.get_kernel(name), a, b, out, np.int32(300))
        assert (c.read(out, x) == x + y).all()


@test
def core_events():
    c = Core.get()
    try:
        options = EventOptions(timing_enabled=True)
    except TypeError:
        options = EventOptions(enable_timing=True)
    x = f32(500)
    buffer = c.buffer(x)
    start = c.stream.record(options=options)
    launch(c.stream, LaunchConfig(grid=2, block=128), c.code.get_kernel("scale"), buffer, np.float32(3), np.uint64(x.size))
    stop = c.stream.record(options=options)
    other = c.device.create_stream()
    other.wait(stop)
    launch(other, LaunchConfig(grid=2, block=128), c.code.get_kernel("scale"), buffer, np.float32(2), np.uint64(x.size))
    other.sync()
    assert stop.is_done and stop - start >= 0
    close(c.read(buffer, x), x * 6)


@test
def core_buffer_copies():
    c = Core.get()
    x = f32(256)
    a, b = c.buffer(x), c.device.allocate(x.nbytes, stream=c.stream)
    a.copy_to(b, stream=c.stream)
    close(c.read(b, x), x)
    b.close()


@test
def core_kernel_attributes_and_occupancy():
    c = Core.get()
    kernel = c.code.get_kernel("reduce")
    attributes = kernel.attributes
    assert attributes.shared_size_bytes == 1024 and attributes.max_threads_per_block == 256 and attributes.num_regs > 0
    blocks = kernel.occupancy.max_active_blocks_per_multiprocessor(256, 0)
    assert 1 <= blocks <= 32


@test
def core_device_properties():
    properties = Core.get().device.properties
    assert properties.warp_size == 32 and properties.max_threads_per_block == 1024 and properties.multiprocessor_count > 0
    assert Core.get().device.name and Core.get().device.uuid


def headers():
    import nvidia
    return [str(path) for base in nvidia.__path__ for path in Path(base).glob("*/include")]


@test
def core_graph_builder():
    c = Core.get()
    x = f32(300)
    buffer = c.buffer(x)
    builder = c.device.create_graph_builder()
    builder.begin_building()
    for factor in (2, 3, 0.5):
        launch(builder, LaunchConfig(grid=3, block=128), c.code.get_kernel("scale"), buffer, np.float32(factor), np.uint64(x.size))
    graph = builder.end_building().complete()
    for _ in range(2):
        graph.launch(c.stream)
    close(c.read(buffer, x), x * 9)
    graph.close()


@test
def bindings_module_globals_and_constants():
    c = Core.get()
    module = check(cu.cuModuleLoadData(c.code.code))
    function = check(cu.cuModuleGetFunction(module, b"polynomial"))
    address, size = check(cu.cuModuleGetGlobal(module, b"table"))
    assert size == 16
    coefficients = np.array([1, 2, 3, 4], np.float32)
    check(cu.cuMemcpyHtoD(address, coefficients.ctypes.data, 16))
    counter, size = check(cu.cuModuleGetGlobal(module, b"counter"))
    check(cu.cuMemsetD32(counter, 5, 1))
    x = f32(64)
    device = check(cu.cuMemAlloc(x.nbytes))
    check(cu.cuMemcpyHtoD(device, x.ctypes.data, x.nbytes))
    check(cu.cuLaunchKernel(function, 1, 1, 1, 64, 1, 1, 0, 0, ((int(device),), (ctypes.c_void_p,)), 0))
    got, count = np.empty_like(x), np.zeros(1, np.int32)
    check(cu.cuMemcpyDtoH(got.ctypes.data, device, x.nbytes))
    check(cu.cuMemcpyDtoH(count.ctypes.data, counter, 4))
    close(got, np.polyval(coefficients[::-1], x), 1e-4)
    assert count[0] == 69
    check(cu.cuMemFree(device))
    check(cu.cuModuleUnload(module))


@test
def bindings_library():
    c = Core.get()
    library = check(cu.cuLibraryLoadData(c.code.code, [], [], 0, [], [], 0))
    assert check(cu.cuLibraryGetKernelCount(library)) == 7
    kernel = check(cu.cuLibraryGetKernel(library, b"scale"))
    function = check(cu.cuKernelGetFunction(kernel))
    assert check(cu.cuFuncGetName(function)) == b"scale"
    x = f32(100)
    buffer = c.buffer(x)
    config = cu.CUlaunchConfig()
    config.gridDimX = config.gridDimY = config.gridDimZ = config.blockDimY = config.blockDimZ = 1
    config.blockDimX, config.hStream = 128, c.stream.handle
    arguments = ((int(buffer.handle), 4.0, 100), (ctypes.c_void_p, ctypes.c_float, ctypes.c_size_t))
    check(cu.cuLaunchKernelEx(config, cu.CUfunction(int(kernel)), arguments, 0))
    close(c.read(buffer, x), x * 4)
    check(cu.cuLibraryUnload(library))


@test
def bindings_link():
    c = Core.get()
    parts = [r"extern __device__ float twice(float); extern \"C\" __global__ void k(float *x) { x[threadIdx.x] = twice(x[threadIdx.x]); }".replace('\\"', '"'),
             "__device__ float twice(float x) { return 2 * x + 1; }"]
    options = ProgramOptions(arch=f"sm_{c.device.arch}", relocatable_device_code=True)
    state = check(cu.cuLinkCreate(0, [], []))
    for i, part in enumerate(parts):
        ptx = Program(part, "c++", options=options).compile("ptx").code
        check(cu.cuLinkAddData(state, cu.CUjitInputType.CU_JIT_INPUT_PTX, ptx, len(ptx), f"part{i}".encode(), 0, [], []))
    image, size = check(cu.cuLinkComplete(state))
    module = check(cu.cuModuleLoadData(image))
    check(cu.cuLinkDestroy(state))
    function = check(cu.cuModuleGetFunction(module, b"k"))
    x = f32(32)
    buffer = c.buffer(x)
    check(cu.cuLaunchKernel(function, 1, 1, 1, 32, 1, 1, 0, int(c.stream.handle), ((int(buffer.handle),), (ctypes.c_void_p,)), 0))
    close(c.read(buffer, x), 2 * x + 1)


@test
def bindings_dynamic_shared_memory_needs_opting_in():
    c = Core.get()
    module = check(cu.cuModuleLoadData(c.code.code))
    function = check(cu.cuModuleGetFunction(module, b"dynamic"))
    n = 20_000
    x = f32(n)
    buffer = c.buffer(x)
    arguments = ((int(buffer.handle), n), (ctypes.c_void_p, ctypes.c_int))
    code, = cu.cuLaunchKernel(function, 1, 1, 1, 256, 1, 1, 4 * n, int(c.stream.handle), arguments, 0)
    assert code == cu.CUresult.CUDA_ERROR_INVALID_VALUE, code
    check(cu.cuFuncSetAttribute(function, cu.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, 4 * n))
    check(cu.cuLaunchKernel(function, 1, 1, 1, 256, 1, 1, 4 * n, int(c.stream.handle), arguments, 0))
    close(c.read(buffer, x), x[::-1])


@test
def bindings_structure_by_value():
    c = Core.get()

    class Big(ctypes.Structure):
        _fields_ = [("a", ctypes.c_double * 3), ("b", ctypes.c_int)]

    module = check(cu.cuModuleLoadData(c.code.code))
    function = check(cu.cuModuleGetFunction(module, b"by_value"))
    buffer = c.buffer(np.zeros(3))
    big = Big((ctypes.c_double * 3)(1.5, 2.5, 3.5), 4)
    pointer = ctypes.c_void_p(int(buffer.handle))
    array = (ctypes.c_void_p * 2)(ctypes.addressof(big), ctypes.addressof(pointer))
    check(cu.cuLaunchKernel(function, 1, 1, 1, 3, 1, 1, 0, int(c.stream.handle), ctypes.addressof(array), 0))
    close(c.read(buffer, np.zeros(3)), [6, 10, 14])


@test
def bindings_pools():
    c = Core.get()
    stream = int(c.stream.handle)
    pool = check(cu.cuDeviceGetDefaultMemPool(0))
    keep = cu.cuuint64_t(1 << 20)
    check(cu.cuMemPoolSetAttribute(pool, cu.CUmemPool_attribute.CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, keep))
    pointers = [check(cu.cuMemAllocAsync(4096, stream)) for _ in range(4)]
    for i, pointer in enumerate(pointers):
        check(cu.cuMemsetD32Async(pointer, i + 1, 1024, stream))
    out = np.zeros((4, 1024), np.int32)
    for i, pointer in enumerate(pointers):
        check(cu.cuMemcpyDtoHAsync(out[i].ctypes.data, pointer, 4096, stream))
        check(cu.cuMemFreeAsync(pointer, stream))
    check(cu.cuStreamSynchronize(stream))
    assert (out == np.arange(1, 5)[:, None]).all()


@test
def bindings_two_dimensional_copies():
    c = Core.get()
    x = np.arange(20 * 30, dtype=np.float32).reshape(20, 30)
    pointer, pitch = check(cu.cuMemAllocPitch(30 * 4, 20, 4))
    copy = cu.CUDA_MEMCPY2D()
    copy.srcMemoryType, copy.srcHost, copy.srcPitch = cu.CUmemorytype.CU_MEMORYTYPE_HOST, x.ctypes.data, 120
    copy.dstMemoryType, copy.dstDevice, copy.dstPitch = cu.CUmemorytype.CU_MEMORYTYPE_DEVICE, pointer, pitch
    copy.WidthInBytes, copy.Height = 120, 20
    check(cu.cuMemcpy2D(copy))
    out = np.zeros((8, 10), np.float32)
    back = cu.CUDA_MEMCPY2D()
    back.srcMemoryType, back.srcDevice, back.srcPitch, back.srcXInBytes, back.srcY = cu.CUmemorytype.CU_MEMORYTYPE_DEVICE, pointer, pitch, 20, 3
    back.dstMemoryType, back.dstHost, back.dstPitch = cu.CUmemorytype.CU_MEMORYTYPE_HOST, out.ctypes.data, 40
    back.WidthInBytes, back.Height = 40, 8
    check(cu.cuMemcpy2D(back))
    close(out, x[3:11, 5:15])
    check(cu.cuMemFree(pointer))


@test
def bindings_registered_host_memory():
    c = Core.get()
    x = np.ones(4096, np.float32)
    check(cu.cuMemHostRegister(x.ctypes.data, x.nbytes, cu.CU_MEMHOSTREGISTER_DEVICEMAP))
    pointer = check(cu.cuMemHostGetDevicePointer(x.ctypes.data, 0))
    launch(c.stream, LaunchConfig(grid=4, block=128), c.code.get_kernel("scale"), int(pointer), np.float32(7), np.uint64(x.size))
    c.stream.sync()
    check(cu.cuMemHostUnregister(x.ctypes.data))
    close(x, np.full(4096, 7))


@test
def bindings_graph_by_capture_and_update():
    c = Core.get()
    stream = int(c.stream.handle)
    kernel = c.code.get_kernel("scale")
    x = f32(300)
    buffer = c.buffer(x)

    def capture(factor):
        check(cu.cuStreamBeginCapture(stream, cu.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_GLOBAL))
        for _ in range(2):
            launch(c.stream, LaunchConfig(grid=3, block=128), kernel, buffer, np.float32(factor), np.uint64(x.size))
        return check(cu.cuStreamEndCapture(stream))

    first = capture(2)
    assert check(cu.cuGraphGetNodes(first, 0))[1] == 2
    executable = check(cu.cuGraphInstantiate(first, 0))
    check(cu.cuGraphLaunch(executable, stream))
    close(c.read(buffer, x), x * 4)
    second = capture(0.5)
    check(cu.cuGraphExecUpdate(executable, second))
    check(cu.cuGraphLaunch(executable, stream))
    close(c.read(buffer, x), x)
    check(cu.cuGraphExecDestroy(executable))
    for graph in (first, second):
        check(cu.cuGraphDestroy(graph))


@test
def bindings_contexts_and_error_names():
    code, name = cu.cuGetErrorName(cu.CUresult.CUDA_ERROR_INVALID_VALUE)
    assert name == b"CUDA_ERROR_INVALID_VALUE"
    own = check(cu.cuCtxCreate(0, 0))
    assert int(check(cu.cuCtxGetCurrent())) == int(own) and int(check(cu.cuCtxGetDevice())) == 0
    pointer = check(cu.cuMemAlloc(64))
    check(cu.cuMemFree(pointer))
    code, = cu.cuMemFree(pointer)
    assert code == cu.CUresult.CUDA_ERROR_INVALID_VALUE, code
    check(cu.cuCtxDestroy(own))


# The last one, because a fault in it ends the context.
@test
def core_cooperative_launch():
    c = Core.get()
    options = ProgramOptions(std="c++17", arch=f"sm_{c.device.arch}", relocatable_device_code=False, include_path=headers())
    code = Program(r"""
        #include <cooperative_groups.h>
        extern "C" __global__ void rounds(int *x, int n) {
            auto grid = cooperative_groups::this_grid();
            for (int i = 1; i < n; i++) {
                x[i * grid.size() + grid.thread_rank()] = x[(i - 1) * grid.size() + grid.size() - 1 - grid.thread_rank()] + 1;
                grid.sync();
            }
        }""", "c++", options=options).compile("ptx")
    x = np.zeros((12, 256), np.int32)
    buffer = c.buffer(x)
    launch(c.stream, LaunchConfig(grid=4, block=64, is_cooperative=True), code.get_kernel("rounds"), buffer, np.int32(12))
    assert (c.read(buffer, x) == np.arange(12)[:, None]).all()


tally = client.Tally(KNOWN)
for name, function in TESTS:
    tally.run(name, function)
tally.end()
