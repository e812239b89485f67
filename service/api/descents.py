"""Descents on a typed function as work in steps, for `/v1/functions/…`: paths, the valleys they end in, basin maps."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np

from schemas.functions import LoadedDescend, LoadedSurface
from service.api.answers import NUMBER_BYTES, listed
from service.api.context import Context
from service.api.function_answers import cautions_of, valleys_of
from service.api.long_work import Standing
from service.api.sharing import InOrder, Surroundings, part_context, seconds_of, shared_by, surroundings_of
from service.api.streaming import admission_of, collect
from service.engine.arrays import Array
from service.engine.cautions import Caution
from service.engine.descent.cost import RULE_CALLS, RULE_OPERATIONS
from service.engine.descent.run_ends import RunEnds
from service.engine.descent.run_tiles import (
    SEARCH_SECONDS,
    Tile,
    can_be_tiled,
    run_tile,
    searches_of,
    take_tiles,
    tiles_of,
)
from service.engine.descent.runs import Runs
from service.engine.descent.runs_plan import RunsPlan
from service.engine.descent.valleys import NOWHERE, UNTOLD, Known
from service.engine.errors import InvalidRequest, LimitExceeded
from service.engine.functions.expression import Expression

DIVERGED = -2
"""The number of a diverged run in a map of basins."""


class RollingWork:
    """A `LongWork` that runs optimizers on a typed function, and describes their steps and ends as responses do."""

    following = True
    """Whether the basin of a run that has not arrived is determined too."""

    def __init__(
        self,
        expression: Expression,
        plan: RunsPlan,
        context: Context,
        beside: int = 0,
        known: Known | None = None,
        state: dict[str, Any] | None = None,
    ) -> None:
        """Compile the function and reserve memory for the runs; go on from `state`, if there is one.

        `beside` is the size of the response without the runs, in bytes; `known` is the minimum, if it is known.
        """
        self.expression, self.plan = expression, plan
        self.context, self.beside, self.known = context, beside, known
        self.streamed = context.form != "json"
        self.rolling = Runs(context.compiled, expression, plan, context.limits, self._reserve, admission_of(context))
        try:
            if state is not None:
                self.rolling.restore(state)
        except BaseException:
            self.rolling.close()
            raise
        context.mark_compiled(self.rolling.memory)
        self.reason = ""
        self._before_end: dict[str, Any] | None = None
        """The state before the runs were cancelled, if they were."""
        self.arrival: RunEnds | None = None
        """The ends of the runs, once all have come to an end."""
        self._tiles: InOrder[range, Tile] | None = None
        """The runs, if other processes make them."""
        self._taken: list[Tile] = []
        if state is None and not self.streamed:
            self._share()
        self._at_once = self.rolling.finished
        """Whether the ends are found in one step: a search for them that starts anew each time might never end."""

    def _share(self) -> None:
        """Let other processes make the runs, if it is worth while."""
        plan, context, tiles = self.plan, self.context, tiles_of(self.plan)
        program = self.rolling.function.program
        work = (program.work + RULE_OPERATIONS * self.rolling.function.dimension * plan.runs) * plan.steps
        calls = (len(program.nodes) + RULE_CALLS * len(plan.optimizers)) * plan.steps
        searching = SEARCH_SECONDS * searches_of(plan) * len(plan.starts) * plan.steps
        executor = shared_by(context, seconds_of(work, calls) + searching)
        if executor is None or len(tiles) == 1 or not can_be_tiled(plan):
            return
        self._tiles = InOrder(executor, tile_of, (self.expression, plan), tiles, surroundings_of(context))
        context.hand_over()

    @property
    def elsewhere(self) -> bool:
        """Whether other processes compute, and this one waits."""
        return self._tiles is not None

    def _reserve(self, nbytes: int) -> None:
        numbers = self.plan.starts.size * len(self.plan.optimizers) if self.streamed else 0
        self.context.memory.need(self.context.loaded_bytes + self.beside + 4 * nbytes + 2 * NUMBER_BYTES * numbers)

    @property
    def finished(self) -> bool:
        return self.arrival is not None and self.arrival.finished

    def advance(self) -> Mapping[str, Any] | None:
        if self._tiles is not None:
            tile = self._tiles.next()
            if tile is not None:
                self._taken.append(tile)
            if self._tiles.all_taken:
                take_tiles(self.rolling, self._taken)
                self._tiles, self._taken = None, []
            return None
        if self.rolling.finished:
            if self.arrival is None:
                self.arrival = self._look()
            else:
                self.arrival.advance()
            while self._at_once and not self.arrival.finished:
                self.arrival.advance()
            return None
        snapshot = self.rolling.advance()
        if snapshot is None or not self.streamed:
            return None
        record = {"step": snapshot.step, "points": snapshot.points, "values": snapshot.values}
        return record | ({"gradients": snapshot.gradients} if "gradients" in self.plan.include else {})

    def standing(self) -> Standing:
        return Standing(self.rolling.step, self.plan.steps, None, None)

    def state(self) -> dict[str, Any]:
        # The ends are found again: that takes seconds at most, and not hours as the steps before may.
        return self._before_end or self.rolling.saved()

    def cancel(self, reason: str) -> None:
        if self.streamed and not self.finished:
            self._before_end = deepcopy(self.rolling.saved())
        self.reason = reason
        if self._tiles is not None:  # nothing is known of the runs but their starts
            self._tiles.close()
            self._tiles = None
        self.rolling.cancel()
        if self.arrival is None:
            self.arrival = self._look()
        self.arrival.cancel()

    def _look(self) -> RunEnds:
        return RunEnds(self.rolling, self.known, self.following)

    def summary(self) -> Mapping[str, Any]:
        outcome = self._outcome
        status = "cancelled" if self.reason else "completed"
        warnings = []
        finite = outcome.finite
        if not finite:
            lost, kinks = outcome.status.count("diverged"), len(self.rolling.kinks)
            found = [f"{lost:,} of {self.plan.runs:,} runs diverged, some beyond what numbers hold"] if lost else []
            found += [f"{kinks:,} of {self.plan.runs:,} runs came to a kink, without a finite slope"] if kinks else []
            message = "; ".join([*found, "null in lists"])
            warnings.append(Caution("non_finite", message, quantity="runs"))
        if self.reason:
            warnings.append(Caution("cancelled", self.reason))
        if UNTOLD in outcome.valleys.of_run:
            warnings.append(Caution("not_isolated", "runs arrived at more stationary points than are listed"))
        count = len(self.plan.starts)
        return {
            "variables": self.expression.variables,
            "status": status,
            "steps": [step for step in self.rolling.paths.steps.tolist() if step <= max(outcome.steps_done)],
            "best": outcome.best,
            "valleys": valleys_of(outcome.valleys),
            "runs": [self._run(outcome, run, count) for run in range(self.plan.runs)],
            "finite": finite,
            "warnings": listed([*warnings, *cautions_of(self.expression)]),
        }

    @property
    def _outcome(self) -> RunEnds:
        assert self.arrival is not None
        return self.arrival

    def _run(self, outcome: RunEnds, run: int, count: int) -> dict[str, Any]:
        valley, basin = outcome.valleys.of_run[run], outcome.valleys.basins[run]
        entry: dict[str, Any] = {
            "optimizer": run // count,
            "start": run % count,
            "status": outcome.status[run],
            "reason": outcome.reasons[run],
            "steps_done": outcome.steps_done[run],
            "point": outcome.points[run],
            "value": outcome.values[run],
            "norm": outcome.norms[run],
            "valley": None if valley < 0 else valley,
            "basin": None if basin < 0 else basin,
        }
        return entry | self.rolling.path_of(run) if self.plan.keep else entry

    def close(self) -> None:
        if self._tiles is not None:
            self._tiles.close()
        self.rolling.close()


def tile_of(descent: tuple[Expression, RunsPlan], starts: range, surroundings: Surroundings) -> Tile:
    """Make the runs from some starts of a descent in another process."""
    with part_context(surroundings) as context:
        return run_tile(context.compiled, *descent, starts, context.limits, context.ticket)


class DescendWork(RollingWork):
    """The runs that a request of `/v1/functions/descend` asks for."""

    def __init__(self, request: LoadedDescend, context: Context, state: dict[str, Any] | None = None) -> None:
        plan = RunsPlan(
            request["optimizers"],
            request["starts"],
            request["steps"],
            request.get("schedule"),
            request.get("clip"),
            request["stop"],
            request.get("noise"),
            request["trace"].every,
            request["trace"].include,
            keep=context.form == "json",
            arrived=request["valley_radius"],
        )
        super().__init__(request["expression"], plan, context, state=state)


class BasinsWork(RollingWork):
    """Runs from all points of a grid, of which the response has only the valleys that they arrive at."""

    following = False

    def summary(self) -> Mapping[str, Any]:
        outcome = self._outcome
        grid = np.maximum(outcome.valleys.of_run, NOWHERE)
        grid[np.array(outcome.status) == "diverged"] = DIVERGED
        return {
            "status": "cancelled" if self.reason else "completed",
            "valleys": valleys_of(outcome.valleys),
            "arrived": int((grid >= 0).sum()),
            "moving": int((grid == NOWHERE).sum()),
            "diverged": int((grid == DIVERGED).sum()),
            "grid": grid,
        }


_IN_SURFACE = {"optimizers": "optimizer", "trace": "resolution"}
"""The keys of a surface for what a descent has under another name."""


def basins(request: LoadedSurface, context: Context, points: Array, shape: tuple[int, ...]) -> dict[str, Any]:
    """Run an optimizer from each of the points, a grid of this shape; return the valleys and who arrives where."""
    plan = RunsPlan(
        (request["optimizer"],),
        points,
        request["steps"],
        request.get("schedule"),
        request.get("clip"),
        every=request["steps"],
        keep=False,
        arrived=request["valley_radius"],
    )
    beside = NUMBER_BYTES * len(points) * (4 + points.shape[1])
    try:
        work = BasinsWork(request["expression"], plan, context, beside)
    except LimitExceeded as error:
        place = "resolution" if error.path[:1] == ("starts",) or not error.path else str(error.path[0])
        raise error.at((_IN_SURFACE.get(place, place),)) from None
    except InvalidRequest as error:
        faults = [replace(fault, path=(_IN_SURFACE.get(str(fault.path[0]), fault.path[0]),)) for fault in error.faults]
        raise InvalidRequest(faults) from None
    _, summary = collect(work, context)
    return {"grid": summary["grid"].reshape(shape), **{key: summary[key] for key in summary if key != "grid"}}
