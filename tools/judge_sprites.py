"""Judges clips of the sprites vocabulary by their pixels alone: for each word of a prompt, is it what one sees?

    python tools/judge_sprites.py                                                # samples the 80 prompts with `sprites` and judges them
    python tools/judge_sprites.py --model-dir models/sprites-wan                 # the same with the small Wan
    python tools/judge_sprites.py --run checkpoints/sprites                      # the same with the EMA of a training run
    python tools/judge_sprites.py --videos clips                                 # what `adacache generate` wrote
    python tools/judge_sprites.py --self-test                                    # the judge on drawn clips: true ones, and of other prompts

Needs torch, safetensors and gguf; Pillow for --videos. A folder of videos holds one folder of pictures or one .gif for each prompt, named by the
prompt with `_`, `-` or spaces between the words, perhaps behind a number: `adacache generate --prompts FILE --out 'clips/{}/'` writes that.

How: the background is the one of the six that most pixels agree with; what differs from it is the shape. The color is the palette's
that most of these pixels agree with. Onto every frame each shape is fitted (centre, radius, angle) by least squares; the shape is the
one that leaves least. Its track over the frames is then held against every motion at every speed, with all that a caption leaves open
fitted, and the nearest is the motion and speed. A word is right if it is what was measured; a thing that nothing fits well is none of
the words, hence wrong. The speed of `still` cannot be seen and is left out. A circle that spins has a dark spot, so its spinning can be seen.
"""

import argparse
import json
import math
import pathlib
import re
import sys

import torch
import torch.nn.functional as F

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import sprites_data as data

ROOT = pathlib.Path(__file__).resolve().parent.parent
KINDS = ["size", "color", "shape", "motion", "speed", "background"]

# Pixels of RMS distance (over RGB) beyond which a pixel is not the background.
FOREGROUND = 0.15
# RMS distance within which a pixel has the palette's color.
SAME_COLOR = 0.2
# Largest part of a shape's squared area that a fit may leave, and RMS distance (half frames) from the nearest motion's track.
WORST_SHAPE, WORST_TRACK = 0.35, 0.12
# A track needs this many frames in which a shape is seen.
FEWEST_FRAMES = 10
# Between the mean radii of small (0.24) and large (0.42) things.
LARGE_FROM = 0.3175
RADII = (0.12, 0.62)

# What is fitted: shape, dark spot or none, period of the angle (0: none is seen).
FORMS = [("circle", False, 0.0), ("ring", False, 0.0), ("square", False, math.pi / 2), ("triangle", False, 2 * math.pi / 3)]
FORMS += [("circle", True, 2 * math.pi), ("ring", True, 2 * math.pi)]
ANGLES = {0.0: 1, math.pi / 2: 6, 2 * math.pi / 3: 8, 2 * math.pi: 12}

# Ranges that a measured speed may lie in, per frame and for slowly and fast; the middle is what clips are drawn with.
RANGES = {
    "straight": ((0.02, 0.07), (0.07, 0.16)),
    "bouncing": ((0.16, 0.38), (0.40, 0.80)),
    "orbiting": ((0.08, 0.26), (0.28, 0.60)),
    "spinning": ((0.06, 0.20), (0.22, 0.50)),
    # Change of the radius over the clip, as a part of its mean.
    "growing": ((0.22, 0.62), (0.62, 1.40)),
}


# ---- what is in the frames: background, color, how much of each pixel is the shape


def backgrounds(video):
    """Index of the background `[N]` of videos `[N, T, 64, 64, 3]`, -1 where none of the six is seen, and the pictures `[N, 64, 64, 3]`."""
    known = data._backgrounds()
    agreement = []
    for picture in known:
        distance = (video - picture).square().mean(-1).sqrt()
        agreement.append(torch.exp(-((distance / 0.1) ** 2)).mean(dim=(1, 2, 3)))
    best, index = torch.stack(agreement, 1).max(1)
    return torch.where(best > 0.35, index, -1), known[index]


def colors(video, background):
    """Index of the shape's color `[N]`, -1 where none is seen, and its RGB `[N, 3]`."""
    palette = torch.tensor(list(data.COLORS.values()))
    foreground = (video - background[:, None]).square().mean(-1).sqrt() > FOREGROUND
    index = torch.full((len(video),), -1)
    for i, (clip, mask) in enumerate(zip(video, foreground)):
        pixels = clip[mask]
        if len(pixels) < 200:
            continue
        distance = (pixels[:, None] - palette).square().mean(-1).sqrt()
        nearest, which = distance.min(1)
        votes = torch.bincount(which[nearest < SAME_COLOR], minlength=len(palette))
        if votes.max() > 0.2 * len(pixels):
            index[i] = votes.argmax()
    return index, palette[index.clamp(min=0)]


def coverage(video, background, color):
    """How much of each pixel is the shape, `[N, T, 64, 64]`: pixel = background + a (color - background) + s (dark - background), a in [0, 1]."""
    ink = color[:, None, None, None] - background[:, None]
    dark = 0.08 - background[:, None]
    rest = video - background[:, None]
    aa, dd, ad = ink.square().sum(-1), dark.square().sum(-1) + 0.05, (ink * dark).sum(-1)
    ra, rd = (rest * ink).sum(-1), (rest * dark).sum(-1)
    return ((dd * ra - ad * rd) / (aa * dd - ad * ad + 1e-6)).clamp(0, 1)


# ---- where the shape is: a least-squares fit of every form to every frame


def template(form, p, x, y):
    """Coverage `[N, P]` of a form at parameters `[N, 4]` (x, y, radius, angle) on pixels x, y `[P]`."""
    shape, spotted, period = form
    dx, dy, radius = x - p[:, :1], y - p[:, 1:2], p[:, 2:3]
    if period:
        cos, sin = p[:, 3:].cos(), p[:, 3:].sin()
        dx, dy = cos * dx + sin * dy, cos * dy - sin * dx
    edge = data.PIXELS / data.EDGE
    cover = (0.5 - data._distance(shape, dx, dy, radius) * edge).clamp(0, 1)
    if spotted:
        spot = (0.5 - (torch.hypot(dx - radius * 0.55, dy) - radius * 0.28) * edge).clamp(0, 1)
        cover = cover * (1 - spot)
    return cover


# Area of a shape of radius 1.
AREA = {"circle": math.pi, "ring": math.pi * (1.05**2 - 0.55**2), "square": 1.7**2, "triangle": 3 * math.sqrt(3) * 0.36}


def fit(form, frames, x, y, steps=6):
    """Fits a form to coverages `[N, P]`: parameters `[N, 4]` and the squares `[N]` that are left. Levenberg-Marquardt from moments."""
    shape, spotted, period = form
    mass = frames.sum(1).clamp(min=1e-3)
    start = torch.stack([frames @ x / mass, frames @ y / mass], 1)
    area = AREA[shape] - (math.pi * 0.28**2 if spotted else 0)
    pixel = 4 / len(x)
    radius = (mass * pixel / area).sqrt().clamp(*RADII)[:, None]
    left = lambda q: (template(form, q, x, y) - frames).square().sum(1)
    best, best_left = None, None
    for i in range(ANGLES[period]):
        q = torch.cat([start, radius, torch.full_like(radius, period * i / ANGLES[period])], 1)
        now = left(q)
        better = now < best_left if best is not None else torch.ones_like(now, dtype=torch.bool)
        best = q if best is None else torch.where(better[:, None], q, best)
        best_left = now if best_left is None else torch.where(better, now, best_left)
    free, damping = 4 if period else 3, torch.full((len(frames),), 1e-2)
    step = torch.tensor([0.01, 0.01, 0.01, 0.05])
    for _ in range(steps):
        base = template(form, best, x, y)
        columns = []
        for k in range(free):
            moved = best.clone()
            moved[:, k] += step[k]
            columns.append((template(form, moved, x, y) - base) / step[k])
        jacobian = torch.stack(columns, 2)
        gram = jacobian.mT @ jacobian
        gradient = (jacobian.mT @ (frames - base)[:, :, None])
        diagonal = torch.diag_embed(gram.diagonal(dim1=1, dim2=2) * damping[:, None] + 1e-3)
        change = torch.linalg.solve(gram + diagonal, gradient)[:, :, 0].clamp(-0.2, 0.2)
        tried = best.clone()
        tried[:, :free] += change
        tried[:, :2] = tried[:, :2].clamp(-1.4, 1.4)
        tried[:, 2] = tried[:, 2].clamp(*RADII)
        now = left(tried)
        better = now < best_left
        best, best_left = torch.where(better[:, None], tried, best), torch.where(better, now, best_left)
        damping = torch.where(better, damping * 0.3, damping * 5)
    return best, best_left


def shapes(cover):
    """Of coverages `[N, T, 64, 64]`: form index `[N]` (-1: nothing fits), track `[N, T, 4]` and the weight of each frame `[N, T]`."""
    n, t = cover.shape[:2]
    frames = F.avg_pool2d(cover.flatten(0, 1)[:, None], 2).flatten(1)
    axis = (torch.arange(data.SIZE // 2) + 0.5) * 2 / data.PIXELS - 1
    y, x = (g.flatten() for g in torch.meshgrid(axis, axis, indexing="ij"))
    energy = frames.square().sum(1).view(n, t)
    fits = [fit(form, frames, x, y) for form in FORMS]
    left = torch.stack([f[1].view(n, t).sum(1) for f in fits], 1) / energy.sum(1, keepdim=True).clamp(min=1.0)
    # A form that may turn has one number more to fit with.
    index = (left * torch.tensor([1.1 if form[2] else 1.0 for form in FORMS])).argmin(1)
    least = left[torch.arange(n), index]
    params = torch.stack([f[0].view(n, t, 4) for f in fits], 1)[torch.arange(n), index]
    # The visible part of a shape says how well its place is known.
    radius = params[:, :, 2]
    whole = torch.tensor([AREA[form[0]] for form in FORMS])[index][:, None] * radius**2 * len(x) / 4
    seen = (frames.sum(1).view(n, t) / whole).clamp(0, 1)
    weight = torch.where(seen > 0.25, seen, 0.0) ** 2
    return torch.where(least < WORST_SHAPE, index, -1), params, weight, least


# ---- how it moves: the track against every motion


class Track:
    """One clip's fitted frames, as columns, with the helpers that hypotheses are made of."""

    def __init__(self, params, weight, form):
        self.x, self.y, self.r, self.angle = params.double().unbind(1)
        self.w = weight.double() / weight.sum()
        self.period = FORMS[form][2]
        self.time = torch.arange(len(weight), dtype=torch.float64)

    def mean(self, u):
        return (self.w * u).sum(-1, keepdim=True)

    def off(self, u):
        """Weighted mean square of the distance of `u` to its mean."""
        return self.mean((u - self.mean(u)) ** 2)[..., 0]

    def line(self, u, low, high, scale=1.0):
        """The same to the best line whose slope (over `scale`) lies within low..high."""
        time = self.time - self.mean(self.time)
        slope = (self.mean(u * time) / self.mean(time * time)).clamp(low * scale, high * scale)
        return self.off(u - slope * time)

    def turned(self, rates):
        """Mean square of the distance, at the rim, of the angle to one that turns at each of `rates`: the least of these."""
        if not self.period:
            return torch.tensor(0.0 if 0.0 in rates else math.inf)
        order = 2 * math.pi / self.period
        error = order * (self.angle - torch.tensor(rates, dtype=torch.float64)[:, None] * self.time)
        resultant = torch.hypot(self.mean(error.cos()), self.mean(error.sin()))[:, 0].clamp(max=1)
        return (2 * (1 - resultant)).min() / order**2 * self.mean(self.r)[0] ** 2


def grid(low, high, count=12):
    rates = torch.linspace(low, high, count).tolist()
    return rates + [-r for r in rates]


def bounce(track, rates):
    """y = a + b |sin(rate time + phase)|, b between -1.7 and -0.6."""
    rate, phase = torch.meshgrid(torch.tensor(rates[: len(rates) // 2]), torch.arange(48) * math.pi / 48, indexing="ij")
    wave = torch.sin(rate.reshape(-1, 1) * track.time + phase.reshape(-1, 1)).abs()
    flat = wave - track.mean(wave)
    slope = (track.mean(flat * track.y) / track.mean(flat * flat).clamp(min=1e-9)).clamp(-1.7, -0.6)
    return track.off(track.y - slope * flat).min()


def orbit(track, rates):
    """A circle around the middle (within 0.25) of radius 0.25 to 0.7."""
    least = torch.tensor(math.inf)
    for rate in rates:
        cos, sin = torch.cos(rate * track.time), torch.sin(rate * track.time)
        one, zero = torch.ones_like(cos), torch.zeros_like(cos)
        matrix = torch.cat([torch.stack([one, zero, cos, -sin], 1), torch.stack([zero, one, sin, cos], 1)])
        root = track.w.sqrt().repeat(2)
        target = torch.cat([track.x, track.y])
        found = torch.linalg.lstsq(matrix * root[:, None], (target * root)[:, None]).solution[:, 0]
        found[:2] = found[:2].clamp(-0.25, 0.25)
        radius = torch.hypot(found[2], found[3])
        found[2:] *= radius.clamp(0.25, 0.7) / radius
        least = torch.minimum(least, (root * (target - matrix @ found)).square().sum())
    return least


def motion(track):
    """`(motion, speed, RMS distance)` of the nearest motion; the speed of `still` is None."""
    x, y, r, fixed = track.off(track.x), track.off(track.y), track.off(track.r), track.turned([0.0])
    distances = {("still", None): x + y + r + fixed}
    scale = track.mean(track.r)[0] / (len(track.time) - 1)
    for i, speed in enumerate(data.SPEEDS):
        low, high = RANGES["straight"][i]
        for name, along, across in (("left", track.x, y), ("up", track.y, x)):
            distances[name, speed] = track.line(along, -high, -low) + across + r + fixed
        for name, along, across in (("right", track.x, y), ("down", track.y, x)):
            distances[name, speed] = track.line(along, low, high) + across + r + fixed
        distances["bouncing", speed] = bounce(track, grid(*RANGES["bouncing"][i])) + x + r + fixed
        distances["orbiting", speed] = orbit(track, grid(*RANGES["orbiting"][i])) + r + fixed
        distances["spinning", speed] = track.turned(grid(*RANGES["spinning"][i], 24)) + x + y + r
        low, high = RANGES["growing"][i]
        distances["growing", speed] = track.line(track.r, low, high, scale) + x + y + fixed
        distances["shrinking", speed] = track.line(track.r, -high, -low, scale) + x + y + fixed
    (name, speed), least = min(distances.items(), key=lambda item: item[1])
    return name, speed, math.sqrt(max(0.0, float(least)))


# ---- the judgement


@torch.no_grad()
def measure(video):
    """What is seen in videos `[N, 16, 64, 64, 3]`: one dict a clip, of the six kinds' words (None: nothing that has a word) and the fit's numbers."""
    which, pictures = backgrounds(video)
    color, rgb = colors(video, pictures)
    form, params, weight, left = shapes(coverage(video, pictures, rgb))
    seen = []
    for i in range(len(video)):
        clip = dict.fromkeys(KINDS)
        clip["left"], clip["distance"] = float(left[i]), math.nan
        if which[i] >= 0:
            clip["background"] = data.BACKGROUNDS[which[i]]
        if color[i] >= 0:
            clip["color"] = list(data.COLORS)[color[i]]
            if form[i] >= 0 and (weight[i] > 0).sum() >= FEWEST_FRAMES:
                track = Track(params[i], weight[i], int(form[i]))
                clip["shape"] = FORMS[form[i]][0]
                clip["size"] = data.SIZES[int(track.mean(track.r)[0] >= LARGE_FROM)]
                name, speed, clip["distance"] = motion(track)
                if clip["distance"] < WORST_TRACK:
                    clip["motion"], clip["speed"] = name, speed
        seen.append(clip)
    return seen


def verdicts(prompts, seen):
    """For each clip a dict kind -> right; a kind that cannot be seen is absent."""
    rows = []
    for prompt, clip in zip(prompts, seen, strict=True):
        words = dict(zip(KINDS, prompt.split()))
        rows.append({kind: clip[kind] == word for kind, word in words.items() if not (kind == "speed" and words["motion"] == "still")})
    return rows


def score(rows):
    """`{kind: (right, of)}`, with `words` for all and `clips` for those with every word right."""
    totals = {kind: (sum(r[kind] for r in rows if kind in r), sum(kind in r for r in rows)) for kind in KINDS}
    totals["words"] = tuple(map(sum, zip(*totals.values())))
    totals["clips"] = (sum(all(r.values()) for r in rows), len(rows))
    return totals


def table(totals):
    return "  ".join(f"{kind} {100 * right / max(1, of):.1f}% ({right}/{of})" for kind, (right, of) in totals.items())


def by_word(prompts, rows, kind):
    """How often each word of a kind came out."""
    column, words = KINDS.index(kind), data.ATTRIBUTES[KINDS.index(kind)]
    of = {w: [r[kind] for p, r in zip(prompts, rows) if p.split()[column] == w and kind in r] for w in words}
    return "  ".join(f"{w} {sum(v)}/{len(v)}" for w, v in of.items())


def read_prompts(path):
    return [line.strip() for line in path.read_text().splitlines() if line.strip() and not line.startswith("#")]


def read_video(path):
    """Frames `[16, 64, 64, 3]` of a folder of pictures or an animation."""
    from PIL import Image, ImageSequence

    if path.is_dir():
        number = lambda p: [int(n) for n in re.findall(r"\d+", p.name)]
        frames = [Image.open(p) for p in sorted(path.glob("*.png"), key=number)]
    else:
        # The iterator gives the same picture again and again: keep copies.
        frames = [frame.convert("RGB") for frame in ImageSequence.Iterator(Image.open(path))]
    if len(frames) != data.FRAMES or frames[0].size != (data.SIZE, data.SIZE):
        raise SystemExit(f"{path}: {len(frames)} frames of {frames[0].size if frames else None}; expected {data.FRAMES} of {data.SIZE}x{data.SIZE}")
    pixels = [torch.frombuffer(bytearray(f.convert("RGB").tobytes()), dtype=torch.uint8) for f in frames]
    return torch.stack(pixels).view(data.FRAMES, data.SIZE, data.SIZE, 3) / 255


def read_videos(folder):
    """`(prompts, videos)` of a folder; see above for the names."""
    prompts, videos = [], []
    for path in sorted(folder.iterdir()):
        words = re.split(r"[ _-]", re.sub(r"^\d+[ _-]", "", path.stem))[: len(KINDS)]
        if (path.is_dir() or path.suffix == ".gif") and all(word in data.TOKEN for word in words) and len(words) == len(KINDS):
            prompts.append(" ".join(words))
            videos.append(read_video(path))
    if not videos:
        raise SystemExit(f"{folder}: no folder of pictures and no .gif that is named by a prompt")
    return prompts, torch.stack(videos)


def self_test(codec, count):
    """The judge on drawn clips: clean, through the codec, and held against the prompts of other clips."""
    generator = torch.Generator().manual_seed(5)
    attributes = data.random_attributes(count, generator)
    prompts = [" ".join(words[i] for words, i in zip(data.ATTRIBUTES, row)) for row in attributes.tolist()]
    clean = data.draw(data.place(attributes, generator))
    worst = 1.0
    for name, videos in (("clean", clean), ("through the codec", codec.decode(codec.encode(clean)))):
        seen = measure(videos)
        rows = verdicts(prompts, seen)
        totals = score(rows)
        worst = min(worst, *(right / max(1, of) for kind, (right, of) in totals.items() if kind in KINDS))
        print(f"{name}: {table(totals)}")
        for prompt, clip, row in zip(prompts, seen, rows):
            if not all(row.values()):
                words = " ".join(str(clip[kind]) for kind in KINDS)
                print(f"    {prompt}  was seen as  {words}  (left {clip['left']:.3f}, distance {clip['distance']:.3f})")
        others = score(verdicts(prompts[1:] + prompts[:1], seen))
        print(f"{name}, prompts of other clips: {table(others)}")
    print("chance: " + "  ".join(f"{kind} {100 / len(words):.1f}%" for kind, words in zip(KINDS, data.ATTRIBUTES)))
    return worst


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    path = pathlib.Path
    parser.add_argument("--weights", type=path, help="a model.gguf (or .safetensors) to sample from; default: that of --model-dir")
    parser.add_argument("--run", type=path, help="folder of a training run's checkpoint.pt to sample from (its EMA)")
    parser.add_argument("--videos", type=path, help="folder of videos to judge")
    parser.add_argument("--self-test", action="store_true", help="exit 1 if the judge misses 2 %% of any kind's words")
    parser.add_argument("--model-dir", type=path, default=ROOT / "models/sprites", help="config, text table and decoder")
    parser.add_argument("--prompts", type=path, default=ROOT / "models/sprites/prompts.txt")
    parser.add_argument("--clips", type=int, default=400, help="of the self-test")
    parser.add_argument("--limit", type=int, help="only the first so many prompts")
    parser.add_argument("--seed", type=int, default=1, help="of the noise")
    parser.add_argument("--sampling-steps", type=int, help="default: the model's")
    parser.add_argument("--cfg-scale", type=float, help="default: the model's")
    parser.add_argument("--threads", type=int, default=0, help="0: torch's default; on a busy machine 1 is faster")
    parser.add_argument("--verbose", action="store_true", help="each clip: what was seen")
    parser.add_argument("--json", type=path, help="write the counts")
    return parser.parse_args()


def main():
    import train_sprites

    args = arguments()
    if args.threads:
        torch.set_num_threads(args.threads)
    sprites = train_sprites.Sprites(args.model_dir)
    if args.self_test:
        sys.exit(self_test(sprites.codec, args.clips) < 0.98)
    if args.videos:
        prompts, videos = read_videos(args.videos)
    else:
        prompts = read_prompts(args.prompts)[: args.limit]
        if args.run:
            weights = torch.load(args.run / "checkpoint.pt", weights_only=True)["ema"]
        else:
            weights = train_sprites.read_weights(args.weights or args.model_dir / train_sprites.MODEL_FILE)
        model = sprites.network.model()
        model.load_state_dict(weights)
        videos = sprites.sample(model, prompts, args.seed, args.sampling_steps, args.cfg_scale)
    seen = measure(videos)
    rows = verdicts(prompts, seen)
    if args.verbose:
        for prompt, clip, row in zip(prompts, seen, rows):
            words = " ".join(str(clip[kind]) for kind in KINDS)
            print(f"{'ok ' if all(row.values()) else '   '} {prompt}  seen: {words}  (left {clip['left']:.3f}, distance {clip['distance']:.3f})")
    for kind in ("motion", "shape"):
        print(f"{kind}: {by_word(prompts, rows, kind)}")
    totals = score(rows)
    print(table(totals))
    if args.json:
        args.json.write_text(json.dumps({kind: {"right": right, "of": of} for kind, (right, of) in totals.items()}, indent=1))


if __name__ == "__main__":
    main()
