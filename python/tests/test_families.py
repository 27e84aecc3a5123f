"""Every family with the real diffusers: what a cache that saves nothing may not change, and what one that saves must do."""
import json
import os
import shutil
import subprocess

import pytest
import torch

import adacache
from adacache import _native
from pipelines import FAMILIES, STEPS, run

#: A codebook by which every step is computed.
ALWAYS = 'policy = "adacache"\nresidual = "{residual}"\nblocks = [1]\ncodebook = [[1.0, 1]]\n'
#: Rates around the changes of tiny random models.
CODEBOOK = 'policy = "adacache"\nresidual = "{residual}"\nblocks = [1]\ncodebook = [[0.03, 4], [0.1, 3], [0.4, 2], [2.0, 1]]\n'
#: SeaCache, which has no preset for models of these shapes.
SEACACHE = 'policy = "seacache"\nthreshold = 0.3\n'
#: The names of published models of the same anatomy, by which `adacache replay` knows the blocks.
PUBLISHED = {"wan": "wan2.1-t2v-1.3b", "wan22": "wan2.2-t2v-a14b", "latte": "latte-1"}


def settings(text, family):
    return text.format(residual="t-attn" if family == "latte" else "attn")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_cache_that_reuses_nothing_changes_no_bit(family):
    pipe, call = FAMILIES[family]()
    plain = run(pipe, call)
    for policy in ("none", settings(ALWAYS, family)):
        cache = adacache.enable(pipe, policy)
        assert torch.equal(run(pipe, call), plain), policy
        assert cache.computed_steps == list(range(1, STEPS + 1))
        adacache.disable(pipe)
    adacache.enable(pipe, record=True)
    assert torch.equal(run(pipe, call), plain)
    adacache.disable(pipe)
    for module in pipe.transformer.modules():
        assert "forward" not in vars(module), type(module)
        assert not hasattr(module, "_diffusers_hook"), type(module)
        assert not module._forward_hooks and not module._forward_pre_hooks, type(module)
    assert torch.equal(run(pipe, call), plain)


@pytest.mark.parametrize("family", FAMILIES)
def test_reused_steps_are_the_embedding_and_the_fold(family):
    """By hand: in a reused step the last block is given the kept sum on top of the step's own input of the blocks."""
    pipe, call = FAMILIES[family]()
    plain = run(pipe, call)
    cache = adacache.enable(pipe, "interval-3")
    latents = run(pipe, call)
    computed = cache.computed_steps
    assert 1 in computed and len(computed) < STEPS * 2 / 3
    assert cache.report().strip.count("█") == len(computed)
    assert not torch.equal(latents, plain)
    adacache.disable(pipe)

    folds, seen = {}, {"call": 0}
    transformers = [t for t in (pipe.transformer, getattr(pipe, "transformer_2", None)) if t is not None]
    calls_of_a_step = 2 if family in ("wan", "wan22") else 1
    for index, transformer in enumerate(transformers):
        bound = adacache.anatomy_of(transformer).of(transformer)
        blocks = [block.module for block in bound.blocks]
        originals = [block.forward for block in blocks]

        def first(*args, _bound=bound, _original=originals[0], _index=index, **kwargs):
            seen["call"] += 1
            seen["in"] = args[0] if args else kwargs["hidden_states"]
            return _original(*args, **kwargs)

        def last(*args, _bound=bound, _original=originals[-1], _index=index, **kwargs):
            step, half = divmod(seen["call"] - 1, calls_of_a_step)
            arrived = _bound.anatomy.arrive(seen["in"], frames)
            out = _original(*args, **kwargs)
            hidden = out[0] if _bound.blocks[-1].pair else out
            if step + 1 in computed:
                folds[_index, half] = hidden - arrived
                return out
            reused = (arrived + folds[_index, half]).reshape(hidden.shape)
            return (reused, out[1]) if _bound.blocks[-1].pair else reused

        blocks[0].forward, blocks[-1].forward = first, last
    frames = 4 if family == "latte" else 0
    by_hand = run(pipe, call)
    assert (by_hand - latents).norm() <= 1e-5 * latents.norm()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("moreg", [False, True])
def test_schedules_are_those_of_a_replay(family, moreg, tmp_path):
    pipe, call = FAMILIES[family]()
    text = settings(CODEBOOK, family)
    cache = adacache.enable(pipe, text, moreg=moreg)
    run(pipe, call)
    report = cache.report()
    trace = _native.Trace.read(cache.trace())
    presets = cache.presets(STEPS)
    config = presets.read(text, moreg, cache.bound[0].native, STEPS, 2)
    computed, partial, decisions = trace.replay(config, cache.bound[0].native)
    assert computed == report.computed_steps and not partial
    assert 2 < len(computed) < STEPS
    assert [(d[0], d[4]) for d in decisions] == [(d[0], d[4]) for d in report.decisions]
    assert [d[1] for d in decisions] == pytest.approx([d[1] for d in report.decisions], rel=1e-12)

    program = os.environ.get("ADACACHE_PROGRAM") or shutil.which("adacache")
    if program and family in PUBLISHED:
        cache.write_trace(tmp_path / "trace.jsonl")
        (tmp_path / "cache.toml").write_text(report.config)
        command = [program, "replay", tmp_path / "trace.jsonl", "--cache", tmp_path / "cache.toml", "--model", PUBLISHED[family], "--json"]
        told = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
        assert told[0]["computed_steps"] == computed


@pytest.mark.parametrize("family", FAMILIES)
def test_a_recorded_run_replays_every_preset_that_diffusers_can_run(family):
    pipe, call = FAMILIES[family]()
    cache = adacache.enable(pipe, record=True)
    run(pipe, call)
    trace, presets = _native.Trace.read(cache.trace()), cache.presets(STEPS)
    for name in ("none", "adacache-fast", "adacache-fast+moreg", "teacache-fast", "fbcache", "easycache", "interval-2"):
        config = presets.configuration(name, False, cache.bound[0].native, STEPS, 2)
        computed, partial, _ = trace.replay(config, cache.bound[0].native)
        assert computed[0] == 1 and not partial, name


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("policy", ["adacache-fast+taylor", "teacache-fast", "fbcache", "easycache", "interval-2+taylor2", SEACACHE])
def test_other_policies_run(family, policy):
    pipe, call = FAMILIES[family]()
    plain = run(pipe, call, steps=16)
    cache = adacache.enable(pipe, policy)
    latents = run(pipe, call, steps=16)
    report = cache.report()
    assert len(report.plans) == 16 and report.plans[0] == "compute"
    assert latents.isfinite().all()
    # Wherever every step was computed the result is the same.
    assert torch.equal(latents, plain) == (report.computed_steps == list(range(1, 17)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype):
    pipe, call = FAMILIES["wan"]()
    pipe.transformer.to(dtype)
    cache = adacache.enable(pipe, "interval-3")
    assert run(pipe, call).isfinite().all()
    adacache.disable(pipe)
    cache = adacache.enable(pipe, settings(CODEBOOK, "wan"))
    run(pipe, call)
    assert len(cache.computed_steps) < STEPS
    assert cache.report().decisions


def test_halves_decide_apart_or_together():
    pipe, call = FAMILIES["wan"]()
    cache = adacache.enable(pipe, settings(CODEBOOK, "wan"), halves="apart")
    apart = run(pipe, call)
    reports = [cache.report(half) for half in ("cond", "uncond")]
    for half, report in zip(("cond", "uncond"), reports):
        replayed = _native.Trace.read(cache.trace(half)).replay(
            cache.presets(STEPS).read(settings(CODEBOOK, "wan"), False, cache.bound[0].native, STEPS, 2), cache.bound[0].native)
        assert replayed[0] == report.computed_steps
    assert [d[1] for d in reports[0].decisions] != [d[1] for d in reports[1].decisions]
    assert "(cond)" in cache.summary() and "(uncond)" in cache.summary()
    adacache.disable(pipe)
    adacache.enable(pipe, settings(CODEBOOK, "wan"))
    assert apart.shape == run(pipe, call).shape
    pipe, call = FAMILIES["ltx"]()
    adacache.enable(pipe, "interval-2", halves="apart")
    with pytest.raises(ValueError, match="leave halves out"):
        run(pipe, call)


def test_experts_have_policies_of_their_own():
    pipe, call = FAMILIES["wan22"]()
    cache = adacache.enable(pipe, "interval-4")
    run(pipe, call, steps=20)
    run_ = cache._run
    (_, first), (begin, end) = run_.stages
    assert 1 < first == begin < end == 20
    # Each begins with a computed step, and forgets what the other has kept.
    assert {1, first + 1} <= set(cache.computed_steps)
    assert [step for step in range(1, 21) if (step - 1 - (first if step > first else 0)) % 4 == 0] == cache.computed_steps
    assert '"stages"' in cache.trace()


@pytest.mark.parametrize("family", [*FAMILIES, "hunyuan-image"])
def test_the_residual_is_what_the_attention_adds(family):
    """With everything behind the attention silenced, a block adds its attention residual and nothing else."""
    pipe, call = FAMILIES[family.removesuffix("-image")]()
    if family == "hunyuan-image":
        # Image to video replaces the first frame's tokens, which have a gate of their own.
        config = {**pipe.transformer.config, "image_condition_type": "token_replace"}
        torch.manual_seed(0)
        pipe.transformer = type(pipe.transformer).from_config(config).eval()
    bound = adacache.anatomy_of(pipe.transformer).of(pipe.transformer)
    seen, silent = [], []
    silence = lambda module, args, output: torch.zeros_like(output)
    for block in bound.blocks:
        if block.tap is None:
            continue
        outputs, module = {}, block.module
        for name in block.tap.reads:
            silent.append(module.get_submodule(name).register_forward_hook(lambda m, a, out, o=outputs, n=name: o.__setitem__(n, out)))
        for name in ("attn2", "ff", "ffn"):
            if isinstance(getattr(module, name, None), torch.nn.Module):
                silent.append(getattr(module, name).register_forward_hook(silence))
        from adacache.hooks import _names

        def look(module, args, kwargs, out, block=block, outputs=outputs):
            arguments = dict(zip(_names(module), args)) | kwargs
            residual = block.tap.residual(module, arguments, outputs)
            added = (out[0] if block.pair else out) - arguments["hidden_states"]
            seen.append(float((residual.reshape(added.shape) - added).norm() / added.norm()))

        silent.append(module.register_forward_hook(look, with_kwargs=True))
    run(pipe, call, steps=2)
    assert len(seen) >= 2 * sum(block.tap is not None for block in bound.blocks)
    assert max(seen) < 1e-4, seen


def test_the_residual_where_frames_have_times_of_their_own():
    """Wan 2.2 TI2V gives every token a time: the gates differ along the tokens."""
    pipe, call = FAMILIES["wan"]()
    transformer = pipe.transformer
    block, found = transformer.blocks[1], []
    silent = [getattr(block, name).register_forward_hook(lambda m, a, out: torch.zeros_like(out)) for name in ("attn2", "ffn")]
    silent.append(block.register_forward_hook(lambda m, args, out: found.append(out - args[0])))
    times = [900.0, 500.0]
    cache = adacache.enable(transformer, settings(ALWAYS, "wan"), timesteps=times)
    x = random_latents()
    with torch.no_grad():
        for t in times:
            tokens = torch.full((1, 12), t)
            tokens[:, :4] = 0.0
            transformer(hidden_states=x * t, timestep=tokens, encoder_hidden_states=call["prompt_embeds"])
    step, distance, *_ = cache.report().decisions[0]
    old, new = found
    assert step == 2 and distance == pytest.approx(float((new - old).abs().sum() / old.abs().sum()), rel=1e-4)


def random_latents():
    return torch.randn(1, 16, 3, 4, 4, generator=torch.Generator().manual_seed(3))


def test_guidance_that_begins_late_is_computed_first():
    """A half of guidance that has kept nothing yet is computed in a reused step, and reused from then on."""
    pipe, call = FAMILIES["wan"]()
    transformer = pipe.transformer
    times = [1000.0 - 100 * i for i in range(8)]
    cache = adacache.enable(transformer, "interval-4", timesteps=times)
    ran = []
    transformer.blocks[1].ffn.register_forward_hook(lambda *_: ran.append(1))
    with torch.no_grad():
        counts = []
        for i, t in enumerate(times):
            x = random_latents() * (1 + i)
            for name in ("cond", "uncond")[: 1 if i < 2 else 2]:
                ran.clear()
                with transformer.cache_context(name):
                    transformer(hidden_states=x, timestep=torch.tensor([t]), encoder_hidden_states=call["prompt_embeds"])
                counts.append((i + 1, name, len(ran)))
    computed = [(step, name) for step, name, count in counts if count]
    assert computed == [(1, "cond"), (3, "uncond"), (5, "cond"), (5, "uncond")]
    assert cache.computed_steps == [1, 5]


def test_constants_of_another_schedule_are_told():
    pipe, call = FAMILIES["wan"]()
    adacache.enable(pipe, "adacache-fast")
    with pytest.warns(UserWarning, match="50 steps with shift 8"):
        run(pipe, call)


def test_seacache_filters_by_frequencies():
    """The filter of the paper by Fourier transforms: a gain for each frequency and axis, their product divided by its mean."""
    from adacache.measure import filtered

    grid, noise = (3, 4, 6), 0.6
    x = torch.randn(2, 72, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def gain(length):
        power = 1 / (torch.fft.fftfreq(length, dtype=torch.float64).abs() ** 3 + 1e-16)
        return (1 - noise) * power / ((1 - noise) ** 2 * power + noise**2 + 1e-16)

    gains = gain(3)[:, None, None] * gain(4)[None, :, None] * gain(6)[None, None, :]
    spectrum = torch.fft.fftn(x.reshape(2, *grid, 5), dim=(1, 2, 3)) * (gains / gains.mean())[None, ..., None]
    expected = torch.fft.ifftn(spectrum, dim=(1, 2, 3)).real.reshape(x.shape)
    assert torch.allclose(filtered(x.float(), grid, noise).double(), expected, atol=1e-5)


def test_seacache_measures_the_filtered_input():
    pipe, call = FAMILIES["wan"]()
    cache = adacache.enable(pipe, SEACACHE)
    run(pipe, call)
    report = cache.report()
    assert 1 < len(report.computed_steps) < STEPS
    computed, _, _ = _native.Trace.read(cache.trace()).replay(cache.presets(STEPS).read(SEACACHE, False, cache.bound[0].native, STEPS, 3), cache.bound[0].native)
    assert computed == report.computed_steps
