"""What adacache costs in a pipeline of diffusers when it saves nothing: a step with every step computed, against one without a cache.

    python bench/python_overhead.py [--runs 12] [--width 512] [--layers 8]

Runs alternate, so that a machine that changes its pace changes both; the medians of the pairs are compared. Seconds are those that the process spent on this
machine's CPU, with one thread: other programs on it do not count.
"""
import argparse
import statistics
import time

import torch
from diffusers import WanTransformer3DModel

import adacache

ALWAYS = 'policy = "adacache"\nresidual = "attn"\nblocks = [{layer}]\ncodebook = [[1.0, 1]]\n'
MOREG = "[moreg]\nstrides = [1]\nsteps = [1, 1000]\nhyper = [0.385, 8, 1]\ngradient = 10\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=12)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--steps", type=int, default=4)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    heads = arguments.width // 64
    transformer = WanTransformer3DModel(num_attention_heads=heads, attention_head_dim=64, in_channels=16, out_channels=16, text_dim=64,
                                        ffn_dim=4 * arguments.width, num_layers=arguments.layers).eval()
    text, latents = torch.randn(1, 64, 64), torch.randn(1, 16, 5, 16, 24)
    times = [1000 * (1 - i / arguments.steps) for i in range(arguments.steps)]

    def run():
        z, began = latents, time.process_time()
        with torch.no_grad():
            for t in times:
                z = z - 0.1 * transformer(hidden_states=z, timestep=torch.tensor([t]), encoder_hidden_states=text, return_dict=False)[0]
        return (time.process_time() - began) / len(times)

    def cached(policy):
        cache = adacache.enable(transformer, policy, timesteps=times)
        seconds = run()
        assert cache.computed_steps == list(range(1, len(times) + 1))
        adacache.disable(transformer)
        return seconds

    layer = arguments.layers // 2
    policies = {"adacache": ALWAYS.format(layer=layer), "adacache+moreg": ALWAYS.format(layer=layer) + MOREG, "none": 'policy = "none"\n'}
    run()
    seconds = {"without": [], **{name: [] for name in policies}}
    for turn in range(arguments.runs):
        # Every place in the order is taken by each in turn.
        order = list(seconds)
        for name in order[turn % len(order):] + order[: turn % len(order)]:
            seconds[name].append(cached(policies[name]) if name in policies else run())
    base = statistics.median(seconds["without"])
    tokens = latents.shape[2] * latents.shape[3] * latents.shape[4] // 4
    print(f"{tokens} tokens of {arguments.width} channels, {arguments.layers} blocks, one CPU thread; medians of {arguments.runs} alternating runs")
    for name, values in seconds.items():
        paired = statistics.median(value / without for value, without in zip(values, seconds["without"]))
        print(f"  {name:<16} {statistics.median(values) * 1000:8.2f} ms a step, {(paired - 1) * 100:+6.2f} %")
    return base


if __name__ == "__main__":
    main()
