"""The trace of a training: copies of what each recorded step includes, and the first number that is not finite."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from service.engine.arrays import Array, is_finite
from service.engine.cautions import Caution
from service.engine.descent.checkpoint import Checkpoint, checkpoint_of, tree_or_number
from service.engine.descent.loop import Descent, Step
from service.engine.descent.objective import BatchObjective
from service.engine.descent.training_plan import Plan
from service.engine.findings import found
from service.engine.float_warnings import without_float_warnings
from service.engine.network.flat import tree_of

TRACED = ("gradients", "parameters", "state", "updates", "effective_learning_rate", "batch")
"""The quantities that a trace may include of each step."""


class Recorded(NamedTuple):
    """A step of the trace, with what the trace includes of this step by name: trees, numbers, indices of samples.
    `more` has a `checkpoint` where the plan asks for one, the step was made, and all numbers are finite."""

    step: Step
    more: dict[str, Any]


class Tracer:
    """A recorder of the steps of one training, for the trace in the answer."""

    def __init__(self, objective: BatchObjective, descent: Descent, plan: Plan, seed: int) -> None:
        """Prepare to record the steps of `descent`. `seed` is the training's seed, which checkpoints hold."""
        self.objective, self.descent, self.plan, self.seed = objective, descent, plan, seed
        self.non_finite: Caution | None = None
        """The first recorded number that is not finite."""
        self._validation_loss: float | None = None
        """The validation loss of the last epoch, until a step records it."""
        self._before = np.empty_like(objective.parameters) if "updates" in plan.include else None

    def begin(self) -> None:
        """Remember the parameters before a step, if the trace includes updates."""
        if self._before is not None:
            self._before[...] = self.objective.parameters

    def saved(self) -> dict[str, Any]:
        """Return what the tracer remembers between two steps."""
        non_finite = None if self.non_finite is None else self.non_finite.saved()
        return {"non_finite": non_finite, "validation_loss": self._validation_loss}

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Take over what `saved` returned, before the first step."""
        self.non_finite = Caution.restored(saved["non_finite"])
        self._validation_loss = saved["validation_loss"]

    def see(self, step: int, name: str, array: Array) -> None:
        """Make the caution `non_finite` about an array of the trace, if this array is the first that is not finite."""
        if self.non_finite is None and not is_finite(array):
            self.non_finite = Caution.of(found("non_finite", quantity=name, step=step, name=name))

    def record(self, step: Step, *, is_last: bool) -> Recorded | None:
        """Return the record of a step; None if the trace does not hold this step."""
        plan = self.plan
        if step.validation_loss is not None:
            self._validation_loss = step.validation_loss
        keeps = plan.checkpoint_every is not None and not step.number % plan.checkpoint_every
        if not is_last and not keeps and (step.number - 1) % plan.every:
            return None
        if not math.isfinite(step.learning_rate):
            self.see(step.number, "learning_rate", np.asarray(step.learning_rate))
        # The next recorded step holds the validation loss, so that a thin trace does not lose it.
        step = step._replace(validation_loss=self._validation_loss)
        self._validation_loss = None
        more = without_float_warnings(self._included, step) if plan.include else {}
        made = self.descent.progress.step == step.number  # a step that finds the loss run away changes nothing
        checkpoint = without_float_warnings(self._checkpoint) if keeps and made else None
        return Recorded(step, more if checkpoint is None else more | {"checkpoint": checkpoint})

    def _included(self, step: Step) -> dict[str, Any]:
        """Return copies of what the plan includes in the trace of a step, by name."""
        include, descent, objective = self.plan.include, self.descent, self.objective
        included: dict[str, Any] = {}
        if "batch" in include:
            rows = objective.rows
            included["batch"] = np.arange(objective.samples) if rows is None else rows
        if "gradients" in include:
            included["gradients"] = tree_of(objective.vector.trained, descent.gradient.copy())
        rate = step.effective_learning_rate
        if rate is None:
            return included  # the step changed nothing
        if "effective_learning_rate" in include:
            included["effective_learning_rate"] = self._seen(step, "effective_learning_rate", rate)
        if self._before is not None:
            included["updates"] = self._seen(step, "updates", objective.parameters - self._before)
        if "parameters" in include:
            flat = objective.flat.copy()
            self.see(step.number, "parameters", flat)
            included["parameters"] = tree_of(objective.vector.pieces, flat)
        if "state" in include:
            values = {**vars(descent.state), **descent.shown()}
            included["state"] = {name: self._seen(step, name, value) for name, value in values.items()}
        return included

    def _seen(self, step: Step, name: str, value: Any) -> Any:
        self.see(step.number, name, np.asarray(value))
        return tree_or_number(self.objective.vector.trained, value)

    def _checkpoint(self) -> Checkpoint | None:
        """Make a checkpoint; None where numbers are not finite, since no training can go on from there."""
        remembered = [self.objective.flat, *map(np.asarray, vars(self.descent.state).values())]
        return self.checkpoint_with(self.parameters()) if all(map(is_finite, remembered)) else None

    def checkpoint_with(self, parameters: dict[str, dict[str, Array]]) -> Checkpoint:
        """Return a checkpoint of the present step with these parameters, which must be finite."""
        return checkpoint_of(self.descent, self.seed, parameters, self.objective.vector.trained)

    def parameters(self) -> dict[str, dict[str, Array]]:
        """Return a copy of all parameters as a tree by layer and parameter name."""
        return tree_of(self.objective.vector.pieces, self.objective.flat.copy())
