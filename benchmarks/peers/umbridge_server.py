"""The benchmark's gradients as UM-Bridge models: `python -m benchmarks.peers.umbridge_server PORT`.

UM-Bridge differentiates with respect to one input vector at a time, so all weights are one vector.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import umbridge
from umbridge import um

from benchmarks.by_hand import Array, sigmoid_gradients, softmax_gradients

Vectors = Sequence[Sequence[float]]


class LossOfParameters(umbridge.Model):  # type: ignore[misc]
    """The loss as a function of the weights, the inputs and the targets of a network with two layers."""

    def __init__(
        self,
        name: str,
        sizes: tuple[int, int, int],
        batch: int,
        compute: Callable[..., tuple[Array, Array, list[Array]]],
    ) -> None:
        super().__init__(name)
        features, hidden, outputs = sizes
        self.sizes, self.batch, self.compute = sizes, batch, compute
        self.cuts = np.cumsum([features * hidden, hidden, hidden * outputs])
        self.input_sizes = [int(self.cuts[-1]) + outputs, batch * features, batch * outputs]

    def get_input_sizes(self, config: dict[str, Any]) -> list[int]:
        return self.input_sizes

    def get_output_sizes(self, config: dict[str, Any]) -> list[int]:
        return [1]

    def supports_evaluate(self) -> bool:
        return True

    def supports_gradient(self) -> bool:
        return True

    def _compute(self, vectors: Vectors) -> tuple[Array, Array, list[Array]]:
        features, hidden, outputs = self.sizes
        kernel_1, bias_1, kernel_2, bias_2 = np.split(np.array(vectors[0]), self.cuts)
        return self.compute(
            [kernel_1.reshape(features, hidden), kernel_2.reshape(hidden, outputs)],
            [bias_1, bias_2],
            np.array(vectors[1]).reshape(self.batch, features),
            np.array(vectors[2]).reshape(self.batch, outputs),
        )

    def __call__(self, parameters: Vectors, config: dict[str, Any]) -> list[list[float]]:
        loss, _, _ = self._compute(parameters)
        return [[float(loss)]]

    def gradient(
        self, out_wrt: int, in_wrt: int, parameters: Vectors, sens: Sequence[float], config: dict[str, Any]
    ) -> list[float]:
        if in_wrt:
            raise NotImplementedError("only the gradient with respect to the weights")
        _, _, gradients = self._compute(parameters)
        flat = np.concatenate([gradient.reshape(-1) for gradient in gradients])
        answer: list[float] = (flat * sens[0]).tolist()
        return answer


def main() -> None:
    models = [
        LossOfParameters("xor", (2, 2, 1), 4, sigmoid_gradients),
        LossOfParameters("digits", (784, 128, 10), 64, softmax_gradients),
    ]
    # serve_models listens on every interface and offers no choice; a benchmark stays on this machine.
    um.web.run_app = partial(um.web.run_app, host="127.0.0.1")
    umbridge.serve_models(models, int(sys.argv[1]))


if __name__ == "__main__":
    main()
