"""The one loop: it minimises an objective over a flat vector of parameters, step by step.

A step computes the loss and the gradient at the parameters, then updates these. Until the next step, `parameters` and
`state` hold their values after the step, `gradient` that of before.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np

from service.engine.arrays import Array, norm_of_flat
from service.engine.descent.optimizers.declaration import State
from service.engine.descent.update import Rules, Update
from service.engine.errors import EngineError
from service.engine.findings import Found, findings, found
from service.engine.float_warnings import without_float_warnings
from service.engine.texts import Sentence, telling

RUNAWAY = 1e12
"""A loss has run away when it is so many times the first one, or 1 if that is more."""
CURVATURE_PARAMETERS = 200
"""The most parameters with which the curvature is computed to explain a divergence."""
CURVATURE_OPERATIONS = 1e8
"""Floating-point operations that the curvature may cost."""


class Objective(Protocol):
    """The function that a descent minimises."""

    parameters: Array
    """The flat vector of parameters, changed in place."""
    steps_per_epoch: int

    def begin(self, step: int) -> None:
        """Begin a step, counted from 0: take the batch and the random numbers of this step."""

    def evaluate(self) -> tuple[float, Array]:
        """Return loss and gradient at the present parameters. The next call overwrites the array."""

    def hessian(self, most_work: float = math.inf) -> Array:
        """Return the Hessian at the present parameters, (parameters, parameters). Raises an `EngineError` if that takes
        more than `most_work` floating-point operations."""

    def finish(self) -> None:
        """Update what changes with a step beside the parameters, such as moving averages of layers."""

    def validate(self) -> float | None:
        """Return the loss on validation data, or None without such data."""


class Stop(NamedTuple):
    """The bounds that end a descent before all its steps are done."""

    loss_below: float | None = None
    gradient_norm_below: float | None = None
    patience: int | None = None
    """Epochs without a better loss, that of validation where there is such data."""
    min_delta: float = 0.0
    """A loss counts as better if it is lower by more than this."""


@dataclass(frozen=True)
class Recipe(Rules):
    """The rules of a descent (optimizer, schedule, clipping), and the bounds that stop it early."""

    stop: Stop = field(default_factory=Stop)


class Step(NamedTuple):
    """The record of one step, with the loss and the gradient norm before its update."""

    number: int
    """Counted from 1."""
    epoch: int
    """Counted from 1."""
    loss: float
    learning_rate: float
    gradient_norm: float
    validation_loss: float | None = None
    """The validation loss after the last step of an epoch."""
    effective_learning_rate: Array | float | None = None
    """The factor of each number of the gradient, or of its average, in the update. None: the step changed nothing."""


@dataclass
class Progress:
    """The numbers that the loop keeps from step to step."""

    step: int = 0
    """Steps done."""
    epoch_loss: float = 0.0
    """The sum of the losses of this epoch so far."""
    best: float = math.inf
    """The lowest loss of an epoch so far; uphill the highest, negated."""
    best_step: int = 0
    """The last step of that epoch."""
    waited: int = 0
    """The epochs since then."""
    first_loss: float | None = None


class Descent:
    """A descent on an objective, made step by step. `status` is None while it goes on, then `stopped` or `diverged`."""

    def __init__(self, objective: Objective, recipe: Recipe, progress: Progress | None = None) -> None:
        self.objective = objective
        self.recipe = recipe
        self.progress = progress or Progress()
        self.update = Update(recipe, objective.parameters, objective.steps_per_epoch)
        self.status: str | None = None
        self.reason = ""
        self.gradient = np.zeros_like(objective.parameters)
        """The gradient of the last step, from the objective. The next step overwrites it."""
        starts_here = self.progress.step == 0
        self._start = (
            objective.parameters.copy() if starts_here and objective.parameters.size <= CURVATURE_PARAMETERS else None
        )

    @property
    def parameters(self) -> Array:
        return self.objective.parameters

    @property
    def state(self) -> State:
        """The state of the optimizer."""
        return self.update.state

    @state.setter
    def state(self, state: State) -> None:
        self.update.state = state

    def saved(self) -> dict[str, Any]:
        """Return all that the descent remembers between two steps, without the parameters and its status. The next step
        changes the arrays."""
        return {**self.update.saved(), "progress": dict(vars(self.progress)), "start": self._start}

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Take over what `saved` returned, before the first step."""
        self.update.restore(saved)
        self.progress = Progress(**saved["progress"])
        self._start = None if saved["start"] is None else saved["start"].copy()

    @property
    def has_moved(self) -> bool:
        """True after the first step. Before that, a learning rate cannot be the cause of a failure."""
        return self.progress.step > 0

    def advance(self) -> Step:
        """Make one step and return its record. If the loss or the gradient of the step has run away, the descent ends
        and the parameters stay as they are."""
        return without_float_warnings(self._advance)

    def _advance(self) -> Step:
        objective, progress = self.objective, self.progress
        objective.begin(progress.step)
        learning_rate = self.update.begin(progress.step)
        if not math.isfinite(learning_rate):
            return self._without_rate(learning_rate)
        loss, gradient = self._look()
        norm = norm_of_flat(gradient)
        self.gradient = gradient
        if progress.first_loss is None:
            progress.first_loss = loss
        number, epoch = progress.step + 1, progress.step // objective.steps_per_epoch + 1
        near = abs(loss) <= RUNAWAY * max(1.0, abs(progress.first_loss))
        if not (near and math.isfinite(loss) and math.isfinite(norm)):
            step = Step(number, epoch, loss, learning_rate, norm)
            self.status, self.reason = "diverged", self._why_diverged(step)
            return step
        progress.step = number
        if self.update.declaration.search:
            effective: Array | float = self._search(loss, gradient, learning_rate)
        else:
            effective = self.update.move(gradient, norm, number, learning_rate)
        objective.finish()
        progress.epoch_loss += loss
        validation_loss = None
        ends_epoch = number % objective.steps_per_epoch == 0
        if ends_epoch:
            validation_loss = self._end_epoch()
        step = Step(number, epoch, loss, learning_rate, norm, validation_loss, effective)
        self._check_stop(step, ends_epoch)
        return step

    def _without_rate(self, learning_rate: float) -> Step:
        progress = self.progress
        loss, self.gradient = self._look()
        number, epoch = progress.step + 1, progress.step // self.objective.steps_per_epoch + 1
        self.status = "diverged"
        self.reason = f"at step {number} the schedule gives a learning rate that is not finite"
        return Step(number, epoch, loss, learning_rate, norm_of_flat(self.gradient))

    def _look(self) -> tuple[float, Array]:
        """Return the loss at the parameters, and the gradient there or where the optimizer looks ahead to."""
        ahead = self.update.ahead()
        if ahead is None:
            return self.objective.evaluate()
        loss, _ = self.objective.evaluate()
        parameters = self.objective.parameters
        before = parameters.copy()
        parameters += ahead
        try:
            _, gradient = self.objective.evaluate()
        finally:
            parameters[...] = before
        return loss, gradient

    def _search(self, loss: float, gradient: Array, learning_rate: float) -> float:
        self.gradient = gradient.copy()  # the search evaluates again
        problem = _HereObjective(self.objective, loss, self.gradient)
        update = self.update
        length: float = update.declaration.build(
            problem, update.state, self.progress.step, learning_rate, **update.options
        )
        return length

    def _end_epoch(self) -> float | None:
        """Tell the schedule and the patience the loss of the epoch. Return the validation loss, if there is one."""
        progress = self.progress
        validation_loss = self.objective.validate()
        watched = validation_loss
        if watched is None:
            watched = progress.epoch_loss / self.objective.steps_per_epoch
        progress.epoch_loss = 0.0
        if self.update.scheduler is not None:
            self.update.scheduler.watch(watched)
        if self.update.sign * watched < progress.best - self.recipe.stop.min_delta:
            progress.best, progress.best_step, progress.waited = self.update.sign * watched, progress.step, 0
        else:
            progress.waited += 1
        return validation_loss

    def _check_stop(self, step: Step, ends_epoch: bool) -> None:
        stop, progress = self.recipe.stop, self.progress
        if stop.loss_below is not None and step.loss < stop.loss_below:
            reason = f"the loss {step.loss:g} at step {step.number} is below {stop.loss_below:g}"
        elif stop.gradient_norm_below is not None and step.gradient_norm < stop.gradient_norm_below:
            reason = (
                f"the gradient norm {step.gradient_norm:g} at step {step.number} is below {stop.gradient_norm_below:g}"
            )
        elif stop.patience is not None and ends_epoch and progress.waited >= stop.patience:
            best = f"its best was {self.update.sign * progress.best:g} after step {progress.best_step}"
            reason = f"the loss has not improved for {progress.waited} epochs; {best}"
        else:
            return
        self.status, self.reason = "stopped", reason

    def _why_diverged(self, step: Step) -> str:
        if math.isnan(step.loss) or math.isinf(step.loss):
            what = f"the loss is {'not a number' if math.isnan(step.loss) else 'infinite'}"
        elif not step.gradient_norm < math.inf:
            what = "the gradient is not finite"
        else:
            what = f"the loss has run away to {step.loss:.6g}; it was {self.progress.first_loss:.6g} at the first step"
        if not self.has_moved:
            return f"at step {step.number} {what}, before anything has moved"
        reason = f"at step {step.number} {what}; the learning rate is {step.learning_rate:g}"
        bound = self._bound(step.learning_rate)
        return reason if bound is None else reason + telling("en")(bound)

    def _bound(self, learning_rate: float) -> Sentence | None:
        """Return a clause that compares the learning rate with the curvature at the start; None if that is unknown."""
        if self.update.sign < 0.0:
            return None  # uphill there is no end
        curvature = self.curvature()
        if curvature is None:
            return None
        return self.update.compared(learning_rate, curvature)

    def _rate_now(self) -> float:
        return self.update.rate(self.progress.step).learning_rate

    def growth(self, loss: float) -> Found | None:
        """Return the finding `loss_grew` if `loss`, at the end, is far above the first loss; else None."""
        first = self.progress.first_loss
        most = findings["loss_grew"].bound("warning")
        if first is None or self.update.sign < 0.0 or not loss > most * abs(first):
            return None
        rate = self._rate_now()
        bound = without_float_warnings(self._bound, rate)
        value = loss / abs(first) if first else math.inf
        words: dict[str, Any] = {"first": f"{first:.6g}", "last": f"{loss:.6g}", "rate": f"{rate:g}"}
        words["bound"] = "" if bound is None else bound
        return found("loss_grew", value=value, quantity="loss", **words)

    def why_diverged_at_the_end(self, loss: float) -> str:
        """Return a clause that says why the last update failed. `loss` is the loss after this update."""
        return without_float_warnings(
            self._why_diverged, Step(self.progress.step + 1, 0, loss, self._rate_now(), math.nan)
        )

    def shown(self) -> Mapping[str, Array]:
        """Return arrays that explain the optimizer's state after the last step, such as corrected moments, by name."""
        return self.update.shown(self.progress.step)

    def curvature(self) -> float | None:
        """Return the largest eigenvalue of the Hessian at the parameters where the descent started. None if there are
        too many parameters, the Hessian costs too much, or the eigenvalue is not positive."""
        if self._start is None:
            return None
        parameters = self.objective.parameters
        last = parameters.copy()
        parameters[...] = self._start
        try:
            self.objective.begin(0)
            largest = float(np.linalg.eigvalsh(self.objective.hessian(CURVATURE_OPERATIONS))[-1])
        except (EngineError, np.linalg.LinAlgError):
            return None
        finally:
            parameters[...] = last
            self.objective.begin(self.progress.step)
        return largest if 0.0 < largest < math.inf else None


class _HereObjective:
    """The objective as a search gets it: with loss and gradient at the parameters of the present step."""

    def __init__(self, objective: Objective, loss: float, gradient: Array) -> None:
        self.parameters = objective.parameters
        self.loss = loss
        self.gradient = gradient
        self.evaluate = objective.evaluate
        self.hessian = objective.hessian
