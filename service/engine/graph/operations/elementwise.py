"""Functions that declare elementwise operations in the table, and the rules that all of these share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np

from service.engine.arrays import Array
from service.engine.graph.ir import Attributes, Call, Graph, GraphTypeError, Node, Pullback, Shape
from service.engine.graph.operations.rows import declare, infer_same_dtype
from service.engine.graph.operations.shapes import broadcast, reshape, scalar_source

Unary = Callable[[Node], Node]
Binary = Callable[[Node, Node | float], Node]
Algebra = Callable[[Graph, Node, Node], Node | None]
"""A simplification of a binary operation: `(graph, a, b)` to a simpler node of the same value, or None."""


def declare_elementwise(
    name: str,
    ufunc: Callable[..., Any],
    pullbacks: tuple[Pullback, ...],
    latex: str,
    *,
    algebra: Algebra | None = None,
    bind: Callable[..., Iterable[Call]] | None = None,
    branch: Callable[..., Array] | None = None,
    continuation: Callable[..., Array] | None = None,
    **details: Any,
) -> None:
    """Add the row of an operation that computes each element from the elements at the same index.

    `ufunc` is the kernel unless `bind` is given, and gives the NumPy expression of the row. `algebra` simplifies.
    `branch` and `continuation` take the inputs alone. `details` are other fields of `Operation`.
    """
    declare(
        name,
        infer=infer_elementwise,
        bind=bind or _call(ufunc),
        pullbacks=pullbacks,
        batch=batch_elementwise,
        latex=latex,
        elementwise=True,
        branch=branch and (lambda inputs, attributes: branch(*inputs)),
        continuation=continuation and (lambda inputs, attributes: continuation(*inputs)),
        **{
            "numpy": f"np.{ufunc.__name__}({', '.join('ab'[: len(pullbacks)])})",
            "simplify": _simplify_with(name, algebra) if algebra else partial(through_broadcasts, name),
            "in_place": True,
            **details,
        },
    )


def unary(name: str, ufunc: Callable[..., Any], pullback: Pullback, latex: str, **details: Any) -> Unary:
    """Declare an elementwise operation with one input. Return the function that builds its nodes."""
    declare_elementwise(name, ufunc, (pullback,), latex, **details)

    def build(x: Node) -> Node:
        return x.graph.apply(name, x)

    build.__name__ = name
    return build


def binary(name: str, ufunc: Callable[..., Any], of_a: Pullback, of_b: Pullback, latex: str, **details: Any) -> Binary:
    """Declare an elementwise operation with a pullback for each of two inputs. Return the builder of its nodes."""
    declare_elementwise(name, ufunc, (of_a, of_b), latex, **details)

    def build(a: Node, b: Node | float) -> Node:
        return a.graph.apply(name, a, b)

    build.__name__ = name
    return build


def infer_elementwise(inputs: Sequence[Node], _: Attributes) -> tuple[Shape, str]:
    shape: Shape = ()
    for x in inputs:
        if x.shape != ():
            if shape not in ((), x.shape):
                raise GraphTypeError(f"needs equal shapes or scalars, got {[y.shape for y in inputs]}")
            shape = x.shape
    return shape, infer_same_dtype(inputs)


def _spread(x: Node, is_batched: bool, shape: Shape, size: int) -> Node:
    """Return one operand of a batched elementwise operation in the shape `(size,) + shape`, unless it is a scalar."""
    if not is_batched:
        return x if x.shape == () else broadcast(x, (size, *shape))
    if x.shape == (size,) and shape:
        return broadcast(reshape(x, (size, *[1] * len(shape))), (size, *shape))
    return x


def batch_elementwise(node: Node, inputs: Sequence[Node], is_batched: Sequence[bool], size: int) -> Node:
    # A batched scalar has the shape (size,), which may also be the shape of others: the rank before batching decides.
    spread = [
        _spread(x, batched, node.shape, size) if before.shape != node.shape or not batched else x
        for x, batched, before in zip(inputs, is_batched, node.inputs, strict=True)
    ]
    return node.graph.apply(node.operation.name, *spread, attributes=node.attributes)


def through_broadcasts(name: str, graph: Graph, inputs: tuple[Node, ...], attributes: Attributes) -> Node | None:
    """Return the operation on scalars in place of repeated scalars; None if no input repeats one. A ufunc takes a
    scalar at full speed, and constants fold."""
    for x in inputs:
        if x.operation.name == "broadcast" and x.inputs[0].shape == ():
            break
    else:
        return None
    sources = [scalar_source(x) for x in inputs]
    scalars = [source or x for source, x in zip(sources, inputs, strict=True)]
    if any(x.shape != () for x in scalars):
        return graph.apply(name, *scalars, attributes=attributes)
    shape = next(x.shape for x, source in zip(inputs, sources, strict=True) if source)
    return broadcast(graph.apply(name, *scalars, attributes=attributes), shape)


def _simplify_with(name: str, algebra: Algebra) -> Callable[[Graph, tuple[Node, ...], Attributes], Node | None]:
    return lambda graph, inputs, attributes: (
        algebra(graph, *inputs) or through_broadcasts(name, graph, inputs, attributes)
    )


def _call(ufunc: Callable[..., Any]) -> Callable[..., Iterable[Call]]:
    """Return the kernel that is one call of a NumPy function. Passing `out` by position is the faster way."""
    return lambda out, inputs, *_: (partial(ufunc, *map(_narrow, inputs), out),)


def _narrow(x: Array) -> Array:
    # One number that is repeated, such as the bias of a single unit, takes half the time as a scalar.
    if x.size and 0 in x.strides and all(not step or n == 1 for n, step in zip(x.shape, x.strides, strict=True)):
        return x[(0,) * x.ndim + (...,)]
    return x


def call_with_out(ufunc: Callable[..., Any]) -> Callable[..., Iterable[Call]]:
    """Return a kernel as `_call` does, for np.maximum and np.minimum, which deprecate a positional `out`."""
    return lambda out, inputs, *_: (partial(ufunc, *inputs, out=out),)


def continued_as_constant(function: Callable[..., Any]) -> Callable[..., Array]:
    """Return the continuation of a function that is constant between jumps: its value at the real parts."""
    return lambda *inputs: np.asarray(function(*[x.real for x in inputs]), np.float64)
