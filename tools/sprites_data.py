"""The procedural clips the sprites model is trained on, drawn in batches: 16 frames of 64x64 RGB and six caption words.

A clip is one moving shape over a background, described by six words in this order:

    size color shape motion speed background        e.g.  large red circle bouncing fast navy

`random_clips` draws a batch straight into latents (see `PatchCodec`), `draw` renders given words to pixels.
Everything is seeded by a torch.Generator, so one (seed, step) pair always gives the same batch.
"""

import math
from dataclasses import dataclass

import torch

COLORS = {
    "red": (0.90, 0.15, 0.15),
    "green": (0.15, 0.75, 0.25),
    "blue": (0.20, 0.35, 0.95),
    "yellow": (0.95, 0.85, 0.15),
    "white": (0.95, 0.95, 0.95),
    "purple": (0.60, 0.25, 0.80),
    "orange": (0.98, 0.55, 0.10),
    "cyan": (0.15, 0.80, 0.85),
}
SHAPES = ["circle", "square", "triangle", "ring"]
MOTIONS = ["still", "left", "right", "up", "down", "bouncing", "orbiting", "spinning", "growing", "shrinking"]
SPEEDS = ["slowly", "fast"]
SIZES = ["small", "large"]
BACKGROUNDS = ["black", "gray", "navy", "gradient", "checkerboard", "striped"]
WORDS = ["<pad>", *COLORS, *SHAPES, *MOTIONS, *SPEEDS, *SIZES, *BACKGROUNDS]
TOKEN = {word: i for i, word in enumerate(WORDS)}
# Caption order; each entry is one attribute with its alternatives.
ATTRIBUTES = [SIZES, list(COLORS), SHAPES, MOTIONS, SPEEDS, BACKGROUNDS]

FRAMES, SIZE, PATCH = 16, 64, 8
PROMPT_LENGTH = 8
# Half a frame in pixels: coordinates run over [-1, 1], so a distance times this is a distance in pixels.
PIXELS = SIZE / 2
# Width of the antialiased edge, in pixels.
EDGE = 1.2


def _grid():
    axis = (torch.arange(SIZE) + 0.5) / PIXELS - 1
    return torch.meshgrid(axis, axis, indexing="ij")


def _backgrounds():
    """The six backgrounds as one table [6, 64, 64, 3], in the order of BACKGROUNDS."""
    y, x = _grid()

    def flat(*rgb):
        return torch.tensor(rgb).expand(SIZE, SIZE, 3)

    def tinted(base, gain, pattern):
        return torch.tensor(base) + torch.tensor(gain) * pattern[..., None]

    checker = (torch.floor((x + 1) * 4) + torch.floor((y + 1) * 4)) % 2
    stripes = torch.floor((x + y + 4) * 4) % 2
    return torch.stack(
        [
            flat(0.04, 0.04, 0.04),
            flat(0.5, 0.5, 0.5),
            flat(0.05, 0.08, 0.30),
            tinted([0.15, 0.2, 0.45], [0.25, 0.45, 0.4], (y + 1) / 2),
            tinted([0.22] * 3, [0.30] * 3, checker),
            tinted([0.18, 0.20, 0.24], [0.22, 0.12, 0.05], stripes),
        ]
    )


@dataclass
class Clips:
    """A batch of clips as attribute indices `[batch, 6]` and per-frame geometry `[batch, frames]`."""

    attributes: torch.Tensor
    x: torch.Tensor
    y: torch.Tensor
    radius: torch.Tensor
    angle: torch.Tensor

    def geometry(self):
        """What a frame shows and when it is, each about within [-1, 1]: time, x, y, radius, cosine and sine of the visible turn; `[batch, frames, 6]`."""
        time = torch.linspace(-1, 1, FRAMES).expand_as(self.x)
        spins = (self.attributes[:, 3] == MOTIONS.index("spinning"))[:, None]
        # After how much of a turn a shape looks the same: the circle and the ring have a spot.
        turn = self.angle * torch.tensor([1.0, 4.0, 3.0, 1.0])[self.attributes[:, 2]][:, None]
        return torch.stack([time, self.x, self.y, (self.radius - 0.33) * 5, spins * turn.cos(), spins * turn.sin()], 2)

    def tokens(self):
        """Caption token ids `[batch, PROMPT_LENGTH]`, padded with 0."""
        tokens = torch.zeros(len(self.attributes), PROMPT_LENGTH, dtype=torch.long)
        for column, words in enumerate(ATTRIBUTES):
            tokens[:, column] = torch.tensor([TOKEN[w] for w in words])[self.attributes[:, column]]
        return tokens


def random_attributes(batch, generator, motions=None):
    """Words evenly at random, `[batch, 6]`; `motions`: how often each motion is drawn against the others."""
    attributes = torch.stack([torch.randint(len(words), (batch,), generator=generator) for words in ATTRIBUTES], 1)
    if motions is not None:
        attributes[:, 3] = torch.multinomial(torch.tensor(motions), batch, replacement=True, generator=generator)
    return attributes


def parse(prompt):
    """Attribute indices `[1, 6]` of a six-word prompt."""
    words = prompt.split()
    if len(words) != len(ATTRIBUTES):
        raise ValueError(f"a prompt is six words (size color shape motion speed background), got {prompt!r}")
    return torch.tensor([[known.index(word) for word, known in zip(words, ATTRIBUTES)]])


def place(attributes, generator):
    """Random trajectories for given attributes: where each shape is, how large and how far turned, in every frame."""
    batch = len(attributes)
    size, _, _, motion, speed, _ = attributes.unbind(1)
    fast = (speed == SPEEDS.index("fast"))[:, None]

    def uniform(low, high, *shape):
        return torch.rand(batch, *(shape or (1,)), generator=generator) * (high - low) + low

    def by_speed(fast_value, slow_value):
        return torch.where(fast, fast_value, slow_value)

    def is_motion(*names):
        return torch.isin(motion, torch.tensor([MOTIONS.index(n) for n in names]))[:, None]

    time = torch.arange(FRAMES, dtype=torch.float32)[None]
    radius0 = torch.tensor([0.24, 0.42])[size][:, None]
    limit = 0.98 - radius0
    center = uniform(-1, 1, 2) * limit * 0.8
    # All clips of a motion begin nearly alike: words and time tell where the shape is, chance does not.
    phase, jitter = uniform(-0.6, 0.6), uniform(-0.08, 0.08)
    x = center[:, :1].expand(batch, FRAMES)
    y = center[:, 1:].expand(batch, FRAMES)

    in_place = is_motion("still", "spinning", "growing", "shrinking")
    x, y = torch.where(in_place, x * 0.7, x), torch.where(in_place, y * 0.7, y)

    # Straight motion starts off-centre so that the path stays in view.
    velocity = by_speed(0.11, 0.04)
    path = torch.minimum(limit, velocity * (FRAMES - 1) / 2)
    sign = torch.where(is_motion("right", "down"), 1.0, -1.0)
    line = sign * (velocity * time - path) + jitter
    x = torch.where(is_motion("left", "right"), line, x)
    y = torch.where(is_motion("up", "down"), line, y)

    bounce = limit - torch.abs(torch.sin(by_speed(0.60, 0.25) * time + phase)) * 2 * limit * 0.9
    y = torch.where(is_motion("bouncing"), bounce, y)

    orbit, orbit_radius = by_speed(0.42, 0.15) * time + phase, torch.where(radius0 < 0.3, 0.5, 0.4)
    x = torch.where(is_motion("orbiting"), orbit_radius * torch.cos(orbit), x)
    y = torch.where(is_motion("orbiting"), orbit_radius * torch.sin(orbit), y)

    angle = torch.where(is_motion("spinning"), phase + by_speed(0.35, 0.12) * time, torch.zeros(1, FRAMES))

    growth, ramp = by_speed(0.9, 0.45), time / (FRAMES - 1)
    radius = radius0.expand(batch, FRAMES)
    radius = torch.where(is_motion("growing"), radius0 * (1 - growth / 2 + growth * ramp * 0.9), radius)
    radius = torch.where(is_motion("shrinking"), radius0 * (1 - growth / 2 + growth * (1 - ramp) * 0.9), radius)
    return Clips(attributes, x, y, radius, angle)


def _distance(shape, x, y, radius):
    """Signed distance to the outline of a shape, negative inside."""
    if shape == "circle":
        return torch.hypot(x, y) - radius
    if shape == "ring":
        return torch.abs(torch.hypot(x, y) - radius * 0.8) - radius * 0.25
    if shape == "square":
        return torch.maximum(x.abs(), y.abs()) - radius * 0.85
    return torch.maximum(x.abs() * (math.sqrt(3) / 2) - y * 0.5, y) - radius * 0.6


def draw(clips):
    """Renders clips to pixels `[batch, frames, 64, 64, 3]` in [0, 1]."""
    batch = len(clips.attributes)
    color = torch.tensor(list(COLORS.values()))[clips.attributes[:, 1]]
    background = _backgrounds()[clips.attributes[:, 5]]
    grid_y, grid_x = _grid()
    video = torch.empty(batch, FRAMES, SIZE, SIZE, 3)
    spinning = MOTIONS.index("spinning")
    for i in range(batch):
        shape, motion = SHAPES[clips.attributes[i, 2]], clips.attributes[i, 3]
        x = grid_x - clips.x[i, :, None, None]
        y = grid_y - clips.y[i, :, None, None]
        radius = clips.radius[i, :, None, None]
        ink = color[i]
        if motion == spinning:
            cos, sin = torch.cos(clips.angle[i])[:, None, None], torch.sin(clips.angle[i])[:, None, None]
            x, y = cos * x + sin * y, cos * y - sin * x
            if shape in ("circle", "ring"):
                # A round shape gets a dark spot, or its turning could not be seen.
                spot = torch.hypot(x - radius * 0.55, y) - radius * 0.28
                spot = (0.5 - spot * (PIXELS / EDGE)).clamp_(0, 1)[..., None]
                ink = ink * (1 - spot) + 0.08 * spot
        cover = (0.5 - _distance(shape, x, y, radius) * (PIXELS / EDGE)).clamp_(0, 1)[..., None]
        torch.lerp(background[i].expand_as(video[i]), ink.expand_as(video[i]), cover, out=video[i])
    return video


class PatchCodec:
    """The linear patch codec of `decoder.safetensors`: pixels `[b, t, 64, 64, 3]` <-> latents `[b, 16, t, 8, 8]`."""

    def __init__(self, tensors):
        self.basis, self.mean, self.scale = tensors["basis"], tensors["mean"], tensors["scale"]
        # Encoding is affine: fold the pixel range, the mean and the scale into one matrix and one offset.
        self._encode = (2 * self.basis / self.scale[:, None]).T.contiguous()
        self._offset = (-1 - self.mean) @ self.basis.T / self.scale

    def encode(self, video):
        b, t = video.shape[:2]
        n = SIZE // PATCH
        patches = video.view(b, t, n, PATCH, n, PATCH, 3).permute(0, 1, 2, 4, 3, 5, 6).reshape(b * t * n * n, -1)
        latent = torch.addmm(self._offset, patches, self._encode)
        return latent.view(b, t, n, n, -1).permute(0, 4, 1, 2, 3).contiguous()

    def decode(self, latent):
        b, c, t, h, w = latent.shape
        patches = (latent.permute(0, 2, 3, 4, 1) * self.scale) @ self.basis + self.mean
        patches = patches.view(b, t, h, w, PATCH, PATCH, 3).permute(0, 1, 2, 4, 3, 5, 6)
        return ((patches.reshape(b, t, h * PATCH, w * PATCH, 3) + 1) / 2).clamp(0, 1)


def random_clips(batch, codec, generator, motions=None):
    """A random batch: latents `[batch, 16, 16, 8, 8]`, caption tokens `[batch, 8]` and geometry `[batch, frames, 6]`."""
    clips = place(random_attributes(batch, generator, motions), generator)
    return codec.encode(draw(clips)), clips.tokens(), clips.geometry()
