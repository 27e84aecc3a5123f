"""Triton's matmul and flash attention through the pipeline that makes ptx/manifest.json's figures.

    pip install triton==3.9.0 -r tools/ptx-requirements.txt
    python tools/compare_triton.py --out triton.json
    adacache kernels --arch sm_80 --figures triton.json

Compiles for a GPU that need not be there. The kernels are those of Triton's tutorials (03 matrix multiplication, 06 fused attention) in
their schedule, with their block sizes; a @ w.T as in linear.cu, the attention without causal mask. Head dimensions of Triton's dot are
powers of two, so that 72 costs it 128. `attention` is the tutorial's; `normed` has what our spatial attention does beside: RMSNorm of the keys,
a score times its key's 1/rms as in attention.cu, and 72 of 128 columns. ptxas and nvdisasm are ours for both sides.
"""

import argparse
import json
import pathlib
import re
import subprocess
import sys
import tempfile

import sass
import triton
import triton.language as tl
from compile_ptx import wheel_file
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource


@triton.jit
def matmul(a, w, out, m, n, k, stride_a, stride_w, stride_out, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, GROUP: tl.constexpr):
    # Blocks in groups of rows, for L2.
    pid = tl.program_id(0)
    blocks_m, blocks_n = tl.cdiv(m, BM), tl.cdiv(n, BN)
    group = pid // (GROUP * blocks_n)
    first = group * GROUP
    size = tl.minimum(blocks_m - first, GROUP)
    block_m = first + (pid % (GROUP * blocks_n)) % size
    block_n = (pid % (GROUP * blocks_n)) // size
    rows = (block_m * BM + tl.arange(0, BM)) % m
    columns = (block_n * BN + tl.arange(0, BN)) % n
    inner = tl.arange(0, BK)
    a_at = a + rows[:, None] * stride_a + inner[None, :]
    w_at = w + columns[None, :] * stride_w + inner[:, None]
    acc = tl.zeros((BM, BN), dtype=tl.float32)
    for step in range(0, tl.cdiv(k, BK)):
        x = tl.load(a_at, mask=inner[None, :] < k - step * BK, other=0.0)
        y = tl.load(w_at, mask=inner[:, None] < k - step * BK, other=0.0)
        acc = tl.dot(x, y, acc)
        a_at += BK
        w_at += BK
    row, column = block_m * BM + tl.arange(0, BM), block_n * BN + tl.arange(0, BN)
    tl.store(out + row[:, None] * stride_out + column[None, :], acc.to(tl.bfloat16), mask=(row[:, None] < m) & (column[None, :] < n))


@triton.jit
def attention(q, k, v, out, scale, length, stride, HEAD_DIM: tl.constexpr, NORM: tl.constexpr, D: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr):
    head = tl.program_id(1) * length * stride
    row, d, column = tl.program_id(0) * BM + tl.arange(0, BM), tl.arange(0, D), tl.arange(0, BN)
    inside = d < HEAD_DIM
    if HEAD_DIM < D:
        x = tl.load(q + head + row[:, None] * stride + d[None, :], mask=inside[None, :], other=0.0)
    else:
        x = tl.load(q + head + row[:, None] * stride + d[None, :])
    top = tl.zeros([BM], dtype=tl.float32) - float("inf")
    total = tl.zeros([BM], dtype=tl.float32) + 1.0
    acc = tl.zeros([BM, D], dtype=tl.float32)
    scale *= 1.44269504
    for start in range(0, length, BN):
        if HEAD_DIM < D:
            key = tl.load(k + head + (start + column)[None, :] * stride + d[:, None], mask=inside[:, None], other=0.0)
        else:
            key = tl.load(k + head + (start + column)[None, :] * stride + d[:, None])
        s = tl.dot(x, key)
        if NORM:
            wide = key.to(tl.float32)
            s *= tl.math.rsqrt(tl.sum(wide * wide, 0) / HEAD_DIM + 1e-6)[None, :]
        new = tl.maximum(top, tl.max(s, 1) * scale)
        p = tl.math.exp2(s * scale - new[:, None])
        decay = tl.math.exp2(top - new)
        total = total * decay + tl.sum(p, 1)
        acc = acc * decay[:, None]
        if HEAD_DIM < D:
            value = tl.load(v + head + (start + column)[:, None] * stride + d[None, :], mask=inside[None, :], other=0.0)
        else:
            value = tl.load(v + head + (start + column)[:, None] * stride + d[None, :])
        acc = tl.dot(p.to(tl.bfloat16), value, acc)
        top = new
    tl.store(out + head + row[:, None] * stride + d[None, :], (acc / total[:, None]).to(tl.bfloat16), mask=inside[None, :])


# PTX 8.8: what every ptxas reads, Triton's own and that of ptx-requirements.txt. Triton would write newer PTX for newer chips.
PTX_VERSION = 88
# Block sizes, warps, stages: the tutorials' lists.
MATMUL = [(128, 256, 64, 8, 3), (128, 128, 32, 4, 4), (128, 128, 64, 4, 3), (64, 256, 32, 4, 4), (128, 64, 32, 4, 4)]
ATTENTION = [(128, 64, 4, 3), (128, 64, 8, 3), (128, 32, 4, 3), (64, 64, 4, 3), (128, 128, 8, 3)]
# (name, head dimension, what it costs, with RMSNorm of the keys)
HEADS = [("attention", 64, 64, False), ("attention", 128, 128, False), ("normed", 64, 64, True), ("normed", 72, 128, True)]


def kernels():
    """(name, source, options)"""
    pointers = {i: 16 for i in range(4)}
    for bm, bn, bk, warps, stages in MATMUL:
        types = {"a": "*bf16", "w": "*bf16", "out": "*bf16", "m": "i32", "n": "i32", "k": "i32"}
        types |= {"stride_a": "i32", "stride_w": "i32", "stride_out": "i32"}
        constants = {"BM": bm, "BN": bn, "BK": bk, "GROUP": 8}
        aligned = [0, 1, 2, 5, 6, 7, 8]
        yield f"triton_matmul_{bm}x{bn}x{bk}_w{warps}_s{stages}", source(matmul, types, constants, aligned), warps, stages
    for kind, head_dim, padded, norm in HEADS:
        for bm, bn, warps, stages in ATTENTION:
            types = {"q": "*bf16", "k": "*bf16", "v": "*bf16", "out": "*bf16", "scale": "fp32", "length": "i32", "stride": "i32"}
            constants = {"HEAD_DIM": head_dim, "NORM": norm, "D": padded, "BM": bm, "BN": bn}
            name = f"triton_{kind}_{head_dim}_{bm}x{bn}_w{warps}_s{stages}"
            yield name, source(attention, types, constants, [*pointers, 6]), warps, stages


def source(function, types, constants, aligned):
    signature = types | {name: "constexpr" for name in constants}
    return ASTSource(function, signature, constants, {(i,): [["tt.divisibility", 16]] for i in aligned})


def figures(name, kernel, warps, stages, target, tools):
    """One kernel's figures, as compile_ptx.py records them, with its launch; None where it does not fit the GPU."""
    made = triton.compile(kernel, target=GPUTarget("cuda", target, 32), options={"num_warps": warps, "num_stages": stages, "ptx_version": PTX_VERSION})
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
        file.write(made.asm["ptx"])
        file.flush()
        architecture = re.search(r"^\.target (\w+)", made.asm["ptx"], re.M).group(1) # with an "a" where Triton uses what only this chip has
        binary, report = sass.cubin(tools[0], architecture, file.name)
    (entry, record), = sass.resources(report).items()
    record["loop"] = sass.main_loops(tools[1], binary)[entry]
    record["launch"] = [32 * warps, made.metadata.shared]
    return record


def main():
    parser = argparse.ArgumentParser(description="Figures of Triton's kernels for adacache kernels --figures.")
    parser.add_argument("--out", required=True, type=pathlib.Path)
    parser.add_argument("--arch", default="80,86,89,90,120", help="compute capabilities, 80,90 and so on")
    arguments = parser.parse_args()
    tools = wheel_file("nvidia-cuda-nvcc", "bin/ptxas"), wheel_file("nvidia-cuda-nvdisasm", "bin/nvdisasm")
    entries = {}
    for name, kernel, warps, stages in kernels():
        for target in map(int, arguments.arch.split(",")):
            try:
                record = figures(name, kernel, warps, stages, target, tools)
            except subprocess.CalledProcessError as error:
                print(f"{name} for sm_{target}: {error.stderr.strip().splitlines()[-1]}", file=sys.stderr)
                continue
            entries.setdefault(name, {})[f"sm_{target}"] = record
        print(name, file=sys.stderr)
    arguments.out.write_text(json.dumps({"triton": triton.__version__, "files": {"triton": {"entries": entries}}}, indent=1) + "\n")


if __name__ == "__main__":
    main()
