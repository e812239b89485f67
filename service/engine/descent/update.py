"""The update of the parameters at each step: clipping, weight decay, the rule of the optimizer, and its state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from service.engine.arrays import Array
from service.engine.declarations import Selection
from service.engine.descent.optimizers.declaration import (
    CONVENTION,
    DECOUPLED,
    LOOP_OPTIONS,
    MAXIMIZE,
    WEIGHT_DECAY,
    Move,
    Optimizer,
    State,
)
from service.engine.descent.scheduler import Rate, Schedule, Scheduler
from service.engine.errors import Fault, InvalidRequest
from service.engine.texts import Sentence, say

RULE_BLOCK = 1 << 17
"""Numbers that a rule gets at once. More would leave the processor's cache between two operations of the rule."""
CLIP_EPSILON = 1e-6
"""Added to the norm in PyTorch's clipping."""


class Clip(NamedTuple):
    """The bounds that gradients are clipped to: `value` for each number, `norm` for the norm of all together."""

    value: float | None = None
    norm: float | None = None


@dataclass(frozen=True)
class Rules:
    """The parts that turn gradients into steps: the optimizer, its schedule, and the clipping of gradients."""

    optimizer: Selection[Optimizer]
    schedule: Selection[Schedule] | None = None
    clip: Clip | None = None

    def check(self) -> None:
        """Raise `InvalidRequest` when the parts do not fit together."""
        declaration = self.optimizer.declaration
        if declaration.search and self.clip is not None:
            detail = f"has no use for {declaration.name}, whose steps are as long as its search finds; leave it out"
            raise InvalidRequest([Fault(("clip",), detail)])

    @property
    def own_options(self) -> dict[str, Any]:
        """The options that the optimizer's function takes, without the learning rate and the options of the loop."""
        loops = (*LOOP_OPTIONS, "learning_rate")
        return {name: value for name, value in self.optimizer.options.items() if name not in loops}


class Update:
    """An optimizer in use, which updates parameters in place and keeps its state. The parameters are a flat vector, or
    a matrix with a column for each of many runs."""

    def __init__(self, rules: Rules, parameters: Array, steps_per_epoch: int = 1) -> None:
        options = rules.optimizer.options
        self.parameters = parameters
        self.declaration = rules.optimizer.declaration
        self.clip = rules.clip
        self.learning_rate: float = options["learning_rate"]
        self.weight_decay: float = options.get(WEIGHT_DECAY, 0.0)
        self.decoupled: bool = options.get(DECOUPLED, False)
        self.sign = -1.0 if options.get(MAXIMIZE) else 1.0
        self.clip_epsilon = 0.0 if options.get(CONVENTION) == "keras" else CLIP_EPSILON
        self.options = rules.own_options
        self.scheduler = (
            None if rules.schedule is None else Scheduler(rules.schedule, self.learning_rate, steps_per_epoch)
        )
        self.state = self._first_state()
        self._parts: list[tuple[Array, list[tuple[slice, Array, Array, State]]]] = []
        self._options_used: Mapping[str, Any] = self.options

    def _first_state(self) -> State:
        rate = self.rate(0)
        # A schedule may change a momentum of 0 later, so the first state has the arrays of momentum.
        options = self._options(rate if rate.momentum is None else rate._replace(momentum=0.5))
        state = State(**self.declaration.numbers)
        for name in self.declaration.state(**options):
            setattr(state, name, np.zeros_like(self.parameters))
        return state

    def saved(self) -> dict[str, Any]:
        """Return the state of the optimizer and of the schedule. The next step changes the arrays."""
        schedule = {} if self.scheduler is None else dict(self.scheduler.state)
        return {"optimizer": dict(vars(self.state)), "schedule": schedule}

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Take over what `saved` returned, before the first step."""
        for name, value in saved["optimizer"].items():
            setattr(self.state, name, value.copy() if isinstance(value, np.ndarray) else value)
        if self.scheduler is not None:
            self.scheduler.state = dict(saved["schedule"])

    def rate(self, step: int) -> Rate:
        """Return the learning rate and the momentum of a step, counted from 0."""
        return Rate(self.learning_rate) if self.scheduler is None else self.scheduler.rate(step)

    def _options(self, rate: Rate) -> Mapping[str, Any]:
        """Return the options for the optimizer's function, where the schedule's momentum replaces the optimizer's."""
        if rate.momentum is None:
            return self.options
        for name in ("momentum", "beta_1"):
            if name in self.options:
                return self.options | {name: rate.momentum}
        return self.options

    def begin(self, step: int) -> float:
        """Begin a step, counted from 0. Return its learning rate."""
        if self.scheduler is None:
            return self.learning_rate
        rate = self.scheduler.rate(step)
        self._options_used = self._options(rate)
        return rate.learning_rate

    def ahead(self) -> Array | None:
        """Return the offset from the parameters to where the rule wants the gradient; None for most rules."""
        look_ahead = self.declaration.look_ahead
        return None if look_ahead is None else look_ahead(self.state, **self._options_used)

    def move(self, gradient: Array, norm: Array | float, number: int, learning_rate: float) -> Array | float:
        """Update the parameters in place: clip the gradient, decay weights, apply the rule.

        `norm` is the norm of the gradient, or of each column for many runs. `number` counts steps from 1. Returns the
        effective learning rate: the factor of the gradient in this step.
        """
        options, declaration, clip = self._options_used, self.declaration, self.clip
        if declaration.advance is not None:
            declaration.advance(self.state, number, **options)
        scale: Array | float = self.sign
        bound = None
        if clip is not None:
            bound = clip.value
            if clip.norm is not None:
                scale = scale * _shrinking(clip.norm, norm, self.clip_epsilon)
        unchanged = isinstance(scale, float) and scale == 1.0
        decay = self.weight_decay
        # The penalty is part of the loss, so its gradient is taken at the same point as that of the loss.
        look_ahead = declaration.look_ahead
        effective: list[Array | float] = []
        for block, parameters, part, state in self._parts_of(gradient):
            shrinking = scale if isinstance(scale, float) else scale[block]
            g = part if unchanged else shrinking * part
            if bound is not None:
                g = np.clip(g, -bound, bound)
            if decay and self.decoupled:
                parameters *= 1.0 - learning_rate * decay
            elif decay:
                g = g + decay * (parameters if look_ahead is None else parameters + look_ahead(state, **options))
            move: Move = declaration.build(g, state, number, learning_rate, **options)
            direction, factor, effective_rate = move
            parameters -= factor * direction
            effective.append(factor if effective_rate is None else effective_rate)
        first = effective[0]
        if len(effective) > 1 and isinstance(first, np.ndarray):
            return np.concatenate(effective, axis=-1)
        return first

    def _parts_of(self, gradient: Array) -> Sequence[tuple[slice, Array, Array, State]]:
        """Return views of parameters, gradient and state in blocks that fit into the processor's cache. They are made
        once for each gradient array."""
        for known, parts in self._parts:
            if known is gradient:
                return parts
        parameters = self.parameters
        blocks = [slice(start, start + RULE_BLOCK) for start in range(0, parameters.shape[-1], RULE_BLOCK)]
        if len(blocks) == 1:
            parts = [(blocks[0], parameters, gradient, self.state)]
        else:
            parts = [(b, parameters[..., b], gradient[..., b], _StatePart(self.state, b)) for b in blocks]
        self._parts.append((gradient, parts))
        return parts

    def compared(self, learning_rate: float, curvature: float, *, is_function: bool = False) -> Sentence:
        """Return a clause that compares a learning rate with the largest curvature of the objective. `is_function` says
        that the objective is a typed function, not a loss."""
        of = say("findings.bound.function") if is_function else say("findings.bound.loss")
        largest = f"{curvature:.4g}"
        factor = self.stable_factor
        if factor is None:
            return say("findings.bound.known", of=of, curvature=largest)
        limit = factor / curvature
        return say(
            "findings.bound.compared",
            of=of,
            curvature=largest,
            rate=f"{learning_rate:g}",
            sign=">" if learning_rate > limit else "<" if learning_rate < limit else "=",
            factor=f"{factor:.4g}",
            limit=f"{limit:.4g}",
        )

    @property
    def stable_factor(self) -> float | None:
        """The bound of learning rate times curvature below which descent on a parabola is stable; None: unknown."""
        stable = self.declaration.stable
        if stable is None or self.weight_decay or self.clip is not None:
            return None
        return float(stable(**self.options))

    def shown(self, number: int) -> Mapping[str, Array]:
        """Return arrays that explain the state after step `number`, such as corrected moments, by name."""
        shown = self.declaration.shown
        return {} if shown is None else shown(self.state, number, **self._options_used)


def _shrinking(longest: float, norm: Array | float, epsilon: float) -> Array | float:
    """Return the factor that shortens gradients of this norm to `longest`; 1 for shorter gradients. `norm` may be an
    array, with a norm for each of many runs."""
    if isinstance(norm, float):
        return min(1.0, longest / (norm + epsilon)) if norm else 1.0
    shrinking: Array = np.minimum(1.0, longest / (norm + epsilon))
    return shrinking


class _StatePart(SimpleNamespace):
    """A block of an optimizer's state: slices of its arrays. Numbers are looked up in the whole state."""

    def __init__(self, whole: State, part: slice) -> None:
        arrays = {name: value[..., part] for name, value in vars(whole).items() if isinstance(value, np.ndarray)}
        super().__init__(**arrays)
        self._whole = whole

    def __getattr__(self, name: str) -> Any:
        return getattr(self._whole, name)
