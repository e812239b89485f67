"""Record what Keras's optimizers do, for tests/engine/descent/test_optimizers.py.

    OPENBLAS_NUM_THREADS=1 python scripts/record_keras_optimizers.py

Needs `pip install keras==3.15.1 jax`. As in record_pytorch_optimizers.py, every optimizer descends on one small
nonlinear function in float64; the names of the options are the service's, which are Keras's.

Keras has neither ascent nor coupled decay: its optimizers are given the gradient with the other sign, or with the decay
in it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

os.environ["KERAS_BACKEND"] = "jax"

import jax
import jax.numpy as jnp
import keras
from recording import write

START = [0.9, -0.6, 0.4, 1.3, -1.1, 0.2, 0.7]
RECORDED = (1, 2, 3, 10, 40)

OPTIMIZERS: dict[str, tuple[type[keras.optimizers.Optimizer], dict[str, Any]]] = {
    "sgd": (keras.optimizers.SGD, {}),
    "adagrad": (keras.optimizers.Adagrad, {}),
    "rmsprop": (keras.optimizers.RMSprop, {}),
    "adadelta": (keras.optimizers.Adadelta, {}),
    "adam": (keras.optimizers.Adam, {}),
    "amsgrad": (keras.optimizers.Adam, {"amsgrad": True}),
    "adamw": (keras.optimizers.AdamW, {}),
    "adamax": (keras.optimizers.Adamax, {}),
    "nadam": (keras.optimizers.Nadam, {}),
    "lion": (keras.optimizers.Lion, {}),
}

COMMON: list[dict[str, Any]] = [
    {"weight_decay": 0.1},
    {"weight_decay": 0.1, "decoupled_weight_decay": False},
    {"maximize": True},
]
MOMENTS: list[dict[str, Any]] = [
    {},
    {"learning_rate": 0.05},
    {"learning_rate": 0.05, "beta_1": 0.8, "beta_2": 0.95},
    {"learning_rate": 0.05, "epsilon": 0.01},
    *COMMON,
]

CHOICES: dict[str, list[dict[str, Any]]] = {
    "sgd": [
        {},
        {"learning_rate": 0.1, "momentum": 0.9},
        {"learning_rate": 0.1, "momentum": 0.9, "nesterov": True},
        {"learning_rate": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
        *COMMON,
    ],
    "adagrad": [
        {},
        {"learning_rate": 0.1},
        {"learning_rate": 0.1, "initial_accumulator_value": 0.5},
        {"learning_rate": 0.1, "epsilon": 0.01},
        *COMMON,
    ],
    "rmsprop": [
        {},
        {"learning_rate": 0.01, "rho": 0.95},
        {"learning_rate": 0.01, "epsilon": 0.01},
        {"learning_rate": 0.01, "momentum": 0.9},
        {"learning_rate": 0.01, "centered": True},
        {"learning_rate": 0.01, "centered": True, "momentum": 0.9, "weight_decay": 0.1},
        *COMMON,
    ],
    "adadelta": [{}, {"learning_rate": 1.0}, {"learning_rate": 1.0, "rho": 0.9}, {"epsilon": 0.001}, *COMMON],
    "adam": [*MOMENTS, {"learning_rate": 0.05, "amsgrad": True, "beta_2": 0.9}],
    "amsgrad": MOMENTS,
    "adamw": [*MOMENTS, {"learning_rate": 0.05, "amsgrad": True, "beta_2": 0.9, "weight_decay": 0.3}],
    "adamax": MOMENTS,
    "nadam": MOMENTS,
    "lion": [
        {},
        {"learning_rate": 0.01},
        {"learning_rate": 0.01, "beta_1": 0.5},
        {"learning_rate": 0.01, "beta_2": 0.8},
        *({"learning_rate": 0.01} | options for options in COMMON),
    ],
}


def objective(x: jax.Array) -> jax.Array:
    """Compute a loss that couples six numbers, each drawn to a sine of the one before; the seventh has no effect."""
    return 0.25 * ((x[1:6] - jnp.sin(2.0 * x[:5])) ** 2).sum()


def descend(name: str, options: Mapping[str, Any]) -> dict[str, list[float]]:
    kind, preset = OPTIMIZERS[name]
    given = preset | dict(options)
    sign = -1.0 if given.pop("maximize", False) else 1.0
    around = 0.0 if given.pop("decoupled_weight_decay", True) else given.pop("weight_decay")
    if around and kind is keras.optimizers.AdamW:
        kind = keras.optimizers.Adam  # the other insists on a decay of its own
    optimizer = kind(**given)
    x = keras.Variable(START, dtype="float64")
    optimizer.build([x])
    gradient = jax.grad(objective)
    recorded: dict[str, list[float]] = {}
    for step in range(1, RECORDED[-1] + 1):
        optimizer.apply([sign * gradient(x.value) + around * x.value], [x])
        if step in RECORDED:
            recorded[str(step)] = x.value.tolist()
    return recorded


def defaults(name: str) -> dict[str, Any]:
    """Return Keras's defaults for the service's options of an optimizer."""
    kind, preset = OPTIMIZERS[name]
    options = {key for choice in CHOICES[name] for key in choice} - set(preset)
    config = kind().get_config()
    return {key: config[key] or 0.0 for key in sorted(options & set(config))}


def main() -> None:
    jax.config.update("jax_enable_x64", True)
    keras.config.set_floatx("float64")
    records = [
        {"optimizer": name, "options": options, "parameters": descend(name, options)}
        for name, choices in CHOICES.items()
        for options in choices
    ]
    source = f"Keras {keras.__version__}, JAX {jax.__version__}"
    told = {name: defaults(name) for name in OPTIMIZERS}
    write("keras/optimizers.json", "records", records, source=source, start=START, defaults=told)


if __name__ == "__main__":
    main()
