"""AdaCache on a transformer that it does not know: an Anatomy says where its blocks are and how their attention residual is read.

    python examples/own_transformer.py
"""
import torch

import adacache


class Block(torch.nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm = torch.nn.LayerNorm(width)
        self.attention = torch.nn.MultiheadAttention(width, 2, batch_first=True)
        self.gate = torch.nn.Parameter(torch.full((width,), 0.3))
        self.mlp = torch.nn.Sequential(torch.nn.LayerNorm(width), torch.nn.Linear(width, width), torch.nn.GELU(), torch.nn.Linear(width, width))

    def forward(self, hidden_states, time):
        x = self.norm(hidden_states) * (1 + time)
        hidden_states = hidden_states + self.attention(x, x, x)[0] * self.gate
        return hidden_states + self.mlp(hidden_states)


class Transformer(torch.nn.Module):
    """Tokens of 4 frames, 8 to a frame."""

    def __init__(self, width=32, depth=4):
        super().__init__()
        self.embed, self.out = torch.nn.Linear(4, width), torch.nn.Linear(width, 4)
        self.layers = torch.nn.ModuleList(Block(width) for _ in range(depth))

    def forward(self, sample, time):
        x = self.embed(sample)
        for layer in self.layers:
            x = layer(x, time)
        return (self.out(x),)


anatomy = adacache.Anatomy(
    blocks=lambda transformer: [
        adacache.Block(layer, modules=("attention", "mlp"), tap=adacache.Tap(
            "attention", ["attention"], lambda block, arguments, outputs: outputs["attention"][0] * block.gate))
        for layer in transformer.layers
    ],
    frames=lambda transformer, arguments: 4,
    latents="sample",
)

torch.set_num_threads(1)
torch.manual_seed(0)
transformer, steps = Transformer().eval(), 30
cache = adacache.enable(transformer, "adacache-fast", anatomy=anatomy, timesteps=[1000 * (1 - i / steps) for i in range(steps)])
z = torch.randn(1, 32, 4)
with torch.no_grad():
    for i in range(steps):
        z = z - transformer(z, 1 - i / steps)[0] / steps
print(cache.summary())
