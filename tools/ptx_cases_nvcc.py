#!/usr/bin/env python3
"""Launch cases from nvcc: compiles tools/nvcc_cases/*.cu, computes what each kernel must give in numpy, writes case folders.

    tools/ptx_cases_nvcc.py --nvcc PATH/bin/nvcc                 writes crates/ptx-vm/tests/cases/nvcc_* (those marked keep)
    tools/ptx_cases_nvcc.py --nvcc PATH/bin/nvcc --all --out DIR writes every case, for a run of the whole corpus:
    ptx-vm run DIR/* --checked

To add one: put NAME.cu (extern "C" entries) into tools/nvcc_cases and a function with @case below that returns the launch, with
references computed from the definition in numpy, scipy or hashlib, never from the kernel. Needs nvcc (pip: nvidia-cuda-nvcc, -crt, -cccl), numpy, scipy, ml_dtypes.
"""
import argparse, hashlib, json, os, re, shutil, struct, subprocess, zlib
import numpy as np, scipy.special as sp
from ml_dtypes import bfloat16

HERE = os.path.dirname(os.path.abspath(__file__))
SOURCES = os.path.join(HERE, "nvcc_cases")
CASES = {}
NAMES = {"float32": "f32", "float64": "f64", "float16": "f16", "bfloat16": "bf16", "int8": "i8", "uint8": "u8", "int16": "i16",
         "uint16": "u16", "int32": "i32", "uint32": "u32", "int64": "i64", "uint64": "u64"}


class Buf:
    """A device buffer: initial contents, expected contents (or None) and tolerances."""

    def __init__(self, init=None, expect=None, rtol=0.0, atol=0.0, like=None):
        self.init, self.expect, self.rtol, self.atol = init, expect, rtol, atol
        self.ref = init if init is not None else expect if expect is not None else like


def out(expect, rtol=0.0, atol=0.0, init=None):
    return Buf(init, np.ascontiguousarray(expect), rtol, atol)


def f32(x): return ("f32", float(x))
def f64(x): return ("f64", float(x))
def i32(x): return ("i32", int(x))
def u32(x): return ("u32", int(x))
def u64(x): return ("u64", int(x))
def raw(b): return ("bytes", b.hex())


def case(source, keep=False, arch="sm_80", flags=()):
    """Registers a function that gives (entry, grid, block, dynamic shared bytes, args)."""
    def add(f):
        CASES[f.__name__] = (f, source, keep, arch, list(flags))
        return f
    return add


def write(folder, name, nvcc, include):
    f, source, _, arch, flags = CASES[name]
    entry, grid, block, shared, args = f(np.random.default_rng(zlib.crc32(name.encode())))
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    cu = os.path.join(folder, "kernel.cu")
    shutil.copy(os.path.join(SOURCES, source + ".cu"), cu)
    opt = [] if "-G" in flags else ["-O3"]
    subprocess.run([nvcc, *opt, "-std=c++17", "-arch=" + arch, *flags, *sum((["-I", i] for i in include), []), "-ptx", "-o", "kernel.ptx", "kernel.cu"],
                   cwd=folder, check=True)
    os.remove(cu)  # it stands in tools/nvcc_cases
    ptx = os.path.join(folder, "kernel.ptx")
    with open(ptx) as file: text = file.read()
    # Without this machine's paths, and without the DWARF tables, which nobody reads.
    text = re.sub(r'(\.file\s+\d+\s+)"[^"]*?([^"/]*)"(, \d+, \d+)?', r'\1"\2"', text)
    text = re.sub(r"\s*\.section\s+\.debug\w+\s*\{.*?\}", "", text, flags=re.S)
    with open(ptx, "w") as file: file.write(text)
    listed = []
    for i, a in enumerate(args):
        if isinstance(a, Buf):
            item = {"kind": "buffer", "dtype": NAMES[a.ref.dtype.name], "len": int(a.ref.size)}
            for key, data in (("init", a.init), ("expect", a.expect)):
                if data is not None:
                    item[key] = f"{i}_{key}.bin"
                    np.ascontiguousarray(data).tofile(os.path.join(folder, item[key]))
            if a.expect is not None and a.expect.dtype.kind not in "iu":
                item |= {"rtol": a.rtol, "atol": a.atol}
        else:
            item = {"kind": a[0], "hex" if a[0] == "bytes" else "value": a[1]}
        listed.append(item)
    pad = lambda t: (list(t) + [1, 1])[:3]
    body = {"ptx": "kernel.ptx", "entry": entry, "grid": pad(grid), "block": pad(block), "dynamic_shared": shared, "args": listed}
    with open(os.path.join(folder, "case.json"), "w") as file:
        lines = ",\n    ".join(json.dumps(a) for a in listed)
        head = json.dumps({k: v for k, v in body.items() if k != "args"})[:-1]
        file.write(f'{head},\n  "args": [\n    {lines}\n  ]}}\n')


# ---- the cases ------------------------------------------------------------------------------------------------------

def normal(r, *shape): return r.standard_normal(shape).astype(np.float32)


@case("saxpy", flags=["-lineinfo"])
def saxpy(r):
    x, y = normal(r, 1000), normal(r, 1000)
    return "saxpy", [4], [256], 0, [i32(1000), f32(2.5), Buf(x), out(np.float32(2.5) * x + y, 1e-6, 1e-6, y)]


@case("saxpy", flags=["-G"])
def saxpy_debug(r): return saxpy(r)


@case("reduce", keep=True)
def reduce(r):
    x = normal(r, 5000)
    return "reduce", [3], [256], 0, [Buf(x), out(np.array([x.astype(float).sum() + 1], np.float32), 1e-5, 1e-3, np.ones(1, np.float32)), i32(1250)]


@case("grid_sync", keep=True)
def grid_sync(r):
    x = r.integers(0, 100, 512).astype(np.int32)
    want = x
    for _ in range(4): want = np.roll(want, -1) + 1
    return "rounds", [8], [64], 0, [out(want, init=x), out(want + 1000), i32(512)]


@case("reduce", flags=["-G"])
def reduce_debug(r): return reduce(r)


@case("scan", keep=True)
def scan(r):
    x = r.integers(-50, 50, (3, 512), dtype=np.int32)
    c = x.cumsum(1, dtype=np.int32)
    return "scan", [3], [256], 2048, [Buf(x), out(c - x), out(c[:, -1])]


@case("histogram")
def histogram(r):
    x = (r.standard_normal(4001) * 40 + 128).clip(0, 255).astype(np.uint8)
    return "histogram", [5], [128], 0, [Buf(x), u32(4001), out(np.bincount(x, minlength=256).astype(np.uint32), init=np.zeros(256, np.uint32))]


@case("transpose", keep=True, flags=["-G"])
def transpose_u8(r):
    x = r.integers(0, 256, (70, 45), dtype=np.uint8)
    return "transpose_u8", [2, 3], [32, 8], 0, [Buf(x), out(x.T), i32(45), i32(70)]


@case("transpose")
def transpose_f32(r):
    x = normal(r, 33, 65)
    return "transpose_f32", [3, 2], [32, 8], 0, [Buf(x), out(x.T), i32(65), i32(33)]


@case("stencil3d")
def stencil3d(r):
    x = normal(r, 9, 10, 21)
    y = x.astype(float).copy()
    y[1:-1, 1:-1, 1:-1] = 0.5 * x[1:-1, 1:-1, 1:-1] + 0.1 * (x[:-2, 1:-1, 1:-1].astype(float) + x[2:, 1:-1, 1:-1] + x[1:-1, :-2, 1:-1] + x[1:-1, 2:, 1:-1] + x[1:-1, 1:-1, :-2] + x[1:-1, 1:-1, 2:])
    return "stencil3d", [3, 3, 3], [8, 4, 4], 0, [Buf(x), out(y.astype(np.float32), 1e-5, 1e-5), i32(21), i32(10), i32(9), f32(0.5), f32(0.1)]


@case("bitonic", keep=True)
def bitonic(r):
    k = np.stack([r.permutation(1 << 20)[:512] for _ in range(2)]).astype(np.uint32)
    v = r.integers(0, 1 << 32, (2, 512), dtype=np.uint32)
    order = k.argsort(1)
    return "bitonic", [2], [256], 0, [out(np.take_along_axis(k, order, 1), init=k), out(np.take_along_axis(v, order, 1), init=v)]


@case("radix_split")
def radix_split(r):
    k = r.integers(0, 1 << 32, (2, 256), dtype=np.uint32)
    return "radix_split", [2], [256], 0, [out(np.sort(k, 1), init=k)]


@case("matmul", flags=["-lineinfo"])
def matmul_naive(r):
    a, b = normal(r, 19, 23), normal(r, 23, 37)
    return "matmul_naive", [3, 2], [16, 16], 0, [Buf(a), Buf(b), out(a @ b, 1e-5, 1e-4), i32(19), i32(37), i32(23)]


@case("matmul")
def matmul_tiled(r):
    a, b = r.standard_normal((19, 23)), r.standard_normal((23, 37))
    return "matmul_tiled", [3, 2], [16, 16], 0, [Buf(a), Buf(b), out(a @ b, 1e-12, 1e-12), i32(19), i32(37), i32(23)]


def wmma_layouts(r, entry, m, n, acc):
    # Block b: bit 0 B by columns, bit 1 A by columns, bit 2 C and D by columns. Everything has leading dimension 40.
    ld, k = 40, 16
    a, b = (r.standard_normal((40, ld)).astype(np.float16) for _ in range(2))
    c = r.standard_normal((40, ld)).astype(acc)
    d = np.zeros((8, 32, ld), acc)
    for block in range(8):
        A = a[:k, :m].T if block & 2 else a[:m, :k]
        B = b[:n, :k].T if block & 1 else b[:k, :n]
        C = c[:n, :m].T if block & 4 else c[:m, :n]
        D = 2 * A.astype(float) @ B.astype(float) + C.astype(float) + 1
        if block & 4:
            d[block, :n, :m] = D.T
        else:
            d[block, :m, :n] = D
    tol = (1e-5, 1e-5) if acc == np.float32 else (2e-3, 1e-2)
    return entry, [8], [32], 0, [Buf(a), Buf(b), Buf(c), out(d, *tol, init=np.zeros_like(d)), i32(ld)]


@case("wmma_f16")
def wmma_16_16(r): return wmma_layouts(r, "wmma_16_16", 16, 16, np.float32)
@case("wmma_f16", keep=True)
def wmma_32_8(r): return wmma_layouts(r, "wmma_32_8", 32, 8, np.float32)
@case("wmma_f16")
def wmma_8_32(r): return wmma_layouts(r, "wmma_8_32", 8, 32, np.float32)
@case("wmma_f16")
def wmma_16_16_h(r): return wmma_layouts(r, "wmma_16_16_h", 16, 16, np.float16)
@case("wmma_f16", flags=["-G"])
def wmma_8_32_h(r): return wmma_layouts(r, "wmma_8_32_h", 8, 32, np.float16)
@case("wmma_f16", arch="sm_90")
def wmma_32_8_h(r): return wmma_layouts(r, "wmma_32_8_h", 32, 8, np.float16)


@case("wmma_gemm", keep=True)
def wmma_gemm(r):
    a, b = r.standard_normal((64, 48)).astype(np.float16), r.standard_normal((128, 48)).astype(np.float16)
    return "wmma_gemm", [2, 1], [128], 0, [Buf(a), Buf(b), out((a.astype(float) @ b.astype(float).T).astype(np.float32), 1e-5, 1e-4), i32(64), i32(128), i32(48)]


def wmma_types(r, entry, a, b, c, parts, f=lambda x: x, tol=(0, 0)):
    a, b, c, d = a.ravel(), b.ravel(), c.ravel(), []
    at = 0
    for m, n, k, ca, cb, unsigned in parts:
        x, y = (f(v) for v in (a, b))
        if unsigned:
            x, y = x.view(np.uint8), y.view(np.uint8)
        wide = np.int64 if x.dtype.kind in "iu" else float
        A = x[:m * k].reshape((k, m) if ca else (m, k)).astype(wide)
        B = y[:k * n].reshape((n, k) if cb else (k, n)).astype(wide)
        D = (A.T if ca else A) @ (B.T if cb else B) + c[at:at + m * n].reshape(m, n).astype(wide)
        d.append(D.clip(-2**31, 2**31 - 1).ravel() if c.dtype == np.int32 else D.ravel())
        at += m * n
    return entry, [1], [32], 0, [Buf(a), Buf(b), out(np.concatenate(d).astype(c.dtype), *tol, init=c)]


def tf32(x):
    """Nearest, ties away from zero, 10 bits of mantissa."""
    return ((x.view(np.uint32) + np.uint32(0x1000)) & np.uint32(0xffffe000)).view(np.float32)


@case("wmma_types")
def wmma_bf16(r):
    return wmma_types(r, "wmma_bf16", normal(r, 512).astype(bfloat16), normal(r, 512).astype(bfloat16), normal(r, 768),
                      [(16, 16, 16, 0, 0, 0), (32, 8, 16, 1, 0, 0), (8, 32, 16, 0, 1, 0)], tol=(1e-5, 1e-5))
@case("wmma_types")
def wmma_tf32(r):
    return wmma_types(r, "wmma_tf32", normal(r, 128), normal(r, 128), normal(r, 512), [(16, 16, 8, 0, 0, 0), (16, 16, 8, 1, 1, 0)], tf32, (1e-5, 1e-5))
@case("wmma_types")
def wmma_f64(r):
    return wmma_types(r, "wmma_f64", r.standard_normal(32), r.standard_normal(32), r.standard_normal(128), [(8, 8, 4, 0, 1, 0), (8, 8, 4, 1, 0, 0)], tol=(1e-13, 1e-13))
@case("wmma_types", keep=True)
def wmma_s8(r):
    c = r.integers(-1000, 1000, 768, dtype=np.int32)
    c[260:270] = 2**31 - 3
    return wmma_types(r, "wmma_s8", r.integers(-128, 128, 512, dtype=np.int8), r.integers(-128, 128, 512, dtype=np.int8), c,
                      [(16, 16, 16, 0, 0, 0), (32, 8, 16, 1, 1, 0), (8, 32, 16, 0, 0, 1)])


@case("conv2d")
def conv2d(r):
    x = normal(r, 37, 50)
    g = np.array([1, 4, 7, 4, 1, 4, 16, 26, 16, 4, 7, 26, 41, 26, 7, 4, 16, 26, 16, 4, 1, 4, 7, 4, 1.]).reshape(5, 5) / 273
    p = np.pad(x.astype(float), 2)
    y = sum(g[j, i] * p[j:j + 37, i:i + 50] for j in range(5) for i in range(5))
    return "conv2d", [4, 3], [16, 16], 0, [Buf(x), out(y.astype(np.float32), 1e-5, 1e-5), i32(50), i32(37)]


@case("softmax", keep=True, flags=["-use_fast_math"])
def softmax(r):
    x = 4 * normal(r, 7, 77)
    return "softmax", [2], [128], 0, [Buf(x), out(sp.softmax(x.astype(float), 1).astype(np.float32), 1e-4, 1e-7), i32(7), i32(77)]


@case("layernorm", keep=True)
def layernorm(r):
    x, g, b = r.standard_normal((3, 200)).astype(np.float16) * np.float16(3) + np.float16(1), normal(r, 200), normal(r, 200)
    z = x.astype(float)
    y = (z - z.mean(1, keepdims=True)) / np.sqrt(z.var(1, keepdims=True) + 1e-5) * g + b
    return "layernorm", [3], [128], 0, [Buf(x), Buf(g), Buf(b), out(y.astype(np.float16), 1e-3, 1e-3), i32(100), f32(1e-5)]


@case("rng", keep=True)
def rng(r):
    n, seed, M = 256, 0x123456789abcdef, (1 << 64) - 1
    bits, xs, pcg = np.zeros((n, 4), np.uint32), np.zeros(n, np.uint64), np.zeros(n, np.uint32)
    for i in range(n):
        c, k = [i, 0, 7, 9], [seed & 0xffffffff, seed >> 32]
        for _ in range(10):
            p, q = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
            c = [q >> 32 ^ c[1] ^ k[0], q & 0xffffffff, p >> 32 ^ c[3] ^ k[1], p & 0xffffffff]
            k = [(k[0] + 0x9E3779B9) & 0xffffffff, (k[1] + 0xBB67AE85) & 0xffffffff]
        bits[i] = c
        a = (seed + i * 0x9E3779B97F4A7C15) & M
        b = ~a & M
        for _ in range(8):
            t, a = a, b
            t ^= t << 23 & M
            t ^= t >> 17
            b = t ^ b ^ b >> 26
        xs[i] = (a + b) & M
        s = (i * 6364136223846793005 + 1442695040888963407) & M
        x, rot = (s >> 18 ^ s) >> 27 & 0xffffffff, s >> 59
        pcg[i] = (x >> rot | x << (-rot & 31)) & 0xffffffff
    u, v = ((bits[:, 0].astype(np.float32) + np.float32(1)) * np.float32(2.3283064e-10)).astype(float), (bits[:, 1].astype(np.float32) * np.float32(2.3283064e-10)).astype(float)
    rad = np.sqrt(-2 * np.log(np.minimum(u, 1)))
    z = np.stack([rad * np.cos(2 * np.pi * v), rad * np.sin(2 * np.pi * v)], 1).astype(np.float32)
    return "rng", [2], [128], 0, [out(bits), out(xs), out(pcg), out(z, 1e-5, 2e-6), u64(seed)]


@case("bfs")
def bfs(r):
    # Every vertex of the frontier has its own children, so the queue's contents are known up to order; only the levels are compared.
    n = 200
    deg = r.integers(0, 9, n)
    row = np.concatenate([[0], deg.cumsum()]).astype(np.int32)
    col = r.integers(0, n, row[-1]).astype(np.int32)
    frontier = r.permutation(n)[:70].astype(np.int32)
    level = np.full(n, -1, np.int32)
    level[frontier] = 3
    after, found = level.copy(), 0
    for v in frontier:
        for w in col[row[v]:row[v + 1]]:
            if after[w] == -1:
                after[w], found = 4, found + 1
    return "bfs", [1], [128], 0, [Buf(row), Buf(col), out(after, init=level), Buf(frontier), i32(70), Buf(like=np.zeros(n, np.int32)), out(np.array([found], np.int32), init=np.zeros(1, np.int32)), i32(4)]


@case("bytes")
def upper(r):
    text = bytes(r.choice(list(b"abcXYZ z{`@[ "), 1000).tolist())
    return "upper", [8], [128], 0, [out(np.frombuffer(text.upper(), np.uint8), init=np.frombuffer(text, np.uint8)), i32(250), out(np.array([len(text.split())], np.int32), init=np.zeros(1, np.int32)), Buf(np.frombuffer(text, np.uint8)), i32(1000)]


@case("bytes")
def grey(r):
    p = r.integers(0, 256, (300, 3), dtype=np.uint8)
    return "grey", [3], [128], 0, [Buf(p), out(((p.astype(int) @ [77, 150, 29] + 128) >> 8).astype(np.uint8)), i32(300)]


@case("bytes")
def base64(r):
    import base64
    p = r.integers(0, 256, 300, dtype=np.uint8)
    return "base64", [1], [128], 0, [Buf(p), out(np.frombuffer(base64.b64encode(p.tobytes()), np.uint8)), i32(100)]


@case("sha256", keep=True)
def sha256(r):
    m = r.integers(0, 256, (40, 64), dtype=np.uint8)
    d = np.stack([np.frombuffer(hashlib.sha256(x.tobytes()).digest(), np.uint8) for x in m])
    return "sha256", [1], [64], 0, [Buf(m.view(np.uint32)), out(d.view(np.uint32)), i32(40)]


@case("crc_aes")
def crc32(r):
    m = r.integers(0, 256, (512, 13), dtype=np.uint8)
    return "crc32", [2], [256], 0, [Buf(m), i32(13), out(np.array([zlib.crc32(x.tobytes()) for x in m], np.uint32))]


@case("crc_aes", keep=True)
def aes_round(r):
    # FIPS 197 through logarithms in GF(256), another way than the kernel's.
    exp, x = [], 1
    for _ in range(255):
        exp.append(x)
        x ^= x << 1 ^ (0x11b if x & 0x80 else 0)
        x &= 0xff
    log = {v: i for i, v in enumerate(exp)}
    mul = lambda a, b: exp[(log[a] + log[b]) % 255] if a and b else 0
    inv = lambda a: exp[(255 - log[a]) % 255] if a else 0
    rot = lambda v, n: (v << n | v >> (8 - n)) & 0xff
    sbox = [inv(v) ^ rot(inv(v), 1) ^ rot(inv(v), 2) ^ rot(inv(v), 3) ^ rot(inv(v), 4) ^ 0x63 for v in range(256)]
    s = r.integers(0, 256, (50, 4, 4), dtype=np.uint8)  # [column][row]
    s[0] = 0
    o = np.zeros_like(s)
    for t in range(50):
        shifted = [[sbox[s[t][(c + row) % 4][row]] for row in range(4)] for c in range(4)]
        for c in range(4):
            for row in range(4):
                col = shifted[c]
                o[t][c][row] = mul(col[row], 2) ^ mul(col[(row + 1) % 4], 3) ^ col[(row + 2) % 4] ^ col[(row + 3) % 4]
    return "aes_round", [1], [64], 0, [Buf(s), out(o), i32(50)]


@case("mandelbrot")
def mandelbrot(r):
    w, h, limit = 50, 30, 60
    x, y = np.meshgrid(np.arange(w), np.arange(h))
    cr, ci = -2.0 + 3.0 * x / w, -1.5 + 3.0 * y / h
    zr, zi, n, live = np.zeros((h, w)), np.zeros((h, w)), np.zeros((h, w), np.int32), np.ones((h, w), bool)
    for _ in range(limit):
        live &= ~(zr * zr + zi * zi > 4)
        n += live
        zr, zi = np.where(live, zr * zr - zi * zi + cr, zr), np.where(live, 2 * zr * zi + ci, zi)
    return "mandelbrot", [4, 4], [16, 8], 0, [out(n), i32(w), i32(h), i32(limit)]


@case("nbody")
def nbody(r):
    p = normal(r, 128, 4)
    d = p[None, :, :3].astype(float) - p[:, None, :3]
    s = p[None, :, 3] / (np.square(d).sum(2) + 0.01) ** 1.5
    a = np.zeros((128, 4), np.float32)
    a[:, :3] = (d * s[:, :, None]).sum(1)
    return "nbody", [2], [64], 1024, [Buf(p), out(a, 1e-3, 2e-2), i32(128), f32(0.01)]


def black_scholes(r, entry, t, rtol, flags=None):
    s, k, y = (r.uniform(a, b, 300).astype(t) for a, b in ((5, 30), (1, 100), (0.25, 10)))
    S, K, Y, rate, v = s.astype(float), k.astype(float), y.astype(float), np.float64(t(0.02)), np.float64(t(0.3))
    d1 = (np.log(S / K) + (rate + 0.5 * v * v) * Y) / (v * np.sqrt(Y))
    d2 = d1 - v * np.sqrt(Y)
    call = S * sp.ndtr(d1) - K * np.exp(-rate * Y) * sp.ndtr(d2)
    put = K * np.exp(-rate * Y) * sp.ndtr(-d2) - S * sp.ndtr(-d1)
    scalar = f32 if t == np.float32 else f64
    return entry, [3], [128], 0, [Buf(s), Buf(k), Buf(y), out(call.astype(t), rtol, rtol * 100), out(put.astype(t), rtol, rtol * 100), i32(300), scalar(0.02), scalar(0.3)]


@case("black_scholes")
def bs_f32(r): return black_scholes(r, "bs_f32", np.float32, 2e-6)
@case("black_scholes", keep=True, flags=["-use_fast_math"])
def bs_f32_fast(r): return black_scholes(r, "bs_f32", np.float32, 2e-5)
@case("black_scholes")
def bs_f64(r): return black_scholes(r, "bs_f64", np.float64, 1e-13)


def planes(values, t):
    """What `put` of the kernels writes: one plane for each function."""
    return np.stack([np.asarray(v).astype(t) for v in values])


def math_h(r, entry, t, rtol):
    import math
    n, w = 64, np.float64
    x, y = (r.standard_normal(n) * 5).astype(t), (r.standard_normal(n) * 3).astype(t)
    x[:4], y[:4] = [0.5, 2.5, -1.5, 3], [1.25, -0.5, 2, 3]
    # The kernel's own small steps, rounded as it rounds them.
    ax = np.abs(x)
    p, u = ax + t(1e-3), x / (t(1) + ax)
    X, Y, P, U = (v.astype(w) for v in (x, y, p, u))
    one = np.vectorize
    fr, ex = np.frexp(x)
    away = lambda v: np.copysign(np.floor(np.abs(v) + 0.5), v)
    rem = one(math.remainder)(X, Y)
    quo = np.rint(X / Y)
    quo3 = np.where(quo < 0, -(np.abs(quo).astype(int) & 7), np.abs(quo).astype(int) & 7).astype(int) & 7
    ip = np.trunc(X)
    v = [np.sin(X), np.cos(X), np.tan(X), np.arcsin(U), np.arccos(U), np.arctan(X), np.arctan2(X, Y),
         np.sinh(U), np.cosh(U), np.tanh(X), np.arcsinh(X), np.arccosh((t(1) + p).astype(w)), np.arctanh(U),
         np.exp((u * t(10)).astype(w)), np.exp2((u * t(10)).astype(w)), 10 ** U, np.expm1(U), np.log(P), np.log2(P), np.log10(P), np.log1p(P), np.floor(np.log2(P)),
         P ** U, U ** 3, np.sqrt(P), 1 / np.sqrt(P), np.cbrt(X), 1 / np.cbrt(P), np.hypot(X, Y), 1 / np.hypot(P, Y), np.sqrt(X * X + Y * Y + P * P),
         sp.erf(U), sp.erfc((u * t(3)).astype(w)), sp.erfinv(U), sp.erfcx(U), sp.ndtr(U), sp.gamma((p * t(0.01) + t(0.5)).astype(w)), sp.gammaln(P),
         np.fmod(X, Y), rem, rem, quo3,
         np.floor(X), np.ceil(X), np.trunc(X), away(X), np.rint(X), np.rint(X), np.rint(X), away(X),
         np.maximum(X - Y, 0), np.minimum(X, Y), np.maximum(X, Y), X * Y + U, np.copysign(P, X), np.nextafter(x, y), np.floor(np.log2(P)),
         fr, ex, U * 32, U / 8, X - ip, ip, np.sin(X), np.cos(X), np.sin(np.pi * U), np.cos(np.pi * U),
         sp.j0(P), sp.j1(P), sp.y0(P), sp.y1(P), sp.i0(U), sp.i1(U),
         np.isnan(X), np.isinf(X), np.signbit(X)]
    return entry, [1], [64], 0, [Buf(x), Buf(y), out(planes(v, t), rtol, rtol), i32(n)]


@case("math_h", keep=True, flags=["-DF32"])
def math_f32(r): return math_h(r, "math_f32", np.float32, 4e-6)
@case("math_h")
def math_f64(r): return math_h(r, "math_f64", np.float64, 5e-14)
@case("math_h", flags=["-G"])
def math_f64_debug(r): return math_h(r, "math_f64", np.float64, 5e-14)


def directed(x, t, mode):
    """f64 to a narrower type, rounded down or up or toward zero."""
    with np.errstate(over="ignore"):
        near = x.astype(t)
        back = near.astype(np.float64)
        bits = near.view(np.int16)
        below, above = np.where(near > 0, bits - 1, np.where(near < 0, bits + 1, -32767)), np.where(near > 0, bits + 1, np.where(near < 0, bits - 1, 1))
        down = np.where(back > x, below, bits).astype(np.int16).view(t)
        up = np.where(back < x, above, bits).astype(np.int16).view(t)
    return {"d": down, "u": up, "z": np.where(x > 0, down.astype(np.float64), up.astype(np.float64)).astype(t)}[mode]


@case("half_ops", keep=True)
def half_ops(r):
    n, h = 128, np.float16
    x, y = (r.standard_normal(n) * 3).astype(h), r.standard_normal(n).astype(h)
    p = (np.abs(x) + h(0.01)).astype(h)
    X, Y, P = (v.astype(float) for v in (x, y, p))
    sat = lambda v: np.clip(v.astype(h), 0, 1)
    relu = lambda v: np.maximum(v.astype(h), 0)
    s = (X.astype(np.float32) * np.float32(1.7)).astype(float)
    pick = lambda c, a, b: np.where(c, a, b)
    v = [X + Y, X - Y, X * Y, X / P, X * Y + P, sat(X + Y), sat(X - Y), sat(X * Y), sat(X * Y + P), relu(X * Y + P), -X, np.abs(X), np.minimum(X, Y), np.maximum(X, Y),
         np.minimum(X, Y), np.maximum(X, Y), np.sqrt(P), 1 / np.sqrt(P), 1 / P, np.exp(X), np.exp2(X), 10 ** X, np.log(P), np.log2(P), np.log10(P), np.sin(X), np.cos(X), np.tanh(X), np.tanh(X),
         np.floor(X), np.ceil(X), np.trunc(X), np.rint(X), s.astype(h), directed(s, h, "z"), directed(s, h, "u"), directed(s, h, "d"),
         np.rint(X), np.trunc(X), np.floor(X), np.ceil(X), np.rint(X), np.trunc(P), np.rint(X), np.ceil(P), X,
         pick(x.view(np.uint16) & 1, X, Y), pick(X < Y, X, Y), pick(X >= Y, X, Y), X, pick(X == Y, P, X), pick(X != Y, P, X)]
    return "half_ops", [2], [64], 0, [Buf(x), Buf(y), out(planes(v, h), 2e-3, 2e-3), i32(n)]


@case("half_ops", arch="sm_90")
def half2_ops(r):
    n, h = 96, np.float16
    x, y = (r.standard_normal((n, 2)) * 2).astype(h), r.standard_normal((n, 2)).astype(h)
    X, Y = x.astype(float), y.astype(float)
    sat, relu = lambda v: np.clip(v.astype(h), 0, 1), lambda v: np.maximum(v.astype(h), 0)
    pair = lambda a, b: np.stack([a, b], 1)
    (xl, xh), (yl, yh) = X.T, Y.T
    complex_madd = pair(xl * yl - xh * yh + xl, xl * yh + xh * yl + xh)
    v = [X + Y, X - Y, X * Y, X * Y + X, sat(X + Y), sat(X * Y + X), relu(X * Y + X), -X, np.abs(X), np.minimum(X, Y), np.maximum(X, Y), np.minimum(X, Y), np.maximum(X, Y),
         pair(xl, yl), pair(xh, yh), pair(xh, xl), pair(xl, xl), pair(yh, yh), pair(xh, yl), X < Y, X >= Y, X == Y, X > Y, X != Y, pair(xl, yh),
         complex_madd, np.sqrt(np.abs(X)), np.exp2(X), np.floor(X), np.rint(X), np.where((X > Y).all(1, keepdims=True), X, Y), X < Y]
    return "half2_ops", [3], [32], 0, [Buf(x), Buf(y), out(planes(v, h), 2e-3, 4e-3), i32(n)]


@case("half_ops", arch="sm_90")
def bf16_ops(r):
    n, h = 128, bfloat16
    x, y = (r.standard_normal(n) * 3).astype(h), r.standard_normal(n).astype(h)
    X, Y = x.astype(float), y.astype(float)
    P, s = np.abs(X), (X.astype(np.float32) * np.float32(1.7)).astype(float)
    vx, vy = X, Y
    w, wy = (vx * vx - vx).astype(h).astype(float), (vy * vy - vy).astype(h).astype(float)
    v = [X + Y, X - Y, X * Y, X * Y + P, np.maximum(X * Y + P, 0), -X, P, np.minimum(X, Y), np.maximum(X, Y), np.maximum(X, Y),
         s.astype(h), directed(s, h, "z"), directed(s, h, "u"), directed(s, h, "d"), np.trunc(X), X / 3, np.where(X < Y, X, Y), np.sqrt(P), np.exp2(X), np.floor(X), np.tanh(X), np.clip(X + Y, 0, 1),
         w, wy, np.maximum(vx, w), np.abs(wy)]
    return "bf16_ops", [2], [64], 0, [Buf(x), Buf(y), out(planes(v, h), 8e-3, 1e-3), i32(n)]


@case("cache_hints", keep=True)
def cache_hints(r):
    # 32 threads copy 32 elements of each size; the rest of each 512-byte slot stays as it was.
    sizes = [1, 2, 4, 8, 4, 8, 2, 4, 4, 8, 8, 16, 16, 16, 16]
    x = r.integers(0, 256, len(sizes) * 6 * 512, dtype=np.uint8)
    y = np.zeros_like(x)
    for i, size in enumerate(sizes):
        for l in range(6):
            at = (i * 6 + l) * 512
            y[at:at + 32 * size] = x[at:at + 32 * size]
    return "cache_hints", [1], [32], 0, [Buf(x), out(y, init=np.zeros_like(x))]


def signed(v): return ((int(v) + 2**31) & 0xffffffff) - 2**31


def groups_case(r):
    n = 128
    x = r.integers(0, 100, n, dtype=np.int32)
    rows = []
    for i in range(n):
        lane, w0 = i % 32, i - i % 32
        W, e0, q0 = x[w0:w0 + 32], i - i % 8, i - i % 4
        E, Q, v = x[e0:e0 + 8], x[q0:q0 + 4], int(x[i])
        row = [W.sum(), E.max(), Q.min(), W[:lane + 1].sum(), E[:i % 8].sum(),
               E[3], E[i % 8 - 2] if i % 8 >= 2 else v, Q[i % 4 ^ 1], i % 64 // 8, i % 4,
               (W > 90).any(), (E > 10).all(), sum(int(b & 1) << k for k, b in enumerate(E)), sum(int((b & 3) == (v & 3)) << k for k, b in enumerate(Q))]
        A = [int(b) for b in W if b % 3 == 0]
        if v % 3 == 0:
            k = sum(1 for b in W[:lane] if b % 3 == 0)
            row += [len(A), k, A[0], sum(A), A[k + 1] if k + 1 < len(A) else v]
        else:
            row += [-1] * 5
        L = [int(b) for b in W if b % 4 == v % 4]
        B = [int(b) for b in W if (b & 4) == (v & 4)]
        row += [len(L), int(np.bitwise_xor.reduce(L)), sum(1 for b in W[:lane] if (b & 4) == (v & 4)), sum(B), i // 64 * 1000 + i % 64]
        rows.append(row)
    return "groups", [2], [64], 0, [Buf(x), out(np.array(rows, np.int32).T), i32(n)]


@case("groups", keep=True)
def groups(r): return groups_case(r)
@case("groups", flags=["-G"])
def groups_debug(r): return groups_case(r)
@case("groups", arch="sm_90")
def groups_90(r): return groups_case(r)


def cub_block_case(r):
    x = r.integers(-1000, 1000, (2, 512), dtype=np.int32)
    return "cub_block", [2], [128], 0, [Buf(x), out(np.sort(x, 1)), out(x.cumsum(1, dtype=np.int32)), out(x.sum(1, dtype=np.int32)),
                                        out(np.stack([np.bincount(b & 15, minlength=16) for b in x]).astype(np.uint32)), out(x.reshape(2, 4, 32, 4)[:, :, :, 0].max(2).astype(np.float32))]


@case("cub_block", keep=True)
def cub_block(r): return cub_block_case(r)
@case("cub_block", arch="sm_90")
def cub_block_90(r): return cub_block_case(r)


@case("cub_more")
def cub_more(r):
    k = np.floor(r.uniform(0, 40, (2, 192))).astype(np.float32)
    order = k.argsort(1, kind="stable")
    d = (k.astype(int) // 4)
    heads = np.concatenate([np.ones((2, 1), np.int32), (d[:, 1:] != d[:, :-1]).astype(np.int32)], 1)
    first = k[:, ::3].astype(float)
    scans = np.concatenate([np.full((2, 1), -1e300), np.maximum.accumulate(first, 1)[:, :-1]], 1)
    w = (k[:, 1::3] * np.float32(1e6)).astype(np.int64).reshape(2, 2, 32).cumsum(2)
    return "cub_more", [2], [64], 0, [Buf(k), out(np.take_along_axis(k, order, 1)), out((order + np.array([[0], [192]])).astype(np.int32)), out(heads), out(scans), out(w)]


@case("atomics", keep=True, arch="sm_90")
def atomics_90(r): return atomics_case()
@case("atomics")
def atomics(r): return atomics_case()


def atomics_case():
    T = np.arange(256, dtype=np.int64)
    v = T * 7919 % 1009 - 300
    h = (T * 2654435761 & 0xffffffff)
    X = lambda a: int(np.bitwise_xor.reduce(a))
    i0 = np.array([10, 2**31 - 1, -2**31, 0, 5, 0, 0, -1, 0, 0], np.int32)
    i1 = [10 + v.sum(), v.min(), v.max(), signed(X(h)), 5 - v.sum(), 256, 512, 42, 1, 1]
    u0 = np.array([0xffffffff, 0, 0, 0, 0], np.uint32)
    inc = lambda x, lim: 0 if x >= lim else x + 1
    dec = lambda x, lim: lim if x == 0 or x > lim else x - 1
    a = b = 0
    wrap = 0
    for _ in range(256): a, b = inc(a, 1000), dec(b, 1000)
    for _ in range(128): wrap = inc(wrap, 99)
    u1 = [0, 0x7fffffff, a, b, 2 * wrap]
    s0 = np.array([2**62, -2**62], np.int64)
    l0 = np.array([0, 2**64 - 1, 0, 2**64 - 1, 0, 0, 2**64 - 1], np.uint64)
    xor = 0
    for t in range(256): xor ^= 0x9E3779B97F4A7C15 * t & (2**64 - 1)
    l1 = [int((v * v).sum()), int((v * v + 5).min()), 255, 0, 2**61 - 1, xor, 42]
    return "atomics", [2], [128], 0, [out(np.array(i1, np.int32), init=i0), out(np.array(u1, np.uint32), init=u0), out(np.array([v.min(), v.max()], np.int64), init=s0), out(np.array(l1, np.uint64), init=l0),
                                      out(np.array([(v & 15).sum(), 3 * 256], np.float32), init=np.zeros(2, np.float32)), out(np.array([0.5 * v.sum(), 0.25 * v.max()]), init=np.array([0, -1e9])),
                                      out(np.array([256], np.float16), init=np.zeros(1, np.float16)), out(np.array([256], bfloat16), init=np.zeros(1, bfloat16)), out(np.array([768], np.uint16), init=np.zeros(1, np.uint16))]


@case("atomic_ref", arch="sm_90")
def atomic_ref_90(r): return atomic_ref_case()
@case("atomic_ref")
def atomic_ref(r): return atomic_ref_case()


def atomic_ref_case():
    T = np.arange(192, dtype=np.int64)
    l = 1
    for _ in range(192): l = (l * 3 + 1) & (2**64 - 1)
    x = int(np.bitwise_xor.reduce(T * 2654435761 & 0xffffffff))
    return "atomic_refs", [3], [64], 0, [out(np.array([T.sum(), 191, 36, 36, 36], np.int32), init=np.array([0, -5, 100, 100, 100], np.int32)), out(np.array([x, 809], np.uint32), init=np.array([0, 5000], np.uint32)),
                                         out(np.array([96, 191], np.float32), init=np.zeros(2, np.float32)), out(np.array([48.0]), init=np.zeros(1)), out(np.array([l], np.uint64), init=np.ones(1, np.uint64)), out(np.array([3], np.int32), init=np.zeros(1, np.int32))]


M32, M64 = 0xffffffff, (1 << 64) - 1


def s32(v): return ((v + 2**31) & M32) - 2**31
def s64(v): return ((v + 2**63) & M64) - 2**63
def quot(a, b): return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)  # toward zero
def left(a, b): return a - b * quot(a, b)


def lanes(v, n, sign):
    """The halves or bytes of a word, least significant first."""
    bits = 32 // n
    parts = [v >> bits * i & (1 << bits) - 1 for i in range(n)]
    return [p - (1 << bits) if sign and p >> bits - 1 else p for p in parts]


def pack(parts):
    bits = 32 // len(parts)
    return sum((p & (1 << bits) - 1) << bits * i for i, p in enumerate(parts))


def simd(n, sign, f, x, y=0):
    return pack([f(a, b) for a, b in zip(lanes(x, n, sign), lanes(y, n, sign))])


def clamp(n, sign):
    bits = 32 // n
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if sign else (0, (1 << bits) - 1)
    return lambda v: max(low, min(high, v))


def byte_perm(x, y, s):
    b = (y << 32 | x).to_bytes(8, "little")
    return int.from_bytes(bytes(b[s >> 4 * i & 7] for i in range(4)), "little")  # without the sign bits of the selectors


def nth_set(mask, base, offset):
    if offset == 0:
        return base if mask >> base & 1 else M32
    places = [i for i in (range(base, 32) if offset > 0 else range(base, -1, -1)) if mask >> i & 1]
    return places[abs(offset) - 1] if len(places) >= abs(offset) else M32


def clz(v, bits): return bits - v.bit_length()
def ffs(v): return (v & -v).bit_length()
def brev(v, bits): return int(format(v, f"0{bits}b")[::-1], 2)


@case("int_ops", keep=True)
def int_ops(r): return int_case(r)
@case("int_ops", arch="sm_90")
def int_ops_90(r): return int_case(r)


def int_case(r):
    n = 96
    xs, ys = r.integers(0, 1 << 32, n, dtype=np.uint32), r.integers(0, 1 << 32, n, dtype=np.uint32)
    xs[:8], ys[:8] = [0, M32, 0x80000000, 0x80808080, 0x7fffffff, 1, 0x80008000, 5], [0, M32, M32, 0x80808080, 0x80000000, 31, 0x80017fff, 5]
    rows = []
    for x, y in zip(map(int, xs), map(int, ys)):
        a, b = s32(x), s32(y)
        h, ah, bh = x & 63, lanes(x, 2, True), lanes(y, 2, True)
        A, B, UA, UB = lanes(x, 4, True), lanes(y, 4, True), lanes(x, 4, False), lanes(y, 4, False)
        wide, low24 = (x << 32 | y), lambda v: s32((v & 0xffffff) << 8) >> 8
        both = (y << 32 | x)
        t3 = lambda n, sign, f: pack([f(p, q, w) for p, q, w in zip(lanes(x, n, sign), lanes(y, n, sign), lanes(x ^ y, n, sign))])
        w16 = lambda v: ((v + 0x8000) & 0xffff) - 0x8000
        i8, i16 = lambda v: ((v + 128) & 255) - 128, lambda v: ((v + 32768) & 65535) - 32768
        o, o8 = y | 1, (y & 255) | 1
        cmp = lambda n, sign, f: simd(n, sign, lambda p, q: -f(p, q), x, y)
        uh = lanes(x, 2, False)
        uy = lanes(y, 2, False)
        row = [clz(x, 32), ffs(x), bin(x).count("1"), brev(x, 32), a * b >> 32, x * y >> 32, low24(x) * low24(y), (x & 0xffffff) * (y & 0xffffff), abs(a - b) + x, abs(x - y) + x,
               a + b >> 1, a + b + 1 >> 1, x + y >> 1, x + y + 1 >> 1, byte_perm(x, y, x), byte_perm(x, y, y), (both << (x & 31)) >> 32, both >> (y & 31), (both << min(h, 32)) >> 32, both >> min(y & 63, 32),
               sum(p * q for p, q in zip(A, B)) + 5, sum(p * q for p, q in zip(UA, UB)) + 5, ah[0] * B[0] + ah[1] * B[1] + 7, uh[0] * UB[2] + uh[1] * UB[3] + 9,
               x // o, x % o, quot(a, s32(o)), left(a, s32(o)), x // 7, quot(a, -13), left(a, 1000003), x << (y & 31), a >> (y & 31), min(a, b), max(x, y), abs(a),
               nth_set(x, y & 31, 2), (x & 255) + i8(y), i16(x) * i16(y), (x & 0xffff) // ((y & 0xffff) | 1), left(i8(x), i8(i8(y) | 1)), (x >> 5 & 0xff) | (y & 0xfff) << 8]
        add, sub, dif = lambda p, q: p + q, lambda p, q: p - q, lambda p, q: abs(p - q)
        row += [simd(2, 0, add, x, y), simd(4, 0, add, x, y)]
        row += [simd(n, s, lambda p, q: clamp(n, s)(p + q), x, y) for n, s in ((2, 1), (4, 1), (2, 0), (4, 0))]
        row += [simd(2, 0, sub, x, y), simd(4, 0, sub, x, y), simd(4, 1, lambda p, q: clamp(4, 1)(p - q), x, y), simd(2, 0, lambda p, q: clamp(2, 0)(p - q), x, y),
                simd(4, 0, dif, x, y), simd(2, 1, dif, x, y), simd(2, 0, dif, x, y), sum(abs(p - q) for p, q in zip(UA, UB)), sum(abs(p - q) for p, q in zip(ah, bh))]
        row += [simd(4, 0, lambda p, q: p + q + 1 >> 1, x, y), simd(2, 1, lambda p, q: (p + q + (p + q >= 0)) >> 1, x, y), simd(4, 0, lambda p, q: p + q >> 1, x, y), simd(2, 1, max, x, y), simd(4, 0, max, x, y), simd(4, 1, min, x, y), simd(2, 0, min, x, y),
                cmp(4, 0, lambda p, q: p == q), cmp(2, 1, lambda p, q: p > q), cmp(4, 0, lambda p, q: p < q), simd(4, 1, lambda p, q: p >= q, x, y), simd(2, 0, lambda p, q: p != q, x, y),
                simd(2, 1, lambda p, _: abs(p), x), simd(4, 1, lambda p, _: clamp(4, 1)(abs(p)), x), simd(4, 1, lambda p, _: -p, x), simd(2, 1, lambda p, _: clamp(2, 1)(-p), x)]
        vib = [max(p, q) for p, q in zip(uh, uy)]
        low, high = uh[0] >= uy[0], uh[1] >= uy[1]
        row += [max(a, b, 0), min(a, b, s32(x ^ y)), t3(2, 1, lambda p, q, w: max(w16(p + q), w)), t3(2, 0, max), min((x + y) & M32, 77), pack(vib) + high + 2 * low]
        x7, y21, pp = (x << 7 & M64), (y << 21 & M64), (x << 17 | y) & M64
        row += [s64(s32(x) << 20) * s64(s32(y) << 13) >> 64, (x << 31) * (y << 29) >> 64, clz(s64(x7) & M64, 64), ffs(y21), bin(pp).count("1"), brev((x << 9 | y) & M64, 64) >> 11]
        rows.append([int(v) & M32 for v in row])
    return "int_ops", [3], [32], 0, [Buf(xs), Buf(ys), out(np.array(rows, np.uint32).T), i32(n)]


def int64_case(r):
    import math
    n = 64
    xs, ys = (r.integers(0, M64, n, dtype=np.uint64, endpoint=True) >> r.integers(0, 64, n, dtype=np.uint64) for _ in range(2))
    xs[:5], ys[:5] = [0, M64, 1 << 63, 12345, 1 << 32], [0, M64, M64, 1 << 40, (1 << 32) - 1]
    rows = []
    for x, y in zip(map(int, xs), map(int, ys)):
        y |= 1
        a, b = s64(x), s64(y)
        u, i = y & M32 | 1, s32(y & M32 | 1)
        M128 = (1 << 128) - 1
        p = x * y
        q = p + (y << 64 | x) & M128
        t = q - (x << 37) & M128
        s = a * b
        row = [x // y, x % y, quot(a, b), left(a, b), x // 10, quot(a, -1000000007), x % 97, x << (y & 63), x >> (y & 63), a >> (y & 63), p, x // u, quot(a, i),
               p, p >> 64, q, q >> 64, t >> 61, q // (x | 1), q % (y | 3), s >> 64, s < 0, s >> 90, math.gcd(x, y), pow(x % 1000000007, y & 0xffff, 1000000007),
               min(a, b), max(x, y), abs(a)]
        # Conversions saturate where the value does not fit.
        sat_u, sat_s = lambda v: max(0, min(M64, v)), lambda v: max(-2**63, min(2**63 - 1, v))
        f = float(np.float32(a >> 20))
        row += [sat_u(int(float(a))), sat_s(int(f)), sat_u(round(float(x) * 0.5)), sat_s(math.floor(float(np.float32(np.float32(s32(a & M32)) * np.float32(1.5)))))]
        rows.append([int(v) & M64 for v in row])
    return "int64", [2], [32], 0, [Buf(xs), Buf(ys), out(np.array(rows, np.uint64).T), i32(n)]


@case("int64", keep=True)
def int64(r): return int64_case(r)
@case("int64", flags=["-G"])
def int64_debug(r): return int64_case(r)


@case("structs", keep=True)
def structs(r): return structs_case(r)
@case("structs", flags=["-G"])
def structs_debug(r): return structs_case(r)


def structs_case(r):
    # The pointer inside the struct cannot be given by a case: the struct's source is null and n is 0 beyond the check.
    w = normal(r, 5)
    inner = [(3, 4, 1.5), (-7, -2, 0.25)]
    v = [1.0, 2.0, 3.0, 4.0]
    n = 50
    b = bytearray(104)
    struct.pack_into("<i5f", b, 0, n, *w)
    for i, (s, c, d) in enumerate(inner): struct.pack_into("<hbxxxxxd", b, 24 + 16 * i, s, c, d)
    struct.pack_into("<q", b, 56, 5)
    struct.pack_into("<B", b, 64, 200)
    struct.pack_into("<q", b, 72, -3)
    i = np.arange(n)
    even = i % 2 == 0
    y = np.float32(i * w[i % 5].astype(float) + np.where(even, 1.5 * 3, 0.25 * -7) - 2 - 9 + np.where(i & 2, v[0] + v[3], v[1] * v[2]) + 1234 + 200 - 3)
    return "structs", [2], [32], 0, [raw(bytes(b[:80])), raw(struct.pack("<b", -9)), raw(struct.pack("<4f", *v)), raw(struct.pack("<h", 1234)), out(y, 1e-5, 1e-3), raw(b"\1")]


@case("locals", keep=True)
def locals_stack(r): return locals_case(r)
@case("locals", flags=["-G"])
def locals_stack_debug(r): return locals_case(r)


def locals_case(r):
    n = 100
    x = normal(r, n)
    program = np.array([0, 5, 3, 1, 2, 7, 0, 6, 9, 10, 4, 0, 8, 2, 1, 0, 3, 9, 5, 2], np.uint8)
    f, stack = np.float32, []
    for op in program:
        pop = stack.pop
        if op == 0: stack.append(x)
        elif op == 1: stack.append(np.arange(n).astype(f))
        elif op == 2: stack.append(pop() + pop())
        elif op == 3: stack.append(pop() * pop())
        elif op == 4: a = pop(); stack.append(pop() - a)
        elif op == 5: stack += [stack[-1]]
        elif op == 6: stack.append(np.abs(pop()))
        elif op == 7: stack.append(np.sqrt(np.abs(pop())))
        elif op == 8: stack.append(np.floor(pop()))
        elif op == 9: stack.append(np.maximum(pop(), pop()))
        else: stack.append(np.ones(n, f))
    med = np.median(x[(np.arange(n)[:, None] + 37 * np.arange(9)) % n], 1)
    return "locals", [4], [32], 0, [Buf(x), Buf(program), i32(len(program)), out(stack[-1], 1e-6, 1e-6), out(med.astype(f)), i32(n)]


@case("switches", keep=True)
def switches(r): return switches_case(r)
@case("switches", flags=["-G"])
def switches_debug(r): return switches_case(r)


def switches_case(r):
    n, text = 128, r.integers(0, 256, 101, dtype=np.uint8)
    length, res = len(text), []
    for i in range(n):
        state, acc, early = i % 7, 0, False
        for k in range(length):
            c = int(text[(i * 13 + k) % length])
            if state == 0: state = c & 3; acc = s32(acc + c)
            elif state == 1:
                if c & 1: state = 4; acc = s32(acc ^ c << 3)
                else: state = 2
            elif state == 2: acc = s32(acc - k); state = c % 5
            elif state == 3:
                if left(acc, 3) == 0: acc = s32(acc * 5 + 1); continue
                state = 5
            elif state == 4:
                for j in range(min(c & 7, 5)): acc = s32(acc + j * k)
                state = 6
            elif state == 5: acc = s32((acc << 2) | (acc >> 27 & 3)); state = (c >> 4) % 7
            else:
                if acc == 12345: early = True; break
                state = 0; acc = s32(acc + 7)
        if early: res.append(-1); continue
        m = acc & 15
        acc = {0: lambda a: a + 3, 1: lambda a: a * 3, 2: lambda a: a ^ 0x55, 3: lambda a: a - 9, 4: lambda a: ~a, 5: lambda a: a << 1, 6: lambda a: a >> 1, 7: lambda a: (a | 64) + 11, 8: lambda a: a + 11,
               9: lambda a: a & 0xffff, 11: lambda a: a + i, 13: lambda a: -a}.get(m, lambda a: a + 100)(acc)
        res.append(s32(acc))
    return "switches", [2], [64], 0, [Buf(text), i32(length), out(np.array(res, np.int32)), i32(n)]


@case("inline_asm", keep=True)
def inline_asm(r):
    n = 96
    xs, ys = r.integers(0, 1 << 32, n, dtype=np.uint32), r.integers(0, 1 << 32, n, dtype=np.uint32)
    xs[:6], ys[:6] = [0, M32, 0x80000000, 1, 0x7f80ff01, 5], [0, M32, M32, 32, 0x80000000, 5]
    rows = []
    for i, (x, y) in enumerate(zip(map(int, xs), map(int, ys))):
        z = x * 2654435761 & M32 ^ y
        row, a, b = [], s32(x), s32(y)
        add = x + y
        row += [add, x + z + (add >> 32), (x + z + (add >> 32)) >> 32]
        sub = x - y
        row += [sub, x - z - (sub < 0), -(x - z - (sub < 0) < 0)]
        lo = (x * y & M32) + z
        hi = (x * y >> 32) + z + (lo >> 32)
        row += [lo, hi, hi >> 32]
        row += [(x & y) | (x & z) | (y & z), sum(((0x5D >> (4 * (x >> k & 1) + 2 * (y >> k & 1) + (z >> k & 1))) & 1) << k for k in range(32))]
        pos, length = y & 255, z & 255
        row.append(x >> pos & (1 << length) - 1 if pos < 32 else 0)
        pos, length = y & 63, z & 63
        msb = 31
        sign = 0 if length == 0 else (x >> min(pos + length - 1, msb)) & 1
        row.append(sum((((x >> pos + k) & 1) if k < length and pos + k <= msb else sign) << k for k in range(32)))
        p, q = z & 31, x & 31
        m = ((1 << q) - 1) << p & M32
        row.append(y & ~m | x << p & m)
        v = x >> (y & 31)
        row.append(v.bit_length() - 1)
        sx = a >> (y & 31)
        top = (~sx if sx < 0 else sx).bit_length() - 1
        row.append(31 - top if top >= 0 else -1)
        both = (y << 32 | x).to_bytes(8, "little")
        row.append(int.from_bytes(bytes(both[((z & 3) + k) % 8] for k in range(4)), "little"))
        row.append((x >> 16 * (z & 1) & 0xffff) * 0x10001)
        length = y & 31
        row.append(0 if length == 0 else s32(x << 32 - length & M32) >> 32 - length)
        row.append(((1 << min(y & 63, 32)) - 1) << (x & 63) if (x & 63) < 32 else 0)
        row.append(10 if a < b else 25)  # q is the combination with the opposite
        row.append(int((x > y) ^ (not x == y)))
        row += [M32 if x > y else 0, x if s32(z) >= 0 else y, int(x & 1 == 0), abs(a - b) + z]
        row.append(((y << 32 | x) << min(z & 63, 32)) >> 32)
        row.append(clamp(1, True)(a + b))
        row.append(abs((x >> 8 & 255) - (y >> 16)) + s32(z))
        row.append((lanes(x, 2, True)[0] * (y >> 24) + s32(z)) >> 7)
        row.append(simd(4, True, max, x, y))
        row.append(sum(abs(p - q) for p, q in zip(lanes(x, 4, False), lanes(y, 4, False))) + z)
        row.append(pack([int(p < q) for p, q in zip(lanes(x, 2, True), lanes(y, 2, False))]))
        row.append(x >> 16 | x << 16)
        u8 = lambda v: max(0, min(255, v))
        row.append((z << 16 & M32) | u8(a >> 20) << 8 | u8(b >> 22))
        row.append(nth_set(x, y & 31, (z & 7) - 3))
        row += [i % 32, (1 << i % 32) - 1]
        rows.append([int(v) & M32 for v in row])
    return "inline_asm", [3], [32], 0, [Buf(xs), Buf(ys), out(np.array(rows, np.uint32).T), i32(n)]


@case("warp_ops", keep=True)
def warp_ops(r): return warp_case(r)
@case("warp_ops", flags=["-G"])
def warp_ops_debug(r): return warp_case(r)


def warp_case(r):
    n, rows = 128, []
    x = r.integers(-100, 100, n).astype(np.int32)
    for i in range(n):
        l, V = i % 32, [int(v) for v in x[i - i % 32:i - i % 32 + 32]]
        v, B = V[l], [int(v) for v in x[i - i % 64:i - i % 64 + 64]]
        bits = lambda f, S=range(32): s32(sum(bool(f(V[k])) << k for k in S))
        bit = lambda op, it: s32(int(getattr(np, op).reduce(np.array([w & M32 for w in it], np.uint32))))
        trunc5 = lambda w: left(w, 5)
        same = len({w >> 10 for w in V}) == 1
        row = [any(w > 50 for w in V), all(w > -50 for w in V), len({w > 10 for w in V}) == 1, bits(lambda w: w & 2), bits(lambda w: left(w, 5) == left(v, 5)),
               -1 if same else 0, same, bits(lambda w: left(w, 3) == left(v, 3)),
               sum(V), min(V), s32(max(w & M32 for w in V)), bit("bitwise_and", [w | 3 for w in V]), bit("bitwise_or", [w & 12 for w in V]), bit("bitwise_xor", V),
               V[l * 7 % 32], V[l // 8 * 8 + 3], V[l - 3] if l >= 3 else v, V[l - 1] if l % 4 >= 1 else v, V[l + 5] if l % 16 + 5 < 16 else v, V[l ^ 9], V[l ^ 6],
               s32(V[l ^ 5] << 20 & M32), int((V[l + 2] if l + 2 < 32 else v) * 1.5), int(100 * ((V[l - 4] if l >= 4 else v) * 0.25))]
        if l < 20: row += [sum(V[:20]), bits(lambda w: w > 0, range(20)), V[19 - l], 20]
        else: row += [max(V[20:]), bits(lambda w: w < 0, range(20, 32)), V[51 - l], 12]
        row += [any(w == 77 for w in B), all(w != 1000 for w in B), sum(w & 1 for w in B)]
        rows.append([int(w) for w in row])
    return "warp_ops", [2], [64], 0, [Buf(x), out(np.array(rows, np.int32).T), i32(n)]


@case("pipeline", keep=True)
def pipeline(r):
    x = normal(r, 2, 5, 128, 4)
    y = x.astype(float).copy()
    y[:, 4, 100:, 2:] = 0  # the last tile's tail is copied only in part
    s = (y[:, :, ::-1] @ [1, 2, 3, 4]).sum(1)
    return "pipeline", [2], [128], 0, [Buf(x), out(s.astype(np.float32), 1e-5, 1e-4), i32(5)]


@case("mma_asm", keep=True)
def mma_asm(r):
    q, k, v = (r.standard_normal(s).astype(bfloat16) for s in ((16, 16), (64, 16), (64, 16)))
    o = sp.softmax(q.astype(float) @ k.astype(float).T / 4, 1) @ v.astype(float)
    return "mma_asm", [1], [32], 0, [Buf(q), Buf(k), Buf(v), out(o.astype(np.float32), 1e-2, 1e-2), i32(64)]


@case("fft")
def fft(r):
    x = (r.standard_normal((2, 256)) + 1j * r.standard_normal((2, 256))).astype(np.complex64)
    y = np.fft.fft(x.astype(complex)).astype(np.complex64)
    return "fft", [2], [128], 0, [out(y.view(np.float32), 1e-5, 1e-4, x.view(np.float32))]


@case("life", keep=True)
def life(r):
    w, h = 3, 20
    x = r.integers(0, 1 << 32, (h, w), dtype=np.uint32)
    bits = np.unpackbits(x.view(np.uint8), axis=1, bitorder="little").astype(int)
    n = sum(np.roll(bits, (a, b), (0, 1)) for a in (-1, 0, 1) for b in (-1, 0, 1) if a or b)
    y = np.packbits(((n == 3) | (bits == 1) & (n == 2)).astype(np.uint8), axis=1, bitorder="little").view(np.uint32)
    return "life", [1, 3], [4, 8], 0, [Buf(x), out(y), i32(w), i32(h)]


@case("spmv")
def spmv(r):
    a = np.where(r.random((50, 70)) < 0.2, r.standard_normal((50, 70)), 0)
    ptr = np.concatenate([[0], (a != 0).sum(1).cumsum()]).astype(np.int32)
    x = r.standard_normal(70)
    return "spmv", [4], [128], 0, [Buf(ptr), Buf(np.nonzero(a)[1].astype(np.int32)), Buf(a[a != 0]), Buf(x), out(a @ x, 1e-12, 1e-12), i32(50)]


@case("edit_distance", keep=True)
def edit_distance(r):
    stride, res, lens = 24, [], []
    a, b = r.integers(97, 100, (3, stride)).astype(np.int8), r.integers(97, 100, (3, stride)).astype(np.int8)
    for k, (n, m) in enumerate(((24, 24), (17, 5), (1, 20))):
        d = np.zeros((n + 1, m + 1), int)
        d[:, 0], d[0] = np.arange(n + 1), np.arange(m + 1)
        for i in range(1, n + 1):
            for j in range(1, m + 1):
                d[i, j] = min(d[i - 1, j] + 1, d[i, j - 1] + 1, d[i - 1, j - 1] + (a[k, i - 1] != b[k, j - 1]))
        res.append(d[n, m])
        lens += [n, m]
    return "edit_distance", [3], [16], 3 * 25 * 2, [Buf(a), Buf(b), Buf(np.array(lens, np.int32)), out(np.array(res, np.int32)), i32(stride)]


def cholesky(r, t, tol):
    g = r.standard_normal((2, 16, 16))
    a = (g @ g.transpose(0, 2, 1) + 16 * np.eye(16)).astype(t)
    return "cholesky_" + NAMES[np.dtype(t).name], [2], [16, 16], 0, [out(np.linalg.cholesky(a.astype(float)).astype(t), tol, tol, a)]


@case("cholesky")
def cholesky_f32(r): return cholesky(r, np.float32, 1e-5)
@case("cholesky", flags=["-G"])
def cholesky_f64(r): return cholesky(r, np.float64, 1e-13)


@case("compact", keep=True)
def compact(r):
    x = np.stack([r.permutation(2000)[:256] - 1000 for _ in range(2)]).astype(np.int16)
    y = np.zeros_like(x)
    kept = [[v for v in row if abs(int(v)) % 3 != 0 and v > -500] for row in x]
    for row, k in zip(y, kept): row[:len(k)] = k
    return "compact", [2], [256], 0, [Buf(x), out(y, init=np.zeros_like(y)), out(np.array([len(k) for k in kept], np.int32)), out(np.sort(x, 1)[:, :-9:-1].copy())]


@case("complex")
def complex_ops(r):
    n = 70
    a, b = (r.standard_normal(n) + 1j * r.standard_normal(n) for _ in range(2))
    q = r.standard_normal((n, 4)).astype(np.float32)
    u, v = q.astype(float), np.roll(q, -1, 0).astype(float)
    w = np.stack([u[:, 0] * v[:, 0] - (u[:, 1:] * v[:, 1:]).sum(1), *(u[:, :1] * v[:, 1:] + v[:, :1] * u[:, 1:] + np.cross(u[:, 1:], v[:, 1:])).T], 1)
    w /= np.linalg.norm(w, axis=1, keepdims=True)
    total = 1e-8 * 49 * 50 / 2
    return "complex_ops", [3], [32], 0, [Buf(a.view(float)), Buf(b.view(float)), out((a * b + a / b).view(float), 1e-12, 1e-12), out(np.abs(a * b + a.conj()), 1e-12, 1e-12), Buf(q), out(w.astype(np.float32), 1e-5, 1e-6),
                                         out(np.tile([total, 0.0], n), 0, 1e-14), i32(n)]


@case("fp8", arch="sm_90")
def fp8_90(r): return fp8_case(r)
@case("fp8")
def fp8(r): return fp8_case(r)


def fp8_case(r):
    from ml_dtypes import float8_e4m3fn, float8_e5m2
    n = 200
    x = (r.standard_normal((n, 2)) * 10 ** r.uniform(-4, 2, (n, 2))).astype(np.float32)
    clip = lambda v, top: np.clip(v, -top, top)
    a, b = clip(x, 448).astype(float8_e4m3fn), clip(x, 57344).astype(float8_e5m2)
    half = clip(x[:, 1], 57344).astype(np.float16).astype(float8_e5m2)
    return "fp8", [2], [128], 0, [Buf(x), out(a.view(np.uint8)), out(b.view(np.uint8)), out((a.astype(float) + b.astype(float)).astype(np.float16), 1e-3, 0), out(a[:, 0].astype(np.float32) + half.astype(np.float32), 1e-6, 0), i32(n)]


@case("wide_atomics", keep=True, arch="sm_90")
def wide_atomics(r):
    n = 64
    x = r.integers(0, M64, (2 * n, 2), dtype=np.uint64)
    y = x.copy()
    y[n:] = x[:n]
    # The last exchange is not known, so the pair behind the counter is left out: the kernel checks each against its square.
    return "wide_atomics", [2], [32], 0, [Buf(np.zeros(4, np.uint64)), out(np.ones(n, np.uint64)), out(y, init=x)]


@case("stdlib", keep=True)
def stdlib(r):
    n = 90
    x = r.integers(-60, 60, n, dtype=np.int32)
    v = [int(t) for t in x]
    res, z = [], []
    for i in range(n):
        a = [v[(i * 3 + k * k) % n] for k in range(8)]
        find = lambda s, w: s.index(w) if w in s else None
        at = find(v[:16], a[i & 7])
        rot = s32((v[i] << 3 | (v[i] & M32) >> 29) & M32)
        res.append(s32((max(a) - min(a)) * 100 + bin(a[i % 8] & M32).count("1") * 2 + (v[i] in a) + (-7 if at is None else at) * 10000 + (1 << (v[i] & 255).bit_length()) + clz((v[i] & M32) | 1, 32) + left(rot, 97) & M32))
        c = complex(v[i] * 0.01, 1)
        d = np.exp(c / (2 + 1j))
        z.append((d.real, abs(d * c)))
    return "stdlib", [3], [32], 0, [Buf(x), i32(n), out(np.array(res, np.int32)), out(np.array(z, np.float32), 1e-5, 1e-6)]


@case("radix_match", keep=True)
def radix_match(r):
    n, shift, tiles = 2500, 6, 5
    keys, vals = r.integers(0, 1 << 32, n, dtype=np.uint32), np.arange(n, dtype=np.uint32)
    digit = keys >> shift & 63
    order = np.argsort(digit, kind="stable")
    starts = np.concatenate([[0], np.bincount(digit, minlength=64).cumsum()[:-1]]).astype(np.uint32)
    return "radix_pass", [tiles], [128], 0, [Buf(keys), Buf(vals), out(keys[order]), out(vals[order]), Buf(np.zeros(64 * tiles, np.uint32)), Buf(starts), Buf(np.zeros(1, np.uint32)), i32(n), i32(shift)]


@case("warp_agg", keep=True)
def warp_agg(r):
    n = 1000
    x = r.integers(0, 1000, n, dtype=np.int32)
    p = np.concatenate([x, np.zeros(24, np.int32)]).reshape(-1, 8)
    best = p.sum(1) * 0.5 + p.max(1)
    scanned = p.cumsum(1) - p
    return "filter", [4], [256], 0, [Buf(x), i32(n), Buf(like=np.zeros(n, np.int32)), out(np.array([(x % 3 == 0).sum()], np.int32), init=np.zeros(1, np.int32)),
        out(np.array([x[x & 3 == k].sum() for k in range(4)], np.int32), init=np.zeros(4, np.int32)), out(best.astype(np.float32)), out(scanned.astype(np.int32))]


@case("gemm_bf16", keep=True)
def gemm_bf16(r):
    m, n, k = 64, 64, 64
    a, b = normal(r, m, k).astype(bfloat16), normal(r, k, n).astype(bfloat16)
    return "gemm_bf16", [n // 64, m // 64], [128], 0, [Buf(a), Buf(b), out((a.astype(float) @ b.astype(float)).astype(np.float32), 1e-5, 1e-4), i32(m), i32(n), i32(k)]


@case("gemm_dp4a")
def gemm_dp4a(r):
    m, n, k = 37, 45, 76
    a, b = r.integers(-128, 128, (m, k), dtype=np.int8), r.integers(-128, 128, (n, k), dtype=np.int8)
    scale = (r.random(n) * 2e-3).astype(np.float32)
    c = np.rint((a.astype(np.int32) @ b.astype(np.int32).T).astype(np.float32) * scale).clip(-128, 127).astype(np.int8)
    return "gemm_dp4a", [3, 3], [16, 16], 0, [Buf(a), Buf(b), Buf(scale), out(c), i32(m), i32(n), i32(k // 4)]


@case("fft4")
def fft4(r):
    x = normal(r, 2, 1024, 2)
    y = np.fft.fft(x[..., 0].astype(float) + 1j * x[..., 1])
    return "fft4", [2], [256], 0, [Buf(x), out(np.stack([y.real, y.imag], -1).astype(np.float32), 1e-5, 2e-4)]


@case("philox")
def philox(r):
    n, seed = 300, 0xcafef00d
    i = np.arange(n, dtype=np.uint64); m = np.uint64(M32)
    x, y, z, w = i.copy(), np.full(n, 0x12345678, np.uint64), np.full(n, 7, np.uint64), ~i & m
    k0, k1 = np.uint64(seed), np.uint64(seed ^ 0xdeadbeef)
    for _ in range(10):
        p, q = x * np.uint64(0xD2511F53), z * np.uint64(0xCD9E8D57)
        x, y, z, w = q >> np.uint64(32) ^ y ^ k0, q & m, p >> np.uint64(32) ^ w ^ k1, p & m
        k0, k1 = (k0 + np.uint64(0x9E3779B9)) & m, (k1 + np.uint64(0xBB67AE85)) & m
    words = np.stack([x, y, z, w], 1).astype(np.uint32)
    u = (words >> 8) * 2.0**-24 + 2.0**-25
    a, b = np.sqrt(-2 * np.log(u[:, [0, 2]])), np.float32(6.2831853) * u[:, [1, 3]]
    normals = np.stack([a[:, 0] * np.cos(b[:, 0]), a[:, 0] * np.sin(b[:, 0]), a[:, 1] * np.cos(b[:, 1]), a[:, 1] * np.sin(b[:, 1])], 1)
    return "philox", [2], [64], 0, [out(words), out(normals.astype(np.float32), 1e-4, 4e-6), u32(seed), i32(n)]


@case("halo25d")
def halo25d(r):
    nx, ny, nz = 37, 19, 9
    x = normal(r, nz, ny, nx); c = [0.4, 0.07, -0.02]
    d = x.astype(float); y = c[0] * d
    e = np.pad(d, ((0, 0), (2, 2), (2, 2)), mode="edge")
    for s in (1, 2):
        y = y + c[s] * (np.roll(d, s, 0) + np.roll(d, -s, 0) + e[:, 2:-2, 2 - s:nx + 2 - s] + e[:, 2:-2, 2 + s:nx + 2 + s] + e[:, 2 - s:ny + 2 - s, 2:-2] + e[:, 2 + s:ny + 2 + s, 2:-2])
    return "heat", [3, 3], [16, 8], 0, [Buf(x), out(y.astype(np.float32), 1e-5, 1e-6), i32(nx), i32(ny), i32(nz)]


@case("hash_table", keep=True)
def hash_count(r):
    n = 1500
    keys = r.integers(0, 400, n, dtype=np.uint32) * 7919
    u, inv, cnt = np.unique(keys, return_inverse=True, return_counts=True)
    return "count_keys", [12], [128], 0, [Buf(keys), i32(n), Buf(np.full(512, 2**64 - 1, np.uint64)), u32(511), out(cnt[inv].astype(np.uint32)), Buf(np.zeros(1, np.uint32)), Buf(np.zeros(1, np.uint32))]


@case("shapes", keep=True)
def shapes(r):
    n = 128
    x, kind = r.random(n).astype(np.float32) + 1, r.integers(0, 36, n, dtype=np.int32)
    area = np.where(kind % 3 == 0, np.float32(np.pi) * x * x, np.where(kind % 3 == 1, x * (x + 1), x * x)).astype(float) * np.array([2, 0.5, 1])[kind // 3 % 3]
    sides = np.array([0, 4, 40])[kind % 3] + 2 * (kind % 4) + 3
    return "shapes", [2], [64], 0, [Buf(x), Buf(kind), out(area.astype(np.float32), 2e-6), out(sides.astype(np.int32)), i32(n)]


@case("shapes", flags=["-G"])
def shapes_debug(r): return shapes(r)


@case("tracer")
def tracer(r):
    w, h = 45, 30
    world = [(0, 0, 5, 1, .5), (1.5, .3, 4, .6, .2), (-1.2, -.4, 3.5, .5, .8), (0, -101, 5, 100, .1)]
    world = [[float(np.float32(v)) for v in s] for s in world]
    unit = lambda v: v / np.linalg.norm(v)
    def hit(o, d, t=1e30):
        best = -1
        for i, s in enumerate(world):
            m = o - s[:3]; b = m @ d; q = b * b - (m @ m - s[3] ** 2)
            if q > 0 and 1e-3 < (u := -b - np.sqrt(q)) < t: t, best = u, i
        return best, t
    light = unit(np.array([-1., 2, -1])); img = np.zeros((h, w))
    for y in range(h):
        for x in range(w):
            o, d, weight = np.zeros(3), unit(np.array([(x + .5) / w * 2 - 1, 1 - (y + .5) / h * 2, 1.5])), 1.0
            for _ in range(4):
                i, tt = hit(o, d)
                if i < 0: img[y, x] += weight * .2; break
                p = o + d * tt; n = unit(p - world[i][:3]); lit = max(n @ light, 0)
                if lit > 0 and hit(p, light)[0] >= 0: lit = 0
                img[y, x] += weight * (1 - world[i][4]) * (.1 + lit); weight *= world[i][4]
                d = unit(d - n * 2 * (d @ n)); o = p
    return "trace", [3, 8], [16, 4], 0, [out(img.astype(np.float32), 2e-2, 2e-2), i32(w), i32(h)]


@case("attention")
def attention(r):
    n, d = 64, 64
    q, k, v = (normal(r, n, d).astype(np.float16) for _ in range(3)); scale = np.float32(0.125)
    s = q.astype(float) @ k.astype(float).T * float(scale); s[np.triu_indices(n, 1)] = -np.inf
    p = np.exp(s - s.max(1, keepdims=True)); o = p / p.sum(1, keepdims=True) @ v.astype(float)
    return "attention", [n // 4], [128], 0, [Buf(q), Buf(k), Buf(v), out(o.astype(np.float16), 2e-3, 1e-3), i32(n), f32(scale)]


@case("union_find")
def union_find(r):
    n, m = 300, 260
    e = r.integers(0, n, (m, 2), dtype=np.int32)
    root = np.arange(n)
    while True:
        new = root.copy(); lo = np.minimum(root[e[:, 0]], root[e[:, 1]])
        np.minimum.at(new, e[:, 0], lo); np.minimum.at(new, e[:, 1], lo); new = new[new]
        if (new == root).all(): break
        root = new
    return "components", [1], [256], 0, [Buf(e), i32(m), out(root.astype(np.int32)), i32(n), out(np.bincount(root, minlength=n).astype(np.int32))]


@case("inverse")
def inverse(r):
    n = 20
    a = r.standard_normal((2, n, n))
    return "inverse", [2], [64], n * 2 * n * 8, [Buf(a), out(np.linalg.inv(a), 1e-9, 1e-10), i32(n)]


@case("chacha")
def chacha(r):
    key, nonce, n, counter = r.integers(0, 1 << 32, 8, dtype=np.uint32), r.integers(0, 1 << 32, 3, dtype=np.uint32), 64, 0xfffffff0
    rot = lambda v, k: v << np.uint32(k) | v >> np.uint32(32 - k)
    s = [np.full(n, v, np.uint32) for v in (0x61707865, 0x3320646e, 0x79622d32, 0x6b206574, *key)] + [(counter + np.arange(n)).astype(np.uint64).astype(np.uint32)] + [np.full(n, v, np.uint32) for v in nonce]
    x = [v.copy() for v in s]
    def quarter(a, b, c, d):
        for p, q, w, k in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)): x[p] = x[p] + x[q]; x[w] = rot(x[w] ^ x[p], k)
    for _ in range(10):
        for i in range(4): quarter(i, 4 + i, 8 + i, 12 + i)
        for i in range(4): quarter(i, 4 + (i + 1) % 4, 8 + (i + 2) % 4, 12 + (i + 3) % 4)
    return "chacha", [2], [32], 0, [Buf(key), Buf(nonce), out(np.stack([a + b for a, b in zip(x, s)], 1)), u32(counter)]


@case("chacha", keep=True)
def sha3(r):
    n, length = 40, 77
    m = r.integers(0, 256, (n, length), dtype=np.uint8)
    d = b"".join(hashlib.sha3_256(row.tobytes()).digest() for row in m)
    return "sha3", [1], [n], 0, [Buf(m), out(np.frombuffer(d, np.uint64)), i32(length)]


@case("kmeans")
def kmeans(r):
    n, k = 700, 6
    p, c = normal(r, n, 4), normal(r, k, 4)
    label = ((p[:, None] - c[None]) ** 2).sum(-1).argmin(1)
    sums = np.array([p[label == j].astype(float).sum(0) for j in range(k)]); count = np.bincount(label, minlength=k)
    return "kmeans", [3], [96], k * 36, [Buf(p), i32(n), Buf(c), i32(k), out(label.astype(np.int32)), out(sums.astype(np.float32), 1e-4, 1e-4, np.zeros((k, 4), np.float32)),
        out(count.astype(np.int32), init=np.zeros(k, np.int32)), out(np.zeros(1, np.uint32), init=np.zeros(1, np.uint32)), out((sums / count.clip(1)[:, None]).astype(np.float32), 1e-4, 1e-5)]


@case("warp_topk")
def warp_topk(r):
    rows, n = 6, 333
    x = r.integers(0, 300, (rows, n)).astype(np.float32); x[2, 5] = np.nan; x[3, 100] = np.inf
    y = np.where(np.isnan(x), -np.inf, x)
    order = np.argsort(-y, axis=1, kind="stable")[:, :8]
    return "topk", [3], [64], 0, [Buf(x), out(np.take_along_axis(y, order, 1)), out(order.astype(np.int16)), i32(n)]


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--nvcc", default="nvcc")
    ap.add_argument("--include", action="append", default=[], help="where the CCCL headers are, if nvcc does not find them")
    ap.add_argument("--all", action="store_true", help="every case, not only those kept in the repository")
    ap.add_argument("--out", default=os.path.join(HERE, "..", "crates", "ptx-vm", "tests", "cases"))
    ap.add_argument("names", nargs="*", help="only these")
    args = ap.parse_args()
    for name, (_, _, keep, _, _) in CASES.items():
        if name in args.names or not args.names and (args.all or keep):
            write(os.path.join(args.out, "nvcc_" + name), name, args.nvcc, args.include)
            print(name, flush=True)


if __name__ == "__main__":
    main()
