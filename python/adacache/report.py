"""What a run did: plans, decisions, seconds, bytes, and the trace."""
from __future__ import annotations

import time
from typing import List, Optional, Sequence, Tuple

import torch

from . import _native


class Clock:
    """The seconds of one call: of the device if it is CUDA, else of the host. Nothing waits before they are read."""

    def __init__(self, device: torch.device):
        self._events = [torch.cuda.Event(enable_timing=True) for _ in range(2)] if device.type == "cuda" else None
        self._times: List[float] = []
        self.mark()

    def mark(self) -> "Clock":
        """Begins, then ends."""
        if self._events is not None:
            self._events[len(self._times)].record()
        self._times.append(time.perf_counter())
        return self

    def seconds(self) -> float:
        if self._events is None:
            return self._times[1] - self._times[0]
        self._events[1].synchronize()
        return self._events[0].elapsed_time(self._events[1]) / 1000


class Report:
    """What a run did. Steps count from 1."""

    def __init__(self, policy: str, timesteps: Sequence[float], strides: Sequence[int], stages, config):
        self.policy, self.steps, self.config = policy, len(timesteps), config
        self.plans: List[str] = []
        #: (step, distance, motion factor, its gradient, rate)
        self.decisions: List[Tuple[int, float, float, float, Optional[int]]] = []
        self.trace = _native.Trace(policy, list(timesteps), list(strides), stages)
        self.clocks: List[List[Clock]] = []
        self.bytes = 0

    def record(self, step: int, since: int, point: str, sums: List[float], decision, before: int) -> None:
        self.trace.record(step, since, point, sums)
        if decision is not None:
            self.decisions.append((decision[0] + before, *decision[1:]))

    def planned(self, step: int, plan: str) -> None:
        self.plans.append(plan)
        self.clocks.append([])
        if plan != "reuse":
            self.trace.computed(step, plan != "compute")

    def steps_of(self, *plans: str) -> List[int]:
        return [step for step, plan in enumerate(self.plans, 1) if plan in plans]

    @property
    def computed_steps(self) -> List[int]:
        return self.steps_of("compute")

    @property
    def strip(self) -> str:
        """One character for each step: computed, in part, reused."""
        return "".join({"compute": "█", "reuse": "·"}.get(plan, "▒") for plan in self.plans)

    @property
    def seconds(self) -> List[float]:
        """The seconds of each step's calls of the transformer. Waits for the device."""
        return [sum(clock.seconds() for clock in clocks) for clocks in self.clocks]

    def mean_seconds(self, plan: str) -> Optional[float]:
        """Of the steps but the first, in which kernels are loaded."""
        times = [s for step, (p, s) in enumerate(zip(self.plans, self.seconds)) if p == plan and step > 0]
        return sum(times) / len(times) if times else None
