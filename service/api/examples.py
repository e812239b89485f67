"""Example requests, which OpenAPI, Swagger UI and the tests share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class Example(dict[str, Any]):
    """A request body, with a one-sentence summary of what it shows."""

    def __init__(self, summary: str, **body: Any) -> None:
        super().__init__(body)
        self.summary = summary


XOR_NETWORK: dict[str, Any] = {
    "layers": [
        {"type": "dense", "name": "hidden", "units": 2, "activation": "sigmoid"},
        {"type": "dense", "name": "output", "units": 1, "activation": "sigmoid"},
    ]
}
# The weights of Jeff Heaton's worked example, heatonresearch.com.
XOR_PARAMETERS: dict[str, Any] = {
    "hidden": {
        "kernel": [[-0.06782947598673161, 0.9487814395569221], [0.22341077197888182, 0.461587116462548]],
        "bias": [-0.4635107399577998, 0.09750161997450091],
    },
    "output": {"kernel": [[-0.22791948943117624], [0.581714099641357]], "bias": [0.7792991203673414]},
}
XOR_DATA: dict[str, Any] = {"inputs": [[0, 0], [0, 1], [1, 0], [1, 1]], "targets": [[0], [1], [1], [0]]}

FORWARD: dict[str, Example] = {
    "xor": Example(
        "The XOR network's outputs for all four inputs, with what each layer passes on.",
        network=XOR_NETWORK,
        parameters=XOR_PARAMETERS,
        inputs=XOR_DATA["inputs"],
        include=["layers"],
    ),
    "initialised": Example(
        "Parameters that are drawn from a seed; dropout passes everything on outside of training.",
        network={
            "layers": [
                {"type": "dense", "units": 3, "activation": "relu", "kernel_initializer": "he_normal"},
                {"type": "dropout", "rate": 0.5},
                {"type": "dense", "units": 2, "activation": "softmax"},
            ]
        },
        seed=7,
        inputs=[[0.5, -1.0, 2.0, 0.1]],
    ),
}

ONNX_FILE = (
    "CAoSB2V4YW1wbGU6vgIKNwoBeAoNaGlkZGVuLndlaWdodAoLaGlkZGVuLmJpYXMSAXoiBEdlbW0qDQoGdHJhbnNCGAGgAQIKDwoB"
    "ehIBYSIHU2lnbW9pZAo3CgFhCg1vdXRwdXQud2VpZ2h0CgtvdXRwdXQuYmlhcxIBeSIER2VtbSoNCgZ0cmFuc0IYAaABAhIFZ3Jh"
    "cGgqJwgCCAIQAUINaGlkZGVuLndlaWdodEoQAACAPwAAgD8AAIC/AACAvyobCAIQAUILaGlkZGVuLmJpYXNKCAAAAL8AAMA/Kh8I"
    "AQgCEAFCDW91dHB1dC53ZWlnaHRKCAAAgD8AAIA/KhcIARABQgtvdXRwdXQuYmlhc0oEAACAv1oYCgF4EhMKEQgBEg0KBxIFYmF0"
    "Y2gKAggCYhgKAXkSEwoRCAESDQoHEgViYXRjaAoCCAFCBAoAEBI="
)
"""An ONNX file of 338 bytes: two inputs, two sigmoid neurons, one output, with weights."""

GRADIENTS: dict[str, Example] = {
    "xor": Example(
        "The nine gradients of the XOR network, with the deltas of its neurons.",
        network=XOR_NETWORK,
        parameters=XOR_PARAMETERS,
        **XOR_DATA,
        loss="half_squared_error",
        include=["layers"],
    ),
    "classes": Example(
        "Softmax over three classes with smoothed labels and a penalty, and the gradients of each sample.",
        network={
            "layers": [
                {"type": "dense", "name": "hidden", "units": 3, "activation": {"type": "leaky_relu", "alpha": 0.1}},
                {
                    "type": "dense",
                    "name": "classes",
                    "units": 3,
                    "activation": "softmax",
                    "kernel_regularizer": {"l2": 0.001},
                },
            ]
        },
        seed=1,
        inputs=[[1.0, 0.5], [-0.5, 2.0]],
        targets=[2, 0],
        loss={"type": "sparse_categorical_crossentropy", "label_smoothing": 0.1},
        include=["per_sample", "input_gradients"],
    ),
    "onnx": Example(
        "An ONNX file in place of layers: it brings its weights, and gradients have the names of its parameters.",
        network={"onnx": {"base64": ONNX_FILE}},
        **XOR_DATA,
        loss="mean_squared_error",
        include=["layers"],
    ),
    "keras": Example(
        "A model of Keras, as its method to_json writes it; the weights are drawn from the seed here.",
        network={
            "module": "keras",
            "class_name": "Sequential",
            "config": {
                "name": "sequential",
                "layers": [
                    {
                        "module": "keras.layers",
                        "class_name": "InputLayer",
                        "config": {"batch_shape": [None, 2], "dtype": "float32", "name": "input_layer"},
                        "registered_name": None,
                    },
                    {
                        "module": "keras.layers",
                        "class_name": "Dense",
                        "config": {"name": "hidden", "units": 2, "activation": "tanh", "use_bias": True},
                        "registered_name": None,
                    },
                    {
                        "module": "keras.layers",
                        "class_name": "Dense",
                        "config": {"name": "output", "units": 1, "activation": "sigmoid", "use_bias": True},
                        "registered_name": None,
                    },
                ],
            },
            "registered_name": None,
        },
        **XOR_DATA,
        loss="binary_crossentropy",
    ),
    "pytorch": Example(
        "The state_dict of two linear modules of PyTorch with tanh between them; the gradients come under its names.",
        network={
            "layers": [
                {"type": "dense", "name": "0", "units": 2, "activation": "tanh"},
                {"type": "dense", "name": "2", "units": 1},
            ]
        },
        parameters={
            "0.weight": [[0.5, 0.75], [-0.25, 1.0]],
            "0.bias": [0, 0.5],
            "2.weight": [[1, -0.5]],
            "2.bias": [0.25],
        },
        **XOR_DATA,
        loss="mean_squared_error",
    ),
    "residual": Example(
        "A branched network: two layers are added, and the second sample counts twice.",
        network={
            "layers": [
                {"type": "dense", "name": "first", "units": 2, "activation": "tanh"},
                {"type": "dense", "name": "second", "units": 2, "activation": "tanh"},
                {"type": "add", "name": "sum", "inputs": ["first", "second"]},
                {"type": "dense", "name": "output", "units": 1},
            ]
        },
        seed=3,
        inputs=[[0.2, -0.4], [1.0, 0.3]],
        targets=[[1.0], [0.0]],
        loss="mean_squared_error",
        sample_weights=[1.0, 2.0],
    ),
}

TRAIN: dict[str, Example] = {
    "xor": Example(
        "Three steps with momentum on XOR, each with gradients, parameters and optimizer state.",
        network=XOR_NETWORK,
        parameters=XOR_PARAMETERS,
        **XOR_DATA,
        loss="half_squared_error",
        optimizer={"type": "momentum", "learning_rate": 0.7, "momentum": 0.3},
        steps=3,
        trace={"include": ["gradients", "parameters", "state"]},
    ),
    "mini_batches": Example(
        "Adam on mini-batches, with a warm-up, clipped gradients and validation after each epoch.",
        network={
            "layers": [
                {"type": "dense", "name": "hidden", "units": 3, "activation": "tanh"},
                {"type": "dense", "name": "classes", "units": 2, "activation": "softmax"},
            ]
        },
        seed=4,
        inputs=[[0.2, 1.1], [1.3, 0.4], [-0.5, 0.9], [1.8, -0.6], [-1.2, 0.3]],
        targets=[0, 1, 0, 1, 0],
        loss="sparse_categorical_crossentropy",
        optimizer={"type": "adam", "learning_rate": 0.1},
        schedule={"type": "cosine", "decay_steps": 6, "warmup_steps": 3, "warmup_start": 0.1},
        clip={"norm": 1.0},
        batch_size=2,
        epochs=3,
        validation={"inputs": [[0.9, 0.1], [-0.8, 0.5]], "targets": [1, 0]},
        trace={"include": ["batch"]},
    ),
    "checkpoints": Example(
        "A checkpoint after every second step: sent back, the last one that came goes on as if nothing had happened.",
        network={"layers": [{"type": "dense", "name": "line", "units": 1}]},
        parameters={"line": {"kernel": [[0]], "bias": [0]}},
        inputs=[[0], [1], [2]],
        targets=[[1], [3], [5]],
        loss="half_squared_error",
        optimizer={"type": "adam", "learning_rate": 0.5},
        steps=4,
        trace={"every": 4, "checkpoint_every": 2},
    ),
    # The line is known, and so is the curvature: 6.702, so that gradient descent bears 0.298 at the most.
    "divergence": Example(
        "A learning rate that is too large, and the explanation of what follows.",
        network={"layers": [{"type": "dense", "name": "line", "units": 1}]},
        parameters={"line": {"kernel": [[0]], "bias": [0]}},
        inputs=[[0], [1], [2], [3], [4]],
        targets=[[1], [3], [5], [7], [9]],
        loss="half_squared_error",
        optimizer={"type": "sgd", "learning_rate": 0.5},
        steps=100,
        trace={"every": 5},
    ),
    "l_bfgs": Example(
        "Logistic regression with L-BFGS, which stops as soon as the gradient is small.",
        network={
            "layers": [
                {
                    "type": "dense",
                    "name": "odds",
                    "units": 1,
                    "activation": "sigmoid",
                    "kernel_regularizer": {"l2": 0.01},
                }
            ]
        },
        parameters={"odds": {"kernel": [[0]], "bias": [0]}},
        inputs=[[0.5], [1], [1.5], [2], [2.5], [3]],
        targets=[[0], [0], [1], [0], [1], [1]],
        loss="binary_crossentropy",
        optimizer="l_bfgs",
        steps=20,
        stop={"gradient_norm_below": 0.05},
        trace={"include": ["parameters", "effective_learning_rate"]},
    ),
    "keras": Example(
        "RMSprop by the conventions of Keras, with weight decay and one frozen bias.",
        network=XOR_NETWORK,
        parameters=XOR_PARAMETERS,
        **XOR_DATA,
        loss="mean_squared_error",
        optimizer={"type": "rmsprop", "convention": "keras", "momentum": 0.9, "weight_decay": 0.01},
        frozen=["hidden.bias"],
        steps=2,
        trace={"include": ["updates", "effective_learning_rate"]},
    ),
}

COMPARE: dict[str, Example] = {
    "xor": Example(
        "Three optimizers at two learning rates each, side by side on XOR.",
        network=XOR_NETWORK,
        parameters=XOR_PARAMETERS,
        **XOR_DATA,
        loss="half_squared_error",
        optimizers=["sgd", {"type": "sgd", "momentum": 0.9, "nesterov": True}, "adam"],
        learning_rates=[0.1, 1.0],
        steps=100,
        trace={"every": 25},
    ),
    "misprint": Example(
        "RMSprop as it is meant, and as it is often misprinted.",
        network={"layers": [{"type": "dense", "name": "w", "units": 1, "use_bias": False}]},
        parameters={"w": {"kernel": [[0]]}},
        inputs=[[1]],
        targets=[[1]],
        loss="half_squared_error",
        optimizers=[
            {"type": "rmsprop", "learning_rate": 0.02},
            {"type": "rmsprop_as_printed", "learning_rate": 0.02},
        ],
        steps=4,
    ),
}

DERIVATIVES: dict[str, Example] = {
    "jacobian": Example(
        "How every output of the XOR network depends on every input.",
        network=XOR_NETWORK,
        parameters=XOR_PARAMETERS,
        inputs=XOR_DATA["inputs"],
        kind="jacobian",
        wrt="inputs",
    ),
    "hessian": Example(
        "All second derivatives of the loss by the parameters.",
        network=XOR_NETWORK,
        parameters=XOR_PARAMETERS,
        **XOR_DATA,
        loss="half_squared_error",
        kind="hessian",
    ),
    "jvp": Example(
        "How the output moves when the inputs move along three directions.",
        network=XOR_NETWORK,
        parameters=XOR_PARAMETERS,
        inputs=[[0, 1]],
        kind="jvp",
        of="outputs",
        wrt="inputs",
        vectors=[[[1, 0]], [[0, 1]], [[1, 1]]],
    ),
    "vjp": Example(
        "The parameter gradients of two samples' outputs, one pull back for each.",
        network=XOR_NETWORK,
        parameters=XOR_PARAMETERS,
        inputs=[[0, 1], [1, 1]],
        kind="vjp",
        of="outputs",
        wrt="parameters",
        vectors=[[[1], [0]], [[0], [1]]],
    ),
    "hvp": Example(
        "How the gradient changes along one direction of the parameters.",
        network=XOR_NETWORK,
        parameters=XOR_PARAMETERS,
        **XOR_DATA,
        loss="half_squared_error",
        kind="hvp",
        of="loss",
        wrt="parameters",
        vectors=[
            {
                "hidden": {"kernel": [[1, 0], [0, 0]], "bias": [0, 0]},
                "output": {"kernel": [[0], [0]], "bias": [1]},
            }
        ],
    ),
}

ROSENBROCK = "(1 - x)^2 + 100*(y - x^2)^2"
HIMMELBLAU = "(x^2 + y - 11)^2 + (x + y^2 - 7)^2"

FUNCTION_GRADIENT: dict[str, Example] = {
    "rosenbrock": Example(
        "Rosenbrock's valley at the usual start and at its minimum.",
        expression=ROSENBROCK,
        points=[[-1.2, 1], [1, 1]],
    ),
    "saddle": Example(
        "A saddle: its Hessian, its class, and slopes along two directions.",
        expression="x^2 - y^2",
        points=[[0, 0], [3, 1]],
        directions=[[1, 0], [1, 1]],
        include=["hessian"],
    ),
    "domain": Example(
        "A point outside of the domain gets an explanation in place of a value.",
        expression="log(x) + |y|",
        points=[[1, 0], [-1, 2]],
        include=[],
    ),
}

STATIONARY: dict[str, Example] = {
    "double_well": Example(
        "Two valleys and the hill between them, on a line.",
        expression="x^4 - 3x^2 + x",
        box=[-3, 3],
        starts=100,
    ),
    "himmelblau": Example(
        "Himmelblau's function: four minima, four saddles and a maximum.",
        expression=HIMMELBLAU,
        box=[[-5, 5], [-5, 5]],
    ),
}

DESCEND: dict[str, Example] = {
    "double_well": Example(
        "Two starts on a double well, each with and without momentum.",
        expression="x^4 - 3x^2 + x",
        starts=[[2], [-2]],
        optimizers=[
            {"type": "sgd", "learning_rate": 0.01},
            {"type": "momentum", "learning_rate": 0.01, "momentum": 0.9},
        ],
        steps=200,
        trace={"every": 50},
    ),
    "saddle": Example(
        "A start exactly on the ridge stays at the saddle; one beside it does not.",
        expression="x^2/2 + y^4/4 - y^2/2",
        starts=[[1, 0], [1, 0.001]],
        optimizers=[{"type": "sgd", "learning_rate": 0.1}],
        steps=200,
        trace={"every": 100},
    ),
    "too_fast": Example(
        "One learning rate below the limit that the curvature sets, and one above.",
        expression="x^2 + 10y^2",
        starts=[[1, 1]],
        optimizers=[{"type": "sgd", "learning_rate": 0.09}, {"type": "sgd", "learning_rate": 0.2}],
        steps=50,
        trace={"every": 10},
    ),
}

SURFACE: dict[str, Example] = {
    "rosenbrock": Example(
        "Values on a grid, with levels for contour lines.",
        expression=ROSENBROCK,
        x=[-2, 2],
        y=[-1, 3],
        resolution=5,
        levels=8,
    ),
    "basins": Example(
        "Which of four valleys a ball reaches from each place of the grid.",
        expression=HIMMELBLAU,
        x=[-5, 5],
        y=[-5, 5],
        resolution=6,
        basins=True,
        optimizer={"type": "sgd", "learning_rate": 0.01},
    ),
}

FIT: dict[str, Example] = {
    "three_points": Example(
        "The line through three points, in closed form and by descent.",
        points=[[1, 2], [2, 3], [3, 5]],
        optimizers=[{"type": "sgd", "learning_rate": 0.1}],
        steps=100,
        trace={"every": 50},
    ),
}


def misspelt(example: Mapping[str, Any]) -> Example:
    """Return an example in which one key is misspelt: a typical mistake, for the documentation of errors."""
    key = next((key for key in example if key.endswith("s")), max(example, key=len))
    body = {key[:-1] if name == key else name: value for name, value in example.items()}
    return Example(f"A key is misspelt: {key[:-1]} in place of {key}.", **body)
