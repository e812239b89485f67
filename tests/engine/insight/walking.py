"""Evaluates the expressions of steps, on its own: Python's arithmetic, `math`, and how far rounding may go.

Each number carries a bound of its rounding error, so a step is compared as closely as its own formula allows.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import mpmath

from service.engine.insight.explain import WorkedDerivation
from tests.engine.functions.samples import MEANINGS

SAFETY = 16.0
"""The engine computes some values another way than their formula says, such as softmax, which shifts its logits."""


class Rounded:
    """A number, and how far off rounding may have put it."""

    def __init__(self, value: float, error: float) -> None:
        self.value, self.error = value, error


class Arithmetic:
    """Numbers with a unit roundoff."""

    def __init__(self, unit: float) -> None:
        self.unit = unit
        outer = self

        class Number(Rounded):
            def __add__(self, other: Any) -> Number:
                b = outer.number(other)
                return outer.made(self.value + b.value, self.error + b.error)

            def __radd__(self, other: Any) -> Number:
                return self + other

            def __neg__(self) -> Number:
                return Number(-self.value, self.error)

            def __sub__(self, other: Any) -> Number:
                return self + -outer.number(other)

            def __rsub__(self, other: Any) -> Number:
                return -self + other

            def __mul__(self, other: Any) -> Number:
                b = outer.number(other)
                return outer.made(self.value * b.value, abs(self.value) * b.error + abs(b.value) * self.error)

            def __rmul__(self, other: Any) -> Number:
                return self * other

            def __truediv__(self, other: Any) -> Number:
                b = outer.number(other)
                if not b.value:
                    return outer.made(math.copysign(math.inf, self.value) if self.value else math.nan, 0.0)
                value = self.value / b.value
                return outer.made(value, (self.error + abs(value) * b.error) / abs(b.value))

            def __rtruediv__(self, other: Any) -> Number:
                return outer.number(other) / self

            def __pow__(self, exponent: int) -> Number:
                assert exponent == 2
                return self * self

        self.kind = Number

    def number(self, value: Any) -> Any:
        return value if isinstance(value, Rounded) else self.kind(float(value), 0.0)

    def made(self, value: float, error: float) -> Any:
        return self.kind(value, error + self.unit * abs(value))

    def function(self, f: Callable[..., float]) -> Callable[..., Any]:
        def call(*given: Any) -> Any:
            arguments = [self.number(each) for each in given]
            values = [each.value for each in arguments]
            value = quiet(f, values)
            error = 0.0
            for place, each in enumerate(arguments):
                if each.error:
                    for shift in (each.error, -each.error):
                        moved = [*values]
                        moved[place] += shift
                        error += abs(quiet(f, moved) - value)
            return self.made(value, error + 3.0 * self.unit * abs(value))

        return call


def quiet(f: Callable[..., float], values: Sequence[float]) -> float:
    """Compute a function's value; NaN where it has none, infinite where it is too large."""
    try:
        return f(*values)
    except ValueError:
        return math.nan
    except OverflowError:
        return math.inf


def sigmoid(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-x)) if x >= 0.0 else math.exp(x) / (1.0 + math.exp(x))


def softplus(x: float) -> float:
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def tanh_shrink(x: float) -> float:
    with mpmath.workdps(40):
        return float(mpmath.mpf(x) - mpmath.tanh(mpmath.mpf(x)))


FUNCTIONS: dict[str, Callable[..., float]] = {
    **MEANINGS,
    "sigmoid": sigmoid,
    "logistic_slope": lambda x: sigmoid(x) * sigmoid(-x),
    "tanh_slope": lambda x: 1.0 / math.cosh(x) ** 2,
    "softplus": softplus,
    "gaussian": lambda x: math.exp(-x * x),
    "absolute": abs,
    "sign": lambda x: float((x > 0.0) - (x < 0.0)),
    "greater": lambda a, b: float(a > b),
    "greater_equal": lambda a, b: float(a >= b),
    "maximum": max,
    "minimum": min,
    "max": lambda *xs: max(xs),
    "min": lambda *xs: min(xs),
    "equal": lambda a, b: float(a == b),
    "first_largest": lambda place, *xs: float(xs.index(max(xs)) == place),
    "where": lambda condition, a, b: a if condition else b,
    "order": lambda place, descending, *xs: sorted(range(len(xs)), key=lambda k: -xs[k] if descending else xs[k])[
        int(place)
    ],
    "gate": lambda mask, x: x if mask else 0.0,
    "weighted": lambda a, b: a * b if a else 0.0,
    "normal_cdf": lambda x: 0.5 * math.erfc(-x / math.sqrt(2.0)),
    "normal_density": lambda x: math.exp(-0.5 * x * x) / math.sqrt(2.0 * math.pi),
    "tanh_shrink": tanh_shrink,
    "xlogy": lambda a, b: a * math.log(b) if a else 0.0,
    "mod": lambda a, b: a - b * math.floor(a / b),
    "inf": math.inf,
}


@functools.cache
def _language(dtype: str) -> tuple[Arithmetic, dict[str, Any]]:
    """Return the numbers of a dtype, and the functions on them by their names."""
    arithmetic = Arithmetic(2.0**-53 if dtype == "float64" else 2.0**-24)
    return arithmetic, {name: arithmetic.function(f) if callable(f) else f for name, f in FUNCTIONS.items()}


def evaluated(expression: str, used: Sequence[tuple[float, float]], dtype: str) -> Any:
    """Compute an expression on numbers with errors; return its value and a bound of its rounding."""
    arithmetic, functions = _language(dtype)
    # The numbers that a step names are rounded, and a careful operation knows their rounding.
    names = {f"u{place}": arithmetic.made(*each) for place, each in enumerate(used)}
    return arithmetic.number(eval(expression, {"__builtins__": {}}, functions | names))


def walk(derivation: WorkedDerivation, dtype: str = "float64", *, ordered: bool = True) -> int:
    """Assert of every step that its value is that of its expression on what it names; how many there are. With
    `ordered`, a step names only what stands before it."""
    known = {quantity.id: value for quantity, value in derivation.quantities}
    errors: dict[str, float] = {}
    everything = known | {step.id: value for step, value, _ in derivation.steps}
    assert len(everything) == len(derivation.quantities) + len(derivation.steps), "two have one id"
    for step, value, _ in derivation.steps:
        assert step.uses or step.expression, step.id
        if ordered:
            assert all(name in known for name in step.uses), (step.id, step.uses)
        used = [(everything[name], errors.get(name, 0.0)) for name in step.uses]
        found = evaluated(step.expression, used, dtype)
        if step.quantity == "share":  # it is computed by its formula, and the gradient by the graph
            errors[step.id] = found.error
        if math.isnan(value):
            assert not math.isfinite(found.value), (step.id, step.expression, found.value)
            known[step.id] = value
            continue
        bound = SAFETY * found.error + (1e-300 if dtype == "float64" else 1e-44)
        assert abs(value - found.value) <= bound, (step.id, step.expression, value, found.value, bound)
        known[step.id] = value
    return len(derivation.steps)
