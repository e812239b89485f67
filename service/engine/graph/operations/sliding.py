"""Values that are read window by window: convolution and pooling.

`windows` gathers every window that slides over some axes, and `overlap_add` adds such windows back
where they came from. Both are linear and each is the other's transpose, so between them they
differentiate to any order; a convolution is `windows` and one matrix product (im2col), its input
gradient a product and `overlap_add` (col2im).

The window axes come first in memory and the positions last, `(k, c, n, p)`: a window is then filled
by one long copy for each of its elements, and the product with a kernel `(k c, o)` takes the columns
as they lie. Measured against rows of windows `(n, p, k, c)`, tensordot and one product per offset:
1.5 to 10 times faster at the sizes of LeNet.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from service.engine.arrays import Array
from service.engine.graph.ir import Attributes, Call, Graph, GraphTypeError, Node, Shape
from service.engine.graph.operations.shapes import reshape
from service.engine.graph.operations.table import declare, infer_same_dtype

__all__ = ["Sliding", "overlap_add", "windows"]


class Sliding(NamedTuple):
    """How a window slides: one entry of each for every axis it covers."""

    at: int
    """Where the axes of the window stand in the result."""
    axes: tuple[int, ...]
    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    """Elements added before and after each axis."""

    def positions(self, shape: Shape) -> tuple[int, ...]:
        """How many windows fit along each axis of a value of `shape`; 0 or less: none."""
        return tuple(
            (shape[axis] + low + high - (size - 1) * dilation - 1) // stride + 1
            for axis, size, stride, dilation, (low, high) in zip(
                self.axes, self.sizes, self.strides, self.dilations, self.padding, strict=True
            )
        )

    def gathered(self, shape: Shape) -> Shape:
        """The shape of all windows of a value of `shape`."""
        replaced = list(shape)
        for axis, count in zip(self.axes, self.positions(shape), strict=True):
            replaced[axis] = count
        return (*replaced[: self.at], *self.sizes, *replaced[self.at :])

    def padded(self, shape: Shape) -> Shape:
        longer = list(shape)
        for axis, (low, high) in zip(self.axes, self.padding, strict=True):
            longer[axis] += low + high
        return tuple(longer)

    def interior(self, padded: Array) -> Array:
        """The part of a padded array that is not padding."""
        inner = [slice(None)] * padded.ndim
        for axis, (low, high) in zip(self.axes, self.padding, strict=True):
            inner[axis] = slice(low, padded.shape[axis] - high)
        return padded[tuple(inner)]

    def pieces(self, gathered: Array, padded: Array) -> Iterable[tuple[Array, Array]]:
        """Views of gathered windows, each with the view of the padded array that holds the same numbers.

        One for each element of the window, or for each position where there are fewer of these: so there are never
        more than the square root of the numbers that move.
        """
        counts = self._replace(padding=((0, 0),) * len(self.axes)).positions(padded.shape)
        by_position = math.prod(counts) < math.prod(self.sizes)
        for index in product(*map(range, counts if by_position else self.sizes)):
            place = [slice(None)] * padded.ndim
            for axis, size, stride, dilation, count, step in zip(
                self.axes, self.sizes, self.strides, self.dilations, counts, index, strict=True
            ):
                start = step * (stride if by_position else dilation)
                step, repeats = (dilation, size) if by_position else (stride, count)
                place[axis] = slice(start, start + (repeats - 1) * step + 1, step)
            source = padded[tuple(place)]
            if not by_position:
                yield gathered[(slice(None),) * self.at + index], source
                continue
            chosen: list[int | slice] = [slice(None)] * gathered.ndim
            for axis, position in zip(self.axes, index, strict=True):
                chosen[axis if axis < self.at else axis + len(self.axes)] = position
            at = self.at - sum(axis < self.at for axis in self.axes)
            yield gathered[tuple(chosen)], np.moveaxis(source, self.axes, range(at, at + len(self.axes)))

    @property
    def is_padded(self) -> bool:
        return any(low or high for low, high in self.padding)

    @property
    def is_plain(self) -> bool:
        """Every element is a window of its own."""
        return not self.is_padded and all(n == 1 for n in (*self.sizes, *self.strides))

    @property
    def is_disjoint(self) -> bool:
        """No two windows share an element."""
        return all(
            (size - 1) * dilation < stride
            for size, stride, dilation in zip(self.sizes, self.strides, self.dilations, strict=True)
        )

    def batched(self) -> Sliding:
        """The same with one more axis in front of everything."""
        return self._replace(at=self.at + 1, axes=tuple(axis + 1 for axis in self.axes))


# --- windows ------------------------------------------------------------------------------------


def windows(x: Node, sliding: Sliding, fill: float = 0.0) -> Node:
    """All windows of `x`: its shape with positions in place of the covered axes, and the window's axes inserted."""
    return x.graph.apply("windows", x, attributes=(sliding, fill))


def _infer_windows(inputs: Sequence[Node], attributes: Attributes) -> tuple[Shape, str]:
    (x,), (sliding, _fill) = inputs, attributes
    if any(count < 1 for count in sliding.positions(x.shape)):
        raise GraphTypeError(f"windows of {sliding.sizes} do not fit into {x.shape}")
    return sliding.gathered(x.shape), infer_same_dtype(inputs)


def _scratch_of_windows(node: Node) -> tuple[Shape, ...]:
    # Padding needs a padded copy. A transposed view gets one too: it is read once for every
    # element of the window, and a strided read costs several times a copy.
    (x,), (sliding, _fill) = node.inputs, node.attributes
    scattered = x.operation.view is not None and not x.operation.keeps_order
    return (sliding.padded(x.shape),) if sliding.is_padded or scattered else ()


def _bind_windows(
    out: Array, inputs: Sequence[Array], attributes: Attributes, scratch: Sequence[Array]
) -> Iterable[Call]:
    (x,), (sliding, fill) = inputs, attributes
    if scratch:
        (padded,) = scratch
        if sliding.is_padded:
            yield partial(padded.fill, fill)
        yield partial(np.copyto, sliding.interior(padded), x)
        x = padded
    for window, source in sliding.pieces(out, x):
        yield partial(np.copyto, window, source)


def _batch_windows(node: Node, inputs: Sequence[Node], *_: Any) -> Node:
    sliding, fill = node.attributes
    return windows(inputs[0], sliding.batched(), fill)


def _simplify_windows(graph: Graph, inputs: tuple[Node, ...], attributes: Attributes) -> Node | None:
    (x,), (sliding, _fill) = inputs, attributes
    return reshape(x, sliding.gathered(x.shape)) if sliding.is_plain else None


declare(
    "windows",
    infer=_infer_windows,
    bind=_bind_windows,
    pullbacks=(lambda g, y, x: overlap_add(g, y.attributes[0], x.shape),),
    batch=_batch_windows,
    latex=r"\operatorname{im2col}(x)",
    simplify=_simplify_windows,
    scratch=_scratch_of_windows,
    numpy="windows(a, at, axes, sizes, strides, dilations, padding, fill)",
    attribute_names=("sliding", "fill"),
)

# --- overlap_add --------------------------------------------------------------------------------


def overlap_add(x: Node, sliding: Sliding, shape: Shape) -> Node:
    """Windows as `windows` gives them, added up where they lie in a value of `shape`."""
    return x.graph.apply("overlap_add", x, attributes=(sliding, shape))


def _infer_overlap_add(inputs: Sequence[Node], attributes: Attributes) -> tuple[Shape, str]:
    (x,), (sliding, shape) = inputs, attributes
    if x.shape != sliding.gathered(shape):
        raise GraphTypeError(f"windows of {shape} have shape {sliding.gathered(shape)}, got {x.shape}")
    return shape, infer_same_dtype(inputs)


def _bind_overlap_add(
    out: Array, inputs: Sequence[Array], attributes: Attributes, scratch: Sequence[Array]
) -> Iterable[Call]:
    (x,), (sliding, _shape) = inputs, attributes
    total = scratch[0] if scratch else out
    yield partial(total.fill, 0.0)
    for window, target in sliding.pieces(x, total):
        yield partial(np.copyto, target, window) if sliding.is_disjoint else partial(np.add, target, window, target)
    if scratch:
        yield partial(np.copyto, out, sliding.interior(total))


def _batch_overlap_add(node: Node, inputs: Sequence[Node], _: Sequence[bool], size: int) -> Node:
    sliding, shape = node.attributes
    return overlap_add(inputs[0], sliding.batched(), (size, *shape))


def _simplify_overlap_add(graph: Graph, inputs: tuple[Node, ...], attributes: Attributes) -> Node | None:
    (x,), (sliding, shape) = inputs, attributes
    return reshape(x, shape) if sliding.is_plain else None


declare(
    "overlap_add",
    infer=_infer_overlap_add,
    bind=_bind_overlap_add,
    pullbacks=(lambda g, y, x: windows(g, y.attributes[0]),),
    batch=_batch_overlap_add,
    latex=r"\operatorname{col2im}(x)",
    simplify=_simplify_overlap_add,
    scratch=lambda node: (node.attributes[0].padded(node.shape),) if node.attributes[0].is_padded else (),
    numpy="overlap_add(a, at, axes, sizes, strides, dilations, padding, shape)",
    attribute_names=("sliding", "shape"),
)
