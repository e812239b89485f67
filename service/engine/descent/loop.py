"""The one loop: minimise an objective over a flat vector of parameters, step by step.

A step is whole: the loss and the gradient where the parameters are, then the update. What it leaves behind can be
read until the next one: `parameters` and `state` after it, `gradient` of before.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, NamedTuple, Protocol

import numpy as np

from service.engine.declarations import Selection
from service.engine.descent.optimizers.declaration import (
    COMMON,
    CONVENTION,
    DECOUPLED,
    MAXIMIZE,
    WEIGHT_DECAY,
    Move,
    Optimizer,
    State,
)
from service.engine.descent.schedules import Rate, Schedule, Scheduler
from service.engine.errors import EngineError, Fault, InvalidRequest
from service.engine.graph.ir import Array
from service.engine.graph.quiet import quietly
from service.engine.network.quantities import norm_of_flat

BLOCK = 1 << 17
"""Numbers that a rule is given at once: more would leave the cache between two operations of the rule."""
RUNAWAY = 1e12
"""A loss that many times the first one (or 1) has run away."""
GROWN = 2.0
"""A loss that many times the first one is worth a warning."""
SMALL = 200
"""With at most so many parameters, the curvature is looked at to explain a divergence."""
CURVATURE_OPERATIONS = 1e8
"""What looking at the curvature may cost."""
CLIP_EPSILON = 1e-6
"""Added to the norm in PyTorch's clipping."""


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


class Clip(NamedTuple):
    """How gradients are cut: each number, or all together by their norm."""

    value: float | None = None
    norm: float | None = None


class Stop(NamedTuple):
    """When to stop before all steps are done."""

    loss_below: float | None = None
    gradient_norm_below: float | None = None
    patience: int | None = None
    """Epochs without a better loss: of validation, where there is such data."""
    min_delta: float = 0.0
    """What counts as better."""


@dataclass(frozen=True)
class Recipe:
    """How to descend."""

    optimizer: Selection[Optimizer]
    schedule: Selection[Schedule] | None = None
    clip: Clip | None = None
    stop: Stop = field(default_factory=Stop)

    def check(self) -> None:
        """Raise `InvalidRequest` when the parts do not fit together."""
        declaration = self.optimizer.declaration
        if declaration.search and self.clip is not None:
            detail = f"has no use for {declaration.name}, whose steps are as long as its search finds; leave it out"
            raise InvalidRequest([Fault(("clip",), detail)])

    @property
    def own_options(self) -> dict[str, Any]:
        """The options that the rule itself takes: without those of the loop and the learning rate."""
        loops = (*COMMON, "learning_rate")
        return {name: value for name, value in self.optimizer.options.items() if name not in loops}


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
        self.declaration = recipe.optimizer.declaration
        options = recipe.optimizer.options
        self.learning_rate: float = options["learning_rate"]
        self.weight_decay: float = options.get(WEIGHT_DECAY, 0.0)
        self.decoupled: bool = options.get(DECOUPLED, False)
        self.sign = -1.0 if options.get(MAXIMIZE) else 1.0
        self.clip_epsilon = 0.0 if options.get(CONVENTION) == "keras" else CLIP_EPSILON
        self.options = recipe.own_options
        self.scheduler = (
            None
            if recipe.schedule is None
            else Scheduler(recipe.schedule, self.learning_rate, objective.steps_per_epoch)
        )
        self.state = self._first_state()
        self.status: str | None = None
        self.reason = ""
        self.gradient = np.zeros_like(objective.parameters)
        """Of the last step, as the objective gave it. Overwritten by the next step."""
        self._parts: list[tuple[Array, list[tuple[Array, Array, State]]]] = []
        self._options_used: Mapping[str, Any] = self.options
        starts_here = self.progress.step == 0
        self._start = objective.parameters.copy() if starts_here and objective.parameters.size <= SMALL else None

    @property
    def parameters(self) -> Array:
        return self.objective.parameters

    def _first_state(self) -> State:
        rate = self._rate()
        # Where a schedule moves the momentum, it may be 0 now and not later.
        options = self._options(rate if rate.momentum is None else rate._replace(momentum=0.5))
        parameters = self.objective.parameters
        state = State(**self.declaration.numbers)
        for name in self.declaration.state(**options):
            setattr(state, name, np.zeros_like(parameters))
        return state

    def _rate(self) -> Rate:
        return Rate(self.learning_rate) if self.scheduler is None else self.scheduler.rate(self.progress.step)

    def _options(self, rate: Rate) -> Mapping[str, Any]:
        """The rule's options for this step: a schedule may move the momentum too."""
        if rate.momentum is None:
            return self.options
        for name in ("momentum", "beta_1"):
            if name in self.options:
                return self.options | {name: rate.momentum}
        return self.options

    def advance(self) -> Step:
        """Make one step. One that finds the loss or the gradient run away changes nothing and ends the descent."""
        return quietly(self._advance)

    def _advance(self) -> Step:
        objective, progress = self.objective, self.progress
        objective.begin(progress.step)
        learning_rate = self.learning_rate
        if self.scheduler is not None:
            rate = self.scheduler.rate(progress.step)
            learning_rate, self._options_used = rate.learning_rate, self._options(rate)
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
        if self.declaration.search:
            effective: Array | float = self._search(loss, gradient, learning_rate)
        else:
            effective = self._move(gradient, norm, learning_rate)
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
        look_ahead = self.declaration.look_ahead
        if look_ahead is None:
            return self.objective.evaluate()
        loss, _ = self.objective.evaluate()
        parameters = self.objective.parameters
        before = parameters.copy()
        parameters += look_ahead(self.state, **self._options_used)
        try:
            _, gradient = self.objective.evaluate()
        finally:
            parameters[...] = before
        return loss, gradient

    def _move(self, gradient: Array, norm: float, learning_rate: float) -> Array | float:
        """Clip, decay, ask the rule, move. Gives what the gradient was multiplied by."""
        number, options = self.progress.step, self._options_used
        declaration, clip = self.declaration, self.recipe.clip
        if declaration.advance is not None:
            declaration.advance(self.state, number, **options)
        scale, bound = self.sign, None
        if clip is not None:
            bound = clip.value
            if clip.norm is not None:
                scale *= min(1.0, clip.norm / (norm + self.clip_epsilon)) if norm else 1.0
        decay = self.weight_decay
        effective: list[Array | float] = []
        for parameters, part, state in self._parts_of(gradient):
            g = part if scale == 1.0 else scale * part
            if bound is not None:
                g = np.clip(g, -bound, bound)
            if decay and self.decoupled:
                parameters *= 1.0 - learning_rate * decay
            elif decay:
                g = g + decay * parameters
            move: Move = declaration.build(g, state, number, learning_rate, **options)
            direction, factor, told = move
            parameters -= factor * direction
            effective.append(factor if told is None else told)
        first = effective[0]
        return np.concatenate(effective) if len(effective) > 1 and isinstance(first, np.ndarray) else first

    def _parts_of(self, gradient: Array) -> Sequence[tuple[Array, Array, State]]:
        """Parameters, gradient and state in blocks: views, made once for each array that gradients come in."""
        for known, parts in self._parts:
            if known is gradient:
                return parts
        parameters = self.objective.parameters
        blocks = [slice(start, start + BLOCK) for start in range(0, parameters.shape[-1], BLOCK)]
        if len(blocks) == 1:
            parts = [(parameters, gradient, self.state)]
        else:
            parts = [(parameters[..., b], gradient[..., b], _StatePart(self.state, b)) for b in blocks]
        self._parts.append((gradient, parts))
        return parts

    def _search(self, loss: float, gradient: Array, learning_rate: float) -> float:
        self.gradient = gradient.copy()  # the search evaluates again
        problem = _Problem(self.objective, loss, self.gradient)
        length: float = self.declaration.build(problem, self.state, self.progress.step, learning_rate, **self.options)
        return length

    def _end_epoch(self) -> float | None:
        """Watch the loss of the epoch that ends. Gives the loss of validation, if there is one."""
        progress = self.progress
        validation_loss = self.objective.validate()
        watched = validation_loss
        if watched is None:
            watched = progress.epoch_loss / self.objective.steps_per_epoch
        progress.epoch_loss = 0.0
        if self.scheduler is not None:
            self.scheduler.watch(watched)
        if self.sign * watched < progress.best - self.recipe.stop.min_delta:
            progress.best, progress.best_step, progress.waited = self.sign * watched, progress.step, 0
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
            best = f"its best was {self.sign * progress.best:g} after step {progress.best_step}"
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
        reason = f"at step {step.number} {what}; the learning rate is {step.learning_rate:g}"
        bound = self._bound(step.learning_rate)
        return f"{reason}; {bound}" if bound else reason

    def _bound(self, learning_rate: float) -> str:
        """How the learning rate compares to the curvature, where that can be said; else nothing."""
        if self.sign < 0.0:
            return ""  # uphill there is no end
        curvature = self._curvature()
        if curvature is None:
            return ""
        found = f"the largest curvature of the loss where the descent started, λmax, is {curvature:.4g}"
        stable = self.declaration.stable
        if stable is None or self.weight_decay or self.recipe.clip is not None:
            return found
        factor = stable(**self.options)
        limit = factor / curvature
        word = ">" if learning_rate > limit else "<"
        return f"{found}, and {learning_rate:g} {word} {factor:.4g}/λmax = {limit:.4g}"

    def growth(self, loss: float) -> str:
        """Words for a loss that ends far above where it started; nothing where it does not."""
        first = self.progress.first_loss
        if first is None or self.sign < 0.0 or not loss > GROWN * abs(first):
            return ""
        learning_rate = self._rate().learning_rate
        bound = quietly(self._bound, learning_rate)
        grown = f"the loss was {first:.6g} at the first step and is {loss:.6g} in the end; the learning rate is"
        return f"{grown} {learning_rate:g}" + (f"; {bound}" if bound else "")

    def why_diverged_at_the_end(self, loss: float) -> str:
        """Why the last update led nowhere: `loss` is what comes after it."""
        return quietly(self._why_diverged, Step(self.progress.step + 1, 0, loss, self._rate().learning_rate, math.nan))

    def shown(self) -> Mapping[str, Array]:
        """What follows from the state after the last step and helps to understand it."""
        shown = self.declaration.shown
        return {} if shown is None else shown(self.state, self.progress.step, **self._options_used)

    def _curvature(self) -> float | None:
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


class _StatePart(SimpleNamespace):
    """A block of a state's arrays. Numbers are those of the whole state, looked up when they are asked for."""

    def __init__(self, whole: State, part: slice) -> None:
        arrays = {name: value[..., part] for name, value in vars(whole).items() if isinstance(value, np.ndarray)}
        super().__init__(**arrays)
        self._whole = whole

    def __getattr__(self, name: str) -> Any:
        return getattr(self._whole, name)
