"""ONNX graphs as network definitions: the counterpart of `network.layered`, which has networks of layers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import cached_property, lru_cache

import numpy as np

from service.engine.arrays import Array
from service.engine.declarations import Selection
from service.engine.errors import EngineError, Fault, InvalidRequest
from service.engine.graph.ir import Graph, Node, Shape
from service.engine.network.activations import Activation, activations
from service.engine.network.definition import InputShapes, KnownValues, LayerDefinition
from service.engine.network.initializers import initializers
from service.engine.network.layers import Layer, LayerOutput
from service.engine.network.model import Model, Parameter
from service.engine.onnx.analysis import Found, Linked
from service.engine.onnx.assembly import Assembly, Scope
from service.engine.onnx.file import PATH, Step
from service.engine.onnx.refusal import Refusal
from service.engine.onnx.samples import are_apart
from service.engine.onnx.tensors import is_float
from service.engine.onnx.values import Sequences, Value

NODES_OF_STEP = 12
RECURRENT = frozenset(("LSTM", "GRU", "RNN", "Scan", "Loop"))
OUTPUT = "output"
"""The type of a layer that only names the output of another layer."""
ACTIVATIONS = {"Relu": "relu", "Sigmoid": "sigmoid", "Tanh": "tanh", "Softmax": "softmax", "Softplus": "softplus"}

Described = Mapping[str, tuple[str, tuple[int | str | None, ...] | None]]
"""The element type and shape of each input, by its name."""


class OnnxDefinition:
    """The part of an ONNX graph that the wanted outputs need. It is immutable except for caches of its file."""

    def __init__(
        self,
        linked: Linked,
        outputs: tuple[str, ...],
        layers: tuple[LayerDefinition, ...],
        described: Described,
        known: frozenset[str],
        found: Mapping[tuple[str, str], Found],
        folded: tuple[str, ...] = (),
    ) -> None:
        self._linked = linked
        self._described = described
        self._found = found
        self.folded = folded
        self.layers = layers
        self.output_names = outputs
        self.inputs = tuple(described)
        self.known_inputs = known
        self.index_inputs = frozenset(
            name for name, (dtype, _) in described.items() if name not in known and not is_float(dtype)
        )
        tree: dict[str, dict[str, Array]] = {}
        for (layer, name), each in found.items():
            tree.setdefault(layer, {})[name] = each.array
        self.parameters: Mapping[str, Mapping[str, Array]] = tree
        self._by_layer = {layer.name: layer for layer in layers}
        self._recurrences = sum(layer.layer.name in RECURRENT for layer in layers)

    @property
    def layer_count(self) -> int:
        """Return 0, because nodes of a file are bounded by the limit of graph nodes and not by that of layers."""
        return 0

    @property
    def shapes(self) -> Mapping[str, tuple[int | str | None, ...] | None]:
        """Return the shapes of the inputs as the file gives them, by name."""
        return {name: shape for name, (_, shape) in self._described.items()}

    @property
    def dtypes(self) -> Mapping[str, str]:
        """Return the element types of the inputs, by name."""
        return {name: dtype for name, (dtype, _) in self._described.items()}

    @property
    def trained(self) -> frozenset[tuple[str, str]]:
        """Return the layer and name of each parameter that has a gradient."""
        return frozenset(key for key, each in self._found.items() if each.trained)

    def inputs_of(self, position: int) -> tuple[str, ...]:
        """Return the names of the inputs and layers that the layer at a position takes."""
        return self.layers[position].inputs or ()

    def samples(self, inputs: InputShapes) -> int:
        """Return the length of the first axis that the file leaves open, else of the first axis of the first input."""
        lengths = [(name, shape[0]) for name, shape in inputs if shape and name not in self.known_inputs]
        for name, length in lengths:
            shape = self._described[name][1]
            if shape is None or not shape or not isinstance(shape[0], int):
                return length
        return lengths[0][1] if lengths else 1

    def effort(self, inputs: InputShapes) -> float:
        """Return an estimate of the number of graph nodes, gradients included, for inputs of these shapes."""
        longest = max([max(shape) for _, shape in inputs if shape], default=1)
        return float(NODES_OF_STEP * (len(self.layers) + 4 * self._recurrences * longest))

    def faults_of_inputs(self, inputs: InputShapes) -> list[Fault]:
        """Return the faults of inputs whose shapes fit neither the file nor its named dimensions."""
        faults = []
        lengths: dict[str, tuple[int, str]] = {}
        for name, shape in inputs:
            wanted = self._described[name][1]
            if wanted is None:
                continue
            takes = f"takes {_words(wanted)}"
            if len(shape) != len(wanted):
                faults.append(Fault(("inputs", name), f"has shape {list(shape)}; input {name!r} {takes}"))
                continue
            for axis, (length, given) in enumerate(zip(shape, wanted, strict=True)):
                if isinstance(given, int) and given != length:
                    hint = ""
                    if axis == 0 and given == 1:
                        hint = "; the file was exported for one sample: export it with a dynamic first axis"
                    faults.append(Fault(("inputs", name), f"has shape {list(shape)}; input {name!r} {takes}{hint}"))
                    break
                if isinstance(given, str):
                    before = lengths.setdefault(given, (length, name))
                    if before[0] != length:
                        detail = f"{given!r} is {length} here, but {before[0]} in input {before[1]!r}"
                        faults.append(Fault(("inputs", name), detail))
                        break
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
        """Build the graph. `training` has no effect, because the file itself says what each operator does."""
        values: dict[str, Value] = {}

        model = OnnxModel(graph, self, input_shapes, known)
        given = {name: (shape, numbers) for name, shape, numbers in known}
        for name, shape in input_shapes.items():
            dtype = self._described[name][0]
            if name in given:
                numbers = given[name][1]
                values[name] = Value(_array(numbers, given[name][0], dtype))
                continue
            node = graph.input(f"{prefix}inputs/{name}", shape, "int64" if name in self.index_inputs else None)
            model.inputs[name] = node
            values[name] = Value(None, node, dtype)
            if dtype == "bool":
                model.vocabularies[name] = (name, 2)
            elif name in self.index_inputs:
                model.whole_inputs.add(name)
        made: dict[tuple[str, str], Parameter] = {}

        def parameter(layer: str, name: str, array: Array) -> Node:
            """Return the graph input of a parameter. Create it at first use."""
            before = made.get((layer, name))
            if before is not None:
                return before.node
            check_parameters(array.size)
            node = graph.input(f"{layer}.{name}", tuple(array.shape))
            size = max(1, array.size)
            trainable = self._found[layer, name].trained
            reason = "it has this shape in the file"
            made[layer, name] = Parameter(
                layer, name, node, initializers.select("zeros"), (size, size), trainable, reason
            )
            return node

        results: dict[str, LayerOutput] = {}

        def built(step: Step, outputs: list[Value | None]) -> None:
            """Record the outputs of a top node that has just been built."""
            name = self._linked.names[id(step)]
            named = [value for value, each in zip(outputs, step.outputs, strict=False) if each and value is not None]
            if name in self._by_layer and named and not isinstance(named[0], Sequences):
                results[name] = self._output(step, scope, assembly, named[0])

        assembly = Assembly(self._linked, graph, parameter, built)
        scope = Scope(self._linked.file.graph)
        scope.values.update(values)
        try:
            found = assembly.run(scope, self.output_names)
            ends = [assembly.node(value) for value in found]
        except Refusal as refusal:
            raise InvalidRequest([Fault(PATH, refusal.reason)]) from None
        finally:
            assembly.close()
        for name, node in zip(self.output_names, ends, strict=True):
            if name not in results:
                maker = results.get((self._by_layer[name].inputs or ("",))[0])
                results[name] = maker if maker is not None and maker.output is node else LayerOutput(node, node)
        for layer in self.layers:
            if layer.name in results:
                model.layers[layer.name] = results[layer.name]
            else:  # the layer's value was already known
                nothing = graph.constant(0.0)
                model.layers[layer.name] = LayerOutput(nothing, nothing)
        for name, smallest in assembly.vocabularies.items():
            model.vocabularies[name] = smallest
        model.parameters = [made[key] for key in self._found if key in made]
        return model

    def _output(self, step: Step, scope: Scope, assembly: Assembly, value: Value) -> LayerOutput:
        """Return one value of a node as the output of a layer, with its activation if the node is one."""
        node = assembly.node(value)
        activation = _activation(step.operation)
        if activation is not None and step.inputs:
            before = assembly.find(scope, step.inputs[0])
            if before.node is not None and before.is_float and _is_last(step, before):
                return LayerOutput(node, before.node, activation)
        return LayerOutput(node, node)


class OnnxModel(Model):
    """The model of an ONNX file in a graph. It finds out whether samples are coupled only when asked."""

    def __init__(
        self, graph: Graph, definition: OnnxDefinition, input_shapes: Mapping[str, Shape], known: KnownValues
    ) -> None:
        super().__init__(graph, {})
        self._definition = definition
        self._shapes = dict(input_shapes)
        self._values = known
        del self.__dict__["couples_samples"]

    @cached_property
    def couples_samples(self) -> bool:  # type: ignore[override]
        """Return whether the output for one sample may depend on other samples."""
        names = self._definition.output_names
        samples = self._definition.samples(tuple(self._shapes.items()))
        outputs = [self.layers[name].output for name in names]
        if not are_apart(self.inputs.values(), outputs, samples):
            return True
        # The graph of a single sample must be the same but for its length.
        known = self._definition.known_inputs
        shapes = {name: shape if name in known else (1, *shape[1:]) for name, shape in self._shapes.items()}
        try:
            with Graph(self.graph.dtype, self.graph.most_nodes) as graph:
                single = self._definition.assemble(graph, shapes, known=self._values)
                found = [single.layers[name].output.shape for name in names]
        except EngineError:
            return True
        return found != [(1, *output.shape[1:]) for output in outputs]


def _is_last(step: Step, x: Value) -> bool:
    """Return whether a softmax node acts on the last axis of x, as the catalogue's softmax does."""
    if step.operation != "Softmax":
        return True
    axis = step.attributes.get("axis", -1 if step.version >= 13 else 1)
    return len(x.shape) > 1 and (axis in (-1, len(x.shape) - 1))


@lru_cache(maxsize=16)
def _activation(operation: str) -> Selection[Activation] | None:
    """Return the activation of the catalogue that an operator is, or None."""
    name = ACTIVATIONS.get(operation)
    return None if name is None else activations.select(name)


@lru_cache(maxsize=512)
def layer_type(operation: str) -> Selection[Layer]:
    """Return the operator of a node as the type of a layer."""
    return Selection(Layer(name=operation, build=_not_built), {})


def _not_built(*_: object) -> LayerOutput:
    """Raise `AssertionError`: layers of a file are built by the operators of their nodes."""
    raise AssertionError("nodes of a file are built by their operators")


def _array(numbers: tuple[float, ...], shape: Shape, dtype: str) -> Array:
    """Return numbers as an array of a shape and element type."""
    return np.array(numbers, dtype).reshape(shape)


def _words(shape: tuple[int | str | None, ...]) -> str:
    """Return a shape as text, with names for open dimensions."""
    return "[" + ", ".join("?" if each is None else str(each) for each in shape) + "]"
