"""Compositions of graph operations that several ONNX operators need: broadcasting, axes, lookups and windows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import reduce

import numpy as np

from service.engine.arrays import Array
from service.engine.graph.ir import Graph, Node, Shape
from service.engine.graph.operations import (
    Sliding,
    broadcast,
    concatenate,
    gather_rows,
    greater_equal,
    less,
    pad,
    reshape,
    scatter_rows,
    slice_axis,
    sum_over,
    table,
    transpose,
    where,
    windows,
)
from service.engine.onnx.refusal import Refusal

FEW = 8
"""The largest number of pieces that are cut and joined one by one. More are looked up."""


def shape_of_all(*shapes: Shape) -> Shape:
    """Return the shape that arrays of these shapes broadcast to. Raise `Refusal` where they do not fit."""
    longest = max(map(len, shapes), default=0)
    result = []
    for axis in range(longest):
        lengths = {shape[axis - longest + len(shape)] for shape in shapes if axis - longest + len(shape) >= 0} - {1}
        if len(lengths) > 1:
            raise Refusal(f"shapes {', '.join(str(list(shape)) for shape in shapes)} do not fit together")
        result.append(lengths.pop() if lengths else 1)
    return tuple(result)


def aligned(*nodes: Node) -> list[Node]:
    """Return nodes broadcast to one shape by NumPy's rules. Scalars are left as they are."""
    shape = shape_of_all(*(x.shape for x in nodes))
    return [x if x.shape in ((), shape) else broadcast(x, shape) for x in nodes]


def elementwise(function: Callable[..., Node], *nodes: Node) -> Node:
    """Return a function of several values after broadcasting. The result has their common shape."""
    shape = shape_of_all(*(x.shape for x in nodes))
    result = function(*aligned(*nodes))
    return result if result.shape == shape else broadcast(result, shape)


def full(graph: Graph, value: float, shape: Shape) -> Node:
    """Return a node of a shape in which every element is `value`."""
    return broadcast(graph.constant(value), shape)


def axis_of(axis: int, rank: int) -> int:
    """Return an axis counted from the front. Raise `Refusal` if the axis does not exist."""
    if not -rank <= axis < rank:
        raise Refusal(f"axis {axis} is none of {rank} axes")
    return axis % rank


def axes_of(axes: Sequence[int], rank: int) -> tuple[int, ...]:
    """Return axes counted from the front. Raise `Refusal` if one does not exist."""
    return tuple(sorted({axis_of(axis, rank) for axis in axes}))


def move(x: Node, sources: Sequence[int], targets: Sequence[int]) -> Node:
    """Return x with axes moved to other places, as `numpy.moveaxis` does."""
    rank = len(x.shape)
    order = [axis for axis in range(rank) if axis not in sources]
    for target, source in sorted(zip(targets, sources, strict=True)):
        order.insert(target, source)
    return transpose(x, order)


def keep(x: Node, shape: Shape, axes: Sequence[int]) -> Node:
    """Return a reduced value with the reduced axes of `shape` put back at length 1."""
    return reshape(x, tuple(1 if axis in axes else n for axis, n in enumerate(shape)))


def unsqueeze(x: Node, axes: Sequence[int]) -> Node:
    """Return x with axes of length 1 inserted at these places of the result."""
    rank = len(x.shape) + len(axes)
    places = {axis_of(axis, rank) for axis in axes}
    rest = iter(x.shape)
    return reshape(x, tuple(1 if axis in places else next(rest) for axis in range(rank)))


def product(parts: Sequence[Node]) -> Node:
    """Return the product of several values, multiplied in pairs."""
    while len(parts) > 1:
        parts = [reduce(lambda a, b: a * b, parts[k : k + 2]) for k in range(0, len(parts), 2)]
    return parts[0]


def along(x: Node, axis: int) -> list[Node]:
    """Return the slices of x at each place of an axis, without this axis."""
    shape = (*x.shape[:axis], *x.shape[axis + 1 :])
    return [reshape(slice_axis(x, axis, k, k + 1), shape) for k in range(x.shape[axis])]


def take(x: Node, axis: int, places: Sequence[int]) -> Node:
    """Return the elements of x at known places of an axis, in their order."""
    count = x.shape[axis]
    if any(not 0 <= place < count for place in places):
        raise Refusal(f"takes elements of an axis of {count} that it does not have")
    if not places:
        return slice_axis(x, axis, 0, 0)
    first, step = places[0], places[1] - places[0] if len(places) > 1 else 1
    if all(place == first + k * step for k, place in enumerate(places)):
        if step == 1:
            return slice_axis(x, axis, first, first + len(places))
        if step > 1 and x.dtype != "int64":
            cut = slice_axis(x, axis, first, places[-1] + 1)
            sliding = Sliding(axis, (axis,), (1,), (step,), (1,), ((0, 0),))
            picked = windows(cut, sliding)
            return reshape(picked, (*x.shape[:axis], len(places), *x.shape[axis + 1 :]))
    if len(places) <= FEW and x.dtype != "int64":
        return concatenate([slice_axis(x, axis, place, place + 1) for place in places], axis)
    moved = move(x, [axis], [0])
    rows = reshape(moved, (count, x.size // count if count else 0))
    found = gather_rows(rows, table(x.graph, np.array(places, np.int64)))
    return move(reshape(found, (len(places), *moved.shape[1:])), [0], [axis])


def flip(x: Node, axis: int) -> Node:
    """Return x with an axis reversed."""
    return take(x, axis, range(x.shape[axis] - 1, -1, -1))


def largest_whole(graph: Graph) -> float:
    """Return the largest number up to which every integer is a float of the graph."""
    return 2.0**24 if graph.dtype == "float32" else 2.0**53


def check_exact(graph: Graph, count: int) -> None:
    """Raise `Refusal` if places among `count` elements cannot be computed exactly as floats of the graph."""
    if count > largest_whole(graph):
        raise Refusal(f"computes places among {count:,} elements, more than float32 tells apart; send dtype float64")


def lookup(flat: Node, places: Node | Array) -> Node:
    """Return the elements of a vector at places, which are known or whole floats; NaN where a computed place does not
    exist.

    Raises `Refusal` where a known place does not exist.
    """
    (count,) = flat.shape
    column = reshape(flat, (count, 1))
    if not isinstance(places, Node):
        if places.size and not (int(places.min()) >= 0 and int(places.max()) < count):
            raise Refusal(f"looks up places that {count} elements do not have")
        return reshape(gather_rows(column, table(flat.graph, places.astype(np.int64))), places.shape)
    check_exact(flat.graph, count)
    found = reshape(gather_rows(column, places), places.shape)
    inside = greater_equal(places, 0.0) * less(places, float(count))
    return where(inside, found, math.nan)


def spread(values: Node, places: Node | Array, count: int) -> Node:
    """Return a vector of `count` zeros with values added at known or computed places."""
    flat = values.shape
    if isinstance(places, Node):
        check_exact(values.graph, count)
        indices = places
    else:
        if places.size and not (int(places.min()) >= 0 and int(places.max()) < count):
            raise Refusal(f"writes to places that {count} elements do not have")
        indices = table(values.graph, places.astype(np.int64))
    return reshape(scatter_rows(reshape(values, (*flat, 1)), indices, count), (count,))


def padded(x: Node, pads: Sequence[tuple[int, int]], value: float | Node = 0.0) -> Node:
    """Return x with a constant around it. Negative pads cut elements off."""
    for axis, (low, high) in enumerate(pads):
        if low < 0 or high < 0:
            x = slice_axis(x, axis, max(0, -low), x.shape[axis] - max(0, -high))
    grown = [(max(0, low), max(0, high)) for low, high in pads]
    if not any(low or high for low, high in grown):
        return x
    y = x
    for axis, (low, high) in enumerate(grown):
        y = pad(y, axis, low, high)
    if not isinstance(value, Node) and value == 0.0:
        return y
    inside = np.zeros(y.shape)
    inside[tuple(slice(low, low + n) for (low, _), n in zip(grown, x.shape, strict=True))] = 1.0
    return where(table(x.graph, inside), y, value)


def sum_product(a: Node, b: Node) -> Node:
    """Return the matrix product of a and b by the rules of `numpy.matmul`, for any ranks."""
    if len(a.shape) == 1 and len(b.shape) == 1:
        if a.shape != b.shape:
            raise Refusal(f"vectors of {a.shape[0]} and {b.shape[0]} numbers have no product")
        return sum_over(a * b)
    if len(a.shape) == 1:
        y = sum_product(reshape(a, (1, *a.shape)), b)
        return reshape(y, (*y.shape[:-2], y.shape[-1]))
    if len(b.shape) == 1:
        y = sum_product(a, reshape(b, (*b.shape, 1)))
        return reshape(y, y.shape[:-1])
    if not a.shape or not b.shape or a.shape[-1] != b.shape[-2]:
        raise Refusal(f"matrices {list(a.shape)} and {list(b.shape)} have no product")
    if len(b.shape) == 2 and len(a.shape) > 2:
        rows = reshape(a, (math.prod(a.shape[:-1]), a.shape[-1])) @ b
        return reshape(rows, (*a.shape[:-1], b.shape[-1]))
    lead = shape_of_all(a.shape[:-2], b.shape[:-2])
    return broadcast(a, (*lead, *a.shape[-2:])) @ broadcast(b, (*lead, *b.shape[-2:]))
