"""How a row of an elementwise operation is written, and the rules that all of them share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np

from service.engine.arrays import Array
from service.engine.graph.ir import (
    Attributes,
    Branch,
    Call,
    Continuation,
    Graph,
    GraphTypeError,
    Node,
    NoGradient,
    Selection,
    Shape,
)
from service.engine.graph.operations.shapes import broadcast, reshape, scalar_source
from service.engine.graph.operations.table import declare, infer_same_dtype

Unary = Callable[[Node], Node]
Binary = Callable[[Node, Node | float], Node]
Pullback = Callable[..., Node | NoGradient]
Algebra = Callable[[Graph, Node, Node], Node | None]
"""A simplification of a binary operation: `(graph, a, b)` to a simpler node of the same value, or None."""


def declare_elementwise(
    name: str,
    ufunc: Callable[..., Any],
    pullbacks: tuple[Pullback, ...],
    latex: str,
    *,
    algebra: Algebra | None = None,
    simplify: Callable[[Graph, tuple[Node, ...], Attributes], Node | None] | None = None,
    bind: Callable[..., Iterable[Call]] | None = None,
    in_place: bool = True,
    scratch: Callable[[Node], tuple[Shape, ...]] | None = None,
    selects: Selection | None = None,
    singular: Callable[[Node], bool] | None = None,
    linear: tuple[int, ...] = (),
    work: float = 1.0,
    numpy: str = "",
    attribute_names: tuple[str, ...] = (),
    branch: Branch | None = None,
    continuation: Continuation | None = None,
) -> None:
    """A row that computes each element from the elements at its place. `numpy` is the ufunc itself by default."""
    if simplify is None:
        simplify = partial(through_broadcasts, name) if algebra is None else _simplify_with(name, algebra)
    declare(
        name,
        infer=infer_elementwise,
        bind=bind or _call(ufunc),
        pullbacks=pullbacks,
        batch=batch_elementwise,
        latex=latex,
        simplify=simplify,
        elementwise=True,
        in_place=in_place,
        scratch=scratch,
        selects=selects,
        singular=singular,
        linear=linear,
        work=work,
        numpy=numpy or f"np.{ufunc.__name__}({', '.join('ab'[: len(pullbacks)])})",
        attribute_names=attribute_names,
        branch=branch,
        continuation=continuation,
    )


def unary(name: str, ufunc: Callable[..., Any], pullback: Pullback, latex: str, **details: Any) -> Unary:
    """Declare an elementwise operation with one input. Returns the function that builds its nodes."""
    declare_elementwise(name, ufunc, (pullback,), latex, **details)

    def build(x: Node) -> Node:
        return x.graph.apply(name, x)

    build.__name__ = name
    return build


def binary(name: str, ufunc: Callable[..., Any], of_a: Pullback, of_b: Pullback, latex: str, **details: Any) -> Binary:
    """Declare an elementwise operation with two inputs, a pullback for each. Returns the function that builds nodes."""
    declare_elementwise(name, ufunc, (of_a, of_b), latex, **details)

    def build(a: Node, b: Node | float) -> Node:
        return a.graph.apply(name, a, b)

    build.__name__ = name
    return build


# --- the rules that all share -------------------------------------------------------------------


def infer_elementwise(inputs: Sequence[Node], _: Attributes) -> tuple[Shape, str]:
    shape: Shape = ()
    for x in inputs:
        if x.shape != ():
            if shape not in ((), x.shape):
                raise GraphTypeError(f"needs equal shapes or scalars, got {[y.shape for y in inputs]}")
            shape = x.shape
    return shape, infer_same_dtype(inputs)


def _spread(x: Node, is_batched: bool, shape: Shape, size: int) -> Node:
    """One operand of an elementwise operation, ready to meet others of shape `(size,) + shape`."""
    if not is_batched:
        return x if x.shape == () else broadcast(x, (size, *shape))
    if x.shape == (size,) and shape:
        return broadcast(reshape(x, (size, *[1] * len(shape))), (size, *shape))
    return x


def batch_elementwise(node: Node, inputs: Sequence[Node], is_batched: Sequence[bool], size: int) -> Node:
    # A batched scalar has shape (size,), as has a batched vector of length 0 axes: told apart by the original rank.
    spread = [
        _spread(x, batched, node.shape, size) if before.shape != node.shape or not batched else x
        for x, batched, before in zip(inputs, is_batched, node.inputs, strict=True)
    ]
    return node.graph.apply(node.operation.name, *spread, attributes=node.attributes)


def through_broadcasts(name: str, graph: Graph, inputs: tuple[Node, ...], attributes: Attributes) -> Node | None:
    """Let a repeated scalar act as a scalar: a ufunc takes it at full speed, and constants fold."""
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
    def simplify(graph: Graph, inputs: tuple[Node, ...], attributes: Attributes) -> Node | None:
        return algebra(graph, *inputs) or through_broadcasts(name, graph, inputs, attributes)

    return simplify


# --- kernels ------------------------------------------------------------------------------------


def _call(ufunc: Callable[..., Any]) -> Callable[..., Iterable[Call]]:
    """A kernel that is one call of a NumPy function; `out` by position is the faster way."""

    def bind(out: Array, inputs: Sequence[Array], attributes: Attributes, scratch: Sequence[Array]) -> Iterable[Call]:
        return (partial(ufunc, *map(_narrow, inputs), out),)

    return bind


def _narrow(x: Array) -> Array:
    # One number repeated everywhere, such as the bias of a single unit, costs half as much as a scalar.
    if x.size and 0 in x.strides and all(not step or n == 1 for n, step in zip(x.shape, x.strides, strict=True)):
        return x[(0,) * x.ndim + (...,)]
    return x


def call_with_out(ufunc: Callable[..., Any]) -> Callable[..., Iterable[Call]]:
    """As `_call`, for np.maximum and np.minimum, which deprecate a positional `out`."""

    def bind(out: Array, inputs: Sequence[Array], attributes: Attributes, scratch: Sequence[Array]) -> Iterable[Call]:
        return (partial(ufunc, *inputs, out=out),)

    return bind


def continued_as_constant(function: Callable[..., Any]) -> Continuation:
    """Return the continuation of a function that is constant between jumps: that of the real parts, which is real."""

    def continued(inputs: Sequence[Array], _: Attributes) -> Array:
        return np.asarray(function(*[x.real for x in inputs]), np.float64)

    return continued
