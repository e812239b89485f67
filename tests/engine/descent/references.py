"""Rules of optimizers that neither PyTorch nor Keras has, written once more with plain numbers from their papers.

A reference has the name of its optimizer. It takes the gradient of one number, its memory of that number (a dictionary
that is empty before the first step), the step counted from 1, and the options. It returns what is to be subtracted from
the number. `test_optimizers.py` compares the optimizer with it, with each option off its default.
"""

import math
from collections.abc import Callable
from typing import Any

Memory = dict[str, float]


def signum(gradient: float, memory: Memory, step: int, *, learning_rate: float, beta: float) -> float:
    """The optimizer that CONTRIBUTING.md adds. Bernstein et al. 2018, arXiv:1802.04434, algorithm 1."""
    mean = memory["mean"] = beta * memory.get("mean", 0.0) + (1.0 - beta) * gradient
    return learning_rate * (math.copysign(1.0, mean) if mean else 0.0)


REFERENCES: dict[str, Callable[..., Any]] = {each.__name__: each for each in (signum,)}
