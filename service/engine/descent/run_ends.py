"""The ends of runs on a function: which have arrived at which stationary point, and why the others have not.

The work goes block by block, so that other work of the process has its turn in between and a caller can give up.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator

import numpy as np

from service.engine.arrays import is_finite
from service.engine.descent.end_points import BLOCK_POINTS, RUNS_AT_ONCE, EndPoints, block_size
from service.engine.descent.end_reasons import EndReasons
from service.engine.descent.runs import COMPLETED, DIVERGED, STATUS, Runs
from service.engine.descent.valley_search import ValleySearch
from service.engine.descent.valleys import Known, Valleys
from service.engine.float_warnings import without_float_warnings
from service.engine.functions.calculus import STATIONARY

MOST_EXPLAINED = 1_000
"""Diverged runs whose learning rate is compared with the curvature."""


class RunEnds(EndPoints):
    """The ends of all runs: the stationary points where they arrived, and sentences that say why each run ended. Call
    `advance` until `finished`; only then all of it is there."""

    def __init__(self, runs: Runs, known: Known | None = None, following: bool = True) -> None:
        """Take over runs that have ended. `known` is the only minimum, if it is known beforehand. With `following`, the
        search also looks for the basins of runs that have not arrived."""
        super().__init__(runs)
        ends = copy.copy(self)  # the same arrays, but no cycle that only the garbage collector could free
        self.reasons: list[str] = []
        self.finished = False
        self._known, self._following = known, following
        self._search = ValleySearch(ends)
        self._in_words = without_float_warnings(EndReasons, ends)
        self._arrivals_known = False
        self._work = self._look()

    @property
    def valleys(self) -> Valleys:
        return self._search.valleys

    def advance(self) -> None:
        """Do the next block of the work."""
        if without_float_warnings(next, self._work, self) is self:
            self.finished = True

    def cancel(self) -> None:
        """Stop working. The reasons say what is known so far."""
        if not self.finished:
            runs = range(len(self.status))
            if self._arrivals_known:
                self.reasons = [self._in_words.whole(run, self.valleys) for run in runs]
            else:
                self.reasons = [self._in_words.plain(run) for run in runs]
            self.finished = True

    @property
    def finite(self) -> bool:
        """True if all points, values, norms and recorded paths are finite."""
        arrays = [self.values, self.points, self.norms, *self.runs.paths.arrays]
        return all(without_float_warnings(is_finite, array) for array in arrays)

    def _look(self) -> Iterator[None]:
        yield from self._find_kinks()
        if self._known is None:
            yield from self._search.find()
        else:
            self._search.use(self._known)
        self._arrivals_known = True
        if self._following and self._known is None:
            yield from self._search.find_basins()
        diverged = np.flatnonzero(self.runs.status == DIVERGED)
        explained: dict[int, str] = {}
        function = self.runs.compiled(BLOCK_POINTS, 2)
        size = block_size(function)
        for start in range(0, len(diverged), size):
            block = diverged[start : start + size]
            explained |= self._in_words.of_diverged(function, block, start < MOST_EXPLAINED)
            yield
        known: dict[tuple[int, int], str] = {}
        for run, status in enumerate(self.status):
            if status == STATUS[DIVERGED]:
                self.reasons.append(explained[run])
                continue
            # Most runs end in few valleys, and for the same reason.
            same = self.steps_done[run], self.valleys.of_run[run]
            plain = status == STATUS[COMPLETED] and same[1] >= 0 and run not in self.runs.searches.last_moves
            plain = plain and bool(self.norms[run] <= STATIONARY)
            reason = known.get(same) if plain else None
            if reason is None:
                reason = self._in_words.whole(run, self.valleys)
                if plain:
                    known[same] = reason
            self.reasons.append(reason)
            if run % RUNS_AT_ONCE == RUNS_AT_ONCE - 1:
                yield
