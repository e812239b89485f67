"""The scene of a derivation: a network with its loss and gradients in the graph, and names for the nodes.

The names are those of textbooks: x, z, a, ŷ's error, δ, w. `differentiate` gives the nodes; a scene computes nothing in
a way of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from service.engine.arrays import Array
from service.engine.errors import Fault, InvalidRequest
from service.engine.graph.differentiate import differentiate
from service.engine.graph.ir import Node, NoGradient, Shape, is_fixed
from service.engine.graph.operations import broadcast
from service.engine.insight import notation
from service.engine.insight.elements import index_of
from service.engine.insight.selection import select, split
from service.engine.limits import Limits
from service.engine.network.definition import INPUT
from service.engine.network.model import Noise, Parameter
from service.engine.network.parameters import ParameterVector
from service.engine.network.prepare import Prepared, prepare
from service.engine.network.task import Task
from service.engine.watch import Watch

_LETTERS = {
    "kernel": "W",
    "bias": "b",
    "recurrent_kernel": "U",
    "embeddings": "E",
    "alpha": r"\alpha",
    "gamma": r"\gamma",
    "beta": r"\beta",
}
_SLOPES = {"sigmoid": r"\sigma'", "tanh": r"\tanh'"}
SIGNED = frozenset(("delta", "gradient", "share"))
"""Quantities that Heaton prints with the other sign."""


@dataclass(frozen=True)
class Name:
    """The meaning of a node for a reader, such as the pre-activation of a layer, and its notation."""

    quantity: str
    owner: str = ""
    """The layer, input or output that it belongs to."""
    part: str = ""
    """The parameter of the layer, or the activation."""
    letter: str = ""
    """The LaTeX before the index."""
    per_sample: bool = True
    """The first axis is the samples'."""

    @property
    def identifier(self) -> str:
        """The beginning of the ids of the node's elements, such as `z:hidden`."""
        short = {"pre_activation": "z", "output": "a", "sample_loss": "loss", "sample_weight": "sample_weight"}
        kind = short.get(self.quantity, self.quantity)
        owner = self.owner + (f".{self.part}" if self.quantity in ("parameter", "gradient") else "")
        return f"{kind}:{owner}" if owner else kind


@dataclass(frozen=True)
class SelectedParameter:
    """A parameter whose gradients a request asks for, or some of them."""

    parameter: Parameter
    places: range
    """The places of the requested elements, in row-major order."""
    gradient: Node | NoGradient

    @property
    def name(self) -> str:
        return f"{self.parameter.layer}.{self.parameter.name}"

    def path(self, place: int) -> str:
        """Return the selector of an element, such as `hidden.kernel[0][1]`."""
        return self.name + brackets(index_of(self.parameter.node.shape, place))


@dataclass
class Scene:
    """A network with its loss and gradients in the graph, and the names of its nodes."""

    prepared: Prepared
    selected: list[SelectedParameter]
    names: dict[int, Name]
    """The names by the indices of the nodes."""
    blocked: tuple[str, ...]
    """Layers with a derivative of zero everywhere, between the loss and some parameter."""
    sample: int | None
    """The chosen sample, as callers count."""
    noises: Sequence[Noise]
    """The noises as they are drawn: for all samples, also where one sample is chosen."""
    outputs: list[Node] = field(default_factory=list)
    """All nodes that a derivation may name."""

    @property
    def task(self) -> Task:
        return self.prepared.task

    def place(self, node: Node, place: int) -> tuple[int | None, list[int]]:
        """Return the sample of an element, if it has one, and the element's index without the sample."""
        index = index_of(node.shape, place)
        name = self.names.get(node.index)
        if name is None or not name.per_sample or not index:
            return None, index
        return index[0] + (self.sample or 0), index[1:]

    def symbol(self, node: Node, place: int) -> str:
        """Return the LaTeX of an element, such as z with the layer above and the index below."""
        name = self.names[node.index]
        index = index_of(node.shape, place)
        if name.per_sample and index and self.task.samples == 1:
            index = index[1:]
        return name.letter + subscript(index)

    def identifier(self, node: Node, place: int) -> str:
        name = self.names[node.index]
        sample, index = self.place(node, place)
        return name.identifier + brackets([*([] if sample is None else [sample]), *index])


def brackets(index: Sequence[int]) -> str:
    return "".join([f"[{k}]" for k in index])


def subscript(index: Sequence[int]) -> str:
    return "_{" + ",".join(map(str, index)) + "}" if index else ""


def letter(symbol: str, owner: str) -> str:
    return f"{symbol}^{{{notation.text(owner)}}}"


def build_scene(task: Task, limits: Limits, path: str | None, sample: int | None, watch: Watch | None = None) -> Scene:
    """Build the scene of a task: of all samples, or of one. `path` selects parameters, as `hidden.kernel` does; None
    selects all. Raises `InvalidRequest` for an unknown parameter or sample, and what `prepare` and `watch` raise."""
    whole: Task | None = None
    if sample is not None:
        if sample >= task.samples:
            detail = f"takes the number of a sample, from 0 to {task.samples - 1}, got {sample}"
            raise InvalidRequest([Fault(("sample",), detail)])
        whole = task
        task = _one(whole)
        if any(shape[:1] != (whole.samples,) for _, shape in (*whole.inputs, *(whole.targets or ()))):
            prepare(whole, limits, watch)  # its refusal names the counts of samples
    try:
        prepared = prepare(task, limits, watch)
    except InvalidRequest:
        if whole is not None:
            prepare(whole, limits, watch)  # refuses with the shapes of all samples
        raise
    model, objective = prepared.model, prepared.objective
    assert objective is not None
    if whole is not None and whole.samples > 1 and model.couples_samples:
        layer = next(each.name for each in task.definition.layers if each.layer.declaration.couples_samples)
        detail = (
            f"layer {layer!r} computes each sample from the whole batch in training, so no sample has a derivation of "
            "its own; leave 'sample' out, or send training: false"
        )
        raise InvalidRequest([Fault(("sample",), detail)])
    chosen = _selected(prepared, path)
    layers = model.layers
    wanted = [*(parameter.node for parameter, _ in chosen), *(layer.pre_activation for layer in layers.values())]
    found = differentiate(objective.total, wanted)
    selected = [
        SelectedParameter(parameter, places, gradient)
        for (parameter, places), gradient in zip(chosen, found.nodes, strict=False)
    ]
    deltas = dict(zip(layers, found.nodes[len(chosen) :], strict=True))
    noises = model.noises
    if whole is not None and noises:
        with_all = dict(whole.inputs)
        noises = task.definition.assemble(
            prepared.model.graph, with_all, training=task.training, known=task.known, prefix="all/"
        ).noises
    names = _names(prepared, deltas)
    blocked = tuple(dict.fromkeys(node.scope for node in found.blocked_by if node.scope in layers))
    scene = Scene(prepared, selected, names, blocked, sample, noises)
    roots = [each.gradient for each in selected if isinstance(each.gradient, Node)]
    scene.outputs = [*roots, objective.total, objective.per_sample]
    return scene


def _one(task: Task) -> Task:
    """Return the task for a single sample."""
    assert task.targets is not None

    def single(shapes: tuple[tuple[str, Shape], ...]) -> tuple[tuple[str, Shape], ...]:
        return tuple([(name, (1, *shape[1:])) for name, shape in shapes])

    return task._replace(inputs=single(task.inputs), targets=single(task.targets))


def _selected(prepared: Prepared, path: str | None) -> list[tuple[Parameter, range]]:
    """Return the parameters that a path names, each with the places of the selected elements. A path is `hidden`,
    `hidden.kernel` or `hidden.kernel[0][1]`; None names all. Raises `InvalidRequest` where there is none."""
    model, definition = prepared.model, prepared.task.definition
    trained = {(each.layer, each.name): each for each in model.parameters if each.trainable}
    if path is None:
        if not trained:
            detail = "the network has no parameters that are trained, so there is no gradient to explain"
            raise InvalidRequest([Fault(("network",), detail)])
        return [(each, range(each.node.size)) for each in trained.values()]
    layer, part = split(path.partition("[")[0], {each.layer for each in model.parameters})
    known = [each for each in model.parameters if each.layer == layer and part in (None, each.name)]
    if known and not any(each.trainable for each in known):
        raise InvalidRequest([Fault(("parameter",), f"{path[:64]} is not trained, so it has no gradient")])
    shared = next((each.shares for each in definition.layers if each.name == layer), None)
    if shared is not None and not known:
        detail = f"layer {layer!r} uses the parameters of layer {shared!r}; name those"
        raise InvalidRequest([Fault(("parameter",), detail)])
    parts = ParameterVector(definition, model.parameters).trained
    found = []
    for selection in select(path, parts, ("parameter",)):
        start = selection.start - selection.part.start
        places = range(start, start + selection.size)
        found.append((trained[selection.part.layer, selection.part.name], places))
    return found


# --- names --------------------------------------------------------------------------------------


def parameter_letter(layer: str, name: str) -> str:
    return letter(_LETTERS.get(name) or notation.text(name), layer)


def _names(prepared: Prepared, deltas: Mapping[str, Node | NoGradient]) -> dict[int, Name]:
    """Return the names of nodes, by index. A node with several meanings has the name that a reader meets first."""
    model, objective = prepared.model, prepared.objective
    assert objective is not None
    names: dict[int, Name] = {}

    def add(node: Node, name: Name) -> None:
        if not node.is_constant:
            names.setdefault(node.index, name)

    for input_name, node in model.inputs.items():
        add(node, Name("input", input_name, letter="x" if input_name == INPUT else letter("x", input_name)))
    for parameter in model.parameters:
        symbol = parameter_letter(parameter.layer, parameter.name)
        add(parameter.node, Name("parameter", parameter.layer, parameter.name, symbol, per_sample=False))
    several = len(prepared.targets) > 1
    for output, node in prepared.targets.items():
        add(node, Name("target", output, letter=letter("t", output) if several else "t"))
    if prepared.weights is not None:
        add(prepared.weights, Name("sample_weight", letter="w"))
    for place, noise in enumerate(model.noises):
        add(noise.node, Name("noise", str(place), letter=letter("r", str(place))))
    for name, layer in model.layers.items():
        activation = "" if layer.activation is None else layer.activation.name
        if layer.pre_activation is not layer.output:
            add(layer.pre_activation, Name("pre_activation", name, letter=letter("z", name)))
        add(layer.output, Name("output", name, activation, letter("a", name)))
    # Before the parts of the loss, so that a delta that equals the error is named a delta.
    for name, delta in deltas.items():
        if isinstance(delta, Node) and delta.serves is not None and _follows_samples(prepared, delta):
            add(delta, Name("delta", name, letter=letter(r"\delta", name)))
    for node in model.graph.nodes:
        source = _output_of(prepared, node)
        if source is not None:
            symbol = letter("e", source) if several else "e"
            add(node, Name("error", source, "delta" if deltas[source] is node else "", symbol))
    add(objective.total, Name("loss", letter="L", per_sample=False))
    add(objective.per_sample, Name("sample_loss", letter=r"\ell"))
    add(objective.regularization_loss, Name("penalty", letter="R", per_sample=False))
    for name, layer in model.layers.items():
        chosen = layer.activation
        if chosen is not None and chosen.declaration.acts_on == "element" and layer.output is not layer.pre_activation:
            one = broadcast(layer.output.graph.constant(1.0), layer.output.shape)
            (slope,) = differentiate(layer.output, [layer.pre_activation], one).nodes
            if isinstance(slope, Node) and _is_apart(slope, layer.output, layer.pre_activation):
                symbol = _SLOPES.get(chosen.name) or notation.text(chosen.name) + "'"
                add(slope, Name("slope", name, chosen.name, f"{{{symbol}}}^{{{notation.text(name)}}}"))
    return names


def _output_of(prepared: Prepared, node: Node) -> str | None:
    """Return the output whose error (output minus target) a node is; None for other nodes."""
    if node.operation.name == "subtract":
        for name, target in prepared.targets.items():
            if node.inputs == (prepared.model.layers[name].output, target):
                return name
    return None


def _is_apart(slope: Node, output: Node, pre_activation: Node) -> bool:
    """Return whether a slope is a number to show: no constant, and no part of the computation of the output."""
    if slope.is_leaf or is_fixed(slope):
        return False
    waiting, seen = [output], set()
    while waiting:
        node = waiting.pop()
        if node is slope:
            return False
        if node.index > pre_activation.index and node.index not in seen:
            seen.add(node.index)
            waiting += node.operands
    return True


def _follows_samples(prepared: Prepared, node: Node) -> bool:
    return bool(node.shape) and node.shape[0] == prepared.task.samples


def sliced(array: Array, sample: int | None) -> Array:
    """Return all samples of an array, or the chosen one as an array with one sample."""
    return array if sample is None else array[sample : sample + 1]
