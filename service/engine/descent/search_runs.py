"""The runs whose optimizers are searches: each is a descent of its own, made by the loop of `loop.py`."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import numpy as np

from service.engine.arrays import Array
from service.engine.declarations import Selection
from service.engine.descent.loop import Descent, Recipe
from service.engine.descent.optimizers.declaration import Optimizer
from service.engine.descent.runs_plan import RunsPlan
from service.engine.descent.update import Rules
from service.engine.errors import LimitExceeded
from service.engine.functions.compiled import Function

SEARCH_SECONDS = 0.004
"""Searches go on for so long, one after the other, before other work has its turn."""
SEARCH_CALLS = 200
"""Calls that a search itself makes for each evaluation, roughly."""
MOST_CALLS = 100_000
"""Calls that one step of one run may make: no other work has a turn meanwhile."""


class _FunctionObjective:
    """A typed function at the point of one run, as the objective of a descent."""

    steps_per_epoch = 1

    def __init__(
        self, evaluate: Callable[[Array], tuple[float, Array]], second_order: Callable[[], Function], start: Array
    ) -> None:
        """`second_order` compiles the function for one point with second derivatives."""
        self.parameters = start.copy()
        self._evaluate, self._second_order = evaluate, second_order

    def begin(self, step: int) -> None:
        """Do nothing: every step evaluates the same function."""

    def evaluate(self) -> tuple[float, Array]:
        return self._evaluate(self.parameters)

    def hessian(self, most_work: float = math.inf) -> Array:
        hessians = self._second_order().run(self.parameters[None]).hessians
        assert hessians is not None
        hessian: Array = hessians[0]
        return hessian

    def finish(self) -> None:
        """Do nothing: no step changes a function."""

    def validate(self) -> float | None:
        return None


class SearchRuns:
    """All runs whose optimizers are searches. Moving all of them by one step may take several calls of `go_on`."""

    def __init__(self, plan: RunsPlan, compiled: Callable[[int, int], Function], stack: ExitStack) -> None:
        """`compiled` is `Runs.compiled`; `stack` gives back the memory."""
        self.plan, self._compiled, self._stack = plan, compiled, stack
        self.last_moves: dict[int, int] = {}
        """For each run, the number of steps after which it moved last."""
        self._descents: list[tuple[int, Descent]] = []
        self._moved: int | None = None
        """The number of runs that have made the present step, while a step is going on."""

    def __bool__(self) -> bool:
        return bool(self._descents)

    @property
    def in_step(self) -> bool:
        """True while some runs have made the present step and others have not."""
        return self._moved is not None

    def add(self, optimizer: Selection[Optimizer], place: int) -> None:
        """Add a run from each start for an optimizer. `place` is the optimizer's position in the plan. Raises
        `LimitExceeded` where one step would take too many calls of NumPy."""
        function = self._compiled(1, 1)
        each = len(function.program.nodes) + SEARCH_CALLS
        calls = optimizer.declaration.most_evaluations(**Rules(optimizer).own_options) * each
        if calls > MOST_CALLS:
            path = ("optimizers", place)
            raise LimitExceeded(f"operations of one step of {optimizer.name}", calls, MOST_CALLS, path)
        workspace = self._stack.enter_context(function.program.workspace())
        variables, rows = function.columns(workspace)

        def evaluate(point: Array) -> tuple[float, Array]:
            variables[:, 0] = point
            for call in workspace.calls:
                call()
            return float(rows[0, 0]), rows[1:, 0]

        starts, compiled = self.plan.starts, self._compiled
        for run, start in enumerate(starts, place * len(starts)):
            objective = _FunctionObjective(evaluate, lambda: compiled(1, 2), start)
            self._descents.append((run, Descent(objective, Recipe(optimizer, self.plan.schedule))))

    def saved(self) -> dict[str, Any]:
        """Return all that the searches remember between two calls of `go_on`. The next call changes the arrays."""
        descents = [{"point": descent.parameters, **descent.saved()} for _, descent in self._descents]
        return {"descents": descents, "last_moves": self.last_moves, "moved": self._moved}

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Take over what `saved` returned of searches from the same starts."""
        for (_, descent), each in zip(self._descents, saved["descents"], strict=True):
            descent.parameters[...] = each["point"]
            descent.restore(each)
        self.last_moves, self._moved = dict(saved["last_moves"]), saved["moved"]

    def begin(self) -> None:
        """Begin the next step of all runs. `go_on` then makes it."""
        self._moved = 0

    def go_on(self, positions: Array, moves: Array, number: int) -> bool:
        """Move runs for a few milliseconds. Return whether all of them have made step `number`. `positions` is
        (variables, runs), changed in place; `moves` marks the runs that have not ended."""
        assert self._moved is not None
        end = time.monotonic() + SEARCH_SECONDS
        for run, descent in self._descents[self._moved :]:
            self._moved += 1
            if moves[run]:
                descent.advance()
                if np.any(positions[:, run] != descent.parameters):
                    self.last_moves[run] = number
                positions[:, run] = descent.parameters
            if time.monotonic() > end:
                return False
        self._moved = None
        return True
