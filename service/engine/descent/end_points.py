"""The points where runs on a function ended, with values and gradient norms, and the kinks that some stand on."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from service.engine.arrays import Array, norms_of
from service.engine.descent.runs import DIVERGED, STATUS, Runs, kink_of
from service.engine.float_warnings import without_float_warnings
from service.engine.functions.compiled import Function, PointProblem, Results
from service.engine.functions.stationary import SAME_VALUE, usual_size

BLOCK_POINTS = 256
"""Points in one evaluation with second derivatives."""
BLOCK_ELEMENTS = 4_096
"""Numbers of the Hessians in one such evaluation, if that is fewer points."""
RUNS_AT_ONCE = 2_000
"""Runs that are handled before other work has its turn, where each takes little time."""


def block_size(function: Function) -> int:
    """Return how many points to evaluate at once with second derivatives, so that other work has its turn soon."""
    return max(4, min(BLOCK_POINTS, BLOCK_ELEMENTS // function.dimension**2))


class EndPoints:
    """The state of all runs when they ended. Arrays and lists have a row or an entry for each run."""

    def __init__(self, runs: Runs) -> None:
        self.runs = runs
        self.points: Array = runs.positions.T.copy()
        """(runs, variables)"""
        self.values: Array = runs.values.copy()
        norms = without_float_warnings(norms_of, runs.gradients.T)
        self.norms: Array = np.where(np.isnan(self.values), np.nan, norms)
        self.status = [STATUS[code] for code in runs.status.tolist()]
        self.steps_done: list[int] = runs.ended_at.tolist()
        self.usual = usual_size(runs.first)
        """The usual size of values, beside which rounding is judged."""
        self.settled: Array = (runs.status != DIVERGED) & np.isfinite(self.values)
        """Which runs have an end that can be a stationary point: they did not diverge, and stand on no kink."""
        self.settled &= np.logical_and.reduce(np.isfinite(self.points), axis=1)
        self.on_kinks: dict[int, PointProblem] = {}
        """The kink at the end of a run, where the slope is a convention."""

    @property
    def best(self) -> int | None:
        """The run that ended at the lowest value; uphill, at the highest. Of several values that differ by rounding
        only, the first counts. None if no run has a settled end."""
        if not self.settled.any():
            return None
        signed = np.where(self.settled, self.runs.plan.signs * self.values, np.inf)
        least = signed.min()
        return int((signed <= least + SAME_VALUE * max(self.usual, abs(least))).argmax())

    def _find_kinks(self) -> Iterator[None]:
        """Find the runs that ended on kinks. Yield after each block of them. The slope that convention gives to a kink
        may be 0, so it does not show whether a run has arrived."""
        function = self.runs.function
        if not function.kinks:
            return
        settled = np.flatnonzero(self.settled)
        for start in range(0, len(settled), RUNS_AT_ONCE):
            block = settled[start : start + RUNS_AT_ONCE]
            results = Results(self.values[block], self.runs.gradients[:, block].T, None)
            for place, problems in function.problems(self.points[block], results).items():
                kink = kink_of(problems)
                if kink is not None:
                    self.on_kinks[int(block[place])] = kink
            yield
        self.settled[list(self.on_kinks)] = False
