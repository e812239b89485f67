"""Sentences about how runs on a function ended: what ended them, and where they have arrived or why they have not."""

from __future__ import annotations

import math

import numpy as np

from service.engine.arrays import Array
from service.engine.descent.end_points import EndPoints
from service.engine.descent.runs import CANCELLED, COMPLETED, DIVERGED, STOPPED
from service.engine.descent.valleys import UNKNOWN, UNTOLD, Valleys
from service.engine.functions.calculus import MINIMUM, SADDLE, STATIONARY, finite_matrices
from service.engine.functions.compiled import Function, PointProblem
from service.engine.functions.ranges import kinks_within
from service.engine.texts import telling


class EndReasons:
    """A writer of the sentences that say why each run ended, and where."""

    def __init__(self, ends: EndPoints) -> None:
        self.ends, self.runs = ends, ends.runs
        self._note = "; at the kinks of this function it need not vanish" if self._has_kinks() else ""

    def _has_kinks(self) -> bool:
        """Return whether there may be kinks near the starts and the ends."""
        function = self.runs.function
        if not function.kinks:
            return False
        seen = np.concatenate([self.ends.points[self.ends.settled], self.runs.plan.starts])
        low, high = seen.min(0), seen.max(0)
        margin = 1.0 + np.maximum(np.abs(low), np.abs(high))
        return bool(kinks_within(function, low - margin, high + margin))

    def plain(self, run: int) -> str:
        """Return a clause that says what ended a run. It does not say where the run is."""
        runs, done = self.runs, self.ends.steps_done[run]
        steps = _steps(done)
        match int(runs.status[run]):
            case status if status == COMPLETED:
                text = "the one step is done" if done == 1 else f"all {steps} are done"
            case status if status == STOPPED and run in runs.kinks:
                kink = runs.kinks[run]
                where = f"after {steps} it stands" if done else "it starts"
                text = f"{where} on {_named(kink)}, where the gradient is not finite: {kink.text}"
            case status if status == STOPPED:
                below = runs.plan.stop.value_below
                if below is not None and self.ends.values[run] < below:
                    text = f"after {steps} the value {self.ends.values[run]:.6g} is below {below:g}"
                else:
                    bound = runs.plan.stop.gradient_norm_below
                    text = f"after {steps} the gradient norm {self.ends.norms[run]:.6g} is below {bound:g}"
            case status if status == CANCELLED:
                text = f"it was cut short after {steps}"
            case _:
                text = f"after {steps} {self._what_diverged(run)}"
        moved = runs.searches.last_moves.get(run)
        if moved is not None and moved < done:
            text += f", the last {done - moved:,} of which moved nothing"
        return text

    def whole(self, run: int, valleys: Valleys) -> str:
        """Return a clause that says what ended a run and where it is. A run that diverged or ended on a kink gets only
        the first part."""
        plain = self.plain(run)
        lost = self.runs.status[run] == DIVERGED or run in self.runs.kinks
        return plain if lost else f"{plain}; {self._where(run, valleys)}"

    def _where(self, run: int, valleys: Valleys) -> str:
        norm = self.ends.norms[run]
        valley, basin = valleys.of_run[run], valleys.basins[run]
        if valley == UNTOLD:
            return "it has arrived at a stationary point, one of more than are listed"
        if run in self.ends.on_kinks:
            kink = self.ends.on_kinks[run]
            return f"it stands on {_named(kink)}, so whether it has arrived is not known: {kink.text}"
        if valley == UNKNOWN and basin < 0:
            return f"rounding hides whether it has arrived: the gradient norm is {norm:.3g}"
        if valley < 0:
            text = f"it has not arrived: the gradient norm is {norm:.3g}"
            if basin < 0:
                return text + self._note
            return f"{text}, but it lies in the basin of {valleys.classes[basin]} {basin}"
        found = valleys.classes[valley]
        if found == MINIMUM:
            return f"it has arrived at minimum {valley}"
        if found == SADDLE and norm <= STATIONARY:
            return f"it sits on saddle point {valley}, where the gradient vanishes but a way leads down"
        if found == SADDLE:
            return f"it is at saddle point {valley}, where the gradient nearly vanishes but a way leads down"
        return f"it has arrived at stationary point {valley} ({found})"

    def _what_diverged(self, run: int) -> str:
        value = self.ends.values[run]
        if not math.isfinite(value):
            return "there is no value" if math.isnan(value) else "the value is infinite"
        if not math.isfinite(self.ends.norms[run]):
            return "the gradient is not finite"
        bound = self.runs.plan.stop.value_above
        if bound is not None and value > bound:
            return f"the value {value:.6g} is above {bound:g}"
        return f"the value is {value:.6g}; it was {self.runs.first[run]:.6g} at the start"

    def of_diverged(self, function: Function, diverged: Array, compared: bool) -> dict[int, str]:
        """Return for each of the diverged runs a clause that says why it diverged. `diverged` holds numbers of runs.
        With `compared`, the clauses also compare learning rates with the curvature at the start."""
        runs, ends, count = self.runs, self.ends, len(self.runs.plan.starts)
        points = np.nan_to_num(ends.points[diverged])
        problems = function.problems(points, function.run(points))
        curvatures = _largest_curvatures(function, runs.plan.starts[diverged % count]) if compared else []
        reasons = {}
        for place, run in enumerate(diverged.tolist()):
            reason = reasons[run] = self.plain(run)
            texts = [problem.text for problem in problems.get(place, ()) if problem.kind not in ("not_finite", "kink")]
            if texts and np.isfinite(ends.points[run]).all():
                reasons[run] = f"{reason}: {texts[0]}"
                continue
            bound, value = runs.plan.stop.value_above, ends.values[run]
            if bound is not None and value > bound:
                continue
            if math.isfinite(value) and math.isfinite(ends.norms[run]) and value < runs.first[run]:
                reasons[run] = f"{reason}; there is no lowest value on this way, however small the steps"
                continue
            update = runs.rules.update_of(run)
            if update is None:
                continue
            rate = update.rate(ends.steps_done[run]).learning_rate
            reasons[run] = f"{reason}; the learning rate is {rate:g}"
            if compared and update.sign > 0.0 and 0.0 < curvatures[place] < math.inf:
                reasons[run] += telling("en")(update.compared(rate, curvatures[place], is_function=True))
        return reasons


def _named(kink: PointProblem) -> str:
    return "a jump" if kink.kind == "jump" else "a kink"


def _steps(count: int) -> str:
    return f"{count:,} step" if count == 1 else f"{count:,} steps"


def _largest_curvatures(function: Function, points: Array) -> list[float]:
    """Return the largest eigenvalue of the Hessian at each point."""
    hessians = function.run(points).hessians
    assert hessians is not None
    curvatures = np.linalg.eigvalsh(finite_matrices(hessians)[0])[:, -1]
    largest: list[float] = curvatures.tolist()
    return largest
