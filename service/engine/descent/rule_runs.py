"""The runs whose optimizers are rules: columns of one matrix, moved with as few array operations as one run needs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from service.engine.arrays import Array, norms_of
from service.engine.declarations import Selection
from service.engine.descent.optimizers.declaration import Optimizer
from service.engine.descent.runs_plan import GradientNoise, RunsPlan
from service.engine.descent.update import Rules, Update

NOISE = 3
"""The stream of random numbers of the noise, apart from those of networks."""


class Group(NamedTuple):
    """All runs of one optimizer, which one update moves together."""

    runs: slice
    update: Update
    gradient: Array
    """(variables, runs): the gradients that the rule gets."""


class RuleRuns:
    """All runs whose optimizers are rules. A step changes the matrix of all positions in place."""

    def __init__(
        self, plan: RunsPlan, positions: Array, values: Array, gradients: Array, calls: Sequence[Callable[[], object]]
    ) -> None:
        """`calls`, made in turn, fill `values`, (runs,), and `gradients` at `positions`, both (variables, runs)."""
        self.plan, self.positions, self.values, self.gradients = plan, positions, values, gradients
        self._calls = calls
        self._noisy = np.empty_like(gradients)
        self.groups: list[Group] = []

    def add(self, optimizer: Selection[Optimizer], place: int) -> None:
        """Add a run from each start for an optimizer. `place` is the optimizer's position in the plan."""
        count = len(self.plan.starts)
        runs = slice(place * count, (place + 1) * count)
        rules = Rules(optimizer, self.plan.schedule, self.plan.clip)
        seen = self.gradients if self.plan.noise is None else self._noisy
        self.groups.append(Group(runs, Update(rules, self.positions[:, runs]), seen[:, runs]))

    def move(self, step: int) -> None:
        """Move all runs by one step, counted from 0. Values and gradients at the positions must be up to date."""
        rates = [group.update.begin(step) for group in self.groups]
        gradients = self._gradients_ahead(step)
        norms: Array | float = math.nan
        if self.plan.clip is not None and self.plan.clip.norm is not None:
            norms = norms_of(gradients.T)
        for group, rate in zip(self.groups, rates, strict=True):
            own = norms[group.runs] if isinstance(norms, np.ndarray) else norms
            group.update.move(group.gradient, own, step + 1, rate)

    def _gradients_ahead(self, step: int) -> Array:
        """Return the gradients that rules get, (variables, runs): at points ahead, and with noise. Only rules that look
        ahead, such as Nesterov's, get the gradient at another point than the position."""
        ahead = []
        for group in self.groups:
            offset = group.update.ahead()
            if offset is not None:
                ahead.append((group.runs, offset))
        if ahead:
            values, gradients, before = self.values.copy(), self.gradients.copy(), self.positions.copy()
            for runs, offset in ahead:
                self.positions[:, runs] += offset
            for call in self._calls:
                call()
            for runs, _ in ahead:
                gradients[:, runs] = self.gradients[:, runs]
            self.positions[...] = before
            self.values[...], self.gradients[...] = values, gradients
        if self.plan.noise is None:
            return self.gradients
        noise = np.tile(self._drawn(self.plan.noise, step), len(self.plan.optimizers))
        np.add(self.gradients, noise, out=self._noisy)
        return self._noisy

    def _drawn(self, noise: GradientNoise, step: int) -> Array:
        """Draw the noise of a step, the same for all optimizers: (variables, starts)."""
        generator = np.random.Generator(np.random.PCG64([noise.seed, NOISE, step]))
        count, dimension = self.plan.starts.shape
        drawn: Array = noise.scale * generator.standard_normal((noise.of or count, dimension))
        return drawn[noise.first : noise.first + count].T

    def update_of(self, run: int) -> Update | None:
        """Return the update that moves a run; None for a run whose optimizer is a search."""
        return next((each.update for each in self.groups if each.runs.start <= run < each.runs.stop), None)
