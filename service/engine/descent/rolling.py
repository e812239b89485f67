"""Many balls on one surface: every start with every optimizer, all moved at once.

The balls are columns of one matrix, so a step evaluates the expression once for all of them, and a rule moves all of
its balls with the same few array operations as one. Searches, which look at several places before they move, go ball by
ball through the one loop of `loop.py`.
"""

from __future__ import annotations

import math
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from service.engine.arrays import Array, norms_of
from service.engine.compiling import Compiler
from service.engine.declarations import Selection
from service.engine.descent.loop import RULE_CALLS, RUNAWAY, Admit, Descent, Recipe, no_need
from service.engine.descent.optimizers.declaration import Optimizer
from service.engine.descent.schedules import Schedule
from service.engine.descent.update import Clip, Rules, Update
from service.engine.errors import Fault, InvalidRequest, LimitExceeded, Path
from service.engine.float_warnings import without_float_warnings
from service.engine.functions.compiled import Function, FunctionTask, PointProblem, Results
from service.engine.functions.expression import Expression
from service.engine.limits import Limits

MOST_RUNS = 50_000
MOST_SEARCHES = 1_000
"""Balls that optimizers with a search move: each is a descent of its own."""
SEARCH_SECONDS = 0.004
"""How long searches go on, ball by ball, between two looks at what else there is to do."""
SEARCH_CALLS = 200
"""What a search itself takes for each evaluation, in operations."""
MOST_CALLS = 100_000
"""Operations that one step of one ball may take: nothing else is done meanwhile."""
RULE_OPERATIONS = 20
"""What a rule takes for each number, roughly."""
STATE_ROWS = 8
"""Matrices like the balls' places that are kept and worked with, at most."""
RUN_BYTES = 500
"""What is told of a run beside its way, a quarter of it: whoever reserves memory takes four times as much."""
TOLD_BYTES = 48
"""What a number of a step takes, in a list."""
NOISE = 3
"""The stream of random numbers of the noise, apart from those of networks."""
ARRIVED = 1e-3
"""How far a ball may be from a stationary point, beside the point's distance from 0, to have arrived there."""
KINKS = ("kink", "vertical", "jump")
"""Kinds of problems at points with a value but without a slope, or with an infinite one."""
TRACED = ("gradients", "state")
"""What a trace may include of each step beside places and values."""

ROLLING, COMPLETED, STOPPED, DIVERGED, CANCELLED = range(5)
STATUS = ("", "completed", "stopped", "diverged", "cancelled")


class Noise(NamedTuple):
    """Normal numbers times `scale`, added to each gradient."""

    scale: float
    seed: int


class Bounds(NamedTuple):
    """What ends a run early."""

    value_below: float | None = None
    gradient_norm_below: float | None = None
    value_above: float | None = None
    """From there on it has diverged."""


@dataclass(frozen=True)
class RollingPlan:
    """What rolls where, for how long, and what is kept of it."""

    optimizers: Sequence[Selection[Optimizer]]
    starts: Array
    """(balls, variables): each is let go once with each optimizer."""
    steps: int
    schedule: Selection[Schedule] | None = None
    clip: Clip | None = None
    stop: Bounds = field(default_factory=Bounds)
    noise: Noise | None = None
    every: int = 1
    """Places after steps 0, every, 2 every, … are told, and the last."""
    include: frozenset[str] = frozenset()
    """Out of `TRACED`."""
    keep: bool = True
    """Whether paths are kept until the end."""
    arrived: float = ARRIVED

    @property
    def runs(self) -> int:
        return len(self.optimizers) * len(self.starts)

    @property
    def told(self) -> Array:
        """After how many steps places are told."""
        told: Array = np.unique(np.append(np.arange(0, self.steps + 1, min(self.every, self.steps)), self.steps))
        return told

    def check(self, limits: Limits) -> None:
        """Raise `InvalidRequest` or `LimitExceeded` where this cannot be done."""
        if self.runs > MOST_RUNS:
            raise LimitExceeded("runs", self.runs, MOST_RUNS, ("starts",))
        limits.check_steps(self.steps)
        dimension = self.starts.shape[1]
        each = 1 + dimension
        each += dimension if "gradients" in self.include else 0
        each += STATE_ROWS * dimension if "state" in self.include else 0
        # Counted without making the list of them.
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


class _Group(NamedTuple):
    """The balls of one optimizer that is a rule."""

    balls: slice
    update: Update
    gradient: Array


class _Search:
    """One ball of an optimizer with a search, as an objective of the loop."""

    steps_per_epoch = 1

    def __init__(
        self, one: Callable[[Array], tuple[float, Array]], compiled: Callable[[int, int], Function], start: Array
    ) -> None:
        """`compiled` gives the function as `Rolling.compiled` does."""
        self.parameters = start.copy()
        self._one, self._compiled = one, compiled

    def begin(self, step: int) -> None:
        """Every step looks at the same."""

    def evaluate(self) -> tuple[float, Array]:
        return self._one(self.parameters)

    def hessian(self, most_work: float = math.inf) -> Array:
        hessians = self._compiled(1, 2).run(self.parameters[None]).hessians
        assert hessians is not None
        hessian: Array = hessians[0]
        return hessian

    def finish(self) -> None:
        """Nothing else changes."""

    def validate(self) -> float | None:
        return None


class Snapshot(NamedTuple):
    """All balls after some steps. The arrays are overwritten by the next step."""

    step: int
    points: Array
    """(runs, variables)"""
    values: Array
    gradients: Array


class Rolling:
    """Balls on their way. It holds memory until `close`.

    Run number `optimizer * count + start` is that one of the `count` starts with that optimizer.
    """

    def __init__(
        self,
        compile: Compiler,  # noqa: A002 (the verb fits)
        expression: Expression,
        plan: RollingPlan,
        limits: Limits,
        reserve: Callable[[int], None] = lambda nbytes: None,
        admit: Admit = no_need,
    ) -> None:
        """`reserve` is told the bytes needed before they are taken, and before that `admit` what the steps will cost.

        Raises `InvalidRequest` where the parts of the plan do not fit, `LimitExceeded` where it would cost too much.
        """
        plan.check(limits)
        self.plan = plan
        self.expression = expression
        self._compile = compile
        function = self.function = self.compiled(plan.runs, 1)
        dimension = function.dimension
        told = self.told = plan.told
        self._places: list[int] = told.tolist()
        work = (function.program.work + RULE_OPERATIONS * dimension * plan.runs) * plan.steps
        limits.check_operations(work)
        admit(function.program, work, len(function.program.nodes) + RULE_CALLS * len(plan.optimizers), plan.steps)
        kept = plan.runs * len(told) * 8 * (1 + dimension * (1 + len(plan.include) * STATE_ROWS)) if plan.keep else 0
        self.memory = function.program.nbytes + kept + STATE_ROWS * 8 * dimension * plan.runs + TOLD_BYTES * len(told)
        self.memory += plan.runs * RUN_BYTES
        reserve(self.memory)
        self.step = 0
        """Steps done."""
        self.finished = False
        self._stack = ExitStack()
        workspace = self._stack.enter_context(function.program.workspace())
        self._calls = workspace.calls
        self.positions, rows = function.columns(workspace)
        self.positions[...] = np.tile(plan.starts.T, len(plan.optimizers))
        self.values, self.gradients = rows[0], rows[1:]
        self.status = np.full(plan.runs, ROLLING)
        self.ended_at = np.full(plan.runs, plan.steps)
        self._ended: Array | None = None
        """Which balls have ended, as soon as one has."""
        self._resting = self.positions.copy()
        self.first: Array = np.empty(0)
        """The values at the starts."""
        self.moved: dict[int, int] = {}
        """Of runs with a search: after how many steps it moved last."""
        self.kinks: dict[int, PointProblem] = {}
        """The kink that a run came to, where there is a value but no slope to follow."""
        self._noisy = np.empty_like(self.gradients)
        self.groups: list[_Group] = []
        self.searches: list[tuple[int, Descent]] = []
        self._moving: Iterator[tuple[int, Descent]] | None = None
        """The searches that have not made the present step yet, while some have."""
        self._before = self.positions
        """Where the balls were before that step."""
        count = len(plan.starts)
        seen = self.gradients if plan.noise is None else self._noisy
        for place, optimizer in enumerate(plan.optimizers):
            balls = slice(place * count, (place + 1) * count)
            if optimizer.declaration.search:
                self.searches += self._searches(optimizer, balls)
            else:
                rules = Rules(optimizer, plan.schedule, plan.clip)
                self.groups.append(_Group(balls, Update(rules, self.positions[:, balls]), seen[:, balls]))
        shape = (plan.runs, len(told) if plan.keep else 0)
        # Where all runs end early, the last entries are never written.
        self.paths = np.zeros((*shape, dimension))
        self.told_values = np.zeros(shape)
        self.told_gradients = np.zeros((*shape, dimension)) if "gradients" in plan.include else None
        self._states: list[list[dict[str, Array]]] = [[] for _ in self.groups]

    def compiled(self, points: int, order: int) -> Function:
        """The compiled function for so many points, with derivatives up to an order."""
        return self._compile(FunctionTask(self.expression, points, order))

    def _searches(self, optimizer: Selection[Optimizer], balls: slice) -> Iterator[tuple[int, Descent]]:
        function = self.compiled(1, 1)
        path = ("optimizers", balls.start // len(self.plan.starts))
        each = len(function.program.nodes) + SEARCH_CALLS
        calls = optimizer.declaration.most_evaluations(**Rules(optimizer).own_options) * each
        if calls > MOST_CALLS:
            raise LimitExceeded(f"operations of one step of {optimizer.name}", calls, MOST_CALLS, path)
        workspace = self._stack.enter_context(function.program.workspace())
        variables, rows = function.columns(workspace)

        def one(point: Array) -> tuple[float, Array]:
            variables[:, 0] = point
            for call in workspace.calls:
                call()
            return float(rows[0, 0]), rows[1:, 0]

        for ball, start in zip(range(balls.start, balls.stop), self.plan.starts, strict=True):
            yield ball, Descent(_Search(one, self.compiled, start), Recipe(optimizer, self.plan.schedule))

    def close(self) -> None:
        """Give back the memory."""
        self._stack.close()

    def advance(self) -> Snapshot | None:
        """Look where all balls are, then move them one step; after the last step only look.

        Gives what was seen if it is to be told. Where searches are at work, a step takes several calls.
        """
        return without_float_warnings(self._advance)

    def _advance(self) -> Snapshot | None:
        if self._moving is not None:
            self._move_searches(self._moving)
            return None
        self._evaluate()
        self._check()
        snapshot = self._tell()
        if self.step == self.plan.steps or (self._ended is not None and bool(self._ended.all())):
            self.finished = True
            self.status[self.status == ROLLING] = COMPLETED
            return snapshot
        # What is told is read by the caller before the next call, so it is the places of before the move.
        before = snapshot
        if snapshot is not None:
            before = snapshot._replace(points=self.positions.T.copy(), gradients=self.gradients.T.copy())
        self._move()
        return before

    def _evaluate(self) -> None:
        for call in self._calls:
            call()

    def _check(self) -> None:
        """Find the balls that have run away or met what they should stop at."""
        stop, values = self.plan.stop, self.values
        if not self.first.size:
            self.first = values.copy()
            self._farthest = RUNAWAY * np.fmax(1.0, np.abs(values))
            self._highest = self._farthest if stop.value_above is None else np.float64(stop.value_above)
        there = np.isfinite(values) & np.logical_and.reduce(np.isfinite(self.gradients), axis=0)
        there &= (values <= self._highest) & (values >= -self._farthest)
        if not there.all():
            lost = ~there if self._ended is None else ~(there | self._ended)
            on_kinks = self._on_kinks(lost)
            self._end(on_kinks, STOPPED)
            self._end(lost & ~on_kinks, DIVERGED)
        if stop.value_below is not None:
            self._end(values < stop.value_below, STOPPED)
        if stop.gradient_norm_below is not None:
            self._end(norms_of(self.gradients.T) < stop.gradient_norm_below, STOPPED)

    def _on_kinks(self, lost: Array) -> Array:
        """The balls that stand at a kink: there is a value but no finite slope."""
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
            self._resting[:, met] = self.positions[:, met]
            self.status[met] = status
            self.ended_at[met] = self.step
            self._ended = met.copy() if self._ended is None else self._ended | met

    def _tell(self) -> Snapshot | None:
        place = bisect_left(self._places, self.step)
        last = self._ended is not None and bool(self._ended.all())
        if self._places[place] != self.step and not last:
            return None
        if self.plan.keep and self._places[place] == self.step:
            self.paths[:, place] = self.positions.T
            self.told_values[:, place] = self.values
            if self.told_gradients is not None:
                self.told_gradients[:, place] = self.gradients.T
            if "state" in self.plan.include:
                for group, states in zip(self.groups, self._states, strict=True):
                    states.append(self._state_of(group))
        return Snapshot(self.step, self.positions.T, self.values, self.gradients.T)

    def _state_of(self, group: _Group) -> dict[str, Array]:
        everything = {**vars(group.update.state), **group.update.shown(max(self.step, 1))}
        return {name: value.T.copy() for name, value in everything.items() if isinstance(value, np.ndarray)}

    def _move(self) -> None:
        before = self.positions.copy() if self.searches else self.positions
        rates = [group.update.begin(self.step) for group in self.groups]
        gradients = self._gradients_ahead()
        number = self.step + 1
        norms: Array | float = math.nan
        if self.plan.clip is not None and self.plan.clip.norm is not None:
            norms = norms_of(gradients.T)
        for group, rate in zip(self.groups, rates, strict=True):
            own = norms[group.balls] if isinstance(norms, np.ndarray) else norms
            group.update.move(group.gradient, own, number, rate)
        if self.searches:
            self._before = before
            self._moving = iter(self.searches)
        else:
            self._finish_step()

    def _gradients_ahead(self) -> Array:
        """Gradients for the rules: with noise, and where a rule looks ahead of there."""
        ahead = []
        for group in self.groups:
            offset = group.update.ahead()
            if offset is not None:
                ahead.append((group.balls, offset))
        if ahead:
            values, gradients, before = self.values.copy(), self.gradients.copy(), self.positions.copy()
            for balls, offset in ahead:
                self.positions[:, balls] += offset
            self._evaluate()
            for balls, _ in ahead:
                gradients[:, balls] = self.gradients[:, balls]
            self.positions[...] = before
            self.values[...], self.gradients[...] = values, gradients
        if self.plan.noise is None:
            return self.gradients
        np.add(self.gradients, np.tile(self._drawn(self.plan.noise), len(self.plan.optimizers)), out=self._noisy)
        return self._noisy

    def _drawn(self, noise: Noise) -> Array:
        """The noise of this step, the same for all optimizers."""
        generator = np.random.Generator(np.random.PCG64([noise.seed, NOISE, self.step]))
        drawn: Array = noise.scale * generator.standard_normal((len(self.plan.starts), self.function.dimension))
        return drawn.T

    def _move_searches(self, moving: Iterator[tuple[int, Descent]]) -> None:
        end = time.monotonic() + SEARCH_SECONDS
        for ball, descent in moving:
            if self.status[ball] == ROLLING:
                descent.advance()
                if (self.positions[:, ball] != descent.parameters).any():
                    self.moved[ball] = self.step + 1
                self.positions[:, ball] = descent.parameters
            if time.monotonic() > end:
                return
        self._moving = None
        self._finish_step()

    def _finish_step(self) -> None:
        self.step += 1
        if self._ended is not None:
            np.copyto(self.positions, self._resting, where=self._ended)

    def cancel(self) -> None:
        """Make no more steps."""
        if not self.finished:
            self.finished = True
            if self._moving is not None:  # half of a step is none
                self.positions[...] = self._before
            without_float_warnings(self._evaluate)
            without_float_warnings(self._check)
            if self._moving is None:
                self._tell()
            rolling = self.status == ROLLING
            self.status[rolling] = CANCELLED
            self.ended_at[rolling] = self.step

    def update_of(self, run: int) -> Update | None:
        """The rule that moves a run; None: it is a search."""
        return next((each.update for each in self.groups if each.balls.start <= run < each.balls.stop), None)

    @cached_property
    def told_states(self) -> list[dict[str, Array]]:
        """What the balls of each group remember at the steps told, (told, balls, variables), by name."""
        return [
            {name: np.stack([state[name] for state in states]) for name in (states[0] if states else ())}
            for states in self._states
        ]


def kink_of(problems: Sequence[PointProblem]) -> PointProblem | None:
    """The kink among the problems of a point; None: it has none, or no value at all."""
    kinds = [problem.kind for problem in problems]
    if "domain" in kinds or "pole" in kinds:
        return None
    return next((problem for problem in problems if problem.kind in KINKS), None)


def run_of(rolling: Rolling, run: int) -> dict[str, Any]:
    """What is kept of one run's way: places, values and what else the plan includes."""
    told, ended = rolling.told, int(rolling.ended_at[run])
    count = int(np.searchsorted(told, ended, side="right"))
    complete = told[count - 1] == ended
    end = rolling.positions[:, run], rolling.values[run], rolling.gradients[:, run]

    def way(kept: Array, last: Any) -> Array:
        part = kept[run, :count]
        return part if complete else np.concatenate([part, np.asarray(last)[None]])

    kept: dict[str, Any] = {"path": way(rolling.paths, end[0]), "values": way(rolling.told_values, end[1])}
    if rolling.told_gradients is not None:
        kept["gradients"] = way(rolling.told_gradients, end[2])
    if "state" in rolling.plan.include:
        kept["state"] = {}
        for group, states in zip(rolling.groups, rolling.told_states, strict=True):
            if group.balls.start <= run < group.balls.stop:
                ball = run - group.balls.start
                kept["state"] = {name: state[:count, ball] for name, state in states.items()}
    return kept
