"""From a network's definition to graph nodes.

`assemble` orders the layers (any acyclic arrangement), builds each one and collects parameters,
random masks, regularisation and everything that is wrong with the definition, so that one answer
can name all of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from service.engine.declarations import Selection
from service.engine.errors import MOST_ERRORS, Fault, InvalidRequest, Path
from service.engine.graph.ir import Graph, Node, Shape
from service.engine.graph.operations import mark
from service.engine.network.definition import INPUT, LayerDefinition, NetworkDefinition
from service.engine.network.initializers import Initializer
from service.engine.network.layers import LayerContext, LayerError, LayerOutput
from service.engine.network.regularizers import Regularizer

ParameterShapes = Mapping[tuple[str, str], Shape]
"""Shapes of the parameters a caller sent, by layer and parameter name."""


@dataclass(frozen=True)
class Parameter:
    """One array that a layer owns."""

    layer: str
    name: str
    node: Node
    initializer: Selection[Initializer]
    fans: tuple[int, int]
    trainable: bool
    reason: str


@dataclass(frozen=True)
class Mask:
    """A random factor drawn for every run: 0 with probability `rate`, else 1 / (1 - rate)."""

    node: Node
    rate: float


@dataclass
class Model:
    """A network in the graph."""

    graph: Graph
    inputs: Node
    layers: dict[str, LayerOutput] = field(default_factory=dict)
    parameters: list[Parameter] = field(default_factory=list)
    masks: list[Mask] = field(default_factory=list)
    penalties: list[Node] = field(default_factory=list)


def _position_in_words(shape: Shape) -> str:
    return f"{shape[0]} value{'' if shape[0] == 1 else 's'}" if len(shape) == 1 else f"shape {list(shape)}"


class _Assembler:
    def __init__(
        self,
        definition: NetworkDefinition,
        graph: Graph,
        inputs: Node,
        training: bool,
        shapes: ParameterShapes,
        distinct_layers: bool,
    ) -> None:
        self.definition = definition
        self.graph = graph
        self.training = training
        self.shapes = shapes
        self.distinct_layers = distinct_layers
        self.model = Model(graph, inputs)
        self.faults: list[Fault] = []
        self.position = {layer.name: position for position, layer in enumerate(definition.layers)}
        self.owned: dict[str, dict[str, Node]] = {}

    def fault(self, path: Path, detail: str, allowed: tuple[object, ...] = ()) -> None:
        if len(self.faults) < MOST_ERRORS:
            self.faults.append(Fault(("network", *path), detail, allowed))

    def inputs_of(self, position: int) -> tuple[str, ...]:
        layer = self.definition.layers[position]
        if layer.inputs is not None:
            return layer.inputs
        return (self.definition.layers[position - 1].name if position else INPUT,)

    def order(self) -> list[int]:
        """Positions of the layers, each after those it takes input or parameters from."""
        known = (INPUT, *self.position)[:MOST_ERRORS]
        needs: list[set[int]] = []
        for position, layer in enumerate(self.definition.layers):
            for place, name in enumerate(self.inputs_of(position)):
                if name != INPUT and name not in self.position:
                    self.fault(("layers", position, "inputs", place), f"no layer is called {name!r}", known)
            if layer.shares is not None and (layer.shares not in self.position or layer.shares == layer.name):
                self.fault(
                    ("layers", position, "shares"),
                    f"no other layer is called {layer.shares!r}",
                    tuple(name for name in self.position if name != layer.name),
                )
            names = {*self.inputs_of(position), layer.shares}
            needs.append({self.position[name] for name in names if name in self.position})
        for place, name in enumerate(self.definition.outputs or ()):
            if name not in self.position:
                self.fault(("outputs", place), f"no layer is called {name!r}", tuple(self.position))
        if self.faults:
            raise InvalidRequest(self.faults)

        ordered: list[int] = []
        waiting = [len(need) for need in needs]
        followers: list[list[int]] = [[] for _ in needs]
        for position, need in enumerate(needs):
            for other in need:
                followers[other].append(position)
        ready = [position for position, count in enumerate(waiting) if not count]
        while ready:
            position = ready.pop(0)
            ordered.append(position)
            for follower in followers[position]:
                waiting[follower] -= 1
                if not waiting[follower]:
                    ready.append(follower)
        for position, count in enumerate(waiting):
            if count:
                layer = self.definition.layers[position]
                self.fault(
                    ("layers", position, "shares" if layer.inputs is None and layer.shares else "inputs"),
                    f"layer {layer.name!r} lies on a cycle or behind one: it needs its own output",
                )
        if self.faults:
            raise InvalidRequest(self.faults)
        return ordered

    def source(self, name: str) -> str:
        """Why what `name` puts out has its shape."""
        if name == INPUT:
            count = self.model.inputs.shape[1:]
            features = (
                f"{count[0]} feature{'' if count[0] == 1 else 's'}" if len(count) == 1 else f"shape {list(count)}"
            )
            return f"the inputs have {features}"
        units = self.definition.layers[self.position[name]].layer.options.get("units")
        if units is not None:
            return f"layer {name!r} has {units} unit{'' if units == 1 else 's'}"
        return f"layer {name!r} gives {_position_in_words(self.model.layers[name].output.shape[1:])}"

    def build(self, position: int) -> None:
        layer = self.definition.layers[position]
        declaration = layer.layer.declaration
        names = self.inputs_of(position)
        if declaration.merges and len(names) < 2:
            return self.fault(
                ("layers", position, "inputs"),
                f"a layer of type {declaration.name!r} merges two or more layers; name them in 'inputs'",
                (INPUT, *(name for name in self.position if name != layer.name)),
            )
        if not declaration.merges and len(names) != 1:
            return self.fault(
                ("layers", position, "inputs"),
                f"a layer of type {declaration.name!r} takes one input, got {len(names)}; "
                "merge them first with add, multiply or concatenate",
            )
        outputs = self.model.layers
        if any(name != INPUT and name not in outputs for name in names):
            return None  # its input could not be built, which is already told
        inputs = [self.model.inputs if name == INPUT else outputs[name].output for name in names]
        if self.distinct_layers:
            inputs = [mark(x, layer.name) for x in inputs]
        context = LayerContext(
            name=layer.name,
            options=layer.layer.options,
            training=self.training,
            source=self.source(names[0]),
            declare_parameter=lambda *details: self.parameter(position, layer, *details),
            declare_mask=self.mask,
        )
        try:
            with self.graph.scoped(layer.name):
                outputs[layer.name] = declaration.build(context, *inputs)
        except LayerError as error:
            path: Path = ("layers", position) if error.option is None else ("layers", position, error.option)
            self.fault(path, error.detail)
        else:
            if layer.shares is not None and layer.name not in self.owned:
                self.fault(("layers", position, "shares"), f"a layer of type {declaration.name!r} has no parameters")
        return None

    def parameter(
        self,
        position: int,
        layer: LayerDefinition,
        name: str,
        shape: Shape,
        initializer: Selection[Initializer],
        regularizer: Selection[Regularizer] | None,
        fans: tuple[int, int],
        also: tuple[Shape, ...],
        reason: str,
    ) -> Node:
        if layer.shares is not None:
            if regularizer is not None:
                raise LayerError(
                    f"{name}_regularizer", f"{name} belongs to layer {layer.shares!r}; regularize it there"
                )
            if not layer.trainable:
                raise LayerError("trainable", f"{name} belongs to layer {layer.shares!r}; make it untrainable there")
            owned = self.owned.get(layer.shares, {})
            if name not in owned:
                raise LayerError("shares", f"layer {layer.shares!r} has no {name} to share")
            if owned[name].shape not in (shape, *also):
                raise LayerError(
                    "shares",
                    f"{name} of layer {layer.shares!r} has shape {list(owned[name].shape)}; "
                    f"this layer takes {list(shape)} because {reason}",
                )
            # A layer that shares from a layer that shares owns what they both use.
            self.owned.setdefault(layer.name, {})[name] = owned[name]
            return owned[name]
        given = self.shapes.get((layer.name, name))
        node = self.graph.input(f"{layer.name}.{name}", given if given is not None and given in also else shape)
        self.owned.setdefault(layer.name, {})[name] = node
        self.model.parameters.append(Parameter(layer.name, name, node, initializer, fans, layer.trainable, reason))
        if regularizer is not None:
            self.model.penalties.append(regularizer.declaration.build(node, **regularizer.options))
        return node

    def mask(self, name: str, shape: Shape, rate: float) -> Node:
        node = self.graph.input(f"{name}.mask", shape)
        self.model.masks.append(Mask(node, rate))
        return node


def assemble(
    definition: NetworkDefinition,
    graph: Graph,
    inputs: Node,
    *,
    training: bool = False,
    parameter_shapes: ParameterShapes | None = None,
    distinct_layers: bool = False,
) -> Model:
    """Build every layer of `definition` on `inputs`, whose first axis is the samples.

    With `distinct_layers` no two layers share a node, even where they compute the same.

    Raises `InvalidRequest` with everything that is wrong in the definition.
    """
    assembler = _Assembler(definition, graph, inputs, training, parameter_shapes or {}, distinct_layers)
    for position in assembler.order():
        assembler.build(position)
    if assembler.faults:
        raise InvalidRequest(assembler.faults)
    # Parameters in the order the layers were written, whatever order they were built in.
    assembler.model.parameters.sort(key=lambda parameter: assembler.position[parameter.layer])
    return assembler.model
