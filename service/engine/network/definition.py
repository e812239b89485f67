"""A network's architecture, as the engine takes it.

Made once from what a caller wrote, then immutable and shared by all requests that send the same
definition. Definitions are compared by identity: whoever parses them keeps equal ones equal.

Two kinds exist: a `NetworkDefinition` is a list of layers, an `OnnxDefinition` (in `service/engine/onnx`) is the
graph of an ONNX file. The rest of the engine knows the protocol `Definition` only.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from service.engine.arrays import Array
from service.engine.declarations import Selection
from service.engine.errors import Fault
from service.engine.graph.ir import Graph, Shape
from service.engine.network.layers import Layer
from service.engine.network.model import Model

InputShapes = Sequence[tuple[str, Shape]]
"""Shapes of the inputs of a request, samples included, by name."""
KnownValues = tuple[tuple[str, Shape, tuple[float, ...]], ...]
"""Inputs whose values decide what is computed: name, shape and the numbers themselves."""
INPUT = "input"
"""The name of the input of a network that names none."""


@dataclass(frozen=True, eq=False)
class LayerDefinition:
    """One layer of a network: its name, its type with options, and where its inputs and parameters come from."""

    name: str
    layer: Selection[Layer]
    inputs: tuple[str, ...] | None = None
    """Names of layers or inputs; None: the layer before it in the list."""
    shares: str | None = None
    """The layer whose parameters this one uses."""
    trainable: bool = True


@runtime_checkable
class Definition(Protocol):
    """An architecture: inputs, named layers and outputs, and how they become a graph."""

    @property
    def layers(self) -> tuple[LayerDefinition, ...]:
        """Everything that has an output of its own in an answer, in an order in which it may be computed or not."""

    @property
    def layer_count(self) -> int:
        """Layers that the limit of layers counts; 0 where another limit bounds them."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the inputs."""

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of the layers whose output is wanted."""

    @property
    def index_inputs(self) -> frozenset[str]:
        """The inputs that hold integers."""

    @property
    def known_inputs(self) -> frozenset[str]:
        """The inputs whose values, and not only shapes, decide what is computed: they are part of a task."""

    @property
    def parameters(self) -> Mapping[str, Mapping[str, Array]] | None:
        """Values of the parameters that came with the definition, by layer and name; None where it has none."""

    @property
    def folded(self) -> tuple[str, ...]:
        """Names of parameters that an exporter made up when it changed them."""

    def inputs_of(self, position: int) -> tuple[str, ...]:
        """Names of what the layer at a position takes."""

    def samples(self, inputs: InputShapes) -> int:
        """How many samples inputs of these shapes hold."""

    def effort(self, inputs: InputShapes) -> float:
        """Nodes of the graph with gradients, roughly, for inputs of these shapes."""

    def faults_of_inputs(self, inputs: InputShapes) -> list[Fault]:
        """Everything wrong with the shapes of the inputs of a request."""

    def assemble(
        self,
        graph: Graph,
        input_shapes: Mapping[str, Shape],
        *,
        training: bool = False,
        parameter_shapes: Mapping[tuple[str, str], Shape] | None = None,
        frozen: Collection[str] = (),
        known: KnownValues = (),
        distinct_layers: bool = False,
        prefix: str = "",
        check_parameters: Callable[[int], None] = lambda count: None,
    ) -> Model:
        """Build the network in a graph; see `service.engine.network.layered.assemble`."""
