"""Example requests of the endpoints with the tag Insight, such as derivations, checks and diagnoses."""

from __future__ import annotations

from typing import Any

from service.api.examples import XOR_DATA, XOR_NETWORK, XOR_PARAMETERS, Example

XOR: dict[str, Any] = {
    "network": XOR_NETWORK,
    "parameters": XOR_PARAMETERS,
    **XOR_DATA,
    "loss": "half_squared_error",
}

GRAPH: dict[str, Example] = {
    "xor": Example(
        "Everything that happens on the way to the gradients of the XOR network and on the way back, for one sample.",
        network=XOR_NETWORK,
        parameters=XOR_PARAMETERS,
        inputs=XOR_DATA["inputs"][1:2],
        targets=XOR_DATA["targets"][1:2],
        loss="half_squared_error",
    ),
    "saddle": Example(
        "The operations of a saddle, with a drawing for Mermaid.",
        expression="x^2 - y^2",
        point=[3, 1],
        include=["mermaid"],
    ),
    "layers": Example(
        "The XOR network collapsed to its layers, with a drawing for Graphviz.",
        **XOR,
        detail="layers",
        include=["dot"],
    ),
}

CHECK: dict[str, Example] = {
    "xor": Example(
        "The nine gradients of the XOR network, each against a complex step, with differences of four steps.",
        **XOR,
        steps=[0.5, 0.2, 0.1, 0.05],
    ),
    "kink": Example(
        "A unit with relu close to its kink, which longer steps of differences reach.",
        network={"layers": [{"type": "dense", "name": "unit", "units": 1, "activation": "relu"}]},
        parameters={"unit": {"kernel": [[1]], "bias": [-0.999]}},
        inputs=[[1]],
        targets=[[1]],
        loss="half_squared_error",
        steps=[0.1, 0.01, 0.0001],
    ),
    "wrong_sign": Example(
        "A claimed gradient of which one part has the wrong sign.",
        expression="x^2 - y^2",
        point=[3, 1],
        claimed={"x": 6, "y": 2},
        steps=[0.1, 0.01],
    ),
}

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
        **XOR,
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

OTHER_LINE: dict[str, Any] = {
    "network": {"layers": [{"type": "dense", "name": "line", "units": 1}]},
    "parameters": {"line": {"kernel": [[2]], "bias": [1]}},
    "inputs": [[1], [2], [3]],
    "targets": [[2], [3], [5]],
    "loss": "half_squared_error",
}

VERIFY: dict[str, Example] = {
    "mean_forgotten": Example(
        "The gradient of a line through three points, summed over the points and not divided by three.",
        **OTHER_LINE,
        claimed={"line": {"kernel": [[11]], "bias": [5]}},
    ),
    "submissions": Example(
        "Three claims about the same line, as a teacher has them: one is right, one has the wrong sign, and one "
        "averages the bias twice.",
        **OTHER_LINE,
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

SUMMED: dict[str, Any] = XOR | {"reduction": "sum"}
LANDSCAPE: dict[str, Example] = {
    "one_weight": Example(
        "The error curve of one weight of the XOR network, with slope, tangent and largest stable step.",
        **SUMMED,
        along=[{"parameter": "output.kernel[1][0]", "range": [-8, 8], "resolution": 9}],
    ),
    "two_weights": Example(
        "The loss over two weights, for drawing a surface.",
        **SUMMED,
        along=[
            {"parameter": "output.kernel[0][0]", "range": [-6, 6], "resolution": 5},
            {"parameter": "output.kernel[1][0]", "range": [-6, 6], "resolution": 4},
        ],
        levels=6,
        exclude=["slopes"],
    ),
    "random": Example(
        "Two random directions, as long in each filter as its weights are, as Li and others do it.",
        **SUMMED,
        along=[{"direction": "random", "resolution": 5}, {"direction": "random", "resolution": 5}],
        levels=4,
        include=["directions"],
        exclude=["slopes"],
    ),
    "curvature": Example(
        "The directions of the largest and the smallest curvature, and all nine eigenvalues of the Hessian.",
        **SUMMED,
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
