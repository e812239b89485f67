"""Example requests of `/v1/gradients/diagnose`."""

from __future__ import annotations

from typing import Any

from service.api.examples import XOR_DATA, Example

DEEP_SIGMOID: dict[str, Any] = {
    "network": {
        "layers": [
            *[
                {"type": "dense", "name": f"hidden_{place}", "units": 8, "activation": "sigmoid"}
                for place in range(1, 6)
            ],
            {"type": "dense", "name": "output", "units": 1},
        ]
    },
    "inputs": [[0.9, -0.4, 1.3], [-0.7, 1.1, 0.2], [0.1, -1.5, 0.6], [1.2, 0.3, -0.8]],
    "targets": [[1], [-1], [0.5], [-0.5]],
    "loss": "mean_squared_error",
}

DIAGNOSE: dict[str, Example] = {
    "vanishing": Example("Five layers of sigmoid units, in which the gradient vanishes.", **DEEP_SIGMOID),
    "dead_relu": Example(
        "A rectifier whose bias is so low that no sample turns it on.",
        network={
            "layers": [
                {"type": "dense", "name": "hidden", "units": 3, "activation": "relu"},
                {"type": "dense", "name": "output", "units": 1, "activation": "sigmoid"},
            ]
        },
        parameters={
            "hidden": {"kernel": [[0.5, 1.0, -0.6], [-0.4, 0.5, 0.9]], "bias": [0.1, -10, 0.5]},
            "output": {"kernel": [[0.8], [1.5], [0.4]], "bias": [0.05]},
        },
        inputs=[[1, 2], [-0.5, 1.5], [2, -1]],
        targets=[[1], [0], [1]],
        loss="binary_crossentropy",
    ),
    "slowdown": Example(
        "A saturated sigmoid that is wrong learns slowly from the squared error.",
        network={"layers": [{"type": "dense", "name": "output", "units": 1, "activation": "sigmoid"}]},
        parameters={"output": {"kernel": [[2]], "bias": [2]}},
        inputs=[[1]],
        targets=[[0]],
        loss="half_squared_error",
    ),
    "training": Example(
        "A training whose learning rate is above what the curvature allows.",
        network={"layers": [{"type": "dense", "name": "line", "units": 1}]},
        inputs=[[1], [2], [3], [4]],
        targets=[[2], [4], [6], [8]],
        loss="mean_squared_error",
        optimizer={"type": "sgd", "learning_rate": 0.2},
        steps=40,
    ),
    "sweep": Example(
        "Depths and activations side by side, with two seeds each.",
        sweep={"depths": [2, 5], "activations": ["sigmoid", "tanh", "relu"], "seeds": [0, 1], "units": 8, "samples": 8},
    ),
    "badly_scaled": Example(
        "Features of very different sizes.",
        network={
            "layers": [
                {"type": "dense", "name": "hidden", "units": 2, "activation": "tanh"},
                {"type": "dense", "name": "output", "units": 1},
            ]
        },
        inputs=[[0.1, 3000], [0.4, 1200], [0.3, 2500], [0.8, 4100]],
        targets=XOR_DATA["targets"],
        loss="mean_squared_error",
    ),
}
