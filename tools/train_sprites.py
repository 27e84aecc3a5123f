"""Trains the embedded models, a small STDiT3 and a small Wan, from scratch or onwards from given weights.

    python tools/train_sprites.py --minutes 120                                   # from scratch into checkpoints/sprites
    python tools/train_sprites.py --minutes 120 --architecture wan                # the small Wan, into checkpoints/sprites-wan
    python tools/train_sprites.py --init models/sprites/model.gguf                # continue from the shipped weights
    python tools/train_sprites.py --run checkpoints/sprites                       # the same run again: resumes where it stopped
    python tools/train_sprites.py --export out/sprites                            # only write the EMA weights of a run
    python tools/train_sprites.py --steps 20 --run /tmp/smoke --batch 4           # a smoke test

Needs torch, numpy, safetensors and gguf; a CPU is enough. The text table and the decoder of --model-dir are inputs and stay as they are.

Objective: rectified flow, x_t = (1-t) x0 + t noise, target x0 - noise, mean squared error weighted per latent channel by what the
decoder makes of it; t = s(sigmoid(1.1 normal)) with the sampler's own shift s, since structure is decided at high noise.
A guide (--guide) asks hidden states for the frame's number and the shape's place besides; see the class `Guide` for why. It is not shipped.
Optimiser: Muon for the matrices inside the blocks, AdamW for the rest; warm-up, constant rate, linear decay to zero. The decay
takes the last --decay of the budget (--steps or --minutes), or starts when a file `decay` with a number of minutes
appears in the run's folder: `echo 30 > checkpoints/sprites/decay`. What is shipped is the moving average (EMA).

Batches depend on (seed, step) alone and checkpoints are replaced atomically, so a run may be killed at any time.
"""

import argparse
import json
import math
import os
import pathlib
import struct
import sys
import time
import zlib

import torch
import torch.nn.functional as F
from torch import nn
from safetensors.torch import load_file

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import sprites_data
import stdit3
import wan

ROOT = pathlib.Path(__file__).resolve().parent.parent
# How often each motion is drawn: what is harder to learn, more often; one that stands still is learnt with every other.
HARD_MOTIONS = {"still": 0.5, "bouncing": 2.5, "spinning": 3.0, "growing": 1.5, "shrinking": 1.5}
MOTION_WEIGHTS = [HARD_MOTIONS.get(m, 1.0) for m in sprites_data.MOTIONS]
# Weights of what the guide reads: time, x, y, radius, cosine and sine of the turn.
GUIDED = torch.tensor([1.0, 0.3, 0.3, 0.3, 0.2, 0.2])
# The share of captions that give way to none.
CAPTION_DROPOUT = 0.1
HELD_OUT_SEED = 777_000_001
PREVIEW_PROMPTS = [
    "large red circle bouncing fast navy",
    "small yellow square left fast black",
    "large green triangle still slowly gradient",
    "large cyan ring orbiting fast checkerboard",
    "small white circle right slowly striped",
    "large purple square spinning fast gray",
    "small orange triangle up fast navy",
    "large blue ring growing fast black",
    "small red square down slowly gradient",
    "large yellow triangle shrinking fast gray",
]


class Muon:
    """Momentum whose updates are orthogonalised (Jordan et al. 2024); matrices of one shape are handled as one batch."""

    # Quintic whose iteration drives all singular values near 1.
    A, B, C = 3.4445, -4.7750, 2.0315

    def __init__(self, parameters, lr, dtype=torch.float32, momentum=0.95, iterations=5):
        self.lr, self.dtype, self.momentum, self.iterations = lr, dtype, momentum, iterations
        shapes = {}
        for parameter in parameters:
            shapes.setdefault(tuple(parameter.shape), []).append(parameter)
        self.groups = [(group, torch.zeros(len(group), *shape)) for shape, group in shapes.items()]

    def _orthogonalise(self, x):
        tall = x.shape[-2] > x.shape[-1]
        x = x.mT if tall else x
        x = (x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)).to(self.dtype)
        for _ in range(self.iterations):
            gram = x @ x.mT
            x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=self.B, alpha=self.C), x, beta=self.A)
        return (x.mT if tall else x).float()

    @torch.no_grad()
    def step(self, factor):
        for parameters, velocity in self.groups:
            gradient = torch.stack([p.grad for p in parameters])
            velocity.lerp_(gradient, 1 - self.momentum)
            update = self._orthogonalise(gradient.lerp_(velocity, self.momentum))
            rows, columns = update.shape[-2:]
            rate = self.lr * factor * max(1.0, rows / columns) ** 0.5
            for parameter, change in zip(parameters, update):
                parameter.sub_(change, alpha=rate)

    def state_dict(self):
        return [velocity for _, velocity in self.groups]

    def load_state_dict(self, state):
        for (_, velocity), kept in zip(self.groups, state, strict=True):
            velocity.copy_(kept)


class OfSTDiT3:
    """How the STDiT3 of `sprites` is built and asked. `guided`: the blocks whose hidden states the guide reads."""

    name, architecture = "sprites", "stdit3"
    guided = ("temporal_blocks.1", "temporal_blocks.3")

    def __init__(self, fields):
        self.config = stdit3.Config.from_dict(fields)
        self.channels, self.width = self.config.in_channels, self.config.hidden_size
        self.conditioning = {key: float(fields[key]) for key in ("fps", "height", "width")}

    def model(self):
        return stdit3.STDiT3(self.config)

    def null(self, model):
        """The caption `[L, C]` of no caption."""
        return model.y_embedder.y_embedding

    def predict(self, model, x, t, y, trace=None):
        """Clip minus noise at times t `[B]` in [0, 1]; the channels of the published variance, which nothing reads, are left out."""
        return model(x, 1000 * t, y, **self.conditioning, trace=trace)[:, : self.channels]


class OfWan:
    """The same of the Wan of `sprites-wan`. No caption is a caption of padding."""

    name, architecture = "sprites-wan", "wan"
    guided = ("blocks.1", "blocks.3")

    def __init__(self, fields):
        self.config = wan.Config.from_dict(fields)
        self.channels, self.width = self.config.in_dim, self.config.dim
        self.length, self.text_dim = fields["prompt_length"], self.config.text_dim

    def model(self):
        return wan.Wan(self.config)

    def null(self, model):
        return torch.zeros(self.length, self.text_dim)

    def predict(self, model, x, t, y, trace=None):
        # The model predicts noise minus clip.
        return -model(x, 1000 * t, y, trace=trace)


ARCHITECTURES = {network.architecture: network for network in (OfSTDiT3, OfWan)}
# The file of a model's weights.
MODEL_FILE = "model.gguf"


class Sprites:
    """What training reads and never changes: configuration, text table, decoder."""

    def __init__(self, folder):
        self.fields = json.loads((folder / "config.json").read_text())
        if self.fields["vocabulary"] != sprites_data.WORDS:
            raise SystemExit(f"{folder}/config.json: the vocabulary differs from tools/sprites_data.py")
        self.network = (OfWan if self.fields.get("_class_name") == "WanModel" else OfSTDiT3)(self.fields)
        self.table = load_file(str(folder / "text.safetensors"))["embedding.weight"].float()
        self.codec = sprites_data.PatchCodec(load_file(str(folder / "decoder.safetensors")))
        scale = self.codec.scale
        self.channel_weight = (scale / scale.mean())[:, None, None, None]

    def shift(self, t):
        s = self.fields["timestep_shift"]
        return s * t / (1 + (s - 1) * t)

    def random_t(self, batch, generator):
        """One t from each of `batch` equal slices of the distribution: its spread is the same in every batch."""
        u = (torch.randperm(batch, generator=generator) + torch.rand(batch, generator=generator)) / batch
        normal = torch.special.ndtri(u.clamp(1e-4, 1 - 1e-4))
        return self.shift(torch.sigmoid(1.1 * normal))

    def batch(self, size, seed, motions=None):
        """`(x0, tokens, noise, t)`, the same for the same seed."""
        generator = torch.Generator().manual_seed(seed)
        x0, tokens, geometry = sprites_data.random_clips(size, self.codec, generator, motions)
        return x0, tokens, torch.randn(x0.shape, generator=generator), self.random_t(size, generator), geometry

    def loss(self, model, batch, dropout=None, guide=None):
        """Per-sample loss `[batch]`; `dropout [batch]` is true where the caption gives way to the null caption. With a guide, its loss too."""
        x0, tokens, noise, t, geometry = batch
        y = self.table[tokens]
        if dropout is not None:
            y = torch.where(dropout[:, None, None], self.network.null(model), y)
        mix = t[:, None, None, None, None]
        hidden = {}
        trace = None if guide is None else hidden.__setitem__
        error = self.network.predict(model, torch.lerp(x0, noise, mix), t, y, trace) - (x0 - noise)
        loss = (error.square() * self.channel_weight).mean(dim=(1, 2, 3, 4))
        return loss if guide is None else (loss, guide(hidden, geometry))

    @torch.no_grad()
    def sample(self, model, prompts, seed=1, steps=None, cfg_scale=None):
        """Clips `[N, 16, 64, 64, 3]` of prompts by every step of Euler's sampler with guidance, in batches."""
        steps, cfg_scale = steps or self.fields["default_steps"], cfg_scale or self.fields["default_cfg_scale"]
        generator = torch.Generator().manual_seed(seed)
        tokens = torch.zeros(len(prompts), self.fields["prompt_length"], dtype=torch.long)
        for row, prompt in zip(tokens, prompts):
            row[: len(prompt.split())] = torch.tensor([sprites_data.TOKEN[word] for word in prompt.split()])
        z = torch.randn(len(prompts), self.network.channels, *self.fields["latent"], generator=generator)
        times = [float(self.shift(torch.tensor(1 - i / steps))) for i in range(steps)] + [0.0]
        null = self.network.null(model).expand(len(prompts), -1, -1)
        for part in torch.arange(len(prompts)).split(16):
            y = torch.cat([self.table[tokens[part]], null[part]])
            for now, after in zip(times, times[1:]):
                out = self.network.predict(model, z[part].repeat(2, 1, 1, 1, 1), torch.full((2 * len(part),), now), y)
                cond, uncond = out.chunk(2)
                z[part] += (uncond + cfg_scale * (cond - uncond)) * (now - after)
        return self.codec.decode(z)

    @torch.no_grad()
    def preview(self, model, path):
        """Samples the preview prompts and writes every other frame of each as one row of a PNG."""
        videos = self.sample(model, PREVIEW_PROMPTS)
        write_png(path, torch.cat([video[::2].permute(1, 0, 2, 3).flatten(1, 2) for video in videos]))


def write_png(path, image):
    """Writes `[H, W, 3]` in [0, 1] as PNG."""
    height, width, _ = image.shape
    data = (image * 255 + 0.5).to(torch.uint8).reshape(height, -1)
    rows = torch.cat([torch.zeros(height, 1, dtype=torch.uint8), data], 1).numpy().tobytes()

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    pathlib.Path(path).write_bytes(png)


class Guide(nn.Module):
    """Reads time and place of the shape from the hidden states of single blocks, in training only.

    Rotary positions tell distances in time, never the frame's number: in pure noise all frames are alike, and a model that cannot tell
    the first from the last cannot grow a shape or move it left. It can work the number out (whose neighbours lie on one side only is an
    end), but 3,746 steps of the denoising loss did not teach it: asked for the number, two blocks know it after 100 steps. The same head asks
    for place, radius and turn of the shape.
    """

    def __init__(self, network, tokens):
        super().__init__()
        self.names = network.guided
        self.heads = nn.ModuleList(nn.Linear(tokens * network.width, 6) for _ in self.names)
        for head in self.heads:
            nn.init.zeros_(head.weight)

    def forward(self, hidden, geometry):
        """Mean squared error of each number, `[6]`: the mean over samples, frames and blocks."""
        error = 0.0
        for name, head in zip(self.names, self.heads):
            u = hidden[name]
            u = F.layer_norm(u, u.shape[-1:]).reshape(len(u), sprites_data.FRAMES, -1)
            error = error + (head(u).float() - geometry).square().mean(dim=(0, 1))
        return error / len(self.heads)


class Run:
    """A training run in a folder: model, moving average, optimisers, schedule; resumes from its checkpoint."""

    # What a checkpoint holds beside the tensors.
    COUNTERS = ("step", "minutes", "decay_from", "decay_minutes", "trained_before")

    def __init__(self, args):
        self.args = args
        self.sprites = Sprites(args.model_dir)
        self.folder = args.run
        self.checkpoint = self.folder / "checkpoint.pt"
        torch.manual_seed(args.seed)
        self.model = self.sprites.network.model()
        _, h, w = self.sprites.fields["latent"]
        tokens = h // 2 * (w // 2)
        self.guide = Guide(self.sprites.network, tokens) if args.guide else None
        self.ema = self.sprites.network.model().requires_grad_(False)
        self.step, self.minutes, self.decay_from, self.decay_minutes, self.trained_before = 0, 0.0, None, None, 0
        if args.init and not self.checkpoint.exists():
            self.trained_before = self._iterations_of(args.init)
            self.model.load_state_dict(read_weights(args.init))
        in_blocks = [p for name, p in self.model.named_parameters() if self._is_matrix(name, p)]
        others = [p for name, p in self.model.named_parameters() if not self._is_matrix(name, p)]
        self.muon = Muon(in_blocks, args.lr_muon, torch.bfloat16 if args.precision == "bf16" else torch.float32)
        self.adamw = torch.optim.AdamW(others, args.lr_adamw, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
        self.guide_adamw = self.guide and torch.optim.AdamW(self.guide.parameters(), args.lr_adamw, betas=(0.9, 0.98), weight_decay=0.0)
        self.ema.load_state_dict(self.model.state_dict())
        if self.checkpoint.exists():
            self._restore()
        if args.compile:
            self.model.compile(dynamic=False)
        self.guided = []
        self.held_out = [self.sprites.batch(args.batch, HELD_OUT_SEED + i) for i in range(-(-args.held_out // args.batch))]

    @staticmethod
    def _iterations_of(weights):
        """What the config.json beside some weights says they were trained for."""
        try:
            return json.loads((weights.parent / "config.json").read_text())["trained_iterations"]
        except (OSError, KeyError):
            return 0

    @staticmethod
    def _is_matrix(name, parameter):
        return "blocks." in name and name.endswith(".weight") and parameter.ndim == 2

    def _restore(self):
        state = torch.load(self.checkpoint, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.ema.load_state_dict(state["ema"])
        if self.guide is not None and "guide" in state:
            self.guide.load_state_dict(state["guide"])
            self.guide_adamw.load_state_dict(state["guide_adamw"])
        self.muon.load_state_dict(state["muon"])
        self.adamw.load_state_dict(state["adamw"])
        for key in self.COUNTERS:
            setattr(self, key, state[key])
        self.log(f"resumed {self.checkpoint} at step {self.step}, {self.minutes:.1f} min")

    def save(self):
        self.folder.mkdir(parents=True, exist_ok=True)
        state = {key: getattr(self, key) for key in self.COUNTERS}
        for key in ("model", "ema", "muon", "adamw"):
            state[key] = getattr(self, key).state_dict()
        if self.guide is not None:
            state["guide"], state["guide_adamw"] = self.guide.state_dict(), self.guide_adamw.state_dict()
        atomically(self.checkpoint, lambda path: torch.save(state, path))

    def export(self, folder):
        """Writes the moving average under the published names, beside an updated config.json."""
        folder.mkdir(parents=True, exist_ok=True)
        write = lambda path: write_weights(path, self.ema.state_dict(), self.sprites.network.architecture)
        atomically(folder / MODEL_FILE, write)
        fields = dict(self.sprites.fields)
        fields["trained_iterations"] = self.trained_before + self.step
        atomically(folder / "config.json", lambda path: path.write_text(json.dumps(fields, indent=1)))
        self.log(f"exported the EMA of step {self.step} to {folder}")

    def log(self, message):
        print(f"{time.strftime('%H:%M:%S')} {message}", flush=True)

    def rate(self):
        """The schedule's factor on the learning rates, 0 when the run is over."""
        warm = min(1.0, (self.step + 1) / self.args.warmup)
        if self.decay_from is None:
            try:
                self.decay_minutes = float((self.folder / "decay").read_text())
                self.decay_from = self.minutes
                self.log(f"decay over the next {self.decay_minutes:g} min")
            except (OSError, ValueError):
                pass
        if self.decay_from is not None:
            left = 1 - (self.minutes - self.decay_from) / self.decay_minutes
            return warm * max(0.0, min(1.0, left))
        spent = [0.0]
        if self.args.steps:
            spent.append(self.step / self.args.steps)
        if self.args.minutes:
            spent.append(self.minutes / self.args.minutes)
        return warm * max(0.0, min(1.0, (1 - max(spent)) / max(self.args.decay, 1e-9)))

    def train_step(self, factor):
        args = self.args
        seed = args.seed * 1_000_003 + self.step
        batch = self.sprites.batch(args.batch, seed, MOTION_WEIGHTS)
        dropout = torch.rand(args.batch, generator=torch.Generator().manual_seed(~seed & 0xFFFFFFFF)) < CAPTION_DROPOUT
        with torch.autocast("cpu", torch.bfloat16, enabled=args.precision == "bf16"):
            loss = self.sprites.loss(self.model, batch, dropout, self.guide)
        if self.guide is not None:
            loss, guided = loss
            self.guided.append(guided.detach())
        loss = loss.mean()
        # Beside the rate it fades out: the last steps serve the objective alone.
        total = loss if self.guide is None else loss + args.guide * factor * (guided * GUIDED).sum()
        for module in filter(None, (self.model, self.guide)):
            module.zero_grad(set_to_none=True)
        total.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        if not torch.isfinite(norm):
            self.log(f"step {self.step}: the gradient is not finite; skipped")
            return math.nan
        self.muon.step(factor)
        for optimiser in filter(None, (self.adamw, self.guide_adamw)):
            for group in optimiser.param_groups:
                group["lr"] = args.lr_adamw * factor
            optimiser.step()
        decay = min(args.ema, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(list(self.ema.parameters()), [p.data for p in self.model.parameters()], 1 - decay)
        return loss.item()

    @torch.no_grad()
    def evaluate(self):
        """Held-out loss of raw and averaged weights, in f32: fixed clips, noise and t."""
        return tuple(torch.cat([self.sprites.loss(m, b) for b in self.held_out]).mean().item() for m in (self.model, self.ema))

    def report(self):
        raw, ema = self.evaluate()
        self.log(f"step {self.step}  held-out loss  raw {raw:.5f}  ema {ema:.5f}")

    def train(self):
        self.report()
        losses, began, saved = [], time.monotonic(), time.monotonic()
        steps_at_start, last = self.step, began
        while (factor := self.rate()) > 0:
            losses.append(self.train_step(factor))
            self.step += 1
            now = time.monotonic()
            self.minutes += (now - last) / 60
            last = now
            if self.step % self.args.log_every == 0:
                recent = [x for x in losses[-self.args.log_every :] if not math.isnan(x)]
                speed = (self.step - steps_at_start) / (now - began)
                mean = sum(recent) / max(1, len(recent))
                guided = "  guide " + " ".join(f"{g:.2f}" for g in torch.stack(self.guided).mean(0).tolist()) if self.guided else ""
                self.guided.clear()
                self.log(f"step {self.step}  loss {mean:.5f}  rate {factor:.3f}  {speed:.2f} it/s  {self.minutes:.1f} min{guided}")
            if self.step % self.args.eval_every == 0:
                self.report()
            if now - saved > 60 * self.args.save_minutes:
                self.save()
                saved = now
        self.save()
        self.report()


# What ComfyUI-GGUF and its converters call the shape of a tensor whose rows are no whole number of blocks.
SHAPE = "comfy.gguf.orig_shape."


def write_weights(path, tensors, architecture):
    """Writes a GGUF file whose matrices have the type Q8_0 and whose other tensors have 32 bits. Rows of a length that is no multiple of the
    block's 32 are laid out as rows of 256, with the shape in the metadata."""
    from gguf import GGMLQuantizationType, GGUFWriter, quants

    writer = GGUFWriter(path, architecture)
    for name, tensor in tensors.items():
        values, kind = tensor.float().numpy(), GGMLQuantizationType.F32
        if tensor.ndim == 2 and name.endswith(".weight"):
            kind = GGMLQuantizationType.Q8_0
            if tensor.shape[1] % 32:
                writer.add_array(SHAPE + name, list(tensor.shape))
                values = values.reshape(-1, 256)
        writer.add_tensor(name, quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def read_weights(path):
    """The tensors of such a file, or of a safetensors file, as f32."""
    if pathlib.Path(path).suffix != ".gguf":
        return {name: tensor.float() for name, tensor in load_file(str(path)).items()}
    from gguf import GGUFReader, quants

    reader = GGUFReader(path)

    def values(t):
        # The reader gives sizes with the innermost first.
        shape = reader.get_field(SHAPE + t.name)
        shape = shape.contents() if shape else t.shape[::-1].tolist()
        return torch.from_numpy(quants.dequantize(t.data, t.tensor_type).copy()).view(*shape)

    return {t.name: values(t) for t in reader.tensors}


def atomically(path, write):
    """Writes beside `path` and renames, so that a file is there whole or not at all."""
    partial = path.with_name(path.name + ".tmp")
    write(partial)
    os.replace(partial, path)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    path = pathlib.Path
    parser.add_argument("--architecture", choices=ARCHITECTURES, default="stdit3", help="which of the embedded models: sprites or sprites-wan")
    parser.add_argument("--run", type=path, help="folder of checkpoint.pt; default: checkpoints/sprites or checkpoints/sprites-wan")
    parser.add_argument("--model-dir", type=path, help="config, text table and decoder; default: those of the architecture")
    parser.add_argument("--init", type=path, help="start from these weights instead of random ones")
    parser.add_argument("--export", type=path, metavar="DIR", help="write the EMA weights; alone: of the run as it is")
    parser.add_argument("--preview", type=path, metavar="PNG", help="sample ten prompts from the EMA; alone: of the run as it is")
    parser.add_argument("--steps", type=int, help="budget in steps")
    parser.add_argument("--minutes", type=float, help="budget in minutes of training (over all resumptions)")
    parser.add_argument("--decay", type=float, default=0.45, help="part of the budget over which the rate falls to zero")
    parser.add_argument("--warmup", type=int, default=100, help="steps")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--lr-muon", type=float, default=0.02)
    parser.add_argument("--lr-adamw", type=float, default=2e-3)
    parser.add_argument("--ema", type=float, default=0.999)
    parser.add_argument("--guide", type=float, default=0.5, help="weight of the auxiliary loss on time and place; 0: none")
    parser.add_argument("--precision", choices=["f32", "bf16"], default="f32", help="of the matrix products")
    parser.add_argument("--compile", action="store_true", help="torch.compile: a fifth faster after minutes of compiling")
    parser.add_argument("--threads", type=int, default=0, help="0: torch's default")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--held-out", type=int, default=128, metavar="CLIPS")
    parser.add_argument("--log-every", type=int, default=20)
    parser.add_argument("--eval-every", type=int, default=250)
    parser.add_argument("--save-minutes", type=float, default=5)
    args = parser.parse_args()
    name = ARCHITECTURES[args.architecture].name
    args.run = args.run or ROOT / "checkpoints" / name
    args.model_dir = args.model_dir or ROOT / "models" / name
    return args


def main():
    args = arguments()
    if args.threads:
        torch.set_num_threads(args.threads)
    run = Run(args)
    # --export or --preview without a budget: of the checkpoint as it is.
    trains = args.steps or args.minutes or args.init or not (args.export or args.preview)
    if trains:
        run.train()
    elif not run.checkpoint.exists():
        raise SystemExit(f"{run.checkpoint}: no checkpoint to export; train first")
    if args.export:
        run.export(args.export)
    if args.preview:
        run.sprites.preview(run.ema, args.preview)


if __name__ == "__main__":
    main()
