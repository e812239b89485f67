"""Example requests of `/v1/landscape` (see `examples.py`)."""

from __future__ import annotations

from typing import Any

from service.api.examples import XOR_DATA, XOR_NETWORK, XOR_PARAMETERS, Example

XOR: dict[str, Any] = {
    "network": XOR_NETWORK,
    "parameters": XOR_PARAMETERS,
    **XOR_DATA,
    "loss": "half_squared_error",
    "reduction": "sum",
}
LANDSCAPE: dict[str, Example] = {
    "one_weight": Example(
        "The error curve of one weight of the XOR network, with slope, tangent and largest stable step.",
        **XOR,
        along=[{"parameter": "output.kernel[1][0]", "range": [-8, 8], "resolution": 9}],
    ),
    "two_weights": Example(
        "The loss over two weights, for drawing a surface.",
        **XOR,
        along=[
            {"parameter": "output.kernel[0][0]", "range": [-6, 6], "resolution": 5},
            {"parameter": "output.kernel[1][0]", "range": [-6, 6], "resolution": 4},
        ],
        levels=6,
        exclude=["slopes"],
    ),
    "random": Example(
        "Two random directions, as long in each filter as its weights are, as Li and others do it.",
        **XOR,
        along=[{"direction": "random", "resolution": 5}, {"direction": "random", "resolution": 5}],
        levels=4,
        include=["directions"],
        exclude=["slopes"],
    ),
    "curvature": Example(
        "The directions of the largest and the smallest curvature, and all nine eigenvalues of the Hessian.",
        **XOR,
        along=[
            {"direction": "hessian", "index": 0, "resolution": 3},
            {"direction": "hessian", "index": -1, "resolution": 3},
        ],
        spectrum={"largest": 2, "smallest": 2},
    ),
    "spectrum": Example(
        "The eigenvalues of a small classifier, and how they are spread.",
        network={
            "layers": [
                {"type": "dense", "name": "hidden", "units": 3, "activation": "tanh"},
                {"type": "dense", "name": "classes", "units": 3, "activation": "softmax"},
            ]
        },
        seed=2,
        inputs=[[0.2, 1.1], [1.3, 0.4], [-0.5, 0.9], [1.8, -0.6], [-1.2, 0.3], [0.1, -1.4]],
        targets=[0, 1, 0, 1, 2, 2],
        loss="sparse_categorical_crossentropy",
        spectrum={"largest": 3, "smallest": 1, "density": True, "points": 9},
        exclude=["parameters"],
    ),
    "trajectory": Example(
        "The way of a descent, on its two principal directions.",
        network={"layers": [{"type": "dense", "name": "line", "units": 1}]},
        inputs=[[0], [1], [2], [3]],
        targets=[[-1], [1], [3], [5]],
        loss="mean_squared_error",
        along=[{"direction": "trajectory", "resolution": 4}, {"direction": "trajectory", "index": 1, "resolution": 4}],
        trajectory=[
            {"line": {"kernel": [[kernel]], "bias": [bias]}}
            for kernel, bias in [(0, 0), (1.7, 0.4), (1.425, 0.03), (1.6265, -0.176), (1.9, -0.78), (2, -1)]
        ],
        levels=6,
        exclude=["slopes"],
    ),
}
