"""The hooks on a transformer and its blocks, by the registry that diffusers' own caches use.

The hook on the transformer says when a call begins and ends. The hooks on the blocks let them run, or hand their input on; the last block of a
reused call gives the input of the first plus the fold. Hooks on submodules read what the policy measures.
"""
from __future__ import annotations

import inspect
from typing import Any, Dict, List

import torch
from diffusers.hooks import HookRegistry, ModelHook
from diffusers.hooks.hooks import BaseState, StateManager

from .cache import Cache
from .track import Call

#: The name of the hooks in their registries.
NAME = "adacache"

#: Inside of a compiled transformer, hooks run as they are; the forwards that they call are compiled.
_as_it_is = torch.compiler.disable(recursive=False)


class _Context(StateManager):
    """The name that the pipeline gives to a call: `cond`, `uncond`, `cond_uncond`."""

    def __init__(self):
        super().__init__(BaseState)

    @property
    def name(self):
        context = self._context if hasattr(self, "_context") else getattr(self, "_current_context", None)
        return getattr(context, "name", context)


def _names(module: torch.nn.Module) -> List[str]:
    """The names of the positional arguments of a module's forward."""
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(type(module).forward).parameters.values()
    return [p.name for p in parameters if p.kind in positional][1:]


class _Bound:
    """What belongs to one cache, and is not copied."""

    cache: Cache

    def _refuse(self, *_):
        return self.cache._refuse()

    __deepcopy__ = __copy__ = __reduce_ex__ = _refuse


class _Hook(_Bound, ModelHook):
    """A hook of one cache."""

    def __init__(self, cache: Cache):
        super().__init__()
        self.cache = cache


class _OutputReader(_Bound):
    """Reads what a submodule returns while its block is measured."""

    def __init__(self, hook: "BlockHook", name: str):
        self.cache, self.hook, self.name = hook.cache, hook, name

    def __call__(self, module, args, output):
        if self.hook.outputs is not None:
            self.hook.outputs[self.name] = output


class _TimeReader(_Bound):
    """Measures the time's embedding and its projection."""

    def __init__(self, cache: Cache, points):
        self.cache, self.points = cache, points

    def __call__(self, module, args, output):
        call = self.cache.call
        if call is None:
            return
        for point, place in self.points:
            if call.track.wants(point):
                call.track.measure_before(call, point, output[place].detach().float().clone())


class TransformerHook(_Hook):
    """Says when a call of a transformer begins and ends."""

    _is_stateful = True

    def __init__(self, cache: Cache, expert: int, transformer: torch.nn.Module):
        super().__init__(cache)
        self.expert, self.context, self.names = expert, _Context(), _names(transformer)

    @_as_it_is
    def new_forward(self, module, *args, **kwargs):
        forward = self.fn_ref.original_forward
        call = self.cache.begin(self.expert, self.context.name, dict(zip(self.names, args)) | kwargs)
        if call is None:
            return forward(*args, **kwargs)
        try:
            if call.plan == "reuse" and call.track.offsets:
                return self._reused(call, kwargs)
            output = forward(*args, **kwargs)
            if not call.reached:
                raise RuntimeError("the last block of the anatomy did not run, so that nothing can be kept: adacache.disable(pipe), or give an "
                                   "Anatomy whose blocks(…) lists the blocks that run")
            self.cache.end(call, output[0] if isinstance(output, tuple) else output.sample)
            return output
        except BaseException:
            self.cache._abandon()
            raise

    def _reused(self, call: Call, kwargs: Dict[str, Any]):
        """A call in which nothing of the transformer runs."""
        anatomy = self.cache.bound[self.expert].anatomy
        latents = call.arguments[anatomy.latents]
        prediction = (latents.float() + call.track.offset[call.name]).to(latents.dtype)
        self.cache.end(call, prediction)
        if kwargs.get("return_dict", True):
            from diffusers.models.modeling_outputs import Transformer2DModelOutput
            return Transformer2DModelOutput(sample=prediction)
        return (prediction,)

    def reset_state(self, module):
        """The pipeline is done."""
        self.cache.reset()
        return module


class _Stop(Exception):
    """The block's input has been read; the rest of the block is not wanted."""


class BlockHook(_Hook):
    """Runs a block, or hands its input on."""

    def __init__(self, cache: Cache, expert: int, index: int):
        super().__init__(cache)
        bound = cache.bound[expert]
        self.block, self.expert, self.index = bound.blocks[index], expert, index
        self.names = _names(self.block.module)
        layer = sum(1 for other in bound.blocks[:index] if other.span == self.block.span)
        self.points = {site: f"{self.block.span}.{layer}.{site}" for site in ("attention", "cross-mlp", "whole")}
        self.last = len(bound.blocks) - 1
        #: What the submodules returned in this block's run; None while they are not read.
        self.outputs = None
        #: Whether the attention's input is read, and the block stopped there.
        self.looks = False
        self.handles: List[Any] = []

    # The submodules of a tap ---------------------------------------------------------------------------------------------------------------

    def initialize_hook(self, module):
        tap = self.block.tap
        for name in tap.reads if tap is not None else ():
            self.handles.append(module.get_submodule(name).register_forward_hook(_OutputReader(self, name)))
        if tap is not None and self.index == 0:
            attention = module.get_submodule(tap.attention)
            self.handles.append(attention.register_forward_pre_hook(self._look, with_kwargs=True))
        return module

    def deinitalize_hook(self, module):
        for handle in self.handles:
            handle.remove()
        self.handles = []
        return module

    def _look(self, module, args, kwargs):
        if self.looks:
            self.outputs = {"": args[0] if args else kwargs["hidden_states"]}
            raise _Stop

    # A run ----------------------------------------------------------------------------------------------------------------------------------

    @_as_it_is
    def new_forward(self, module, *args, **kwargs):
        forward = self.fn_ref.original_forward
        call = self.cache.call
        if call is None or call.expert != self.expert:
            return forward(*args, **kwargs)
        hidden = args[0] if args else kwargs["hidden_states"]
        track, head = call.track, call.track.head
        if self.index == 0 and call.plan is None and (track.wants("modulated") or track.wants("filtered")):
            self._modulated(call, forward, args, kwargs)
        if self.index == head:
            call.entered = hidden
            self.cache.decide(call)
        if self.index == self.last:
            call.reached = True
        if self.index >= head and call.plan == "reuse":
            out = track.unfold(call).reshape(hidden.shape) if self.index == self.last else hidden
            return (out, self._encoder(args, kwargs)) if self.block.pair else out
        output = self._run_block(call, forward, hidden, args, kwargs)
        if self.index == self.last:
            track.keep_fold(call, output[0] if self.block.pair else output)
        return output

    def _encoder(self, args, kwargs):
        if "encoder_hidden_states" in kwargs:
            return kwargs["encoder_hidden_states"]
        return args[self.names.index("encoder_hidden_states")]

    def _modulated(self, call: Call, forward, args, kwargs) -> None:
        """Measures the block's normed and modulated input, as it is and filtered."""
        self.looks = True
        try:
            forward(*args, **kwargs)
        except _Stop:
            self.cache.measure_input(call, self.outputs[""].detach())
        finally:
            self.looks, self.outputs = False, None

    def _run_block(self, call: Call, forward, hidden, args, kwargs):
        """The block's output; what the policy measures of the block is measured."""
        track, wanted = call.track, {}
        for site, point in self.points.items():
            if track.wants(point):
                wanted[site] = point
        if not wanted:
            return forward(*args, **kwargs)
        if "whole" not in wanted or len(wanted) > 1:
            self.outputs = {}
        try:
            output = forward(*args, **kwargs)
            attention = None
            if self.outputs is not None:
                arguments = dict(zip(self.names, args)) | kwargs
                attention = self.block.tap.residual(self.block.module, arguments, self.outputs).detach().to(hidden.dtype)
        finally:
            self.outputs = None
        whole = None
        if "whole" in wanted or "cross-mlp" in wanted:
            whole = ((output[0] if self.block.pair else output) - hidden).detach()
        residuals = {"attention": attention, "whole": whole}
        if "cross-mlp" in wanted:
            residuals["cross-mlp"] = whole - attention
        measure = track.measure_before if self.index < track.head else track.measure_after
        for site, point in wanted.items():
            measure(call, point, residuals[site].reshape(hidden.shape), self.block.span)
        return output


def attach(cache: Cache, expert: int, transformer: torch.nn.Module) -> None:
    """Puts the hooks on a transformer and its blocks."""
    bound = cache.bound[expert]
    _register(transformer, TransformerHook(cache, expert, transformer))
    for index, block in enumerate(bound.blocks):
        _register(block.module, BlockHook(cache, expert, index))
    readers: Dict[str, List] = {}
    for point, (name, place) in bound.anatomy.time.items():
        readers.setdefault(name, []).append((point, place))
    for name, points in readers.items():
        cache._handles.append(transformer.get_submodule(name).register_forward_hook(_TimeReader(cache, points)))
    _refresh(transformer)


def detach(transformer: torch.nn.Module, modules: List[torch.nn.Module]) -> None:
    """Takes the hooks away; modules that have no other hook are as they were."""
    for module in [*modules, transformer]:
        registry = module._diffusers_hook
        registry.remove_hook(NAME, recurse=False)
        if not registry.hooks:
            del module._diffusers_hook
            # A method of the class, which was not in the instance before.
            if getattr(module.forward, "__func__", None) is type(module).forward:
                del module.forward
    if hasattr(transformer, "_diffusers_hook"):
        _refresh(transformer)


def _refresh(transformer: torch.nn.Module) -> None:
    """Registries below were added or taken away: a diffusers that remembers them looks again."""
    invalidate = getattr(transformer._diffusers_hook, "invalidate_child_registries_cache", None)
    if invalidate is not None:
        invalidate()


def _register(module: torch.nn.Module, hook: ModelHook) -> None:
    HookRegistry.check_if_exists_or_initialize(module).register_hook(hook, NAME)
