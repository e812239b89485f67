"""Sliding windows, for convolution and pooling.

`windows` gathers every window that slides over some axes, and `overlap_add` adds such windows back
where they came from. Both are linear, and each is the transpose of the other, so derivatives of any
order need nothing else; a convolution is `windows` and one matrix product (im2col), its input
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
from typing import NamedTuple

import numpy as np

from service.engine.arrays import Array
from service.engine.graph.ir import Attributes, Call, GraphTypeError, Node, Shape
from service.engine.graph.operations.rows import declare, infer_same_dtype
from service.engine.graph.operations.shapes import reshape

__all__ = ["Sliding", "overlap_add", "windows"]


class Sliding(NamedTuple):
    """The geometry of a sliding window. The tuples have an entry for each axis that the window covers."""

    at: int
    """The position of the window's axes in the result."""
    axes: tuple[int, ...]
    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    """Elements added before and after each axis."""

    def positions(self, shape: Shape) -> tuple[int, ...]:
        """Return how many windows fit along each covered axis of a value of `shape`; 0 or less: none."""
        return tuple(
            (shape[axis] + low + high - (size - 1) * dilation - 1) // stride + 1
            for axis, size, stride, dilation, (low, high) in zip(
                self.axes, self.sizes, self.strides, self.dilations, self.padding, strict=True
            )
        )

    def gathered(self, shape: Shape) -> Shape:
        """Return the shape of all windows of a value of `shape`, with the window's axes inserted."""
        replaced = list(shape)
        for axis, count in zip(self.axes, self.positions(shape), strict=True):
            replaced[axis] = count
        return (*replaced[: self.at], *self.sizes, *replaced[self.at :])

    def padded(self, shape: Shape) -> Shape:
        """Return `shape` with the padding added."""
        longer = list(shape)
        for axis, (low, high) in zip(self.axes, self.padding, strict=True):
            longer[axis] += low + high
        return tuple(longer)

    def interior(self, padded: Array) -> Array:
        """Return the part of a padded array that is not padding."""
        inner = [slice(None)] * padded.ndim
        for axis, (low, high) in zip(self.axes, self.padding, strict=True):
            inner[axis] = slice(low, padded.shape[axis] - high)
        return padded[tuple(inner)]

    def pieces(self, gathered: Array, padded: Array) -> Iterable[tuple[Array, Array]]:
        """Yield views of gathered windows, each with the view of the padded array that holds the same numbers.

        There is one for each element of the window, or for each position where these are fewer: never more than the
        square root of the numbers that move.
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
        """True if every element is a window of its own."""
        return not self.is_padded and all(n == 1 for n in (*self.sizes, *self.strides))

    @property
    def is_disjoint(self) -> bool:
        """True if no two windows share an element."""
        return all(
            (size - 1) * dilation < stride
            for size, stride, dilation in zip(self.sizes, self.strides, self.dilations, strict=True)
        )

    def batched(self) -> Sliding:
        """Return the geometry for a value with one more axis in front."""
        return self._replace(at=self.at + 1, axes=tuple(axis + 1 for axis in self.axes))


def windows(x: Node, sliding: Sliding, fill: float = 0.0) -> Node:
    """Return all windows of `x`: the covered axes become positions, and the window's axes are inserted. Padding has the
    value `fill`."""
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


declare(
    "windows",
    infer=_infer_windows,
    bind=_bind_windows,
    pullbacks=(lambda g, y, x: overlap_add(g, y.attributes[0], x.shape),),
    batch=lambda node, inputs, *_: windows(inputs[0], node.attributes[0].batched(), node.attributes[1]),
    latex=r"\operatorname{im2col}(x)",
    simplify=lambda graph, inputs, of: reshape(inputs[0], of[0].gathered(inputs[0].shape)) if of[0].is_plain else None,
    scratch=_scratch_of_windows,
    numpy="windows(a, at, axes, sizes, strides, dilations, padding, fill)",
    attribute_names=("sliding", "fill"),
)


def overlap_add(x: Node, sliding: Sliding, shape: Shape) -> Node:
    """Return a value of `shape` in which windows, as `windows` gives them, are added where they lie."""
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


declare(
    "overlap_add",
    infer=_infer_overlap_add,
    bind=_bind_overlap_add,
    pullbacks=(lambda g, y, x: windows(g, y.attributes[0]),),
    batch=lambda node, inputs, _, size: overlap_add(
        inputs[0], node.attributes[0].batched(), (size, *node.attributes[1])
    ),
    latex=r"\operatorname{col2im}(x)",
    simplify=lambda graph, inputs, of: reshape(inputs[0], of[1]) if of[0].is_plain else None,
    scratch=lambda node: (node.attributes[0].padded(node.shape),) if node.attributes[0].is_padded else (),
    numpy="overlap_add(a, at, axes, sizes, strides, dilations, padding, shape)",
    attribute_names=("sliding", "shape"),
)
