"""Example requests of explanations, for a first lesson on gradients."""

from __future__ import annotations

from typing import Any

from service.api.examples import XOR_DATA, XOR_NETWORK, XOR_PARAMETERS, Example

LINE: dict[str, Any] = {
    "network": {"layers": [{"type": "dense", "name": "line", "units": 1}]},
    "parameters": {"line": {"kernel": [[0.5]], "bias": [0]}},
    "inputs": [[1], [2], [3]],
    "targets": [[1], [3], [4]],
    "loss": "half_squared_error",
}
CHAIN: dict[str, Any] = {
    "network": {
        "layers": [
            {"type": "dense", "name": f"n{depth}", "units": 1, "activation": "sigmoid"} for depth in (1, 2, 3, 4)
        ]
    },
    "parameters": {f"n{depth}": {"kernel": [[1]], "bias": [0]} for depth in (1, 2, 3, 4)},
    "inputs": [[1]],
    "targets": [[0]],
    "loss": "half_squared_error",
}

EXPLAIN: dict[str, Example] = {
    "xor_weight": Example(
        "One weight of the XOR network, from the sums of both layers to its update.",
        network=XOR_NETWORK,
        **XOR_DATA,
        parameters=XOR_PARAMETERS,
        loss="half_squared_error",
        parameter="hidden.kernel[0][1]",
        sample=2,
        learning_rate=0.7,
    ),
    "heaton": Example(
        "The whole first pattern of the XOR network as Heaton prints it.",
        network=XOR_NETWORK,
        parameters=XOR_PARAMETERS,
        **XOR_DATA,
        loss="half_squared_error",
        reduction="sum",
        sample=2,
        learning_rate=0.7,
        convention="heaton",
    ),
    "line": Example(
        "A line through three points: what each point adds to the gradient of its slope.",
        **LINE,
        parameter="line.kernel",
        learning_rate=0.1,
    ),
    "vanishing_chain": Example(
        "Four sigmoid units in a chain: each passes back less than a quarter.",
        **CHAIN,
        parameter="n1.kernel",
    ),
    "zero": Example(
        "Two gradients that are 0 for different reasons, explained in Chinese.",
        network={
            "layers": [
                {"type": "dense", "name": "hidden", "units": 2, "activation": "relu"},
                {"type": "dense", "name": "output", "units": 1},
            ]
        },
        parameters={
            "hidden": {"kernel": [[1, -1], [1, -1]], "bias": [0, 0]},
            "output": {"kernel": [[1], [1]], "bias": [0]},
        },
        inputs=[[1, 0], [2, 0]],
        targets=[[0], [1]],
        loss="half_squared_error",
        parameter="hidden.kernel",
        depth=1,
        language="zh",
    ),
}
