"""Rows of the table for values that are chosen by position: lookups and largest elements."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np

from service.engine.graph import continuations
from service.engine.graph.ir import Array, Attributes, Call, Graph, GraphTypeError, Node, Shape, Smoothness
from service.engine.graph.operations import broadcast, declare, disconnected, infer_same_dtype, reshape, zero

# Up to this many candidates the largest is found by comparing one after the other, which NumPy does
# for all positions at once; its argmax is faster beyond.
COMPARED = 32


SCATTERED = 2**17
"""Numbers that are scattered at once: the places of each take memory that no plan knows of."""


def gather_rows(table: Node, indices: Node, lead: int = 0) -> Node:
    """Rows of a table: `(*b, rows, width)` and places `(*b, *s)` to `(*b, *s, width)`, with `lead` axes b.

    Places are int64, or whole floats that were computed; what is no place gives any row.
    """
    return table.graph.apply("gather_rows", table, indices, attributes=(lead,))


def scatter_rows(values: Node, indices: Node, rows: int, lead: int = 0) -> Node:
    """The transpose of `gather_rows`: `(*b, *s, width)` added up to `(*b, rows, width)`."""
    return values.graph.apply("scatter_rows", values, indices, attributes=(rows, lead))


def largest(x: Node, axes: Sequence[int]) -> Node:
    """The maximum over some axes, which disappear. Its gradient goes to the first of equals."""
    return x.graph.apply("largest", x, attributes=(_sorted(x, axes),))


def first_largest(x: Node, axes: Sequence[int]) -> Node:
    """1 at the first maximum over the axes, in row-major order, and 0 elsewhere."""
    return x.graph.apply("first_largest", x, attributes=(_sorted(x, axes),))


def _sorted(x: Node, axes: Sequence[int]) -> tuple[int, ...]:
    return tuple(sorted(axis % len(x.shape) for axis in axes))


def _infer_gather(inputs: Sequence[Node], attributes: Attributes) -> tuple[Shape, str]:
    (table, indices), (lead,) = inputs, attributes
    if len(table.shape) != lead + 2 or table.shape[:lead] != indices.shape[:lead]:
        raise GraphTypeError(f"cannot look up {indices.shape} in {table.shape}")
    return (*indices.shape, table.shape[-1]), infer_same_dtype([table])


def _infer_scatter(inputs: Sequence[Node], attributes: Attributes) -> tuple[Shape, str]:
    (values, indices), (rows, lead) = inputs, attributes
    if values.shape[:-1] != indices.shape:
        raise GraphTypeError(f"cannot scatter {values.shape} to {indices.shape}")
    return (*indices.shape[:lead], rows, values.shape[-1]), infer_same_dtype([values])


def _infer_largest(inputs: Sequence[Node], attributes: Attributes) -> tuple[Shape, str]:
    (x,), (axes,) = inputs, attributes
    if not axes or axes[-1] >= len(x.shape):
        raise GraphTypeError(f"{x.shape} has no axes {axes}")
    return tuple(n for axis, n in enumerate(x.shape) if axis not in axes), infer_same_dtype(inputs)


def _infer_first_largest(inputs: Sequence[Node], attributes: Attributes) -> tuple[Shape, str]:
    _infer_largest(inputs, attributes)
    return inputs[0].shape, infer_same_dtype(inputs)


def _bind_gather(out: Array, inputs: Sequence[Array], attributes: Attributes, *_: Any) -> Iterable[Call]:
    (table, indices), (lead,) = inputs, attributes
    # mode="clip" writes right into `out`; the indices have been checked where they came in.
    take = np.take if indices.dtype.kind == "i" else _take_computed
    return [
        partial(take, table[place], indices[place], 0, out[place], "clip") for place in np.ndindex(*table.shape[:lead])
    ]


def _take_computed(table: Array, places: Array, axis: int, out: Array, mode: Any) -> None:
    np.take(table, _whole(places), axis, out, mode)


def _whole(places: Array) -> Array:
    """Places that were computed as integers; what is no number becomes the place 0."""
    return places if places.dtype.kind == "i" else np.nan_to_num(places, posinf=0.0, neginf=0.0).astype(np.int64)


def _bind_scatter(out: Array, inputs: Sequence[Array], attributes: Attributes, *_: Any) -> Iterable[Call]:
    (values, indices), (_rows, lead) = inputs, attributes
    width = out.shape[-1]
    columns = np.arange(width)

    def scatter(target: Array, chosen: Array, rows: Array) -> None:
        # By single numbers: np.add.at is five times faster on one axis than on rows.
        if chosen.dtype.kind != "i":
            chosen = np.clip(_whole(chosen), 0, target.size // width - 1)
        places = chosen.reshape(-1, 1) * width + columns
        np.add.at(target, places.reshape(-1), rows.reshape(-1))

    yield partial(out.fill, 0.0)
    for place in np.ndindex(*out.shape[:lead]):
        chosen, rows = np.atleast_1d(indices[place]), values[place]
        rows = rows.reshape(1, width) if rows.ndim == 1 else rows
        step = max(1, SCATTERED * len(chosen) // max(1, rows.size))
        for start in range(0, len(chosen), step):
            part = slice(start, start + step)
            yield partial(scatter, out[place].reshape(-1), chosen[part], rows[part])


def _bind_largest(out: Array, inputs: Sequence[Array], attributes: Attributes, *_: Any) -> Iterable[Call]:
    (axes,) = attributes
    return (partial(np.maximum.reduce, inputs[0], axes, None, out),)


def _bind_first_largest(
    out: Array, inputs: Sequence[Array], attributes: Attributes, scratch: Sequence[Array]
) -> Iterable[Call]:
    (x,), (axes,) = inputs, attributes
    maximum, free = scratch
    kept = [axis for axis in range(x.ndim) if axis not in axes]
    candidates, marks = x.transpose(*axes, *kept), out.transpose(*axes, *kept)
    window = candidates.shape[: len(axes)]
    if math.prod(window) > COMPARED:

        def mark(values: Array, ones: Array) -> None:
            rest = values.shape[len(axes) :]
            chosen = np.unravel_index(values.reshape(-1, *rest).argmax(0), window)
            ones[(*chosen, *np.indices(rest, sparse=True))] = 1.0

        return [partial(out.fill, 0.0), *_in_parts(mark, candidates, marks, len(axes))]
    places = list(np.ndindex(*window))
    calls: list[Call] = [partial(np.maximum.reduce, x, axes, None, maximum), partial(free.fill, 1.0)]
    for place in places:
        here = marks[(*place, ...)]
        # Equal to the maximum, and no one before was: 1 or 0 times 1 or 0.
        calls += [
            partial(np.equal, candidates[(*place, ...)], maximum, here),
            partial(np.multiply, here, free, here),
            partial(np.subtract, free, here, free),
        ]
    return calls


def _in_parts(call: Callable[[Array, Array], None], x: Array, y: Array, first: int) -> Iterable[Call]:
    """`call` on parts of both arrays along the longest axis from `first` on: NumPy's argmax copies what it is given."""
    axes = range(first, x.ndim)
    if not axes:
        return [partial(call, x, y)]
    axis = max(axes, key=lambda k: x.shape[k])
    step = max(1, SCATTERED * x.shape[axis] // x.size)
    parts = [(slice(None),) * axis + (slice(start, start + step),) for start in range(0, x.shape[axis], step)]
    return [partial(call, x[part], y[part]) for part in parts]


def _largest_scratch(node: Node) -> tuple[Shape, ...]:
    shape = tuple(n for axis, n in enumerate(node.shape) if axis not in node.attributes[0])
    return (shape, shape)


def _simplify_largest(graph: Graph, inputs: tuple[Node, ...], attributes: Attributes) -> Node | None:
    (x,), (axes,) = inputs, attributes
    if any(x.shape[axis] != 1 for axis in axes):
        return None
    return reshape(x, tuple(n for axis, n in enumerate(x.shape) if axis not in axes))


def _pull_largest(g: Node, y: Node, x: Node) -> Node:
    (axes,) = y.attributes
    spread = broadcast(reshape(g, tuple(1 if axis in axes else n for axis, n in enumerate(x.shape))), x.shape)
    return spread * first_largest(x, axes)


def _batch_axes(node: Node, inputs: Sequence[Node], *_: Any) -> Node:
    axes = tuple(axis + 1 for axis in node.attributes[0])
    return node.graph.apply(node.operation.name, inputs[0], attributes=(axes,))


def _with_batch(x: Node, is_batched: bool, size: int) -> Node:
    return x if is_batched else broadcast(x, (size, *x.shape))


def _batch_gather(node: Node, inputs: Sequence[Node], is_batched: Sequence[bool], size: int) -> Node:
    (table, indices), (lead,) = inputs, node.attributes
    if not is_batched[0] and not lead:
        return gather_rows(table, indices)
    return gather_rows(_with_batch(table, is_batched[0], size), _with_batch(indices, is_batched[1], size), lead + 1)


def _batch_scatter(node: Node, inputs: Sequence[Node], is_batched: Sequence[bool], size: int) -> Node:
    (values, indices), (rows, lead) = inputs, node.attributes
    return scatter_rows(
        _with_batch(values, is_batched[0], size), _with_batch(indices, is_batched[1], size), rows, lead + 1
    )


declare(
    "gather_rows",
    infer=_infer_gather,
    bind=_bind_gather,
    pullbacks=(
        lambda g, y, table, indices: scatter_rows(g, indices, table.shape[-2], y.attributes[0]),
        disconnected,
    ),
    batch=_batch_gather,
    latex="W_{i}",
    numpy="a[(*np.indices(b.shape, sparse=True)[:lead], b)]",
    attribute_names=("lead",),
)
declare(
    "scatter_rows",
    infer=_infer_scatter,
    bind=_bind_scatter,
    pullbacks=(lambda g, y, values, indices: gather_rows(g, indices, y.attributes[1]), disconnected),
    batch=_batch_scatter,
    latex=r"\sum_{j : i_j = i} x_j",
    numpy="scatter_rows(a, b, rows, lead)",
    attribute_names=("rows", "lead"),
)
declare(
    "largest",
    infer=_infer_largest,
    bind=_bind_largest,
    pullbacks=(_pull_largest,),
    batch=_batch_axes,
    latex=r"\max_i x_i",
    smoothness=Smoothness.KINKED,
    simplify=_simplify_largest,
    numpy="np.max(a, axis=axes)",
    attribute_names=("axes",),
    branch=continuations.place_of_largest,
    continuation=continuations.largest,
)
declare(
    "first_largest",
    infer=_infer_first_largest,
    bind=_bind_first_largest,
    pullbacks=(zero,),
    batch=_batch_axes,
    latex=r"[i = \min \operatorname{argmax} x]",
    smoothness=Smoothness.STEPPED,
    scratch=_largest_scratch,
    numpy="first_largest(a, axes)",
    attribute_names=("axes",),
    branch=continuations.place_of_largest,
    continuation=continuations.first_largest,
)
