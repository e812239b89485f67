"""Where the balls are in the end: which have arrived at which stationary point, and why the others have not.

It is worked out block by block, so that other work of the process has its turn in between and it can be given up.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from service.engine.descent.rolling import CANCELLED, COMPLETED, DIVERGED, STATUS, STOPPED, Rolling
from service.engine.functions.calculus import MINIMUM, SADDLE, STATIONARY, Calculus, analyse, finite_matrices, norms_of
from service.engine.functions.function import Function, all_finite
from service.engine.functions.newton import distinct, near, polish, refine
from service.engine.functions.stationary import SAME_VALUE, lowest_first, usual_size
from service.engine.graph.ir import Array
from service.engine.graph.quiet import quietly

BLOCK = 256
"""Points at once where second derivatives are asked for."""
BLOCK_ELEMENTS = 4_096
"""Numbers of their Hessians at once, if that is fewer points."""
ITERATIONS = 25
"""Enough also at degenerate points, which Newton's method only comes closer to by a factor."""
HALVINGS = 3
MOST_VALLEYS = 500
SAME = 1e-6
"""Valleys closer than this, beside their distance from 0, are one."""
REASONS_AT_ONCE = 2_000
MOST_EXPLAINED = 1_000
"""Diverged runs whose learning rate is compared with the curvature."""
NOWHERE, UNTOLD = -1, -2
"""In place of a valley: arrived at none, or at one of those beyond the most that are told."""


@dataclass
class Valleys:
    """The distinct places where balls ended, lowest first."""

    points: Array
    """(valleys, variables)"""
    calculus: Calculus | None
    """At those points; None: there are none."""
    of_run: list[int]
    """For each run its valley, NOWHERE or UNTOLD."""
    counts: list[int]
    """How many runs ended in each."""

    @property
    def classes(self) -> list[str]:
        return [] if self.calculus is None or self.calculus.classes is None else self.calculus.classes


class Arrival:
    """Looks where the balls of a rolling that is over have come to. What is told stands when it is finished.

    A ball has arrived if Newton's method from where it is finds a stationary point no farther than the plan says, times
    one plus the ball's distance from 0.
    """

    def __init__(self, rolling: Rolling) -> None:
        self.rolling = rolling
        self.points: Array = rolling.positions.T.copy()
        """(runs, variables)"""
        self.values: Array = rolling.values.copy()
        self.norms: Array = np.where(np.isnan(self.values), np.nan, quietly(norms_of, rolling.gradients.T))
        self.status = [STATUS[code] for code in rolling.status.tolist()]
        self.steps_done: list[int] = rolling.ended_at.tolist()
        self.valleys = Valleys(self.points[:0], None, [NOWHERE] * len(self.points), [])
        self.reasons: list[str] = []
        self.finished = False
        self._usual = usual_size(rolling.first)
        self._settled: Array = (rolling.status != DIVERGED) & np.isfinite(self.values)
        self._settled &= np.logical_and.reduce(np.isfinite(self.points), axis=1)
        kinked = any(check.trouble.kind in ("kink", "vertical") for check in rolling.function.checks)
        self._kinks = "; at the kinks of this function it need not vanish" if kinked else ""
        self._work = self._look()

    def advance(self) -> None:
        """Look at some more of the balls."""
        if quietly(next, self._work, self) is self:
            self.finished = True

    def cancel(self) -> None:
        """Look at no more; tell what is known."""
        if not self.finished:
            self.reasons = [self._plainly(run) for run in range(len(self.status))]
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
        told = [self.values, self.points, self.norms, rolling.paths, rolling.told_values]
        told += [] if rolling.told_gradients is None else [rolling.told_gradients]
        told += [state for states in rolling.told_states for state in states.values()]
        return all(map(all_finite, told))

    def _look(self) -> Iterator[None]:
        yield from self._find_valleys()
        diverged = np.flatnonzero(self.rolling.status == DIVERGED)
        explained: dict[int, str] = {}
        function = self.rolling.find(BLOCK, 2)
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
            alike = self.steps_done[run], self.valleys.of_run[run]
            plain = status == STATUS[COMPLETED] and alike[1] >= 0 and run not in self.rolling.moved
            plain = plain and bool(self.norms[run] <= STATIONARY)
            reason = known.get(alike) if plain else None
            if reason is None:
                reason = f"{self._plainly(run)}; {self._where(run)}"
                if plain:
                    known[alike] = reason
            self.reasons.append(reason)
            if run % REASONS_AT_ONCE == REASONS_AT_ONCE - 1:
                yield

    @staticmethod
    def _block_size(function: Function) -> int:
        return max(4, min(BLOCK, BLOCK_ELEMENTS // function.dimension**2))

    def _find_valleys(self) -> Iterator[None]:
        runs = np.flatnonzero(self._settled)
        if not len(runs):
            return
        function = self.rolling.find(BLOCK, 2)
        ends = self.points[runs]
        # Most balls end in a few places, to many digits: each is looked at once.
        far = 1.0 + norms_of(ends)
        scale = np.exp2(np.ceil(np.log2(far)))[:, None]
        keys = np.concatenate([np.round(ends / (SAME * scale)), scale], -1)
        _, first, inverse = np.unique(keys, axis=0, return_index=True, return_inverse=True)
        yield
        places, reach = ends[first], self.rolling.plan.arrived * far[first]
        arrivals, there = np.empty_like(places), np.zeros(len(places), bool)
        size = self._block_size(function)
        for start in range(0, len(places), size):
            block = np.arange(start, min(start + size, len(places)))
            block = block[near(function, places[block], reach[block])]
            if len(block):
                refined = refine(function, places[block], reach[block], ITERATIONS, halvings=HALVINGS)
                arrivals[block] = refined.points
                there[block] = refined.arrived & (norms_of(refined.points - places[block]) <= reach[block])
            yield
        arrivals = arrivals[there]
        chosen, groups = distinct(arrivals, SAME * (1.0 + norms_of(arrivals))[:, None], MOST_VALLEYS)
        if not len(chosen):
            return
        valleys = arrivals[chosen]
        for start in range(0, len(valleys), size):
            yield
            valleys[start : start + size] = polish(function, valleys[start : start + size])
        order = lowest_first(valleys, function.run(valleys).values, self._usual)
        rank = np.empty(len(order) + 1, np.intp)
        rank[order], rank[-1] = np.arange(len(order)), UNTOLD
        of_place = np.full(len(places), NOWHERE)
        of_place[there] = rank[groups]
        of_run = np.full(len(self.points), NOWHERE)
        of_run[runs] = of_place[inverse.reshape(-1)]
        counts = np.bincount(of_run[of_run >= 0], minlength=len(order)).tolist()
        calculus = analyse(function, valleys[order], math.inf)
        self.valleys = Valleys(valleys[order], calculus, of_run.tolist(), counts)
        yield

    def _plainly(self, run: int) -> str:
        """What ended a run, without where it is."""
        rolling, done = self.rolling, self.steps_done[run]
        steps = _steps(done)
        match int(rolling.status[run]):
            case status if status == COMPLETED:
                text = "the one step is done" if done == 1 else f"all {steps} are done"
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
        moved = rolling.moved.get(run)
        if moved is not None and moved < done:
            text += f", the last {done - moved:,} of which moved nothing"
        return text

    def _where(self, run: int) -> str:
        valley = self.valleys.of_run[run]
        if valley == UNTOLD:
            return "it has arrived at a stationary point, one of more than are told"
        if valley < 0:
            return f"it has not arrived: the gradient norm is {self.norms[run]:.3g}{self._kinks}"
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
            update = rolling.update_of(run)
            if update is None:
                continue
            rate = update.rate(self.steps_done[run]).learning_rate
            found[run] = f"{reason}; the learning rate is {rate:g}"
            if compared and update.sign > 0.0 and 0.0 < curvatures[place] < math.inf:
                found[run] += "; " + update.compared(rate, curvatures[place], "the function")
        return found


def _steps(count: int) -> str:
    return f"{count:,} step" if count == 1 else f"{count:,} steps"


def _largest_curvatures(function: Function, points: Array) -> list[float]:
    hessians = function.run(points).hessians
    assert hessians is not None
    curvatures = np.linalg.eigvalsh(finite_matrices(hessians)[0])[:, -1]
    found: list[float] = curvatures.tolist()
    return found
