"""Record Keras's schedules, for tests/engine/descent/test_schedules.py.

    KERAS_BACKEND=jax JAX_ENABLE_X64=1 python scripts/record_keras_schedules.py

Needs keras 3.15 and jax, which are in none of the extras.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import keras
import numpy as np
from keras.optimizers import schedules
from keras.src import ops
from recording import write

COUNTS = 60

SCHEDULES: dict[str, tuple[Callable[..., Any], list[dict[str, Any]]]] = {
    "exponential": (
        lambda base, gamma, **options: schedules.ExponentialDecay(base, decay_rate=gamma, **options),
        [
            {"gamma": 0.5, "decay_steps": 10},
            {"gamma": 0.25, "decay_steps": 7, "staircase": True},
            {"gamma": 1.5, "decay_steps": 9},
        ],
    ),
    "inverse_time": (
        schedules.InverseTimeDecay,
        [
            {"decay_steps": 10, "decay_rate": 0.5},
            {"decay_steps": 7, "decay_rate": 2.0, "staircase": True},
            {"decay_steps": 1, "decay_rate": 0.0},
        ],
    ),
    "polynomial": (
        schedules.PolynomialDecay,
        [
            {"decay_steps": 40, "end_learning_rate": 0.0001},
            {"decay_steps": 40, "end_learning_rate": 0.1, "power": 0.5},
            {"decay_steps": 9, "end_learning_rate": 0.02, "power": 2.0, "cycle": True},
            {"decay_steps": 9, "end_learning_rate": 0.75, "cycle": True},
        ],
    ),
    "cosine": (
        lambda base, stay, **options: schedules.CosineDecay(base, **options),
        [{"decay_steps": 50, "stay": True}, {"decay_steps": 31, "alpha": 0.1, "stay": True}],
    ),
    "cosine_restarts": (
        schedules.CosineDecayRestarts,
        [
            {"first_decay_steps": 8, "t_mul": 2.0},
            {"first_decay_steps": 7, "t_mul": 1.0, "m_mul": 0.5, "alpha": 0.05},
            {"first_decay_steps": 10, "t_mul": 1.5, "m_mul": 0.8},
            {"first_decay_steps": 5, "t_mul": 2.0, "m_mul": 1.25, "alpha": 0.2},
        ],
    ),
    "piecewise_constant": (
        lambda base, boundaries, values: schedules.PiecewiseConstantDecay(boundaries, values),
        [
            {"boundaries": [10, 30], "values": [1.0, 0.5, 0.1]},
            {"boundaries": [0], "values": [0.25, 0.75]},
            {"boundaries": [1, 2, 58, 70], "values": [0.1, 0.2, 0.3, 0.4, 0.5]},
        ],
    ),
    "constant": (
        lambda base, warmup_steps, warmup_start: schedules.CosineDecay(
            warmup_start * base, 1, alpha=1.0, warmup_target=base, warmup_steps=warmup_steps
        ),
        [{"warmup_steps": 17, "warmup_start": 0.25}],
    ),
}


def main() -> None:
    keras.config.set_floatx("float64")
    # Keras's own take float64 and give float32 on all backends but TensorFlow.
    ops.cos, ops.log = jnp.cos, jnp.log
    records = []
    for name, (made, choices) in SCHEDULES.items():
        for options in choices:
            schedule = made(0.5, **options)
            rates = [np.asarray(schedule(np.int64(count))) for count in range(COUNTS)]
            assert all(rate.dtype == np.float64 for rate in rates), "set JAX_ENABLE_X64"
            records.append({"name": name, "options": options, "base": 0.5, "rates": [float(rate) for rate in rates]})
    write("keras/schedules.json", "records", records, keras=keras.__version__)


if __name__ == "__main__":
    main()
