"""The search for valleys: the stationary points where runs have arrived, and those that gradient flow leads to."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator

import numpy as np

from service.engine.arrays import Array, norms_of
from service.engine.descent.end_points import BLOCK_POINTS, EndPoints, block_size
from service.engine.descent.valleys import (
    MOST_VALLEYS,
    NOWHERE,
    SAME,
    UNKNOWN,
    UNTOLD,
    Known,
    Valleys,
    alike,
    close_to,
    different,
    judged,
    sizes,
)
from service.engine.float_warnings import without_float_warnings
from service.engine.functions import evidence
from service.engine.functions.calculus import MAXIMUM, MINIMUM, analyse
from service.engine.functions.compiled import Function
from service.engine.functions.flow import follow
from service.engine.functions.newton import near, polish, refine
from service.engine.functions.stationary import lowest_first

ITERATIONS = 25
"""Steps of Newton's method: enough also at degenerate points, where each step only divides the distance."""
HALVINGS = 3
FOLLOWED_BLOCKS = 4
"""Blocks of points that are followed at once: a call costs more than its work, and a step still takes only 4 ms."""
MOST_FOLLOWED = 10_000
"""Runs that have not arrived, up to which their basins are searched. Each takes about 0.1 ms."""


class ValleySearch:
    """The search for the valleys of runs that have ended. Its generators yield between two blocks of work.

    A run has arrived if Newton's method finds a stationary point near its end: no farther than the plan says, times 1
    plus the distance of the end from 0, and in each variable no farther than that times 1 plus the variable's size.
    """

    def __init__(self, ends: EndPoints) -> None:
        self.ends, self.runs = ends, ends.runs
        nowhere = [NOWHERE] * len(ends.points)
        self.valleys = Valleys(ends.points[:0], None, nowhere, [], nowhere)
        self._flat = np.zeros(0, bool)
        """Whether a curvature vanishes, at each valley."""

    def find(self) -> Iterator[None]:
        """Find the valleys where runs have arrived."""
        ends, points = self.ends, self.ends.points
        settled = np.flatnonzero(ends.settled)
        if not len(settled):
            return
        function = self.runs.compiled(BLOCK_POINTS, 2)
        # Most runs end in a few places, to many digits: each place is searched once.
        scale = sizes(points[settled])
        keys = np.concatenate([np.round(points[settled] / (SAME * scale)), scale], -1)
        _, first, inverse = np.unique(keys, axis=0, return_index=True, return_inverse=True)
        yield
        places = points[settled][first]
        radius = self.runs.plan.arrived
        arrivals, there = yield from self._refined(function, places, radius * (1.0 + norms_of(places)))
        there &= (np.abs(arrivals - places) <= radius * (1.0 + np.abs(places))).all(-1)
        rows = np.flatnonzero(there)
        chosen, groups = different(arrivals[rows])
        if not len(chosen):
            return
        found = arrivals[rows[chosen]]
        yield from self._polish(function, found)
        verdicts = judged(function, found)
        yield
        known = np.append(verdicts == evidence.KNOWN, False)[groups]
        near_by = ~known
        near_by[known] = without_float_warnings(alike, function, places[rows[known]], found[groups[known]], radius)
        rows, groups = rows[near_by], groups[near_by]
        reached = np.bincount(groups[groups >= 0], minlength=len(found)) > 0
        kept = np.flatnonzero((verdicts != evidence.HIDDEN) & (verdicts != evidence.NONE) & reached)
        order = kept[lowest_first(found[kept], function.run(found[kept]).values, ends.usual)]
        rank = np.append(np.where(verdicts == evidence.HIDDEN, UNKNOWN, NOWHERE), UNTOLD)
        rank[order] = np.arange(len(order))
        of_place = np.full(len(places), NOWHERE)
        of_place[rows] = rank[groups]
        of_run = np.full(len(points), NOWHERE)
        of_run[settled] = of_place[inverse.reshape(-1)]
        self._set_valleys(function, found[order], verdicts[order] != evidence.KNOWN, of_run)
        yield

    def use(self, known: Known) -> None:
        """Take `known`, the only minimum of a convex function, as the only valley instead of searching."""
        points, settled = self.ends.points, np.flatnonzero(self.ends.settled)
        if not len(settled):
            return
        of_run, basins = np.full((2, len(points)), NOWHERE)
        of_run[settled[without_float_warnings(known.near, points[settled])]] = 0
        basins[settled[self.runs.plan.signs[settled] > 0.0]] = 0
        self._set_valleys(self.runs.compiled(BLOCK_POINTS, 2), known.point[None], np.zeros(1, bool), of_run)
        assert self.valleys.calculus is not None
        self.valleys.calculus.classes = [MINIMUM]  # rounding may hide it
        self.valleys.basins = basins.tolist()

    def find_basins(self) -> Iterator[None]:
        """Follow gradient flow from the ends of runs that have not arrived, and add the valleys it leads to. Yields
        between two blocks of work."""
        of_run = np.array(self.valleys.of_run)
        followed = np.flatnonzero(self.ends.settled & ((of_run == NOWHERE) | (of_run == UNKNOWN)))[:MOST_FOLLOWED]
        if not len(followed) or any(check.singularity.kind == "jump" for check in self.runs.function.checks):
            return
        function = self.runs.compiled(BLOCK_POINTS, 2)
        size = FOLLOWED_BLOCKS * block_size(function)
        signs = self.runs.plan.signs[followed]
        ends, reach = self.ends.points[followed], np.zeros(len(followed))
        for start in range(0, len(followed), size):
            block = slice(start, start + size)
            ends[block], reach[block] = yield from follow(function, ends[block], signs[block])
        bound = np.flatnonzero(reach)
        ends, there = yield from self._refined(function, ends[bound], reach[bound])
        followed, ends, signs = followed[bound[there]], ends[there], signs[bound[there]]
        chosen, groups = different(ends)
        if not len(chosen):
            return
        found = ends[chosen]
        yield from self._polish(function, found)
        yield
        classes = analyse(function, found, math.inf).classes or []
        known = judged(function, found) == evidence.KNOWN
        ends_here = [sure and kind in (MINIMUM, MAXIMUM) for sure, kind in zip(known.tolist(), classes, strict=True)]
        place_of = self._add(function, found, np.array(ends_here))
        yield
        for run, group, kind in zip(followed.tolist(), groups.tolist(), _kinds(signs), strict=True):
            place = place_of[group] if group >= 0 else NOWHERE
            if place >= 0 and self.valleys.classes[place] == kind:
                self.valleys.basins[run] = place

    def _refined(self, function: Function, places: Array, reach: Array) -> Generator[None, None, tuple[Array, Array]]:
        """Find stationary points near places (points, variables) with Newton's method. Yields between blocks. Returns
        the stationary points, and a mask that says which of them are within `reach`, a distance for each place."""
        arrivals, there = places.copy(), np.zeros(len(places), bool)
        size = block_size(function)
        for start in range(0, len(places), size):
            block = np.arange(start, min(start + size, len(places)))
            block = block[near(function, places[block], reach[block])]
            if len(block):
                refined = refine(function, places[block], reach[block], ITERATIONS, halvings=HALVINGS)
                arrivals[block] = refined.points
                there[block] = refined.arrived & (norms_of(refined.points - places[block]) <= reach[block])
            yield
        return arrivals, there

    def _polish(self, function: Function, points: Array) -> Iterator[None]:
        """Move stationary points, in place, to the exact ones as far as float64 allows. Yields between blocks."""
        size = block_size(function)
        for start in range(0, len(points), size):
            yield
            points[start : start + size] = polish(function, points[start : start + size])

    def _set_valleys(self, function: Function, points: Array, flat: Array, of_run: Array) -> None:
        """Make these points the valleys and analyse them. `flat` marks points where a curvature vanishes; `of_run` is
        the valley of each run."""
        calculus = analyse(function, points, math.inf, flat=flat) if len(points) else None
        self._flat = flat
        counts = np.bincount(of_run[of_run >= 0], minlength=len(points)).tolist()
        self.valleys = Valleys(points, calculus, of_run.tolist(), counts, [NOWHERE] * len(of_run))
        classes = [*self.valleys.classes, ""]  # the last one for runs without a valley
        self.valleys.basins = [
            valley if valley >= 0 and classes[valley] == kind else NOWHERE
            for valley, kind in zip(self.valleys.of_run, _kinds(self.runs.plan.signs), strict=True)
        ]

    def _add(self, function: Function, found: Array, ends_here: Array) -> list[int]:
        """Add the points where gradient flow ends to the valleys, unless they are valleys already. `ends_here` marks
        the minima and maxima. Returns the valley of each point, or NOWHERE."""
        valleys = self.valleys
        before = len(valleys.points)
        same = close_to(found, valleys.points)
        place_of = np.where(same.any(-1), same.argmax(-1) if before else NOWHERE, NOWHERE)
        new = np.flatnonzero((place_of < 0) & ends_here)[: MOST_VALLEYS - before]
        if not len(new):
            known: list[int] = place_of.tolist()
            return known
        place_of[new] = before + np.arange(len(new))
        points = np.concatenate([valleys.points, found[new]])
        order = lowest_first(points, function.run(points).values, self.ends.usual)
        rank = np.empty(len(order) + 1, np.intp)
        rank[order], rank[-1] = np.arange(len(order)), NOWHERE
        of_run = np.array(valleys.of_run)
        of_run[of_run >= 0] = rank[of_run[of_run >= 0]]
        flat = np.append(self._flat, np.zeros(len(new), bool))
        self._set_valleys(function, points[order], flat[order], of_run)
        ranked: list[int] = rank[place_of].tolist()
        return ranked


def _kinds(signs: Array) -> list[str]:
    """Return for each run the kind of stationary point it looks for: a minimum downhill, a maximum uphill."""
    return [MINIMUM if sign > 0.0 else MAXIMUM for sign in signs.tolist()]
