"""The graph one number at a time: which elements of which nodes an element of a node is computed from, and how.

`Elements` reads formulas of single elements out of the graph. Operations that only move numbers, such as reshape,
disappear on the way, and short formulas of values without a name are written into the formulas that use them. So the
gradient of a weight of a dense layer reads as its textbook says, and that of any other layer reads in the same way.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import product as places_of

import numpy as np

from service.engine.graph.ir import Array, Node, Shape
from service.engine.insight.formula import Call, Formula, Number, Ref, Square, negative, product, quotient, total

Element = tuple[int, int]
"""The index of a node, and the place of one of its elements in row-major order."""

LONGEST_INSIDE = 24
"""Names in a formula that is written into another one; a longer one is a value of its own."""
DEEPEST_INSIDE = 30

Moved = tuple[Node, int] | float
"""Where an element comes from, or the number that it always is."""


def index_of(shape: Shape, place: int) -> list[int]:
    """The index of a place in an array."""
    index = []
    for n in reversed(shape):
        place, k = divmod(place, n)
        index.append(k)
    return index[::-1]


def place_of(shape: Shape, index: Sequence[int]) -> int:
    """The place of an index in an array."""
    place = 0
    for n, k in zip(shape, index, strict=True):
        place = place * n + k
    return place


# --- operations that move numbers ---------------------------------------------------------------


def _same(node: Node, place: int) -> Moved:
    return node.inputs[0], place


def _transposed(node: Node, place: int) -> Moved:
    (x,), (order,) = node.inputs, node.attributes
    index = [0] * len(order)
    for axis, k in zip(order, index_of(node.shape, place), strict=True):
        index[axis] = k
    return x, place_of(x.shape, index)


def _broadcast(node: Node, place: int) -> Moved:
    (x,) = node.inputs
    if x.size == 1:
        return x, 0
    index = index_of(node.shape, place)[len(node.shape) - len(x.shape) :]
    return x, place_of(x.shape, [0 if n == 1 else k for n, k in zip(x.shape, index, strict=True)])


def _shifted(node: Node, place: int, axis: int, offset: int) -> Moved:
    (x,) = node.inputs
    index = index_of(node.shape, place)
    index[axis] += offset
    return (x, place_of(x.shape, index)) if 0 <= index[axis] < x.shape[axis] else 0.0


def _sliced(node: Node, place: int) -> Moved:
    return _shifted(node, place, node.attributes[0], node.attributes[1])


def _padded(node: Node, place: int) -> Moved:
    return _shifted(node, place, node.attributes[0], -node.attributes[1])


def _concatenated(node: Node, place: int) -> Moved:
    (axis,) = node.attributes
    index = index_of(node.shape, place)
    for x in node.inputs:
        if index[axis] < x.shape[axis]:
            return x, place_of(x.shape, index)
        index[axis] -= x.shape[axis]
    raise AssertionError("an element of a concatenation lies in one of its parts")


def _windowed(node: Node, place: int) -> Moved:
    (x,), (sliding, fill) = node.inputs, node.attributes
    index = index_of(node.shape, place)
    at, count = sliding.at, len(sliding.axes)
    offsets, source = index[at : at + count], index[:at] + index[at + count :]
    for axis, k, stride, dilation, (low, _) in zip(
        sliding.axes, offsets, sliding.strides, sliding.dilations, sliding.padding, strict=True
    ):
        source[axis] = source[axis] * stride + k * dilation - low
        if not 0 <= source[axis] < x.shape[axis]:
            return float(fill)
    return x, place_of(x.shape, source)


MOVES: Mapping[str, Callable[[Node, int], Moved]] = {
    "reshape": _same,
    "transpose": _transposed,
    "broadcast": _broadcast,
    "slice": _sliced,
    "pad": _padded,
    "concatenate": _concatenated,
    "windows": _windowed,
    "mark": _same,
    "stop_gradient": _same,
    "with_slope": _same,
}
BY_INDICES = frozenset(("gather_rows", "scatter_rows"))
"""Operations whose numbers come from where integers among the inputs say."""
_SPREADING = frozenset(("broadcast", "windows", "gather_rows"))
"""Moves that repeat numbers."""
_MIXING = frozenset(("matmul", "softmax", "log_softmax", "first_largest"))
"""Operations with several elements that depend on one."""
_SECOND = frozenset(("softmax", "log_softmax", "logsumexp", "row_excess", "root_mean_square"))
"""Operations that compute their value in a careful way, and say by their second input what it is of."""


def read_by(node: Node) -> tuple[Node, ...]:
    """The nodes that the formula of an element is in terms of."""
    name = node.operation.name
    if name in _SECOND:
        return node.inputs[1:2]
    if name == "extreme":
        return node.inputs[1:]
    if name in MOVES or name == "balanced":
        return node.inputs if name == "concatenate" else node.inputs[:1]
    return node.inputs


# --- operations that compute --------------------------------------------------------------------

Terms = Callable[[Node, int], Formula]


def _plus(a: Formula, b: Formula) -> Formula:
    return total([(False, a), (False, b)])


def _minus(a: Formula, b: Formula) -> Formula:
    return total([(False, a), (True, b)])


_ARITHMETIC: Mapping[str, Callable[..., Formula]] = {
    "add": _plus,
    "subtract": _minus,
    "multiply": lambda a, b: product([a, b]),
    "divide": quotient,
    "negate": negative,
    "square": lambda a: Square((a,)),
}


def _elementwise(node: Node, place: int, term: Terms) -> Formula:
    parts = [term(x, place if x.shape == node.shape else 0) for x in node.inputs]
    build = _ARITHMETIC.get(node.operation.name)
    return Call(node.operation.name, parts) if build is None else build(*parts)


def _over_axes(x: Node, axes: Collection[int], kept: Sequence[int]) -> list[int]:
    """The places of all elements along some axes; `kept` is the index along the others."""
    rest = iter(kept)
    ranges = [range(n) if axis in axes else (next(rest),) for axis, n in enumerate(x.shape)]
    return [place_of(x.shape, index) for index in places_of(*ranges)]


def _reduced(node: Node, place: int, x: Node, term: Terms) -> list[Formula]:
    """The elements that are taken together by a node whose first attribute is the axes that disappear."""
    return [term(x, k) for k in _over_axes(x, node.attributes[0], index_of(node.shape, place))]


def _all(terms: Sequence[Formula]) -> Formula:
    return total([(False, each) for each in terms])


def _sum(node: Node, place: int, term: Terms) -> Formula:
    return _all(_reduced(node, place, node.inputs[0], term))


def _matmul(node: Node, place: int, term: Terms) -> Formula:
    a, b = node.inputs
    *lead, i, j = index_of(node.shape, place)
    inner = range(a.shape[-1])
    return _all(
        [product([term(a, place_of(a.shape, [*lead, i, k])), term(b, place_of(b.shape, [*lead, k, j]))]) for k in inner]
    )


def _row(x: Node, row: int, term: Terms) -> list[Formula]:
    width = x.shape[-1]
    return [term(x, row * width + k) for k in range(width)]


def _exponentials(parts: Sequence[Formula]) -> Formula:
    return _all([Call("exp", (part,)) for part in parts])


def _softmax(node: Node, place: int, term: Terms) -> Formula:
    x = node.inputs[1]
    row, k = divmod(place, x.shape[-1])
    parts = _row(x, row, term)
    return quotient(Call("exp", (parts[k],)), _exponentials(parts))


def _log_softmax(node: Node, place: int, term: Terms) -> Formula:
    x = node.inputs[1]
    row, k = divmod(place, x.shape[-1])
    parts = _row(x, row, term)
    return _minus(parts[k], Call("log", (_exponentials(parts),)))


def _logsumexp(node: Node, place: int, term: Terms) -> Formula:
    return Call("log", (_exponentials(_row(node.inputs[1], place, term)),))


def _row_excess(node: Node, place: int, term: Terms) -> Formula:
    return _minus(_all(_row(node.inputs[1], place, term)), Number(1.0))


def _row_maximum(node: Node, place: int, term: Terms) -> Formula:
    return Call("max", _row(node.inputs[0], place, term))


def _extreme(node: Node, place: int, term: Terms) -> Formula:
    name = {"maximum": "max", "minimum": "min"}[node.attributes[0]]
    return Call(name, [term(x, place if x.shape else 0) for x in node.inputs[1:]])


def _largest(node: Node, place: int, term: Terms) -> Formula:
    return Call("max", _reduced(node, place, node.inputs[0], term))


def _first_largest(node: Node, place: int, term: Terms) -> Formula:
    (x,), (axes,) = node.inputs, node.attributes
    kept = [k for axis, k in enumerate(index_of(node.shape, place)) if axis not in axes]
    candidates = _over_axes(x, axes, kept)
    return Call("first_largest", [Number(float(candidates.index(place))), *(term(x, k) for k in candidates)])


def _one_hot(node: Node, place: int, term: Terms) -> Formula:
    row, k = divmod(place, node.attributes[0])
    return Call("equal", (term(node.inputs[0], row), Number(float(k))))


def _root_mean_square(node: Node, place: int, term: Terms) -> Formula:
    axes, count, epsilon = node.attributes
    x = node.inputs[1]
    squares = [Square((term(x, k),)) for k in _over_axes(x, axes, index_of(node.shape, place))]
    return Call("sqrt", (_plus(quotient(_all(squares), Number(count)), Number(epsilon)),))


def _overlapped(node: Node, place: int, term: Terms) -> Formula:
    (x,), (sliding, _) = node.inputs, node.attributes
    index = index_of(node.shape, place)
    counts = sliding.positions(node.shape)
    choices = []
    for axis, size, stride, dilation, (low, _), count in zip(
        sliding.axes, sliding.sizes, sliding.strides, sliding.dilations, sliding.padding, counts, strict=True
    ):
        along = ((k, divmod(index[axis] + low - k * dilation, stride)) for k in range(size))
        choices.append([(k, position) for k, (position, rest) in along if not rest and 0 <= position < count])
    found = []
    for choice in places_of(*choices):
        source = list(index)
        for axis, (_, position) in zip(sliding.axes, choice, strict=True):
            source[axis] = position
        source[sliding.at : sliding.at] = [k for k, _ in choice]
        found.append(term(x, place_of(x.shape, source)))
    return _all(found)


RULES: Mapping[str, Callable[[Node, int, Terms], Formula]] = {
    "sum": _sum,
    "matmul": _matmul,
    "softmax": _softmax,
    "log_softmax": _log_softmax,
    "logsumexp": _logsumexp,
    "row_excess": _row_excess,
    "row_maximum": _row_maximum,
    "extreme": _extreme,
    "largest": _largest,
    "first_largest": _first_largest,
    "one_hot": _one_hot,
    "root_mean_square": _root_mean_square,
    "overlap_add": _overlapped,
}
"""Operations with rules of their own; all others compute each element from the elements at its place."""


class Elements:
    """Formulas of the elements of a graph, read as they are asked for."""

    def __init__(
        self, nodes: Sequence[Node], named: Collection[int], indices: Mapping[int, Array], most_terms: int
    ) -> None:
        """`nodes` are all that matter, in topological order, and `named` the indices of those with a name of their own.

        `indices` holds the integers of the inputs that have some, by node. Raises `OverflowError` where a formula has
        more than `most_terms` names.
        """
        self.named = frozenset(named)
        self.indices = indices
        self.most_terms = most_terms
        self._several, self._mixed = _uses(nodes, self.named)
        self._terms: dict[Element, Formula] = {}
        self._nodes = {node.index: node for node in nodes}

    def node(self, element: Element) -> Node:
        return self._nodes[element[0]]

    def formula(self, node: Node, place: int) -> Formula:
        """How an element is computed, in terms of elements that have names, or are long or used more than once."""
        moved = self._move(node, place)
        if moved is not None:
            return Number(moved) if isinstance(moved, float) else self.term(*moved)
        name = node.operation.name
        if name == "balanced":  # what it takes off is what rounding left over
            return self.formula(node.inputs[0], place)
        if name == "constant":
            return Number(float(node.attributes[0]))
        if name == "vector":
            return Number(float(node.attributes[0][place]))
        if name == "scatter_rows":
            return self._scattered(node, place)
        found = RULES.get(name, _elementwise)(node, place, self.term)
        if found.size > self.most_terms:
            raise OverflowError(found.size)
        return found

    def term(self, node: Node, place: int) -> Formula:
        """An element as a part of a formula: its name, or how it is computed if that is short and used but once."""
        while node.index not in self.named:
            moved = self._move(node, place)
            if moved is None:
                break
            if isinstance(moved, float):
                return Number(moved)
            node, place = moved
        element = (node.index, place)
        known = self._terms.get(element)
        if known is None:
            known = self._terms[element] = self._term(node, place, element)
        return known

    def _term(self, node: Node, place: int, element: Element) -> Formula:
        if node.index in self.named or node.operation.name == "input":
            return Ref(element)
        found = self.formula(node, place)
        if found.size > LONGEST_INSIDE or found.depth > DEEPEST_INSIDE:
            return Ref(element)
        if found.size > 1 and node.index in self._several:
            return Ref(element)
        if found.size > 2 and node.index in self._mixed:
            return Ref(element)
        return found

    def _move(self, node: Node, place: int) -> Moved | None:
        rule = MOVES.get(node.operation.name)
        if rule is not None:
            return rule(node, place)
        if node.operation.name == "gather_rows":
            return self._gathered(node, place)
        return None

    def _gathered(self, node: Node, place: int) -> Moved:
        table, indices = node.inputs
        *_, rows, width = table.shape
        position, column = divmod(place, width)
        lead = position // math.prod(indices.shape[node.attributes[0] :])
        return table, (lead * rows + int(self._integers(indices).flat[position])) * width + column

    def _scattered(self, node: Node, place: int) -> Formula:
        values, indices = node.inputs
        rows, lead_axes = node.attributes
        width = node.shape[-1]
        row, column = divmod(place, width)
        lead, row = divmod(row, rows)
        count = math.prod(indices.shape[lead_axes:])
        chosen = self._integers(indices).reshape(-1, count)[lead]
        return _all(
            [self.term(values, (lead * count + int(k)) * width + column) for k in np.flatnonzero(chosen == row)]
        )

    def _integers(self, node: Node) -> Array:
        """The integers of a node, which only moves lie between it and an input."""
        if node.index in self.indices:
            return self.indices[node.index]
        assert node.operation.view is not None, "integers come from inputs"
        return node.operation.view(self._integers(node.inputs[0]), node.attributes, node.shape).reshape(node.shape)


def _uses(nodes: Sequence[Node], named: Collection[int]) -> tuple[frozenset[int], frozenset[int]]:
    """Nodes that are used more than once, and nodes whose single use takes each element several times.

    Who reads what only moves numbers reads what it moves, unless that has a name.
    """
    readers: dict[int, set[tuple[int, int]]] = {}
    spread: set[int] = set()
    mixed: set[int] = set()
    for node in reversed(nodes):
        name = node.operation.name
        moves = (name in MOVES or name == "gather_rows") and node.index not in named
        for position, x in enumerate(read_by(node)):
            if moves:
                readers.setdefault(x.index, set()).update(readers.get(node.index, ()))
                if (name in _SPREADING and x.size < node.size) or node.index in spread:
                    spread.add(x.index)
                if node.index in mixed:
                    mixed.add(x.index)
            else:
                readers.setdefault(x.index, set()).add((node.index, position))
                if name in _MIXING:
                    mixed.add(x.index)
                if name in _SPREADING:
                    spread.add(x.index)
                if node.operation.elementwise and x.shape != node.shape:
                    spread.add(x.index)
    several = {index for index, found in readers.items() if len(found) > 1}
    return frozenset(several | spread), frozenset(mixed)
