"""Example requests of verdicts on gradients: mistakes in back-propagation by hand."""

from __future__ import annotations

from typing import Any

from service.api.examples import XOR_DATA, XOR_NETWORK, XOR_PARAMETERS, Example

XOR: dict[str, Any] = {
    "network": XOR_NETWORK,
    "parameters": XOR_PARAMETERS,
    **XOR_DATA,
    "loss": "half_squared_error",
}
LINE: dict[str, Any] = {
    "network": {"layers": [{"type": "dense", "name": "line", "units": 1}]},
    "parameters": {"line": {"kernel": [[2]], "bias": [1]}},
    "inputs": [[1], [2], [3]],
    "targets": [[2], [3], [5]],
    "loss": "half_squared_error",
}

VERIFY: dict[str, Example] = {
    "mean_forgotten": Example(
        "The gradient of a line through three points, summed over the points and not divided by three.",
        **LINE,
        claimed={"line": {"kernel": [[11]], "bias": [5]}},
    ),
    "submissions": Example(
        "Three claims about the same line, as a teacher has them: one is right, one has the wrong sign, and one "
        "averages the bias twice.",
        **LINE,
        submissions=[
            {"id": "anna", "claimed": {"line": {"kernel": [[3.6666666666666665]], "bias": [1.6666666666666667]}}},
            {"id": "ben", "claimed": {"line": {"kernel": [[-3.6666666666666665]], "bias": [-1.6666666666666667]}}},
            {"id": "chen", "claimed": {"line": {"kernel": [[3.6666666666666665]], "bias": [0.5555555555555556]}}},
        ],
    ),
    "chain_rule": Example(
        "A derivative that lacks its inner part, explained in Chinese.",
        expression="sin(x^2)",
        point=[2],
        claimed=[-0.6536436208636119],
        language="zh",
    ),
}
