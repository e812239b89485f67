"""Shapes: reshape, transpose and broadcast, which are views, and sum, which is the transpose of broadcast."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import partial

import numpy as np

from service.engine.arrays import Array
from service.engine.graph.ir import Attributes, Call, Graph, GraphTypeError, Node, Shape
from service.engine.graph.operations.rows import DOT_SUM_LIMIT, declare, declare_view, infer_same_dtype, ones, sum_rows

__all__ = ["broadcast", "mean_over", "reshape", "sum_over", "transpose"]


def scalar_source(x: Node) -> Node | None:
    """Return the scalar node that `x` repeats; None if `x` is no repeated scalar."""
    if x.operation.name == "broadcast" and x.inputs[0].shape == ():
        return x.inputs[0]
    return None


def reshape(x: Node, shape: Shape) -> Node:
    return x.graph.apply("reshape", x, attributes=(shape,))


def _infer_reshape(inputs: Sequence[Node], attributes: Attributes) -> tuple[Shape, str]:
    (x,), (shape,) = inputs, attributes
    if math.prod(shape) != x.size:
        raise GraphTypeError(f"cannot reshape {x.shape} to {shape}")
    return shape, x.dtype


def _simplify_reshape(graph: Graph, inputs: tuple[Node, ...], attributes: Attributes) -> Node | None:
    (x,), (shape,) = inputs, attributes
    if x.shape == shape:
        return x
    if x.operation.name == "reshape":
        return reshape(x.inputs[0], shape)
    source = x if x.shape == () else scalar_source(x)
    return None if source is None else broadcast(source, shape)


declare_view(
    "reshape",
    lambda x, attributes, shape: x.reshape(shape),
    infer=_infer_reshape,
    pullbacks=(lambda g, y, x: reshape(g, x.shape),),
    batch=lambda node, inputs, _, size: reshape(inputs[0], (size, *node.attributes[0])),
    latex="x",
    simplify=_simplify_reshape,
    keeps_order=True,
    numpy="np.reshape(a, shape)",
    attribute_names=("shape",),
)


def transpose(x: Node, order: Sequence[int] | None = None) -> Node:
    """Return x with its axes permuted; by default the last two are exchanged."""
    rank = len(x.shape)
    chosen = (*range(rank - 2), rank - 1, rank - 2) if order is None else tuple(order)
    return x.graph.apply("transpose", x, attributes=(chosen,))


def is_transposed(x: Node) -> bool:
    """Return whether x is the transposed view of matrices."""
    rank = len(x.shape)
    return x.operation.name == "transpose" and x.attributes[0] == (*range(rank - 2), rank - 1, rank - 2)


def _infer_transpose(inputs: Sequence[Node], attributes: Attributes) -> tuple[Shape, str]:
    (x,), (order,) = inputs, attributes
    if sorted(order) != list(range(len(x.shape))):
        raise GraphTypeError(f"{order} is no permutation of the axes of {x.shape}")
    return tuple(x.shape[axis] for axis in order), x.dtype


def _simplify_transpose(graph: Graph, inputs: tuple[Node, ...], attributes: Attributes) -> Node | None:
    (x,), (order,) = inputs, attributes
    if order == tuple(range(len(order))):
        return x
    if x.operation.name == "transpose":
        (inner,) = x.attributes
        return transpose(x.inputs[0], tuple(inner[axis] for axis in order))
    source = scalar_source(x)
    return None if source is None else broadcast(source, tuple(x.shape[axis] for axis in order))


declare_view(
    "transpose",
    lambda x, attributes, shape: x.transpose(attributes[0]),
    infer=_infer_transpose,
    pullbacks=(lambda g, y, x: transpose(g, np.argsort(y.attributes[0]).tolist()),),
    batch=lambda node, inputs, *_: transpose(inputs[0], (0, *(axis + 1 for axis in node.attributes[0]))),
    latex=r"x^\top",
    simplify=_simplify_transpose,
    numpy="np.transpose(a, order)",
    attribute_names=("order",),
)


def broadcast(x: Node, shape: Shape) -> Node:
    """Return x repeated to `shape` by NumPy's rules, as a view."""
    return x.graph.apply("broadcast", x, attributes=(shape,))


def _infer_broadcast(inputs: Sequence[Node], attributes: Attributes) -> tuple[Shape, str]:
    (x,), (shape,) = inputs, attributes
    trailing = shape[len(shape) - len(x.shape) :]
    if len(x.shape) > len(shape) or any(n not in (1, m) for n, m in zip(x.shape, trailing, strict=True)):
        raise GraphTypeError(f"cannot broadcast {x.shape} to {shape}")
    return shape, x.dtype


def _view_broadcast(x: Array, shape: Shape) -> Array:
    if not x.flags.c_contiguous:
        return np.broadcast_to(x, shape)
    # The same as np.broadcast_to in a tenth of the time, which every new definition takes.
    lead = len(shape) - x.ndim
    strides = [0 if axis < lead or x.shape[axis - lead] == 1 else x.strides[axis - lead] for axis in range(len(shape))]
    return np.ndarray(shape, x.dtype, x, 0, strides)


def _pull_broadcast(g: Node, y: Node, x: Node) -> Node:
    lead = len(y.shape) - len(x.shape)
    axes = [axis for axis in range(len(y.shape)) if axis < lead or x.shape[axis - lead] != y.shape[axis]]
    return reshape(sum_over(g, axes), x.shape)


def _batch_broadcast(node: Node, inputs: Sequence[Node], _: Sequence[bool], size: int) -> Node:
    (shape,) = node.attributes
    before = node.inputs[0].shape
    return broadcast(reshape(inputs[0], (size, *[1] * (len(shape) - len(before)), *before)), (size, *shape))


def _simplify_broadcast(graph: Graph, inputs: tuple[Node, ...], attributes: Attributes) -> Node | None:
    (x,), (shape,) = inputs, attributes
    if x.shape == shape:
        return x
    if x.operation.name == "broadcast":
        return broadcast(x.inputs[0], shape)
    return None


declare_view(
    "broadcast",
    lambda x, attributes, shape: _view_broadcast(x, shape),
    infer=_infer_broadcast,
    pullbacks=(_pull_broadcast,),
    batch=_batch_broadcast,
    latex="x",
    simplify=_simplify_broadcast,
    numpy="np.broadcast_to(a, shape)",
    attribute_names=("shape",),
)


def sum_over(x: Node, axes: Sequence[int] | None = None) -> Node:
    """Return the sum over the given axes (all by default), which disappear."""
    chosen = range(len(x.shape)) if axes is None else axes
    return x.graph.apply("sum", x, attributes=(tuple(sorted(axis % len(x.shape) for axis in chosen)),))


def mean_over(x: Node, axes: Sequence[int]) -> Node:
    """Return the mean over the given axes, which disappear."""
    return sum_over(x, axes) / float(math.prod(x.shape[axis] for axis in axes))


def _infer_sum(inputs: Sequence[Node], attributes: Attributes) -> tuple[Shape, str]:
    (x,), (axes,) = inputs, attributes
    return tuple(n for axis, n in enumerate(x.shape) if axis not in axes), infer_same_dtype(inputs)


def _bind_sum(out: Array, inputs: Sequence[Array], attributes: Attributes, _: Sequence[Array]) -> Iterable[Call]:
    (x,), (axes,) = inputs, attributes
    dtype = x.dtype.str
    if len(axes) == x.ndim and x.flags.c_contiguous and x.size <= DOT_SUM_LIMIT:
        return (partial(x.reshape(1, -1).dot, ones(x.size, dtype).reshape(-1, 1), out.reshape(1, 1)),)
    if x.ndim == 2 and axes == (0,) and x.shape[0] <= DOT_SUM_LIMIT:
        return (partial(ones(x.shape[0], dtype).dot, x, out),)
    if x.ndim == 2 and axes == (1,):
        return (sum_rows(x, out),)
    return (partial(np.add.reduce, x, axes, None, out),)


def _pull_sum(g: Node, y: Node, x: Node) -> Node:
    if g.shape == ():
        return broadcast(g, x.shape)
    (axes,) = y.attributes
    return broadcast(reshape(g, tuple(1 if axis in axes else n for axis, n in enumerate(x.shape))), x.shape)


def _simplify_sum(graph: Graph, inputs: tuple[Node, ...], attributes: Attributes) -> Node | None:
    (x,), (axes,) = inputs, attributes
    if not axes:
        return x
    if all(x.shape[axis] == 1 for axis in axes):
        return reshape(x, tuple(n for axis, n in enumerate(x.shape) if axis not in axes))
    source = scalar_source(x)
    if source is not None and len(axes) == len(x.shape):
        return source * float(x.size)
    return -sum_over(x.inputs[0], axes) if x.operation.name == "negate" else None


declare(
    "sum",
    infer=_infer_sum,
    bind=_bind_sum,
    pullbacks=(_pull_sum,),
    batch=lambda node, inputs, *_: sum_over(inputs[0], [axis + 1 for axis in node.attributes[0]]),
    latex=r"\sum x",
    simplify=_simplify_sum,
    numpy="np.sum(a, axis=axes)",
    attribute_names=("axes",),
)
