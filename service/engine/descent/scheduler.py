"""A schedule: its declaration, and a scheduler that applies it step by step.

A schedule is a function of the base learning rate, which is the optimizer's own, and of a count:

    schedule(base, count, **options) -> Rate

`count` is 0 at the first step. With `unit: epoch` it counts epochs instead of steps. The warm-up comes before the
schedule: the rate grows linearly to the first rate of the schedule. A schedule that watches the loss keeps numbers in
`state` (see `watch`). All others are closed forms, so a count of many millions costs as much as the first, and so does
going back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from service.engine.building import Choice, Declaration, Integer, Number, Option, Selection


class Rate(NamedTuple):
    """The learning rate and the momentum of one step."""

    learning_rate: float
    momentum: float | None = None
    """Replaces the optimizer's `momentum` or `beta_1`; None: the optimizer keeps its own."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Schedule(Declaration):
    """The declaration of a schedule, which says how the learning rate changes from step to step."""

    numbers: Mapping[str, float] = field(default_factory=dict)
    """The state before the first step. A schedule with a state takes it as `state`, a dictionary."""
    watch: Callable[..., None] | None = None
    """`watch(state, loss, base, **options)` changes the state after an epoch; `loss` is that of validation, if any."""


WARMUP_STEPS = Integer(
    name="warmup_steps", default=0, minimum=0, description="first the rate grows in a line over so many steps"
)
WARMUP_START = Number(
    name="warmup_start",
    default=0.0,
    minimum=0.0,
    maximum=1.0,
    description="where the warm-up starts, as a fraction of the rate it grows to: the schedule's first",
)
UNIT = Choice(name="unit", default="step", values=("step", "epoch"), description="what the schedule counts as a step")
SCHEDULER_OPTIONS: tuple[Option, ...] = (UNIT, WARMUP_STEPS, WARMUP_START)
"""Options of every schedule. The scheduler obeys them."""


def between(start: float, end: float, part: float) -> float:
    """Interpolate linearly: `start` at part 0, `end` at part 1."""
    return start + (end - start) * part


class Scheduler:
    """A schedule in use: it gives the learning rate of each step, with warm-up, and keeps the schedule's state."""

    def __init__(self, schedule: Selection[Schedule], base: float, steps_per_epoch: int) -> None:
        options = dict(schedule.options)
        self.declaration = schedule.declaration
        self.base = base
        self.steps_per_epoch = steps_per_epoch
        self.unit: str = options.pop(UNIT.name)
        self.warmup_steps: int = options.pop(WARMUP_STEPS.name)
        self.warmup_start: float = options.pop(WARMUP_START.name)
        self.options: dict[str, Any] = options
        self.state: dict[str, float] = dict(schedule.declaration.numbers)

    def rate(self, step: int) -> Rate:
        """Return the rate of a step, counted from 0."""
        if step < self.warmup_steps:
            first = self._at(0)
            return Rate(first.learning_rate * between(self.warmup_start, 1.0, step / self.warmup_steps), first.momentum)
        each = 1 if self.unit == "step" else self.steps_per_epoch
        return self._at(step // each - self.warmup_steps // each)

    def _at(self, count: int) -> Rate:
        more = {"state": self.state} if self.state else {}
        rate: Rate = self.declaration.build(self.base, count, **more, **self.options)
        return rate

    def watch(self, loss: float) -> None:
        """Tell the schedule the loss of the epoch that ended. Only schedules such as `plateau` use this loss."""
        if self.declaration.watch is not None:
            self.declaration.watch(self.state, loss, self.base, **self.options)
