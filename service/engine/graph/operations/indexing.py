"""Operations by position: lookups by integer indices, and largest elements."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np

from service.engine.arrays import Array
from service.engine.graph.ir import Attributes, Call, Graph, GraphTypeError, Node, Shape
from service.engine.graph.operations.rows import batch_rows, declare, disconnected, infer_same_dtype, zero
from service.engine.graph.operations.shapes import broadcast, reshape

__all__ = ["first_largest", "gather_rows", "largest", "one_hot", "scatter_rows"]

# Up to this many candidates, comparing one after the other at all positions at once is faster than np.argmax.
COMPARED = 32
SCATTERED = 2**17
"""The most numbers that are scattered at once: their positions take memory outside of the plan."""


def one_hot(indices: Node, depth: int) -> Node:
    """Return rows of the identity matrix: int64 indices of shape `s` give floats of shape `s + (depth,)`."""
    return indices.graph.apply("one_hot", indices, attributes=(depth,))


def _infer_one_hot(inputs: Sequence[Node], attributes: Attributes) -> tuple[Shape, str]:
    if inputs[0].dtype != "int64":
        raise GraphTypeError(f"one_hot needs int64 indices, got {inputs[0].dtype}")
    return (*inputs[0].shape, attributes[0]), ""


def _bind_one_hot(out: Array, inputs: Sequence[Array], attributes: Attributes, *_: Any) -> Iterable[Call]:
    (indices,), (depth,) = inputs, attributes
    return (partial(np.equal, indices[..., None], np.arange(depth), out),)


declare(
    "one_hot",
    infer=_infer_one_hot,
    bind=_bind_one_hot,
    pullbacks=(disconnected,),
    batch=batch_rows,
    latex="e_i",
    numpy="np.equal(a[..., None], np.arange(depth))",
    attribute_names=("depth",),
)


def _with_batch(x: Node, is_batched: bool, size: int) -> Node:
    return x if is_batched else broadcast(x, (size, *x.shape))


def gather_rows(table: Node, indices: Node, lead: int = 0) -> Node:
    """Return rows of a table by index: `(*b, rows, width)` and positions `(*b, *s)` to `(*b, *s, width)`. b are `lead`
    axes that table and positions share.

    Positions are int64, or whole floats that the graph computes; any other number looks up an arbitrary row.
    """
    return table.graph.apply("gather_rows", table, indices, attributes=(lead,))


def _infer_gather(inputs: Sequence[Node], attributes: Attributes) -> tuple[Shape, str]:
    (table, indices), (lead,) = inputs, attributes
    if len(table.shape) != lead + 2 or table.shape[:lead] != indices.shape[:lead]:
        raise GraphTypeError(f"cannot look up {indices.shape} in {table.shape}")
    return (*indices.shape, table.shape[-1]), infer_same_dtype([table])


def _bind_gather(out: Array, inputs: Sequence[Array], attributes: Attributes, *_: Any) -> Iterable[Call]:
    (table, indices), (lead,) = inputs, attributes
    # mode="clip" writes right into `out`; the indices have been checked where they came in.
    take = np.take if indices.dtype.kind == "i" else _take_computed
    return [
        partial(take, table[place], indices[place], 0, out[place], "clip") for place in np.ndindex(*table.shape[:lead])
    ]


def _take_computed(table: Array, positions: Array, axis: int, out: Array, mode: Any) -> None:
    np.take(table, _whole(positions), axis, out, mode)


def _whole(positions: Array) -> Array:
    """Return computed positions as integers. What is no number becomes the position 0."""
    return np.nan_to_num(positions, posinf=0.0, neginf=0.0).astype(np.int64)


def _batch_gather(node: Node, inputs: Sequence[Node], is_batched: Sequence[bool], size: int) -> Node:
    (table, indices), (lead,) = inputs, node.attributes
    if not is_batched[0] and not lead:
        return gather_rows(table, indices)
    return gather_rows(_with_batch(table, is_batched[0], size), _with_batch(indices, is_batched[1], size), lead + 1)


declare(
    "gather_rows",
    infer=_infer_gather,
    bind=_bind_gather,
    pullbacks=(lambda g, y, table, indices: scatter_rows(g, indices, table.shape[-2], y.attributes[0]), disconnected),
    batch=_batch_gather,
    latex="W_{i}",
    numpy="a[(*np.indices(b.shape, sparse=True)[:lead], b)]",
    attribute_names=("lead",),
)


def scatter_rows(values: Node, indices: Node, rows: int, lead: int = 0) -> Node:
    """Return values added up in rows, the transpose of `gather_rows`: `(*b, *s, width)` to `(*b, rows, width)`. Values
    with the same index are added; b are `lead` axes."""
    return values.graph.apply("scatter_rows", values, indices, attributes=(rows, lead))


def _infer_scatter(inputs: Sequence[Node], attributes: Attributes) -> tuple[Shape, str]:
    (values, indices), (rows, lead) = inputs, attributes
    if values.shape[:-1] != indices.shape:
        raise GraphTypeError(f"cannot scatter {values.shape} to {indices.shape}")
    return (*indices.shape[:lead], rows, values.shape[-1]), infer_same_dtype([values])


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


def _batch_scatter(node: Node, inputs: Sequence[Node], is_batched: Sequence[bool], size: int) -> Node:
    (values, indices), (rows, lead) = inputs, node.attributes
    return scatter_rows(
        _with_batch(values, is_batched[0], size), _with_batch(indices, is_batched[1], size), rows, lead + 1
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


def _sorted(x: Node, axes: Sequence[int]) -> tuple[int, ...]:
    return tuple(sorted(axis % len(x.shape) for axis in axes))


def _batch_axes(node: Node, inputs: Sequence[Node], *_: Any) -> Node:
    axes = tuple(axis + 1 for axis in node.attributes[0])
    return node.graph.apply(node.operation.name, inputs[0], attributes=(axes,))


def _rows(x: Array, axes: Sequence[int]) -> Array:
    """Return x, with the given axes joined to one that comes first: (candidates, other axes)."""
    moved = np.moveaxis(x, axes, range(len(axes)))
    return moved.reshape(-1, *moved.shape[len(axes) :])


def _branch_place(inputs: Sequence[Array], attributes: Attributes) -> Any:
    """Return the branch of the position of the largest element: even where several are equal, else odd."""
    (x,), (axes,) = inputs, attributes
    rows = _rows(x, axes)
    place = rows.argmax(0)
    alone = (rows == rows.max(0)).sum(0) == 1
    found: Array = 2.0 * place + alone
    return found


def largest(x: Node, axes: Sequence[int]) -> Node:
    """Return the maximum over the given axes, which disappear. Its gradient goes to the first of equal elements."""
    return x.graph.apply("largest", x, attributes=(_sorted(x, axes),))


def _infer_largest(inputs: Sequence[Node], attributes: Attributes) -> tuple[Shape, str]:
    (x,), (axes,) = inputs, attributes
    if not axes or axes[-1] >= len(x.shape):
        raise GraphTypeError(f"{x.shape} has no axes {axes}")
    return tuple(n for axis, n in enumerate(x.shape) if axis not in axes), infer_same_dtype(inputs)


def _pull_largest(g: Node, y: Node, x: Node) -> Node:
    (axes,) = y.attributes
    spread = broadcast(reshape(g, tuple(1 if axis in axes else n for axis, n in enumerate(x.shape))), x.shape)
    return spread * first_largest(x, axes)


def _simplify_largest(graph: Graph, inputs: tuple[Node, ...], attributes: Attributes) -> Node | None:
    (x,), (axes,) = inputs, attributes
    if any(x.shape[axis] != 1 for axis in axes):
        return None
    return reshape(x, tuple(n for axis, n in enumerate(x.shape) if axis not in axes))


def _continue_largest(inputs: Sequence[Array], attributes: Attributes) -> Any:
    (x,), (axes,) = inputs, attributes
    rows = _rows(x, axes)
    return np.take_along_axis(rows, rows.real.argmax(0)[None], 0)[0]


declare(
    "largest",
    infer=_infer_largest,
    bind=lambda out, inputs, attributes, _: (partial(np.maximum.reduce, inputs[0], attributes[0], None, out),),
    pullbacks=(_pull_largest,),
    batch=_batch_axes,
    latex=r"\max_i x_i",
    simplify=_simplify_largest,
    numpy="np.max(a, axis=axes)",
    attribute_names=("axes",),
    branch=_branch_place,
    continuation=_continue_largest,
)


def first_largest(x: Node, axes: Sequence[int]) -> Node:
    """Return 1 at the first maximum over the given axes, in row-major order, and 0 elsewhere; the shape of x."""
    return x.graph.apply("first_largest", x, attributes=(_sorted(x, axes),))


def _infer_first_largest(inputs: Sequence[Node], attributes: Attributes) -> tuple[Shape, str]:
    _infer_largest(inputs, attributes)
    return inputs[0].shape, infer_same_dtype(inputs)


def _scratch_of_first_largest(node: Node) -> tuple[Shape, ...]:
    shape = tuple(n for axis, n in enumerate(node.shape) if axis not in node.attributes[0])
    return (shape, shape)


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
        # 1 where the candidate is equal to the maximum, times 1 where no earlier one was.
        calls += [
            partial(np.equal, candidates[(*place, ...)], maximum, here),
            partial(np.multiply, here, free, here),
            partial(np.subtract, free, here, free),
        ]
    return calls


def _in_parts(call: Callable[[Array, Array], None], x: Array, y: Array, first: int) -> Iterable[Call]:
    """Return calls that apply `call` to parts of both arrays along the longest axis from `first` on. np.argmax copies
    its input, so parts keep this copy small."""
    axes = range(first, x.ndim)
    if not axes:
        return [partial(call, x, y)]
    axis = max(axes, key=lambda k: x.shape[k])
    step = max(1, SCATTERED * x.shape[axis] // x.size)
    parts = [(slice(None),) * axis + (slice(start, start + step),) for start in range(0, x.shape[axis], step)]
    return [partial(call, x[part], y[part]) for part in parts]


def _continue_first_largest(inputs: Sequence[Array], attributes: Attributes) -> Any:
    (x,), (axes,) = inputs, attributes
    rows = _rows(x, axes)
    chosen = np.arange(len(rows)).reshape(-1, *[1] * (rows.ndim - 1)) == rows.real.argmax(0)
    shape = [x.shape[axis] for axis in axes]
    return np.moveaxis(chosen.reshape(*shape, *rows.shape[1:]), range(len(axes)), axes).astype(np.float64)


declare(
    "first_largest",
    infer=_infer_first_largest,
    bind=_bind_first_largest,
    pullbacks=(zero,),
    batch=_batch_axes,
    latex=r"[i = \min \operatorname{argmax} x]",
    scratch=_scratch_of_first_largest,
    numpy="first_largest(a, axes)",
    attribute_names=("axes",),
    branch=_branch_place,
    continuation=_continue_first_largest,
)
