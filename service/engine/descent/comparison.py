"""A comparison of several trainings of one network: their curves over the same steps, and how each training ended."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import numpy as np

from service.engine.arrays import Array
from service.engine.cautions import Caution
from service.engine.declarations import Selection
from service.engine.descent.cost import RULE_CALLS
from service.engine.descent.loop import Recipe, Step
from service.engine.descent.optimizers.declaration import Optimizer
from service.engine.descent.training import Training
from service.engine.errors import LimitExceeded, Path
from service.engine.limits import Limits

MOST_TRAININGS = 100
CURVES = ("loss", "gradient_norm", "learning_rate", "validation_loss")


class Contender(NamedTuple):
    """One training of a comparison: its optimizer and its seed."""

    optimizer: Selection[Optimizer]
    seed: int
    place: int = 0
    """The place of the optimizer in the request."""


def check_runs(count: int, path: Path = ()) -> None:
    """Raise `LimitExceeded` when there are too many runs."""
    if count > MOST_TRAININGS:
        raise LimitExceeded("runs", count, MOST_TRAININGS, path)


@dataclass
class Row:
    """The result of one training of a comparison: its status, and its losses and steps at the end."""

    contender: Contender
    status: str = "cancelled"
    reason: str = ""
    steps_done: int = 0
    loss: float = math.nan
    """After the last step."""
    best_loss: float = math.nan
    """The lowest loss of any step, and the number of this step."""
    best_step: int = 0
    validation_loss: float | None = None

    def saved(self) -> dict[str, Any]:
        """Return the row without its contender."""
        return {item.name: getattr(self, item.name) for item in fields(self) if item.name != "contender"}


class Comparison:
    """Trainings of several contenders, made one after the other. `start` makes the training of a contender."""

    def __init__(
        self, contenders: Sequence[Contender], recipe: Recipe, start: Callable[[Contender], Training], limits: Limits
    ) -> None:
        """Start the first training. All contenders share `recipe`. Raises what `start` raises for the first contender,
        `LimitExceeded` when all together cost too much."""
        check_runs(len(contenders))
        for contender in contenders:
            replace(recipe, optimizer=contender.optimizer).check()
        self._start = start
        self._contenders = tuple(contenders)
        self._waiting = list(reversed(contenders))
        self.rows: list[Row] = []
        self.curves: list[dict[str, Array]] = []
        self.warnings: list[Caution] = []
        """Warnings about the network and the data, once for all runs."""
        first = self._waiting.pop()
        self._training: Training | None = start(first)
        steps, every = self._training.steps, self._training.plan.every
        self.steps_each = steps
        """The steps of each training, at most."""
        self.steps: Array = np.append(np.arange(1, steps, min(every, steps)), steps)
        """The numbers of the steps at which curves have values."""
        self._add(first)
        try:
            limits.check_trace(len(CURVES) * len(contenders) * len(self.steps))
            limits.check_steps(len(contenders) * steps)
            work = 0.0
            for contender in contenders:
                own = replace(recipe, optimizer=contender.optimizer)
                work += self._training.cost.work(own, ("optimizers", contender.place))
            limits.check_operations(work)
            self.work = work
            """The floating-point operations of all runs together, at most and roughly."""
            self.program = self._training.objective.program
            self.calls = len(contenders) * steps * (self._training.objective.calls + RULE_CALLS)
            """Calls of NumPy of all runs together, roughly."""
        except BaseException:
            self.close()
            raise

    @property
    def nbytes(self) -> int:
        """The bytes of the training that needs the most memory. Only one training runs at a time."""
        training = self._training
        assert training is not None
        recipe = training.plan.recipe
        contenders = (self.rows[-1].contender, *self._waiting)
        return max(training.cost.memory(replace(recipe, optimizer=each.optimizer)) for each in contenders)

    def _add(self, contender: Contender, reason: str = "") -> None:
        """Add a row and empty curves for a contender whose training begins."""
        self.rows.append(Row(contender, reason=reason))
        self.curves.append({name: np.full(len(self.steps), np.nan) for name in CURVES})

    def saved(self) -> dict[str, Any]:
        """Return all that the comparison remembers between two steps, which `restore` takes in another process. The
        next step changes the arrays."""
        training = self._training
        return {
            "ended": [row.saved() for row in (self.rows if training is None else self.rows[:-1])],
            "curves": self.curves,
            "warnings": [caution.saved() for caution in self.warnings],
            "training": None if training is None else training.saved(),
        }

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Go on from what `saved` returned of a comparison of the same contenders, as if it had never stopped."""
        self.close()
        ended, curves, training = saved["ended"], saved["curves"], saved["training"]
        self.rows = [Row(each, **values) for each, values in zip(self._contenders[: len(ended)], ended, strict=True)]
        self.curves = [{name: curve.copy() for name, curve in own.items()} for own in curves]
        self.warnings = [caution for each in saved["warnings"] if (caution := Caution.restored(each)) is not None]
        self._waiting = list(reversed(self._contenders[len(curves) :]))
        if training is not None:
            contender = self._contenders[len(ended)]
            self.rows.append(Row(contender))
            self._training = self._start(contender)
            self._training.restore(training)
        elif self._waiting:
            self._begin()

    def leave(self) -> None:
        """Leave the trainings that have not ended to others, whose rows `take` takes. The present one begins anew."""
        if self._training is not None:
            self.close()
            self._waiting.append(self.rows.pop().contender)
            self.curves.pop()

    def take(self, saved: Mapping[str, Any]) -> Row:
        """Add the row of the next contender, from what `saved` returned of a comparison of this one alone."""
        contender = self._waiting.pop()
        row = Row(contender, **saved["ended"][0])
        self.rows.append(row)
        self.curves.append(saved["curves"][0])
        found = [Caution.restored(each) for each in saved["warnings"]]
        self.warnings += [caution for caution in found if caution is not None and caution not in self.warnings]
        return row

    def go_on(self) -> None:
        """Make the trainings here that were left to others and have not ended."""
        if self._training is None and self._waiting:
            self._begin()

    def _begin(self) -> None:
        contender = self._waiting.pop()
        self._add(contender)
        self._training = self._start(contender)

    @property
    def count(self) -> int:
        """The number of all trainings."""
        return len(self._contenders)

    @property
    def ended(self) -> int:
        """The number of trainings that have ended."""
        return len(self.rows) - (self._training is not None)

    @property
    def present(self) -> Training | None:
        """The training that is going on."""
        return self._training

    @property
    def finished(self) -> bool:
        return self._training is None and not self._waiting

    @property
    def best(self) -> int | None:
        """The position of the row with the lowest final loss; None if no loss is finite."""
        losses = [row.loss if math.isfinite(row.loss) else math.inf for row in self.rows]
        return losses.index(min(losses)) if min(losses) < math.inf else None

    def advance(self) -> Row | None:
        """Make one step of the present training. When it ends, start that of the next contender, and return its row."""
        training = self._training
        assert training is not None
        recorded = training.advance()
        if recorded is not None:
            self._record(recorded.step)
        if not training.finished:
            return None
        row = self._end(training)
        if self._waiting:
            self._begin()
        return row

    def _record(self, step: Step) -> None:
        place = int(np.searchsorted(self.steps, step.number))
        if place == len(self.steps) or self.steps[place] != step.number:
            return  # the run ended early, between two steps of the curves
        curves = self.curves[-1]
        curves["loss"][place] = step.loss
        curves["gradient_norm"][place] = step.gradient_norm
        curves["learning_rate"][place] = step.learning_rate
        if step.validation_loss is not None:
            curves["validation_loss"][place] = step.validation_loss

    def _end(self, training: Training) -> Row:
        row = self.rows[-1]
        outcome = training.outcome()
        row.status, row.reason, row.steps_done = outcome.status, outcome.reason, outcome.step
        row.loss = math.nan if outcome.loss is None else outcome.loss
        row.validation_loss = outcome.validation_loss
        row.best_loss, row.best_step = training.lowest
        self.warnings += [caution for caution in outcome.shared if caution not in self.warnings]
        self.close()
        return row

    def cancel(self, reason: str) -> None:
        """End the present training and all that have not begun, with the status `cancelled` and this reason."""
        if self._training is not None:
            self._training.cancel(reason)
            self._end(self._training)
        while self._waiting:
            self._add(self._waiting.pop(), reason)

    def close(self) -> None:
        """Give the memory of the present training back to the pool."""
        if self._training is not None:
            self._training.close()
            self._training = None
