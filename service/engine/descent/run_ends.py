"""Where the balls are in the end: which have arrived at which stationary point, and why the others have not.

It is worked out block by block, so that other work of the process has its turn in between and it can be given up.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator

import numpy as np

from service.engine.arrays import Array, is_finite, norms_of
from service.engine.descent.runs import CANCELLED, COMPLETED, DIVERGED, STATUS, STOPPED, Runs, kink_of
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
from service.engine.functions.calculus import MAXIMUM, MINIMUM, SADDLE, STATIONARY, analyse, finite_matrices
from service.engine.functions.compiled import Function, PointProblem, Results
from service.engine.functions.flow import follow
from service.engine.functions.newton import near, polish, refine
from service.engine.functions.ranges import kinks_within
from service.engine.functions.stationary import SAME_VALUE, lowest_first, usual_size
from service.engine.texts import telling

BLOCK_POINTS = 256
"""Points at once where second derivatives are asked for."""
BLOCK_ELEMENTS = 4_096
"""Numbers of their Hessians at once, if that is fewer points."""
ITERATIONS = 25
"""Enough also at degenerate points, which Newton's method only comes closer to by a factor."""
HALVINGS = 3
REASONS_AT_ONCE = 2_000
WAYS = 4
"""How many times more ways are followed at once: a call costs more than its work, and a step still takes 4 ms."""
MOST_FOLLOWED = 10_000
"""Runs that have not arrived whose basin is looked for, which takes about 0.1 ms each."""
MOST_EXPLAINED = 1_000
"""Diverged runs whose learning rate is compared with the curvature."""


class RunEnds:
    """Looks where the balls of a rolling that is over have come to. What is told stands when it is finished.

    A ball has arrived if Newton's method from where it is finds a stationary point no farther than the plan says, times
    one plus the ball's distance from 0, and in each variable no farther than that times one plus its own size.
    """

    def __init__(self, rolling: Runs, known: Known | None = None, following: bool = True) -> None:
        """`following` is whether to look for the basins of runs that have not arrived."""
        self.rolling = rolling
        self.points: Array = rolling.positions.T.copy()
        """(runs, variables)"""
        self.values: Array = rolling.values.copy()
        self.norms: Array = np.where(
            np.isnan(self.values), np.nan, without_float_warnings(norms_of, rolling.gradients.T)
        )
        self.status = [STATUS[code] for code in rolling.status.tolist()]
        self.steps_done: list[int] = rolling.ended_at.tolist()
        nowhere = [NOWHERE] * len(self.points)
        self.valleys = Valleys(self.points[:0], None, nowhere, [], nowhere)
        self.reasons: list[str] = []
        self.finished = False
        self._known, self._following = known, following
        self._usual = usual_size(rolling.first)
        self._settled: Array = (rolling.status != DIVERGED) & np.isfinite(self.values)
        self._settled &= np.logical_and.reduce(np.isfinite(self.points), axis=1)
        self._on_kinks: dict[int, PointProblem] = {}
        """The kink at the end of a run, where the slope is a convention."""
        self._note = (
            "; at the kinks of this function it need not vanish" if without_float_warnings(self._has_kinks) else ""
        )
        self._arrivals_known = False
        self._flat = np.zeros(0, bool)
        self._work = self._look()

    def advance(self) -> None:
        """Look at some more of the balls."""
        if without_float_warnings(next, self._work, self) is self:
            self.finished = True

    def cancel(self) -> None:
        """Look at no more; tell what is known."""
        if not self.finished:
            tell = self._told if self._arrivals_known else self._plainly
            self.reasons = [tell(run) for run in range(len(self.status))]
            self.finished = True

    @property
    def best(self) -> int | None:
        """The run that ended lowest; of several as low but for rounding, the first one."""
        plan = self.rolling.plan
        if not self._settled.any():
            return None
        ascending = [optimizer.options.get("maximize", False) for optimizer in plan.optimizers]
        signs = np.repeat(np.where(ascending, -1.0, 1.0), len(plan.starts))
        signed = np.where(self._settled, signs * self.values, np.inf)
        least = signed.min()
        return int((signed <= least + SAME_VALUE * max(self._usual, abs(least))).argmax())

    @property
    def finite(self) -> bool:
        """Whether all that is told is."""
        rolling = self.rolling
        return all(map(is_finite, [self.values, self.points, self.norms, *rolling.paths.arrays]))

    def _look(self) -> Iterator[None]:
        yield from self._find_kinks()
        yield from self._find_valleys()
        self._arrivals_known = True
        if self._following and self._known is None:
            yield from self._find_basins()
        diverged = np.flatnonzero(self.rolling.status == DIVERGED)
        explained: dict[int, str] = {}
        function = self.rolling.compiled(BLOCK_POINTS, 2)
        size = self._block_size(function)
        for start in range(0, len(diverged), size):
            explained |= self._why_diverged(function, diverged[start : start + size], start < MOST_EXPLAINED)
            yield
        known: dict[tuple[int, int], str] = {}
        for run, status in enumerate(self.status):
            if status == STATUS[DIVERGED]:
                self.reasons.append(explained[run])
                continue
            # Most balls end in few places, and alike.
            same = self.steps_done[run], self.valleys.of_run[run]
            plain = status == STATUS[COMPLETED] and same[1] >= 0 and run not in self.rolling.searches.last_moves
            plain = plain and bool(self.norms[run] <= STATIONARY)
            reason = known.get(same) if plain else None
            if reason is None:
                reason = self._told(run)
                if plain:
                    known[same] = reason
            self.reasons.append(reason)
            if run % REASONS_AT_ONCE == REASONS_AT_ONCE - 1:
                yield

    @staticmethod
    def _block_size(function: Function) -> int:
        return max(4, min(BLOCK_POINTS, BLOCK_ELEMENTS // function.dimension**2))

    def _has_kinks(self) -> bool:
        """Whether there may be kinks about where the balls have been."""
        function = self.rolling.function
        if not function.kinks:
            return False
        seen = np.concatenate([self.points[self._settled], self.rolling.plan.starts])
        low, high = seen.min(0), seen.max(0)
        margin = 1.0 + np.maximum(np.abs(low), np.abs(high))
        return bool(kinks_within(function, low - margin, high + margin))

    def _find_kinks(self) -> Iterator[None]:
        """Places where a slope by convention may vanish, so that arrival is unknown."""
        function = self.rolling.function
        if not function.kinks:
            return
        runs = np.flatnonzero(self._settled)
        for start in range(0, len(runs), REASONS_AT_ONCE):
            block = runs[start : start + REASONS_AT_ONCE]
            results = Results(self.values[block], self.rolling.gradients[:, block].T, None)
            for place, problems in function.problems(self.points[block], results).items():
                kink = kink_of(problems)
                if kink is not None:
                    self._on_kinks[int(block[place])] = kink
            yield
        self._settled[list(self._on_kinks)] = False

    def _find_valleys(self) -> Iterator[None]:
        runs = np.flatnonzero(self._settled)
        if not len(runs):
            return
        function = self.rolling.compiled(BLOCK_POINTS, 2)
        if self._known is not None:
            self._find_known(function, runs, self._known)
            return
        ends = self.points[runs]
        # Most balls end in a few places, to many digits: each is looked at once.
        scale = sizes(ends)
        keys = np.concatenate([np.round(ends / (SAME * scale)), scale], -1)
        _, first, inverse = np.unique(keys, axis=0, return_index=True, return_inverse=True)
        yield
        places = ends[first]
        radius = self.rolling.plan.arrived
        arrivals, there = yield from self._refined(function, places, radius * (1.0 + norms_of(places)))
        there &= (np.abs(arrivals - places) <= radius * (1.0 + np.abs(places))).all(-1)
        rows = np.flatnonzero(there)
        chosen, groups = different(arrivals[rows])
        if not len(chosen):
            return
        valleys = arrivals[rows[chosen]]
        yield from self._polish(function, valleys)
        verdicts = judged(function, valleys)
        yield
        known = np.append(verdicts == evidence.KNOWN, False)[groups]
        near_by = ~known
        near_by[known] = without_float_warnings(alike, function, places[rows[known]], valleys[groups[known]], radius)
        rows, groups = rows[near_by], groups[near_by]
        reached = np.bincount(groups[groups >= 0], minlength=len(valleys)) > 0
        told = np.flatnonzero((verdicts != evidence.HIDDEN) & (verdicts != evidence.NONE) & reached)
        order = told[lowest_first(valleys[told], function.run(valleys[told]).values, self._usual)]
        rank = np.append(np.where(verdicts == evidence.HIDDEN, UNKNOWN, NOWHERE), UNTOLD)
        rank[order] = np.arange(len(order))
        of_place = np.full(len(places), NOWHERE)
        of_place[rows] = rank[groups]
        of_run = np.full(len(self.points), NOWHERE)
        of_run[runs] = of_place[inverse.reshape(-1)]
        self._set_valleys(function, valleys[order], verdicts[order] != evidence.KNOWN, of_run)
        yield

    def _find_known(self, function: Function, runs: Array, known: Known) -> None:
        of_run, basins = np.full((2, len(self.points)), NOWHERE)
        of_run[runs[without_float_warnings(known.near, self.points[runs])]] = 0
        basins[runs[self._signs[runs] > 0.0]] = 0
        self._set_valleys(function, known.point[None], np.zeros(1, bool), of_run)
        assert self.valleys.calculus is not None
        self.valleys.calculus.classes = [MINIMUM]  # rounding may hide it
        self.valleys.basins = basins.tolist()

    def _refined(self, function: Function, places: Array, reach: Array) -> Generator[None, None, tuple[Array, Array]]:
        """The stationary points that Newton's method finds next to places, and where it finds one within reach."""
        arrivals, there = places.copy(), np.zeros(len(places), bool)
        size = self._block_size(function)
        for start in range(0, len(places), size):
            block = np.arange(start, min(start + size, len(places)))
            block = block[near(function, places[block], reach[block])]
            if len(block):
                refined = refine(function, places[block], reach[block], ITERATIONS, halvings=HALVINGS)
                arrivals[block] = refined.points
                there[block] = refined.arrived & (norms_of(refined.points - places[block]) <= reach[block])
            yield
        return arrivals, there

    def _polish(self, function: Function, valleys: Array) -> Iterator[None]:
        """Move them, in place, to where they are as exactly as numbers allow."""
        size = self._block_size(function)
        for start in range(0, len(valleys), size):
            yield
            valleys[start : start + size] = polish(function, valleys[start : start + size])

    def _set_valleys(self, function: Function, points: Array, flat: Array, of_run: Array) -> None:
        """`flat` tells at which points a curvature vanishes."""
        calculus = analyse(function, points, math.inf, flat=flat) if len(points) else None
        self._flat = flat
        counts = np.bincount(of_run[of_run >= 0], minlength=len(points)).tolist()
        self.valleys = Valleys(points, calculus, of_run.tolist(), counts, [NOWHERE] * len(of_run))
        classes = [*self.valleys.classes, ""]  # the last one for those without a valley
        wanted = [MINIMUM if sign > 0.0 else MAXIMUM for sign in self._signs.tolist()]
        self.valleys.basins = [
            valley if valley >= 0 and classes[valley] == kind else NOWHERE
            for valley, kind in zip(self.valleys.of_run, wanted, strict=True)
        ]

    @property
    def _signs(self) -> Array:
        """1 for each run that goes downhill, -1 for each that climbs."""
        plan = self.rolling.plan
        ascending = [optimizer.options.get("maximize", False) for optimizer in plan.optimizers]
        return np.repeat(np.where(ascending, -1.0, 1.0), len(plan.starts))

    def _find_basins(self) -> Iterator[None]:
        """Follow gradient flow from where runs have not arrived; valleys that it leads to are added."""
        rolling = self.rolling
        of_run = np.array(self.valleys.of_run)
        runs = np.flatnonzero(self._settled & ((of_run == NOWHERE) | (of_run == UNKNOWN)))[:MOST_FOLLOWED]
        if not len(runs) or any(check.singularity.kind == "jump" for check in rolling.function.checks):
            return
        function = rolling.compiled(BLOCK_POINTS, 2)
        size = WAYS * self._block_size(function)
        signs = self._signs[runs]
        ends, reach = self.points[runs], np.zeros(len(runs))
        for start in range(0, len(runs), size):
            block = slice(start, start + size)
            ends[block], reach[block] = yield from follow(function, ends[block], signs[block])
        bound = np.flatnonzero(reach)
        ends, there = yield from self._refined(function, ends[bound], reach[bound])
        runs, ends, signs = runs[bound[there]], ends[there], signs[bound[there]]
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
        kinds = [MINIMUM if sign > 0.0 else MAXIMUM for sign in signs.tolist()]
        for run, group, kind in zip(runs.tolist(), groups.tolist(), kinds, strict=True):
            place = place_of[group] if group >= 0 else NOWHERE
            if place >= 0 and self.valleys.classes[place] == kind:
                self.valleys.basins[run] = place

    def _add(self, function: Function, found: Array, minima: Array) -> list[int]:
        """Add those minima and maxima to the valleys that are not among them. Gives the valley that each is."""
        valleys = self.valleys
        before = len(valleys.points)
        same = close_to(found, valleys.points)
        place_of = np.where(same.any(-1), same.argmax(-1) if before else NOWHERE, NOWHERE)
        new = np.flatnonzero((place_of < 0) & minima)[: MOST_VALLEYS - before]
        if not len(new):
            known: list[int] = place_of.tolist()
            return known
        place_of[new] = before + np.arange(len(new))
        points = np.concatenate([valleys.points, found[new]])
        order = lowest_first(points, function.run(points).values, self._usual)
        rank = np.empty(len(order) + 1, np.intp)
        rank[order], rank[-1] = np.arange(len(order)), NOWHERE
        of_run = np.array(valleys.of_run)
        of_run[of_run >= 0] = rank[of_run[of_run >= 0]]
        flat = np.append(self._flat, np.zeros(len(new), bool))
        self._set_valleys(function, points[order], flat[order], of_run)
        ranked: list[int] = rank[place_of].tolist()
        return ranked

    def _plainly(self, run: int) -> str:
        """What ended a run, without where it is."""
        rolling, done = self.rolling, self.steps_done[run]
        steps = _steps(done)
        match int(rolling.status[run]):
            case status if status == COMPLETED:
                text = "the one step is done" if done == 1 else f"all {steps} are done"
            case status if status == STOPPED and run in rolling.kinks:
                kink = rolling.kinks[run]
                where = f"after {steps} it stands" if done else "it starts"
                text = f"{where} on {_named(kink)}, where the gradient is not finite: {kink.text}"
            case status if status == STOPPED:
                below = rolling.plan.stop.value_below
                if below is not None and self.values[run] < below:
                    text = f"after {steps} the value {self.values[run]:.6g} is below {below:g}"
                else:
                    bound = rolling.plan.stop.gradient_norm_below
                    text = f"after {steps} the gradient norm {self.norms[run]:.6g} is below {bound:g}"
            case status if status == CANCELLED:
                text = f"it was cut short after {steps}"
            case _:
                text = f"after {steps} {self._what(run)}"
        moved = rolling.searches.last_moves.get(run)
        if moved is not None and moved < done:
            text += f", the last {done - moved:,} of which moved nothing"
        return text

    def _told(self, run: int) -> str:
        plainly = self._plainly(run)
        ended = self.rolling.status[run] == DIVERGED or run in self.rolling.kinks
        return plainly if ended else f"{plainly}; {self._where(run)}"

    def _where(self, run: int) -> str:
        valley, basin = self.valleys.of_run[run], self.valleys.basins[run]
        if valley == UNTOLD:
            return "it has arrived at a stationary point, one of more than are told"
        if run in self._on_kinks:
            kink = self._on_kinks[run]
            return f"it stands on {_named(kink)}, so whether it has arrived is not known: {kink.text}"
        if valley == UNKNOWN and basin < 0:
            return f"rounding hides whether it has arrived: the gradient norm is {self.norms[run]:.3g}"
        if valley < 0:
            text = f"it has not arrived: the gradient norm is {self.norms[run]:.3g}"
            if basin < 0:
                return text + self._note
            return f"{text}, but it lies in the basin of {self.valleys.classes[basin]} {basin}"
        found = self.valleys.classes[valley]
        if found == MINIMUM:
            return f"it has arrived at minimum {valley}"
        if found == SADDLE and self.norms[run] <= STATIONARY:
            return f"it sits on saddle point {valley}, where the gradient vanishes but a way leads down"
        if found == SADDLE:
            return f"it is at saddle point {valley}, where the gradient nearly vanishes but a way leads down"
        return f"it has arrived at stationary point {valley} ({found})"

    def _what(self, run: int) -> str:
        """What is the matter with a run that diverged."""
        value = self.values[run]
        if not math.isfinite(value):
            return "there is no value" if math.isnan(value) else "the value is infinite"
        if not math.isfinite(self.norms[run]):
            return "the gradient is not finite"
        bound = self.rolling.plan.stop.value_above
        if bound is not None and value > bound:
            return f"the value {value:.6g} is above {bound:g}"
        return f"the value is {value:.6g}; it was {self.rolling.first[run]:.6g} at the start"

    def _why_diverged(self, function: Function, runs: Array, compared: bool) -> dict[int, str]:
        rolling, count = self.rolling, len(self.rolling.plan.starts)
        points = np.nan_to_num(self.points[runs])
        problems = function.problems(points, function.run(points))
        curvatures = _largest_curvatures(function, rolling.plan.starts[runs % count]) if compared else []
        found = {}
        for place, run in enumerate(runs.tolist()):
            reason = found[run] = self._plainly(run)
            told = [problem.text for problem in problems.get(place, ()) if problem.kind not in ("not_finite", "kink")]
            if told and np.isfinite(self.points[run]).all():
                found[run] = f"{reason}: {told[0]}"
                continue
            bound, value = rolling.plan.stop.value_above, self.values[run]
            if bound is not None and value > bound:
                continue
            if math.isfinite(value) and math.isfinite(self.norms[run]) and value < rolling.first[run]:
                found[run] = f"{reason}; there is no lowest value on this way, however small the steps"
                continue
            update = rolling.rules.update_of(run)
            if update is None:
                continue
            rate = update.rate(self.steps_done[run]).learning_rate
            found[run] = f"{reason}; the learning rate is {rate:g}"
            if compared and update.sign > 0.0 and 0.0 < curvatures[place] < math.inf:
                found[run] += telling("en")(update.compared(rate, curvatures[place], is_function=True))
        return found


def _named(kink: PointProblem) -> str:
    return "a jump" if kink.kind == "jump" else "a kink"


def _steps(count: int) -> str:
    return f"{count:,} step" if count == 1 else f"{count:,} steps"


def _largest_curvatures(function: Function, points: Array) -> list[float]:
    hessians = function.run(points).hessians
    assert hessians is not None
    curvatures = np.linalg.eigvalsh(finite_matrices(hessians)[0])[:, -1]
    found: list[float] = curvatures.tolist()
    return found
