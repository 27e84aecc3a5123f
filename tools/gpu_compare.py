"""What cuBLAS, PyTorch's fused attention and Triton take for what `adacache bench` measures, at the same shapes on the same GPU.

    python3 tools/gpu_compare.py                            # Open-Sora 1.2 at 720p, 51 frames: what `adacache bench` takes on a GPU
    python3 tools/gpu_compare.py --frames 8 --tokens 64 --channels 128 --heads 2 --quick
    python3 tools/gpu_compare.py --device cpu …             # tries the script; its times are the CPU's

Needs PyTorch; Triton and compare_triton.py where its kernels shall be measured too. Prints one JSON object a line, as soon as it is measured:
who computes, the operation and shape in the words of `adacache bench`, what the other side leaves out or does beside, seconds and work.

Times are taken as in src/bench/measure.rs: `cold` is a single operation after a fill of 256 MiB, which leaves nothing of its arguments in
the L2 cache; `batched` are many, one after the other. Medians, by CUDA events, after a warm-up.
"""

import argparse
import json
import statistics
import sys
import time

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

try:
    import compare_triton
    import triton
except ImportError as error:
    compare_triton, no_triton = None, str(error)

FLUSH_BYTES = 256 << 20
BATCHES = 5
BACKENDS = [("flash", SDPBackend.FLASH_ATTENTION), ("cuDNN", SDPBackend.CUDNN_ATTENTION)]


class Clock:
    """Seconds on a device between two points of its queue."""

    def __init__(self, device, seconds):
        self.gpu = device.type == "cuda"
        self.seconds = seconds
        self.flush = torch.empty(FLUSH_BYTES if self.gpu else 0, dtype=torch.uint8, device=device)

    def once(self, run, count=1):
        if not self.gpu:
            start = time.perf_counter()
            for _ in range(count):
                run()
            return time.perf_counter() - start
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        for _ in range(count):
            run()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) * 1e-3

    def measure(self, run):
        """Warms up, then {cold, batched} medians in seconds with their samples."""
        for _ in range(3):
            run()
        first = max(self.once(run), 1e-9)
        cold = []
        for i in range(min(max(int(self.seconds / first), 5), 200)):
            self.flush.fill_(i)
            cold.append(self.once(run))
        count = min(max(int(self.seconds / first / BATCHES), 1), 1000)
        batched = [self.once(run, count) / count for _ in range(BATCHES)]
        noise = statistics.pstdev(cold) / statistics.mean(cold)
        return {
            "cold_seconds": statistics.median(cold), "cold_samples": len(cold), "cold_noise": noise,
            "batched_seconds": statistics.median(batched), "batched_operations": count,
        }


class Table:
    """Measures and prints rows."""

    def __init__(self, args, device):
        self.args, self.device = args, device
        self.clock = Clock(device, 0.02 if args.quick else 0.3)
        self.clock_name = "CUDA events" if device.type == "cuda" else "wall clock of the CPU, not a GPU's"

    def noise(self, *shape):
        return torch.rand(shape, device=self.device, dtype=torch.bfloat16) * 2 - 1

    def row(self, by, op, shape, prepare, *, flops=0, bytes=0, note=""):
        """`prepare` gives what to run, and perhaps the largest error of its result; what it lacks is a row too."""
        line = {"by": by, "op": op, "shape": shape, "note": note, "flops": flops, "bytes": bytes, "clock": self.clock_name}
        try:
            run, facts = prepare()
            line |= facts | self.clock.measure(run)
        except Exception as error:  # whatever a backend refuses: the others go on
            line["error"] = f"{type(error).__name__}: {error}".strip().splitlines()[0][:300]
        print(json.dumps(line), flush=True)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def ceilings(table):
    """What the chip gives to the best known programs: a copy and a large square product."""
    small = table.args.quick
    count = (64 if small else 2048) << 20
    n = 512 if small else 8192

    def copy():
        source = torch.empty(count, dtype=torch.uint8, device=table.device).fill_(1)
        target = torch.empty_like(source)
        return lambda: target.copy_(source), {}

    def product():
        a, b = table.noise(n, n), table.noise(n, n)
        out = torch.empty_like(a)
        return lambda: torch.mm(a, b, out=out), {}

    table.row("PyTorch", "ceiling", f"copy {count >> 20} MiB", copy, bytes=2 * count)
    table.row("cuBLAS", "ceiling", f"product {n}x{n}x{n}", product, flops=2 * n**3, bytes=6 * n * n)


def linear(table):
    """The products of a block: fused prologue and epilogue are ours alone, but for bias and GELU."""
    args = table.args
    m, c, hidden = args.batch * args.frames * args.tokens, args.channels, args.channels * 4
    shapes = [("bias+adaln", 3 * c, c), ("residual", c, c), ("bias", c, c), ("gelu+adaln", hidden, c), ("residual", c, hidden)]
    for kind, n, k in shapes:
        shape = f"{kind} m={m} n={n} k={k}"
        work = {"flops": 2 * m * n * k, "bytes": 2 * (m * k + n * k + m * n)}

        def cublas():
            a, w, bias = table.noise(m, k), table.noise(n, k), table.noise(n)
            return lambda: F.linear(a, w, bias), {}

        def cublas_gelu():
            a, w, bias = table.noise(m, k), table.noise(n, k), table.noise(n)
            return lambda: F.gelu(F.linear(a, w, bias), approximate="tanh"), {}

        table.row("cuBLAS", "linear", shape, cublas, note="F.linear: product and bias", **work)
        if kind.startswith("gelu"):
            table.row("cuBLAS, then GELU", "linear", shape, cublas_gelu, note="F.linear, F.gelu: two kernels or one, as PyTorch chooses", **work)
        if compare_triton:
            table.row("Triton", "linear", shape, lambda: triton_linear(table, m, n, k), note="the tutorial's product alone, best of its sizes", **work)


def triton_linear(table, m, n, k):
    a, w = table.noise(m, k), table.noise(n, k)
    out = torch.empty(m, n, dtype=torch.bfloat16, device=table.device)

    def launcher(bm, bn, bk, warps, stages):
        grid = (triton.cdiv(m, bm) * triton.cdiv(n, bn),)
        return lambda: compare_triton.matmul[grid](
            a, w, out, m, n, k, k, k, n, BM=bm, BN=bn, BK=bk, GROUP=8, num_warps=warps, num_stages=stages
        )

    rows = slice(0, 64)
    return best(table, compare_triton.MATMUL, launcher, lambda: error_of(out[rows], F.linear(a[rows], w)))


def best(table, choices, launcher, error):
    """The fastest of the choices that run, with its name and the error of what it computes."""
    times = {}
    for choice in choices:
        run = launcher(*choice)
        try:
            run()
            times[choice] = statistics.median(table.clock.once(run) for _ in range(3))
        except Exception as refused:  # too much shared memory for this chip, say
            last = refused
    if not times:
        raise last
    chosen = min(times, key=times.get)
    run = launcher(*chosen)
    run()
    return run, {"config": list(chosen), "max_error": error()}


def error_of(ours, reference):
    return ((ours.float() - reference.float()).abs().max() / reference.float().abs().max()).item()


def attention(table):
    """Fused attention: RMSNorm of queries and keys and rotary positions are ours alone."""
    args = table.args
    b, t, s, h, d = args.batch, args.frames, args.tokens, args.heads, args.channels // args.heads
    sizes = f"batch={b} frames={t} tokens={s} heads={h} head_dim={d}"
    text = args.text
    kinds = [
        (f"spatial {sizes}", b * t, s, s),
        (f"temporal {sizes}", b * s, t, t),
        (f"cross {sizes} text={text}", b, t * s, text),
    ]
    if not args.quick:
        # As src/model/dit/launches.rs: the longest video, over as many rows.
        long, few = 120, -(-t * s // 120)
        kinds.append((f"temporal batch={b} frames={long} tokens={few} heads={h} head_dim={d}", b * few, long, long))
    for shape, sequences, queries, keys in kinds:
        work = {
            "flops": 4 * sequences * h * queries * keys * d,
            "bytes": 4 * sequences * h * (queries + keys) * d,
        }
        for name, backend in BACKENDS:

            def fused():
                q, k, v = (table.noise(sequences, n, h, d).transpose(1, 2) for n in (queries, keys, keys))

                def run():
                    with sdpa_kernel([backend]):
                        F.scaled_dot_product_attention(q, k, v)

                return run, {}

            table.row(f"SDPA {name}", "attention", shape, fused, note="attention alone, [sequence, head] strides as in a projection's output", **work)
    if compare_triton:
        # The tutorial's kernel has no bounds: whole blocks of queries and keys.
        whole = -(-s // 128) * 128
        work = {"flops": 4 * b * t * h * whole * whole * d, "bytes": 8 * b * t * h * whole * d}
        note = f"the tutorial's with RMSNorm of the keys, {whole} in place of {s} tokens (no bounds), best of its sizes"
        table.row("Triton", "attention", kinds[0][0], lambda: triton_attention(table, b * t * h, whole, d), note=note, **work)


def triton_attention(table, heads, length, d):
    q, k, v = (table.noise(heads, length, d) for _ in range(3))
    out = torch.empty_like(q)
    padded = max(16, 1 << (d - 1).bit_length())

    def launcher(bm, bn, warps, stages):
        grid = (length // bm, heads)
        return lambda: compare_triton.attention[grid](
            q, k, v, out, d**-0.5, length, d, HEAD_DIM=d, NORM=True, D=padded, BM=bm, BN=bn, num_warps=warps, num_stages=stages
        )

    def error():
        key = k[:1].float()
        key = key * torch.rsqrt(key.square().mean(-1, keepdim=True) + 1e-6)
        return error_of(out[:1], torch.softmax(q[:1].float() @ key.transpose(1, 2) * d**-0.5, -1) @ v[:1].float())

    return best(table, compare_triton.ATTENTION, launcher, error)


def streaming(table):
    """Passes over the hidden state."""
    args = table.args
    rows, c = args.batch * args.frames * args.tokens, args.channels
    sizes = f"batch={args.batch} frames={args.frames} tokens={args.tokens} channels={c}"

    def norm():
        x, scale, shift = table.noise(rows, c), table.noise(c), table.noise(c)
        return lambda: F.layer_norm(x, (c,), scale, shift), {}

    def add():
        x, y = table.noise(rows, c), table.noise(rows, c)
        out = torch.empty_like(x)
        return lambda: torch.add(x, y, out=out), {}

    table.row("PyTorch", "norm", f"modulate rows={rows} channels={c}", norm, bytes=4 * rows * c, note="F.layer_norm")
    table.row("PyTorch", "residual", f"unfold {sizes}", add, bytes=6 * rows * c, note="torch.add")


def main():
    parser = argparse.ArgumentParser(description="Times of cuBLAS, PyTorch's fused attention and Triton at Open-Sora's shapes.")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--frames", type=int, default=15, help="latent frames")
    parser.add_argument("--tokens", type=int, default=3600, help="of a frame")
    parser.add_argument("--channels", type=int, default=1152)
    parser.add_argument("--heads", type=int, default=16)
    parser.add_argument("--text", type=int, default=300, help="caption tokens")
    parser.add_argument("--quick", action="store_true", help="few samples: to see that everything runs")
    args = parser.parse_args()
    device = torch.device(args.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error("PyTorch sees no GPU; --device cpu tries the script")
    facts = {"torch": torch.__version__, "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        facts |= {"device": properties.name, "multiprocessors": properties.multi_processor_count, "memory": properties.total_memory}
    facts["triton"] = triton.__version__ if compare_triton else f"not measured: {no_triton}"
    print(json.dumps({"facts": facts}), flush=True)
    table = Table(args, device)
    with torch.inference_mode():
        for part in (ceilings, linear, attention, streaming):
            part(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
