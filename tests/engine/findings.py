"""For every finding of the table a request of `/v1/gradients/diagnose` that has it."""

import base64
from typing import Any

import numpy as np

from tests.engine.onnx import models

XOR: dict[str, Any] = {"inputs": [[0, 0], [0, 1], [1, 0], [1, 1]], "targets": [[0], [1], [1], [0]]}


def dense(units: int, activation: str = "linear", **more: Any) -> dict[str, Any]:
    return {"type": "dense", "units": units, "activation": activation, **more}


def body(*layers: dict[str, Any], loss: Any = "mean_squared_error", **more: Any) -> dict[str, Any]:
    return {"network": {"layers": list(layers)}, **XOR, "loss": loss, **more}


def normal(*shape: int, seed: int = 0, scale: float = 1.0) -> Any:
    return (scale * np.random.default_rng(seed).standard_normal(shape)).tolist()


def sequences(kind: str, steps: int, **options: Any) -> dict[str, Any]:
    layers = [{"type": kind, "units": 4, **options}, dense(1)]
    return body(*layers) | {"inputs": normal(3, steps, 2), "targets": [[1], [0], [1]]}


def trace(losses: list[float | None], norms: list[float | None] | None = None, **more: list[Any]) -> dict[str, Any]:
    steps = [{"step": place + 1, "epoch": place + 1, "loss": loss} for place, loss in enumerate(losses)]
    for name, values in (({"gradient_norm": norms} if norms else {}) | more).items():
        for step, value in zip(steps, values, strict=True):
            step[name] = value
    return {"trace": steps}


def falling(count: int, start: float = 1.0, end: float = 0.1) -> list[float]:
    return np.geomspace(start, end, count).tolist()


def line(rate: float, steps: int, kind: str = "sgd", **more: Any) -> dict[str, Any]:
    data = {"inputs": [[1], [2], [3], [4]], "targets": [[2], [4], [6], [8]]}
    training = {"optimizer": {"type": kind, "learning_rate": rate}, "steps": steps}
    return body(dense(1, name="line")) | data | training | more


FOLDED = models.model(
    [models.node("MatMul", ["x", "val_7"], ["y"])],
    [models.value("x", ["batch", 2])],
    [models.value("y", ["batch", 1])],
    {"val_7": np.float32([[0.5], [-0.25]])},
    producer_name="pytorch",
)
SMALL_KERNEL = {"kernel": [[0.5, -0.5]], "bias": [0, 0]}
DYING = {
    "network": {"layers": [dense(4, "relu", name="h"), dense(1, name="o")]},
    "parameters": {
        "h": {"kernel": [[1.0, 0.5, -0.5, 0.8]], "bias": [0.1, 0.2, 0.3, 0.4]},
        "o": {"kernel": [[1.0], [1.0], [1.0], [1.0]], "bias": [0.0]},
    },
    "inputs": [[0.5], [1.0], [1.5]],
    "targets": [[-50], [-50], [-50]],
    "loss": "mean_squared_error",
    "optimizer": {"type": "sgd", "learning_rate": 0.2},
    "steps": 6,
}

EXAMPLES: dict[str, dict[str, Any]] = {
    "constant_output": body(dense(1, "softmax")),
    "one_class": body(dense(1), loss={"type": "categorical_crossentropy", "from_logits": True}),
    "probabilities_as_logits": body(dense(1, "sigmoid"), loss={"type": "binary_crossentropy", "from_logits": True}),
    "gradient_blocked": body(dense(2, "step"), dense(1)),
    "disconnected": body(dense(2, name="a"), dense(1, name="b", inputs=["input"]))
    | {"network": {"layers": [dense(2, name="a"), dense(1, name="b", inputs=["input"])], "outputs": ["b"]}},
    "unusual_targets": body(dense(1, "sigmoid"), loss="binary_crossentropy") | {"targets": [[0], [2], [1], [0]]},
    "unreachable_targets": body(dense(1, "sigmoid")) | {"targets": [[0], [2], [1], [0]]},
    "folded_parameters": body() | {"network": {"onnx": {"base64": base64.b64encode(FOLDED).decode()}}},
    "normalize_weights": body(dense(1), sample_weights=[1, 2, 3, 4]),
    "no_probabilities": body(dense(1), loss="binary_crossentropy", seed=1),
    "no_rates": body(dense(1), loss="poisson", seed=1) | {"inputs": [[0, -9], [0, 9], [9, 0], [-9, 0]]},
    "dead_units": body(dense(4, "relu", bias_initializer={"type": "constant", "value": -9.0}), dense(1)),
    "symmetric_units": body(dense(3, "tanh", kernel_initializer="ones"), dense(1, kernel_initializer="ones")),
    "non_finite": body(dense(2, "exponential", kernel_initializer={"type": "constant", "value": 1e4}), dense(1)),
    "vanishing_gradient": body(*[dense(8, "sigmoid")] * 6, dense(1)),
    "exploding_gradient": body(
        *[dense(8, "linear", kernel_initializer={"type": "glorot_normal", "gain": 6.0})] * 6, dense(1)
    ),
    "vanishing_over_time": sequences(
        "simple_rnn", 12, recurrent_initializer={"type": "orthogonal", "gain": 0.1}, kernel_initializer="glorot_uniform"
    ),
    "exploding_over_time": sequences(
        "simple_rnn", 20, activation="linear", recurrent_initializer={"type": "orthogonal", "gain": 2.0}
    ),
    "saturated_left": body(dense(3, "tanh", bias_initializer={"type": "constant", "value": -5.0}), dense(1)),
    "saturated_right": body(dense(3, "sigmoid", bias_initializer={"type": "constant", "value": 9.0}), dense(1)),
    "mean_shift": body(dense(3, "sigmoid"), dense(1)),
    "learning_slowdown": body(dense(1, "sigmoid", bias_initializer={"type": "constant", "value": 6.0})),
    "zero_gradient": body(dense(3, "tanh"), dense(1, kernel_initializer="zeros")),
    "badly_scaled_inputs": body(dense(3, "tanh"), dense(1))
    | {"inputs": [[0.1, 3000], [0.4, 12], [0.3, 900], [0.8, 2]]},
    "large_inputs": body(dense(3, "tanh"), dense(1)) | {"inputs": normal(4, 2, scale=100.0)},
    "scale_mismatch": body(
        dense(2, kernel_initializer={"type": "constant", "value": 1e-6}),
        dense(1, kernel_initializer={"type": "uniform", "minimum": 1.0, "maximum": 2.0}),
    ),
    "flat_loss": {
        "network": {"layers": [dense(1, name="o")]},
        "parameters": {"o": {"kernel": [[0.0], [0.0]], "bias": [0.5]}},
        **XOR,
        "loss": "mean_squared_error",
    },
    "full_batch": line(0.01, 4, kind="rprop", batch_size=2),
    "loss_grew": line(0.15, 12),
    "diverged": line(0.5, 60),
    "loss_rose": trace([*falling(30), *falling(30, 0.1, 0.9)]),
    "plateau": trace([1.0 - 1e-5 * place for place in range(120)]),
    "passed_plateau": trace([1.0] * 60 + falling(60)),
    "gradient_vanished": trace([1.0] * 20, [1.0] * 10 + [1e-9] * 10),
    "gradient_spike": trace(falling(20), [1.0] * 10 + [1e3] + [1.0] * 9),
    "units_died": DYING,
    "updates_too_large": line(0.5, 8),
    "updates_too_small": line(1e-10, 8),
    "learning_rate_too_large": line(0.2, 20),
    "oscillation": trace([1.0, 0.5] * 20),
    "overfitting": trace(falling(20), validation_loss=[*falling(10), *falling(10, 0.1, 0.5)]),
}
