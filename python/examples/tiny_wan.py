"""AdaCache on a pipeline of diffusers: a Wan of random weights, small enough for seconds on a CPU.

    python examples/tiny_wan.py

Random weights draw nothing; the schedule, the distances and the memory are what a real pipeline shows too. With a published checkpoint the three
lines in the middle are the same.
"""
import torch
from diffusers import UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel

import adacache

torch.set_num_threads(1)
torch.manual_seed(0)
transformer = WanTransformer3DModel(num_attention_heads=2, attention_head_dim=24, in_channels=16, out_channels=16, text_dim=32, ffn_dim=96, num_layers=6).eval()
scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0)
pipe = WanPipeline(tokenizer=None, text_encoder=None, vae=None, transformer=transformer, scheduler=scheduler)
pipe.set_progress_bar_config(disable=True)
settings = dict(prompt_embeds=torch.randn(1, 16, 32), negative_prompt_embeds=torch.randn(1, 16, 32), height=64, width=64, num_frames=17,
                num_inference_steps=30, output_type="latent")


def generate():
    return pipe(**settings, generator=torch.Generator().manual_seed(0)).frames


original = generate()
for policy in ("adacache-fast", "adacache-fast+moreg", "adacache-fast+taylor", "easycache", "interval-3"):
    cache = adacache.enable(pipe, policy)
    latents = generate()
    print(cache.summary())
    print(f"  latents: {float((latents - original).norm() / original.norm()):.4f} away from those with every step computed\n")
    adacache.disable(pipe)

# The measurements in the format that `adacache replay` reads.
cache = adacache.enable(pipe, record=True)
generate()
cache.write_trace("tiny_wan.jsonl")
print("tiny_wan.jsonl: adacache replay tiny_wan.jsonl --model wan2.1-t2v-1.3b --cache interval-2")
adacache.disable(pipe)
assert torch.equal(generate(), original)
