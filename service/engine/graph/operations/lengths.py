"""Products and lengths that may overflow or vanish on the way, while inputs and answer do not."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np

from service.engine.arrays import Array
from service.engine.graph.ir import Attributes, Call, GraphTypeError, Node, Shape
from service.engine.graph.operations.arithmetic import square
from service.engine.graph.operations.comparisons import maximum
from service.engine.graph.operations.elementwise import Binary, binary
from service.engine.graph.operations.rows import declare, disconnected, infer_same_dtype
from service.engine.graph.operations.shapes import broadcast, mean_over, reshape

__all__ = ["root_mean_square", "weighted"]


def _bind_weighted(out: Array, inputs: Sequence[Array], *_: Any) -> Iterable[Call]:
    weight, x = inputs
    flat = out.reshape(-1)

    def mend() -> None:
        # One product finds out whether there is 0 times infinity, which is rare. Only NaN differs from itself.
        length = flat.dot(flat)
        if length != length:
            np.copyto(out, 0.0, where=weight == 0.0)

    return (partial(np.multiply, weight, x, out), mend)


weighted: Binary = binary(
    "weighted",
    np.multiply,
    lambda g, y, a, b: weighted(g, b),
    lambda g, y, a, b: g * a,
    r"a\,b",
    bind=_bind_weighted,
    in_place=False,
    work=2.0,
    numpy="np.where(a == 0, 0, a * b)",
    continuation=lambda weight, x: np.where(weight == 0.0, 0.0, weight * x),
)
"""weight · x, and 0 wherever the weight is 0, even of an infinite x."""


def root_mean_square(x: Node, axes: Sequence[int], epsilon: float = 0.0) -> Node:
    """Return √(mean(x²) + epsilon) over some axes, which disappear, right for every x. The derivative at 0 is 0.
    Lengths are made of it: a length may be too large for a float, a root mean square is not."""
    chosen = tuple(sorted(axis % len(x.shape) for axis in axes))
    squares = mean_over(square(x), chosen)
    return x.graph.apply("root_mean_square", squares, x, attributes=(chosen, float(x.size // squares.size), epsilon))


def _infer(inputs: Sequence[Node], attributes: Attributes) -> tuple[Shape, str]:
    (squares, x), (axes, _count, _epsilon) = inputs, attributes
    shape = tuple(n for axis, n in enumerate(x.shape) if axis not in axes)
    if squares.shape != shape:
        raise GraphTypeError(f"needs the squares of {x.shape} averaged over {axes}, got {squares.shape}")
    return shape, infer_same_dtype(inputs)


def _bind(out: Array, inputs: Sequence[Array], attributes: Attributes, _: Sequence[Array]) -> Iterable[Call]:
    (squares, x), (axes, count, epsilon) = inputs, attributes
    limits = np.finfo(out.dtype)
    # Below this a sum of squares has lost digits to underflow.
    least, most = float(limits.tiny / limits.eps), float(limits.max)
    added, flat = np.array(epsilon, out.dtype), out.reshape(-1)

    def root() -> None:
        np.add(squares, added, out)
        # One product finds what is infinite, or may be; NaN compares as false.
        if math.isfinite(flat.dot(flat)) and (epsilon >= least or np.minimum.reduce(flat) >= least):
            np.sqrt(out, out)
            return
        unsafe = ~((out >= least) & (out <= most))
        np.sqrt(out, out)
        if unsafe.any():
            np.copyto(out, _careful_root(x, axes, count, added), where=unsafe)

    return (root,)


def _careful_root(x: Array, axes: tuple[int, ...], count: float, epsilon: Array) -> Array:
    """Return the root mean square of large or small numbers, each vector divided by a power of two first. The power is
    near the vector's largest entry, so dividing by it is exact."""
    largest = np.abs(x).max(axes, keepdims=True)
    ordinary = np.isfinite(largest) & (largest > 0.0)
    _, exponent = np.frexp(np.where(ordinary, largest, 1.0))
    scaled = np.ldexp(np.where(ordinary, x, largest), 1 - exponent)
    squares: Array = (scaled * scaled).sum(axes) / x.dtype.type(count)
    root: Array = np.hypot(np.ldexp(np.sqrt(squares), exponent.reshape(squares.shape) - 1), np.sqrt(epsilon))
    return root


def _pull(g: Node, y: Node, squares: Node, x: Node) -> Node:
    axes, count, epsilon = y.attributes
    # Where the root is 0, x is 0 too: divided by the smallest number, it gives the derivative 0.
    root = y if epsilon > 0.0 else maximum(y, float(np.finfo(x.dtype).smallest_subnormal))
    kept = tuple(1 if axis in axes else n for axis, n in enumerate(x.shape))
    # Normalisation layers compute the same quotient: the node is shared with them.
    return broadcast(reshape(g / count, kept), x.shape) * (x / broadcast(reshape(root, kept), x.shape))


def _batch(node: Node, inputs: Sequence[Node], is_batched: Sequence[bool], size: int) -> Node:
    axes, count, epsilon = node.attributes
    squares, x = (
        each if batched else broadcast(each, (size, *each.shape))
        for each, batched in zip(inputs, is_batched, strict=True)
    )
    moved = tuple(axis + 1 for axis in axes)
    return node.graph.apply("root_mean_square", squares, x, attributes=(moved, count, epsilon))


def _continue_root_mean_square(inputs: Sequence[Array], attributes: Attributes) -> Any:
    (_squares, x), (axes, count, epsilon) = inputs, attributes
    size = np.abs(x.real).max(axes, keepdims=True)
    size = np.where(size > 0.0, size, 1.0)
    squares = ((x / size) ** 2).sum(axes) / count
    size = size.reshape(squares.shape)
    return size * np.sqrt(squares + epsilon / size / size + 0j)


def _branch_zero_length(inputs: Sequence[Array], attributes: Attributes) -> Any:
    """Return the branch of a length: 0 at the length 0, where there is a kink, else 1."""
    (squares, _x), (_axes, _count, epsilon) = inputs, attributes
    return np.sign(squares) if epsilon == 0.0 else np.ones_like(squares)


declare(
    "root_mean_square",
    infer=_infer,
    bind=_bind,
    pullbacks=(disconnected, _pull),
    batch=_batch,
    latex=r"\sqrt{\tfrac1n \sum x^2 + \epsilon}",
    work=4.0,
    numpy="np.sqrt(a + epsilon)",
    attribute_names=("axes", "count", "epsilon"),
    branch=_branch_zero_length,
    continuation=_continue_root_mean_square,
)
