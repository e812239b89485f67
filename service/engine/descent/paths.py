"""The recorded paths of runs on a function: points, values and what else the plan includes, after some of the steps."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from service.engine.arrays import Array
from service.engine.descent.rule_runs import Group
from service.engine.descent.runs_plan import RunsPlan


class Snapshot(NamedTuple):
    """Points, values and gradients of all runs after one step. The next step overwrites the arrays."""

    step: int
    points: Array
    """(runs, variables)"""
    values: Array
    gradients: Array


class Paths:
    """The recorded snapshots of all runs, kept until the end for the answer."""

    def __init__(self, plan: RunsPlan, groups: Sequence[Group]) -> None:
        self.plan, self.groups = plan, groups
        self.steps: Array = plan.recorded
        self._steps: list[int] = self.steps.tolist()
        shape = (plan.runs, len(self.steps) if plan.keep else 0)
        dimension = plan.starts.shape[1]
        # Zeros: where all runs end early, the last entries are never written.
        self.points = np.zeros((*shape, dimension))
        self.values = np.zeros(shape)
        self.gradients = np.zeros((*shape, dimension)) if "gradients" in plan.include else None
        self._states: list[list[dict[str, Array]]] = [[] for _ in groups]

    def place_of(self, step: int) -> int | None:
        """Return the position of a step in the list of recorded steps; None if the step is not recorded."""
        place = bisect_left(self._steps, step)
        return place if self._steps[place] == step else None

    def record(self, place: int, snapshot: Snapshot) -> None:
        """Copy a snapshot to its place, if the plan keeps paths."""
        if not self.plan.keep:
            return
        self.points[:, place] = snapshot.points
        self.values[:, place] = snapshot.values
        if self.gradients is not None:
            self.gradients[:, place] = snapshot.gradients
        if "state" in self.plan.include:
            for group, states in zip(self.groups, self._states, strict=True):
                everything = {**vars(group.update.state), **group.update.shown(max(snapshot.step, 1))}
                arrays = {name: value for name, value in everything.items() if isinstance(value, np.ndarray)}
                states.append({name: value.T.copy() for name, value in arrays.items()})

    @property
    def recorded(self) -> list[Array]:
        """The arrays that snapshots are copied into, without states."""
        return [self.points, self.values, *([] if self.gradients is None else [self.gradients])]

    @cached_property
    def states(self) -> list[dict[str, Array]]:
        """The recorded optimizer states of each group by name, (recorded steps, runs of the group, variables)."""
        return [
            {name: np.stack([state[name] for state in states]) for name in (states[0] if states else ())}
            for states in self._states
        ]

    @property
    def arrays(self) -> list[Array]:
        """All recorded arrays, to check that their numbers are finite."""
        return self.recorded + [state for states in self.states for state in states.values()]

    def of(self, run: int, ended: int, end: Snapshot) -> dict[str, Any]:
        """Return the recorded path of one run by name: points, values, and what else the plan includes. The run ended
        after `ended` steps; the snapshot `end` supplies the last point where that step was not recorded."""
        count = int(np.searchsorted(self.steps, ended, side="right"))
        complete = self.steps[count - 1] == ended

        def path(kept: Array, last: Array) -> Array:
            part = kept[run, :count]
            return part if complete else np.concatenate([part, np.asarray(last[run])[None]])

        entry: dict[str, Any] = {"path": path(self.points, end.points), "values": path(self.values, end.values)}
        if self.gradients is not None:
            entry["gradients"] = path(self.gradients, end.gradients)
        if "state" in self.plan.include:
            entry["state"] = {}
            for group, states in zip(self.groups, self.states, strict=True):
                if group.runs.start <= run < group.runs.stop:
                    place = run - group.runs.start
                    entry["state"] = {name: state[:count, place] for name, state in states.items()}
        return entry
