"""Claimed gradients as requests send them: in our layout or PyTorch's, as a tree, by flat names, or as one vector."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from service.engine.arrays import Array
from service.engine.errors import MOST_ERRORS, Fault
from service.engine.errors import Path as Place
from service.engine.graph.ir import Shape
from service.engine.insight.mistakes import mistakes
from service.engine.insight.verify.pytorch import PyTorchLayout
from service.engine.network.definition import Definition
from service.engine.network.vectors import ParametersSide, tensor_came

LAYOUTS = ("nabla", "pytorch")
Path = tuple[str, ...]
"""Turns a tensor of PyTorch into one of ours with a shape; None if it is none."""


@dataclass
class Claim:
    """A claimed gradient as read from a request, tensor by tensor."""

    tensors: dict[Path, Array] = field(default_factory=dict)
    """Tensors of the right shapes, in float64."""
    odd: dict[Path, Array] = field(default_factory=dict)
    """Tensors of other shapes that a transpose or a reshape explains."""
    twins: dict[Path, Array] = field(default_factory=dict)
    """Second claims of the same tensor: PyTorch has two biases where one is enough."""
    narrow: bool = False
    """True if the numbers came as float32."""
    faults: list[Fault] = field(default_factory=list)
    names: set[tuple[str, str]] = field(default_factory=set)
    """The names that were read."""


class Claims:
    """A reader of claims about the gradient of a network."""

    def __init__(self, side: ParametersSide, definition: Definition) -> None:
        self.side = side
        self.shapes: dict[Path, Shape] = {piece.path: piece.shape for piece in side.pieces}
        self.types = {layer.name: layer.layer.name for layer in definition.layers}
        self.pytorch = PyTorchLayout(definition, self.shapes)

    def read(self, claimed: Any, layout: str, at: Place) -> Claim:
        """Read a claim, and collect all faults of its form. `at` is its place in the request."""
        if not isinstance(claimed, Mapping):
            return self._flat(np.asarray(claimed), at)
        given: dict[Path, tuple[Array, Place]] = {}
        claim = Claim()
        for layer, arrays in claimed.items():
            if isinstance(arrays, Mapping):
                for name, array in arrays.items():
                    self._note(claim, given, layout, str(layer), str(name), np.asarray(array), (*at, layer, name))
            elif "." in str(layer):
                owner = max((name for name in self.types if str(layer).startswith(name + ".")), key=len, default=None)
                first, _, rest = str(layer).partition(".")
                if owner is not None:
                    first, rest = owner, str(layer)[len(owner) + 1 :]
                self._note(claim, given, layout, first, rest, np.asarray(arrays), (*at, layer))
            else:
                claim.faults.append(Fault((*at, layer), tensor_came(list(self.shapes))))
            if len(claim.faults) >= MOST_ERRORS:
                break
        for path, (array, place) in given.items():
            self._put(claim, path, array, place)
        if not given and not claim.faults:
            names = tuple(dict.fromkeys(path[0] for path in self.shapes))
            detail = "claims nothing; it takes {layer: {parameter: tensor}}, any part of it"
            claim.faults.append(Fault(at, detail, names))
        return claim

    def _flat(self, vector: Array, at: Place) -> Claim:
        claim = Claim(narrow=vector.dtype == np.float32)
        if vector.shape != (self.side.size,):
            detail = (
                f"has shape {list(vector.shape)}; a vector of the whole gradient has {self.side.size} numbers, and a "
                "tree {layer: {parameter: tensor}} may hold any part of it"
            )
            claim.faults.append(Fault(at, detail))
            return claim
        for piece in self.side.pieces:
            part = vector[piece.start : piece.stop].reshape(piece.shape)
            claim.tensors[piece.path] = part.astype(np.float64)
        return claim

    def _note(
        self,
        claim: Claim,
        given: dict[Path, tuple[Array, Place]],
        layout: str,
        layer: str,
        name: str,
        array: Array,
        place: Place,
    ) -> None:
        claim.narrow = claim.narrow or array.dtype == np.float32
        if (layer, name) in claim.names:
            claim.faults.append(Fault(place, f"claims {layer}.{name}, which is claimed elsewhere already"))
            return
        claim.names.add((layer, name))
        if layout == "pytorch":
            found = list(self.pytorch.turned(layer, name, array))
            if found:
                for path, turned in found:
                    if path in given:
                        self._twin(claim, given, path, turned, place)
                    else:
                        given[path] = turned, place
                return
        path = (layer, name)
        if path not in self.shapes:
            faults = self._unknown(layer, name, array, place, layout)
            claim.faults += [fault for fault in faults if fault not in claim.faults]
        else:
            given[path] = array, place

    def _twin(
        self, claim: Claim, given: dict[Path, tuple[Array, Place]], path: Path, array: Array, place: Place
    ) -> None:
        shape = self.shapes[path]
        before = given[path][0]
        if np.isnan(before).any():  # parts of one tensor
            given[path] = np.where(np.isnan(before), array, before), place
        elif array.shape == shape:
            claim.twins[path] = array.astype(np.float64)

    def _put(self, claim: Claim, path: Path, array: Array, place: Place) -> None:
        shape = self.shapes[path]
        if array.shape == shape:
            claim.tensors[path] = array.astype(np.float64)
        elif any(True for _ in undone(array.astype(np.float64), shape, self.types[path[0]])):
            claim.odd[path] = array.astype(np.float64)
        else:
            found = self.side.faults(self._whole({path: array}), ())
            details = [fault.detail for fault in found] or [f"has shape {list(array.shape)}; it takes {list(shape)}"]
            claim.faults += [Fault(place, detail) for detail in details]

    def _unknown(self, layer: str, name: str, array: Array, place: Place, layout: str) -> list[Fault]:
        tree = self._whole({(layer, name): array})
        found = self.side.faults(tree, ())
        if layout == "pytorch" and layer in self.types:
            known = tuple(self.pytorch.names(layer))
            return [Fault(place, f"layer {layer!r} has no parameter {name[:64]!r} in PyTorch's layout", known)]
        return [
            Fault(place if len(fault.path) > 1 else place[:-1] or place, fault.detail, fault.allowed) for fault in found
        ]

    def _whole(self, given: Mapping[Path, Array]) -> dict[str, dict[str, Array]]:
        """Return a tree of zeros with some given tensors in it, so that its faults are about these alone."""
        tree: dict[str, dict[str, Array]] = {}
        for (layer, name), shape in self.shapes.items():
            tree.setdefault(layer, {})[name] = np.broadcast_to(np.zeros(()), shape)
        for (layer, name), array in given.items():
            tree.setdefault(layer, {})[name] = array
        return tree


def undone(array: Array, shape: Shape, kind: str) -> Iterator[tuple[str, Array]]:
    """Yield tensors of a shape that known mistakes may have turned into `array`, with the names of the mistakes. `kind`
    is the type of the layer."""
    for mistake in mistakes:
        if mistake.kind == "arrangement":
            for candidate in mistake.build(array, shape, kind):
                if candidate.shape == shape:
                    yield mistake.name, candidate
