"""The architecture of a network, in the form that the engine takes.

A definition is made once from what a caller wrote. It is then immutable and shared by all requests that send the same
definition. Definitions are compared by identity: the code that parses them keeps equal ones identical.

Two kinds exist. A `NetworkDefinition` is a list of layers. An `OnnxDefinition` (in `service/engine/onnx`) is the graph
of an ONNX file. The rest of the engine knows only the protocol `Definition`.
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
"""The name and shape of each input of a request; the shape includes the axis of the samples."""
KnownValues = tuple[tuple[str, Shape, tuple[float, ...]], ...]
"""The name, shape and numbers of each input whose values decide what is computed."""
INPUT = "input"
"""The name of the input of a network that does not name its inputs."""


@dataclass(frozen=True, eq=False)
class LayerDefinition:
    """One layer of a network: its name, its type with options, and the sources of its inputs and parameters."""

    name: str
    layer: Selection[Layer]
    inputs: tuple[str, ...] | None = None
    """The names of the layers or inputs it takes. None means the layer before it in the list."""
    shares: str | None = None
    """The layer whose parameters it uses, if not its own."""
    trainable: bool = True


@runtime_checkable
class Definition(Protocol):
    """An architecture: inputs, named layers and outputs, and the way to build a graph from them."""

    @property
    def layers(self) -> tuple[LayerDefinition, ...]:
        """Return every layer whose output an answer can hold, not necessarily in an order of computation."""

    @property
    def layer_count(self) -> int:
        """Return the number of layers that the limit of layers counts: 0 where another limit bounds them."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """Return the names of the inputs."""

    @property
    def output_names(self) -> tuple[str, ...]:
        """Return the names of the layers whose output is wanted."""

    @property
    def index_inputs(self) -> frozenset[str]:
        """Return the names of the inputs that hold integers."""

    @property
    def known_inputs(self) -> frozenset[str]:
        """Return the names of the inputs whose values decide what is computed. These values are part of a task."""

    @property
    def parameters(self) -> Mapping[str, Mapping[str, Array]] | None:
        """Return the parameter values that came with the definition, by layer and name, or None if it has none."""

    @property
    def folded(self) -> tuple[str, ...]:
        """Return the names of parameters that an exporter invented when it changed their values."""

    def inputs_of(self, position: int) -> tuple[str, ...]:
        """Return the names of the inputs and layers that the layer at a position takes."""

    def samples(self, inputs: InputShapes) -> int:
        """Return the number of samples in inputs of these shapes."""

    def effort(self, inputs: InputShapes) -> float:
        """Return an estimate of the number of graph nodes, gradients included, for inputs of these shapes."""

    def faults_of_inputs(self, inputs: InputShapes) -> list[Fault]:
        """Return all faults of the shapes of a request's inputs."""

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
        """Build the network in a graph and return its model; see `service.engine.network.layered.assemble`."""
