"""The plan of runs on a typed function: the starts, the optimizers, the number of steps, and what is recorded."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from service.engine.arrays import Array
from service.engine.declarations import Selection
from service.engine.descent.cost import STATE_ROWS
from service.engine.descent.optimizers.declaration import Optimizer
from service.engine.descent.scheduler import Schedule
from service.engine.descent.update import Clip, Rules
from service.engine.errors import Fault, InvalidRequest, LimitExceeded, Path
from service.engine.limits import Limits

MOST_RUNS = 50_000
MOST_SEARCHES = 1_000
"""Runs of one optimizer with a search, at most. Each is a descent of its own."""
MATRICES = STATE_ROWS + 2
"""Matrices (runs, variables) that are kept and worked with, at most: the state, the points and the gradients."""
ARRIVED = 1e-3
"""Default distance from a stationary point, relative to 1 plus the point's distance from 0, up to which a run has
arrived there."""
RECORDED = ("gradients", "state")
"""The quantities that a trace may include of each step beside points and values."""


class GradientNoise(NamedTuple):
    """Noise that is added to each gradient: normal random numbers times `scale`."""

    scale: float
    seed: int
    first: int = 0
    """The number of the first start, where a plan has only some of the starts of another."""
    of: int | None = None
    """The number of starts of the other plan; None: the plan has all."""


class Bounds(NamedTuple):
    """Values and gradient norms that end a run early. A run beyond `value_above` has diverged."""

    value_below: float | None = None
    gradient_norm_below: float | None = None
    value_above: float | None = None


@dataclass(frozen=True)
class RunsPlan:
    """A plan of runs on a function: one run from every start with every optimizer."""

    optimizers: Sequence[Selection[Optimizer]]
    starts: Array
    """(starts, variables)"""
    steps: int
    schedule: Selection[Schedule] | None = None
    clip: Clip | None = None
    stop: Bounds = field(default_factory=Bounds)
    noise: GradientNoise | None = None
    every: int = 1
    """The trace holds the points after 0, every, 2 every, … steps and after the last."""
    include: frozenset[str] = frozenset()
    """Names out of `RECORDED`."""
    keep: bool = True
    """Whether paths are kept until the end."""
    arrived: float = ARRIVED

    @property
    def runs(self) -> int:
        return len(self.optimizers) * len(self.starts)

    @property
    def recorded(self) -> Array:
        """The numbers of steps after which points are recorded."""
        return np.append(np.arange(0, self.steps, min(self.every, self.steps)), self.steps)

    @property
    def signs(self) -> Array:
        """1 for each run that goes downhill, -1 for each that climbs."""
        ascending = [optimizer.options.get("maximize", False) for optimizer in self.optimizers]
        return np.repeat(np.where(ascending, -1.0, 1.0), len(self.starts))

    def check(self, limits: Limits) -> None:
        """Raise `InvalidRequest` where parts of the plan do not fit together, `LimitExceeded` where it is too large."""
        if self.runs > MOST_RUNS:
            raise LimitExceeded("runs", self.runs, MOST_RUNS, ("starts",))
        limits.check_steps(self.steps)
        dimension = self.starts.shape[1]
        each = 1 + dimension
        each += dimension if "gradients" in self.include else 0
        each += MATRICES * dimension if "state" in self.include else 0
        # Counted without `recorded`, which may be long.
        limits.check_trace(self.runs * each * (math.ceil(self.steps / self.every) + 2 if self.keep else 2))
        for place, optimizer in enumerate(self.optimizers):
            self._check_optimizer(optimizer, ("optimizers", place))
        if self.schedule is not None and self.schedule.declaration.watch is not None:
            detail = f"{self.schedule.name} watches one loss, but here are many runs; use one that counts steps"
            raise InvalidRequest([Fault(("schedule",), detail)])

    def _check_optimizer(self, optimizer: Selection[Optimizer], path: Path) -> None:
        Rules(optimizer, self.schedule, self.clip).check()
        if not optimizer.declaration.search:
            return
        if self.noise is not None:
            detail = f"{optimizer.name} asks for more than gradients, which noise is added to; leave noise out"
            raise InvalidRequest([Fault(path, detail)])
        if len(self.starts) > MOST_SEARCHES:
            raise LimitExceeded(f"starts for {optimizer.name}", len(self.starts), MOST_SEARCHES, path)
