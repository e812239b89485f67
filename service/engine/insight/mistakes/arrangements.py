"""The mistakes that put the right numbers of a tensor into wrong places, or do not add them up."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from itertools import permutations
from typing import Any

import numpy as np

from service.engine.arrays import Array
from service.engine.graph.differentiate import Changes
from service.engine.graph.ir import Node, Shape
from service.engine.graph.operations import broadcast, reshape, sum_over
from service.engine.insight.mistakes.declaration import Change, declare
from service.engine.insight.mistakes.network import Network

MOST_AXES = 5
"""Permutations of more axes are too many to try."""
GATES = {"lstm": 4, "gru": 3}
"""Layers with gates side by side, and the count of gates."""


@declare("transposed", "arrangement", wrong="dW = delta.T @ X", right="dW = X.T @ delta")
def transposed(claim: Array, shape: Shape, layer: str) -> Iterator[Array]:
    if claim.ndim == 2 and claim.shape == shape[::-1]:
        yield claim.T


@declare("axes_permuted", "arrangement", wrong="dK = dK.transpose(3, 2, 0, 1)", right="dK  # (height, width, in, out)")
def axes_permuted(claim: Array, shape: Shape, layer: str) -> Iterator[Array]:
    if not 2 < claim.ndim <= MOST_AXES or claim.ndim != len(shape):
        return
    for order in permutations(range(claim.ndim)):
        if order != tuple(range(claim.ndim)) and tuple(claim.shape[axis] for axis in order) == shape:
            yield claim.transpose(order)


@declare("reshaped", "arrangement", wrong='dW = flat.reshape(shape, order="F")', right="dW = flat.reshape(shape)")
def reshaped(claim: Array, shape: Shape, layer: str) -> Iterator[Array]:
    if claim.size != math.prod(shape):
        return
    if claim.shape != shape:
        yield claim.reshape(shape)
    is_transposed = claim.shape == shape[::-1] != shape
    if not is_transposed and len([n for n in shape if n > 1]) > 1:
        yield claim.reshape(-1).reshape(shape, order="F")
        yield claim.reshape(-1, order="F").reshape(shape)
        if len(shape) == 2:  # the transpose, read as if it had the right shape
            yield claim.reshape(shape[::-1]).T


@declare(
    "kernel_gradient_flipped",
    "arrangement",
    wrong="dK = convolve(x, delta)[::-1, ::-1]",
    right="dK = correlate(x, delta)",
)
def kernel_gradient_flipped(claim: Array, shape: Shape, layer: str) -> Iterator[Array]:
    spatial = len(shape) - 2
    if claim.shape == shape and spatial > 0 and "conv" in layer and math.prod(shape[:spatial]) > 1:
        yield claim[(slice(None, None, -1),) * spatial]


@declare(
    "gates_reordered",
    "arrangement",
    wrong="# gates in the order input, forget, output, candidate",
    right="# gates in the order input, forget, candidate, output",
)
def gates_reordered(claim: Array, shape: Shape, layer: str) -> Iterator[Array]:
    count = next((count for name, count in GATES.items() if name == layer), 0)
    if not count or claim.shape != shape or shape[-1] % count:
        return
    blocks = np.split(claim, count, -1)
    for order in permutations(range(count)):
        if order != tuple(range(count)):
            yield np.concatenate([blocks[place] for place in order], -1)


@declare(
    "tensors_swapped", "arrangement", wrong="gradients = [dW2, db2, dW1, db1]", right="gradients = [dW1, db1, dW2, db2]"
)
def tensors_swapped(claim: Array, shape: Shape, layer: str) -> Iterator[Array]:
    """Yield nothing: a rule sees one tensor alone, so the search itself looks for swapped ones."""
    return iter(())


@declare(
    "bias_not_summed",
    "arrangement",
    wrong="db = delta",
    right="db = delta.sum(axis=0)",
    changes=lambda network: of_one_sample(network),
)
def bias_not_summed(claim: Array, shape: Shape, layer: str) -> Iterator[Array]:
    if len(shape) == 1 and claim.ndim > 1 and claim.shape[-1] == shape[0] and claim.size > shape[0]:
        yield claim.sum(tuple(range(claim.ndim - 1)))


def of_one_sample(network: Network) -> Iterator[Change]:
    """Yield gradients of biases made of one sample's delta, the first or the last, or summed over units too."""
    samples = network.task.samples
    for form in ("first", "last", "units"):
        for layer, uses in _uses_of_biases(network):
            rules: dict[tuple[int, int], Callable[[Node], Node | None]] = {}
            for node, position in uses:
                rules[node.index, position] = partial(_of_one_sample, samples, form)
            yield Change((layer,), Changes(rules), form=form)
    yield from _spread_over_samples(network)


def _spread_over_samples(network: Network) -> Iterator[Change]:
    """Yield changes of shared biases to which one layer adds a delta for each sample. Deltas of the other layers then
    count N times."""
    samples = network.task.samples
    owners = {each.name: each.shares or each.name for each in network.definition.layers}
    uses = dict(_uses_of_biases(network))
    for layer in uses if samples > 1 else ():
        others = [name for name in uses if name != layer and owners[name] == owners[layer]]
        if others:
            times = _divided_by(1.0 / samples)
            rules = {(node.index, position): times for name in others for node, position in uses[name]}
            yield Change((layer,), Changes(rules), form="spread")


def averaged_by_use(network: Network) -> Iterator[Change]:
    """Yield changes of shared biases to which one layer adds its mean over the samples once more."""
    samples = network.task.samples
    shares = {each.name for each in network.definition.layers if each.shares is not None}
    owners = {each.shares for each in network.definition.layers}
    for layer, uses in _uses_of_biases(network):
        if samples > 1 and (layer in shares or layer in owners):
            rules = {(node.index, position): _divided_by(float(samples)) for node, position in uses}
            yield Change((layer,), Changes(rules))


def _divided_by(count: float) -> Callable[[Node], Node | None]:
    return lambda g: g / count


def _uses_of_biases(network: Network) -> Iterator[tuple[str, list[tuple[Node, int]]]]:
    """Yield each layer with the places, as nodes and positions, where it adds a bias to values with samples."""
    views = {
        each.node.index
        for each in network.trained
        if len(each.node.shape) == 1 and each.name.endswith(("bias", "beta"))
    }
    for node in network.forward:
        if node.operation.view is not None and node.inputs[0].index in views:
            views.add(node.index)
    for layer in network.order:
        uses = [
            (node, position)
            for node in network.nodes_of(layer, "add")
            for position, x in enumerate(node.inputs)
            if x.index in views and x.shape == node.shape and len(x.shape) > 1
        ]
        if uses:
            yield layer, uses


def _of_one_sample(samples: int, form: str, g: Node) -> Node:
    if form == "units":
        return broadcast(sum_over(g), g.shape) / float(g.size // g.shape[-1])
    row = 0 if form == "first" else samples - 1
    lead = g.shape[0] // samples  # rows of a sample, where they lie one after the other
    mask = [1.0 if place // lead == row else 0.0 for place in range(g.shape[0])]
    column = reshape(g.graph.vector(tuple(mask)), (g.shape[0], *(1,) * (len(g.shape) - 1)))
    return g * broadcast(column, g.shape)


def anything(*_: Any) -> Iterator[Any]:
    """Yield nothing, as the rule of a mistake that the search recognises without one."""
    return iter(())


declare(
    "bias_mean",
    "factor",
    wrong="db = delta.mean(axis=0)  # of a delta that is divided by N already",
    right="db = delta.sum(axis=0)",
    changes=averaged_by_use,
)(anything)
"""The factor 1 / samples of biases alone; the search separates it from `mean_doubled`."""
