"""STDiT3, the transformer of Open-Sora 1.2, in plain PyTorch with the published tensor names.

The forward follows the published one to the last detail, so that weights move freely between this file, published checkpoints
and the Rust runtime. Run as a program it holds itself against reference cases:

    python tools/stdit3.py tests/goldens/stdit3_a/forward_*

Shapes: B samples, T frames, S tokens per frame, C hidden channels, L caption tokens.
"""

import json
import math
import pathlib
import sys
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn


@dataclass
class Config:
    input_sq_size: int
    in_channels: int
    hidden_size: int
    depth: int
    num_heads: int
    caption_channels: int
    model_max_length: int
    qk_norm: bool = True
    pred_sigma: bool = True
    patch_size: tuple = (1, 2, 2)
    mlp_ratio: float = 4.0
    class_dropout_prob: float = 0.1

    @classmethod
    def from_dict(cls, fields):
        config = cls(**{k: v for k, v in fields.items() if k in cls.__dataclass_fields__})
        if not config.qk_norm or tuple(config.patch_size) != (1, 2, 2):
            raise ValueError("only qk_norm = true and patch_size = [1, 2, 2] are supported")
        return config

    @property
    def out_channels(self):
        return self.in_channels * (2 if self.pred_sigma else 1)

    @property
    def head_dim(self):
        return self.hidden_size // self.num_heads


def sinusoid(values, channels=256):
    """[cos, sin] features of scalars: `[N]` -> `[N, channels]`."""
    half = channels // 2
    freqs = torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float32, device=values.device) / half)
    args = values.float()[:, None] * freqs
    return torch.cat([args.cos(), args.sin()], -1)


def position_table(h, w, channels, scale, base):
    """Sinusoidal positions of a token grid `[h*w, channels]`: the half of the W axis first, then that of the H axis."""
    half = channels // 2
    freqs = 10000 ** (-torch.arange(0, half, 2, dtype=torch.float32) / half)

    def axis(n):
        args = (torch.arange(n, dtype=torch.float32) / scale * (base / n))[:, None] * freqs
        return torch.cat([args.sin(), args.cos()], -1)

    across, down = axis(w)[None].expand(h, w, half), axis(h)[:, None].expand(h, w, half)
    return torch.cat([across, down], -1).reshape(h * w, channels)


def modulate(x, shift, scale):
    return torch.addcmul(shift, x, 1 + scale)


class Modulation:
    """adaLN chunks, `[B, 1, 1, C]` each; with a frame mask every frame takes those of its own timestep or of timestep 0."""

    def __init__(self, table, t, t0=None, frame_mask=None):
        self.chunks = self._chunks(table, t)
        self.chunks0 = None if frame_mask is None else self._chunks(table, t0)
        self.mask = None if frame_mask is None else frame_mask[:, :, None, None]

    @staticmethod
    def _chunks(table, t):
        return (table + t.unflatten(1, (-1, table.shape[1]))).unflatten(0, (-1, 1, 1)).unbind(3)

    def __getitem__(self, i):
        if self.mask is None:
            return self.chunks[i]
        return torch.where(self.mask, self.chunks[i], self.chunks0[i])


class RMSNorm(nn.Module):
    def __init__(self, channels, eps=1e-6):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.eps = eps

    def forward(self, x):
        return self.weight * F.rms_norm(x.float(), (x.shape[-1],), eps=self.eps)


class Rope(nn.Module):
    def __init__(self, head_dim):
        super().__init__()
        self.register_buffer("freqs", 10000.0 ** (-torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim))

    def forward(self, x):
        """Rotates interleaved pairs of `[..., T, head_dim]` by position."""
        angle = torch.arange(x.shape[-2], dtype=torch.float32, device=x.device)[:, None] * self.freqs.float()
        cos, sin = angle.cos(), angle.sin()
        a, b = x.unflatten(-1, (-1, 2)).unbind(-1)
        return torch.stack([a * cos - b * sin, b * cos + a * sin], -1).flatten(-2)


def attend(q, k, v, mask=None):
    """Scaled dot-product attention, written out: the sequences are too short for a fused kernel to pay."""
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    return scores.softmax(-1).to(v.dtype) @ v


class Attention(nn.Module):
    def __init__(self, config):
        super().__init__()
        c = config.hidden_size
        self.heads = config.num_heads
        self.qkv = nn.Linear(c, 3 * c)
        self.q_norm = RMSNorm(config.head_dim)
        self.k_norm = RMSNorm(config.head_dim)
        self.proj = nn.Linear(c, c)

    def forward(self, x, rope=None):
        """Attention over the S tokens of each frame, or with `rope` over the T frames at each location."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).unbind(3)
        q, k = self.q_norm(q), self.k_norm(k)
        axes = (0, 1, 3, 2, 4) if rope is None else (0, 2, 3, 1, 4)
        q, k, v = (u.permute(axes) for u in (q, k, v))
        if rope is not None:
            q, k = rope(q), rope(k)
        out = attend(q.to(v.dtype), k.to(v.dtype), v)
        back = (0, 1, 3, 2, 4) if rope is None else (0, 3, 1, 2, 4)
        return self.proj(out.permute(back).flatten(-2))


class CrossAttention(nn.Module):
    def __init__(self, config):
        super().__init__()
        c = config.hidden_size
        self.heads = config.num_heads
        self.q_linear = nn.Linear(c, c)
        self.kv_linear = nn.Linear(c, 2 * c)
        self.proj = nn.Linear(c, c)

    def forward(self, x, y, mask=None):
        """x `[B, T, S, C]` attends to y `[B, L, C]`; mask `[B, L]` is true where a caption token is valid."""
        q = self.q_linear(x).flatten(1, 2).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k, v = self.kv_linear(y).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        out = attend(q, k, v, None if mask is None else mask[:, None, None, :])
        return self.proj(out.transpose(1, 2).flatten(-2)).view_as(x)


class Mlp(nn.Module):
    def __init__(self, fan_in, hidden, fan_out):
        super().__init__()
        self.fc1 = nn.Linear(fan_in, hidden)
        self.fc2 = nn.Linear(hidden, fan_out)

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class Block(nn.Module):
    def __init__(self, config, temporal):
        super().__init__()
        c = config.hidden_size
        self.temporal = temporal
        self.scale_shift_table = nn.Parameter(torch.randn(6, c) / c**0.5)
        self.attn = Attention(config)
        self.cross_attn = CrossAttention(config)
        self.mlp = Mlp(c, int(c * config.mlp_ratio), c)

    def forward(self, x, y, text_mask, rope, t, t0=None, frame_mask=None):
        m = Modulation(self.scale_shift_table, t, t0, frame_mask)
        norm = lambda u: F.layer_norm(u, u.shape[-1:], eps=1e-6)
        x = x + m[2] * self.attn(modulate(norm(x), m[0], m[1]), rope if self.temporal else None)
        x = x + self.cross_attn(x, y, text_mask)
        return x + m[5] * self.mlp(modulate(norm(x), m[3], m[4]))


class FinalLayer(nn.Module):
    def __init__(self, config):
        super().__init__()
        c = config.hidden_size
        self.scale_shift_table = nn.Parameter(torch.randn(2, c) / c**0.5)
        self.linear = nn.Linear(c, math.prod(config.patch_size) * config.out_channels)

    def forward(self, x, t, t0=None, frame_mask=None):
        norm = lambda u: F.layer_norm(u, u.shape[-1:], eps=1e-6)
        own = lambda emb: (self.scale_shift_table + emb[:, None])[:, :, None, None].unbind(1)
        out = modulate(norm(x), *own(t))
        if frame_mask is not None:
            # The published code normalises the already modulated x once more for the frames at timestep 0.
            out = torch.where(frame_mask[:, :, None, None], out, modulate(norm(out), *own(t0)))
        return self.linear(out)


class _Embedder(nn.Module):
    """Sinusoid of a scalar through a two-layer MLP (`t_embedder`, `fps_embedder`)."""

    def __init__(self, channels):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(256, channels), nn.SiLU(), nn.Linear(channels, channels))

    def forward(self, values):
        return self.mlp(sinusoid(values))


class _Captions(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.y_proj = Mlp(config.caption_channels, config.hidden_size, config.hidden_size)
        null = torch.randn(config.model_max_length, config.caption_channels) / config.caption_channels**0.5
        self.register_buffer("y_embedding", null)


class _Patches(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.proj = nn.Conv3d(config.in_channels, config.hidden_size, config.patch_size, config.patch_size)

    def forward(self, x):
        """`[B, C_in, T, H, W]` (H, W even) -> tokens `[B, T, S, C]`: the patch convolution as one matrix product."""
        b, c, t, h, w = x.shape
        x = x.view(b, c, t, h // 2, 2, w // 2, 2).permute(0, 2, 3, 5, 1, 4, 6).reshape(b, t, h * w // 4, c * 4)
        return F.linear(x, self.proj.weight.flatten(1), self.proj.bias)


class STDiT3(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        c = config.hidden_size
        self.x_embedder = _Patches(config)
        self.t_embedder = _Embedder(c)
        self.fps_embedder = _Embedder(c)
        self.t_block = nn.Sequential(nn.SiLU(), nn.Linear(c, 6 * c))
        self.y_embedder = _Captions(config)
        self.rope = Rope(config.head_dim)
        self.spatial_blocks = nn.ModuleList(Block(config, temporal=False) for _ in range(config.depth))
        self.temporal_blocks = nn.ModuleList(Block(config, temporal=True) for _ in range(config.depth))
        self.final_layer = FinalLayer(config)
        self._initialise()

    def _initialise(self):
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.xavier_uniform_(self.x_embedder.proj.weight.data.flatten(1))
        for layer in (*self.t_embedder.mlp, *self.fps_embedder.mlp, self.t_block[1], *self.y_embedder.y_proj.children()):
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=0.02)
        # Temporal blocks start as the identity, as published.
        for block in self.temporal_blocks:
            for layer in (block.attn.proj, block.cross_attn.proj, block.mlp.fc2):
                nn.init.zeros_(layer.weight)

    def forward(self, x, timestep, y, *, fps, height, width, mask=None, x_mask=None, trace=None):
        """Predicts `[B, C_out, T, H, W]` from the noisy latent `[B, C_in, T, H, W]`.

        timestep `[B]` runs over 0..1000, y is `[B, L, caption_channels]`; fps, height and width (pixels) are scalars.
        mask `[B, L]` marks valid caption tokens; x_mask `[B, T]` is false for frames that are given (timestep 0).
        `trace(name, hidden)` is called with the hidden states the reference cases record.
        """
        trace = trace or (lambda name, hidden: None)
        b, _, frames, latent_h, latent_w = x.shape
        x = F.pad(x, (0, latent_w % 2, 0, latent_h % 2))
        grid_h, grid_w = x.shape[3] // 2, x.shape[4] // 2
        scale = math.sqrt(height * width) / self.config.input_sq_size
        table = position_table(grid_h, grid_w, self.config.hidden_size, scale, round(math.sqrt(grid_h * grid_w)))

        fps_emb = self.fps_embedder(torch.full((b,), float(fps), device=x.device))
        t = self.t_embedder(timestep) + fps_emb
        t_mlp = self.t_block(t)
        t0 = t0_mlp = None
        if x_mask is not None:
            t0 = self.t_embedder(torch.zeros_like(timestep)) + fps_emb
            t0_mlp = self.t_block(t0)
        # The reference cases record the last call of t_block, which with a frame mask is the one for timestep 0.
        trace("t_block", t_mlp if t0_mlp is None else t0_mlp)
        y = self.y_embedder.y_proj(y)

        x = self.x_embedder(x)
        trace("x_embedder", x)
        x = x + table.to(x.device)
        for i, (spatial, temporal) in enumerate(zip(self.spatial_blocks, self.temporal_blocks)):
            x = spatial(x, y, mask, self.rope, t_mlp, t0_mlp, x_mask)
            trace(f"spatial_blocks.{i}", x)
            x = temporal(x, y, mask, self.rope, t_mlp, t0_mlp, x_mask)
            trace(f"temporal_blocks.{i}", x)
        x = self.final_layer(x, t, t0, x_mask)
        x = x.view(b, frames, grid_h, grid_w, 2, 2, -1).permute(0, 6, 1, 2, 4, 3, 5)
        return x.reshape(b, -1, frames, grid_h * 2, grid_w * 2)[..., :latent_h, :latent_w].float()

    @torch.no_grad()
    def sample(self, z, y, y_null, timesteps, *, cfg_scale, mask=None, **conditioning):
        """Rectified flow with guidance and every step computed: noise z `[1, C, T, H, W]` to a clean latent."""
        y, mask = torch.stack([y, y_null]), None if mask is None else mask[None].expand(2, -1)
        steps = [*timesteps, 0.0]
        for now, after in zip(steps, steps[1:]):
            out = self(z.expand(2, *z.shape[1:]), torch.full((2,), float(now)), y, mask=mask, **conditioning)
            cond, uncond = out[:, : z.shape[1]]
            z = z + (uncond + cfg_scale * (cond - uncond)) * ((float(now) - float(after)) / 1000)
        return z


def load(config, path):
    """A model with the weights of a safetensors file; every name and shape must match."""
    from safetensors.torch import load_file

    model = STDiT3(config)
    tensors = {name: tensor.float() for name, tensor in load_file(str(path)).items()}
    model.load_state_dict(tensors)
    return model


def check_case(folder):
    """Largest relative error ‖out − ref‖ / ‖ref‖ of a reference case, over its output and traces."""
    from safetensors.torch import load_file

    folder = pathlib.Path(folder)
    case = json.loads((folder / "case.json").read_text())
    io = load_file(str(folder / "io.safetensors"))
    model = load(Config.from_dict(case["config"]), folder / case["model"]).eval()
    conditioning = {key: case[key] for key in ("fps", "height", "width")}
    mask = io["mask"].bool() if "mask" in io else None
    errors = {}

    def compare(name, out):
        if (ref := io.get(name)) is None:
            # Some cases record hidden states of few blocks.
            return
        errors[name] = ((out.reshape(ref.shape) - ref).norm() / ref.norm()).item()

    if case["kind"] == "forward":
        frame_mask = io["x_mask"].bool() if "x_mask" in io else None
        trace = lambda name, hidden: compare(f"trace.{name}", hidden)
        with torch.no_grad():
            compare("out", model(io["x"], io["timestep"], io["y"], mask=mask, x_mask=frame_mask, trace=trace, **conditioning))
    else:
        z = model.sample(io["z"], io["y"], io["y_null"], io["timesteps"].tolist(), cfg_scale=case["cfg_scale"], mask=mask, **conditioning)
        compare("latents_uncached_final", z)
    return max(errors.items(), key=lambda item: item[1])


def check_arguments(check_case):
    """Checks the cases named on the command line; exits with 1 if one is further off than 1e-4."""
    failed = False
    for argument in sys.argv[1:]:
        name, error = check_case(argument)
        failed |= not error < 1e-4
        print(f"{argument}: largest relative error {error:.2e} at {name}")
    sys.exit(failed)


if __name__ == "__main__":
    check_arguments(check_case)
