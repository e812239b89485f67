"""The parameters of a network as one flat vector, and as the tree of arrays that callers send."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from itertools import islice, permutations
from typing import Any, NamedTuple

import numpy as np

from service.engine.errors import MOST_ERRORS, Fault
from service.engine.graph.ir import Array, Node, Shape
from service.engine.limits import Limits
from service.engine.network.definition import Definition
from service.engine.network.model import Parameter
from service.engine.suggestions import MOST_SUGGESTIONS, suggest
from service.engine.watch import Watch

Tree = Mapping[str, Mapping[str, Array]]
"""Arrays by layer and parameter name: the form of parameters and of gradients alike."""

MOST_LISTED = 20
"""Names that one sentence lists."""


class Part(NamedTuple):
    """Where a parameter, or its gradient, lies in a flat vector."""

    layer: str
    name: str
    start: int
    stop: int
    shape: Shape


def parts_of(named: Sequence[tuple[str, str, Node]]) -> list[Part]:
    """Nodes of layers, one after the other in a flat vector."""
    parts = []
    start = 0
    for layer, name, node in named:
        stop = start + node.size
        parts.append(Part(layer, name, start, stop, node.shape))
        start = stop
    return parts


def tree_of(parts: Sequence[Part], flat: Array) -> dict[str, dict[str, Array]]:
    """A flat vector as arrays by layer and name; further axes may come before it. The arrays are views."""
    tree: dict[str, dict[str, Array]] = {}
    for layer, name, start, stop, shape in parts:
        tree.setdefault(layer, {})[name] = flat[..., start:stop].reshape((*flat.shape[:-1], *shape))
    return tree


class ParameterVector:
    """Where each parameter lies in a flat vector, and whether a caller's tree is just that.

    What is trained lies at the start, in the order of the gradients; what is not comes after it.
    """

    def __init__(self, definition: Definition, parameters: Sequence[Parameter]) -> None:
        self.definition = definition
        self.parameters = tuple(parameters)
        flat = sorted(self.parameters, key=lambda parameter: not parameter.trainable)
        self.nodes = [parameter.node for parameter in flat]
        """In the order of the flat vector."""
        parts = {(part.layer, part.name): part for part in parts_of([(p.layer, p.name, p.node) for p in flat])}
        self.parts = [parts[parameter.layer, parameter.name] for parameter in self.parameters]
        """In the order of the network."""
        self.trained = [parts[p.layer, p.name] for p in flat if p.trainable]
        self.trained_size = self.trained[-1].stop if self.trained else 0
        self.owners = len({parameter.layer for parameter in parameters})

    def fill(self, flat: Array, tree: Tree) -> None:
        """Copy a tree that `fits` into a flat vector."""
        for part in self.parts:
            flat[part.start : part.stop] = tree[part.layer][part.name].reshape(-1)

    def fits(self, tree: Tree) -> bool:
        """Whether a tree is just what is wanted: the common case, told quickly."""
        known = self.definition.parameters
        if known is None and (sum(map(len, tree.values())) != len(self.parts) or len(tree) != self.owners):
            return False
        for part in self.parts:
            arrays = tree.get(part.layer)
            if arrays is None or part.name not in arrays or arrays[part.name].shape != part.shape:
                return False
        return known is None or all(
            layer in known and arrays.keys() <= known[layer].keys() for layer, arrays in tree.items()
        )

    def faults(self, tree: Tree) -> list[Fault]:
        """Everything that keeps a tree from being exactly the network's parameters."""
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
        """Fill the flat parameter vector from the layers' initializers.

        Raises `LimitExceeded` when that would take too many operations, `DeadlineExceeded` between two parameters.
        """
        limits.check_operations(
            sum(p.initializer.declaration.work(part.shape) for p, part in zip(self.parameters, self.parts, strict=True))
        )
        for position, (parameter, part) in enumerate(zip(self.parameters, self.parts, strict=True)):
            generator = np.random.Generator(np.random.PCG64([seed, 0, position]))
            selection = parameter.initializer
            values = selection.declaration.build(generator, part.shape, parameter.fans, **selection.options)
            flat[part.start : part.stop] = values.reshape(-1)
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
    """What was probably done to an array of the wrong shape, and how to send it."""
    if came[::-1] == wanted:
        return "; it is transposed: send one row for each input" if len(wanted) == 2 else "; its axes are transposed"
    if len(came) == len(wanted) > 2 and sorted(came) == sorted(wanted):
        return f"; its axes are transposed: send it with its axes in the order {_order(came, wanted)}"
    if math.prod(came) != math.prod(wanted) or not came:
        return ""
    if (*came, 1) == wanted:
        return "; put each number in a list of its own"
    if len(wanted) == 1:
        return "; send one flat list"
    return f"; it has as many numbers: reshape it to {list(wanted)}"


def _order(came: Shape, wanted: Shape) -> list[int]:
    """Axes of `came` in the order that gives `wanted`: as from PyTorch's [out, in, …] where that fits."""
    usual = (*range(2, len(came)), 1, 0)
    if tuple(came[axis] for axis in usual) == wanted:
        return list(usual)
    return list(next(order for order in permutations(range(len(came))) if tuple(came[a] for a in order) == wanted))
