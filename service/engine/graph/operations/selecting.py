"""Operations that select, sum up to each place, and order elements, and tables: constant arrays in a graph."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np

from service.engine.arrays import Array
from service.engine.graph.ir import Attributes, Call, Graph, GraphTypeError, Node, Shape
from service.engine.graph.operations.elementwise import declare_elementwise
from service.engine.graph.operations.rows import declare, disconnected, infer_same_dtype, zero
from service.engine.graph.operations.shapes import broadcast

__all__ = ["cumulative_sum", "order", "table", "to_floats", "where"]


class Table:
    """A constant array as an attribute of a node. Equal arrays make equal attributes."""

    __slots__ = ("_hash", "array")

    def __init__(self, array: Array) -> None:
        self.array = np.ascontiguousarray(array).reshape(array.shape)
        self.array.flags.writeable = False
        self._hash = hash((self.array.shape, self.array.dtype.str, self.array.tobytes()))

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Table) or self._hash != other._hash or self.array.shape != other.array.shape:
            return False
        return self.array.dtype == other.array.dtype and self.array.tobytes() == other.array.tobytes()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        """Return the array, for NumPy."""
        return np.array(self.array, dtype)

    def __repr__(self) -> str:
        return repr(self.array.tolist())


def table(graph: Graph, values: Array) -> Node:
    """Return a constant array: int64 where the values are integers, else floats of the graph's dtype."""
    if values.dtype.kind not in "iu" and values.size and bool((values == values.flat[0]).all()):
        return broadcast(graph.constant(float(values.flat[0])), values.shape)
    kind, dtype = (np.int64, "int64") if values.dtype.kind in "iu" else (np.float64, "")
    return graph.apply("table", attributes=(Table(values.astype(kind, copy=False)), dtype))


declare(
    "table",
    infer=lambda _, attributes: (attributes[0].array.shape, attributes[1]),
    bind=lambda *_: (),
    pullbacks=(),
    batch=None,
    latex="c",
    numpy="np.array(values)",
    attribute_names=("values", "dtype"),
)


def where(condition: Node, a: Node | float, b: Node | float) -> Node:
    """Return a where the condition is not 0, else b, and NaN where the condition is no number.

    The value that is not chosen has no effect on the gradient either, even where it is NaN or infinite.
    """
    return condition.graph.apply("where", condition, a, b)


def _where_kernel(condition: Array, a: Array, b: Array, out: Array) -> None:
    """Compute `where` for arrays of one shape into `out`."""
    chosen = np.not_equal(condition, 0.0)
    np.copyto(out, b)
    np.copyto(out, a, where=chosen)
    unknown = np.isnan(condition)
    if unknown.any():
        np.copyto(out, np.nan, where=unknown)


def _simplify_where(graph: Graph, inputs: tuple[Node, ...], attributes: Attributes) -> Node | None:
    """Return a simpler node for equal choices or a constant condition, else None."""
    condition, a, b = inputs
    if a is b and condition.shape in ((), a.shape):
        return a
    fixed = condition.inputs[0] if condition.operation.name == "broadcast" else condition
    if fixed.value is None:
        return None
    shape = max((x.shape for x in inputs), key=len)
    return broadcast(a if fixed.value else b, shape)


def _taking_part(position: int, y: Node) -> Node | None:
    """Return 1 where the input at a position is chosen and 0 elsewhere, or None for the condition."""
    if position == 0:
        return None
    condition = y.inputs[0]
    no, yes = condition.graph.constant(0.0), condition.graph.constant(1.0)
    return where(condition, yes, no) if position == 1 else where(condition, no, yes)


def _continue_where(condition: Array, a: Array, b: Array) -> Array:
    """Compute `where` for complex numbers. The real part of the condition decides."""
    return np.where(condition.real == 0.0, b, a)


declare_elementwise(
    "where",
    _where_kernel,
    (
        disconnected,
        lambda g, y, condition, a, b: where(condition, g, 0.0),
        lambda g, y, condition, a, b: where(condition, 0.0, g),
    ),
    r"\begin{cases} b & a \neq 0 \\ c & \text{else} \end{cases}",
    simplify=_simplify_where,
    in_place=False,
    selects=_taking_part,
    work=4,
    numpy="np.where(np.isnan(a), a, np.where(a != 0, b, c))",
    branch=lambda condition, a, b: (condition.real != 0.0).astype(float),
    continuation=_continue_where,
)


def cumulative_sum(x: Node, axis: int, *, reverse: bool = False) -> Node:
    """Return the sums of all elements up to each one along an axis. With `reverse`, sum each one and all after it."""
    return x.graph.apply("cumulative_sum", x, attributes=(axis % len(x.shape), reverse))


def _infer_running(inputs: Sequence[Node], attributes: Attributes) -> tuple[Shape, str]:
    """Return the shape and dtype of a cumulative sum."""
    axis, _reverse = attributes
    if not 0 <= axis < len(inputs[0].shape):
        raise GraphTypeError(f"{inputs[0].shape} has no axis {axis}")
    return inputs[0].shape, infer_same_dtype(inputs)


def _bind_running(out: Array, inputs: Sequence[Array], attributes: Attributes, _: Sequence[Array]) -> Iterable[Call]:
    """Return the call that computes a cumulative sum into `out`."""
    (x,), (axis, reverse) = inputs, attributes
    if reverse:
        x, out = np.flip(x, axis), np.flip(out, axis)
    return (partial(np.add.accumulate, x, axis, None, out),)


def _batch_running(node: Node, inputs: Sequence[Node], *_: Any) -> Node:
    """Return the cumulative sum of values with a new first axis."""
    axis, reverse = node.attributes
    return cumulative_sum(inputs[0], axis + 1, reverse=reverse)


declare(
    "cumulative_sum",
    infer=_infer_running,
    bind=_bind_running,
    pullbacks=(lambda g, y, x: cumulative_sum(g, y.attributes[0], reverse=not y.attributes[1]),),
    batch=_batch_running,
    latex=r"\sum_{j \le i} x_j",
    numpy="np.flip(np.cumsum(np.flip(a, axis), axis), axis) if reverse else np.cumsum(a, axis)",
    attribute_names=("axis", "reverse"),
)


def _batch_alone(node: Node, inputs: Sequence[Node], *_: Any) -> Node:
    """Return the same operation on values with a new first axis, which it does not touch."""
    return node.graph.apply(node.operation.name, *inputs, attributes=node.attributes)


def to_floats(indices: Node) -> Node:
    """Return integers as floats of the graph's dtype."""
    return indices.graph.apply("floats", indices)


def _infer_floats(inputs: Sequence[Node], _: Attributes) -> tuple[Shape, str]:
    """Return the shape and dtype of integers as floats."""
    if inputs[0].dtype != "int64":
        raise GraphTypeError(f"needs int64, got {inputs[0].dtype}")
    return inputs[0].shape, ""


declare(
    "floats",
    infer=_infer_floats,
    bind=lambda out, inputs, *_: (partial(np.copyto, out, inputs[0], "unsafe"),),
    pullbacks=(disconnected,),
    batch=_batch_alone,
    latex="x",
    numpy="np.array(a, float)",
)


def order(x: Node, *, descending: bool = False) -> Node:
    """Return the positions of the elements of each row in ascending order; of equal elements the first comes first."""
    return x.graph.apply("order", x, attributes=(descending,))


def _infer_order(inputs: Sequence[Node], _: Attributes) -> tuple[Shape, str]:
    """Return the shape and dtype of the positions."""
    if not inputs[0].shape:
        raise GraphTypeError("needs at least one axis")
    return inputs[0].shape, infer_same_dtype(inputs)


def _bind_order(out: Array, inputs: Sequence[Array], attributes: Attributes, _: Sequence[Array]) -> Iterable[Call]:
    """Return the call that computes the positions into `out`."""
    (x,), (descending,) = inputs, attributes

    def sort() -> None:
        """Sort each row and store the positions."""
        np.copyto(out, np.argsort(-x if descending else x, axis=-1, kind="stable"))

    return (sort,)


def _continue_order(inputs: Sequence[Array], attributes: Attributes) -> Any:
    """Return the positions of complex numbers, ordered by their real parts."""
    (x,), (descending,) = inputs, attributes
    return np.argsort(-x.real if descending else x.real, axis=-1, kind="stable").astype(float)


declare(
    "order",
    infer=_infer_order,
    bind=_bind_order,
    pullbacks=(zero,),
    batch=_batch_alone,
    latex=r"\operatorname{argsort} x",
    work=16,
    branch=_continue_order,
    continuation=_continue_order,
    numpy="np.argsort(-a if descending else a, axis=-1, kind='stable')",
    attribute_names=("descending",),
)
