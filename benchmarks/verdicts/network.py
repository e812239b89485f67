"""A network written by hand: layers in sequence or in branches, losses, and gradients as a student submits them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.verdicts.layers import Array, Convolution, Dense, Dropout, Layer
from benchmarks.verdicts.slips import Slips, Wrong

Tree = dict[str, dict[str, Array]]
INPUT = "input"


@dataclass
class Network:
    """Layers with losses, parameters and data. A layer takes the output of the one before, or of its `inputs_of`."""

    name: str
    layers: Sequence[Layer]
    sample: tuple[int, ...]
    losses: Mapping[str, str]
    inputs: Array
    targets: dict[str, Array]
    inputs_of: Mapping[str, str] = field(default_factory=dict)
    loss_weights: Mapping[str, float] = field(default_factory=dict)
    sample_weights: Array | None = None
    reduction: str = "mean"
    training: bool = False
    seed: int = 0
    long_way: bool = False
    """Cross-entropies through the slopes of the probabilities, not shortened to p - t: right, with more rounding."""

    def __post_init__(self) -> None:
        self.source = {
            layer.name: self.inputs_of.get(layer.name, self.layers[place - 1].name if place else INPUT)
            for place, layer in enumerate(self.layers)
        }
        by_name = {layer.name: layer for layer in self.layers}
        for layer in self.layers:
            layer.fused = self.losses.get(layer.name, "").endswith("crossentropy")
            layer.before = by_name.get(self.source[layer.name])
            if layer.before is not None and layer.before.after is None:
                layer.before.after = layer

    @property
    def parameters(self) -> Tree:
        return {layer.name: layer.parameters for layer in self.layers if layer.parameters and layer.owner == layer.name}

    @property
    def couples_samples(self) -> bool:
        return any(getattr(layer, "axis", None) == 0 for layer in self.layers)

    # --- numbers ------------------------------------------------------------------------------

    def fill(self, generator: np.random.Generator, gain: float = 1.0) -> Network:
        """Draw random parameters of the usual scales, also for biases and shifts."""
        by_name: dict[str, Layer] = {}
        values = {INPUT: self.inputs}
        for layer in self.layers:
            x = values[self.source[layer.name]]
            if layer.owner != layer.name:
                layer.parameters = by_name[layer.owner].parameters
            else:
                for name, shape in layer.shapes(x.shape[1:]).items():
                    fan = max(1, math.prod(shape[:-1])) if "kernel" in name else 1
                    scale = gain / math.sqrt(fan) if "kernel" in name else 0.3
                    layer.parameters[name] = generator.normal(float(name == "gamma"), scale, shape)
            by_name[layer.name] = layer
            values[layer.name] = layer.forward(x)
        return self

    def cast(self, dtype: str) -> None:
        """Convert all numbers to another dtype; after float32, digits stay lost."""
        self.inputs = self.inputs.astype(dtype)
        self.targets = {name: target.astype(dtype) for name, target in self.targets.items()}
        if self.sample_weights is not None:
            self.sample_weights = self.sample_weights.astype(dtype)
        for tree in self.parameters.values():
            for name in tree:
                tree[name] = tree[name].astype(dtype)

    # --- forward and backward -----------------------------------------------------------------

    def forward(self) -> dict[str, Array]:
        values = {INPUT: self.inputs}
        for layer in self.layers:
            values[layer.name] = layer.forward(values[self.source[layer.name]])
        return values

    def loss(self) -> float:
        """Return the total loss, regularizers included: the gradients are its derivatives."""
        values = self.forward()
        total = 0.0
        for name, loss in self.losses.items():
            p, t = values[name], self.targets[name]
            z = self.layer(name).z
            rows = _losses(loss, z, p, t).reshape(len(p), -1).sum(1)
            rows = rows if self.sample_weights is None else rows * self.sample_weights
            total += self.loss_weights.get(name, 1.0) * (rows.mean() if self.reduction == "mean" else rows.sum())
        for layer in self.layers:
            if layer.owner == layer.name and (layer.l1 or layer.l2):
                kernel = layer.parameters["kernel"]
                total += layer.l1 * np.abs(kernel).sum() + layer.l2 * np.square(kernel).sum()
        return float(total)

    def layer(self, name: str) -> Layer:
        return next(layer for layer in self.layers if layer.name == name)

    def gradients(self, slips: Slips | None = None) -> Tree:
        """Return the gradients as a student submits them, with the mistakes that `slips` switches on."""
        slips = slips or Slips()
        values = self.forward()
        passed: dict[str, Array] = {}
        found: Tree = {name: {} for name in self.parameters}
        for layer in reversed(self.layers):
            wrong = slips.at(layer.name)
            da = passed.get(layer.name)
            if layer.name in self.losses:
                delta = self.output_delta(layer, values[layer.name], wrong)
                da = delta if da is None else da + delta
            if da is None:
                continue
            dx = layer.backward(da, wrong)
            source = self.source[layer.name]
            passed[source] = dx if source not in passed else passed[source] + dx
            for name, gradient in layer.gradients.items():
                mine = found[layer.owner]
                if name in mine and not wrong("use_overwritten"):  # = for +=
                    gradient = mine[name] + gradient
                mine[name] = gradient
        for layer in self.layers:
            if layer.owner == layer.name and (layer.l1 or layer.l2):
                self.regularize(layer, found[layer.name], slips.at(layer.name))
        return self.hand_in(found, slips)

    def output_delta(self, layer: Layer, p: Array, wrong: Wrong) -> Array:
        """Return dL/da of an output layer, or dL/dz if its loss is a cross-entropy."""
        loss, t = self.losses[layer.name], self.targets[layer.name]
        if len(t) > 1 and wrong("targets_of_sample_before"):
            t = np.roll(t, 1, 0)
        if len(t) > 2 and wrong("targets_reversed"):
            t = t[::-1]
        delta = (_long_way if self.long_way else _slopes)(loss, layer, p, t, wrong)
        samples, outputs = len(p), p[0].size
        weight = np.asarray(self.loss_weights.get(layer.name, 1.0), p.dtype)
        if weight != 1.0 and wrong("loss_weight_forgotten"):
            weight = np.ones_like(weight)
        delta = delta * weight
        if self.sample_weights is not None and not wrong("sample_weights_forgotten"):
            weights = self.sample_weights.reshape(-1, *[1] * (delta.ndim - 1))
            delta = delta * (weights * weights if wrong("sample_weights_squared") else weights)
        if not self.couples_samples:
            if wrong("last_sample_only"):  # = for += in the loop over the samples
                delta = delta * (np.arange(samples) == samples - 1).reshape(-1, *[1] * (delta.ndim - 1))
            if wrong("first_sample_skipped"):  # range(1, n)
                delta = delta * (np.arange(samples) > 0).reshape(-1, *[1] * (delta.ndim - 1))
        count = np.asarray(samples if self.reduction == "mean" else 1, p.dtype)
        if self.reduction == "mean":
            if wrong("mean_forgotten"):
                count = np.ones_like(count)
            if wrong("mean_twice"):
                count = count * count
        elif wrong("mean_for_sum"):
            count = np.asarray(samples, p.dtype)
        if outputs > 1:
            if wrong("outputs_counted"):  # mean over all elements of a loss that sums or averages already
                count = count * np.asarray(outputs, p.dtype)
            if loss in ("mean_squared_error", "binary_crossentropy") and wrong("outputs_not_counted"):
                count = count / np.asarray(outputs, p.dtype)
        if wrong("error_reversed"):  # target - output
            delta = -delta
        if wrong("loss_doubled"):
            delta = delta * np.asarray(2, p.dtype)
        if wrong("loss_halved"):
            delta = delta / np.asarray(2, p.dtype)
        return delta / count

    def regularize(self, layer: Layer, found: dict[str, Array], wrong: Wrong) -> None:
        kernel = layer.parameters["kernel"]
        penalty = (
            np.asarray(layer.l1, kernel.dtype) * np.sign(kernel) + np.asarray(2.0 * layer.l2, kernel.dtype) * kernel
        )
        if wrong("regularizer_forgotten"):
            penalty = np.zeros_like(kernel)
        if wrong("regularizer_twice"):
            penalty = penalty + penalty
        if layer.l2 and wrong("regularizer_without_its_two"):
            penalty = penalty - np.asarray(layer.l2, kernel.dtype) * kernel
        if self.reduction == "mean" and wrong("regularizer_averaged"):
            penalty = penalty / np.asarray(len(self.inputs), kernel.dtype)
        found["kernel"] = found["kernel"] + penalty

    def hand_in(self, right: Tree, slips: Slips) -> Tree:
        """Return the gradients as they are submitted, after mistakes of handling: wrong factors, shapes or names."""
        names = list(right)
        found: Tree = {}
        for place, name in enumerate(names):
            wrong = slips.at(name)
            tree = dict(right[name])
            if wrong("layer_negated"):
                tree = {key: -value for key, value in tree.items()}
            if wrong("layer_doubled"):
                tree = {key: value * np.asarray(2, value.dtype) for key, value in tree.items()}
            if wrong("layer_halved"):
                tree = {key: value / np.asarray(2, value.dtype) for key, value in tree.items()}
            if self.reduction == "mean" and wrong("layer_not_averaged"):
                tree = {key: value * np.asarray(len(self.inputs), value.dtype) for key, value in tree.items()}
            for key, value in tree.items():
                if "kernel" in key:
                    tree[key] = _turned(value, wrong)
                elif value.ndim == 1 and wrong("bias_as_column"):
                    tree[key] = value[:, None]
            for other in names[place + 1 : place + 2]:
                if _shapes(right[name]) == _shapes(right[other]) and wrong("swapped_with_next"):
                    found[other] = tree
                    tree = dict(right[other])
            found[name] = found.pop(name) | {} if name in found else tree
        return {name: found[name] for name in names}

    # --- the request --------------------------------------------------------------------------

    def request(self, dtype: str = "float64") -> dict[str, Any]:
        """Return the body of `POST /v1/gradients` for this network."""
        several = len(self.losses) > 1
        body: dict[str, Any] = {
            "network": {"layers": [self.described(layer) for layer in self.layers]},
            "parameters": {
                name: {key: value.tolist() for key, value in tree.items()} for name, tree in self.parameters.items()
            },
            "inputs": self.inputs.tolist(),
            "targets": {name: target.tolist() for name, target in self.targets.items()},
            "loss": dict(self.losses),
            "reduction": self.reduction,
            "training": self.training,
            "seed": self.seed,
            "dtype": dtype,
        }
        if several:
            body["network"]["outputs"] = list(self.losses)
        if self.loss_weights:
            body["loss_weights"] = dict(self.loss_weights)
        if self.sample_weights is not None:
            body["sample_weights"] = self.sample_weights.tolist()
        for layer in self.layers:
            if getattr(layer, "axis", None) == 0:
                channels = len(layer.parameters["gamma"])
                body["parameters"][layer.name] |= {"moving_mean": [0.0] * channels, "moving_variance": [1.0] * channels}
        return body

    def described(self, layer: Layer) -> dict[str, Any]:
        found: dict[str, Any] = {"type": _kind(layer), "name": layer.name}
        if layer.name in self.inputs_of:
            found["inputs"] = [self.inputs_of[layer.name]]
        if layer.owner != layer.name:
            found["shares"] = layer.owner
        if isinstance(layer, Dense | Convolution):
            found["activation"] = layer.activation
        for key in ("units", "filters", "padding", "rate"):
            if hasattr(layer, key):
                found[key] = getattr(layer, key)
        if isinstance(layer, Convolution):
            found["kernel_size"] = list(layer.window)
        if hasattr(layer, "sequences"):
            found["return_sequences"] = layer.sequences
        if hasattr(layer, "heads"):
            found |= {"num_heads": layer.heads, "key_dim": layer.size}
        if layer.l1 or layer.l2:
            found["kernel_regularizer"] = {"type": "l1_l2", "l1": layer.l1, "l2": layer.l2}
        return found

    def read_masks(self, layers: Sequence[Mapping[str, Any]]) -> None:
        """Set the dropout masks from the `layers` of a response of `/v1/forward`."""
        told = {layer["name"]: layer for layer in layers}
        for layer in self.layers:
            if isinstance(layer, Dropout):
                kept = np.asarray(told[layer.name]["output"]) != 0.0
                layer.mask = kept / (1.0 - layer.rate)


def _kind(layer: Layer) -> str:
    if isinstance(layer, Convolution):
        return f"conv{len(layer.window)}d"
    if hasattr(layer, "axis"):
        return "batch_normalization" if layer.axis == 0 else "layer_normalization"
    return {
        "MaxPooling2D": "max_pooling2d",
        "GlobalAveragePooling1D": "global_average_pooling1d",
        "SimpleRNN": "simple_rnn",
        "SelfAttention": "multi_head_attention",
    }.get(type(layer).__name__, type(layer).__name__.lower())


def _losses(loss: str, z: Array, p: Array, t: Array) -> Array:
    """Return the loss of every output, to be summed for each sample."""
    outputs = p[0].size
    if loss == "categorical_crossentropy":
        top = z.max(-1, keepdims=True)
        return -t * (z - top - np.log(np.exp(z - top).sum(-1, keepdims=True)))
    if loss == "binary_crossentropy":
        return (np.maximum(z, 0.0) - z * t + np.log1p(np.exp(-np.abs(z)))) / outputs
    return np.square(p - t) * {"mean_squared_error": 1.0 / outputs, "half_squared_error": 0.5}[loss]


def _slopes(loss: str, layer: Layer, p: Array, t: Array, wrong: Wrong) -> Array:
    """Return the derivative of one sample's loss: dl/dz for cross-entropies, dl/da for other losses."""
    outputs = np.asarray(p[0].size, p.dtype)
    if loss == "categorical_crossentropy":
        if wrong("softmax_omitted"):
            return -t / p
        if wrong("softmax_diagonal"):
            return -t / p * p * (1.0 - p)
        delta = p - t
        return p * (delta - (p * delta).sum(-1, keepdims=True)) if wrong("softmax_twice") else delta
    if loss == "binary_crossentropy":
        if wrong("sigmoid_omitted"):
            return (p - t) / (p * (1.0 - p)) / outputs
        if wrong("sigmoid_twice"):
            return (p - t) * p * (1.0 - p) / outputs
        return (p - t) / outputs
    return (
        (p - t)
        * np.asarray(2.0 if loss == "mean_squared_error" else 1.0, p.dtype)
        / (outputs if loss == "mean_squared_error" else np.ones_like(outputs))
    )


def _long_way(loss: str, layer: Layer, p: Array, t: Array, wrong: Wrong) -> Array:
    if loss == "categorical_crossentropy":
        slope = -t / p
        return p * (slope - (p * slope).sum(-1, keepdims=True))
    if loss == "binary_crossentropy":
        return (-t / p + (1.0 - t) / (1.0 - p)) / np.asarray(p[0].size, p.dtype) * p * (1.0 - p)
    return _slopes(loss, layer, p, t, wrong)


def _turned(value: Array, wrong: Wrong) -> Array:
    if value.ndim == 2 and min(value.shape) > 1:
        if wrong("kernel_transposed"):
            return value.T
        if wrong("kernel_refilled"):  # reshape where a transpose was meant
            return value.T.reshape(value.shape)
    if value.ndim > 2 and wrong("kernel_axes_reversed"):
        return value.T
    if value.ndim > 2 and wrong("kernel_outputs_first"):
        return np.moveaxis(value, -1, 0)
    return value.reshape(-1) if wrong("kernel_flattened") else value


def _shapes(tree: Mapping[str, Array]) -> list[tuple[str, tuple[int, ...]]]:
    return sorted((name, value.shape) for name, value in tree.items())
