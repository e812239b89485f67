"""A network's architecture, as the engine takes it.

Made once from what a caller wrote, then immutable and shared by all requests that send the same
definition. Definitions are compared by identity: whoever parses them keeps equal ones equal.

Two kinds exist: a `NetworkDefinition` is a list of layers, an `OnnxDefinition` (in `service/engine/onnx`) is the
graph of an ONNX file. The rest of the engine knows the protocol `Definition` only.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from service.engine.arrays import Array
from service.engine.declarations import Selection
from service.engine.errors import Fault, Path
from service.engine.graph.ir import Graph, Shape
from service.engine.network.layers import Layer

if TYPE_CHECKING:
    from service.engine.network.model import Model

InputShapes = Sequence[tuple[str, Shape]]
"""Shapes of the inputs of a request, samples included, by name."""
KnownValues = tuple[tuple[str, Shape, tuple[float, ...]], ...]
"""Inputs whose values decide what is computed: name, shape and the numbers themselves."""
NODES_OF_LAYER = 50
NODES_OF_STEP = 40

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
        """Build the network in a graph; see `service.engine.network.model.assemble`."""


@dataclass(frozen=True, eq=False)
class NetworkDefinition:
    """The architecture of a network: layers in the order they were written. `outputs` names layers; None: the last
    one."""

    layers: tuple[LayerDefinition, ...]
    inputs: tuple[str, ...] = (INPUT,)
    input_shapes: Mapping[str, Shape] = field(default_factory=dict)
    """Shapes of one sample, of the inputs for which the definition gives a shape."""
    outputs: tuple[str, ...] | None = None
    places: tuple[tuple[Path, str], ...] = ()
    """Of a definition read from a document in another form: where each layer stands there, and what errors call it."""

    @property
    def output_names(self) -> tuple[str, ...]:
        return self.outputs or (self.layers[-1].name,)

    def inputs_of(self, position: int) -> tuple[str, ...]:
        """Return the names of the inputs and layers that the layer at a position takes."""
        layer = self.layers[position]
        if layer.inputs is not None:
            return layer.inputs
        return (self.layers[position - 1].name,) if position else self.inputs

    @property
    def index_inputs(self) -> frozenset[str]:
        """The inputs that hold integers, because a layer looks them up."""
        return frozenset(
            name
            for position, layer in enumerate(self.layers)
            if layer.layer.declaration.takes_indices
            for name in self.inputs_of(position)
        )

    @property
    def layer_count(self) -> int:
        return len(self.layers)

    @property
    def known_inputs(self) -> frozenset[str]:
        return frozenset()

    @property
    def parameters(self) -> None:
        return None

    @property
    def folded(self) -> tuple[str, ...]:
        return ()

    def samples(self, inputs: InputShapes) -> int:
        return next((shape[0] for _, shape in inputs if shape), 0)

    def effort(self, inputs: InputShapes) -> float:
        steps: int = max([shape[1] for _, shape in inputs if len(shape) > 1], default=1)
        lengths: list[int] = [layer.layer.options["n"] for layer in self.layers if layer.layer.name == "repeat_vector"]
        written_out = sum(_sequences_in(layer.layer) for layer in self.layers)
        return NODES_OF_LAYER * len(self.layers) + NODES_OF_STEP * written_out * max([steps, *lengths])

    def faults_of_inputs(self, inputs: InputShapes) -> list[Fault]:
        faults = []
        samples = self.samples(inputs)
        indices = self.index_inputs  # of which a sample may hold a single one
        for name, shape in inputs:
            path, label = ("inputs", name), input_label(name)
            wanted = self.input_shapes.get(name)
            if not shape or (len(shape) < 2 and name not in indices):
                detail = f"{label} shape {list(shape)}; they take one row per sample: [samples, features]"
                faults.append(Fault(path, detail + _as_rows(shape)))
            elif 0 in shape:
                faults.append(Fault(path, f"{label} shape {list(shape)}; at least one value is needed"))
            elif wanted is not None and shape[1:] != wanted:
                takes = ", ".join(["samples", *map(str, wanted)])
                detail = f"{label} shape {list(shape)}; they take [{takes}] because input_shape is {list(wanted)}"
                if len(shape) == 2 and shape[:1] == wanted:
                    detail += "; they are transposed: a sample is a row"
                faults.append(Fault(path, detail))
            elif shape[0] != samples:
                first = next(other for other, others in inputs if others)
                detail = f"{label} {shape[0]} samples, but input {first!r} has {samples}"
                faults.append(Fault(path, detail))
        return faults

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
        from service.engine.network.model import assemble

        return assemble(
            self,
            graph,
            input_shapes,
            training=training,
            parameter_shapes=parameter_shapes,
            frozen=frozen,
            distinct_layers=distinct_layers,
            prefix=prefix,
            check_parameters=check_parameters,
        )


def input_label(name: str) -> str:
    """An input of the network at the start of a sentence."""
    return "inputs have" if name == INPUT else f"input {name!r} has"


def _as_rows(shape: Shape) -> str:
    if not shape:
        return ""
    return "; write [[1, 2]] for one sample of two features, [[1], [2]] for two samples of one"


def _sequences_in(layer: Selection[Layer]) -> int:
    """How many sequences a layer goes through step by step."""
    inner: Selection[Layer] | None = layer.options.get("layer")
    if inner is None:
        return int(layer.declaration.recurrent)
    return 2 * _sequences_in(inner) + layer.declaration.couples_samples
