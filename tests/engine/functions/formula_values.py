"""The values of formulas and expressions, in plain float64 at several points or with 50 digits at one."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import mpmath
import numpy as np

from service.engine.functions.expression import Expression
from tests.engine.functions.latex_reader import Tree

Table = Mapping[str, Callable[..., Any]]
_erf, _erfc = np.vectorize(math.erf, otypes=[float]), np.vectorize(math.erfc, otypes=[float])

FLOATS: Table = {
    "number": float,
    "add": np.add,
    "subtract": np.subtract,
    "multiply": np.multiply,
    "divide": np.divide,
    "negate": np.negative,
    "power": np.float_power,
    "pow": np.float_power,
    **{name: getattr(np, name) for name in ("exp", "expm1", "log", "log1p", "log2", "log10", "sqrt", "cbrt")},
    **{name: getattr(np, name) for name in ("sin", "cos", "tan", "sinh", "cosh", "tanh", "sign", "floor", "ceil")},
    **{f"a{name}": getattr(np, f"arc{name}") for name in ("sin", "cos", "tan", "sinh", "cosh", "tanh", "tan2")},
    "sigmoid": lambda a: np.exp(-np.logaddexp(0.0, -a)),
    "relu": lambda a: np.maximum(a, 0.0),
    "softplus": lambda a: np.logaddexp(0.0, a),
    "erf": _erf,
    "erfc": _erfc,
    "gaussian": lambda a: np.exp(-np.square(a)),
    "step": lambda a: np.greater_equal(a, 0.0) * 1.0,
    "abs": np.abs,
    "round": np.rint,
    "min": np.minimum,
    "max": np.maximum,
    "mod": np.mod,
    "hypot": np.hypot,
    "greater": lambda a, b: np.greater(a, b) * 1.0,
    "greater_equal": lambda a, b: np.greater_equal(a, b) * 1.0,
    "less": lambda a, b: np.less(a, b) * 1.0,
    "less_equal": lambda a, b: np.less_equal(a, b) * 1.0,
    "where": lambda a, b, c: np.where(np.isnan(a), a, np.where(np.not_equal(a, 0.0), b, c)),
}
"""In arrays or numbers of 64 bits; not a number where there is no real value."""


class Undecidable(Exception):
    """A number on the way is too large or too small to be written out."""


def _real(function: Callable[..., Any]) -> Callable[..., Any]:
    def real(*arguments: Any) -> Any:
        try:
            value = function(*arguments)
        except (ZeroDivisionError, ValueError):
            return mpmath.nan
        return value if isinstance(value, mpmath.mpf) and mpmath.isfinite(value) else mpmath.nan

    return real


def _bounded(function: Callable[..., Any]) -> Callable[..., Any]:
    """Bound the argument of a function that grows as the exponential does."""
    real = _real(function)

    def bounded(a: Any) -> Any:
        if abs(a) > 10**7:
            raise Undecidable
        return real(a)

    return bounded


def _power(a: Any, b: Any) -> Any:
    if a == 0 and b != 0:
        return mpmath.mpf(0) if b > 0 else mpmath.nan
    if a != 0 and abs(b * mpmath.log(abs(a))) > 10**7:
        raise Undecidable
    return mpmath.power(a, b)


def _round(a: Any) -> Any:
    below = mpmath.floor(a)
    rest = a - below
    up = rest > 0.5 or (rest == 0.5 and below % 2 == 1)
    return below + (1 if up else 0)


DIGITS: Table = {
    "number": mpmath.mpf,
    "add": lambda a, b: a + b,
    "subtract": lambda a, b: a - b,
    "multiply": lambda a, b: a * b,
    "divide": _real(lambda a, b: a / b),
    "negate": lambda a: -a,
    "power": _real(_power),
    "pow": _real(_power),
    **{name: _bounded(getattr(mpmath, name)) for name in ("exp", "expm1", "sinh", "cosh", "tanh", "erf", "erfc")},
    **{name: _real(getattr(mpmath, name)) for name in ("log", "log1p", "sqrt", "log10")},
    "log2": _real(lambda a: mpmath.log(a) / mpmath.log(2)),
    "cbrt": lambda a: mpmath.sign(a) * mpmath.cbrt(abs(a)),
    **{name: _bounded(getattr(mpmath, name)) for name in ("sin", "cos", "tan")},
    "sign": mpmath.sign,
    **{name: _real(getattr(mpmath, name)) for name in ("floor", "ceil", "asin", "acos", "atan", "asinh", "acosh")},
    "atanh": _real(mpmath.atanh),
    "atan2": _real(mpmath.atan2),
    "sigmoid": _bounded(lambda a: 1 / (1 + mpmath.exp(-a))),
    "relu": lambda a: max(a, mpmath.mpf(0)),
    "softplus": _bounded(lambda a: mpmath.log1p(mpmath.exp(a))),
    "gaussian": _bounded(lambda a: mpmath.exp(-a * a)),
    "step": lambda a: mpmath.mpf(a >= 0),
    "abs": abs,
    "round": _round,
    "min": min,
    "max": max,
    "mod": _real(lambda a, b: a - b * mpmath.floor(a / b)),
    "hypot": _real(mpmath.hypot),
    "greater": lambda a, b: mpmath.mpf(a > b),
    "greater_equal": lambda a, b: mpmath.mpf(a >= b),
    "less": lambda a, b: mpmath.mpf(a < b),
    "less_equal": lambda a, b: mpmath.mpf(a <= b),
    "where": lambda a, b, c: a if mpmath.isnan(a) else b if a else c,
}
"""In mpmath's numbers; not a number where there is no real value."""


def tree_of(expression: Expression) -> Tree:
    """Return a parsed expression as a tree of the LaTeX reader; its symbols are the names."""
    trees: list[Tree] = []
    for step in expression.steps:
        if step.word in ("number", "variable"):
            trees.append(("number" if step.word == "number" else "symbol", step.text))
        elif not step.operands:
            trees.append(("symbol", step.word))
        else:
            trees.append((step.word, *[trees[place] for place in step.operands]))
    return trees[-1]


def value_of(tree: Tree, table: Table, symbols: Mapping[str, Any]) -> Any:
    """Compute a formula with these values of its symbols. A symbol without a value raises KeyError."""
    word, *arguments = tree
    if word == "symbol":
        return symbols[arguments[0]]  # type: ignore[index]
    if word == "number":
        return table["number"](arguments[0])
    return table[word](*[value_of(argument, table, symbols) for argument in arguments])  # type: ignore[arg-type, index]
