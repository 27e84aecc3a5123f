"""What caches do to the videos of a pipeline: the page of `adacache compare`, and a codebook found as `adacache calibrate` finds it.

Both make a folder that can be sent to others: report, traces, measures and the facts of the device; videos only where they are asked for.
"""
from __future__ import annotations

import json
import platform
import time
import zlib
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple, Union

import torch

from . import _native, disable, enable
from .anatomy import Anatomy, anatomy_of
from .cache import Cache

#: A prompt, or the arguments of a call that stand for it (`prompt_embeds` and so on).
Prompt = Union[str, Mapping[str, Any]]

#: The name of the run that everything is measured against.
ORIGINAL = "none"


def device_facts(pipe: Any) -> Dict[str, Any]:
    """The machine and the programs that a run's seconds are of."""
    import diffusers

    device = pipe.transformer.device
    facts = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()} CPU, {torch.get_num_threads()} threads",
        "dtype": str(pipe.transformer.dtype).removeprefix("torch."), "torch": torch.__version__, "cuda": torch.version.cuda,
        "diffusers": diffusers.__version__, "adacache": _native.__version__, "python": platform.python_version(),
    }
    return facts


class _Generation:
    """One run: its pixels and its latents."""

    def __init__(self, pipe: Any, prompt: Prompt, seed: int, arguments: Mapping[str, Any], fps: float):
        arguments = {**arguments, **({"prompt": prompt} if isinstance(prompt, str) else prompt)}
        latents: List[torch.Tensor] = []

        def keep(pipe, step, timestep, values):
            latents[:] = [values["latents"]]
            return {}

        if torch.cuda.is_available():
            torch.cuda.synchronize()
        began = time.perf_counter()
        frames = pipe(**arguments, generator=torch.Generator().manual_seed(seed), output_type="pt", callback_on_step_end=keep).frames
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds = time.perf_counter() - began
        pixels = frames[0].float()
        # [frames, channels, height, width]
        pixels = (pixels.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu()
        kept = latents[0][0].float().cpu()
        # Packed latents are a row of tokens: their norm is what is compared.
        kept = kept.reshape((1, 1, *kept.shape)[-4:] if kept.dim() < 4 else kept.shape).contiguous()
        count, height, width, _ = pixels.shape
        self.pixels = pixels
        self.video = _native.Video(pixels.numpy().tobytes(), height, width, fps, kept.numpy().tobytes(), tuple(kept.shape))


def _label(prompt: Prompt, index: int) -> str:
    return prompt if isinstance(prompt, str) else f"prompt {index + 1}"


def _work(cache: Cache, reused: float) -> List[float]:
    """The work of each step relative to a computed one."""
    share = {"compute": 1.0, "reuse": reused}
    return [share.get(plan, (1 + reused) / 2) for plan in cache.report().plans]


def _reused_share(pipe: Any, anatomy: Optional[Anatomy]) -> float:
    """About the work of a reused step relative to a computed one: the share of the weights that lie outside of the blocks."""
    transformer = getattr(pipe.transformer, "_orig_mod", pipe.transformer)
    everything = sum(p.numel() for p in transformer.parameters())
    blocks = {id(p): p.numel() for block in (anatomy or anatomy_of(transformer)).of(transformer).blocks for p in block.module.parameters()}
    return 1 - sum(blocks.values()) / everything


def _off(pipe: Any) -> None:
    if any(hasattr(getattr(t, "_orig_mod", t), "_adacache") for t in (pipe.transformer, getattr(pipe, "transformer_2", None)) if t is not None):
        raise RuntimeError("the pipeline has a cache: call adacache.disable(pipe) first, runs with and without are compared")


def compare(
    pipe: Any,
    prompts: Sequence[Prompt],
    caches: Sequence[str],
    *,
    out: Union[str, Path],
    seeds: Sequence[int] = (0,),
    fps: float = 16.0,
    videos: bool = False,
    anatomy: Optional[Anatomy] = None,
    **arguments: Any,
) -> str:
    """Generates every prompt with every cache and without one, and measures what the caches did.

    * `prompts`: texts, or for each a mapping of arguments in its place (`prompt_embeds`, …).
    * `caches`: policies as `adacache.enable` takes them; `+moreg` behind a preset's name.
    * `out`: the folder: `index.html` (the page of `adacache compare`), `results.json`, `results.csv`, `device.json`, and of each run its trace.
    * `videos`: whether the frames are kept as `.pt` files too; the page shows them anyway.
    * `anatomy`: as for `adacache.enable`.
    * `arguments`: what the pipeline is called with (`num_inference_steps`, `height`, …).

    Returns a table of the means. Raises what the pipeline raises, and `RuntimeError` if it has a cache already.
    """
    _off(pipe)
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    facts, reused = device_facts(pipe), _reused_share(pipe, anatomy)
    comparison, steps, size = _native.Comparison(), 0, None
    names = [ORIGINAL, *(cache for cache in caches if cache != ORIGINAL)]
    short = [_short(name) for name in names]
    if len(set(short)) < len(short):
        raise ValueError(f"two caches have the same name: {short}")
    for index, prompt in enumerate(prompts):
        for seed in seeds:
            original: Optional[_Generation] = None
            for policy, name in zip(names, short):
                cache = enable(pipe, policy, anatomy=anatomy)
                try:
                    run = _Generation(pipe, prompt, seed, arguments, fps)
                finally:
                    disable(pipe)
                original = original or run
                report = cache.report()
                comparison.add(_label(prompt, index), seed, name, report.computed_steps, report.steps_of("cond", "uncond"), _work(cache, reused),
                               report.decisions, run.seconds, facts["device"], report.bytes, run.video, original.video)
                steps, size = report.steps, run.pixels.shape
                stem = f"{index:03}-{seed}-{name}"
                cache.write_trace(folder / f"{stem}.jsonl")
                if videos:
                    torch.save(run.pixels, folder / f"{stem}.pt")
    about = {
        "model": type(pipe).__name__, "steps": steps, "cfg_scale": arguments.get("guidance_scale"), "dtype": facts["dtype"], "device": facts["device"],
        "policies": [{"name": name, "settings": policy} for policy, name in zip(names, short)], "program": facts["adacache"], "kernels": "torch",
        "weights": getattr(pipe.config, "_name_or_path", None) or "unknown",
        "video": {"width": size[2], "height": size[1], "frames": size[0], "fps": fps},
    }
    results, csv, page = comparison.finish(json.dumps(about))
    for name, text in (("results.json", results), ("results.csv", csv), ("index.html", page), ("device.json", json.dumps(facts, indent=2) + "\n")):
        (folder / name).write_text(text, encoding="utf-8")
    return table(json.loads(results)["summaries"], facts["device"])


def _short(policy: str) -> str:
    """The name of a policy in a table."""
    if "\n" in policy or "=" in policy:
        return f"toml-{zlib.crc32(policy.encode()):08x}"
    return Path(policy).name.removesuffix(".toml")


def table(summaries: Sequence[Mapping[str, Any]], device: str) -> str:
    """The means of a comparison in lines."""
    lines = [f"{'policy':<24}  runs  computed  compute  PSNR dB    SSIM  seconds"]
    for s in summaries:
        lines.append(f"{s['cache']:<24}  {s['runs']:>4}  {s['computed_steps']['mean']:>8.1f}  {s['compute']['mean']:>7.1%}  {s['psnr']['mean']:>7.2f}  "
                     f"{s['ssim']['mean']:.4f}  {s['seconds']['mean']:>7.2f}")
    lines.append(f"compute in weights that run, relative to all; seconds of whole calls, on {device}")
    return "\n".join(lines)


def calibrate(
    pipe: Any,
    prompts: Sequence[Prompt],
    *,
    target_speedup: float,
    out: Union[str, Path],
    seed: int = 0,
    verify: int = 2,
    rounds: int = 8,
    moreg: bool = False,
    fps: float = 16.0,
    anatomy: Optional[Anatomy] = None,
    **arguments: Any,
) -> Path:
    """Finds a codebook for this pipeline that saves as much as asked for, and writes it as a TOML file.

    Every prompt is generated once with every step computed, which records what the policies measure; a search over the recorded runs proposes
    codebooks, and the best are tried in real runs: `rounds` at most, `verify` of the search. `target_speedup`: the work of computing every step
    over that with the cache. Returns the path.

    Raises `ValueError` for a target out of reach, and what the pipeline raises.
    """
    _off(pipe)
    path = Path(out)
    if path.suffix != ".toml":
        raise ValueError(f"out={str(path)!r}: a file of settings ends in .toml")
    traces, originals, cache = [], [], None
    for index, prompt in enumerate(prompts):
        cache = enable(pipe, record=True, anatomy=anatomy)
        try:
            originals.append(_Generation(pipe, prompt, seed + index, arguments, fps))
        finally:
            disable(pipe)
        traces.append(cache.trace())
    if cache is None:
        raise ValueError("no prompts: give at least one")
    timesteps = cache._run.timesteps
    native, steps = cache.bound[0].native, len(timesteps)
    presets = cache.presets(steps)
    begin = [presets.configuration(name + ("+moreg" if moreg else ""), False, native, steps, 1 << 16) for name in ("adacache-fast", "adacache-slow")]
    deltas = [abs(t - after) / 1000 for t, after in zip(timesteps, [*timesteps[1:], 0.0])]

    def generate(text: str) -> List[Tuple]:
        runs = []
        for index, prompt in enumerate(prompts):
            tried = enable(pipe, text, anatomy=anatomy)
            try:
                run = _Generation(pipe, prompt, seed + index, arguments, fps)
            finally:
                disable(pipe)
            report = tried.report()
            runs.append((report.computed_steps, report.decisions, run.video.psnr(originals[index].video)))
        return runs

    text, speedup, psnr, met, tried = _native.calibrate(traces, deltas, begin, target_speedup, _reused_share(pipe, anatomy), verify, rounds, generate)
    header = (f"# adacache.calibrate: {type(pipe).__name__}, {steps} steps, {len(prompts)} prompts, seeds from {seed}; adacache {_native.__version__}\n"
              f"# achieved {speedup:.3f} times less work at {psnr:.2f} dB; {tried} codebooks were tried\n")
    path.write_text(header + text, encoding="utf-8")
    if not met:
        raise ValueError(f"{path} misses the target: {speedup:.2f} in place of {target_speedup}, the nearest of {tried} tried; ask for less, or give more rounds")
    return path
