"""Rows of the table that graphs of other formats need: a choice between two values, running sums, constant arrays,
integers as floats, and places in order."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np

from service.engine.graph import continuations, elementary, indexing, robust, windows
from service.engine.graph.ir import Array, Attributes, Call, Graph, GraphTypeError, Node, Shape, Smoothness
from service.engine.graph.operations import (
    broadcast,
    declare,
    declare_elementwise,
    disconnected,
    infer_same_dtype,
    zero,
)

assert elementary and indexing and robust and windows  # whose rows come before these in the table


class Table:
    """A constant array as an attribute of a node: equal arrays are equal attributes."""

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
        return np.array(self.array, dtype)

    def __repr__(self) -> str:
        return repr(self.array.tolist())


def table(graph: Graph, values: Array) -> Node:
    """An array that never changes: int64 where the values are integers, else floats of the graph's dtype."""
    if values.dtype.kind not in "iu" and values.size and bool((values == values.flat[0]).all()):
        return broadcast(graph.constant(float(values.flat[0])), values.shape)
    kind, dtype = (np.int64, "int64") if values.dtype.kind in "iu" else (np.float64, "")
    return graph.apply("table", attributes=(Table(values.astype(kind, copy=False)), dtype))


def where(condition: Node, a: Node | float, b: Node | float) -> Node:
    """a where the condition is not 0, else b. What is not chosen counts for nothing, not even NaN or an infinity."""
    return condition.graph.apply("where", condition, a, b)


def cumulative_sum(x: Node, axis: int, *, reverse: bool = False) -> Node:
    """Sums of all elements up to each one along an axis; with `reverse`, of each one and all after it."""
    return x.graph.apply("cumulative_sum", x, attributes=(axis % len(x.shape), reverse))


def to_floats(indices: Node) -> Node:
    """Integers as floats of the graph's dtype."""
    return indices.graph.apply("floats", indices)


def order(x: Node, *, descending: bool = False) -> Node:
    """The places of the elements along the last axis in ascending order; of equals the first comes first."""
    return x.graph.apply("order", x, attributes=(descending,))


def _where_kernel(condition: Array, a: Array, b: Array, out: Array) -> None:
    chosen = np.not_equal(condition, 0.0)
    np.copyto(out, b)
    np.copyto(out, a, where=chosen)


def _where_algebra(graph: Graph, inputs: tuple[Node, ...], attributes: Attributes) -> Node | None:
    condition, a, b = inputs
    if a is b and condition.shape in ((), a.shape):
        return a
    fixed = condition.inputs[0] if condition.operation.name == "broadcast" else condition
    if fixed.value is None:
        return None
    shape = max((x.shape for x in inputs), key=len)
    return broadcast(a if fixed.value else b, shape)


def _taking_part(position: int, y: Node) -> Node | None:
    if position == 0:
        return None
    condition = y.inputs[0]
    zeros = condition.graph.constant(0.0)
    chosen = where(condition, 1.0, zeros)
    return chosen if position == 1 else 1.0 - chosen


def _infer_running(inputs: Sequence[Node], attributes: Attributes) -> tuple[Shape, str]:
    axis, _reverse = attributes
    if not 0 <= axis < len(inputs[0].shape):
        raise GraphTypeError(f"{inputs[0].shape} has no axis {axis}")
    return inputs[0].shape, infer_same_dtype(inputs)


def _bind_running(out: Array, inputs: Sequence[Array], attributes: Attributes, _: Sequence[Array]) -> Iterable[Call]:
    (x,), (axis, reverse) = inputs, attributes
    if reverse:
        x, out = np.flip(x, axis), np.flip(out, axis)
    return (partial(np.add.accumulate, x, axis, None, out),)


def _batch_running(node: Node, inputs: Sequence[Node], *_: Any) -> Node:
    axis, reverse = node.attributes
    return cumulative_sum(inputs[0], axis + 1, reverse=reverse)


def _infer_table(_: Sequence[Node], attributes: Attributes) -> tuple[Shape, str]:
    values, dtype = attributes
    return values.array.shape, dtype


def _infer_floats(inputs: Sequence[Node], _: Attributes) -> tuple[Shape, str]:
    if inputs[0].dtype != "int64":
        raise GraphTypeError(f"needs int64, got {inputs[0].dtype}")
    return inputs[0].shape, ""


def _bind_convert(out: Array, inputs: Sequence[Array], *_: Any) -> Iterable[Call]:
    return (partial(np.copyto, out, inputs[0], "unsafe"),)


def _infer_order(inputs: Sequence[Node], _: Attributes) -> tuple[Shape, str]:
    infer_same_dtype(inputs)
    if not inputs[0].shape:
        raise GraphTypeError("needs at least one axis")
    return inputs[0].shape, infer_same_dtype(inputs)


def _bind_order(out: Array, inputs: Sequence[Array], attributes: Attributes, _: Sequence[Array]) -> Iterable[Call]:
    (x,), (descending,) = inputs, attributes

    def sort() -> None:
        np.copyto(out, np.argsort(-x if descending else x, axis=-1, kind="stable"))

    return (sort,)


def _batch_alone(node: Node, inputs: Sequence[Node], *_: Any) -> Node:
    return node.graph.apply(node.operation.name, *inputs, attributes=node.attributes)


declare(
    "table",
    infer=_infer_table,
    bind=lambda *_: (),
    pullbacks=(),
    batch=None,
    latex="c",
    numpy="np.array(values)",
    attribute_names=("values", "dtype"),
)
declare_elementwise(
    "where",
    _where_kernel,
    (
        disconnected,
        lambda g, y, condition, a, b: where(condition, g, 0.0),
        lambda g, y, condition, a, b: where(condition, 0.0, g),
    ),
    r"\begin{cases} b & a \neq 0 \\ c & \text{else} \end{cases}",
    simplify=_where_algebra,
    in_place=False,
    selects=_taking_part,
    work=4,
    numpy="np.where(a != 0, b, c)",
    branch=continuations.chosen,
    continuation=continuations.where,
)
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
declare(
    "floats",
    infer=_infer_floats,
    bind=_bind_convert,
    pullbacks=(disconnected,),
    batch=_batch_alone,
    latex="x",
    smoothness=Smoothness.STEPPED,
    numpy="np.array(a, float)",
)
declare(
    "order",
    infer=_infer_order,
    bind=_bind_order,
    pullbacks=(zero,),
    batch=_batch_alone,
    latex=r"\operatorname{argsort} x",
    smoothness=Smoothness.STEPPED,
    work=16,
    branch=continuations.places_in_order,
    continuation=continuations.places_in_order,
    numpy="np.argsort(-a if descending else a, axis=-1, kind='stable')",
    attribute_names=("descending",),
)
