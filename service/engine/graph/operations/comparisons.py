"""Comparisons and choices: signs, maximum and minimum, gates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import numpy as np

from service.engine.arrays import Array
from service.engine.graph.ir import Graph, Node, NoGradient
from service.engine.graph.operations.elementwise import (
    Binary,
    Unary,
    batch_elementwise,
    binary,
    call_with_out,
    continued_as_constant,
    infer_elementwise,
    unary,
)
from service.engine.graph.operations.rows import declare_view, disconnected, zero
from service.engine.graph.operations.shapes import broadcast

__all__ = [
    "absolute",
    "clip",
    "extreme",
    "gate",
    "greater",
    "greater_equal",
    "less",
    "less_equal",
    "maximum",
    "minimum",
    "sign",
]


absolute = unary(
    "absolute",
    np.absolute,
    lambda g, y, x: g * sign(x),
    "|x|",
    branch=np.sign,
    continuation=lambda x: x * np.sign(x.real),
)
sign: Unary = unary(
    "sign", np.sign, zero, r"\operatorname{sgn} x", branch=np.sign, continuation=continued_as_constant(np.sign)
)


def _branch_larger(a: Array, b: Array) -> Any:
    """Return the branch of each element: 1 where a is larger, -1 where b is, 0 where they are equal."""
    return np.greater(a, b) * 1.0 - np.less(a, b)


greater = binary(
    "greater",
    np.greater,
    zero,
    zero,
    "[a > b]",
    in_place=False,
    branch=_branch_larger,
    continuation=continued_as_constant(np.greater),
)
greater_equal = binary(
    "greater_equal",
    np.greater_equal,
    zero,
    zero,
    r"[a \ge b]",
    in_place=False,
    branch=_branch_larger,
    continuation=continued_as_constant(np.greater_equal),
)


def less(a: Node, b: float) -> Node:
    """Return 1 where a < b, else 0."""
    return a.graph.apply("greater", b, a)


def less_equal(a: Node, b: float) -> Node:
    """Return 1 where a ≤ b, else 0."""
    return a.graph.apply("greater_equal", b, a)


def _tie_share(a: Node, b: Node) -> Node:
    """Return 1 where a > b, ½ where they are equal, and 0 elsewhere: the derivative of max(a, b) by a."""
    return 0.5 * sign(a - b) + 0.5


maximum = binary(
    "maximum",
    np.maximum,
    lambda g, y, a, b: g * _tie_share(a, b),
    lambda g, y, a, b: g * _tie_share(b, a),
    r"\max(a, b)",
    bind=call_with_out(np.maximum),
    selects=lambda position, y: greater_equal(y.inputs[position], y.inputs[1 - position]),
    branch=_branch_larger,
    continuation=lambda a, b: np.where(a.real == b.real, 0.5 * (a + b), np.where(a.real > b.real, a, b)),
)


minimum = binary(
    "minimum",
    np.minimum,
    lambda g, y, a, b: g * _tie_share(b, a),
    lambda g, y, a, b: g * _tie_share(a, b),
    r"\min(a, b)",
    bind=call_with_out(np.minimum),
    selects=lambda position, y: greater_equal(y.inputs[1 - position], y.inputs[position]),
    branch=_branch_larger,
    continuation=lambda a, b: np.where(a.real == b.real, 0.5 * (a + b), np.where(a.real < b.real, a, b)),
)


def clip(x: Node, low: float, high: float) -> Node:
    """Return x limited to [low, high]."""
    return minimum(maximum(x, low), high)


def extreme(name: str, inputs: Sequence[Node]) -> Node:
    """Return the elementwise `maximum` or `minimum` of inputs of one shape. Equal inputs share the gradient."""
    value = reduce(lambda a, b: a.graph.apply(name, a, b), inputs)
    # Two inputs share evenly by the pullback of the operation itself; of more, pairs would share by halves.
    return value if len(inputs) < 3 else value.graph.apply("extreme", value, *inputs, attributes=(name,))


def _pull_extreme(position: int) -> Callable[..., Node | NoGradient]:
    def rule(g: Node, y: Node, value: Node, *inputs: Node) -> Node | NoGradient:
        if not position:
            return NoGradient.DISCONNECTED
        # No input lies beyond the extreme, so what reaches it is equal to it.
        is_maximum = y.attributes == ("maximum",)
        hits = [greater_equal(x, value) if is_maximum else greater_equal(value, x) for x in inputs]
        return g * (hits[position - 1] / reduce(lambda total, hit: total + hit, hits))

    return rule


declare_view(
    "extreme",
    infer=infer_elementwise,
    pullbacks=_pull_extreme,
    batch=batch_elementwise,
    latex=r"\max_i x_i",
    keeps_order=True,
    attribute_names=("name",),
)


def _gate_kernel(mask: Array, x: Array, out: Array) -> None:
    closed = np.equal(mask, 0.0)
    np.copyto(out, x)
    np.copyto(out, 0.0, where=closed)


def _gate_algebra(graph: Graph, mask: Node, x: Node) -> Node | None:
    if mask.value is None:
        return None
    return x if mask.value else broadcast(graph.constant(0.0), x.shape)


gate: Binary = binary(
    "gate",
    _gate_kernel,
    disconnected,
    lambda g, y, mask, x: gate(mask, g),
    "x",
    algebra=_gate_algebra,
    selects=lambda position, y: y.inputs[0],
    numpy="np.where(a == 0, 0, b)",
    continuation=lambda mask, x: np.where(mask.real == 0.0, 0.0, x),
)
"""x where the mask is not 0, and exactly 0 elsewhere, also of what is infinite or no number."""
