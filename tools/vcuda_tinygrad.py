#!/usr/bin/env python3
"""tinygrad on the virtual driver: tensor programs and small models on its CUDA device, whose PTX it writes itself, against its own CPU device.

    tools/vcuda_tinygrad.py [--schedules eager,late,random:7] [--only REGEX] [--venv FOLDER]

Every program runs on both devices from the same numbers; results have to agree within the tolerance of the program. tinygrad's CPU device compiles
with clang, which comes from the ziglang wheel; CUDA needs no compiler. Prints a line for each program that fails, and `N passed, M failed, K skipped`
at the end; exit status 1 if something fails that is not in KNOWN.
"""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import vcuda_client as client

PACKAGES = ["tinygrad==0.14.0", "numpy==2.4.6", "ziglang==0.15.2"]

# Name of a program (regular expression, whole), and why it fails.
KNOWN = [
    ("double exp, log, sqrt|double softmax", "tinygrad writes ex2.approx.f64 and lg2.approx.f64, which PTX does not have"),
    ("bfloat16 softmax", "tinygrad's own check of its program fails while it emulates bfloat16: nothing reaches the driver"),
]


def variables(folder):
    clang = folder / "bin" / "clang"
    zig = next(folder.glob("lib/python*/site-packages/ziglang/zig"))
    clang.write_text(f'#!/bin/sh\nexec "{zig}" clang "$@"\n')
    clang.chmod(0o755)
    # PTX as tinygrad writes it, without NVRTC; compiled programs are kept beside the packages.
    # Two devices, for the programs that copy between them.
    devices = os.environ.get("VCUDA_DEVICES", "sm_80,sm_80")
    return {"DEV": "CUDA:PTX", "CC": str(clang), "CACHEDB": str(folder / "cache.db"), "VCUDA_DEVICES": devices}


if not client.is_inside():
    client.outside(__file__, "tinygrad", PACKAGES, variables, __doc__)

import numpy as np
from tinygrad import Device, Tensor, TinyJit, Variable, dtypes, nn
from tinygrad.helpers import Context
from tinygrad.renderer.ptx import PTXRenderer

assert isinstance(Device["CUDA"].renderer, PTXRenderer), "the CUDA device does not use the PTX renderer"
rng = np.random.default_rng(13)
PROGRAMS = []

# Tolerances, relative and absolute: exact; approximate instructions of float32; sums and products of many; half; bfloat16.
EXACT, APPROX, SUMS, HALF, BF16 = (0, 0), (1e-5, 1e-5), (1e-4, 1e-4), (4e-3, 4e-3), (3e-2, 3e-2)


def program(name, function, *inputs, tolerance=APPROX):
    assert all(name != other for other, *_ in PROGRAMS), name
    PROGRAMS.append((name, function, inputs, tolerance))


def f32(*shape, low=-2.0, high=2.0):
    return rng.uniform(low, high, shape).astype(np.float32)


def positive(*shape):
    return f32(*shape, low=0.1, high=3.0)


def ints(*shape, low=-100, high=100, dtype=np.int32):
    return rng.integers(low, high, shape).astype(dtype)


def sums(name, function, *inputs):
    program(name, function, *inputs, tolerance=SUMS)


def exact(name, function, *inputs):
    program(name, function, *inputs, tolerance=EXACT)


# Unary functions by name. The domain is that of the function.
for name in """neg relu relu6 sigmoid tanh gelu quick_gelu silu swish mish elu celu selu softplus softsign hardswish hardsigmoid hardtanh leaky_relu
        logsigmoid erf sinh cosh asinh atan sin cos tan exp exp2 abs sign floor ceil round trunc square isnan isinf isfinite""".split():
    program(f"unary {name}", lambda x, name=name: getattr(x, name)(), f32(45, 65, low=-1.4, high=1.4))
for name in "sqrt rsqrt log log2 log10 reciprocal".split():
    program(f"unary {name}", lambda x, name=name: getattr(x, name)(), positive(45, 65))
for name in "asin acos atanh".split():
    program(f"unary {name}", lambda x, name=name: getattr(x, name)(), f32(45, 65, low=-0.95, high=0.95))
program("unary acosh", lambda x: x.acosh(), f32(45, 65, low=1.1, high=9))
program("unary special values", lambda x: Tensor.stack(x.exp(), x.sigmoid(), x.tanh(), x.relu(), x.abs()),
        np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-40, 3e38, -3e38], np.float32))
program("unary sin of large numbers", lambda x: x.sin(), f32(500, low=-40, high=40), tolerance=(1e-4, 1e-4))
exact("unary logical_not", lambda x: (x > 0).logical_not(), f32(45, 65))
program("unary clip", lambda x: x.clip(-0.5, 0.7), f32(45, 65))

# Binary functions, with broadcasts.
for name in "add sub mul div maximum minimum copysign logaddexp".split():
    program(f"binary {name}", lambda x, y, name=name: getattr(x, name)(y), f32(45, 65), f32(45, 65))
    program(f"binary {name} broadcast", lambda x, y, name=name: getattr(x, name)(y), f32(7, 1, 65), f32(5, 1))
program("binary pow", lambda x, y: x.pow(y), positive(45, 65), f32(45, 65), tolerance=SUMS)
program("binary pow of a constant", lambda x: x.pow(3) + x.pow(-1.5) + 2 ** x, positive(45, 65), tolerance=SUMS)
program("binary fmod", lambda x, y: x.fmod(y), f32(45, 65), positive(45, 65), tolerance=SUMS)
program("binary lerp", lambda x, y: x.lerp(y, 0.3), f32(45, 65), f32(45, 65))
program("binary scalar", lambda x: (3 - x) * 2 / (x + 5), f32(45, 65))
for name in "eq ne".split():
    exact(f"binary {name}", lambda x, y, name=name: getattr(x, name)(y), ints(45, 65, low=0, high=4), ints(45, 65, low=0, high=4))
exact("binary less", lambda x, y: Tensor.stack(x < y, x <= y, x > y, x >= y), f32(45, 65), f32(45, 65))
program("binary isclose", lambda x: x.isclose(x + 1e-9), f32(45, 65))
program("ternary where", lambda x, y: (x > y).where(x * 2, y - 1), f32(45, 65), f32(45, 65))
program("ternary masked_fill", lambda x: x.masked_fill(x < 0, 9), f32(45, 65))

# Integers of every width.
for dtype in "int8 uint8 int16 uint16 int32 uint32 int64 uint64".split():
    low, high = (0, 100) if dtype[0] == "u" else (-60, 60)
    x, y = (ints(40, 33, low=low, high=high, dtype=dtype) for _ in range(2))
    divisor = ints(40, 33, low=1, high=12, dtype=dtype)
    exact(f"{dtype} add sub mul", lambda x, y: x * 3 + y * x - y, x, y)
    exact(f"{dtype} quotient and remainder", lambda x, y: Tensor.stack(x // y, x % y), x, divisor)
    exact(f"{dtype} and or xor not", lambda x, y: Tensor.stack(x & y, x | y, x ^ y, ~x), x, y)
    exact(f"{dtype} maximum, comparison", lambda x, y: x.maximum(y) + (x < y).cast(x.dtype), x, y)
    exact(f"{dtype} sum, max", lambda x: Tensor.stack(x.sum(0).cast(dtypes.int64), x.max(0).cast(dtypes.int64)), x)
for dtype in "uint8 uint32 uint64 int32".split():
    x = ints(40, 33, low=0, high=100, dtype=dtype)
    exact(f"{dtype} shifts", lambda x: Tensor.stack(x << 2, x >> 3), x)
exact("bool and or xor", lambda x, y: Tensor.stack((x > 0) & (y > 0), (x > 0) | (y > 0), (x > 0) ^ (y > 0)), f32(45, 65), f32(45, 65))
exact("bool any all", lambda x: Tensor.stack((x > 1.9).any(0), (x > -1.9).all(0)), f32(45, 65))
exact("division by a constant", lambda x: Tensor.stack(x // 7, x % 7, x // 16, x % 10), ints(3000, low=0, high=2**30))
exact("threefry", lambda x, y: x.threefry(y), ints(200, low=0, high=2**62, dtype=np.uint64), ints(200, low=0, high=2**62, dtype=np.uint64))
exact("popcount by hand", lambda x: sum(((x >> i) & 1 for i in range(16)), x * 0), ints(500, low=0, high=65536))
exact("keccak", lambda x: x.keccak(), ints(2, 100, low=0, high=255, dtype=np.uint8))

# Casts, and bits as they are.
FLOATS, INTS = ["float16", "bfloat16", "float32", "float64"], ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "bool"]
wide = {"float64": dtypes.float32, "bfloat16": dtypes.float32}
for to in FLOATS + INTS:
    low = 0 if to[0] in "ub" else -100
    # Kept in memory between the two casts: else tinygrad drops a cast to bfloat16 and back.
    exact(f"cast float32 to {to}", lambda x, to=to: x.cast(getattr(dtypes, to)).contiguous().cast(wide.get(to, getattr(dtypes, to))), f32(900, low=low, high=100))
    exact(f"cast int32 to {to}", lambda x, to=to: x.cast(getattr(dtypes, to)).contiguous().cast(wide.get(to, getattr(dtypes, to))), ints(900, low=low, high=100))
for source in "int8 uint8 int16 uint16 uint32 int64 uint64 float64 float16".split():
    x = f32(900, low=0, high=100).astype(source)
    exact(f"cast {source} to float32", lambda x: x.cast(dtypes.float32), x)
    exact(f"cast {source} to int32 and int64", lambda x: x.cast(dtypes.int32).cast(dtypes.int64) + x.cast(dtypes.int64), x)
exact("cast float32 to half, all magnitudes", lambda x: x.half(), np.ldexp(f32(2000), rng.integers(-28, 17, 2000)).astype(np.float32))
exact("cast float32 to bfloat16, ties", lambda x: x.bfloat16().contiguous().float(), (ints(2000, low=2**24, high=2**31 - 2**24) & ~0x7fff).view(np.float32))
exact("bitcast float32 to int32", lambda x: x.bitcast(dtypes.int32) ^ 5, f32(900))
exact("bitcast int32 to float32", lambda x: (x.bitcast(dtypes.int32) & 0x3fffffff).bitcast(dtypes.float32), f32(900))
exact("bitcast half to uint16", lambda x: x.bitcast(dtypes.uint16) + 1, f32(900).astype(np.float16))

# Half, bfloat16 and double.
for name, cast, tolerance in [("half", lambda x: x.half(), HALF), ("bfloat16", lambda x: x.bfloat16().contiguous(), BF16), ("double", lambda x: x.double(), APPROX)]:
    program(f"{name} arithmetic", lambda x, y, cast=cast: (cast(x) * cast(y) + cast(x) - 1).float(), f32(45, 65), f32(45, 65), tolerance=tolerance)
    program(f"{name} maximum, comparison", lambda x, y, cast=cast: (cast(x) < cast(y)).where(cast(x), cast(y).maximum(0)).float(), f32(45, 65), f32(45, 65), tolerance=tolerance)
    program(f"{name} exp, log, sqrt", lambda x, cast=cast: (cast(x).exp() + cast(x).log() + cast(x).sqrt()).float(), positive(45, 65), tolerance=tolerance)
    program(f"{name} sum", lambda x, cast=cast: cast(x).sum(1).float(), f32(45, 65), tolerance=tolerance)
    program(f"{name} matmul", lambda x, y, cast=cast: (cast(x) @ cast(y)).float(), f32(37, 65, low=-1, high=1), f32(65, 33, low=-1, high=1), tolerance=(tolerance[0], 4 * tolerance[1]))
    program(f"{name} softmax", lambda x, cast=cast: cast(x).softmax().float(), f32(45, 65), tolerance=tolerance)
program("double keeps its bits", lambda x: ((x * 3.3 + 1e-9) / 7 - x).cast(dtypes.float64), f32(900).astype(np.float64), tolerance=(1e-13, 1e-13))
program("half matmul on tensor cores", lambda x, y: x.matmul(y, dtype=dtypes.float), f32(64, 64).astype(np.float16), f32(64, 64).astype(np.float16), tolerance=SUMS)
program("half matmul on tensor cores, half sum", lambda x, y: (x @ y).float(), f32(48, 64).astype(np.float16), f32(64, 80).astype(np.float16), tolerance=(1e-2, 5e-2))

# Reductions.
for name in "sum mean max min var std prod".split():
    x = f32(9, 21, 34) if name != "prod" else f32(9, 21, 34, low=0.8, high=1.2)
    sums(f"reduce {name}", lambda x, name=name: getattr(x, name)(), x)
    for axis in [0, 1, 2, (0, 2)]:
        sums(f"reduce {name} axis {axis}", lambda x, name=name, axis=axis: getattr(x, name)(axis=axis), x)
sums("reduce sum of many", lambda x: x.sum(), f32(300, 301))
sums("reduce keepdim", lambda x: x.sum(1, keepdim=True) + x.max(2, keepdim=True), f32(9, 21, 34))
for name in "argmax argmin".split():
    exact(f"reduce {name}", lambda x, name=name: getattr(x, name)(axis=1), f32(21, 34))
for name in "softmax log_softmax softmin logsumexp".split():
    sums(f"reduce {name}", lambda x, name=name: getattr(x, name)(axis=1), f32(21, 134))
for name in "cumsum cumprod cummax cummin logcumsumexp".split():
    def scan(x, name=name):
        result = getattr(x, name)(axis=1)
        return result[0] if isinstance(result, tuple) else result
    sums(f"scan {name}", scan, f32(7, 60, low=0.7, high=1.3))
sums("scan cumsum long", lambda x: x.cumsum(), f32(1500))
sums("normalize, layernorm", lambda x: x.layernorm() + x.normalize(dim=1), f32(13, 70))
sums("batchnorm", lambda x, m, v: x.batchnorm(None, None, m, (v + 1e-5).rsqrt()), f32(4, 6, 9, 9), f32(6), positive(6))

# Movement.
x = f32(6, 10, 14)
for name, function in {
    "reshape": lambda x: x.reshape(14, 60) * 2,
    "permute": lambda x: x.permute(2, 0, 1).contiguous(),
    "transpose": lambda x: x.transpose(0, 2).contiguous(),
    "flip": lambda x: x.flip((0, 2)).contiguous(),
    "pad": lambda x: x.pad(((1, 2), (0, 3), (2, 0)), value=7),
    "pad reflect": lambda x: x.pad((2, 3, 1, 1), mode="reflect"),
    "pad replicate": lambda x: x.pad((2, 3, 1, 1), mode="replicate"),
    "pad circular": lambda x: x.pad((2, 3, 1, 1), mode="circular"),
    "shrink": lambda x: x.shrink(((1, 5), (2, 9), (0, 13))) + 1,
    "slice with strides": lambda x: x[::2, ::-1, 1::3].contiguous(),
    "negative indices, new axis": lambda x: x[-2, None, ..., -3:].contiguous(),
    "expand": lambda x: (x[:, :1].expand(6, 9, 14) + 1).contiguous(),
    "repeat": lambda x: x.repeat((2, 1, 3)),
    "repeat_interleave": lambda x: x.repeat_interleave(3, dim=1),
    "roll": lambda x: x.roll((3, -2), dims=(0, 2)),
    "cat": lambda x: x.cat(x * 2, x[:, :3].pad(((0, 0), (0, 7), (0, 0))), dim=1),
    "stack": lambda x: Tensor.stack(x, -x, dim=2),
    "split": lambda x: Tensor.cat(*[p.flip(0) for p in x.split(4, dim=1)], dim=1),
    "chunk": lambda x: Tensor.cat(*reversed(x.chunk(3, dim=2)), dim=2),
    "unfold": lambda x: x.unfold(2, 5, 3).contiguous(),
    "squeeze, unsqueeze": lambda x: x.unsqueeze(1).squeeze(1).flatten(1).contiguous() + 0.5,
    "triu": lambda x: x.triu(1),
    "tril": lambda x: x.tril(-1),
    "diagonal": lambda x: x[:, :, :10].diagonal().contiguous(),
    "diag": lambda x: x[0, 0].diag(),
    "meshgrid": lambda x: sum(Tensor.meshgrid(x[0, 0], x[0, :, 0], indexing="ij")),
    "rearrange": lambda x: x.rearrange("a (b c) d -> b (a d) c", c=5).contiguous(),
    "interpolate linear": lambda x: x[None].interpolate((15, 9), mode="linear"),
    "interpolate nearest": lambda x: x[None].interpolate((15, 9), mode="nearest"),
}.items():
    program(f"movement {name}", function, x)

# What is made on the device.
exact("make arange", lambda x: Tensor.arange(5, 900, 7) + x.sum() * 0, ints(3))
program("make linspace", lambda x: Tensor.linspace(-3, 4, 77) + x.sum() * 0, ints(3))
exact("make eye", lambda x: Tensor.eye(20, 24) + x.sum() * 0, ints(3))
exact("make full, zeros, ones", lambda x: Tensor.full((9, 9), 4.5).cat(Tensor.zeros(9, 9), Tensor.ones(9, 9)), ints(3))
exact("make one_hot", lambda x: x.one_hot(12), ints(50, low=0, high=12))


def seeded(function):
    def run(*inputs):
        Tensor.manual_seed(1337)
        return function(*inputs)
    return run


exact("random uniform", seeded(lambda x: Tensor.rand(33, 17)), ints(1))
exact("random uniform half", seeded(lambda x: Tensor.rand(900, dtype=dtypes.float16)), ints(1))
exact("random integers", seeded(lambda x: Tensor.randint(900, low=-5, high=77)), ints(1))
program("random normal", seeded(lambda x: Tensor.randn(900)), ints(1), tolerance=SUMS)
program("random kaiming", seeded(lambda x: Tensor.kaiming_uniform(30, 40) + Tensor.glorot_uniform(30, 40)), ints(1))
exact("random permutation", seeded(lambda x: Tensor.randperm(64)), ints(1))
exact("random dropout", seeded(lambda x: dropout(x)), f32(900))


def dropout(x):
    with Context(TRAINING=1):
        return x.dropout(0.4)


# Indexing, sorting, scattering.
exact("index by tensor", lambda x, i: x[i], f32(50, 8), ints(33, low=0, high=50))
exact("index by two tensors", lambda x, i, j: x[i, j], f32(50, 8), ints(33, low=0, high=50), ints(33, low=0, high=8))
exact("index gather", lambda x, i: x.gather(1, i), f32(20, 30), ints(20, 9, low=0, high=30))
program("index scatter", lambda x, i, s: x.scatter(1, i, s), f32(12, 20), np.stack([rng.permutation(20)[:6] for _ in range(12)]).astype(np.int32), f32(12, 6))
sums("index scatter_reduce", lambda x, i, s: x.scatter_reduce(0, i, s, reduce="sum"), f32(20), ints(60, low=0, high=20), f32(60))
exact("index set", lambda x: store(x), f32(20, 30))
exact("index masked_select", lambda x: x.masked_select(x > 0.5), f32(11, 9))
exact("sort", lambda x: x.sort(dim=1)[0], f32(5, 45))
exact("sort indices", lambda x: x.argsort(dim=1, descending=True), rng.permutation(90).reshape(2, 45).astype(np.int32))
exact("sort topk", lambda x: x.topk(7)[0], f32(5, 45))
program("embedding", lambda x, w: w[x], ints(4, 9, low=0, high=40), f32(40, 16))


def store(x):
    x = x.contiguous().clone()
    x[3:9, ::2] = 5
    x[0] = x[1] * 2
    return x


# Products and convolutions.
for m, k, n in [(1, 64, 48), (31, 47, 29), (64, 64, 64), (96, 33, 5)]:
    sums(f"matmul {m}x{k}x{n}", lambda x, y: x @ y, f32(m, k), f32(k, n))
sums("matmul batched", lambda x, y: x @ y, f32(3, 4, 17, 20), f32(4, 20, 11))
sums("matmul of transposed", lambda x, y: x.T @ y.T, f32(40, 31), f32(23, 40))
sums("matmul vector", lambda x, y: x @ y, f32(31, 40), f32(40))
sums("matmul float64", lambda x, y: x.double() @ y.double(), f32(20, 31), f32(31, 17))
exact("matmul int32", lambda x, y: x @ y, ints(20, 31), ints(31, 17))
exact("matmul int8 in int32", lambda x, y: x.int() @ y.int(), ints(20, 31, dtype=np.int8), ints(31, 17, dtype=np.int8))
sums("einsum", lambda x, y: Tensor.einsum("bij,bkj->bik", x, y), f32(3, 12, 20), f32(3, 9, 20))
sums("linear with bias and activation", lambda x, w, b: x.linear(w, b).gelu(), f32(19, 40), f32(40, 23), f32(23))
sums("attention", lambda q, k, v: q.scaled_dot_product_attention(k, v), f32(2, 3, 17, 16), f32(2, 3, 21, 16), f32(2, 3, 21, 16))
sums("attention causal", lambda q, k, v: q.scaled_dot_product_attention(k, v, is_causal=True), *(f32(2, 3, 17, 16) for _ in range(3)))
for name, options in {"3x3": {}, "stride": {"stride": 2}, "padding": {"padding": 1}, "dilation": {"dilation": 2}, "groups": {"groups": 2}}.items():
    w = f32(8, 3 if name == "groups" else 6, 3, 3)
    sums(f"conv2d {name}", lambda x, w, b, options=options: x.conv2d(w, b, **options), f32(2, 6, 13, 12), w, f32(8))
sums("conv2d depthwise", lambda x, w: x.conv2d(w, groups=6, padding=1), f32(2, 6, 13, 12), f32(6, 1, 3, 3))
sums("conv1d", lambda x, w: x.conv2d(w), f32(2, 6, 40), f32(5, 6, 4))
sums("conv3d", lambda x, w: x.conv2d(w), f32(1, 3, 6, 7, 8), f32(4, 3, 2, 3, 3))
sums("conv_transpose2d", lambda x, w: x.conv_transpose2d(w, stride=2), f32(1, 4, 7, 8), f32(4, 5, 3, 3))
sums("avg_pool2d", lambda x: x.avg_pool2d(3, stride=2, padding=1), f32(2, 3, 15, 14))
exact("max_pool2d", lambda x: x.max_pool2d(3, stride=2), f32(2, 3, 15, 14))
sums("cross_entropy", lambda x, y: x.cross_entropy(y), f32(30, 12), ints(30, low=0, high=12))
sums("sparse_categorical_crossentropy", lambda x, y: x.sparse_categorical_crossentropy(y, label_smoothing=0.1), f32(30, 12), ints(30, low=0, high=12))
sums("binary_crossentropy", lambda x, y: x.sigmoid().binary_crossentropy((y > 0).float()), f32(30, 12), f32(30, 12))
sums("qr", lambda x: x.qr()[1].abs(), f32(5, 5) + 3 * np.eye(5, dtype=np.float32))


# Gradients.
def gradient(name, function, *inputs, tolerance=SUMS):
    def run(*inputs):
        loss = function(*inputs).sum()
        return Tensor.cat(*[g.flatten() for g in loss.gradient(*inputs)])
    program(f"gradient {name}", run, *inputs, tolerance=tolerance)


for name in "relu sigmoid tanh gelu silu exp sin square softplus abs".split():
    gradient(name, lambda x, name=name: getattr(x, name)() * x, f32(21, 34))
for name in "sqrt log rsqrt reciprocal".split():
    gradient(name, lambda x, name=name: getattr(x, name)(), positive(21, 34))
gradient("div, maximum", lambda x, y: x / y + x.maximum(y) * y, f32(21, 34), positive(21, 34))
gradient("pow", lambda x, y: x.pow(y), positive(21, 34), f32(21, 34))
gradient("broadcast", lambda x, y: (x * y) ** 2, f32(21, 34), f32(34))
gradient("matmul", lambda x, y: (x @ y).tanh(), f32(21, 34), f32(34, 13))
gradient("softmax", lambda x, y: x.softmax() * y, f32(21, 34), f32(21, 34))
gradient("log_softmax", lambda x, y: x.log_softmax() * y, f32(21, 34), f32(21, 34))
gradient("max", lambda x: x.max(1) * 3, f32(21, 34))
gradient("mean, var", lambda x: x.mean(0) + x.var(0), f32(21, 34))
gradient("cumsum", lambda x: x.cumsum(1) ** 2, f32(7, 30))
gradient("pad, shrink, flip", lambda x: x.pad(((1, 1), (2, 0))).flip(1)[1:, 3:] ** 3, f32(21, 34))
gradient("gather", lambda x: x[Tensor([1, 3, 3, 0])] ** 2, f32(5, 6))
gradient("conv2d", lambda x, w: x.conv2d(w, padding=1).relu(), f32(2, 4, 9, 9), f32(6, 4, 3, 3))
gradient("max_pool2d", lambda x: x.max_pool2d(2) ** 2, f32(2, 3, 8, 8))
gradient("layernorm", lambda x, y: x.layernorm() * y, f32(13, 40), f32(13, 40))
gradient("attention", lambda q, k, v: q.scaled_dot_product_attention(k, v) ** 2, *(f32(1, 2, 9, 8) for _ in range(3)))


# The JIT: from its third call on the kernels are nodes of a CUDA graph whose arguments are set anew.
def jit(name, make, inputs, tolerance=SUMS, calls=5):
    def run(*given):
        function = TinyJit(make())
        outputs = []
        for call in range(calls):
            outputs.append(function(*[(x + call).contiguous().realize() for x in given]).numpy().copy())
        return Tensor(np.stack(outputs))
    program(f"jit {name}", run, *inputs, tolerance=tolerance)


jit("elementwise chain", lambda: lambda x: ((x * 2).contiguous() + 1).contiguous().relu().realize(), [f32(40, 30)])
jit("matmul chain", lambda: lambda x, y: ((x @ y).softmax().contiguous() @ y.T.contiguous()).realize(), [f32(20, 30), f32(30, 25)])
jit("reductions", lambda: lambda x: (x.sum(0).contiguous() * x.max(1).contiguous().sum() + x.mean()).realize(), [f32(40, 30)])


def state():
    total = Tensor.zeros(30).contiguous().realize()

    def step(x):
        total.assign(total * 0.5 + x.sum(0)).realize()
        return (total.exp2().contiguous() + 1).contiguous().realize()
    return step


jit("state from call to call", state, [f32(40, 30, low=-0.1, high=0.1)], tolerance=(1e-3, 1e-3))


def symbolic(x):
    """A length that changes from call to call: launch sizes and scalar arguments of graph nodes change."""
    function = TinyJit(lambda part: ((part * 2).contiguous().sum(0).contiguous() + 1).contiguous().realize())
    outputs = []
    for length in [3, 5, 9, 19, 7]:
        bound = Variable("length", 1, 19).bind(length)
        outputs.append(function(x[:bound + 1]).numpy().copy())
    return Tensor(np.stack(outputs))


sums("jit symbolic length", symbolic, f32(20, 12))

# Several pieces of a tensor on one device, on two virtual ones.
def two_devices(x, y):
    other = f"{Device.DEFAULT}:1"
    moved = (x.to(other) @ y.to(other)).relu()
    return moved.to(Device.DEFAULT) + 1


def sharded(x, y):
    devices = (Device.DEFAULT, f"{Device.DEFAULT}:1")
    return (x.shard(devices, axis=0) @ y.shard(devices)).sum(0).to(Device.DEFAULT)


sums("devices: copies between two", two_devices, f32(20, 30), f32(30, 16))
sums("devices: sharded product, all-reduce", sharded, f32(20, 30), f32(30, 16))


# Models.
def parameters(model, seed):
    """The same parameters on every device: numbers from numpy."""
    numbers = np.random.default_rng(seed)
    # Without counters, which have no gradient.
    for parameter in filter(lambda p: p.is_floating_point(), nn.state.get_parameters(model)):
        scale = 1 / np.sqrt(max(parameter.shape[-1], 1)) if parameter.shape else 1
        parameter.replace(Tensor(numbers.uniform(-scale, scale, parameter.shape).astype(np.float32)).realize())
        parameter.is_param_()
    return model


class Mlp:
    def __init__(self):
        self.first, self.second = nn.Linear(20, 48), nn.Linear(48, 10)

    def __call__(self, x):
        return self.second(self.first(x).relu())


class Convnet:
    def __init__(self):
        self.layers = [nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm(8, track_running_stats=False), Tensor.relu, lambda x: x.max_pool2d(2), nn.Conv2d(8, 12, 3), Tensor.relu,
                       lambda x: x.flatten(1), nn.Linear(12 * 4 * 4, 10)]

    def __call__(self, x):
        return x.sequential(self.layers)


class Block:
    def __init__(self, width, heads):
        self.heads, self.norm1, self.norm2 = heads, nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def __call__(self, x):
        batch, length, width = x.shape
        q, k, v = (t.reshape(batch, length, self.heads, -1).transpose(1, 2) for t in self.qkv(self.norm1(x)).chunk(3, dim=-1))
        x = x + self.out(q.scaled_dot_product_attention(k, v, is_causal=True).transpose(1, 2).reshape(batch, length, width))
        return x + self.down(self.up(self.norm2(x)).gelu())


class Transformer:
    def __init__(self):
        self.tokens, self.places = nn.Embedding(24, 32), nn.Embedding(12, 32)
        self.blocks, self.norm, self.head = [Block(32, 4) for _ in range(2)], nn.LayerNorm(32), nn.Linear(32, 24)

    def __call__(self, x):
        h = self.tokens(x) + self.places(Tensor.arange(x.shape[1]))
        for block in self.blocks:
            h = block(h)
        return self.head(self.norm(h))


def train(make, optimizer, steps, jitted):
    """Losses of some steps, and what the model says at the end."""
    def run(x, y):
        with Context(TRAINING=1):
            model = parameters(make(), 5)
            optim = optimizer([p for p in nn.state.get_parameters(model) if p.is_floating_point()])

            def step(x, y):
                optim.zero_grad()
                logits = model(x)
                loss = logits.reshape(-1, logits.shape[-1]).sparse_categorical_crossentropy(y.flatten()).backward()
                return loss.realize(*optim.schedule_step())

            step = TinyJit(step) if jitted else step
            x, y = x.realize(), y.realize()
            losses = [step(x, y).item() for _ in range(steps)]
        assert all(np.isfinite(losses)) and losses[-1] < losses[0], f"the loss does not fall: {losses}"
        return Tensor(np.array(losses, np.float32)).cat(model(x).flatten())
    return run


sgd, adam = (lambda p: nn.optim.SGD(p, lr=0.1, momentum=0.9)), (lambda p: nn.optim.AdamW(p, lr=3e-3))
classes = ints(32, low=0, high=10)
MODEL = (2e-3, 2e-3)
program("model MLP, 8 steps of SGD", train(Mlp, sgd, 8, False), f32(32, 20), classes, tolerance=MODEL)
program("model MLP, 8 steps of AdamW, JIT", train(Mlp, adam, 8, True), f32(32, 20), classes, tolerance=MODEL)
program("model convnet, 6 steps of SGD, JIT", train(Convnet, sgd, 6, True), f32(16, 1, 12, 12), ints(16, low=0, high=10), tolerance=MODEL)
program("model transformer, forward", lambda x: parameters(Transformer(), 6)(x), ints(3, 12, low=0, high=24), tolerance=SUMS)
program("model transformer, 6 steps of AdamW, JIT", train(Transformer, adam, 6, True), ints(3, 12, low=0, high=24), ints(3, 12, low=0, high=24), tolerance=MODEL)


def result_on(target, function, inputs):
    with Context(DEV=target):
        Tensor.manual_seed(7)
        return function(*[Tensor(x).realize() for x in inputs]).numpy()


def compare(function, inputs, tolerance):
    with np.errstate(all="ignore"):
        want = result_on("CPU", function, inputs)
        got = result_on("CUDA:PTX", function, inputs)
    assert got.shape == want.shape and got.dtype == want.dtype, f"{got.dtype}{got.shape}, expected {want.dtype}{want.shape}"
    if tolerance == EXACT:
        same = (got == want) | ((got != got) & (want != want))
    else:
        same = np.isclose(got, want, *tolerance, equal_nan=True)
    if not same.all():
        at = tuple(int(i[0]) for i in np.nonzero(~np.atleast_1d(same)))
        got, want = np.atleast_1d(got), np.atleast_1d(want)
        raise AssertionError(f"{(~same).sum()} of {same.size} differ, first at {at}: {got[at]} on CUDA, {want[at]} on the CPU")


tally = client.Tally(KNOWN)
for name, function, inputs, tolerance in PROGRAMS:
    tally.run(name, lambda: compare(function, inputs, tolerance))
tally.end()
