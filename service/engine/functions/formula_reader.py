"""Reads the nodes of a graph of scalars as formulas of `Algebra`, so that derivatives in the graph can be printed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from functools import lru_cache

from service.engine.functions.algebra import Exponent, NoFormula, Sum
from service.engine.functions.choices import choice
from service.engine.functions.printing import HALF, Rational
from service.engine.functions.simplify import Tidier
from service.engine.graph.ir import Node

SMALL = 1_000
"""A float counts as the fraction that rounds to it, where that fraction has a denominator up to this one."""

Leaf = str | Fraction
"""A symbol, such as x, pi or e, or an exact number."""

TRANSPARENT = frozenset(("with_slope", "mark", "stop_gradient", "broadcast", "reshape"))
RENAMED = {"absolute": "abs", "maximum": "max", "minimum": "min"}


def _one_minus(algebra: Tidier, x: Sum) -> Sum:
    return algebra.total([(algebra.number(1), 1), (x, -1)])


def _read_logistic_slope(algebra: Tidier, x: Sum) -> Sum:
    value = algebra.call("sigmoid", (x,))
    return algebra.multiply(value, _one_minus(algebra, value))


READERS: dict[str, Callable[..., Sum]] = {
    "add": lambda algebra, a, b: algebra.total([(a, 1), (b, 1)]),
    "subtract": lambda algebra, a, b: algebra.total([(a, 1), (b, -1)]),
    "multiply": Tidier.multiply,
    # Denominators and radicands are not multiplied out later, so (1 - x)(1 + x) becomes 1 - x² here.
    "divide": lambda algebra, a, b: algebra.multiply(a, algebra.product(1, [(algebra.neat(b), -1)])),
    "negate": lambda algebra, x: algebra.total([(x, -1)]),
    "square": lambda algebra, x: algebra.product(1, [(x, 2)]),
    "sqrt": lambda algebra, x: algebra.product(1, [(algebra.neat(x), HALF)]),
    "hypot": lambda algebra, a, b: algebra.product(
        1, [(algebra.total([(algebra.product(1, [(x, 2)]), 1) for x in (a, b)]), HALF)]
    ),
    "power": lambda algebra, a, b: algebra.power(algebra.neat(a), b),
    "exp": lambda algebra, x: algebra.power(algebra.symbol("e"), x),
    "expm1": lambda algebra, x: algebra.total([(algebra.power(algebra.symbol("e"), x), 1), (algebra.number(1), -1)]),
    "log1p": lambda algebra, x: algebra.log1p(x),
    "xlogy": lambda algebra, a, b: algebra.multiply(a, algebra.call("log", (b,))),
    "gaussian": lambda algebra, x: algebra.power(algebra.symbol("e"), algebra.product(-1, [(x, 2)])),
    "tanh_slope": lambda algebra, x: _one_minus(algebra, algebra.product(1, [(algebra.call("tanh", (x,)), 2)])),
    "logistic_slope": _read_logistic_slope,
    "gate": lambda algebra, mask, x: x,  # the factors of x show the branch as well
    "where": choice,
    # In text, a comparison that is no condition is a step of the difference.
    "greater": lambda algebra, a, b: algebra.call("greater", (a, b, algebra.total([(b, 1), (a, -1)]))),
    "greater_equal": lambda algebra, a, b: algebra.call("greater_equal", (a, b, algebra.total([(a, 1), (b, -1)]))),
}
UNITS = (("pi", -HALF, math.pi**-0.5), ("2", 1, math.log(2.0)), ("10", 1, math.log(10.0)))
"""Powers of constants in derivatives of words, with their values; a number stands for its logarithm."""


@lru_cache(maxsize=1024)
def recognised(value: float) -> tuple[Rational, str, Exponent]:
    """Return a float as a fraction times a power of a constant, to print it: 1.128… is 2 times pi to the -1/2."""
    if not math.isfinite(value):
        raise NoFormula
    fraction = Fraction(value).limit_denominator(SMALL)
    if float(fraction) == value:
        return fraction, "", 0
    for name, exponent, unit in UNITS:
        fraction = Fraction(value / unit).limit_denominator(SMALL // 10)
        if fraction and math.isclose(float(fraction) * unit, value, rel_tol=1e-15):
            return fraction, name, exponent
    return Fraction(repr(value)), "", 0


def read(algebra: Tidier, node: Node, inputs: Sequence[Sum], leaves: Mapping[Node, Leaf]) -> Sum:
    """Return the formula of a node, given the formulas of its inputs and the symbols or numbers of leaves."""
    leaf = leaves.get(node)
    if leaf is not None:
        return algebra.symbol(leaf) if isinstance(leaf, str) else algebra.number(leaf)
    if node.value is not None:
        fraction, constant, exponent = recognised(node.value)
        if not constant:
            return algebra.number(fraction)
        base = algebra.symbol(constant) if constant == "pi" else algebra.call("log", (algebra.number(int(constant)),))
        return algebra.product(fraction, [(base, exponent)])
    if not inputs:
        raise NoFormula
    name = node.operation.name
    if name in TRANSPARENT:
        return inputs[0]
    if name == "sign" and node.index > algebra.typed:
        name = "slope"
    reader = READERS.get(name)
    return algebra.call(RENAMED.get(name, name), tuple(inputs)) if reader is None else reader(algebra, *inputs)
