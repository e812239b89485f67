"""What an optimizer is: how a gradient becomes a change of the parameters.

A **rule** is a function of the gradient and its own state. It works elementwise, so the loop may give it the whole
flat vector or a part of it, and arrays with further axes in front (one row for each of many runs):

    rule(gradient, state, step, learning_rate, **options) -> Move

A **search** asks the objective for further values before it moves:

    search(objective, state, step, learning_rate, **options) -> float

`step` counts from 1. Rules change the arrays of their state in place and leave the gradient alone; numbers are plain
Python numbers, so that float32 stays float32. Gradients come clipped and with coupled weight decay; decoupled decay
is done before the rule is asked. Both are the loop's work, and so is ascent instead of descent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, NamedTuple, Protocol

from service.engine.building import Array, Choice, Declaration, Flag, Number, Option, Registry

PYTORCH = "https://docs.pytorch.org/docs/stable/optim.html"
KERAS = "https://keras.io/api/optimizers/"

State = SimpleNamespace
"""What a rule remembers, by name: arrays of the shape of the gradient, and numbers."""


class Move(NamedTuple):
    """parameters ← parameters - rate · direction."""

    direction: Array
    rate: Array | float
    effective_learning_rate: Array | float | None = None
    """What a gradient counts at its step, where that is not the rate."""


class LocalObjective(Protocol):
    """What a search may ask of the objective. A search may move the parameters in place at any time."""

    parameters: Array
    """The flat vector that is minimised over."""
    loss: float
    """At the parameters as they were when the search was called."""
    gradient: Array
    """At the same place; the next evaluation overwrites it."""

    def evaluate(self) -> tuple[float, Array]:
        """Loss and gradient at the parameters as they are now; the array is overwritten by the next call."""
        ...

    def hessian(self) -> Array:
        """The matrix of second derivatives at the parameters as they are now."""
        ...


def no_state(**options: Any) -> tuple[str, ...]:
    return ()


def nothing(**options: Any) -> int:
    return 0


def once(**options: Any) -> int:
    return 1


@dataclass(frozen=True, kw_only=True, eq=False)
class Optimizer(Declaration):
    """An optimizer: see the module."""

    state: Callable[..., tuple[str, ...]] = no_state
    """From the options to the names of the state's arrays, which are 0 before the first step."""
    numbers: Mapping[str, float] = field(default_factory=dict)
    """The state's numbers before the first step. Only `advance` and searches change them."""
    bounds: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Between what such a number always lies."""
    advance: Callable[..., None] | None = None
    """`advance(state, step, **options)`: called once at each step, before the rule (which may be called for parts)."""
    shown: Callable[..., Mapping[str, Array]] | None = None
    """`shown(state, step, **options)`: what follows from the state and helps to understand it, by name."""
    look_ahead: Callable[..., Array] | None = None
    """`look_ahead(state, **options)`: what is added to the parameters before the gradient is taken."""
    stable: Callable[..., float] | None = None
    """`stable(**options)`: on a quadratic the learning rate must stay below this over the largest curvature."""
    full_batch: bool = False
    """It compares gradients of one step with those of another, which makes little sense on different samples."""
    search: bool = False
    second_order: bool = False
    """A search that asks for Hessians."""
    histories: tuple[str, ...] = ()
    """Arrays of a search's state with an axis before that of the parameters, of one length; or there are none."""
    most_rows: Callable[..., int] = nothing
    """From the options to how long each history may grow."""
    most_evaluations: Callable[..., int] = once
    """From the options to how often one step may evaluate the loss."""
    counter_example: bool = False
    """A rule as a text misprints it: to be seen failing, not to be used."""


optimizers: Registry[Optimizer] = Registry("optimizer", "optimizers", Optimizer)

WEIGHT_DECAY = "weight_decay"
DECOUPLED = "decoupled_weight_decay"
MAXIMIZE = "maximize"
CONVENTION = "convention"
CONVENTIONS = ("pytorch", "keras")
LOOP_OPTIONS = (WEIGHT_DECAY, DECOUPLED, MAXIMIZE)
"""Options that the loop obeys, not the rule."""


def learning_rate(default: float) -> Number:
    return Number(name="learning_rate", default=default, minimum=0.0, description="factor of the step")


def decay(default: float = 0.0, *, decoupled: bool = False) -> tuple[Option, ...]:
    """The options of weight decay and of ascent, which all rules have."""
    return (
        Number(
            name=WEIGHT_DECAY,
            default=default,
            minimum=0.0,
            description="how strongly parameters are drawn to 0: coupled, it times the parameters is added to the "
            "gradient",
        ),
        Flag(
            name=DECOUPLED,
            default=decoupled,
            description="parameters are multiplied by 1 - learning_rate * weight_decay before the step instead",
        ),
        Flag(name=MAXIMIZE, default=False, description="ascend instead"),
    )


def convention(text: str) -> Choice:
    """Whose form of the rule is used; `text` says how Keras's differs. Its defaults go to `conventions`."""
    return Choice(
        name=CONVENTION,
        default="pytorch",
        values=CONVENTIONS,
        description=f"pytorch, or keras, where {text}; weight decay is decoupled there",
    )


def proper_fraction(name: str, default: float, description: str) -> Number:
    """A number from 0 to below 1."""
    return Number(name=name, default=default, minimum=0.0, maximum=1.0, open_maximum=True, description=description)


def epsilon(default: float, description: str = "keeps the division from zero") -> Number:
    return Number(name="epsilon", default=default, minimum=0.0, description=description)
