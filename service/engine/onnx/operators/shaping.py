"""ONNX operators that change shapes, cut tensors and join them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from service.engine.arrays import Array
from service.engine.graph.ir import Node, Shape
from service.engine.graph.operations import broadcast, concatenate, reshape, slice_axis, transpose
from service.engine.onnx.assembly import Call
from service.engine.onnx.composing import axes_of, axis_of, shape_of_all, sum_product, take, unsqueeze
from service.engine.onnx.registry import INT, operator
from service.engine.onnx.values import Value, known


def same_node(x: Value, node: Node) -> Value:
    """Return a node as a value with the element type of x."""
    return Value(None, node, x.dtype)


def node_of(call: Call, x: Value) -> Node:
    """Return a value as a node; integers stay integers."""
    return x.node if x.node is not None else call.x(x)


@operator("Shape", shape_only=True, integers=True, result=INT)
def shape(call: Call, x: Value) -> Value:
    """Build Shape: return the lengths of the axes of x, or of the part of the axes that the attributes select."""
    rank = len(x.shape)
    start, end = call.integer("start"), call.attr("end")
    return known(list(x.shape)[slice(start, rank if end is None else int(end))])


@operator("Size", shape_only=True, integers=True, result=INT)
def size(call: Call, x: Value) -> Value:
    """Build Size: return the number of elements of x."""
    return known(math.prod(x.shape))


def resolved(call: Call, x: Shape, wanted: Sequence[int], *, zero_is_zero: bool) -> Shape:
    """Return the shape that a Reshape asks for. 0 stands for the length in x, -1 for the length that is left."""
    count = math.prod(x)
    lengths = [x[axis] if n == 0 and not zero_is_zero and axis < len(x) else int(n) for axis, n in enumerate(wanted)]
    if lengths.count(-1) == 1:
        rest = math.prod(n for n in lengths if n != -1)
        if rest and not count % rest:
            lengths[lengths.index(-1)] = count // rest
    if any(n < 0 for n in lengths) or math.prod(lengths) != count:
        call.refuse(f"cannot give shape {list(wanted)} to {count} numbers of shape {list(x)}")
    return tuple(lengths)


@operator("Reshape", static=(1,), integers=True, fold=lambda call, x, s: x.reshape(
    resolved(call, x.shape, [int(n) for n in s.reshape(-1)], zero_is_zero=bool(call.integer("allowzero")))
))  # fmt: skip
def reshaped(call: Call, x: Value, wanted: Value) -> Value:
    """Build Reshape: return x with the wanted shape."""
    target = call.ints(wanted, "the shape")
    node = node_of(call, x)
    return same_node(x, reshape(node, resolved(call, x.shape, target, zero_is_zero=bool(call.integer("allowzero")))))


@operator("Flatten", integers=True)
def flatten(call: Call, x: Value) -> Value:
    """Build Flatten: return x as a matrix, with the axes before the attribute `axis` as rows."""
    axis = call.integer("axis", 1)
    axis = axis + len(x.shape) if axis < 0 else axis
    target = (math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))
    return same_node(x, reshape(node_of(call, x), target))


@operator("Transpose", integers=True)
def transposed(call: Call, x: Value) -> Value:
    """Build Transpose: return x with its axes in the order of `perm`, by default reversed."""
    order = call.integers("perm") or list(range(len(x.shape)))[::-1]
    return same_node(x, transpose(node_of(call, x), order))


def _given_axes(call: Call, axes: Value | None, since: int) -> list[int] | None:
    """Return the axes of an operator, which are an attribute before opset `since` and an input from it on."""
    if call.version >= since:
        return None if axes is None else call.ints(axes, "the axes")
    found = call.attr("axes")
    return None if found is None else [int(each) for each in found]


def _squeezed(call: Call, x: Shape, axes: Value | None) -> Shape:
    """Return a shape without the given axes of length 1, or without all of them if none are given."""
    given = _given_axes(call, axes, 13)
    chosen = [axis for axis, n in enumerate(x) if n == 1] if given is None else axes_of(given, len(x))
    if any(x[axis] != 1 for axis in chosen):
        call.refuse(f"takes out axes {list(chosen)} of {list(x)}, which are not all of length 1")
    return tuple(n for axis, n in enumerate(x) if axis not in chosen)


@operator("Squeeze", static=(1,), integers=True,
          fold=lambda call, x, axes=None: x.reshape(
              _squeezed(call, x.shape, None if axes is None else Value(axes))))  # fmt: skip
def squeeze(call: Call, x: Value, axes: Value | None = None) -> Value:
    """Build Squeeze: return x without axes of length 1."""
    return same_node(x, reshape(node_of(call, x), _squeezed(call, x.shape, axes)))


@operator("Unsqueeze", static=(1,), integers=True,
          fold=lambda call, x, axes=None: np.expand_dims(
              x, tuple(_given_axes(call, None if axes is None else Value(axes), 13) or ())))  # fmt: skip
def unsqueezed(call: Call, x: Value, axes: Value | None = None) -> Value:
    """Build Unsqueeze: return x with new axes of length 1."""
    return same_node(x, unsqueeze(node_of(call, x), _given_axes(call, axes, 13) or []))


@operator("Concat", integers=True, fold=lambda call, *parts: np.concatenate(parts, call.integer("axis", 1)))
def concat(call: Call, *parts: Value) -> Value:
    """Build Concat: return the parts joined along an axis."""
    axis = axis_of(call.integer("axis", 1), len(parts[0].shape))
    nodes = [call.x(part) for part in parts if 0 not in part.shape or len(parts) == 1] or [call.x(parts[0])]
    return same_node(parts[0], concatenate(nodes, axis))


def _slices(call: Call, x: Shape, starts: Sequence[int], ends: Sequence[int], axes: Sequence[int] | None,
            steps: Sequence[int] | None) -> list[tuple[int, range]]:  # fmt: skip
    """Return the axes that a Slice cuts, each with the places that remain."""
    axes = list(range(len(starts))) if axes is None else axes
    steps = [1] * len(starts) if steps is None else steps
    found = []
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if step == 0:
            call.refuse("steps of 0 lead nowhere")
        place = axis_of(axis, len(x))
        n = x[place]
        low, high = (0, n) if step > 0 else (-1, n - 1)
        start = min(max(start + n if start < 0 else start, 0), high)
        end = min(max(end + n if end < 0 else end, low), n if step > 0 else n - 1)
        found.append((place, range(start, end, step)))
    return found


def _fold_slice(call: Call, x: Array, *rest: Array) -> Array:
    """Compute a Slice of known arrays."""
    numbers = [None if each is None else [int(n) for n in each.reshape(-1)] for each in rest]
    if not rest:
        numbers = [call.integers("starts"), call.integers("ends"), call.attr("axes")]
    starts, ends, axes, steps = (*numbers, None, None)[:4]
    for axis, places in _slices(call, x.shape, starts or [], ends or [], axes, steps):
        index = [slice(None)] * x.ndim
        index[axis] = slice(places.start, places.stop if places.stop >= 0 else None, places.step)
        x = x[tuple(index)] if len(places) else np.take(x, [], axis)
    return x


@operator("Slice", static=(1, 2, 3, 4), integers=True, fold=_fold_slice)
def sliced(call: Call, x: Value, *rest: Value | None) -> Value:
    """Build Slice: return a part of x, with starts, ends, axes and steps from inputs or attributes."""
    if call.version < 10:
        numbers = [call.integers("starts"), call.integers("ends"), call.attr("axes")]
    else:
        names = ("starts", "ends", "axes", "steps")
        numbers = [
            None if each is None else call.ints(each, f"the {name}") for each, name in zip(rest, names, strict=False)
        ]
    starts, ends, axes, steps = (*numbers, None, None)[:4]
    node = node_of(call, x)
    for axis, places in _slices(call, x.shape, starts or [], ends or [], axes, steps):
        node = take(node, axis, places)
    return same_node(x, node)


@operator("Split", static=(1,), integers=True)
def split(call: Call, x: Value, lengths: Value | None = None) -> list[Value]:
    """Build Split: return the parts of x along an axis."""
    axis = axis_of(call.integer("axis"), len(x.shape))
    count = len(call.step.outputs)
    n = x.shape[axis]
    given = call.integers("split") or (None if lengths is None else call.ints(lengths, "the lengths"))
    if not given:
        count = call.integer("num_outputs", count) or 1
        each = -(-n // count)
        given = [min(each, max(0, n - k * each)) for k in range(count)]
    if sum(given) != n or any(length < 0 for length in given):
        call.refuse(f"cannot split an axis of {n} into {given[:20]}")
    node, start, parts = node_of(call, x), 0, []
    for length in given:
        parts.append(same_node(x, slice_axis(node, axis, start, start + length)))
        start += length
    return parts


@operator("Expand", static=(1,), integers=True)
def expand(call: Call, x: Value, wanted: Value) -> Value:
    """Build Expand: return x broadcast to the common shape of x and the wanted shape."""
    target = shape_of_all(x.shape, tuple(call.ints(wanted, "the shape")))
    if x.array is not None:
        return Value(np.broadcast_to(x.array, call.bounded(target)))
    return same_node(x, broadcast(node_of(call, x), target))


@operator("MatMul", integers=True)
def matmul(call: Call, a: Value, b: Value) -> Node:
    """Build MatMul: return the matrix product by NumPy's rules."""
    return sum_product(call.x(a), call.x(b))


@operator("Gemm")
def gemm(call: Call, a: Value, b: Value, c: Value | None = None) -> Node:
    """Build Gemm: return alpha · a b + beta · c, with a and b transposed if the attributes say so."""
    x, y = call.x(a), call.x(b)
    if len(x.shape) != 2 or len(y.shape) != 2:
        call.refuse(f"takes two matrices, got shapes {list(x.shape)} and {list(y.shape)}")
    x = transpose(x) if call.integer("transA") else x
    y = transpose(y) if call.integer("transB") else y
    product = sum_product(x, y)
    alpha, beta = call.number("alpha", 1.0), call.number("beta", 1.0)
    product = product if alpha == 1.0 else alpha * product
    if c is None:
        return product
    bias = call.x(c) if beta == 1.0 else beta * call.x(c)
    shape_of_all(product.shape, bias.shape)
    return product + (bias if bias.shape in ((), product.shape) else broadcast(bias, product.shape))
