"""Parts along one axis: slice and pad, which are each other's transposes, and concatenate."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np

from service.engine.arrays import Array
from service.engine.graph.ir import Attributes, Call, Graph, GraphTypeError, Node, Shape
from service.engine.graph.operations.rows import declare, declare_view, infer_same_dtype
from service.engine.graph.operations.shapes import broadcast, reshape

__all__ = ["concatenate", "pad", "slice_axis"]


def _batch_axis(node: Node, inputs: Sequence[Node], *_: Any) -> Node:
    axis, *rest = node.attributes
    return node.graph.apply(node.operation.name, inputs[0], attributes=(axis + 1, *rest))


def slice_axis(x: Node, axis: int, start: int, stop: int) -> Node:
    """Return `x[..., start:stop, ...]`: the elements from start to stop along one axis."""
    return x.graph.apply("slice", x, attributes=(axis, start, stop))


def _infer_slice(inputs: Sequence[Node], attributes: Attributes) -> tuple[Shape, str]:
    (x,), (axis, start, stop) = inputs, attributes
    if not 0 <= start <= stop <= x.shape[axis]:
        raise GraphTypeError(f"cannot take {start}:{stop} of axis {axis} of {x.shape}")
    return (*x.shape[:axis], stop - start, *x.shape[axis + 1 :]), x.dtype


def _pull_slices(position: int, cotangents: Sequence[Node], slices: Sequence[Node]) -> Node | None:
    """Return the cotangent of a value that was read in slices, in one piece. Padding each slice would take quadratic
    time. None where slices overlap or have different axes."""
    (source,) = slices[0].inputs
    axis = slices[0].attributes[0]
    if any(y.attributes[0] != axis for y in slices):
        return None
    pieces = sorted(zip((y.attributes[1:] for y in slices), cotangents, strict=True), key=lambda piece: piece[0])
    parts: list[Node] = []
    end = 0

    def skip_to(start: int) -> None:
        if start > end:
            gap = (*source.shape[:axis], start - end, *source.shape[axis + 1 :])
            parts.append(broadcast(source.graph.constant(0.0), gap))

    for (start, stop), g in pieces:
        if start < end:
            return None
        skip_to(start)
        parts.append(g)
        end = stop
    skip_to(source.shape[axis])
    return concatenate(parts, axis)


declare_view(
    "slice",
    lambda x, attributes, shape: x[(slice(None),) * attributes[0] + (slice(attributes[1], attributes[2]),)],
    infer=_infer_slice,
    pullbacks=(lambda g, y, x: g.graph.apply("pad", g, attributes=(*y.attributes[:2], x.shape[y.attributes[0]])),),
    joint=_pull_slices,
    batch=_batch_axis,
    latex="x_{a:b}",
    simplify=lambda graph, inputs, cut: inputs[0] if cut[1:] == (0, inputs[0].shape[cut[0]]) else None,
    numpy="np.take(a, range(start, stop), axis)",
    attribute_names=("axis", "start", "stop"),
)


def pad(x: Node, axis: int, before: int, after: int) -> Node:
    """Return x with this many zeros before and after it along one axis."""
    if not before and not after:
        return x
    return x.graph.apply("pad", x, attributes=(axis, before, before + x.shape[axis] + after))


def _infer_pad(inputs: Sequence[Node], attributes: Attributes) -> tuple[Shape, str]:
    (x,), (axis, start, total) = inputs, attributes
    if start < 0 or start + x.shape[axis] > total:
        raise GraphTypeError(f"cannot place {x.shape} at {start} of {total} along axis {axis}")
    return (*x.shape[:axis], total, *x.shape[axis + 1 :]), x.dtype


def _bind_pad(out: Array, inputs: Sequence[Array], attributes: Attributes, *_: Any) -> Iterable[Call]:
    (x,), (axis, start, _total) = inputs, attributes
    window = out[(slice(None),) * axis + (slice(start, start + x.shape[axis]),)]
    return (partial(out.fill, 0), partial(np.copyto, window, x))


declare(
    "pad",
    infer=_infer_pad,
    bind=_bind_pad,
    pullbacks=(
        lambda g, y, x: slice_axis(g, y.attributes[0], y.attributes[1], y.attributes[1] + x.shape[y.attributes[0]]),
    ),
    batch=_batch_axis,
    latex=r"\operatorname{pad}(x)",
    numpy="np.pad(a, [(start, total - start - n) if k == axis else (0, 0) for k, n in enumerate(a.shape)])",
    attribute_names=("axis", "start", "total"),
)


def concatenate(parts: Sequence[Node], axis: int) -> Node:
    return parts[0].graph.apply("concatenate", *parts, attributes=(axis % len(parts[0].shape),))


def _infer_concatenate(inputs: Sequence[Node], attributes: Attributes) -> tuple[Shape, str]:
    (axis,) = attributes
    first = inputs[0].shape
    for x in inputs:
        if len(x.shape) != len(first) or x.shape[:axis] + x.shape[axis + 1 :] != first[:axis] + first[axis + 1 :]:
            raise GraphTypeError(f"cannot concatenate {[y.shape for y in inputs]} along axis {axis}")
    return (*first[:axis], sum(x.shape[axis] for x in inputs), *first[axis + 1 :]), infer_same_dtype(inputs)


def _pull_concatenate(position: int) -> Callable[..., Node]:
    def rule(g: Node, y: Node, *inputs: Node) -> Node:
        (axis,) = y.attributes
        start = sum(x.shape[axis] for x in inputs[:position])
        return slice_axis(g, axis, start, start + inputs[position].shape[axis])

    return rule


def _batch_concatenate(node: Node, inputs: Sequence[Node], is_batched: Sequence[bool], size: int) -> Node:
    whole = [x if batched else broadcast(x, (size, *x.shape)) for x, batched in zip(inputs, is_batched, strict=True)]
    return concatenate(whole, node.attributes[0] + 1)


def _simplify_concatenate(graph: Graph, inputs: tuple[Node, ...], attributes: Attributes) -> Node | None:
    if len(inputs) == 1:
        return inputs[0]
    (axis,) = attributes
    if axis == 0 and all(x.operation.name == "reshape" and x.shape[1:] == x.inputs[0].shape for x in inputs):
        # Stacked single entries hold the same numbers as their rows, concatenated.
        sources = [x.inputs[0] for x in inputs]
        if sources[0].shape and all(x.shape[0] == 1 for x in inputs):
            return reshape(concatenate(sources, 0), (len(inputs), *sources[0].shape))
    return None


declare(
    "concatenate",
    infer=_infer_concatenate,
    bind=lambda out, inputs, attributes, _: (partial(np.concatenate, tuple(inputs), *attributes, out),),
    pullbacks=_pull_concatenate,
    batch=_batch_concatenate,
    latex="[a, b]",
    simplify=_simplify_concatenate,
    numpy="np.concatenate(parts, axis)",
    attribute_names=("axis",),
)
