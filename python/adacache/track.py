"""One policy in one run: its steps and decisions, and the tensors it keeps from step to step."""
from __future__ import annotations

from typing import TYPE_CHECKING, Any, Dict, List, Mapping, Optional, Tuple

import torch

from .measure import Kept, Sums, add, extrapolated, measure, subtract
from .report import Clock, Report

if TYPE_CHECKING:
    from .cache import Run

Tensor = torch.Tensor

#: What the hooks call runs as it is, also inside of a compiled transformer.
plainly = torch.compiler.disable

#: Points that are not a residual of a block.
PLAIN = ("latents", "latents-computed", "prediction", "fold", "modulated", "filtered", "time", "time-projection")


class Call:
    """One call of the transformer."""

    __slots__ = ("run", "track", "name", "arguments", "frames", "plan", "entered", "fresh", "clock", "expert", "reached")

    def __init__(self, run: "Run", track: "Track", name: str, arguments: Mapping[str, Any], frames: int, expert: int):
        self.run, self.track, self.name = run, track, name
        self.arguments, self.frames, self.expert = arguments, frames, expert
        #: `compute` or `reuse`; None before it is planned.
        self.plan: Optional[str] = None
        #: The hidden states that enter the blocks behind the head.
        self.entered: Optional[Tensor] = None
        #: Residuals of the head, to be kept if the step is computed.
        self.fresh: Dict[int, Kept] = {}
        self.clock = Clock(self.latents.device)
        #: Whether the last block ran.
        self.reached = False

    @property
    def latents(self) -> Tensor:
        """The latents that enter the step."""
        return self.arguments[self.run.cache.bound[self.expert].anatomy.latents]


class Track:
    """One policy, its decisions, and what it keeps."""

    def __init__(self, report: "Report", policy, start: int):
        self.report, self.policy, self.start = report, policy, start
        self.points: List[str] = policy.points
        self.before = [policy.before_plan(i) for i in range(len(self.points))]
        self.strides: List[int] = policy.strides
        self.head, self.reuses = policy.head, policy.reuses
        self.offsets = policy.reuses and policy.reused == "prediction"
        self.extrapolates = policy.extrapolates
        self.folds_kept = policy.reuses and not self.offsets
        #: The step at hand in its stage, from 1; the calls it has had.
        self.step, self.names = 0, []
        self.plan: Optional[str] = None
        self.computed: Optional[int] = None
        #: Of (probe, name of the call).
        self.kept: Dict[Tuple[int, str], Kept] = {}
        #: Of a call's name its folds, newest first, and their steps.
        self.folds: Dict[str, List[Tensor]] = {}
        self.fold_steps: Dict[str, List[int]] = {}
        self.offset: Dict[str, Tensor] = {}
        #: Sums of the step at hand that the policy has not seen: of a probe those of each call.
        self.pending: Dict[int, List[Sums]] = {}

    @property
    def bytes(self) -> int:
        kept = sum(kept.bytes for kept in self.kept.values())
        folds = [fold for folds in self.folds.values() for fold in folds]
        return kept + sum(t.numel() * t.element_size() for t in [*folds, *self.offset.values()])

    def drop(self) -> None:
        """Forgets every tensor."""
        for held in (self.kept, self.folds, self.fold_steps, self.offset, self.pending):
            held.clear()

    # Steps ------------------------------------------------------------------------------------------------------------------------------

    def next_step(self) -> None:
        """The step at hand is over."""
        self.observe()
        if self.plan == "compute":
            self.computed = self.step
        self.step += 1
        self.names, self.plan = [], None

    def observe(self) -> None:
        """Gives the policy what the last computed step measured."""
        pending, self.pending = self.pending, {}
        for probe in sorted(pending):
            sums = [one.read() for one in pending[probe]]
            self._tell(self.step, self.computed, probe, [sum(column) for column in zip(*sums)])

    def _tell(self, step: int, since: Optional[int], probe: int, sums: List[float]) -> None:
        if since is None:
            return
        decision = self.policy.observe(step, probe, sums)
        self.report.record(step + self.start, since + self.start, self.points[probe], sums, decision, self.start)

    @plainly
    def measure_before(self, call: Call, point: str, fresh: Tensor, span: str = "block") -> None:
        """Measures, before the step is planned, a tensor that every step has. The first call of a step decides for the others."""
        probe = self._probe(point)
        if probe is None or self.plan is not None:
            return
        strides = self.strides if point not in PLAIN else ()
        key = (probe, "")
        kept, sums = measure(fresh, self.kept.get(key), call.frames, span, strides)
        since = self.policy.compared_with(probe, self.step, self.computed)
        if point in PLAIN:
            self.kept[key] = kept
        else:
            call.fresh[probe] = kept
        if sums is not None:
            self._tell(self.step, since, probe, sums.read())

    @plainly
    def measure_after(self, call: Call, point: str, fresh: Tensor, span: str = "block") -> None:
        """Measures a tensor of a computed step; the policy sees it before the next step."""
        probe = self._probe(point)
        if probe is None or self.plan != "compute":
            return
        strides = self.strides if point not in PLAIN else ()
        key = (probe, call.name)
        self.kept[key], sums = measure(fresh, self.kept.get(key), call.frames, span, strides)
        if sums is not None:
            self.pending.setdefault(probe, []).append(sums)

    def _probe(self, point: str) -> Optional[int]:
        return self.points.index(point) if point in self.points else None

    def wants(self, point: str) -> bool:
        return point in self.points

    @property
    def looks_ahead(self) -> bool:
        """Whether the plan waits for something measured inside of the forward."""
        return any(before and point != "latents" for before, point in zip(self.before, self.points))

    @plainly
    def decide(self, call: Call) -> str:
        """The plan of the call, of `compute` and `reuse`; made once for a step."""
        if call.plan is not None:
            return call.plan
        if self.plan is None:
            self.plan = self.policy.plan(self.step)
        plan = self.plan
        if plan in ("cond", "uncond"):
            # A call of both halves at once is computed.
            plan = "reuse" if {"cond", "uncond"} - {plan} == {call.name} else "compute"
        if plan == "reuse" and not self.can_reuse(call):
            plan = "compute"
        call.plan = plan
        if plan == "compute":
            for probe, kept in call.fresh.items():
                self.kept[(probe, "")] = kept
        return plan

    def can_reuse(self, call: Call) -> bool:
        """Whether something is kept that fits the call: guidance may begin late, and sizes may change."""
        if self.offsets:
            return call.name in self.offset and self.offset[call.name].shape == call.latents.shape
        if call.name not in self.folds:
            return False
        return call.entered is None or call.run.fits(call, self.folds[call.name][0])

    # What is kept ---------------------------------------------------------------------------------------------------------------------------

    @plainly
    def keep_fold(self, call: Call, out: Tensor) -> None:
        """Keeps what the blocks have added."""
        if not self.folds_kept and not self.wants("fold"):
            return
        fold = subtract(out, call.run.arrived(call))
        if self.wants("fold"):
            self.measure_after(call, "fold", fold)
        if self.folds_kept:
            most = 1 + (self.extrapolates[0] if self.extrapolates else 0)
            self.folds[call.name] = [fold.detach(), *self.folds.get(call.name, [])][:most]
            self.fold_steps[call.name] = [self.step, *self.fold_steps.get(call.name, [])][:most]

    @plainly
    def unfold(self, call: Call) -> Tensor:
        """The output of the last block, as it is expected to be."""
        x, folds = call.run.arrived(call), self.folds[call.name]
        if self.extrapolates:
            order, damping = self.extrapolates
            return extrapolated(x, folds, self.fold_steps[call.name], self.step, order, damping)
        return add(x, folds[0])

    @plainly
    def computed_call(self, call: Call, prediction: Tensor) -> None:
        """A computed call is over."""
        latents = call.latents
        if self.offsets:
            if prediction.shape != latents.shape:
                raise ValueError(
                    f"the policy reuses predictions as latents, and latents have the shape {tuple(latents.shape)}, "
                    f"predictions {tuple(prediction.shape)}: take a policy that reuses the fold"
                )
            self.offset[call.name] = (prediction.float() - latents.float()).detach()
        if self.wants("prediction"):
            self.measure_after(call, "prediction", prediction.detach().clone())
