"""Softmax and its logarithm over the last axis, with all digits also where a probability is nearly 0 or 1.

Each is computed by ordinary operations, and a view then declares its derivative as a whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np

from service.engine.arrays import Array
from service.engine.graph.ir import Attributes, Call, GraphTypeError, Node, Shape
from service.engine.graph.operations.elementwise import batch_elementwise
from service.engine.graph.operations.powers import exp, log1p
from service.engine.graph.operations.rows import (
    batch_rows,
    declare,
    declare_view,
    disconnected,
    infer_same_dtype,
    scalar,
    sum_rows,
)
from service.engine.graph.operations.shapes import broadcast, reshape, sum_over

__all__ = ["balanced", "log_softmax", "logsumexp", "row_excess", "softmax"]

# Where 1 is taken off a sum of exponentials, or a share off 1, at most two bits are lost from here on.
SAFE_TOTAL = 1.25
SAFE_SHARE = 0.5


def _spread_rows(x: Node, shape: Shape) -> Node:
    """Return x, one value per row, repeated along the last axis of `shape`."""
    return broadcast(reshape(x, (*x.shape, 1)), shape)


def _infer_rows(inputs: Sequence[Node], _: Attributes) -> tuple[Shape, str]:
    value, x = inputs
    if value.shape != x.shape[:-1]:
        raise GraphTypeError(f"needs a value for each row of {x.shape}, got {value.shape}")
    return value.shape, infer_same_dtype(inputs)


def _infer_softmax(inputs: Sequence[Node], _: Attributes) -> tuple[Shape, str]:
    value, x = inputs
    if value.shape != x.shape:
        raise GraphTypeError(f"needs two of one shape, got {x.shape} and {value.shape}")
    return value.shape, infer_same_dtype(inputs)


def _shifted_exponentials(x: Node) -> tuple[Node, Node]:
    """Return exp(x - m) and m, the largest value of each row. Nothing overflows."""
    largest = x.graph.apply("row_maximum", x)
    return exp(x - _spread_rows(largest, x.shape)), largest


def _infer_row_maximum(inputs: Sequence[Node], _: Attributes) -> tuple[Shape, str]:
    if not inputs[0].shape:
        raise GraphTypeError("needs at least one axis")
    return inputs[0].shape[:-1], infer_same_dtype(inputs)


def _continue_row_maximum(inputs: Sequence[Array], _: Attributes) -> Any:
    (x,) = inputs
    return np.take_along_axis(x, x.real.argmax(-1)[..., None], -1)[..., 0]


declare(
    "row_maximum",
    infer=_infer_row_maximum,
    bind=lambda out, inputs, *_: (partial(np.maximum.reduce, inputs[0], -1, None, out),),
    pullbacks=(disconnected,),  # softmax and logsumexp do not depend on this shift
    batch=batch_rows,
    latex=r"\max_i x_i",
    numpy="np.max(a, axis=-1)",
    continuation=_continue_row_maximum,
)


def row_excess(x: Node) -> Node:
    """Return the sum over the last axis minus 1, with all digits also where one entry is 1 and the others are tiny."""
    return x.graph.apply("row_excess", sum_over(x, [-1]), x)


def _bind_row_excess(out: Array, inputs: Sequence[Array], _: Attributes, scratch: Sequence[Array]) -> Iterable[Call]:
    (total, x), (parts, count) = inputs, scratch
    one = scalar(1.0, x.dtype.str)
    count_ones, add_rest = sum_rows(parts, count), sum_rows(parts, out)

    def add_up() -> None:
        # Most sums are so large that subtracting 1 loses nothing. One call finds that out, instead of five.
        if abs(total.item(total.argmin())) >= SAFE_TOTAL:
            np.subtract(total, one, out)
            return
        # Whole numbers and fractions are added separately: in a sum above 1, fractions would lose digits.
        np.rint(x, parts)
        count_ones()
        np.subtract(x, parts, parts)
        add_rest()
        np.subtract(count, one, count)
        np.add(out, count, out)

    return (add_up,)


def _continue_row_excess(inputs: Sequence[Array], _: Attributes) -> Any:
    _total, x = inputs
    whole = np.rint(x.real)
    return (x - whole).sum(-1) + (whole.sum(-1) - 1.0)


declare(
    "row_excess",
    infer=_infer_rows,
    bind=_bind_row_excess,
    pullbacks=(disconnected, lambda g, y, total, x: _spread_rows(g, x.shape)),
    batch=batch_rows,
    latex=r"\sum_i x_i - 1",
    scratch=lambda node: (node.inputs[1].shape, node.shape),
    work=4,
    numpy="np.sum(b - np.rint(b), axis=-1) + (np.sum(np.rint(b), axis=-1) - 1)",
    continuation=_continue_row_excess,
)


def balanced(x: Node, shares: Node) -> Node:
    """Return x less what rounding left of the sum of each row, taken off in the given shares.

    The rows of x sum to 0 but for rounding; the shares of a row sum to 1. Rounding loses digits only where a share is
    nearly 1, and only then anything is done.
    """
    return x.graph.apply("balanced", x, shares)


def _infer_equal_rows(inputs: Sequence[Node], _: Attributes) -> tuple[Shape, str]:
    x, shares = inputs
    if not x.shape or shares.shape != x.shape:
        raise GraphTypeError(f"needs two of one shape with an axis at least, got {x.shape} and {shares.shape}")
    return x.shape, infer_same_dtype(inputs)


def _bind_balanced(out: Array, inputs: Sequence[Array], _: Attributes, scratch: Sequence[Array]) -> Iterable[Call]:
    (x, shares), (product, total) = inputs, scratch
    spread, add_up = total.reshape(*total.shape, 1), sum_rows(x, total)

    def balance() -> None:
        if abs(shares.item(shares.argmax())) > SAFE_SHARE:
            add_up()
            np.multiply(shares, spread, product)
            np.subtract(x, product, out)
        elif out is not x:
            np.copyto(out, x)

    return (balance,)


def _continue_balanced(inputs: Sequence[Array], _: Attributes) -> Any:
    x, shares = inputs
    return x - shares * x.sum(-1, keepdims=True)


declare(
    "balanced",
    infer=_infer_equal_rows,
    bind=_bind_balanced,
    pullbacks=(lambda g, y, x, shares: g, disconnected),  # the subtracted part is 0 but for rounding
    batch=batch_elementwise,
    latex="x",
    in_place=True,
    scratch=lambda node: (node.shape, node.shape[:-1]),
    work=2,
    numpy="a - b * np.sum(a, axis=-1, keepdims=True)",
    continuation=_continue_balanced,
)


def softmax(x: Node) -> Node:
    """Return exp(x) divided by its sum over the last axis. It shares its exponentials with `logsumexp`."""
    exponentials, _ = _shifted_exponentials(x)
    total = sum_over(exponentials, [-1])
    return x.graph.apply("softmax", exponentials / _spread_rows(total, x.shape), x)


def _pull_softmax(g: Node, y: Node, value: Node, x: Node) -> Node:
    # The result sums to 0. What rounding leaves of its sum was lost where a share is nearly 1, as in p (1 - p).
    mean = sum_over(g * y, [-1])
    return balanced(y * (g - _spread_rows(mean, y.shape)), y)


declare_view(
    "softmax",
    infer=_infer_softmax,
    pullbacks=(disconnected, _pull_softmax),
    batch=batch_rows,
    latex=r"\frac{e^{x_i}}{\sum_j e^{x_j}}",
    keeps_order=True,
)


def log_softmax(x: Node) -> Node:
    """Return ln softmax(x). The largest value of a row is subtracted first: x - logsumexp(x) rounds at its size."""
    exponentials, largest = _shifted_exponentials(x)
    shifted = x - _spread_rows(largest, x.shape)
    rest = log1p(row_excess(exponentials))
    return x.graph.apply("log_softmax", shifted - _spread_rows(rest, x.shape), x)


def _pull_log_softmax(g: Node, y: Node, value: Node, x: Node) -> Node:
    # As for softmax: p - 1 has lost digits where p is nearly 1.
    p = softmax(x)
    return balanced(g - p * _spread_rows(sum_over(g, [-1]), x.shape), p)


declare_view(
    "log_softmax",
    infer=_infer_softmax,
    pullbacks=(disconnected, _pull_log_softmax),
    batch=batch_rows,
    latex=r"x_i - \ln \sum_j e^{x_j}",
    keeps_order=True,
)


def logsumexp(x: Node) -> Node:
    """Return ln of the sum of exp(x) over the last axis, which disappears."""
    exponentials, largest = _shifted_exponentials(x)
    return x.graph.apply("logsumexp", log1p(row_excess(exponentials)) + largest, x)


declare_view(
    "logsumexp",
    infer=_infer_rows,
    pullbacks=(disconnected, lambda g, y, value, x: _spread_rows(g, x.shape) * softmax(x)),
    batch=batch_rows,
    latex=r"\ln \sum_j e^{x_j}",
    keeps_order=True,
)
