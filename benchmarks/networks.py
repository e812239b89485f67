"""The dense networks that benchmarks compare, as data: sizes, activations, loss and numbers to compute with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from service.engine.network.activations import activations
from service.engine.network.definition import INPUT, LayerDefinition
from service.engine.network.layered import NetworkDefinition
from service.engine.network.layers import layers
from service.engine.network.losses import losses
from service.engine.network.task import Task

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Case:
    """A dense network with its loss and its batch size."""

    name: str
    sizes: tuple[int, ...]
    activations: tuple[str, ...]
    batch: int
    loss: str

    @property
    def layer_names(self) -> tuple[str, ...]:
        return (*(f"hidden_{number}" for number in range(1, len(self.sizes) - 1)), "output")

    def definition(self) -> NetworkDefinition:
        """Return a new definition object, as the service makes one for a network that it has not seen before."""
        return NetworkDefinition(
            tuple(
                LayerDefinition(name, layers.select("dense", units=units, activation=activations.select(activation)))
                for name, units, activation in zip(self.layer_names, self.sizes[1:], self.activations, strict=True)
            )
        )

    def task(self, dtype: str) -> Task:
        parameters = []
        for name, before, units in zip(self.layer_names, self.sizes, self.sizes[1:], strict=False):
            parameters += [((name, "kernel"), (before, units)), ((name, "bias"), (units,))]
        return Task(
            self.definition(),
            dtype,
            ((INPUT, (self.batch, self.sizes[0])),),
            losses=(losses.select(self.loss),),
            targets=(("output", (self.batch, self.sizes[-1])),),
            parameters=tuple(parameters),
        )

    def numbers(self, dtype: str) -> Numbers:
        generator = np.random.default_rng(1986)
        kernels = [
            generator.normal(0.0, (2.0 / before) ** 0.5, (before, units)).astype(dtype)
            for before, units in zip(self.sizes, self.sizes[1:], strict=False)
        ]
        biases = [generator.normal(0.0, 0.1, units).astype(dtype) for units in self.sizes[1:]]
        if self.batch == 4:
            inputs = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], dtype)
            targets = np.array([[0], [1], [1], [0]], dtype)
        else:
            inputs = generator.random((self.batch, self.sizes[0])).astype(dtype)
            targets = np.eye(self.sizes[-1], dtype=dtype)[generator.integers(0, self.sizes[-1], self.batch)]
        return Numbers(kernels, biases, inputs, targets)

    def tree(
        self, kernels: Sequence[Array], biases: Sequence[Array], encode: Callable[[Array], Any] = lambda array: array
    ) -> dict[str, dict[str, Any]]:
        """Return arrays by layer and parameter name, each converted by `encode`."""
        arrays = zip(self.layer_names, kernels, biases, strict=True)
        return {name: {"kernel": encode(kernel), "bias": encode(bias)} for name, kernel, bias in arrays}

    def request(self) -> dict[str, Any]:
        """Return the body of `POST /v1/gradients` for this network, with all numbers as lists."""
        numbers = self.numbers("float64")
        return {
            "network": {
                "layers": [
                    {"type": "dense", "name": name, "units": units, "activation": activation}
                    for name, units, activation in zip(self.layer_names, self.sizes[1:], self.activations, strict=True)
                ]
            },
            "parameters": self.tree(numbers.kernels, numbers.biases, np.ndarray.tolist),
            "inputs": numbers.inputs.tolist(),
            "targets": numbers.targets.tolist(),
            "loss": self.loss,
            "reduction": "mean",
            "dtype": "float64",
        }


@dataclass(frozen=True)
class Numbers:
    """The parameters of a network layer by layer, its inputs and its targets."""

    kernels: list[Array]
    biases: list[Array]
    inputs: Array
    targets: Array

    def flat_parameters(self) -> Array:
        """Return all parameters as one vector, kernel and bias of each layer in turn, as the engine orders them."""
        pairs = zip(self.kernels, self.biases, strict=True)
        return np.concatenate([array.reshape(-1) for pair in pairs for array in pair])


XOR = Case("XOR 2-2-1, batch 4", (2, 2, 1), ("sigmoid", "sigmoid"), 4, "half_squared_error")
DIGITS = Case("784-128-10, batch 64", (784, 128, 10), ("relu", "softmax"), 64, "categorical_crossentropy")
WIDE = Case(
    "1024-1024-1024-10, batch 256",
    (1024, 1024, 1024, 10),
    ("relu", "relu", "softmax"),
    256,
    "categorical_crossentropy",
)
