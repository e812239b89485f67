"""The numbers that findings judge: of each layer, and of the chain of layers with weights from the inputs to a loss."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from service.engine.arrays import Array, is_finite, norm
from service.engine.float_warnings import ignoring_float_warnings
from service.engine.insight.health.slopes import NO_TAILS, Tails, tails_of
from service.engine.network.definition import Definition
from service.engine.network.evaluate import Evaluation, LayerValues, Result
from service.engine.network.feed import Feed


@dataclass
class LayerHealth:
    """The measured numbers of one layer that findings judge. A number is None where it means nothing."""

    name: str
    type: str
    activation: str | None
    mean: float
    """The mean of its outputs, over samples and units."""
    deviation: float
    delta_norm: float
    gradient_norm: float | None
    """The norm of the gradient by all its trained parameters."""
    weight_norm: float | None
    """The norm of its largest kernel."""
    ratio: float | None = None
    """The norm of its delta relative to that of the last layer with weights."""
    saturated_left: float | None = None
    """The share of its pre-activations."""
    saturated_right: float | None = None
    dead: float | None = None
    """The share of its units that are flat for every sample."""
    tails: Tails = NO_TAILS


@dataclass
class Health:
    """The measured numbers of a network at its parameters, on its samples."""

    layers: dict[str, LayerHealth] = field(default_factory=dict)
    chain: list[str] = field(default_factory=list)
    """The layers with weights on the longest way to an output."""

    @property
    def ratio(self) -> float | None:
        """The norm of the first delta of the chain divided by that of the last; None where it is not defined. A small
        ratio means vanishing gradients, a large one exploding gradients."""
        if len(self.chain) < 2:
            return None
        return self.layers[self.chain[0]].ratio

    @property
    def factor(self) -> float | None:
        """The factor by which one layer of the chain changes the norm of the delta, as a geometric mean. Below 1
        gradients vanish layer by layer, above 1 they explode. None where `ratio` is None or 0."""
        ratio = self.ratio
        return None if ratio is None or ratio <= 0.0 else ratio ** (1.0 / (len(self.chain) - 1))


@ignoring_float_warnings
def measure(evaluation: Evaluation, feed: Feed, result: Result) -> Health:
    """Measure the health of a network from the result of an evaluation that includes `layers`."""
    definition = evaluation.task.definition
    kernels = kernels_of(result.parameters if result.parameters is not None else feed.parameters or {})
    owners = {layer.name: layer.shares or layer.name for layer in definition.layers}
    kinds = {layer.name: layer for layer in definition.layers}
    health = Health(chain=chain_of(definition, list(evaluation.model.layers), owners, set(kernels)))
    for values in result.layers or ():
        options = kinds[values.name].layer.options
        health.layers[values.name] = _layer(
            evaluation, values, result.gradients, kernels.get(owners[values.name]), options
        )
    if health.chain:
        last = health.layers[health.chain[-1]].delta_norm
        for name in health.chain:
            delta = health.layers[name].delta_norm
            if last > 0.0 and math.isfinite(last) and math.isfinite(delta):
                health.layers[name].ratio = delta / last
    return health


def _layer(
    evaluation: Evaluation,
    values: LayerValues,
    gradients: Mapping[str, Mapping[str, Array]],
    kernel: Array | None,
    options: Mapping[str, object],
) -> LayerHealth:
    activation = evaluation.model.layers[values.name].activation
    trained = gradients.get(values.name)
    output = values.output
    found = LayerHealth(
        values.name,
        values.type,
        None if activation is None else activation.name,
        float(output.mean(dtype=np.float64)),
        float(output.std(dtype=np.float64)),
        math.nan if values.delta is None else values.norms["delta"],
        None if not trained else math.hypot(*[norm(gradient) for gradient in trained.values()]),
        None if kernel is None else norm(kernel),
    )
    if activation is None or not is_finite(values.pre_activation):
        return found
    tails, z = tails_of(activation), values.pre_activation
    found.tails = tails
    found.saturated_left = None if tails.left is None else float(np.mean(z < tails.left))
    found.saturated_right = None if tails.right is None else float(np.mean(z > tails.right))
    if tails.flat_left is not None or tails.flat_right is not None:
        off = np.zeros(z.shape, bool)
        if tails.flat_left is not None:
            off |= z <= tails.flat_left
        if tails.flat_right is not None:
            off |= z >= tails.flat_right
        units = 1 if options.get("data_format") == "channels_first" and z.ndim > 2 else z.ndim - 1
        found.dead = float(off.all(axis=tuple(axis for axis in range(z.ndim) if axis != units)).mean())
    return found


def kernels_of(parameters: Mapping[str, Mapping[str, Array]]) -> dict[str, Array]:
    """Return the kernel of each layer: the largest of its parameters that are at least matrices."""
    found = {}
    for layer, arrays in parameters.items():
        matrices = [array for array in arrays.values() if array.ndim >= 2]
        if matrices:
            found[layer] = max(matrices, key=lambda array: array.size)
    return found


def chain_of(definition: Definition, order: Sequence[str], owners: Mapping[str, str], weighted: set[str]) -> list[str]:
    """Return the chain: the layers with weights on the longest way to an output, in the order of computation.

    `order` are all layers in that order, `owners` the layer whose parameters each one uses, and `weighted` the layers
    with kernels.
    """
    position = {layer.name: place for place, layer in enumerate(definition.layers)}
    longest: dict[str, tuple[int, str | None]] = {}
    for name in order:
        before = [source for source in definition.inputs_of(position[name]) if source in longest]
        best = max(before, key=lambda source: longest[source][0], default=None)
        count = (longest[best][0] if best is not None else 0) + (owners[name] in weighted)
        longest[name] = count, best
    end: str | None = max(definition.output_names, key=lambda name: longest[name][0])
    chain = []
    while end is not None:
        if owners[end] in weighted:
            chain.append(end)
        end = longest[end][1]
    return chain[::-1]
