"""Runs of NumPy without its floating-point warnings: answers say themselves which numbers are not finite."""

from __future__ import annotations

import contextvars
import functools
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


def ignoring_float_warnings(function: Callable[P, R]) -> Callable[P, R]:
    """Return the function so that it ignores all floating-point warnings. A decorator."""

    @functools.wraps(function)
    def quiet(*args: P.args, **kwargs: P.kwargs) -> R:
        return without_float_warnings(function, *args, **kwargs)

    return quiet
