"""The declaration of an optimizer, which turns a gradient into a change of the parameters.

A **rule** is a function of the gradient and its own state. It works elementwise, so the loop may pass it the whole
flat vector, a part of it, or arrays with more axes in front (a row for each of many runs):

    rule(gradient, state, step, learning_rate, **options) -> Move

A **search** evaluates the objective at more points before it moves:

    search(objective, state, step, learning_rate, **options) -> float

`step` counts from 1. Rules change the arrays of their state in place, and leave the gradient unchanged. Numbers are
plain Python numbers, so that float32 stays float32. The loop clips gradients, adds coupled weight decay to them, turns
descent into ascent, and applies decoupled decay before it calls the rule.
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
"""The state of an optimizer, by name: arrays of the shape of the gradient, and numbers."""


class Move(NamedTuple):
    """The step that a rule asks for: parameters ← parameters - rate · direction."""

    direction: Array
    rate: Array | float
    effective_learning_rate: Array | float | None = None
    """The factor of the gradient in this step, where that is not the rate."""


class LocalObjective(Protocol):
    """The objective of a search, at the parameters of one step. A search may change these in place at any time."""

    parameters: Array
    """The flat vector of parameters."""
    loss: float
    """The loss at the parameters as they were when the search was called."""
    gradient: Array
    """The gradient at the same point. The next evaluation overwrites it."""

    def evaluate(self) -> tuple[float, Array]:
        """Return loss and gradient at the present parameters. The next call overwrites the array."""

    def hessian(self) -> Array:
        """Return the Hessian at the present parameters."""


def no_state(**options: Any) -> tuple[str, ...]:
    return ()


def nothing(**options: Any) -> int:
    return 0


def once(**options: Any) -> int:
    return 1


@dataclass(frozen=True, kw_only=True, eq=False)
class Optimizer(Declaration):
    """The declaration of an optimizer: a rule, or a search. The module's docstring describes both."""

    state: Callable[..., tuple[str, ...]] = no_state
    """`state(**options)` returns the names of the state's arrays, which are 0 before the first step."""
    numbers: Mapping[str, float] = field(default_factory=dict)
    """The numbers of the state before the first step. Only `advance` and searches change them."""
    bounds: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """The lowest and the highest value of such a number."""
    advance: Callable[..., None] | None = None
    """`advance(state, step, **options)`: called once at each step, before the rule, which may be called for parts."""
    shown: Callable[..., Mapping[str, Array]] | None = None
    """`shown(state, step, **options)` returns arrays that follow from the state and explain it, by name."""
    look_ahead: Callable[..., Array] | None = None
    """`look_ahead(state, **options)` returns the offset from the parameters to the point of the gradient."""
    stable: Callable[..., float] | None = None
    """`stable(**options)`, divided by the largest curvature, bounds the stable learning rates on a quadratic."""
    full_batch: bool = False
    """The optimizer compares gradients of different steps, which makes little sense on different samples."""
    search: bool = False
    second_order: bool = False
    """A search that computes Hessians."""
    histories: tuple[str, ...] = ()
    """Arrays of a search's state with an axis before that of the parameters. Either all exist, with one length, or
    none."""
    most_rows: Callable[..., int] = nothing
    """`most_rows(**options)` returns the greatest length of a history."""
    most_evaluations: Callable[..., int] = once
    """`most_evaluations(**options)` returns the most evaluations of the loss in one step."""
    counter_example: bool = False
    """A rule as a text misprints it, to show how it fails."""


optimizers: Registry[Optimizer] = Registry("optimizer", "optimizers", Optimizer)

WEIGHT_DECAY = "weight_decay"
DECOUPLED = "decoupled_weight_decay"
MAXIMIZE = "maximize"
CONVENTION = "convention"
CONVENTIONS = ("pytorch", "keras")
LOOP_OPTIONS = (WEIGHT_DECAY, DECOUPLED, MAXIMIZE)
"""Options of every rule. The loop obeys them, not the rule."""


def learning_rate(default: float) -> Number:
    return Number(name="learning_rate", default=default, minimum=0.0, description="factor of the step")


def decay(default: float = 0.0, *, decoupled: bool = False) -> tuple[Option, ...]:
    """Return the options of weight decay and of ascent, which every rule has. `decoupled` is the default of the option
    that takes weight decay out of the gradient."""
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
    """Return the option that chooses PyTorch's form of a rule or Keras's. `text` says how Keras's form differs. Keras's
    defaults go to `conventions`."""
    return Choice(
        name=CONVENTION,
        default="pytorch",
        values=CONVENTIONS,
        description=f"pytorch, or keras, where {text}; weight decay is decoupled there",
    )


def proper_fraction(name: str, default: float, description: str) -> Number:
    """Return an option that takes a number from 0 to below 1."""
    return Number(name=name, default=default, minimum=0.0, maximum=1.0, open_maximum=True, description=description)


def epsilon(default: float, description: str = "keeps the division from zero") -> Number:
    return Number(name="epsilon", default=default, minimum=0.0, description=description)
