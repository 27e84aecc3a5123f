"""Writes launch cases from Triton kernels: case.json, kernel.ptx and buffers, for `ptx-vm run`. Needs no GPU.

Triton compiles every kernel below for a given target; what must come out is computed by numpy, never by Triton. Usage:

    pip install triton numpy ml_dtypes
    python tools/ptx_cases_triton.py OUT [--only PATTERN] [--kept] [--arch 90] [--num-warps 8] [--num-stages 4]

`--kept` writes those cases alone that stand under crates/ptx-vm/tests/cases. The PTX names this file as its source, with no folder.
"""

import argparse
import dataclasses
import fnmatch
import json
import math
import os
import pathlib
import re
import sys
import zlib

os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")

import ml_dtypes
import numpy as np
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.language.extra import libdevice

BF16 = ml_dtypes.bfloat16
F8E5 = ml_dtypes.float8_e5m2
F8E4 = ml_dtypes.float8_e4m3fn

# What Triton calls an element type, and what case.json calls it. 8-bit floats are compared as bytes.
TYPES = {
    "float32": ("fp32", "f32"), "float64": ("fp64", "f64"), "float16": ("fp16", "f16"), "bfloat16": ("bf16", "bf16"),
    "int8": ("i8", "i8"), "uint8": ("u8", "u8"), "int16": ("i16", "i16"), "uint16": ("u16", "u16"),
    "int32": ("i32", "i32"), "uint32": ("u32", "u32"), "int64": ("i64", "i64"), "uint64": ("u64", "u64"),
    "bool": ("i1", "u8"), "float8_e5m2": ("fp8e5", "u8"), "float8_e4m3fn": ("fp8e4nv", "u8"),
}


@dataclasses.dataclass
class Buffer:
    """A device buffer: what it holds before (None: nothing) and must hold after (None: not looked at)."""

    init: np.ndarray | None
    expect: np.ndarray | None = None
    rtol: float = 0.0
    atol: float = 0.0
    aligned: bool = True

    @property
    def array(self):
        return self.init if self.init is not None else self.expect


def read(x, aligned=True):
    return Buffer(np.ascontiguousarray(x), aligned=aligned)


def out(x, rtol=0.0, atol=0.0, aligned=True):
    return Buffer(None, np.ascontiguousarray(x), rtol, atol, aligned)


def both(init, expect, rtol=0.0, atol=0.0):
    return Buffer(np.ascontiguousarray(init), np.ascontiguousarray(expect), rtol, atol)


@dataclasses.dataclass
class Scalar:
    kind: str
    value: float


def i32(v):
    return Scalar("i32", int(v))


def i64(v):
    return Scalar("i64", int(v))


def f32(v):
    return Scalar("f32", float(v))


CASES = []


def case(name, keep=False, **options):
    """Registers a function giving (kernel, grid, arguments, constants); `options` are Triton's (num_warps, num_stages, arch, debug …)."""

    def register(fn):
        CASES.append((name, fn, keep, options))
        return fn

    return register


def jit(fn):
    """triton.jit, with this file's bare name in the line table."""
    kernel = triton.jit(fn)
    fn.__code__ = fn.__code__.replace(co_filename=pathlib.Path(fn.__code__.co_filename).name)
    return kernel


def rng_of(name):
    return np.random.default_rng(zlib.crc32(name.encode()))


def compile_case(kernel, args, constants, options):
    """The compiled kernel and those arguments that became parameters: an integer 1 is a constant, as in Triton's own launcher."""
    options = dict(options)
    arch = options.pop("arch", 80)
    signature, constexprs, attrs, params = {}, {}, {}, []
    rest = iter(args)
    for i, name in enumerate(kernel.arg_names):
        if name in constants:
            signature[name] = "constexpr"
            constexprs[(i,)] = constants[name]
            continue
        arg = next(rest)
        if isinstance(arg, Scalar) and arg.kind in ("i32", "i64") and arg.value == 1:
            signature[name] = "constexpr"
            constexprs[(i,)] = 1
            continue
        params.append(arg)
        if isinstance(arg, Scalar):
            signature[name] = {"f32": "fp32"}.get(arg.kind, arg.kind)
            if arg.kind in ("i32", "i64") and arg.value % 16 == 0:
                attrs[(i,)] = [["tt.divisibility", 16]]
        else:
            signature[name] = "*" + TYPES[arg.array.dtype.name][0]
            if arg.aligned:
                attrs[(i,)] = [["tt.divisibility", 16]]
    assert next(rest, None) is None, "more arguments than parameters"
    source = ASTSource(kernel, signature, constexprs, attrs)
    return triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options), params


def clean(ptx):
    """The PTX without the folders of this machine: only file names stay in the line table and in the debugger's sections."""
    ptx = re.sub(r'(\.file\s+\d+\s+)"(?:[^"]*/)?([^"/]*)"', r'\1"\2"', ptx)
    folder = re.compile(r"(?<=\.b8 )47(?= +// DW_AT_comp_dir\n)(?:.*\n\.b8 [1-9]\d*(?=\n))*")
    return folder.sub(lambda m: re.sub(r"(^|\.b8 )\d+", r"\g<1>46", m.group()), ptx)


def write_case(root, name, fn, options):
    kernel, grid, args, constants = fn(rng_of(name))
    compiled, params = compile_case(kernel, args, constants, options)
    folder = root / f"triton_{name}"
    folder.mkdir(parents=True, exist_ok=True)
    ptx = clean(compiled.asm["ptx"])
    (folder / "kernel.ptx").write_text(ptx)
    specs = []
    for i, arg in enumerate(params):
        if isinstance(arg, Scalar):
            specs.append({"kind": arg.kind, "value": arg.value})
            continue
        spec = {"kind": "buffer", "dtype": TYPES[arg.array.dtype.name][1], "len": int(arg.array.size)}
        for key, array in (("init", arg.init), ("expect", arg.expect)):
            if array is not None:
                (folder / f"{i}_{key}.bin").write_bytes(array.tobytes())
                spec[key] = f"{i}_{key}.bin"
        if arg.expect is not None:
            spec |= {"rtol": arg.rtol, "atol": arg.atol}
        specs.append(spec)
    entry = compiled.metadata.name
    declared = re.search(r"\.entry\s+" + re.escape(entry) + r"\((.*?)\)", ptx, re.S).group(1).count(".param")
    # Triton's own trailing parameters: scratch memory these kernels do not ask for.
    assert compiled.metadata.global_scratch_size == 0
    specs += [{"kind": "null"}] * (declared - len(specs))
    grid = list(grid) + [1] * (3 - len(grid))
    block = [32 * compiled.metadata.num_warps, 1, 1]
    spec = {"ptx": "kernel.ptx", "entry": entry, "grid": grid, "block": block,
            "dynamic_shared": compiled.metadata.shared, "args": specs}
    head = ",\n".join(f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in spec.items() if k != "args")
    body = ",\n".join("    " + json.dumps(s) for s in specs)
    (folder / "case.json").write_text("{\n" + head + ',\n  "args": [\n' + body + "\n  ]\n}\n")


def cdiv(a, b):
    return -(-a // b)


def rounded(x, dtype):
    """x after a conversion to dtype and back: what a kernel that stores dtype must come to."""
    return x.astype(dtype).astype(np.float64)


# ---- elementwise ------------------------------------------------------------------------------------------------------------------------


@jit
def vector_add(x, y, z, n, BLOCK: tl.constexpr):
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = offs < n
    tl.store(z + offs, tl.load(x + offs, mask=mask) + tl.load(y + offs, mask=mask), mask=mask)


def add_case(dtype, n, block, aligned=True):
    def make(rng):
        x, y = [(rng.standard_normal(n) * 4).astype(dtype) for _ in range(2)]
        return vector_add, (cdiv(n, block),), [read(x, aligned), read(y, aligned), out(x + y, aligned=aligned), i32(n)], {"BLOCK": block}

    return make


case("vector_add_f32", num_warps=4)(add_case(np.float32, 98432 // 8, 1024))
case("vector_add_f32_odd", num_warps=2)(add_case(np.float32, 1003, 256, aligned=False))
case("vector_add_f64", num_warps=8)(add_case(np.float64, 1000, 512))
case("vector_add_bf16", num_warps=1)(add_case(BF16, 1000, 512))
case("vector_add_f16", num_warps=4)(add_case(np.float16, 4096, 1024))
case("vector_add_i8", num_warps=4)(add_case(np.int8, 4096, 1024))
case("vector_add_i16", num_warps=4)(add_case(np.int16, 777, 256))
case("vector_add_i64", num_warps=4)(add_case(np.int64, 777, 256))
case("vector_add_debug", debug=True)(add_case(np.int32, 1000, 256))
case("vector_add_sm89", arch=89)(add_case(np.float16, 1000, 256))
case("vector_add_sm90", arch=90)(add_case(np.float16, 1000, 256))


@jit
def math_f32(x, y, o, n, BLOCK: tl.constexpr):
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = offs < n
    a = tl.load(x + offs, mask=mask, other=1.0)
    b = tl.load(y + offs, mask=mask, other=1.0)
    p = tl.abs(a) + 0.125
    tl.store(o + 0 * n + offs, tl.exp(a), mask=mask)
    tl.store(o + 1 * n + offs, tl.log(p), mask=mask)
    tl.store(o + 2 * n + offs, tl.sqrt(p), mask=mask)
    tl.store(o + 3 * n + offs, tl.rsqrt(p), mask=mask)
    tl.store(o + 4 * n + offs, tl.sin(a), mask=mask)
    tl.store(o + 5 * n + offs, tl.cos(a), mask=mask)
    tl.store(o + 6 * n + offs, tl.erf(a), mask=mask)
    tl.store(o + 7 * n + offs, tl.sigmoid(a), mask=mask)
    tl.store(o + 8 * n + offs, tl.exp2(a), mask=mask)
    tl.store(o + 9 * n + offs, tl.log2(p), mask=mask)
    tl.store(o + 10 * n + offs, tl.floor(a) + tl.ceil(b), mask=mask)
    tl.store(o + 11 * n + offs, tl.where(a > b, a / b, tl.fma(a, b, p)), mask=mask)
    tl.store(o + 12 * n + offs, tl.math.div_rn(a, p) + tl.math.sqrt_rn(p), mask=mask)
    tl.store(o + 13 * n + offs, tl.clamp(a, -1.0, 1.0) + tl.minimum(a, b) * tl.maximum(a, b), mask=mask)


def erf(x):
    return np.vectorize(math.erf)(x)


@case("math_f32", keep=True)
def _(rng):
    n = 250
    a, b = [(rng.standard_normal(n) * 3).astype(np.float32) for _ in range(2)]
    x, y = a.astype(np.float64), b.astype(np.float64)
    p = np.abs(x) + 0.125
    want = [np.exp(x), np.log(p), np.sqrt(p), 1 / np.sqrt(p), np.sin(x), np.cos(x), erf(x), 1 / (1 + np.exp(-x)), np.exp2(x), np.log2(p),
            np.floor(x) + np.ceil(y), np.where(x > y, x / y, x * y + p), x / p + np.sqrt(p), np.clip(x, -1, 1) + np.minimum(x, y) * np.maximum(x, y)]
    return math_f32, (cdiv(n, 128),), [read(a), read(b), out(np.stack(want).astype(np.float32), 2e-6, 2e-6), i32(n)], {"BLOCK": 128}


@jit
def math_f64(x, o, n, BLOCK: tl.constexpr):
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = offs < n
    a = tl.load(x + offs, mask=mask, other=1.0)
    p = tl.abs(a) + 0.125
    tl.store(o + 0 * n + offs, tl.exp(a), mask=mask)
    tl.store(o + 1 * n + offs, tl.log(p), mask=mask)
    tl.store(o + 2 * n + offs, tl.sqrt(p), mask=mask)
    tl.store(o + 3 * n + offs, libdevice.rsqrt(p), mask=mask)
    tl.store(o + 4 * n + offs, tl.sin(a), mask=mask)
    tl.store(o + 5 * n + offs, tl.cos(a), mask=mask)
    tl.store(o + 6 * n + offs, tl.erf(a), mask=mask)
    tl.store(o + 7 * n + offs, a / p, mask=mask)
    tl.store(o + 8 * n + offs, libdevice.tanh(a), mask=mask)
    tl.store(o + 9 * n + offs, libdevice.pow(p, a), mask=mask)
    tl.store(o + 10 * n + offs, libdevice.cbrt(a), mask=mask)
    tl.store(o + 11 * n + offs, a.to(tl.int64).to(tl.float64) + a.to(tl.float32).to(tl.float64), mask=mask)
    tl.store(o + 12 * n + offs, libdevice.fmod(a, p) + libdevice.lgamma(p), mask=mask)


@case("math_f64")
def _(rng):
    n = 200
    x = rng.standard_normal(n) * 3
    p = np.abs(x) + 0.125
    lg = np.vectorize(math.lgamma)(p)
    want = [np.exp(x), np.log(p), np.sqrt(p), 1 / np.sqrt(p), np.sin(x), np.cos(x), erf(x), x / p, np.tanh(x), p**x, np.cbrt(x),
            np.trunc(x) + x.astype(np.float32), np.fmod(x, p) + lg]
    return math_f64, (1,), [read(x), out(np.stack(want), 1e-13, 1e-13), i32(n)], {"BLOCK": 256}


@jit
def libdevice_f32(x, o, n, BLOCK: tl.constexpr):
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = offs < n
    a = tl.load(x + offs, mask=mask, other=1.0)
    p = tl.abs(a) + 0.125
    tl.store(o + 0 * n + offs, libdevice.tanh(a), mask=mask)
    tl.store(o + 1 * n + offs, libdevice.pow(p, a), mask=mask)
    tl.store(o + 2 * n + offs, libdevice.log1p(p), mask=mask)
    tl.store(o + 3 * n + offs, libdevice.expm1(a), mask=mask)
    tl.store(o + 4 * n + offs, libdevice.atan2(a, p), mask=mask)
    tl.store(o + 5 * n + offs, libdevice.fmod(a, p * 0.25), mask=mask)
    tl.store(o + 6 * n + offs, libdevice.cbrt(a), mask=mask)
    tl.store(o + 7 * n + offs, libdevice.sinh(a) * libdevice.cosh(a), mask=mask)
    tl.store(o + 8 * n + offs, libdevice.asin(a / 16) + libdevice.acos(a / 16), mask=mask)
    tl.store(o + 9 * n + offs, libdevice.round(a) + libdevice.trunc(a) + libdevice.nearbyint(a), mask=mask)
    tl.store(o + 10 * n + offs, libdevice.erfc(a), mask=mask)
    tl.store(o + 11 * n + offs, libdevice.lgamma(p), mask=mask)
    tl.store(o + 12 * n + offs, libdevice.tan(a), mask=mask)
    tl.store(o + 13 * n + offs, libdevice.sin(a * 100000.0), mask=mask)
    tl.store(o + 14 * n + offs, libdevice.ldexp(a, 3) + libdevice.copysign(p, a), mask=mask)
    tl.store(o + 15 * n + offs, libdevice.hypot(a, p), mask=mask)
    tl.store(o + 16 * n + offs, libdevice.fast_expf(a) + libdevice.fast_sinf(a), mask=mask)
    tl.store(o + 17 * n + offs, libdevice.asinh(a) + libdevice.exp10(a), mask=mask)
    tl.store(o + 18 * n + offs, tl.where(libdevice.isnan(a) | libdevice.isinf(a), 1.0, 0.0), mask=mask)
    tl.store(o + 19 * n + offs, libdevice.ilogb(p).to(tl.float32), mask=mask)
    tl.store(o + 20 * n + offs, libdevice.div_rz(a, p) + libdevice.fma_ru(a, p, a), mask=mask)


@case("libdevice_f32", keep=True)
def _(rng):
    n = 120
    a = (rng.standard_normal(n) * 3).astype(np.float32)
    x = a.astype(np.float64)
    p = (np.abs(a) + np.float32(0.125)).astype(np.float64)
    away = np.trunc(x + np.copysign(0.5, x))
    want = [np.tanh(x), p**x, np.log1p(p), np.expm1(x), np.arctan2(x, p), np.fmod(x, p * 0.25), np.cbrt(x), np.sinh(x) * np.cosh(x),
            np.arcsin(x / 16) + np.arccos(x / 16), away + np.trunc(x) + np.rint(x), np.vectorize(math.erfc)(x), np.vectorize(math.lgamma)(p),
            np.tan(x), np.sin((a * np.float32(100000)).astype(np.float64)), x * 8 + np.copysign(p, x), np.hypot(x, p), np.exp(x) + np.sin(x),
            np.arcsinh(x) + 10.0**x, 0 * x, np.floor(np.log2(p)), x / p + (x * p + x)]
    return libdevice_f32, (1,), [read(a), out(np.stack(want).astype(np.float32), 2e-5, 2e-6), i32(n)], {"BLOCK": 128}


@jit
def casts(x, h, b, q, w, s, BLOCK: tl.constexpr):
    offs = tl.arange(0, BLOCK)
    a = tl.load(x + offs)
    tl.store(h + offs, a.to(tl.float16))
    tl.store(h + BLOCK + offs, a.to(tl.float16, fp_downcast_rounding="rtz"))
    tl.store(b + offs, a.to(tl.bfloat16))
    e5 = a.to(tl.float8e5)
    tl.store(q + offs, e5)
    tl.store(q + BLOCK + offs, a.to(tl.float16).to(tl.float8e5))
    tl.store(w + 0 * BLOCK + offs, e5.to(tl.float32))
    tl.store(w + 1 * BLOCK + offs, e5.to(tl.float16).to(tl.float32))
    tl.store(w + 2 * BLOCK + offs, e5.to(tl.bfloat16).to(tl.float32))
    tl.store(w + 3 * BLOCK + offs, a.to(tl.int32).to(tl.float32))
    tl.store(w + 4 * BLOCK + offs, a.to(tl.int16).to(tl.float16).to(tl.float32))
    tl.store(w + 5 * BLOCK + offs, a.to(tl.bfloat16).to(tl.float16).to(tl.float32))
    tl.store(s + 0 * BLOCK + offs, a.to(tl.int8))
    tl.store(s + 1 * BLOCK + offs, a.to(tl.float16).to(tl.int8))
    tl.store(s + 2 * BLOCK + offs, (a.to(tl.int32) % 7).to(tl.int8))


@case("casts", keep=True, num_warps=4)
def _(rng):
    n = 512
    x = (rng.standard_normal(n) * 10).astype(np.float32)
    x[:6] = [0, -0.0, 100.5, 1e-6, -3e-5, 6.1e-5]
    h = x.astype(np.float16)
    rtz = np.where(np.abs(h.astype(np.float64)) > np.abs(x), np.nextafter(h, np.float16(0)), h)
    e5, e5h = x.astype(F8E5), h.astype(F8E5)
    trunc = np.trunc(x)
    w = np.stack([e5.astype(np.float32)] * 3 + [trunc, trunc, x.astype(BF16).astype(np.float16).astype(np.float32)])
    i8 = trunc.astype(np.int8)
    h8 = np.trunc(h.astype(np.float32)).astype(np.int8)
    rem = np.fmod(trunc, 7).astype(np.int8)
    return casts, (1,), [read(x), out(np.stack([h, rtz])), out(x.astype(BF16)), out(np.stack([e5, e5h])), out(w.astype(np.float32)),
                         out(np.stack([i8, h8, rem]))], {"BLOCK": n}


@jit
def casts_e4m3(x, q, w, BLOCK: tl.constexpr):
    offs = tl.arange(0, BLOCK)
    a = tl.load(x + offs)
    e4 = a.to(tl.float8e4nv)
    tl.store(q + offs, e4)
    tl.store(w + offs, e4.to(tl.float32))
    tl.store(w + BLOCK + offs, e4.to(tl.bfloat16).to(tl.float32))
    tl.store(w + 2 * BLOCK + offs, a.to(tl.float16).to(tl.float8e4nv).to(tl.float16).to(tl.float32))


def casts_e4m3_case(rng):
    x = (rng.standard_normal(512) * 10).astype(np.float32)
    e4 = x.astype(F8E4)
    h4 = x.astype(np.float16).astype(F8E4).astype(np.float32)
    return casts_e4m3, (1,), [read(x), out(e4), out(np.stack([e4.astype(np.float32)] * 2 + [h4]))], {"BLOCK": 512}


case("casts_e4m3_sm89", keep=True, arch=89)(casts_e4m3_case)
case("casts_e4m3_sm90", arch=90)(casts_e4m3_case)


@jit
def e4b15(x, w, BLOCK: tl.constexpr):
    offs = tl.arange(0, BLOCK)
    a = tl.load(x + offs)
    tl.store(w + offs, a.to(tl.float8e4b15).to(tl.float16))


@case("casts_e4b15")
def _(rng):
    # e4b15 is e4m3 with exponents shifted by 8 and no special values: exact for values it can hold.
    m = rng.integers(8, 16, 256) * 2.0 ** rng.integers(-14, -4, 256) * rng.choice([-1, 1], 256)
    x = m.astype(np.float16)
    return e4b15, (1,), [read(x), out(x)], {"BLOCK": 256}


@jit
def integers(x, y, o, u, v, BLOCK: tl.constexpr):
    offs = tl.arange(0, BLOCK)
    a = tl.load(x + offs)
    b = tl.load(y + offs)
    tl.store(o + 0 * BLOCK + offs, a // b)
    tl.store(o + 1 * BLOCK + offs, a % b)
    tl.store(o + 2 * BLOCK + offs, (a << (b & 15)) ^ (a >> (b & 7)))
    tl.store(o + 3 * BLOCK + offs, (a & b) | ~a)
    tl.store(o + 4 * BLOCK + offs, tl.minimum(a, b) * 3 + tl.maximum(a, b))
    tl.store(o + 5 * BLOCK + offs, tl.abs(a) // 7 + (a == b).to(tl.int32) + (a < b).to(tl.int32) * 2)
    tl.store(o + 6 * BLOCK + offs, libdevice.clz(a) + libdevice.popc(b) * 100 + libdevice.ffs(a) * 10000)
    tl.store(o + 7 * BLOCK + offs, libdevice.brev(a) ^ libdevice.byte_perm(a, b, 0x5410))
    ua = a.to(tl.uint32, bitcast=True)
    ub = b.to(tl.uint32, bitcast=True)
    tl.store(u + 0 * BLOCK + offs, ua // ub)
    tl.store(u + 1 * BLOCK + offs, ua % ub)
    tl.store(u + 2 * BLOCK + offs, tl.umulhi(ua, ub))
    tl.store(u + 3 * BLOCK + offs, (ua >> 3) + libdevice.mulhi(ua, ub) + libdevice.rhadd(ua, ub))
    la = a.to(tl.int64) * 1000003
    lb = b.to(tl.int64)
    tl.store(v + 0 * BLOCK + offs, la // lb)
    tl.store(v + 1 * BLOCK + offs, la % lb)
    tl.store(v + 2 * BLOCK + offs, (la << 5) ^ (la >> 9))
    tl.store(v + 3 * BLOCK + offs, tl.where(la > lb, la * lb, la - lb))
    tl.store(v + 4 * BLOCK + offs, libdevice.clz(la).to(tl.int64) + libdevice.popc(lb))


@case("integers", keep=True)
def _(rng):
    n = 256
    a = rng.integers(-(2**31) + 1, 2**31, n, dtype=np.int64)
    b = rng.integers(-1000, 1000, n, dtype=np.int64)
    b[b == 0] = 7
    b[:8] = a[:8]
    quot = np.trunc(a / b).astype(np.int64)
    rem = a - quot * b
    low = lambda x: (x & 0xFFFFFFFF).astype(np.uint32).view(np.int32)
    ua, ub = low(a).view(np.uint32).astype(object), low(b).view(np.uint32).astype(object)
    bits = lambda x, w: [format(int(v), f"0{w}b") for v in x]
    clz = np.array([len(s) - len(s.lstrip("0")) for s in bits(ua, 32)])
    popc = np.array([s.count("1") for s in bits(ub, 32)])
    ffs = np.array([len(s) - len(s.rstrip("0")) + 1 if "1" in s else 0 for s in bits(ua, 32)])
    brev = np.array([int(s[::-1], 2) for s in bits(ua, 32)])
    perm = np.array([(int(p) & 0xFFFF) | (int(q) & 0xFFFF) << 16 for p, q in zip(ua, ub)])
    o = [quot, rem, (a << (b & 15)) ^ (a >> (b & 7)), (a & b) | ~a, np.minimum(a, b) * 3 + np.maximum(a, b),
         np.abs(a) // 7 + (a == b) + (a < b) * 2, clz + popc * 100 + ffs * 10000, brev ^ perm]
    hi = np.array([int(p) * int(q) >> 32 for p, q in zip(ua, ub)])
    rhadd = np.array([(int(p) + int(q) + 1) >> 1 for p, q in zip(ua, ub)])
    u = [np.array([int(p) // int(q) for p, q in zip(ua, ub)]), np.array([int(p) % int(q) for p, q in zip(ua, ub)]), hi,
         np.array([int(p) >> 3 for p in ua]) + hi + rhadd]
    la = a * 1000003
    lq = np.array([abs(int(p)) // abs(int(q)) * (1 if (p < 0) == (q < 0) else -1) for p, q in zip(la, b)])
    lclz = np.array([len(s) - len(s.lstrip("0")) for s in bits(la.view(np.uint64), 64)])
    lpop = np.array([s.count("1") for s in bits(b.view(np.uint64), 64)])
    v = [lq, la - lq * b, (la << 5) ^ (la >> 9), np.where(la > b, la * b, la - b), lclz + lpop]
    return integers, (1,), [read(low(a)), read(low(b)), out(np.stack([low(r) for r in o])), out(np.stack([low(r).view(np.uint32) for r in u])),
                            out(np.stack(v))], {"BLOCK": n}


@jit
def small_integers(x, y, o, u, BLOCK: tl.constexpr):
    offs = tl.arange(0, BLOCK)
    a = tl.load(x + offs)
    b = tl.load(y + offs)
    tl.store(o + 0 * BLOCK + offs, a + b)
    tl.store(o + 1 * BLOCK + offs, a * b)
    tl.store(o + 2 * BLOCK + offs, a // b)
    tl.store(o + 3 * BLOCK + offs, a % b)
    tl.store(o + 4 * BLOCK + offs, a >> 2)
    tl.store(o + 5 * BLOCK + offs, tl.minimum(a, b))
    ua = a.to(tl.uint8, bitcast=True)
    ub = b.to(tl.uint8, bitcast=True)
    tl.store(u + 0 * BLOCK + offs, (ua // ub).to(tl.uint16) * 257)
    tl.store(u + 1 * BLOCK + offs, ua.to(tl.uint16) * ub.to(tl.uint16))
    tl.store(u + 2 * BLOCK + offs, ua.to(tl.float16).to(tl.uint16) + (a.to(tl.int16) - b).to(tl.uint16, bitcast=True))


@case("small_integers")
def _(rng):
    n = 1024
    a, b = [rng.integers(-127, 128, n) for _ in range(2)]
    b[b == 0] = 3
    quot = np.trunc(a / b).astype(np.int64)
    ua, ub = a & 255, b & 255
    o = [a + b, a * b, quot, a - quot * b, a >> 2, np.minimum(a, b)]
    u = [ua // ub * 257, ua * ub, ua + (a - b)]
    cut = lambda r, t: (r & (2 ** (8 * t().itemsize) - 1)).astype(t)
    return small_integers, (1,), [read(a.astype(np.int8)), read(b.astype(np.int8)), out(np.stack([cut(r, np.uint8).view(np.int8) for r in o])),
                                  out(np.stack([cut(r, np.uint16) for r in u]))], {"BLOCK": n}


@jit
def inline_asm(x, y, o, BLOCK: tl.constexpr):
    offs = tl.arange(0, BLOCK)
    a = tl.load(x + offs)
    b = tl.load(y + offs)
    c = tl.inline_asm_elementwise(
        asm="""
        {
            .reg .b32 tmp<4>;
            shl.b32 tmp0, $1, 3;
            lop3.b32 tmp1, tmp0, $2, 0x0f0f0f0f, 0x6a;
            bfe.u32 tmp2, $1, 4, 9;
            vote.sync.ballot.b32 tmp3, 1, 0xffffffff;
            prmt.b32 tmp3, tmp1, tmp2, 0x3175;
            add.u32 $0, tmp3, tmp1;
        }
        """,
        constraints="=r,r,r", args=[a, b], dtype=tl.int32, is_pure=True, pack=1)
    tl.store(o + offs, c)


@case("inline_asm")
def _(rng):
    a, b = [rng.integers(0, 2**32, 256, dtype=np.uint64) for _ in range(2)]
    t0 = (a << 3) & 0xFFFFFFFF
    t1 = 0
    for bit in range(8):
        p, q, r = [(bit >> s) & 1 for s in (2, 1, 0)]
        if 0x6A >> bit & 1:
            flip = lambda v, on: v if on else ~v & 0xFFFFFFFF
            t1 = t1 | (flip(t0, p) & flip(b, q) & flip(np.uint64(0x0F0F0F0F), r))
    t2 = (a >> 4) & 0x1FF
    parts = [(t1 >> (8 * i)) & 255 for i in range(4)] + [(t2 >> (8 * i)) & 255 for i in range(4)]
    t3 = sum(parts[(0x3175 >> (4 * i)) & 7] << np.uint64(8 * i) for i in range(4))
    want = ((t3 + t1) & 0xFFFFFFFF).astype(np.uint32).view(np.int32)
    to32 = lambda v: v.astype(np.uint32).view(np.int32)
    return inline_asm, (1,), [read(to32(a)), read(to32(b)), out(want)], {"BLOCK": 256}


@jit
def cached_copy(x, o, n, BLOCK: tl.constexpr):
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = offs < n
    a = tl.load(x + offs, mask=mask, other=0.0, cache_modifier=".ca")
    b = tl.load(x + offs, mask=mask, other=0.0, cache_modifier=".cg")
    c = tl.load(x + offs, mask=mask, other=7.0, volatile=True)
    d = tl.load(x + n - 1 - offs, mask=mask, other=0.0, cache_modifier=".cv")
    tl.store(o + offs, a + b + c + tl.load(x + offs, mask=mask, eviction_policy="evict_last"), mask=mask, cache_modifier=".wt")
    tl.store(o + n + offs, d, mask=mask, cache_modifier=".cs")


@case("cached_copy")
def _(rng):
    x = rng.standard_normal(1001).astype(np.float32)
    return cached_copy, (4,), [read(x), out(np.concatenate([x + x + x + x, x[::-1]])), i32(1001)], {"BLOCK": 256}


@jit
def leaky_where(x, o, n, scale, BLOCK: tl.constexpr):
    """Program over a strided range, a while loop, an early return."""
    pid = tl.program_id(0)
    if pid * BLOCK >= n:
        return
    start = pid * BLOCK
    while start < n:
        offs = start + tl.arange(0, BLOCK)
        v = tl.load(x + offs, mask=offs < n)
        steps = 0
        while steps < 5 and scale * steps < 2.0:
            v = tl.where(v > 0, v * 0.5, v * -1.5)
            steps += 1
        tl.store(o + offs, v, mask=offs < n)
        start += tl.num_programs(0) * BLOCK


@case("while_loops")
def _(rng):
    x = rng.standard_normal(1500).astype(np.float32)
    v = x
    for _ in range(3):
        v = np.where(v > 0, v * np.float32(0.5), v * np.float32(-1.5))
    return leaky_where, (20,), [read(x), out(v.astype(np.float32)), i32(1500), f32(0.7)], {"BLOCK": 128}


# ---- rows: softmax, norms, losses --------------------------------------------------------------------------------------------------------


@jit
def softmax_row(o, x, stride, n, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    cols = tl.arange(0, BLOCK)
    v = tl.load(x + row * stride + cols, mask=cols < n, other=-float("inf"))
    e = tl.exp(v - tl.max(v, axis=0))
    tl.store(o + row * stride + cols, e / tl.sum(e, axis=0), mask=cols < n)


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def softmax_case(rows, n, dtype=np.float32):
    def make(rng):
        x = rng.standard_normal((rows, n)).astype(dtype)
        tol = 1e-5 if dtype == np.float32 else 4e-3
        return softmax_row, (rows,), [out(softmax(x.astype(np.float64)).astype(dtype), tol, 1e-6), read(x), i32(n), i32(n)], {"BLOCK": triton.next_power_of_2(n)}

    return make


case("softmax_17", num_warps=1)(softmax_case(5, 17))
case("softmax_781", num_warps=8)(softmax_case(4, 781))
case("softmax_4096", num_warps=16)(softmax_case(2, 4096))
case("softmax_bf16", num_warps=4)(softmax_case(3, 1000, BF16))


@jit
def softmax_persistent(o, x, stride, rows, n, BLOCK: tl.constexpr, STAGES: tl.constexpr):
    start = tl.program_id(0)
    step = tl.num_programs(0)
    for row in tl.range(start, rows, step, num_stages=STAGES):
        cols = tl.arange(0, BLOCK)
        v = tl.load(x + row * stride + cols, mask=cols < n, other=-float("inf"))
        e = tl.exp(v - tl.max(v, axis=0))
        tl.store(o + row * stride + cols, e / tl.sum(e, axis=0), mask=cols < n)


@case("softmax_persistent", num_warps=8)
def _(rng):
    x = rng.standard_normal((37, 300)).astype(np.float32)
    return softmax_persistent, (4,), [out(softmax(x), 1e-5, 1e-6), read(x), i32(300), i32(37), i32(300)], {"BLOCK": 512, "STAGES": 4}


@jit
def softmax_online(o, x, n, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    m = -float("inf")
    s = 0.0
    for start in range(0, n, BLOCK):
        cols = start + tl.arange(0, BLOCK)
        v = tl.load(x + row * n + cols, mask=cols < n, other=-float("inf")).to(tl.float32)
        new = tl.maximum(m, tl.max(v, 0))
        s = s * tl.exp(m - new) + tl.sum(tl.exp(v - new), 0)
        m = new
    for start in range(0, n, BLOCK):
        cols = start + tl.arange(0, BLOCK)
        v = tl.load(x + row * n + cols, mask=cols < n, other=-float("inf")).to(tl.float32)
        tl.store(o + row * n + cols, (tl.exp(v - m) / s).to(o.dtype.element_ty), mask=cols < n)


@case("softmax_online", num_warps=4)
def _(rng):
    x = rng.standard_normal((3, 1500)).astype(np.float16)
    return softmax_online, (3,), [out(softmax(x.astype(np.float64)).astype(np.float16), 2e-3, 1e-6), read(x), i32(1500)], {"BLOCK": 512}


@jit
def layer_norm_forward(X, Y, W, B, Mean, Rstd, stride, N, eps, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    Y += row * stride
    X += row * stride
    acc = tl.zeros([BLOCK], dtype=tl.float32)
    for off in range(0, N, BLOCK):
        cols = off + tl.arange(0, BLOCK)
        acc += tl.load(X + cols, mask=cols < N, other=0.0).to(tl.float32)
    mean = tl.sum(acc, axis=0) / N
    acc = tl.zeros([BLOCK], dtype=tl.float32)
    for off in range(0, N, BLOCK):
        cols = off + tl.arange(0, BLOCK)
        x = tl.load(X + cols, mask=cols < N, other=0.0).to(tl.float32)
        x = tl.where(cols < N, x - mean, 0.0)
        acc += x * x
    rstd = 1 / tl.sqrt(tl.sum(acc, axis=0) / N + eps)
    tl.store(Mean + row, mean)
    tl.store(Rstd + row, rstd)
    for off in range(0, N, BLOCK):
        cols = off + tl.arange(0, BLOCK)
        mask = cols < N
        w = tl.load(W + cols, mask=mask)
        b = tl.load(B + cols, mask=mask)
        x = tl.load(X + cols, mask=mask, other=0.0).to(tl.float32)
        tl.store(Y + cols, (x - mean) * rstd * w + b, mask=mask)


@case("layer_norm_forward", num_warps=4)
def _(rng):
    rows, n = 4, 700
    x, w, b = rng.standard_normal((rows, n)).astype(np.float16), rng.random(n).astype(np.float32), rng.random(n).astype(np.float32)
    d = x.astype(np.float64)
    mean, rstd = d.mean(1), 1 / np.sqrt(d.var(1) + 1e-5)
    y = (d - mean[:, None]) * rstd[:, None] * w + b
    return layer_norm_forward, (rows,), [read(x), out(y.astype(np.float16), 2e-3, 2e-3), read(w), read(b), out(mean.astype(np.float32), 1e-5, 1e-6),
                                         out(rstd.astype(np.float32), 1e-5), i32(n), i32(n), f32(1e-5)], {"BLOCK": 256}


@jit
def layer_norm_backward_dx(DX, DY, DW, DB, X, W, Mean, Rstd, Lock, stride, N, GROUP: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    cols = tl.arange(0, BLOCK)
    mask = cols < N
    X += row * stride
    DY += row * stride
    DX += row * stride
    lock_id = row % GROUP
    Lock += lock_id
    Count = Lock + GROUP
    DW = DW + lock_id * N + cols
    DB = DB + lock_id * N + cols
    x = tl.load(X + cols, mask=mask, other=0).to(tl.float32)
    dy = tl.load(DY + cols, mask=mask, other=0).to(tl.float32)
    w = tl.load(W + cols, mask=mask).to(tl.float32)
    mean = tl.load(Mean + row)
    rstd = tl.load(Rstd + row)
    xhat = (x - mean) * rstd
    wdy = w * dy
    xhat = tl.where(mask, xhat, 0.0)
    wdy = tl.where(mask, wdy, 0.0)
    c1 = tl.sum(xhat * wdy, axis=0) / N
    c2 = tl.sum(wdy, axis=0) / N
    dx = (wdy - (xhat * c1 + c2)) * rstd
    tl.store(DX + cols, dx, mask=mask)
    partial_dw = (dy * xhat).to(w.dtype)
    partial_db = dy.to(w.dtype)
    while tl.atomic_cas(Lock, 0, 1) == 1:
        pass
    count = tl.load(Count)
    if count == 0:
        tl.atomic_xchg(Count, 1)
    else:
        partial_dw += tl.load(DW, mask=mask)
        partial_db += tl.load(DB, mask=mask)
    tl.store(DW, partial_dw, mask=mask)
    tl.store(DB, partial_db, mask=mask)
    tl.debug_barrier()
    tl.atomic_xchg(Lock, 0)


@case("layer_norm_backward_dx", keep=True, num_warps=4)
def _(rng):
    rows, n, group = 12, 200, 3
    x, dy = [rng.standard_normal((rows, n)).astype(np.float16) for _ in range(2)]
    w = rng.random(n).astype(np.float32)
    d, g = x.astype(np.float64), dy.astype(np.float64)
    mean, rstd = d.mean(1), 1 / np.sqrt(d.var(1) + 1e-5)
    xhat = (d - mean[:, None]) * rstd[:, None]
    wdy = w * g
    dx = (wdy - (xhat * (xhat * wdy).mean(1, keepdims=True) + wdy.mean(1, keepdims=True))) * rstd[:, None]
    by_group = lambda v: np.stack([v[i::group].sum(0) for i in range(group)]).astype(np.float32)
    lock = np.zeros(2 * group, np.int32)
    done = np.array([0] * group + [1] * group, np.int32)
    return layer_norm_backward_dx, (rows,), [
        out(dx.astype(np.float16), 2e-3, 2e-3), read(dy), out(by_group(g * xhat), 1e-4, 1e-4), out(by_group(g), 1e-4, 1e-4), read(x), read(w),
        read(mean.astype(np.float32)), read(rstd.astype(np.float32)), both(lock, done), i32(n), i32(n)], {"GROUP": group, "BLOCK": 256}


@jit
def layer_norm_backward_dw(DW, DB, FINAL_DW, FINAL_DB, M, N, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    cols = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    dw = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    db = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for i in range(0, M, BLOCK_M):
        rows = i + tl.arange(0, BLOCK_M)
        mask = (rows[:, None] < M) & (cols[None, :] < N)
        offs = rows[:, None] * N + cols[None, :]
        dw += tl.load(DW + offs, mask=mask, other=0.0)
        db += tl.load(DB + offs, mask=mask, other=0.0)
    tl.store(FINAL_DW + cols, tl.sum(dw, axis=0), mask=cols < N)
    tl.store(FINAL_DB + cols, tl.sum(db, axis=0), mask=cols < N)


@case("layer_norm_backward_dw", num_warps=8)
def _(rng):
    dw, db = [rng.standard_normal((50, 200)).astype(np.float32) for _ in range(2)]
    total = lambda v: out(v.astype(np.float64).sum(0).astype(np.float32), 1e-5, 1e-5)
    return layer_norm_backward_dw, (2,), [read(dw), read(db), total(dw), total(db), i32(50), i32(200)], {"BLOCK_M": 32, "BLOCK_N": 128}


@jit
def rms_norm(x, w, o, n, eps, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    cols = tl.arange(0, BLOCK)
    v = tl.load(x + row * n + cols, mask=cols < n, other=0.0).to(tl.float32)
    r = tl.rsqrt(tl.sum(v * v, 0) / n + eps)
    tl.store(o + row * n + cols, (v * r * tl.load(w + cols, mask=cols < n).to(tl.float32)).to(o.dtype.element_ty), mask=cols < n)


@case("rms_norm", num_warps=2)
def _(rng):
    x, w = rng.standard_normal((6, 384)).astype(BF16), rng.random(384).astype(BF16)
    d = x.astype(np.float64)
    want = d / np.sqrt((d * d).mean(1, keepdims=True) + 1e-6) * w.astype(np.float64)
    return rms_norm, (6,), [read(x), read(w), out(want.astype(BF16), 8e-3, 1e-6), i32(384), f32(1e-6)], {"BLOCK": 512}


@jit
def cross_entropy(logits, labels, loss, dlogits, n, ignore, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    label = tl.load(labels + row)
    if label == ignore:
        for start in range(0, n, BLOCK):
            cols = start + tl.arange(0, BLOCK)
            tl.store(dlogits + row * n + cols, 0.0, mask=cols < n)
        tl.store(loss + row, 0.0)
        return
    m = -float("inf")
    s = 0.0
    for start in range(0, n, BLOCK):
        cols = start + tl.arange(0, BLOCK)
        v = tl.load(logits + row * n + cols, mask=cols < n, other=-float("inf")).to(tl.float32)
        new = tl.maximum(m, tl.max(v, 0))
        s = s * tl.exp(m - new) + tl.sum(tl.exp(v - new), 0)
        m = new
    lse = m + tl.log(s)
    for start in range(0, n, BLOCK):
        cols = start + tl.arange(0, BLOCK)
        v = tl.load(logits + row * n + cols, mask=cols < n, other=-float("inf")).to(tl.float32)
        g = tl.exp(v - lse) - tl.where(cols == label, 1.0, 0.0)
        tl.store(dlogits + row * n + cols, g, mask=cols < n)
    tl.store(loss + row, lse - tl.load(logits + row * n + label).to(tl.float32))


@case("cross_entropy", num_warps=4)
def _(rng):
    rows, n = 6, 700
    x = (rng.standard_normal((rows, n)) * 2).astype(BF16)
    label = rng.integers(0, n, rows)
    label[2] = -100
    d = x.astype(np.float64)
    p = softmax(d)
    on = label >= 0
    loss = np.where(on, -np.log(p[np.arange(rows), np.maximum(label, 0)]), 0)
    g = p.copy()
    g[np.arange(rows), np.maximum(label, 0)] -= 1
    g[~on] = 0
    return cross_entropy, (rows,), [read(x), read(label), out(loss.astype(np.float32), 1e-5, 1e-5), out(g.astype(np.float32), 1e-4, 1e-6), i32(n), i32(-100)], {"BLOCK": 256}


# ---- random numbers ----------------------------------------------------------------------------------------------------------------------


def philox(seed, counter):
    """Philox 4x32-10 (Salmon et al., SC 2011) with the counter's low word set: four words each."""
    mask = np.uint64(0xFFFFFFFF)
    c = [counter.astype(np.uint64) & mask] + [np.zeros_like(counter, np.uint64) for _ in range(3)]
    k0, k1 = seed & 0xFFFFFFFF, seed >> 32
    for _ in range(10):
        a, b = np.uint64(0xD2511F53) * c[0], np.uint64(0xCD9E8D57) * c[2]
        c = [b >> np.uint64(32) ^ c[1] ^ np.uint64(k0), b & mask, a >> np.uint64(32) ^ c[3] ^ np.uint64(k1), a & mask]
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return [w.astype(np.uint32) for w in c]


def uniform(word):
    """Triton's map of a word to [0, 1)."""
    s = word.view(np.int32)
    return np.where(s < 0, -s - 1, s).astype(np.float32) * np.float32(4.6566127342e-10)


@jit
def dropout(x, o, n, p, seed, BLOCK: tl.constexpr):
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = offs < n
    v = tl.load(x + offs, mask=mask)
    keep = tl.rand(seed, offs) > p
    tl.store(o + offs, tl.where(keep, v / (1 - p), 0.0), mask=mask)


@case("dropout", keep=True, num_warps=4)
def _(rng):
    n = 1000
    x = rng.standard_normal(n).astype(np.float32)
    keep = uniform(philox(123, np.arange(n))[0]) > np.float32(0.3)
    want = np.where(keep, x / np.float32(0.7), 0).astype(np.float32)
    return dropout, (4,), [read(x), out(want, 1e-6), i32(n), f32(0.3), i32(123)], {"BLOCK": 256}


@jit
def random_normal(o, r, seed, BLOCK: tl.constexpr):
    offs = tl.arange(0, BLOCK)
    tl.store(o + offs, tl.randn(seed, offs))
    a, b, c, d = tl.randint4x(seed, offs)
    tl.store(r + 0 * BLOCK + offs, a)
    tl.store(r + 1 * BLOCK + offs, b)
    tl.store(r + 2 * BLOCK + offs, c)
    tl.store(r + 3 * BLOCK + offs, d)


@case("random_normal")
def _(rng):
    n, seed = 512, 0x123456789ABC
    words = philox(seed, np.arange(n))
    u1, u2 = np.maximum(uniform(words[0]), np.float32(1e-7)).astype(np.float64), uniform(words[1]).astype(np.float64)
    want = np.sqrt(-2 * np.log(u1)) * np.cos(2 * np.pi * u2)
    return random_normal, (1,), [out(want.astype(np.float32), 1e-4, 2e-6), out(np.stack(words)), i64(seed)], {"BLOCK": n}


# ---- reductions, scans, order -------------------------------------------------------------------------------------------------------------


@jit
def reductions(x, s, i, M: tl.constexpr, N: tl.constexpr):
    r = tl.arange(0, M)
    c = tl.arange(0, N)
    v = tl.load(x + r[:, None] * N + c[None, :])
    tl.store(s + r, tl.sum(v, 1))
    tl.store(s + M + r, tl.max(v, 1))
    tl.store(s + 2 * M + r, tl.min(v, 1))
    tl.store(s + 3 * M + c, tl.sum(v, 0))
    tl.store(s + 3 * M + N + c, tl.max(v, 0))
    tl.store(i + r, tl.argmax(v, 1))
    tl.store(i + M + r, tl.argmin(v, 1))
    tl.store(i + 2 * M + c, tl.argmax(v, 0))
    best, where = tl.max(v, 0, return_indices=True)
    tl.store(i + 2 * M + N + c, where + (best > 0).to(tl.int32))
    tl.store(i + 2 * M + 2 * N + c, tl.xor_sum((v * 100).to(tl.int32), 0))
    tl.store(s + 3 * M + 2 * N, tl.sum(tl.sum(v, 1), 0))


def reductions_case(m, n):
    def make(rng):
        x = rng.standard_normal((m, n)).astype(np.float32)
        x[3, 5] = x[3, 6] = 9.0
        d = x.astype(np.float64)
        s = np.concatenate([d.sum(1), d.max(1), d.min(1), d.sum(0), d.max(0), [d.sum()]])
        xor = np.bitwise_xor.reduce(np.trunc(x * np.float32(100)).astype(np.int32), 0)
        i = np.concatenate([x.argmax(1), x.argmin(1), x.argmax(0), x.argmax(0) + (x.max(0) > 0), xor])
        return reductions, (1,), [read(x), out(s.astype(np.float32), 1e-5, 1e-4), out(i.astype(np.int32))], {"M": m, "N": n}

    return make


case("reductions_16x64", num_warps=4)(reductions_case(16, 64))
case("reductions_64x16", num_warps=8)(reductions_case(64, 16))
case("reductions_8x512", num_warps=1)(reductions_case(8, 512))


@jit
def welford_combine(m1, v1, n1, m2, v2, n2):
    d = m2 - m1
    n = n1 + n2
    w = tl.where(n == 0.0, 0.0, n2 / n)
    return m1 + d * w, v1 + v2 + d * d * n1 * w, n


@jit
def welford(x, mean, var, N: tl.constexpr):
    row = tl.program_id(0)
    c = tl.arange(0, N)
    v = tl.load(x + row * N + c)
    m, s, n = tl.reduce((v, tl.zeros([N], tl.float32), tl.full([N], 1.0, tl.float32)), 0, welford_combine)
    tl.store(mean + row, m)
    tl.store(var + row, s / n)


@case("reduce_welford")
def _(rng):
    x = (rng.standard_normal((4, 1024)) + 3).astype(np.float32)
    d = x.astype(np.float64)
    return welford, (4,), [read(x), out(d.mean(1).astype(np.float32), 1e-5), out(d.var(1).astype(np.float32), 1e-5)], {"N": 1024}


@jit
def linear_recurrence(a1, b1, a2, b2):
    return a1 * a2, b1 * a2 + b2


@jit
def scans(x, a, o, k, M: tl.constexpr, N: tl.constexpr):
    r = tl.arange(0, M)[:, None]
    c = tl.arange(0, N)[None, :]
    at = r * N + c
    v = tl.load(x + at)
    g = tl.load(a + at)
    tl.store(o + 0 * M * N + at, tl.cumsum(v, 1))
    tl.store(o + 1 * M * N + at, tl.cumsum(v, 0))
    tl.store(o + 2 * M * N + at, tl.cumprod(g, 1))
    tl.store(o + 3 * M * N + at, tl.cumsum(v, 1, reverse=True))
    _, h = tl.associative_scan((g, v), 1, linear_recurrence)
    tl.store(o + 4 * M * N + at, h)
    tl.store(k + at, tl.cumsum((v > 0).to(tl.int32), 0, reverse=True))


def scans_case(m, n):
    def make(rng):
        x = rng.standard_normal((m, n)).astype(np.float32)
        g = (0.9 + 0.2 * rng.random((m, n))).astype(np.float32)
        d = x.astype(np.float64)
        h, last = [], np.zeros(m)
        for j in range(n):
            last = last * g[:, j] + d[:, j]
            h.append(last)
        o = np.stack([d.cumsum(1), d.cumsum(0), g.astype(np.float64).cumprod(1), d[:, ::-1].cumsum(1)[:, ::-1], np.stack(h, 1)])
        k = (x > 0)[::-1].cumsum(0)[::-1]
        return scans, (1,), [read(x), read(g), out(o.astype(np.float32), 1e-4, 1e-4), out(k.astype(np.int32))], {"M": m, "N": n}

    return make


case("scans_16x64", keep=True, num_warps=4)(scans_case(16, 64))
case("scans_4x256", num_warps=8)(scans_case(4, 256))


@jit
def orders(x, o, t, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr):
    r = tl.arange(0, M)[:, None]
    at = r * N + tl.arange(0, N)[None, :]
    v = tl.load(x + at)
    tl.store(o + 0 * M * N + at, tl.sort(v))
    tl.store(o + 1 * M * N + at, tl.sort(v, descending=True))
    tl.store(o + 2 * M * N + at, tl.flip(v, 1))
    tl.store(t + r * K + tl.arange(0, K)[None, :], tl.topk(v, K))


@case("orders", keep=True, num_warps=4)
def _(rng):
    m, n, k = 8, 64, 8
    x = rng.integers(-10000, 10000, (m, n)).astype(np.int32)
    s = np.sort(x, 1)
    return orders, (1,), [read(x), out(np.stack([s, s[:, ::-1], x[:, ::-1]])), out(s[:, ::-1][:, :k])], {"M": m, "N": n, "K": k}


@case("orders_f32", num_warps=2)
def _(rng):
    m, n, k = 4, 256, 16
    x = rng.standard_normal((m, n)).astype(np.float32)
    s = np.sort(x, 1)
    return orders, (1,), [read(x), out(np.stack([s, s[:, ::-1], x[:, ::-1]])), out(s[:, ::-1][:, :k])], {"M": m, "N": n, "K": k}


@jit
def histogram(x, o, g, n, BLOCK: tl.constexpr, BINS: tl.constexpr):
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    v = tl.load(x + offs, mask=offs < n, other=0)
    h = tl.histogram(v, BINS, mask=offs < n)
    tl.store(o + tl.program_id(0) * BINS + tl.arange(0, BINS), h)
    tl.atomic_add(g + tl.arange(0, BINS), h)


def histogram_case(n, block, bins):
    def make(rng):
        x = np.minimum(rng.geometric(0.06, n) - 1, bins - 1).astype(np.int32)
        parts = [np.bincount(x[i : i + block], minlength=bins) for i in range(0, n, block)]
        o = np.stack(parts).astype(np.int32)
        return histogram, (len(parts),), [read(x), out(o), both(np.zeros(bins, np.int32), o.sum(0).astype(np.int32)), i32(n)], {"BLOCK": block, "BINS": bins}

    return make


case("histogram", keep=True, num_warps=4)(histogram_case(1900, 1024, 64))
case("histogram_wide", num_warps=8)(histogram_case(2048, 512, 256))


# ---- memory: gather, atomics, layouts -----------------------------------------------------------------------------------------------------


@jit
def gather_scatter(x, index, o, s, n, BLOCK: tl.constexpr):
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    i = tl.load(index + offs, mask=offs < n, other=-1)
    v = tl.load(x + i, mask=i >= 0, other=-1.0)
    tl.store(o + offs, v, mask=offs < n)
    tl.store(s + i, v * 2, mask=i >= 0)


@case("gather_scatter")
def _(rng):
    n = 600
    x = rng.standard_normal(n).astype(np.float16)
    index = rng.permutation(n)
    index[rng.random(n) < 0.2] = -1
    o = np.where(index >= 0, x[index], np.float16(-1))
    s = np.zeros(n, np.float16)
    s[index[index >= 0]] = x[index[index >= 0]] * np.float16(2)
    return gather_scatter, (3,), [read(x), read(index), out(o), both(np.zeros(n, np.float16), s), i32(n)], {"BLOCK": 256}


@jit
def gather_in_block(x, index, o, p, M: tl.constexpr, N: tl.constexpr):
    at = tl.arange(0, M)[:, None] * N + tl.arange(0, N)[None, :]
    v = tl.load(x + at)
    i = tl.load(index + at)
    tl.store(o + at, tl.gather(v, i % N, 1))
    tl.store(p + at, tl.gather(v, i % M, 0))


def gather_case(m, n):
    def make(rng):
        x = rng.standard_normal((m, n)).astype(np.float32)
        i = rng.integers(0, 10000, (m, n)).astype(np.int32)
        return gather_in_block, (1,), [read(x), read(i), out(np.take_along_axis(x, i % n, 1)), out(np.take_along_axis(x, i % m, 0))], {"M": m, "N": n}

    return make


case("gather_in_block", num_warps=4)(gather_case(16, 64))
case("gather_in_warp", num_warps=1)(gather_case(32, 4))


@jit
def embedding_bag(table, index, offsets, weight, o, D, BLOCK: tl.constexpr):
    bag = tl.program_id(0)
    cols = tl.arange(0, BLOCK)
    start = tl.load(offsets + bag)
    end = tl.load(offsets + bag + 1)
    acc = tl.zeros([BLOCK], tl.float32)
    for j in range(start, end):
        row = tl.load(index + j)
        acc += tl.load(weight + j) * tl.load(table + row.to(tl.int64) * D + cols, mask=cols < D, other=0.0).to(tl.float32)
    tl.store(o + bag * D + cols, acc, mask=cols < D)


@case("embedding_bag", num_warps=2)
def _(rng):
    d, bags = 100, 7
    table = rng.standard_normal((50, d)).astype(np.float16)
    sizes = rng.integers(0, 9, bags)
    offsets = np.concatenate([[0], sizes.cumsum()]).astype(np.int32)
    index = rng.integers(0, 50, offsets[-1]).astype(np.int32)
    w = rng.random(offsets[-1]).astype(np.float32)
    want = np.stack([(w[a:b, None] * table[index[a:b]].astype(np.float64)).sum(0) for a, b in zip(offsets, offsets[1:])])
    return embedding_bag, (bags,), [read(table), read(index), read(offsets), read(w), out(want.astype(np.float32), 1e-5, 1e-5), i32(d)], {"BLOCK": 128}


@jit
def atomics(x, f, h, i, l, old, n, BLOCK: tl.constexpr):
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = offs < n
    v = tl.load(x + offs, mask=mask, other=0)
    bucket = v & 15
    tl.atomic_add(f + bucket, v.to(tl.float32), mask=mask)
    tl.atomic_add(h + bucket, (v & 3).to(tl.float16), mask=mask)
    tl.atomic_add(i + bucket, v, mask=mask, sem="relaxed")
    tl.atomic_max(i + 16 + bucket, v, mask=mask, scope="cta")
    tl.atomic_min(i + 32 + bucket, v, mask=mask, sem="acquire")
    tl.atomic_and(i + 48 + bucket, v | 0x0F0, mask=mask, sem="release")
    tl.atomic_or(i + 64 + bucket, v, mask=mask, scope="sys")
    tl.atomic_xor(i + 80 + bucket, v, mask=mask)
    tl.atomic_add(l + bucket, v.to(tl.int64) * 1000000007, mask=mask)
    tl.atomic_max(f + 16 + bucket, v.to(tl.float32) - 500.5, mask=mask)
    tl.atomic_min(f + 32 + bucket, v.to(tl.float32) - 500.5, mask=mask)
    tl.store(old + offs, tl.atomic_xchg(old + offs, v, mask=mask) + 1, mask=mask)


@case("atomics", keep=True, num_warps=4)
def _(rng):
    n = 500
    x = rng.integers(0, 1000, n).astype(np.int32)
    groups = [x[(x & 15) == b].astype(np.int64) for b in range(16)]
    per = lambda f: np.array([f(g) for g in groups])
    z = np.zeros(16, np.int64)
    i0 = np.concatenate([z, z, z + 5000, z - 1, z, z]).astype(np.int32)
    i1 = np.concatenate([per(np.sum), per(np.max), per(np.min), per(lambda g: np.bitwise_and.reduce(g | 0xF0)), per(np.bitwise_or.reduce), per(np.bitwise_xor.reduce)])
    f0 = np.concatenate([z, z - 1000.0, z + 1000.0]).astype(np.float32)
    f1 = np.concatenate([per(np.sum), per(np.max) - 500.5, per(np.min) - 500.5]).astype(np.float32)
    h1 = per(lambda g: (g & 3).sum()).astype(np.float16)
    old = rng.integers(0, 100, n).astype(np.int32)
    return atomics, (2,), [read(x), both(f0, f1), both(np.zeros(16, np.float16), h1), both(i0, i1.astype(np.int32)), both(z, per(lambda g: g.sum() * 1000000007)),
                           both(old, old + 1), i32(n)], {"BLOCK": 256}


@jit
def atomics_returned(counter, slots, o, taken, n, BLOCK: tl.constexpr):
    pid = tl.program_id(0)
    offs = tl.arange(0, BLOCK)
    ticket = tl.atomic_add(counter, 1)
    tl.store(slots + ticket, ticket + 1000)
    seen = tl.atomic_cas(taken + offs, tl.zeros([BLOCK], tl.int32), tl.full([BLOCK], 0, tl.int32) + 7)
    tl.atomic_add(o + offs, (seen == 0).to(tl.int32))
    tl.atomic_add(o + BLOCK + offs, pid + 1)


@case("atomics_returned", num_warps=1)
def _(rng):
    g, b = 9, 64
    o = np.concatenate([np.ones(b), np.full(b, g * (g + 1) // 2)]).astype(np.int32)
    return atomics_returned, (g,), [both(np.zeros(1, np.int32), np.array([g], np.int32)), out(1000 + np.arange(g, dtype=np.int32)), both(np.zeros(2 * b, np.int32), o),
                                    both(np.zeros(b, np.int32), np.full(b, 7, np.int32)), i32(b)], {"BLOCK": b}


@jit
def atomics_bf16(x, o, BLOCK: tl.constexpr):
    offs = tl.arange(0, BLOCK)
    tl.atomic_add(o + offs, tl.load(x + tl.program_id(0) * BLOCK + offs))


def atomics_half_case(dtype):
    def make(rng):
        x = rng.integers(-8, 8, (5, 256)).astype(dtype)
        return atomics_bf16, (5,), [read(x), both(np.zeros(256, dtype), x.astype(np.float32).sum(0).astype(dtype))], {"BLOCK": 256}

    return make


case("atomics_bf16", num_warps=4)(atomics_half_case(BF16))
case("atomics_f16x2", num_warps=2)(atomics_half_case(np.float16))
case("atomics_f32_v4_sm90", keep=True, num_warps=2, arch=90)(atomics_half_case(np.float32))
case("atomics_f16_sm90", num_warps=2, arch=90)(atomics_half_case(np.float16))


@jit
def transposes(x, o, p, q, M: tl.constexpr, N: tl.constexpr):
    r = tl.arange(0, M)
    c = tl.arange(0, N)
    v = tl.load(x + r[:, None] * N + c[None, :])
    tl.store(o + c[:, None] * M + r[None, :], tl.trans(v))
    tl.store(p + tl.arange(0, M * N), tl.ravel(tl.trans(v)))
    w = tl.reshape(v, (M // 4, 4, N))
    w = tl.permute(w, (2, 0, 1))
    tl.store(q + tl.arange(0, N)[:, None, None] * M + tl.arange(0, M // 4)[None, :, None] + tl.arange(0, 4)[None, None, :] * (M // 4), w)


def transposes_case(dtype, m, n):
    def make(rng):
        x = rng.integers(-100, 100, (m, n)).astype(dtype)
        q = x.reshape(m // 4, 4, n).transpose(2, 1, 0)
        return transposes, (1,), [read(x), out(x.T), out(x.T), out(q)], {"M": m, "N": n}

    return make


case("transposes_f32", num_warps=4)(transposes_case(np.float32, 32, 64))
case("transposes_f16", num_warps=4)(transposes_case(np.float16, 64, 32))
case("transposes_i8", num_warps=8)(transposes_case(np.int8, 64, 64))
case("transposes_f16_sm90", num_warps=4, arch=90)(transposes_case(np.float16, 64, 32))
case("transposes_f64", num_warps=2)(transposes_case(np.float64, 16, 32))


@jit
def joins(x, y, o, p, q, s, N: tl.constexpr):
    c = tl.arange(0, N)
    a = tl.load(x + c)
    b = tl.load(y + c)
    j = tl.join(a, b)
    tl.store(o + c[:, None] * 2 + tl.arange(0, 2)[None, :], j)
    tl.store(p + tl.arange(0, 2 * N), tl.interleave(b, a))
    even, odd = tl.split(tl.reshape(a, (N // 2, 2)))
    h = tl.arange(0, N // 2)
    tl.store(q + h, even - odd)
    tl.store(q + N // 2 + h, odd)
    cat = tl.cat(a, b, can_reorder=True)
    tl.store(s + tl.program_id(0), tl.sum(cat, 0))


@case("joins")
def _(rng):
    n = 256
    x, y = [rng.integers(-50, 50, n).astype(np.float32) for _ in range(2)]
    q = np.concatenate([x[::2] - x[1::2], x[1::2]])
    return joins, (1,), [read(x), read(y), out(np.stack([x, y], 1)), out(np.stack([y, x], 1)), out(q), out(np.array([x.sum() + y.sum()], np.float32))], {"N": n}


@jit
def rope(x, cos, sin, o, heads, D: tl.constexpr):
    pos = tl.program_id(0)
    half = tl.arange(0, D // 2)
    c = tl.load(cos + pos * (D // 2) + half).to(tl.float32)
    s = tl.load(sin + pos * (D // 2) + half).to(tl.float32)
    for head in range(heads):
        base = (pos * heads + head) * D
        v = tl.load(x + base + tl.arange(0, D)).to(tl.float32)
        a, b = tl.split(tl.reshape(v, (D // 2, 2)))
        r = tl.interleave(a * c - b * s, b * c + a * s)
        tl.store(o + base + tl.arange(0, D), r.to(o.dtype.element_ty))


@case("rope", num_warps=1)
def _(rng):
    t, h, d = 6, 3, 64
    x = rng.standard_normal((t, h, d)).astype(BF16)
    angle = np.arange(t)[:, None] * 10000.0 ** (-np.arange(d // 2) / (d // 2))
    c, s = np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)
    f = x.astype(np.float64)
    a, b = f[..., ::2], f[..., 1::2]
    want = np.stack([a * c[:, None] - b * s[:, None], b * c[:, None] + a * s[:, None]], -1).reshape(x.shape)
    return rope, (t,), [read(x), read(c), read(s), out(want.astype(BF16), 8e-3, 1e-2), i32(h)], {"D": d}


# ---- matrix products -----------------------------------------------------------------------------------------------------------------------


@jit
def matmul(a_ptr, b_ptr, c_ptr, M, N, K, stride_am, stride_ak, stride_bk, stride_bn, stride_cm, stride_cn,
           BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, GROUP: tl.constexpr, ACT: tl.constexpr, PREC: tl.constexpr, ACC: tl.constexpr):
    pid = tl.program_id(axis=0)
    num_m = tl.cdiv(M, BM)
    num_n = tl.cdiv(N, BN)
    in_group = GROUP * num_n
    group = pid // in_group
    first = group * GROUP
    size = min(num_m - first, GROUP)
    pid_m = first + ((pid % in_group) % size)
    pid_n = (pid % in_group) // size
    tl.assume(pid_m >= 0)
    tl.assume(pid_n >= 0)
    offs_am = (pid_m * BM + tl.arange(0, BM)) % M
    offs_bn = (pid_n * BN + tl.arange(0, BN)) % N
    offs_k = tl.arange(0, BK)
    a_ptrs = a_ptr + (offs_am[:, None] * stride_am + offs_k[None, :] * stride_ak)
    b_ptrs = b_ptr + (offs_k[:, None] * stride_bk + offs_bn[None, :] * stride_bn)
    acc = tl.zeros((BM, BN), dtype=ACC)
    for k in range(0, tl.cdiv(K, BK)):
        a = tl.load(a_ptrs, mask=offs_k[None, :] < K - k * BK, other=0.0)
        b = tl.load(b_ptrs, mask=offs_k[:, None] < K - k * BK, other=0.0)
        acc = tl.dot(a, b, acc, input_precision=PREC, out_dtype=ACC)
        a_ptrs += BK * stride_ak
        b_ptrs += BK * stride_bk
    if ACT:
        acc = tl.where(acc >= 0, acc, 0.01 * acc)
    c = acc.to(c_ptr.dtype.element_ty)
    offs_cm = pid_m * BM + tl.arange(0, BM)
    offs_cn = pid_n * BN + tl.arange(0, BN)
    c_ptrs = c_ptr + stride_cm * offs_cm[:, None] + stride_cn * offs_cn[None, :]
    tl.store(c_ptrs, c, mask=(offs_cm[:, None] < M) & (offs_cn[None, :] < N))


def matmul_case(dtype, mnk, block, to=None, prec="tf32", acc=tl.float32, act=False, trans_a=False, trans_b=False, exact=False, group=8, core8=False):
    """A product with every layout of its operands. `exact`: small integers, so that any order of summation gives the same bits.
    `core8`: products of 8-bit floats in tensor cores, which keep 13 fraction bits of a sum, not 23: see "Tensor cores" in
    crates/ptx-vm/README.md."""

    def make(rng):
        m, n, k = mnk
        out_type = to or dtype
        integer = np.issubdtype(dtype, np.integer)
        if integer or exact:
            a, b = rng.integers(-4, 5, (m, k)).astype(dtype), rng.integers(-4, 5, (k, n)).astype(dtype)
        else:
            a, b = rng.standard_normal((m, k)).astype(np.float32).astype(dtype), rng.standard_normal((k, n)).astype(np.float32).astype(dtype)
            if dtype == np.float32 and prec == "tf32":
                # tf32 holds what f16 holds: no rounding of the operands is left to choose.
                a, b = a.astype(np.float16).astype(dtype), b.astype(np.float16).astype(dtype)
        c = a.astype(np.float64) @ b.astype(np.float64)
        if act:
            c = np.where(c >= 0, c, 0.01 * c)
        half = np.dtype(out_type).itemsize == 2
        rtol, atol = (0, 0) if integer or exact and not act else (8e-3, 2e-2) if half and out_type == BF16 else (2e-3, 5e-3) if half else (1e-5, 1e-4)
        if acc == tl.float16 and not exact:
            rtol, atol = 2e-2, 1e-1
        if core8:
            rtol, atol = 1e-3, 1e-2
        put = lambda x, t: read(x.T if t else x)
        strides = lambda rows, cols, t: [i32(1), i32(rows)] if t else [i32(cols), i32(1)]
        args = [put(a, trans_a), put(b, trans_b), out(c.astype(out_type), rtol, atol), i32(m), i32(n), i32(k),
                *strides(m, k, trans_a), *strides(k, n, trans_b), i32(n), i32(1)]
        bm, bn, bk = block
        return matmul, (cdiv(m, bm) * cdiv(n, bn),), args, {"BM": bm, "BN": bn, "BK": bk, "GROUP": group, "ACT": act, "PREC": prec, "ACC": acc}

    return make


case("matmul_f16", keep=True, num_warps=4, num_stages=3)(matmul_case(np.float16, (96, 80, 112), (64, 32, 32), act=True))
case("matmul_f16_512", num_warps=8, num_stages=3)(matmul_case(np.float16, (512, 512, 512), (128, 128, 32)))
case("matmul_f16_stages1", num_warps=1, num_stages=1)(matmul_case(np.float16, (64, 64, 64), (32, 32, 32)))
case("matmul_f16_stages2", num_warps=2, num_stages=2)(matmul_case(np.float16, (70, 64, 96), (32, 64, 32), to=np.float32))
case("matmul_f16_stages4", num_warps=8, num_stages=4)(matmul_case(np.float16, (128, 256, 128), (128, 256, 32), exact=True))
case("matmul_f16_odd", num_warps=4, num_stages=3)(matmul_case(np.float16, (61, 67, 71), (32, 64, 32)))
case("matmul_f16_acc16", num_warps=4, num_stages=3)(matmul_case(np.float16, (64, 64, 64), (64, 64, 32), acc=tl.float16, exact=True))
case("matmul_f16_nt", num_warps=4, num_stages=3)(matmul_case(np.float16, (64, 96, 64), (64, 32, 64), trans_b=True))
case("matmul_f16_tn", num_warps=4, num_stages=2)(matmul_case(np.float16, (64, 96, 64), (32, 32, 32), trans_a=True))
case("matmul_f16_tt", num_warps=4, num_stages=4)(matmul_case(np.float16, (64, 64, 64), (64, 64, 16), trans_a=True, trans_b=True))
case("matmul_bf16", num_warps=4, num_stages=3)(matmul_case(BF16, (96, 64, 96), (32, 64, 32)))
case("matmul_bf16_big_block", num_warps=8, num_stages=3)(matmul_case(BF16, (128, 128, 64), (128, 128, 64), to=np.float32))
case("matmul_tf32", keep=True, num_warps=4, num_stages=3)(matmul_case(np.float32, (64, 48, 80), (32, 32, 32)))
case("matmul_tf32_nt", num_warps=4, num_stages=2)(matmul_case(np.float32, (64, 64, 64), (64, 64, 32), trans_b=True))
case("matmul_tf32x3", num_warps=4, num_stages=2)(matmul_case(np.float32, (64, 64, 64), (32, 32, 32), prec="tf32x3"))
case("matmul_bf16x3", num_warps=4, num_stages=2)(matmul_case(np.float32, (64, 64, 32), (32, 32, 32), prec="bf16x6", exact=True))
case("matmul_f32_ieee", num_warps=4, num_stages=3)(matmul_case(np.float32, (64, 64, 64), (32, 32, 32), prec="ieee"))
case("matmul_f64", num_warps=4, num_stages=2)(matmul_case(np.float64, (32, 32, 64), (32, 32, 16), prec="ieee", acc=tl.float64))
case("matmul_i8", keep=True, num_warps=4, num_stages=3)(matmul_case(np.int8, (64, 64, 96), (64, 32, 64), to=np.int32, acc=tl.int32))
case("matmul_i8_nt", num_warps=4, num_stages=3)(matmul_case(np.int8, (64, 64, 128), (32, 64, 32), to=np.int32, acc=tl.int32, trans_b=True))
case("matmul_fp8e5", num_warps=4, num_stages=3)(matmul_case(F8E5, (64, 64, 64), (32, 32, 32), to=np.float32))
case("matmul_fp8e5_sm89", num_warps=4, num_stages=3, arch=89)(matmul_case(F8E5, (64, 64, 64), (32, 32, 32), to=np.float32, core8=True))
case("matmul_fp8e4_sm89", keep=True, num_warps=4, num_stages=3, arch=89)(matmul_case(F8E4, (32, 48, 64), (32, 16, 32), to=np.float32, trans_b=True, core8=True))
case("matmul_f16_sm89", num_warps=4, num_stages=3, arch=89)(matmul_case(np.float16, (64, 64, 64), (32, 32, 32)))
case("matmul_f16_sm90_small", num_warps=2, num_stages=3, arch=90)(matmul_case(np.float16, (64, 64, 64), (32, 32, 32)))
# wgmma: tiles of 64 rows at least, four warps at least.
case("matmul_f16_sm90", num_warps=4, num_stages=3, arch=90)(matmul_case(np.float16, (96, 80, 112), (64, 32, 32), act=True))
case("matmul_f16_sm90_nt", num_warps=4, num_stages=3, arch=90)(matmul_case(np.float16, (64, 96, 64), (64, 32, 64), trans_b=True))
case("matmul_f16_sm90_tn", num_warps=4, num_stages=3, arch=90)(matmul_case(np.float16, (128, 64, 96), (64, 64, 32), trans_a=True))
case("matmul_f16_sm90_tt", num_warps=4, num_stages=4, arch=90)(matmul_case(np.float16, (64, 64, 64), (64, 64, 16), trans_a=True, trans_b=True))
case("matmul_f16_sm90_odd", keep=True, num_warps=4, num_stages=3, arch=90)(matmul_case(np.float16, (61, 67, 71), (64, 64, 32)))
case("matmul_f16_sm90_wide", num_warps=8, num_stages=3, arch=90)(matmul_case(np.float16, (128, 256, 128), (128, 256, 64), exact=True))
case("matmul_bf16_sm90", num_warps=8, num_stages=3, arch=90)(matmul_case(BF16, (128, 128, 64), (128, 128, 64), to=np.float32))
case("matmul_bf16_sm90_warps16", num_warps=16, num_stages=2, arch=90)(matmul_case(BF16, (128, 128, 64), (128, 128, 32)))
case("matmul_tf32_sm90", num_warps=4, num_stages=3, arch=90)(matmul_case(np.float32, (64, 64, 64), (64, 64, 32), trans_b=True))
case("matmul_i8_sm90", keep=True, num_warps=4, num_stages=3, arch=90)(matmul_case(np.int8, (64, 64, 96), (64, 32, 64), to=np.int32, acc=tl.int32, trans_b=True))
case("matmul_fp8e4_sm90", keep=True, num_warps=4, num_stages=3, arch=90)(matmul_case(F8E4, (64, 64, 128), (64, 64, 64), to=np.float32, trans_b=True, core8=True))
case("matmul_fp8e5_sm90", num_warps=4, num_stages=3, arch=90)(matmul_case(F8E5, (64, 64, 128), (64, 64, 64), to=np.float32, trans_b=True, core8=True))
case("matmul_f16_debug", num_warps=4, num_stages=3, debug=True)(matmul_case(np.float16, (64, 64, 64), (32, 32, 32)))
case("matmul_16x16x16", num_warps=1, num_stages=2)(matmul_case(np.float16, (16, 16, 32), (16, 16, 16)))
case("matmul_16x128", num_warps=4, num_stages=3)(matmul_case(np.float16, (16, 128, 64), (16, 128, 32)))
case("matmul_warps16", num_warps=16, num_stages=2)(matmul_case(np.float16, (128, 128, 64), (128, 128, 32)))


@jit
def matmul_split_k(a_ptr, b_ptr, c_ptr, M, N, K, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, SPLIT: tl.constexpr):
    pid = tl.program_id(0)
    pid_z = tl.program_id(1)
    num_n = tl.cdiv(N, BN)
    rm = (pid // num_n) * BM + tl.arange(0, BM)
    rn = (pid % num_n) * BN + tl.arange(0, BN)
    rk = pid_z * BK + tl.arange(0, BK)
    acc = tl.zeros((BM, BN), tl.float32)
    for k in range(0, tl.cdiv(K, BK * SPLIT)):
        left = K - k * BK * SPLIT
        a = tl.load(a_ptr + rm[:, None] * K + (rk + k * BK * SPLIT)[None, :], mask=(rk[None, :] < left) & (rm[:, None] < M), other=0.0)
        b = tl.load(b_ptr + (rk + k * BK * SPLIT)[:, None] * N + rn[None, :], mask=(rk[:, None] < left) & (rn[None, :] < N), other=0.0)
        acc = tl.dot(a, b, acc)
    tl.atomic_add(c_ptr + rm[:, None] * N + rn[None, :], acc.to(c_ptr.dtype.element_ty), mask=(rm[:, None] < M) & (rn[None, :] < N), sem="relaxed")


def split_k_case(to):
    def make(rng):
        m, n, k, bm, bn, bk, split = 40, 32, 144, 32, 32, 16, 3
        a, b = rng.integers(-3, 4, (m, k)).astype(np.float16), rng.integers(-3, 4, (k, n)).astype(np.float16)
        c = a.astype(np.float64) @ b.astype(np.float64)
        return matmul_split_k, (cdiv(m, bm) * cdiv(n, bn), split), [read(a), read(b), both(np.zeros((m, n), to), c.astype(to)), i32(m), i32(n), i32(k)], {
            "BM": bm, "BN": bn, "BK": bk, "SPLIT": split}

    return make


case("matmul_split_k_f32", keep=True, num_warps=4, num_stages=3)(split_k_case(np.float32))
case("matmul_split_k_f16", num_warps=4, num_stages=3)(split_k_case(np.float16))


@jit
def matmul_persistent(a_ptr, b_ptr, c_ptr, M, N, K, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, FLAT: tl.constexpr):
    num_n = tl.cdiv(N, BN)
    tiles = tl.cdiv(M, BM) * num_n
    for tile in tl.range(tl.program_id(0), tiles, tl.num_programs(0), flatten=FLAT):
        rm = (tile // num_n) * BM + tl.arange(0, BM)
        rn = (tile % num_n) * BN + tl.arange(0, BN)
        acc = tl.zeros((BM, BN), tl.float32)
        for k in range(0, tl.cdiv(K, BK)):
            rk = k * BK + tl.arange(0, BK)
            a = tl.load(a_ptr + rm[:, None] * K + rk[None, :], mask=(rm[:, None] < M) & (rk[None, :] < K), other=0.0)
            b = tl.load(b_ptr + rk[:, None] * N + rn[None, :], mask=(rk[:, None] < K) & (rn[None, :] < N), other=0.0)
            acc = tl.dot(a, b, acc)
        tl.store(c_ptr + rm[:, None] * N + rn[None, :], acc.to(tl.float16), mask=(rm[:, None] < M) & (rn[None, :] < N))


def persistent_case(flat, block=32):
    def make(rng):
        m, n, k = 96, 128, 80
        a, b = rng.standard_normal((m, k)).astype(np.float16), rng.standard_normal((k, n)).astype(np.float16)
        c = a.astype(np.float64) @ b.astype(np.float64)
        return matmul_persistent, (5,), [read(a), read(b), out(c.astype(np.float16), 2e-3, 5e-3), i32(m), i32(n), i32(k)], {"BM": block, "BN": block, "BK": 32, "FLAT": flat}

    return make


case("matmul_persistent_sm90", keep=True, num_warps=4, num_stages=3, arch=90)(persistent_case(False, 64))
case("matmul_persistent_flat_sm90", num_warps=4, num_stages=3, arch=90)(persistent_case(True, 64))
case("matmul_persistent", num_warps=4, num_stages=3)(persistent_case(False))
case("matmul_persistent_flat", num_warps=4, num_stages=3)(persistent_case(True))


@jit
def matmul_grouped(a_ptr, b_ptr, c_ptr, sizes, a_at, b_at, c_at, groups, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):
    tile = tl.program_id(0)
    last_end = 0
    for g in range(groups):
        gm = tl.load(sizes + g * 3)
        gn = tl.load(sizes + g * 3 + 1)
        gk = tl.load(sizes + g * 3 + 2)
        num_n = tl.cdiv(gn, BN)
        count = tl.cdiv(gm, BM) * num_n
        a_base = a_ptr + tl.load(a_at + g)
        b_base = b_ptr + tl.load(b_at + g)
        c_base = c_ptr + tl.load(c_at + g)
        while tile >= last_end and tile < last_end + count:
            t = tile - last_end
            rm = (t // num_n) * BM + tl.arange(0, BM)
            rn = (t % num_n) * BN + tl.arange(0, BN)
            acc = tl.zeros((BM, BN), tl.float32)
            for k in range(0, tl.cdiv(gk, BK)):
                rk = k * BK + tl.arange(0, BK)
                a = tl.load(a_base + rm[:, None] * gk + rk[None, :], mask=(rm[:, None] < gm) & (rk[None, :] < gk), other=0.0)
                b = tl.load(b_base + rk[:, None] * gn + rn[None, :], mask=(rk[:, None] < gk) & (rn[None, :] < gn), other=0.0)
                acc += tl.dot(a, b)
            tl.store(c_base + rm[:, None] * gn + rn[None, :], acc.to(tl.float16), mask=(rm[:, None] < gm) & (rn[None, :] < gn))
            tile += tl.num_programs(0)
        last_end += count


@case("matmul_grouped", num_warps=4, num_stages=2)
def _(rng):
    sizes = [(40, 32, 64), (64, 64, 32), (20, 70, 48)]
    a = [rng.standard_normal((m, k)).astype(np.float16) for m, _, k in sizes]
    b = [rng.standard_normal((k, n)).astype(np.float16) for _, n, k in sizes]
    c = [(x.astype(np.float64) @ y.astype(np.float64)).astype(np.float16) for x, y in zip(a, b)]
    flat = lambda parts: np.concatenate([p.ravel() for p in parts])
    at = lambda parts: read(np.cumsum([0] + [p.size for p in parts[:-1]]).astype(np.int64))
    return matmul_grouped, (3,), [read(flat(a)), read(flat(b)), out(flat(c), 2e-3, 5e-3), read(np.array(sizes, np.int32)), at(a), at(b), at(c), i32(3)], {
        "BM": 32, "BN": 32, "BK": 32}


@jit
def matmul_int4(x, packed, scale, o, M, N, K, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):
    """Weights of 4 bits, two in a byte along K, a scale for each group of 32 of a column."""
    rm = tl.program_id(0) * BM + tl.arange(0, BM)
    rn = tl.program_id(1) * BN + tl.arange(0, BN)
    acc = tl.zeros((BM, BN), tl.float32)
    for k in range(0, K, BK):
        rk = k + tl.arange(0, BK)
        a = tl.load(x + rm[:, None] * K + rk[None, :], mask=rm[:, None] < M, other=0.0)
        q = tl.load(packed + (rk // 2)[:, None] * N + rn[None, :])
        q = (q >> ((rk % 2) * 4)[:, None]) & 0xF
        s = tl.load(scale + (k // 32) * N + rn)
        w = ((q.to(tl.int32) - 8).to(tl.float16) * s[None, :]).to(tl.float16)
        acc = tl.dot(a, w, acc)
    tl.store(o + rm[:, None] * N + rn[None, :], acc, mask=rm[:, None] < M)


@case("matmul_int4", keep=True, num_warps=4, num_stages=3)
def _(rng):
    m, n, k = 20, 64, 96
    x = rng.standard_normal((m, k)).astype(np.float16)
    q = rng.integers(0, 16, (k, n))
    packed = (q[::2] | q[1::2] << 4).astype(np.uint8)
    scale = (0.1 + rng.random((k // 32, n))).astype(np.float16)
    w = ((q - 8).astype(np.float16) * np.repeat(scale, 32, 0)).astype(np.float64)
    return matmul_int4, (1, 2), [read(x), read(packed), read(scale), out((x.astype(np.float64) @ w).astype(np.float32), 1e-4, 1e-3), i32(m), i32(n), i32(k)], {
        "BM": 32, "BN": 32, "BK": 32}


@jit
def batched_dot(x, y, o, B: tl.constexpr, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr):
    b = tl.arange(0, B)[:, None, None]
    m = tl.arange(0, M)
    n = tl.arange(0, N)
    k = tl.arange(0, K)
    a = tl.load(x + b * M * K + m[None, :, None] * K + k[None, None, :])
    w = tl.load(y + b * K * N + k[None, :, None] * N + n[None, None, :])
    tl.store(o + b * M * N + m[None, :, None] * N + n[None, None, :], tl.dot(a, w))


@case("batched_dot", num_warps=4)
def _(rng):
    b, m, n, k = 4, 16, 32, 16
    x, y = rng.standard_normal((b, m, k)).astype(np.float16), rng.standard_normal((b, k, n)).astype(np.float16)
    return batched_dot, (1,), [read(x), read(y), out((x.astype(np.float64) @ y.astype(np.float64)).astype(np.float32), 1e-5, 1e-4)], {"B": b, "M": m, "N": n, "K": k}


@jit
def chained_dot(x, y, z, o, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr, P: tl.constexpr):
    m = tl.arange(0, M)
    n = tl.arange(0, N)
    k = tl.arange(0, K)
    p = tl.arange(0, P)
    a = tl.load(x + m[:, None] * K + k[None, :])
    b = tl.load(y + k[:, None] * N + n[None, :])
    s = tl.dot(a, b)
    s = s / tl.sum(tl.abs(s), 1)[:, None]
    c = tl.load(z + n[:, None] * P + p[None, :])
    t = tl.dot(s.to(a.dtype), c)
    tl.store(o + p[:, None] * M + m[None, :], tl.trans(t))


@case("chained_dot", num_warps=8)
def _(rng):
    m, n, k, p = 128, 64, 32, 32
    x, y, z = [rng.standard_normal(s).astype(np.float16) for s in ((m, k), (k, n), (n, p))]
    s = x.astype(np.float64) @ y.astype(np.float64)
    t = rounded(s / np.abs(s).sum(1, keepdims=True), np.float16) @ z.astype(np.float64)
    return chained_dot, (1,), [read(x), read(y), read(z), out(t.T.astype(np.float32), 2e-3, 1e-3)], {"M": m, "N": n, "K": k, "P": p}


@jit
def scaled_dot(x, xs, y, ys, o, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr, XF: tl.constexpr, YF: tl.constexpr, XPACK: tl.constexpr):
    m = tl.arange(0, M)
    n = tl.arange(0, N)
    kx = tl.arange(0, K // XPACK)
    k = tl.arange(0, K)
    g = tl.arange(0, K // 32)
    a = tl.load(x + m[:, None] * (K // XPACK) + kx[None, :])
    b = tl.load(y + k[:, None] * N + n[None, :])
    sa = tl.load(xs + m[:, None] * (K // 32) + g[None, :])
    sb = tl.load(ys + n[:, None] * (K // 32) + g[None, :])
    tl.store(o + m[:, None] * N + n[None, :], tl.dot_scaled(a, sa, XF, b, sb, YF))


@case("dot_scaled_e5m2", num_warps=4)
def _(rng):
    m, n, k = 32, 32, 64
    x, y = rng.standard_normal((m, k)).astype(F8E5), rng.standard_normal((k, n)).astype(F8E5)
    xs, ys = rng.integers(124, 130, (m, k // 32)).astype(np.uint8), rng.integers(124, 130, (n, k // 32)).astype(np.uint8)
    a = x.astype(np.float64) * np.repeat(2.0 ** (xs.astype(int) - 127), 32, 1)
    b = y.astype(np.float64) * np.repeat(2.0 ** (ys.astype(int) - 127), 32, 1).T
    return scaled_dot, (1,), [read(x.view(np.uint8)), read(xs), read(y.view(np.uint8)), read(ys), out((a @ b).astype(np.float32), 1e-4, 1e-3)], {
        "M": m, "N": n, "K": k, "XF": "e5m2", "YF": "e5m2", "XPACK": 1}


E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])


@case("dot_scaled_e2m1_bf16", num_warps=4)
def _(rng):
    m, n, k = 32, 32, 128
    q = rng.integers(0, 16, (m, k))
    packed = (q[:, ::2] | q[:, 1::2] << 4).astype(np.uint8)
    y = rng.standard_normal((k, n)).astype(F8E5)
    xs, ys = rng.integers(124, 130, (m, k // 32)).astype(np.uint8), rng.integers(124, 130, (n, k // 32)).astype(np.uint8)
    a = E2M1[q] * np.repeat(2.0 ** (xs.astype(int) - 127), 32, 1)
    b = y.astype(np.float64) * np.repeat(2.0 ** (ys.astype(int) - 127), 32, 1).T
    return scaled_dot, (1,), [read(packed), read(xs), read(y.view(np.uint8)), read(ys), out((a @ b).astype(np.float32), 1e-4, 1e-3)], {
        "M": m, "N": n, "K": k, "XF": "e2m1", "YF": "e5m2", "XPACK": 2}


@jit
def conv2d(x, w, o, H, W, C, KO, OH, OW, R: tl.constexpr, S: tl.constexpr, PAD: tl.constexpr, STRIDE: tl.constexpr,
           BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):
    """NHWC convolution as an implicit matrix product: rows are pixels, columns output channels."""
    rm = tl.program_id(0) * BM + tl.arange(0, BM)
    rn = tl.program_id(1) * BN + tl.arange(0, BN)
    oh = rm // OW
    ow = rm % OW
    acc = tl.zeros((BM, BN), tl.float32)
    for rs in range(R * S):
        ih = oh * STRIDE + rs // S - PAD
        iw = ow * STRIDE + rs % S - PAD
        inside = (ih >= 0) & (ih < H) & (iw >= 0) & (iw < W) & (rm < OH * OW)
        for c in range(0, C, BK):
            rc = c + tl.arange(0, BK)
            a = tl.load(x + (ih * W + iw)[:, None] * C + rc[None, :], mask=inside[:, None] & (rc[None, :] < C), other=0.0)
            b = tl.load(w + (rs * C + rc)[:, None] * KO + rn[None, :], mask=(rc[:, None] < C) & (rn[None, :] < KO), other=0.0)
            acc = tl.dot(a, b, acc)
    tl.store(o + rm[:, None] * KO + rn[None, :], acc.to(o.dtype.element_ty), mask=(rm[:, None] < OH * OW) & (rn[None, :] < KO))


@case("conv2d", num_warps=4, num_stages=3)
def _(rng):
    h, w, c, ko, r, s, pad, stride = 12, 11, 24, 40, 3, 3, 1, 2
    oh, ow = (h + 2 * pad - r) // stride + 1, (w + 2 * pad - s) // stride + 1
    x, f = rng.standard_normal((h, w, c)).astype(np.float16), (rng.standard_normal((r, s, c, ko)) * 0.2).astype(np.float16)
    padded = np.pad(x.astype(np.float64), ((pad, pad), (pad, pad), (0, 0)))
    want = np.zeros((oh, ow, ko))
    for i in range(r):
        for j in range(s):
            want += padded[i : i + stride * oh : stride, j : j + stride * ow : stride][:oh, :ow] @ f[i, j].astype(np.float64)
    return conv2d, (cdiv(oh * ow, 32), cdiv(ko, 32)), [read(x), read(f), out(want.astype(np.float16), 2e-3, 5e-3), i32(h), i32(w), i32(c), i32(ko), i32(oh), i32(ow)], {
        "R": r, "S": s, "PAD": pad, "STRIDE": stride, "BM": 32, "BN": 32, "BK": 32}


@jit
def matmul_descriptor(a_ptr, b_ptr, c_ptr, M, N, K, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):
    """Tensor descriptors made in the kernel: pointers and masks where there is no bulk tensor copy."""
    a_desc = tl.make_tensor_descriptor(a_ptr, shape=[M, K], strides=[K, 1], block_shape=[BM, BK])
    b_desc = tl.make_tensor_descriptor(b_ptr, shape=[K, N], strides=[N, 1], block_shape=[BK, BN])
    c_desc = tl.make_tensor_descriptor(c_ptr, shape=[M, N], strides=[N, 1], block_shape=[BM, BN])
    m = tl.program_id(0) * BM
    n = tl.program_id(1) * BN
    acc = tl.zeros((BM, BN), tl.float32)
    for k in range(0, K, BK):
        acc = tl.dot(a_desc.load([m, k]), b_desc.load([k, n]), acc)
    c_desc.store([m, n], acc.to(tl.float16))


@case("matmul_descriptor", num_warps=4, num_stages=3)
def _(rng):
    m, n, k = 50, 72, 88
    a, b = rng.standard_normal((m, k)).astype(np.float16), rng.standard_normal((k, n)).astype(np.float16)
    return matmul_descriptor, (2, 3), [read(a), read(b), out((a.astype(np.float64) @ b.astype(np.float64)).astype(np.float16), 2e-3, 5e-3), i32(m), i32(n), i32(k)], {
        "BM": 32, "BN": 32, "BK": 32}


# ---- attention -----------------------------------------------------------------------------------------------------------------------------


@jit
def attention_inner(acc, l_i, m_i, q, K, V, start_m, scale, N, D: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, STAGE: tl.constexpr):
    offs_m = start_m * BM + tl.arange(0, BM)
    offs_n = tl.arange(0, BN)
    offs_d = tl.arange(0, D)
    if STAGE == 1:
        lo, hi = 0, start_m * BM
    elif STAGE == 2:
        lo, hi = start_m * BM, (start_m + 1) * BM
        lo = tl.multiple_of(lo, BM)
    else:
        lo, hi = 0, N
    for start_n in range(lo, hi, BN):
        start_n = tl.multiple_of(start_n, BN)
        at = (start_n + offs_n)[:, None] * D + offs_d[None, :]
        inside = (start_n + offs_n)[:, None] < N
        k = tl.load(K + at, mask=inside, other=0.0)
        qk = tl.dot(q, tl.trans(k)) * scale
        if STAGE == 2:
            qk = tl.where(offs_m[:, None] >= (start_n + offs_n)[None, :], qk, -1.0e6)
        qk = tl.where((start_n + offs_n)[None, :] < N, qk, -1.0e6)
        m_new = tl.maximum(m_i, tl.max(qk, 1))
        p = tl.math.exp2(qk - m_new[:, None])
        alpha = tl.math.exp2(m_i - m_new)
        l_i = l_i * alpha + tl.sum(p, 1)
        acc = acc * alpha[:, None]
        v = tl.load(V + at, mask=inside, other=0.0)
        acc = tl.dot(p.to(v.dtype), v, acc)
        m_i = m_new
    return acc, l_i, m_i


@jit
def attention(Q, K, V, O, L, scale, N, D: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, CAUSAL: tl.constexpr):
    start_m = tl.program_id(0)
    base = tl.program_id(1).to(tl.int64) * N * D
    offs_m = start_m * BM + tl.arange(0, BM)
    at = offs_m[:, None] * D + tl.arange(0, D)[None, :]
    m_i = tl.zeros([BM], dtype=tl.float32) - float("inf")
    l_i = tl.zeros([BM], dtype=tl.float32) + 1.0
    # The first block's maximum is -inf: its weight of the start value 1 is exp2(-inf) = 0.
    acc = tl.zeros([BM, D], dtype=tl.float32)
    qk_scale = scale * 1.44269504
    q = tl.load(Q + base + at, mask=offs_m[:, None] < N, other=0.0)
    if CAUSAL:
        acc, l_i, m_i = attention_inner(acc, l_i, m_i, q, K + base, V + base, start_m, qk_scale, N, D, BM, BN, 1)
        acc, l_i, m_i = attention_inner(acc, l_i, m_i, q, K + base, V + base, start_m, qk_scale, N, D, BM, BN, 2)
    else:
        acc, l_i, m_i = attention_inner(acc, l_i, m_i, q, K + base, V + base, start_m, qk_scale, N, D, BM, BN, 3)
    tl.store(L + tl.program_id(1) * N + offs_m, m_i + tl.math.log2(l_i), mask=offs_m < N)
    tl.store(O + base + at, (acc / l_i[:, None]).to(O.dtype.element_ty), mask=offs_m[:, None] < N)


def attention_parts(q, k, v, scale, causal):
    """Scores, probabilities, log2 of the sums and result in f64."""
    s = q @ k.transpose(0, 2, 1) * scale
    if causal:
        n = s.shape[-1]
        s = np.where(np.arange(n)[:, None] >= np.arange(n)[None, :], s, -np.inf)
    m = s.max(-1, keepdims=True)
    e = np.exp(s - m)
    total = e.sum(-1, keepdims=True)
    return e / total, ((m + np.log(total)) / np.log(2))[..., 0], e / total @ v


def attention_case(heads, n, d, bm, bn, causal, dtype=np.float16):
    def make(rng):
        q, k, v = [rng.standard_normal((heads, n, d)).astype(np.float32).astype(dtype) for _ in range(3)]
        scale = d**-0.5
        _, l, o = attention_parts(*[t.astype(np.float64) for t in (q, k, v)], scale, causal)
        tol = {2: 4e-3 if dtype == np.float16 else 2e-2, 4: 1e-3}[np.dtype(dtype).itemsize]
        return attention, (cdiv(n, bm), heads), [read(q), read(k), read(v), out(o.astype(dtype), tol, tol), out(l.astype(np.float32), 1e-3, 1e-3), f32(scale), i32(n)], {
            "D": d, "BM": bm, "BN": bn, "CAUSAL": causal}

    return make


case("attention_d32", num_warps=4, num_stages=2)(attention_case(2, 128, 32, 64, 32, False))
case("attention_d64_causal", keep=True, num_warps=4, num_stages=3)(attention_case(1, 64, 64, 32, 16, True))
case("attention_d64_ragged", num_warps=4, num_stages=3)(attention_case(1, 100, 64, 64, 64, False))
case("attention_d128", num_warps=8, num_stages=3)(attention_case(1, 128, 128, 128, 64, False))
case("attention_d128_causal", num_warps=8, num_stages=4)(attention_case(1, 256, 128, 128, 32, True))
case("attention_bf16", num_warps=4, num_stages=2)(attention_case(1, 128, 64, 64, 64, False, BF16))
case("attention_tf32", num_warps=4, num_stages=2)(attention_case(1, 64, 32, 32, 32, False, np.float32))
case("attention_sm89", num_warps=4, num_stages=3, arch=89)(attention_case(1, 128, 64, 64, 32, True))
case("attention_d64_sm90", keep=True, num_warps=4, num_stages=2, arch=90)(attention_case(1, 100, 64, 64, 32, False))
case("attention_d64_causal_sm90", num_warps=4, num_stages=3, arch=90)(attention_case(1, 128, 64, 64, 32, True))
case("attention_d128_sm90", num_warps=8, num_stages=3, arch=90)(attention_case(1, 256, 128, 128, 64, False))
case("attention_d128_causal_sm90", num_warps=8, num_stages=3, arch=90)(attention_case(1, 256, 128, 128, 64, True))
case("attention_bf16_sm90", num_warps=4, num_stages=2, arch=90)(attention_case(1, 128, 64, 64, 64, False, BF16))
case("attention_512", num_warps=4, num_stages=3)(attention_case(2, 512, 64, 128, 64, False))


@jit
def attention_backward_preprocess(O, DO, Delta, N, D: tl.constexpr, BM: tl.constexpr):
    offs_m = tl.program_id(0) * BM + tl.arange(0, BM)
    at = tl.program_id(1) * N * D + offs_m[:, None] * D + tl.arange(0, D)[None, :]
    o = tl.load(O + at).to(tl.float32)
    do = tl.load(DO + at).to(tl.float32)
    tl.store(Delta + tl.program_id(1) * N + offs_m, tl.sum(o * do, axis=1))


@jit
def attention_backward(Q, K, V, DO, DQ, DK, DV, L, Delta, scale, N, D: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, CAUSAL: tl.constexpr):
    """dk and dv of one block of keys, then dq of the block of queries of the same number."""
    pid = tl.program_id(0)
    base = tl.program_id(1) * N * D
    Lb = L + tl.program_id(1) * N
    Db = Delta + tl.program_id(1) * N
    offs_d = tl.arange(0, D)
    offs_n = pid * BN + tl.arange(0, BN)
    kv_at = base + offs_n[:, None] * D + offs_d[None, :]
    k = tl.load(K + kv_at)
    v = tl.load(V + kv_at)
    dk = tl.zeros([BN, D], tl.float32)
    dv = tl.zeros([BN, D], tl.float32)
    first = pid * BN // BM * BM if CAUSAL else 0
    for start in range(first, N, BM):
        offs_m = start + tl.arange(0, BM)
        q_t = tl.load(Q + base + offs_m[None, :] * D + offs_d[:, None])
        l = tl.load(Lb + offs_m)
        p_t = tl.math.exp2(tl.dot(k, q_t) * (scale * 1.44269504) - l[None, :])
        if CAUSAL:
            p_t = tl.where(offs_m[None, :] >= offs_n[:, None], p_t, 0.0)
        do = tl.load(DO + base + offs_m[:, None] * D + offs_d[None, :])
        dv += tl.dot(p_t.to(do.dtype), do)
        delta = tl.load(Db + offs_m)
        dp_t = tl.dot(v, tl.trans(do)).to(tl.float32)
        ds_t = (p_t * (dp_t - delta[None, :])).to(do.dtype)
        dk += tl.dot(ds_t, tl.trans(q_t))
    tl.store(DV + kv_at, dv)
    tl.store(DK + kv_at, dk * scale)
    offs_m = pid * BN + tl.arange(0, BN)
    q_at = base + offs_m[:, None] * D + offs_d[None, :]
    q = tl.load(Q + q_at)
    do = tl.load(DO + q_at)
    l = tl.load(Lb + offs_m)
    delta = tl.load(Db + offs_m)
    dq = tl.zeros([BN, D], tl.float32)
    end = (pid + 1) * BN if CAUSAL else N
    for start in range(0, end, BM):
        offs = start + tl.arange(0, BM)
        k_t = tl.load(K + base + offs[None, :] * D + offs_d[:, None])
        v_t = tl.load(V + base + offs[None, :] * D + offs_d[:, None])
        p = tl.math.exp2(tl.dot(q, k_t) * (scale * 1.44269504) - l[:, None])
        if CAUSAL:
            p = tl.where(offs_m[:, None] >= offs[None, :], p, 0.0)
        dp = tl.dot(do, v_t).to(tl.float32)
        ds = (p * (dp - delta[:, None])).to(q.dtype)
        dq += tl.dot(ds, tl.trans(k_t))
    tl.store(DQ + q_at, dq * scale)


def backward_parts(rng, heads, n, d, causal, dtype):
    q, k, v, do = [(rng.standard_normal((heads, n, d)) * 0.5).astype(dtype) for _ in range(4)]
    f = [t.astype(np.float64) for t in (q, k, v, do)]
    scale = d**-0.5
    p, l, o = attention_parts(*f[:3], scale, causal)
    delta = (o * f[3]).sum(-1)
    dp = f[3] @ f[2].transpose(0, 2, 1)
    ds = p * (dp - delta[..., None]) * scale
    return (q, k, v, do), l, o, delta, (ds @ f[1], ds.transpose(0, 2, 1) @ f[0], p.transpose(0, 2, 1) @ f[3]), scale


@case("attention_backward_preprocess", num_warps=4)
def _(rng):
    (_, _, _, do), _, o, _, _, _ = backward_parts(rng, 2, 128, 64, False, np.float16)
    o = o.astype(np.float16)
    delta = (o.astype(np.float64) * do.astype(np.float64)).sum(-1)
    return attention_backward_preprocess, (2, 2), [read(o), read(do), out(delta.astype(np.float32), 1e-4, 1e-4), i32(128)], {"D": 64, "BM": 64}


def attention_backward_case(heads, n, d, bm, bn, causal):
    def make(rng):
        (q, k, v, do), l, _, delta, (dq, dk, dv), scale = backward_parts(rng, heads, n, d, causal, np.float16)
        f = lambda x: out(x.astype(np.float32), 5e-3, 5e-3)
        return attention_backward, (n // bn, heads), [read(q), read(k), read(v), read(do), f(dq), f(dk), f(dv), read(l.astype(np.float32)), read(delta.astype(np.float32)),
                                                      f32(scale), i32(n)], {"D": d, "BM": bm, "BN": bn, "CAUSAL": causal}

    return make


case("attention_backward", num_warps=4, num_stages=2)(attention_backward_case(1, 64, 32, 32, 32, False))
case("attention_backward_causal", keep=True, num_warps=4, num_stages=3)(attention_backward_case(1, 64, 32, 16, 32, True))
case("attention_backward_d64", num_warps=4, num_stages=5)(attention_backward_case(2, 128, 64, 32, 128, True))


# ---- messages ------------------------------------------------------------------------------------------------------------------------------


@jit
def checked_divide(x, y, o, n, BLOCK: tl.constexpr):
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = offs < n
    a = tl.load(x + offs, mask=mask, other=0)
    b = tl.load(y + offs, mask=mask, other=1)
    tl.device_assert(b != 0, "division by zero", mask=mask)
    if tl.program_id(0) == 0:
        tl.device_print("blocks ", tl.num_programs(0))
    tl.store(o + offs, a // b, mask=mask)


@case("assert_print", debug=True, num_warps=1)
def _(rng):
    a, b = rng.integers(0, 1000, 60).astype(np.int32), rng.integers(1, 30, 60).astype(np.int32)
    return checked_divide, (2,), [read(a), read(b), out(a // b), i32(60)], {"BLOCK": 32}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=pathlib.Path, help="the folder to write the cases into")
    parser.add_argument("--only", default="*", help="a pattern of case names")
    parser.add_argument("--kept", action="store_true", help="only those kept with the tests")
    for name in ("arch", "num_warps", "num_stages"):
        parser.add_argument("--" + name.replace("_", "-"), type=int, help="for all cases, in place of each one's own")
    options = parser.parse_args()
    forced = {k: v for k in ("arch", "num_warps", "num_stages") if (v := getattr(options, k)) is not None}
    failed = 0
    for name, fn, keep, opts in CASES:
        if fnmatch.fnmatch(name, options.only) and (keep or not options.kept):
            try:
                write_case(options.out, name, fn, opts | forced)
            except Exception as error:  # One kernel this Triton does not compile is no reason to give up the others.
                failed += 1
                print(f"{name}: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}", file=sys.stderr)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
