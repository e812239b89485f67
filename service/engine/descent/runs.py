"""Many runs on one typed function: every start with every optimizer, all moved at once.

The runs are columns of one matrix, so a step evaluates the expression once for all of them, and a rule moves all of
its runs with as few array operations as one. Runs of searches move one after the other (`search_runs`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np

from service.engine.arrays import Array, norms_of
from service.engine.compiling import Compiler
from service.engine.descent.cost import RULE_CALLS, RULE_OPERATIONS, Admit, no_need
from service.engine.descent.loop import RUNAWAY
from service.engine.descent.paths import Paths, Snapshot
from service.engine.descent.rule_runs import RuleRuns
from service.engine.descent.runs_plan import MATRICES, RunsPlan
from service.engine.descent.search_runs import SearchRuns
from service.engine.float_warnings import without_float_warnings
from service.engine.functions.compiled import Function, FunctionTask, PointProblem, Results
from service.engine.functions.expression import Expression
from service.engine.limits import Limits

RUN_BYTES = 500
"""A quarter of the memory of a run's answer beside its path: whoever reserves memory takes four times as much."""
STEP_NUMBER_BYTES = 48
"""Memory of the number of a step, in a list."""
KINKS = ("kink", "vertical", "jump")
"""Kinds of problems at points that have a value but no slope, or an infinite one."""

RUNNING, COMPLETED, STOPPED, DIVERGED, CANCELLED = range(5)
STATUS = ("", "completed", "stopped", "diverged", "cancelled")


class Runs:
    """All runs of a plan: each start with each optimizer. They hold memory until `close`. The run from start `s` with
    optimizer `o` has the number `o * count + s`, where `count` is the number of starts."""

    def __init__(
        self,
        compile: Compiler,  # noqa: A002 (the verb fits)
        expression: Expression,
        plan: RunsPlan,
        limits: Limits,
        reserve: Callable[[int], None] = lambda nbytes: None,
        admit: Admit = no_need,
    ) -> None:
        """Compile the function and get ready for the first step.

        `admit` is called with the cost, then `reserve` with the bytes, before memory is taken. Raises `InvalidRequest`
        where the parts of the plan do not fit, `LimitExceeded` where the runs cost too much.
        """
        plan.check(limits)
        self.plan = plan
        self.expression = expression
        self._compile = compile
        function = self.function = self.compiled(plan.runs, 1)
        work = (function.program.work + RULE_OPERATIONS * function.dimension * plan.runs) * plan.steps
        limits.check_operations(work)
        admit(function.program, work, len(function.program.nodes) + RULE_CALLS * len(plan.optimizers), plan.steps)
        self.memory = self._memory()
        reserve(self.memory)
        self.step = 0
        """Steps done."""
        self.finished = False
        self._stack = ExitStack()
        workspace = self._stack.enter_context(function.program.workspace())
        self._calls = workspace.calls
        self.positions, rows = function.columns(workspace)
        """(variables, runs)"""
        self.positions[...] = np.tile(plan.starts.T, len(plan.optimizers))
        self.values, self.gradients = rows[0], rows[1:]
        self.status = np.full(plan.runs, RUNNING)
        self.ended_at = np.full(plan.runs, plan.steps)
        self._ended: Array | None = None
        """Which runs have ended, as soon as one has."""
        self.resting = self.positions.copy()
        """The points where runs ended."""
        self.first: Array = np.empty(0)
        """The values at the starts."""
        self.kinks: dict[int, PointProblem] = {}
        """The kink that ended a run: a point with a value but no slope to follow."""
        self.rules = RuleRuns(plan, self.positions, self.values, self.gradients, workspace.calls)
        # No bound method of this object: that would make a cycle.
        self.searches = SearchRuns(
            plan, lambda points, order: compile(FunctionTask(expression, points, order)), self._stack
        )
        self._before = self.positions
        """The points before a step of searches that is going on."""
        for place, optimizer in enumerate(plan.optimizers):
            (self.searches if optimizer.declaration.search else self.rules).add(optimizer, place)
        self.paths = Paths(plan, self.rules.groups)

    def _memory(self) -> int:
        plan, program, dimension = self.plan, self.function.program, self.function.dimension
        recorded = len(plan.recorded)
        kept = plan.runs * recorded * 8 * (1 + dimension * (1 + len(plan.include) * MATRICES)) if plan.keep else 0
        matrices = MATRICES * 8 * dimension * plan.runs
        return program.nbytes + kept + matrices + STEP_NUMBER_BYTES * recorded + RUN_BYTES * plan.runs

    def saved(self) -> dict[str, Any]:
        """Return all that the runs remember between two calls of `advance`, which `restore` takes in another process.
        The next call changes the arrays.

        Only runs whose plan keeps no paths are saved.
        """
        assert not self.plan.keep
        return {
            "step": self.step,
            "finished": self.finished,
            "positions": self.positions,
            "before": self._before if self.searches.in_step else None,
            "status": self.status,
            "ended_at": self.ended_at,
            "ended": self._ended,
            "resting": self.resting,
            "first": self.first,
            "kinks": {run: (kink.kind, kink.text) for run, kink in self.kinks.items()},
            "rules": [group.update.saved() for group in self.rules.groups],
            "searches": self.searches.saved(),
        }

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Go on from what `saved` returned of runs of the same plan, as if they had never stopped."""
        self.step, self.finished = saved["step"], saved["finished"]
        self.positions[...] = saved["positions"]
        if saved["before"] is not None:
            self._before = saved["before"].copy()
        self.status[...], self.ended_at[...] = saved["status"], saved["ended_at"]
        self._ended = None if saved["ended"] is None else saved["ended"].copy()
        self.resting[...] = saved["resting"]
        if saved["first"].size:
            self._set_bounds(saved["first"].copy())
        self.kinks = {run: PointProblem(kind, None, text) for run, (kind, text) in saved["kinks"].items()}
        for group, update in zip(self.rules.groups, saved["rules"], strict=True):
            group.update.restore(update)
        self.searches.restore(saved["searches"])
        without_float_warnings(self.evaluate)

    def take_ends(self, step: int, first: Array) -> None:
        """Be finished after so many steps, with the positions, status and resting points that were set from outside.
        `first` are the values at the starts."""
        self.step, self.finished = step, True
        self._set_bounds(first)

    def compiled(self, points: int, order: int) -> Function:
        """Return the compiled function for so many points, with derivatives up to an order."""
        return self._compile(FunctionTask(self.expression, points, order))

    def close(self) -> None:
        """Give the borrowed memory back to the pool."""
        self._stack.close()

    def advance(self) -> Snapshot | None:
        """Evaluate at the points of all runs, then move all runs one step; after the last step only evaluate. Returns
        the evaluated points, if the plan records this step. Where searches run, one step may take several calls."""
        return without_float_warnings(self._advance)

    def _advance(self) -> Snapshot | None:
        if self.searches.in_step:
            self._move_searches()
            return None
        self.evaluate()
        self._check()
        snapshot = self._record()
        if self.step == self.plan.steps or (self._ended is not None and bool(self._ended.all())):
            self.finished = True
            self.status[self.status == RUNNING] = COMPLETED
            return snapshot
        if snapshot is not None:
            # The caller reads the snapshot after the move.
            snapshot = snapshot._replace(points=self.positions.T.copy(), gradients=self.gradients.T.copy())
        self._move()
        return snapshot

    def evaluate(self) -> None:
        """Compute values and gradients at the positions."""
        for call in self._calls:
            call()

    def _check(self) -> None:
        """End the runs that have diverged or meet a bound."""
        stop, values = self.plan.stop, self.values
        if not self.first.size:
            self._set_bounds(values.copy())
        near = np.isfinite(values) & np.logical_and.reduce(np.isfinite(self.gradients), axis=0)
        near &= (values <= self._highest) & (values >= -self._farthest)
        if not near.all():
            lost = ~near if self._ended is None else ~(near | self._ended)
            on_kinks = self._on_kinks(lost)
            self._end(on_kinks, STOPPED)
            self._end(lost & ~on_kinks, DIVERGED)
        if stop.value_below is not None:
            self._end(values < stop.value_below, STOPPED)
        if stop.gradient_norm_below is not None:
            self._end(norms_of(self.gradients.T) < stop.gradient_norm_below, STOPPED)

    def _set_bounds(self, first: Array) -> None:
        """Take the values at the starts, which say where values have run away."""
        self.first = first
        self._farthest = RUNAWAY * np.fmax(1.0, np.abs(first))
        above = self.plan.stop.value_above
        self._highest = self._farthest if above is None else np.float64(above)

    def _on_kinks(self, lost: Array) -> Array:
        """Return a mask of those `lost` runs that stand at a kink: a point with a value but no finite slope."""
        found = np.zeros(len(lost), bool)
        runs = np.flatnonzero(lost & np.isfinite(self.values))
        if not len(runs) or not self.function.checks:
            return found
        points, results = self.positions[:, runs].T, Results(self.values[runs], self.gradients[:, runs].T, None)
        problems = self.function.problems(points, results)
        for place, run in enumerate(runs.tolist()):
            kink = kink_of(problems.get(place, ()))
            if kink is not None and not np.isfinite(self.gradients[:, run]).all():
                self.kinks[run], found[run] = kink, True
        return found

    def _end(self, met: Array, status: int) -> None:
        if self._ended is not None:
            met = met & ~self._ended
        if met.any():
            self.resting[:, met] = self.positions[:, met]
            self.status[met] = status
            self.ended_at[met] = self.step
            self._ended = met.copy() if self._ended is None else self._ended | met

    def _record(self) -> Snapshot | None:
        """Return the snapshot of the present step if the plan records this step or all runs have ended; else None."""
        place = self.paths.place_of(self.step)
        if place is None and (self._ended is None or not self._ended.all()):
            return None
        snapshot = self._snapshot()
        if place is not None:
            self.paths.record(place, snapshot)
        return snapshot

    def _snapshot(self) -> Snapshot:
        return Snapshot(self.step, self.positions.T, self.values, self.gradients.T)

    def _move(self) -> None:
        before = self.positions.copy() if self.searches else self.positions
        self.rules.move(self.step)
        if self.searches:
            self._before = before
            self.searches.begin()
        else:
            self._finish_step()

    def _move_searches(self) -> None:
        if self.searches.go_on(self.positions, self.status == RUNNING, self.step + 1):
            self._finish_step()

    def _finish_step(self) -> None:
        self.step += 1
        if self._ended is not None:
            np.copyto(self.positions, self.resting, where=self._ended)

    def cancel(self) -> None:
        """Make no more steps."""
        if not self.finished:
            self.finished = True
            in_step = self.searches.in_step
            if in_step:  # undo the half of a step
                self.positions[...] = self._before
            without_float_warnings(self.evaluate)
            without_float_warnings(self._check)
            if not in_step:
                self._record()
            running = self.status == RUNNING
            self.status[running] = CANCELLED
            self.ended_at[running] = self.step

    def path_of(self, run: int) -> dict[str, Any]:
        """Return the recorded path of one run by name: points, values and what else the plan includes."""
        return self.paths.of(run, int(self.ended_at[run]), self._snapshot())


def kink_of(problems: Sequence[PointProblem]) -> PointProblem | None:
    """Return the first problem of a point that is a kink; None if it has no kink, or no value at all."""
    kinds = [problem.kind for problem in problems]
    if "domain" in kinds or "pole" in kinds:
        return None
    return next((problem for problem in problems if problem.kind in KINKS), None)
