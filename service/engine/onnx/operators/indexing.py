"""ONNX operators that read, write and order elements by their places.

This is one module because it is one list of declarations that share their helpers for places.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from service.engine.arrays import Array
from service.engine.graph.ir import Node, Shape
from service.engine.graph.operations import (
    broadcast,
    gather_rows,
    greater,
    greater_equal,
    maximum,
    minimum,
    reshape,
    slice_axis,
    table,
    transpose,
    where,
)
from service.engine.graph.operations import order as ordered_places
from service.engine.onnx.assembly import Call
from service.engine.onnx.composing import (
    axis_of,
    full,
    lookup,
    move,
    padded,
    spread,
    take,
    unsqueeze,
)
from service.engine.onnx.registry import FLOAT, operator
from service.engine.onnx.values import Value, known

Places = Node | Array


def _strides(shape: Shape) -> list[int]:
    """Return the distance between neighbours along each axis, in elements, in row-major order."""
    return [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]


def places_of(call: Call, indices: Value, count: int) -> Places:
    """Return indices along an axis of length `count` as places from 0 on.

    Negative indices count from the end. Known places are an array, computed ones a node.
    """
    if indices.array is not None:
        array = indices.array.astype(np.int64)
        if array.size and not (-count <= int(array.min()) and int(array.max()) < count):
            call.refuse(f"looks up {int(array.min())} to {int(array.max())} along an axis of {count}")
        return np.where(array < 0, array + count, array)
    node = call.x(indices)
    return where(greater(0.0 - node, 0.0), node + float(count), node)


def _grid(shape: Shape, axis: int) -> Array:
    """Return the place of each element of a shape along one axis, as an array to be broadcast."""
    return np.arange(shape[axis]).reshape([-1 if k == axis else 1 for k in range(len(shape))])


def _sum_of(call: Call, parts: Sequence[tuple[Places, int]], shape: Shape) -> Places:
    """Return the sum of places times strides, broadcast to a shape."""
    known_part: Array = np.zeros(shape, np.int64)
    nodes = []
    for places, stride in parts:
        if isinstance(places, Node):
            nodes.append(broadcast(places, shape) * float(stride))
        else:
            known_part = known_part + np.broadcast_to(places, shape) * stride
    if not nodes:
        return known_part
    total: Node = table(call.graph, known_part.astype(float))
    for node in nodes:
        total = total + node
    return total


def picked(x: Node, places: Places) -> Node:
    """Return the element of each row of x `(*s, n)` at the row's place: shape `s`."""
    rows, n = math.prod(x.shape[:-1]), x.shape[-1]
    first = np.arange(rows).reshape(x.shape[:-1]) * n
    if isinstance(places, Node):
        inside = greater_equal(places, 0.0) * greater_equal(float(n - 1) - places, 0.0)
        found = lookup(reshape(x, (x.size,)), table(x.graph, first.astype(float)) + places)
        return where(inside, found, math.nan)
    if places.size and not (int(places.min()) >= 0 and int(places.max()) < n):
        from service.engine.onnx.refusal import Refusal

        raise Refusal(f"looks up {int(places.min())} to {int(places.max())} among {n}")
    return lookup(reshape(x, (x.size,)), first + places)


@operator("Gather", integers=True, fold=lambda call, x, i: np.take(
    x, np.where(i < 0, i + x.shape[axis_of(call.integer("axis"), x.ndim)], i), axis_of(call.integer("axis"), x.ndim)
))  # fmt: skip
def gather(call: Call, x: Value, indices: Value) -> Value:
    """Build Gather: return the slices of x at indices along an axis."""
    axis = axis_of(call.integer("axis"), len(x.shape))
    count = x.shape[axis]
    if indices.array is not None:
        places = places_of(call, indices, count)
        assert not isinstance(places, Node)
        node = x.node if x.node is not None else call.x(x)
        found = take(node, axis, [int(each) for each in places.reshape(-1)])
        shape = (*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])
        return Value(None, reshape(found, shape), x.dtype)
    node = call.x(x)
    rest = (*node.shape[:axis], *node.shape[axis + 1 :])
    rows = reshape(move(node, [axis], [0]), (count, math.prod(rest)))
    if indices.node is not None and indices.node.dtype == "int64":
        # The indices are an input of the network, whose numbers are checked with the request.
        _see_vocabulary(call, indices.node, count)
        found = gather_rows(rows, indices.node)
    else:
        found = _rows_at(rows, places_of(call, indices, count))
    moved = reshape(found, (*indices.shape, *rest))
    lead = len(indices.shape)
    order = (*range(lead, lead + axis), *range(lead), *range(lead + axis, lead + len(rest)))
    return Value(None, transpose(moved, order), x.dtype)


def _see_vocabulary(call: Call, indices: Node, count: int) -> None:
    """Note the number of rows that an input of indices is looked up in."""
    while indices.operation.view is not None:
        indices = indices.inputs[0]
    name = indices.attributes[0].rpartition("inputs/")[2]
    call.assembly.see_vocabulary(name, call.assembly.linked.names.get(id(call.step), call.step.operation), count)


def _rows_at(rows: Node, places: Places) -> Node:
    """Return the rows at computed places; NaN where there is no such row."""
    assert isinstance(places, Node)
    found = gather_rows(rows, places)
    inside = greater_equal(places, 0.0) * greater_equal(float(rows.shape[0] - 1) - places, 0.0)
    return where(broadcast(unsqueeze(inside, [len(inside.shape)]), found.shape), found, math.nan)


@operator("GatherElements", integers=True)
def gather_elements(call: Call, x: Value, indices: Value) -> Value:
    """Build GatherElements: return the element of x at each index along an axis."""
    return Value(None, _elements(call, x, indices, call.integer("axis")), x.dtype)


def _element_places(call: Call, x: Shape, indices: Value, axis: int) -> Places:
    """Return the flat places in x of the elements that GatherElements or ScatterElements means."""
    strides = _strides(x)
    parts: list[tuple[Places, int]] = [
        (places_of(call, indices, x[k]) if k == axis else _grid(indices.shape, k), strides[k]) for k in range(len(x))
    ]
    return _sum_of(call, parts, indices.shape)


def _elements(call: Call, x: Value, indices: Value, axis: int) -> Node:
    """Return the elements of x at indices along an axis, in the shape of the indices."""
    node = call.x(x)
    places = _element_places(call, node.shape, indices, axis_of(axis, len(node.shape)))
    return lookup(reshape(node, (node.size,)), places)


def _nd_places(call: Call, x: Shape, indices: Value, batch: int) -> tuple[Places, Shape]:
    """Return the places of the slices that indices of several axes select, and the shape of a slice.

    Places count slices.
    """
    depth = indices.shape[-1]
    strides = _strides(x[: batch + depth])
    lead = indices.shape[:-1]
    parts: list[tuple[Places, int]] = [(_grid(lead, k), strides[k]) for k in range(batch)]
    for k in range(depth):
        if indices.array is not None:
            each = Value(indices.array[..., k])
        else:
            node = call.x(indices)
            last = len(node.shape) - 1
            each = Value(None, reshape(slice_axis(node, last, k, k + 1), lead), indices.dtype)
        parts.append((places_of(call, each, x[batch + k]), strides[batch + k]))
    return _sum_of(call, parts, lead), x[batch + depth :]


def _inner_places(call: Call, places: Places, inner: Shape) -> Places:
    """Return the places of all elements of slices of shape `inner`, by the places of the slices."""
    size = math.prod(inner)
    shape = (*(places.shape), size)
    column = unsqueeze(places, [len(places.shape)]) if isinstance(places, Node) else places[..., None]
    return _sum_of(call, [(column, size), (np.arange(size), 1)], shape)


@operator("GatherND", integers=True)
def gather_nd(call: Call, x: Value, indices: Value) -> Value:
    """Build GatherND: return the slices of x at indices of several axes."""
    node = call.x(x)
    places, inner = _nd_places(call, node.shape, indices, call.integer("batch_dims"))
    found = lookup(reshape(node, (node.size,)), _inner_places(call, places, inner))
    return Value(None, reshape(found, (*indices.shape[:-1], *inner)), x.dtype)


def _written(call: Call, x: Node, places: Places, updates: Node, reduction: str) -> Node:
    """Return x with updates written to, or combined at, flat places of its elements."""
    flat, values = reshape(x, (x.size,)), reshape(updates, (updates.size,))
    at = reshape(places, (updates.size,)) if isinstance(places, Node) else places.reshape(-1)
    if reduction == "add":
        return reshape(flat + spread(values, at, x.size), x.shape)
    if reduction != "none":
        return reshape(_combined(call, flat, values, at, reduction), x.shape)
    if isinstance(at, Node):
        hit = greater(spread(full(call.graph, 1.0, values.shape), at, x.size), 0.0)
    else:
        if at.size != len(np.unique(at)):
            # Of several updates of one place, the last one stays.
            _, last = np.unique(at[::-1], return_index=True)
            chosen = np.sort(at.size - 1 - last)
            values, at = take(values, 0, chosen.tolist()), at[chosen]
        marks = np.zeros(x.size)
        marks[at] = 1.0
        hit = table(call.graph, marks)
    return reshape(where(hit, spread(values, at, x.size), flat), x.shape)


def _combined(call: Call, flat: Node, values: Node, at: Places, reduction: str) -> Node:
    """Return `flat` with all updates combined at their places, in rounds without two updates of one place."""
    if isinstance(at, Node):
        call.refuse(f"reduction {reduction!r} at places that only become known when the graph runs")
    join = {"mul": lambda a, b: a * b, "max": maximum, "min": minimum}.get(reduction)
    if join is None:
        call.refuse(f"reduction {reduction!r} is not known")
    rounds: list[list[int]] = []
    seen: dict[int, int] = {}
    for position, place in enumerate(at.tolist()):
        number = seen.get(place, 0)
        seen[place] = number + 1
        if number == len(rounds):
            rounds.append([])
        rounds[number].append(position)
    if len(rounds) > 64:
        call.refuse(f"{len(rounds)} updates of one place are combined; at most 64 are")
    for positions in rounds:
        marks = np.zeros(flat.size)
        marks[at[positions]] = 1.0
        update = spread(take(values, 0, positions), at[positions], flat.size)
        flat = where(table(call.graph, marks), join(flat, update), flat)
    return flat


@operator("ScatterElements", "Scatter", integers=True)
def scatter_elements(call: Call, x: Value, indices: Value, updates: Value) -> Value:
    """Build ScatterElements: return x with updates at indices along an axis."""
    node = call.x(x)
    axis = axis_of(call.integer("axis"), len(node.shape))
    places = _element_places(call, node.shape, indices, axis)
    return Value(None, _written(call, node, places, call.x(updates), call.word("reduction", "none")), x.dtype)


@operator("ScatterND", integers=True)
def scatter_nd(call: Call, x: Value, indices: Value, updates: Value) -> Value:
    """Build ScatterND: return x with updates of slices at indices of several axes."""
    node = call.x(x)
    places, inner = _nd_places(call, node.shape, indices, 0)
    at = _inner_places(call, places, inner)
    return Value(None, _written(call, node, at, call.x(updates), call.word("reduction", "none")), x.dtype)


@operator("TensorScatter", static=(2,), integers=True)
def tensor_scatter(call: Call, x: Value, update: Value, first: Value | None = None) -> Value:
    """Build TensorScatter: return a cache x with an update written from the place `first` on."""
    node, new = call.x(x), call.x(update)
    axis = axis_of(call.integer("axis", -2), len(node.shape))
    count, length = node.shape[axis], new.shape[axis]
    start = np.zeros(node.shape[0], np.int64) if first is None else call.known(first, "write_indices").astype(np.int64)
    along = start.reshape([-1 if k == 0 else 1 for k in range(len(node.shape))]) + _grid(new.shape, axis)
    if call.word("mode", "linear") == "circular":
        along = along % count
    if along.size and not (int(along.min()) >= 0 and int(along.max()) < count):
        call.refuse(f"writes {length} elements outside an axis of {count}")
    strides = _strides(node.shape)
    parts = [(along if k == axis else _grid(new.shape, k), strides[k]) for k in range(len(node.shape))]
    return Value(None, _written(call, node, _sum_of(call, parts, new.shape), new, "none"), x.dtype)


@operator("OneHot", static=(1,), integers=True)
def one_hot(call: Call, indices: Value, depth: Value, values: Value) -> Value:
    """Build OneHot: return vectors of length `depth` that mark the indices."""
    count = call.ints(depth, "the depth")[0]
    off_on = call.x(values)
    off, on = (reshape(slice_axis(off_on, 0, k, k + 1), ()) for k in (0, 1))
    axis = axis_of(call.integer("axis", -1), len(indices.shape) + 1)
    shape = (*indices.shape[:axis], count, *indices.shape[axis:])
    call.bounded((count,))
    places = _grid(shape, axis)
    node = broadcast(unsqueeze(call.x(indices), [axis]), shape)
    node = where(greater(0.0 - node, 0.0), node + float(count), node)
    at = broadcast(table(call.graph, places.astype(float)), shape)
    return Value(None, where(greater_equal(node, at) * greater_equal(at, node), on, off), values.dtype)


@operator("TopK", static=(1,), integers=True)
def top_k(call: Call, x: Value, count: Value | None = None) -> tuple[Value, Value]:
    """Build TopK: return the largest or least elements of each row, and their places."""
    node = call.x(x)
    axis = axis_of(call.integer("axis", -1), len(node.shape))
    k = call.integer("k") if count is None else call.ints(count, "k")[0]
    if not 0 <= k <= node.shape[axis]:
        call.refuse(f"takes {k} of {node.shape[axis]} elements")
    last = len(node.shape) - 1
    moved = move(node, [axis], [last])
    places = ordered_places(moved, descending=bool(call.integer("largest", 1)))
    best = slice_axis(places, last, 0, k)
    found = _elements(call, Value(None, moved), Value(None, best, "int64"), last)
    return (
        Value(None, move(found, [last], [axis]), x.dtype),
        Value(None, move(best, [last], [axis]), "int64"),
    )


@operator("Compress", static=(1,), integers=True)
def compress(call: Call, x: Value, condition: Value) -> Value:
    """Build Compress: return the slices of x for which a condition holds."""
    kept = np.flatnonzero(call.known(condition, "the condition").reshape(-1)).tolist()
    node = call.x(x)
    axis = call.attr("axis")
    if axis is None:
        return Value(None, take(reshape(node, (node.size,)), 0, kept), x.dtype)
    return Value(None, take(node, axis_of(int(axis), len(node.shape)), kept), x.dtype)


@operator("ReverseSequence", static=(1,), integers=True)
def reverse_sequence(call: Call, x: Value, lengths: Value) -> Value:
    """Build ReverseSequence: return x with the start of each sequence reversed."""
    node = call.x(x)
    rank = len(node.shape)
    time, batch = axis_of(call.integer("time_axis"), rank), axis_of(call.integer("batch_axis", 1), rank)
    steps = np.arange(node.shape[time])
    given = np.array(call.ints(lengths, "the lengths"))[:, None]
    places = np.where(steps < given, given - 1 - steps, steps)
    at = places if batch < time else places.T
    shape = [1] * rank
    shape[batch], shape[time] = node.shape[batch], node.shape[time]
    indices = np.broadcast_to(at.reshape(shape), node.shape)
    return Value(None, _elements(call, x, Value(indices), time), x.dtype)


@operator("Trilu", static=(1,), integers=True)
def triangle(call: Call, x: Value, diagonal: Value | None = None) -> Value:
    """Build Trilu: return the upper or lower triangle of matrices, with zeros elsewhere."""
    k = 0 if diagonal is None else call.ints(diagonal, "k")[0]
    ones = np.ones(call.bounded(x.shape[-2:]))
    mask = np.triu(ones, k) if call.integer("upper", 1) else np.tril(ones, k)
    if x.array is not None:
        return Value(np.where(mask != 0.0, x.array, np.zeros((), x.array.dtype)))
    node = call.x(x)
    return Value(None, where(broadcast(table(call.graph, mask), node.shape), node, 0.0), x.dtype)


@operator("NonZero", static=None, result="int64", integers=True)
def non_zero(call: Call, x: Value) -> Value:
    """Build NonZero: return the places of the elements that are not 0."""
    return Value(np.array(np.nonzero(call.known(x, "what is looked through"))))


@operator("EyeLike", shape_only=True, integers=True, result=FLOAT)
def eye_like(call: Call, x: Value) -> Value:
    """Build EyeLike: return a matrix of the shape of x with ones on the k-th diagonal."""
    from service.engine.onnx.tensors import dtype_of

    rows, columns = call.bounded(x.shape)
    dtype = dtype_of(call.integer("dtype")) if call.has("dtype") else x.dtype
    return Value(np.eye(rows, columns, call.integer("k")).astype(dtype))


@operator("Range", static=None, integers=True)
def numbers(call: Call, start: Value, limit: Value, delta: Value) -> Value:
    """Build Range: return the numbers from `start` to before `limit` in steps of `delta`."""
    first, last, step = (call.known(each, "the range").reshape(())[()] for each in (start, limit, delta))
    count = max(math.ceil((last - first) / step), 0)
    (count,) = call.bounded((count,))
    return Value((first + np.arange(count) * step).astype(start.dtype))


@operator("ConstantOfShape", static=None, integers=True)
def constant_of_shape(call: Call, shape: Value) -> Value:
    """Build ConstantOfShape: return an array of a shape, filled with one number."""
    value = call.attr("value")
    number = np.zeros((), np.float32) if value is None else np.asarray(value).reshape(())
    target = tuple(call.ints(shape, "the shape"))
    if any(n < 0 for n in target) or math.prod(target) > call.graph.most_bytes:
        call.bounded(target)
    return Value(np.broadcast_to(number, target))


@operator("Constant", integers=True)
def constant(call: Call) -> Value:
    """Build Constant: return the array in the attributes."""
    for name, dtype in (("value_float", "float32"), ("value_floats", "float32"), ("value_int", "int64"),
                        ("value_ints", "int64")):  # fmt: skip
        found = call.attr(name)
        if found is not None:
            return known(found, dtype)
    value: Any = call.attr("value")
    if not isinstance(value, np.ndarray):
        call.refuse("holds no array of numbers")
    return Value(value)


@operator("Tile", static=(1,), integers=True)
def tile(call: Call, x: Value, repeats: Value) -> Value:
    """Build Tile: return x repeated along its axes."""
    counts = call.ints(repeats, "the repeats")
    if len(counts) != len(x.shape):
        call.refuse(f"has {len(counts)} repeats for {len(x.shape)} axes")
    target = tuple(n * count for n, count in zip(x.shape, counts, strict=True))
    if x.array is not None:
        call.bounded(target)
        return Value(np.tile(x.array, counts))
    node = call.x(x)
    for axis, count in enumerate(counts):
        if count != 1:
            wider = broadcast(unsqueeze(node, [axis]), (*node.shape[:axis], count, *node.shape[axis:]))
            node = reshape(wider, (*node.shape[:axis], count * node.shape[axis], *node.shape[axis + 1 :]))
    return Value(None, node, x.dtype)


@operator("DepthToSpace", integers=True)
def depth_to_space(call: Call, x: Value) -> Value:
    """Build DepthToSpace: return x with channels moved into blocks of the image."""
    node = call.x(x)
    samples, channels, height, width = node.shape
    size = call.integer("blocksize", 1)
    rest = channels // (size * size)
    if call.word("mode", "DCR") == "DCR":
        y = transpose(reshape(node, (samples, size, size, rest, height, width)), (0, 3, 4, 1, 5, 2))
    else:
        y = transpose(reshape(node, (samples, rest, size, size, height, width)), (0, 1, 4, 2, 5, 3))
    return Value(None, reshape(y, (samples, rest, height * size, width * size)), x.dtype)


@operator("SpaceToDepth", integers=True)
def space_to_depth(call: Call, x: Value) -> Value:
    """Build SpaceToDepth: return x with blocks of the image moved into channels."""
    node = call.x(x)
    samples, channels, height, width = node.shape
    size = call.integer("blocksize", 1)
    split = reshape(node, (samples, channels, height // size, size, width // size, size))
    order = (0, 3, 5, 1, 2, 4) if call.word("mode", "DCR") == "DCR" else (0, 1, 3, 5, 2, 4)
    y = transpose(split, order)
    return Value(None, reshape(y, (samples, size * size * channels, height // size, width // size)), x.dtype)


@operator("CenterCropPad", static=(1,), integers=True)
def center_crop_pad(call: Call, x: Value, target: Value) -> Value:
    """Build CenterCropPad: return x cut or padded around its centre to target lengths."""
    node = call.x(x)
    lengths = call.ints(target, "the shape")
    axes = [axis_of(each, len(node.shape)) for each in call.integers("axes", range(len(node.shape)))]
    pads = [(0, 0)] * len(node.shape)
    for axis, length in zip(axes, lengths, strict=True):
        more = length - node.shape[axis]
        low = more // 2 if more >= 0 else -((-more) // 2)
        pads[axis] = (low, more - low)
    return Value(None, padded(node, pads), x.dtype)


def _reflected(mode: str, n: int, low: int, high: int) -> list[int]:
    """Return the places, among n, of an axis with `low` and `high` more places at its ends, by the mode of padding."""
    places = np.arange(-low, n + high)
    if mode == "edge":
        return np.clip(places, 0, n - 1).tolist()  # type: ignore[no-any-return]
    if mode == "wrap":
        return (places % n).tolist()
    if n == 1:
        return [0] * len(places)
    period = 2 * (n - 1)
    turned = np.abs((places + period * (1 + low // period)) % period)
    return np.where(turned >= n, period - turned, turned).tolist()  # type: ignore[no-any-return]


@operator("Pad", static=(1, 3), integers=True)
def pad_by_inputs(
    call: Call, x: Value, pads: Value | None = None, value: Value | None = None, axes: Value | None = None
) -> Value:
    """Build Pad: return x with elements added at, or cut off, the ends of axes."""
    node = call.x(x)
    rank = len(node.shape)
    if call.version < 11:
        given, number = call.integers("pads"), call.number("value")
        fill: float | Node = number
    else:
        given = call.ints(pads, "the pads")
        fill = 0.0 if value is None else reshape(call.x(value), ())
    chosen = list(range(rank)) if axes is None else [axis_of(each, rank) for each in call.ints(axes, "the axes")]
    if len(given) != 2 * len(chosen):
        call.refuse(f"has {len(given)} pads for {len(chosen)} axes")
    widths = [(0, 0)] * rank
    for axis, low, high in zip(chosen, given[: len(chosen)], given[len(chosen) :], strict=True):
        widths[axis] = (low, high)
    call.bounded(tuple(max(0, low + high) for low, high in widths))
    mode = call.word("mode", "constant")
    if mode == "constant":
        return Value(None, padded(node, widths, fill), x.dtype)
    for axis, (low, high) in enumerate(widths):
        if low < 0 or high < 0:
            node = slice_axis(node, axis, max(0, -low), node.shape[axis] - max(0, -high))
        if low > 0 or high > 0:
            node = take(node, axis, _reflected(mode, node.shape[axis], max(0, low), max(0, high)))
    return Value(None, node, x.dtype)
