"""Arithmetic: sums, products and quotients. `Node` builds the nodes of its operators."""

from __future__ import annotations

import math

import numpy as np

from service.engine.graph.ir import Attributes, Graph, Node
from service.engine.graph.operations.elementwise import declare_elementwise, through_broadcasts, unary
from service.engine.graph.operations.signs import may_vanish

__all__ = ["square"]

SMALLEST_NORMAL = float(np.finfo(np.float64).tiny)


def _add_algebra(graph: Graph, a: Node, b: Node) -> Node | None:
    x, y = a.value, b.value
    if x is not None and y is not None:
        return graph.constant(x + y)
    if x == 0.0:
        return b
    if y == 0.0:
        return a
    if b.operation.name == "negate":
        return a - b.inputs[0]
    return None


declare_elementwise("add", np.add, (lambda g, y, a, b: g, lambda g, y, a, b: g), "a + b", algebra=_add_algebra)


def _subtract_algebra(graph: Graph, a: Node, b: Node) -> Node | None:
    x, y = a.value, b.value
    if x is not None and y is not None:
        return graph.constant(x - y)
    if x == 0.0:
        return -b
    if y == 0.0:
        return a
    if b.operation.name == "negate":
        return a + b.inputs[0]
    return None


declare_elementwise(
    "subtract", np.subtract, (lambda g, y, a, b: g, lambda g, y, a, b: -g), "a - b", algebra=_subtract_algebra
)


def _holds(x: float, y: float) -> bool:
    """Return whether the product of two constants may replace them: it must not overflow, nor vanish by underflow."""
    product = x * y
    return math.isfinite(product) and (abs(product) >= SMALLEST_NORMAL or 0.0 in (x, y))


def _multiply_algebra(graph: Graph, a: Node, b: Node) -> Node | None:
    x, y = a.value, b.value
    if x is not None and y is not None:
        return graph.constant(x * y) if _holds(x, y) else None
    if x is None and y is not None:
        return b * a  # the constant first, so that chains of constants meet
    if x == 1.0:
        return b
    if x == -1.0:
        return -b
    inner = b.inputs[0].value if b.operation.name == "multiply" else None
    if x is not None and inner is not None and _holds(x, inner):
        return (a * b.inputs[0]) * b.inputs[1]
    if x is not None and b.operation.name == "negate":
        return (-a) * b.inputs[0]
    return None


declare_elementwise(
    "multiply", np.multiply, (lambda g, y, a, b: g * b, lambda g, y, a, b: g * a), r"a\,b", algebra=_multiply_algebra
)


def _divide_algebra(graph: Graph, a: Node, b: Node) -> Node | None:
    x, y = a.value, b.value
    if x is not None and y is not None and y != 0.0:
        return graph.constant(x / y)
    if y == 1.0:
        return a
    return a.inputs[0] / -y if y is not None and a.operation.name == "negate" else None


declare_elementwise(
    "divide",
    np.divide,
    (lambda g, y, a, b: g / b, lambda g, y, a, b: -(g * y) / b),
    r"\frac{a}{b}",
    algebra=_divide_algebra,
    singular=may_vanish(1),
    linear=(0,),
)


def _simplify_negate(graph: Graph, inputs: tuple[Node, ...], attributes: Attributes) -> Node | None:
    (x,) = inputs
    if x.value is not None:
        return graph.constant(-x.value)
    if x.operation.name == "negate":
        return x.inputs[0]
    if x.operation.name == "subtract":
        return x.inputs[1] - x.inputs[0]
    if x.operation.name == "multiply" and x.inputs[0].value is not None:
        return (-x.inputs[0]) * x.inputs[1]
    return through_broadcasts("negate", graph, inputs, attributes)


declare_elementwise("negate", np.negative, (lambda g, y, x: -g,), "-x", simplify=_simplify_negate)
square = unary("square", np.square, lambda g, y, x: g * (2.0 * x), "x^2")
