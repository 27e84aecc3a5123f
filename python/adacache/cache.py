"""The state of a cache: the run at hand, and what is told about it afterwards.

`Cache` knows no hook: `hooks.py` calls it as a forward goes on. A run is one generation. It has a `Track` for each policy: one for all calls of
a step, or, where the halves of guidance decide apart, one for each.
"""
from __future__ import annotations

import warnings
import weakref
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

import torch

from .anatomy import Bound
from .measure import filtered
from .report import Report
from .track import PLAIN, Call, Track, plainly

Tensor = torch.Tensor


class Run:
    """One generation."""

    def __init__(self, cache: "Cache", source: Any, timesteps: Sequence[float], stages: Sequence[Tuple[int, int]], config, frames: int):
        self.cache, self.source, self.timesteps, self.stages = cache, source, list(timesteps), list(stages)
        #: The policy's settings, None if the run only records; the frames of tokens.
        self.config, self.frames = config, frames
        self.finished = False
        self.tracks: Dict[str, Track] = {}
        self.expert = -1
        self.reports: Dict[str, Report] = {}
        self.call: Optional[Call] = None

    @property
    def report(self) -> Report:
        return self.reports[""] if "" in self.reports else next(iter(self.reports.values()))

    @property
    def bytes(self) -> int:
        return sum(track.bytes for track in self.tracks.values())

    def arrived(self, call: Call) -> Tensor:
        """The input of the blocks in the layout of their output."""
        return self.cache.bound[call.expert].anatomy.arrive(call.entered, call.frames)

    def fits(self, call: Call, fold: Tensor) -> bool:
        return fold.numel() == call.entered.numel() and fold.dtype == call.entered.dtype and fold.device == call.entered.device


class Cache:
    """The cache of a pipeline, as `adacache.enable` gives it."""

    def __init__(self, pipe, experts: Sequence[torch.nn.Module], bound: Sequence[Bound], policy: str, moreg: bool, halves: str,
                 record: bool, timesteps: Optional[Sequence[float]], shift: Optional[float]):
        self._pipe = weakref.ref(pipe) if pipe is not None else lambda: None
        self.experts = [weakref.ref(expert) for expert in experts]
        self.bound, self.policy, self.moreg, self.halves, self.record = list(bound), policy, moreg, halves, record
        self._given = list(timesteps) if timesteps is not None else None
        self._shift = shift
        self._run: Optional[Run] = None
        #: The latents of the last call, their version, and the calls before that had them too.
        self._last: Optional[Tuple] = None
        #: Hooks that are not in a registry of diffusers.
        self._handles: List[Any] = []

    # Settings -------------------------------------------------------------------------------------------------------------------------------

    def presets(self, steps: int):
        """The presets of the model in a run of so many steps."""
        return self.bound[0].presets(self.experts[0](), steps, self.shift, len(self.experts))

    @property
    def shift(self) -> Optional[float]:
        """The shift of the noise levels, as far as the scheduler tells."""
        if self._shift is not None:
            return self._shift
        config = getattr(getattr(self._pipe(), "scheduler", None), "config", {})
        shift = config.get("flow_shift", config.get("shift"))
        return None if shift is None else float(shift)

    def configuration(self, steps: int, frames: int):
        """The policy's settings for a run. Raises `ValueError` where they are wrong, or need what is not there."""
        presets, native = self.presets(steps), self.bound[0].native
        text = self.policy
        if "\n" in text or "=" in text:
            config = presets.read(text, self.moreg, native, steps, frames)
        else:
            config = presets.configuration(text, self.moreg, native, steps, frames)
        if config.steps(steps) != steps:
            raise ValueError(f"`{text}` runs {config.steps(steps)} steps: give the pipeline num_inference_steps={config.steps(steps)}, and no cache")
        self._check(config.policy(native, [0.0] * steps))
        return config

    def _check(self, policy) -> None:
        """Whether everything that a policy measures and reuses can be had here."""
        def refuse(what: str):
            return ValueError(f"policy `{policy.name}` {what}, which adacache cannot do in a pipeline of diffusers: take adacache-fast, "
                              "teacache, fbcache, easycache, magcache, interval-N, or one of these in a TOML file")
        if policy.groups:
            raise refuse("reuses single modules")
        bound = self.bound[0]
        for point in policy.points:
            if point in ("time", "time-projection"):
                if point not in bound.anatomy.time:
                    raise refuse(f"measures `{point}` (Anatomy(time=…) does not name it)")
            elif point in ("modulated", "filtered"):
                if bound.blocks[0].tap is None:
                    raise refuse("measures the first block's input, and the first block has no tap")
                if point == "filtered" and bound.anatomy.grid is None:
                    raise refuse("filters the first block's input (Anatomy(grid=…) is not given)")
            elif point not in PLAIN:
                index = bound.native.block_of(point)
                if index is None:
                    raise ValueError(f"policy `{policy.name}` probes `{point}`, which this transformer does not have")
                if not point.endswith(".whole") and bound.blocks[index].tap is None:
                    raise ValueError(f"policy `{policy.name}` probes `{point}`, and that block has no attention residual of its own: "
                                     f"probe one of the first {bound.probed * 2 + 1} layers")

    # Runs -----------------------------------------------------------------------------------------------------------------------------------

    def start(self, timesteps: Sequence[float]) -> None:
        """Begins a generation with these timesteps. Only for a transformer without a pipeline: a pipeline's scheduler says when one begins."""
        self._given = [float(t) for t in timesteps]
        self.reset()

    def reset(self) -> None:
        """Forgets the run at hand and frees what it keeps. The report stays."""
        if self._run is not None:
            self._close(self._run)

    def _close(self, run: Run) -> None:
        if not run.finished:
            run.finished = True
            for track in run.tracks.values():
                track.observe()
                track.drop()
            run.call = None

    def _abandon(self) -> None:
        """A forward failed: nothing of this run is used again."""
        run = self._run
        if run is not None:
            run.finished = True
            for track in run.tracks.values():
                track.drop()
            run.call = None

    def _schedule(self):
        """(what identifies the run, its timesteps)."""
        pipe = self._pipe()
        scheduler = getattr(pipe, "scheduler", None)
        if scheduler is None or self._given is not None:
            if self._given is None:
                raise RuntimeError("a transformer without a pipeline: give enable(…, timesteps=…), or call cache.start(timesteps) before each generation")
            return self._given, self._given
        return scheduler.timesteps, None

    def _new_run(self, source, given, frames: int) -> Run:
        pipe = self._pipe()
        if given is None:
            timesteps = [float(t) for t in source.tolist()]
            planned = getattr(pipe, "_num_timesteps", None)
            if isinstance(planned, int) and 0 < planned < len(timesteps):
                # A pipeline that begins in the middle, with a picture or a video.
                timesteps = timesteps[-planned:]
        else:
            timesteps = given
        steps = len(timesteps)
        config = None if self.record else self.configuration(steps, frames)
        caution = None if self.record else self.presets(steps).caution(self.policy, steps)
        if caution is not None:
            warnings.warn(caution, stacklevel=2)
        return Run(self, source, timesteps, self._stages(timesteps), config, frames)

    def _stages(self, timesteps: Sequence[float]) -> List[Tuple[int, int]]:
        """Of each expert its first step (from 0), and that behind its last."""
        if len(self.experts) == 1:
            return [(0, len(timesteps))]
        pipe = self._pipe()
        boundary = pipe.config.boundary_ratio
        if boundary is None:
            return [(0, len(timesteps)), (len(timesteps), len(timesteps))]
        limit = boundary * pipe.scheduler.config.num_train_timesteps
        first = sum(1 for t in timesteps if t >= limit)
        return [(0, first), (first, len(timesteps))]

    def _track(self, run: Run, key: str, stage: Tuple[int, int]) -> Track:
        native, steps = self.bound[0].native, len(run.timesteps)
        if self.record:
            policy = self.presets(steps).recorder(native, stage[1] - stage[0], run.frames)
        else:
            policy = run.config.part(stage[0], stage[1], steps).policy(native, run.timesteps[stage[0]:stage[1]])
        if key not in run.reports:
            names = ["transformer", "transformer_2"]
            stages = [(names[i], end - start) for i, (start, end) in enumerate(run.stages) if end > start]
            toml = None if run.config is None else run.config.to_toml()
            run.reports[key] = Report(policy.name, run.timesteps, policy.strides, stages if len(stages) > 1 else [], toml)
        return Track(run.reports[key], policy, stage[0])

    # A forward, as hooks.py tells it -----------------------------------------------------------------------------------------------------

    @plainly
    def begin(self, expert: int, name: Optional[str], arguments: Mapping[str, Any]) -> Optional[Call]:
        """A call of an expert begins. None: nothing is cached in it, because the run has no such step."""
        source, given = self._schedule()
        run, name = self._run, self._name(name, arguments[self.bound[expert].anatomy.latents])
        if self.halves == "apart" and name in ("", "cond_uncond"):
            raise ValueError("halves='apart' is for pipelines that call the transformer once for each half of guidance; this one calls it once for "
                             "both: leave halves out")
        frames = self.bound[expert].anatomy.frames(self.experts[expert](), arguments)
        over = run is not None and given is not None and not run.finished and self._over(run, name)
        if run is None or run.source is not source or over or (given is not None and run.finished):
            if run is not None:
                self._close(run)
            self._run = run = self._new_run(source, given, frames)
        if run.finished:
            return None
        stage = run.stages[expert]
        if expert != run.expert:
            for track in run.tracks.values():
                track.observe()
                track.drop()
            run.tracks, run.expert = {}, expert
        key = name if self.halves == "apart" else ""
        track = run.tracks.get(key)
        if track is None:
            track = run.tracks[key] = self._track(run, key, stage)
        if track.step == 0 or name in track.names:
            track.next_step()
        if track.step > stage[1] - stage[0]:
            return None
        track.names.append(name)
        run.call = call = Call(run, track, name, arguments, frames, expert)
        if track.wants("latents"):
            track.measure_before(call, "latents", call.latents.detach().clone())
        if not track.looks_ahead:
            self.decide(call)
        return call

    def _name(self, name: Optional[str], latents: Tensor) -> str:
        """The call's name. A pipeline that gives none, and calls twice with the same latents, calls once for each half of guidance."""
        # Tensors of inference mode do not tell whether they were changed.
        version = None if latents.is_inference() else latents._version
        last, self._last = self._last, (weakref.ref(latents), version, 0)
        if name is not None or last is None or last[0]() is not latents or version is None or last[1] != version:
            return name or ""
        self._last = (*self._last[:2], last[2] + 1)
        return f"call {self._last[2] + 1}"

    def _over(self, run: Run, name: str) -> bool:
        """Whether a run without a scheduler has had all its steps."""
        key = name if self.halves == "apart" else ""
        track = run.tracks.get(key)
        return track is not None and track.step >= len(run.timesteps) and name in track.names

    @plainly
    def decide(self, call: Call) -> str:
        """Plans the call, once."""
        track = call.track
        known = track.plan is not None
        planned = call.plan is not None
        plan = track.decide(call)
        if not known:
            told = track.plan if track.plan in ("cond", "uncond") else plan
            track.report.planned(track.step + track.start, told)
        if not planned and plan == "compute":
            if track.wants("latents-computed") and call.name == track.names[0]:
                track.measure_after(call, "latents-computed", call.latents.detach().clone())
        return plan

    @plainly
    def measure_input(self, call: Call, modulated: Tensor) -> None:
        """Measures the first block's normed and modulated input."""
        track = call.track
        if track.wants("modulated"):
            track.measure_before(call, "modulated", modulated.clone())
        grid = self.bound[call.expert].anatomy.grid
        if track.wants("filtered") and grid is not None and track.plan is None:
            noise = call.run.timesteps[track.start + track.step - 1] / 1000
            track.measure_before(call, "filtered", filtered(modulated, grid(self.experts[call.expert](), call.arguments), noise))

    @plainly
    def end(self, call: Call, prediction: Tensor) -> None:
        """The call is over."""
        track, report = call.track, call.track.report
        if call.plan == "compute":
            track.computed_call(call, prediction)
        report.clocks[-1].append(call.clock.mark())
        report.bytes = max(report.bytes, call.run.bytes)
        call.run.call = None

    @property
    def call(self) -> Optional[Call]:
        """The call at hand."""
        return self._run.call if self._run is not None else None

    # What is told ---------------------------------------------------------------------------------------------------------------------------

    @property
    def bytes(self) -> int:
        """The bytes kept at this moment."""
        return self._run.bytes if self._run is not None else 0

    def report(self, half: str = "") -> Report:
        """The report of the last run; with halves that decide apart that of `half`, `cond` or `uncond`.

        Raises `RuntimeError` if nothing has run.
        """
        self._settle()
        return self._run.reports[half] if half else self._run.report

    def _settle(self) -> None:
        """Gives a policy whose last step is over what that step measured: without a pipeline nobody says that the run is over."""
        if self._run is None or not self._run.reports:
            raise RuntimeError("nothing has run yet with this cache: call the pipeline first")
        for track in self._run.tracks.values():
            if track.start + track.step >= len(self._run.timesteps):
                track.observe()

    @property
    def computed_steps(self) -> List[int]:
        """The computed steps of the last run, from 1."""
        return self.report().computed_steps

    def trace(self, half: str = "") -> str:
        """The measurements of the last run in the format that `adacache replay` reads."""
        return self.report(half).trace.text()

    def write_trace(self, path, half: str = "") -> None:
        """Writes `trace` to a file."""
        Path(path).write_text(self.trace(half), encoding="utf-8")

    def summary(self) -> str:
        """The last run in a few lines: the schedule, the distances, the work and the seconds saved, the bytes kept."""
        self._settle()
        lines = []
        for half, r in self._run.reports.items():
            computed, partial = len(r.computed_steps), len(r.steps_of("cond", "uncond"))
            of = f" ({half})" if half else ""
            lines.append(f"{r.policy}{of}  {r.strip}  {computed} of {r.steps} steps computed"
                         + (f", {partial} for one half of guidance" if partial else ""))
            if r.decisions:
                distances = [d[1] for d in r.decisions]
                lines.append(f"  distances {min(distances):.4f} to {max(distances):.4f}, the last {distances[-1]:.4f}")
            work = (computed + partial / 2) / max(len(r.plans), 1)
            full, reused = r.mean_seconds("compute"), r.mean_seconds("reuse")
            line = f"  work: {work:.0%} of the transformer's forwards"
            if full is not None and reused is not None:
                saved = (full - reused) * len(r.steps_of("reuse"))
                line += f"; about {saved:.2f} s saved ({full:.3f} s a computed step, {reused:.3f} s a reused one)"
            lines.append(line)
            lines.append(f"  kept: {r.bytes:,} bytes at most")
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"<adacache.Cache {self.policy!r} on {', '.join(type(e()).__name__ for e in self.experts)}>"

    def _refuse(self, *_):
        raise TypeError("a pipeline with adacache cannot be copied or pickled, because its hooks belong to this one: "
                        "call adacache.disable(pipe), copy, and enable adacache on the copy")

    __deepcopy__ = __copy__ = __reduce_ex__ = _refuse
