"""The transformer of Wan 2.1 (text to video), in plain PyTorch with the official tensor names.

The forward follows the published one, so that weights move freely between this file, published checkpoints and the Rust runtime.
Run as a program it holds itself against reference cases of kind `forward`:

    python tools/wan.py CASE_FOLDER…

Shapes: B samples, N tokens (frame by frame, row by row), D channels of the hidden state, L caption tokens.
"""

import json
import pathlib
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from stdit3 import RMSNorm, attend, check_arguments, modulate, sinusoid

FREQUENCIES = 256


@dataclass
class Config:
    dim: int
    ffn_dim: int
    num_heads: int
    num_layers: int
    in_dim: int
    text_dim: int
    text_len: int

    @classmethod
    def from_dict(cls, fields):
        return cls(**{k: v for k, v in fields.items() if k in cls.__dataclass_fields__})

    @property
    def head_dim(self):
        return self.dim // self.num_heads


def rotations(grid, head_dim):
    """Cosine and sine `[N, head_dim / 2]` of the angle of each adjacent pair: those of the frame first, then of the row, then of the column."""
    third = 2 * (head_dim // 6)
    widths = [head_dim - 2 * third, third, third]
    angles = []
    for axis, width in enumerate(widths):
        theta = 10000.0 ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
        angle = torch.arange(grid[axis], dtype=torch.float64)[:, None] * theta
        shape = [1, 1, 1, len(theta)]
        shape[axis] = grid[axis]
        angles.append(angle.view(shape).expand(*grid, -1))
    angle = torch.cat(angles, -1).flatten(0, 2)
    return angle.cos().float(), angle.sin().float()


def rotate(x, cos, sin):
    """Rotates adjacent pairs of `[B, heads, N, head_dim]`."""
    a, b = x.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2)


def norm(x):
    return F.layer_norm(x.float(), x.shape[-1:], eps=1e-6)


class Attention(nn.Module):
    """Attention whose queries and keys are normalised over all heads together."""

    def __init__(self, config):
        super().__init__()
        self.heads = config.num_heads
        self.q, self.k, self.v, self.o = (nn.Linear(config.dim, config.dim) for _ in range(4))
        self.norm_q, self.norm_k = RMSNorm(config.dim), RMSNorm(config.dim)

    def forward(self, x, context, rope=None):
        split = lambda u: u.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        q, k, v = split(self.norm_q(self.q(x))), split(self.norm_k(self.k(context))), split(self.v(context))
        if rope is not None:
            q, k = rotate(q, *rope), rotate(k, *rope)
        return self.o(attend(q.to(v.dtype), k.to(v.dtype), v).transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self, config):
        super().__init__()
        d = config.dim
        self.modulation = nn.Parameter(torch.randn(1, 6, d) / d**0.5)
        self.self_attn, self.cross_attn = Attention(config), Attention(config)
        self.norm3 = nn.LayerNorm(d, eps=1e-6)
        self.ffn = nn.Sequential(nn.Linear(d, config.ffn_dim), nn.GELU(approximate="tanh"), nn.Linear(config.ffn_dim, d))

    def forward(self, x, time, context, rope):
        m = (self.modulation + time).unsqueeze(2).unbind(1)
        y = modulate(norm(x), m[0], m[1])
        x = x + m[2] * self.self_attn(y, y, rope)
        x = x + self.cross_attn(self.norm3(x), context)
        return x + m[5] * self.ffn(modulate(norm(x), m[3], m[4]))


class Head(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.modulation = nn.Parameter(torch.randn(1, 2, config.dim) / config.dim**0.5)
        self.head = nn.Linear(config.dim, 4 * config.in_dim)

    def forward(self, x, time):
        shift, scale = (self.modulation + time[:, None]).unsqueeze(2).unbind(1)
        return self.head(modulate(norm(x), shift, scale))


class Wan(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        d = config.dim
        self.patch_embedding = nn.Conv3d(config.in_dim, d, (1, 2, 2), (1, 2, 2))
        self.text_embedding = nn.Sequential(nn.Linear(config.text_dim, d), nn.GELU(approximate="tanh"), nn.Linear(d, d))
        self.time_embedding = nn.Sequential(nn.Linear(FREQUENCIES, d), nn.SiLU(), nn.Linear(d, d))
        self.time_projection = nn.Sequential(nn.SiLU(), nn.Linear(d, 6 * d))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.head = Head(config)
        self._initialise()

    def _initialise(self):
        """As published: Xavier for all matrices, small ones for the embeddings, and a head that predicts zeros."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.xavier_uniform_(self.patch_embedding.weight.data.flatten(1))
        for layer in (self.text_embedding[0], self.text_embedding[2], self.time_embedding[0], self.time_embedding[2]):
            nn.init.normal_(layer.weight, std=0.02)
        nn.init.zeros_(self.head.head.weight)

    def forward(self, x, timestep, y, trace=None):
        """Predicts the velocity `[B, C, T, H, W]` from the noisy latent of that shape.

        timestep `[B]` runs over 0..1000; y is `[B, L, text_dim]`, L at most text_len: rows of zeros fill it up.
        `trace(name, hidden)` is called with the hidden states that the reference cases record.
        """
        trace = trace or (lambda name, hidden: None)
        b, c, frames, h, w = x.shape
        rows, columns = h // 2, w // 2
        rope = rotations((frames, rows, columns), self.config.head_dim)
        x = x.view(b, c, frames, rows, 2, columns, 2).permute(0, 2, 3, 5, 1, 4, 6).reshape(b, frames * rows * columns, 4 * c)
        x = F.linear(x, self.patch_embedding.weight.flatten(1), self.patch_embedding.bias)
        trace("patch_embedding", x)
        time = self.time_embedding(sinusoid(timestep, FREQUENCIES))
        projected = self.time_projection(time).unflatten(1, (6, -1))
        trace("time_embedding", time)
        context = self.text_embedding(F.pad(y, (0, 0, 0, self.config.text_len - y.shape[1])))
        for i, block in enumerate(self.blocks):
            x = block(x, projected, context, rope)
            trace(f"blocks.{i}", x)
        x = self.head(x, time).float()
        x = x.view(b, frames, rows, columns, 2, 2, c).permute(0, 6, 1, 2, 4, 3, 5)
        return x.reshape(b, c, frames, h, w)


def check_case(folder):
    """Largest relative error ‖out − ref‖ / ‖ref‖ of a reference case, over its output and traces."""
    from safetensors.torch import load_file

    folder = pathlib.Path(folder)
    case = json.loads((folder / "case.json").read_text())
    io = load_file(str(folder / "io.safetensors"))
    model = Wan(Config.from_dict(case["config"])).eval()
    model.load_state_dict({name: tensor.float() for name, tensor in load_file(str(folder / case["model"])).items()})
    errors = {}

    def compare(name, out):
        if name in io:
            errors[name] = ((out.reshape(io[name].shape) - io[name]).norm() / io[name].norm()).item()

    valid = torch.arange(io["y"].shape[1]) < io["y_lens"][:, None]
    with torch.no_grad():
        compare("out", model(io["x"], io["timestep"].float(), io["y"] * valid[..., None], lambda name, hidden: compare(f"trace.{name}", hidden)))
    return max(errors.items(), key=lambda item: item[1])


if __name__ == "__main__":
    check_arguments(check_case)
