"""A network as the rules of mistakes see it: its layers, its loss, and the nodes between them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial, reduce
from operator import mul

from service.engine.graph.differentiate import Changes, differentiate
from service.engine.graph.ir import Node, NoGradient
from service.engine.graph.operations import broadcast, sum_over
from service.engine.insight.mistakes.declaration import Counts, Path
from service.engine.network.activations import activations
from service.engine.network.layers import LayerOutput
from service.engine.network.losses import Prediction, losses
from service.engine.network.prepare import Prepared
from service.engine.network.total_loss import build_total_loss


@dataclass(frozen=True)
class Ending:
    """One output of a network with the probabilities that its loss compares with targets."""

    layer: str
    logits: Node
    value: Node
    """The result of the last activation, or of the loss itself, from the logits."""
    activation: str
    fused: bool
    """The loss takes logarithms, and computes them from the logits."""
    inside: bool
    """The activation is a part of the loss, which takes logits."""


class Network:
    """A prepared network with its loss, as rules of mistakes look at it. No two layers share a node."""

    def __init__(self, prepared: Prepared) -> None:
        assert prepared.objective is not None
        self.prepared = prepared
        self.task, self.model, self.objective = prepared.task, prepared.model, prepared.objective
        self.graph = self.model.graph
        self.definition = self.task.definition
        self.types = {layer.name: layer.layer.name for layer in self.definition.layers}
        self.trained = [each for each in self.model.parameters if each.trainable]
        self.paths: list[Path] = [(each.layer, each.name) for each in self.trained]
        self.targets = [each.node for each in self.trained]
        objective = self.objective
        self.total = objective.data_loss if self.task.reduction != "none" else sum_over(objective.per_sample)
        """The data loss, one number."""
        self.has_penalties = bool(self.model.penalties)
        self.forward = list(self.graph.nodes)
        """The nodes of the forward pass."""
        self.endings = list(self._endings())

    # --- what is where ---

    @cached_property
    def by_scope(self) -> dict[str, list[Node]]:
        """The forward nodes of each layer."""
        found: dict[str, list[Node]] = {}
        for node in self.forward:
            if node.scope is not None:
                found.setdefault(node.scope, []).append(node)
        return found

    def nodes_of(self, layer: str, *operations: str) -> Iterator[Node]:
        """Yield the forward nodes of a layer that are one of these operations."""
        return (node for node in self.by_scope.get(layer, ()) if node.operation.name in operations)

    def layers(self, *types: str) -> Iterator[tuple[str, LayerOutput]]:
        """Yield the layers of these types, or all, in the order of computation."""
        return ((name, layer) for name, layer in self.model.layers.items() if not types or self.types[name] in types)

    @cached_property
    def order(self) -> list[str]:
        """Names of layers from the inputs to the loss."""
        return list(self.model.layers)

    @cached_property
    def moving(self) -> set[int]:
        """Indices of the nodes that depend on trained parameters."""
        return self.descendants(self.targets)

    @cached_property
    def of_inputs(self) -> set[int]:
        """Indices of the nodes that depend on the inputs of the network."""
        return self.descendants(self.model.inputs.values())

    def descendants(self, sources: Iterable[Node]) -> set[int]:
        """Return the indices of the forward nodes that depend on some nodes, including these."""
        found = {node.index for node in sources}
        for node in self.forward:
            if node.index not in found and any(x.index in found for x in node.inputs):
                found.add(node.index)
        return found

    def substituted(self, node: Node, replaced: Mapping[Node, Node]) -> Node:
        """Return the computation of `node` with other nodes in place of some that it depends on. Nodes between the
        replaced ones and `node` are made anew."""
        made: dict[Node, Node] = dict(replaced)
        first = min(each.index for each in replaced)
        needed, waiting = {node.index: node}, [node]
        while waiting:
            for x in waiting.pop().inputs:
                if x.index > first and x.index not in needed and x not in made:
                    needed[x.index] = x
                    waiting.append(x)
        for index in sorted(needed):
            each = needed[index]
            if any(x in made for x in each.inputs):
                inputs = [made.get(x, x) for x in each.inputs]
                made[each] = self.graph.apply(each.operation.name, *inputs, attributes=each.attributes)
        return made.get(node, node)

    # --- derivatives ---

    @staticmethod
    def pulled(node: Node, position: int, g: Node, *inputs: Node) -> Node | None:
        """Return the cotangent of an input by the pullback of a node; None where there is none. `inputs` may be others
        than the node's."""
        found = node.operation.pullback(position)(g, node, *(inputs or node.inputs))
        return None if isinstance(found, NoGradient) else found

    def slope(self, layer: LayerOutput, at: Node) -> Node | None:
        """Return the derivative of a layer's activation at `at`; None where it acts on rows or has parameters."""
        chosen = layer.activation
        if chosen is None or chosen.declaration.acts_on != "element" or chosen.declaration.parameters:
            return None
        value = chosen.declaration.build(at, **chosen.options)
        if value is at:
            return broadcast(self.graph.constant(1.0), at.shape)
        (found,) = differentiate(sum_over(value), [at]).nodes
        return broadcast(self.graph.constant(0.0), at.shape) if isinstance(found, NoGradient) else found

    # --- the loss ---

    @property
    def counts(self) -> Counts:
        """The counts that a mean may be taken over."""
        outputs = sum(math.prod(self.model.layers[name].output.shape[1:]) for name in self.definition.output_names)
        averages = all(loss.name in AVERAGING for loss in self.task.losses or ())
        return Counts(self.task.samples, outputs, self.task.reduction, averages)

    @cached_property
    def outputs(self) -> list[tuple[str, Counts, Callable[[float], Node]]]:
        """Each of several outputs, with the counts of its mean and a function of a factor of its loss. The function
        returns the node that such a factor adds to the loss. Empty for a network with one output."""
        parts = self.objective.by_output
        if len(parts) < 2 or self.task.reduction == "none":
            return []
        weights = self.task.loss_weights or (1.0,) * len(parts)
        found: list[tuple[str, Counts, Callable[[float], Node]]] = []
        for (name, part), weight, loss in zip(parts.items(), weights, self.task.losses or (), strict=True):
            size = math.prod(self.model.layers[name].output.shape[1:])
            counts = Counts(self.task.samples, size, self.task.reduction, loss.name in AVERAGING)
            found.append((name, counts, partial(lambda part, factor: (factor - 1.0) * part, weight * part)))
        return found

    def _endings(self) -> Iterator[Ending]:
        for name, loss in zip(self.definition.output_names, self.task.losses or (), strict=False):
            layer = self.model.layers[name]
            takes_logarithms = loss.name in LOGARITHMIC
            if loss.options.get("from_logits"):
                activation = "sigmoid" if loss.name == "binary_crossentropy" else "softmax"
                value = activations.select(activation).declaration.build(layer.output)
                yield Ending(name, layer.output, value, activation, True, True)
            elif layer.activation is not None and layer.pre_activation is not layer.output:
                chosen = layer.activation
                fused = takes_logarithms and chosen.declaration.log is not None
                if loss.name == "binary_crossentropy":
                    fused = fused and chosen.declaration.log_complement is not None
                yield Ending(name, layer.pre_activation, layer.output, chosen.name, fused, False)

    @cached_property
    def unfused(self) -> Node:
        """The data loss computed from the probabilities, not from the logits: the same number by a longer way."""
        values = {ending.layer: ending.value for ending in self.endings if ending.fused}
        return self.loss_of({name: Prediction(value) for name, value in values.items()})

    def loss_of(self, predictions: Mapping[str, Prediction]) -> Node:
        """Return the data loss with other predictions at some outputs. None of them are logits."""
        task, names = self.task, self.definition.output_names
        all_of_them: dict[str, Prediction] = {}
        chosen = {}
        for name, loss in zip(names, task.losses or (), strict=True):
            layer = self.model.layers[name]
            own = Prediction(layer.output, layer.pre_activation if layer.activation else None, layer.activation)
            all_of_them[name] = predictions.get(name, own)
            if name in predictions and loss.options.get("from_logits"):
                loss = losses.select(loss.name, **{**loss.options, "from_logits": False})
            chosen[name] = loss
        weights = dict(zip(names, task.loss_weights, strict=True)) if task.loss_weights else None
        made = build_total_loss(
            chosen,
            all_of_them,
            self.prepared.targets,
            weights,
            self.prepared.weights,
            task.reduction,
            task.normalize_weights,
            (),
        )
        return made.total

    def values_of_samples(self) -> Iterator[Node]:
        """Yield the weighted loss of each sample at each output, as nodes of the objective."""
        for name, loss in zip(self.definition.output_names, self.task.losses or (), strict=True):
            layer = self.model.layers[name]
            own = Prediction(layer.output, layer.pre_activation if layer.activation else None, layer.activation)
            values = loss.declaration.build(own, self.prepared.targets[name], **loss.options)
            yield values if self.prepared.weights is None else values * self.prepared.weights

    def total_for(self, layer: str) -> Node | None:
        """Return the loss to differentiate so that the activation of a layer is in the backward graph. None stands for
        the usual loss."""
        return self.unfused if any(ending.fused and ending.layer == layer for ending in self.endings) else None


def times(*factors: Node) -> Callable[[Node], Node]:
    """Return a rule that multiplies a cotangent by these nodes."""
    return lambda g: reduce(mul, factors, g)


def unchanged(g: Node) -> Node:
    """Return a cotangent as it is: the rule of a forgotten factor."""
    return g


def nothing(g: Node) -> None:
    """Return no cotangent: the rule of a forgotten path."""


def handed(*each: tuple[Node, Callable[[Node], Node]]) -> Callable[[Node], list[tuple[Node, Node]]]:
    """Return a jump: each given earlier node gets a cotangent by its own rule."""
    return lambda g: [(node, rule(g)) for node, rule in each]


AVERAGING = frozenset(
    ("mean_squared_error", "mean_absolute_error", "huber", "smooth_l1", "log_cosh", "binary_crossentropy", "poisson")
) | frozenset(("hinge", "squared_hinge"))
"""Losses of a sample that are means over its outputs."""
LOGARITHMIC = frozenset(
    ("binary_crossentropy", "categorical_crossentropy", "sparse_categorical_crossentropy", "kl_divergence")
)
"""Losses that ask a prediction for its logarithm."""


def cut(places: Sequence[tuple[Node, int]]) -> Changes:
    """Return changes in which these inputs, each given as a node and a position, get no cotangent."""
    return Changes({(node.index, position): nothing for node, position in places})
