"""Claims in the layout of PyTorch, translated to ours by the rules of `service/engine/layouts/pytorch_rules.py`.

A claim may be any part of a gradient, and wrong: it comes entry by entry, and an entry may have any shape.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np

from service.engine.arrays import Array
from service.engine.graph.ir import Shape
from service.engine.layouts.pytorch_rules import Misfit, Rule, options_of, rules_of
from service.engine.network.definition import Definition

Path = tuple[str, ...]


class PyTorchLayout:
    """The names and shapes that PyTorch gives the parameters of a network."""

    def __init__(self, definition: Definition, shapes: Mapping[Path, Shape]) -> None:
        """Prepare. `shapes` are the shapes of our parameters."""
        self.shapes = shapes
        self.selections = {layer.name: layer.layer for layer in definition.layers}

    def names(self, layer: str) -> Iterator[str]:
        """Yield the names of the entries of a layer."""
        entries = {rule.parameter: rule.entries for rule in reversed(self._rules(layer))}
        owned = [path[1] for path in self.shapes if path[0] == layer]
        yield from dict.fromkeys(entry for name in owned for entry in entries.get(name, (name,)))

    def turned(self, layer: str, name: str, array: Array) -> Iterator[tuple[Path, Array]]:
        """Yield our parameters that an entry belongs to, each with the entry in our layout. An entry of an unexpected
        shape stays as it is, or is transposed. Where another entry makes the rest of a parameter, that is NaN."""
        for rule in self._rules(layer):
            path = (layer, rule.parameter)
            if name in rule.entries:
                yield path, self._into(path, rule, name, array)

    def _rules(self, layer: str) -> list[Rule]:
        """Return the rules of the parameters of a layer. Of attention they are those of both forms in PyTorch."""
        selection = self.selections.get(layer)
        if selection is None:
            return []
        rules = dict.fromkeys((*rules_of(selection), *rules_of(selection, packed=False)))
        return [rule for rule in rules if (layer, rule.parameter) in self.shapes]

    def _into(self, path: Path, rule: Rule, name: str, array: Array) -> Array:
        shape, options = self.shapes[path], options_of(self.selections[path[0]])
        try:
            turned = rule.into([array], options) if rule.each is None else rule.each(array)
        except Misfit:
            return array.T if array.ndim == 2 else array
        if rule.each is not None and len(shape) == 2 and turned.shape == shape[1:]:
            rows = np.full(shape, math.nan)
            rows[rule.entries.index(name)] = turned
            return rows
        return turned.reshape(shape) if turned.size == math.prod(shape) == 1 else turned
