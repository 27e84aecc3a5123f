"""Writes a random Wan transformer in a published size, under the official names: bf16, streamed to disk. Needs Python only.

    python tools/random_wan.py DIR                      # DIR/transformer/{config.json,diffusion_pytorch_model.safetensors}: 1.3B, 2.8 GB
    python tools/random_wan.py DIR --model 14b          # 28.6 GB
    python tools/random_wan.py DIR --model ti2v-5b      # 10 GB
"""

import argparse
import json
import math
from pathlib import Path

from tiny_opensora import write_random

SIZES = {
    "1.3b": dict(model_type="t2v", dim=1536, ffn_dim=8960, num_heads=12, num_layers=30, in_dim=16, out_dim=16),
    "14b": dict(model_type="t2v", dim=5120, ffn_dim=13824, num_heads=40, num_layers=40, in_dim=16, out_dim=16),
    "ti2v-5b": dict(model_type="ti2v", dim=3072, ffn_dim=14336, num_heads=24, num_layers=30, in_dim=48, out_dim=48),
}
COMMON = dict(_class_name="WanModel", eps=1e-6, freq_dim=256, text_len=512)
TEXT_DIM, FREQ_DIM = 4096, 256


def tensors(size):
    """Official names with their shapes and the size of their values: ("around", mean, spread)."""
    d, f, channels = size["dim"], size["ffn_dim"], size["in_dim"]

    def linear(name, out, *inputs):
        yield f"{name}.weight", (out, *inputs), ("around", 0.0, 0.7 / math.sqrt(math.prod(inputs)))
        yield f"{name}.bias", (out,), ("around", 0.0, 0.05)

    yield from linear("patch_embedding", d, channels, 1, 2, 2)
    yield from linear("text_embedding.0", d, TEXT_DIM)
    yield from linear("text_embedding.2", d, d)
    yield from linear("time_embedding.0", d, FREQ_DIM)
    yield from linear("time_embedding.2", d, d)
    yield from linear("time_projection.1", 6 * d, d)
    for i in range(size["num_layers"]):
        block = f"blocks.{i}"
        yield f"{block}.modulation", (1, 6, d), ("around", 0.0, 1 / math.sqrt(d))
        for attention in ["self_attn", "cross_attn"]:
            for part in "qkvo":
                yield from linear(f"{block}.{attention}.{part}", d, d)
            for norm in ["norm_q", "norm_k"]:
                yield f"{block}.{attention}.{norm}.weight", (d,), ("around", 1.0, 0.0)
        yield f"{block}.norm3.weight", (d,), ("around", 1.0, 0.0)
        yield f"{block}.norm3.bias", (d,), ("around", 0.0, 0.05)
        yield from linear(f"{block}.ffn.0", f, d)
        yield from linear(f"{block}.ffn.2", d, f)
    yield "head.modulation", (1, 2, d), ("around", 0.0, 1 / math.sqrt(d))
    yield from linear("head.head", 4 * channels, d)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", choices=SIZES, default="1.3b")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    size = SIZES[args.model]
    folder = args.folder / "transformer"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**COMMON, **size}, indent=2))
    write_random(folder / "diffusion_pytorch_model.safetensors", list(tensors(size)), args.seed)


if __name__ == "__main__":
    main()
