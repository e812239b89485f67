"""Runs of NumPy without its floating-point warnings: answers say themselves which numbers are not finite."""

from __future__ import annotations

import contextvars
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import numpy as np

P = ParamSpec("P")
R = TypeVar("R")

# NumPy keeps its error state in a context variable. Entering a context that has it set costs a
# quarter of what np.errstate does, which a tiny run would feel.
_WITHOUT_WARNINGS = contextvars.Context()
_WITHOUT_WARNINGS.run(np.seterr, all="ignore")


def without_float_warnings(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Call `function(*args, **kwargs)` with all floating-point warnings ignored."""
    return _WITHOUT_WARNINGS.copy().run(function, *args, **kwargs)
