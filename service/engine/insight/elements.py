"""The graph one number at a time: the formula of each element of a node in terms of other elements.

`Elements` reads formulas of single elements out of the graph. Operations that only move numbers, such as reshape,
disappear on the way, and short formulas of values without a name are written into the formulas that use them. So the
gradient of a weight of a dense layer reads as in a textbook, and that of any other layer reads in the same way.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import product as places_of

import numpy as np

from service.engine.arrays import Array
from service.engine.graph.ir import Node, Shape
from service.engine.insight.formula import (
    Call,
    Constant,
    NumberFormula,
    Ref,
    Square,
    TermSum,
    negative,
    product,
    quotient,
    total,
)

Element = tuple[int, int]
"""The index of a node, and the place of one of its elements in row-major order."""

MOST_TERMS = 20_000
"""Names in a formula."""
MOST_WORK = 200_000
"""Most names in all formulas that are read, including those too long to stand inside others: a second's work."""
LONGEST_INSIDE = 24
"""Names in a formula that is written into another one; a longer one is a value of its own."""
DEEPEST_INSIDE = 30
"""Deepest nesting of formulas. Deeper parts are values of their own, so nothing recurses for long."""

Moved = tuple[Node, int] | float
"""The origin of an element, or the constant that it is."""


def index_of(shape: Shape, place: int) -> list[int]:
    """Return the index, one number for each axis, of an element given by its place in row-major order."""
    index = []
    for n in reversed(shape):
        place, k = divmod(place, n)
        index.append(k)
    return index[::-1]


def place_of(shape: Shape, index: Sequence[int]) -> int:
    """Return the place in row-major order of an element given by its index."""
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
    "slice": lambda node, place: _shifted(node, place, node.attributes[0], node.attributes[1]),
    "pad": lambda node, place: _shifted(node, place, node.attributes[0], -node.attributes[1]),
    "concatenate": _concatenated,
    "windows": _windowed,
    "mark": _same,
    "stop_gradient": _same,
    "with_slope": _same,
    "floats": _same,
}
BY_INDICES = frozenset(("gather_rows", "scatter_rows"))
"""Operations that look numbers up by integers among their inputs."""
_SPREADING = frozenset(("broadcast", "windows", "gather_rows"))
"""Moves that repeat numbers."""
_MIXING = frozenset(("matmul", "cumulative_sum", "order", "softmax", "log_softmax", "first_largest"))
"""Operations with several elements that depend on one."""
_ADDING = frozenset(("add", "subtract", "negate"))
_SECOND = frozenset(("softmax", "log_softmax", "logsumexp", "row_excess", "root_mean_square"))
"""Operations that compute their value in a careful way; their second input is the argument of the plain formula."""


def read_by(node: Node) -> tuple[Node, ...]:
    """Return those inputs of a node that occur in the formulas of its elements."""
    name = node.operation.name
    if name in _SECOND:
        return node.inputs[1:2]
    if name == "extreme":
        return node.inputs[1:]
    if name in MOVES or name == "balanced":
        return node.inputs if name == "concatenate" else node.inputs[:1]
    return node.inputs


# --- operations that compute --------------------------------------------------------------------

Terms = Callable[[Node, int], NumberFormula]


def _plus(a: NumberFormula, b: NumberFormula) -> NumberFormula:
    return total([(False, a), (False, b)])


def _minus(a: NumberFormula, b: NumberFormula) -> NumberFormula:
    return total([(False, a), (True, b)])


_ARITHMETIC: Mapping[str, Callable[..., NumberFormula]] = {
    "add": _plus,
    "subtract": _minus,
    "multiply": lambda a, b: product([a, b]),
    "divide": quotient,
    "negate": negative,
    "square": lambda a: Square((a,)),
}


def _elementwise(node: Node, place: int, term: Terms) -> NumberFormula:
    parts = [term(x, place if x.shape == node.shape else 0) for x in node.inputs]
    build = _ARITHMETIC.get(node.operation.name)
    return Call(node.operation.name, parts) if build is None else build(*parts)


def _over_axes(x: Node, axes: Collection[int], kept: Sequence[int]) -> list[int]:
    """Return the places of all elements of `x` along some axes; `kept` is the index along the other axes."""
    _check_length(math.prod([x.shape[axis] for axis in axes]))
    rest = iter(kept)
    ranges = [range(n) if axis in axes else (next(rest),) for axis, n in enumerate(x.shape)]
    return [place_of(x.shape, index) for index in places_of(*ranges)]


def _check_length(count: int) -> None:
    if count > MOST_TERMS:
        raise OverflowError(count)


def _reduced(node: Node, place: int, x: Node, term: Terms) -> list[NumberFormula]:
    """Return the elements of `x` that an element of a reduction, such as a sum, is made of. The first attribute of the
    node is the axes that disappear."""
    return [term(x, k) for k in _over_axes(x, node.attributes[0], index_of(node.shape, place))]


def _all(terms: Sequence[NumberFormula]) -> NumberFormula:
    return total([(False, each) for each in terms])


def _matmul(node: Node, place: int, term: Terms) -> NumberFormula:
    a, b = node.inputs
    *lead, i, j = index_of(node.shape, place)
    _check_length(a.shape[-1])
    inner = range(a.shape[-1])
    return _all(
        [product([term(a, place_of(a.shape, [*lead, i, k])), term(b, place_of(b.shape, [*lead, k, j]))]) for k in inner]
    )


def _row(x: Node, row: int, term: Terms) -> list[NumberFormula]:
    width = x.shape[-1]
    _check_length(width)
    return [term(x, row * width + k) for k in range(width)]


def _exponentials(parts: Sequence[NumberFormula]) -> NumberFormula:
    return _all([Call("exp", (part,)) for part in parts])


def _softmax(node: Node, place: int, term: Terms) -> NumberFormula:
    x = node.inputs[1]
    row, k = divmod(place, x.shape[-1])
    parts = _row(x, row, term)
    return quotient(Call("exp", (parts[k],)), _exponentials(parts))


def _log_softmax(node: Node, place: int, term: Terms) -> NumberFormula:
    x = node.inputs[1]
    row, k = divmod(place, x.shape[-1])
    parts = _row(x, row, term)
    return _minus(parts[k], Call("log", (_exponentials(parts),)))


def _extreme(node: Node, place: int, term: Terms) -> NumberFormula:
    name = {"maximum": "max", "minimum": "min"}[node.attributes[0]]
    return Call(name, [term(x, place if x.shape else 0) for x in node.inputs[1:]])


def _first_largest(node: Node, place: int, term: Terms) -> NumberFormula:
    (x,), (axes,) = node.inputs, node.attributes
    kept = [k for axis, k in enumerate(index_of(node.shape, place)) if axis not in axes]
    candidates = _over_axes(x, axes, kept)
    return Call("first_largest", [Constant(float(candidates.index(place))), *(term(x, k) for k in candidates)])


def _one_hot(node: Node, place: int, term: Terms) -> NumberFormula:
    row, k = divmod(place, node.attributes[0])
    return Call("equal", (term(node.inputs[0], row), Constant(float(k))))


def _root_mean_square(node: Node, place: int, term: Terms) -> NumberFormula:
    axes, count, epsilon = node.attributes
    x = node.inputs[1]
    squares = [Square((term(x, k),)) for k in _over_axes(x, axes, index_of(node.shape, place))]
    return Call("sqrt", (_plus(quotient(_all(squares), Constant(count)), Constant(epsilon)),))


def _overlapped(node: Node, place: int, term: Terms) -> NumberFormula:
    (x,), (sliding, _) = node.inputs, node.attributes
    index = index_of(node.shape, place)
    counts = sliding.positions(node.shape)
    choices = []
    for axis, size, stride, dilation, (low, _), count in zip(
        sliding.axes, sliding.sizes, sliding.strides, sliding.dilations, sliding.padding, counts, strict=True
    ):
        along = ((k, divmod(index[axis] + low - k * dilation, stride)) for k in range(size))
        choices.append([(k, position) for k, (position, rest) in along if not rest and 0 <= position < count])
    _check_length(math.prod(map(len, choices)))
    found = []
    for choice in places_of(*choices):
        source = list(index)
        for axis, (_, position) in zip(sliding.axes, choice, strict=True):
            source[axis] = position
        source[sliding.at : sliding.at] = [k for k, _ in choice]
        found.append(term(x, place_of(x.shape, source)))
    return _all(found)


def _cumulative_sum(node: Node, place: int, term: Terms) -> NumberFormula:
    (x,), (axis, reverse) = node.inputs, node.attributes
    index = index_of(x.shape, place)
    here = index[axis]
    _check_length(x.shape[axis] - here if reverse else here + 1)
    places = range(here, x.shape[axis]) if reverse else range(here + 1)
    return _all([term(x, place_of(x.shape, [*index[:axis], k, *index[axis + 1 :]])) for k in places])


def _order(node: Node, place: int, term: Terms) -> NumberFormula:
    (x,), (descending,) = node.inputs, node.attributes
    row, position = divmod(place, x.shape[-1])
    _check_length(x.shape[-1])
    values = [term(x, row * x.shape[-1] + k) for k in range(x.shape[-1])]
    return Call("order", [Constant(float(position)), Constant(float(descending)), *values])


RULES: Mapping[str, Callable[[Node, int, Terms], NumberFormula]] = {
    "sum": lambda node, place, term: _all(_reduced(node, place, node.inputs[0], term)),
    "matmul": _matmul,
    "softmax": _softmax,
    "log_softmax": _log_softmax,
    "logsumexp": lambda node, place, term: Call("log", (_exponentials(_row(node.inputs[1], place, term)),)),
    "row_excess": lambda node, place, term: _minus(_all(_row(node.inputs[1], place, term)), Constant(1.0)),
    "row_maximum": lambda node, place, term: Call("max", _row(node.inputs[0], place, term)),
    "cumulative_sum": _cumulative_sum,
    "order": _order,
    "extreme": _extreme,
    "largest": lambda node, place, term: Call("max", _reduced(node, place, node.inputs[0], term)),
    "first_largest": _first_largest,
    "one_hot": _one_hot,
    "root_mean_square": _root_mean_square,
    "overlap_add": _overlapped,
}
"""Operations with rules of their own; all others compute each element from the elements at its place."""


class Elements:
    """The formulas of the elements of a graph, read on demand."""

    def __init__(self, nodes: Sequence[Node], named: Collection[int], indices: Mapping[int, Array]) -> None:
        """Prepare to read formulas.

        `nodes` are all nodes that matter, in topological order, `named` the indices of those with a name, and `indices`
        the integers of inputs by node. Reading raises `OverflowError` where one formula, or all together, have too many
        names.
        """
        self.named = frozenset(named)
        self.indices = indices
        self._work, self._most_work = 0, MOST_WORK
        self._level = 0
        self._several, self._mixed = _uses(nodes, self.named)
        self._inside: dict[Element, NumberFormula] = {}
        self._nodes = {node.index: node for node in nodes}

    def node(self, element: Element) -> Node:
        return self._nodes[element[0]]

    def formula(self, node: Node, place: int) -> NumberFormula:
        """Return the formula of an element. It refers to elements that have names, long formulas or several uses;
        others are written out in it."""
        moved = self._moved(node, place)
        if isinstance(moved, float):
            return Constant(moved)
        source, at = moved
        if source is not node:
            return self._part(source, at, MOST_TERMS)
        name = node.operation.name
        if name == "balanced":  # it only removes the remainder of rounding
            return self.formula(node.inputs[0], place)
        if name == "constant":
            return Constant(float(node.attributes[0]))
        if name == "vector":
            return Constant(float(node.attributes[0][place]))
        if name == "table":
            return Constant(float(node.attributes[0].array.flat[place]))
        if name == "scatter_rows":
            return self._scattered(node, place)
        found = RULES.get(name, _elementwise)(node, place, self._addend if name in _ADDING else self.term)
        self._work += 1 + found.size
        if found.size > MOST_TERMS or self._work > self._most_work:
            raise OverflowError(found.size)
        return found

    @property
    def spent(self) -> int:
        """The number of names in all formulas read so far; inside `spending`, in those read since it began."""
        return self._work

    @contextmanager
    def spending(self, most: int) -> Iterator[None]:
        """Limit the names in all formulas that are read within the `with` block. The count outside of the block leaves
        them out."""
        before = self._work, self._most_work
        self._work, self._most_work = 0, most
        try:
            yield
        finally:
            self._work, self._most_work = before

    def term(self, node: Node, place: int) -> NumberFormula:
        """Return an element as a part of a formula: a reference, or its own formula if short and used once."""
        if node.index in self.named:
            return Ref((node.index, place))
        moved = self._moved(node, place)
        return Constant(moved) if isinstance(moved, float) else self._part(*moved, LONGEST_INSIDE)

    def _addend(self, node: Node, place: int) -> NumberFormula:
        """Return an element as a term of a sum. In contrast to `term`, it may be a long sum, which only adds terms."""
        found = self.term(node, place)
        if isinstance(found, Ref) and isinstance(found.key, tuple):
            inside = self._inside.get(found.key)
            if isinstance(inside, TermSum) and found.key[0] not in self._several | self._mixed:
                return inside
        return found

    def _part(self, node: Node, place: int, longest: int) -> NumberFormula:
        """Return an element as a part of a formula, where `node` has a name or does more than move numbers. Formulas
        with more than `longest` names become references."""
        element = (node.index, place)
        if node.index in self.named or node.operation.name == "input":
            return Ref(element)
        found = self._inside.get(element)
        if found is None:
            if self._level >= DEEPEST_INSIDE:
                return Ref(element)
            self._level += 1
            try:
                found = self._inside[element] = self.formula(node, place)
            finally:
                self._level -= 1
        if found.size > longest:
            return Ref(element)
        if found.size > 1 and node.index in self._several:
            return Ref(element)
        if found.size > 2 and node.index in self._mixed:
            return Ref(element)
        return found

    def _moved(self, node: Node, place: int) -> Moved:
        """Return where an element comes from, or the constant that it is. The search passes nodes that only move
        numbers and have no name."""
        first = True
        while first or node.index not in self.named:
            first = False
            rule = MOVES.get(node.operation.name)
            if rule is None and node.operation.name == "gather_rows":
                rule = self._gathered
            if rule is None:
                break
            moved = rule(node, place)
            if isinstance(moved, float):
                return moved
            node, place = moved
        return node, place

    def _gathered(self, node: Node, place: int) -> Moved:
        table, indices = node.inputs
        *_, rows, width = table.shape
        position, column = divmod(place, width)
        lead = position // math.prod(indices.shape[node.attributes[0] :])
        return table, (lead * rows + int(self._integers(indices).flat[position])) * width + column

    def _scattered(self, node: Node, place: int) -> NumberFormula:
        values, indices = node.inputs
        rows, lead_axes = node.attributes
        width = node.shape[-1]
        row, column = divmod(place, width)
        lead, row = divmod(row, rows)
        count = math.prod(indices.shape[lead_axes:])
        chosen = self._integers(indices).reshape(-1, count)[lead]
        _check_length(int(np.count_nonzero(chosen == row)))
        return _all(
            [self.term(values, (lead * count + int(k)) * width + column) for k in np.flatnonzero(chosen == row)]
        )

    def _integers(self, node: Node) -> Array:
        """Return the integer values of a node that is an input, or a view of one."""
        if node.index in self.indices:
            return self.indices[node.index]
        if node.operation.name == "table":
            return np.asarray(node.attributes[0].array)
        if node.operation.view is None:
            raise OverflowError("places that are computed name everything")
        return node.operation.view(self._integers(node.inputs[0]), node.attributes, node.shape).reshape(node.shape)


def _uses(nodes: Sequence[Node], named: Collection[int]) -> tuple[frozenset[int], frozenset[int]]:
    """Return the indices of nodes with several uses, and of nodes whose single use takes each element several times. A
    user of a node that only moves numbers counts as a user of the origin, unless the node has a name."""
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
