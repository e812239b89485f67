"""Warnings of networks that are valid but cannot learn: constant outputs, dead units, identical units.

`constant` inspects the network alone, once when it is compiled. `Surprises` inspects the numbers of a run: first a few
of them, and more only where these are suspicious.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np

from service.engine.arrays import Array
from service.engine.cautions import Caution, caution
from service.engine.declarations import Selection
from service.engine.findings import found
from service.engine.graph.differentiate import differentiate
from service.engine.graph.interpreter import interpret
from service.engine.graph.ir import Graph, NoGradient
from service.engine.graph.operations import sum_over
from service.engine.graph.plan import Workspace
from service.engine.network.activations import Activation
from service.engine.network.definition import LayerDefinition
from service.engine.network.flat import Key, Piece
from service.engine.network.model import Model
from service.engine.network.parameters import ParameterVector
from service.engine.network.task import Task
from service.engine.texts import Sentence, say

CLOSER_BYTES = 32 * 2**20
"""Memory of all values of a network, up to which a second run of the network looks for dead units."""
FEW = 2
"""The fewest samples at which single dead units are worth a warning."""
SHORT = 64
"""The most numbers for which a set finds equal ones faster than sorting does."""
MOST_NAMED = 8
"""Units that one sentence names."""
WEIGHTED = frozenset(("dense", "conv1d", "conv2d"))
"""Layers whose kernel ends with the axes [inputs, units]."""
POOLING = frozenset(
    f"{kind}_pooling{axes}d" for kind in ("max", "average", "global_max", "global_average") for axes in (1, 2)
)
UNIT_BY_UNIT = POOLING | {"activation"}
"""Layers that compute each unit alone, and all units in the same way."""
NORMALISING = frozenset(("layer_normalization", "batch_normalization", "group_normalization"))
OF_CLASSES = frozenset(("categorical_crossentropy", "sparse_categorical_crossentropy"))


def constant(task: Task, model: Model) -> list[Caution]:
    """Return cautions about layers with a constant output, and about losses over a single class."""
    cautions = []
    for position, layer in enumerate(task.definition.layers):
        words = _constant(task, model, position, layer)
        if words is not None:
            cautions.append(caution("constant_output", layer.name, "output", **words))
    constant_layers = {caution.layer for caution in cautions}
    for name, loss in zip(task.definition.output_names, task.losses or (), strict=False):
        one_class = loss.name in OF_CLASSES and model.layers[name].output.shape[-1] == 1
        if one_class and name not in constant_layers:
            is_zero = bool(loss.options["from_logits"])
            cautions.append(caution("one_class", name, "loss", loss=loss.name, is_zero=is_zero))
    return cautions


def _constant(task: Task, model: Model, position: int, layer: LayerDefinition) -> dict[str, str] | None:
    """Return the words of the finding that the layer at a position has a constant output; None if it has not."""
    built = model.layers[layer.name]
    activation = built.activation
    if activation is not None and activation.declaration.acts_on == "row" and built.output.shape[-1] == 1:
        return {"activation": activation.name, "constant": f"{_value_of_one(activation):g}"}
    if layer.layer.name not in NORMALISING:
        return None
    before = task.definition.inputs_of(position)[0]
    shape = (model.inputs[before] if before in model.inputs else model.layers[before].output).shape
    options = layer.layer.options
    together = 0
    if layer.layer.name == "layer_normalization":
        together = math.prod(shape[axis] for axis in options["axis"])
    elif layer.layer.name == "batch_normalization" and task.training and layer.trainable:
        together = math.prod(shape) // shape[options["axis"]]
    elif layer.layer.name == "group_normalization":
        channels = shape[options["axis"]]
        groups = channels if options["groups"] == -1 else options["groups"]
        together = math.prod(shape[1:]) // groups
    return {} if together == 1 else None


def _value_of_one(activation: Selection[Activation]) -> float:
    """Return the constant that an activation of rows gives for a row of one number."""
    with Graph("float64") as graph:
        x = graph.input("x", (1, 1))
        value = activation.declaration.build(x, **activation.options)
    return float(interpret([value], {x: np.zeros((1, 1))})[value].item())


def slopes(activation: Selection[Activation], z: Array) -> Array:
    """Return the derivative of an elementwise activation at each number."""
    with Graph("float64") as graph:
        x = graph.input("x", z.shape)
        given = [graph.constant(activation.options[name]) for name in activation.declaration.parameters]
        (slope,) = differentiate(sum_over(activation.declaration.build(x, *given, **activation.options)), [x]).nodes
    return np.zeros(z.shape) if isinstance(slope, NoGradient) else interpret([slope], {x: z})[slope]


def _has_flat_part(activation: Selection[Activation]) -> bool:
    """Return whether the derivative is exactly 0 somewhere, but not everywhere."""
    return _is_flat_in_parts(activation.declaration, tuple(activation.options.items()))


@lru_cache(maxsize=256)
def _is_flat_in_parts(declaration: Activation, options: tuple[tuple[str, Any], ...]) -> bool:
    """Return the same for an activation and its options; to differentiate it takes longer than to compile a layer."""
    if declaration.acts_on != "element":
        return False
    flat = slopes(Selection(declaration, dict(options)), np.array([-10.0, -0.1, 0.1, 10.0])) == 0.0
    return bool(flat.any() and not flat.all())


@dataclass(frozen=True)
class Rectified:
    """A layer with weights, followed by an activation with a flat part."""

    layer: str
    """The layer of the activation."""
    owner: str
    """The layer of the weights: the same layer, or the one before it."""
    start: int
    stop: int
    """The place in the gradient of one number for each unit: the bias, or the first row of the kernel."""
    kernel: Piece | None
    """The kernel of a layer without a bias."""


@dataclass(frozen=True)
class _Hidden:
    """A layer whose units may be identical: the weights into each unit, and those out of it."""

    name: str
    kernel: Piece
    bias: Piece | None
    following: tuple[Piece, ...]


class Surprises:
    """The inspection of a compiled network after each run with gradients, for dead and identical units."""

    def __init__(self, task: Task, model: Model, vector: ParameterVector) -> None:
        self.task, self.model, self.vector = task, model, vector
        learns = task.losses is not None and task.differentiated
        trained = {piece.path: piece for piece in vector.trained if learns}
        self.rectified = self._find_rectified(trained)
        self.hidden = self._find_hidden(trained)
        self.watched = _places((each.start, each.stop) for each in self.rectified)
        """The place in the gradient of one number for each unit that may be dead."""
        self.firsts = _places((each.kernel.start, each.kernel.start + each.kernel.shape[-1]) for each in self.hidden)
        """The place of the first weight into each unit that may be identical to another."""

    def found(self, workspace: Workspace) -> list[Caution]:
        """Return the warnings about the run in the workspace."""
        return self.found_in(workspace.gradients, workspace.parameters, partial(self._flat_in, workspace))

    def found_in(
        self,
        gradients: Array,
        parameters: Array,
        flat_units: Callable[[Rectified], Array | None],
        samples: int | None = None,
    ) -> list[Caution]:
        """Return the warnings about a run with these flat gradients and parameters. `flat_units` returns which units of
        a layer are on a flat part for every sample, or None where that is not to be computed."""
        cautions = []
        if self.rectified and np.count_nonzero(gradients.take(self.watched)) < self.watched.size:
            for each in self.rectified:
                if not gradients[each.start : each.stop].all():
                    cautions += self._off(each, gradients, flat_units, samples or self.task.samples)
        # Random numbers differ, also between layers: where all first weights differ, no units are identical.
        if self.hidden and not _all_differ(parameters.take(self.firsts)):
            for hidden in self.hidden:
                caution = _alike(hidden, parameters)
                if caution is not None:
                    cautions.append(caution)
        return cautions

    def _find_rectified(self, trained: Mapping[Key, Piece]) -> list[Rectified]:
        layers = self.task.definition.layers
        found = []
        for position, layer in enumerate(layers):
            activation = self.model.layers[layer.name].activation
            owner = layer
            if layer.layer.name == "activation":
                before = self.task.definition.inputs_of(position)[0]
                owner = next((each for each in layers if each.name == before), layer)
            if activation is None or not _keeps_units_last(owner) or not _has_flat_part(activation):
                continue
            kernel, bias = trained.get((owner.name, "kernel")), trained.get((owner.name, "bias"))
            if bias is not None:
                found.append(Rectified(layer.name, owner.name, bias.start, bias.stop, None))
            elif kernel is not None:
                stop = kernel.start + kernel.shape[-1]
                found.append(Rectified(layer.name, owner.name, kernel.start, stop, kernel))
        return found

    def _off(
        self, each: Rectified, gradients: Array, flat_units: Callable[[Rectified], Array | None], samples: int
    ) -> list[Caution]:
        """Return a caution about units on a flat part for every sample, in a layer where some gradients are 0."""
        activation = self.model.layers[each.layer].activation
        if activation is None:
            return []
        if each.kernel is not None:
            piece = each.kernel
            if gradients[piece.start : piece.stop].reshape(-1, piece.shape[-1]).any(0).all():
                return []
        flat = flat_units(each)
        count = 0 if flat is None else int(flat.sum())
        if flat is None or not count or (count < flat.size and samples < FEW):
            return []
        off = found(
            "dead_units",
            value=count / flat.size,
            layer=each.owner,
            quantity="gradient",
            units=units_in_words(np.flatnonzero(flat), flat.size),
            is_one=count == 1,
            samples=samples,
            activation=activation.name,
        )
        return [Caution.of(off)]

    def _flat_in(self, workspace: Workspace, each: Rectified) -> Array | None:
        size = sum(node.size for node in workspace.program.nodes) * 8
        return None if size > CLOSER_BYTES else self.flat_units(each, workspace)

    def flat_units(self, each: Rectified, workspace: Workspace) -> Array | None:
        """Return which units of a layer are on a flat part for every sample in the workspace, by a second run of the
        network. None: what the network needs is not in the workspace."""
        model = self.model
        built = model.layers[each.layer]
        fed = [*model.inputs.values(), *(noise.node for noise in model.noises)]
        if built.activation is None or not all(node.attributes[0] in workspace.inputs for node in fed):
            return None
        values = {node: workspace.inputs[node.attributes[0]] for node in fed}
        for parameter, piece in zip(model.parameters, self.vector.pieces, strict=True):
            values[parameter.node] = workspace.parameters[piece.start : piece.stop].reshape(piece.shape)
        z = interpret([built.pre_activation], values)[built.pre_activation]
        sloped = slopes(built.activation, z.astype(np.float64)).reshape(-1, z.shape[-1])
        flat: Array = np.logical_not(np.any(sloped, axis=0))
        return flat

    def _find_hidden(self, trained: Mapping[Key, Piece]) -> list[_Hidden]:
        definition = self.task.definition
        tied = {name for layer in definition.layers if layer.shares for name in (layer.name, layer.shares)}
        found = []
        for layer in definition.layers:
            kernel = trained.get((layer.name, "kernel"))
            if layer.layer.name not in WEIGHTED or kernel is None or kernel.shape[-1] < 2 or layer.name in tied:
                continue
            following = self._following(layer.name, kernel.shape[-1])
            if following and tied.isdisjoint(piece.layer for piece in following):
                bias = next((piece for piece in self.vector.pieces if piece.path == (layer.name, "bias")), None)
                found.append(_Hidden(layer.name, kernel, bias, following))
        return found

    def _following(self, name: str, units: int) -> tuple[Piece, ...]:
        """Return the kernels that take the units of a layer. Return none if anything but a kernel takes them."""
        definition = self.task.definition
        pieces = {piece.path: piece for piece in self.vector.pieces}
        pending, kernels = [name], []
        while pending:
            taken = pending.pop()
            if taken in definition.output_names:
                return ()
            for position, layer in enumerate(definition.layers):
                if taken not in definition.inputs_of(position):
                    continue
                kind = layer.layer.name
                if kind in WEIGHTED and layer.layer.options.get("groups", 1) == 1:
                    kernel = pieces.get((layer.name, "kernel"))
                    if kernel is None or kernel.shape[-2] != units:
                        return ()
                    kernels.append(kernel)
                elif kind in UNIT_BY_UNIT and self._by_element(layer):
                    pending.append(layer.name)
                else:
                    return ()
        return tuple(kernels)

    def _by_element(self, layer: LayerDefinition) -> bool:
        activation = self.model.layers[layer.name].activation
        return activation is None or activation.declaration.acts_on == "element"


def _keeps_units_last(layer: LayerDefinition) -> bool:
    return layer.layer.name in WEIGHTED and layer.layer.options.get("data_format") != "channels_first"


def _places(ranges: Iterable[tuple[int, int]]) -> Array:
    return np.array([place for start, stop in ranges for place in range(start, stop)], np.intp)


def _all_differ(numbers: Array) -> bool:
    if numbers.size <= SHORT:
        return len(set(numbers.tolist())) == numbers.size
    ordered = np.sort(numbers)
    return bool((ordered[1:] != ordered[:-1]).all())


def _alike(hidden: _Hidden, parameters: Array) -> Caution | None:
    """Return a caution about units with the same weights in and out, which stay identical for ever; None without."""
    start, units = hidden.kernel.start, hidden.kernel.shape[-1]
    if _all_differ(parameters[start : start + units]):
        return None
    rows = [parameters[hidden.kernel.start : hidden.kernel.stop].reshape(-1, units)]
    if hidden.bias is not None:
        rows.append(parameters[hidden.bias.start : hidden.bias.stop][None])
    for piece in hidden.following:
        whole = parameters[piece.start : piece.stop].reshape(piece.shape)
        rows.append(np.moveaxis(whole, -2, -1).reshape(-1, units))
    group = _largest_group(rows, units)
    if group is None:
        return None
    alike, share = units_in_words(group, units), len(group) / units
    return Caution.of(found("symmetric_units", value=share, layer=hidden.name, quantity="parameters", units=alike))


def _largest_group(matrices: Sequence[Array], units: int) -> Array | None:
    """Return the largest group of equal columns; None if all differ."""
    labels = np.zeros(units, np.int64)
    for matrix in matrices:
        for row in matrix:
            order = np.lexsort((row, labels))
            changed = (np.diff(labels[order]) != 0) | (np.diff(row[order]) != 0)
            labels[order] = np.concatenate(([0], np.cumsum(changed)))
            if labels.max() == units - 1:
                return None
    return np.flatnonzero(labels == np.bincount(labels).argmax())


def units_in_words(places: Array, units: int) -> Sentence:
    """Return the sentence that names units, counted from 0 as in lists."""
    if len(places) == units:
        return say("findings.units.single") if units == 1 else say("findings.units.all", number=str(units))
    named = ", ".join(map(str, places[:MOST_NAMED])) + (", …" if len(places) > MOST_NAMED else "")
    if len(places) == 1:
        return say("findings.units.one", unit=named)
    return say("findings.units.some", count=len(places), number=str(units), named=named)
