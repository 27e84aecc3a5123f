"""A transformer that adacache does not know, described in a few lines."""
import pytest
import torch

import adacache


class MyBlock(torch.nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm = torch.nn.LayerNorm(width)
        self.attention = torch.nn.Linear(width, width)
        self.gate = torch.nn.Parameter(torch.full((width,), 0.5))
        self.mlp = torch.nn.Linear(width, width)

    def forward(self, hidden_states, time):
        hidden_states = hidden_states + self.attention(self.norm(hidden_states) * time) * self.gate
        return hidden_states + self.mlp(hidden_states).tanh()


class MyTransformer(torch.nn.Module):
    def __init__(self, width=16, blocks=3):
        super().__init__()
        self.embed = torch.nn.Linear(4, width)
        self.layers = torch.nn.ModuleList(MyBlock(width) for _ in range(blocks))
        self.out = torch.nn.Linear(width, 4)

    def forward(self, sample, t):
        x = self.embed(sample)
        for layer in self.layers:
            x = layer(x, t)
        return (self.out(x),)


ANATOMY = adacache.Anatomy(
    blocks=lambda transformer: [
        adacache.Block(layer, modules=("attention", "mlp"), tap=adacache.Tap(
            "attention", ("attention",), lambda block, arguments, outputs: outputs["attention"] * block.gate))
        for layer in transformer.layers
    ],
    frames=lambda transformer, arguments: 3,
    latents="sample",
)

CODEBOOK = 'policy = "adacache"\nresidual = "attn"\nblocks = [1]\ncodebook = [[0.02, 3], [0.5, 2], [20.0, 1]]\n'


def generate(transformer, steps=12):
    z = torch.randn(1, 12, 4, generator=torch.Generator().manual_seed(0))
    for i in range(steps):
        z = z - transformer(z, 1 - i / steps)[0] / steps
    return z


@pytest.mark.parametrize("moreg", [False, True])
def test_a_transformer_of_ones_own(moreg):
    torch.manual_seed(0)
    transformer = MyTransformer()
    with torch.no_grad():
        plain = generate(transformer)
        with pytest.raises(TypeError, match="adacache.Anatomy"):
            adacache.enable(transformer, timesteps=range(12))
        times = [float(1000 - 80 * i) for i in range(12)]
        motion = "[moreg]\nstrides = [1]\nsteps = [1, 12]\nhyper = [1, 1, 1]\ngradient = 0\n" if moreg else ""
        cache = adacache.enable(transformer, CODEBOOK + motion, anatomy=ANATOMY, timesteps=times)
        cached = generate(transformer)
        assert 3 < len(cache.computed_steps) < 12
        assert 0 < (cached - plain).norm() < 0.2 * plain.norm()
        first = cache.report().decisions[0]
        # The residual of layer 1 by hand, at the first two steps.
        adacache.disable(transformer)
        residuals = []
        layer = transformer.layers[1]
        handle = layer.attention.register_forward_hook(lambda m, a, out: residuals.append(out * layer.gate))
        generate(transformer)
        handle.remove()
        old, new = residuals[:2]
        distance = float((new - old).abs().double().sum() / old.abs().double().sum())
        r = new.reshape(3, 4, 16)
        score = float((r[1:] - r[:-1]).abs().sum() / (r[1:].abs().sum() + r[:-1].abs().sum()))
        assert first[1] == pytest.approx(distance * (score if moreg else 1), rel=1e-5)
        assert torch.equal(generate(transformer), plain)


def test_motion_needs_whole_frames():
    transformer = MyTransformer()
    anatomy = adacache.Anatomy(blocks=ANATOMY.blocks, frames=lambda transformer, arguments: 5, latents="sample")
    moreg = '[moreg]\nstrides = [1]\nsteps = [1, 12]\nhyper = [0.4, 2, 1]\ngradient = 1\n'
    adacache.enable(transformer, CODEBOOK + moreg, anatomy=anatomy, timesteps=[1.0] * 12)
    with torch.no_grad(), pytest.raises(ValueError, match="5 frames"):
        generate(transformer)


def test_blocks_that_do_not_run_are_told():
    transformer = MyTransformer()
    anatomy = adacache.Anatomy(
        blocks=lambda transformer: [*ANATOMY.blocks(transformer), adacache.Block(MyBlock(16))], frames=lambda *_: 3, latents="sample")
    adacache.enable(transformer, "interval-2", anatomy=anatomy, timesteps=[1.0] * 12)
    with torch.no_grad(), pytest.raises(RuntimeError, match="last block"):
        generate(transformer)
