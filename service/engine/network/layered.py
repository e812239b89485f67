"""Networks of layers: their definition, and the construction of graph nodes from it.

`assemble` orders the layers, which may form any acyclic graph, and builds each of them. It collects parameters, random
numbers and penalties. It also collects every fault of the definition, so that one answer can name them all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from service.engine.arrays import Array
from service.engine.declarations import Selection
from service.engine.errors import MOST_ERRORS, Fault, InvalidRequest, Path
from service.engine.graph.ir import Graph, Node, Shape
from service.engine.graph.operations import mark
from service.engine.network.definition import INPUT, InputShapes, KnownValues, LayerDefinition
from service.engine.network.initializers import Initializer
from service.engine.network.layers import Layer, LayerContext, LayerError
from service.engine.network.model import Model, Noise, Parameter, ParameterShapes
from service.engine.network.regularizers import Regularizer

NODES_OF_LAYER = 50
NODES_OF_STEP = 40


@dataclass(frozen=True, eq=False)
class NetworkDefinition:
    """The architecture of a network of layers, in the order in which they were written.

    `outputs` names layers. None means the last one.
    """

    layers: tuple[LayerDefinition, ...]
    inputs: tuple[str, ...] = (INPUT,)
    input_shapes: Mapping[str, Shape] = field(default_factory=dict)
    """The shape of one sample of each input for which the definition gives a shape."""
    outputs: tuple[str, ...] | None = None
    places: tuple[tuple[Path, str], ...] = ()
    """The path of each layer in a document of another form, and the name that errors give it. Empty for other
    definitions."""

    @property
    def output_names(self) -> tuple[str, ...]:
        """Return the names of the layers whose output is wanted."""
        return self.outputs or (self.layers[-1].name,)

    def inputs_of(self, position: int) -> tuple[str, ...]:
        """Return the names of the inputs and layers that the layer at a position takes."""
        layer = self.layers[position]
        if layer.inputs is not None:
            return layer.inputs
        return (self.layers[position - 1].name,) if position else self.inputs

    @property
    def index_inputs(self) -> frozenset[str]:
        """Return the names of the inputs that hold integers because a layer looks them up."""
        return frozenset(
            name
            for position, layer in enumerate(self.layers)
            if layer.layer.declaration.takes_indices
            for name in self.inputs_of(position)
        )

    @property
    def layer_count(self) -> int:
        """Return the number of layers."""
        return len(self.layers)

    @property
    def known_inputs(self) -> frozenset[str]:
        """Return the empty set: no layer depends on the values of inputs for what it computes."""
        return frozenset()

    @property
    def parameters(self) -> None:
        """Return None: parameters come with each request."""
        return None

    @property
    def folded(self) -> tuple[str, ...]:
        """Return the empty tuple: no exporter changes the parameters."""
        return ()

    def samples(self, inputs: InputShapes) -> int:
        """Return the length of the first axis of the first input, or 0 if no input has axes."""
        return next((shape[0] for _, shape in inputs if shape), 0)

    def effort(self, inputs: InputShapes) -> float:
        """Return an estimate of the number of graph nodes, gradients included, for inputs of these shapes."""
        steps: int = max([shape[1] for _, shape in inputs if len(shape) > 1], default=1)
        lengths: list[int] = [layer.layer.options["n"] for layer in self.layers if layer.layer.name == "repeat_vector"]
        written_out = sum(_sequences_in(layer.layer) for layer in self.layers)
        return NODES_OF_LAYER * len(self.layers) + NODES_OF_STEP * written_out * max([steps, *lengths])

    def faults_of_inputs(self, inputs: InputShapes) -> list[Fault]:
        """Return all faults of the shapes of a request's inputs."""
        faults = []
        samples = self.samples(inputs)
        indices = self.index_inputs  # a sample may be a single index
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
                elif wanted[1:] == shape[1:]:
                    detail += "; it is the shape of one sample: leave the axis of the samples out"
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
        """Build the network in a graph and return its model; see the function `assemble`."""
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
    """Return the name of an input with its verb, for the start of a sentence."""
    return "inputs have" if name == INPUT else f"input {name!r} has"


def _as_rows(shape: Shape) -> str:
    """Return a hint about writing samples as rows for a vector, else the empty string."""
    if not shape:
        return ""
    return "; write [[1, 2]] for one sample of two features, [[1], [2]] for two samples of one"


def _sequences_in(layer: Selection[Layer]) -> int:
    """Return the number of sequences that a layer goes through step by step."""
    inner: Selection[Layer] | None = layer.options.get("layer")
    if inner is None:
        return int(layer.declaration.recurrent)
    return 2 * _sequences_in(inner) + layer.declaration.couples_samples


def _position_in_words(shape: Shape) -> str:
    """Return the shape of one sample or position as text for a message."""
    return f"{shape[0]} value{'' if shape[0] == 1 else 's'}" if len(shape) == 1 else f"shape {list(shape)}"


@dataclass(eq=False)
class _Assembler:
    """A builder of the layers of one definition, which collects the faults."""

    definition: NetworkDefinition
    graph: Graph
    input_shapes: Mapping[str, Shape]
    training: bool
    shapes: ParameterShapes
    frozen: Collection[str]
    distinct_layers: bool
    prefix: str
    check_parameters: Callable[[int], None]

    def __post_init__(self) -> None:
        self.model = Model(self.graph, {})
        indices = self.definition.index_inputs
        for name, shape in self.input_shapes.items():
            dtype = "int64" if name in indices else None
            self.model.inputs[name] = self.graph.input(f"{self.prefix}inputs/{name}", shape, dtype)
        self.faults: list[Fault] = []
        self.position = {layer.name: position for position, layer in enumerate(self.definition.layers)}
        self.owned: dict[str, dict[str, Node]] = {}

    def fault(self, path: Path, detail: str, allowed: tuple[object, ...] = ()) -> None:
        """Note a fault of the network at a path, unless there are too many already."""
        if len(self.faults) < MOST_ERRORS:
            self.faults.append(Fault(("network", *path), detail, allowed))

    def order(self) -> list[int]:
        """Return the positions of the layers, each after the layers whose output or parameters it takes."""
        sources = self.definition.inputs
        known = (*sources, *self.position)[:MOST_ERRORS]
        needs: list[set[int]] = []
        for position, layer in enumerate(self.definition.layers):
            for place, name in enumerate(self.definition.inputs_of(position)):
                if name not in sources and name not in self.position:
                    self.fault(("layers", position, "inputs", place), f"no layer is called {name!r}", known)
            if layer.shares is not None and (layer.shares not in self.position or layer.shares == layer.name):
                self.fault(
                    ("layers", position, "shares"),
                    f"no other layer is called {layer.shares!r}",
                    tuple(name for name in self.position if name != layer.name),
                )
            names = {*self.definition.inputs_of(position), layer.shares}
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
        """Return the reason for the shape of an input or of a layer's output, as the end of a sentence."""
        if name in self.model.inputs:
            count = self.model.inputs[name].shape[1:]
            features = (
                f"{count[0]} feature{'' if count[0] == 1 else 's'}" if len(count) == 1 else f"shape {list(count)}"
            )
            return f"the inputs have {features}" if name == INPUT else f"input {name!r} has {features}"
        units = self.definition.layers[self.position[name]].layer.options.get("units")
        shape = self.model.layers[name].output.shape[1:]
        if units is not None and shape == (units,):
            return f"layer {name!r} has {units} unit{'' if units == 1 else 's'}"
        return f"layer {name!r} gives {_position_in_words(shape)}"

    def build(self, position: int) -> None:
        """Build the layer at a position and add its output to the model. Note its faults."""
        layer = self.definition.layers[position]
        declaration = layer.layer.declaration
        names = self.definition.inputs_of(position)
        fewest, most = declaration.takes
        if len(names) < fewest:
            return self.fault(
                ("layers", position, "inputs"),
                f"a layer of type {declaration.name!r} merges two {'' if most == 2 else 'or more '}layers; "
                "name them in 'inputs'",
                (*self.definition.inputs, *(name for name in self.position if name != layer.name)),
            )
        if len(names) > most:
            takes = ("one input", "two inputs")[most - 1] if most < 3 else f"at most {most} inputs"
            hint = (
                "name the one it takes in 'inputs'"
                if layer.inputs is None
                else "merge them first with add, multiply or concatenate"
            )
            return self.fault(
                ("layers", position, "inputs"),
                f"a layer of type {declaration.name!r} takes {takes}, got {len(names)}; {hint}",
            )
        outputs = self.model.layers
        if any(name not in self.model.inputs and name not in outputs for name in names):
            return None  # its input could not be built, and that fault is already noted
        inputs = [self.model.inputs[name] if name in self.model.inputs else outputs[name].output for name in names]
        if not self.check_indices(position, names, inputs):
            return None
        if self.distinct_layers:
            inputs = [mark(x, layer.name) if x.dtype != "int64" else x for x in inputs]
        context = LayerContext(
            name=layer.name,
            options=layer.layer.options,
            training=self.training,
            frozen=not layer.trainable or layer.name in self.frozen,
            source=self.source(names[0]),
            builder=_LayerBuilder(self, layer),
        )
        try:
            with self.graph.scoped(layer.name):
                outputs[layer.name] = declaration.build(context, *inputs)
        except LayerError as error:
            self.fault(("layers", position, *error.path), error.detail)
        else:
            if layer.shares is not None and layer.name not in self.owned:
                self.fault(("layers", position, "shares"), f"a layer of type {declaration.name!r} has no parameters")
        return None

    def check_indices(self, position: int, names: tuple[str, ...], inputs: list[Node]) -> bool:
        """Return whether a layer gets integers exactly if it looks up indices. Note the faults."""
        layer = self.definition.layers[position]
        path: Path = ("layers", position, "inputs")
        for name, x in zip(names, inputs, strict=True):
            if not layer.layer.declaration.takes_indices:
                if x.dtype == "int64":
                    detail = f"{name!r} holds indices, because a layer embeds it; this layer takes numbers"
                    self.fault(path, detail)
                    return False
                continue
            if name not in self.model.inputs:
                detail = f"takes indices, which only an input of the network holds; {name!r} is a layer"
                self.fault(path, detail, self.definition.inputs)
                return False
            count = layer.layer.options["input_dim"]
            before = self.model.vocabularies.get(name)
            if before is None or count < before[1]:
                self.model.vocabularies[name] = (layer.name, count)
        return True


class _LayerBuilder:
    """The source of parameters, random numbers and state for one layer: see `Builder`."""

    def __init__(self, assembler: _Assembler, layer: LayerDefinition) -> None:
        self.assembler = assembler
        self.model = assembler.model
        self.layer = layer

    def parameter(
        self,
        name: str,
        shape: Shape,
        initializer: Selection[Initializer],
        regularizer: Selection[Regularizer] | None,
        fans: tuple[int, int],
        also: tuple[Shape, ...],
        reason: str,
        learned: bool,
    ) -> Node:
        """Return the node of a parameter of the layer: a new one, or that of the layer it shares from."""
        layer, owned = self.layer, self.assembler.owned
        if name in owned.get(layer.name, {}):
            return owned[layer.name][name]  # a layer inside this one is built once per step
        if layer.shares is not None:
            if regularizer is not None:
                detail = f"{name} belongs to layer {layer.shares!r}; regularize it there"
                raise LayerError((f"{name}_regularizer",), detail)
            if not layer.trainable:
                raise LayerError(("trainable",), f"{name} belongs to layer {layer.shares!r}; make it untrainable there")
            shared = owned.get(layer.shares, {})
            if name not in shared:
                raise LayerError(("shares",), f"layer {layer.shares!r} has no {name} to share")
            if shared[name].shape not in (shape, *also):
                raise LayerError(
                    ("shares",),
                    f"{name} of layer {layer.shares!r} has shape {list(shared[name].shape)}; "
                    f"this layer takes {list(shape)} because {reason}",
                )
            # A layer may share from a layer that itself shares, so this one counts as an owner, too.
            owned.setdefault(layer.name, {})[name] = shared[name]
            return shared[name]
        self.assembler.check_parameters(math.prod(shape))  # before anything of this size exists
        given = self.assembler.shapes.get((layer.name, name))
        node = self.model.graph.input(f"{layer.name}.{name}", given if given is not None and given in also else shape)
        owned.setdefault(layer.name, {})[name] = node
        trainable = layer.trainable and learned
        self.model.parameters.append(Parameter(layer.name, name, node, initializer, fans, trainable, reason))
        if regularizer is not None:
            self.model.penalties.append(regularizer.declaration.build(node, **regularizer.options))
        return node

    def noise(self, shape: Shape, draw: Callable[..., Array], *, uniform: bool = False) -> Node:
        """Return a graph input that `draw` fills with random numbers of this shape; see `Noise`."""
        node = self.model.graph.input(f"{self.assembler.prefix}noise/{len(self.model.noises)}", shape)
        self.model.noises.append(Noise(node, draw, uniform))
        return node

    def state(self, name: str) -> Node | None:
        """Return the updated value of a parameter that is state, or None before its first update."""
        return self.model.state.get((self.owner(name), name))

    def update(self, name: str, value: Node) -> None:
        """Set the updated value of a parameter that is state."""
        self.model.state[self.owner(name), name] = value

    def couple_samples(self) -> None:
        """Mark the model as one whose samples influence each other."""
        self.model.couples_samples = True

    def owner(self, name: str) -> str:
        """Return the layer that owns a parameter: this one, or the one from which it is shared."""
        node = self.assembler.owned[self.layer.name][name]
        return next(p.layer for p in self.model.parameters if p.node is node)


def assemble(
    definition: NetworkDefinition,
    graph: Graph,
    input_shapes: Mapping[str, Shape],
    *,
    training: bool = False,
    parameter_shapes: ParameterShapes | None = None,
    frozen: Collection[str] = (),
    distinct_layers: bool = False,
    prefix: str = "",
    check_parameters: Callable[[int], None] = lambda count: None,
) -> Model:
    """Build every layer of `definition` on inputs of these shapes and return the model. The first axis is that of the
    samples.

    With `distinct_layers` no two layers share a node, even where they compute the same. `prefix` distinguishes the
    inputs and random numbers of two models in one graph; their parameters are the same nodes. `check_parameters` gets
    the size of each parameter and may refuse it. Layers named in `frozen` are built as not trainable.

    Raises `InvalidRequest` with every fault of the definition.
    """
    assembler = _Assembler(
        definition,
        graph,
        input_shapes,
        training,
        parameter_shapes or {},
        frozen,
        distinct_layers,
        prefix,
        check_parameters,
    )
    for position in assembler.order():
        assembler.build(position)
    if assembler.faults:
        raise InvalidRequest(assembler.faults)
    # Parameters are in the order in which the layers were written, not built.
    assembler.model.parameters.sort(key=lambda parameter: assembler.position[parameter.layer])
    return assembler.model
