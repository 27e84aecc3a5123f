"""Wan's published code, run with caches: the same weights through diffusers compute the same steps, and give the same latents.

The cases lie in ../shared/goldens/wan beside the checkout; without them the tests are skipped.
"""
import json
from pathlib import Path

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel
from safetensors.torch import load_file

import adacache

GOLDENS = Path(__file__).resolve().parents[3] / "shared/goldens/wan"
CASES = sorted(path.name for path in (GOLDENS / "wan_a").glob("rollout_*"))

pytestmark = pytest.mark.skipif(not CASES, reason="../shared/goldens/wan is not here")


def scheduler(case, io):
    """The scheduler of the case, with its times and noise levels."""
    if case["sampler"].startswith("unipc"):
        kind, settings = UniPCMultistepScheduler, dict(prediction_type="flow_prediction", use_flow_sigmas=True)
    elif case["sampler"] == "dpm++":
        kind, settings = DPMSolverMultistepScheduler, dict(prediction_type="flow_prediction", use_flow_sigmas=True)
    else:
        kind, settings = FlowMatchEulerDiscreteScheduler, {}

    class Given(kind):
        def set_timesteps(self, steps, device=None, **more):
            super().set_timesteps(steps, device=device, **more)
            self.timesteps, self.sigmas = io["timesteps"].clone(), io["sigmas"].clone()

    return Given(**settings)


def pipeline(case, io):
    c = case["config"]
    transformer = WanTransformer3DModel(
        patch_size=tuple(c["patch_size"]), num_attention_heads=c["num_heads"], attention_head_dim=c["dim"] // c["num_heads"],
        in_channels=c["in_dim"], out_channels=c["out_dim"], text_dim=c["text_dim"], freq_dim=c["freq_dim"], ffn_dim=c["ffn_dim"],
        num_layers=c["num_layers"], eps=c["eps"],
    ).eval()
    names = json.loads((GOLDENS / "names_map.json").read_text())["transformer"]
    weights = load_file(GOLDENS / "wan_a/model.safetensors")

    def name(official):
        parts = official.split(".")
        if parts[0] == "blocks":
            return names["blocks.N." + ".".join(parts[2:])].replace("N", parts[1], 1)
        return names[official]

    transformer.load_state_dict({name(key): value.float() for key, value in weights.items()}, strict=True)
    return WanPipeline(tokenizer=None, text_encoder=None, vae=None, transformer=transformer, scheduler=scheduler(case, io))


def toml(cache, steps):
    """The policy of a case in a file's words."""
    if cache is None:
        return 'policy = "none"\n'
    lines = [f'policy = "{cache["policy"]}"']
    if cache["policy"] == "adacache":
        lines += ['residual = "attn"', f'blocks = {cache["blocks"]}', f'codebook = {cache["codebook"]}']
        if cache["moreg"]:
            lines += ["[moreg]", *(f"{key} = {value}" for key, value in cache["moreg"].items())]
    elif cache["policy"] == "easycache":
        lines += [f'threshold = {cache["threshold"]}', f'first = {cache["ret_steps"]}', 'reused = "prediction"']
    elif cache["policy"] == "magcache":
        lines += [f'threshold = {cache["threshold"]}', f'most = {cache["max_skips"]}', f'retention = {cache["retention_ratio"]}',
                  f'ratios = {cache["mag_ratios"][2::2]}', f'unconditional = {cache["mag_ratios"][3::2]}']
    else:
        signal = "time-projection" if cache["use_ret_steps"] else "time"
        lines += [f'threshold = {cache["threshold"]}', f'signal = "{signal}"', f'first = {cache["ret_steps"]}',
                  f'last = {steps - cache["cutoff_step"]}', f'coefficients = {cache["coefficients"]}']
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("name", CASES)
def test_published_runs(name):
    case = json.loads((GOLDENS / "wan_a" / name / "case.json").read_text())
    io = load_file(GOLDENS / "wan_a" / name / "io.safetensors")
    pipe = pipeline(case, io)
    pipe.set_progress_bar_config(disable=True)
    cache = adacache.enable(pipe, toml(case["cache"], case["steps"]))
    pad = lambda rows: torch.nn.functional.pad(rows, (0, 0, 0, case["config"]["text_len"] - rows.shape[0]))[None]
    latents = []

    def keep(pipe, step, timestep, values):
        latents.append(values["latents"])
        return values

    pipe(prompt_embeds=pad(io["y"]), negative_prompt_embeds=pad(io["y_null"]), latents=io["z"], num_inference_steps=case["steps"],
         guidance_scale=case["cfg_scale"], output_type="latent", height=io["z"].shape[-2] * 8, width=io["z"].shape[-1] * 8,
         num_frames=(io["z"].shape[2] - 1) * 4 + 1, callback_on_step_end=keep)

    expected, report = case["expected"], cache.report()
    assert report.steps_of("compute", "cond") == expected["computed_steps"]
    unconditional = expected.get("computed_steps_uncond", expected["computed_steps"])
    assert report.steps_of("compute", "uncond") == unconditional
    for step, reference in zip(expected["latent_steps"], io["latents"]):
        error = (latents[step - 1] - reference).norm() / reference.norm()
        assert error <= 1e-4, f"step {step}: {error:.2e}"
    if case["cache"] and case["cache"]["policy"] == "adacache":
        assert len(report.decisions) == len(expected["decisions"])
        for ours, theirs in zip(report.decisions, expected["decisions"]):
            step, distance, motion, gradient, rate = ours
            assert (step, rate) == (theirs["step"], theirs["rate"])
            assert distance == pytest.approx(theirs["cachediff"], rel=1e-3)
            assert motion == pytest.approx(theirs["moreg"], rel=1e-3)
