"""Analysis of whether a graph computes each sample from that sample alone.

Graphs of files may do anything with the axis of the samples. Per-sample gradients and Jacobians are cheaper, or only
possible, where no operation mixes samples. This module follows the axis through the operations of the graph. Where the
axis cannot be followed, samples are said to be coupled, which is always correct but never cheaper.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from service.engine.graph.ir import Node, Shape, reachable


class Axis(NamedTuple):
    """The axis of a value along which the samples lie: place p belongs to sample p // inner modulo their number.

    An axis may hold all samples several times, one round for each step of a sequence for example.
    """

    place: int
    inner: int


class Coupled(Exception):
    """The error of an operation that may mix samples."""


def are_apart(inputs: Iterable[Node], outputs: Iterable[Node], samples: int) -> bool:
    """Return whether each output has one row per sample, which depends on the inputs' rows of that sample alone."""
    found: dict[int, Axis] = {node.index: Axis(0, 1) for node in inputs}
    if any(node.shape[:1] != (samples,) for node in inputs):
        return False
    wanted = list(outputs)
    try:
        for node in reachable(wanted):
            if node.index not in found and not node.is_leaf:
                axis = _axis_of(node, found, samples)
                if axis is not None:
                    found[node.index] = axis
    except Coupled:
        return False
    return all(found.get(node.index) == Axis(0, 1) and node.shape[0] == samples for node in wanted)


def _axis_of(node: Node, found: Mapping[int, Axis], samples: int) -> Axis | None:
    """Return the axis of the samples in a value, or None if the value depends on no sample. Raise `Coupled`."""
    known = [found.get(x.index) for x in node.operands]
    if not any(known):
        return None
    name = node.operation.name
    axis = next(each for each in known if each is not None)
    rule = _RULES.get(name)
    if rule is not None:
        return rule(node, axis, known, samples)
    if node.operation.elementwise or name in _SAME:
        _agree(node, axis, known)
        return axis
    raise Coupled


def _agree(node: Node, axis: Axis, known: list[Axis | None]) -> None:
    """Raise `Coupled` unless all inputs that depend on samples have them on one axis, and no other input varies along
    it."""
    for x, each in zip(node.operands, known, strict=True):
        if each is None:
            if x.shape != () and _varies(x, axis.place):
                raise Coupled
        elif each != axis:
            raise Coupled


def _varies(x: Node, axis: int) -> bool:
    """Return whether a value that depends on no sample may vary along an axis, and so differ for a single sample."""
    if x.shape[axis] == 1:
        return False
    if x.operation.name == "broadcast":
        (source,) = x.inputs
        place = axis - (len(x.shape) - len(source.shape))
        return place >= 0 and source.shape[place] != 1 and _varies(source, place)
    name = x.operation.name
    if x.operation.elementwise:
        return any(part.shape != () and _varies(part, axis) for part in x.operands)
    if name == "matmul":  # the first step of a recurrence multiplies a state of zeros
        left, right = x.inputs
        rank = len(x.shape)
        parts = ((left, axis),) if axis == rank - 2 else ((right, axis),) if axis == rank - 1 else ()
        return not parts or any(_varies(part, place) for part, place in parts)
    if name == "slice" and axis != x.attributes[0]:
        return _varies(x.inputs[0], axis)
    return not _is_uniform(x)


def _is_uniform(x: Node) -> bool:
    """Return whether all elements of a value are the same number, as in a state of zeros."""
    while x.operation.name in ("reshape", "transpose", "slice", "broadcast"):
        (x,) = x.inputs
    return math.prod(x.shape) == 1


def _reduced(node: Node, axis: Axis, known: list[Axis | None], samples: int) -> Axis:
    """Return the axis of the samples after a reduction."""
    axes = node.attributes[0]
    if axis.place in axes:
        raise Coupled
    return Axis(axis.place - sum(each < axis.place for each in axes), axis.inner)


def _marked(node: Node, axis: Axis, known: list[Axis | None], samples: int) -> Axis:
    """Return the axis of the samples after the first largest element along other axes is marked."""
    if axis.place in node.attributes[0]:
        raise Coupled
    return axis


def _along_rows(node: Node, axis: Axis, known: list[Axis | None], samples: int) -> Axis:
    """Return the axis of the samples after an operation along the last axis."""
    if axis.place == len(node.inputs[0].shape) - 1:
        raise Coupled
    return axis


def _along(node: Node, axis: Axis, known: list[Axis | None], samples: int) -> Axis:
    """Return the axis of the samples after an operation along an axis given by an attribute."""
    along, *bounds = node.attributes
    if axis.place == along:
        # Whole rounds of all samples may be cut out, padded with zeros, or joined.
        name, period = node.operation.name, samples * axis.inner
        lengths = bounds if name in ("slice", "pad") else [x.shape[along] for x in node.inputs]
        if (
            name == "cumulative_sum"
            or any(length % period for length in lengths)
            or any(each != axis for each in known)
        ):
            raise Coupled
    _agree(node, axis, known)
    return axis


def _reshaped(node: Node, axis: Axis, known: list[Axis | None], samples: int) -> Axis:
    """Return the axis of the samples after a reshape."""
    before: Shape = node.inputs[0].shape
    stride = axis.inner * math.prod(before[axis.place + 1 :])  # elements from one sample to the next
    for place in range(len(node.shape) - 1, -1, -1):
        behind = math.prod(node.shape[place + 1 :])
        inner, rest = divmod(stride, behind)
        if not rest and node.shape[place] % (inner * samples) == 0:
            return Axis(place, inner)
    raise Coupled


def _transposed(node: Node, axis: Axis, known: list[Axis | None], samples: int) -> Axis:
    """Return the axis of the samples after a transposition."""
    return Axis(node.attributes[0].index(axis.place), axis.inner)


def _broadcast(node: Node, axis: Axis, known: list[Axis | None], samples: int) -> Axis:
    """Return the axis of the samples after broadcasting."""
    return Axis(axis.place + len(node.shape) - len(node.inputs[0].shape), axis.inner)


def _multiplied(node: Node, axis: Axis, known: list[Axis | None], samples: int) -> Axis:
    """Return the axis of the samples after a matrix product."""
    left, right = known
    rank = len(node.shape)
    if left is not None and left.place == rank - 2 and right is None:
        return left
    if right is not None and right.place == rank - 1 and left is None:
        return right
    if axis.place < rank - 2:
        _agree(node, axis, known)
        return axis
    raise Coupled


def _gathered(node: Node, axis: Axis, known: list[Axis | None], samples: int) -> Axis:
    """Return the axis of the samples after a lookup."""
    of_table, of_places = known
    table, places = node.inputs
    lead = node.attributes[0]
    if of_table is None and of_places is not None:
        if of_places.place < lead and _varies(table, of_places.place):
            raise Coupled
        return of_places
    if of_table is not None and of_places in (None, of_table) and of_table.place < lead:
        if of_places is None and _varies(places, of_table.place):
            raise Coupled
        return of_table
    if of_table is not None and of_places is None and of_table.place == len(table.shape) - 1:
        return Axis(len(node.shape) - 1, of_table.inner)
    raise Coupled


def _windowed(node: Node, axis: Axis, known: list[Axis | None], samples: int) -> Axis:
    """Return the axis of the samples after windows are taken."""
    sliding = node.attributes[0]
    if axis.place in sliding.axes:
        raise Coupled
    return Axis(axis.place + (len(sliding.axes) if axis.place >= sliding.at else 0), axis.inner)


def _overlapped(node: Node, axis: Axis, known: list[Axis | None], samples: int) -> Axis:
    """Return the axis of the samples after windows are summed where they overlap."""
    sliding = node.attributes[0]
    count = len(sliding.axes)
    if sliding.at <= axis.place < sliding.at + count:
        raise Coupled
    place = axis.place - (count if axis.place >= sliding.at else 0)
    if place in sliding.axes:
        raise Coupled
    return Axis(place, axis.inner)


def _kept(node: Node, axis: Axis, known: list[Axis | None], samples: int) -> Axis:
    """Return the axis of the samples after any operation that keeps it in place."""
    return axis


_SAME = frozenset(("balanced", "softmax", "log_softmax", "logsumexp", "extreme", "with_slope", "mark", "stop_gradient"))
_RULES = {
    "sum": _reduced,
    "largest": _reduced,
    "first_largest": _marked,
    "row_maximum": _along_rows,
    "row_excess": lambda node, axis, known, samples: _agreed_rows(node, known),
    "order": _along_rows,
    "slice": _along,
    "pad": _along,
    "cumulative_sum": _along,
    "concatenate": _along,
    "reshape": _reshaped,
    "transpose": _transposed,
    "broadcast": _broadcast,
    "matmul": _multiplied,
    "gather_rows": _gathered,
    "windows": _windowed,
    "overlap_add": _overlapped,
    "one_hot": _kept,
    "floats": _kept,
}


def _agreed_rows(node: Node, known: list[Axis | None]) -> Axis:
    """Return the axis of the samples after an operation on totals and their rows. Raise `Coupled` if these differ."""
    total, rows = known
    if total is None or total != rows:
        raise Coupled
    return total
