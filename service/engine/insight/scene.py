"""What a derivation is about: a network with its loss and gradients in the graph, and a name for what has one.

Names are those of textbooks: x, z, a, ŷ's error, δ, w. The nodes are those that `differentiate` gives; a scene adds no
way to compute anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from service.engine.errors import Fault, InvalidRequest
from service.engine.graph.differentiate import differentiate
from service.engine.graph.ir import Array, Node, NoGradient, Shape, is_fixed
from service.engine.graph.operations import broadcast
from service.engine.insight import notation
from service.engine.insight.elements import index_of
from service.engine.insight.selection import select, split
from service.engine.limits import Limits
from service.engine.network.definition import INPUT
from service.engine.network.model import Noise, Parameter
from service.engine.network.parameters import ParameterVector
from service.engine.network.task import Prepared, Task, prepare
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
    """What a node is to a reader."""

    quantity: str
    owner: str = ""
    """The layer, input or output that it belongs to."""
    part: str = ""
    """Which parameter of the layer, or which activation."""
    letter: str = ""
    """In LaTeX, what stands before the index."""
    per_sample: bool = True
    """The first axis is the samples'."""

    @property
    def identifier(self) -> str:
        """What ids of its elements begin with."""
        short = {"pre_activation": "z", "output": "a", "sample_loss": "loss", "sample_weight": "sample_weight"}
        kind = short.get(self.quantity, self.quantity)
        owner = self.owner + (f".{self.part}" if self.quantity in ("parameter", "gradient") else "")
        return f"{kind}:{owner}" if owner else kind


@dataclass(frozen=True)
class Selected:
    """A parameter of which some gradients are asked for."""

    parameter: Parameter
    places: range
    """In row-major order."""
    gradient: Node | NoGradient

    @property
    def name(self) -> str:
        return f"{self.parameter.layer}.{self.parameter.name}"

    def path(self, place: int) -> str:
        """An element as callers write it: `hidden.kernel[0][1]`."""
        return self.name + brackets(index_of(self.parameter.node.shape, place))


@dataclass
class Scene:
    """A network with its loss and gradients in the graph."""

    prepared: Prepared
    selected: list[Selected]
    names: dict[int, Name]
    """By the index of the node."""
    blocked: tuple[str, ...]
    """Layers whose derivative is zero everywhere, on the way to some parameter."""
    sample: int | None
    """The one that was chosen, as callers count them."""
    noises: Sequence[Noise]
    """As they are drawn: for all samples, also where one was chosen."""
    outputs: list[Node] = field(default_factory=list)
    """All nodes that a derivation may name."""

    @property
    def task(self) -> Task:
        return self.prepared.task

    def place(self, node: Node, place: int) -> tuple[int | None, list[int]]:
        """The sample that an element belongs to, if it does, and its index among the others."""
        index = index_of(node.shape, place)
        name = self.names.get(node.index)
        if name is None or not name.per_sample or not index:
            return None, index
        return index[0] + (self.sample or 0), index[1:]

    def symbol(self, node: Node, place: int) -> str:
        """The LaTeX of an element."""
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
    """The scene of a task, whole or of one sample.

    Raises `InvalidRequest` for a parameter or a sample that there is not, as `prepare` does, and what
    `watch` raises.
    """
    whole: Task | None = None
    if sample is not None:
        if sample >= task.samples:
            detail = f"takes the number of a sample, from 0 to {task.samples - 1}, got {sample}"
            raise InvalidRequest([Fault(("sample",), detail)])
        whole = task
        task = _one(whole)
        if any(shape[:1] != (whole.samples,) for _, shape in (*whole.inputs, *(whole.targets or ()))):
            prepare(whole, limits, watch)  # it says which has how many samples
    try:
        prepared = prepare(task, limits, watch)
    except InvalidRequest:
        if whole is not None:
            prepare(whole, limits, watch)  # what is wrong, in the shapes of all samples
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
        Selected(parameter, places, gradient)
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
    """The same task for a single sample."""
    assert task.targets is not None

    def single(shapes: tuple[tuple[str, Shape], ...]) -> tuple[tuple[str, Shape], ...]:
        return tuple([(name, (1, *shape[1:])) for name, shape in shapes])

    return task._replace(inputs=single(task.inputs), targets=single(task.targets))


def _selected(prepared: Prepared, path: str | None) -> list[tuple[Parameter, range]]:
    """The parameters that a path names, such as `hidden`, `hidden.kernel` or `hidden.kernel[0][1]`; None: all.

    Each with the places of its elements. Raises `InvalidRequest` where there is none.
    """
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
    """The names of nodes; what is several things at once has the name that a reader meets first."""
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
    # Before the parts of the loss: where a delta is just the error, it is shown as a delta.
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
    """The output whose error a node is: what it gives minus its target."""
    if node.operation.name == "subtract":
        for name, target in prepared.targets.items():
            if node.inputs == (prepared.model.layers[name].output, target):
                return name
    return None


def _is_apart(slope: Node, output: Node, pre_activation: Node) -> bool:
    """Whether a slope is a number of its own: no constant, and no part of how the output is computed."""
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
    """All samples, or the one that was chosen."""
    return array if sample is None else array[sample : sample + 1]
