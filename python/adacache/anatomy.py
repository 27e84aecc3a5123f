"""What the blocks of a transformer are made of, and where in them AdaCache measures.

An `Anatomy` is data and a few short functions: the blocks in execution order, how many frames of tokens a call has, and how the gated
self-attention residual of a block is read from the outputs of its submodules. `FAMILIES` has one for each transformer of diffusers that is
known by its class.
"""
from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Callable, Mapping, Optional, Sequence, Tuple

import torch

from . import _native

Tensor = torch.Tensor


@dataclass(frozen=True)
class Tap:
    """How the gated self-attention residual of a block, what its self-attention adds to the hidden states, is read.

    * `attention`: the name of the self-attention submodule. Its first input is the block's normed and modulated input.
    * `reads`: the names of the submodules whose outputs `residual` needs.
    * `residual(block, arguments, outputs)`: the residual, of the shape of the hidden states. `arguments` are the arguments of the block's
      forward by name, `outputs` those of the submodules in `reads`.
    """

    attention: str
    reads: Sequence[str]
    residual: Callable[[torch.nn.Module, Mapping[str, Any], Mapping[str, Any]], Tensor]


@dataclass(frozen=True)
class Block:
    """One block.

    * `module`: the block itself. Its forward takes `hidden_states` (by that name or first), and returns them first.
    * `span`: what its self-attention spans: `spatial` (the tokens of a frame; the batch holds the frames), `temporal` (the frames of a
      location) or `block` (everything).
    * `modules`: its parts in execution order, of `attention`, `cross` and `mlp`.
    * `pair`: whether it returns `(hidden_states, encoder_hidden_states)`.
    * `tap`: how its attention residual is read; `None`: it cannot be.
    """

    module: torch.nn.Module
    span: str = "block"
    modules: Sequence[str] = ("attention", "cross", "mlp")
    pair: bool = False
    tap: Optional[Tap] = None


def _same(x: Tensor, frames: int) -> Tensor:
    return x


def _middle(transformer: torch.nn.Module, blocks: Sequence[Block]) -> int:
    """The layer that is probed: the last of the first half of those that can be, as Open-Sora's 13 of 28."""
    can = [block for block in blocks if block.tap is not None and block.span != "spatial"]
    return max(len(can) - 1, 0) // 2


def _scaled(transformer, anatomy, steps: int, shift: Optional[float], experts: int):
    """Open-Sora's presets, scaled to the number of steps: no codebook was published for the model."""
    return _native.Presets.scaled(steps, anatomy.probed)


@dataclass(frozen=True)
class Anatomy:
    """What `adacache.enable` has to know of a transformer.

    * `blocks(transformer)`: its blocks in execution order. Everything between the input of the first and the output of the last adds to the
      hidden states; what comes behind reads the hidden states alone.
    * `frames(transformer, arguments)`: the frames of tokens in a call of the transformer, whose arguments are given by name. The tokens of a
      frame are neighbours.
    * `latents`: the name of the argument that holds the latents.
    * `arrive(x, frames)`: the first block's input in the layout of the last block's output, where the two differ.
    * `grid(transformer, arguments)`: the tokens along (time, height, width), for SeaCache's filter; None: it cannot be run.
    * `time`: of `time` and `time-projection` the submodule that returns them, and their place in what it returns.
    * `probed(transformer, blocks)`: the layer that the presets probe.
    * `presets(transformer, bound, steps, shift, experts)`: the presets; by default Open-Sora's, scaled to the number of steps.
    """

    blocks: Callable[[torch.nn.Module], Sequence[Block]]
    frames: Callable[[torch.nn.Module, Mapping[str, Any]], int]
    latents: str = "hidden_states"
    arrive: Callable[[Tensor, int], Tensor] = _same
    grid: Optional[Callable[[torch.nn.Module, Mapping[str, Any]], Tuple[int, int, int]]] = None
    time: Mapping[str, tuple] = field(default_factory=dict)
    probed: Callable[[torch.nn.Module, Sequence[Block]], int] = _middle
    presets: Callable[..., Any] = _scaled

    def of(self, transformer: torch.nn.Module) -> "Bound":
        """The anatomy of this transformer."""
        return Bound(self, transformer)


class Bound:
    """The anatomy of one transformer."""

    def __init__(self, anatomy: Anatomy, transformer: torch.nn.Module):
        self.anatomy = anatomy
        self.blocks = list(anatomy.blocks(transformer))
        if not self.blocks:
            raise ValueError(f"{type(transformer).__name__} has no blocks: Anatomy(blocks=…) has to list them")
        self.native = _native.Anatomy([(block.span, list(block.modules)) for block in self.blocks])
        self.probed = anatomy.probed(transformer, self.blocks)

    def presets(self, transformer, steps: int, shift: Optional[float], experts: int):
        return self.anatomy.presets(transformer, self, steps, shift, experts)


def _gated(attention: str, gate: Callable) -> Tap:
    """The output of the attention times a gate made of the block's arguments."""
    return Tap(attention, (attention,), lambda block, arguments, outputs: outputs[attention] * gate(block, arguments))


# Wan: modulation [1, 6, D] + [batch, 6, D], or [batch, tokens, 6, D] where frames have times of their own.
def _wan_gate(block, arguments):
    table, temb = block.scale_shift_table, arguments["temb"]
    if temb.ndim == 4:
        return table[:, 2] + temb[:, :, 2].float()
    return table[:, 2:3] + temb[:, 2:3].float()


def _wan_presets(transformer, anatomy, steps, shift, experts):
    c = transformer.config
    dim = c.num_attention_heads * c.attention_head_dim
    channels = c.out_channels or c.in_channels
    return _native.Presets.wan(dim, c.ffn_dim, c.num_layers, channels, experts, 5.0 if shift is None else shift)


def _patches(axis: int, patch: Callable) -> Mapping[str, Callable]:
    """Frames and grid where the latents have their frames along `axis`, height and width last, and `patch(config)` of them, `(time, height and
    width)`, become a token."""

    def frames(transformer, arguments):
        return -(-arguments["hidden_states"].shape[axis] // (patch(transformer.config)[0] or 1))

    def grid(transformer, arguments):
        height, width = arguments["hidden_states"].shape[-2:]
        side = patch(transformer.config)[1]
        return frames(transformer, arguments), height // side, width // side

    return {"frames": frames, "grid": grid}


_WAN = _gated("attn1", _wan_gate)
WAN = Anatomy(
    blocks=lambda transformer: [Block(block, tap=_WAN) for block in transformer.blocks],
    **_patches(2, lambda config: config.patch_size[:2]),
    time={"time": ("condition_embedder", 0), "time-projection": ("condition_embedder", 1)},
    probed=lambda transformer, blocks: len(blocks) // 2,
    presets=_wan_presets,
)


# Latte: spatial and temporal blocks in turn; the batch of a spatial block holds the frames, that of a temporal one the locations.
def _latte_blocks(transformer):
    def gate(block, arguments):
        time = arguments["timestep"]
        return block.scale_shift_table[2] + time.reshape(time.shape[0], 6, -1)[:, 2:3]

    tap, blocks = _gated("attn1", gate), []
    for spatial, temporal in zip(transformer.transformer_blocks, transformer.temporal_transformer_blocks):
        blocks.append(Block(spatial, "spatial", tap=tap))
        blocks.append(Block(temporal, "temporal", ("attention", "mlp"), tap=tap))
    return blocks


def _latte_arrive(x, frames):
    x = x.reshape(-1, frames, x.shape[-2], x.shape[-1]).transpose(1, 2)
    return x.reshape(-1, frames, x.shape[-1])


LATTE = Anatomy(
    blocks=_latte_blocks,
    **_patches(2, lambda config: (1, config.patch_size)),
    arrive=_latte_arrive,
    presets=lambda transformer, anatomy, steps, shift, experts: _native.Presets.latte(anatomy.native, steps),
)

# CogVideoX: the norm returns the gate; text and video attend together.
_COGVIDEOX = Tap("attn1", ("norm1", "attn1"), lambda block, arguments, out: out["norm1"][2] * out["attn1"][0])
COGVIDEOX = Anatomy(
    blocks=lambda transformer: [
        Block(block, modules=("attention", "mlp"), pair=True, tap=_COGVIDEOX) for block in transformer.transformer_blocks
    ],
    **_patches(1, lambda config: (config.patch_size_t, config.patch_size)),
)


# HunyuanVideo: blocks of two streams, then blocks of one, in which attention and MLP share their last product.
def _hunyuan_residual(block, arguments, out):
    attention, norm = out["attn"][0], out["norm1"]
    if len(norm) == 5:
        return attention * norm[1].unsqueeze(1)
    # Image to video: the tokens of the first frame have a gate of their own.
    first = arguments["num_tokens"]
    gates = torch.cat([norm[5].unsqueeze(1).expand(-1, first, -1),
                       norm[1].unsqueeze(1).expand(-1, attention.shape[1] - first, -1)], dim=1)
    return attention * gates


_HUNYUAN = Tap("attn", ("norm1", "attn"), _hunyuan_residual)
HUNYUAN_VIDEO = Anatomy(
    blocks=lambda transformer: [
        *(Block(block, modules=("attention", "mlp"), pair=True, tap=_HUNYUAN) for block in transformer.transformer_blocks),
        *(Block(block, modules=("attention", "mlp"), pair=True) for block in transformer.single_transformer_blocks),
    ],
    **_patches(2, lambda config: (config.patch_size_t, config.patch_size)),
)


# LTX-Video: the latents are a row of tokens; the call says how many frames they are.
def _ltx_gate(block, arguments):
    temb = arguments["temb"]
    return block.scale_shift_table[2] + temb.reshape(temb.shape[0], temb.shape[1], block.scale_shift_table.shape[0], -1)[:, :, 2]


_LTX = _gated("attn1", _ltx_gate)
LTX_VIDEO = Anatomy(
    blocks=lambda transformer: [Block(block, tap=_LTX) for block in transformer.transformer_blocks],
    frames=lambda transformer, arguments: arguments.get("num_frames") or 1,
    grid=lambda transformer, arguments: tuple(arguments[name] for name in ("num_frames", "height", "width")),
)

# Mochi: the norm behind the attention applies the gate, so that its output is the residual.
_MOCHI = Tap("attn1", ("norm2",), lambda block, arguments, out: out["norm2"])
MOCHI = Anatomy(
    blocks=lambda transformer: [
        Block(block, modules=("attention", "mlp"), pair=True, tap=_MOCHI) for block in transformer.transformer_blocks
    ],
    **_patches(2, lambda config: (1, config.patch_size)),
)


def _allegro_gate(block, arguments):
    temb = arguments["temb"]
    return block.scale_shift_table[2] + temb.reshape(temb.shape[0], 6, -1)[:, 2:3]


_ALLEGRO = _gated("attn1", _allegro_gate)
ALLEGRO = Anatomy(
    blocks=lambda transformer: [Block(block, tap=_ALLEGRO) for block in transformer.transformer_blocks],
    **_patches(2, lambda config: (config.patch_size_t, config.patch_size)),
)

#: By the class of the transformer.
FAMILIES = {
    "WanTransformer3DModel": WAN,
    "LatteTransformer3DModel": LATTE,
    "CogVideoXTransformer3DModel": COGVIDEOX,
    "HunyuanVideoTransformer3DModel": HUNYUAN_VIDEO,
    "LTXVideoTransformer3DModel": LTX_VIDEO,
    "MochiTransformer3DModel": MOCHI,
    "AllegroTransformer3DModel": ALLEGRO,
}


def anatomy_of(transformer: torch.nn.Module) -> Anatomy:
    """The anatomy of a known transformer.

    Raises `TypeError` if its class is none of `FAMILIES`.
    """
    for kind in type(transformer).__mro__:
        if kind.__name__ in FAMILIES:
            return FAMILIES[kind.__name__]
    raise TypeError(
        f"no anatomy is known for {type(transformer).__name__}; known: {', '.join(FAMILIES)}. "
        "Describe it with adacache.Anatomy(blocks=…, frames=…) and give that as enable(…, anatomy=…): docs/diffusers.md shows how"
    )
