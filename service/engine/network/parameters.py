"""The parameters of a network: one flat vector for programs, a tree of arrays for callers."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from itertools import islice, permutations
from typing import Any

import numpy as np

from service.engine.arrays import Array
from service.engine.errors import MOST_ERRORS, Fault
from service.engine.graph.ir import Shape
from service.engine.limits import Limits
from service.engine.network.definition import Definition
from service.engine.network.flat import Space
from service.engine.network.model import Parameter
from service.engine.suggestions import MOST_SUGGESTIONS, suggest
from service.engine.watch import Watch

Tree = Mapping[str, Mapping[str, Array]]
"""Arrays by layer and parameter name: parameters or gradients."""

MOST_LISTED = 20
"""Names that one sentence lists."""


class ParameterVector:
    """The place of each parameter of a network in a flat vector. Trained parameters come first, in the order of the
    gradients. The others follow."""

    def __init__(self, definition: Definition, parameters: Sequence[Parameter]) -> None:
        self.definition = definition
        self.parameters = tuple(parameters)
        flat = sorted(self.parameters, key=lambda parameter: not parameter.trainable)
        self.nodes = [parameter.node for parameter in flat]
        """In the order of the flat vector."""
        space = Space(((each.layer, each.name), each.node.shape) for each in flat)
        places = {piece.path: piece for piece in space.pieces}
        self.pieces = [places[parameter.layer, parameter.name] for parameter in self.parameters]
        """In the order of the network."""
        self.trained = [piece for piece, each in zip(space.pieces, flat, strict=True) if each.trainable]
        self.trained_size = self.trained[-1].stop if self.trained else 0
        self.owners = len({parameter.layer for parameter in parameters})

    def fill(self, flat: Array, tree: Tree) -> None:
        """Copy a tree that `fits` into a flat vector."""
        for (layer, name), start, stop, _ in self.pieces:
            flat[start:stop] = tree[layer][name].reshape(-1)

    def fits(self, tree: Tree) -> bool:
        """Return whether a tree holds exactly the parameters of the network. A quick check for the common case."""
        known = self.definition.parameters
        if known is None and (sum(map(len, tree.values())) != len(self.pieces) or len(tree) != self.owners):
            return False
        for (layer, name), _, _, shape in self.pieces:
            arrays = tree.get(layer)
            if arrays is None or name not in arrays or arrays[name].shape != shape:
                return False
        return known is None or all(
            layer in known and arrays.keys() <= known[layer].keys() for layer, arrays in tree.items()
        )

    def faults(self, tree: Tree) -> list[Fault]:
        """Return every fault of a tree that does not hold exactly the parameters of the network."""
        faults: list[Fault] = []
        wanted: dict[str, dict[str, Parameter]] = {}
        for parameter in self.parameters:
            wanted.setdefault(parameter.layer, {})[parameter.name] = parameter
        others = self.definition.parameters or {}  # of these the graph may need only some
        names = tuple(wanted)[:MOST_ERRORS]
        for layer, arrays in tree.items():
            known: Mapping[str, Any] | None = {**others.get(layer, {}), **wanted.get(layer, {})} or None
            if len(faults) >= MOST_ERRORS:
                return faults
            if known is None:
                detail = _unknown_layer(layer, self.definition, names, suggests=len(faults) < MOST_SUGGESTIONS)
                faults.append(Fault(("parameters", layer), detail, names))
                continue
            for name in arrays:
                if name not in known:
                    meant = suggest("parameter", name, known) if len(faults) < MOST_SUGGESTIONS else ""
                    detail = f"layer {layer!r} has no parameter {name[:64]!r}; it has {_listed(known)}{meant}"
                    faults.append(Fault(("parameters", layer, name), detail, tuple(known)))
        for layer, parameters in wanted.items():
            for name, parameter in parameters.items():
                array = tree.get(layer, {}).get(name)
                shape = parameter.node.shape
                if array is None:
                    path = ("parameters", layer, name) if layer in tree else ("parameters", layer)
                    faults.append(Fault(path, f"{name} of layer {layer!r} is missing; it has shape {list(shape)}"))
                elif array.shape != shape:
                    detail = f"{name} of layer {layer!r} has shape {list(array.shape)}; it takes {list(shape)}"
                    reason = f" because {parameter.reason}" if parameter.reason else ""
                    faults.append(Fault(("parameters", layer, name), detail + reason + misshapen(array.shape, shape)))
        return faults

    def initialize(self, flat: Array, seed: int, limits: Limits, watch: Watch | None = None) -> None:
        """Fill the flat vector with the initializers of the layers. Raises `LimitExceeded` when that would take too
        many operations, `DeadlineExceeded` between two parameters."""
        limits.check_operations(
            sum(
                p.initializer.declaration.work(piece.shape)
                for p, piece in zip(self.parameters, self.pieces, strict=True)
            )
        )
        for position, (parameter, piece) in enumerate(zip(self.parameters, self.pieces, strict=True)):
            generator = np.random.Generator(np.random.PCG64([seed, 0, position]))
            selection = parameter.initializer
            values = selection.declaration.build(generator, piece.shape, parameter.fans, **selection.options)
            with np.errstate(over="ignore"):  # an option may be larger than any number of float32
                flat[piece.start : piece.stop] = values.reshape(-1)
            if watch is not None:
                watch.look()


def _listed(names: Collection[str]) -> str:
    shown = ", ".join(map(repr, islice(names, MOST_LISTED)))
    return (shown or "none") + (", …" if len(names) > MOST_LISTED else "")


def _unknown_layer(layer: str, definition: Definition, wanted: Collection[str], *, suggests: bool) -> str:
    for known in definition.layers:
        if known.name == layer:
            if known.shares is not None:
                return f"layer {layer!r} uses the parameters of layer {known.shares!r}; send none for it"
            return f"layer {layer!r} has no parameters"
    meant = suggest("", layer, wanted) if suggests else ""
    return f"no layer is called {layer[:64]!r}; layers with parameters: {_listed(wanted)}{meant}"


def misshapen(came: Shape, wanted: Shape) -> str:
    """Return a hint at what was probably done to an array of the wrong shape, as the end of a sentence."""
    if came[::-1] == wanted:
        return "; it is transposed: send one row for each input" if len(wanted) == 2 else "; its axes are transposed"
    if len(came) == len(wanted) > 2 and sorted(came) == sorted(wanted):
        return f"; its axes are transposed: send it with its axes in the order {_order(came, wanted)}"
    if math.prod(came) != math.prod(wanted):
        return ""
    if not came:
        return "; put the number in a list" if len(wanted) == 1 else ""
    if (*came, 1) == wanted:
        return "; put each number in a list of its own"
    if len(wanted) == 1:
        return "; send one flat list"
    return f"; it has as many numbers: reshape it to {list(wanted)}"


def _order(came: Shape, wanted: Shape) -> list[int]:
    """Return an order of axes that turns shape `came` into `wanted`, if possible PyTorch's [out, in, …] into ours."""
    usual = (*range(2, len(came)), 1, 0)
    if tuple(came[axis] for axis in usual) == wanted:
        return list(usual)
    return list(next(order for order in permutations(range(len(came))) if tuple(came[a] for a in order) == wanted))
