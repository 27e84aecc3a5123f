"""Comparison, calibration, and the table of many folders, on tiny pipelines that decode."""
import contextlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import adacache
from adacache import _native
from pipelines import hunyuan

ROOT = Path(__file__).resolve().parents[2]


def prompts(call, count=2):
    embeddings = ("prompt_embeds", "pooled_prompt_embeds")
    fixed = {key: value for key, value in call.items() if key not in embeddings}
    return [{key: call[key] * (1 + 0.5 * i) for key in embeddings} for i in range(count)], fixed


class Wrapped(torch.nn.Module):
    """A transformer under another class."""

    def __init__(self, of):
        super().__init__()
        self.__dict__.update(of.__dict__)
        self.call = type(of).forward

    @property
    def config(self):
        return self._internal_dict

    @property
    def device(self):
        return next(self.parameters()).device

    @property
    def dtype(self):
        return next(self.parameters()).dtype

    @contextlib.contextmanager
    def cache_context(self, name, **more):
        yield

    def forward(self, hidden_states, timestep, encoder_hidden_states, encoder_attention_mask, pooled_projections, guidance=None,
                attention_kwargs=None, return_dict=True):
        return self.call(self, hidden_states, timestep, encoder_hidden_states, encoder_attention_mask, pooled_projections, guidance,
                         attention_kwargs, return_dict)


def quiet():
    pipe, call = hunyuan()
    pipe.set_progress_bar_config(disable=True)
    return pipe, call


def test_a_comparison(tmp_path):
    pipe, call = quiet()
    texts, fixed = prompts(call)
    table = adacache.compare(pipe, texts, ["interval-2", "adacache-fast+moreg"], out=tmp_path / "a", num_inference_steps=12, **fixed)
    assert "interval-2" in table and "adacache-fast+moreg" in table
    results = json.loads((tmp_path / "a/results.json").read_text())
    assert [row["cache"] for row in results["runs"]] == ["none", "interval-2", "adacache-fast+moreg"] * 2
    for row in results["runs"]:
        if row["cache"] == "none":
            assert row["psnr"] == 60 and row["computed_steps"] == list(range(1, 13)) and row["compute"] == 1
        if row["cache"] == "interval-2":
            assert row["computed_steps"] == [1, 3, 5, 7, 9, 11] and 0.5 < row["compute"] < 0.9 and row["psnr"] < 60
    page = (tmp_path / "a/index.html").read_text()
    assert "interval-2" in page and '"strip":"iVBOR' in page
    assert len((tmp_path / "a/results.csv").read_text().splitlines()) == 7
    assert "torch" in json.loads((tmp_path / "a/device.json").read_text())
    trace = _native.Trace.read((tmp_path / "a/000-0-adacache-fast+moreg.jsonl").read_text())
    assert "frames" not in trace.text()
    assert not list((tmp_path / "a").glob("*.pt")), "videos only if asked for"
    adacache.compare(pipe, texts[:1], ["interval-3"], out=tmp_path / "b", num_inference_steps=6, videos=True, **fixed)
    assert len(list((tmp_path / "b").glob("*.pt"))) == 2
    assert not hasattr(pipe.transformer, "_adacache")
    told = subprocess.run([sys.executable, ROOT / "tools/collect.py", tmp_path / "a", tmp_path / "b"], check=True, stdout=subprocess.PIPE, text=True).stdout
    assert told.count("interval-") == 2 and "HunyuanVideoPipeline" in told
    # A transformer whose class is not known is described by hand.
    anatomy, pipe.transformer = adacache.anatomy_of(pipe.transformer), Wrapped(pipe.transformer)
    with pytest.raises(TypeError, match="Wrapped"):
        adacache.compare(pipe, texts[:1], ["interval-3"], out=tmp_path / "d", num_inference_steps=6, **fixed)
    assert "interval-3" in adacache.compare(pipe, texts[:1], ["interval-3"], out=tmp_path / "d", anatomy=anatomy, num_inference_steps=6, **fixed)
    pipe, _ = quiet()
    adacache.enable(pipe)
    with pytest.raises(RuntimeError, match="disable"):
        adacache.compare(pipe, texts, ["interval-2"], out=tmp_path / "c", **fixed)


def test_a_calibration(tmp_path):
    pipe, call = quiet()
    texts, fixed = prompts(call)
    path = adacache.calibrate(pipe, texts, target_speedup=1.8, out=tmp_path / "mine.toml", rounds=12, num_inference_steps=40, **fixed)
    cache = adacache.enable(pipe, str(path))
    pipe(**{**fixed, **texts[0]}, num_inference_steps=40, output_type="latent")
    assert 10 < len(cache.computed_steps) < 34
    adacache.disable(pipe)
    with pytest.raises(ValueError, match="cannot be reached"):
        adacache.calibrate(pipe, texts, target_speedup=20, out=tmp_path / "no.toml", num_inference_steps=24, **fixed)
    with pytest.raises(ValueError, match=".toml"):
        adacache.calibrate(pipe, texts, target_speedup=2, out=tmp_path / "no.txt", num_inference_steps=24, **fixed)
