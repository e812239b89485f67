"""Named arrays, one after the other in a flat vector: the form in which programs hold parameters and gradients."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from service.engine.arrays import Array
from service.engine.graph.ir import Node, Shape
from service.engine.graph.operations import reshape, slice_axis

Key = tuple[str, ...]
"""The name of an array: layer and parameter, or one name, or () for the only array."""


class Piece(NamedTuple):
    """The place of one named array in a flat vector."""

    path: Key
    start: int
    stop: int
    shape: Shape

    @property
    def layer(self) -> str:
        return self.path[0]

    @property
    def name(self) -> str:
        """The name of the array within its layer."""
        return self.path[-1]


class Space:
    """The places of named arrays that lie one after the other in a flat vector of `size` numbers."""

    def __init__(self, named: Iterable[tuple[Key, Shape]]) -> None:
        pieces, start = [], 0
        for path, shape in named:
            stop = start + math.prod(shape)
            pieces.append(Piece(path, start, stop, shape))
            start = stop
        self.pieces = tuple(pieces)
        self.size = start

    def cut(self, vector: Node, start: int = 0) -> list[Node]:
        """Return the arrays as nodes, cut out of a flat node in which they begin at `start`."""
        return [
            reshape(slice_axis(vector, 0, start + piece.start, start + piece.stop), piece.shape)
            for piece in self.pieces
        ]

    def of_a_sample(self) -> Space:
        """Return the space of one sample, each array flat. The first axis of every array here is the samples."""
        return Space((piece.path, (math.prod(piece.shape[1:]),)) for piece in self.pieces)

    def nested(self, arrays: Iterable[Any]) -> Any:
        """Return values, one a piece, as dictionaries nested by the paths; an empty path gives the value alone."""
        tree: dict[str, Any] = {}
        for piece, array in zip(self.pieces, arrays, strict=True):
            if not piece.path:
                return array
            inner = tree
            for key in piece.path[:-1]:
                inner = inner.setdefault(key, {})
            inner[piece.path[-1]] = array
        return tree

    def labels(self, shapes: Sequence[Shape] | None = None) -> list[str]:
        """Return a name for every number, such as `hidden.kernel[0][1]`. Indices count in `shapes`, or its own."""
        labels = []
        for position, piece in enumerate(self.pieces):
            name = ".".join(piece.path)
            for place in np.ndindex(*(piece.shape if shapes is None else shapes[position])):
                labels.append(name + "".join(f"[{n}]" for n in place))
        return labels


def tree_of(pieces: Sequence[Piece], flat: Array) -> dict[str, dict[str, Array]]:
    """Return a flat vector as views by layer and name. The last axis of `flat` is cut; axes before it stay."""
    tree: dict[str, dict[str, Array]] = {}
    for (layer, name), start, stop, shape in pieces:
        tree.setdefault(layer, {})[name] = flat[..., start:stop].reshape((*flat.shape[:-1], *shape))
    return tree
