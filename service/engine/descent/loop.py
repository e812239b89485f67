"""The one loop: minimise an objective over a flat vector of parameters, step by step.

A step is whole: the loss and the gradient where the parameters are, then the update. What it leaves behind can be
read until the next one: `parameters` and `state` after it, `gradient` of before.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np

from service.engine.arrays import Array, norm_of_flat
from service.engine.descent.optimizers.declaration import State
from service.engine.descent.update import Rules, Update
from service.engine.errors import EngineError
from service.engine.findings import Found, findings, found
from service.engine.float_warnings import without_float_warnings
from service.engine.graph.plan import Program
from service.engine.texts import Sentence, telling

RUNAWAY = 1e12
"""A loss that many times the first one (or 1) has run away."""
SMALL = 200
"""With at most so many parameters, the curvature is looked at to explain a divergence."""
CURVATURE_OPERATIONS = 1e8
"""What looking at the curvature may cost."""


RULE_CALLS = 20
"""Of NumPy in each step, beside those of the program."""
Admit = Callable[[Program, float, float, int], None]
"""Told, before it takes memory, what a descent will cost: its program, the floating-point operations of all its steps,
the calls of NumPy in each of them, and the number of steps. It may take its time, or raise."""


def no_need(program: Program, work: float, calls: float, steps: int) -> None:
    """Admits everything at once."""


class Objective(Protocol):
    """What is minimised."""

    parameters: Array
    """The flat vector that is minimised over; changed in place."""
    steps_per_epoch: int

    def begin(self, step: int) -> None:
        """Turn to what a step, counted from 0, looks at: its batch, its random numbers."""
        ...

    def evaluate(self) -> tuple[float, Array]:
        """Loss and gradient at the parameters as they are; the array is overwritten by the next call."""
        ...

    def hessian(self, most_work: float = math.inf) -> Array:
        """The second derivatives at the parameters as they are; raises an `EngineError` beyond so many operations."""
        ...

    def finish(self) -> None:
        """The parameters have moved: carry along what else changes."""
        ...

    def validate(self) -> float | None:
        """The loss on data that is not trained on, if there is such data."""
        ...


class Stop(NamedTuple):
    """When to stop before all steps are done."""

    loss_below: float | None = None
    gradient_norm_below: float | None = None
    patience: int | None = None
    """Epochs without a better loss: of validation, where there is such data."""
    min_delta: float = 0.0
    """What counts as better."""


@dataclass(frozen=True)
class Recipe(Rules):
    """How to descend, and when to stop."""

    stop: Stop = field(default_factory=Stop)


class Step(NamedTuple):
    """What one step saw: loss and gradient norm before its update."""

    number: int
    """Counted from 1."""
    epoch: int
    """Counted from 1."""
    loss: float
    learning_rate: float
    gradient_norm: float
    validation_loss: float | None = None
    """After the last step of an epoch."""
    effective_learning_rate: Array | float | None = None
    """What each number of the gradient, or of its average, was multiplied by; None: nothing was changed."""


@dataclass
class Progress:
    """What the loop itself remembers from step to step."""

    step: int = 0
    """Steps done."""
    epoch_loss: float = 0.0
    """Sum of the losses of this epoch so far."""
    best: float = math.inf
    """The lowest loss of an epoch so far (uphill the highest, negated), and since when there was no better one."""
    best_step: int = 0
    waited: int = 0
    first_loss: float | None = None


class Descent:
    """One descent. `status` is None while it goes on, else one of stopped, diverged."""

    def __init__(
        self,
        objective: Objective,
        recipe: Recipe,
        progress: Progress | None = None,
    ) -> None:
        self.objective = objective
        self.recipe = recipe
        self.progress = progress or Progress()
        self.update = Update(recipe, objective.parameters, objective.steps_per_epoch)
        self.status: str | None = None
        self.reason = ""
        self.gradient = np.zeros_like(objective.parameters)
        """Of the last step, as the objective gave it. Overwritten by the next step."""
        starts_here = self.progress.step == 0
        self._start = objective.parameters.copy() if starts_here and objective.parameters.size <= SMALL else None

    @property
    def parameters(self) -> Array:
        return self.objective.parameters

    @property
    def state(self) -> State:
        """What the optimizer remembers."""
        return self.update.state

    @state.setter
    def state(self, state: State) -> None:
        self.update.state = state

    @property
    def has_moved(self) -> bool:
        """Whether a step was made: what goes wrong before that is no fault of the learning rate."""
        return self.progress.step > 0

    def advance(self) -> Step:
        """Make one step. One that finds the loss or the gradient run away changes nothing and ends the descent."""
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
        """The loss where the parameters are, and the gradient there or where the optimizer looks ahead to."""
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
        problem = _Problem(self.objective, loss, self.gradient)
        update = self.update
        length: float = update.declaration.build(
            problem, update.state, self.progress.step, learning_rate, **update.options
        )
        return length

    def _end_epoch(self) -> float | None:
        """Watch the loss of the epoch that ends. Gives the loss of validation, if there is one."""
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
        """How the learning rate compares to the curvature, where that can be said."""
        if self.update.sign < 0.0:
            return None  # uphill there is no end
        curvature = self.curvature()
        if curvature is None:
            return None
        return self.update.compared(learning_rate, curvature)

    def _rate_now(self) -> float:
        return self.update.rate(self.progress.step).learning_rate

    def growth(self, loss: float) -> Found | None:
        """The finding that a loss ends far above where it started; None where it does not."""
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
        """Why the last update led nowhere: `loss` is what comes after it."""
        return without_float_warnings(
            self._why_diverged, Step(self.progress.step + 1, 0, loss, self._rate_now(), math.nan)
        )

    def shown(self) -> Mapping[str, Array]:
        """What follows from the state after the last step and helps to understand it."""
        return self.update.shown(self.progress.step)

    def curvature(self) -> float | None:
        """The largest eigenvalue of the Hessian at the start, where that is affordable, finite and positive."""
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


class _Problem:
    """What a search sees of the objective."""

    def __init__(self, objective: Objective, loss: float, gradient: Array) -> None:
        self.parameters = objective.parameters
        self.loss = loss
        self.gradient = gradient
        self.evaluate = objective.evaluate
        self.hessian = objective.hessian
