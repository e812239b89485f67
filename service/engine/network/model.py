"""A network in the graph: the nodes that its layers, parameters and random numbers become."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from service.engine.arrays import Array
from service.engine.declarations import Selection
from service.engine.graph.ir import Graph, Node, Shape
from service.engine.network.initializers import Initializer
from service.engine.network.layers import LayerOutput

ParameterShapes = Mapping[tuple[str, str], Shape]
"""Shapes of the parameters a caller sent, by layer and parameter name."""


@dataclass(frozen=True)
class Parameter:
    """One array that a layer owns, trained or carried along."""

    layer: str
    name: str
    node: Node
    initializer: Selection[Initializer]
    fans: tuple[int, int]
    trainable: bool
    reason: str


@dataclass(frozen=True)
class Noise:
    """Random numbers that every run draws anew, such as a dropout mask."""

    node: Node
    draw: Callable[..., Array]
    """`draw(generator)` returns numbers of the node's shape from a NumPy generator, in the order of the samples."""
    uniform: bool = False
    """Whether each number takes one step of the generator, as uniform numbers do and normal ones do not."""

    def skip(self, generator: np.random.Generator, times: int) -> None:
        """Leave the generator as `times` calls of `draw` would."""
        if self.uniform:
            generator.bit_generator.advance(times * self.node.size)  # type: ignore[attr-defined]
        else:
            for _ in range(times):
                self.draw(generator)


@dataclass
class Model:
    """A network in the graph: the nodes of its inputs, layers, parameters, random numbers and penalties."""

    graph: Graph
    inputs: dict[str, Node]
    layers: dict[str, LayerOutput] = field(default_factory=dict)
    parameters: list[Parameter] = field(default_factory=list)
    noises: list[Noise] = field(default_factory=list)
    penalties: list[Node] = field(default_factory=list)
    state: dict[tuple[str, str], Node] = field(default_factory=dict)
    """The new values of arrays that are carried along, by layer and name."""
    vocabularies: dict[str, tuple[str, int]] = field(default_factory=dict)
    """For each input that holds indices: the layer with the smallest vocabulary, and the size of this vocabulary."""
    whole_inputs: set[str] = field(default_factory=set)
    """Inputs that hold whole numbers, which need be no indices."""
    couples_samples: bool = False
    """The values of a sample depend on the other samples."""
