"""Adaptive Caching for the video pipelines of diffusers.

    import adacache
    cache = adacache.enable(pipe, "adacache-fast", moreg=True)
    video = pipe(prompt).frames[0]
    print(cache.summary())
    adacache.disable(pipe)
"""
from __future__ import annotations

from typing import Any, List, Optional, Sequence

import torch

from ._native import __version__
from .anatomy import FAMILIES, Anatomy, Block, Tap, anatomy_of
from .cache import Cache
from .report import Report

__all__ = ["Anatomy", "Block", "Cache", "FAMILIES", "Report", "Tap", "__version__", "anatomy_of", "calibrate", "compare", "disable", "enable", "presets"]

#: Where a transformer says which cache it has.
_MARK = "_adacache"


def _experts(pipe: Any) -> List[torch.nn.Module]:
    """The transformers that a pipeline, or a transformer itself, denoises with."""
    if isinstance(pipe, torch.nn.Module):
        return [pipe]
    found = [getattr(pipe, name, None) for name in ("transformer", "transformer_2")]
    found = [one for one in found if isinstance(one, torch.nn.Module)]
    if not found:
        raise TypeError(f"{type(pipe).__name__} has no transformer: adacache is for pipelines of diffusion transformers")
    return found


def _plain(transformer: torch.nn.Module) -> torch.nn.Module:
    """The transformer inside of what torch.compile made of it."""
    return getattr(transformer, "_orig_mod", transformer)


def _check(transformer: torch.nn.Module) -> None:
    """Refuses what hooks would break or be broken by."""
    name = type(transformer).__name__
    if hasattr(transformer, _MARK):
        raise RuntimeError(f"this {name} already has {getattr(transformer, _MARK)!r}: call adacache.disable(pipe) first")
    if getattr(transformer, "is_cache_enabled", False):
        raise RuntimeError(f"this {name} already has a cache of diffusers: call pipe.transformer.disable_cache() first")
    if getattr(transformer, "hf_device_map", None) and len(set(transformer.hf_device_map.values())) > 1:
        raise RuntimeError(f"this {name} is spread over several devices, and what adacache keeps lies on one: load it onto one device")
    if getattr(transformer, "_parallel_config", None) is not None:
        raise RuntimeError(f"this {name} runs in parallel on several processes, which would have to decide alike: adacache is for one process")
    for module in transformer.modules():
        if hasattr(module, "_hf_hook"):
            raise RuntimeError(f"this {name} has hooks of accelerate (offloading, or a device map): call adacache.enable(pipe) first, then "
                               "pipe.enable_model_cpu_offload() or pipe.enable_sequential_cpu_offload()")


def enable(
    pipe: Any,
    policy: str = "adacache-fast",
    *,
    moreg: bool = False,
    halves: str = "together",
    anatomy: Optional[Anatomy] = None,
    record: bool = False,
    timesteps: Optional[Sequence[float]] = None,
    shift: Optional[float] = None,
) -> Cache:
    """Puts a cache on a pipeline of diffusers, until `disable`.

    * `pipe`: the pipeline, or a transformer by itself; that needs `timesteps`, or `Cache.start` before each generation.
    * `policy`: a preset (`adacache.presets(pipe)` lists them), the path of a TOML file, or a TOML text.
    * `moreg`: with motion regularization (AdaCache).
    * `halves`: `together`: one decision for both halves of guidance, as published; `apart`: each half decides by itself, where the pipeline
      calls the transformer once for each.
    * `anatomy`: what the transformer is made of, if its class is none of `FAMILIES`.
    * `record`: compute every step and measure what the presets measure, in place of `policy`: the trace can be replayed.
    * `shift`: the shift of the noise levels, if the scheduler does not tell; published constants are compared with it.

    Raises `TypeError` for what is no such pipeline, `ValueError` for settings that are wrong, `RuntimeError` for a transformer that has a cache
    already or cannot have one.
    """
    from .hooks import attach

    if halves not in ("together", "apart"):
        raise ValueError(f"halves={halves!r}: together or apart")
    experts = [_plain(transformer) for transformer in _experts(pipe)]
    for transformer in experts:
        _check(transformer)
    bound = [(anatomy or anatomy_of(transformer)).of(transformer) for transformer in experts]
    cache = Cache(None if isinstance(pipe, torch.nn.Module) else pipe, experts, bound, str(policy), moreg, halves, record, timesteps, shift)
    if not record:
        # What is wrong with the settings is told now, not in the first run.
        cache.configuration(50, 1 << 16)
    for index, transformer in enumerate(experts):
        attach(cache, index, transformer)
        setattr(transformer, _MARK, cache)
    return cache


def disable(pipe: Any) -> None:
    """Takes the cache off a pipeline, which is then as it was before `enable`. The cache's reports stay.

    Raises `RuntimeError` if the pipeline has none, or if hooks of accelerate were put on after it.
    """
    from .hooks import detach

    experts = [_plain(transformer) for transformer in _experts(pipe)]
    caches = [getattr(transformer, _MARK, None) for transformer in experts]
    if not any(caches):
        raise RuntimeError("this pipeline has no adacache to disable")
    for transformer in experts:
        if any(hasattr(module, "_hf_hook") for module in transformer.modules()):
            raise RuntimeError("hooks of accelerate lie over those of adacache: call pipe.remove_all_hooks() first, then adacache.disable(pipe)")
    for cache, transformer in zip(caches, experts):
        cache.reset()
        index = [expert() for expert in cache.experts].index(transformer)
        detach(transformer, [block.module for block in cache.bound[index].blocks])
        for handle in cache._handles:
            handle.remove()
        delattr(transformer, _MARK)


def presets(pipe: Any, steps: int = 50, anatomy: Optional[Anatomy] = None) -> List[str]:
    """The names of the presets that this pipeline's model has."""
    experts = [_plain(transformer) for transformer in _experts(pipe)]
    of = (anatomy or anatomy_of(experts[0])).of(experts[0])
    return of.presets(experts[0], steps, None, len(experts)).names()


def __getattr__(name: str) -> Any:
    """`compare` and `calibrate`, which are loaded when they are used."""
    if name in ("compare", "calibrate"):
        from . import judge

        return getattr(judge, name)
    raise AttributeError(f"module 'adacache' has no attribute {name!r}")
