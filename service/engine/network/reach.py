"""The numbers that an activation can give: targets beyond them are out of reach."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np

from service.engine.arrays import Array
from service.engine.declarations import Selection
from service.engine.graph.interpreter import interpret
from service.engine.graph.ir import Graph
from service.engine.network.activations import Activation

FAR = 100.0
"""An activation that gives numbers beyond this is taken to have no bound on that side."""
_LARGE = np.logspace(-6, 300, 4000)
PROBES: Array = np.concatenate((-_LARGE, np.linspace(-10.0, 10.0, 4001), _LARGE))
"""Pre-activations at which an activation is tried."""


def reach(activation: Selection[Activation]) -> tuple[float, float]:
    """Return the least and the greatest number that an activation gives; infinity where it has no bound."""
    if activation.declaration.parameters:  # training changes them
        return -math.inf, math.inf
    return _reach(activation.declaration, tuple(activation.options.items()))


@lru_cache(maxsize=256)
def _reach(declaration: Activation, options: tuple[tuple[str, Any], ...]) -> tuple[float, float]:
    x = PROBES[:, None]
    if declaration.acts_on == "row":
        zero = np.zeros_like(x)
        x = np.concatenate((np.concatenate((x, zero), 1), np.concatenate((zero, x), 1)))
    with Graph("float64") as graph, np.errstate(all="ignore"):
        node = graph.input("x", x.shape)
        given = declaration.build(node, **dict(options))
        values = interpret([given], {node: x})[given]
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    return (low if low > -FAR else -math.inf), (high if high < FAR else math.inf)
