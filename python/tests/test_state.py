"""No state leaks: from one run into the next, between pipelines, out of a run that failed; and copies are refused."""
import copy
import gc
import pickle

import pytest
import torch

import adacache
from pipelines import FAMILIES, STEPS, run, wan, wan_transformer

CODEBOOK = 'policy = "adacache"\nresidual = "attn"\nblocks = [1]\ncodebook = [[0.03, 4], [0.1, 3], [0.4, 2], [2.0, 1]]\n'


def fresh(call, **settings):
    """What a pipeline that has run nothing before gives."""
    pipe, _ = wan()
    cache = adacache.enable(pipe, CODEBOOK)
    return run(pipe, call, **settings), cache.computed_steps


def test_a_pipeline_is_used_again():
    pipe, call = wan()
    other = {**call, "prompt_embeds": call["prompt_embeds"].flip(1)}
    larger = {**call, "height": 48, "width": 64, "num_frames": 5}
    cache = adacache.enable(pipe, CODEBOOK)
    for arguments, settings in [(call, {}), (other, {}), (larger, {}), (call, {"steps": 7}), (call, {"guidance_scale": 1.0}), (call, {})]:
        latents = run(pipe, arguments, **settings)
        expected, computed = fresh(arguments, **settings)
        assert torch.equal(latents, expected)
        assert cache.computed_steps == computed
        assert cache.bytes == 0, "what a run kept is freed when the pipeline returns"


@pytest.mark.parametrize("where", ["transformer", "scheduler", "callback"])
def test_an_exception_in_the_middle(where):
    pipe, call = wan()
    cache = adacache.enable(pipe, CODEBOOK)
    expected, computed = fresh(call)

    class Broken(Exception):
        pass

    def breaks(*args, **kwargs):
        raise Broken

    count = {"steps": 0}

    def callback(pipe, step, timestep, values):
        count["steps"] += 1
        if count["steps"] == 4:
            if where == "callback":
                raise Broken
            if where == "scheduler":
                pipe.scheduler.step = breaks
            if where == "transformer":
                handles.append(pipe.transformer.condition_embedder.register_forward_hook(breaks))
        return values

    handles = []
    with pytest.raises(Broken):
        run(pipe, call, callback_on_step_end=callback)
    for handle in handles:
        handle.remove()
    vars(pipe.scheduler).pop("step", None)
    if where == "transformer":
        assert cache.bytes == 0
    assert torch.equal(run(pipe, call), expected)
    assert cache.computed_steps == computed


def test_two_pipelines_at_once():
    (one, call), (two, _) = wan(0), wan(5)
    alone = []
    for seed in (0, 5):
        pipe, _ = wan(seed)
        adacache.enable(pipe, CODEBOOK)
        alone.append(run(pipe, call))
    first, second = adacache.enable(one, CODEBOOK), adacache.enable(two, CODEBOOK)
    inner = []

    def nested(pipe, step, timestep, values):
        if step == 5:
            inner.append(run(two, call))
        return values

    outer = run(one, call, callback_on_step_end=nested)
    assert torch.equal(outer, alone[0]) and torch.equal(inner[0], alone[1])
    assert first.computed_steps != [] and second.computed_steps != []


def test_memory_kept_is_what_the_summary_says():
    pipe, call = wan()
    before = tensors()
    cache = adacache.enable(pipe, CODEBOOK)
    kept = []

    def count(pipe, step, timestep, values):
        # What lives between two steps beyond the run's own tensors: the fold and the probe of both halves.
        kept.append((cache.bytes, sum(t.numel() * t.element_size() for t in reachable(cache._run))))
        return values

    run(pipe, call, callback_on_step_end=count)
    assert all(told == counted for told, counted in kept), kept
    tokens, width = 3 * 2 * 2, 24
    assert cache.report().bytes == 2 * 2 * tokens * width * 4
    assert f"{cache.report().bytes:,} bytes" in cache.summary()
    adacache.disable(pipe)
    del cache, kept
    gc.collect()
    assert tensors() <= before + 64, "nothing is held after disable"


def tensors():
    gc.collect()
    return sum(1 for o in gc.get_objects() if isinstance(o, torch.Tensor))


def reachable(run_):
    """The tensors kept by the tracks, whatever field holds them; scalars aside."""
    found, todo, seen = [], [vars(track) for track in run_.tracks.values()], set()
    while todo:
        thing = todo.pop()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        if isinstance(thing, torch.Tensor):
            if thing.dim() > 0:
                found.append(thing)
        elif isinstance(thing, dict):
            todo.extend(thing.values())
        elif isinstance(thing, (list, tuple, set)):
            todo.extend(thing)
        elif type(thing).__name__ == "Kept":
            todo.append(thing.tensor)
    return found


def test_copies_are_refused_and_work_without_the_cache():
    pipe, call = wan()
    plain = run(pipe, call)
    adacache.enable(pipe, CODEBOOK)
    for make in (copy.deepcopy, lambda pipe: pickle.loads(pickle.dumps(pipe.transformer)), lambda pipe: copy.deepcopy(pipe.transformer)):
        with pytest.raises(TypeError, match="disable"):
            make(pipe)
    adacache.disable(pipe)
    assert torch.equal(run(copy.deepcopy(pipe), call), plain)
    pipe.transformer = pickle.loads(pickle.dumps(pipe.transformer))
    assert torch.equal(run(pipe, call), plain)


@pytest.mark.parametrize("family", ["wan", "latte"])
def test_inference_mode(family):
    pipe, call = FAMILIES[family]()
    cache = adacache.enable(pipe, "interval-3")
    expected = run(pipe, call)
    with torch.inference_mode():
        assert torch.equal(run(pipe, call), expected)
    assert cache.computed_steps == [1, 4, 7, 10]
    # What was kept in one mode is not used in the other.
    assert torch.equal(run(pipe, call), expected)


def test_moving_a_pipeline():
    pipe, call = wan()
    cache = adacache.enable(pipe, CODEBOOK)
    expected = run(pipe, call)
    assert torch.equal(run(pipe.to("cpu"), call), expected)
    # Another type: the tensors kept from the runs before are not mixed with it.
    half = run(pipe.to(torch.bfloat16), call)
    assert half.isfinite().all()
    pipe.to(torch.float32)
    assert cache.computed_steps


def test_weights_that_change_are_the_weights_that_run(tmp_path):
    pipe, call = wan()
    adacache.enable(pipe, CODEBOOK)
    run(pipe, call)
    pipe.transformer.load_state_dict(wan_transformer(5).state_dict())
    other, _ = wan(5)
    adacache.enable(other, CODEBOOK)
    assert torch.equal(run(pipe, call), run(other, call))
    # Saving needs no disable, and what is saved has no trace of the cache.
    pipe.transformer.save_pretrained(tmp_path)
    loaded = type(pipe.transformer).from_pretrained(tmp_path)
    assert loaded.state_dict().keys() == other.transformer.state_dict().keys()


def test_a_compiled_transformer():
    pipe, call = wan()
    cache = adacache.enable(pipe, "interval-3")
    expected = run(pipe, call)
    adacache.disable(pipe)
    calls = []

    def backend(graph, inputs):
        calls.append(graph)
        return graph.forward

    pipe.transformer = torch.compile(pipe.transformer, backend=backend)
    cache = adacache.enable(pipe, "interval-3")
    latents = run(pipe, call)
    assert calls, "something was compiled"
    assert (latents - expected).norm() <= 1e-5 * expected.norm()
    assert len(cache.computed_steps) == STEPS // 3 or 1 in cache.computed_steps
    adacache.disable(pipe)


def test_compiled_blocks():
    pipe, call = wan()
    adacache.enable(pipe, "interval-3")
    expected = run(pipe, call)
    adacache.disable(pipe)
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    for block in pipe.transformer.blocks:
        block.compile(backend=backend)
    adacache.enable(pipe, "interval-3")
    assert (run(pipe, call) - expected).norm() <= 1e-5 * expected.norm()
    assert graphs


def test_what_cannot_be_done_is_told():
    pipe, call = wan()
    with pytest.raises(ValueError, match="adacache-fats|did you mean|adacache-fast"):
        adacache.enable(pipe, "adacache-fats")
    for policy, word in [("pab", "single modules"), ("fewer-10", "num_inference_steps=10"), ("t-gate", "single modules")]:
        with pytest.raises(ValueError, match=word):
            adacache.enable(pipe, policy)
    with pytest.raises(ValueError, match="does not exist"):
        adacache.enable(pipe, CODEBOOK.replace("[1]", "[7]"))
    with pytest.raises(ValueError, match="line"):
        adacache.enable(pipe, 'policy = "adacache"\nblocks = [1]\n')
    with pytest.raises(ValueError, match="together or apart"):
        adacache.enable(pipe, halves="half")
    with pytest.raises(RuntimeError, match="no adacache"):
        adacache.disable(pipe)
    assert not hasattr(pipe.transformer, "_diffusers_hook"), "what is refused leaves nothing behind"
    adacache.enable(pipe)
    with pytest.raises(RuntimeError, match="disable"):
        adacache.enable(pipe)
    adacache.disable(pipe)
    with pytest.raises(TypeError, match="Anatomy"):
        adacache.enable(torch.nn.Linear(2, 2), timesteps=[1.0])
    with pytest.raises(TypeError, match="no transformer"):
        adacache.enable(object())


def test_other_hooks():
    from accelerate.hooks import ModelHook, add_hook_to_module
    from diffusers import FirstBlockCacheConfig

    pipe, call = wan()
    pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=0.1))
    with pytest.raises(RuntimeError, match="disable_cache"):
        adacache.enable(pipe)
    pipe.transformer.disable_cache()
    add_hook_to_module(pipe.transformer, ModelHook())
    with pytest.raises(RuntimeError, match="enable_model_cpu_offload"):
        adacache.enable(pipe)
    pipe.remove_all_hooks()
    from accelerate.hooks import remove_hook_from_module
    remove_hook_from_module(pipe.transformer, recurse=True)
    adacache.enable(pipe, CODEBOOK)
    expected = run(pipe, call)
    # As offloading does: its hook lies over ours, and works.
    add_hook_to_module(pipe.transformer, ModelHook())
    assert torch.equal(run(pipe, call), expected)
    with pytest.raises(RuntimeError, match="remove_all_hooks"):
        adacache.disable(pipe)
    pipe.transformer.hf_device_map = {"blocks.0": 0, "blocks.1": 1}
    with pytest.raises(RuntimeError):
        adacache.enable(pipe)


def test_cpu_offloading():
    """The whole path of diffusers and accelerate, with the CPU as the device that models are moved to."""
    pipe, call = wan()
    plain = run(pipe, call)
    adacache.enable(pipe, CODEBOOK)
    expected = run(pipe, call)
    pipe.enable_model_cpu_offload(device="cpu")
    for _ in range(2):
        assert torch.equal(run(pipe, call), expected)
    with pytest.raises(RuntimeError, match="remove_all_hooks"):
        adacache.disable(pipe)
    pipe.remove_all_hooks()
    adacache.disable(pipe)
    assert torch.equal(run(pipe, call), plain)
    pipe.enable_model_cpu_offload(device="cpu")
    with pytest.raises(RuntimeError, match="enable_model_cpu_offload"):
        adacache.enable(pipe)


class Int8Linear(torch.nn.Module):
    """A linear layer whose weights are 8-bit integers with a scale for each row, as weight-only quantisation keeps them."""

    def __init__(self, of):
        super().__init__()
        scale = of.weight.detach().abs().amax(1, keepdim=True) / 127
        self.register_buffer("scale", scale)
        self.register_buffer("weight", (of.weight.detach() / scale).round().to(torch.int8))
        self.bias = of.bias

    def forward(self, x):
        return torch.nn.functional.linear(x, self.weight.to(x.dtype) * self.scale, self.bias)


def test_quantised_weights():
    pipe, call = wan()
    for block in pipe.transformer.blocks:
        for name, module in list(block.named_modules()):
            if isinstance(module, torch.nn.Linear):
                parent, _, child = name.rpartition(".")
                setattr(block.get_submodule(parent), child, Int8Linear(module))
    plain = run(pipe, call)
    adacache.enable(pipe, CODEBOOK.replace("[[0.03, 4], [0.1, 3], [0.4, 2], [2.0, 1]]", "[[1.0, 1]]"))
    assert torch.equal(run(pipe, call), plain)
    adacache.disable(pipe)
    cache = adacache.enable(pipe, CODEBOOK)
    run(pipe, call)
    assert len(cache.computed_steps) < STEPS


@pytest.mark.parametrize("first", ["adacache", "offloading"])
def test_group_offloading(first):
    """Weights that diffusers moves block by block, here from CPU to CPU."""
    from diffusers.hooks import apply_group_offloading

    pipe, call = wan()
    adacache.enable(pipe, "interval-3")
    expected = run(pipe, call)
    adacache.disable(pipe)

    def offload():
        apply_group_offloading(pipe.transformer, torch.device("cpu"), torch.device("cpu"), "block_level", num_blocks_per_group=1)

    if first == "offloading":
        offload()
    cache = adacache.enable(pipe, "interval-3")
    if first == "adacache":
        offload()
    assert torch.equal(run(pipe, call), expected)
    assert len(cache.computed_steps) < STEPS


def test_a_transformer_by_itself():
    transformer = wan_transformer()
    pipe, call = wan()
    cache = adacache.enable(transformer, "interval-2")
    x = torch.randn(1, 16, 3, 4, 4)
    with pytest.raises(RuntimeError, match="timesteps"):
        transformer(hidden_states=x, timestep=torch.tensor([900.0]), encoder_hidden_states=call["prompt_embeds"])
    times = [900.0, 700.0, 500.0, 300.0]
    cache.start(times)
    for _ in range(2):
        with torch.no_grad():
            outputs = [transformer(hidden_states=x.clone(), timestep=torch.tensor([t]), encoder_hidden_states=call["prompt_embeds"]).sample
                       for t in times]
        assert cache.computed_steps == [1, 3]
    assert len(outputs) == 4
    # Without names, two calls with the same latents are the halves of one step; latents that change in place are another step's.
    cache.start(times)
    with torch.no_grad():
        for t in times:
            for prompt in (call["prompt_embeds"], call["negative_prompt_embeds"]):
                transformer(hidden_states=x, timestep=torch.tensor([t]), encoder_hidden_states=prompt)
            x.mul_(0.9)
    assert cache.computed_steps == [1, 3] and len(cache.report().plans) == 4
    adacache.disable(transformer)
